//! A namespace under test, and short ways to ask it.

use crate::bent::{Bend, Bent, Ready};
use bytes::Bytes;
use cairn_meta::clock::Clock;
use cairn_meta::kv::{CommitOutcome, EmbeddedEngine, EmbeddedOptions, Engine, EngineError, MapEngine};
use cairn_meta::{Meta, MetaOptions};
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};

pub const BLOCK: u32 = 64 * 1024;
/// The version of the cluster that programs of today know.
pub const NEWEST: u32 = 2;
pub const INLINE_MAX: u32 = 4096;

/// Time that moves when a test says so.
#[derive(Default)]
pub struct ManualClock {
    ms: AtomicU64,
}

impl ManualClock {
    pub fn advance(&self, by: Duration) {
        self.ms.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }

    pub fn seconds(&self) -> u64 {
        self.ms.load(Ordering::SeqCst) / 1000
    }
}

impl Clock for ManualClock {
    fn now_ns(&self) -> i64 {
        1_000_000_000_000 + self.ms.load(Ordering::SeqCst) as i64 * 1_000_000
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.ms.load(Ordering::SeqCst))
    }
}

pub fn options(clock: Arc<dyn Clock>) -> MetaOptions {
    MetaOptions {
        replicas: 3,
        block_len: BLOCK,
        inline_max: INLINE_MAX,
        lease: Duration::from_millis(cairn_proto::limits::SESSION_LEASE_MS),
        suspect_after: Duration::from_secs(10),
        out_after: Duration::from_secs(600),
        addr: "127.0.0.1:9000".into(),
        alone: true,
        metas: vec!["127.0.0.1:9000".into()],
        clock,
        seed: 7,
    }
}

pub fn embedded(dir: &Path) -> Arc<dyn Engine> {
    let options = EmbeddedOptions { cache_bytes: 8 << 20, clock: Arc::new(ManualClock::default()) };
    Arc::new(EmbeddedEngine::open(dir, options).expect("the engine opens"))
}

/// One server's way to an engine that it shares with others.
#[derive(Clone, Default)]
pub struct Line {
    /// Whatever is asked fails.
    pub away: Arc<AtomicBool>,
    /// Reads are served, commits of changes fail.
    pub refuses_commits: Arc<AtomicBool>,
    /// Commits that came this far.
    pub commits: Arc<AtomicU64>,
    frozen: Arc<RwLock<()>>,
}

impl Line {
    /// The engine as it is reached over this line.
    pub fn to(&self, engine: MapEngine) -> Bent<Self> {
        Bent::around(Arc::new(engine), self.clone())
    }

    /// Until the guard is dropped, commits do not get through.
    pub async fn freeze(&self) -> OwnedRwLockWriteGuard<()> {
        self.frozen.clone().write_owned().await
    }
}

fn away(away: &AtomicBool) -> Result<(), EngineError> {
    if away.load(Ordering::SeqCst) {
        return Err(EngineError::Unavailable { cause: "the line is cut".into() });
    }
    Ok(())
}

#[async_trait::async_trait]
impl Bend for Line {
    fn begin(&self) -> Result<(), EngineError> {
        away(&self.away)
    }

    async fn commit(&self, ready: Ready) -> Result<CommitOutcome, EngineError> {
        away(&self.away)?;
        if !ready.writes.is_empty() {
            away(&self.refuses_commits)?;
        }
        self.commits.fetch_add(1, Ordering::SeqCst);
        let _thawed = self.frozen.clone().read_owned().await;
        ready.commit().await
    }
}

/// A namespace with one session, whose mutations go through slot 0.
pub struct World {
    pub meta: Meta,
    pub clock: Arc<ManualClock>,
    pub session: u64,
    pub writer: u64,
    seq: AtomicU64,
    block: AtomicU64,
}

impl World {
    pub async fn new() -> Self {
        Self::over(crate::engine::fresh().await).await
    }

    pub async fn over(engine: Arc<dyn Engine>) -> Self {
        Self::seeded(engine, 7).await
    }

    /// Whose random choices follow from `seed`.
    pub async fn seeded(engine: Arc<dyn Engine>, seed: u64) -> Self {
        let clock = Arc::new(ManualClock::default());
        let options = MetaOptions { seed, ..options(clock.clone()) };
        Self::opened(engine, options, clock).await
    }

    /// As one of several servers of the engine, found at `addr`.
    pub async fn beside(engine: Arc<dyn Engine>, addr: &str) -> Self {
        let clock = Arc::new(ManualClock::default());
        let seed = addr.bytes().map(u64::from).sum();
        let options = MetaOptions { alone: false, addr: addr.into(), seed, ..options(clock.clone()) };
        Self::opened(engine, options, clock).await
    }

    async fn opened(engine: Arc<dyn Engine>, options: MetaOptions, clock: Arc<ManualClock>) -> Self {
        let meta = Meta::open(engine, options).await.expect("metadata opens");
        Self::around(meta, clock).await
    }

    /// Around a namespace that is open.
    pub async fn around(meta: Meta, clock: Arc<ManualClock>) -> Self {
        let mut world = Self { meta, clock, session: 0, writer: 0, seq: AtomicU64::new(0), block: AtomicU64::new(0) };
        world.session = world.open_session().await;
        world.writer = world.open_writer(world.session).await;
        world
    }

    /// With three nodes and their groups.
    pub async fn with_groups() -> Self {
        let world = Self::new().await;
        world.add_nodes(3).await;
        world
    }

    pub async fn add_nodes(&self, count: u8) {
        for index in 1..=count {
            self.register(index, index, true).await;
        }
        while self.meta.ensure_groups().await.expect("groups are made") {}
    }

    /// Registers node `index` at port `9000 + port`.
    pub async fn register(&self, index: u8, port: u8, fresh: bool) -> pb::RegisterNodeReply {
        self.ask(registration(index, port, fresh)).await.expect("registered").into_registered()
    }

    /// Registers node `index` again, with a new process whose store was made anew under its old name.
    pub async fn register_anew(&self, index: u8) -> pb::RegisterNodeReply {
        let Kind::RegisterNode(mut ask) = registration(index, index, true) else { unreachable!("made below") };
        ask.boot_id = Bytes::from(vec![index.wrapping_add(1); 16]);
        self.ask(Kind::RegisterNode(ask)).await.expect("registered").into_registered()
    }

    pub async fn ask(&self, kind: Kind) -> Result<Reply, Status> {
        self.meta.execute(&pb::Request { kind: Some(kind), ..Default::default() }).await
    }

    pub async fn open_session(&self) -> u64 {
        match self.ask(Kind::OpenSession(pb::OpenSession { name: "test".into(), ..Default::default() })).await {
            Ok(Reply::OpenSession(reply)) => reply.session,
            other => panic!("{other:?}"),
        }
    }

    pub async fn open_writer(&self, session: u64) -> u64 {
        match self.ask(Kind::OpenWriter(pb::OpenWriter { session, epoch: 1 })).await {
            Ok(Reply::OpenWriter(reply)) => reply.writer,
            other => panic!("{other:?}"),
        }
    }

    pub fn next_op(&self) -> pb::OpId {
        let seq = self.seq.fetch_add(1, Ordering::SeqCst) + 1;
        pb::OpId { session: self.session, epoch: 1, slot: 0, seq }
    }

    /// Does a mutation under the next operation id.
    pub async fn change(&self, kind: Kind) -> Result<Reply, Status> {
        let op_id = Some(self.next_op());
        self.meta.execute(&pb::Request { op_id, kind: Some(kind), ..Default::default() }).await
    }

    /// Does a mutation on behalf of a user.
    pub async fn change_as(&self, caller: &pb::Credentials, kind: Kind) -> Result<Reply, Status> {
        let (op_id, caller) = (Some(self.next_op()), Some(caller.clone()));
        self.meta.execute(&pb::Request { op_id, caller, kind: Some(kind), ..Default::default() }).await
    }

    /// Asks on behalf of a user.
    pub async fn ask_as(&self, caller: &pb::Credentials, kind: Kind) -> Result<Reply, Status> {
        self.meta.execute(&pb::Request { caller: Some(caller.clone()), kind: Some(kind), ..Default::default() }).await
    }

    /// Does a mutation in another session than the world's, of which it is the only one under way.
    pub async fn change_in(&self, session: u64, kind: Kind) -> Result<Reply, Status> {
        let op_id = Some(pb::OpId { session, ..self.next_op() });
        self.meta.execute(&pb::Request { op_id, kind: Some(kind), ..Default::default() }).await
    }

    pub async fn link(&self, from: &str, to: &str) -> Result<pb::Attr, Status> {
        let ask = pb::Link { from: Some(at(from)), to: Some(at(to)), follow: false };
        self.change(Kind::Link(ask)).await.map(Expect::into_attr)
    }

    pub async fn set_xattr(&self, path: &str, name: &str, value: &[u8]) -> Result<pb::Attr, Status> {
        self.change(set_xattr(path, name, value)).await.map(Expect::into_attr)
    }

    pub async fn xattr(&self, path: &str, name: &str) -> Result<Bytes, Status> {
        let ask = pb::GetXattr { at: Some(at(path)), follow: false, name: bytes(name) };
        match self.ask(Kind::GetXattr(ask)).await? {
            Reply::Xattr(reply) => Ok(reply.value),
            other => panic!("{other:?}"),
        }
    }

    /// Every rule that a check of the rows finds broken.
    pub async fn broken_rules(&self) -> Vec<String> {
        let mut rules = Vec::new();
        let mut cursor = Bytes::new();
        loop {
            let ask = pb::CheckRows { cursor, repair: false };
            let Ok(Reply::CheckRows(page)) = self.ask(Kind::CheckRows(ask)).await else { panic!("no page") };
            rules.extend(page.findings.into_iter().map(|finding| format!("{}: {}", finding.rule, finding.what)));
            cursor = page.next_cursor;
            if cursor.is_empty() {
                return rules;
            }
        }
    }

    pub async fn mkdir(&self, path: &str) -> Result<pb::Attr, Status> {
        self.change(mkdir(path)).await.map(Expect::into_attr)
    }

    pub async fn create(&self, path: &str) -> Result<pb::Attr, Status> {
        self.change(create(path)).await.map(Expect::into_attr)
    }

    pub async fn symlink(&self, path: &str, target: &str) -> Result<pb::Attr, Status> {
        let ask = pb::Symlink { at: Some(at(path)), target: bytes(target), ..Default::default() };
        self.change(Kind::Symlink(ask)).await.map(Expect::into_attr)
    }

    pub async fn unlink(&self, path: &str) -> Result<(), Status> {
        self.change(Kind::Unlink(pb::Unlink { at: Some(at(path)), ..Default::default() })).await.map(|_| ())
    }

    pub async fn rmdir(&self, path: &str) -> Result<(), Status> {
        self.change(Kind::Rmdir(pb::Rmdir { at: Some(at(path)), ..Default::default() })).await.map(|_| ())
    }

    pub async fn rename(&self, from: &str, to: &str) -> Result<(), Status> {
        let ask = pb::Rename { from: Some(at(from)), to: Some(at(to)), ..Default::default() };
        self.change(Kind::Rename(ask)).await.map(|_| ())
    }

    pub async fn stat(&self, path: &str) -> Result<pb::Attr, Status> {
        self.ask(Kind::Stat(pb::Stat { at: Some(at(path)), follow: false, ..Default::default() }))
            .await
            .map(Expect::into_attr)
    }

    pub async fn stat_inode(&self, inode: u64) -> Result<pb::Attr, Status> {
        let at = Some(pb::At { dir: inode, path: Bytes::new() });
        self.ask(Kind::Stat(pb::Stat { at, follow: false, ..Default::default() })).await.map(Expect::into_attr)
    }

    pub async fn list(&self, path: &str) -> Result<Vec<String>, Status> {
        let mut names = Vec::new();
        let mut after = Bytes::new();
        loop {
            let ask = pb::ReadDir {
                at: Some(at(path)),
                after: after.clone(),
                limit: 3,
                with_attr: true,
                ..Default::default()
            };
            let Reply::ReadDir(page) = self.ask(Kind::ReadDir(ask)).await? else { panic!("no listing") };
            for entry in &page.entries {
                assert_eq!(entry.attr.as_ref().expect("asked for").inode, entry.inode);
                names.push(String::from_utf8_lossy(&entry.name).into_owned());
                after = entry.name.clone();
            }
            if page.end {
                return Ok(names);
            }
            assert!(!page.entries.is_empty(), "a page without an end and without entries");
        }
    }

    pub async fn alloc_inode(&self) -> u64 {
        match self.ask(Kind::AllocInodes(pb::AllocInodes { count: 1 })).await {
            Ok(Reply::AllocInodes(reply)) => reply.first,
            other => panic!("{other:?}"),
        }
    }

    pub async fn inline(&self, inode: u64, offset: u64, data: &[u8]) -> Result<pb::CommitReply, Status> {
        let inline = Some(pb::InlineWrite { offset, data: Bytes::copy_from_slice(data) });
        let ask = pb::Commit { inode, inline, ..Default::default() };
        self.change(Kind::Commit(ask)).await.map(Expect::into_commit)
    }

    /// A piece of fresh blocks in group 1, acknowledged by `acked`.
    pub fn piece(&self, offset: u64, len: u64, acked: &[u32]) -> pb::Piece {
        let count = len.div_ceil(u64::from(BLOCK));
        let first_seq = self.block.fetch_add(count, Ordering::SeqCst) as u32;
        pb::Piece { offset, len, first_seq, block_len: BLOCK, pg: 1, acked: acked.to_vec(), pg_epoch: 0 }
    }

    pub fn commit(&self, inode: u64, pieces: Vec<pb::Piece>) -> pb::Commit {
        pb::Commit { inode, writer: self.writer, pieces, ..Default::default() }
    }

    pub async fn write(&self, inode: u64, offset: u64, len: u64) -> Result<pb::CommitReply, Status> {
        let piece = self.piece(offset, len, &self.members(1).await);
        self.change(Kind::Commit(self.commit(inode, vec![piece]))).await.map(Expect::into_commit)
    }

    pub async fn truncate(&self, inode: u64, size: u64) -> Result<pb::CommitReply, Status> {
        self.change(Kind::Truncate(pb::Truncate { inode, size, mtime_ns: None })).await.map(Expect::into_commit)
    }

    pub async fn extents(&self, inode: u64, offset: u64, len: u64) -> pb::GetExtentsReply {
        let ask = pb::GetExtents { inode, offset, len, known_version: 0 };
        match self.ask(Kind::GetExtents(ask)).await {
            Ok(Reply::GetExtents(reply)) => reply,
            other => panic!("{other:?}"),
        }
    }

    pub async fn map(&self) -> pb::ClusterMapReply {
        let mut whole = pb::ClusterMapReply::default();
        let mut cursor = 0;
        loop {
            let ask = pb::ClusterMap { known_version: 0, cursor };
            let Ok(Reply::ClusterMap(page)) = self.ask(Kind::ClusterMap(ask)).await else { panic!("no map") };
            cursor = page.next_cursor;
            let (mut nodes, mut pgs) = (std::mem::take(&mut whole.nodes), std::mem::take(&mut whole.pgs));
            nodes.extend(page.nodes.iter().cloned());
            pgs.extend(page.pgs.iter().cloned());
            whole = pb::ClusterMapReply { nodes, pgs, ..page };
            if cursor == 0 {
                return whole;
            }
        }
    }

    pub async fn members(&self, pg: u32) -> Vec<u32> {
        let map = self.map().await;
        let group = map.pgs.iter().find(|info| info.id == pg).expect("the group exists");
        group.members.iter().map(|member| member.store).collect()
    }

    pub async fn status(&self) -> pb::ClusterStatusReply {
        match self.ask(Kind::ClusterStatus(pb::ClusterStatus {})).await {
            Ok(Reply::ClusterStatus(reply)) => reply,
            other => panic!("{other:?}"),
        }
    }

    pub async fn degraded(&self, store: u32) -> Vec<pb::DegradedRow> {
        let mut rows = Vec::new();
        let mut cursor = Bytes::new();
        loop {
            let ask = pb::ListDegraded { store, cursor, limit: 2 };
            let Ok(Reply::ListDegraded(page)) = self.ask(Kind::ListDegraded(ask)).await else { panic!("no list") };
            rows.extend(page.rows);
            cursor = page.next_cursor;
            if cursor.is_empty() {
                return rows;
            }
        }
    }
}

/// Takes a reply apart.
pub trait Expect {
    fn into_attr(self) -> pb::Attr;
    fn into_commit(self) -> pb::CommitReply;
    fn into_registered(self) -> pb::RegisterNodeReply;
}

impl Expect for Reply {
    fn into_attr(self) -> pb::Attr {
        match self {
            Reply::Attr(attr) => attr,
            other => panic!("{other:?}"),
        }
    }
    fn into_commit(self) -> pb::CommitReply {
        match self {
            Reply::Commit(reply) => reply,
            other => panic!("{other:?}"),
        }
    }
    fn into_registered(self) -> pb::RegisterNodeReply {
        match self {
            Reply::RegisterNode(reply) => reply,
            other => panic!("{other:?}"),
        }
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn at(path: &str) -> pb::At {
    pb::At { dir: 1, path: bytes(path) }
}

pub fn at_inode(inode: u64) -> pb::At {
    pb::At { dir: inode, path: Bytes::new() }
}

pub fn set_xattr(path: &str, name: &str, value: &[u8]) -> Kind {
    let value = Bytes::copy_from_slice(value);
    Kind::SetXattr(pb::SetXattr { at: Some(at(path)), name: bytes(name), value, ..Default::default() })
}

pub fn user(uid: u32, gid: u32) -> pb::Credentials {
    pb::Credentials { uid, gid, groups: Vec::new() }
}

pub fn attr(mode: u32) -> pb::NewAttr {
    pb::NewAttr { mode, uid: 1000, gid: 100, ..Default::default() }
}

pub fn mkdir(path: &str) -> Kind {
    Kind::Mkdir(pb::Mkdir { at: Some(at(path)), attr: Some(attr(0o755)) })
}

pub fn create(path: &str) -> Kind {
    Kind::Create(pb::Create {
        at: Some(at(path)),
        attr: Some(attr(0o644)),
        exclusive: false,
        follow: true,
        ..Default::default()
    })
}

pub fn beat(store: u8, fresh: bool) -> pb::StoreBeat {
    let uuid = Bytes::from(vec![store.wrapping_add(100); 16]);
    pb::StoreBeat { uuid, capacity_bytes: 1 << 40, incarnation: 1, fresh, ..Default::default() }
}

pub fn registration(index: u8, port: u8, fresh: bool) -> Kind {
    Kind::RegisterNode(pb::RegisterNode {
        uuid: Bytes::from(vec![index; 16]),
        boot_id: Bytes::from(vec![index; 16]),
        addr: format!("127.0.0.1:{}", 9000 + u16::from(port)),
        stores: vec![beat(index, fresh)],
        newest_version: NEWEST,
        ..Default::default()
    })
}

pub fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.expect_err("should have been refused").code
}
