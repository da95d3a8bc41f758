//! What a client does with a cluster, through the public API only.

pub mod sequential;
pub mod small;

use crate::cluster::Cluster;
use crate::cpu::Group;
use anyhow::{Context, Result};
use cairn_client::DfsClient;
use serde::Serialize;

/// When a write counts as done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// On the disks of a majority.
    Durable,
    /// In the memory of a majority.
    Relaxed,
}

impl Durability {
    /// As in names of the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Relaxed => "relaxed",
        }
    }
}

/// What went wrong under the surface, of all clients together: a figure with failures in it is not a healthy one.
#[derive(Default, Serialize)]
pub struct Troubles {
    failed_requests: u64,
    failed_legs: u64,
    failovers: u64,
    hedges: u64,
    retries: u64,
    stragglers: u64,
    corrupt_blocks: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

/// A client of its own, with its own connections.
pub async fn connect(cluster: &Cluster, durability: Durability) -> Result<DfsClient> {
    let builder = DfsClient::builder().meta(cluster.meta().to_string()).name("cairn-bench");
    builder.relaxed(durability == Durability::Relaxed).connect().await.context("connecting to the cluster")
}

/// Ends a client and keeps count of its troubles.
pub async fn close(client: &DfsClient, troubles: &mut Troubles) {
    let stats = client.get_connection_stats().await;
    client.close().await;
    troubles.failed_requests += stats.failed_requests;
    troubles.failed_legs += stats.failed_legs;
    troubles.failovers += stats.attempts.failover;
    troubles.hedges += stats.hedges.fired;
    troubles.retries += stats.attempts.retry;
    troubles.stragglers += stats.writes.stragglers;
    troubles.corrupt_blocks += stats.corrupt_blocks;
    if let Some(error) = stats.last_error {
        troubles.last_error = Some(format!("{} {}: {}", error.op, error.addr, error.message));
    }
}

/// This process and the cluster's.
pub fn groups(cluster: &Cluster) -> Result<Vec<Group>> {
    let mut groups = cluster.groups()?;
    groups.insert(0, Group::own("client"));
    Ok(groups)
}
