//! What the crate has to do with the machine: the disk seam and the clock seam.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "this is the disk seam and the clock seam")]

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The device through which the kernel speaks with file systems of user space.
pub const DEVICE: &str = "/dev/fuse";

/// Nanoseconds since 1970.
pub fn wall_clock_ns() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    }
}

/// Opens the device.
///
/// # Errors
/// Of open(2).
pub fn open_device() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(DEVICE)
}

/// The whole of a small file, as those in /proc.
///
/// # Errors
/// Of reading.
pub fn read_text(path: impl AsRef<Path>) -> io::Result<String> {
    std::fs::read_to_string(path)
}

/// Sets a value in /sys.
///
/// # Errors
/// Of writing.
pub fn write_text(path: impl AsRef<Path>, text: &str) -> io::Result<()> {
    std::fs::write(path, text)
}

/// What a path stands for, links resolved.
///
/// # Errors
/// It leads nowhere.
pub fn canonical(path: &Path) -> io::Result<PathBuf> {
    std::fs::canonicalize(path)
}

/// Whether a path leads to a directory.
///
/// # Errors
/// It leads nowhere.
pub fn is_directory(path: &Path) -> io::Result<bool> {
    std::fs::metadata(path).map(|metadata| metadata.is_dir())
}
