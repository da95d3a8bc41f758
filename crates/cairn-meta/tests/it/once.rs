//! Exactly once: every mutation sent twice is answered alike and done once.

use crate::bent::{Bend, Bent, Ready};
use crate::support::{World, at, attr, bytes, code, create, mkdir};
use cairn_meta::kv::{CommitOutcome, EngineError};
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

async fn send(world: &World, op_id: pb::OpId, kind: Kind) -> Result<Reply, Status> {
    world.meta.execute(&pb::Request { op_id: Some(op_id), kind: Some(kind), ..Default::default() }).await
}

/// Every kind of mutation, each of which would do harm or fail when done twice.
async fn mutations(world: &World) -> Vec<Kind> {
    let inode = |path: &'static str| async move { world.stat(path).await.expect(path).inode };
    let members = world.members(1).await;
    let unnamed = world.alloc_inode().await;
    let published = world.alloc_inode().await;
    let named = world.alloc_inode().await;
    let ask = pb::CreateUnnamed { inode: named, dir: Some(at("")), attr: None };
    world.change(Kind::CreateUnnamed(ask)).await.expect("made");
    let append = pb::Commit {
        inode: inode("small").await,
        inline: Some(pb::InlineWrite { offset: 0, data: bytes("x") }),
        append: true,
        ..Default::default()
    };
    let piece = world.piece(0, 100_000, &members);
    vec![
        mkdir("new"),
        Kind::Create(pb::Create {
            at: Some(at("c")),
            attr: Some(attr(0o600)),
            exclusive: true,
            follow: false,
            ..Default::default()
        }),
        Kind::CreateUnnamed(pb::CreateUnnamed { inode: unnamed, dir: Some(at("")), attr: None }),
        Kind::Publish(pb::Publish { at: Some(at("p")), inode: published, ..Default::default() }),
        Kind::Publish(pb::Publish { at: Some(at("q")), inode: named, unnamed: true, ..Default::default() }),
        Kind::Symlink(pb::Symlink { at: Some(at("s")), target: bytes("t"), ..Default::default() }),
        Kind::Rename(pb::Rename { from: Some(at("from")), to: Some(at("to")), no_replace: true, ..Default::default() }),
        Kind::Unlink(pb::Unlink { at: Some(at("gone")), ..Default::default() }),
        Kind::Rmdir(pb::Rmdir { at: Some(at("dir")), ..Default::default() }),
        Kind::SetAttr(pb::SetAttr { at: Some(at("small")), mode: Some(0o777), ..Default::default() }),
        Kind::Truncate(pb::Truncate { inode: inode("small").await, size: 1, mtime_ns: None }),
        Kind::Commit(append),
        Kind::Commit(world.commit(inode("big").await, vec![piece])),
    ]
}

async fn everything(world: &World) -> (Vec<pb::DirEntry>, pb::ClusterStatusReply) {
    let ask = pb::ReadDir { at: Some(at("")), with_attr: true, ..Default::default() };
    let Ok(Reply::ReadDir(page)) = world.ask(Kind::ReadDir(ask)).await else { panic!("no listing") };
    (page.entries, world.status().await)
}

#[tokio::test]
async fn every_mutation_sent_again_is_done_once() {
    let world = World::with_groups().await;
    for file in ["from", "gone", "small", "big"] {
        world.create(file).await.expect(file);
    }
    world.mkdir("dir").await.expect("made");
    let small = world.stat("small").await.expect("there").inode;
    world.inline(small, 0, b"abc").await.expect("written");
    for kind in mutations(&world).await {
        let op_id = world.next_op();
        let first = send(&world, op_id, kind.clone()).await.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        let state = everything(&world).await;
        world.clock.advance(std::time::Duration::from_millis(1));
        for _ in 0..2 {
            assert_eq!(send(&world, op_id, kind.clone()).await.as_ref(), Ok(&first), "{kind:?}");
        }
        assert_eq!(everything(&world).await, state, "{kind:?}");
    }
}

#[tokio::test]
async fn an_older_operation_of_a_slot_is_refused() {
    let world = World::new().await;
    let old = world.next_op();
    let new = world.next_op();
    send(&world, new, create("new")).await.expect("made");
    assert_eq!(code(send(&world, old, create("old")).await), Code::StaleSeq);
    assert_eq!(code(world.stat("old").await), Code::NotFound);
    // Another slot has its own count.
    send(&world, pb::OpId { slot: 63, seq: 1, ..new }, create("other")).await.expect("made");
    assert_eq!(code(send(&world, pb::OpId { slot: 64, ..new }, create("x")).await), Code::Invalid);
    assert_eq!(code(send(&world, pb::OpId { seq: 0, ..new }, create("x")).await), Code::Invalid);
}

#[tokio::test]
async fn a_failed_operation_leaves_its_number_free() {
    let world = World::new().await;
    let op_id = world.next_op();
    assert_eq!(code(send(&world, op_id, create("d/f")).await), Code::NotFound);
    world
        .meta
        .execute(&pb::Request {
            op_id: Some(pb::OpId { slot: 1, ..op_id }),
            kind: Some(mkdir("d")),
            ..Default::default()
        })
        .await
        .expect("made");
    send(&world, op_id, create("d/f")).await.expect("the same operation, slower");
}

/// The next commit is applied, and its outcome is lost.
#[derive(Clone)]
struct Forgetful(Arc<AtomicBool>);

#[async_trait::async_trait]
impl Bend for Forgetful {
    async fn commit(&self, ready: Ready) -> Result<CommitOutcome, EngineError> {
        let outcome = ready.commit().await?;
        let forgotten = self.0.swap(false, Ordering::SeqCst);
        Ok(if forgotten { CommitOutcome::Unknown } else { outcome })
    }
}

#[tokio::test]
async fn an_unknown_outcome_is_resolved_by_asking_again() {
    let forget = Arc::new(AtomicBool::new(false));
    let world = World::over(Arc::new(Bent::of(Forgetful(forget.clone())))).await;
    let file = world.create("f").await.expect("made").inode;
    let append = |text: &str| {
        let inline = Some(pb::InlineWrite { offset: 0, data: bytes(text) });
        Kind::Commit(pb::Commit { inode: file, inline, append: true, ..Default::default() })
    };
    let op_id = world.next_op();
    forget.store(true, Ordering::SeqCst);
    assert_eq!(code(send(&world, op_id, append("once")).await), Code::OutcomeUnknown);
    let Ok(Reply::Commit(reply)) = send(&world, op_id, append("once")).await else { panic!("no reply") };
    assert_eq!((reply.size, reply.offset), (4, 0));
    assert_eq!(world.stat("f").await.expect("there").size, 4);
}
