use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn run(pg: u32, id: (u64, u64, u32), count: u32) -> pb::GroupRun {
    let first = pb::BlockId { inode: id.0, writer: id.1, seq: id.2 };
    pb::GroupRun { pg, run: Some(pb::Run { first: Some(first), count }) }
}

#[test]
fn every_pair_of_findings_has_its_verdict() {
    use Verdict::{Dead, Future, Live, Undecided};
    use WriterState::{Closed, Open, Unknown};
    for (found, expected) in [
        (Found::Extent, [Live, Live, Live]),
        (Found::Leaving, [Undecided, Undecided, Undecided]),
        (Found::Nothing, [Undecided, Dead, Future]),
    ] {
        assert_eq!([Open, Closed, Unknown].map(|writer| verdict(found, writer)), expected, "{found:?}");
    }
}

#[test]
fn runs_are_in_order_and_bounded() {
    let most = BLOCKS_JUDGED_MAX as u32;
    let (all, blocks) = asked(&[run(1, (1, 1, 0), 3), run(2, (1, 1, 3), 2), run(1, (1, 2, 0), 1)]).expect("in order");
    assert_eq!((all.iter().map(|run| run.at).collect::<Vec<_>>(), blocks), (vec![0, 3, 5], 6));
    assert!(asked(&[run(1, (1, 1, 0), most)]).is_ok());
    for wrong in [
        vec![run(1, (1, 1, 0), most + 1)],
        vec![run(1, (1, 1, 0), most), run(1, (1, 2, 0), 1)],
        vec![run(1, (1, 1, 0), 0)],
        vec![pb::GroupRun::default()],
        vec![run(1, (1, 1, u32::MAX), 2)],
        vec![run(1, (1, 1, 0), 3), run(2, (1, 1, 2), 1)],
        vec![run(1, (1, 2, 0), 1), run(1, (1, 1, 0), 1)],
        vec![run(1, (2, 1, 0), 1), run(1, (1, 1, 0), 1)],
        (0..=BLOCKS_PER_REQUEST_MAX as u64).map(|inode| run(1, (inode, 1, 0), 1)).collect(),
    ] {
        assert!(asked(&wrong).is_err(), "{:?}", wrong.first());
    }
}

proptest! {
    #[test]
    fn what_a_row_refers_to_is_the_intersection(
        gaps in prop::collection::vec((1u64..3, 0u32..4, 1u32..5), 0..8),
        writer in 1u64..3, seq in 0u32..30, skip in 0u32..65536, len in 1u64..600_000,
    ) {
        let mut ends = [0u32; 3];
        let mut runs: Vec<(u64, u32, u32)> = gaps.iter().map(|(writer, gap, count)| {
            let seq = ends[*writer as usize] + gap;
            ends[*writer as usize] = seq + count;
            (*writer, seq, *count)
        }).collect();
        runs.sort_unstable();
        let runs: Vec<_> = runs.iter().map(|(writer, seq, count)| run(1, (5, *writer, *seq), *count)).collect();
        let (all, _) = asked(&runs).expect("in order");
        let row = Run { inode: 5, writer, seq, skip, block_len: 65536, pgs: vec![1], codec: 0, flags: 0 };
        let in_row = seq..seq + block_count(&row, len);
        let expected: BTreeSet<usize> = all.iter().filter(|run| run.writer == writer)
            .flat_map(|run| (run.seq..run.end).map(|seq| (seq, run.at + (seq - run.seq) as usize)))
            .filter(|(seq, _)| in_row.contains(seq)).map(|(_, at)| at).collect();
        let found: Vec<usize> = referred(&all, &row, len).flatten().collect();
        prop_assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), expected);
        let other = Run { inode: 6, ..row };
        prop_assert_eq!(referred(&all, &other, len).flatten().count(), 0);
    }

    #[test]
    fn spans_say_every_verdict(verdicts in prop::collection::vec(0i32..4, 0..50)) {
        let verdicts: Vec<Verdict> = verdicts.iter().filter_map(|value| Verdict::try_from(*value).ok()).collect();
        let spans = spans(verdicts.iter().copied());
        let said: Vec<Verdict> =
            spans.iter().flat_map(|span| vec![span.verdict(); span.count as usize]).collect();
        prop_assert_eq!(said, verdicts);
        prop_assert!(spans.windows(2).all(|pair| pair[0].verdict != pair[1].verdict));
    }
}
