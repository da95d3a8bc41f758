//! All policies together: one client and three replicas in a simulation of discrete events, without any real time.
//!
//! Reads arrive by a Poisson process at 1,000 per second; a replica answers after a time drawn from a lognormal
//! distribution (median 1 ms, sigma 0.8); a fault begins at 10 s and ends at 30 s. The driver below does what the
//! asynchronous one does around the same types. Everything follows from one seed, so thresholds are exact.

mod scenarios;

use super::breaker::{Breaker, Silence};
use super::budget::{Budget, HedgeBudget, HedgePermit, RETRY_CAP, RETRY_PER_SUCCESS};
use super::histogram::Recent;
use super::load::{Choice, Load, order};
use super::parking::{Parking, Ticket};
use super::probes::{PROBE_MAX, probe_ceiling, probe_patience, silence_limit};
use super::read_plan::{Permits, ReadPlan, Step, Times, Why};
use super::rounds::RetryPolicy;
use super::timers::{Class, Timer, hedge_after};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const NODES: usize = 3;
const READS_PER_S: f64 = 1000.0;
const LEN: u64 = 4096;
/// A ping's way there and back.
const RTT: Duration = Duration::from_micros(200);
/// How often the driver looks for silence.
const TICK: Duration = Duration::from_millis(100);
const FAULT: std::ops::Range<Duration> = Duration::from_secs(10)..Duration::from_secs(30);
const END: Duration = Duration::from_secs(38);

/// What happens to a node during the fault.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Trouble {
    None,
    /// Takes everything and answers nothing; so do its connections.
    BlackHole,
    /// Every answer comes this much later.
    Slow(Duration),
    /// Refuses connections and breaks those it has.
    Refuses,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    Arrive,
    /// The answer to a leg, good or bad.
    Answer {
        leg: usize,
        good: bool,
    },
    Wake {
        op: usize,
    },
    Deadline {
        op: usize,
    },
    NextRound {
        op: usize,
    },
    Tick,
    Pong {
        node: usize,
    },
    LateProbe {
        node: usize,
    },
    PingLimit {
        node: usize,
        sent: Duration,
    },
    ProbeDue {
        node: usize,
    },
    ProbeEnd {
        node: usize,
        ok: bool,
    },
    Release,
}

struct Leg {
    op: usize,
    number: usize,
    node: usize,
    why: Why,
    begun: Duration,
    live: bool,
}

enum State {
    Running,
    Parked(Ticket),
    Pausing,
    Done,
}

struct Op {
    begun: Duration,
    ended: Option<Duration>,
    ok: bool,
    plan: Option<ReadPlan<usize>>,
    hedge_after: Duration,
    hedge: Option<HedgePermit>,
    state: State,
    rounds: u32,
    legs: Vec<usize>,
}

struct Node {
    trouble: Trouble,
    load: Load,
    breaker: Breaker,
    silence: Silence,
    timer: Timer,
    recent: Recent,
    flights: BTreeMap<usize, Duration>,
    heard_at: Duration,
    pinging: bool,
}

#[derive(Default, Debug)]
struct Counters {
    hedges: u64,
    timers: u64,
    failovers: u64,
    opened: u64,
    probes: u64,
    /// Legs sent, by millisecond.
    legs_by_ms: BTreeMap<u64, u64>,
}

struct Sim {
    rng: fastrand::Rng,
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    tickets: u64,
    deadline: Duration,
    nodes: Vec<Node>,
    ops: Vec<Op>,
    legs: Vec<Leg>,
    first_legs: Recent,
    retries: Budget,
    hedges: Arc<HedgeBudget>,
    parking: Parking<usize>,
    rounds: RetryPolicy,
    counters: Counters,
}

struct Purse<'a> {
    retries: &'a Budget,
    hedges: &'a Arc<HedgeBudget>,
    permit: &'a mut Option<HedgePermit>,
}

impl Permits for Purse<'_> {
    fn hedge(&mut self) -> bool {
        *self.permit = self.hedges.try_take(LEN).ok();
        self.permit.is_some()
    }
    fn retry(&mut self) -> bool {
        self.retries.try_take()
    }
}

impl Sim {
    fn run(seed: u64, troubles: [Trouble; NODES], deadline: Duration) -> Self {
        let node = |trouble| Node {
            trouble,
            load: Load::default(),
            breaker: Breaker::new(),
            silence: Silence::default(),
            timer: Timer::default(),
            recent: Recent::default(),
            flights: BTreeMap::new(),
            heard_at: Duration::ZERO,
            pinging: false,
        };
        let mut sim = Self {
            rng: fastrand::Rng::with_seed(seed),
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            tickets: 0,
            deadline,
            nodes: troubles.into_iter().map(node).collect(),
            ops: Vec::new(),
            legs: Vec::new(),
            first_legs: Recent::default(),
            retries: Budget::new(RETRY_CAP, RETRY_PER_SUCCESS),
            hedges: Arc::new(HedgeBudget::new()),
            parking: Parking::new(),
            rounds: RetryPolicy::default(),
            counters: Counters::default(),
        };
        sim.at(Duration::ZERO, Event::Arrive);
        sim.at(Duration::ZERO, Event::Tick);
        while let Some(Reverse((at, _, event))) = sim.queue.pop() {
            sim.now = at;
            sim.on(event);
        }
        sim
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.tickets += 1;
        self.queue.push(Reverse((at.max(self.now), self.tickets, event)));
    }

    fn trouble(&self, node: usize) -> Trouble {
        if FAULT.contains(&self.now) { self.nodes[node].trouble } else { Trouble::None }
    }

    /// Lognormal, median 1 ms, sigma 0.8 (normal by Box and Muller).
    fn service(rng: &mut fastrand::Rng) -> Duration {
        let (u, v) = (1.0 - rng.f64(), rng.f64());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        MS.mul_f64((0.8 * normal).exp())
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Arrive => {
                let gap = Duration::from_secs_f64(-(1.0 - self.rng.f64()).ln() / READS_PER_S);
                if self.now + gap < END {
                    self.at(self.now + gap, Event::Arrive);
                }
                self.begin();
            }
            Event::Answer { leg, good } => self.answer(leg, good),
            Event::Wake { op } | Event::NextRound { op } => match self.ops[op].state {
                State::Running => self.drive(op),
                State::Pausing if matches!(event, Event::NextRound { .. }) => self.round(op),
                _ => {}
            },
            Event::Deadline { op } => {
                if let State::Parked(ticket) = self.ops[op].state {
                    self.parking.leave(ticket);
                }
                self.end(op, false);
            }
            Event::Tick => {
                if self.now < END + Duration::from_secs(12) {
                    self.at(self.now + TICK, Event::Tick);
                }
                (0..NODES).for_each(|node| self.look_for_silence(node));
            }
            Event::Pong { node } => {
                self.nodes[node].heard_at = self.now;
                self.nodes[node].silence.on_heard(self.now);
            }
            Event::PingLimit { node, sent } => self.ping_limit_passed(node, sent),
            Event::ProbeDue { node } => self.probe(node),
            Event::ProbeEnd { node, ok } => {
                let unit = self.rng.f64();
                let closed = self.nodes[node].breaker.on_probe(ok, self.now, unit).is_some();
                self.probed(node, closed);
            }
            Event::LateProbe { node } => {
                let closed = self.nodes[node].breaker.on_late_probe(self.now).is_some();
                self.probed(node, closed);
            }
            Event::Release => {
                let unit = self.rng.f64();
                let end = self.parking.end();
                let released = self.parking.release(self.now, unit, end);
                if let Some(next) = released.next {
                    self.at(next, Event::Release);
                }
                released.waiters.into_iter().for_each(|op| self.round(op));
            }
        }
    }

    fn begin(&mut self) {
        let op = self.ops.len();
        self.ops.push(Op {
            begun: self.now,
            ended: None,
            ok: false,
            plan: None,
            hedge_after: Duration::ZERO,
            hedge: None,
            state: State::Running,
            rounds: 0,
            legs: Vec::new(),
        });
        self.at(self.now + self.deadline, Event::Deadline { op });
        self.round(op);
    }

    /// Begins a round, or parks when every replica is open.
    fn round(&mut self, op: usize) {
        if matches!(self.ops[op].state, State::Done) {
            return;
        }
        let now = self.now;
        let choices = self.nodes.iter().enumerate().map(|(replica, node)| {
            let oldest = node.flights.values().next().map_or(Duration::ZERO, |begun| now - *begun);
            let open = !node.breaker.is_closed();
            Choice { replica, rank: 0, open, score: node.load.score(oldest, node.flights.len(), now) }
        });
        let rng = &mut self.rng;
        let sorted = order(choices.collect(), |n| rng.usize(..n));
        let (fresh, rest): (Vec<_>, Vec<_>) = sorted.into_iter().partition(|n| self.nodes[*n].breaker.is_closed());
        let Some(first) = fresh.first().map(|n| &self.nodes[*n]) else {
            let (ticket, shed) = self.parking.park(op);
            self.ops[op].state = State::Parked(ticket);
            if let Some(shed) = shed {
                self.end(shed, false);
            }
            (0..NODES).for_each(|node| self.schedule_probe(node));
            return;
        };
        let hedge_after = hedge_after(self.first_legs.quantile(0.95, now), Class::Small, LEN, None);
        let soft_after = first.timer.soft(first.recent.quantile(0.999, now), LEN);
        let times = Times { hedge_after, soft_after, stall_after: None };
        self.ops[op].hedge_after = hedge_after;
        self.ops[op].plan = Some(ReadPlan::new(fresh, rest, times, now));
        self.ops[op].state = State::Running;
        self.drive(op);
    }

    fn drive(&mut self, op: usize) {
        loop {
            let this = &mut self.ops[op];
            let mut purse = Purse { retries: &self.retries, hedges: &self.hedges, permit: &mut this.hedge };
            let Some(plan) = &mut this.plan else { return };
            match plan.step(self.now, &mut purse) {
                Step::Start { replica, leg, why } => self.send(op, replica, leg, why),
                Step::Wait(Some(until)) => return self.at(until, Event::Wake { op }),
                Step::Wait(None) => return,
                Step::Exhausted => return self.exhausted(op),
            }
        }
    }

    fn exhausted(&mut self, op: usize) {
        self.ops[op].plan = None;
        if self.nodes.iter().all(|node| !node.breaker.is_closed()) {
            return self.round(op);
        }
        self.ops[op].rounds += 1;
        let unit = self.rng.f64();
        match self.rounds.pause_after(self.ops[op].rounds, unit).filter(|_| self.retries.try_take()) {
            Some(pause) => {
                self.ops[op].state = State::Pausing;
                self.at(self.now + pause, Event::NextRound { op });
            }
            None => self.end(op, false),
        }
    }

    fn send(&mut self, op: usize, node: usize, number: usize, why: Why) {
        match why {
            Why::First => {}
            Why::Hedge => self.counters.hedges += 1,
            Why::Failover => self.counters.failovers += 1,
            Why::Timer | Why::Retry => {
                self.counters.timers += 1;
                let late = self.ops[op].legs.iter().map(|leg| &self.legs[*leg]).find(|leg| leg.live);
                if let Some(late) = late.map(|leg| leg.node) {
                    self.nodes[late].timer.on_expiry();
                }
            }
        }
        *self.counters.legs_by_ms.entry(self.now.as_millis() as u64).or_default() += 1;
        let leg = self.legs.len();
        self.legs.push(Leg { op, number, node, why, begun: self.now, live: true });
        self.ops[op].legs.push(leg);
        self.nodes[node].silence.on_sent(self.now);
        self.nodes[node].flights.insert(leg, self.now);
        let service = Self::service(&mut self.rng);
        match self.trouble(node) {
            Trouble::None => self.at(self.now + service, Event::Answer { leg, good: true }),
            Trouble::Slow(more) => self.at(self.now + service + more, Event::Answer { leg, good: true }),
            Trouble::Refuses => self.at(self.now + RTT, Event::Answer { leg, good: false }),
            Trouble::BlackHole => {}
        }
    }

    fn answer(&mut self, leg: usize, good: bool) {
        let (op, node, number, why, begun) = {
            let leg = &self.legs[leg];
            (leg.op, leg.node, leg.number, leg.why, leg.begun)
        };
        if self.trouble(node) == Trouble::BlackHole {
            return;
        }
        let now = self.now;
        if good {
            self.nodes[node].heard_at = now;
            self.nodes[node].silence.on_heard(now);
        }
        if !self.legs[leg].live {
            return;
        }
        self.legs[leg].live = false;
        self.nodes[node].flights.remove(&leg);
        if !good {
            self.nodes[node].load.on_error(now);
            let last_closed = self.nodes.iter().filter(|node| node.breaker.is_closed()).count() <= 1;
            let unit = self.rng.f64();
            let opened = self.nodes[node].breaker.on_failure(now, super::breaker::Hard::Dial, last_closed, unit);
            self.opened(node, opened.is_some());
            return self.leg_failed(op, number);
        }
        let latency = now - begun;
        self.nodes[node].load.on_success(latency, now);
        self.nodes[node].breaker.on_success(now);
        self.nodes[node].timer.on_sample(latency, LEN, now);
        self.nodes[node].recent.record(latency, now);
        if why == Why::First {
            self.first_legs.record(latency, now);
            self.hedges.on_first_leg_completed();
        }
        self.retries.deposit();
        self.end(op, true);
    }

    fn leg_failed(&mut self, op: usize, number: usize) {
        if let Some(plan) = &mut self.ops[op].plan {
            plan.on_failure(number);
            self.drive(op);
        }
    }

    /// Ends an operation; legs under way are cancelled and count as censored samples.
    fn end(&mut self, op: usize, ok: bool) {
        if matches!(self.ops[op].state, State::Done) {
            return;
        }
        let this = &mut self.ops[op];
        (this.state, this.ok, this.ended) = (State::Done, ok, Some(self.now));
        this.hedge = None;
        this.plan = None;
        for leg in std::mem::take(&mut this.legs) {
            let leg_id = leg;
            let leg = &mut self.legs[leg];
            if std::mem::replace(&mut leg.live, false) {
                let elapsed = self.now - leg.begun;
                let node = &mut self.nodes[leg.node];
                node.flights.remove(&leg_id);
                node.load.on_censored(elapsed, self.now);
                if leg.why == Why::First {
                    self.first_legs.record(elapsed.max(this.hedge_after), self.now);
                }
            }
        }
    }

    /// A ping's way there and back; `None` when there is no way.
    fn round_trip(&self, node: usize) -> Option<Duration> {
        match self.trouble(node) {
            Trouble::None => Some(RTT),
            Trouble::Slow(more) => Some(RTT + more),
            Trouble::BlackHole | Trouble::Refuses => None,
        }
    }

    fn look_for_silence(&mut self, node: usize) {
        let (now, takes) = (self.now, self.round_trip(node));
        let this = &mut self.nodes[node];
        let suspicious = this.silence.is_pending() && this.silence.is_suspicious(now, this.recent.quantile(0.99, now));
        if !this.pinging && this.breaker.is_closed() && suspicious {
            this.pinging = true;
            if let Some(takes) = takes {
                self.at(now + takes, Event::Pong { node });
            }
            self.at(now + self.silence_limit(node), Event::PingLimit { node, sent: now });
        }
    }

    fn silence_limit(&self, node: usize) -> Duration {
        let last_closed = self.nodes.iter().filter(|node| node.breaker.is_closed()).count() <= 1;
        silence_limit(Some(RTT), self.nodes[node].breaker.relapses(self.now), last_closed)
    }

    fn ping_limit_passed(&mut self, node: usize, sent: Duration) {
        let heard = self.nodes[node].heard_at > sent;
        let until = sent + self.silence_limit(node);
        if !heard && self.now < until {
            // The others were found silent meanwhile: it is the last one now.
            return self.at(until, Event::PingLimit { node, sent });
        }
        self.nodes[node].pinging = false;
        if !heard {
            let unit = self.rng.f64();
            let opened = self.nodes[node].breaker.on_silence(self.now, unit);
            self.opened(node, opened.is_some());
            self.fail_all(node);
        }
    }

    /// The connections of a silent node are closed: all its legs fail.
    fn fail_all(&mut self, node: usize) {
        for leg in std::mem::take(&mut self.nodes[node].flights).into_keys() {
            self.legs[leg].live = false;
            let (op, number) = (self.legs[leg].op, self.legs[leg].number);
            self.leg_failed(op, number);
        }
    }

    fn opened(&mut self, node: usize, opened: bool) {
        if opened {
            self.counters.opened += 1;
            self.schedule_probe(node);
        }
    }

    fn ceiling(&self) -> Duration {
        probe_ceiling(!self.parking.is_empty(), 1)
    }

    fn schedule_probe(&mut self, node: usize) {
        if let Some(due) = self.nodes[node].breaker.probe_at(self.ceiling()) {
            self.at(due, Event::ProbeDue { node });
        }
    }

    fn probe(&mut self, node: usize) {
        let ceiling = self.ceiling();
        if self.nodes[node].breaker.begin_probe(self.now, ceiling) {
            self.counters.probes += 1;
            // A dial, a handshake, a ping.
            let takes = self.round_trip(node).map(|trip| 3 * trip);
            let patience = probe_patience(Some(RTT));
            match takes {
                Some(takes) if takes <= patience => self.at(self.now + takes, Event::ProbeEnd { node, ok: true }),
                Some(takes) if takes <= PROBE_MAX => {
                    self.at(self.now + patience, Event::ProbeEnd { node, ok: false });
                    self.at(self.now + takes, Event::LateProbe { node });
                }
                _ => self.at(self.now + patience, Event::ProbeEnd { node, ok: false }),
            }
        }
    }

    fn probed(&mut self, node: usize, closed: bool) {
        if !closed {
            return self.schedule_probe(node);
        }
        let now = self.now;
        let peers = self.nodes.iter().enumerate().filter(|(other, peer)| *other != node && peer.breaker.is_closed());
        let slowest = peers.map(|(_, peer)| peer.load.latency(now)).max().unwrap_or_default();
        self.nodes[node].load.on_recovered(slowest, now);
        self.at(now, Event::Release);
    }
}
