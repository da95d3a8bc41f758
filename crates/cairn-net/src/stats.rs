//! Counters of a link and of its connections: kept in atomics, read as one snapshot.

use crate::pool::LaneKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum CloseReason {
    /// Unused for the idle timeout.
    Idle,
    /// Reached its maximum age.
    Age,
    /// The peer closed it while it was unused.
    PeerClosed,
    /// The peer said it is going away.
    GoAway,
    /// The link was closed.
    Shutdown,
    /// Ended by the peer or the network with requests in flight.
    Reset,
    /// The peer broke the protocol or a checksum, or exceeded a bound.
    Protocol,
    /// A cancelled request did not leave it in time.
    Drain,
    /// No bytes for the stall timeout and no answer to a ping.
    Stalled,
    /// It was made beside another one that is used now, and had no time to be used itself.
    Spare,
    /// A younger one took its place, because a probe or a second attempt did not trust it: it finishes what it has.
    Distrusted,
    /// Unused, closed to make room for a connection that is needed: to the same peer, or to another one when the
    /// client's total is reached.
    Evicted,
}

impl CloseReason {
    /// All of them, in the order of [`LinkStats::closes`].
    pub const ALL: [CloseReason; 12] = [
        Self::Idle,
        Self::Age,
        Self::PeerClosed,
        Self::GoAway,
        Self::Shutdown,
        Self::Reset,
        Self::Protocol,
        Self::Drain,
        Self::Stalled,
        Self::Spare,
        Self::Distrusted,
        Self::Evicted,
    ];

    /// Name for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Age => "age",
            Self::PeerClosed => "peer_closed",
            Self::GoAway => "go_away",
            Self::Shutdown => "shutdown",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::Drain => "drain",
            Self::Stalled => "stalled",
            Self::Spare => "spare",
            Self::Distrusted => "distrusted",
            Self::Evicted => "evicted",
        }
    }
}

/// Upper bounds, in microseconds, of all but the last bucket of [`WaitStats`].
pub const WAIT_BOUNDS_US: [u64; 7] = [100, 1_000, 10_000, 100_000, 500_000, 2_000_000, 10_000_000];

/// How long legs waited until a connection took them: for permits, for a dial, for a free connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitStats {
    /// Legs that got a connection; one that was resent counts twice.
    pub count: u64,
    /// Sum of their waits, in microseconds.
    pub sum_us: u64,
    /// The longest, in microseconds.
    pub max_us: u64,
    /// How many waited at most [`WAIT_BOUNDS_US`], but longer than the bound before; the last one has no bound.
    pub buckets: [u64; WAIT_BOUNDS_US.len() + 1],
}

/// One lane: its connections by state, and what became of earlier ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Being dialled.
    pub dialing: usize,
    /// Established and taking requests: the sum of the next three.
    pub open: usize,
    /// Without a request.
    pub idle: usize,
    /// With at least one request.
    pub busy: usize,
    /// Waiting for a cancelled request to leave.
    pub draining: usize,
    /// Established, finishing what they have, to be closed then.
    pub retired: usize,
    /// Most connections that took requests at once.
    pub peak: usize,
    /// Legs that wait for a connection of this lane.
    pub waiting: usize,
    /// Successful dials, HELLO included.
    pub dials: u64,
    /// Failed dials.
    pub dial_failures: u64,
    /// Second dials begun beside one that took long.
    pub spare_dials: u64,
    /// Ended connections by reason, as in [`CloseReason::ALL`].
    pub closes: [u64; CloseReason::ALL.len()],
    /// Requests cancelled after they were begun to be sent: each must leave its connection in order.
    pub drains: u64,
    /// Of those: the connection took the next request.
    pub drains_survived: u64,
}

impl LaneStats {
    /// Ended connections of one reason.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closes[reason as usize]
    }
}

/// A snapshot of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// The control lane.
    pub control: LaneStats,
    /// The bulk lane.
    pub bulk: LaneStats,
    /// Legs given to connections and not finished.
    pub in_flight: usize,
    /// Legs that wait for a connection.
    pub waiting_connection: usize,
    /// Legs that wait for permits.
    pub waiting_permits: usize,
    /// Operation permits that are free.
    pub ops_available: usize,
    /// Byte permits that are free.
    pub bytes_available: usize,
    /// How long legs waited for their connection.
    pub wait: WaitStats,
    /// Operation permits that are taken.
    pub ops_taken: usize,
    /// Byte permits that are taken.
    pub bytes_taken: usize,
    /// Tasks that belong to the link.
    pub tasks: usize,
    /// Successful dials of both lanes, HELLO included.
    pub dials: u64,
    /// Failed dials of both lanes; one failure counts once, however many legs waited for it.
    pub dial_failures: u64,
    /// Finished probes of [`crate::Link::probe`]: each is a dial of its own, which the two counters above do not count.
    pub probes: u64,
    /// Of those, without a PONG in time.
    pub probe_failures: u64,
    /// Ended connections of both lanes by reason, as in [`CloseReason::ALL`].
    pub closes: [u64; CloseReason::ALL.len()],
    /// Bytes handed to sockets.
    pub bytes_sent: u64,
    /// Bytes taken from sockets.
    pub bytes_received: u64,
    /// Legs started.
    pub legs: u64,
    /// Legs that ended in a response without error status.
    pub replies: u64,
    /// Legs cancelled by dropping them, or by their deadline.
    pub cancels: u64,
    /// Responses that came after their leg was gone.
    pub late_responses: u64,
    /// Legs resent once because a reused connection turned out to be stale.
    pub stale_retries: u64,
    /// Frames whose body did not match its checksum.
    pub body_crc_failures: u64,
    /// Smoothed round trip of handshakes and pings, in microseconds; 0 = none seen.
    pub srtt_us: u64,
    /// Smoothed time of successful dials, HELLO included, in microseconds; 0 = none seen.
    pub connect_us: u64,
    /// When the last byte came from the peer, on whatever connection; `None` = never one.
    pub last_received: Option<Instant>,
    /// When the kernel last took a byte for the peer, on whatever connection; `None` = never one.
    pub last_sent: Option<Instant>,
}

impl LinkStats {
    /// Ended connections of one reason.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closes[reason as usize]
    }
}

/// The counters of one lane.
#[derive(Default)]
pub(crate) struct LaneCounters {
    pub dials: AtomicU64,
    pub dial_failures: AtomicU64,
    pub spare_dials: AtomicU64,
    pub closes: [AtomicU64; CloseReason::ALL.len()],
    pub drains: AtomicU64,
    pub drains_survived: AtomicU64,
}

/// The counters behind [`WaitStats`].
#[derive(Default)]
pub(crate) struct WaitCounters {
    sum_us: AtomicU64,
    max_us: AtomicU64,
    buckets: [AtomicU64; WAIT_BOUNDS_US.len() + 1],
}

impl WaitCounters {
    pub fn record(&self, wait: Duration) {
        let wait_us = wait.as_micros() as u64;
        let bucket = WAIT_BOUNDS_US.iter().position(|bound| wait_us <= *bound).unwrap_or(WAIT_BOUNDS_US.len());
        Counters::add(&self.buckets[bucket], 1);
        Counters::add(&self.sum_us, wait_us);
        if wait_us > Counters::get(&self.max_us) {
            self.max_us.fetch_max(wait_us, Ordering::Relaxed);
        }
    }

    pub fn snapshot(&self) -> WaitStats {
        let buckets = std::array::from_fn(|index| Counters::get(&self.buckets[index]));
        WaitStats {
            count: buckets.iter().sum(),
            sum_us: Counters::get(&self.sum_us),
            max_us: Counters::get(&self.max_us),
            buckets,
        }
    }
}

/// The counters behind [`LinkStats`].
#[derive(Default)]
pub(crate) struct Counters {
    lanes: [LaneCounters; LaneKind::ALL.len()],
    pub wait: WaitCounters,
    pub probes: AtomicU64,
    pub probe_failures: AtomicU64,
    pub legs: AtomicU64,
    pub replies: AtomicU64,
    pub cancels: AtomicU64,
    pub late_responses: AtomicU64,
    pub stale_retries: AtomicU64,
    pub body_crc_failures: AtomicU64,
    pub srtt_us: AtomicU64,
    pub connect_us: AtomicU64,
}

impl Counters {
    pub fn lane(&self, kind: LaneKind) -> &LaneCounters {
        &self.lanes[kind as usize]
    }

    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    pub fn closed(&self, kind: LaneKind, reason: CloseReason) {
        Self::add(&self.lane(kind).closes[reason as usize], 1);
    }

    /// Folds a round trip into the smoothed one.
    pub fn round_trip(&self, sample_us: u64) {
        smooth(&self.srtt_us, sample_us);
    }

    /// Folds the time of a dial into the smoothed one.
    pub fn connected(&self, sample_us: u64) {
        smooth(&self.connect_us, sample_us);
    }
}

/// Folds a sample into a smoothed value (RFC 6298: gain 1/8). Concurrent samples may overwrite each other, which costs a
/// sample and nothing else.
pub(crate) fn smooth(value: &AtomicU64, sample_us: u64) {
    let old = Counters::get(value);
    let new = if old == 0 { sample_us } else { old - old / 8 + sample_us / 8 };
    value.store(new.max(1), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_place() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }

    #[test]
    fn waits_are_kept_by_length() {
        let wait = WaitCounters::default();
        for micros in [0, 100, 101, 10_000_000, 10_000_001] {
            wait.record(Duration::from_micros(micros));
        }
        let stats = wait.snapshot();
        assert_eq!((stats.count, stats.sum_us, stats.max_us), (5, 20_000_202, 10_000_001));
        assert_eq!(stats.buckets, [2, 1, 0, 0, 0, 0, 1, 1]);
    }

    #[test]
    fn round_trips_are_smoothed() {
        let counters = Counters::default();
        counters.round_trip(800);
        assert_eq!(Counters::get(&counters.srtt_us), 800);
        counters.round_trip(1600);
        assert_eq!(Counters::get(&counters.srtt_us), 900);
    }
}
