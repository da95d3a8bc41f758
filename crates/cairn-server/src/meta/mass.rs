//! When collection stops, because so much became garbage at once that it may be a mistake: a defect that drops maps, a
//! script gone wrong. Blocks are what can undo it, as long as they are there.
//!
//! Plain values: whoever asks says what time it is.

use crate::limits::GARBAGE_MASS_WINDOW;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// How much may be collected within [`GARBAGE_MASS_WINDOW`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MassRule {
    /// Percent of the copies of blocks that all stores hold; 100 = all of them.
    pub percent: u8,
    /// So many copies may go in any case.
    pub copies_min: u64,
    /// After so long without an answer of an operator it is taken to be meant.
    pub hold: Duration,
}

impl MassRule {
    /// True when `due` copies may go of the `held` ones.
    fn bears(&self, due: u64, held: u64) -> bool {
        let share = u128::from(held) * u128::from(self.percent) / 100;
        self.percent >= 100 || u128::from(due) <= share.max(u128::from(self.copies_min))
    }
}

/// What follows from how much there is to be collected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Gate {
    /// Collect. Next: `Stop`.
    Open,
    /// Begin to stop, and say so. Next: `Closed`.
    Stop,
    /// It is stopped still. Next: `Open`, `Accepted`.
    Closed,
    /// Nobody objected for long, or somebody agreed: collect all there is. Next: `Open`.
    Accepted,
}

/// How a stop stands, as it is written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    Nothing,
    Stopped,
    Accepted,
}

/// What was collected lately, and since when it is stopped, on this process's monotonic clock.
pub(crate) struct MassGuard {
    rule: MassRule,
    lately: VecDeque<(Instant, u64)>,
    stopped: Option<Instant>,
}

impl MassGuard {
    pub(crate) fn new(rule: MassRule) -> Self {
        Self { rule, lately: VecDeque::new(), stopped: None }
    }

    /// The copies whose deletion was begun within the window.
    pub(crate) fn lately(&mut self, now: Instant) -> u64 {
        let over = |at: &Instant| now.saturating_duration_since(*at) >= GARBAGE_MASS_WINDOW;
        while self.lately.front().is_some_and(|(at, _)| over(at)) {
            self.lately.pop_front();
        }
        self.lately.iter().map(|(_, copies)| copies).sum()
    }

    /// The deletion of so many copies begins, as usual. A second's worth is one entry.
    pub(crate) fn spend(&mut self, copies: u64, now: Instant) {
        match self.lately.back_mut() {
            Some((at, sum)) if now.saturating_duration_since(*at) < Duration::from_secs(1) => *sum += copies,
            _ => self.lately.push_back((now, copies)),
        }
    }

    /// The decision: `waiting` copies are garbage and not begun to be deleted, of `held` ones in all.
    pub(crate) fn gate(&mut self, known: Known, waiting: u64, held: u64, now: Instant) -> Gate {
        let lately = self.lately(now);
        let bearable = self.rule.bears(waiting.saturating_add(lately), held.saturating_add(lately));
        if bearable || known != Known::Stopped {
            self.stopped = None;
        }
        match known {
            _ if bearable => Gate::Open,
            Known::Accepted => Gate::Accepted,
            Known::Nothing => Gate::Stop,
            Known::Stopped => {
                let since = *self.stopped.get_or_insert(now);
                let over = now.saturating_duration_since(since) >= self.rule.hold;
                if over { Gate::Accepted } else { Gate::Closed }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: MassRule = MassRule { percent: 30, copies_min: 100, hold: Duration::from_secs(3600 * 24) };

    #[test]
    fn a_share_of_what_is_held_or_a_handful_may_go() {
        let mut guard = MassGuard::new(RULE);
        let now = cairn_net::now();
        assert_eq!(guard.gate(Known::Nothing, 100, 100, now), Gate::Open, "a handful");
        assert_eq!(guard.gate(Known::Nothing, 101, 100, now), Gate::Stop);
        assert_eq!(guard.gate(Known::Nothing, 3000, 10_000, now), Gate::Open);
        assert_eq!(guard.gate(Known::Nothing, 3001, 10_000, now), Gate::Stop);
        let mut all = MassGuard::new(MassRule { percent: 100, ..RULE });
        assert_eq!(all.gate(Known::Nothing, u64::MAX, 0, now), Gate::Open);
    }

    #[test]
    fn what_went_lately_counts_for_an_hour() {
        let mut guard = MassGuard::new(RULE);
        let start = cairn_net::now();
        // Bit by bit is as much as at once: 2000 of 10000 went, so 1000 may.
        guard.spend(2000, start);
        assert_eq!(guard.gate(Known::Nothing, 1000, 8000, start), Gate::Open);
        assert_eq!(guard.gate(Known::Nothing, 1001, 8000, start), Gate::Stop);
        let later = start + GARBAGE_MASS_WINDOW;
        assert_eq!(guard.gate(Known::Nothing, 1001, 8000, later), Gate::Open);
    }

    #[test]
    fn it_goes_on_when_accepted_when_it_is_less_or_after_a_long_hold() {
        let mut guard = MassGuard::new(RULE);
        let start = cairn_net::now();
        assert_eq!(guard.gate(Known::Nothing, 9000, 10_000, start), Gate::Stop);
        assert_eq!(guard.gate(Known::Stopped, 9000, 10_000, start), Gate::Closed);
        assert_eq!(guard.gate(Known::Accepted, 9000, 10_000, start), Gate::Accepted);
        // The hold begins when a stop is first seen by this process, also after one that is over.
        let again = start + Duration::from_secs(10);
        assert_eq!(guard.gate(Known::Stopped, 9000, 10_000, again), Gate::Closed);
        assert_eq!(guard.gate(Known::Stopped, 9000, 10_000, again + RULE.hold - Duration::from_secs(1)), Gate::Closed);
        assert_eq!(guard.gate(Known::Stopped, 9000, 10_000, again + RULE.hold), Gate::Accepted);
        assert_eq!(guard.gate(Known::Stopped, 2000, 10_000, again), Gate::Open, "metadata was restored");
    }
}
