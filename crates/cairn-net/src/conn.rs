//! One connection of a link: an actor of two tasks (reader, writer) that owns the socket.
//!
//! Callers only ever push onto its queue. The queue has no bound of its own: every entry belongs to a leg that holds an
//! operation permit (a cancellation keeps the permit of what it cancels until it is written), or to a ping.

mod receive;
mod send;

use crate::error::{LegError, LegErrorClass};
use crate::leg::{Job, Permits};
use crate::link::LinkInner;
use crate::meter::Meter;
use crate::pool::{LaneKind, Slot};
use crate::seam::now;
use crate::stats::{CloseReason, Counters};
use bytes::Bytes;
use cairn_proto::frame::{FixedHeader, FrameType, flags};
use cairn_proto::{op, pb};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

pub(crate) use receive::{Dialed, first_ping, handshake};

/// How many drain timeouts a cancelled request may take to leave a connection while bytes still move.
const DRAIN_ROUNDS: u32 = 4;
/// A connection of this age counts as reused even if nothing was asked over it yet.
const REUSED_AGE: Duration = Duration::from_secs(1);

/// How far a request's sending is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sending {
    /// In the queue -> `Begun`, or `Over` when it is cancelled before.
    Queued,
    /// The writer has it -> `Over`.
    Begun,
    /// Nothing more of it will be written.
    Over,
}

struct FlightState {
    sending: Sending,
    /// The response has ended.
    answered: bool,
    cancelled: bool,
    /// It was cancelled after it was begun, and has not left the connection yet.
    draining: bool,
}

/// One sending of a request over one connection.
pub(crate) struct Flight {
    id: u64,
    fixed: FixedHeader,
    deadline: Instant,
    protobuf: Bytes,
    body: crate::body::Body,
    shared: Arc<crate::leg::LegShared>,
    state: Mutex<FlightState>,
}

/// An entry of the writer's queue.
enum Out {
    Request(Arc<Flight>),
    Cancel { id: u64, op: u16, _permits: Permits },
    Ping(u64),
}

/// A request that waits for its response; without a job it was cancelled and is being drained.
struct Pending {
    flight: Arc<Flight>,
    job: Option<Box<Job>>,
}

struct ConnState {
    dead: bool,
    /// Takes no further requests and ends with its last one, for this reason.
    retiring: Option<CloseReason>,
    next_id: u64,
    pending: BTreeMap<u64, Pending>,
    pings: BTreeMap<u64, oneshot::Sender<pb::Pong>>,
    /// Requests whose response came: a connection with any is "reused" and may be stale.
    served: u64,
    idle_since: Instant,
}

/// See the module.
pub(crate) struct Conn {
    kind: LaneKind,
    serial: u64,
    link: Weak<LinkInner>,
    counters: Arc<Counters>,
    addr: String,
    pub meter: Arc<Meter>,
    max_age: Duration,
    idle_timeout: Duration,
    queue: mpsc::UnboundedSender<Out>,
    state: Mutex<ConnState>,
    /// One of the client's total; returned when the connection ends.
    slot: Mutex<Option<Slot>>,
    tasks: OnceLock<[AbortHandle; 2]>,
    pub suspect: AtomicBool,
    /// Why the peer said that it goes away.
    farewell: OnceLock<String>,
}

impl PartialEq for Conn {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

/// How a connection ends.
pub(crate) struct Death {
    pub reason: CloseReason,
    /// What its requests fail with.
    pub class: LegErrorClass,
    pub message: String,
    pub source: Option<io::Error>,
}

impl Death {
    pub fn new(reason: CloseReason, class: LegErrorClass, message: impl Into<String>) -> Self {
        Self { reason, class, message: message.into(), source: None }
    }
}

/// What upkeep sees of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnView {
    /// Time without a request; `None` when it has one.
    pub idle_for: Option<Duration>,
    pub age: Duration,
    pub max_age: Duration,
    pub idle_timeout: Duration,
    /// Time since a byte moved in either direction.
    pub silent_for: Duration,
    pub suspect: bool,
}

/// What upkeep does about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upkeep {
    Keep,
    /// Close it now.
    CloseIdle,
    /// Let it finish and close it then.
    Retire,
    /// Ping the peer.
    Suspect,
}

/// When an unused connection is closed: well before the peer does, which says when it will.
fn idle_timeout(own: Duration, peers: Option<Duration>) -> Duration {
    peers.map_or(own, |peers| own.min(peers * 2 / 3))
}

/// The rule of upkeep. `spare` is true when the lane has more connections than its minimum.
pub(crate) fn upkeep(view: ConnView, stall_timeout: Duration, spare: bool) -> Upkeep {
    if view.age >= view.max_age {
        return Upkeep::Retire;
    }
    match view.idle_for {
        Some(idle_for) if idle_for >= view.idle_timeout && spare => Upkeep::CloseIdle,
        None if view.silent_for >= stall_timeout && !view.suspect => Upkeep::Suspect,
        _ => Upkeep::Keep,
    }
}

/// How many connections of a lane are in which state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Occupation {
    Idle,
    Busy(usize),
    Draining,
}

impl Conn {
    /// Starts the two tasks of an established connection.
    pub fn spawn(link: &Arc<LinkInner>, kind: LaneKind, dialed: Dialed, slot: Slot) -> Arc<Self> {
        let (queue, entries) = mpsc::unbounded_channel();
        let conn = Arc::new(Self {
            kind,
            serial: link.next_serial(),
            link: Arc::downgrade(link),
            counters: Arc::clone(&link.counters),
            addr: link.addr.clone(),
            meter: dialed.meter,
            max_age: link.draw_max_age(),
            idle_timeout: idle_timeout(link.config.idle_timeout, dialed.peer_idle_timeout),
            queue,
            state: Mutex::new(ConnState {
                dead: false,
                retiring: None,
                next_id: dialed.next_id,
                pending: BTreeMap::new(),
                pings: BTreeMap::new(),
                served: 0,
                idle_since: now(),
            }),
            slot: Mutex::new(Some(slot)),
            tasks: OnceLock::new(),
            suspect: AtomicBool::new(false),
            farewell: OnceLock::new(),
        });
        // Each task waits until both handles are in place, so that whichever fails first can end the other.
        let (go_reader, reader_may) = oneshot::channel::<()>();
        let (go_writer, writer_may) = oneshot::channel::<()>();
        let reader = receive::run(Arc::clone(&conn), dialed.reader);
        let reader = link.spawn(async move {
            if reader_may.await.is_ok() {
                reader.await;
            }
        });
        let writer = send::run(Arc::clone(&conn), dialed.writer, entries);
        let writer = link.spawn(async move {
            if writer_may.await.is_ok() {
                writer.await;
            }
        });
        let _ = conn.tasks.set([reader, writer]);
        let _ = go_reader.send(());
        let _ = go_writer.send(());
        conn
    }

    pub fn kind(&self) -> LaneKind {
        self.kind
    }

    /// Its number on the link, from 1.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes a job; gives it back when the connection takes no requests any more. A job whose caller is gone is
    /// dropped: then the connection is still free, which `Ok(false)` says.
    pub fn submit(self: &Arc<Self>, job: Box<Job>) -> Result<bool, Box<Job>> {
        let mut state = self.state.lock();
        if state.dead || state.retiring.is_some() {
            return Err(job);
        }
        let id = state.next_id;
        let call = &job.call;
        let op = call.request.kind.as_ref().map_or(0, op::of);
        let flag = |on, bit| if on { bit } else { 0 };
        let flight = Arc::new(Flight {
            id,
            fixed: FixedHeader {
                flags: flag(call.hedge, flags::HEDGE) | flag(call.retry, flags::RETRY),
                attempt: call.attempt,
                ..FixedHeader::new(FrameType::Request, id, op)
            },
            deadline: call.deadline,
            protobuf: job.protobuf.clone(),
            body: call.body.clone(),
            shared: Arc::clone(&job.shared),
            state: Mutex::new(FlightState {
                sending: Sending::Queued,
                answered: false,
                cancelled: false,
                draining: false,
            }),
        });
        if !job.board(self, &flight) {
            return Ok(false);
        }
        state.next_id += 1;
        if state.pending.is_empty() {
            // The stall clock runs from here, not from the last use.
            self.meter.touch();
        }
        state.pending.insert(id, Pending { flight: Arc::clone(&flight), job: Some(job) });
        // Sent under the lock, so that ids grow on the wire. A closed queue means `kill` is about to take the job.
        let _ = self.queue.send(Out::Request(flight));
        Ok(true)
    }

    /// The caller of a flight is gone.
    pub fn cancel(self: &Arc<Self>, flight: &Arc<Flight>) {
        let mut state = self.state.lock();
        let Some(pending) = state.pending.get_mut(&flight.id) else {
            return;
        };
        if !Arc::ptr_eq(&pending.flight, flight) {
            return;
        }
        let Some(job) = pending.job.take() else {
            return;
        };
        let sending = {
            let mut flight = flight.state.lock();
            flight.cancelled = true;
            let before = flight.sending;
            if before == Sending::Queued {
                flight.sending = Sending::Over;
                flight.answered = true;
            } else {
                flight.draining = true;
                Counters::add(&self.counters.lane(self.kind).drains, 1);
            }
            before
        };
        match (sending, self.kind) {
            (Sending::Queued, _) => {
                drop(job);
                self.forget_pending(state, flight.id);
            }
            (Sending::Begun, LaneKind::Bulk) => {
                // The writer sees the flag before its next frame.
                drop(state);
                drop(job);
                self.watch_drain(flight.id);
            }
            (Sending::Begun | Sending::Over, LaneKind::Control) => {
                // A control request is one frame: it is on its way as a whole.
                self.push_cancel(flight, job.permits);
                self.forget_pending(state, flight.id);
            }
            (Sending::Over, LaneKind::Bulk) => {
                self.push_cancel(flight, job.permits);
                drop(state);
                self.watch_drain(flight.id);
            }
        }
    }

    fn push_cancel(&self, flight: &Flight, permits: Permits) {
        let _ = self.queue.send(Out::Cancel { id: flight.id, op: flight.fixed.op, _permits: permits });
    }

    /// Ends the connection unless the cancelled request leaves it in time: within the drain timeout, or while it still
    /// moves and nobody waits for the connection, within a few of them.
    fn watch_drain(self: &Arc<Self>, id: u64) {
        let Some(link) = self.link.upgrade() else {
            return;
        };
        let conn = Arc::clone(self);
        let timeout = link.config.drain_timeout;
        let weak = Weak::clone(&self.link);
        link.spawn(async move {
            for round in 1..=DRAIN_ROUNDS {
                tokio::time::sleep(timeout).await;
                if !conn.state.lock().pending.contains_key(&id) {
                    return;
                }
                let is_moving = conn.meter.silent_for(now()) < timeout;
                let is_needed = weak.upgrade().is_none_or(|link| link.is_bulk_wanted());
                if !is_moving || is_needed || round == DRAIN_ROUNDS {
                    break;
                }
            }
            conn.kill(Death::new(CloseReason::Drain, LegErrorClass::Reset, "a cancelled request did not leave"));
        });
    }

    /// A request is over in both directions. Consumes the lock, because what follows calls out.
    fn forget_pending(self: &Arc<Self>, mut state: parking_lot::MutexGuard<'_, ConnState>, id: u64) {
        // Released once only: between two releases the connection may have been leased to somebody else.
        let Some(left) = state.pending.remove(&id) else {
            return;
        };
        if left.flight.state.lock().draining {
            Counters::add(&self.counters.lane(self.kind).drains_survived, 1);
        }
        if !state.pending.is_empty() {
            return;
        }
        state.idle_since = now();
        self.suspect.store(false, Ordering::Relaxed);
        let retiring = state.retiring;
        drop(state);
        match (retiring, self.link.upgrade()) {
            (Some(reason), _) => self.kill(Death::new(reason, LegErrorClass::Reset, "the connection was retired")),
            (None, Some(link)) => link.released(self),
            (None, None) => {}
        }
    }

    /// One direction of a flight is over; when both are, the connection is free of it.
    fn leave(self: &Arc<Self>, flight: &Flight, change: impl FnOnce(&mut FlightState)) {
        let state = self.state.lock();
        let over = {
            let mut flight = flight.state.lock();
            change(&mut flight);
            flight.answered && flight.sending == Sending::Over
        };
        if over {
            self.forget_pending(state, flight.id);
        }
    }

    /// Begins a ping; `None` when the connection is dead. Dropping the receiver forgets it at the next ping.
    pub fn ping(&self) -> Option<oneshot::Receiver<pb::Pong>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        if state.dead {
            return None;
        }
        state.pings.retain(|_, waiter| !waiter.is_closed());
        let id = state.next_id;
        state.next_id += 1;
        state.pings.insert(id, sender);
        let _ = self.queue.send(Out::Ping(id));
        Some(receiver)
    }

    /// Takes no further requests, and ends when it has none.
    pub fn retire(self: &Arc<Self>, reason: CloseReason) {
        let is_free = {
            let mut state = self.state.lock();
            state.retiring.get_or_insert(reason);
            state.pending.is_empty()
        };
        if is_free {
            self.kill(Death::new(reason, LegErrorClass::Reset, "the connection was retired"));
        } else if let Some(link) = self.link.upgrade() {
            link.retired(self);
        }
    }

    pub fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    /// Ends it if it has no request at this moment, which it returns; a job that came in between keeps it.
    pub fn close_if_idle(self: &Arc<Self>, reason: CloseReason) -> bool {
        let is_free = {
            let mut state = self.state.lock();
            let is_free = state.pending.is_empty() && !state.dead;
            if is_free {
                state.retiring.get_or_insert(reason);
            }
            is_free
        };
        if is_free {
            self.kill(Death::new(reason, LegErrorClass::Reset, "the connection was unused"));
        }
        is_free
    }

    /// Since when it has no request; `None` when it has one, or takes none any more.
    pub fn idle_since(&self) -> Option<Instant> {
        let state = self.state.lock();
        let is_idle = state.pending.is_empty() && !state.dead && state.retiring.is_none();
        is_idle.then_some(state.idle_since)
    }

    /// Ends the connection. Its requests fail, or are resent once when it may have been stale.
    pub fn kill(self: &Arc<Self>, death: Death) {
        let (pending, was_reused) = {
            let mut state = self.state.lock();
            if state.dead {
                return;
            }
            state.dead = true;
            state.pings.clear();
            // A request that crosses GOAWAY finds the peer gone, too.
            let was_reused =
                state.served > 0 || self.meter.age(now()) >= REUSED_AGE || state.retiring == Some(CloseReason::GoAway);
            (std::mem::take(&mut state.pending), was_reused)
        };
        for task in self.tasks.get().into_iter().flatten() {
            task.abort();
        }
        self.slot.lock().take();
        let reason = match death.reason {
            CloseReason::Reset if pending.is_empty() => CloseReason::PeerClosed,
            reason => reason,
        };
        tracing::debug!(addr = %self.addr, lane = ?self.kind, reason = reason.name(), message = %death.message, "connection closed");
        self.counters.closed(self.kind, reason);
        let link = self.link.upgrade();
        if let Some(link) = &link {
            link.ended(self);
        }
        let source = death.source.map(Arc::new);
        for mut job in pending.into_values().filter_map(|pending| pending.job) {
            let may_be_stale =
                death.reason == CloseReason::Reset && was_reused && !job.resent && !job.shared.has_first_byte();
            match &link {
                Some(link) if may_be_stale => {
                    if job.disembark() {
                        link.resend(job);
                    }
                }
                _ => {
                    let message = format!("{}: {}", self.addr, death.message);
                    let mut error = LegError::new(death.class.clone(), crate::error::Sent::No, message);
                    error.source.clone_from(&source);
                    job.fail_with(error);
                }
            }
        }
    }

    pub fn view(&self, now: Instant) -> ConnView {
        let state = self.state.lock();
        ConnView {
            idle_for: state.pending.is_empty().then(|| now - state.idle_since),
            age: self.meter.age(now),
            max_age: self.max_age,
            idle_timeout: self.idle_timeout,
            silent_for: self.meter.silent_for(now),
            suspect: self.suspect.load(Ordering::Relaxed),
        }
    }

    pub fn occupation(&self) -> Occupation {
        let state = self.state.lock();
        let flying = state.pending.values().filter(|pending| pending.job.is_some()).count();
        match (state.pending.len(), flying) {
            (0, _) => Occupation::Idle,
            (_, 0) => Occupation::Draining,
            (_, flying) => Occupation::Busy(flying),
        }
    }
}

#[cfg(test)]
mod tests;
