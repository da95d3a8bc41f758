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
    /// Blocks that the operating system could not read.
    pub read_errors: u64,
    /// Segments from which compaction moved what was left.
    pub compacted_segments: u64,
    /// Blocks it moved.
    pub moved_blocks: u64,
    /// Their bytes.
    pub moved_bytes: u64,
    /// Segments removed.
    pub removed_segments: u64,
    /// New segments in files that were used before.
    pub recycled_segments: u64,
    /// Bytes of dead payloads given back to the file system.
    pub punched_bytes: u64,
    /// Bytes kept for reuse now: files of removed segments.
    pub recycled_bytes: u64,
    /// Bytes of dead payloads that were not given back yet.
    pub dead_bytes: u64,
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
    pub read_errors: AtomicU64,
    pub compacted_segments: AtomicU64,
    pub moved_blocks: AtomicU64,
    pub moved_bytes: AtomicU64,
    pub removed_segments: AtomicU64,
    pub recycled_segments: AtomicU64,
    pub punched_bytes: AtomicU64,
}

impl Counters {
    pub fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// The counters; what waits now is for the caller to fill in.
    pub fn read(&self) -> StoreCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreCounts {
            batches: get(&self.batches),
            batched_requests: get(&self.batched_requests),
            abandoned: get(&self.abandoned),
            sync_rounds: get(&self.sync_rounds),
            sync_waiters: get(&self.sync_waiters),
            quarantined: get(&self.quarantined),
            read_errors: get(&self.read_errors),
            compacted_segments: get(&self.compacted_segments),
            moved_blocks: get(&self.moved_blocks),
            moved_bytes: get(&self.moved_bytes),
            removed_segments: get(&self.removed_segments),
            recycled_segments: get(&self.recycled_segments),
            punched_bytes: get(&self.punched_bytes),
            ..StoreCounts::default()
        }
    }
}
