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
/// Longest pause between probes while operations wait for the node.
const CEILING_PARKED: Duration = Duration::from_secs(1);
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
/// With operations `parked`, recovery should be noticed within a second, and 1,000 pings per second of the whole fleet
/// are no burden to a node that is just coming up. Without, others serve meanwhile, and the fleet together sends 50
/// probes per second at most: up to 250 clients look every 5 s, so that a node that is back takes part again (and writes
/// have all their replicas again) within seconds, 3,000 clients every minute. A fixed pause for all would be one or the
/// other: 3,000 clients that looked once a second each have been an outage of their own (tikv/client-go#1626).
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

/// How long a ping that is to confirm a suspicion may take. Whoever waits for it looks once more for bytes at the end:
/// a node that answered anything meanwhile is slow, not silent.
pub(crate) fn ping_limit(srtt: Option<Duration>) -> Duration {
    srtt.map_or(PING_MIN, |srtt| srtt.saturating_mul(PING_FACTOR).max(PING_MIN))
}

#[cfg(test)]
mod tests;
