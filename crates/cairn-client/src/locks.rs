//! Locks of files, as flock(2) and fcntl(2) have them.
//!
//! Metadata keeps them, so they hold between all clients, and they end with this client's session. Once that happens, what
//! was written under the lock must not come after somebody else's: every change of a file on which a lock was taken runs in
//! the session that took it, and is refused with `Fenced` when that session is gone.

use crate::client::{DfsClient, Inner};
use crate::error::{Cause, Error, ErrorKind};
use crate::file::File;
use crate::namespace::at;
use crate::trace;
use cairn_proto::pb::{self, request, response};
use cairn_proto::{InodeId, SessionId};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

/// How long one request waits for a lock; then it is asked for anew.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// A request that came back sooner in vain was not held: the client makes the pause.
const HELD_MIN: Duration = Duration::from_millis(20);
/// That pause, on the average.
const PAUSE: Duration = Duration::from_millis(100);
/// Requests of one client that wait for locks; further ones make pauses instead.
const WAITING_MAX: usize = 64;
/// Set in the owners that are open files.
const FILE_OWNER: u64 = 1 << 63;

/// Places of requests that wait for locks.
pub(crate) struct LockPlaces(Semaphore);

impl Default for LockPlaces {
    fn default() -> Self {
        Self(Semaphore::new(WAITING_MAX))
    }
}

/// Which kind of lock, and who its owner is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// Of the whole file, owned by the open file: as flock(2). Clones of a [`File`] are the same open file. Not in the way
    /// of the other kinds.
    Flock,
    /// Of a range, owned by the open file: as fcntl(2) with `F_OFD_SETLK`.
    Ofd,
    /// Of a range, owned by a process that the caller names: as fcntl(2) with `F_SETLK`. What one file handle locks, another
    /// one of the same owner can unlock.
    Posix {
        /// Tells owners of this client apart; below 2^63.
        owner: u64,
        /// Told to whoever asks who holds a lock.
        pid: u32,
    },
}

/// Alone, or with others who share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockMode {
    /// Others may hold shared locks, too.
    Shared,
    /// Nobody else holds a lock that overlaps.
    Exclusive,
}

/// A lock that somebody holds or waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockInfo {
    /// Of the whole file, as flock(2); otherwise of a range.
    pub whole_file: bool,
    /// The bytes; without end it ends at `u64::MAX`.
    pub range: Range<u64>,
    /// How.
    pub mode: LockMode,
    /// Whose.
    pub session: SessionId,
    /// What that session's client calls itself.
    pub client: String,
    /// Which owner in that session.
    pub owner: u64,
    /// What the owner calls its process; 0 = nothing.
    pub pid: u32,
    /// It is waited for, not held.
    pub waiting: bool,
}

impl LockInfo {
    fn from_pb(lock: pb::Lock) -> Self {
        let mode = if lock.mode() == pb::LockMode::Exclusive { LockMode::Exclusive } else { LockMode::Shared };
        Self {
            whole_file: lock.kind() == pb::LockKind::Flock,
            range: lock.start..if lock.end == 0 { u64::MAX } else { lock.end },
            mode,
            session: SessionId(lock.session),
            client: lock.name,
            owner: lock.owner,
            pid: lock.pid,
            waiting: lock.waiting,
        }
    }
}

/// A lock that is held; given back when it is dropped, in the background. [`LockGuard::unlock`] waits for that and tells
/// whether it was held all the time.
#[must_use = "the lock is given back when the guard is dropped"]
pub struct LockGuard {
    file: File,
    kind: LockKind,
    range: Range<u64>,
    held: bool,
}

impl LockGuard {
    /// Gives the lock back.
    ///
    /// # Errors
    /// `Fenced` when it was lost with the session before: somebody else may have held it meanwhile. `Unavailable`,
    /// `Indeterminate`: it ends with the session at the latest.
    pub async fn unlock(mut self) -> Result<(), Error> {
        self.held = false;
        self.file.unlock(self.kind, self.range.clone()).await
    }

    /// Keeps the lock until it is given back by [`File::unlock`] or the session ends.
    pub fn keep(mut self) {
        self.held = false;
    }

    /// The locked bytes.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if self.held {
            let (file, kind, range) = (self.file.clone(), self.kind, self.range.clone());
            let inner = self.file.inner().clone();
            // When that fails, the session's end gives it back.
            inner.tasks.spawn(trace::carry(async move { drop(file.unlock_inner(kind, range).await) }));
        }
    }
}

/// What to do when somebody else has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Busy {
    Fail,
    Wait,
}

impl File {
    /// Locks `range` (up to `u64::MAX` for one without end), waiting for others for at most `timeout`. What the owner had
    /// locked of the range before is replaced. Whoever waits longest comes first. Dropping the future gives up; a lock that
    /// was granted meanwhile is given back.
    ///
    /// # Errors
    /// `Deadline` when others held it all the time; `Deadlock` when the holder waits for a lock of the same owner (ranges
    /// only; looked for among some 60 owners, beyond that the deadline ends it); `InvalidInput` for an empty range;
    /// `TooLarge` when the owner or the file has very many locks; `Fenced`, `Unavailable`, `Indeterminate`.
    pub async fn lock(
        &self,
        kind: LockKind,
        range: Range<u64>,
        mode: LockMode,
        timeout: Duration,
    ) -> Result<LockGuard, Error> {
        let deadline = self.inner().deadline(timeout);
        self.counted("lock", self.take(kind, range, mode, deadline, Busy::Wait)).await
    }

    /// As [`File::lock`], but does not wait: `None` when somebody else has it.
    ///
    /// # Errors
    /// As [`File::lock`], but for `Deadline` and `Deadlock`.
    pub async fn try_lock(
        &self,
        kind: LockKind,
        range: Range<u64>,
        mode: LockMode,
    ) -> Result<Option<LockGuard>, Error> {
        let deadline = self.inner().deadline(self.inner().config.meta_timeout);
        let work = async {
            match self.take(kind, range, mode, deadline, Busy::Fail).await {
                Err(error) if error.kind() == ErrorKind::Locked => Ok(None),
                result => result.map(Some),
            }
        };
        self.counted("try_lock", work).await
    }

    /// Locks the whole file for this open file, as flock(2).
    ///
    /// # Errors
    /// As [`File::lock`].
    pub async fn flock(&self, mode: LockMode, timeout: Duration) -> Result<LockGuard, Error> {
        self.lock(LockKind::Flock, 0..u64::MAX, mode, timeout).await
    }

    /// Gives back what the owner has locked of `range`. That nothing was locked is no error.
    ///
    /// # Errors
    /// As [`LockGuard::unlock`].
    pub async fn unlock(&self, kind: LockKind, range: Range<u64>) -> Result<(), Error> {
        self.counted("unlock", self.unlock_inner(kind, range)).await
    }

    async fn unlock_inner(&self, kind: LockKind, range: Range<u64>) -> Result<(), Error> {
        let inner = self.inner();
        let lock = self.lock_ask(kind, &range, None)?;
        // A session that is not there holds nothing.
        if !inner.sessions.is_open() {
            return Ok(());
        }
        let set = request::Kind::SetLock(pb::SetLock { lock: Some(lock) });
        let deadline = inner.deadline(inner.config.meta_timeout);
        inner.sessions.mutate(inner, set, false, deadline).await.map(|_| ())
    }

    /// A lock that keeps this one from being taken, if there is one: as `F_GETLK`.
    ///
    /// # Errors
    /// `InvalidInput` for an empty range; `NotFound` when the file was removed; `Unavailable`.
    pub async fn lock_holder(
        &self,
        kind: LockKind,
        range: Range<u64>,
        mode: LockMode,
    ) -> Result<Option<LockInfo>, Error> {
        let work = async {
            let inner = self.inner();
            let against = Some(self.lock_ask(kind, &range, Some(mode))?);
            let session = inner.sessions.locking(self.inode()).map_or(0, |session| session.id.0);
            let ask = request::Kind::ListLocks(pb::ListLocks { at: None, against, session });
            let locks = list(inner, ask).await?;
            Ok(locks.into_iter().next())
        };
        self.counted("lock_holder", work).await
    }

    fn lock_ask(&self, kind: LockKind, range: &Range<u64>, mode: Option<LockMode>) -> Result<pb::LockAsk, Error> {
        let (pb_kind, owner, pid) = match kind {
            LockKind::Flock => (pb::LockKind::Flock, FILE_OWNER | self.handle(), std::process::id()),
            LockKind::Ofd => (pb::LockKind::Range, FILE_OWNER | self.handle(), std::process::id()),
            LockKind::Posix { owner, pid } if owner < FILE_OWNER => (pb::LockKind::Range, owner, pid),
            LockKind::Posix { owner, .. } => {
                return Err(Error::invalid("lock", format!("owner {owner:#x}; owners of the caller are below 2^63")));
            }
        };
        if range.is_empty() && kind != LockKind::Flock {
            return Err(Error::invalid("lock", format!("bytes {}..{} are no range", range.start, range.end)));
        }
        let mode = match mode {
            None => pb::LockMode::Unlock,
            Some(LockMode::Shared) => pb::LockMode::Shared,
            Some(LockMode::Exclusive) => pb::LockMode::Exclusive,
        };
        let end = if range.end == u64::MAX { 0 } else { range.end };
        let whole = kind == LockKind::Flock;
        Ok(pb::LockAsk {
            inode: self.inode().0,
            kind: pb_kind as i32,
            start: if whole { 0 } else { range.start },
            end: if whole { 0 } else { end },
            mode: mode as i32,
            owner,
            pid,
        })
    }

    /// Takes the lock in a task of its own: when the caller goes away, what was granted all the same is given back.
    async fn take(
        &self,
        kind: LockKind,
        range: Range<u64>,
        mode: LockMode,
        deadline: Instant,
        busy: Busy,
    ) -> Result<LockGuard, Error> {
        let lock = self.lock_ask(kind, &range, Some(mode))?;
        let inner = self.inner().clone();
        let guard = LockGuard { file: self.clone(), kind, range, held: false };
        let (tell, told) = oneshot::channel();
        inner.tasks.spawn(trace::carry({
            let inner = inner.clone();
            async move {
                let mut tell = tell;
                let mut guard = guard;
                let result = match busy {
                    Busy::Fail => set(&inner, lock, deadline).await,
                    Busy::Wait => wait(&inner, lock, deadline, &mut tell).await,
                };
                // A lock of which it is unknown whether it was granted is given back, too.
                guard.held = result.as_ref().map_or_else(|error| error.kind() == ErrorKind::Indeterminate, |()| true);
                // If nobody hears it, the guard is dropped here.
                let _ = tell.send(result.map(|()| guard));
            }
        }));
        told.await.unwrap_or_else(|_| Err(Error::invalid("lock", "the client is shutting down")))
    }
}

async fn set(inner: &Arc<Inner>, lock: pb::LockAsk, deadline: Instant) -> Result<(), Error> {
    let kind = request::Kind::SetLock(pb::SetLock { lock: Some(lock) });
    inner.sessions.mutate(inner, kind, false, deadline).await.map(|_| ())
}

/// Tries, waits in line, tries again.
async fn wait<T>(
    inner: &Arc<Inner>,
    lock: pb::LockAsk,
    deadline: Instant,
    caller: &mut oneshot::Sender<T>,
) -> Result<(), Error> {
    let begun = Instant::now();
    let mut in_line = None;
    let result = loop {
        match set(inner, lock, deadline).await {
            Err(error) if error.kind() == ErrorKind::Locked => {}
            result => break result,
        }
        let turn = wait_in_line(inner, lock, deadline, &mut in_line);
        let turn = tokio::select! {
            biased;
            () = caller.closed() => Ok(false),
            turn = tokio::time::timeout_at(deadline, turn) => turn.unwrap_or(Ok(false)),
        };
        match turn {
            Ok(true) => {}
            Ok(false) => break Err(Error::new("lock", Cause::Deadline(begun.elapsed()))),
            Err(error) => break Err(error),
        }
    };
    // Whoever was in line when the time was up has waited for the holder, even if the last request got no answer.
    let is_over = in_line.is_some() && Instant::now() >= deadline;
    let result = match result {
        Err(error) if is_over && error.kind() == ErrorKind::Unavailable => {
            Err(Error::new("lock", Cause::Deadline(begun.elapsed())))
        }
        result => result,
    };
    if result.is_err()
        && let Some(session) = in_line
    {
        let ask = pb::WaitLock { leave: true, lock: Some(lock), ..session };
        let deadline = inner.deadline(inner.config.meta_timeout);
        let inner = inner.clone();
        // Nobody has to wait for that: who does not ask again is soon forgotten.
        inner.clone().tasks.spawn(async move { drop(inner.meta_read(request::Kind::WaitLock(ask), deadline).await) });
    }
    result
}

/// Returns when it is the caller's turn to try again.
async fn wait_in_line(
    inner: &Arc<Inner>,
    lock: pb::LockAsk,
    deadline: Instant,
    in_line: &mut Option<pb::WaitLock>,
) -> Result<bool, Error> {
    loop {
        let begun = Instant::now();
        let session = match inner.sessions.locking(InodeId(lock.inode)) {
            Some(session) => session,
            None => inner.sessions.session(inner, deadline).await?,
        };
        let place = inner.lock_places.0.try_acquire();
        let hold = if place.is_ok() { WAIT_MAX.min(deadline.saturating_duration_since(begun)) } else { Duration::ZERO };
        let ask = pb::WaitLock {
            session: session.id.0,
            epoch: session.epoch,
            lock: Some(lock),
            wait_ms: hold.as_millis() as u32,
            leave: false,
        };
        *in_line = Some(ask);
        match inner.meta_read(request::Kind::WaitLock(ask), deadline).await? {
            response::Kind::WaitLock(told) if told.free => return Ok(true),
            response::Kind::WaitLock(_) => {}
            _ => return Err(inner.unexpected("wait_lock")),
        }
        drop(place);
        if begun.elapsed() < HELD_MIN {
            tokio::time::sleep(PAUSE.mul_f64(0.5 + inner.unit())).await;
        }
    }
}

async fn list(inner: &Arc<Inner>, ask: request::Kind) -> Result<Vec<LockInfo>, Error> {
    let deadline = inner.deadline(inner.config.meta_timeout);
    match inner.meta_read(ask, deadline).await? {
        response::Kind::ListLocks(reply) => Ok(reply.locks.into_iter().map(LockInfo::from_pb).collect()),
        _ => Err(inner.unexpected("list_locks")),
    }
}

impl DfsClient {
    /// The locks on a file and those who wait for one, at most 128.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `Unavailable`.
    pub async fn locks(&self, path: impl AsRef<Path>) -> Result<Vec<LockInfo>, Error> {
        let path = path.as_ref();
        let work = async {
            let ask = pb::ListLocks { at: Some(at(path)?), ..Default::default() };
            list(&self.inner, request::Kind::ListLocks(ask)).await
        };
        self.operation("locks", path, work).await
    }
}
