//! PostgreSQL as an engine.

use super::{FIRST, FURTHER, RANDOM, battery_on, namespace_on, read, write, write_patiently};
use crate::engine::open;
use cairn_engines::{EngineUrl, OpenError};
use cairn_meta::kv::{CommitOutcome, EngineError};
use cairn_testbed::{Cut, Postgres, Relay};

async fn refused(url: &str) -> OpenError {
    let url: EngineUrl = url.parse().expect("a URL");
    match cairn_engines::open(&url, fastrand::Rng::with_seed(1)).await {
        Ok(_) => panic!("{url} should be refused"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_battery_on_postgres() {
    let postgres = Postgres::start(&[]).unwrap_or_else(|error| panic!("{error}"));
    battery_on(|name| postgres.url(name)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_namespace_on_postgres() {
    let postgres = Postgres::start(&[]).unwrap_or_else(|error| panic!("{error}"));
    namespace_on(&postgres.url(""), FIRST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_of_the_namespace_on_postgres() {
    let postgres = Postgres::start(&[]).unwrap_or_else(|error| panic!("{error}"));
    namespace_on(&postgres.url(""), FURTHER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_sequences_on_postgres() {
    let postgres = Postgres::start(&[]).unwrap_or_else(|error| panic!("{error}"));
    namespace_on(&postgres.url(""), RANDOM);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outages_of_postgres() {
    let mut postgres = Postgres::start(&[]).unwrap_or_else(|error| panic!("{error}"));
    let direct = open(&postgres.url("outages")).await;

    // The answer to a commit is lost: it happened, and the engine does not claim to know.
    let relay = Relay::start(postgres.addr()).await.expect("a relay");
    let relayed = open(&postgres.url_at(&relay.addr(), "outages")).await;
    relay.cut(Cut::AfterAnswer(b"COMMIT\0".to_vec()));
    assert_eq!(write(&relayed, "after", "1").await, Ok(CommitOutcome::Unknown));
    assert_eq!(read(&direct, "after").await.as_deref(), Some("1"));
    // The commit itself is lost: the same answer, and nothing happened.
    relay.cut(Cut::Before(b"COMMIT\0".to_vec()));
    assert_eq!(write(&relayed, "before", "1").await, Ok(CommitOutcome::Unknown));
    assert_eq!(read(&direct, "before").await, None);
    // What is lost before the commit is sent is certain not to have happened.
    relay.cut(Cut::Before(b"BEGIN".to_vec()));
    assert!(matches!(write(&relayed, "begin", "1").await, Err(EngineError::Unavailable { .. })));
    assert_eq!(write(&relayed, "begin", "2").await, Ok(CommitOutcome::Done), "it connects again by itself");

    // The server is away, and comes back with everything that was acknowledged.
    assert_eq!(write(&direct, "kept", "1").await, Ok(CommitOutcome::Done));
    postgres.crash();
    assert!(matches!(write(&direct, "lost", "1").await, Err(EngineError::Unavailable { .. })));
    postgres.restart().unwrap_or_else(|error| panic!("{error}"));
    write_patiently(&direct, "again", "1").await;
    assert_eq!(read(&direct, "kept").await.as_deref(), Some("1"));
    assert_eq!(read(&direct, "lost").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_work_on_postgres_is_said() {
    let postgres = Postgres::start(&["fsync=off"]).unwrap_or_else(|error| panic!("{error}"));
    let never = |error: OpenError, words: &str| match error {
        OpenError::Never { cause } => assert!(cause.contains(words), "{cause}"),
        OpenError::Away { cause } => panic!("another try does not help: {cause}"),
    };
    never(refused(&postgres.url("t")).await, "fsync");
    open(&format!("{}&allow_async=1", postgres.url("t"))).await;
    let wrong_password = postgres.url("t").replace("sesame", "barley");
    never(refused(&wrong_password).await, "password authentication failed");
    never(refused(&postgres.url("t").replace("/postgres?", "/nowhere?")).await, "nowhere");
    let free = "postgres://postgres:x@127.0.0.1:1/postgres";
    assert!(matches!(refused(free).await, OpenError::Away { .. }));
}
