//! The CairnFS client: shared, replicated files with an ordinary file API.
//!
//! ```no_run
//! use cairn_client::DfsClient;
//!
//! # async fn example() -> Result<(), cairn_client::Error> {
//! let client = DfsClient::new("127.0.0.1:9000").await?;
//! let file = client.open("/file.txt").await?;
//! file.write_block(0, b"hello").await?; // to all replicas in parallel; returns once a majority holds it durably
//! let data = file.read_block(0).await?; // from any replica, verified
//! assert_eq!(&data[..], b"hello");
//! let stats = client.get_connection_stats().await;
//! println!("{} requests, {} failed", stats.total_requests, stats.failed_requests);
//! # Ok(()) }
//! ```
//!
//! How a request travels: [`file`] -> `write`/`read` -> `policy` (pure decisions) -> `cluster` (which node) ->
//! `cairn-net` (connections). What a node or a metadata server does with it is none of this crate's business.

mod admin;
mod append;
mod atomic;
mod block_cache;
mod by_inode;
mod caller;
mod client;
mod clone;
mod cluster;
mod content;
mod errno;
mod error;
mod extents;
mod file;
mod health;
mod hold;
mod late;
mod lock_claims;
mod locks;
mod metrics;
mod namespace;
mod node;
mod nodes;
mod options;
mod ping;
mod pipeline;
mod place;
mod policy;
mod quota;
mod ranges;
mod read;
mod record;
mod rpc;
mod scatter;
mod session;
mod snapshots;
mod stats;
mod status;
mod storage_policy;
mod stream;
mod sync;
mod trace;
mod trash;
mod watch;
mod write;
mod xattrs;

pub use admin::{
    Admin, BlockRun, Change, ClusterMap, Cursor, DegradedPage, DegradedRun, Dump, DumpPiece, EndangeredGroup, HeldDump,
    InventoryPage, LedgerEntry, LedgerPage, MapGroup, MapStore, MemberState, Move, PlacedRun, Plan, RowFinding,
    RowPage, RunKind, RunPage, Software, StoreScrub, Subject, Task, TaskKind, TaskState, UpgradeStatus, Verdict,
};
pub use atomic::AtomicFile;
pub use block_cache::{BlockCache, BlockCacheStats, CacheFuture, CachedChunk, ChunkKey};
pub use by_inode::Looked;
/// Identity of a block: inode, writer, number.
pub use cairn_proto::BlockId;
/// Number of a storage node; 0 stands for a metadata server in what this library tells.
pub use cairn_proto::NodeId;
/// Access control lists as POSIX has them, as values.
pub use cairn_proto::acl;
pub use caller::Credentials;
pub use client::{DfsClient, DfsClientBuilder};
pub use content::Content;
pub use error::{Cause, Error, ErrorKind, FailureClass, NodeFailure, QuorumError, Sent};
pub use file::File;
pub use hold::Hold;
pub use locks::{LockGuard, LockInfo, LockKind, LockMode};
pub use namespace::{DirEntry, FileKind, Metadata, ReadDir};
pub use nodes::{FsRoom, NodeKind, RenameMode, Rights, Symlinks};
pub use options::{Consistency, CreateOptions, OpenOptions, ReadOptions, SetAttributes, SetTime};
pub use ping::{NodePing, PingAnswer};
pub use place::Place;
pub use policy::breaker::{BreakerState, OpenReason};
pub use policy::rounds::RetryPolicy;
pub use quota::{Quota, QuotaChange};
pub use record::{LegRecord, Record, ReplicaScore};
pub use scatter::{Committed, Scatter};
pub use snapshots::Snapshot;
pub use stats::{
    AttemptStats, BreakerStats, BreakerTransition, BudgetStats, ClassStats, ConnectionStats, ErrorRecord, HedgeStats,
    LaneCounts, LegLatency, LegStats, NodeConnectionStats, OpStats, ParkingStats, PoolStats, Quantiles, WriteStats,
};
pub use status::{
    ClusterStatus, Defect, GroupStatus, LogTarget, MemberStatus, MetaServerStatus, NodeStatus, StoreStatus,
};
pub use storage_policy::PolicyChange;
pub use stream::{FileReader, FileWriter};
pub use trash::TrashEntry;
pub use watch::{Changes, NoCursor, WatchCursor, WatchOptions, WatchedChange, WatchedKind};
pub use write::WriteReceipt;
pub use xattrs::{AclKind, XattrMode};

const _: () = {
    const fn shareable<T: Clone + Send + Sync + 'static>() {}
    shareable::<DfsClient>();
    shareable::<File>();
    shareable::<Error>();
};
