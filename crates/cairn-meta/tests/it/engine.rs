//! The conformance battery: what every engine promises, run on each.

use crate::support::embedded;
use cairn_meta::kv::{CommitOutcome, Durability, Engine, EngineError, KeyRange, MapEngine, Order, Txn};
use std::sync::Arc;

type Shared = Arc<dyn Engine>;

async fn put(engine: &Shared, rows: &[(&str, &str)]) {
    let mut txn = engine.begin().await.expect("begin");
    for (key, value) in rows {
        txn.put(key.as_bytes().to_vec(), value.as_bytes().to_vec());
    }
    assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
}

async fn read(txn: &mut Box<dyn Txn>, key: &str) -> Option<String> {
    let value = txn.get(key.as_bytes()).await.expect("get");
    value.map(|value| String::from_utf8(value.to_vec()).expect("text"))
}

fn range(start: &str, end: &str) -> KeyRange {
    KeyRange { start: start.into(), end: end.into() }
}

async fn scan(txn: &mut Box<dyn Txn>, start: &str, end: &str, limit: usize, order: Order) -> Vec<String> {
    let rows = txn.scan(&range(start, end), limit, order).await.expect("scan");
    rows.iter().map(|(key, value)| format!("{}={}", text(key), text(value))).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn a_snapshot_does_not_move(engine: Shared) {
    put(&engine, &[("a", "1"), ("b", "1")]).await;
    let mut old = engine.begin().await.expect("begin");
    assert_eq!(read(&mut old, "a").await.as_deref(), Some("1"));
    put(&engine, &[("a", "2"), ("b", "2"), ("c", "2")]).await;
    assert_eq!(read(&mut old, "b").await.as_deref(), Some("1"));
    assert_eq!(scan(&mut old, "a", "z", 10, Order::Forward).await, ["a=1", "b=1"]);
    let mut new = engine.begin().await.expect("begin");
    assert_eq!(scan(&mut new, "a", "z", 10, Order::Forward).await, ["a=2", "b=2", "c=2"]);
    // Reading alone never conflicts: it saw one moment.
    assert_eq!(old.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
}

async fn a_changed_read_conflicts(engine: Shared) {
    put(&engine, &[("a", "1")]).await;
    let mut txn = engine.begin().await.expect("begin");
    assert_eq!(read(&mut txn, "a").await.as_deref(), Some("1"));
    txn.put(b"b".to_vec(), b"from a=1".to_vec());
    put(&engine, &[("a", "2")]).await;
    assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Conflict));
    let mut after = engine.begin().await.expect("begin");
    assert_eq!(read(&mut after, "b").await, None, "a conflicting transaction leaves nothing");
}

async fn a_read_of_nothing_conflicts_too(engine: Shared) {
    let mut txn = engine.begin().await.expect("begin");
    assert_eq!(read(&mut txn, "a").await, None);
    txn.put(b"b".to_vec(), b"x".to_vec());
    put(&engine, &[("a", "1")]).await;
    assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Conflict));
}

async fn blind_writes_do_not_conflict(engine: Shared) {
    let mut one = engine.begin().await.expect("begin");
    let mut two = engine.begin().await.expect("begin");
    one.put(b"a".to_vec(), b"1".to_vec());
    two.put(b"a".to_vec(), b"2".to_vec());
    assert_eq!(one.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
    assert_eq!(two.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
    let mut after = engine.begin().await.expect("begin");
    assert_eq!(read(&mut after, "a").await.as_deref(), Some("2"));
}

async fn write_skew_is_refused(engine: Shared) {
    put(&engine, &[("a", "on"), ("b", "on")]).await;
    let mut one = engine.begin().await.expect("begin");
    let mut two = engine.begin().await.expect("begin");
    assert_eq!(read(&mut one, "b").await.as_deref(), Some("on"));
    assert_eq!(read(&mut two, "a").await.as_deref(), Some("on"));
    one.put(b"a".to_vec(), b"off".to_vec());
    two.put(b"b".to_vec(), b"off".to_vec());
    assert_eq!(one.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
    assert_eq!(two.commit(Durability::Durable).await, Ok(CommitOutcome::Conflict));
}

async fn a_phantom_is_refused(engine: Shared) {
    put(&engine, &[("d/a", "1")]).await;
    let mut txn = engine.begin().await.expect("begin");
    assert!(scan(&mut txn, "e/", "e0", 10, Order::Forward).await.is_empty());
    txn.delete(b"dir e".to_vec());
    put(&engine, &[("e/new", "1")]).await;
    assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Conflict));
}

async fn a_limited_scan_guards_what_it_walked(engine: Shared) {
    put(&engine, &[("a", "1"), ("c", "1"), ("e", "1"), ("g", "1")]).await;
    for (order, inside, outside) in [(Order::Forward, "b", "f"), (Order::Reverse, "f", "b")] {
        let mut txn = engine.begin().await.expect("begin");
        assert_eq!(scan(&mut txn, "a", "z", 2, order).await.len(), 2);
        txn.put(b"out".to_vec(), b"x".to_vec());
        put(&engine, &[(outside, "1")]).await;
        assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Done), "{order:?}");
        let mut clean = engine.begin().await.expect("begin");
        clean.delete(outside.as_bytes().to_vec());
        assert_eq!(clean.commit(Durability::Durable).await, Ok(CommitOutcome::Done));

        let mut txn = engine.begin().await.expect("begin");
        assert_eq!(scan(&mut txn, "a", "z", 2, order).await.len(), 2);
        txn.put(b"out".to_vec(), b"x".to_vec());
        // "out" itself lies behind what is walked forwards, and is the first row walked in reverse.
        put(&engine, &[(if order == Order::Forward { inside } else { "out" }, "1")]).await;
        assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Conflict), "{order:?}");
        let mut clean = engine.begin().await.expect("begin");
        clean.delete(inside.as_bytes().to_vec());
        clean.delete(b"out".to_vec());
        assert_eq!(clean.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
    }
}

async fn scans_go_both_ways_and_see_own_writes(engine: Shared) {
    put(&engine, &[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]).await;
    let mut txn = engine.begin().await.expect("begin");
    assert_eq!(scan(&mut txn, "b", "d", 10, Order::Forward).await, ["b=1", "c=1"]);
    assert_eq!(scan(&mut txn, "b", "d", 1, Order::Reverse).await, ["c=1"]);
    assert!(scan(&mut txn, "d", "b", 10, Order::Forward).await.is_empty());
    txn.delete(b"a".to_vec());
    txn.put(b"b".to_vec(), b"2".to_vec());
    txn.put(b"bb".to_vec(), b"2".to_vec());
    txn.delete(b"d".to_vec());
    assert_eq!(scan(&mut txn, "a", "z", 2, Order::Forward).await, ["b=2", "bb=2"]);
    assert_eq!(scan(&mut txn, "a", "z", 10, Order::Reverse).await, ["c=1", "bb=2", "b=2"]);
    assert_eq!(read(&mut txn, "a").await, None);
    assert_eq!(read(&mut txn, "bb").await.as_deref(), Some("2"));
    let unseen = txn.read_unvalidated(b"bb").await.expect("read");
    assert_eq!(unseen.as_deref(), Some(&b"2"[..]));
    assert_eq!(txn.commit(Durability::Relaxed).await, Ok(CommitOutcome::Done));
    let mut after = engine.begin().await.expect("begin");
    assert_eq!(scan(&mut after, "a", "z", 10, Order::Forward).await, ["b=2", "bb=2", "c=1"]);
}

async fn an_unvalidated_read_may_change(engine: Shared) {
    put(&engine, &[("a", "1")]).await;
    let mut txn = engine.begin().await.expect("begin");
    assert!(txn.read_unvalidated(b"a").await.expect("read").is_some());
    txn.put(b"b".to_vec(), b"x".to_vec());
    put(&engine, &[("a", "2")]).await;
    assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
}

async fn big_values_and_many_keys(engine: Shared) {
    let value = vec![7u8; 1 << 20];
    let mut txn = engine.begin().await.expect("begin");
    txn.put(b"big".to_vec(), value.clone());
    for index in 0..2000u32 {
        txn.put([b"k".as_slice(), &index.to_be_bytes()].concat(), vec![1]);
    }
    assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
    let mut after = engine.begin().await.expect("begin");
    let found = after.get_many(&[b"big".to_vec(), b"none".to_vec()]).await.expect("get");
    assert_eq!(found[0].as_deref(), Some(&value[..]));
    assert_eq!(found[1], None);
    let rows = after.scan(&KeyRange::prefix(b"k"), 5000, Order::Forward).await.expect("scan");
    assert_eq!(rows.len(), 2000);
}

async fn one_over_the_limit_is_refused_whole(engine: Shared) {
    let mut txn = engine.begin().await.expect("begin");
    txn.put(b"a".to_vec(), vec![0; engine.limits().bytes]);
    assert!(matches!(txn.commit(Durability::Durable).await, Err(EngineError::TooLarge { .. })));
    let mut after = engine.begin().await.expect("begin");
    assert_eq!(read(&mut after, "a").await, None);
}

/// Sixteen tasks add to one number under conflict: no addition is lost, none is done twice.
async fn additions_add_up(engine: Shared) {
    const TASKS: u64 = 16;
    const ADDITIONS: u64 = 20;
    put(&engine, &[("sum", "0")]).await;
    let mut tasks = Vec::new();
    for _ in 0..TASKS {
        let engine = engine.clone();
        tasks.push(tokio::spawn(async move {
            let mut added = 0;
            while added < ADDITIONS {
                let mut txn = engine.begin().await.expect("begin");
                let sum: u64 = read(&mut txn, "sum").await.expect("there").parse().expect("a number");
                tokio::task::yield_now().await;
                txn.put(b"sum".to_vec(), (sum + 1).to_string().into_bytes());
                match txn.commit(Durability::Durable).await {
                    Ok(CommitOutcome::Done) => added += 1,
                    Ok(CommitOutcome::Conflict) => {}
                    other => panic!("{other:?}"),
                }
            }
        }));
    }
    for task in tasks {
        task.await.expect("no task fails");
    }
    let mut after = engine.begin().await.expect("begin");
    assert_eq!(read(&mut after, "sum").await, Some((TASKS * ADDITIONS).to_string()));
}

macro_rules! battery {
    ($($test:ident),* $(,)?) => {
        mod map {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(std::sync::Arc::new(super::MapEngine::new())).await;
            })*
        }
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let dir = tempfile::tempdir().expect("a directory");
                super::$test(super::embedded(dir.path())).await;
            })*
        }
    };
}

battery!(
    a_snapshot_does_not_move,
    a_changed_read_conflicts,
    a_read_of_nothing_conflicts_too,
    blind_writes_do_not_conflict,
    write_skew_is_refused,
    a_phantom_is_refused,
    a_limited_scan_guards_what_it_walked,
    scans_go_both_ways_and_see_own_writes,
    an_unvalidated_read_may_change,
    big_values_and_many_keys,
    one_over_the_limit_is_refused_whole,
    additions_add_up,
);
