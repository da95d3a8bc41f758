//! A cluster of real processes for the length of a run: `cairn up --processes` on free ports, in a scratch directory.

use crate::cpu::Group;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Nodes, and replicas of every block.
pub const NODES: u16 = 3;
const READY_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Below the range from which Linux takes ports for outgoing connections (ip_local_port_range, ip(7)).
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const PORT_STRIDE: u16 = 16;
/// Lines of a log that are shown when the cluster fails.
const LOG_LINES_SHOWN: usize = 20;

/// A running cluster; dropping stops it.
pub struct Cluster {
    up: Child,
    data: PathBuf,
    base_port: u16,
}

impl Cluster {
    /// Brings it up and waits until it takes files.
    ///
    /// # Errors
    /// It did not say `ready` in time; the message ends with what it said.
    pub fn start(cairn: &Path, dir: &Path) -> Result<Self> {
        let data = dir.join("cluster");
        fs::create_dir(&data).with_context(|| format!("making {}", data.display()))?;
        let base_port = free_ports()?;
        let log = fs::File::create(data.join("up.log")).context("making the log of the cluster")?;
        let mut command = Command::new(cairn);
        command.arg("up").arg("--processes").arg("--data").arg(&data);
        command.args(["--nodes", &NODES.to_string(), "--replicas", &NODES.to_string()]);
        command.args(["--base-port", &base_port.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let up = command.spawn().with_context(|| format!("starting {}", cairn.display()))?;
        let mut cluster = Self { up, data, base_port };
        let stdout = cluster.up.stdout.take().context("the cluster has no standard output")?;
        cluster.wait_ready(stdout).with_context(|| format!("`cairn up` failed: {}", cluster.log_tail()))?;
        Ok(cluster)
    }

    fn wait_ready(&mut self, stdout: ChildStdout) -> Result<()> {
        let (sender, ready) = mpsc::channel();
        // Reads to the end, so that the cluster never waits for a reader; ends with the cluster.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.trim() == "ready" {
                    let _ = sender.send(());
                }
            }
        });
        match ready.recv_timeout(READY_MAX) {
            Ok(()) => Ok(()),
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("not ready within {} s", READY_MAX.as_secs()),
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("it ended before it was ready"),
        }
    }

    /// The address of metadata.
    pub fn meta(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.base_port).into()
    }

    /// The server processes by role.
    ///
    /// # Errors
    /// A role has no process any more.
    pub fn groups(&self) -> Result<Vec<Group>> {
        let nodes = (1..=NODES).map(|i| self.pid(&format!("node-{i}"))).collect::<Result<_>>()?;
        Ok(vec![Group { name: "meta", pids: vec![self.pid("meta-1")?] }, Group { name: "nodes", pids: nodes }])
    }

    fn pid(&self, role: &str) -> Result<u32> {
        let path = self.data.join("run").join(format!("{role}.pid"));
        let text = fs::read_to_string(&path).with_context(|| format!("{role} does not run: {}", path.display()))?;
        text.trim().parse().with_context(|| format!("{} holds no process id", path.display()))
    }

    /// Stops it and waits.
    ///
    /// # Errors
    /// It did not end cleanly.
    pub fn stop(mut self) -> Result<()> {
        let status = self.terminate()?;
        ensure!(status, "the cluster did not stop cleanly: {}", self.log_tail());
        Ok(())
    }

    /// True when it ended by itself, and well.
    fn terminate(&mut self) -> Result<bool> {
        if self.up.try_wait().context("waiting for the cluster")?.is_none() {
            let pid = Pid::from_child(&self.up);
            kill_process(pid, Signal::TERM).context("stopping the cluster")?;
        }
        let begin = Instant::now();
        while begin.elapsed() < STOP_MAX {
            if let Some(status) = self.up.try_wait().context("waiting for the cluster")? {
                return Ok(status.success());
            }
            std::thread::sleep(POLL);
        }
        Ok(false)
    }

    /// Kills what is left: only processes that name our data directory, so that no reused id is hit.
    fn kill_rest(&mut self) {
        let roles = (1..=NODES).map(|i| format!("node-{i}")).chain(["meta-1".to_owned()]);
        for pid in roles.filter_map(|role| self.pid(&role).ok()) {
            let is_ours = fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                let dir = self.data.as_os_str().as_encoded_bytes();
                line.windows(dir.len()).any(|window| window == dir)
            });
            if let Some(pid) = Pid::from_raw(pid.cast_signed()).filter(|_| is_ours) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.up.kill();
        let _ = self.up.wait();
    }

    /// The last lines that the cluster wrote, in one.
    fn log_tail(&self) -> String {
        let mut logs = vec![self.data.join("up.log")];
        logs.extend(fs::read_dir(self.data.join("run")).into_iter().flatten().flatten().map(|entry| entry.path()));
        let logs = logs.iter().filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        let lines: Vec<String> = logs.flat_map(|path| last_lines(path)).collect();
        if lines.is_empty() { "it said nothing".to_owned() } else { lines.join(" | ") }
    }
}

fn last_lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].iter().map(|line| (*line).to_owned()).collect()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.terminate();
        self.kill_rest();
    }
}

/// The first of a row of ports, one for metadata and each node, of which none is in use.
fn free_ports() -> Result<u16> {
    let count = (PORTS.end - PORTS.start) / PORT_STRIDE;
    // Runs side by side begin their search at different places.
    let first = (std::process::id() % u32::from(count)) as u16;
    let candidates = (0..count).map(|i| PORTS.start + (first + i) % count * PORT_STRIDE);
    let is_free = |port: &u16| (0..=NODES).all(|i| TcpListener::bind((Ipv4Addr::LOCALHOST, port + i)).is_ok());
    candidates.into_iter().find(is_free).context("no free ports on loopback")
}

/// The program `cairn`: as given, else beside this program.
///
/// # Errors
/// There is none.
pub fn find_cairn(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe().context("finding this program")?.with_file_name("cairn"),
    };
    ensure!(
        path.is_file(),
        "there is no program {}; build it with `cargo build --release -p cairnfs` or say where it is with --cairn",
        path.display()
    );
    Ok(path)
}
