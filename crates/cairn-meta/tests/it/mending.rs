//! Each contradiction by itself: found under its name, mended without losing content, and gone afterwards; on an engine
//! without a server.

use crate::dump::populated;
use crate::support::{BLOCK, ManualClock, World};
use bytes::Bytes;
use cairn_meta::check_engine;
use cairn_meta::clock::Clock;
use cairn_meta::keys::{self, Key, counter, setting};
use cairn_meta::kv::{Durability, Engine, KeyRange, MapEngine};
use cairn_meta::rows::{self, Kind, Row};
use cairn_proto::pb;
use proptest::prelude::*;
use std::sync::Arc;

/// A pass without a server.
pub async fn check(engine: &Arc<dyn Engine>, repair: bool) -> Vec<pb::RowFinding> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
    let (mut findings, mut cursor) = (Vec::new(), Bytes::new());
    loop {
        let page = check_engine(engine, &clock, &pb::CheckRows { cursor, repair }).await.expect("checked");
        findings.extend(page.findings);
        cursor = page.next_cursor;
        if cursor.is_empty() {
            return findings;
        }
    }
}

/// Rows written past the namespace.
struct Broken {
    engine: Arc<dyn Engine>,
    puts: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Broken {
    fn put<K: Key>(&mut self, key: &K, row: &K::Row) {
        self.puts.push((key.encode(), Some(row.encode())));
    }

    fn delete<K: Key>(&mut self, key: &K) {
        self.puts.push((key.encode(), None));
    }

    async fn get<K: Key>(&self, key: &K) -> K::Row {
        let value = self.engine.begin().await.expect("begin").get(&key.encode()).await.expect("read");
        K::Row::decode(&value.expect("it is there")).expect("a row")
    }

    async fn write(self) {
        let mut txn = self.engine.begin().await.expect("begin");
        for (key, value) in self.puts {
            match value {
                Some(value) => txn.put(key, value),
                None => txn.delete(key),
            }
        }
        txn.commit(Durability::Durable).await.expect("committed");
    }
}

fn name(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// What is broken, the rule that says so, and whether it can be mended.
type Case = (&'static str, &'static str, bool);

const CASES: &[Case] = &[
    ("a dentry without inode", "dangling name", true),
    ("a dentry of the root", "name of the root", true),
    ("a dentry below a file", "name without directory", true),
    ("a dentry below nothing", "name without directory", true),
    ("a dentry of another kind", "kind", true),
    ("a file without name", "nameless inode", true),
    ("a directory without name", "nameless inode", true),
    ("a link count", "link count", true),
    ("another parent", "parent", true),
    ("a directory with two names", "directory with two names", true),
    ("a ring", "ring of directories", true),
    ("no times", "directory without times", true),
    ("times of nothing", "row of a missing inode", true),
    ("a target of nothing", "row of a missing inode", true),
    ("a link without target", "symlink without target", false),
    ("overlapping extents", "overlapping extents", false),
    ("an extent behind the end", "extent behind the end", true),
    ("a stray map", "stray map", true),
    ("a live map to be dropped", "drop of a live map", true),
    ("an unknown group", "unknown group", false),
    ("a group without members", "group without members", false),
    ("a degraded row of a stranger", "degraded row of a stranger", true),
    ("garbage of an unknown group", "garbage of an unknown group", false),
    ("garbage that a snapshot shows", "garbage that a snapshot shows", true),
    ("garbage in use", "garbage in use", true),
    ("held garbage in use", "garbage in use", true),
    ("garbage held for nothing", "garbage held for nothing", true),
    ("held garbage of an unknown group", "garbage of an unknown group", false),
    ("garbage twice", "garbage twice", true),
    ("a count of clones too high", "shared blocks", true),
    ("a count of clones too low", "shared blocks", true),
    ("a count of no clone", "shared blocks", true),
    ("a clone that nobody counts", "uncounted clone", true),
    ("a snapshot of nothing", "snapshot of nothing", true),
    ("a snapshot without name", "snapshot without name", true),
    ("two snapshots of one name", "two snapshots of one name", true),
    ("a name of no snapshot", "name of no snapshot", true),
    ("a newest snapshot", "newest snapshot", true),
    ("history that nothing sees", "history that nothing sees", true),
    ("trash of nothing", "trash of nothing", true),
    ("trash without end", "trash without end", true),
    ("an end of no trash", "end of no trash", true),
    ("a drop of nothing", "drop of nothing", true),
    ("a lock of nobody", "row of a missing session", true),
    ("a list of locks of nobody", "row of a missing session", true),
    ("a wait of nobody", "row of a missing session", true),
    ("what nobody waits for", "row of a missing session", true),
    ("a lock that is not listed", "one-sided lock", true),
    ("a listed lock that is none", "one-sided lock", true),
    ("a wait that is not listed", "one-sided wait", true),
    ("a listed wait that is none", "one-sided wait", true),
    ("an attribute of nothing", "stray attribute", true),
    ("a quota of nothing", "quota of nothing", true),
    ("a quota that an inode counts against", "quota of an inode", true),
    ("usage of a quota", "quota usage", true),
    ("a writer without session", "writer without session", true),
    ("a writer open and closed", "writer open and closed", true),
    ("an unlisted writer", "unlisted writer", true),
    ("a listed stranger", "writer of a session", true),
    ("closed writers that say nothing", "closed writers", true),
    ("a hold of nobody", "hold without session", true),
    ("a slot of nobody", "row of a missing session", true),
    ("a counter", "counter", true),
    ("a setting", "setting", false),
    ("a damaged row", "damaged row", true),
    ("a damaged key", "damaged row", true),
];

async fn break_it(world: &World, broken: &mut Broken, what: &str) {
    let dir = world.stat("d0").await.expect("there").inode;
    let other = world.stat("d1").await.expect("there").inode;
    let file = world.stat("d0/f1").await.expect("there").inode;
    let small = world.stat("d0/f0").await.expect("there").inode;
    let link = world.stat("link").await.expect("there").inode;
    let file_row = broken.get(&keys::Inode { inode: file }).await;
    let dir_row = broken.get(&keys::Inode { inode: dir }).await;
    let dentry = |inode, kind| rows::Dentry { inode, kind, birth: 0 };
    let at = |offset| keys::Extent { inode: file, generation: file_row.generation, offset };
    let extent = broken.get(&at(0)).await;
    let (session, writer) = (world.session, world.writer);
    match what {
        "a dentry without inode" => {
            broken.put(&keys::Dentry { parent: dir, name: name("x") }, &dentry(1 << 20, Kind::File));
        }
        "a dentry of the root" => {
            broken.put(&keys::Dentry { parent: dir, name: name("x") }, &dentry(1, Kind::Directory));
        }
        "a dentry below a file" => {
            broken.delete(&keys::Dentry { parent: dir, name: name("f1") });
            broken.put(&keys::Dentry { parent: small, name: name("x") }, &dentry(file, Kind::File));
        }
        "a dentry below nothing" => {
            broken.delete(&keys::Dentry { parent: dir, name: name("f1") });
            broken.put(&keys::Dentry { parent: 1 << 30, name: name("x") }, &dentry(file, Kind::File));
        }
        "a dentry of another kind" => {
            broken.put(&keys::Dentry { parent: dir, name: name("f1") }, &dentry(file, Kind::Symlink));
        }
        "a file without name" => broken.delete(&keys::Dentry { parent: dir, name: name("f1") }),
        "a directory without name" => broken.delete(&keys::Dentry { parent: 1, name: name("d0") }),
        "a link count" => broken.put(&keys::Inode { inode: file }, &rows::Inode { nlink: 9, ..file_row }),
        "another parent" => broken.put(&keys::Inode { inode: dir }, &rows::Inode { parent: other, ..dir_row }),
        "a directory with two names" => {
            broken.put(&keys::Dentry { parent: other, name: name("x") }, &dentry(dir, Kind::Directory));
        }
        "a ring" => {
            // d0 in d1 in d0.
            let other_row = broken.get(&keys::Inode { inode: other }).await;
            broken.delete(&keys::Dentry { parent: 1, name: name("d0") });
            broken.delete(&keys::Dentry { parent: 1, name: name("d1") });
            broken.put(&keys::Dentry { parent: other, name: name("x") }, &dentry(dir, Kind::Directory));
            broken.put(&keys::Dentry { parent: dir, name: name("x") }, &dentry(other, Kind::Directory));
            broken.put(&keys::Inode { inode: dir }, &rows::Inode { parent: other, ..dir_row });
            broken.put(&keys::Inode { inode: other }, &rows::Inode { parent: dir, ..other_row });
        }
        "no times" => broken.delete(&keys::DirTimes { inode: dir }),
        "times of nothing" => {
            broken.put(&keys::DirTimes { inode: 1 << 20 }, &rows::DirTimes { mtime_ns: 1, ctime_ns: 1, birth: 0 });
        }
        "a target of nothing" => {
            broken.put(&keys::Symlink { inode: 1 << 20 }, &rows::Symlink { target: name("t"), birth: 0 });
        }
        "a link without target" => broken.delete(&keys::Symlink { inode: link }),
        "overlapping extents" => broken.put(&at(7), &extent),
        "an extent behind the end" => broken.put(&at(1 << 30), &extent),
        "a stray map" => broken.put(&keys::Extent { generation: 99, ..at(0) }, &extent),
        "a live map to be dropped" => {
            let key = keys::MapDrop { inode: file, generation: file_row.generation };
            broken.put(&key, &rows::MapDrop { birth: 0 });
        }
        "an unknown group" => {
            let mut extent = extent;
            if let rows::Content::Blocks(run) = &mut extent.content {
                run.pgs = vec![4000];
            }
            broken.put(&at(0), &extent);
        }
        "a group without members" => {
            let group = broken.get(&keys::Pg { pg: 1 }).await;
            let empty = rows::Pg { members: Vec::new(), since: Vec::new(), ..group };
            broken.put(&keys::Pg { pg: 2 }, &empty);
        }
        "a degraded row of a stranger" => {
            let key = keys::Degraded { store: 88, pg: 1, inode: file, writer, seq: 0 };
            broken.put(&key, &rows::RunLen { count: 1 });
        }
        "garbage of an unknown group" => {
            let key = keys::Garbage { pg: 4000, inode: 1 << 20, writer, seq: 0 };
            broken.put(&key, &rows::Garbage { count: 1, born: 0, dropped: 0 });
        }
        other if break_more(world, broken, other).await => {}
        "a writer without session" => broken.put(&keys::Writer { writer: 3 }, &rows::Writer { session: 500 }),
        "a writer open and closed" => {
            broken.put(&keys::ClosedWriters { first: writer }, &rows::RunLen { count: 1 });
        }
        "an unlisted writer" => broken.delete(&keys::SessionWriter { session, writer }),
        "a listed stranger" => broken.put(&keys::SessionWriter { session, writer: 3 }, &rows::Unit {}),
        "closed writers that say nothing" => {
            broken.put(&keys::ClosedWriters { first: 10 }, &rows::RunLen { count: 20 });
            broken.put(&keys::ClosedWriters { first: 15 }, &rows::RunLen { count: 5 });
        }
        "a hold of nobody" => broken.put(&keys::Sustained { session: 500, inode: file }, &rows::Holds { count: 1 }),
        "a slot of nobody" => {
            broken.put(&keys::Slot { session: 500, slot: 1 }, &rows::Slot { seq: 1, reply: Bytes::new() });
        }
        "a counter" => broken.put(&keys::Counter { counter: counter::INODE }, &rows::Counter { next: 3 }),
        "a setting" => {
            let key = keys::Setting { name: Bytes::from_static(setting::REPLICA_COUNTS) };
            broken.put(&key, &rows::Setting { value: Bytes::from_static(&[9]) });
        }
        "a damaged row" => broken.puts.push((keys::Garbage { pg: 1, inode: 1, writer: 1, seq: 1 }.encode(), None)),
        "a damaged key" => broken.puts.push((vec![0x4f, 1, 2], Some(vec![1]))),
        other => panic!("{other}"),
    }
    if what == "a damaged row" {
        let last = broken.puts.last_mut().expect("just pushed");
        last.1 = Some(vec![0xee, 1, 2]);
    }
}

/// Puts a snapshot of the root beside what it needs.
async fn snapshot(world: &World, name: &str) -> u64 {
    world.snapshot("/", name).await.expect("taken").number
}

/// What snapshots, clones, trash, locks and quotas leave; false when it is something else.
async fn break_more(world: &World, broken: &mut Broken, what: &str) -> bool {
    let dir = world.stat("d0").await.expect("there").inode;
    let file = world.stat("d0/f1").await.expect("there").inode;
    let file_row = broken.get(&keys::Inode { inode: file }).await;
    let extent_key = keys::Extent { inode: file, generation: file_row.generation, offset: 0 };
    let extent = broken.get(&extent_key).await;
    let rows::Content::Blocks(run) = &extent.content else { panic!("a file of blocks") };
    let (inode, writer, seq, pg) = (run.inode, run.writer, run.seq, run.pgs[0]);
    let session = world.session;
    let gone = |born, dropped| rows::Garbage { count: 1, born, dropped };
    let lock = |session| keys::Lock { inode: file, kind: 1, start: 0, session, owner: 7 };
    let held = rows::Lock { end: 0, exclusive: true, pid: 1 };
    let wait = |session| keys::LockWait { inode: file, kind: 1, session, owner: 7 };
    let waiting = rows::LockWait { start: 0, end: 0, exclusive: true, pid: 1, since_ns: 1, until_ns: 2 };
    let trash = rows::Trash {
        kind: Kind::File,
        parent: 1,
        name: name("x"),
        path: Bytes::new(),
        until_ns: 500,
        session,
        who: String::new(),
    };
    // Blocks that no file has.
    let free = |seq| keys::Garbage { pg, inode: 1 << 20, writer, seq };
    let free_held = |seq| keys::HeldGarbage { pg, inode: 1 << 20, writer, seq };
    match what {
        "garbage that a snapshot shows" => {
            let number = snapshot(world, "s").await;
            broken.put(&free(1), &gone(number - 1, number));
        }
        "garbage in use" => broken.put(&keys::Garbage { pg, inode, writer, seq }, &gone(0, 0)),
        "held garbage in use" => {
            let number = snapshot(world, "s").await;
            broken.put(&keys::HeldGarbage { pg, inode, writer, seq }, &gone(0, number));
        }
        "garbage held for nothing" => broken.put(&free_held(1), &gone(0, 0)),
        "held garbage of an unknown group" => {
            broken.put(&keys::HeldGarbage { pg: 4000, ..free_held(1) }, &gone(0, 0));
        }
        "garbage twice" => {
            let number = snapshot(world, "s").await;
            broken.put(&free_held(1), &gone(0, number));
            // Dropped before the snapshot was taken: by itself it may be collected.
            broken.put(&free(1), &gone(0, 0));
        }
        "a count of clones too high" | "a count of clones too low" => {
            let placements = if what.ends_with("high") { 3 } else { 1 };
            clone_by_hand(broken, &extent_key, &extent).await;
            let row = rows::SharedRange { count: 3, placements };
            broken.put(&keys::SharedRange { inode, writer, seq }, &row);
        }
        "a count of no clone" => {
            let row = rows::SharedRange { count: 5, placements: 2 };
            broken.put(&keys::SharedRange { inode, writer, seq: seq + 1000 }, &row);
        }
        "a clone that nobody counts" => clone_by_hand(broken, &extent_key, &extent).await,
        "a snapshot of nothing" => {
            let number = snapshot(world, "s").await;
            let key = keys::Snapshot { number };
            let row = broken.get(&key).await;
            broken.delete(&keys::SnapshotName { root: 1, name: name("s") });
            broken.put(&key, &rows::Snapshot { root: 1 << 20, ..row });
        }
        "a snapshot without name" => {
            snapshot(world, "s").await;
            broken.delete(&keys::SnapshotName { root: 1, name: name("s") });
        }
        "two snapshots of one name" => {
            snapshot(world, "s").await;
            let key = keys::Snapshot { number: snapshot(world, "t").await };
            let row = broken.get(&key).await;
            broken.delete(&keys::SnapshotName { root: 1, name: name("t") });
            broken.put(&key, &rows::Snapshot { name: name("s"), ..row });
        }
        "a name of no snapshot" => {
            broken.put(&keys::SnapshotName { root: 1, name: name("s") }, &rows::SnapshotName { number: 9 });
        }
        "a newest snapshot" => {
            snapshot(world, "s").await;
            broken.delete(&keys::Setting { name: Bytes::from_static(setting::SNAPSHOTS) });
        }
        "history that nothing sees" => {
            let key = keys::Escaped(Bytes::from(keys::Inode { inode: file }.encode()));
            broken.put(&keys::History { key, snapshot: 3 }, &rows::History { birth: 2, row: file_row.encode().into() });
        }
        "trash of nothing" => {
            let (since_ns, inode) = (100, 1 << 20);
            broken.put(&keys::Trash { since_ns, inode }, &trash);
            broken.put(&keys::TrashExpiry { until_ns: 500, since_ns, inode }, &rows::Unit {});
        }
        "trash without end" => {
            broken.delete(&keys::Dentry { parent: dir, name: name("f1") });
            broken.put(&keys::Trash { since_ns: 100, inode: file }, &trash);
        }
        "an end of no trash" => {
            broken.put(&keys::TrashExpiry { until_ns: 500, since_ns: 100, inode: file }, &rows::Unit {});
        }
        "a drop of nothing" => {
            let walk = keys::TreeWalk { purpose: keys::walk_purpose::DROP, root: 1 << 20, dir: 1 << 20 };
            broken.put(&walk, &rows::TreeWalk { after: Bytes::new() });
        }
        "a lock of nobody" => broken.put(&lock(500), &held),
        "a list of locks of nobody" => {
            broken.put(&keys::LockOf { session: 500, owner: 7, inode: file, kind: 1 }, &rows::Unit {});
        }
        "a wait of nobody" => broken.put(&wait(500), &waiting),
        "what nobody waits for" => {
            broken.put(&keys::LockWaitOf { session: 500, owner: 7 }, &rows::LockWaitOf { inode: file, kind: 1 });
        }
        "a lock that is not listed" => broken.put(&lock(session), &held),
        "a listed lock that is none" => {
            broken.put(&keys::LockOf { session, owner: 7, inode: file, kind: 1 }, &rows::Unit {});
        }
        "a wait that is not listed" => broken.put(&wait(session), &waiting),
        "a listed wait that is none" => {
            broken.put(&keys::LockWaitOf { session, owner: 7 }, &rows::LockWaitOf { inode: file, kind: 1 });
        }
        "an attribute of nothing" => {
            let key = keys::Xattr { inode: 1 << 20, name: name("user.a") };
            broken.put(&key, &rows::Xattr { value: name("v"), birth: 0 });
        }
        "a quota of nothing" => {
            let state = rows::quota_state::ACTIVE;
            broken.put(&keys::Quota { root: 1 << 20 }, &rows::Quota { bytes: 1, inodes: 1, state });
        }
        "a quota that an inode counts against" => {
            broken.put(&keys::Inode { inode: file }, &rows::Inode { quota_root: dir, ..file_row });
        }
        "usage of a quota" => {
            let dir_row = broken.get(&keys::Inode { inode: dir }).await;
            let state = rows::quota_state::ACTIVE;
            broken.put(&keys::Inode { inode: dir }, &rows::Inode { quota_root: dir, ..dir_row });
            broken.put(&keys::Quota { root: dir }, &rows::Quota { bytes: 1 << 40, inodes: 0, state });
        }
        _ => return false,
    }
    true
}

/// Another file with the extent of a file, and no count of it.
async fn clone_by_hand(broken: &mut Broken, key: &keys::Extent, extent: &rows::Extent) {
    let row = broken.get(&keys::Inode { inode: key.inode }).await;
    let inode = (1 << 20) - 1;
    broken.put(&keys::Inode { inode }, &rows::Inode { nlink: 1, parent: 1, ..row });
    let dentry = rows::Dentry { inode, kind: Kind::File, birth: 0 };
    broken.put(&keys::Dentry { parent: 1, name: name("clone") }, &dentry);
    broken.put(&keys::Extent { inode, ..*key }, extent);
    let next = (1 << 20) + 5;
    broken.put(&keys::Counter { counter: counter::INODE }, &rows::Counter { next });
}

#[tokio::test]
async fn each_contradiction_is_found_and_mended() {
    for (what, rule, mendable) in CASES {
        let (world, engine) = populated().await;
        assert_eq!(check(&engine, false).await, [], "before {what}");
        let mut broken = Broken { engine: engine.clone(), puts: Vec::new() };
        break_it(&world, &mut broken, what).await;
        broken.write().await;
        for repair in [false, true] {
            let found = check(&engine, repair).await;
            let named: Vec<_> = found.iter().filter(|finding| finding.rule == *rule).collect();
            assert!(!named.is_empty(), "{what}: {found:?}");
            assert!(named.iter().all(|finding| !finding.remedy.is_empty() && !finding.what.is_empty()));
            assert_eq!(named.iter().all(|finding| finding.repaired), repair && *mendable, "{what}: {found:?}");
        }
        let left = check(&engine, true).await;
        let left = if *mendable { check(&engine, false).await } else { left };
        assert_eq!(left.is_empty(), *mendable, "{what}: {left:?}");
        // What was written is still there, under whatever name.
        let rows = engine.snapshot().await.expect("taken").scan(&keys::Extent::all(), 10_000).await.expect("read");
        assert!(rows.len() >= 79, "{what}: {} extents", rows.len());
    }
}

#[tokio::test]
async fn a_lost_file_is_found_again_with_its_content() {
    let (world, engine) = populated().await;
    let before = world.stat("d0/f1").await.expect("there");
    let mut broken = Broken { engine: engine.clone(), puts: Vec::new() };
    break_it(&world, &mut broken, "a dentry below nothing").await;
    broken.write().await;
    check(&engine, true).await;
    let found = world.stat(&format!("lost+found/inode-{}", before.inode)).await.expect("found again");
    assert_eq!((found.size, found.nlink), (3 * u64::from(BLOCK), 1));
    let whole = KeyRange { start: vec![0x50], end: vec![0x51] };
    assert!(engine.snapshot().await.expect("taken").scan(&whole, 1).await.expect("read").is_empty());
}

/// A step of somebody who uses the namespace.
#[derive(Clone, Debug)]
enum Act {
    Mkdir(u8, u8),
    Create(u8, u8),
    Write(u8, u8, u8),
    Truncate(u8, u8, u8),
    Rename(u8, u8, u8, u8),
    Unlink(u8, u8),
    Rmdir(u8, u8),
    Symlink(u8, u8),
    Reopen,
}

fn act() -> impl Strategy<Value = Act> {
    let (dir, entry) = (0u8..4, 0u8..6);
    prop_oneof![
        (dir.clone(), entry.clone()).prop_map(|(a, b)| Act::Mkdir(a, b)),
        (dir.clone(), entry.clone()).prop_map(|(a, b)| Act::Create(a, b)),
        (dir.clone(), entry.clone(), 0u8..9).prop_map(|(a, b, c)| Act::Write(a, b, c)),
        (dir.clone(), entry.clone(), 0u8..9).prop_map(|(a, b, c)| Act::Truncate(a, b, c)),
        (dir.clone(), entry.clone(), dir.clone(), entry.clone()).prop_map(|(a, b, c, d)| Act::Rename(a, b, c, d)),
        (dir.clone(), entry.clone()).prop_map(|(a, b)| Act::Unlink(a, b)),
        (dir.clone(), entry.clone()).prop_map(|(a, b)| Act::Rmdir(a, b)),
        (dir, entry).prop_map(|(a, b)| Act::Symlink(a, b)),
        Just(Act::Reopen),
    ]
}

async fn perform(world: &World, act: &Act) {
    let path = |dir: u8, entry: u8| if dir == 0 { format!("e{entry}") } else { format!("e{}/e{entry}", dir - 1) };
    match act {
        Act::Mkdir(dir, entry) => drop(world.mkdir(&path(*dir, *entry)).await),
        Act::Create(dir, entry) => drop(world.create(&path(*dir, *entry)).await),
        Act::Symlink(dir, entry) => drop(world.symlink(&path(*dir, *entry), "e1").await),
        Act::Unlink(dir, entry) => drop(world.unlink(&path(*dir, *entry)).await),
        Act::Rmdir(dir, entry) => drop(world.rmdir(&path(*dir, *entry)).await),
        Act::Rename(a, b, c, d) => drop(world.rename(&path(*a, *b), &path(*c, *d)).await),
        Act::Write(dir, entry, block) => {
            if let Ok(file) = world.stat(&path(*dir, *entry)).await
                && file.kind() == pb::Kind::File
            {
                drop(world.write(file.inode, u64::from(*block) * u64::from(BLOCK), 2 * u64::from(BLOCK)).await);
            }
        }
        Act::Truncate(dir, entry, block) => {
            if let Ok(file) = world.stat(&path(*dir, *entry)).await
                && file.kind() == pb::Kind::File
            {
                drop(world.truncate(file.inode, u64::from(*block) * u64::from(BLOCK) / 2).await);
            }
        }
        Act::Reopen => drop(world.meta.drop_maps().await),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_namespace_that_is_used_as_meant_has_no_findings(acts in prop::collection::vec(act(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let found = runtime.block_on(async {
            let engine: Arc<dyn Engine> = Arc::new(MapEngine::new());
            let world = World::over(engine.clone()).await;
            world.add_nodes(3).await;
            for act in &acts {
                perform(&world, act).await;
            }
            check(&engine, false).await
        });
        prop_assert_eq!(found, []);
    }
}
