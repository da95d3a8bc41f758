//! Stores that will never be back, as an operator says.

use crate::moves::Fleet;
use crate::support::{BLOCK, code};
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, MemberState, TaskKind, TaskState};
use cairn_proto::status::Code;
use std::collections::BTreeMap;

fn give_up(fleet: &Fleet, index: u8, dry_run: bool) -> pb::StartTask {
    let node = fleet.nodes[&index].node_id;
    pb::StartTask { kind: TaskKind::GiveUp as i32, node, dry_run, ..Default::default() }
}

#[tokio::test]
async fn two_of_five_lost_at_once_are_replaced_when_they_are_given_up() {
    let fleet = Fleet::of(5).await;
    let live = [1, 2, 3];
    fleet.pass(700, &live).await;
    let held = fleet.states(4).await;
    assert!(held.contains_key(&MemberState::Full), "so many at once are not taken for lost: {held:?}");
    assert_eq!(code(fleet.start(give_up(&fleet, 1, false)).await), Code::Conflict, "one that answers");
    let plan = fleet.start(give_up(&fleet, 4, true)).await.expect("planned");
    assert!(plan.endangered.is_empty() && !plan.moves.is_empty(), "{plan:?}");
    assert_eq!(fleet.states(4).await, held, "nothing was done");
    fleet.start(give_up(&fleet, 4, false)).await.expect("begun");
    fleet.start(give_up(&fleet, 5, false)).await.expect("begun");
    fleet.finish(&live).await;
    assert!(fleet.states(4).await.is_empty() && fleet.states(5).await.is_empty());
    fleet.assert_whole(3).await;
    let tasks = fleet.tasks().await;
    assert!(tasks.iter().all(|task| task.state() == TaskState::Done), "{tasks:?}");
    assert!(tasks.iter().any(|task| task.kind() == TaskKind::GiveUp && task.moves_done > 0), "{tasks:?}");
    fleet.pass(2, &live).await;
    assert_eq!(fleet.world.status().await.alarms, Vec::<String>::new());
}

#[tokio::test]
async fn the_last_full_member_is_given_up_with_what_it_alone_had() {
    let fleet = Fleet::of(4).await;
    // Nodes 1 to 3 are lost in turn, so fast that what takes their place is complete nowhere.
    let members = fleet.world.members(1).await;
    let inode = fleet.world.create("/f").await.expect("made").inode;
    fleet.world.write(inode, 0, u64::from(BLOCK)).await.expect("written");
    let of = |store: &u32| *fleet.nodes.iter().find(|(_, node)| node.store_ids[0] == *store).expect("known").0;
    let lost: Vec<u8> = members.iter().map(of).collect();
    let left: Vec<u8> = (1..=4).filter(|index| !lost.contains(index)).collect();
    for index in &lost {
        fleet.pass(1, &left).await;
        fleet.pass(11, &left).await;
        let plan = fleet.start(give_up(&fleet, *index, true)).await.expect("planned");
        let last = index == lost.last().expect("three");
        assert_eq!(plan.endangered.iter().any(|group| group.pg == 1), last, "{plan:?}");
        if last {
            let group = plan.endangered.iter().find(|group| group.pg == 1).expect("endangered");
            assert_eq!(group.others, 1, "the one that began to join");
            let alarms = fleet.world.status().await.alarms.join(" ");
            assert!(alarms.contains("cairn admin give-up"), "{alarms}");
        }
        fleet.start(give_up(&fleet, *index, false)).await.expect("begun");
        fleet.settle().await;
    }
    fleet.finish(&left).await;
    let store = fleet.store(left[0]);
    let group = fleet.world.map().await.pgs.into_iter().find(|info| info.id == 1).expect("it is there");
    let states: BTreeMap<u32, MemberState> = group.members.iter().map(|m| (m.store, m.state())).collect();
    assert_eq!(states[&store], MemberState::Full, "what is left of the group is everything: {states:?}");
    assert!(!states.contains_key(&members[2]), "{states:?}");
}

#[tokio::test]
async fn one_that_answers_after_all_keeps_what_has_not_moved() {
    let fleet = Fleet::of(3).await;
    fleet.pass(11, &[1, 2]).await;
    fleet.start(give_up(&fleet, 3, false)).await.expect("begun");
    fleet.pass(1, &[1, 2]).await;
    // No other store can take its place.
    assert_eq!(fleet.tasks().await[0].state(), TaskState::Running);
    fleet.pass(2, &[1, 2, 3]).await;
    fleet.finish(&[1, 2, 3]).await;
    fleet.assert_whole(3).await;
    assert_eq!(fleet.tasks().await[0].state(), TaskState::Done);
}

#[tokio::test]
async fn a_late_word_of_what_a_store_was_given_before_it_began_anew_clears_nothing() {
    let fleet = Fleet::of(4).await;
    let members = fleet.world.members(1).await;
    let epoch = fleet.world.map().await.pgs.iter().find(|info| info.id == 1).expect("there").epoch;
    let inode = fleet.world.create("/f").await.expect("made").inode;
    let piece = fleet.world.piece(0, u64::from(BLOCK), &members[..2]);
    fleet.world.change(Kind::Commit(fleet.world.commit(inode, vec![piece]))).await.expect("written");
    let rows = fleet.world.degraded(members[2]).await;
    assert_eq!(rows.len(), 1);
    // Its store lost its past, and is back at the start of a new membership.
    let index = *fleet.nodes.iter().find(|(_, node)| node.store_ids[0] == members[2]).expect("known").0;
    fleet.world.register_anew(index).await;
    let late = |pg_epoch| {
        let rows = rows.iter().map(|row| pb::DegradedRow { pg_epoch, ..*row }).collect();
        Kind::ClearDegraded(pb::ClearDegraded { rows })
    };
    fleet.world.ask(late(epoch)).await.expect("ignored");
    assert_eq!(fleet.world.degraded(members[2]).await.len(), 1, "of the past");
    let now = fleet.world.map().await.pgs.iter().find(|info| info.id == 1).expect("there").epoch;
    assert!(now > epoch);
    fleet.world.ask(late(now)).await.expect("cleared");
    assert!(fleet.world.degraded(members[2]).await.is_empty());
}
