//! How an operation ends early inside this crate, and why metadata cannot be opened.

use crate::kv::EngineError;
use crate::rows::RowError;
use cairn_proto::status::{Code, Status};

/// Result of a step of a transaction.
pub(crate) type Op<T> = Result<T, Fault>;

/// Why a step did not go on.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The caller is told so.
    Status(Box<Status>),
    /// The engine said so; a conflict runs the transaction again.
    Engine(EngineError),
}

impl From<EngineError> for Fault {
    fn from(error: EngineError) -> Self {
        Fault::Engine(error)
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Fault::Status(Box::new(status))
    }
}

impl From<RowError> for Fault {
    fn from(error: RowError) -> Self {
        Status::new(Code::Corrupt, format!("metadata: {error}")).into()
    }
}

/// A failure of `code`.
pub(crate) fn fail<T>(code: Code, message: impl Into<String>) -> Op<T> {
    Err(Status::new(code, message).into())
}

/// What the caller is told about an engine that did not do its work.
pub(crate) fn engine_status(error: &EngineError) -> Status {
    match error {
        EngineError::Conflict => Status::new(Code::Overloaded, "too many changes of the same rows").retry_after_ms(10),
        EngineError::TooLarge { .. } | EngineError::RowTooLarge { .. } => {
            Status::new(Code::TooLarge, error.to_string())
        }
        EngineError::Full { .. } => Status::new(Code::NoSpace, error.to_string()),
        EngineError::Unavailable { .. } => Status::new(Code::Unavailable, error.to_string()).retry_after_ms(200),
        EngineError::Failed { .. } => Status::new(Code::Io, error.to_string()),
    }
}

/// Why metadata could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data was written by a newer program.
    #[error("metadata has format version {found}; this program knows versions up to {known}: run the newer program")]
    NewerFormat {
        /// Version of the data.
        found: u32,
        /// Newest version this program reads.
        known: u32,
    },
    /// The cluster runs at a version this program does not know.
    #[error("the cluster is at version {found}; this program knows versions up to {known}: run the newer program")]
    NewerCluster {
        /// Version of the cluster.
        found: u32,
        /// Newest version this program can take part in.
        known: u32,
    },
    /// A dump was being loaded into the engine and is not whole.
    #[error("the engine is half loaded from {from}: load that dump again, it begins anew")]
    Loading {
        /// What was being loaded.
        from: String,
    },
    /// The namespace was moved to another engine.
    #[error("the namespace went to {to}: start the server on that engine")]
    Migrated {
        /// Where to.
        to: String,
    },
    /// The engine holds no namespace.
    #[error("the engine is empty")]
    Empty,
    /// A row that everything starts from is missing or damaged.
    #[error("metadata is damaged: {what}")]
    Damaged {
        /// Which row.
        what: String,
    },
    /// An option contradicts a limit.
    #[error("option {option} = {value} is not allowed: {allowed}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What was given.
        value: u64,
        /// What may be given.
        allowed: &'static str,
    },
    /// The engine did not serve.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A first transaction failed.
    #[error("first transaction failed: {0}")]
    Failed(Status),
}
