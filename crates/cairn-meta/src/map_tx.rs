//! Changes of a file's map inside a transaction: rows cut, added and dropped, and what becomes garbage by it.
//!
//! Every change of a map writes the inode row too, so two of them always meet there.

use crate::error::{Op, fail};
use crate::kept::put_garbage;
use crate::keys;
use crate::kv::{KeyRange, Order};
use crate::limits::{MAP_ROWS_DROPPED_AT_ONCE, SCAN_ROWS};
use crate::map::{self, Blocks, Cut, Doubtful, Placed};
use crate::rows::{self, Content};
use crate::shares;
use crate::tx::Tx;
use cairn_proto::limits::FILE_LEN_MAX;
use cairn_proto::status::Code;
use std::collections::BTreeMap;
use std::ops::Range;

/// Rows first looked at to find out whether a block is still referred to.
const DOUBT_ROWS_FIRST: usize = 16;

/// The map of one generation of one file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Map {
    pub inode: u64,
    pub generation: u32,
}

/// Rows changed so far, and what they no longer refer to.
#[derive(Default)]
pub(crate) struct Loss {
    sure: Vec<Blocks>,
    doubtful: Vec<Doubtful>,
    rows: usize,
}

impl Map {
    fn key(self, offset: u64) -> keys::Extent {
        keys::Extent { inode: self.inode, generation: self.generation, offset }
    }

    fn between(self, range: Range<u64>) -> KeyRange {
        keys::extents_between(self.inode, self.generation, range.start, range.end)
    }

    /// The last row that begins before `offset`.
    pub(crate) async fn row_before(self, tx: &mut Tx, offset: u64) -> Op<Option<Placed>> {
        let rows = tx.scan::<keys::Extent>(&self.between(0..offset), 1, Order::Reverse).await?;
        Ok(rows.into_iter().next().map(|(key, extent)| Placed { offset: key.offset, extent }))
    }

    /// At most `limit` rows that begin in `range`, from its front.
    pub(crate) async fn rows_in(self, tx: &mut Tx, range: Range<u64>, limit: usize, order: Order) -> Op<Vec<Placed>> {
        let rows = tx.scan::<keys::Extent>(&self.between(range), limit, order).await?;
        Ok(rows.into_iter().map(|(key, extent)| Placed { offset: key.offset, extent }).collect())
    }

    pub(crate) fn put(self, tx: &mut Tx, row: &Placed) {
        tx.put(&self.key(row.offset), &row.extent);
    }

    /// Replaces `row` by what `kept` leaves of it.
    pub(crate) fn replace(self, tx: &mut Tx, row: &Placed, kept: &Cut, loss: &mut Loss) {
        if kept.left.is_none() {
            tx.delete(&self.key(row.offset));
        }
        for part in [&kept.left, &kept.right].into_iter().flatten() {
            let extent = rows::Extent { birth: tx.birth, ..part.extent.clone() };
            tx.put(&self.key(part.offset), &extent);
        }
        let (sure, doubtful) = map::dropped(row, kept);
        loss.sure.extend(sure);
        loss.doubtful.extend(doubtful);
        loss.rows += 1;
    }

    /// Makes `range` a hole. Returns the row that ends where the range begins, if there is one.
    pub(crate) async fn punch(self, tx: &mut Tx, range: Range<u64>, loss: &mut Loss) -> Op<Option<Placed>> {
        let mut neighbour = None;
        if let Some(row) = self.row_before(tx, range.start).await? {
            if row.overlaps(&range) {
                let kept = map::cut(&row, &range);
                self.replace(tx, &row, &kept, loss);
                neighbour = kept.left;
            } else if row.end() == range.start {
                neighbour = Some(row);
            }
        }
        let mut from = range.start;
        loop {
            let rows = self.rows_in(tx, from..range.end, SCAN_ROWS, Order::Forward).await?;
            for row in &rows {
                self.replace(tx, row, &map::cut(row, &range), loss);
            }
            let max = tx.map_rows_max();
            if loss.rows > max {
                let message = format!(
                    "what lies in the {} bytes at {} is in more than {max} pieces, too many to be replaced by one \
                     commit: punch the range first, or write less at once",
                    range.end - range.start,
                    range.start
                );
                return fail(Code::TooLarge, message);
            }
            match rows.last() {
                Some(last) if rows.len() == SCAN_ROWS => from = last.offset + 1,
                _ => return Ok(neighbour),
            }
        }
    }

    /// Those of `doubtful` that no row refers to. One walk over the rows of all windows, from the back: what is cut off
    /// the end of a file is seldom referred to by more than the row in front of it.
    pub(crate) async fn unreferenced(self, tx: &mut Tx, doubtful: Vec<Doubtful>) -> Op<Vec<Blocks>> {
        let Some(mut from) = doubtful.iter().map(|block| block.window.end).max() else { return Ok(Vec::new()) };
        let mut open: BTreeMap<(u64, u64, u32), Doubtful> = BTreeMap::new();
        for block in doubtful {
            open.insert((block.block.inode, block.block.writer, block.block.seq), block);
        }
        let mut page = DOUBT_ROWS_FIRST;
        while let Some(bottom) = open.values().map(|block| block.window.start).min() {
            let rows = self.rows_in(tx, bottom..from, page, Order::Reverse).await?;
            for row in &rows {
                settle_doubts(&mut open, row);
            }
            match rows.last() {
                Some(last) if rows.len() == page => from = last.offset,
                _ => {
                    // One that begins in front of every window may still reach into it.
                    if let Some(row) = self.row_before(tx, bottom).await? {
                        settle_doubts(&mut open, &row);
                    }
                    break;
                }
            }
            page = SCAN_ROWS;
        }
        Ok(open.into_values().map(|doubtful| doubtful.block).collect())
    }

    /// Writes garbage rows for what nothing refers to any more. Comes after every change of the map in this
    /// transaction.
    pub(crate) async fn settle(self, tx: &mut Tx, loss: Loss) -> Op<()> {
        let dropped = tx.birth;
        self.settle_as_of(tx, loss, dropped).await
    }

    /// As [`Map::settle`], of a map that nobody reaches since snapshot `dropped`.
    pub(crate) async fn settle_as_of(self, tx: &mut Tx, loss: Loss, dropped: u64) -> Op<()> {
        let mut garbage = loss.sure;
        garbage.extend(self.unreferenced(tx, loss.doubtful).await?);
        let mut known: Option<(u64, bool)> = None;
        for blocks in map::merge(garbage) {
            let shared = match known {
                Some((inode, shared)) if inode == blocks.inode => shared,
                _ => shares::has_any(tx, blocks.inode).await?,
            };
            known = Some((blocks.inode, shared));
            let free = if shared { shares::release(tx, &blocks).await? } else { vec![blocks] };
            for blocks in free {
                put_garbage(tx, &blocks, dropped).await?;
            }
        }
        Ok(())
    }

    /// Lets go of the whole map: at once when it is short, else by a row that makes the duty drop it in steps. The
    /// caller sees to it that nobody reaches this generation any more.
    pub(crate) async fn discard(self, tx: &mut Tx) -> Op<()> {
        let rows = self.rows_in(tx, 0..FILE_LEN_MAX, MAP_ROWS_DROPPED_AT_ONCE + 1, Order::Forward).await?;
        if rows.len() > MAP_ROWS_DROPPED_AT_ONCE {
            let key = keys::MapDrop { inode: self.inode, generation: self.generation };
            tx.put(&key, &rows::MapDrop { birth: tx.birth });
            return Ok(());
        }
        let mut loss = Loss::default();
        for row in &rows {
            self.replace(tx, row, &Cut { left: None, right: None }, &mut loss);
        }
        self.settle(tx, loss).await
    }
}

/// Takes out of `open` what `row` refers to.
fn settle_doubts(open: &mut BTreeMap<(u64, u64, u32), Doubtful>, row: &Placed) {
    let Some((inode, writer, numbers)) = map::referred(row) else { return };
    let range = (inode, writer, numbers.start)..(inode, writer, numbers.end);
    let found: Vec<_> = open.range(range).map(|(key, _)| *key).collect();
    for key in found {
        open.remove(&key);
    }
}

/// A run of freshly written blocks.
pub(crate) fn placed_run(offset: u64, len: u64, run: rows::Run, birth: u64) -> Placed {
    Placed { offset, extent: rows::Extent { len, content: Content::Blocks(run), birth, born: birth } }
}

/// Inline content.
pub(crate) fn placed_inline(offset: u64, bytes: bytes::Bytes, birth: u64) -> Placed {
    let extent = rows::Extent { len: bytes.len() as u64, content: Content::Inline(bytes), birth, born: birth };
    Placed { offset, extent }
}
