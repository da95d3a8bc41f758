//! One ping to every server, for whoever looks.

use crate::client::DfsClient;
use crate::error::Error;
use crate::node::Node;
use cairn_proto::NodeId;
use futures_util::future::join_all;
use std::time::Duration;
use tokio::time::Instant;

/// How a server answered a ping.
#[derive(Clone, Debug)]
pub struct NodePing {
    /// The node; 0 for a metadata server.
    pub node: NodeId,
    /// Its address.
    pub addr: String,
    /// What it said, or why it said nothing.
    pub answer: Result<PingAnswer, String>,
}

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingAnswer {
    /// Time until the answer, dialling included where there was no connection.
    pub took: Duration,
    /// Requests it has in hand.
    pub queue_depth: u32,
    /// Age of its oldest unfinished operation on a disk.
    pub disk_stall: Duration,
    /// It is about to end.
    pub draining: bool,
}

impl DfsClient {
    /// Pings every storage node of the cluster map and every metadata server once, all at the same time, and returns
    /// their answers in the order of their numbers after `limit` at most. Cancelled, connections that were dialled for
    /// it stay.
    ///
    /// # Errors
    /// When the cluster map cannot be had.
    pub async fn ping_nodes(&self, limit: Duration) -> Result<Vec<NodePing>, Error> {
        self.cluster_status().await?;
        let mut nodes = self.inner.all_nodes();
        nodes.sort_by_key(|node| node.id);
        Ok(join_all(nodes.iter().map(|node| ping(node, limit))).await)
    }
}

async fn ping(node: &Node, limit: Duration) -> NodePing {
    let begun = Instant::now();
    let answer = node.link.ping(limit).await.map_err(|error| error.to_string()).map(|pong| PingAnswer {
        took: begun.elapsed(),
        queue_depth: pong.queue_depth,
        disk_stall: Duration::from_millis(pong.disk_stall_ms.into()),
        draining: pong.draining,
    });
    NodePing { node: node.id, addr: node.addr.clone(), answer }
}
