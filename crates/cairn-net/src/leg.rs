//! One request under way: the caller's end ([`Leg`]) and the connection's end ([`Job`]).

use crate::call::{Call, Progress, Reply, Route, Timing};
use crate::conn::{Conn, Flight};
use crate::error::{LegError, LegErrorClass, Sent};
use crate::link::Link;
use crate::meter::Moment;
use crate::seam::now;
use bytes::Bytes;
use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, Sleep, sleep_until};

/// Where a leg's request is. Next states: `Waiting` -> `Flying`, `Cancelled`, `Done`; `Flying` -> `Waiting` (resent),
/// `Cancelled`, `Done`.
pub(crate) enum Place {
    /// It waits for permits or for a connection.
    Waiting,
    /// A connection has it.
    Flying(Arc<Conn>, Arc<Flight>),
    /// Its outcome is known.
    Done,
    /// Its caller is gone.
    Cancelled,
}

/// What both ends of a leg share.
pub(crate) struct LegShared {
    started: Instant,
    pub place: Mutex<Place>,
    queued: Moment,
    sent: Moment,
    first_byte: Moment,
    last_byte: Moment,
    done: Moment,
    bytes_received: AtomicU64,
    /// The longest time between two arrivals of body bytes.
    max_gap: Moment,
    /// Number of the connection that has or had it; 0 = none yet.
    connection: AtomicU64,
}

impl LegShared {
    fn new() -> Self {
        Self {
            started: now(),
            place: Mutex::new(Place::Waiting),
            queued: Moment::default(),
            sent: Moment::default(),
            first_byte: Moment::default(),
            last_byte: Moment::default(),
            done: Moment::default(),
            bytes_received: AtomicU64::new(0),
            max_gap: Moment::default(),
            connection: AtomicU64::new(0),
        }
    }

    fn elapsed(&self) -> std::time::Duration {
        now() - self.started
    }

    /// The request's first frame is about to be written.
    pub fn mark_sent(&self) {
        self.sent.set(self.elapsed());
    }

    /// The first frame of the response is here.
    pub fn mark_first_byte(&self) {
        self.first_byte.set(self.elapsed());
    }

    /// More of the response's body is here.
    pub fn mark_received(&self, len: u64) {
        self.bytes_received.fetch_add(len, Ordering::Relaxed);
        let at = self.elapsed();
        // Only the connection's reading task writes these.
        if let Some(before) = self.last_byte.get() {
            let gap = at.saturating_sub(before);
            if self.max_gap.get().is_none_or(|longest| longest < gap) {
                self.max_gap.set(gap);
            }
        }
        self.last_byte.set(at);
    }

    pub fn has_first_byte(&self) -> bool {
        self.first_byte.get().is_some()
    }

    fn connection(&self) -> Option<u64> {
        match self.connection.load(Ordering::Relaxed) {
            0 => None,
            serial => Some(serial),
        }
    }

    fn timing(&self) -> Timing {
        Timing {
            queued: self.queued.get(),
            sent: self.sent.get(),
            first_byte: self.first_byte.get(),
            done: self.done.get(),
        }
    }

    fn progress(&self) -> Progress {
        Progress {
            sent: self.sent.get().is_some(),
            first_byte: self.first_byte.get().is_some(),
            bytes_received: self.bytes_received.load(Ordering::Relaxed),
            last_byte: self.last_byte.get(),
            max_gap: self.max_gap.get(),
        }
    }

    fn sent_so_far(&self) -> Sent {
        match (self.first_byte.get(), self.sent.get()) {
            (Some(_), _) => Sent::Responded,
            (None, Some(_)) => Sent::Maybe,
            (None, None) => Sent::No,
        }
    }
}

/// What a request has paid for its stay; returned by dropping.
#[derive(Default)]
pub(crate) struct Permits {
    pub _op: Option<OwnedSemaphorePermit>,
    pub _bytes: Option<OwnedSemaphorePermit>,
}

/// The connection's end of a leg: everything needed to send the request, also a second time.
pub(crate) struct Job {
    pub call: Call,
    pub route: Route,
    /// The encoded request.
    pub protobuf: Bytes,
    pub shared: Arc<LegShared>,
    pub permits: Permits,
    /// It was resent because its first connection was stale.
    pub resent: bool,
    outcome: oneshot::Sender<Result<Reply, LegError>>,
}

impl Job {
    /// A connection takes it, unless its caller is gone: then false.
    pub fn board(&self, conn: &Arc<Conn>, flight: &Arc<Flight>) -> bool {
        let mut place = self.shared.place.lock();
        if matches!(*place, Place::Cancelled) {
            return false;
        }
        *place = Place::Flying(Arc::clone(conn), Arc::clone(flight));
        drop(place);
        self.shared.connection.store(conn.serial(), Ordering::Relaxed);
        let waited = self.shared.elapsed();
        self.shared.queued.set(waited);
        conn.counters().wait.record(waited);
        true
    }

    /// It goes back to waiting, to be sent again; false when its caller is gone. What was known to be sent stays so.
    pub fn disembark(&mut self) -> bool {
        self.resent = true;
        let mut place = self.shared.place.lock();
        if matches!(*place, Place::Cancelled) {
            return false;
        }
        *place = Place::Waiting;
        true
    }

    fn finish(self, outcome: Result<Reply, LegError>) {
        {
            let mut place = self.shared.place.lock();
            if !matches!(*place, Place::Cancelled) {
                *place = Place::Done;
            }
        }
        // Permits first: who is woken by the outcome finds them free.
        drop(self.permits);
        // A receiver that is gone was cancelled; nobody is left to tell.
        let _ = self.outcome.send(outcome);
    }

    pub fn reply(self, response: cairn_proto::pb::Response, body: Bytes) {
        self.shared.done.set(self.shared.elapsed());
        let timing = self.shared.timing();
        self.finish(Ok(Reply { response, body, timing }));
    }

    pub fn fail(self, class: LegErrorClass, message: impl Into<String>) {
        let sent = match class {
            LegErrorClass::Status(_) => Sent::Responded,
            _ => self.shared.sent_so_far(),
        };
        self.fail_with(LegError::new(class, sent, message));
    }

    /// Fails with an error made elsewhere (one dial's error for all its waiters); what was sent is this job's own.
    pub fn fail_with(self, error: LegError) {
        self.shared.done.set(self.shared.elapsed());
        let sent = match error.class {
            LegErrorClass::Status(_) => Sent::Responded,
            _ => self.shared.sent_so_far(),
        };
        let (resent, connection) = (self.resent, self.shared.connection());
        self.finish(Err(LegError { sent, resent, connection, ..error }));
    }

    /// Its caller waits no longer.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.call.deadline <= now
    }

    pub fn fail_expired(self) {
        self.fail(LegErrorClass::Deadline, "the deadline passed while it waited for a connection");
    }

    /// Waits until its caller is gone.
    pub async fn abandoned(&mut self) {
        self.outcome.closed().await;
    }
}

/// Looks at a [`Leg`] from the side: atomic loads, no lock. It keeps neither the leg nor its link alive.
#[derive(Clone)]
pub struct LegWatch(Arc<LegShared>);

impl LegWatch {
    /// When [`crate::Link::start`] was called: what progress and timing count from.
    pub fn started(&self) -> Instant {
        self.0.started
    }

    /// Number of the connection that has or had the leg, for [`Route::avoid`]; `None` before the first.
    pub fn connection(&self) -> Option<u64> {
        self.0.connection()
    }

    /// How far the leg has come.
    pub fn progress(&self) -> Progress {
        self.0.progress()
    }

    /// When its steps happened so far.
    pub fn timing(&self) -> Timing {
        self.0.timing()
    }
}

/// One request under way; a future of its outcome. It owns no I/O: dropping it pushes a cancellation onto a queue that
/// never blocks, and the connection is drained or closed behind it. It must be polled for its deadline to fire.
#[must_use = "dropping a leg cancels it"]
pub struct Leg {
    shared: Arc<LegShared>,
    outcome: oneshot::Receiver<Result<Reply, LegError>>,
    deadline: Pin<Box<Sleep>>,
    finished: bool,
    /// Keeps the link open while the leg lives.
    link: Link,
}

impl Leg {
    /// Both ends of a new leg. Needs a tokio runtime.
    pub(crate) fn new(link: Link, call: Call, route: Route, protobuf: Bytes) -> (Self, Box<Job>) {
        let (sender, receiver) = oneshot::channel();
        let shared = Arc::new(LegShared::new());
        let deadline = Box::pin(sleep_until(call.deadline));
        let job = Box::new(Job {
            call,
            route,
            protobuf,
            shared: Arc::clone(&shared),
            permits: Permits::default(),
            resent: false,
            outcome: sender,
        });
        (Self { shared, outcome: receiver, deadline, finished: false, link }, job)
    }

    /// How far it has come.
    pub fn progress(&self) -> Progress {
        self.shared.progress()
    }

    /// When its steps happened so far.
    pub fn timing(&self) -> Timing {
        self.shared.timing()
    }

    /// A handle that sees the same, also while the leg is polled elsewhere and after it is gone.
    pub fn watch(&self) -> LegWatch {
        LegWatch(Arc::clone(&self.shared))
    }

    fn cancel(&mut self) {
        let place = std::mem::replace(&mut *self.shared.place.lock(), Place::Cancelled);
        // Also ends a task that waits for permits on behalf of this leg.
        self.outcome.close();
        match place {
            Place::Waiting => self.link.forget(&self.shared),
            Place::Flying(conn, flight) => conn.cancel(&flight),
            Place::Done | Place::Cancelled => return,
        }
        self.link.count_cancel();
    }
}

impl Future for Leg {
    type Output = Result<Reply, LegError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!self.finished, "a leg was polled after its outcome");
        if let Poll::Ready(outcome) = Pin::new(&mut self.outcome).poll(cx) {
            self.finished = true;
            return Poll::Ready(outcome.unwrap_or_else(|_| {
                Err(LegError::new(LegErrorClass::Cancelled, self.shared.sent_so_far(), "its connection's task is gone"))
            }));
        }
        if self.deadline.as_mut().poll(cx).is_ready() {
            self.finished = true;
            let sent = self.shared.sent_so_far();
            self.cancel();
            let message = format!("no answer from {} in time", self.link.addr());
            let connection = self.shared.connection();
            return Poll::Ready(Err(LegError { connection, ..LegError::new(LegErrorClass::Deadline, sent, message) }));
        }
        Poll::Pending
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        if !self.finished {
            self.cancel();
        }
    }
}
