//! Where directories lie, seen from the one that is watched. What was found is remembered for one reply.

use super::names::NameHints;
use crate::error::Op;
use crate::keys::{self, Key};
use crate::kv::{KeyRange, Order};
use crate::limits::{NAME_SCAN_MAX, SCAN_ROWS};
use crate::rows::{Change, Kind};
use crate::tx::Tx;
use bytes::{BufMut, Bytes, BytesMut};
use cairn_proto::InodeId;
use cairn_proto::limits::PATH_LEN_MAX;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Directories walked up from one before it counts as unknown.
const CLIMB_MAX: usize = PATH_LEN_MAX;

/// Where something lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Seat {
    /// In the watched directory or below, at this path from there; the path is unknown where a name on the way is.
    Below(Option<Bytes>),
    /// Somewhere else.
    Outside,
    /// It is gone, and so is what would tell where it was.
    Unknown,
}

impl Seat {
    /// Whether a watcher is told. Better once too often than not at all.
    pub(super) fn is_seen(&self) -> bool {
        !matches!(self, Seat::Outside)
    }

    pub(super) fn path(&self) -> Option<Bytes> {
        match self {
            Seat::Below(path) => path.clone(),
            Seat::Outside | Seat::Unknown => None,
        }
    }

    /// The path from the root, where that is what is watched; empty where it is not known.
    pub(crate) fn absolute(&self) -> Bytes {
        let Some(path) = self.path() else { return Bytes::new() };
        [&b"/"[..], &path].concat().into()
    }

    /// What has the name `name` here.
    fn join(&self, name: Option<&Bytes>) -> Seat {
        let Seat::Below(dir) = self else { return self.clone() };
        let (Some(dir), Some(name)) = (dir, name) else { return Seat::Below(None) };
        if dir.is_empty() {
            return Seat::Below(Some(name.clone()));
        }
        if dir.len() + 1 + name.len() > PATH_LEN_MAX {
            return Seat::Below(None);
        }
        let mut path = BytesMut::with_capacity(dir.len() + 1 + name.len());
        path.put_slice(dir);
        path.put_u8(b'/');
        path.put_slice(name);
        Seat::Below(Some(path.freeze()))
    }
}

/// A step up from a directory.
struct Up {
    parent: u64,
    name: Option<Bytes>,
}

/// Finds paths.
pub(crate) struct Paths<'a> {
    hints: &'a NameHints,
    root: u64,
    known: HashMap<u64, Seat>,
    /// Names of the inodes in directories that were looked through.
    listed: HashMap<u64, HashMap<u64, Bytes>>,
}

impl<'a> Paths<'a> {
    /// Seen from the directory `root`.
    pub(crate) fn new(hints: &'a NameHints, root: u64) -> Self {
        Self { hints, root, known: HashMap::new(), listed: HashMap::new() }
    }

    /// Takes over what changes say of names. Later changes of a directory may make earlier findings wrong; they are
    /// about where things are now.
    pub(super) fn learn(&mut self, changes: &[Change]) {
        self.hints.learn(changes);
    }

    /// Where the directory `dir` lies now, or lay before it was removed.
    pub(crate) async fn dir(&mut self, tx: &mut Tx, dir: u64) -> Op<Seat> {
        let mut chain: Vec<(u64, Option<Bytes>)> = Vec::new();
        let mut at = dir;
        let mut seat = loop {
            if at == self.root {
                break Seat::Below(Some(Bytes::new()));
            }
            if let Some(known) = self.known.get(&at) {
                break known.clone();
            }
            if at == InodeId::ROOT.0 || at == 0 {
                break Seat::Outside;
            }
            if chain.len() == CLIMB_MAX {
                break Seat::Unknown;
            }
            let Some(up) = self.up(tx, at).await? else {
                self.known.insert(at, Seat::Unknown);
                break Seat::Unknown;
            };
            chain.push((at, up.name));
            at = up.parent;
        };
        for (inode, name) in chain.into_iter().rev() {
            seat = seat.join(name.as_ref());
            self.known.insert(inode, seat.clone());
        }
        Ok(seat)
    }

    /// Where the name `name` of the directory `parent` lies.
    pub(crate) async fn entry(&mut self, tx: &mut Tx, parent: u64, name: &Bytes) -> Op<Seat> {
        Ok(self.dir(tx, parent).await?.join(Some(name)))
    }

    /// Where `inode` lies, which is no directory and has a name in `parent`, most likely.
    pub(super) async fn member(&mut self, tx: &mut Tx, parent: u64, inode: u64) -> Op<Seat> {
        if parent == 0 {
            return Ok(Seat::Unknown);
        }
        let seat = self.dir(tx, parent).await?;
        if !matches!(seat, Seat::Below(_)) {
            return Ok(seat);
        }
        let name = self.name_in(tx, parent, inode).await?;
        Ok(seat.join(name.as_ref()))
    }

    /// The directory above `dir`, and the name of `dir` there. Of one that is gone it is what was said last.
    async fn up(&mut self, tx: &mut Tx, dir: u64) -> Op<Option<Up>> {
        match tx.get(&keys::Inode { inode: dir }).await? {
            Some(row) if row.kind == Kind::Directory => {
                let name = if row.parent == 0 { None } else { self.name_in(tx, row.parent, dir).await? };
                Ok(Some(Up { parent: row.parent, name }))
            }
            _ => Ok(self.hints.get(dir).map(|(parent, name)| Up { parent, name: Some(name) })),
        }
    }

    /// The name of `inode` in `parent`: the one that is remembered if it is right, else the directory is looked through.
    async fn name_in(&mut self, tx: &mut Tx, parent: u64, inode: u64) -> Op<Option<Bytes>> {
        if let Some((dir, name)) = self.hints.get(inode)
            && dir == parent
            && let Some(dentry) = tx.get(&keys::Dentry { parent, name: name.clone() }).await?
            && dentry.inode == inode
        {
            return Ok(Some(name));
        }
        let names = match self.listed.entry(parent) {
            Entry::Occupied(listed) => listed.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(names_of(tx, parent).await?),
        };
        let name = names.get(&inode).cloned();
        if let Some(name) = &name {
            self.hints.note(inode, parent, name.clone());
        }
        Ok(name)
    }
}

/// The first names of a directory, by inode.
async fn names_of(tx: &mut Tx, dir: u64) -> Op<HashMap<u64, Bytes>> {
    let mut names = HashMap::new();
    let mut range = keys::dentries_of(dir);
    while names.len() < NAME_SCAN_MAX {
        let rows = tx.scan::<keys::Dentry>(&range, SCAN_ROWS, Order::Forward).await?;
        let last = rows.last().filter(|_| rows.len() == SCAN_ROWS).map(|(key, _)| key.encode());
        names.extend(rows.into_iter().map(|(key, row)| (row.inode, key.name)));
        let Some(last) = last else { break };
        range.start = KeyRange::successor(&last);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_as_far_as_names_are_known() {
        let root = Seat::Below(Some(Bytes::new()));
        let a = root.join(Some(&Bytes::from_static(b"a")));
        assert_eq!(a.path(), Some(Bytes::from_static(b"a")));
        assert_eq!(a.join(Some(&Bytes::from_static(b"b"))).path(), Some(Bytes::from_static(b"a/b")));
        assert_eq!(a.join(None), Seat::Below(None));
        assert_eq!(Seat::Below(None).join(Some(&Bytes::from_static(b"b"))), Seat::Below(None));
        assert!(Seat::Unknown.is_seen() && !Seat::Outside.is_seen());
    }
}
