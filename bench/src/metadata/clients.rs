//! What clients do: each phase for all of them at once.

use super::Measured;
use crate::sample::Latency;
use anyhow::{Context, Result, ensure};
use cairn_chaos::cluster::Cluster;
use cairn_client::{DfsClient, OpenOptions};
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Files a client makes at most.
const FILES_MAX: u64 = 20_000;
/// Directories above a client's own.
const DEPTH: usize = 8;

/// Where the files are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// All in one directory.
    Flat,
    /// Those of each client in a directory of its own, eight below the root.
    Deep,
}

/// What is done, in the order it is done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Empty files, exclusively.
    Create,
    /// Attributes of files.
    Stat,
    /// Entries of directories.
    ReadDir,
    /// To another name in the same directory.
    Rename,
    /// All of them.
    Remove,
}

const PHASES: [Phase; 5] = [Phase::Create, Phase::Stat, Phase::ReadDir, Phase::Rename, Phase::Remove];

#[derive(Clone)]
struct Worker {
    client: DfsClient,
    dir: String,
    number: usize,
    time: Duration,
}

/// Every phase once.
///
/// # Errors
/// An operation failed.
pub async fn run(
    cluster: &Cluster,
    count: usize,
    layout: Layout,
    durable: bool,
    time: Duration,
) -> Result<Vec<(Phase, Measured)>> {
    // Past the proxy: it would be measured too.
    let connect = || DfsClient::builder().meta(cluster.meta().addr.to_string()).relaxed(!durable).connect();
    let top = format!("/{count}-{layout:?}-{durable}");
    let mut workers = Vec::new();
    for number in 0..count {
        let client = connect().await?;
        let dir = match layout {
            Layout::Flat => top.clone(),
            Layout::Deep => format!("{top}/c{number}{}", "/d".repeat(DEPTH)),
        };
        client.create_dir_all(&dir).await.with_context(|| format!("making {dir}"))?;
        workers.push(Worker { client, dir, number, time });
    }
    let mut files = vec![0; count];
    let mut phases = Vec::new();
    for phase in PHASES {
        phases.push((phase, all_at_once(&workers, &mut files, phase).await?));
    }
    let mut closing: JoinSet<()> = JoinSet::new();
    for worker in workers {
        closing.spawn(async move { worker.client.close().await });
    }
    closing.join_all().await;
    connect().await?.remove_dir_all(&top).await.with_context(|| format!("removing {top}"))?;
    Ok(phases)
}

async fn all_at_once(workers: &[Worker], files: &mut [u64], phase: Phase) -> Result<Measured> {
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for (index, (worker, files)) in workers.iter().zip(files.iter()).enumerate() {
        let (worker, files) = (worker.clone(), *files);
        tasks.spawn(async move { (index, worker.run(phase, files).await) });
    }
    let (mut count, mut latency) = (0, Latency::new());
    while let Some(joined) = tasks.join_next().await {
        let (index, result) = joined.context("a client's task ended early")?;
        let (done, latencies) = result.with_context(|| format!("{phase:?}"))?;
        count += done;
        latency.add(&latencies);
        if phase == Phase::Create {
            files[index] = done;
        }
    }
    Ok(Measured { count, seconds: begin.elapsed().as_secs_f64(), latency })
}

impl Worker {
    fn path(&self, renamed: bool, index: u64) -> String {
        format!("{}/{}{}-{index}", self.dir, if renamed { "r" } else { "f" }, self.number)
    }

    /// Operations done, and how long each took.
    async fn run(&self, phase: Phase, files: u64) -> Result<(u64, Latency)> {
        let (begin, mut count, mut latency) = (Instant::now(), 0, Latency::new());
        loop {
            let is_over = match phase {
                Phase::Create => begin.elapsed() >= self.time || count == FILES_MAX,
                Phase::Stat | Phase::ReadDir => begin.elapsed() >= self.time,
                Phase::Rename | Phase::Remove => count == files,
            };
            if is_over && (count > 0 || files == 0 || matches!(phase, Phase::Rename | Phase::Remove)) {
                return Ok((count, latency));
            }
            let one = Instant::now();
            match phase {
                Phase::Create => {
                    self.client.open_with(self.path(false, count), OpenOptions::new().create_new(true)).await?;
                    count += 1;
                }
                Phase::Stat => {
                    self.client.symlink_metadata(self.path(false, count % files)).await?;
                    count += 1;
                }
                Phase::ReadDir => {
                    let mut entries = self.client.read_dir(&self.dir).await?;
                    let before = count;
                    while entries.next_entry().await?.is_some() {
                        count += 1;
                    }
                    ensure!(count > before, "{} is listed as empty", self.dir);
                }
                Phase::Rename => {
                    self.client.rename(self.path(false, count), self.path(true, count)).await?;
                    count += 1;
                }
                Phase::Remove => {
                    self.client.remove_file(self.path(true, count)).await?;
                    count += 1;
                }
            }
            latency.record(one.elapsed());
        }
    }
}
