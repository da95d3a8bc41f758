//! One run: rounds of steps.

use crate::args::{Args, Step};
use crate::cluster::{self, Cluster};
use crate::limits::{Named, disk, echo, memory, tcp};
use crate::report::{Report, Results};
use crate::workload::{self, Durability, Troubles, sequential, small};
use crate::{machine, payload};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use disk::SyncEvery;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const MIB: u64 = 1024 * 1024;
/// As often as a streaming writer of the cluster commits.
const SYNC_SELDOM_LEN: u64 = 32 * MIB;
const SYNC_SELDOM: SyncEvery = SyncEvery::Bytes(SYNC_SELDOM_LEN);
const SYNC_OFTEN: SyncEvery = SyncEvery::Bytes(4 * MIB);
/// For the machine to get over the files of a round that were removed.
const ROUND_PAUSE: Duration = Duration::from_secs(5);
const CLIENTS_MANY: usize = 16;
/// Free space kept beyond what is written.
const SPACE_RESERVE: u64 = 1024 * MIB;

/// What all steps share.
struct Bench<'a> {
    args: &'a Args,
    scratch: PathBuf,
    pool: Bytes,
    cluster: Option<Cluster>,
    results: Results,
    troubles: Troubles,
}

/// Measures everything that was asked for. A step that fails is listed in the report, and the others go on.
///
/// # Errors
/// The cluster did not come up, the directory cannot be used, or has too little space.
pub async fn all(args: &Args) -> Result<Report> {
    let steps = args.steps();
    let parent = args.data.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&parent).with_context(|| format!("making {}", parent.display()))?;
    let machine = machine::describe(&parent)?;
    let needs_cluster = steps.iter().any(|step| step.needs_cluster());
    let cairn = needs_cluster.then(|| cluster::find_cairn(args.cairn.as_deref())).transpose()?;
    check_space(&parent, space_needed(args, &steps))?;
    let scratch = TempDir::with_prefix_in("cairn-bench-", &parent).context("making a scratch directory")?;
    let load_before = machine::load_average()?;
    let cluster = match cairn {
        Some(cairn) => {
            eprintln!("starting a cluster of {} nodes", cluster::NODES);
            let dir = scratch.path().to_owned();
            Some(tokio::task::spawn_blocking(move || Cluster::start(&cairn, &dir)).await??)
        }
        None => None,
    };
    let mut bench = Bench {
        args,
        scratch: scratch.path().to_owned(),
        pool: payload::pool(),
        cluster,
        results: Results::default(),
        troubles: Troubles::default(),
    };
    let mut failures = Vec::new();
    for round in 1..=args.rounds() {
        if round > 1 {
            tokio::time::sleep(ROUND_PAUSE).await;
        }
        let dir = TempDir::with_prefix_in("round-", scratch.path()).context("making a scratch directory")?;
        bench.scratch = dir.path().to_owned();
        for step in &steps {
            if let Err(error) = bench.step(*step, round).await {
                eprintln!("round {round}: {step:?} failed: {error:#}");
                failures.push(format!("round {round}, {step:?}: {error:#}"));
            }
        }
    }
    if let Some(Err(error)) = bench.cluster.take().map(Cluster::stop) {
        failures.push(format!("{error:#}"));
    }
    let load = [load_before, machine::load_average()?];
    Report::new(args, machine, load, &bench.results, needs_cluster.then_some(bench.troubles), failures)
}

/// Most bytes that lie on the disk at once, if the cluster gives nothing back before the end.
fn space_needed(args: &Args, steps: &[Step]) -> u64 {
    let replicas = u64::from(cluster::NODES);
    let files = |step: &Step| match step {
        Step::DurableSeq | Step::RelaxedSeq => replicas * u64::from(args.rounds()),
        Step::RawWrite => 3 + u64::from(args.cold),
        Step::RawWriteThree | Step::TcpFanoutFiles => 3,
        Step::PageCacheWrite => 1,
        _ => 0,
    };
    let files: u64 = steps.iter().map(files).sum();
    args.size().saturating_mul(files).saturating_add(SPACE_RESERVE)
}

fn check_space(dir: &Path, needed: u64) -> Result<()> {
    let space = rustix::fs::statvfs(dir).with_context(|| format!("looking at {}", dir.display()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    ensure!(
        free >= needed,
        "{} has {} MiB free, this run may need {} MiB; give another directory with --data or less with --size",
        dir.display(),
        free / MIB,
        needed / MIB
    );
    Ok(())
}

impl Bench<'_> {
    async fn step(&mut self, step: Step, round: u32) -> Result<()> {
        match step {
            Step::DurableSeq => self.sequential(Durability::Durable, round).await,
            Step::RelaxedSeq => self.sequential(Durability::Relaxed, round).await,
            Step::DurableSmallX1 => self.small(Durability::Durable, 1, round).await,
            Step::DurableSmallX16 => self.small(Durability::Durable, CLIENTS_MANY, round).await,
            Step::RelaxedSmallX1 => self.small(Durability::Relaxed, 1, round).await,
            Step::RelaxedSmallX16 => self.small(Durability::Relaxed, CLIENTS_MANY, round).await,
            _ => {
                let (dir, pool, size) = (self.scratch.clone(), self.pool.clone(), self.args.size());
                let (time, cold) = (self.args.phase() / 2, self.args.cold);
                let work = move || limit(step, &dir, &pool, size, time, cold);
                for (name, sample) in tokio::task::spawn_blocking(work).await?? {
                    self.results.limit(name, sample);
                }
                Ok(())
            }
        }
    }

    fn cluster(&self) -> Result<&Cluster> {
        self.cluster.as_ref().context("this step needs a cluster")
    }

    async fn sequential(&mut self, durability: Durability, round: u32) -> Result<()> {
        let client = workload::connect(self.cluster()?, durability).await?;
        let done = self.sequential_with(&client, durability, round).await;
        workload::close(&client, &mut self.troubles).await;
        done
    }

    async fn sequential_with(
        &mut self,
        client: &cairn_client::DfsClient,
        durability: Durability,
        round: u32,
    ) -> Result<()> {
        let (name, size) = (durability.name(), self.args.size());
        let path = format!("/{name}-seq-{round}");
        disk::settle(&self.scratch)?;
        let sample = sequential::write(self.cluster()?, client, &path, &self.pool, size, durability).await?;
        self.results.cluster(format!("{name}_seq_write"), sample);
        if self.args.cold {
            disk::drop_caches(&self.scratch)?;
        } else {
            disk::settle(&self.scratch)?;
        }
        let sample = sequential::read(self.cluster()?, client, &path, &self.pool, size).await?;
        self.results.cluster(format!("{name}_seq_read"), sample);
        client.remove_file(&path).await.context("removing the big file")
    }

    async fn small(&mut self, durability: Durability, count: usize, round: u32) -> Result<()> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(workload::connect(self.cluster()?, durability).await?);
        }
        disk::settle(&self.scratch)?;
        let dir = format!("/{}-small-x{count}-{round}", durability.name());
        let done = small::round(self.cluster()?, &clients, &dir, &self.pool, durability, self.args.phase()).await;
        for client in &clients {
            workload::close(client, &mut self.troubles).await;
        }
        let small::Round { create, read, remove } = done?;
        for (what, sample) in [("create", create), ("read", read), ("remove", remove)] {
            self.results.cluster(format!("{}_{what}_4k_x{count}", durability.name()), sample);
        }
        Ok(())
    }
}

/// One limit of the machine.
fn limit(step: Step, dir: &Path, pool: &Bytes, size: u64, time: Duration, cold: bool) -> Result<Vec<Named>> {
    disk::settle(dir)?;
    Ok(match step {
        Step::Memcpy => vec![("memcpy", memory::copy(pool, size)?)],
        Step::Crc32c => vec![("crc32c", memory::checksum(pool, size)?)],
        Step::FrameEcho => vec![("frame_echo_4k", echo::round_trips(pool, time)?)],
        Step::Append => vec![("append_4k_sync", disk::append(dir, pool, time)?)],
        Step::RawWrite => {
            let often = disk::write(dir, pool, size, SYNC_OFTEN)?;
            disk::settle(dir)?;
            let seldom = disk::write(dir, pool, size, SYNC_SELDOM)?;
            let mut samples = vec![("raw_write_sync_4m", often), ("raw_write_sync_32m", seldom)];
            disk::settle(dir)?;
            let direct = disk::write_direct(dir, pool, size, SYNC_SELDOM_LEN)?;
            samples.extend(direct.map(|sample| ("raw_write_direct", sample)));
            if cold {
                samples.push(("raw_read_cold", disk::read_cold(dir, pool, size)?));
            }
            samples
        }
        Step::RawWriteThree => vec![("raw_write_three", disk::write_three(dir, pool, size, SYNC_SELDOM)?)],
        Step::PageCacheWrite => vec![("page_cache_write", disk::write(dir, pool, size, SyncEvery::Never)?)],
        Step::TcpCopy => {
            vec![("tcp_copy", tcp::copy(size)?), ("tcp_copy_threads", tcp::copy_threads(pool, size)?)]
        }
        Step::TcpFanout => vec![("tcp_fan_out", tcp::fan_out(pool, size, None)?)],
        Step::TcpFanoutFiles => vec![("tcp_fan_out_files", tcp::fan_out(pool, size, Some(dir))?)],
        Step::DurableSeq
        | Step::RelaxedSeq
        | Step::DurableSmallX1
        | Step::DurableSmallX16
        | Step::RelaxedSmallX1
        | Step::RelaxedSmallX16 => unreachable!("steps of the cluster are no limits"),
    })
}
