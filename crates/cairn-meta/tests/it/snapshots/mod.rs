//! Snapshots: a tree as it was, whatever happens to it afterwards; and what they hold.

mod model;

use crate::support::{BLOCK, Expect, World, at, bytes, code};
use bytes::Bytes;
use cairn_meta::keys::{self, Key};
use cairn_meta::kv::{Engine, Order};
use cairn_meta::rows::{self, Row};
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A block, and where in it some bytes lie.
pub type Place = (u64, u64, u32, u64);
/// Bytes that are told apart when files are compared.
pub const UNIT: u64 = 16 * 1024;

/// What there is to see of something: its attributes, and where the bytes of a file lie.
#[derive(Clone, PartialEq, Debug)]
pub struct Seen {
    pub attr: pb::Attr,
    pub units: Vec<Option<Place>>,
    pub inline: Bytes,
}

impl World {
    pub async fn snapshot(&self, path: &str, name: &str) -> Result<pb::Snapshot, Status> {
        let ask = pb::CreateSnapshot { at: Some(at(path)), name: bytes(name), ..Default::default() };
        match self.change(Kind::CreateSnapshot(ask)).await? {
            Reply::CreateSnapshot(snapshot) => Ok(snapshot),
            other => panic!("{other:?}"),
        }
    }

    pub async fn hold(&self, owner: &str, ttl_ms: u64) -> Result<pb::Snapshot, Status> {
        let ask = pb::CreateSnapshot { owner: owner.into(), ttl_ms, ..Default::default() };
        match self.change(Kind::CreateSnapshot(ask)).await? {
            Reply::CreateSnapshot(snapshot) => Ok(snapshot),
            other => panic!("{other:?}"),
        }
    }

    pub async fn delete_snapshot(&self, path: &str, name: &str) -> Result<(), Status> {
        let ask = pb::DeleteSnapshot { at: Some(at(path)), name: bytes(name), number: 0 };
        self.change(Kind::DeleteSnapshot(ask)).await.map(|_| ())
    }

    pub async fn snapshots(&self, path: Option<&str>, holds: bool) -> Vec<(u64, String)> {
        let (mut found, mut after) = (Vec::new(), 0);
        loop {
            let ask = pb::ListSnapshots { at: path.map(at), holds, after, limit: 2 };
            let Ok(Reply::ListSnapshots(page)) = self.ask(Kind::ListSnapshots(ask)).await else { panic!("no list") };
            for snapshot in page.snapshots {
                after = snapshot.number;
                found.push((snapshot.number, String::from_utf8_lossy(&snapshot.name).into_owned()));
            }
            if page.end {
                return found;
            }
        }
    }

    async fn seen(&self, attr: pb::Attr) -> Seen {
        let mut seen = Seen { attr, units: Vec::new(), inline: Bytes::new() };
        if seen.attr.kind() == pb::Kind::File {
            let (mut offset, size) = (0, seen.attr.size);
            seen.units = vec![None; size.div_ceil(UNIT) as usize];
            while offset < size {
                let page = self.extents(seen.attr.inode, offset, size - offset).await;
                assert_eq!((page.size, page.version), (seen.attr.size, seen.attr.version));
                for extent in &page.extents {
                    let Some(first) = &extent.first else {
                        seen.inline = extent.inline.clone();
                        continue;
                    };
                    let mut at = extent.offset;
                    while at < extent.offset + extent.len {
                        let inside = u64::from(extent.skip) + at - extent.offset;
                        let seq = first.seq + (inside / u64::from(extent.block_len)) as u32;
                        let place = (first.inode, first.writer, seq, inside % u64::from(extent.block_len));
                        seen.units[(at / UNIT) as usize] = Some(place);
                        at += UNIT;
                    }
                }
                assert!(page.covered_to > offset, "a page that covers nothing");
                offset = page.covered_to;
            }
        }
        // Numbers are another inode's in a snapshot.
        seen.attr.inode = 0;
        seen
    }

    /// Everything at and below `path`.
    pub async fn tree(&self, path: &str) -> BTreeMap<String, Seen> {
        self.tree_at(1, path).await
    }

    /// Everything at and below `path` in the directory with inode `dir`.
    pub async fn tree_at(&self, dir: u64, path: &str) -> BTreeMap<String, Seen> {
        let mut found = BTreeMap::new();
        let mut rest = vec![String::new()];
        while let Some(below) = rest.pop() {
            let place = Some(pb::At { dir, path: bytes(&format!("{path}{below}")) });
            let attr =
                match self.ask(Kind::Stat(pb::Stat { at: place.clone(), follow: false, ..Default::default() })).await {
                    Ok(Reply::Attr(attr)) => attr,
                    // An engine that forgets may list what it does not have.
                    _ => continue,
                };
            if attr.kind() == pb::Kind::Directory {
                let mut after = Bytes::new();
                loop {
                    let ask =
                        pb::ReadDir { at: place.clone(), after, limit: 7, with_attr: false, ..Default::default() };
                    let Ok(Reply::ReadDir(page)) = self.ask(Kind::ReadDir(ask)).await else { panic!("no listing") };
                    after = page.entries.last().map(|entry| entry.name.clone()).unwrap_or_default();
                    rest.extend(
                        page.entries.iter().map(|entry| format!("{below}/{}", String::from_utf8_lossy(&entry.name))),
                    );
                    if page.end {
                        break;
                    }
                }
            }
            found.insert(below, self.seen(attr).await);
        }
        found
    }
}

/// The rows of a table.
pub async fn table<K: Key>(engine: &Arc<dyn Engine>) -> Vec<(K, K::Row)> {
    let rows = engine.begin().await.expect("begun").scan(&K::all(), usize::MAX >> 1, Order::Forward).await;
    let decoded = rows.expect("read").into_iter();
    decoded.map(|(key, row)| (K::decode(&key).expect("a key"), K::Row::decode(&row).expect("a row"))).collect()
}

/// Blocks by their ids.
pub type BlockSet = BTreeSet<(u64, u64, u32)>;

pub async fn garbage(engine: &Arc<dyn Engine>) -> BlockSet {
    let mut blocks = BlockSet::new();
    for (key, row) in table::<keys::Garbage>(engine).await {
        for seq in key.seq..key.seq + row.count {
            assert!(blocks.insert((key.inode, key.writer, seq)), "block {seq} is garbage twice");
        }
    }
    blocks
}

pub async fn held(engine: &Arc<dyn Engine>) -> BlockSet {
    let mut blocks = BlockSet::new();
    for (key, row) in table::<keys::HeldGarbage>(engine).await {
        for seq in key.seq..key.seq + row.count {
            assert!(blocks.insert((key.inode, key.writer, seq)), "block {seq} is held twice");
        }
    }
    blocks
}

pub async fn settle(world: &World) {
    while world.meta.drop_maps().await.expect("dropped") {}
    while world.meta.trim_snapshots().await.expect("trimmed") {}
}

pub async fn world() -> (World, Arc<dyn Engine>) {
    let engine = crate::engine::fresh().await;
    let world = World::over(engine.clone()).await;
    world.add_nodes(3).await;
    (world, engine)
}

const B: u64 = BLOCK as u64;

#[tokio::test]
async fn a_snapshot_shows_the_tree_as_it_was() {
    let (world, _) = world().await;
    world.mkdir("/d").await.expect("made");
    world.mkdir("/d/sub").await.expect("made");
    let file = world.create("/d/sub/file").await.expect("made").inode;
    world.write(file, 0, 4 * B).await.expect("written");
    let small = world.create("/d/small").await.expect("made").inode;
    world.inline(small, 0, b"inline").await.expect("written");
    world.symlink("/d/link", "sub/file").await.expect("made");
    let before = world.tree("/d").await;
    let taken = world.snapshot("/d", "one").await.expect("taken");
    assert_eq!((taken.number, &taken.path[..]), (1, &b"/d"[..]));

    world.clock.advance(Duration::from_secs(5));
    world.write(file, B, B).await.expect("written");
    world.truncate(file, 2 * B + 100).await.expect("cut");
    world.inline(small, 2, b"INLINE").await.expect("written");
    world.rename("/d/sub", "/moved").await.expect("moved");
    world.unlink("/d/link").await.expect("removed");
    world.symlink("/d/link", "elsewhere").await.expect("made");
    world.create("/d/new").await.expect("made");
    assert_ne!(world.tree("/d").await, before);
    assert_eq!(world.tree("/d/.snapshots/one").await, before);
    world.unlink("/moved/file").await.expect("removed");
    world.rmdir("/moved").await.expect("removed");
    settle(&world).await;
    assert_eq!(world.tree("/d/.snapshots/one").await, before);
    // By way of a link, and up again.
    let through = pb::Stat { at: Some(at("/d/.snapshots/one/link")), follow: true, ..Default::default() };
    assert_eq!(world.ask(Kind::Stat(through)).await.expect("there").into_attr().size, 4 * B);
    let number = |attr: pb::Attr| attr.inode;
    let here = number(world.stat("/d/.snapshots/one").await.expect("there"));
    assert_eq!(number(world.stat("/d/.snapshots/one/sub/..").await.expect("there")), here);
    assert_eq!(number(world.stat("/d/.snapshots/one/../one").await.expect("there")), here);
    assert_eq!(
        number(world.stat("/d/.snapshots/..").await.expect("there")),
        number(world.stat("/d").await.expect("there"))
    );
    // A second one beside it.
    let now = world.tree("/d").await;
    world.snapshot("/d", "two").await.expect("taken");
    world.unlink("/d/small").await.expect("removed");
    assert_eq!(world.list("/d/.snapshots").await.expect("listed"), ["one", "two"]);
    assert_eq!(world.tree("/d/.snapshots/one").await, before);
    assert_eq!(world.tree("/d/.snapshots/two").await, now);
}

#[tokio::test]
async fn the_list_is_there_only_for_who_looks_for_it() {
    let (world, _) = world().await;
    world.mkdir("/d").await.expect("made");
    assert_eq!(code(world.stat("/d/.snapshots").await), Code::NotFound);
    world.snapshot("/d", "b").await.expect("taken");
    world.snapshot("/d", "a").await.expect("taken");
    world.snapshot("/", "root").await.expect("taken");
    assert_eq!(world.list("/d").await.expect("listed"), [""; 0]);
    assert_eq!(world.list("/d/.snapshots").await.expect("listed"), ["a", "b"]);
    assert_eq!(world.list("/.snapshots/root/d").await.expect("listed"), [""; 0]);
    let list = world.stat("/d/.snapshots").await.expect("there");
    assert_eq!((list.kind(), list.mode), (pb::Kind::Directory, 0o555));
    assert_eq!(code(world.stat("/d/.snapshots/none").await), Code::NotFound);
    // No list of snapshots inside of a snapshot.
    assert_eq!(code(world.stat("/.snapshots/root/d/.snapshots").await), Code::NotFound);
    assert_eq!(world.snapshots(None, false).await, [(1, "b".into()), (2, "a".into()), (3, "root".into())]);
    assert_eq!(world.snapshots(Some("/d"), false).await, [(1, "b".into()), (2, "a".into())]);
    assert_eq!(code(world.snapshot("/d", "a").await), Code::Exists);
    assert_eq!(code(world.snapshot("/nowhere", "a").await), Code::NotFound);
    assert_eq!(code(world.snapshot("/d", "a/b").await), Code::Invalid);
    assert_eq!(code(world.snapshot("/d/.snapshots/a", "x").await), Code::ReadOnly);
    assert_eq!(code(world.rmdir("/d").await), Code::NotEmpty);
    for name in ["a", "b"] {
        world.delete_snapshot("/d", name).await.expect("deleted");
    }
    assert_eq!(code(world.delete_snapshot("/d", "a").await), Code::NotFound);
    assert_eq!(code(world.stat("/d/.snapshots").await), Code::NotFound);
    // The name is free then, and taken again.
    world.mkdir("/d/.snapshots").await.expect("made");
    assert_eq!(code(world.snapshot("/d", "a").await), Code::Exists);
    world.rmdir("/d/.snapshots").await.expect("removed");
    world.rmdir("/d").await.expect("removed");
}

#[tokio::test]
async fn nothing_in_a_snapshot_can_be_changed() {
    let (world, engine) = world().await;
    world.mkdir("/d").await.expect("made");
    let file = world.create("/d/file").await.expect("made").inode;
    world.write(file, 0, 2 * B).await.expect("written");
    world.mkdir("/d/empty").await.expect("made");
    world.snapshot("/d", "s").await.expect("taken");
    let before = (world.tree("/d").await, world.tree("/d/.snapshots/s").await);
    let inside = world.stat("/d/.snapshots/s/file").await.expect("there").inode;
    assert_ne!(inside, file);
    let refused = [
        code(world.mkdir("/d/.snapshots/s/x").await),
        code(world.mkdir("/d/.snapshots/x").await),
        code(world.create("/d/.snapshots/s/x").await),
        code(world.symlink("/d/.snapshots/s/x", "y").await),
        code(world.unlink("/d/.snapshots/s/file").await),
        code(world.rmdir("/d/.snapshots/s/empty").await),
        code(world.rename("/d/.snapshots/s/file", "/d/.snapshots/s/x").await),
        code(world.rename("/d/.snapshots/s/file", "/out").await),
        code(world.rename("/d/file", "/d/.snapshots/s/file").await),
        code(world.inline(inside, 0, b"x").await.map_err(|status| match status.code {
            // It is no small file.
            Code::NotInline => Status::new(Code::ReadOnly, ""),
            _ => status,
        })),
        code(world.write(inside, 0, B).await),
        code(world.write(inside, 2 * B, B).await),
        code(world.truncate(inside, 0).await),
        code(world.truncate(inside, 5).await),
        code(world.truncate(inside, 9 * B).await),
        code(
            world
                .change(Kind::SetAttr(pb::SetAttr {
                    at: Some(at("/d/.snapshots/s/file")),
                    mode: Some(0),
                    ..Default::default()
                }))
                .await,
        ),
        code(
            world
                .change(Kind::SetAttr(pb::SetAttr {
                    at: Some(at("/d/.snapshots")),
                    mode: Some(0),
                    ..Default::default()
                }))
                .await,
        ),
        code(
            world
                .change(Kind::SetPolicy(pb::SetPolicy {
                    at: Some(at("/d/.snapshots/s")),
                    block_len: Some(BLOCK),
                    ..Default::default()
                }))
                .await,
        ),
    ];
    assert_eq!(refused, [Code::ReadOnly; 18]);
    assert_eq!(code(world.mkdir("/d/.snapshots").await), Code::Exists);
    assert_eq!((world.tree("/d").await, world.tree("/d/.snapshots/s").await), before);
    assert_eq!((garbage(&engine).await, held(&engine).await), Default::default());
}

#[tokio::test]
async fn blocks_are_held_exactly_as_long_as_a_snapshot_shows_them() {
    let (world, engine) = world().await;
    let file = world.create("/f").await.expect("made").inode;
    let sizes = async || (garbage(&engine).await.len(), held(&engine).await.len());
    world.write(file, 0, B).await.expect("written before all snapshots");
    world.snapshot("/", "one").await.expect("taken");
    world.write(file, B, B).await.expect("written between two");
    world.snapshot("/", "two").await.expect("taken");
    world.write(file, 2 * B, B).await.expect("written after both");
    let before = world.tree("/.snapshots/two").await;
    world.truncate(file, 0).await.expect("emptied");
    assert_eq!(sizes().await, (1, 2), "nobody has seen the last block");
    world.delete_snapshot("/", "one").await.expect("deleted");
    settle(&world).await;
    assert_eq!(sizes().await, (1, 2), "the second sees both");
    assert_eq!(world.tree("/.snapshots/two").await, before);
    world.delete_snapshot("/", "two").await.expect("deleted");
    assert_eq!(sizes().await, (1, 2), "the duty has not run");
    settle(&world).await;
    assert_eq!(sizes().await, (3, 0));
    assert_eq!(table::<keys::History>(&engine).await.len(), 0);
    assert_eq!(table::<keys::Snapshot>(&engine).await.len() + table::<keys::SnapshotName>(&engine).await.len(), 0);
}

#[tokio::test]
async fn what_a_member_lacks_of_a_held_block_is_repaired() {
    use cairn_proto::pb::Verdict::{Live, Undecided};
    let (world, _) = world().await;
    let file = world.create("/f").await.expect("made").inode;
    world.write(file, 0, 2 * B).await.expect("written");
    let first = world.extents(file, 0, B).await.extents[0].first.expect("blocks");
    let run = pb::GroupRun { pg: 1, run: Some(pb::Run { first: Some(first), count: 2 }) };
    world.snapshot("/", "s").await.expect("taken");
    world.truncate(file, B).await.expect("cut");
    assert_eq!(world.judge(vec![run]).await.expect("judged"), [Live; 2]);
    world.delete_snapshot("/", "s").await.expect("deleted");
    settle(&world).await;
    assert_eq!(world.judge(vec![run]).await.expect("judged"), [Live, Undecided]);
}

#[tokio::test]
async fn a_hold_keeps_and_is_not_seen_and_runs_out() {
    let (world, engine) = world().await;
    let file = world.create("/f").await.expect("made").inode;
    world.write(file, 0, B).await.expect("written");
    let hold = world.hold("backup", 5000).await.expect("taken");
    assert_eq!(world.snapshots(None, false).await, []);
    assert_eq!(world.snapshots(None, true).await, [(hold.number, String::new())]);
    assert_eq!(code(world.stat("/.snapshots").await), Code::NotFound);
    world.unlink("/f").await.expect("removed");
    settle(&world).await;
    assert_eq!((garbage(&engine).await.len(), held(&engine).await.len()), (0, 1));
    assert!(!world.meta.expire_snapshots().await.expect("looked"));
    world.clock.advance(Duration::from_secs(4));
    world.change(Kind::RenewSnapshot(pb::RenewSnapshot { number: hold.number, settle: None })).await.expect("renewed");
    assert!(!world.meta.expire_snapshots().await.expect("looked"));
    world.clock.advance(Duration::from_secs(4));
    assert!(!world.meta.expire_snapshots().await.expect("looked"));
    world.clock.advance(Duration::from_millis(1001));
    assert!(world.meta.expire_snapshots().await.expect("looked"));
    settle(&world).await;
    assert_eq!((garbage(&engine).await.len(), held(&engine).await.len()), (1, 0));
    let gone = world.change(Kind::RenewSnapshot(pb::RenewSnapshot { number: hold.number, settle: None })).await;
    assert_eq!(code(gone), Code::NotFound);
    assert_eq!(code(world.hold("backup", 5).await), Code::Invalid);
}

#[tokio::test]
async fn a_large_directory_is_listed_page_by_page() {
    let (world, _) = world().await;
    for index in 0..300 {
        world.create(&format!("/{index:03}")).await.expect("made");
    }
    world.snapshot("/", "s").await.expect("taken");
    for index in (0..300).step_by(2) {
        world.unlink(&format!("/{index:03}")).await.expect("removed");
        world.create(&format!("/{index:03}x")).await.expect("made");
    }
    let expected: Vec<String> = (0..300).map(|index| format!("{index:03}")).collect();
    assert_eq!(world.list("/.snapshots/s").await.expect("listed"), expected);
    assert_eq!(world.list("/").await.expect("listed").len(), 300);
}

#[tokio::test]
async fn the_rows_are_what_the_page_says() {
    let (world, engine) = world().await;
    let file = world.create("/f").await.expect("made").inode;
    world.write(file, 0, 2 * B).await.expect("written");
    for name in ["one", "two"] {
        world.snapshot("/", name).await.expect("taken");
    }
    world.write(file, 0, B).await.expect("written");
    let history = table::<keys::History>(&engine).await;
    let shown: Vec<_> = history.iter().map(|(key, row)| (key.key.0[0], key.snapshot, row.birth)).collect();
    assert_eq!(shown, [(keys::Inode::TAG, 2, 0), (keys::Extent::TAG, 2, 0)]);
    let rows: Vec<_> = table::<keys::Extent>(&engine).await.into_iter().map(|(_, row)| (row.birth, row.born)).collect();
    assert_eq!(rows, [(2, 2), (2, 0)], "a piece keeps when its blocks came");
    let held: Vec<_> = table::<keys::HeldGarbage>(&engine).await.into_iter().map(|(_, row)| row).collect();
    assert_eq!(held, [rows::Garbage { count: 1, born: 0, dropped: 2 }]);
}
