//! Rows as a snapshot sees them.
//!
//! An inode in a snapshot has a number of its own ([`InodeId::in_snapshot`]), and so has a directory's list of snapshots.
//! Such numbers go into keys like any other, and what is read there passes here: the row is found in history or among the
//! current ones, and the inodes that it names get numbers of the same snapshot. So walking, listing and reading a file
//! below `.snapshots` is the same code as anywhere else. What is *written* at such a key never is: see `Tx::seal`.
//!
//! A transaction that changed a row does not look at it through a snapshot afterwards: its history is not there yet.

use crate::error::{Op, fail};
use crate::history::birth_of;
use crate::keys::{self, Key};
use crate::kv::{KeyRange, Order};
use crate::limits::PAST_SCAN_ROWS;
use crate::rows::{self, Kind, Row};
use crate::tx::Tx;
use bytes::Bytes;
use cairn_proto::InodeId;
use cairn_proto::status::Code;
use std::collections::VecDeque;

/// The name under which a directory shows its snapshots.
pub(crate) const LIST_NAME: &[u8] = b".snapshots";

/// Where in the past a key lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Past {
    /// 0 = the list of a directory's snapshots.
    snapshot: u64,
    /// The inode in question.
    inode: InodeId,
}

/// Length of what every key of a row that snapshots see begins with: tag and inode.
const HEAD_LEN: usize = 9;

impl Past {
    /// `None` for keys of the present, and for rows that snapshots do not see.
    pub(crate) fn of(key: &[u8]) -> Option<Past> {
        let (tag, rest) = key.split_first()?;
        if !keys::is_versioned(*tag) {
            return None;
        }
        let inode = u64::from_be_bytes(rest.get(..HEAD_LEN - 1)?.try_into().ok()?);
        let (snapshot, inode) = InodeId(inode).past()?;
        Some(Past { snapshot, inode })
    }

    /// The key with the inode's own number.
    fn present(&self, key: &[u8]) -> Vec<u8> {
        let mut present = key.to_vec();
        present[1..HEAD_LEN].copy_from_slice(&self.inode.0.to_be_bytes());
        present
    }

    /// `inode` as the same snapshot shows it.
    fn beside(&self, inode: u64) -> Op<u64> {
        number(inode, self.snapshot)
    }
}

fn number(inode: u64, snapshot: u64) -> Op<u64> {
    match InodeId(inode).in_snapshot(snapshot) {
        Some(past) => Ok(past.0),
        None => fail(Code::TooLarge, format!("inode {inode} has a number that snapshots cannot show")),
    }
}

/// A row that snapshots do not see. (`Tx::get` leads here, and must not be led back to.)
async fn plain<K: Key>(tx: &mut Tx, key: &K) -> Op<Option<K::Row>> {
    let row = tx.inner.get(&key.encode()).await?;
    Ok(row.map(|row| K::Row::decode(&row)).transpose()?)
}

/// The directory of a snapshot; `None` when the snapshot was deleted: nothing stands there any more.
async fn root_of(tx: &mut Tx, snapshot: u64) -> Op<Option<u64>> {
    if let Some(root) = tx.roots.get(&snapshot) {
        return Ok(Some(*root));
    }
    let root = plain(tx, &keys::Snapshot { number: snapshot }).await?.map(|row| row.root);
    if let Some(root) = root {
        tx.roots.insert(snapshot, root);
    }
    Ok(root)
}

/// What snapshot `past` sees of a row.
async fn shown<K: Key>(tx: &mut Tx, past: &Past, row: &[u8]) -> Op<K::Row> {
    let changed = match K::TAG {
        keys::Dentry::TAG => {
            let mut row = rows::Dentry::decode(row)?;
            row.inode = past.beside(row.inode)?;
            row.encode()
        }
        keys::Inode::TAG => {
            let mut row = rows::Inode::decode(row)?;
            if row.kind == Kind::Directory {
                let is_root = root_of(tx, past.snapshot).await? == Some(past.inode.0);
                row.parent = if is_root { number(past.inode.0, 0)? } else { past.beside(row.parent)? };
            }
            row.encode()
        }
        _ => return Ok(K::Row::decode(row)?),
    };
    Ok(K::Row::decode(&changed)?)
}

/// The row at `key`, which lies in the past.
pub(crate) async fn get<K: Key>(tx: &mut Tx, past: &Past, key: &[u8]) -> Op<Option<K::Row>> {
    if past.snapshot == 0 {
        return list_row::<K>(tx, past, key).await;
    }
    if root_of(tx, past.snapshot).await?.is_none() {
        return Ok(None);
    }
    let present = past.present(key);
    let at = |snapshot| keys::History { key: keys::Escaped(Bytes::copy_from_slice(&present)), snapshot }.encode();
    let range = KeyRange { start: at(past.snapshot), end: KeyRange::successor(&at(u64::MAX)) };
    let kept = tx.inner.scan(&range, 1, Order::Forward).await?;
    let row = match kept.into_iter().next() {
        Some((_, kept)) => {
            let kept = rows::History::decode(&kept)?;
            Some((kept.birth, kept.row))
        }
        None => match tx.inner.get(&present).await? {
            Some(row) => Some((birth_of(&present, &row)?.unwrap_or(0), row)),
            None => None,
        },
    };
    match row.filter(|(birth, _)| *birth < past.snapshot) {
        Some((_, row)) => shown::<K>(tx, past, &row).await.map(Some),
        None => Ok(None),
    }
}

/// Rows that a transaction reads one after the other from one table.
struct Pages {
    range: KeyRange,
    order: Order,
    rows: VecDeque<(Bytes, Bytes)>,
    ended: bool,
}

impl Pages {
    fn new(range: KeyRange, order: Order) -> Self {
        Self { range, order, rows: VecDeque::new(), ended: false }
    }

    async fn peek(&mut self, tx: &mut Tx, page: usize) -> Op<Option<&(Bytes, Bytes)>> {
        if self.rows.is_empty() && !self.ended {
            let rows = tx.inner.scan(&self.range, page, self.order).await?;
            self.ended = rows.len() < page;
            if let Some((last, _)) = rows.last() {
                match self.order {
                    Order::Forward => self.range.start = KeyRange::successor(last),
                    Order::Reverse => self.range.end = last.to_vec(),
                }
            }
            self.rows = rows.into();
        }
        Ok(self.rows.front())
    }
}

/// At most `limit` rows of `range`, which lies in the past and within one inode.
pub(crate) async fn scan<K: Key>(
    tx: &mut Tx,
    past: &Past,
    range: &KeyRange,
    limit: usize,
    order: Order,
) -> Op<Vec<(K, K::Row)>> {
    if past.snapshot == 0 {
        return list_rows::<K>(tx, past, range, limit, order).await;
    }
    if root_of(tx, past.snapshot).await?.is_none() {
        return Ok(Vec::new());
    }
    let start = past.present(&range.start);
    let same = range.end.get(..HEAD_LEN) == range.start.get(..HEAD_LEN);
    let end = if same { past.present(&range.end) } else { KeyRange::prefix(&start[..HEAD_LEN]).end };
    let kept_at = |key: &[u8]| keys::History { key: keys::Escaped(Bytes::copy_from_slice(key)), snapshot: 0 }.encode();
    let mut kept = Pages::new(KeyRange { start: kept_at(&start), end: kept_at(&end) }, order);
    let mut current = Pages::new(KeyRange { start, end }, order);
    let page = limit.clamp(1, PAST_SCAN_ROWS);
    let mut found = Vec::new();
    while found.len() < limit {
        let next_kept = match kept.peek(tx, page).await? {
            Some((key, _)) => Some(history_key(key)?.key.0),
            None => None,
        };
        let next_current = current.peek(tx, page).await?.map(|(key, _)| key.clone());
        let Some(key) = earlier(next_kept, next_current, order) else { break };
        // All that history has of this key; the first at or behind the snapshot counts.
        let mut before: Option<(u64, rows::History)> = None;
        while let Some((at, row)) = kept.peek(tx, page).await? {
            let at = history_key(at)?;
            if at.key.0 != key {
                break;
            }
            if at.snapshot >= past.snapshot && before.as_ref().is_none_or(|(first, _)| at.snapshot < *first) {
                before = Some((at.snapshot, rows::History::decode(row)?));
            }
            kept.rows.pop_front();
        }
        let mut row = before.map(|(_, kept)| (kept.birth, kept.row));
        if current.peek(tx, page).await?.is_some_and(|(at, _)| *at == key)
            && let Some((_, now)) = current.rows.pop_front()
            && row.is_none()
        {
            row = Some((birth_of(&key, &now)?.unwrap_or(0), now));
        }
        if let Some((_, row)) = row.filter(|(birth, _)| *birth < past.snapshot) {
            found.push((in_past::<K>(past, &key)?, shown::<K>(tx, past, &row).await?));
        }
    }
    Ok(found)
}

/// The one of two keys that a scan meets first.
fn earlier(one: Option<Bytes>, other: Option<Bytes>, order: Order) -> Option<Bytes> {
    match (one, other) {
        (Some(one), Some(other)) if order == Order::Forward => Some(one.min(other)),
        (Some(one), Some(other)) => Some(one.max(other)),
        (one, other) => one.or(other),
    }
}

fn history_key(key: &[u8]) -> Op<keys::History> {
    match keys::History::decode(key) {
        Some(key) => Ok(key),
        None => fail(Code::Corrupt, "metadata: a key of history does not decode"),
    }
}

/// A key of the present, as it is named in the past.
fn in_past<K: Key>(past: &Past, key: &[u8]) -> Op<K> {
    let mut named = key.to_vec();
    named[1..HEAD_LEN].copy_from_slice(&past.beside(past.inode.0)?.to_be_bytes());
    match K::decode(&named) {
        Some(key) => Ok(key),
        None => fail(Code::Corrupt, format!("metadata: a key with tag {:#04x} does not decode", K::TAG)),
    }
}

// ------------------------------------------------------------ the list of a directory's snapshots

/// The dentry of the list, where `key` is its name in a directory that has snapshots and nothing else has that name.
pub(crate) async fn list_in<K: Key>(tx: &mut Tx, key: &[u8]) -> Op<Option<K::Row>> {
    if K::TAG != keys::Dentry::TAG || key.get(HEAD_LEN..) != Some(LIST_NAME) {
        return Ok(None);
    }
    let Some(keys::Dentry { parent, .. }) = keys::Dentry::decode(key) else { return Ok(None) };
    if !has_snapshots(tx, parent).await? {
        return Ok(None);
    }
    let row = rows::Dentry { inode: number(parent, 0)?, kind: Kind::Directory, birth: 0 };
    Ok(Some(K::Row::decode(&row.encode())?))
}

/// Whether a directory has snapshots with names.
pub(crate) async fn has_snapshots(tx: &mut Tx, dir: u64) -> Op<bool> {
    let names = keys::with_fields::<keys::SnapshotName>(&[&dir.to_be_bytes()]);
    Ok(!tx.inner.scan(&names, 1, Order::Forward).await?.is_empty())
}

fn entry(root: u64, row: &rows::SnapshotName) -> Op<rows::Dentry> {
    Ok(rows::Dentry { inode: number(root, row.number)?, kind: Kind::Directory, birth: 0 })
}

/// A row of the list, which looks like a directory that nobody can write.
async fn list_row<K: Key>(tx: &mut Tx, past: &Past, key: &[u8]) -> Op<Option<K::Row>> {
    let root = past.inode.0;
    let row = match K::TAG {
        keys::Inode::TAG => {
            if !has_snapshots(tx, root).await? {
                return Ok(None);
            }
            let Some(row) = plain(tx, &keys::Inode { inode: root }).await? else { return Ok(None) };
            rows::Inode { mode: row.mode & 0o555, parent: root, ..row }.encode()
        }
        keys::Dentry::TAG => {
            let name = Bytes::copy_from_slice(key.get(HEAD_LEN..).unwrap_or_default());
            match plain(tx, &keys::SnapshotName { root, name }).await? {
                Some(row) => entry(root, &row)?.encode(),
                None => return Ok(None),
            }
        }
        _ => return Ok(None),
    };
    Ok(Some(K::Row::decode(&row)?))
}

/// Names in the list.
async fn list_rows<K: Key>(
    tx: &mut Tx,
    past: &Past,
    range: &KeyRange,
    limit: usize,
    order: Order,
) -> Op<Vec<(K, K::Row)>> {
    if K::TAG != keys::Dentry::TAG {
        return Ok(Vec::new());
    }
    let root = past.inode.0;
    let mut names = keys::with_fields::<keys::SnapshotName>(&[&root.to_be_bytes()]);
    let after = range.start.get(HEAD_LEN..).unwrap_or_default();
    names.start.extend_from_slice(after);
    let mut found = Vec::new();
    for (key, row) in tx.inner.scan(&names, limit, order).await? {
        let Some(name) = keys::SnapshotName::decode(&key).map(|key| key.name) else { continue };
        let dentry = keys::Dentry { parent: number(root, 0)?, name }.encode();
        let Some(key) = K::decode(&dentry) else { continue };
        let row = rows::SnapshotName::decode(&row)?;
        found.push((key, K::Row::decode(&entry(root, &row)?.encode())?));
    }
    Ok(found)
}
