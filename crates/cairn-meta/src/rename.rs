//! Rename: one transaction, replacing what may be replaced, or exchanging two names.

use crate::attrs::changed;
use crate::error::{Op, fail};
use crate::keys;
use crate::meta::Meta;
use crate::names::{name_at, put_dentry};
use crate::path::{self, Last, Place, show};
use crate::permit;
use crate::quota;
use crate::rows::{self, Kind};
use crate::trash::{Leaving, NOWHERE, let_go};
use crate::tx::Tx;
use bytes::Bytes;
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::Code;
use cairn_proto::{InodeId, limits};

/// A directory lies at most so deep: a path that long has no longer one.
const DEPTH_MAX: usize = 64 * limits::PATH_LEN_MAX;

/// A name that exists.
struct Found {
    dir: u64,
    name: Bytes,
    dentry: rows::Dentry,
}

/// What a rename is about.
struct Rename {
    from: Found,
    to_dir: u64,
    to_name: Bytes,
    to: Option<rows::Dentry>,
    /// As the messages show it.
    from_at: pb::At,
    to_at: pb::At,
    /// The quota that counts what is in the directory of the new name.
    to_quota: u64,
}

impl Meta {
    pub(crate) async fn rename(&self, tx: &mut Tx, ask: &pb::Rename) -> Op<Reply> {
        if ask.no_replace && ask.exchange {
            return fail(Code::Invalid, "a rename that replaces nothing and one that exchanges two names");
        }
        let rename = resolve(tx, ask).await?;
        let Some(to) = &rename.to else {
            if ask.exchange {
                return fail(Code::NotFound, show(&rename.to_at.path));
            }
            permit_move(tx, &rename).await?;
            relocate(tx, &rename).await?;
            return Ok(Reply::Empty(pb::Empty::default()));
        };
        if ask.no_replace {
            return fail(Code::Exists, show(&rename.to_at.path));
        }
        // Two names of one inode, or one name: POSIX wants nothing done.
        if to.inode == rename.from.dentry.inode {
            return Ok(Reply::Empty(pb::Empty::default()));
        }
        permit_move(tx, &rename).await?;
        permit::take_from(tx, rename.to_dir, to.inode, &rename.to_at.path).await?;
        if ask.exchange {
            exchange(tx, &rename, to).await?;
        } else {
            replace(tx, &rename, to).await?;
        }
        Ok(Reply::Empty(pb::Empty::default()))
    }
}

async fn resolve(tx: &mut Tx, ask: &pb::Rename) -> Op<Rename> {
    let (from_at, to_at) = (path::at(ask.from.as_ref()), path::at(ask.to.as_ref()));
    let Place::Named { dir, name, dentry, .. } = path::walk(tx, &from_at, Last::Keep).await? else {
        return fail(Code::Invalid, format!("{:?} does not name an entry", show(&from_at.path)));
    };
    let to = name_at(tx, &to_at, Last::Keep).await?;
    // Behind what may be wrong with either directory, as rename(2) of Linux.
    let Some(dentry) = dentry else { return fail(Code::NotFound, show(&from_at.path)) };
    Ok(Rename {
        from: Found { dir, name, dentry },
        to_dir: to.dir,
        to_name: to.name,
        to: to.dentry,
        from_at,
        to_at,
        to_quota: to.dir_row.quota_root,
    })
}

/// What the caller needs to take the old name away and put it where the new one is.
async fn permit_move(tx: &mut Tx, rename: &Rename) -> Op<()> {
    if tx.caller.is_none() {
        return Ok(());
    }
    let Rename { from, to_dir, from_at, to_at, .. } = rename;
    permit::take_from(tx, from.dir, from.dentry.inode, &from_at.path).await?;
    let dir_row = tx.directory(*to_dir).await?;
    permit::add_to(tx, *to_dir, &dir_row, &to_at.path).await?;
    may_leave(tx, &from.dentry, from.dir != *to_dir, &from_at.path).await
}

/// A directory that gets another parent is written itself: its `..` changes.
async fn may_leave(tx: &mut Tx, dentry: &rows::Dentry, leaves: bool, shown: &[u8]) -> Op<()> {
    if leaves && dentry.kind == Kind::Directory {
        let row = tx.inode(dentry.inode).await?;
        permit::check(tx, dentry.inode, &row, crate::access::WRITE, shown).await?;
    }
    Ok(())
}

/// Brings what `dentry` leads to into directory `dir`: its row, not its name.
async fn arrive(tx: &mut Tx, dentry: &rows::Dentry, dir: u64, to_quota: u64) -> Op<()> {
    if dentry.kind == Kind::Directory {
        check_no_loop(tx, dentry.inode, dir).await?;
    }
    let mut row = tx.inode(dentry.inode).await?;
    quota::check_same(dentry.inode, &row, to_quota)?;
    row.parent = dir;
    changed(tx, dentry.inode, &mut row).await
}

/// Moves the name to one that is free by now.
async fn relocate(tx: &mut Tx, rename: &Rename) -> Op<()> {
    let Rename { from, to_dir, to_name, to_quota, .. } = rename;
    arrive(tx, &from.dentry, *to_dir, *to_quota).await?;
    tx.delete(&keys::Dentry { parent: from.dir, name: from.name.clone() });
    tx.touch_dir(from.dir);
    put_dentry(tx, *to_dir, to_name, from.dentry.inode, from.dentry.kind);
    Ok(())
}

async fn replace(tx: &mut Tx, rename: &Rename, to: &rows::Dentry) -> Op<()> {
    // First, so that this is what is said, and not that the old one has names in it.
    if rename.from.dentry.kind == Kind::Directory {
        check_no_loop(tx, rename.from.dentry.inode, rename.to_dir).await?;
    }
    match (rename.from.dentry.kind, to.kind) {
        (Kind::Directory, Kind::Directory) => {}
        (Kind::Directory, _) => return fail(Code::NotADirectory, show(&rename.to_at.path)),
        // What holds the old name is not empty, whatever it shall be replaced by.
        (_, Kind::Directory) if is_below(tx, rename.from.dir, to.inode).await? => {
            return fail(Code::NotEmpty, show(&rename.to_at.path));
        }
        (_, Kind::Directory) => return fail(Code::IsADirectory, show(&rename.to_at.path)),
        _ => {}
    }
    let (name, at) = (&rename.to_name, &rename.to_at);
    let_go(tx, &Leaving { dir: rename.to_dir, name, dentry: to, at, purge: false }).await?;
    relocate(tx, rename).await
}

async fn exchange(tx: &mut Tx, rename: &Rename, to: &rows::Dentry) -> Op<()> {
    let Rename { from, to_dir, to_name, to_at, to_quota, .. } = rename;
    let from_dir = tx.directory(from.dir).await?;
    may_leave(tx, to, from.dir != *to_dir, &to_at.path).await?;
    // Both chains of parents are walked as they are now: neither may lead through what moves to its end.
    arrive(tx, &from.dentry, *to_dir, *to_quota).await?;
    arrive(tx, to, from.dir, from_dir.quota_root).await?;
    put_dentry(tx, from.dir, &from.name, to.inode, to.kind);
    put_dentry(tx, *to_dir, to_name, from.dentry.inode, from.dentry.kind);
    Ok(())
}

/// INVALID when `dir` is `moved` or lies below it.
async fn check_no_loop(tx: &mut Tx, moved: u64, dir: u64) -> Op<()> {
    if is_below(tx, dir, moved).await? {
        return fail(Code::Invalid, "a directory cannot be moved into itself");
    }
    Ok(())
}

/// Whether `dir` is `top` or lies below it. The chain of parents is read validated, so that two renames cannot tie a knot
/// together.
async fn is_below(tx: &mut Tx, dir: u64, top: u64) -> Op<bool> {
    let mut at = dir;
    for _ in 0..DEPTH_MAX {
        if at == top {
            return Ok(true);
        }
        if at == InodeId::ROOT.0 || at == NOWHERE {
            return Ok(false);
        }
        at = path::parent_of(tx, at).await?;
    }
    fail(Code::Corrupt, format!("directory {dir} does not hang on the root"))
}
