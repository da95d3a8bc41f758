//! A transaction in terms of typed keys and rows, with what has to happen in memory once it is committed.

use crate::access::Caller;
use crate::changes::{Change, Changes, is_validated};
use crate::error::{Fault, Op, fail};
use crate::history::{self, Head};
use crate::keys::{self, Key};
use crate::kv::{KeyRange, Limits, Order, Txn};
use crate::limits::{
    CLUSTER_VERSION, MAP_ROWS_PER_STEP_MAX, MAP_ROWS_PER_STEP_MIN, MAP_ROWS_PER_TX_MAX, SESSION_ROWS_PER_STEP,
    WRITES_PER_MAP_ROW, WRITES_PER_SESSION_ROW,
};
use crate::past::{self, Past};
use crate::rows::{self, Row};
use crate::upgrade::NAMESPACE_VERSION;
use bytes::Bytes;
use cairn_proto::status::Code;
use std::collections::BTreeMap;

/// Changes of in-memory totals, applied when the transaction is known to be committed.
#[derive(Default, Debug)]
pub(crate) struct Effects {
    /// Inodes more or fewer.
    pub inodes: i64,
    /// Bytes of files more or fewer.
    pub file_bytes: i64,
    /// Bytes committed to groups.
    pub pg_bytes: Vec<(u32, u64)>,
    /// Nodes, stores, groups or metadata servers changed.
    pub map_changed: bool,
    /// The version of the cluster map that comes with that; 0 = none.
    pub map_version: u64,
    /// A membership went from one store to another: the bytes of its group.
    pub moved: Option<u64>,
    /// Files whose locks became fewer, or whose line of waiters shorter.
    pub unlocked: Vec<u64>,
}

impl Effects {
    pub(crate) fn is_empty(&self) -> bool {
        self.inodes == 0
            && self.file_bytes == 0
            && self.pg_bytes.is_empty()
            && !self.map_changed
            && self.moved.is_none()
            && self.unlocked.is_empty()
    }
}

/// A transaction of the namespace.
pub(crate) struct Tx {
    pub(crate) inner: Box<dyn Txn>,
    pub(crate) effects: Effects,
    /// Wall time of everything this transaction changes.
    pub(crate) now_ns: i64,
    /// Snapshot number that changed rows carry: the newest of `head`.
    pub(crate) birth: u64,
    /// The newest snapshots, as this process knew them when the transaction began; [`Tx::seal`] makes sure of it.
    pub(crate) head: Head,
    /// On whose behalf; `None` = trusted.
    pub(crate) caller: Option<Caller>,
    /// What it does to rows that snapshots see.
    changes: Changes,
    /// Only looks: what it reads is not remembered.
    looks: bool,
    /// What the engine takes at once.
    limits: Limits,
    /// The rows that it changes, once it is sealed: what the feed and quotas go by.
    pub(crate) changed: Vec<Change>,
    /// Changes that readers of the feed are told and that no row of its list shows.
    pub(crate) noted: Vec<rows::Change>,
    /// Nobody can see what it changes: readers of the feed are not told.
    pub(crate) unseen: bool,
    /// What it adds is not held against quotas.
    pub(crate) exempt: bool,
    /// The session that asked for it; 0 = none did.
    pub(crate) session: u64,
    /// The directories of the snapshots it looked into, by the snapshots' numbers.
    pub(crate) roots: BTreeMap<u64, u64>,
    /// It tried to change what a snapshot shows.
    denied: bool,
    /// The version at which the cluster works, as this process knew when the transaction began: nothing is made that needs
    /// a later one.
    pub(crate) version: u32,
}

/// What [`Tx::seal`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sealed {
    /// It can be committed.
    Ready,
    /// A snapshot was taken or deleted that this process did not know of: the transaction has to run again, from this.
    Moved(Head),
}

fn bad_key<K: Key>() -> Fault {
    Fault::from(cairn_proto::status::Status::new(
        Code::Corrupt,
        format!("metadata: a key with tag {:#04x} does not decode", K::TAG),
    ))
}

impl Tx {
    pub(crate) fn new(inner: Box<dyn Txn>, now_ns: i64, head: Head, limits: Limits) -> Self {
        let (effects, changes) = (Effects::default(), Changes::default());
        let (changed, noted, unseen, exempt, session) = (Vec::new(), Vec::new(), false, false, 0);
        let (birth, caller, looks, version) = (head.newest, None, false, CLUSTER_VERSION);
        let (roots, denied) = (BTreeMap::new(), false);
        Self {
            inner,
            effects,
            now_ns,
            birth,
            head,
            caller,
            changes,
            looks,
            changed,
            noted,
            unseen,
            exempt,
            session,
            roots,
            denied,
            limits,
            version,
        }
    }

    /// When what is made now was made; 0 = not known, as long as the cluster's version has no room for it.
    pub(crate) fn btime_ns(&self) -> i64 {
        if self.version >= NAMESPACE_VERSION { self.now_ns } else { 0 }
    }

    /// Says that nothing will be changed that snapshots see, so that nothing read has to be remembered: for operations
    /// that read many rows.
    pub(crate) fn looks_only(&mut self) {
        self.looks = true;
    }

    fn saw(&mut self, key: &[u8], value: Option<&Bytes>) {
        if !self.looks {
            self.changes.see(key, value);
        }
    }

    /// Extent rows that a step of a sequence of transactions takes.
    pub(crate) fn map_rows_per_step(&self) -> usize {
        (self.limits.writes / WRITES_PER_MAP_ROW).clamp(MAP_ROWS_PER_STEP_MIN, MAP_ROWS_PER_STEP_MAX)
    }

    /// Rows that a step of ending a session takes.
    pub(crate) fn session_rows_per_step(&self) -> usize {
        (self.limits.writes / WRITES_PER_SESSION_ROW).clamp(1, SESSION_ROWS_PER_STEP)
    }

    /// Extent rows that what has to happen in one transaction may take.
    pub(crate) fn map_rows_max(&self) -> usize {
        // A row more than in a step at least, for the one that its range begins in.
        (self.limits.writes / (WRITES_PER_MAP_ROW - 1)).clamp(MAP_ROWS_PER_STEP_MIN + 1, MAP_ROWS_PER_TX_MAX)
    }

    /// The row at `key`. One of an inode in a snapshot is the row as that snapshot sees it.
    pub(crate) async fn get<K: Key>(&mut self, key: &K) -> Op<Option<K::Row>> {
        let key = key.encode();
        if let Some(past) = Past::of(&key) {
            return past::get::<K>(self, &past, &key).await;
        }
        if let Some(row) = self.changes.waiting(&key) {
            return Ok(row.as_ref().map(|row| K::Row::decode(row)).transpose()?);
        }
        let value = self.inner.get(&key).await?;
        if K::VERSIONED {
            self.saw(&key, value.as_ref());
        }
        match value {
            Some(value) => Ok(Some(K::Row::decode(&value)?)),
            None => past::list_in::<K>(self, &key).await,
        }
    }

    /// The rows at `keys`, in their order.
    pub(crate) async fn get_many<K: Key>(&mut self, keys: &[K]) -> Op<Vec<Option<K::Row>>> {
        let encoded: Vec<_> = keys.iter().map(Key::encode).collect();
        if encoded.iter().any(|key| Past::of(key).is_some()) {
            let mut rows = Vec::with_capacity(keys.len());
            for key in keys {
                rows.push(self.get(key).await?);
            }
            return Ok(rows);
        }
        let values = self.inner.get_many(&encoded).await?;
        let mut rows = Vec::with_capacity(values.len());
        for (key, value) in encoded.iter().zip(values) {
            let row = match self.changes.waiting(key) {
                Some(row) => row.as_ref().map(|row| K::Row::decode(row)).transpose()?,
                None => {
                    if K::VERSIONED {
                        self.saw(key, value.as_ref());
                    }
                    value.map(|value| K::Row::decode(&value)).transpose()?
                }
            };
            rows.push(row);
        }
        Ok(rows)
    }

    /// The row at `key`, which others may change without a conflict. Rows that snapshots see have to bear what
    /// history.rs says of directory times.
    pub(crate) async fn get_unvalidated<K: Key>(&mut self, key: &K) -> Op<Option<K::Row>> {
        let key = key.encode();
        if let Some(past) = Past::of(&key) {
            return past::get::<K>(self, &past, &key).await;
        }
        if let Some(row) = self.changes.waiting(&key) {
            return Ok(row.as_ref().map(|row| K::Row::decode(row)).transpose()?);
        }
        let value = self.inner.read_unvalidated(&key).await?;
        if K::VERSIONED {
            self.saw(&key, value.as_ref());
        }
        Ok(value.map(|value| K::Row::decode(&value)).transpose()?)
    }

    /// At most `limit` rows of `range`.
    pub(crate) async fn scan<K: Key>(&mut self, range: &KeyRange, limit: usize, order: Order) -> Op<Vec<(K, K::Row)>> {
        if let Some(past) = Past::of(&range.start) {
            return past::scan::<K>(self, &past, range, limit, order).await;
        }
        if K::VERSIONED {
            self.reveal(Some(range)).await?;
        }
        let found = self.inner.scan(range, limit, order).await?;
        if K::VERSIONED {
            found.iter().for_each(|(key, value)| self.saw(key, Some(value)));
        }
        found
            .into_iter()
            .map(|(key, value)| Ok((K::decode(&key).ok_or_else(bad_key::<K>)?, K::Row::decode(&value)?)))
            .collect()
    }

    /// Rows in `range`, but no more than `limit`.
    pub(crate) async fn count(&mut self, range: &KeyRange, limit: u64) -> Op<u64> {
        let mut range = range.clone();
        let mut count = 0;
        while count < limit {
            let page = (limit - count).min(1024) as usize;
            let found = self.inner.scan(&range, page, Order::Forward).await?;
            count += found.len() as u64;
            let Some((last, _)) = found.last().filter(|_| found.len() == page) else { break };
            range.start = KeyRange::successor(last);
        }
        Ok(count)
    }

    /// Every row of type `K`, refused when there are more than `max`: only for tables that are small by nature.
    pub(crate) async fn table<K: Key>(&mut self, max: usize) -> Op<Vec<(K, K::Row)>> {
        let rows = self.scan(&K::all(), max + 1, Order::Forward).await?;
        if rows.len() > max {
            return fail(Code::TooLarge, format!("more than {max} rows with tag {:#04x}", K::TAG));
        }
        Ok(rows)
    }

    /// Writes `row` at `key`. A row that snapshots see gets its birth here.
    pub(crate) fn put<K: Key>(&mut self, key: &K, row: &K::Row) {
        if K::VERSIONED {
            let mut row = row.clone();
            row.stamp(self.birth);
            self.write(key.encode(), Some(row.encode()));
        } else {
            self.inner.put(key.encode(), row.encode());
        }
    }

    /// As [`Tx::put`], of something with a number that was never given to anything: spares the look at what stood there.
    pub(crate) fn put_new<K: Key>(&mut self, key: &K, row: &K::Row) {
        self.changes.see_nothing(key.encode());
        self.put(key, row);
    }

    pub(crate) fn delete<K: Key>(&mut self, key: &K) {
        if K::VERSIONED {
            self.write(key.encode(), None);
        } else {
            self.inner.delete(key.encode());
        }
    }

    fn write(&mut self, key: Vec<u8>, row: Option<Vec<u8>>) {
        if Past::of(&key).is_some() {
            self.denied = true;
            return;
        }
        if self.changes.write(&key, row.as_ref()) {
            self.hand_over(key, row);
        }
    }

    fn hand_over(&mut self, key: Vec<u8>, row: Option<Vec<u8>>) {
        match row {
            Some(row) => self.inner.put(key, row),
            None => self.inner.delete(key),
        }
    }

    /// Looks up what stood where this transaction wrote blindly, in `range` or everywhere, and gives the engine what it
    /// wrote. Where nobody needs to know what stood there, it is not looked up.
    async fn reveal(&mut self, range: Option<&KeyRange>) -> Op<()> {
        for key in self.changes.blind_keys(range) {
            let needed = self.head.live > 0 || key.first() == Some(&keys::Inode::TAG);
            let old = match needed {
                true if is_validated(&key) => self.inner.get(&key).await?,
                true => self.inner.read_unvalidated(&key).await?,
                false => None,
            };
            if let Some(row) = self.changes.reveal(&key, old) {
                self.hand_over(key, row);
            }
        }
        Ok(())
    }

    /// Ends the operation's part of the transaction: every change of a row that snapshots see passes here, once, as the
    /// row before and the row after. A transaction that changes none of them costs nothing here; any other reads one row.
    ///
    /// The list is then in `changed`, for who has to act on it: inodes for usage, names for the feed ([`Change::of`]). Of
    /// an inode's row the former one is always known; of other blind rows only while there are snapshots.
    pub(crate) async fn seal(&mut self) -> Op<Sealed> {
        if self.denied {
            return fail(Code::ReadOnly, "a snapshot cannot be changed; copy what you need out of it");
        }
        if self.changes.is_empty() {
            return Ok(Sealed::Ready);
        }
        if self.looks {
            return fail(Code::Internal, "an operation that only looks has changed a row");
        }
        let head = Head::load(self).await?;
        if head != self.head {
            return Ok(Sealed::Moved(head));
        }
        self.reveal(None).await?;
        let changes: Vec<Change> = self.changes.list();
        history::keep(self, &changes)?;
        self.changed = changes;
        Ok(Sealed::Ready)
    }

    /// Takes one number of `counter` inside this transaction: for kinds that are rarely made and should stay dense.
    pub(crate) async fn next_number(&mut self, counter: u8) -> Op<u64> {
        let key = keys::Counter { counter };
        let next = self.get(&key).await?.map_or(1, |row| row.next);
        self.put(&key, &rows::Counter { next: next + 1 });
        Ok(next)
    }

    /// The inode's row; NOT_FOUND when it does not exist.
    pub(crate) async fn inode(&mut self, inode: u64) -> Op<rows::Inode> {
        match self.get(&keys::Inode { inode }).await? {
            Some(row) => Ok(row),
            None => fail(Code::NotFound, format!("inode {inode} does not exist")),
        }
    }

    /// The row of a directory.
    pub(crate) async fn directory(&mut self, inode: u64) -> Op<rows::Inode> {
        let row = self.inode(inode).await?;
        match row.kind {
            rows::Kind::Directory => Ok(row),
            _ => fail(Code::NotADirectory, format!("inode {inode} is not a directory")),
        }
    }

    /// The row of a file.
    pub(crate) async fn file(&mut self, inode: u64) -> Op<rows::Inode> {
        let row = self.inode(inode).await?;
        match row.kind {
            rows::Kind::File => Ok(row),
            rows::Kind::Directory => fail(Code::IsADirectory, format!("inode {inode} is a directory")),
            kind => fail(Code::Invalid, format!("inode {inode} is no file but a {}", kind.word())),
        }
    }

    /// Notes that names in `dir` changed. Never reads: creates in one directory do not meet here.
    pub(crate) fn touch_dir(&mut self, dir: u64) {
        let times = rows::DirTimes { mtime_ns: self.now_ns, ctime_ns: self.now_ns, birth: self.birth };
        self.put(&keys::DirTimes { inode: dir }, &times);
    }
}
