//! Everything to one peer address: permits ([`admit`]), the two lanes ([`lanes`] carries out what the pool decides),
//! dialling, probing, upkeep.

mod admit;
mod dial;
mod lanes;
mod probe;
mod report;
mod upkeep;

use crate::call::{Call, Route};
use crate::config::LinkConfig;
use crate::conn::{Conn, Death};
use crate::error::{LegError, LegErrorClass, Sent};
use crate::identity::{PeerInfo, SharedIdentity};
use crate::leg::{Job, Leg, LegShared};
use crate::meter::Totals;
use crate::pool::{LaneKind, Pool, Wants};
use crate::seam::{Net, now};
use crate::stats::{CloseReason, Counters, LinkStats};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use cairn_proto::limits::{FRAME_HEADER_MAX, RESPONSE_LEN_MAX};
use cairn_proto::{NodeId, pb};
use parking_lot::Mutex;
use prost::Message;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use upkeep::Refill;

pub(crate) use lanes::Waiter;

/// The shared part of a link. Connections hold it weakly.
pub(crate) struct LinkInner {
    net: Arc<dyn Net>,
    pub addr: String,
    expect_node: NodeId,
    identity: SharedIdentity,
    pub config: Arc<LinkConfig>,
    /// Set by the first leg or ping: connections live on that runtime, whoever drops a leg where.
    runtime: OnceLock<Handle>,
    tasks: TaskTracker,
    pub counters: Arc<Counters>,
    totals: Arc<Totals>,
    ops: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    waiting_permits: AtomicUsize,
    pool: Pool<Arc<Conn>, Waiter>,
    /// The probe under way, owned by those who wait for it.
    probing: Mutex<Weak<probe::Flight>>,
    upkeep_runs: AtomicBool,
    refill: Mutex<Refill>,
    peer: ArcSwapOption<PeerInfo>,
    connect_timeout_us: AtomicU64,
    rng: Mutex<fastrand::Rng>,
    serial: AtomicU64,
    dial_serial: AtomicU64,
    closed: CancellationToken,
}

/// Closes the link when the last handle or leg is gone.
struct Guard(Arc<LinkInner>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Everything to one peer address: the control lane and the bulk lane. Cloning gives another handle to the same; when
/// the last handle and the last leg are gone, all connections close.
#[derive(Clone)]
pub struct Link(Arc<Guard>);

impl Link {
    /// A link without connections; they are dialled when needed. `expect_node` 0 accepts whoever answers. `seed` feeds
    /// the jitter of connection ages. Its connections live on the tokio runtime of the first [`Link::start`] or
    /// [`Link::ping`], and must not outlive it.
    pub fn new(
        net: Arc<dyn Net>,
        addr: String,
        expect_node: NodeId,
        identity: SharedIdentity,
        config: Arc<LinkConfig>,
        seed: u64,
    ) -> Self {
        let inner = Arc::new(LinkInner {
            net,
            addr,
            expect_node,
            identity,
            runtime: OnceLock::new(),
            tasks: TaskTracker::new(),
            counters: Arc::default(),
            totals: Arc::new(Totals::new()),
            ops: Arc::new(Semaphore::new(config.ops)),
            bytes: Arc::new(Semaphore::new(config.bytes)),
            waiting_permits: AtomicUsize::new(0),
            pool: Pool::new(config.bulk_max),
            probing: Mutex::new(Weak::new()),
            upkeep_runs: AtomicBool::new(false),
            refill: Mutex::default(),
            peer: ArcSwapOption::empty(),
            connect_timeout_us: AtomicU64::new(config.connect_timeout.as_micros() as u64),
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            serial: AtomicU64::new(0),
            dial_serial: AtomicU64::new(0),
            closed: CancellationToken::new(),
            config,
        });
        let crowd: Weak<LinkInner> = Arc::downgrade(&inner);
        inner.config.total_connections.register(crowd);
        Self(Arc::new(Guard(inner)))
    }

    fn inner(&self) -> &Arc<LinkInner> {
        &self.0.0
    }

    /// Begins a request. Never blocks and never fails by itself: every failure is the leg's outcome. Permits are taken
    /// in the order operation, bytes, connection, and returned when the leg has its outcome.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(&self, call: Call) -> Leg {
        self.start_on(call, Route::default())
    }

    /// The same, with wishes about the connection.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start_on(&self, mut call: Call, route: Route) -> Leg {
        let inner = self.inner();
        inner.runtime.get_or_init(Handle::current);
        Counters::add(&inner.counters.legs, 1);
        call.request.total_len = call.body.len();
        let protobuf = Bytes::from(call.request.encode_to_vec());
        let (leg, job) = Leg::new(self.clone(), call, route, protobuf);
        if let Err(reason) = check(&job) {
            job.fail(LegErrorClass::TooLarge, reason);
            return leg;
        }
        inner.admit(job);
        leg
    }

    /// Asks the peer for a sign of life on the control lane, dialling if needed.
    ///
    /// # Errors
    /// `Connect` and its relatives from dialling, `Reset` when the connection ended, `Deadline` when no answer came
    /// within `limit`. Cancelling leaves nothing behind.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn ping(&self, limit: Duration) -> Result<pb::Pong, LegError> {
        let inner = self.inner();
        inner.runtime.get_or_init(Handle::current);
        inner.ping(limit).await
    }

    /// Asks the peer for a sign of life over a connection that is dialled for this: dial, HELLO, PING, within `limit`
    /// altogether. It tells whether the peer takes connections again, whatever those that exist may do. The new
    /// connection becomes the control lane's, unless a younger one is there by then. Older ones, of both lanes, finish
    /// what they have and are closed: they were there when the peer did not answer.
    ///
    /// One probe runs at a time: who asks while one is under way shares its outcome, and its limit.
    ///
    /// # Errors
    /// As [`Link::ping`]; `dial` is set unless the peer took the connection and did not answer the ping. Cancelling
    /// the last call that waits for a probe ends it.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn probe(&self, limit: Duration) -> Result<pb::Pong, LegError> {
        let inner = self.inner();
        inner.runtime.get_or_init(Handle::current);
        inner.probe(limit, probe::Company::Shared).await
    }

    /// As [`Link::probe`], but dials for itself even while another probe is under way: that one may wait for an answer
    /// that was lost before the peer came back. The caller bounds how many there are.
    ///
    /// # Errors
    /// As [`Link::probe`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn probe_anew(&self, limit: Duration) -> Result<pb::Pong, LegError> {
        let inner = self.inner();
        inner.runtime.get_or_init(Handle::current);
        inner.probe(limit, probe::Company::Alone).await
    }

    /// When the last byte came from the peer, on whatever connection; `None` = never one. An atomic load.
    pub fn last_received(&self) -> Option<Instant> {
        self.inner().totals.last_received()
    }

    /// When the kernel last took a byte for the peer, on whatever connection; `None` = never one. An atomic load.
    pub fn last_sent(&self) -> Option<Instant> {
        self.inner().totals.last_sent()
    }

    /// When a byte last moved in either direction; `None` = never one.
    pub fn last_traffic(&self) -> Option<Instant> {
        self.last_received().max(self.last_sent())
    }

    /// The address it leads to.
    pub fn addr(&self) -> &str {
        &self.inner().addr
    }

    /// A snapshot of its connections and counters.
    pub fn stats(&self) -> LinkStats {
        self.inner().stats()
    }

    /// Sets the time a dial may take from now on, HELLO included; the configured ceiling holds.
    pub fn set_connect_timeout(&self, limit: Duration) {
        let limit = limit.min(self.inner().config.connect_timeout);
        self.inner().connect_timeout_us.store(limit.as_micros() as u64, Ordering::Relaxed);
    }

    /// What the peer said of itself at the last handshake; `None` before the first.
    pub fn peer(&self) -> Option<Arc<PeerInfo>> {
        self.inner().peer.load_full()
    }

    /// Smoothed round trip of handshakes and pings, in microseconds; 0 = none seen.
    pub fn srtt_us(&self) -> u64 {
        Counters::get(&self.inner().counters.srtt_us)
    }

    /// True while a connection is established.
    pub fn is_connected(&self) -> bool {
        let lanes = self.inner().pool.lock();
        !lanes.control.open().is_empty() || !lanes.bulk.open().is_empty()
    }

    /// Ends all connections because the peer gives no sign of life; legs under way fail with `Stalled`. Later ones dial
    /// anew.
    pub fn abandon(&self, reason: &str) {
        let conns: Vec<Arc<Conn>> = {
            let lanes = self.inner().pool.lock();
            lanes.control.open().iter().chain(lanes.bulk.open()).chain(&lanes.retired).cloned().collect()
        };
        for conn in conns {
            conn.kill(Death::new(CloseReason::Stalled, LegErrorClass::Stalled, reason));
        }
    }

    /// Closes all connections; legs under way fail with `Cancelled`, and so do later ones.
    pub fn close(&self) {
        self.inner().close();
    }

    pub(crate) fn forget(&self, leg: &Arc<LegShared>) {
        self.inner().forget(leg);
    }

    pub(crate) fn count_cancel(&self) {
        Counters::add(&self.inner().counters.cancels, 1);
    }
}

/// What can be refused before anything is asked of the peer.
fn check(job: &Job) -> Result<(), String> {
    if job.protobuf.len() > FRAME_HEADER_MAX as usize {
        return Err(format!("a request header of {} bytes exceeds {FRAME_HEADER_MAX}", job.protobuf.len()));
    }
    if job.call.body.len() > RESPONSE_LEN_MAX {
        return Err(format!("a request body of {} bytes exceeds {RESPONSE_LEN_MAX}", job.call.body.len()));
    }
    Ok(())
}

impl LinkInner {
    /// Numbers connections, from 1.
    pub fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Maximum age of a new connection, ±20 %, so that those dialled together do not end together.
    pub fn draw_max_age(&self) -> Duration {
        self.config.max_age.mul_f64(0.8 + 0.4 * self.rng.lock().f64())
    }

    /// Runs a task that belongs to the link.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let runtime = self.runtime.get().expect("whatever spawns was begun by a leg or a ping, which set the runtime");
        self.tasks.spawn_on(task, runtime).abort_handle()
    }

    fn closed_error(&self) -> LegError {
        LegError::new(LegErrorClass::Cancelled, Sent::No, format!("the link to {} is closed", self.addr))
    }

    fn forget(&self, leg: &Arc<LegShared>) {
        let gone = self.pool.forget(|waiter| match waiter {
            Waiter::Job(job) => Arc::ptr_eq(&job.shared, leg),
            Waiter::Ping(sender) => sender.is_closed(),
        });
        // Outside the lock: their permits wake others.
        drop(gone);
    }

    /// A connection of the control lane, dialling if needed.
    async fn control_conn(self: &Arc<Self>) -> Result<Arc<Conn>, LegError> {
        let (sender, receiver) = oneshot::channel();
        self.pool.arrive(self, LaneKind::Control, Waiter::Ping(sender), Wants::Any);
        receiver.await.unwrap_or_else(|_| Err(self.closed_error()))
    }

    async fn ping(self: &Arc<Self>, limit: Duration) -> Result<pb::Pong, LegError> {
        let began = now();
        let ask = async {
            let conn = self.control_conn().await?;
            let asked = now();
            let gone = || LegError::new(LegErrorClass::Reset, Sent::Maybe, "the connection ended during a ping");
            let pong = conn.ping().ok_or_else(gone)?.await.map_err(|_| gone())?;
            self.counters.round_trip((now() - asked).as_micros() as u64);
            Ok(pong)
        };
        timeout(limit, ask).await.unwrap_or_else(|_| {
            let waited = now() - began;
            let message = format!("{} did not answer a ping within {waited:?}", self.addr);
            Err(LegError::new(LegErrorClass::Deadline, Sent::Maybe, message))
        })
    }

    fn close(self: &Arc<Self>) {
        let (conns, waiters) = self.pool.close();
        self.closed.cancel();
        for waiter in waiters {
            waiter.fail(self.closed_error());
        }
        for conn in conns {
            conn.kill(Death::new(CloseReason::Shutdown, LegErrorClass::Cancelled, "the link was closed"));
        }
    }
}
