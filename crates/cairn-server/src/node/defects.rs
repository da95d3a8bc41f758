//! Defects on their way to metadata: each is told once when it is found and once when it is repaired.

use crate::limits::{DEFECTS_PER_BEAT, REPAIRED_WAITING_MAX};
use crate::wire::block_to_pb;
use cairn_proto::{BlockId, NodeId, StoreId, pb};
use std::collections::{HashMap, HashSet, VecDeque};

/// What is wrong and not yet told, and what is open.
#[derive(Default)]
pub(crate) struct DefectLog {
    /// Found and not repaired, with the cause as it was told.
    open: HashMap<(StoreId, BlockId), String>,
    waiting: VecDeque<pb::Defect>,
    /// Defects found and repaired so far.
    found: u64,
    repaired: u64,
}

impl DefectLog {
    /// Notes a defect; a known one is not told again. Beyond [`REPAIRED_WAITING_MAX`] open ones, further defects are
    /// left out: the count of quarantined blocks still tells of them.
    pub(crate) fn found(&mut self, node: NodeId, store: StoreId, block: BlockId, cause: &str) {
        if self.open.len() >= REPAIRED_WAITING_MAX || self.open.contains_key(&(store, block)) {
            return;
        }
        tracing::warn!(%node, %store, %block, cause, "defect found");
        self.open.insert((store, block), cause.to_owned());
        self.found += 1;
        self.push(node, store, block, cause.to_owned(), false);
    }

    /// Defects that are open, and how many were found and repaired so far.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        (self.open.len() as u64, self.found, self.repaired)
    }

    /// Notes that a block is whole again (or was dropped meanwhile, which ends the defect too).
    pub(crate) fn repaired(&mut self, node: NodeId, store: StoreId, block: BlockId) {
        if let Some(cause) = self.open.remove(&(store, block)) {
            tracing::info!(%node, %store, %block, cause, "defect repaired");
            self.repaired += 1;
            self.push(node, store, block, cause, true);
        }
    }

    /// Tells every open defect again: metadata that was started anew does not remember them.
    pub(crate) fn retell(&mut self, node: NodeId) {
        let waiting = |log: &Self, store: StoreId, block: BlockId| {
            let block = Some(block_to_pb(block));
            log.waiting.iter().any(|defect| defect.store == store.0 && defect.block == block)
        };
        let mut open: Vec<_> =
            self.open.iter().map(|((store, block), cause)| (*store, *block, cause.clone())).collect();
        open.sort();
        for (store, block, cause) in open {
            if !waiting(self, store, block) {
                self.push(node, store, block, cause, false);
            }
        }
    }

    /// Ends every open defect of `store` but those of `still`.
    pub(crate) fn settle(&mut self, node: NodeId, store: StoreId, still: &HashSet<BlockId>) {
        let open = self.open.keys().filter(|(of, block)| *of == store && !still.contains(block));
        let mut over: Vec<BlockId> = open.map(|(_, block)| *block).collect();
        over.sort();
        for block in over {
            self.repaired(node, store, block);
        }
    }

    /// Defects to tell of `store` in the next heartbeat. They are gone from here: [`DefectLog::put_back`] when the
    /// heartbeat was not answered.
    pub(crate) fn take(&mut self, store: StoreId) -> Vec<pb::Defect> {
        let mut taken = Vec::new();
        let mut rest = VecDeque::with_capacity(self.waiting.len());
        for defect in self.waiting.drain(..) {
            if defect.store == store.0 && taken.len() < DEFECTS_PER_BEAT {
                taken.push(defect);
            } else {
                rest.push_back(defect);
            }
        }
        self.waiting = rest;
        taken
    }

    /// Returns what a heartbeat could not deliver, ahead of what came since.
    pub(crate) fn put_back(&mut self, defects: Vec<pb::Defect>) {
        for defect in defects.into_iter().rev() {
            self.waiting.push_front(defect);
        }
    }

    fn push(&mut self, node: NodeId, store: StoreId, block: BlockId, cause: String, repaired: bool) {
        if self.waiting.len() >= 2 * REPAIRED_WAITING_MAX {
            self.waiting.pop_front();
        }
        let block = Some(block_to_pb(block));
        self.waiting.push_back(pb::Defect { node: node.0, store: store.0, block, cause, repaired });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);
    const STORE: StoreId = StoreId(2);

    fn told(log: &mut DefectLog) -> Vec<(u32, bool)> {
        log.take(STORE).iter().map(|d| (d.block.expect("always named").seq, d.repaired)).collect()
    }

    #[test]
    fn each_defect_is_told_when_found_and_when_repaired() {
        let mut log = DefectLog::default();
        let block = BlockId::new(1, 1, 1);
        log.found(NODE, STORE, block, "bad payload");
        log.found(NODE, STORE, block, "bad payload");
        assert_eq!(told(&mut log), [(1, false)]);
        log.repaired(NODE, STORE, block);
        log.repaired(NODE, STORE, block);
        assert_eq!(told(&mut log), [(1, true)]);
        assert_eq!(log.counts(), (0, 1, 1));
        log.repaired(NODE, STORE, BlockId::new(1, 1, 2));
        assert!(told(&mut log).is_empty());
        log.found(NODE, STORE, block, "again");
        assert_eq!(told(&mut log), [(1, false)]);
    }

    #[test]
    fn what_is_not_bad_any_more_is_repaired() {
        let mut log = DefectLog::default();
        for seq in 0..3 {
            log.found(NODE, STORE, BlockId::new(1, 1, seq), "bad payload");
        }
        log.take(STORE);
        log.settle(NODE, STORE, &HashSet::from([BlockId::new(1, 1, 1)]));
        assert_eq!(told(&mut log), [(0, true), (2, true)]);
    }

    #[test]
    fn what_was_not_delivered_is_told_again_in_order() {
        let mut log = DefectLog::default();
        for seq in 0..3 {
            log.found(NODE, STORE, BlockId::new(1, 1, seq), "bad payload");
        }
        log.found(NODE, StoreId(9), BlockId::new(1, 1, 9), "bad payload");
        let taken = log.take(STORE);
        log.found(NODE, STORE, BlockId::new(1, 1, 3), "bad payload");
        log.put_back(taken);
        assert_eq!(told(&mut log), [(0, false), (1, false), (2, false), (3, false)]);
        assert_eq!(log.take(StoreId(9)).len(), 1);
    }

    #[test]
    fn open_defects_are_told_again_when_asked() {
        let mut log = DefectLog::default();
        for seq in 0..3 {
            log.found(NODE, STORE, BlockId::new(1, 1, seq), "bad payload");
        }
        log.repaired(NODE, STORE, BlockId::new(1, 1, 0));
        log.take(STORE);
        log.found(NODE, STORE, BlockId::new(1, 1, 3), "bad payload");
        log.retell(NODE);
        assert_eq!(told(&mut log), [(3, false), (1, false), (2, false)]);
    }

    #[test]
    fn a_heartbeat_stays_small() {
        let mut log = DefectLog::default();
        for seq in 0..10_000 {
            log.found(NODE, STORE, BlockId::new(1, 1, seq), "bad payload");
        }
        assert_eq!(log.open.len(), REPAIRED_WAITING_MAX);
        assert_eq!(log.take(STORE).len(), DEFECTS_PER_BEAT);
        assert!(log.waiting.len() <= 2 * REPAIRED_WAITING_MAX);
    }
}
