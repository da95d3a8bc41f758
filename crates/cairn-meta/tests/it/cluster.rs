//! Nodes, stores and placement groups.

use crate::support::{BLOCK, NEWEST, World, beat, bytes, code, registration};
use bytes::Bytes;
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::pb::{MemberState, NodeState};
use cairn_proto::status::Code;
use std::collections::BTreeSet;
use std::time::Duration;

fn heartbeat(node: u32, index: u8, stores: Vec<pb::StoreBeat>) -> Kind {
    Kind::Heartbeat(pb::Heartbeat {
        node_id: node,
        boot_id: Bytes::from(vec![index; 16]),
        stores,
        newest_version: NEWEST,
        ..Default::default()
    })
}

async fn beat_of(world: &World, node: u32, index: u8, stores: Vec<pb::StoreBeat>) -> pb::HeartbeatReply {
    match world.ask(heartbeat(node, index, stores)).await {
        Ok(Reply::Heartbeat(reply)) => reply,
        other => panic!("{other:?}"),
    }
}

fn state_of(map: &pb::ClusterMapReply, node: u32) -> NodeState {
    map.nodes.iter().find(|info| info.id == node).expect("a node").state()
}

fn joining(map: &pb::ClusterMapReply, store: u32) -> Vec<(u32, u64)> {
    let member = |info: &&pb::PgInfo| {
        info.members.iter().any(|member| member.store == store && member.state() == MemberState::Joining)
    };
    map.pgs.iter().filter(member).map(|info| (info.id, info.epoch)).collect()
}

#[tokio::test]
async fn groups_come_with_enough_nodes() {
    let world = World::new().await;
    world.add_nodes(2).await;
    assert!(world.map().await.pgs.is_empty());
    world.register(3, 3, true).await;
    assert_eq!(world.meta.ensure_groups().await, Ok(true));
    assert_eq!(world.meta.ensure_groups().await, Ok(false));
    let map = world.map().await;
    assert_eq!((map.nodes.len(), map.pgs.len(), map.metas.len()), (3, 6, 1));
    assert_eq!(map.cluster_id[..], world.meta.cluster_id().0);
    for group in &map.pgs {
        let stores: BTreeSet<u32> = group.members.iter().map(|member| member.store).collect();
        assert_eq!((stores.len(), group.replicas, group.epoch, group.sealed), (3, 3, 1, false));
        assert!(group.members.iter().all(|member| member.state() == MemberState::Full));
    }
    let known = pb::ClusterMap { known_version: map.version, cursor: 0 };
    let Ok(Reply::ClusterMap(same)) = world.ask(Kind::ClusterMap(known)).await else { panic!("no map") };
    assert!(same.unchanged && same.nodes.is_empty());
}

#[tokio::test]
async fn a_large_map_comes_in_pages() {
    let world = World::new().await;
    for index in 1..=200 {
        let Kind::RegisterNode(mut ask) = registration(index, index, true) else { panic!("a registration") };
        ask.host = format!("{index:0>200}");
        world.ask(Kind::RegisterNode(ask)).await.expect("registered");
    }
    while world.meta.ensure_groups().await.expect("groups are made") {}
    let map = world.map().await;
    let ids: BTreeSet<u32> = map.pgs.iter().map(|info| info.id).collect();
    assert_eq!((map.nodes.len(), map.pgs.len(), ids.len()), (200, 400, 400));
    let first = pb::ClusterMap::default();
    let Ok(Reply::ClusterMap(page)) = world.ask(Kind::ClusterMap(first)).await else { panic!("no map") };
    assert!(page.next_cursor != 0 && prost::Message::encoded_len(&page) < 64 * 1024);
}

#[tokio::test]
async fn a_node_keeps_its_number_when_it_moves() {
    let world = World::with_groups().await;
    let first = world.register(2, 2, false).await;
    let moved = world.register(2, 77, false).await;
    assert_eq!((moved.node_id, &moved.store_ids), (first.node_id, &first.store_ids));
    let map = world.map().await;
    let info = map.nodes.iter().find(|info| info.id == first.node_id).expect("a node");
    assert_eq!((info.addr.as_str(), info.state()), ("127.0.0.1:9077", NodeState::Up));
    assert_eq!(map.nodes.len(), 3);
}

#[tokio::test]
async fn another_cluster_s_node_is_refused() {
    let world = World::new().await;
    let Kind::RegisterNode(mut ask) = registration(1, 1, true) else { panic!("a registration") };
    ask.cluster_id = Bytes::from(vec![9; 16]);
    assert_eq!(code(world.ask(Kind::RegisterNode(ask.clone())).await), Code::WrongCluster);
    ask.cluster_id = Bytes::copy_from_slice(&world.meta.cluster_id().0);
    world.ask(Kind::RegisterNode(ask.clone())).await.expect("ours");
    let short = pb::RegisterNode { uuid: Bytes::from(vec![1; 3]), ..ask.clone() };
    assert_eq!(code(world.ask(Kind::RegisterNode(short)).await), Code::Invalid);
    let twice = pb::RegisterNode { stores: vec![beat(1, false), beat(1, false)], ..ask };
    assert_eq!(code(world.ask(Kind::RegisterNode(twice)).await), Code::Invalid);
}

#[tokio::test]
async fn silence_is_seen_and_forgiven() {
    let world = World::with_groups().await;
    let ids: Vec<u32> = world.map().await.nodes.iter().map(|info| info.id).collect();
    let before = world.map().await.version;
    let mut minutes = 0;
    while minutes < 11 {
        world.clock.advance(Duration::from_secs(9));
        for index in [1u8, 2] {
            assert!(!beat_of(&world, ids[usize::from(index) - 1], index, vec![]).await.register_again);
        }
        world.meta.note_silence().await;
        if minutes == 0 {
            assert_eq!(state_of(&world.map().await, ids[2]), NodeState::Up);
        }
        world.clock.advance(Duration::from_secs(9));
        world.meta.note_silence().await;
        if minutes == 0 {
            assert_eq!(state_of(&world.map().await, ids[2]), NodeState::Suspect);
        }
        for index in [1u8, 2] {
            beat_of(&world, ids[usize::from(index) - 1], index, vec![]).await;
        }
        world.clock.advance(Duration::from_secs(1));
        minutes += 1;
        for _ in 0..5 {
            world.clock.advance(Duration::from_secs(8));
            for index in [1u8, 2] {
                beat_of(&world, ids[usize::from(index) - 1], index, vec![]).await;
            }
        }
    }
    let map = world.map().await;
    assert_eq!(state_of(&map, ids[2]), NodeState::Out);
    assert_eq!((state_of(&map, ids[0]), state_of(&map, ids[1])), (NodeState::Up, NodeState::Up));
    assert!(map.version > before);
    beat_of(&world, ids[2], 3, vec![]).await;
    assert_eq!(state_of(&world.map().await, ids[2]), NodeState::Up);
}

#[tokio::test]
async fn a_stranger_has_to_register() {
    let world = World::with_groups().await;
    let node = world.map().await.nodes[0].id;
    assert!(!beat_of(&world, node, 1, vec![]).await.register_again);
    assert!(beat_of(&world, 99, 1, vec![]).await.register_again);
    assert!(beat_of(&world, node, 9, vec![]).await.register_again, "another process");
    let foreign = pb::StoreBeat { id: 99, ..beat(9, false) };
    assert!(beat_of(&world, node, 1, vec![foreign]).await.register_again);
}

#[tokio::test]
async fn reports_end_up_in_map_and_status() {
    let world = World::with_groups().await;
    let info = world.map().await.nodes[0].clone();
    let store = info.stores[0].id;
    let block = Some(pb::BlockId { inode: 5, writer: 6, seq: 7 });
    let defect = pb::Defect { block, cause: "checksum".into(), ..Default::default() };
    let report = pb::StoreBeat {
        id: store,
        used_bytes: 12345,
        blocks: 3,
        trouble: "full".into(),
        defects: vec![defect.clone()],
        ..beat(1, false)
    };
    let before = world.map().await.version;
    beat_of(&world, info.id, 1, vec![report.clone()]).await;
    let map = world.map().await;
    assert!(map.version > before, "writers have to learn of the trouble");
    let seen = &map.nodes[0].stores[0];
    assert_eq!((seen.used_bytes, seen.blocks, seen.trouble.as_str()), (12345, 3, "full"));
    let status = world.status().await;
    assert_eq!((status.used_bytes, status.capacity_bytes), (12345, 3 << 40));
    assert_eq!((status.defects.len(), status.defects[0].node, status.defects[0].store), (1, info.id, store));
    let repaired = pb::StoreBeat { defects: vec![pb::Defect { repaired: true, ..defect }], ..report };
    beat_of(&world, info.id, 1, vec![repaired]).await;
    let status = world.status().await;
    assert_eq!((status.defects.len(), status.defects[0].repaired), (1, true));
}

#[tokio::test]
async fn what_a_member_lacks_is_listed_until_it_has_it() {
    let world = World::with_groups().await;
    let inode = world.create("f").await.expect("made").inode;
    let members = world.members(1).await;
    let piece = world.piece(0, 3 * u64::from(BLOCK), &members[..2]);
    world.change(Kind::Commit(world.commit(inode, vec![piece.clone()]))).await.expect("committed");
    let rows = world.degraded(members[2]).await;
    assert_eq!(rows.len(), 1);
    let run = rows[0].run.expect("a run");
    assert_eq!((rows[0].pg, rows[0].store, run.count), (1, members[2], 3));
    assert_eq!(run.first.expect("a block").seq, piece.first_seq);
    assert!(world.degraded(members[0]).await.is_empty());
    assert_eq!(world.status().await.degraded_runs, 1);
    assert_eq!(world.extents(inode, 0, 1).await.extents[0].lacking, [members[2]]);
    let (node, index) = {
        let map = world.map().await;
        let node = map.nodes.iter().find(|info| info.stores.iter().any(|store| store.id == members[2]));
        let node = node.expect("a node").clone();
        (node.id, node.uuid[0])
    };
    let report = pb::StoreBeat { id: members[2], ..beat(index, false) };
    assert_eq!(beat_of(&world, node, index, vec![report]).await.degraded_rows, 1);
    world.ask(Kind::ClearDegraded(pb::ClearDegraded { rows })).await.expect("cleared");
    assert!(world.degraded(0).await.is_empty());
    assert!(world.extents(inode, 0, 1).await.extents[0].lacking.is_empty());
    let odd = pb::ListDegraded { store: 0, cursor: bytes("odd"), limit: 0 };
    assert_eq!(code(world.ask(Kind::ListDegraded(odd)).await), Code::Invalid);
}

#[tokio::test]
async fn an_empty_newcomer_takes_over_and_becomes_full() {
    let world = World::with_groups().await;
    let inode = world.create("f").await.expect("made").inode;
    let old = world.register(2, 2, false).await;
    let (old_node, old_store) = (old.node_id, old.store_ids[0]);
    let before = world.map().await;
    let others: Vec<u32> = world.members(1).await.into_iter().filter(|store| *store != old_store).collect();
    let piece = world.piece(0, 100, &others);
    world.change(Kind::Commit(world.commit(inode, vec![piece]))).await.expect("committed");
    assert_eq!(world.degraded(old_store).await.len(), 1);

    // Its directory was wiped: the same address, another identity.
    let new = world.register(9, 2, true).await;
    assert_ne!(new.node_id, old_node);
    let again = world.register(9, 2, true).await;
    assert_eq!((again.node_id, &again.store_ids), (new.node_id, &new.store_ids), "the answer was lost");
    while world.meta.ensure_groups().await.expect("handed over") {}
    let store = new.store_ids[0];
    let map = world.map().await;
    assert_eq!(state_of(&map, old_node), NodeState::Replaced);
    assert!(map.pgs.iter().all(|info| info.members.iter().all(|member| member.store != old_store)));
    let groups = joining(&map, store);
    assert_eq!(groups.len(), before.pgs.len());
    assert!(groups.iter().all(|(_, epoch)| *epoch == 2));
    assert!(world.degraded(old_store).await.is_empty(), "a debt that nobody will pay");
    assert!(beat_of(&world, old_node, 2, vec![]).await.register_again);

    // A joining member counts for commits, and is held to what it misses.
    let piece = world.piece(0, 100, &[store, others[0]]);
    world.change(Kind::Commit(world.commit(inode, vec![piece]))).await.expect("committed");
    let piece = world.piece(0, 100, &others);
    world.change(Kind::Commit(world.commit(inode, vec![piece]))).await.expect("committed");
    let done = |pg, epoch| Kind::JoinDone(pb::JoinDone { pg, epoch, store });
    let debts = world.degraded(store).await;
    assert_eq!(debts.len(), 1);
    assert_eq!(code(world.ask(done(1, 2)).await), Code::Conflict);
    world.ask(Kind::ClearDegraded(pb::ClearDegraded { rows: debts })).await.expect("cleared");
    let stale = world.ask(done(1, 1)).await.expect_err("an old epoch");
    assert_eq!((stale.code, stale.pg.expect("the current row").epoch), (Code::StaleEpoch, 2));
    world.ask(done(1, 2)).await.expect("full");
    world.ask(done(1, 2)).await.expect("full before");
    let map = world.map().await;
    assert_eq!(joining(&map, store).len(), groups.len() - 1);
    assert_eq!(map.pgs[0].epoch, 3);
    let foreign = Kind::JoinDone(pb::JoinDone { pg: 1, epoch: 3, store: old_store });
    assert_eq!(code(world.ask(foreign).await), Code::Conflict);
}

#[tokio::test]
async fn an_empty_store_takes_over_from_a_missing_one() {
    let world = World::with_groups().await;
    let old = world.register(1, 1, false).await;
    let Kind::RegisterNode(mut ask) = registration(1, 1, true) else { panic!("a registration") };
    ask.stores = vec![beat(50, true)];
    let Ok(Reply::RegisterNode(new)) = world.ask(Kind::RegisterNode(ask)).await else { panic!("refused") };
    assert_eq!(new.node_id, old.node_id);
    assert_ne!(new.store_ids, old.store_ids);
    while world.meta.ensure_groups().await.expect("handed over") {}
    let map = world.map().await;
    assert_eq!(state_of(&map, old.node_id), NodeState::Up);
    assert_eq!(joining(&map, new.store_ids[0]).len(), map.pgs.len());
}

#[tokio::test]
async fn a_newcomer_with_blocks_takes_over_from_nobody() {
    let world = World::with_groups().await;
    let before = world.map().await.pgs;
    let new = world.register(9, 2, false).await;
    while world.meta.ensure_groups().await.expect("in order") {}
    let map = world.map().await;
    assert!(joining(&map, new.store_ids[0]).is_empty());
    assert_eq!(map.pgs[..before.len()], before);
}

#[tokio::test]
async fn committed_bytes_are_counted_for_their_group() {
    let world = World::with_groups().await;
    let inode = world.create("f").await.expect("made").inode;
    world.write(inode, 0, 100_000).await.expect("written");
    world.write(inode, 0, 50_000).await.expect("written");
    let group = world.map().await.pgs[0].clone();
    assert_eq!((group.id, group.bytes), (1, 150_000));
    assert_eq!(world.meta.persist_beats().await, Ok(true));
    assert_eq!(world.meta.persist_beats().await, Ok(false), "at most once a second");
    let members = world.meta.group_members(cairn_proto::PgId(1)).await.expect("read").expect("there");
    assert_eq!((members.epoch.0, members.stores.len()), (1, 3));
    assert_eq!(world.meta.group_members(cairn_proto::PgId(999)).await, Ok(None));
}

#[tokio::test]
async fn a_full_group_is_sealed_and_replaced_by_a_new_one() {
    let world = World::with_groups().await;
    let inode = world.create("f").await.expect("made").inode;
    let before = world.map().await.pgs.len();
    // Numbers of blocks are cheap: a terabyte is one row.
    world.write(inode, 0, 256 << 30).await.expect("written");
    while world.meta.ensure_groups().await.expect("in order") {}
    let map = world.map().await;
    assert!(map.pgs[0].sealed && map.pgs[0].epoch == 1);
    assert_eq!(map.pgs.iter().filter(|info| !info.sealed).count(), before);
    // What was on its way when the group was sealed still counts.
    world.write(inode, 0, 100).await.expect("written");
}
