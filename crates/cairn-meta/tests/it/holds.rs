//! Inodes that a session keeps alive beyond their last name.

use crate::support::{BLOCK, Expect, World, at, at_inode, attr, bytes, code};
use crate::watched::{SMALL, WatchedEngine};
use cairn_proto::limits::HOLDS_PER_REQUEST_MAX;
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::status::{Code, Status};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

async fn hold(world: &World, session: u64, inode: u64) -> Result<(), Status> {
    world.change_in(session, Kind::Sustain(pb::Sustain { inodes: vec![inode] })).await.map(|_| ())
}

async fn release(world: &World, session: u64, inode: u64) {
    let ask = pb::Release { session, inodes: vec![inode] };
    world.change_in(session, Kind::Release(ask)).await.expect("released");
}

#[tokio::test]
async fn a_removed_file_lives_as_long_as_it_is_held() {
    let world = World::new().await;
    let reader = world.open_session().await;
    for replaced in [false, true] {
        let file = world.create("f").await.expect("made").inode;
        world.inline(file, 0, b"content").await.expect("written");
        for session in [world.session, reader, reader] {
            hold(&world, session, file).await.expect("held");
        }
        if replaced {
            world.create("new").await.expect("made");
            world.rename("new", "f").await.expect("replaced");
        } else {
            world.unlink("f").await.expect("removed");
        }
        assert_eq!(world.stat_inode(file).await.expect("held").nlink, 0);
        assert_eq!(world.extents(file, 0, 100).await.extents[0].inline, bytes("content"));
        world.inline(file, 7, b", more").await.expect("still written");
        let link = pb::Link { from: Some(at_inode(file)), to: Some(at("again")), follow: false };
        assert_eq!(code(world.change(Kind::Link(link)).await), Code::NotFound, "what is removed stays removed");
        assert_eq!(world.broken_rules().await, Vec::<String>::new());
        // Every hold counts, of each session.
        release(&world, reader, file).await;
        release(&world, world.session, file).await;
        assert_eq!(world.stat_inode(file).await.expect("held").size, 13);
        release(&world, reader, file).await;
        assert_eq!(code(world.stat_inode(file).await), Code::NotFound);
        release(&world, reader, file).await;
        while world.meta.drop_maps().await.expect("dropped") {}
        assert_eq!(world.broken_rules().await, Vec::<String>::new());
    }
    assert_eq!(world.status().await.inodes, 2);
}

#[tokio::test]
async fn what_a_session_holds_ends_with_it() {
    let world = World::new().await;
    let (closed, silent) = (world.open_session().await, world.open_session().await);
    let file = world.create("f").await.expect("made").inode;
    let kept = world.create("kept").await.expect("made").inode;
    for session in [closed, silent] {
        hold(&world, session, file).await.expect("held");
        hold(&world, session, kept).await.expect("held");
    }
    world.unlink("f").await.expect("removed");
    world.ask(Kind::CloseSession(pb::CloseSession { session: closed, epoch: 1 })).await.expect("closed");
    assert!(world.stat_inode(file).await.is_ok(), "another holds it");
    // In short steps, so that nothing is taken for a pause of this process.
    for _ in 0..20 {
        world.clock.advance(Duration::from_secs(5));
        let renew = pb::RenewSession { session: world.session, epoch: 1 };
        world.ask(Kind::RenewSession(renew)).await.expect("renewed");
        while world.meta.expire_sessions().await.expect("looked") {}
    }
    assert_eq!(code(world.stat_inode(file).await), Code::NotFound);
    assert!(world.stat("kept").await.is_ok(), "what has a name stays");
    assert_eq!(code(hold(&world, silent, kept).await), Code::Fenced);
    // A release that comes late does not touch what another session holds meanwhile.
    hold(&world, world.session, kept).await.expect("held");
    let late = pb::Release { session: silent, inodes: vec![kept] };
    world.change(Kind::Release(late)).await.expect("ignored");
    world.unlink("kept").await.expect("removed");
    assert!(world.stat_inode(kept).await.is_ok());
    assert_eq!(world.broken_rules().await, Vec::<String>::new());
}

/// The last holds on files in several pieces go within what a narrow engine takes at once.
#[tokio::test]
async fn a_session_ends_in_steps_that_fit_the_engine() {
    let engine = Arc::new(WatchedEngine::new(SMALL));
    let world = World::over(engine.clone()).await;
    world.add_nodes(3).await;
    let session = world.open_session().await;
    for file in 0..5 {
        let name = format!("f{file}");
        let inode = world.create(&name).await.expect("made").inode;
        // Pieces that do not touch, so that each is a row.
        for piece in 0..8 {
            world.write(inode, piece * 2 * u64::from(BLOCK), u64::from(BLOCK)).await.expect("written");
        }
        hold(&world, session, inode).await.expect("held");
        world.unlink(&name).await.expect("removed");
    }
    world.ask(Kind::CloseSession(pb::CloseSession { session, epoch: 1 })).await.expect("closed");
    while world.meta.drop_maps().await.expect("dropped") {}
    assert_eq!(world.status().await.inodes, 1);
    assert!(engine.watch().writes_most.load(Ordering::SeqCst) <= SMALL.writes);
    assert_eq!(world.broken_rules().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_cannot_be_held_is_refused_as_a_whole() {
    let world = World::new().await;
    let dir = world.mkdir("d").await.expect("made").inode;
    let file = world.create("f").await.expect("made").inode;
    let ask = |inodes: Vec<u64>| Kind::Sustain(pb::Sustain { inodes });
    assert_eq!(code(world.change(ask(vec![dir])).await), Code::IsADirectory);
    assert_eq!(code(world.change(ask(vec![file, 1 << 40])).await), Code::NotFound);
    assert_eq!(code(world.change(ask(vec![file; HOLDS_PER_REQUEST_MAX + 1])).await), Code::Invalid);
    world.unlink("f").await.expect("removed");
    assert_eq!(code(world.stat_inode(file).await), Code::NotFound, "the hold of a refused request does not count");
}

#[tokio::test]
async fn a_file_made_without_a_name_is_linked_once() {
    let world = World::new().await;
    let inode = world.alloc_inode().await;
    let ask = pb::CreateUnnamed { inode, dir: Some(at("")), attr: Some(attr(0o600)) };
    world.change(Kind::CreateUnnamed(ask)).await.expect("made");
    world.inline(inode, 0, b"content").await.expect("written");
    let link = |to: &str| Kind::Link(pb::Link { from: Some(at_inode(inode)), to: Some(at(to)), follow: false });
    let other = world.open_session().await;
    assert_eq!(code(world.change_in(other, link("f")).await), Code::NotFound, "not of that session");
    let linked = world.change(link("f")).await.expect("linked").into_attr();
    assert_eq!((linked.nlink, linked.size, linked.mode), (1, 7, 0o600));
    world.change(link("g")).await.expect("an ordinary link");
    // It is still open, and its second name no way back.
    world.unlink("f").await.expect("removed");
    world.unlink("g").await.expect("removed");
    assert_eq!(world.stat_inode(inode).await.expect("held").nlink, 0);
    assert_eq!(code(world.change(link("h")).await), Code::NotFound);
    release(&world, world.session, inode).await;
    assert_eq!(code(world.stat_inode(inode).await), Code::NotFound);
}
