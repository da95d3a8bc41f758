//! Certificates and keys as files: the disk seam of this crate.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "this is the disk seam")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Certificates of the authorities that are trusted.
pub const CA_CERT: &str = "ca.crt";
/// Key of the authority; where certificates are issued, and nowhere else.
pub const CA_KEY: &str = "ca.key";
/// Certificate of the holder.
pub const CERT: &str = "tls.crt";
/// Key of the holder.
pub const KEY: &str = "tls.key";

/// Bytes of a file that is read: a bundle of many authorities has a few KiB each.
const LEN_MAX: u64 = 1 << 20;

/// What is wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{path}: {what}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
    /// Anybody on the machine can read a key.
    #[error("{path}: its mode is {mode:04o}, so others than its owner can read this key: chmod 600 it")]
    Open {
        /// Which.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// There is something already that would be lost.
    #[error("{path} exists already, and is not overwritten")]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// The library refuses to make a certificate.
    #[error("making a certificate: {0}")]
    Make(String),
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> TlsError + '_ {
    move |source| TlsError::Io { path: path.to_owned(), source }
}

/// The text of a file.
pub(crate) fn read(path: &Path) -> Result<String, TlsError> {
    let len = fs::metadata(path).map_err(io_error(path))?.len();
    if len > LEN_MAX {
        let what = format!("it has {len} bytes, at most {LEN_MAX} are read");
        return Err(TlsError::Content { path: path.to_owned(), what });
    }
    fs::read_to_string(path).map_err(io_error(path))
}

/// The text of a file that nobody else may be able to read.
pub(crate) fn read_key(path: &Path) -> Result<String, TlsError> {
    let mode = fs::metadata(path).map_err(io_error(path))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(TlsError::Open { path: path.to_owned(), mode });
    }
    read(path)
}

/// Makes a directory that only its owner can look into, if it is not there.
pub(crate) fn make_dir(path: &Path) -> Result<(), TlsError> {
    let made = fs::create_dir_all(path).map_err(io_error(path));
    made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io_error(path)))
}

/// There is nothing of that name.
pub(crate) fn ensure_absent(path: &Path) -> Result<(), TlsError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error(path)(error)),
        Ok(_) => Err(TlsError::Exists { path: path.to_owned() }),
    }
}

/// Writes a file whole or not at all, in place of what is there.
pub(crate) fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let scratch = PathBuf::from(name);
    let written = || -> io::Result<()> {
        // What an earlier try left; its mode may be another one.
        match fs::remove_file(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&scratch)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&scratch, path)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    };
    written().map_err(io_error(path))
}

/// Tells one state of a file from another; `None` where there is none.
pub(crate) fn stamp(path: &Path) -> Option<[i64; 4]> {
    let metadata = fs::metadata(path).ok()?;
    let len = i64::try_from(metadata.len()).unwrap_or(i64::MAX);
    Some([metadata.mtime(), metadata.mtime_nsec(), len, metadata.ino().cast_signed()])
}
