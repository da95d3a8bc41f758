//! AC15: what the connection layer costs when nothing is wrong, beside a bare frame echo.
//!
//! Both sides of the comparison answer the same requests with the same frames on loopback; their servers run on threads
//! of their own, as in another process. The bare side is the least a client of this protocol can do: one connection, one
//! request at a time, no permits, no pool, no timers, no cancellation. The two take turns in short slices, so that
//! whatever else the machine does falls on both.

use crate::quantile::Samples;
use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use cairn_net::{
    Body, BodyPart, Call, Handler, Identity, Link, LinkConfig, Net, RequestContext, ServerConfig, TcpNet, serve,
};
use cairn_proto::checksum::crc32c;
use cairn_proto::frame::{FIXED_LEN, FixedHeader, FrameType, flags};
use cairn_proto::pb::{self, request, response};
use cairn_proto::status::Status;
use cairn_proto::{BootId, NodeId, op};
use prost::Message;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const SMALL_LEN: usize = 4 * 1024;
const LARGE_LEN: usize = 1024 * 1024;
const CHUNK_LEN: usize = 64 * 1024;
/// Bodies come from different places of memory, as those of a real server: more than the nearest caches hold.
const POOL_LEN: usize = 64 * LARGE_LEN;
const OPERATION_MAX: Duration = Duration::from_secs(10);

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Turns each side gets.
    pub slices: usize,
    /// Requests for 4 KiB in a slice.
    pub small: usize,
    /// Requests for 1 MiB in a slice.
    pub large: usize,
}

impl Settings {
    /// Enough for a stable p99; the mix of sizes is that of the acceptance load (1,000 and 50 a second).
    pub const FULL: Self = Self { slices: 200, small: 400, large: 20 };
    /// Shows that it works.
    pub const SHORT: Self = Self { slices: 5, small: 40, large: 2 };
}

/// One request and its answer, over a connection or a link.
#[derive(Clone, Copy, Debug)]
struct Size {
    body: usize,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// Median time of 4 KiB through the link, less that of the bare echo.
    pub p50_overhead_us_4k: f64,
    /// Bytes per second of 1 MiB requests through the link, over those of the bare echo.
    pub bulk_throughput_ratio: f64,
    /// 99th percentile of 1 MiB requests, over that of the bare echo.
    pub p99_ratio_1m: f64,
    /// Processor time spent on checksums of the bodies, over all processor time of both ends of the link in this mix.
    pub crc_cpu_share: f64,
    /// What the ratios were formed from.
    pub detail: Detail,
}

/// Microseconds of requests, and processor seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Detail {
    bare_4k_p50_us: f64,
    link_4k_p50_us: f64,
    bare_1m_p50_us: f64,
    link_1m_p50_us: f64,
    bare_1m_p99_us: f64,
    link_1m_p99_us: f64,
    link_cpu_s: f64,
    crc_cpu_s: f64,
    /// Of the 1 MiB requests alone.
    bulk_crc_cpu_share: f64,
}

/// The same request for both sides.
fn request(size: Size) -> request::Kind {
    request::Kind::Get(pb::GetBlock { len: size.body as u32, store: 1, ..Default::default() })
}

fn reply() -> response::Kind {
    response::Kind::Get(pb::GetBlockReply { block_len: LARGE_LEN as u32, ..Default::default() })
}

/// Bodies with the checksums that a server keeps beside them.
struct Pool {
    small: (Bytes, u32),
    bodies: Vec<(Bytes, u32)>,
    turn: AtomicUsize,
}

impl Pool {
    fn new() -> Self {
        let bytes = Bytes::from((0..POOL_LEN).map(|i| ((i * 31) >> 3) as u8).collect::<Vec<_>>());
        let bodies = (0..POOL_LEN).step_by(LARGE_LEN).map(|at| bytes.slice(at..at + LARGE_LEN));
        let small = bytes.slice(..SMALL_LEN);
        let small = (small.clone(), crc32c(&small));
        Self { small, bodies: bodies.map(|body| (body.clone(), crc32c(&body))).collect(), turn: AtomicUsize::new(0) }
    }

    /// The next body of 1 MiB, or a small one.
    fn body(&self, small: bool) -> (Bytes, u32) {
        if small {
            let (body, crc) = &self.small;
            return (body.clone(), *crc);
        }
        self.bodies[self.turn.fetch_add(1, Ordering::Relaxed) % self.bodies.len()].clone()
    }
}

/// Answers with as many bytes as were asked for, from memory.
struct Source(Arc<Pool>);

fn is_small(asked: &pb::Request) -> bool {
    matches!(&asked.kind, Some(request::Kind::Get(get)) if get.len as usize == SMALL_LEN)
}

#[async_trait]
impl Handler for Source {
    async fn handle(
        &self,
        _ctx: &RequestContext,
        request: pb::Request,
        _body: Vec<Bytes>,
    ) -> Result<(response::Kind, Body), Status> {
        let (data, crc) = self.0.body(is_small(&request));
        Ok((reply(), Body::from_parts(vec![BodyPart::Bytes { data, crc }])))
    }
}

/// One whole frame but its body.
fn head(frame_type: FrameType, id: u64, protobuf: &[u8], body: &[u8], body_crc: u32) -> Vec<u8> {
    let fixed = FixedHeader {
        flags: flags::END,
        body_len: body.len() as u32,
        body_crc,
        ..FixedHeader::new(frame_type, id, op::GET)
    };
    let mut bytes = fixed.seal(protobuf).to_vec();
    bytes.extend_from_slice(protobuf);
    bytes
}

/// A frame's fixed header and its protobuf header.
async fn read_head(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<FixedHeader> {
    let mut fixed = [0; FIXED_LEN];
    stream.read_exact(&mut fixed).await.context("reading a frame")?;
    let fixed = FixedHeader::decode(&fixed)?;
    let protobuf = &mut buffer[..fixed.header_len as usize];
    stream.read_exact(protobuf).await.context("reading a frame")?;
    fixed.check(protobuf)?;
    Ok(fixed)
}

/// Sends a head and its body with as few system calls as the kernel allows.
async fn write_frame(stream: &mut TcpStream, head: &[u8], body: &[u8]) -> std::io::Result<()> {
    let mut slices = [std::io::IoSlice::new(head), std::io::IoSlice::new(body)];
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        let sent = stream.write_vectored(rest).await?;
        std::io::IoSlice::advance_slices(&mut rest, sent);
    }
    Ok(())
}

async fn bare_server(listener: TcpListener, pool: Arc<Pool>) -> Result<()> {
    let (mut stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let protobuf = pb::Response { kind: Some(reply()), total_len: LARGE_LEN as u64, ..Default::default() };
    let protobuf = protobuf.encode_to_vec();
    let mut buffer = vec![0; CHUNK_LEN];
    while let Ok(fixed) = read_head(&mut stream, &mut buffer).await {
        let asked = pb::Request::decode(&buffer[..fixed.header_len as usize])?;
        let (body, crc) = pool.body(is_small(&asked));
        write_frame(&mut stream, &head(FrameType::Response, fixed.request_id, &protobuf, &body, crc), &body).await?;
    }
    Ok(())
}

/// The bare side.
struct Bare {
    stream: TcpStream,
    id: u64,
    buffer: Vec<u8>,
}

impl Bare {
    async fn new(addr: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, id: 0, buffer: vec![0; CHUNK_LEN] })
    }

    async fn one(&mut self, size: Size) -> Result<()> {
        self.id += 1;
        let protobuf = pb::Request { kind: Some(request(size)), ..Default::default() }.encode_to_vec();
        let head = head(FrameType::Request, self.id, &protobuf, &[], 0);
        self.stream.write_all(&head).await?;
        let fixed = read_head(&mut self.stream, &mut self.buffer).await?;
        let mut body = BytesMut::with_capacity(fixed.body_len as usize);
        while body.len() < size.body {
            ensure!(self.stream.read_buf(&mut body).await? > 0, "the bare server hung up");
        }
        ensure!(crc32c(&body) == fixed.body_crc, "a body was spoilt on loopback");
        Ok(())
    }
}

/// Who answers.
enum Side<'a> {
    Bare(&'a mut Bare),
    Link(&'a Link),
}

impl Side<'_> {
    async fn one(&mut self, size: Size) -> Result<()> {
        match self {
            Self::Bare(bare) => bare.one(size).await,
            Self::Link(link) => {
                let mut call = Call::new(request(size), tokio::time::Instant::now() + OPERATION_MAX);
                call.response_max = size.body as u64;
                let reply = link.start(call).await?;
                ensure!(reply.body.len() == size.body, "the answer has {} bytes", reply.body.len());
                Ok(())
            }
        }
    }

    /// Requests one after the other; their times.
    async fn slice(mut self, size: Size, count: usize, samples: &mut Samples) -> Result<()> {
        for _ in 0..count {
            let began = Instant::now();
            self.one(size).await?;
            samples.push(began.elapsed());
        }
        Ok(())
    }
}

/// Processor time so far: of the process, or of this thread.
fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Processor time of one checksum over a body that was just received: as warm as a copy leaves it.
fn crc_cost(len: usize, rounds: usize) -> Duration {
    let source = vec![7; len];
    let mut body = vec![0; len];
    let mut spent = Duration::ZERO;
    for _ in 0..rounds {
        body.copy_from_slice(black_box(&source));
        let before = cpu(ClockId::ThreadCPUTime);
        black_box(crc32c(black_box(&body)));
        spent += cpu(ClockId::ThreadCPUTime) - before;
    }
    spent / rounds as u32
}

/// Both servers, on a runtime of their own. Ends with [`Servers::stop`].
struct Servers {
    runtime: Runtime,
    bare: SocketAddr,
    link: SocketAddr,
    stop: CancellationToken,
}

impl Servers {
    fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let pool = Arc::new(Pool::new());
        let stop = CancellationToken::new();
        let (bare, link) = runtime.block_on(async {
            let bare = TcpListener::bind("127.0.0.1:0").await?;
            let link = TcpNet.bind("127.0.0.1:0").await?;
            std::io::Result::Ok((bare, link))
        })?;
        let addrs = (bare.local_addr()?, link.local_addr()?);
        runtime.spawn(bare_server(bare, Arc::clone(&pool)));
        let config = ServerConfig::new(Identity::client(BootId([2; 16])).shared());
        runtime.spawn(serve(link, Arc::new(Source(pool)), config, stop.clone()));
        Ok(Self { runtime, bare: addrs.0, link: addrs.1, stop })
    }

    fn stop(self) {
        self.stop.cancel();
        self.runtime.shutdown_background();
    }
}

/// Measures both sides in turns.
///
/// # Errors
/// Loopback failed.
pub async fn measure(settings: Settings) -> Result<Cost> {
    let servers = tokio::task::spawn_blocking(Servers::start).await??;
    let cost = measure_with(&servers, settings).await;
    servers.stop();
    cost
}

async fn measure_with(servers: &Servers, settings: Settings) -> Result<Cost> {
    let identity = Identity::client(BootId([1; 16])).shared();
    let config = Arc::new(LinkConfig::default());
    let link = Link::new(Arc::new(TcpNet), servers.link.to_string(), NodeId(0), identity, config, 1);
    let mut bare = Bare::new(servers.bare).await?;
    let (small, large) = (Size { body: SMALL_LEN }, Size { body: LARGE_LEN });
    let (mut bare_small, mut link_small) = (Samples::default(), Samples::default());
    let (mut bare_large, mut link_large) = (Samples::default(), Samples::default());
    let (mut small_cpu, mut large_cpu) = (Duration::ZERO, Duration::ZERO);
    // The first requests dial, fill caches and grow socket buffers.
    let mut warm_up = Samples::default();
    for size in [small, large] {
        Side::Bare(&mut bare).slice(size, settings.large * 2, &mut warm_up).await?;
        Side::Link(&link).slice(size, settings.large * 2, &mut warm_up).await?;
    }
    for _ in 0..settings.slices {
        Side::Bare(&mut bare).slice(small, settings.small, &mut bare_small).await?;
        let before = cpu(ClockId::ProcessCPUTime);
        Side::Link(&link).slice(small, settings.small, &mut link_small).await?;
        small_cpu += cpu(ClockId::ProcessCPUTime) - before;
        Side::Bare(&mut bare).slice(large, settings.large, &mut bare_large).await?;
        let before = cpu(ClockId::ProcessCPUTime);
        Side::Link(&link).slice(large, settings.large, &mut link_large).await?;
        large_cpu += cpu(ClockId::ProcessCPUTime) - before;
    }
    // Every body is hashed once, by its reader: the server sends checksums it keeps.
    let count = |samples: &Samples| samples.len() as u32;
    let large_crc = crc_cost(LARGE_LEN, settings.slices.max(50)) * count(&link_large);
    let small_crc = crc_cost(SMALL_LEN, settings.slices.max(50)) * count(&link_small);
    let us = |samples: &mut Samples, q: f64| samples.quantile(q).as_secs_f64() * 1e6;
    let detail = Detail {
        bare_4k_p50_us: us(&mut bare_small, 0.5),
        link_4k_p50_us: us(&mut link_small, 0.5),
        bare_1m_p50_us: us(&mut bare_large, 0.5),
        link_1m_p50_us: us(&mut link_large, 0.5),
        bare_1m_p99_us: us(&mut bare_large, 0.99),
        link_1m_p99_us: us(&mut link_large, 0.99),
        link_cpu_s: (small_cpu + large_cpu).as_secs_f64(),
        crc_cpu_s: (small_crc + large_crc).as_secs_f64(),
        bulk_crc_cpu_share: large_crc.as_secs_f64() / large_cpu.as_secs_f64(),
    };
    Ok(Cost {
        p50_overhead_us_4k: detail.link_4k_p50_us - detail.bare_4k_p50_us,
        bulk_throughput_ratio: bare_large.sum().as_secs_f64() / link_large.sum().as_secs_f64(),
        p99_ratio_1m: detail.link_1m_p99_us / detail.bare_1m_p99_us,
        crc_cpu_share: detail.crc_cpu_s / detail.link_cpu_s,
        detail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn both_sides_answer_and_are_measured() {
        let cost = measure(Settings::SHORT).await.unwrap();
        assert!(cost.detail.bare_4k_p50_us > 0.0 && cost.detail.link_4k_p50_us > 0.0, "{cost:?}");
        assert!(cost.bulk_throughput_ratio > 0.0 && cost.p99_ratio_1m > 0.0 && cost.crc_cpu_share > 0.0, "{cost:?}");
    }
}
