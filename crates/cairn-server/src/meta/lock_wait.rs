//! Requests that wait for a lock: held for a moment, so that whoever waits hears of a lock that is given back at once.
//!
//! A lock may be given back at another server: so it is looked again from time to time. Whoever waits asks anew when it was
//! answered in vain; that keeps its place in the line, and lets a server end without waiting for anybody.

use super::handler::MetaHandler;
use crate::limits::{LOCK_HOLD_MAX, LOCK_LOOK_EVERY};
use cairn_net::RequestContext;
use cairn_proto::pb::{self, response};
use cairn_proto::status::Status;
use std::pin::pin;
use std::time::Duration;
use tokio::time::timeout_at;

impl MetaHandler {
    pub(super) async fn wait_lock(
        &self,
        ctx: &RequestContext,
        request: &pb::Request,
        ask: &pb::WaitLock,
    ) -> Result<response::Kind, Status> {
        let hold = Duration::from_millis(ask.wait_ms.into()).min(LOCK_HOLD_MAX);
        let end = cairn_net::now() + hold;
        let end = ctx.deadline.map_or(end, |deadline| end.min(deadline));
        // Without a place it is answered at once; the client makes a pause of its own then.
        let place = self.lock_places.try_acquire().ok();
        let inode = ask.lock.as_ref().map_or(0, |lock| lock.inode);
        loop {
            let mut notice = pin!(self.meta.lock_notice(inode).notified());
            notice.as_mut().enable();
            let reply = {
                let _permit = self.requests.admit()?;
                self.execute(ctx, request).await?
            };
            let now = cairn_net::now();
            let in_vain = matches!(&reply, response::Kind::WaitLock(told) if !told.free);
            if !in_vain || place.is_none() || now >= end || self.is_draining() {
                return Ok(reply);
            }
            let _ = timeout_at(end.min(now + LOCK_LOOK_EVERY), notice).await;
        }
    }
}
