//! A mount comes and goes: mount(2) for who may, the helper `fusermount3` for all others.

use crate::system;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType};
use std::ffi::{CString, OsStr};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The part of the file system type behind `fuse.`.
const SUBTYPE: &str = "cairn";
/// Mounts for users other than root.
const HELPER: &str = "fusermount3";

/// Why nothing was mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is nothing at the mount point.
    #[error("{}: no such mount point: {source}", path.display())]
    Missing {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The mount point is no directory.
    #[error("{}: a mount point has to be a directory", path.display())]
    NotADirectory {
        /// The mount point.
        path: PathBuf,
    },
    /// Something is mounted there.
    #[error("{}: {what} is mounted there already; unmount it first", path.display())]
    Busy {
        /// The mount point.
        path: PathBuf,
        /// What is mounted, as the mount table names it.
        what: String,
    },
    /// The kernel has no FUSE, or does not let us.
    #[error("{}: {source}; load the kernel module `fuse`, or give this container the device", system::DEVICE)]
    Device {
        /// What the system said.
        source: io::Error,
    },
    /// mount(2) refused.
    #[error("{}: cannot mount: {source}", path.display())]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The helper for users refused.
    #[error("{}: {HELPER} does not mount: {message}", path.display())]
    Helper {
        /// The mount point.
        path: PathBuf,
        /// What it said.
        message: String,
    },
    /// The kernel and this program do not understand each other.
    #[error("the kernel speaks FUSE {major}.{minor}; 7.{} or newer is needed (Linux 5.4)", super::abi::MINOR_MIN)]
    Version {
        /// The kernel's major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// The device failed before the mount answered.
    #[error("{}: the mount ended before it began: {source}", path.display())]
    Ended {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is to be mounted cannot be.
    #[error("{what}: {source}")]
    Root {
        /// The directory of CairnFS.
        what: String,
        /// Why not.
        #[source]
        source: cairn_client::Error,
    },
    /// What is to be mounted is no directory.
    #[error("{what}: only a directory can be mounted")]
    RootKind {
        /// The path in CairnFS.
        what: String,
    },
}

/// What the kernel is told about a mount.
#[derive(Clone, Debug)]
pub struct MountAsk {
    /// First column of the mount table.
    pub source: String,
    /// Others than who mounts may use it.
    pub allow_other: bool,
    /// The kernel checks permission bits.
    pub default_permissions: bool,
    /// Flags of mount(2).
    pub flags: MountFlags,
    /// Bytes of one read at most.
    pub max_read: u32,
}

/// Somebody may enter it, and it is free.
///
/// # Errors
/// `Missing`, `NotADirectory`, `Busy`.
pub fn check_mount_point(path: &Path) -> Result<PathBuf, MountError> {
    let missing = |source| MountError::Missing { path: path.to_path_buf(), source };
    // A dead mount cannot be looked at, but it is in the table.
    let canonical = system::canonical(path);
    let known = canonical.as_deref().unwrap_or(path);
    if let Some(what) = mounted_at(known) {
        return Err(MountError::Busy { path: path.to_path_buf(), what });
    }
    let canonical = canonical.map_err(missing)?;
    if !system::is_directory(&canonical).map_err(missing)? {
        return Err(MountError::NotADirectory { path: path.to_path_buf() });
    }
    Ok(canonical)
}

/// What is mounted at a path: source and type, as the mount table has them.
pub fn mounted_at(path: &Path) -> Option<String> {
    let table = system::read_text("/proc/self/mounts").ok()?;
    let wanted = escaped(path.as_os_str());
    let line = table.lines().rfind(|line| line.split(' ').nth(1) == Some(wanted.as_str()))?;
    let mut columns = line.split(' ');
    let (source, kind) = (columns.next()?, columns.nth(1)?);
    Some(format!("{source} ({kind})"))
}

/// A path as the mount table writes it.
fn escaped(path: &OsStr) -> String {
    let mut text = Vec::with_capacity(path.len());
    for byte in path.as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => text.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
            byte => text.push(*byte),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Lets the kernel read ahead further than it does of itself. Only root may; without it, reading is slower.
pub fn read_ahead(path: &Path, kib: u32) {
    let table = system::read_text("/proc/self/mountinfo").unwrap_or_default();
    let wanted = escaped(path.as_os_str());
    let line = table.lines().rfind(|line| line.split(' ').nth(4) == Some(wanted.as_str()));
    let Some(device) = line.and_then(|line| line.split(' ').nth(2)) else { return };
    if let Err(error) = system::write_text(format!("/sys/class/bdi/{device}/read_ahead_kb"), &kib.to_string()) {
        tracing::debug!(device, "the kernel reads ahead little: {error}");
    }
}

/// Mounts; the device that is returned speaks for the mount.
///
/// # Errors
/// `Device`, `Refused`, `Helper`.
pub fn mount(path: &Path, ask: &MountAsk) -> Result<OwnedFd, MountError> {
    if !rustix::process::geteuid().is_root() {
        return mount_by_helper(path, ask);
    }
    let device = system::open_device().map_err(|source| MountError::Device { source })?;
    let refused = |source: io::Error| MountError::Refused { path: path.to_path_buf(), source };
    let mut options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    if ask.allow_other {
        options.push_str(",allow_other");
    }
    if ask.default_permissions {
        options.push_str(",default_permissions");
    }
    options.push_str(&format!(",max_read={}", ask.max_read));
    let options = CString::new(options).map_err(|error| refused(error.into()))?;
    let kind = format!("fuse.{SUBTYPE}");
    rustix::mount::mount(ask.source.as_str(), path, kind.as_str(), ask.flags, Some(options.as_c_str()))
        .map_err(|errno| refused(errno.into()))?;
    Ok(device.into())
}

fn mount_by_helper(path: &Path, ask: &MountAsk) -> Result<OwnedFd, MountError> {
    let failed = |message: String| MountError::Helper { path: path.to_path_buf(), message };
    let system = |errno: Errno| failed(errno.to_string());
    // Inherited by the helper on purpose: it sends the open device back through it.
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None).map_err(system)?;
    let mut options = format!("fsname={},subtype={SUBTYPE},max_read={}", ask.source, ask.max_read);
    let flags = [
        (ask.allow_other, ",allow_other"),
        (ask.default_permissions, ",default_permissions"),
        (ask.flags.contains(MountFlags::RDONLY), ",ro"),
        (ask.flags.contains(MountFlags::NOEXEC), ",noexec"),
        (ask.flags.contains(MountFlags::NOATIME), ",noatime"),
    ];
    flags.iter().filter(|(set, _)| *set).for_each(|(_, text)| options.push_str(text));
    let helper = Command::new(HELPER)
        .args(["-o", &options, "--"])
        .arg(path)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let helper = helper.map_err(|error| failed(format!("{error}; install the package fuse3, or mount as root")))?;
    drop(theirs);
    let received = receive_device(&ours);
    let output = helper.wait_with_output().map_err(|error| failed(error.to_string()))?;
    match received {
        Ok(Some(device)) if output.status.success() => Ok(device),
        _ => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// The descriptor that comes through a socket.
fn receive_device(socket: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    let mut byte = [0_u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    Ok(ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

/// Unmounts, at once for newcomers; who is inside goes on until done.
///
/// # Errors
/// Of umount(2) and of the helper.
pub fn unmount(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => {
            let output = Command::new(HELPER).args(["-u", "-z", "--"]).arg(path).output()?;
            match output.status.success() {
                true => Ok(()),
                false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
            }
        }
        Err(errno) => Err(errno.into()),
    }
}
