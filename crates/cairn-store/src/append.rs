//! The writer: takes what waits, appends it with as few vectored writes as possible, makes it visible.
//!
//! One writer per store. It never syncs but when it seals a segment, so that only the active segment can have a torn
//! tail.

use crate::catalog::SegmentInfo;
use crate::checkpoint;
use crate::counters::Counters;
use crate::disk::{DiskFile, write_all_at};
use crate::error::{Abandoned, Conflict, DeleteError, NoSpace, Poisoned, PutError, SyncError};
use crate::format::record::{self, Place, PutHeader, Stamp, TombstoneEntry, pad, put_len, tombstone_len};
use crate::format::segment::SegmentHeader;
use crate::format::{BlockKey, Cause};
use crate::index::{Entry, State};
use crate::limits::{CHECKPOINT_RECORDS, PAGE_LEN, TOMBSTONE_ENTRIES_MAX};
use crate::queue::{DeleteRequest, Done, Permit, PutRequest, Request, SyncRequest};
use crate::reach::Bound;
use crate::read;
use crate::store::{DeleteAck, Durability, PutAck, Shared};
use crate::sync::{Waiter, Written};
use bytes::Bytes;
use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

static ZEROS: [u8; PAGE_LEN as usize] = [0; PAGE_LEN as usize];

/// The end of the log and what is needed to append to it.
pub struct Appender {
    pub shared: Arc<Shared>,
    file: Arc<dyn DiskFile>,
    generation: u32,
    next_generation: u32,
    /// Where the next record goes, records of the current run included.
    tail: u64,
    /// Length of the file: more than `tail` when its space was written by a former life of it.
    file_len: u64,
    next_number: u64,
    /// How far the active segment may be written.
    bound: Bound,
    /// The active segment was ended, and its successor could not be made yet: nothing may be appended to it any more, since
    /// half of a successor may be there.
    ended: bool,
    /// Snapshots taken for checkpoints.
    snapshots: u64,
    /// Bytes and records since the last checkpoint was begun.
    since_checkpoint: (u64, u64),
    /// What is left of the free space above the reserve, as of the beginning of the batch.
    pub free: u64,
}

/// Where an [`Appender`] begins.
pub struct LogEnd {
    pub file: Arc<dyn DiskFile>,
    pub generation: u32,
    pub next_generation: u32,
    pub tail: u64,
    /// Length of the file, at least `tail`.
    pub file_len: u64,
    pub next_number: u64,
    /// What is noted of the segment.
    pub bound: Bound,
}

/// Records that go to the disk with the next write.
#[derive(Default)]
pub struct Run {
    pub records: Vec<Staged>,
    pub keys: HashSet<BlockKey>,
}

/// A record that has its place.
pub struct Staged {
    pub place: Place,
    /// Encoded header region.
    pub header: Vec<u8>,
    pub parts: Vec<Bytes>,
    pub padding: usize,
    pub effect: Effect,
}

/// What a record does once it is written.
pub enum Effect {
    Put {
        header: PutHeader,
        durability: Durability,
        done: Done<PutAck, PutError>,
        permit: Permit,
    },
    Delete {
        entries: Vec<TombstoneEntry>,
        last: Option<LastTombstone>,
    },
    /// A copy of a record that compaction moves.
    Relocate {
        header: PutHeader,
    },
    /// Tombstones that compaction takes along; the segment they came from is relieved of all its duties with the last.
    Carry {
        entries: Vec<TombstoneEntry>,
        relieved: Option<u32>,
    },
}

/// Whom to answer when the last record of a delete is written.
pub struct LastTombstone {
    ack: DeleteAck,
    done: Done<DeleteAck, DeleteError>,
    permit: Permit,
}

/// Why a record found no place.
#[derive(Clone)]
pub enum NoPlace {
    NoSpace(NoSpace),
    Poisoned(Poisoned),
}

impl From<NoPlace> for PutError {
    fn from(error: NoPlace) -> Self {
        match error {
            NoPlace::NoSpace(error) => error.into(),
            NoPlace::Poisoned(error) => error.into(),
        }
    }
}

impl From<NoPlace> for DeleteError {
    fn from(error: NoPlace) -> Self {
        match error {
            NoPlace::NoSpace(error) => error.into(),
            NoPlace::Poisoned(error) => error.into(),
        }
    }
}

/// The writer thread.
pub fn run(shared: &Shared, appender: &parking_lot::Mutex<Appender>) {
    while let Some(batch) = shared.queue.wait() {
        let mut appender = appender.lock();
        appender.run_batch(batch);
        if let Some(job) = appender.due_checkpoint() {
            shared.checkpoints.offer(job);
        }
    }
}

impl Appender {
    pub fn new(shared: Arc<Shared>, end: LogEnd) -> Self {
        Self {
            shared,
            file: end.file,
            generation: end.generation,
            next_generation: end.next_generation,
            tail: end.tail,
            file_len: end.file_len,
            next_number: end.next_number,
            bound: end.bound,
            ended: false,
            snapshots: 0,
            since_checkpoint: (0, 0),
            free: 0,
        }
    }

    /// Writes a batch, in order. Whoever asked for durability waits in the log when this returns, all others are
    /// answered.
    pub fn run_batch(&mut self, batch: Vec<Request>) {
        Counters::add(&self.shared.counters.batches, 1);
        Counters::add(&self.shared.counters.batched_requests, batch.len());
        let space = self.shared.space();
        // Before the disk is full, not when it is.
        self.shared.segments.give_back(space.keep);
        self.free = space.free;
        let mut run = Run::default();
        for request in batch {
            match request {
                // Dropped before the disk has any work with them: who gave up asks elsewhere, or asks again.
                Request::Put(put) if !(put.wanted)() => {
                    Counters::add(&self.shared.counters.abandoned, 1);
                    finish(put.done, put.permit, Err(Abandoned.into()));
                }
                Request::Sync(sync) if !(sync.wanted)() => {
                    Counters::add(&self.shared.counters.abandoned, 1);
                    finish(sync.done, sync.permit, Err(Abandoned.into()));
                }
                Request::Put(put) => self.put(&mut run, put),
                Request::Delete(delete) => self.delete(&mut run, delete),
                Request::Sync(sync) => self.sync(&mut run, sync),
            }
        }
        self.flush(&mut run);
    }

    fn put(&mut self, run: &mut Run, put: PutRequest) {
        if let Err(poisoned) = self.shared.check_poison() {
            return finish(put.done, put.permit, Err(poisoned.into()));
        }
        if run.keys.contains(&put.key) {
            self.flush(run);
        }
        let existing = self.shared.catalog.read().index.get(put.key).copied();
        let replaces = match existing {
            None => 0,
            Some(entry) if entry.state == State::Quarantined => entry.segment,
            Some(entry) => match self.compare(&entry, &put) {
                Comparison::Same => return self.already_stored(put),
                Comparison::Different => {
                    let conflict = Conflict { key: put.key };
                    return finish(put.done, put.permit, Err(conflict.into()));
                }
                Comparison::Damaged(cause) => {
                    self.shared.quarantine_entry(&entry, cause);
                    entry.segment
                }
            },
        };
        let len = put_len(put.len);
        if len > self.free {
            let full = NoSpace { needed: len, free: self.free };
            return finish(put.done, put.permit, Err(full.into()));
        }
        match self.place(run, len) {
            Ok(stamp) => self.stage_put(run, put, stamp, replaces),
            Err(error) => finish(put.done, put.permit, Err(error.into())),
        }
    }

    fn stage_put(&mut self, run: &mut Run, put: PutRequest, stamp: Stamp, replaces: u32) {
        let header = PutHeader {
            key: put.key,
            pg: put.pg,
            pg_epoch: put.pg_epoch,
            codec: record::CODEC_RAW,
            k: 0,
            m: 0,
            stored_len: put.len,
            logical_len: u64::from(put.len),
            file_offset_hint: put.file_offset_hint,
            replaces,
            damage: None,
            crcs: put.crcs,
        };
        run.keys.insert(put.key);
        run.records.push(Staged {
            place: stamp.place,
            header: record::encode_put(self.shared.uuid, stamp, &header),
            parts: put.parts,
            padding: (pad(u64::from(put.len)) - u64::from(put.len)) as usize,
            effect: Effect::Put { header, durability: put.durability, done: put.done, permit: put.permit },
        });
    }

    /// The same content is here already: durable for whoever needs that, after the next sync.
    fn already_stored(&self, put: PutRequest) {
        let ack = self.shared.put_ack(put.durability, true);
        match put.durability {
            Durability::Durable => self.shared.log.wait_for_sync(Waiter::Put(put.done, ack, put.permit)),
            Durability::Unsynced | Durability::Relaxed => finish(put.done, put.permit, Ok(ack)),
        }
    }

    fn compare(&self, entry: &Entry, put: &PutRequest) -> Comparison {
        match read::read_header(&self.shared, entry) {
            Ok((header, _)) if header.stored_len == put.len && header.crcs == put.crcs => Comparison::Same,
            Ok(_) => Comparison::Different,
            Err(read::HeaderError::Damaged(cause)) => Comparison::Damaged(cause),
            Err(read::HeaderError::Io(_)) => Comparison::Damaged(Cause::Unreadable),
        }
    }

    fn delete(&mut self, run: &mut Run, delete: DeleteRequest) {
        if let Err(poisoned) = self.shared.check_poison() {
            return finish(delete.done, delete.permit, Err(poisoned.into()));
        }
        if delete.keys.iter().any(|key| run.keys.contains(key)) {
            self.flush(run);
        }
        let keys: BTreeSet<BlockKey> = delete.keys.into_iter().collect();
        let entries: Vec<TombstoneEntry> = {
            let catalog = self.shared.catalog.read();
            let found = keys.iter().filter_map(|key| catalog.index.get(*key));
            found
                .map(|entry| TombstoneEntry { key: entry.key(), pg: entry.pg.into(), put_segment: entry.segment })
                .collect()
        };
        let ack = DeleteAck { deleted: entries.len() };
        if entries.is_empty() {
            // An earlier delete of the same blocks may not be durable yet.
            self.flush(run);
            return self.shared.log.wait_for_sync(Waiter::Delete(delete.done, ack, delete.permit));
        }
        let mut last = Some(LastTombstone { ack, done: delete.done, permit: delete.permit });
        let mut groups = entries.chunks(TOMBSTONE_ENTRIES_MAX).peekable();
        while let Some(group) = groups.next() {
            let stamp = match self.place(run, tombstone_len(group.len())) {
                Ok(stamp) => stamp,
                Err(error) => {
                    if let Some(LastTombstone { done, permit, .. }) = last.take() {
                        finish(done, permit, Err(error.into()));
                    }
                    return;
                }
            };
            run.keys.extend(group.iter().map(|entry| entry.key));
            run.records.push(Staged {
                place: stamp.place,
                header: record::encode_tombstone(self.shared.uuid, stamp, group),
                parts: Vec::new(),
                padding: 0,
                effect: Effect::Delete {
                    entries: group.to_vec(),
                    last: if groups.peek().is_none() { last.take() } else { None },
                },
            });
        }
    }

    fn sync(&mut self, run: &mut Run, sync: SyncRequest) {
        self.flush(run);
        match self.shared.check_poison() {
            Ok(()) => self.shared.log.wait_for_sync(Waiter::Sync(sync.done, sync.keys, sync.permit)),
            Err(poisoned) => finish(sync.done, sync.permit, Err(SyncError::from(poisoned))),
        }
    }

    /// Reserves the place of a record, in a new segment if this one is full.
    pub fn place(&mut self, run: &mut Run, len: u64) -> Result<Stamp, NoPlace> {
        let is_full = self.tail > PAGE_LEN && self.tail + len > self.shared.options.segment_len();
        // Where the bound cannot be moved the segment ends early: nothing may ever stand behind it.
        if is_full || self.ended || !self.bound.allows(self.generation, self.tail + len) {
            self.flush(run);
            self.seal()?;
            // A record that is longer than a step.
            if !self.bound.allows(self.generation, self.tail + len) {
                return Err(NoPlace::NoSpace(NoSpace { needed: len, free: 0 }));
            }
        }
        self.shared.check_poison().map_err(NoPlace::Poisoned)?;
        let place = Place { segment: self.generation, offset: self.tail };
        let stamp = Stamp { place, number: self.next_number, synced: self.shared.log.synced() };
        self.tail += len;
        self.next_number += 1;
        self.free = self.free.saturating_sub(len);
        Ok(stamp)
    }

    /// Makes the active segment durable as a whole and begins a new one.
    fn seal(&mut self) -> Result<(), NoPlace> {
        self.end_segment().map_err(NoPlace::Poisoned)?;
        self.ended = true;
        // A number is never tried twice: the file of a failed attempt may still be there.
        let generation = self.next_generation;
        self.next_generation += 1;
        let header =
            SegmentHeader { store: self.shared.uuid, generation, first_number: self.next_number, reused_len: 0 };
        let made = match self.shared.segments.create(header) {
            Ok(made) => made,
            Err(error) if is_full(&error) => {
                return Err(NoPlace::NoSpace(NoSpace { needed: PAGE_LEN, free: 0 }));
            }
            Err(error) => return Err(NoPlace::Poisoned(self.shared.poison("make a segment", error))),
        };
        let info = SegmentInfo { len: PAGE_LEN, ..SegmentInfo::default() };
        self.shared.catalog.write().segments.insert(generation, info);
        self.shared.log.set_active(Arc::clone(&made.file));
        if made.len > PAGE_LEN {
            Counters::add(&self.shared.counters.recycled_segments, 1);
        }
        self.ended = false;
        self.file = made.file;
        self.file_len = made.len;
        self.generation = generation;
        self.tail = PAGE_LEN;
        self.bound.begin(generation, self.file_len);
        self.note_unwritten();
        Ok(())
    }

    /// Makes the active segment durable, its file cut behind its last record: only the active segment may have more file
    /// than records.
    fn end_segment(&mut self) -> Result<(), Poisoned> {
        if self.file_len <= self.tail {
            return self.shared.sync_up_to(&self.file, self.shared.log.written());
        }
        self.shared.check_poison()?;
        self.file.set_len(self.tail).map_err(|error| self.shared.poison("cut a segment", error))?;
        self.file_len = self.tail;
        self.note_unwritten();
        self.shared.sync_whole(&self.file, self.shared.log.written())
    }

    /// Cuts the file behind the last record, so that the next opening has nothing to look for there.
    pub fn close(&mut self) {
        if self.file_len > self.tail
            && let Err(error) = self.end_segment()
        {
            tracing::warn!(store = %self.shared.uuid, %error, "segment not cut");
        }
    }

    fn note_unwritten(&self) {
        self.shared.unwritten.store(self.file_len.saturating_sub(self.tail), Ordering::Relaxed);
    }

    /// Generation of the active segment.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The active segment and the number of the last record in it, or before it.
    pub fn end(&self) -> (Arc<dyn DiskFile>, u64) {
        (Arc::clone(&self.file), self.next_number - 1)
    }

    /// Writes the run, makes it visible and answers whoever does not wait for durability.
    pub fn flush(&mut self, run: &mut Run) {
        let Some(first) = run.records.first() else { return };
        let start = first.place.offset;
        let records = std::mem::take(&mut run.records);
        run.keys.clear();
        match write_records(&*self.file, start, &records) {
            Ok(()) => self.publish(records, start),
            Err(error) => {
                let len = self.tail - start;
                self.tail = start;
                let error = self.roll_back(start, len, error);
                for record in records {
                    record.effect.fail(error.clone());
                }
            }
        }
    }

    /// Takes a failed write off the end of the segment.
    fn roll_back(&mut self, start: u64, len: u64, error: io::Error) -> NoPlace {
        if !is_full(&error) {
            return NoPlace::Poisoned(self.shared.poison("write to a segment", error));
        }
        match self.file.set_len(start) {
            Ok(()) => {
                self.file_len = start;
                self.note_unwritten();
                // Durable before anybody is told: a tombstone that was refused must not come back behind a later answer.
                match self.shared.sync_whole(&self.file, self.shared.log.written()) {
                    Ok(()) => NoPlace::NoSpace(NoSpace { needed: len, free: 0 }),
                    Err(poisoned) => NoPlace::Poisoned(poisoned),
                }
            }
            Err(error) => NoPlace::Poisoned(self.shared.poison("cut a segment back", error)),
        }
    }

    fn publish(&mut self, records: Vec<Staged>, start: u64) {
        let mut written = Written { number: self.next_number - 1, ..Written::default() };
        let mut accepted = Vec::new();
        self.file_len = self.file_len.max(self.tail);
        self.note_unwritten();
        self.since_checkpoint.0 += self.tail - start;
        self.since_checkpoint.1 += records.len() as u64;
        {
            let mut catalog = self.shared.catalog.write();
            for Staged { place, header: region, effect, .. } in records {
                match effect {
                    Effect::Put { header, durability, done, mut permit } => {
                        permit.release_bytes();
                        written.dead.extend(catalog.apply_put(place, &header, None));
                        let ack = self.shared.put_ack(durability, false);
                        if durability == Durability::Durable {
                            written.waiters.push(Waiter::Put(done, ack, permit));
                            continue;
                        }
                        written.unawaited = true;
                        if durability == Durability::Unsynced {
                            written.unsynced_bytes += u64::from(header.stored_len);
                        }
                        accepted.push((done, permit, ack));
                    }
                    Effect::Delete { entries, last } => {
                        written.dead.extend(catalog.apply_tombstone(place, region.len() as u64, &entries));
                        written.waiters.extend(last.map(|last| Waiter::Delete(last.done, last.ack, last.permit)));
                    }
                    Effect::Relocate { header } => {
                        // Readers may be at work in the old record, whose space comes back with its whole segment.
                        let _ = catalog.apply_put(place, &header, None);
                        written.unawaited = true;
                        written.unsynced_bytes += u64::from(header.stored_len);
                    }
                    Effect::Carry { entries, relieved } => {
                        written.dead.extend(catalog.apply_tombstone(place, region.len() as u64, &entries));
                        written.unawaited = true;
                        relieved.into_iter().for_each(|generation| catalog.needs_nothing(generation));
                    }
                }
            }
        }
        self.shared.log.wrote(written);
        for (done, permit, ack) in accepted {
            finish(done, permit, Ok(ack));
        }
    }

    /// The checkpoint to write now, if enough was appended since the last one.
    pub fn due_checkpoint(&mut self) -> Option<checkpoint::Job> {
        let (bytes, records) = self.since_checkpoint;
        let blocks = self.shared.catalog.read().index.len();
        let size = checkpoint::len_of(blocks);
        let due = bytes >= self.shared.options.checkpoint_bytes.max(2 * size)
            || records >= CHECKPOINT_RECORDS.max(blocks / 2);
        (due && self.shared.checkpoints.is_idle() && self.shared.check_poison().is_ok()).then(|| self.checkpoint())
    }

    /// A snapshot of everything up to the end of the log.
    pub fn checkpoint(&mut self) -> checkpoint::Job {
        self.since_checkpoint = (0, 0);
        self.snapshots += 1;
        // Cleared before the catalog is copied: a change in between is written twice, never missed.
        self.shared.quarantine_changed.store(false, Ordering::Relaxed);
        checkpoint::Job {
            catalog: self.shared.catalog.read().clone(),
            active: Arc::clone(&self.file),
            segment: self.generation,
            offset: self.tail,
            next_number: self.next_number,
            snapshot: self.snapshots,
        }
    }

    /// True when the last checkpoint does not have everything.
    pub fn is_ahead_of_checkpoint(&self) -> bool {
        self.since_checkpoint.1 > 0
            || self.shared.quarantine_changed.load(Ordering::Relaxed)
            || self.shared.checkpoints.has_failed()
    }
}

enum Comparison {
    Same,
    Different,
    Damaged(Cause),
}

impl Effect {
    fn fail(self, error: NoPlace) {
        match self {
            Self::Put { done, permit, .. } => finish(done, permit, Err(error.into())),
            Self::Delete { last: Some(last), .. } => finish(last.done, last.permit, Err(error.into())),
            Self::Delete { last: None, .. } | Self::Relocate { .. } | Self::Carry { .. } => {}
        }
    }
}

fn finish<T, E>(done: Done<T, E>, permit: Permit, result: Result<T, E>) {
    drop(permit);
    done(result);
}

fn write_records(file: &dyn DiskFile, start: u64, records: &[Staged]) -> io::Result<()> {
    let mut slices = Vec::with_capacity(records.len() * 3);
    for record in records {
        slices.push(io::IoSlice::new(&record.header));
        slices.extend(record.parts.iter().map(|part| io::IoSlice::new(part)));
        if record.padding > 0 {
            slices.push(io::IoSlice::new(&ZEROS[..record.padding]));
        }
    }
    write_all_at(file, start, &mut slices)
}

/// The file system is full, so the write may succeed once something is deleted.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}
