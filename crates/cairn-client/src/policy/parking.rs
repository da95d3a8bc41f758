//! Where operations wait whose replicas are all open, and how they leave without a stampede.

use std::collections::BTreeMap;
use std::time::Duration;

/// Operations that may wait at the same time, of one client.
pub(crate) const PARKED_MAX: usize = 1024;
/// Operations released together: as many as a node takes at the same time.
pub(crate) const RELEASE_MAX: usize = 64;
/// Usual time between two such batches, spread by half both ways: all that may wait are released within a third of a
/// second, at no more than 6,400 operations per second.
const RELEASE_GAP: Duration = Duration::from_millis(20);
const RELEASE_JITTER: f64 = 0.5;

/// A place in the parking lot. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Ticket(u64);

/// Operations that may go on.
#[derive(Debug)]
pub(crate) struct Released<W> {
    /// At most [`RELEASE_MAX`] of them, oldest first.
    pub(crate) waiters: Vec<W>,
    /// When to ask again; `None` = nobody waits.
    pub(crate) next: Option<Duration>,
}

/// The bounded parking lot. `W` is whatever wakes an operation.
///
/// When it is full, the operation that waits longest is shed to make room for the newest (docs/decisions/0007).
#[derive(Debug)]
pub(crate) struct Parking<W> {
    waiting: BTreeMap<Ticket, W>,
    next_ticket: u64,
    next_release: Duration,
    total: u64,
    shed: u64,
}

impl<W> Default for Parking<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W> Parking<W> {
    /// Nobody waits.
    pub(crate) fn new() -> Self {
        Self { waiting: BTreeMap::new(), next_ticket: 0, next_release: Duration::ZERO, total: 0, shed: 0 }
    }

    /// Lets an operation wait. The second value is the one that had to make room: it fails now.
    pub(crate) fn park(&mut self, waiter: W) -> (Ticket, Option<W>) {
        let shed = if self.waiting.len() >= PARKED_MAX { self.waiting.pop_first() } else { None };
        self.shed += u64::from(shed.is_some());
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.total += 1;
        self.waiting.insert(ticket, waiter);
        (ticket, shed.map(|(_, waiter)| waiter))
    }

    /// An operation stops waiting by itself (its deadline passed, its caller left); `None` when it was released or shed
    /// before.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> Option<W> {
        self.waiting.remove(&ticket)
    }

    /// The ticket of whoever parks next: later ones are not meant by a release that is asked for now.
    pub(crate) fn end(&self) -> Ticket {
        Ticket(self.next_ticket)
    }

    /// Takes out the next batch of those before `end`, once a node is there again; nobody before its time has come.
    /// `unit` is a random number from 0 to 1.
    pub(crate) fn release(&mut self, now: Duration, unit: f64, end: Ticket) -> Released<W> {
        let mut waiters = Vec::new();
        if now >= self.next_release {
            while waiters.len() < RELEASE_MAX
                && let Some(first) = self.waiting.first_entry().filter(|first| *first.key() < end)
            {
                waiters.push(first.remove());
            }
            if !waiters.is_empty() {
                self.next_release = now + RELEASE_GAP.mul_f64(1.0 + RELEASE_JITTER * (2.0 * unit - 1.0));
            }
        }
        let more = self.waiting.first_key_value().is_some_and(|(first, _)| *first < end);
        Released { waiters, next: more.then_some(self.next_release) }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// True when nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many ever waited.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// How many had to make room.
    pub(crate) fn shed(&self) -> u64 {
        self.shed
    }
}

#[cfg(test)]
mod tests;
