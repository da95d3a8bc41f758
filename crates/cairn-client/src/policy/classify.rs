//! What follows an event of a leg: for the operation, for what is thought of the node, for the budgets. One table.

use crate::error::FailureClass;
use cairn_proto::status::{Code, Status};
use std::time::Duration;

/// Shortest pause before an overloaded server is asked again.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest pause that a server gets by asking for it.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What kind of operation a leg belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) enum OpKind {
    /// A block read from a storage node.
    Read,
    /// A block written to a storage node: its id makes a second arrival harmless.
    Put,
    /// A request to metadata that changes nothing.
    MetaRead,
    /// A request to metadata with an operation id: the same id again gives the same result.
    Mutation,
}

/// What happened to a leg.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(
    dead_code,
    reason = "the table is whole: rows of stale connections, timers and ends are carried out where they occur"
)]
pub(crate) enum Event {
    /// No connection: refused, unreachable, timed out.
    ConnectFailed,
    /// There is a connection, but the server would not use it: other version, or about to stop.
    TurnedAway,
    /// A kept connection turned out to be closed; not a byte of an answer came.
    StaleConnection,
    /// The connection ended in the middle.
    Broken,
    /// The soft timer ran out.
    Timer,
    /// The leg's own limit passed without an answer.
    TimedOut,
    /// The server asks for patience; zero when it does not say for how long.
    Overloaded { retry_after: Duration },
    /// The server is not ready, or stops; zero when it does not say when to try again.
    Unavailable { retry_after: Duration },
    /// Another node answered, the group moved on, or the token expired: what the client knows is old.
    Moved,
    /// A listed replica does not have the block.
    BlockNotFound,
    /// Bytes did not match their checksums, on the wire or on disk.
    Corrupt,
    /// Too large, or not the protocol.
    Protocol,
    /// The block is there already, with the same content.
    BlockExists,
    /// The block is there already, with other content: two writers with one id.
    BlockConflict,
    /// A compare-and-set precondition did not hold.
    Conflict,
    /// The server could not say whether the transaction was committed.
    OutcomeUnknown,
    /// The server's disk or code failed.
    ServerFailed,
    /// No room: on this node, or within the quota.
    NoSpace,
    /// Metadata did not see a majority of acks among the group's current members.
    NoQuorum,
    /// The server dropped the request, because its time was over or it was told to.
    Dropped,
    /// The server will not do this, whoever asks it and however often.
    Refused,
    /// The caller left, or the operation's deadline passed.
    Ended,
    /// The node was not asked at all, because its breaker is open.
    Skipped,
}

/// What the operation does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Ask the next replica or metadata server at once; a mutation with the same operation id.
    Next,
    /// The same, and tell the node to look at its copy.
    NextAndReport,
    /// The same request to the same node on a fresh connection, once. A second time counts as [`Action::Next`] for a
    /// request to metadata or a read, as [`Action::Leave`] for a block.
    Resend,
    /// Keep the leg; another may begin.
    Join,
    /// Keep the leg; it is a straggler when the majority is there.
    Straggle,
    /// This node will not have the block from us: repair brings it, or the block goes to another group.
    Leave,
    /// The same request to the same server after this time, spread by 20 %.
    Pause(Duration),
    /// Fetch the map, the session or the token anew, then once more without a pause.
    Refresh,
    /// The blocks are written anew with fresh ids in another group.
    Rewrite,
    /// The same operation id again until a server knows the outcome; at the deadline the outcome is indeterminate.
    Resolve,
    /// Go on with that in the background: the caller is not told, the operation id must be settled.
    ResolveInBackground,
    /// It is done.
    Done,
    /// The caller gets this answer.
    Final,
}

/// What it says about the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Evidence {
    /// Nothing. (What a timer suspects, the silence rule finds out.)
    None,
    /// It is there and works: a success for breaker and load.
    Answered,
    /// It is there and busy: a penalty in the load score, nothing for the breaker.
    Busy(Duration),
    /// No usable connection: once for breaker and load, however many requests waited for it.
    Dial,
    /// A hard failure for breaker and load.
    Broken,
    /// It is there, but has bad bytes, lacks a block or refuses: counted apart, an error in the load score, nothing for
    /// the breaker.
    Defect,
}

/// A row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rule {
    /// What the operation does next.
    pub(crate) action: Action,
    /// What it says about the server.
    pub(crate) evidence: Evidence,
    /// True when going on takes a token of the retry budget.
    pub(crate) charged: bool,
}

const fn free(action: Action, evidence: Evidence) -> Rule {
    Rule { action, evidence, charged: false }
}

/// The table.
///
/// Three rows differ from what one might expect. What one *node* refuses ends nothing but that leg: another replica may
/// know better (versions differ during an upgrade), and when all refuse, the round ends with all their answers. A
/// block for which a node asks for patience is offered to it again without a charge: it is a straggler with a date. And
/// a metadata server that cannot serve yet, because its engine is away, is waited for without a charge, too: every
/// operation meets that at once, and a budget that all of them share would end most of them long before their deadlines.
pub(crate) fn rule(op: OpKind, event: &Event) -> Rule {
    use {Action as A, Event as V, Evidence as E, OpKind as O};
    let next = match op {
        O::Read | O::MetaRead | O::Mutation => A::Next,
        O::Put => A::Leave,
    };
    match event {
        V::ConnectFailed | V::TurnedAway => free(next, E::Dial),
        V::StaleConnection => free(A::Resend, E::None),
        V::Broken => free(if op == O::Put { A::Resend } else { next }, E::Broken),
        V::Timer => free(if op == O::Put { A::Straggle } else { A::Join }, E::None),
        V::TimedOut | V::Skipped => free(next, E::None),
        V::Overloaded { retry_after } => {
            let pause = (*retry_after).clamp(PAUSE_MIN, PAUSE_MAX);
            match op {
                O::Read => free(A::Next, E::Busy(*retry_after)),
                O::Put => free(A::Pause(pause), E::Busy(*retry_after)),
                O::MetaRead | O::Mutation => {
                    Rule { action: A::Pause(pause), evidence: E::Busy(*retry_after), charged: true }
                }
            }
        }
        V::Unavailable { retry_after } => match op {
            O::Read | O::Put => free(next, E::Busy(*retry_after)),
            // Without a time it is an answer: the cluster has not enough nodes for this.
            O::MetaRead | O::Mutation if retry_after.is_zero() => free(A::Final, E::Answered),
            O::MetaRead | O::Mutation => {
                free(A::Pause((*retry_after).clamp(PAUSE_MIN, PAUSE_MAX)), E::Busy(*retry_after))
            }
        },
        V::Moved => free(A::Refresh, E::None),
        V::BlockNotFound => match op {
            O::Read => free(A::NextAndReport, E::Defect),
            O::Put => free(A::Leave, E::Answered),
            O::MetaRead | O::Mutation => free(A::Final, E::Answered),
        },
        V::Corrupt => match op {
            O::Read => free(A::NextAndReport, E::Defect),
            O::Put | O::MetaRead | O::Mutation => free(A::Resend, E::Defect),
        },
        V::Protocol => free(if op == O::Read { A::Next } else { A::Resend }, E::Broken),
        V::BlockExists => free(if op == O::Put { A::Done } else { A::Final }, E::Answered),
        V::BlockConflict | V::Conflict => free(A::Final, E::Answered),
        V::OutcomeUnknown => match op {
            O::Mutation => Rule { action: A::Resolve, evidence: E::Broken, charged: false },
            // Done twice it does no harm, and the engine is most likely away.
            O::MetaRead => free(A::Pause(PAUSE_MIN), E::Broken),
            O::Read => free(A::Next, E::Broken),
            O::Put => free(A::Resend, E::Broken),
        },
        V::ServerFailed => free(next, E::Broken),
        V::NoSpace => match op {
            O::Read => free(A::Next, E::Answered),
            O::Put => free(A::Leave, E::Answered),
            O::MetaRead | O::Mutation => free(A::Final, E::Answered),
        },
        V::NoQuorum => match op {
            O::Mutation => free(A::Rewrite, E::Answered),
            O::Read | O::Put | O::MetaRead => free(A::Final, E::Answered),
        },
        V::Dropped => free(next, E::Answered),
        V::Refused => match op {
            // Quick to refuse is not quick: it must not attract more.
            O::Read | O::Put => free(next, E::Defect),
            O::MetaRead | O::Mutation => free(A::Final, E::Answered),
        },
        V::Ended => free(if op == O::Mutation { A::ResolveInBackground } else { A::Final }, E::None),
    }
}

/// The event of a leg that failed without an answer of the server.
pub(crate) fn event_of_class(class: FailureClass) -> Event {
    match class {
        FailureClass::Connect => Event::ConnectFailed,
        FailureClass::WrongPeer => Event::Moved,
        FailureClass::Reset => Event::Broken,
        FailureClass::TimedOut => Event::TimedOut,
        FailureClass::Protocol | FailureClass::TooLarge => Event::Protocol,
        FailureClass::Corrupt => Event::Corrupt,
        FailureClass::NotFound => Event::BlockNotFound,
        FailureClass::Overloaded => Event::Overloaded { retry_after: Duration::ZERO },
        FailureClass::NoSpace => Event::NoSpace,
        FailureClass::Refused => Event::TurnedAway,
        FailureClass::Skipped => Event::Skipped,
    }
}

/// The event of a leg that the server answered with an error.
pub(crate) fn event_of_status(status: &Status) -> Event {
    let retry_after = Duration::from_millis(u64::from(status.retry_after_ms));
    match status.code {
        Code::Overloaded => Event::Overloaded { retry_after },
        Code::Unavailable => Event::Unavailable { retry_after },
        Code::WrongPeer | Code::StaleEpoch => Event::Moved,
        Code::BlockNotFound => Event::BlockNotFound,
        Code::Corrupt => Event::Corrupt,
        Code::BlockConflict => Event::BlockConflict,
        Code::Conflict | Code::Locked | Code::Deadlock => Event::Conflict,
        Code::OutcomeUnknown => Event::OutcomeUnknown,
        Code::Io => Event::ServerFailed,
        Code::NoSpace => Event::NoSpace,
        Code::NoQuorum => Event::NoQuorum,
        Code::Deadline | Code::Cancelled => Event::Dropped,
        Code::Ok
        | Code::NotFound
        | Code::Exists
        | Code::NotADirectory
        | Code::IsADirectory
        | Code::NotEmpty
        | Code::NameTooLong
        | Code::TooManySymlinks
        | Code::Invalid
        | Code::TooLarge
        | Code::Permission
        | Code::Fenced
        | Code::StaleSeq
        | Code::WrongCluster
        | Code::NotInline
        | Code::Unsupported
        | Code::Internal
        | Code::CursorTooOld
        | Code::QuotaExceeded
        | Code::CrossDevice
        | Code::TooManyLinks
        | Code::NoAttribute
        | Code::NotPermitted
        | Code::AttributesFull
        | Code::ReadOnly
        | Code::Aborted => Event::Refused,
    }
}

/// The event of a failed leg: what the server said, if it said something.
pub(crate) fn event_of(class: FailureClass, status: Option<&Status>) -> Event {
    status.map_or_else(|| event_of_class(class), event_of_status)
}

#[cfg(test)]
mod tests;
