//! Reading a block: its header is read and verified at every read, its payload by whoever receives it.

use crate::counters::Counters;
use crate::disk::{DiskFile, OsFile, read_exact_at};
use crate::error::ReadError;
use crate::format::record::{self, Place, PutHeader, Record, put_header_len};
use crate::format::{BlockKey, Cause};
use crate::index::{Entry, State};
use crate::limits::{PAGE_LEN, RECORD_HEADER_MAX};
use crate::scan::first_bad_chunk;
use crate::store::Shared;
use bytes::Bytes;
use cairn_proto::{PgEpoch, PgId};
use std::fmt;
use std::io;
use std::sync::Arc;

/// A block that was found: what its header says, and the file its content is read from.
///
/// It stays readable while it is held, also when the block is deleted meanwhile: the content then reads as zeros and
/// fails its checksums, so whoever reads must verify.
#[derive(Clone)]
pub struct StoredBlock {
    header: PutHeader,
    file: Arc<dyn DiskFile>,
    payload_offset: u64,
}

impl StoredBlock {
    /// Which block.
    pub fn key(&self) -> BlockKey {
        self.header.key
    }

    /// Payload bytes.
    pub fn len(&self) -> u32 {
        self.header.stored_len
    }

    /// True for a block without bytes.
    pub fn is_empty(&self) -> bool {
        self.header.stored_len == 0
    }

    /// The group it was written for.
    pub fn pg(&self) -> PgId {
        self.header.pg
    }

    /// That group's epoch when the block came in.
    pub fn pg_epoch(&self) -> PgEpoch {
        self.header.pg_epoch
    }

    /// Checksum of each 64 KiB chunk.
    pub fn crcs(&self) -> &[u32] {
        &self.header.crcs
    }

    /// Offset in the file it was written at.
    pub fn file_offset_hint(&self) -> u64 {
        self.header.file_offset_hint
    }

    /// Where the content begins in [`StoredBlock::os_file`].
    pub fn payload_offset(&self) -> u64 {
        self.payload_offset
    }

    /// The operating system's file, for `sendfile` from [`StoredBlock::payload_offset`]; `None` on a simulated disk.
    pub fn os_file(&self) -> Option<OsFile> {
        self.file.os_file()
    }

    /// Reads `len` bytes of content from `offset`, unverified. `UnexpectedEof` when the range leaves the block or the
    /// file was cut.
    pub fn read_at(&self, offset: u32, len: u32) -> io::Result<Bytes> {
        if offset.checked_add(len).is_none_or(|end| end > self.header.stored_len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut buffer = vec![0; len as usize];
        read_exact_at(&*self.file, self.payload_offset + u64::from(offset), &mut buffer)?;
        Ok(buffer.into())
    }
}

impl fmt::Debug for StoredBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredBlock")
            .field("header", &self.header)
            .field("payload_offset", &self.payload_offset)
            .finish()
    }
}

/// Why a header could not be used.
pub enum HeaderError {
    Damaged(Cause),
    Io(io::Error),
}

/// Reads and verifies the header of an index entry.
pub fn read_header(shared: &Shared, entry: &Entry) -> Result<(PutHeader, Arc<dyn DiskFile>), HeaderError> {
    let file = match shared.segments.get(entry.segment) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(HeaderError::Damaged(Cause::SegmentMissing));
        }
        Err(error) => return Err(HeaderError::Io(error)),
    };
    let offset = u64::from(entry.page) * PAGE_LEN;
    let mut buffer = [0; RECORD_HEADER_MAX];
    let region = &mut buffer[..put_header_len(entry.len) as usize];
    match read_exact_at(&*file, offset, region) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(HeaderError::Damaged(Cause::Truncated));
        }
        Err(error) => return Err(HeaderError::Io(error)),
    }
    let place = Place { segment: entry.segment, offset };
    match record::decode(region, shared.uuid, place) {
        Ok(Record::Put(_, header)) if header.key == entry.key() && header.stored_len == entry.len => {
            match header.damage {
                None => Ok((header, file)),
                Some(cause) => Err(HeaderError::Damaged(cause)),
            }
        }
        _ => Err(HeaderError::Damaged(Cause::Header)),
    }
}

impl Shared {
    /// The entry of a block that can be served.
    pub fn entry(&self, key: BlockKey) -> Result<Entry, ReadError> {
        let catalog = self.catalog.read();
        match catalog.index.get(key) {
            None => Err(ReadError::NotFound { key }),
            Some(entry) if entry.state == State::Live => Ok(*entry),
            Some(_) => {
                let cause = catalog.quarantine.get(&key).copied().unwrap_or(Cause::Payload);
                Err(ReadError::Quarantined { key, cause })
            }
        }
    }

    /// Quarantines the record unless it was replaced or deleted meanwhile; the error for whoever tried to read it.
    fn damaged(&self, entry: &Entry, cause: Cause, chunk: Option<u32>) -> ReadError {
        let key = entry.key();
        if self.quarantine_entry(entry, cause) {
            ReadError::Corrupt { key, cause, chunk }
        } else {
            self.entry(key).err().unwrap_or(ReadError::Corrupt { key, cause, chunk })
        }
    }

    /// The record of a block and its file, which compaction leaves alone while it is held.
    fn find(&self, key: BlockKey) -> Result<(Entry, PutHeader, Arc<dyn DiskFile>), ReadError> {
        let mut entry = self.entry(key)?;
        loop {
            let found = read_header(self, &entry);
            // Between the index and the file the record may have been moved, and its old place used for another one.
            let now = self.entry(key)?;
            if !now.same_record(&entry) {
                entry = now;
                continue;
            }
            return match found {
                Ok((header, file)) => Ok((entry, header, file)),
                Err(HeaderError::Damaged(cause)) => Err(self.damaged(&entry, cause, None)),
                Err(HeaderError::Io(source)) => Err(self.unreadable(key, source)),
            };
        }
    }

    fn unreadable(&self, key: BlockKey, source: io::Error) -> ReadError {
        Counters::add(&self.counters.read_errors, 1);
        ReadError::Io { key, source }
    }

    /// See [`crate::Store::read`].
    pub fn read(&self, key: BlockKey) -> Result<StoredBlock, ReadError> {
        let (entry, header, file) = self.find(key)?;
        let payload_offset = u64::from(entry.page) * PAGE_LEN + put_header_len(entry.len);
        Ok(StoredBlock { header, file, payload_offset })
    }

    /// See [`crate::Store::verify`].
    pub fn verify(&self, key: BlockKey) -> Result<(), ReadError> {
        let (entry, header, file) = self.find(key)?;
        let payload_offset = u64::from(entry.page) * PAGE_LEN + put_header_len(entry.len);
        match first_bad_chunk(&*file, payload_offset, &header) {
            Ok(None) => Ok(()),
            Ok(Some(chunk)) => {
                let short = file.len().is_ok_and(|len| len < payload_offset + u64::from(entry.len));
                let cause = if short { Cause::Truncated } else { Cause::Payload };
                Err(self.damaged(&entry, cause, Some(chunk)))
            }
            Err(source) if is_reachable(&*file) => {
                tracing::warn!(store = %self.uuid, block = %key, %source, "block cannot be read");
                Counters::add(&self.counters.read_errors, 1);
                Err(self.damaged(&entry, Cause::Unreadable, None))
            }
            Err(source) => Err(self.unreadable(key, source)),
        }
    }
}

/// True when a file can be read at all: then a place that cannot is a bad sector, and the block is to be fetched again.
/// Otherwise the whole disk may be away, and may come back.
pub fn is_reachable(file: &dyn DiskFile) -> bool {
    // Asked of the disk: the page cache would answer for it.
    let _ = file.drop_cached(0, PAGE_LEN);
    file.read_at(0, &mut [0; PAGE_LEN as usize]).is_ok()
}
