use super::*;
use MemberState::{Full, Joining, Leaving, Stale};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn row(members: &[(u32, MemberState)]) -> Pg {
    let members = members.iter().map(|(store, state)| Member { store: *store, state: *state }).collect();
    Pg { epoch: 7, replicas: 3, members, sealed: false, since: Vec::new() }
}

fn states(row: Next) -> Option<(u64, Vec<(u32, MemberState)>)> {
    row.map(|row| (row.epoch, row.members.iter().map(|member| (member.store, member.state)).collect()))
}

#[test]
fn a_move_keeps_the_former_member_until_all_are_full() {
    let group = row(&[(1, Full), (2, Full), (3, Joining)]);
    let next = moved(&group, 1, 4).expect("moved");
    assert_eq!(next.members.len(), 4);
    assert_eq!(states(Some(next.clone())).expect("moved").1, [(1, Leaving), (2, Full), (3, Joining), (4, Joining)]);
    assert_eq!(states(moved(&next, 1, 5)), None, "it leaves already");
    assert_eq!(states(moved(&next, 2, 3)), None, "a member takes no second part");
    assert_eq!(states(moved(&next, 9, 5)), None);
    assert_eq!(completed(&next), None);
    let three = joined(&next, 3).expect("joined");
    assert_eq!(completed(&three), None);
    let four = joined(&three, 4).expect("joined");
    assert_eq!(states(completed(&four)), Some((11, vec![(2, Full), (3, Full), (4, Full)])));
    assert_eq!(joined(&four, 4), None);
}

#[test]
fn an_ack_from_before_its_giver_joined_does_not_count() {
    let group = row(&[(1, Full), (2, Full), (3, Full)]);
    assert!(ack_counts(&group, 1, 1));
    let next = moved(&group, 1, 4).expect("moved");
    assert!(ack_counts(&next, 2, 7) && ack_counts(&next, 4, 8) && !ack_counts(&next, 4, 7) && ack_counts(&next, 4, 0));
    let whole = completed(&joined(&next, 4).expect("joined")).expect("completed");
    assert!(ack_counts(&whole, 4, 8) && !ack_counts(&whole, 4, 7), "full or not");
    // It left, and is back: what it acknowledged then it may have dropped since.
    let back = moved(&whole, 4, 1).expect("moved");
    assert!(ack_counts(&back, 1, back.epoch) && !ack_counts(&back, 1, 7));
    assert!(ack_counts(&back, 3, 7));
    let anew = rejoined(&back, 3).expect("anew");
    assert!(!ack_counts(&anew, 3, back.epoch) && ack_counts(&anew, 3, anew.epoch));
    let whole = joined(&anew, 3).expect("joined");
    assert!(!ack_counts(&whole, 3, back.epoch) && ack_counts(&whole, 2, 7));
}

#[test]
fn too_few_full_members_let_nobody_go() {
    assert_eq!(completed(&row(&[(1, Full), (2, Full), (3, Leaving)])), None);
    assert_eq!(completed(&row(&[(1, Full), (2, Full), (3, Leaving), (4, Stale)])), None);
    assert_eq!(completed(&row(&[(1, Full), (2, Full), (3, Full)])), None, "nobody leaves");
}

#[test]
fn the_last_full_member_goes_only_when_it_is_given_up() {
    let group = row(&[(1, Full), (2, Full), (3, Joining)]);
    assert_eq!(states(given_up(&group, 1, Some(4))), None, "another is full");
    let group = row(&[(1, Full), (2, Leaving), (3, Joining)]);
    assert_eq!(states(given_up(&group, 1, Some(4))), Some((8, vec![(2, Leaving), (3, Joining), (4, Joining)])));
    assert_eq!(states(given_up(&group, 1, Some(3))), Some((8, vec![(2, Leaving), (3, Joining)])), "it is one already");
    assert_eq!(states(given_up(&group, 9, Some(4))), None);
    // One that leaves, or was stale, counts again where nobody else does; not for what it was not told of.
    let group = row(&[(1, Full), (2, Stale), (3, Leaving)]);
    let next = given_up(&group, 1, None).expect("given up");
    assert_eq!(states(Some(next.clone())).expect("given up").1, [(2, Joining), (3, Joining)]);
    assert!(!ack_counts(&next, 2, 7) && ack_counts(&next, 2, 8) && !ack_counts(&next, 3, 7));
    assert_eq!(states(given_up(&row(&[(1, Full)]), 1, None)), None, "a group is never without a member");
    assert_eq!(states(given_up(&row(&[(1, Full)]), 1, Some(2))), Some((8, vec![(2, Joining)])));
}

#[test]
fn what_is_gone_for_good_goes_at_once() {
    let group = row(&[(1, Full), (2, Full), (3, Leaving)]);
    assert_eq!(states(replaced(&group, 1, 4)), Some((8, vec![(2, Full), (3, Leaving), (4, Joining)])));
    assert_eq!(states(replaced(&group, 3, 4)), Some((8, vec![(1, Full), (2, Full)])));
    assert_eq!(states(replaced(&group, 1, 2)), None);
    let last = row(&[(1, Full), (2, Joining)]);
    let next = replaced(&last, 1, 4).expect("replaced");
    assert_eq!(states(Some(next.clone())), Some((8, vec![(1, Leaving), (2, Joining), (4, Joining)])));
    assert_eq!(states(replaced(&next, 1, 4)), None, "nobody is full");
}

#[test]
fn the_last_full_member_never_turns_stale() {
    let group = row(&[(1, Full), (2, Full), (3, Joining)]);
    let next = staled(&group, 1).expect("stale");
    assert_eq!(state_of(&next, 1), Some(Stale));
    assert_eq!(staled(&next, 2), None);
    assert_eq!(state_of(&staled(&next, 3).expect("stale"), 3), Some(Stale));
    assert_eq!(staled(&next, 1), None, "it is");
    assert_eq!(state_of(&rejoined(&next, 1).expect("back"), 1), Some(Joining));
    assert_eq!(rejoined(&row(&[(1, Leaving)]), 1), None);
}

#[test]
fn only_a_stranger_to_a_complete_group_may_purge() {
    let whole = row(&[(1, Full), (2, Full), (3, Full)]);
    assert!(purgeable(&whole, 4) && !purgeable(&whole, 3));
    for odd in [Joining, Leaving, Stale] {
        assert!(!purgeable(&row(&[(1, Full), (2, Full), (3, odd)]), 4));
        assert!(!purgeable(&row(&[(1, Full), (2, Full), (3, Full), (5, odd)]), 4));
    }
    assert!(!purgeable(&row(&[(1, Full), (2, Full)]), 4));
}

proptest! {
    #[test]
    fn a_union_names_every_block_once(runs in prop::collection::vec((0u64..2, 0u64..2, 0u32..30, 1u32..8), 0..20)) {
        let debts: Vec<Debt> =
            runs.iter().map(|(inode, writer, seq, count)| Debt { inode: *inode, writer: *writer, seq: *seq, count: *count }).collect();
        let blocks = |debts: &[Debt]| -> Vec<(u64, u64, u32)> {
            debts.iter().flat_map(|debt| (0..debt.count).map(|at| (debt.inode, debt.writer, debt.seq + at))).collect()
        };
        let all = union(debts.clone());
        let (expected, named) = (blocks(&debts).into_iter().collect::<BTreeSet<_>>(), blocks(&all));
        prop_assert_eq!(named.len(), expected.len());
        prop_assert_eq!(named.into_iter().collect::<BTreeSet<_>>(), expected);
    }
}
