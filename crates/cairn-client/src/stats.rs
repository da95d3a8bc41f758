//! Counters of the connection layer, as `get_connection_stats()` shows them.

use crate::block_cache::BlockCacheStats;
use crate::error::{Error, FailureClass};
use crate::policy::breaker::BreakerState;
use crate::policy::histogram::Histogram;
use cairn_net::{LaneStats, WaitStats};
use cairn_proto::NodeId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The most recent failure.
#[derive(Clone, Debug)]
pub struct ErrorRecord {
    /// The node, when one node failed; `None` for an operation as a whole and for metadata.
    pub node: Option<NodeId>,
    /// Its address; empty for an operation as a whole.
    pub addr: String,
    /// What was asked.
    pub op: String,
    /// How it failed; `None` for an operation as a whole.
    pub class: Option<FailureClass>,
    /// In words.
    pub message: String,
    /// Since the client was made.
    pub at: Duration,
}

/// Latencies of one kind of request to one node, or of one kind of operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// Half of them took at most this.
    pub p50: Duration,
    /// 95 % took at most this.
    pub p95: Duration,
    /// 99 % took at most this.
    pub p99: Duration,
    /// 99.9 % took at most this.
    pub p999: Duration,
}

impl Quantiles {
    pub(crate) fn of(quantile: impl Fn(f64) -> Option<Duration>) -> Self {
        let at = |q| quantile(q).unwrap_or_default();
        Self { p50: at(0.5), p95: at(0.95), p99: at(0.99), p999: at(0.999) }
    }
}

/// What a node's small or large requests look like from here.
#[derive(Clone, Debug, Default)]
pub struct ClassStats {
    /// Peak moving average of the latency: jumps up at once, decays.
    pub ewma: Duration,
    /// Smoothed round trip of whole requests (RFC 6298).
    pub srtt: Duration,
    /// Its mean deviation (RFC 6298).
    pub rttvar: Duration,
    /// Soft attempt timer: after this a further replica may be asked beside this one.
    pub timer: Duration,
    /// Latencies of the last ten seconds.
    pub recent: Quantiles,
}

/// One node's connections as this client sees them.
#[derive(Clone, Debug)]
pub struct NodeConnectionStats {
    /// The node; 0 for a metadata server.
    pub node: NodeId,
    /// Its address.
    pub addr: String,
    /// State of its circuit breaker.
    pub state: BreakerState,
    /// Times the breaker opened.
    pub breaker_opens: u64,
    /// Why it opened the last time; empty when it never did.
    pub open_reason: &'static str,
    /// Requests without an answer yet.
    pub in_flight: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests failed.
    pub failed: u64,
    /// Reads of up to 64 KiB, and metadata reads.
    pub small: ClassStats,
    /// Reads of more than 64 KiB.
    pub bulk: ClassStats,
    /// Whatever waits for a disk.
    pub write: ClassStats,
    /// Time since the last byte came from it; `None` = never one.
    pub last_received: Option<Duration>,
    /// Round trip of handshakes and pings.
    pub ping_rtt: Duration,
    /// PINGs sent to see whether an idle or silent node lives.
    pub pings: u64,
    /// Probes sent over fresh connections to see whether an Open node lives again.
    pub probes: u64,
    /// Of these, unanswered.
    pub failed_probes: u64,
    /// Writes that went on after their operation had committed, now under way.
    pub stragglers: u64,
    /// Their bytes.
    pub straggler_bytes: u64,
    /// Blocks whose bytes did not match their checksums.
    pub corrupt_blocks: u64,
    /// Its connections.
    pub pool: PoolStats,
}

/// Connections of one lane by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneCounts {
    /// Being dialled.
    pub dialing: u64,
    /// Without a request.
    pub idle: u64,
    /// With at least one.
    pub busy: u64,
    /// Waiting for a cancelled request to leave.
    pub draining: u64,
    /// Finishing what they have, to be closed then.
    pub retired: u64,
}

impl LaneCounts {
    pub(crate) fn of(lane: &LaneStats) -> Self {
        Self {
            dialing: lane.dialing as u64,
            idle: lane.idle as u64,
            busy: lane.busy as u64,
            draining: lane.draining as u64,
            retired: lane.retired as u64,
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.dialing += other.dialing;
        self.idle += other.idle;
        self.busy += other.busy;
        self.draining += other.draining;
        self.retired += other.retired;
    }
}

/// Connections by state and what became of them.
#[derive(Clone, Debug, Default)]
pub struct PoolStats {
    /// Being dialled.
    pub dialing: u64,
    /// Established and taking requests: the sum of the next three.
    pub open: u64,
    /// Without a request.
    pub idle: u64,
    /// With at least one.
    pub busy: u64,
    /// Waiting for a cancelled request to leave.
    pub draining: u64,
    /// Finishing what they have, to be closed then.
    pub retired: u64,
    /// Of the open ones, those for large bodies.
    pub bulk_open: u64,
    /// Those that carry small requests, many at once.
    pub control: LaneCounts,
    /// Those that carry one large request at a time.
    pub bulk: LaneCounts,
    /// How long requests waited until a connection took them.
    pub wait: WaitStats,
    /// Frames whose body did not match its checksum.
    pub frame_crc_failures: u64,
    /// Requests that wait for a connection or for permits.
    pub waiting: u64,
    /// Successful dials.
    pub dials: u64,
    /// Failed dials.
    pub dial_failures: u64,
    /// Ended connections by reason.
    pub closes_by_reason: BTreeMap<&'static str, u64>,
    /// Requests sent once more because a reused connection turned out to be stale.
    pub stale_retries: u64,
    /// Requests cancelled.
    pub cancels: u64,
    /// Answers that came after nobody waited any more.
    pub late_responses: u64,
    /// Permits for requests that are taken.
    pub ops_taken: u64,
    /// Permits for body bytes that are taken.
    pub bytes_taken: u64,
    /// Tasks that belong to connections.
    pub tasks: u64,
}

impl PoolStats {
    fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.dialing, other.dialing),
            (&mut self.open, other.open),
            (&mut self.idle, other.idle),
            (&mut self.busy, other.busy),
            (&mut self.draining, other.draining),
            (&mut self.retired, other.retired),
            (&mut self.bulk_open, other.bulk_open),
            (&mut self.waiting, other.waiting),
            (&mut self.dials, other.dials),
            (&mut self.dial_failures, other.dial_failures),
            (&mut self.stale_retries, other.stale_retries),
            (&mut self.cancels, other.cancels),
            (&mut self.late_responses, other.late_responses),
            (&mut self.ops_taken, other.ops_taken),
            (&mut self.bytes_taken, other.bytes_taken),
            (&mut self.tasks, other.tasks),
            (&mut self.frame_crc_failures, other.frame_crc_failures),
            (&mut self.wait.count, other.wait.count),
            (&mut self.wait.sum_us, other.wait.sum_us),
        ] {
            *mine += theirs;
        }
        self.wait.max_us = self.wait.max_us.max(other.wait.max_us);
        self.wait.buckets.iter_mut().zip(other.wait.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.control.add(&other.control);
        self.bulk.add(&other.bulk);
        for (reason, count) in &other.closes_by_reason {
            *self.closes_by_reason.entry(reason).or_default() += count;
        }
    }
}

/// Legs by why they were begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttemptStats {
    /// The first of their operation and replica.
    pub first: u64,
    /// Because another replica failed.
    pub failover: u64,
    /// Because a whole round, or a connection to the same node, failed.
    pub retry: u64,
    /// Because an earlier one was slow.
    pub hedge: u64,
}

/// Second copies of slow requests.
#[derive(Clone, Debug, Default)]
pub struct HedgeStats {
    /// Begun.
    pub fired: u64,
    /// Answered before the first.
    pub won: u64,
    /// Given up because another leg was faster, or failed.
    pub lost: u64,
    /// Wanted and not begun, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
}

/// A token budget.
#[derive(Clone, Debug)]
pub struct BudgetStats {
    /// `retry` or `hedge`.
    pub name: &'static str,
    /// Tokens left.
    pub tokens: f64,
    /// Most tokens it holds.
    pub cap: f64,
    /// Requests it refused.
    pub refused: u64,
}

/// Circuit breakers of all nodes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BreakerStats {
    /// Times one opened.
    pub opened: u64,
    /// Times one closed again after a good probe.
    pub closed: u64,
    /// Not Closed now.
    pub open_now: u64,
    /// Probes sent.
    pub probes: u64,
    /// PINGs sent to idle or silent nodes.
    pub pings: u64,
}

/// Operations that wait until one of their replicas is back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParkingStats {
    /// Waiting now.
    pub now: u64,
    /// Ever parked.
    pub total: u64,
    /// Failed at once because too many waited.
    pub shed: u64,
}

/// Replicated writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteStats {
    /// Blocks that all their replicas held at the commit.
    pub all: u64,
    /// Blocks that a majority held, not all.
    pub quorum: u64,
    /// Tries in a group that found no majority.
    pub failed: u64,
    /// Replicas that had not answered when their block was good enough.
    pub stragglers: u64,
    /// Most bytes of stragglers to one node at any moment.
    pub straggler_bytes_max: u64,
    /// Stragglers given up, because too many were under way or for too long; repair brings the blocks.
    pub dropped: u64,
    /// Late acks that came in time to be part of the commit.
    pub late_in_commit: u64,
    /// Late acks told to metadata, which removed the degraded row.
    pub late_cleared: u64,
    /// Late acks that could not be told; the node finds out by itself.
    pub late_dropped: u64,
    /// Metadata mutations done.
    pub commits_done: u64,
    /// Metadata mutations refused or failed without effect.
    pub commits_failed: u64,
    /// Metadata mutations whose outcome is unknown.
    pub commits_unknown: u64,
}

/// Legs of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LegStats {
    /// What was asked, as in the wire protocol.
    pub op: &'static str,
    /// `first`, `failover`, `retry` or `hedge`.
    pub kind: &'static str,
    /// `ok`, `cancelled`, or how it failed.
    pub outcome: &'static str,
    /// How many.
    pub count: u64,
}

/// Changes of a breaker's state of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerTransition {
    /// Whose; 0 for metadata.
    pub node: NodeId,
    /// The state after it.
    pub to: &'static str,
    /// Why.
    pub reason: &'static str,
    /// How many.
    pub count: u64,
}

/// Operations of one kind.
#[derive(Clone, Debug, Default)]
pub struct OpStats {
    /// Name, as the call: `read`, `write`, ...
    pub op: &'static str,
    /// Ended well.
    pub ok: u64,
    /// Failed, by kind of error.
    pub failed: BTreeMap<&'static str, u64>,
    /// Latency since the client was made.
    pub latency: Quantiles,
    /// Sum of the latencies.
    pub latency_sum: Duration,
    /// Operations that took at most each of [`ConnectionStats::LATENCY_BOUNDS`]; the last entry counts all.
    pub latency_counts: Vec<u64>,
}

/// Latency of one kind of leg to one node.
#[derive(Clone, Debug)]
pub struct LegLatency {
    /// The node; 0 for a metadata server.
    pub node: NodeId,
    /// Its address.
    pub addr: String,
    /// What was asked.
    pub op: &'static str,
    /// Sum of the latencies.
    pub sum: Duration,
    /// Legs that took at most each of [`ConnectionStats::LATENCY_BOUNDS`]; the last entry counts all.
    pub counts: Vec<u64>,
}

/// What [`DfsClient::get_connection_stats`](crate::DfsClient::get_connection_stats) returns: totals since the client
/// was made.
///
/// `total_requests` counts operations of the caller (a write to three replicas is one); `legs` counts requests to
/// single servers.
#[derive(Clone, Debug, Default)]
pub struct ConnectionStats {
    /// Operations begun and ended.
    pub total_requests: u64,
    /// Of these, failed.
    pub failed_requests: u64,
    /// Bytes written to sockets.
    pub bytes_sent: u64,
    /// Bytes read from sockets.
    pub bytes_received: u64,
    /// The most recent failure, of an operation or of one of its legs.
    pub last_error: Option<ErrorRecord>,
    /// Operations by kind.
    pub operations: Vec<OpStats>,
    /// Requests sent to single servers, metadata included.
    pub legs: u64,
    /// Requests sent to storage nodes.
    pub node_legs: u64,
    /// Of all legs, failed (most of them unseen by the caller).
    pub failed_legs: u64,
    /// Legs by why they were begun.
    pub attempts: AttemptStats,
    /// Second copies of slow requests.
    pub hedges: HedgeStats,
    /// Token budgets.
    pub budgets: Vec<BudgetStats>,
    /// Circuit breakers.
    pub breakers: BreakerStats,
    /// Operations waiting for a replica to come back.
    pub parked: ParkingStats,
    /// Replicated writes and commits.
    pub writes: WriteStats,
    /// Blocks whose bytes did not match their checksums.
    pub corrupt_blocks: u64,
    /// Reads through the block cache; zeros without one.
    pub block_cache: BlockCacheStats,
    /// Connections of all nodes together.
    pub pool: PoolStats,
    /// Tasks of the client beside those of its connections.
    pub tasks: u64,
    /// Changes of state of circuit breakers.
    pub breaker_transitions: Vec<BreakerTransition>,
    /// Legs by kind.
    pub legs_by_kind: Vec<LegStats>,
    /// Latency of legs.
    pub leg_latencies: Vec<LegLatency>,
    /// Per node.
    pub nodes: Vec<NodeConnectionStats>,
}

impl ConnectionStats {
    /// Upper bounds of the latency counts, in ascending order; a last count without bound follows them.
    pub const LATENCY_BOUNDS: [Duration; 17] = [
        Duration::from_micros(50),
        Duration::from_micros(100),
        Duration::from_micros(250),
        Duration::from_micros(500),
        Duration::from_millis(1),
        Duration::from_micros(2500),
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(25),
        Duration::from_millis(50),
        Duration::from_millis(100),
        Duration::from_millis(250),
        Duration::from_millis(500),
        Duration::from_secs(1),
        Duration::from_millis(2500),
        Duration::from_secs(5),
        Duration::from_secs(10),
    ];

    /// Adds one node.
    pub(crate) fn add_node(&mut self, node: NodeConnectionStats) {
        self.pool.add(&node.pool);
        self.breakers.opened += node.breaker_opens;
        self.breakers.open_now += u64::from(matches!(node.state, BreakerState::Open | BreakerState::Probing));
        self.breakers.probes += node.probes;
        self.breakers.pings += node.pings;
        self.nodes.push(node);
    }
}

/// Operations of one kind, counted.
#[derive(Default)]
struct OpCell {
    latency: Histogram,
    ok: AtomicU64,
    failed: Mutex<BTreeMap<&'static str, u64>>,
}

/// The counters behind [`ConnectionStats`].
#[derive(Default)]
pub(crate) struct Counters {
    total_requests: AtomicU64,
    failed_requests: AtomicU64,
    operations: Mutex<BTreeMap<&'static str, Arc<OpCell>>>,
    legs: Mutex<BTreeMap<(&'static str, &'static str, &'static str), u64>>,
    pub(crate) legs_begun: AtomicU64,
    pub(crate) node_legs: AtomicU64,
    pub(crate) failed_legs: AtomicU64,
    pub(crate) first: AtomicU64,
    pub(crate) failovers: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) hedges: AtomicU64,
    pub(crate) hedges_won: AtomicU64,
    pub(crate) hedges_lost: AtomicU64,
    hedges_skipped: Mutex<BTreeMap<&'static str, u64>>,
    pub(crate) breakers_closed: AtomicU64,
    transitions: Mutex<BTreeMap<(NodeId, &'static str, &'static str), u64>>,
    pub(crate) writes_all: AtomicU64,
    pub(crate) writes_quorum: AtomicU64,
    pub(crate) writes_failed: AtomicU64,
    pub(crate) stragglers: AtomicU64,
    pub(crate) straggler_bytes_max: AtomicU64,
    pub(crate) stragglers_dropped: AtomicU64,
    pub(crate) late_in_commit: AtomicU64,
    pub(crate) late_cleared: AtomicU64,
    pub(crate) late_dropped: AtomicU64,
    pub(crate) commits_done: AtomicU64,
    pub(crate) commits_failed: AtomicU64,
    pub(crate) commits_unknown: AtomicU64,
    pub(crate) corrupt_blocks: AtomicU64,
    last_error: Mutex<Option<ErrorRecord>>,
}

/// Adds one.
pub(crate) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    /// Counts an operation of the caller by its result.
    pub(crate) fn operation<T>(&self, op: &'static str, result: &Result<T, Error>, took: Duration, at: Duration) {
        bump(&self.total_requests);
        let cell = Arc::clone(self.operations.lock().entry(op).or_default());
        cell.latency.record(took);
        match result {
            Ok(_) => bump(&cell.ok),
            Err(error) => {
                bump(&self.failed_requests);
                *cell.failed.lock().entry(error.kind().name()).or_default() += 1;
                self.record(ErrorRecord {
                    node: None,
                    addr: String::new(),
                    op: error.operation().to_owned(),
                    class: None,
                    message: error.to_string(),
                    at,
                });
            }
        }
    }

    /// Counts a leg that ended.
    pub(crate) fn leg(&self, op: &'static str, kind: &'static str, outcome: &'static str) {
        *self.legs.lock().entry((op, kind, outcome)).or_default() += 1;
    }

    /// Counts a breaker's change of state.
    pub(crate) fn breaker(&self, node: NodeId, to: &'static str, reason: &'static str) {
        *self.transitions.lock().entry((node, to, reason)).or_default() += 1;
    }

    /// Counts a hedge that was wanted and not begun.
    pub(crate) fn hedge_skipped(&self, reason: &'static str) {
        *self.hedges_skipped.lock().entry(reason).or_default() += 1;
    }

    pub(crate) fn record(&self, record: ErrorRecord) {
        *self.last_error.lock() = Some(record);
    }

    pub(crate) fn snapshot(&self) -> ConnectionStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ConnectionStats {
            total_requests: get(&self.total_requests),
            failed_requests: get(&self.failed_requests),
            operations: self.operations.lock().iter().map(|(op, cell)| cell.stats(op)).collect(),
            legs: get(&self.legs_begun),
            node_legs: get(&self.node_legs),
            failed_legs: get(&self.failed_legs),
            attempts: AttemptStats {
                first: get(&self.first),
                failover: get(&self.failovers),
                retry: get(&self.retries),
                hedge: get(&self.hedges),
            },
            hedges: HedgeStats {
                fired: get(&self.hedges),
                won: get(&self.hedges_won),
                lost: get(&self.hedges_lost),
                skipped: self.hedges_skipped.lock().clone(),
            },
            breakers: BreakerStats { closed: get(&self.breakers_closed), ..BreakerStats::default() },
            writes: WriteStats {
                all: get(&self.writes_all),
                quorum: get(&self.writes_quorum),
                failed: get(&self.writes_failed),
                stragglers: get(&self.stragglers),
                straggler_bytes_max: get(&self.straggler_bytes_max),
                dropped: get(&self.stragglers_dropped),
                late_in_commit: get(&self.late_in_commit),
                late_cleared: get(&self.late_cleared),
                late_dropped: get(&self.late_dropped),
                commits_done: get(&self.commits_done),
                commits_failed: get(&self.commits_failed),
                commits_unknown: get(&self.commits_unknown),
            },
            corrupt_blocks: get(&self.corrupt_blocks),
            last_error: self.last_error.lock().clone(),
            breaker_transitions: self
                .transitions
                .lock()
                .iter()
                .map(|((node, to, reason), count)| BreakerTransition { node: *node, to, reason, count: *count })
                .collect(),
            legs_by_kind: self
                .legs
                .lock()
                .iter()
                .map(|((op, kind, outcome), count)| LegStats { op, kind, outcome, count: *count })
                .collect(),
            ..ConnectionStats::default()
        }
    }
}

/// How many values are at most each of [`ConnectionStats::LATENCY_BOUNDS`], and how many there are.
pub(crate) fn latency_counts(histogram: &Histogram) -> Vec<u64> {
    let mut counts = histogram.cumulative(&ConnectionStats::LATENCY_BOUNDS);
    // Values that come meanwhile must not make the total less than a part of it.
    counts.push(histogram.count().max(counts.last().copied().unwrap_or(0)));
    counts
}

impl OpCell {
    fn stats(&self, op: &'static str) -> OpStats {
        OpStats {
            op,
            ok: self.ok.load(Ordering::Relaxed),
            failed: self.failed.lock().clone(),
            latency: Quantiles::of(|q| self.latency.quantile(q)),
            latency_sum: self.latency.sum(),
            latency_counts: latency_counts(&self.latency),
        }
    }
}
