//! Readers of the change feed who wait for something to happen.
//!
//! A waiting reader takes no place among the requests in hand, only one among those who wait; when there is none, it is
//! answered at once and asks again. This server's own changes wake it; those of others are looked for now and then.

use crate::gate::{Admitted, Gate};
use crate::limits::{WATCH_POLL, WATCH_WAIT_MAX, WATCHERS_MAX};
use cairn_meta::Meta;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, response};
use cairn_proto::status::{Code, Status};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Places for those who wait.
pub(super) struct Watchers {
    places: Gate,
}

impl Watchers {
    pub(super) fn new() -> Self {
        Self { places: Gate::new(WATCHERS_MAX, "readers of changes") }
    }

    /// Answers when there is something to tell, at the latest after the time asked for. `requests` is passed for each
    /// look; `draining` says that the server is about to stop.
    pub(super) async fn watch(
        &self,
        meta: &Meta,
        mut ask: pb::WatchChanges,
        deadline: Option<Instant>,
        requests: &Gate,
        draining: impl Fn() -> bool,
    ) -> Result<response::Kind, Status> {
        let place: Option<Admitted> = if ask.wait_ms == 0 { None } else { self.places.admit().ok() };
        let wait = Duration::from_millis(ask.wait_ms.into()).min(WATCH_WAIT_MAX);
        let mut until = cairn_net::now() + wait;
        if let Some(deadline) = deadline {
            until = until.min(deadline.checked_sub(WATCH_POLL).unwrap_or(deadline));
        }
        loop {
            let seen = meta.feed_count();
            let reply = {
                let _permit = requests.admit()?;
                let request = pb::Request { kind: Some(Kind::WatchChanges(ask.clone())), ..Default::default() };
                match meta.execute(&request).await? {
                    response::Kind::WatchChanges(reply) => reply,
                    _ => return Err(Status::new(Code::Internal, "the changes are something else")),
                }
            };
            let now = cairn_net::now();
            if !reply.changes.is_empty() || place.is_none() || now >= until || draining() {
                return Ok(response::Kind::WatchChanges(reply));
            }
            ask.cursor = reply.cursor;
            if !reply.more {
                // Called or not, both mean to look again.
                let _ = timeout(WATCH_POLL.min(until - now), meta.feed_moved(seen)).await;
            }
        }
    }
}
