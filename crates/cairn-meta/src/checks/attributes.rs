//! Extended attributes and holds: of inodes and sessions that exist, and counted.

use super::{Page, table_page};
use crate::error::Op;
use crate::holds;
use crate::keys;
use crate::kv::Order;
use crate::limits::XATTRS_COUNTED_MAX;
use crate::rows::{self, inode_flag};
use crate::tx::Tx;
use crate::xattrs;
use bytes::Bytes;
use std::collections::BTreeSet;

/// What the attributes of an inode come to: how many, their bytes, the flags of the ACLs among them.
type Sum = (u32, u32, u32);

fn sum_of(rows: &[(keys::Xattr, rows::Xattr)]) -> Sum {
    rows.iter().fold((0, 0, 0), |(count, bytes, flags), (key, row)| {
        let flag = match &key.name[..] {
            xattrs::ACCESS_ACL => inode_flag::ACCESS_ACL,
            xattrs::DEFAULT_ACL => inode_flag::DEFAULT_ACL,
            _ => 0,
        };
        (count + 1, bytes + xattrs::len_of(&key.name, &row.value), flags | flag)
    })
}

/// Looks at the inodes of a page of attributes; the position of the next page, if there is one.
pub(super) async fn attributes(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::Xattr>(tx, at).await?;
    page.rows += found.len() as u64;
    let inodes: BTreeSet<u64> = found.iter().map(|(key, _)| key.inode).collect();
    for inode in inodes {
        if page.is_full() {
            break;
        }
        let Some(row) = tx.get(&keys::Inode { inode }).await? else {
            orphans(tx, inode, repair, page).await?;
            continue;
        };
        compare(tx, inode, row, repair, page).await?;
    }
    Ok(next)
}

/// Looks at a page of inodes that say that they have attributes, so that those are found that have none.
pub(super) async fn counts(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::Inode>(tx, at).await?;
    for (key, row) in found {
        if page.is_full() {
            break;
        }
        if row.xattrs > 0 {
            compare(tx, key.inode, row, repair, page).await?;
        }
    }
    Ok(next)
}

async fn compare(tx: &mut Tx, inode: u64, mut row: rows::Inode, repair: bool, page: &mut Page) -> Op<()> {
    let range = keys::with_fields::<keys::Xattr>(&[&inode.to_be_bytes()]);
    let all = tx.scan::<keys::Xattr>(&range, XATTRS_COUNTED_MAX, Order::Forward).await?;
    let (count, bytes, flags) = sum_of(&all);
    let acls = inode_flag::ACCESS_ACL | inode_flag::DEFAULT_ACL;
    if (row.xattrs, row.xattr_bytes, row.flags & acls) == (count, bytes, flags) {
        return Ok(());
    }
    let what = format!(
        "inode {inode} has {count} attributes of {bytes} bytes, ACLs {flags}, and says {}, {}, {}",
        row.xattrs,
        row.xattr_bytes,
        row.flags & acls
    );
    if repair {
        (row.xattrs, row.xattr_bytes, row.flags) = (count, bytes, row.flags & !acls | flags);
        tx.put(&keys::Inode { inode }, &row);
    }
    page.find("attribute count", what, "the count is set to what there is", repair);
    Ok(())
}

/// Attributes of an inode that is gone: somebody must be about to drop them.
async fn orphans(tx: &mut Tx, inode: u64, repair: bool, page: &mut Page) -> Op<()> {
    let range = keys::with_fields::<keys::MapDrop>(&[&inode.to_be_bytes()]);
    if !tx.scan::<keys::MapDrop>(&range, 1, Order::Forward).await?.is_empty() {
        return Ok(());
    }
    if repair {
        tx.put(&keys::MapDrop { inode, generation: 0 }, &rows::MapDrop { birth: tx.birth });
    }
    let what = format!("inode {inode} does not exist, has attributes, and nobody drops them");
    page.find("stray attribute", what, "they are dropped", repair);
    Ok(())
}

/// Looks at a page of holds; the position of the next, if there is one.
pub(super) async fn holds(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::Sustained>(tx, at).await?;
    page.rows += found.len() as u64;
    for (key, row) in found {
        if page.is_full() {
            break;
        }
        let (session, inode) = (key.session, key.inode);
        if tx.get(&keys::Session { session }).await?.is_none() {
            if repair {
                holds::end(tx, session, inode).await?;
            }
            let what = format!("session {session} holds inode {inode} and does not exist");
            page.find("hold without session", what, "the hold is removed", repair);
        } else if row.count > 0 && tx.get(&keys::SustainedBy { inode, session }).await?.is_none() {
            if repair {
                tx.put(&keys::SustainedBy { inode, session }, &rows::Unit {});
            }
            let what = format!("session {session} holds inode {inode}, which does not say so");
            page.find("one-sided hold", what, "the other side is written", repair);
        }
    }
    Ok(next)
}

/// Looks at a page of the other side of holds; the position of the next, if there is one.
pub(super) async fn held(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::SustainedBy>(tx, at).await?;
    page.rows += found.len() as u64;
    for (key, _) in found {
        if page.is_full() {
            break;
        }
        let (session, inode) = (key.session, key.inode);
        if holds::count(tx, session, inode).await? == 0 {
            if repair {
                holds::end(tx, session, inode).await?;
            }
            let what = format!("inode {inode} is held by session {session}, which does not say so");
            page.find("one-sided hold", what, "the hold is removed", repair);
        }
    }
    Ok(next)
}
