//! What operators do: tasks, scrub, ledgers, checks. Plain requests; what follows from their answers is the caller's.

mod backup;
mod dump;
mod types;
mod upgrade;

pub use backup::HeldDump;
pub use dump::{Dump, DumpPiece};
pub use types::{
    BlockRun, Change, ClusterMap, Cursor, DegradedPage, DegradedRun, EndangeredGroup, InventoryPage, LedgerEntry,
    LedgerPage, MapGroup, MapStore, MemberState, Move, PlacedRun, Plan, RowFinding, RowPage, RunKind, RunPage,
    StoreScrub, Subject, Task, TaskKind, TaskState, Verdict,
};

pub use upgrade::{Software, UpgradeStatus};

use crate::client::DfsClient;
use crate::error::{Cause, Error, ErrorKind};
use crate::node::{Leg, Node};
use cairn_proto::limits::{BLOCKS_JUDGED_MAX, BLOCKS_PER_REQUEST_MAX, PAGE_ROWS_MAX};
use cairn_proto::pb::{self, request, response};
use cairn_proto::status::Code;
use cairn_proto::{BlockId, NodeId, StoreId};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Blocks of the answer to one request for an inventory.
const INVENTORY_PAGE: u32 = BLOCKS_PER_REQUEST_MAX as u32;

/// How often it is looked whether a node that owes an answer has been given up.
const BREAKER_LOOK: Duration = Duration::from_millis(100);

/// The operator's side of a cluster, as [`DfsClient::admin`] gives it. Cloning is cheap.
///
/// Every call asks metadata or one node, within the client's deadlines for metadata or for reads, again after failures
/// as the client's [`RetryPolicy`](crate::RetryPolicy) says. A call that is dropped may have been carried out. Common
/// errors: `Unavailable` (nobody answered), `Deadline`, `Unsupported` (the server is older than the request) and, for a
/// node or store that is not in the cluster map, `InvalidInput`.
#[derive(Clone)]
pub struct Admin {
    client: DfsClient,
}

impl DfsClient {
    /// The operator's side of the cluster.
    pub fn admin(&self) -> Admin {
        Admin { client: self.clone() }
    }
}

/// The part of an answer that was asked for; any other is a defect of the server.
macro_rules! expect {
    ($admin:expr, $name:literal, $kind:ident, $reply:expr) => {
        match $reply {
            response::Kind::$kind(reply) => Ok(reply),
            _ => Err($admin.client.inner.unexpected($name)),
        }
    };
}

impl Admin {
    async fn operation<T>(&self, name: &'static str, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.client.operation(name, Path::new("/"), work).await
    }

    async fn meta(&self, kind: request::Kind) -> Result<response::Kind, Error> {
        let inner = &self.client.inner;
        inner.meta_read(kind, inner.deadline(inner.config.meta_timeout)).await
    }

    /// The connection layer's view of a node; the map is read again when it is not in there.
    async fn node_by(&self, find: impl Fn(&DfsClient) -> Option<Arc<Node>>, what: Subject) -> Result<Arc<Node>, Error> {
        let inner = &self.client.inner;
        if let Some(node) = find(&self.client) {
            return Ok(node);
        }
        inner.cluster.reload(inner, inner.deadline(inner.config.meta_timeout)).await?;
        find(&self.client).ok_or_else(|| Error::invalid("node", format!("{what} is not in the cluster map")))
    }

    async fn node(&self, id: u32) -> Result<Arc<Node>, Error> {
        let find = |client: &DfsClient| client.inner.cluster.view().nodes.get(&NodeId(id)).cloned();
        self.node_by(find, Subject::Node(id)).await
    }

    async fn node_of(&self, store: u32) -> Result<Arc<Node>, Error> {
        let find = |client: &DfsClient| client.inner.cluster.view().node_of(StoreId(store)).cloned();
        self.node_by(find, Subject::Store(store)).await
    }

    /// Asks one node, in rounds, under the deadline of reads. A node whose breaker is open is waited for in the same
    /// rounds, and so is one whose breaker opens while it owes the answer: it would be waited for until the deadline.
    async fn ask(&self, node: &Node, kind: request::Kind) -> Result<response::Kind, Error> {
        let inner = &self.client.inner;
        let begun = Instant::now();
        let deadline = inner.deadline(inner.config.read_timeout);
        let name = cairn_proto::op::name(cairn_proto::op::of(&kind));
        let mut rounds = 0;
        loop {
            let answer = async {
                tokio::select! {
                    biased;
                    answer = node.call(inner, Leg::plain(kind.clone(), deadline)) => Some(answer),
                    () = given_up(node) => None,
                }
            };
            let answer = if node.is_closed() { answer.await } else { None };
            let (cause, asked_pause) = if let Some(answer) = answer {
                match answer {
                    Ok(reply) => return reply.response.kind.ok_or_else(|| inner.unexpected(name)),
                    Err(failure) => match failure.status {
                        Some(status) if matches!(status.code, Code::Overloaded | Code::Unavailable) => {
                            let pause = Duration::from_millis(status.retry_after_ms.into());
                            (Cause::Status(status), (!pause.is_zero()).then_some(pause))
                        }
                        Some(status) => return Err(Error::new(name, Cause::Status(status))),
                        None => (Cause::Node(failure.record), None),
                    },
                }
            } else {
                (Cause::Node(node.skipped(name, begun.elapsed())), None)
            };
            rounds += 1;
            let Some(pause) = inner.config.retry.pause_after(rounds, inner.unit()) else {
                return Err(Error::new(name, cause));
            };
            let pause = asked_pause.unwrap_or(pause);
            if Instant::now() + pause >= deadline {
                return Err(Error::new(name, cause));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// The cluster map as it is now.
    pub async fn map(&self) -> Result<ClusterMap, Error> {
        let work = async {
            let inner = &self.client.inner;
            inner.cluster.reload(inner, inner.deadline(inner.config.meta_timeout)).await?;
            let view = inner.cluster.view();
            let stores = |node: &pb::NodeInfo| -> Vec<MapStore> {
                node.stores.iter().map(|store| MapStore::from_pb(node, store)).collect()
            };
            let there = view.infos.iter().filter(|node| node.state() != pb::NodeState::Replaced);
            Ok(ClusterMap {
                version: view.version,
                nodes: there.map(|node| (node.id, node.addr.clone())).collect(),
                stores: view.infos.iter().flat_map(stores).collect(),
                groups: view.pgs.iter().map(MapGroup::from_pb).collect(),
            })
        };
        self.operation("cluster_map", work).await
    }

    /// What a change of memberships would mean: moves, bytes, time. Nothing is begun.
    ///
    /// # Errors
    /// `Conflict` when it is refused; the status says why.
    pub async fn plan(&self, change: Change) -> Result<Plan, Error> {
        self.operation("plan", self.start(change, true)).await
    }

    /// Begins a change of memberships; metadata carries it out, whatever restarts meanwhile.
    ///
    /// # Errors
    /// `Conflict` when it is refused (too few stores would be left, no room, another task is about the same stores); the
    /// status says why. When the answer to a first attempt was lost, the task that it began is looked for and returned,
    /// without its moves.
    pub async fn start_task(&self, change: Change) -> Result<Plan, Error> {
        let work = async {
            let before: Vec<u64> = self.tasks().await?.iter().map(|task| task.id).collect();
            match self.start(change, false).await {
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Conflict | ErrorKind::Unavailable | ErrorKind::Deadline | ErrorKind::Indeterminate
                    ) =>
                {
                    let tasks = self.tasks().await.unwrap_or_default();
                    let begun = tasks.into_iter().find(|task| !before.contains(&task.id) && change.is_of(task));
                    begun.map(|task| Plan { task, moves: Vec::new(), endangered: Vec::new() }).ok_or(error)
                }
                other => other,
            }
        };
        self.operation("start_task", work).await
    }

    async fn start(&self, change: Change, dry_run: bool) -> Result<Plan, Error> {
        let reply = self.meta(request::Kind::StartTask(change.to_pb(dry_run))).await?;
        let reply = expect!(self, "start_task", StartTask, reply)?;
        let moved = |pb::Move { pg, from, to, bytes }| Move { pg, from, to, bytes };
        Ok(Plan {
            task: Task::from_pb(reply.task.unwrap_or_default()),
            moves: reply.moves.into_iter().map(moved).collect(),
            endangered: reply.endangered.into_iter().map(EndangeredGroup::from_pb).collect(),
        })
    }

    async fn tasks(&self) -> Result<Vec<Task>, Error> {
        let reply = self.meta(request::Kind::ListTasks(pb::ListTasks {})).await?;
        Ok(expect!(self, "list_tasks", ListTasks, reply)?.tasks.into_iter().map(Task::from_pb).collect())
    }

    /// Running and waiting tasks, then the newest of those that ended; at most 128.
    pub async fn list_tasks(&self) -> Result<Vec<Task>, Error> {
        self.operation("list_tasks", self.tasks()).await
    }

    /// Lets no further move of a task begin; those under way are finished.
    ///
    /// # Errors
    /// `NotFound` for a task that metadata does not know.
    pub async fn cancel_task(&self, id: u64) -> Result<(), Error> {
        let work = async { self.meta(request::Kind::CancelTask(pb::CancelTask { id })).await.map(drop) };
        self.operation("cancel_task", work).await
    }

    async fn ask_scrub(&self, subject: Subject, start: bool) -> Result<Vec<StoreScrub>, Error> {
        let (node, store) = match subject {
            Subject::Node(id) => (self.node(id).await?, 0),
            Subject::Store(id) => (self.node_of(id).await?, id),
        };
        let reply = self.ask(&node, request::Kind::Scrub(pb::ScrubStores { store, start })).await?;
        Ok(expect!(self, "scrub", Scrub, reply)?.stores.iter().map(StoreScrub::from_pb).collect())
    }

    /// Has a node, or one store of it, read and check everything it holds, at once and not slowly, unless such a pass is
    /// under way. Returns how far the stores are.
    pub async fn start_scrub(&self, subject: Subject) -> Result<Vec<StoreScrub>, Error> {
        self.operation("start_scrub", self.ask_scrub(subject, true)).await
    }

    /// How far a node, or one store of it, is with reading what it holds.
    pub async fn scrub_progress(&self, subject: Subject) -> Result<Vec<StoreScrub>, Error> {
        self.operation("scrub_progress", self.ask_scrub(subject, false)).await
    }

    /// A page of a node's ledger: entries with numbers below `before`, the newest when it is `None`; at most `limit`.
    pub async fn ledger(&self, node: u32, before: Option<u64>, limit: u32) -> Result<LedgerPage, Error> {
        let work = async {
            let node = self.node(node).await?;
            let ask = pb::ListLedger { before: before.unwrap_or(0), limit };
            let reply = self.ask(&node, request::Kind::ListLedger(ask)).await?;
            let reply = expect!(self, "list_ledger", ListLedger, reply)?;
            let entry = |entry: pb::LedgerEntry| LedgerEntry {
                number: entry.number,
                found_ns: entry.found_ns,
                store: entry.store,
                block: entry.block.as_ref().map(types::block).unwrap_or_default(),
                pg: entry.pg,
                cause: entry.cause,
                finder: entry.finder,
                result: entry.result,
                closed_ns: entry.closed_ns,
                trouble: entry.trouble,
            };
            Ok(LedgerPage { entries: reply.entries.into_iter().map(entry).collect(), open: reply.open })
        };
        self.operation("ledger", work).await
    }

    /// A page of what a store holds of a group, from the first block above `after` on.
    pub async fn list_blocks(&self, store: u32, pg: u32, after: Option<BlockId>) -> Result<InventoryPage, Error> {
        let work = async {
            let node = self.node_of(store).await?;
            let ask = pb::ListBlocks { store, pg, after: after.map(crate::read::to_pb), limit: INVENTORY_PAGE };
            let reply = self.ask(&node, request::Kind::List(ask)).await?;
            let reply = expect!(self, "list", List, reply)?;
            let next_after = reply.next_after.as_ref().map(types::block);
            if next_after.is_some() && next_after <= after {
                return Err(self.client.inner.unexpected("list"));
            }
            Ok(InventoryPage { runs: self.runs(reply.runs.iter().map(Some), "list")?, next_after })
        };
        self.operation("list_blocks", work).await
    }

    fn runs<'a>(
        &self,
        runs: impl Iterator<Item = Option<&'a pb::Run>>,
        name: &'static str,
    ) -> Result<Vec<BlockRun>, Error> {
        runs.map(|run| BlockRun::from_pb(run).ok_or_else(|| self.client.inner.unexpected(name))).collect()
    }

    /// A page of the runs that metadata knows. Pages are not one snapshot: a run may move while they are read.
    pub async fn scan_runs(&self, kind: RunKind, from: &Cursor) -> Result<RunPage, Error> {
        let work = async {
            let kind = match kind {
                RunKind::Extents => pb::RunKind::Extents,
                RunKind::Garbage => pb::RunKind::Garbage,
                RunKind::Held => pb::RunKind::Held,
            };
            let ask = pb::ScanRuns { kind: kind as i32, cursor: from.0.clone(), limit: PAGE_ROWS_MAX as u32 };
            let reply = self.meta(request::Kind::ScanRuns(ask)).await?;
            let reply = expect!(self, "scan_runs", ScanRuns, reply)?;
            let runs = self.runs(reply.runs.iter().map(|placed| placed.run.as_ref()), "scan_runs")?;
            let placed = |(run, placed): (BlockRun, pb::PlacedRun)| PlacedRun {
                run,
                pgs: placed.pgs,
                block_len: placed.block_len,
                len: placed.len,
                file_offset: placed.file_offset,
                inode: placed.inode,
                current: placed.current,
            };
            Ok(RunPage {
                runs: runs.into_iter().zip(reply.runs).map(placed).collect(),
                next: Cursor::next(reply.next_cursor),
            })
        };
        self.operation("scan_runs", work).await
    }

    /// Has metadata look through a page of its own rows for contradictions, and mend them if `repair` is set.
    pub async fn check_rows(&self, repair: bool, from: &Cursor) -> Result<RowPage, Error> {
        let work = async {
            let ask = pb::CheckRows { cursor: from.0.clone(), repair };
            let reply = self.meta(request::Kind::CheckRows(ask)).await?;
            let reply = expect!(self, "check_rows", CheckRows, reply)?;
            let finding = |pb::RowFinding { rule, what, remedy, repaired }| RowFinding { rule, what, remedy, repaired };
            Ok(RowPage {
                findings: reply.findings.into_iter().map(finding).collect(),
                rows: reply.rows,
                next: Cursor::next(reply.next_cursor),
            })
        };
        self.operation("check_rows", work).await
    }

    /// A page of the degraded rows of a store, or of all.
    pub async fn list_degraded(&self, store: Option<u32>, from: &Cursor) -> Result<DegradedPage, Error> {
        let work = async {
            let limit = PAGE_ROWS_MAX as u32;
            let ask = pb::ListDegraded { store: store.unwrap_or(0), cursor: from.0.clone(), limit };
            let reply = self.meta(request::Kind::ListDegraded(ask)).await?;
            let reply = expect!(self, "list_degraded", ListDegraded, reply)?;
            let runs = self.runs(reply.rows.iter().map(|row| row.run.as_ref()), "list_degraded")?;
            let row = |(run, row): (BlockRun, pb::DegradedRow)| DegradedRun { pg: row.pg, store: row.store, run };
            Ok(DegradedPage {
                rows: runs.into_iter().zip(reply.rows).map(row).collect(),
                next: Cursor::next(reply.next_cursor),
            })
        };
        self.operation("list_degraded", work).await
    }

    /// What is to become of blocks, as (group, run) in ascending order of the runs and without overlap; at most
    /// [`Admin::JUDGED_RUNS_MAX`] runs of [`Admin::JUDGED_BLOCKS_MAX`] blocks together. The answer is, in order, how many
    /// blocks have which verdict.
    ///
    /// # Errors
    /// `InvalidInput` beyond the bounds.
    pub async fn judge_blocks(&self, store: u32, runs: &[(u32, BlockRun)]) -> Result<Vec<(Verdict, u32)>, Error> {
        let work = async {
            let ask = pb::JudgeBlocks { store, runs: group_runs(runs) };
            let reply = self.meta(request::Kind::JudgeBlocks(ask)).await?;
            let reply = expect!(self, "judge_blocks", JudgeBlocks, reply)?;
            let asked: u64 = runs.iter().map(|(_, run)| u64::from(run.count)).sum();
            let answered: u64 = reply.spans.iter().map(|span| u64::from(span.count)).sum();
            if asked != answered {
                return Err(self.client.inner.unexpected("judge_blocks"));
            }
            Ok(reply.spans.iter().map(|span| (Verdict::from_pb(span.verdict()), span.count)).collect())
        };
        self.operation("judge_blocks", work).await
    }

    /// Tells metadata that `store` lacks these blocks, so that they are copied to it; bounds as of
    /// [`Admin::judge_blocks`]. What no file refers to, or is of a group the store is no member of, is ignored.
    pub async fn report_lacking(&self, store: u32, runs: &[(u32, BlockRun)]) -> Result<(), Error> {
        let ask = pb::ReportLacking { store, runs: group_runs(runs) };
        let work = async { self.meta(request::Kind::ReportLacking(ask)).await.map(drop) };
        self.operation("report_lacking", work).await
    }

    /// Says that what metadata does not know any more, because it was restored from an older backup, is lost: blocks of
    /// unknown writers that no file refers to are garbage from now on. It cannot be taken back.
    pub async fn accept_rollback(&self) -> Result<(), Error> {
        let work = async { self.meta(request::Kind::AcceptRollback(pb::AcceptRollback {})).await.map(drop) };
        self.operation("accept_rollback", work).await
    }

    /// Says that so many files were removed on purpose: what waits to be collected is, however much it is.
    ///
    /// # Errors
    /// `Conflict` when collection is not stopped.
    pub async fn accept_collection(&self) -> Result<(), Error> {
        let work = async { self.meta(request::Kind::AcceptCollection(pb::AcceptCollection {})).await.map(drop) };
        self.operation("accept_collection", work).await
    }

    /// Runs in one request of [`Admin::judge_blocks`] or [`Admin::report_lacking`].
    pub const JUDGED_RUNS_MAX: usize = BLOCKS_PER_REQUEST_MAX;
    /// Blocks in one such request.
    pub const JUDGED_BLOCKS_MAX: usize = BLOCKS_JUDGED_MAX;
}

/// Returns when the node's breaker is open.
async fn given_up(node: &Node) {
    while node.is_closed() {
        tokio::time::sleep(BREAKER_LOOK).await;
    }
}

fn group_runs(runs: &[(u32, BlockRun)]) -> Vec<pb::GroupRun> {
    runs.iter().map(|(pg, run)| pb::GroupRun { pg: *pg, run: Some(run.to_pb()) }).collect()
}
