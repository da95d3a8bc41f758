//! Which replica to ask next while a block is being read, and when.

use std::time::Duration;

/// The earliest that a second replica is asked beside a silent first one.
const NEXT_LEG_MIN: Duration = Duration::from_millis(50);
/// The latest.
const NEXT_LEG_MAX: Duration = Duration::from_secs(2);
/// Another replica is asked after this multiple of the latency that is usual at the first.
const NEXT_LEG_FACTOR: u32 = 4;

/// What to do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step<T> {
    /// Ask this replica too; legs under way go on.
    Start(T),
    /// Nothing until an answer comes, or until this time.
    Wait(Option<Duration>),
    /// Every replica failed.
    Exhausted,
}

/// One round over the replicas of a block. A timer only ever permits a further leg; it cancels none.
#[derive(Clone, Debug)]
pub(crate) struct ReadPlan<T> {
    untried: Vec<T>,
    live: usize,
    next_at: Duration,
    patience: Duration,
}

impl<T: Copy> ReadPlan<T> {
    /// A round that asks `order`, first to last; `usual` is the latency usual at the first.
    pub(crate) fn new(order: Vec<T>, usual: Duration) -> Self {
        let patience = usual.saturating_mul(NEXT_LEG_FACTOR).clamp(NEXT_LEG_MIN, NEXT_LEG_MAX);
        let mut untried = order;
        untried.reverse();
        Self { untried, live: 0, next_at: Duration::ZERO, patience }
    }

    /// A leg failed.
    pub(crate) fn on_failure(&mut self, now: Duration) {
        self.live -= 1;
        self.next_at = now;
    }

    /// What to do at `now`. Each further leg doubles the patience, so that a slowdown of all replicas is not answered
    /// with a flood.
    pub(crate) fn step(&mut self, now: Duration) -> Step<T> {
        if self.untried.is_empty() {
            return if self.live == 0 { Step::Exhausted } else { Step::Wait(None) };
        }
        if self.live > 0 && now < self.next_at {
            return Step::Wait(Some(self.next_at));
        }
        self.live += 1;
        self.next_at = now + self.patience;
        self.patience = self.patience.saturating_mul(2);
        Step::Start(self.untried.pop().expect("checked above"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_failure_moves_on_at_once() {
        let mut plan = ReadPlan::new(vec!['a', 'b'], MS);
        assert_eq!(plan.step(Duration::ZERO), Step::Start('a'));
        assert_eq!(plan.step(MS), Step::Wait(Some(50 * MS)));
        plan.on_failure(2 * MS);
        assert_eq!(plan.step(2 * MS), Step::Start('b'));
        assert_eq!(plan.step(2 * MS), Step::Wait(None));
        plan.on_failure(3 * MS);
        assert_eq!(plan.step(3 * MS), Step::Exhausted);
    }

    #[test]
    fn a_silent_replica_is_joined_never_cancelled() {
        let mut plan = ReadPlan::new(vec!['a', 'b', 'c'], 100 * MS);
        assert_eq!(plan.step(Duration::ZERO), Step::Start('a'));
        assert_eq!(plan.step(400 * MS), Step::Start('b'));
        assert_eq!(plan.step(400 * MS), Step::Wait(Some(1200 * MS)));
        assert_eq!(plan.step(1200 * MS), Step::Start('c'));
        // The last leg in flight is waited for, however long it takes.
        plan.on_failure(1300 * MS);
        plan.on_failure(1300 * MS);
        assert_eq!(plan.step(60_000 * MS), Step::Wait(None));
    }

    #[test]
    fn nothing_to_ask_is_exhausted() {
        assert_eq!(ReadPlan::<char>::new(vec![], MS).step(Duration::ZERO), Step::Exhausted);
    }
}
