//! The local side of a copy: reading sources, files that appear whole, attributes. Every function blocks and runs on a
//! thread that may (see [`blocking`]).

use std::{
    ffi::OsString,
    fs::{self, File, FileTimes, OpenOptions, Permissions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, OFlags, Timespec, Timestamps, UTIME_OMIT, utimensat};
use tokio::sync::mpsc;

use super::{PIECE_LEN, links::FileId};

/// Bytes handed from thread to thread at once.
pub const CHUNK_LEN: usize = 1024 * 1024;
/// Chunks that wait between two threads.
const CHUNKS_WAITING: usize = 4;
/// Entries of a directory that are read at once.
const PORTION_LEN: usize = 256;
/// A run of zeros of this length, at a multiple of it, becomes a hole.
const HOLE_LEN: usize = 64 * 1024;

/// Runs blocking work on a thread for it. If the caller goes away, the work still ends by itself.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => unreachable!("blocking work is only cancelled before it began: {error}"),
        },
    }
}

/// What is kept of a file besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    pub mode: u32,
    pub mtime_ns: i64,
}

impl From<&fs::Metadata> for Attributes {
    fn from(metadata: &fs::Metadata) -> Self {
        let mtime_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        Self { mode: metadata.mode() & 0o7777, mtime_ns }
    }
}

/// What a directory holds.
pub enum Entry {
    Dir(OsString, Attributes),
    Leaf(OsString, fs::FileType),
    /// It could not be looked at.
    Unknown(OsString, io::Error),
    /// The directory could not be read further.
    Broken(io::Error),
}

/// Reads some entries of a directory; none at its end.
pub fn read_portion(mut entries: fs::ReadDir) -> (fs::ReadDir, Vec<Entry>) {
    let look = |entry: io::Result<fs::DirEntry>| {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Entry::Broken(error),
        };
        let name = entry.file_name();
        match entry.file_type() {
            Ok(kind) if !kind.is_dir() => Entry::Leaf(name, kind),
            Ok(_) => match entry.metadata() {
                Ok(metadata) => Entry::Dir(name, Attributes::from(&metadata)),
                Err(error) => Entry::Unknown(name, error),
            },
            Err(error) => Entry::Unknown(name, error),
        }
    };
    let portion = entries.by_ref().take(PORTION_LEN).map(look).collect();
    (entries, portion)
}

/// How a source was come upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Named by the user without -r: links are followed, and whatever can be read is read.
    Named,
    /// Found in a directory, or named with -r: links are not followed, and only regular files are read.
    Found,
}

/// A source that is open.
pub enum Opened {
    /// The whole of a file of at most [`PIECE_LEN`] bytes.
    Piece(Attributes, Vec<u8>),
    /// A longer file, or one whose length is not known beforehand.
    Stream(Attributes, Box<dyn Read + Send>),
    /// Not a regular file.
    Special(&'static str),
    Directory,
}

/// Length a source says it has, 0 where it does not say.
pub fn len(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// What tells a regular file with several names from others.
pub fn linked(path: &Path) -> Option<FileId> {
    let metadata = fs::symlink_metadata(path).ok()?;
    (metadata.is_file() && metadata.nlink() > 1).then(|| (metadata.dev(), metadata.ino()))
}

/// Gives a local file a further name, in place of whatever has it.
pub fn link(first: &Path, target: &Path, names: &Unfinished) -> io::Result<()> {
    let unfinished = names.beside(target);
    fs::hard_link(first, &unfinished)?;
    let done = replace(&unfinished, target);
    // Two names of one file stay as they are when one is renamed to the other; after a failure it goes, too.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => done.and(Err(error)),
        _ => done,
    }
}

/// Opens a source, and reads it where that is soon done.
pub fn open(path: &Path, source: Source) -> io::Result<Opened> {
    let mut options = OpenOptions::new();
    options.read(true);
    if source == Source::Found {
        // Without NONBLOCK, a file that turned into a FIFO since it was listed would stop us here.
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
    }
    let mut file = options.open(path)?;
    let metadata = file.metadata()?;
    let attributes = Attributes::from(&metadata);
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Ok(Opened::Directory);
    }
    if !kind.is_file() && source == Source::Found {
        return Ok(Opened::Special(special(kind)));
    }
    if metadata.len() > PIECE_LEN as u64 {
        return Ok(Opened::Stream(attributes, Box::new(file)));
    }
    let piece = read_piece(&mut file, metadata.len() as usize)?;
    if piece.len() <= PIECE_LEN {
        Ok(Opened::Piece(attributes, piece))
    } else {
        Ok(Opened::Stream(attributes, Box::new(io::Cursor::new(piece).chain(file))))
    }
}

/// Reads until the end, or one byte more than a piece may have.
pub fn read_piece(source: &mut impl Read, expected: usize) -> io::Result<Vec<u8>> {
    let mut piece = Vec::with_capacity(expected + 1);
    source.take(PIECE_LEN as u64 + 1).read_to_end(&mut piece)?;
    Ok(piece)
}

/// The word for a file that is neither file, directory nor link.
pub fn special(kind: fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_fifo() {
        "it is a FIFO"
    } else if kind.is_socket() {
        "it is a socket"
    } else if kind.is_block_device() || kind.is_char_device() {
        "it is a device"
    } else {
        "it is not a regular file"
    }
}

/// Reads a source on a thread of its own. The last item is an error or there is none; the thread ends when the
/// receiver is dropped.
pub fn read_chunks(mut source: Box<dyn Read + Send>) -> mpsc::Receiver<io::Result<Bytes>> {
    let (chunks, receiver) = mpsc::channel(CHUNKS_WAITING);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_LEN);
            let read = source.by_ref().take(CHUNK_LEN as u64).read_to_end(&mut chunk);
            let more = match read {
                Ok(0) => return,
                Ok(_) => chunks.blocking_send(Ok(chunk.into())).is_ok(),
                Err(error) => {
                    // The receiver may be gone; then nobody wants to know.
                    let _ = chunks.blocking_send(Err(error));
                    false
                }
            };
            if !more {
                return;
            }
        }
    });
    receiver
}

/// Makes names for files that are not finished. One for each command.
#[derive(Debug)]
pub struct Unfinished {
    process: u32,
    count: AtomicU64,
}

impl Unfinished {
    pub fn new() -> Self {
        Self { process: std::process::id(), count: AtomicU64::new(0) }
    }

    /// A name that no other file has.
    pub fn name(&self) -> OsString {
        format!(".cairn-{}-{}.part", self.process, self.count.fetch_add(1, Ordering::Relaxed)).into()
    }

    /// A new name beside `target`.
    pub fn beside(&self, target: &Path) -> PathBuf {
        target.with_file_name(self.name())
    }
}

/// A local file that is being written under another name. It gets its name when it is finished; dropped before, it is
/// removed.
pub struct NewFile {
    file: File,
    unfinished: Option<PathBuf>,
    target: PathBuf,
    len: u64,
}

impl NewFile {
    /// Begins a file beside `target`, which may not end in `/`.
    pub fn create(target: PathBuf, names: &Unfinished) -> io::Result<Self> {
        let unfinished = names.beside(&target);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        Ok(Self { file, unfinished: Some(unfinished), target, len: 0 })
    }

    /// Adds bytes. Long runs of zeros become holes.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let to_boundary = HOLE_LEN - (self.len % HOLE_LEN as u64) as usize;
            let (part, rest) = bytes.split_at(to_boundary.min(bytes.len()));
            if part.len() == HOLE_LEN && part.iter().all(|&byte| byte == 0) {
                self.len += part.len() as u64;
                bytes = rest;
                continue;
            }
            // One call for all up to the next hole.
            let mut end = part.len();
            while let Some(next) = bytes.get(end..end + HOLE_LEN) {
                if next.iter().all(|&byte| byte == 0) {
                    break;
                }
                end += HOLE_LEN;
            }
            if bytes.len() - end < HOLE_LEN {
                end = bytes.len();
            }
            self.file.write_all_at(&bytes[..end], self.len)?;
            self.len += end as u64;
            bytes = &bytes[end..];
        }
        Ok(())
    }

    /// Gives the file its attributes, then its name. A file of that name is replaced.
    pub fn finish(mut self, attributes: Attributes) -> io::Result<()> {
        // A hole at the end.
        self.file.set_len(self.len)?;
        self.file.set_permissions(Permissions::from_mode(attributes.mode))?;
        self.file.set_times(FileTimes::new().set_modified(system_time(attributes.mtime_ns)))?;
        if let Some(unfinished) = &self.unfinished {
            replace(unfinished, &self.target)?;
        }
        self.unfinished = None;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(unfinished) = &self.unfinished {
            // The failure that brought us here is what the user wants to hear of.
            let _ = fs::remove_file(unfinished);
        }
    }
}

/// Gives a finished file its name. Files and links of that name are replaced, never what is neither.
fn replace(unfinished: &Path, target: &Path) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Ok(there) if !there.is_file() && !there.is_symlink() && !there.is_dir() => {
            Err(io::Error::other("exists and is not a regular file"))
        }
        _ => fs::rename(unfinished, target),
    }
}

/// Writes a file in one go.
pub fn write_piece(target: PathBuf, names: &Unfinished, attributes: Attributes, piece: &[u8]) -> io::Result<()> {
    let mut file = NewFile::create(target, names)?;
    file.write(piece)?;
    file.finish(attributes)
}

/// Makes a symbolic link, replacing a file or link of that name.
pub fn write_symlink(target: &Path, names: &Unfinished, content: &Path, mtime_ns: i64) -> io::Result<()> {
    let unfinished = names.beside(target);
    symlink(content, &unfinished)?;
    let done = set_mtime(&unfinished, mtime_ns, AtFlags::SYMLINK_NOFOLLOW).and_then(|()| replace(&unfinished, target));
    if done.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    done
}

/// Makes a directory that only we may enter until its content is there. One that exists is taken as it is; `root` says
/// whether it may be a link to one.
pub fn make_dir(target: &Path, root: bool) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(target) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = if root { fs::metadata(target)? } else { fs::symlink_metadata(target)? };
            if metadata.is_dir() { Ok(()) } else { Err(io::Error::other("exists and is not a directory")) }
        }
        other => other,
    }
}

/// Gives a directory its attributes.
pub fn finish_dir(target: &Path, attributes: Attributes) -> io::Result<()> {
    fs::set_permissions(target, Permissions::from_mode(attributes.mode))?;
    set_mtime(target, attributes.mtime_ns, AtFlags::empty())
}

fn set_mtime(path: &Path, mtime_ns: i64, flags: AtFlags) -> io::Result<()> {
    let second = mtime_ns.div_euclid(1_000_000_000);
    let ns = mtime_ns.rem_euclid(1_000_000_000);
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: second, tv_nsec: ns as _ },
    };
    Ok(utimensat(CWD, path, &times, flags)?)
}

fn system_time(time_ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(time_ns.unsigned_abs());
    if time_ns < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

#[cfg(test)]
mod tests;
