//! Where memberships should go: arithmetic over stores, failure domains and sizes. Nothing here waits or writes.

use crate::limits::{BALANCE_TOLERANCE_PERMILLE, JOINS_PER_SOURCE, JOINS_PER_TARGET, PLACE_FILL_PERCENT};
use crate::members;
use crate::placement::shared_domains;
use crate::rows;
use cairn_proto::pb::MemberState;
use std::collections::{BTreeMap, BTreeSet};

/// A store, where it stands and what it can take.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Place {
    pub node: u32,
    /// Zone, rack, host.
    pub domains: [String; 3],
    pub capacity: u64,
    pub used: u64,
    /// It was heard of lately, and serves.
    pub live: bool,
    /// Others take over its memberships.
    pub lost: bool,
    /// It takes new memberships: live, with room, not drained.
    pub takes: bool,
}

/// A group and the bytes that a member is estimated to hold of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sized {
    pub row: rows::Pg,
    pub bytes: u64,
}

/// Everything a plan is made from.
#[derive(Clone, Default, Debug)]
pub(crate) struct Stand {
    pub places: BTreeMap<u32, Place>,
    pub groups: BTreeMap<u32, Sized>,
    /// Joins, by group and store, that have not got on for minutes.
    pub stalled: BTreeSet<(u32, u32)>,
}

impl Stand {
    /// An operator says that the store will not be back: others take over, however lately it was heard of. Nothing when it
    /// serves.
    pub(crate) fn give_up(&mut self, store: u32) {
        if let Some(place) = self.places.get_mut(&store).filter(|place| !place.live) {
            (place.lost, place.takes) = (true, false);
        }
    }
}

/// A membership that should go from one store to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PlannedMove {
    pub pg: u32,
    pub from: u32,
    pub to: u32,
    pub bytes: u64,
}

/// Why a membership can go nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Nowhere {
    /// Every store that takes memberships is on a node that has one of the group, or there is none.
    #[error("no node without a member of the group takes memberships")]
    NoNode,
    /// Those there are have no room.
    #[error("no store has room for it")]
    NoRoom,
    /// All that are as good as can be copy enough already: later.
    #[error("the stores that could take it are busy copying")]
    Busy,
}

/// Parts in which shares are compared that must not be rounded much.
const PPM: u64 = 1_000_000;

impl Place {
    /// Which part of its capacity `bytes` are, in so many parts of the whole.
    fn share(&self, bytes: u64, whole: u64) -> u64 {
        let share = u128::from(bytes) * u128::from(whole) / u128::from(self.capacity.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

/// What stores hold, are about to hold, and are copying.
pub(crate) struct Loads<'a> {
    stand: &'a Stand,
    /// Bytes there will be when what is under way is done.
    expected: BTreeMap<u32, u64>,
    /// Memberships that are not leaving.
    groups: BTreeMap<u32, u32>,
    /// Joins under way, by the store that joins.
    incoming: BTreeMap<u32, usize>,
    /// Joins under way, by the stores that are copied from.
    outgoing: BTreeMap<u32, usize>,
}

impl<'a> Loads<'a> {
    pub(crate) fn new(stand: &'a Stand) -> Self {
        let expected = stand.places.iter().map(|(store, place)| (*store, place.used)).collect();
        let mut loads =
            Self { stand, expected, groups: BTreeMap::new(), incoming: BTreeMap::new(), outgoing: BTreeMap::new() };
        for (pg, group) in &stand.groups {
            for member in &group.row.members {
                let expected = loads.expected.entry(member.store).or_default();
                match member.state {
                    // Counted whole, although a part may be there: a little too careful, and only for a while.
                    MemberState::Joining => *expected += group.bytes,
                    MemberState::Leaving => *expected = expected.saturating_sub(group.bytes),
                    _ => {}
                }
                if member.state != MemberState::Leaving {
                    *loads.groups.entry(member.store).or_default() += 1;
                }
            }
            let going_on = loads.going_on(*pg, &group.row);
            for store in &going_on {
                *loads.incoming.entry(*store).or_default() += 1;
            }
            if !going_on.is_empty() {
                loads.count_sources(&group.row, None);
            }
        }
        loads
    }

    fn live(&self, store: u32) -> bool {
        self.stand.places.get(&store).is_some_and(|place| place.live)
    }

    /// Members whose join is under way. One that waits for somebody who is away, or has not got on for long, takes nobody's
    /// time.
    fn going_on(&self, pg: u32, row: &rows::Pg) -> Vec<u32> {
        if !members::full(row).all(|store| self.live(store)) {
            return Vec::new();
        }
        let joins = row.members.iter().filter(|member| member.state == MemberState::Joining).map(|member| member.store);
        joins.filter(|store| self.live(*store) && !self.stand.stalled.contains(&(pg, *store))).collect()
    }

    fn sources<'r>(&'r self, row: &'r rows::Pg, from: Option<u32>) -> impl Iterator<Item = u32> + 'r {
        let holds = |state| matches!(state, MemberState::Full | MemberState::Leaving);
        let members = row.members.iter().filter(move |member| holds(member.state) || Some(member.store) == from);
        members.map(|member| member.store).filter(|store| self.live(*store))
    }

    fn count_sources(&mut self, row: &rows::Pg, from: Option<u32>) {
        let sources: Vec<u32> = self.sources(row, from).collect();
        for store in sources {
            *self.outgoing.entry(store).or_default() += 1;
        }
    }

    fn sources_are_busy(&self, row: &rows::Pg, from: u32) -> bool {
        self.sources(row, Some(from)).any(|store| self.outgoing.get(&store).copied().unwrap_or(0) >= JOINS_PER_SOURCE)
    }

    /// Notes a move that begins; `copies` while its bytes are still to be copied, which takes its stores' time.
    pub(crate) fn take(&mut self, planned: &PlannedMove, copies: bool) {
        *self.expected.entry(planned.to).or_default() += planned.bytes;
        let from = self.expected.entry(planned.from).or_default();
        *from = from.saturating_sub(planned.bytes);
        *self.groups.entry(planned.to).or_default() += 1;
        if let Some(groups) = self.groups.get_mut(&planned.from) {
            *groups = groups.saturating_sub(1);
        }
        if copies {
            *self.incoming.entry(planned.to).or_default() += 1;
            if let Some(group) = self.stand.groups.get(&planned.pg) {
                self.count_sources(&group.row, Some(planned.from));
            }
        }
    }

    fn expected(&self, store: u32) -> u64 {
        self.expected.get(&store).copied().unwrap_or(0)
    }

    /// Thousandths of its capacity that a store will use; stores that differ by less are equally empty.
    fn permille(&self, store: u32, more: u64) -> u64 {
        self.share(store, more, 1000)
    }

    fn ppm(&self, store: u32, more: u64) -> u64 {
        self.share(store, more, PPM)
    }

    fn share(&self, store: u32, more: u64, whole: u64) -> u64 {
        self.stand.places.get(&store).map_or(whole, |place| place.share(self.expected(store) + more, whole))
    }

    fn has_room(&self, store: u32, bytes: u64) -> bool {
        self.stand.places.get(&store).is_some_and(|place| {
            let most = u128::from(place.capacity) * u128::from(PLACE_FILL_PERCENT) / 100;
            u128::from(self.expected(store)) + u128::from(bytes) <= most
        })
    }

    /// Members that stay beside whoever takes over from `from`.
    fn stays<'r>(&'r self, row: &'r rows::Pg, from: u32) -> impl Iterator<Item = &'r Place> + 'r {
        let stays = move |member: &&rows::Member| member.store != from && member.state != MemberState::Leaving;
        row.members.iter().filter(stays).filter_map(|member| self.stand.places.get(&member.store))
    }

    /// How many of the members that stay share the place of `store`: the fewer in the wider domain the better.
    fn crowd(&self, row: &rows::Pg, from: u32, store: u32) -> Option<[usize; 3]> {
        let place = self.stand.places.get(&store)?;
        let others: Vec<&[String; 3]> = self.stays(row, from).map(|place| &place.domains).collect();
        Some(shared_domains(&place.domains, &others))
    }

    /// True for a store that may take over: on a node of its own, and not a member in whatever state.
    fn may_take(&self, row: &rows::Pg, from: u32, store: u32) -> bool {
        let Some(place) = self.stand.places.get(&store).filter(|place| place.takes) else { return false };
        members::state_of(row, store).is_none() && self.stays(row, from).all(|other| other.node != place.node)
    }

    /// The best store for a membership that `from` gives up: as far apart from the others as any can be, then the
    /// emptiest for its size. `now` asks for one that can begin at once.
    pub(crate) fn target(
        &self,
        group: &Sized,
        from: u32,
        only: Option<&BTreeSet<u32>>,
        now: bool,
    ) -> Result<u32, Nowhere> {
        let row = &group.row;
        let allowed = |store: &u32| only.is_none_or(|only| only.contains(store));
        let mut able =
            self.stand.places.keys().copied().filter(allowed).filter(|s| self.may_take(row, from, *s)).peekable();
        if able.peek().is_none() {
            return Err(Nowhere::NoNode);
        }
        let roomy: Vec<([usize; 3], u32)> = able
            .filter(|store| self.has_room(*store, group.bytes))
            .filter_map(|store| Some((self.crowd(row, from, store)?, store)))
            .collect();
        let least = roomy.iter().map(|(crowd, _)| *crowd).min().ok_or(Nowhere::NoRoom)?;
        let free = |store: &u32| !now || self.incoming.get(store).copied().unwrap_or(0) < JOINS_PER_TARGET;
        if now && self.sources_are_busy(row, from) {
            return Err(Nowhere::Busy);
        }
        let best = roomy.iter().filter(|(crowd, _)| *crowd == least).map(|(_, store)| *store).filter(free);
        best.min_by_key(|store| {
            let groups = self.groups.get(store).copied().unwrap_or(0);
            (self.permille(*store, group.bytes), groups, *store)
        })
        .ok_or(Nowhere::Busy)
    }
}

/// Every membership of `from` to another store, in order of groups; an error names the first group that has no way out.
/// `only` are the stores that may take over, when an operator named them.
pub(crate) fn drain(
    stand: &Stand,
    from: &BTreeSet<u32>,
    only: Option<&BTreeSet<u32>>,
) -> Result<Vec<PlannedMove>, (u32, Nowhere)> {
    let mut loads = Loads::new(stand);
    let mut plan = Vec::new();
    for (pg, group) in &stand.groups {
        for member in group.row.members.iter().filter(|member| from.contains(&member.store)) {
            if member.state == MemberState::Leaving {
                continue;
            }
            let to = loads.target(group, member.store, only, false).map_err(|why| (*pg, why))?;
            let planned = PlannedMove { pg: *pg, from: member.store, to, bytes: group.bytes };
            loads.take(&planned, false);
            plan.push(planned);
        }
    }
    Ok(plan)
}

/// At most `most` moves that bring the shares of their capacity that stores use within a few percent of the mean.
///
/// Greedy from the fullest store to those below the mean: of its memberships the one that leaves the fuller of the two as
/// empty as can be, so that every move brings them closer, and as few bytes as possible move. Never to a place that shares more with the other members than the present one does. `only` are the
/// stores that may take memberships. At most one move for each group.
pub(crate) fn balance(stand: &Stand, only: Option<&BTreeSet<u32>>, most: usize) -> Vec<PlannedMove> {
    let mut loads = Loads::new(stand);
    let counted: Vec<u32> = stand
        .places
        .iter()
        .filter(|(_, place)| place.live && !place.lost && place.capacity > 0 && place.takes)
        .map(|(store, _)| *store)
        .collect();
    let capacity: u128 = counted.iter().map(|store| u128::from(stand.places[store].capacity)).sum();
    let used: u128 = counted.iter().map(|store| u128::from(loads.expected(*store))).sum();
    if capacity == 0 {
        return Vec::new();
    }
    let mean = |store: u32| (u128::from(stand.places[&store].capacity) * used / capacity) as u64;
    let slack = |store: u32| stand.places[&store].capacity / 1000 * BALANCE_TOLERANCE_PERMILLE;
    let mut memberships: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (pg, group) in stand.groups.iter().filter(|(_, group)| is_settled(stand, &group.row) && group.bytes > 0) {
        for store in members::full(&group.row) {
            memberships.entry(store).or_default().push(*pg);
        }
    }
    let mut plan = Vec::new();
    let mut moved: BTreeSet<u32> = BTreeSet::new();
    let mut exhausted: BTreeSet<u32> = BTreeSet::new();
    while plan.len() < most {
        let excess = |store: &u32| loads.expected(*store).saturating_sub(mean(*store));
        let lacks = |store: u32| mean(store).saturating_sub(loads.expected(store));
        // Who is over the mean gives when it is far over it, or when somebody is far below.
        let hungry =
            counted.iter().any(|store| only.is_none_or(|only| only.contains(store)) && lacks(*store) > slack(*store));
        let gives = |store: &&u32| excess(store) > if hungry { 0 } else { slack(**store) };
        let fullest = counted.iter().filter(|store| !exhausted.contains(store)).filter(gives);
        let Some(from) = fullest.max_by_key(|store| (loads.ppm(**store, 0), excess(store), **store)).copied() else {
            break;
        };
        let best = memberships
            .get(&from)
            .into_iter()
            .flatten()
            .filter(|pg| !moved.contains(pg))
            .filter_map(|pg| {
                let group = &stand.groups[pg];
                let now = loads.crowd(&group.row, from, from)?;
                let left = loads.expected(from).saturating_sub(group.bytes);
                let left = stand.places[&from].share(left, PPM);
                // Neither gets fuller than the one was, nor emptier than the other was.
                let fits = |to: &&u32| {
                    only.is_none_or(|only| only.contains(to))
                        && lacks(**to) > 0
                        && loads.ppm(**to, group.bytes) < loads.ppm(from, 0)
                        && left >= loads.ppm(**to, 0)
                        && loads.may_take(&group.row, from, **to)
                        && loads.has_room(**to, group.bytes)
                        && loads.crowd(&group.row, from, **to).is_some_and(|crowd| crowd <= now)
                };
                let to = counted.iter().filter(fits).max_by_key(|to| (lacks(**to), u32::MAX - **to))?;
                let fuller = loads.ppm(*to, group.bytes).max(left);
                Some((fuller, PlannedMove { pg: *pg, from, to: *to, bytes: group.bytes }))
            })
            .min_by_key(|(fuller, planned)| (*fuller, planned.bytes, planned.pg))
            .map(|(_, planned)| planned);
        match best {
            Some(planned) => {
                loads.take(&planned, false);
                moved.insert(planned.pg);
                plan.push(planned);
            }
            None => {
                exhausted.insert(from);
            }
        }
    }
    plan
}

/// Every member is full and serves: the state in which a membership may move without need.
pub(crate) fn is_settled(stand: &Stand, row: &rows::Pg) -> bool {
    row.members.len() >= row.replicas as usize
        && row.members.iter().all(|member| {
            member.state == MemberState::Full && stand.places.get(&member.store).is_some_and(|place| place.live)
        })
}

/// Bytes that a member holds of each group. Only the bytes ever committed to a group are counted, of which many may be
/// garbage by now; so what each store uses is laid out over its groups in their proportion, and the members' figures for a
/// group are averaged.
pub(crate) fn sizes(
    committed: &BTreeMap<u32, u64>,
    groups: &[(u32, rows::Pg)],
    used: &BTreeMap<u32, u64>,
) -> BTreeMap<u32, u64> {
    let of = |pg: &u32| committed.get(pg).copied().unwrap_or(0);
    let mut totals: BTreeMap<u32, u128> = BTreeMap::new();
    for (pg, row) in groups {
        for store in members::full(row) {
            *totals.entry(store).or_default() += u128::from(of(pg));
        }
    }
    let share = |pg: &u32, store: u32| -> Option<u64> {
        let total = totals.get(&store).copied().filter(|total| *total > 0)?;
        let used = u128::from(used.get(&store).copied().unwrap_or(0));
        Some((u128::from(of(pg)) * used / total).min(u128::from(of(pg))) as u64)
    };
    let size = |(pg, row): &(u32, rows::Pg)| {
        let shares: Vec<u64> = members::full(row).filter_map(|store| share(pg, store)).collect();
        let mean = shares.iter().map(|bytes| u128::from(*bytes)).sum::<u128>() / (shares.len().max(1) as u128);
        (*pg, mean as u64)
    };
    groups.iter().map(size).collect()
}

#[cfg(test)]
mod tests;
