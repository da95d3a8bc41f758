//! Who is well: drives the circuit breakers, looks after silent and idle nodes, and holds operations whose replicas are
//! all away until one is back. What is decided is decided in `policy`; this file sends the PINGs and keeps the time.

use crate::client::Inner;
use crate::node::Node;
use crate::policy::breaker::{Breaker, BreakerState, Hard, Silence, Transition};
use crate::policy::parking::{Parking, Ticket};
use crate::policy::{probes, timers};
use crate::record::Record;
use crate::stats::bump;
use cairn_net::LegErrorClass;
use cairn_proto::pb::Pong;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// How often nodes with requests under way are looked at.
const TICK: Duration = Duration::from_millis(100);
/// A node that said it is shutting down is asked again after this.
const DRAINING_PAUSE: Duration = Duration::from_secs(1);
/// Longest time without a look at anything.
const REST_MAX: Duration = Duration::from_secs(5);

/// What a client knows about a node's health.
pub(crate) struct Health {
    pub(crate) breaker: Breaker,
    silence: Silence,
    /// Last request sent or byte received.
    traffic: Duration,
    /// Draws the time of the next idle PING.
    jitter: f64,
    asking: bool,
    pub(crate) pings: u64,
    pub(crate) probes: u64,
    pub(crate) failed_probes: u64,
    pub(crate) open_reason: &'static str,
    opened_at: Duration,
}

impl Health {
    pub(crate) fn new(now: Duration, jitter: f64) -> Self {
        Self {
            breaker: Breaker::new(),
            silence: Silence::default(),
            traffic: now,
            jitter,
            asking: false,
            pings: 0,
            probes: 0,
            failed_probes: 0,
            open_reason: "",
            opened_at: now,
        }
    }

    /// A request is about to be sent.
    pub(crate) fn on_sent(&mut self, now: Duration) {
        self.silence.on_sent(now);
        self.traffic = now;
    }

    /// An answer came.
    pub(crate) fn on_answer(&mut self, now: Duration) {
        self.silence.on_heard(now);
        self.traffic = now;
        self.breaker.on_success(now);
    }

    /// Why it is not asked.
    pub(crate) fn describe(&self) -> String {
        match self.breaker.state() {
            BreakerState::Closed => "was not asked: too few of the others are there".to_owned(),
            BreakerState::Draining => "is shutting down".to_owned(),
            BreakerState::Open | BreakerState::Probing => {
                format!(
                    "left alone, it does not answer ({}, {} probes since failed)",
                    self.open_reason, self.failed_probes
                )
            }
        }
    }
}

/// Keeps time for all nodes, and the parking lot.
pub(crate) struct HealthDriver {
    wake: Notify,
    /// The driver sleeps until something is due, and wants to hear of new requests.
    resting: AtomicBool,
    parking: Mutex<Parking<oneshot::Sender<Verdict>>>,
    releasing: AtomicBool,
    /// How often parked operations were to be let go.
    release_asked: AtomicU64,
    /// Clients of the cluster, as metadata says; 0 = not known.
    clients: AtomicU64,
}

impl Default for HealthDriver {
    fn default() -> Self {
        Self {
            wake: Notify::new(),
            resting: AtomicBool::new(false),
            parking: Mutex::new(Parking::new()),
            releasing: AtomicBool::new(false),
            release_asked: AtomicU64::new(0),
            clients: AtomicU64::new(0),
        }
    }
}

/// What became of a parked operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// A node is back: look again.
    Released,
    /// Too many wait.
    Shed,
    /// The deadline is near.
    TimedOut,
}

impl HealthDriver {
    /// A request was sent: somebody has to watch it.
    pub(crate) fn wake(&self) {
        if self.resting.swap(false, Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// A node is back, or another one took its place: parked operations look again.
    pub(crate) fn ask_release(&self) {
        self.release_asked.fetch_add(1, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Metadata told how many clients there are.
    pub(crate) fn set_clients(&self, clients: u64) {
        self.clients.store(clients, Ordering::Relaxed);
    }

    pub(crate) fn parking_stats(&self) -> crate::stats::ParkingStats {
        let parking = self.parking.lock();
        crate::stats::ParkingStats { now: parking.len() as u64, total: parking.total(), shed: parking.shed() }
    }

    fn ceiling(&self) -> Duration {
        probes::probe_ceiling(!self.parking.lock().is_empty(), self.clients.load(Ordering::Relaxed))
    }
}

/// Takes an operation out of the lot however it ends.
struct Place<'a> {
    driver: &'a HealthDriver,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.driver.parking.lock().leave(self.ticket);
    }
}

/// Waits until some node is back. `in_vain` is asked again once the place is taken: true while all replicas are away.
pub(crate) async fn park(inner: &Inner, deadline: Instant, in_vain: impl Fn() -> bool) -> Verdict {
    let begun = Instant::now();
    let (sender, receiver) = oneshot::channel();
    let driver = &inner.health;
    let (ticket, shed) = driver.parking.lock().park(sender);
    let _place = Place { driver, ticket };
    if let Some(shed) = shed {
        // Whoever was shed may be gone by itself.
        let _ = shed.send(Verdict::Shed);
    }
    // While operations are parked, probes come sooner.
    driver.wake.notify_one();
    let verdict = if in_vain() {
        match tokio::time::timeout_at(deadline, receiver).await {
            Ok(verdict) => verdict.unwrap_or(Verdict::Shed),
            Err(_) => Verdict::TimedOut,
        }
    } else {
        Verdict::Released
    };
    inner.recorder.add(|| Record::Parked {
        at: inner.now(),
        waited: begun.elapsed(),
        released: verdict == Verdict::Released,
    });
    verdict
}

/// Lets parked operations go, in batches: those that waited when it was asked for. Whoever finds its own replicas still
/// away parks again, and waits for the next time.
fn release(inner: &Arc<Inner>) {
    if inner.health.releasing.swap(true, Ordering::SeqCst) {
        return;
    }
    let inner = inner.clone();
    inner.upkeep.clone().spawn(async move {
        let driver = &inner.health;
        loop {
            let asked = driver.release_asked.load(Ordering::SeqCst);
            let end = driver.parking.lock().end();
            loop {
                let released = driver.parking.lock().release(inner.now(), inner.unit(), end);
                for waiter in released.waiters {
                    // Whoever parked may be gone.
                    let _ = waiter.send(Verdict::Released);
                }
                let Some(next) = released.next else { break };
                tokio::time::sleep_until(inner.instant(next)).await;
            }
            driver.releasing.store(false, Ordering::SeqCst);
            // Asked for meanwhile: whoever sets the flag first goes on.
            let is_done = driver.release_asked.load(Ordering::SeqCst) == asked;
            if is_done || driver.releasing.swap(true, Ordering::SeqCst) {
                return;
            }
        }
    });
}

/// A dial failed, or a connection broke.
pub(crate) fn on_hard_failure(inner: &Inner, node: &Node, hard: Hard) {
    let last = inner.is_last_closed(node);
    let transition = node.health.lock().breaker.on_failure(inner.now(), hard, last, inner.unit());
    apply(inner, node, transition);
}

/// Notes a breaker's change of state.
fn apply(inner: &Inner, node: &Node, transition: Option<Transition>) {
    let Some(transition) = transition else { return };
    let reason = transition.reason.map_or(transition.to.name(), |reason| reason.name());
    {
        let mut health = node.health.lock();
        if transition.to == BreakerState::Open {
            health.open_reason = reason;
            health.opened_at = inner.now();
        }
        if transition.to == BreakerState::Closed {
            health.failed_probes = 0;
        }
    }
    inner.counters.breaker(node.id, transition.to.name(), reason);
    inner.recorder.add(|| Record::Breaker { at: inner.now(), node: node.id, to: transition.to, reason });
    match transition.to {
        BreakerState::Open => {
            tracing::info!(node = %node.id, addr = %node.addr, reason, "node does not answer, left alone");
            // A probe is due soon.
            inner.health.wake.notify_one();
        }
        BreakerState::Closed => {
            bump(&inner.counters.breakers_closed);
            tracing::info!(node = %node.id, addr = %node.addr, "node is back");
            inner.health.ask_release();
        }
        BreakerState::Probing | BreakerState::Draining => {}
    }
}

/// Runs until shutdown.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut released = 0;
    loop {
        let asked = inner.health.release_asked.load(Ordering::SeqCst);
        if asked != released {
            released = asked;
            release(&inner);
        }
        // Set before looking: a request that this look does not see finds it set.
        inner.health.resting.store(true, Ordering::SeqCst);
        let next = look(&inner);
        if next.is_some_and(|next| next <= inner.now() + TICK) {
            // It looks again soon anyway.
            inner.health.resting.store(false, Ordering::SeqCst);
        }
        let until = next.unwrap_or(Duration::MAX).min(inner.now() + REST_MAX);
        tokio::select! {
            biased;
            () = inner.shutdown.cancelled() => return,
            () = inner.health.wake.notified() => {}
            () = tokio::time::sleep_until(inner.instant(until)) => {}
        }
    }
}

/// What a node needs now.
enum Need {
    /// A PING: it is silent, or was idle.
    Ping,
    /// A PING over a fresh connection.
    Probe,
}

/// Looks at every node once; returns when to look again.
fn look(inner: &Arc<Inner>) -> Option<Duration> {
    let now = inner.now();
    let ceiling = inner.health.ceiling();
    let mut next: Option<Duration> = None;
    let mut sooner = |at: Duration| next = Some(next.map_or(at, |known| known.min(at)));
    for node in inner.all_nodes() {
        let srtt = Some(node.link.srtt_us()).filter(|us| *us > 0).map(Duration::from_micros);
        node.link.set_connect_timeout(timers::connect_limit(srtt));
        let heard = node.link.last_received().map(|at| inner.since_origin(at));
        let p99 = node.p99(now);
        let busy = node.in_flight() > 0;
        let mut health = node.health.lock();
        if let Some(heard) = heard {
            health.silence.on_heard(heard);
            health.traffic = health.traffic.max(heard);
        }
        let need = match health.breaker.state() {
            BreakerState::Open => {
                let at = health.breaker.probe_at(ceiling);
                if let Some(at) = at.filter(|at| *at > now) {
                    sooner(at);
                }
                (at.is_some_and(|at| at <= now) && health.breaker.begin_probe(now, ceiling)).then_some(Need::Probe)
            }
            BreakerState::Probing => None,
            BreakerState::Closed | BreakerState::Draining => {
                // The later half of the jitter only: a node hears from an idle client at most once in five seconds.
                let draining = health.breaker.state() == BreakerState::Draining;
                let due = if draining {
                    // Nobody sends to it, so that only this finds out when it is up again.
                    health.traffic + DRAINING_PAUSE
                } else {
                    probes::idle_ping_due(health.traffic, 0.5 + health.jitter / 2.0)
                };
                let connected = node.link.is_connected();
                // Also without a request under way: those to a silent node are cancelled when a hedge was faster.
                // A connection that is still being made is a matter of its dial.
                let silent = connected && health.silence.is_suspicious(now, p99);
                if busy || health.silence.is_pending() {
                    sooner(now + TICK);
                } else if due > now {
                    sooner(due);
                }
                let idle = (!busy || draining) && due <= now && (connected || draining);
                if !busy && due <= now && !idle {
                    // Without a connection there is nobody to ask; traffic wakes the driver.
                    health.traffic = now;
                }
                (!health.asking && (silent || idle)).then_some(Need::Ping)
            }
        };
        match need {
            None => {}
            Some(Need::Ping) => {
                health.asking = true;
                health.pings += 1;
                health.traffic = now;
                health.jitter = inner.unit();
                drop(health);
                inner.upkeep.spawn(ping(inner.clone(), node.clone()));
            }
            Some(Need::Probe) => {
                health.probes += 1;
                drop(health);
                inner.upkeep.spawn(probe(inner.clone(), node.clone()));
            }
        }
    }
    next
}

/// Asks a silent or idle node for a sign of life over the connection it has.
async fn ping(inner: Arc<Inner>, node: Arc<Node>) {
    let asked = Instant::now();
    let srtt = Some(node.link.srtt_us()).filter(|us| *us > 0).map(Duration::from_micros);
    let ping = node.link.ping(probes::PROBE_MAX);
    tokio::pin!(ping);
    let answer = loop {
        // Asked anew each time: the node may be the last closed one by now.
        let relapses = node.health.lock().breaker.relapses(inner.now());
        let until = asked + probes::silence_limit(srtt, relapses, inner.is_last_closed(&node));
        if Instant::now() >= until {
            break None;
        }
        tokio::select! {
            biased;
            answer = &mut ping => break Some(answer),
            () = tokio::time::sleep_until(until) => {}
        }
    };
    let now = inner.now();
    let heard = node.link.last_received().is_some_and(|at| at >= asked);
    let transition = {
        let mut health = node.health.lock();
        health.asking = false;
        match &answer {
            Some(Ok(pong)) => {
                health.silence.on_heard(now);
                health.breaker.on_draining(pong.draining)
            }
            // Slow, not silent.
            None | Some(Err(_)) if heard => {
                health.silence.on_heard(now);
                None
            }
            // It is gone, as it said: probes find it when it is back.
            None | Some(Err(_)) if health.breaker.state() == BreakerState::Draining => {
                health.breaker.on_silence(now, inner.unit())
            }
            Some(Err(error)) if matches!(error.class, LegErrorClass::Connect | LegErrorClass::WrongPeer) => None,
            None | Some(Err(_)) => health.breaker.on_silence(now, inner.unit()),
        }
    };
    if transition.as_ref().is_some_and(|transition| transition.to == BreakerState::Open) {
        // Whatever waits on those connections would wait for ever.
        node.link.abandon("the peer does not answer a ping");
    }
    apply(&inner, &node, transition);
    if let Some(Err(error)) = &answer
        && !heard
        && error.class == LegErrorClass::Connect
        && node.is_new_dial_failure(error.dial)
    {
        on_hard_failure(&inner, &node, Hard::Dial);
    }
    inner.health.wake.notify_one();
}

/// A probe that ends without a result must not leave its breaker waiting for one.
struct Probing<'a>(&'a Node);

impl Drop for Probing<'_> {
    fn drop(&mut self) {
        self.0.health.lock().breaker.abandon_probe();
    }
}

/// Asks an Open node for a sign of life over a fresh connection; only that closes its breaker.
///
/// When the answer takes long, that counts as none, and the next probe may begin; this one is listened to for
/// [`probes::PROBE_MAX`]. So there are ten of a node at most: the shortest pause and the shortest patience are half a second.
async fn probe(inner: Arc<Inner>, node: Arc<Node>) {
    let srtt = Some(node.link.srtt_us()).filter(|us| *us > 0).map(Duration::from_micros);
    let guard = Probing(&node);
    let asking = node.link.probe_anew(probes::PROBE_MAX);
    tokio::pin!(asking);
    let is_good = |pong: &Pong| !pong.draining;
    let in_time = tokio::time::timeout(probes::probe_patience(srtt), &mut asking).await;
    let ok = in_time.as_ref().is_ok_and(|answer| answer.as_ref().is_ok_and(is_good));
    let transition = {
        let mut health = node.health.lock();
        health.failed_probes += u64::from(!ok);
        health.breaker.on_probe(ok, inner.now(), inner.unit())
    };
    drop(guard);
    probed(&inner, &node, transition);
    if in_time.is_err() && asking.await.as_ref().is_ok_and(is_good) {
        let transition = node.health.lock().breaker.on_late_probe(inner.now());
        probed(&inner, &node, transition);
    }
}

/// A probe had its result; `closed` is what that changed.
fn probed(inner: &Arc<Inner>, node: &Arc<Node>, closed: Option<Transition>) {
    if closed.is_some() {
        let now = inner.now();
        {
            let mut health = node.health.lock();
            health.silence = Silence::default();
            health.traffic = now;
        }
        let is_peer =
            |peer: &Arc<Node>| (peer.id.0 == 0) == (node.id.0 == 0) && !Arc::ptr_eq(peer, node) && peer.is_closed();
        let peers: Vec<Arc<Node>> = inner.all_nodes().into_iter().filter(is_peer).collect();
        node.on_recovered(&peers, now);
    }
    apply(inner, node, closed);
    inner.health.wake.notify_one();
}
