//! The quorum rule: a majority of the *intended* replicas, never of those that could be reached.

use crate::ids::StoreId;

/// Replicas that must hold a block before it may be committed: N/2 + 1 of N.
pub const fn needed(replicas: usize) -> usize {
    replicas / 2 + 1
}

/// Where a write stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Too few answers yet. Next: `Quorum`, `All` or `Impossible`.
    Pending,
    /// May commit; some replicas have not answered. Next: `All`, or stays.
    Quorum,
    /// Every replica holds the block. Final.
    All,
    /// So many failed that a majority cannot be reached here. Final.
    Impossible,
}

/// Counts answers of distinct stores for one block.
#[derive(Clone, Debug)]
pub struct Tally {
    needed: usize,
    pending: Vec<StoreId>,
    acked: Vec<StoreId>,
    failed: Vec<StoreId>,
}

impl Tally {
    /// A write meant for `replicas` copies, sent to `targets`. Targets fewer than `replicas` count as failed from the
    /// beginning; a store named twice counts once.
    pub fn new(replicas: usize, targets: &[StoreId]) -> Self {
        let mut pending: Vec<StoreId> = Vec::with_capacity(targets.len());
        for target in targets {
            if !pending.contains(target) {
                pending.push(*target);
            }
        }
        Self { needed: needed(replicas), pending, acked: Vec::new(), failed: Vec::new() }
    }

    fn take(&mut self, store: StoreId) -> bool {
        let found = self.pending.iter().position(|s| *s == store);
        if let Some(index) = found {
            self.pending.swap_remove(index);
        }
        found.is_some()
    }

    /// `store` holds the block. Answers of strangers and second answers change nothing.
    pub fn ack(&mut self, store: StoreId) {
        if self.take(store) {
            self.acked.push(store);
        }
    }

    /// `store` will not hold the block.
    pub fn fail(&mut self, store: StoreId) {
        if self.take(store) {
            self.failed.push(store);
        }
    }

    /// Where the write stands now.
    pub fn outcome(&self) -> Outcome {
        if self.acked.len() >= self.needed {
            if self.pending.is_empty() && self.failed.is_empty() { Outcome::All } else { Outcome::Quorum }
        } else if self.acked.len() + self.pending.len() < self.needed {
            Outcome::Impossible
        } else {
            Outcome::Pending
        }
    }

    /// True while nothing more can change the outcome for the better.
    pub fn settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// Answers needed.
    pub fn needed(&self) -> usize {
        self.needed
    }

    /// Stores that hold the block, in the order of their answers.
    pub fn acked(&self) -> &[StoreId] {
        &self.acked
    }

    /// Stores that have not answered.
    pub fn pending(&self) -> &[StoreId] {
        &self.pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_of_the_intended_set() {
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(needed), [1, 2, 2, 3, 3, 4, 4]);
        // Three intended, one reachable: no quorum however it answers.
        let mut tally = Tally::new(3, &[StoreId(1)]);
        assert_eq!(tally.outcome(), Outcome::Impossible);
        tally.ack(StoreId(1));
        assert_eq!(tally.outcome(), Outcome::Impossible);
    }

    #[test]
    fn one_store_counts_once() {
        let mut tally = Tally::new(3, &[StoreId(1), StoreId(1), StoreId(2)]);
        tally.ack(StoreId(1));
        tally.ack(StoreId(1));
        tally.ack(StoreId(9));
        assert_eq!(tally.outcome(), Outcome::Pending);
        tally.ack(StoreId(2));
        assert_eq!(tally.outcome(), Outcome::All);
    }

    /// Every assignment of answers for up to 5 replicas, in every order, against counting.
    #[test]
    fn every_order_of_answers() {
        fn walk(replicas: usize, tally: &Tally, acks: usize, fails: usize) {
            let expected = if acks >= needed(replicas) {
                if acks == replicas { Outcome::All } else { Outcome::Quorum }
            } else if replicas - fails < needed(replicas) {
                Outcome::Impossible
            } else {
                Outcome::Pending
            };
            assert_eq!(tally.outcome(), expected, "{replicas} replicas, {acks} acks, {fails} failures");
            for store in tally.pending().to_vec() {
                let mut acked = tally.clone();
                acked.ack(store);
                walk(replicas, &acked, acks + 1, fails);
                let mut failed = tally.clone();
                failed.fail(store);
                walk(replicas, &failed, acks, fails + 1);
            }
        }
        for replicas in 1..=5 {
            let targets: Vec<StoreId> = (1..=replicas as u32).map(StoreId).collect();
            walk(replicas, &Tally::new(replicas, &targets), 0, 0);
        }
    }
}
