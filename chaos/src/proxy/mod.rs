//! FaultProxy: a TCP proxy that does to a connection what networks and machines do on their bad days.
//!
//! It listens on an address of its own and forwards to one server. What happens to bytes is set per [`Direction`], what
//! happens to diallers by [`Dialing`]; both at any time, also for connections that stand. It counts what passes (frames
//! and requests, too: see [`Counts`]) and each time a fault really hit somebody. A connection costs two tasks and is
//! copied through user space once; a delay holds bytes in a queue, so that it adds latency and takes no throughput.

mod conn;
mod counters;
mod faults;
mod frames;
mod mode;
mod pump;

pub use counters::{Counts, FlowCounts};
pub use mode::{Dialing, Direction, Family, FlipPlace, Latency, Mode};

use conn::{Conn, zero_linger};
use counters::Counters;
use frames::{Scanner, Step};
use parking_lot::Mutex;
use pump::Pump;
use socket2::SockRef;
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// A dial on loopback that is not answered within this is not answered.
const SYN_WAIT: Duration = Duration::from_millis(100);
/// Connections that are tried to fill a backlog of 0.
const FILLERS_MAX: usize = 8;
/// How long a dialler that is going to be reset has to say its HELLO.
const HELLO_WAIT: Duration = Duration::from_millis(500);
/// Pause before a connection is accepted again after that has failed (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

type Ack = oneshot::Sender<io::Result<()>>;

/// A running proxy; dropping it closes its listener and its connections.
pub struct FaultProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    dialing: mpsc::Sender<(Dialing, Ack)>,
}

struct Shared {
    target: SocketAddr,
    counters: Arc<Counters>,
    to_server: watch::Sender<Mode>,
    to_client: watch::Sender<Mode>,
    conns: Mutex<Vec<Weak<Conn>>>,
    random: Mutex<fastrand::Rng>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl FaultProxy {
    /// Listens on `listen` (port 0 takes a free one) and forwards to `target`, which need not listen yet. Runs on the
    /// current tokio runtime. `seed` decides all of its random choices.
    ///
    /// # Errors
    /// What the kernel says about `listen`.
    pub async fn start(listen: SocketAddr, target: SocketAddr, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            counters: Arc::default(),
            to_server: watch::Sender::new(Mode::Pass),
            to_client: watch::Sender::new(Mode::Pass),
            conns: Mutex::default(),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let (dialing, commands) = mpsc::channel(1);
        let gate = Gate { shared: shared.clone(), addr, state: State::Listening(listener), dialing: Dialing::Accept };
        tokio::spawn(gate.run(commands));
        Ok(Self { addr, shared, dialing })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sets what happens to the bytes of one direction, from now on and on every connection.
    pub fn set(&self, direction: Direction, mode: Mode) {
        let modes = match direction {
            Direction::ToServer => &self.shared.to_server,
            Direction::ToClient => &self.shared.to_client,
        };
        modes.send_replace(mode);
    }

    /// [`FaultProxy::set`] for both directions.
    pub fn set_both(&self, mode: Mode) {
        self.set(Direction::ToServer, mode);
        self.set(Direction::ToClient, mode);
    }

    /// Sets what happens to diallers; returns once it does, which for [`Dialing::Refuse`] and [`Dialing::SynBlackHole`]
    /// has been seen by dialling.
    ///
    /// # Errors
    /// The port could not be listened on again, or the fault did not come about.
    pub async fn set_dialing(&self, dialing: Dialing) -> io::Result<()> {
        let (ack, done) = oneshot::channel();
        let gone = || io::Error::other("the proxy's runtime has ended");
        self.dialing.send((dialing, ack)).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }

    /// Resets every connection that stands (RST to both sides); how many.
    pub fn reset_connections(&self) -> usize {
        let conns: Vec<Arc<Conn>> = self.shared.conns.lock().drain(..).filter_map(|conn| conn.upgrade()).collect();
        conns.iter().for_each(|conn| conn.reset());
        self.shared.counters.fired(Family::Reset, conns.len() as u64);
        conns.len()
    }

    /// Connections that stand.
    pub fn connections(&self) -> usize {
        self.shared.conns.lock().iter().filter(|conn| conn.strong_count() > 0).count()
    }

    /// Everything passes again. Connections that lost bytes are reset.
    ///
    /// # Errors
    /// As [`FaultProxy::set_dialing`].
    pub async fn heal(&self) -> io::Result<()> {
        self.set_both(Mode::Pass);
        self.set_dialing(Dialing::Accept).await
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.shared.counters.counts()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

enum State {
    Listening(TcpListener),
    Closed,
    /// The listener does not accept and its backlog is full of these.
    Full(TcpListener, Vec<TcpStream>),
}

/// The listener.
struct Gate {
    shared: Arc<Shared>,
    addr: SocketAddr,
    state: State,
    dialing: Dialing,
}

impl Gate {
    async fn run(mut self, mut commands: mpsc::Receiver<(Dialing, Ack)>) {
        let stop = self.shared.stop.clone();
        // Fillers that are still in the backlog when it is accepted from again.
        let mut skip: HashSet<SocketAddr> = HashSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                command = commands.recv() => {
                    let Some((dialing, ack)) = command else { return };
                    if let State::Full(_, fillers) = &self.state {
                        skip.extend(fillers.iter().filter_map(|filler| filler.local_addr().ok()));
                    }
                    let _ = ack.send(self.change(dialing).await);
                }
                accepted = accept(&self.state) => match accepted {
                    Ok((_, peer)) if skip.remove(&peer) => {}
                    Ok((stream, _)) => self.serve(stream),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                },
            }
        }
    }

    async fn change(&mut self, dialing: Dialing) -> io::Result<()> {
        self.dialing = dialing;
        match dialing {
            Dialing::Accept | Dialing::Reset => self.listen().await,
            Dialing::Refuse => {
                self.state = State::Closed;
                match timeout(SYN_WAIT, TcpStream::connect(self.addr)).await {
                    Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        self.shared.counters.fired(Family::Refuse, 1);
                        Ok(())
                    }
                    _ => Err(io::Error::other("the closed listener does not refuse")),
                }
            }
            Dialing::SynBlackHole => self.fill().await,
        }
    }

    async fn listen(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Listening(listener) => self.state = State::Listening(listener),
            State::Closed => self.state = State::Listening(TcpListener::bind(self.addr).await?),
            State::Full(listener, _) => {
                SockRef::from(&listener).listen(BACKLOG)?;
                self.state = State::Listening(listener);
            }
        }
        Ok(())
    }

    /// Fills the backlog: Linux drops a SYN when the accept queue is full (listen(2), tcp(7) tcp_abort_on_overflow).
    async fn fill(&mut self) -> io::Result<()> {
        self.listen().await?;
        let State::Listening(listener) = std::mem::replace(&mut self.state, State::Closed) else { return Ok(()) };
        SockRef::from(&listener).listen(0)?;
        let mut fillers = Vec::new();
        let mut full = false;
        while !full && fillers.len() < FILLERS_MAX {
            match timeout(SYN_WAIT, TcpStream::connect(self.addr)).await {
                Ok(connected) => fillers.push(connected?),
                Err(_) => full = true,
            }
        }
        self.state = State::Full(listener, fillers);
        if full {
            self.shared.counters.fired(Family::SynBlackHole, 1);
            Ok(())
        } else {
            Err(io::Error::other("the backlog does not fill"))
        }
    }

    fn serve(&self, client: TcpStream) {
        let shared = self.shared.clone();
        shared.counters.accepted();
        let dialing = self.dialing;
        self.shared.tasks.spawn(async move {
            let stop = shared.stop.clone();
            stop.run_until_cancelled(async move {
                match dialing {
                    Dialing::Reset => {
                        reset_after_hello(&shared, client).await;
                        shared.counters.fired(Family::Reset, 1);
                    }
                    _ => forward(shared, client).await,
                }
            })
            .await;
        });
    }
}

async fn accept(state: &State) -> io::Result<(TcpStream, SocketAddr)> {
    match state {
        State::Listening(listener) => listener.accept().await,
        State::Closed | State::Full(..) => std::future::pending().await,
    }
}

/// Lets a dialler say who it is, so that it is counted, then resets it.
async fn reset_after_hello(shared: &Shared, client: TcpStream) {
    let mut scanner = Scanner::default();
    let hello = async {
        let mut buf = [0; 1024];
        loop {
            client.readable().await?;
            let len = match client.try_read(&mut buf) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            shared.counters.bytes(Direction::ToServer, len as u64);
            let mut rest = &buf[..len];
            while !rest.is_empty() {
                let (taken, step) = scanner.take(rest);
                rest = &rest[taken..];
                if let Step::End(header) = step {
                    shared.counters.frame(Direction::ToServer, scanner.peer(), &header);
                    return Ok(());
                }
            }
        }
    };
    // However it went, the answer is the same.
    let _: Result<io::Result<()>, _> = timeout(HELLO_WAIT, hello).await;
    zero_linger(&client);
}

async fn forward(shared: Arc<Shared>, client: TcpStream) {
    let Ok(server) = TcpStream::connect(shared.target).await else {
        // The server behind is gone: so is the dialler's connection.
        reset_after_hello(&shared, client).await;
        return;
    };
    let conn = Arc::new(Conn::new(client, server, shared.stop.child_token(), shared.counters.clone()));
    {
        let mut conns = shared.conns.lock();
        conns.retain(|conn| conn.strong_count() > 0);
        conns.push(Arc::downgrade(&conn));
    }
    let seed = || shared.random.lock().u64(..);
    let up = Pump::new(conn.clone(), Direction::ToServer, shared.to_server.subscribe(), seed());
    let down = Pump::new(conn, Direction::ToClient, shared.to_client.subscribe(), seed());
    shared.tasks.spawn(down.run());
    up.run().await;
}
