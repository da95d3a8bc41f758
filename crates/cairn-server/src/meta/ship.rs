//! Ships the commits of an embedded engine, and snapshots of it, to storage nodes: should its only disk be lost, `cairn meta
//! recover` makes it anew from there. An acknowledged commit may miss the last moments; how many is shown.
//!
//! Each of [`SHIP_TARGETS`] tasks keeps one node supplied: first with a snapshot and, beside it, with all commits behind
//! it, as a log; when the log has grown long, with a new snapshot and a new log. A node that holds a whole snapshot can
//! thus always be recovered from, up to the last commit it acknowledged. What a node does not take in time is dropped,
//! and it gets a new snapshot when it is back: memory stays bounded, and no commit ever waits.

use crate::backoff::Backoff;
use crate::entropy;
use crate::limits::{
    SHIP_BATCH_BYTES, SHIP_BEHIND_AFTER, SHIP_GIVE_UP, SHIP_LOG_MIN, SHIP_PAUSE, SHIP_QUEUE_BYTES_MAX,
    SHIP_RETRY_PAUSE, SHIP_TARGETS, SHIP_TIMEOUT,
};
use crate::links::{CallError, Peers};
use crate::meta::own_view;
use crate::view::Peer;
use bytes::{Bytes, BytesMut};
use cairn_meta::Meta;
use cairn_meta::dump::{Dump, log_frame, log_prelude};
use cairn_meta::kv::CommitSink;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, MetalogFile, response};
use cairn_proto::status::{Code, Status};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long a task that has nothing to ship waits before it looks again.
const IDLE: Duration = Duration::from_secs(5);

/// Commits on their way to one node.
#[derive(Default)]
struct Queue {
    frames: VecDeque<(u64, Bytes)>,
    bytes: usize,
    /// Commits were dropped since the queue was cleared.
    overflowed: bool,
}

impl Queue {
    fn clear(&mut self) {
        *self = Self::default();
    }

    fn push(&mut self, last: u64, frame: &Bytes) {
        if self.overflowed {
            return;
        }
        if self.bytes + frame.len() > SHIP_QUEUE_BYTES_MAX {
            self.clear();
            self.overflowed = true;
            return;
        }
        self.bytes += frame.len();
        self.frames.push_back((last, frame.clone()));
    }

    /// The next frames, of commits up to `until`: at most a batch.
    fn take(&mut self, until: u64) -> Option<(u64, Bytes)> {
        let mut batch = BytesMut::new();
        let mut taken = None;
        while let Some((last, frame)) = self.frames.front() {
            if *last > until || (!batch.is_empty() && batch.len() + frame.len() > SHIP_BATCH_BYTES) {
                break;
            }
            batch.extend_from_slice(frame);
            taken = Some(*last);
            self.bytes -= frame.len();
            self.frames.pop_front();
        }
        taken.map(|last| (last, batch.freeze()))
    }

    /// Drops the commits up to `until`.
    fn skip(&mut self, until: u64) {
        while let Some((last, frame)) = self.frames.front() {
            if *last > until {
                return;
            }
            self.bytes -= frame.len();
            self.frames.pop_front();
        }
    }
}

/// How one node is supplied.
#[derive(Clone, Debug, Default)]
struct Supply {
    /// Number and address of the node; empty = none yet.
    node: Option<(u32, String)>,
    /// It holds a whole snapshot of this opening of metadata.
    whole: bool,
    /// The last commit it has.
    acked: u64,
    /// When it had all there was the last time.
    current: Option<Instant>,
    /// Why the last attempt failed; empty = it did not.
    trouble: String,
}

#[derive(Default)]
struct Target {
    queue: Mutex<Queue>,
    supply: Mutex<Supply>,
    wake: Notify,
}

/// What the committer hands commits to, and what status asks.
pub(crate) struct Shipped {
    targets: [Target; SHIP_TARGETS],
    /// Number of the last commit.
    newest: AtomicU64,
    begun: Instant,
}

impl CommitSink for Shipped {
    fn committed(&self, last: u64, writes: Vec<u8>) {
        let frame = Bytes::from(log_frame(last, &writes));
        self.newest.store(last, Ordering::Release);
        for target in &self.targets {
            target.queue.lock().push(last, &frame);
            target.wake.notify_one();
        }
    }
}

impl Shipped {
    pub(crate) fn new() -> Arc<Self> {
        let targets = std::array::from_fn(|_| Target::default());
        Arc::new(Self { targets, newest: AtomicU64::new(0), begun: cairn_net::now() })
    }

    /// How each node stands.
    pub(crate) fn report(&self) -> Vec<pb::MetalogTarget> {
        let newest = self.newest.load(Ordering::Acquire);
        let now = cairn_net::now();
        let of = |target: &Target| {
            let supply = target.supply.lock().clone();
            let (node, addr) = supply.node.unwrap_or_default();
            let since = supply.current.unwrap_or(self.begun);
            let late = !supply.whole || supply.acked < newest;
            let lag = if late { now.saturating_duration_since(since) } else { Duration::ZERO };
            pb::MetalogTarget {
                node,
                addr,
                whole: supply.whole,
                commits_behind: if supply.whole { newest.saturating_sub(supply.acked) } else { newest },
                lag_ms: u32::try_from(lag.as_millis()).unwrap_or(u32::MAX),
                trouble: supply.trouble,
            }
        };
        self.targets.iter().map(of).collect()
    }

    /// What an operator is told when too few of `nodes` storage nodes are supplied.
    pub(crate) fn alarm(&self, nodes: usize) -> Option<String> {
        let report = self.report();
        let late = |target: &&pb::MetalogTarget| u128::from(target.lag_ms) >= SHIP_BEHIND_AFTER.as_millis();
        let supplied = report.len() - report.iter().filter(late).count();
        let wanted = SHIP_TARGETS.min(nodes);
        (supplied < wanted).then(|| {
            let trouble = report.iter().find(|target| !target.trouble.is_empty());
            let why = trouble.map(|target| format!(": {}", target.trouble)).unwrap_or_default();
            format!(
                "the metadata's log is on {supplied} of {wanted} storage nodes{why}. Should this server's disk be lost now, \
                 the last changes are lost with it"
            )
        })
    }

    fn set(&self, index: usize, change: impl FnOnce(&mut Supply)) {
        change(&mut self.targets[index].supply.lock());
    }
}

/// Why a node is not supplied any further.
#[derive(Debug, Error)]
enum ShipError {
    #[error("there is no other storage node that is up")]
    NoNode,
    #[error("this server does not hold the duties yet")]
    NoDuties,
    #[error("metadata: {0}")]
    Meta(#[from] Status),
    #[error("the engine: {0}")]
    Engine(#[from] cairn_meta::kv::EngineError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("it fell too far behind and gets a new snapshot")]
    Overflow,
}

/// A file on the node that grows.
struct File {
    kind: MetalogFile,
    /// The epoch of the duties when the stream began: it tells this opening of metadata from others.
    epoch: u64,
    first: u64,
    len: u64,
}

/// Supplies nodes; one task for each of [`SHIP_TARGETS`].
pub(crate) struct Shipper {
    meta: Meta,
    peers: Arc<Peers>,
    shipped: Arc<Shipped>,
    index: usize,
}

impl Shipper {
    /// The tasks that supply nodes with what `shipped` hears.
    pub(crate) fn all(meta: &Meta, peers: Peers, shipped: &Arc<Shipped>) -> Vec<Self> {
        let peers = Arc::new(peers);
        let one = |index| Self { meta: meta.clone(), peers: peers.clone(), shipped: shipped.clone(), index };
        (0..SHIP_TARGETS).map(one).collect()
    }

    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::new(SHIP_RETRY_PAUSE, entropy::rng());
        let supplied = async {
            let mut avoid = None;
            loop {
                let Err((error, node)) = self.supply(avoid).await;
                avoid = node;
                match error {
                    ShipError::NoNode | ShipError::NoDuties => tracing::debug!("no node for the metadata's log yet"),
                    error => {
                        tracing::warn!(%error, "the metadata's log is not shipped");
                        self.shipped.set(self.index, |supply| supply.trouble = error.to_string());
                    }
                }
                sleep(backoff.pause()).await;
            }
        };
        let _: Option<std::convert::Infallible> = stop.run_until_cancelled(supplied).await;
        self.peers.close();
    }

    /// A node that no other task supplies, another one than `avoid` if there is one.
    async fn pick(&self, avoid: Option<u32>) -> Result<Peer, ShipError> {
        let taken: Vec<u32> = (0..SHIP_TARGETS)
            .filter(|index| *index != self.index)
            .filter_map(|index| self.shipped.targets[index].supply.lock().node.as_ref().map(|(node, _)| *node))
            .collect();
        let mut peers = own_view(&self.meta).await?.peers_up();
        peers.retain(|peer| !taken.contains(&peer.node.0));
        if peers.len() > 1 {
            peers.retain(|peer| Some(peer.node.0) != avoid);
        }
        let count = peers.len();
        (count > 0).then(|| peers.swap_remove(entropy::rng().usize(..count))).ok_or(ShipError::NoNode)
    }

    /// Supplies one node for as long as that works.
    async fn supply(&self, avoid: Option<u32>) -> Result<std::convert::Infallible, (ShipError, Option<u32>)> {
        let peer = self.pick(avoid).await.map_err(|error| (error, None))?;
        self.shipped.set(self.index, |supply| {
            let (node, trouble) = (Some((peer.node.0, peer.addr.clone())), String::new());
            *supply = Supply { node, trouble, current: supply.current, ..Supply::default() };
        });
        let failed = self.stream(&peer).await;
        self.shipped.set(self.index, |supply| {
            supply.node = None;
            supply.whole = false;
        });
        failed.map_err(|error| {
            // The same node again only where it was not at fault.
            let avoid = (!matches!(error, ShipError::Overflow | ShipError::Meta(_) | ShipError::NoDuties))
                .then_some(peer.node.0);
            (error, avoid)
        })
    }

    async fn begin_snapshot(&self, epoch: u64) -> Result<(Dump, File), ShipError> {
        let dump = self.meta.dump().await?;
        let first = dump.header().position;
        Ok((dump, File { kind: MetalogFile::Snapshot, epoch, first, len: 0 }))
    }

    async fn stream(&self, peer: &Peer) -> Result<std::convert::Infallible, ShipError> {
        let epoch = self.meta.duty_epoch().ok_or(ShipError::NoDuties)?;
        let target = &self.shipped.targets[self.index];
        target.queue.lock().clear();
        // Taken after the queue was cleared: whatever it does not hold is in the queue.
        let (dump, file) = self.begin_snapshot(epoch).await?;
        let mut log = File { kind: MetalogFile::Log, epoch, first: file.first, len: 0 };
        target.queue.lock().skip(log.first);
        let mut acked = log.first;
        let mut snapshot_len = 0;
        let mut snapshot = Some((dump, file));
        loop {
            let batch = {
                let mut queue = target.queue.lock();
                if queue.overflowed {
                    return Err(ShipError::Overflow);
                }
                queue.take(u64::MAX)
            };
            let idle = batch.is_none();
            if let Some((last, frames)) = batch {
                self.append_log(peer, &mut log, frames).await?;
                acked = last;
            }
            if let Some((dump, file)) = &mut snapshot {
                let piece = dump.next().await?;
                let complete = piece.is_none();
                self.append(peer, file, piece.unwrap_or_default().into(), complete).await?;
                if complete {
                    snapshot_len = file.len;
                    snapshot = None;
                }
            } else if log.len > SHIP_LOG_MIN.max(snapshot_len) {
                let (dump, file) = self.begin_snapshot(epoch).await?;
                // What the snapshot holds ends the former log, so that either can be gone on with.
                while let Some((_, frames)) = { target.queue.lock().take(file.first) } {
                    self.append_log(peer, &mut log, frames).await?;
                }
                acked = acked.max(file.first);
                log = File { kind: MetalogFile::Log, epoch, first: file.first, len: 0 };
                snapshot = Some((dump, file));
            } else if idle {
                // Woken or not: both mean to look again, together with whatever else was committed by then.
                let _ = timeout(IDLE, target.wake.notified()).await;
                sleep(SHIP_PAUSE).await;
            }
            let newest = self.shipped.newest.load(Ordering::Acquire);
            self.shipped.set(self.index, |supply| {
                supply.acked = acked;
                supply.whole |= snapshot_len > 0;
                if supply.whole && acked >= newest {
                    supply.current = Some(cairn_net::now());
                }
            });
        }
    }

    async fn append_log(&self, peer: &Peer, log: &mut File, frames: Bytes) -> Result<(), ShipError> {
        let body = if log.len == 0 { [&log_prelude()[..], &frames[..]].concat().into() } else { frames };
        self.append(peer, log, body, false).await
    }

    /// Appends to a file of the node; tries for a while.
    async fn append(&self, peer: &Peer, file: &mut File, body: Bytes, complete: bool) -> Result<(), ShipError> {
        let len = file.len + body.len() as u64;
        let ask = pb::AppendMetalog {
            cluster_id: Bytes::copy_from_slice(&self.meta.cluster_id().0),
            epoch: file.epoch,
            file: file.kind as i32,
            offset: file.len,
            complete,
            first: file.first,
        };
        let begun = cairn_net::now();
        let mut backoff = Backoff::new(SHIP_RETRY_PAUSE, entropy::rng());
        loop {
            let kind = Kind::AppendMetalog(ask.clone());
            let error = match self.peers.call_with(peer.node, &peer.addr, kind, body.clone(), SHIP_TIMEOUT).await {
                Ok(response::Kind::AppendMetalog(reply)) if reply.len == len => {
                    file.len = len;
                    return Ok(());
                }
                Ok(_) => return Err(CallError::Confused { addr: peer.addr.clone() }.into()),
                Err(error) => error,
            };
            let refused = error.status().is_some_and(|status| {
                matches!(status.code, Code::StaleEpoch | Code::Conflict | Code::WrongCluster | Code::Unsupported)
            });
            if refused || cairn_net::now().saturating_duration_since(begun) >= SHIP_GIVE_UP {
                return Err(error.into());
            }
            self.shipped.set(self.index, |supply| supply.trouble = error.to_string());
            sleep(backoff.pause()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: usize) -> Bytes {
        vec![7; len].into()
    }

    #[test]
    fn a_queue_gives_batches_up_to_a_commit_and_drops_what_is_too_much() {
        let mut queue = Queue::default();
        for last in [3, 5, 9] {
            queue.push(last, &frame(200 << 10));
        }
        assert_eq!(queue.take(2), None);
        let (last, bytes) = queue.take(5).expect("two");
        assert_eq!((last, bytes.len()), (5, 400 << 10));
        queue.push(10, &frame(200 << 10));
        queue.push(11, &frame(200 << 10));
        let (last, _) = queue.take(u64::MAX).expect("a batch");
        assert_eq!(last, 10, "three do not fit a batch");
        queue.skip(11);
        assert_eq!((queue.bytes, queue.take(u64::MAX)), (0, None));
        queue.push(12, &frame(SHIP_QUEUE_BYTES_MAX));
        queue.push(13, &frame(1));
        assert!(queue.overflowed && queue.frames.is_empty() && queue.bytes == 0);
        queue.push(14, &frame(1));
        assert!(queue.frames.is_empty(), "nothing before a new snapshot");
    }

    #[test]
    fn a_frame_larger_than_a_batch_goes_alone() {
        let mut queue = Queue::default();
        queue.push(1, &frame(SHIP_BATCH_BYTES + 1));
        queue.push(2, &frame(1));
        assert_eq!(queue.take(u64::MAX).map(|(last, bytes)| (last, bytes.len())), Some((1, SHIP_BATCH_BYTES + 1)));
        assert_eq!(queue.take(u64::MAX).map(|(last, _)| last), Some(2));
    }

    #[test]
    fn too_few_nodes_are_an_alarm_after_a_while() {
        let shipped = Shipped::new();
        assert_eq!(shipped.alarm(3), None, "it has just begun");
        shipped.committed(4, Vec::new());
        shipped.set(0, |supply| (supply.whole, supply.acked) = (true, 3));
        let report = shipped.report();
        assert_eq!(report.iter().map(|target| target.commits_behind).collect::<Vec<_>>(), [1, 4]);
        shipped.set(0, |supply| supply.acked = 4);
        assert_eq!(shipped.report()[0].lag_ms, 0);
    }
}
