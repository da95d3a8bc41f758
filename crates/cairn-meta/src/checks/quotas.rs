//! Quota usage: what its rows say, with the entries of change logs that are not in them yet, is what a count finds.

use super::{Page, table_page};
use crate::error::Op;
use crate::keys::{self, Key};
use crate::kv::{KeyRange, Order};
use crate::limits::{QUOTAS_MAX, SCAN_ROWS};
use crate::quota::{Sum, add, usage_of};
use crate::rows::{self, Kind};
use crate::tx::Tx;
use bytes::Bytes;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// Looks at the inodes of a page: that what they count against is a quota. The position of the next page, if there is one.
pub(super) async fn roots(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::Inode>(tx, at).await?;
    let mut known: BTreeMap<u64, bool> = BTreeMap::new();
    for (key, row) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let root = row.quota_root;
        let there = match known.entry(root) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => *unknown.insert(root == 0 || tx.get(&keys::Quota { root }).await?.is_some()),
        };
        if !there {
            if repair {
                tx.put(&key, &rows::Inode { quota_root: 0, ..row });
            }
            let what = format!("inode {} counts against directory {root}, which has no quota", key.inode);
            page.find("quota of an inode", what, "it counts against none", repair);
        }
    }
    Ok(next)
}

/// Counts all inodes, if there are quotas, and compares.
pub(super) async fn check(tx: &mut Tx, repair: bool, page: &mut Page) -> Op<()> {
    let mut quotas = tx.table::<keys::Quota>(QUOTAS_MAX).await?;
    let mut gone: BTreeSet<u64> = BTreeSet::new();
    for (key, _) in &quotas {
        let root = tx.get(&keys::Inode { inode: key.root }).await?;
        if root.is_none_or(|root| root.kind != Kind::Directory) {
            if repair {
                tx.delete(key);
            }
            let what = format!("inode {} has a quota and is no directory", key.root);
            page.find("quota of nothing", what, "the quota is removed", repair);
            gone.insert(key.root);
        }
    }
    quotas.retain(|(key, _)| !gone.contains(&key.root));
    let mut counted: BTreeMap<u64, Sum> = quotas.iter().map(|(key, _)| (key.root, (0, 0))).collect();
    if counted.is_empty() {
        return Ok(());
    }
    let mut range = keys::Inode::all();
    loop {
        let inodes = tx.scan::<keys::Inode>(&range, SCAN_ROWS, Order::Forward).await?;
        page.rows += inodes.len() as u64;
        for (_, row) in &inodes {
            if counted.contains_key(&row.quota_root) {
                add(&mut counted, row.quota_root, crate::feed::counted(row));
            }
        }
        let Some((last, _)) = inodes.last().filter(|_| inodes.len() == SCAN_ROWS) else { break };
        range.start = KeyRange::successor(&last.encode());
        tokio::task::yield_now().await;
    }
    let roots: Vec<u64> = counted.keys().copied().collect();
    let said = usage_of(tx, &roots, None).await?;
    for (root, count) in counted {
        let said = said.get(&root).copied().unwrap_or_default();
        if said == count {
            continue;
        }
        if page.is_full() {
            return Ok(());
        }
        if repair {
            let key = keys::QuotaUsage { root, log: 0 };
            let base = tx.get(&key).await?.unwrap_or(rows::QuotaUsage { bytes: 0, inodes: 0 });
            let (bytes, inodes) = (base.bytes + count.0 - said.0, base.inodes + count.1 - said.1);
            tx.put(&key, &rows::QuotaUsage { bytes, inodes });
        }
        let what = format!(
            "below directory {root} lie {} bytes in {} inodes, and usage says {} in {}",
            count.0, count.1, said.0, said.1
        );
        page.find("quota usage", what, "usage is set to what was counted", repair);
    }
    Ok(())
}
