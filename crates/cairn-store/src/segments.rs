//! Segment files: making, opening, removing, and how many are open at once.

use crate::disk::{Disk, DiskFile, write_buffer_at};
use crate::format::segment::{self, SegmentHeader};
use crate::limits::{OPEN_SEGMENTS_MAX, PAGE_LEN};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

/// The segment files of one store, opened when needed.
pub struct Segments {
    disk: Arc<dyn Disk>,
    open: Mutex<OpenFiles>,
}

#[derive(Default)]
struct OpenFiles {
    /// File and time of last use, counted in uses.
    files: HashMap<u32, (Arc<dyn DiskFile>, u64)>,
    uses: u64,
}

impl Segments {
    /// Over the segment directory of `disk`.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, open: Mutex::default() }
    }

    /// The file of a segment, opened if it is not; closes the least recently used one when too many are.
    pub fn get(&self, generation: u32) -> io::Result<Arc<dyn DiskFile>> {
        let mut open = self.open.lock();
        open.uses += 1;
        let now = open.uses;
        if let Some((file, used)) = open.files.get_mut(&generation) {
            *used = now;
            return Ok(Arc::clone(file));
        }
        let file = self.disk.open(&segment::path(generation))?;
        open.keep(generation, &file);
        Ok(file)
    }

    /// Makes a segment with its header; durable, name included, when it returns.
    pub fn create(&self, header: &SegmentHeader) -> io::Result<Arc<dyn DiskFile>> {
        let path = segment::path(header.generation);
        let file = self.disk.create(&path)?;
        let mut page = [0; PAGE_LEN as usize];
        page[..segment::LEN].copy_from_slice(&header.encode());
        let written = write_buffer_at(&*file, 0, &page)
            .and_then(|()| file.sync_data())
            .and_then(|()| self.disk.sync_dir(segment::DIR));
        if let Err(error) = written {
            // Without a record in it the file means nothing; recovery removes it if this fails too.
            let _ = self.disk.remove(&path);
            return Err(error);
        }
        self.open.lock().keep(header.generation, &file);
        Ok(file)
    }

    /// Removes segment files; durable when it returns.
    pub fn remove(&self, generations: &[u32]) -> io::Result<()> {
        {
            // Under one lock, so that nobody opens a file between its removal and that of its handle.
            let mut open = self.open.lock();
            for generation in generations {
                open.files.remove(generation);
                match self.disk.remove(&segment::path(*generation)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        self.disk.sync_dir(segment::DIR)
    }
}

impl OpenFiles {
    fn keep(&mut self, generation: u32, file: &Arc<dyn DiskFile>) {
        self.uses += 1;
        self.files.insert(generation, (Arc::clone(file), self.uses));
        if self.files.len() > OPEN_SEGMENTS_MAX
            && let Some(oldest) =
                self.files.iter().min_by_key(|(_, (_, used))| *used).map(|(generation, _)| *generation)
        {
            self.files.remove(&oldest);
        }
    }
}
