//! What a failure is in the words of a Unix kernel: one errno for each cause, for faces that answer system calls.

use crate::error::{Cause, Error, FailureClass, NodeFailure};
use cairn_proto::status::Code;
use rustix::io::Errno;

impl Error {
    /// The errno (errno(3)) that a system call fails with for this reason. Whoever asks `kind` decides what to do; this is
    /// only how it is told to programs that know files:
    ///
    /// - what Linux defines for the call is that: `ENOENT`, `EEXIST`, `EXDEV`, `ENODATA`, `EDQUOT`, ...;
    /// - servers that could not be reached in time: `ETIMEDOUT`. It may be tried again;
    /// - a session that has ended: `ESTALE`, as for a handle that NFS no longer knows. The file must be opened again;
    /// - bytes that are lost, outcomes that could not be found out, defects: `EIO`.
    ///
    /// Always positive; never `EAGAIN` but for a lock that is taken, since programs wait for that with `poll`.
    pub fn errno(&self) -> i32 {
        errno_of(self.cause(), self.operation()).raw_os_error()
    }
}

fn errno_of(cause: &Cause, operation: &str) -> Errno {
    match cause {
        Cause::Quorum(quorum) if all(&quorum.failed, &[FailureClass::NoSpace]) && quorum.pending.is_empty() => {
            Errno::NOSPC
        }
        Cause::Quorum(_) | Cause::Metadata(_) | Cause::Node(_) | Cause::Deadline(_) => Errno::TIMEDOUT,
        Cause::AllReplicas { failures, .. } if all(failures, &[FailureClass::Corrupt, FailureClass::NotFound]) => {
            Errno::IO
        }
        Cause::AllReplicas { .. } => Errno::TIMEDOUT,
        Cause::Indeterminate { .. } => Errno::IO,
        Cause::Fenced(_) => Errno::STALE,
        Cause::TooLarge { .. } => Errno::FBIG,
        Cause::Invalid(_) => Errno::INVAL,
        Cause::NoGroup(_) => Errno::NOSPC,
        Cause::Status(status) => errno_of_code(status.code, operation),
    }
}

/// There are failures, and each is of one of these classes.
fn all(failures: &[NodeFailure], classes: &[FailureClass]) -> bool {
    !failures.is_empty() && failures.iter().all(|failure| classes.contains(&failure.class))
}

fn errno_of_code(code: Code, operation: &str) -> Errno {
    match code {
        Code::NotFound => Errno::NOENT,
        Code::Exists => Errno::EXIST,
        Code::NotADirectory => Errno::NOTDIR,
        Code::IsADirectory => Errno::ISDIR,
        Code::NotEmpty => Errno::NOTEMPTY,
        Code::NameTooLong => Errno::NAMETOOLONG,
        Code::TooManySymlinks => Errno::LOOP,
        Code::Invalid => Errno::INVAL,
        // setxattr(2), fcntl(2); elsewhere it is the length of a file.
        Code::TooLarge => match operation {
            "set_xattr" => Errno::TOOBIG,
            "lock" | "try_lock" | "unlock" | "set_lock" => Errno::NOLCK,
            _ => Errno::FBIG,
        },
        Code::AttributesFull => Errno::NOSPC,
        Code::Permission => Errno::ACCESS,
        Code::NotPermitted => Errno::PERM,
        Code::NoSpace => Errno::NOSPC,
        Code::QuotaExceeded => Errno::DQUOT,
        Code::Deadline | Code::Cancelled | Code::Unavailable | Code::Overloaded | Code::StaleEpoch | Code::NoQuorum => {
            Errno::TIMEDOUT
        }
        Code::Fenced | Code::StaleSeq | Code::CursorTooOld => Errno::STALE,
        Code::Conflict => Errno::BUSY,
        Code::CrossDevice => Errno::XDEV,
        Code::TooManyLinks => Errno::MLINK,
        Code::NoAttribute => Errno::NODATA,
        Code::Locked => Errno::AGAIN,
        Code::Deadlock => Errno::DEADLK,
        Code::ReadOnly => Errno::ROFS,
        Code::Unsupported => Errno::OPNOTSUPP,
        Code::Corrupt
        | Code::BlockNotFound
        | Code::BlockConflict
        | Code::WrongPeer
        | Code::WrongCluster
        | Code::NotInline
        | Code::Io
        | Code::OutcomeUnknown
        | Code::Aborted
        | Code::Internal
        | Code::Ok => Errno::IO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{QuorumError, Sent};
    use cairn_proto::status::Status;
    use cairn_proto::{BlockId, BlockSeq, InodeId, NodeId, OpId, PgId, SessionId, WriterId};
    use std::time::Duration;

    fn failure(class: FailureClass) -> NodeFailure {
        NodeFailure {
            node: NodeId(1),
            addr: String::new(),
            op: "put",
            class,
            sent: Sent::Responded,
            attempts: 1,
            first: Duration::ZERO,
            last: Duration::ZERO,
            message: String::new(),
            source: None,
        }
    }

    fn block() -> BlockId {
        BlockId { inode: InodeId(1), writer: WriterId(1), seq: BlockSeq(0) }
    }

    fn quorum(failed: &[FailureClass], pending: &[NodeId]) -> Cause {
        Cause::Quorum(QuorumError {
            block: block(),
            pg: PgId(1),
            needed: 2,
            acked: Vec::new(),
            failed: failed.iter().map(|class| failure(*class)).collect(),
            pending: pending.to_vec(),
            elapsed: Duration::ZERO,
        })
    }

    fn replicas(failures: &[FailureClass]) -> Cause {
        Cause::AllReplicas { block: block(), failures: failures.iter().map(|class| failure(*class)).collect() }
    }

    fn status(code: Code) -> Cause {
        Cause::Status(Status::new(code, ""))
    }

    /// The numbers are those of Linux on x86-64 and arm64 (asm-generic/errno.h), not those of whatever names them.
    #[test]
    fn each_cause_is_the_errno_that_linux_has_for_it() {
        use FailureClass::{Connect, Corrupt, NoSpace, NotFound};
        let op = OpId { session: SessionId(1), epoch: 1, slot: 0, seq: 1 };
        let table: &[(Cause, &'static str, i32)] = &[
            (quorum(&[NoSpace, NoSpace], &[]), "write", 28),
            (quorum(&[NoSpace, NoSpace], &[NodeId(3)]), "write", 110),
            (quorum(&[NoSpace, Connect], &[]), "write", 110),
            (quorum(&[], &[]), "write", 110),
            (replicas(&[Corrupt, NotFound]), "read", 5),
            (replicas(&[Corrupt, Connect]), "read", 110),
            (replicas(&[]), "read", 110),
            (Cause::Metadata(Vec::new()), "stat", 110),
            (Cause::Node(failure(Connect)), "ping", 110),
            (Cause::Indeterminate { op, failures: Vec::new() }, "rename", 5),
            (Cause::Fenced(String::new()), "write", 116),
            (Cause::Deadline(Duration::from_secs(1)), "read", 110),
            (Cause::TooLarge { len: 2, max: 1 }, "write", 27),
            (Cause::Invalid(String::new()), "open", 22),
            (Cause::NoGroup(String::new()), "write", 28),
            (status(Code::Ok), "stat", 5),
            (status(Code::NotFound), "stat", 2),
            (status(Code::Exists), "create", 17),
            (status(Code::NotADirectory), "stat", 20),
            (status(Code::IsADirectory), "open", 21),
            (status(Code::NotEmpty), "remove", 39),
            (status(Code::NameTooLong), "create", 36),
            (status(Code::TooManySymlinks), "stat", 40),
            (status(Code::Invalid), "open", 22),
            (status(Code::TooLarge), "truncate", 27),
            (status(Code::TooLarge), "set_xattr", 7),
            (status(Code::TooLarge), "lock", 37),
            (status(Code::Permission), "open", 13),
            (status(Code::NoSpace), "write", 28),
            (status(Code::Overloaded), "stat", 110),
            (status(Code::Deadline), "stat", 110),
            (status(Code::StaleEpoch), "write", 110),
            (status(Code::Fenced), "write", 116),
            (status(Code::StaleSeq), "write", 116),
            (status(Code::Conflict), "write", 16),
            (status(Code::Corrupt), "read", 5),
            (status(Code::BlockNotFound), "read", 5),
            (status(Code::BlockConflict), "write", 5),
            (status(Code::WrongPeer), "stat", 5),
            (status(Code::WrongCluster), "stat", 5),
            (status(Code::NotInline), "write", 5),
            (status(Code::Io), "write", 5),
            (status(Code::Unavailable), "stat", 110),
            (status(Code::Unsupported), "allocate", 95),
            (status(Code::OutcomeUnknown), "rename", 5),
            (status(Code::Cancelled), "stat", 110),
            (status(Code::Internal), "stat", 5),
            (status(Code::NoQuorum), "write", 110),
            (status(Code::CrossDevice), "rename", 18),
            (status(Code::TooManyLinks), "link", 31),
            (status(Code::NoAttribute), "xattr", 61),
            (status(Code::NotPermitted), "chown", 1),
            (status(Code::AttributesFull), "set_xattr", 28),
            (status(Code::Locked), "lock", 11),
            (status(Code::Deadlock), "lock", 35),
            (status(Code::ReadOnly), "write", 30),
            (status(Code::CursorTooOld), "watch", 116),
            (status(Code::QuotaExceeded), "write", 122),
            (status(Code::Aborted), "rename", 5),
        ];
        for (cause, operation, errno) in table {
            let error = Error::new(operation, cause.clone());
            assert_eq!(error.errno(), *errno, "{operation}: {cause:?}");
        }
        let codes = (0..1000).filter_map(|number| Code::try_from(number).ok());
        for code in codes {
            let listed = table.iter().any(|(cause, ..)| matches!(cause, Cause::Status(status) if status.code == code));
            assert!(listed, "{code:?} is not in the table");
        }
    }
}
