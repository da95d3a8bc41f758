//! Names: made and removed.

use crate::access::{self, Birth};
use crate::attrs::check_want;
use crate::error::{Op, fail};
use crate::holds;
use crate::keys::{self, counter};
use crate::kv::Order;
use crate::map_tx::Map;
use crate::meta::{Meta, block_len_allowed};
use crate::past::has_snapshots;
use crate::path::{self, Last, Place, show};
use crate::permit;
use crate::policies::check_replicas;
use crate::rows::{self, Kind, inode_flag};
use crate::trash::{Leaving, let_go};
use crate::tx::Tx;
use crate::xattrs;
use bytes::Bytes;
use cairn_proto::limits::PATH_LEN_MAX;
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::Code;

/// Permission bits an inode keeps.
pub(crate) const MODE_BITS: u32 = 0o7777;
/// Link count of every directory, unless it is asked to be counted. It says that subdirectories are not counted, and lets
/// programs that would rely on the count look instead: decision 24.
pub(crate) const DIRECTORY_LINKS: u32 = 1;

/// A free name, or a taken one that is to be replaced, in a directory that exists.
pub(crate) struct Slot {
    pub dir: u64,
    pub dir_row: rows::Inode,
    pub name: Bytes,
    pub dentry: Option<rows::Dentry>,
}

/// The name at `at` and its directory. EXISTS where the path ends without naming anything.
pub(crate) async fn name_at(tx: &mut Tx, at: &pb::At, last: Last) -> Op<Slot> {
    match path::walk(tx, at, last).await? {
        Place::Named { dir, name, dentry, .. } => {
            // Read validated: whoever removes the directory meets everyone who makes a name in it.
            let dir_row = tx.directory(dir).await?;
            Ok(Slot { dir, dir_row, name, dentry })
        }
        Place::Bare(_) => fail(Code::Exists, show(&at.path)),
    }
}

/// The row of something new, inode `inode`, in directory `dir`, which the caller writes; ACLs that it inherits are
/// written here.
pub(crate) async fn new_row(
    tx: &mut Tx,
    (inode, kind): (u64, Kind),
    (dir, dir_row): (u64, &rows::Inode),
    attr: &pb::NewAttr,
) -> Op<rows::Inode> {
    let block_len = if attr.block_len == 0 { dir_row.block_len } else { attr.block_len };
    if !block_len_allowed(block_len) {
        return fail(Code::Invalid, format!("a block length of {block_len}; 64 KiB to 64 MiB in steps of 64 KiB"));
    }
    check_replicas(tx, attr.replicas, dir_row.replicas).await?;
    let mtime_ns = attr.mtime_ns.unwrap_or(tx.now_ns);
    let is_dir = kind == Kind::Directory;
    let asked = Birth { uid: attr.uid, gid: attr.gid, mode: attr.mode & MODE_BITS };
    let Birth { uid, gid, mode } = access::birth(tx.caller.as_ref(), kind, asked, dir_row.mode, dir_row.gid);
    let mut row = rows::Inode {
        kind,
        mode,
        uid,
        gid,
        nlink: if is_dir { DIRECTORY_LINKS } else { 1 },
        size: 0,
        atime_ns: tx.now_ns,
        mtime_ns,
        ctime_ns: tx.now_ns,
        version: 1,
        generation: 0,
        replicas: if attr.replicas == 0 { dir_row.replicas } else { attr.replicas },
        block_len,
        relaxed: dir_row.relaxed,
        quota_root: dir_row.quota_root,
        trash_s: dir_row.trash_s,
        parent: dir,
        birth: tx.birth,
        btime_ns: tx.btime_ns(),
        rdev: 0,
        flags: 0,
        xattrs: 0,
        xattr_bytes: 0,
    };
    xattrs::inherit(tx, inode, &mut row, (dir, dir_row), attr.umask).await?;
    Ok(row)
}

/// Attributes as they travel.
pub(crate) fn attr_of(inode: u64, row: &rows::Inode, times: Option<&rows::DirTimes>, target: Bytes) -> pb::Attr {
    pb::Attr {
        inode,
        kind: row.kind.to_pb() as i32,
        mode: row.mode,
        uid: row.uid,
        gid: row.gid,
        nlink: if row.kind == Kind::Directory { DIRECTORY_LINKS } else { row.nlink },
        size: row.size,
        atime_ns: row.atime_ns,
        mtime_ns: times.map_or(row.mtime_ns, |times| times.mtime_ns),
        ctime_ns: times.map_or(row.ctime_ns, |times| times.ctime_ns),
        version: row.version,
        generation: row.generation,
        policy: Some(pb::Policy {
            replicas: row.replicas,
            block_len: row.block_len,
            relaxed: row.relaxed,
            trash_s: row.trash_s,
        }),
        target,
        btime_ns: row.btime_ns,
        rdev: row.rdev,
        has_xattrs: row.xattrs > 0,
        has_acl: row.flags & (inode_flag::ACCESS_ACL | inode_flag::DEFAULT_ACL) != 0,
        allocated: None,
        map: None,
    }
}

/// Makes `name` lead to `inode`.
pub(crate) fn put_dentry(tx: &mut Tx, dir: u64, name: &Bytes, inode: u64, kind: Kind) {
    let dentry = rows::Dentry { inode, kind, birth: tx.birth };
    tx.put(&keys::Dentry { parent: dir, name: name.clone() }, &dentry);
    tx.touch_dir(dir);
}

/// Removes an inode that nothing leads to any more, with everything that hangs on it.
pub(crate) async fn drop_inode(tx: &mut Tx, inode: u64, row: &rows::Inode) -> Op<()> {
    if !xattrs::drop_few(tx, inode, row).await? {
        drop_inode_later(tx, inode, row);
        return Ok(());
    }
    if row.kind == Kind::File && row.size > 0 {
        Map { inode, generation: row.generation }.discard(tx).await?;
    }
    forget_inode(tx, inode, row);
    Ok(())
}

/// As [`drop_inode`], in few operations whatever hangs on the inode: a row makes the duty drop its map and attributes.
pub(crate) fn drop_inode_later(tx: &mut Tx, inode: u64, row: &rows::Inode) {
    if row.xattrs > 0 || (row.kind == Kind::File && row.size > 0) {
        let key = keys::MapDrop { inode, generation: row.generation };
        tx.put(&key, &rows::MapDrop { birth: tx.birth });
    }
    forget_inode(tx, inode, row);
}

fn forget_inode(tx: &mut Tx, inode: u64, row: &rows::Inode) {
    match row.kind {
        Kind::Directory => tx.delete(&keys::DirTimes { inode }),
        Kind::Symlink => tx.delete(&keys::Symlink { inode }),
        Kind::File | Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {}
    }
    if row.quota_root == inode {
        tx.delete(&keys::Quota { root: inode });
    }
    tx.delete(&keys::Inode { inode });
    tx.effects.inodes -= 1;
    tx.effects.file_bytes -= file_bytes(row);
}

fn file_bytes(row: &rows::Inode) -> i64 {
    if row.kind == Kind::File { row.size as i64 } else { 0 }
}

/// Takes one name from what `dentry` leads to, which is no directory. What has no name then stays while a session holds
/// it.
pub(crate) async fn drop_link(tx: &mut Tx, dentry: &rows::Dentry) -> Op<()> {
    let mut row = tx.inode(dentry.inode).await?;
    if row.nlink > 1 || holds::is_sustained(tx, dentry.inode).await? {
        row.nlink = row.nlink.saturating_sub(1);
        row.ctime_ns = tx.now_ns;
        row.birth = tx.birth;
        tx.put(&keys::Inode { inode: dentry.inode }, &row);
        return Ok(());
    }
    drop_inode(tx, dentry.inode, &row).await
}

/// NOT_EMPTY unless the directory holds no name. The range is read whole: a name that comes meanwhile conflicts.
pub(crate) async fn check_empty(tx: &mut Tx, dir: u64, shown: &[u8]) -> Op<()> {
    if has_snapshots(tx, dir).await? {
        return fail(Code::NotEmpty, format!("{} has snapshots; delete them first", show(shown)));
    }
    let range = keys::dentries_of(dir);
    if tx.scan::<keys::Dentry>(&range, 1, Order::Forward).await?.is_empty() {
        return Ok(());
    }
    fail(Code::NotEmpty, show(shown))
}

impl Meta {
    pub(crate) async fn new_inode_number(&self) -> Op<u64> {
        self.inner.counters.take(&*self.inner.engine, counter::INODE, 1).await
    }

    pub(crate) async fn mkdir(&self, tx: &mut Tx, ask: &pb::Mkdir) -> Op<Reply> {
        let at = path::at(ask.at.as_ref());
        let slot = name_at(tx, &at, Last::Keep).await?;
        if slot.dentry.is_some() {
            return fail(Code::Exists, show(&at.path));
        }
        permit::add_to(tx, slot.dir, &slot.dir_row, &at.path).await?;
        let attr = ask.attr.unwrap_or_default();
        let inode = self.new_inode_number().await?;
        let row = new_row(tx, (inode, Kind::Directory), (slot.dir, &slot.dir_row), &attr).await?;
        tx.put_new(&keys::Inode { inode }, &row);
        let times = rows::DirTimes { mtime_ns: row.mtime_ns, ctime_ns: row.ctime_ns, birth: tx.birth };
        tx.put(&keys::DirTimes { inode }, &times);
        put_dentry(tx, slot.dir, &slot.name, inode, Kind::Directory);
        tx.effects.inodes += 1;
        Ok(Reply::Attr(attr_of(inode, &row, Some(&times), Bytes::new())))
    }

    pub(crate) async fn create(&self, tx: &mut Tx, ask: &pb::Create) -> Op<Reply> {
        let at = path::at(ask.at.as_ref());
        let last = if ask.follow && !ask.exclusive { Last::Follow } else { Last::Keep };
        let (dir, name) = match path::walk(tx, &at, last).await? {
            Place::Bare(_) if ask.exclusive => return fail(Code::Exists, show(&at.path)),
            Place::Bare(inode) => return open_existing(tx, inode, &at, ask.want).await,
            Place::Named { dentry: Some(_), .. } if ask.exclusive => return fail(Code::Exists, show(&at.path)),
            Place::Named { dentry: Some(dentry), .. } => {
                return open_existing(tx, dentry.inode, &at, ask.want).await;
            }
            Place::Named { followed: true, .. } => {
                return fail(Code::NotFound, format!("{}: a symbolic link that leads nowhere", show(&at.path)));
            }
            Place::Named { dir, name, .. } => (dir, name),
        };
        let dir_row = tx.directory(dir).await?;
        permit::add_to(tx, dir, &dir_row, &at.path).await?;
        let inode = self.new_inode_number().await?;
        let row = new_row(tx, (inode, Kind::File), (dir, &dir_row), &ask.attr.unwrap_or_default()).await?;
        tx.put_new(&keys::Inode { inode }, &row);
        put_dentry(tx, dir, &name, inode, Kind::File);
        tx.effects.inodes += 1;
        Ok(Reply::Attr(attr_of(inode, &row, None, Bytes::new())))
    }

    pub(crate) async fn symlink(&self, tx: &mut Tx, ask: &pb::Symlink) -> Op<Reply> {
        let at = path::at(ask.at.as_ref());
        if ask.target.is_empty() || ask.target.contains(&0) {
            return fail(Code::Invalid, "the target of a symbolic link is empty or holds a zero byte");
        }
        if ask.target.len() >= PATH_LEN_MAX {
            return fail(Code::NameTooLong, format!("a link target of {} bytes", ask.target.len()));
        }
        let slot = name_at(tx, &at, Last::Keep).await?;
        replace_file(tx, &slot, ask.replace, &at).await?;
        permit::add_to(tx, slot.dir, &slot.dir_row, &at.path).await?;
        let inode = self.new_inode_number().await?;
        let attr = ask.attr.unwrap_or_default();
        let mut row = new_row(tx, (inode, Kind::Symlink), (slot.dir, &slot.dir_row), &attr).await?;
        row.mode = 0o777;
        row.size = ask.target.len() as u64;
        tx.put_new(&keys::Inode { inode }, &row);
        tx.put_new(&keys::Symlink { inode }, &rows::Symlink { target: ask.target.clone(), birth: tx.birth });
        put_dentry(tx, slot.dir, &slot.name, inode, Kind::Symlink);
        tx.effects.inodes += 1;
        Ok(Reply::Attr(attr_of(inode, &row, None, ask.target.clone())))
    }

    pub(crate) async fn unlink(&self, tx: &mut Tx, ask: &pb::Unlink) -> Op<Reply> {
        let at = path::at(ask.at.as_ref());
        match path::walk(tx, &at, Last::Keep).await? {
            Place::Bare(_) => fail(Code::IsADirectory, show(&at.path)),
            Place::Named { dentry: None, .. } => fail(Code::NotFound, show(&at.path)),
            Place::Named { dentry: Some(dentry), .. } if dentry.kind == Kind::Directory => {
                fail(Code::IsADirectory, show(&at.path))
            }
            Place::Named { dir, name, dentry: Some(dentry), .. } => {
                permit::take_from(tx, dir, dentry.inode, &at.path).await?;
                let leaving = Leaving { dir, name: &name, dentry: &dentry, at: &at, purge: ask.no_trash };
                let_go(tx, &leaving).await?;
                tx.delete(&keys::Dentry { parent: dir, name });
                tx.touch_dir(dir);
                Ok(Reply::Empty(pb::Empty { time_ns: tx.now_ns }))
            }
        }
    }

    pub(crate) async fn rmdir(&self, tx: &mut Tx, ask: &pb::Rmdir) -> Op<Reply> {
        let at = path::at(ask.at.as_ref());
        match path::walk(tx, &at, Last::Keep).await? {
            Place::Bare(_) => fail(Code::Invalid, format!("{:?} does not name a directory", show(&at.path))),
            Place::Named { dentry: None, .. } => fail(Code::NotFound, show(&at.path)),
            Place::Named { dentry: Some(dentry), .. } if dentry.kind != Kind::Directory => {
                fail(Code::NotADirectory, show(&at.path))
            }
            Place::Named { dir, name, dentry: Some(dentry), .. } => {
                permit::take_from(tx, dir, dentry.inode, &at.path).await?;
                let leaving = Leaving { dir, name: &name, dentry: &dentry, at: &at, purge: ask.no_trash };
                let_go(tx, &leaving).await?;
                tx.delete(&keys::Dentry { parent: dir, name });
                tx.touch_dir(dir);
                Ok(Reply::Empty(pb::Empty::default()))
            }
        }
    }
}

/// Lets a new file or link take the place of `dentry`.
pub(crate) async fn replace_file(tx: &mut Tx, slot: &Slot, replace: bool, at: &pb::At) -> Op<()> {
    let Some(dentry) = &slot.dentry else { return Ok(()) };
    if !replace {
        return fail(Code::Exists, show(&at.path));
    }
    if dentry.kind == Kind::Directory {
        return fail(Code::IsADirectory, show(&at.path));
    }
    permit::take_from(tx, slot.dir, dentry.inode, &at.path).await?;
    let_go(tx, &Leaving { dir: slot.dir, name: &slot.name, dentry, at, purge: false }).await
}

async fn open_existing(tx: &mut Tx, inode: u64, at: &pb::At, want: u32) -> Op<Reply> {
    let row = tx.inode(inode).await?;
    permit::check(tx, inode, &row, check_want(want)?, &at.path).await?;
    match row.kind {
        Kind::File => Ok(Reply::Attr(attr_of(inode, &row, None, Bytes::new()))),
        Kind::Directory => fail(Code::IsADirectory, show(&at.path)),
        Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
            fail(Code::Invalid, format!("{} is a {}, which has no content", show(&at.path), row.kind.word()))
        }
        Kind::Symlink => fail(Code::TooManySymlinks, format!("{} is a symbolic link", show(&at.path))),
    }
}
