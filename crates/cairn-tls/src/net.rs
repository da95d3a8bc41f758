//! TLS 1.3 on both sides of every connection, over any other network.

use crate::files::TlsError;
use crate::identity::{Identity, NAME_OF_SERVERS, peer_of};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use cairn_net::{Listener, Net, PeerCertificate, ReadHalf, Stream, WriteHalf};
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::sync::CancellationToken;

/// Between two looks at the files of an identity.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// See the module. Connections that exist keep the certificates they were made with; new ones are made with those that were
/// read last.
pub struct TlsNet {
    below: Arc<dyn Net>,
    identity: Arc<ArcSwap<Identity>>,
}

impl TlsNet {
    /// Over another network, with the identity of a directory.
    ///
    /// # Errors
    /// See [`Identity::load`].
    pub fn new(below: Arc<dyn Net>, dir: &Path) -> Result<Self, TlsError> {
        Ok(Self { below, identity: Arc::new(ArcSwap::from_pointee(Identity::load(dir)?)) })
    }

    /// The identity that new connections are made with.
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.load_full()
    }

    /// Reads the files anew if they were changed; true when they were. What cannot be used changes nothing.
    ///
    /// # Errors
    /// See [`Identity::load`].
    pub fn reload(&self) -> Result<bool, TlsError> {
        let old = self.identity();
        if !old.is_outdated() {
            return Ok(false);
        }
        let new = Identity::load(old.dir())?;
        if new.subject() != old.subject() {
            tracing::warn!(was = %old.subject(), is = %new.subject(), "the certificate is somebody else's now");
        }
        self.identity.store(Arc::new(new));
        Ok(true)
    }

    /// Looks every few seconds whether the files were changed, until `end`.
    pub async fn follow(self: Arc<Self>, end: CancellationToken) {
        let mut told = None;
        loop {
            tokio::select! {
                biased;
                () = end.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let net = self.clone();
            // They may lie on a slow disk.
            let Ok(reloaded) = tokio::task::spawn_blocking(move || net.reload()).await else { continue };
            match reloaded {
                Ok(true) => {
                    told = None;
                    let identity = self.identity();
                    tracing::info!(subject = %identity.subject(), until = identity.facts().not_after, "new certificate");
                }
                Ok(false) => {}
                Err(error) => {
                    // The same complaint once.
                    let error = error.to_string();
                    if told.as_ref() != Some(&error) {
                        tracing::warn!("the new certificate cannot be used, the old one stays in use: {error}");
                    }
                    told = Some(error);
                }
            }
        }
    }
}

#[async_trait]
impl Net for TlsNet {
    async fn connect(&self, addr: &str) -> io::Result<Box<dyn Stream>> {
        let below = Below::new(self.below.connect(addr).await?);
        Ok(Box::new(Connection { stage: Stage::Dialled(below), identity: self.identity() }))
    }

    async fn bind(&self, addr: &str) -> io::Result<Box<dyn Listener>> {
        let below = self.below.bind(addr).await?;
        Ok(Box::new(Acceptor { below, identity: self.identity.clone() }))
    }

    fn unprotected(&self) -> Option<&dyn Net> {
        Some(&*self.below)
    }
}

struct Acceptor {
    below: Box<dyn Listener>,
    identity: Arc<ArcSwap<Identity>>,
}

#[async_trait]
impl Listener for Acceptor {
    async fn accept(&mut self) -> io::Result<(Box<dyn Stream>, SocketAddr)> {
        let (stream, addr) = self.below.accept().await?;
        let stage = Stage::Accepted(Below::new(stream));
        Ok((Box::new(Connection { stage, identity: self.identity.load_full() }), addr))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.below.local_addr()
    }
}

/// Both directions of the connection below as one.
struct Below {
    addr: io::Result<SocketAddr>,
    read: Box<dyn ReadHalf>,
    write: Box<dyn WriteHalf>,
}

impl Below {
    fn new(stream: Box<dyn Stream>) -> Self {
        let addr = stream.peer_addr();
        let (read, write) = stream.split();
        Self { addr, read, write }
    }
}

impl AsyncRead for Below {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buf)
    }
}

impl AsyncWrite for Below {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.write.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(cx)
    }
}

/// How far a connection is.
enum Stage {
    /// -> `Established`, or `Failed`.
    Dialled(Below),
    /// -> `Established`, or `Failed`.
    Accepted(Below),
    Established(Box<TlsStream<Below>>),
    Failed,
}

struct Connection {
    stage: Stage,
    identity: Arc<Identity>,
}

#[async_trait]
impl Stream for Connection {
    async fn establish(&mut self) -> io::Result<Option<Arc<PeerCertificate>>> {
        let configs = &self.identity.configs;
        let stream: TlsStream<Below> = match std::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Dialled(below) => {
                let name = ServerName::try_from(NAME_OF_SERVERS).map_err(io::Error::other)?;
                TlsConnector::from(configs.client.clone()).connect(name, below).await?.into()
            }
            Stage::Accepted(below) => TlsAcceptor::from(configs.server.clone()).accept(below).await?.into(),
            Stage::Established(_) | Stage::Failed => return Err(io::ErrorKind::NotConnected.into()),
        };
        let peer = peer_of(stream.get_ref().1.peer_certificates()).map_err(io::Error::other)?;
        self.stage = Stage::Established(Box::new(stream));
        Ok(Some(peer))
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        let below = match &self.stage {
            Stage::Dialled(below) | Stage::Accepted(below) => below,
            Stage::Established(stream) => stream.get_ref().0,
            Stage::Failed => return Err(io::ErrorKind::NotConnected.into()),
        };
        below.addr.as_ref().copied().map_err(|error| error.kind().into())
    }

    fn split(self: Box<Self>) -> (Box<dyn ReadHalf>, Box<dyn WriteHalf>) {
        match self.stage {
            Stage::Established(stream) => {
                let (read, write) = tokio::io::split(*stream);
                (Box::new(Read(read)), Box::new(Write(write)))
            }
            // Nobody may talk past the handshake.
            _ => (Box::new(Closed), Box::new(Closed)),
        }
    }
}

struct Read(tokio::io::ReadHalf<TlsStream<Below>>);

impl ReadHalf for Read {}

impl AsyncRead for Read {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(cx, buf) {
            // The other end is gone without TLS's own farewell. What it cut off, the frames above show.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            read => read,
        }
    }
}

struct Write(tokio::io::WriteHalf<TlsStream<Below>>);

impl WriteHalf for Write {}

impl AsyncWrite for Write {
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

/// A direction of a connection that was never established.
struct Closed;

impl ReadHalf for Closed {}
impl WriteHalf for Closed {}

impl AsyncRead for Closed {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
    }
}

impl AsyncWrite for Closed {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
