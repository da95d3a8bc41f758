//! Locks between clients, and what they protect.

use super::cluster::Cluster;
use crate::shell::wire;
use cairn_client::{DfsClient, ErrorKind, File, LockKind, LockMode};
use cairn_proto::pb;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Longer than any wait of these tests.
const LONG: Duration = Duration::from_secs(60);
const POSIX: LockKind = LockKind::Posix { owner: 1, pid: 77 };

async fn two(cluster: &Cluster) -> ((DfsClient, File), (DfsClient, File)) {
    let (one, two) = (cluster.client().await, cluster.client().await);
    let file = one.open("/f").await.unwrap();
    let other = two.open("/f").await.unwrap();
    ((one, file), (two, other))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_waited_for_tried_for_and_told_of() {
    let cluster = Cluster::start().await;
    let ((one, file), (two, other)) = two(&cluster).await;
    let held = file.lock(POSIX, 10..20, LockMode::Exclusive, LONG).await.unwrap();
    assert!(other.try_lock(POSIX, 15..25, LockMode::Shared).await.unwrap().is_none());
    let holder = other.lock_holder(POSIX, 0..u64::MAX, LockMode::Shared).await.unwrap().expect("somebody");
    assert_eq!(
        (holder.range.clone(), holder.mode, holder.pid, holder.waiting),
        (10..20, LockMode::Exclusive, 77, false)
    );
    // Its own lock is not in its way.
    assert_eq!(file.lock_holder(POSIX, 0..u64::MAX, LockMode::Exclusive).await.unwrap(), None);
    // A deadline passes.
    let error = other.lock(POSIX, 15..25, LockMode::Shared, Duration::from_millis(50)).await.err().expect("held");
    assert_eq!(error.kind(), ErrorKind::Deadline);
    let waiter = tokio::spawn({
        let other = other.clone();
        async move { other.lock(POSIX, 15..25, LockMode::Shared, LONG).await.unwrap() }
    });
    while !one.locks("/f").await.unwrap().iter().any(|lock| lock.waiting) {
        tokio::task::yield_now().await;
    }
    held.unlock().await.unwrap();
    let shared = waiter.await.unwrap();
    assert_eq!(shared.range(), 15..25);
    // Another kind is not in the way; a guard that is dropped gives back.
    let whole = file.flock(LockMode::Exclusive, LONG).await.unwrap();
    assert_eq!(one.locks("/f").await.unwrap().len(), 2);
    drop(whole);
    let _again = other.flock(LockMode::Exclusive, LONG).await.unwrap();
    one.close().await;
    two.close().await;
    cluster.stop().await;
}

/// Two owners that want what the other has.
#[tokio::test(flavor = "multi_thread")]
async fn a_circle_is_found_and_a_waiter_that_goes_away_leaves_the_line() {
    let cluster = Cluster::start().await;
    let ((one, file), (two, other)) = two(&cluster).await;
    let _first = file.lock(POSIX, 0..10, LockMode::Exclusive, LONG).await.unwrap();
    let _second = other.lock(POSIX, 10..20, LockMode::Exclusive, LONG).await.unwrap();
    let waiter = tokio::spawn({
        let file = file.clone();
        async move { file.lock(POSIX, 10..20, LockMode::Exclusive, LONG).await.map(|_| ()) }
    });
    while !two.locks("/f").await.unwrap().iter().any(|lock| lock.waiting) {
        tokio::task::yield_now().await;
    }
    let error = other.lock(POSIX, 0..10, LockMode::Exclusive, LONG).await.err().expect("a circle");
    assert_eq!(error.kind(), ErrorKind::Deadlock);
    waiter.abort();
    let _ = waiter.await;
    while two.locks("/f").await.unwrap().iter().any(|lock| lock.waiting) {
        tokio::task::yield_now().await;
    }
    one.close().await;
    two.close().await;
    cluster.stop().await;
}

/// Read, add one, write: right only when nobody comes between.
#[tokio::test(flavor = "multi_thread")]
async fn a_counter_under_a_lock_counts() {
    const EACH: u64 = 8;
    let cluster = Cluster::start().await;
    let inside = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    let clients: Vec<DfsClient> = [cluster.client().await, cluster.client().await].to_vec();
    clients[0].open("/counter").await.unwrap().write_at(0, [0u8; 8]).await.unwrap();
    for index in 0..4 {
        let file = clients[index % 2].open("/counter").await.unwrap();
        let inside = inside.clone();
        tasks.push(tokio::spawn(async move {
            for _ in 0..EACH {
                let guard = file.lock(LockKind::Ofd, 0..8, LockMode::Exclusive, LONG).await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                let bytes: [u8; 8] = file.read_at(0, 8).await.unwrap()[..].try_into().unwrap();
                file.write_at(0, (u64::from_le_bytes(bytes) + 1).to_le_bytes()).await.unwrap();
                inside.fetch_sub(1, Ordering::SeqCst);
                guard.unlock().await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let bytes = clients[0].open("/counter").await.unwrap().read_at(0, 8).await.unwrap();
    assert_eq!(bytes[..], (4 * EACH).to_le_bytes());
    for client in clients {
        client.close().await;
    }
    cluster.stop().await;
}

/// A client whose session ended, with its lock, opens another one for what it does next; not for what the lock protects.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_lost_its_lock_writes_nothing_more() {
    let cluster = Cluster::start().await;
    let ((one, file), (two, other)) = two(&cluster).await;
    let held = file.lock(POSIX, 0..u64::MAX, LockMode::Exclusive, LONG).await.unwrap();
    file.write_at(0, "mine").await.unwrap();
    let session = two.locks("/f").await.unwrap()[0].session;
    // As when it was silent for longer than its lease.
    let port = cluster.meta.addr().port();
    let end = pb::request::Kind::CloseSession(pb::CloseSession { session: session.0, epoch: 1 });
    tokio::task::spawn_blocking(move || wire::ask(port, end)).await.unwrap().unwrap();
    let taken = other.lock(POSIX, 0..u64::MAX, LockMode::Exclusive, LONG).await.unwrap();
    other.write_at(0, "next").await.unwrap();
    assert_eq!(file.write_at(0, "late").await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(file.write_at(0, vec![1; 100_000]).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(file.append("late").await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(file.truncate(0).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(&other.read_at(0, 100).await.unwrap()[..], b"next");
    // Other files are nobody's concern.
    one.open("/g").await.unwrap().write_at(0, "free").await.unwrap();
    assert_eq!(held.unlock().await.unwrap_err().kind(), ErrorKind::Fenced);
    taken.unlock().await.unwrap();
    // It knows now: what it does next is done without the lock, in another session.
    file.write_at(0, "anew").await.unwrap();
    one.close().await;
    two.close().await;
    cluster.stop().await;
}
