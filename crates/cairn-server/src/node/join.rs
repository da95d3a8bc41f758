//! Joining: a store that was put into a group copies the union of the other members' inventories, catches up with its
//! degraded rows, and then reports that it is complete.

use super::duty::{Pace, wait};
use super::inventory::copy_inventory;
use super::progress::Duty;
use super::slot::StoreSlot;
use super::state::Node;
use crate::limits::REPAIR_PAUSE;
use crate::view::Join;
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Runs until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut pace = Pace::new(REPAIR_PAUSE);
    while wait(&stop, &node.wakes.join, pace.next()).await {
        let Some(left) = stop.run_until_cancelled(pass(&node)).await else { return };
        node.progress.set_left(Duty::Join, left);
        pace.left(left);
    }
}

/// Tries every membership that is not complete once; how many are left.
async fn pass(node: &Node) -> usize {
    let joins = node.view.load().joins(&node.store_ids());
    let mut left = joins.len();
    for join in joins {
        let Some(slot) = node.own(join.store) else { continue };
        match complete(node, slot, join).await {
            Ok(()) => left -= 1,
            Err(reason) => {
                tracing::info!(pg = %join.pg, store = %join.store, reason, "not complete in its group yet");
            }
        }
    }
    left
}

async fn complete(node: &Node, slot: &Arc<StoreSlot>, join: Join) -> Result<(), String> {
    let view = node.view.load_full();
    if view.epoch(join.pg) != join.epoch {
        return Err("the group has moved on".to_owned());
    }
    let required = view.required_inventories(join.pg, join.store);
    let mut sources = view.sources(join.pg, join.store);
    // Those without whom it cannot be completed come first: when one is away, that is soon known.
    sources.sort_by_key(|source| !required.contains(&source.store));
    if let Some(lost) = required.iter().find(|store| !sources.iter().any(|source| source.store == **store)) {
        return Err(format!("{lost}, which is full, is not in the cluster map"));
    }
    let mut copied = 0;
    for source in &sources {
        match copy_inventory(node, slot, join.pg, source).await {
            Ok(blocks) => copied += blocks,
            Err(reason) if required.contains(&source.store) => return Err(reason),
            Err(reason) => {
                let member = source.store;
                tracing::info!(pg = %join.pg, %member, reason, "former member's inventory left out");
            }
        }
    }
    let done = pb::JoinDone { pg: join.pg.0, epoch: join.epoch.0, store: join.store.0 };
    match node.meta.call(Kind::JoinDone(done)).await {
        Ok(_) => {
            tracing::info!(pg = %join.pg, store = %join.store, blocks = copied, "complete in its group");
            node.wakes.map.notify_one();
            Ok(())
        }
        Err(error) => {
            // Most likely degraded rows are left, or the group moved on.
            node.wakes.catch_up.notify_one();
            node.wakes.map.notify_one();
            Err(error.to_string())
        }
    }
}
