//! Requests of the kernel, as values.

use super::abi::{self, Reader, fattr, flag, opcode};
use bytes::Bytes;
use rustix::io::Errno;
use std::ffi::OsString;

/// Who asks for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Tells the request from all others that are under way.
    pub unique: u64,
    /// The inode it is about; of operations on names, the directory.
    pub node: u64,
    /// Effective user of the caller.
    pub uid: u32,
    /// Effective group of the caller.
    pub gid: u32,
    /// The calling thread; 0 when it is not in the daemon's namespace, or the kernel itself.
    pub pid: u32,
    /// What is asked.
    pub op: Op,
}

/// A time that is to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// That of the moment.
    Now,
    /// Nanoseconds since 1970.
    At(i64),
}

/// Attributes to set; absent ones stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// The open file through which it is asked.
    pub handle: Option<u64>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<Time>,
    /// Last change of content.
    pub mtime: Option<Time>,
    /// The caller may not keep set-id bits.
    pub drop_privileges: bool,
}

/// A file to be made and opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// Its name.
    pub name: OsString,
    /// As open(2) got them.
    pub flags: u32,
    /// Permission bits, the mask not applied.
    pub mode: u32,
    /// The caller's mask.
    pub umask: u32,
}

/// A lock, or the range for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockAsk {
    /// The open file.
    pub handle: u64,
    /// Tells owners apart.
    pub owner: u64,
    /// First byte.
    pub start: u64,
    /// Last byte; `i64::MAX` = to the end.
    pub last: u64,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub kind: u32,
    /// The process.
    pub pid: u32,
    /// As flock(2), not fcntl(2).
    pub flock: bool,
}

/// Bytes from one file to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRange {
    /// Open file to read.
    pub from: u64,
    /// Where from.
    pub from_offset: u64,
    /// Inode to write.
    pub to_node: u64,
    /// Open file to write.
    pub to: u64,
    /// Where to.
    pub to_offset: u64,
    /// How much.
    pub len: u64,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are called as in linux/fuse.h")]
pub enum Op {
    Lookup { name: OsString },
    Forget { lookups: u64 },
    BatchForget { nodes: Vec<(u64, u64)> },
    GetAttr { handle: Option<u64> },
    Statx { handle: Option<u64> },
    SetAttr(SetAttr),
    ReadLink,
    Symlink { name: OsString, target: OsString },
    Mknod { name: OsString, mode: u32, rdev: u32, umask: u32 },
    Mkdir { name: OsString, mode: u32, umask: u32 },
    Unlink { name: OsString },
    Rmdir { name: OsString },
    Rename { name: OsString, to_dir: u64, to_name: OsString, flags: u32 },
    Link { node: u64, name: OsString },
    Open { flags: u32, drop_privileges: bool },
    Create(Create),
    Tmpfile(Create),
    Read { handle: u64, offset: u64, len: u32, flags: u32 },
    Write { handle: u64, offset: u64, data: Bytes, write_flags: u32, flags: u32 },
    Flush { handle: u64, owner: u64 },
    Release { handle: u64, flock_owner: Option<u64> },
    Fsync { handle: u64, data_only: bool },
    OpenDir,
    ReadDir { handle: u64, offset: u64, len: u32, plus: bool },
    ReleaseDir { handle: u64 },
    FsyncDir { handle: u64 },
    StatFs,
    SetXattr { name: OsString, value: Bytes, flags: u32, drop_setgid: bool },
    GetXattr { name: OsString, len: u32 },
    ListXattr { len: u32 },
    RemoveXattr { name: OsString },
    Access { mask: u32 },
    GetLock(LockAsk),
    SetLock { lock: LockAsk, wait: bool },
    Ioctl,
    Allocate { handle: u64, offset: u64, len: u64, mode: u32 },
    Seek { handle: u64, offset: u64, whence: u32 },
    CopyRange(CopyRange),
    Interrupt { unique: u64 },
    Destroy,
    Init { major: u32, minor: u32, max_read_ahead: u32, flags: u64 },
    Unknown(u32),
}

/// The front of every request.
struct Header {
    len: u32,
    opcode: u32,
    unique: u64,
    node: u64,
    uid: u32,
    gid: u32,
    pid: u32,
    extensions_len: usize,
}

fn header(bytes: &[u8]) -> Result<Header, Errno> {
    let mut at = Reader::new(bytes);
    let header = Header {
        len: at.u32()?,
        opcode: at.u32()?,
        unique: at.u64()?,
        node: at.u64()?,
        uid: at.u32()?,
        gid: at.u32()?,
        pid: at.u32()?,
        extensions_len: usize::from(at.u16()?) * 8,
    };
    Ok(header)
}

/// The number of a request that cannot be read otherwise, so that it can be refused.
pub fn unique_of(bytes: &[u8]) -> Option<u64> {
    header(bytes).ok().map(|header| header.unique)
}

impl Request {
    /// Reads one request, which is all of `bytes`.
    ///
    /// # Errors
    /// `EINVAL` when it is not as long as it has to be.
    pub fn parse(bytes: &Bytes) -> Result<Self, Errno> {
        let Header { len, opcode, unique, node, uid, gid, pid, extensions_len } = header(bytes)?;
        let end = bytes.len().checked_sub(extensions_len).filter(|end| *end >= abi::IN_HEADER_LEN);
        let end = end.filter(|_| len as usize == bytes.len()).ok_or(Errno::INVAL)?;
        let op = operation(opcode, &bytes.slice(abi::IN_HEADER_LEN..end))?;
        Ok(Self { unique, node, uid, gid, pid, op })
    }
}

#[allow(clippy::too_many_lines, reason = "one arm for each operation")]
fn operation(code: u32, body: &Bytes) -> Result<Op, Errno> {
    let mut at = Reader::new(body);
    Ok(match code {
        opcode::LOOKUP => Op::Lookup { name: at.name()? },
        opcode::FORGET => Op::Forget { lookups: at.u64()? },
        opcode::BATCH_FORGET => batch_forget(at)?,
        opcode::GETATTR => {
            let flags = at.u32()?;
            at.skip(4)?;
            let handle = at.u64()?;
            Op::GetAttr { handle: (flags & flag::GETATTR_FH != 0).then_some(handle) }
        }
        opcode::STATX => {
            let flags = at.u32()?;
            at.skip(4)?;
            let handle = at.u64()?;
            Op::Statx { handle: (flags & flag::GETATTR_FH != 0).then_some(handle) }
        }
        opcode::SETATTR => set_attr(at)?,
        opcode::READLINK => Op::ReadLink,
        opcode::SYMLINK => Op::Symlink { name: at.name()?, target: at.name()? },
        opcode::MKNOD => {
            let (mode, rdev, umask) = (at.u32()?, at.u32()?, at.u32()?);
            at.skip(4)?;
            Op::Mknod { name: at.name()?, mode, rdev, umask }
        }
        opcode::MKDIR => {
            let (mode, umask) = (at.u32()?, at.u32()?);
            Op::Mkdir { name: at.name()?, mode, umask }
        }
        opcode::UNLINK => Op::Unlink { name: at.name()? },
        opcode::RMDIR => Op::Rmdir { name: at.name()? },
        opcode::RENAME => {
            let to_dir = at.u64()?;
            Op::Rename { name: at.name()?, to_dir, to_name: at.name()?, flags: 0 }
        }
        opcode::RENAME2 => {
            let (to_dir, flags) = (at.u64()?, at.u32()?);
            at.skip(4)?;
            Op::Rename { name: at.name()?, to_dir, to_name: at.name()?, flags }
        }
        opcode::LINK => {
            let node = at.u64()?;
            Op::Link { node, name: at.name()? }
        }
        opcode::OPEN => {
            let (flags, open_flags) = (at.u32()?, at.u32()?);
            Op::Open { flags, drop_privileges: open_flags & flag::OPEN_KILL_SUIDGID != 0 }
        }
        opcode::CREATE => Op::Create(create(at)?),
        opcode::TMPFILE => Op::Tmpfile(create(at)?),
        opcode::READ => {
            let Page { handle, offset, len, flags } = page(at)?;
            Op::Read { handle, offset, len, flags }
        }
        opcode::READDIR | opcode::READDIRPLUS => {
            let Page { handle, offset, len, .. } = page(at)?;
            Op::ReadDir { handle, offset, len, plus: code == opcode::READDIRPLUS }
        }
        opcode::WRITE => write(at, body)?,
        opcode::FLUSH => {
            let handle = at.u64()?;
            at.skip(8)?;
            Op::Flush { handle, owner: at.u64()? }
        }
        opcode::RELEASE => {
            let handle = at.u64()?;
            at.skip(4)?;
            let (flags, owner) = (at.u32()?, at.u64()?);
            Op::Release { handle, flock_owner: (flags & flag::RELEASE_FLOCK_UNLOCK != 0).then_some(owner) }
        }
        opcode::RELEASEDIR => Op::ReleaseDir { handle: at.u64()? },
        opcode::FSYNC => {
            let handle = at.u64()?;
            Op::Fsync { handle, data_only: at.u32()? & flag::FSYNC_FDATASYNC != 0 }
        }
        opcode::FSYNCDIR => Op::FsyncDir { handle: at.u64()? },
        opcode::OPENDIR => Op::OpenDir,
        opcode::STATFS => Op::StatFs,
        opcode::SETXATTR => {
            let (len, flags, more) = (at.u32()?, at.u32()?, at.u32()?);
            at.skip(4)?;
            let (name, value) = (at.name()?, at.rest());
            let value = value.get(..len as usize).ok_or(Errno::INVAL)?;
            let drop_setgid = more & flag::SETXATTR_ACL_KILL_SGID != 0;
            Op::SetXattr { name, value: body.slice_ref(value), flags, drop_setgid }
        }
        opcode::GETXATTR => {
            let len = at.u32()?;
            at.skip(4)?;
            Op::GetXattr { name: at.name()?, len }
        }
        opcode::LISTXATTR => Op::ListXattr { len: at.u32()? },
        opcode::REMOVEXATTR => Op::RemoveXattr { name: at.name()? },
        opcode::ACCESS => Op::Access { mask: at.u32()? },
        opcode::GETLK => Op::GetLock(lock(at)?),
        opcode::SETLK | opcode::SETLKW => Op::SetLock { lock: lock(at)?, wait: code == opcode::SETLKW },
        opcode::IOCTL => Op::Ioctl,
        opcode::FALLOCATE => Op::Allocate { handle: at.u64()?, offset: at.u64()?, len: at.u64()?, mode: at.u32()? },
        opcode::LSEEK => Op::Seek { handle: at.u64()?, offset: at.u64()?, whence: at.u32()? },
        opcode::COPY_FILE_RANGE => Op::CopyRange(CopyRange {
            from: at.u64()?,
            from_offset: at.u64()?,
            to_node: at.u64()?,
            to: at.u64()?,
            to_offset: at.u64()?,
            len: at.u64()?,
        }),
        opcode::INTERRUPT => Op::Interrupt { unique: at.u64()? },
        opcode::DESTROY => Op::Destroy,
        opcode::INIT => {
            let (major, minor, max_read_ahead, low) = (at.u32()?, at.u32()?, at.u32()?, at.u32()?);
            let extended = u64::from(low) & abi::init::INIT_EXT != 0;
            let high = if extended { at.u32()? } else { 0 };
            Op::Init { major, minor, max_read_ahead, flags: u64::from(high) << 32 | u64::from(low) }
        }
        other => Op::Unknown(other),
    })
}

fn batch_forget(mut at: Reader<'_>) -> Result<Op, Errno> {
    let count = at.u32()?;
    at.skip(4)?;
    let nodes = (0..count).map(|_| Ok((at.u64()?, at.u64()?))).collect::<Result<Vec<_>, Errno>>()?;
    Ok(Op::BatchForget { nodes })
}

fn set_attr(mut at: Reader<'_>) -> Result<Op, Errno> {
    let valid = at.u32()?;
    at.skip(4)?;
    let (handle, size) = (at.u64()?, at.u64()?);
    at.skip(8)?;
    let (atime_s, mtime_s, _) = (at.u64()?, at.u64()?, at.u64()?);
    let (atime_ns, mtime_ns, _) = (at.u32()?, at.u32()?, at.u32()?);
    let mode = at.u32()?;
    at.skip(4)?;
    let (uid, gid) = (at.u32()?, at.u32()?);
    let has = |bit| valid & bit != 0;
    let time = |bit, now, seconds: u64, ns: u32| match (has(bit), has(now)) {
        (true, true) => Some(Time::Now),
        (true, false) => Some(Time::At(nanoseconds(seconds.cast_signed(), ns))),
        (false, _) => None,
    };
    Ok(Op::SetAttr(SetAttr {
        handle: has(fattr::FH).then_some(handle),
        mode: has(fattr::MODE).then_some(mode & 0o7777),
        uid: has(fattr::UID).then_some(uid),
        gid: has(fattr::GID).then_some(gid),
        size: has(fattr::SIZE).then_some(size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, atime_s, atime_ns),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, mtime_s, mtime_ns),
        drop_privileges: has(fattr::KILL_SUIDGID),
    }))
}

/// Times outside of what 64 bits of nanoseconds hold (the years 1677 to 2262) become the nearest that they do.
fn nanoseconds(seconds: i64, ns: u32) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(ns))
}

fn create(mut at: Reader<'_>) -> Result<Create, Errno> {
    let (flags, mode, umask) = (at.u32()?, at.u32()?, at.u32()?);
    at.skip(4)?;
    Ok(Create { name: at.name()?, flags, mode: mode & 0o7777, umask })
}

struct Page {
    handle: u64,
    offset: u64,
    len: u32,
    flags: u32,
}

fn page(mut at: Reader<'_>) -> Result<Page, Errno> {
    let (handle, offset, len) = (at.u64()?, at.u64()?, at.u32()?);
    at.skip(12)?;
    Ok(Page { handle, offset, len, flags: at.u32()? })
}

fn write(mut at: Reader<'_>, body: &Bytes) -> Result<Op, Errno> {
    let (handle, offset, len, write_flags) = (at.u64()?, at.u64()?, at.u32()?, at.u32()?);
    at.skip(8)?;
    let flags = at.u32()?;
    at.skip(4)?;
    let data = at.rest().get(..len as usize).ok_or(Errno::INVAL)?;
    Ok(Op::Write { handle, offset, data: body.slice_ref(data), write_flags, flags })
}

fn lock(mut at: Reader<'_>) -> Result<LockAsk, Errno> {
    let (handle, owner, start, last) = (at.u64()?, at.u64()?, at.u64()?, at.u64()?);
    let (kind, pid, flags) = (at.u32()?, at.u32()?, at.u32()?);
    Ok(LockAsk { handle, owner, start, last, kind, pid, flock: flags & flag::LK_FLOCK != 0 })
}
