//! Chunks on disk: segments that are written one after the other, the oldest of which goes when there is no more room,
//! and an index in memory of where each chunk lies.
//!
//! Nothing is ever synced. What a crash leaves is found by the records' heads; a record whose bytes are not what they
//! were is noticed by whoever reads it, by the chunk's checksum.

use crate::files::{Files, SegmentFile};
use crate::format::{self, RECORD_HEAD_LEN, Record, SEGMENT_HEAD_LEN};
use crate::limits::{DISK_BYTES_PER_CHUNK_MIN, DISK_SIZE_MIN, SEGMENT_LEN, SEGMENTS_FULL, SEGMENTS_MAX, SEGMENTS_MIN};
use bytes::Bytes;
use cairn_client::{CachedChunk, ChunkKey};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

/// See the module. All methods block.
pub struct Log {
    files: Arc<dyn Files>,
    head: [u8; SEGMENT_HEAD_LEN],
    size: u64,
    segment_len: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    index: HashMap<ChunkKey, Place>,
    /// The oldest first; only the last one grows, and only when this process made it.
    segments: VecDeque<Segment>,
    total: u64,
    /// Whether the last segment may grow.
    growing: bool,
}

#[derive(Clone, Copy)]
struct Place {
    segment: u32,
    offset: u64,
}

struct Segment {
    number: u32,
    len: u64,
    file: Arc<dyn SegmentFile>,
}

fn name_of(number: u32) -> String {
    format!("{number:010}.seg")
}

impl Log {
    /// Takes the directory and finds what an earlier process left there for the same cluster. At most `size` bytes are
    /// kept.
    ///
    /// # Errors
    /// The disk's, or `ResourceBusy`.
    pub fn open(files: Arc<dyn Files>, cluster: [u8; 16], size: u64) -> io::Result<Self> {
        let size = size.max(DISK_SIZE_MIN);
        let segment_len = (size / SEGMENTS_MIN).min(SEGMENT_LEN).max(size / SEGMENTS_FULL);
        let log = Self { files, head: format::segment_head(cluster), size, segment_len, state: Mutex::default() };
        let mut found: Vec<(u32, String)> = Vec::new();
        for name in log.files.take()? {
            let number = name.strip_suffix(".seg").and_then(|number| number.parse().ok());
            found.extend(number.map(|number| (number, name)));
        }
        found.sort_unstable();
        let mut state = State::default();
        for (number, name) in found {
            if log.adopt(&mut state, number, &name)?.is_none() {
                log.files.remove(&name)?;
            }
        }
        log.make_room(&mut state, 0)?;
        *log.state.lock() = state;
        Ok(log)
    }

    /// Adds a segment of an earlier process. `None` when it is of no use.
    fn adopt(&self, state: &mut State, number: u32, name: &str) -> io::Result<Option<()>> {
        let file = self.files.open(name)?;
        let len = file.len()?.min(self.segment_len);
        let mut head = [0; SEGMENT_HEAD_LEN];
        if len < SEGMENT_HEAD_LEN as u64 {
            return Ok(None);
        }
        file.read_at(&mut head, 0)?;
        if head != self.head {
            return Ok(None);
        }
        let mut offset = SEGMENT_HEAD_LEN as u64;
        while offset + RECORD_HEAD_LEN as u64 <= len {
            let mut head = [0; RECORD_HEAD_LEN];
            file.read_at(&mut head, offset)?;
            let Some(record) = Record::decode(&head).filter(|record| offset + record.total_len() <= len) else { break };
            state.index.insert(record.key, Place { segment: number, offset });
            offset += record.total_len();
        }
        if offset == SEGMENT_HEAD_LEN as u64 {
            return Ok(None);
        }
        // What lies behind the last record takes room on the disk too.
        state.segments.push_back(Segment { number, len, file });
        state.total += len;
        Ok(Some(()))
    }

    /// True when none of these is there, which is told without asking the disk.
    pub fn lacks_all(&self, keys: impl IntoIterator<Item = ChunkKey>) -> bool {
        let state = self.state.lock();
        !keys.into_iter().any(|key| state.index.contains_key(&key))
    }

    /// The chunk, if it is there. Its checksum is left to the caller.
    ///
    /// # Errors
    /// The disk's.
    pub fn get(&self, key: ChunkKey) -> io::Result<Option<CachedChunk>> {
        let (file, offset) = {
            let state = self.state.lock();
            let Some(place) = state.index.get(&key) else { return Ok(None) };
            let segment = state.segments.iter().find(|segment| segment.number == place.segment);
            let Some(segment) = segment else { return Ok(None) };
            (segment.file.clone(), place.offset)
        };
        let mut head = [0; RECORD_HEAD_LEN];
        file.read_at(&mut head, offset)?;
        let Some(record) = Record::decode(&head).filter(|record| record.key == key) else {
            self.remove(key);
            return Ok(None);
        };
        let mut bytes = vec![0; record.len as usize];
        file.read_at(&mut bytes, offset + RECORD_HEAD_LEN as u64)?;
        Ok(Some(CachedChunk { bytes: Bytes::from(bytes), crc: record.crc }))
    }

    /// Keeps a chunk; one that is there already stays as it is. One caller at a time.
    ///
    /// # Errors
    /// The disk's. What was there before is still there.
    pub fn append(&self, key: ChunkKey, chunk: &CachedChunk) -> io::Result<()> {
        let record = Record { key, len: chunk.bytes.len() as u32, crc: chunk.crc };
        if self.state.lock().index.contains_key(&key) || Record::decode(&record.encode()).is_none() {
            return Ok(());
        }
        let (file, segment, offset) = self.place_for(record.total_len())?;
        let mut bytes = Vec::with_capacity(record.total_len() as usize);
        bytes.extend_from_slice(&record.encode());
        bytes.extend_from_slice(&chunk.bytes);
        file.write_at(&bytes, offset)?;
        let mut state = self.state.lock();
        let state = &mut *state;
        if let Some(last) = state.segments.back_mut().filter(|last| last.number == segment) {
            last.len += record.total_len();
            state.total += record.total_len();
            state.index.insert(key, Place { segment, offset });
        }
        Ok(())
    }

    /// Where the next record goes: file, segment, offset.
    fn place_for(&self, len: u64) -> io::Result<(Arc<dyn SegmentFile>, u32, u64)> {
        let mut state = self.state.lock();
        let indexed_max = usize::try_from(self.size / DISK_BYTES_PER_CHUNK_MIN).unwrap_or(usize::MAX);
        if let Some(last) = state.segments.back().filter(|last| last.len + len <= self.segment_len)
            && state.growing
            && state.index.len() < indexed_max
        {
            return Ok((last.file.clone(), last.number, last.len));
        }
        if state.index.len() >= indexed_max {
            self.drop_oldest(&mut state)?;
        }
        self.make_room(&mut state, self.segment_len)?;
        let number = state.segments.back().map_or(1, |last| last.number.wrapping_add(1));
        let file = self.files.create(&name_of(number))?;
        file.write_at(&self.head, 0)?;
        let len = SEGMENT_HEAD_LEN as u64;
        state.segments.push_back(Segment { number, len, file: file.clone() });
        state.total += len;
        state.growing = true;
        Ok((file, number, len))
    }

    /// Drops the oldest segments until so many bytes more fit.
    fn make_room(&self, state: &mut State, more: u64) -> io::Result<()> {
        let too_much = |state: &State| state.total + more > self.size || state.segments.len() >= SEGMENTS_MAX;
        while too_much(state) && !state.segments.is_empty() {
            self.drop_oldest(state)?;
        }
        Ok(())
    }

    fn drop_oldest(&self, state: &mut State) -> io::Result<()> {
        let Some(oldest) = state.segments.pop_front() else { return Ok(()) };
        state.total -= oldest.len;
        state.growing &= !state.segments.is_empty();
        state.index.retain(|_, place| place.segment != oldest.number);
        self.files.remove(&name_of(oldest.number))
    }

    /// Forgets a chunk; its room comes back with its segment.
    pub fn remove(&self, key: ChunkKey) {
        self.state.lock().index.remove(&key);
    }

    /// Forgets everything and gives the room back, as far as the disk still lets us.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        while !state.segments.is_empty() {
            // The file that cannot be removed is found and removed by the next process.
            let _ = self.drop_oldest(&mut state);
        }
    }

    /// Chunks, and bytes on disk.
    pub fn room(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.index.len() as u64, state.total)
    }
}

#[cfg(test)]
mod tests;
