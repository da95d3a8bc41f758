//! Requests to metadata: whichever server answers, in rounds, under one deadline.

use crate::caller::Call;
use crate::client::Inner;
use crate::cluster::FailureLog;
use crate::error::{Cause, Error, Sent};
use crate::health::{self, Verdict as Parked};
use crate::node::{Leg, LegFailure, LegKind, Node, Traffic};
use crate::policy::budget::HedgePermit;
use crate::policy::classify::{self, Action, OpKind};
use crate::policy::read_plan::{Permits, ReadPlan, Step, Times, Why};
use crate::policy::timers::{self, Class};
use crate::record::Record;
use arc_swap::ArcSwap;
use cairn_net::{Body, Route};
use cairn_proto::op;
use cairn_proto::pb::{self, request, response};
use cairn_proto::status::{Code, Status};
use futures_util::future::BoxFuture;
use futures_util::future::OptionFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;

/// A request that waits for a lock is overdue so long after the time it wanted to wait.
const WAIT_GRACE: Duration = Duration::from_secs(5);
/// Pause before a mutation of unknown outcome is sent again.
const RESOLVE_PAUSE: Duration = Duration::from_millis(5);
/// Pauses that cost nothing, one after the other, grow to this: so soon an operation notices that the engine is back.
const PATIENCE_MAX: Duration = Duration::from_secs(1);
/// Doublings of such a pause that make a difference.
const PATIENCE_DOUBLINGS: u32 = 8;
/// Time for a last try before the deadline.
const LAST_TRY: Duration = Duration::from_millis(100);

/// Metadata servers that a cluster map may name; further ones are left out.
const TOLD_MAX: usize = 64;

/// The metadata servers, in the order in which this client asks them. Each client has an order of its own, so that all
/// of them spread over the servers, and keeps it: a server that was away is asked again when it is back.
#[derive(Default)]
pub(crate) struct MetaServers {
    servers: ArcSwap<Vec<Arc<Node>>>,
    /// Addresses that the client was given.
    given: OnceLock<Vec<String>>,
}

/// A failed request to metadata.
pub(crate) struct MetaFailure {
    pub(crate) error: Error,
    /// True when a server may have executed the request all the same.
    pub(crate) ambiguous: bool,
    /// What a server said at last, after an attempt of which nothing is known.
    pub(crate) refused: Option<Status>,
}

/// Whether another moment could have brought another answer: all but what the request itself forbids.
fn depends_on_state(code: Code) -> bool {
    !matches!(
        code,
        Code::Invalid
            | Code::NameTooLong
            | Code::TooLarge
            | Code::Unsupported
            | Code::Permission
            | Code::Fenced
            | Code::StaleSeq
            | Code::Aborted
            | Code::NotInline
            | Code::NoQuorum
            | Code::Conflict
    )
}

impl MetaServers {
    /// Says once which addresses the client was given.
    pub(crate) fn set(&self, inner: &Inner, addrs: &[String]) {
        // A second call would be a defect of the builder; the first list stays.
        let _ = self.given.set(addrs.to_vec());
        self.learn(inner, &[]);
    }

    /// Takes over which servers the cluster map names. One alone is who was asked, maybe under another address.
    pub(crate) fn learn(&self, inner: &Inner, told: &[String]) {
        let given = self.given.get().map_or(&[][..], Vec::as_slice);
        let told = if told.len() > 1 { &told[..told.len().min(TOLD_MAX)] } else { &[] };
        let known = self.servers.load();
        let order = order_of(&inner.boot_id.0, told, given);
        if order.iter().eq(known.iter().map(|server| &server.addr)) {
            return;
        }
        let server = |addr: String| {
            let kept = known.iter().find(|server| server.addr == addr).cloned();
            kept.unwrap_or_else(|| Arc::new(Node::meta(inner, addr)))
        };
        let servers: Vec<Arc<Node>> = order.into_iter().map(server).collect();
        for server in known.iter().filter(|server| !servers.iter().any(|kept| Arc::ptr_eq(kept, server))) {
            server.link.close();
        }
        self.servers.store(Arc::new(servers));
    }

    pub(crate) fn all(&self) -> Arc<Vec<Arc<Node>>> {
        self.servers.load_full()
    }

    pub(crate) fn close(&self) {
        for server in self.all().iter() {
            server.link.close();
        }
    }

    /// Sends `request` until a server gives a final answer, rounds run out or the deadline passes.
    ///
    /// Boxed, so that it is compiled once and not again inside every caller.
    pub(crate) fn call<'a>(
        &'a self,
        inner: &'a Inner,
        request: pb::Request,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<response::Kind, MetaFailure>> {
        Box::pin(self.call_in_rounds(inner, request, deadline))
    }

    async fn call_in_rounds(
        &self,
        inner: &Inner,
        request: pb::Request,
        deadline: Instant,
    ) -> Result<response::Kind, MetaFailure> {
        let name = request.kind.as_ref().map_or("unknown", |kind| op::name(op::of(kind)));
        let alone = self.all().len() == 1;
        let log = FailureLog::new();
        let mut ask = Ask { inner, name, request, deadline, log, ambiguous: false, attempt: 0, alone };
        let (mut rounds, mut waits) = (0, 0);
        loop {
            let servers = self.all();
            let order: Vec<usize> = (0..servers.len()).filter(|index| servers[*index].is_closed()).collect();
            if order.is_empty() {
                for server in servers.iter() {
                    ask.log.note(server.skipped(name, ask.log.elapsed()));
                }
                let in_vain = || servers.iter().all(|server| !server.is_closed());
                match health::park(inner, deadline, in_vain).await {
                    Parked::Released => continue,
                    Parked::Shed => return Err(ask.exhausted(false)),
                    Parked::TimedOut => return Err(ask.exhausted(true)),
                }
            }
            let pause = match ask.round(&servers, &order, rounds).await {
                Round::Answered(kind) => {
                    inner.retry_budget.deposit();
                    return Ok(*kind);
                }
                Round::Final(failure) => return Err(failure),
                Round::Failed(pause) => pause,
            };
            if Instant::now() >= deadline {
                return Err(ask.exhausted(true));
            }
            if servers.iter().all(|server| !server.is_closed()) {
                continue;
            }
            let sleep = match pause {
                // A server is there and asks for patience: that is not a failed round.
                Some(Patience { asked, charged }) => {
                    let pause = if charged { asked } else { grown(asked, waits) };
                    waits += u32::from(!charged);
                    pause.mul_f64(0.8 + 0.4 * inner.unit())
                }
                None => {
                    rounds += 1;
                    let rounds_left = inner.config.retry.pauses.len() as u32;
                    match inner.config.retry.pause_after(rounds, inner.unit()) {
                        Some(pause) => pause,
                        // Only the same operation id again tells what became of it.
                        None if ask.must_resolve() && rounds_left > 0 => {
                            inner.config.retry.pause_after(rounds_left, inner.unit()).unwrap_or(RESOLVE_PAUSE)
                        }
                        None => return Err(ask.exhausted(false)),
                    }
                }
            };
            let Some(sleep) = before(sleep, deadline.saturating_duration_since(Instant::now())) else {
                return Err(ask.exhausted(true));
            };
            inner.recorder.add(|| Record::Pause { at: inner.now(), rounds, pause: sleep });
            tokio::time::sleep(sleep).await;
            // The pause is free, asking again is not; to find out what became of a mutation is a duty.
            let asks = servers.iter().any(|server| server.is_closed());
            if pause.is_none() && asks && !inner.retry_budget.try_take() && !ask.must_resolve() {
                return Err(ask.exhausted(false));
            }
        }
    }
}

/// How a round over the servers ended.
#[allow(clippy::large_enum_variant, reason = "one at a time, on its way from a function to the one that called it")]
enum Round {
    /// One answered.
    Answered(Box<response::Kind>),
    /// A final refusal.
    Final(MetaFailure),
    /// Nobody could do it; the shortest pause that a server asked for.
    Failed(Option<Patience>),
}

/// What a server asks for that is there and cannot do it yet.
#[derive(Clone, Copy)]
struct Patience {
    asked: Duration,
    /// Going on takes a token of the retry budget.
    charged: bool,
}

/// The pause after `waits` others that cost nothing: what is waited for is away for longer than whoever asked for the
/// first one knew.
fn grown(asked: Duration, waits: u32) -> Duration {
    let grown = asked.saturating_mul(1 << waits.min(PATIENCE_DOUBLINGS));
    grown.min(PATIENCE_MAX).max(asked)
}

/// How long to sleep with so much time left: where the pause is longer than that, a last try still fits in. `None` when
/// none does.
fn before(pause: Duration, left: Duration) -> Option<Duration> {
    if pause < left {
        return Some(pause);
    }
    left.checked_sub(LAST_TRY).filter(|rest| *rest >= LAST_TRY)
}

/// One request on its way through the servers.
struct Ask<'a> {
    inner: &'a Inner,
    name: &'static str,
    request: pb::Request,
    deadline: Instant,
    log: FailureLog,
    ambiguous: bool,
    attempt: u8,
    /// There is no other server to ask.
    alone: bool,
}

/// What a request to metadata may spend on further legs.
struct MetaPermits<'a> {
    inner: &'a Inner,
    taken: Vec<HedgePermit>,
}

impl Permits for MetaPermits<'_> {
    fn hedge(&mut self) -> bool {
        match self.inner.hedge_budget.try_take(0) {
            Ok(permit) => {
                self.taken.push(permit);
                true
            }
            Err(skip) => {
                self.inner.counters.hedge_skipped(skip.name());
                false
            }
        }
    }

    fn retry(&mut self) -> bool {
        self.inner.retry_budget.try_take()
    }
}

impl Ask<'_> {
    /// True for a mutation that a server may have executed.
    fn must_resolve(&self) -> bool {
        self.ambiguous && self.request.op_id.is_some()
    }

    fn exhausted(&mut self, deadline: bool) -> MetaFailure {
        let log = std::mem::replace(&mut self.log, FailureLog::new());
        exhausted(self.name, &self.request, log, self.ambiguous, deadline)
    }

    /// A slow server is joined by the next one, never given up: a read after the hedge delay, a mutation, which carries
    /// its operation id, when the soft timer says that the answer is overdue.
    fn times(&self, server: &Node) -> Times {
        if matches!(self.request.kind, Some(request::Kind::WatchChanges(_))) {
            // It waits on purpose; its deadline is all there is.
            return Times { hedge_after: Duration::MAX, soft_after: Duration::MAX, stall_after: None };
        }
        let now = self.inner.now();
        if let Some(request::Kind::WaitLock(ask)) = &self.request.kind {
            // How long it takes is not up to the server.
            let soft_after = Duration::from_millis(ask.wait_ms.into()) + WAIT_GRACE;
            return Times { hedge_after: Duration::MAX, soft_after, stall_after: None };
        }
        let (traffic, hedge_after) = if self.request.op_id.is_some() {
            (Traffic::Write, Duration::MAX)
        } else {
            let p95 = self.inner.first_legs(server, Traffic::Small).quantile(0.95, now);
            (Traffic::Small, timers::hedge_after(p95, Class::Small, 0, None))
        };
        Times { hedge_after, soft_after: server.soft_after(traffic, 0, now), stall_after: None }
    }

    fn leg(&mut self, why: Why, rounds: u32) -> Leg {
        let kind = match (why, self.attempt, rounds) {
            (Why::Hedge, ..) => LegKind::Hedge,
            (_, 0, _) => LegKind::First,
            (_, _, 0) => LegKind::Failover,
            _ => LegKind::Retry,
        };
        let leg = Leg {
            request: self.request.clone(),
            body: Body::empty(),
            deadline: self.deadline,
            kind,
            attempt: self.attempt,
            response_max: 0,
            verify_body: true,
            route: Route { avoid: None, alone: self.alone },
        };
        self.attempt = self.attempt.saturating_add(1);
        leg
    }

    async fn round(&mut self, servers: &[Arc<Node>], order: &[usize], rounds: u32) -> Round {
        let inner = self.inner;
        let mut plan = ReadPlan::new(order.to_vec(), Vec::new(), self.times(&servers[order[0]]), inner.now());
        let mut permits = MetaPermits { inner, taken: Vec::new() };
        let mut legs = FuturesUnordered::new();
        let mut pause: Option<Patience> = None;
        let mut refused = false;
        let mut asked: Vec<usize> = Vec::new();
        loop {
            let until = match plan.step(inner.now(), &mut permits) {
                Step::Start { replica: index, leg: number, why } => {
                    if why == Why::Timer {
                        let traffic = if self.request.op_id.is_some() { Traffic::Write } else { Traffic::Small };
                        asked.iter().for_each(|slow: &usize| servers[*slow].on_soft_expiry(traffic));
                    }
                    let running = servers[index].start(inner, self.leg(why, rounds));
                    asked.push(index);
                    legs.push(async move { (number, running.finish().await) });
                    continue;
                }
                Step::Wait(until) => until,
                Step::Exhausted if refused => return Round::Final(self.exhausted(false)),
                Step::Exhausted => return Round::Failed(pause),
            };
            let timer: OptionFuture<_> = until.map(|until| tokio::time::sleep_until(inner.instant(until))).into();
            let (number, result) = tokio::select! {
                biased;
                Some(ended) = legs.next() => ended,
                Some(()) = timer => continue,
            };
            match result {
                Ok(reply) => {
                    inner.hedge_budget.on_first_leg_completed();
                    return match reply.response.kind {
                        Some(kind) => Round::Answered(Box::new(kind)),
                        None => {
                            let error = inner.unexpected(self.name);
                            Round::Final(MetaFailure { error, ambiguous: true, refused: None })
                        }
                    };
                }
                Err(failure) => {
                    // Another server may be doing it at this moment.
                    self.ambiguous |= plan.live() > 1;
                    match self.on_failure(failure) {
                        Fate::Final(failure) => return Round::Final(failure),
                        Fate::Pause { pause: length, charged } => {
                            refused |= charged && !inner.retry_budget.try_take() && !self.must_resolve();
                            let asked = pause.map_or(length, |before| before.asked.min(length));
                            // Nothing is paid as long as one of them is merely waited for.
                            let charged = charged && pause.is_none_or(|before| before.charged);
                            pause = Some(Patience { asked, charged });
                        }
                        Fate::Next => {}
                    }
                    plan.on_failure(number);
                }
            }
        }
    }

    fn on_failure(&mut self, failure: LegFailure) -> Fate {
        let LegFailure { record, status, .. } = failure;
        let kind = if self.request.op_id.is_some() { OpKind::Mutation } else { OpKind::MetaRead };
        let rule = classify::rule(kind, &classify::event_of(record.class, status.as_ref()));
        let Some(status) = status else {
            self.ambiguous |= record.sent != Sent::No;
            self.log.add(record);
            return Fate::Next;
        };
        let fate = match rule.action {
            Action::Final | Action::Rewrite | Action::Done | Action::ResolveInBackground => {
                // An earlier attempt may still be done: only the slot's next answer could tell.
                if self.ambiguous && self.request.op_id.is_some() && depends_on_state(status.code) {
                    self.log.add(record);
                    return Fate::Final(MetaFailure { refused: Some(status), ..self.exhausted(false) });
                }
                let fenced = matches!(status.code, Code::Fenced | Code::StaleSeq);
                let cause = if fenced { Cause::Fenced(status.message.clone()) } else { Cause::Status(status) };
                let error = Error::new(self.name, cause);
                return Fate::Final(MetaFailure { error, ambiguous: self.ambiguous, refused: None });
            }
            Action::Pause(pause) => Fate::Pause { pause, charged: rule.charged },
            // The operation id makes the same request again safe, and it alone resolves the outcome.
            Action::Resolve => {
                self.ambiguous = true;
                Fate::Pause { pause: RESOLVE_PAUSE, charged: rule.charged }
            }
            Action::Next
            | Action::NextAndReport
            | Action::Resend
            | Action::Join
            | Action::Straggle
            | Action::Leave
            | Action::Refresh => {
                self.ambiguous |= status.code != Code::WrongPeer;
                Fate::Next
            }
        };
        self.log.add(record);
        fate
    }
}

/// What a failed leg means for the request.
enum Fate {
    Final(MetaFailure),
    /// A server is there and asks for patience.
    Pause {
        pause: Duration,
        charged: bool,
    },
    Next,
}

fn exhausted(
    name: &'static str,
    request: &pb::Request,
    log: FailureLog,
    ambiguous: bool,
    deadline: bool,
) -> MetaFailure {
    let cause = match &request.op_id {
        Some(op) if ambiguous => Cause::Indeterminate { op: op_id(op), failures: log.into_list() },
        _ if deadline && log.list().is_empty() => Cause::Deadline(log.elapsed()),
        _ => Cause::Metadata(log.into_list()),
    };
    MetaFailure { error: Error::new(name, cause), ambiguous, refused: None }
}

/// Where `addr` stands for the client `who`: FNV-1a over both, and the finalizer of splitmix64, so that names which differ
/// in a digit come out far apart.
fn rank(who: &[u8], addr: &str) -> u64 {
    let bytes = who.iter().chain(addr.as_bytes());
    let mut hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The order in which the client `who` asks servers: by rendezvous hashing, first those that the map names, then those
/// that only its user named.
fn order_of(who: &[u8], told: &[String], given: &[String]) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for some in [told, given] {
        let mut next: Vec<&String> = some.iter().filter(|addr| !order.contains(addr)).collect();
        next.sort_by_key(|addr| (rank(who, addr), addr.as_str()));
        next.dedup();
        order.extend(next.into_iter().cloned());
    }
    order
}

fn op_id(op: &pb::OpId) -> cairn_proto::OpId {
    cairn_proto::OpId { session: op.session.into(), epoch: op.epoch, slot: op.slot, seq: op.seq }
}

impl Inner {
    /// A request to metadata that changes nothing, or nothing that matters when done twice.
    pub(crate) async fn meta_read(&self, call: impl Into<Call>, deadline: Instant) -> Result<response::Kind, Error> {
        self.metas.call(self, call.into().to_request(), deadline).await.map_err(|failure| failure.error)
    }

    /// A server answered with something else than was asked.
    pub(crate) fn unexpected(&self, operation: &'static str) -> Error {
        let message = "the server's answer is of another kind than the request";
        Error::new(operation, Cause::Status(Status::new(Code::Internal, message)))
    }
}

#[cfg(test)]
mod tests;
