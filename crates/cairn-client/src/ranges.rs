//! Ranges of a file: cut off, made to holes, looked for.

use crate::error::Error;
use crate::file::File;
use cairn_proto::limits::FILE_LEN_MAX;
use cairn_proto::pb::{self, AllocateMode, request, response};
use std::ops::Range;
use tokio::time::Instant;

/// Pages of a map that one search for data or a hole reads.
const PAGES_MAX: usize = 10_000;

/// What a search looks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sought {
    Data,
    Hole,
}

impl File {
    /// Sets the length: what lies behind is dropped, what is added reads as zeros. A file in many pieces is shortened in
    /// steps from its end: meanwhile others may see a length in between.
    ///
    /// # Errors
    /// `InvalidInput` above the largest file; `Unavailable`, `Fenced`, `Indeterminate`.
    pub async fn truncate(&self, size: u64) -> Result<(), Error> {
        self.counted("truncate", self.truncate_inner(size)).await
    }

    pub(crate) async fn truncate_inner(&self, size: u64) -> Result<(), Error> {
        if size > FILE_LEN_MAX {
            return Err(Error::invalid("truncate", format!("{size} bytes exceed the largest file ({FILE_LEN_MAX})")));
        }
        let kind = request::Kind::Truncate(pb::Truncate { inode: self.inode().0, size, mtime_ns: None });
        self.commit(kind).await.map(|_| ())
    }

    /// Makes a hole: the range reads as zeros and takes no room, the length stays. Where the range is in many pieces that
    /// goes on in steps from its front: meanwhile others may see a part of the range as it was.
    ///
    /// # Errors
    /// `InvalidInput` for an empty range, `TooLarge` for one behind the largest file; `Unavailable`, `Fenced`,
    /// `Indeterminate`.
    pub async fn punch_hole(&self, range: Range<u64>) -> Result<(), Error> {
        self.counted("punch_hole", self.allocate_inner(AllocateMode::Punch, range, true)).await
    }

    /// As [`File::punch_hole`], and unless `keep_size`, the file becomes as long as the end of the range where it was
    /// shorter.
    ///
    /// # Errors
    /// As [`File::punch_hole`].
    pub async fn zero_range(&self, range: Range<u64>, keep_size: bool) -> Result<(), Error> {
        self.counted("zero_range", self.allocate_inner(AllocateMode::Zero, range, keep_size)).await
    }

    /// Makes the file as long as the end of the range where it was shorter, unless `keep_size`. **Nothing is reserved**:
    /// blocks are placed when they are written, so a later write may still find no room.
    ///
    /// # Errors
    /// As [`File::punch_hole`].
    pub async fn allocate(&self, range: Range<u64>, keep_size: bool) -> Result<(), Error> {
        self.counted("allocate", self.allocate_inner(AllocateMode::Extend, range, keep_size)).await
    }

    async fn allocate_inner(&self, mode: AllocateMode, range: Range<u64>, keep_size: bool) -> Result<(), Error> {
        let Some(len) = range.end.checked_sub(range.start).filter(|len| *len > 0) else {
            return Err(Error::invalid("allocate", format!("bytes {}..{} are no range", range.start, range.end)));
        };
        let (inode, mode, offset) = (self.inode().0, mode as i32, range.start);
        let ask = pb::Allocate { inode, mode, offset, len, keep_size, mtime_ns: None };
        self.commit(request::Kind::Allocate(ask)).await.map(|_| ())
    }

    /// The first byte at or behind `offset` that is no part of a hole; `None` when only a hole follows, or nothing. As
    /// SEEK_DATA.
    ///
    /// # Errors
    /// `NotFound` when the file was removed; `Unavailable`, `Deadline`; `InvalidInput` when the file is in so many pieces
    /// that the search was given up.
    pub async fn seek_data(&self, offset: u64) -> Result<Option<u64>, Error> {
        self.counted("seek_data", self.seek(offset, Sought::Data)).await
    }

    /// The first byte at or behind `offset` that is part of a hole; the end of the file counts as one. `None` when `offset`
    /// is not inside the file. As SEEK_HOLE.
    ///
    /// # Errors
    /// As [`File::seek_data`].
    pub async fn seek_hole(&self, offset: u64) -> Result<Option<u64>, Error> {
        self.counted("seek_hole", self.seek(offset, Sought::Hole)).await
    }

    async fn seek(&self, offset: u64, sought: Sought) -> Result<Option<u64>, Error> {
        let inner = self.inner();
        let deadline = inner.deadline(inner.config.read_timeout);
        let mut at = offset;
        for _ in 0..PAGES_MAX {
            let page = self.page(at, deadline).await?;
            if at >= page.size {
                // The end of the file is where its last hole begins, for who came from inside.
                let inside = at > offset && sought == Sought::Hole;
                return Ok(inside.then_some(page.size.max(offset)));
            }
            for extent in &page.extents {
                let end = extent.offset + extent.len;
                if end <= at {
                    continue;
                }
                match sought {
                    Sought::Data => return Ok(Some(extent.offset.max(at))),
                    Sought::Hole if extent.offset > at => return Ok(Some(at)),
                    Sought::Hole => at = end,
                }
            }
            if page.covered_to >= page.size {
                return Ok(match sought {
                    Sought::Data => None,
                    Sought::Hole => Some(at.min(page.size)),
                });
            }
            match sought {
                // Nothing in front of it is data.
                Sought::Data => at = page.covered_to.max(at + 1),
                Sought::Hole if at < page.covered_to => return Ok(Some(at)),
                Sought::Hole => {}
            }
        }
        Err(Error::invalid("seek", format!("neither data nor a hole after {PAGES_MAX} pages of the map")))
    }

    /// The map from `offset` on, as much as one reply holds.
    async fn page(&self, offset: u64, deadline: Instant) -> Result<pb::GetExtentsReply, Error> {
        let kind = request::Kind::GetExtents(pb::GetExtents {
            inode: self.inode().0,
            offset,
            len: FILE_LEN_MAX.saturating_sub(offset),
            known_version: 0,
        });
        match self.inner().meta_read(kind, deadline).await? {
            response::Kind::GetExtents(reply) => Ok(reply),
            _ => Err(self.inner().unexpected("get_extents")),
        }
    }
}
