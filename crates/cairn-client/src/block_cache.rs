//! A cache of blocks in front of the storage nodes: what it must do, and how reads go through it.
//!
//! Blocks never change and their ids are never used twice, so what a cache gives is never stale. Whether a block is
//! still part of a file is asked of metadata as for every other read: the cache saves bytes, not checks. Every chunk
//! travels with the checksum its writer made, and is held against it each time it comes out of the cache, so that the
//! cache itself need not be trusted.
//!
//! Of several reads that miss the same chunk at the same time, one fetches it ([`Flights`]).

use crate::error::Error;
use crate::stats::bump;
use bytes::{Bytes, BytesMut};
use cairn_proto::layout::BlockRange;
use cairn_proto::limits::CHUNK_LEN;
use cairn_proto::{BlockId, Shard, checksum};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

/// What a [`BlockCache`] takes some time for.
pub type CacheFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Which chunk of which block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChunkKey {
    /// The block.
    pub block: BlockId,
    /// Number of the chunk in it, from 0; each is 64 KiB long, the last one may be shorter.
    pub chunk: u32,
}

/// Bytes of a chunk, with the checksum that its writer made of them, the id of the block and the number of the chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CachedChunk {
    /// The whole chunk.
    pub bytes: Bytes,
    /// CRC32C, to be kept and given back as it is.
    pub crc: u32,
}

impl CachedChunk {
    /// True when the bytes are those of this chunk of this block.
    pub fn is_sound(&self, key: ChunkKey) -> bool {
        checksum::chunk_crc(key.block, Shard(0), key.chunk, &self.bytes) == self.crc
    }
}

/// Keeps chunks of blocks, in whatever memory it has. It may forget any of them at any time.
pub trait BlockCache: Send + Sync + 'static {
    /// Called once, before anything else, with the id of the cluster. Block ids mean something in one cluster only:
    /// what was kept for another one must not be given.
    fn attach(&self, cluster: [u8; 16]) -> CacheFuture<'_, ()>;

    /// What is at hand without waiting.
    fn peek(&self, key: ChunkKey) -> Option<CachedChunk>;

    /// Chunks of one block, one answer for each number of the range in its order. May wait for a local disk.
    fn load(&self, block: BlockId, chunks: Range<u32>) -> CacheFuture<'_, Vec<Option<CachedChunk>>>;

    /// Keeps a chunk. Must not wait: a cache that is busy drops it.
    fn insert(&self, key: ChunkKey, chunk: CachedChunk);

    /// Forgets a chunk, because what came out was not what went in.
    fn remove(&self, key: ChunkKey);
}

/// What reads through a [`BlockCache`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BlockCacheStats {
    /// Chunks that the cache had.
    pub hits: u64,
    /// Chunks that were fetched from storage nodes.
    pub misses: u64,
    /// Chunks that came out of the cache damaged; they count as misses too.
    pub damaged: u64,
    /// Bytes of the hits.
    pub hit_bytes: u64,
    /// Bytes of the misses.
    pub miss_bytes: u64,
}

/// A cache with what is counted about it and what is under way.
pub(crate) struct CacheFront {
    cache: Arc<dyn BlockCache>,
    flights: Flights,
    hits: AtomicU64,
    misses: AtomicU64,
    damaged: AtomicU64,
    hit_bytes: AtomicU64,
    miss_bytes: AtomicU64,
}

/// Chunks of one block as a storage node gave them, verified.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) first_chunk: u32,
    /// Whole chunks, one after the other.
    pub(crate) body: Bytes,
    /// A checksum for each.
    pub(crate) crcs: Vec<u32>,
}

impl Verified {
    /// The bytes of a range that lies in these chunks.
    pub(crate) fn cut(&self, range: &BlockRange) -> Bytes {
        let from = (range.offset - self.first_chunk * CHUNK_LEN) as usize;
        self.body.slice(from..from + range.len as usize)
    }

    /// Chunk `chunk` of the block, if it is among these.
    fn chunk(&self, chunk: u32) -> Option<CachedChunk> {
        let index = chunk.checked_sub(self.first_chunk)? as usize;
        let crc = *self.crcs.get(index)?;
        let from = index * CHUNK_LEN as usize;
        let to = (from + CHUNK_LEN as usize).min(self.body.len());
        Some(CachedChunk { bytes: self.body.slice(from..to), crc })
    }
}

impl CacheFront {
    pub(crate) fn new(cache: Arc<dyn BlockCache>) -> Self {
        Self {
            cache,
            flights: Flights::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            hit_bytes: AtomicU64::new(0),
            miss_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) async fn attach(&self, cluster: [u8; 16]) {
        self.cache.attach(cluster).await;
    }

    pub(crate) fn stats(&self) -> BlockCacheStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BlockCacheStats {
            hits: get(&self.hits),
            misses: get(&self.misses),
            damaged: get(&self.damaged),
            hit_bytes: get(&self.hit_bytes),
            miss_bytes: get(&self.miss_bytes),
        }
    }

    /// The bytes of a range of a block. What the cache lacks comes from `fetch`, which is given a range that begins
    /// with a chunk and gives all chunks of it. A read that is given up lets the next one that waits fetch.
    ///
    /// # Errors
    /// Those of `fetch`.
    pub(crate) async fn read<F, T>(&self, range: &BlockRange, deadline: Instant, fetch: F) -> Result<Bytes, Error>
    where
        F: FnOnce(BlockRange) -> T,
        T: Future<Output = Result<Verified, Error>>,
    {
        let mut wanted = Wanted::new(range);
        self.look(&mut wanted).await;
        let mut in_flight = Vec::new();
        if !wanted.is_complete() {
            let missing: Vec<ChunkKey> = wanted.missing().collect();
            // In ascending order, so that no two reads wait for each other. Who waits in vain until its own deadline
            // lets `fetch` say so.
            let enter = self.flights.enter_all(&missing);
            if let Ok((entered, waited)) = tokio::time::timeout_at(deadline, enter).await {
                in_flight = entered;
                if waited {
                    self.look(&mut wanted).await;
                }
            }
        }
        let found = wanted.parts.iter().flatten();
        self.hit_bytes.fetch_add(found.clone().map(|part| part.len() as u64).sum(), Ordering::Relaxed);
        self.hits.fetch_add(found.count() as u64, Ordering::Relaxed);
        let (Some(first), Some(last)) = (wanted.missing().next(), wanted.missing().last()) else {
            return Ok(wanted.assemble());
        };
        let begin = first.chunk * CHUNK_LEN;
        let end = (range.offset + range.len).min((last.chunk + 1).saturating_mul(CHUNK_LEN));
        let fetched = fetch(BlockRange { offset: begin, len: end - begin, target: 0, ..*range }).await?;
        for key in wanted.missing() {
            let Some(chunk) = fetched.chunk(key.chunk) else { continue };
            bump(&self.misses);
            self.miss_bytes.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
            // A copy: a slice would keep everything alive that came with it.
            self.cache.insert(key, CachedChunk { bytes: Bytes::copy_from_slice(&chunk.bytes), ..chunk });
        }
        drop(in_flight);
        if wanted.parts.iter().all(Option::is_none) {
            return Ok(fetched.cut(range));
        }
        wanted.fill(&fetched);
        Ok(wanted.assemble())
    }

    /// Takes out of the cache what is there and sound.
    async fn look(&self, wanted: &mut Wanted) {
        for key in wanted.missing().collect::<Vec<_>>() {
            if let Some(chunk) = self.cache.peek(key) {
                self.accept(wanted, key, chunk);
            }
        }
        let (Some(first), Some(last)) = (wanted.missing().next(), wanted.missing().last()) else { return };
        let loaded = self.cache.load(first.block, first.chunk..last.chunk + 1).await;
        for (chunk, number) in loaded.into_iter().zip(first.chunk..) {
            let key = ChunkKey { chunk: number, ..first };
            if let Some(chunk) = chunk.filter(|_| wanted.lacks(key)) {
                self.accept(wanted, key, chunk);
            }
        }
    }

    fn accept(&self, wanted: &mut Wanted, key: ChunkKey, chunk: CachedChunk) {
        if chunk.bytes.len() >= wanted.len_of(key.chunk) && chunk.is_sound(key) {
            wanted.put(key.chunk, chunk.bytes);
        } else {
            bump(&self.damaged);
            tracing::warn!(block = %key.block, chunk = key.chunk, "the block cache gave other bytes than it was given");
            self.cache.remove(key);
        }
    }
}

/// The chunks of a range, as far as they are there.
struct Wanted {
    range: BlockRange,
    first: u32,
    parts: Vec<Option<Bytes>>,
}

impl Wanted {
    fn new(range: &BlockRange) -> Self {
        let first = range.offset / CHUNK_LEN;
        let last = (range.offset + range.len - 1) / CHUNK_LEN;
        Self { range: *range, first, parts: vec![None; (last - first + 1) as usize] }
    }

    fn missing(&self) -> impl Iterator<Item = ChunkKey> + '_ {
        let missing = self.parts.iter().zip(self.first..).filter(|(part, _)| part.is_none());
        missing.map(|(_, chunk)| ChunkKey { block: self.range.block, chunk })
    }

    fn is_complete(&self) -> bool {
        self.parts.iter().all(Option::is_some)
    }

    fn lacks(&self, key: ChunkKey) -> bool {
        self.parts[(key.chunk - self.first) as usize].is_none()
    }

    fn put(&mut self, chunk: u32, bytes: Bytes) {
        self.parts[(chunk - self.first) as usize] = Some(bytes);
    }

    fn fill(&mut self, fetched: &Verified) {
        for (part, chunk) in self.parts.iter_mut().zip(self.first..) {
            if part.is_none() {
                *part = fetched.chunk(chunk).map(|chunk| chunk.bytes);
            }
        }
    }

    /// Where the wanted bytes lie in a chunk.
    fn within(&self, chunk: u32) -> Range<usize> {
        let begin = chunk * CHUNK_LEN;
        let from = self.range.offset.max(begin) - begin;
        let to = (self.range.offset + self.range.len - begin).min(CHUNK_LEN);
        from as usize..to as usize
    }

    /// Bytes that a chunk must have.
    fn len_of(&self, chunk: u32) -> usize {
        self.within(chunk).end
    }

    fn assemble(mut self) -> Bytes {
        if let [part] = self.parts.as_mut_slice()
            && let Some(bytes) = part.take()
        {
            return bytes.slice(self.within(self.first));
        }
        let mut out = BytesMut::with_capacity(self.range.len as usize);
        for (part, chunk) in self.parts.iter().zip(self.first..) {
            let bytes = part.as_ref().expect("assembled only when nothing is missing");
            out.extend_from_slice(&bytes[self.within(chunk)]);
        }
        out.freeze()
    }
}

/// Chunks that are being fetched. As many as reads that are under way want.
#[derive(Default)]
struct Flights {
    under_way: Arc<Mutex<HashMap<ChunkKey, Arc<tokio::sync::Mutex<()>>>>>,
}

/// This read fetches the chunk; dropped, it makes way for the next.
struct Flight {
    key: ChunkKey,
    under_way: Arc<Mutex<HashMap<ChunkKey, Arc<tokio::sync::Mutex<()>>>>>,
    gate: Option<OwnedMutexGuard<()>>,
}

impl Flights {
    /// Becomes the one that fetches each of these. Tells whether others had to be waited for.
    async fn enter_all(&self, keys: &[ChunkKey]) -> (Vec<Flight>, bool) {
        let mut entered = Vec::with_capacity(keys.len());
        let mut waited = false;
        for key in keys {
            let gate = self.under_way.lock().entry(*key).or_default().clone();
            // The seat is made before the wait, so that a wait that is given up leaves nothing behind.
            let mut flight = Flight { key: *key, under_way: self.under_way.clone(), gate: None };
            flight.gate = match gate.clone().try_lock_owned() {
                Ok(guard) => Some(guard),
                Err(_) => {
                    waited = true;
                    Some(gate.lock_owned().await)
                }
            };
            entered.push(flight);
        }
        (entered, waited)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut under_way = self.under_way.lock();
        self.gate = None;
        // Whoever waits holds the gate too.
        if under_way.get(&self.key).is_some_and(|gate| Arc::strong_count(gate) == 1) {
            under_way.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;
