//! Many at once.

use crate::support::{World, code, create, embedded, mkdir};
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::Code;
use std::sync::Arc;

/// Sends `kind` as the only operation of one of the session's slots.
async fn in_slot(world: &World, slot: u32, seq: u64, kind: Kind) -> Result<Reply, cairn_proto::status::Status> {
    let op_id = Some(pb::OpId { session: world.session, epoch: 1, slot, seq });
    world.meta.execute(&pb::Request { op_id, kind: Some(kind), relaxed: false, ..Default::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_tasks_fill_one_directory() {
    const FILES: u64 = 25;
    let dir = tempfile::tempdir().expect("a directory");
    let world = Arc::new(World::over(embedded(dir.path())).await);
    world.mkdir("d").await.expect("made");
    let mut tasks = Vec::new();
    for slot in 1..=16 {
        let world = world.clone();
        tasks.push(tokio::spawn(async move {
            for seq in 1..=FILES {
                in_slot(&world, slot, seq, create(&format!("d/{slot}-{seq}"))).await.expect("no conflict surfaces");
            }
        }));
    }
    for task in tasks {
        task.await.expect("no task fails");
    }
    assert_eq!(world.list("d").await.expect("listed").len() as u64, 16 * FILES);
    assert_eq!(world.status().await.inodes, 2 + 16 * FILES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_to_one_file_all_land() {
    const APPENDS: u64 = 10;
    let world = Arc::new(World::new().await);
    let inode = world.create("f").await.expect("made").inode;
    let mut tasks = Vec::new();
    for slot in 1..=16u32 {
        let world = world.clone();
        tasks.push(tokio::spawn(async move {
            let mut offsets = Vec::new();
            for seq in 1..=APPENDS {
                let data = vec![slot as u8; 4].into();
                let inline = Some(pb::InlineWrite { offset: 0, data });
                let ask = pb::Commit { inode, inline, append: true, ..Default::default() };
                match in_slot(&world, slot, seq, Kind::Commit(ask)).await {
                    Ok(Reply::Commit(reply)) => offsets.push(reply.offset),
                    other => panic!("{other:?}"),
                }
            }
            offsets
        }));
    }
    let mut all = Vec::new();
    for (slot, task) in (1u8..).zip(tasks) {
        all.extend(task.await.expect("no task fails").into_iter().map(|offset| (offset, slot)));
    }
    all.sort_unstable();
    let content = world.extents(inode, 0, 1 << 20).await.extents[0].inline.clone();
    assert_eq!(content.len() as u64, 16 * APPENDS * 4);
    for (index, (offset, slot)) in all.into_iter().enumerate() {
        assert_eq!(offset, index as u64 * 4);
        assert_eq!(content[offset as usize..offset as usize + 4], [slot; 4]);
    }
}

/// A directory is removed while names are made in it: never both, never neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_name_is_made_in_a_removed_directory() {
    let world = Arc::new(World::new().await);
    for round in 1..=100u64 {
        in_slot(&world, 1, 2 * round - 1, mkdir("d")).await.expect("made");
        let maker = {
            let world = world.clone();
            tokio::spawn(async move { in_slot(&world, 2, round, create("d/f")).await })
        };
        let rmdir = Kind::Rmdir(pb::Rmdir { at: Some(crate::support::at("d")), ..Default::default() });
        let removed = in_slot(&world, 1, 2 * round, rmdir).await;
        let made = maker.await.expect("no task fails");
        match (&made, &removed) {
            (Ok(_), Err(error)) => assert_eq!(error.code, Code::NotEmpty),
            (Err(error), Ok(_)) => assert_eq!(error.code, Code::NotFound),
            other => panic!("{other:?}"),
        }
        if made.is_ok() {
            world.unlink("d/f").await.expect("removed");
            world.rmdir("d").await.expect("removed");
        }
        assert_eq!(code(world.stat("d").await), Code::NotFound);
    }
}

/// Two renames that together would tie a knot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_directories_cannot_move_into_each_other() {
    let world = Arc::new(World::new().await);
    for round in 1..=100u64 {
        world.mkdir("a").await.expect("made");
        world.mkdir("b").await.expect("made");
        let rename = |from: &str, to: &str| {
            let (from, to) = (Some(crate::support::at(from)), Some(crate::support::at(to)));
            Kind::Rename(pb::Rename { from, to, ..Default::default() })
        };
        let (one, two) = (rename("a", "b/a"), rename("b", "a/b"));
        let other = {
            let world = world.clone();
            tokio::spawn(async move { in_slot(&world, 2, round, two).await })
        };
        let first = in_slot(&world, 1, round, one).await;
        let second = other.await.expect("no task fails");
        assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
        let (outer, inner) = if first.is_ok() { ("b", "b/a") } else { ("a", "a/b") };
        world.rmdir(inner).await.expect("removed");
        world.rmdir(outer).await.expect("removed");
    }
    assert!(world.list("").await.expect("listed").is_empty());
}
