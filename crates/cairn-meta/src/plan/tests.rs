use super::*;
use crate::rows::{Member, Pg};
use proptest::prelude::*;

const GIB: u64 = 1 << 30;

/// Stores 1, 2, ... each on a node of its own: zone, capacity and use.
fn places(stores: &[(&str, u64, u64)]) -> BTreeMap<u32, Place> {
    let place = |(index, (zone, capacity, used)): (usize, &(&str, u64, u64))| {
        let domains = [(*zone).to_owned(), String::new(), String::new()];
        let node = index as u32 + 1;
        (node, Place { node, domains, capacity: *capacity, used: *used, live: true, lost: false, takes: true })
    };
    stores.iter().enumerate().map(place).collect()
}

fn group(members: &[u32], bytes: u64) -> Sized {
    let members = members.iter().map(|store| Member { store: *store, state: MemberState::Full }).collect();
    Sized { row: Pg { epoch: 1, replicas: 3, members, sealed: false, since: Vec::new() }, bytes }
}

fn stand(stores: &[(&str, u64, u64)], groups: &[(&[u32], u64)]) -> Stand {
    let groups = groups.iter().enumerate().map(|(at, (members, bytes))| (at as u32 + 1, group(members, *bytes)));
    Stand { places: places(stores), groups: groups.collect(), ..Stand::default() }
}

#[test]
fn zones_come_before_room() {
    let stores = [("a", 100, 10), ("b", 100, 10), ("c", 100, 10), ("a", 100, 0), ("c", 100, 90)];
    let stand = stand(&stores, &[(&[1, 2, 3], 1)]);
    let loads = Loads::new(&stand);
    let target = |from| loads.target(&stand.groups[&1], from, None, true);
    assert_eq!(target(3), Ok(5), "the only one in the zone that would be empty, full as it is");
    assert_eq!(target(1), Ok(4));
    assert_eq!(target(2), Ok(4), "both would double a zone: the emptier");
}

#[test]
fn why_there_is_no_target() {
    let three = [("", 100, 10), ("", 100, 10), ("", 100, 10)];
    let none = stand(&three, &[(&[1, 2, 3], 1)]);
    assert_eq!(Loads::new(&none).target(&none.groups[&1], 1, None, true), Err(Nowhere::NoNode));
    let full = stand(&[three[0], three[1], three[2], ("", 100, 90)], &[(&[1, 2, 3], 10)]);
    assert_eq!(Loads::new(&full).target(&full.groups[&1], 1, None, true), Err(Nowhere::NoRoom));
    let mut busy =
        stand(&[three[0], three[1], three[2], ("", 100, 0)], &[(&[1, 2, 3], 1), (&[1, 2, 3], 1), (&[1, 2, 3], 1)]);
    for pg in [2, 3] {
        let row = &mut busy.groups.get_mut(&pg).expect("a group").row;
        row.members[0].state = MemberState::Leaving;
        row.members.push(Member { store: 4, state: MemberState::Joining });
    }
    assert_eq!(Loads::new(&busy).target(&busy.groups[&1], 1, None, true), Err(Nowhere::Busy));
    assert_eq!(Loads::new(&busy).target(&busy.groups[&1], 1, None, false), Ok(4), "for a plan it will do");
    // A join that waits for a member who is away takes nobody's time.
    busy.places.get_mut(&2).expect("a store").live = false;
    assert_eq!(Loads::new(&busy).target(&busy.groups[&1], 1, None, true), Ok(4));
}

#[test]
fn a_join_that_does_not_get_on_keeps_no_other_from_beginning() {
    let four = [("", 100, 0), ("", 100, 0), ("", 100, 0), ("", 100, 0)];
    let mut stand = stand(&four, &[(&[1, 2, 3], 1), (&[1, 2, 3], 1), (&[1, 2, 3], 1)]);
    for pg in [2, 3] {
        let row = &mut stand.groups.get_mut(&pg).expect("a group").row;
        row.members[0].state = MemberState::Leaving;
        row.members.push(Member { store: 4, state: MemberState::Joining });
    }
    let target = |stand: &Stand| Loads::new(stand).target(&stand.groups[&1], 1, None, true);
    assert_eq!(target(&stand), Err(Nowhere::Busy));
    stand.stalled.insert((2, 4));
    assert_eq!(target(&stand), Ok(4));
}

#[test]
fn a_second_store_of_the_node_may_take_over_from_the_first() {
    let mut two = stand(&[("", 100, 0), ("", 100, 0), ("", 100, 0), ("", 100, 0)], &[(&[1, 2, 3], 1)]);
    two.places.get_mut(&4).expect("a store").node = 1;
    let loads = Loads::new(&two);
    assert_eq!(loads.target(&two.groups[&1], 1, None, true), Ok(4));
    assert_eq!(loads.target(&two.groups[&1], 2, None, true), Err(Nowhere::NoNode));
}

#[test]
fn what_is_committed_is_laid_out_over_what_is_used() {
    let rows = vec![(1, group(&[1, 2, 3], 0).row), (2, group(&[1, 2, 4], 0).row), (3, group(&[4, 5, 6], 0).row)];
    let committed = BTreeMap::from([(1, 600), (2, 400), (3, 0)]);
    // Half of what was committed is garbage by now.
    let used = BTreeMap::from([(1, 500), (2, 500), (3, 300), (4, 200)]);
    assert_eq!(sizes(&committed, &rows, &used), BTreeMap::from([(1, 300), (2, 200), (3, 0)]));
}

#[test]
fn a_drain_spreads_over_all_others() {
    let stores = [("", 100 * GIB, 0); 6];
    let groups: Vec<(&[u32], u64)> = vec![(&[1, 2, 3], GIB); 6];
    let plan = drain(&stand(&stores, &groups), &BTreeSet::from([1]), None).expect("planned");
    let mut to: Vec<u32> = plan.iter().map(|planned| planned.to).collect();
    to.sort_unstable();
    assert_eq!(to, [4, 4, 5, 5, 6, 6]);
    assert!(drain(&stand(&stores[..3], &groups), &BTreeSet::from([1]), None).is_err());
}

/// Distance of the fullest from the emptiest store, as a share of their capacity.
fn spread(places: &BTreeMap<u32, Place>, used: &BTreeMap<u32, u64>) -> u64 {
    let shares = || places.iter().map(|(store, place)| place.share(used[store], PPM));
    shares().max().unwrap_or(0) - shares().min().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_balance_only_ever_evens_out(
        capacities in prop::collection::vec(1u64..4, 3..9),
        zones in prop::collection::vec(0u8..3, 9),
        groups in prop::collection::vec((any::<u64>(), 1u64..50), 1..60),
    ) {
        let names = ["a", "b", "c"];
        let stores: Vec<(&str, u64, u64)> =
            capacities.iter().zip(&zones).map(|(tib, zone)| (names[usize::from(*zone)], tib << 40, 0)).collect();
        let mut stand = Stand { places: places(&stores), ..Stand::default() };
        for (at, (seed, size)) in groups.iter().enumerate() {
            let mut all: Vec<u32> = stand.places.keys().copied().collect();
            fastrand::Rng::with_seed(*seed).shuffle(&mut all);
            stand.groups.insert(at as u32 + 1, group(&all[..3], size * 10 * GIB));
        }
        let used = |stand: &Stand| -> BTreeMap<u32, u64> {
            let of = |store: &u32| stand.groups.values().filter(|g| members::full(&g.row).any(|s| s == *store)).map(|g| g.bytes).sum();
            stand.places.keys().map(|store| (*store, of(store))).collect()
        };
        let before = used(&stand);
        before.iter().for_each(|(store, bytes)| stand.places.get_mut(store).expect("a store").used = *bytes);
        prop_assume!(stand.places.values().all(|place| place.used <= place.capacity));
        let plan = balance(&stand, None, 1000);
        prop_assert_eq!(&plan, &balance(&stand, None, 1000), "deterministic");
        let crowds = |stand: &Stand, pg: u32| -> usize {
            let zones: BTreeSet<&String> = members::full(&stand.groups[&pg].row).map(|s| &stand.places[&s].domains[0]).collect();
            zones.len()
        };
        let mut after = stand.clone();
        for planned in &plan {
            let zones = crowds(&after, planned.pg);
            let row = &mut after.groups.get_mut(&planned.pg).expect("a group").row;
            let member = row.members.iter_mut().find(|member| member.store == planned.from).expect("a member");
            member.store = planned.to;
            prop_assert!(crowds(&after, planned.pg) >= zones, "the spread over zones got worse");
            let nodes: BTreeSet<u32> = members::full(&after.groups[&planned.pg].row).collect();
            prop_assert_eq!(nodes.len(), 3);
        }
        let moved: BTreeSet<u32> = plan.iter().map(|planned| planned.pg).collect();
        prop_assert_eq!(moved.len(), plan.len(), "one move for each group");
        prop_assert!(spread(&after.places, &used(&after)) <= spread(&stand.places, &before));
    }

    #[test]
    fn many_small_groups_end_within_a_few_percent(seed in any::<u64>(), fresh in 1usize..3) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let old = 6;
        let mut stand = Stand { places: places(&vec![("", 1 << 40, 0); old + fresh]), ..Stand::default() };
        for pg in 1..=200u32 {
            let mut all: Vec<u32> = (1..=old as u32).collect();
            rng.shuffle(&mut all);
            let sized = group(&all[..3], 4 * GIB);
            members::full(&sized.row).for_each(|s| stand.places.get_mut(&s).expect("a store").used += sized.bytes);
            stand.groups.insert(pg, sized);
        }
        let total: u64 = stand.places.values().map(|place| place.used).sum();
        let mean = total / (old + fresh) as u64;
        let least: u64 = stand.places.values().map(|place| place.used.saturating_sub(mean)).sum();
        let plan = balance(&stand, None, 1000);
        let mut used: BTreeMap<u32, u64> = stand.places.iter().map(|(s, p)| (*s, p.used)).collect();
        for planned in &plan {
            *used.entry(planned.from).or_default() -= planned.bytes;
            *used.entry(planned.to).or_default() += planned.bytes;
        }
        let slack = (1u64 << 40) / 1000 * (BALANCE_TOLERANCE_PERMILLE + 4);
        prop_assert!(used.values().all(|used| used.abs_diff(mean) <= slack), "{:?} {}", used, mean);
        let moved: u64 = plan.iter().map(|planned| planned.bytes).sum();
        prop_assert!(moved <= least + 4 * GIB * 8, "{} moved where {} had to", moved, least);
    }
}
