//! Where each block lies: 40 bytes an entry in sorted chunks, some 45 bytes a block all in all.
//!
//! A sorted vector per chunk wastes less than a hash table does after doubling, gives inventories in key order, and
//! behind an `Arc` makes a snapshot for a checkpoint cost one pointer per chunk instead of a copy of the index: a chunk
//! is copied only when it changes while a snapshot is alive.

use crate::format::BlockKey;
use cairn_proto::{BlockId, PgId, Shard, WriterId};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// Entries in a chunk, at most.
const CHUNK_ENTRIES: usize = 256;
/// Chunks grow and shrink by this many entries, so that little is allocated and unused.
const CHUNK_STEP: usize = 16;

/// May a block be served?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Yes. Next: `Quarantined`, or gone by a delete.
    Live,
    /// No: it is known to be damaged. Next: replaced by a new `Live` entry, or gone by a delete.
    Quarantined,
}

/// One block. Fields of the key are flattened so that no padding is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    inode: u64,
    writer: u64,
    seq: u32,
    /// Segment that holds the record.
    pub segment: u32,
    /// Offset of the record in pages.
    pub page: u32,
    /// Payload bytes.
    pub len: u32,
    /// Placement group, bare.
    pub pg: u32,
    shard: u8,
    /// May it be served?
    pub state: State,
}

const _: () = assert!(size_of::<Entry>() == 40);

impl Entry {
    /// A live block.
    pub fn new(key: BlockKey, pg: PgId, segment: u32, page: u32, len: u32) -> Self {
        Self {
            inode: key.block.inode.0,
            writer: key.block.writer.0,
            seq: key.block.seq.0,
            segment,
            page,
            len,
            pg: pg.0,
            shard: key.shard.0,
            state: State::Live,
        }
    }

    /// Who wrote it.
    pub fn writer(&self) -> WriterId {
        WriterId(self.writer)
    }

    /// Its key.
    pub fn key(&self) -> BlockKey {
        BlockKey { block: BlockId::new(self.inode, self.writer, self.seq), shard: Shard(self.shard) }
    }

    /// True when both stand for the same record.
    pub fn same_record(&self, other: &Self) -> bool {
        (self.segment, self.page) == (other.segment, other.page) && self.key() == other.key()
    }
}

type Chunk = Arc<Vec<Entry>>;

/// All blocks of a store, in key order. Cloning is the snapshot.
#[derive(Clone, Debug)]
pub struct Index {
    /// By lower bound: every key of a chunk is at or above its own bound and below the next one. The lowest bound is
    /// the lowest key, so every key has a chunk.
    chunks: BTreeMap<BlockKey, Chunk>,
    len: u64,
}

impl Default for Index {
    fn default() -> Self {
        Self { chunks: BTreeMap::from([(BlockKey::default(), Chunk::default())]), len: 0 }
    }
}

impl Index {
    /// Number of entries.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The entry of a key.
    pub fn get(&self, key: BlockKey) -> Option<&Entry> {
        let chunk = self.chunks.range(..=key).next_back()?.1;
        chunk.binary_search_by_key(&key, Entry::key).ok().map(|at| &chunk[at])
    }

    /// Adds an entry, or replaces and returns the one of the same key.
    pub fn insert(&mut self, entry: Entry) -> Option<Entry> {
        let key = entry.key();
        let (_, shared) = self.chunks.range_mut(..=key).next_back().expect("the lowest bound is the lowest key");
        let at = match shared.binary_search_by_key(&key, Entry::key) {
            Ok(at) => return Some(std::mem::replace(&mut Arc::make_mut(shared)[at], entry)),
            Err(at) => at,
        };
        self.len += 1;
        if shared.len() < CHUNK_ENTRIES {
            insert_at(Arc::make_mut(shared), at, entry);
        } else if at == shared.len() {
            // Writers count upwards: leave the full chunk full.
            self.chunks.insert(key, Arc::new(vec![entry]));
        } else {
            let chunk = Arc::make_mut(shared);
            let upper = chunk.split_off(CHUNK_ENTRIES / 2);
            chunk.shrink_to_fit();
            let bound = upper[0].key();
            self.chunks.insert(bound, Arc::new(upper));
            let (_, shared) = self.chunks.range_mut(..=key).next_back().expect("the lowest bound is the lowest key");
            let at = shared.partition_point(|other| other.key() < key);
            insert_at(Arc::make_mut(shared), at, entry);
        }
        None
    }

    /// Changes the state of an entry in place; false when there is none.
    pub fn set_state(&mut self, key: BlockKey, state: State) -> bool {
        let Some((_, shared)) = self.chunks.range_mut(..=key).next_back() else { return false };
        match shared.binary_search_by_key(&key, Entry::key) {
            Ok(at) => {
                Arc::make_mut(shared)[at].state = state;
                true
            }
            Err(_) => false,
        }
    }

    /// Removes and returns an entry.
    pub fn remove(&mut self, key: BlockKey) -> Option<Entry> {
        let (&bound, shared) = self.chunks.range_mut(..=key).next_back()?;
        let at = shared.binary_search_by_key(&key, Entry::key).ok()?;
        let chunk = Arc::make_mut(shared);
        let entry = chunk.remove(at);
        if chunk.capacity() - chunk.len() > 2 * CHUNK_STEP {
            chunk.shrink_to(chunk.len() + CHUNK_STEP);
        }
        self.len -= 1;
        if chunk.len() < CHUNK_ENTRIES / 4 {
            self.merge(bound);
        }
        Some(entry)
    }

    /// Joins a small chunk with its successor, or drops it when it is empty.
    fn merge(&mut self, bound: BlockKey) {
        let here = self.chunks[&bound].len();
        if here == 0 && bound != BlockKey::default() {
            self.chunks.remove(&bound);
            return;
        }
        let next = self.chunks.range((Bound::Excluded(bound), Bound::Unbounded)).next();
        let Some(next_bound) = next.filter(|(_, next)| next.len() + here <= CHUNK_ENTRIES / 2).map(|(key, _)| *key)
        else {
            return;
        };
        let next = self.chunks.remove(&next_bound).expect("found above");
        let chunk = Arc::make_mut(self.chunks.get_mut(&bound).expect("the caller's chunk"));
        chunk.reserve_exact(next.len());
        chunk.extend_from_slice(&next);
    }

    /// Entries in key order, from the first key above `after`.
    pub fn iter_after(&self, after: Option<BlockKey>) -> impl Iterator<Item = &Entry> {
        let first = after.and_then(|key| self.chunks.range(..=key).next_back().map(|(bound, _)| *bound));
        let lower = first.map_or(Bound::Unbounded, Bound::Included);
        let mut skip = after;
        self.chunks.range((lower, Bound::Unbounded)).flat_map(move |(_, chunk)| {
            // Only the first chunk can hold keys at or below `after`.
            let from = skip.take().map_or(0, |key| chunk.partition_point(|entry| entry.key() <= key));
            &chunk[from..]
        })
    }

    /// All entries in key order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.iter_after(None)
    }

    /// Bytes of heap the index takes, as far as it can know: without the allocator's own share.
    #[cfg(test)]
    fn heap_bytes(&self) -> usize {
        let chunk_overhead = size_of::<Vec<Entry>>() + 2 * size_of::<usize>();
        let row = (size_of::<BlockKey>() + size_of::<Chunk>()) * 2;
        self.chunks.values().map(|chunk| chunk.capacity() * size_of::<Entry>() + chunk_overhead + row).sum()
    }
}

/// Makes an index of entries that come in key order.
#[derive(Default)]
pub struct IndexBuilder {
    full: Vec<(BlockKey, Chunk)>,
    chunk: Vec<Entry>,
    last: Option<BlockKey>,
    len: u64,
}

impl IndexBuilder {
    /// Adds the next entry; `None`, and nothing is added, when its key is not above the last one.
    pub fn push(&mut self, entry: Entry) -> Option<()> {
        let key = entry.key();
        if self.last.is_some_and(|last| last >= key) {
            return None;
        }
        if self.chunk.len() == CHUNK_ENTRIES {
            self.end_chunk();
        }
        if self.chunk.is_empty() {
            self.chunk.reserve_exact(CHUNK_ENTRIES);
        }
        self.chunk.push(entry);
        self.last = Some(key);
        self.len += 1;
        Some(())
    }

    fn end_chunk(&mut self) {
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.shrink_to_fit();
        // The lowest bound is the lowest key.
        let bound = if self.full.is_empty() { BlockKey::default() } else { chunk[0].key() };
        self.full.push((bound, Arc::new(chunk)));
    }

    /// The index of all that was added.
    pub fn finish(mut self) -> Index {
        if self.chunk.is_empty() {
            return Index::default();
        }
        self.end_chunk();
        Index { chunks: self.full.into_iter().collect(), len: self.len }
    }
}

fn insert_at(chunk: &mut Vec<Entry>, at: usize, entry: Entry) {
    if chunk.len() == chunk.capacity() {
        chunk.reserve_exact(CHUNK_STEP.min(CHUNK_ENTRIES - chunk.len()));
    }
    chunk.insert(at, entry);
}

#[cfg(test)]
mod tests;
