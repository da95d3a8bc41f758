//! What earlier versions wrote is opened, works, and can be written down anew.

use crate::dump::load;
use crate::support::{BLOCK, World};
use cairn_meta::dump::Purpose;
use cairn_meta::kv::{Engine, MapEngine};
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
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
