//! How often nodes are pinged, so that health checks never become the outage.

use std::time::Duration;

/// A connected node without traffic for this long is pinged ...
const IDLE: Duration = Duration::from_secs(5);
/// ... spread by this share both ways.
const IDLE_JITTER: f64 = 0.5;
/// Longest pause between probes of an open node while other replicas serve, in a small fleet.
const CEILING: Duration = Duration::from_secs(5);
/// ... and in one whose size is not known.
const CEILING_UNKNOWN: Duration = Duration::from_secs(30);
/// All clients together probe a dead node this often per second, on average, while other replicas serve.
const FLEET_PROBES_PER_S: f64 = 50.0;
/// Longest pause between probes while operations wait for the node, in a small fleet.
const CEILING_PARKED: Duration = Duration::from_millis(500);
/// All clients together probe a dead node this often per second while operations wait for it.
const FLEET_PROBES_PER_S_PARKED: f64 = 1000.0;

/// When a connected node that last said something at `last_traffic` should be pinged: 5 s later, give or take half.
/// `unit` is a random number from 0 to 1, kept until the ping.
pub(crate) fn idle_ping_due(last_traffic: Duration, unit: f64) -> Duration {
    last_traffic.saturating_add(IDLE.mul_f64(1.0 + IDLE_JITTER * (2.0 * unit - 1.0)))
}

/// The longest pause between probes of one node, for [`super::breaker::Breaker::probe_at`]. `clients` is their number as
/// metadata advertises it, 0 when it does not.
///
/// With operations `parked`, recovery should be noticed well within a second: at 1,000 operations per second the parking
/// lot is full by then, and sheds. (In the model, with 1 s instead of 0.5 s, 29 of the reads that began just after a heal
/// were lost in one run of three.) 1,000 pings per second of the whole fleet are no burden to a node that is just coming
/// up. Without, others serve meanwhile, and the fleet together sends 50 probes per second at most: up to 250 clients look
/// every 5 s, so that a node that is back takes part again (and writes have all their replicas again) within seconds,
/// 3,000 clients every minute. A fixed pause for all would be one or the other: 3,000 clients that looked once a second
/// each have been an outage of their own (tikv/client-go#1626).
pub(crate) fn probe_ceiling(parked: bool, clients: u64) -> Duration {
    let (least, rate) = match (parked, clients) {
        (true, _) => (CEILING_PARKED, FLEET_PROBES_PER_S_PARKED),
        (false, 0) => (CEILING_UNKNOWN, FLEET_PROBES_PER_S),
        (false, _) => (CEILING, FLEET_PROBES_PER_S),
    };
    // 2^32 clients are more than will ever be; the bound keeps the arithmetic finite.
    least.max(Duration::from_secs_f64(clients.min(1 << 32) as f64 / rate))
}

/// A ping is given up after this multiple of the node's smoothed latency ...
const PING_FACTOR: u32 = 4;
/// ... but not earlier than this.
const PING_MIN: Duration = Duration::from_millis(200);
/// ... and four times as long for the last node that is not known to be away.
const LAST_CLOSED_DOUBLINGS: u32 = 2;
/// The longest wait for a ping or a probe.
pub(crate) const PROBE_MAX: Duration = Duration::from_secs(5);
/// A probe without an answer for this long counts as bad, and the next one may follow ...
const PROBE_PATIENCE_MIN: Duration = Duration::from_millis(250);
/// ... or for four times the usual, but not longer than this.
const PROBE_PATIENCE_MAX: Duration = Duration::from_secs(1);

/// How long a ping may take, given the node's smoothed round trip.
pub(crate) fn ping_limit(srtt: Option<Duration>) -> Duration {
    srtt.map_or(PING_MIN, |srtt| srtt.saturating_mul(PING_FACTOR).clamp(PING_MIN, PROBE_MAX))
}

/// How long a ping that is to confirm a suspicion may take before its node counts as silent. When that has passed, the
/// caller asks once more (the node may be the last closed one by now) and looks once more for bytes: a node that answered
/// anything since the ping is slow, not silent.
///
/// `relapses` (see [`super::breaker::Breaker::relapses`]) doubles it: a node that was taken for silent and answered the
/// next probe may just be slower than it was. Without that, a network slower by more than this limit from one moment to
/// the next would look silent for ever: every leg is given up before it can show how long an answer takes now.
///
/// The node whose breaker is the `last_closed` one gets four times as long. When all nodes fall silent in one moment,
/// the network has more likely become slow than all of them died; and if they did die, requests are parked a second later.
/// (In the model, with all replicas 600 ms slower from one moment to the next, 1,200 of 38,000 reads failed without this,
/// none with it.)
pub(crate) fn silence_limit(srtt: Option<Duration>, relapses: u32, last_closed: bool) -> Duration {
    let doublings = relapses.min(16) + if last_closed { LAST_CLOSED_DOUBLINGS } else { 0 };
    ping_limit(srtt).saturating_mul(1 << doublings).min(PROBE_MAX)
}

/// How long a probe may stay unanswered before it counts as bad. It is not cancelled then but listened to for
/// [`PROBE_MAX`], and an answer that comes late still closes the breaker
/// ([`super::breaker::Breaker::on_late_probe`]): so a node that is back is found fast, and one that is slow is found too.
pub(crate) fn probe_patience(srtt: Option<Duration>) -> Duration {
    srtt.map_or(PROBE_PATIENCE_MAX, |srtt| {
        srtt.saturating_mul(PING_FACTOR).clamp(PROBE_PATIENCE_MIN, PROBE_PATIENCE_MAX)
    })
}

#[cfg(test)]
mod tests;
