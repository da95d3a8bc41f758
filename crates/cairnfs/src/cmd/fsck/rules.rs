//! What holds for a row of a map and for a group by itself. Pure.

use std::collections::BTreeMap;

use cairn_client::{MapGroup, MapStore, MemberState, PlacedRun};

use super::spans::{Span, Spans};

/// Groups by number.
pub type Groups = BTreeMap<u32, MapGroup>;

/// What is wrong with a run that a map refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunFault {
    /// It names no group, or one that does not exist.
    Group(Option<u32>),
    /// Its blocks cannot hold its bytes, or there are more of them than these need.
    Length,
}

/// How many blocks members are known to hold badly, by store. What a store holds of groups that it has left, because its disk
/// failed, is nobody's replica: it goes with the disk.
pub fn bad_blocks(groups: &Groups, stores: &BTreeMap<u32, MapStore>) -> BTreeMap<u32, u32> {
    let is_member = |id: u32| groups.values().any(|group| group.members.iter().any(|(store, _)| *store == id));
    let bad = stores.values().filter(|store| store.quarantined > 0 && store.node_state != "replaced");
    bad.filter(|store| is_member(store.id)).map(|store| (store.id, store.quarantined)).collect()
}

/// Looks at a run of a current map.
pub fn check_run(placed: &PlacedRun, groups: &Groups) -> Option<RunFault> {
    if placed.pgs.is_empty() {
        return Some(RunFault::Group(None));
    }
    if let Some(unknown) = placed.pgs.iter().find(|pg| !groups.contains_key(*pg)) {
        return Some(RunFault::Group(Some(*unknown)));
    }
    let (block_len, count) = (u64::from(placed.block_len), u64::from(placed.run.count));
    // A run may begin in the middle of its first block, so it may touch one block more than its length alone needs.
    let least = placed.len.checked_div(block_len)? + u64::from(!placed.len.is_multiple_of(block_len));
    (placed.len > 0 && !(least..=least + 1).contains(&count)).then_some(RunFault::Length)
}

/// The blocks of a run by group: block i, counted from the first, is in `pgs[i mod n]`.
pub fn by_group(placed: &PlacedRun) -> Vec<(u32, Span)> {
    let whole = Span::from(placed.run);
    match placed.pgs.as_slice() {
        [] => Vec::new(),
        [pg] => vec![(*pg, whole)],
        pgs => {
            let block = |(i, pg): (u32, &u32)| (*pg, Span { seq: whole.seq + i, count: 1, ..whole });
            (0..whole.count).zip(pgs.iter().cycle()).map(block).collect()
        }
    }
}

/// What is wrong with a group as such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupFault {
    /// It names a store that does not exist.
    UnknownStore(u32),
    /// So many members hold, or will hold, everything; fewer than meant.
    Short(usize),
}

/// Looks at the members of a group.
pub fn check_group(group: &MapGroup, stores: &BTreeMap<u32, MapStore>) -> Vec<GroupFault> {
    let unknown = group.members.iter().map(|(store, _)| *store).filter(|store| !stores.contains_key(store));
    let mut faults: Vec<GroupFault> = unknown.map(GroupFault::UnknownStore).collect();
    let counting = |state: &MemberState| matches!(state, MemberState::Full | MemberState::Joining);
    let members = group.members.iter().filter(|(_, state)| counting(state)).count();
    if members < group.replicas as usize {
        faults.push(GroupFault::Short(members));
    }
    faults
}

/// Runs of maps, gathered until there are many: those of some files, whole.
#[derive(Debug, Default)]
pub struct Window {
    /// By group: blocks that files need.
    pub needed: BTreeMap<u32, Spans>,
    /// By group: those and blocks of maps that are being dropped.
    pub known: BTreeMap<u32, Spans>,
}

/// Builds [`Window`]s out of runs in the order of their files.
#[derive(Debug, Default)]
pub struct Gathering {
    needed: BTreeMap<u32, Vec<Span>>,
    dropped: BTreeMap<u32, Vec<Span>>,
    spans: usize,
}

impl Gathering {
    /// Spans so far.
    pub fn len(&self) -> usize {
        self.spans
    }

    /// Adds the blocks of a run.
    pub fn add(&mut self, placed: &PlacedRun) {
        let side = if placed.current { &mut self.needed } else { &mut self.dropped };
        for (pg, span) in by_group(placed) {
            side.entry(pg).or_default().push(span);
            self.spans += 1;
        }
    }

    /// What was gathered.
    pub fn finish(self) -> Window {
        let set = |by_group: BTreeMap<u32, Vec<Span>>| -> BTreeMap<u32, Spans> {
            by_group.into_iter().map(|(pg, spans)| (pg, spans.into_iter().collect())).collect()
        };
        let needed = set(self.needed);
        let mut known = needed.clone();
        for (pg, spans) in set(self.dropped) {
            let entry = known.entry(pg).or_default();
            *entry = entry.or(&spans);
        }
        Window { needed, known }
    }
}

#[cfg(test)]
mod tests {
    use cairn_client::{BlockId, BlockRun};

    use super::*;

    fn placed(count: u32, len: u64, pgs: &[u32]) -> PlacedRun {
        let run = BlockRun { first: BlockId::new(9, 1, 5), count };
        PlacedRun { run, pgs: pgs.to_vec(), block_len: 100, len, file_offset: 0, inode: 9, current: true }
    }

    fn group(id: u32, replicas: u32, members: &[(u32, MemberState)]) -> MapGroup {
        MapGroup { id, epoch: 1, replicas, members: members.to_vec(), sealed: false, bytes: 0 }
    }

    #[test]
    fn runs_fit_their_bytes() {
        let groups = Groups::from([(1, group(1, 3, &[]))]);
        let fault = |count, len| check_run(&placed(count, len, &[1]), &groups);
        for (count, len) in [(1, 1), (1, 100), (2, 100), (2, 101), (3, 200), (3, 300), (1, 0), (9, 0)] {
            assert_eq!(fault(count, len), None, "{count} blocks, {len} bytes");
        }
        for (count, len) in [(1, 101), (3, 100), (2, 201), (9, 1)] {
            assert_eq!(fault(count, len), Some(RunFault::Length), "{count} blocks, {len} bytes");
        }
        let unknown_len = PlacedRun { block_len: 0, ..placed(7, 100, &[1]) };
        assert_eq!(check_run(&unknown_len, &groups), None);
        assert_eq!(check_run(&placed(1, 1, &[]), &groups), Some(RunFault::Group(None)));
        assert_eq!(check_run(&placed(1, 1, &[1, 2]), &groups), Some(RunFault::Group(Some(2))));
    }

    #[test]
    fn blocks_go_round_the_groups() {
        let span = |seq, count| Span { inode: 9, writer: 1, seq, count };
        assert_eq!(by_group(&placed(3, 0, &[4])), [(4, span(5, 3))]);
        assert_eq!(by_group(&placed(3, 0, &[4, 6])), [(4, span(5, 1)), (6, span(6, 1)), (4, span(7, 1))]);
        let mut gathering = Gathering::default();
        gathering.add(&placed(3, 0, &[4, 6]));
        gathering.add(&PlacedRun { current: false, ..placed(3, 0, &[6]) });
        assert_eq!(gathering.len(), 4);
        let window = gathering.finish();
        assert_eq!(window.needed[&4], [span(5, 1), span(7, 1)].into_iter().collect());
        assert_eq!((window.needed[&6].blocks(), window.known[&6].blocks()), (1, 3));
    }

    fn store(id: u32) -> MapStore {
        MapStore {
            id,
            node: id,
            up: true,
            node_state: "up".to_owned(),
            quarantined: 0,
            trouble: String::new(),
            alarm: String::new(),
        }
    }

    #[test]
    fn bad_blocks_of_members_count_and_those_of_a_disk_that_was_left_do_not() {
        let bad = |id| (id, MapStore { quarantined: id, ..store(id) });
        let stores = BTreeMap::from([bad(1), bad(2), (3, store(3))]);
        let groups = Groups::from([(7, group(7, 2, &[(1, MemberState::Leaving), (3, MemberState::Full)]))]);
        assert_eq!(bad_blocks(&groups, &stores), BTreeMap::from([(1, 1)]));
    }

    #[test]
    fn members_are_counted() {
        use MemberState::{Full, Joining, Leaving, Stale};
        let stores = BTreeMap::from([(1, store(1)), (2, store(2)), (3, store(3))]);
        assert_eq!(check_group(&group(1, 3, &[(1, Full), (2, Joining), (3, Full)]), &stores), []);
        let faults = check_group(&group(1, 3, &[(1, Full), (2, Leaving), (3, Stale), (4, Full)]), &stores);
        assert_eq!(faults, [GroupFault::UnknownStore(4), GroupFault::Short(2)]);
    }
}
