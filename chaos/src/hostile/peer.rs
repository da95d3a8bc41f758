//! Both ends of a connection as plain sockets: what a hostile peer uses.

use anyhow::{Context, Result, bail};
use cairn_proto::frame::{FIXED_LEN, FixedHeader, FrameType, flags};
use cairn_proto::limits::{FRAME_BODY_MAX, FRAME_HEADER_MAX};
use cairn_proto::pb;
use prost::Message;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A side that neither answers nor hangs up within this is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);

/// A frame's head (fixed and protobuf header), sealed.
pub fn head(fixed: FixedHeader, message: &impl Message) -> Vec<u8> {
    let protobuf = message.encode_to_vec();
    let mut bytes = fixed.seal(&protobuf).to_vec();
    bytes.extend_from_slice(&protobuf);
    bytes
}

/// Reads a frame's head; `None` at the end of the stream.
///
/// # Errors
/// The socket's, or what came is no frame.
pub async fn read_head(stream: &mut TcpStream) -> Result<Option<(FixedHeader, Vec<u8>)>> {
    let mut fixed = [0; FIXED_LEN];
    if stream.read_exact(&mut fixed).await.is_err() {
        return Ok(None);
    }
    let fixed = FixedHeader::decode(&fixed)?;
    let mut protobuf = vec![0; fixed.header_len.min(FRAME_HEADER_MAX) as usize];
    stream.read_exact(&mut protobuf).await.context("reading a header")?;
    fixed.check(&protobuf)?;
    Ok(Some((fixed, protobuf)))
}

/// A client's introduction.
pub fn hello(bulk: bool) -> Vec<u8> {
    let hello = pb::Hello {
        proto_min: 1,
        proto_max: u32::MAX,
        features_supported: u64::MAX,
        max_frame: FRAME_BODY_MAX,
        role: pb::Role::Client as i32,
        bulk,
        ..Default::default()
    };
    head(FixedHeader::new(FrameType::Hello, 0, 0), &hello)
}

/// Dials a server and introduces itself.
///
/// # Errors
/// The server does not answer as it should.
pub async fn greet(addr: SocketAddr, bulk: bool) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(addr).await.context("dialling")?;
    stream.set_nodelay(true)?;
    stream.write_all(&hello(bulk)).await?;
    match timeout(STUCK_AFTER, read_head(&mut stream)).await.context("the server does not greet")?? {
        Some((fixed, _)) if fixed.frame_type == FrameType::HelloAck => Ok(stream),
        other => bail!("{other:?} came instead of HELLO_ACK"),
    }
}

/// Reads and drops until the other side hangs up.
///
/// # Errors
/// It does not.
pub async fn drain(stream: &mut TcpStream) -> Result<()> {
    let mut scratch = [0; 4096];
    timeout(STUCK_AFTER, async { while stream.read(&mut scratch).await.is_ok_and(|len| len > 0) {} })
        .await
        .context("the server neither answers nor hangs up")
}

/// What a hostile server does with a request: writes and says whether it keeps the connection.
pub type Reply = Arc<dyn Fn(&FixedHeader) -> (Vec<u8>, bool) + Send + Sync>;

/// A server that greets as it should and then does what it likes. Ends when dropped.
pub struct HostileServer {
    /// Where it listens.
    pub addr: SocketAddr,
    _tasks: JoinSet<()>,
}

impl HostileServer {
    /// Listens on loopback.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(reply: Reply) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listening on loopback")?;
        let addr = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                sessions.spawn(session(stream, Arc::clone(&reply)));
                while sessions.try_join_next().is_some() {}
            }
        });
        Ok(Self { addr, _tasks: tasks })
    }
}

async fn session(mut stream: TcpStream, reply: Reply) {
    // A client that hangs up is what half of this is about.
    let _: Result<()> = async {
        stream.set_nodelay(true)?;
        if read_head(&mut stream).await?.is_none() {
            return Ok(());
        }
        let ack = pb::HelloAck {
            proto: 1,
            features_supported: u64::MAX,
            max_frame: FRAME_BODY_MAX,
            idle_timeout_ms: 180_000,
            role: pb::Role::Node as i32,
            ..Default::default()
        };
        stream.write_all(&head(FixedHeader::new(FrameType::HelloAck, 0, 0), &ack)).await?;
        while let Some((fixed, _)) = read_head(&mut stream).await? {
            let mut body = vec![0; fixed.body_len as usize];
            stream.read_exact(&mut body).await?;
            if fixed.frame_type == FrameType::Ping {
                let pong = FixedHeader::new(FrameType::Pong, fixed.request_id, 0);
                stream.write_all(&head(pong, &pb::Pong::default())).await?;
            }
            if fixed.frame_type != FrameType::Request || !fixed.has(flags::END) {
                continue;
            }
            let (bytes, keep) = reply(&fixed);
            stream.write_all(&bytes).await?;
            if !keep {
                break;
            }
        }
        stream.shutdown().await?;
        Ok(())
    }
    .await;
}
