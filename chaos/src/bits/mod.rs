//! AC10: bits that flip, in answers on their way and in blocks on disk. Every one must be noticed, ascribed to the node it
//! came from, and kept from the caller.
//!
//! Few flips at a time: the proxies of two of three nodes (another two each time) damage the next answer on each of their
//! connections, one read runs, and then reads go on undamaged until the client has noticed as many flips at each node as
//! its proxy made. A flip that makes a length longer is noticed only when nothing follows. Reads are not hedged: an answer
//! that lost a race is thrown away unread, and a flip in it is nobody's harm.

mod disk;

use crate::cluster::Cluster;
use crate::payload::{self, LINE, Mark};
use crate::proxy::{Direction, Family, FlipPlace, Mode};
use anyhow::{Context as _, Result, ensure};
use cairn_client::{ConnectionStats, CreateOptions, DfsClient, File, OpenOptions, ReadOptions};
use cairn_proto::NodeId;
use fastrand::Rng;
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const FILE: u32 = 1;
const FILE_LEN: u64 = 4 * 1024 * 1024;
/// Both lanes; all multiples of a line.
const SIZES: [usize; 4] = [4 * 1024, 16 * 1024, 128 * 1024, 512 * 1024];
/// One flip in this many may hit any byte of a frame, the others hit data.
const ANYWHERE_ONE_IN: u32 = 4;
/// How long a flip may stay unnoticed while reads go on: a length that became longer, on a connection that is not chosen
/// again, is noticed when that connection has stalled for 30 s.
const NOTICED_MAX: Duration = Duration::from_secs(45);
/// How long the whole may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between looks at counters when nothing has changed.
const LOOK: Duration = Duration::from_millis(2);

/// How much is damaged.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Decides every random choice.
    pub seed: u64,
    /// Flips in answers.
    pub on_the_way: u64,
    /// Flips on disk, in as many blocks.
    pub on_disk: u64,
}

/// What was counted.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Flips, on the way and on disk.
    pub injected: u64,
    /// Of these, noticed.
    pub detected: u64,
    /// Of these, ascribed to the node they came from.
    pub reported_with_node: u64,
    /// Bytes given to the caller that are not what was written.
    pub wrong_bytes: u64,
    /// Reads that failed.
    pub failed: u64,
    /// Reads.
    pub reads: u64,
    /// Flips that hit an answer nobody read any more; not among the injected.
    pub unread: u64,
    /// Flips that hit the data of an answer.
    pub in_data: u64,
    /// Flips that hit any byte of a frame.
    pub anywhere: u64,
    /// Flips that hit a block on disk.
    pub on_disk: u64,
    /// Connections that were closed because of a flip.
    pub connections_closed: u64,
}

/// What a client says of a node that tells of flips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Noticed {
    corrupt: u64,
    closed: u64,
    dials: u64,
    /// Answers that nobody waited for any more.
    unread: u64,
}

impl Noticed {
    fn of(stats: &ConnectionStats, node: usize) -> Self {
        let id = NodeId(node as u32 + 1);
        let mut noticed = Self::default();
        for node in stats.nodes.iter().filter(|stats| stats.node == id) {
            let closed = |reason: &str| node.pool.closes_by_reason.get(reason).copied().unwrap_or(0);
            noticed.corrupt += node.corrupt_blocks;
            noticed.closed += closed("protocol") + closed("stalled") + closed("drain");
            noticed.dials += node.pool.dial_failures + node.failed_probes;
            noticed.unread += node.pool.late_responses;
        }
        noticed
    }

    fn flips(self) -> u64 {
        self.corrupt + self.closed + self.dials
    }
}

/// Reads and counts what comes back.
struct Reader {
    file: File,
    random: Rng,
    outcome: Outcome,
}

impl Reader {
    async fn read(&mut self, mark: Mark, offset: u64, len: usize) {
        self.outcome.reads += 1;
        match self.file.read_at_with(offset, len, ReadOptions::new().hedge(false)).await {
            Ok(bytes) => {
                let missing = len.saturating_sub(bytes.len()) as u64;
                self.outcome.wrong_bytes += missing + payload::wrong_bytes(mark, offset, &bytes);
            }
            Err(error) => {
                tracing::warn!(%error, "a read failed");
                self.outcome.failed += 1;
            }
        }
    }

    async fn read_anything(&mut self) {
        let len = SIZES[self.random.usize(..SIZES.len())];
        let lines = (FILE_LEN - len as u64) / LINE as u64;
        let offset = self.random.u64(..=lines) * LINE as u64;
        self.read(Mark { file: FILE, seq: 0 }, offset, len).await;
    }
}

fn flips_of(cluster: &Cluster) -> Vec<u64> {
    let name = Family::FlipBit.name();
    cluster.node_counts().iter().map(|counts| counts.fired.get(name).copied().unwrap_or(0)).collect()
}

async fn write_file(client: &DfsClient, path: &str, file: u32, len: u64, block_len: u32) -> Result<File> {
    let options = OpenOptions::new().attributes(CreateOptions::new().block_len(block_len));
    let handle = client.open_with(path, options).await?;
    for (index, offset) in (0..len).step_by(block_len as usize).enumerate() {
        let data = payload::content(Mark { file, seq: 0 }, offset, block_len as usize);
        handle.write_block(index as u64, data).await.context("writing what will be read")?;
    }
    Ok(handle)
}

/// Damages answers, then blocks.
///
/// # Errors
/// The cluster fails without any damage, or flips cannot be made at the rate that is needed.
pub async fn run(cluster: &Cluster, settings: Settings) -> Result<Outcome> {
    let client = cluster.client().seed(settings.seed).connect().await.context("connecting to the cluster")?;
    let file = write_file(&client, "/bits", FILE, FILE_LEN, 1024 * 1024).await?;
    let mut reader = Reader { file, random: Rng::with_seed(settings.seed), outcome: Outcome::default() };
    on_the_way(cluster, &client, &mut reader, settings.on_the_way).await?;
    disk::run(cluster, &client, &mut reader, settings.on_disk).await?;
    client.close().await;
    Ok(reader.outcome)
}

async fn on_the_way(cluster: &Cluster, client: &DfsClient, reader: &mut Reader, wanted: u64) -> Result<()> {
    let begun = Instant::now();
    let nodes = cluster.nodes().len();
    for shot in 1.. {
        if reader.outcome.injected >= wanted {
            break;
        }
        ensure!(begun.elapsed() < PATIENCE, "{} of {wanted} flips in {PATIENCE:?}", reader.outcome.injected);
        let anywhere = reader.random.u32(..ANYWHERE_ONE_IN) == 0;
        let place = if anywhere { FlipPlace::Any } else { FlipPlace::Body };
        let clean = reader.random.usize(..nodes);
        let (flips, stats) = (flips_of(cluster), client.get_connection_stats().await);
        for (index, node) in cluster.nodes().iter().enumerate().filter(|(index, _)| *index != clean) {
            debug_assert_ne!(index, clean, "one replica stays clean");
            node.proxy.set(Direction::ToClient, Mode::FlipOnce { place, shot });
        }
        reader.read_anything().await;
        for node in cluster.nodes() {
            node.proxy.set(Direction::ToClient, Mode::Pass);
        }
        let before: Vec<Noticed> = (0..nodes).map(|node| Noticed::of(&stats, node)).collect();
        let settled = settle(cluster, client, reader, &flips, &before).await;
        for (index, node) in settled.into_iter().enumerate() {
            if node.noticed != node.injected {
                let Settled { injected, noticed, unread, .. } = node;
                tracing::warn!(node = index + 1, anywhere, injected, noticed, unread, "flips and notices differ");
            }
            reader.outcome.injected += node.injected;
            reader.outcome.unread += node.unread;
            // What was noticed beyond what was done would be a defect, too.
            reader.outcome.detected += node.noticed;
            reader.outcome.reported_with_node += node.noticed.min(node.injected);
            *(if anywhere { &mut reader.outcome.anywhere } else { &mut reader.outcome.in_data }) += node.injected;
            reader.outcome.connections_closed += node.closed;
        }
    }
    Ok(())
}

/// What one step did at one node.
struct Settled {
    injected: u64,
    noticed: u64,
    unread: u64,
    closed: u64,
}

/// Reads on until every flip was noticed, or for as long as one may stay unnoticed.
async fn settle(
    cluster: &Cluster,
    client: &DfsClient,
    reader: &mut Reader,
    flips: &[u64],
    before: &[Noticed],
) -> Vec<Settled> {
    let begun = Instant::now();
    loop {
        let (made, stats) = (flips_of(cluster), client.get_connection_stats().await);
        let nodes: Vec<Settled> = before
            .iter()
            .enumerate()
            .map(|(node, before)| {
                let (now, made) = (Noticed::of(&stats, node), made[node] - flips[node]);
                let noticed = now.flips() - before.flips();
                // An answer that came too late was dropped with its flip.
                let unread = (now.unread - before.unread).min(made.saturating_sub(noticed));
                Settled { injected: made - unread, noticed, unread, closed: now.closed - before.closed }
            })
            .collect();
        if nodes.iter().all(|node| node.noticed == node.injected) || begun.elapsed() > NOTICED_MAX {
            return nodes;
        }
        if begun.elapsed() > LOOK {
            reader.read_anything().await;
        } else {
            sleep(LOOK / 4).await;
        }
    }
}
