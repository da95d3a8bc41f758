//! A server as a child process.

use rustix::process::{Pid, Signal, kill_process};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fs, io};
use thiserror::Error;

/// How long a server may take to answer: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);

/// A server did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its program is not on this machine.
    #[error("{program} is not installed: run `cargo xtask setup` (Debian's package {package})")]
    Missing {
        /// The program.
        program: &'static str,
        /// Where it comes from.
        package: &'static str,
    },
    /// Files or processes of this machine.
    #[error("{what}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended at once, or did not answer in time.
    #[error("{what}; its log ends with:\n{log}")]
    Silent {
        /// Which server.
        what: String,
        /// The end of its log.
        log: String,
    },
}

pub(crate) fn system<T>(what: impl Into<String>, result: io::Result<T>) -> Result<T, StartError> {
    result.map_err(|source| StartError::System { what: what.into(), source })
}

/// A free port of loopback. Somebody else may take it before it is used.
pub(crate) fn free_port() -> Result<u16, StartError> {
    let bound = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    system("looking for a free port", bound).map(|addr| addr.port())
}

/// True for root, who has to become somebody else for PostgreSQL.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A running server. Dropped, it is killed.
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `words` with its output in `log`, as `user` where one is given and possible.
    pub(crate) fn start(words: &[&str], user: Option<&str>, log: &Path) -> Result<Self, StartError> {
        let file = || fs::OpenOptions::new().create(true).append(true).open(log);
        let mut command = Command::new("setpriv");
        // A test that is killed does not leave its servers behind.
        command.args(["--pdeathsig", "KILL"]);
        if let Some(user) = user.filter(|_| is_root()) {
            command.args(["--reuid", user, "--regid", user, "--init-groups"]);
        }
        command.args(words).current_dir("/").stdin(Stdio::null());
        let (out, err) = (system("opening a log", file())?, system("opening a log", file())?);
        let child = system(format!("starting {}", words[0]), command.stdout(out).stderr(err).spawn())?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Waits until `ready` says so.
    pub(crate) fn wait(&mut self, what: &str, mut ready: impl FnMut() -> bool) -> Result<(), StartError> {
        let begun = Instant::now();
        while !ready() {
            let ended = matches!(self.child.try_wait(), Ok(Some(_)));
            if ended || begun.elapsed() > PATIENCE {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(12).collect();
                let log = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
                let what = format!("{what} {}", if ended { "ended at once" } else { "does not answer" });
                return Err(StartError::Silent { what, log });
            }
            sleep(POLL);
        }
        Ok(())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(mut self, signal: Signal) {
        self.signal(signal);
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
