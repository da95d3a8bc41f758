//! What a store has done since it was opened: plain numbers, read while it runs.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a store since it was opened, and what waits in it now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounts {
    /// Requests that wait to be written or synced.
    pub waiting_requests: usize,
    /// Payload bytes that wait to be written.
    pub waiting_bytes: usize,
    /// Batches that the writer took from the queue.
    pub batches: u64,
    /// Requests in those batches.
    pub batched_requests: u64,
    /// Of those, requests for whom nobody waited any more when their turn came: nothing was done.
    pub abandoned: u64,
    /// Rounds of the syncer.
    pub sync_rounds: u64,
    /// Requests that those rounds answered.
    pub sync_waiters: u64,
    /// Blocks quarantined.
    pub quarantined: u64,
}

/// The counters behind [`StoreCounts`].
#[derive(Debug, Default)]
pub struct Counters {
    pub batches: AtomicU64,
    pub batched_requests: AtomicU64,
    pub abandoned: AtomicU64,
    pub sync_rounds: AtomicU64,
    pub sync_waiters: AtomicU64,
    pub quarantined: AtomicU64,
}

impl Counters {
    pub fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub fn read(&self, waiting_requests: usize, waiting_bytes: usize) -> StoreCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreCounts {
            waiting_requests,
            waiting_bytes,
            batches: get(&self.batches),
            batched_requests: get(&self.batched_requests),
            abandoned: get(&self.abandoned),
            sync_rounds: get(&self.sync_rounds),
            sync_waiters: get(&self.sync_waiters),
            quarantined: get(&self.quarantined),
        }
    }
}
