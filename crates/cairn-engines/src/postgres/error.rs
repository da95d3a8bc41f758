//! What errors of the server mean.

use crate::OpenError;
use cairn_meta::kv::EngineError;
use std::error::Error as _;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

/// The words of an error, with those of the server where it said any.
pub(super) fn words(error: &Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(said), _) => format!("{} (SQLSTATE {})", said.message(), said.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// The server gave up one of two transactions that got in each other's way; nothing of this one happened.
pub(super) fn is_conflict(error: &Error) -> bool {
    matches!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED))
}

/// The connection ended, or the server was about to end it: whether the statement was carried out is open.
pub(super) fn is_lost(error: &Error) -> bool {
    match error.code() {
        // A rollback that comes with a code of its own is certain, others of class 40 are not.
        Some(code) => {
            code.code().starts_with("57")
                || code.code().starts_with("08")
                || *code == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
        }
        None => true,
    }
}

/// What a failed statement means to a transaction of which nothing was committed.
pub(super) fn failed(error: &Error) -> EngineError {
    let cause = words(error);
    match error.code() {
        _ if is_conflict(error) => EngineError::Conflict,
        Some(&SqlState::DISK_FULL) => EngineError::Full { cause },
        // The table is gone or not ours any more, or the server does not know our SQL.
        Some(code) if code.code().starts_with("42") => EngineError::Failed { cause },
        _ => EngineError::Unavailable { cause },
    }
}

/// What an error at the opening means.
pub(super) fn opening(error: &Error) -> OpenError {
    let cause = format!("PostgreSQL: {}", words(error));
    let never = match error.code() {
        // Who we are is refused; no such database; not allowed, or SQL it does not know.
        Some(code) => ["28", "3D", "42", "0A"].iter().any(|class| code.code().starts_with(class)),
        // What is no word from the network is a word about our settings.
        None => !error.is_closed() && !error.source().is_some_and(|source| source.is::<std::io::Error>()),
    };
    if never { OpenError::Never { cause } } else { OpenError::Away { cause } }
}
