//! The change log that this process writes: positions given out, and what became of them.
//!
//! A position is taken just before its transaction is committed, so commits reach the engine in any order and some never
//! do. Until its outcome is known a position is *open*. One whose transaction was not committed is *void*: a row without
//! changes is written there, so that readers, who never go past a gap, can go on. One whose outcome the engine could not
//! tell is *doubtful*, until it was looked at in a transaction.

use crate::rows::Delta;
use std::collections::{BTreeMap, BTreeSet};

/// Positions of one log.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) number: u32,
    next: u64,
    open: BTreeSet<u64>,
    void: BTreeSet<u64>,
    doubtful: BTreeSet<u64>,
    /// Deltas of committed positions that are not in the usage rows yet.
    deltas: BTreeMap<u64, Vec<Delta>>,
    /// What the log's usage rows say.
    folded_sums: BTreeMap<u64, (i64, i64)>,
    /// All deltas of committed positions.
    sums: BTreeMap<u64, (i64, i64)>,
    /// As in the log's mark.
    pub(crate) folded: u64,
    pub(crate) trimmed: u64,
    pub(crate) beat: u64,
}

impl Log {
    /// A log without entries.
    pub(crate) fn new(number: u32) -> Self {
        Self {
            number,
            next: 1,
            open: BTreeSet::new(),
            void: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            deltas: BTreeMap::new(),
            folded_sums: BTreeMap::new(),
            sums: BTreeMap::new(),
            folded: 0,
            trimmed: 0,
            beat: 0,
        }
    }

    /// The next position.
    pub(crate) fn take(&mut self) -> u64 {
        let position = self.next;
        self.next += 1;
        self.open.insert(position);
        position
    }

    /// The transaction at `position` was committed, and wrote the void rows `voids`.
    pub(crate) fn committed(&mut self, position: u64, deltas: Vec<Delta>, voids: &[u64]) {
        self.open.remove(&position);
        self.doubtful.remove(&position);
        add_all(&mut self.sums, &deltas);
        if !deltas.is_empty() {
            self.deltas.insert(position, deltas);
        }
        for void in voids {
            self.void.remove(void);
        }
    }

    /// The transaction at `position` was not committed and never will be.
    pub(crate) fn not_committed(&mut self, position: u64) {
        self.open.remove(&position);
        self.doubtful.remove(&position);
        self.void.insert(position);
    }

    /// Nobody knows what became of the transaction at `position`.
    pub(crate) fn unknown(&mut self, position: u64) {
        if self.open.remove(&position) {
            self.doubtful.insert(position);
        }
    }

    /// At most `limit` positions where a void row is to be written.
    pub(crate) fn voids(&self, limit: usize) -> Vec<u64> {
        self.void.iter().copied().take(limit).collect()
    }

    /// One void row stands there now.
    pub(crate) fn voided(&mut self, position: u64) {
        self.void.remove(&position);
        self.doubtful.remove(&position);
    }

    /// A position of which it has to be found out whether it was committed.
    pub(crate) fn doubtful(&self) -> Option<u64> {
        self.doubtful.first().copied()
    }

    /// Every position up to here has its row.
    pub(crate) fn decided(&self) -> u64 {
        let open = [&self.open, &self.void, &self.doubtful].into_iter().filter_map(BTreeSet::first).min();
        open.map_or(self.next, |first| *first) - 1
    }

    /// What the log adds to the usage of a quota root, to the last committed transaction.
    pub(crate) fn sum(&self, root: u64) -> (i64, i64) {
        self.sums.get(&root).copied().unwrap_or_default()
    }

    /// What the usage rows have to say once they hold every delta up to `position`, where that is something else than
    /// they say now.
    pub(crate) fn unfolded(&self, position: u64) -> BTreeMap<u64, (i64, i64)> {
        let mut sums = BTreeMap::new();
        for delta in self.deltas.range(..=position).flat_map(|(_, deltas)| deltas) {
            let before = || self.folded_sums.get(&delta.root).copied().unwrap_or_default();
            let sum: &mut (i64, i64) = sums.entry(delta.root).or_insert_with(before);
            *sum = (sum.0 + delta.bytes, sum.1 + delta.inodes);
        }
        sums
    }

    /// The usage rows hold every delta up to `position`.
    pub(crate) fn fold(&mut self, position: u64) {
        let sums = self.unfolded(position);
        self.folded_sums.extend(sums);
        self.folded = position;
        self.deltas = self.deltas.split_off(&(position + 1));
    }
}

fn add_all(sums: &mut BTreeMap<u64, (i64, i64)>, deltas: &[Delta]) {
    for delta in deltas {
        let sum = sums.entry(delta.root).or_default();
        *sum = (sum.0 + delta.bytes, sum.1 + delta.inodes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(bytes: i64) -> Vec<Delta> {
        vec![Delta { root: 7, bytes, inodes: 1 }]
    }

    #[test]
    fn nothing_behind_an_open_position_is_decided() {
        let mut log = Log::new(1);
        let (first, second, third) = (log.take(), log.take(), log.take());
        assert_eq!((first, second, third), (1, 2, 3));
        assert_eq!(log.decided(), 0);
        log.committed(third, delta(3), &[]);
        log.committed(first, delta(1), &[]);
        assert_eq!(log.decided(), 1, "the second may still be committed");
        log.unknown(second);
        assert_eq!((log.decided(), log.doubtful()), (1, Some(2)));
        log.not_committed(second);
        assert_eq!((log.decided(), log.voids(9)), (1, vec![2]), "readers see a gap until a row stands there");
        let fourth = log.take();
        log.committed(fourth, Vec::new(), &[2]);
        assert_eq!((log.decided(), log.voids(9)), (4, vec![]));
    }

    #[test]
    fn deltas_are_folded_once() {
        let mut log = Log::new(1);
        for bytes in [5, 6, 7] {
            let position = log.take();
            log.committed(position, delta(bytes), &[]);
        }
        assert_eq!(log.unfolded(2), BTreeMap::from([(7, (11, 2))]));
        log.fold(2);
        assert_eq!(log.unfolded(u64::MAX - 1), BTreeMap::from([(7, (18, 3))]), "the rows hold whole sums");
        assert_eq!((log.sum(7), log.sum(8)), ((18, 3), (0, 0)));
        assert_eq!((log.folded, log.decided()), (2, 3));
    }
}
