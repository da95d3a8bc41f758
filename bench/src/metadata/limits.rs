//! What stands under names: the engine's committer alone.

use anyhow::{Context, Result};
use cairn_meta::clock::SystemClock;
use cairn_meta::kv::{CommitOutcome, Durability, EmbeddedEngine, EmbeddedOptions, Engine};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const CACHE_BYTES: u64 = 64 << 20;
/// Bytes of the rows that a create writes: inode, dentry, times of the directory, slot.
const ROWS: [(u8, usize); 4] = [(0x10, 60), (0x12, 14), (0x11, 18), (0x32, 80)];

/// Durable transactions per second with the rows of a create and as many reads, from so many tasks that each wait for
/// theirs.
///
/// # Errors
/// The engine failed.
pub async fn committer(dir: &Path, tasks: usize, time: Duration) -> Result<f64> {
    let options = EmbeddedOptions { cache_bytes: CACHE_BYTES, clock: Arc::new(SystemClock::new()) };
    let path = dir.to_owned();
    let engine = tokio::task::spawn_blocking(move || EmbeddedEngine::open(&path, options)).await??;
    let engine = Arc::new(engine);
    let begin = Instant::now();
    let mut running = JoinSet::new();
    for task in 0..tasks as u64 {
        let engine = engine.clone();
        running.spawn(async move {
            let mut done = 0_u64;
            while begin.elapsed() < time {
                let mut txn = engine.begin().await?;
                for (index, (tag, len)) in ROWS.into_iter().enumerate() {
                    let mut key = vec![tag];
                    key.extend_from_slice(&task.to_be_bytes());
                    // The slot is one row for each client, the others are new.
                    key.extend_from_slice(&if index == 3 { 0 } else { done }.to_be_bytes());
                    if index != 2 {
                        txn.get(&key).await?;
                    }
                    txn.put(key, vec![0x5a; len]);
                }
                if txn.commit(Durability::Durable).await? == CommitOutcome::Done {
                    done += 1;
                }
            }
            anyhow::Ok(done)
        });
    }
    let mut count = 0;
    while let Some(done) = running.join_next().await {
        count += done.context("a task ended early")??;
    }
    let seconds = begin.elapsed().as_secs_f64();
    tokio::task::spawn_blocking(move || drop(engine)).await?;
    Ok(count as f64 / seconds)
}
