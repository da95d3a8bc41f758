//! The circuit breaker of one node: it puts the node last and parks operations, and never turns one into an error.

use std::time::Duration;

/// Hard failures in a row that open it.
const CONSECUTIVE_MAX: u32 = 5;
/// Buckets of the failure rate; exact counts, because a smoothed rate can hide a total outage in a burst.
const BUCKETS: usize = 10;
/// Length of one.
const BUCKET: Duration = Duration::from_secs(1);
/// Requests in all buckets from which on a rate means something.
const RATE_REQUESTS_MIN: u32 = 20;
/// First pause before a probe.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Doublings of the pause that are counted.
const DOUBLINGS_MAX: u32 = 20;
/// Pauses are spread by a fifth both ways ...
const JITTER: f64 = 0.2;
/// ... but from this length on by half: clients that saw a node die in the same moment must not come back in the same
/// second minutes later.
const LONG_PAUSE: Duration = Duration::from_secs(8);
const LONG_JITTER: f64 = 0.5;
/// A node that fails again this soon after a good probe is probed as rarely as before.
const RELAPSE: Duration = Duration::from_secs(10);

/// Where the breaker of a node stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum BreakerState {
    /// The node takes requests. Next: `Open` (failures, silence), `Draining`.
    Closed,
    /// It is asked last, and a probe is due some time. Next: `Probing`, or `Closed` or `Draining` (an earlier probe was
    /// answered late).
    Open,
    /// One probe (a ping on a fresh connection) is under way. Next: `Closed` or `Draining` (answered), `Open` (not
    /// answered in time, or given up).
    Probing,
    /// The node said that it is about to stop: asked last while others are there. Next: `Closed` (it changed its mind),
    /// `Open` (failures, silence).
    Draining,
}

impl BreakerState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Closed, Self::Open, Self::Probing, Self::Draining];

    /// Name for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Probing => "probing",
            Self::Draining => "draining",
        }
    }
}

/// What opened a breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum OpenReason {
    /// Five failures in a row, the last one of an established connection.
    Consecutive,
    /// Half of at least 20 requests within 10 s failed.
    Rate,
    /// Requests and a ping stayed without a byte of answer.
    Silence,
    /// Five failures in a row, the last one a dial.
    Dial,
}

impl OpenReason {
    /// Name for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive",
            Self::Rate => "rate",
            Self::Silence => "silence",
            Self::Dial => "dial",
        }
    }
}

/// A failure that says something about the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hard {
    /// No connection could be made. Count it once per dial, not once per request that waited for it.
    Dial,
    /// An established connection broke, or what came was not the protocol.
    Broken,
}

/// The breaker went from one state to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Transition {
    pub(crate) from: BreakerState,
    pub(crate) to: BreakerState,
    /// What opened it; `None` when it closed.
    pub(crate) reason: Option<OpenReason>,
}

/// Requests of the last ten seconds, second by second.
#[derive(Clone, Debug, Default)]
struct Window {
    buckets: [Bucket; BUCKETS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    slot: u64,
    good: u32,
    bad: u32,
}

impl Window {
    fn count(&mut self, now: Duration, good: bool) {
        let slot = (now.as_nanos() / BUCKET.as_nanos()) as u64;
        let bucket = &mut self.buckets[(slot % BUCKETS as u64) as usize];
        if bucket.slot != slot {
            *bucket = Bucket { slot, ..Bucket::default() };
        }
        let counter = if good { &mut bucket.good } else { &mut bucket.bad };
        *counter = counter.saturating_add(1);
    }

    fn is_failing(&self, now: Duration) -> bool {
        let slot = (now.as_nanos() / BUCKET.as_nanos()) as u64;
        let recent = self.buckets.iter().filter(|bucket| bucket.slot + BUCKETS as u64 > slot);
        let (good, bad) = recent.fold((0u32, 0u32), |(good, bad), bucket| {
            (good.saturating_add(bucket.good), bad.saturating_add(bucket.bad))
        });
        let all = good.saturating_add(bad);
        all >= RATE_REQUESTS_MIN && bad >= all - bad
    }
}

/// The state machine. Times are durations since the client's origin; `unit` is a random number from 0 to 1.
///
/// Slowness never opens it (it raises the score, see [`super::load`]), and only a good probe closes it: what users ask
/// for is never the probe.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    state: BreakerState,
    draining: bool,
    consecutive: u32,
    window: Window,
    doublings: u32,
    relapses: u32,
    /// The ceiling under which the last probe began.
    ceiling: Duration,
    /// The pause before the next probe is counted from here.
    since: Duration,
    unit: f64,
    closed_at: Option<Duration>,
    opened: u64,
    closed: u64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new()
    }
}

impl Breaker {
    /// Closed.
    pub(crate) fn new() -> Self {
        Self {
            state: BreakerState::Closed,
            draining: false,
            consecutive: 0,
            window: Window::default(),
            doublings: 0,
            relapses: 0,
            ceiling: Duration::MAX,
            since: Duration::ZERO,
            unit: 0.5,
            closed_at: None,
            opened: 0,
            closed: 0,
        }
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> BreakerState {
        self.state
    }

    /// True when the node takes its share of requests.
    pub(crate) fn is_closed(&self) -> bool {
        self.state == BreakerState::Closed
    }

    /// How often it opened.
    pub(crate) fn opened(&self) -> u64 {
        self.opened
    }

    /// How often it closed after that.
    #[cfg(test)]
    pub(crate) fn closed(&self) -> u64 {
        self.closed
    }

    /// The node answered a request, whatever it said. Late answers to an open breaker do not close it.
    pub(crate) fn on_success(&mut self, now: Duration) {
        self.consecutive = 0;
        self.window.count(now, true);
    }

    /// A request failed in a way that speaks against the node.
    ///
    /// `last_closed` = no other replica's breaker is closed. Then only dial failures open this one: a node that takes
    /// connections is worth more than none, and one that does not is found again soonest by probes.
    pub(crate) fn on_failure(&mut self, now: Duration, hard: Hard, last_closed: bool, unit: f64) -> Option<Transition> {
        self.consecutive = self.consecutive.saturating_add(1);
        self.window.count(now, false);
        let in_a_row = self.consecutive >= CONSECUTIVE_MAX;
        let reason = match hard {
            Hard::Dial if in_a_row => OpenReason::Dial,
            Hard::Broken if in_a_row && !last_closed => OpenReason::Consecutive,
            _ if !last_closed && self.window.is_failing(now) => OpenReason::Rate,
            _ => return None,
        };
        self.open(now, reason, unit)
    }

    /// Requests went unanswered (see [`Silence`]) and so did a ping.
    pub(crate) fn on_silence(&mut self, now: Duration, unit: f64) -> Option<Transition> {
        self.open(now, OpenReason::Silence, unit)
    }

    fn open(&mut self, now: Duration, reason: OpenReason, unit: f64) -> Option<Transition> {
        let from = self.state;
        match from {
            BreakerState::Open | BreakerState::Probing => return None,
            BreakerState::Closed | BreakerState::Draining => {}
        }
        let relapse = self.closed_at.is_some_and(|closed| now.saturating_sub(closed) < RELAPSE);
        self.doublings = if relapse { (self.doublings + 1).min(DOUBLINGS_MAX) } else { 0 };
        self.relapses = if relapse { self.relapses.saturating_add(1) } else { 0 };
        self.state = BreakerState::Open;
        // Whoever comes back at this address says anew whether it is about to stop.
        self.draining = false;
        (self.since, self.unit) = (now, unit);
        self.opened += 1;
        Some(Transition { from, to: self.state, reason: Some(reason) })
    }

    /// When the next probe is due; `None` unless open. The pause is 250 ms doubled with each bad probe, spread by 20 %
    /// (by 50 % from 8 s on), and at most `ceiling` before that (see [`super::probes::probe_ceiling`]).
    pub(crate) fn probe_at(&self, ceiling: Duration) -> Option<Duration> {
        if self.state != BreakerState::Open {
            return None;
        }
        let pause = PAUSE_MIN.saturating_mul(1 << self.doublings).min(ceiling);
        let jitter = if pause >= LONG_PAUSE { LONG_JITTER } else { JITTER };
        Some(self.since.saturating_add(pause.mul_f64(1.0 + jitter * (2.0 * self.unit - 1.0))))
    }

    /// True when a probe is due; the caller sends it and reports with [`Breaker::on_probe`] or
    /// [`Breaker::abandon_probe`]. Until then nobody else is told to.
    pub(crate) fn begin_probe(&mut self, now: Duration, ceiling: Duration) -> bool {
        let due = self.probe_at(ceiling).is_some_and(|at| now >= at);
        if due {
            self.state = BreakerState::Probing;
            self.ceiling = ceiling;
        }
        due
    }

    /// The probe was answered (`ok`) or not. `Some` when this closed the breaker; after a bad one it is open again, with
    /// twice the pause. A report without a probe under way changes nothing.
    pub(crate) fn on_probe(&mut self, ok: bool, now: Duration, unit: f64) -> Option<Transition> {
        if self.state != BreakerState::Probing {
            return None;
        }
        if ok {
            return Some(self.close(now));
        }
        self.state = BreakerState::Open;
        // No further than the ceiling: when it rises again (one of several dead nodes is back and nobody waits any more),
        // the others are still looked for within seconds, not half a minute later.
        let reached = (0..DOUBLINGS_MAX).find(|k| PAUSE_MIN.saturating_mul(1 << k) >= self.ceiling);
        self.doublings = (self.doublings + 1).min(reached.unwrap_or(DOUBLINGS_MAX));
        (self.since, self.unit) = (now, unit);
        None
    }

    /// A probe that counted as bad because its answer took too long was answered after all. Closes the breaker, whether
    /// the next probe is under way or not; a report of that one changes nothing then.
    pub(crate) fn on_late_probe(&mut self, now: Duration) -> Option<Transition> {
        match self.state {
            BreakerState::Open | BreakerState::Probing => Some(self.close(now)),
            BreakerState::Closed | BreakerState::Draining => None,
        }
    }

    fn close(&mut self, now: Duration) -> Transition {
        let from = self.state;
        self.state = if self.draining { BreakerState::Draining } else { BreakerState::Closed };
        self.consecutive = 0;
        self.window = Window::default();
        self.closed_at = Some(now);
        self.closed += 1;
        Transition { from, to: self.state, reason: None }
    }

    /// How often in a row the node was open, answered a probe, and was open again within [`RELAPSE`]; plus one while it
    /// has been closed for less than that. 0 = nothing is known against it.
    pub(crate) fn relapses(&self, now: Duration) -> u32 {
        let fresh = self.closed_at.is_some_and(|closed| now.saturating_sub(closed) < RELAPSE);
        if fresh { self.relapses + 1 } else { 0 }
    }

    /// The probe under way ended without a result (its task was cancelled): the breaker is open again and the next probe
    /// is due at the time this one was.
    pub(crate) fn abandon_probe(&mut self) {
        if self.state == BreakerState::Probing {
            self.state = BreakerState::Open;
        }
    }

    /// What the node last said about whether it is about to stop.
    pub(crate) fn on_draining(&mut self, draining: bool) -> Option<Transition> {
        self.draining = draining;
        let to = match (self.state, draining) {
            (BreakerState::Closed, true) => BreakerState::Draining,
            (BreakerState::Draining, false) => BreakerState::Closed,
            _ => return None,
        };
        let from = std::mem::replace(&mut self.state, to);
        Some(Transition { from, to, reason: None })
    }
}

/// Requests that must have been sent since the last byte before silence means something.
const SILENT_REQUESTS_MIN: usize = 3;
/// Silence shorter than this means nothing.
const SILENCE_MIN: Duration = Duration::from_millis(300);
/// ... nor silence shorter than this multiple of the 99th percentile of the node's latency.
const SILENCE_FACTOR: u32 = 8;

/// Tells whether a node has gone silent: requests were sent to it, and not a byte came since, on any connection.
///
/// This finds a frozen node or a black hole long before any connection breaks, and needs no heartbeats. A suspicion is
/// confirmed by a ping before it counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Silence {
    heard_at: Option<Duration>,
    /// When the first request after the last byte was sent.
    first: Option<Duration>,
    /// When the newest requests were sent, oldest first.
    newest: [Option<Duration>; SILENT_REQUESTS_MIN],
}

impl Silence {
    /// A request was sent.
    pub(crate) fn on_sent(&mut self, now: Duration) {
        self.first.get_or_insert(now);
        self.newest.rotate_left(1);
        self.newest[SILENT_REQUESTS_MIN - 1] = Some(now);
    }

    /// Bytes came at `at`. May be told late, and of any connection to the node.
    pub(crate) fn on_heard(&mut self, at: Duration) {
        if self.heard_at.is_some_and(|known| known >= at) {
            return;
        }
        self.heard_at = Some(at);
        if self.first.is_some_and(|first| first <= at) {
            self.first = self.newest.iter().flatten().copied().find(|sent| *sent > at);
        }
    }

    /// True when at least three requests were sent since the last byte: it becomes suspicious unless bytes come.
    pub(crate) fn is_pending(&self) -> bool {
        self.newest[0].is_some_and(|sent| self.heard_at.is_none_or(|heard| sent > heard))
    }

    /// True when at least three requests were sent since the last byte, the first of them max(300 ms, 8 x `p99`) ago.
    ///
    /// What became of the requests does not matter: one that was cancelled because a hedge was faster got no answer either.
    pub(crate) fn is_suspicious(&self, now: Duration, p99: Option<Duration>) -> bool {
        let limit = p99.map_or(SILENCE_MIN, |p99| p99.saturating_mul(SILENCE_FACTOR).max(SILENCE_MIN));
        self.is_pending() && self.first.is_some_and(|first| now.saturating_sub(first) >= limit)
    }
}

#[cfg(test)]
mod tests;
