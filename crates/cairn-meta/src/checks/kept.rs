//! Snapshots and what they keep: each is of a directory that is there, names and numbers agree, history and held garbage
//! are there for one that exists, and garbage is what no snapshot shows and no file refers to.

use super::{Page, table_page};
use crate::error::Op;
use crate::history::Head;
use crate::judge;
use crate::kept::{self, Live};
use crate::keys::{self, Key};
use crate::kv::{KeyRange, Order};
use crate::map::Blocks;
use crate::rows::{self, Kind};
use crate::snapshots;
use crate::tx::Tx;
use bytes::Bytes;
use cairn_proto::limits::PAGE_ROWS_MAX;
use std::ops::Range;

/// Looks at a page of snapshots; the position of the next, if there is one.
pub(super) async fn snapshots(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::Snapshot>(tx, at).await?;
    page.rows += found.len() as u64;
    let head = Head::load(tx).await?;
    let newest = found.last().map_or(0, |(key, _)| key.number).max(head.newest);
    let expected = Live::load(tx).await?.head(newest);
    if head != expected {
        if repair {
            expected.store(tx);
        }
        let what = format!("the newest snapshots are {expected:?}, and metadata says {head:?}");
        page.find("newest snapshot", what, "it is set to what there is; start the servers again afterwards", repair);
    }
    for (key, row) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let number = key.number;
        let root = tx.get(&keys::Inode { inode: row.root }).await?;
        if root.is_none_or(|root| root.kind != Kind::Directory) {
            if repair {
                snapshots::remove(tx, number).await?;
            }
            let what = format!("snapshot {number} shows inode {}, which is no directory", row.root);
            page.find("snapshot of nothing", what, "it is deleted", repair);
            continue;
        }
        if row.name.is_empty() {
            continue;
        }
        let name = keys::SnapshotName { root: row.root, name: row.name.clone() };
        let shown = row.name.escape_ascii();
        match tx.get(&name).await? {
            Some(said) if said.number == number => {}
            Some(said) => {
                if repair {
                    // Nobody can look into it; it goes on as a hold, until an operator deletes it by its number.
                    tx.put(&key, &rows::Snapshot { name: Bytes::new(), ..row });
                }
                let what = format!("snapshots {number} and {} are both called \"{shown}\"", said.number);
                page.find(
                    "two snapshots of one name",
                    what,
                    "the one that the name does not lead to is a hold",
                    repair,
                );
            }
            None => {
                if repair {
                    tx.put(&name, &rows::SnapshotName { number });
                }
                let what = format!("nothing leads to snapshot {number}, called \"{shown}\"");
                page.find("snapshot without name", what, "its name is written again", repair);
            }
        }
    }
    Ok(next)
}

/// Looks at a page of names of snapshots; the position of the next, if there is one.
pub(super) async fn names(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::SnapshotName>(tx, at).await?;
    page.rows += found.len() as u64;
    for (key, row) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let named = tx.get(&keys::Snapshot { number: row.number }).await?;
        if named.is_some_and(|named| (named.root, &named.name) == (key.root, &key.name)) {
            continue;
        }
        if repair {
            tx.delete(&key);
        }
        let what =
            format!("\"{}\" in directory {} leads to snapshot {}", key.name.escape_ascii(), key.root, row.number);
        page.find("name of no snapshot", what, "the name is removed", repair);
    }
    Ok(next)
}

/// Looks at a page of history; the position of the next, if there is one.
pub(super) async fn history(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::History>(tx, at).await?;
    page.rows += found.len() as u64;
    if found.is_empty() || kept::is_looking(tx).await? {
        // A snapshot was deleted, and what it alone saw is still being removed.
        return Ok(next);
    }
    let live = Live::load(tx).await?;
    for (key, row) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        if live.see(row.birth, key.snapshot) {
            continue;
        }
        if repair {
            tx.delete(&key);
        }
        let what = format!("a row from snapshot {} to {} at {}", row.birth, key.snapshot, key.key.0.escape_ascii());
        page.find("history that nothing sees", what, "it is removed", repair);
    }
    Ok(next)
}

/// Blocks of a row of one of the two garbage tables.
fn blocks_of((pg, inode, writer, seq): (u32, u64, u64, u32), row: &rows::Garbage) -> Blocks {
    Blocks { pg, inode, writer, seq, end: seq.saturating_add(row.count), born: row.born }
}

fn shown(blocks: &Blocks) -> String {
    let Blocks { pg, inode, writer, seq, end, .. } = blocks;
    format!("{inode}/{writer}/{seq} and {} more of group {pg}", end.saturating_sub(seq + 1))
}

/// What of `range` is left without `taken`, which is in ascending order and lies within.
fn without(range: Range<u32>, taken: &[Range<u32>]) -> Vec<Range<u32>> {
    let mut left = Vec::new();
    let mut at = range.start;
    for taken in taken {
        left.push(at..taken.start);
        at = taken.end;
    }
    left.push(at..range.end);
    left.retain(|range| !range.is_empty());
    left
}

/// Looks whether files refer to the blocks of garbage rows; `rewrite` writes the rows that are left in place of one.
async fn in_use(
    tx: &mut Tx,
    all: &[(Blocks, rows::Garbage)],
    rewrite: impl Fn(&mut Tx, &Blocks, &rows::Garbage, &[Range<u32>]),
    repair: bool,
    page: &mut Page,
) -> Op<()> {
    let blocks: Vec<Blocks> = all.iter().map(|(blocks, _)| *blocks).collect();
    for (index, used) in judge::used(tx, &blocks).await? {
        if page.is_full() {
            return Ok(());
        }
        let (blocks, row) = &all[index];
        if repair {
            rewrite(tx, blocks, row, &without(blocks.seq..blocks.end, &used));
        }
        let what = format!("{}: a file refers to some of them", shown(blocks));
        page.find("garbage in use", what, "they are not collected", repair);
    }
    Ok(())
}

/// Looks at a page of garbage, whose groups were looked at before: whether it may be collected. The position of the next
/// page, if there is one.
pub(super) async fn garbage(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::Garbage>(tx, at).await?;
    let live = Live::load(tx).await?;
    let mut rest = Vec::with_capacity(found.len());
    for (key, row) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let keys::Garbage { pg, inode, writer, seq } = key;
        let blocks = blocks_of((pg, inode, writer, seq), &row);
        if !live.hold(row.born, row.dropped) {
            rest.push((blocks, row));
            continue;
        }
        if repair {
            tx.delete(&key);
            tx.put(&keys::HeldGarbage { pg, inode, writer, seq }, &row);
        }
        page.find("garbage that a snapshot shows", shown(&blocks), "it is held until that snapshot is deleted", repair);
    }
    let rewrite = |tx: &mut Tx, blocks: &Blocks, row: &rows::Garbage, left: &[Range<u32>]| {
        let at = |seq| keys::Garbage { pg: blocks.pg, inode: blocks.inode, writer: blocks.writer, seq };
        tx.delete(&at(blocks.seq));
        left.iter()
            .for_each(|part| tx.put(&at(part.start), &rows::Garbage { count: part.end - part.start, ..row.clone() }));
    };
    in_use(tx, &rest, rewrite, repair, page).await?;
    Ok(next)
}

/// Looks at a page of held garbage; the position of the next, if there is one.
pub(super) async fn held(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::HeldGarbage>(tx, at).await?;
    page.rows += found.len() as u64;
    let (live, looking) = (Live::load(tx).await?, kept::is_looking(tx).await?);
    let mut rest = Vec::with_capacity(found.len());
    for (key, row) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let keys::HeldGarbage { pg, inode, writer, seq } = key;
        let blocks = blocks_of((pg, inode, writer, seq), &row);
        if tx.get(&keys::Pg { pg }).await?.is_none() {
            page.find(
                "garbage of an unknown group",
                shown(&blocks),
                "it is never collected; report this as a defect",
                false,
            );
        } else if row.count == 0 || seq.checked_add(row.count).is_none() {
            page.find("garbage without blocks", shown(&blocks), "report this as a defect", false);
        } else if !looking && !live.hold(row.born, row.dropped) {
            if repair {
                tx.delete(&key);
                tx.put(&keys::Garbage { pg, inode, writer, seq }, &row);
            }
            page.find("garbage held for nothing", shown(&blocks), "the collector has it from now on", repair);
        } else if let Some(twice) = garbage_too(tx, &blocks).await? {
            if repair {
                tx.delete(&twice);
            }
            page.find("garbage twice", shown(&blocks), "what is held is not collected", repair);
        } else {
            rest.push((blocks, row));
        }
    }
    let rewrite = |tx: &mut Tx, blocks: &Blocks, row: &rows::Garbage, left: &[Range<u32>]| {
        let at = |seq| keys::HeldGarbage { pg: blocks.pg, inode: blocks.inode, writer: blocks.writer, seq };
        tx.delete(&at(blocks.seq));
        left.iter()
            .for_each(|part| tx.put(&at(part.start), &rows::Garbage { count: part.end - part.start, ..row.clone() }));
    };
    in_use(tx, &rest, rewrite, repair, page).await?;
    Ok(next)
}

/// A row of the collector's table that names one of the blocks.
async fn garbage_too(tx: &mut Tx, blocks: &Blocks) -> Op<Option<keys::Garbage>> {
    let Blocks { pg, inode, writer, seq, end, .. } = *blocks;
    let at = |seq| keys::Garbage { pg, inode, writer, seq }.encode();
    let range = KeyRange { start: at(0), end: at(end) };
    let last = tx.scan::<keys::Garbage>(&range, 1, Order::Reverse).await?.pop();
    Ok(last.filter(|(key, row)| key.seq.saturating_add(row.count) > seq).map(|(key, _)| key))
}

const _: () = assert!(PAGE_ROWS_MAX <= judge::USED_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]
    fn what_is_left_of_a_range() {
        assert_eq!(without(3..9, &[]), [3..9]);
        assert_eq!(without(3..9, &[3..4, 6..7]), [4..6, 7..9]);
        assert_eq!(without(3..9, &[3..9]), []);
    }
}
