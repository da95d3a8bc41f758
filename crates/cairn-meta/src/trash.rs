//! Trash: what is removed from a directory whose policy says so is kept for a while, by a row in place of its name.
//!
//! The inode stays as it is, with all that is below a directory, and goes on counting against its quota. Only its last
//! name is kept: as long as a file has others, nothing is lost with one of them. `TrashExpiry` rows stand in the order in
//! which the entries run out, so the duty looks at nothing else.

use crate::error::{Op, fail};
use crate::feed::Paths;
use crate::keys::{self, Key, walk_purpose};
use crate::kv::{Durability, KeyRange, Order};
use crate::limits::{RESTORED_PARENTS_MAX, TREE_DEPTH_MAX};
use crate::meta::{Meta, transact};
use crate::names::{check_empty, drop_inode, drop_link, name_at, new_row, put_dentry};
use crate::path::{self, Last, Place, show};
use crate::permit;
use crate::quota;
use crate::rows::{self, Kind};
use crate::tx::Tx;
use bytes::{BufMut, Bytes, BytesMut};
use cairn_proto::InodeId;
use cairn_proto::limits::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use futures_util::future::BoxFuture;
use prost::Message;

/// The `parent` of what lies in the trash, or is about to be dropped.
pub(crate) const NOWHERE: u64 = 0;

/// A name that is about to go.
pub(crate) struct Leaving<'a> {
    pub dir: u64,
    pub name: &'a Bytes,
    pub dentry: &'a rows::Dentry,
    /// How the caller named it.
    pub at: &'a pb::At,
    /// Do not keep it.
    pub purge: bool,
}

/// The path of `at` from the root, if it says so by itself.
fn plain_path(at: &pb::At) -> Bytes {
    let mut plain = BytesMut::new();
    if at.dir != 0 && at.dir != InodeId::ROOT.0 {
        return Bytes::new();
    }
    for part in at.path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        if part == b".." {
            return Bytes::new();
        }
        plain.put_u8(b'/');
        plain.put_slice(part);
    }
    plain.freeze()
}

/// How long the directory keeps what is removed from it, in seconds; 0 = not at all.
async fn retention(tx: &mut Tx, leaving: &Leaving<'_>) -> Op<u64> {
    if leaving.purge { Ok(0) } else { Ok(tx.directory(leaving.dir).await?.trash_s) }
}

/// Takes what a name leads to away from it: into the trash, or for good when nothing else leads there. The caller removes
/// the name, or lets it lead elsewhere.
pub(crate) async fn let_go(tx: &mut Tx, leaving: &Leaving<'_>) -> Op<()> {
    let is_dir = leaving.dentry.kind == Kind::Directory;
    if is_dir {
        check_empty(tx, leaving.dentry.inode, &leaving.at.path).await?;
    }
    let keep_s = retention(tx, leaving).await?;
    let row = tx.inode(leaving.dentry.inode).await?;
    if keep_s > 0 && (is_dir || row.nlink <= 1) {
        return bury(tx, leaving, row, keep_s).await;
    }
    if is_dir { drop_inode(tx, leaving.dentry.inode, &row).await } else { drop_link(tx, leaving.dentry).await }
}

async fn bury(tx: &mut Tx, leaving: &Leaving<'_>, mut row: rows::Inode, keep_s: u64) -> Op<()> {
    let inode = leaving.dentry.inode;
    let since_ns = u64::try_from(tx.now_ns).unwrap_or(0);
    let until_ns = since_ns.saturating_add(keep_s.saturating_mul(1_000_000_000));
    let session = tx.session;
    let name = tx.get(&keys::Session { session }).await?.map(|row| row.name).unwrap_or_default();
    let trash = rows::Trash {
        kind: row.kind,
        parent: leaving.dir,
        name: leaving.name.clone(),
        path: plain_path(leaving.at),
        until_ns,
        session,
        who: name,
    };
    row.parent = NOWHERE;
    row.ctime_ns = tx.now_ns;
    tx.put(&keys::Inode { inode }, &row);
    tx.put(&keys::Trash { since_ns, inode }, &trash);
    tx.put(&keys::TrashExpiry { until_ns, since_ns, inode }, &rows::Unit {});
    Ok(())
}

/// Removes the rows that keep an entry; what it is stays.
fn unbury(tx: &mut Tx, key: &keys::Trash, row: &rows::Trash) {
    tx.delete(key);
    tx.delete(&keys::TrashExpiry { until_ns: row.until_ns, since_ns: key.since_ns, inode: key.inode });
}

/// Lets go of an entry for good; of a directory the duty drops what is below.
async fn purge(tx: &mut Tx, key: &keys::Trash, row: &rows::Trash) -> Op<()> {
    unbury(tx, key, row);
    let inode = key.inode;
    match row.kind {
        Kind::Directory => {
            let walk = keys::TreeWalk { purpose: walk_purpose::DROP, root: inode, dir: inode };
            tx.put(&walk, &rows::TreeWalk { after: Bytes::new() });
            Ok(())
        }
        kind => drop_link(tx, &rows::Dentry { inode, kind, birth: 0 }).await,
    }
}

async fn entry(tx: &mut Tx, since_ns: u64, inode: u64) -> Op<(keys::Trash, rows::Trash)> {
    let key = keys::Trash { since_ns, inode };
    match tx.get(&key).await? {
        Some(row) => Ok((key, row)),
        None => fail(Code::NotFound, format!("there is no inode {inode} in the trash since {since_ns}")),
    }
}

/// Whether `dir` is a directory that hangs on the root: not one that lies in the trash itself.
async fn is_reachable(tx: &mut Tx, dir: u64) -> Op<bool> {
    let mut at = dir;
    for _ in 0..TREE_DEPTH_MAX {
        if at == InodeId::ROOT.0 {
            return Ok(true);
        }
        match tx.get(&keys::Inode { inode: at }).await? {
            Some(row) if row.kind == Kind::Directory && row.parent != NOWHERE => at = row.parent,
            _ => return Ok(false),
        }
    }
    Ok(false)
}

impl Meta {
    /// Removes a directory with all that is in it, in one step, where its directory has a trash; NOT_EMPTY where it has
    /// none: then the caller removes what is in it first.
    pub(crate) async fn remove_tree(&self, tx: &mut Tx, ask: &pb::RemoveTree) -> Op<Reply> {
        let at = path::at(ask.at.as_ref());
        let Place::Named { dir, name, dentry: Some(dentry), .. } = path::walk(tx, &at, Last::Keep).await? else {
            return fail(Code::NotFound, show(&at.path));
        };
        if dentry.kind != Kind::Directory {
            return fail(Code::NotADirectory, show(&at.path));
        }
        if tx.caller.as_ref().is_some_and(|caller| !caller.is_root()) {
            // Whether the caller may remove what is in it is asked of each directory below.
            return fail(Code::NotEmpty, show(&at.path));
        }
        let leaving = Leaving { dir, name: &name, dentry: &dentry, at: &at, purge: false };
        let keep_s = retention(tx, &leaving).await?;
        if keep_s == 0 {
            let_go(tx, &leaving).await?;
        } else {
            let row = tx.inode(dentry.inode).await?;
            bury(tx, &leaving, row, keep_s).await?;
        }
        tx.delete(&keys::Dentry { parent: dir, name });
        tx.touch_dir(dir);
        Ok(Reply::Empty(pb::Empty::default()))
    }

    pub(crate) async fn list_trash(&self, ask: &pb::ListTrash) -> Result<Reply, Status> {
        let limit = if ask.limit == 0 { PAGE_ROWS_MAX } else { (ask.limit as usize).min(PAGE_ROWS_MAX) };
        let mut range = keys::Trash::all();
        if !ask.cursor.is_empty() {
            if keys::Trash::decode(&ask.cursor).is_none() {
                return Err(Status::new(Code::Invalid, "the cursor is not one of this list"));
            }
            range.start = KeyRange::successor(&ask.cursor);
        }
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.looks_only();
            let mut paths = Paths::new(&self.inner.feed.names, InodeId::ROOT.0);
            let rows = tx.scan::<keys::Trash>(&range, limit, Order::Forward).await?;
            let mut reply = pb::ListTrashReply::default();
            let (mut bytes, full) = (0, rows.len() == limit);
            for (key, row) in rows {
                let inode = tx.get(&keys::Inode { inode: key.inode }).await?;
                let path = match row.path.is_empty() {
                    false => row.path.clone(),
                    true => paths.entry(tx, row.parent, &row.name).await?.absolute(),
                };
                let item = pb::TrashItem {
                    since_ns: key.since_ns,
                    inode: key.inode,
                    kind: row.kind.to_pb() as i32,
                    size: inode.map_or(0, |inode| if inode.kind == Kind::File { inode.size } else { 0 }),
                    until_ns: row.until_ns,
                    parent: row.parent,
                    name: row.name,
                    path,
                    session: row.session,
                    who: row.who,
                };
                bytes += item.encoded_len() + 4;
                if bytes > PAGE_BYTES_MAX && !reply.items.is_empty() {
                    return Ok(Reply::ListTrash(reply));
                }
                reply.next_cursor = key.encode().into();
                reply.items.push(item);
            }
            if !full {
                reply.next_cursor = Bytes::new();
            }
            Ok(Reply::ListTrash(reply))
        })
    }

    /// Puts an entry back where it was, or where the caller says; never over something.
    pub(crate) async fn restore_trash(&self, tx: &mut Tx, ask: &pb::RestoreTrash) -> Op<Reply> {
        let (key, trash) = entry(tx, ask.since_ns, ask.inode).await?;
        let at = match &ask.to {
            Some(to) => to.clone(),
            None if is_reachable(tx, trash.parent).await? => pb::At { dir: trash.parent, path: trash.name.clone() },
            None if trash.path.is_empty() => {
                return fail(Code::NotFound, "the directory it was in is gone; say where it is to be put");
            }
            None => pb::At { dir: InodeId::ROOT.0, path: trash.path.clone() },
        };
        if ask.make_parents {
            self.make_parents(tx, &at).await?;
        }
        let slot = match name_at(tx, &at, Last::Keep).await {
            Err(crate::error::Fault::Status(status)) if status.code == Code::NotFound => {
                let message =
                    format!("the directory of {} does not exist; it can be made along with it", show(&at.path));
                return fail(Code::NotFound, message);
            }
            other => other?,
        };
        if slot.dentry.is_some() {
            return fail(Code::Exists, show(&at.path));
        }
        permit::add_to(tx, slot.dir, &slot.dir_row, &at.path).await?;
        let mut row = tx.inode(key.inode).await?;
        permit::own(tx.caller.as_ref(), &row, "what lies in the trash")?;
        if row.kind == Kind::Directory {
            quota::check_same(key.inode, &row, slot.dir_row.quota_root)?;
        } else {
            row.quota_root = slot.dir_row.quota_root;
        }
        row.parent = slot.dir;
        row.ctime_ns = tx.now_ns;
        tx.put(&keys::Inode { inode: key.inode }, &row);
        put_dentry(tx, slot.dir, &slot.name, key.inode, row.kind);
        unbury(tx, &key, &trash);
        crate::attrs::whole_attr(tx, key.inode, &row).await.map(Reply::Attr)
    }

    /// Makes the directories above `at` that do not exist.
    async fn make_parents(&self, tx: &mut Tx, at: &pb::At) -> Op<()> {
        let parts: Vec<&[u8]> = at.path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
        let Some((_, dirs)) = parts.split_last() else { return Ok(()) };
        let mut dir = if at.dir == 0 { InodeId::ROOT.0 } else { at.dir };
        let mut made = 0;
        for part in dirs {
            let step = pb::At { dir, path: Bytes::copy_from_slice(part) };
            let slot = match path::walk(tx, &step, Last::Follow).await? {
                Place::Bare(inode) => {
                    dir = inode;
                    continue;
                }
                Place::Named { dentry: Some(dentry), .. } => {
                    tx.directory(dentry.inode).await?;
                    dir = dentry.inode;
                    continue;
                }
                Place::Named { dentry: None, .. } => name_at(tx, &step, Last::Keep).await?,
            };
            made += 1;
            if made > RESTORED_PARENTS_MAX {
                let message =
                    format!("more than {RESTORED_PARENTS_MAX} directories are missing; make some of them first");
                return fail(Code::Invalid, message);
            }
            permit::add_to(tx, slot.dir, &slot.dir_row, &step.path).await?;
            let inode = self.new_inode_number().await?;
            let attr = pb::NewAttr { mode: 0o755, ..Default::default() };
            let row = new_row(tx, (inode, Kind::Directory), (slot.dir, &slot.dir_row), &attr).await?;
            tx.put_new(&keys::Inode { inode }, &row);
            let times = rows::DirTimes { mtime_ns: row.mtime_ns, ctime_ns: row.ctime_ns, birth: tx.birth };
            tx.put(&keys::DirTimes { inode }, &times);
            put_dentry(tx, slot.dir, &slot.name, inode, Kind::Directory);
            tx.effects.inodes += 1;
            dir = inode;
        }
        Ok(())
    }

    pub(crate) async fn empty_trash(&self, tx: &mut Tx, ask: &pb::EmptyTrash) -> Op<Reply> {
        let (key, trash) = entry(tx, ask.since_ns, ask.inode).await?;
        let row = tx.inode(key.inode).await?;
        permit::own(tx.caller.as_ref(), &row, "what lies in the trash")?;
        tx.unseen = true;
        purge(tx, &key, &trash).await?;
        Ok(Reply::Empty(pb::Empty::default()))
    }

    /// Lets go of the entry of the trash that has run out first, if one has. True while there may be more.
    ///
    /// # Errors
    /// As [`Meta::execute`]; call again.
    pub fn expire_trash(&self) -> BoxFuture<'_, Result<bool, Status>> {
        Box::pin(async move { Ok(self.as_holder(self.expire_trash_step()).await?.unwrap_or(false)) })
    }

    async fn expire_trash_step(&self) -> Result<bool, Status> {
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let due = tx.scan::<keys::TrashExpiry>(&keys::TrashExpiry::all(), 1, Order::Forward).await?;
            let Some((key, _)) = due.into_iter().next() else { return Ok(false) };
            if i64::try_from(key.until_ns).unwrap_or(i64::MAX) > tx.now_ns {
                return Ok(false);
            }
            let entry = keys::Trash { since_ns: key.since_ns, inode: key.inode };
            tx.unseen = true;
            match tx.get(&entry).await? {
                Some(row) => purge(tx, &entry, &row).await?,
                None => tx.delete(&key),
            }
            Ok(true)
        })
    }

    /// Drops a part of a tree that nobody can reach any more. True while there is more to do.
    ///
    /// # Errors
    /// As [`Meta::execute`]; call again.
    pub fn drop_trees(&self) -> BoxFuture<'_, Result<bool, Status>> {
        Box::pin(async move { Ok(self.as_holder(self.drop_trees_step()).await?.unwrap_or(false)) })
    }

    async fn drop_trees_step(&self) -> Result<bool, Status> {
        let step = (self.inner.engine.limits().writes / TREE_WRITES_PER_NAME).clamp(1, TREE_NAMES_PER_STEP);
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            tx.unseen = true;
            let queue = keys::with_fields::<keys::TreeWalk>(&[&[walk_purpose::DROP]]);
            // The youngest first: mostly the deepest, which keeps the queue short.
            let next = tx.scan::<keys::TreeWalk>(&queue, 1, Order::Reverse).await?;
            let Some((walk, _)) = next.into_iter().next() else { return Ok(false) };
            let names = tx.scan::<keys::Dentry>(&keys::dentries_of(walk.dir), step, Order::Forward).await?;
            for (key, dentry) in &names {
                if dentry.kind == Kind::Directory {
                    let below = keys::TreeWalk { dir: dentry.inode, ..walk.clone() };
                    tx.put(&below, &rows::TreeWalk { after: Bytes::new() });
                    let row = tx.inode(dentry.inode).await?;
                    tx.put(&keys::Inode { inode: dentry.inode }, &rows::Inode { parent: NOWHERE, ..row });
                } else {
                    drop_link(tx, dentry).await?;
                }
                tx.delete(key);
            }
            if names.len() < step {
                if let Some(row) = tx.get(&keys::Inode { inode: walk.dir }).await? {
                    drop_inode(tx, walk.dir, &row).await?;
                }
                tx.delete(&walk);
            }
            Ok(true)
        })
    }
}

/// Names that one step of dropping a tree takes, where the engine takes as many writes.
const TREE_NAMES_PER_STEP: usize = 64;
/// Writes that dropping one name costs at most: its rows, those of its map, its attributes and its blocks.
const TREE_WRITES_PER_NAME: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_kept_where_it_stands_for_itself() {
        let at = |dir, path: &'static str| plain_path(&pb::At { dir, path: Bytes::from_static(path.as_bytes()) });
        assert_eq!(&at(1, "/a//./b/")[..], b"/a/b");
        assert_eq!(&at(0, "a")[..], b"/a");
        assert_eq!(&at(1, "/a/../b")[..], b"", "links may make it another one");
        assert_eq!(&at(7, "b")[..], b"", "nobody said where directory 7 is");
    }
}
