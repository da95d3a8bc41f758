//! The default engine: fjall in this process, under our own validation and group commit.
//!
//! One committer thread is the only writer. It takes every transaction that waits, merges the valid ones into one
//! fjall batch with one fdatasync, and then publishes a new view: a view and the number of the last commit in it are
//! made by the same thread between two batches, so they always agree.
//!
//! A failed write or fsync poisons fjall; then every call fails until the process is started again.

use super::group::{Backend, Group, Job, Published, View, ViewSnapshot, Writes};
use super::occ::{OccTxn, Submit};
use super::ship::SinkPlace;
use super::stats::{CommitCounts, CommitStats};
use super::{CommitOutcome, CommitSink, Durability, Engine, EngineError, KeyRange, Limits, Order, Snapshot, Txn};
use crate::clock::Clock;
use async_trait::async_trait;
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use parking_lot::{Mutex, RwLock};
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

const LIMITS: Limits = Limits { writes: 256 * 1024, bytes: 32 * 1024 * 1024 };
/// Transactions merged into one batch at most.
const GROUP_JOBS_MAX: usize = 512;
/// Bytes that may wait for the committer, in units of [`QUEUE_UNIT`].
const QUEUE_UNITS_MAX: u32 = 64 * 1024;
/// What a waiting transaction pays for at least.
const QUEUE_UNIT: usize = 1024;
/// A relaxed commit is on disk after this long at most (twice, should the disk stall).
const FLUSH_AFTER: Duration = Duration::from_millis(500);
/// A commit that takes longer is worth a word in the log: fjall stalls writers when its memtables wait for the disk.
const SLOW_COMMIT: Duration = Duration::from_secs(1);
/// fjall has no cap of its own on all memtables together: there is one keyspace, and this is its memtable.
const MEMTABLE_BYTES: u64 = 24 * 1024 * 1024;
/// The only keyspace.
const KEYSPACE: &str = "meta";

const _: () = assert!(LIMITS.bytes / QUEUE_UNIT < QUEUE_UNITS_MAX as usize);

/// How the embedded engine is opened.
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// Bytes of cached data; memory does not grow with the number of rows.
    pub cache_bytes: u64,
    /// Decides when relaxed commits are flushed.
    pub clock: Arc<dyn Clock>,
}

struct FjallBackend {
    database: Database,
    rows: Keyspace,
}

struct FjallView {
    snapshot: fjall::Snapshot,
    rows: Keyspace,
}

fn failed(error: fjall::Error) -> EngineError {
    EngineError::Failed { cause: error.to_string() }
}

impl View for FjallView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.snapshot.get(&self.rows, key).map_err(failed)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, range: &KeyRange, limit: usize, order: Order) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        let bounds = (Bound::Included(range.start.as_slice()), Bound::Excluded(range.end.as_slice()));
        let rows = self.snapshot.range::<&[u8], _>(&self.rows, bounds);
        let copy = |guard: fjall::Guard| {
            let (key, value) = guard.into_inner().map_err(failed)?;
            Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
        };
        match order {
            Order::Forward => rows.take(limit).map(copy).collect(),
            Order::Reverse => rows.rev().take(limit).map(copy).collect(),
        }
    }
}

impl Backend for FjallBackend {
    type View = FjallView;

    fn view(&self) -> FjallView {
        FjallView { snapshot: self.database.snapshot(), rows: self.rows.clone() }
    }

    fn apply(&self, writes: Writes, durability: Durability) -> Result<(), EngineError> {
        let mode = match durability {
            Durability::Durable => PersistMode::SyncData,
            Durability::Relaxed => PersistMode::Buffer,
        };
        let mut batch = self.database.batch().durability(Some(mode));
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(&self.rows, key, value),
                None => batch.remove(&self.rows, key),
            }
        }
        batch.commit().map_err(failed)
    }
}

struct Waiting {
    job: Job,
    done: oneshot::Sender<Result<CommitOutcome, EngineError>>,
    /// Room in the queue, given back when the transaction is decided.
    _room: OwnedSemaphorePermit,
}

/// What transactions and the committer share.
struct Shared {
    queue: Mutex<Option<mpsc::Sender<Waiting>>>,
    room: Arc<Semaphore>,
    /// Why the engine failed, once it did.
    failure: OnceLock<EngineError>,
    stats: CommitStats,
    clock: Arc<dyn Clock>,
}

impl Shared {
    fn closed(&self) -> EngineError {
        self.failure.get().cloned().unwrap_or_else(|| EngineError::Failed { cause: "the engine was closed".into() })
    }
}

#[async_trait]
impl Submit for Shared {
    async fn submit(&self, job: Job, bytes: usize) -> Result<CommitOutcome, EngineError> {
        let units = u32::try_from(bytes / QUEUE_UNIT + 1).unwrap_or(QUEUE_UNITS_MAX);
        let room = self.room.clone().acquire_many_owned(units).await.map_err(|_| self.closed())?;
        let (done, outcome) = oneshot::channel();
        let waiting = Waiting { job, done, _room: room };
        let sent = match self.queue.lock().as_ref() {
            Some(queue) => queue.send(waiting).is_ok(),
            None => false,
        };
        if !sent {
            return Err(self.closed());
        }
        // A committer that went away without an answer may have written before.
        outcome.await.unwrap_or(Ok(CommitOutcome::Unknown))
    }
}

/// fjall in a directory. Closed when dropped, after everything handed in has been decided and flushed.
pub struct EmbeddedEngine {
    shared: Arc<Shared>,
    published: Arc<RwLock<Arc<Published<FjallView>>>>,
    sink: SinkPlace,
    committer: Option<JoinHandle<()>>,
}

impl EmbeddedEngine {
    /// Opens the engine in `dir`, which is made when it does not exist. Blocks; replays what an earlier process wrote.
    ///
    /// # Errors
    /// [`EngineError::Failed`] when the directory cannot be read or written, holds something else, or is in use by
    /// another process.
    pub fn open(dir: &Path, options: EmbeddedOptions) -> Result<Self, EngineError> {
        let open = || -> fjall::Result<FjallBackend> {
            let database = Database::builder(dir).cache_size(options.cache_bytes).open()?;
            let create = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
            let rows = database.keyspace(KEYSPACE, create)?;
            // What an earlier process wrote without fsync is about to be read: make it last first.
            database.persist(PersistMode::SyncAll)?;
            Ok(FjallBackend { database, rows })
        };
        let backend = open().map_err(|error| EngineError::Failed {
            cause: match error {
                fjall::Error::Locked => format!("{} is in use by another process", dir.display()),
                other => format!("{}: {other}", dir.display()),
            },
        })?;
        let backend = Arc::new(backend);
        let group = Group::new(backend.clone());
        let (published, sink) = (group.published(), group.sink());
        let (queue, waiting) = mpsc::channel();
        let shared = Arc::new(Shared {
            queue: Mutex::new(Some(queue)),
            room: Arc::new(Semaphore::new(QUEUE_UNITS_MAX as usize)),
            failure: OnceLock::new(),
            stats: CommitStats::default(),
            clock: options.clock.clone(),
        });
        let committer = Committer { group, backend, shared: shared.clone(), clock: options.clock, unsynced: None };
        let committer =
            std::thread::Builder::new()
                .name("meta-commit".into())
                .spawn(move || committer.run(&waiting))
                .map_err(|error| EngineError::Failed { cause: format!("no thread for the committer: {error}") })?;
        Ok(Self { shared, published, sink, committer: Some(committer) })
    }

    /// A file that is in the directory of every engine: fjall writes it last when it makes one.
    pub const MARKER: &str = "version";
}

impl Drop for EmbeddedEngine {
    fn drop(&mut self) {
        self.shared.queue.lock().take();
        if let Some(committer) = self.committer.take()
            && committer.join().is_err()
        {
            tracing::error!("the metadata committer panicked");
        }
    }
}

#[async_trait]
impl Engine for EmbeddedEngine {
    async fn begin(&self) -> Result<Box<dyn Txn>, EngineError> {
        if let Some(failure) = self.shared.failure.get() {
            return Err(failure.clone());
        }
        let base = self.published.read().clone();
        Ok(Box::new(OccTxn::new(base, self.shared.clone(), LIMITS)))
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, EngineError> {
        if let Some(failure) = self.shared.failure.get() {
            return Err(failure.clone());
        }
        Ok(Box::new(ViewSnapshot(self.published.read().clone())))
    }

    fn ship_to(&self, sink: Arc<dyn CommitSink>) -> bool {
        self.sink.set(sink).is_ok()
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn name(&self) -> &'static str {
        "embedded"
    }

    fn commits(&self) -> CommitCounts {
        self.shared.stats.read(self.shared.clock.monotonic())
    }
}

/// The one writer.
struct Committer {
    group: Group<FjallBackend>,
    backend: Arc<FjallBackend>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    /// When the oldest commit that is not yet on disk was made.
    unsynced: Option<Duration>,
}

impl Committer {
    fn run(mut self, waiting: &mpsc::Receiver<Waiting>) {
        loop {
            let first = match self.unsynced {
                None => waiting.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                Some(since) => waiting.recv_timeout(FLUSH_AFTER.saturating_sub(self.age(since))),
            };
            match first {
                Ok(first) => self.commit_group(first, waiting),
                Err(mpsc::RecvTimeoutError::Timeout) => self.flush(),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            if self.unsynced.is_some_and(|since| self.age(since) >= FLUSH_AFTER) {
                self.flush();
            }
        }
        if self.unsynced.is_some() {
            self.flush();
        }
    }

    fn age(&self, since: Duration) -> Duration {
        self.clock.monotonic().saturating_sub(since)
    }

    fn commit_group(&mut self, first: Waiting, waiting: &mpsc::Receiver<Waiting>) {
        let mut jobs = Vec::new();
        let mut answers = Vec::new();
        let mut next = Some(first);
        while let Some(Waiting { job, done, _room }) = next.take() {
            jobs.push(job);
            answers.push((done, _room));
            if jobs.len() < GROUP_JOBS_MAX {
                next = waiting.try_recv().ok();
            }
        }
        if let Some(failure) = self.shared.failure.get() {
            for (done, _room) in answers {
                let _ = done.send(Err(failure.clone()));
            }
            return;
        }
        let begun = self.clock.monotonic();
        self.shared.stats.begin(begun);
        let (outcomes, applied) = self.group.commit(jobs);
        let took = self.age(begun);
        let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
        self.shared.stats.end(count(CommitOutcome::Done), count(CommitOutcome::Conflict), took);
        if took > SLOW_COMMIT {
            let waiting = self.backend.database.outstanding_flushes();
            tracing::warn!(?took, memtables_waiting = waiting, "slow metadata commit");
        }
        match applied {
            Ok(None) => {}
            Ok(Some(Durability::Durable)) => self.unsynced = None,
            Ok(Some(Durability::Relaxed)) => self.unsynced = self.unsynced.or(Some(self.clock.monotonic())),
            Err(error) => self.fail(error),
        }
        for ((done, _room), outcome) in answers.into_iter().zip(outcomes) {
            // A caller that went away does not need the answer.
            let _ = done.send(Ok(outcome));
        }
    }

    fn flush(&mut self) {
        self.unsynced = None;
        if self.shared.failure.get().is_some() {
            return;
        }
        let begun = self.clock.monotonic();
        self.shared.stats.begin(begun);
        let flushed = self.backend.database.persist(PersistMode::SyncData);
        self.shared.stats.end(0, 0, self.age(begun));
        if let Err(error) = flushed {
            self.fail(failed(error));
        }
    }

    fn fail(&self, error: EngineError) {
        tracing::error!(%error, "the metadata engine failed; restart the process");
        let _ = self.shared.failure.set(error);
    }
}
