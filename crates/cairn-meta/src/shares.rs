//! Blocks that more than one map may refer to, because a file was cloned: how many maps place each of them.
//!
//! A block without a row here is placed by one map at most, that of the inode it was written for. A clone gives the blocks
//! it takes a row, and each map that lets go of such a block takes one off its count; at none the row goes and the block
//! is garbage. Ranges are cut where counts differ. Since every change of a map looks here for the blocks it drops, and a
//! clone reads the extents it takes validated, the two conflict when they meet.

use crate::error::Op;
use crate::kept;
use crate::keys::{self, Key};
use crate::kv::{KeyRange, Order};
use crate::map::Blocks;
use crate::rows;
use crate::tx::Tx;
use std::ops::Range;

/// Blocks in a row with the same count; 0 = no row names them.
type Part = (Range<u32>, u32);

/// The rows that name blocks of a range.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Shares {
    /// As they stand: first block, number and count of maps.
    rows: Vec<(u32, u32, u32)>,
    /// What they name outside of the range.
    outside: Vec<Part>,
    /// The range itself, without a gap.
    inside: Vec<Part>,
}

impl Shares {
    /// `rows` in ascending order, each of which touches `range`.
    fn new(rows: Vec<(u32, u32, u32)>, range: Range<u32>) -> Self {
        let mut shares = Self { rows, ..Self::default() };
        let mut at = range.start;
        for (seq, count, placements) in &shares.rows {
            let end = seq.saturating_add(*count);
            if *seq < range.start {
                shares.outside.push((*seq..range.start, *placements));
            }
            if *seq > at {
                shares.inside.push((at..*seq, 0));
            }
            shares.inside.push((*seq.max(&range.start)..end.min(range.end), *placements));
            at = end.min(range.end);
            if end > range.end {
                shares.outside.push((range.end..end, *placements));
            }
        }
        if at < range.end {
            shares.inside.push((at..range.end, 0));
        }
        shares
    }

    /// The rows to be written instead, with `inside` as it is to be.
    fn rewritten(&self, inside: Vec<Part>) -> Vec<Part> {
        let mut parts: Vec<Part> = self.outside.iter().cloned().chain(inside).collect();
        parts.retain(|(range, placements)| *placements > 0 && !range.is_empty());
        parts.sort_by_key(|(range, _)| range.start);
        let mut merged: Vec<Part> = Vec::with_capacity(parts.len());
        for (range, placements) in parts {
            match merged.last_mut() {
                Some((last, same)) if last.end == range.start && *same == placements => last.end = range.end,
                _ => merged.push((range, placements)),
            }
        }
        merged
    }
}

fn key(blocks: &Blocks, seq: u32) -> keys::SharedRange {
    keys::SharedRange { inode: blocks.inode, writer: blocks.writer, seq }
}

async fn load(tx: &mut Tx, blocks: &Blocks) -> Op<Shares> {
    let at = |seq| key(blocks, seq).encode();
    let mut rows =
        tx.scan::<keys::SharedRange>(&KeyRange { start: at(0), end: at(blocks.seq) }, 1, Order::Reverse).await?;
    rows.retain(|(key, row)| key.seq.saturating_add(row.count) > blocks.seq);
    let inside = KeyRange { start: at(blocks.seq), end: at(blocks.end) };
    // No two rows name one block, so there are no more of them than blocks.
    rows.extend(tx.scan::<keys::SharedRange>(&inside, (blocks.end - blocks.seq) as usize, Order::Forward).await?);
    let rows = rows.into_iter().map(|(key, row)| (key.seq, row.count, row.placements)).collect();
    Ok(Shares::new(rows, blocks.seq..blocks.end))
}

fn store(tx: &mut Tx, blocks: &Blocks, shares: &Shares, inside: Vec<Part>) {
    let next = shares.rewritten(inside);
    for (seq, ..) in &shares.rows {
        if next.iter().all(|(range, _)| range.start != *seq) {
            tx.delete(&key(blocks, *seq));
        }
    }
    for (range, placements) in next {
        let row = rows::SharedRange { count: range.end - range.start, placements };
        tx.put(&key(blocks, range.start), &row);
    }
}

/// Whether any block that was written for `inode` may be shared.
pub(crate) async fn has_any(tx: &mut Tx, inode: u64) -> Op<bool> {
    let range = keys::with_fields::<keys::SharedRange>(&[&inode.to_be_bytes()]);
    Ok(!tx.scan::<keys::SharedRange>(&range, 1, Order::Forward).await?.is_empty())
}

/// The parts of `blocks` that rows name: some map refers to them.
pub(crate) async fn named(tx: &mut Tx, blocks: &Blocks) -> Op<Vec<Range<u32>>> {
    let inside = load(tx, blocks).await?.inside;
    Ok(inside.into_iter().filter(|(_, placements)| *placements > 0).map(|(range, _)| range).collect())
}

/// One map more refers to `blocks`: those of another file, or of one in a snapshot that nothing else refers to any more,
/// so that they are held garbage.
pub(crate) async fn add(tx: &mut Tx, blocks: &Blocks) -> Op<()> {
    let shares = load(tx, blocks).await?;
    let mut inside = Vec::with_capacity(shares.inside.len());
    for (range, placements) in shares.inside.clone() {
        if placements > 0 {
            inside.push((range, placements + 1));
            continue;
        }
        let mut at = range.start;
        for revived in kept::take_back(tx, &Blocks { seq: range.start, end: range.end, ..*blocks }).await? {
            inside.push((at..revived.start, 2));
            at = revived.end;
            inside.push((revived, 1));
        }
        inside.push((at..range.end, 2));
    }
    store(tx, blocks, &shares, inside);
    Ok(())
}

/// Gives those of `blocks` a row that have none, as if one map placed them: a check counts them afterwards.
pub(crate) async fn begin(tx: &mut Tx, blocks: &Blocks) -> Op<()> {
    let shares = load(tx, blocks).await?;
    let inside = shares.inside.iter().map(|(range, placements)| (range.clone(), (*placements).max(1))).collect();
    store(tx, blocks, &shares, inside);
    Ok(())
}

/// One map less refers to `blocks`; those that none refers to any more.
pub(crate) async fn release(tx: &mut Tx, blocks: &Blocks) -> Op<Vec<Blocks>> {
    let shares = load(tx, blocks).await?;
    let left = |placements: u32| placements.saturating_sub(1);
    let inside = shares.inside.iter().map(|(range, placements)| (range.clone(), left(*placements))).collect();
    let free = shares.inside.iter().filter(|(_, placements)| left(*placements) == 0);
    let free = free.map(|(range, _)| Blocks { seq: range.start, end: range.end, ..*blocks }).collect();
    if !shares.rows.is_empty() {
        store(tx, blocks, &shares, inside);
    }
    Ok(free)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]
    fn rows_are_cut_at_the_ends_of_a_range() {
        let shares = Shares::new(vec![(0, 5, 2), (7, 1, 3), (9, 10, 2)], 3..12);
        assert_eq!(shares.outside, [(0..3, 2), (12..19, 2)]);
        assert_eq!(shares.inside, [(3..5, 2), (5..7, 0), (7..8, 3), (8..9, 0), (9..12, 2)]);
        assert_eq!(shares.rewritten(shares.inside.clone()), [(0..5, 2), (7..8, 3), (9..19, 2)]);
        let one_less = shares.inside.iter().map(|(range, count)| (range.clone(), count.saturating_sub(1))).collect();
        assert_eq!(shares.rewritten(one_less), [(0..3, 2), (3..5, 1), (7..8, 2), (9..12, 1), (12..19, 2)]);
        assert_eq!(Shares::new(vec![], 1..4).inside, [(1..4, 0)]);
    }

    proptest! {
        #[test]
        fn every_block_keeps_its_count(
            runs in prop::collection::vec((0u32..4, 1u32..6, 1u32..4), 0..8), from in 0u32..30, len in 1u32..30,
        ) {
            let mut at = 0;
            let rows: Vec<(u32, u32, u32)> = runs.iter().map(|(gap, count, placements)| {
                let seq = at + gap;
                at = seq + count;
                (seq, *count, *placements)
            }).collect();
            let range = from..from + len;
            let touching: Vec<_> =
                rows.iter().copied().filter(|(seq, count, _)| *seq < range.end && seq + count > range.start).collect();
            let count_in = |rows: &[(u32, u32, u32)], block: u32| {
                rows.iter().find(|(seq, count, _)| (*seq..seq + count).contains(&block)).map_or(0, |(.., placements)| *placements)
            };
            let shares = Shares::new(touching.clone(), range.clone());
            let more: Vec<Part> = shares.inside.iter().map(|(range, count)| (range.clone(), count + 1)).collect();
            let next: Vec<_> =
                shares.rewritten(more).into_iter().map(|(range, count)| (range.start, range.end - range.start, count)).collect();
            for block in 0..80 {
                let added = u32::from(range.contains(&block));
                prop_assert_eq!(count_in(&next, block), count_in(&touching, block) + added, "block {}", block);
            }
        }
    }
}
