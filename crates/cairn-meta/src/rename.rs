//! Rename: one transaction, replacing what may be replaced.

use crate::error::{Op, fail};
use crate::keys;
use crate::meta::Meta;
use crate::names::{drop_link, name_at, put_dentry, remove_empty_dir};
use crate::path::{self, Last, Place, show};
use crate::rows::Kind;
use crate::tx::Tx;
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::Code;
use cairn_proto::{InodeId, limits};

/// A directory lies at most so deep: a path that long has no longer one.
const DEPTH_MAX: usize = 64 * limits::PATH_LEN_MAX;

impl Meta {
    pub(crate) async fn rename(&self, tx: &mut Tx, ask: &pb::Rename) -> Op<Reply> {
        let (from_at, to_at) = (path::at(ask.from.as_ref()), path::at(ask.to.as_ref()));
        let Place::Named { dir: from_dir, name: from_name, dentry: from, .. } =
            path::walk(tx, &from_at, Last::Keep).await?
        else {
            return fail(Code::Invalid, format!("{:?} does not name an entry", show(&from_at.path)));
        };
        let Some(from) = from else { return fail(Code::NotFound, show(&from_at.path)) };
        let to = name_at(tx, &to_at, Last::Keep).await?;
        if ask.no_replace && to.dentry.is_some() {
            return fail(Code::Exists, show(&to_at.path));
        }
        if from.kind == Kind::Directory {
            check_no_loop(tx, from.inode, to.dir).await?;
        }
        if let Some(old) = &to.dentry {
            if old.inode == from.inode {
                return Ok(Reply::Empty(pb::Empty {}));
            }
            match (from.kind, old.kind) {
                (Kind::Directory, Kind::Directory) => remove_empty_dir(tx, old.inode, &to_at).await?,
                (Kind::Directory, _) => return fail(Code::NotADirectory, show(&to_at.path)),
                (_, Kind::Directory) => return fail(Code::IsADirectory, show(&to_at.path)),
                _ => drop_link(tx, old).await?,
            }
        }
        let mut row = tx.inode(from.inode).await?;
        if row.quota_root != to.dir_row.quota_root {
            return fail(Code::CrossDevice, "the places count against different quotas");
        }
        tx.delete(&keys::Dentry { parent: from_dir, name: from_name });
        tx.touch_dir(from_dir);
        put_dentry(tx, to.dir, &to.name, from.inode, from.kind);
        row.ctime_ns = tx.now_ns;
        row.birth = tx.birth;
        if row.kind == Kind::Directory {
            row.parent = to.dir;
            // Its times are in a row of their own, which creates in it write.
            let key = keys::DirTimes { inode: from.inode };
            if let Some(mut times) = tx.get_unvalidated(&key).await? {
                times.ctime_ns = tx.now_ns;
                tx.put(&key, &times);
            }
        }
        tx.put(&keys::Inode { inode: from.inode }, &row);
        Ok(Reply::Empty(pb::Empty {}))
    }
}

/// INVALID when `dir` is `moved` or lies below it. The chain of parents is read validated, so that two renames cannot
/// tie a knot together.
async fn check_no_loop(tx: &mut Tx, moved: u64, dir: u64) -> Op<()> {
    let mut at = dir;
    for _ in 0..DEPTH_MAX {
        if at == moved {
            return fail(Code::Invalid, "a directory cannot be moved into itself");
        }
        if at == InodeId::ROOT.0 {
            return Ok(());
        }
        at = path::parent_of(tx, at).await?;
    }
    fail(Code::Corrupt, format!("directory {dir} does not hang on the root"))
}
