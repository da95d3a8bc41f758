//! One bound for the connections of all links of a client, and who makes room when it is reached.
//!
//! A dial that finds no place asks all links: the connection that has been free longest is closed. When none is free,
//! the next one that becomes free is. Places are handed over in the order of arrival, but a lane without any connection
//! comes before one that wants a further one. When such a lane has waited for [`YIELD_AFTER`], the link with the most
//! connections retires one, which finishes what it has. So nobody waits for ever, and nobody is cut off.

use crate::sync::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// How long a dial waits for a connection to become free before another link has to give one up.
const YIELD_AFTER: Duration = Duration::from_millis(100);

/// A link, as far as the total is concerned.
pub(crate) trait Crowd: Send + Sync {
    /// Since when its longest unused connection has been free; `None` when none is.
    fn idle_since(&self) -> Option<Instant>;

    /// Closes its longest unused connection; false when there is none any more.
    fn evict_idle(&self) -> bool;

    /// Connections that take requests.
    fn open(&self) -> usize;

    /// Takes one of its connections out of use, to end with its present requests.
    fn retire_one(&self) -> bool;
}

/// Connections of all links of a client together; shared by their [`crate::LinkConfig`]s.
pub struct ConnectionTotal {
    max: usize,
    state: Mutex<State>,
    /// Dials that wait for a place.
    waiting: AtomicUsize,
}

struct State {
    used: usize,
    peak: usize,
    tickets: u64,
    waiting: VecDeque<Waiting>,
    links: Vec<Weak<dyn Crowd>>,
    /// Length of `links` at which those that are gone are taken out.
    prune_at: usize,
}

/// What a lane has that wants a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holding {
    /// No connection, and no other dial.
    Nothing,
    /// No connection yet.
    Dials,
    /// A connection.
    Something,
}

/// A dial that waits for a place.
struct Waiting {
    slot: oneshot::Sender<Slot>,
    serial: u64,
    /// Its lane has no connection.
    needy: bool,
}

impl State {
    fn next(&mut self) -> Option<Waiting> {
        let at = self.waiting.iter().position(|waiting| waiting.needy).unwrap_or(0);
        self.waiting.remove(at)
    }
}

/// A place for one connection; handed on when dropped.
pub(crate) struct Slot(Option<Arc<ConnectionTotal>>);

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(total) = self.0.take() {
            total.hand_over();
        }
    }
}

/// A place in the queue; left when dropped.
pub(super) struct Ticket<'a> {
    total: &'a Arc<ConnectionTotal>,
    serial: u64,
    pub slot: Option<oneshot::Receiver<Slot>>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        // A slot that was handed over in the meantime goes to the next.
        drop(self.slot.take());
        self.total.leave();
    }
}

impl fmt::Debug for ConnectionTotal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionTotal")
            .field("max", &self.max)
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

impl ConnectionTotal {
    /// A bound of `max` connections, at least 1.
    pub fn new(max: usize) -> Arc<Self> {
        let state = State { used: 0, peak: 0, tickets: 0, waiting: VecDeque::new(), links: Vec::new(), prune_at: 16 };
        Arc::new(Self { max: max.max(1), state: Mutex::new(state), waiting: AtomicUsize::new(0) })
    }

    /// The bound.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Connections that exist or are being dialled.
    pub fn used(&self) -> usize {
        self.state.lock().used
    }

    /// The most there ever were at once.
    pub fn peak(&self) -> usize {
        self.state.lock().peak
    }

    /// Dials that wait for a place.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(crate) fn register(&self, link: Weak<dyn Crowd>) {
        let mut state = self.state.lock();
        if state.links.len() >= state.prune_at {
            state.links.retain(|link| link.strong_count() > 0);
            state.prune_at = (2 * state.links.len()).max(16);
        }
        state.links.push(link);
    }

    /// A place if one is free.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Slot> {
        let mut state = self.state.lock();
        if state.used >= self.max || !state.waiting.is_empty() {
            return None;
        }
        state.used += 1;
        state.peak = state.peak.max(state.used);
        Some(Slot(Some(Arc::clone(self))))
    }

    /// Waits for a place, for a lane that says what it has. Cancelling gives up the turn.
    pub(crate) async fn acquire(self: &Arc<Self>, lane: impl Fn() -> Holding) -> Slot {
        if let Some(slot) = self.try_acquire() {
            return slot;
        }
        let mut ticket = self.queue(lane() == Holding::Nothing);
        self.make_room(|links| {
            let mut idle: Vec<_> = links.iter().filter_map(|link| Some((link.idle_since()?, link))).collect();
            idle.sort_by_key(|(since, _)| *since);
            idle.iter().any(|(_, link)| link.evict_idle());
        });
        // The queue is emptied only by handing over.
        let never = "a waiting dial is in the queue until it has its place";
        let receiver = ticket.slot.as_mut().expect(never);
        if let Ok(slot) = timeout(YIELD_AFTER, &mut *receiver).await {
            return slot.expect(never);
        }
        if lane() != Holding::Something {
            self.promote(ticket.serial);
            self.make_room(|links| {
                let mut open: Vec<_> = links.iter().map(|link| (link.open(), link)).collect();
                open.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
                open.iter().any(|(_, link)| link.retire_one());
            });
        }
        let receiver = ticket.slot.as_mut().expect(never);
        receiver.await.expect(never)
    }

    fn make_room(&self, choose: impl FnOnce(&[Arc<dyn Crowd>])) {
        let links: Vec<_> = self.state.lock().links.iter().filter_map(Weak::upgrade).collect();
        choose(&links);
    }

    /// Its lane has lost what it had in the meantime.
    fn promote(&self, serial: u64) {
        let mut state = self.state.lock();
        state.waiting.iter_mut().filter(|waiting| waiting.serial == serial).for_each(|waiting| waiting.needy = true);
    }

    pub(super) fn queue(self: &Arc<Self>, needy: bool) -> Ticket<'_> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        state.tickets += 1;
        let serial = state.tickets;
        if state.used < self.max && state.waiting.is_empty() {
            // A place became free in between.
            state.used += 1;
            state.peak = state.peak.max(state.used);
            let _ = sender.send(Slot(Some(Arc::clone(self))));
        } else {
            state.waiting.push_back(Waiting { slot: sender, serial, needy });
        }
        self.waiting.store(state.waiting.len(), Ordering::SeqCst);
        drop(state);
        Ticket { total: self, serial, slot: Some(receiver) }
    }

    fn leave(&self) {
        let mut state = self.state.lock();
        state.waiting.retain(|waiting| !waiting.slot.is_closed());
        self.waiting.store(state.waiting.len(), Ordering::SeqCst);
    }

    /// Gives a place to the next who waits, or takes it back.
    fn hand_over(self: Arc<Self>) {
        loop {
            let next = {
                let mut state = self.state.lock();
                let next = state.next();
                if next.is_none() {
                    state.used -= 1;
                }
                self.waiting.store(state.waiting.len(), Ordering::SeqCst);
                next
            };
            let Some(next) = next else {
                return;
            };
            match next.slot.send(Slot(Some(Arc::clone(&self)))) {
                Ok(()) => return,
                // It has left: the place is still to be given.
                Err(mut slot) => slot.0 = None,
            }
        }
    }
}
