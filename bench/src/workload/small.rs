//! Files of 4 KiB, made, read and removed by one or many clients.

use super::{Durability, groups};
use crate::cluster::Cluster;
use crate::payload;
use crate::sample::{Latency, Sample, Unit, Watch};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use cairn_client::{CreateOptions, DfsClient, OpenOptions};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Length of a small file.
const SMALL_LEN: usize = 4096;
/// Files per client at most, however fast the cluster is.
const FILES_MAX: u64 = 50_000;

/// Samples of one round.
pub struct Round {
    /// Files made.
    pub create: Sample,
    /// Files opened and read.
    pub read: Sample,
    /// Files removed.
    pub remove: Sample,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Create,
    Read,
    Remove,
}

/// One client's part: its own directory.
#[derive(Clone)]
struct Worker {
    client: DfsClient,
    dir: String,
    pool: Bytes,
    durability: Durability,
    /// How long files are made, and read again and again.
    time: Duration,
}

/// Each client makes files for that long, reads them again and again for that long, removes them all.
pub async fn round(
    cluster: &Cluster,
    clients: &[DfsClient],
    dir: &str,
    pool: &Bytes,
    durability: Durability,
    time: Duration,
) -> Result<Round> {
    let setup = clients.first().context("no client")?;
    // Not `create_dir_all`: its looks at what is not there yet count as failed requests.
    setup.create_dir(dir).await.with_context(|| format!("making {dir}"))?;
    let mut workers = Vec::new();
    for (i, client) in clients.iter().enumerate() {
        let dir = format!("{dir}/client-{i}");
        client.create_dir(&dir).await.with_context(|| format!("making {dir}"))?;
        workers.push(Worker { client: client.clone(), dir, pool: pool.clone(), durability, time });
    }
    let mut files = vec![0; workers.len()];
    Ok(Round {
        create: phase(cluster, &workers, &mut files, Phase::Create).await?,
        read: phase(cluster, &workers, &mut files, Phase::Read).await?,
        remove: phase(cluster, &workers, &mut files, Phase::Remove).await?,
    })
}

/// Runs all workers at once; `files` is how many each has, set when they are made.
async fn phase(cluster: &Cluster, workers: &[Worker], files: &mut [u64], phase: Phase) -> Result<Sample> {
    let mut tasks = JoinSet::new();
    let watch = Watch::start(&groups(cluster)?)?;
    for (i, (worker, files)) in workers.iter().zip(files.iter()).enumerate() {
        let (worker, files) = (worker.clone(), *files);
        tasks.spawn(async move { (i, worker.run(phase, files).await) });
    }
    let (mut count, mut latency) = (0, Latency::new());
    while let Some(joined) = tasks.join_next().await {
        let (i, result) = joined.context("a client's task ended early")?;
        let (done, latencies) = result?;
        count += done;
        latency.add(&latencies);
        if phase == Phase::Create {
            files[i] = done;
        }
    }
    Ok(watch.stop(Unit::Operations, count)?.with_latency(latency))
}

impl Worker {
    /// Operations done, and how long each took.
    async fn run(&self, phase: Phase, files: u64) -> Result<(u64, Latency)> {
        let (begin, mut count, mut latency) = (Instant::now(), 0, Latency::new());
        loop {
            let is_over = match phase {
                Phase::Create => begin.elapsed() >= self.time || count == FILES_MAX,
                Phase::Read => begin.elapsed() >= self.time,
                Phase::Remove => count == files,
            };
            if is_over && (count > 0 || phase == Phase::Remove) {
                return Ok((count, latency));
            }
            let index = if phase == Phase::Read { count % files } else { count };
            let one = Instant::now();
            self.one(phase, index).await?;
            latency.record(one.elapsed());
            count += 1;
        }
    }

    async fn one(&self, phase: Phase, index: u64) -> Result<()> {
        let path = format!("{}/file-{index}", self.dir);
        let content = || payload::at(&self.pool, index * SMALL_LEN as u64, SMALL_LEN);
        match phase {
            Phase::Create => {
                let options = CreateOptions::new().relaxed(self.durability == Durability::Relaxed);
                let made = self.client.write_atomic(&path, content(), options).await;
                made.with_context(|| format!("making {path}"))?;
            }
            Phase::Read => {
                let options = OpenOptions::new().create(false);
                let file = self.client.open_with(&path, options).await.with_context(|| format!("opening {path}"))?;
                let found = file.read_at(0, SMALL_LEN).await.with_context(|| format!("reading {path}"))?;
                ensure!(found == content(), "{path} is not what was written");
            }
            Phase::Remove => {
                self.client.remove_file(&path).await.with_context(|| format!("removing {path}"))?;
            }
        }
        Ok(())
    }
}
