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
use cairn_net::{Body, Route};
use cairn_proto::op;
use cairn_proto::pb::{self, request, response};
use cairn_proto::status::{Code, Status};
use futures_util::future::OptionFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;

/// Pause before a mutation of unknown outcome is sent again.
const RESOLVE_PAUSE: Duration = Duration::from_millis(5);

/// The metadata servers.
#[derive(Default)]
pub(crate) struct MetaServers {
    servers: OnceLock<Vec<Arc<Node>>>,
    preferred: AtomicUsize,
}

/// A failed request to metadata.
pub(crate) struct MetaFailure {
    pub(crate) error: Error,
    /// True when a server may have executed the request all the same.
    pub(crate) ambiguous: bool,
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
    /// Says once who they are.
    pub(crate) fn set(&self, servers: Vec<Arc<Node>>) {
        // A second call would be a defect of the builder; the first list stays.
        let _ = self.servers.set(servers);
    }

    pub(crate) fn all(&self) -> &[Arc<Node>] {
        self.servers.get().map_or(&[], Vec::as_slice)
    }

    pub(crate) fn close(&self) {
        for server in self.all() {
            server.link.close();
        }
    }

    /// Sends `request` until a server gives a final answer, rounds run out or the deadline passes.
    pub(crate) async fn call(
        &self,
        inner: &Inner,
        request: pb::Request,
        deadline: Instant,
    ) -> Result<response::Kind, MetaFailure> {
        let name = request.kind.as_ref().map_or("unknown", |kind| op::name(op::of(kind)));
        let alone = self.all().len() == 1;
        let log = FailureLog::new();
        let mut ask = Ask { inner, name, request, deadline, log, ambiguous: false, attempt: 0, alone };
        let mut rounds = 0;
        loop {
            let start = self.preferred.load(Ordering::Relaxed);
            let servers = self.all();
            let order: Vec<usize> = (0..servers.len()).map(|offset| (start + offset) % servers.len()).collect();
            let order: Vec<usize> = order.into_iter().filter(|index| servers[*index].is_closed()).collect();
            if order.is_empty() {
                for server in servers {
                    ask.log.note(server.skipped(name, ask.log.elapsed()));
                }
                let in_vain = || servers.iter().all(|server| !server.is_closed());
                match health::park(inner, deadline, in_vain).await {
                    Parked::Released => continue,
                    Parked::Shed => return Err(ask.exhausted(false)),
                    Parked::TimedOut => return Err(ask.exhausted(true)),
                }
            }
            let pause = match ask.round(servers, &order, rounds).await {
                Round::Answered(index, kind) => {
                    self.preferred.store(index, Ordering::Relaxed);
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
                Some(pause) => pause.mul_f64(0.8 + 0.4 * inner.unit()),
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
            if Instant::now() + sleep >= deadline {
                return Err(ask.exhausted(true));
            }
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
    /// This one answered.
    Answered(usize, Box<response::Kind>),
    /// A final refusal.
    Final(MetaFailure),
    /// Nobody could do it; the shortest pause that a server asked for.
    Failed(Option<Duration>),
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
        let mut pause: Option<Duration> = None;
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
                    legs.push(async move { (number, index, running.finish().await) });
                    continue;
                }
                Step::Wait(until) => until,
                Step::Exhausted if refused => return Round::Final(self.exhausted(false)),
                Step::Exhausted => return Round::Failed(pause),
            };
            let timer: OptionFuture<_> = until.map(|until| tokio::time::sleep_until(inner.instant(until))).into();
            let (number, index, result) = tokio::select! {
                biased;
                Some(ended) = legs.next() => ended,
                Some(()) = timer => continue,
            };
            match result {
                Ok(reply) => {
                    inner.hedge_budget.on_first_leg_completed();
                    return match reply.response.kind {
                        Some(kind) => Round::Answered(index, Box::new(kind)),
                        None => Round::Final(MetaFailure { error: inner.unexpected(self.name), ambiguous: true }),
                    };
                }
                Err(failure) => {
                    // Another server may be doing it at this moment.
                    self.ambiguous |= plan.live() > 1;
                    match self.on_failure(failure) {
                        Fate::Final(failure) => return Round::Final(failure),
                        Fate::Pause { pause: length, charged } => {
                            refused |= charged && !inner.retry_budget.try_take() && !self.must_resolve();
                            pause = Some(pause.map_or(length, |p| p.min(length)));
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
                    return Fate::Final(self.exhausted(false));
                }
                let fenced = matches!(status.code, Code::Fenced | Code::StaleSeq);
                let cause = if fenced { Cause::Fenced(status.message.clone()) } else { Cause::Status(status) };
                return Fate::Final(MetaFailure { error: Error::new(self.name, cause), ambiguous: self.ambiguous });
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
    MetaFailure { error: Error::new(name, cause), ambiguous }
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
