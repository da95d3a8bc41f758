//! Locks: both sides of each, and of each wait for one. That their sessions exist is looked at as of all that sessions own.

use super::{Page, table_page};
use crate::error::Op;
use crate::keys::{self, Key};
use crate::kv::Order;
use crate::limits::LOCKS_PER_FILE_MAX;
use crate::rows;
use crate::tx::Tx;
use bytes::Bytes;

/// Looks at a page of locks; the position of the next, if there is one.
pub(super) async fn held(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::Lock>(tx, at).await?;
    for (key, _) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let keys::Lock { inode, kind, session, owner, .. } = key;
        let index = keys::LockOf { session, owner, inode, kind };
        if tx.get(&keys::Session { session }).await?.is_some() && tx.get(&index).await?.is_none() {
            if repair {
                tx.put(&index, &rows::Unit {});
            }
            let what = format!("owner {owner:#x} of session {session} holds a lock of inode {inode} and is not listed");
            page.find("one-sided lock", what, "it is listed, and ends with the session", repair);
        }
    }
    Ok(next)
}

/// Looks at a page of files that owners hold locks of; the position of the next, if there is one.
pub(super) async fn listed(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::LockOf>(tx, at).await?;
    for (key, _) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let keys::LockOf { session, owner, inode, kind } = key;
        let range = keys::with_fields::<keys::Lock>(&[&inode.to_be_bytes(), &[kind]]);
        let locks = tx.scan::<keys::Lock>(&range, LOCKS_PER_FILE_MAX + 1, Order::Forward).await?;
        if !locks.iter().any(|(lock, _)| (lock.session, lock.owner) == (session, owner)) {
            if repair {
                tx.delete(&key);
            }
            let what =
                format!("owner {owner:#x} of session {session} is listed for inode {inode}, and holds no lock of it");
            page.find("one-sided lock", what, "the row is removed", repair);
        }
    }
    Ok(next)
}

/// Looks at a page of those who wait; the position of the next, if there is one.
pub(super) async fn waiting(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::LockWait>(tx, at).await?;
    for (key, _) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let keys::LockWait { inode, kind, session, owner } = key;
        let of = tx.get(&keys::LockWaitOf { session, owner }).await?;
        if of.is_none_or(|of| (of.inode, of.kind) != (inode, kind)) {
            if repair {
                tx.delete(&key);
            }
            let what = format!("owner {owner:#x} of session {session} waits for inode {inode} and is not listed");
            page.find("one-sided wait", what, "it waits no more: it asks again", repair);
        }
    }
    Ok(next)
}

/// Looks at a page of what owners wait for; the position of the next, if there is one.
pub(super) async fn waits(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::LockWaitOf>(tx, at).await?;
    for (key, row) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let keys::LockWaitOf { session, owner } = key;
        let wait = keys::LockWait { inode: row.inode, kind: row.kind, session, owner };
        if tx.get(&wait).await?.is_none() {
            if repair {
                tx.delete(&key);
            }
            let what = format!("owner {owner:#x} of session {session} is listed as waiting for inode {}", row.inode);
            page.find("one-sided wait", what, "the row is removed", repair);
        }
    }
    Ok(next)
}
