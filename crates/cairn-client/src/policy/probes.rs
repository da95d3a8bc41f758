//! How often nodes are pinged, so that health checks never become the outage.

use std::time::Duration;

/// A connected node without traffic for this long is pinged ...
const IDLE: Duration = Duration::from_secs(5);
/// ... spread by this share both ways.
const IDLE_JITTER: f64 = 0.5;
/// Longest pause between probes of an open node while other replicas serve.
const CEILING: Duration = Duration::from_secs(30);
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

/// The longest pause between probes of one node, for [`super::breaker::Breaker::probe_at`].
///
/// With operations `parked`, recovery should be noticed within a second, and 1,000 pings per second of the whole fleet
/// are no burden to a node that is just coming up. Without, others serve meanwhile: 30 s are enough, and a fleet of
/// `clients` (as metadata advertises; 0 or 1 when it does not) together sends 50 probes per second at most. 3,000
/// clients that probed once a second each have been an outage of their own (tikv/client-go#1626).
pub(crate) fn probe_ceiling(parked: bool, clients: u64) -> Duration {
    let (least, rate) =
        if parked { (CEILING_PARKED, FLEET_PROBES_PER_S_PARKED) } else { (CEILING, FLEET_PROBES_PER_S) };
    // 2^32 clients are more than will ever be; the bound keeps the arithmetic finite.
    least.max(Duration::from_secs_f64(clients.min(1 << 32) as f64 / rate))
}
