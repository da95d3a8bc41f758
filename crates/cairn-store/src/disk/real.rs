//! The operating system's disk. The only file of this crate that names `std::fs`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "this is the disk seam")]

use super::{Disk, DiskFile, DiskSpace};
use crate::format::{identity, segment};
use rustix::fs::{Advice, FallocateFlags, FlockOperation};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// A file of the operating system, for `sendfile`. Read at offsets only: its position is shared.
pub type OsFile = Arc<File>;

const LOCK_NAME: &str = "lock";

/// A directory could not be taken as a store's disk.
#[derive(Debug, Error)]
pub enum OpenDiskError {
    /// Another process, or another handle of this one, holds the directory.
    #[error("{path} is in use by another process")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot open {path}")]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A directory of the operating system, held exclusively (flock on its file `lock`) until this value is dropped.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    _lock: File,
}

impl RealDisk {
    /// Takes a directory, which is made (with its parents) when missing.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, OpenDiskError> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(|source| OpenDiskError::Io { path: root.clone(), source })?;
        let path = root.join(LOCK_NAME);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| OpenDiskError::Io { path: path.clone(), source })?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenDiskError::Locked { path: root }),
            Err(error) => Err(OpenDiskError::Io { path, source: error.into() }),
        }
    }

    /// True when a store is in the directory. Changes nothing, takes nothing; a directory that is not there has none.
    pub fn holds_store(root: &Path) -> bool {
        let segments = fs::read_dir(root.join(segment::DIR)).is_ok_and(|mut names| names.next().is_some());
        segments || root.join(identity::NAME).exists()
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.path(name))?;
        Ok(Arc::new(RealFile(Arc::new(file))))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(name))?;
        Ok(Arc::new(RealFile(Arc::new(file))))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path(dir))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                // A name that is not UTF-8 is none of ours.
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        fs::create_dir_all(self.path(dir))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.path(dir))?.sync_all()
    }

    fn space(&self) -> io::Result<DiskSpace> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(DiskSpace {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

/// Opens any file for reading, store or not, locked or not.
pub(crate) fn open_read_only(path: &Path) -> io::Result<Arc<dyn DiskFile>> {
    // Asked before opening, which would wait for the other end of a pipe.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let file = File::open(path)?;
    Ok(Arc::new(RealFile(Arc::new(file))))
}

#[derive(Debug)]
struct RealFile(Arc<File>);

impl DiskFile for RealFile {
    fn write_at(&self, offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::pwritev(&*self.0, parts, offset)?)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(&*self.0, buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&*self.0, flags, offset, len)?)
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&*self.0, 0, None, Advice::DontNeed)?)
    }

    fn drop_cached(&self, offset: u64, len: u64) -> io::Result<()> {
        let Some(len) = NonZeroU64::new(len) else { return Ok(()) };
        Ok(rustix::fs::fadvise(&*self.0, offset, Some(len), Advice::DontNeed)?)
    }

    fn os_file(&self) -> Option<OsFile> {
        Some(Arc::clone(&self.0))
    }
}
