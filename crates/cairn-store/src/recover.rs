//! Opening a store: identity, checkpoint, the records behind it, and what may be cut.
//!
//! Two rules decide about damage. A sealed segment was made durable as a whole before its successor was made, so damage
//! in it is never a torn write. And every record names the highest record known durable when it was written: damage to
//! records up to the highest such number is no torn write either, also in the active segment. Only what is neither may
//! be cut off as a torn tail. A record whose header is good but whose payload is not is quarantined in all cases, so
//! that it is fetched again if it ever counted.

use crate::append::LogEnd;
use crate::catalog::{Catalog, SegmentInfo};
use crate::checkpoint::{self, LoadError, Loaded};
use crate::disk::{Disk, DiskFile, read_up_to, write_buffer_at};
use crate::error::OpenError;
use crate::format::record::{PutHeader, Record, Stamp, encode_put, put_header_len, put_len};
use crate::format::segment::{self, SegmentHeader};
use crate::format::{BlockKey, Cause, Fault, STORE_VERSION, identity};
use crate::index::{Entry, State};
use crate::limits::{PAGE_LEN, RECYCLE_PUNCHED_SHARE, RECYCLED_SEGMENTS_MAX, REPORT_ITEMS_MAX};
use crate::options::StoreOptions;
use crate::reach::{self, Bound, Noted};
use crate::reclaim::Reclaim;
use crate::recycled::RecycledFile;
use crate::report::{OpenReport, SkippedRegion};
use crate::scan::{Found, Pages, Scan, first_bad_chunk};
use crate::segments::{Farewell, Segments};
use crate::store::QuarantinedBlock;
use cairn_proto::StoreUuid;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

const IDENTITY_TEMPORARY_NAME: &str = "store.id.tmp";

/// A store as it was found on the disk.
pub struct Recovered {
    pub uuid: StoreUuid,
    pub segments: Segments,
    pub catalog: Catalog,
    pub reclaim: Reclaim,
    pub end: LogEnd,
    pub report: OpenReport,
    /// The next opening should not have to find all this again.
    pub wants_checkpoint: bool,
}

/// A segment file of this store.
struct SegmentFile {
    len: u64,
    header_is_good: bool,
    /// Bytes that a former life of the file wrote.
    reused_len: u64,
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    noted: Noted,
    segments: Segments,
    uuid: StoreUuid,
    catalog: Catalog,
    reclaim: Reclaim,
    report: OpenReport,
    /// Highest record number known durable.
    synced: u64,
    /// Highest record number seen.
    last_number: u64,
    /// Blocks quarantined by this opening, with the record number where it is known.
    found: Vec<(Entry, u64)>,
}

/// See [`crate::Store::open`].
pub fn open(disk: &Arc<dyn Disk>, options: &StoreOptions) -> Result<Recovered, OpenError> {
    disk.create_dir(segment::DIR).map_err(io_error("make", segment::DIR))?;
    disk.sync_dir("").map_err(io_error("sync", "."))?;
    // A file whose name is only in the cache would take what is acknowledged from now on with it.
    disk.sync_dir(segment::DIR).map_err(io_error("sync", segment::DIR))?;
    let segments = Segments::new(Arc::clone(disk));
    let names = disk.list(segment::DIR).map_err(io_error("list", segment::DIR))?;
    let mut headers = BTreeMap::new();
    for generation in names.iter().filter_map(|name| segment::parse_name(name)) {
        headers.insert(generation, inspect(&segments, generation)?);
    }
    let mut report = OpenReport::default();
    let uuid = establish_identity(&**disk, &headers, options, &mut report)?;
    adopt_recycled(&**disk, &segments, &names, uuid, &mut report);
    let highest_name = headers.keys().next_back().copied().unwrap_or(0);
    let files = own_files(&headers, uuid, &mut report);
    let mut recovery = Recovery {
        disk: &**disk,
        noted: reach::load(&**disk, uuid),
        segments,
        uuid,
        catalog: Catalog::default(),
        reclaim: Reclaim::default(),
        report,
        synced: 0,
        last_number: 0,
        found: Vec::new(),
    };
    let start = recovery.load_checkpoint(&files)?;
    let reusable = recovery.read_tail(&files, start)?;
    recovery.finish(disk, reusable, highest_name.max(start.segment), options)
}

fn io_error(action: &'static str, name: &str) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { action, name: name.to_owned(), source }
}

/// Length and header of a segment file.
fn inspect(segments: &Segments, generation: u32) -> Result<(u64, Result<SegmentHeader, Fault>), OpenError> {
    let path = segment::path(generation);
    let file = segments.get(generation).map_err(io_error("open", &path))?;
    let len = file.len().map_err(io_error("inspect", &path))?;
    let mut first = [0; segment::LEN];
    // A header that cannot be read is as good as a damaged one.
    let read = read_up_to(&*file, 0, &mut first).unwrap_or(0);
    match SegmentHeader::decode(&first[..read]) {
        Err(Fault::Version(version)) => Err(OpenError::Version { name: path, version, known: STORE_VERSION }),
        header => Ok((len, header)),
    }
}

type Headers = BTreeMap<u32, (u64, Result<SegmentHeader, Fault>)>;

fn establish_identity(
    disk: &dyn Disk,
    headers: &Headers,
    options: &StoreOptions,
    report: &mut OpenReport,
) -> Result<StoreUuid, OpenError> {
    let name = || identity::NAME.to_owned();
    let read = match disk.open(identity::NAME) {
        Ok(file) => {
            let mut bytes = [0; identity::LEN];
            let read = read_up_to(&*file, 0, &mut bytes).map_err(io_error("read", identity::NAME))?;
            Some(identity::decode(&bytes[..read]))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(io_error("open", identity::NAME)(error)),
    };
    let fault = match read {
        Some(Ok(uuid)) => return Ok(uuid),
        Some(Err(Fault::Version(version))) => {
            return Err(OpenError::Version { name: name(), version, known: STORE_VERSION });
        }
        None if headers.is_empty() => {
            report.created = true;
            let uuid = StoreUuid((options.entropy)().to_le_bytes());
            write_identity(disk, uuid)?;
            return Ok(uuid);
        }
        Some(Err(fault)) => Some(fault),
        None => None,
    };
    let stores: BTreeSet<StoreUuid> =
        headers.values().filter_map(|(_, header)| header.ok()).map(|header| header.store).collect();
    match (stores.len(), stores.first()) {
        (1, Some(uuid)) => {
            report.identity_fault = Some(fault.map_or("it is missing".into(), |fault| fault.to_string()));
            write_identity(disk, *uuid)?;
            Ok(*uuid)
        }
        (0, _) | (_, None) => Err(OpenError::Identity { name: name(), fault: fault.unwrap_or(Fault::Short) }),
        _ => Err(OpenError::Mixed { name: name() }),
    }
}

fn write_identity(disk: &dyn Disk, uuid: StoreUuid) -> Result<(), OpenError> {
    let write = || {
        match disk.remove(IDENTITY_TEMPORARY_NAME) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.create(IDENTITY_TEMPORARY_NAME)?;
        write_buffer_at(&*file, 0, &identity::encode(uuid))?;
        file.sync_data()?;
        disk.rename(IDENTITY_TEMPORARY_NAME, identity::NAME)?;
        disk.sync_dir("")
    };
    write().map_err(io_error("write", identity::NAME))
}

/// Files of removed segments that wait to be used again. What stands in them means nothing, but a file of another store
/// is not ours to write to.
fn adopt_recycled(disk: &dyn Disk, segments: &Segments, names: &[String], uuid: StoreUuid, report: &mut OpenReport) {
    let mut adopted = Vec::new();
    for generation in names.iter().filter_map(|name| segment::parse_free_name(name)) {
        let path = segment::free_path(generation);
        let look = || {
            let file = disk.open(&path)?;
            let mut first = [0; segment::LEN];
            let read = read_up_to(&*file, 0, &mut first)?;
            Ok::<_, io::Error>((file.len()?, SegmentHeader::decode(&first[..read])))
        };
        match look() {
            Ok((len, Ok(header))) if header.store == uuid && adopted.len() < RECYCLED_SEGMENTS_MAX => {
                adopted.push(RecycledFile { generation, len, handles: Vec::new() });
            }
            Ok((_, Ok(header))) if header.store != uuid => report.foreign_files.push(path),
            // One too many, or half made into something else when the machine stopped.
            _ => drop(disk.remove(&path)),
        }
    }
    segments.recycled.add(adopted);
}

/// The segments of this store. A file of another store, or under another name than its own, is left alone.
fn own_files(headers: &Headers, uuid: StoreUuid, report: &mut OpenReport) -> BTreeMap<u32, SegmentFile> {
    let mut files = BTreeMap::new();
    for (&generation, &(len, header)) in headers {
        match header {
            Ok(header) if header.store != uuid || header.generation != generation => {
                report.foreign_files.push(segment::path(generation));
            }
            header => {
                let reused_len = header.map_or(0, |header| header.reused_len);
                files.insert(generation, SegmentFile { len, header_is_good: header.is_ok(), reused_len });
            }
        }
    }
    files
}

/// Offset behind the record of an index entry.
fn end_of(entry: &Entry) -> u64 {
    u64::from(entry.page) * PAGE_LEN + put_len(entry.len)
}

/// The log's position of a checkpoint.
#[derive(Clone, Copy)]
struct Position {
    segment: u32,
    offset: u64,
}

/// A part of a segment without a valid header.
#[derive(Clone, Copy)]
struct Region {
    from: u64,
    to: u64,
    /// Number of the record before.
    number_before: u64,
    unreadable: bool,
}

/// The active segment, when the log may go on in it.
struct Reusable {
    generation: u32,
    end: u64,
}

impl Recovery<'_> {
    /// Loads the checkpoint, compares it with the files, and says from where records are to be read.
    fn load_checkpoint(&mut self, files: &BTreeMap<u32, SegmentFile>) -> Result<Position, OpenError> {
        let whole_log = Position { segment: 0, offset: PAGE_LEN };
        match checkpoint::load(self.disk, self.uuid) {
            Ok(Loaded { header, catalog }) => {
                self.catalog = catalog;
                self.readopt(files, header.segment);
                self.last_number = header.next_number - 1;
                self.synced = self.last_number;
                self.compare(files);
                self.remove_orphans(files, header.segment)?;
                Ok(Position { segment: header.segment, offset: header.offset })
            }
            Err(LoadError::Damaged(Fault::Version(version))) => {
                let name = crate::format::checkpoint::NAME.to_owned();
                Err(OpenError::Version { name, version, known: STORE_VERSION })
            }
            Err(error) => {
                if !files.is_empty() {
                    self.report.checkpoint_fault = Some(error.to_string());
                }
                Ok(whole_log)
            }
        }
    }

    /// Takes back segments that were missing at an earlier opening and have been restored since.
    fn readopt(&mut self, files: &BTreeMap<u32, SegmentFile>, active: u32) {
        let missing = |(key, cause): (&BlockKey, &Cause)| (*cause == Cause::SegmentMissing).then_some(*key);
        let keys: Vec<BlockKey> = self.catalog.quarantine.iter().filter_map(missing).collect();
        for key in keys {
            let Some(entry) = self.catalog.index.get(key).copied() else { continue };
            let Some(file) = files.get(&entry.segment).filter(|_| entry.segment < active) else { continue };
            // What its tombstones hide is not known any more, so everything older is assumed.
            let older = files.range(..entry.segment).map(|(generation, _)| *generation);
            if !self.catalog.segments.contains_key(&entry.segment) {
                let restored = SegmentInfo { len: file.len, needs: older.collect(), ..SegmentInfo::default() };
                self.catalog.segments.insert(entry.segment, restored);
            }
            self.catalog.restore(entry.segment, 1, put_len(entry.len));
            if end_of(&entry) > file.len {
                self.catalog.quarantine.insert(key, Cause::Truncated);
                self.found.push((entry, 0));
            } else {
                self.catalog.quarantine.remove(&key);
                self.catalog.index.set_state(key, State::Live);
            }
        }
    }

    /// Quarantines the blocks of segments that are gone or too short.
    fn compare(&mut self, files: &BTreeMap<u32, SegmentFile>) {
        let mut shorter = BTreeMap::new();
        for (&generation, info) in self.catalog.segments.iter() {
            match files.get(&generation) {
                // A segment without blocks may be gone: it was removed right after the checkpoint was written.
                None => {
                    if info.blocks > 0 {
                        self.report.missing_segments.push(generation);
                    }
                    shorter.insert(generation, 0);
                }
                Some(file) if file.len < info.len => {
                    shorter.insert(generation, file.len);
                }
                Some(_) => {}
            }
        }
        for (generation, len) in &shorter {
            self.catalog.segments.change(*generation, |info| info.len = *len);
        }
        // An entry may name a segment that not even the checkpoint's table has: a former opening missed it already.
        let length_of = |segment: u32| match shorter.get(&segment) {
            Some(len) => Some(*len),
            None if self.catalog.segments.contains_key(&segment) => Some(u64::MAX),
            None => None,
        };
        // Neighbours mostly lie in one segment.
        let mut last = (0, length_of(0));
        let lost: Vec<(Entry, Cause)> = self
            .catalog
            .index
            .iter()
            .filter_map(|entry| {
                if entry.segment != last.0 {
                    last = (entry.segment, length_of(entry.segment));
                }
                match last.1 {
                    Some(u64::MAX) => None,
                    Some(0) => Some((*entry, Cause::SegmentMissing)),
                    Some(len) => (end_of(entry) > len).then_some((*entry, Cause::Truncated)),
                    None => (entry.state == State::Live).then_some((*entry, Cause::SegmentMissing)),
                }
            })
            .collect();
        for (entry, cause) in lost {
            self.quarantine(&entry, cause, 0);
        }
        self.catalog.segments.retain(|generation| files.contains_key(&generation));
    }

    fn quarantine(&mut self, entry: &Entry, cause: Cause, number: u64) {
        if self.catalog.quarantine(entry, cause) {
            self.found.push((*entry, number));
        }
    }

    /// Removes segments that an earlier checkpoint dropped and whose removal was not durable.
    fn remove_orphans(&mut self, files: &BTreeMap<u32, SegmentFile>, active: u32) -> Result<(), OpenError> {
        let orphans: Vec<_> = files
            .range(..active)
            .filter(|(generation, _)| !self.catalog.segments.contains_key(generation))
            .map(|(generation, _)| (*generation, Farewell::Remove))
            .collect();
        if orphans.is_empty() {
            return Ok(());
        }
        let removed = self.segments.remove(&orphans, 0);
        let removed = removed.and_then(|(_, refused)| refused.map_or(Ok(()), Err));
        removed.map_err(io_error("remove from", segment::DIR))
    }

    /// Reads the records behind the checkpoint. Returns the last segment if the log may go on there.
    fn read_tail(
        &mut self,
        files: &BTreeMap<u32, SegmentFile>,
        start: Position,
    ) -> Result<Option<Reusable>, OpenError> {
        let mut reusable = None;
        let last = files.keys().next_back().copied();
        for (&generation, file) in files.range(start.segment..) {
            // A crash while a segment is made leaves a file that cannot hold a record.
            if !file.header_is_good && file.len > PAGE_LEN {
                self.report.bad_segment_headers.push(generation);
            }
            let from = if generation == start.segment { start.offset } else { PAGE_LEN };
            let end = self.read_segment(generation, file, from, last == Some(generation))?;
            reusable = end.filter(|_| file.header_is_good).map(|end| Reusable { generation, end });
        }
        for (generation, file) in files.range(..start.segment) {
            if !file.header_is_good && file.len > PAGE_LEN && self.catalog.segments.contains_key(generation) {
                self.report.bad_segment_headers.push(*generation);
            }
        }
        Ok(reusable)
    }

    /// Reads the records of one segment; for the active one, verifies payloads, cuts a torn tail and returns where
    /// the next record may go, if any may.
    fn read_segment(
        &mut self,
        generation: u32,
        SegmentFile { len, reused_len, .. }: &SegmentFile,
        from: u64,
        active: bool,
    ) -> Result<Option<u64>, OpenError> {
        let file_len = *len;
        // Behind its bound the active segment was not written in this life of its file.
        let bound = self.noted.bound_of(generation).filter(|_| active);
        let len = bound.map_or(file_len, |bound| file_len.min(bound.max(from)));
        let path = segment::path(generation);
        let file = self.segments.get(generation).map_err(io_error("open", &path))?;
        file.sync_data().map_err(io_error("sync", &path))?;
        if active {
            // What failed to be written may still stand in the page cache and look good.
            file.drop_cache().map_err(io_error("drop the cache of", &path))?;
        }
        self.catalog.segments.change_or_add(generation, |info| info.len = info.len.max(PAGE_LEN.min(len)));
        self.report.scanned_bytes += len.saturating_sub(from);
        let (uuid, last_number) = (self.uuid, self.last_number);
        let scan = Scan {
            file: &*file,
            len,
            store: uuid,
            segment: generation,
            offset: from,
            last_number,
            verify: active,
            pages: Pages::default(),
        };
        let mut end = from;
        let mut suspects = Vec::new();
        let mut regions = Vec::new();
        let mut unmarked = Vec::new();
        let mut pinned = false;
        for found in scan {
            match found {
                Found::Skipped { from, to, unreadable } => {
                    if unreadable {
                        self.pin(&*file, generation, from)?;
                        pinned = true;
                    }
                    regions.push(Region { from, to, number_before: self.last_number, unreadable });
                }
                Found::Record(record, cause) => {
                    let stamp = record.stamp();
                    end = stamp.place.offset + record.total_len();
                    self.last_number = stamp.number;
                    self.synced = self.synced.max(stamp.synced);
                    self.report.scanned_records += 1;
                    let cause = cause.or_else(|| self.verify_copy(&*file, &record));
                    if let (Record::Put(_, put), Some(cause)) = (&record, cause) {
                        suspects.push((stamp, cause));
                        if put.damage.is_none() && cause != Cause::Unreadable {
                            unmarked.push((stamp, put.clone(), cause));
                        }
                    }
                    self.apply(&record, cause);
                }
            }
        }
        self.blame(&suspects, active);
        self.judge_regions(generation, &regions, len, active.then_some(*reused_len));
        if !unmarked.is_empty() {
            self.mark(&*file, unmarked, active).map_err(io_error("write to", &path))?;
        }
        // The log goes on in a new segment where this one has to be left as it is, or may have a bound that is not known.
        if !active || len < from || pinned || self.noted == Noted::Doubtful {
            return Ok(None);
        }
        self.cut(&*file, &path, file_len, end)
    }

    fn apply(&mut self, record: &Record, cause: Option<Cause>) {
        match record {
            Record::Put(stamp, put) => self.apply_put(stamp, put, cause),
            Record::Tombstone(stamp, entries) => {
                let dead = self.catalog.apply_tombstone(stamp.place, record.total_len(), entries);
                // The tombstone is durable: its segment was synced before it was read.
                self.reclaim.add(dead);
            }
        }
    }

    /// What is wrong with the payload of a put that would take the place of a record not known to be damaged, in
    /// whatever segment: compaction copied that one, or something found it damaged once.
    fn verify_copy(&self, file: &dyn DiskFile, record: &Record) -> Option<Cause> {
        let Record::Put(stamp, put) = record else { return None };
        self.catalog.index.get(put.key).filter(|older| older.state == State::Live)?;
        match first_bad_chunk(file, stamp.place.offset + put_header_len(put.stored_len), put) {
            Ok(None) => None,
            Ok(Some(_)) => Some(Cause::Payload),
            Err(_) => Some(Cause::Unreadable),
        }
    }

    /// Writes into damaged records that they are, so that no later opening takes them for their blocks, not even without a
    /// checkpoint, when payloads of sealed segments are not read.
    fn mark(&self, file: &dyn DiskFile, records: Vec<(Stamp, PutHeader, Cause)>, active: bool) -> io::Result<()> {
        for (stamp, put, cause) in records {
            let cause = if active && stamp.number > self.synced { Cause::Torn } else { cause };
            let header = PutHeader { damage: Some(cause), ..put };
            write_buffer_at(file, stamp.place.offset, &encode_put(self.uuid, stamp, &header))?;
        }
        file.sync_data()
    }

    fn apply_put(&mut self, stamp: &Stamp, put: &PutHeader, cause: Option<Cause>) {
        let older = self.catalog.index.get(put.key);
        if cause.is_some() && older.is_some_and(|older| older.state == State::Live) {
            // The older record has the same content and stays.
            return self.catalog.apply_nothing(stamp.place, put_len(put.stored_len));
        }
        let dead = self.catalog.apply_put(stamp.place, put, cause);
        match cause {
            None => self.reclaim.add(dead.into_iter().collect()),
            Some(_) => {
                let entry = self.catalog.index.get(put.key).expect("applied above");
                self.found.push((*entry, stamp.number));
            }
        }
    }

    /// Bad payloads behind everything known durable are a crash's doing.
    fn blame(&mut self, suspects: &[(Stamp, Cause)], active: bool) {
        for (stamp, _) in
            suspects.iter().filter(|(stamp, cause)| active && stamp.number > self.synced && *cause != Cause::Unreadable)
        {
            for (entry, _) in self.found.iter().filter(|(_, number)| *number == stamp.number) {
                if let Some(cause) = self.catalog.quarantine.get_mut(&entry.key()) {
                    *cause = Cause::Torn;
                }
            }
        }
    }

    /// `active` is the length of the active segment's file that a former life of it wrote: at its end that is no defect.
    fn judge_regions(&mut self, segment: u32, regions: &[Region], len: u64, active: Option<u64>) {
        for &Region { from, to, number_before, unreadable } in regions {
            let torn = active.is_some() && !unreadable && number_before >= self.synced;
            if torn && to == len {
                self.report.torn_bytes += to.saturating_sub(from.max(active.unwrap_or(0)));
                continue;
            }
            self.report.skipped_count += 1;
            if self.report.skipped.len() < REPORT_ITEMS_MAX {
                self.report.skipped.push(SkippedRegion { segment, from, to, torn });
            }
        }
    }

    /// Part of a segment cannot be read, so records in it are unknown: it is never cut nor removed. When nothing of the file
    /// can be read the whole disk may be away, and the store must not be taken for an empty one.
    fn pin(&mut self, file: &dyn DiskFile, generation: u32, offset: u64) -> Result<(), OpenError> {
        let mut first = [0; PAGE_LEN as usize];
        let _ = file.drop_cached(0, PAGE_LEN);
        let name = format!("{} at offset {offset}", segment::path(generation));
        file.read_at(0, &mut first).map_err(io_error("read", &name))?;
        self.catalog.segments.change_or_add(generation, |info| info.needs.insert(generation));
        Ok(())
    }

    /// Makes the active segment end behind its last record.
    fn cut(&self, file: &dyn DiskFile, path: &str, len: u64, end: u64) -> Result<Option<u64>, OpenError> {
        if len == end {
            return Ok(Some(end));
        }
        // A record whose payload was cut keeps its place; it is quarantined.
        file.set_len(end).map_err(io_error("cut", path))?;
        file.sync_data().map_err(io_error("sync", path))?;
        Ok(Some(end))
    }

    fn finish(
        mut self,
        disk: &Arc<dyn Disk>,
        reusable: Option<Reusable>,
        highest_generation: u32,
        options: &StoreOptions,
    ) -> Result<Recovered, OpenError> {
        let next_number = self.last_number.max(self.synced) + 1;
        let made = reusable.is_none();
        let (generation, tail, file_len) = match reusable {
            Some(reusable) => (reusable.generation, reusable.end, reusable.end),
            None => {
                let (generation, file_len) = self.make_segment(highest_generation, next_number)?;
                (generation, PAGE_LEN, file_len)
            }
        };
        let file = self.segments.get(generation).map_err(io_error("open", &segment::path(generation)))?;
        let without_checkpoint = self.report.checkpoint_fault.is_some();
        if self.report.scanned_records == 0 && self.catalog.index.len() == 0 && self.last_number == 0 {
            // A crash while the store was made: there was nothing to checkpoint yet.
            self.report.checkpoint_fault = None;
        }
        self.report_found();
        // What was dead before the checkpoint is not remembered.
        let holed = |(_, info): &(&u32, &SegmentInfo)| info.dead() > info.len / RECYCLE_PUNCHED_SHARE;
        self.reclaim.forget_places(self.catalog.segments.iter().filter(holed).map(|(generation, _)| *generation));
        let next_generation = highest_generation.max(generation).saturating_add(1);
        let noted = self.noted.bound_of(generation);
        let mut bound = Bound::new(Arc::clone(disk), self.uuid, noted, options.reach_step);
        if made {
            bound.begin(generation, file_len);
        }
        Ok(Recovered {
            wants_checkpoint: made
                || without_checkpoint
                || self.report.is_damaged()
                || self.report.torn_bytes > 0
                || self.report.skipped_count > 0
                || self.report.quarantined_count > 0
                || self.report.scanned_bytes > options.checkpoint_bytes / 2,
            uuid: self.uuid,
            segments: self.segments,
            catalog: self.catalog,
            reclaim: self.reclaim,
            end: LogEnd { file, generation, next_generation, tail, file_len, next_number, bound },
            report: self.report,
        })
    }

    /// Generation of the new segment and the length of its file.
    fn make_segment(&mut self, highest_generation: u32, first_number: u64) -> Result<(u32, u64), OpenError> {
        let generation = highest_generation.saturating_add(1);
        let header = SegmentHeader { store: self.uuid, generation, first_number, reused_len: 0 };
        let made = self.segments.create(header).map_err(io_error("make", &segment::path(generation)))?;
        self.catalog.segments.insert(generation, SegmentInfo { len: PAGE_LEN, ..SegmentInfo::default() });
        Ok((generation, made.len))
    }

    fn report_found(&mut self) {
        self.report.blocks = self.catalog.index.len();
        self.report.used_bytes = self.catalog.used_bytes();
        // A block damaged in one record may have been replaced or deleted by a later one.
        let still = self.found.iter().filter_map(|(found, _)| {
            let entry = self.catalog.index.get(found.key()).filter(|entry| entry.same_record(found))?;
            let cause = *self.catalog.quarantine.get(&entry.key())?;
            Some(QuarantinedBlock { key: entry.key(), pg: entry.pg.into(), len: entry.len, cause })
        });
        for block in still {
            self.report.quarantined_count += 1;
            if self.report.quarantined.len() < REPORT_ITEMS_MAX {
                self.report.quarantined.push(block);
            }
        }
    }
}
