//! Which garbage rows are ripe: their grace began when this process first saw them, on its own monotonic clock. And which
//! members of their group have confirmed that the blocks are gone.
//!
//! A row is settled when every current member confirmed in *one* round. A member that confirmed while another was away
//! may have copied a block back from that one since, so all are asked again once nobody is away.

use cairn_meta::{GarbageRow, GroupMembers};
use cairn_proto::{BlockId, PgEpoch, PgId, StoreId};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// A garbage row as a key: a run of one group that nothing refers to any more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct GarbageRun {
    pub(crate) pg: PgId,
    pub(crate) first: BlockId,
    pub(crate) count: u32,
}

impl From<&GarbageRow> for GarbageRun {
    fn from(row: &GarbageRow) -> Self {
        Self { pg: row.pg, first: row.first, count: row.count }
    }
}

impl From<GarbageRun> for GarbageRow {
    fn from(run: GarbageRun) -> Self {
        Self { pg: run.pg, first: run.first, count: run.count }
    }
}

struct Tracked {
    since: Instant,
    /// Copies of its blocks there may be.
    copies: u64,
    /// Its deletion has begun.
    begun: bool,
    /// Stores that confirmed, and in which round, at this epoch of the group.
    confirmed: BTreeMap<StoreId, u64>,
    epoch: PgEpoch,
    /// The last round in which the row was there.
    seen: u64,
}

/// What the collector remembers of garbage rows between its rounds; bounded.
pub(crate) struct Ripening {
    tracked: BTreeMap<GarbageRun, Tracked>,
    grace: Duration,
    max: usize,
    round: u64,
    /// Copies of tracked rows whose deletion has not begun.
    waiting: u64,
    /// Copies of rows for which there was no room: in this round, and in the one before.
    beyond: [u64; 2],
}

impl Ripening {
    pub(crate) fn new(grace: Duration, max: usize) -> Self {
        Self { tracked: BTreeMap::new(), grace, max, round: 0, waiting: 0, beyond: [0; 2] }
    }

    /// A new look through all rows begins.
    pub(crate) fn begin_round(&mut self) {
        self.round += 1;
        self.beyond = [0, self.beyond[0]];
    }

    /// Copies of blocks that are garbage and whose deletion has not begun, as far as they were seen.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.saturating_add(self.beyond[0].max(self.beyond[1]))
    }

    /// The deletion of a row begins; the copies there may be of it, 0 when it had begun before.
    pub(crate) fn begin(&mut self, run: &GarbageRun) -> u64 {
        let Some(tracked) = self.tracked.get_mut(run).filter(|tracked| !tracked.begun) else { return 0 };
        tracked.begun = true;
        self.waiting = self.waiting.saturating_sub(tracked.copies);
        tracked.copies
    }

    /// The row, of which there may be so many copies, is there at `now`; true when its grace is over. A row that finds no
    /// room begins its grace later.
    pub(crate) fn see(&mut self, run: GarbageRun, copies: u64, now: Instant) -> bool {
        let round = self.round;
        if let Some(tracked) = self.tracked.get_mut(&run) {
            tracked.seen = round;
            return now.saturating_duration_since(tracked.since) >= self.grace;
        }
        if self.tracked.len() >= self.max {
            self.beyond[0] = self.beyond[0].saturating_add(copies);
            return false;
        }
        self.waiting = self.waiting.saturating_add(copies);
        let tracked =
            Tracked { since: now, copies, begun: false, confirmed: BTreeMap::new(), epoch: PgEpoch(0), seen: round };
        self.tracked.insert(run, tracked);
        self.grace.is_zero()
    }

    /// All rows were seen: forgets those that are gone.
    pub(crate) fn end_round(&mut self) {
        let round = self.round;
        let waiting = &mut self.waiting;
        self.tracked.retain(|_, tracked| {
            let stays = tracked.seen == round;
            if !stays && !tracked.begun {
                *waiting = waiting.saturating_sub(tracked.copies);
            }
            stays
        });
    }

    /// Members of the group that have not confirmed yet. A change of the membership asks everybody again.
    pub(crate) fn unconfirmed(&mut self, run: &GarbageRun, group: &GroupMembers) -> Vec<StoreId> {
        let Some(tracked) = self.tracked.get_mut(run) else { return Vec::new() };
        if tracked.epoch != group.epoch {
            tracked.epoch = group.epoch;
            tracked.confirmed.clear();
        }
        group.stores.iter().copied().filter(|store| !tracked.confirmed.contains_key(store)).collect()
    }

    /// `store` has deleted the run, on a command of this epoch of the group.
    pub(crate) fn confirm(&mut self, run: &GarbageRun, epoch: PgEpoch, store: StoreId) {
        let round = self.round;
        if let Some(tracked) = self.tracked.get_mut(run)
            && tracked.epoch == epoch
        {
            tracked.confirmed.insert(store, round);
        }
    }

    /// True when every member confirmed in this round. When they all did, but not all in this one, they are asked again.
    pub(crate) fn settled(&mut self, run: &GarbageRun, group: &GroupMembers) -> bool {
        let round = self.round;
        if !self.unconfirmed(run, group).is_empty() {
            return false;
        }
        let Some(tracked) = self.tracked.get_mut(run) else { return false };
        let now = tracked.confirmed.values().all(|confirmed| *confirmed == round);
        if !now {
            tracked.confirmed.clear();
        }
        now
    }

    /// The row is removed.
    pub(crate) fn forget(&mut self, run: &GarbageRun) {
        if let Some(tracked) = self.tracked.remove(run).filter(|tracked| !tracked.begun) {
            self.waiting = self.waiting.saturating_sub(tracked.copies);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seq: u32) -> GarbageRun {
        GarbageRun { pg: PgId(1), first: BlockId::new(1, 1, seq), count: 1 }
    }

    fn stores(ids: &[u32]) -> Vec<StoreId> {
        ids.iter().map(|id| StoreId(*id)).collect()
    }

    fn group(epoch: u64, ids: &[u32]) -> GroupMembers {
        GroupMembers { epoch: PgEpoch(epoch), stores: stores(ids) }
    }

    fn round(ripening: &mut Ripening, runs: &[u32], now: Instant) -> Vec<u32> {
        ripening.begin_round();
        let ripe = runs.iter().copied().filter(|seq| ripening.see(run(*seq), 3, now)).collect();
        ripening.end_round();
        ripe
    }

    #[test]
    fn the_grace_begins_at_first_sight() {
        let mut ripening = Ripening::new(Duration::from_secs(60), 10);
        let start = cairn_net::now();
        assert!(round(&mut ripening, &[1], start).is_empty());
        assert!(round(&mut ripening, &[1, 2], start + Duration::from_secs(59)).is_empty());
        assert_eq!(round(&mut ripening, &[1, 2], start + Duration::from_secs(60)), [1]);
        // Gone for a round, then back: that is a new row.
        assert!(round(&mut ripening, &[2], start + Duration::from_secs(70)).is_empty());
        assert_eq!(round(&mut ripening, &[1, 2], start + Duration::from_secs(120)), [2]);
    }

    #[test]
    fn rows_beyond_the_bound_wait_and_come_later() {
        let mut ripening = Ripening::new(Duration::ZERO, 2);
        let now = cairn_net::now();
        assert_eq!(round(&mut ripening, &[1, 2, 3], now), [1, 2]);
        ripening.forget(&run(1));
        assert_eq!(round(&mut ripening, &[2, 3], now), [2, 3]);
    }

    #[test]
    fn every_current_member_has_to_confirm() {
        let mut ripening = Ripening::new(Duration::ZERO, 2);
        round(&mut ripening, &[1], cairn_net::now());
        let old = group(4, &[1, 2, 3]);
        assert_eq!(ripening.unconfirmed(&run(1), &old), stores(&[1, 2, 3]));
        ripening.confirm(&run(1), PgEpoch(4), StoreId(1));
        ripening.confirm(&run(1), PgEpoch(3), StoreId(2));
        assert_eq!(ripening.unconfirmed(&run(1), &old), stores(&[2, 3]));
        assert!(!ripening.settled(&run(1), &old));
        let new = group(5, &[1, 2, 9]);
        assert_eq!(ripening.unconfirmed(&run(1), &new), stores(&[1, 2, 9]));
        ripening.confirm(&run(1), PgEpoch(4), StoreId(2));
        assert_eq!(ripening.unconfirmed(&run(1), &new), stores(&[1, 2, 9]));
        for store in stores(&[1, 2, 9]) {
            ripening.confirm(&run(1), PgEpoch(5), store);
        }
        assert!(ripening.settled(&run(1), &new));
    }

    #[test]
    fn who_confirmed_while_another_was_away_is_asked_again() {
        let mut ripening = Ripening::new(Duration::ZERO, 2);
        let now = cairn_net::now();
        let group = group(1, &[1, 2]);
        round(&mut ripening, &[1], now);
        assert_eq!(ripening.unconfirmed(&run(1), &group), stores(&[1, 2]));
        ripening.confirm(&run(1), PgEpoch(1), StoreId(1));
        assert!(!ripening.settled(&run(1), &group));
        round(&mut ripening, &[1], now);
        assert_eq!(ripening.unconfirmed(&run(1), &group), stores(&[2]));
        ripening.confirm(&run(1), PgEpoch(1), StoreId(2));
        assert!(!ripening.settled(&run(1), &group));
        round(&mut ripening, &[1], now);
        assert_eq!(ripening.unconfirmed(&run(1), &group), stores(&[1, 2]));
        ripening.confirm(&run(1), PgEpoch(1), StoreId(1));
        ripening.confirm(&run(1), PgEpoch(1), StoreId(2));
        assert!(ripening.settled(&run(1), &group));
    }

    #[test]
    fn what_waits_is_counted_until_its_deletion_begins() {
        let mut ripening = Ripening::new(Duration::from_secs(60), 2);
        let now = cairn_net::now();
        round(&mut ripening, &[1, 2, 3, 4], now);
        assert_eq!(ripening.waiting(), 12, "with those that found no room");
        assert_eq!((ripening.begin(&run(1)), ripening.begin(&run(1)), ripening.begin(&run(9))), (3, 0, 0));
        assert_eq!(ripening.waiting(), 9);
        ripening.forget(&run(1));
        round(&mut ripening, &[2, 3, 4], now);
        assert_eq!(ripening.waiting(), 9 + 3, "of two rounds the greater one is believed");
        // The rows are gone, by whomever.
        round(&mut ripening, &[], now);
        round(&mut ripening, &[], now);
        assert_eq!(ripening.waiting(), 0);
    }

    #[test]
    fn a_group_without_members_keeps_nothing() {
        let mut ripening = Ripening::new(Duration::ZERO, 2);
        round(&mut ripening, &[1], cairn_net::now());
        assert!(ripening.settled(&run(1), &group(1, &[])));
    }
}
