//! The map of a file: extents that never overlap, what no extent covers is a hole. Pure arithmetic on rows.
//!
//! A block of a run always sits at the same place of its file: block i of a row at `offset` with `skip` covers
//! `[offset - skip + i * block_len, .. + block_len)`, its *window*. Cutting keeps that true. So whether a block is still
//! referenced is answered by the rows that touch its window.

use crate::rows::{Content, Extent, Run};
use std::ops::Range;

/// An extent where it stands in its file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Placed {
    pub offset: u64,
    pub extent: Extent,
}

impl Placed {
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.extent.len
    }

    pub(crate) fn overlaps(&self, range: &Range<u64>) -> bool {
        self.offset < range.end && self.end() > range.start
    }

    fn run(&self) -> Option<&Run> {
        match &self.extent.content {
            Content::Blocks(run) => Some(run),
            Content::Inline(_) => None,
        }
    }

    /// What remains in front of `at`, which lies inside the extent or behind it.
    fn before(&self, at: u64) -> Option<Placed> {
        let len = at.checked_sub(self.offset).filter(|len| *len > 0)?;
        let content = match &self.extent.content {
            Content::Inline(bytes) => Content::Inline(bytes.slice(..usize::try_from(len).ok()?.min(bytes.len()))),
            Content::Blocks(run) => Content::Blocks(run.clone()),
        };
        Some(Placed { offset: self.offset, extent: Extent { len, content, ..self.extent.clone() } })
    }

    /// What remains from `at` on.
    fn from(&self, at: u64) -> Option<Placed> {
        let len = self.end().checked_sub(at).filter(|len| *len > 0)?;
        let gone = at - self.offset;
        let content = match &self.extent.content {
            Content::Inline(bytes) => Content::Inline(bytes.slice(usize::try_from(gone).ok()?.min(bytes.len())..)),
            Content::Blocks(run) => {
                let in_run = u64::from(run.skip) + gone;
                let index = (in_run / u64::from(run.block_len)) as u32;
                let mut pgs = run.pgs.clone();
                let turn = index as usize % pgs.len();
                pgs.rotate_left(turn);
                Content::Blocks(Run {
                    seq: run.seq + index,
                    skip: (in_run % u64::from(run.block_len)) as u32,
                    pgs,
                    ..run.clone()
                })
            }
        };
        Some(Placed { offset: at, extent: Extent { len, content, ..self.extent.clone() } })
    }
}

/// What is left of a row when a range is taken out of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cut {
    pub left: Option<Placed>,
    pub right: Option<Placed>,
}

/// Takes `range` out of `row`, which overlaps it.
pub(crate) fn cut(row: &Placed, range: &Range<u64>) -> Cut {
    Cut {
        left: if row.offset < range.start { row.before(range.start) } else { None },
        right: if row.end() > range.end { row.from(range.end) } else { None },
    }
}

/// Number of blocks that `len` bytes of `run` touch.
pub(crate) fn block_count(run: &Run, len: u64) -> u32 {
    ((u64::from(run.skip) + len).div_ceil(u64::from(run.block_len))) as u32
}

/// A range of block ids in one group: what garbage and degraded rows are about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Blocks {
    pub pg: u32,
    pub inode: u64,
    pub writer: u64,
    pub seq: u32,
    /// First number behind the range.
    pub end: u32,
    /// Snapshot when they were first committed.
    pub born: u64,
}

/// Sorts and merges, so that no block stands in two ranges and neighbours are one.
pub(crate) fn merge(mut ranges: Vec<Blocks>) -> Vec<Blocks> {
    ranges.sort_unstable();
    let mut merged: Vec<Blocks> = Vec::with_capacity(ranges.len());
    for next in ranges {
        match merged.last_mut() {
            Some(last)
                if (last.pg, last.inode, last.writer, last.born) == (next.pg, next.inode, next.writer, next.born)
                    && next.seq <= last.end =>
            {
                last.end = last.end.max(next.end);
            }
            _ => merged.push(next),
        }
    }
    merged
}

/// Blocks of a run by position, `indexes` of them, as ranges of ids for each group.
fn ranges_of(run: &Run, indexes: Range<u32>, born: u64) -> Vec<Blocks> {
    let range = |pg, from: u32, to: u32| Blocks {
        pg,
        inode: run.inode,
        writer: run.writer,
        seq: run.seq + from,
        end: run.seq + to,
        born,
    };
    match run.pgs.as_slice() {
        [pg] if !indexes.is_empty() => vec![range(*pg, indexes.start, indexes.end)],
        pgs => indexes.map(|index| range(pgs[index as usize % pgs.len()], index, index + 1)).collect(),
    }
}

/// A block that is garbage unless another row refers to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Doubtful {
    pub block: Blocks,
    /// Where the block sits in the file.
    pub window: Range<u64>,
}

/// What a row loses when only the parts in `kept` stay: blocks that are garbage for sure, and those at its edges that
/// other rows may refer to.
pub(crate) fn dropped(row: &Placed, kept: &Cut) -> (Vec<Blocks>, Vec<Doubtful>) {
    let Some(run) = row.run() else { return (Vec::new(), Vec::new()) };
    let count = block_count(run, row.extent.len);
    let first = kept.left.as_ref().map_or(0, |left| block_count(run, left.extent.len));
    let last = kept.right.as_ref().and_then(Placed::run).map_or(count, |right| right.seq - run.seq);
    if first >= last {
        return (Vec::new(), Vec::new());
    }
    let block_len = u64::from(run.block_len);
    let base = row.offset - u64::from(run.skip).min(row.offset);
    let window = |index: u32| base + u64::from(index) * block_len..base + u64::from(index + 1) * block_len;
    let shared_front = first == 0 && run.skip > 0;
    let shared_back = last == count && !(u64::from(run.skip) + row.extent.len).is_multiple_of(block_len);
    let mut sure = first..last;
    let mut doubtful = Vec::new();
    let mut doubt = |index: u32| {
        let block = ranges_of(run, index..index + 1, row.extent.born);
        doubtful.extend(block.into_iter().map(|block| Doubtful { block, window: window(index) }));
    };
    if shared_front {
        doubt(0);
        sure.start = 1;
    }
    if shared_back && count > sure.start {
        doubt(count - 1);
        sure.end = count - 1;
    }
    (ranges_of(run, sure, row.extent.born), doubtful)
}

/// The first block of a row, if another row may refer to it too: one in front that ends where this one begins, or before.
pub(crate) fn first_block(row: &Placed) -> Option<Doubtful> {
    let run = row.run().filter(|run| run.skip > 0)?;
    let base = row.offset - u64::from(run.skip).min(row.offset);
    let block = ranges_of(run, 0..1, row.extent.born).first().copied()?;
    Some(Doubtful { block, window: base..base + u64::from(run.block_len) })
}

/// The blocks of a row without its first `skipped`.
pub(crate) fn blocks_behind(row: &Placed, skipped: u32) -> Vec<Blocks> {
    let blocks = |run| ranges_of(run, skipped..block_count(run, row.extent.len), row.extent.born);
    row.run().map(blocks).unwrap_or_default()
}

/// The blocks that `row` refers to: inode, writer and numbers.
pub(crate) fn referred(row: &Placed) -> Option<(u64, u64, Range<u32>)> {
    let run = row.run()?;
    Some((run.inode, run.writer, run.seq..run.seq.saturating_add(block_count(run, row.extent.len))))
}

/// `before` with `next` appended, when the two are one run: same writer and group, ids and bytes that continue.
pub(crate) fn continued(before: &Placed, next: &Placed) -> Option<Placed> {
    let (run, new) = (before.run()?, next.run()?);
    let blocks = block_count(run, before.extent.len);
    let continues = before.end() == next.offset
        && new.skip == 0
        && (u64::from(run.skip) + before.extent.len).is_multiple_of(u64::from(run.block_len))
        && run.seq.checked_add(blocks) == Some(new.seq)
        && run.pgs.len() == 1
        && before.extent.born == next.extent.born
        && Run { seq: 0, skip: 0, ..run.clone() } == Run { seq: 0, skip: 0, ..new.clone() };
    continues.then(|| Placed {
        offset: before.offset,
        extent: Extent { len: before.extent.len + next.extent.len, birth: next.extent.birth, ..before.extent.clone() },
    })
}

#[cfg(test)]
mod tests;
