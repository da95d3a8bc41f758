//! Dumps: made at one moment while writes go on, loaded whole or not at all, moved between engines.

use crate::engine::fresh;
use crate::support::{BLOCK, ManualClock, World, embedded, options};
use crate::watched::WatchedEngine;
use cairn_meta::dump::{Dump, LoadError, Loader, Purpose, RowDigest};
use cairn_meta::kv::{Engine, Limits};
use cairn_meta::migrate::{MigrateError, migrate};
use cairn_meta::{Meta, OpenError};
use std::sync::Arc;

const RESTORE: Purpose = Purpose::Restore { seed: 3 };

/// A namespace with some of everything, and the engine below it.
pub async fn populated() -> (World, Arc<dyn Engine>) {
    let engine = fresh().await;
    let world = World::over(engine.clone()).await;
    world.add_nodes(3).await;
    for dir in 0..4 {
        world.mkdir(&format!("d{dir}")).await.expect("made");
        for file in 0..30 {
            let inode = world.create(&format!("d{dir}/f{file}")).await.expect("made").inode;
            match file % 3 {
                0 => drop(world.inline(inode, 0, b"small").await.expect("written")),
                1 => drop(world.write(inode, 0, 3 * u64::from(BLOCK)).await.expect("written")),
                _ => {}
            }
        }
    }
    world.symlink("link", "d0/f1").await.expect("made");
    world.unlink("d3/f1").await.expect("removed");
    (world, engine)
}

pub async fn dump_of(engine: &dyn Engine) -> (Vec<u8>, RowDigest) {
    let mut dump = Dump::begin(engine, 5).await.expect("begun");
    let mut bytes = Vec::new();
    while let Some(piece) = dump.next().await.expect("made") {
        bytes.extend(piece);
    }
    (bytes, dump.digest())
}

pub async fn load(
    engine: Arc<dyn Engine>,
    bytes: &[u8],
    step: usize,
    purpose: Purpose,
) -> Result<RowDigest, LoadError> {
    let mut loader = Loader::begin(engine, "a test", 1, purpose).await?;
    for part in bytes.chunks(step) {
        loader.feed(part).await?;
    }
    loader.finish().await.map(|(_, digest)| digest)
}

async fn open(engine: Arc<dyn Engine>) -> Result<Meta, OpenError> {
    Meta::open(engine, options(Arc::new(ManualClock::default()))).await
}

#[tokio::test]
async fn a_dump_holds_one_moment_while_writes_go_on() {
    let (world, engine) = populated().await;
    let (expected, digest) = dump_of(&*engine).await;
    let mut dump = Dump::begin(&*engine, 5).await.expect("begun");
    let mut bytes = Vec::new();
    let mut count = 0;
    while let Some(piece) = dump.next().await.expect("made") {
        bytes.extend(piece);
        world.create(&format!("later-{count}")).await.expect("made");
        world.rename("d0/f0", "d1/moved").await.ok();
        count += 1;
    }
    assert_eq!(dump.digest(), digest);
    // A dump says at which position of its engine it was taken, and that of a server moves by itself.
    if engine.name() == "map" {
        assert_eq!(bytes, expected, "the same moment makes the same bytes");
    }
}

#[tokio::test]
async fn what_was_dumped_is_there_after_loading() {
    let (world, engine) = populated().await;
    let (bytes, digest) = dump_of(&*engine).await;
    // Byte by byte and in one piece.
    for step in [7, bytes.len()] {
        let target = fresh().await;
        assert_eq!(load(target.clone(), &bytes, step, Purpose::Move).await.expect("loaded"), digest);
        assert_eq!(dump_of(&*target).await.1, digest);
        let restored = World::over(target).await;
        for path in ["", "d0", "d3"] {
            assert_eq!(restored.list(path).await.expect("listed"), world.list(path).await.expect("listed"));
        }
        let (before, after) = (world.stat("d2/f1").await.expect("there"), restored.stat("d2/f1").await.expect("there"));
        assert_eq!(before, after);
        let len = after.size;
        assert_eq!(
            world.extents(before.inode, 0, len).await.extents,
            restored.extents(after.inode, 0, len).await.extents
        );
        assert_eq!(restored.meta.cluster_id(), world.meta.cluster_id());
    }
}

#[tokio::test]
async fn a_restored_namespace_gives_out_nothing_twice() {
    let (world, engine) = populated().await;
    let (bytes, _) = dump_of(&*engine).await;
    // What is given out after the backup.
    let lost = (world.alloc_inode().await, world.open_session().await, world.open_writer(world.session).await);
    let group = world.map().await.pgs[0].epoch;
    let target = fresh().await;
    load(target.clone(), &bytes, 1 << 20, RESTORE).await.expect("loaded");
    let restored = World::over(target).await;
    assert!(restored.session > lost.1 && restored.writer > lost.2);
    assert!(restored.alloc_inode().await > lost.0 + (1 << 31));
    let epoch = |world: &World| world.meta.duty_epoch().expect("it is alone");
    assert!(epoch(&restored) > epoch(&world) + (1 << 15));
    assert!(restored.map().await.version > world.map().await.version + (1 << 47));
    assert!(restored.map().await.pgs[0].epoch > group + 1000, "nodes may have seen later members");
    // A second restoration of the same backup repeats nothing of the first.
    let again = fresh().await;
    load(again.clone(), &bytes, 1 << 20, Purpose::Restore { seed: 4 }).await.expect("loaded");
    let again = World::over(again).await;
    assert_ne!(again.session, restored.session);
}

#[tokio::test]
async fn a_target_in_use_is_refused() {
    let (_world, engine) = populated().await;
    let (bytes, digest) = dump_of(&*engine).await;
    assert!(matches!(load(engine.clone(), &bytes, 999, RESTORE).await, Err(LoadError::NotEmpty)));
    assert_eq!(dump_of(&*engine).await.1, digest, "nothing was done");
}

#[tokio::test]
async fn every_damage_is_found_and_nothing_opens_what_is_half_loaded() {
    let (_world, engine) = populated().await;
    let (bytes, digest) = dump_of(&*engine).await;
    // Frames: prelude 16, header, rows, trailer.
    for at in (16..bytes.len()).step_by(bytes.len() / 50).chain([bytes.len() - 1]) {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        let target = fresh().await;
        let failed = load(target.clone(), &bad, 4096, RESTORE).await.expect_err("a bit was flipped");
        let named = matches!(
            failed,
            LoadError::Damaged { offset, .. } if offset <= at as u64)
            || matches!(failed, LoadError::Truncated { .. });
        assert!(named, "{failed} at {at}");
    }
    for end in [0, 8, 15, 16, 100, bytes.len() / 2, bytes.len() - 1] {
        let target = fresh().await;
        let failed = load(target.clone(), &bytes[..end], 4096, RESTORE).await.expect_err("cut off");
        assert!(matches!(failed, LoadError::Truncated { offset } if offset == end as u64), "{failed} at {end}");
        if end > bytes.len() / 3 {
            assert!(matches!(open(target.clone()).await.err(), Some(OpenError::Loading { .. })), "half loaded");
            assert!(matches!(Dump::begin(&*target, 0).await.err(), Some(OpenError::Loading { .. })));
        }
        // The next attempt begins anew.
        assert_eq!(load(target.clone(), &bytes, 4096, Purpose::Move).await.expect("whole"), digest);
        assert_eq!(dump_of(&*target).await.1, digest);
    }
    let twice = [&bytes[..], &bytes[16..]].concat();
    assert!(matches!(load(fresh().await, &twice, 4096, RESTORE).await, Err(LoadError::Damaged { .. })));
}

#[tokio::test]
async fn what_is_no_dump_or_newer_is_said() {
    let (_world, engine) = populated().await;
    let (bytes, _) = dump_of(&*engine).await;
    assert!(matches!(load(fresh().await, b"PK\x03\x04", 1, RESTORE).await, Err(LoadError::NotADump)));
    let mut newer = bytes.clone();
    newer[8] = 9;
    let failed = load(fresh().await, &newer, 4096, RESTORE).await.expect_err("newer");
    assert_eq!(
        failed.to_string(),
        "the dump has version 9; this program knows versions up to 1: load it with the newer program"
    );
}

#[tokio::test]
async fn a_narrow_engine_takes_a_dump_in_small_steps() {
    let (_world, engine) = populated().await;
    let (bytes, digest) = dump_of(&*engine).await;
    let narrow = Arc::new(WatchedEngine::new(Limits { writes: 100, bytes: 64 << 10 }));
    assert!(load(narrow.clone(), &bytes[..bytes.len() - 9], 4096, RESTORE).await.is_err());
    assert_eq!(load(narrow.clone(), &bytes, 4096, RESTORE).await.expect("loaded"), digest);
    assert!(open(narrow).await.is_ok());
}

#[tokio::test]
async fn a_namespace_moves_to_another_engine() {
    let dir = tempfile::tempdir().expect("a directory");
    let (world, engine) = populated().await;
    let names = world.list("d1").await.expect("listed");
    drop(world);
    let target = embedded(dir.path());
    let mut seen = 0;
    let moved = migrate(engine.clone(), target.clone(), ("map:a", "file:b"), (1, 5), |digest| seen = digest.rows).await;
    let moved = moved.expect("moved");
    assert_eq!(moved.rows, seen);
    assert!(matches!(open(engine).await.err(), Some(OpenError::Migrated { to }) if to == "file:b"));
    let restored = World::over(target).await;
    assert_eq!(restored.list("d1").await.expect("listed"), names);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_changes_is_noticed_and_goes_on() {
    let (world, engine) = populated().await;
    let target = fresh().await;
    let (write, runtime) = (world, tokio::runtime::Handle::current());
    // A server that does not look at the fence.
    let moved = migrate(engine.clone(), target.clone(), ("a", "b"), (1, 5), |_| {
        let make = write.create("while-moving");
        let made = std::thread::scope(|scope| scope.spawn(|| runtime.block_on(make)).join());
        drop(made.expect("no panic"));
    });
    assert!(matches!(moved.await, Err(MigrateError::SourceChanged)));
    assert!(matches!(open(target).await.err(), Some(OpenError::Loading { .. })));
    assert!(open(engine).await.is_ok(), "the fence is gone again");
}
