//! Tests that start servers.

mod etcd;
mod postgres;

use crate::engine::{URL_VAR, fresh_name, open};
use cairn_meta::kv::{CommitOutcome, Durability, Engine, EngineError, battery};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Longest a single promise may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The battery, each check on keys of its own below `url`.
async fn battery_on(url: impl Fn(&str) -> String) {
    for (name, check) in battery::all() {
        let engine = open(&url(&fresh_name())).await;
        let checked = timeout(PATIENCE, tokio::spawn(check(engine))).await;
        assert!(matches!(checked, Ok(Ok(()))), "{name}: {checked:?}");
    }
}

/// The tests of names, content, exactly once and sessions.
const FIRST: &[&str] = &["names::", "extents::", "once::", "sessions::"];
/// Those of what stands on them.
const FURTHER: &[&str] = &["dump::", "feed::", "locks::", "quota::", "snapshots::", "trash::"];
/// Random sequences against the model.
const RANDOM: &[&str] = &["posix::"];
/// Sequences of each of its tests.
const RANDOM_SEEDS: &str = "3";

/// Tests of the namespace, in a process of their own on the engine at `url`.
fn namespace_on(url: &str, tests: &[&str]) {
    let this = std::env::current_exe().expect("this program");
    let mut command = Command::new(this);
    command.args(tests).arg("--test-threads=4").env(URL_VAR, url);
    // What these show, they show on a map as well as here, and they would take minutes: rules that are left out, bytes of
    // a dump that are damaged, tables of locks. The last one counts turns of the runtime, and a server takes more of them.
    for skipped in ["snapshots::model::", "dump::every_damage", "locks::what_is_locked", "feed::a_late_commit"] {
        command.args(["--skip", skipped]);
    }
    // Properties cost a round trip where in memory they cost nothing.
    command.env("PROPTEST_CASES", "4").env("CAIRN_POSIX_SEEDS", RANDOM_SEEDS);
    // What this run of nextest has told us is not meant for that process.
    let told: Vec<String> = std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("NEXTEST")).collect();
    for name in told {
        command.env_remove(name);
    }
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !text.contains("running 0 tests"), "{text}");
}

/// One row, written in one transaction.
async fn write(engine: &Arc<dyn Engine>, key: &str, value: &str) -> Result<CommitOutcome, EngineError> {
    let mut txn = engine.begin().await?;
    txn.put(key.as_bytes().to_vec(), value.as_bytes().to_vec());
    txn.commit(Durability::Durable).await
}

async fn read(engine: &Arc<dyn Engine>, key: &str) -> Option<String> {
    let value = engine.begin().await.expect("begin").get(key.as_bytes()).await.expect("get");
    value.map(|value| String::from_utf8_lossy(&value).into_owned())
}

/// Tries until the engine serves again.
async fn write_patiently(engine: &Arc<dyn Engine>, key: &str, value: &str) {
    let tries = async {
        while write(engine, key, value).await != Ok(CommitOutcome::Done) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, tries).await.expect("the engine serves again");
}
