//! Ranges made to holes, and files made longer: what fallocate(2) asks for.
//!
//! Nothing is reserved: blocks are placed when they are written, so an allocation that keeps the size changes nothing but
//! times.

use crate::error::{Op, fail};
use crate::keys;
use crate::kv::Order;
use crate::map_tx::{Loss, Map};
use crate::meta::Meta;
use crate::rows::inode_flag;
use crate::slot::Step;
use crate::tx::Tx;
use crate::write::{commit_reply, content_changed, grow_to};
use cairn_proto::limits::FILE_LEN_MAX;
use cairn_proto::pb::{self, AllocateMode};
use cairn_proto::status::Code;
use std::ops::Range;

/// The range asked for, if it is one.
fn range_of(ask: &pb::Allocate) -> Op<Range<u64>> {
    if ask.len == 0 {
        return fail(Code::Invalid, "a range of no bytes");
    }
    match ask.offset.checked_add(ask.len).filter(|end| *end <= FILE_LEN_MAX) {
        Some(end) => Ok(ask.offset..end),
        None => fail(Code::TooLarge, format!("{} bytes at {} end behind the largest file", ask.len, ask.offset)),
    }
}

impl Meta {
    /// A range in many pieces is cleared from its front in steps, each of them committed: readers may see some of the
    /// range as it was and some as zeros, never anything else.
    pub(crate) async fn allocate(&self, tx: &mut Tx, ask: &pb::Allocate) -> Op<Step> {
        let range = range_of(ask)?;
        let mut row = tx.file(ask.inode).await?;
        let (clears, grows) = match ask.mode() {
            AllocateMode::Extend => (false, !ask.keep_size),
            AllocateMode::Punch => (true, false),
            AllocateMode::Zero => (true, !ask.keep_size),
            AllocateMode::Collapse | AllocateMode::Insert => {
                let message = "ranges are neither collapsed nor inserted: copy the file instead";
                return fail(Code::Unsupported, message);
            }
            AllocateMode::Unknown => return fail(Code::Invalid, "which kind of allocation?"),
        };
        let mut done = true;
        if clears && range.start < row.size {
            let map = Map { inode: ask.inode, generation: row.generation };
            done = clear(tx, map, range.start..range.end.min(row.size)).await?;
            row.flags |= inode_flag::SPARSE;
        }
        if done && grows {
            row.flags |= if range.end > row.size { inode_flag::SPARSE } else { 0 };
            grow_to(tx, &mut row, range.end);
        }
        content_changed(tx, &mut row, ask.mtime_ns);
        tx.put(&keys::Inode { inode: ask.inode }, &row);
        Ok(if done { Step::Done(commit_reply(&row, range.start)) } else { Step::Partial })
    }
}

/// Makes a hole of a step of `range`, from its front; true when that was all of it.
async fn clear(tx: &mut Tx, map: Map, range: Range<u64>) -> Op<bool> {
    let most = tx.map_rows_per_step();
    let rows = map.rows_in(tx, range.clone(), most + 1, Order::Forward).await?;
    let rest = rows.get(most).map(|row| row.offset);
    let mut loss = Loss::default();
    map.punch(tx, range.start..rest.unwrap_or(range.end), &mut loss).await?;
    map.settle(tx, loss).await?;
    Ok(rest.is_none())
}
