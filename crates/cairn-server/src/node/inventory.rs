//! Comparing inventories: what another member of a group holds and one of our stores lacks is copied.

use super::slot::StoreSlot;
use super::state::Node;
use crate::limits::INVENTORY_PAGE;
use crate::view::Source;
use cairn_proto::{BlockId, PgId};
use cairn_store::{BlockInfo, BlockKey};
use std::sync::Arc;

/// What of a member's inventory was looked through so far, and is here.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seen {
    pub(crate) blocks: u64,
    pub(crate) bytes: u64,
}

/// Copies what one member has and we lack; how many blocks that were. `tell` hears of every page.
pub(crate) async fn copy_inventory(
    node: &Node,
    slot: &Arc<StoreSlot>,
    pg: PgId,
    source: &Source,
    tell: impl Fn(Seen),
) -> Result<usize, String> {
    let mut copied = 0;
    let mut seen = Seen::default();
    let mut after = None;
    loop {
        let (theirs, next) = node.inventory_page(source, pg, after, INVENTORY_PAGE).await?;
        let ours = own_page(slot, pg, after, theirs.last().copied()).await?;
        let blocks: Vec<BlockId> = ours.iter().map(|info| info.key.block).collect();
        let missing = lacking(&theirs, &blocks);
        let held = node.hold(slot, pg, &missing).await;
        copied += held.copied;
        seen.blocks += theirs.len() as u64;
        seen.bytes += held.copied_bytes + ours.iter().map(|info| u64::from(info.len)).sum::<u64>();
        tell(seen);
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
async fn own_page(
    slot: &Arc<StoreSlot>,
    pg: PgId,
    after: Option<BlockId>,
    last: Option<BlockId>,
) -> Result<Vec<BlockInfo>, String> {
    let Some(last) = last else { return Ok(Vec::new()) };
    let mut ours = Vec::new();
    let mut after = after.map(BlockKey::replica);
    loop {
        let page = slot.list(pg, after, INVENTORY_PAGE as usize).await.map_err(|closed| closed.to_string())?;
        ours.extend(page.iter().take_while(|info| info.key.block <= last));
        match page.last() {
            Some(end) if page.len() == INVENTORY_PAGE as usize && end.key.block < last => after = Some(end.key),
            _ => return Ok(ours),
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
