//! Truncate: longer is a hole, shorter cuts rows, to nothing is a new map generation.

use crate::error::{Op, fail};
use crate::keys;
use crate::kv::Order;
use crate::map::Cut;
use crate::map_tx::{Loss, Map};
use crate::meta::Meta;
use crate::rows::{self, inode_flag};
use crate::slot::Step;
use crate::tx::Tx;
use crate::write::{commit_reply, content_changed, grow_to};
use cairn_proto::limits::FILE_LEN_MAX;
use cairn_proto::pb;
use cairn_proto::status::Code;

impl Meta {
    /// A file in many pieces is shortened from its end in steps, each of them committed: readers may see a length
    /// between the old and the new one.
    pub(crate) async fn truncate(&self, tx: &mut Tx, ask: &pb::Truncate) -> Op<Step> {
        let mut row = tx.file(ask.inode).await?;
        let done = resize(tx, ask.inode, &mut row, ask.size, ask.mtime_ns).await?;
        tx.put(&keys::Inode { inode: ask.inode }, &row);
        Ok(if done { Step::Done(commit_reply(&row, 0)) } else { Step::Partial })
    }
}

/// Sets the length of a file, or a step of it: false when there is more to do. The caller writes the inode row.
pub(crate) async fn resize(tx: &mut Tx, inode: u64, row: &mut rows::Inode, to: u64, mtime_ns: Option<i64>) -> Op<bool> {
    if to > FILE_LEN_MAX {
        return fail(Code::TooLarge, format!("a file of {to} bytes"));
    }
    let map = Map { inode, generation: row.generation };
    let mut done = true;
    if to == 0 && row.size > 0 {
        map.discard(tx).await?;
        row.generation += 1;
        row.flags &= !inode_flag::SPARSE;
        shrink_to(tx, row, 0);
    } else if to < row.size {
        let size = shorten(tx, map, to).await?;
        done = size == to;
        shrink_to(tx, row, size);
    } else {
        row.flags |= if to > row.size { inode_flag::SPARSE } else { 0 };
        grow_to(tx, row, to);
    }
    content_changed(tx, row, mtime_ns);
    Ok(done)
}

fn shrink_to(tx: &mut Tx, row: &mut rows::Inode, size: u64) {
    tx.effects.file_bytes -= (row.size - size) as i64;
    row.size = size;
}

/// Drops what lies at or behind `size`, from the end and at most a step of it; returns how long the file is then.
async fn shorten(tx: &mut Tx, map: Map, size: u64) -> Op<u64> {
    let mut loss = Loss::default();
    let most = tx.map_rows_per_step();
    let rows = map.rows_in(tx, size..FILE_LEN_MAX, most + 1, Order::Reverse).await?;
    let reached = if rows.len() > most {
        let step = &rows[..most];
        for row in step {
            map.replace(tx, row, &Cut { left: None, right: None }, &mut loss);
        }
        step.last().map_or(size, |row| row.offset)
    } else {
        map.punch(tx, size..FILE_LEN_MAX, &mut loss).await?;
        size
    };
    map.settle(tx, loss).await?;
    Ok(reached)
}
