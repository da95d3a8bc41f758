//! What the committer counts, readable while it runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters of an engine's commits since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CommitCounts {
    /// Writes to the disk: each commits a group of transactions.
    pub groups: u64,
    /// Transactions that were committed.
    pub transactions: u64,
    /// Transactions that conflicted: their callers ran them again.
    pub conflicts: u64,
    /// Time spent on writes to the disk, in all.
    pub busy: Duration,
    /// How long the write that is under way has taken so far; zero when there is none.
    pub stalled_for: Duration,
}

/// The counters behind [`CommitCounts`]: written by the committer alone.
#[derive(Default, Debug)]
pub(super) struct CommitStats {
    groups: AtomicU64,
    transactions: AtomicU64,
    conflicts: AtomicU64,
    busy_us: AtomicU64,
    /// When the write under way began, in microseconds of the clock, plus one; 0 = there is none.
    begun_us: AtomicU64,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl CommitStats {
    pub(super) fn begin(&self, now: Duration) {
        self.begun_us.store(micros(now).saturating_add(1), Ordering::Relaxed);
    }

    /// A group was committed.
    pub(super) fn end(&self, transactions: usize, conflicts: usize, took: Duration) {
        self.begun_us.store(0, Ordering::Relaxed);
        let add = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Ordering::Relaxed);
        // A group of conflicts writes nothing.
        add(&self.groups, u64::from(transactions > 0));
        add(&self.transactions, transactions as u64);
        add(&self.conflicts, conflicts as u64);
        add(&self.busy_us, micros(took));
    }

    pub(super) fn read(&self, now: Duration) -> CommitCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let stalled_us = match get(&self.begun_us) {
            0 => 0,
            begun => micros(now).saturating_sub(begun - 1),
        };
        CommitCounts {
            groups: get(&self.groups),
            transactions: get(&self.transactions),
            conflicts: get(&self.conflicts),
            busy: Duration::from_micros(get(&self.busy_us)),
            stalled_for: Duration::from_micros(stalled_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_stalls_only_while_it_is_under_way() {
        let stats = CommitStats::default();
        let at = Duration::from_millis;
        assert_eq!(stats.read(at(9)), CommitCounts::default());
        stats.begin(at(0));
        assert_eq!(stats.read(at(9)).stalled_for, at(9));
        stats.end(3, 1, at(12));
        stats.begin(at(20));
        stats.end(0, 2, at(1));
        let counts = CommitCounts { groups: 1, transactions: 3, conflicts: 3, busy: at(13), stalled_for: at(0) };
        assert_eq!(stats.read(at(50)), counts);
    }
}
