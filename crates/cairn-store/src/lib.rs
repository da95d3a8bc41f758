//! Blocks on one disk: append-only segments, an index in memory, one writer, group commit. Synchronous throughout.
//!
//! The path of a put: [`Store::put`] (checks, queue) -> `append.rs` (one vectored write for all that waits) ->
//! `sync.rs` (one fdatasync for all that asked) -> the caller's completion. Opening reads `recover.rs`, which applies
//! records to the same `catalog.rs` that the live path uses. Space comes back through `maintain.rs`: dead payloads, and
//! mostly empty segments that `compact.rs` empties. On-disk structs: `format/`, described byte by byte in
//! docs/formats/disk.md.
//!
//! This crate must never see a socket, metadata or an async runtime. All access to the operating system goes through
//! [`Disk`].

mod append;
mod catalog;
mod checkpoint;
mod compact;
mod counters;
mod digest;
mod disk;
mod error;
pub mod format;
mod index;
pub mod inspect;
pub mod limits;
mod maintain;
mod options;
mod probe;
mod queue;
mod reach;
mod read;
mod reclaim;
mod recover;
mod recycled;
mod relocate;
mod report;
mod scan;
mod scrub;
mod segments;
mod space;
mod store;
mod sync;
mod table;

pub use counters::StoreCounts;
pub use digest::{ComparedWriters, GroupUse, PartDigest, block_hash, part_of};
pub use disk::{Disk, DiskFile, DiskSpace, OpenDiskError, OsFile, RealDisk};
pub use error::{
    Abandoned, Closed, Conflict, DeleteError, ErrorKind, Invalid, NoSpace, OpenError, Overloaded, Poisoned, PutError,
    ReadError, SyncError,
};
pub use format::{BlockKey, Cause};
pub use options::{Execution, StoreOptions};
pub use read::StoredBlock;
pub use report::{OpenReport, SkippedRegion};
pub use scrub::{LogPosition, ScrubItem, Scrubbed, Stretch};
pub use store::{BlockInfo, DeleteAck, Durability, Put, PutAck, QuarantinedBlock, Store, SyncAck, Usage};
