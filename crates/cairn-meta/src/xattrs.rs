//! Extended attributes and ACLs: set, read, listed, removed, handed down.
//!
//! An attribute is a row of its own; how many there are and how large stands in the inode's row, so that a limit costs no
//! scan. Those of an inode that goes are deleted with it while they are few, and by the duty that drops maps otherwise.

use crate::access::{self, READ, WRITE};
use crate::attrs::{changed, whole_attr};
use crate::error::{Op, fail};
use crate::keys::{self, Key};
use crate::kv::{Durability, KeyRange, Order};
use crate::limits::XATTRS_DROPPED_AT_ONCE;
use crate::meta::{Meta, transact};
use crate::path::{self, Last};
use crate::permit;
use crate::rows::{self, Kind, inode_flag};
use crate::tx::Tx;
use bytes::Bytes;
use cairn_proto::acl::Acl;
use cairn_proto::limits::{
    PAGE_BYTES_MAX, PAGE_ROWS_MAX, XATTR_NAME_LEN_MAX, XATTR_OVERHEAD, XATTR_VALUE_LEN_MAX, XATTRS_LEN_MAX,
};
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};

pub(crate) const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
pub(crate) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// Whose rules an attribute follows; see xattr(7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    /// Whoever may read or write the file; of files and directories alone.
    User,
    /// User 0.
    Trusted,
    /// Everybody reads, user 0 writes.
    Security,
    /// ACLs: everybody reads, the owner writes.
    Access,
    Default,
}

fn class_of(name: &[u8]) -> Op<Class> {
    if name.len() > XATTR_NAME_LEN_MAX {
        let message = format!("a name of {} bytes for an attribute; at most {XATTR_NAME_LEN_MAX}", name.len());
        return fail(Code::NameTooLong, message);
    }
    if name.contains(&0) {
        return fail(Code::Invalid, "the name of an attribute holds a zero byte");
    }
    let spaces = [(&b"user."[..], Class::User), (b"trusted.", Class::Trusted), (b"security.", Class::Security)];
    for (space, class) in spaces {
        match name.strip_prefix(space) {
            Some([]) => return fail(Code::Invalid, "the name of an attribute ends with its namespace"),
            Some(_) => return Ok(class),
            None => {}
        }
    }
    match name {
        ACCESS_ACL => Ok(Class::Access),
        DEFAULT_ACL => Ok(Class::Default),
        _ => {
            let name = path::show(name);
            fail(
                Code::Unsupported,
                format!("{name:?} begins with none of user., trusted., security.; nor is it an ACL"),
            )
        }
    }
}

fn key(inode: u64, name: &[u8]) -> keys::Xattr {
    keys::Xattr { inode, name: Bytes::copy_from_slice(name) }
}

/// What an attribute counts of those of its inode.
pub(crate) fn len_of(name: &[u8], value: &[u8]) -> u32 {
    (name.len() + value.len()) as u32 + XATTR_OVERHEAD
}

/// The ACL of that name, if there is one.
pub(crate) async fn read_acl(tx: &mut Tx, inode: u64, name: &[u8]) -> Op<Option<Acl>> {
    let Some(row) = tx.get(&key(inode, name)).await? else { return Ok(None) };
    match Acl::from_bytes(&row.value) {
        Ok(acl) => Ok(acl),
        Err(fault) => fail(Code::Corrupt, format!("metadata: the ACL of inode {inode}: {fault}")),
    }
}

/// Sets or removes one attribute and counts it in `row`, which the caller writes.
async fn store(tx: &mut Tx, inode: u64, row: &mut rows::Inode, name: &[u8], value: Option<Bytes>) -> Op<()> {
    let key = key(inode, name);
    if let Some(old) = tx.get(&key).await? {
        row.xattrs = row.xattrs.saturating_sub(1);
        row.xattr_bytes = row.xattr_bytes.saturating_sub(len_of(name, &old.value));
        if value.is_none() {
            tx.delete(&key);
        }
    }
    if let Some(value) = value {
        row.xattrs += 1;
        row.xattr_bytes += len_of(name, &value);
        if row.xattr_bytes > XATTRS_LEN_MAX {
            let message = format!(
                "the attributes of inode {inode} would take {} bytes; at most {XATTRS_LEN_MAX}",
                row.xattr_bytes
            );
            return fail(Code::AttributesFull, message);
        }
        tx.put(&key, &rows::Xattr { value, birth: tx.birth });
    }
    Ok(())
}

/// Sets or removes an ACL, and its flag in `row`. The mode is the caller's business.
async fn store_acl(tx: &mut Tx, inode: u64, row: &mut rows::Inode, name: &[u8], acl: Option<&Acl>) -> Op<()> {
    let flag = if name == ACCESS_ACL { inode_flag::ACCESS_ACL } else { inode_flag::DEFAULT_ACL };
    if acl.is_none() && row.flags & flag == 0 {
        return Ok(());
    }
    row.flags = if acl.is_some() { row.flags | flag } else { row.flags & !flag };
    store(tx, inode, row, name, acl.map(|acl| acl.to_bytes().into())).await
}

/// Brings the access ACL in line with a new mode.
pub(crate) async fn chmod_acl(tx: &mut Tx, inode: u64, row: &mut rows::Inode) -> Op<()> {
    if row.flags & inode_flag::ACCESS_ACL == 0 {
        return Ok(());
    }
    if let Some(mut acl) = read_acl(tx, inode, ACCESS_ACL).await? {
        acl.chmod(row.mode);
        store_acl(tx, inode, row, ACCESS_ACL, Some(&acl)).await?;
    }
    Ok(())
}

/// Gives a new inode what its directory's default ACL says, or else takes `umask` from its mode.
pub(crate) async fn inherit(
    tx: &mut Tx,
    inode: u64,
    row: &mut rows::Inode,
    dir: (u64, &rows::Inode),
    umask: u32,
) -> Op<()> {
    if row.kind == Kind::Symlink {
        return Ok(());
    }
    let default = match dir.1.flags & inode_flag::DEFAULT_ACL {
        0 => None,
        _ => read_acl(tx, dir.0, DEFAULT_ACL).await?,
    };
    let Some(default) = default else {
        row.mode &= !(umask & 0o777);
        return Ok(());
    };
    let (access, mode) = default.inherited(row.mode);
    row.mode = mode;
    if !access.is_minimal() {
        store_acl(tx, inode, row, ACCESS_ACL, Some(&access)).await?;
    }
    if row.kind == Kind::Directory {
        store_acl(tx, inode, row, DEFAULT_ACL, Some(&default)).await?;
    }
    Ok(())
}

/// Deletes the attributes of an inode that goes. False, and nothing done, when they are too many for this transaction.
pub(crate) async fn drop_few(tx: &mut Tx, inode: u64, row: &rows::Inode) -> Op<bool> {
    if row.xattrs == 0 {
        return Ok(true);
    }
    if row.xattrs as usize > XATTRS_DROPPED_AT_ONCE {
        return Ok(false);
    }
    drop_some(tx, inode, XATTRS_DROPPED_AT_ONCE + 1).await.map(|left| !left)
}

/// Deletes at most `limit` attributes of an inode; true when there may be more.
pub(crate) async fn drop_some(tx: &mut Tx, inode: u64, limit: usize) -> Op<bool> {
    let range = keys::with_fields::<keys::Xattr>(&[&inode.to_be_bytes()]);
    let found = tx.scan::<keys::Xattr>(&range, limit, Order::Forward).await?;
    found.iter().for_each(|(key, _)| tx.delete(key));
    Ok(found.len() == limit)
}

/// Refuses what the attribute's namespace does not allow the caller.
async fn check_change(tx: &mut Tx, inode: u64, row: &rows::Inode, class: Class) -> Op<()> {
    let caller = tx.caller.clone();
    let is_root = caller.as_ref().is_none_or(access::Caller::is_root);
    match class {
        Class::User if !matches!(row.kind, Kind::File | Kind::Directory) => {
            fail(Code::NotPermitted, "only files and directories have user attributes")
        }
        Class::User => {
            if row.kind == Kind::Directory && row.mode & access::STICKY != 0 {
                permit::own(caller.as_ref(), row, "the attributes of a sticky directory")?;
            }
            permit::check(tx, inode, row, WRITE, b"").await
        }
        Class::Trusted | Class::Security if !is_root => {
            fail(Code::NotPermitted, "only user 0 may change this attribute")
        }
        Class::Trusted | Class::Security => Ok(()),
        Class::Access | Class::Default if row.kind == Kind::Symlink => {
            fail(Code::Unsupported, "a symbolic link has no ACL")
        }
        Class::Default if row.kind != Kind::Directory => fail(Code::Permission, "only a directory has a default ACL"),
        Class::Access | Class::Default => permit::own(caller.as_ref(), row, "its ACL"),
    }
}

/// What an ACL attribute is to become: `None` removes it.
fn parse_acl(value: &[u8]) -> Op<Option<Acl>> {
    match Acl::from_bytes(value) {
        Ok(acl) => Ok(acl),
        Err(fault) => fail(Code::Invalid, fault.to_string()),
    }
}

async fn set_acl(tx: &mut Tx, inode: u64, row: &mut rows::Inode, class: Class, acl: Option<Acl>) -> Op<()> {
    if class == Class::Default {
        return store_acl(tx, inode, row, DEFAULT_ACL, acl.as_ref()).await;
    }
    if let Some(acl) = &acl {
        let mode = row.mode & !0o777 | acl.mode();
        row.mode = access::chmod(tx.caller.as_ref(), row.kind, row.gid, mode);
    }
    // A list that says no more than a mode is kept as the mode.
    let kept = acl.filter(|acl| !acl.is_minimal());
    store_acl(tx, inode, row, ACCESS_ACL, kept.as_ref()).await
}

fn place(at: Option<&pb::At>, follow: bool) -> (pb::At, Last) {
    (path::at(at), if follow { Last::Follow } else { Last::Keep })
}

fn no_attribute<T>(name: &[u8]) -> Op<T> {
    fail(Code::NoAttribute, path::show(name))
}

impl Meta {
    pub(crate) async fn set_xattr(&self, tx: &mut Tx, ask: &pb::SetXattr) -> Op<Reply> {
        let class = class_of(&ask.name)?;
        if ask.value.len() > XATTR_VALUE_LEN_MAX {
            let message = format!("an attribute of {} bytes; at most {XATTR_VALUE_LEN_MAX}", ask.value.len());
            return fail(Code::TooLarge, message);
        }
        if ask.create && ask.replace {
            return fail(Code::Invalid, "an attribute that must and must not be there");
        }
        let (at, last) = place(ask.at.as_ref(), ask.follow);
        let inode = path::find(tx, &at, last).await?;
        let mut row = tx.inode(inode).await?;
        check_change(tx, inode, &row, class).await?;
        if ask.create || ask.replace {
            match tx.get(&key(inode, &ask.name)).await?.is_some() {
                true if ask.create => return fail(Code::Exists, path::show(&ask.name)),
                false if ask.replace => return no_attribute(&ask.name),
                _ => {}
            }
        }
        match class {
            Class::Access | Class::Default => {
                let acl = parse_acl(&ask.value)?;
                set_acl(tx, inode, &mut row, class, acl).await?;
            }
            _ => store(tx, inode, &mut row, &ask.name, Some(ask.value.clone())).await?,
        }
        changed(tx, inode, &mut row).await?;
        whole_attr(tx, inode, &row).await.map(Reply::Attr)
    }

    pub(crate) async fn remove_xattr(&self, tx: &mut Tx, ask: &pb::RemoveXattr) -> Op<Reply> {
        let class = class_of(&ask.name)?;
        let (at, last) = place(ask.at.as_ref(), ask.follow);
        let inode = path::find(tx, &at, last).await?;
        let mut row = tx.inode(inode).await?;
        check_change(tx, inode, &row, class).await?;
        if tx.get(&key(inode, &ask.name)).await?.is_none() {
            return no_attribute(&ask.name);
        }
        match class {
            Class::Access | Class::Default => set_acl(tx, inode, &mut row, class, None).await?,
            _ => store(tx, inode, &mut row, &ask.name, None).await?,
        }
        changed(tx, inode, &mut row).await?;
        whole_attr(tx, inode, &row).await.map(Reply::Attr)
    }

    pub(crate) async fn get_xattr(&self, ask: &pb::GetXattr, caller: Option<&access::Caller>) -> Result<Reply, Status> {
        let (at, last) = place(ask.at.as_ref(), ask.follow);
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.looks_only();
            tx.caller = caller.cloned();
            let class = class_of(&ask.name)?;
            let inode = path::find(tx, &at, last).await?;
            let row = tx.inode(inode).await?;
            if class == Class::User {
                permit::check(tx, inode, &row, READ, &at.path).await?;
            }
            let hidden = class == Class::Trusted && caller.is_some_and(|caller| !caller.is_root());
            match tx.get(&key(inode, &ask.name)).await?.filter(|_| !hidden) {
                Some(row) => Ok(Reply::Xattr(pb::XattrReply { value: row.value })),
                None => no_attribute(&ask.name),
            }
        })
    }

    pub(crate) async fn list_xattrs(
        &self,
        ask: &pb::ListXattrs,
        caller: Option<&access::Caller>,
    ) -> Result<Reply, Status> {
        let (at, last) = place(ask.at.as_ref(), ask.follow);
        let is_root = caller.is_none_or(access::Caller::is_root);
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.looks_only();
            tx.caller = caller.cloned();
            let inode = path::find(tx, &at, last).await?;
            tx.inode(inode).await?;
            let mut range = keys::with_fields::<keys::Xattr>(&[&inode.to_be_bytes()]);
            if !ask.after.is_empty() {
                range.start = KeyRange::successor(&key(inode, &ask.after).encode());
            }
            // A name fits a page however long, so that a page is never empty before the end.
            let limit = (PAGE_BYTES_MAX / (XATTR_NAME_LEN_MAX + 4)).min(PAGE_ROWS_MAX);
            loop {
                let found = tx.scan::<keys::Xattr>(&range, limit, Order::Forward).await?;
                let last = found.last().filter(|_| found.len() == limit).map(|(key, _)| key.encode());
                let names = found.into_iter().map(|(key, _)| key.name);
                let names: Vec<_> = names.filter(|name| is_root || !name.starts_with(b"trusted.")).collect();
                match last {
                    // Whoever asks goes on behind the last name he sees: a page that shows none is passed over.
                    Some(last) if names.is_empty() => range.start = KeyRange::successor(&last),
                    last => {
                        let end = last.is_none();
                        return Ok(Reply::ListXattrs(pb::ListXattrsReply { names, end }));
                    }
                }
            }
        })
    }
}
