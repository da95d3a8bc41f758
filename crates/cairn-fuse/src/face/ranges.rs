//! Ranges of files: room made and taken, holes found, bytes copied from file to file.

use super::{Done, Face};
use crate::errno;
use crate::kernel::reply::{self, Answer};
use crate::kernel::request::{CopyRange, Request};
use crate::limits::{COPY_BYTES_MAX, MAX_WRITE};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// `whence` of lseek(2).
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

impl Face {
    pub(super) async fn allocate(&self, request: &Request, handle: u64, offset: u64, len: u64, mode: u32) -> Done {
        let open = self.open_file(handle)?;
        let end = offset.checked_add(len).ok_or(Errno::FBIG)?;
        let range = offset..end;
        let keep = FallocateFlags::KEEP_SIZE;
        let mode = FallocateFlags::from_bits_retain(mode);
        // In order with what is written here.
        open.node.commit().await?;
        let file = open.node.file();
        let done = if mode == FallocateFlags::PUNCH_HOLE | keep {
            file.punch_hole(range).await
        } else if mode - keep == FallocateFlags::ZERO_RANGE {
            file.zero_range(range, mode.contains(keep)).await
        } else if mode == keep || mode.is_empty() {
            file.allocate(range, mode.contains(keep)).await
        } else {
            return Err(Errno::OPNOTSUPP);
        };
        done.map_err(|error| errno::of_inode(&error))?;
        if request.uid != 0 {
            self.drop_privileges(&open.node).await?;
        }
        self.look_again(&open.node).await?;
        Ok(Answer::Empty)
    }

    /// The length and version of a file that was changed past its node.
    async fn look_again(&self, node: &crate::node::Node) -> Result<(), Errno> {
        let mut metadata = node.file().metadata().await.map_err(|error| errno::of_inode(&error))?;
        node.show(&mut metadata);
        Ok(())
    }

    pub(super) async fn seek(&self, handle: u64, offset: u64, whence: u32) -> Done {
        let open = self.open_file(handle)?;
        open.node.commit().await?;
        let file = open.node.file();
        let found = match whence {
            SEEK_DATA => file.seek_data(offset).await,
            SEEK_HOLE => file.seek_hole(offset).await,
            _ => return Err(Errno::INVAL),
        };
        let found = found.map_err(|error| errno::of_inode(&error))?;
        found.map(reply::offset).ok_or(Errno::NXIO)
    }

    pub(super) async fn copy_range(&self, request: &Request, copy: &CopyRange) -> Done {
        let (from, to) = (self.open_file(copy.from)?, self.open_file(copy.to)?);
        let len = copy.len.min(COPY_BYTES_MAX);
        if request.uid != 0 {
            self.drop_privileges(&to.node).await?;
        }
        let mut copied = 0;
        while copied < len {
            let want = (len - copied).min(u64::from(MAX_WRITE) * 4);
            let parts = from.node.read(copy.from_offset + copied, want, true).await?;
            let mut got = 0;
            for part in parts {
                to.node.write(copy.to_offset + copied + got, &part).await?;
                got += part.len() as u64;
            }
            copied += got;
            if got < want {
                break;
            }
        }
        Ok(reply::len(copied as u32))
    }
}
