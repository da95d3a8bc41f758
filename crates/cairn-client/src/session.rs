//! The session with metadata: exactly-once mutations, writers, inode numbers.

use crate::caller::Call;
use crate::client::Inner;
use crate::error::{Cause, Error};
use crate::lock_claims::{self, LockClaims};
use crate::rpc::MetaFailure;
use crate::stats::bump;
use crate::trace;
use cairn_proto::limits::SLOTS_PER_SESSION;
use cairn_proto::pb::{self, request, response};
use cairn_proto::{InodeId, SessionId, WriterId};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// What a mutation came to, and in which session it happened.
type Told = Result<(response::Kind, u64), Error>;

/// A writer is replaced after this time...
const WRITER_LIFE: Duration = Duration::from_secs(3600);
/// ...or after this one when blocks of it were given up, so that nodes need not keep them for long...
const SPOILT_LIFE: Duration = Duration::from_secs(60);
/// ...or when it has made this many block ids.
const WRITER_SEQ_MAX: u32 = 1 << 31;
/// Inode numbers reserved with the first request; doubled with each further one.
const INODES_MIN: u32 = 16;
/// The most reserved with one request.
const INODES_MAX: u32 = 1024;

/// An open session.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) epoch: u64,
    slots: Mutex<Vec<Slot>>,
    permits: Arc<Semaphore>,
    lost: AtomicBool,
}

struct Slot {
    index: u32,
    seq: u64,
}

/// The right to run one mutation at a time in a slot.
struct SlotGuard {
    session: Arc<Session>,
    slot: Option<Slot>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.session.slots.lock().push(slot);
        }
    }
}

impl Session {
    fn new(reply: &pb::OpenSessionReply) -> Self {
        let slots = (0..SLOTS_PER_SESSION).rev().map(|index| Slot { index, seq: 0 }).collect();
        Self {
            id: SessionId(reply.session),
            epoch: reply.epoch,
            slots: Mutex::new(slots),
            permits: Arc::new(Semaphore::new(SLOTS_PER_SESSION as usize)),
            lost: AtomicBool::new(false),
        }
    }

    fn is(&self, session: u64) -> bool {
        self.id.0 == session && !self.lost.load(Ordering::Relaxed)
    }

    async fn slot(self: &Arc<Self>) -> SlotGuard {
        let permit = self.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let mut slot = self.slots.lock().pop().expect("as many slots as permits");
        slot.seq += 1;
        SlotGuard { session: self.clone(), slot: Some(slot), _permit: permit }
    }
}

/// Block ids of one writer, handed out in runs. The writer stays open while a lease on it lives.
pub(crate) struct Writer {
    pub(crate) id: WriterId,
    session: Arc<Session>,
    next: Mutex<u32>,
    opened: Instant,
    /// Some of its blocks were given up: once it is closed, they can be swept.
    spoilt: AtomicBool,
}

impl Writer {
    /// `count` consecutive numbers; `None` when the writer is used up.
    pub(crate) fn reserve(&self, count: u32) -> Option<u32> {
        let mut next = self.next.lock();
        let first = *next;
        *next = first.checked_add(count).filter(|end| *end <= WRITER_SEQ_MAX)?;
        Some(first)
    }

    /// A block of this writer was given up, and may lie on a node.
    pub(crate) fn spoil(&self) {
        self.spoilt.store(true, Ordering::Relaxed);
    }

    fn is_fresh(&self) -> bool {
        let life = if self.spoilt.load(Ordering::Relaxed) { SPOILT_LIFE } else { WRITER_LIFE };
        self.opened.elapsed() < life && !self.session.lost.load(Ordering::Relaxed)
    }
}

/// What the client holds at metadata, made when first needed.
#[derive(Default)]
pub(crate) struct Sessions {
    current: tokio::sync::Mutex<Option<Arc<Session>>>,
    writer: tokio::sync::Mutex<Option<Arc<Writer>>>,
    retired: Mutex<Vec<Arc<Writer>>>,
    inodes: tokio::sync::Mutex<InodeRange>,
    locks: LockClaims,
    /// There was a session.
    opened: AtomicBool,
}

#[derive(Default)]
struct InodeRange {
    next: u64,
    end: u64,
    ask: u32,
}

impl Sessions {
    /// The session that holds locks on a file.
    pub(crate) fn locking(&self, inode: InodeId) -> Option<Arc<Session>> {
        self.locks.session(inode)
    }

    /// True once there was a session.
    pub(crate) fn is_open(&self) -> bool {
        self.opened.load(Ordering::Relaxed)
    }

    pub(crate) async fn session(&self, inner: &Arc<Inner>, deadline: Instant) -> Result<Arc<Session>, Error> {
        let mut current = by(deadline, self.current.lock()).await?;
        if let Some(session) = current.as_ref().filter(|session| !session.lost.load(Ordering::Relaxed)) {
            return Ok(session.clone());
        }
        let kind = request::Kind::OpenSession(pb::OpenSession {
            name: inner.config.name.clone(),
            boot_id: bytes::Bytes::copy_from_slice(&inner.boot_id.0),
        });
        let response::Kind::OpenSession(reply) = inner.meta_read(kind, deadline).await? else {
            return Err(inner.unexpected("open_session"));
        };
        let session = Arc::new(Session::new(&reply));
        *current = Some(session.clone());
        self.opened.store(true, Ordering::Relaxed);
        let lease = Duration::from_millis(reply.lease_ms.max(1000));
        inner.upkeep.spawn(renew(inner.clone(), session.clone(), lease / 3));
        Ok(session)
    }

    /// Number of the session that mutations go through now; 0 = there is none.
    pub(crate) async fn current_id(&self) -> u64 {
        self.current.lock().await.as_ref().map_or(0, |session| session.id.0)
    }

    /// Runs a mutation exactly once. It goes on when the returned future is dropped, so that its outcome is settled.
    pub(crate) async fn mutate(
        &self,
        inner: &Arc<Inner>,
        call: impl Into<Call>,
        relaxed: bool,
        deadline: Instant,
    ) -> Result<response::Kind, Error> {
        let (inner, call) = (inner.clone(), call.into());
        self.mutate_told(&inner, call, relaxed, deadline).await.map(|(reply, _)| reply)
    }

    /// As [`Sessions::mutate`]; tells in which session it happened.
    pub(crate) async fn mutate_told(&self, inner: &Arc<Inner>, call: Call, relaxed: bool, deadline: Instant) -> Told {
        begin(inner.clone(), call, relaxed, deadline).await.unwrap_or_else(|error| {
            Err(Error::new("mutate", Cause::Invalid(format!("the client is shutting down: {error}"))))
        })
    }

    /// A writer with room, and its session's right to commit what it names.
    pub(crate) async fn writer(&self, inner: &Arc<Inner>, deadline: Instant) -> Result<Arc<Writer>, Error> {
        let mut current = by(deadline, self.writer.lock()).await?;
        if let Some(writer) = current.as_ref().filter(|w| w.is_fresh() && *w.next.lock() < WRITER_SEQ_MAX / 2) {
            return Ok(writer.clone());
        }
        let session = self.session(inner, deadline).await?;
        let kind = request::Kind::OpenWriter(pb::OpenWriter { session: session.id.0, epoch: session.epoch });
        let result = inner.meta_read(kind, deadline).await;
        if let Err(error) = &result
            && matches!(error.cause(), Cause::Fenced(_))
        {
            session.lost.store(true, Ordering::Relaxed);
        }
        let response::Kind::OpenWriter(reply) = result? else { return Err(inner.unexpected("open_writer")) };
        let writer = Arc::new(Writer {
            id: WriterId(reply.writer),
            session,
            next: Mutex::new(0),
            opened: Instant::now(),
            spoilt: AtomicBool::new(false),
        });
        if let Some(old) = current.replace(writer.clone()) {
            self.retired.lock().push(old);
        }
        self.close_retired(inner);
        Ok(writer)
    }

    /// Closes writers that were replaced and whose last user is gone: all their ids are committed or given up.
    fn close_retired(&self, inner: &Arc<Inner>) {
        let mut retired = self.retired.lock();
        let (done, kept) = retired.drain(..).partition::<Vec<_>, _>(|writer| Arc::strong_count(writer) == 1);
        *retired = kept;
        for writer in done {
            let inner = inner.clone();
            inner.tasks.clone().spawn(async move {
                let kind = request::Kind::CloseWriter(pb::CloseWriter {
                    session: writer.session.id.0,
                    epoch: writer.session.epoch,
                    writer: writer.id.0,
                });
                // The end of the session closes it too, so a failure here costs nothing.
                let _ = inner.meta_read(kind, inner.deadline(inner.config.meta_timeout)).await;
            });
        }
    }

    /// A number for a file about to be made.
    pub(crate) async fn inode(&self, inner: &Arc<Inner>, deadline: Instant) -> Result<InodeId, Error> {
        let mut range = by(deadline, self.inodes.lock()).await?;
        if range.next == range.end {
            let count = (range.ask * 2).clamp(INODES_MIN, INODES_MAX);
            let kind = request::Kind::AllocInodes(pb::AllocInodes { count });
            let response::Kind::AllocInodes(reply) = inner.meta_read(kind, deadline).await? else {
                return Err(inner.unexpected("alloc_inodes"));
            };
            if reply.count == 0 || reply.first == 0 {
                return Err(inner.unexpected("alloc_inodes"));
            }
            *range = InodeRange { next: reply.first, end: reply.first + u64::from(reply.count), ask: count };
        }
        range.next += 1;
        Ok(InodeId(range.next - 1))
    }

    /// Whether that session is the one this client goes on with.
    pub(crate) async fn is_current(&self, session: u64) -> bool {
        let current = self.current.lock().await;
        current.as_ref().is_some_and(|current| current.is(session))
    }

    /// As [`Sessions::is_current`], and true while the answer is not to be had without waiting.
    pub(crate) fn may_be_current(&self, session: u64) -> bool {
        match self.current.try_lock() {
            Ok(current) => current.as_ref().is_some_and(|current| current.is(session)),
            Err(_) => true,
        }
    }

    /// Tells metadata that the session is over.
    pub(crate) async fn close(&self, inner: &Arc<Inner>) {
        let Some(session) = self.current.lock().await.take() else { return };
        let kind = request::Kind::CloseSession(pb::CloseSession { session: session.id.0, epoch: session.epoch });
        // Without it the lease runs out.
        let _ = inner.meta_read(kind, inner.deadline(inner.config.meta_timeout)).await;
    }
}

/// Waits for a lock whose holder may be waiting for metadata.
async fn by<T>(deadline: Instant, lock: impl Future<Output = T>) -> Result<T, Error> {
    let begun = Instant::now();
    let locked = tokio::time::timeout_at(deadline, lock).await;
    locked.map_err(|_| Error::new("session", Cause::Deadline(begun.elapsed())))
}

/// A function of its own, so that the task is compiled once and not again inside every caller.
fn begin(inner: Arc<Inner>, call: Call, relaxed: bool, deadline: Instant) -> JoinHandle<Told> {
    let tasks = inner.tasks.clone();
    tasks.spawn(trace::carry(async move { run(&inner, call, relaxed, deadline).await }))
}

async fn run(inner: &Arc<Inner>, call: Call, relaxed: bool, deadline: Instant) -> Told {
    // What is done to a file with locks is done by the session that holds them, or not at all: others may have taken them.
    let locking = lock_claims::concerns(&call.kind).and_then(|inode| inner.sessions.locking(inode));
    // A session that was lost before the request could have been executed is replaced once.
    for fresh in [false, true] {
        let session = match &locking {
            Some(session) => session.clone(),
            None => inner.sessions.session(inner, deadline).await?,
        };
        let guard = tokio::time::timeout_at(deadline, session.slot())
            .await
            .map_err(|_| Error::new("mutate", Cause::Deadline(inner.config.meta_timeout)))?;
        let slot = guard.slot.as_ref().expect("a guard holds its slot until dropped");
        let op = pb::OpId { session: session.id.0, epoch: session.epoch, slot: slot.index, seq: slot.seq };
        let request = pb::Request { op_id: Some(op), relaxed, ..call.to_request() };
        let result = inner.metas.call(inner, request, deadline).await;
        let result = match result {
            Err(failure) if failure.ambiguous && !goes_in_steps(&call.kind) => {
                give_up(inner, op, failure, deadline).await
            }
            result => result,
        };
        bump(match &result {
            Ok(_) => &inner.counters.commits_done,
            Err(failure) if matches!(failure.error.cause(), Cause::Indeterminate { .. }) => {
                &inner.counters.commits_unknown
            }
            Err(_) => &inner.counters.commits_failed,
        });
        if let request::Kind::SetLock(pb::SetLock { lock: Some(lock) }) = &call.kind {
            let gone = matches!(&result, Err(failure) if matches!(failure.error.cause(), Cause::Fenced(_)));
            // Locks of a session that is gone are gone.
            if result.is_ok() || (gone && lock.mode() == pb::LockMode::Unlock) {
                inner.sessions.locks.note(lock, &session);
            }
        }
        let failure = match result {
            Ok(reply) => return Ok((reply, session.id.0)),
            Err(failure) => failure,
        };
        if !matches!(failure.error.cause(), Cause::Fenced(_)) {
            return Err(failure.error);
        }
        session.lost.store(true, Ordering::Relaxed);
        if failure.ambiguous {
            let op = cairn_proto::OpId { session: session.id, epoch: session.epoch, slot: op.slot, seq: op.seq };
            let cause = Cause::Indeterminate { op, failures: Vec::new() };
            return Err(Error::new(failure.error.operation(), cause));
        }
        // Blocks of a writer that died with the session cannot be committed any more.
        let uses_writer = matches!(&call.kind, request::Kind::Commit(commit) if !commit.pieces.is_empty())
            || matches!(&call.kind, request::Kind::Append(append) if !append.pieces.is_empty())
            || matches!(&call.kind, request::Kind::Publish(publish) if publish.unnamed || !publish.pieces.is_empty());
        if fresh || uses_writer || locking.is_some() {
            return Err(failure.error);
        }
    }
    unreachable!("the second turn returns")
}

/// True for operations of which some may be done, although the whole is not.
fn goes_in_steps(kind: &request::Kind) -> bool {
    matches!(kind, request::Kind::Truncate(_) | request::Kind::Allocate(_) | request::Kind::SetAttr(_))
}

/// Finds out what became of an operation of which nothing is known, by making sure that it is not done any more from now
/// on: its slot says that it was done, with its result, or that it never will be. Where the time is over, it stays
/// unknown.
async fn give_up(
    inner: &Arc<Inner>,
    op: pb::OpId,
    failure: MetaFailure,
    deadline: Instant,
) -> Result<response::Kind, MetaFailure> {
    if Instant::now() >= deadline || matches!(failure.error.cause(), Cause::Fenced(_)) {
        return Err(failure);
    }
    let kind = Some(request::Kind::AbortOp(pb::AbortOp {}));
    let request = pb::Request { op_id: Some(op), kind, ..Default::default() };
    match inner.metas.call(inner, request, deadline).await {
        Ok(response::Kind::AbortOp(_)) => {
            let name = failure.error.operation();
            let cause = match (failure.refused, failure.error.cause()) {
                (Some(status), _) => Cause::Status(status),
                (None, Cause::Indeterminate { failures, .. }) => Cause::Metadata(failures.clone()),
                (None, cause) => cause.clone(),
            };
            Err(MetaFailure { error: Error::new(name, cause), ambiguous: false, refused: None })
        }
        Ok(reply) => Ok(reply),
        Err(_) => Err(failure),
    }
}

async fn renew(inner: Arc<Inner>, session: Arc<Session>, every: Duration) {
    loop {
        tokio::select! {
            biased;
            () = inner.shutdown.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        let kind = request::Kind::RenewSession(pb::RenewSession { session: session.id.0, epoch: session.epoch });
        match inner.meta_read(kind, inner.deadline(every)).await {
            Err(error) if matches!(error.cause(), Cause::Fenced(_)) => {
                session.lost.store(true, Ordering::Relaxed);
                return;
            }
            Err(error) => tracing::warn!(session = %session.id, "could not renew the session: {error}"),
            Ok(_) => {}
        }
    }
}
