//! Making what is written durable: one fdatasync for everybody who waits, beside the writer.
//!
//! While one fdatasync runs the writer goes on writing; whoever asks meanwhile is answered by the next one. All syncs
//! of segments go through [`Shared::sync_up_to`], one at a time: the kernel reports a failed write-back once per open
//! file, so two syncs at once could share one error between them.

use crate::catalog::DeadPayload;
use crate::counters::Counters;
use crate::disk::DiskFile;
use crate::error::{DeleteError, Poisoned, PutError, SyncError};
use crate::format::BlockKey;
use crate::index::State;
use crate::limits::EARLY_FLUSH_BYTES;
use crate::queue::{Done, Permit};
use crate::store::{DeleteAck, PutAck, Shared, SyncAck};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Duration;

/// Somebody who is answered after the next sync.
pub enum Waiter {
    Put(Done<PutAck, PutError>, PutAck, Permit),
    Delete(Done<DeleteAck, DeleteError>, DeleteAck, Permit),
    Sync(Done<SyncAck, SyncError>, Vec<BlockKey>, Permit),
}

/// How far the log is written and how far it is durable.
pub struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

struct LogState {
    /// File of the active segment. Everything in sealed segments is durable.
    active: Arc<dyn DiskFile>,
    /// Number of the last record written.
    written: u64,
    /// Number of the last record known durable.
    synced: u64,
    /// Payloads of records that `written` hides; dead once that is durable.
    dead: Vec<DeadPayload>,
    waiters: Vec<Waiter>,
    /// Bytes written since the last sync that nobody waits for.
    unsynced_bytes: u64,
    /// Something is written that nobody waits for, so the timer runs.
    timer: bool,
    flush_now: bool,
    stopped: bool,
}

/// What one write added to the log.
#[derive(Default)]
pub struct Written {
    /// Number of the last record.
    pub number: u64,
    /// Bytes that nobody waits for, and that somebody will probably ask to sync.
    pub unsynced_bytes: u64,
    /// Something was written that nobody waits for.
    pub unawaited: bool,
    /// Payloads it made dead.
    pub dead: Vec<DeadPayload>,
    /// Who waits for it.
    pub waiters: Vec<Waiter>,
}

/// What one sync takes on.
struct Round {
    active: Arc<dyn DiskFile>,
    written: u64,
    dead: Vec<DeadPayload>,
    waiters: Vec<Waiter>,
}

impl Log {
    /// A log that is durable up to `number`.
    pub fn new(active: Arc<dyn DiskFile>, number: u64) -> Self {
        let state = LogState {
            active,
            written: number,
            synced: number,
            dead: Vec::new(),
            waiters: Vec::new(),
            unsynced_bytes: 0,
            timer: false,
            flush_now: false,
            stopped: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Number of the last record known durable.
    pub fn synced(&self) -> u64 {
        self.state.lock().synced
    }

    /// Number of the last record written.
    pub fn written(&self) -> u64 {
        self.state.lock().written
    }

    /// The writer has sealed and synced the former segment.
    pub fn set_active(&self, active: Arc<dyn DiskFile>) {
        self.state.lock().active = active;
    }

    /// The writer has written records.
    pub fn wrote(&self, written: Written) {
        let mut state = self.state.lock();
        let idle = state.waiters.is_empty() && !state.timer;
        state.written = state.written.max(written.number);
        state.dead.extend(written.dead);
        state.timer |= written.unawaited;
        state.unsynced_bytes += written.unsynced_bytes;
        state.flush_now |= state.unsynced_bytes >= EARLY_FLUSH_BYTES;
        let wake = !written.waiters.is_empty() || state.flush_now || (idle && state.timer);
        state.waiters.extend(written.waiters);
        drop(state);
        if wake {
            self.changed.notify_one();
        }
    }

    /// Adds somebody who waits for all that is written so far.
    pub fn wait_for_sync(&self, waiter: Waiter) {
        self.state.lock().waiters.push(waiter);
        self.changed.notify_one();
    }

    /// Waits until there is something to sync; false once stopped and nobody waits.
    fn wait(&self, flush_interval: Duration) -> bool {
        let mut state = self.state.lock();
        loop {
            if !state.waiters.is_empty() || state.flush_now {
                return true;
            }
            if state.stopped {
                return false;
            }
            if !state.timer {
                self.changed.wait(&mut state);
            } else if self.changed.wait_for(&mut state, flush_interval).timed_out() {
                state.flush_now = true;
            }
        }
    }

    fn take_round(&self) -> Round {
        let mut state = self.state.lock();
        state.timer = false;
        state.flush_now = false;
        state.unsynced_bytes = 0;
        Round {
            active: Arc::clone(&state.active),
            written: state.written,
            dead: std::mem::take(&mut state.dead),
            waiters: std::mem::take(&mut state.waiters),
        }
    }

    fn is_due(&self) -> bool {
        let state = self.state.lock();
        !state.waiters.is_empty() || state.flush_now
    }

    /// Lets [`run`] return once nobody waits.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// The syncer thread.
pub fn run(shared: &Shared) {
    while shared.log.wait(shared.options.flush_interval) {
        round(shared);
    }
}

/// Syncs if somebody waits or a flush is due.
pub fn run_if_due(shared: &Shared) {
    if shared.log.is_due() {
        round(shared);
    }
}

/// One sync of all that is written, then the answers to all who waited for it.
pub fn round(shared: &Shared) {
    let round = shared.log.take_round();
    let result = shared.sync_up_to(&round.active, round.written);
    let durable = result.is_ok();
    Counters::add(&shared.counters.sync_rounds, 1);
    Counters::add(&shared.counters.sync_waiters, round.waiters.len());
    for waiter in round.waiters {
        answer(shared, waiter, result.clone());
    }
    if durable {
        shared.reclaim.add(round.dead);
    }
}

fn answer(shared: &Shared, waiter: Waiter, result: Result<(), Poisoned>) {
    // The permit is given back first: whoever is answered may ask again at once.
    match waiter {
        Waiter::Put(done, ack, permit) => {
            drop(permit);
            done(result.map(|()| ack).map_err(PutError::from));
        }
        Waiter::Delete(done, ack, permit) => {
            drop(permit);
            done(result.map(|()| ack).map_err(DeleteError::from));
        }
        Waiter::Sync(done, keys, permit) => {
            drop(permit);
            done(result.map(|()| sync_ack(shared, keys)).map_err(SyncError::from));
        }
    }
}

fn sync_ack(shared: &Shared, mut keys: Vec<BlockKey>) -> SyncAck {
    let catalog = shared.catalog.read();
    keys.retain(|key| catalog.index.get(*key).is_none_or(|entry| entry.state != State::Live));
    SyncAck { incarnation: shared.incarnation, missing: keys }
}

impl Shared {
    /// Makes all records up to `number` durable; `active` is the segment that holds those that are not yet.
    pub fn sync_up_to(&self, active: &Arc<dyn DiskFile>, number: u64) -> Result<(), Poisoned> {
        let _one_at_a_time = self.syncing.lock();
        self.check_poison()?;
        if self.log.synced() >= number {
            return Ok(());
        }
        self.sync_now(active, number)
    }

    /// As [`Shared::sync_up_to`], and the length of `active` too, whoever has synced its records.
    pub fn sync_whole(&self, active: &Arc<dyn DiskFile>, number: u64) -> Result<(), Poisoned> {
        let _one_at_a_time = self.syncing.lock();
        self.check_poison()?;
        self.sync_now(active, number)
    }

    /// Only for whoever holds `syncing`.
    fn sync_now(&self, active: &Arc<dyn DiskFile>, number: u64) -> Result<(), Poisoned> {
        match active.sync_data() {
            Ok(()) => {
                let mut state = self.log.state.lock();
                state.synced = state.synced.max(number);
                Ok(())
            }
            Err(error) => Err(self.poison("sync a segment", error)),
        }
    }
}
