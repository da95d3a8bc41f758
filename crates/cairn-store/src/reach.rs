//! Notes how far the active segment may have been written, ahead of the writing.
//!
//! A segment that was made from the file of a removed one has a gigabyte of old bytes behind its last record. Any of them
//! could be a record that a crash left behind a torn one, so an opening would have to look at all. The writer therefore
//! promises, durably, not to go beyond a bound, and moves the bound on before it gets there; what lies behind it was
//! certainly not written in this life of the file.
//!
//! A bound that is too low would cut off acknowledged records. So it is believed only when all of the file could be read and
//! is intact; and the log never goes on in a segment whose bound is not known for sure.

use crate::disk::{Disk, DiskFile, read_up_to, write_buffer_at};
use crate::format::reach::{LEN, NAME, Reach, SLOTS};
use crate::limits::PAGE_LEN;
use cairn_proto::StoreUuid;
use std::io;
use std::sync::Arc;

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// There is no file, or nothing was ever written to it: no segment has a bound.
    Nothing,
    /// The newest note: the one bound there is.
    Bound(Reach),
    /// Part of it cannot be read or is damaged: any segment may have a bound, and nobody knows which.
    Doubtful,
}

impl Noted {
    /// The bound of a segment, if it is known to have one.
    pub fn bound_of(self, segment: u32) -> Option<u64> {
        match self {
            Self::Bound(reach) if reach.segment == segment => Some(reach.end),
            _ => None,
        }
    }
}

/// Reads the file.
pub fn load(disk: &dyn Disk, store: StoreUuid) -> Noted {
    let slots = || -> io::Result<Noted> {
        let file = match disk.open(NAME) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Noted::Nothing),
            Err(error) => return Err(error),
        };
        let mut newest = None;
        for offset in SLOTS {
            let mut bytes = [0; LEN];
            let read = read_up_to(&*file, offset, &mut bytes)?;
            // A slot behind the end of the file was never written.
            let Ok(slot) = Reach::decode(if read == 0 { &[0; LEN] } else { &bytes[..read] }, store) else {
                return Ok(Noted::Doubtful);
            };
            newest = newest.max(slot);
        }
        Ok(newest.map_or(Noted::Nothing, Noted::Bound))
    };
    slots().unwrap_or(Noted::Doubtful)
}

/// The writer's side.
pub struct Bound {
    disk: Arc<dyn Disk>,
    store: StoreUuid,
    file: Option<Arc<dyn DiskFile>>,
    /// Which slot is written next: not the newest.
    next: usize,
    /// The active segment is not written beyond this.
    end: u64,
    step: u64,
}

impl Bound {
    /// For a log whose active segment has this bound, or none.
    pub fn new(disk: Arc<dyn Disk>, store: StoreUuid, end: Option<u64>, step: u64) -> Self {
        Self { disk, store, file: None, next: 0, end: end.unwrap_or(u64::MAX), step }
    }

    /// A new segment is active, whose file has `len` bytes of a former life. One with little of that gets no bound: an
    /// opening looks at all of it.
    pub fn begin(&mut self, segment: u32, len: u64) {
        let first = PAGE_LEN.saturating_add(self.step);
        if len <= first {
            self.end = u64::MAX;
            return;
        }
        // Also when the note fails: it may be on the disk all the same.
        self.end = first;
        self.note(segment, first);
    }

    /// True when the segment may be written up to `end`. Otherwise nothing may be added to it any more: the bound stands.
    pub fn allows(&mut self, segment: u32, end: u64) -> bool {
        end <= self.end || self.note(segment, end.saturating_add(self.step))
    }

    /// Writes a note, durably; false when that failed, which leaves the former bound or this one.
    fn note(&mut self, segment: u32, end: u64) -> bool {
        let noted = self.write(Reach { segment, end });
        if let Err(error) = &noted {
            // Opened again for the next segment.
            self.file = None;
            tracing::warn!(store = %self.store, segment, %error, "how far the segment is written could not be noted");
        } else {
            self.end = end;
        }
        noted.is_ok()
    }

    fn write(&mut self, reach: Reach) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => {
                let file = self.open()?;
                self.file = Some(Arc::clone(&file));
                file
            }
        };
        write_buffer_at(&*file, SLOTS[self.next], &reach.encode(self.store))?;
        file.sync_data()?;
        self.next = 1 - self.next;
        Ok(())
    }

    /// The file, both of whose slots can be believed.
    fn open(&mut self) -> io::Result<Arc<dyn DiskFile>> {
        match load(&*self.disk, self.store) {
            Noted::Bound(newest) => {
                let file = self.disk.open(NAME)?;
                let mut first = [0; LEN];
                let read = read_up_to(&*file, SLOTS[0], &mut first)?;
                let is_first = Reach::decode(&first[..read], self.store) == Ok(Some(newest));
                self.next = usize::from(is_first);
                Ok(file)
            }
            // What is doubtful speaks of no segment that is still written to.
            Noted::Nothing | Noted::Doubtful => {
                match self.disk.remove(NAME) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                let file = self.disk.create(NAME)?;
                write_buffer_at(&*file, 0, &[0; 2 * PAGE_LEN as usize])?;
                file.sync_data()?;
                self.disk.sync_dir("")?;
                self.next = 0;
                Ok(file)
            }
        }
    }
}
