//! Trash: what lies there exists, and runs out when it says.

use super::{Page, table_page};
use crate::error::Op;
use crate::keys::{self, Key, walk_purpose};
use crate::rows;
use crate::tx::Tx;
use bytes::Bytes;

/// Looks at a page of entries; the position of the next, if there is one.
pub(super) async fn entries(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::Trash>(tx, at).await?;
    page.rows += found.len() as u64;
    for (key, row) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let keys::Trash { since_ns, inode } = key;
        let expiry = keys::TrashExpiry { until_ns: row.until_ns, since_ns, inode };
        if tx.get(&keys::Inode { inode }).await?.is_none() {
            if repair {
                tx.delete(&key);
                tx.delete(&expiry);
            }
            let what = format!("inode {inode} lies in the trash and does not exist");
            page.find("trash of nothing", what, "the entry is removed", repair);
        } else if tx.get(&expiry).await?.is_none() {
            if repair {
                tx.put(&expiry, &rows::Unit {});
            }
            let what = format!("inode {inode} lies in the trash and would never run out");
            page.find("trash without end", what, "it runs out when it says", repair);
        }
    }
    Ok(next)
}

/// Looks at a page of ends; the position of the next, if there is one.
pub(super) async fn ends(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::TrashExpiry>(tx, at).await?;
    page.rows += found.len() as u64;
    for (key, _) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let keys::TrashExpiry { until_ns, since_ns, inode } = key;
        let entry = tx.get(&keys::Trash { since_ns, inode }).await?;
        if entry.is_none_or(|entry| entry.until_ns != until_ns) {
            if repair {
                tx.delete(&key);
            }
            let what = format!("the end of inode {inode}, which does not lie in the trash until then");
            page.find("end of no trash", what, "the row is removed", repair);
        }
    }
    Ok(next)
}

/// Looks at a page of trees that are being dropped; the position of the next, if there is one.
pub(super) async fn walks(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::TreeWalk>(tx, at).await?;
    page.rows += found.len() as u64;
    for (key, _) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        // A count walks past what was removed meanwhile; what is dropped, nobody else removes.
        if key.purpose == walk_purpose::DROP && tx.get(&keys::Inode { inode: key.dir }).await?.is_none() {
            if repair {
                tx.delete(&key);
            }
            let what = format!("directory {} is to be dropped and does not exist", key.dir);
            page.find("drop of nothing", what, "the row is removed", repair);
        }
    }
    Ok(next)
}
