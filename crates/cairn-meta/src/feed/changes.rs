//! From the rows that a transaction changes to what others are told of it.

use crate::changes::Change as RowChange;
use crate::keys;
use crate::rows::{self, Change, Delta, Kind, RowError};
use bytes::Bytes;
use cairn_proto::pb::ChangeOf;
use std::collections::{BTreeMap, BTreeSet};

/// A name and what it leads to.
struct Name {
    inode: u64,
    kind: Kind,
    parent: u64,
    name: Bytes,
}

/// What is known of one inode.
#[derive(Default)]
struct Seen {
    old: Option<rows::Inode>,
    new: Option<rows::Inode>,
    what: u32,
}

/// What readers of the feed are told, and what it means for quotas.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Derived {
    pub(crate) changes: Vec<Change>,
    pub(crate) deltas: Vec<Delta>,
}

/// Goes through the rows of types that others can see; `noted` are changes that these rows do not show.
pub(crate) fn derive(rows: &[RowChange], noted: &[Change]) -> Result<Derived, RowError> {
    let mut inodes: BTreeMap<u64, Seen> = BTreeMap::new();
    let (mut gone, mut came) = (Vec::new(), Vec::new());
    for row in rows {
        if let Some(change) = row.of::<keys::Inode>() {
            let (key, old, new) = change?;
            let seen = inodes.entry(key.inode).or_default();
            (seen.old, seen.new) = (old, new);
        } else if let Some(change) = row.of::<keys::Dentry>() {
            let (key, old, new) = change?;
            if old.as_ref().map(|row| row.inode) == new.as_ref().map(|row| row.inode) {
                continue;
            }
            let name = |row: rows::Dentry| {
                let (inode, kind) = (row.inode, row.kind);
                Name { inode, kind, parent: key.parent, name: key.name.clone() }
            };
            gone.extend(old.map(name));
            came.extend(new.map(name));
        } else if let Some(change) = row.of::<keys::Xattr>() {
            inodes.entry(change?.0.inode).or_default().what |= ChangeOf::Xattrs as u32;
        }
    }
    let named_now: BTreeSet<u64> = came.iter().map(|name: &Name| name.inode).collect();
    let mut changes = name_changes(gone, came);
    changes.extend(inodes.iter().filter_map(|(inode, seen)| changed(*inode, seen, named_now.contains(inode))));
    changes.extend(noted.iter().cloned());
    Ok(Derived { changes, deltas: deltas(inodes.values()) })
}

/// Names that went first, then those that moved, then new ones: applied in this order, one name is never two at once.
fn name_changes(gone: Vec<Name>, came: Vec<Name>) -> Vec<Change> {
    let mut left: Vec<Option<Name>> = gone.into_iter().map(Some).collect();
    let (mut moved, mut made) = (Vec::new(), Vec::new());
    for Name { inode, kind, parent, name } in came {
        let before = left.iter_mut().find(|old| old.as_ref().is_some_and(|old| old.inode == inode));
        match before.and_then(Option::take) {
            Some(old) => {
                let (from_parent, from_name) = (old.parent, old.name);
                moved.push(Change::Renamed { inode, kind, from_parent, from_name, parent, name });
            }
            None => made.push(Change::Created { inode, kind, parent, name }),
        }
    }
    let removed = left.into_iter().flatten();
    let removed = removed.map(|Name { inode, kind, parent, name }| Change::Removed { inode, kind, parent, name });
    removed.chain(moved).chain(made).collect()
}

/// What of an inode that was there before changed, its names left out.
fn changed(inode: u64, seen: &Seen, named_now: bool) -> Option<Change> {
    let mut what = seen.what;
    let row = match (&seen.old, &seen.new) {
        (Some(old), Some(new)) => {
            what |= difference(old, new);
            // What has no name is nobody's business but its session's.
            if new.nlink == 0 || (old.nlink == 0 && named_now) {
                return None;
            }
            Some(new)
        }
        (None, None) => None,
        // Its name says it.
        _ => return None,
    };
    (what != 0).then(|| Change::Changed {
        inode,
        kind: row.map_or(Kind::File, |row| row.kind),
        parent: row.map_or(0, |row| row.parent),
        what,
        version: row.map_or(0, |row| row.version),
    })
}

/// Bits of `ChangeOf`.
fn difference(old: &rows::Inode, new: &rows::Inode) -> u32 {
    let content = (old.version, old.size, old.generation) != (new.version, new.size, new.generation);
    // What comes along with other changes, or with a change of names, is none by itself.
    let mut like_new = old.clone();
    (like_new.version, like_new.size, like_new.generation) = (new.version, new.size, new.generation);
    (like_new.ctime_ns, like_new.birth) = (new.ctime_ns, new.birth);
    (like_new.nlink, like_new.parent, like_new.quota_root) = (new.nlink, new.parent, new.quota_root);
    if content {
        like_new.mtime_ns = new.mtime_ns;
    }
    let mut what = 0;
    if content {
        what |= ChangeOf::Content as u32;
    }
    if like_new != *new {
        what |= ChangeOf::Attributes as u32;
    }
    what
}

/// What an inode counts against its quota root.
pub(crate) fn counted(row: &rows::Inode) -> (i64, i64) {
    let bytes = if row.kind == Kind::File { i64::try_from(row.size).unwrap_or(i64::MAX) } else { 0 };
    (bytes, 1)
}

fn deltas<'a>(inodes: impl Iterator<Item = &'a Seen>) -> Vec<Delta> {
    let mut roots: BTreeMap<u64, (i64, i64)> = BTreeMap::new();
    for seen in inodes {
        for (row, sign) in [(&seen.old, -1), (&seen.new, 1)] {
            let Some(row) = row.as_ref().filter(|row| row.quota_root != 0) else { continue };
            let (bytes, inodes) = counted(row);
            let sum = roots.entry(row.quota_root).or_default();
            *sum = (sum.0 + sign * bytes, sum.1 + sign * inodes);
        }
    }
    let nothing = |sum: &(i64, i64)| *sum == (0, 0);
    let delta = |(root, (bytes, inodes))| Delta { root, bytes, inodes };
    roots.into_iter().filter(|(_, sum)| !nothing(sum)).map(delta).collect()
}

#[cfg(test)]
mod tests;
