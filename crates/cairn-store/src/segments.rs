//! Segment files: making, opening, removing, and how many are open at once.
//!
//! Files of removed segments are kept for reuse as `NNNNNNNN.free` (see `recycled.rs`), because their space is written:
//! syncing it again changes nothing of the file system's own data.

use crate::disk::{Disk, DiskFile, OsFile, write_buffer_at};
use crate::format::segment::{self, SegmentHeader};
use crate::limits::{OPEN_SEGMENTS_MAX, PAGE_LEN};
use crate::recycled::{Recycled, RecycledFile};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};

/// The segment files of one store, opened when needed.
pub struct Segments {
    disk: Arc<dyn Disk>,
    open: Mutex<OpenFiles>,
    pub recycled: Recycled,
}

#[derive(Default)]
struct OpenFiles {
    /// File and time of last use, counted in uses.
    files: HashMap<u32, (Arc<dyn DiskFile>, u64)>,
    /// Files that were closed here while somebody else may still read them.
    let_go: HashMap<u32, Vec<Handle>>,
    uses: u64,
}

/// A file that may still be held by a reader.
pub struct Handle {
    file: Weak<dyn DiskFile>,
    os_file: Option<Weak<<OsFile as std::ops::Deref>::Target>>,
}

/// What becomes of the file of a removed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// It is kept for reuse if there is room for it.
    Keep {
        /// Its length in bytes.
        len: u64,
    },
    /// It is removed.
    Remove,
}

/// A new segment.
pub struct Made {
    pub file: Arc<dyn DiskFile>,
    /// Length of the file: more than the header when its space was written before.
    pub len: u64,
}

impl Handle {
    fn of(file: &Arc<dyn DiskFile>) -> Self {
        Self { file: Arc::downgrade(file), os_file: file.os_file().map(|file| Arc::downgrade(&file)) }
    }

    /// True while somebody can still read through it.
    pub fn is_held(&self) -> bool {
        self.file.strong_count() > 0 || self.os_file.as_ref().is_some_and(|file| file.strong_count() > 0)
    }
}

impl Segments {
    /// Over the segment directory of `disk`.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, open: Mutex::default(), recycled: Recycled::default() }
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

    /// Makes a segment with its header, in a file that was used before if there is one; durable, name included, when it
    /// returns.
    pub fn create(&self, mut header: SegmentHeader) -> io::Result<Made> {
        let made = match self.recycled.take() {
            Some(recycled) => {
                header.reused_len = recycled.len;
                self.reuse(&header, &recycled)
            }
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let made = match made {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                header.reused_len = 0;
                self.create_new(&header)?
            }
            made => made?,
        };
        self.open.lock().keep(header.generation, &made.file);
        Ok(made)
    }

    fn create_new(&self, header: &SegmentHeader) -> io::Result<Made> {
        let path = segment::path(header.generation);
        let file = self.disk.create(&path)?;
        let written = write_header(&*file, header).and_then(|()| self.disk.sync_dir(segment::DIR));
        if let Err(error) = written {
            // Without a record in it the file means nothing; recovery removes it if this fails too.
            let _ = self.disk.remove(&path);
            return Err(error);
        }
        Ok(Made { file, len: PAGE_LEN })
    }

    /// The header goes in before the name, so that no file ever has the name of one segment and the header of another.
    fn reuse(&self, header: &SegmentHeader, recycled: &RecycledFile) -> io::Result<Made> {
        let free = segment::free_path(recycled.generation);
        let renamed = self.disk.open(&free).and_then(|file| {
            write_header(&*file, header)?;
            self.disk.rename(&free, &segment::path(header.generation))?;
            Ok(file)
        });
        let file = match renamed {
            Ok(file) => file,
            Err(error) => {
                let _ = self.disk.remove(&free);
                return Err(error);
            }
        };
        self.disk.sync_dir(segment::DIR)?;
        Ok(Made { file, len: recycled.len })
    }

    /// Removes segments, oldest first, up to the first that cannot be; durable when it returns. Returns those that are
    /// gone, and why not all are. `keep` bounds the bytes of files kept for reuse.
    pub fn remove(&self, removed: &[(u32, Farewell)], keep: u64) -> io::Result<(Vec<u32>, Option<io::Error>)> {
        let mut kept = Vec::new();
        let mut gone = Vec::new();
        let mut refused = None;
        {
            // Under one lock, so that nobody opens a file between its removal and that of its handle.
            let mut open = self.open.lock();
            for &(generation, farewell) in removed {
                let handles = open.forget(generation);
                let path = segment::path(generation);
                let done = match farewell {
                    Farewell::Keep { len } if self.recycled.has_room_for(&kept, len, keep) => {
                        kept.push(RecycledFile { generation, len, handles });
                        self.disk.rename(&path, &segment::free_path(generation))
                    }
                    Farewell::Keep { .. } | Farewell::Remove => self.disk.remove(&path),
                };
                if done.is_err() {
                    kept.retain(|file: &RecycledFile| file.generation != generation);
                }
                match done {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        refused = Some(error);
                        break;
                    }
                    Ok(()) | Err(_) => gone.push(generation),
                }
            }
        }
        self.disk.sync_dir(segment::DIR)?;
        // Only now: a file under its old name again after a crash must still have its old header.
        self.recycled.add(kept);
        Ok((gone, refused))
    }

    /// Gives the space of files kept for reuse back to the file system until at most `keep` bytes are left. Space that
    /// somebody still reads comes back when they are done.
    pub fn give_back(&self, keep: u64) {
        for file in self.recycled.shrink(keep) {
            if let Err(error) = self.disk.remove(&segment::free_path(file.generation)) {
                tracing::debug!(generation = file.generation, %error, "file of a removed segment not removed");
            }
        }
    }

    /// True while a reader holds the file of a segment.
    pub fn is_held(&self, generation: u32) -> bool {
        let mut open = self.open.lock();
        let ours = open.files.get(&generation).is_some_and(|(file, _)| is_shared(file));
        ours || open.let_go_of(generation)
    }
}

/// True when somebody besides the table of open files holds it.
fn is_shared(file: &Arc<dyn DiskFile>) -> bool {
    // The second one is ours, made by the question.
    Arc::strong_count(file) > 1 || file.os_file().is_some_and(|file| Arc::strong_count(&file) > 2)
}

fn write_header(file: &dyn DiskFile, header: &SegmentHeader) -> io::Result<()> {
    let mut page = [0; PAGE_LEN as usize];
    page[..segment::LEN].copy_from_slice(&header.encode());
    write_buffer_at(file, 0, &page)?;
    file.sync_data()
}

impl OpenFiles {
    fn keep(&mut self, generation: u32, file: &Arc<dyn DiskFile>) {
        self.uses += 1;
        self.files.insert(generation, (Arc::clone(file), self.uses));
        if self.files.len() > OPEN_SEGMENTS_MAX
            && let Some(oldest) =
                self.files.iter().min_by_key(|(_, (_, used))| *used).map(|(generation, _)| *generation)
            && let Some((file, _)) = self.files.remove(&oldest)
        {
            self.let_go.retain(|_, handles| {
                handles.retain(Handle::is_held);
                !handles.is_empty()
            });
            if is_shared(&file) {
                self.let_go.entry(oldest).or_default().push(Handle::of(&file));
            }
        }
    }

    fn let_go_of(&mut self, generation: u32) -> bool {
        self.let_go.get(&generation).is_some_and(|handles| handles.iter().any(Handle::is_held))
    }

    /// Closes a file for good; what is left are the readers' handles.
    fn forget(&mut self, generation: u32) -> Vec<Handle> {
        let mut handles = self.let_go.remove(&generation).unwrap_or_default();
        handles.extend(self.files.remove(&generation).map(|(file, _)| Handle::of(&file)));
        handles.retain(Handle::is_held);
        handles
    }
}
