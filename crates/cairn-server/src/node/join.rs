//! Joining: a store that was put into a group copies the union of the other members' inventories, catches up with its
//! degraded rows, and then reports that it is complete.

use super::duty::{Pace, wait};
use super::inventory::{Seen, copy_inventory};
use super::progress::Duty;
use super::slot::StoreSlot;
use super::state::Node;
use crate::limits::REPAIR_PAUSE;
use crate::view::{Join, Source};
use cairn_proto::pb::request::Kind;
use cairn_proto::{PgId, StoreId, WriterId, pb};
use cairn_store::ComparedWriters;
use std::collections::BTreeSet;
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
    let view = node.view.load_full();
    let mut joins = view.joins(&node.store_ids());
    // Groups of which the fewest copies are left come first.
    joins.sort_by_key(|join| view.full_and_up(join.pg));
    let mut left = joins.len();
    let joined: BTreeSet<(StoreId, PgId)> = joins.iter().map(|join| (join.store, join.pg)).collect();
    node.progress.keep_joins(|store, pg| joined.contains(&(store, pg)));
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

/// Blocks that a member has of a group; 0 when it does not say.
async fn count(node: &Node, pg: PgId, source: &Source) -> u64 {
    let all = ComparedWriters { below: WriterId(u64::MAX), ..ComparedWriters::default() };
    let digests = node.digests(source, pg, &all, 1).await.unwrap_or_default();
    digests.iter().map(|digest| digest.count).sum()
}

/// Bytes of an inventory of `total` blocks, by those of the blocks that were seen; 0 while that says nothing.
fn expected_bytes(seen: Seen, total: u64) -> u64 {
    if seen.blocks == 0 || total == 0 {
        return 0;
    }
    let expected = u128::from(seen.bytes) * u128::from(total.max(seen.blocks)) / u128::from(seen.blocks);
    u64::try_from(expected).unwrap_or(u64::MAX)
}

async fn complete(node: &Node, slot: &Arc<StoreSlot>, join: Join) -> Result<(), String> {
    // Copies of an earlier membership that are found here must not be purged after they were counted on.
    let _group = slot.groups.bring(join.pg).await;
    let view = node.view.load_full();
    if view.epoch(join.pg) != join.epoch {
        return Err("the group has moved on".to_owned());
    }
    node.raise_fence(join.pg).await.map_err(|error| format!("the epoch is not kept: {error}"))?;
    let required = view.required_inventories(join.pg, join.store);
    let sources = view.join_sources(join.pg, join.store);
    if let Some(lost) = required.iter().find(|store| !sources.iter().any(|source| source.store == **store)) {
        return Err(format!("{lost}, which is full, is not in the cluster map"));
    }
    let mut copied = 0;
    for (index, source) in sources.iter().enumerate() {
        // The first member names nearly all there is; what the others add is not known before.
        let total = if index == 0 { count(node, join.pg, source).await } else { 0 };
        let tell = |seen: Seen| {
            if index == 0 {
                node.progress.joining(join.store, join.pg, seen.bytes, expected_bytes(seen, total));
            }
        };
        match copy_inventory(node, slot, join.pg, source, tell).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_an_inventory_is_judged_by_its_first_blocks() {
        let seen = |blocks, bytes| Seen { blocks, bytes };
        assert_eq!(expected_bytes(seen(0, 0), 100), 0);
        assert_eq!(expected_bytes(seen(10, 1000), 0), 0);
        assert_eq!(expected_bytes(seen(10, 1000), 100), 10_000);
        assert_eq!(expected_bytes(seen(100, 12_345), 100), 12_345);
        assert_eq!(expected_bytes(seen(101, 12_345), 100), 12_345, "it grew meanwhile");
        assert_eq!(expected_bytes(seen(1, u64::MAX), u64::MAX), u64::MAX);
    }
}
