//! TLS behind the network seam: what [`TcpNet`](cairn_net::TcpNet) is for plain TCP, with a certificate of its own
//! making. Both ends live in this program; nothing here is meant for a real network.

use anyhow::{Context, Result};
use async_trait::async_trait;
use cairn_net::{Listener, Net, ReadHalf, Stream, WriteHalf};
use rustls::client::Resumption;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// The name in the certificate.
const NAME: &str = "localhost";
/// Connections whose handshake is done and that the server has not taken yet.
const ACCEPTED_MAX: usize = 16;

/// Whether a new connection may continue an earlier one's session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sessions {
    /// Every connection makes a whole handshake.
    Whole,
    /// A ticket of an earlier connection saves the certificate's part (RFC 8446, section 2.2).
    Resumed,
}

/// TCP with TLS 1.3 on it.
pub struct TlsNet {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl TlsNet {
    /// Makes a key and a certificate that only this value trusts.
    ///
    /// # Errors
    /// The library refuses them, which would be a defect here.
    pub fn new(sessions: Sessions) -> Result<Self> {
        // Named, not the process's default: a default panics as soon as two providers are compiled in.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).context("making a certificate")?;
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .context("choosing TLS 1.3")?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .context("using the certificate")?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate).context("trusting the certificate")?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .context("choosing TLS 1.3")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        if sessions == Sessions::Whole {
            client.resumption = Resumption::disabled();
        }
        Ok(Self { connector: Arc::new(client).into(), acceptor: Arc::new(server).into() })
    }
}

#[async_trait]
impl Net for TlsNet {
    async fn connect(&self, addr: &str) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?;
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let stream = self.connector.connect(name, stream).await?.into();
        Ok(Box::new(Connection { stream, peer }))
    }

    async fn bind(&self, addr: &str) -> io::Result<Box<dyn Listener>> {
        let listener = TcpListener::bind(addr).await?;
        let local = listener.local_addr()?;
        let (sender, incoming) = mpsc::channel(ACCEPTED_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept_all(listener, self.acceptor.clone(), sender));
        Ok(Box::new(Acceptor { local, incoming, _tasks: tasks }))
    }
}

/// Handshakes run side by side, so that a slow one holds up no other.
async fn accept_all(listener: TcpListener, acceptor: TlsAcceptor, sender: mpsc::Sender<Connection>) {
    let mut handshakes = JoinSet::new();
    while let Ok((stream, peer)) = listener.accept().await {
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        handshakes.spawn(async move {
            let _ = stream.set_nodelay(true);
            // Whoever fails its handshake has hung up or is no client of ours.
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ = sender.send(Connection { stream: stream.into(), peer }).await;
            }
        });
        while handshakes.try_join_next().is_some() {}
    }
}

struct Acceptor {
    local: SocketAddr,
    incoming: mpsc::Receiver<Connection>,
    _tasks: JoinSet<()>,
}

#[async_trait]
impl Listener for Acceptor {
    async fn accept(&mut self) -> io::Result<(Box<dyn Stream>, SocketAddr)> {
        let connection = self.incoming.recv().await.ok_or(io::ErrorKind::NotConnected)?;
        let peer = connection.peer;
        Ok((Box::new(connection), peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

struct Connection {
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
}

impl Stream for Connection {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }

    fn split(self: Box<Self>) -> (Box<dyn ReadHalf>, Box<dyn WriteHalf>) {
        let (read, write) = split(self.stream);
        (Box::new(Read(read)), Box::new(Write(write)))
    }
}

struct Read(tokio::io::ReadHalf<TlsStream<TcpStream>>);

impl ReadHalf for Read {}

impl AsyncRead for Read {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

struct Write(tokio::io::WriteHalf<TlsStream<TcpStream>>);

impl WriteHalf for Write {}

impl AsyncWrite for Write {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
