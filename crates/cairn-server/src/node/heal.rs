//! Self-repair: quarantined blocks are fetched again from other members, and so are blocks that are missing here. Each is
//! read again from the disk before its entry in the ledger is closed.

use super::copy::CopyError;
use super::duty::{Pace, wait};
use super::ledger::{Closing, Finder, OpenDefect};
use super::progress::Duty;
use super::slot::StoreSlot;
use super::state::Node;
use crate::limits::{COPIES_IN_FLIGHT_MAX, REPAIR_PAUSE, VERIFIES_MAX};
use cairn_proto::placement::MemberState;
use cairn_proto::{BlockId, Incarnation, PgId, StoreId};
use cairn_store::{BlockKey, Cause, Durability, QuarantinedBlock, ReadError};
use futures_util::StreamExt;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Cause under which a block is reported that was not here at all.
pub(super) const MISSING: &str = "missing";

/// Runs until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut pace = Pace::new(REPAIR_PAUSE);
    let mut seen = BTreeSet::new();
    while wait(&stop, &node.wakes.heal, pace.next()).await {
        let Some(left) = stop.run_until_cancelled(pass(&node, &mut seen)).await else { return };
        node.progress.set_left(Duty::Heal, left);
        pace.left(left);
    }
}

/// Tries every bad or missing block once; how many are left. `seen` are the openings whose own finds are known.
async fn pass(node: &Node, seen: &mut BTreeSet<Incarnation>) -> usize {
    let mut left = 0;
    for slot in &node.stores {
        let Some(opening) = slot.incarnation() else { continue };
        // Before the first registration there is nobody to fetch from and no number to report under.
        let Some(store) = slot.id() else { return left + 1 };
        let finder = if seen.contains(&opening) { Finder::Read } else { Finder::Open };
        left += heal_quarantined(node, slot, store, finder).await;
        seen.insert(opening);
        left += heal_missing(node, slot, store).await;
        left += close_repaired(node, slot, store).await;
    }
    left
}

async fn heal_quarantined(node: &Node, slot: &Arc<StoreSlot>, store: StoreId, finder: Finder) -> usize {
    let Ok(mut bad) = slot.quarantined().await else { return 1 };
    for block in &bad {
        // Torn blocks are what a crash leaves of writes under way: repaired or dropped below, not a defect to report.
        if block.cause != Cause::Torn {
            node.ledger.found(store, block.key.block, block.pg, &block.cause.to_string(), finder);
        }
    }
    // Those of which the fewest copies are left come first.
    let view = node.view.load_full();
    bad.sort_by_key(|block| view.full_and_up(block.pg));
    let repairs = bad.into_iter().map(|block| heal_one(node, slot, store, block));
    let mut repairs = futures_util::stream::iter(repairs).buffer_unordered(COPIES_IN_FLIGHT_MAX);
    while repairs.next().await.is_some() {}
    drop(repairs);
    slot.quarantined().await.map_or(1, |still| still.len())
}

async fn heal_one(node: &Node, slot: &Arc<StoreSlot>, store: StoreId, bad: QuarantinedBlock) {
    match node.copy(slot, bad.pg, bad.key, Durability::Durable).await {
        Ok(_) => tracing::info!(block = %bad.key, pg = %bad.pg, "bad block replaced by a peer's copy"),
        Err(CopyError::Nowhere { .. }) if bad.cause == Cause::Torn && node.has_full_peer(slot, bad.pg) => {
            // A full member never got it, so it was never committed without a degraded row there; what is left here is
            // a header without its content.
            if let Err(error) = slot.delete(vec![bad.key]).await {
                tracing::debug!(block = %bad.key, %error, "torn block not dropped");
            }
        }
        Err(error) => {
            tracing::debug!(block = %bad.key, %error, "bad block not replaced yet");
            node.ledger.trouble(store, bad.key.block, error.to_string());
        }
    }
}

async fn heal_missing(node: &Node, slot: &Arc<StoreSlot>, store: StoreId) -> usize {
    let reported: Vec<(BlockKey, (PgId, Finder))> = {
        let missing = node.missing.lock();
        missing.iter().filter(|((of, _), _)| *of == store).map(|((_, key), found)| (*key, *found)).collect()
    };
    let mut left = 0;
    for (key, (pg, finder)) in reported {
        let outcome = match slot.read_cold(key, ()).await {
            Err(ReadError::NotFound { .. }) => node.copy(slot, pg, key, Durability::Durable).await,
            // It came in meanwhile, or is quarantined, which is the other half's business.
            _ => Ok(0),
        };
        match outcome {
            Ok(_) => drop(node.ledger.found(store, key.block, pg, MISSING, finder)),
            // It was deleted everywhere meanwhile.
            Err(CopyError::Nowhere { .. }) => drop(node.ledger.close(store, key.block, Closing::Deleted)),
            Err(error) => {
                tracing::debug!(block = %key, %error, "missing block not fetched yet");
                node.ledger.trouble(store, key.block, error.to_string());
                left += 1;
                continue;
            }
        }
        node.missing.lock().remove(&(store, key));
    }
    left
}

/// Reads the blocks of open entries again, those that are still bad left out, and closes the entries of whole ones; how
/// many stay open.
async fn close_repaired(node: &Node, slot: &Arc<StoreSlot>, store: StoreId) -> usize {
    let Ok(bad) = slot.quarantined().await else { return 1 };
    let bad: HashSet<BlockId> = bad.iter().map(|block| block.key.block).collect();
    let open: Vec<OpenDefect> =
        node.ledger.open_of(store).into_iter().filter(|open| !bad.contains(&open.block)).collect();
    let checks = open.into_iter().map(|open| close_one(node, slot, store, open));
    let left = futures_util::stream::iter(checks).buffer_unordered(VERIFIES_MAX);
    left.fold(0, |sum, left| async move { sum + usize::from(left) }).await
}

/// What reading a block again says about its entry.
fn closing(read: &Result<(), ReadError>, cause: &str) -> Option<Closing> {
    match read {
        Ok(()) => Some(Closing::Repaired),
        // A block that should be here and is not is still the defect.
        Err(ReadError::NotFound { .. }) if cause != MISSING => Some(Closing::Deleted),
        Err(_) => None,
    }
}

/// True when the entry stays open.
async fn close_one(node: &Node, slot: &Arc<StoreSlot>, store: StoreId, open: OpenDefect) -> bool {
    let key = BlockKey::replica(open.block);
    let Ok(read) = slot.ask(move |store| store.verify_on_disk(key)).await else { return true };
    if let Some(closing) = closing(&read, &open.cause) {
        if node.ledger.close(store, open.block, closing).is_some_and(|finder| finder == Finder::Scrub.name()) {
            slot.scrub.repaired();
        }
        return false;
    }
    match read {
        Ok(()) => {}
        Err(ReadError::NotFound { .. }) => node.note_missing(store, key, open.pg, Finder::Read),
        Err(error) => node.ledger.trouble(store, open.block, error.to_string()),
    }
    true
}

impl Node {
    fn has_full_peer(&self, slot: &StoreSlot, pg: PgId) -> bool {
        let own = slot.id().unwrap_or_default();
        self.view.load().sources(pg, own).iter().any(|source| source.state == MemberState::Full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_closed_by_what_the_disk_says() {
        let key = BlockKey::replica(BlockId::new(1, 2, 3));
        let gone = || Err(ReadError::NotFound { key });
        let bad = || Err(ReadError::Quarantined { key, cause: Cause::Payload });
        let away = || Err(ReadError::Io { key, source: std::io::ErrorKind::Other.into() });
        assert_eq!(closing(&Ok(()), "bad payload"), Some(Closing::Repaired));
        assert_eq!(closing(&gone(), "bad payload"), Some(Closing::Deleted));
        assert_eq!(closing(&gone(), MISSING), None, "missing is what it was found to be");
        for open in [bad(), away()] {
            assert_eq!(closing(&open, "bad payload"), None);
        }
    }
}
