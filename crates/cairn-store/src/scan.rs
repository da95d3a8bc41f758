//! Reading a segment record by record, across whatever is damaged.
//!
//! A bad header is skipped to the next valid one, page by page: records begin on pages and say where they belong, so
//! neither payload bytes nor leftovers of a former life are taken for a record.

use crate::disk::{DiskFile, read_up_to};
use crate::format::Cause;
use crate::format::record::{self, Place, PutHeader, Record, put_header_len};
use crate::limits::{PAGE_LEN, RECORD_HEADER_MAX, SCAN_WINDOW};
use cairn_proto::StoreUuid;
use cairn_proto::checksum::chunk_crc;
use cairn_proto::limits::CHUNK_LEN;
use std::io;

const _: () = assert!(SCAN_WINDOW.is_multiple_of(CHUNK_LEN as usize));

/// Pages in a row that cannot be read, after which the rest of a segment is given up.
pub const UNREADABLE_PAGES_MAX: u32 = 64;

/// What a scan found next.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A record, and what is wrong with its payload (when payloads are verified, or the file ends too early).
    Record(Record, Option<Cause>),
    /// No valid header.
    Skipped {
        from: u64,
        to: u64,
        /// Some of it could not be read, so nothing is known of what stands there.
        unreadable: bool,
    },
}

/// Reads the records of one segment in order.
pub struct Scan<'a> {
    pub file: &'a dyn DiskFile,
    /// Length of the file.
    pub len: u64,
    pub store: StoreUuid,
    pub segment: u32,
    /// Where the next record is expected.
    pub offset: u64,
    /// Records with this number or a lower one are leftovers.
    pub last_number: u64,
    /// Read and verify payloads.
    pub verify: bool,
    pub pages: Pages,
}

impl Scan<'_> {
    fn record_at(&mut self, offset: u64) -> io::Result<Option<Record>> {
        let region = self.pages.at(self.file, offset)?;
        let place = Place { segment: self.segment, offset };
        let record = record::decode(region, self.store, place).ok();
        Ok(record.filter(|record| record.stamp().number > self.last_number))
    }

    fn payload(&self, put: &PutHeader, offset: u64) -> Option<Cause> {
        if put.damage.is_some() {
            return put.damage;
        }
        if offset + u64::from(put.stored_len) > self.len {
            return Some(Cause::Truncated);
        }
        if !self.verify {
            return None;
        }
        match first_bad_chunk(self.file, offset, put) {
            Ok(None) => None,
            Ok(Some(_)) => Some(Cause::Payload),
            Err(_) => Some(Cause::Unreadable),
        }
    }
}

impl Iterator for Scan<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        let from = self.offset;
        let mut in_a_row = 0;
        let mut unreadable = false;
        while self.offset < self.len {
            match self.record_at(self.offset) {
                Ok(Some(_)) if self.offset > from => return Some(Found::Skipped { from, to: self.offset, unreadable }),
                Ok(Some(record)) => {
                    let cause = match &record {
                        Record::Put(_, put) => self.payload(put, self.offset + put_header_len(put.stored_len)),
                        Record::Tombstone(..) => None,
                    };
                    self.offset += record.total_len();
                    self.last_number = record.stamp().number;
                    return Some(Found::Record(record, cause));
                }
                Ok(None) => {
                    in_a_row = 0;
                    self.offset += PAGE_LEN;
                }
                Err(_) => {
                    unreadable = true;
                    in_a_row += 1;
                    self.offset = if in_a_row > UNREADABLE_PAGES_MAX { self.len } else { self.offset + PAGE_LEN };
                }
            }
        }
        (from < self.len).then_some(Found::Skipped { from, to: self.len, unreadable })
    }
}

/// Header regions out of windows of the file, so that looking for the next record page by page reads each byte once.
#[derive(Default)]
pub struct Pages {
    start: u64,
    window: Vec<u8>,
}

impl Pages {
    /// Up to [`RECORD_HEADER_MAX`] bytes from `offset`; fewer at the end of the file.
    pub fn at(&mut self, file: &dyn DiskFile, offset: u64) -> io::Result<&[u8]> {
        let inside =
            |start: u64, len: usize| offset >= start && offset + RECORD_HEADER_MAX as u64 <= start + len as u64;
        if !inside(self.start, self.window.len()) {
            // Neighbours are wanted next only if the offset is near the last one.
            let near = offset >= self.start && offset <= self.start + self.window.len() as u64;
            let wanted = if near && !self.window.is_empty() { SCAN_WINDOW } else { RECORD_HEADER_MAX };
            // One bad sector must not hide its neighbours, nor one in a payload the header before it.
            let filled = self.fill(file, offset, wanted).or_else(|_| self.fill(file, offset, RECORD_HEADER_MAX));
            if let Err(error) = filled {
                self.fill(file, offset, PAGE_LEN as usize)?;
                if record::region_len(&self.window).is_ok_and(|len| len > self.window.len()) {
                    return Err(error);
                }
            }
        }
        let from = (offset - self.start) as usize;
        let to = self.window.len().min(from + RECORD_HEADER_MAX);
        Ok(self.window.get(from..to).unwrap_or_default())
    }

    fn fill(&mut self, file: &dyn DiskFile, offset: u64, wanted: usize) -> io::Result<()> {
        self.window.clear();
        self.window.resize(wanted, 0);
        self.start = offset;
        let read = read_up_to(file, offset, &mut self.window);
        self.window.truncate(*read.as_ref().unwrap_or(&0));
        read.map(drop)
    }
}

/// Index of the first chunk of a payload that does not match its checksum. A payload that ends too early is bad from
/// the first missing chunk.
pub fn first_bad_chunk(file: &dyn DiskFile, payload_offset: u64, put: &PutHeader) -> io::Result<Option<u32>> {
    let len = put.stored_len as usize;
    let mut window = vec![0; SCAN_WINDOW.min(len)];
    for (turn, start) in (0..len).step_by(SCAN_WINDOW).enumerate() {
        let wanted = SCAN_WINDOW.min(len - start);
        let read = read_up_to(file, payload_offset + start as u64, &mut window[..wanted])?;
        let first = turn * (SCAN_WINDOW / CHUNK_LEN as usize);
        let chunks = window[..wanted].chunks(CHUNK_LEN as usize).zip(&put.crcs[first..]);
        let mut end = 0;
        for (index, (chunk, crc)) in chunks.enumerate() {
            end += chunk.len();
            let chunk_index = (first + index) as u32;
            if end > read || chunk_crc(put.key.block, put.key.shard, chunk_index, chunk) != *crc {
                return Ok(Some(chunk_index));
            }
        }
    }
    Ok(None)
}
