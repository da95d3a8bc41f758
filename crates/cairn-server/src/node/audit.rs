//! The audit after a store was opened damaged, or without having been closed: each of its complete memberships is held
//! against the other members' inventories, and what is missing is copied back.
//!
//! A crash takes at most what was never acknowledged as durable, and damage is mostly seen at open. But a log that was
//! cut from outside ends like one that was never written further, and relaxed writes may be lost by one member alone.

use super::duty::{Pace, wait};
use super::inventory::copy_inventory;
use super::progress::Duty;
use super::slot::StoreSlot;
use super::state::Node;
use crate::limits::REPAIR_PAUSE;
use cairn_proto::{Incarnation, PgId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio_util::sync::CancellationToken;

/// Runs until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut pace = Pace::new(REPAIR_PAUSE);
    let mut done = BTreeSet::new();
    while wait(&stop, &node.wakes.audit, pace.next()).await {
        let Some(left) = stop.run_until_cancelled(pass(&node, &mut done)).await else { return };
        node.progress.set_left(Duty::Audit, left);
        pace.left(left);
    }
}

/// Tries every membership that is not in `done` yet; how many are left, at least 1 before there is a map and the degraded
/// rows were looked through: what they name is known to be missing, and copied already.
async fn pass(node: &Node, done: &mut BTreeSet<(Incarnation, PgId)>) -> usize {
    let view = node.view.load_full();
    if view.version == 0 || !node.caught_up_once.load(Ordering::Relaxed) {
        return 1;
    }
    let mut left = 0;
    // Openings that are over need no audit.
    let openings: BTreeSet<Incarnation> = node.stores.iter().filter_map(|slot| slot.suspicious()).collect();
    done.retain(|(opening, _)| openings.contains(opening));
    for slot in &node.stores {
        let Some(opening) = slot.suspicious() else { continue };
        let Some(store) = slot.id() else { return 1 };
        for pg in view.complete_memberships(store) {
            if done.contains(&(opening, pg)) {
                continue;
            }
            match audit(node, slot, pg).await {
                Ok(0) => {}
                Ok(copied) => {
                    tracing::warn!(%store, %pg, blocks = copied, "blocks were missing and have been copied back")
                }
                Err(reason) => {
                    tracing::debug!(%store, %pg, reason, "group not audited yet");
                    left += 1;
                    continue;
                }
            }
            done.insert((opening, pg));
        }
    }
    left
}

/// Compares with every other full member; how many blocks were copied.
async fn audit(node: &Node, slot: &Arc<StoreSlot>, pg: PgId) -> Result<usize, String> {
    let view = node.view.load_full();
    let own = slot.id().unwrap_or_default();
    let required = view.required_inventories(pg, own);
    let mut copied = 0;
    for source in view.sources(pg, own) {
        match copy_inventory(node, slot, pg, &source, |_| {}).await {
            Ok(blocks) => copied += blocks,
            Err(reason) if required.contains(&source.store) => return Err(reason),
            Err(reason) => tracing::debug!(%pg, member = %source.store, reason, "member left out of the audit"),
        }
    }
    Ok(copied)
}
