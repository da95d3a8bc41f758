//! Bounds of a mount, each with its unit.

use std::time::Duration;

/// Bytes of one read or write of the kernel.
pub const MAX_WRITE: u32 = 1024 * 1024;
/// Bytes of a request without what a write brings: header, names, and the longest value of an extended attribute.
pub const REQUEST_HEAD_MAX: usize = 80 * 1024;
/// Bytes that the kernel reads ahead on its own.
pub const READ_AHEAD: u32 = 4 * 1024 * 1024;
/// Requests on nobody's behalf (read-ahead, writing back) that the kernel sends before it waits.
pub const BACKGROUND: u16 = 64;
/// Threads that take requests from the kernel.
pub const THREADS_MAX: usize = 4;

/// Bytes written and not committed, of all files together: writers wait beyond.
pub const DIRTY_BYTES_MAX: u32 = 256 * 1024 * 1024;
/// Bytes written to one file and not committed, from which on they are committed in the background.
pub const FLUSH_BYTES: u64 = 32 * 1024 * 1024;
/// Bytes written to one file and not committed: writers of it wait beyond.
pub const FILE_DIRTY_BYTES_MAX: u64 = 96 * 1024 * 1024;
/// Separate pieces written to one file and not committed, from which on they are committed in the background.
pub const FLUSH_PIECES: usize = 64;
/// Separate pieces written to one file and not committed: writers of it wait beyond.
pub const FILE_PIECES_MAX: usize = 4096;
/// How long what was written stays in the daemon alone.
pub const DIRTY_AGE: Duration = Duration::from_secs(1);
/// How long a file is open before it is held against the removal of its names by others.
pub const HOLD_DELAY: Duration = Duration::from_millis(20);
/// How often it is looked for what has stayed that long.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(250);

/// How long names and attributes hold without being asked for anew.
pub const TTL: Duration = Duration::from_secs(1);
/// How long reads ask whether the map of a file still holds after it was heard that somebody else changed it.
pub const DOUBT: Duration = Duration::from_secs(2);
/// Pause before an operation of a hard mount is tried again.
pub const HARD_PAUSE: Duration = Duration::from_secs(1);
/// How long the groups of a process are remembered.
pub const GROUPS_TTL: Duration = Duration::from_millis(500);
/// Processes whose groups are remembered.
pub const GROUPS_COUNT_MAX: usize = 4096;
/// Files whose content the kernel may keep between two opens, as far as the daemon remembers.
pub const KEPT_COUNT_MAX: usize = 256 * 1024;
/// Lookups in a directory, one after the other, after which a page of it is read at once.
pub const PAGE_MISSES: u32 = 3;
/// The same where pages were of no use.
pub const PAGE_MISSES_MAX: u32 = 4096;
/// Entries of such a page.
pub const PAGE_ENTRIES: u32 = 512;
/// Pages of a directory that are kept: so many may walk through it.
pub const PAGES_PER_DIR: usize = 8;
/// Directories that pages are kept of.
pub const PAGE_DIRS_MAX: usize = 256;
/// Changes that are remembered beside pages; more, and the pages are forgotten.
pub const TOUCHED_MAX: usize = 64 * 1024;
/// Entries that a listing keeps, so that a reader may go back to them.
pub const LISTED_COUNT_MAX: usize = 8192;
/// Of entries that a listing does not keep, every how many-th name is.
pub const LISTED_STRIDE: usize = 1024;
/// Bytes that one call of copy_file_range(2) copies; the caller asks again for the rest.
pub const COPY_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How long an operation goes on that a signal is to end: most end by themselves, and programs whose signals are timers
/// never see it.
pub const INTERRUPT_GRACE: Duration = Duration::from_millis(500);
/// How long a lock is waited for in one go: for ever, as far as anybody is concerned; a signal ends it.
pub const LOCK_WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Pause before the change feed is asked again after a failure.
pub const FEED_PAUSE: Duration = Duration::from_millis(200);
/// Messages to the kernel that may wait; a message more is not lost, its sender waits.
pub const MESSAGES_MAX: usize = 4096;
/// How long what was written gets to be committed when the mount ends.
pub const DRAIN_MAX: Duration = Duration::from_secs(60);

const _: () = assert!(FLUSH_BYTES < FILE_DIRTY_BYTES_MAX && FILE_DIRTY_BYTES_MAX < DIRTY_BYTES_MAX as u64);
const _: () = assert!(FLUSH_PIECES < FILE_PIECES_MAX);
