//! Ends the work on a request when nobody waits for it any more.
//!
//! A handler waits in several places: for permits, in the queue of a store, for locks of metadata. All of these let go when
//! the future is dropped, so this is the one place that has to know when: at the caller's deadline, and when the caller
//! cancelled or its connection ended. What a dropped future has begun elsewhere (a write that is at the disk, a
//! transaction that is being committed) comes to its end there.

use async_trait::async_trait;
use bytes::Bytes;
use cairn_net::{Body, Handler, RequestContext};
use cairn_proto::pb::{self, response};
use cairn_proto::status::{Code, Status};
use tokio::time::timeout_at;

/// A handler whose work ends with the wait for it.
pub(crate) struct Wanted<H>(pub(crate) H);

#[async_trait]
impl<H: Handler> Handler for Wanted<H> {
    async fn handle(
        &self,
        ctx: &RequestContext,
        request: pb::Request,
        body: Vec<Bytes>,
    ) -> Result<(response::Kind, Body), Status> {
        if ctx.deadline.is_some_and(|deadline| deadline <= cairn_net::now()) {
            return Err(too_late());
        }
        let work = async {
            match ctx.deadline {
                Some(deadline) => {
                    timeout_at(deadline, self.0.handle(ctx, request, body)).await.unwrap_or_else(|_| Err(too_late()))
                }
                None => self.0.handle(ctx, request, body).await,
            }
        };
        let done = ctx.cancelled.run_until_cancelled(work).await;
        // Nobody reads this; the connection says CANCELLED by itself.
        done.unwrap_or_else(|| Err(Status::new(Code::Cancelled, "the caller gave up")))
    }

    fn pong(&self) -> pb::Pong {
        self.0.pong()
    }
}

fn too_late() -> Status {
    Status::new(Code::Deadline, "the caller's deadline passed before this was done here")
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_net::{PeerInfo, WorkTime};
    use cairn_proto::{BootId, ClusterId, NodeId};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    /// Waits for ever, and counts those that do.
    #[derive(Clone, Default)]
    struct Waits(Arc<AtomicUsize>);

    struct Waiting(Arc<AtomicUsize>);

    impl Drop for Waiting {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[async_trait]
    impl Handler for Waits {
        async fn handle(
            &self,
            _: &RequestContext,
            _: pb::Request,
            _: Vec<Bytes>,
        ) -> Result<(response::Kind, Body), Status> {
            self.0.fetch_add(1, Ordering::SeqCst);
            let _waiting = Waiting(self.0.clone());
            std::future::pending().await
        }
    }

    fn context(deadline: Option<tokio::time::Instant>, cancelled: CancellationToken) -> RequestContext {
        RequestContext {
            deadline,
            peer: Arc::new(PeerInfo {
                role: pb::Role::Client,
                cluster_id: ClusterId::NIL,
                node_id: NodeId(0),
                boot_id: BootId([1; 16]),
                software: String::new(),
                certificate: None,
                addr: None,
            }),
            op: cairn_proto::op::PUT,
            attempt: 0,
            hedge: false,
            retry: false,
            received: cairn_net::now(),
            cancelled,
            work: Arc::new(WorkTime::default()),
        }
    }

    async fn ends_with(ctx: RequestContext, code: Code) {
        let waits = Waits::default();
        let outcome = Wanted(waits.clone()).handle(&ctx, pb::Request::default(), Vec::new()).await;
        assert_eq!(outcome.err().map(|status| status.code), Some(code));
        assert_eq!(waits.0.load(Ordering::SeqCst), 0, "the work was dropped");
    }

    #[tokio::test]
    async fn work_ends_with_the_wait_for_it() {
        let live = CancellationToken::new();
        ends_with(context(Some(cairn_net::now() + Duration::from_millis(1)), live.clone()), Code::Deadline).await;
        ends_with(context(Some(cairn_net::now()), live.clone()), Code::Deadline).await;
        let gone = CancellationToken::new();
        gone.cancel();
        ends_with(context(None, gone), Code::Cancelled).await;
        let later = live.clone();
        let ends = tokio::spawn(ends_with(context(None, live), Code::Cancelled));
        tokio::task::yield_now().await;
        later.cancel();
        ends.await.expect("it ends");
    }
}
