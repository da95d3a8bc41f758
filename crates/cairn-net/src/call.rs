//! One request as the caller gives it, and what comes back.

use crate::body::Body;
use bytes::Bytes;
use cairn_proto::limits::CONTROL_BODY_MAX;
use cairn_proto::pb;
use std::time::Duration;
use tokio::time::Instant;

/// A request to be sent over a [`crate::Link`].
#[derive(Clone, Debug)]
pub struct Call {
    /// The request; `kind` must be set. The link fills in `total_len`.
    pub request: pb::Request,
    /// Its body.
    pub body: Body,
    /// After this the leg fails with `Deadline`; the rest travels with the request.
    pub deadline: Instant,
    /// Which attempt at the operation this is, from 0.
    pub attempt: u8,
    /// A second copy of a slow request, sent elsewhere first.
    pub hedge: bool,
    /// Sent again after a failure.
    pub retry: bool,
    /// Hold the body's frames against their checksums. `false` where the caller verifies end-to-end checksums itself.
    pub verify_body: bool,
    /// Largest response body the caller accepts, in bytes; it also decides the lane.
    pub response_max: u64,
}

impl Call {
    /// A first attempt without body that expects a response on the control lane.
    pub fn new(kind: pb::request::Kind, deadline: Instant) -> Self {
        Self {
            request: pb::Request { kind: Some(kind), ..Default::default() },
            body: Body::empty(),
            deadline,
            attempt: 0,
            hedge: false,
            retry: false,
            verify_body: true,
            response_max: u64::from(CONTROL_BODY_MAX),
        }
    }

    /// True when it needs an exclusive connection: a body in either direction may exceed [`CONTROL_BODY_MAX`], or its
    /// own comes in several frames.
    pub fn is_bulk(&self) -> bool {
        self.body.len().max(self.response_max) > u64::from(CONTROL_BODY_MAX) || self.body.parts().len() > 1
    }
}

/// What a request asks of the connection it goes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Number of a connection on which the same was tried in vain ([`crate::LegWatch::connection`],
    /// [`crate::LegError::connection`]): this request goes over another one, dialled if needed.
    pub avoid: Option<u64>,
    /// Nobody but this peer can answer it: when a dial takes 250 ms, a second one runs beside it, because a lost SYN
    /// costs a second.
    pub alone: bool,
}

/// A successful response.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The response; `error` is `None`.
    pub response: pb::Response,
    /// Its body, contiguous.
    pub body: Bytes,
    /// Where the time went.
    pub timing: Timing,
}

/// When the steps of a leg happened, counted from [`crate::Link::start`]. A leg that was transparently resent shows
/// the steps of its second sending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// It was given to a connection: permits, dialling and waiting for a connection are over.
    pub queued: Option<Duration>,
    /// Its first frame was handed to the socket.
    pub sent: Option<Duration>,
    /// The first frame of the response came.
    pub first_byte: Option<Duration>,
    /// The outcome was known.
    pub done: Option<Duration>,
}

/// How far a leg has come, readable at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Any of its bytes may have left.
    pub sent: bool,
    /// The first frame of the response came.
    pub first_byte: bool,
    /// Body bytes received so far.
    pub bytes_received: u64,
    /// When the last body bytes came, counted from [`crate::Link::start`]; for stall timers.
    pub last_byte: Option<Duration>,
    /// The longest time between two arrivals of body bytes so far; `None` before the second. Frames, of up to 1 MiB,
    /// are counted as they are complete.
    pub max_gap: Option<Duration>,
}
