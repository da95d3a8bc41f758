//! The cache of blocks: what was read of files, kept by version, shared by all who have a file open.
//!
//! The content of a version never changes, so what lies here is never stale: who reads says which version it wants.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::PathBuf;

/// How much may be kept, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// Bytes in memory; 0 = none.
    pub memory: u64,
    /// Directory for more of it on the local disk.
    pub directory: Option<PathBuf>,
    /// Bytes there.
    pub disk: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { memory: 256 * 1024 * 1024, directory: None, disk: 0 }
    }
}

/// A piece of one version of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BlockKey {
    /// The file.
    pub inode: u64,
    /// Its version.
    pub version: u64,
    /// Which block of it.
    pub index: u64,
}

/// Blocks in memory, the least recently used go first.
pub struct BlockCache {
    memory_max: u64,
    blocks: Mutex<Blocks>,
}

#[derive(Default)]
struct Blocks {
    /// With when it was used last.
    known: HashMap<BlockKey, (u64, Bytes)>,
    bytes: u64,
    clock: u64,
}

impl BlockCache {
    /// An empty one.
    pub fn new(config: &CacheConfig) -> Self {
        Self { memory_max: config.memory, blocks: Mutex::default() }
    }

    /// A block, if it is here.
    pub fn get(&self, key: BlockKey) -> Option<Bytes> {
        let mut blocks = self.blocks.lock();
        blocks.clock += 1;
        let clock = blocks.clock;
        let (used, bytes) = blocks.known.get_mut(&key)?;
        *used = clock;
        Some(bytes.clone())
    }

    /// Keeps a block: the whole of it, or up to the end of the file.
    pub fn put(&self, key: BlockKey, block: Bytes) {
        let len = block.len() as u64;
        if len > self.memory_max {
            return;
        }
        let mut blocks = self.blocks.lock();
        blocks.clock += 1;
        let clock = blocks.clock;
        blocks.bytes += len;
        if let Some((_, old)) = blocks.known.insert(key, (clock, block)) {
            blocks.bytes -= old.len() as u64;
        }
        while blocks.bytes > self.memory_max {
            let oldest = blocks.known.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            let Some((_, old)) = oldest.and_then(|key| blocks.known.remove(&key)) else { break };
            blocks.bytes -= old.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_stays() {
        let cache = BlockCache::new(&CacheConfig { memory: 10, ..CacheConfig::default() });
        let key = |index| BlockKey { inode: 1, version: 1, index };
        let block = |byte| Bytes::from(vec![byte; 4]);
        cache.put(key(1), block(1));
        cache.put(key(2), block(2));
        assert_eq!(cache.get(key(1)), Some(block(1)));
        cache.put(key(3), block(3));
        assert_eq!(cache.get(key(2)), None);
        assert_eq!((cache.get(key(1)), cache.get(key(3))), (Some(block(1)), Some(block(3))));
        cache.put(key(4), Bytes::from(vec![0; 11]));
        assert_eq!(cache.get(key(4)), None);
    }
}
