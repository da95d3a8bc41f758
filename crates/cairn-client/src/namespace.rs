//! Directories and names.

use crate::client::DfsClient;
use crate::error::Error;
use crate::nodes::{RenameMode, Symlinks};
use crate::options::{CreateOptions, SetAttributes};
use crate::place::Place;
use bytes::Bytes;
use cairn_proto::InodeId;
use cairn_proto::limits::PAGE_ROWS_MAX;
use cairn_proto::pb::{self, request, response};
use futures_util::Stream;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// What an inode is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket of some machine.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl FileKind {
    pub(crate) fn from_pb(kind: pb::Kind) -> Self {
        match kind {
            pb::Kind::Directory => Self::Directory,
            pb::Kind::Symlink => Self::Symlink,
            pb::Kind::File | pb::Kind::Unknown => Self::File,
            pb::Kind::Fifo => Self::Fifo,
            pb::Kind::Socket => Self::Socket,
            pb::Kind::CharDevice => Self::CharDevice,
            pb::Kind::BlockDevice => Self::BlockDevice,
        }
    }
}

/// Attributes of a file, directory or symbolic link. Times are nanoseconds since 1970.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// Its number; never reused.
    pub inode: u64,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names it has; of a directory 1, which says that its subdirectories are not counted, unless the client asks for that:
    /// [`DfsClientBuilder::count_links`](crate::DfsClientBuilder::count_links).
    pub nlink: u32,
    /// Bytes of a file, length of a symbolic link's target.
    pub size: u64,
    /// Last access (not kept up by reads).
    pub atime_ns: i64,
    /// Last change of content.
    pub mtime_ns: i64,
    /// Last change of anything.
    pub ctime_ns: i64,
    /// Counts changes of content.
    pub version: u64,
    /// Copies kept of each block.
    pub replicas: u32,
    /// Bytes per block.
    pub block_len: u32,
    /// Writes return before they survive power loss.
    pub relaxed: bool,
    /// Of a directory: how long what is removed from it is kept, in seconds; 0 = not at all.
    pub trash_s: u64,
    /// Where a symbolic link leads.
    pub target: Option<PathBuf>,
    /// When it was made; 0 = not known.
    pub btime_ns: i64,
    /// Of a device: its number, as makedev(3) of glibc makes it.
    pub rdev: u64,
    /// It has extended attributes, ACLs among them.
    pub has_xattrs: bool,
    /// It has an access or a default ACL.
    pub has_acl: bool,
    /// Bytes of a file that are no hole.
    pub allocated: u64,
}

impl Metadata {
    pub(crate) fn from_pb(attr: pb::Attr) -> Self {
        let kind = FileKind::from_pb(attr.kind());
        let policy = attr.policy.unwrap_or_default();
        Self {
            inode: attr.inode,
            kind,
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            size: attr.size,
            atime_ns: attr.atime_ns,
            mtime_ns: attr.mtime_ns,
            ctime_ns: attr.ctime_ns,
            version: attr.version,
            replicas: policy.replicas,
            block_len: policy.block_len,
            relaxed: policy.relaxed,
            trash_s: policy.trash_s,
            target: (kind == FileKind::Symlink).then(|| PathBuf::from(OsString::from_vec(attr.target.to_vec()))),
            btime_ns: attr.btime_ns,
            rdev: attr.rdev,
            has_xattrs: attr.has_xattrs,
            has_acl: attr.has_acl,
            allocated: attr.allocated.unwrap_or(attr.size),
        }
    }

    /// True for directories.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// True for regular files.
    pub fn is_file(&self) -> bool {
        self.kind == FileKind::File
    }

    /// True for symbolic links.
    pub fn is_symlink(&self) -> bool {
        self.kind == FileKind::Symlink
    }
}

/// Where a path begins on the wire: at the root, whether or not it has a leading slash.
pub(crate) fn at(path: &Path) -> Result<pb::At, Error> {
    Place::from(path).at()
}

/// An inode by number.
pub(crate) fn at_inode(inode: InodeId) -> pb::At {
    pb::At { dir: inode.0, path: Bytes::new() }
}

/// An entry of a directory.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// Its name in the directory.
    pub name: OsString,
    /// Number of what it names.
    pub inode: u64,
    /// What it names.
    pub kind: FileKind,
    /// Attributes of what it names (a symbolic link is not followed).
    pub metadata: Metadata,
}

type Page = (Vec<DirEntry>, Option<Bytes>);
type PageRequest = Pin<Box<dyn Future<Output = Result<Page, Error>> + Send>>;

/// The entries of a directory in order of the bytes of their names, read page by page. An entry that is there from
/// before the first to after the last page is seen exactly once; others may or may not be seen.
pub struct ReadDir {
    client: DfsClient,
    dir: pb::At,
    path: PathBuf,
    entries: VecDeque<DirEntry>,
    /// Where the next page begins; `None` after the last.
    next: Option<Bytes>,
    page: Option<PageRequest>,
}

impl ReadDir {
    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// Of reading a page; the next call tries the page again.
    pub async fn next_entry(&mut self) -> Result<Option<DirEntry>, Error> {
        std::future::poll_fn(|cx| self.poll_entry(cx)).await.transpose()
    }

    /// True while the next entry is here already, so that it costs no request.
    pub fn has_more_at_hand(&self) -> bool {
        !self.entries.is_empty()
    }

    fn poll_entry(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<DirEntry, Error>>> {
        loop {
            if let Some(entry) = self.entries.pop_front() {
                return Poll::Ready(Some(Ok(entry)));
            }
            let Some(after) = self.next.clone() else { return Poll::Ready(None) };
            let page = self.page.get_or_insert_with(|| {
                Box::pin(read_page(
                    self.client.clone(),
                    self.dir.clone(),
                    self.path.clone(),
                    after,
                    PAGE_ROWS_MAX as u32,
                ))
            });
            let result = ready!(page.as_mut().poll(cx));
            self.page = None;
            match result {
                Ok((entries, next)) => {
                    self.entries = entries.into();
                    self.next = next;
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

impl Stream for ReadDir {
    type Item = Result<DirEntry, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_entry(cx)
    }
}

async fn read_page(client: DfsClient, dir: pb::At, path: PathBuf, after: Bytes, limit: u32) -> Result<Page, Error> {
    let work = async {
        let count_links = client.inner.config.count_links;
        let at = Some(dir);
        let kind = request::Kind::ReadDir(pb::ReadDir { at, after, limit, with_attr: true, count_links });
        let response::Kind::ReadDir(reply) = client.look(kind).await? else {
            return Err(client.inner.unexpected("read_dir"));
        };
        let last = reply.entries.last().map(|entry| entry.name.clone());
        let next = if reply.end { None } else { last };
        let entries = reply.entries.into_iter().map(|entry| DirEntry {
            kind: FileKind::from_pb(entry.kind()),
            name: OsString::from_vec(entry.name.to_vec()),
            inode: entry.inode,
            metadata: Metadata::from_pb(entry.attr.unwrap_or_default()),
        });
        Ok((entries.collect(), next))
    };
    client.operation("read_dir", &path, work).await
}

impl DfsClient {
    /// Runs a mutation whose answer is the attributes of what it touched.
    pub(crate) async fn mutate_attr(&self, kind: request::Kind, relaxed: Option<bool>) -> Result<Metadata, Error> {
        match self.mutate(kind, relaxed).await? {
            response::Kind::Attr(attr) => Ok(Metadata::from_pb(attr)),
            _ => Err(self.inner.unexpected("attr")),
        }
    }

    async fn stat(&self, operation: &'static str, place: &Place, follow: bool) -> Result<Metadata, Error> {
        self.operation(operation, place.shown(), self.stat_quietly(place, follow)).await
    }

    /// A look at a place as a part of an operation that is counted as a whole.
    async fn stat_quietly(&self, place: &Place, follow: bool) -> Result<Metadata, Error> {
        let count_links = self.inner.config.count_links;
        let kind = request::Kind::Stat(pb::Stat { at: Some(place.at()?), follow, count_links, map_len: 0 });
        match self.look(kind).await? {
            response::Kind::Attr(attr) => Ok(Metadata::from_pb(attr)),
            _ => Err(self.inner.unexpected("stat")),
        }
    }

    /// Attributes of what a path leads to; symbolic links are followed.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `InvalidInput` (too many links), `Unavailable`.
    pub async fn metadata(&self, place: impl Into<Place>) -> Result<Metadata, Error> {
        self.stat("metadata", &place.into(), true).await
    }

    /// Attributes of what a path names; a symbolic link in the last place is not followed.
    ///
    /// # Errors
    /// As [`DfsClient::metadata`].
    pub async fn symlink_metadata(&self, place: impl Into<Place>) -> Result<Metadata, Error> {
        self.stat("symlink_metadata", &place.into(), false).await
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// As [`DfsClient::metadata`]; `InvalidInput` when it is not a symbolic link.
    pub async fn read_link(&self, place: impl Into<Place>) -> Result<PathBuf, Error> {
        let place = place.into();
        let metadata = self.stat("read_link", &place, false).await?;
        let none = || Error::invalid("read_link", "not a symbolic link").at("read_link", place.shown());
        metadata.target.ok_or_else(none)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound` or `NotADirectory` for the path above it.
    pub async fn create_dir(&self, place: impl Into<Place>) -> Result<Metadata, Error> {
        self.create_dir_with(place, CreateOptions::default()).await
    }

    /// Makes a directory with these attributes.
    ///
    /// # Errors
    /// As [`DfsClient::create_dir`].
    pub async fn create_dir_with(&self, place: impl Into<Place>, options: CreateOptions) -> Result<Metadata, Error> {
        let place = place.into();
        let work = async {
            let mkdir = pb::Mkdir { at: Some(place.at()?), attr: Some(options.to_pb(0o755)) };
            self.mutate_attr(request::Kind::Mkdir(mkdir), options.relaxed).await
        };
        self.operation("create_dir", place.shown(), work).await
    }

    /// Makes a directory and all that are missing above it. One that exists is fine.
    ///
    /// # Errors
    /// `NotADirectory` when something else is in the way.
    pub async fn create_dir_all(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        // From the innermost that exists: usually one or two requests.
        let mut missing = Vec::new();
        for ancestor in path.ancestors().filter(|ancestor| ancestor.file_name().is_some()) {
            match self.stat_quietly(&ancestor.into(), true).await {
                Ok(metadata) if metadata.is_dir() => break,
                Ok(_) => {
                    let status = cairn_proto::status::Status::new(
                        cairn_proto::status::Code::NotADirectory,
                        format!("{} is in the way", ancestor.display()),
                    );
                    return Err(Error::new("create_dir_all", crate::Cause::Status(status)).at("create_dir_all", path));
                }
                Err(error) if error.kind() == crate::ErrorKind::NotFound => missing.push(ancestor),
                Err(error) => return self.operation("create_dir_all", path, async { Err(error) }).await,
            }
        }
        for ancestor in missing.into_iter().rev() {
            match self.create_dir(ancestor).await {
                Err(error) if error.kind() != crate::ErrorKind::AlreadyExists => return Err(error),
                // Somebody else made it at the same time, or an earlier attempt of ours.
                _ => {}
            }
        }
        Ok(())
    }

    /// The entries of a directory.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`: with the first entry.
    pub async fn read_dir(&self, place: impl Into<Place>) -> Result<ReadDir, Error> {
        self.read_dir_after(place, "").await
    }

    /// The entries of a directory whose names sort behind `after`, whether or not that is there; empty = all. For who goes
    /// on where another listing ended.
    ///
    /// # Errors
    /// As [`DfsClient::read_dir`].
    pub async fn read_dir_after(&self, place: impl Into<Place>, after: impl AsRef<OsStr>) -> Result<ReadDir, Error> {
        let place = place.into();
        let (dir, path) = (place.at()?, place.shown().to_path_buf());
        let after = Bytes::copy_from_slice(after.as_ref().as_bytes());
        let (entries, next) = read_page(self.clone(), dir.clone(), path.clone(), after, PAGE_ROWS_MAX as u32).await?;
        Ok(ReadDir { client: self.clone(), dir, path, entries: entries.into(), next, page: None })
    }

    /// The first entries whose names sort behind `after`, at most `limit` (at least one, if there is one), in one request;
    /// and whether more follow them.
    ///
    /// # Errors
    /// As [`DfsClient::read_dir`].
    pub async fn read_dir_page(
        &self,
        place: impl Into<Place>,
        after: impl AsRef<OsStr>,
        limit: u32,
    ) -> Result<(Vec<DirEntry>, bool), Error> {
        let place = place.into();
        let after = Bytes::copy_from_slice(after.as_ref().as_bytes());
        let path = place.shown().to_path_buf();
        let (entries, next) = read_page(self.clone(), place.at()?, path, after, limit.max(1)).await?;
        Ok((entries, next.is_some()))
    }

    /// Makes a symbolic link at `path` that leads to `target`.
    ///
    /// # Errors
    /// `AlreadyExists`, unless the options allow to replace it.
    pub async fn symlink(
        &self,
        target: impl AsRef<Path>,
        place: impl Into<Place>,
        options: CreateOptions,
    ) -> Result<Metadata, Error> {
        let place = place.into();
        let work = async {
            let symlink = pb::Symlink {
                at: Some(place.at()?),
                target: Bytes::copy_from_slice(target.as_ref().as_os_str().as_bytes()),
                attr: Some(options.to_pb(0o777)),
                replace: options.replace,
            };
            self.mutate_attr(request::Kind::Symlink(symlink), options.relaxed).await
        };
        self.operation("symlink", place.shown(), work).await
    }

    /// Moves a name, atomically; a file in the way is replaced, and so is an empty directory by a directory.
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory`, `NotADirectory`, `DirectoryNotEmpty`, `InvalidInput` for a move into itself.
    pub async fn rename(&self, from: impl Into<Place>, to: impl Into<Place>) -> Result<(), Error> {
        self.rename_with(from, to, RenameMode::Replace).await
    }

    /// Removes a file or symbolic link.
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory`.
    pub async fn remove_file(&self, place: impl Into<Place>) -> Result<(), Error> {
        self.remove_file_told(place).await.map(|_| ())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `DirectoryNotEmpty`.
    pub async fn remove_dir(&self, place: impl Into<Place>) -> Result<(), Error> {
        let place = place.into();
        let work = async {
            let rmdir = pb::Rmdir { at: Some(place.at()?), no_trash: false };
            self.mutate(request::Kind::Rmdir(rmdir), None).await.map(|_| ())
        };
        self.operation("remove_dir", place.shown(), work).await
    }

    /// Removes a directory and everything below it; symbolic links are removed, not followed. What others add
    /// meanwhile may keep it from being empty.
    ///
    /// # Errors
    /// The first that stands in the way; what was removed until then stays removed.
    pub async fn remove_dir_all(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let mut stack = vec![(path.as_ref().to_path_buf(), false)];
        while let Some((dir, emptied)) = stack.pop() {
            if emptied {
                self.remove_dir(&dir).await?;
                continue;
            }
            stack.push((dir.clone(), true));
            let mut entries = self.read_dir(&dir).await?;
            while let Some(entry) = entries.next_entry().await? {
                let path = dir.join(&entry.name);
                match entry.kind {
                    FileKind::Directory => stack.push((path, false)),
                    _ => match self.remove_file(&path).await {
                        Err(error) if error.kind() != crate::ErrorKind::NotFound => return Err(error),
                        // Gone already is as good.
                        _ => {}
                    },
                }
            }
        }
        Ok(())
    }

    /// Changes attributes of what a path names, all in one step; a symbolic link in the last place is not followed.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` by the rules of chmod(2), chown(2), utimensat(2) and truncate(2).
    pub async fn set_attributes(&self, place: impl Into<Place>, change: SetAttributes) -> Result<Metadata, Error> {
        self.set_attributes_with(place, change, Symlinks::Keep).await
    }

    /// As [`DfsClient::set_attributes`]; `symlinks` says whether a symbolic link in the last place is followed.
    ///
    /// # Errors
    /// As [`DfsClient::set_attributes`].
    pub async fn set_attributes_with(
        &self,
        place: impl Into<Place>,
        change: SetAttributes,
        symlinks: Symlinks,
    ) -> Result<Metadata, Error> {
        let place = place.into();
        let work = async {
            let set = change.to_pb(place.at()?, symlinks.follow());
            self.mutate_attr(request::Kind::SetAttr(set), None).await
        };
        self.operation("set_attributes", place.shown(), work).await
    }
}
