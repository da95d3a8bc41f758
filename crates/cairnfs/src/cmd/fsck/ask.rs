//! Questions to the cluster whose answers come in pages or parts.

use std::collections::BTreeMap;

use cairn_client::{Admin, BlockId, BlockRun, Cursor, Error, MapGroup, Verdict};
use tokio::task::JoinSet;

use super::{
    compare::Holding,
    spans::{Span, Spans},
};

/// Groups whose inventories are read at once, each from all its members.
const GROUPS_AT_ONCE: usize = 4;

/// Files by number, first and last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inodes {
    pub low: u64,
    pub high: u64,
}

/// What a store holds of a group for these files.
pub async fn inventory(admin: &Admin, store: u32, pg: u32, inodes: Inodes) -> Result<Spans, Error> {
    let mut spans: Vec<Span> = Vec::new();
    let mut after = inodes.low.checked_sub(1).map(|before| BlockId::new(before, u64::MAX, u32::MAX));
    loop {
        let page = admin.list_blocks(store, pg, after).await?;
        let inside = page.runs.into_iter().map(Span::from).filter(|span| span.inode <= inodes.high);
        spans.extend(inside);
        match page.next_after {
            Some(next) if next.inode.0 <= inodes.high => after = Some(next),
            _ => return Ok(spans.into_iter().collect()),
        }
    }
}

/// A store did not tell what it holds.
pub struct NoAnswer {
    pub store: u32,
    pub error: Error,
}

/// What the members of groups hold for these files, group by group as it comes; members in `away` are not asked.
/// `each` hears of every group.
pub async fn inventories(
    admin: &Admin,
    groups: impl Iterator<Item = MapGroup>,
    inodes: Inodes,
    away: &BTreeMap<u32, String>,
    mut each: impl FnMut(MapGroup, Vec<Holding>, Vec<NoAnswer>),
) {
    let mut groups = groups;
    let mut reading = JoinSet::new();
    loop {
        while reading.len() < GROUPS_AT_ONCE
            && let Some(group) = groups.next()
        {
            let asked: Vec<u32> =
                group.members.iter().map(|(store, _)| *store).filter(|store| !away.contains_key(store)).collect();
            reading.spawn(holdings(admin.clone(), group, asked, inodes));
        }
        match reading.join_next().await {
            Some(Ok((group, holdings, silent))) => each(group, holdings, silent),
            // Nothing is cancelled, and a panic of ours shall be seen.
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => return,
        }
    }
}

async fn holdings(
    admin: Admin,
    group: MapGroup,
    asked: Vec<u32>,
    inodes: Inodes,
) -> (MapGroup, Vec<Holding>, Vec<NoAnswer>) {
    let mut answers = JoinSet::new();
    for store in asked {
        let (admin, pg) = (admin.clone(), group.id);
        answers.spawn(async move { (store, inventory(&admin, store, pg, inodes).await) });
    }
    let mut held = BTreeMap::new();
    let mut silent = Vec::new();
    while let Some(answer) = answers.join_next().await {
        match answer {
            Ok((store, Ok(spans))) => _ = held.insert(store, spans),
            Ok((store, Err(error))) => silent.push(NoAnswer { store, error }),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    let members = group.members.iter();
    let holdings = members.map(|(store, state)| Holding { store: *store, state: *state, held: held.remove(store) });
    let holdings = holdings.collect();
    (group, holdings, silent)
}

/// What metadata knows a store to lack, by group, of these files.
pub async fn degraded(admin: &Admin, store: u32, inodes: Inodes) -> Result<BTreeMap<u32, Spans>, Error> {
    let mut by_group: BTreeMap<u32, Vec<Span>> = BTreeMap::new();
    let mut cursor = Cursor::default();
    loop {
        let page = admin.list_degraded(Some(store), &cursor).await?;
        for row in page.rows {
            let span = Span::from(row.run);
            if (inodes.low..=inodes.high).contains(&span.inode) {
                by_group.entry(row.pg).or_default().push(span);
            }
        }
        match page.next {
            Some(next) => cursor = next,
            None => return Ok(by_group.into_iter().map(|(pg, spans)| (pg, spans.into_iter().collect())).collect()),
        }
    }
}

/// Cuts blocks into requests of so many runs and blocks at most.
pub fn batches(pg: u32, blocks: &Spans) -> Vec<Vec<(u32, BlockRun)>> {
    let mut batches: Vec<Vec<(u32, BlockRun)>> = vec![Vec::new()];
    let mut room = Admin::JUDGED_BLOCKS_MAX as u64;
    for span in blocks.iter() {
        let mut rest = *span;
        while rest.count > 0 {
            let full = batches.last().is_none_or(|batch| batch.len() == Admin::JUDGED_RUNS_MAX) || room == 0;
            if full {
                batches.push(Vec::new());
                room = Admin::JUDGED_BLOCKS_MAX as u64;
            }
            let count = rest.count.min(u32::try_from(room).unwrap_or(u32::MAX));
            batches.last_mut().expect("there is one").push((pg, Span { count, ..rest }.into()));
            room -= u64::from(count);
            rest = Span { seq: rest.seq.wrapping_add(count), count: rest.count - count, ..rest };
        }
    }
    batches.retain(|batch| !batch.is_empty());
    batches
}

/// Those of the blocks that files refer to at this moment, and how many of the others metadata could not decide about.
pub async fn live(admin: &Admin, store: u32, pg: u32, blocks: &Spans) -> Result<(Spans, u64), Error> {
    let mut live = Vec::new();
    let mut undecided = 0;
    for batch in batches(pg, blocks) {
        let verdicts = admin.judge_blocks(store, &batch).await?;
        live.extend(pick_live(&batch, &verdicts));
        let open = verdicts.iter().filter(|(verdict, _)| *verdict == Verdict::Undecided);
        undecided += open.map(|(_, count)| u64::from(*count)).sum::<u64>();
    }
    Ok((live.into_iter().collect(), undecided))
}

/// The blocks of a request that were found to be live.
fn pick_live(batch: &[(u32, BlockRun)], verdicts: &[(Verdict, u32)]) -> Vec<Span> {
    let mut live = Vec::new();
    let mut spans = verdicts.iter().copied();
    let mut verdict = None;
    for (_, run) in batch {
        let mut rest = Span::from(*run);
        while rest.count > 0 {
            let (what, left) = match verdict.take().or_else(|| spans.next()) {
                Some((_, 0)) => continue,
                Some(some) => some,
                None => return live,
            };
            let count = rest.count.min(left);
            if what == Verdict::Live {
                live.push(Span { count, ..rest });
            }
            verdict = Some((what, left - count));
            rest = Span { seq: rest.seq.wrapping_add(count), count: rest.count - count, ..rest };
        }
    }
    live
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(spans: &[(u64, u32, u32)]) -> Spans {
        spans.iter().map(|(inode, seq, count)| Span { inode: *inode, writer: 1, seq: *seq, count: *count }).collect()
    }

    #[test]
    fn requests_stay_within_their_bounds() {
        let many: Vec<(u64, u32, u32)> = (1..3000).map(|inode| (inode, 0, 1)).collect();
        for blocks in [set(&[]), set(&[(1, 0, 20_000)]), set(&many), set(&[(1, 7, 8192), (2, 0, 1)])] {
            let batches = batches(3, &blocks);
            for batch in &batches {
                let count: u64 = batch.iter().map(|(_, run)| u64::from(run.count)).sum();
                assert!(batch.len() <= Admin::JUDGED_RUNS_MAX && count <= Admin::JUDGED_BLOCKS_MAX as u64);
                assert!(!batch.is_empty() && batch.iter().all(|(pg, run)| *pg == 3 && run.count > 0));
            }
            let again: Spans = batches.iter().flatten().map(|(_, run)| Span::from(*run)).collect();
            assert_eq!(again, blocks);
        }
    }

    proptest! {
        #[test]
        fn verdicts_fall_on_the_blocks_in_order(
            runs in prop::collection::vec(1_u32..5, 1..6),
            verdicts in prop::collection::vec(any::<bool>(), 30),
        ) {
            let batch: Vec<(u32, BlockRun)> = runs.iter().enumerate().map(|(inode, count)| {
                (1, BlockRun { first: BlockId::new(inode as u64, 1, 10), count: *count })
            }).collect();
            let blocks: Vec<(u64, u32)> = batch.iter().flat_map(|(_, run)| {
                (0..run.count).map(|i| (run.first.inode.0, run.first.seq.0 + i))
            }).collect();
            let spans: Vec<(Verdict, u32)> = verdicts.iter().take(blocks.len())
                .map(|live| (if *live { Verdict::Live } else { Verdict::Undecided }, 1)).collect();
            let expected: Vec<(u64, u32)> =
                blocks.iter().zip(&verdicts).filter(|(_, live)| **live).map(|(block, _)| *block).collect();
            let found: Vec<(u64, u32)> = pick_live(&batch, &spans).iter()
                .flat_map(|span| (span.seq..span.seq + span.count).map(|seq| (span.inode, seq))).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
