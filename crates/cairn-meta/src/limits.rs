//! Every bound of this crate that is not the wire's.

use cairn_proto::limits::{COMMIT_PIECES_MAX, PAGE_ROWS_MAX, XATTR_OVERHEAD, XATTRS_LEN_MAX};
use std::time::Duration;

/// Version of the row formats this program writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 2;
/// Version of the behaviour that all servers of a cluster agreed on.
pub const CLUSTER_VERSION: u32 = 2;

/// Times a conflicting transaction is run again before the caller is told to come back.
pub const ATTEMPTS_MAX: u32 = 64;
/// After this many conflicts a transaction waits for its turn among others in the same state.
pub const ATTEMPTS_UNTIL_TURN: u32 = 3;
/// Transactions handed to the engine that go on without their callers; further ones wait, and end with theirs.
pub const COMMITS_MAX: usize = 1024;
/// Locks that order changes of one inode's content, so that they meet here and not at their commits.
pub const INODE_LOCKS: usize = 1024;

/// Commits to one file that one transaction takes along.
pub const MERGED_COMMITS_MAX: usize = 64;
/// Rows that they write together, about, and bytes that they keep inline.
pub const MERGED_WRITES_MAX: usize = 512;
/// See [`MERGED_WRITES_MAX`].
pub const MERGED_BYTES_MAX: usize = 512 * 1024;
/// Extent rows that one transaction cuts, adds or drops, on whatever engine: what 64 MiB hold that were written in pieces
/// of a kilobyte.
pub const MAP_ROWS_PER_TX_MAX: usize = 64 * 1024;
/// Extent rows that one step of a truncate, a punch or of dropping a map takes at most; fewer where the engine's
/// transactions are smaller. Each may take a write for itself, one for its history and one for its blocks.
pub const MAP_ROWS_PER_STEP_MAX: usize = 512;
/// See [`MAP_ROWS_PER_STEP_MAX`]: on an engine whose transactions are too small for anything.
pub const MAP_ROWS_PER_STEP_MIN: usize = 4;
/// Writes of a transaction for each extent row of a step.
pub const WRITES_PER_MAP_ROW: usize = 4;
/// A file with at most so many extent rows loses them in the transaction that removes it.
pub const MAP_ROWS_DROPPED_AT_ONCE: usize = 8;
/// An inode with at most so many extended attributes loses them in the transaction that removes it.
pub const XATTRS_DROPPED_AT_ONCE: usize = 8;
/// Extended attributes that a check counts of one inode: more do not fit what one may have.
pub const XATTRS_COUNTED_MAX: usize = (XATTRS_LEN_MAX / XATTR_OVERHEAD) as usize;
/// Extended attributes dropped by one step of the duty that drops those of a removed inode.
pub const XATTRS_PER_STEP: usize = 64;
/// Locks of one kind on one file.
pub const LOCKS_PER_FILE_MAX: usize = 1024;
/// Separate ranges that one owner may hold of one file: a lock or unlock of all of them is one transaction.
pub const LOCKS_PER_OWNER_MAX: usize = 32;
/// Owners that stand in line for locks of one kind on one file; further ones are not given precedence.
pub const LOCK_WAITERS_PER_FILE_MAX: usize = 256;
/// Owners looked at to find out whether one would wait for itself; a longer circle is ended by a deadline.
pub const LOCK_WALK_MAX: usize = 64;
/// Who waits for a lock and has not asked again for so long has lost its place in the line.
pub const LOCK_WAIT_KEPT: Duration = Duration::from_secs(5);
/// Extent rows looked through to judge the blocks of one request; blocks of a file with more stay undecided.
pub const JUDGED_MAP_ROWS_MAX: usize = 1 << 20;
/// Extent rows fetched by one scan.
pub const SCAN_ROWS: usize = 512;
/// Rows cleared by one step of ending a session; fewer where the engine's transactions are smaller.
pub const SESSION_ROWS_PER_STEP: usize = 24;
/// Writes of a transaction for each of them: the last hold on a file may take its map and its attributes with it.
pub const WRITES_PER_SESSION_ROW: usize = MAP_ROWS_DROPPED_AT_ONCE * WRITES_PER_MAP_ROW + XATTRS_DROPPED_AT_ONCE + 8;
/// Degraded rows looked at for one group, member and inode when extents are listed.
pub const LACKING_ROWS_MAX: usize = 4096;
/// Rows counted for the cluster's status; more are reported as this many.
pub const STATUS_COUNT_MAX: u64 = 100_000;
/// Degraded rows counted for a heartbeat's answer; more are reported as this many.
pub const BEAT_COUNT_MAX: u64 = PAGE_ROWS_MAX as u64;
/// Defects remembered, newest first.
pub const DEFECTS_MAX: usize = 256;
/// Inode numbers one request may reserve.
pub const INODES_PER_REQUEST_MAX: u32 = 4096;
/// Numbers of a counter reserved by one durable write.
pub const COUNTER_RESERVE: u64 = 4096;
/// Shortest lease of a session.
pub const LEASE_MIN: Duration = Duration::from_millis(100);
/// Open sessions.
pub const SESSIONS_MAX: usize = 100_000;
/// Every opening of metadata leaves out some numbers of writers, below this bound, at random: one that was restored from
/// a backup gives out none that it gave out in the past it has forgotten.
pub const WRITERS_SKIPPED_MAX: u64 = 1 << 28;
/// Rows of writers read to close all that are unknown.
pub const WRITER_ROWS_MAX: usize = 1 << 20;
/// Most replicas that the policy of a directory may ask for.
pub const POLICY_REPLICAS_MAX: u32 = 5;
/// Nodes and stores of a cluster.
pub const STORES_MAX: usize = 16 * 1024;
/// Stores of one node.
pub const STORES_PER_NODE_MAX: usize = 64;
/// Bytes of a name, label or address that a client or node gives itself.
pub const LABEL_LEN_MAX: usize = 256;

/// A node silent this long is suspect, where no option says otherwise.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(10);
/// Shortest silence that may make a node suspect: shorter, and a report or two that are late would do.
pub const SUSPECT_AFTER_MIN: Duration = Duration::from_secs(2);
/// A node silent this long is out, where no option says otherwise.
pub const OUT_AFTER: Duration = Duration::from_secs(600);
/// Duties that run further apart than this say that this process stood still: silence is counted anew then, because
/// nobody could be heard.
pub const PAUSE_MIN: Duration = Duration::from_secs(15);
/// Reports of nodes that are up are judged this often, all together.
pub const JUDGE_EVERY: Duration = Duration::from_millis(100);
/// How often a node reports.
pub const HEARTBEAT_MS: u32 = 1000;
/// Beats are written to the engine at most this often.
pub const BEATS_EVERY: Duration = Duration::from_secs(1);
/// A server whose last renewal of the duties' lease is older than this carries out none of them.
pub const DUTY_STOP_AFTER: Duration = Duration::from_secs(7);
/// A lease that was seen unchanged for so long is taken over by whoever saw it.
pub const DUTY_SILENT_AFTER: Duration = Duration::from_secs(10);
/// Two looks further apart than this do not show that nothing changed between them.
pub const WATCH_GAP_MAX: Duration = Duration::from_secs(5);
/// A metadata server that showed no sign of life for so long is forgotten; should it live, it comes back as another.
pub const SERVER_SILENT_AFTER: Duration = Duration::from_secs(10);
/// Metadata servers that a cluster remembers, dead ones that are being cleared away included.
pub const SERVERS_MAX: usize = 64;
/// How often a server that is not alone reads what others committed to groups.
pub const USAGE_EVERY: Duration = Duration::from_secs(10);
/// Sums of a server that is gone added to the others' by one transaction.
pub const FOLDED_PER_TX: usize = 128;
/// How long a renewal of a session that another server heard may take to be seen by who judges silence.
pub const SESSION_BEAT_LAG: Duration = Duration::from_secs(3);
/// Sessions whose signs of life are looked up by one step.
pub const SESSIONS_PER_LOOK: usize = 512;
/// Rows of beats written by one transaction.
pub const BEAT_ROWS_PER_TX: usize = 512;
/// A group that holds this many bytes takes no new blocks.
pub const GROUP_BYTES_MAX: u64 = 256 << 30;
/// Open groups there are at least, once there are enough nodes.
pub const OPEN_GROUPS_MIN: usize = 4;
/// Open groups for each store.
pub const OPEN_GROUPS_PER_STORE: usize = 2;
/// Member sets that a store is in, before further groups take one of those: with three replicas it has twice as many
/// others to be repaired from, and few sets whose loss together loses data.
pub const SETS_PER_STORE: usize = 6;
/// Groups there may be.
pub const GROUPS_MAX: usize = 1 << 20;
/// Groups made or changed by one transaction.
pub const GROUPS_PER_TX: usize = 64;

/// Degraded rows that one change of a group copies; a change that had to copy more waits until they are fewer.
pub const COPIED_DEBTS_MAX: usize = 4096;
/// Degraded rows of a former or stale member deleted by one transaction.
pub const DEBTS_DROPPED_PER_TX: usize = 1024;
/// Joins that one store copies for at once, as far as metadata begins them.
pub const JOINS_PER_TARGET: usize = 2;
/// Joins under way at once that copy from one store, as far as metadata begins them.
pub const JOINS_PER_SOURCE: usize = 4;
/// A join that has copied nothing for so long no longer keeps others from beginning.
pub const JOIN_STALLED_AFTER: Duration = Duration::from_secs(180);
/// Changes of groups begun by one look through them.
pub const CHANGES_PER_LOOK: usize = 64;
/// Percent of its capacity to which moves may fill a store.
pub const PLACE_FILL_PERCENT: u64 = 95;
/// Parts of a thousand of its capacity by which a store may be off the mean and is balanced all the same.
pub const BALANCE_TOLERANCE_PERMILLE: u64 = 20;
/// Moves that one task plans ahead.
pub const PLANNED_MOVES_MAX: usize = 4096;
/// Moves of a plan that are told to who asked for it.
pub const MOVES_SHOWN_MAX: usize = 1024;
/// Tasks that run or wait.
pub const TASKS_OPEN_MAX: usize = 256;
/// Tasks that ended and are remembered.
pub const TASKS_KEPT_MAX: usize = 128;
/// Tasks that a list or status shows.
pub const TASKS_SHOWN_MAX: usize = 128;
/// Bytes of a task's reason.
pub const REASON_LEN_MAX: usize = 256;
/// Alarms that a status shows.
pub const ALARMS_MAX: usize = 32;
/// Joins in progress that a store's report may name.
pub const JOINS_PER_BEAT_MAX: usize = 64;
/// Groups judged by one request.
pub const GROUPS_JUDGED_MAX: usize = 1024;

/// Entries that a change log keeps at most.
pub const FEED_ROWS_MAX: u64 = 1 << 20;
/// How long entries of a change log are kept at most.
pub const FEED_KEEP: Duration = Duration::from_secs(24 * 3600);
/// Entries of change logs looked at for one page of changes.
pub const FEED_PAGE_ROWS: usize = 256;
/// Entries of a change log removed by one transaction.
pub const FEED_ROWS_PER_STEP: usize = 512;
/// Positions whose transactions were not committed that one transaction makes known on its way.
pub const FEED_VOIDS_PER_TX: usize = 4;
/// Change logs that are there at once: one for each server process whose entries are still kept.
pub const FEED_LOGS_MAX: usize = 4096;
/// A server says so often that its change log is in use.
pub const FEED_BEAT_EVERY: Duration = Duration::from_secs(20);
/// A change log of which nothing was heard for so long is closed by another server. Its own, if it lives, begins a new one.
pub const FEED_SILENT: Duration = Duration::from_secs(90);
/// A reader that begins now looks back so many positions for transactions under way.
pub const FEED_LOOK_BACK: u64 = 2 * COMMITS_MAX as u64;
/// Inodes whose names are remembered, to tell paths of changes.
pub const NAME_HINTS_MAX: usize = 16 * 1024;
/// Names of a directory looked through to find the one of an inode; in a larger one it may stay unknown.
pub const NAME_SCAN_MAX: usize = 4096;

/// Directories above one another that are walked up for trash and quotas.
pub const TREE_DEPTH_MAX: usize = 4096;
/// Missing directories that a restore makes.
pub const RESTORED_PARENTS_MAX: usize = 16;
/// Directories with quotas.
pub const QUOTAS_MAX: usize = 4096;
/// Names that one step of counting a tree takes, where the engine takes as many writes.
pub const QUOTA_NAMES_PER_STEP: usize = 256;
/// Rows of change logs that are added to usage rows when usage is asked for; servers keep them far fewer.
pub const QUOTA_TAIL_MAX: usize = 1 << 17;

const _: () = {
    assert!(FEED_SILENT.as_secs() > 3 * FEED_BEAT_EVERY.as_secs());
    assert!(COPIED_DEBTS_MAX <= MAP_ROWS_PER_TX_MAX);
    assert!(PLANNED_MOVES_MAX <= MAP_ROWS_PER_TX_MAX);
    assert!(JOINS_PER_TARGET <= JOINS_PER_SOURCE);
    assert!(MAP_ROWS_PER_STEP_MAX * 4 < MAP_ROWS_PER_TX_MAX);
    assert!(COMMIT_PIECES_MAX * 8 < MAP_ROWS_PER_TX_MAX);
    assert!(COUNTER_RESERVE >= INODES_PER_REQUEST_MAX as u64);
    assert!(PAUSE_MIN.as_millis() > 3 * BEATS_EVERY.as_millis());
    // A holder has long stopped when the first watcher loses patience, and renews several times before it has to stop.
    assert!(DUTY_STOP_AFTER.as_millis() + 2 * BEATS_EVERY.as_millis() < DUTY_SILENT_AFTER.as_millis());
    assert!(DUTY_STOP_AFTER.as_millis() > 3 * BEATS_EVERY.as_millis());
    assert!(DUTY_STOP_AFTER.as_millis() < PAUSE_MIN.as_millis());
    assert!(WATCH_GAP_MAX.as_millis() > 2 * BEATS_EVERY.as_millis());
    assert!(WATCH_GAP_MAX.as_millis() < DUTY_SILENT_AFTER.as_millis());
    // Heard, written down within one beat, looked up within the next.
    assert!(SESSION_BEAT_LAG.as_millis() > 2 * BEATS_EVERY.as_millis());
    assert!(SUSPECT_AFTER.as_millis() > 3 * HEARTBEAT_MS as u128);
    assert!(SUSPECT_AFTER_MIN.as_millis() >= 2 * HEARTBEAT_MS as u128);
};

/// Inodes whose names one page of a check counts in memory.
pub const CHECKED_INODES_MAX: u64 = 1 << 18;

/// Rows, and bytes of rows, that one transaction of loading a dump writes, where the engine takes so many.
pub const LOAD_ROWS_PER_TX: usize = 4096;
/// See [`LOAD_ROWS_PER_TX`].
pub const LOAD_BYTES_PER_TX: usize = 1 << 20;
/// Numbers left out, at least, of every kind when a namespace goes on from a former moment.
pub const NUMBERS_JUMPED: u64 = 1 << 32;
/// As [`NUMBERS_JUMPED`], of kinds with numbers of 32 bits: groups, stores, nodes, metadata servers.
pub const IDS_JUMPED: u64 = 1 << 16;
/// As [`NUMBERS_JUMPED`], of duty epochs and of openings of metadata.
pub const DUTY_EPOCHS_JUMPED: u64 = 1 << 16;
/// Changes of a group that storage nodes may have seen since a backup was taken.
pub const GROUP_EPOCHS_JUMPED: u64 = 1 << 20;

/// Snapshots and holds that there may be at once.
pub const SNAPSHOTS_MAX: usize = 4096;
/// Rows that one step looks at to find what no snapshot needs any more.
pub const TRIM_ROWS_PER_STEP: usize = 256;
/// Rows fetched together to show a directory or a map as a snapshot saw it.
pub const PAST_SCAN_ROWS: usize = 256;
/// Extent rows that one step of a clone takes.
pub const CLONE_ROWS_PER_STEP: usize = 16;
/// Shortest time to live of a hold.
pub const HOLD_TTL_MIN: Duration = Duration::from_secs(1);

/// Rows of a map that are looked at to tell how much of a file with holes is kept.
pub const MEASURED_ROWS_MAX: usize = 256;
/// Entries of a directory that are looked at to count its subdirectories, where that is asked for.
pub const COUNTED_ENTRIES_MAX: usize = 512;
/// The same for all directories of one page of a listing.
pub const COUNTED_ENTRIES_PER_PAGE: usize = 4096;
