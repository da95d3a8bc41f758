//! A network inside the process, on which one address dies for some clients by refusing and for others by falling silent.

use async_trait::async_trait;
use cairn_net::{Listener, Net, ReadHalf, Stream, WriteHalf};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex, split};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Bytes under way in one direction.
const PIPE_LEN: usize = 16 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: usize = 1024;

type Incoming = (Box<dyn Stream>, SocketAddr);

/// What all clients share.
pub struct World {
    listeners: Mutex<BTreeMap<String, mpsc::Sender<Incoming>>>,
    mortal: String,
    dead: CancellationToken,
    begin: Instant,
    /// Contacts of the dead address (dials, and writes to connections that stand) in each second since the beginning.
    contacts: Mutex<Vec<u64>>,
}

impl World {
    /// Nothing listens; `mortal` is the address that will die.
    pub fn new(mortal: &str) -> Arc<Self> {
        Arc::new(Self {
            listeners: Mutex::default(),
            mortal: mortal.to_owned(),
            dead: CancellationToken::new(),
            begin: Instant::now(),
            contacts: Mutex::default(),
        })
    }

    /// The mortal address dies.
    pub fn kill(&self) {
        self.dead.cancel();
    }

    /// Contacts of the dead address, second by second.
    pub fn contacts(&self) -> Vec<u64> {
        self.contacts.lock().clone()
    }

    fn contact(&self) {
        let second = self.begin.elapsed().as_secs() as usize;
        let mut contacts = self.contacts.lock();
        if contacts.len() <= second {
            contacts.resize(second + 1, 0);
        }
        contacts[second] += 1;
    }
}

/// How the mortal address is dead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// Connections are reset, dials refused: the process is gone.
    Refuse,
    /// Nothing comes back, dials hang: the machine is gone.
    Silence,
}

/// One client's way into the world.
pub struct FleetNet {
    /// The world.
    pub world: Arc<World>,
    /// What it sees of the mortal address.
    pub death: Death,
}

#[async_trait]
impl Net for FleetNet {
    async fn connect(&self, addr: &str) -> io::Result<Box<dyn Stream>> {
        let is_mortal = addr == self.world.mortal;
        if is_mortal && self.world.dead.is_cancelled() {
            self.world.contact();
            return match self.death {
                Death::Refuse => Err(io::ErrorKind::ConnectionRefused.into()),
                Death::Silence => pending().await,
            };
        }
        let listener = self.world.listeners.lock().get(addr).cloned();
        let listener = listener.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (near, far) = duplex(PIPE_LEN);
        let fate = is_mortal.then(|| Fate { world: Arc::clone(&self.world), death: self.death });
        let far = Box::new(Pipe { io: far, fate: None });
        listener.send((far, any_addr())).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Box::new(Pipe { io: near, fate }))
    }

    async fn bind(&self, addr: &str) -> io::Result<Box<dyn Listener>> {
        let (sender, incoming) = mpsc::channel(BACKLOG);
        self.world.listeners.lock().insert(addr.to_owned(), sender);
        Ok(Box::new(PipeListener(incoming)))
    }
}

fn any_addr() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 1).into()
}

struct PipeListener(mpsc::Receiver<Incoming>);

#[async_trait]
impl Listener for PipeListener {
    async fn accept(&mut self) -> io::Result<Incoming> {
        match self.0.recv().await {
            Some(accepted) => Ok(accepted),
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(any_addr())
    }
}

/// What becomes of a connection to the mortal address.
#[derive(Clone)]
struct Fate {
    world: Arc<World>,
    death: Death,
}

struct Pipe {
    io: DuplexStream,
    fate: Option<Fate>,
}

impl Stream for Pipe {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(any_addr())
    }

    fn split(self: Box<Self>) -> (Box<dyn ReadHalf>, Box<dyn WriteHalf>) {
        let (read, write) = split(self.io);
        let end = self.fate.as_ref().map(|fate| Box::pin(fate.world.dead.clone().cancelled_owned()));
        (Box::new(Read { io: read, fate: self.fate.clone(), end }), Box::new(Write { io: write, fate: self.fate }))
    }
}

struct Read {
    io: tokio::io::ReadHalf<DuplexStream>,
    fate: Option<Fate>,
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl ReadHalf for Read {}

impl AsyncRead for Read {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(fate) = &this.fate {
            let is_dead = this.end.as_mut().is_none_or(|end| end.as_mut().poll(cx).is_ready());
            if is_dead {
                this.end = None;
                return match fate.death {
                    Death::Refuse => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                    // Nobody will wake it, as nothing will come.
                    Death::Silence => Poll::Pending,
                };
            }
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

struct Write {
    io: tokio::io::WriteHalf<DuplexStream>,
    fate: Option<Fate>,
}

impl WriteHalf for Write {}

impl AsyncWrite for Write {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(fate) = &self.fate
            && fate.world.dead.is_cancelled()
        {
            fate.world.contact();
            return Poll::Ready(match fate.death {
                Death::Refuse => Err(io::ErrorKind::ConnectionReset.into()),
                Death::Silence => Ok(buf.len()),
            });
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
