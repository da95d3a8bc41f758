//! The writer's part of compaction: appending what is moved, beside what clients ask for.
//!
//! Whoever moves a record has read it some time ago. It is appended only if it still is the record of its key when its
//! turn comes, under the lock of the log's end: a delete that came first wins, one that comes later finds the copy.

use crate::append::{Appender, Effect, Run, Staged};
use crate::error::Poisoned;
use crate::format::record::{self, PutHeader, TombstoneEntry, pad, put_len, tombstone_len};
use crate::index::{Entry, State};
use crate::limits::TOMBSTONE_ENTRIES_MAX;
use bytes::Bytes;

/// A record as it was read and verified.
pub struct Relocation {
    pub entry: Entry,
    pub header: PutHeader,
    pub payload: Bytes,
}

/// Why maintenance cannot append.
#[derive(Debug)]
pub enum Blocked {
    /// Not without touching the reserve.
    NoSpace,
    Poisoned(#[allow(dead_code, reason = "shown when debugging")] Poisoned),
}

impl Appender {
    /// Appends copies of records that are still the records of their keys. Returns how many were; they are the ones to
    /// be read from now on, and durable with the next sync.
    pub fn relocate(&mut self, relocations: Vec<Relocation>) -> Result<usize, Blocked> {
        self.shared.check_poison().map_err(Blocked::Poisoned)?;
        self.free = self.shared.space().free;
        let mut run = Run::default();
        let mut moved = 0;
        for Relocation { entry, header, payload } in relocations {
            let current = self.shared.catalog.read().index.get(entry.key()).copied();
            if current.is_none_or(|current| !current.same_record(&entry) || current.state != State::Live) {
                continue;
            }
            let len = put_len(header.stored_len);
            if len > self.free {
                self.flush(&mut run);
                return Err(Blocked::NoSpace);
            }
            let stamp = self.place(&mut run, len).map_err(|_| self.blocked())?;
            // The older record stays until its file is gone, so this one must stay as long.
            let header = PutHeader { replaces: entry.segment, ..header };
            run.keys.insert(header.key);
            run.records.push(Staged {
                place: stamp.place,
                header: record::encode_put(self.shared.uuid, stamp, &header),
                padding: (pad(payload.len() as u64) - payload.len() as u64) as usize,
                parts: vec![payload],
                effect: Effect::Relocate { header },
            });
            moved += 1;
        }
        self.flush(&mut run);
        self.shared.check_poison().map_err(Blocked::Poisoned)?;
        Ok(moved)
    }

    /// Appends tombstones again, so that the segment `from` is needed for them no more. With `last`, that segment hides
    /// nothing on its own from now on. Returns false, and appends nothing, when one of the blocks is here again: its
    /// tombstone must not come after it.
    pub fn carry(&mut self, entries: &[TombstoneEntry], from: u32, last: bool) -> Result<bool, Blocked> {
        self.shared.check_poison().map_err(Blocked::Poisoned)?;
        {
            let catalog = self.shared.catalog.read();
            if entries.iter().any(|entry| catalog.index.get(entry.key).is_some()) {
                return Ok(false);
            }
        }
        self.free = self.shared.space().free;
        let groups: Vec<&[TombstoneEntry]> = entries.chunks(TOMBSTONE_ENTRIES_MAX).collect();
        if groups.iter().map(|group| tombstone_len(group.len())).sum::<u64>() > self.free {
            return Err(Blocked::NoSpace);
        }
        let mut run = Run::default();
        for (index, group) in groups.iter().enumerate() {
            let stamp = self.place(&mut run, tombstone_len(group.len())).map_err(|_| self.blocked())?;
            run.records.push(Staged {
                place: stamp.place,
                header: record::encode_tombstone(self.shared.uuid, stamp, group),
                parts: Vec::new(),
                padding: 0,
                effect: Effect::Carry {
                    entries: group.to_vec(),
                    relieved: (last && index + 1 == groups.len()).then_some(from),
                },
            });
        }
        self.flush(&mut run);
        self.shared.check_poison().map_err(Blocked::Poisoned)?;
        Ok(true)
    }

    /// A record found no place.
    fn blocked(&self) -> Blocked {
        self.shared.check_poison().map_or_else(Blocked::Poisoned, |()| Blocked::NoSpace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::format::BlockKey;
    use crate::options::{Execution, StoreOptions};
    use crate::store::{Durability, Put, Store};
    use cairn_proto::checksum::chunk_crcs;
    use cairn_proto::{BlockId, PgEpoch, PgId};
    use std::sync::Arc;

    const KEY: BlockKey = BlockKey::replica(BlockId::new(1, 2, 3));

    fn put(store: &Store) {
        let content = Bytes::from(vec![7; 5000]);
        let crcs = chunk_crcs(KEY.block, KEY.shard, &content);
        let put = Put {
            key: KEY,
            pg: PgId(1),
            pg_epoch: PgEpoch(1),
            parts: vec![content],
            crcs,
            file_offset_hint: 0,
            durability: Durability::Durable,
        };
        store.put(put, Box::new(|result| assert!(result.is_ok())));
        store.run_pending();
    }

    /// What compaction reads before it asks for the lock of the log's end.
    fn read(store: &Store) -> Relocation {
        let (shared, _) = store.parts();
        let entry = *shared.catalog.read().index.get(KEY).unwrap();
        let (header, payload) = crate::compact::read_record(shared, &entry).ok().unwrap();
        Relocation { entry, header, payload }
    }

    fn delete(store: &Store) {
        store.delete(vec![KEY], Box::new(|result| assert_eq!(result.unwrap().deleted, 1)));
        store.run_pending();
    }

    #[test]
    fn what_is_deleted_or_stored_anew_meanwhile_is_not_moved() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
        let options = StoreOptions { execution: Execution::Manual, reserve_bytes: Some(0), ..StoreOptions::default() };
        let (store, _) = Store::open(disk, options).unwrap();
        put(&store);
        let first = read(&store);
        delete(&store);
        let relocate = |relocation| store.parts().1.lock().relocate(vec![relocation]).unwrap();
        assert_eq!(relocate(first), 0);
        assert!(store.read(KEY).is_err(), "a delete wins");

        put(&store);
        let second = read(&store);
        delete(&store);
        put(&store);
        let before = store.durable_records();
        assert_eq!(relocate(second), 0, "another record lives under the key");
        assert!(store.quarantine(KEY, crate::format::Cause::Payload));
        delete(&store);
        put(&store);
        let third = read(&store);
        store.quarantine(KEY, crate::format::Cause::Payload);
        assert_eq!(relocate(third), 0, "what is known to be bad is not copied");
        assert_eq!(store.durable_records(), before + 2);
    }

    #[test]
    fn a_tombstone_is_not_carried_past_a_block_that_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
        let options = StoreOptions { execution: Execution::Manual, reserve_bytes: Some(0), ..StoreOptions::default() };
        let (store, _) = Store::open(disk, options).unwrap();
        let entry = TombstoneEntry { key: KEY, pg: PgId(1), put_segment: 1 };
        let carry = || store.parts().1.lock().carry(&[entry], 1, false).unwrap();
        assert!(carry(), "nothing is hurt");
        put(&store);
        assert!(!carry());
        assert!(store.read(KEY).is_ok());
    }
}
