//! Answers to the kernel, as bytes.

use super::abi::{self, Writer};
use bytes::Bytes;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Bytes of a directory's entry before its name.
const ENTRY_HEAD_LEN: usize = 24;
/// Bytes of an answer to LOOKUP.
const NODE_LEN: usize = 128;

/// What the kernel is told.
#[derive(Debug)]
pub enum Answer {
    /// Done.
    Empty,
    /// A structure.
    Bytes(Vec<u8>),
    /// Content, in pieces.
    Data(Vec<Bytes>),
    /// Nothing at all: the request has no answer.
    None,
}

/// Attributes as the kernel takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    /// Number.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes that it takes.
    pub blocks: u64,
    /// Last access, nanoseconds since 1970.
    pub atime_ns: i64,
    /// Last change of content.
    pub mtime_ns: i64,
    /// Last change of anything.
    pub ctime_ns: i64,
    /// When it was made; 0 = not known.
    pub btime_ns: i64,
    /// Type and permission bits.
    pub mode: u32,
    /// Names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, as the kernel packs it into 32 bits.
    pub rdev: u32,
    /// Bytes that are best read or written at once.
    pub block_len: u32,
}

/// What an inode's number leads to, and how long the kernel may take that for granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Attributes; the number is the inode's.
    pub attr: Attr,
    /// How long the name leads there.
    pub name_ttl: Duration,
    /// How long the attributes hold.
    pub attr_ttl: Duration,
}

fn split(ns: i64) -> (i64, u32) {
    (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000) as u32)
}

fn put_attr(to: &mut Writer, attr: &Attr) {
    let (atime, mtime, ctime) = (split(attr.atime_ns), split(attr.mtime_ns), split(attr.ctime_ns));
    to.u64(attr.inode).u64(attr.size).u64(attr.blocks);
    to.u64(atime.0.cast_unsigned()).u64(mtime.0.cast_unsigned()).u64(ctime.0.cast_unsigned());
    to.u32(atime.1).u32(mtime.1).u32(ctime.1);
    to.u32(attr.mode).u32(attr.nlink).u32(attr.uid).u32(attr.gid).u32(attr.rdev).u32(attr.block_len).u32(0);
}

fn put_node(to: &mut Writer, node: &Node) {
    to.u64(node.attr.inode).u64(0);
    to.u64(node.name_ttl.as_secs()).u64(node.attr_ttl.as_secs());
    to.u32(node.name_ttl.subsec_nanos()).u32(node.attr_ttl.subsec_nanos());
    put_attr(to, &node.attr);
}

/// To LOOKUP and everything that makes something.
pub fn node(node: &Node) -> Answer {
    let mut to = Writer::with_capacity(NODE_LEN);
    put_node(&mut to, node);
    Answer::Bytes(to.finish())
}

/// To LOOKUP of a name that leads nowhere, and goes on doing so for `ttl`.
pub fn no_node(ttl: Duration) -> Answer {
    let mut to = Writer::with_capacity(NODE_LEN);
    to.u64(0).u64(0).u64(ttl.as_secs()).u64(0).u32(ttl.subsec_nanos()).u32(0).zeros(88);
    Answer::Bytes(to.finish())
}

/// To GETATTR and SETATTR.
pub fn attr(attr: &Attr, ttl: Duration) -> Answer {
    let mut to = Writer::with_capacity(104);
    to.u64(ttl.as_secs()).u32(ttl.subsec_nanos()).u32(0);
    put_attr(&mut to, attr);
    Answer::Bytes(to.finish())
}

/// What STATX tells: STATX_BASIC_STATS, and STATX_BTIME where it is known.
const STATX_BASIC: u32 = 0x7ff;
const STATX_BTIME: u32 = 0x800;

/// To STATX.
pub fn statx(attr: &Attr, ttl: Duration) -> Answer {
    let mut to = Writer::with_capacity(288);
    to.u64(ttl.as_secs()).u32(ttl.subsec_nanos()).u32(0).zeros(16);
    let mask = if attr.btime_ns == 0 { STATX_BASIC } else { STATX_BASIC | STATX_BTIME };
    to.u32(mask).u32(attr.block_len).u64(0).u32(attr.nlink).u32(attr.uid).u32(attr.gid);
    to.u16(attr.mode as u16).u16(0);
    to.u64(attr.inode).u64(attr.size).u64(attr.blocks).u64(0);
    for ns in [attr.atime_ns, attr.btime_ns, attr.ctime_ns, attr.mtime_ns] {
        let (seconds, ns) = split(ns);
        to.u64(seconds.cast_unsigned()).u32(ns).u32(0);
    }
    let (major, minor) = (attr.rdev >> 8 & 0xfff, attr.rdev & 0xff | attr.rdev >> 12 & 0xfff00);
    to.u32(major).u32(minor).u32(0).u32(0).zeros(14 * 8);
    Answer::Bytes(to.finish())
}

/// To OPEN and OPENDIR.
pub fn opened(handle: u64, flags: u32) -> Answer {
    let mut to = Writer::with_capacity(16);
    to.u64(handle).u32(flags).u32(0);
    Answer::Bytes(to.finish())
}

/// To CREATE and TMPFILE.
pub fn created(node: &Node, handle: u64, flags: u32) -> Answer {
    let mut to = Writer::with_capacity(NODE_LEN + 16);
    put_node(&mut to, node);
    to.u64(handle).u32(flags).u32(0);
    Answer::Bytes(to.finish())
}

/// To WRITE and COPY_FILE_RANGE; to GETXATTR and LISTXATTR when asked for the length.
pub fn len(len: u32) -> Answer {
    let mut to = Writer::with_capacity(8);
    to.u32(len).u32(0);
    Answer::Bytes(to.finish())
}

/// To LSEEK.
pub fn offset(offset: u64) -> Answer {
    let mut to = Writer::with_capacity(8);
    to.u64(offset);
    Answer::Bytes(to.finish())
}

/// To GETLK.
pub fn lock(start: u64, last: u64, kind: u32, pid: u32) -> Answer {
    let mut to = Writer::with_capacity(24);
    to.u64(start).u64(last).u32(kind).u32(pid);
    Answer::Bytes(to.finish())
}

/// Room and use, as statvfs(3) tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Units of room.
    pub blocks: u64,
    /// Free ones.
    pub free: u64,
    /// Inodes that there may be.
    pub inodes: u64,
    /// Inodes that may be added.
    pub free_inodes: u64,
    /// Bytes in a unit.
    pub block_len: u32,
    /// Bytes of the longest name.
    pub name_len_max: u32,
}

/// To STATFS.
pub fn stat_fs(room: &StatFs) -> Answer {
    let mut to = Writer::with_capacity(80);
    to.u64(room.blocks).u64(room.free).u64(room.free).u64(room.inodes).u64(room.free_inodes);
    to.u32(room.block_len).u32(room.name_len_max).u32(room.block_len).zeros(28);
    Answer::Bytes(to.finish())
}

/// What INIT settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init {
    /// The minor number of the interface.
    pub minor: u32,
    /// Bytes that the kernel reads ahead at most.
    pub max_read_ahead: u32,
    /// What is used of what the kernel offered.
    pub flags: u64,
    /// Requests that may be under way on nobody's behalf.
    pub background: u16,
    /// Bytes of one read or write.
    pub max_write: u32,
}

/// To INIT.
pub fn init(init: &Init) -> Answer {
    let mut to = Writer::with_capacity(64);
    to.u32(abi::MAJOR).u32(init.minor).u32(init.max_read_ahead).u32(init.flags as u32);
    to.u16(init.background).u16(init.background / 4 * 3).u32(init.max_write).u32(1);
    to.u16((init.max_write / 4096) as u16).u16(0).u32((init.flags >> 32) as u32).zeros(28);
    Answer::Bytes(to.finish())
}

/// A page of a directory's entries, filled until it is full.
pub struct Page {
    to: Writer,
    len_max: usize,
}

impl Page {
    /// At most `len_max` bytes.
    pub fn new(len_max: u32) -> Self {
        let len_max = len_max as usize;
        Self { to: Writer::with_capacity(len_max), len_max }
    }

    fn fits(&self, head_len: usize, name: &OsStr) -> bool {
        self.to.len() + (head_len + ENTRY_HEAD_LEN + name.len()).next_multiple_of(8) <= self.len_max
    }

    fn put(&mut self, inode: u64, next: u64, kind: u32, name: &OsStr) {
        self.to.u64(inode).u64(next).u32(name.len() as u32).u32(kind).bytes(name.as_bytes());
        let padding = self.to.len().next_multiple_of(8) - self.to.len();
        self.to.zeros(padding);
    }

    /// Adds an entry: what it leads to, where to go on behind it, its type (the upper bits of a mode, moved down by 12).
    /// False when it does not fit any more.
    pub fn add(&mut self, inode: u64, next: u64, kind: u32, name: &OsStr) -> bool {
        let fits = self.fits(0, name);
        if fits {
            self.put(inode, next, kind, name);
        }
        fits
    }

    /// As [`Page::add`], with what the kernel would ask next; `None` says nothing about it.
    pub fn add_node(&mut self, node: Option<&Node>, inode: u64, next: u64, kind: u32, name: &OsStr) -> bool {
        let fits = self.fits(NODE_LEN, name);
        if fits {
            match node {
                Some(node) => put_node(&mut self.to, node),
                None => drop(self.to.zeros(NODE_LEN)),
            }
            self.put(inode, next, kind, name);
        }
        fits
    }

    /// The answer.
    pub fn finish(mut self) -> Answer {
        Answer::Bytes(self.to.finish())
    }
}

/// Writes an answer, or an error, as the kernel takes it: in one call of `send`.
pub fn send<T>(unique: u64, result: &Result<Answer, Errno>, send: impl FnOnce(&[IoSlice<'_>]) -> T) -> Option<T> {
    let pieces: &[Bytes] = match result {
        Ok(Answer::None) => return None,
        Ok(Answer::Data(pieces)) => pieces,
        _ => &[],
    };
    let body: &[u8] = match result {
        Ok(Answer::Bytes(bytes)) => bytes,
        _ => &[],
    };
    let len = abi::OUT_HEADER_LEN + body.len() + pieces.iter().map(Bytes::len).sum::<usize>();
    let error = result.as_ref().err().map_or(0, |errno| -errno.raw_os_error());
    let head = header(len, error, unique);
    let mut parts = vec![IoSlice::new(&head), IoSlice::new(body)];
    parts.extend(pieces.iter().map(|piece| IoSlice::new(piece)));
    Some(send(&parts))
}

fn header(len: usize, error: i32, unique: u64) -> Vec<u8> {
    let mut to = Writer::with_capacity(abi::OUT_HEADER_LEN);
    to.u32(len as u32).u32(error.cast_unsigned()).u64(unique);
    to.finish()
}

/// The message that what is known of an inode no longer holds; with `content`, what is cached of its bytes neither.
pub fn forget_inode(inode: u64, content: bool) -> Vec<u8> {
    let mut to = Writer::with_capacity(40);
    to.bytes(&header(40, abi::notify::INVAL_INODE, 0));
    // An offset below zero leaves the content alone; a length of 0 reaches to the end.
    let offset: i64 = if content { 0 } else { -1 };
    to.u64(inode).u64(offset.cast_unsigned()).u64(0);
    to.finish()
}

/// The message that a name may lead elsewhere now.
pub fn forget_name(dir: u64, name: &OsStr) -> Vec<u8> {
    let len = abi::OUT_HEADER_LEN + 16 + name.len() + 1;
    let mut to = Writer::with_capacity(len);
    to.bytes(&header(len, abi::notify::INVAL_ENTRY, 0));
    to.u64(dir).u32(name.len() as u32).u32(0).bytes(name.as_bytes()).zeros(1);
    to.finish()
}
