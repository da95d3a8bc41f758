//! What a store's errors say to a caller: one exhaustive match per operation.

use super::slot::explain;
use crate::gate::millis;
use cairn_proto::status::{Code, Status};
use cairn_store::{Cause, Closed, DeleteError, PutError, ReadError, SyncError};
use std::error::Error;
use std::time::Duration;

fn overloaded(error: &dyn Error, retry_after: Duration) -> Status {
    Status::new(Code::Overloaded, explain(error)).retry_after_ms(millis(retry_after))
}

pub(crate) fn of_put(error: &PutError, retry_after: Duration) -> Status {
    let code = match error {
        PutError::Overloaded(_) => return overloaded(error, retry_after),
        PutError::NoSpace(_) => Code::NoSpace,
        PutError::Conflict(_) => Code::BlockConflict,
        PutError::ChecksumMismatch { .. } => Code::Corrupt,
        PutError::Invalid(_) => Code::Invalid,
        PutError::Poisoned(_) => Code::Io,
        PutError::Abandoned(_) => Code::Deadline,
        PutError::Closed(_) => Code::Unavailable,
    };
    Status::new(code, explain(error))
}

pub(crate) fn of_sync(error: &SyncError, retry_after: Duration) -> Status {
    let code = match error {
        SyncError::Overloaded(_) => return overloaded(error, retry_after),
        SyncError::Invalid(_) => Code::Invalid,
        SyncError::Poisoned(_) => Code::Io,
        SyncError::Abandoned(_) => Code::Deadline,
        SyncError::Closed(_) => Code::Unavailable,
    };
    Status::new(code, explain(error))
}

pub(crate) fn of_delete(error: &DeleteError, retry_after: Duration) -> Status {
    let code = match error {
        DeleteError::Overloaded(_) => return overloaded(error, retry_after),
        DeleteError::NoSpace(_) => Code::NoSpace,
        DeleteError::Invalid(_) => Code::Invalid,
        DeleteError::Poisoned(_) => Code::Io,
        DeleteError::Closed(_) => Code::Unavailable,
    };
    Status::new(code, explain(error))
}

/// A block torn by a crash was most likely never acknowledged: to others it is as if it had never arrived, or members
/// that all crashed at once would wait for each other's copy for ever.
pub(crate) fn of_read(error: &ReadError) -> Status {
    let code = match error {
        ReadError::NotFound { .. } | ReadError::Quarantined { cause: Cause::Torn, .. } => Code::BlockNotFound,
        ReadError::Quarantined { .. } | ReadError::Corrupt { .. } => Code::Corrupt,
        ReadError::Io { .. } => Code::Io,
    };
    Status::new(code, explain(error))
}

pub(crate) fn of_closed(error: &Closed) -> Status {
    Status::new(Code::Unavailable, explain(error))
}
