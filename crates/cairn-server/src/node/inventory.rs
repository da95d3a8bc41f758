//! Comparing inventories: what another member of a group holds and one of our stores lacks is copied.

use super::slot::StoreSlot;
use super::state::Node;
use crate::limits::INVENTORY_PAGE;
use crate::view::Source;
use cairn_proto::{BlockId, PgId};
use cairn_store::BlockKey;
use std::sync::Arc;

/// Copies what one member has and we lack; how many blocks that were.
pub(crate) async fn copy_inventory(
    node: &Node,
    slot: &Arc<StoreSlot>,
    pg: PgId,
    source: &Source,
) -> Result<usize, String> {
    let mut copied = 0;
    let mut after = None;
    loop {
        let (theirs, next) = node.inventory_page(source, pg, after, INVENTORY_PAGE).await?;
        let ours = own_page(slot, pg, after, theirs.last().copied()).await;
        let missing = lacking(&theirs, &ours);
        let held = node.hold(slot, pg, &missing).await;
        copied += held.copied;
        // A block that nobody has any more was deleted between the listing and the copy.
        if held.lacking.len() > held.nowhere {
            return Err(held.error.unwrap_or_else(|| "copied blocks did not stay".to_owned()));
        }
        match next {
            Some(next) if after.is_none_or(|after| next > after) => after = Some(next),
            Some(next) => return Err(format!("{} lists {next} out of order", source.peer.addr)),
            None => return Ok(copied),
        }
    }
}

/// Our inventory of the group between `after` and `last`, both ends of a peer's page.
async fn own_page(slot: &Arc<StoreSlot>, pg: PgId, after: Option<BlockId>, last: Option<BlockId>) -> Vec<BlockId> {
    let Some(last) = last else { return Vec::new() };
    let mut ours = Vec::new();
    let mut after = after.map(BlockKey::replica);
    loop {
        let page = slot.list(pg, after, INVENTORY_PAGE as usize).await;
        ours.extend(page.iter().map(|info| info.key.block).take_while(|block| *block <= last));
        match page.last() {
            Some(end) if page.len() == INVENTORY_PAGE as usize && end.key.block < last => after = Some(end.key),
            _ => return ours,
        }
    }
}

/// Blocks of `theirs` that are not in `ours`; both in ascending order.
fn lacking(theirs: &[BlockId], ours: &[BlockId]) -> Vec<BlockId> {
    let mut ours = ours.iter().peekable();
    theirs
        .iter()
        .filter(|block| {
            while ours.next_if(|own| own < block).is_some() {}
            ours.peek() != Some(block)
        })
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn lacking_is_the_difference(theirs in prop::collection::btree_set(0u32..40, 0..30),
                                     ours in prop::collection::btree_set(0u32..40, 0..30)) {
            let blocks = |set: &BTreeSet<u32>| set.iter().map(|seq| BlockId::new(1, 1, *seq)).collect::<Vec<_>>();
            let expected: BTreeSet<u32> = theirs.difference(&ours).copied().collect();
            prop_assert_eq!(lacking(&blocks(&theirs), &blocks(&ours)), blocks(&expected));
        }
    }
}
