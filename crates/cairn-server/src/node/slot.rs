//! One store of a node: the synchronous [`Store`] with its number, and its completions as futures.

use super::sweep::Sweep;
use crate::tasks::blocking;
use cairn_proto::limits::BLOCK_LEN_DEFAULT;
use cairn_proto::{PgId, StoreId, StoreUuid, WriterId, pb};
use cairn_store::{
    BlockInfo, BlockKey, Closed, DeleteAck, DeleteError, OpenReport, Put, PutAck, PutError, ReadError, Store,
    StoredBlock, SyncAck, SyncError,
};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A store and what the cluster calls it.
pub(crate) struct StoreSlot {
    store: Arc<Store>,
    /// Made empty by this process.
    fresh: bool,
    /// Opened damaged or without having been closed: blocks may be missing that only other members can name.
    suspicious: bool,
    id: OnceLock<StoreId>,
    pace: Arc<Mutex<WritePace>>,
    pub(crate) sweep: Arc<Sweep>,
}

/// When requests that wait for the disk last moved.
#[derive(Default)]
struct WritePace {
    waiting: usize,
    moved: Option<Instant>,
}

impl WritePace {
    fn begin(&mut self, now: Instant) {
        if self.waiting == 0 {
            self.moved = Some(now);
        }
        self.waiting += 1;
    }

    fn end(&mut self, now: Instant) {
        self.waiting -= 1;
        self.moved = Some(now);
    }

    /// How long none of those that wait has moved.
    fn stall(&self, now: Instant) -> Duration {
        match self.moved {
            Some(moved) if self.waiting > 0 => now.saturating_duration_since(moved),
            _ => Duration::ZERO,
        }
    }
}

/// A request that waits for the disk.
struct Waiting(Arc<Mutex<WritePace>>);

impl Waiting {
    fn begin(pace: Arc<Mutex<WritePace>>) -> Self {
        pace.lock().begin(cairn_net::now());
        Self(pace)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.lock().end(cairn_net::now());
    }
}

/// A mark that the calling future holds while it waits, and the question whether it still does.
fn while_waited_for() -> (Arc<()>, Box<dyn Fn() -> bool + Send>) {
    let here = Arc::new(());
    let waits = Arc::downgrade(&here);
    (here, Box::new(move || waits.strong_count() > 0))
}

impl StoreSlot {
    pub(crate) fn new(store: Arc<Store>, report: &OpenReport, sweep: Sweep) -> Self {
        let suspicious = report.is_damaged() || report.scanned_records > 0;
        let sweep = Arc::new(sweep);
        Self { store, fresh: report.created, suspicious, id: OnceLock::new(), pace: Arc::default(), sweep }
    }

    pub(crate) fn is_suspicious(&self) -> bool {
        self.suspicious
    }

    pub(crate) fn uuid(&self) -> StoreUuid {
        self.store.uuid()
    }

    /// Its number; `None` until the node is registered for the first time.
    pub(crate) fn id(&self) -> Option<StoreId> {
        self.id.get().copied()
    }

    /// Learns its number. False when it is known under another one.
    pub(crate) fn set_id(&self, id: StoreId) -> bool {
        *self.id.get_or_init(|| id) == id
    }

    /// Stores a block; resolves as its durability says. Cancelled, it is dropped if it still waits for its turn, and goes on
    /// otherwise.
    pub(crate) async fn put(&self, put: Put) -> Result<PutAck, PutError> {
        let (done, outcome) = self.completion();
        let (sweep, writer) = (self.sweep.clone(), put.key.block.writer);
        let noted = move |result: Result<PutAck, PutError>| {
            // One that was not synced may be in the index all the same.
            if matches!(result, Ok(_) | Err(PutError::Poisoned(_))) {
                sweep.note(writer);
            }
            done(result);
        };
        let (_here, wanted) = while_waited_for();
        self.store.put_while(put, wanted, Box::new(noted));
        outcome.await.unwrap_or(Err(PutError::Closed(Closed)))
    }

    /// Makes blocks durable. Cancelled, it is dropped if it still waits for its turn, and goes on otherwise.
    pub(crate) async fn sync(&self, keys: Vec<BlockKey>) -> Result<SyncAck, SyncError> {
        let (done, outcome) = self.completion();
        let (_here, wanted) = while_waited_for();
        self.store.sync_while(keys, wanted, done);
        outcome.await.unwrap_or(Err(SyncError::Closed(Closed)))
    }

    /// Deletes blocks, durably. Cancelled, the delete goes on.
    pub(crate) async fn delete(&self, keys: Vec<BlockKey>) -> Result<DeleteAck, DeleteError> {
        let (done, outcome) = self.completion();
        self.store.delete(keys, done);
        outcome.await.unwrap_or(Err(DeleteError::Closed(Closed)))
    }

    /// A completion for the store's threads, and the future of what it is called with.
    fn completion<T: Send + 'static>(&self) -> (Box<dyn FnOnce(T) + Send>, oneshot::Receiver<T>) {
        let (done, outcome) = oneshot::channel();
        let waiting = Waiting::begin(self.pace.clone());
        let complete = move |result| {
            drop(waiting);
            // The receiver is gone when nobody waits any more.
            drop(done.send(result));
        };
        (Box::new(complete), outcome)
    }

    /// How long the disk has completed nothing although something waits for it, in milliseconds.
    pub(crate) fn stall_ms(&self) -> u32 {
        u32::try_from(self.pace.lock().stall(cairn_net::now()).as_millis()).unwrap_or(u32::MAX)
    }

    /// Reads a block's header on the calling thread.
    pub(crate) fn read(&self, key: BlockKey) -> Result<StoredBlock, ReadError> {
        self.store.read(key)
    }

    /// Reads a block's header where waiting for the disk harms nobody.
    pub(crate) async fn read_cold(self: &Arc<Self>, key: BlockKey) -> Result<StoredBlock, ReadError> {
        let slot = self.clone();
        blocking(move || slot.store.read(key)).await
    }

    /// Reads a whole block and checks it; a bad one is quarantined.
    pub(crate) async fn verify(self: &Arc<Self>, key: BlockKey) -> Result<(), ReadError> {
        let slot = self.clone();
        blocking(move || slot.store.verify(key)).await
    }

    /// A page of a group's inventory, in order.
    pub(crate) async fn list(self: &Arc<Self>, pg: PgId, after: Option<BlockKey>, limit: usize) -> Vec<BlockInfo> {
        let slot = self.clone();
        blocking(move || slot.store.list(pg, after, limit)).await
    }

    /// A page of the blocks of some writers, in order, each with its group.
    pub(crate) async fn list_of(
        self: &Arc<Self>,
        writers: Arc<BTreeSet<WriterId>>,
        after: Option<BlockKey>,
        limit: usize,
    ) -> Vec<(BlockKey, PgId)> {
        let slot = self.clone();
        blocking(move || slot.store.list_of(&|writer| writers.contains(&writer), after, limit)).await
    }

    /// The lowest writers above `after` that have a block here.
    pub(crate) async fn writers_after(self: &Arc<Self>, after: WriterId, limit: usize) -> BTreeSet<WriterId> {
        let slot = self.clone();
        blocking(move || slot.store.writers_after(after, limit)).await
    }

    /// Blocks that are known to be damaged.
    pub(crate) async fn quarantined(self: &Arc<Self>) -> Vec<cairn_store::QuarantinedBlock> {
        let slot = self.clone();
        blocking(move || slot.store.quarantined()).await
    }

    /// What a heartbeat says of it, without defects.
    pub(crate) fn beat(&self) -> pb::StoreBeat {
        let usage = self.store.usage();
        let sweep = self.sweep.totals();
        let trouble = match usage.poisoned {
            Some(poisoned) => poisoned.to_string(),
            None if usage.free_bytes < u64::from(BLOCK_LEN_DEFAULT) => "full".to_owned(),
            None => String::new(),
        };
        pb::StoreBeat {
            id: self.id().map_or(0, |id| id.0),
            uuid: bytes::Bytes::copy_from_slice(&self.uuid().0),
            capacity_bytes: usage.capacity_bytes,
            used_bytes: usage.used_bytes,
            blocks: usage.blocks,
            highest_writer: self.store.highest_writer().0,
            incarnation: self.store.incarnation().0,
            trouble,
            defects: Vec::new(),
            quarantined: u32::try_from(usage.quarantined).unwrap_or(u32::MAX),
            fresh: self.fresh,
            swept_blocks: sweep.swept_blocks,
            future_blocks: sweep.future_blocks,
            alarm: self.sweep.alarm(),
        }
    }

    /// Flushes and closes. Blocks the calling thread.
    pub(crate) fn close(&self) {
        self.store.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::checksum::chunk_crcs;
    use cairn_proto::{BlockId, PgEpoch, Shard};
    use cairn_store::{Durability, Execution, RealDisk, StoreOptions};
    use futures_util::FutureExt;

    /// A slot whose store works only when told.
    fn slot() -> (tempfile::TempDir, StoreSlot) {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let disk = Arc::new(RealDisk::open(dir.path()).expect("it is free"));
        let options = StoreOptions { execution: Execution::Manual, reserve_bytes: Some(0), ..StoreOptions::default() };
        let (store, report) = Store::open(disk, options).expect("opened");
        let sweep = Sweep::new(WriterId(0), 0, Duration::from_secs(10), 10);
        (dir, StoreSlot::new(Arc::new(store), &report, sweep))
    }

    fn put(seq: u32) -> Put {
        let key = BlockKey::replica(BlockId::new(1, 1, seq));
        let crcs = chunk_crcs(key.block, Shard(0), b"content");
        let parts = vec![bytes::Bytes::from_static(b"content")];
        let (pg, pg_epoch) = (PgId(1), PgEpoch(1));
        Put { key, pg, pg_epoch, parts, crcs, file_offset_hint: 0, durability: Durability::Durable }
    }

    #[tokio::test]
    async fn a_put_that_is_given_up_in_the_queue_costs_no_disk_work() {
        let (_dir, slot) = slot();
        let mut kept = Box::pin(slot.put(put(1)));
        let mut given_up = Box::pin(slot.put(put(2)));
        assert!((&mut kept).now_or_never().is_none() && (&mut given_up).now_or_never().is_none());
        drop(given_up);
        slot.store.run_pending();
        assert!(kept.await.expect("stored").durable);
        assert_eq!(slot.store.usage().blocks, 1);
        assert_eq!(slot.stall_ms(), 0, "nobody waits for the disk");
    }

    #[test]
    fn a_disk_stalls_only_while_something_waits() {
        let mut pace = WritePace::default();
        let start = cairn_net::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(pace.stall(at(500)), Duration::ZERO);
        pace.begin(start);
        pace.begin(at(20));
        assert_eq!(pace.stall(at(50)), Duration::from_millis(50));
        pace.end(at(60));
        assert_eq!(pace.stall(at(100)), Duration::from_millis(40));
        pace.end(at(110));
        assert_eq!(pace.stall(at(900)), Duration::ZERO);
        pace.begin(at(900));
        assert_eq!(pace.stall(at(901)), Duration::from_millis(1));
    }
}
