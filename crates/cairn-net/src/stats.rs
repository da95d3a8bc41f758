//! Counters of a link and of its connections: kept in atomics, read as one snapshot.

use std::sync::atomic::{AtomicU64, Ordering};
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
    /// It was made beside another one that is used now: by a parallel dial or a probe.
    Spare,
    /// Unused, closed to make room for a connection that is needed: to the same peer, or to another one when the
    /// client's total is reached.
    Evicted,
}

impl CloseReason {
    /// All of them, in the order of [`LinkStats::closes`].
    pub const ALL: [CloseReason; 11] = [
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
            Self::Evicted => "evicted",
        }
    }
}

/// Connections of one lane by state.
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
    /// Tasks that belong to the link.
    pub tasks: usize,
    /// Successful dials, HELLO included.
    pub dials: u64,
    /// Failed dials; one failure counts once, however many legs waited for it.
    pub dial_failures: u64,
    /// Finished probes of [`crate::Link::probe`]: each is a dial of its own, which the two counters above do not count.
    pub probes: u64,
    /// Of those, without a PONG in time.
    pub probe_failures: u64,
    /// Ended connections by reason, as in [`CloseReason::ALL`].
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

/// The counters behind [`LinkStats`].
#[derive(Default)]
pub(crate) struct Counters {
    pub dials: AtomicU64,
    pub dial_failures: AtomicU64,
    pub probes: AtomicU64,
    pub probe_failures: AtomicU64,
    pub closes: [AtomicU64; CloseReason::ALL.len()],
    pub legs: AtomicU64,
    pub replies: AtomicU64,
    pub cancels: AtomicU64,
    pub late_responses: AtomicU64,
    pub stale_retries: AtomicU64,
    pub body_crc_failures: AtomicU64,
    pub srtt_us: AtomicU64,
}

impl Counters {
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    pub fn closed(&self, reason: CloseReason) {
        Self::add(&self.closes[reason as usize], 1);
    }

    /// Folds a round trip into the smoothed one (RFC 6298: gain 1/8). Concurrent samples may overwrite each other,
    /// which costs a sample and nothing else.
    pub fn round_trip(&self, sample_us: u64) {
        let old = Self::get(&self.srtt_us);
        let new = if old == 0 { sample_us } else { old - old / 8 + sample_us / 8 };
        self.srtt_us.store(new.max(1), Ordering::Relaxed);
    }
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
    fn round_trips_are_smoothed() {
        let counters = Counters::default();
        counters.round_trip(800);
        assert_eq!(Counters::get(&counters.srtt_us), 800);
        counters.round_trip(1600);
        assert_eq!(Counters::get(&counters.srtt_us), 900);
    }
}
