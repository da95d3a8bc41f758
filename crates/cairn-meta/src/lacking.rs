//! Blocks that a member was found to lack: written down as degraded rows, so that catch-up copies them and everybody
//! knows not to look for them there.

use crate::error::Op;
use crate::judge::{Asked, asked, judge};
use crate::keys::{self, Key};
use crate::kv::{Durability, KeyRange, Order};
use crate::meta::{Meta, transact};
use crate::rows;
use crate::tx::Tx;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::pb::{self, Verdict};
use cairn_proto::placement::{MemberState, counts_for_commit};
use cairn_proto::status::{Code, Status};
use std::ops::Range;

/// The parts of `wanted` that no row of `rows` (beginning and count, ascending) covers.
fn uncovered(wanted: Range<u32>, rows: &[(u32, u32)]) -> Vec<Range<u32>> {
    let mut parts = Vec::new();
    let mut from = wanted.start;
    for (seq, count) in rows {
        let end = seq.saturating_add(*count);
        if end <= from {
            continue;
        }
        if *seq >= wanted.end {
            break;
        }
        if *seq > from {
            parts.push(from..*seq);
        }
        from = end;
    }
    if from < wanted.end {
        parts.push(from..wanted.end);
    }
    parts
}

/// Adds rows for those of a run's blocks that are `live`, given as block numbers, and have none.
async fn add_rows(tx: &mut Tx, store: u32, run: &Asked, live: Range<u32>) -> Op<()> {
    let at = |seq| keys::Degraded { store, pg: run.pg, inode: run.inode, writer: run.writer, seq };
    let before = KeyRange { start: at(0).encode(), end: at(live.start).encode() };
    let mut known = tx.scan::<keys::Degraded>(&before, 1, Order::Reverse).await?;
    let inside = KeyRange { start: at(live.start).encode(), end: at(live.end).encode() };
    // No two rows name one block, so there are no more of them than blocks.
    known.extend(tx.scan::<keys::Degraded>(&inside, live.len(), Order::Forward).await?);
    let known: Vec<(u32, u32)> = known.iter().map(|(key, row)| (key.seq, row.count)).collect();
    for part in uncovered(live, &known) {
        tx.put(&at(part.start), &rows::RunLen { count: part.end - part.start });
    }
    Ok(())
}

/// The members that get rows when `store` is found to lack something: itself, if it counts, and everybody who joins at
/// that moment. A joining member copies from the very store that lacks it, and would be complete without it.
fn told_of(group: &rows::Pg, store: u32) -> Vec<u32> {
    let counts = |member: &&rows::Member| member.store == store && counts_for_commit(member.state);
    if !group.members.iter().any(|member| counts(&member)) {
        return Vec::new();
    }
    let told = |member: &&rows::Member| member.store == store || member.state == MemberState::Joining;
    group.members.iter().filter(told).map(|member| member.store).collect()
}

impl Meta {
    pub(crate) async fn report_lacking(&self, ask: &pb::ReportLacking) -> Result<Reply, Status> {
        let (asked, blocks) = asked(&ask.runs).map_err(|why| Status::new(Code::Invalid, why))?;
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let verdicts = judge(tx, &asked, blocks).await?;
            for run in &asked {
                let Some(group) = tx.get(&keys::Pg { pg: run.pg }).await? else { continue };
                let lacking = told_of(&group, ask.store);
                let mut seq = run.seq;
                for of_one_kind in verdicts[run.blocks()].chunk_by(|a, b| a == b) {
                    let next = seq + of_one_kind.len() as u32;
                    if of_one_kind[0] == Verdict::Live {
                        for store in &lacking {
                            add_rows(tx, *store, run, seq..next).await?;
                        }
                    }
                    seq = next;
                }
            }
            Ok(())
        })?;
        Ok(Reply::Empty(pb::Empty::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]
    fn only_what_no_row_names_is_added() {
        assert_eq!(uncovered(5..10, &[]), [5..10]);
        assert_eq!(uncovered(5..10, &[(0, 6), (8, 1)]), [6..8, 9..10]);
        assert_eq!(uncovered(5..10, &[(0, 3), (12, 4)]), [5..10]);
        assert_eq!(uncovered(5..10, &[(4, 100)]), []);
    }

    proptest! {
        #[test]
        fn parts_and_rows_cover_exactly_what_was_wanted(
            wanted in (0u32..40, 1u32..40), lens in prop::collection::vec((1u32..6, 1u32..6), 0..8)
        ) {
            let mut at = 0;
            let rows: Vec<(u32, u32)> = lens.iter().map(|(gap, count)| {
                let seq = at + gap;
                at = seq + count;
                (seq, *count)
            }).collect();
            let wanted = wanted.0..wanted.0 + wanted.1;
            let parts = uncovered(wanted.clone(), &rows);
            for seq in 0..100 {
                let named = rows.iter().any(|(from, count)| (*from..from + count).contains(&seq));
                let added = parts.iter().filter(|part| part.contains(&seq)).count();
                prop_assert_eq!(added, usize::from(wanted.contains(&seq) && !named), "block {}", seq);
            }
        }
    }
}
