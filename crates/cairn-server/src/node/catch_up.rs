//! Catch-up: copies the committed runs that one of our stores lacks (its degraded rows), then clears the rows.
//!
//! A row is cleared only when every block of its run is durable here. A block that no member has any more leaves the row
//! alone: either the run was dropped meanwhile, and then metadata removes the row once its blocks are collected, or the
//! block is lost, and then the row is the evidence.

use super::duty::{Pace, wait};
use super::progress::Duty;
use super::slot::StoreSlot;
use super::state::Node;
use crate::limits::{CATCH_UP_BLOCKS, DEGRADED_PAGE, REPAIR_PAUSE, RUN_BLOCKS_MAX};
use crate::links::CallError;
use crate::wire::run_blocks;
use bytes::Bytes;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, response};
use cairn_proto::{BlockId, PgId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio_util::sync::CancellationToken;

/// Runs until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut pace = Pace::new(REPAIR_PAUSE);
    while wait(&stop, &node.wakes.catch_up, pace.next()).await {
        // Without a map there is nobody to copy from; its arrival calls again.
        if node.view.load().version == 0 {
            pace.idle();
            continue;
        }
        let Some(pass) = stop.run_until_cancelled(pass(&node)).await else { return };
        if pass.is_ok() && !node.caught_up_once.swap(true, Ordering::Relaxed) {
            node.wakes.audit.notify_one();
        }
        let stuck = match pass {
            Ok(Progress { left, .. }) => {
                node.progress.set_left(Duty::CatchUp, left);
                pace.left(left);
                left > 0
            }
            Err(error) => {
                tracing::debug!(%error, "catch-up interrupted");
                pace.failed();
                true
            }
        };
        // Heartbeats do not call while rows stay that could not be caught up a moment ago.
        node.catch_up_stuck.store(stuck, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Progress {
    cleared: usize,
    left: usize,
    copied: usize,
    trouble: Option<String>,
}

/// Goes once through the degraded rows of all our stores.
async fn pass(node: &Node) -> Result<Progress, CallError> {
    let mut all = Progress::default();
    for slot in &node.stores {
        let progress = catch_up_store(node, slot).await?;
        all.cleared += progress.cleared;
        all.left += progress.left;
    }
    if all.cleared > 0 {
        // A join waits for the last row of its store to go.
        node.wakes.join.notify_one();
    }
    Ok(all)
}

async fn catch_up_store(node: &Node, slot: &Arc<StoreSlot>) -> Result<Progress, CallError> {
    let mut progress = Progress::default();
    let Some(store) = slot.id().filter(|_| slot.is_open()) else { return Ok(progress) };
    let mut cursor = Bytes::new();
    loop {
        let ask = pb::ListDegraded { store: store.0, cursor, limit: DEGRADED_PAGE };
        let page = match node.meta.call(Kind::ListDegraded(ask)).await? {
            response::Kind::ListDegraded(page) => page,
            _ => return Err(CallError::Confused { addr: "metadata".to_owned() }),
        };
        let rows = page.rows.into_iter().filter(|row| row.store == store.0).collect();
        for batch in batches(rows) {
            catch_up_batch(node, slot, batch, &mut progress).await?;
        }
        if page.next_cursor.is_empty() {
            break;
        }
        cursor = page.next_cursor;
    }
    let Progress { cleared, left, copied, trouble } = &progress;
    if *copied > 0 {
        tracing::info!(%store, rows = cleared, blocks = copied, left, "caught up with degraded runs");
    }
    if let Some(reason) = trouble {
        tracing::warn!(%store, rows = left, reason, "degraded runs could not be caught up yet");
    }
    Ok(progress)
}

/// Rows of one group that are caught up together.
#[derive(Debug, PartialEq)]
struct Batch {
    pg: PgId,
    rows: Vec<(pb::DegradedRow, Vec<BlockId>)>,
}

/// Packs rows, which come in order of their group, into batches of some [`CATCH_UP_BLOCKS`]. A row that makes no sense
/// gets no blocks and stays as it is.
fn batches(rows: Vec<pb::DegradedRow>) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut blocks_in_last = 0;
    for row in rows {
        let pg = PgId(row.pg);
        let blocks = row.run.as_ref().and_then(|run| run_blocks(run, RUN_BLOCKS_MAX).ok()).unwrap_or_default();
        let count = blocks.len();
        match batches.last_mut() {
            Some(batch) if batch.pg == pg && blocks_in_last + count <= CATCH_UP_BLOCKS => {
                blocks_in_last += count;
                batch.rows.push((row, blocks));
            }
            _ => {
                blocks_in_last = count;
                batches.push(Batch { pg, rows: vec![(row, blocks)] });
            }
        }
    }
    batches
}

async fn catch_up_batch(
    node: &Node,
    slot: &Arc<StoreSlot>,
    batch: Batch,
    progress: &mut Progress,
) -> Result<(), CallError> {
    // Copies of an earlier membership that are found here must not be purged after they were counted on: neither before
    // our map says that the store is a member again, nor while it is looked.
    let _group = slot.groups.bring(batch.pg).await;
    let store = slot.id().unwrap_or_default();
    if !node.view.load().is_member(batch.pg, store) {
        progress.left += batch.rows.len();
        node.wakes.map.notify_one();
        return Ok(());
    }
    if let Err(error) = node.raise_fence(batch.pg).await {
        progress.left += batch.rows.len();
        progress.trouble.get_or_insert_with(|| format!("the epoch is not kept: {error}"));
        return Ok(());
    }
    // Before anything is copied: should the store lose it again and begin anew, this says nothing of what it has then.
    let pg_epoch = node.view.load().epoch(batch.pg).0;
    let blocks: Vec<BlockId> = batch.rows.iter().flat_map(|(_, blocks)| blocks).copied().collect();
    let held = node.hold(slot, batch.pg, &blocks).await;
    progress.copied += held.copied;
    let count = batch.rows.len();
    let is_whole = |blocks: &[BlockId]| !blocks.is_empty() && !blocks.iter().any(|block| held.lacking.contains(block));
    let whole: Vec<pb::DegradedRow> =
        batch.rows.into_iter().filter(|(_, blocks)| is_whole(blocks)).map(|(row, _)| row).collect();
    let whole: Vec<_> = whole.into_iter().map(|row| pb::DegradedRow { pg_epoch, ..row }).collect();
    if whole.len() < count {
        progress.left += count - whole.len();
        let nowhere = || format!("no member has {} of the blocks", held.nowhere);
        progress.trouble.get_or_insert_with(|| held.error.clone().unwrap_or_else(nowhere));
    }
    if !whole.is_empty() {
        progress.cleared += whole.len();
        node.meta.call(Kind::ClearDegraded(pb::ClearDegraded { rows: whole })).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pg: u32, seq: u32, count: u32) -> pb::DegradedRow {
        let first = pb::BlockId { inode: 1, writer: 1, seq };
        pb::DegradedRow { pg, store: 1, run: Some(pb::Run { first: Some(first), count }), pg_epoch: 0 }
    }

    #[test]
    fn batches_are_of_one_group_and_bounded() {
        let most = CATCH_UP_BLOCKS as u32;
        let rows = vec![row(1, 0, 2), row(1, 5, most - 2), row(1, most + 9, 1), row(2, 0, 3 * most), row(2, 0, 1)];
        let shape: Vec<(u32, Vec<usize>)> = batches(rows)
            .iter()
            .map(|batch| (batch.pg.0, batch.rows.iter().map(|(_, blocks)| blocks.len()).collect()))
            .collect();
        let most = most as usize;
        assert_eq!(shape, [(1, vec![2, most - 2]), (1, vec![1]), (2, vec![3 * most]), (2, vec![1])]);
    }

    #[test]
    fn a_row_without_sense_is_kept_and_does_no_harm() {
        let senseless = pb::DegradedRow { run: None, ..row(1, 0, 1) };
        let batches = batches(vec![senseless, row(1, u32::MAX, 5), row(1, 7, 1)]);
        let lens: Vec<usize> = batches[0].rows.iter().map(|(_, blocks)| blocks.len()).collect();
        assert_eq!(lens, [0, 0, 1]);
    }
}
