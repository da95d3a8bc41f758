//! The network seam: the one file that touches the operating system's sockets.
//!
//! Everything above works on [`Net`], [`Listener`] and [`Stream`], so that an in-memory or simulated network, or TLS,
//! takes the place of TCP without a change elsewhere. The clock for durations ([`now`]) is tokio's, which tests pause.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "this is the network seam")]

use crate::body::{Body, BodyPart, FileHandle};
use crate::identity::PeerCertificate;
use async_trait::async_trait;
use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::SendFlags;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::time::Instant;

/// Unacknowledged data this old breaks the connection (Linux `TCP_USER_TIMEOUT`): without it a black hole takes 15
/// minutes to notice.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent connection is probed after this long, then every [`KEEPALIVE_INTERVAL`], [`KEEPALIVE_RETRIES`] times.
const KEEPALIVE_TIME: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
/// Copy buffer where a file cannot be sent by the kernel, and the step in which cold pages are read ahead.
const COPY_LEN: usize = 256 * 1024;
/// One byte in each stretch of this length is probed to tell cached pages from cold ones; well below the kernel's
/// default read-ahead of 128 KiB.
const PROBE_STEP: u64 = 64 * 1024;

/// The present on the one clock for durations; monotonic, and paused or advanced by tests.
pub fn now() -> Instant {
    Instant::now()
}

/// A way to reach peers and to be reached.
#[async_trait]
pub trait Net: Send + Sync + 'static {
    /// Connects to `host:port`. Has no timeout of its own: the caller wraps it. Cancelling leaves nothing behind.
    ///
    /// # Errors
    /// What the resolver or the peer's kernel says.
    async fn connect(&self, addr: &str) -> io::Result<Box<dyn Stream>>;

    /// Listens on `host:port`; port 0 picks a free one.
    ///
    /// # Errors
    /// What the resolver or the kernel says, for example that the address is in use.
    async fn bind(&self, addr: &str) -> io::Result<Box<dyn Listener>>;

    /// The network below, of one on which connections are encrypted and both ends show certificates: for what is served to
    /// programs that have none. `None` = this is an unprotected one itself.
    fn unprotected(&self) -> Option<&dyn Net> {
        None
    }
}

/// A bound address.
#[async_trait]
pub trait Listener: Send {
    /// The next incoming connection. Cancelling loses none.
    ///
    /// # Errors
    /// Those of the connection (the listener goes on) or of the process (out of file descriptors).
    async fn accept(&mut self) -> io::Result<(Box<dyn Stream>, SocketAddr)>;

    /// The bound address, with the port that was picked.
    ///
    /// # Errors
    /// Those of the kernel.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A connected byte stream.
#[async_trait]
pub trait Stream: Send {
    /// Does what the transport needs before bytes flow, and tells whose certificate the other end has shown; `None` on a
    /// network without certificates. Called once, before [`Stream::split`]; the caller bounds its time. An accepted stream
    /// leaves all waiting to this call, so that a slow peer holds up nobody else's connection.
    ///
    /// # Errors
    /// The peer speaks another protocol, shows no certificate, or one that is not trusted here.
    async fn establish(&mut self) -> io::Result<Option<Arc<PeerCertificate>>> {
        Ok(None)
    }

    /// The other end.
    ///
    /// # Errors
    /// Those of the kernel, when the connection is already gone.
    fn peer_addr(&self) -> io::Result<SocketAddr>;

    /// Its two directions, which may live in different tasks. Dropping both closes the connection.
    fn split(self: Box<Self>) -> (Box<dyn ReadHalf>, Box<dyn WriteHalf>);
}

/// The incoming direction of a [`Stream`].
pub trait ReadHalf: AsyncRead + Send + Sync + Unpin {}

/// The outgoing direction of a [`Stream`].
#[async_trait]
pub trait WriteHalf: AsyncWrite + Send + Sync + Unpin {
    /// Sends `head`, then `len` bytes of `file` from `offset`. A cancelled call has sent any prefix of that.
    ///
    /// # Errors
    /// Those of socket and disk; `UnexpectedEof` when the file ends early. After an error any prefix was sent.
    async fn send_file(&mut self, head: &[u8], file: &FileHandle, offset: u64, len: u32) -> io::Result<()> {
        self.write_all(head).await?;
        let end = offset + u64::from(len);
        let mut at = offset;
        while at < end {
            let step = ((end - at) as usize).min(COPY_LEN);
            let copy = read_blocking(file, at, step).await?;
            self.write_all(&copy).await?;
            at += step as u64;
        }
        Ok(())
    }
}

/// Reads exactly `len` bytes on the blocking pool.
async fn read_blocking(file: &FileHandle, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let file = FileHandle::clone(file);
    tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; len];
        file.read_exact_at(&mut buffer, offset)?;
        Ok(buffer)
    })
    .await
    .map_err(io::Error::other)?
}

/// The operating system's TCP: no Nagle delay, black holes noticed within 10 seconds.
///
/// Socket buffers are left to the kernel's autotuning: setting them turns it off and caps them at `wmem_max`, which is
/// smaller than what autotuning reaches.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpNet;

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)
}

async fn connect_tuned(addr: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    tune(&stream)?;
    Ok(stream)
}

#[async_trait]
impl Net for TcpNet {
    async fn connect(&self, addr: &str) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(TcpConnection(connect_tuned(addr).await?)))
    }

    async fn bind(&self, addr: &str) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(TcpAcceptor(TcpListener::bind(addr).await?)))
    }
}

struct TcpAcceptor(TcpListener);

impl TcpAcceptor {
    async fn accept_tuned(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, addr) = self.0.accept().await?;
        tune(&stream)?;
        Ok((stream, addr))
    }
}

#[async_trait]
impl Listener for TcpAcceptor {
    async fn accept(&mut self) -> io::Result<(Box<dyn Stream>, SocketAddr)> {
        let (stream, addr) = self.accept_tuned().await?;
        Ok((Box::new(TcpConnection(stream)), addr))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

struct TcpConnection(TcpStream);

impl Stream for TcpConnection {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.0.peer_addr()
    }

    fn split(self: Box<Self>) -> (Box<dyn ReadHalf>, Box<dyn WriteHalf>) {
        let (read, write) = self.0.into_split();
        (Box::new(TcpRead(read)), Box::new(TcpWrite(write)))
    }
}

struct TcpRead(tcp::OwnedReadHalf);

impl ReadHalf for TcpRead {}

impl AsyncRead for TcpRead {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

struct TcpWrite(tcp::OwnedWriteHalf);

impl AsyncWrite for TcpWrite {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl TcpWrite {
    /// Sends `bytes` and tells the kernel that more follows, so that they share a segment with it.
    async fn send_with_more(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let socket: &TcpStream = self.0.as_ref();
            let sent = socket
                .async_io(Interest::WRITABLE, || {
                    rustix::net::send(socket, bytes, SendFlags::MORE | SendFlags::NOSIGNAL).map_err(io::Error::from)
                })
                .await?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }
}

#[async_trait]
impl WriteHalf for TcpWrite {
    async fn send_file(&mut self, head: &[u8], file: &FileHandle, offset: u64, len: u32) -> io::Result<()> {
        self.send_with_more(head).await?;
        let end = offset + u64::from(len);
        let mut at = offset;
        while at < end {
            let step = (end - at).min(COPY_LEN as u64 * 2);
            if !is_cached(file, at, step) {
                // The kernel would read the disk inside `sendfile` and hold up every task of this thread.
                read_blocking(file, at, step as usize).await?;
            }
            let step_end = at + step;
            while at < step_end {
                let socket: &TcpStream = self.0.as_ref();
                let sent = socket
                    .async_io(Interest::WRITABLE, || {
                        let mut from = at;
                        rustix::fs::sendfile(socket, file.as_ref(), Some(&mut from), (step_end - at) as usize)
                            .map_err(io::Error::from)
                    })
                    .await?;
                if sent == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                at += sent as u64;
            }
        }
        Ok(())
    }
}

/// The same body, with those parts of files in memory that are not in the page cache.
///
/// # Errors
/// Those of the disk; `UnexpectedEof` when a file ends early.
pub(crate) async fn warm(body: Body) -> io::Result<Body> {
    let mut parts = Vec::with_capacity(body.parts().len());
    for part in body.parts() {
        parts.push(match part {
            BodyPart::File { file, offset, len, crc } if !is_cached(file, *offset, u64::from(*len)) => {
                let data = read_blocking(file, *offset, *len as usize).await?.into();
                BodyPart::Bytes { data, crc: *crc }
            }
            part => part.clone(),
        });
    }
    Ok(Body::from_parts(parts))
}

/// False when a probe says that a page of the range would have to be read from disk. Kernels and file systems that
/// cannot tell (no `RWF_NOWAIT`) count as cached.
fn is_cached(file: &FileHandle, offset: u64, len: u64) -> bool {
    let mut at = offset;
    while at < offset + len {
        let mut byte = [0];
        let probe = rustix::io::preadv2(file.as_ref(), &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT);
        if probe == Err(Errno::AGAIN) {
            return false;
        }
        at += PROBE_STEP;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn both_ends_notice_a_dead_peer_and_delay_nothing() {
        let acceptor = TcpAcceptor(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let addr = acceptor.local_addr().unwrap().to_string();
        let (dialled, accepted) = tokio::join!(connect_tuned(&addr), acceptor.accept_tuned());
        for stream in [dialled.unwrap(), accepted.unwrap().0] {
            assert!(stream.nodelay().unwrap());
            let socket = SockRef::from(&stream);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(10)));
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(15));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(5));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        }
    }

    #[tokio::test]
    async fn warming_keeps_a_body_and_its_checksums() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 5_000]).unwrap();
        let part = BodyPart::File { file: Arc::new(file), offset: 1_000, len: 3_000, crc: 99 };
        let bytes = BodyPart::Bytes { data: vec![1, 2, 3].into(), crc: 98 };
        let warmed = warm(Body::from_parts(vec![part, bytes])).await.unwrap();
        let parts: Vec<_> = warmed.parts().iter().map(|part| (part.len(), part.crc())).collect();
        assert_eq!((warmed.len(), parts), (3_003, vec![(3_000, 99), (3, 98)]));
    }
}
