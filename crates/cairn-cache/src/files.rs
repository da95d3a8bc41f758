//! The files of a cache on disk: this crate's disk seam.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "this is the disk seam")]

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

/// A directory of files that one process has for itself.
pub trait Files: Send + Sync {
    /// Takes the directory, makes it where it is missing, and lists the names in it.
    ///
    /// # Errors
    /// The system's; `ResourceBusy` when another process has it.
    fn take(&self) -> io::Result<Vec<String>>;
    /// Opens a file that is there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>>;
    /// Makes a file, empty.
    fn create(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// An open file.
pub trait SegmentFile: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Fills the buffer.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of it.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
}

/// A directory on a local disk, readable by its owner alone: it holds what files hold.
pub struct Directory {
    path: PathBuf,
    lock: parking_lot::Mutex<Option<File>>,
}

impl Directory {
    /// Nothing happens yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, lock: parking_lot::Mutex::new(None) }
    }

    fn options() -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        options
    }
}

impl Files for Directory {
    fn take(&self) -> io::Result<Vec<String>> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        let lock = Self::options().create(true).truncate(false).open(self.path.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => *self.lock.lock() = Some(lock),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, "another mount uses it"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let names = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(Arc::new(Self::options().open(self.path.join(name))?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(Arc::new(Self::options().create(true).truncate(true).open(self.path.join(name))?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }
}

impl SegmentFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }
}
