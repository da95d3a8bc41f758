use super::*;
use crate::plan::{Place, Sized};
use crate::rows::{Member, Pg};
use MemberState::{Full, Joining, Leaving, Stale};

/// Stores 1, 2, ... on a node each.
fn stand(stores: u32, groups: &[&[(u32, MemberState)]]) -> Stand {
    let place = |node| Place { node, capacity: 1000, live: true, takes: true, ..Place::default() };
    let sized = |members: &[(u32, MemberState)]| {
        let members = members.iter().map(|(store, state)| Member { store: *store, state: *state }).collect();
        Sized { row: Pg { epoch: 1, replicas: 3, members, sealed: false, since: Vec::new() }, bytes: 1 }
    };
    Stand {
        places: (1..=stores).map(|store| (store, place(store))).collect(),
        groups: groups.iter().enumerate().map(|(at, members)| (at as u32 + 1, sized(members))).collect(),
        ..Stand::default()
    }
}

fn lose(stand: &mut Stand, store: u32) {
    let place = stand.places.get_mut(&store).expect("a store");
    (place.live, place.takes, place.lost) = (false, false, true);
}

fn task(kind: TaskKind, from: u32, to: u32) -> OpenTask {
    let row = rows::Task {
        kind,
        state: TaskState::Running,
        reason: String::new(),
        node: 0,
        store: from,
        to_node: 0,
        to_store: to,
        moves_total: 0,
        moves_done: 0,
        bytes_total: 0,
        bytes_done: 0,
        started_ns: 0,
        ended_ns: 0,
    };
    let named = |store| if store == 0 { BTreeSet::new() } else { BTreeSet::from([store]) };
    OpenTask { id: 7, row, from: named(from), to: named(to) }
}

#[test]
fn a_whole_cluster_has_nothing_to_do() {
    let steps = decide(&stand(4, &[&[(1, Full), (2, Full), (3, Full)]]), &[], &[]);
    assert!(steps.is_empty() && !steps.unsettled);
}

#[test]
fn the_most_endangered_group_moves_first_and_before_an_operator_s() {
    let one = [(1, Full), (3, Full), (4, Full)];
    let mut stand = stand(8, &[&[(3, Full), (4, Full), (5, Full)], &one, &[(1, Full), (2, Full), (4, Full)]]);
    lose(&mut stand, 1);
    lose(&mut stand, 2);
    let drained = task(TaskKind::Drain, 5, 0);
    let steps = decide(&stand, &[drained], &[]);
    let order: Vec<(Account, u32)> = steps.moves.iter().map(|(account, planned)| (*account, planned.pg)).collect();
    // Of group 3 both lost members have to move, one at a time.
    assert_eq!(order, [(Account::Repair(1), 3), (Account::Repair(1), 2), (Account::Task(7), 1)]);
}

#[test]
fn an_operator_s_replacement_is_honoured_while_it_takes_anything() {
    let mut stand = stand(6, &[&[(1, Full), (2, Full), (3, Full)]]);
    lose(&mut stand, 1);
    let replace = [task(TaskKind::Replace, 1, 6)];
    let steps = decide(&stand, &replace, &[]);
    assert_eq!((steps.moves.len(), steps.moves[0].0, steps.moves[0].1.to), (1, Account::Task(7), 6));
    stand.places.get_mut(&6).expect("a store").takes = false;
    let steps = decide(&stand, &replace, &[]);
    assert_eq!((steps.moves.len(), steps.moves[0].0), (1, Account::Repair(1)));
}

#[test]
fn the_last_full_member_is_waited_for() {
    let mut stand = stand(6, &[&[(1, Full), (2, Joining), (3, Joining)]]);
    lose(&mut stand, 1);
    let steps = decide(&stand, &[], &[]);
    assert!(steps.is_empty() && steps.unsettled);
    assert_eq!(steps.headless, [1]);
}

#[test]
fn no_live_copy_goes_while_another_member_is_silent() {
    let moved = [(1, Leaving), (2, Full), (3, Full), (4, Full)];
    let mut stand = stand(4, &[&moved]);
    assert_eq!(decide(&stand, &[], &[]).complete, [1]);
    stand.places.get_mut(&2).expect("a store").live = false;
    let steps = decide(&stand, &[], &[]);
    assert!(steps.complete.is_empty() && steps.unsettled);
    // That of a dead one is no help to anybody.
    lose(&mut stand, 1);
    assert_eq!(decide(&stand, &[], &[]).complete, [1]);
}

#[test]
fn whoever_is_stale_rejoins_when_it_is_back() {
    let mut stand = stand(3, &[&[(1, Full), (2, Full), (3, Stale)]]);
    assert_eq!(decide(&stand, &[], &[]).rejoin, [(1, 3)]);
    stand.places.get_mut(&3).expect("a store").live = false;
    let steps = decide(&stand, &[], &[]);
    assert!(steps.is_empty() && steps.unsettled, "it may be back without a change of the map");
    lose(&mut stand, 2);
    assert_eq!(decide(&stand, &[], &[]).stale, [(1, 2)], "nobody can take its place");
}

#[test]
fn a_task_that_cannot_go_on_says_why() {
    let stand = stand(3, &[&[(1, Full), (2, Full), (3, Full)]]);
    let steps = decide(&stand, &[task(TaskKind::Drain, 1, 0)], &[]);
    assert!(steps.waiting[&7].contains("group 1"), "{:?}", steps.waiting);
    let steps = decide(&stand, &[task(TaskKind::Drain, 9, 0)], &[]);
    assert_eq!(steps.done, [7]);
}

#[test]
fn a_drain_beside_a_dead_member_waits_until_that_one_is_replaced() {
    let mut stand = stand(4, &[&[(1, Full), (2, Full)]]);
    stand.groups.get_mut(&1).expect("a group").row.replicas = 2;
    stand.places.get_mut(&1).expect("a store").takes = false;
    stand.places.get_mut(&2).expect("a store").live = false;
    let drained = [task(TaskKind::Drain, 1, 0)];
    let steps = decide(&stand, &drained, &[]);
    assert!(steps.moves.is_empty() && steps.waiting[&7].contains("not complete"), "{steps:?}");
    // It is out, or was given up.
    lose(&mut stand, 2);
    let steps = decide(&stand, &drained, &[]);
    assert_eq!(steps.moves.iter().map(|(account, _)| *account).collect::<Vec<_>>(), [Account::Repair(2)]);
    let taker = steps.moves[0].1.to;
    let members = [(1, Full), (taker, Full)].map(|(store, state)| Member { store, state });
    stand.groups.get_mut(&1).expect("a group").row.members = members.to_vec();
    let steps = decide(&stand, &drained, &[]);
    assert_eq!((steps.moves.len(), steps.moves[0].0, steps.moves[0].1.from), (1, Account::Task(7), 1));
}

#[test]
fn what_is_given_up_goes_from_groups_that_nobody_else_holds() {
    let (alone, shared) = ([(1, Full), (2, Joining), (3, Leaving)], [(1, Full), (2, Full), (3, Full)]);
    let mut stand = stand(5, &[&alone, &shared]);
    let given = [task(TaskKind::GiveUp, 1, 0)];
    // It answers: it is left alone.
    let steps = decide(&stand, &given, &[]);
    assert!(steps.given_up.is_empty() && steps.moves.is_empty());
    assert_eq!(steps.done, [7]);
    stand.places.get_mut(&1).expect("a store").live = false;
    stand.give_up(1);
    let steps = decide(&stand, &given, &[]);
    assert_eq!(steps.given_up.len(), 1);
    let (task, pg, from, to) = steps.given_up[0];
    assert_eq!((task, pg, from), (7, 1, 1));
    assert!(to.is_some_and(|to| to > 3), "a store that has no part in it: {to:?}");
    assert_eq!(
        steps.moves.iter().map(|(account, planned)| (*account, planned.pg)).collect::<Vec<_>>(),
        [(Account::Task(7), 2)]
    );
    assert!(steps.done.is_empty());
}
