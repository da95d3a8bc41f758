//! The store's own threads under concurrent callers.

use crate::sim_disk::SimDisk;
use crate::support::*;
use cairn_store::{Durability, Execution, PutError, RealDisk, StoreOptions};
use std::sync::Arc;
use std::time::Duration;

fn threaded() -> StoreOptions {
    StoreOptions { execution: Execution::Threads, ..manual() }
}

#[test]
fn many_callers_share_writes_and_syncs() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk, threaded());
    let store = Arc::new(store);
    std::thread::scope(|scope| {
        for caller in 0..4 {
            let store = Arc::clone(&store);
            scope.spawn(move || {
                let answers: Vec<_> = (0..50)
                    .map(|n| caller * 100 + n)
                    .map(|n| begin_put(&store, put_of(key(n), content(n, 3000), Durability::Durable)))
                    .collect();
                assert!(answers.into_iter().all(|answer| answer.recv().unwrap().unwrap().durable));
                let gone = begin_delete(&store, (0..10).map(|n| key(caller * 100 + n)).collect());
                assert_eq!(gone.recv().unwrap().unwrap().deleted, 10);
                let asked = begin_sync(&store, (0..50).map(|n| key(caller * 100 + n)).collect());
                assert_eq!(asked.recv().unwrap().unwrap().missing.len(), 10);
            });
        }
    });
    assert!(disk.counts().syncs < 204, "{:?}", disk.counts());
    disk.crash(&mut fastrand::Rng::with_seed(1));
    drop(store);
    let (store, report) = open(&disk, threaded());
    assert!(!report.is_damaged());
    for n in (0..4).flat_map(|caller| (0..50).map(move |n| caller * 100 + n)) {
        assert_eq!(read(&store, key(n)).ok(), (n % 100 >= 10).then(|| content(n, 3000)));
    }
}

#[test]
fn relaxed_writes_are_flushed_without_being_asked() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk, StoreOptions { flush_interval: Duration::from_millis(1), ..threaded() });
    let before = disk.counts().syncs;
    let ack = begin_put(&store, put_of(key(1), content(1, 3000), Durability::Relaxed)).recv().unwrap().unwrap();
    assert!(!ack.durable);
    disk.await_sync(before);
    // Seen from inside the sync; whoever asks afterwards is answered behind it.
    begin_sync(&store, vec![]).recv().unwrap().unwrap();
    disk.crash(&mut fastrand::Rng::with_seed(1));
    drop(store);
    let (store, _) = open(&disk, threaded());
    assert_eq!(read(&store, key(1)).unwrap(), content(1, 3000));
}

#[test]
fn closing_answers_everybody_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
    let (store, _) = open(&disk, threaded());
    let answers: Vec<_> =
        (0..100).map(|n| begin_put(&store, put_of(key(n), content(n, 20_000), Durability::Durable))).collect();
    store.close();
    for answer in answers {
        answer.try_recv().expect("answered before close returns").unwrap();
    }
    drop(store);
    let (store, report) = open(&disk, threaded());
    assert_eq!(report.scanned_records, 0, "the checkpoint has everything");
    for n in 0..100 {
        assert_eq!(read(&store, key(n)).unwrap(), content(n, 20_000));
    }
}

#[test]
fn readers_writers_and_compaction_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
    let options = StoreOptions {
        segment_len: 300_000,
        compact_below_percent: 95,
        checkpoint_bytes: 200_000,
        maintenance_rate: u64::MAX,
        recycle_bytes: Some(1 << 30),
        // However full the machine's disk is, this store has room.
        capacity_bytes: Some(1 << 30),
        ..threaded()
    };
    let len = |n: u32| [3000, 40_000, 70_000][n as usize % 3];
    let (store, _) = open(&disk, options.clone());
    let put_all = |keys: Vec<u32>| {
        let begin = |n| begin_put(&store, put_of(key(n), content(n, len(n)), Durability::Durable));
        let answers: Vec<_> = keys.into_iter().map(begin).collect();
        assert!(answers.into_iter().all(|answer| answer.recv().unwrap().is_ok()));
    };
    // Blocks that stay, between blocks that go.
    let stays = |n: u32| n.is_multiple_of(4);
    put_all((0..40).collect());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (store, done) = (&store, &done);
            scope.spawn(move || {
                let mut n = reader * 20;
                let mut held = std::collections::VecDeque::new();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    n = (n + 4) % 40;
                    let block = store.read(key(n)).unwrap();
                    held.push_back((n, block));
                    // Looked at long after it was found.
                    if held.len() > 5 {
                        let (n, block) = held.pop_front().unwrap();
                        assert_eq!(block.read_at(0, block.len()).unwrap(), content(n, len(n)), "block {n}");
                    }
                }
            });
        }
        for round in 1..15 {
            let going = begin_delete(&store, (0..40).filter(|n| !stays(*n)).map(key).collect());
            put_all((round * 100..round * 100 + 20).collect());
            assert_eq!(going.recv().unwrap().unwrap().deleted, 30);
            let going = begin_delete(&store, (round * 100..round * 100 + 20).map(key).collect());
            assert_eq!(going.recv().unwrap().unwrap().deleted, 20);
            put_all((0..40).filter(|n| !stays(*n)).collect());
            store.checkpoint();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let counts = store.counts();
    assert!(counts.moved_blocks > 0 && counts.removed_segments > 0 && counts.recycled_segments > 0, "{counts:?}");
    drop(store);
    for keep_checkpoint in [true, false] {
        if !keep_checkpoint {
            std::fs::remove_file(dir.path().join("checkpoint")).unwrap();
        }
        let (store, report) = open(&disk, options.clone());
        assert!(report.skipped.is_empty() && report.quarantined.is_empty(), "{report:?}");
        assert_eq!(store.usage().blocks, 40);
        for n in 0..40 {
            assert_eq!(read(&store, key(n)).unwrap(), content(n, len(n)));
        }
    }
}

#[test]
fn a_full_queue_refuses_and_recovers() {
    let disk = SimDisk::new();
    // Nobody works the queue, so it fills for certain.
    let (store, _) = open(&disk, StoreOptions { queue_bytes: 100_000, ..manual() });
    let waiting: Vec<_> =
        (0..10).map(|n| begin_put(&store, put_of(key(n), content(n, 10_000), Durability::Durable))).collect();
    let refused = begin_put(&store, put_of(key(10), content(10, 1), Durability::Durable)).recv().unwrap();
    assert!(matches!(refused, Err(PutError::Overloaded(_))));
    store.run_pending();
    assert!(waiting.into_iter().all(|answer| answer.recv().unwrap().is_ok()));
    put_durable(&store, 10, 1);
}
