//! Bounds of the cache.

use cairn_proto::limits::CHUNK_LEN;

/// Bytes of memory that a chunk takes besides its content: key, pointers, its place in the cache.
pub const CHUNK_OVERHEAD: u64 = 160;
/// The smallest cache on disk.
pub const DISK_SIZE_MIN: u64 = 16 * 1024 * 1024;
/// A cache on disk is cut into so many segments at least, so that little is forgotten at a time.
pub const SEGMENTS_MIN: u64 = 8;
/// A segment is not longer than this, unless there would be too many.
pub const SEGMENT_LEN: u64 = 64 * 1024 * 1024;
/// Segments of full length in the largest cache: each is an open file.
pub const SEGMENTS_FULL: u64 = 128;
/// Segments at most, short ones of processes that ended included.
pub const SEGMENTS_MAX: usize = 256;
/// Bytes on disk for each chunk that may be remembered: bounds the index, whatever the chunks' lengths.
pub const DISK_BYTES_PER_CHUNK_MIN: u64 = 8 * 1024;
/// Chunks that wait to be written; what comes when they are as many is not kept on disk.
pub const WRITES_QUEUED_MAX: usize = 256;

const _: () = {
    assert!(DISK_SIZE_MIN / SEGMENTS_MIN >= 4 * CHUNK_LEN as u64);
    assert!(SEGMENTS_MAX as u64 >= 2 * SEGMENTS_FULL);
};
