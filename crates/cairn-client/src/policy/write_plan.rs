//! When a replicated write is done: a majority, then a short grace in which the last replicas may join.

use cairn_proto::StoreId;
use cairn_proto::quorum::{Outcome, Tally};
use std::time::Duration;

/// The longest that a write waits for its last replicas once a majority has it.
const GRACE_MAX: Duration = Duration::from_millis(100);

/// What to do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Nothing until an answer comes, or until this time.
    Wait(Option<Duration>),
    /// Enough replicas hold the block; those that have not answered are stragglers.
    Commit,
    /// A majority cannot be reached here.
    GiveUp,
}

/// What an ack meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ack {
    /// It came before the decision.
    Counted,
    /// The write was decided before, and that stands. After a commit the degraded row of this store can be cleared;
    /// after giving up its block is an orphan.
    Late,
    /// Of a store that was not asked, or that answered before.
    Ignored,
}

/// One block on its way to its replicas.
///
/// The grace equals the time the majority took (at most [`GRACE_MAX`]): replicas that share the load of the first ones
/// get as long again, so that most commits carry all of them and repair has little to do; a dead or frozen node costs
/// nothing once its breaker is open.
///
/// Once [`WritePlan::step`] has said `Commit` or `GiveUp` it says so for ever. The tally goes on counting, for a caller
/// that commits several blocks together.
#[derive(Clone, Debug)]
pub(crate) struct WritePlan {
    tally: Tally,
    quorum_at: Option<Duration>,
    /// The decision, and how many acks there were.
    decided: Option<(Step, usize)>,
}

impl WritePlan {
    /// A block meant for `replicas` copies, sent to `targets`.
    pub(crate) fn new(replicas: usize, targets: &[StoreId]) -> Self {
        Self { tally: Tally::new(replicas, targets), quorum_at: None, decided: None }
    }

    /// `store` has it.
    pub(crate) fn on_ack(&mut self, store: StoreId, now: Duration) -> Ack {
        if !self.tally.pending().contains(&store) {
            return Ack::Ignored;
        }
        self.tally.ack(store);
        if self.decided.is_some() {
            return Ack::Late;
        }
        if self.quorum_at.is_none() && matches!(self.tally.outcome(), Outcome::Quorum | Outcome::All) {
            self.quorum_at = Some(now);
        }
        Ack::Counted
    }

    /// `store` will not have it.
    pub(crate) fn on_failure(&mut self, store: StoreId) {
        self.tally.fail(store);
    }

    /// What to do at `now`; `no_grace` tells of a store that it is not worth waiting for: its node's breaker is not
    /// closed (it refused connections, or is silent).
    pub(crate) fn step(&mut self, now: Duration, no_grace: impl Fn(StoreId) -> bool) -> Step {
        if let Some((decided, _)) = self.decided {
            return decided;
        }
        let step = match self.tally.outcome() {
            Outcome::All => Step::Commit,
            Outcome::Impossible => Step::GiveUp,
            Outcome::Pending => Step::Wait(None),
            Outcome::Quorum if self.tally.pending().iter().all(|store| no_grace(*store)) => Step::Commit,
            Outcome::Quorum => {
                let reached = self.quorum_at.unwrap_or(now);
                let until = reached + reached.min(GRACE_MAX);
                if now >= until { Step::Commit } else { Step::Wait(Some(until)) }
            }
        };
        if !matches!(step, Step::Wait(_)) {
            self.decided = Some((step, self.tally.acked().len()));
        }
        step
    }

    /// The count so far.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The stores that had it when the write was decided; `None` before.
    #[cfg(test)]
    pub(crate) fn decided_acks(&self) -> Option<&[StoreId]> {
        self.decided.map(|(_, count)| &self.tally.acked()[..count])
    }
}

#[cfg(test)]
mod tests;
