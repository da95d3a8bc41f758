//! An echo server and a link to it.

use async_trait::async_trait;
use bytes::Bytes;
use cairn_net::{
    Body, Call, Handler, Identity, Leg, LegError, Link, LinkConfig, Net, Reply, RequestContext, ServerConfig, now,
    serve,
};
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, response};
use cairn_proto::status::{Code, Status};
use cairn_proto::{BootId, ClusterId, NodeId};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const CLUSTER: ClusterId = ClusterId([7; 16]);

/// Answers PUT with its own body, GET with `len` bytes that follow from `offset`, LIST when `gate` opens, SYNC with an
/// error, DELETE with a panic, HEARTBEAT with the time it has left.
pub struct Echo {
    pub gate: Semaphore,
    pub seen: AtomicUsize,
    pub cancelled: AtomicUsize,
}

impl Default for Echo {
    fn default() -> Self {
        Self { gate: Semaphore::new(0), seen: AtomicUsize::new(0), cancelled: AtomicUsize::new(0) }
    }
}

/// Bytes that say which request they belong to: a block of a prime length, drawn from the seed, again and again.
pub fn pattern(seed: u32, len: usize) -> Bytes {
    let mut block = [0; 1021];
    fastrand::Rng::with_seed(seed.into()).fill(&mut block);
    let mut out = block.repeat(len.div_ceil(block.len()));
    out.truncate(len);
    out.into()
}

#[async_trait]
impl Handler for Echo {
    async fn handle(
        &self,
        ctx: &RequestContext,
        request: pb::Request,
        body: Vec<Bytes>,
    ) -> Result<(response::Kind, Body), Status> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        match request.kind {
            Some(Kind::Put(put)) => {
                ctx.work.add_disk(Duration::from_micros(put.pg_epoch));
                let content: Bytes = body.concat().into();
                let reply = pb::PutBlockReply { incarnation: put.pg_epoch, existed: ctx.retry };
                Ok((response::Kind::Put(reply), Body::from_bytes(content)))
            }
            Some(Kind::Get(get)) => {
                let content = pattern(get.offset, get.len as usize);
                Ok((response::Kind::Get(pb::GetBlockReply::default()), Body::from_bytes(content)))
            }
            Some(Kind::List(_)) => {
                tokio::select! {
                    permit = self.gate.acquire() => permit.unwrap().forget(),
                    () = ctx.cancelled.cancelled() => {
                        self.cancelled.fetch_add(1, Ordering::SeqCst);
                        return Err(Status::new(Code::Cancelled, "nobody waits"));
                    }
                }
                Ok((response::Kind::List(pb::ListBlocksReply::default()), Body::empty()))
            }
            Some(Kind::Sync(_)) => Err(Status::new(Code::Io, "the disk said no").retry_after_ms(17)),
            Some(Kind::Delete(_)) => panic!("asked for"),
            Some(Kind::Heartbeat(_)) => {
                let left = ctx.deadline.unwrap() - now();
                Err(Status::new(Code::Unavailable, format!("left {} ms", left.as_millis())))
            }
            other => Err(Status::new(Code::Unsupported, format!("{other:?}"))),
        }
    }

    fn pong(&self) -> pb::Pong {
        pb::Pong { queue_depth: 3, ..Default::default() }
    }
}

/// A server that runs, and how to stop it.
pub struct Running {
    pub addr: String,
    pub config: ServerConfig,
    pub echo: Arc<Echo>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

pub fn server_identity(node: u32) -> Identity {
    Identity {
        role: pb::Role::Node,
        cluster_id: CLUSTER,
        node_id: NodeId(node),
        boot_id: BootId([3; 16]),
        software: "test".into(),
    }
}

pub async fn start_with(net: &dyn Net, addr: &str, change: impl FnOnce(&mut ServerConfig)) -> Running {
    let listener = net.bind(addr).await.unwrap();
    let addr = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let mut config = ServerConfig::new(server_identity(5).shared());
    config.drain_timeout = Duration::from_millis(200);
    change(&mut config);
    let echo = Arc::new(Echo::default());
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve(listener, Arc::clone(&echo) as Arc<dyn Handler>, config.clone(), shutdown.clone()));
    Running { addr, config, echo, shutdown, task }
}

pub async fn start(net: &dyn Net) -> Running {
    start_with(net, "127.0.0.1:0", |_| ()).await
}

pub fn link_with(net: impl Net, addr: &str, change: impl FnOnce(&mut LinkConfig)) -> Link {
    let mut config = LinkConfig { bulk_max: 4, ..LinkConfig::default() };
    change(&mut config);
    let identity = Identity { cluster_id: CLUSTER, ..Identity::client(BootId([1; 16])) }.shared();
    Link::new(Arc::new(net), addr.to_owned(), NodeId(5), identity, Arc::new(config), 1)
}

pub fn link(net: impl Net, addr: &str) -> Link {
    link_with(net, addr, |_| ())
}

pub fn call(kind: Kind) -> Call {
    Call::new(kind, now() + Duration::from_secs(20))
}

/// A PUT that is echoed.
pub fn put(content: Bytes) -> Call {
    let len = content.len() as u64;
    let mut call = call(Kind::Put(pb::PutBlock::default()));
    call.body = Body::from_bytes(content);
    call.response_max = len;
    call
}

/// A GET of `len` bytes that follow from `seed`.
pub fn get(seed: u32, len: usize) -> Call {
    let mut call = call(Kind::Get(pb::GetBlock { offset: seed, len: len as u32, ..Default::default() }));
    call.response_max = len as u64;
    call
}

/// A request that waits at the server's gate.
pub fn gated() -> Call {
    call(Kind::List(pb::ListBlocks::default()))
}

pub async fn get_ok(link: &Link, seed: u32, len: usize) -> Reply {
    let reply = link.start(get(seed, len)).await.unwrap();
    assert_eq!(reply.body, pattern(seed, len));
    reply
}

/// Lets a leg run until it needs something from outside; it must not be over.
pub async fn poll_once(leg: &mut Leg) {
    assert!(futures_util::poll!(leg).is_pending(), "the leg is over already");
}

/// Yields until `done`, at most for a while of the test's clock.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = now() + Duration::from_secs(10);
    while !done() {
        assert!(now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(1)).await; // tidy: sleep-ok(polls a condition)
    }
}

/// What must hold when a link is quiet: everything that was taken is back.
pub async fn assert_quiet(link: &Link, config: &LinkConfig) {
    until("all permits are back", || {
        let stats = link.stats();
        stats.ops_available == config.ops && stats.bytes_available == config.bytes
    })
    .await;
    until("no connection is busy", || {
        let stats = link.stats();
        let lanes = [stats.control, stats.bulk];
        lanes.iter().all(|lane| lane.idle == lane.open && lane.dialing == 0 && lane.retired == 0)
    })
    .await;
    let stats = link.stats();
    assert_eq!((stats.in_flight, stats.waiting_connection, stats.waiting_permits), (0, 0, 0));
    // Two per connection and upkeep.
    until("no task is left over", || {
        let stats = link.stats();
        stats.tasks <= 2 * (stats.control.open + stats.bulk.open) + 1
    })
    .await;
}

pub fn error_of(outcome: Result<Reply, LegError>) -> LegError {
    outcome.expect_err("the leg must fail")
}
