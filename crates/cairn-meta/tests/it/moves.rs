//! Memberships move: from stores that are lost, that an operator drains, or that hold more than their share.

use crate::support::{NEWEST, World, beat, code, options, registration};
use bytes::Bytes;
use cairn_meta::Meta;
use cairn_meta::kv::MapEngine;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::pb::{self, MemberState, NodeState, TaskKind, TaskState};
use cairn_proto::status::{Code, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Nodes `1..=n` with one store each, all of them known by number.
pub(crate) struct Fleet {
    pub(crate) world: World,
    engine: Arc<MapEngine>,
    pub(crate) nodes: BTreeMap<u8, pb::RegisterNodeReply>,
}

impl Fleet {
    pub(crate) async fn of(count: u8) -> Self {
        let engine = Arc::new(MapEngine::new());
        let mut fleet = Self { world: World::over(engine.clone()).await, engine, nodes: BTreeMap::new() };
        for index in 1..=count {
            fleet.add(index).await;
        }
        fleet.settle().await;
        fleet
    }

    pub(crate) async fn add(&mut self, index: u8) {
        let reply = self.world.register(index, index, true).await;
        self.nodes.insert(index, reply);
    }

    pub(crate) fn store(&self, index: u8) -> u32 {
        self.nodes[&index].store_ids[0]
    }

    pub(crate) async fn settle(&self) {
        for _ in 0..10_000 {
            if !self.world.meta.ensure_groups().await.expect("in order") {
                return;
            }
        }
        panic!("the duty never rests");
    }

    /// Seconds in which only `live` report, the duties running once a second.
    pub(crate) async fn pass(&self, seconds: u32, live: &[u8]) {
        for _ in 0..seconds {
            self.world.clock.advance(Duration::from_secs(1));
            for index in live {
                self.beat(*index, |_| {}).await;
            }
            self.world.meta.note_silence().await;
            self.settle().await;
        }
    }

    pub(crate) async fn beat(&self, index: u8, change: impl FnOnce(&mut pb::StoreBeat)) {
        let mut report = pb::StoreBeat { id: self.store(index), ..beat(index, false) };
        change(&mut report);
        let boot_id = Bytes::from(vec![index; 16]);
        let ask = pb::Heartbeat {
            node_id: self.nodes[&index].node_id,
            boot_id,
            stores: vec![report],
            newest_version: NEWEST,
            ..Default::default()
        };
        match self.world.ask(Kind::Heartbeat(ask)).await {
            Ok(Reply::Heartbeat(reply)) => assert!(!reply.register_again),
            other => panic!("{other:?}"),
        }
    }

    /// Every live joining member reports that it is complete; true when there was one.
    pub(crate) async fn join_all(&self, live: &[u8]) -> bool {
        let stores: BTreeSet<u32> = live.iter().map(|index| self.store(*index)).collect();
        let mut any = false;
        for info in self.world.map().await.pgs {
            for member in info.members.iter().filter(|member| member.state() == MemberState::Joining) {
                if stores.contains(&member.store) {
                    let done = pb::JoinDone { pg: info.id, epoch: info.epoch, store: member.store };
                    any |= self.world.ask(Kind::JoinDone(done)).await.is_ok();
                }
            }
        }
        self.settle().await;
        any
    }

    pub(crate) async fn finish(&self, live: &[u8]) {
        self.settle().await;
        while self.join_all(live).await {
            self.pass(1, live).await;
        }
    }

    pub(crate) async fn states(&self, index: u8) -> BTreeMap<MemberState, usize> {
        let store = self.store(index);
        let mut states = BTreeMap::new();
        for info in self.world.map().await.pgs {
            for member in info.members.iter().filter(|member| member.store == store) {
                *states.entry(member.state()).or_default() += 1;
            }
        }
        states
    }

    /// Every group has exactly `replicas` full members, on distinct nodes.
    pub(crate) async fn assert_whole(&self, replicas: usize) {
        for info in self.world.map().await.pgs {
            let full = info.members.iter().filter(|member| member.state() == MemberState::Full).count();
            assert_eq!((full, info.members.len()), (replicas, replicas), "{info:?}");
        }
    }

    pub(crate) async fn tasks(&self) -> Vec<pb::Task> {
        match self.world.ask(Kind::ListTasks(pb::ListTasks {})).await {
            Ok(Reply::ListTasks(reply)) => reply.tasks,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn start(&self, ask: pb::StartTask) -> Result<pb::StartTaskReply, Status> {
        match self.world.ask(Kind::StartTask(ask)).await? {
            Reply::StartTask(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn drain(&self, index: u8, dry_run: bool) -> pb::StartTask {
        let node = self.nodes[&index].node_id;
        pb::StartTask { kind: TaskKind::Drain as i32, node, dry_run, ..Default::default() }
    }

    pub(crate) async fn verdicts(&self, index: u8) -> Vec<pb::GroupVerdict> {
        let pgs = self.world.map().await.pgs.iter().map(|info| info.id).collect();
        match self.world.ask(Kind::JudgeGroups(pb::JudgeGroups { store: self.store(index), pgs })).await {
            Ok(Reply::JudgeGroups(reply)) => {
                assert_eq!(Some(reply.duty_epoch), self.world.meta.duty_epoch());
                reply.verdicts
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_node_that_is_out_is_replaced_by_all_the_others() {
    let fleet = Fleet::of(5).await;
    let live = [1, 2, 3, 4];
    let held = fleet.states(5).await[&MemberState::Full];
    fleet.pass(599, &live).await;
    assert_eq!(fleet.states(5).await, BTreeMap::from([(MemberState::Full, held)]), "not before its time");
    fleet.pass(2, &live).await;
    assert!(fleet.states(5).await.contains_key(&MemberState::Leaving));
    let repair = fleet.tasks().await;
    assert_eq!((repair.len(), repair[0].kind(), repair[0].state()), (1, TaskKind::Repair, TaskState::Running));
    // What is under way at once is bounded for each store.
    for index in live {
        assert!(fleet.states(index).await.get(&MemberState::Joining).copied().unwrap_or(0) <= 2);
    }
    fleet.finish(&live).await;
    assert!(fleet.states(5).await.is_empty());
    fleet.assert_whole(3).await;
    let done = &fleet.tasks().await[0];
    assert_eq!((done.state(), done.moves_done, done.moves_total), (TaskState::Done, held as u64, held as u64));
    // It is back, and may forget what it has; those who are members may not.
    fleet.beat(5, |_| {}).await;
    assert!(fleet.verdicts(5).await.iter().any(|verdict| verdict.purge));
    for verdict in fleet.verdicts(1).await {
        assert_eq!(verdict.purge, !fleet.world.members(verdict.pg).await.contains(&fleet.store(1)));
    }
}

#[tokio::test]
async fn one_that_returns_while_it_leaves_goes_on_leaving() {
    let fleet = Fleet::of(4).await;
    let live = [1, 2, 3];
    fleet.pass(601, &live).await;
    let leaving = fleet.states(4).await[&MemberState::Leaving];
    let all = [1, 2, 3, 4];
    fleet.pass(3, &all).await;
    // What had not begun to move stays, what had goes on; its copies serve reads until the others are full.
    assert_eq!(fleet.states(4).await[&MemberState::Leaving], leaving);
    for verdict in fleet.verdicts(4).await.iter().filter(|verdict| verdict.purge) {
        assert!(!fleet.world.members(verdict.pg).await.contains(&fleet.store(4)));
    }
    fleet.finish(&all).await;
    assert!(!fleet.states(4).await.contains_key(&MemberState::Leaving));
    fleet.assert_whole(3).await;
    assert_eq!(fleet.tasks().await[0].state(), TaskState::Done);
}

#[tokio::test]
async fn two_of_five_lost_one_after_another_are_both_replaced() {
    let fleet = Fleet::of(5).await;
    fleet.pass(601, &[1, 2, 3, 4]).await;
    fleet.finish(&[1, 2, 3, 4]).await;
    assert!(fleet.states(5).await.is_empty());
    fleet.pass(601, &[1, 2, 3]).await;
    assert!(fleet.world.status().await.alarms.is_empty(), "{:?}", fleet.world.status().await.alarms);
    fleet.finish(&[1, 2, 3]).await;
    assert!(fleet.states(4).await.is_empty());
    fleet.assert_whole(3).await;
}

#[tokio::test]
async fn a_second_one_lost_before_the_first_is_replaced_does_not_block_it() {
    let fleet = Fleet::of(5).await;
    fleet.pass(601, &[1, 2, 3, 4]).await;
    // Joins of groups in which node 4 is needed wait for it now, and take nobody's place.
    fleet.pass(30, &[1, 2, 3]).await;
    assert!(!fleet.states(5).await.contains_key(&MemberState::Full));
    fleet.pass(601, &[1, 2, 3]).await;
    fleet.finish(&[1, 2, 3]).await;
    assert!(fleet.states(4).await.is_empty() && fleet.states(5).await.is_empty());
    fleet.assert_whole(3).await;
}

#[tokio::test]
async fn two_of_five_silent_at_once_are_held_back() {
    let fleet = Fleet::of(5).await;
    let before = fleet.world.map().await.pgs;
    fleet.pass(1200, &[1, 2, 3]).await;
    assert_eq!(fleet.world.map().await.pgs, before);
    let status = fleet.world.status().await;
    assert!(status.alarms[0].contains("silent at once"), "{:?}", status.alarms);
    assert!(fleet.world.meta.gauges().silence_alarm && fleet.world.meta.gauges().alarms > 0);
    fleet.pass(1, &[1, 2, 3, 4, 5]).await;
    assert!(fleet.world.status().await.alarms.is_empty());
}

#[tokio::test]
async fn without_another_node_a_lost_member_turns_stale_and_rejoins() {
    let fleet = Fleet::of(3).await;
    let inode = fleet.world.create("f").await.expect("made").inode;
    let two = [fleet.store(1), fleet.store(2)];
    let piece = fleet.world.piece(0, 100, &two);
    fleet.world.change(Kind::Commit(fleet.world.commit(inode, vec![piece]))).await.expect("committed");
    assert_eq!(fleet.world.degraded(fleet.store(3)).await.len(), 1);
    fleet.pass(602, &[1, 2]).await;
    let states = fleet.states(3).await;
    assert_eq!(states.keys().collect::<Vec<_>>(), [&MemberState::Stale]);
    assert!(fleet.world.degraded(0).await.is_empty(), "nobody counts what it misses");
    assert!(fleet.world.status().await.alarms[0].contains("bring it back"));
    // A commit writes no row for it, and garbage does not wait for it.
    let piece = fleet.world.piece(0, 100, &two);
    fleet.world.change(Kind::Commit(fleet.world.commit(inode, vec![piece]))).await.expect("committed");
    assert!(fleet.world.degraded(0).await.is_empty());
    let waited = fleet.world.meta.group_members(cairn_proto::PgId(1)).await.expect("read").expect("there");
    assert_eq!(waited.stores.len(), 2);
    // What another member lacks meanwhile is told to it when it is back.
    let piece = fleet.world.piece(0, 100, &[fleet.store(1)]);
    assert_eq!(code(fleet.world.change(Kind::Commit(fleet.world.commit(inode, vec![piece]))).await), Code::NoQuorum);
    fleet.pass(2, &[1, 2, 3]).await;
    assert_eq!(fleet.states(3).await.keys().collect::<Vec<_>>(), [&MemberState::Joining]);
    fleet.finish(&[1, 2, 3]).await;
    fleet.assert_whole(3).await;
    assert!(fleet.world.status().await.alarms.is_empty());
}

#[tokio::test]
async fn a_newcomer_is_told_what_the_others_lack() {
    let mut fleet = Fleet::of(3).await;
    let inode = fleet.world.create("f").await.expect("made").inode;
    let members = fleet.world.members(1).await;
    // Member 0 and the one that will be lost have it, member 1 has not: its inventory does not name it.
    let piece = fleet.world.piece(0, 100, &[members[0], members[2]]);
    fleet.world.change(Kind::Commit(fleet.world.commit(inode, vec![piece]))).await.expect("committed");
    fleet.add(4).await;
    fleet.settle().await;
    let lost = fleet.nodes.iter().find(|(_, reply)| reply.store_ids[0] == members[2]).expect("a node").0;
    let live: Vec<u8> = (1..=4).filter(|index| index != lost).collect();
    fleet.pass(602, &live).await;
    let new = fleet.store(4);
    let info = fleet.world.map().await.pgs[0].clone();
    assert!(info.members.iter().any(|member| member.store == new && member.state() == MemberState::Joining));
    assert_eq!(fleet.world.degraded(new).await.len(), 1);
    let done = Kind::JoinDone(pb::JoinDone { pg: 1, epoch: info.epoch, store: new });
    assert_eq!(code(fleet.world.ask(done.clone()).await), Code::Conflict);
    let rows = fleet.world.degraded(new).await;
    fleet.world.ask(Kind::ClearDegraded(pb::ClearDegraded { rows })).await.expect("cleared");
    fleet.world.ask(done).await.expect("full");
    // Member 1 lacks it still, so the former member is not let go although all are full.
    fleet.pass(3, &live).await;
    assert!(fleet.world.members(1).await.contains(&members[2]));
    let rows = fleet.world.degraded(members[1]).await;
    fleet.world.ask(Kind::ClearDegraded(pb::ClearDegraded { rows })).await.expect("cleared");
    fleet.pass(1, &live).await;
    assert!(!fleet.world.members(1).await.contains(&members[2]));
}

#[tokio::test]
async fn a_store_that_failed_is_replaced_although_its_node_reports() {
    let fleet = Fleet::of(4).await;
    for _ in 0..601 {
        fleet.world.clock.advance(Duration::from_secs(1));
        for index in 1..=3 {
            fleet.beat(index, |_| {}).await;
        }
        fleet
            .beat(4, |beat| (beat.incarnation, beat.capacity_bytes, beat.trouble) = (0, 0, "not mounted".into()))
            .await;
        fleet.world.meta.note_silence().await;
    }
    let map = fleet.world.map().await;
    let node = map.nodes.iter().find(|node| node.id == fleet.nodes[&4].node_id).expect("a node");
    assert_eq!((node.state(), node.stores[0].trouble.as_str()), (NodeState::Up, "not mounted"));
    assert_eq!(node.stores[0].capacity_bytes, 1 << 40, "what was known is kept");
    fleet.settle().await;
    assert!(fleet.states(4).await.contains_key(&MemberState::Leaving));
}

#[tokio::test]
async fn a_store_missing_at_registration_is_troubled_at_once() {
    let fleet = Fleet::of(4).await;
    let Kind::RegisterNode(mut ask) = registration(4, 4, false) else { panic!("a registration") };
    ask.stores.clear();
    fleet.world.ask(Kind::RegisterNode(ask)).await.expect("registered");
    let map = fleet.world.map().await;
    let node = map.nodes.iter().find(|node| node.id == fleet.nodes[&4].node_id).expect("a node");
    assert!(node.stores[0].trouble.contains("without it"));
}

#[tokio::test]
async fn a_store_that_lost_its_past_completes_its_groups_anew() {
    let fleet = Fleet::of(3).await;
    fleet.beat(3, |beat| beat.durable_records = 500).await;
    assert_eq!(fleet.world.meta.persist_beats().await, Ok(true));
    let again = |records| {
        let Kind::RegisterNode(mut ask) = registration(3, 3, false) else { panic!("a registration") };
        ask.stores[0].durable_records = records;
        Kind::RegisterNode(ask)
    };
    fleet.world.ask(again(500)).await.expect("registered");
    assert_eq!(fleet.states(3).await.keys().collect::<Vec<_>>(), [&MemberState::Full]);
    // Metadata was started again meanwhile, and remembers all the same.
    let meta = Meta::open(fleet.engine.clone(), options(fleet.world.clock.clone())).await.expect("opens");
    let request = pb::Request { kind: Some(again(499)), ..Default::default() };
    meta.execute(&request).await.expect("registered");
    let ask = pb::Request { kind: Some(Kind::ClusterMap(pb::ClusterMap::default())), ..Default::default() };
    let Ok(Reply::ClusterMap(map)) = meta.execute(&ask).await else { panic!("no map") };
    for info in &map.pgs {
        let member = info.members.iter().find(|member| member.store == fleet.store(3)).expect("a member");
        assert_eq!((member.state(), info.epoch), (MemberState::Joining, 2));
    }
    let ask = pb::Request { kind: Some(Kind::ClusterStatus(pb::ClusterStatus {})), ..Default::default() };
    let Ok(Reply::ClusterStatus(status)) = meta.execute(&ask).await else { panic!("no status") };
    assert!(status.alarms.iter().any(|alarm| alarm.contains("lost blocks")), "{:?}", status.alarms);
    // It says the same number from now on: that is no second loss.
    let request = pb::Request { kind: Some(again(499)), ..Default::default() };
    meta.execute(&request).await.expect("registered");
    let ask = pb::Request { kind: Some(Kind::ClusterMap(pb::ClusterMap::default())), ..Default::default() };
    let Ok(Reply::ClusterMap(map)) = meta.execute(&ask).await else { panic!("no map") };
    assert!(map.pgs.iter().all(|info| info.epoch == 2));
}

#[tokio::test]
async fn a_store_that_says_less_than_before_has_to_register() {
    let fleet = Fleet::of(3).await;
    fleet.beat(3, |beat| beat.durable_records = 500).await;
    let report = pb::StoreBeat { id: fleet.store(3), durable_records: 499, ..beat(3, false) };
    let boot_id = Bytes::from(vec![3; 16]);
    let ask = pb::Heartbeat {
        node_id: fleet.nodes[&3].node_id,
        boot_id,
        stores: vec![report.clone()],
        newest_version: NEWEST,
        ..Default::default()
    };
    let Ok(Reply::Heartbeat(reply)) = fleet.world.ask(Kind::Heartbeat(ask)).await else { panic!("no answer") };
    assert!(reply.register_again);
    // Of a store that is not open the number means nothing.
    fleet.beat(3, |beat| (beat.incarnation, beat.trouble) = (0, "not mounted".into())).await;
    let Kind::RegisterNode(mut again) = registration(3, 3, false) else { panic!("a registration") };
    again.stores = vec![report];
    fleet.world.ask(Kind::RegisterNode(again)).await.expect("registered");
    assert_eq!(fleet.states(3).await.keys().collect::<Vec<_>>(), [&MemberState::Joining]);
}

#[tokio::test]
async fn a_drained_node_is_left_by_all_and_takes_nothing_new() {
    let fleet = Fleet::of(4).await;
    let all = [1, 2, 3, 4];
    let held = fleet.states(4).await[&MemberState::Full] as u64;
    let plan = fleet.start(fleet.drain(4, true)).await.expect("planned");
    assert_eq!((plan.moves.len() as u64, plan.task.expect("a task").id), (held, 0));
    assert!(plan.moves.iter().all(|planned| planned.from == fleet.store(4) && planned.to != planned.from));
    assert!(fleet.tasks().await.is_empty(), "only asked");
    let task = fleet.start(fleet.drain(4, false)).await.expect("begun").task.expect("a task");
    assert_eq!((task.kind(), task.moves_total), (TaskKind::Drain, held));
    assert_eq!(code(fleet.start(fleet.drain(4, false)).await), Code::Conflict, "one at a time");
    fleet.settle().await;
    let map = fleet.world.map().await;
    let store = map.nodes.iter().flat_map(|node| &node.stores).find(|store| store.id == fleet.store(4)).expect("known");
    assert!(store.draining);
    fleet.finish(&all).await;
    assert!(fleet.states(4).await.is_empty());
    fleet.assert_whole(3).await;
    let done = &fleet.tasks().await[0];
    assert_eq!((done.state(), done.moves_done), (TaskState::Done, held));
    assert!(done.ended_ns > done.started_ns);
    // A fifth node comes; the drained one still takes nothing.
    fleet.pass(5, &all).await;
    assert!(fleet.states(4).await.is_empty());
    // Registered again, it stays drained.
    fleet.world.register(4, 4, false).await;
    let map = fleet.world.map().await;
    assert!(map.nodes.iter().flat_map(|node| &node.stores).any(|store| store.draining));
}

#[tokio::test]
async fn a_drain_goes_on_after_metadata_was_started_again() {
    let mut fleet = Fleet::of(4).await;
    let all = [1, 2, 3, 4];
    let held = fleet.states(4).await[&MemberState::Full] as u64;
    fleet.start(fleet.drain(4, false)).await.expect("begun");
    fleet.settle().await;
    assert!(fleet.states(4).await.contains_key(&MemberState::Leaving));
    for _ in 0..20 {
        // Each time everything in memory is lost, at a point between two steps.
        fleet.world.meta = Meta::open(fleet.engine.clone(), options(fleet.world.clock.clone())).await.expect("opens");
        fleet.world.meta.ensure_groups().await.expect("a step");
        for index in all {
            fleet.world.register(index, index, false).await;
        }
        fleet.world.meta.ensure_groups().await.expect("a step");
        fleet.join_all(&all).await;
    }
    fleet.finish(&all).await;
    assert!(fleet.states(4).await.is_empty());
    fleet.assert_whole(3).await;
    let done = &fleet.tasks().await[0];
    assert_eq!((done.state(), done.moves_done), (TaskState::Done, held));
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_the_reason() {
    let fleet = Fleet::of(3).await;
    let refused = fleet.start(fleet.drain(3, true)).await.expect_err("too few");
    assert_eq!(refused.code, Code::Conflict);
    assert!(refused.message.contains("3 replicas need 3 nodes"), "{}", refused.message);
    let ask = |kind: TaskKind| pb::StartTask { kind: kind as i32, ..Default::default() };
    assert_eq!(code(fleet.start(ask(TaskKind::Drain)).await), Code::Invalid);
    assert_eq!(code(fleet.start(ask(TaskKind::Repair)).await), Code::Invalid);
    assert_eq!(code(fleet.start(pb::StartTask { node: 99, ..ask(TaskKind::Drain) }).await), Code::NotFound);
    assert_eq!(code(fleet.start(pb::StartTask { store: 99, ..ask(TaskKind::Add) }).await), Code::NotFound);
    let twice = pb::StartTask { node: 1, store: 1, ..ask(TaskKind::Drain) };
    assert_eq!(code(fleet.start(twice).await), Code::Invalid);
    assert_eq!(code(fleet.start(pb::StartTask { node: 1, ..ask(TaskKind::Balance) }).await), Code::Invalid);
    let itself = pb::StartTask { node: 1, to_node: 1, ..ask(TaskKind::Replace) };
    assert_eq!(code(fleet.start(itself).await), Code::Invalid);
    let missing = fleet.world.ask(Kind::CancelTask(pb::CancelTask { id: 77 })).await;
    assert_eq!(code(missing), Code::NotFound);
}

#[tokio::test]
async fn no_room_is_a_reason_too() {
    let fleet = Fleet::of(4).await;
    let inode = fleet.world.create("f").await.expect("made").inode;
    fleet.world.write(inode, 0, 100 << 30).await.expect("written");
    for index in 1..=4 {
        fleet.beat(index, |beat| (beat.used_bytes, beat.capacity_bytes) = (100 << 30, 110 << 30)).await;
    }
    let members = fleet.world.members(1).await;
    let index = *fleet.nodes.iter().find(|(_, reply)| reply.store_ids[0] == members[0]).expect("a node").0;
    let refused = fleet.start(fleet.drain(index, false)).await.expect_err("no room");
    assert_eq!(refused.code, Code::Conflict);
    assert!(refused.message.contains("room"), "{}", refused.message);
    assert!(fleet.tasks().await.is_empty());
}

#[tokio::test]
async fn a_cancelled_drain_finishes_what_began_and_frees_the_node() {
    let fleet = Fleet::of(4).await;
    let all = [1, 2, 3, 4];
    let task = fleet.start(fleet.drain(4, false)).await.expect("begun").task.expect("a task");
    fleet.settle().await;
    let leaving = fleet.states(4).await[&MemberState::Leaving];
    let full = fleet.states(4).await.get(&MemberState::Full).copied().unwrap_or(0);
    assert!(full > 0, "a bounded number at a time");
    fleet.world.ask(Kind::CancelTask(pb::CancelTask { id: task.id })).await.expect("cancelled");
    fleet.world.ask(Kind::CancelTask(pb::CancelTask { id: task.id })).await.expect("cancelled before");
    fleet.finish(&all).await;
    assert_eq!(fleet.states(4).await, BTreeMap::from([(MemberState::Full, full)]));
    let ended = &fleet.tasks().await[0];
    assert_eq!((ended.state(), ended.moves_done), (TaskState::Cancelled, leaving as u64));
    let map = fleet.world.map().await;
    assert!(map.nodes.iter().flat_map(|node| &node.stores).all(|store| !store.draining));
}

#[tokio::test]
async fn a_replacement_takes_every_membership() {
    let mut fleet = Fleet::of(3).await;
    fleet.add(4).await;
    let all = [1, 2, 3, 4];
    let held = fleet.states(1).await[&MemberState::Full];
    let (node, to_node) = (fleet.nodes[&1].node_id, fleet.nodes[&4].node_id);
    let ask = pb::StartTask { kind: TaskKind::Replace as i32, node, to_node, ..Default::default() };
    let plan = fleet.start(ask).await.expect("begun");
    assert!(plan.moves.iter().all(|planned| planned.to == fleet.store(4)));
    fleet.finish(&all).await;
    assert!(fleet.states(1).await.is_empty());
    assert!(fleet.states(4).await[&MemberState::Full] >= held);
    assert_eq!(fleet.tasks().await[0].state(), TaskState::Done);
    fleet.assert_whole(3).await;
}

#[tokio::test]
async fn a_balance_gives_a_new_node_its_share() {
    let mut fleet = Fleet::of(3).await;
    let inode = fleet.world.create("f").await.expect("made").inode;
    for pg in 1..=6u32 {
        let members = fleet.world.members(pg).await;
        let piece = pb::Piece { pg, ..fleet.world.piece(u64::from(pg) << 32, 10 << 30, &members) };
        fleet.world.change(Kind::Commit(fleet.world.commit(inode, vec![piece]))).await.expect("committed");
    }
    fleet.add(4).await;
    fleet.settle().await;
    let all = [1, 2, 3, 4];
    // As nodes would report it: what the groups hold that they are full in.
    let report = async |fleet: &Fleet| {
        for index in all {
            let held = fleet
                .world
                .map()
                .await
                .pgs
                .iter()
                .filter(|info| info.id <= 6 && info.members.iter().any(|m| m.store == fleet.store(index)))
                .count() as u64;
            fleet.beat(index, |beat| (beat.used_bytes, beat.capacity_bytes) = (held * (10 << 30), 100 << 30)).await;
        }
    };
    report(&fleet).await;
    let node = fleet.nodes[&4].node_id;
    let ask = pb::StartTask { kind: TaskKind::Add as i32, node, dry_run: true, ..Default::default() };
    let plan = fleet.start(ask).await.expect("planned");
    assert!((4..=5).contains(&plan.moves.len()), "{:?}", plan.moves);
    assert_eq!(plan.task.expect("a task").eta_s, 0, "nobody copied yet: the speed is not known");
    let task = fleet.start(pb::StartTask { dry_run: false, ..ask }).await.expect("begun").task.expect("a task");
    assert_eq!(task.bytes_total, (10 * task.moves_total) << 30);
    for _ in 0..20 {
        fleet.settle().await;
        fleet.join_all(&all).await;
        report(&fleet).await;
    }
    let done = &fleet.tasks().await[0];
    assert_eq!((done.state(), done.moves_done, done.bytes_done), (TaskState::Done, task.moves_total, task.bytes_total));
    fleet.assert_whole(3).await;
    let ask = pb::StartTask { kind: TaskKind::Balance as i32, dry_run: true, ..Default::default() };
    assert!(fleet.start(ask).await.expect("planned").moves.is_empty(), "it is in balance");
}

#[tokio::test]
async fn progress_is_what_stores_say() {
    let fleet = Fleet::of(4).await;
    let inode = fleet.world.create("f").await.expect("made").inode;
    fleet.world.write(inode, 0, 100 << 30).await.expect("written");
    let members = fleet.world.members(1).await;
    for index in 1..=4 {
        let used = if members.contains(&fleet.store(index)) { 100 << 30 } else { 0 };
        fleet.beat(index, |beat| beat.used_bytes = used).await;
    }
    let index = *fleet.nodes.iter().find(|(_, reply)| reply.store_ids[0] == members[0]).expect("a node").0;
    fleet.start(fleet.drain(index, false)).await.expect("begun");
    fleet.settle().await;
    let info = fleet.world.map().await.pgs[0].clone();
    let to = info.members.iter().find(|member| member.state() == MemberState::Joining).expect("it moves").store;
    let to = *fleet.nodes.iter().find(|(_, reply)| reply.store_ids[0] == to).expect("a node").0;
    for second in 0..4u64 {
        fleet.world.clock.advance(Duration::from_secs(1));
        let join = pb::JoinProgress { pg: 1, bytes_done: second << 30, bytes_total: 100 << 30 };
        fleet.beat(to, |beat| (beat.joins, beat.copied_bytes) = (vec![join], second << 30)).await;
    }
    let task = &fleet.tasks().await[0];
    assert_eq!((task.bytes_done, task.bytes_total, task.eta_s), (3 << 30, 100 << 30, 97));
    assert_eq!(fleet.world.status().await.tasks, fleet.tasks().await);
}

/// A commit of one block that was sent by the group's row of `pg_epoch`.
async fn commit(fleet: &Fleet, pg_epoch: u64, acked: &[u32]) -> Result<pb::Piece, Status> {
    let inode = fleet.world.create("f").await.expect("made").inode;
    let piece = pb::Piece { pg_epoch, ..fleet.world.piece(0, 100, acked) };
    fleet.world.change(Kind::Commit(fleet.world.commit(inode, vec![piece.clone()]))).await.map(|_| piece)
}

#[tokio::test]
async fn a_commit_behind_a_move_counts_by_the_new_row() {
    let mut fleet = Fleet::of(3).await;
    fleet.add(4).await;
    fleet.settle().await;
    let [a, b, c] = fleet.world.members(1).await[..] else { panic!("three members") };
    let index = *fleet.nodes.iter().find(|(_, reply)| reply.store_ids[0] == a).expect("a node").0;
    // Before the move: the newcomer is told what a staying member lacks.
    commit(&fleet, 1, &[a, b]).await.expect("committed");
    fleet.start(fleet.drain(index, false)).await.expect("begun");
    fleet.settle().await;
    let new = fleet.store(4);
    assert_eq!((fleet.world.degraded(c).await.len(), fleet.world.degraded(new).await.len()), (1, 1));
    // After it: who leaves does not count any more, and the newcomer is held to what it was not sent.
    assert_eq!(code(commit(&fleet, 1, &[a, b]).await), Code::NoQuorum);
    commit(&fleet, 1, &[b, c]).await.expect("committed");
    assert_eq!(fleet.world.degraded(new).await.len(), 2);
    assert!(fleet.world.degraded(a).await.is_empty());
}

#[tokio::test]
async fn an_ack_from_before_a_store_left_and_came_back_does_not_count() {
    let fleet = Fleet::of(4).await;
    let all = [1, 2, 3, 4];
    let before = fleet.world.map().await.pgs[0].clone();
    let [a, b, c] = fleet.world.members(1).await[..] else { panic!("three members") };
    let other = *all.iter().find(|index| ![a, b, c].contains(&fleet.store(**index))).expect("a fourth");
    let index_of = |store: u32| *fleet.nodes.iter().find(|(_, reply)| reply.store_ids[0] == store).expect("a node").0;
    let away = async |index: u8| {
        fleet.start(fleet.drain(index, false)).await.expect("begun");
        fleet.finish(&all).await;
        assert!(fleet.states(index).await.is_empty());
    };
    away(index_of(a)).await;
    assert!(fleet.verdicts(index_of(a)).await[0].purge, "what it had may be gone now");
    // It takes memberships again, and gets this one back.
    let node = fleet.nodes[&index_of(a)].node_id;
    let ask = pb::StartTask { kind: TaskKind::Add as i32, node, ..Default::default() };
    fleet.start(ask).await.expect("begun");
    fleet.finish(&all).await;
    away(other).await;
    assert!(fleet.world.members(1).await.contains(&a));
    assert_eq!(code(commit(&fleet, before.epoch, &[a, b]).await), Code::NoQuorum);
    commit(&fleet, before.epoch, &[a, b, c]).await.expect("committed");
    assert_eq!(fleet.world.degraded(a).await.len(), 1);
    let now = fleet.world.map().await.pgs[0].epoch;
    commit(&fleet, now, &[a, b, c]).await.expect("committed");
    assert_eq!(fleet.world.degraded(a).await.len(), 1);
}

#[tokio::test]
async fn a_join_done_of_an_earlier_epoch_is_refused() {
    let mut fleet = Fleet::of(3).await;
    fleet.add(4).await;
    fleet.add(5).await;
    fleet.settle().await;
    let [a, b, _] = fleet.world.members(1).await[..] else { panic!("three members") };
    let index_of = |store: u32| *fleet.nodes.iter().find(|(_, reply)| reply.store_ids[0] == store).expect("a node").0;
    fleet.start(fleet.drain(index_of(a), false)).await.expect("begun");
    fleet.settle().await;
    let first = fleet.world.map().await.pgs[0].clone();
    let joins = first.members.iter().find(|member| member.state() == MemberState::Joining).expect("it moves").store;
    // While it copies, another member is lost and replaced: what it has copied may not be enough any more.
    let lost = index_of(b);
    let live: Vec<u8> = (1..=5).filter(|index| *index != lost).collect();
    fleet.pass(601, &live).await;
    let next = fleet.world.map().await.pgs[0].clone();
    assert_eq!((next.epoch, next.members.len()), (first.epoch + 1, 5), "{next:?}");
    let done = |epoch| Kind::JoinDone(pb::JoinDone { pg: 1, epoch, store: joins });
    assert_eq!(code(fleet.world.ask(done(first.epoch)).await), Code::StaleEpoch);
    fleet.world.ask(done(next.epoch)).await.expect("full");
    fleet.finish(&live).await;
    fleet.assert_whole(3).await;
}

#[tokio::test]
async fn there_are_groups_for_every_replica_count_in_use() {
    let fleet = Fleet::of(4).await;
    let at = Some(pb::At { dir: 1, path: Bytes::new() });
    let ask = pb::SetPolicy { at, replicas: Some(2), ..Default::default() };
    fleet.world.change(Kind::SetPolicy(ask)).await.expect("set");
    fleet.settle().await;
    let map = fleet.world.map().await;
    let of = |replicas: u32| map.pgs.iter().filter(|info| info.replicas == replicas).collect::<Vec<_>>();
    assert_eq!((of(2).len(), of(3).len()), (8, 8), "two open ones for each store");
    assert!(of(2).iter().all(|info| info.members.len() == 2));
    // A lost member of either is replaced.
    fleet.pass(601, &[1, 2, 3]).await;
    fleet.finish(&[1, 2, 3]).await;
    for info in fleet.world.map().await.pgs {
        assert_eq!(info.members.len(), info.replicas as usize, "{info:?}");
    }
}

#[tokio::test]
async fn a_dead_node_that_holds_nothing_is_no_reason_for_an_alarm_after_a_restart() {
    let mut fleet = Fleet::of(5).await;
    fleet.pass(601, &[1, 2, 3, 4]).await;
    fleet.finish(&[1, 2, 3, 4]).await;
    fleet.world.meta = Meta::open(fleet.engine.clone(), options(fleet.world.clock.clone())).await.expect("opens");
    for index in 1..=4 {
        fleet.world.register(index, index, false).await;
    }
    // Another one is lost before the time of the first is over again.
    fleet.pass(601, &[1, 2, 3]).await;
    assert!(fleet.world.status().await.alarms.is_empty(), "{:?}", fleet.world.status().await.alarms);
    fleet.finish(&[1, 2, 3]).await;
    fleet.assert_whole(3).await;
    assert!(fleet.states(4).await.is_empty());
}

#[tokio::test]
async fn a_join_that_stands_still_does_not_stop_the_others() {
    let mut fleet = Fleet::of(4).await;
    fleet.pass(601, &[1, 2, 3]).await;
    fleet.add(5).await;
    // Nobody completes anything: a block is lost, say. The other groups are given new members all the same.
    fleet.pass(2000, &[1, 2, 3, 5]).await;
    let states = fleet.states(4).await;
    assert_eq!(states.keys().collect::<Vec<_>>(), [&MemberState::Leaving], "{states:?}");
}

#[tokio::test]
async fn a_joining_membership_can_be_drained() {
    let mut fleet = Fleet::of(3).await;
    fleet.add(4).await;
    fleet.add(5).await;
    fleet.settle().await;
    fleet.start(fleet.drain(1, false)).await.expect("begun");
    fleet.settle().await;
    let joining = [4u8, 5];
    let store = joining.map(|index| fleet.store(index));
    let map = fleet.world.map().await;
    let joins =
        |info: &&pb::PgInfo| info.members.iter().any(|m| m.state() == MemberState::Joining && store.contains(&m.store));
    let group = map.pgs.iter().find(joins).expect("a move").clone();
    let newcomer = group.members.iter().find(|m| m.state() == MemberState::Joining).expect("a newcomer").store;
    let index = joining[usize::from(newcomer == store[1])];
    fleet.add(6).await;
    fleet.start(fleet.drain(index, false)).await.expect("begun");
    // Although it has not become full, and does not.
    fleet.pass(600, &[1, 2, 3, 4, 5, 6]).await;
    let map = fleet.world.map().await;
    let now = map.pgs.iter().find(|info| info.id == group.id).expect("there");
    let member = now.members.iter().find(|member| member.store == newcomer).expect("a member");
    assert_eq!(member.state(), MemberState::Leaving, "{now:?}");
}
