//! Typed errors: what was asked of which path, why it failed, what the caller can do.

use cairn_proto::status::{Code, Status};
use cairn_proto::{BlockId, NodeId, OpId, PgId};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What the caller should do about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ErrorKind {
    /// The path does not exist.
    NotFound,
    /// The path exists already.
    AlreadyExists,
    /// A component of the path is not a directory.
    NotADirectory,
    /// The operation does not work on a directory.
    IsADirectory,
    /// The directory still has entries.
    DirectoryNotEmpty,
    /// Fix the call: an argument contradicts a limit or another one.
    InvalidInput,
    /// The caller may not do this.
    PermissionDenied,
    /// The file has as many names as one may have.
    TooManyLinks,
    /// There is no extended attribute of that name.
    NoAttribute,
    /// The two places count against different quotas: copy instead.
    CrossDevice,
    /// It lies in a snapshot, where nothing can be changed. Copy it out of there.
    ReadOnly,
    /// Free space or add nodes.
    NoSpace,
    /// A quota of a directory above has no room: remove something below it, or ask for more.
    QuotaExceeded,
    /// Too long ago: look at everything anew and start without a cursor.
    CursorTooOld,
    /// Servers could not be reached or were too busy; nothing was changed. Try again later.
    Unavailable,
    /// The operation's deadline passed; a read changed nothing, a write is not visible.
    Deadline,
    /// It could not be found out whether the mutation happened. Look before doing it again.
    Indeterminate,
    /// The session is gone; writes that had not returned are not visible. Open the file again.
    Fenced,
    /// A precondition on the version did not hold. Read again, decide again.
    Conflict,
    /// Another owner holds a lock that this one would contradict. Wait for it, or do without.
    Locked,
    /// The lock's holder waits for one of the caller's: give that back first.
    Deadlock,
    /// No replica has good bytes. Restore from a backup.
    Corrupt,
    /// More bytes than a block or a response may have.
    TooLarge,
    /// A server does not know this operation.
    Unsupported,
    /// A defect: please report it.
    Other,
}

impl ErrorKind {
    /// Name for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::NotADirectory => "not_a_directory",
            Self::IsADirectory => "is_a_directory",
            Self::DirectoryNotEmpty => "directory_not_empty",
            Self::InvalidInput => "invalid_input",
            Self::ReadOnly => "read_only",
            Self::PermissionDenied => "permission_denied",
            Self::TooManyLinks => "too_many_links",
            Self::NoAttribute => "no_attribute",
            Self::CrossDevice => "cross_device",
            Self::NoSpace => "no_space",
            Self::QuotaExceeded => "quota_exceeded",
            Self::CursorTooOld => "cursor_too_old",
            Self::Unavailable => "unavailable",
            Self::Deadline => "deadline",
            Self::Indeterminate => "indeterminate",
            Self::Fenced => "fenced",
            Self::Conflict => "conflict",
            Self::Locked => "locked",
            Self::Deadlock => "deadlock",
            Self::Corrupt => "corrupt",
            Self::TooLarge => "too_large",
            Self::Unsupported => "unsupported",
            Self::Other => "other",
        }
    }
}

/// How a request to one node failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FailureClass {
    /// No connection: refused, unreachable, or not within the connect timeout.
    Connect,
    /// Another node answers at this address.
    WrongPeer,
    /// The connection broke while the request was under way.
    Reset,
    /// No answer and no progress in time.
    TimedOut,
    /// What came is not the protocol.
    Protocol,
    /// It announced more bytes than were asked for.
    TooLarge,
    /// Bytes did not match their checksums.
    Corrupt,
    /// The node does not have the block.
    NotFound,
    /// The node is too busy.
    Overloaded,
    /// The node or its disk has no room.
    NoSpace,
    /// The node answered with another error.
    Refused,
    /// The node is known to be down and was not asked.
    Skipped,
}

impl FailureClass {
    /// Name for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::WrongPeer => "wrong_peer",
            Self::Reset => "reset",
            Self::TimedOut => "timed_out",
            Self::Protocol => "protocol",
            Self::TooLarge => "too_large",
            Self::Corrupt => "corrupt",
            Self::NotFound => "not_found",
            Self::Overloaded => "overloaded",
            Self::NoSpace => "no_space",
            Self::Refused => "refused",
            Self::Skipped => "skipped",
        }
    }
}

/// Whether the failed request can have reached its node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Sent {
    /// It did not leave this process.
    No,
    /// It may have arrived.
    Maybe,
    /// The node answered.
    Responded,
}

/// What happened with one node during an operation.
#[derive(Clone, Debug)]
pub struct NodeFailure {
    /// The node; 0 for a metadata server.
    pub node: NodeId,
    /// Its address.
    pub addr: String,
    /// What was asked, as in the wire protocol.
    pub op: &'static str,
    /// How it failed, the last time.
    pub class: FailureClass,
    /// Whether the last request can have arrived.
    pub sent: Sent,
    /// Requests sent to this node for this operation.
    pub attempts: u32,
    /// From the operation's start to its first failure here.
    pub first: Duration,
    /// From the operation's start to its last failure here.
    pub last: Duration,
    /// In words.
    pub message: String,
    /// The error of the operating system, where there is one.
    pub source: Option<Arc<std::io::Error>>,
}

impl fmt::Display for NodeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at {}: {} ({:?}, {} attempt{} in {:.1?}{})",
            if self.node.0 == 0 { "metadata".to_owned() } else { format!("node {}", self.node.0) },
            self.addr,
            self.message,
            self.class,
            self.attempts,
            if self.attempts == 1 { "" } else { "s" },
            self.last,
            match self.sent {
                Sent::No => ", not sent",
                Sent::Maybe => ", may have arrived",
                Sent::Responded => "",
            },
        )
    }
}

/// No majority of replicas took a block.
#[derive(Clone, Debug)]
pub struct QuorumError {
    /// The block that was tried last.
    pub block: BlockId,
    /// Its placement group.
    pub pg: PgId,
    /// Replicas that must hold it.
    pub needed: usize,
    /// Nodes that do.
    pub acked: Vec<NodeId>,
    /// What happened with each of the others.
    pub failed: Vec<NodeFailure>,
    /// Nodes that had not answered.
    pub pending: Vec<NodeId>,
    /// From the beginning of the write.
    pub elapsed: Duration,
}

impl fmt::Display for QuorumError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} needed replicas took {} of {}", self.acked.len(), self.needed, self.block, self.pg)?;
        for failure in &self.failed {
            write!(f, "; {failure}")?;
        }
        for node in &self.pending {
            write!(f, "; node {} has not answered", node.0)?;
        }
        Ok(())
    }
}

/// Why an operation failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Cause {
    /// No majority of replicas took a block: the write is not visible.
    Quorum(QuorumError),
    /// Every replica was asked and none could give the block.
    AllReplicas {
        /// The block.
        block: BlockId,
        /// What happened with each replica.
        failures: Vec<NodeFailure>,
    },
    /// No metadata server answered, or none could do it, as while their engine is away; the request had no effect.
    Metadata(Vec<NodeFailure>),
    /// The one node that could answer did not.
    Node(NodeFailure),
    /// The outcome of a mutation could not be found out before the deadline.
    Indeterminate {
        /// Its operation id.
        op: OpId,
        /// What happened with each metadata server.
        failures: Vec<NodeFailure>,
    },
    /// The session or writer was closed by metadata.
    Fenced(String),
    /// The deadline passed.
    Deadline(Duration),
    /// More bytes than fit.
    TooLarge {
        /// Bytes given.
        len: u64,
        /// Bytes that fit.
        max: u64,
    },
    /// A server's final answer.
    Status(Status),
    /// A bad argument.
    Invalid(String),
    /// No placement group can take a block now: too few stores are up, or all are full.
    NoGroup(String),
}

/// A failed operation.
#[derive(Clone)]
pub struct Error(Arc<Repr>);

#[derive(Clone)]
struct Repr {
    operation: &'static str,
    path: Option<PathBuf>,
    cause: Cause,
}

impl Error {
    pub(crate) fn new(operation: &'static str, cause: Cause) -> Self {
        Self(Arc::new(Repr { operation, path: None, cause }))
    }

    /// The same error with the path and operation that the caller used; an error that has a path keeps it.
    pub(crate) fn at(self, operation: &'static str, path: &Path) -> Self {
        if self.0.path.is_some() {
            return self;
        }
        let mut repr = Arc::unwrap_or_clone(self.0);
        repr.operation = operation;
        repr.path = Some(path.to_path_buf());
        Self(Arc::new(repr))
    }

    pub(crate) fn invalid(operation: &'static str, message: impl Into<String>) -> Self {
        Self::new(operation, Cause::Invalid(message.into()))
    }

    /// What was being done, as a word of the API or the wire protocol.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The path it was done to, where there is one.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Why it failed.
    pub fn cause(&self) -> &Cause {
        &self.0.cause
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match &self.0.cause {
            Cause::Quorum(_) | Cause::Metadata(_) | Cause::Node(_) => ErrorKind::Unavailable,
            Cause::AllReplicas { failures, .. } => {
                let lost = |f: &NodeFailure| matches!(f.class, FailureClass::Corrupt | FailureClass::NotFound);
                if !failures.is_empty() && failures.iter().all(lost) {
                    ErrorKind::Corrupt
                } else {
                    ErrorKind::Unavailable
                }
            }
            Cause::Indeterminate { .. } => ErrorKind::Indeterminate,
            Cause::Fenced(_) => ErrorKind::Fenced,
            Cause::Deadline(_) => ErrorKind::Deadline,
            Cause::TooLarge { .. } => ErrorKind::TooLarge,
            Cause::Invalid(_) => ErrorKind::InvalidInput,
            Cause::NoGroup(_) => ErrorKind::NoSpace,
            Cause::Status(status) => kind_of(status.code),
        }
    }

    /// The server's code, when the cause is a server's answer.
    pub(crate) fn code(&self) -> Option<Code> {
        match &self.0.cause {
            Cause::Status(status) => Some(status.code),
            _ => None,
        }
    }
}

const fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::NotFound => ErrorKind::NotFound,
        Code::Exists => ErrorKind::AlreadyExists,
        Code::NotADirectory => ErrorKind::NotADirectory,
        Code::IsADirectory => ErrorKind::IsADirectory,
        Code::NotEmpty => ErrorKind::DirectoryNotEmpty,
        Code::NameTooLong | Code::TooManySymlinks | Code::Invalid => ErrorKind::InvalidInput,
        Code::CrossDevice => ErrorKind::CrossDevice,
        Code::TooLarge | Code::AttributesFull => ErrorKind::TooLarge,
        Code::Permission | Code::NotPermitted => ErrorKind::PermissionDenied,
        Code::TooManyLinks => ErrorKind::TooManyLinks,
        Code::NoAttribute => ErrorKind::NoAttribute,
        Code::ReadOnly => ErrorKind::ReadOnly,
        Code::NoSpace => ErrorKind::NoSpace,
        Code::QuotaExceeded => ErrorKind::QuotaExceeded,
        Code::CursorTooOld => ErrorKind::CursorTooOld,
        Code::Overloaded | Code::Unavailable | Code::StaleEpoch | Code::NoQuorum | Code::Io => ErrorKind::Unavailable,
        Code::Deadline | Code::Cancelled => ErrorKind::Deadline,
        Code::Fenced | Code::StaleSeq => ErrorKind::Fenced,
        Code::Aborted => ErrorKind::Other,
        Code::Conflict => ErrorKind::Conflict,
        Code::Locked => ErrorKind::Locked,
        Code::Deadlock => ErrorKind::Deadlock,
        Code::Corrupt | Code::BlockNotFound | Code::BlockConflict => ErrorKind::Corrupt,
        Code::Unsupported => ErrorKind::Unsupported,
        Code::OutcomeUnknown => ErrorKind::Indeterminate,
        Code::WrongPeer | Code::WrongCluster => ErrorKind::Unavailable,
        Code::NotInline | Code::Internal | Code::Ok => ErrorKind::Other,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.operation)?;
        if let Some(path) = &self.0.path {
            write!(f, " {}", path.display())?;
        }
        f.write_str(": ")?;
        let list = |f: &mut fmt::Formatter<'_>, failures: &[NodeFailure]| {
            failures.iter().enumerate().try_for_each(|(index, failure)| {
                f.write_str(if index == 0 { "" } else { "; " })?;
                write!(f, "{failure}")
            })
        };
        match &self.0.cause {
            Cause::Quorum(error) => write!(f, "no quorum: {error}"),
            Cause::AllReplicas { block, failures } => {
                write!(f, "no replica could give {block}: ")?;
                list(f, failures)
            }
            Cause::Metadata(failures) => {
                let answered = !failures.is_empty() && failures.iter().all(|failure| failure.sent == Sent::Responded);
                let what = if answered { "metadata cannot serve now" } else { "no metadata server answered" };
                write!(f, "{what}: ")?;
                list(f, failures)
            }
            Cause::Node(failure) => write!(f, "no answer: {failure}"),
            Cause::Indeterminate { op, failures } => {
                write!(f, "the outcome of operation {op} is unknown; look before doing it again: ")?;
                list(f, failures)
            }
            Cause::Fenced(message) => write!(f, "the session has ended, open the file again: {message}"),
            Cause::Deadline(after) => write!(f, "not finished within {after:.1?}"),
            Cause::TooLarge { len, max } => write!(f, "{len} bytes given, at most {max} fit"),
            Cause::Status(status) => write!(f, "{status}"),
            Cause::Invalid(message) | Cause::NoGroup(message) => f.write_str(message),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}: {self})", self.kind())
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match error.kind() {
            ErrorKind::NotFound => Io::NotFound,
            ErrorKind::AlreadyExists => Io::AlreadyExists,
            ErrorKind::NotADirectory => Io::NotADirectory,
            ErrorKind::IsADirectory => Io::IsADirectory,
            ErrorKind::DirectoryNotEmpty => Io::DirectoryNotEmpty,
            ErrorKind::InvalidInput => Io::InvalidInput,
            ErrorKind::PermissionDenied => Io::PermissionDenied,
            ErrorKind::TooManyLinks => Io::TooManyLinks,
            ErrorKind::CrossDevice => Io::CrossesDevices,
            ErrorKind::ReadOnly => Io::ReadOnlyFilesystem,
            ErrorKind::NoSpace => Io::StorageFull,
            ErrorKind::QuotaExceeded => Io::QuotaExceeded,
            ErrorKind::CursorTooOld => Io::NotFound,
            ErrorKind::Deadline => Io::TimedOut,
            ErrorKind::TooLarge => Io::FileTooLarge,
            ErrorKind::Unsupported => Io::Unsupported,
            ErrorKind::Corrupt => Io::InvalidData,
            ErrorKind::Locked => Io::WouldBlock,
            ErrorKind::Deadlock => Io::Deadlock,
            ErrorKind::Unavailable
            | ErrorKind::Indeterminate
            | ErrorKind::Fenced
            | ErrorKind::Conflict
            | ErrorKind::NoAttribute
            | ErrorKind::Other => Io::Other,
        };
        std::io::Error::new(kind, error)
    }
}
