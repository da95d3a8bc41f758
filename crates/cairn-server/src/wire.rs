//! Between messages and the words of this crate: ids checked on the way in, runs folded on the way out.

use bytes::Bytes;
use cairn_proto::limits::BLOCKS_PER_REQUEST_MAX;
use cairn_proto::status::{Code, Status};
use cairn_proto::{BlockId, Shard, pb};
use cairn_store::PartDigest;

/// The id in a message; a missing one is INVALID.
pub(crate) fn block_id(block: Option<&pb::BlockId>) -> Result<BlockId, Status> {
    block
        .map(|block| BlockId::new(block.inode, block.writer, block.seq))
        .ok_or_else(|| Status::new(Code::Invalid, "the request names no block"))
}

/// An id as a message.
pub(crate) fn block_to_pb(block: BlockId) -> pb::BlockId {
    pb::BlockId { inode: block.inode.0, writer: block.writer.0, seq: block.seq.0 }
}

/// The shard in a message; INVALID above 255.
pub(crate) fn shard(shard: u32) -> Result<Shard, Status> {
    u8::try_from(shard).map(Shard).map_err(|_| Status::new(Code::Invalid, format!("shard {shard} is above 255")))
}

/// Ids of a run in order. INVALID when the run names no first block or its ids overflow; `limit` bounds the count.
pub(crate) fn run_blocks(run: &pb::Run, limit: usize) -> Result<Vec<BlockId>, Status> {
    let first = block_id(run.first.as_ref())?;
    if run.count as usize > limit {
        let message = format!("run at {first} has {} blocks, at most {limit} are allowed", run.count);
        return Err(Status::new(Code::TooLarge, message));
    }
    (0..run.count)
        .map(|n| first.offset(n).ok_or_else(|| Status::new(Code::Invalid, format!("the ids of run {first} overflow"))))
        .collect()
}

/// Ids of several runs together, at most [`BLOCKS_PER_REQUEST_MAX`].
pub(crate) fn runs_blocks(runs: &[pb::Run]) -> Result<Vec<BlockId>, Status> {
    let mut blocks = Vec::new();
    for run in runs {
        blocks.extend(run_blocks(run, BLOCKS_PER_REQUEST_MAX - blocks.len())?);
    }
    Ok(blocks)
}

/// Folds ids in ascending order into runs of consecutive ones.
pub(crate) fn fold_runs(blocks: impl IntoIterator<Item = BlockId>) -> Vec<pb::Run> {
    let mut runs: Vec<pb::Run> = Vec::new();
    let mut next = None;
    for block in blocks {
        match runs.last_mut() {
            Some(run) if next == Some(block) => run.count += 1,
            _ => runs.push(pb::Run { first: Some(block_to_pb(block)), count: 1 }),
        }
        next = block.offset(1);
    }
    runs
}

/// Cuts a run into parts of at most `max` blocks, in order.
pub(crate) fn cut_run(run: &pb::Run, max: u32) -> Result<Vec<pb::Run>, Status> {
    let first = block_id(run.first.as_ref())?;
    let mut parts = Vec::new();
    let mut done = 0;
    while done < run.count {
        let count = (run.count - done).min(max);
        let at = first.offset(done).filter(|at| at.offset(count - 1).is_some());
        let at = at.ok_or_else(|| Status::new(Code::Invalid, format!("the ids of run {first} overflow")))?;
        parts.push(pb::Run { first: Some(block_to_pb(at)), count });
        done += count;
    }
    Ok(parts)
}

/// Digests as they travel: 16 bytes each, sum and count, little-endian.
pub(crate) fn pack_digests(digests: &[PartDigest]) -> Bytes {
    digests.iter().flat_map(|digest| [digest.sum.to_le_bytes(), digest.count.to_le_bytes()]).flatten().collect()
}

/// The digests in a message; `None` when they are not so many.
pub(crate) fn unpack_digests(bytes: &[u8], parts: u32) -> Option<Vec<PartDigest>> {
    let (words, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() || words.len() != 2 * parts as usize {
        return None;
    }
    let digest = |pair: &[[u8; 8]]| PartDigest { sum: u64::from_le_bytes(pair[0]), count: u64::from_le_bytes(pair[1]) };
    Some(words.chunks_exact(2).map(digest).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(seq: u32, count: u32) -> pb::Run {
        pb::Run { first: Some(block_to_pb(BlockId::new(1, 2, seq))), count }
    }

    #[test]
    fn consecutive_ids_fold() {
        let ids = [(1, 2, 5), (1, 2, 6), (1, 2, 8), (1, 3, 9), (2, 3, 10)].map(|(i, w, s)| BlockId::new(i, w, s));
        let runs = fold_runs(ids);
        assert_eq!(runs.iter().map(|run| run.count).collect::<Vec<_>>(), [2, 1, 1, 1]);
        assert_eq!(runs_blocks(&runs).expect("small"), ids);
    }

    #[test]
    fn bounds_hold_before_anything_is_allocated() {
        assert_eq!(run_blocks(&run(0, u32::MAX), 10).expect_err("too many").code, Code::TooLarge);
        assert_eq!(run_blocks(&run(u32::MAX, 2), 10).expect_err("overflow").code, Code::Invalid);
        assert_eq!(run_blocks(&pb::Run { first: None, count: 1 }, 10).expect_err("no id").code, Code::Invalid);
        let two = [run(0, 1000), run(5000, 1000)];
        assert_eq!(runs_blocks(&two).expect_err("2000 together").code, Code::TooLarge);
        assert_eq!(cut_run(&run(u32::MAX - 1, 3), 2).expect_err("overflow").code, Code::Invalid);
    }

    #[test]
    fn digests_travel_as_pinned() {
        let digests =
            [PartDigest { sum: 0x0102_0304_0506_0708, count: 9 }, PartDigest { sum: u64::MAX, count: 1 << 40 }];
        let packed = pack_digests(&digests);
        assert_eq!(packed[..17], [8, 7, 6, 5, 4, 3, 2, 1, 9, 0, 0, 0, 0, 0, 0, 0, 255]);
        assert_eq!(unpack_digests(&packed, 2).as_deref(), Some(&digests[..]));
        assert_eq!(unpack_digests(&packed, 1), None);
        assert_eq!(unpack_digests(&packed[1..], 2), None);
        assert_eq!(unpack_digests(&[], 0), Some(Vec::new()));
    }

    proptest! {
        #[test]
        fn cutting_keeps_every_block(seq in 0u32..100, count in 0u32..500, max in 1u32..70) {
            let whole = run(seq, count);
            let parts = cut_run(&whole, max).expect("no overflow");
            prop_assert!(parts.iter().all(|part| part.count <= max && part.count > 0));
            prop_assert_eq!(runs_blocks(&parts).expect("few"), run_blocks(&whole, 500).expect("few"));
        }
    }
}
