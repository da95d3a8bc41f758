//! What the connection layer costs beside bare sockets, in one run on one machine: round trips of 4 KiB, and large
//! responses from memory and from a file. `cargo run --release -p cairn-bench --example link_overhead`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program outside the product"
)]

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use cairn_net::{
    Body, BodyPart, Call, FileHandle, Handler, Identity, Link, LinkConfig, Net, RequestContext, ServerConfig, TcpNet,
    serve,
};
use cairn_proto::checksum::crc32c;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, response};
use cairn_proto::status::Status;
use cairn_proto::{BootId, NodeId};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const SMALL: usize = 4096;
const LARGE: usize = 4 << 20;
const FRAME: usize = 1 << 20;

/// Answers PUT with its body, GET with [`LARGE`] bytes from memory or, with an offset, from a file.
struct Server {
    memory: Body,
    file: Body,
}

#[async_trait]
impl Handler for Server {
    async fn handle(
        &self,
        _ctx: &RequestContext,
        request: pb::Request,
        mut body: Vec<Bytes>,
    ) -> Result<(response::Kind, Body), Status> {
        Ok(match request.kind {
            Some(Kind::Get(get)) => {
                let body = if get.offset == 0 { &self.memory } else { &self.file };
                (response::Kind::Get(pb::GetBlockReply::default()), body.clone())
            }
            _ => {
                let body = body.pop().map_or_else(Body::empty, Body::from_bytes);
                (response::Kind::Put(pb::PutBlockReply::default()), body)
            }
        })
    }
}

fn quantiles(mut samples: Vec<Duration>) -> String {
    samples.sort_unstable();
    let at = |q: f64| samples[(samples.len() as f64 * q) as usize].as_nanos() as f64 / 1000.0;
    format!("p50 {:7.1} us   p90 {:7.1} us   p99 {:7.1} us", at(0.5), at(0.9), at(0.99))
}

async fn bare_echo(rounds: usize) -> Vec<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback works");
    let addr = listener.local_addr().expect("loopback works");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("loopback works");
        stream.set_nodelay(true).expect("loopback works");
        let mut frame = vec![0; 40 + SMALL];
        while stream.read_exact(&mut frame).await.is_ok() {
            stream.write_all(&frame).await.expect("loopback works");
        }
    });
    let mut stream = TcpStream::connect(addr).await.expect("loopback works");
    stream.set_nodelay(true).expect("loopback works");
    let mut frame = vec![7; 40 + SMALL];
    let mut samples = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let began = Instant::now();
        stream.write_all(&frame).await.expect("loopback works");
        stream.read_exact(&mut frame).await.expect("loopback works");
        samples.push(began.elapsed());
    }
    samples
}

async fn link_echo(link: &Link, rounds: usize) -> Vec<Duration> {
    let body = Body::from_bytes(vec![7; SMALL].into());
    let mut samples = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let mut call =
            Call::new(Kind::Put(pb::PutBlock::default()), tokio::time::Instant::now() + Duration::from_secs(9));
        let began = Instant::now();
        call.body = body.clone();
        let reply = link.start(call).await.expect("loopback works");
        assert_eq!(reply.body.len(), SMALL);
        samples.push(began.elapsed());
    }
    samples
}

/// Bytes per second of requests for [`LARGE`] bytes over bare sockets.
async fn bare_bulk(total: usize) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback works");
    let addr = listener.local_addr().expect("loopback works");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("loopback works");
        stream.set_nodelay(true).expect("loopback works");
        let frame = vec![7; FRAME];
        while stream.read_u8().await.is_ok() {
            for _ in 0..LARGE / FRAME {
                stream.write_all(&frame).await.expect("loopback works");
            }
        }
    });
    let mut stream = TcpStream::connect(addr).await.expect("loopback works");
    let began = Instant::now();
    for _ in 0..total / LARGE {
        stream.write_u8(1).await.expect("loopback works");
        let mut buffer = BytesMut::with_capacity(LARGE);
        while buffer.len() < LARGE {
            stream.read_buf(&mut buffer).await.expect("loopback works");
        }
    }
    total as f64 / began.elapsed().as_secs_f64()
}

async fn link_bulk(link: &Link, total: usize, at_once: usize, from_file: bool, verify: bool) -> f64 {
    let began = Instant::now();
    let tasks: Vec<_> = (0..at_once)
        .map(|_| {
            let link = link.clone();
            tokio::spawn(async move {
                for _ in 0..total / LARGE / at_once {
                    let get = pb::GetBlock { offset: from_file.into(), ..Default::default() };
                    let mut call = Call::new(Kind::Get(get), tokio::time::Instant::now() + Duration::from_secs(9));
                    call.response_max = LARGE as u64;
                    call.verify_body = verify;
                    assert_eq!(link.start(call).await.expect("loopback works").body.len(), LARGE);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("loopback works");
    }
    total as f64 / began.elapsed().as_secs_f64()
}

async fn link_upload(link: &Link, total: usize) -> f64 {
    let body = Body::from_bytes(vec![7; LARGE].into());
    let began = Instant::now();
    for _ in 0..total / LARGE {
        let mut call =
            Call::new(Kind::Sync(pb::SyncBlocks::default()), tokio::time::Instant::now() + Duration::from_secs(9));
        call.request.kind = Some(Kind::Put(pb::PutBlock::default()));
        call.body = body.clone();
        call.response_max = LARGE as u64;
        link.start(call).await.expect("loopback works");
    }
    total as f64 / began.elapsed().as_secs_f64()
}

fn bodies() -> (Body, Body) {
    let content = Bytes::from(vec![7; LARGE]);
    let mut file = tempfile::tempfile().expect("loopback works");
    file.write_all(&content).expect("loopback works");
    let file: FileHandle = Arc::new(file);
    let parts = (0..LARGE).step_by(FRAME).map(|at| BodyPart::File {
        file: Arc::clone(&file),
        offset: at as u64,
        len: FRAME as u32,
        crc: crc32c(&content[at..at + FRAME]),
    });
    (Body::from_bytes(content.clone()), Body::from_parts(parts.collect()))
}

async fn measure() {
    let listener = TcpNet.bind("127.0.0.1:0").await.expect("loopback works");
    let addr = listener.local_addr().expect("loopback works").to_string();
    let identity = Identity::client(BootId([1; 16])).shared();
    let (memory, file) = bodies();
    let stop = CancellationToken::new();
    let config = ServerConfig::new(Arc::clone(&identity));
    let server = tokio::spawn(serve(listener, Arc::new(Server { memory, file }), config, stop.clone()));
    let link = Link::new(Arc::new(TcpNet), addr, NodeId(0), identity, Arc::new(LinkConfig::default()), 1);
    let rounds = 20_000;
    let total = 4 << 30;
    for _ in 0..2 {
        println!("4 KiB, bare frame echo    {}", quantiles(bare_echo(rounds).await));
        println!("4 KiB, link               {}", quantiles(link_echo(&link, rounds).await));
        let report = |what: &str, rate: f64| println!("{what} {:6.0} MB/s", rate / 1e6);
        report("4 MiB, bare sockets      ", bare_bulk(total).await);
        report("4 MiB, memory            ", link_bulk(&link, total, 1, false, false).await);
        report("4 MiB, memory, verified  ", link_bulk(&link, total, 1, false, true).await);
        report("4 MiB, file              ", link_bulk(&link, total, 1, true, false).await);
        report("4 MiB, file, two at once ", link_bulk(&link, total, 2, true, false).await);
        report("4 MiB, up and down       ", link_upload(&link, total / 2).await);
    }
    stop.cancel();
    server.await.expect("loopback works");
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("loopback works");
    runtime.block_on(async { tokio::spawn(measure()).await.expect("loopback works") });
}
