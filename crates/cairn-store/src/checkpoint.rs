//! Writing and loading the checkpoint, and removing the segments it no longer needs.

use crate::catalog::{Catalog, SegmentInfo};
use crate::counters::Counters;
use crate::disk::{Disk, DiskFile, read_up_to, write_buffer_at};
use crate::error::Poisoned;
use crate::format::Fault;
use crate::format::checkpoint::{
    self, CheckpointHeader, ENTRY_LEN, HEADER_LEN, NAME, SEGMENT_LEN, SegmentRow, TEMPORARY_NAME,
};
use crate::format::record::{NUMBER_MAX, put_len};
use crate::index::IndexBuilder;
use crate::limits::{CHECKPOINT_LEN_MAX, RECYCLE_PUNCHED_SHARE, SCAN_WINDOW, SEGMENT_LEN_MAX};
use crate::segments::Farewell;
use crate::store::Shared;
use cairn_proto::checksum::{crc32c, crc32c_combine};
use cairn_proto::{StoreUuid, WriterId};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

/// A snapshot to be written.
pub struct Job {
    pub catalog: Catalog,
    /// File of the segment that was active.
    pub active: Arc<dyn DiskFile>,
    pub segment: u32,
    pub offset: u64,
    pub next_number: u64,
    /// Counts the snapshots of this opening.
    pub snapshot: u64,
}

/// Why a checkpoint was not written. The old one still stands.
#[derive(Debug, Error)]
pub enum WriteError {
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    #[error("cannot write a checkpoint")]
    Io(#[from] io::Error),
}

/// Hands at most one job at a time to the thread that writes checkpoints.
#[derive(Default)]
pub struct Checkpoints {
    slot: Mutex<Slot>,
    changed: Condvar,
    /// The newest snapshot written; held while one is being written.
    written: Mutex<u64>,
    /// The last one was not written, so what changed before it is in none.
    failed: AtomicBool,
}

#[derive(Default)]
struct Slot {
    job: Option<Job>,
    busy: bool,
    stopped: bool,
}

impl Checkpoints {
    pub fn is_idle(&self) -> bool {
        let slot = self.slot.lock();
        slot.job.is_none() && !slot.busy
    }

    /// True when the last checkpoint could not be written.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub fn offer(&self, job: Job) {
        self.slot.lock().job = Some(job);
        self.changed.notify_one();
    }

    pub fn stop(&self) {
        self.slot.lock().stopped = true;
        self.changed.notify_all();
    }

    fn next(&self) -> Option<Job> {
        let mut slot = self.slot.lock();
        slot.busy = false;
        loop {
            if slot.stopped {
                return None;
            }
            if let Some(job) = slot.job.take() {
                slot.busy = true;
                return Some(job);
            }
            self.changed.wait(&mut slot);
        }
    }
}

/// The checkpoint thread.
pub fn run(shared: &Shared) {
    while let Some(job) = shared.checkpoints.next() {
        write_or_log(shared, &job);
    }
}

/// Writes a checkpoint; a failure is logged, since the old one still stands.
pub fn write_or_log(shared: &Shared, job: &Job) {
    if let Err(error) = write(shared, job) {
        tracing::warn!(store = %shared.uuid, error = &error as &dyn std::error::Error, "checkpoint not written");
    }
}

/// Bytes of a checkpoint of so many blocks, segment rows not counted.
pub fn len_of(blocks: u64) -> u64 {
    HEADER_LEN as u64 + blocks * ENTRY_LEN as u64
}

/// Makes what the snapshot describes durable, then the snapshot, then removes the segments that hold nothing.
pub fn write(shared: &Shared, job: &Job) -> Result<(), WriteError> {
    let mut written = shared.checkpoints.written.lock();
    if job.snapshot < *written {
        // A newer one is there and may have removed segments that this one still names.
        return Ok(());
    }
    let done = shared.sync_up_to(&job.active, job.next_number - 1).map_err(WriteError::from);
    let done = done.and_then(|()| {
        write_file(&*shared.disk, shared.uuid, job).inspect_err(|_| {
            // Half of one is of no use, and takes space that is kept for others.
            let _ = shared.disk.remove(TEMPORARY_NAME);
        })?;
        Ok(())
    });
    shared.checkpoints.failed.store(done.is_err(), Ordering::Relaxed);
    done?;
    *written = job.snapshot;
    remove_segments(shared, &job.catalog.removable(job.segment))
}

/// Removes segments that the checkpoint on the disk needs no more. Readers that hold a file keep it; nobody finds a block
/// in it any more.
fn remove_segments(shared: &Shared, removable: &[u32]) -> Result<(), WriteError> {
    if removable.is_empty() {
        return Ok(());
    }
    let farewells: Vec<_> = {
        let catalog = shared.catalog.read();
        let known = removable.iter().filter_map(|generation| Some((*generation, catalog.segments.get(generation)?)));
        known.map(|(generation, info)| (generation, farewell(info))).collect()
    };
    // A row goes only after its file: while a put is on the disk, its tombstone's segment has to know.
    let (gone, refused) = shared.segments.remove(&farewells, shared.space().keep)?;
    let mut catalog = shared.catalog.write();
    for generation in &gone {
        catalog.segments.remove(*generation);
    }
    drop(catalog);
    shared.reclaim.drop_segments(&gone);
    Counters::add(&shared.counters.removed_segments, gone.len());
    refused.map_or(Ok(()), |error| Err(error.into()))
}

/// Only written space is worth keeping: a file full of holes is no better than a new one.
fn farewell(info: &SegmentInfo) -> Farewell {
    let is_written = info.punched <= info.len / RECYCLE_PUNCHED_SHARE;
    if is_written { Farewell::Keep { len: info.len } } else { Farewell::Remove }
}

fn write_file(disk: &dyn Disk, store: StoreUuid, job: &Job) -> io::Result<()> {
    match disk.remove(TEMPORARY_NAME) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(TEMPORARY_NAME)?;
    let mut body =
        BodyWriter { file: &*file, offset: HEADER_LEN as u64, buffer: Vec::with_capacity(SCAN_WINDOW), crc: 0 };
    for (generation, info) in job.catalog.segments.iter() {
        let row = SegmentRow {
            generation: *generation,
            len: info.len,
            punched: info.punched,
            needs: info.needs.iter().copied().collect(),
        };
        checkpoint::encode_segment(&row, &mut body.buffer);
        body.flush_if_full()?;
    }
    for entry in job.catalog.index.iter() {
        let cause = job.catalog.quarantine.get(&entry.key()).copied();
        body.buffer.extend_from_slice(&checkpoint::encode_entry(entry, cause));
        body.flush_if_full()?;
    }
    body.flush()?;
    let header = CheckpointHeader {
        store,
        segment: job.segment,
        offset: job.offset,
        next_number: job.next_number,
        highest_writer: job.catalog.highest_writer.0,
        entries: job.catalog.index.len(),
        segments: job.catalog.segments.len().try_into().map_err(|_| io::ErrorKind::InvalidData)?,
        body_len: body.offset - HEADER_LEN as u64,
        body_crc: body.crc,
    };
    write_buffer_at(&*file, 0, &header.encode())?;
    file.sync_data()?;
    disk.rename(TEMPORARY_NAME, NAME)?;
    disk.sync_dir("")
}

struct BodyWriter<'a> {
    file: &'a dyn DiskFile,
    offset: u64,
    buffer: Vec<u8>,
    crc: u32,
}

impl BodyWriter<'_> {
    fn flush_if_full(&mut self) -> io::Result<()> {
        if self.buffer.len() >= SCAN_WINDOW { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        write_buffer_at(self.file, self.offset, &self.buffer)?;
        self.crc = crc32c_combine(self.crc, crc32c(&self.buffer), self.buffer.len() as u64);
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// What a checkpoint says.
#[derive(Debug)]
pub struct Loaded {
    pub header: CheckpointHeader,
    pub catalog: Catalog,
}

/// Why there is no checkpoint to start from.
#[derive(Debug, Error)]
pub enum LoadError {
    /// There is none.
    #[error("there is none")]
    Missing,
    /// It is damaged.
    #[error(transparent)]
    Damaged(#[from] Fault),
    /// It cannot be read.
    #[error("it cannot be read")]
    Io(#[source] io::Error),
}

/// Loads the checkpoint. Nothing of a damaged one is used.
pub fn load(disk: &dyn Disk, store: StoreUuid) -> Result<Loaded, LoadError> {
    let file = match disk.open(NAME) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(LoadError::Missing),
        Err(error) => return Err(LoadError::Io(error)),
    };
    let mut first = [0; HEADER_LEN];
    let read = read_up_to(&*file, 0, &mut first).map_err(LoadError::Io)?;
    let header = CheckpointHeader::decode(&first[..read], store)?;
    let len = file.len().map_err(LoadError::Io)?;
    let end = header.body_len.checked_add(HEADER_LEN as u64).filter(|end| *end <= len).ok_or(Fault::Short)?;
    if end > CHECKPOINT_LEN_MAX
        || !(1..=NUMBER_MAX).contains(&header.next_number)
        || header.segment == 0
        || header.offset > SEGMENT_LEN_MAX
    {
        return Err(Fault::Range.into());
    }
    let mut body = BodyReader { file: &*file, offset: HEADER_LEN as u64, end, buffer: Vec::new(), used: 0, crc: 0 };
    let catalog = load_body(&mut body, &header)?;
    if body.crc != header.body_crc {
        return Err(Fault::Checksum.into());
    }
    Ok(Loaded { header, catalog })
}

fn load_body(body: &mut BodyReader<'_>, header: &CheckpointHeader) -> Result<Catalog, LoadError> {
    let mut catalog = Catalog { highest_writer: WriterId(header.highest_writer), ..Catalog::default() };
    for _ in 0..header.segments {
        let row = body.segment()?;
        if row.len > SEGMENT_LEN_MAX || row.punched > row.len {
            return Err(Fault::Range.into());
        }
        let needs = row.needs.into_iter().collect();
        let info = SegmentInfo { len: row.len, punched: row.punched, needs, ..SegmentInfo::default() };
        catalog.segments.insert(row.generation, info);
    }
    let mut index = IndexBuilder::default();
    // Blocks that were written together lie together, and have neighbouring keys.
    let mut run = (0, 0, 0);
    for _ in 0..header.entries {
        let (entry, cause) = checkpoint::decode_entry(body.take(ENTRY_LEN)?.first_chunk().ok_or(Fault::Short)?)?;
        if entry.segment != run.0 {
            catalog.restore(run.0, run.1, run.2);
            run = (entry.segment, 0, 0);
        }
        run.1 += 1;
        run.2 += put_len(entry.len);
        if let Some(cause) = cause {
            catalog.quarantine.insert(entry.key(), cause);
        }
        index.push(entry).ok_or(Fault::Range)?;
    }
    catalog.restore(run.0, run.1, run.2);
    catalog.index = index.finish();
    // The last window is read so that the checksum covers all of the body.
    if body.rest() != 0 {
        return Err(Fault::Range.into());
    }
    Ok(catalog)
}

struct BodyReader<'a> {
    file: &'a dyn DiskFile,
    /// Where the next window begins.
    offset: u64,
    end: u64,
    buffer: Vec<u8>,
    /// Bytes of the buffer already taken.
    used: usize,
    crc: u32,
}

impl BodyReader<'_> {
    /// Bytes of the body not yet taken.
    fn rest(&self) -> u64 {
        self.end - self.offset + (self.buffer.len() - self.used) as u64
    }

    /// Makes at least `len` bytes available.
    fn fill(&mut self, len: usize) -> Result<(), LoadError> {
        if (len as u64) > self.rest() {
            return Err(Fault::Short.into());
        }
        while self.buffer.len() - self.used < len {
            self.buffer.drain(..self.used);
            self.used = 0;
            let window = (self.end - self.offset).min(SCAN_WINDOW as u64) as usize;
            let start = self.buffer.len();
            self.buffer.resize(start + window, 0);
            let read = read_up_to(self.file, self.offset, &mut self.buffer[start..]).map_err(LoadError::Io)?;
            if read < window {
                return Err(Fault::Short.into());
            }
            self.crc = crc32c_combine(self.crc, crc32c(&self.buffer[start..]), window as u64);
            self.offset += window as u64;
        }
        Ok(())
    }

    fn take(&mut self, len: usize) -> Result<&[u8], LoadError> {
        self.fill(len)?;
        self.used += len;
        Ok(&self.buffer[self.used - len..self.used])
    }

    fn segment(&mut self) -> Result<SegmentRow, LoadError> {
        self.fill(SEGMENT_LEN)?;
        let needs = crate::format::u64_at(&self.buffer[self.used..], 24);
        let len = needs.checked_mul(8).and_then(|len| len.checked_add(SEGMENT_LEN as u64)).ok_or(Fault::Range)?;
        // Refused before anything is allocated when the body does not have so many bytes.
        let len = usize::try_from(len).map_err(|_| Fault::Range)?;
        Ok(checkpoint::decode_segment(&mut self.take(len)?)?)
    }
}
