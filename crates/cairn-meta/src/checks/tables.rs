//! Groups, and rows that name groups, stores and sessions: what they name exists.

use super::{Page, table_page};
use crate::error::Op;
use crate::keys::{self, Key};
use crate::rows;
use crate::tx::Tx;
use bytes::Bytes;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// Groups that were looked up, each once.
#[derive(Default)]
struct Groups(BTreeMap<u32, Option<rows::Pg>>);

impl Groups {
    async fn get(&mut self, tx: &mut Tx, pg: u32) -> Op<Option<&rows::Pg>> {
        let row = match self.0.entry(pg) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(tx.get(&keys::Pg { pg }).await?),
        };
        Ok(row.as_ref())
    }
}

/// Looks at a page of groups; the position of the next, if there is one.
pub(super) async fn groups(tx: &mut Tx, at: &Bytes, page: &mut Page) -> Op<Option<Bytes>> {
    let (groups, next) = table_page::<keys::Pg>(tx, at).await?;
    page.rows += groups.len() as u64;
    for (key, row) in groups {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let pg = key.pg;
        if row.members.is_empty() {
            page.find(
                "group without members",
                format!("group {pg}"),
                "its blocks are lost; restore files from a backup",
                false,
            );
        }
        if row.epoch == 0 || row.replicas == 0 || row.since.len() > row.members.len() {
            page.find("group row", format!("group {pg} makes no sense: {row:?}"), "report this as a defect", false);
        }
        let mut seen = BTreeSet::new();
        for member in &row.members {
            let store = member.store;
            if !seen.insert(store) {
                page.find("member twice", format!("store {store} in group {pg}"), "report this as a defect", false);
            } else if tx.get(&keys::Store { store }).await?.is_none() {
                let what = format!("group {pg} names store {store}, which does not exist");
                page.find("unknown store", what, "report this as a defect", false);
            }
        }
    }
    Ok(next)
}

/// Looks at a page of degraded rows; the position of the next, if there is one.
pub(super) async fn degraded(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (rows, next) = table_page::<keys::Degraded>(tx, at).await?;
    page.rows += rows.len() as u64;
    let mut groups = Groups::default();
    let mut last: Option<(keys::Degraded, u32)> = None;
    for (key, row) in rows {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let (pg, store) = (key.pg, key.store);
        let members = groups.get(tx, pg).await?.map(|group| &group.members);
        let is_member = members.is_some_and(|members| members.iter().any(|member| member.store == store));
        let what = || {
            format!(
                "store {store} lacks {}/{}/{} and {} more of group {pg}",
                key.inode,
                key.writer,
                key.seq,
                row.count.saturating_sub(1)
            )
        };
        if !is_member {
            if repair {
                tx.delete(&key);
            }
            page.find("degraded row of a stranger", what(), "the row is removed: the store is no member", repair);
        } else if row.count == 0 || key.seq.checked_add(row.count).is_none() {
            page.find("degraded row without blocks", what(), "report this as a defect", false);
        } else if last.as_ref().is_some_and(|(before, count)| overlaps(before, *count, &key)) {
            page.find("degraded rows overlap", what(), "harmless: both go when the blocks are copied", false);
        }
        last = Some((key, row.count));
    }
    Ok(next)
}

/// Whether the run of `count` blocks at `before` reaches into the one that begins at `key`.
fn overlaps(before: &keys::Degraded, count: u32, key: &keys::Degraded) -> bool {
    let of = |key: &keys::Degraded| (key.store, key.pg, key.inode, key.writer);
    of(before) == of(key) && before.seq.saturating_add(count) > key.seq
}

/// Looks at a page of garbage rows; the position of the next, if there is one.
pub(super) async fn garbage(tx: &mut Tx, at: &Bytes, page: &mut Page) -> Op<Option<Bytes>> {
    let (rows, next) = table_page::<keys::Garbage>(tx, at).await?;
    page.rows += rows.len() as u64;
    let mut groups = Groups::default();
    for (key, row) in rows {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let what = || {
            format!(
                "{}/{}/{} and {} more of group {}",
                key.inode,
                key.writer,
                key.seq,
                row.count.saturating_sub(1),
                key.pg
            )
        };
        if groups.get(tx, key.pg).await?.is_none() {
            page.find("garbage of an unknown group", what(), "it is never collected; report this as a defect", false);
        } else if row.count == 0 || key.seq.checked_add(row.count).is_none() {
            page.find("garbage without blocks", what(), "report this as a defect", false);
        }
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_overlap_within_one_store_group_and_writer() {
        let at = |store, writer, seq| keys::Degraded { store, pg: 1, inode: 1, writer, seq };
        assert!(overlaps(&at(1, 1, 5), 3, &at(1, 1, 7)));
        assert!(!overlaps(&at(1, 1, 5), 3, &at(1, 1, 8)));
        assert!(!overlaps(&at(1, 1, 5), 3, &at(2, 1, 6)));
        assert!(!overlaps(&at(1, 1, 5), 3, &at(1, 2, 6)));
    }
}
