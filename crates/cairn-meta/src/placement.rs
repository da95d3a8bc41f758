//! Which stores make up a new placement group: plain arithmetic over failure domains.
//!
//! Groups are few (a small multiple of the stores) and every block goes to one of them: the sets of stores whose loss
//! together loses data stay few too (Cidon et al., Copysets, USENIX ATC 2013).

use crate::limits::SETS_PER_STORE;
use std::collections::{BTreeMap, BTreeSet};

/// A store that may become a member, and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The store.
    pub store: u32,
    /// Its node: never two members of a group.
    pub node: u32,
    /// Failure domains from the widest to the narrowest: zone, rack, host. Spread as far as there are distinct ones;
    /// an empty label is one domain of its own.
    pub domains: [String; 3],
    /// Groups it is in now.
    pub load: usize,
    /// How much room it has beside others, from 1 to [`WEIGHT_MAX`]: one of twice the weight gets twice the groups.
    pub weight: u8,
}

/// Weight of the store with the most room. Few steps, so that stores that are about equal are treated as equal and
/// chosen by who has met whom, which keeps the groups of each spread over many others.
pub const WEIGHT_MAX: u8 = 8;

/// The weight of a store with `free` bytes where the one with the most has `most`.
pub fn weight(free: u64, most: u64) -> u8 {
    let steps = u128::from(free) * u128::from(WEIGHT_MAX);
    let weight = steps.div_ceil(u128::from(most.max(1)));
    u8::try_from(weight).unwrap_or(WEIGHT_MAX).clamp(1, WEIGHT_MAX)
}

impl Candidate {
    /// Its load after one more group, relative to its weight.
    fn fill(&self) -> usize {
        (self.load + 1) * self.step()
    }

    /// What one group adds to it.
    fn step(&self) -> usize {
        // Divisible by every weight.
        const UNIT: usize = 840;
        UNIT / usize::from(self.weight.clamp(1, WEIGHT_MAX))
    }
}

/// How many of `others` share the zone, the rack, the host of `domains`: zones first, then racks, then hosts.
pub(crate) fn shared_domains(domains: &[String; 3], others: &[&[String; 3]]) -> [usize; 3] {
    let mut shared = [0; 3];
    for (level, count) in shared.iter_mut().enumerate() {
        // A rack is one of its zone, a host one of its rack.
        *count = others.iter().filter(|other| other[..=level] == domains[..=level]).count();
    }
    shared
}

/// How much of its place a candidate shares with members chosen so far.
fn shared(candidate: &Candidate, chosen: &[&Candidate]) -> [usize; 3] {
    let others: Vec<&[String; 3]> = chosen.iter().map(|other| &other.domains).collect();
    shared_domains(&candidate.domains, &others)
}

/// Sets of stores that are groups together, and in how many of them each store is.
struct Sets {
    all: BTreeSet<Vec<u32>>,
    of: BTreeMap<u32, usize>,
}

impl Sets {
    fn new(known: &[Vec<u32>]) -> Self {
        let mut sets = Self { all: BTreeSet::new(), of: BTreeMap::new() };
        known.iter().for_each(|set| sets.add(set));
        sets
    }

    fn add(&mut self, members: &[u32]) {
        let mut set = members.to_vec();
        set.sort_unstable();
        if !self.all.contains(&set) {
            set.iter().for_each(|store| *self.of.entry(*store).or_default() += 1);
            self.all.insert(set);
        }
    }

    /// A set that will do as well as `fresh`, when the one who needs a group most is in enough of them: no less apart, and
    /// none of its members more than a group fuller than the fullest of `fresh`.
    fn instead_of<'c>(&self, fresh: &[&Candidate], pool: &'c [Candidate]) -> Option<Vec<&'c Candidate>> {
        let first = fresh.first().filter(|first| self.of.get(&first.store).copied().unwrap_or(0) >= SETS_PER_STORE)?;
        let fullest = fresh.iter().map(|candidate| candidate.fill()).max()?;
        let members = |set: &Vec<u32>| -> Option<Vec<&'c Candidate>> {
            let found = set.iter().map(|store| pool.iter().find(|candidate| candidate.store == *store));
            found.collect::<Option<Vec<_>>>().filter(|members| members.len() == fresh.len())
        };
        let close = self.all.iter().filter(|set| set.contains(&first.store)).filter_map(members);
        let as_good = close.filter(|members| {
            crowd(members) <= crowd(fresh)
                && members.iter().all(|candidate| candidate.fill() <= fullest + candidate.step())
        });
        as_good.min_by_key(|members| members.iter().map(|candidate| candidate.fill()).sum::<usize>())
    }
}

/// How close the members of a set are to each other, in the wider domains first.
fn crowd(members: &[&Candidate]) -> [usize; 4] {
    let mut crowd = [0; 4];
    for (at, one) in members.iter().enumerate() {
        let others = &members[at + 1..];
        crowd[3] += others.iter().filter(|other| other.node == one.node).count();
        for (sum, count) in crowd.iter_mut().zip(shared(one, others)) {
            *sum += count;
        }
    }
    crowd
}

/// Plans `count` groups of `replicas` members each, on distinct nodes, spread over failure domains first and over stores
/// by their room second. Fewer than `count` when there are fewer than `replicas` nodes (then none).
///
/// `known` are the member sets that there are. A store that is in [`SETS_PER_STORE`] of them gets no new one where one of
/// those will do, so that a cluster that fills up has many groups on few sets: which stores lose data when they are lost
/// together is a matter of the sets.
///
/// Deterministic for one state of `rng`. Members are in the order they were chosen.
pub fn plan(
    candidates: &[Candidate],
    replicas: usize,
    known: &[Vec<u32>],
    count: usize,
    rng: &mut fastrand::Rng,
) -> Vec<Vec<u32>> {
    let mut pool = candidates.to_vec();
    let mut sets = Sets::new(known);
    let mut together: BTreeMap<(u32, u32), usize> = BTreeMap::new();
    let mut groups = Vec::new();
    for _ in 0..count {
        rng.shuffle(&mut pool);
        let mut chosen: Vec<&Candidate> = Vec::with_capacity(replicas);
        while chosen.len() < replicas {
            let met = |candidate: &Candidate| -> usize {
                let pair = |other: &&Candidate| {
                    let key = (candidate.store.min(other.store), candidate.store.max(other.store));
                    together.get(&key).copied().unwrap_or(0)
                };
                chosen.iter().map(pair).sum()
            };
            let free = pool.iter().filter(|candidate| chosen.iter().all(|other| other.node != candidate.node));
            let next = free.min_by_key(|candidate| (shared(candidate, &chosen), candidate.fill(), met(candidate)));
            let Some(next) = next else { return groups };
            chosen.push(next);
        }
        let chosen = sets.instead_of(&chosen, &pool).unwrap_or(chosen);
        let members: Vec<u32> = chosen.iter().map(|candidate| candidate.store).collect();
        for (index, one) in members.iter().enumerate() {
            for other in &members[index + 1..] {
                *together.entry((*one.min(other), *one.max(other))).or_default() += 1;
            }
        }
        for candidate in &mut pool {
            candidate.load += usize::from(members.contains(&candidate.store));
        }
        sets.add(&members);
        groups.push(members);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn stores(places: &[(u32, &str, &str)]) -> Vec<Candidate> {
        let candidate = |(index, (node, zone, rack)): (usize, &(u32, &str, &str))| Candidate {
            store: index as u32 + 1,
            node: *node,
            domains: [(*zone).into(), (*rack).into(), String::new()],
            load: 0,
            weight: WEIGHT_MAX,
        };
        places.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn too_few_nodes_make_no_group() {
        let mut rng = fastrand::Rng::with_seed(1);
        assert!(plan(&stores(&[(1, "", ""), (1, "", ""), (2, "", "")]), 3, &[], 4, &mut rng).is_empty());
        assert_eq!(plan(&stores(&[(1, "", ""), (2, "", ""), (3, "", "")]), 3, &[], 4, &mut rng).len(), 4);
    }

    #[test]
    fn zones_come_before_racks() {
        let places = [(1, "a", "1"), (2, "a", "2"), (3, "b", "1"), (4, "b", "2"), (5, "c", "1"), (6, "c", "1")];
        let all = stores(&places);
        for group in plan(&all, 3, &[], 12, &mut fastrand::Rng::with_seed(2)) {
            let zones: BTreeSet<_> = group.iter().map(|s| &all[*s as usize - 1].domains[0]).collect();
            assert_eq!(zones.len(), 3, "{group:?}");
        }
    }

    #[test]
    fn two_zones_for_three_replicas_take_two_racks_in_one() {
        let places = [(1, "a", "1"), (2, "a", "1"), (3, "a", "2"), (4, "b", "1"), (5, "b", "2"), (6, "b", "2")];
        let all = stores(&places);
        for group in plan(&all, 3, &[], 12, &mut fastrand::Rng::with_seed(3)) {
            let racks: BTreeSet<_> = group.iter().map(|s| &all[*s as usize - 1].domains[..2]).collect();
            assert_eq!(racks.len(), 3, "{group:?}");
        }
    }

    #[test]
    fn a_cluster_that_fills_up_has_few_sets() {
        for (nodes, groups) in [(9u32, 192), (30, 640)] {
            let places: Vec<_> = (0..nodes).map(|node| (node, "", "")).collect();
            let mut all = stores(&places);
            let mut known: Vec<Vec<u32>> = Vec::new();
            let mut rng = fastrand::Rng::with_seed(4);
            // A few at a time, as groups are sealed.
            while known.len() < groups {
                for members in plan(&all, 3, &known, 4, &mut rng) {
                    members.iter().for_each(|store| all[*store as usize - 1].load += 1);
                    known.push(members);
                }
            }
            let distinct: BTreeSet<Vec<u32>> = known
                .iter()
                .map(|set| {
                    let mut set = set.clone();
                    set.sort_unstable();
                    set
                })
                .collect();
            // Each store is in about SETS_PER_STORE of them, three stores share one.
            let most = nodes as usize * SETS_PER_STORE / 3 * 3 / 2;
            assert!(distinct.len() <= most, "{} sets of {nodes} nodes, {most} are enough", distinct.len());
            let loads: Vec<usize> = all.iter().map(|candidate| candidate.load).collect();
            let (low, high) = (loads.iter().min().copied(), loads.iter().max().copied());
            assert!(high <= low.map(|low| low + 2), "{loads:?}");
        }
    }

    proptest! {
        #[test]
        fn members_are_distinct_nodes_as_spread_as_can_be_and_even(
            nodes in prop::collection::vec((0u32..3, 0u32..3, 1usize..3), 1..10),
            replicas in 1usize..5,
            seed in any::<u64>(),
        ) {
            let mut all = Vec::new();
            for (index, (zone, rack, stores)) in nodes.iter().enumerate() {
                for _ in 0..*stores {
                    all.push(Candidate {
                        store: all.len() as u32 + 1,
                        node: index as u32,
                        domains: [zone.to_string(), rack.to_string(), String::new()],
                        load: 0,
            weight: WEIGHT_MAX,
                    });
                }
            }
            let count = 2 * all.len();
            let groups = plan(&all, replicas, &[], count, &mut fastrand::Rng::with_seed(seed));
            prop_assert_eq!(&groups, &plan(&all, replicas, &[], count, &mut fastrand::Rng::with_seed(seed)));
            prop_assert_eq!(groups.len(), if nodes.len() >= replicas { count } else { 0 });
            let zones: BTreeSet<_> = nodes.iter().map(|node| node.0).collect();
            for group in &groups {
                let members: Vec<_> = group.iter().map(|store| &all[*store as usize - 1]).collect();
                let distinct: BTreeSet<_> = members.iter().map(|member| member.node).collect();
                prop_assert_eq!(distinct.len(), replicas);
                let used: BTreeSet<_> = members.iter().map(|member| &member.domains[0]).collect();
                prop_assert_eq!(used.len(), replicas.min(zones.len()));
            }
        }

        #[test]
        fn room_decides_how_many_groups_a_store_gets(seed in any::<u64>()) {
            let places: Vec<_> = (0..8u32).map(|node| (node, "", "")).collect();
            let mut all = stores(&places);
            all[..4].iter_mut().for_each(|candidate| candidate.weight = WEIGHT_MAX / 2);
            let mut loads = [0usize; 8];
            for store in plan(&all, 2, &[], 60, &mut fastrand::Rng::with_seed(seed)).iter().flatten() {
                loads[*store as usize - 1] += 1;
            }
            prop_assert!(loads[..4].iter().all(|load| load.abs_diff(10) <= 1), "{:?}", loads);
            prop_assert!(loads[4..].iter().all(|load| load.abs_diff(20) <= 1), "{:?}", loads);
        }

        #[test]
        fn equal_stores_get_equal_shares(nodes in 3usize..12, seed in any::<u64>()) {
            let places: Vec<_> = (0..nodes as u32).map(|node| (node, "", "")).collect();
            let groups = plan(&stores(&places), 3, &[], 2 * nodes, &mut fastrand::Rng::with_seed(seed));
            let mut loads = vec![0usize; nodes];
            for store in groups.iter().flatten() {
                loads[*store as usize - 1] += 1;
            }
            let (low, high) = (loads.iter().min().copied(), loads.iter().max().copied());
            prop_assert!(high <= low.map(|low| low + 1), "{:?}", loads);
        }
    }
}
