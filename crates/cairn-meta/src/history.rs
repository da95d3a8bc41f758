//! What snapshots see: how a row is kept for them when it changes, and how it is found again.
//!
//! Snapshots are numbered from 1. A row carries its *birth*: the newest snapshot when the row was last changed (0 before
//! the first). Snapshot s sees a row exactly when it was written before s was taken and changed or removed after: its
//! birth is below s, and s is not above the newest snapshot at the moment of the change. So whoever changes a row whose
//! birth is below the newest snapshot that still exists first copies it to `History { key, snapshot: newest }`, and whoever
//! looks at s takes the first history row with `snapshot` >= s, else the current row, and of it only what has a birth
//! below s. Since the change gives the row the newest birth, no key gets two history rows of one snapshot.
//!
//! Which snapshot is the newest stands in one row, the [`Head`], that every transaction reads validated in which a row
//! changes that snapshots see: taking a snapshot writes it, so each change lies before or after each snapshot.
//!
//! Directory times are written without being read, and their former value is looked up unvalidated. That is harmless:
//! between two snapshots the first change gives the row the newest birth, so all that read a birth below the newest read
//! the *same* value, whichever of them commits first, and write the same history row; one that reads the newest birth
//! writes none. One that began before a snapshot and commits after it conflicts on the head.

use crate::changes::Change;
use crate::error::Op;
use crate::keys::{self, Key, setting};
use crate::rows::{self, Row, RowError};
use crate::tx::Tx;
use bytes::Bytes;

/// The newest snapshots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Head {
    /// The number given out last; 0 = none was ever taken.
    pub newest: u64,
    /// The highest number of a snapshot that still exists; 0 = there is none, and nothing is kept.
    pub live: u64,
    /// Blocks that were first committed at this snapshot or a later one are held by none. As `live`, unless there is a
    /// backup, which may also hold what came after its number was given out (kept.rs).
    pub reach: u64,
}

impl Head {
    fn key() -> keys::Setting {
        keys::Setting { name: Bytes::from_static(setting::SNAPSHOTS) }
    }

    /// A head without backups.
    pub(crate) const fn new(newest: u64, live: u64) -> Head {
        Head { newest, live, reach: live }
    }

    /// The head as this transaction sees it, read validated.
    pub(crate) async fn load(tx: &mut Tx) -> Op<Head> {
        match tx.get(&Self::key()).await? {
            None => Ok(Head::default()),
            Some(row) => Ok(Self::decode(&row.value).ok_or(RowError { row: "snapshots setting" })?),
        }
    }

    /// Writes the head: whoever changes a row at the same time conflicts.
    pub(crate) fn store(self, tx: &mut Tx) {
        tx.put(&Self::key(), &rows::Setting { value: self.encode().into() });
    }

    fn encode(self) -> Vec<u8> {
        let mut value = [self.newest.to_le_bytes(), self.live.to_le_bytes()].concat();
        if self.reach != self.live {
            value.extend_from_slice(&self.reach.to_le_bytes());
        }
        value
    }

    /// Reads the setting back.
    pub(crate) fn decode(value: &[u8]) -> Option<Head> {
        let (numbers, rest) = value.as_chunks::<8>();
        let number = |index: usize| numbers.get(index).map(|bytes| u64::from_le_bytes(*bytes));
        let (newest, live) = (number(0)?, number(1)?);
        let head = Head { newest, live, reach: number(2).unwrap_or(live) };
        (numbers.len() <= 3 && rest.is_empty() && live <= newest && live <= head.reach).then_some(head)
    }
}

/// The birth of a row that snapshots see; `None` for a key of another type.
pub(crate) fn birth_of(key: &[u8], row: &[u8]) -> Result<Option<u64>, RowError> {
    fn birth<K: Key>(row: &[u8]) -> Result<Option<u64>, RowError> {
        K::Row::decode(row).map(|row| Some(row.birth()))
    }
    match key.first().copied() {
        Some(keys::Inode::TAG) => birth::<keys::Inode>(row),
        Some(keys::DirTimes::TAG) => birth::<keys::DirTimes>(row),
        Some(keys::Dentry::TAG) => birth::<keys::Dentry>(row),
        Some(keys::Extent::TAG) => birth::<keys::Extent>(row),
        Some(keys::Xattr::TAG) => birth::<keys::Xattr>(row),
        Some(keys::Symlink::TAG) => birth::<keys::Symlink>(row),
        _ => Ok(None),
    }
}

/// Keeps what snapshots see of the rows that change.
pub(crate) fn keep(tx: &mut Tx, changes: &[Change]) -> Op<()> {
    let head = tx.head;
    for change in changes {
        let Some(old) = &change.old else { continue };
        if let Some(birth) = birth_of(&change.key, old)?
            && birth < head.live
        {
            let key = keys::History { key: keys::Escaped(Bytes::copy_from_slice(&change.key)), snapshot: head.newest };
            tx.put(&key, &rows::History { birth, row: old.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
