//! What a transaction does to rows that snapshots see: for every key it touches, the row that stood there when it began
//! and the row that it leaves. [`Tx`](crate::tx::Tx) keeps this list without help from operations, and looks at it once,
//! when the operation is done and before the commit (`Tx::seal`).
//!
//! Most rows are read before they are written, and what was read is remembered. A row that is written without having been
//! read is *blind*: it waits here, hidden behind the reads of its own transaction, until the list is needed, and only then
//! is its former value looked up. Directory times are the blind rows that matter: creates in one directory must not meet
//! on them, so their former value is read unvalidated. That is enough: see history.rs.

use crate::keys::{self, Key};
use crate::kv::KeyRange;
use crate::rows::{Row, RowError};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};

/// A row that snapshots see, before and after a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    /// The encoded key.
    pub key: Vec<u8>,
    /// The encoded row when the transaction began. `None`: there was none, or nobody needed to know.
    pub old: Option<Bytes>,
    /// The encoded row that the transaction leaves; `None` = it removes it.
    pub new: Option<Vec<u8>>,
}

impl Change {
    /// The change in terms of `K`: its key, the row before and the row after. `None` for rows of another type.
    #[allow(clippy::type_complexity, reason = "a key and two rows, named above")]
    pub(crate) fn of<K: Key>(&self) -> Option<Result<(K, Option<K::Row>, Option<K::Row>), RowError>> {
        let key = K::decode(&self.key)?;
        let decoded = || {
            let old = self.old.as_ref().map(|row| K::Row::decode(row)).transpose()?;
            let new = self.new.as_ref().map(|row| K::Row::decode(row)).transpose()?;
            Ok((key, old, new))
        };
        Some(decoded())
    }
}

/// The rows of one transaction that snapshots see, as it read and wrote them.
#[derive(Default, Debug)]
pub(crate) struct Changes {
    /// Rows as they stood when the transaction began, as far as it read them.
    seen: HashMap<Vec<u8>, Option<Bytes>>,
    /// Rows written after they were read, or known to be new.
    written: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Rows written and never read; the engine has not got them yet.
    blind: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Changes {
    /// Notes that `value` was read at `key`. What the transaction wrote itself is not what stood there.
    pub(crate) fn see(&mut self, key: &[u8], value: Option<&Bytes>) {
        if !self.written.contains_key(key) && !self.seen.contains_key(key) {
            self.seen.insert(key.to_vec(), value.cloned());
        }
    }

    /// Notes that nothing stands at `key`: its number was never given to anything.
    pub(crate) fn see_nothing(&mut self, key: Vec<u8>) {
        self.seen.entry(key).or_insert(None);
    }

    /// Notes a write. True when the engine may have it now; a blind one waits here.
    pub(crate) fn write(&mut self, key: &[u8], row: Option<&Vec<u8>>) -> bool {
        let known = self.seen.contains_key(key);
        let rows = if known { &mut self.written } else { &mut self.blind };
        rows.insert(key.to_vec(), row.cloned());
        known
    }

    /// The row that waits blindly at `key`, which only this transaction can see.
    pub(crate) fn waiting(&self, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.blind.get(key)
    }

    /// Keys of blind rows in `range`; all of them, if `None`.
    pub(crate) fn blind_keys(&self, range: Option<&KeyRange>) -> Vec<Vec<u8>> {
        match range {
            None => self.blind.keys().cloned().collect(),
            Some(range) if range.is_empty() => Vec::new(),
            Some(range) => {
                self.blind.range(range.start.clone()..range.end.clone()).map(|(key, _)| key.clone()).collect()
            }
        }
    }

    /// `old` is what stood at `key`, which was written blindly; returns what the engine has to be given.
    pub(crate) fn reveal(&mut self, key: &[u8], old: Option<Bytes>) -> Option<Option<Vec<u8>>> {
        let row = self.blind.remove(key)?;
        self.seen.insert(key.to_vec(), old);
        self.written.insert(key.to_vec(), row.clone());
        Some(row)
    }

    /// True when the transaction leaves every row that snapshots see as it is.
    pub(crate) fn is_empty(&self) -> bool {
        self.written.is_empty() && self.blind.is_empty()
    }

    /// The list, once no row is blind any more. A row that came and went within the transaction is not on it.
    pub(crate) fn list(&mut self) -> Vec<Change> {
        let Self { seen, written, .. } = self;
        let change = |(key, new): (Vec<u8>, Option<Vec<u8>>)| Change { old: seen.remove(&key).flatten(), key, new };
        let changes = std::mem::take(written).into_iter().map(change);
        changes.filter(|change| change.old.is_some() || change.new.is_some()).collect()
    }
}

/// Whether the former value of a blind row is read validated. The times of a directory are not: creates in it would meet.
pub(crate) fn is_validated(key: &[u8]) -> bool {
    key.first() != Some(&keys::DirTimes::TAG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn the_first_thing_read_is_what_stood_there() {
        let mut changes = Changes::default();
        changes.see(b"a", Some(&bytes("old")));
        assert!(changes.write(b"a", Some(&b"new".to_vec())));
        // The transaction reads its own write.
        changes.see(b"a", Some(&bytes("new")));
        assert!(changes.write(b"a", None));
        let list = changes.list();
        assert_eq!(list, [Change { key: b"a".to_vec(), old: Some(bytes("old")), new: None }]);
        assert!(changes.is_empty());
    }

    #[test]
    fn a_blind_row_waits_until_its_former_value_is_known() {
        let mut changes = Changes::default();
        assert!(!changes.write(b"b", Some(&b"one".to_vec())));
        assert!(!changes.write(b"b", Some(&b"two".to_vec())));
        assert_eq!(changes.waiting(b"b"), Some(&Some(b"two".to_vec())));
        let range = |start: &str, end: &str| KeyRange { start: start.into(), end: end.into() };
        assert_eq!(changes.blind_keys(Some(&range("a", "b"))), Vec::<Vec<u8>>::new());
        assert_eq!(changes.blind_keys(Some(&range("z", "a"))), Vec::<Vec<u8>>::new());
        assert_eq!(changes.blind_keys(Some(&range("a", "c"))), [b"b".to_vec()]);
        assert_eq!(changes.reveal(b"b", Some(bytes("old"))), Some(Some(b"two".to_vec())));
        assert_eq!(changes.waiting(b"b"), None);
        assert!(changes.write(b"b", Some(&b"three".to_vec())));
        let list = changes.list();
        assert_eq!(list, [Change { key: b"b".to_vec(), old: Some(bytes("old")), new: Some(b"three".to_vec()) }]);
    }

    #[test]
    fn what_came_and_went_is_no_change() {
        let mut changes = Changes::default();
        changes.see_nothing(b"c".to_vec());
        assert!(changes.write(b"c", Some(&b"row".to_vec())));
        assert!(changes.write(b"c", None));
        assert!(!changes.is_empty());
        assert_eq!(changes.list(), []);
    }

    #[test]
    fn a_change_is_read_in_terms_of_its_key() {
        use crate::rows::Dentry;
        let row = |inode| Dentry { inode, kind: crate::rows::Kind::File, birth: 0 };
        let key = keys::Dentry { parent: 1, name: bytes("x") };
        let change = Change { key: key.encode(), old: Some(row(2).encode().into()), new: None };
        assert_eq!(change.of::<keys::Dentry>(), Some(Ok((key, Some(row(2)), None))));
        assert_eq!(change.of::<keys::Inode>(), None);
        let damaged = Change { old: Some(bytes("?")), ..change };
        assert!(damaged.of::<keys::Dentry>().is_some_and(|read| read.is_err()));
    }
}
