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
