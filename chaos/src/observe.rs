//! What the client says of itself, reduced to what criteria ask for.

use cairn_client::{ConnectionStats, DfsClient};

/// Totals since the client was made.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Observed {
    /// Requests to storage nodes.
    pub legs: u64,
    /// Second copies of slow requests.
    pub hedges: u64,
    /// Requests sent again or elsewhere after a failure.
    pub retries: u64,
    /// Times that the circuit breaker of a storage node opened.
    pub breaker_opens: u64,
    /// Dials of storage nodes, successful or not.
    pub dials: u64,
    /// Operations that waited for a replica to come back.
    pub parked: u64,
    /// Most bytes that were on their way to replicas behind returned writes, to the node that had most.
    pub straggler_bytes_max: u64,
    /// Blocks with bytes that did not match their checksums.
    pub corrupt_blocks: u64,
}

impl Observed {
    /// Asks the client.
    pub async fn of(client: &DfsClient) -> Self {
        Self::from(&client.get_connection_stats().await)
    }
}

impl From<&ConnectionStats> for Observed {
    fn from(stats: &ConnectionStats) -> Self {
        let nodes = || stats.nodes.iter().filter(|node| node.node.0 != 0);
        Self {
            legs: stats.node_legs,
            hedges: stats.hedges.fired,
            retries: stats.attempts.retry + stats.attempts.failover,
            breaker_opens: nodes().map(|node| node.breaker_opens).sum(),
            dials: nodes().map(|node| node.pool.dials + node.pool.dial_failures).sum(),
            parked: stats.parked.total,
            straggler_bytes_max: stats.writes.straggler_bytes_max,
            corrupt_blocks: stats.corrupt_blocks,
        }
    }
}
