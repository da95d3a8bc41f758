//! Names and inodes: every name leads to something of its kind, and everything has as many names as it says.
//!
//! Names are kept by directory, inodes by number, so all names have to be seen to know those of one inode. A page takes
//! the inodes of one part of all numbers and walks all names for it, in one snapshot; parts are of bounded size.

use super::Page;
use crate::error::{Op, fail};
use crate::keys::{self, Key, counter};
use crate::kv::{KeyRange, Order};
use crate::limits::{CHECKED_INODES_MAX, SCAN_ROWS};
use crate::names::put_dentry;
use crate::rows::{self, Kind, Row};
use crate::trash::NOWHERE;
use crate::tx::Tx;
use bytes::{BufMut, Bytes, BytesMut};
use cairn_proto::InodeId;
use cairn_proto::status::Code;
use std::collections::{BTreeSet, HashMap};

/// Directory for what has lost its name.
const LOST_AND_FOUND: &[u8] = b"lost+found";

/// The part that is looked at: inodes whose number is `part` modulo `parts`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    part: u64,
    parts: u64,
}

impl Part {
    /// The part of the position `at`, of as many as `inodes` need.
    pub(super) fn decode(at: &Bytes, inodes: u64) -> Option<Self> {
        if at.is_empty() {
            return Some(Self { part: 0, parts: inodes / CHECKED_INODES_MAX + 1 });
        }
        let (part, parts) = at.split_first_chunk::<8>()?;
        let (part, parts) = (u64::from_be_bytes(*part), u64::from_be_bytes(parts.try_into().ok()?));
        (part < parts).then_some(Self { part, parts })
    }

    /// The position of the next one.
    pub(super) fn next(self) -> Option<Bytes> {
        let part = self.part + 1;
        (part < self.parts).then(|| {
            let mut at = BytesMut::with_capacity(16);
            at.put_u64(part);
            at.put_u64(self.parts);
            at.freeze()
        })
    }

    pub(super) fn has(self, inode: u64) -> bool {
        inode % self.parts == self.part
    }
}

/// What the names say of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Named {
    /// How many lead there.
    count: u32,
    /// The directory of the last one seen.
    dir: u64,
}

/// What is wrong with an inode, by its row and its names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// Nothing leads to it, and nobody keeps it open.
    Nameless,
    /// So many names lead to it; its row says otherwise.
    LinkCount(u32),
    /// A directory with more than one name.
    TwoNames,
    /// A directory whose row names another parent than the directory of its name.
    Parent(u64),
}

fn judge(inode: u64, row: &rows::Inode, named: Option<Named>, sustained: bool) -> Option<Fault> {
    let is_dir = row.kind == Kind::Directory;
    if inode == InodeId::ROOT.0 {
        return None;
    }
    let Some(named) = named else {
        return (!sustained || row.nlink > 0).then_some(Fault::Nameless);
    };
    match is_dir {
        true if named.count > 1 => Some(Fault::TwoNames),
        true if named.dir != row.parent => Some(Fault::Parent(named.dir)),
        false if named.count != row.nlink => Some(Fault::LinkCount(named.count)),
        _ => None,
    }
}

/// Walks a whole table, a page at a time.
pub(super) async fn walk<K: Key>(tx: &mut Tx, mut each: impl FnMut(K, K::Row)) -> Op<u64> {
    let mut range = K::all();
    let mut rows = 0;
    loop {
        // Past the typed layer, which would remember all of it; what this page itself writes need not be seen.
        let page = tx.inner.scan(&range, SCAN_ROWS, Order::Forward).await?;
        rows += page.len() as u64;
        for (key, value) in &page {
            // What does not decode was found by the first step.
            if let (Some(key), Ok(row)) = (K::decode(key), K::Row::decode(value)) {
                each(key, row);
            }
        }
        let Some((last, _)) = page.last().filter(|_| page.len() == SCAN_ROWS) else { return Ok(rows) };
        range.start = KeyRange::successor(last);
        // A long table is walked in turns with what others ask.
        tokio::task::yield_now().await;
    }
}

/// Looks at one part; the position of the next, if there is one.
pub(super) async fn check(tx: &mut Tx, at: &Bytes, inodes: u64, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let Some(part) = Part::decode(at, inodes) else {
        return fail(Code::Invalid, "the cursor is not one of this list");
    };
    let mut named: HashMap<u64, Named> = HashMap::new();
    walk::<keys::Dentry>(tx, |key, row| {
        if part.has(row.inode) {
            let entry = named.entry(row.inode).or_insert(Named { count: 0, dir: key.parent });
            *entry = Named { count: entry.count + 1, dir: key.parent };
        }
    })
    .await?;
    // What lies in the trash, or is about to be dropped, has its row in place of a name.
    walk::<keys::Trash>(tx, |key, _| {
        if part.has(key.inode) {
            let entry = named.entry(key.inode).or_insert(Named { count: 0, dir: NOWHERE });
            *entry = Named { count: entry.count + 1, dir: NOWHERE };
        }
    })
    .await?;
    walk::<keys::TreeWalk>(tx, |key, _| {
        if key.purpose == keys::walk_purpose::DROP && part.has(key.dir) {
            let entry = named.entry(key.dir).or_insert(Named { count: 0, dir: NOWHERE });
            *entry = Named { count: entry.count + 1, dir: NOWHERE };
        }
    })
    .await?;
    let mut sustained = BTreeSet::new();
    walk::<keys::Sustained>(tx, |key, _| {
        sustained.insert(key.inode);
    })
    .await?;
    let mut faults: Vec<(u64, rows::Inode, Fault)> = Vec::new();
    page.rows += walk::<keys::Inode>(tx, |key, row| {
        if part.has(key.inode) {
            let fault = judge(key.inode, &row, named.remove(&key.inode), sustained.contains(&key.inode));
            faults.extend(fault.map(|fault| (key.inode, row, fault)));
        }
    })
    .await?;
    for (inode, row, fault) in faults {
        if page.is_full() {
            break;
        }
        mend(tx, (inode, row), fault, repair, page).await?;
    }
    // What is left was named and is no inode.
    if !named.is_empty() && !page.is_full() {
        dangling(tx, &named, repair, page).await?;
    }
    Ok(part.next())
}

async fn mend(
    tx: &mut Tx,
    (inode, mut row): (u64, rows::Inode),
    fault: Fault,
    repair: bool,
    page: &mut Page,
) -> Op<()> {
    let kind = format!("{:?}", row.kind).to_lowercase();
    match fault {
        Fault::Nameless => {
            let what = format!("inode {inode}, a {kind} of {} bytes, has no name", row.size);
            if repair {
                row.nlink = row.nlink.max(1);
                put_lost(tx, inode, &row).await?;
                if row.kind != Kind::Directory {
                    tx.put(&keys::Inode { inode }, &rows::Inode { nlink: 1, ..row });
                }
            }
            page.find("nameless inode", what, "it is given a name in /lost+found", repair);
        }
        Fault::LinkCount(count) => {
            let what = format!("inode {inode} has {count} names and says {}", row.nlink);
            if repair {
                row.nlink = count;
                tx.put(&keys::Inode { inode }, &row);
            }
            page.find("link count", what, "the count is set to what there is", repair);
        }
        Fault::Parent(dir) => {
            let what = format!("directory {inode} is named in {dir} and says {}", row.parent);
            if repair {
                row.parent = dir;
                tx.put(&keys::Inode { inode }, &row);
            }
            page.find("parent", what, "its parent is set to where its name is", repair);
        }
        Fault::TwoNames => {
            let what = format!("directory {inode} has more than one name");
            if repair {
                keep_one_name(tx, inode, &mut row).await?;
            }
            page.find("directory with two names", what, "the one in its parent stays, the others are removed", repair);
        }
    }
    Ok(())
}

/// Removes all names of a directory but one, that in its parent if there is one.
async fn keep_one_name(tx: &mut Tx, inode: u64, row: &mut rows::Inode) -> Op<()> {
    let mut found = Vec::new();
    walk::<keys::Dentry>(tx, |key, name| {
        if name.inode == inode {
            found.push(key);
        }
    })
    .await?;
    let kept = found.iter().position(|key| key.parent == row.parent).unwrap_or(0);
    for (index, key) in found.iter().enumerate() {
        if index == kept {
            row.parent = key.parent;
            tx.put(&keys::Inode { inode }, row);
        } else {
            tx.delete(key);
            tx.touch_dir(key.parent);
        }
    }
    Ok(())
}

/// Gives what has lost its place a name in `/lost+found`.
pub(super) async fn put_lost(tx: &mut Tx, inode: u64, row: &rows::Inode) -> Op<()> {
    let dir = lost_and_found(tx).await?;
    put_dentry(tx, dir, &Bytes::from(format!("inode-{inode}")), inode, row.kind);
    if row.kind == Kind::Directory {
        tx.put(&keys::Inode { inode }, &rows::Inode { parent: dir, ..row.clone() });
    }
    Ok(())
}

/// Names that lead nowhere.
async fn dangling(tx: &mut Tx, targets: &HashMap<u64, Named>, repair: bool, page: &mut Page) -> Op<()> {
    let mut found = Vec::new();
    walk::<keys::Dentry>(tx, |key, row| {
        if targets.contains_key(&row.inode) {
            found.push((key, row.inode));
        }
    })
    .await?;
    for (key, inode) in found {
        if page.is_full() {
            break;
        }
        let name = key.name.escape_ascii();
        let what = format!("\"{name}\" in directory {} leads to inode {inode}, which does not exist", key.parent);
        if repair {
            tx.delete(&key);
            tx.touch_dir(key.parent);
        }
        page.find("dangling name", what, "the name is removed", repair);
    }
    Ok(())
}

/// The directory `/lost+found`, made when it is not there.
async fn lost_and_found(tx: &mut Tx) -> Op<u64> {
    let root = InodeId::ROOT.0;
    let name = Bytes::from_static(LOST_AND_FOUND);
    if let Some(found) = tx.get(&keys::Dentry { parent: root, name: name.clone() }).await? {
        return match found.kind {
            Kind::Directory => Ok(found.inode),
            _ => fail(Code::NotADirectory, "/lost+found is not a directory: rename it"),
        };
    }
    let above = tx.directory(root).await?;
    let inode = tx.next_number(counter::INODE).await?;
    let row = rows::Inode {
        mode: 0o700,
        atime_ns: tx.now_ns,
        mtime_ns: tx.now_ns,
        ctime_ns: tx.now_ns,
        version: 1,
        generation: 0,
        parent: root,
        birth: tx.birth,
        btime_ns: tx.btime_ns(),
        flags: 0,
        xattrs: 0,
        xattr_bytes: 0,
        ..above
    };
    tx.put(&keys::Inode { inode }, &row);
    tx.touch_dir(inode);
    put_dentry(tx, root, &name, inode, Kind::Directory);
    tx.effects.inodes += 1;
    Ok(inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_every_inode_once() {
        let mut part = Part::decode(&Bytes::new(), 3 * CHECKED_INODES_MAX).expect("the first");
        assert_eq!(part.parts, 4);
        let mut seen = vec![0; 100];
        loop {
            (0..100).filter(|inode| part.has(*inode)).for_each(|inode| seen[inode as usize] += 1);
            let Some(at) = part.next() else { break };
            part = Part::decode(&at, 0).expect("our own");
        }
        assert_eq!(seen, vec![1; 100]);
        assert_eq!(Part::decode(&Bytes::from_static(&[0; 16]), 5), None);
        assert_eq!(Part::decode(&Bytes::from_static(&[0; 5]), 5), None);
    }

    #[test]
    fn each_contradiction_is_told_apart() {
        let row = |kind, nlink| rows::Inode {
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            nlink,
            size: 0,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            version: 1,
            generation: 0,
            replicas: 3,
            block_len: 65536,
            relaxed: false,
            quota_root: 0,
            trash_s: 0,
            parent: 7,
            birth: 0,
            btime_ns: 0,
            rdev: 0,
            flags: 0,
            xattrs: 0,
            xattr_bytes: 0,
        };
        let named = |count, dir| Some(Named { count, dir });
        let (file, dir) = (row(Kind::File, 1), row(Kind::Directory, 1));
        assert_eq!(judge(9, &file, named(1, 3), false), None);
        assert_eq!(judge(9, &file, named(2, 3), false), Some(Fault::LinkCount(2)));
        assert_eq!(judge(9, &file, None, false), Some(Fault::Nameless));
        assert_eq!(judge(9, &file, None, true), Some(Fault::Nameless), "its row says that it has a name");
        assert_eq!(judge(9, &row(Kind::File, 0), None, true), None, "open and removed");
        assert_eq!(judge(9, &row(Kind::File, 0), None, false), Some(Fault::Nameless));
        assert_eq!(judge(9, &dir, named(1, 7), false), None);
        assert_eq!(judge(9, &dir, named(1, 8), false), Some(Fault::Parent(8)));
        assert_eq!(judge(9, &dir, named(2, 7), false), Some(Fault::TwoNames));
        assert_eq!(judge(InodeId::ROOT.0, &dir, None, false), None);
    }
}
