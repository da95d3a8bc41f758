//! Blocks kept near: in memory and, if wished, on a local disk.
//!
//! [`LocalCache`] is a [`BlockCache`] of the client library, to be given to
//! [`DfsClientBuilder::block_cache`](cairn_client::DfsClientBuilder::block_cache). Blocks never change, so nothing in it
//! is ever stale; the client holds every chunk against its writer's checksum each time, so nothing in it need be trusted.
//! All files of the client share it.
//!
//! Memory is bounded in bytes and forgets what is used least ([`quick_cache`], which resists long scans). The disk is a
//! log of bounded size that forgets what was written first; it survives restarts and crashes, belongs to one process and
//! one cluster at a time, and is given up with a warning at the first error.
//!
//! This crate knows no file and no server, only chunks.

mod files;
mod format;
pub mod limits;
mod log;
#[cfg(test)]
mod testing;
mod tier;

use crate::files::Directory;
use crate::limits::CHUNK_OVERHEAD;
use cairn_client::{BlockCache, BlockId, CacheFuture, CachedChunk, ChunkKey};
use cairn_proto::limits::CHUNK_LEN;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
pub use tier::DiskStats;
use tier::DiskTier;

/// How much to keep, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheOptions {
    /// Bytes of memory; 0 = none.
    pub memory: u64,
    /// A directory on a local disk that belongs to this cache alone, and how many bytes of it may be used, at least
    /// [`limits::DISK_SIZE_MIN`].
    pub disk: Option<(PathBuf, u64)>,
}

/// What a cache holds and did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LocalCacheStats {
    /// Chunks in memory.
    pub memory_chunks: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Chunks that came out of memory.
    pub memory_hits: u64,
    /// The disk, if there is one.
    pub disk: Option<DiskStats>,
}

#[derive(Clone)]
struct ByLen;

impl Weighter<ChunkKey, CachedChunk> for ByLen {
    fn weight(&self, _: &ChunkKey, chunk: &CachedChunk) -> u64 {
        chunk.bytes.len() as u64 + CHUNK_OVERHEAD
    }
}

/// See the module.
pub struct LocalCache {
    memory: Option<Cache<ChunkKey, CachedChunk, ByLen>>,
    memory_hits: AtomicU64,
    disk: Option<DiskTier>,
}

impl LocalCache {
    /// An empty cache. The disk is looked through once a client attaches to it.
    pub fn new(options: CacheOptions) -> Self {
        let chunks = usize::try_from(options.memory / u64::from(CHUNK_LEN)).unwrap_or(usize::MAX);
        let memory = (options.memory > 0).then(|| Cache::with_weighter(chunks.max(1), options.memory, ByLen));
        let disk = options.disk.map(|(dir, size)| DiskTier::new(dir.clone(), Arc::new(Directory::new(dir)), size));
        Self { memory, memory_hits: AtomicU64::new(0), disk }
    }

    /// Waits until the disk has what it was given so far.
    pub async fn settle(&self) {
        if let Some(disk) = &self.disk {
            disk.settle().await;
        }
    }

    /// What it holds and did.
    pub fn stats(&self) -> LocalCacheStats {
        LocalCacheStats {
            memory_chunks: self.memory.as_ref().map_or(0, |memory| memory.len() as u64),
            memory_bytes: self.memory.as_ref().map_or(0, Cache::weight),
            memory_hits: self.memory_hits.load(Ordering::Relaxed),
            disk: self.disk.as_ref().map(DiskTier::stats),
        }
    }

    fn remember(&self, key: ChunkKey, chunk: &CachedChunk) {
        if let Some(memory) = &self.memory {
            memory.insert(key, chunk.clone());
        }
    }
}

impl BlockCache for LocalCache {
    fn attach(&self, cluster: [u8; 16]) -> CacheFuture<'_, ()> {
        if let Some(disk) = &self.disk {
            disk.start(cluster);
        }
        Box::pin(async {})
    }

    fn peek(&self, key: ChunkKey) -> Option<CachedChunk> {
        let found = self.memory.as_ref()?.get(&key)?;
        self.memory_hits.fetch_add(1, Ordering::Relaxed);
        Some(found)
    }

    fn load(&self, block: BlockId, chunks: Range<u32>) -> CacheFuture<'_, Vec<Option<CachedChunk>>> {
        let Some(disk) = &self.disk else { return Box::pin(async move { vec![None; chunks.len()] }) };
        Box::pin(async move {
            let found = disk.load(block, chunks.clone()).await;
            for (chunk, number) in found.iter().zip(chunks) {
                if let Some(chunk) = chunk {
                    self.remember(ChunkKey { block, chunk: number }, chunk);
                }
            }
            found
        })
    }

    fn insert(&self, key: ChunkKey, chunk: CachedChunk) {
        self.remember(key, &chunk);
        if let Some(disk) = &self.disk {
            disk.keep(key, chunk);
        }
    }

    fn remove(&self, key: ChunkKey) {
        if let Some(memory) = &self.memory {
            memory.remove(&key);
        }
        if let Some(disk) = &self.disk {
            disk.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
