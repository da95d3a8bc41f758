//! A server whose answers say which request they belong to.

use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use cairn_net::{Body, Call, Handler, Identity, Net, RequestContext, ServerConfig, ServerStats, TcpNet, serve};
use cairn_proto::checksum::crc32c;
use cairn_proto::pb::{self, request, response};
use cairn_proto::status::Status;
use cairn_proto::{BootId, NodeId};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PATTERN_LEN: usize = 4096;

/// `len` bytes that only the request with this `tag` gets.
pub fn payload(tag: u32, len: usize) -> Bytes {
    let mut pattern = [0; PATTERN_LEN];
    fastrand::Rng::with_seed(tag.into()).fill(&mut pattern);
    let mut bytes = pattern.repeat(len.div_ceil(PATTERN_LEN));
    bytes.truncate(len);
    bytes.into()
}

/// A request for `len` bytes that takes the server `pause`.
pub fn download(tag: u32, len: usize, pause: Duration, deadline: Duration) -> Call {
    let get = pb::GetBlock { offset: tag, len: len as u32, store: pause.as_micros() as u32, ..Default::default() };
    let mut call = Call::new(request::Kind::Get(get), tokio::time::Instant::now() + deadline);
    call.response_max = len as u64;
    call
}

/// A request that carries `len` bytes and takes the server `pause`.
pub fn upload(tag: u32, len: usize, pause: Duration, deadline: Duration) -> Call {
    let put = pb::PutBlock { pg: tag, store: pause.as_micros() as u32, ..Default::default() };
    let mut call = Call::new(request::Kind::Put(put), tokio::time::Instant::now() + deadline);
    call.body = Body::from_bytes(payload(tag, len));
    call
}

/// Answers GET with the payload of its tag, PUT with the checksum of what came.
struct Tagged {
    connections: Arc<AtomicUsize>,
    stats: Arc<ServerStats>,
}

#[async_trait]
impl Handler for Tagged {
    async fn handle(
        &self,
        ctx: &RequestContext,
        request: pb::Request,
        body: Vec<Bytes>,
    ) -> Result<(response::Kind, Body), Status> {
        self.connections.fetch_max(self.stats.connections.load(Ordering::Relaxed), Ordering::Relaxed);
        let pause = async |micros: u32| {
            let pause = tokio::time::sleep(Duration::from_micros(micros.into()));
            // As a real handler, it need not go on once nobody waits.
            ctx.cancelled.run_until_cancelled(pause).await;
        };
        Ok(match request.kind {
            Some(request::Kind::Get(get)) => {
                pause(get.store).await;
                let body = Body::from_bytes(payload(get.offset, get.len as usize));
                (response::Kind::Get(pb::GetBlockReply { block_len: get.offset, ..Default::default() }), body)
            }
            Some(request::Kind::Put(put)) => {
                pause(put.store).await;
                let crc = crc32c(&body.concat());
                let incarnation = u64::from(put.pg) << 32 | u64::from(crc);
                (response::Kind::Put(pb::PutBlockReply { incarnation, existed: false }), Body::empty())
            }
            _ => (response::Kind::Sync(pb::SyncBlocksReply::default()), Body::empty()),
        })
    }
}

/// True when this is the answer to the request with this tag.
pub fn is_right(reply: &cairn_net::Reply, tag: u32, len: usize) -> bool {
    match &reply.response.kind {
        Some(response::Kind::Get(get)) => get.block_len == tag && reply.body == payload(tag, len),
        Some(response::Kind::Put(put)) => {
            put.incarnation == (u64::from(tag) << 32 | u64::from(crc32c(&payload(tag, len))))
        }
        _ => false,
    }
}

/// A running server.
pub struct Server {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its counters.
    pub stats: Arc<ServerStats>,
    /// Most connections that were open while it worked on a request.
    pub connections_max: Arc<AtomicUsize>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens on `addr`, as `127.0.0.1:0`.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn start(addr: &str, change: impl FnOnce(&mut ServerConfig)) -> Result<Self> {
        let listener = TcpNet.bind(addr).await.with_context(|| format!("listening on {addr}"))?;
        let addr = listener.local_addr()?;
        let identity = Identity { node_id: NodeId(1), ..Identity::client(BootId([2; 16])) };
        let mut config = ServerConfig::new(identity.shared());
        change(&mut config);
        let (stats, stop) = (Arc::clone(&config.stats), CancellationToken::new());
        let connections_max = Arc::new(AtomicUsize::new(0));
        let handler = Tagged { connections: Arc::clone(&connections_max), stats: Arc::clone(&stats) };
        let task = tokio::spawn(serve(listener, Arc::new(handler), config, stop.clone()));
        Ok(Self { addr, stats, connections_max, stop, task })
    }

    /// Connections that stand.
    pub fn connections(&self) -> usize {
        self.stats.connections.load(Ordering::Relaxed)
    }

    /// Ends in order: peers are told.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}
