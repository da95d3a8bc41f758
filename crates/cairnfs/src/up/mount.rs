//! The mount of `cairn up --mount DIR`: a supervisor beside the cluster, which goes first at the end.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{failure::Failure, mount::READY_LINE, text};

/// See the module. Dropped, it is unmounted.
#[derive(Debug)]
pub struct UpMount(Child);

impl UpMount {
    /// Returns when the mount answers; blocks until then.
    ///
    /// # Errors
    /// It does not come to answer; why has been said on standard error.
    pub fn start(metas: &str, dir: &Path) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(|error| Failure::at("the program's own path", error))?;
        let mut command = Command::new(program);
        command.args(["--meta", metas, "mount", "--stage=supervise"]);
        if rustix::process::geteuid().is_root() {
            command.args(["-o", "allow_other"]);
        }
        let spawned = command.arg("--").arg(dir).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| Failure::at(text::path(dir), format_args!("no mount: {error}")))?;
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("it is piped");
        let read = BufReader::new(stdout).read_line(&mut line);
        let mount = Self(child);
        match read {
            Ok(_) if line.trim_end() == READY_LINE => Ok(mount),
            _ => Err(Failure::at(text::path(dir), "cannot be mounted at")),
        }
    }
}

impl Drop for UpMount {
    fn drop(&mut self) {
        // Whoever unmounted it ended its supervisor, too.
        if let Ok(None) = self.0.try_wait() {
            let process = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
            let _ = process.map(|process| kill_process(process, Signal::TERM));
            let _ = self.0.wait();
        }
    }
}
