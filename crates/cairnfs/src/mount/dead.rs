//! Mounts whose server is gone: finding them, and taking them away.

use std::{fs, io, path::Path, process::Command, time::Duration};

use rustix::{io::Errno, mount::UnmountFlags};

use super::table::{self, Mounted};

/// Unmounts for users other than root.
const HELPER: &str = "fusermount3";
/// A mount that does not answer for so long is not dead but slow.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Whether one of our mounts, dead or alive, is on top at a path.
///
/// # Errors
/// The mount table cannot be read.
pub fn is_mounted(point: &Path) -> io::Result<bool> {
    Ok(table::mounted_at(point)?.is_some_and(|mounted| mounted.is_ours()))
}

/// Whether a mount has no server any more. One whose server is merely slow has.
pub fn is_dead(point: &Path) -> bool {
    // Asked of the server each time, unlike attributes. A server that is stuck must not hold us: the thread that waits
    // for it ends with this process.
    let (told, heard) = std::sync::mpsc::channel();
    let path = point.to_owned();
    let asked = std::thread::Builder::new().spawn(move || {
        // Nobody may be listening any more.
        let _ = told.send(rustix::fs::statvfs(&path).err());
    });
    let answer = asked.ok().and_then(|_| heard.recv_timeout(ANSWER_MAX).ok());
    matches!(answer, Some(Some(Errno::NOTCONN | Errno::CONNABORTED)))
}

/// Takes all dead mounts of ours away from the top of a path; anything else is left alone.
///
/// # Errors
/// The system's.
pub fn clear(point: &Path) -> io::Result<()> {
    while let Some(mounted) = table::mounted_at(point)?.filter(Mounted::is_ours) {
        if !is_dead(point) {
            return Ok(());
        }
        unmount(point, How::Lazily)?;
        tracing::info!(point = %point.display(), device = mounted.minor, "took a dead mount away");
    }
    Ok(())
}

/// How to unmount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Only what nobody uses.
    IfUnused,
    /// At once for newcomers; who is inside stays until done.
    Lazily,
    /// The same, and whoever waits in it for its server gets an error (umount(2), MNT_FORCE).
    ByForce,
}

/// Unmounts what is on top at a path.
///
/// # Errors
/// The system's: `ResourceBusy` when somebody uses it.
pub fn unmount(point: &Path, how: How) -> io::Result<()> {
    let flags = match how {
        How::IfUnused => UnmountFlags::NOFOLLOW,
        How::Lazily => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
        How::ByForce => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH | UnmountFlags::FORCE,
    };
    match rustix::mount::unmount(point, flags) {
        Err(Errno::PERM) => {}
        other => return Ok(other?),
    }
    if how == How::ByForce
        && let Some(mounted) = table::mounted_at(point)?
        && let Err(error) = fs::write(mounted.abort_file(), "1")
    {
        // Its owner may, where that file system is mounted; without, it is unmounted all the same.
        tracing::warn!("the connection cannot be aborted: {error}");
    }
    let mut helper = Command::new(HELPER);
    helper.arg("-u");
    if how != How::IfUnused {
        helper.arg("-z");
    }
    let output = helper.arg("--").arg(point).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let kind = if said.contains("busy") { io::ErrorKind::ResourceBusy } else { io::ErrorKind::PermissionDenied };
    Err(io::Error::new(kind, said))
}
