//! The trash: what was removed from directories that keep it for a while.

use crate::client::DfsClient;
use crate::error::{Error, ErrorKind};
use crate::namespace::{FileKind, Metadata, at};
use bytes::Bytes;
use cairn_proto::pb::{self, request, response};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Something in the trash.
#[derive(Clone, Debug)]
pub struct TrashEntry {
    /// When it came there, nanoseconds since 1970. With the inode it names the entry.
    pub since_ns: u64,
    /// The inode.
    pub inode: u64,
    /// What it is; a directory is there with all that was in it.
    pub kind: FileKind,
    /// Bytes of a file; 0 for a directory, whatever is in it.
    pub size: u64,
    /// When it is dropped, nanoseconds since 1970.
    pub until_ns: u64,
    /// Where it was; `None` where that is not known any more.
    pub path: Option<PathBuf>,
    /// Its name there.
    pub name: OsString,
    /// Who removed it, as the client called itself.
    pub who: String,
}

impl DfsClient {
    /// Everything in the trash, oldest first.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list_trash(&self) -> Result<Vec<TrashEntry>, Error> {
        let work = async {
            let inner = &self.inner;
            let (mut entries, mut cursor) = (Vec::new(), Bytes::new());
            loop {
                let kind = request::Kind::ListTrash(pb::ListTrash { cursor, limit: 0 });
                let response::Kind::ListTrash(page) =
                    inner.meta_read(kind, inner.deadline(inner.config.meta_timeout)).await?
                else {
                    return Err(inner.unexpected("list_trash"));
                };
                entries.extend(page.items.into_iter().map(|item| TrashEntry {
                    kind: FileKind::from_pb(item.kind()),
                    since_ns: item.since_ns,
                    inode: item.inode,
                    size: item.size,
                    until_ns: item.until_ns,
                    path: (!item.path.is_empty()).then(|| PathBuf::from(OsString::from_vec(item.path.to_vec()))),
                    name: OsString::from_vec(item.name.to_vec()),
                    who: item.who,
                }));
                cursor = page.next_cursor;
                if cursor.is_empty() {
                    return Ok(entries);
                }
            }
        };
        self.operation("list_trash", Path::new("/"), work).await
    }

    /// Puts an entry of the trash back: where it was, or at `to`. `make_parents` makes directories above that are missing.
    ///
    /// # Errors
    /// `AlreadyExists` when something has that name; `NotFound` when the entry or the directory is gone.
    pub async fn restore_trash(
        &self,
        entry: &TrashEntry,
        to: Option<&Path>,
        make_parents: bool,
    ) -> Result<Metadata, Error> {
        let shown = to.or(entry.path.as_deref()).unwrap_or(Path::new("/"));
        let work = async {
            let to = to.map(at).transpose()?;
            let restore = pb::RestoreTrash { since_ns: entry.since_ns, inode: entry.inode, to, make_parents };
            match self.mutate(request::Kind::RestoreTrash(restore), None).await? {
                response::Kind::Attr(attr) => Ok(Metadata::from_pb(attr)),
                _ => Err(self.inner.unexpected("restore_trash")),
            }
        };
        self.operation("restore_trash", shown, work).await
    }

    /// Drops an entry of the trash for good. What was in a directory is dropped in the background.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    pub async fn empty_trash(&self, entry: &TrashEntry) -> Result<(), Error> {
        let work = async {
            let empty = pb::EmptyTrash { since_ns: entry.since_ns, inode: entry.inode };
            self.mutate(request::Kind::EmptyTrash(empty), None).await.map(|_| ())
        };
        self.operation("empty_trash", entry.path.as_deref().unwrap_or(Path::new("/")), work).await
    }

    /// Removes a directory with all that is in it: in one step into the trash, where its directory keeps one; else as
    /// [`DfsClient::remove_dir_all`].
    ///
    /// # Errors
    /// As [`DfsClient::remove_dir_all`].
    pub async fn remove_tree(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        if self.try_remove_tree(path).await? {
            return Ok(());
        }
        self.remove_dir_all(path).await
    }

    /// Removes a directory with all that is in it, in one step, if its directory keeps a trash or nothing is in it. False
    /// when nothing was done, because what is in it has to be removed first.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`.
    pub async fn try_remove_tree(&self, path: impl AsRef<Path>) -> Result<bool, Error> {
        let path = path.as_ref();
        let work = async {
            let remove = pb::RemoveTree { at: Some(at(path)?) };
            match self.mutate(request::Kind::RemoveTree(remove), None).await {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.operation("remove_tree", path, work).await
    }

    /// As [`DfsClient::remove_file`], past the trash.
    ///
    /// # Errors
    /// As [`DfsClient::remove_file`].
    pub async fn purge_file(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let work = async {
            let unlink = pb::Unlink { at: Some(at(path)?), no_trash: true };
            self.mutate(request::Kind::Unlink(unlink), None).await.map(|_| ())
        };
        self.operation("purge_file", path, work).await
    }

    /// As [`DfsClient::remove_dir`], past the trash.
    ///
    /// # Errors
    /// As [`DfsClient::remove_dir`].
    pub async fn purge_dir(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let work = async {
            let rmdir = pb::Rmdir { at: Some(at(path)?), no_trash: true };
            self.mutate(request::Kind::Rmdir(rmdir), None).await.map(|_| ())
        };
        self.operation("purge_dir", path, work).await
    }
}
