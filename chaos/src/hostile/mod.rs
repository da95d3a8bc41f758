//! AC11: lengths that are too large, the largest that is not, and frames that are no frames.
//!
//! The decoder gets frames by the million; a live server and a live client of the product get fewer of them, over
//! sockets. All in one process, so that a panic, memory that is kept and memory that is promised to an unproven length
//! are seen.

pub mod fuzz;
pub(crate) mod peer;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use cairn_net::{
    Body, Call, Handler, Identity, Link, LinkConfig, Net, RequestContext, ServerConfig, ServerStats, TcpNet, serve,
};
use cairn_proto::frame::{FixedHeader, FrameType};
use cairn_proto::limits::{FRAME_BODY_MAX, RESPONSE_LEN_MAX};
use cairn_proto::pb::{self, request, response};
use cairn_proto::status::Status;
use cairn_proto::{BootId, NodeId, op};
use fuzz::{Found, From, Fuzzer, Tally, decode};
use parking_lot::Mutex;
use peer::{HostileServer, drain, greet, head};
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const VALID_LEN: usize = 99 * 1024 * 1024;
/// Connections that hang behind an announced length while memory is looked at.
const HANGING: usize = 16;
const OPERATION_MAX: Duration = Duration::from_secs(30);
const SETTLE_STEP: Duration = Duration::from_millis(20);
/// Memory counts as settled when it has not moved for this many steps.
const SETTLE_STEPS: usize = 5;
const SETTLE_STEPS_MAX: usize = 500;
/// Frames a fuzzing client sends on one connection, at most.
const FRAMES_PER_CONNECTION: u64 = 4;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Decides every random choice.
    pub seed: u64,
    /// Frames for the decoder.
    pub decoded: u64,
    /// Frames for a live server.
    pub to_server: u64,
    /// Answers for a live client.
    pub to_client: u64,
}

impl Settings {
    /// The criterion's ten million.
    pub const fn full(seed: u64) -> Self {
        Self { seed, decoded: 10_000_000, to_server: 100_000, to_client: 20_000 }
    }

    /// Some seconds.
    pub const fn short(seed: u64) -> Self {
        Self { seed, decoded: 200_000, to_server: 4_000, to_client: 1_000 }
    }
}

/// What the process says of its memory. The program that is run decides on its allocator, so it has to tell.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Bytes that are allocated now.
    pub allocated: fn() -> usize,
    /// Bytes ever allocated.
    pub total: fn() -> usize,
}

static MEMORY: OnceLock<Memory> = OnceLock::new();

impl Memory {
    /// Says once, at the start of the program, how memory is counted.
    pub fn watch(self) {
        // A second call would be a defect of the program; the first stays.
        let _ = MEMORY.set(self);
    }

    fn watched() -> Result<Self> {
        MEMORY.get().copied().context("this program does not count its memory")
    }
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// How a response (and a request) of one byte too many ends.
    pub oversize_error: String,
    /// Growth of resident memory while frames were fuzzed.
    pub rss_growth_bytes: u64,
    /// 99 MiB arrive unchanged.
    pub valid99_ok: bool,
    /// Panics in this process.
    pub panics: u64,
    /// Most that an announced length made a side allocate before a checksum had vouched for a byte.
    pub max_alloc_before_crc: u64,
    /// What the decoder found.
    pub frames: Tally,
    /// Every kind of it came up.
    pub every_branch: bool,
    /// Connections that the live server ended because of what came.
    pub broken_by_server: u64,
    /// Answers that the live client refused.
    pub refused_by_client: u64,
}

/// Counts panics of the whole process from now on; they are still printed.
fn count_panics() -> Arc<AtomicU64> {
    let panics = Arc::new(AtomicU64::new(0));
    let (counter, before) = (Arc::clone(&panics), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        counter.fetch_add(1, Ordering::Relaxed);
        before(info);
    }));
    panics
}

/// Resident memory, from `/proc/self/statm` (proc_pid_statm(5)).
fn rss() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").context("reading /proc/self/statm")?;
    let pages: u64 = text.split(' ').nth(1).context("statm has no second field")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// The byte at a place of a large body.
fn byte_at(index: usize) -> u8 {
    (index ^ (index >> 8) ^ (index >> 16)) as u8
}

/// Answers GET with as many bytes as asked for, everything else with nothing.
struct Source;

#[async_trait]
impl Handler for Source {
    async fn handle(
        &self,
        _ctx: &RequestContext,
        request: pb::Request,
        _body: Vec<Bytes>,
    ) -> Result<(response::Kind, Body), Status> {
        let reply = response::Kind::Get(pb::GetBlockReply::default());
        match request.kind {
            // `offset` says that the caller is the one that reads 99 MiB, not one that fuzzes lengths.
            Some(request::Kind::Get(get)) if get.offset == 1 => {
                let body: Vec<u8> = (0..get.len as usize).map(byte_at).collect();
                Ok((reply, Body::from_bytes(body.into())))
            }
            _ => Ok((reply, Body::empty())),
        }
    }
}

/// The product's server loop.
struct Server {
    addr: SocketAddr,
    stats: Arc<ServerStats>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Result<Self> {
        let listener = TcpNet.bind("127.0.0.1:0").await.context("listening on loopback")?;
        let addr = listener.local_addr()?;
        let config = ServerConfig::new(Identity::client(BootId([2; 16])).shared());
        let (stats, stop) = (Arc::clone(&config.stats), CancellationToken::new());
        let task = tokio::spawn(serve(listener, Arc::new(Source), config, stop.clone()));
        Ok(Self { addr, stats, stop, task })
    }

    fn link(&self) -> Link {
        link(self.addr)
    }

    async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

fn link(addr: SocketAddr) -> Link {
    let identity = Identity::client(BootId([1; 16])).shared();
    Link::new(Arc::new(TcpNet), addr.to_string(), NodeId(0), identity, Arc::new(LinkConfig::default()), 1)
}

fn get(len: usize, response_max: u64) -> Call {
    let kind = request::Kind::Get(pb::GetBlock { len: len as u32, offset: 1, ..Default::default() });
    let mut call = Call::new(kind, tokio::time::Instant::now() + OPERATION_MAX);
    call.response_max = response_max;
    call
}

/// An answer that announces `total_len` bytes, `first` of them in its first frame, of which none come.
fn announce(asked: &FixedHeader, total_len: u64, first: u32) -> Vec<u8> {
    let kind = Some(response::Kind::Get(pb::GetBlockReply::default()));
    let response = pb::Response { kind, total_len, ..Default::default() };
    head(
        FixedHeader { body_len: first, ..FixedHeader::new(FrameType::Response, asked.request_id, asked.op) },
        &response,
    )
}

/// One byte too many: announced by a server, announced by a client, and asked of the link.
async fn oversize(server: &Server) -> Result<String> {
    let hostile =
        HostileServer::start(Arc::new(|asked| (announce(asked, RESPONSE_LEN_MAX + 1, FRAME_BODY_MAX), true))).await?;
    let answered = link(hostile.addr).start(get(1, RESPONSE_LEN_MAX)).await;
    let mut upload = get(0, 0);
    upload.body = Body::from_bytes(vec![0; RESPONSE_LEN_MAX as usize + 1].into());
    let sent = server.link().start(upload).await;
    for result in [answered, sent] {
        match result {
            Ok(_) => return Ok("none".to_owned()),
            Err(error) if error.class.name() != "too_large" => return Ok(format!("{:?}", error.class)),
            Err(_) => {}
        }
    }
    let before = server.stats.broken.load(Ordering::Relaxed);
    let mut stream = greet(server.addr, true).await?;
    stream.write_all(&upload_head(RESPONSE_LEN_MAX + 1, FRAME_BODY_MAX)).await?;
    drain(&mut stream).await?;
    let broken = server.stats.broken.load(Ordering::Relaxed) - before;
    Ok(if broken == 1 { "TooLarge" } else { "the server takes it" }.to_owned())
}

fn upload_head(total_len: u64, first: u32) -> Vec<u8> {
    let kind = Some(request::Kind::Put(pb::PutBlock::default()));
    let request = pb::Request { kind, total_len, ..Default::default() };
    head(FixedHeader { body_len: first, ..FixedHeader::new(FrameType::Request, 1, op::PUT) }, &request)
}

async fn valid99(server: &Server) -> Result<bool> {
    let reply = server.link().start(get(VALID_LEN, RESPONSE_LEN_MAX)).await.context("reading 99 MiB")?;
    Ok(reply.body.len() == VALID_LEN && reply.body.iter().enumerate().all(|(index, byte)| *byte == byte_at(index)))
}

/// Waits until the process allocates nothing more; what is allocated then.
async fn settled(memory: Memory) -> Result<usize> {
    let (mut last, mut same) = ((memory.allocated)(), 0);
    for _ in 0..SETTLE_STEPS_MAX {
        tokio::time::sleep(SETTLE_STEP).await;
        let now = (memory.allocated)();
        same = if now == last { same + 1 } else { 0 };
        if same == SETTLE_STEPS {
            return Ok(now);
        }
        last = now;
    }
    anyhow::bail!("memory does not settle")
}

/// What each of the hanging uploads makes the server allocate.
async fn held_by_server(server: &Server, memory: Memory, total_len: u64, first: u32) -> Result<f64> {
    let mut streams = Vec::with_capacity(HANGING);
    for _ in 0..HANGING {
        streams.push(greet(server.addr, true).await?);
    }
    let upload = upload_head(total_len, first);
    let before = settled(memory).await?;
    for stream in &mut streams {
        stream.write_all(&upload).await?;
    }
    Ok((settled(memory).await? - before) as f64 / HANGING as f64)
}

/// What each of the hanging downloads makes the client allocate.
async fn held_by_client(memory: Memory, total_len: u64, first: u32) -> Result<f64> {
    // They answer only once everybody has asked.
    let gate = Arc::new(tokio::sync::Barrier::new(HANGING + 1));
    let mut legs = tokio::task::JoinSet::new();
    let hostile = HostileServer::start(Arc::new(move |asked| (announce(asked, total_len, first), true))).await?;
    for _ in 0..HANGING {
        let (link, gate) = (link(hostile.addr), Arc::clone(&gate));
        legs.spawn(async move {
            link.ping(OPERATION_MAX).await.err();
            gate.wait().await;
            link.start(get(1, RESPONSE_LEN_MAX)).await.map(|_| ())
        });
    }
    gate.wait().await;
    let held = settled(memory).await?;
    ensure!(legs.try_join_next().is_none(), "a leg ended although its answer did not");
    legs.shutdown().await;
    drop(hostile);
    Ok((held - settled(memory).await?) as f64 / HANGING as f64)
}

/// What the longest announcement makes a side allocate beyond what an announcement of one byte does.
async fn allocated_ahead(server: &Server, memory: Memory) -> Result<u64> {
    // First time: connections, buffers of the runtime.
    held_by_server(server, memory, 2, 1).await?;
    let (most, least) = ((RESPONSE_LEN_MAX, FRAME_BODY_MAX), (2, 1));
    let by_server = held_by_server(server, memory, most.0, most.1).await?
        - held_by_server(server, memory, least.0, least.1).await?;
    held_by_client(memory, 2, 1).await?;
    let by_client = held_by_client(memory, most.0, most.1).await? - held_by_client(memory, least.0, least.1).await?;
    // The one byte that the smaller announcement is worth.
    Ok(by_server.max(by_client).max(0.0) as u64 + 1)
}

/// Frames for the decoder alone; what it found, and the most that one of them made it allocate.
fn fuzz_decoder(seed: u64, frames: u64, memory: Memory) -> (Tally, u64) {
    let (mut fuzzer, mut tally, mut most) = (Fuzzer::new(seed), Tally::default(), 0);
    for index in 0..frames {
        let from = if index % 2 == 0 { From::Client } else { From::Server { id: index, op: op::GET } };
        let frame = fuzzer.next(from);
        let before = (memory.total)();
        tally.count(decode(frame));
        most = most.max((memory.total)() - before);
    }
    (tally, most as u64)
}

/// Frames for a live server, on many connections; it must end each of them, and answer a proper request afterwards.
async fn fuzz_server(server: &Server, seed: u64, frames: u64) -> Result<()> {
    let mut fuzzer = Fuzzer::new(seed);
    let mut sent = 0;
    while sent < frames {
        let mut bytes = Vec::new();
        let count = 1 + sent % FRAMES_PER_CONNECTION;
        for _ in 0..count {
            bytes.extend_from_slice(fuzzer.next(From::Client));
        }
        sent += count;
        let mut stream = if fuzzer.one_in(8) {
            tokio::net::TcpStream::connect(server.addr).await?
        } else {
            greet(server.addr, fuzzer.one_in(2)).await?
        };
        // The server may hang up at any byte of this.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        drain(&mut stream).await?;
    }
    server.link().start(get(1, 1)).await.context("asking the server that was fuzzed")?;
    Ok(())
}

/// Answers for a live client; how many it refused. Each leg must end, and a proper server be reached afterwards.
async fn fuzz_client(server: &Server, seed: u64, answers: u64) -> Result<u64> {
    let fuzzer = Mutex::new(Fuzzer::new(seed));
    let hostile = HostileServer::start(Arc::new(move |asked| {
        let mut fuzzer = fuzzer.lock();
        let frame = fuzzer.next(From::Server { id: asked.request_id, op: asked.op }).to_vec();
        // Behind half a frame nothing would come on this connection any more.
        let whole = decode(&frame) == Found::Frame;
        (frame, whole && fuzzer.one_in(2))
    }))
    .await?;
    let link = link(hostile.addr);
    let mut refused = 0;
    for index in 0..answers {
        let max = if index % 2 == 0 { 1024 } else { u64::from(FRAME_BODY_MAX) };
        let mut call = get(1, max);
        // An answer to another request is none: nothing comes any more.
        call.deadline = tokio::time::Instant::now() + Duration::from_millis(20);
        refused += u64::from(link.start(call).await.is_err());
    }
    let stats = link.stats();
    ensure!(stats.ops_available == LinkConfig::default().ops, "a refused answer kept its permit: {stats:?}");
    server.link().start(get(1, 1)).await.context("asking a proper server")?;
    Ok(refused)
}

/// Runs everything.
///
/// # Errors
/// A side got stuck, or stopped serving proper peers, or nobody called [`Memory::watch`].
pub async fn run(settings: Settings) -> Result<Outcome> {
    let memory = Memory::watched()?;
    let panics = count_panics();
    let server = Server::start().await?;
    let Settings { seed, decoded, to_server, to_client } = settings;
    // Every kind once, so that what is measured is growth and not beginning.
    let warm = |frames: u64| frames / 4;
    tokio::task::spawn_blocking(move || fuzz_decoder(seed + 1, warm(decoded), memory)).await?;
    fuzz_server(&server, seed + 1, warm(to_server)).await?;
    fuzz_client(&server, seed + 1, warm(to_client)).await?;
    let before = rss()?;
    let (frames, most_decoded) = tokio::task::spawn_blocking(move || fuzz_decoder(seed, decoded, memory)).await?;
    fuzz_server(&server, seed, to_server).await?;
    let refused_by_client = fuzz_client(&server, seed, to_client).await?;
    let rss_growth_bytes = rss()?.saturating_sub(before);
    let broken_by_server = server.stats.broken.load(Ordering::Relaxed);
    let max_alloc_before_crc = allocated_ahead(&server, memory).await?.max(most_decoded);
    let oversize_error = oversize(&server).await?;
    let valid99_ok = valid99(&server).await?;
    server.stop().await;
    Ok(Outcome {
        oversize_error,
        rss_growth_bytes,
        valid99_ok,
        panics: panics.load(Ordering::Relaxed),
        max_alloc_before_crc,
        every_branch: frames.is_complete(),
        frames,
        broken_by_server,
        refused_by_client,
    })
}
