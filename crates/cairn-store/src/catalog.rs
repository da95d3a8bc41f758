//! What the store holds: the index, the segments and the quarantine, as the records in order make it.
//!
//! Both the live path and recovery go through [`Catalog::apply_put`] and [`Catalog::apply_tombstone`], so an index that
//! was rebuilt equals the one that was lost. Pure: no I/O.

use crate::format::record::{Place, PutHeader, TombstoneEntry, pad, put_header_len, put_len};
use crate::format::{BlockKey, Cause};
use crate::index::{Entry, Index, State};
use crate::limits::PAGE_LEN;
use crate::table::SegmentTable;
use cairn_proto::WriterId;
use std::collections::{BTreeMap, BTreeSet};

/// A segment as the catalog knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Bytes appended, the first page included.
    pub len: u64,
    /// Blocks of the index that lie in it.
    pub blocks: u64,
    /// Bytes of the records of those blocks.
    pub live: u64,
    /// Bytes of dead payloads given back.
    pub punched: u64,
    /// Other segments that must be gone before this one may go: its records hide older ones there.
    pub needs: BTreeSet<u32>,
}

impl SegmentInfo {
    /// Bytes of the disk it takes.
    pub fn occupied(&self) -> u64 {
        self.len.saturating_sub(self.punched)
    }

    /// Bytes of it that neither are a live record nor were given back: dead payloads, headers, tombstones.
    pub fn dead(&self) -> u64 {
        self.occupied().saturating_sub(self.live + PAGE_LEN)
    }
}

/// The payload of a dead record, to be given back to the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadPayload {
    /// Segment that holds it.
    pub segment: u32,
    /// Where it begins.
    pub offset: u64,
    /// Its padded length, not 0.
    pub len: u64,
}

/// Index, segments and quarantine of a store. Cloning is cheap: the index is shared until it changes.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// All blocks.
    pub index: Index,
    /// All segments, by generation.
    pub segments: SegmentTable,
    /// Why blocks are quarantined; exactly the index entries in that state.
    pub quarantine: BTreeMap<BlockKey, Cause>,
    /// Highest writer of any block ever seen.
    pub highest_writer: WriterId,
}

impl Catalog {
    /// Takes a stored block into the index, in place of an older record of the same key. The new one is quarantined
    /// at once when `cause` says so. Returns the payload that died with the older record.
    pub fn apply_put(&mut self, place: Place, put: &PutHeader, cause: Option<Cause>) -> Option<DeadPayload> {
        let page = u32::try_from(place.offset / PAGE_LEN).expect("offsets stay below SEGMENT_LEN_MAX");
        let mut entry = Entry::new(put.key, put.pg, place.segment, page, put.stored_len);
        if cause.is_some() {
            entry.state = State::Quarantined;
        }
        let len = put_len(put.stored_len);
        self.segments.change_or_add(place.segment, |segment| {
            segment.blocks += 1;
            segment.live += len;
            segment.len = segment.len.max(place.offset + len);
            if put.replaces != 0 && put.replaces != place.segment {
                segment.needs.insert(put.replaces);
            }
        });
        self.highest_writer = self.highest_writer.max(put.key.block.writer);
        match cause {
            Some(cause) => self.quarantine.insert(put.key, cause),
            None => self.quarantine.remove(&put.key),
        };
        let old = self.index.insert(entry)?;
        self.retire(old)
    }

    /// Takes deleted blocks out of the index. Returns the payloads that died.
    pub fn apply_tombstone(&mut self, place: Place, len: u64, entries: &[TombstoneEntry]) -> Vec<DeadPayload> {
        let needed = entries.iter().map(|entry| entry.put_segment).filter(|needed| *needed != place.segment);
        self.segments.change_or_add(place.segment, |segment| {
            segment.len = segment.len.max(place.offset + len);
            segment.needs.extend(needed);
        });
        let mut dead = Vec::new();
        for entry in entries {
            self.highest_writer = self.highest_writer.max(entry.key.block.writer);
            self.quarantine.remove(&entry.key);
            if let Some(old) = self.index.remove(entry.key) {
                dead.extend(self.retire(old));
            }
        }
        dead
    }

    fn retire(&mut self, old: Entry) -> Option<DeadPayload> {
        // A block in a missing segment has nothing to give back.
        self.segments.change(old.segment, |segment| {
            segment.blocks = segment.blocks.saturating_sub(1);
            segment.live = segment.live.saturating_sub(put_len(old.len));
        })?;
        let len = pad(u64::from(old.len));
        let offset = u64::from(old.page) * PAGE_LEN + put_header_len(old.len);
        (len > 0).then_some(DeadPayload { segment: old.segment, offset, len })
    }

    /// Notes a record that says nothing about any block: a damaged copy of one that is there.
    pub fn apply_nothing(&mut self, place: Place, len: u64) {
        self.segments.change_or_add(place.segment, |segment| segment.len = segment.len.max(place.offset + len));
    }

    /// Dead payloads of a segment were given back.
    pub fn gave_back(&mut self, generation: u32, len: u64) {
        // Giving back twice is harmless; counting it twice would not be.
        self.segments.change(generation, |segment| segment.punched += len.min(segment.dead()));
    }

    /// All that a segment hides is hidden by later records, too.
    pub fn needs_nothing(&mut self, generation: u32) {
        self.segments.change(generation, |segment| segment.needs.clear());
    }

    /// A run of index entries that lie in one segment comes from a checkpoint; the segment's row is known unless its file
    /// was missing already.
    pub fn restore(&mut self, segment: u32, blocks: u64, live: u64) {
        self.segments.change(segment, |segment| {
            segment.blocks += blocks;
            segment.live = segment.live.saturating_add(live);
        });
    }

    /// Marks `damaged` as never to be served, if it still is the live record of its key. Returns whether it was.
    pub fn quarantine(&mut self, damaged: &Entry, cause: Cause) -> bool {
        let key = damaged.key();
        match self.index.get(key) {
            Some(entry) if entry.same_record(damaged) && entry.state == State::Live => {
                self.quarantine.insert(key, cause);
                self.index.set_state(key, State::Quarantined)
            }
            _ => false,
        }
    }

    /// Segments older than `active` that hold no block and hide no record of a segment that is still there.
    pub fn removable(&self, active: u32) -> Vec<u32> {
        let sealed = self.segments.range(..active);
        sealed
            .filter(|(_, segment)| segment.blocks == 0 && !self.is_needed(segment))
            .map(|(generation, _)| *generation)
            .collect()
    }

    /// True while the segment hides records that are still there.
    pub fn is_needed(&self, segment: &SegmentInfo) -> bool {
        segment.needs.iter().any(|needed| self.segments.contains_key(needed))
    }

    /// Bytes of the disk the segments take.
    pub fn used_bytes(&self) -> u64 {
        self.segments.occupied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::{BlockId, PgEpoch, PgId};

    fn key(n: u32) -> BlockKey {
        BlockKey::replica(BlockId::new(1, 5, n))
    }

    fn put(n: u32, len: u32, replaces: u32) -> PutHeader {
        PutHeader {
            key: key(n),
            pg: PgId(1),
            pg_epoch: PgEpoch(1),
            codec: 0,
            k: 0,
            m: 0,
            stored_len: len,
            logical_len: u64::from(len),
            file_offset_hint: 0,
            replaces,
            damage: None,
            crcs: vec![0; len.div_ceil(65536) as usize],
        }
    }

    const fn place(segment: u32, page: u64) -> Place {
        Place { segment, offset: page * PAGE_LEN }
    }

    fn tombstone(n: u32, put_segment: u32) -> TombstoneEntry {
        TombstoneEntry { key: key(n), pg: PgId(1), put_segment }
    }

    #[test]
    fn a_segment_goes_when_it_is_empty_and_what_it_hides_is_gone() {
        let mut catalog = Catalog::default();
        catalog.apply_put(place(1, 1), &put(1, 5000, 0), None);
        catalog.apply_put(place(1, 4), &put(2, 5000, 0), None);
        let dead = catalog.apply_tombstone(place(2, 1), PAGE_LEN, &[tombstone(1, 1)]);
        assert_eq!(dead, [DeadPayload { segment: 1, offset: 2 * PAGE_LEN, len: 2 * PAGE_LEN }]);
        assert_eq!(catalog.used_bytes(), 7 * PAGE_LEN + 2 * PAGE_LEN);
        catalog.gave_back(1, 2 * PAGE_LEN);
        assert_eq!(catalog.used_bytes(), 7 * PAGE_LEN - 2 * PAGE_LEN + 2 * PAGE_LEN);
        assert_eq!((catalog.segments[&1].live, catalog.segments[&1].dead()), (3 * PAGE_LEN, PAGE_LEN));
        catalog.apply_put(place(3, 1), &put(3, 1, 0), None);
        assert_eq!(catalog.removable(3), [], "block 2 is in 1, and 2 hides block 1");
        catalog.apply_tombstone(place(3, 3), PAGE_LEN, &[tombstone(2, 1)]);
        assert_eq!(catalog.removable(3), [1], "2 still hides what is in 1");
        catalog.segments.remove(1);
        assert_eq!(catalog.removable(3), [2]);
        assert_eq!(catalog.removable(4), [2], "3 holds block 3");
    }

    #[test]
    fn a_replacement_hides_the_damaged_record() {
        let mut catalog = Catalog::default();
        catalog.apply_put(place(1, 1), &put(1, 100, 0), None);
        let damaged = *catalog.index.get(key(1)).unwrap();
        assert!(catalog.quarantine(&damaged, Cause::Payload));
        assert!(!catalog.quarantine(&damaged, Cause::Payload), "already");
        catalog.apply_put(place(2, 1), &put(1, 100, 1), None);
        assert_eq!(catalog.quarantine, BTreeMap::new());
        assert!(!catalog.quarantine(&damaged, Cause::Header), "another record lives under the key now");
        catalog.apply_tombstone(place(3, 1), PAGE_LEN, &[tombstone(1, 2)]);
        assert_eq!(catalog.removable(4), [1], "2 hides the record in 1, 3 the one in 2");
        catalog.segments.remove(1);
        assert_eq!(catalog.removable(4), [2]);
    }

    #[test]
    fn the_highest_writer_outlives_its_blocks() {
        let mut catalog = Catalog::default();
        catalog.apply_put(place(1, 1), &put(1, 1, 0), None);
        catalog.apply_tombstone(place(1, 3), PAGE_LEN, &[tombstone(1, 1)]);
        assert_eq!(catalog.highest_writer, WriterId(5));
        assert_eq!(catalog.index.len(), 0);
    }
}
