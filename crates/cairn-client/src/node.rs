//! One server as this client sees it: its connections, how busy and how well it looks, and the legs sent to it.

use crate::client::Inner;
use crate::error::{FailureClass, NodeFailure, Sent};
use crate::health::Health;
use crate::policy::breaker::{BreakerState, Hard};
use crate::policy::classify::{self, Evidence, OpKind};
use crate::policy::histogram::{Histogram, Recent};
use crate::policy::load::Load;
use crate::policy::timers::{Class, Timer};
use crate::record::{LegRecord, Record};
use crate::stats::{
    ClassStats, ErrorRecord, LaneCounts, LegLatency, NodeConnectionStats, PoolStats, Quantiles, bump, latency_counts,
};
use crate::trace::{LegFacts, LegSpan};
use cairn_net::{Body, Call, CloseReason, LegError, LegErrorClass, LegWatch, Link, Reply, Route};
use cairn_proto::NodeId;
use cairn_proto::op;
use cairn_proto::pb;
use cairn_proto::status::{Code, Status};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Kinds of traffic whose latencies have nothing to do with each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Traffic {
    /// Reads of up to 64 KiB, and metadata reads.
    Small,
    /// Larger reads.
    Bulk,
    /// Whatever waits for a disk to sync.
    Write,
    /// Requests that wait until something happens: how long says nothing about the server.
    Wait,
}

impl Traffic {
    pub(crate) const COUNT: usize = 4;

    pub(crate) fn class(self) -> Class {
        match self {
            Self::Small | Self::Wait => Class::Small,
            Self::Bulk | Self::Write => Class::Bulk,
        }
    }
}

/// Latencies of one kind of traffic.
#[derive(Default)]
struct Measure {
    load: Mutex<Load>,
    timer: Mutex<Timer>,
    recent: Recent,
    /// Pauses between the frames of an answer.
    gaps: Recent,
}

/// A server with its connections, whether storage node or metadata server (id 0).
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) addr: String,
    pub(crate) link: Link,
    pub(crate) health: Mutex<Health>,
    measures: [Measure; Traffic::COUNT],
    latencies: Mutex<BTreeMap<&'static str, Arc<Histogram>>>,
    flights: Mutex<Flights>,
    stragglers: Mutex<Stragglers>,
    answered: AtomicU64,
    failed: AtomicU64,
    pub(crate) corrupt_blocks: AtomicU64,
    /// The last dial whose failure was counted: all who waited for it share one failure.
    last_failed_dial: AtomicU64,
}

#[derive(Default)]
struct Flights {
    next: u64,
    begun: [BTreeMap<u64, Instant>; Traffic::COUNT],
}

#[derive(Default)]
struct Stragglers {
    jobs: usize,
    bytes: u64,
}

/// Legs that go on after their write committed: so many to one node at most...
const STRAGGLERS_MAX: usize = 1000;
/// ...and so many bytes. What is beyond is left to repair.
pub(crate) const STRAGGLER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A straggler's place; given back on drop.
pub(crate) struct StragglerPermit {
    node: Arc<Node>,
    bytes: u64,
}

impl Drop for StragglerPermit {
    fn drop(&mut self) {
        let mut stragglers = self.node.stragglers.lock();
        stragglers.jobs -= 1;
        stragglers.bytes -= self.bytes;
    }
}

/// Why a leg is begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LegKind {
    First,
    Failover,
    Hedge,
    Retry,
}

impl LegKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Failover => "failover",
            Self::Hedge => "hedge",
            Self::Retry => "retry",
        }
    }
}

/// One request to one server.
pub(crate) struct Leg {
    pub(crate) request: pb::Request,
    pub(crate) body: Body,
    pub(crate) deadline: Instant,
    pub(crate) kind: LegKind,
    pub(crate) attempt: u8,
    /// Largest body of the answer.
    pub(crate) response_max: u64,
    /// False when the caller holds end-to-end checksums against the body.
    pub(crate) verify_body: bool,
    pub(crate) route: Route,
}

impl Leg {
    /// A request without a body whose answer has none.
    pub(crate) fn plain(kind: pb::request::Kind, deadline: Instant) -> Self {
        Self {
            request: pb::Request { kind: Some(kind), ..Default::default() },
            body: Body::empty(),
            deadline,
            kind: LegKind::First,
            attempt: 0,
            response_max: 0,
            verify_body: true,
            route: Route::default(),
        }
    }
}

/// A failed leg: the record for the error report, and the server's answer if it gave one.
pub(crate) struct LegFailure {
    pub(crate) record: NodeFailure,
    pub(crate) status: Option<Status>,
    /// The connection it was tried on.
    pub(crate) connection: Option<u64>,
}

fn op_kind(request: &pb::Request, op: u16) -> OpKind {
    match op {
        op::PUT | op::SYNC | op::DELETE => OpKind::Put,
        _ if request.op_id.is_some() => OpKind::Mutation,
        _ if op::is_node_op(op) => OpKind::Read,
        _ => OpKind::MetaRead,
    }
}

impl Node {
    fn new(inner: &Inner, id: NodeId, addr: String) -> Self {
        Self {
            id,
            link: inner.link(&addr, id),
            addr,
            health: Mutex::new(Health::new(inner.now(), inner.unit())),
            measures: Default::default(),
            latencies: Mutex::default(),
            flights: Mutex::default(),
            stragglers: Mutex::default(),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            corrupt_blocks: AtomicU64::new(0),
            last_failed_dial: AtomicU64::new(u64::MAX),
        }
    }

    /// A storage node.
    pub(crate) fn storage(inner: &Inner, id: NodeId, addr: String) -> Self {
        Self::new(inner, id, addr)
    }

    /// A metadata server.
    pub(crate) fn meta(inner: &Inner, addr: String) -> Self {
        Self::new(inner, NodeId(0), addr)
    }

    /// State of its breaker.
    pub(crate) fn state(&self) -> BreakerState {
        self.health.lock().breaker.state()
    }

    /// True when requests may be sent to it.
    pub(crate) fn is_closed(&self) -> bool {
        self.health.lock().breaker.is_closed()
    }

    /// When a further leg may be begun beside one to this node.
    pub(crate) fn soft_after(&self, traffic: Traffic, len: u64, now: Duration) -> Duration {
        let measure = &self.measures[traffic as usize];
        let p999 = measure.recent.quantile(0.999, now);
        measure.timer.lock().soft(p999, len)
    }

    /// The soft timer of a leg to this node ran out.
    pub(crate) fn on_soft_expiry(&self, traffic: Traffic) {
        self.measures[traffic as usize].timer.lock().on_expiry();
    }

    pub(crate) fn bandwidth(&self, traffic: Traffic) -> Option<f64> {
        self.measures[traffic as usize].timer.lock().bandwidth()
    }

    /// 99th percentile of the pauses between frames of one answer.
    pub(crate) fn gap_p99(&self, now: Duration) -> Option<Duration> {
        self.measures[Traffic::Bulk as usize].gaps.quantile(0.99, now)
    }

    /// 99th percentile of everything, for the silence rule.
    pub(crate) fn p99(&self, now: Duration) -> Option<Duration> {
        self.measures.iter().filter_map(|measure| measure.recent.quantile(0.99, now)).max()
    }

    /// It is back after an outage: as slow as its slowest peer, at first.
    pub(crate) fn on_recovered(&self, peers: &[Arc<Self>], now: Duration) {
        for (index, measure) in self.measures.iter().enumerate() {
            let slowest = peers.iter().map(|peer| peer.measures[index].load.lock().latency(now)).max();
            measure.load.lock().on_recovered(slowest.unwrap_or_default(), now);
        }
    }

    /// The smaller, the sooner asked.
    pub(crate) fn score(&self, traffic: Traffic, now: Duration) -> Duration {
        let (oldest, count) = {
            let flights = self.flights.lock();
            let begun = &flights.begun[traffic as usize];
            (begun.values().next().map_or(Duration::ZERO, |begun| begun.elapsed()), begun.len())
        };
        self.measures[traffic as usize].load.lock().score(oldest, count, now)
    }

    /// Requests without an answer.
    pub(crate) fn in_flight(&self) -> usize {
        self.flights.lock().begun.iter().map(BTreeMap::len).sum()
    }

    /// A place for a leg that goes on behind its write; `None` when there are enough.
    pub(crate) fn straggle(self: &Arc<Self>, inner: &Inner, bytes: u64) -> Option<StragglerPermit> {
        let mut stragglers = self.stragglers.lock();
        if stragglers.jobs >= STRAGGLERS_MAX || stragglers.bytes + bytes > STRAGGLER_BYTES_MAX {
            bump(&inner.counters.stragglers_dropped);
            return None;
        }
        stragglers.jobs += 1;
        stragglers.bytes += bytes;
        inner.counters.straggler_bytes_max.fetch_max(stragglers.bytes, Ordering::Relaxed);
        Some(StragglerPermit { node: Arc::clone(self), bytes })
    }

    /// Begins a request. Dropping what is returned cancels it.
    pub(crate) fn start<'a>(&'a self, inner: &'a Inner, leg: Leg) -> Running<'a> {
        let op = leg.request.kind.as_ref().map_or(0, op::of);
        let counters = &inner.counters;
        bump(&counters.legs_begun);
        if self.id.0 != 0 {
            bump(&counters.node_legs);
        }
        match leg.kind {
            LegKind::First => bump(&counters.first),
            LegKind::Failover => bump(&counters.failovers),
            LegKind::Hedge => bump(&counters.hedges),
            LegKind::Retry => bump(&counters.retries),
        }
        let op_kind = op_kind(&leg.request, op);
        let traffic = match op_kind {
            _ if op == op::WATCH_CHANGES => Traffic::Wait,
            OpKind::Put | OpKind::Mutation => Traffic::Write,
            OpKind::Read | OpKind::MetaRead => match Class::of(leg.response_max) {
                Class::Small => Traffic::Small,
                Class::Bulk => Traffic::Bulk,
            },
        };
        let id = {
            let mut flights = self.flights.lock();
            let id = flights.next;
            flights.next += 1;
            flights.begun[traffic as usize].insert(id, Instant::now());
            id
        };
        self.health.lock().on_sent(inner.now());
        inner.health.wake();
        let kind = leg.kind;
        let route = leg.route;
        let sent_len = leg.body.len();
        let len = sent_len.max(leg.response_max);
        let facts =
            LegFacts { op: op::name(op), kind: kind.name(), node: self.id.0, addr: &self.addr, attempt: leg.attempt };
        let (span, trace_parent) = LegSpan::begin(inner, &facts);
        let call = Call {
            request: pb::Request { trace_parent, ..leg.request },
            body: leg.body,
            deadline: leg.deadline,
            attempt: leg.attempt,
            hedge: kind == LegKind::Hedge,
            retry: kind == LegKind::Retry,
            verify_body: leg.verify_body,
            response_max: leg.response_max,
        };
        let begun = Instant::now();
        let leg = self.link.start_on(call, route);
        let watch = leg.watch();
        let flight = Flight {
            inner,
            node: self,
            id,
            op: op::name(op),
            kind,
            traffic,
            begun,
            sent_len,
            watch,
            span,
            over: false,
        };
        Running { leg, flight, op_kind, len }
    }

    /// Sends one request and waits for its answer. Dropping the future cancels the request.
    pub(crate) async fn call(&self, inner: &Inner, leg: Leg) -> Result<Reply, LegFailure> {
        self.start(inner, leg).finish().await
    }

    /// A record of one failed attempt at this node.
    pub(crate) fn failure(
        &self,
        op: &'static str,
        class: FailureClass,
        sent: Sent,
        elapsed: Duration,
        message: String,
    ) -> NodeFailure {
        NodeFailure {
            node: self.id,
            addr: self.addr.clone(),
            op,
            class,
            sent,
            attempts: u32::from(class != FailureClass::Skipped),
            first: elapsed,
            last: elapsed,
            message,
            source: None,
        }
    }

    /// The record of a node that is not asked because its breaker is open.
    pub(crate) fn skipped(&self, op: &'static str, elapsed: Duration) -> NodeFailure {
        let message = self.health.lock().describe();
        self.failure(op, FailureClass::Skipped, Sent::No, elapsed, message)
    }

    /// False when the failure of this dial was counted before.
    pub(crate) fn is_new_dial_failure(&self, dial: Option<u64>) -> bool {
        dial.is_none_or(|dial| self.last_failed_dial.swap(dial, Ordering::Relaxed) != dial)
    }

    fn observe(&self, inner: &Inner, running: &Flight<'_>, len: u64, elapsed: Duration) {
        let now = inner.now();
        let histogram = Arc::clone(self.latencies.lock().entry(running.op).or_default());
        histogram.record(elapsed);
        if running.op == op::name(op::WAIT_LOCK) {
            // It waited for another client, which says nothing about the server.
            return;
        }
        let measure = &self.measures[running.traffic as usize];
        measure.load.lock().on_success(elapsed, now);
        measure.timer.lock().on_sample(elapsed, len, now);
        measure.recent.record(elapsed, now);
        let progress = running.watch.progress();
        if let Some(gap) = progress.max_gap {
            measure.gaps.record(gap, now);
        }
        if running.kind == LegKind::First && self.is_closed() {
            inner.first_legs(self, running.traffic).record(elapsed, now);
        }
    }

    fn on_failed(&self, inner: &Inner, running: &Flight<'_>, op_kind: OpKind, error: &LegError) -> LegFailure {
        let elapsed = running.begun.elapsed();
        let now = inner.now();
        let (class, status) = class_of(error);
        self.failed.fetch_add(1, Ordering::Relaxed);
        bump(&inner.counters.failed_legs);
        let event = classify::event_of(class, status.as_ref());
        let load = &self.measures[running.traffic as usize].load;
        match classify::rule(op_kind, &event).evidence {
            // It is there and works: nothing against it.
            Evidence::Answered => {
                load.lock().on_success(elapsed, now);
                self.health.lock().on_answer(now);
            }
            Evidence::Busy(pause) => load.lock().on_overloaded(pause, now),
            // Our own deadline says little about the server; its silence already counts in the score.
            Evidence::None => {}
            Evidence::Defect => load.lock().on_error(now),
            Evidence::Dial => {
                // The failure of a dial is one failure, however many waited for it.
                if self.is_new_dial_failure(error.dial) {
                    load.lock().on_error(now);
                    crate::health::on_hard_failure(inner, self, Hard::Dial);
                }
            }
            Evidence::Broken => {
                load.lock().on_error(now);
                crate::health::on_hard_failure(inner, self, Hard::Broken);
            }
        }
        let mut record = self.failure(running.op, class, sent_of(error), elapsed, error.to_string());
        record.source = error.source.clone();
        tracing::debug!(node = %self.id, addr = %self.addr, op = record.op, class = ?class, "{}", record.message);
        inner.counters.record(ErrorRecord {
            node: Some(self.id),
            addr: self.addr.clone(),
            op: record.op.to_owned(),
            class: Some(class),
            message: record.message.clone(),
            at: now,
        });
        LegFailure { record, status, connection: error.connection }
    }

    /// Everything worth knowing; bytes sent and received beside it.
    pub(crate) fn stats(&self, now: Duration) -> (NodeConnectionStats, Vec<LegLatency>, u64, u64) {
        let link = self.link.stats();
        let health = self.health.lock();
        let class = |traffic: Traffic| {
            let measure = &self.measures[traffic as usize];
            let timer = measure.timer.lock();
            ClassStats {
                ewma: measure.load.lock().latency(now),
                srtt: timer.srtt().unwrap_or_default(),
                rttvar: timer.rttvar(),
                timer: timer.soft(measure.recent.quantile(0.999, now), 0),
                recent: Quantiles::of(|q| measure.recent.quantile(q, now)),
            }
        };
        let lanes = |count: fn(&cairn_net::LaneStats) -> usize| (count(&link.control) + count(&link.bulk)) as u64;
        let (stragglers, straggler_bytes) = {
            let stragglers = self.stragglers.lock();
            (stragglers.jobs as u64, stragglers.bytes)
        };
        let stats = NodeConnectionStats {
            node: self.id,
            addr: self.addr.clone(),
            state: health.breaker.state(),
            breaker_opens: health.breaker.opened(),
            open_reason: health.open_reason,
            in_flight: self.in_flight() as u64,
            answered: self.answered.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            small: class(Traffic::Small),
            bulk: class(Traffic::Bulk),
            write: class(Traffic::Write),
            last_received: link.last_received.map(|at| at.elapsed()),
            ping_rtt: Duration::from_micros(link.srtt_us),
            pings: health.pings,
            probes: health.probes,
            failed_probes: health.failed_probes,
            stragglers,
            straggler_bytes,
            corrupt_blocks: self.corrupt_blocks.load(Ordering::Relaxed),
            pool: PoolStats {
                dialing: lanes(|lane| lane.dialing),
                open: lanes(|lane| lane.open),
                idle: lanes(|lane| lane.idle),
                busy: lanes(|lane| lane.busy),
                draining: lanes(|lane| lane.draining),
                retired: lanes(|lane| lane.retired),
                bulk_open: link.bulk.open as u64,
                control: LaneCounts::of(&link.control),
                bulk: LaneCounts::of(&link.bulk),
                wait: link.wait,
                frame_crc_failures: link.body_crc_failures,
                waiting: (link.waiting_connection + link.waiting_permits) as u64,
                dials: link.dials,
                dial_failures: link.dial_failures,
                closes_by_reason: CloseReason::ALL
                    .into_iter()
                    .map(|reason| (reason.name(), link.closed(reason)))
                    .collect(),
                stale_retries: link.stale_retries,
                cancels: link.cancels,
                late_responses: link.late_responses,
                ops_taken: link.ops_taken as u64,
                bytes_taken: link.bytes_taken as u64,
                tasks: link.tasks as u64,
            },
        };
        drop(health);
        let latency = |(op, histogram): (&&'static str, &Arc<Histogram>)| LegLatency {
            node: self.id,
            addr: self.addr.clone(),
            op,
            sum: histogram.sum(),
            counts: latency_counts(histogram),
        };
        let latencies = self.latencies.lock().iter().map(latency).collect();
        (stats, latencies, link.bytes_sent, link.bytes_received)
    }
}

/// A request in the books of its node; off them when dropped.
struct Flight<'a> {
    inner: &'a Inner,
    node: &'a Node,
    id: u64,
    op: &'static str,
    kind: LegKind,
    traffic: Traffic,
    begun: Instant,
    sent_len: u64,
    watch: LegWatch,
    span: LegSpan,
    over: bool,
}

impl Flight<'_> {
    fn end(&mut self, outcome: &'static str, message: &str, reply: Option<&Reply>) {
        self.over = true;
        self.node.flights.lock().begun[self.traffic as usize].remove(&self.id);
        self.inner.counters.leg(self.op, self.kind.name(), outcome);
        self.span.end(outcome);
        self.inner.recorder.add(|| {
            let (timing, progress) = (self.watch.timing(), self.watch.progress());
            let server = reply.and_then(|reply| reply.response.timing).unwrap_or_default();
            let micros = |us: u32| Duration::from_micros(us.into());
            let took = self.begun.elapsed();
            Record::Leg(LegRecord {
                at: self.inner.now().saturating_sub(took),
                op: self.op,
                kind: self.kind.name(),
                node: self.node.id,
                addr: self.node.addr.clone(),
                outcome,
                message: message.to_owned(),
                bytes_sent: self.sent_len,
                bytes_received: progress.bytes_received,
                queued: timing.queued,
                sent: timing.sent,
                first_byte: timing.first_byte,
                took,
                server_queue: micros(server.queue_us),
                server_disk: micros(server.disk_us),
                server_checksum: micros(server.checksum_us),
            })
        });
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // Another leg was faster, or the caller went away: it would have taken longer still.
        let (elapsed, now) = (self.begun.elapsed(), self.inner.now());
        self.node.measures[self.traffic as usize].load.lock().on_censored(elapsed, now);
        if self.kind == LegKind::First && self.node.is_closed() {
            self.inner.first_legs(self.node, self.traffic).record(elapsed, now);
        }
        self.end("cancelled", "", None);
    }
}

/// A request under way.
pub(crate) struct Running<'a> {
    leg: cairn_net::Leg,
    flight: Flight<'a>,
    op_kind: OpKind,
    len: u64,
}

impl Running<'_> {
    /// How far it is; stays readable while and after it is waited for.
    pub(crate) fn watch(&self) -> LegWatch {
        self.flight.watch.clone()
    }

    /// Waits for the answer.
    pub(crate) async fn finish(mut self) -> Result<Reply, LegFailure> {
        let result = (&mut self.leg).await;
        let (node, inner) = (self.flight.node, self.flight.inner);
        match result {
            Ok(reply) => {
                let elapsed = self.flight.begun.elapsed();
                node.answered.fetch_add(1, Ordering::Relaxed);
                node.observe(inner, &self.flight, self.len, elapsed);
                node.health.lock().on_answer(inner.now());
                self.flight.end("ok", "", Some(&reply));
                Ok(reply)
            }
            Err(error) => {
                let failure = node.on_failed(inner, &self.flight, self.op_kind, &error);
                self.flight.end(failure.record.class.name(), &failure.record.message, None);
                Err(failure)
            }
        }
    }
}

fn sent_of(error: &LegError) -> Sent {
    match error.sent {
        cairn_net::Sent::No => Sent::No,
        cairn_net::Sent::Maybe => Sent::Maybe,
        cairn_net::Sent::Responded => Sent::Responded,
    }
}

/// What a failed leg says about its server.
fn class_of(error: &LegError) -> (FailureClass, Option<Status>) {
    match &error.class {
        LegErrorClass::Connect => (FailureClass::Connect, None),
        LegErrorClass::WrongPeer => (FailureClass::WrongPeer, None),
        LegErrorClass::Reset | LegErrorClass::Aborted | LegErrorClass::Stalled => (FailureClass::Reset, None),
        LegErrorClass::Refused => (FailureClass::Refused, None),
        LegErrorClass::Overloaded => (FailureClass::Overloaded, None),
        LegErrorClass::Deadline | LegErrorClass::Cancelled => (FailureClass::TimedOut, None),
        LegErrorClass::Protocol => (FailureClass::Protocol, None),
        LegErrorClass::TooLarge => (FailureClass::TooLarge, None),
        LegErrorClass::Corrupt => (FailureClass::Corrupt, None),
        LegErrorClass::Status(status) => (class_of_code(status.code), Some(status.clone())),
    }
}

fn class_of_code(code: Code) -> FailureClass {
    match code {
        Code::Overloaded => FailureClass::Overloaded,
        Code::NoSpace => FailureClass::NoSpace,
        Code::Corrupt => FailureClass::Corrupt,
        Code::BlockNotFound => FailureClass::NotFound,
        Code::WrongPeer | Code::WrongCluster => FailureClass::WrongPeer,
        Code::Deadline | Code::Cancelled => FailureClass::TimedOut,
        _ => FailureClass::Refused,
    }
}
