use super::*;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeSet;

const LEN: u32 = 10;

fn blocks_row(offset: u64, len: u64, seq: u32, skip: u32) -> Placed {
    let run = Run { inode: 1, writer: 2, seq, skip, block_len: LEN, pgs: vec![7], codec: 0, flags: 0 };
    Placed { offset, extent: Extent { len, content: Content::Blocks(run), birth: 0, born: 0 } }
}

/// The block and the offset in it that holds byte `at` of the file.
fn byte_at(row: &Placed, at: u64) -> (u32, u64, u32) {
    let run = row.run().expect("a run");
    let in_run = at - row.offset + u64::from(run.skip);
    let index = (in_run / u64::from(LEN)) as u32;
    (run.seq + index, in_run % u64::from(LEN), run.pgs[index as usize % run.pgs.len()])
}

fn ids(ranges: &[Blocks]) -> Vec<u32> {
    ranges.iter().flat_map(|range| range.seq..range.end).collect()
}

#[test]
fn cutting_inline_content_slices_it() {
    let content = Content::Inline(Bytes::from_static(b"0123456789"));
    let row = Placed { offset: 100, extent: Extent { len: 10, content, birth: 0, born: 0 } };
    let Cut { left, right } = cut(&row, &(103..105));
    let text = |part: Option<Placed>| match part.map(|part| (part.offset, part.extent)) {
        Some((offset, Extent { len, content: Content::Inline(bytes), .. })) => (offset, len, bytes),
        other => panic!("{other:?}"),
    };
    assert_eq!(text(left), (100, 3, Bytes::from_static(b"012")));
    assert_eq!(text(right), (105, 5, Bytes::from_static(b"56789")));
}

#[test]
fn a_whole_block_taken_out_is_surely_garbage() {
    let row = blocks_row(0, 40, 5, 0);
    let kept = cut(&row, &(10..30));
    let (sure, doubtful) = dropped(&row, &kept);
    assert_eq!((ids(&sure), doubtful.len()), (vec![6, 7], 0));
}

#[test]
fn a_block_cut_in_the_middle_stays_with_both_parts() {
    let row = blocks_row(0, 10, 5, 0);
    let kept = cut(&row, &(3..6));
    assert_eq!(dropped(&row, &kept), (vec![], vec![]));
    let (left, right) = (kept.left.expect("left"), kept.right.expect("right"));
    let (.., numbers) = referred(&left).expect("a run");
    assert!(numbers.contains(&ranges_of(left.run().expect("run"), 0..1, 0)[0].seq));
    assert_eq!(byte_at(&right, 6), (5, 6, 7));
    // Each part alone leaves the block in doubt, with the window where to look for the other.
    let (sure, doubtful) = dropped(&left, &Cut { left: None, right: None });
    assert_eq!((sure, doubtful.len(), doubtful[0].window.clone()), (vec![], 1, 0..10));
    let (sure, doubtful) = dropped(&right, &Cut { left: None, right: None });
    assert_eq!((sure, doubtful.len(), doubtful[0].window.clone()), (vec![], 1, 0..10));
}

#[test]
fn groups_turn_with_the_blocks() {
    let mut row = blocks_row(0, 40, 5, 0);
    if let Content::Blocks(run) = &mut row.extent.content {
        run.pgs = vec![7, 8, 9];
    }
    let right = cut(&row, &(0..20)).right.expect("right");
    for at in 20..40 {
        assert_eq!(byte_at(&right, at), byte_at(&row, at));
    }
}

#[test]
fn only_what_continues_is_appended() {
    let before = blocks_row(0, 20, 5, 0);
    assert_eq!(continued(&before, &blocks_row(20, 15, 7, 0)), Some(blocks_row(0, 35, 5, 0)));
    assert_eq!(continued(&before, &blocks_row(20, 15, 8, 0)), None, "a number is missing");
    assert_eq!(continued(&before, &blocks_row(21, 15, 7, 0)), None, "a byte is missing");
    assert_eq!(continued(&blocks_row(0, 19, 5, 0), &blocks_row(19, 15, 7, 0)), None, "the last block is short");
    assert_eq!(continued(&blocks_row(5, 15, 5, 5), &blocks_row(20, 15, 7, 0)), Some(blocks_row(5, 30, 5, 5)));
    let mut other = blocks_row(20, 15, 7, 0);
    if let Content::Blocks(run) = &mut other.extent.content {
        run.pgs = vec![8];
    }
    assert_eq!(continued(&before, &other), None, "another group");
}

#[test]
fn merging_joins_neighbours_and_drops_doubles() {
    let range = |pg, seq, end| Blocks { pg, inode: 1, writer: 1, seq, end, born: 0 };
    let merged = merge(vec![range(1, 5, 6), range(1, 1, 3), range(2, 3, 4), range(1, 2, 5)]);
    assert_eq!(merged, [range(1, 1, 6), range(2, 3, 4)]);
}

proptest! {
    #[test]
    fn what_is_left_maps_every_byte_as_before(
        offset in 10u64..50, len in 1u64..100, skip in 0u32..LEN,
        hit in 0u64..100, back in 0u64..60, cut_len in 1u64..100,
    ) {
        let row = blocks_row(offset, len, 5, skip);
        // One byte of the row at least is cut out.
        let hit = offset + hit % len;
        let range = hit.saturating_sub(back)..hit + cut_len;
        let kept = cut(&row, &range);
        for at in row.offset..row.end() {
            let part = [&kept.left, &kept.right].into_iter().flatten().find(|part| (part.offset..part.end()).contains(&at));
            prop_assert_eq!(part.is_none(), range.contains(&at));
            if let Some(part) = part {
                prop_assert_eq!(byte_at(part, at), byte_at(&row, at));
            }
        }
        // What was referred to is either still referred to, surely garbage, or in doubt: nothing twice, nothing lost.
        let all = |row: &Placed| -> BTreeSet<u32> {
            (row.offset..row.end()).map(|at| byte_at(row, at).0).collect()
        };
        let (sure, doubtful) = dropped(&row, &kept);
        let sure = ids(&sure);
        let in_doubt: Vec<u32> = doubtful.iter().map(|doubtful| doubtful.block.seq).collect();
        let kept_ids: BTreeSet<u32> = [&kept.left, &kept.right].into_iter().flatten().flat_map(all).collect();
        let mut seen: Vec<u32> = sure.iter().chain(&in_doubt).copied().chain(kept_ids.iter().copied()).collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, all(&row).into_iter().collect::<Vec<_>>());
        for block in &sure {
            // Surely garbage: the row covered its whole window.
            let base = row.offset - u64::from(skip) + u64::from(block - 5) * u64::from(LEN);
            prop_assert!(base >= row.offset && base + u64::from(LEN) <= row.end());
        }
    }
}
