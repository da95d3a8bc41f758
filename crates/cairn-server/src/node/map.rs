//! Keeps the node's cluster map current: fetched page by page whenever a heartbeat (or a client's request) says that it
//! has moved.

use super::duty::{Pace, wait};
use super::state::Node;
use crate::limits::RETRY_PAUSE;
use crate::links::CallError;
use crate::view::ClusterView;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, response};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Runs until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut pace = Pace::new(RETRY_PAUSE);
    while wait(&stop, &node.wakes.map, pace.next()).await {
        match refresh(&node).await {
            Ok(true) => {
                pace.idle();
                node.wakes.join.notify_one();
                node.wakes.audit.notify_one();
                node.wakes.catch_up.notify_one();
                node.wakes.heal.notify_one();
                node.wakes.compare.notify_one();
                node.wakes.purge.notify_one();
            }
            Ok(false) => pace.idle(),
            Err(error) => {
                tracing::debug!(%error, "cluster map not fetched");
                pace.failed();
            }
        }
    }
}

/// Fetches the map if it is newer than ours. True when ours was replaced.
pub(crate) async fn refresh(node: &Node) -> Result<bool, CallError> {
    let known_version = node.view.load().version;
    let mut next = ClusterView::default();
    let mut cursor = 0;
    loop {
        let ask = pb::ClusterMap { known_version, cursor };
        let page = match node.meta.call(Kind::ClusterMap(ask)).await? {
            response::Kind::ClusterMap(page) => page,
            _ => return Err(CallError::Confused { addr: "metadata".to_owned() }),
        };
        if page.unchanged {
            return Ok(false);
        }
        if cursor != 0 && page.version != next.version {
            // It moved between two pages: begin again.
            (next, cursor) = (ClusterView::default(), 0);
            continue;
        }
        next.absorb(&page);
        if page.next_cursor == 0 {
            break;
        }
        cursor = page.next_cursor;
    }
    tracing::debug!(version = next.version, "cluster map taken over");
    node.peers.retain(|id| next.has_node(id));
    node.meta.learn(&next.metas);
    node.view.store(Arc::new(next));
    Ok(true)
}
