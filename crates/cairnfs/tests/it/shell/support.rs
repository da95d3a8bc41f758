//! Runs `cairn`, and clusters made by `cairn up`.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use cairn_testbed::PG_PASSWORD;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// The program, free of the settings of whoever runs the tests.
pub fn cairn() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"CAIRN_") {
            command.env_remove(name);
        }
    }
    command.env("CAIRN_CONFIG", "/dev/null").stdin(Stdio::null());
    command
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let code = output.status.code().unwrap_or(-1);
        Self { code, stdout: output.stdout, stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
    }
}

impl Done {
    /// It worked, and had nothing to say on standard error.
    #[track_caller]
    pub fn quiet(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{self:?}");
        String::from_utf8(self.stdout).unwrap()
    }

    /// It failed with this status, and said all of this.
    #[track_caller]
    pub fn fails(self, code: i32, says: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for word in says {
            assert!(self.stderr.contains(word), "{word:?} in {self:?}");
        }
        assert!(!self.stderr.contains("panicked"), "{self:?}");
    }

    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.quiet()).unwrap()
    }
}

/// Polls until something holds.
#[track_caller]
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(POLL); // tidy: sleep-ok(polls another process)
    }
}

/// A running `cairn up` and its data. Dropped, everything is killed.
pub struct Cluster {
    pub data: PathBuf,
    pub base_port: u16,
    processes: bool,
    nodes: u16,
    metas: u16,
    /// URL of the engine that is shared; `None` = the embedded one.
    engine: Option<String>,
    up: Option<Child>,
    stdout: Option<BufReader<ChildStdout>>,
    /// What `up` printed before it was ready.
    pub greeting: String,
    /// Servers that were started by hand.
    by_hand: Vec<Child>,
    scratch: TempDir,
}

impl Cluster {
    /// Three nodes in one process.
    pub fn start() -> Self {
        Self::prepared(false, 3).started()
    }

    /// Three nodes in a process each.
    pub fn start_processes() -> Self {
        Self::prepared(true, 3).started()
    }

    /// So many nodes, at most seven, in a process each.
    pub fn start_nodes(nodes: u16) -> Self {
        Self::prepared(true, nodes).started()
    }

    /// Three nodes and so many metadata servers on one engine, in a process each.
    pub fn start_on(engine: &str, metas: u16) -> Self {
        Self::prepared_on(engine, metas).started()
    }

    /// As [`Cluster::start_on`], with a place and ports, but nothing runs yet.
    pub fn prepared_on(engine: &str, metas: u16) -> Self {
        let mut cluster = Self::prepared(true, 3);
        cluster.engine = Some(engine.to_owned());
        cluster.metas = metas;
        cluster.base_port = free_ports(0, 4, metas);
        cluster
    }

    fn prepared(processes: bool, nodes: u16) -> Self {
        let scratch = TempDir::new().unwrap();
        Self {
            data: scratch.path().join("data"),
            base_port: 0,
            processes,
            nodes,
            metas: 1,
            engine: None,
            up: None,
            stdout: None,
            greeting: String::new(),
            by_hand: Vec::new(),
            scratch,
        }
    }

    fn started(mut self) -> Self {
        // Somebody else may take a port between our look and the start.
        for attempt in 0..10 {
            self.base_port = free_ports(attempt, self.nodes + 1, self.metas);
            match self.try_up() {
                Ok(()) => return self,
                Err(complaint) => {
                    assert!(complaint.contains("is taken") || complaint.contains("in use"), "{complaint}")
                }
            }
            fs::remove_dir_all(&self.data).unwrap();
            fs::remove_file(self.path("up.log")).unwrap();
        }
        panic!("no free ports");
    }

    /// Starts `cairn up` on the same data and ports.
    pub fn up(&mut self) {
        self.try_up().unwrap();
    }

    /// As [`Cluster::up`]; on failure, what it said.
    pub fn try_up(&mut self) -> Result<(), String> {
        assert!(self.up.is_none(), "it runs");
        let log = self.path("up.log");
        let mut command = cairn();
        command.arg("up").arg("--data").arg(&self.data).args(["--base-port", &self.base_port.to_string()]);
        if self.processes {
            command.arg("--processes");
        }
        if self.nodes != 3 {
            command.args(["--nodes", &self.nodes.to_string()]);
        }
        if let Some(engine) = &self.engine {
            command.env("CAIRN_ENGINE", engine).args(["--metas", &self.metas.to_string()]);
        }
        let log_file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut up = command.stdout(Stdio::piped()).stderr(log_file).spawn().unwrap();
        let mut stdout = BufReader::new(up.stdout.take().unwrap());
        let mut greeting = String::new();
        loop {
            let mut line = String::new();
            if stdout.read_line(&mut line).unwrap() == 0 {
                up.wait().unwrap();
                return Err(self.said());
            }
            if line == "ready\n" {
                break;
            }
            greeting.push_str(&line);
        }
        self.greeting = greeting;
        self.up = Some(up);
        self.stdout = Some(stdout);
        Ok(())
    }

    /// A place for files of the test.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// What `up` has said on standard error so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.path("up.log")).unwrap_or_default()
    }

    /// Addresses of the metadata servers.
    pub fn meta(&self) -> String {
        let addrs = (1..=self.metas).map(|number| format!("127.0.0.1:{}", self.meta_port(number)));
        addrs.collect::<Vec<_>>().join(",")
    }

    /// Port of a metadata server, counted from 1.
    pub fn meta_port(&self, number: u16) -> u16 {
        if number == 1 { self.base_port } else { self.base_port + METAS_STEP + number - 1 }
    }

    /// A command that talks to this cluster.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = cairn();
        command.env("CAIRN_META", self.meta()).args(args);
        command
    }

    /// Runs a command to its end.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Done {
        self.command(args).output().unwrap().into()
    }

    /// Runs a command with this standard input.
    pub fn run_with<A: AsRef<OsStr>>(&self, stdin: &[u8], args: impl IntoIterator<Item = A>) -> Done {
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        thread::scope(|scope| {
            // A command that fails may not read it.
            scope.spawn(move || pipe.write_all(stdin).ok());
            child.wait_with_output().unwrap().into()
        })
    }

    pub fn status(&self) -> serde_json::Value {
        self.run(["status", "--json"]).json()
    }

    /// Process id of a role, from its pid file.
    pub fn pid(&self, role: &str) -> u32 {
        fs::read_to_string(self.data.join(format!("run/{role}.pid"))).unwrap().trim().parse().unwrap()
    }

    /// Process ids of all roles that have a pid file.
    pub fn pids(&self) -> Vec<u32> {
        let has_pid = |role: &String| self.data.join(format!("run/{role}.pid")).exists();
        self.roles().filter(has_pid).map(|role| self.pid(&role)).collect()
    }

    fn roles(&self) -> impl Iterator<Item = String> {
        let metas = (1..=self.metas).map(|number| format!("meta-{number}"));
        metas.chain((1..=self.nodes).map(|number| format!("node-{number}")))
    }

    /// Runs the line that `up` printed for a role, as a user would at a shell.
    pub fn start_by_hand(&mut self, role: &str) {
        let line = self.greeting.lines().find(|line| line.contains(&format!("/run/{role}.pid"))).unwrap();
        let line = line.trim().replace("PASSWORD", &PG_PASSWORD.replace(' ', "%20"));
        let mut command = Command::new("sh");
        command.env("CAIRN_CONFIG", "/dev/null").args(["-c", &format!("exec {line}")]);
        let log = fs::File::create(self.path(format!("{role}.hand"))).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn();
        let mut child = child.unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        self.by_hand.push(child);
        let mut line = String::new();
        while line != "ready\n" {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "{role} ended before it was ready");
        }
    }

    /// Sends a signal to `up` and waits for its end.
    pub fn end_up(&mut self, signal: Signal) -> ExitStatus {
        let mut up = self.up.take().unwrap();
        send(up.id(), signal);
        self.stdout = None;
        up.wait().unwrap()
    }

    /// Waits for the end of an `up` that has nothing left to wait for.
    pub fn wait_for_up(&mut self) -> ExitStatus {
        let mut rest = String::new();
        self.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        self.up.take().unwrap().wait().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut up) = self.up.take() {
            send(up.id(), Signal::KILL);
            let _ = up.wait();
        }
        for mut child in self.by_hand.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in self.pids() {
            // A pid file may name a process of ours that is gone, and its number may be somebody else's.
            let data = self.data.as_os_str().as_encoded_bytes().to_vec();
            let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if command_line.windows(data.len()).any(|window| window == data) {
                send(pid, Signal::KILL);
            }
        }
        if thread::panicking() {
            eprintln!("up said:\n{}", self.said());
            for role in self.roles() {
                let log = fs::read_to_string(self.data.join(format!("run/{role}.log"))).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                eprintln!("{role}:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
    }
}

/// Status and body of a page; `None` when nobody answers.
pub fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Sends a signal; the process may be gone.
pub fn send(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal);
}

/// Whether a process runs; one that is dead but not buried does not.
pub fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Consoles are this many ports above their servers.
pub const CONSOLE_STEP: u16 = 80;
/// Further metadata servers come behind so many ports above the first one.
const METAS_STEP: u16 = 64;

/// The first of some ports in a row that are free now, as are those of the consoles above them; at most eight. They lie
/// below those that the system gives to outgoing connections, and each test process looks elsewhere first.
fn free_ports(attempt: u32, count: u16, metas: u16) -> u16 {
    const FIRST: u32 = 10_000;
    const STEPS: u32 = 2700;
    let begin = std::process::id() + attempt * 7;
    let candidates = (begin..begin + STEPS).map(|step| (FIRST + step % STEPS * 8) as u16);
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let steps = || (0..count).chain(METAS_STEP + 1..METAS_STEP + metas);
    let free = |first: &u16| steps().map(|step| first + step).all(|port| is_free(port) && is_free(port + CONSOLE_STEP));
    candidates.into_iter().find(free).expect("some ports are free")
}
