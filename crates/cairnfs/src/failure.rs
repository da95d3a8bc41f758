//! How a command fails: what is said and the exit status. The words for errors of the client and of the local disk are
//! chosen here and nowhere else.

use std::{fmt::Display, io, path::Path, process::ExitCode};

use cairn_client::{Cause, Error, ErrorKind};

use crate::text;

/// Why a command ends without having done all it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The command line or the settings are wrong: exit status 2.
    Usage(String),
    /// It did not work: exit status 1.
    Failed {
        /// What failed, why, and what to do.
        message: String,
        /// Whether the next file will most likely fail for the same reason (cluster away, no space).
        general: bool,
    },
    /// As `Failed`, but everything has been said on standard error already.
    Told,
    /// Whoever read our output went away: no message, exit status 0, as a filter in a pipeline should end.
    PipeClosed,
    /// A signal asked us to stop: exit status 130.
    Interrupted,
}

impl Failure {
    /// A wrong use of `subject`.
    pub fn usage(subject: impl Display, what: impl Display) -> Self {
        Self::Usage(format!("{subject}: {what}"))
    }

    /// `subject` could not be dealt with.
    pub fn at(subject: impl Display, what: impl Display) -> Self {
        Self::Failed { message: format!("{subject}: {what}"), general: false }
    }

    /// An operation of the client failed on `path`.
    pub fn client(path: &Path, error: &Error) -> Self {
        let general = matches!(
            error.kind(),
            ErrorKind::Unavailable | ErrorKind::NoSpace | ErrorKind::Fenced | ErrorKind::Indeterminate
        );
        Self::Failed { message: format!("{}: {}", text::path(path), explain(error)), general }
    }

    /// An operation of the client that concerns no path failed.
    pub fn cluster(error: &Error) -> Self {
        Self::Failed { message: explain(error), general: true }
    }

    /// What an operator asked for failed; a server's refusal is told in its own words.
    pub fn admin(error: &Error) -> Self {
        Self::Failed { message: refusal(error), general: true }
    }

    /// As [`Failure::admin`], about `subject`.
    pub fn named(subject: impl Display, error: &Error) -> Self {
        Self::at(subject, refusal(error))
    }

    /// The policy of `path` could not be changed: what is wrong with the path as for files, a refusal in the server's words.
    pub fn policy(path: &Path, error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Conflict | ErrorKind::InvalidInput | ErrorKind::Unsupported => {
                Self::named(text::path(path), error)
            }
            _ => Self::client(path, error),
        }
    }

    /// Input or output on `path` failed: on the local disk, or in a stream of the client.
    pub fn io(path: &Path, error: &io::Error) -> Self {
        if let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            return Self::client(path, inner);
        }
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        Self::Failed { message: format!("{}: {}", text::path(path), plain(error)), general: full }
    }

    /// Writing to standard output failed.
    pub fn stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::PipeClosed,
            _ => Self::at("standard output", plain(error)),
        }
    }

    /// What to say, if anything is left to be said.
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Usage(message) | Self::Failed { message, .. } => Some(message),
            Self::Told | Self::PipeClosed | Self::Interrupted => None,
        }
    }

    /// See [`Failure::Failed`].
    pub fn is_general(&self) -> bool {
        matches!(self, Self::Failed { general: true, .. })
    }

    /// The exit status.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed { .. } | Self::Told => ExitCode::from(1),
            Self::PipeClosed => ExitCode::SUCCESS,
            Self::Interrupted => ExitCode::from(130),
        }
    }
}

/// A local error without the number that Rust appends.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(number) => {
            let text = text.trim_end_matches(&format!(" (os error {number})")).to_owned();
            let mut chars = text.chars();
            chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
        }
        None => text,
    }
}

/// What a server says about an operator's request, where it says something; for a request concerns no file.
fn refusal(error: &Error) -> String {
    match error.cause() {
        Cause::Status(status) if !status.message.is_empty() => match error.kind() {
            ErrorKind::Unsupported => format!("the server is older than this command ({})", status.message),
            _ => status.message.clone(),
        },
        Cause::Node(failure) => {
            format!("node {} at {} does not answer: {}", failure.node.0, failure.addr, failure.message)
        }
        _ => explain(error),
    }
}

/// A refusal with what the server said about it.
fn denied(error: &Error) -> String {
    match error.cause() {
        Cause::Status(status) if !status.message.is_empty() => format!("permission denied: {}", status.message),
        _ => "permission denied".to_owned(),
    }
}

/// What happened and what to do. The path and the operation are left out: the reader gave them.
fn explain(error: &Error) -> String {
    let advice = match error.kind() {
        ErrorKind::NotFound => return "no such file or directory".to_owned(),
        ErrorKind::AlreadyExists => return "exists already".to_owned(),
        ErrorKind::NotADirectory => return "not a directory".to_owned(),
        ErrorKind::IsADirectory => return "is a directory".to_owned(),
        ErrorKind::DirectoryNotEmpty => return "directory not empty".to_owned(),
        ErrorKind::PermissionDenied => return denied(error),
        ErrorKind::NoAttribute => return "no such attribute".to_owned(),
        ErrorKind::TooManyLinks => return "has as many names as a file may have".to_owned(),
        ErrorKind::CrossDevice => return "the places count against different quotas: copy it instead".to_owned(),
        ErrorKind::ReadOnly => return "a snapshot cannot be changed; copy what you need out of it".to_owned(),
        ErrorKind::NoSpace => Some("free space or add a node; `cairn df` shows what there is"),
        ErrorKind::QuotaExceeded => {
            Some("remove something below the quota, also from its trash, or raise it: `cairn quota`")
        }
        ErrorKind::CursorTooOld => Some("start again without --since"),
        ErrorKind::Unavailable => Some("is the cluster up? --meta or CAIRN_META says where it is; try again"),
        ErrorKind::Deadline => Some("the cluster is slow or partly away: `cairn status` shows it; try again"),
        ErrorKind::Indeterminate => Some("look whether it happened before trying again"),
        ErrorKind::Fenced | ErrorKind::Conflict => Some("try again"),
        ErrorKind::Locked | ErrorKind::Deadlock => Some("`cairn locks` shows who has it"),
        ErrorKind::Corrupt => Some("no replica is good: restore it from a backup; `cairn status` lists defects"),
        ErrorKind::Other => Some("this is a defect of CairnFS: please report it"),
        ErrorKind::InvalidInput | ErrorKind::TooLarge | ErrorKind::Unsupported => None,
    };
    let full = error.to_string();
    let subject = match error.path() {
        Some(path) => format!("{} {}: ", error.operation(), path.display()),
        None => format!("{}: ", error.operation()),
    };
    let what = full.strip_prefix(&subject).unwrap_or(&full);
    match advice {
        Some(advice) => format!("{what} ({advice})"),
        None => what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_errors_read_as_in_other_tools() {
        let failure = Failure::io(Path::new("/x\n"), &io::Error::from_raw_os_error(2));
        assert_eq!(failure.message(), Some("/x\\n: no such file or directory"));
        assert!(!failure.is_general());
        assert!(Failure::io(Path::new("/x"), &io::Error::from_raw_os_error(28)).is_general(), "no space is general");
    }

    #[test]
    fn a_closed_pipe_is_quiet() {
        let failure = Failure::stdout(&io::Error::from_raw_os_error(32));
        assert_eq!(failure, Failure::PipeClosed);
        assert_eq!(failure.message(), None);
    }
}
