//! How fast the content of a lost store is made anew on the others, and what users notice of it: `cairn-bench repair`.
//!
//! A cluster of five processes is filled; then two nodes are killed, one after the other, and each time the clock runs
//! from the moment metadata calls the node out until every group is complete again. During the second repair a client
//! reads, as it did before. So that it can be told what readers feel, they are measured apart: healthy, beside threads that
//! do nothing but compute, while a node is drained (copies and nothing lost), from a kill until the node is out (lost and
//! nothing copied), and during the repair. Beside both stand what one local file and one connection over loopback take.

use crate::args::Args;
use crate::limits::{disk, tcp};
use crate::machine::{self, Machine};
use crate::payload;
use crate::sample::spread;
use anyhow::{Context, Result, bail, ensure};
use cairn_chaos::cluster::{Cluster, Setup};
use cairn_chaos::load::{Class, Ending, Kind, Load, Record, Target, Window, Work};
use cairn_chaos::payload::{Mark, content};
use cairn_chaos::quantile::Samples;
use cairn_chaos::whole::lacks;
use cairn_client::{Change, ClusterStatus, CreateOptions, DfsClient, OpenOptions, Subject, TaskState};
use disk::SyncEvery;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const NODES: u16 = 5;
const FILE_LEN: u64 = 64 << 20;
const SYNC_EVERY: SyncEvery = SyncEvery::Bytes(32 << 20);
/// Repair begins soon after a node died: what is measured is the copying.
const META_ARGS: [&str; 4] = ["--suspect-after", "2s", "--out-after", "3s"];
const HEALTHY: Duration = Duration::from_secs(10);
const HEALTHY_QUICK: Duration = Duration::from_secs(1);
/// Threads that compute, in the phase that shows what that alone does to readers.
const SPINNERS: usize = 1;
/// The node that is drained and added again. It is empty then, so another one is killed after it.
const DRAINED: u32 = 3;
const POLL: Duration = Duration::from_millis(20);
const REPAIR_MAX: Duration = Duration::from_secs(600);
/// How long reads may still take once the load has ended.
const PATIENCE: Duration = Duration::from_secs(60);
const CLASSES: [Class; 2] = [
    Class { name: "read_4k", per_s: 200.0, kind: Kind::Read(4096) },
    Class { name: "read_1m", per_s: 10.0, kind: Kind::Read(1 << 20) },
];
const MIB: f64 = (1 << 20) as f64;

/// Everything measured.
#[derive(Serialize)]
pub struct Report {
    version: &'static str,
    quick: bool,
    machine: Machine,
    /// Load averages before and after.
    load_average: [Vec<f64>; 2],
    /// Bytes of all files.
    file_bytes: u64,
    rounds: Vec<Round>,
    /// Over all rounds.
    medians: Medians,
}

/// One cluster's.
#[derive(Serialize)]
struct Round {
    raw_write_mib_per_s: f64,
    tcp_copy_mib_per_s: f64,
    /// Nothing else to do.
    idle: Repair,
    /// While a client reads.
    loaded: Repair,
    /// 99th percentile of reads, healthy and while the second node is repaired.
    reads: Vec<Reads>,
    /// All that was measured of reads, in order.
    phases: Vec<Phase>,
}

/// What reads felt of something.
#[derive(Serialize)]
struct Phase {
    name: &'static str,
    seconds: f64,
    /// By class of load.
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    failed: usize,
}

/// One node's content.
#[derive(Serialize)]
struct Repair {
    lost_bytes: u64,
    seconds: f64,
    mib_per_s: f64,
}

#[derive(Serialize)]
struct Reads {
    class: &'static str,
    healthy_p99_ms: f64,
    repair_p99_ms: f64,
    ratio: f64,
    failed: usize,
}

#[derive(Serialize)]
struct Medians {
    raw_write_mib_per_s: f64,
    tcp_copy_mib_per_s: f64,
    idle_mib_per_s: f64,
    loaded_mib_per_s: f64,
    read_4k_p99_ratio: f64,
    read_1m_p99_ratio: f64,
}

/// Measures as many rounds as were asked for.
///
/// # Errors
/// The cluster did not come up, did not heal, or a read failed to return.
pub async fn run(args: &Args) -> Result<Report> {
    let parent = args.data.clone().unwrap_or_else(std::env::temp_dir);
    let machine = machine::describe(&parent)?;
    let before = machine::load_average()?;
    let mut rounds = Vec::new();
    for number in 1..=args.rounds() {
        let round = round(args, &parent, u64::from(number)).await.with_context(|| format!("round {number}"))?;
        eprintln!(
            "repair: {:.0} MiB/s idle, {:.0} under load; {:.0} to a file, {:.0} over loopback",
            round.idle.mib_per_s, round.loaded.mib_per_s, round.raw_write_mib_per_s, round.tcp_copy_mib_per_s
        );
        for reads in &round.reads {
            let Reads { class, healthy_p99_ms, repair_p99_ms, ratio, failed } = reads;
            eprintln!("{class}: p99 {healthy_p99_ms:.1} -> {repair_p99_ms:.1} ms ({ratio:.2}), {failed} failed");
        }
        rounds.push(round);
    }
    let median = |field: &dyn Fn(&Round) -> f64| -> Result<f64> {
        let values: Vec<f64> = rounds.iter().map(field).collect();
        Ok(spread(&values).context("no rounds")?.1)
    };
    let medians = Medians {
        raw_write_mib_per_s: median(&|round| round.raw_write_mib_per_s)?,
        tcp_copy_mib_per_s: median(&|round| round.tcp_copy_mib_per_s)?,
        idle_mib_per_s: median(&|round| round.idle.mib_per_s)?,
        loaded_mib_per_s: median(&|round| round.loaded.mib_per_s)?,
        read_4k_p99_ratio: median(&|round| round.reads[0].ratio)?,
        read_1m_p99_ratio: median(&|round| round.reads[1].ratio)?,
    };
    let load_average = [before, machine::load_average()?];
    let (version, quick, file_bytes) = (env!("CARGO_PKG_VERSION"), args.quick, args.size());
    Ok(Report { version, quick, machine, load_average, file_bytes, rounds, medians })
}

async fn round(args: &Args, parent: &Path, seed: u64) -> Result<Round> {
    let (raw_write_mib_per_s, tcp_copy_mib_per_s) = limits(args, parent).await?;
    let cairn = crate::cluster::find_cairn(args.cairn.as_deref())?;
    let mut setup = Setup::new(cairn, parent.to_owned(), NODES, seed);
    setup.meta_args = META_ARGS.map(str::to_owned).to_vec();
    let cluster = Cluster::start(&setup).await?;
    let client = cluster.client().connect().await.context("connecting to the cluster")?;
    let watcher = cluster.client().connect().await.context("connecting to the cluster")?;
    let targets = fill(&client, args.size()).await?;
    let idle = repair(&cluster, &watcher, 0).await?;
    let reader = Reader { targets, seed };
    let calm = if args.quick { HEALTHY_QUICK } else { HEALTHY };
    let (healthy, ()) = reader.during("healthy", pause(calm)).await?;
    let (computing, ()) = reader.during("computing", compute(calm)).await?;
    let (drained, ()) = reader.during("drain", drain(&watcher, Change::Drain(Subject::Node(DRAINED)))).await?;
    drain(&watcher, Change::Add(Subject::Node(DRAINED))).await?;
    let load = reader.start().await;
    load.enter(Window::Fault0);
    let copying = || load.enter(Window::Fault2);
    let begun = Instant::now();
    let loaded = repair_with(&cluster, &watcher, 1, copying).await?;
    let until_out = begun.elapsed().as_secs_f64() - loaded.seconds;
    load.enter(Window::Healed);
    let record = load.finish(PATIENCE).await?;
    let killed = phase("killed", until_out, &record, Window::Fault0)?;
    let repaired = phase("repair", loaded.seconds, &record, Window::Fault2)?;
    let reads = (0..CLASSES.len()).map(|class| {
        let (healthy_p99_ms, repair_p99_ms) = (healthy.p99_ms[class], repaired.p99_ms[class]);
        let ratio = repair_p99_ms / healthy_p99_ms;
        Reads { class: CLASSES[class].name, healthy_p99_ms, repair_p99_ms, ratio, failed: repaired.failed }
    });
    let reads = reads.collect();
    let phases = vec![healthy, computing, drained, killed, repaired];
    client.close().await;
    watcher.close().await;
    Ok(Round { raw_write_mib_per_s, tcp_copy_mib_per_s, idle, loaded, reads, phases })
}

/// Reads of the same files, begun anew for each phase.
struct Reader {
    targets: Vec<Target>,
    seed: u64,
}

impl Reader {
    /// Begins to read, and lets connections open and timers learn for a moment.
    async fn start(&self) -> Load {
        let work = Work { targets: self.targets.clone(), slots: None };
        let load = Load::start(work, &CLASSES, self.seed);
        tokio::time::sleep(HEALTHY_QUICK).await;
        load
    }

    async fn during<T>(&self, name: &'static str, work: impl Future<Output = Result<T>>) -> Result<(Phase, T)> {
        let load = self.start().await;
        load.enter(Window::Healthy);
        let begun = Instant::now();
        let done = work.await?;
        let seconds = begun.elapsed().as_secs_f64();
        load.enter(Window::Healed);
        let record = load.finish(PATIENCE).await?;
        Ok((phase(name, seconds, &record, Window::Healthy)?, done))
    }
}

fn phase(name: &'static str, seconds: f64, record: &Record, window: Window) -> Result<Phase> {
    let within = || record.events.iter().filter(|event| event.window == window);
    let mut phase = Phase { name, seconds, p50_ms: Vec::new(), p99_ms: Vec::new(), failed: 0 };
    for (class, what) in CLASSES.iter().enumerate() {
        let mut samples = Samples::default();
        within().filter(|event| event.class == class).for_each(|event| samples.push(event.latency));
        ensure!(!samples.is_empty(), "no {} in {name}: give more data with --size", what.name);
        phase.p50_ms.push(samples.quantile(0.5).as_secs_f64() * 1e3);
        phase.p99_ms.push(samples.quantile(0.99).as_secs_f64() * 1e3);
    }
    phase.failed = within().filter(|event| event.ending != Ending::Ok).count();
    let show = |ms: &[f64]| ms.iter().map(|ms| format!("{ms:.1}")).collect::<Vec<_>>().join(", ");
    eprintln!("{name} ({seconds:.1} s): p50 {} ms, p99 {} ms", show(&phase.p50_ms), show(&phase.p99_ms));
    Ok(phase)
}

async fn pause(time: Duration) -> Result<()> {
    tokio::time::sleep(time).await;
    Ok(())
}

/// Threads that do nothing but compute, as copying would if it did nothing else.
async fn compute(time: Duration) -> Result<()> {
    let spin = move || {
        let until = Instant::now() + time;
        while Instant::now() < until {
            std::hint::black_box(cairn_proto::checksum::crc32c(&[7; 4096]));
        }
    };
    let spinners: Vec<_> = (0..SPINNERS).map(|_| tokio::task::spawn_blocking(spin)).collect();
    for spinner in spinners {
        spinner.await?;
    }
    Ok(())
}

/// Has memberships moved, and waits until all have.
async fn drain(watcher: &DfsClient, change: Change) -> Result<()> {
    let task = watcher.admin().start_task(change).await?.task.id;
    loop {
        let tasks = watcher.admin().list_tasks().await?;
        if tasks.iter().any(|known| known.id == task && known.state == TaskState::Done) {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    until(watcher, is_whole).await
}

/// What the machine can do: a file written and synced every 32 MiB, and a copy over loopback, of as many bytes as a node
/// is going to lose.
async fn limits(args: &Args, parent: &Path) -> Result<(f64, f64)> {
    let (parent, size) = (parent.to_owned(), args.size());
    let work = move || -> Result<(f64, f64)> {
        let dir = TempDir::with_prefix_in("cairn-bench-", &parent).context("making a scratch directory")?;
        let pool = payload::pool();
        let write = disk::write(dir.path(), &pool, size, SYNC_EVERY)?;
        Ok((write.rate(), tcp::copy(size)?.rate()))
    };
    tokio::task::spawn_blocking(work).await?
}

/// Files of as many bytes together, open for reading.
async fn fill(client: &DfsClient, bytes: u64) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for id in 0..bytes.div_ceil(FILE_LEN) as u32 {
        let (path, len) = (format!("/file-{id}"), FILE_LEN.min(bytes));
        let bytes = content(Mark { file: id, seq: 0 }, 0, len as usize);
        client.write_atomic(&path, bytes, CreateOptions::new()).await.with_context(|| format!("making {path}"))?;
        let file = client.open_with(&path, OpenOptions::new().create(false)).await?;
        targets.push(Target { file, id, len });
    }
    Ok(targets)
}

async fn repair(cluster: &Cluster, watcher: &DfsClient, victim: usize) -> Result<Repair> {
    repair_with(cluster, watcher, victim, || ()).await
}

/// Kills a node, and measures from the moment it is out until all that it held is elsewhere.
async fn repair_with(cluster: &Cluster, watcher: &DfsClient, victim: usize, copying: impl Fn()) -> Result<Repair> {
    let id = victim as u32 + 1;
    until(watcher, is_whole).await.context("waiting for a whole cluster")?;
    let status = watcher.cluster_status().await?;
    let node = status.nodes.iter().find(|node| node.id == id).context("the node is not known")?;
    let lost_bytes = node.used_bytes;
    cluster.nodes()[victim].kill()?;
    let is_out = |status: &ClusterStatus| status.nodes.iter().any(|node| node.id == id && node.state == "out");
    until(watcher, is_out).await.context("waiting for the killed node to be out")?;
    let begun = Instant::now();
    copying();
    until(watcher, is_whole).await.context("waiting for the repair")?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Repair { lost_bytes, seconds, mib_per_s: lost_bytes as f64 / MIB / seconds })
}

fn is_whole(status: &ClusterStatus) -> bool {
    lacks(status).is_empty()
}

async fn until(watcher: &DfsClient, wanted: impl Fn(&ClusterStatus) -> bool) -> Result<()> {
    let begun = Instant::now();
    loop {
        let status = watcher.cluster_status().await?;
        if wanted(&status) {
            return Ok(());
        }
        if begun.elapsed() > REPAIR_MAX {
            bail!("not within {} s: {} {:?}", REPAIR_MAX.as_secs(), lacks(&status).join(", "), status.alarms);
        }
        tokio::time::sleep(POLL).await;
    }
}
