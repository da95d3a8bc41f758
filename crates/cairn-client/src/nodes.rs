//! Names of what is there, exchanges of names, special files, files without a name, room.

use crate::client::DfsClient;
use crate::error::Error;
use crate::file::File;
use crate::namespace::Metadata;
use crate::options::{CreateOptions, OpenOptions};
use crate::place::Place;
use cairn_proto::pb::{self, request, response};

/// Whether a symbolic link in the last place of a path is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Symlinks {
    /// What it leads to is meant.
    #[default]
    Follow,
    /// The link itself is meant.
    Keep,
}

impl Symlinks {
    pub(crate) fn follow(self) -> bool {
        self == Self::Follow
    }
}

/// What becomes of a name that is taken when another is moved there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RenameMode {
    /// It is replaced, if it may be.
    #[default]
    Replace,
    /// The move fails with `AlreadyExists`.
    NoReplace,
    /// The two change places; both have to be there.
    Exchange,
}

/// A file that is neither file nor directory nor symbolic link, to be made. Device numbers are as makedev(3) of glibc makes
/// them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeKind {
    /// An empty regular file.
    File,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice(u64),
    /// A block device.
    BlockDevice(u64),
}

/// Room and use, as statvfs(3) wants them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FsRoom {
    /// Bytes of files that all stores have room for, at the place's number of copies.
    pub total_bytes: u64,
    /// What is left of that.
    pub free_bytes: u64,
    /// Bytes of all files.
    pub file_bytes: u64,
    /// Files, directories and everything else there is.
    pub inodes: u64,
    /// Bytes per block.
    pub block_len: u32,
    /// Longest name, in bytes.
    pub name_len_max: u32,
    /// Copies of each block at the place.
    pub replicas: u32,
    /// Inodes that the quota allows that the place counts against. Where that limits bytes, all figures of bytes are those
    /// of the quota; where it limits inodes, `inodes` is.
    pub inode_limit: Option<u64>,
}

/// Rights to be asked for: a sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    /// Read, or list.
    pub read: bool,
    /// Write, or change names in.
    pub write: bool,
    /// Execute, or search.
    pub execute: bool,
}

impl Rights {
    /// As access(2) counts them.
    pub(crate) fn bits(self) -> u32 {
        u32::from(self.read) * 4 + u32::from(self.write) * 2 + u32::from(self.execute)
    }
}

impl DfsClient {
    /// Gives what is at `from` a further name; a symbolic link there is named itself, not followed. A file from
    /// [`DfsClient::create_unnamed`] gets its first one this way: `Place::inode(file.inode().0)`.
    ///
    /// # Errors
    /// `AlreadyExists`; `PermissionDenied` for a directory, which has one name; `TooManyLinks` above 65,000; `CrossDevice`
    /// between quotas; `NotFound`, also for a file that has lost its last name.
    pub async fn hard_link(&self, from: impl Into<Place>, to: impl Into<Place>) -> Result<Metadata, Error> {
        let (from, to) = (from.into(), to.into());
        let work = async {
            let link = pb::Link { from: Some(from.at()?), to: Some(to.at()?), follow: false };
            self.mutate_attr(request::Kind::Link(link), None).await
        };
        self.operation("hard_link", to.shown(), work).await
    }

    /// Moves a name, atomically, as [`DfsClient::rename`] does; `mode` says what becomes of one that is in the way.
    ///
    /// # Errors
    /// As [`DfsClient::rename`]; `AlreadyExists` with [`RenameMode::NoReplace`]; `NotFound` when a name to be exchanged is
    /// not there.
    pub async fn rename_with(
        &self,
        from: impl Into<Place>,
        to: impl Into<Place>,
        mode: RenameMode,
    ) -> Result<(), Error> {
        let (from, to) = (from.into(), to.into());
        let work = async {
            let rename = pb::Rename {
                from: Some(from.at()?),
                to: Some(to.at()?),
                no_replace: mode == RenameMode::NoReplace,
                exchange: mode == RenameMode::Exchange,
            };
            self.mutate(request::Kind::Rename(rename), None).await.map(|_| ())
        };
        self.operation("rename", from.shown(), work).await
    }

    /// Makes a special file.
    ///
    /// # Errors
    /// `AlreadyExists`; `PermissionDenied` for a device, on behalf of another user than 0.
    pub async fn create_node(
        &self,
        place: impl Into<Place>,
        kind: NodeKind,
        options: CreateOptions,
    ) -> Result<Metadata, Error> {
        let place = place.into();
        let (kind, rdev) = match kind {
            NodeKind::File => (pb::Kind::File, 0),
            NodeKind::Fifo => (pb::Kind::Fifo, 0),
            NodeKind::Socket => (pb::Kind::Socket, 0),
            NodeKind::CharDevice(rdev) => (pb::Kind::CharDevice, rdev),
            NodeKind::BlockDevice(rdev) => (pb::Kind::BlockDevice, rdev),
        };
        let work = async {
            let (at, attr) = (Some(place.at()?), Some(options.to_pb(0o644)));
            let mknod = pb::Mknod { at, attr, kind: kind as i32, rdev };
            self.mutate_attr(request::Kind::Mknod(mknod), options.relaxed).await
        };
        self.operation("create_node", place.shown(), work).await
    }

    /// Makes a file without a name, as O_TMPFILE does: it is gone when the last handle is dropped or the client's session
    /// ends, unless [`DfsClient::hard_link`] gave it a name. `dir` says whose policy, group and default ACL it gets.
    ///
    /// # Errors
    /// `NotFound` and `NotADirectory` for `dir`.
    pub async fn create_unnamed(&self, dir: impl Into<Place>, options: OpenOptions) -> Result<File, Error> {
        self.create_unnamed_told(dir, options).await.map(|(file, _)| file)
    }

    /// Room and use, as seen at a place.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn statfs(&self, place: impl Into<Place>) -> Result<FsRoom, Error> {
        let place = place.into();
        let work = async {
            let ask = pb::StatFs { at: Some(place.at()?) };
            let response::Kind::StatFs(room) = self.look(request::Kind::StatFs(ask)).await? else {
                return Err(self.inner.unexpected("statfs"));
            };
            Ok(FsRoom {
                total_bytes: room.total_bytes,
                free_bytes: room.free_bytes,
                file_bytes: room.file_bytes,
                inodes: room.inodes,
                block_len: room.block_len,
                name_len_max: room.name_len_max,
                replicas: room.replicas,
                inode_limit: (room.inode_limit > 0).then_some(room.inode_limit),
            })
        };
        self.operation("statfs", place.shown(), work).await
    }

    /// Whether the user the client acts for has these rights, as access(2) tells; without any it is only looked whether
    /// it is there. A client that acts for nobody in particular has all.
    ///
    /// # Errors
    /// `PermissionDenied`, `NotFound`.
    pub async fn access(&self, place: impl Into<Place>, rights: Rights, symlinks: Symlinks) -> Result<Metadata, Error> {
        let place = place.into();
        let work = async {
            let ask = pb::Access { at: Some(place.at()?), follow: symlinks.follow(), want: rights.bits(), map_len: 0 };
            match self.look(request::Kind::Access(ask)).await? {
                response::Kind::Attr(attr) => Ok(Metadata::from_pb(attr)),
                _ => Err(self.inner.unexpected("access")),
            }
        };
        self.operation("access", place.shown(), work).await
    }
}
