//! The tree: every name is in a directory and says what it leads to, and every directory is below the root.

use super::names::put_lost;
use super::{Page, table_page};
use crate::error::Op;
use crate::keys::{self, Key};
use crate::kv::{KeyRange, Order};
use crate::limits::SCAN_ROWS;
use crate::rows::{self, Kind};
use crate::tx::Tx;
use bytes::Bytes;
use cairn_proto::InodeId;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// Directories above one another that are followed at most.
const DEPTH_MAX: usize = 1 << 20;

/// Inodes that were looked up, each once.
#[derive(Default)]
struct Inodes(BTreeMap<u64, Option<rows::Inode>>);

impl Inodes {
    async fn get(&mut self, tx: &mut Tx, inode: u64) -> Op<Option<&rows::Inode>> {
        let row = match self.0.entry(inode) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(tx.get(&keys::Inode { inode }).await?),
        };
        Ok(row.as_ref())
    }
}

/// Looks at a page of names; the position of the next, if there is one.
pub(super) async fn names(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (names, next) = table_page::<keys::Dentry>(tx, at).await?;
    page.rows += names.len() as u64;
    let mut parents = Inodes::default();
    for (key, row) in names {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let name = key.name.escape_ascii();
        let in_directory = parents.get(tx, key.parent).await?.is_some_and(|parent| parent.kind == Kind::Directory);
        let target = tx.get(&keys::Inode { inode: row.inode }).await?;
        if row.inode == InodeId::ROOT.0 {
            let what = format!("\"{name}\" in directory {} leads to the root", key.parent);
            if repair {
                tx.delete(&key);
            }
            page.find("name of the root", what, "the name is removed", repair);
        } else if !in_directory {
            let what = format!("\"{name}\" leads to inode {} from {}, which is no directory", row.inode, key.parent);
            if repair {
                tx.delete(&key);
                if let Some(target) = target {
                    put_lost(tx, row.inode, &target).await?;
                }
            }
            page.find("name without directory", what, "it is moved to /lost+found", repair);
        } else if let Some(target) = target.filter(|target| target.kind != row.kind) {
            let what = format!("\"{name}\" in directory {} says that inode {} is another kind", key.parent, row.inode);
            if repair {
                tx.put(&key, &rows::Dentry { kind: target.kind, ..row });
            }
            page.find("kind", what, "the name takes the kind of the inode", repair);
        }
    }
    Ok(next)
}

/// How the way up from a directory ends.
enum Way {
    Root,
    /// A directory on it does not exist; its name is dealt with elsewhere.
    Broken,
    /// It comes back to a directory it went through: the lowest number of those in the ring.
    Ring(u64),
}

async fn way_up(tx: &mut Tx, start: u64, known: &mut BTreeSet<u64>, inodes: &mut Inodes) -> Op<Way> {
    let mut path: Vec<u64> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut inode = start;
    while path.len() < DEPTH_MAX {
        if inode == InodeId::ROOT.0 || known.contains(&inode) {
            known.extend(path);
            return Ok(Way::Root);
        }
        if !seen.insert(inode) {
            let ring = path.iter().skip_while(|on_the_way| **on_the_way != inode);
            return Ok(Way::Ring(ring.copied().min().unwrap_or(inode)));
        }
        path.push(inode);
        match inodes.get(tx, inode).await?.filter(|row| row.kind == Kind::Directory) {
            Some(row) => inode = row.parent,
            None => return Ok(Way::Broken),
        }
    }
    Ok(Way::Broken)
}

/// Looks at a page of inodes; the position of the next, if there is one.
pub(super) async fn directories(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::Inode>(tx, at).await?;
    let (mut known, mut inodes) = (BTreeSet::new(), Inodes::default());
    for (key, row) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let inode = key.inode;
        match row.kind {
            Kind::Directory => {
                if tx.get(&keys::DirTimes { inode }).await?.is_none() {
                    if repair {
                        tx.touch_dir(inode);
                    }
                    page.find("directory without times", format!("directory {inode}"), "it gets those of now", repair);
                }
                if let Way::Ring(lowest) = way_up(tx, inode, &mut known, &mut inodes).await?
                    && lowest == inode
                {
                    break_ring(tx, (inode, row), repair, page).await?;
                }
            }
            Kind::Symlink if tx.get(&keys::Symlink { inode }).await?.is_none() => {
                let what = format!("symbolic link {inode} has no target");
                page.find("symlink without target", what, "remove it by hand", false);
            }
            _ => {}
        }
    }
    Ok(next)
}

async fn break_ring(tx: &mut Tx, (inode, row): (u64, rows::Inode), repair: bool, page: &mut Page) -> Op<()> {
    let what = format!("directory {inode} is below itself, and not below the root");
    if repair {
        let mut range = keys::dentries_of(row.parent);
        loop {
            let names = tx.scan::<keys::Dentry>(&range, SCAN_ROWS, Order::Forward).await?;
            if let Some((key, _)) = names.iter().find(|(_, name)| name.inode == inode) {
                tx.delete(key);
                break;
            }
            let Some((last, _)) = names.last().filter(|_| names.len() == SCAN_ROWS) else { break };
            range.start = KeyRange::successor(&last.encode());
        }
        put_lost(tx, inode, &row).await?;
    }
    page.find("ring of directories", what, "it is moved to /lost+found", repair);
    Ok(())
}

/// Rows that belong to an inode, one type of key each.
pub(super) async fn attached<K: Key>(
    tx: &mut Tx,
    at: &Bytes,
    (what_row, inode_of): (&str, fn(&K) -> u64),
    repair: bool,
    page: &mut Page,
) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<K>(tx, at).await?;
    page.rows += found.len() as u64;
    let mut inodes = Inodes::default();
    for (key, _) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let inode = inode_of(&key);
        if inodes.get(tx, inode).await?.is_none() {
            if repair {
                tx.delete(&key);
            }
            let what = format!("{what_row} of inode {inode}, which does not exist");
            page.find("row of a missing inode", what, "the row is removed", repair);
        }
    }
    Ok(next)
}
