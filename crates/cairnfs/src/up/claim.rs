//! Takes a data directory and its ports for one `cairn up`, or says who has them.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    net::{SocketAddr, TcpListener},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::layout::{Layout, Role};
use crate::{failure::Failure, text};

/// How long a process that is just ending, or was just killed, is given to let go of what we want.
pub const DYING_MAX: Duration = Duration::from_secs(3);
/// How often we look.
pub const DYING_POLL: Duration = Duration::from_millis(50);

/// Number of nodes that have data in a directory, counted from the first.
pub fn existing_nodes(data: &Path) -> u64 {
    (1..=64).take_while(|index| data.join(Role::Node(*index).to_string()).is_dir()).count() as u64
}

/// The data directory is ours until this is dropped.
#[derive(Debug)]
pub struct Claim {
    _lock: File,
}

impl Claim {
    /// Makes the directory where it is missing and takes it.
    ///
    /// # Errors
    /// Another `cairn up`, or a server that an earlier one left behind, uses the directory or a port.
    pub async fn take(layout: &Layout) -> Result<Self, Failure> {
        let run = layout.run_dir();
        fs::create_dir_all(&run).map_err(|error| Failure::io(&run, &error))?;
        let lock = lock(&layout.data, &run.join("up.lock")).await?;
        for role in layout.roles() {
            if let Some(process) = left_behind(layout, role) {
                return Err(Failure::at(
                    text::path(&layout.data),
                    format_args!(
                        "{role} still runs as process {process}, left behind by an earlier `cairn up` or \
                        started by hand (stop it: kill {process})"
                    ),
                ));
            }
        }
        for role in layout.roles() {
            wait_for_port(layout.addr(role), &role.to_string(), "--base-port").await?;
            if let Some(console) = layout.console(role) {
                wait_for_port(console, &format!("the console of {role}"), "--console").await?;
            }
        }
        Ok(Self { _lock: lock })
    }
}

/// Returns when a port is free, or says which flag chooses another.
async fn wait_for_port(addr: SocketAddr, user: &str, flag: &str) -> Result<(), Failure> {
    let mut waited = Duration::ZERO;
    while let Err(error) = TcpListener::bind(addr) {
        if error.kind() != io::ErrorKind::AddrInUse || waited >= DYING_MAX {
            return Err(port_failure(addr, user, flag, &error));
        }
        tokio::time::sleep(DYING_POLL).await;
        waited += DYING_POLL;
    }
    Ok(())
}

fn port_failure(addr: SocketAddr, user: &str, flag: &str, error: &io::Error) -> Failure {
    let trouble = match error.kind() {
        io::ErrorKind::AddrInUse => "taken",
        io::ErrorKind::PermissionDenied => "not permitted",
        _ => return Failure::at(addr, format_args!("cannot listen for {user}: {error}")),
    };
    Failure::at(addr, format_args!("port {} (for {user}) is {trouble} (choose others with {flag})", addr.port()))
}

/// Takes the lock of `cairn up`, and writes our process id into it. The file stays; what counts is who holds it.
async fn lock(data: &Path, path: &Path) -> Result<File, Failure> {
    let failed = |error| Failure::io(path, &error);
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
    let mut waited = Duration::ZERO;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if waited < DYING_MAX => {
                tokio::time::sleep(DYING_POLL).await;
                waited += DYING_POLL;
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let read = Read::by_ref(&mut file).take(20).read_to_string(&mut holder);
                let holder = if read.is_ok() { format!(", process {}", holder.trim()) } else { String::new() };
                return Err(Failure::at(text::path(data), format_args!("is in use by another `cairn up`{holder}")));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(failed)?;
    Ok(file)
}

/// The process that still serves a role's directory, judged by its pid file and its command line.
fn left_behind(layout: &Layout, role: Role) -> Option<u32> {
    let process: u32 = fs::read_to_string(layout.pid_file(role)).ok()?.trim().parse().ok()?;
    let command_line = fs::read(format!("/proc/{process}/cmdline")).ok()?;
    let dir = layout.dir(role);
    let serves = command_line.split(|&byte| byte == 0).any(|word| word == dir.as_os_str().as_bytes());
    serves.then_some(process)
}

/// A file with our process id, there as long as this lives.
#[derive(Debug)]
pub struct PidFile(PathBuf);

impl PidFile {
    /// # Errors
    /// The file cannot be written.
    pub fn write(path: PathBuf) -> Result<Self, Failure> {
        fs::write(&path, format!("{}\n", std::process::id())).map_err(|error| Failure::io(&path, &error))?;
        Ok(Self(path))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        remove_pid_file(&self.0, std::process::id());
    }
}

/// Removes a pid file, unless it names another process by now.
pub fn remove_pid_file(path: &Path, process: u32) {
    if fs::read_to_string(path).is_ok_and(|content| content.trim().parse() == Ok(process)) {
        // If it cannot be removed, the next start finds that the process is gone.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_removed_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pid");
        drop(PidFile::write(path.clone()).unwrap());
        assert!(!path.exists());
        let ours = PidFile::write(path.clone()).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(ours);
        assert!(path.exists(), "it is another's by now");
    }

    #[test]
    fn nodes_are_counted_from_the_first() {
        let dir = tempfile::tempdir().unwrap();
        for index in [1, 2, 4] {
            fs::create_dir(dir.path().join(Role::Node(index).to_string())).unwrap();
        }
        assert_eq!(existing_nodes(dir.path()), 2);
    }

    #[tokio::test]
    async fn a_directory_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("up.lock");
        let held = lock(dir.path(), &path).await.unwrap();
        let refused = lock(dir.path(), &path).await.unwrap_err();
        let process = std::process::id().to_string();
        assert!(refused.message().is_some_and(|message| message.contains(&process)), "{refused:?}");
        drop(held);
        lock(dir.path(), &path).await.unwrap();
    }
}
