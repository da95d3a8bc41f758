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
};
