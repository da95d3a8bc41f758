//! A transaction in terms of typed keys and rows, with what has to happen in memory once it is committed.

use crate::error::{Fault, Op, fail};
use crate::keys::{self, Key};
use crate::kv::{KeyRange, Order, Txn};
use crate::rows::{self, Row};
use cairn_proto::status::Code;

/// Changes of in-memory totals, applied when the transaction is known to be committed.
#[derive(Default, Debug)]
pub(crate) struct Effects {
    /// Inodes more or fewer.
    pub inodes: i64,
    /// Bytes of files more or fewer.
    pub file_bytes: i64,
    /// Bytes committed to groups.
    pub pg_bytes: Vec<(u32, u64)>,
    /// Nodes, stores or groups changed.
    pub map_changed: bool,
    /// A membership went from one store to another: the bytes of its group.
    pub moved: Option<u64>,
}

impl Effects {
    pub(crate) fn is_empty(&self) -> bool {
        self.inodes == 0
            && self.file_bytes == 0
            && self.pg_bytes.is_empty()
            && !self.map_changed
            && self.moved.is_none()
    }
}

/// A transaction of the namespace.
pub(crate) struct Tx {
    pub(crate) inner: Box<dyn Txn>,
    pub(crate) effects: Effects,
    /// Wall time of everything this transaction changes.
    pub(crate) now_ns: i64,
    /// Snapshot number that changed rows carry.
    pub(crate) birth: u64,
}

fn bad_key<K: Key>() -> Fault {
    Fault::from(cairn_proto::status::Status::new(
        Code::Corrupt,
        format!("metadata: a key with tag {:#04x} does not decode", K::TAG),
    ))
}

impl Tx {
    /// The row at `key`.
    pub(crate) async fn get<K: Key>(&mut self, key: &K) -> Op<Option<K::Row>> {
        let value = self.inner.get(&key.encode()).await?;
        Ok(value.map(|value| K::Row::decode(&value)).transpose()?)
    }

    /// The rows at `keys`, in their order.
    pub(crate) async fn get_many<K: Key>(&mut self, keys: &[K]) -> Op<Vec<Option<K::Row>>> {
        let encoded: Vec<_> = keys.iter().map(Key::encode).collect();
        let values = self.inner.get_many(&encoded).await?;
        values.into_iter().map(|value| Ok(value.map(|value| K::Row::decode(&value)).transpose()?)).collect()
    }

    /// The row at `key`, which others may change without a conflict.
    pub(crate) async fn get_unvalidated<K: Key>(&mut self, key: &K) -> Op<Option<K::Row>> {
        let value = self.inner.read_unvalidated(&key.encode()).await?;
        Ok(value.map(|value| K::Row::decode(&value)).transpose()?)
    }

    /// At most `limit` rows of `range`.
    pub(crate) async fn scan<K: Key>(&mut self, range: &KeyRange, limit: usize, order: Order) -> Op<Vec<(K, K::Row)>> {
        let found = self.inner.scan(range, limit, order).await?;
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

    pub(crate) fn put<K: Key>(&mut self, key: &K, row: &K::Row) {
        self.inner.put(key.encode(), row.encode());
    }

    pub(crate) fn delete<K: Key>(&mut self, key: &K) {
        self.inner.delete(key.encode());
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
            rows::Kind::Symlink => fail(Code::Invalid, format!("inode {inode} is a symbolic link")),
        }
    }

    /// Notes that names in `dir` changed. Never reads: creates in one directory do not meet here.
    pub(crate) fn touch_dir(&mut self, dir: u64) {
        let times = rows::DirTimes { mtime_ns: self.now_ns, ctime_ns: self.now_ns };
        self.put(&keys::DirTimes { inode: dir }, &times);
    }
}
