//! The disk seam: everything a store asks of the operating system.
//!
//! Names are relative to the store's directory, with `/` between parts. [`RealDisk`] is the one implementation that
//! ships; tests put a disk behind the same traits that loses, tears and reorders what was not synced.

mod real;

pub(crate) use real::open_read_only;
pub use real::{OpenDiskError, OsFile, RealDisk};

use std::io;
use std::sync::Arc;

/// Room on the file system that holds a store, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Size of the file system.
    pub total: u64,
    /// What this process may still write.
    pub available: u64,
}

/// A directory on one disk.
///
/// Names become durable by [`Disk::sync_dir`] of their directory, content by [`DiskFile::sync_data`].
pub trait Disk: Send + Sync {
    /// Makes a new empty file; `AlreadyExists` when the name is taken.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Names of the regular files in a directory (`""` is the store's own), without the directory, in no order.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes a directory; succeeds when it is there already.
    fn create_dir(&self, dir: &str) -> io::Result<()>;
    /// Removes a file. Handles that are open keep working.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Renames a file, replacing the target atomically.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Room on the file system now.
    fn space(&self) -> io::Result<DiskSpace>;
}

/// An open file of a [`Disk`].
pub trait DiskFile: Send + Sync {
    /// Writes the parts one after the other at `offset`; returns how many bytes were taken, which may be fewer.
    fn write_at(&self, offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<usize>;
    /// Reads at `offset`; returns how many bytes were read, 0 at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Makes content and length durable. After an error nothing written before may be assumed to be on the disk.
    fn sync_data(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// True when the length is 0.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Gives the range's space back; it reads as zeros, the length stays.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Forgets cached content that is clean, so that the next read comes from the disk.
    fn drop_cache(&self) -> io::Result<()>;
    /// As [`DiskFile::drop_cache`], of a range only, as far as whole pages are concerned.
    fn drop_cached(&self, offset: u64, len: u64) -> io::Result<()> {
        let _ = (offset, len);
        self.drop_cache()
    }
    /// The operating system's file, for `sendfile`; `None` where there is none.
    fn os_file(&self) -> Option<OsFile>;
}

/// Reads exactly `buffer.len()` bytes; `UnexpectedEof` when the file ends before.
pub(crate) fn read_exact_at(file: &dyn DiskFile, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    let wanted = buffer.len();
    if read_up_to(file, offset, buffer)? == wanted { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Reads until `buffer` is full or the file ends; returns the bytes read.
pub(crate) fn read_up_to(file: &dyn DiskFile, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(offset + done as u64, &mut buffer[done..]) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all parts at `offset`, as few calls as the kernel allows.
pub(crate) fn write_all_at(file: &dyn DiskFile, mut offset: u64, parts: &mut [io::IoSlice<'_>]) -> io::Result<()> {
    let mut rest = parts;
    io::IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let now = rest.len().min(crate::limits::IO_SLICES_MAX);
        match file.write_at(offset, &rest[..now]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                io::IoSlice::advance_slices(&mut rest, written);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes one buffer at `offset`.
pub(crate) fn write_buffer_at(file: &dyn DiskFile, offset: u64, buffer: &[u8]) -> io::Result<()> {
    write_all_at(file, offset, &mut [io::IoSlice::new(buffer)])
}
