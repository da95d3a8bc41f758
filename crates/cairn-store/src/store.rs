//! The store: what a storage node calls.

use crate::append::{self, Appender};
use crate::catalog::Catalog;
use crate::checkpoint::{self, Checkpoints};
use crate::counters::{Counters, StoreCounts};
use crate::disk::{Disk, DiskSpace};
use crate::error::{Closed, DeleteError, Invalid, OpenError, Overloaded, Poisoned, PutError, ReadError, SyncError};
use crate::format::{BlockKey, Cause};
use crate::index::{Entry, State};
use crate::limits::LIST_STEP;
use crate::maintain::{self, Maintainer};
use crate::options::{Execution, StoreOptions};
use crate::queue::{DeleteRequest, Gate, Permit, PutRequest, Queue, Request, SyncRequest};
use crate::read::StoredBlock;
use crate::reclaim::Reclaim;
use crate::recover;
use crate::report::OpenReport;
use crate::segments::Segments;
use crate::space::{Holding, Space};
use crate::sync::{self, Log};
use bytes::Bytes;
use cairn_proto::checksum::{chunk_count, chunk_crc};
use cairn_proto::limits::{BLOCK_LEN_MAX, BLOCKS_PER_REQUEST_MAX, CHUNK_LEN};
use cairn_proto::{Incarnation, PgEpoch, PgId, StoreUuid, WriterId};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// When a put is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Once it survives power loss.
    Durable,
    /// Once it is accepted; a later [`Store::sync`] names it.
    Unsynced,
    /// Once it is accepted; the store flushes within a second on its own.
    Relaxed,
}

/// A block to be stored.
#[derive(Clone, Debug)]
pub struct Put {
    /// Which block.
    pub key: BlockKey,
    /// The group it is written for.
    pub pg: PgId,
    /// The group's epoch as the writer knew it.
    pub pg_epoch: PgEpoch,
    /// The content, in order; a body arrives in pieces of any length.
    pub parts: Vec<Bytes>,
    /// Checksum of each 64 KiB chunk, as [`cairn_proto::checksum`] defines it.
    pub crcs: Vec<u32>,
    /// Offset in the file it is written at.
    pub file_offset_hint: u64,
    /// When to answer.
    pub durability: Durability,
}

/// A put was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutAck {
    /// This opening of the store: what it accepted without sync is gone when the incarnation changes.
    pub incarnation: Incarnation,
    /// It survives power loss.
    pub durable: bool,
    /// The same content was here already.
    pub existed: bool,
}

/// Everything accepted before the sync is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncAck {
    /// This opening of the store.
    pub incarnation: Incarnation,
    /// Named blocks that the store does not hold intact: to be sent again.
    pub missing: Vec<BlockKey>,
}

/// The named blocks are gone for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteAck {
    /// How many of them were here.
    pub deleted: usize,
}

/// One line of an inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Which block.
    pub key: BlockKey,
    /// Payload bytes.
    pub len: u32,
}

/// A block that is never served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuarantinedBlock {
    /// Which block.
    pub key: BlockKey,
    /// The group it was written for.
    pub pg: PgId,
    /// Payload bytes.
    pub len: u32,
    /// Why.
    pub cause: Cause,
}

/// How full a store is and whether it takes writes.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Bytes the store may use in all.
    pub capacity_bytes: u64,
    /// Bytes its segments take, dead payloads that were not given back yet included.
    pub used_bytes: u64,
    /// Bytes puts may still take, the reserve left alone.
    pub free_bytes: u64,
    /// Blocks, quarantined ones included.
    pub blocks: u64,
    /// Quarantined blocks.
    pub quarantined: u64,
    /// Why writes are refused until the store is reopened, if they are.
    pub poisoned: Option<Poisoned>,
}

impl Usage {
    /// Why the store only reads until it is reopened, with what the operating system said; `None` while it takes writes.
    pub fn read_only(&self) -> Option<String> {
        let Poisoned { action, source } = self.poisoned.as_ref()?;
        Some(format!("read-only since it failed to {action}: {source}"))
    }
}

/// What all threads of a store share.
pub struct Shared {
    pub options: StoreOptions,
    pub disk: Arc<dyn Disk>,
    pub uuid: StoreUuid,
    pub incarnation: Incarnation,
    pub segments: Segments,
    pub catalog: RwLock<Catalog>,
    pub queue: Queue,
    pub gate: Arc<Gate>,
    pub log: Log,
    /// Held while a segment is synced.
    pub syncing: Mutex<()>,
    pub checkpoints: Checkpoints,
    pub reclaim: Reclaim,
    /// Bytes of the active segment's file behind its last record.
    pub unwritten: AtomicU64,
    pub counters: Counters,
    /// Blocks were quarantined that no checkpoint names yet.
    pub quarantine_changed: AtomicBool,
    poison: OnceLock<Poisoned>,
}

/// Blocks on one disk.
///
/// All calls are synchronous. [`Store::put`], [`Store::delete`] and [`Store::sync`] queue and return at once; their
/// completions run on the store's threads and must neither block nor panic nor hold the last handle of the store. The
/// queue is worked in order. [`Store::read`],
/// [`Store::verify`] and [`Store::list`] read the disk on the caller's thread.
///
/// Dropping the store closes it.
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    appender: Arc<Mutex<Appender>>,
    maintainer: Arc<Mutex<Maintainer>>,
    threads: Mutex<Threads>,
}

#[derive(Default)]
struct Threads {
    writer: Option<JoinHandle<()>>,
    syncer: Option<JoinHandle<()>>,
    checkpointer: Option<JoinHandle<()>>,
    maintainer: Option<JoinHandle<()>>,
    closed: bool,
}

impl Store {
    /// Opens the store on `disk`, or makes one when the directory is empty.
    ///
    /// Before it returns, everything found behind the last checkpoint is synced and read back past the page cache, and a
    /// new incarnation is drawn. Damage is reported, not an error: see [`OpenReport`].
    pub fn open(disk: Arc<dyn Disk>, options: StoreOptions) -> Result<(Self, OpenReport), OpenError> {
        let recovered = recover::open(&disk, &options)?;
        let entropy = (options.entropy)();
        let incarnation = Incarnation(((entropy >> 64) as u64 ^ entropy as u64).max(1));
        let shared = Arc::new(Shared {
            gate: Gate::new(options.queue_bytes),
            options,
            disk,
            uuid: recovered.uuid,
            incarnation,
            segments: recovered.segments,
            log: Log::new(Arc::clone(&recovered.end.file), recovered.end.next_number - 1),
            catalog: RwLock::new(recovered.catalog),
            queue: Queue::default(),
            syncing: Mutex::default(),
            checkpoints: Checkpoints::default(),
            reclaim: recovered.reclaim,
            unwritten: AtomicU64::new(recovered.end.file_len - recovered.end.tail),
            counters: Counters::default(),
            quarantine_changed: AtomicBool::new(false),
            poison: OnceLock::new(),
        });
        let mut appender = Appender::new(Arc::clone(&shared), recovered.end);
        let mut report = recovered.report;
        report.incarnation = incarnation;
        if recovered.wants_checkpoint {
            checkpoint::write_or_log(&shared, &appender.checkpoint());
        }
        report.log(shared.uuid);
        let appender = Arc::new(Mutex::new(appender));
        let maintainer = Arc::new(Mutex::new(Maintainer::new(Arc::clone(&shared), Arc::clone(&appender))));
        let store = Self { shared, appender, maintainer, threads: Mutex::default() };
        if store.shared.options.execution == Execution::Threads {
            store.start()?;
        }
        Ok((store, report))
    }

    fn start(&self) -> Result<(), OpenError> {
        let mut threads = self.threads.lock();
        let (shared, appender) = (Arc::clone(&self.shared), Arc::clone(&self.appender));
        threads.writer = Some(spawn("store-write", move || append::run(&shared, &appender))?);
        let shared = Arc::clone(&self.shared);
        threads.syncer = Some(spawn("store-sync", move || sync::run(&shared))?);
        let shared = Arc::clone(&self.shared);
        threads.checkpointer = Some(spawn("store-checkpoint", move || checkpoint::run(&shared))?);
        let (shared, maintainer) = (Arc::clone(&self.shared), Arc::clone(&self.maintainer));
        threads.maintainer = Some(spawn("store-maintain", move || maintain::run(&shared, &maintainer))?);
        Ok(())
    }

    /// What is behind it, for tests of single steps.
    #[cfg(test)]
    pub(crate) fn parts(&self) -> (&Shared, &Mutex<Appender>) {
        (&self.shared, &self.appender)
    }

    /// The store's lasting identity.
    pub fn uuid(&self) -> StoreUuid {
        self.shared.uuid
    }

    /// This opening of the store; never 0.
    pub fn incarnation(&self) -> Incarnation {
        self.shared.incarnation
    }

    /// Stores a block. The checksums are verified on the caller's thread before anything is queued.
    ///
    /// Storing the same content again succeeds. A put over a quarantined block replaces it.
    pub fn put(&self, put: Put, done: Box<dyn FnOnce(Result<PutAck, PutError>) + Send>) {
        self.put_while(put, Box::new(|| true), done);
    }

    /// As [`Store::put`], but the block is dropped when `wanted` is false at its turn in the queue. `wanted` is called once,
    /// on a thread of the store, and must not block.
    pub fn put_while(
        &self,
        put: Put,
        wanted: Box<dyn Fn() -> bool + Send>,
        done: Box<dyn FnOnce(Result<PutAck, PutError>) + Send>,
    ) {
        match self.admit_put(&put) {
            Ok((len, permit)) => {
                let request = PutRequest {
                    key: put.key,
                    pg: put.pg,
                    pg_epoch: put.pg_epoch,
                    parts: put.parts,
                    len,
                    crcs: put.crcs,
                    file_offset_hint: put.file_offset_hint,
                    durability: put.durability,
                    permit,
                    wanted,
                    done,
                };
                self.push(Request::Put(request));
            }
            Err(error) => done(Err(error)),
        }
    }

    fn admit_put(&self, put: &Put) -> Result<(u32, Permit), PutError> {
        self.shared.check_poison()?;
        let len: u64 = put.parts.iter().map(|part| part.len() as u64).sum();
        let len = u32::try_from(len).ok().filter(|len| *len <= BLOCK_LEN_MAX).ok_or(Invalid::BlockLen { len })?;
        if put.crcs.len() as u64 != chunk_count(u64::from(len)) {
            return Err(Invalid::ChecksumCount { count: put.crcs.len(), len: u64::from(len) }.into());
        }
        let permit = self.shared.gate.admit(len as usize)?;
        match first_mismatch(put.key, &put.parts, &put.crcs) {
            None => Ok((len, permit)),
            Some(chunk) => Err(PutError::ChecksumMismatch { key: put.key, chunk }),
        }
    }

    /// Makes everything accepted so far durable and says which of the named blocks (at most
    /// [`BLOCKS_PER_REQUEST_MAX`]) the store does not hold.
    pub fn sync(&self, keys: Vec<BlockKey>, done: Box<dyn FnOnce(Result<SyncAck, SyncError>) + Send>) {
        self.sync_while(keys, Box::new(|| true), done);
    }

    /// As [`Store::sync`], but nothing is synced when `wanted` is false at its turn in the queue. `wanted` is called once, on
    /// a thread of the store, and must not block.
    pub fn sync_while(
        &self,
        keys: Vec<BlockKey>,
        wanted: Box<dyn Fn() -> bool + Send>,
        done: Box<dyn FnOnce(Result<SyncAck, SyncError>) + Send>,
    ) {
        match self.admit_keys(&keys) {
            Ok(permit) => self.push(Request::Sync(SyncRequest { keys, permit, wanted, done })),
            Err(refusal) => done(Err(refusal.into())),
        }
    }

    /// Deletes blocks (at most [`BLOCKS_PER_REQUEST_MAX`]) for good; those that are not here count as deleted. Answered
    /// when durable. Works on a full store.
    pub fn delete(&self, keys: Vec<BlockKey>, done: Box<dyn FnOnce(Result<DeleteAck, DeleteError>) + Send>) {
        match self.admit_keys(&keys) {
            Ok(permit) => self.push(Request::Delete(DeleteRequest { keys, permit, done })),
            Err(refusal) => done(Err(refusal.into())),
        }
    }

    fn admit_keys(&self, keys: &[BlockKey]) -> Result<Permit, Refusal> {
        if keys.len() > BLOCKS_PER_REQUEST_MAX {
            return Err(Refusal::Invalid(Invalid::KeyCount { count: keys.len() }));
        }
        self.shared.check_poison().map_err(Refusal::Poisoned)?;
        self.shared.gate.admit(0).map_err(Refusal::Overloaded)
    }

    fn push(&self, request: Request) {
        match self.shared.queue.push(request) {
            Ok(()) => {}
            Err(Request::Put(put)) => (put.done)(Err(Closed.into())),
            Err(Request::Delete(delete)) => (delete.done)(Err(Closed.into())),
            Err(Request::Sync(sync)) => (sync.done)(Err(Closed.into())),
        }
    }

    /// Finds a block and verifies its header. A damaged header quarantines the block.
    pub fn read(&self, key: BlockKey) -> Result<StoredBlock, ReadError> {
        self.shared.read(key)
    }

    /// Reads the whole block and checks every chunk; a mismatch quarantines it.
    pub fn verify(&self, key: BlockKey) -> Result<(), ReadError> {
        self.shared.verify(key)
    }

    /// Stops serving a block, whatever its bytes say. Returns false when it is not here or quarantined already. Lasts until
    /// the block is stored again or deleted; it is written down by the next checkpoint.
    pub fn quarantine(&self, key: BlockKey, cause: Cause) -> bool {
        let entry = self.shared.catalog.read().index.get(key).copied();
        entry.is_some_and(|entry| self.shared.quarantine_entry(&entry, cause))
    }

    /// All blocks that are here but never served, in key order: to be fetched again from other replicas.
    pub fn quarantined(&self) -> Vec<QuarantinedBlock> {
        let catalog = self.shared.catalog.read();
        let blocks = catalog.quarantine.iter().filter_map(|(key, cause)| {
            let entry = catalog.index.get(*key)?;
            Some(QuarantinedBlock { key: *key, pg: entry.pg.into(), len: entry.len, cause: *cause })
        });
        blocks.collect()
    }

    /// Inventory of one group: up to `limit` blocks that can be served, in key order, from the first key above `after`.
    /// A full inventory costs one pass over the index, however many calls it takes.
    pub fn list(&self, pg: PgId, after: Option<BlockKey>, limit: usize) -> Vec<BlockInfo> {
        let mut found = Vec::new();
        self.shared.walk(after, |entry| {
            if entry.pg == pg.0 && entry.state == State::Live {
                found.push(BlockInfo { key: entry.key(), len: entry.len });
            }
            found.len() < limit
        });
        found.truncate(limit);
        found
    }

    /// Up to `limit` blocks, quarantined ones too, of the writers that `wanted` says yes to, in key order, from the first
    /// key above `after`; each with its group. Costs one pass over the index, however many calls it takes.
    pub fn list_of(
        &self,
        wanted: &dyn Fn(WriterId) -> bool,
        after: Option<BlockKey>,
        limit: usize,
    ) -> Vec<(BlockKey, PgId)> {
        let mut found = Vec::new();
        self.shared.walk(after, |entry| {
            if wanted(entry.writer()) {
                found.push((entry.key(), PgId(entry.pg)));
            }
            found.len() < limit
        });
        found.truncate(limit);
        found
    }

    /// The `limit` lowest writers above `after` that have a block here, quarantined ones too. Costs one pass over the
    /// index.
    pub fn writers_after(&self, after: WriterId, limit: usize) -> BTreeSet<WriterId> {
        let mut found = BTreeSet::new();
        self.shared.walk(None, |entry| {
            let writer = entry.writer();
            if writer > after && found.insert(writer) && found.len() > limit {
                found.pop_last();
            }
            true
        });
        found
    }

    /// See [`Shared::walk`].
    pub(crate) fn walk(&self, after: Option<BlockKey>, look: impl FnMut(&Entry) -> bool) {
        self.shared.walk(after, look);
    }

    /// How full the store is and whether it takes writes.
    pub fn usage(&self) -> Usage {
        let (used_bytes, blocks, quarantined) = {
            let catalog = self.shared.catalog.read();
            (catalog.used_bytes(), catalog.index.len(), catalog.quarantine.len() as u64)
        };
        let space = self.shared.space_beside(used_bytes);
        Usage {
            capacity_bytes: space.capacity,
            used_bytes,
            free_bytes: space.free,
            blocks,
            quarantined,
            poisoned: self.shared.poison.get().cloned(),
        }
    }

    /// What the store has done since it was opened, and what waits. Waits for nothing.
    pub fn counts(&self) -> StoreCounts {
        let (waiting_requests, waiting_bytes) = self.shared.gate.waiting();
        StoreCounts {
            waiting_requests,
            waiting_bytes,
            recycled_bytes: self.shared.segments.recycled.bytes(),
            dead_bytes: self.shared.reclaim.bytes(),
            ..self.shared.counters.read()
        }
    }

    /// Number of the highest record known durable. It only grows, also over restarts: a store that comes back with a
    /// lower one has lost its past.
    pub fn durable_records(&self) -> u64 {
        self.shared.log.synced()
    }

    /// Highest writer of any block the store ever held.
    pub fn highest_writer(&self) -> WriterId {
        self.shared.catalog.read().highest_writer
    }

    /// With [`Execution::Manual`]: works everything that waits, as one batch after the other, each followed by a sync if
    /// somebody asked for one. What a tight disk needs back at once is given back; the rest of maintenance is up to
    /// [`Store::maintain`].
    pub fn run_pending(&self) {
        loop {
            let mut appender = self.appender.lock();
            let batch = self.shared.queue.take();
            if batch.is_empty() {
                break;
            }
            appender.run_batch(batch);
            sync::run_if_due(&self.shared);
            if let Some(job) = appender.due_checkpoint() {
                checkpoint::write_or_log(&self.shared, &job);
            }
        }
        self.maintainer.lock().give_back();
    }

    /// Does on the caller's thread, without any pause, all the maintenance that there is to do now: gives dead payloads
    /// back, compacts mostly empty segments, removes empty ones. Optional: the store's own threads do so in time.
    pub fn maintain(&self) {
        let mut maintainer = self.maintainer.lock();
        while maintainer.step().is_some() {}
    }

    /// Makes everything accepted durable, writes a checkpoint and removes segments that hold nothing, on the caller's
    /// thread. Optional: the store does so by itself in time and when it is closed.
    pub fn checkpoint(&self) {
        let job = self.appender.lock().checkpoint();
        checkpoint::write_or_log(&self.shared, &job);
    }

    /// Refuses new requests, answers those that wait, makes everything durable, writes a checkpoint and stops the
    /// threads. Reads still work. A second call does nothing.
    pub fn close(&self) {
        let mut threads = self.threads.lock();
        if std::mem::replace(&mut threads.closed, true) {
            return;
        }
        self.shared.reclaim.stop();
        join(threads.maintainer.take());
        self.shared.queue.close();
        join(threads.writer.take());
        self.run_pending();
        self.shared.log.stop();
        join(threads.syncer.take());
        self.shared.checkpoints.stop();
        join(threads.checkpointer.take());
        sync::round(&self.shared);
        let mut appender = self.appender.lock();
        if self.shared.check_poison().is_ok() && appender.is_ahead_of_checkpoint() {
            checkpoint::write_or_log(&self.shared, &appender.checkpoint());
        }
        appender.close();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// Why a request without payload was not queued.
enum Refusal {
    Invalid(Invalid),
    Poisoned(Poisoned),
    Overloaded(Overloaded),
}

impl From<Refusal> for SyncError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(error) => error.into(),
            Refusal::Poisoned(error) => error.into(),
            Refusal::Overloaded(error) => error.into(),
        }
    }
}

impl From<Refusal> for DeleteError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(error) => error.into(),
            Refusal::Poisoned(error) => error.into(),
            Refusal::Overloaded(error) => error.into(),
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    std::thread::Builder::new().name(name.into()).spawn(work).map_err(|source| OpenError::Thread { source })
}

fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread
        && thread.join().is_err()
    {
        // Its panic was printed by the panic hook; closing goes on with what is left to do.
        tracing::error!("a thread of the store panicked");
    }
}

impl Shared {
    fn space_beside(&self, used: u64) -> Space {
        // A disk that does not even tell its size takes no more puts.
        let disk = self.disk.space().unwrap_or(DiskSpace { total: used, available: 0 });
        let reusable = self.segments.recycled.bytes() + self.unwritten.load(Ordering::Relaxed);
        Space::of(disk, Holding { used, reusable }, &self.options)
    }

    /// How much room there is now.
    pub fn space(&self) -> Space {
        let used = self.catalog.read().used_bytes();
        self.space_beside(used)
    }

    /// Shows entries above `after` in key order until `look` has seen enough. The index is let go now and then, so that
    /// nobody waits for the whole walk.
    pub fn walk(&self, mut after: Option<BlockKey>, mut look: impl FnMut(&Entry) -> bool) {
        loop {
            let catalog = self.catalog.read();
            let mut seen = 0;
            for entry in catalog.index.iter_after(after).take(LIST_STEP) {
                if !look(entry) {
                    return;
                }
                after = Some(entry.key());
                seen += 1;
            }
            if seen < LIST_STEP {
                return;
            }
        }
    }

    /// Fails once a write or sync has failed.
    pub fn check_poison(&self) -> Result<(), Poisoned> {
        self.poison.get().cloned().map_or(Ok(()), Err)
    }

    /// Refuses writes from now on; the first failure is the one that is told.
    pub fn poison(&self, action: &'static str, source: io::Error) -> Poisoned {
        let poisoned = self.poison.get_or_init(|| {
            tracing::error!(store = %self.uuid, %source, "failed to {action}: no more writes until reopened");
            Poisoned { action, source: Arc::new(source) }
        });
        poisoned.clone()
    }

    /// The answer to a put.
    pub fn put_ack(&self, durability: Durability, existed: bool) -> PutAck {
        PutAck { incarnation: self.incarnation, durable: durability == Durability::Durable, existed }
    }

    /// Quarantines the record unless it was replaced or deleted meanwhile.
    pub fn quarantine_entry(&self, entry: &Entry, cause: Cause) -> bool {
        let done = self.catalog.write().quarantine(entry, cause);
        if done {
            self.quarantine_changed.store(true, Ordering::Relaxed);
            Counters::add(&self.counters.quarantined, 1);
            tracing::warn!(store = %self.uuid, block = %entry.key(), segment = entry.segment, %cause, "block quarantined");
        }
        done
    }
}

/// First chunk that does not match, without joining the parts: only a chunk that spans two of them is copied.
pub fn first_mismatch(key: BlockKey, parts: &[Bytes], crcs: &[u32]) -> Option<u32> {
    let mut rest = parts.iter().map(|part| &part[..]);
    let mut part = rest.next().unwrap_or_default();
    let mut joined = Vec::new();
    for (index, crc) in crcs.iter().enumerate() {
        while part.is_empty() {
            match rest.next() {
                Some(next) => part = next,
                None => break,
            }
        }
        let chunk = if part.len() >= CHUNK_LEN as usize {
            let (chunk, behind) = part.split_at(CHUNK_LEN as usize);
            part = behind;
            chunk
        } else {
            joined.clear();
            while joined.len() < CHUNK_LEN as usize {
                let (taken, behind) = part.split_at(part.len().min(CHUNK_LEN as usize - joined.len()));
                joined.extend_from_slice(taken);
                part = behind;
                if part.is_empty() {
                    match rest.next() {
                        Some(next) => part = next,
                        None => break,
                    }
                }
            }
            &joined[..]
        };
        if chunk_crc(key.block, key.shard, index as u32, chunk) != *crc {
            return Some(index as u32);
        }
    }
    None
}
