//! A model of one group: five stores, three replicas, and everything that can happen between them in any order, with the
//! decisions of this crate. After each step every committed block has to be safe; each rule, switched off, has to be
//! caught at it.

use super::*;
use MemberState::{Full, Joining};
use std::collections::{BTreeMap, BTreeSet};

type Block = u32;

/// A rule that a run leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Without {
    Nothing,
    /// Who joins gets copies of the degraded rows of those who count.
    CopiedDebts,
    /// A commit counts acks by the row as it is, not by the one its writer knew.
    CurrentRow,
    /// Acks from before a store joined do not count.
    AckEpochs,
    /// Who leaves stays until nobody who counts has a degraded row.
    DebtsKeepLeaving,
    /// JoinDone is of the epoch that the group is in.
    JoinEpoch,
    /// A store refuses a purge of a lower epoch than it has acted in.
    PurgeFence,
    /// A store that lost its past begins anew.
    Rejoin,
    /// What a full member is found to lack is told to those who join by copying from it.
    LackingTold,
}

#[derive(Clone, Default)]
struct Store {
    /// Blocks, and the epoch of the row by which each was sent or copied.
    holds: BTreeMap<Block, u64>,
    alive: bool,
    /// The highest epoch in which it copied something or took something in.
    acted: u64,
    /// A join: the epoch it began in, and whose inventories it has copied.
    join: Option<(u64, BTreeSet<u32>)>,
}

struct World {
    without: Without,
    row: Pg,
    stores: BTreeMap<u32, Store>,
    debts: BTreeMap<u32, BTreeSet<Block>>,
    committed: BTreeSet<Block>,
    /// Blocks sent and not committed: the row they were sent by, and who acknowledged.
    pending: Vec<(Block, Pg, BTreeSet<u32>)>,
    /// The row that writers know.
    known: Pg,
    /// JoinDone on its way.
    joins_done: Vec<(u32, u64)>,
    /// Purges on their way: store and epoch.
    purges: Vec<(u32, u64)>,
    next: Block,
    wipes_left: u32,
}

impl World {
    fn new(without: Without) -> Self {
        let members = (1..=3).map(|store| Member { store, state: Full }).collect();
        let row = Pg { epoch: 1, replicas: 3, members, sealed: false, since: vec![1; 3] };
        let store = Store { alive: true, ..Store::default() };
        Self {
            without,
            known: row.clone(),
            row,
            stores: (1..=5).map(|id| (id, store.clone())).collect(),
            debts: BTreeMap::new(),
            committed: BTreeSet::new(),
            pending: Vec::new(),
            joins_done: Vec::new(),
            purges: Vec::new(),
            next: 0,
            wipes_left: 1,
        }
    }

    fn lacks(&self, store: u32) -> BTreeSet<Block> {
        self.debts.get(&store).cloned().unwrap_or_default()
    }

    /// The next row, with the rows that go to whoever becomes joining.
    fn change(&mut self, next: Next, newcomer: Option<u32>) {
        let Some(next) = next else { return };
        if let Some(to) = newcomer.filter(|_| self.without != Without::CopiedDebts) {
            let others: Vec<u32> = counting(&next).filter(|store| *store != to).collect();
            let copied: BTreeSet<Block> = others.iter().flat_map(|store| self.lacks(*store)).collect();
            self.debts.entry(to).or_default().extend(copied);
        }
        self.row = next;
    }

    fn put(&mut self, rng: &mut fastrand::Rng) {
        let block = self.next;
        self.next += 1;
        let sent = self.known.clone();
        let mut acks = BTreeSet::new();
        for store in counting(&sent) {
            let state = self.stores.get_mut(&store).expect("a store");
            if state.alive && rng.u8(..4) > 0 {
                state.holds.insert(block, sent.epoch);
                acks.insert(store);
            }
        }
        self.pending.push((block, sent, acks));
    }

    fn commit(&mut self, at: usize) {
        let (block, sent, acks) = self.pending.swap_remove(at);
        let row = if self.without == Without::CurrentRow { &sent } else { &self.row };
        let counts = |store: &u32| {
            acks.contains(store) && (self.without == Without::AckEpochs || ack_counts(row, *store, sent.epoch))
        };
        let (have, lack): (BTreeSet<u32>, BTreeSet<u32>) = counting(row).partition(counts);
        if have.len() < 2 {
            return;
        }
        for store in lack {
            self.debts.entry(store).or_default().insert(block);
        }
        self.committed.insert(block);
    }

    /// Copies from one member what a joining store has not; then says that it is complete, if it is.
    fn join(&mut self, store: u32, from: u32) {
        if state_of(&self.row, store) != Some(Joining) || !self.stores[&store].alive || !self.stores[&from].alive {
            return;
        }
        let epoch = self.row.epoch;
        if state_of(&self.row, from).is_none() || from == store {
            return;
        }
        let all: Vec<Block> = self.stores[&from].holds.keys().copied().collect();
        let own = self.stores.get_mut(&store).expect("a store");
        if own.join.as_ref().is_none_or(|(began, _)| *began != epoch) {
            own.join = Some((epoch, BTreeSet::new()));
        }
        own.acted = own.acted.max(epoch);
        for block in all {
            own.holds.entry(block).or_insert(epoch);
        }
        let copied = own.join.as_mut().map(|(_, copied)| {
            copied.insert(from);
            copied.clone()
        });
        let required: BTreeSet<u32> = match full(&self.row).next() {
            Some(_) => full(&self.row).collect(),
            None => self.row.members.iter().map(|member| member.store).filter(|other| *other != store).collect(),
        };
        if copied.is_some_and(|copied| copied.is_superset(&required)) {
            self.joins_done.push((store, epoch));
        }
    }

    fn join_done(&mut self, at: usize) {
        let (store, epoch) = self.joins_done.swap_remove(at);
        let in_time = epoch == self.row.epoch || self.without == Without::JoinEpoch;
        if in_time && self.lacks(store).is_empty() {
            self.change(joined(&self.row, store), None);
        }
    }

    fn catch_up(&mut self, store: u32) {
        let Some(block) = self.lacks(store).first().copied() else { return };
        let epoch = self.row.epoch;
        let there =
            |other: &u32| *other != store && self.stores[other].alive && self.stores[other].holds.contains_key(&block);
        let source = self.row.members.iter().map(|member| member.store).find(there);
        let own = self.stores.get_mut(&store).expect("a store");
        if !own.alive || (source.is_none() && !own.holds.contains_key(&block)) {
            return;
        }
        own.acted = own.acted.max(epoch);
        own.holds.entry(block).or_insert(epoch);
        self.debts.entry(store).or_default().remove(&block);
    }

    fn complete(&mut self) {
        let lacks = |store: u32| !self.lacks(store).is_empty();
        if counting(&self.row).any(lacks) && self.without != Without::DebtsKeepLeaving {
            return;
        }
        let Some(next) = completed(&self.row) else { return };
        leaving(&self.row).for_each(|store| drop(self.debts.remove(&store)));
        self.row = next;
    }

    fn ask_purge(&mut self, store: u32) {
        let clean = self.row.members.iter().all(|member| self.lacks(member.store).is_empty());
        if purgeable(&self.row, store) && clean {
            self.purges.push((store, self.row.epoch));
        }
    }

    fn purge(&mut self, at: usize) {
        let (store, epoch) = self.purges.swap_remove(at);
        let own = self.stores.get_mut(&store).expect("a store");
        if own.alive && (own.acted <= epoch || self.without == Without::PurgeFence) {
            own.holds.retain(|_, sent| *sent >= epoch);
        }
    }

    /// A store comes back empty, and says so before it does anything else.
    fn wipe(&mut self, store: u32) {
        if self.wipes_left == 0 {
            return;
        }
        self.wipes_left -= 1;
        let own = self.stores.get_mut(&store).expect("a store");
        own.holds.clear();
        own.join = None;
        if self.without != Without::Rejoin && state_of(&self.row, store).is_some_and(counts_for_commit) {
            self.change(rejoined(&self.row, store), Some(store));
        }
    }

    fn stale(&mut self, store: u32) {
        if self.stores[&store].alive {
            return;
        }
        if let Some(next) = staled(&self.row, store) {
            self.row = next;
            self.debts.remove(&store);
        }
    }

    /// A full member finds a block of its own damaged, while another member has it, and says so.
    fn rot(&mut self, store: u32, rng: &mut fastrand::Rng) {
        let held: Vec<Block> =
            self.stores[&store].holds.keys().filter(|b| self.committed.contains(b)).copied().collect();
        if state_of(&self.row, store) != Some(Full) || held.is_empty() {
            return;
        }
        let block = held[rng.usize(..held.len())];
        let elsewhere =
            |member: &&Member| member.store != store && self.stores[&member.store].holds.contains_key(&block);
        if !self.row.members.iter().any(|member| elsewhere(&member)) {
            return;
        }
        self.stores.get_mut(&store).expect("a store").holds.remove(&block);
        let joins = self.row.members.iter().filter(|member| member.state == Joining).map(|member| member.store);
        let joins: Vec<u32> = joins.filter(|_| self.without != Without::LackingTold).collect();
        for told in joins.into_iter().chain([store]) {
            self.debts.entry(told).or_default().insert(block);
        }
    }

    fn step(&mut self, rng: &mut fastrand::Rng) {
        let (one, other) = (rng.u32(1..=5), rng.u32(1..=5));
        match rng.u8(..32) {
            0..=1 => self.put(rng),
            2..=4 if !self.pending.is_empty() => self.commit(rng.usize(..self.pending.len())),
            5 => self.known = self.row.clone(),
            6 if rng.bool() => {
                // Two at once, as the cluster holds back beyond that.
                let dead = self.stores.values().filter(|store| !store.alive).count();
                let store = self.stores.get_mut(&one).expect("a store");
                store.alive = !store.alive || dead >= 2;
            }
            7 => self.change(moved(&self.row, one, other), Some(other)),
            8 if rng.bool() => self.stale(one),
            9..=10 if self.stores[&one].alive && state_of(&self.row, one) == Some(MemberState::Stale) => {
                self.change(rejoined(&self.row, one), Some(one));
            }
            11..=20 => self.join(one, other),
            21..=23 if !self.joins_done.is_empty() => self.join_done(rng.usize(..self.joins_done.len())),
            24..=26 => self.catch_up(one),
            27 => self.complete(),
            28 => self.ask_purge(one),
            29 if !self.purges.is_empty() => self.purge(rng.usize(..self.purges.len())),
            30 if rng.u8(..8) == 0 => self.wipe(one),
            31 if rng.u8(..4) == 0 => self.rot(one, rng),
            _ => {}
        }
    }

    /// What is wrong, if anything.
    fn fault(&self, wiped: bool) -> Option<String> {
        for block in &self.committed {
            let holds = |store: u32| self.stores[&store].holds.contains_key(block);
            let lacks = |store: u32| self.lacks(store).contains(block);
            let readable = self.row.members.iter().any(|member| holds(member.store));
            // One that was wiped may have been the last of a majority of two, as the other was being copied.
            if !readable && !wiped {
                return Some(format!("nobody in the group has block {block}"));
            }
            for store in full(&self.row) {
                if !holds(store) && !lacks(store) {
                    return Some(format!("full member {store} has no block {block}, and nobody knows"));
                }
            }
        }
        None
    }
}

/// The first fault in so many runs from fixed seeds.
fn search(without: Without, runs: u64) -> Option<String> {
    for seed in 0..runs {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World::new(without);
        for step in 0..400 {
            world.step(&mut rng);
            if let Some(fault) = world.fault(world.wipes_left == 0) {
                return Some(format!("seed {seed}, step {step}: {fault} in {:?}, {:?}", world.row, world.debts));
            }
        }
    }
    None
}

#[test]
fn every_committed_block_is_safe_whatever_the_order() {
    assert_eq!(search(Without::Nothing, 1000), None);
}

impl World {
    /// Three members have a block; then 1 leaves for 4, which is full by now.
    fn with_a_move(without: Without) -> Self {
        let mut world = Self::new(without);
        for store in 1..=3 {
            world.stores.get_mut(&store).expect("a store").holds.insert(0, 1);
        }
        world.pending.push((0, world.row.clone(), BTreeSet::from([1, 2, 3])));
        world.commit(0);
        world.hand(1, 4);
        world
    }

    fn hand(&mut self, from: u32, to: u32) {
        self.change(moved(&self.row, from, to), Some(to));
        full(&self.row.clone()).for_each(|source| self.join(to, source));
        self.join_done(self.joins_done.len() - 1);
        assert_eq!(state_of(&self.row, to), Some(Full));
    }

    fn damage(&mut self, store: u32) {
        self.stores.get_mut(&store).expect("a store").holds.remove(&0);
        self.debts.entry(store).or_default().insert(0);
    }
}

#[test]
fn who_leaves_is_kept_while_a_full_member_lacks_what_it_has() {
    for (without, faulty) in [(Without::Nothing, false), (Without::DebtsKeepLeaving, true)] {
        let mut world = World::with_a_move(without);
        (2..=4).for_each(|store| world.damage(store));
        assert_eq!(world.fault(false), None, "the leaving member has it");
        world.complete();
        assert_eq!(world.fault(false).is_some(), faulty, "{without:?}");
        (2..=4).for_each(|store| world.catch_up(store));
        world.complete();
        assert_eq!(leaving(&world.row).count(), 0);
        assert_eq!(world.fault(false).is_some(), faulty, "{without:?}");
    }
}

#[test]
fn a_purge_that_comes_late_is_refused_by_who_joined_anew() {
    for (without, faulty) in [(Without::Nothing, false), (Without::PurgeFence, true)] {
        let mut world = World::with_a_move(without);
        world.complete();
        world.ask_purge(1);
        assert_eq!(world.purges.len(), 1);
        // Before the order is carried out, the store is a member again, and finds that it has the block.
        world.change(moved(&world.row, 2, 1), Some(1));
        [3, 4].into_iter().for_each(|source| world.join(1, source));
        world.purge(0);
        world.join_done(world.joins_done.len() - 1);
        assert_eq!(state_of(&world.row, 1), Some(Full));
        assert_eq!(world.fault(false).is_some(), faulty, "{without:?}");
    }
}

#[test]
fn each_rule_is_needed() {
    let rules = [
        Without::CopiedDebts,
        Without::CurrentRow,
        Without::AckEpochs,
        Without::JoinEpoch,
        Without::Rejoin,
        Without::LackingTold,
    ];
    let unneeded: Vec<Without> = rules.into_iter().filter(|rule| search(*rule, 5000).is_none()).collect();
    assert!(unneeded.is_empty(), "nothing happens without {unneeded:?}");
}
