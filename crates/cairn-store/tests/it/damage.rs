//! What somebody or something else did to the files: every defect is survived, reported with the blocks it hit, and
//! never served.

use crate::sim_disk::SimDisk;
use crate::support::*;
use cairn_proto::limits::CHUNK_LEN;
use cairn_store::{BlockKey, Cause, Durability, OpenError, OpenReport, ReadError, SkippedRegion, Store};
use std::sync::{Arc, LazyLock};

const PAGE: usize = 4096;

/// Ten blocks of three chunks in a sealed segment and an active one, closed cleanly.
fn filled() -> Arc<SimDisk> {
    static FILLED: LazyLock<Arc<SimDisk>> = LazyLock::new(|| fill(|_, store| drop(store)));
    FILLED.duplicate()
}

/// The same, with power lost after the last acknowledgement: the checkpoint is the empty store's.
fn filled_and_crashed() -> Arc<SimDisk> {
    static CRASHED: LazyLock<Arc<SimDisk>> = LazyLock::new(|| {
        fill(|disk, store| {
            disk.crash(&mut fastrand::Rng::with_seed(1));
            drop(store);
        })
    });
    CRASHED.duplicate()
}

fn fill(end: impl FnOnce(&SimDisk, Store)) -> Arc<SimDisk> {
    let disk = SimDisk::new();
    let (store, _) = open(&disk, manual());
    for n in 0..10 {
        put_durable(&store, n, 200_000);
    }
    assert_eq!(disk.segments(), [SEGMENT_1, SEGMENT_2]);
    end(&disk, store);
    disk
}

const RECORD: usize = PAGE + 200_704;
const SEGMENT_1: &str = "segments/00000001.seg";
const SEGMENT_2: &str = "segments/00000002.seg";

/// Offset of block n's record in its segment: five records a segment.
fn record(n: usize) -> usize {
    PAGE + (n % 5) * RECORD
}

fn flip(disk: &SimDisk, name: &str, at: usize) {
    disk.tamper(name, |bytes| bytes[at] ^= 0x40);
}

fn causes(report: &OpenReport) -> Vec<(BlockKey, Cause)> {
    report.quarantined.iter().map(|block| (block.key, block.cause)).collect()
}

/// All blocks but the named ones are served intact; those are not, and a new put brings them back.
fn check_others_and_repair(store: &Store, damaged: &[u32]) {
    for n in 0..10 {
        if damaged.contains(&n) {
            assert!(read(store, key(n)).is_err(), "block {n}");
            put_durable(store, n, 200_000);
        }
        assert_eq!(read(store, key(n)).unwrap(), content(n, 200_000), "block {n}");
    }
    assert_eq!(store.quarantined(), []);
}

#[test]
fn a_flipped_byte_in_a_payload_is_found_by_the_reader_and_repaired() {
    let disk = filled();
    flip(&disk, SEGMENT_1, record(3) + PAGE + CHUNK_LEN as usize + 17);
    let (store, report) = open(&disk, manual());
    assert!(!report.is_damaged(), "a clean close is not verified again");
    let block = store.read(key(3)).unwrap();
    assert!(block.read_at(0, 200_000).is_ok(), "unverified");
    let found = store.verify(key(3));
    assert!(matches!(found, Err(ReadError::Corrupt { cause: Cause::Payload, chunk: Some(1), .. })), "{found:?}");
    assert!(matches!(store.read(key(3)), Err(ReadError::Quarantined { cause: Cause::Payload, .. })));
    assert_eq!(store.quarantined().len(), 1);
    drop(store);
    let (store, _) = open(&disk, manual());
    assert_eq!(store.quarantined()[0].key, key(3), "the quarantine outlives a clean restart");
    check_others_and_repair(&store, &[3]);
    drop(store);
    // Also without a checkpoint the good record wins.
    disk.vanish("checkpoint");
    let (store, _) = open(&disk, manual());
    check_others_and_repair(&store, &[]);
}

#[test]
fn a_deleted_block_stays_deleted_also_when_it_was_replaced_before() {
    let disk = filled();
    let (store, _) = open(&disk, manual());
    store.quarantine(key(3), Cause::Payload);
    put_durable(&store, 3, 200_000);
    delete(&store, vec![key(3)]).unwrap();
    drop(store);
    disk.vanish("checkpoint");
    let (store, _) = open(&disk, manual());
    assert!(matches!(store.read(key(3)), Err(ReadError::NotFound { .. })));
    assert_eq!(store.usage().blocks, 9);
}

#[test]
fn a_replacement_stays_as_long_as_the_record_it_hides() {
    let disk = filled();
    let (store, _) = open(&disk, manual());
    store.quarantine(key(3), Cause::Payload);
    // The replacement fills a third segment with others; all of them die, the damaged record's segment lives on.
    for n in [3, 20, 21, 22, 23] {
        put_durable(&store, n, 200_000);
    }
    delete(&store, [3, 20, 21, 22, 23].map(key).to_vec()).unwrap();
    put_durable(&store, 30, 200_000);
    store.checkpoint();
    assert_eq!(disk.segments().len(), 4);
    drop(store);
    disk.vanish("checkpoint");
    let (store, _) = open(&disk, manual());
    assert!(matches!(store.read(key(3)), Err(ReadError::NotFound { .. })));
}

#[test]
fn a_segment_whose_removal_was_not_durable_is_removed_again() {
    let disk = filled();
    let content_of_1 = disk.contents(SEGMENT_1).unwrap();
    let (store, _) = open(&disk, manual());
    delete(&store, (0..5).map(key).collect()).unwrap();
    put_durable(&store, 30, 200_000);
    store.checkpoint();
    store.checkpoint();
    assert!(!disk.segments().contains(&SEGMENT_1.to_owned()));
    drop(store);
    disk.plant(SEGMENT_1, content_of_1);
    let (store, report) = open(&disk, manual());
    assert!(!report.is_damaged());
    assert!(!disk.segments().contains(&SEGMENT_1.to_owned()));
    assert!(matches!(store.read(key(0)), Err(ReadError::NotFound { .. })));
}

#[test]
fn a_flipped_byte_in_a_header_is_found_at_read() {
    let disk = filled();
    flip(&disk, SEGMENT_2, record(7) + 70);
    let (store, report) = open(&disk, manual());
    assert!(!report.is_damaged());
    let found = store.read(key(7));
    assert!(matches!(found, Err(ReadError::Corrupt { cause: Cause::Header, .. })), "{found:?}");
    check_others_and_repair(&store, &[7]);
}

#[test]
fn a_put_over_a_block_with_a_bad_header_replaces_it() {
    let disk = filled();
    flip(&disk, SEGMENT_2, record(7) + 70);
    let (store, _) = open(&disk, manual());
    put_durable(&store, 7, 200_000);
    check_others_and_repair(&store, &[]);
}

#[test]
fn headers_are_skipped_to_the_next_valid_one_when_there_is_no_checkpoint() {
    let disk = filled();
    flip(&disk, SEGMENT_1, record(3) + 2);
    disk.vanish("checkpoint");
    let (store, report) = open(&disk, manual());
    assert_eq!(report.checkpoint_fault.as_deref(), Some("there is none"));
    let region = SkippedRegion { segment: 1, from: record(3) as u64, to: record(4) as u64, torn: false };
    assert_eq!(report.skipped, [region]);
    assert!(report.is_damaged());
    check_others_and_repair(&store, &[3]);
}

#[test]
fn a_flipped_byte_anywhere_in_the_checkpoint_means_reading_all_segments() {
    let len = filled().contents("checkpoint").unwrap().len();
    for at in (0..len).step_by(29) {
        let disk = filled();
        flip(&disk, "checkpoint", at);
        let (store, report) = open(&disk, manual());
        assert!(report.checkpoint_fault.is_some(), "byte {at}");
        assert_eq!(report.scanned_records, 10);
        check_others_and_repair(&store, &[]);
        drop(store);
        let (_, report) = open(&disk, manual());
        assert!(!report.is_damaged(), "a new one was written");
    }
}

#[test]
fn a_cut_checkpoint_means_reading_all_segments() {
    let len = filled().contents("checkpoint").unwrap().len();
    for cut in [0, 1, 127, 128, 129, len - 1] {
        let disk = filled();
        disk.tamper("checkpoint", |bytes| bytes.truncate(cut));
        let (store, report) = open(&disk, manual());
        assert!(report.checkpoint_fault.is_some(), "cut to {cut}");
        check_others_and_repair(&store, &[]);
    }
}

#[test]
fn a_damaged_or_missing_identity_is_rebuilt_from_the_segments() {
    for at in (0..64).step_by(3) {
        let disk = filled();
        flip(&disk, "store.id", at);
        let (store, report) = open(&disk, manual());
        assert!(report.identity_fault.is_some(), "byte {at}");
        check_others_and_repair(&store, &[]);
    }
    let disk = filled();
    let uuid = open(&disk, manual()).0.uuid();
    disk.vanish("store.id");
    let (store, report) = open(&disk, manual());
    assert_eq!((store.uuid(), report.created), (uuid, false));
    drop(store);
    assert!(open(&disk, manual()).1.identity_fault.is_none());
    for name in disk.segments() {
        flip(&disk, &name, 20);
    }
    flip(&disk, "store.id", 20);
    let refused = Store::open(disk.mount(), manual()).err().unwrap();
    assert!(matches!(refused, OpenError::Identity { .. }), "{refused:?}");
}

#[test]
fn a_segment_with_a_damaged_header_is_still_read() {
    for name in [SEGMENT_1, SEGMENT_2] {
        for vanish in [false, true] {
            let disk = filled();
            flip(&disk, name, 33);
            if vanish {
                disk.vanish("checkpoint");
            }
            let (store, report) = open(&disk, manual());
            assert_eq!(report.bad_segment_headers.len(), 1);
            check_others_and_repair(&store, &[]);
        }
    }
}

#[test]
fn a_truncated_segment_costs_the_blocks_behind_the_cut() {
    for (name, first, last) in [(SEGMENT_1, 0, 5), (SEGMENT_2, 5, 10)] {
        for cut in [0, 100, PAGE, PAGE + 100, record(2) + PAGE, record(2) + PAGE + 70_000, record(3), record(4) + 10] {
            let disk = filled();
            disk.tamper(name, |bytes| bytes.truncate(cut));
            let (store, report) = open(&disk, manual());
            let damaged: Vec<u32> =
                (first..last).filter(|n| record(*n as usize + 1) > cut || (n + 1) % 5 == 0).collect();
            let mut expected: Vec<_> = damaged.iter().map(|n| (key(*n), Cause::Truncated)).collect();
            if cut == 0 {
                expected.iter_mut().for_each(|(_, cause)| *cause = Cause::SegmentMissing);
            }
            expected.sort_by_key(|(key, _)| *key);
            assert_eq!(causes(&report), expected, "{name} cut at {cut}");
            check_others_and_repair(&store, &damaged);
            drop(store);
            let (store, _) = open(&disk, manual());
            check_others_and_repair(&store, &[]);
        }
    }
}

#[test]
fn a_missing_segment_costs_its_blocks() {
    for (name, damaged) in [(SEGMENT_1, [0, 1, 2, 3, 4]), (SEGMENT_2, [5, 6, 7, 8, 9])] {
        let disk = filled();
        disk.vanish(name);
        let (store, report) = open(&disk, manual());
        assert_eq!(report.missing_segments.len(), 1);
        assert!(causes(&report).iter().all(|(_, cause)| *cause == Cause::SegmentMissing));
        assert_eq!(report.quarantined_count, 5);
        drop(store);
        let (store, report) = open(&disk, manual());
        assert!(report.missing_segments.is_empty(), "reported once");
        check_others_and_repair(&store, &damaged);
        drop(store);
        let (store, _) = open(&disk, manual());
        check_others_and_repair(&store, &[]);
    }
}

#[test]
fn a_segment_that_is_put_back_is_taken_back() {
    let disk = filled();
    let content_of_1 = disk.contents(SEGMENT_1).unwrap();
    disk.vanish(SEGMENT_1);
    let (store, _) = open(&disk, manual());
    put_durable(&store, 2, 200_000);
    delete(&store, vec![key(4)]).unwrap();
    drop(store);
    disk.plant(SEGMENT_1, content_of_1[..record(3) + 5000].to_vec());
    let (store, report) = open(&disk, manual());
    assert_eq!(causes(&report), [(key(3), Cause::Truncated)]);
    for n in [0, 1, 2] {
        assert_eq!(read(&store, key(n)).unwrap(), content(n, 200_000));
    }
    assert!(matches!(store.read(key(4)), Err(ReadError::NotFound { .. })), "deleted meanwhile");
}

#[test]
fn a_segment_that_vanishes_while_open_is_a_typed_error() {
    let disk = filled();
    let (store, _) = open(&disk, manual());
    // Its handle was opened to look at the header; the file goes on existing for it.
    disk.vanish(SEGMENT_1);
    assert_eq!(read(&store, key(0)).unwrap(), content(0, 200_000));
    disk.faults(|faults| faults.fail_reads_of = Some(SEGMENT_1.into()));
    assert!(matches!(store.read(key(0)), Err(ReadError::Io { .. })));
    assert!(matches!(store.verify(key(0)), Err(ReadError::Io { .. })));
    disk.faults(|faults| faults.fail_reads_of = None);
    assert_eq!(store.quarantined(), [], "what cannot be read now may be readable later");
}

#[test]
fn damage_in_the_tail_to_what_was_durable_is_not_taken_for_a_crash() {
    // The last record is the only one whose durability no later record tells.
    for n in 5..9 {
        let disk = filled_and_crashed();
        flip(&disk, SEGMENT_2, record(n) + PAGE + 5);
        let (store, report) = open(&disk, manual());
        assert_eq!(causes(&report), [(key(n as u32), Cause::Payload)]);
        assert_eq!(report.torn_bytes, 0);
        check_others_and_repair(&store, &[n as u32]);
    }
    for n in 5..9 {
        let disk = filled_and_crashed();
        flip(&disk, SEGMENT_2, record(n) + 5);
        let (store, report) = open(&disk, manual());
        let region =
            SkippedRegion { segment: 2, from: record(n) as u64, to: record(n) as u64 + RECORD as u64, torn: false };
        assert_eq!(report.skipped, [region]);
        check_others_and_repair(&store, &[n as u32]);
    }
}

#[test]
fn the_last_record_of_the_tail_may_be_torn() {
    let disk = filled_and_crashed();
    flip(&disk, SEGMENT_2, record(9) + PAGE + 5);
    let (store, report) = open(&disk, manual());
    assert_eq!(causes(&report), [(key(9), Cause::Torn)]);
    assert!(!report.is_damaged());
    check_others_and_repair(&store, &[9]);

    let disk = filled_and_crashed();
    flip(&disk, SEGMENT_2, record(9) + 5);
    let (store, report) = open(&disk, manual());
    assert_eq!((report.torn_bytes, report.skipped_count), (RECORD as u64, 0));
    assert_eq!(disk.contents(SEGMENT_2).unwrap().len(), record(9), "cut");
    check_others_and_repair(&store, &[9]);
    drop(store);
    let (store, report) = open(&disk, manual());
    assert!(!report.is_damaged() && report.torn_bytes == 0);
    check_others_and_repair(&store, &[]);
}

#[test]
fn damage_in_a_sealed_segment_of_the_tail_is_never_cut() {
    let disk = filled_and_crashed();
    flip(&disk, SEGMENT_1, record(4) + 5);
    let before = disk.contents(SEGMENT_1).unwrap().len();
    let (store, report) = open(&disk, manual());
    assert_eq!(report.torn_bytes, 0);
    assert_eq!(report.skipped.len(), 1);
    assert!(!report.skipped[0].torn);
    assert_eq!(disk.contents(SEGMENT_1).unwrap().len(), before);
    check_others_and_repair(&store, &[4]);
}

#[test]
fn files_of_another_store_are_left_alone() {
    let other = filled();
    let foreign = other.contents(SEGMENT_2).unwrap();
    let disk = SimDisk::new();
    let options = || cairn_store::StoreOptions { entropy: entropy(99), ..manual() };
    let (store, _) = open(&disk, options());
    put_durable(&store, 1, 1000);
    drop(store);
    disk.plant("segments/00000009.seg", foreign.clone());
    disk.plant("segments/notes.txt", vec![1, 2, 3]);
    let (store, report) = open(&disk, options());
    assert_eq!(report.foreign_files, ["segments/00000009.seg"]);
    assert_eq!(store.usage().blocks, 1);
    put_durable(&store, 2, 1000);
    drop(store);
    assert_eq!(disk.contents("segments/00000009.seg").unwrap(), foreign);

    // Pages of another store, or of another place of this one, inside our own segment.
    let own = disk.contents(SEGMENT_1).unwrap();
    disk.tamper(SEGMENT_1, |bytes| {
        bytes.extend_from_slice(&foreign[record(5)..record(5) + RECORD]);
        bytes.extend_from_slice(&own[PAGE..]);
    });
    disk.vanish("checkpoint");
    let (store, _) = open(&disk, options());
    let listed: Vec<_> = store.list(PG, None, 100).into_iter().map(|block| block.key).collect();
    assert_eq!(listed, [key(1), key(2)]);
}

#[test]
fn leftovers_with_an_older_number_are_no_records() {
    // Two lives of one store: same identity, same segment, same place; the older life's second record has number 2.
    let older = filled();
    let disk = SimDisk::new();
    let (store, _) = open(&disk, manual());
    disk.faults(|faults| faults.full_after = Some(0));
    for n in 0..5 {
        assert!(put(&store, put_of(key(n), content(n, 200_000), Durability::Durable)).is_err());
    }
    disk.faults(|faults| faults.full_after = None);
    put_durable(&store, 7, 200_000);
    drop(store);
    let leftover = older.contents(SEGMENT_1).unwrap()[record(1)..record(2)].to_vec();
    disk.tamper(SEGMENT_1, |bytes| bytes.extend_from_slice(&leftover));
    disk.vanish("checkpoint");
    let (store, _) = open(&disk, manual());
    let listed: Vec<_> = store.list(PG, None, 100).into_iter().map(|block| block.key).collect();
    assert_eq!(listed, [key(7)]);
}

#[test]
fn a_segment_under_another_name_is_foreign() {
    let disk = filled();
    disk.plant("segments/00000007.seg", disk.contents(SEGMENT_1).unwrap());
    let (store, report) = open(&disk, manual());
    assert_eq!(report.foreign_files, ["segments/00000007.seg"]);
    check_others_and_repair(&store, &[]);
}

#[test]
fn mutated_files_never_panic_and_never_serve_wrong_bytes() {
    let pristine = filled_and_crashed();
    let files: Vec<_> = pristine.names().into_iter().map(|name| (pristine.contents(&name).unwrap(), name)).collect();
    for seed in 0..100 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::new();
        for (content, name) in &files {
            let mut content = content.clone();
            for _ in 0..rng.usize(..4) {
                mutate(&mut content, &mut rng);
            }
            disk.plant(name, content);
        }
        let Ok((store, _)) = Store::open(disk.mount(), manual()) else { continue };
        for n in 0..10 {
            if let Ok(bytes) = read(&store, key(n)) {
                assert_eq!(bytes, content(n, 200_000), "seed {seed}");
            }
        }
        let _ = put(&store, put_of(key(50), content(50, 100), Durability::Durable));
    }
}

fn mutate(bytes: &mut Vec<u8>, rng: &mut fastrand::Rng) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.usize(..bytes.len());
    // Headers are where decoders look.
    let at = if rng.bool() { at } else { at / PAGE * PAGE + rng.usize(..300) };
    let at = at.min(bytes.len() - 1);
    match rng.u32(..5) {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << rng.u32(..8),
        2 => {
            let end = bytes.len().min(at + rng.usize(..10_000));
            rng.fill(&mut bytes[at..end]);
        }
        3 => {
            let end = bytes.len().min(at + rng.usize(..10_000));
            let copy = bytes[at..end].to_vec();
            let to = rng.usize(..bytes.len() - copy.len() + 1) / PAGE * PAGE;
            bytes[to..to + copy.len()].copy_from_slice(&copy);
        }
        _ => {
            let end = bytes.len();
            bytes.resize(end + rng.usize(..9000), 0);
            rng.fill(&mut bytes[end..]);
        }
    }
}
