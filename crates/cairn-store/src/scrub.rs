//! Reading back what a store holds: every block in the order of the disk, and from the disk itself rather than from the
//! page cache, which would show what was written and not what is kept.
//!
//! Decides nothing about when and how fast: that is the caller's.

use crate::disk::{DiskFile, read_exact_at};
use crate::error::ReadError;
use crate::format::record::{self, Place, PutHeader, Record, put_header_len, put_len};
use crate::format::{BlockKey, Cause, segment};
use crate::index::{Entry, State};
use crate::limits::{PAGE_LEN, RECORD_HEADER_MAX};
use crate::read::is_reachable;
use crate::scan::first_bad_chunk;
use crate::store::{Shared, Store};
use cairn_proto::PgId;
use std::io;
use std::sync::Arc;

/// A place in the log: a segment, and a page in it. Ordered as records were appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogPosition {
    /// Generation of the segment.
    pub segment: u32,
    /// Page of the record.
    pub page: u32,
}

/// A block to be read back, as the index had it when it was listed.
#[derive(Clone, Copy, Debug)]
pub struct ScrubItem(Entry);

impl ScrubItem {
    /// Which block.
    pub fn key(&self) -> BlockKey {
        self.0.key()
    }

    /// The group it was written for.
    pub fn pg(&self) -> PgId {
        PgId(self.0.pg)
    }

    /// Bytes of the disk its record takes, header and padding included.
    pub fn disk_len(&self) -> u64 {
        put_len(self.0.len)
    }

    /// Where its record lies.
    pub fn position(&self) -> LogPosition {
        position(&self.0)
    }
}

/// Blocks that lie one behind the other.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// In the order of the disk.
    pub items: Vec<ScrubItem>,
    /// Where the next stretch begins; `None` when there is none.
    pub next: Option<LogPosition>,
}

/// What reading a block back showed.
#[derive(Debug)]
pub enum Scrubbed {
    /// Header and every chunk are as they were written.
    Whole,
    /// They are not, or cannot be read: the block is quarantined now.
    Bad(Cause),
    /// It was deleted, moved or found damaged by others meanwhile: nothing is to be said about it.
    Gone,
    /// It could not be looked at, for a reason that says nothing about the block.
    Failed(io::Error),
}

fn position(entry: &Entry) -> LogPosition {
    LogPosition { segment: entry.segment, page: entry.page }
}

/// What speaks against a record.
enum Fault {
    Damaged(Cause),
    Failed(io::Error),
}

impl Store {
    /// The newest segment's number: what is appended from now on lies there or behind.
    pub fn newest_segment(&self) -> u32 {
        self.shared.catalog.read().segments.last_key_value().map_or(0, |(generation, _)| *generation)
    }

    /// Bytes that reading everything back takes: the records of all blocks that can be served. Costs one pass over the
    /// index.
    pub fn scrub_bytes(&self) -> u64 {
        let mut bytes = 0;
        self.walk(None, |entry| {
            bytes += if entry.state == State::Live { put_len(entry.len) } else { 0 };
            true
        });
        bytes
    }

    /// Blocks that can be served from `from` on, up to segment `to`, in the order of the disk: those of as many whole
    /// segments as have `limit` blocks together, but of one at least. Costs one pass over the index.
    pub fn stretch(&self, from: LogPosition, to: u32, limit: u64) -> Stretch {
        let mut from = from;
        loop {
            let Some(last) = self.last_segment(from.segment, to, limit) else {
                return Stretch { items: Vec::new(), next: None };
            };
            let mut items = Vec::new();
            self.walk(None, |entry| {
                if entry.segment <= last && position(entry) >= from && entry.state == State::Live {
                    items.push(ScrubItem(*entry));
                }
                true
            });
            items.sort_unstable_by_key(ScrubItem::position);
            let next = (last < to).then(|| LogPosition { segment: last + 1, page: 0 });
            match next {
                Some(next) if items.is_empty() => from = next,
                next => return Stretch { items, next },
            }
        }
    }

    fn last_segment(&self, from: u32, to: u32, limit: u64) -> Option<u32> {
        let catalog = self.shared.catalog.read();
        let mut blocks = 0;
        let mut last = None;
        for (generation, segment) in catalog.segments.range(from..=to.max(from)) {
            blocks += segment.blocks;
            if blocks > limit && last.is_some() {
                break;
            }
            last = Some(*generation);
        }
        last.filter(|last| *last <= to)
    }

    /// Reads blocks back from the disk and checks header and every chunk; what is bad is quarantined. One answer for each,
    /// in order.
    ///
    /// Files are opened by their names, so that one that was removed while it is in use is found as well.
    pub fn scrub(&self, items: &[ScrubItem]) -> Vec<Scrubbed> {
        let mut open: Option<(u32, io::Result<Arc<dyn DiskFile>>)> = None;
        let mut answers = Vec::with_capacity(items.len());
        for ScrubItem(entry) in items {
            if open.as_ref().is_none_or(|(segment, _)| *segment != entry.segment) {
                open = Some((entry.segment, self.shared.disk.open(&segment::path(entry.segment))));
            }
            let file = open.as_ref().map(|(_, file)| file).expect("opened above");
            answers.push(self.shared.scrub_entry(entry, file));
        }
        answers
    }

    /// As [`Store::verify`], but reads from the disk even what the page cache has, and quarantines what cannot be read.
    ///
    /// # Errors
    /// `NotFound` and `Quarantined` as the index says, `Corrupt` when it was found bad now, `Io` when it could not be looked
    /// at.
    pub fn verify_on_disk(&self, key: BlockKey) -> Result<(), ReadError> {
        loop {
            let entry = self.shared.entry(key)?;
            let file = self.shared.disk.open(&segment::path(entry.segment));
            match self.shared.scrub_entry(&entry, &file) {
                Scrubbed::Whole => return Ok(()),
                Scrubbed::Bad(cause) => return Err(ReadError::Corrupt { key, cause, chunk: None }),
                Scrubbed::Failed(source) => return Err(ReadError::Io { key, source }),
                // It has another entry now, or none.
                Scrubbed::Gone => {}
            }
        }
    }
}

impl Shared {
    fn scrub_entry(&self, entry: &Entry, file: &io::Result<Arc<dyn DiskFile>>) -> Scrubbed {
        let found = match file {
            Ok(file) => check(self, entry, &**file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Fault::Damaged(Cause::SegmentMissing)),
            Err(error) => Err(Fault::Failed(io::Error::new(error.kind(), error.to_string()))),
        };
        match found {
            Ok(()) => Scrubbed::Whole,
            Err(Fault::Damaged(cause)) if self.quarantine_entry(entry, cause) => Scrubbed::Bad(cause),
            Err(Fault::Damaged(_)) => Scrubbed::Gone,
            Err(Fault::Failed(error)) => Scrubbed::Failed(error),
        }
    }
}

/// Holds the record of an entry against its checksums.
fn check(shared: &Shared, entry: &Entry, file: &dyn DiskFile) -> Result<(), Fault> {
    let offset = u64::from(entry.page) * PAGE_LEN;
    // Where the page cache cannot be told to forget, what it has is read: that finds less, and is no reason to stop.
    let _ = file.drop_cached(offset, put_len(entry.len));
    let header = read_header(shared, entry, file, offset)?;
    let payload = offset + put_header_len(entry.len);
    match first_bad_chunk(file, payload, &header) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => {
            let short = file.len().is_ok_and(|len| len < payload + u64::from(entry.len));
            Err(Fault::Damaged(if short { Cause::Truncated } else { Cause::Payload }))
        }
        Err(error) => Err(unreadable(file, error)),
    }
}

/// A place that cannot be read is a damaged block while others of the file can; else the whole disk may be away.
fn unreadable(file: &dyn DiskFile, error: io::Error) -> Fault {
    if is_reachable(file) { Fault::Damaged(Cause::Unreadable) } else { Fault::Failed(error) }
}

fn read_header(shared: &Shared, entry: &Entry, file: &dyn DiskFile, offset: u64) -> Result<PutHeader, Fault> {
    let mut buffer = [0; RECORD_HEADER_MAX];
    let region = &mut buffer[..put_header_len(entry.len) as usize];
    match read_exact_at(file, offset, region) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Fault::Damaged(Cause::Truncated)),
        Err(error) => return Err(unreadable(file, error)),
    }
    let place = Place { segment: entry.segment, offset };
    match record::decode(region, shared.uuid, place) {
        Ok(Record::Put(_, header)) if header.key == entry.key() && header.stored_len == entry.len => Ok(header),
        _ => Err(Fault::Damaged(Cause::Header)),
    }
}
