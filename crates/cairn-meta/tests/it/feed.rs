//! The change feed: nothing is skipped, whoever writes, however commits are ordered and whatever becomes of them.

use crate::bent::{Bend, Bent, Ready};
use crate::engine::fresh;
use crate::support::{ManualClock, World, at, attr, bytes, code, create, mkdir, options};
use async_trait::async_trait;
use bytes::Bytes;
use cairn_meta::kv::{CommitOutcome, Engine, EngineError};
use cairn_meta::{Meta, MetaOptions};
use cairn_proto::pb;
use cairn_proto::pb::ChangeKind;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Commits overtake each other, and sometimes it is not known what became of one.
#[derive(Clone)]
struct Disorder {
    rng: Arc<Mutex<fastrand::Rng>>,
    /// In per mille.
    unknown: u32,
    /// Commits of transactions that write a key with this tag wait here.
    held: Option<(u8, Arc<Semaphore>)>,
}

impl Disorder {
    fn new(seed: u64, unknown: u32) -> Self {
        let rng = Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)));
        Self { rng, unknown, held: None }
    }
}

#[async_trait]
impl Bend for Disorder {
    async fn commit(&self, ready: Ready) -> Result<CommitOutcome, EngineError> {
        if let Some((tag, gate)) = &self.held
            && ready.writes.keys().any(|key| key[0] == *tag)
        {
            gate.acquire().await.expect("never closed").forget();
        }
        if ready.writes.is_empty() {
            return ready.commit().await;
        }
        let draw = |max: u32| self.rng.lock().expect("no panic").u32(..max);
        for _ in 0..draw(12) {
            tokio::task::yield_now().await;
        }
        match draw(1000) {
            n if n < self.unknown / 2 => Ok(CommitOutcome::Unknown),
            n if n < self.unknown => ready.commit().await.map(|_| CommitOutcome::Unknown),
            _ => ready.commit().await,
        }
    }
}

async fn changes(meta: &Meta, ask: pb::WatchChanges) -> Result<pb::WatchChangesReply, Status> {
    match meta.execute(&pb::Request { kind: Some(Kind::WatchChanges(ask)), ..Default::default() }).await? {
        Reply::WatchChanges(reply) => Ok(reply),
        other => panic!("{other:?}"),
    }
}

/// A reader at its cursor.
struct Reader {
    cursor: Bytes,
    at: Option<pb::At>,
}

impl Reader {
    async fn begin(meta: &Meta, path: Option<&str>) -> Self {
        let at = path.map(at);
        let reply = changes(meta, pb::WatchChanges { at: at.clone(), ..Default::default() }).await.expect("begun");
        assert!(reply.changes.is_empty() && !reply.more);
        Self { cursor: reply.cursor, at }
    }

    async fn page(&mut self, meta: &Meta, limit: u32) -> Result<(Vec<pb::Change>, bool), Status> {
        let ask = pb::WatchChanges {
            cursor: self.cursor.clone(),
            at: self.at.clone(),
            limit,
            with_attr: true,
            ..Default::default()
        };
        let reply = changes(meta, ask).await?;
        self.cursor = reply.cursor;
        Ok((reply.changes, reply.more))
    }

    async fn all(&mut self, meta: &Meta) -> Vec<pb::Change> {
        let mut all = Vec::new();
        loop {
            let (changes, more) = self.page(meta, 3).await.expect("read");
            all.extend(changes);
            if !more {
                return all;
            }
        }
    }

    async fn lines(&mut self, meta: &Meta) -> Vec<String> {
        self.all(meta).await.iter().map(line).collect()
    }
}

fn text(path: Option<&Bytes>) -> String {
    path.map_or("?".into(), |path| String::from_utf8_lossy(path).into_owned())
}

fn line(change: &pb::Change) -> String {
    let path = text(change.path.as_ref());
    let moved = if change.moved { " (moved)" } else { "" };
    match change.kind() {
        ChangeKind::Created => format!("created {path}{moved}"),
        ChangeKind::Removed => format!("removed {path}{moved}"),
        ChangeKind::Renamed => format!("renamed {} to {path}", text(change.from_path.as_ref())),
        ChangeKind::Changed => format!("changed {path} {}", change.what),
        ChangeKind::Unknown => "?".into(),
    }
}

#[tokio::test]
async fn every_kind_of_change_is_told_with_its_path() {
    let world = World::new().await;
    world.mkdir("d").await.expect("made");
    let mut all = Reader::begin(&world.meta, None).await;
    let mut below = Reader::begin(&world.meta, Some("d")).await;
    let file = world.create("d/f").await.expect("made").inode;
    world.inline(file, 0, b"hello").await.expect("written");
    world.mkdir("d/sub").await.expect("made");
    world.rename("d/f", "d/sub/g").await.expect("renamed");
    let set = pb::SetAttr { at: Some(at("d/sub/g")), mode: Some(0o600), ..Default::default() };
    world.change(Kind::SetAttr(set)).await.expect("set");
    let set = pb::SetAttr { at: Some(at("d/sub")), mtime_ns: Some(5), ..Default::default() };
    world.change(Kind::SetAttr(set)).await.expect("set");
    world.create("other").await.expect("made");
    world.rename("d/sub/g", "gone").await.expect("renamed");
    world.rename("other", "d/sub/came").await.expect("renamed");
    world.unlink("d/sub/came").await.expect("removed");
    world.rmdir("d/sub").await.expect("removed");
    assert_eq!(
        below.lines(&world.meta).await,
        [
            "created f",
            // What it is called now: nothing below, so it is somewhere else.
            "created sub",
            "renamed f to sub/g",
            "changed sub 2",
            "removed sub/g (moved)",
            "created sub/came (moved)",
            "removed sub/came",
            "removed sub",
        ]
    );
    let lines = all.lines(&world.meta).await;
    assert_eq!(lines[..3], ["created d/f", "changed gone 1", "created d/sub"]);
    assert!(lines.contains(&"renamed d/sub/g to gone".to_owned()), "{lines:?}");
    assert!(below.lines(&world.meta).await.is_empty() && all.lines(&world.meta).await.is_empty());
}

#[tokio::test]
async fn a_file_is_watched_by_itself_and_own_changes_can_be_left_out() {
    let world = World::new().await;
    let file = world.create("f").await.expect("made").inode;
    world.create("g").await.expect("made");
    let mut reader = Reader::begin(&world.meta, Some("f")).await;
    let cursor = reader.cursor.clone();
    world.inline(file, 0, b"x").await.expect("written");
    world.unlink("g").await.expect("removed");
    world.rename("f", "h").await.expect("renamed");
    // From here on its inode is what is watched.
    reader.at = Some(pb::At { dir: file, path: Bytes::new() });
    assert_eq!(reader.lines(&world.meta).await, ["changed  1", "renamed  to "]);
    let ask = pb::WatchChanges { cursor, skip_session: world.session, ..Default::default() };
    assert!(changes(&world.meta, ask).await.expect("read").changes.is_empty());
}

/// Names and attributes, as told by the feed alone.
#[derive(Default)]
struct Mirror {
    names: BTreeMap<(u64, Bytes), u64>,
    attrs: BTreeMap<u64, pb::Attr>,
    kinds: BTreeMap<i32, u64>,
}

impl Mirror {
    fn set(&mut self, parent: u64, name: &Bytes, inode: u64) {
        match inode {
            0 => self.names.remove(&(parent, name.clone())),
            _ => self.names.insert((parent, name.clone()), inode),
        };
    }

    fn apply(&mut self, change: &pb::Change) {
        *self.kinds.entry(change.kind).or_default() += 1;
        match change.kind() {
            ChangeKind::Created | ChangeKind::Removed => self.set(change.parent, &change.name, change.now_inode),
            ChangeKind::Renamed => {
                self.set(change.from_parent, &change.from_name, change.from_now_inode);
                self.set(change.parent, &change.name, change.now_inode);
            }
            ChangeKind::Changed | ChangeKind::Unknown => {}
        }
        match &change.attr {
            Some(attr) => self.attrs.insert(change.inode, attr.clone()),
            None => self.attrs.remove(&change.inode),
        };
    }
}

/// One of many that change things, in a slot of its own.
struct Mutator {
    meta: Meta,
    session: u64,
    slot: u32,
    seq: u64,
    rng: fastrand::Rng,
    done: Arc<[AtomicU64; 3]>,
}

impl Mutator {
    async fn change(&mut self, kind: Kind) -> Result<Reply, Status> {
        self.seq += 1;
        let op_id = Some(pb::OpId { session: self.session, epoch: 1, slot: self.slot, seq: self.seq });
        loop {
            let request = pb::Request { op_id, kind: Some(kind.clone()), ..Default::default() };
            match self.meta.execute(&request).await {
                Err(status) if matches!(status.code, Code::OutcomeUnknown | Code::Overloaded) => {}
                other => return other,
            }
        }
    }

    fn path(&mut self) -> String {
        format!("d{}/{}", self.rng.u8(..3), self.rng.u8(..6))
    }

    async fn run(mut self, steps: usize) {
        for _ in 0..steps {
            let (path, other) = (self.path(), self.path());
            let (kind, count) = match self.rng.u8(..10) {
                0..=3 => {
                    let create = pb::Create {
                        at: Some(at(&path)),
                        attr: Some(attr(0o644)),
                        exclusive: true,
                        ..Default::default()
                    };
                    (Kind::Create(create), Some(0))
                }
                4..=5 => (Kind::Unlink(pb::Unlink { at: Some(at(&path)), ..Default::default() }), Some(1)),
                6..=7 => {
                    let rename = pb::Rename {
                        from: Some(at(&path)),
                        to: Some(at(&other)),
                        no_replace: true,
                        ..Default::default()
                    };
                    (Kind::Rename(rename), Some(2))
                }
                _ => {
                    let set = pb::SetAttr { at: Some(at(&path)), uid: Some(self.rng.u32(..)), ..Default::default() };
                    (Kind::SetAttr(set), None)
                }
            };
            if self.change(kind).await.is_ok()
                && let Some(count) = count
            {
                self.done[count].fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

/// The names below the root, and their attributes.
async fn tree(world: &World) -> (BTreeMap<(u64, Bytes), u64>, BTreeMap<u64, pb::Attr>) {
    let (mut names, mut attrs) = (BTreeMap::new(), BTreeMap::new());
    let mut dirs = vec![1];
    while let Some(dir) = dirs.pop() {
        let at = Some(pb::At { dir, path: Bytes::new() });
        let ask = pb::ReadDir { at, with_attr: true, ..Default::default() };
        let Ok(Reply::ReadDir(page)) = world.ask(Kind::ReadDir(ask)).await else { panic!("no listing") };
        assert!(page.end);
        for entry in page.entries {
            if entry.kind() == pb::Kind::Directory {
                dirs.push(entry.inode);
            }
            names.insert((dir, entry.name), entry.inode);
            attrs.insert(entry.inode, entry.attr.expect("asked for"));
        }
    }
    (names, attrs)
}

/// Two servers, many mutators, one reader that keeps up: what it was told is what there is.
async fn mirrored(seed: u64, unknown: u32) {
    let engine: Arc<dyn Engine> = Arc::new(Bent::around(fresh().await, Disorder::new(seed, unknown)));
    let clock = Arc::new(ManualClock::default());
    let open = async |seed| loop {
        // It may not know what became of its first step.
        if let Ok(meta) = Meta::open(engine.clone(), MetaOptions { seed, ..options(clock.clone()) }).await {
            return meta;
        }
    };
    let (first, second) = (open(1).await, open(2).await);
    let world = World::around(first.clone(), clock.clone()).await;
    let mut reader = Reader::begin(&first, None).await;
    let mut setup = Mutator {
        meta: first.clone(),
        session: world.session,
        slot: 40,
        seq: 0,
        rng: fastrand::Rng::with_seed(seed),
        done: Arc::default(),
    };
    for dir in 0..3 {
        setup.change(mkdir(&format!("d{dir}"))).await.expect("made");
    }
    let done: Arc<[AtomicU64; 3]> = Arc::default();
    let mut tasks = Vec::new();
    for slot in 1..=8u32 {
        let meta = if slot % 2 == 0 { first.clone() } else { second.clone() };
        let rng = fastrand::Rng::with_seed(seed * 100 + u64::from(slot));
        let mutator = Mutator { meta, session: world.session, slot, seq: 0, rng, done: done.clone() };
        tasks.push(tokio::spawn(mutator.run(40)));
    }
    let mut mirror = Mirror::default();
    while tasks.iter().any(|task| !task.is_finished()) {
        let (changes, _) = reader.page(&second, 7).await.expect("read");
        changes.iter().for_each(|change| mirror.apply(change));
        tokio::task::yield_now().await;
    }
    for task in tasks {
        task.await.expect("no task fails");
    }
    // What is open is decided by its own server.
    for meta in [&first, &second] {
        // It may not know what became of its own steps either.
        while meta.tend_feed().await.unwrap_or(true) {}
    }
    reader.all(&second).await.iter().for_each(|change| mirror.apply(change));
    let (names, attrs) = tree(&world).await;
    assert_eq!(mirror.names, names, "seed {seed}");
    mirror.attrs.retain(|inode, _| attrs.contains_key(inode));
    for (inode, attr) in &attrs {
        // Times and links of directories change with their names, which nobody is told twice.
        if attr.kind() == pb::Kind::File {
            assert_eq!(mirror.attrs.get(inode), Some(attr), "seed {seed}");
        }
    }
    let told = |kind: ChangeKind| mirror.kinds.get(&(kind as i32)).copied().unwrap_or_default();
    let count = |index: usize| done[index].load(Ordering::SeqCst);
    assert_eq!(told(ChangeKind::Created), 3 + count(0), "each once, seed {seed}");
    assert_eq!(told(ChangeKind::Removed), count(1), "each once, seed {seed}");
    assert!(told(ChangeKind::Renamed) <= count(2) && told(ChangeKind::Renamed) > 0, "seed {seed}");
}

#[tokio::test]
async fn a_mirror_of_two_servers_ends_at_what_is_there() {
    for seed in 1..=6 {
        mirrored(seed, 0).await;
    }
}

#[tokio::test]
async fn so_it_does_when_outcomes_are_unknown() {
    for seed in 1..=6 {
        mirrored(seed, 60).await;
    }
}

#[tokio::test]
async fn a_late_commit_is_not_skipped() {
    const SYMLINK: u8 = 0x15;
    let gate = Arc::new(Semaphore::new(0));
    let engine = Disorder { held: Some((SYMLINK, gate.clone())), ..Disorder::new(1, 0) };
    let world = Arc::new(World::over(Arc::new(Bent::around(fresh().await, engine))).await);
    let mut reader = Reader::begin(&world.meta, None).await;
    world.create("first").await.expect("made");
    let late = tokio::spawn({
        let world = world.clone();
        async move {
            let symlink = pb::Symlink { at: Some(at("late")), target: bytes("t"), ..Default::default() };
            let op_id = Some(pb::OpId { session: world.session, epoch: 1, slot: 9, seq: 1 });
            let request = pb::Request { op_id, kind: Some(Kind::Symlink(symlink)), ..Default::default() };
            world.meta.execute(&request).await
        }
    });
    // It has its position and waits for its commit.
    tokio::task::yield_now().await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    world.create("second").await.expect("made");
    assert_eq!(reader.lines(&world.meta).await, ["created first"], "the second stands behind one that is under way");
    gate.add_permits(1);
    late.await.expect("no task fails").expect("made");
    assert_eq!(reader.lines(&world.meta).await, ["created late", "created second"]);
}

#[tokio::test]
async fn a_silent_log_is_closed_and_its_server_begins_another() {
    let engine = fresh().await;
    let clock = Arc::new(ManualClock::default());
    let open = |seed| Meta::open(engine.clone(), MetaOptions { seed, ..options(clock.clone()) });
    let (first, second) = (open(1).await.expect("opened"), open(2).await.expect("opened"));
    let world = World::around(first.clone(), clock.clone()).await;
    let mut reader = Reader::begin(&second, None).await;
    world.create("a").await.expect("made");
    second.tend_feed().await.expect("tended");
    clock.advance(Duration::from_secs(91));
    while second.tend_feed().await.expect("tended") {}
    assert_eq!(reader.lines(&second).await, ["created a"]);
    // It was only slow: what it does now stands in another log, and is told too.
    world.create("b").await.expect("made");
    let told = reader.all(&second).await;
    assert_eq!(told.iter().map(line).collect::<Vec<_>>(), ["created b"]);
    let logs: BTreeSet<u32> = told.iter().map(|change| change.log).collect();
    assert_eq!(logs, BTreeSet::from([2]));
    // A day later the closed log goes as a whole; who has read it to its end goes on.
    first.tend_feed().await.expect("tended");
    let stale = reader.cursor.clone();
    clock.advance(Duration::from_secs(25 * 3600));
    first.tend_feed().await.expect("tended");
    while second.tend_feed().await.expect("tended") {}
    while second.tend_feed().await.expect("tended") {}
    reader.cursor = stale;
    assert!(reader.all(&second).await.is_empty());
    world.create("c").await.expect("made");
    assert_eq!(reader.lines(&second).await, ["created c"]);
}

#[tokio::test]
async fn what_is_too_old_is_refused() {
    let world = World::new().await;
    world.create("zero").await.expect("made");
    let mut reader = Reader::begin(&world.meta, None).await;
    let mut current = Reader::begin(&world.meta, None).await;
    world.create("a").await.expect("made");
    assert_eq!(current.lines(&world.meta).await, ["created a"]);
    world.meta.tend_feed().await.expect("tended");
    world.clock.advance(Duration::from_secs(24 * 3600 + 1));
    while world.meta.tend_feed().await.expect("tended") {}
    assert_eq!(code(reader.page(&world.meta, 1).await), Code::CursorTooOld);
    assert!(current.all(&world.meta).await.is_empty());
    let oldest = pb::WatchChanges { oldest: true, ..Default::default() };
    assert!(changes(&world.meta, oldest).await.expect("read").changes.is_empty());
    let foreign = pb::WatchChanges { cursor: bytes("?"), ..Default::default() };
    assert_eq!(code(changes(&world.meta, foreign).await), Code::Invalid);
    world.create("b").await.expect("made");
    assert_eq!(current.lines(&world.meta).await, ["created b"]);
}

#[tokio::test]
async fn who_waits_is_woken() {
    let world = World::new().await;
    let seen = world.meta.feed_count();
    let waiting = tokio::spawn({
        let meta = world.meta.clone();
        async move { meta.feed_moved(seen).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    world.change(create("a")).await.expect("made");
    waiting.await.expect("woken");
}
