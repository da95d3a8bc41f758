//! Fields of the rows of change logs.

use super::{Field, Kind};
use bytes::Bytes;

/// What happened to a name or an inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A name leads to something it did not lead to before.
    Created {
        /// What it leads to.
        inode: u64,
        /// What that is.
        kind: Kind,
        /// The directory.
        parent: u64,
        /// The name in it.
        name: Bytes,
    },
    /// A name leads to that no more.
    Removed {
        /// What it led to.
        inode: u64,
        /// What that is.
        kind: Kind,
        /// The directory.
        parent: u64,
        /// The name in it.
        name: Bytes,
    },
    /// One name went and another came, both of one inode.
    Renamed {
        /// What they lead to.
        inode: u64,
        /// What that is.
        kind: Kind,
        /// The directory of the old name.
        from_parent: u64,
        /// The old name.
        from_name: Bytes,
        /// The directory of the new name.
        parent: u64,
        /// The new name.
        name: Bytes,
    },
    /// Something about an inode that is there before and after.
    Changed {
        /// The inode.
        inode: u64,
        /// What it is.
        kind: Kind,
        /// A directory in which it has, or had, a name.
        parent: u64,
        /// What of it: bits of `pb::ChangeOf`.
        what: u32,
        /// Its version afterwards.
        version: u64,
    },
}

impl Field for Change {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Change::Created { inode, kind, parent, name } | Change::Removed { inode, kind, parent, name } => {
                out.push(if matches!(self, Change::Created { .. }) { 1 } else { 2 });
                inode.put(out);
                kind.put(out);
                parent.put(out);
                name.put(out);
            }
            Change::Renamed { inode, kind, from_parent, from_name, parent, name } => {
                out.push(3);
                inode.put(out);
                kind.put(out);
                from_parent.put(out);
                from_name.put(out);
                parent.put(out);
                name.put(out);
            }
            Change::Changed { inode, kind, parent, what, version } => {
                out.push(4);
                inode.put(out);
                kind.put(out);
                parent.put(out);
                what.put(out);
                version.put(out);
            }
        }
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        let tag = u8::take(input)?;
        let (inode, kind) = (u64::take(input)?, Kind::take(input)?);
        Some(match tag {
            1 => Change::Created { inode, kind, parent: u64::take(input)?, name: Bytes::take(input)? },
            2 => Change::Removed { inode, kind, parent: u64::take(input)?, name: Bytes::take(input)? },
            3 => Change::Renamed {
                inode,
                kind,
                from_parent: u64::take(input)?,
                from_name: Bytes::take(input)?,
                parent: u64::take(input)?,
                name: Bytes::take(input)?,
            },
            4 => Change::Changed {
                inode,
                kind,
                parent: u64::take(input)?,
                what: u32::take(input)?,
                version: u64::take(input)?,
            },
            _ => return None,
        })
    }
}

/// What a transaction added to what lies below a quota root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delta {
    /// The quota root.
    pub root: u64,
    /// Bytes of files more or fewer.
    pub bytes: i64,
    /// Inodes more or fewer.
    pub inodes: i64,
}

impl Field for Delta {
    fn put(&self, out: &mut Vec<u8>) {
        self.root.put(out);
        self.bytes.put(out);
        self.inodes.put(out);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        Some(Self { root: u64::take(input)?, bytes: i64::take(input)?, inodes: i64::take(input)? })
    }
}

/// Where a reader of a change log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogCursor {
    /// The log.
    pub log: u32,
    /// The position it reads next.
    pub next: u64,
    /// The log is closed and was read to its end.
    pub done: bool,
}

impl Field for LogCursor {
    fn put(&self, out: &mut Vec<u8>) {
        self.log.put(out);
        self.next.put(out);
        self.done.put(out);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        Some(Self { log: u32::take(input)?, next: u64::take(input)?, done: bool::take(input)? })
    }
}
