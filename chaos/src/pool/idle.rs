//! AC6: a pool that nobody uses, whose server closes, restarts, or closes at the moment of the next request.

use super::server::{Server, download, is_right};
use crate::hostile::peer::{head, read_head};
use anyhow::{Context, Result, ensure};
use cairn_net::{CloseReason, Identity, Link, LinkConfig, TcpNet};
use cairn_proto::checksum::crc32c;
use cairn_proto::frame::{FixedHeader, FrameType, flags};
use cairn_proto::limits::FRAME_BODY_MAX;
use cairn_proto::pb::{self, request, response};
use cairn_proto::{BootId, NodeId};
use fastrand::Rng;
use prost::Message;
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const SMALL: usize = 1024;
const LARGE: usize = 256 * 1024;
const BULK_MIN: usize = 1;
const BULK_MAX: usize = 4;
/// Requests at once, many more than connections.
const BURST: u32 = 64;
const OPERATION_MAX: Duration = Duration::from_secs(20);
/// Looking at the pool costs a lock: not all the time.
const POLL: Duration = Duration::from_millis(50);
const POLL_CLOSE: Duration = Duration::from_millis(1);
/// A server that closes connections it has not heard from for this long.
const SERVER_IDLE: Duration = Duration::from_millis(100);
const RACE_MAX_US: u64 = 200;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Decides every random choice.
    pub seed: u64,
    /// The client's idle timeout.
    pub idle_timeout: Duration,
    /// How long nobody asks.
    pub idle: Duration,
    /// How often a server closes idle connections.
    pub closes: u32,
    /// How often it is restarted.
    pub restarts: u32,
    /// Requests that meet a connection that is being closed.
    pub races: u32,
}

impl Settings {
    /// The criterion's.
    pub const fn full(seed: u64) -> Self {
        let idle_timeout = Duration::from_secs(60);
        Self { seed, idle_timeout, idle: Duration::from_secs(66), closes: 20, restarts: 20, races: 1_000 }
    }

    /// Some seconds.
    pub const fn short(seed: u64) -> Self {
        let idle_timeout = Duration::from_secs(1);
        Self { seed, idle_timeout, idle: Duration::from_secs(4), closes: 2, restarts: 4, races: 100 }
    }
}

/// What was counted.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Requests that failed or got another's answer, in all parts.
    pub failed: u64,
    /// After how long without requests the pool was down to its minimum.
    pub idle_reaped_by_s: f64,
    /// Its connections for large bodies then, and still later.
    pub open_after: usize,
    /// Its minimum.
    pub pool_min: usize,
    /// Longest time from a server's close to the pool's knowing.
    pub fin_noticed_ms_max: f64,
    /// Most connections that a server saw at once under more requests than connections.
    pub max_conns_seen: usize,
    /// The pool's maximum, both lanes.
    pub pool_max: usize,
    /// Idle connections that the server closed.
    pub closed_by_server: u64,
    /// Requests that met a connection that was being closed and were sent again.
    pub stale_retries: u64,
}

/// A link that counts what fails.
#[derive(Clone)]
struct Client {
    link: Link,
    failed: Arc<AtomicU64>,
}

impl Client {
    fn new(addr: SocketAddr, settings: Settings, failed: &Arc<AtomicU64>) -> Self {
        let config = LinkConfig {
            idle_timeout: settings.idle_timeout,
            bulk_min: BULK_MIN,
            bulk_max: BULK_MAX,
            ..LinkConfig::default()
        };
        let identity = Identity::client(BootId([1; 16])).shared();
        let net = Arc::new(TcpNet);
        let link = Link::new(net, addr.to_string(), NodeId(1), identity, Arc::new(config), settings.seed);
        Self { link, failed: Arc::clone(failed) }
    }

    async fn one(&self, tag: u32, len: usize, pause: Duration) {
        let reply = self.link.start(download(tag, len, pause, OPERATION_MAX)).await;
        let is_good = match &reply {
            Ok(reply) => is_right(reply, tag, len),
            Err(error) => {
                tracing::warn!(%error, "a request failed");
                false
            }
        };
        self.failed.fetch_add(u64::from(!is_good), Ordering::Relaxed);
    }

    /// Many at once, on both lanes.
    async fn burst(&self) {
        let mut tasks = JoinSet::new();
        for tag in 0..BURST {
            let client = self.clone();
            let len = if tag % 2 == 0 { LARGE } else { SMALL };
            tasks.spawn(async move { client.one(tag, len, Duration::from_millis(5)).await });
        }
        while tasks.join_next().await.is_some() {}
    }

    fn open(&self) -> usize {
        let stats = self.link.stats();
        stats.control.open + stats.bulk.open
    }
}

/// Nobody asks; when was the pool at its minimum, and what was left at the end.
async fn idle(settings: Settings, failed: &Arc<AtomicU64>) -> Result<(f64, usize, usize)> {
    let server = Server::start("127.0.0.1:0", |_| ()).await?;
    let client = Client::new(server.addr, settings, failed);
    client.burst().await;
    let full = client.link.stats();
    ensure!(full.bulk.open == BULK_MAX && full.control.open == 1, "the burst left {full:?}");
    let begun = Instant::now();
    let mut reaped = None;
    while begun.elapsed() < settings.idle {
        sleep(POLL).await;
        let stats = client.link.stats();
        if reaped.is_none() && stats.bulk.open <= BULK_MIN && stats.control.open == 0 {
            reaped = Some(begun.elapsed());
        }
    }
    let open_after = client.link.stats().bulk.open;
    client.one(1, LARGE, Duration::ZERO).await;
    let max_seen = server.connections_max.load(Ordering::Relaxed);
    server.stop().await;
    Ok((reaped.unwrap_or(Duration::MAX).as_secs_f64(), open_after, max_seen))
}

/// The server closes what it has not heard from; how long the pool needed to know, at most, and how many it closed.
async fn closed_by_server(settings: Settings, failed: &Arc<AtomicU64>) -> Result<(f64, u64)> {
    let server = Server::start("127.0.0.1:0", |config| config.idle_timeout = SERVER_IDLE).await?;
    // Only the server closes here, however slow this machine is.
    let patient = Settings { idle_timeout: OPERATION_MAX, ..settings };
    let client = Client::new(server.addr, patient, failed);
    let mut noticed: f64 = 0.0;
    for round in 0..settings.closes {
        client.one(round, SMALL, Duration::ZERO).await;
        client.one(round, LARGE, Duration::ZERO).await;
        let begun = Instant::now();
        // The sweep that closes both may fall between two looks: what counts is the last close.
        let mut closed_at = begun;
        loop {
            ensure!(begun.elapsed() < OPERATION_MAX, "idle connections are not closed");
            let (there, here) = (server.connections(), client.open());
            if there > 0 {
                closed_at = Instant::now();
            } else if here == 0 {
                break;
            }
            sleep(POLL_CLOSE).await;
        }
        noticed = noticed.max(closed_at.elapsed().as_secs_f64() * 1e3);
    }
    let closed = client.link.stats().closed(CloseReason::PeerClosed);
    server.stop().await;
    Ok((noticed, closed))
}

/// The server goes, in order or not, and comes back at its address.
async fn restarts(settings: Settings, failed: &Arc<AtomicU64>) -> Result<()> {
    let mut server = Server::start("127.0.0.1:0", |_| ()).await?;
    let client = Client::new(server.addr, settings, failed);
    for round in 0..settings.restarts {
        client.one(round, SMALL, Duration::ZERO).await;
        client.one(round, LARGE, Duration::ZERO).await;
        let addr = server.addr.to_string();
        server.stop().await;
        let patience = if round % 2 == 0 { Duration::ZERO } else { Duration::from_secs(1) };
        server = Server::start(&addr, |config| config.drain_timeout = patience).await?;
    }
    client.burst().await;
    server.stop().await;
    Ok(())
}

/// A server that answers one request on each connection and closes it a moment later.
async fn race_server(listener: TcpListener, seed: u64) {
    let mut random = Rng::with_seed(seed);
    let mut sessions = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let pause = Duration::from_micros(random.u64(..RACE_MAX_US));
        sessions.spawn(async move {
            // The other side sees whatever goes wrong here.
            let _ = race_session(stream, pause).await;
        });
        while sessions.try_join_next().is_some() {}
    }
}

async fn race_session(mut stream: TcpStream, pause: Duration) -> Result<()> {
    stream.set_nodelay(true)?;
    read_head(&mut stream).await?.context("no HELLO")?;
    let ack = pb::HelloAck {
        proto: 1,
        node_id: 1,
        features_supported: u64::MAX,
        max_frame: FRAME_BODY_MAX,
        idle_timeout_ms: 180_000,
        role: pb::Role::Node as i32,
        ..Default::default()
    };
    stream.write_all(&head(FixedHeader::new(FrameType::HelloAck, 0, 0), &ack)).await?;
    let (asked, protobuf) = read_head(&mut stream).await?.context("no request")?;
    let Some(request::Kind::Get(get)) = pb::Request::decode(&protobuf[..])?.kind else {
        anyhow::bail!("not a GET");
    };
    let body = super::server::payload(get.offset, get.len as usize);
    let kind = response::Kind::Get(pb::GetBlockReply { block_len: get.offset, ..Default::default() });
    let response = pb::Response { kind: Some(kind), total_len: body.len() as u64, ..Default::default() };
    let fixed = FixedHeader {
        flags: flags::END,
        body_len: body.len() as u32,
        body_crc: crc32c(&body),
        ..FixedHeader::new(FrameType::Response, asked.request_id, asked.op)
    };
    stream.write_all(&head(fixed, &response)).await?;
    stream.write_all(&body).await?;
    // Closed with the next request unread, the kernel resets the connection (RFC 9293, section 3.10.4); without, it ends it.
    spin(pause).await;
    Ok(())
}

/// Waits for less than a timer can.
async fn spin(time: Duration) {
    let until = std::time::Instant::now() + time;
    while std::time::Instant::now() < until {
        tokio::task::yield_now().await;
    }
}

/// Requests that come at about the moment when their connection goes.
async fn races(settings: Settings, failed: &Arc<AtomicU64>) -> Result<u64> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listening on loopback")?;
    let client = Client::new(listener.local_addr()?, settings, failed);
    let mut server = JoinSet::new();
    server.spawn(race_server(listener, settings.seed));
    let mut random = Rng::with_seed(settings.seed + 1);
    for tag in 0..settings.races {
        let len = if random.bool() { SMALL } else { LARGE };
        client.one(tag, len, Duration::ZERO).await;
        spin(Duration::from_micros(random.u64(..RACE_MAX_US))).await;
    }
    Ok(client.link.stats().stale_retries)
}

/// Runs all parts side by side; the idle one takes longest.
///
/// # Errors
/// A server did not come up, or the pool does not do anything that could be judged.
pub async fn run(settings: Settings) -> Result<Outcome> {
    let failed = Arc::new(AtomicU64::new(0));
    let active = async {
        let (fin_noticed_ms_max, closed_by_server) = closed_by_server(settings, &failed).await?;
        restarts(settings, &failed).await?;
        let stale_retries = races(settings, &failed).await?;
        anyhow::Ok((fin_noticed_ms_max, closed_by_server, stale_retries))
    };
    let (idle, active) = tokio::join!(idle(settings, &failed), active);
    let (idle_reaped_by_s, open_after, max_conns_seen) = idle?;
    let (fin_noticed_ms_max, closed_by_server, stale_retries) = active?;
    Ok(Outcome {
        failed: failed.load(Ordering::Relaxed),
        idle_reaped_by_s,
        open_after,
        pool_min: BULK_MIN,
        fin_noticed_ms_max,
        max_conns_seen,
        pool_max: BULK_MAX + 1,
        closed_by_server,
        stale_retries,
    })
}
