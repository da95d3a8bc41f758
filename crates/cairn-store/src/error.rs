//! Errors: one small enum per operation, built from shared one-failure structs.

use crate::format::{BlockKey, Cause, Fault};
use std::io;
use std::sync::Arc;
use thiserror::Error;

/// What the caller should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Try again after a pause.
    Retry,
    /// Use another replica; this one is to be repaired.
    Repair,
    /// Free space or use another store.
    FreeSpace,
    /// The call itself is wrong.
    FixCall,
    /// This store takes no writes until it is reopened.
    GiveUpStore,
    /// The block is not here.
    NotFound,
}

/// The queue is full; nothing was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("store is overloaded: {requests} requests and {bytes} bytes wait")]
pub struct Overloaded {
    /// Requests without completion.
    pub requests: usize,
    /// Payload bytes waiting to be written.
    pub bytes: usize,
}

/// The disk, or the store's share of it, is full up to the reserve; nothing was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no space: {needed} bytes needed, {free} free above the reserve")]
pub struct NoSpace {
    /// Bytes the record would take.
    pub needed: u64,
    /// Bytes that are free above the reserve.
    pub free: u64,
}

/// The id is taken by other content; nothing was stored. Ids are never written with two contents, so somebody's
/// block is in the wrong place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("block {key} is already stored with other content")]
pub struct Conflict {
    /// The key.
    pub key: BlockKey,
}

/// A write or fsync failed earlier, so nothing is known of what the disk holds behind the last sync. Reads go on;
/// writes are refused until the store is reopened.
#[derive(Clone, Debug, Error)]
#[error("store is poisoned by an earlier failure to {action}")]
pub struct Poisoned {
    /// What failed.
    pub action: &'static str,
    /// Why.
    #[source]
    pub source: Arc<io::Error>,
}

/// The store was closed; nothing was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("store is closed")]
pub struct Closed;

/// Nobody waited for the request any more when its turn came; nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("nobody waits for this any more")]
pub struct Abandoned;

/// The call breaks a rule of the interface; nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Invalid {
    /// Longer than [`cairn_proto::limits::BLOCK_LEN_MAX`].
    #[error("block of {len} bytes is too long")]
    BlockLen {
        /// Its length.
        len: u64,
    },
    /// Not one checksum per chunk.
    #[error("{count} checksums for {len} bytes")]
    ChecksumCount {
        /// Checksums given.
        count: usize,
        /// Bytes given.
        len: u64,
    },
    /// More than [`cairn_proto::limits::BLOCKS_PER_REQUEST_MAX`] keys.
    #[error("{count} blocks in one request")]
    KeyCount {
        /// Keys given.
        count: usize,
    },
}

/// Why a put stored nothing, or is not known to have.
#[derive(Clone, Debug, Error)]
pub enum PutError {
    /// See [`Overloaded`].
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    /// See [`NoSpace`].
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
    /// See [`Conflict`].
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The content is not what the checksums say; nothing was stored.
    #[error("chunk {chunk} of block {key} does not match its checksum")]
    ChecksumMismatch {
        /// The key.
        key: BlockKey,
        /// First chunk that differs.
        chunk: u32,
    },
    /// See [`Invalid`].
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// See [`Poisoned`]. Whether the block will be there after reopening is unknown.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    /// See [`Abandoned`].
    #[error(transparent)]
    Abandoned(#[from] Abandoned),
    /// See [`Closed`].
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl PutError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Overloaded(_) | Self::Abandoned(_) => ErrorKind::Retry,
            Self::NoSpace(_) => ErrorKind::FreeSpace,
            Self::Conflict(_) | Self::ChecksumMismatch { .. } | Self::Invalid(_) => ErrorKind::FixCall,
            Self::Poisoned(_) | Self::Closed(_) => ErrorKind::GiveUpStore,
        }
    }
}

/// Why a sync failed: which of the named blocks are durable is unknown.
#[derive(Clone, Debug, Error)]
pub enum SyncError {
    /// See [`Overloaded`].
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    /// See [`Invalid`].
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// See [`Poisoned`].
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    /// See [`Abandoned`].
    #[error(transparent)]
    Abandoned(#[from] Abandoned),
    /// See [`Closed`].
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl SyncError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Overloaded(_) | Self::Abandoned(_) => ErrorKind::Retry,
            Self::Invalid(_) => ErrorKind::FixCall,
            Self::Poisoned(_) | Self::Closed(_) => ErrorKind::GiveUpStore,
        }
    }
}

/// Why a delete is not known to be durable.
#[derive(Clone, Debug, Error)]
pub enum DeleteError {
    /// See [`Overloaded`]; nothing was deleted.
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    /// The disk is so full that not even a tombstone fits; some of the named blocks may be deleted.
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
    /// See [`Invalid`].
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// See [`Poisoned`]; the blocks may come back when the store is reopened.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    /// See [`Closed`].
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl DeleteError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Overloaded(_) => ErrorKind::Retry,
            Self::NoSpace(_) => ErrorKind::FreeSpace,
            Self::Invalid(_) => ErrorKind::FixCall,
            Self::Poisoned(_) | Self::Closed(_) => ErrorKind::GiveUpStore,
        }
    }
}

/// Why a block could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The store does not hold it.
    #[error("block {key} is not here")]
    NotFound {
        /// The key.
        key: BlockKey,
    },
    /// It is known to be damaged, and is never served.
    #[error("block {key} is quarantined: {cause}")]
    Quarantined {
        /// The key.
        key: BlockKey,
        /// Why.
        cause: Cause,
    },
    /// It was just found to be damaged, and is quarantined from now on.
    #[error("block {key} is damaged: {cause}{}", chunk.map(|chunk| format!(" in chunk {chunk}")).unwrap_or_default())]
    Corrupt {
        /// The key.
        key: BlockKey,
        /// What is damaged.
        cause: Cause,
        /// First bad chunk, when the payload is.
        chunk: Option<u32>,
    },
    /// The operating system could not read it. Nothing was changed.
    #[error("cannot read block {key}")]
    Io {
        /// The key.
        key: BlockKey,
        /// Why.
        source: io::Error,
    },
}

impl ReadError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Quarantined { .. } | Self::Corrupt { .. } | Self::Io { .. } => ErrorKind::Repair,
        }
    }
}

/// Why a store could not be opened. Nothing was changed but what the variant says.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error("cannot {action} {name}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// File or directory, relative to the store.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A file is of a version that this program does not know: use a newer program.
    #[error("{name} has format version {version}, this program knows {known}")]
    Version {
        /// The file.
        name: String,
        /// Its version.
        version: u32,
        /// The version this program knows.
        known: u32,
    },
    /// The identity file is damaged and no segment tells whose store this is.
    #[error("{name} is damaged ({fault}) and no segment names the store")]
    Identity {
        /// The file.
        name: String,
        /// What is wrong with it.
        fault: Fault,
    },
    /// The identity file is damaged and the segments name several stores: somebody copied files together.
    #[error("segments of several stores lie in one directory and {name} does not say which it is")]
    Mixed {
        /// The identity file.
        name: String,
    },
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread {
        /// Why.
        source: io::Error,
    },
}
