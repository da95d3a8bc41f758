//! The caller's end of one request.

use crate::call::{Progress, Reply};
use crate::error::{LegError, LegErrorClass, Sent};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// One request under way; a future of its outcome. It owns no I/O: dropping it pushes a cancellation onto a queue that
/// never blocks, and the connection is drained or closed behind it. It needs to be polled for its deadline to fire.
#[must_use = "dropping a leg cancels it"]
pub struct Leg {}

impl Leg {
    /// How far it has come.
    pub fn progress(&self) -> Progress {
        Progress::default()
    }
}

impl Future for Leg {
    type Output = Result<Reply, LegError>;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Err(LegError::new(LegErrorClass::Cancelled, Sent::No, "the link is closed")))
    }
}
