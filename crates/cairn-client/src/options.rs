//! How to open, create, read and change files.

use std::time::Duration;

/// Whether reads may be answered from a remembered map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Consistency {
    /// Never stale: the version is checked with metadata while the data is fetched. Reads are linearizable.
    #[default]
    Validated,
    /// Close-to-open: what was current when the file was opened, or newer. Saves the check.
    Cached,
}

/// How one read is done; what is not set is as the handle and the client say.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    pub(crate) deadline: Option<Duration>,
    pub(crate) hedge: Option<bool>,
    pub(crate) consistency: Option<Consistency>,
}

impl ReadOptions {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The read fails with `Deadline` or what its replicas said when it takes longer.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Whether a slow replica may be joined by a second one (default: yes).
    pub fn hedge(mut self, hedge: bool) -> Self {
        self.hedge = Some(hedge);
        self
    }

    /// See [`Consistency`].
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = Some(consistency);
        self
    }
}

/// How [`DfsClient::open_with`](crate::DfsClient::open_with) opens a file. The default opens or creates, durable,
/// validated, as [`DfsClient::open`](crate::DfsClient::open) does.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    pub(crate) create: bool,
    pub(crate) exclusive: bool,
    pub(crate) truncate: bool,
    pub(crate) relaxed: Option<bool>,
    pub(crate) consistency: Consistency,
    pub(crate) sustained: bool,
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) attributes: CreateOptions,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            create: true,
            exclusive: false,
            truncate: false,
            relaxed: None,
            consistency: Consistency::Validated,
            sustained: false,
            read: false,
            write: false,
            attributes: CreateOptions::default(),
        }
    }
}

impl OpenOptions {
    /// Opens or creates, durable, validated.
    pub fn new() -> Self {
        Self::default()
    }

    /// Create the file when it is not there (default true).
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Fail when the file is there already (default false).
    pub fn create_new(mut self, exclusive: bool) -> Self {
        self.exclusive = exclusive;
        self.create |= exclusive;
        self
    }

    /// Drop the content on open (default false).
    pub fn truncate(mut self, truncate: bool) -> Self {
        self.truncate = truncate;
        self
    }

    /// Acknowledge writes before they are on disk; they get there within a second. A power failure may take the last
    /// second's writes. Default: the policy of the file.
    pub fn relaxed(mut self, relaxed: bool) -> Self {
        self.relaxed = Some(relaxed);
        self
    }

    /// See [`Consistency`].
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// The file stays readable and writable through this handle when its last name is removed or replaced, by whomever,
    /// until the handle and its clones are dropped or the client's session ends (default false: one request less, and such
    /// a handle ends in `NotFound`).
    pub fn sustained(mut self, sustained: bool) -> Self {
        self.sustained = sustained;
        self
    }

    /// Fail unless the user the client acts for may read the file; see
    /// [`DfsClient::on_behalf_of`](crate::DfsClient::on_behalf_of) (default false).
    pub fn read(mut self, read: bool) -> Self {
        self.read = read;
        self
    }

    /// Fail unless the user the client acts for may write the file (default false).
    pub fn write(mut self, write: bool) -> Self {
        self.write = write;
        self
    }

    /// The rights that are asked for, as on the wire.
    pub(crate) fn want(&self) -> u32 {
        u32::from(self.read) * 4 + u32::from(self.write) * 2
    }

    /// Attributes of the file if it is created.
    pub fn attributes(mut self, attributes: CreateOptions) -> Self {
        self.attributes = attributes;
        self
    }
}

/// Attributes of something new.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) umask: u32,
    pub(crate) mtime_ns: Option<i64>,
    pub(crate) block_len: u32,
    pub(crate) replace: bool,
    pub(crate) relaxed: Option<bool>,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self { mode: None, uid: 0, gid: 0, umask: 0, mtime_ns: None, block_len: 0, replace: true, relaxed: None }
    }
}

impl CreateOptions {
    /// Mode 0644 (directories 0755), owner 0:0, times by the server's clock, sizes by the directory's policy.
    pub fn new() -> Self {
        Self::default()
    }

    /// Permission bits (07777).
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Owner.
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = uid;
        self
    }

    /// Group.
    pub fn gid(mut self, gid: u32) -> Self {
        self.gid = gid;
        self
    }

    /// Bits taken from the mode, as umask(2), unless the directory has a default ACL, which then decides instead
    /// (default 0).
    pub fn umask(mut self, umask: u32) -> Self {
        self.umask = umask;
        self
    }

    /// Time of last modification, nanoseconds since 1970.
    pub fn mtime_ns(mut self, mtime_ns: i64) -> Self {
        self.mtime_ns = Some(mtime_ns);
        self
    }

    /// Bytes per block: a multiple of 64 KiB from 64 KiB to 64 MiB; 0 = by policy.
    pub fn block_len(mut self, block_len: u32) -> Self {
        self.block_len = block_len;
        self
    }

    /// Whether an existing file of that name is replaced (default) or is an error.
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// As [`OpenOptions::relaxed`].
    pub fn relaxed(mut self, relaxed: bool) -> Self {
        self.relaxed = Some(relaxed);
        self
    }

    pub(crate) fn to_pb(&self, default_mode: u32) -> cairn_proto::pb::NewAttr {
        cairn_proto::pb::NewAttr {
            mode: self.mode.unwrap_or(default_mode) & 0o7777,
            uid: self.uid,
            gid: self.gid,
            mtime_ns: self.mtime_ns,
            block_len: self.block_len,
            replicas: 0,
            umask: self.umask,
        }
    }
}

/// A time that a file is to get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The metadata server's clock, as UTIME_NOW.
    Now,
    /// Nanoseconds since 1970.
    At(i64),
}

/// Attributes to change; absent ones stay.
#[derive(Clone, Debug, Default)]
pub struct SetAttributes {
    /// Permission bits (07777).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of last access.
    pub atime: Option<SetTime>,
    /// Time of last modification.
    pub mtime: Option<SetTime>,
    /// Length of a file: what lies behind is dropped, what is added reads as zeros. A file in many pieces is shortened in
    /// several steps; everything else changes with the last of them.
    pub size: Option<u64>,
}

impl SetAttributes {
    pub(crate) fn to_pb(&self, at: cairn_proto::pb::At, follow: bool) -> cairn_proto::pb::SetAttr {
        let at_ns = |time: Option<SetTime>| match time {
            Some(SetTime::At(ns)) => Some(ns),
            Some(SetTime::Now) | None => None,
        };
        cairn_proto::pb::SetAttr {
            at: Some(at),
            follow,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            atime_ns: at_ns(self.atime),
            mtime_ns: at_ns(self.mtime),
            size: self.size,
            atime_now: self.atime == Some(SetTime::Now),
            mtime_now: self.mtime == Some(SetTime::Now),
        }
    }
}
