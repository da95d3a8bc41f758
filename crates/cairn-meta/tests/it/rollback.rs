//! Metadata that is restored from an older backup, while storage nodes have gone on.

use crate::support::{BLOCK, NEWEST, World, embedded, registration};
use bytes::Bytes;
use cairn_proto::pb;
use cairn_proto::pb::Verdict::{Dead, Future, Live, Undecided};
use cairn_proto::pb::request::Kind;
use std::fs;
use std::path::Path;

#[allow(clippy::disallowed_methods, reason = "the disk seam is not under test: a backup is a copy of the directory")]
fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("copied");
        }
    }
}

fn run(inode: u64, writer: u64, seq: u32, count: u32) -> pb::GroupRun {
    let first = pb::BlockId { inode, writer, seq };
    pb::GroupRun { pg: 1, run: Some(pb::Run { first: Some(first), count }) }
}

/// What the future that was lost left on the nodes.
struct Lost {
    dir: tempfile::TempDir,
    file: u64,
    /// Closed before the backup, with three live blocks, one orphan, and garbage.
    old_writer: u64,
    /// Opened after it, with two blocks.
    new_writer: u64,
}

impl Lost {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (now, backup) = (dir.path().join("now"), dir.path().join("backup"));
        let (file, old_writer) = {
            let world = World::over(embedded(&now)).await;
            world.add_nodes(3).await;
            let file = world.create("f").await.expect("made").inode;
            world.write(file, 0, 4 * u64::from(BLOCK)).await.expect("written");
            world.truncate(file, 3 * u64::from(BLOCK)).await.expect("cut");
            world.close_writer().await;
            while world.meta.persist_beats().await.expect("written down") {}
            (file, world.writer)
        };
        copy_dir(&now, &backup);
        let world = World::over(embedded(&now)).await;
        world.write(file, 3 * u64::from(BLOCK), 2 * u64::from(BLOCK)).await.expect("written");
        Self { file, old_writer, new_writer: world.writer, dir }
    }

    /// The backup, to which the nodes come back with `highest_writer`.
    async fn restored(&self, highest_writer: u64) -> World {
        let world = World::seeded(embedded(&self.dir.path().join("backup")), 8).await;
        for index in 1..=3 {
            let Kind::RegisterNode(mut ask) = registration(index, index, false) else { panic!("a registration") };
            ask.stores[0].highest_writer = highest_writer;
            world.ask(Kind::RegisterNode(ask)).await.expect("registered");
        }
        world
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_collected_after_a_rollback_until_an_operator_accepts_it() {
    let lost = Lost::new().await;
    let orphan_and_lost = || vec![run(lost.file, lost.old_writer, 2, 1), run(lost.file, lost.old_writer, 9, 1)];
    let newer = || vec![run(lost.file, lost.new_writer, 0, 2)];

    let world = lost.restored(lost.new_writer).await;
    assert!(world.meta.is_rolled_back());
    assert!(world.status().await.alarms.iter().any(|alarm| alarm.contains("rolled back")));
    assert!(world.meta.garbage(None, 10).await.expect("listed").is_empty(), "the collector finds nothing");
    assert_eq!(world.judge(orphan_and_lost()).await.expect("judged"), [Live, Undecided]);
    assert_eq!(world.judge(newer()).await.expect("judged"), [Future, Future]);
    drop(world);

    let world = lost.restored(0).await;
    assert!(world.meta.is_rolled_back(), "it is written down: no node has to say it again");
    world.ask(Kind::AcceptRollback(pb::AcceptRollback {})).await.expect("accepted");
    assert!(!world.meta.is_rolled_back());
    assert!(!world.meta.garbage(None, 10).await.expect("listed").is_empty());
    assert_eq!(world.judge(orphan_and_lost()).await.expect("judged"), [Live, Dead]);
    assert_eq!(world.judge(newer()).await.expect("judged"), [Dead, Dead]);
    let writer = world.open_writer(world.session).await;
    assert!(writer > lost.new_writer, "a number is never given out twice");
    let (file, block) = (lost.file, u64::from(BLOCK));
    world.write(file, 0, block).await.expect("writers that were open then go on");
    drop(world);
    let world = lost.restored(lost.new_writer).await;
    assert!(!world.meta.is_rolled_back(), "what was accepted is known now");
}

/// The same without the report of the highest writer: the rule that is under test, switched off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_report_a_rollback_goes_unnoticed() {
    let lost = Lost::new().await;
    let world = lost.restored(0).await;
    assert!(!world.meta.is_rolled_back());
    let orphan = vec![run(lost.file, lost.old_writer, 9, 1)];
    assert_eq!(world.judge(orphan).await.expect("judged"), [Dead]);
    assert!(!world.meta.garbage(None, 10).await.expect("listed").is_empty());
}

#[tokio::test]
async fn a_store_that_holds_a_known_writer_raises_no_alarm() {
    let world = World::with_groups().await;
    let (open, closed) = (world.open_writer(world.session).await, world.writer);
    world.close_writer().await;
    for writer in [closed, open, closed] {
        let beat = pb::StoreBeat { id: 1, highest_writer: writer, incarnation: 1, ..Default::default() };
        let boot_id = Bytes::from(vec![1; 16]);
        let heartbeat =
            pb::Heartbeat { node_id: 1, boot_id, stores: vec![beat], newest_version: NEWEST, ..Default::default() };
        world.ask(Kind::Heartbeat(heartbeat)).await.expect("heard");
    }
    assert!(!world.meta.is_rolled_back());
}
