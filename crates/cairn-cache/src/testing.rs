//! Chunks for tests, and a disk that fails.

use crate::files::{Directory, Files, SegmentFile};
use bytes::Bytes;
use cairn_client::{BlockId, CachedChunk, ChunkKey};
use cairn_proto::limits::CHUNK_LEN;
use cairn_proto::{Shard, checksum};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// Chunk 0 of a block.
pub fn key(seq: u32) -> ChunkKey {
    ChunkKey { block: BlockId::new(1, 2, seq), chunk: 0 }
}

/// Its bytes.
pub fn chunk(seq: u32) -> CachedChunk {
    let len = CHUNK_LEN as usize - seq as usize % 1000;
    let bytes: Vec<u8> = (0..len).map(|i| (i as u32 * 31 + seq * 17) as u8).collect();
    let crc = checksum::chunk_crc(key(seq).block, Shard(0), 0, &bytes);
    CachedChunk { bytes: Bytes::from(bytes), crc }
}

/// A directory whose disk fails with the error numbers that are set; 0 = it works.
pub struct Failing {
    directory: Directory,
    errors: Arc<Errors>,
}

/// Error numbers of reads and writes.
#[derive(Default)]
pub struct Errors {
    pub read: AtomicI32,
    pub write: AtomicI32,
}

impl Failing {
    pub fn new(dir: &Path) -> (Self, Arc<Errors>) {
        let errors = Arc::new(Errors::default());
        (Self { directory: Directory::new(dir.to_owned()), errors: errors.clone() }, errors)
    }

    fn wrap(&self, file: Arc<dyn SegmentFile>) -> Arc<dyn SegmentFile> {
        Arc::new(FailingFile { file, errors: self.errors.clone() })
    }
}

fn fail(number: &AtomicI32) -> io::Result<()> {
    match number.load(Ordering::Relaxed) {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

impl Files for Failing {
    fn take(&self) -> io::Result<Vec<String>> {
        self.directory.take()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        fail(&self.errors.read)?;
        Ok(self.wrap(self.directory.open(name)?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        fail(&self.errors.write)?;
        Ok(self.wrap(self.directory.create(name)?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.directory.remove(name)
    }
}

struct FailingFile {
    file: Arc<dyn SegmentFile>,
    errors: Arc<Errors>,
}

impl SegmentFile for FailingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        fail(&self.errors.read)?;
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        fail(&self.errors.write)?;
        self.file.write_at(bytes, offset)
    }
}
