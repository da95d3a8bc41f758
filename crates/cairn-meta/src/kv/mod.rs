//! The transactional ordered key-value engine that holds all metadata.
//!
//! The namespace is written once against [`Engine`]; what differs between engines stays behind it. Every engine is
//! *serializable*: a transaction that commits behaves as if it had run alone at its commit, because the point keys and
//! the ranges it read are checked then. An engine knows nothing of inodes or of how keys are made.

#[cfg(feature = "battery")]
pub mod battery;
mod embedded;
mod group;
mod map;
mod occ;
mod overlay;
mod ship;
mod snapshot;
mod stats;
mod window;

pub use embedded::{EmbeddedEngine, EmbeddedOptions};
pub use map::MapEngine;
pub use overlay::{Overlay, Writes, walked};
pub use ship::CommitSink;
pub(crate) use ship::{Write, decode_writes};
pub use snapshot::Snapshot;
pub use stats::CommitCounts;

use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;

/// Keys from `start` (inclusive) to `end` (exclusive), in the order of their bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRange {
    /// First key of the range.
    pub start: Vec<u8>,
    /// First key behind the range.
    pub end: Vec<u8>,
}

impl KeyRange {
    /// Every key that begins with `prefix`.
    ///
    /// # Panics
    /// When `prefix` is empty or consists of 0xff bytes only: no key of ours begins so.
    pub fn prefix(prefix: &[u8]) -> Self {
        let keep = prefix.iter().rposition(|byte| *byte != 0xff).expect("our key tags are below 0xff");
        let mut end = prefix[..=keep].to_vec();
        end[keep] += 1;
        Self { start: prefix.to_vec(), end }
    }

    /// The smallest key behind `key`.
    pub fn successor(key: &[u8]) -> Vec<u8> {
        let mut next = Vec::with_capacity(key.len() + 1);
        next.extend_from_slice(key);
        next.push(0);
        next
    }

    /// True when no key lies in the range.
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }
}

/// From which end a scan walks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Smallest key first.
    Forward,
    /// Largest key first.
    Reverse,
}

/// What has happened when a commit returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// The transaction survives the loss of power.
    Durable,
    /// The transaction is visible; it is on disk within a second.
    Relaxed,
}

/// How a commit ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommitOutcome {
    /// Visible, and durable as asked.
    Done,
    /// Something that was read has changed since: nothing was written, run the transaction again.
    Conflict,
    /// The engine cannot tell whether the transaction was applied.
    Unknown,
}

/// Bounds of one transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Keys written by one transaction.
    pub writes: usize,
    /// Bytes of keys and values written by one transaction.
    pub bytes: usize,
}

/// Why an engine did not do what was asked. None of these leaves anything written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EngineError {
    /// A read could not be served in a consistent order: run the transaction again.
    #[error("the transaction met a conflicting one")]
    Conflict,
    /// The transaction is larger than [`Engine::limits`].
    #[error("the transaction has {writes} writes of {bytes} bytes together, more than the engine takes")]
    TooLarge {
        /// Keys it writes.
        writes: usize,
        /// Bytes it writes.
        bytes: usize,
    },
    /// One row is larger than the engine takes.
    #[error("a key and its value have {bytes} bytes together, and the engine takes {max}")]
    RowTooLarge {
        /// Bytes of the row.
        bytes: usize,
        /// Bytes a row may have.
        max: usize,
    },
    /// The engine does not answer now; it may later.
    #[error("the engine is not available: {cause}")]
    Unavailable {
        /// What the engine said.
        cause: String,
    },
    /// The engine has no room for what was to be written. Removing may still work; an operator has to make room.
    #[error("the engine is full: {cause}")]
    Full {
        /// What the engine said, and what to do.
        cause: String,
    },
    /// The engine is broken or closed. The process has to be started again; asking again does not help.
    #[error("the engine has failed: {cause}")]
    Failed {
        /// What happened first.
        cause: String,
    },
}

/// A transactional ordered key-value store.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Begins a transaction at a snapshot that holds every transaction committed before this call.
    async fn begin(&self) -> Result<Box<dyn Txn>, EngineError>;

    /// All rows as they are now, for a long reading. It holds every transaction committed before this call.
    ///
    /// An engine overrides this where a transaction would remember what it read.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, EngineError> {
        Ok(Box::new(snapshot::TxnSnapshot(self.begin().await?)))
    }

    /// Has every group of commits from now on handed to `sink`, once in the life of this engine. False for engines that
    /// keep several copies by themselves: nothing is handed on.
    fn ship_to(&self, sink: Arc<dyn CommitSink>) -> bool {
        drop(sink);
        false
    }

    /// Bounds of one transaction.
    fn limits(&self) -> Limits;

    /// What operators call it: `embedded`, `map`, ...
    fn name(&self) -> &'static str;

    /// Why nothing new should be made now, with what to do about it: the engine is about to be full. Removing goes on.
    fn pressure(&self) -> Option<String> {
        None
    }

    /// What the engine's committer has done so far; all zero where the engine has none in this process.
    fn commits(&self) -> CommitCounts {
        CommitCounts::default()
    }
}

/// One transaction. Its reads see the snapshot and its own writes. Dropped without commit, it leaves nothing.
#[async_trait]
pub trait Txn: Send {
    /// The value of `key`. The commit conflicts if another transaction writes the key meanwhile.
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// As [`Txn::get`] of every key, in the order asked.
    async fn get_many(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, EngineError>;

    /// At most `limit` rows of `range`, in `order`. The commit conflicts if another transaction writes, adds or removes
    /// a row in the part of the range that was walked.
    async fn scan(&mut self, range: &KeyRange, limit: usize, order: Order) -> Result<Vec<(Bytes, Bytes)>, EngineError>;

    /// The value of `key`, which may change before the commit without a conflict.
    async fn read_unvalidated(&mut self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Writes `value` at `key` when the transaction commits.
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>);

    /// Removes `key` when the transaction commits; it need not exist.
    fn delete(&mut self, key: Vec<u8>);

    /// Ends the transaction. One that wrote nothing is always [`CommitOutcome::Done`]: it read one snapshot.
    ///
    /// Cancelled, the transaction may still be applied, whole.
    async fn commit(self: Box<Self>, durability: Durability) -> Result<CommitOutcome, EngineError>;
}
