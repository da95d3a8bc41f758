//! Maps of files: extents of one map do not overlap and lie within their file, what they name exists, and a map that is
//! no file's is on the list of those to be dropped.

use super::rows::above;
use super::{Page, table_page};
use crate::error::Op;
use crate::keys::{self, Key, counter};
use crate::kv::{KeyRange, Order};
use crate::map::{Blocks, block_count};
use crate::rows::{self, Content, Kind};
use crate::shares;
use crate::tx::Tx;
use bytes::Bytes;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// What is wrong with an extent, by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// It covers nothing, or more than there can be.
    Len,
    /// Its run cannot be: blocks of no length, or an offset behind the first block.
    Run,
    /// Its run names no group.
    NoGroup,
    /// It begins before the one in front of it ends.
    Overlap,
    /// It ends behind the end of its file.
    BehindEnd,
}

impl Fault {
    fn words(self) -> (&'static str, &'static str) {
        const BY_HAND: &str = "copy what can be read of the file, then remove it";
        match self {
            Self::Len => ("extent length", BY_HAND),
            Self::Run => ("extent run", BY_HAND),
            Self::NoGroup => ("extent without group", BY_HAND),
            Self::Overlap => ("overlapping extents", BY_HAND),
            Self::BehindEnd => {
                ("extent behind the end", "the file grows to hold it: truncate it if that is not wanted")
            }
        }
    }
}

/// Where an extent of a map stands.
type Place = (u64, u32, u64);

/// Looks at an extent; `end_before` is where the one in front of it in the same map ends, `size` that of the file if this
/// is its current map.
fn judge(offset: u64, row: &rows::Extent, end_before: u64, size: Option<u64>) -> Option<Fault> {
    let Some(end) = offset.checked_add(row.len).filter(|end| *end > offset) else { return Some(Fault::Len) };
    match &row.content {
        Content::Blocks(run) if run.block_len == 0 || run.skip >= run.block_len => return Some(Fault::Run),
        Content::Blocks(run) if run.pgs.is_empty() => return Some(Fault::NoGroup),
        Content::Inline(bytes) if bytes.len() as u64 != row.len => return Some(Fault::Len),
        Content::Blocks(_) | Content::Inline(_) => {}
    }
    if offset < end_before {
        return Some(Fault::Overlap);
    }
    size.is_some_and(|size| end > size).then_some(Fault::BehindEnd)
}

/// The extent in front of a page.
async fn before(tx: &mut Tx, at: &Bytes) -> Op<Option<(keys::Extent, rows::Extent)>> {
    if at.is_empty() {
        return Ok(None);
    }
    let range = KeyRange { start: keys::Extent::all().start, end: at.to_vec() };
    Ok(tx.scan::<keys::Extent>(&range, 1, Order::Reverse).await?.pop())
}

/// Looks at a page of extents; the position of the next, if there is one.
pub(super) async fn check(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let mut last: Option<(Place, u64)> = None;
    if let Some((key, row)) = before(tx, at).await? {
        last = Some(((key.inode, key.generation, key.offset), key.offset.saturating_add(row.len)));
    }
    let (extents, next) = table_page::<keys::Extent>(tx, at).await?;
    page.rows += extents.len() as u64;
    let mut inodes: BTreeMap<u64, Option<rows::Inode>> = BTreeMap::new();
    let mut groups: BTreeMap<u32, bool> = BTreeMap::new();
    let mut strays: BTreeSet<(u64, u32)> = BTreeSet::new();
    let mut highest: Option<u64> = None;
    for (key, row) in extents {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let (inode, generation, offset) = (key.inode, key.generation, key.offset);
        let row_of = match inodes.entry(inode) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(tx.get(&keys::Inode { inode }).await?),
        };
        let file = row_of.as_ref().filter(|file| file.kind == Kind::File);
        let current = file.filter(|file| file.generation == generation);
        if current.is_none() && !strays.contains(&(inode, generation)) {
            stray(tx, (inode, generation), repair, page).await?;
            strays.insert((inode, generation));
        }
        let end_before = match last {
            Some(((of, in_map, _), end)) if (of, in_map) == (inode, generation) => end,
            _ => 0,
        };
        if let Some(fault) = judge(offset, &row, end_before, current.map(|file| file.size)) {
            let (rule, remedy) = fault.words();
            let what = format!("{} bytes at offset {offset} of inode {inode}, map {generation}", row.len);
            let mends = repair && fault == Fault::BehindEnd;
            if mends {
                grow(tx, inode, offset.saturating_add(row.len)).await?;
            }
            page.find(rule, what, remedy, mends);
        }
        if let Content::Blocks(run) = &row.content {
            if run.inode != inode {
                uncounted(tx, &key, &row, repair, page).await?;
            }
            highest = highest.max(Some(run.writer));
            for pg in &run.pgs {
                let exists = match groups.entry(*pg) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(unknown) => *unknown.insert(tx.get(&keys::Pg { pg: *pg }).await?.is_some()),
                };
                if !exists {
                    let what = format!("offset {offset} of inode {inode} is in group {pg}, which does not exist");
                    page.find("unknown group", what, "restore the file from a backup", false);
                }
            }
        }
        last = Some(((inode, generation, offset), offset.saturating_add(row.len)));
    }
    above(tx, (counter::WRITER, "writer"), highest, repair, page).await?;
    Ok(next)
}

/// A clone refers to blocks that were written for another file: they are counted, or whoever lets go of them first gives
/// them to the collector.
async fn uncounted(tx: &mut Tx, key: &keys::Extent, row: &rows::Extent, repair: bool, page: &mut Page) -> Op<()> {
    let Content::Blocks(run) = &row.content else { return Ok(()) };
    let end = run.seq.saturating_add(block_count(run, row.len));
    let all = Blocks { pg: 0, inode: run.inode, writer: run.writer, seq: run.seq, end, born: row.born };
    let counted: u32 = shares::named(tx, &all).await?.iter().map(|part| part.end - part.start).sum();
    if counted >= end - run.seq {
        return Ok(());
    }
    if repair {
        shares::begin(tx, &all).await?;
    }
    let what = format!(
        "offset {} of inode {} is in blocks of inode {}, and nobody counts that",
        key.offset, key.inode, run.inode
    );
    page.find("uncounted clone", what, "they are counted", repair);
    Ok(())
}

/// Makes a file at least `size` long.
async fn grow(tx: &mut Tx, inode: u64, size: u64) -> Op<()> {
    let mut row = tx.file(inode).await?;
    if row.size < size {
        tx.effects.file_bytes += i64::try_from(size - row.size).unwrap_or(i64::MAX);
        row.size = size;
        row.version += 1;
        tx.put(&keys::Inode { inode }, &row);
    }
    Ok(())
}

/// Looks at a page of maps that are to be dropped; the position of the next, if there is one.
pub(super) async fn drops(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::MapDrop>(tx, at).await?;
    page.rows += found.len() as u64;
    for (key, _) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let file = tx.get(&keys::Inode { inode: key.inode }).await?;
        if file.is_some_and(|file| file.kind == Kind::File && file.generation == key.generation) {
            if repair {
                tx.delete(&key);
            }
            let what = format!("map {} of inode {} is to be dropped, and is in use", key.generation, key.inode);
            page.find("drop of a live map", what, "the map stays", repair);
        }
    }
    Ok(next)
}

/// A map that is no file's current one: somebody must be about to drop it.
async fn stray(tx: &mut Tx, (inode, generation): (u64, u32), repair: bool, page: &mut Page) -> Op<()> {
    let key = keys::MapDrop { inode, generation };
    if tx.get(&key).await?.is_some() {
        return Ok(());
    }
    if repair {
        tx.put(&key, &rows::MapDrop { birth: tx.birth });
    }
    let what = format!("map {generation} of inode {inode} is no file's, and nobody drops it");
    page.find("stray map", what, "it is dropped, and its blocks are collected", repair);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Run;

    fn extent(len: u64, pgs: &[u32]) -> rows::Extent {
        let run = Run { inode: 5, writer: 1, seq: 0, skip: 0, block_len: 100, pgs: pgs.to_vec(), codec: 0, flags: 0 };
        rows::Extent { len, content: Content::Blocks(run), birth: 0, born: 0 }
    }

    #[test]
    fn each_fault_of_an_extent_is_told_apart() {
        let good = extent(50, &[1]);
        assert_eq!(judge(10, &good, 10, Some(60)), None);
        assert_eq!(judge(10, &good, 0, None), None);
        assert_eq!(judge(10, &good, 11, Some(60)), Some(Fault::Overlap));
        assert_eq!(judge(10, &good, 10, Some(59)), Some(Fault::BehindEnd));
        assert_eq!(judge(10, &extent(0, &[1]), 0, None), Some(Fault::Len));
        assert_eq!(judge(10, &extent(u64::MAX, &[1]), 0, None), Some(Fault::Len));
        assert_eq!(judge(10, &extent(50, &[]), 0, None), Some(Fault::NoGroup));
        let inline =
            |len| rows::Extent { len, content: Content::Inline(Bytes::from_static(b"abc")), birth: 0, born: 0 };
        assert_eq!((judge(0, &inline(3), 0, Some(3)), judge(0, &inline(4), 0, Some(4))), (None, Some(Fault::Len)));
        for (skip, block_len) in [(0, 0), (100, 100), (7, 0)] {
            let mut bad = extent(50, &[1]);
            if let Content::Blocks(run) = &mut bad.content {
                (run.skip, run.block_len) = (skip, block_len);
            }
            assert_eq!(judge(10, &bad, 0, None), Some(Fault::Run));
        }
    }
}
