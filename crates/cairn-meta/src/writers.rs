//! Which writers may still commit, and which never will again.
//!
//! An open writer has a [`keys::Writer`] row, which every commit of it reads. Closing it removes that row and adds the
//! number to a range of closed ones in the same transaction, so that "closed" is something written down and not merely
//! the absence of a row: a metadata server that was rolled back to before a writer's time finds neither, and takes the
//! writer for unknown instead of closed. Numbers are given out densely, so neighbours merge and the ranges are about as
//! many as there are open writers.

use crate::error::Op;
use crate::keys::{self, Key};
use crate::kv::{KeyRange, Order};
use crate::rows;
use crate::tx::Tx;
use cairn_proto::pb::WriterState;

/// The range of closed writers that holds `writer`, or the last one below it.
async fn range_before(tx: &mut Tx, writer: u64) -> Op<Option<(u64, u32)>> {
    let at = |first| keys::ClosedWriters { first }.encode();
    let range = KeyRange { start: at(0), end: KeyRange::successor(&at(writer)) };
    let found = tx.scan::<keys::ClosedWriters>(&range, 1, Order::Reverse).await?;
    Ok(found.into_iter().next().map(|(key, row)| (key.first, row.count)))
}

const fn holds((first, count): (u64, u32), writer: u64) -> bool {
    first <= writer && writer - first < count as u64
}

/// Whether `writer` may still commit, as of this transaction.
pub(crate) async fn state_of(tx: &mut Tx, writer: u64) -> Op<WriterState> {
    if tx.get(&keys::Writer { writer }).await?.is_some() {
        return Ok(WriterState::Open);
    }
    let closed = range_before(tx, writer).await?.is_some_and(|range| holds(range, writer));
    Ok(if closed { WriterState::Closed } else { WriterState::Unknown })
}

/// Closes `writer`, which is of `session`: nothing of it commits from this transaction on.
pub(crate) async fn close(tx: &mut Tx, session: u64, writer: u64) -> Op<()> {
    tx.delete(&keys::Writer { writer });
    tx.delete(&keys::SessionWriter { session, writer });
    let (mut first, mut count) = (writer, 1u32);
    if let Some(before) = range_before(tx, writer).await? {
        if holds(before, writer) {
            return Ok(());
        }
        let meets = before.0 + u64::from(before.1) == writer;
        if let Some(sum) = count.checked_add(before.1).filter(|_| meets) {
            (first, count) = (before.0, sum);
        }
    }
    let behind = keys::ClosedWriters { first: writer.saturating_add(1) };
    if let Some(row) = tx.get(&behind).await?
        && let Some(sum) = count.checked_add(row.count)
    {
        tx.delete(&behind);
        count = sum;
    }
    tx.put(&keys::ClosedWriters { first }, &rows::RunLen { count });
    Ok(())
}
