//! Where an operation applies: a path, an inode, or a name below an inode.

use crate::error::Error;
use bytes::Bytes;
use cairn_proto::InodeId;
use cairn_proto::limits::PATH_LEN_MAX;
use cairn_proto::pb;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What operations on names take. Anything that is a path becomes one that begins at the root, with or without a leading
/// slash; [`Place::inode`] and [`Place::within`] name something by the number of an inode instead, whatever its path is
/// now.
#[derive(Clone, Debug)]
pub struct Place {
    dir: InodeId,
    path: PathBuf,
    /// What messages and errors call it.
    shown: PathBuf,
}

impl Place {
    /// The inode of that number.
    pub fn inode(inode: u64) -> Self {
        Self { dir: InodeId(inode), path: PathBuf::new(), shown: PathBuf::from(format!("inode {inode}")) }
    }

    /// A name in the directory of that number, or a path that begins there.
    pub fn within(dir: u64, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_path_buf();
        let shown = Path::new(&format!("inode {dir}")).join(path.strip_prefix("/").unwrap_or(&path));
        Self { dir: InodeId(dir), path, shown }
    }

    fn of_path(path: PathBuf) -> Self {
        Self { dir: InodeId::ROOT, shown: path.clone(), path }
    }

    /// As messages and errors show it.
    pub fn shown(&self) -> &Path {
        &self.shown
    }

    /// A place below this one.
    pub fn join(&self, name: impl AsRef<Path>) -> Self {
        let name = name.as_ref();
        Self { dir: self.dir, path: self.path.join(name), shown: self.shown.join(name) }
    }

    /// For the wire.
    pub(crate) fn at(&self) -> Result<pb::At, Error> {
        let bytes = self.path.as_os_str().as_bytes();
        if bytes.len() > PATH_LEN_MAX {
            let message = format!("the path is {} bytes long, at most {PATH_LEN_MAX} are allowed", bytes.len());
            return Err(Error::invalid("resolve", message));
        }
        if bytes.contains(&0) {
            return Err(Error::invalid("resolve", "the path contains a NUL byte"));
        }
        Ok(pb::At { dir: self.dir.0, path: Bytes::copy_from_slice(bytes) })
    }
}

impl<T: AsRef<Path> + ?Sized> From<&T> for Place {
    fn from(path: &T) -> Self {
        Self::of_path(path.as_ref().to_path_buf())
    }
}

impl From<PathBuf> for Place {
    fn from(path: PathBuf) -> Self {
        Self::of_path(path)
    }
}

impl From<String> for Place {
    fn from(path: String) -> Self {
        Self::of_path(path.into())
    }
}

impl From<OsString> for Place {
    fn from(path: OsString) -> Self {
        Self::of_path(path.into())
    }
}

impl From<&Place> for Place {
    fn from(place: &Place) -> Self {
        place.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_numbers_become_places() {
        let at = |place: Place| place.at().map(|at| (at.dir, at.path)).expect("short enough");
        assert_eq!(at("/a/b".into()), (1, Bytes::from_static(b"/a/b")));
        assert_eq!(at(PathBuf::from("a").into()), (1, Bytes::from_static(b"a")));
        assert_eq!(at(Place::inode(7)), (7, Bytes::new()));
        assert_eq!(at(Place::within(7, "x").join("y")), (7, Bytes::from_static(b"x/y")));
        assert_eq!(Place::within(7, "/x").shown(), Path::new("inode 7/x"));
        assert!(Place::from("a\0b").at().is_err());
        assert!(Place::from("x".repeat(PATH_LEN_MAX + 1)).at().is_err());
    }
}
