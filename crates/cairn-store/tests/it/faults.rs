//! Disks that fail, lie and fill up.

use crate::sim_disk::SimDisk;
use crate::support::*;
use cairn_store::{Durability, ErrorKind, OpenError, PutError, ReadError, Store, StoreOptions};

#[test]
fn a_failed_sync_poisons_until_reopened_and_what_the_cache_shows_is_not_believed() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk, manual());
    put_durable(&store, 1, 50_000);
    disk.faults(|faults| faults.fail_sync_after = Some(0));
    let refused = put(&store, put_of(key(2), content(2, 50_000), Durability::Durable)).unwrap_err();
    assert!(matches!(refused, PutError::Poisoned(_)), "{refused}");
    assert_eq!(refused.kind(), ErrorKind::GiveUpStore);
    // The disk works again, but nobody knows what it holds.
    for durability in [Durability::Durable, Durability::Relaxed] {
        assert!(matches!(put(&store, put_of(key(3), content(3, 10), durability)), Err(PutError::Poisoned(_))));
    }
    assert!(sync(&store, vec![key(2)]).is_err() && delete(&store, vec![key(1)]).is_err());
    let reason = store.usage().read_only().unwrap();
    assert!(
        reason.starts_with("read-only since it failed to sync a segment: ") && reason.contains("os error 5"),
        "{reason}"
    );
    assert_eq!(read(&store, key(1)).unwrap(), content(1, 50_000), "reads go on");
    drop(store);
    // The process restarts, the machine does not: the cache still shows the record that the disk never got.
    disk.kill();
    let (store, report) = open(&disk, manual());
    assert!(!report.is_damaged(), "{report:?}");
    assert!(matches!(store.read(key(2)), Err(ReadError::NotFound { .. })));
    assert_eq!(read(&store, key(1)).unwrap(), content(1, 50_000));
    put_durable(&store, 2, 50_000);
    disk.crash(&mut fastrand::Rng::with_seed(1));
    drop(store);
    let (store, _) = open(&disk, manual());
    assert_eq!(read(&store, key(2)).unwrap(), content(2, 50_000));
}

#[test]
fn an_unsynced_put_lost_by_a_failed_sync_is_never_called_durable() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk, manual());
    put(&store, put_of(key(1), content(1, 5000), Durability::Unsynced)).unwrap();
    disk.faults(|faults| faults.fail_sync_after = Some(0));
    assert!(sync(&store, vec![key(1)]).is_err());
    assert!(sync(&store, vec![key(1)]).is_err(), "the second sync would succeed on Linux");
}

#[test]
fn what_is_served_after_opening_survives_power_loss() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk, manual());
    put(&store, put_of(key(1), content(1, 50_000), Durability::Unsynced)).unwrap();
    // The process dies, the machine does not: the block is in the page cache only.
    disk.kill();
    drop(store);
    let (store, _) = open(&disk, manual());
    assert_eq!(read(&store, key(1)).unwrap(), content(1, 50_000));
    disk.lose_power();
    drop(store);
    let (store, report) = open(&disk, manual());
    assert!(!report.is_damaged());
    assert_eq!(read(&store, key(1)).unwrap(), content(1, 50_000));
}

#[test]
fn what_a_checkpoint_names_is_durable() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk, manual());
    put(&store, put_of(key(1), content(1, 50_000), Durability::Unsynced)).unwrap();
    store.checkpoint();
    disk.lose_power();
    drop(store);
    let (store, report) = open(&disk, manual());
    assert!(!report.is_damaged(), "{report:?}");
    assert_eq!(read(&store, key(1)).unwrap(), content(1, 50_000));
}

#[test]
fn a_delete_that_failed_has_not_touched_the_payload() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk, manual());
    put_durable(&store, 1, 50_000);
    disk.faults(|faults| faults.fail_sync_after = Some(0));
    assert!(delete(&store, vec![key(1)]).is_err());
    disk.kill();
    drop(store);
    let (store, _) = open(&disk, manual());
    assert_eq!(read(&store, key(1)).unwrap(), content(1, 50_000), "its tombstone never reached the disk");
}

#[test]
fn a_failed_write_poisons() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk, manual());
    put_durable(&store, 1, 5000);
    disk.faults(|faults| faults.fail_write_after = Some(0));
    let answers: Vec<_> =
        (2..5).map(|n| begin_put(&store, put_of(key(n), content(n, 10), Durability::Relaxed))).collect();
    store.run_pending();
    assert!(answers.iter().all(|answer| matches!(answer.recv().unwrap(), Err(PutError::Poisoned(_)))));
    assert_eq!(read(&store, key(1)).unwrap(), content(1, 5000));
    assert_eq!(store.usage().blocks, 1);
    let reason = store.usage().read_only().unwrap();
    assert!(reason.starts_with("read-only since it failed to write to a segment: "), "{reason}");
    // Nor does anything that the store does on its own.
    let writes = disk.counts().writes;
    store.maintain();
    store.checkpoint();
    store.close();
    assert_eq!(disk.counts().writes, writes);
}

#[test]
fn a_segment_that_cannot_be_made_poisons() {
    for fault in 0..2 {
        let disk = SimDisk::new();
        let (store, _) = open(&disk, StoreOptions { segment_len: 100_000, ..manual() });
        put_durable(&store, 1, 80_000);
        disk.faults(|faults| match fault {
            // The seal, then the new segment's header.
            0 => faults.fail_sync_after = Some(0),
            _ => faults.fail_write_after = Some(0),
        });
        assert!(matches!(
            put(&store, put_of(key(2), content(2, 80_000), Durability::Durable)),
            Err(PutError::Poisoned(_))
        ));
        assert!(store.usage().read_only().is_some());
        disk.faults(|faults| *faults = crate::sim_disk::Faults::default());
        disk.kill();
        drop(store);
        let (store, report) = open(&disk, manual());
        assert!(!report.is_damaged(), "{report:?}");
        assert_eq!(read(&store, key(1)).unwrap(), content(1, 80_000));
        put_durable(&store, 2, 80_000);
    }
}

#[test]
fn the_name_of_a_segment_is_durable_before_it_is_used_also_after_a_failed_attempt() {
    // Among these points is the one where the new segment's file is made and synced, and its directory is not.
    for changes in 0..10 {
        let disk = SimDisk::new();
        let (store, _) = open(&disk, StoreOptions { segment_len: 100_000, ..manual() });
        put_durable(&store, 1, 80_000);
        disk.faults(|faults| faults.power_for = Some(changes));
        let _ = put(&store, put_of(key(2), content(2, 80_000), Durability::Durable));
        disk.faults(|faults| *faults = crate::sim_disk::Faults::default());
        disk.kill();
        drop(store);
        let (store, _) = open(&disk, manual());
        put_durable(&store, 2, 80_000);
        disk.lose_power();
        drop(store);
        let (store, _) = open(&disk, manual());
        assert_eq!(read(&store, key(2)).unwrap(), content(2, 80_000), "power for {changes} changes");
    }
}

#[test]
fn short_writes_are_continued() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk, manual());
    disk.faults(|faults| faults.short_writes = Some(3001));
    for n in 0..10 {
        put_durable(&store, n, 70_000);
    }
    drop(store);
    let (store, _) = open(&disk, manual());
    for n in 0..10 {
        assert_eq!(read(&store, key(n)).unwrap(), content(n, 70_000));
    }
}

#[test]
fn the_reserve_is_kept_and_deletes_work_on_a_full_store() {
    let disk = SimDisk::new();
    let options = StoreOptions { capacity_bytes: Some(3_000_000), reserve_bytes: Some(500_000), ..manual() };
    let (store, _) = open(&disk, options);
    let mut stored = 0;
    let refused = loop {
        match put(&store, put_of(key(stored), content(stored, 100_000), Durability::Durable)) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, PutError::NoSpace(_)));
    assert_eq!(refused.kind(), ErrorKind::FreeSpace);
    let usage = store.usage();
    assert!((2_300_000..=2_500_000).contains(&usage.used_bytes), "{usage:?}");
    assert!(usage.free_bytes < 104_448 && usage.capacity_bytes == 3_000_000);
    assert_eq!(read(&store, key(0)).unwrap(), content(0, 100_000));
    assert_eq!(delete(&store, vec![key(0), key(1)]).unwrap().deleted, 2);
    put_durable(&store, 100, 100_000);
}

#[test]
fn a_disk_that_is_full_too_early_is_no_failure() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk, manual());
    put_durable(&store, 1, 100_000);
    // Somebody else takes the space between the check and the write: half of the batch fits.
    disk.set_capacity(Some(300_000));
    let answers: Vec<_> =
        (2..6).map(|n| begin_put(&store, put_of(key(n), content(n, 50_000), Durability::Durable))).collect();
    disk.faults(|faults| faults.short_writes = Some(100_000));
    store.run_pending();
    let results: Vec<_> = answers.iter().map(|answer| answer.recv().unwrap()).collect();
    assert!(results.iter().any(|result| matches!(result, Err(PutError::NoSpace(_)))), "{results:?}");
    assert!(store.usage().poisoned.is_none());
    disk.faults(|faults| faults.short_writes = None);
    disk.set_capacity(None);
    for n in 2..6 {
        put_durable(&store, n, 50_000);
    }
    disk.crash(&mut fastrand::Rng::with_seed(3));
    drop(store);
    let (store, report) = open(&disk, manual());
    assert!(!report.is_damaged());
    assert_eq!(read(&store, key(1)).unwrap(), content(1, 100_000));
    for n in 2..6 {
        assert_eq!(read(&store, key(n)).unwrap(), content(n, 50_000));
    }
}

#[test]
fn a_write_that_finds_no_space_is_cut_back() {
    let disk = SimDisk::new();
    // The store believes in the larger figure, the disk is smaller.
    let (store, _) = open(&disk, manual());
    put_durable(&store, 1, 100_000);
    let len = disk.contents("segments/00000001.seg").unwrap().len();
    disk.faults(|faults| faults.full_after = Some(60_000));
    let refused = put(&store, put_of(key(2), content(2, 100_000), Durability::Durable));
    assert!(matches!(refused, Err(PutError::NoSpace(_))), "{refused:?}");
    assert_eq!(disk.contents("segments/00000001.seg").unwrap().len(), len, "nothing of it is left");
    assert!(store.usage().poisoned.is_none());
    disk.faults(|faults| faults.full_after = None);
    put_durable(&store, 3, 100_000);
    drop(store);
    disk.vanish("checkpoint");
    let (store, report) = open(&disk, manual());
    assert!(report.skipped.is_empty());
    assert_eq!(store.usage().blocks, 2);
}

#[test]
fn a_checkpoint_that_cannot_be_written_costs_nothing() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk, manual());
    put_durable(&store, 1, 1000);
    disk.faults(|faults| faults.power_for = Some(0));
    store.checkpoint();
    disk.faults(|faults| faults.power_for = None);
    put_durable(&store, 2, 1000);
    disk.crash(&mut fastrand::Rng::with_seed(3));
    drop(store);
    let (store, report) = open(&disk, manual());
    assert!(!report.is_damaged());
    assert_eq!(report.scanned_records, 2);
    assert_eq!(store.usage().blocks, 2);
}

#[test]
fn an_unreadable_segment_header_or_checkpoint_is_survived() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk, manual());
    put_durable(&store, 1, 1000);
    drop(store);
    disk.faults(|faults| faults.fail_reads_of = Some("checkpoint".into()));
    let (store, report) = open(&disk, manual());
    assert!(report.checkpoint_fault.is_some());
    assert_eq!(read(&store, key(1)).unwrap(), content(1, 1000));
    drop(store);
    disk.faults(|faults| faults.fail_reads_of = Some("segments/00000001.seg".into()));
    let (store, report) = open(&disk, manual());
    assert_eq!(report.bad_segment_headers, [1]);
    assert!(matches!(store.read(key(1)), Err(ReadError::Io { .. })));
    put_durable(&store, 2, 1000);
    assert_eq!(read(&store, key(2)).unwrap(), content(2, 1000), "the log goes on in another file");
}

#[test]
fn what_cannot_be_read_at_opening_is_neither_cut_nor_forgotten() {
    const LEN: usize = 50_000;
    const RECORD: u64 = 4096 + 53_248;
    let header_of = |n: u64| 4096 + n * RECORD;
    let name = "segments/00000001.seg";
    // A bad sector in the last header, in one before, in a payload's first page, behind a crash.
    for (at, lost) in [(header_of(3) + 100, Some(3)), (header_of(1) + 100, Some(1)), (header_of(3) + 4096 + 100, None)]
    {
        let disk = SimDisk::new();
        let (store, _) = open(&disk, manual());
        for n in 0..4 {
            put_durable(&store, n, LEN);
        }
        disk.lose_power();
        drop(store);
        let before = disk.contents(name).unwrap();
        disk.faults(|faults| faults.bad_sector = Some((name.into(), at)));
        let (store, report) = open(&disk, manual());
        assert!(report.is_damaged() && report.torn_bytes == 0, "{report:?}");
        for n in (0..4).filter(|n| Some(*n) != lost && at < header_of(3) + 4096) {
            assert_eq!(read(&store, key(n)).unwrap(), content(n, LEN));
        }
        if lost.is_none() {
            assert!(matches!(store.read(key(3)), Err(ReadError::Quarantined { .. })), "its header was read");
        }
        put_durable(&store, 10, LEN);
        let all: Vec<_> = (0..4).map(key).collect();
        let there = all.iter().filter(|key| store.read(**key).is_ok()).copied().collect();
        delete(&store, there).unwrap();
        store.maintain();
        store.checkpoint();
        store.checkpoint();
        if let Some(lost) = lost {
            // The rest is dead; the file stays as it is for what may be in it.
            assert!(disk.segments().contains(&name.to_owned()));
            assert_eq!(disk.contents(name).unwrap().len(), before.len());
            drop(store);
            disk.faults(|faults| faults.bad_sector = None);
            disk.vanish("checkpoint");
            let (store, _) = open(&disk, manual());
            assert_eq!(read(&store, key(lost)).unwrap(), content(lost, LEN), "found again");
        }
    }
}

#[test]
fn a_disk_that_is_away_is_not_an_empty_store() {
    let disk = SimDisk::new();
    let options = || StoreOptions { segment_len: 150_000, ..manual() };
    let (store, _) = open(&disk, options());
    for n in 0..6 {
        put_durable(&store, n, 50_000);
    }
    drop(store);
    disk.vanish("checkpoint");
    let before: Vec<_> = disk.segments().iter().map(|name| disk.contents(name)).collect();
    disk.faults(|faults| faults.fail_reads_of = Some("segments/00000001.seg".into()));
    let refused = Store::open(disk.mount(), options()).err().unwrap();
    assert!(
        matches!(&refused, OpenError::Io { action: "read", name, .. } if name.contains("00000001.seg at offset")),
        "{refused}"
    );
    disk.faults(|faults| faults.fail_reads_of = None);
    assert_eq!(
        disk.segments().iter().map(|name| disk.contents(name)).collect::<Vec<_>>(),
        before,
        "nothing was touched"
    );
    let (store, _) = open(&disk, options());
    for n in 0..6 {
        assert_eq!(read(&store, key(n)).unwrap(), content(n, 50_000));
    }
}

#[test]
fn an_ended_segment_takes_nothing_until_it_has_a_successor() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk, StoreOptions { segment_len: 100_000, ..manual() });
    put_durable(&store, 1, 80_000);
    let len = disk.contents("segments/00000001.seg").unwrap().len();
    disk.faults(|faults| faults.full_after = Some(100));
    assert!(matches!(put(&store, put_of(key(2), content(2, 80_000), Durability::Durable)), Err(PutError::NoSpace(_))));
    assert!(matches!(put(&store, put_of(key(3), content(3, 10), Durability::Durable)), Err(PutError::NoSpace(_))));
    disk.faults(|faults| faults.full_after = None);
    put_durable(&store, 3, 10);
    assert_eq!(disk.contents("segments/00000001.seg").unwrap().len(), len, "the small one would have fitted");
    assert_eq!(disk.segments().len(), 2);
}

#[test]
fn a_segment_that_cannot_be_removed_keeps_its_tombstones() {
    for after in 0..8 {
        let disk = SimDisk::new();
        let options = || StoreOptions { segment_len: 150_000, recycle_bytes: Some(0), ..manual() };
        let (store, _) = open(&disk, options());
        for n in 0..7 {
            put_durable(&store, n, 50_000);
        }
        delete(&store, (0..6).map(key).collect()).unwrap();
        for n in 20..24 {
            put_durable(&store, n, 50_000);
        }
        delete(&store, [6, 20, 21, 22, 23].map(key).to_vec()).unwrap();
        disk.faults(|faults| faults.fail_name_after = Some(after));
        store.checkpoint();
        store.checkpoint();
        disk.faults(|faults| faults.fail_name_after = None);
        disk.crash(&mut fastrand::Rng::with_seed(after));
        drop(store);
        disk.vanish("checkpoint");
        let (store, _) = open(&disk, options());
        assert_eq!(store.usage().blocks, 0, "after {after} changes of names");
    }
}

#[test]
fn a_checkpoint_that_failed_leaves_nothing_and_is_made_up_for_at_closing() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk, manual());
    put_durable(&store, 1, 1000);
    store.quarantine(key(1), cairn_store::Cause::Payload);
    disk.faults(|faults| faults.fail_write_after = Some(0));
    store.checkpoint();
    assert!(!disk.names().contains(&"checkpoint.tmp".to_owned()), "it would take space that is kept for others");
    drop(store);
    let (store, report) = open(&disk, manual());
    assert_eq!((report.scanned_records, store.quarantined().len()), (0, 1));
}

#[test]
fn a_segment_that_was_cut_back_is_sealed_at_that_length() {
    for seed in 0..20 {
        let disk = SimDisk::new();
        let options = || StoreOptions { segment_len: 100_000, ..manual() };
        let (store, _) = open(&disk, options());
        put_durable(&store, 1, 70_000);
        disk.faults(|faults| faults.full_after = Some(6000));
        assert!(put(&store, put_of(key(2), content(2, 10_000), Durability::Durable)).is_err());
        disk.faults(|faults| faults.full_after = None);
        // Nothing was written since the last sync but what was taken back.
        put_durable(&store, 3, 70_000);
        disk.crash(&mut fastrand::Rng::with_seed(seed));
        drop(store);
        let (_, report) = open(&disk, options());
        assert!(!report.is_damaged(), "seed {seed}: {report:?}");
    }
}

#[test]
fn a_delete_that_was_refused_does_not_come_back() {
    for seed in 0..20 {
        let disk = SimDisk::new();
        let (store, _) = open(&disk, manual());
        put_durable(&store, 1, 70_000);
        // The tombstone fits, the rest of its batch does not: all of it is taken back.
        disk.faults(|faults| faults.full_after = Some(6000));
        let deleted = begin_delete(&store, vec![key(1)]);
        let stored = begin_put(&store, put_of(key(2), content(2, 10_000), Durability::Durable));
        store.run_pending();
        assert!(deleted.recv().unwrap().is_err() && stored.recv().unwrap().is_err());
        disk.faults(|faults| faults.full_after = None);
        assert!(put(&store, put_of(key(1), content(1, 70_000), Durability::Durable)).unwrap().existed);
        disk.crash(&mut fastrand::Rng::with_seed(seed));
        drop(store);
        let (store, _) = open(&disk, manual());
        assert_eq!(read(&store, key(1)).unwrap(), content(1, 70_000), "seed {seed}");
    }
}
