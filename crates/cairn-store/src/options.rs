//! How a store is opened, and where its randomness comes from.
#![allow(clippy::disallowed_methods, reason = "this is the randomness seam")]

use crate::limits::{
    COMPACT_BELOW_PERCENT, MAINTENANCE_RATE_DEFAULT, PAGE_LEN, QUEUE_BYTES_MAX, RECORD_HEADER_MAX,
    RECYCLE_CAPACITY_SHARE, RECYCLED_SEGMENTS_MAX, SEGMENT_LEN_DEFAULT, SEGMENT_LEN_MAX,
};
use cairn_proto::limits::BLOCK_LEN_MAX;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Longest a relaxed write stays unflushed while the machine runs; the documented loss window is a second.
pub const FLUSH_INTERVAL_DEFAULT: Duration = Duration::from_millis(500);

/// Who does the work behind the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// The store's own threads: one writes, one syncs, one writes checkpoints.
    Threads,
    /// Nobody, until somebody calls [`crate::Store::run_pending`]; for deterministic simulation.
    Manual,
}

/// Settings of a store. Nothing here is written to the disk: each open may choose anew.
#[derive(Clone)]
pub struct StoreOptions {
    /// Segments are sealed at this length; kept between one largest record and [`SEGMENT_LEN_MAX`].
    pub segment_len: u64,
    /// Bytes of the disk the store may use; `None` = all of the file system.
    pub capacity_bytes: Option<u64>,
    /// Bytes kept free for tombstones and checkpoints; `None` = 1 % of the capacity, at least
    /// [`crate::limits::RESERVE_MIN`].
    pub reserve_bytes: Option<u64>,
    /// Payload bytes that may wait to be written; one block is always admitted to an empty queue.
    pub queue_bytes: usize,
    /// A checkpoint follows after this many appended bytes (or twice its own size, if that is more).
    pub checkpoint_bytes: u64,
    /// Written space without content that is kept for reuse, in bytes; `None` = [`RECYCLED_SEGMENTS_MAX`] segments, at
    /// most a sixteenth of the capacity. Nothing is kept when the disk gets tight.
    pub recycle_bytes: Option<u64>,
    /// How far ahead the writer notes that it may write a segment made from a used file, in bytes.
    pub reach_step: u64,
    /// Segments with a smaller live share, in percent, are compacted; 0 = none are.
    pub compact_below_percent: u8,
    /// Bytes a second that compaction and giving space back may cost; a quarter of it while clients wait.
    pub maintenance_rate: u64,
    /// Relaxed writes are flushed after this long.
    pub flush_interval: Duration,
    /// Who does the work.
    pub execution: Execution,
    /// Source of the store's uuid and incarnation.
    pub entropy: Arc<dyn Fn() -> u128 + Send + Sync>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            segment_len: SEGMENT_LEN_DEFAULT,
            capacity_bytes: None,
            reserve_bytes: None,
            queue_bytes: QUEUE_BYTES_MAX,
            checkpoint_bytes: crate::limits::CHECKPOINT_BYTES,
            recycle_bytes: None,
            reach_step: crate::limits::REACH_STEP,
            compact_below_percent: COMPACT_BELOW_PERCENT,
            maintenance_rate: MAINTENANCE_RATE_DEFAULT,
            flush_interval: FLUSH_INTERVAL_DEFAULT,
            execution: Execution::Threads,
            entropy: Arc::new(|| uuid::Uuid::new_v4().as_u128()),
        }
    }
}

impl StoreOptions {
    /// Segment length within what the format can hold; at least the first page.
    pub(crate) fn segment_len(&self) -> u64 {
        self.segment_len.clamp(2 * PAGE_LEN, SEGMENT_LEN_MAX - u64::from(BLOCK_LEN_MAX) - 2 * RECORD_HEADER_MAX as u64)
    }

    /// Written space without content that may be kept for reuse on a roomy disk.
    pub(crate) fn recycle_bytes(&self, capacity: u64) -> u64 {
        let default = || (RECYCLED_SEGMENTS_MAX as u64 * self.segment_len()).min(capacity / RECYCLE_CAPACITY_SHARE);
        self.recycle_bytes.unwrap_or_else(default)
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("segment_len", &self.segment_len)
            .field("capacity_bytes", &self.capacity_bytes)
            .field("reserve_bytes", &self.reserve_bytes)
            .field("queue_bytes", &self.queue_bytes)
            .field("checkpoint_bytes", &self.checkpoint_bytes)
            .field("recycle_bytes", &self.recycle_bytes)
            .field("reach_step", &self.reach_step)
            .field("compact_below_percent", &self.compact_below_percent)
            .field("maintenance_rate", &self.maintenance_rate)
            .field("flush_interval", &self.flush_interval)
            .field("execution", &self.execution)
            .finish_non_exhaustive()
    }
}
