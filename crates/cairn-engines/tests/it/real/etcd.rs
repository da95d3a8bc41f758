//! etcd as an engine: three members.

use super::{FIRST, FURTHER, PATIENCE, RANDOM, battery_on, namespace_on, read, write, write_patiently};
use crate::engine::open;
use cairn_engines::{EngineUrl, OpenError};
use cairn_meta::kv::{CommitOutcome, Durability, Engine, EngineError, KeyRange, Order};
use cairn_testbed::{Cut, Etcd, Relay};
use std::sync::Arc;
use tokio::time::timeout;

fn start(members: usize, flags: &[&str]) -> Etcd {
    Etcd::start(members, flags).unwrap_or_else(|error| panic!("{error}"))
}

/// Writes more than fits into one request.
async fn write_big(engine: &Arc<dyn Engine>, value: u8) -> Result<CommitOutcome, EngineError> {
    let mut txn = engine.begin().await?;
    for index in 0..400u32 {
        txn.put([b"big".as_slice(), &index.to_be_bytes()].concat(), vec![value; 16]);
    }
    txn.commit(Durability::Durable).await
}

/// How many rows of a big transaction are visible, all with the same value.
async fn big_rows(engine: &Arc<dyn Engine>) -> (usize, Option<u8>) {
    let mut txn = engine.begin().await.expect("begin");
    let rows = txn.scan(&KeyRange::prefix(b"big"), 1000, Order::Forward).await.expect("scan");
    assert!(rows.windows(2).all(|pair| pair[0].1 == pair[1].1), "a torn transaction");
    (rows.len(), rows.first().map(|(_, value)| value[0]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_battery_on_etcd() {
    let etcd = start(3, &[]);
    battery_on(|name| etcd.url(name)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_namespace_on_etcd() {
    let etcd = start(3, &[]);
    namespace_on(&etcd.url(""), FIRST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_of_the_namespace_on_etcd() {
    let etcd = start(3, &[]);
    namespace_on(&etcd.url(""), FURTHER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_sequences_on_etcd() {
    let etcd = start(3, &[]);
    namespace_on(&etcd.url(""), RANDOM);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outages_of_etcd() {
    let mut etcd = start(3, &[]);
    let direct = open(&etcd.url("outages")).await;

    // The answer to a commit is lost: it happened, and the engine does not claim to know.
    let relay = Relay::start(etcd.endpoints()[0].clone()).await.expect("a relay");
    let relayed = open(&format!("etcd://{}/outages", relay.addr())).await;
    relay.cut(Cut::AfterAnswer(b"after the answer".to_vec()));
    assert_eq!(write(&relayed, "after the answer", "1").await, Ok(CommitOutcome::Unknown));
    assert_eq!(read(&direct, "after the answer").await.as_deref(), Some("1"));
    relay.cut(Cut::Before(b"before it came".to_vec()));
    assert_eq!(write(&relayed, "before it came", "1").await, Ok(CommitOutcome::Unknown));
    assert_eq!(read(&direct, "before it came").await, None);
    assert_eq!(write(&relayed, "next", "1").await, Ok(CommitOutcome::Done), "it connects again by itself");

    // A leader dies.
    assert_eq!(write(&direct, "kept", "1").await, Ok(CommitOutcome::Done));
    let leader = etcd.leader().expect("a leader");
    etcd.kill(leader);
    write_patiently(&direct, "without it", "1").await;
    assert_eq!(read(&direct, "kept").await.as_deref(), Some("1"));
    etcd.restart(leader).unwrap_or_else(|error| panic!("{error}"));

    // All are away and come back.
    etcd.restart_all().unwrap_or_else(|error| panic!("{error}"));
    write_patiently(&direct, "again", "1").await;
    assert_eq!(read(&direct, "kept").await.as_deref(), Some("1"));
    assert_eq!(read(&direct, "without it").await.as_deref(), Some("1"));
}

/// The owner of a big transaction ends at each of its steps; others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_big_transaction_without_its_owner() {
    let etcd = start(1, &[]);
    let direct = open(&etcd.url("big")).await;
    assert_eq!(write_big(&direct, 1).await, Ok(CommitOutcome::Done));
    // The key of the pending row, and the beginning of its value: version, state.
    let pending = |state: u8| [b"big\0\x62".as_slice(), &[0x12, 22, 1, state]].concat();
    let (prepared, committed) = (1, 2);
    let steps = [
        (Cut::Before(pending(prepared)), 1),
        (Cut::AfterAnswer(pending(prepared)), 1),
        (Cut::Before(pending(committed)), 1),
        (Cut::AfterAnswer(pending(committed)), 2),
    ];
    for (cut, left) in steps {
        let relay = Relay::start(etcd.endpoints()[0].clone()).await.expect("a relay");
        let owner = open(&format!("etcd://{}/big", relay.addr())).await;
        relay.cut_for_good(cut);
        let lost = tokio::spawn(async move { write_big(&owner, 2).await });
        timeout(PATIENCE, relay.was_cut()).await.expect("it comes to that step");
        lost.abort();
        // Whoever commits next settles what was left behind.
        assert_eq!(timeout(PATIENCE, write(&direct, "small", "1")).await, Ok(Ok(CommitOutcome::Done)));
        assert_eq!(big_rows(&direct).await, (400, Some(left)));
        assert_eq!(timeout(PATIENCE, write_big(&direct, 1)).await, Ok(Ok(CommitOutcome::Done)));
        assert_eq!(big_rows(&direct).await, (400, Some(1)));
    }
    // An answer that is lost on the way is found again while the line works.
    let relay = Relay::start(etcd.endpoints()[0].clone()).await.expect("a relay");
    let owner = open(&format!("etcd://{}/big", relay.addr())).await;
    relay.cut(Cut::AfterAnswer(pending(committed)));
    assert_eq!(write_big(&owner, 3).await, Ok(CommitOutcome::Done));
    assert_eq!(big_rows(&direct).await, (400, Some(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_work_on_etcd_is_said() {
    let etcd = start(1, &[]);
    let refused = async |url: &str| {
        let url: EngineUrl = url.parse().expect("a URL");
        cairn_engines::open(&url, fastrand::Rng::with_seed(1)).await.err().expect("it is refused")
    };
    assert!(matches!(refused("etcd://127.0.0.1:1/x").await, OpenError::Away { .. }));
    let endpoint = etcd.endpoints()[0].clone();
    let without = refused(&format!("etcd://ann:pw@{endpoint}/x")).await;
    assert!(matches!(&without, OpenError::Never { cause } if cause.contains("not enabled")), "{without}");
    for (path, body) in [
        ("/v3/auth/user/add", r#"{"name":"root","password":"rootpw"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/enable", "{}"),
    ] {
        assert!(etcd.post(path, body).is_some_and(|answer| answer.starts_with("HTTP/1.1 200")), "{path}");
    }
    let wrong = refused(&format!("etcd://root:nopw@{endpoint}/x")).await;
    assert!(matches!(&wrong, OpenError::Never { cause } if !cause.contains("nopw")), "{wrong}");
    let nobody = refused(&format!("etcd://{endpoint}/x")).await;
    assert!(matches!(&nobody, OpenError::Never { .. }), "{nobody}");
    let engine = open(&format!("etcd://root:rootpw@{endpoint}/x")).await;
    assert_eq!(write(&engine, "a", "1").await, Ok(CommitOutcome::Done));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_says_so_before_it_is() {
    let etcd = start(1, &["--quota-backend-bytes", "16777216"]);
    let engine = open(&format!("{}?quota=1M", etcd.url("x"))).await;
    assert_eq!(engine.pressure(), None);
    for index in 0..4 {
        let mut txn = engine.begin().await.expect("begin");
        txn.put(vec![1, index], vec![7; 1 << 19]);
        assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
    }
    // etcd tells the size of its file a moment later.
    let (again, why) = loop {
        let again = open(&format!("{}?quota=1M", etcd.url("x"))).await;
        if let Some(why) = again.pressure() {
            break (again, why);
        }
    };
    assert!(why.contains("quota") && why.contains("defrag"), "{why}");
    // Nothing is refused yet: what frees space has to pass.
    assert_eq!(write(&again, "a", "1").await, Ok(CommitOutcome::Done));
    // Beyond etcd's own quota it refuses, and that is no conflict and no outage.
    let full = loop {
        let mut txn = engine.begin().await.expect("begin");
        txn.put(vec![2], vec![7; 1 << 20]);
        match txn.commit(Durability::Durable).await {
            Ok(CommitOutcome::Done) => {}
            other => break other,
        }
    };
    assert!(matches!(full, Err(EngineError::Full { .. })), "{full:?}");
    assert!(engine.pressure().is_some());
}
