//! Further names, special files, exchanges, and directories that must not come to lie in themselves.

use crate::support::{World, at, at_inode, attr, bytes, code};
use cairn_meta::keys::{self, Key};
use cairn_meta::kv::{CommitOutcome, Durability, Engine, MapEngine};
use cairn_meta::rows::{self, Row};
use cairn_proto::limits::LINKS_MAX;
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::status::{Code, Status};
use std::sync::Arc;
use std::time::Duration;

async fn rename(world: &World, from: &str, to: &str, exchange: bool) -> Result<(), Status> {
    let ask = pb::Rename { from: Some(at(from)), to: Some(at(to)), no_replace: false, exchange };
    world.change(Kind::Rename(ask)).await.map(|_| ())
}

async fn nlink(world: &World, path: &str) -> u32 {
    world.stat(path).await.expect("there").nlink
}

#[tokio::test]
async fn names_are_counted_through_every_change() {
    let world = World::new().await;
    let made = world.create("a").await.expect("made");
    world.inline(made.inode, 0, b"content").await.expect("written");
    world.mkdir("d").await.expect("made");
    world.clock.advance(Duration::from_secs(1));
    let linked = world.link("a", "d/b").await.expect("linked");
    assert_eq!((linked.inode, linked.nlink, linked.size, linked.mtime_ns), (made.inode, 2, 7, made.mtime_ns));
    assert!(linked.ctime_ns > made.ctime_ns);
    assert_eq!(world.stat("d").await.expect("there").mtime_ns, linked.ctime_ns);
    world.link("d/b", "c").await.expect("linked");
    assert_eq!(code(world.link("a", "c").await), Code::Exists);
    assert_eq!(code(world.link("d", "e").await), Code::NotPermitted);
    assert_eq!(code(world.link("nowhere", "e").await), Code::NotFound);
    // Two names of one inode: nothing is done, and both stay.
    world.rename("a", "c").await.expect("the same");
    assert_eq!((nlink(&world, "a").await, nlink(&world, "c").await), (3, 3));
    // One name is replaced, the others keep the content.
    world.create("other").await.expect("made");
    world.rename("other", "c").await.expect("replaced");
    assert_eq!((nlink(&world, "a").await, nlink(&world, "c").await), (2, 1));
    world.unlink("a").await.expect("removed");
    assert_eq!(nlink(&world, "d/b").await, 1);
    assert_eq!(world.extents(made.inode, 0, 100).await.extents[0].inline, bytes("content"));
    world.unlink("d/b").await.expect("removed");
    assert_eq!(code(world.stat_inode(made.inode).await), Code::NotFound);
    assert_eq!(code(world.change(Kind::Link(to_inode(made.inode, "z"))).await), Code::NotFound);
    // A link to a symbolic link is to the link, unless it is asked to follow.
    world.symlink("s", "c").await.expect("made");
    assert_eq!(world.link("s", "s2").await.expect("linked").kind(), pb::Kind::Symlink);
    let follow = pb::Link { from: Some(at("s")), to: Some(at("c2")), follow: true };
    world.change(Kind::Link(follow)).await.expect("linked");
    assert_eq!((nlink(&world, "c").await, nlink(&world, "s2").await), (2, 2));
    assert_eq!(world.broken_rules().await, Vec::<String>::new());
}

fn to_inode(inode: u64, to: &str) -> pb::Link {
    pb::Link { from: Some(at_inode(inode)), to: Some(at(to)), follow: false }
}

/// Changes the row of an inode behind metadata's back.
async fn tamper(engine: &Arc<dyn Engine>, inode: u64, change: impl FnOnce(&mut rows::Inode)) {
    let key = keys::Inode { inode }.encode();
    let mut txn = engine.begin().await.expect("begun");
    let mut row = rows::Inode::decode(&txn.get(&key).await.expect("read").expect("there")).expect("whole");
    change(&mut row);
    txn.put(key, row.encode());
    assert_eq!(txn.commit(Durability::Relaxed).await, Ok(CommitOutcome::Done));
}

#[tokio::test]
async fn names_are_bounded_and_stay_in_their_quota() {
    let engine: Arc<dyn Engine> = Arc::new(MapEngine::new());
    let world = World::over(engine.clone()).await;
    let file = world.create("f").await.expect("made").inode;
    tamper(&engine, file, |row| row.nlink = LINKS_MAX - 1).await;
    world.link("f", "last").await.expect("linked");
    assert_eq!(code(world.link("f", "beyond").await), Code::TooManyLinks);
    let dir = world.mkdir("d").await.expect("made").inode;
    tamper(&engine, dir, |row| row.quota_root = dir).await;
    let inside = world.create("d/g").await.expect("made");
    world.create("free").await.expect("made");
    assert_eq!(code(world.link("free", "d/f").await), Code::CrossDevice);
    assert_eq!(code(world.change(Kind::Link(to_inode(inside.inode, "out"))).await), Code::CrossDevice);
    assert_eq!(code(rename(&world, "f", "d/f", false).await), Code::CrossDevice);
    assert_eq!(code(rename(&world, "f", "d/g", true).await), Code::CrossDevice);
    world.link("d/g", "d/h").await.expect("linked");
}

#[tokio::test]
async fn special_files_are_made_shown_and_removed() {
    let world = World::new().await;
    let mknod = |path: &str, kind: pb::Kind, rdev| {
        Kind::Mknod(pb::Mknod { at: Some(at(path)), attr: Some(attr(0o640)), kind: kind as i32, rdev })
    };
    for (path, kind, rdev) in [
        ("fifo", pb::Kind::Fifo, 0),
        ("socket", pb::Kind::Socket, 0),
        ("null", pb::Kind::CharDevice, 0x103),
        ("sda", pb::Kind::BlockDevice, 0x800),
        ("file", pb::Kind::File, 0),
    ] {
        world.change(mknod(path, kind, rdev)).await.expect("made");
        let found = world.stat(path).await.expect("there");
        assert_eq!((found.kind(), found.rdev, found.mode, found.nlink, found.size), (kind, rdev, 0o640, 1, 0));
        assert_eq!(found.btime_ns, found.ctime_ns);
        assert_eq!(code(world.change(mknod(path, kind, rdev)).await), Code::Exists);
    }
    for kind in [pb::Kind::Directory, pb::Kind::Symlink, pb::Kind::Unknown] {
        assert_eq!(code(world.change(mknod("x", kind, 0)).await), Code::Invalid);
    }
    assert_eq!(code(world.change(mknod("x", pb::Kind::Fifo, 5)).await), Code::Invalid);
    // None of them has content, and none is a directory.
    let fifo = world.stat("fifo").await.expect("there").inode;
    assert_eq!(code(world.create("fifo").await), Code::Invalid);
    assert_eq!(code(world.inline(fifo, 0, b"x").await), Code::Invalid);
    assert_eq!(code(world.truncate(fifo, 0).await), Code::Invalid);
    assert_eq!(code(world.create("fifo/x").await), Code::NotADirectory);
    assert_eq!(code(world.rmdir("fifo").await), Code::NotADirectory);
    world.link("fifo", "again").await.expect("linked");
    world.rename("fifo", "file").await.expect("replaced");
    assert_eq!(world.list("").await.expect("listed"), ["again", "file", "null", "sda", "socket"]);
    for name in ["again", "file", "null", "sda", "socket"] {
        world.unlink(name).await.expect("removed");
    }
    assert_eq!(world.status().await.inodes, 1);
}

#[tokio::test]
async fn two_names_change_places() {
    let world = World::new().await;
    for dir in ["a", "a/deep", "b"] {
        world.mkdir(dir).await.expect("made");
    }
    let file = world.create("b/f").await.expect("made").inode;
    let deep = world.stat("a/deep").await.expect("there").inode;
    world.clock.advance(Duration::from_secs(1));
    rename(&world, "a/deep", "b/f", true).await.expect("exchanged");
    assert_eq!(world.stat("a/deep").await.expect("there").inode, file);
    assert_eq!(world.stat("b/f").await.expect("there").inode, deep);
    let (a, b, f) = (world.stat("a").await, world.stat("b").await, world.stat("b/f").await);
    let now = f.expect("there").ctime_ns;
    assert_eq!((a.expect("there").mtime_ns, b.expect("there").mtime_ns), (now, now));
    // `..` follows.
    let above = pb::Stat { at: Some(pb::At { dir: deep, path: bytes("..") }), follow: false, ..Default::default() };
    let above = world.ask(Kind::Stat(above)).await.expect("there");
    assert_eq!(crate::support::Expect::into_attr(above).inode, world.stat("b").await.expect("there").inode);
    // Full directories may change places, but not with one above or below them.
    world.create("b/f/inside").await.expect("made");
    rename(&world, "a", "b", true).await.expect("exchanged");
    world.stat("a/f/inside").await.expect("there");
    assert_eq!(code(rename(&world, "a", "a/f", true).await), Code::Invalid);
    assert_eq!(code(rename(&world, "a/f", "a", true).await), Code::Invalid);
    assert_eq!(code(rename(&world, "a", "nowhere", true).await), Code::NotFound);
    let both = pb::Rename { from: Some(at("a")), to: Some(at("b")), no_replace: true, exchange: true };
    assert_eq!(code(world.change(Kind::Rename(both)).await), Code::Invalid);
    assert_eq!(world.broken_rules().await, Vec::<String>::new());
}

/// Two moves that would each be fine alone, and together cut two directories off the tree: only one happens. Where they go
/// is named by number, so that nothing but the chain of parents speaks against them: with it read unvalidated, both do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_renames_do_not_tie_a_knot() {
    let world = Arc::new(World::new().await);
    let in_slot = async |world: Arc<World>, slot: u32, seq: u64, kind: Kind| {
        let op_id = Some(pb::OpId { session: world.session, epoch: 1, slot, seq });
        world.meta.execute(&pb::Request { op_id, kind: Some(kind), ..Default::default() }).await
    };
    for round in 1..=300u64 {
        let mut below = Vec::new();
        for dir in ["a", "b"] {
            world.mkdir(&format!("{round}-{dir}")).await.expect("made");
            below.push(world.mkdir(&format!("{round}-{dir}/x")).await.expect("made").inode);
        }
        let mv = |from: &str, dir: u64| {
            let to = pb::At { dir, path: bytes("in") };
            let from = at(&format!("{round}-{from}"));
            Kind::Rename(pb::Rename { from: Some(from), to: Some(to), ..Default::default() })
        };
        let one = tokio::spawn(in_slot(world.clone(), 1, round, mv("a", below[1])));
        let two = tokio::spawn(in_slot(world.clone(), 2, round, mv("b", below[0])));
        let done = [one.await.expect("ran").is_ok(), two.await.expect("ran").is_ok()];
        assert_eq!(done.iter().filter(|done| **done).count(), 1, "round {round}");
    }
    assert_eq!(world.broken_rules().await, Vec::<String>::new());
}
