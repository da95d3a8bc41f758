//! Counts of blocks that clones share: as many maps place each block as its row says.
//!
//! A block may be placed by any map, so all maps have to be seen. As for names, a page takes one part of all inodes that
//! blocks were written for, and walks all extents for it, in one snapshot; parts are of bounded size. Where there are no
//! counts at all there is nothing to walk: that a clone's blocks have one is looked at with its extents (maps.rs).

use super::Page;
use super::names::{Part, walk};
use crate::error::{Op, fail};
use crate::keys;
use crate::map::block_count;
use crate::rows::{self, Content};
use crate::tx::Tx;
use bytes::Bytes;
use cairn_proto::status::Code;
use std::collections::{BTreeMap, HashMap};

/// Inode and writer.
type Owner = (u64, u64);

/// How often blocks are placed, as changes of the number at each block where it changes.
#[derive(Default)]
struct Counted(HashMap<Owner, BTreeMap<u32, i64>>);

impl Counted {
    fn add(&mut self, owner: Owner, from: u32, to: u32) {
        let changes = self.0.entry(owner).or_default();
        *changes.entry(from).or_default() += 1;
        *changes.entry(to).or_default() -= 1;
    }
}

/// The pieces of one map that were seen: a block that several of them refer to is placed once.
#[derive(Default)]
struct Seen {
    map: (u64, u32),
    /// By owner and by where block 0 of it would lie: the first block behind the last piece.
    ends: HashMap<(Owner, i128), u32>,
}

impl Seen {
    /// The blocks of a piece that no piece before it has placed.
    fn fresh(&mut self, key: &keys::Extent, run: &rows::Run, len: u64) -> (u32, u32) {
        if self.map != (key.inode, key.generation) {
            self.map = (key.inode, key.generation);
            self.ends.clear();
        }
        let end = run.seq.saturating_add(block_count(run, len));
        let base = i128::from(key.offset) - i128::from(run.skip) - i128::from(run.seq) * i128::from(run.block_len);
        let before = self.ends.insert(((run.inode, run.writer), base), end).unwrap_or(0);
        (run.seq.max(before), end)
    }
}

/// What a row says, and what was counted, of consecutive blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    from: u32,
    to: u32,
    said: u32,
    counted: u32,
}

/// Holds rows against counts: all blocks that either of them names, in ascending order.
fn spans(rows: &[(u32, u32, u32)], changes: &BTreeMap<u32, i64>) -> Vec<Span> {
    let mut edges: BTreeMap<u32, (i64, i64)> = BTreeMap::new();
    for (at, change) in changes {
        edges.entry(*at).or_default().0 += change;
    }
    for (seq, count, placements) in rows {
        edges.entry(*seq).or_default().1 += i64::from(*placements);
        edges.entry(seq.saturating_add(*count)).or_default().1 -= i64::from(*placements);
    }
    let (mut counted, mut said) = (0i64, 0i64);
    let mut spans: Vec<Span> = Vec::new();
    let mut last: Option<u32> = None;
    for (at, (more_counted, more_said)) in edges {
        if let Some(from) = last
            && (counted, said) != (0, 0)
        {
            let number = |number: i64| u32::try_from(number).unwrap_or(0);
            spans.push(Span { from, to: at, said: number(said), counted: number(counted) });
        }
        counted += more_counted;
        said += more_said;
        last = Some(at);
    }
    spans
}

impl Span {
    fn is_wrong(&self) -> bool {
        match self.said {
            0 => self.counted > 1,
            said => said != self.counted,
        }
    }
}

/// Looks at one part; the position of the next, if there is one.
pub(super) async fn check(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let mut total = 0;
    walk::<keys::SharedRange>(tx, |_, _| total += 1).await?;
    if total == 0 {
        return Ok(None);
    }
    let Some(part) = Part::decode(at, total) else {
        return fail(Code::Invalid, "the cursor is not one of this list");
    };
    let mut rows: BTreeMap<Owner, Vec<(u32, u32, u32)>> = BTreeMap::new();
    page.rows += walk::<keys::SharedRange>(tx, |key, row| {
        if part.has(key.inode) {
            rows.entry((key.inode, key.writer)).or_default().push((key.seq, row.count, row.placements));
        }
    })
    .await?;
    let (mut counted, mut seen) = (Counted::default(), Seen::default());
    walk::<keys::Extent>(tx, |key, row| {
        let Content::Blocks(run) = &row.content else { return };
        let owner = (run.inode, run.writer);
        if rows.contains_key(&owner) {
            let (from, to) = seen.fresh(&key, run, row.len);
            if from < to {
                counted.add(owner, from, to);
            }
        }
    })
    .await?;
    for (owner, rows) in rows {
        let changes = counted.0.remove(&owner).unwrap_or_default();
        let wrong: Vec<Span> = spans(&rows, &changes).into_iter().filter(Span::is_wrong).collect();
        for span in &wrong {
            if page.is_full() {
                return Ok(part.next());
            }
            if repair {
                mend(tx, owner, &rows, span);
            }
            let what = format!(
                "{} maps place blocks {} to {} of inode {}, writer {}, and {} are counted",
                span.counted,
                span.from,
                span.to - 1,
                owner.0,
                owner.1,
                span.said
            );
            page.find("shared blocks", what, "the count is set to what there is", repair);
        }
    }
    Ok(part.next())
}

/// Sets the count of the blocks of `span`, which no row or exactly one row names.
fn mend(tx: &mut Tx, (inode, writer): Owner, rows: &[(u32, u32, u32)], span: &Span) {
    let at = |seq| keys::SharedRange { inode, writer, seq };
    let of = |from: u32, to: u32, placements| rows::SharedRange { count: to - from, placements };
    let covering = rows.iter().find(|(seq, count, _)| *seq <= span.from && span.from < seq.saturating_add(*count));
    if let Some((seq, count, placements)) = covering {
        let end = seq.saturating_add(*count);
        // What an earlier span of the same row has set stands in front of this one and stays.
        if *seq == span.from {
            tx.delete(&at(*seq));
        } else {
            tx.put(&at(*seq), &of(*seq, span.from, *placements));
        }
        if end > span.to {
            tx.put(&at(span.to), &of(span.to, end, *placements));
        }
    }
    if span.counted > 0 {
        tx.put(&at(span.from), &of(span.from, span.to, span.counted));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(runs: &[(u32, u32)]) -> BTreeMap<u32, i64> {
        let mut counted = Counted::default();
        runs.iter().for_each(|(from, to)| counted.add((1, 1), *from, *to));
        counted.0.remove(&(1, 1)).unwrap_or_default()
    }

    #[test]
    fn rows_are_held_against_what_was_counted() {
        let wrong = |rows: &[(u32, u32, u32)], runs: &[(u32, u32)]| {
            let all = spans(rows, &changes(runs)).into_iter().filter(Span::is_wrong);
            all.map(|span| (span.from, span.to, span.said, span.counted)).collect::<Vec<_>>()
        };
        assert_eq!(wrong(&[(2, 4, 2)], &[(0, 10), (2, 6)]), []);
        assert_eq!(wrong(&[(2, 4, 1)], &[(2, 6)]), [], "one is left of what was shared");
        assert_eq!(wrong(&[], &[(0, 10)]), [], "one map needs no row");
        assert_eq!(wrong(&[], &[(0, 10), (3, 4)]), [(3, 4, 0, 2)]);
        assert_eq!(wrong(&[(2, 4, 2)], &[(0, 10), (2, 5)]), [(5, 6, 2, 1)]);
        assert_eq!(wrong(&[(2, 4, 3)], &[(0, 10), (2, 6)]), [(2, 6, 3, 2)]);
        assert_eq!(wrong(&[(2, 4, 2)], &[]), [(2, 6, 2, 0)]);
    }

    #[test]
    fn a_block_in_two_pieces_of_a_map_is_placed_once() {
        let run =
            |seq, skip| rows::Run { inode: 1, writer: 1, seq, skip, block_len: 100, pgs: vec![1], codec: 0, flags: 0 };
        let at = |inode, offset| keys::Extent { inode, generation: 1, offset };
        let mut seen = Seen::default();
        assert_eq!(seen.fresh(&at(5, 0), &run(3, 0), 150), (3, 5));
        assert_eq!(seen.fresh(&at(5, 170), &run(4, 70), 130), (5, 6), "a hole was cut into the second");
        assert_eq!(seen.fresh(&at(6, 170), &run(4, 70), 130), (4, 6), "another map");
    }
}
