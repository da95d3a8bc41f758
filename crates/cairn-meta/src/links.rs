//! Further names of what is there, and things that are neither files nor directories nor symbolic links.

use crate::access;
use crate::attrs::whole_attr;
use crate::error::{Op, fail};
use crate::holds;
use crate::keys;
use crate::meta::Meta;
use crate::names::{attr_of, name_at, new_row, put_dentry};
use crate::path::{self, Last, show};
use crate::permit;
use crate::rows::{Kind, inode_flag};
use crate::tx::Tx;
use bytes::Bytes;
use cairn_proto::limits::LINKS_MAX;
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::Code;

impl Meta {
    pub(crate) async fn link(&self, tx: &mut Tx, session: u64, ask: &pb::Link) -> Op<Reply> {
        let (from_at, to_at) = (path::at(ask.from.as_ref()), path::at(ask.to.as_ref()));
        let last = if ask.follow { Last::Follow } else { Last::Keep };
        let inode = path::find(tx, &from_at, last).await?;
        let mut row = tx.inode(inode).await?;
        let slot = name_at(tx, &to_at, Last::Keep).await?;
        if slot.dentry.is_some() {
            return fail(Code::Exists, show(&to_at.path));
        }
        permit::add_to(tx, slot.dir, &slot.dir_row, &to_at.path).await?;
        // Behind what may be wrong with the new name, as link(2) of Linux.
        if row.kind == Kind::Directory {
            return fail(Code::NotPermitted, format!("{:?} is a directory, which has one name", show(&from_at.path)));
        }
        if row.nlink == 0 {
            // Removed is removed; but what never had a name may get one from the session that made it.
            if !holds::is_nameless(tx, session, inode, &row).await? {
                return fail(Code::NotFound, format!("inode {inode} has no name any more"));
            }
            row.flags &= !inode_flag::NAMELESS;
            row.quota_root = slot.dir_row.quota_root;
            row.parent = slot.dir;
        }
        if row.nlink >= LINKS_MAX {
            return fail(Code::TooManyLinks, format!("inode {inode} has {LINKS_MAX} names"));
        }
        if row.quota_root != slot.dir_row.quota_root {
            return fail(Code::CrossDevice, "the places count against different quotas");
        }
        row.nlink += 1;
        row.ctime_ns = tx.now_ns;
        row.birth = tx.birth;
        tx.put(&keys::Inode { inode }, &row);
        put_dentry(tx, slot.dir, &slot.name, inode, row.kind);
        whole_attr(tx, inode, &row).await.map(Reply::Attr)
    }

    pub(crate) async fn mknod(&self, tx: &mut Tx, ask: &pb::Mknod) -> Op<Reply> {
        let at = path::at(ask.at.as_ref());
        let kind = match Kind::from_pb(ask.kind()) {
            None | Some(Kind::Directory | Kind::Symlink) => {
                return fail(Code::Invalid, "mknod makes files, fifos, sockets and devices");
            }
            Some(kind) => kind,
        };
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        if is_device && tx.caller.as_ref().is_some_and(|caller: &access::Caller| !caller.is_root()) {
            return fail(Code::NotPermitted, "only user 0 may make devices");
        }
        if ask.rdev != 0 && !is_device {
            return fail(Code::Invalid, format!("a {} has no device number", kind.word()));
        }
        let slot = name_at(tx, &at, Last::Keep).await?;
        if slot.dentry.is_some() {
            return fail(Code::Exists, show(&at.path));
        }
        permit::add_to(tx, slot.dir, &slot.dir_row, &at.path).await?;
        let inode = self.new_inode_number().await?;
        let attr = ask.attr.unwrap_or_default();
        let mut row = new_row(tx, (inode, kind), (slot.dir, &slot.dir_row), &attr).await?;
        row.rdev = ask.rdev;
        tx.put(&keys::Inode { inode }, &row);
        put_dentry(tx, slot.dir, &slot.name, inode, kind);
        tx.effects.inodes += 1;
        Ok(Reply::Attr(attr_of(inode, &row, None, Bytes::new())))
    }
}
