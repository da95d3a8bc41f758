//! Requests to metadata: whichever server answers, in rounds, under one deadline.

use crate::client::Inner;
use crate::cluster::{FailureLog, Leg, LegKind, Node};
use crate::error::{Cause, Error, Sent};
use cairn_net::Body;
use cairn_proto::op;
use cairn_proto::pb::{self, request, response};
use cairn_proto::status::{Code, Status};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;

/// A server that has not answered for this long is left for the next one, where there is one.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// Shortest pause before an overloaded server is asked again.
const OVERLOADED_PAUSE_MIN: Duration = Duration::from_millis(5);

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

/// What to do after a server answered with an error.
enum Verdict {
    /// Give the caller this answer.
    Final,
    /// Another server, or this one again in the next round.
    Next,
    /// The same request again after a pause.
    Pause(Duration),
}

fn judge(status: &Status) -> Verdict {
    match status.code {
        Code::Overloaded | Code::Unavailable if status.retry_after_ms > 0 => {
            Verdict::Pause(Duration::from_millis(u64::from(status.retry_after_ms)).max(OVERLOADED_PAUSE_MIN))
        }
        Code::Overloaded => Verdict::Pause(OVERLOADED_PAUSE_MIN),
        // The operation id makes the same request again safe, and it alone resolves the outcome.
        Code::OutcomeUnknown => Verdict::Pause(OVERLOADED_PAUSE_MIN),
        Code::WrongPeer | Code::Cancelled | Code::Deadline | Code::Io => Verdict::Next,
        _ => Verdict::Final,
    }
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
        let servers = self.all();
        let mut log = FailureLog::new();
        let mut ambiguous = false;
        let mut rounds = 0;
        let mut attempt = 0u8;
        loop {
            let start = self.preferred.load(Ordering::Relaxed);
            let mut pause = None;
            for offset in 0..servers.len() {
                let index = (start + offset) % servers.len();
                let server = &servers[index];
                let now = Instant::now();
                if now >= deadline {
                    return Err(exhausted(name, &request, log, ambiguous, true));
                }
                let leg_deadline = if servers.len() > 1 { deadline.min(now + ATTEMPT_MAX) } else { deadline };
                let leg = Leg {
                    request: request.clone(),
                    body: Body::empty(),
                    deadline: leg_deadline,
                    kind: match (attempt, rounds) {
                        (0, _) => LegKind::First,
                        (_, 0) => LegKind::Failover,
                        _ => LegKind::Retry,
                    },
                    attempt,
                    response_max: 0,
                    verify_body: true,
                };
                attempt = attempt.saturating_add(1);
                let failure = match server.call(inner, leg).await {
                    Ok(reply) => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return reply
                            .response
                            .kind
                            .ok_or_else(|| MetaFailure { error: inner.unexpected(name), ambiguous: true });
                    }
                    Err(failure) => failure,
                };
                if let Some(status) = &failure.status {
                    match judge(status) {
                        // An earlier attempt may still be done: only the slot's next answer could tell.
                        Verdict::Final if ambiguous && request.op_id.is_some() && depends_on_state(status.code) => {
                            log.add(failure.record);
                            return Err(exhausted(name, &request, log, ambiguous, false));
                        }
                        Verdict::Final => {
                            let fenced = matches!(status.code, Code::Fenced | Code::StaleSeq);
                            let cause = if fenced {
                                Cause::Fenced(status.message.clone())
                            } else {
                                Cause::Status(status.clone())
                            };
                            return Err(MetaFailure { error: Error::new(name, cause), ambiguous });
                        }
                        Verdict::Pause(length) => {
                            pause = Some(pause.map_or(length, |p: Duration| p.min(length)));
                            ambiguous |= status.code == Code::OutcomeUnknown;
                        }
                        Verdict::Next => ambiguous |= status.code != Code::WrongPeer,
                    }
                } else {
                    ambiguous |= failure.record.sent != Sent::No;
                }
                log.add(failure.record);
            }
            let sleep = match pause {
                // A server is there and asks for patience: that is not a failed round.
                Some(pause) => pause.mul_f64(0.8 + 0.4 * inner.unit()),
                None => {
                    rounds += 1;
                    match inner.config.retry.pause_after(rounds, inner.unit()) {
                        Some(pause) => pause,
                        None => return Err(exhausted(name, &request, log, ambiguous, false)),
                    }
                }
            };
            if Instant::now() + sleep >= deadline {
                return Err(exhausted(name, &request, log, ambiguous, true));
            }
            tokio::time::sleep(sleep).await;
        }
    }
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
    pub(crate) async fn meta_read(&self, kind: request::Kind, deadline: Instant) -> Result<response::Kind, Error> {
        let request = pb::Request { kind: Some(kind), ..Default::default() };
        self.metas.call(self, request, deadline).await.map_err(|failure| failure.error)
    }

    /// A server answered with something else than was asked.
    pub(crate) fn unexpected(&self, operation: &'static str) -> Error {
        let message = "the server's answer is of another kind than the request";
        Error::new(operation, Cause::Status(Status::new(Code::Internal, message)))
    }
}
