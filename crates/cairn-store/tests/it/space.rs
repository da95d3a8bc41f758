//! Space that comes back: dead payloads, compaction, files of removed segments that are used again.

use crate::sim_disk::{Faults, SimDisk};
use crate::support::*;
use cairn_store::{Cause, Durability, PutError, ReadError, Store, StoreOptions};
use std::sync::Arc;

const PAGE: usize = 4096;
/// Five records of this length fill a segment.
const LEN: usize = 200_000;
const RECORD: usize = PAGE + 200_704;
const SEGMENT_1: &str = "segments/00000001.seg";

/// Five blocks in each of `segments` segments, and one in the active one behind them.
fn filled(segments: u32, options: StoreOptions) -> (Arc<SimDisk>, Store) {
    let disk = SimDisk::new();
    let (store, _) = open(&disk, options);
    for n in 0..=segments * 5 {
        put_durable(&store, n, LEN);
    }
    assert_eq!(disk.segments().len() as u32, segments + 1);
    (disk, store)
}

fn check(store: &Store, live: impl IntoIterator<Item = u32>, of: u32) {
    let live: Vec<u32> = live.into_iter().collect();
    for n in 0..of {
        match read(store, key(n)) {
            Ok(bytes) => assert!(live.contains(&n) && bytes == content(n, LEN), "block {n}"),
            Err(ReadError::NotFound { .. }) => assert!(!live.contains(&n), "block {n} is gone"),
            Err(error) => panic!("block {n}: {error}"),
        }
    }
}

/// Two records in a segment made from a used file, behind four in the one before; the checkpoint is before those.
fn in_a_used_file(reach_step: u64) -> (Arc<SimDisk>, Store) {
    let (disk, store) = filled(2, StoreOptions { reach_step, ..manual() });
    delete(&store, (0..5).map(key).collect()).unwrap();
    store.maintain();
    store.checkpoint();
    for n in 20..26 {
        put_durable(&store, n, LEN);
    }
    assert_eq!(store.counts().recycled_segments, 1);
    (disk, store)
}

#[test]
fn an_opening_reads_a_used_file_as_far_as_it_may_have_been_written() {
    let (step, far) = (RECORD as u64, 1 << 40);
    for (reach_step, read) in [(step, 4 + 3), (far, 4 + 5)] {
        let (disk, store) = in_a_used_file(reach_step);
        disk.crash(&mut fastrand::Rng::with_seed(1));
        drop(store);
        let (store, report) = open(&disk, StoreOptions { reach_step, ..manual() });
        assert_eq!((report.scanned_records, report.scanned_bytes), (6, read * step), "{reach_step}");
        assert!(!report.is_damaged() && report.torn_bytes == 0, "{report:?}");
        check(&store, (5..=10).chain(20..26), 30);
        // The log goes on in the same segment, whose bound still holds: nothing behind it may be overlooked.
        for n in 26..29 {
            put_durable(&store, n, LEN);
        }
        assert_eq!(disk.segments().len(), 3);
        disk.crash(&mut fastrand::Rng::with_seed(2));
        drop(store);
        let (store, _) = open(&disk, StoreOptions { reach_step, ..manual() });
        check(&store, (5..=10).chain(20..29), 30);
    }
}

#[test]
fn a_damaged_note_of_the_reach_is_not_believed() {
    let step = RECORD as u64;
    for slot in [0, PAGE] {
        let (disk, store) = in_a_used_file(step);
        disk.crash(&mut fastrand::Rng::with_seed(1));
        drop(store);
        disk.tamper("reach", |bytes| bytes[slot + 40] ^= 1);
        let (store, report) = open(&disk, StoreOptions { reach_step: step, ..manual() });
        assert_eq!((report.scanned_records, report.scanned_bytes), (6, 9 * step), "all of it is read");
        assert_eq!(disk.segments().len(), 4, "and the log goes on elsewhere");
        check(&store, (5..=10).chain(20..26), 30);
        for n in 26..29 {
            put_durable(&store, n, LEN);
        }
        disk.crash(&mut fastrand::Rng::with_seed(2));
        drop(store);
        let (store, _) = open(&disk, StoreOptions { reach_step: step, ..manual() });
        check(&store, (5..=10).chain(20..29), 30);
    }
}

#[test]
fn where_the_reach_cannot_be_noted_a_segment_ends_early() {
    let step = RECORD as u64;
    let (disk, store) = in_a_used_file(step);
    // Two records are in the segment and a third fits within the bound. The file is gone, and cannot be made anew.
    assert!(disk.names().contains(&"reach".to_owned()));
    disk.faults(|faults| faults.fail_writes_of = Some("reach".to_owned()));
    for n in 26..29 {
        put_durable(&store, n, LEN);
    }
    assert_eq!(disk.segments().len(), 4, "the third one and its successors stand in a new segment");
    disk.faults(|faults| *faults = Faults::default());
    disk.crash(&mut fastrand::Rng::with_seed(1));
    drop(store);
    let (store, _) = open(&disk, StoreOptions { reach_step: step, ..manual() });
    check(&store, (5..=10).chain(20..29), 30);
}

#[test]
fn the_file_of_a_dead_segment_is_used_again_and_its_old_records_mean_nothing() {
    let (disk, store) = filled(2, manual());
    delete(&store, (0..5).map(key).collect()).unwrap();
    store.maintain();
    assert_eq!(store.counts().punched_bytes, 0, "its space is worth more written than given back");
    store.checkpoint();
    assert_eq!((disk.segments().len(), disk.recycled()), (2, vec!["segments/00000001.free".to_owned()]));
    assert_eq!(store.counts().recycled_bytes, (PAGE + 5 * RECORD) as u64);
    // The active segment is filled and the next one made.
    for n in 20..26 {
        put_durable(&store, n, LEN);
    }
    assert_eq!((store.counts().recycled_segments, disk.recycled().len()), (1, 0));
    let file = disk.contents("segments/00000004.seg").unwrap();
    assert_eq!(file.len(), PAGE + 5 * RECORD, "as long as before");
    let live = || (5..=10).chain(20..26);
    check(&store, live(), 30);
    for vanish in [false, true] {
        let other = disk.duplicate();
        other.crash(&mut fastrand::Rng::with_seed(1));
        if vanish {
            other.vanish("checkpoint");
        }
        let (store, report) = open(&other, manual());
        assert_eq!((report.torn_bytes, report.skipped_count, report.quarantined_count), (0, 0, 0), "{report:?}");
        check(&store, live(), 30);
        assert_eq!(other.contents("segments/00000004.seg").unwrap().len(), PAGE + 2 * RECORD, "cut behind its records");
        put_durable(&store, 28, LEN);
        check(&store, live().chain([28]), 30);
    }
    drop(store);
    assert_eq!(disk.contents("segments/00000004.seg").unwrap().len(), PAGE + 2 * RECORD, "cut when closed");
    let (store, report) = open(&disk, manual());
    assert_eq!((report.scanned_bytes, report.is_damaged()), (0, false), "nothing is looked for there");
    check(&store, live(), 30);
}

#[test]
fn a_sealed_segment_is_as_long_as_its_records_whatever_its_file_was() {
    let (disk, store) = filled(1, manual());
    delete(&store, (0..5).map(key).collect()).unwrap();
    store.checkpoint();
    for n in 20..25 {
        put_durable(&store, n, LEN);
    }
    // One large record does not fit behind a small one: the used-again segment is sealed half empty.
    put_durable(&store, 30, 10);
    put_durable(&store, 31, 1 << 20);
    let sealed = disk.contents("segments/00000003.seg").unwrap().len();
    assert!(sealed < PAGE + 2 * RECORD, "{sealed}");
    disk.vanish("checkpoint");
    disk.crash(&mut fastrand::Rng::with_seed(1));
    drop(store);
    let (_, report) = open(&disk, manual());
    assert_eq!(report.skipped, []);
}

#[test]
fn what_waits_for_reuse_survives_a_restart_and_is_bounded() {
    let (disk, store) = filled(8, manual());
    delete(&store, (0..40).map(key).collect()).unwrap();
    store.checkpoint();
    assert_eq!((disk.segments().len(), disk.recycled().len()), (1, 4));
    drop(store);
    let other = open(&SimDisk::new(), StoreOptions { entropy: entropy(77), ..manual() }).0;
    drop(other);
    // Half made into a new segment when the machine stopped.
    disk.tamper(&disk.recycled()[0].clone(), |bytes| bytes[..PAGE].fill(7));
    let (store, report) = open(&disk, manual());
    assert!(!report.is_damaged());
    assert_eq!((disk.recycled().len(), store.counts().recycled_bytes), (3, 3 * (PAGE + 5 * RECORD) as u64));
    for n in 0..10 {
        put_durable(&store, n, LEN);
    }
    assert_eq!(disk.recycled().len(), 1);
}

#[test]
fn a_file_of_another_store_is_never_used() {
    let (other, store) = filled(1, StoreOptions { entropy: entropy(99), ..manual() });
    drop(store);
    let foreign = other.contents(SEGMENT_1).unwrap();
    let (disk, store) = filled(1, manual());
    drop(store);
    disk.plant("segments/00000009.free", foreign.clone());
    let (store, report) = open(&disk, manual());
    assert_eq!(report.foreign_files, ["segments/00000009.free"]);
    for n in 20..40 {
        put_durable(&store, n, LEN);
    }
    assert_eq!(disk.contents("segments/00000009.free").unwrap(), foreign);
}

#[test]
fn a_block_does_not_change_under_its_reader() {
    let (disk, store) = filled(1, manual());
    let held = store.read(key(2)).unwrap();
    delete(&store, (0..5).map(key).collect()).unwrap();
    store.checkpoint();
    assert_eq!(disk.recycled().len(), 1);
    for n in 20..30 {
        put_durable(&store, n, LEN);
    }
    assert_eq!(disk.recycled().len(), 1, "its file waits for the reader");
    assert_eq!(held.read_at(0, LEN as u32).unwrap(), content(2, LEN));
    drop(held);
    for n in 30..35 {
        put_durable(&store, n, LEN);
    }
    assert_eq!(disk.recycled().len(), 0);
}

#[test]
fn a_tight_disk_gets_everything_back() {
    let capacity = 16 << 20;
    let (disk, store) = filled(4, StoreOptions { capacity_bytes: Some(capacity), ..manual() });
    delete(&store, (0..5).chain([6, 11, 16]).map(key).collect()).unwrap();
    store.checkpoint();
    let counts = store.counts();
    assert_eq!(
        (counts.recycled_bytes, counts.dead_bytes),
        ((PAGE + 5 * RECORD) as u64, 0),
        "a sixteenth is kept, at most"
    );
    let free = store.usage().free_bytes;
    let mut stored = 100;
    while put(&store, put_of(key(stored), content(stored, LEN), Durability::Durable)).is_ok() {
        stored += 1;
    }
    let taken = u64::from(stored - 100) * RECORD as u64;
    assert!(taken <= free && free - taken < 2 * RECORD as u64, "{free} bytes were promised, {taken} taken");
    assert!(disk.allocated() <= capacity, "{} bytes on the disk", disk.allocated());
    assert_eq!((store.counts().recycled_bytes, store.counts().dead_bytes), (0, 0));
    delete(&store, vec![key(100)]).unwrap();
    put_durable(&store, 100, LEN);
}

#[test]
fn compaction_moves_what_lives_and_frees_the_rest() {
    let options = || StoreOptions { compact_below_percent: 50, ..manual() };
    let (disk, store) = filled(4, options());
    // Two of five live in each of the first three segments; the fourth is mostly alive.
    let dead = |n: u32| n < 15 && n % 5 > 1 || n == 17;
    delete(&store, (0..20).filter(|n| dead(*n)).map(key).collect()).unwrap();
    let held = store.read(key(1)).unwrap();
    store.maintain();
    store.checkpoint();
    let counts = store.counts();
    assert_eq!((counts.compacted_segments, counts.moved_blocks, counts.moved_bytes), (3, 6, 6 * LEN as u64));
    assert!(counts.removed_segments == 3, "{counts:?}");
    assert_eq!(held.read_at(0, LEN as u32).unwrap(), content(1, LEN), "whoever reads the old file goes on");
    let live = || (0..=20).filter(|n| !dead(*n));
    check(&store, live(), 21);
    let block = store.read(key(1)).unwrap();
    assert_eq!((block.pg(), block.pg_epoch().0, block.file_offset_hint()), (PG, 3, 42), "the same record elsewhere");
    for vanish in [false, true] {
        let other = disk.duplicate();
        other.crash(&mut fastrand::Rng::with_seed(1));
        if vanish {
            other.vanish("checkpoint");
        }
        let (store, report) = open(&other, options());
        assert_eq!(report.quarantined_count + report.skipped_count, 0, "{report:?}");
        check(&store, live(), 21);
    }
}

#[test]
fn compaction_finds_damage_and_does_not_copy_it() {
    let (disk, store) = filled(1, StoreOptions { compact_below_percent: 50, ..manual() });
    delete(&store, vec![key(0), key(1), key(2)]).unwrap();
    disk.tamper(SEGMENT_1, |bytes| bytes[PAGE + 3 * RECORD + PAGE + 70_000] ^= 1);
    store.maintain();
    let bad: Vec<_> = store.quarantined().into_iter().map(|block| (block.key, block.cause)).collect();
    assert_eq!(bad, [(key(3), Cause::Payload)]);
    assert_eq!((store.counts().moved_blocks, store.counts().compacted_segments), (1, 0));
    assert!(disk.segments().contains(&SEGMENT_1.to_owned()), "it stays until the block is repaired");
    put_durable(&store, 3, LEN);
    store.checkpoint();
    assert!(!disk.segments().contains(&SEGMENT_1.to_owned()));
    check(&store, [3, 4, 5], 6);
}

#[test]
fn tombstones_are_carried_along_while_the_put_is_there() {
    let options = || StoreOptions { compact_below_percent: 50, recycle_bytes: Some(0), ..manual() };
    let (disk, store) = filled(1, options());
    // A tombstone for the first segment, in the second, which then dies as a whole.
    delete(&store, vec![key(1)]).unwrap();
    for n in 6..12 {
        put_durable(&store, n, LEN);
    }
    delete(&store, (5..10).map(key).collect()).unwrap();
    store.maintain();
    store.checkpoint();
    assert_eq!(disk.segments().len(), 2, "{:?}", disk.segments());
    assert!(disk.segments().contains(&SEGMENT_1.to_owned()));
    drop(store);
    disk.vanish("checkpoint");
    let (store, _) = open(&disk, options());
    check(&store, [0, 2, 3, 4, 10, 11], 12);
    // Stored again, the block must outlive its old tombstone.
    put_durable(&store, 1, LEN);
    for n in 20..25 {
        put_durable(&store, n, LEN);
    }
    delete(&store, [10, 11, 20, 21, 22, 23].map(key).to_vec()).unwrap();
    store.maintain();
    store.checkpoint();
    drop(store);
    disk.vanish("checkpoint");
    let (store, _) = open(&disk, options());
    check(&store, [0, 1, 2, 3, 4, 24], 25);
}

#[test]
fn power_may_fail_at_any_point_of_compaction_and_removal() {
    let options = || StoreOptions { compact_below_percent: 90, ..manual() };
    let pristine = {
        let (disk, store) = filled(3, options());
        delete(&store, [0, 1, 2, 5, 6, 11, 12].map(key).to_vec()).unwrap();
        disk.crash(&mut fastrand::Rng::with_seed(0));
        drop(store);
        disk
    };
    let mut changes = 0;
    loop {
        for seed in 0..4 {
            let disk = pristine.duplicate();
            let mut rng = fastrand::Rng::with_seed(changes * 10 + seed);
            let (store, _) = open(&disk, options());
            disk.faults(|faults| faults.power_for = Some(changes));
            store.maintain();
            store.checkpoint();
            let ended = store.counts().removed_segments > 0 && store.usage().poisoned.is_none();
            if seed == 3 {
                disk.faults(|faults| *faults = Faults::default());
                disk.kill();
            } else {
                disk.crash(&mut rng);
            }
            drop(store);
            if seed == 2 {
                disk.vanish("checkpoint");
            }
            let (store, _) = open(&disk, options());
            check(&store, [3, 4, 7, 8, 9, 10, 13, 14, 15], 16);
            assert_eq!(store.quarantined(), [], "after {changes} changes, seed {seed}");
            if ended && seed == 3 {
                assert!(changes > 8, "{changes}");
                return;
            }
        }
        changes += 1;
    }
}

#[test]
fn compaction_leaves_the_reserve_alone() {
    let options = StoreOptions {
        capacity_bytes: Some(3_000_000),
        reserve_bytes: Some(500_000),
        compact_below_percent: 90,
        ..manual()
    };
    let disk = SimDisk::new();
    let (store, _) = open(&disk, options);
    let mut stored = 0;
    let refused = loop {
        match put(&store, put_of(key(stored), content(stored, LEN), Durability::Durable)) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, PutError::NoSpace(_)));
    for n in 0..stored {
        if n % 5 != 4 {
            delete(&store, vec![key(n)]).unwrap();
        }
        store.maintain();
        let usage = store.usage();
        assert!(usage.used_bytes <= 2_500_000 + 10 * PAGE as u64, "{usage:?}");
        assert!(disk.allocated() <= 2_500_000 + 20 * PAGE as u64, "{}", disk.allocated());
    }
    check(&store, (0..stored).filter(|n| n % 5 == 4), stored);
    put_durable(&store, 100, LEN);
}

#[test]
fn dead_payloads_are_found_again_after_a_restart() {
    let (disk, store) = filled(2, StoreOptions { compact_below_percent: 0, ..manual() });
    delete(&store, vec![key(0), key(1), key(6)]).unwrap();
    drop(store);
    let full = disk.allocated();
    // Nobody remembers where the dead payloads are, and now nothing may be kept.
    let tight = StoreOptions { compact_below_percent: 0, recycle_bytes: Some(0), ..manual() };
    let (store, _) = open(&disk, tight);
    store.maintain();
    assert_eq!(full - disk.allocated(), 3 * 200_704);
    assert_eq!(store.counts().punched_bytes, 3 * 200_704);
    check(&store, [2, 3, 4, 5, 7, 8, 9, 10], 11);
}

#[test]
fn a_bad_sector_is_a_damaged_block_and_a_dead_disk_is_not() {
    let (disk, store) = filled(1, manual());
    disk.faults(|faults| faults.bad_sector = Some((SEGMENT_1.into(), (PAGE + 2 * RECORD + PAGE + 99_999) as u64)));
    let found = store.verify(key(2));
    assert!(matches!(found, Err(ReadError::Corrupt { cause: Cause::Unreadable, .. })), "{found:?}");
    assert_eq!((store.quarantined().len(), store.counts().read_errors), (1, 1));
    disk.faults(|faults| (faults.bad_sector, faults.fail_reads_of) = (None, Some(SEGMENT_1.into())));
    assert!(matches!(store.verify(key(1)), Err(ReadError::Io { .. })));
    assert_eq!((store.quarantined().len(), store.counts().read_errors), (1, 2));
    disk.faults(|faults| faults.fail_reads_of = None);
    put_durable(&store, 2, LEN);
    check(&store, 0..6, 6);
}
