//! The conformance battery: what every engine promises, as checks that panic where a promise is broken. Each check wants
//! an empty engine of its own.

use super::{CommitOutcome, Durability, Engine, EngineError, KeyRange, Order, Txn};
use std::pin::Pin;
use std::sync::Arc;

/// An engine under test.
pub type Shared = Arc<dyn Engine>;

/// One promise: panics when the engine breaks it.
pub type Check = fn(Shared) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! checks {
    ($($check:ident),* $(,)?) => {
        /// Every check with its name.
        pub fn all() -> Vec<(&'static str, Check)> {
            vec![$((stringify!($check), |engine| Box::pin($check(engine)))),*]
        }
    };
}

checks!(
    a_snapshot_does_not_move,
    a_changed_read_conflicts,
    a_read_of_nothing_conflicts_too,
    a_removed_read_conflicts,
    an_update_is_not_lost,
    blind_writes_do_not_conflict,
    write_skew_is_refused,
    a_phantom_is_refused,
    a_phantom_that_vanishes_is_refused,
    reading_alone_sees_an_order_that_exists,
    a_limited_scan_guards_what_it_walked,
    scans_go_both_ways_and_see_own_writes,
    scans_walk_past_removed_rows,
    an_unvalidated_read_may_change,
    big_values_and_many_keys,
    any_bytes_are_keys_and_values,
    many_reads_are_all_guarded,
    a_big_transaction_is_one,
    a_big_transaction_conflicts_like_a_small_one,
    big_and_small_transactions_do_not_tear,
    one_over_the_limit_is_refused_whole,
    additions_add_up,
);

async fn put(engine: &Shared, rows: &[(&str, &str)]) {
    let mut txn = engine.begin().await.expect("begin");
    for (key, value) in rows {
        txn.put(key.as_bytes().to_vec(), value.as_bytes().to_vec());
    }
    assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
}

async fn remove(engine: &Shared, key: &str) {
    let mut txn = engine.begin().await.expect("begin");
    txn.delete(key.as_bytes().to_vec());
    assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
}

async fn read(txn: &mut Box<dyn Txn>, key: &str) -> Option<String> {
    let value = txn.get(key.as_bytes()).await.expect("get");
    value.map(|value| text(&value))
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

async fn a_removed_read_conflicts(engine: Shared) {
    put(&engine, &[("a", "1")]).await;
    let mut txn = engine.begin().await.expect("begin");
    assert_eq!(read(&mut txn, "a").await.as_deref(), Some("1"));
    txn.put(b"b".to_vec(), b"x".to_vec());
    remove(&engine, "a").await;
    assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Conflict));
    // Removing what is not there is no error, and it can be made again.
    remove(&engine, "a").await;
    put(&engine, &[("a", "2")]).await;
    let mut after = engine.begin().await.expect("begin");
    assert_eq!(scan(&mut after, "a", "z", 10, Order::Forward).await, ["a=2"]);
}

async fn an_update_is_not_lost(engine: Shared) {
    put(&engine, &[("a", "0")]).await;
    let mut one = engine.begin().await.expect("begin");
    let mut two = engine.begin().await.expect("begin");
    for txn in [&mut one, &mut two] {
        assert_eq!(read(txn, "a").await.as_deref(), Some("0"));
        txn.put(b"a".to_vec(), b"1".to_vec());
    }
    assert_eq!(one.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
    // Both wrote the same bytes. The engine may compare values, but then it must see that "0" is gone.
    assert_eq!(two.commit(Durability::Durable).await, Ok(CommitOutcome::Conflict));
}

async fn a_phantom_that_vanishes_is_refused(engine: Shared) {
    put(&engine, &[("d/a", "1"), ("d/b", "1"), ("d/c", "1")]).await;
    for order in [Order::Forward, Order::Reverse] {
        let mut txn = engine.begin().await.expect("begin");
        assert_eq!(scan(&mut txn, "d/", "d0", 10, order).await.len(), 3);
        txn.put(b"count".to_vec(), b"3".to_vec());
        remove(&engine, "d/b").await;
        assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Conflict), "{order:?}");
        put(&engine, &[("d/b", "1")]).await;
    }
}

/// The anomaly of three: whoever reads both accounts between two transactions must not see an order that the two then
/// turn round.
async fn reading_alone_sees_an_order_that_exists(engine: Shared) {
    put(&engine, &[("x", "0"), ("y", "0")]).await;
    let mut withdraw = engine.begin().await.expect("begin");
    assert_eq!(read(&mut withdraw, "x").await.as_deref(), Some("0"));
    assert_eq!(read(&mut withdraw, "y").await.as_deref(), Some("0"));
    put(&engine, &[("y", "20")]).await;
    let mut report = engine.begin().await.expect("begin");
    let seen = (read(&mut report, "x").await, read(&mut report, "y").await);
    assert_eq!(seen, (Some("0".into()), Some("20".into())));
    assert_eq!(report.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
    withdraw.put(b"x".to_vec(), b"-11".to_vec());
    assert_eq!(withdraw.commit(Durability::Durable).await, Ok(CommitOutcome::Conflict));
}

async fn scans_walk_past_removed_rows(engine: Shared) {
    let key = |index: u32| format!("k{index:04}");
    let mut txn = engine.begin().await.expect("begin");
    (0..300).for_each(|index| txn.put(key(index).into_bytes(), b"1".to_vec()));
    assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
    let mut txn = engine.begin().await.expect("begin");
    (20..290).for_each(|index| txn.delete(key(index).into_bytes()));
    assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
    let mut after = engine.begin().await.expect("begin");
    let forward = scan(&mut after, "k0015", "l", 7, Order::Forward).await;
    assert_eq!(forward, ["k0015=1", "k0016=1", "k0017=1", "k0018=1", "k0019=1", "k0290=1", "k0291=1"]);
    let reverse = scan(&mut after, "k", "k0292", 4, Order::Reverse).await;
    assert_eq!(reverse, ["k0291=1", "k0290=1", "k0019=1", "k0018=1"]);
    // What was removed is guarded as well.
    after.put(b"out".to_vec(), b"x".to_vec());
    put(&engine, &[("k0100", "back")]).await;
    assert_eq!(after.commit(Durability::Durable).await, Ok(CommitOutcome::Conflict));
}

async fn any_bytes_are_keys_and_values(engine: Shared) {
    let keys: [&[u8]; 6] = [&[0], &[0, 0], &[0, 0xff], &[1, 0x27, 0x5c, 0x22], &[0x7f, 0xff, 0xff], &[0xfe, 0xff, 0]];
    let mut txn = engine.begin().await.expect("begin");
    for key in keys {
        txn.put(key.to_vec(), if key.len() == 2 { Vec::new() } else { key.to_vec() });
    }
    assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
    let mut after = engine.begin().await.expect("begin");
    assert_eq!(after.get(&[0, 0]).await.expect("get").as_deref(), Some(&[][..]), "empty is not absent");
    let all = KeyRange { start: vec![0], end: vec![0xff] };
    let rows = after.scan(&all, 10, Order::Forward).await.expect("scan");
    assert_eq!(rows.iter().map(|(key, _)| key.to_vec()).collect::<Vec<_>>(), keys.map(<[u8]>::to_vec));
    assert!(rows.iter().all(|(key, value)| if key.len() == 2 { value.is_empty() } else { key == value }));
}

async fn many_reads_are_all_guarded(engine: Shared) {
    const READS: u32 = 400;
    let key = |index: u32| format!("r{index:04}");
    let mut txn = engine.begin().await.expect("begin");
    (0..READS).step_by(2).for_each(|index| txn.put(key(index).into_bytes(), b"1".to_vec()));
    assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
    for changed in [None, Some(READS - 2), Some(READS - 1), Some(0)] {
        let mut txn = engine.begin().await.expect("begin");
        let keys: Vec<Vec<u8>> = (0..READS).map(|index| key(index).into_bytes()).collect();
        let found = txn.get_many(&keys).await.expect("get");
        assert!(found.iter().zip(0..).all(|(value, index)| value.is_some() == (index % 2 == 0) || changed == Some(0)));
        txn.put(b"out".to_vec(), b"x".to_vec());
        if let Some(index) = changed {
            put(&engine, &[(&key(index), "2")]).await;
        }
        let expected = if changed.is_some() { CommitOutcome::Conflict } else { CommitOutcome::Done };
        assert_eq!(txn.commit(Durability::Durable).await, Ok(expected), "{changed:?}");
    }
}

fn big_key(index: u32) -> Vec<u8> {
    format!("big{index:05}").into_bytes()
}

/// A thousand writes, four mebibytes.
fn write_big(txn: &mut Box<dyn Txn>, byte: u8) {
    (0..1000).for_each(|index| txn.put(big_key(index), vec![byte; 4096]));
}

async fn a_big_transaction_is_one(engine: Shared) {
    let mut txn = engine.begin().await.expect("begin");
    assert_eq!(read(&mut txn, "flag").await, None);
    write_big(&mut txn, 1);
    txn.put(b"flag".to_vec(), b"on".to_vec());
    assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
    let mut txn = engine.begin().await.expect("begin");
    let rows = txn.scan(&KeyRange::prefix(b"big"), 2000, Order::Forward).await.expect("scan");
    assert_eq!(rows.len(), 1000);
    assert!(rows.iter().all(|(_, value)| value.len() == 4096 && value.iter().all(|byte| *byte == 1)));
    (0..1000).for_each(|index| txn.delete(big_key(index)));
    assert_eq!(txn.commit(Durability::Relaxed).await, Ok(CommitOutcome::Done));
    let mut after = engine.begin().await.expect("begin");
    assert!(after.scan(&KeyRange::prefix(b"big"), 2000, Order::Reverse).await.expect("scan").is_empty());
    assert_eq!(read(&mut after, "flag").await.as_deref(), Some("on"));
}

async fn a_big_transaction_conflicts_like_a_small_one(engine: Shared) {
    put(&engine, &[("flag", "1"), ("dir/a", "1")]).await;
    for meanwhile in ["flag", "dir/b"] {
        let mut txn = engine.begin().await.expect("begin");
        assert_eq!(read(&mut txn, "flag").await.as_deref(), Some("1"));
        assert_eq!(scan(&mut txn, "dir/", "dir0", 10, Order::Forward).await, ["dir/a=1"]);
        write_big(&mut txn, 2);
        put(&engine, &[(meanwhile, "2")]).await;
        assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Conflict), "{meanwhile}");
        let mut after = engine.begin().await.expect("begin");
        assert!(after.scan(&KeyRange::prefix(b"big"), 1, Order::Forward).await.expect("scan").is_empty());
        put(&engine, &[("flag", "1")]).await;
    }
}

/// Big transactions give all rows one value, small ones move a row's value to a counter; whoever looks sees a whole.
async fn big_and_small_transactions_do_not_tear(engine: Shared) {
    const ROUNDS: u8 = 3;
    put(&engine, &[("sum", "0")]).await;
    let big = tokio::spawn({
        let engine = engine.clone();
        async move {
            for round in 1..=ROUNDS {
                loop {
                    let mut txn = engine.begin().await.expect("begin");
                    (0..400).for_each(|index| txn.put(big_key(index), vec![round; 64]));
                    match txn.commit(Durability::Durable).await {
                        Ok(CommitOutcome::Done) => break,
                        Ok(CommitOutcome::Conflict) | Err(EngineError::Conflict) => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    });
    let mut small = Vec::new();
    for _ in 0..2 {
        let engine = engine.clone();
        small.push(tokio::spawn(async move { add(&engine, 15).await }));
    }
    while !big.is_finished() {
        let mut txn = engine.begin().await.expect("begin");
        match txn.scan(&KeyRange::prefix(b"big"), 1000, Order::Forward).await {
            Ok(rows) => {
                assert!(rows.is_empty() || rows.len() == 400, "{} rows", rows.len());
                assert!(rows.windows(2).all(|pair| pair[0].1 == pair[1].1), "a torn transaction");
            }
            Err(EngineError::Conflict) => {}
            Err(error) => panic!("{error}"),
        }
    }
    big.await.expect("the big transactions commit");
    for task in small {
        task.await.expect("the small transactions commit");
    }
    let mut after = engine.begin().await.expect("begin");
    assert_eq!(read(&mut after, "sum").await.as_deref(), Some("30"));
    assert_eq!(after.get(&big_key(399)).await.expect("get").as_deref(), Some(&[ROUNDS; 64][..]));
}

/// Adds one to a number, so many times, however many conflicts it takes.
async fn add(engine: &Shared, additions: u64) {
    let mut added = 0;
    while added < additions {
        let mut txn = engine.begin().await.expect("begin");
        let sum: u64 = match txn.get(b"sum").await {
            Ok(sum) => text(&sum.expect("there")).parse().expect("a number"),
            Err(EngineError::Conflict) => continue,
            Err(error) => panic!("{error}"),
        };
        tokio::task::yield_now().await;
        txn.put(b"sum".to_vec(), (sum + 1).to_string().into_bytes());
        match txn.commit(Durability::Durable).await {
            Ok(CommitOutcome::Done) => added += 1,
            Ok(CommitOutcome::Conflict) | Err(EngineError::Conflict) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Sixteen tasks add to one number under conflict: no addition is lost, none is done twice.
async fn additions_add_up(engine: Shared) {
    const TASKS: u64 = 16;
    const ADDITIONS: u64 = 8;
    put(&engine, &[("sum", "0")]).await;
    let mut tasks = Vec::new();
    for _ in 0..TASKS {
        let engine = engine.clone();
        tasks.push(tokio::spawn(async move { add(&engine, ADDITIONS).await }));
    }
    for task in tasks {
        task.await.expect("no task fails");
    }
    let mut after = engine.begin().await.expect("begin");
    assert_eq!(read(&mut after, "sum").await, Some((TASKS * ADDITIONS).to_string()));
}
