//! What operators ask with and are told, as plain values; and how they travel.

use bytes::Bytes;
use cairn_proto::BlockId;
use cairn_proto::pb;
use std::fmt;
use std::time::Duration;

/// A whole storage node, or one store (disk) of a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Subject {
    /// Every store of this node.
    Node(u32),
    /// This store.
    Store(u32),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node:{id}"),
            Self::Store(id) => write!(f, "store:{id}"),
        }
    }
}

impl Subject {
    /// As (node, store), one of which is 0.
    fn parts(subject: Option<Self>) -> (u32, u32) {
        match subject {
            None => (0, 0),
            Some(Self::Node(id)) => (id, 0),
            Some(Self::Store(id)) => (0, id),
        }
    }

    fn from_parts(node: u32, store: u32) -> Option<Self> {
        match (node, store) {
            (0, 0) => None,
            (0, store) => Some(Self::Store(store)),
            (node, _) => Some(Self::Node(node)),
        }
    }
}

/// A change of which stores are members of which groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Every membership leaves, and none comes until the stores are added again.
    Drain(Subject),
    /// Memberships may come again, and a fair share of them does.
    Add(Subject),
    /// Every membership goes from one to the other.
    Replace {
        /// Is left.
        from: Subject,
        /// Takes its place.
        to: Subject,
    },
    /// Memberships go from stores that are fuller than the mean to emptier ones.
    Balance,
    /// Stores that do not answer never will again: others take over at once, and what they alone held is lost.
    GiveUp(Subject),
}

impl Change {
    pub(super) fn to_pb(self, dry_run: bool) -> pb::StartTask {
        let (kind, subject, to) = match self {
            Self::Drain(subject) => (pb::TaskKind::Drain, Some(subject), None),
            Self::Add(subject) => (pb::TaskKind::Add, Some(subject), None),
            Self::Replace { from, to } => (pb::TaskKind::Replace, Some(from), Some(to)),
            Self::Balance => (pb::TaskKind::Balance, None, None),
            Self::GiveUp(subject) => (pb::TaskKind::GiveUp, Some(subject), None),
        };
        let ((node, store), (to_node, to_store)) = (Subject::parts(subject), Subject::parts(to));
        pb::StartTask { kind: kind as i32, node, store, to_node, to_store, dry_run }
    }

    /// Whether `task` does this.
    pub(super) fn is_of(self, task: &Task) -> bool {
        let (kind, subject, to) = match self {
            Self::Drain(subject) => (TaskKind::Drain, Some(subject), None),
            Self::Add(subject) => (TaskKind::Add, Some(subject), None),
            Self::Replace { from, to } => (TaskKind::Replace, Some(from), Some(to)),
            Self::Balance => (TaskKind::Balance, None, None),
            Self::GiveUp(subject) => (TaskKind::GiveUp, Some(subject), None),
        };
        (task.kind, task.subject, task.to) == (kind, subject, to)
    }
}

/// What a task does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskKind {
    /// See [`Change::Drain`].
    Drain,
    /// See [`Change::Add`].
    Add,
    /// See [`Change::Replace`].
    Replace,
    /// See [`Change::Balance`].
    Balance,
    /// Made by metadata itself: memberships of stores that are out go to others.
    Repair,
    /// See [`Change::GiveUp`].
    GiveUp,
    /// A server newer than this library calls it something else.
    Unknown,
}

impl TaskKind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Balance => "balance",
            Self::Repair => "repair",
            Self::GiveUp => "give-up",
            Self::Unknown => "unknown",
        }
    }

    fn from_pb(kind: pb::TaskKind) -> Self {
        match kind {
            pb::TaskKind::Drain => Self::Drain,
            pb::TaskKind::Add => Self::Add,
            pb::TaskKind::Replace => Self::Replace,
            pb::TaskKind::Balance => Self::Balance,
            pb::TaskKind::Repair => Self::Repair,
            pb::TaskKind::GiveUp => Self::GiveUp,
            pb::TaskKind::Unknown => Self::Unknown,
        }
    }
}

/// How a task stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskState {
    /// Moves are under way -> `Waiting`, `Done`, `Cancelled`.
    Running,
    /// It cannot go on by itself; [`Task::reason`] says why and what to do -> `Running`, `Cancelled`.
    Waiting,
    /// Every move is done.
    Done,
    /// An operator ended it.
    Cancelled,
    /// A server newer than this library calls it something else.
    Unknown,
}

impl TaskState {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }

    /// It will not change any more.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled)
    }

    fn from_pb(state: pb::TaskState) -> Self {
        match state {
            pb::TaskState::Running => Self::Running,
            pb::TaskState::Waiting => Self::Waiting,
            pb::TaskState::Done => Self::Done,
            pb::TaskState::Cancelled => Self::Cancelled,
            pb::TaskState::Unknown => Self::Unknown,
        }
    }
}

/// A change of memberships as metadata carries it out. It is kept by metadata, so it goes on after any restart.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its number; 0 in a plan that was not begun.
    pub id: u64,
    /// What it does.
    pub kind: TaskKind,
    /// How it stands.
    pub state: TaskState,
    /// Why it waits or was refused, and what to do; may be empty.
    pub reason: String,
    /// What it is about; `None` when it is about the whole cluster.
    pub subject: Option<Subject>,
    /// Where to; only of [`TaskKind::Replace`].
    pub to: Option<Subject>,
    /// Memberships that move.
    pub moves_total: u64,
    /// Memberships that have moved.
    pub moves_done: u64,
    /// Bytes to be copied.
    pub bytes_total: u64,
    /// Bytes copied so far, by moves under way too.
    pub bytes_done: u64,
    /// Until it is done at the speed measured lately; `None` when that is not known yet.
    pub eta: Option<Duration>,
    /// When it began, nanoseconds since 1970.
    pub started_ns: i64,
    /// When it ended, nanoseconds since 1970; 0 = it has not.
    pub ended_ns: i64,
}

impl Task {
    pub(crate) fn from_pb(task: pb::Task) -> Self {
        Self {
            id: task.id,
            kind: TaskKind::from_pb(task.kind()),
            state: TaskState::from_pb(task.state()),
            subject: Subject::from_parts(task.node, task.store),
            to: Subject::from_parts(task.to_node, task.to_store),
            reason: task.reason,
            moves_total: task.moves_total,
            moves_done: task.moves_done,
            bytes_total: task.bytes_total,
            bytes_done: task.bytes_done,
            eta: (task.eta_s > 0).then(|| Duration::from_secs(task.eta_s)),
            started_ns: task.started_ns,
            ended_ns: task.ended_ns,
        }
    }
}

/// A membership that goes from one store to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// The group.
    pub pg: u32,
    /// The store that leaves.
    pub from: u32,
    /// The store that joins.
    pub to: u32,
    /// Bytes to be copied.
    pub bytes: u64,
}

/// What a change means.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its totals; with a number when it was begun.
    pub task: Task,
    /// The first moves, at most 1024.
    pub moves: Vec<Move>,
    /// Groups of which nobody else is known to hold everything, the first 1024; only of [`Change::GiveUp`].
    pub endangered: Vec<EndangeredGroup>,
}

/// A group that loses its last full member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndangeredGroup {
    /// The group.
    pub pg: u32,
    /// Bytes that a member is estimated to hold of it: so much may be lost.
    pub bytes: u64,
    /// Members that answer and hold a part, which is kept.
    pub others: u32,
}

impl EndangeredGroup {
    pub(super) fn from_pb(group: pb::EndangeredGroup) -> Self {
        Self { pg: group.pg, bytes: group.bytes, others: group.others }
    }
}

/// How far a store is with reading and checking everything it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreScrub {
    /// The store.
    pub store: u32,
    /// Passes of this store that began, the present one included.
    pub pass: u64,
    /// A pass is under way.
    pub running: bool,
    /// An operator asked for it.
    pub asked: bool,
    /// Bytes read in this pass.
    pub bytes_done: u64,
    /// Bytes there are to read.
    pub bytes_total: u64,
    /// Defects that this pass, or the last one, found.
    pub found: u64,
    /// How many of these are repaired and were read again.
    pub repaired: u64,
    /// When the last complete pass ended, nanoseconds since 1970; 0 = never.
    pub last_complete_ns: i64,
    /// The period is over and the pass is not complete.
    pub behind: bool,
}

impl StoreScrub {
    pub(crate) fn from_pb(scrub: &pb::StoreScrub) -> Self {
        Self {
            store: scrub.store,
            pass: scrub.pass,
            running: scrub.running,
            asked: scrub.asked,
            bytes_done: scrub.bytes_done,
            bytes_total: scrub.bytes_total,
            found: scrub.found,
            repaired: scrub.repaired,
            last_complete_ns: scrub.last_complete_ns,
            behind: scrub.behind,
        }
    }
}

/// Something that was found wrong on a node, and what became of it.
#[derive(Clone, Debug)]
pub struct LedgerEntry {
    /// Counted from 1 on each node.
    pub number: u64,
    /// When it was found, nanoseconds since 1970.
    pub found_ns: i64,
    /// On which store.
    pub store: u32,
    /// Which block.
    pub block: BlockId,
    /// The block's group.
    pub pg: u32,
    /// Why it is bad: `payload`, `header`, `missing`, ...
    pub cause: String,
    /// Who found it: `scrub`, `read`, `open`, `compare`, `peer`.
    pub finder: String,
    /// Empty = open. Otherwise how it ended: `repaired`, `written again`, `deleted`.
    pub result: String,
    /// When it ended, nanoseconds since 1970; 0 = it is open.
    pub closed_ns: i64,
    /// Why it is still open, if the last attempt failed.
    pub trouble: String,
}

/// A page of a node's ledger, newest first.
#[derive(Clone, Debug)]
pub struct LedgerPage {
    /// The entries; empty behind the oldest.
    pub entries: Vec<LedgerEntry>,
    /// Entries of the whole ledger that are open now.
    pub open: u64,
}

/// Consecutive blocks: `first`, and `count - 1` more with the next numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockRun {
    /// The first block.
    pub first: BlockId,
    /// How many blocks, never 0.
    pub count: u32,
}

impl fmt::Display for BlockRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            0 | 1 => write!(f, "{}", self.first),
            count => write!(f, "{}..{}", self.first, self.first.seq.0.saturating_add(count - 1)),
        }
    }
}

impl BlockRun {
    /// `None` for a run that is none: without blocks, or beyond the last number.
    pub(super) fn from_pb(run: Option<&pb::Run>) -> Option<Self> {
        let run = run?;
        let first = block(run.first.as_ref()?);
        first.offset(run.count.checked_sub(1)?)?;
        Some(Self { first, count: run.count })
    }

    pub(super) fn to_pb(self) -> pb::Run {
        pb::Run { first: Some(crate::read::to_pb(self.first)), count: self.count }
    }
}

pub(super) fn block(id: &pb::BlockId) -> BlockId {
    BlockId::new(id.inode, id.writer, id.seq)
}

/// A page of what a store holds of a group, in ascending order.
#[derive(Clone, Debug)]
pub struct InventoryPage {
    /// Blocks that are there and not known to be bad.
    pub runs: Vec<BlockRun>,
    /// Ask with this for the next page; `None` = the end was reached.
    pub next_after: Option<BlockId>,
}

/// Where a page begins; the default is the beginning.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Cursor(pub(super) Bytes);

impl Cursor {
    pub(super) fn next(bytes: Bytes) -> Option<Self> {
        (!bytes.is_empty()).then_some(Self(bytes))
    }
}

/// Which runs to page through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunKind {
    /// Those that maps of files refer to, in order of the files' numbers; maps that are being dropped included.
    Extents,
    /// Those that were dropped and are not collected yet.
    Garbage,
    /// Those that were dropped and are kept, because snapshots and backups show them.
    Held,
}

/// Blocks that a row of metadata names.
#[derive(Clone, Debug)]
pub struct PlacedRun {
    /// The blocks.
    pub run: BlockRun,
    /// Block i, counted from the first, is in `pgs[i mod n]`.
    pub pgs: Vec<u32>,
    /// Bytes of each block but the last; 0 = not known.
    pub block_len: u32,
    /// Bytes of the file that the run covers; 0 = not known.
    pub len: u64,
    /// Where in the file.
    pub file_offset: u64,
    /// The file whose map it stands in.
    pub inode: u64,
    /// It stands in the file's current map.
    pub current: bool,
}

/// A page of runs.
#[derive(Clone, Debug)]
pub struct RunPage {
    /// The runs, in key order.
    pub runs: Vec<PlacedRun>,
    /// Where the next page begins; `None` = that was all.
    pub next: Option<Cursor>,
}

/// A contradiction among metadata's own rows.
#[derive(Clone, Debug)]
pub struct RowFinding {
    /// Which rule is broken.
    pub rule: String,
    /// What and where.
    pub what: String,
    /// What was done, or can be done.
    pub remedy: String,
    /// It was mended.
    pub repaired: bool,
}

/// A page of metadata's rows, checked.
#[derive(Clone, Debug)]
pub struct RowPage {
    /// What was found.
    pub findings: Vec<RowFinding>,
    /// Rows looked at.
    pub rows: u64,
    /// Where the next page begins; `None` = that was all.
    pub next: Option<Cursor>,
}

/// Committed blocks that a member of their group is known to lack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DegradedRun {
    /// The group.
    pub pg: u32,
    /// The member.
    pub store: u32,
    /// The blocks.
    pub run: BlockRun,
}

/// A page of degraded rows.
#[derive(Clone, Debug)]
pub struct DegradedPage {
    /// The rows.
    pub rows: Vec<DegradedRun>,
    /// Where the next page begins; `None` = that was all.
    pub next: Option<Cursor>,
}

/// What metadata knows of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The current map of a file refers to it.
    Live,
    /// Nothing refers to it, and nothing ever will.
    Dead,
    /// It may yet be committed, or is being collected: ask again.
    Undecided,
    /// Metadata knows nothing of its writer.
    Future,
}

impl Verdict {
    pub(super) fn from_pb(verdict: pb::Verdict) -> Self {
        match verdict {
            pb::Verdict::Live => Self::Live,
            pb::Verdict::Dead => Self::Dead,
            pb::Verdict::Future => Self::Future,
            pb::Verdict::Undecided => Self::Undecided,
        }
    }
}

/// A store's part in a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberState {
    /// Holds everything its group was given, but for degraded runs.
    Full,
    /// Counts for new writes, is still copying older ones.
    Joining,
    /// Is read from until the others hold everything.
    Leaving,
    /// Was away too long, and is compared with the others when it is back.
    Stale,
    /// A server newer than this library calls it something else.
    Unknown,
}

impl MemberState {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Joining => "joining",
            Self::Leaving => "leaving",
            Self::Stale => "stale",
            Self::Unknown => "unknown",
        }
    }

    fn from_pb(state: pb::MemberState) -> Self {
        match state {
            pb::MemberState::Full => Self::Full,
            pb::MemberState::Joining => Self::Joining,
            pb::MemberState::Leaving => Self::Leaving,
            pb::MemberState::Stale => Self::Stale,
            pb::MemberState::Unknown => Self::Unknown,
        }
    }
}

/// A placement group as the cluster map has it.
#[derive(Clone, Debug)]
pub struct MapGroup {
    /// Its number.
    pub id: u32,
    /// Grows with every change of its members.
    pub epoch: u64,
    /// Copies meant.
    pub replicas: u32,
    /// Stores and their parts.
    pub members: Vec<(u32, MemberState)>,
    /// Takes no new blocks.
    pub sealed: bool,
    /// Bytes committed to it.
    pub bytes: u64,
}

/// A store as the cluster map has it.
#[derive(Clone, Debug)]
pub struct MapStore {
    /// Its number.
    pub id: u32,
    /// Its node.
    pub node: u32,
    /// Its node is there: neither silent nor replaced.
    pub up: bool,
    /// The node's state in a word: `up`, `suspect`, `out`, `replaced`.
    pub node_state: String,
    /// Blocks found bad and not yet repaired.
    pub quarantined: u32,
    /// Why it takes no writes; empty when it does.
    pub trouble: String,
    /// What an operator has to look at although it serves; empty when nothing.
    pub alarm: String,
}

/// The cluster map: who is there and who holds what.
#[derive(Clone, Debug)]
pub struct ClusterMap {
    /// Grows with every change of nodes and groups.
    pub version: u64,
    /// Numbers and addresses of nodes that were not replaced.
    pub nodes: Vec<(u32, String)>,
    /// All stores, those of replaced nodes too.
    pub stores: Vec<MapStore>,
    /// All groups.
    pub groups: Vec<MapGroup>,
}

impl MapGroup {
    pub(super) fn from_pb(group: &pb::PgInfo) -> Self {
        Self {
            id: group.id,
            epoch: group.epoch,
            replicas: group.replicas,
            members: group.members.iter().map(|m| (m.store, MemberState::from_pb(m.state()))).collect(),
            sealed: group.sealed,
            bytes: group.bytes,
        }
    }
}

impl MapStore {
    pub(super) fn from_pb(node: &pb::NodeInfo, store: &pb::StoreInfo) -> Self {
        Self {
            id: store.id,
            node: node.id,
            up: node.state() == pb::NodeState::Up,
            node_state: crate::status::word(node.state().as_str_name(), "NODE_STATE_"),
            quarantined: store.quarantined,
            trouble: store.trouble.clone(),
            alarm: store.alarm.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_recognised_in_the_task_that_does_it() {
        let changes = [
            Change::Drain(Subject::Node(3)),
            Change::Drain(Subject::Store(3)),
            Change::Add(Subject::Node(3)),
            Change::Replace { from: Subject::Store(1), to: Subject::Store(2) },
            Change::Balance,
        ];
        for (index, change) in changes.iter().enumerate() {
            let asked = change.to_pb(false);
            let pb::StartTask { kind, node, store, to_node, to_store, .. } = asked;
            let task = Task::from_pb(pb::Task { kind, node, store, to_node, to_store, ..Default::default() });
            for (other, change) in changes.iter().enumerate() {
                assert_eq!(change.is_of(&task), index == other, "{change:?} and {task:?}");
            }
        }
    }

    #[test]
    fn runs_that_are_none_are_refused() {
        let run = |seq, count| pb::Run { first: Some(pb::BlockId { inode: 1, writer: 2, seq }), count };
        assert_eq!(BlockRun::from_pb(None), None);
        assert_eq!(BlockRun::from_pb(Some(&run(1, 0))), None);
        assert_eq!(BlockRun::from_pb(Some(&run(u32::MAX, 2))), None);
        let whole = BlockRun::from_pb(Some(&run(u32::MAX, 1))).unwrap();
        assert_eq!((whole.to_pb(), whole.to_string()), (run(u32::MAX, 1), format!("1/2/{}", u32::MAX)));
        assert_eq!(BlockRun { first: BlockId::new(1, 2, 5), count: 3 }.to_string(), "1/2/5..7");
    }
}
