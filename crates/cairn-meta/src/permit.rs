//! Permission checks inside a transaction: fetches what a decision of access.rs needs, for the caller the request names.
//! A request without a caller is trusted, and costs nothing here.

use crate::access::{self, Caller, EXEC, Object, WRITE};
use crate::error::{Op, fail};
use crate::path::show;
use crate::rows::{self, inode_flag};
use crate::tx::Tx;
use crate::xattrs::{ACCESS_ACL, read_acl};
use cairn_proto::acl::Acl;
use cairn_proto::status::Code;

/// What `want` is called in messages.
fn words(want: u32) -> &'static str {
    match want {
        access::READ => "read",
        access::WRITE => "write",
        access::EXEC => "execute or search",
        _ => "do all that was asked with",
    }
}

/// PERMISSION unless the caller may `want` with the inode. `shown` is what the message calls it.
pub(crate) async fn check(tx: &mut Tx, inode: u64, row: &rows::Inode, want: u32, shown: &[u8]) -> Op<()> {
    let Some(caller) = tx.caller.clone() else { return Ok(()) };
    let acl: Option<Acl> = if row.flags & inode_flag::ACCESS_ACL != 0 && !caller.is_root() {
        read_acl(tx, inode, ACCESS_ACL).await?
    } else {
        None
    };
    let object = Object { kind: row.kind, mode: row.mode, uid: row.uid, gid: row.gid, acl: acl.as_ref() };
    if access::allows(&caller, &object, want) {
        return Ok(());
    }
    let (what, uid) = (words(want), caller.uid);
    fail(Code::Permission, format!("user {uid} may not {what} {:?} (inode {inode})", show(shown)))
}

/// PERMISSION unless the caller may look names up in directory `dir`.
pub(crate) async fn search(tx: &mut Tx, dir: u64, shown: &[u8]) -> Op<()> {
    if tx.caller.is_none() {
        return Ok(());
    }
    let row = tx.directory(dir).await?;
    check(tx, dir, &row, EXEC, shown).await
}

/// PERMISSION unless the caller may add names to directory `dir`.
pub(crate) async fn add_to(tx: &mut Tx, dir: u64, dir_row: &rows::Inode, shown: &[u8]) -> Op<()> {
    check(tx, dir, dir_row, WRITE | EXEC, shown).await
}

/// PERMISSION or NOT_PERMITTED unless the caller may take the name of `inode` from directory `dir`.
pub(crate) async fn take_from(tx: &mut Tx, dir: u64, inode: u64, shown: &[u8]) -> Op<()> {
    let Some(caller) = tx.caller.clone() else { return Ok(()) };
    let dir_row = tx.directory(dir).await?;
    check(tx, dir, &dir_row, WRITE | EXEC, shown).await?;
    if dir_row.mode & access::STICKY == 0 {
        return Ok(());
    }
    let row = tx.inode(inode).await?;
    if access::may_unname(&caller, dir_row.mode, dir_row.uid, row.uid) {
        return Ok(());
    }
    let message = format!("{:?} is another user's, in a directory with the sticky bit", show(shown));
    fail(Code::NotPermitted, message)
}

/// NOT_PERMITTED unless the caller owns the inode or is user 0.
pub(crate) fn own(caller: Option<&Caller>, row: &rows::Inode, what: &str) -> Op<()> {
    match caller {
        Some(caller) if !caller.owns(row.uid) => {
            fail(Code::NotPermitted, format!("only the owner, user {}, may change {what}", row.uid))
        }
        _ => Ok(()),
    }
}
