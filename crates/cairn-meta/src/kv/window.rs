//! The recent commits that a validation looks at: which key was last written by which commit.

use super::KeyRange;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// Keys remembered. A transaction whose snapshot is older than the oldest one remembered conflicts.
pub(super) const WINDOW_KEYS_MAX: usize = 64 * 1024;

/// What a transaction read, to be checked when it commits.
#[derive(Clone, Default, Debug)]
pub(super) struct ReadSet {
    /// Point keys.
    pub keys: Vec<Vec<u8>>,
    /// Ranges, as far as they were walked.
    pub ranges: Vec<KeyRange>,
}

/// Commits by key, newest first in effect, bounded.
#[derive(Debug)]
pub(super) struct Window {
    /// Number of the newest commit.
    last: u64,
    /// Commits up to here are forgotten.
    floor: u64,
    by_key: BTreeMap<Vec<u8>, u64>,
    order: VecDeque<(u64, Vec<u8>)>,
    keys_max: usize,
}

impl Window {
    pub(super) fn new(keys_max: usize) -> Self {
        Self { last: 0, floor: 0, by_key: BTreeMap::new(), order: VecDeque::new(), keys_max }
    }

    /// Number of the newest commit.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// True when something in `reads` was written after the snapshot, or when that can no longer be told.
    pub(super) fn conflicts(&self, snapshot: u64, reads: &ReadSet) -> bool {
        if snapshot < self.floor {
            return true;
        }
        if snapshot == self.last {
            return false;
        }
        let newer = |seq: &u64| *seq > snapshot;
        reads.keys.iter().any(|key| self.by_key.get(key).is_some_and(newer))
            || reads.ranges.iter().filter(|range| !range.is_empty()).any(|range| {
                let bounds = (Bound::Included(&range.start), Bound::Excluded(&range.end));
                self.by_key.range::<Vec<u8>, _>(bounds).any(|(_, seq)| newer(seq))
            })
    }

    /// Notes one more commit, that wrote `keys`, and returns its number.
    pub(super) fn record<'a>(&mut self, keys: impl Iterator<Item = &'a Vec<u8>>) -> u64 {
        self.last += 1;
        for key in keys {
            self.by_key.insert(key.clone(), self.last);
            self.order.push_back((self.last, key.clone()));
        }
        while self.order.len() > self.keys_max {
            let Some((seq, key)) = self.order.pop_front() else { break };
            self.floor = self.floor.max(seq);
            if self.by_key.get(&key) == Some(&seq) {
                self.by_key.remove(&key);
            }
        }
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }
    fn reads(names: &[&str]) -> ReadSet {
        ReadSet { keys: keys(names), ranges: Vec::new() }
    }

    #[test]
    fn only_what_was_written_after_the_snapshot_conflicts() {
        let mut window = Window::new(100);
        let first = window.record(keys(&["a"]).iter());
        let second = window.record(keys(&["b"]).iter());
        assert!(window.conflicts(first, &reads(&["b"])));
        assert!(!window.conflicts(first, &reads(&["a", "c"])));
        assert!(!window.conflicts(second, &reads(&["a", "b"])));
    }

    #[test]
    fn a_new_row_inside_a_walked_range_conflicts() {
        let mut window = Window::new(100);
        window.record(keys(&["m"]).iter());
        let range = |start: &str, end: &str| ReadSet {
            keys: Vec::new(),
            ranges: vec![KeyRange { start: start.into(), end: end.into() }],
        };
        assert!(window.conflicts(0, &range("a", "z")));
        assert!(window.conflicts(0, &range("m", "n")));
        assert!(!window.conflicts(0, &range("n", "z")));
        assert!(!window.conflicts(0, &range("a", "m")));
        assert!(!window.conflicts(0, &range("z", "a")));
    }

    #[test]
    fn a_snapshot_older_than_the_window_conflicts() {
        let mut window = Window::new(2);
        for name in ["a", "b", "c"] {
            window.record(keys(&[name]).iter());
        }
        assert!(window.conflicts(0, &reads(&["x"])));
        assert!(!window.conflicts(1, &reads(&["a"])));
        assert!(window.conflicts(1, &reads(&["c"])));
    }

    #[test]
    fn a_key_written_again_is_remembered_by_its_newest_commit() {
        let mut window = Window::new(2);
        window.record(keys(&["a"]).iter());
        window.record(keys(&["a"]).iter());
        window.record(keys(&["b"]).iter());
        assert!(window.conflicts(1, &reads(&["a"])));
    }
}
