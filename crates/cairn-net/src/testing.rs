//! An in-memory network with faults, for tests of this and other crates (feature `testing`). It works under paused
//! time: nothing in it sleeps.

use crate::seam::{Listener, Net, ReadHalf, Stream, WriteHalf};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;

/// Bytes under way in one direction of a pipe.
const PIPE_LEN: usize = 256 * 1024;
/// Connections a listener has not accepted yet.
const BACKLOG: usize = 128;
/// First port given to a listener that asks for port 0.
const FIRST_PORT: u16 = 40_000;

/// Which way bytes travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the dialling side to the listener.
    ToListener,
    /// From the listener to the dialling side.
    ToDialler,
}

/// Sees (and may change) bytes as they are received: direction, offset of the first of them in that direction, the
/// bytes.
pub type Tamper = Arc<dyn Fn(Direction, u64, &mut [u8]) + Send + Sync>;

/// An accepted connection and where it came from.
type Incoming = (Box<dyn Stream>, SocketAddr);

#[derive(Default)]
struct State {
    listeners: BTreeMap<String, mpsc::Sender<Incoming>>,
    pipes: Vec<(String, Arc<Fault>)>,
    refused: BTreeSet<String>,
    frozen: BTreeSet<String>,
    tampers: BTreeMap<String, Tamper>,
    dials: BTreeMap<String, usize>,
    ports_given: u16,
}

/// A network inside the process. Addresses are plain strings of the form `host:port`; clones are the same network.
#[derive(Clone, Default)]
pub struct PipeNet {
    state: Arc<Mutex<State>>,
}

impl PipeNet {
    /// A network without listeners.
    pub fn new() -> Self {
        Self::default()
    }

    /// Dials of an address are refused from now on, or no longer.
    pub fn refuse(&self, addr: &str, refuse: bool) {
        let mut state = self.state.lock();
        if refuse {
            state.refused.insert(addr.to_owned());
        } else {
            state.refused.remove(addr);
        }
    }

    /// Nothing is delivered to or from an address any more, and dials of it hang (a black hole); or it is again.
    pub fn freeze(&self, addr: &str, freeze: bool) {
        let pipes: Vec<Arc<Fault>> = {
            let mut state = self.state.lock();
            if freeze {
                state.frozen.insert(addr.to_owned());
            } else {
                state.frozen.remove(addr);
            }
            state.pipes_of(addr)
        };
        for pipe in pipes {
            pipe.frozen.store(freeze, Ordering::SeqCst);
            pipe.wake();
        }
    }

    /// Resets all connections of an address.
    pub fn cut(&self, addr: &str) {
        let pipes = self.state.lock().pipes_of(addr);
        for pipe in pipes {
            pipe.cut.store(true, Ordering::SeqCst);
            pipe.wake();
        }
    }

    /// Passes what connections made from now on receive through `tamper`.
    pub fn tamper(&self, addr: &str, tamper: Option<Tamper>) {
        let mut state = self.state.lock();
        match tamper {
            Some(tamper) => state.tampers.insert(addr.to_owned(), tamper),
            None => state.tampers.remove(addr),
        };
    }

    /// How often an address was dialled, refused dials included.
    pub fn dials(&self, addr: &str) -> usize {
        self.state.lock().dials.get(addr).copied().unwrap_or(0)
    }

    /// Connections of an address of which both ends still exist.
    pub fn open(&self, addr: &str) -> usize {
        self.state.lock().pipes_of(addr).len()
    }
}

impl State {
    fn pipes_of(&mut self, addr: &str) -> Vec<Arc<Fault>> {
        // Each of the four halves holds its fault; this list is the fifth.
        self.pipes.retain(|(_, fault)| Arc::strong_count(fault) == 5);
        self.pipes.iter().filter(|(pipe, _)| pipe == addr).map(|(_, fault)| Arc::clone(fault)).collect()
    }
}

/// What tests do to one connection.
#[derive(Default)]
struct Fault {
    cut: AtomicBool,
    frozen: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl Fault {
    fn wake(&self) {
        for waker in std::mem::take(&mut *self.wakers.lock()) {
            waker.wake();
        }
    }

    /// Ready to go on, or an error, or to wait for the fault to end; the waker hears of every change.
    fn poll(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        {
            let mut wakers = self.wakers.lock();
            if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
        }
        if self.cut.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.frozen.load(Ordering::SeqCst) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

#[async_trait]
impl Net for PipeNet {
    async fn connect(&self, addr: &str) -> io::Result<Box<dyn Stream>> {
        let (listener, fault, tamper, is_frozen) = {
            let mut state = self.state.lock();
            *state.dials.entry(addr.to_owned()).or_default() += 1;
            let is_frozen = state.frozen.contains(addr);
            if state.refused.contains(addr) && !is_frozen {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let listener = state.listeners.get(addr).cloned();
            let fault = Arc::new(Fault::default());
            (listener, fault, state.tampers.get(addr).cloned(), is_frozen)
        };
        if is_frozen {
            pending::<()>().await;
        }
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let listener = listener.ok_or_else(refused)?;
        let (near, far) = tokio::io::duplex(PIPE_LEN);
        let pipe = |io, direction| {
            Box::new(Pipe { io, fault: [Arc::clone(&fault), Arc::clone(&fault)], direction, tamper: tamper.clone() })
        };
        let near = pipe(near, Direction::ToDialler);
        let far: Box<dyn Stream> = pipe(far, Direction::ToListener);
        listener.send((far, any_addr())).await.map_err(|_| refused())?;
        self.state.lock().pipes.push((addr.to_owned(), fault));
        Ok(near)
    }

    async fn bind(&self, addr: &str) -> io::Result<Box<dyn Listener>> {
        let mut state = self.state.lock();
        let (host, port) = addr.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
        let addr = if port == "0" {
            state.ports_given += 1;
            format!("{host}:{}", FIRST_PORT + state.ports_given)
        } else {
            addr.to_owned()
        };
        if state.listeners.get(&addr).is_some_and(|listener| !listener.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (sender, incoming) = mpsc::channel(BACKLOG);
        state.listeners.insert(addr.clone(), sender);
        Ok(Box::new(PipeListener { addr, incoming }))
    }
}

fn any_addr() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 1).into()
}

struct PipeListener {
    addr: String,
    incoming: mpsc::Receiver<Incoming>,
}

#[async_trait]
impl Listener for PipeListener {
    async fn accept(&mut self) -> io::Result<Incoming> {
        match self.incoming.recv().await {
            Some(accepted) => Ok(accepted),
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let port = self.addr.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        Ok((Ipv4Addr::LOCALHOST, port.ok_or(io::ErrorKind::InvalidInput)?).into())
    }
}

struct Pipe {
    io: DuplexStream,
    fault: [Arc<Fault>; 2],
    direction: Direction,
    tamper: Option<Tamper>,
}

impl Stream for Pipe {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(any_addr())
    }

    fn split(self: Box<Self>) -> (Box<dyn ReadHalf>, Box<dyn WriteHalf>) {
        let (read, write) = tokio::io::split(self.io);
        let [for_read, for_write] = self.fault;
        let read = PipeRead { io: read, fault: for_read, direction: self.direction, tamper: self.tamper, offset: 0 };
        (Box::new(read), Box::new(PipeWrite { io: write, fault: for_write }))
    }
}

struct PipeRead {
    io: tokio::io::ReadHalf<DuplexStream>,
    fault: Arc<Fault>,
    direction: Direction,
    tamper: Option<Tamper>,
    offset: u64,
}

impl ReadHalf for PipeRead {}

impl AsyncRead for PipeRead {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.fault.poll(cx))?;
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let received = &mut buf.filled_mut()[before..];
        if let Some(tamper) = &self.tamper {
            tamper(self.direction, self.offset, received);
        }
        self.offset += received.len() as u64;
        Poll::Ready(Ok(()))
    }
}

struct PipeWrite {
    io: tokio::io::WriteHalf<DuplexStream>,
    fault: Arc<Fault>,
}

impl WriteHalf for PipeWrite {}

impl AsyncWrite for PipeWrite {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.fault.cut.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
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
