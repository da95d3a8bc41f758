//! Arithmetic between bytes of a file, blocks and chunks. No rounding of the caller's numbers, no overflow for files up
//! to [`FILE_LEN_MAX`](crate::limits::FILE_LEN_MAX).

use crate::ids::{BlockId, PgId};
use crate::limits::CHUNK_LEN;
use crate::pb;

/// A part of a byte range that lies in one block-sized piece of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes, at least 1.
    pub len: u32,
}

/// Cuts `[offset, offset + len)` at multiples of `block_len`: a block never crosses such a boundary, so that a whole
/// block overwritten is a whole block freed.
pub fn cut_in_blocks(offset: u64, len: u64, block_len: u32) -> impl Iterator<Item = Span> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let boundary = (at / u64::from(block_len) + 1) * u64::from(block_len);
        let span = Span { offset: at, len: (boundary.min(end) - at) as u32 };
        at += u64::from(span.len);
        Some(span)
    })
}

/// The chunks that a byte range of a block touches, whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkRange {
    /// Index of the first chunk.
    pub first: u32,
    /// How many chunks.
    pub count: u32,
    /// Where they begin in the block.
    pub offset: u32,
    /// Their bytes together (the block's last chunk may be short).
    pub len: u32,
}

/// Chunks that cover `[offset, offset + len)` of a block of `block_len` bytes; `len` 0 means to the end. `None` when the
/// range begins at or behind the end, or runs over it.
pub fn chunk_range(offset: u32, len: u32, block_len: u32) -> Option<ChunkRange> {
    if offset >= block_len {
        return None;
    }
    let len = if len == 0 { block_len - offset } else { len };
    let end = offset.checked_add(len).filter(|end| *end <= block_len)?;
    let first = offset / CHUNK_LEN;
    let last = (end - 1) / CHUNK_LEN;
    let begin = first * CHUNK_LEN;
    let stop = (u64::from(last + 1) * u64::from(CHUNK_LEN)).min(u64::from(block_len)) as u32;
    Some(ChunkRange { first, count: last - first + 1, offset: begin, len: stop - begin })
}

/// A range of one block that a read needs, and where its bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRange {
    /// Which block.
    pub block: BlockId,
    /// Its placement group.
    pub pg: PgId,
    /// Where the wanted bytes begin in the block.
    pub offset: u32,
    /// How many, at least 1.
    pub len: u32,
    /// Where they belong, counted from the beginning of the read.
    pub target: u64,
}

/// The block ranges of `extent` that lie in `[offset, offset + len)` of the file, in order of offset.
///
/// `None` when the extent contradicts itself (no groups, no block length, ids that overflow): the peer that sent it is
/// not to be trusted. An inline extent has no block ranges.
pub fn blocks_of(extent: &pb::Extent, offset: u64, len: u64) -> Option<Vec<BlockRange>> {
    if !extent.inline.is_empty() {
        return Some(Vec::new());
    }
    let block_len = u64::from(extent.block_len);
    let first = extent.first.as_ref()?;
    let first = BlockId::new(first.inode, first.writer, first.seq);
    if block_len == 0 || extent.pgs.is_empty() || u64::from(extent.skip) >= block_len {
        return None;
    }
    let extent_end = extent.offset.checked_add(extent.len)?;
    let begin = offset.max(extent.offset);
    let end = offset.checked_add(len)?.min(extent_end);
    let mut ranges = Vec::new();
    let mut at = begin;
    while at < end {
        let in_run = at - extent.offset + u64::from(extent.skip);
        let index = u32::try_from(in_run / block_len).ok()?;
        let in_block = in_run % block_len;
        let take = (block_len - in_block).min(end - at);
        ranges.push(BlockRange {
            block: first.offset(index)?,
            pg: PgId(extent.pgs[index as usize % extent.pgs.len()]),
            offset: in_block as u32,
            len: take as u32,
            target: at - offset,
        });
        at += take;
    }
    Some(ranges)
}

/// Number of blocks in a run that covers `len` bytes, `skip` bytes of its first block lying before them.
pub fn run_blocks(skip: u32, len: u64, block_len: u32) -> u64 {
    (u64::from(skip) + len).div_ceil(u64::from(block_len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extent(offset: u64, len: u64, skip: u32, block_len: u32) -> pb::Extent {
        pb::Extent {
            offset,
            len,
            first: Some(pb::BlockId { inode: 1, writer: 2, seq: 10 }),
            skip,
            block_len,
            pgs: vec![5, 6],
            ..Default::default()
        }
    }

    #[test]
    fn blocks_alternate_between_groups() {
        let ranges = blocks_of(&extent(100, 250, 50, 100), 0, 1000).expect("sound extent");
        let seen: Vec<_> = ranges.iter().map(|r| (r.block.seq.0, r.pg.0, r.offset, r.len, r.target)).collect();
        assert_eq!(seen, [(10, 5, 50, 50, 100), (11, 6, 0, 100, 150), (12, 5, 0, 100, 250)]);
    }

    #[test]
    fn a_contradictory_extent_is_refused() {
        assert_eq!(blocks_of(&pb::Extent { block_len: 0, ..extent(0, 10, 0, 100) }, 0, 10), None);
        assert_eq!(blocks_of(&pb::Extent { pgs: vec![], ..extent(0, 10, 0, 100) }, 0, 10), None);
        assert_eq!(blocks_of(&pb::Extent { first: None, ..extent(0, 10, 0, 100) }, 0, 10), None);
        assert_eq!(blocks_of(&pb::Extent { len: u64::MAX, ..extent(9, 10, 0, 100) }, 0, 10), None);
        assert_eq!(blocks_of(&extent(0, 10, 100, 100), 0, 10), None);
    }

    #[test]
    fn chunks_of_the_last_one_may_be_short() {
        let chunk = CHUNK_LEN;
        assert_eq!(chunk_range(0, 0, 10), Some(ChunkRange { first: 0, count: 1, offset: 0, len: 10 }));
        assert_eq!(
            chunk_range(chunk + 1, chunk, 3 * chunk - 5),
            Some(ChunkRange { first: 1, count: 2, offset: chunk, len: 2 * chunk - 5 })
        );
        assert_eq!(chunk_range(10, 1, 10), None);
        assert_eq!(chunk_range(5, 6, 10), None);
    }

    proptest! {
        #[test]
        fn cutting_covers_the_range_once(offset in 0u64..1 << 40, len in 0u64..1 << 24, shift in 16u32..23) {
            let block_len = 1u32 << shift;
            let mut at = offset;
            for span in cut_in_blocks(offset, len, block_len) {
                prop_assert_eq!(span.offset, at);
                prop_assert!(span.len > 0);
                let last = at + u64::from(span.len) - 1;
                prop_assert_eq!(at / u64::from(block_len), last / u64::from(block_len));
                at = last + 1;
            }
            prop_assert_eq!(at, offset + len);
        }

        #[test]
        fn ranges_cover_the_intersection_once(
            start in 0u64..1000, len in 1u64..5000, skip in 0u32..100, offset in 0u64..3000, want in 1u64..3000,
        ) {
            let row = extent(start, len, skip, 100);
            let ranges = blocks_of(&row, offset, want).expect("sound extent");
            let begin = start.max(offset);
            let end = (start + len).min(offset + want);
            let mut at = begin;
            for range in &ranges {
                prop_assert_eq!(range.target + offset, at);
                prop_assert!(range.len > 0 && range.offset + range.len <= 100);
                at += u64::from(range.len);
            }
            prop_assert_eq!(at, end.max(begin));
        }
    }
}
