//! One store of a node: the synchronous [`Store`] with its number, and its completions as futures.
//!
//! The store may be closed while the node runs: because its directory could not be opened, or for a moment in which it is
//! opened anew. Nothing that is asked then is answered as if the store were empty.

use super::calm::{Calm, Throttle, Wait};
use super::disk::DiskWatch;
use super::place::{PlaceError, StorePlace};
use super::purge::GroupLocks;
use super::scrub::Scrub;
use super::sweep::Sweep;
use crate::gate::Drain;
use crate::limits::REPAIR_NAP;
use crate::tasks::blocking;
use arc_swap::ArcSwapOption;
use cairn_net::WorkTime;
use cairn_proto::limits::BLOCK_LEN_DEFAULT;
use cairn_proto::{Incarnation, PgEpoch, PgId, StoreId, StoreUuid, WriterId, pb};
use cairn_store::{
    BlockInfo, BlockKey, Closed, DeleteAck, DeleteError, OpenReport, Put, PutAck, PutError, QuarantinedBlock,
    ReadError, Store, StoreCounts, StoredBlock, SyncAck, SyncError, Usage,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

/// What a store without room reports as its trouble.
pub(super) const FULL: &str = cairn_proto::placement::TROUBLE_FULL;

/// A store that is open, and what opening it found.
struct Opened {
    store: Arc<Store>,
    /// Opened damaged or without having been closed: blocks may be missing that only other members can name.
    suspicious: bool,
}

impl Opened {
    fn new(store: Store, report: &OpenReport, again: bool) -> Self {
        let suspicious = again || report.is_damaged() || report.scanned_records > 0;
        Self { store: Arc::new(store), suspicious }
    }
}

/// A store and what the cluster calls it.
pub(crate) struct StoreSlot {
    place: StorePlace,
    open: ArcSwapOption<Opened>,
    /// Why it is not open.
    fault: Mutex<String>,
    uuid: OnceLock<StoreUuid>,
    id: OnceLock<StoreId>,
    /// Made empty by this process.
    fresh: AtomicBool,
    /// Bytes copied to it from other members.
    copied_bytes: AtomicU64,
    /// How fast bytes leave the store's queue.
    drain: Arc<Mutex<Drain>>,
    calm: Mutex<Calm>,
    /// Why blocks of groups that it is no member of are kept.
    pub(crate) purge_alarm: Mutex<String>,
    /// Groups in which copies are brought in or purged: one of both at a time.
    pub(crate) groups: GroupLocks,
    /// Highest epoch of each group that a PUT showed.
    pub(crate) put_epochs: Mutex<BTreeMap<PgId, PgEpoch>>,
    /// Copies to this store, and those that other members fetch from it.
    repair: Mutex<Throttle>,
    pub(crate) sweep: Arc<Sweep>,
    pub(crate) scrub: Scrub,
}

/// A mark that the calling future holds while it waits, and the question whether it still does.
fn while_waited_for() -> (Arc<()>, Box<dyn Fn() -> bool + Send>) {
    let here = Arc::new(());
    let waits = Arc::downgrade(&here);
    (here, Box::new(move || waits.strong_count() > 0))
}

fn not_open(key: BlockKey) -> ReadError {
    ReadError::Io { key, source: io::Error::new(io::ErrorKind::NotConnected, "the store is not open") }
}

impl StoreSlot {
    /// A slot whose store is not open yet.
    pub(crate) fn new(place: StorePlace, sweep: Sweep, scrub: Scrub, repair: Throttle) -> Self {
        Self {
            place,
            open: ArcSwapOption::empty(),
            fault: Mutex::default(),
            uuid: OnceLock::new(),
            id: OnceLock::new(),
            fresh: AtomicBool::new(false),
            copied_bytes: AtomicU64::new(0),
            drain: Arc::default(),
            calm: Mutex::default(),
            purge_alarm: Mutex::default(),
            groups: GroupLocks::default(),
            put_epochs: Mutex::default(),
            repair: Mutex::new(repair),
            sweep: Arc::new(sweep),
            scrub,
        }
    }

    /// Opens the store, unless it is open. Blocks the calling thread.
    ///
    /// # Errors
    /// The store stays closed, and its trouble says why.
    pub(crate) fn open(&self) -> Result<(), PlaceError> {
        if self.is_open() {
            return Ok(());
        }
        let opened = self.place.open().and_then(|(store, report)| {
            let (found, expected) = (store.uuid(), *self.uuid.get_or_init(|| store.uuid()));
            if found != expected {
                let path = self.place.path().to_owned();
                return Err(PlaceError::Other { path, found, expected });
            }
            Ok((store, report))
        });
        match opened {
            Ok((store, report)) => {
                if report.created {
                    self.fresh.store(true, Ordering::Relaxed);
                }
                let again = !self.sweep.opened(store.highest_writer(), report.blocks);
                self.open.store(Some(Arc::new(Opened::new(store, &report, again))));
                self.fault.lock().clear();
                Ok(())
            }
            Err(error) => {
                *self.fault.lock() = explain(&error);
                Err(error)
            }
        }
    }

    /// Closes the store, so that it can be opened anew. Blocks the calling thread.
    pub(crate) fn shut(&self, reason: String) {
        *self.fault.lock() = reason;
        if let Some(opened) = self.open.swap(None) {
            opened.store.close();
        }
    }

    /// Where it lies.
    pub(crate) fn place(&self) -> &StorePlace {
        &self.place
    }

    /// The store, while it is open.
    pub(crate) fn store(&self) -> Option<Arc<Store>> {
        self.open.load().as_ref().map(|opened| opened.store.clone())
    }

    fn opened(&self) -> Result<Arc<Store>, Closed> {
        self.store().ok_or(Closed)
    }

    /// True while requests are answered.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load().is_some()
    }

    /// Why it is closed, for people.
    pub(crate) fn fault(&self) -> String {
        self.fault.lock().clone()
    }

    /// This opening, if blocks may be missing since it that only other members can name.
    pub(crate) fn suspicious(&self) -> Option<Incarnation> {
        self.open.load().as_ref().filter(|opened| opened.suspicious).map(|opened| opened.store.incarnation())
    }

    /// This opening; `None` while it is closed.
    pub(crate) fn incarnation(&self) -> Option<Incarnation> {
        self.open.load().as_ref().map(|opened| opened.store.incarnation())
    }

    /// A foreground request waited so long for the store.
    pub(crate) fn waited(&self, wait: Wait, begun: Instant) {
        let now = cairn_net::now();
        self.calm.lock().sample(wait, now.saturating_duration_since(begun), now);
    }

    /// A foreground request comes.
    pub(crate) fn ask_now(&self) {
        self.calm.lock().ask(cairn_net::now());
    }

    /// True while there are foreground requests.
    pub(crate) fn is_asked(&self) -> bool {
        self.calm.lock().is_asked(cairn_net::now())
    }

    /// Background work is about to use the disk.
    pub(crate) fn disturb(&self) {
        self.calm.lock().disturb(cairn_net::now());
    }

    /// True while background work should leave the disk to foreground requests.
    pub(crate) fn is_disturbed(&self) -> bool {
        let now = cairn_net::now();
        self.calm.lock().is_disturbed(self.disk().stall(now), now)
    }

    /// Waits until copies may go on; to be told with [`StoreSlot::spend`] how many bytes went.
    pub(crate) async fn repair_turn(&self) {
        loop {
            let now = cairn_net::now();
            let mood = self.calm.lock().mood(self.disk().stall(now), now);
            let Some(pause) = self.repair.lock().wait(mood, now) else { break };
            sleep(pause.min(REPAIR_NAP)).await; // tidy: sleep-ok(the rate of copies)
        }
        self.disturb();
    }

    /// A copy of so many bytes goes.
    pub(crate) fn spend(&self, bytes: u64) {
        self.repair.lock().spend(bytes, cairn_net::now());
    }

    /// Bytes a second that copies may take now.
    pub(crate) fn repair_rate(&self) -> f64 {
        self.repair.lock().rate()
    }

    /// So many bytes came from another member.
    pub(crate) fn copied(&self, bytes: u64) {
        self.copied_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Its lasting identity; `None` until it was open once, in this life of the process or an earlier one.
    pub(crate) fn uuid(&self) -> Option<StoreUuid> {
        self.uuid.get().copied()
    }

    /// Says which store is missing here. Nothing once one was found.
    pub(crate) fn miss(&self, uuid: StoreUuid) {
        self.uuid.get_or_init(|| uuid);
    }

    /// Its number; `None` until the node is registered with it for the first time.
    pub(crate) fn id(&self) -> Option<StoreId> {
        self.id.get().copied()
    }

    /// Learns its number. False when it is known under another one.
    pub(crate) fn set_id(&self, id: StoreId) -> bool {
        *self.id.get_or_init(|| id) == id
    }

    /// Stores a block; resolves as its durability says. What it took is added to `work`. Cancelled, it is dropped if it
    /// still waits for its turn, and goes on otherwise.
    pub(crate) async fn put(&self, put: Put, work: &WorkTime) -> Result<PutAck, PutError> {
        let store = self.opened()?;
        let (done, outcome) = oneshot::channel();
        let done = completion(done);
        let (sweep, writer) = (self.sweep.clone(), put.key.block.writer);
        let len = put.parts.iter().map(|part| part.len() as u64).sum();
        let drain = self.drain.clone();
        drain.lock().enter(len, cairn_net::now());
        let noted = move |result: Result<PutAck, PutError>| {
            match result {
                Ok(_) => drain.lock().leave(len, cairn_net::now()),
                Err(_) => drain.lock().withdraw(len),
            }
            // One that was not synced may be in the index all the same.
            if matches!(result, Ok(_) | Err(PutError::Poisoned(_))) {
                sweep.note(writer);
            }
            done(result);
        };
        let (_here, wanted) = while_waited_for();
        let begun = cairn_net::now();
        // Verifies the checksums on this thread before it queues.
        store.put_while(put, wanted, Box::new(noted));
        let queued = cairn_net::now();
        work.add_checksum(queued.saturating_duration_since(begun));
        let result = outcome.await.unwrap_or(Err(PutError::Closed(Closed)));
        work.add_disk(cairn_net::now().saturating_duration_since(queued));
        result
    }

    /// Makes blocks durable. Cancelled, it is dropped if it still waits for its turn, and goes on otherwise.
    pub(crate) async fn sync(&self, keys: Vec<BlockKey>) -> Result<SyncAck, SyncError> {
        let store = self.opened()?;
        let (done, outcome) = oneshot::channel();
        let (_here, wanted) = while_waited_for();
        store.sync_while(keys, wanted, completion(done));
        outcome.await.unwrap_or(Err(SyncError::Closed(Closed)))
    }

    /// Deletes blocks, durably. Cancelled, the delete goes on.
    pub(crate) async fn delete(&self, keys: Vec<BlockKey>) -> Result<DeleteAck, DeleteError> {
        let store = self.opened()?;
        let (done, outcome) = oneshot::channel();
        store.delete(keys, completion(done));
        outcome.await.unwrap_or(Err(DeleteError::Closed(Closed)))
    }

    /// When a caller for whom there was no room finds some, most likely.
    pub(crate) fn retry_after(&self) -> Duration {
        self.drain.lock().retry_after(cairn_net::now())
    }

    /// How long the disk has owed the answer to its oldest operation, in milliseconds.
    pub(crate) fn stall_ms(&self) -> u32 {
        u32::try_from(self.disk().stall(cairn_net::now()).as_millis()).unwrap_or(u32::MAX)
    }

    /// What was seen of its disk.
    pub(crate) fn disk(&self) -> &DiskWatch {
        self.place.watch()
    }

    /// What it has done.
    pub(crate) fn counts(&self) -> StoreCounts {
        self.store().map(|store| store.counts()).unwrap_or_default()
    }

    /// How full it is; nothing while it is closed.
    pub(crate) fn usage(&self) -> Usage {
        let none =
            || Usage { capacity_bytes: 0, used_bytes: 0, free_bytes: 0, blocks: 0, quarantined: 0, poisoned: None };
        self.store().map_or_else(none, |store| store.usage())
    }

    /// Why it takes no writes; empty when it does.
    pub(crate) fn trouble(&self, usage: &Usage) -> String {
        match usage.read_only() {
            _ if !self.is_open() => self.fault(),
            Some(reason) => reason,
            None if usage.free_bytes < u64::from(BLOCK_LEN_DEFAULT) => FULL.to_owned(),
            None => String::new(),
        }
    }

    /// Reads a block's header on the calling thread.
    pub(crate) fn read(&self, key: BlockKey) -> Result<StoredBlock, ReadError> {
        self.store().ok_or_else(|| not_open(key))?.read(key)
    }

    /// Reads a block's header where waiting for the disk harms nobody. `right` is given back when that is done, which is
    /// not when the caller gives up.
    pub(crate) async fn read_cold<R: Send + 'static>(
        self: &Arc<Self>,
        key: BlockKey,
        right: R,
    ) -> Result<StoredBlock, ReadError> {
        let slot = self.clone();
        blocking(move || {
            let _right = right;
            slot.read(key)
        })
        .await
    }

    /// Reads a whole block and checks it; a bad one is quarantined. `right` is given back when that is done, which is not
    /// when the caller gives up.
    pub(crate) async fn verify<R: Send + 'static>(self: &Arc<Self>, key: BlockKey, right: R) -> Result<(), ReadError> {
        let slot = self.clone();
        blocking(move || {
            let _right = right;
            slot.store().ok_or_else(|| not_open(key))?.verify(key)
        })
        .await
    }

    /// Asks the store where waiting for a lock or a disk harms nobody.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<T, Closed> {
        let store = self.opened()?;
        Ok(blocking(move || question(&store)).await)
    }

    /// A page of a group's inventory, in order.
    pub(crate) async fn list(&self, pg: PgId, after: Option<BlockKey>, limit: usize) -> Result<Vec<BlockInfo>, Closed> {
        self.ask(move |store| store.list(pg, after, limit)).await
    }

    /// A page of the blocks of some writers, in order, each with its group.
    pub(crate) async fn list_of(
        &self,
        writers: Arc<BTreeSet<WriterId>>,
        after: Option<BlockKey>,
        limit: usize,
    ) -> Result<Vec<(BlockKey, PgId)>, Closed> {
        self.ask(move |store| store.list_of(&|writer| writers.contains(&writer), after, limit)).await
    }

    /// The lowest writers above `after` that have a block here.
    pub(crate) async fn writers_after(&self, after: WriterId, limit: usize) -> Result<BTreeSet<WriterId>, Closed> {
        self.ask(move |store| store.writers_after(after, limit)).await
    }

    /// Blocks that are known to be damaged.
    pub(crate) async fn quarantined(&self) -> Result<Vec<QuarantinedBlock>, Closed> {
        self.ask(Store::quarantined).await
    }

    /// What a heartbeat says of it, without defects. A store that is not open has no incarnation, and its figures say
    /// nothing.
    pub(crate) fn beat(&self) -> pb::StoreBeat {
        let store = self.store();
        let usage = self.usage();
        let sweep = self.sweep.totals();
        let trouble = self.trouble(&usage);
        pb::StoreBeat {
            id: self.id().map_or(0, |id| id.0),
            uuid: self.uuid().map_or_else(bytes::Bytes::new, |uuid| bytes::Bytes::copy_from_slice(&uuid.0)),
            capacity_bytes: usage.capacity_bytes,
            used_bytes: usage.used_bytes,
            blocks: usage.blocks,
            highest_writer: store.as_ref().map_or(0, |store| store.highest_writer().0),
            incarnation: self.incarnation().map_or(0, |incarnation| incarnation.0),
            durable_records: store.as_ref().map_or(0, |store| store.durable_records()),
            trouble,
            defects: Vec::new(),
            quarantined: u32::try_from(usage.quarantined).unwrap_or(u32::MAX),
            fresh: self.fresh.load(Ordering::Relaxed),
            swept_blocks: sweep.swept_blocks,
            future_blocks: sweep.future_blocks,
            alarm: self.alarm(),
            scrub: Some(self.scrub.to_pb(self.id().unwrap_or_default())),
            copied_bytes: self.copied_bytes.load(Ordering::Relaxed),
            ..Default::default()
        }
    }

    /// What an operator has to look at although the store serves; empty when well.
    fn alarm(&self) -> String {
        let purge = self.purge_alarm.lock().clone();
        let alarms = [self.sweep.alarm(), self.scrub.alarm(), purge];
        alarms.into_iter().filter(|alarm| !alarm.is_empty()).collect::<Vec<_>>().join("; ")
    }

    /// Flushes and closes. Blocks the calling thread.
    pub(crate) fn close(&self) {
        if let Some(store) = self.store() {
            store.close();
        }
    }
}

/// An error with its causes.
pub(super) fn explain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    message
}

/// A completion for the store's threads.
fn completion<T: Send + 'static>(done: oneshot::Sender<T>) -> Box<dyn FnOnce(T) + Send> {
    // The receiver is gone when nobody waits any more.
    Box::new(move |result| drop(done.send(result)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::node::place::{OpenDisk, real_disk};
    use cairn_proto::checksum::chunk_crcs;
    use cairn_proto::{BlockId, PgEpoch, Shard};
    use cairn_store::{Durability, Execution, StoreOptions};
    use futures_util::FutureExt;
    use std::sync::atomic::AtomicUsize;

    /// A slot of a store that held blocks of writers up to `newest` when it was opened.
    pub(crate) fn slot(options: StoreOptions, newest: u64) -> (tempfile::TempDir, StoreSlot) {
        slot_on(options, newest, real_disk())
    }

    pub(crate) fn slot_on(options: StoreOptions, newest: u64, disk: OpenDisk) -> (tempfile::TempDir, StoreSlot) {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let options = StoreOptions { reserve_bytes: Some(0), ..options };
        let place = StorePlace::new(dir.path().to_owned(), options, disk, None, false);
        let sweep = Sweep::new(Duration::from_secs(10), 10);
        assert!(sweep.opened(WriterId(newest), 0));
        let slot = StoreSlot::new(place, sweep, Scrub::new(Duration::from_secs(3600)), Throttle::new(None));
        slot.open().expect("opened");
        (dir, slot)
    }

    /// Its store works only when told.
    fn manual() -> StoreOptions {
        StoreOptions { execution: Execution::Manual, ..StoreOptions::default() }
    }

    pub(crate) fn put(writer: u64, seq: u32) -> Put {
        let key = BlockKey::replica(BlockId::new(1, writer, seq));
        let crcs = chunk_crcs(key.block, Shard(0), b"content");
        let parts = vec![bytes::Bytes::from_static(b"content")];
        let (pg, pg_epoch) = (PgId(1), PgEpoch(1));
        Put { key, pg, pg_epoch, parts, crcs, file_offset_hint: 0, durability: Durability::Durable }
    }

    #[tokio::test]
    async fn a_put_that_is_given_up_in_the_queue_costs_no_disk_work() {
        let (_dir, slot) = slot(manual(), 0);
        let work = WorkTime::default();
        let mut kept = Box::pin(slot.put(put(1, 1), &work));
        let mut given_up = Box::pin(slot.put(put(1, 2), &work));
        assert!((&mut kept).now_or_never().is_none() && (&mut given_up).now_or_never().is_none());
        drop(given_up);
        slot.store().expect("open").run_pending();
        assert!(kept.await.expect("stored").durable);
        assert_eq!(slot.usage().blocks, 1);
        assert_eq!(slot.stall_ms(), 0, "nobody waits for the disk");
    }

    #[tokio::test]
    async fn a_right_is_given_back_by_the_work_and_not_by_who_gave_up() {
        let (_dir, slot) = slot(StoreOptions::default(), 0);
        let slot = Arc::new(slot);
        // Stands for a disk that does not answer: the right itself blocks its thread until told.
        struct Right(std::sync::mpsc::Receiver<()>, Arc<AtomicUsize>);
        impl Drop for Right {
            fn drop(&mut self) {
                let _ = self.0.recv();
                self.1.fetch_add(1, Ordering::SeqCst);
            }
        }
        let given_back = Arc::new(AtomicUsize::new(0));
        let (answer, waits) = std::sync::mpsc::channel();
        let mut read = Box::pin(slot.read_cold(put(1, 1).key, Right(waits, given_back.clone())));
        assert!((&mut read).now_or_never().is_none());
        drop(read);
        assert_eq!(given_back.load(Ordering::SeqCst), 0);
        answer.send(()).expect("it waits");
        while given_back.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_full_queue_says_when_to_come_back() {
        let (_dir, slot) = slot(StoreOptions { queue_bytes: 10, ..manual() }, 0);
        let work = WorkTime::default();
        let mut waits = Box::pin(slot.put(put(1, 1), &work));
        assert!((&mut waits).now_or_never().is_none());
        let refused = slot.put(put(1, 2), &work).await.expect_err("no room for fourteen bytes");
        let status = super::super::status::of_put(&refused, slot.retry_after());
        assert_eq!(status.code, cairn_proto::status::Code::Overloaded);
        assert!((5..=5000).contains(&status.retry_after_ms), "{}", status.retry_after_ms);
        slot.store().expect("open").run_pending();
        waits.await.expect("stored");
        assert_eq!(slot.drain.lock().inside(), (0, 0), "who was refused is not waited for");
    }
}
