//! What is there after the process ended, in order or not.

use crate::support::{World, at, bytes, create, embedded, options};
use cairn_meta::clock::SystemClock;
use cairn_meta::keys::{self, Key};
use cairn_meta::kv::{Durability, EmbeddedEngine, EmbeddedOptions, Engine, EngineError, MapEngine};
use cairn_meta::rows::{self, Row};
use cairn_meta::{Meta, OpenError};
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use std::process::{Command, Stdio};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_found_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (cluster, epoch, version, inode) = {
        let world = World::over(embedded(dir.path())).await;
        world.add_nodes(3).await;
        world.mkdir("d").await.expect("made");
        let inode = world.create("d/f").await.expect("made").inode;
        world.inline(inode, 0, b"hello").await.expect("written");
        while world.meta.persist_beats().await.expect("written down") {}
        (world.meta.cluster_id(), world.meta.duty_epoch(), world.map().await.version, inode)
    };
    let world = World::over(embedded(dir.path())).await;
    assert_eq!(world.meta.cluster_id(), cluster);
    assert!(world.meta.duty_epoch() > epoch);
    let map = world.map().await;
    assert!(map.version > version);
    assert_eq!((map.nodes.len(), map.pgs.len()), (3, 6));
    assert_eq!(world.stat("d/f").await.expect("there").size, 5);
    assert_eq!(world.extents(inode, 0, 10).await.extents[0].inline, bytes("hello"));
    assert!(world.create("d/g").await.expect("made").inode > inode);
    let status = world.status().await;
    assert_eq!((status.inodes, status.file_bytes, status.engine.as_str()), (4, 5, "embedded"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_serves_one_process_at_a_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let _first = embedded(dir.path());
    let options = EmbeddedOptions { cache_bytes: 1 << 20, clock: Arc::new(SystemClock::new()) };
    match EmbeddedEngine::open(dir.path(), options) {
        Err(EngineError::Failed { cause }) => assert!(cause.contains("in use"), "{cause}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened twice"),
    }
}

#[tokio::test]
async fn newer_data_is_refused() {
    let engine: Arc<dyn Engine> = Arc::new(MapEngine::new());
    drop(World::over(engine.clone()).await);
    let key = keys::Setting { name: keys::setting::FORMAT_VERSION.into() };
    let mut txn = engine.begin().await.expect("begin");
    txn.put(key.encode(), rows::Setting { value: vec![3, 0, 0, 0].into() }.encode());
    txn.commit(Durability::Durable).await.expect("committed");
    let opened = Meta::open(engine, options(Arc::new(SystemClock::new()))).await;
    match opened.map(|_| ()) {
        Err(error @ OpenError::NewerFormat { found: 3, known: 2 }) => {
            assert!(error.to_string().contains("run the newer program"));
        }
        other => panic!("{other:?}"),
    }
}

/// Run as a child by [`acknowledged_creates_survive_a_kill`]: makes files and says so until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the killed half of another test"]
async fn child_creates_until_killed() {
    let Some(dir) = std::env::var_os("CAIRN_META_TEST_DIR") else { return };
    let world = World::over(embedded(dir.as_ref())).await;
    for index in 0u64.. {
        let relaxed = index % 3 == 0;
        let request = pb::Request {
            op_id: Some(world.next_op()),
            relaxed,
            kind: Some(create(&format!("f{index}"))),
            ..Default::default()
        };
        world.meta.execute(&request).await.expect("made");
        println!("made f{index}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_creates_survive_a_kill() {
    use std::io::BufRead;
    let dir = tempfile::tempdir().expect("a directory");
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--ignored", "--exact", "--nocapture", "durability::child_creates_until_killed"])
            .env("CAIRN_META_TEST_DIR", dir.path().join(round.to_string()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let lines = std::io::BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut made = Vec::new();
        for line in lines.map_while(Result::ok) {
            if let Some(name) = line.trim().rsplit(' ').next().filter(|_| line.contains("made f")) {
                made.push(name.to_string());
            }
            if made.len() == 40 * round {
                child.kill().expect("killed");
            }
        }
        child.wait().expect("ended");
        assert!(made.len() >= 40 * round);
        let world = World::over(embedded(&dir.path().join(round.to_string()))).await;
        for name in &made {
            let file = world.stat(name).await.expect("acknowledged, so it is there");
            assert_eq!(file.kind(), pb::Kind::File);
        }
        // Numbers go on behind all that were given out.
        let ask = Kind::Create(pb::Create { at: Some(at("after")), exclusive: true, ..Default::default() });
        let Ok(pb::response::Kind::Attr(after)) = world.change(ask).await else { panic!("not made") };
        let last = world.stat(made.last().expect("some")).await.expect("there").inode;
        assert!(after.inode > last);
    }
}

#[tokio::test]
async fn what_is_committed_counts_though_its_caller_gave_up() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let world = World::over(embedded(dir.path())).await;
    world.add_nodes(3).await;
    let file = world.create("f").await.expect("made").inode;
    let mut happened = 0;
    for index in 0..50u64 {
        let before = world.stat("f").await.expect("there").size;
        {
            // Given up somewhere on its way: polled once, or once more for every round.
            let mut write = std::pin::pin!(world.write(file, index * 1000, 1000));
            for _ in 0..=index % 8 {
                let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(write.as_mut().poll(cx).is_ready()));
                if polled.await {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        // A commit behind it in the queue: what went before is decided.
        world.mkdir(&format!("d{index}")).await.expect("made");
        let size = world.stat("f").await.expect("there").size;
        assert_eq!(world.status().await.file_bytes, size, "in round {index}");
        happened += u64::from(size > before);
    }
    assert!(happened > 0, "some were committed all the same");
}
