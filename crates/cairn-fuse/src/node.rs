//! An open file: what was written to it and is not committed, and what is known of what was. All handles of a file share
//! one node, so that each sees what any of them wrote.
//!
//! Writes stay here until somebody syncs, closes or locks, until they are many, or a second has passed; then they go to
//! the cluster in one commit. One commit or truncation of a file runs at a time, each in a task of its own: a caller that
//! is interrupted leaves it running.

use crate::dirty::{self, Dirty, Pieces};
use crate::errno;
use crate::face::ahead::Ahead;
use crate::limits::{DOUBT, FILE_DIRTY_BYTES_MAX, FILE_PIECES_MAX, FLUSH_BYTES, FLUSH_PIECES, HARD_PAUSE};
use crate::system;
use bytes::{Bytes, BytesMut};
use cairn_client::{Committed, Consistency, DfsClient, Error, File, Hold, Metadata, OpenOptions, ReadOptions};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// See the module.
pub struct Node {
    client: DfsClient,
    /// Reads and writes as nobody in particular: rights were checked when a handle was opened.
    file: File,
    hold: OnceCell<Hold>,
    state: Mutex<State>,
    /// One commit or truncation at a time.
    turn: tokio::sync::Mutex<()>,
    /// Something was committed: there is room again.
    committed: Notify,
    /// A task is about to commit.
    flushing: AtomicBool,
    /// It may have file capabilities, which the next write takes from it.
    capabilities: AtomicBool,
    /// Room for what all files have uncommitted.
    room: Arc<Semaphore>,
    /// What cannot be committed is tried again for ever.
    hard: bool,
    ahead: Arc<Ahead>,
}

/// What all files of a mount have in common.
pub struct Shared {
    /// Room for what they have uncommitted, in bytes.
    pub room: Arc<Semaphore>,
    /// What cannot be committed is tried again for ever.
    pub hard: bool,
    /// What was read ahead of directories, and is told of changes.
    pub ahead: Arc<Ahead>,
}

/// What is newest of what was heard.
#[derive(Clone, Copy)]
struct Known {
    version: u64,
    size: u64,
    mtime_ns: i64,
}

struct State {
    dirty: Dirty,
    /// What is being committed.
    going: Pieces,
    /// Room that `dirty` and `going` take.
    room: Option<OwnedSemaphorePermit>,
    /// When `dirty` became more than nothing.
    since: Option<Instant>,
    /// When it was written to last.
    written_ns: i64,
    known: Known,
    metadata: Metadata,
    /// What went wrong behind everybody's back; told once, by whoever syncs or closes next.
    failed: Option<Errno>,
    /// Somebody else changed the content since the kernel was told to forget what it has of it.
    stale: bool,
    /// When it was heard last that somebody else did.
    doubted: Option<Instant>,
    /// When metadata told the attributes, and how many changes of names this mount had made by then.
    heard: Option<(Instant, u64)>,
    /// Owners of locks of ranges that were taken here.
    owners: HashSet<u64>,
}

impl State {
    fn end(&self) -> u64 {
        let going = self.going.iter().map(|(offset, data)| offset + data.len() as u64).max().unwrap_or(0);
        self.dirty.end().max(going)
    }

    fn size(&self) -> u64 {
        self.known.size.max(self.end())
    }

    /// Bytes that are not committed.
    fn bytes(&self) -> u64 {
        self.dirty.bytes() + self.going.iter().map(|(_, data)| data.len() as u64).sum::<u64>()
    }

    fn is_clean(&self) -> bool {
        self.dirty.is_empty() && self.going.is_empty()
    }

    fn is_crowded(&self) -> bool {
        self.dirty.bytes() >= FILE_DIRTY_BYTES_MAX || self.dirty.count() >= FILE_PIECES_MAX
    }

    fn wants_flush(&self) -> bool {
        self.dirty.bytes() >= FLUSH_BYTES || self.dirty.count() >= FLUSH_PIECES
    }

    fn learn(&mut self, metadata: &Metadata) {
        self.stale |= metadata.version > self.known.version;
        self.learn_own(metadata);
    }

    /// Of a change that was made here.
    fn learn_own(&mut self, metadata: &Metadata) {
        if metadata.version >= self.known.version {
            let Metadata { version, size, mtime_ns, .. } = *metadata;
            self.known = Known { version, size, mtime_ns };
            self.metadata = metadata.clone();
        }
    }

    fn learn_commit(&mut self, committed: Committed) {
        let Committed { version, size, mtime_ns } = committed;
        if version > self.known.version {
            self.known = Known { version, size, mtime_ns };
        }
    }

    fn give_back(&mut self, bytes: u64) {
        let all = self.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let share = usize::try_from(bytes).unwrap_or(usize::MAX).min(all);
        drop(self.room.as_mut().and_then(|room| room.split(share)));
    }
}

impl Node {
    /// Of the file that was just looked at.
    ///
    /// # Errors
    /// It is no regular file.
    pub async fn new(client: &DfsClient, metadata: &Metadata, shared: &Shared) -> Result<Arc<Self>, Error> {
        let file = client.open_known(metadata, OpenOptions::new()).await?;
        Ok(Self::with_file(client, file, metadata, shared))
    }

    /// Of a file that is open already.
    pub fn with_file(client: &DfsClient, file: File, metadata: &Metadata, shared: &Shared) -> Arc<Self> {
        let Metadata { version, size, mtime_ns, .. } = *metadata;
        let state = State {
            dirty: Dirty::new(file.block_len()),
            going: Vec::new(),
            room: None,
            since: None,
            written_ns: 0,
            known: Known { version, size, mtime_ns },
            metadata: metadata.clone(),
            failed: None,
            stale: false,
            doubted: None,
            heard: None,
            owners: HashSet::new(),
        };
        Arc::new(Self {
            client: client.clone(),
            file,
            hold: OnceCell::new(),
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(()),
            committed: Notify::new(),
            flushing: AtomicBool::new(false),
            capabilities: AtomicBool::new(metadata.has_xattrs),
            room: shared.room.clone(),
            hard: shared.hard,
            ahead: shared.ahead.clone(),
        })
    }

    /// Its number.
    pub fn inode(&self) -> u64 {
        self.file.inode().0
    }

    /// The file, as opened on behalf of nobody in particular.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// A further handle of the client to it, which owns locks of its own.
    ///
    /// # Errors
    /// None that can happen to a file that is open.
    pub async fn another_handle(&self) -> Result<File, Error> {
        let metadata = self.state.lock().metadata.clone();
        self.client.open_known(&metadata, OpenOptions::new()).await
    }

    /// Whether it may have file capabilities; the caller takes them away.
    pub fn take_capabilities(&self) -> bool {
        self.capabilities.load(Ordering::Relaxed) && self.capabilities.swap(false, Ordering::Relaxed)
    }

    /// It was given an extended attribute.
    pub fn got_xattr(&self) {
        self.capabilities.store(true, Ordering::Relaxed);
    }

    /// From now on the content stays, whatever becomes of the file's names.
    ///
    /// # Errors
    /// `NotFound`: it is gone.
    pub async fn hold(&self) -> Result<(), Error> {
        self.hold.get_or_try_init(|| self.client.sustain(self.inode())).await.map(|_| ())
    }

    /// True once it is held.
    pub fn is_held(&self) -> bool {
        self.hold.initialized()
    }

    /// Lays what is written here over what metadata told; an answer that was overtaken by a commit is mended.
    pub fn show(&self, metadata: &mut Metadata) {
        let mut state = self.state.lock();
        let is_newer = metadata.version > state.known.version;
        state.learn(metadata);
        if is_newer {
            state.doubted = Some(Instant::now());
            self.file.refresh();
        }
        let known = state.known;
        (metadata.version, metadata.size, metadata.mtime_ns) = (known.version, state.size(), known.mtime_ns);
        if !state.is_clean() {
            metadata.mtime_ns = state.written_ns;
            metadata.allocated = (metadata.allocated + state.bytes()).min(metadata.size);
        }
        metadata.ctime_ns = metadata.ctime_ns.max(metadata.mtime_ns.min(system::wall_clock_ns()));
    }

    /// As metadata told last, with what is written here.
    pub fn metadata(&self) -> Metadata {
        let mut metadata = self.state.lock().metadata.clone();
        self.show(&mut metadata);
        metadata
    }

    /// The newest version that was heard of.
    pub fn version(&self) -> u64 {
        self.state.lock().known.version
    }

    /// Metadata has just told the attributes, when this mount had changed so many names.
    pub fn hear(&self, names: u64) {
        self.state.lock().heard = Some((Instant::now(), names));
    }

    /// Somebody else changed it.
    pub fn doubt(&self) {
        let mut state = self.state.lock();
        (state.heard, state.doubted) = (None, Some(Instant::now()));
        self.file.refresh();
    }

    /// The attributes, if metadata told them less than `ttl` ago and no names were changed here since.
    pub fn fresh_metadata(&self, ttl: Duration, names: u64) -> Option<Metadata> {
        let heard = self.state.lock().heard;
        heard.filter(|(at, then)| *then == names && at.elapsed() < ttl).map(|_| self.metadata())
    }

    /// A lock of a range was taken for that owner.
    pub fn add_owner(&self, owner: u64) {
        self.state.lock().owners.insert(owner);
    }

    /// Whether that owner may have locks; they are about to be given back.
    pub fn take_owner(&self, owner: u64) -> bool {
        self.state.lock().owners.remove(&owner)
    }

    /// Whether somebody else changed the content since this was asked last; the caller tells the kernel.
    pub fn take_stale(&self) -> bool {
        std::mem::take(&mut self.state.lock().stale)
    }

    /// Since when something has been waiting to be committed.
    pub fn dirty_since(&self) -> Option<Instant> {
        self.state.lock().since
    }

    /// Takes bytes; waits while too much is uncommitted.
    ///
    /// # Errors
    /// None of the cluster's: those are told by who syncs.
    pub async fn write(self: &Arc<Self>, offset: u64, data: &[u8]) -> Result<(), Errno> {
        loop {
            let committed = self.committed.notified();
            tokio::pin!(committed);
            committed.as_mut().enable();
            if !self.state.lock().is_crowded() {
                break;
            }
            self.flush_soon();
            committed.await;
        }
        let want = u32::try_from(data.len()).map_err(|_| Errno::INVAL)?;
        let permit = match self.room.clone().try_acquire_many_owned(want) {
            Ok(permit) => permit,
            Err(_) => {
                // Others may have to be committed for it; the flusher sees to that.
                self.flush_soon();
                self.room.clone().acquire_many_owned(want).await.map_err(|_| Errno::IO)?
            }
        };
        let wants_flush = {
            let mut state = self.state.lock();
            let more = state.dirty.write(offset, data);
            match &mut state.room {
                Some(room) => room.merge(permit),
                None => state.room = Some(permit),
            }
            state.give_back(u64::from(want) - more);
            state.written_ns = system::wall_clock_ns();
            state.since.get_or_insert_with(Instant::now);
            state.wants_flush()
        };
        if wants_flush {
            self.flush_soon();
        }
        Ok(())
    }

    /// Commits everything behind the caller's back.
    pub fn commit_quietly(self: &Arc<Self>) {
        let node = self.clone();
        tokio::spawn(async move {
            let Ok(turn) = node.turn.try_lock() else { return };
            if let Err(errno) = node.commit_some(Which::All).await {
                node.state.lock().failed = Some(errno);
            }
            drop(turn);
        });
    }

    /// Commits what fills whole blocks, behind the caller's back.
    fn flush_soon(self: &Arc<Self>) {
        if self.flushing.swap(true, Ordering::AcqRel) {
            return;
        }
        let node = self.clone();
        tokio::spawn(async move {
            let turn = node.turn.lock().await;
            node.flushing.store(false, Ordering::Release);
            let crowded = node.state.lock().dirty.count() >= FLUSH_PIECES;
            if let Err(errno) = node.commit_some(if crowded { Which::All } else { Which::Full }).await {
                node.state.lock().failed = Some(errno);
            }
            drop(turn);
        });
    }

    /// Commits everything that was written before; with what went wrong since the last time.
    ///
    /// # Errors
    /// As of a commit. What could not be committed is lost: the caller is the one who is told.
    pub async fn commit(self: &Arc<Self>) -> Result<(), Errno> {
        let told = |state: &mut State| state.failed.take().map_or(Ok(()), Err);
        {
            let mut state = self.state.lock();
            if state.is_clean() {
                return told(&mut state);
            }
        }
        let node = self.clone();
        let task = tokio::spawn(async move {
            let _turn = node.turn.lock().await;
            node.commit_some(Which::All).await
        });
        let result = task.await.unwrap_or(Err(Errno::IO));
        result.and_then(|()| told(&mut self.state.lock()))
    }

    /// The caller has the turn.
    async fn commit_some(&self, which: Which) -> Result<(), Errno> {
        let (pieces, mtime_ns) = {
            let mut state = self.state.lock();
            let pieces = match which {
                Which::All => state.dirty.take(),
                Which::Full => match state.dirty.take_full() {
                    pieces if pieces.is_empty() => state.dirty.take(),
                    pieces => pieces,
                },
            };
            state.going = pieces.clone();
            state.since = if state.dirty.is_empty() { None } else { state.since };
            (pieces, state.written_ns)
        };
        if pieces.is_empty() {
            return Ok(());
        }
        let bytes: u64 = pieces.iter().map(|(_, data)| data.len() as u64).sum();
        let result = loop {
            match self.send(&pieces, mtime_ns).await {
                Err(error) if self.hard && errno::of_inode(&error) == Errno::TIMEDOUT => {
                    tracing::warn!(inode = self.inode(), bytes, "not committed yet: {error}");
                    tokio::time::sleep(HARD_PAUSE).await;
                }
                result => break result,
            }
        };
        let mut state = self.state.lock();
        state.going = Vec::new();
        state.give_back(bytes);
        let result = match result {
            Ok(committed) => {
                committed.into_iter().for_each(|committed| state.learn_commit(committed));
                Ok(())
            }
            Err(error) => {
                tracing::warn!(inode = self.inode(), bytes, "what was written is lost: {error}");
                Err(errno::of_inode(&error))
            }
        };
        drop(state);
        self.ahead.touch(self.inode());
        self.committed.notify_waiters();
        result
    }

    async fn send(&self, pieces: &[(u64, Bytes)], mtime_ns: i64) -> Result<Option<Committed>, Error> {
        let mut scatter = self.file.scatter(Some(mtime_ns));
        for (offset, data) in pieces {
            scatter.write(*offset, data.clone()).await?;
        }
        scatter.commit().await
    }

    /// Sets the length with `change`, in order with everything that is written here.
    ///
    /// # Errors
    /// Of the change.
    pub async fn truncate<F>(self: &Arc<Self>, size: u64, change: F) -> Result<Metadata, Errno>
    where
        F: Future<Output = Result<Metadata, Error>> + Send + 'static,
    {
        let node = self.clone();
        let task = tokio::spawn(async move {
            let _turn = node.turn.lock().await;
            {
                let mut state = node.state.lock();
                let dropped = state.dirty.truncate(size);
                state.give_back(dropped);
                if state.dirty.is_empty() {
                    state.since = None;
                }
            }
            node.committed.notify_waiters();
            let changed = change.await;
            node.ahead.touch(node.inode());
            {
                // The length was changed past the file, whose map may be of before, also where the outcome is not known. A read
                // that is under way may still remember that map, so it is doubted for a while.
                let mut state = node.state.lock();
                state.doubted = Some(Instant::now());
                node.file.refresh();
                if let Ok(metadata) = &changed {
                    state.learn_own(metadata);
                }
            }
            changed.map_err(|error| errno::of_inode(&error))
        });
        task.await.unwrap_or(Err(Errno::IO))
    }

    /// Appends, in order with everything that is written here; tells where it landed.
    ///
    /// # Errors
    /// Of appending.
    pub async fn append(self: &Arc<Self>, data: Bytes) -> Result<u64, Errno> {
        let node = self.clone();
        let task = tokio::spawn(async move {
            let _turn = node.turn.lock().await;
            node.commit_some(Which::All).await?;
            let appended = node.file.append(data).await;
            node.ahead.touch(node.inode());
            let receipt = appended.map_err(|error| errno::of_inode(&error))?;
            let (version, size, mtime_ns) = (receipt.version, receipt.size, system::wall_clock_ns());
            node.state.lock().learn_commit(Committed { version, size, mtime_ns });
            Ok(receipt.offset)
        });
        task.await.unwrap_or(Err(Errno::IO))
    }

    /// The bytes of a range: those that are written here, those of the cluster, zeros in holes; fewer at the end.
    ///
    /// With `validate`, they are those of this very moment; otherwise those that were current when the file was opened or
    /// was heard of last.
    ///
    /// # Errors
    /// Of reading.
    pub async fn read(&self, offset: u64, len: u64, validate: bool) -> Result<Vec<Bytes>, Errno> {
        let (layers, size, validate) = {
            let state = self.state.lock();
            let validate = validate || state.doubted.is_some_and(|at| at.elapsed() < DOUBT);
            if state.is_clean() {
                (None, state.size(), validate)
            } else {
                let layers = vec![dirty::overlay_of(&state.going, offset, len), state.dirty.overlay(offset, len)];
                (Some(layers), state.size(), validate)
            }
        };
        let consistency = if validate { Consistency::Validated } else { Consistency::Cached };
        let options = ReadOptions::new().consistency(consistency);
        let fetch = async |offset: u64, len: u64| {
            let bytes = self.file.read_at_with(offset, len as usize, options).await;
            bytes.map_err(|error| errno::of_inode(&error))
        };
        let Some(layers) = layers else {
            let bytes = fetch(offset, len).await?;
            let wanted = len.min(size.saturating_sub(offset));
            if validate || bytes.len() as u64 >= wanted {
                return Ok(vec![bytes]);
            }
            // The remembered map is of a shorter file. The kernel would take a short answer for the file's end, and whoever has
            // it mapped would be killed.
            let options = ReadOptions::new().consistency(Consistency::Validated);
            let bytes = self.file.read_at_with(offset, len as usize, options).await;
            return Ok(vec![bytes.map_err(|error| errno::of_inode(&error))?]);
        };
        let (mut parts, gaps) = dirty::lay(layers, offset, len);
        for (at, len) in gaps {
            let mut bytes = fetch(at, len).await?;
            // What lies between the end of the committed content and what is written behind it reads as zeros.
            let wanted = usize::try_from(len.min(size.saturating_sub(at))).unwrap_or(usize::MAX);
            if bytes.len() < wanted {
                let mut padded = BytesMut::from(&bytes[..]);
                padded.resize(wanted, 0);
                bytes = padded.freeze();
            }
            parts.push((at, bytes));
        }
        parts.sort_unstable_by_key(|(at, _)| *at);
        Ok(parts.into_iter().map(|(_, bytes)| bytes).collect())
    }
}

#[derive(Clone, Copy)]
enum Which {
    All,
    /// Pieces that fill their block, if there are any.
    Full,
}
