//! Every bound that both sides of a connection must agree on, with the relations between them checked at compile time.

/// Checksums cover this many bytes of block content each.
pub const CHUNK_LEN: u32 = 64 * 1024;
/// Smallest block size a policy may ask for.
pub const BLOCK_LEN_MIN: u32 = 64 * 1024;
/// Block size where no policy says otherwise.
pub const BLOCK_LEN_DEFAULT: u32 = 4 * 1024 * 1024;
/// Largest block size a policy may ask for.
pub const BLOCK_LEN_MAX: u32 = 64 * 1024 * 1024;

/// Largest protobuf header of a frame.
pub const FRAME_HEADER_MAX: u32 = 64 * 1024;
/// Largest body of one frame; longer bodies continue in DATA frames.
pub const FRAME_BODY_MAX: u32 = 1024 * 1024;
/// Largest body of a whole request or response, all frames together.
pub const RESPONSE_LEN_MAX: u64 = 104_857_600;
/// Bodies up to this length travel on the control lane, longer ones on a bulk connection.
pub const CONTROL_BODY_MAX: u32 = 64 * 1024;

/// Longest name of a directory entry, in bytes (as Linux NAME_MAX).
pub const NAME_LEN_MAX: usize = 255;
/// Longest path of one request, in bytes (as Linux PATH_MAX).
pub const PATH_LEN_MAX: usize = 4096;
/// Symbolic links followed while one path is resolved (as Linux MAXSYMLINKS).
pub const SYMLINKS_FOLLOWED_MAX: usize = 40;
/// Names that one file may have (as ext4).
pub const LINKS_MAX: u32 = 65_000;
/// Longest name of an extended attribute, in bytes (as Linux XATTR_NAME_MAX).
pub const XATTR_NAME_LEN_MAX: usize = 255;
/// Largest value of an extended attribute, in bytes: it travels in a frame's header.
pub const XATTR_VALUE_LEN_MAX: usize = PAGE_BYTES_MAX;
/// Names and values of all extended attributes of an inode together, and [`XATTR_OVERHEAD`] for each, in bytes.
pub const XATTRS_LEN_MAX: u32 = 64 * 1024;
/// What an extended attribute counts beside its name and value.
pub const XATTR_OVERHEAD: u32 = 32;
/// Supplementary groups of a caller.
pub const CALLER_GROUPS_MAX: usize = 1024;
/// Inodes that one request holds or lets go of.
pub const HOLDS_PER_REQUEST_MAX: usize = 16;
/// Largest file (so that no sum of offset and length overflows).
pub const FILE_LEN_MAX: u64 = 1 << 60;

/// A file that as a whole is at most this long lives in its extent row.
pub const INLINE_LEN_DEFAULT: u32 = 4096;
/// The last row of a file grows by small appends up to so many times the inline limit, before it is written as a block.
pub const TAIL_INLINE_PER_INLINE: u32 = 4;
/// An append rewrites a tail up to this length instead of adding a row.
pub const APPEND_TAIL_MAX: u32 = 64 * 1024;
/// Groups that the blocks of one extent may alternate between.
pub const PGS_PER_EXTENT_MAX: usize = 8;
/// Most replicas of a block.
pub const REPLICAS_MAX: usize = 7;

/// Exactly-once slots of a session.
pub const SLOTS_PER_SESSION: u32 = 64;
/// Lease of a session, in milliseconds.
pub const SESSION_LEASE_MS: u64 = 90_000;

/// Blocks a streaming writer may keep uncommitted.
pub const WINDOW_BLOCKS_MAX: usize = 64;
/// Bytes a streaming writer may keep unsynced.
pub const WINDOW_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Pieces in one commit.
pub const COMMIT_PIECES_MAX: usize = 64;
/// Blocks named by one SYNC, DELETE or LIST request or reply.
pub const BLOCKS_PER_REQUEST_MAX: usize = 1024;
/// Blocks judged by one request: so many that a file's map is seldom walked twice, and few enough that the answer fits a
/// page even when no two neighbours share a verdict.
pub const BLOCKS_JUDGED_MAX: usize = 8 * 1024;
/// Encoded bytes of a page of directory entries, extents or rows; keeps every reply header under
/// [`FRAME_HEADER_MAX`].
pub const PAGE_BYTES_MAX: usize = 48 * 1024;
/// Rows in a page, whatever their size.
pub const PAGE_ROWS_MAX: usize = 1024;

const _: () = {
    assert!(BLOCK_LEN_MIN.is_multiple_of(CHUNK_LEN));
    assert!(BLOCK_LEN_DEFAULT.is_multiple_of(CHUNK_LEN));
    assert!(BLOCK_LEN_MAX.is_multiple_of(CHUNK_LEN));
    assert!(FRAME_BODY_MAX.is_multiple_of(CHUNK_LEN));
    assert!((BLOCK_LEN_MAX as u64) <= RESPONSE_LEN_MAX);
    assert!(CONTROL_BODY_MAX <= FRAME_BODY_MAX);
    // A checksum vector (4 bytes per chunk) fits a frame header beside the rest of a PUT.
    assert!((BLOCK_LEN_MAX / CHUNK_LEN) * 4 < FRAME_HEADER_MAX / 2);
    assert!(PAGE_BYTES_MAX + 8 * 1024 < FRAME_HEADER_MAX as usize);
    assert!(INLINE_LEN_DEFAULT < FRAME_HEADER_MAX / 2);
    // A largest attribute fits a header beside two longest paths and the groups of its caller.
    assert!(
        XATTR_VALUE_LEN_MAX + XATTR_NAME_LEN_MAX + PATH_LEN_MAX + 5 * CALLER_GROUPS_MAX + 1024
            < FRAME_HEADER_MAX as usize
    );
    assert!(XATTR_VALUE_LEN_MAX + XATTR_NAME_LEN_MAX < XATTRS_LEN_MAX as usize);
    assert!(((INLINE_LEN_DEFAULT * TAIL_INLINE_PER_INLINE) as usize) < PAGE_BYTES_MAX);
    assert!(INLINE_LEN_DEFAULT * TAIL_INLINE_PER_INLINE < APPEND_TAIL_MAX);
    // A span of one block takes six bytes.
    assert!(BLOCKS_JUDGED_MAX * 6 <= PAGE_BYTES_MAX);
    // The ids of a SYNC (20 bytes each, some framing) fit a header.
    assert!(BLOCKS_PER_REQUEST_MAX * 48 < FRAME_HEADER_MAX as usize);
};
