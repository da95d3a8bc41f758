//! What earlier versions wrote is opened, works, and can be written down anew.

use crate::dump::load;
use crate::support::{BLOCK, NEWEST, World, at, code, registration};
use cairn_meta::dump::Purpose;
use cairn_meta::keys::{self, Key, setting};
use cairn_meta::kv::{Durability, Engine, KeyRange, MapEngine};
use cairn_meta::rows::{self, Row};
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::Code;
use std::sync::Arc;

const V1: &[u8] = include_bytes!("../fixtures/v1.dump");

/// A namespace that version 1 wrote, opened by this one.
async fn version_1() -> (World, Arc<dyn Engine>) {
    let engine: Arc<dyn Engine> = Arc::new(MapEngine::new());
    let digest = load(engine.clone(), V1, 1000, Purpose::Move).await.expect("it loads");
    assert_eq!((digest.rows, digest.bytes, digest.sum), (81, 2161, 10_323_599_735_672_621_157));
    let world = World::over(engine.clone()).await;
    for index in 1..=4 {
        world.ask(node_of_then(index)).await.expect("registered");
    }
    (world, engine)
}

/// The registration of a node that runs a program of version 1, which says nothing of itself.
fn node_of_then(index: u8) -> Kind {
    let Kind::RegisterNode(ask) = registration(index, index, false) else { unreachable!("a registration") };
    Kind::RegisterNode(pb::RegisterNode { newest_version: 0, ..ask })
}

async fn findings(world: &World, repair: bool) -> Vec<pb::RowFinding> {
    let mut cursor = bytes::Bytes::new();
    let mut findings = Vec::new();
    loop {
        let asked = world.ask(Kind::CheckRows(pb::CheckRows { cursor, repair })).await;
        let Ok(Reply::CheckRows(page)) = asked else { panic!("{asked:?}") };
        findings.extend(page.findings);
        cursor = page.next_cursor;
        if cursor.is_empty() {
            return findings;
        }
    }
}

#[tokio::test]
async fn version_1_reads_as_it_was_written() {
    let (world, _engine) = version_1().await;
    assert_eq!(world.list("").await.expect("listed"), ["docs"]);
    assert_eq!(world.list("docs").await.expect("listed"), ["blocks", "deep", "inline", "link"]);
    let inline = world.stat("docs/inline").await.expect("there");
    assert_eq!((inline.inode, inline.size, inline.mode, inline.uid), (4, 17, 0o644, 1000));
    assert_eq!(inline.mtime_ns, 1_000_000_000_000);
    let blocks = world.stat("docs/blocks").await.expect("there");
    assert_eq!(blocks.size, 9 * u64::from(BLOCK) + 5);
    let runs: Vec<(u64, u64)> =
        world.extents(5, 0, blocks.size).await.extents.iter().map(|extent| (extent.offset, extent.len)).collect();
    assert_eq!(runs, [(0, 5 * u64::from(BLOCK)), (7 * u64::from(BLOCK), 2 * u64::from(BLOCK) + 5)]);
    assert_eq!(world.stat("docs/link").await.expect("there").target, "deep/short");
    let deep = world.stat("docs/deep").await.expect("there").policy.expect("it has one");
    assert_eq!((deep.replicas, deep.block_len), (2, BLOCK));
    assert_eq!(world.status().await.degraded_runs, 1);
    assert_eq!(findings(&world, false).await, []);
}

#[tokio::test]
async fn work_goes_on_upon_version_1() {
    let (world, _engine) = version_1().await;
    world.write(5, 5 * u64::from(BLOCK), 2 * u64::from(BLOCK)).await.expect("the hole is filled");
    world.inline(4, 0, b"and by a later one").await.expect("written");
    world.truncate(6, 0).await.expect("cut");
    world.rename("docs/deep/short", "docs/renamed").await.expect("renamed");
    world.unlink("docs/link").await.expect("removed");
    world.mkdir("docs/deep/more").await.expect("made");
    let made = world.create("docs/deep/more/file").await.expect("made");
    assert_eq!(made.policy.expect("inherited").replicas, 2);
    // The session of then has ended with its unnamed file; what was dropped is dropped.
    world.ask(Kind::CloseSession(pb::CloseSession { session: 1, epoch: 1 })).await.expect("closed");
    while world.meta.drop_maps().await.expect("dropped") {}
    assert!(world.stat_inode(9).await.is_err());
    assert_eq!(findings(&world, false).await, []);
}

/// The version byte of every row of a table.
async fn versions(engine: &Arc<dyn Engine>, table: KeyRange) -> Vec<u8> {
    let rows = engine.snapshot().await.expect("taken").scan(&table, 1000).await.expect("read");
    rows.iter().map(|(_, row)| row[0]).collect()
}

fn link() -> Kind {
    Kind::Link(pb::Link { from: Some(at("docs/inline")), to: Some(at("docs/linked")), ..Default::default() })
}

async fn beat_of(world: &World, node: u32, newest: u32) {
    let boot_id = bytes::Bytes::from(vec![node as u8; 16]);
    let ask = pb::Heartbeat {
        node_id: node,
        boot_id,
        software: format!("cairn/0.{newest}"),
        newest_version: newest,
        ..Default::default()
    };
    world.ask(Kind::Heartbeat(ask)).await.expect("heard");
}

async fn upgrade_status(world: &World) -> pb::UpgradeStatusReply {
    match world.ask(Kind::UpgradeStatus(pb::UpgradeStatus {})).await {
        Ok(Reply::UpgradeStatus(reply)) => reply,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn until_it_is_finalized_an_upgrade_writes_what_the_former_program_reads() {
    let (world, engine) = version_1().await;
    assert_eq!(world.meta.cluster_version(), 1);
    let made = world.create("docs/new").await.expect("made");
    assert_eq!(made.btime_ns, 0, "there is no room for it");
    world.write(made.inode, 0, u64::from(BLOCK)).await.expect("written");
    world.mkdir("docs/dir").await.expect("made");
    world.symlink("docs/other", "new").await.expect("made");
    world.rename("docs/new", "docs/dir/new").await.expect("moved");
    let unnamed = world.alloc_inode().await;
    let ask = pb::CreateUnnamed { inode: unnamed, dir: Some(at("")), attr: None };
    world.change(Kind::CreateUnnamed(ask)).await.expect("made");
    for table in [keys::Inode::all(), keys::DirTimes::all(), keys::Extent::all(), keys::Symlink::all()] {
        let versions = versions(&engine, table).await;
        assert!(!versions.is_empty() && versions.iter().all(|version| *version == 1), "{versions:?}");
    }
    assert!(versions(&engine, keys::Sustained::all()).await.iter().all(|version| *version == 1));
    let publish = pb::Publish { at: Some(at("named")), inode: unnamed, unnamed: true, ..Default::default() };
    world.change(Kind::Publish(publish)).await.expect("named");
    assert_eq!(world.stat("named").await.expect("there").nlink, 1);

    let refused = world.change(link()).await.expect_err("it is new");
    assert_eq!(refused.code, Code::Unsupported);
    assert!(refused.message.contains("cairn admin upgrade finalize"), "{refused}");
    // Servers are opened again at that version.
    let again = World::over(engine.clone()).await;
    assert_eq!(again.meta.cluster_version(), 1);
}

#[tokio::test]
async fn an_upgrade_is_finalized_once_everybody_who_is_up_knows_the_version() {
    let (world, engine) = version_1().await;
    let finalize = |to| Kind::FinalizeUpgrade(pb::FinalizeUpgrade { to });
    for node in 1..=3 {
        beat_of(&world, node, 2).await;
    }
    let status = upgrade_status(&world).await;
    assert_eq!((status.cluster_version, status.newest, status.software.len()), (1, NEWEST, 5));
    assert_eq!(status.obstacles.len(), 1, "{status:?}");
    let refused = world.ask(finalize(2)).await.expect_err("node 4 says nothing");
    assert!(refused.code == Code::Conflict && refused.message.contains("storage node 4"), "{refused}");
    beat_of(&world, 4, 2).await;
    assert_eq!(code(world.ask(finalize(3)).await), Code::Conflict);
    let other = World::over(engine.clone()).await;
    world.ask(finalize(2)).await.expect("finalized");
    world.ask(finalize(2)).await.expect("once more");
    assert_eq!(world.meta.cluster_version(), 2);
    world.change(link()).await.expect("linked");
    let made = world.create("docs/new").await.expect("made");
    assert!(made.btime_ns > 0);
    let written = versions(&engine, keys::Inode::all()).await;
    assert!(written.contains(&1) && written.contains(&2), "{written:?}: what is not touched stays as it is");
    // Another server hears of it.
    assert_eq!(other.meta.cluster_version(), 1);
    other.meta.refresh_version().await.expect("read");
    assert_eq!(other.meta.cluster_version(), 2);
    assert!(other.stat("docs/linked").await.expect("there").nlink == 2);
    assert_eq!(findings(&other, false).await, []);
    assert_eq!(World::over(engine).await.meta.cluster_version(), 2);
}

/// What the programs of version 1 read, by the tag of the key: the newest version of the row. They walk the tables they know
/// and never come upon others.
const READ_BY_VERSION_1: &[(u8, u8)] = &[
    (0x01, 1),
    (0x02, 1),
    (0x10, 1),
    (0x11, 1),
    (0x12, 1),
    (0x13, 1),
    (0x15, 1),
    (0x18, 1),
    (0x20, 2),
    (0x21, 1),
    (0x22, 1),
    (0x23, 2),
    (0x24, 2),
    (0x25, 1),
    (0x26, 1),
    (0x27, 1),
    (0x28, 1),
    (0x29, 1),
    (0x2a, 1),
    (0x30, 1),
    (0x31, 1),
    (0x32, 1),
    (0x33, 1),
    (0x34, 1),
    (0x35, 1),
    (0x37, 1),
];
/// What several servers tell each other, and change logs.
const UNSEEN_BY_VERSION_1: &[u8] = &[0x2b, 0x2c, 0x2d, 0x2e, 0x40, 0x41, 0x42];

async fn assert_read_by_version_1(engine: &Arc<dyn Engine>) {
    let all = KeyRange { start: vec![0], end: vec![keys::NAMESPACE_END] };
    let rows = engine.snapshot().await.expect("taken").scan(&all, 100_000).await.expect("read");
    assert!(rows.len() > 80);
    for (key, row) in rows {
        match READ_BY_VERSION_1.iter().find(|(tag, _)| *tag == key[0]) {
            Some((_, newest)) => assert!(row[0] <= *newest, "{key:02x?} has a row of version {}", row[0]),
            None => assert!(UNSEEN_BY_VERSION_1.contains(&key[0]), "{key:02x?} is of a table that is new"),
        }
    }
}

#[tokio::test]
async fn the_former_program_can_be_run_again_whatever_was_done_before_the_upgrade_is_finalized() {
    let (world, engine) = version_1().await;
    assert_read_by_version_1(&engine).await;
    for index in 0..5 {
        let file = world.create(&format!("docs/{index}")).await.expect("made").inode;
        world.write(file, 0, 3 * u64::from(BLOCK)).await.expect("written");
        world.write(file, u64::from(BLOCK), u64::from(BLOCK)).await.expect("overwritten");
        world.truncate(file, 7).await.expect("cut");
    }
    world.unlink("docs/0").await.expect("removed");
    world.rename("docs/1", "docs/2").await.expect("replaced");
    let policy = |ask: pb::SetPolicy| Kind::SetPolicy(pb::SetPolicy { at: Some(at("docs")), ..ask });
    world.change(policy(pb::SetPolicy { replicas: Some(2), ..Default::default() })).await.expect("set");
    // Everything that needs another version says so.
    let trash = world.change(policy(pb::SetPolicy { trash_s: Some(60), ..Default::default() })).await;
    let all = [
        trash,
        world.change(link()).await,
        world.change(Kind::CreateSnapshot(pb::CreateSnapshot { at: Some(at("")), ..Default::default() })).await,
        world.change(Kind::SetQuota(pb::SetQuota { at: Some(at("docs")), bytes: Some(1), ..Default::default() })).await,
        world.change(Kind::SetLock(pb::SetLock::default())).await,
        world.change(Kind::RemoveTree(pb::RemoveTree { at: Some(at("docs")) })).await,
    ];
    for refused in all {
        let refused = refused.expect_err("it is new");
        assert!(refused.code == Code::Unsupported && refused.message.contains("finalize"), "{refused}");
    }
    world.open_session().await;
    for _ in 0..3 {
        world.clock.advance(std::time::Duration::from_secs(2));
        world.meta.pulse().await.expect("beaten");
        while world.meta.drop_maps().await.expect("dropped") {}
    }
    assert_read_by_version_1(&engine).await;
    let again = World::over(engine.clone()).await;
    again.create("docs/again").await.expect("made");
    assert_read_by_version_1(&engine).await;
}

#[tokio::test]
async fn who_runs_an_older_program_is_told_once_an_upgrade_is_finalized() {
    let (world, engine) = version_1().await;
    for node in 1..=4 {
        beat_of(&world, node, NEWEST).await;
    }
    world.ask(Kind::FinalizeUpgrade(pb::FinalizeUpgrade { to: NEWEST })).await.expect("finalized");
    let refused = world.ask(node_of_then(4)).await.expect_err("it is too old");
    assert_eq!(refused.code, Code::Unsupported);
    assert!(refused.message.contains("127.0.0.1:9004") && refused.message.contains("run the newer"), "{refused}");
    let boot_id = bytes::Bytes::from(vec![4; 16]);
    let beat = pb::Heartbeat { node_id: 4, boot_id, ..Default::default() };
    let refused = world.ask(Kind::Heartbeat(beat)).await.expect_err("it is too old");
    assert!(refused.message.contains("run the newer"), "{refused}");
    world.ask(registration(4, 4, false)).await.expect("registered");
    // A server that was away while a newer program finalized what it does not know.
    let newer = rows::Setting { value: bytes::Bytes::copy_from_slice(&(NEWEST + 1).to_le_bytes()) };
    let key = keys::Setting { name: bytes::Bytes::from_static(setting::CLUSTER_VERSION) };
    let mut txn = engine.begin().await.expect("begun");
    txn.put(key.encode(), newer.encode());
    txn.commit(Durability::Durable).await.expect("committed");
    world.stat("docs").await.expect("nobody has looked yet");
    world.meta.refresh_version().await.expect("read");
    let refused = world.stat("docs").await.expect_err("it is too old");
    assert!(refused.code == Code::Unavailable && refused.message.contains("run the newer program"), "{refused}");
}

#[tokio::test]
async fn other_metadata_servers_are_asked_for_their_versions() {
    let (world, engine) = version_1().await;
    let other = World::beside(engine.clone(), "b:1").await;
    for node in 1..=4 {
        beat_of(&world, node, NEWEST).await;
    }
    // A server of a program that does not say what it knows.
    let key = keys::MetaServer { server: 77 };
    let old = rows::MetaServer {
        addr: "old:9000".into(),
        boot: [7; 16],
        gone: false,
        software: String::new(),
        newest: 0,
        since_ns: 0,
    };
    let mut txn = engine.begin().await.expect("begun");
    txn.put(key.encode(), old.encode());
    txn.commit(Durability::Durable).await.expect("committed");
    let finalize = || Kind::FinalizeUpgrade(pb::FinalizeUpgrade { to: NEWEST });
    let refused = world.ask(finalize()).await.expect_err("one is older");
    assert!(refused.message.contains("metadata server 77 at old:9000"), "{refused}");
    let status = upgrade_status(&world).await;
    let servers: Vec<_> = status.software.iter().filter(|one| one.role == "metadata server").collect();
    assert_eq!(servers.len(), 3, "{servers:?}");
    assert!(servers.iter().any(|one| one.addr == "b:1" && one.newest == NEWEST && one.live), "{servers:?}");
    // It is silent for long enough.
    for _ in 0..20 {
        world.clock.advance(std::time::Duration::from_secs(1));
        world.meta.pulse().await.expect("beaten");
        other.meta.pulse().await.expect("beaten");
    }
    for node in 1..=4 {
        beat_of(&world, node, NEWEST).await;
    }
    world.ask(finalize()).await.expect("finalized");
}

#[tokio::test]
async fn a_new_cluster_is_at_the_newest_version() {
    let world = World::new().await;
    assert_eq!(world.meta.cluster_version(), 2);
    let status = upgrade_status(&world).await;
    assert_eq!((status.cluster_version, status.newest), (2, 2));
    assert!(status.obstacles.is_empty());
}
