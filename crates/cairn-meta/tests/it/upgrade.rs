//! What earlier versions wrote is opened, works, and can be written down anew.

use crate::dump::load;
use crate::support::{BLOCK, World, at, code};
use cairn_meta::dump::Purpose;
use cairn_meta::keys::{self, Key};
use cairn_meta::kv::{Engine, KeyRange, MapEngine};
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
        world.register(index, index, false).await;
    }
    (world, engine)
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
    assert_eq!((status.cluster_version, status.newest, status.software.len()), (1, 2, 5));
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

#[tokio::test]
async fn a_new_cluster_is_at_the_newest_version() {
    let world = World::new().await;
    assert_eq!(world.meta.cluster_version(), 2);
    let status = upgrade_status(&world).await;
    assert_eq!((status.cluster_version, status.newest), (2, 2));
    assert!(status.obstacles.is_empty());
}
