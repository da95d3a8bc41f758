//! Files about the mounts of this machine: who serves them, and what they had to say.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::table;

/// Which process of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Watches the server.
    Supervisor,
    /// Serves.
    Server,
}

impl Part {
    fn suffix(self) -> &'static str {
        match self {
            Self::Supervisor => "supervisor",
            Self::Server => "server",
        }
    }
}

/// The files of one mount point, in /run/cairn for root, else in the user's own run directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFiles {
    stem: PathBuf,
}

impl RunFiles {
    /// For a mount point, absolute and free of links.
    pub fn of(point: &Path) -> Self {
        Self { stem: dir().join(table::file_name(point)) }
    }

    fn path(&self, suffix: &str) -> PathBuf {
        let mut path = self.stem.clone().into_os_string();
        path.push(".");
        path.push(suffix);
        path.into()
    }

    /// Opens the log, to append.
    ///
    /// # Errors
    /// The disk's; the path is told.
    pub fn log(&self) -> Result<(PathBuf, File), (PathBuf, io::Error)> {
        let path = self.path("log");
        let open = || {
            DirBuilder::new().recursive(true).mode(0o700).create(dir())?;
            OpenOptions::new().create(true).append(true).mode(0o600).open(&path)
        };
        open().map(|file| (path.clone(), file)).map_err(|error| (path.clone(), error))
    }

    /// Declares this process to be a part of the mount, until the result is dropped or the process ends. `None`: another
    /// process is it.
    ///
    /// # Errors
    /// The disk's.
    pub fn claim(&self, part: Part) -> io::Result<Option<Claim>> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir())?;
        let path = self.path(part.suffix());
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Some(Claim { path, _lock: file }))
    }

    /// The process that is a part of the mount, if there is one.
    pub fn process(&self, part: Part) -> Option<u32> {
        let path = self.path(part.suffix());
        let file = File::open(&path).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => fs::read_to_string(&path).ok()?.trim().parse().ok(),
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }
}

/// See [`RunFiles::claim`].
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    _lock: File,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // What stays behind is found to belong to nobody.
        let _ = fs::remove_file(&self.path);
    }
}

fn dir() -> PathBuf {
    let user = rustix::process::geteuid();
    if user.is_root() {
        return PathBuf::from("/run/cairn");
    }
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
    own.map_or_else(|| std::env::temp_dir().join(format!("cairn-{}", user.as_raw())), |dir| dir.join("cairn"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_one_process_and_told_from_none() {
        let scratch = tempfile::tempdir().unwrap();
        let files = RunFiles { stem: scratch.path().join("x") };
        assert_eq!(files.process(Part::Server), None);
        let held = files.claim(Part::Server).unwrap().unwrap();
        assert!(files.claim(Part::Server).unwrap().is_none());
        assert_eq!((files.process(Part::Server), files.process(Part::Supervisor)), (Some(std::process::id()), None));
        drop(held);
        assert_eq!(files.process(Part::Server), None);
        assert!(files.claim(Part::Server).unwrap().is_some());
    }
}
