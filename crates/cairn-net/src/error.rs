//! How a leg fails, said so that a policy can decide what follows (retry classification).

use cairn_proto::status::Status;
use std::fmt;
use std::io;
use std::sync::Arc;

/// What is known about whether the peer has the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// Not a byte of it left.
    No,
    /// It may have arrived, and may have been done.
    Maybe,
    /// The peer answered.
    Responded,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum LegErrorClass {
    /// No connection could be made: refused, unreachable, timed out. One dial fails all legs that waited for it.
    Connect,
    /// Another node, or a node of another cluster, lives at the address: refresh locations.
    WrongPeer,
    /// The peer refused the handshake (version, features) or is going away.
    Refused,
    /// The connection ended before the response did.
    Reset,
    /// Nothing came for the stall timeout, and a ping was not answered either.
    Stalled,
    /// The peer broke the protocol; the connection was closed.
    Protocol,
    /// A frame's bytes do not match their checksum; the connection was closed.
    Corrupt,
    /// The request, or the response the peer announced, exceeds a bound.
    TooLarge,
    /// The peer gave up in the middle of the response's body.
    Aborted,
    /// The call's deadline passed.
    Deadline,
    /// The link was closed, or the peer confirmed a cancellation this side did not ask for.
    Cancelled,
    /// Too many legs wait for this peer already, or all connections of the client are in use: nothing is wrong with the
    /// peer.
    Overloaded,
    /// The peer answered with an error.
    Status(Status),
}

impl LegErrorClass {
    /// Name for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::WrongPeer => "wrong_peer",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Stalled => "stalled",
            Self::Protocol => "protocol",
            Self::Corrupt => "corrupt",
            Self::TooLarge => "too_large",
            Self::Aborted => "aborted",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
            Self::Overloaded => "overloaded",
            Self::Status(_) => "status",
        }
    }
}

/// A failed leg.
#[derive(Clone, Debug)]
pub struct LegError {
    /// What went wrong.
    pub class: LegErrorClass,
    /// Whether the peer may have the request.
    pub sent: Sent,
    /// Set when the failure is that of a dial: its number on this link. All legs that waited for one dial fail with the
    /// same number, so that a failed dial can be counted once.
    pub dial: Option<u64>,
    /// The one transparent resend, after a pooled connection turned out to be stale, was used up before.
    pub resent: bool,
    /// Number of the connection that had the request last, for [`crate::Route::avoid`]; `None` when none had it.
    pub connection: Option<u64>,
    /// What and where, for people.
    pub message: String,
    /// The error of the operating system, where there is one. One dial's error is shared by all its waiters.
    pub source: Option<Arc<io::Error>>,
}

impl LegError {
    pub(crate) fn new(class: LegErrorClass, sent: Sent, message: impl Into<String>) -> Self {
        Self { class, sent, dial: None, resent: false, connection: None, message: message.into(), source: None }
    }

    pub(crate) fn with_source(mut self, source: io::Error) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The peer's status, when it answered with one.
    pub fn status(&self) -> Option<&Status> {
        match &self.class {
            LegErrorClass::Status(status) => Some(status),
            _ => None,
        }
    }
}

impl fmt::Display for LegError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.class {
            LegErrorClass::Status(status) => status.fmt(f),
            class => write!(f, "{}: {}", class.name().replace('_', " "), self.message),
        }
    }
}

impl std::error::Error for LegError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}
