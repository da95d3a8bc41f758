//! Catch-up: copies the committed runs that one of our stores lacks (its degraded rows), then clears the rows.
//!
//! A row is cleared only when every block of its run is durable here. A block that no member has any more leaves the row
//! alone: either the run was dropped meanwhile, and then metadata removes the row with it, or the block is lost, and then
//! the row is the evidence.

use super::duty::{Pace, wait};
use super::slot::StoreSlot;
use super::state::Node;
use crate::limits::{DEGRADED_PAGE, REPAIR_PERIOD};
use crate::links::CallError;
use crate::wire::run_blocks;
use bytes::Bytes;
use cairn_proto::PgId;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, response};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Runs until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut pace = Pace::new();
    while wait(&stop, &node.wakes.catch_up, pace.next()).await {
        let Some(pass) = stop.run_until_cancelled(pass(&node)).await else { return };
        match pass {
            Ok(left) if left == 0 => pace.idle(),
            Ok(_) => pace.unfinished(REPAIR_PERIOD),
            Err(error) => {
                tracing::debug!(%error, "catch-up interrupted");
                pace.failed();
            }
        }
    }
}

/// Goes once through the degraded rows of all our stores; how many are left.
async fn pass(node: &Node) -> Result<usize, CallError> {
    let mut left = 0;
    for slot in &node.stores {
        left += catch_up_store(node, slot).await?;
    }
    Ok(left)
}

async fn catch_up_store(node: &Node, slot: &Arc<StoreSlot>) -> Result<usize, CallError> {
    let Some(store) = slot.id() else { return Ok(0) };
    let (mut cleared, mut left, mut copied) = (0, 0, 0);
    let mut trouble = None;
    let mut cursor = Bytes::new();
    loop {
        let ask = pb::ListDegraded { store: store.0, cursor, limit: DEGRADED_PAGE };
        let page = match node.meta.call(Kind::ListDegraded(ask)).await? {
            response::Kind::ListDegraded(page) => page,
            _ => return Err(CallError::Confused { addr: "metadata".to_owned() }),
        };
        let mut whole = Vec::new();
        for row in page.rows.into_iter().filter(|row| row.store == store.0) {
            match hold_row(node, slot, &row).await {
                Ok(blocks) => {
                    copied += blocks;
                    whole.push(row);
                }
                Err(reason) => {
                    left += 1;
                    trouble.get_or_insert(reason);
                }
            }
        }
        if !whole.is_empty() {
            cleared += whole.len();
            node.meta.call(Kind::ClearDegraded(pb::ClearDegraded { rows: whole })).await?;
        }
        if page.next_cursor.is_empty() {
            break;
        }
        cursor = page.next_cursor;
    }
    if cleared > 0 {
        tracing::info!(%store, rows = cleared, blocks = copied, left, "caught up with degraded runs");
    }
    if let Some(reason) = trouble {
        tracing::warn!(%store, rows = left, reason, "degraded runs could not be caught up yet");
    }
    Ok(left)
}

/// Makes the run of a row durable here; how many blocks had to be copied, or why it is not whole.
async fn hold_row(node: &Node, slot: &Arc<StoreSlot>, row: &pb::DegradedRow) -> Result<usize, String> {
    let run = row.run.as_ref().ok_or("the row names no run")?;
    let blocks = run_blocks(run, crate::limits::RUN_BLOCKS_MAX).map_err(|status| status.to_string())?;
    let summary = node.hold(slot, PgId(row.pg), &blocks).await;
    if summary.complete() {
        return Ok(summary.copied);
    }
    Err(summary.error.unwrap_or_else(|| format!("no member has {} of the blocks", summary.nowhere)))
}
