//! Which replica to ask next while a block is being read, and when.

use std::collections::VecDeque;
use std::time::Duration;

/// Hedges of one operation.
const HEDGES_PER_OPERATION: usize = 1;
/// Doublings of the soft timer within one operation that make a difference.
const DOUBLINGS_MAX: u32 = 7;

/// When to do something about a leg that has not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Times {
    /// A hedge begins this long after the first leg; for bulk: if not a byte came until then.
    pub(crate) hedge_after: Duration,
    /// A further leg may begin this long after the last one that was not a hedge; doubled each time.
    pub(crate) soft_after: Duration,
    /// Bulk only: once bytes came, a hedge begins when none came for this long.
    pub(crate) stall_after: Option<Duration>,
}

/// What costs something and may be refused.
pub(crate) trait Permits {
    /// May a hedge begin? Keeps what it took until the operation ends.
    fn hedge(&mut self) -> bool;
    /// May a retry begin? Takes a token.
    fn retry(&mut self) -> bool;
    /// A hedge was due and no other closed replica is left; told once.
    fn no_replica(&mut self) {}
}

/// Why a leg begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) enum Why {
    /// The operation begins.
    First,
    /// Another leg failed. Free.
    Failover,
    /// The first leg takes longer than 95 of 100. Paid from the hedge budget.
    Hedge,
    /// The soft timer ran out, a fresh replica is left. Free.
    Timer,
    /// Only a replica with an open breaker is left. Paid from the retry budget.
    Retry,
}

/// What to do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step<T> {
    /// Ask this replica too, as leg number `leg` (from 0); legs under way go on.
    Start {
        /// Whom.
        replica: T,
        /// Number of the leg, for the events.
        leg: usize,
        /// Why.
        why: Why,
    },
    /// Nothing until something happens, or until this time.
    Wait(Option<Duration>),
    /// No leg is under way and none may begin: the round is over.
    Exhausted,
}

/// One round over the replicas of a block. Times are durations since the client's origin.
///
/// - A failed leg is followed by the next fresh replica at once, for free.
/// - A slow first leg is joined by a hedge, at most one, only at another closed replica, paid from the hedge budget.
/// - The soft timer permits a further leg: free at a fresh replica, else for a retry token at one whose breaker is open.
/// - No timer cancels a leg, and no failure ends the race while a leg lives.
/// - A refused permit is asked for again only when something happened; the round ends when its last leg ends.
#[derive(Clone, Debug)]
pub(crate) struct ReadPlan<T> {
    fresh: VecDeque<T>,
    rest: VecDeque<T>,
    times: Times,
    /// Of each leg, whether it is under way.
    legs: Vec<bool>,
    hedges: usize,
    hedge_at: Duration,
    hedge_refused: bool,
    soft_at: Duration,
    doublings: u32,
    retry_refused: bool,
    /// Failed legs that no other leg has followed yet.
    owed: usize,
}

impl<T: Copy> ReadPlan<T> {
    /// A round that asks `fresh` (closed replicas), first to last, and `rest` (all others) when nothing else is left.
    pub(crate) fn new(fresh: Vec<T>, rest: Vec<T>, times: Times, now: Duration) -> Self {
        Self {
            legs: Vec::with_capacity(fresh.len() + rest.len()),
            fresh: fresh.into(),
            rest: rest.into(),
            times,
            hedges: 0,
            hedge_at: now,
            hedge_refused: false,
            soft_at: now,
            doublings: 0,
            retry_refused: false,
            owed: 0,
        }
    }

    /// Bytes of a leg's answer came.
    pub(crate) fn on_bytes(&mut self, leg: usize, at: Duration) {
        if let Some(stall) = self.times.stall_after.filter(|_| self.legs.get(leg) == Some(&true)) {
            // A transfer that makes progress is waited for, whatever the timers thought it would take.
            self.hedge_at = self.hedge_at.max(at.saturating_add(stall));
            self.soft_at = self.soft_at.max(at.saturating_add(stall));
            self.hedge_refused = false;
            self.retry_refused = false;
        }
    }

    /// A leg failed. Told twice, it counts once.
    pub(crate) fn on_failure(&mut self, leg: usize) {
        let Some(live) = self.legs.get_mut(leg).filter(|live| **live) else { return };
        *live = false;
        self.owed += 1;
        self.hedge_refused = false;
        self.retry_refused = false;
    }

    /// Legs under way.
    pub(crate) fn live(&self) -> usize {
        self.legs.iter().filter(|live| **live).count()
    }

    fn start(&mut self, replica: T, why: Why, now: Duration) -> Step<T> {
        let leg = self.legs.len();
        self.legs.push(true);
        if leg == 0 {
            self.hedge_at = now.saturating_add(self.times.hedge_after);
        }
        if why == Why::Hedge {
            self.hedges += 1;
        } else {
            self.soft_at = now.saturating_add(self.times.soft_after.saturating_mul(1 << self.doublings));
        }
        Step::Start { replica, leg, why }
    }

    /// What to do at `now`. Call it again after each `Start` and each event, and at the time that `Wait` names.
    pub(crate) fn step(&mut self, now: Duration, permits: &mut impl Permits) -> Step<T> {
        if self.owed > 0 {
            self.owed -= 1;
            if let Some(replica) = self.fresh.pop_front() {
                return self.start(replica, Why::Failover, now);
            }
            self.owed = 0;
        }
        if self.live() == 0 {
            return self.step_without_legs(now, permits);
        }
        if self.hedge_is_open() && now >= self.hedge_at {
            if self.fresh.is_empty() {
                self.hedges = HEDGES_PER_OPERATION;
                permits.no_replica();
            } else if permits.hedge() {
                let replica = self.fresh.pop_front().expect("checked above");
                return self.start(replica, Why::Hedge, now);
            } else {
                self.hedge_refused = true;
            }
        }
        if self.soft_is_open() && now >= self.soft_at {
            self.doublings = (self.doublings + 1).min(DOUBLINGS_MAX);
            if let Some(replica) = self.fresh.pop_front() {
                return self.start(replica, Why::Timer, now);
            }
            if permits.retry() {
                let replica = self.rest.pop_front().expect("an open timer has somebody to ask");
                return self.start(replica, Why::Retry, now);
            }
            self.retry_refused = true;
        }
        let hedge_at = self.hedge_is_open().then_some(self.hedge_at);
        let soft_at = self.soft_is_open().then_some(self.soft_at);
        Step::Wait(hedge_at.into_iter().chain(soft_at).min())
    }

    fn step_without_legs(&mut self, now: Duration, permits: &mut impl Permits) -> Step<T> {
        let why = if self.legs.is_empty() { Why::First } else { Why::Failover };
        if let Some(replica) = self.fresh.pop_front() {
            return self.start(replica, why, now);
        }
        if self.rest.is_empty() || self.retry_refused {
            return Step::Exhausted;
        }
        if permits.retry() {
            let replica = self.rest.pop_front().expect("checked above");
            return self.start(replica, Why::Retry, now);
        }
        self.retry_refused = true;
        Step::Exhausted
    }

    /// A hedge may still begin in this operation.
    fn hedge_is_open(&self) -> bool {
        self.hedges < HEDGES_PER_OPERATION && !self.hedge_refused
    }

    /// The soft timer has somebody to ask.
    fn soft_is_open(&self) -> bool {
        !self.fresh.is_empty() || (!self.rest.is_empty() && !self.retry_refused)
    }
}

#[cfg(test)]
mod tests;
