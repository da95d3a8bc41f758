//! Self-repair: quarantined blocks are fetched again from other members, and so are blocks that readers miss here.

use super::copy::CopyError;
use super::duty::{Pace, wait};
use super::progress::Duty;
use super::slot::StoreSlot;
use super::state::Node;
use crate::limits::REPAIR_PAUSE;
use cairn_proto::placement::MemberState;
use cairn_proto::{BlockId, PgId, StoreId};
use cairn_store::{BlockKey, Cause, Durability, QuarantinedBlock, ReadError};
use futures_util::StreamExt;
use std::collections::HashSet;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Cause under which a block is reported that was not here at all.
const MISSING: &str = "missing";

/// Runs until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut pace = Pace::new(REPAIR_PAUSE);
    while wait(&stop, &node.wakes.heal, pace.next()).await {
        let Some(left) = stop.run_until_cancelled(pass(&node)).await else { return };
        node.progress.set_left(Duty::Heal, left);
        pace.left(left);
    }
}

/// Tries every bad or missing block once; how many are left.
async fn pass(node: &Node) -> usize {
    let mut left = 0;
    for slot in &node.stores {
        // Before the first registration there is nobody to fetch from and no number to report under.
        let Some(store) = slot.id() else {
            left += usize::from(slot.is_open());
            continue;
        };
        if !slot.is_open() {
            continue;
        }
        left += heal_quarantined(node, slot, store).await;
        left += heal_missing(node, slot, store).await;
    }
    left
}

async fn heal_quarantined(node: &Node, slot: &Arc<StoreSlot>, store: StoreId) -> usize {
    let Ok(bad) = slot.quarantined().await else { return 1 };
    for block in &bad {
        // Torn blocks are what a crash leaves of writes under way: repaired or dropped below, not a defect to report.
        if block.cause != Cause::Torn {
            node.defects.lock().found(node.id(), store, block.key.block, &block.cause.to_string());
        }
    }
    let repairs = bad.into_iter().map(|block| heal_one(node, slot, block));
    let mut repairs = futures_util::stream::iter(repairs).buffer_unordered(crate::limits::COPIES_IN_FLIGHT_MAX);
    while repairs.next().await.is_some() {}
    // What is not bad any more was repaired here, written again by its writer, or deleted.
    let Ok(still) = slot.quarantined().await else { return 1 };
    let still: HashSet<BlockId> = still.iter().map(|block| block.key.block).collect();
    node.defects.lock().settle(node.id(), store, &still);
    still.len()
}

async fn heal_one(node: &Node, slot: &Arc<StoreSlot>, bad: QuarantinedBlock) {
    match node.copy(slot, bad.pg, bad.key, Durability::Durable).await {
        Ok(_) => tracing::info!(block = %bad.key, pg = %bad.pg, "bad block replaced by a peer's copy"),
        Err(CopyError::Nowhere { .. }) if bad.cause == Cause::Torn && node.has_full_peer(slot, bad.pg) => {
            // A full member never got it, so it was never committed without a degraded row there; what is left here is
            // a header without its content.
            if let Err(error) = slot.delete(vec![bad.key]).await {
                tracing::debug!(block = %bad.key, %error, "torn block not dropped");
            }
        }
        Err(error) => tracing::debug!(block = %bad.key, %error, "bad block not replaced yet"),
    }
}

async fn heal_missing(node: &Node, slot: &Arc<StoreSlot>, store: StoreId) -> usize {
    let reported: Vec<(BlockKey, PgId)> = {
        let missing = node.missing.lock();
        missing.iter().filter(|((of, _), _)| *of == store).map(|((_, key), pg)| (*key, *pg)).collect()
    };
    let mut left = 0;
    for (key, pg) in reported {
        let outcome = match slot.read_cold(key, ()).await {
            Err(ReadError::NotFound { .. }) => node.copy(slot, pg, key, Durability::Durable).await,
            // It came in meanwhile, or is quarantined, which is the other half's business.
            _ => Ok(0),
        };
        match outcome {
            Ok(_) => {
                let mut defects = node.defects.lock();
                defects.found(node.id(), store, key.block, MISSING);
                defects.repaired(node.id(), store, key.block);
            }
            Err(CopyError::Nowhere { .. }) => {}
            Err(error) => {
                tracing::debug!(block = %key, %error, "missing block not fetched yet");
                left += 1;
                continue;
            }
        }
        node.missing.lock().remove(&(store, key));
    }
    left
}

impl Node {
    fn has_full_peer(&self, slot: &StoreSlot, pg: PgId) -> bool {
        let own = slot.id().unwrap_or_default();
        self.view.load().sources(pg, own).iter().any(|source| source.state == MemberState::Full)
    }
}
