//! One server process: started, frozen, killed, started again; never left behind.

use anyhow::{Context, Result, bail, ensure};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout;

const READY_MAX: Duration = Duration::from_secs(60);
/// How long a signal may take to show in the state of a process.
const SIGNAL_MAX: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(1);
/// Lines of a log that are shown when a server fails.
const LOG_LINES_SHOWN: usize = 20;
/// Kernel ticks a second in `/proc/PID/stat` (`sysconf(_SC_CLK_TCK)`, 100 on every Linux).
const TICKS_PER_S: f64 = 100.0;

/// A program with its arguments, and the process that runs it while there is one. Dropping kills it.
pub struct Process {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    log: PathBuf,
    running: Mutex<Option<Running>>,
}

struct Running {
    child: Child,
    ready: watch::Receiver<bool>,
}

impl Process {
    /// Nothing runs yet. Standard error of all its lives goes to `log`.
    pub fn new(name: &str, program: &Path, args: Vec<OsString>, log: PathBuf) -> Self {
        Self { name: name.to_owned(), program: program.to_owned(), args, log, running: Mutex::new(None) }
    }

    /// Its role, as `node-2`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it; a former life is killed first. Returns at once.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(&self) -> Result<()> {
        self.end();
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("opening {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().with_context(|| format!("starting {}", self.program.display()))?;
        let stdout = child.stdout.take().context("it has no standard output")?;
        let (sender, ready) = watch::channel(false);
        // Reads to the end, so that the process never waits for a reader; ends with it.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.trim() == "ready" {
                    sender.send_replace(true);
                }
            }
        });
        *self.running.lock() = Some(Running { child, ready });
        Ok(())
    }

    /// Waits until it has said `ready`.
    ///
    /// # Errors
    /// It ended or took too long; the message ends with what it logged.
    pub async fn ready(&self) -> Result<()> {
        let receiver = self.running.lock().as_ref().map(|running| running.ready.clone());
        let mut receiver = receiver.with_context(|| format!("{} does not run", self.name))?;
        let ready = match timeout(READY_MAX, receiver.wait_for(|ready| *ready)).await {
            Ok(ready) => ready.is_ok(),
            Err(_) => false,
        };
        ensure!(ready, "{} did not become ready: {}", self.name, self.log_tail());
        Ok(())
    }

    /// Its process id.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        let pid = self.running.lock().as_ref().map(|running| running.child.id());
        pid.with_context(|| format!("{} does not run", self.name))
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// It did not run any more: the message ends with what it logged.
    pub fn kill(&self) -> Result<()> {
        if let Some(running) = self.running.lock().as_mut()
            && let Some(status) = running.child.try_wait().context("looking after a process")?
        {
            bail!("{} had ended by itself ({status}): {}", self.name, self.log_tail());
        }
        ensure!(self.end(), "{} does not run", self.name);
        Ok(())
    }

    /// Freezes it (SIGSTOP); its sockets stay, the kernel goes on accepting for it until its backlog is full.
    ///
    /// # Errors
    /// It does not run, or did not stop.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::STOP, "T")
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// It does not run.
    pub fn cont(&self) -> Result<()> {
        self.signal(Signal::CONT, "SRDI")
    }

    /// Sends a signal and waits until the process is in one of these states.
    fn signal(&self, signal: Signal, states: &str) -> Result<()> {
        let pid = self.pid()?;
        let raw = Pid::from_raw(pid.cast_signed()).context("a process has an id above 0")?;
        kill_process(raw, signal).with_context(|| format!("signalling {}", self.name))?;
        let begun = Instant::now();
        loop {
            let state = stat_field(pid, 0)?;
            if states.contains(&state) {
                return Ok(());
            }
            ensure!(begun.elapsed() < SIGNAL_MAX, "{} is in state {state} after {signal:?}", self.name);
            std::thread::sleep(POLL);
        }
    }

    /// Whether there was a process to end.
    fn end(&self) -> bool {
        let Some(mut running) = self.running.lock().take() else { return false };
        // Fails only when it is gone.
        let _ = running.child.kill();
        let _ = running.child.wait();
        true
    }

    /// The last lines of its log, in one.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        if tail.is_empty() { "it logged nothing".to_owned() } else { tail.join(" | ") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A field of `/proc/PID/stat` behind the name, counted from 0 (proc_pid_stat(5): 0 = state, 11 = utime).
fn stat_field(pid: u32, index: usize) -> Result<String> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let rest = text.rfind(')').map_or("", |end| &text[end + 1..]);
    rest.split_ascii_whitespace().nth(index).map(str::to_owned).with_context(|| format!("{path} has no such field"))
}

/// Processor time of a process since its start, seconds in user and kernel mode together.
///
/// # Errors
/// It does not live.
pub fn cpu_s(pid: u32) -> Result<f64> {
    let ticks = |index| -> Result<f64> { Ok(stat_field(pid, index)?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_S)
}

/// Resident memory of a process in bytes.
///
/// # Errors
/// It does not live.
pub fn rss_bytes(pid: u32) -> Result<u64> {
    let pages: u64 = stat_field(pid, 21)?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(dir: &Path, script: &str) -> Process {
        let args = vec!["-c".into(), script.into()];
        Process::new("test", Path::new("/bin/sh"), args, dir.join("log"))
    }

    #[tokio::test]
    async fn is_started_frozen_killed_and_started_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let process = process(dir.path(), "echo said >&2; echo ready; sleep 1000");
        assert!(process.kill().is_err());
        for _ in 0..2 {
            process.spawn().expect("starts");
            process.ready().await.expect("is ready");
            let pid = process.pid().expect("runs");
            process.stop().expect("stops");
            assert_eq!(stat_field(pid, 0).expect("lives"), "T");
            process.cont().expect("goes on");
            assert!(cpu_s(pid).expect("lives") < 10.0);
            assert!(rss_bytes(pid).expect("lives") > 4096);
            process.kill().expect("ends");
            assert!(cpu_s(pid).is_err());
        }
        assert_eq!(process.log_tail(), "said | said");
    }

    #[tokio::test]
    async fn one_that_ends_is_not_ready() {
        let dir = tempfile::tempdir().expect("a directory");
        let process = process(dir.path(), "echo broken >&2");
        process.spawn().expect("starts");
        assert!(process.ready().await.expect_err("ends").to_string().ends_with("broken"));
    }
}
