//! Looking into one segment file without opening its store: for `cairn node inspect`, for forensics and for tests.
//!
//! Nothing is locked and nothing is changed, so the file may belong to a running store; what that writes meanwhile is seen
//! or not. Bytes are never trusted: whatever the file holds, the walk ends, and says what it could not read.

use crate::disk::{DiskFile, open_read_only, read_up_to};
use crate::format::record::{self, Place, PutHeader, Record, Stamp, TombstoneEntry, put_header_len};
use crate::format::segment::{self, SegmentHeader};
use crate::format::{BlockKey, Cause, Fault};
use crate::limits::{PAGE_LEN, SCAN_WINDOW};
use crate::scan::{Pages, UNREADABLE_PAGES_MAX, first_bad_chunk};
use cairn_proto::limits::BLOCK_LEN_MAX;
use cairn_proto::{PgEpoch, PgId, StoreUuid};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// How far the first valid record is looked for in a file whose header is damaged: behind two damaged records of any
/// length it is found.
const CLAIM_SEARCH_LEN: u64 = 2 * (BLOCK_LEN_MAX as u64 + PAGE_LEN) + PAGE_LEN;

/// Why a file cannot be walked.
#[derive(Debug, Error)]
pub enum InspectError {
    /// The operating system refused.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither its first page nor any record says that it is a segment.
    #[error("{} is no segment of a store: {fault}, and no record follows", path.display())]
    NoSegment {
        /// The file.
        path: PathBuf,
        /// What is wrong with its first page.
        fault: Fault,
    },
    /// It was written by a newer program.
    #[error("{} has format version {version}, this program knows {}", path.display(), crate::format::STORE_VERSION)]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// One segment file, to be walked from its first record to its end.
pub struct Inspection {
    file: Arc<dyn DiskFile>,
    /// Length of the file in bytes.
    pub len: u64,
    /// The store it belongs to.
    pub store: StoreUuid,
    /// Its generation.
    pub generation: u32,
    /// Its header, or what is wrong with it; store and generation were taken from the first valid record then.
    pub header: Result<SegmentHeader, Fault>,
    offset: u64,
    last_number: u64,
    pages: Pages,
    payloads: bool,
}

impl fmt::Debug for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspection")
            .field("store", &self.store)
            .field("generation", &self.generation)
            .field("len", &self.len)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// What the walk finds next, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspected {
    /// A stored block. It may have been deleted or replaced since: only the store's index knows.
    Put(InspectedPut),
    /// A record that deletes blocks.
    Tombstone {
        /// Place and number of the record.
        stamp: Stamp,
        /// The blocks, with the segments that hold what is deleted.
        entries: Vec<TombstoneEntry>,
    },
    /// No valid record begins in these bytes.
    Skipped {
        /// First byte.
        from: u64,
        /// First byte behind.
        to: u64,
        /// Why the first page of them is no record.
        reason: SkipReason,
    },
}

/// A stored block as its record describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedPut {
    /// Place and number of the record.
    pub stamp: Stamp,
    /// The block and which piece of it.
    pub key: BlockKey,
    /// The group it was written for.
    pub pg: PgId,
    /// The group's epoch when it came in.
    pub pg_epoch: PgEpoch,
    /// Codec of the payload, k and m of an erasure code.
    pub coding: (u8, u8, u8),
    /// Payload bytes, without padding.
    pub stored_len: u32,
    /// Bytes of content the payload stands for.
    pub logical_len: u64,
    /// Offset in the file it was written at.
    pub file_offset_hint: u64,
    /// Segment of the older record of the same key that this one replaces; 0 = none.
    pub replaces: u32,
    /// What an opening of the store after a crash found wrong with the payload, and wrote down.
    pub damage: Option<Cause>,
    /// What reading the payload showed.
    pub payload: PayloadCheck,
}

/// What reading a payload showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayloadCheck {
    /// Every chunk matches its checksum.
    Intact,
    /// Zeros throughout: given back to the file system after a delete.
    GivenBack,
    /// A chunk does not match.
    Bad {
        /// The first one.
        chunk: u32,
    },
    /// The file ends before it.
    Truncated,
    /// The operating system could not read it.
    Unreadable {
        /// Why.
        reason: String,
    },
    /// It was not read: see [`Inspection::without_payloads`].
    NotRead,
}

impl fmt::Display for PayloadCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intact => f.write_str("intact"),
            Self::GivenBack => f.write_str("given back"),
            Self::Bad { chunk } => write!(f, "bad from chunk {chunk}"),
            Self::Truncated => f.write_str("truncated"),
            Self::Unreadable { reason } => write!(f, "unreadable: {reason}"),
            Self::NotRead => f.write_str("not read"),
        }
    }
}

/// Why a page is no record of this segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// Nothing but zeros: never written, or given back.
    Zeros,
    /// Something else stands there.
    Fault(Fault),
    /// A valid record of this segment with a number that is not above the one before: a leftover.
    OldNumber(u64),
    /// The operating system could not read it.
    Unreadable(String),
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zeros => f.write_str("zeros"),
            Self::Fault(fault) => fault.fmt(f),
            Self::OldNumber(number) => write!(f, "a leftover record with the old number {number}"),
            Self::Unreadable(reason) => write!(f, "unreadable: {reason}"),
        }
    }
}

/// Opens a segment file for a walk over [`Inspected`], whoever holds its store.
///
/// A file with a damaged header is walked if a valid record says which segment of which store it is.
pub fn segment(path: &Path) -> Result<Inspection, InspectError> {
    let file = open_read_only(path).map_err(|source| InspectError::Io { path: path.to_owned(), source })?;
    segment_in(path, file)
}

/// As [`segment()`], of a file that is open, on whatever disk; `path` is what errors call it.
pub fn segment_in(path: &Path, file: Arc<dyn DiskFile>) -> Result<Inspection, InspectError> {
    let io = |source| InspectError::Io { path: path.to_owned(), source };
    let len = file.len().map_err(io)?;
    let mut first = [0; segment::LEN];
    let read = read_up_to(&*file, 0, &mut first).map_err(io)?;
    let header = SegmentHeader::decode(&first[..read]);
    let mut pages = Pages::default();
    let (store, generation) = match header {
        Ok(header) => (header.store, header.generation),
        Err(Fault::Version(version)) => return Err(InspectError::Version { path: path.to_owned(), version }),
        Err(fault) => first_claim(&*file, len, &mut pages)
            .ok_or_else(|| InspectError::NoSegment { path: path.to_owned(), fault })?,
    };
    Ok(Inspection { file, len, store, generation, header, offset: PAGE_LEN, last_number: 0, pages, payloads: true })
}

/// Store and generation that the first valid record at its own place claims.
fn first_claim(file: &dyn DiskFile, len: u64, pages: &mut Pages) -> Option<(StoreUuid, u32)> {
    (PAGE_LEN..len.min(CLAIM_SEARCH_LEN)).step_by(PAGE_LEN as usize).find_map(|offset| {
        let (store, record) = record::decode_any(pages.at(file, offset).ok()?).ok()?;
        let place = record.stamp().place;
        (place.offset == offset).then_some((store, place.segment))
    })
}

impl Inspection {
    /// Leaves payloads unread: headers only, which is quick.
    pub fn without_payloads(mut self) -> Self {
        self.payloads = false;
        self
    }

    fn record_at(&mut self, offset: u64) -> Result<Record, SkipReason> {
        let region = self.pages.at(&*self.file, offset).map_err(|error| SkipReason::Unreadable(error.to_string()))?;
        let place = Place { segment: self.generation, offset };
        match record::decode(region, self.store, place) {
            Ok(record) if record.stamp().number > self.last_number => Ok(record),
            Ok(record) => Err(SkipReason::OldNumber(record.stamp().number)),
            Err(_) if region.iter().take(PAGE_LEN as usize).all(|byte| *byte == 0) => Err(SkipReason::Zeros),
            Err(fault) => Err(SkipReason::Fault(fault)),
        }
    }

    fn check(&self, put: &PutHeader, offset: u64) -> PayloadCheck {
        if offset + u64::from(put.stored_len) > self.len {
            return PayloadCheck::Truncated;
        }
        if !self.payloads {
            return PayloadCheck::NotRead;
        }
        match first_bad_chunk(&*self.file, offset, put) {
            Ok(None) => PayloadCheck::Intact,
            Ok(Some(0)) if self.is_zero(offset, put.stored_len) => PayloadCheck::GivenBack,
            Ok(Some(chunk)) => PayloadCheck::Bad { chunk },
            Err(error) => PayloadCheck::Unreadable { reason: error.to_string() },
        }
    }

    fn is_zero(&self, offset: u64, len: u32) -> bool {
        let mut window = vec![0; SCAN_WINDOW.min(len as usize)];
        (0..len as usize).step_by(SCAN_WINDOW).all(|start| {
            let wanted = SCAN_WINDOW.min(len as usize - start);
            let read = read_up_to(&*self.file, offset + start as u64, &mut window[..wanted]);
            read.is_ok_and(|read| read == wanted && window[..wanted].iter().all(|byte| *byte == 0))
        })
    }

    fn found(&mut self, record: Record) -> Inspected {
        let stamp = record.stamp();
        self.offset = stamp.place.offset.saturating_add(record.total_len());
        self.last_number = stamp.number;
        match record {
            Record::Tombstone(stamp, entries) => Inspected::Tombstone { stamp, entries },
            Record::Put(stamp, put) => {
                let payload = self.check(&put, stamp.place.offset + put_header_len(put.stored_len));
                Inspected::Put(InspectedPut {
                    stamp,
                    key: put.key,
                    pg: put.pg,
                    pg_epoch: put.pg_epoch,
                    coding: (put.codec, put.k, put.m),
                    stored_len: put.stored_len,
                    logical_len: put.logical_len,
                    file_offset_hint: put.file_offset_hint,
                    replaces: put.replaces,
                    damage: put.damage,
                    payload,
                })
            }
        }
    }
}

impl Iterator for Inspection {
    type Item = Inspected;

    fn next(&mut self) -> Option<Inspected> {
        let from = self.offset;
        let mut first = None;
        let mut unreadable = 0;
        while self.offset < self.len {
            match (self.record_at(self.offset), &first) {
                (Ok(record), None) => return Some(self.found(record)),
                (Ok(_), Some(_)) => break,
                (Err(reason), _) => {
                    unreadable = if matches!(reason, SkipReason::Unreadable(_)) { unreadable + 1 } else { 0 };
                    first.get_or_insert(reason);
                    self.offset = if unreadable > UNREADABLE_PAGES_MAX { self.len } else { self.offset + PAGE_LEN };
                }
            }
        }
        let reason = first?;
        Some(Inspected::Skipped { from, to: self.offset.min(self.len), reason })
    }
}
