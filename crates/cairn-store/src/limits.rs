//! Every bound of a store, with the relations between them checked at compile time.

use cairn_proto::limits::{BLOCK_LEN_MAX, CHUNK_LEN};

/// Records begin on, and payloads are padded to, multiples of this.
pub const PAGE_LEN: u64 = 4096;
/// Fixed part of a record header; the checksum vector follows it.
pub const RECORD_FIXED_LEN: usize = 160;
/// Largest header region of a record (fixed part and vector, padded).
pub const RECORD_HEADER_MAX: usize = 8192;
/// Length of one entry of a tombstone record.
pub const TOMBSTONE_ENTRY_LEN: usize = 40;
/// Deleted blocks named by one tombstone record; more take several records.
pub const TOMBSTONE_ENTRIES_MAX: usize = (RECORD_HEADER_MAX - RECORD_FIXED_LEN) / TOMBSTONE_ENTRY_LEN;

/// Length at which a segment is sealed, where no option says otherwise.
pub const SEGMENT_LEN_DEFAULT: u64 = 1 << 30;
/// Largest segment an option may ask for: offsets are kept as 32-bit page numbers.
pub const SEGMENT_LEN_MAX: u64 = 1 << 40;
/// Files of removed segments kept for reuse, at most: writing again what was written before needs no new space from the
/// file system, and its sync takes half the time (docs/decisions/0010-written-space.md).
pub const RECYCLED_SEGMENTS_MAX: usize = 4;
/// Written space that holds nothing (recycled files, dead payloads) is kept up to this fraction of the capacity.
pub const RECYCLE_CAPACITY_SHARE: u64 = 16;
/// Nothing is kept for reuse once less than this fraction of the capacity is free.
pub const ROOMY_FREE_SHARE: u64 = 8;
/// A segment file of which more than this fraction was given back is no written space any more.
pub const RECYCLE_PUNCHED_SHARE: u64 = 8;
/// Dead payloads that wait to be given back; the places of further ones are looked up in their segment when it matters.
pub const DEAD_PAYLOADS_MAX: usize = 64 * 1024;

/// Sealed segments whose live records take a smaller share than this of what they occupy are compacted, where no option
/// says otherwise.
pub const COMPACT_BELOW_PERCENT: u8 = 25;
/// Bytes a second that maintenance may move, where no option says otherwise.
pub const MAINTENANCE_RATE_DEFAULT: u64 = 64 << 20;
/// Bytes that maintenance reads and writes at one go (one larger block is moved alone): what a client may have to wait for.
pub const MAINTENANCE_STEP_BYTES: u64 = 1 << 20;
/// Records that maintenance looks at, or moves, at one go.
pub const MAINTENANCE_STEP_RECORDS: usize = 128;
/// What giving one payload back costs beside bytes moved: a change of the file system's metadata.
pub const PUNCH_COST: u64 = 64 << 10;
/// While clients wait, maintenance is slower by this factor.
pub const MAINTENANCE_YIELD: u32 = 4;
/// Tombstones of one segment that compaction takes along; a segment with more is left alone.
pub const CARRIED_TOMBSTONES_MAX: usize = 256 * 1024;

/// A segment made from a used file is written so far beyond what is noted of it, at most: what an opening after a crash reads
/// of a former life of the file. A note costs one sync.
pub const REACH_STEP: u64 = 64 << 20;

/// Segment files kept open for reading; the least recently used one is closed first.
pub const OPEN_SEGMENTS_MAX: usize = 128;

/// Payload bytes that may wait to be written.
pub const QUEUE_BYTES_MAX: usize = 128 << 20;
/// Requests that may wait for their completion.
pub const QUEUE_REQUESTS_MAX: usize = 8192;
/// Payload bytes the writer takes at once (one larger block is taken alone).
pub const BATCH_BYTES_MAX: usize = 16 << 20;
/// Requests the writer takes at once.
pub const BATCH_REQUESTS_MAX: usize = 512;
/// Slices in one vectored write (IOV_MAX of Linux).
pub const IO_SLICES_MAX: usize = 1024;
/// Written bytes that nobody has asked to sync yet, from which on the store starts a flush on its own, so that the
/// sync at the end of a window finds little left to do.
pub const EARLY_FLUSH_BYTES: u64 = 8 << 20;

/// A checkpoint is written after this many appended bytes, or twice its own size if that is more.
pub const CHECKPOINT_BYTES: u64 = 256 << 20;
/// A checkpoint is written after this many appended records, or half the number of blocks if that is more.
pub const CHECKPOINT_RECORDS: u64 = 32 * 1024;
/// Largest checkpoint that is read back: 400 million blocks.
pub const CHECKPOINT_LEN_MAX: u64 = 16 << 30;

/// Bytes read at once while verifying a payload or looking for the next valid header.
pub const SCAN_WINDOW: usize = 1 << 20;
/// Defects listed one by one in a report; further ones are only counted.
pub const REPORT_ITEMS_MAX: usize = 1000;
/// Index entries looked at under one hold of the index lock while listing: a fraction of a millisecond, for which the
/// writer may have to wait.
pub const LIST_STEP: usize = 8 * 1024;
/// Smallest share of the disk kept free for tombstones and checkpoints, where no option says otherwise.
pub const RESERVE_MIN: u64 = 64 << 20;

const _: () = {
    assert!(RECORD_FIXED_LEN + 4 * (BLOCK_LEN_MAX / CHUNK_LEN) as usize <= RECORD_HEADER_MAX);
    assert!((RECORD_HEADER_MAX as u64).is_multiple_of(PAGE_LEN));
    assert!(SEGMENT_LEN_MAX / PAGE_LEN <= u32::MAX as u64);
    assert!(SEGMENT_LEN_DEFAULT > BLOCK_LEN_MAX as u64 * 2);
    assert!(QUEUE_BYTES_MAX >= BLOCK_LEN_MAX as usize);
    assert!(BATCH_BYTES_MAX <= QUEUE_BYTES_MAX);
    assert!(BATCH_REQUESTS_MAX <= QUEUE_REQUESTS_MAX);
    // A full queue of tombstones (a delete names at most 1024 blocks) fits the reserve many times over.
    assert!(RESERVE_MIN >= 1024 * RECORD_HEADER_MAX as u64);
    assert!(COMPACT_BELOW_PERCENT < 100);
    // What is kept for reuse is far below what makes a disk roomy, so giving it back never comes too late.
    assert!(RECYCLE_CAPACITY_SHARE >= 2 * ROOMY_FREE_SHARE);
};
