//! [`Meta`]: opening, dispatch of requests, and how a transaction is run until it is decided.

use crate::access::Caller;
use crate::clock::Clock;
use crate::counters::Counters;
use crate::error::{Fault, Op, OpenError, engine_status};
use crate::feed::{Appended, Feed};
use crate::first::{Drawn, first_transaction};
use crate::history::Head;
use crate::kept::Renewals;
use crate::keys::{self, counter};
use crate::kv::{CommitOutcome, Durability, Engine, EngineError};
use crate::lease::{Contact, Lease};
use crate::limits::{
    ATTEMPTS_MAX, ATTEMPTS_UNTIL_TURN, COMMITS_MAX, INODE_LOCKS, LEASE_MIN, SUSPECT_AFTER_MIN, WRITERS_SKIPPED_MAX,
};
use crate::merge::Waitings;
use crate::quota::Quotas;
use crate::rows;
use crate::servers::Servers;
use crate::slot::Step;
use crate::state::{Cluster, Patience, Sessions};
use crate::tx::{Effects, Sealed, Tx};
use crate::upgrade::Software;
use crate::usage::Totals;
use cairn_proto::limits::{BLOCK_LEN_MAX, BLOCK_LEN_MIN, CHUNK_LEN, PAGE_BYTES_MAX, REPLICAS_MAX};
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use cairn_proto::{ClusterId, op, pb};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex as TurnLock, Notify, Semaphore};

tokio::task_local! {
    /// Time that the request of this task has waited for commits.
    static COMMIT_WAIT: Cell<Duration>;
}

/// How metadata is opened.
#[derive(Clone)]
pub struct MetaOptions {
    /// Replicas of a block where no policy says otherwise.
    pub replicas: u32,
    /// Bytes of a block where no policy says otherwise.
    pub block_len: u32,
    /// A file that as a whole is at most this long is kept in its extent row.
    pub inline_max: u32,
    /// A session that was silent this long ends; clients renew theirs three times as often.
    pub lease: Duration,
    /// A node silent this long is suspect: writes avoid it.
    pub suspect_after: Duration,
    /// A node silent this long, or a store that failed so long ago, is out: others take over its memberships.
    pub out_after: Duration,
    /// Where clients and nodes find this server.
    pub addr: String,
    /// No other process can serve the engine, as long as this one does: it takes the duties over from its predecessor at
    /// once, and goes on with what that counted. Without it, several may serve the engine at the same time.
    pub alone: bool,
    /// Addresses of metadata servers, told to clients beside those that are known to live.
    pub metas: Vec<String>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Seed of everything drawn at random: the cluster's id, at its first open, and placement. Draw it from the
    /// operating system, except in simulation.
    pub seed: u64,
}

/// The namespace. Clones share it.
#[derive(Clone)]
pub struct Meta {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) options: MetaOptions,
    pub(crate) cluster_id: ClusterId,
    /// The number of this server; see servers.rs.
    pub(crate) server: AtomicU32,
    /// This process.
    pub(crate) boot: [u8; 16],
    pub(crate) lease: Mutex<Lease>,
    pub(crate) contact: Mutex<Contact>,
    pub(crate) servers: Mutex<Servers>,
    pub(crate) counters: Counters,
    pub(crate) cluster: Mutex<Cluster>,
    pub(crate) sessions: Mutex<Sessions>,
    pub(crate) totals: Mutex<Totals>,
    /// When the bytes of groups were read last.
    pub(crate) usage_read: Mutex<Option<Duration>>,
    pub(crate) rng: Mutex<fastrand::Rng>,
    /// The newest version of the cluster map that this server knows of.
    pub(crate) map_version: AtomicU64,
    /// The version that the tables in memory belong to.
    pub(crate) map_loaded: AtomicU64,
    /// What is in memory alone has changed, and the version has not grown yet.
    pub(crate) map_touched: AtomicBool,
    /// Version of the map at which there were groups enough; 0 = not known.
    pub(crate) groups_enough_at: AtomicU64,
    /// Version of the map at which no membership had to change; 0 = not known.
    pub(crate) members_settled_at: AtomicU64,
    /// Memberships that went from one store to another since this process began, and their bytes.
    pub(crate) moves_done: AtomicU64,
    pub(crate) moved_bytes: AtomicU64,
    pub(crate) beats_written: Mutex<Option<Duration>>,
    /// Signs of life that this server wrote down.
    pub(crate) own_beats: AtomicU64,
    /// The newest snapshots, as the transaction knew them that looked last; see history.rs.
    pub(crate) head: Mutex<Head>,
    pub(crate) feed: Feed,
    /// Snapshots that have to be renewed.
    pub(crate) renewals: Mutex<Renewals>,
    pub(crate) quotas: Quotas,
    /// See rollback.rs; 0 = none.
    pub(crate) rollback: AtomicU64,
    /// See mass.rs: as this process knew it last.
    pub(crate) collection_stopped: AtomicBool,
    /// See upgrade.rs.
    pub(crate) version: AtomicU32,
    pub(crate) software: Mutex<BTreeMap<u32, Software>>,
    /// The highest writer that a store reported and that is written down.
    pub(crate) writers_known: AtomicU64,
    /// Bounds the commits that nobody can take back.
    commits: Arc<Semaphore>,
    inode_locks: Vec<TurnLock<()>>,
    pub(crate) waitings: Waitings,
    /// Told when locks of a file with that remainder became fewer.
    pub(crate) lock_notices: Vec<Notify>,
    turn: TurnLock<()>,
}

fn check_options(options: &MetaOptions) -> Result<(), OpenError> {
    let refuse = |option, value: u32, allowed| Err(OpenError::Option { option, value: value.into(), allowed });
    if options.replicas == 0 || options.replicas as usize > REPLICAS_MAX {
        return refuse("replicas", options.replicas, "1 to 7");
    }
    if !block_len_allowed(options.block_len) {
        return refuse("block_len", options.block_len, "64 KiB to 64 MiB in steps of 64 KiB");
    }
    if options.lease < LEASE_MIN {
        let value = u64::try_from(options.lease.as_millis()).unwrap_or(u64::MAX);
        return Err(OpenError::Option { option: "lease_ms", value, allowed: "at least 100 ms" });
    }
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if options.suspect_after < SUSPECT_AFTER_MIN {
        let value = millis(options.suspect_after);
        return Err(OpenError::Option { option: "suspect_after_ms", value, allowed: "at least 2000 ms" });
    }
    if options.out_after < options.suspect_after {
        let value = millis(options.out_after);
        return Err(OpenError::Option { option: "out_after_ms", value, allowed: "at least suspect_after" });
    }
    if options.inline_max as usize > PAGE_BYTES_MAX / 2 {
        return refuse("inline_max", options.inline_max, "0 to 24 KiB");
    }
    Ok(())
}

pub(crate) const fn block_len_allowed(block_len: u32) -> bool {
    block_len >= BLOCK_LEN_MIN && block_len <= BLOCK_LEN_MAX && block_len.is_multiple_of(CHUNK_LEN)
}

/// How often a transaction was tried.
#[derive(Default)]
pub(crate) struct Attempts<'a> {
    count: u32,
    /// Held by one that met many conflicts, so that such ones come one after another.
    turn: Option<tokio::sync::MutexGuard<'a, ()>>,
}

/// Gives the future of a transaction's body its type.
pub(crate) fn body<T, F: Future<Output = Op<T>>>(future: F) -> F {
    future
}

/// Runs a body as a transaction until it commits, fails for a reason of its own, or has met too many conflicts:
/// `transact!(meta, durability, async |tx: &mut Tx| ...)` is a `Result<T, Status>`. A macro, because a future that
/// awaits an async closure over a borrowed argument is not known to be `Send`.
macro_rules! transact {
    ($meta:expr, $durability:expr, async |$tx:ident: &mut Tx| $body:expr) => {{
        let mut attempts = crate::meta::Attempts::default();
        loop {
            let mut made_by = match $meta.attempt(&mut attempts).await {
                Ok(tx) => tx,
                Err(status) => break Err(status),
            };
            let made = {
                #[allow(unused_variables, reason = "some bodies only use counters")]
                let $tx = &mut made_by;
                crate::meta::body(async { $body }).await
            };
            match $meta.finish(made_by, made, $durability).await {
                Ok(Some(value)) => break Ok(value),
                Ok(None) => {}
                Err(status) => break Err(status),
            }
        }
    }};
}
pub(crate) use transact;

impl Meta {
    /// Opens the namespace in `engine`; in an empty one it makes the cluster's id, the settings and the root
    /// directory. Others may have it open at the same time. Call [`Meta::pulse`] every second from now on.
    ///
    /// # Errors
    /// [`OpenError`] names what is wrong; nothing was changed then.
    pub async fn open(engine: Arc<dyn Engine>, options: MetaOptions) -> Result<Meta, OpenError> {
        check_options(&options)?;
        let mut rng = fastrand::Rng::with_seed(options.seed);
        let fresh_id = new_uuid(&mut rng);
        let skipped = rng.u64(..WRITERS_SKIPPED_MAX);
        let boot = new_uuid(&mut rng);
        let opened = loop {
            let tx = begin(&*engine, &*options.clock, Head::default()).await?;
            let attempt = first_transaction(tx, &options, Drawn { fresh_id, boot, skipped }).await?;
            let Some((tx, opened)) = attempt else { continue };
            match tx.inner.commit(Durability::Durable).await {
                Ok(CommitOutcome::Done) => break opened,
                // The next try finds what was written, or writes it.
                Ok(CommitOutcome::Conflict | CommitOutcome::Unknown) | Err(EngineError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        };
        let patience = Patience { suspect_after: options.suspect_after, out_after: options.out_after };
        let inner = Inner {
            engine,
            cluster_id: opened.cluster_id,
            server: AtomicU32::new(opened.server),
            boot,
            lease: Mutex::new(Lease::new(options.alone)),
            contact: Mutex::default(),
            servers: Mutex::default(),
            options,
            counters: Counters::default(),
            cluster: Mutex::new(Cluster { patience, ..Cluster::default() }),
            sessions: Mutex::default(),
            totals: Mutex::new(opened.totals),
            usage_read: Mutex::default(),
            rng: Mutex::new(rng),
            map_version: AtomicU64::new(0),
            map_loaded: AtomicU64::new(0),
            map_touched: AtomicBool::new(false),
            groups_enough_at: AtomicU64::new(0),
            members_settled_at: AtomicU64::new(0),
            moves_done: AtomicU64::new(0),
            moved_bytes: AtomicU64::new(0),
            beats_written: Mutex::new(None),
            own_beats: AtomicU64::new(0),
            head: Mutex::new(opened.head),
            feed: Feed::new(),
            renewals: Mutex::default(),
            rollback: AtomicU64::new(0),
            quotas: Quotas::default(),
            collection_stopped: AtomicBool::new(false),
            version: AtomicU32::new(opened.version),
            software: Mutex::default(),
            writers_known: AtomicU64::new(0),
            commits: Arc::new(Semaphore::new(COMMITS_MAX)),
            inode_locks: (0..INODE_LOCKS).map(|_| TurnLock::new(())).collect(),
            waitings: Waitings::default(),
            lock_notices: (0..INODE_LOCKS).map(|_| Notify::new()).collect(),
            turn: TurnLock::new(()),
        };
        let meta = Meta { inner: Arc::new(inner) };
        meta.note_contact(meta.now());
        let mut looks = 0;
        loop {
            looks += 1;
            match meta.look_around().await {
                Ok(()) => break,
                // Whether the duties were taken over: the next look tells.
                Err(status) if status.code == Code::OutcomeUnknown && looks < ATTEMPTS_MAX => {}
                Err(status) => return Err(OpenError::Failed(status)),
            }
        }
        meta.refresh_quotas().await.map_err(OpenError::Failed)?;
        Ok(meta)
    }

    /// The cluster's identity.
    pub fn cluster_id(&self) -> ClusterId {
        self.inner.cluster_id
    }

    /// Begins a dump of all rows as they are now.
    ///
    /// # Errors
    /// The engine does not serve.
    pub async fn dump(&self) -> Result<crate::dump::Dump, Status> {
        let begun = crate::dump::Dump::begin(&*self.inner.engine, self.inner.options.clock.now_ns()).await;
        begun.map_err(|error| Status::new(Code::Io, error.to_string()))
    }

    /// Serves one metadata request; requests for storage nodes are [`Code::Unsupported`].
    ///
    /// Reads see every transaction that was acknowledged before the call. A mutation is durable when this returns, or
    /// visible and durable within a second when the request is relaxed; sent again with its operation id it is answered
    /// with the first result. [`Code::OutcomeUnknown`] says that only that tells what happened. Other errors leave
    /// nothing done, except that a large truncate may have shortened the file by a part. Cancelled, a mutation may
    /// still happen: ask again with the same operation id.
    pub fn execute<'a>(&'a self, request: &'a pb::Request) -> BoxFuture<'a, Result<Reply, Status>> {
        Box::pin(async move {
            let Some(kind) = &request.kind else {
                return Err(Status::new(Code::Unsupported, "the request's kind is unknown here"));
            };
            let caller = Caller::of(request)?;
            self.check_outdated()?;
            self.check_version(kind)?;
            if op::is_mutation(op::of(kind)) {
                let reply = self.mutate(request, kind).await?;
                if matches!(kind, Kind::SetQuota(_)) {
                    // Whoever set a limit here finds it in force here.
                    self.refresh_quotas().await?;
                }
                return Ok(reply);
            }
            let caller = caller.as_ref();
            match kind {
                Kind::OpenSession(ask) => self.open_session(ask).await,
                Kind::RenewSession(ask) => self.renew_session(ask).await,
                Kind::CloseSession(ask) => self.close_session(ask).await,
                Kind::OpenWriter(ask) => self.open_writer(ask).await,
                Kind::CloseWriter(ask) => self.close_writer(ask).await,
                Kind::AllocInodes(ask) => self.alloc_inodes(ask).await,
                Kind::ClusterMap(ask) => self.cluster_map(ask).await,
                Kind::ClusterStatus(_) => self.cluster_status().await,
                Kind::RegisterNode(ask) => self.register_node(ask).await,
                Kind::Heartbeat(ask) => self.heartbeat(ask).await,
                Kind::ListDegraded(ask) => self.list_degraded(ask).await,
                Kind::ClearDegraded(ask) => self.clear_degraded(ask).await,
                Kind::JoinDone(ask) => self.join_done(ask).await,
                Kind::JudgeWriters(ask) => self.judge_writers(ask).await,
                Kind::JudgeBlocks(ask) => self.judge_blocks(ask).await,
                Kind::JudgeGroups(ask) => self.judge_groups(ask).await,
                Kind::StartTask(ask) => self.start_task(ask).await,
                Kind::ListTasks(_) => self.list_tasks().await,
                Kind::CancelTask(ask) => self.cancel_task(ask).await,
                Kind::ReportLacking(ask) => self.report_lacking(ask).await,
                Kind::ScanRuns(ask) => self.scan_runs(ask).await,
                Kind::CheckRows(ask) => self.check_rows(ask).await,
                Kind::AcceptRollback(_) => self.accept_rollback().await,
                Kind::UpgradeStatus(_) => Ok(self.upgrade_status()),
                Kind::FinalizeUpgrade(ask) => self.finalize_upgrade(ask).await,
                Kind::Stat(ask) => self.stat(ask, caller).await,
                Kind::Access(ask) => self.access(ask, caller).await,
                Kind::ReadDir(ask) => self.read_dir(ask, caller).await,
                Kind::GetXattr(ask) => self.get_xattr(ask, caller).await,
                Kind::ListXattrs(ask) => self.list_xattrs(ask, caller).await,
                Kind::StatFs(ask) => self.stat_fs(ask, caller).await,
                Kind::AcceptCollection(_) => self.accept_collection().await,
                Kind::GetExtents(ask) => self.get_extents(ask).await,
                Kind::WaitLock(ask) => self.wait_lock(ask).await,
                Kind::ListLocks(ask) => self.list_locks(ask).await,
                Kind::WatchChanges(ask) => self.watch_changes(ask).await,
                Kind::ListSnapshots(ask) => self.list_snapshots(ask).await,
                Kind::ListTrash(ask) => self.list_trash(ask).await,
                Kind::GetQuota(ask) => self.get_quota(ask).await,
                Kind::ListQuotas(ask) => self.list_quotas(ask).await,
                _ => Err(Status::new(Code::Unsupported, format!("{} is not for metadata", op::name(op::of(kind))))),
            }
        })
    }

    /// As [`Meta::execute`], and how long the request waited for its transactions to be committed: for its place in a
    /// group and for the disk.
    pub fn execute_timed<'a>(&'a self, request: &'a pb::Request) -> BoxFuture<'a, (Result<Reply, Status>, Duration)> {
        Box::pin(async move {
            let timed = async {
                let result = self.execute(request).await;
                (result, COMMIT_WAIT.with(Cell::get))
            };
            COMMIT_WAIT.scope(Cell::new(Duration::ZERO), timed).await
        })
    }

    /// What a mutation does, in a transaction that has passed its session and slot.
    pub(crate) async fn apply(&self, tx: &mut Tx, session: u64, kind: &Kind) -> Op<Step> {
        self.has_room(kind)?;
        match kind {
            Kind::Mkdir(ask) => self.mkdir(tx, ask).await.map(Step::Done),
            Kind::Create(ask) => self.create(tx, ask).await.map(Step::Done),
            Kind::CreateUnnamed(ask) => self.create_unnamed(tx, session, ask).await.map(Step::Done),
            Kind::Publish(ask) => self.publish(tx, session, ask).await.map(Step::Done),
            Kind::Symlink(ask) => self.symlink(tx, ask).await.map(Step::Done),
            Kind::Rename(ask) => self.rename(tx, ask).await.map(Step::Done),
            Kind::Unlink(ask) => self.unlink(tx, ask).await.map(Step::Done),
            Kind::Rmdir(ask) => self.rmdir(tx, ask).await.map(Step::Done),
            Kind::SetAttr(ask) => self.set_attr(tx, ask).await,
            Kind::Link(ask) => self.link(tx, session, ask).await.map(Step::Done),
            Kind::Mknod(ask) => self.mknod(tx, ask).await.map(Step::Done),
            Kind::SetXattr(ask) => self.set_xattr(tx, ask).await.map(Step::Done),
            Kind::RemoveXattr(ask) => self.remove_xattr(tx, ask).await.map(Step::Done),
            Kind::Sustain(ask) => self.sustain(tx, session, ask).await.map(Step::Done),
            Kind::Release(ask) => self.release(tx, session, ask).await.map(Step::Done),
            Kind::SetPolicy(ask) => self.set_policy(tx, ask).await.map(Step::Done),
            Kind::RemoveTree(ask) => self.remove_tree(tx, ask).await.map(Step::Done),
            Kind::RestoreTrash(ask) => self.restore_trash(tx, ask).await.map(Step::Done),
            Kind::EmptyTrash(ask) => self.empty_trash(tx, ask).await.map(Step::Done),
            Kind::SetQuota(ask) => self.set_quota(tx, ask).await.map(Step::Done),
            Kind::Truncate(ask) => self.truncate(tx, ask).await,
            Kind::Commit(ask) => self.commit_write(tx, session, ask).await.map(Step::Done),
            Kind::Append(ask) => self.append(tx, session, ask).await.map(Step::Done),
            Kind::Allocate(ask) => self.allocate(tx, ask).await,
            Kind::SetLock(ask) => self.set_lock(tx, session, ask).await,
            Kind::CreateSnapshot(ask) => self.create_snapshot(tx, ask).await.map(Step::Done),
            Kind::DeleteSnapshot(ask) => self.delete_snapshot(tx, ask).await.map(Step::Done),
            Kind::CloneRange(ask) => self.clone_range(tx, session, ask).await.map(Step::Done),
            Kind::RenewSnapshot(ask) => self.renew_snapshot(tx, ask).await.map(Step::Done),
            // The slot is free, or holds an earlier operation: from this transaction on it says so for good.
            Kind::AbortOp(_) => Ok(Step::Done(Reply::AbortOp(pb::AbortOpReply {}))),
            _ => crate::error::fail(Code::Unsupported, "not a mutation"),
        }
    }

    /// Refuses what makes something new while the engine is about to be full, so that removing still works then.
    fn has_room(&self, kind: &Kind) -> Op<()> {
        let grows = matches!(
            kind,
            Kind::Mkdir(_)
                | Kind::Create(_)
                | Kind::CreateUnnamed(_)
                | Kind::Publish(_)
                | Kind::Symlink(_)
                | Kind::Commit(_)
        );
        match self.inner.engine.pressure().filter(|_| grows) {
            Some(why) => crate::error::fail(Code::NoSpace, format!("metadata is about to be full: {why}")),
            None => Ok(()),
        }
    }

    /// Orders changes of one file's content in this process. Only there to save conflicts.
    pub(crate) async fn order_of(&self, kind: &Kind) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let inode = match kind {
            Kind::Truncate(ask) => ask.inode,
            Kind::Allocate(ask) => ask.inode,
            _ => return None,
        };
        Some(self.inode_turn(inode).lock().await)
    }

    /// Whose turn it is to change the content of a file.
    pub(crate) fn inode_turn(&self, inode: u64) -> &TurnLock<()> {
        &self.inner.inode_locks[(inode % INODE_LOCKS as u64) as usize]
    }

    /// Begins one more attempt of a transaction; part of [`transact`].
    pub(crate) async fn attempt<'a>(&'a self, attempts: &mut Attempts<'a>) -> Result<Tx, Status> {
        if attempts.count == ATTEMPTS_MAX {
            return Err(engine_status(&EngineError::Conflict));
        }
        if attempts.count == ATTEMPTS_UNTIL_TURN {
            attempts.turn = Some(self.inner.turn.lock().await);
        }
        attempts.count += 1;
        self.check_outdated()?;
        let head = *self.inner.head.lock();
        let begun = begin(&*self.inner.engine, &*self.inner.options.clock, head).await;
        let mut tx = begun.map_err(|error| engine_status(&error))?;
        tx.version = self.cluster_version();
        match self.fence(&mut tx).await {
            Ok(()) => Ok(tx),
            Err(Fault::Status(status)) => Err(*status),
            Err(Fault::Engine(error)) => Err(engine_status(&error)),
        }
    }

    /// Commits what an attempt made; `None` runs it again. Part of [`transact`].
    pub(crate) async fn finish<T>(&self, mut tx: Tx, made: Op<T>, durability: Durability) -> Result<Option<T>, Status> {
        let sealed = match made {
            Ok(value) => tx.seal().await.map(|sealed| (value, sealed)),
            Err(fault) => Err(fault),
        };
        let value = match sealed {
            Ok((value, Sealed::Ready)) => value,
            Ok((_, Sealed::Moved(head))) => {
                *self.inner.head.lock() = head;
                return Ok(None);
            }
            Err(Fault::Engine(EngineError::Conflict)) => return Ok(None),
            Err(Fault::Engine(error)) => return Err(engine_status(&error)),
            Err(Fault::Status(status)) => return Err(*status),
        };
        if tx.effects.map_changed {
            match self.bump_map(&mut tx).await {
                Ok(()) => {}
                Err(Fault::Engine(EngineError::Conflict)) => return Ok(None),
                Err(Fault::Engine(error)) => return Err(engine_status(&error)),
                Err(Fault::Status(status)) => return Err(*status),
            }
        }
        let begun = self.now();
        let outcome = if tx.effects.is_empty() && tx.changed.is_empty() {
            tx.inner.commit(durability).await
        } else {
            // Whoever waits may give up: here nothing is lost, further on what is committed has to be counted.
            let permit = self.inner.commits.clone().acquire_owned().await.expect("this semaphore is never closed");
            let mut appended = match self.append_feed(&mut tx).await {
                Ok(appended) => appended,
                Err(Fault::Engine(EngineError::Conflict)) => return Ok(None),
                Err(Fault::Engine(error)) => return Err(engine_status(&error)),
                Err(Fault::Status(status)) => return Err(*status),
            };
            let Tx { inner, effects, .. } = tx;
            let meta = self.clone();
            let commit = tokio::spawn(async move {
                let _permit = permit;
                appended.iter_mut().for_each(Appended::committing);
                let outcome = inner.commit(durability).await;
                if outcome == Ok(CommitOutcome::Done) {
                    meta.take_effect(&effects);
                }
                if let Some(appended) = appended {
                    appended.settle(&outcome);
                }
                outcome
            });
            // A task that ended without an outcome may have committed.
            commit.await.unwrap_or(Ok(CommitOutcome::Unknown))
        };
        // Nobody counts outside of `execute_timed`.
        let _ = COMMIT_WAIT.try_with(|wait| wait.set(wait.get() + self.now().saturating_sub(begun)));
        match outcome {
            Ok(CommitOutcome::Done) => Ok(Some(value)),
            Ok(CommitOutcome::Conflict) | Err(EngineError::Conflict) => Ok(None),
            Ok(CommitOutcome::Unknown) => {
                let message = "the engine cannot say whether this happened; ask again with the same id";
                Err(Status::new(Code::OutcomeUnknown, message))
            }
            Err(error) => Err(engine_status(&error)),
        }
    }

    fn take_effect(&self, effects: &Effects) {
        if effects.inodes != 0 || effects.file_bytes != 0 {
            self.inner.totals.lock().count(effects.inodes, effects.file_bytes);
        }
        if !effects.pg_bytes.is_empty() {
            let mut cluster = self.inner.cluster.lock();
            for (pg, bytes) in &effects.pg_bytes {
                cluster.pg_bytes.entry(*pg).or_default().count(*bytes);
            }
        }
        if let Some(bytes) = effects.moved {
            self.inner.moves_done.fetch_add(1, Ordering::Relaxed);
            self.inner.moved_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        for inode in &effects.unlocked {
            self.lock_notice(*inode).notify_waiters();
        }
        if effects.map_version != 0 {
            self.inner.map_version.fetch_max(effects.map_version, Ordering::AcqRel);
            // Whoever changed nodes or stores takes that over into memory itself. When another server changed them
            // meanwhile, the tables are read again.
            let before = effects.map_version - 1;
            let _ = self.inner.map_loaded.compare_exchange(
                before,
                effects.map_version,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
        }
    }

    /// Makes the version of the cluster map grow with this transaction: holders of the map learn that theirs is old.
    async fn bump_map(&self, tx: &mut Tx) -> Op<()> {
        let key = keys::Counter { counter: counter::MAP_VERSION };
        let written = tx.get(&key).await?.map_or(0, |row| row.next);
        // What was told to anybody is never told again of another map.
        let next = written.max(self.inner.map_version.load(Ordering::Acquire)) + 1;
        tx.put(&key, &rows::Counter { next });
        tx.effects.map_version = next;
        Ok(())
    }

    pub(crate) fn now(&self) -> Duration {
        self.inner.options.clock.monotonic()
    }
}

pub(crate) async fn begin(engine: &dyn Engine, clock: &dyn Clock, head: Head) -> Result<Tx, EngineError> {
    let inner = engine.begin().await?;
    Ok(Tx::new(inner, clock.now_ns(), head, engine.limits()))
}

/// A random (version 4) UUID.
fn new_uuid(rng: &mut fastrand::Rng) -> [u8; 16] {
    *uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).as_uuid().as_bytes()
}
