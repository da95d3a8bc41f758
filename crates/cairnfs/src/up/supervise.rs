//! The children of `cairn up --processes`: starts them, tells when one dies, stops them in order.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{ChildStdout, Command},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    claim::remove_pid_file,
    layout::{Layout, Role},
    ready,
};
use crate::{args, failure::Failure, output::say, signals::Signals, text};

/// What a child prints when it serves.
pub const READY_LINE: &str = "ready";
/// Time that children have to stop by themselves.
const STOP_MAX: Duration = Duration::from_secs(20);
/// Bytes at the end of a log that are shown when a child dies at the start.
const LOG_TAIL: u64 = 2048;

/// See the module. Dropped without [`Supervisor::stop`], it leaves its children alone.
pub struct Supervisor {
    layout: Layout,
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
    children: Vec<Child>,
    exits: JoinSet<(usize, io::Result<ExitStatus>)>,
}

struct Child {
    role: Role,
    process: u32,
    alive: bool,
}

impl Supervisor {
    /// Nothing is started yet.
    pub fn new(layout: Layout, program: PathBuf, global: &args::Global) -> Self {
        let mut environment = Vec::new();
        // Their logs are files of their own: there is room for more than warnings.
        let level = if global.verbose > 1 { "debug" } else { "info" };
        environment.push(("CAIRN_LOG", global.log.clone().unwrap_or_else(|| level.to_owned())));
        if let Some(config) = &global.config {
            let config = std::path::absolute(config).unwrap_or_else(|_| config.clone());
            environment.push(("CAIRN_CONFIG", config.to_string_lossy().into_owned()));
        }
        if let Some(engine) = &layout.engine {
            // Not as an argument: it may hold a password, and arguments are for everybody to see.
            environment.push(("CAIRN_ENGINE", engine.secret().to_owned()));
        }
        Self { layout, program, environment, children: Vec::new(), exits: JoinSet::new() }
    }

    /// Starts all children, calls `ready` when files can be written, and then tells which child dies. Returns when a
    /// signal is received.
    ///
    /// # Errors
    /// A child does not start, the cluster does not become ready in time, or all children are dead. The others run on:
    /// stop them.
    pub async fn run(
        &mut self,
        signals: &mut Signals,
        ready_max: Duration,
        ready: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + ready_max;
        let mut starting = JoinSet::new();
        for role in self.layout.roles() {
            // New nodes come one after the other, so that they are numbered in order; the others together, because
            // each has an index to rebuild.
            let alone = role.is_meta() || !self.layout.dir(role).exists();
            starting.spawn(says_ready(self.spawn(role)?));
            if !alone && role != Role::Node(self.layout.nodes) {
                continue;
            }
            let all_ready = async { while starting.join_next().await.is_some() {} };
            tokio::select! {
                () = all_ready => {}
                (index, status) = next_exit(&mut self.exits) => return Err(self.died_at_start(index, &status)),
                () = tokio::time::sleep_until(deadline) => return Err(Failure::at(role, "does not become ready")),
                () = signals.received() => return Ok(()),
            }
        }
        let layout = self.layout.clone();
        tokio::select! {
            waited = ready::wait(&layout, deadline - Instant::now()) => waited?,
            (index, status) = next_exit(&mut self.exits) => return Err(self.died_at_start(index, &status)),
            () = signals.received() => return Ok(()),
        }
        ready()?;
        loop {
            let (index, status) = tokio::select! {
                () = signals.received() => return Ok(()),
                exit = next_exit(&mut self.exits) => exit,
            };
            self.buried(index);
            let Child { role, process, .. } = self.children[index];
            say(format_args!(
                "cairn up: {role} (process {process}) {}; it is not started again. To do so: {}",
                text::ended(&status),
                self.layout.command_line(&self.program, role)
            ));
            if !self.children.iter().any(|child| child.alive) {
                return Err(Failure::at("the cluster", "all its processes are dead"));
            }
        }
    }

    fn spawn(&mut self, role: Role) -> Result<ChildStdout, Failure> {
        let path = self.layout.log_file(role);
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(|error| Failure::io(&path, &error))?;
        let spawned = Command::new(&self.program)
            .args(self.layout.role_args(role))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // A Ctrl-C on the terminal is for us; we stop the children in order.
            .process_group(0)
            .spawn();
        let mut child = spawned.map_err(|error| Failure::at(role, format_args!("does not start: {error}")))?;
        let stdout = child.stdout.take().expect("it is piped");
        let process = child.id().expect("nobody has waited for it yet");
        let index = self.children.len();
        self.children.push(Child { role, process, alive: true });
        self.exits.spawn(async move { (index, child.wait().await) });
        Ok(stdout)
    }

    fn buried(&mut self, index: usize) {
        let child = &mut self.children[index];
        child.alive = false;
        remove_pid_file(&self.layout.pid_file(child.role), child.process);
    }

    fn died_at_start(&mut self, index: usize, status: &io::Result<ExitStatus>) -> Failure {
        self.buried(index);
        let role = self.children[index].role;
        let log = self.layout.log_file(role);
        let tail = tail(&log).unwrap_or_default();
        Failure::at(
            role,
            format_args!("{} at the start; the end of {}:\n{tail}", text::ended(status), text::path(&log)),
        )
    }

    /// Stops the children that live: the nodes, then metadata. One that does not stop in time is killed.
    pub async fn stop(&mut self) {
        self.stop_some(|role| !role.is_meta()).await;
        self.stop_some(|_| true).await;
    }

    async fn stop_some(&mut self, wanted: impl Fn(Role) -> bool) {
        self.signal(&wanted, Signal::TERM);
        let deadline = Instant::now() + STOP_MAX;
        while self.lives(&wanted) {
            match timeout_at(deadline, next_exit(&mut self.exits)).await {
                Ok((index, _)) => self.buried(index),
                Err(_) => break,
            }
        }
        for Child { role, process, .. } in self.children.iter().filter(|child| child.alive && wanted(child.role)) {
            let seconds = STOP_MAX.as_secs();
            say(format_args!("cairn up: {role} (process {process}) did not stop within {seconds} s and is killed"));
        }
        self.signal(&wanted, Signal::KILL);
        while self.lives(&wanted) {
            let (index, _) = next_exit(&mut self.exits).await;
            self.buried(index);
        }
    }

    /// Kills the children that live, without waiting.
    pub fn kill(&self) {
        self.signal(&|_| true, Signal::KILL);
    }

    fn lives(&self, wanted: &impl Fn(Role) -> bool) -> bool {
        self.children.iter().any(|child| child.alive && wanted(child.role))
    }

    fn signal(&self, wanted: &impl Fn(Role) -> bool, signal: Signal) {
        for child in self.children.iter().filter(|child| child.alive && wanted(child.role)) {
            let process = i32::try_from(child.process).ok().and_then(Pid::from_raw);
            // It may have ended by itself this moment.
            let _ = process.map(|process| kill_process(process, signal));
        }
    }
}

/// Returns when a child says that it serves; never, if it ends before.
async fn says_ready(stdout: ChildStdout) {
    let mut lines = BufReader::new(stdout).lines();
    loop {
        match lines.next_line().await {
            Ok(Some(line)) if line == READY_LINE => return,
            Ok(Some(_)) => {}
            // Its end is told by its exit.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

/// The next child that ended. Waits for ever when there is none.
async fn next_exit(exits: &mut JoinSet<(usize, io::Result<ExitStatus>)>) -> (usize, io::Result<ExitStatus>) {
    match exits.join_next().await {
        Some(Ok(exit)) => exit,
        Some(Err(crash)) => std::panic::resume_unwind(crash.into_panic()),
        None => std::future::pending().await,
    }
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let len = fs::metadata(path)?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL)))?;
    let mut tail = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut tail)?;
    let tail = String::from_utf8_lossy(&tail);
    // The first line may be cut.
    let cut = if len > LOG_TAIL { tail.split_once('\n').map_or("", |(_, rest)| rest) } else { &tail };
    Ok(cut.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_has_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(tail(&path).unwrap(), "one\ntwo");
        fs::write(&path, format!("{}\nlast\n", "x".repeat(5000))).unwrap();
        assert_eq!(tail(&path).unwrap(), "last");
    }
}
