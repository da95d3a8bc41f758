//! Emptying one mostly dead segment: its tombstones and its live records are appended again, then nothing needs it.
//!
//! Every record is verified before it is moved, so damage is found and never copied. A record that is deleted or replaced
//! meanwhile stays what it is (`relocate.rs`). Nothing is lost at a crash in between: the old records are there until a
//! checkpoint that has the new ones is durable.

use crate::append::Appender;
use crate::counters::Counters;
use crate::disk::{DiskFile, read_exact_at};
use crate::format::BlockKey;
use crate::format::Cause;
use crate::format::record::{PutHeader, Record, TombstoneEntry, put_header_len, put_len, tombstone_len};
use crate::index::{Entry, State};
use crate::limits::{
    CARRIED_TOMBSTONES_MAX, MAINTENANCE_STEP_BYTES, MAINTENANCE_STEP_RECORDS, PAGE_LEN, TOMBSTONE_ENTRIES_MAX,
};
use crate::read::{HeaderError, read_header};
use crate::relocate::Relocation;
use crate::scan::{Found, Pages, Scan};
use crate::store::{Shared, first_mismatch};
use bytes::Bytes;
use parking_lot::Mutex;
use std::io;

/// Tombstones appended at one go.
const CARRY_STEP: usize = 25 * TOMBSTONE_ENTRIES_MAX;

/// The compaction of one segment.
pub struct Compaction {
    generation: u32,
    phase: Phase,
    /// Tombstones whose blocks still have a record in another segment.
    carried: Vec<TombstoneEntry>,
}

/// Next: in the order they stand here.
enum Phase {
    /// Reads the headers for what the segment hides; skipped when it hides nothing.
    Look { offset: u64, last_number: u64, pages: Pages },
    /// Moves live records, in key order.
    Move { after: Option<BlockKey> },
    /// Appends the tombstones from the `at`th on.
    Carry { at: usize },
}

/// How a step went.
pub enum Progress {
    /// There is more to do; this step cost so many bytes.
    More(u64),
    /// All that could be done is done.
    Done(u64),
    /// The store has no room, or takes no writes, or cannot read the segment now.
    Blocked,
}

impl Compaction {
    /// Begins with a sealed segment.
    pub fn begin(shared: &Shared, generation: u32) -> Self {
        let catalog = shared.catalog.read();
        let hides = catalog.segments.get(&generation).is_some_and(|info| catalog.is_needed(info));
        let phase = if hides {
            Phase::Look { offset: PAGE_LEN, last_number: 0, pages: Pages::default() }
        } else {
            Phase::Move { after: None }
        };
        Self { generation, phase, carried: Vec::new() }
    }

    /// Which segment.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Does the next piece.
    pub fn step(&mut self, shared: &Shared, appender: &Mutex<Appender>) -> Progress {
        match &mut self.phase {
            Phase::Look { offset, last_number, pages } => {
                let position = (*offset, *last_number, std::mem::take(pages));
                self.look(shared, position).unwrap_or(Progress::Blocked)
            }
            Phase::Move { after } => {
                let after = *after;
                self.relocate(shared, appender, after)
            }
            Phase::Carry { at } => {
                let at = *at;
                self.carry(appender, at)
            }
        }
    }

    fn look(&mut self, shared: &Shared, (offset, last_number, pages): (u64, u64, Pages)) -> io::Result<Progress> {
        let file = shared.segments.get(self.generation)?;
        let (len, segment) = (file.len()?, self.generation);
        let mut scan =
            Scan { file: &*file, len, store: shared.uuid, segment, offset, last_number, verify: false, pages };
        let found: Vec<Found> = scan.by_ref().take(MAINTENANCE_STEP_RECORDS).collect();
        let cost = found.len() as u64 * PAGE_LEN;
        let (offset, last_number, pages) = (scan.offset, scan.last_number, scan.pages);
        if !found.into_iter().all(|found| self.note(shared, found)) || self.carried.len() > CARRIED_TOMBSTONES_MAX {
            return Ok(Progress::Done(cost));
        }
        self.phase = if offset < len {
            Phase::Look { offset, last_number, pages }
        } else if self.is_worth_it(shared) {
            Phase::Move { after: None }
        } else {
            return Ok(Progress::Done(cost));
        };
        Ok(Progress::More(cost))
    }

    /// Notes what a record hides. False when the segment has to stay for it, whatever is moved.
    fn note(&mut self, shared: &Shared, found: Found) -> bool {
        let catalog = shared.catalog.read();
        let is_there = |segment: u32| segment != self.generation && catalog.segments.contains_key(&segment);
        match found {
            // There may have been tombstones.
            Found::Skipped { .. } => false,
            Found::Record(Record::Put(_, put), _) => put.replaces == 0 || !is_there(put.replaces),
            Found::Record(Record::Tombstone(_, entries), _) => {
                let needed: Vec<_> = entries.into_iter().filter(|entry| is_there(entry.put_segment)).collect();
                // A block that is here again must not be deleted by an older tombstone that comes later.
                let none_is_back = needed.iter().all(|entry| catalog.index.get(entry.key).is_none());
                self.carried.extend(needed);
                none_is_back
            }
        }
    }

    /// True unless so much would be carried along that the new segment is soon as empty as this one.
    fn is_worth_it(&self, shared: &Shared) -> bool {
        let catalog = shared.catalog.read();
        let carried: u64 = self.carried.chunks(TOMBSTONE_ENTRIES_MAX).map(|group| tombstone_len(group.len())).sum();
        let percent = u64::from(shared.options.compact_below_percent);
        let info = catalog.segments.get(&self.generation);
        info.is_some_and(|info| (info.live + carried) * 100 < info.occupied() * percent)
    }

    fn relocate(&mut self, shared: &Shared, appender: &Mutex<Appender>, after: Option<BlockKey>) -> Progress {
        let (entries, last) = self.next_entries(shared, after);
        let mut cost = 0;
        let mut relocations = Vec::with_capacity(entries.len());
        for entry in entries {
            cost += 2 * put_len(entry.len);
            match read_record(shared, &entry) {
                Ok((header, payload)) => relocations.push(Relocation { entry, header, payload }),
                Err(HeaderError::Damaged(cause)) => drop(shared.quarantine_entry(&entry, cause)),
                Err(HeaderError::Io(error)) => {
                    Counters::add(&shared.counters.read_errors, 1);
                    tracing::warn!(store = %shared.uuid, block = %entry.key(), %error, "block not moved");
                }
            }
        }
        let bytes: u64 = relocations.iter().map(|relocation| u64::from(relocation.entry.len)).sum();
        match appender.lock().relocate(relocations) {
            Ok(moved) => {
                Counters::add(&shared.counters.moved_blocks, moved);
                Counters::add(&shared.counters.moved_bytes, bytes as usize);
            }
            Err(error) => {
                tracing::debug!(store = %shared.uuid, segment = self.generation, ?error, "compaction has to wait");
                return Progress::Blocked;
            }
        }
        match last {
            Some(last) => self.phase = Phase::Move { after: Some(last) },
            None if self.carried.is_empty() => return Progress::Done(cost),
            None => self.phase = Phase::Carry { at: 0 },
        }
        Progress::More(cost)
    }

    /// Live blocks of the segment above `after`, and the last of them if there may be more.
    fn next_entries(&self, shared: &Shared, after: Option<BlockKey>) -> (Vec<Entry>, Option<BlockKey>) {
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        shared.walk(after, |entry| {
            if entry.segment == self.generation && entry.state == State::Live {
                entries.push(*entry);
                bytes += put_len(entry.len);
            }
            entries.len() < MAINTENANCE_STEP_RECORDS && bytes < MAINTENANCE_STEP_BYTES
        });
        let is_full = entries.len() >= MAINTENANCE_STEP_RECORDS || bytes >= MAINTENANCE_STEP_BYTES;
        let last = entries.last().filter(|_| is_full).map(Entry::key);
        (entries, last)
    }

    fn carry(&mut self, appender: &Mutex<Appender>, at: usize) -> Progress {
        let end = self.carried.len().min(at + CARRY_STEP);
        let group = &self.carried[at..end];
        let cost = tombstone_len(TOMBSTONE_ENTRIES_MAX) * group.len().div_ceil(TOMBSTONE_ENTRIES_MAX) as u64;
        match appender.lock().carry(group, self.generation, end == self.carried.len()) {
            Ok(true) if end < self.carried.len() => {
                self.phase = Phase::Carry { at: end };
                Progress::More(cost)
            }
            Ok(_) => Progress::Done(cost),
            Err(_) => Progress::Blocked,
        }
    }
}

/// A record with its payload, verified.
pub fn read_record(shared: &Shared, entry: &Entry) -> Result<(PutHeader, Bytes), HeaderError> {
    let (header, file) = read_header(shared, entry)?;
    let offset = u64::from(entry.page) * PAGE_LEN + put_header_len(entry.len);
    let payload = read_payload(&*file, offset, entry.len)?;
    match first_mismatch(header.key, std::slice::from_ref(&payload), &header.crcs) {
        None => Ok((header, payload)),
        Some(_) => Err(HeaderError::Damaged(Cause::Payload)),
    }
}

fn read_payload(file: &dyn DiskFile, offset: u64, len: u32) -> Result<Bytes, HeaderError> {
    let mut payload = vec![0; len as usize];
    match read_exact_at(file, offset, &mut payload) {
        Ok(()) => Ok(payload.into()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(HeaderError::Damaged(Cause::Truncated)),
        Err(error) => Err(HeaderError::Io(error)),
    }
}
