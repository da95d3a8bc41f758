//! Every bound of this crate, with the relations between them checked at compile time.

use cairn_meta::kv::Limits;
use std::time::Duration;

// ---------------------------------------------------------------- both

/// What one transaction may write: more than any engine here takes in one request, which stays behind the engine.
pub const TXN_LIMITS: Limits = Limits { writes: 64 * 1024, bytes: 32 * 1024 * 1024 };
/// Time to reach a server.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

// ---------------------------------------------------------------- PostgreSQL

/// Connections of one process, the committer's included.
pub const PG_CONNECTIONS_MAX: usize = 32;
/// Time that a transaction waits for a connection.
pub const PG_POOL_WAIT: Duration = Duration::from_secs(5);
/// Time one statement may take before the connection is given up.
pub const PG_STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);
/// Data that was sent and is not acknowledged for so long ends a connection.
pub const PG_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Transactions committed as one at most.
pub const PG_GROUP_JOBS_MAX: usize = 128;
/// Bytes written by transactions that are committed as one, unless a single one has more.
pub const PG_GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Transactions that wait for the committer; further ones wait before it.
pub const PG_QUEUE_MAX: usize = 1024;
/// Times that a group is tried again when another server's transactions got in its way.
pub const PG_GROUP_ATTEMPTS_MAX: u32 = 12;
/// Pause before such a try, at first; doubles.
pub const PG_GROUP_PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));
/// Statements sent ahead of their answers.
pub const PG_PIPELINE: usize = 256;

// ---------------------------------------------------------------- etcd

/// Comparisons, and operations, of one etcd transaction. Its own limit is 128 of each, where no flag says otherwise.
pub const ETCD_OPS_MAX: usize = 120;
/// Bytes of one request. etcd's own limit is 1.5 MiB, where no flag says otherwise.
pub const ETCD_REQUEST_BYTES_MAX: usize = 1280 * 1024;
/// Bytes of a key and its value together: they have to fit into one request.
pub const ETCD_ROW_BYTES_MAX: usize = ETCD_REQUEST_BYTES_MAX - 16 * 1024;
/// Bytes of an answer.
pub const ETCD_ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Rows asked for by one request.
pub const ETCD_PAGE: usize = 512;
/// Rows asked for by one request of a scan from the end.
pub const ETCD_REVERSE_PAGE: usize = 64;
/// Requests of one transaction under way at once.
pub const ETCD_PARALLEL: usize = 4;
/// Time one try of a request that may be repeated may take.
pub const ETCD_TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for all tries of such a request: an election has room in it.
pub const ETCD_CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time the one try of a commit may take.
pub const ETCD_COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after every member failed, at first; doubles.
pub const ETCD_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// A connection that stands still is asked this often whether it lives.
pub const ETCD_KEEPALIVE: Duration = Duration::from_secs(5);
/// Time for the answer to that.
pub const ETCD_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// A big transaction that was prepared and has not moved for this long is given up for its owner.
pub const ETCD_PREPARED_MAX: Duration = Duration::from_secs(5);
/// Pause between looks at a big transaction that others wait for, at first; doubles.
pub const ETCD_PENDING_POLL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// Time that a commit waits for big transactions of others.
pub const ETCD_PENDING_WAIT: Duration = Duration::from_secs(15);
/// How often the size of the database is looked at.
pub const ETCD_LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often tombstones are swept and history is compacted.
pub const ETCD_SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Tombstones younger than this stay, so that transactions under way do not meet the sweep.
pub const ETCD_TOMBSTONE_AGE: Duration = Duration::from_secs(30);
/// Tombstones that one sweep removes.
pub const ETCD_SWEEP_MAX: usize = 50_000;
/// History is kept this long: a transaction that reads at an older snapshot conflicts.
pub const ETCD_HISTORY: Duration = Duration::from_secs(300);
/// Chunks of a big transaction that was never prepared are swept after this long.
pub const ETCD_ORPHAN_AGE: Duration = Duration::from_secs(600);
/// Quota of the database where the URL names none: etcd's own default.
pub const ETCD_QUOTA_DEFAULT: u64 = 2 << 30;
/// Percent of the quota at which nothing new is made.
pub const ETCD_FULL_PERCENT: u64 = 90;
/// Bytes of the prefix in the URL.
pub const ETCD_PREFIX_MAX: usize = 128;

const _: () = {
    assert!(ETCD_OPS_MAX <= 128);
    assert!(ETCD_REQUEST_BYTES_MAX < 1536 * 1024);
    assert!(ETCD_ROW_BYTES_MAX > 1024 * 1024);
    assert!(ETCD_PAGE >= ETCD_REVERSE_PAGE);
    assert!(ETCD_ANSWER_BYTES_MAX > 2 * ETCD_REVERSE_PAGE * ETCD_ROW_BYTES_MAX / 2);
    assert!(ETCD_TOMBSTONE_AGE.as_secs() < ETCD_HISTORY.as_secs());
    assert!(ETCD_PENDING_WAIT.as_secs() > 2 * ETCD_PREPARED_MAX.as_secs());
    assert!(PG_GROUP_BYTES_MAX <= TXN_LIMITS.bytes);
};
