//! A PostgreSQL server on loopback.

use crate::process::{Server, StartError, free_port, is_root, system};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const USER: &str = "postgres";
/// The password of the user `postgres`.
pub const PG_PASSWORD: &str = "open sesame";

/// A PostgreSQL server that writes to its disk as in production.
pub struct Postgres {
    dir: TempDir,
    bin: PathBuf,
    port: u16,
    settings: Vec<String>,
    server: Option<Server>,
}

/// The newest server of those that are installed.
fn binaries() -> Result<PathBuf, StartError> {
    let missing = StartError::Missing { program: "postgres", package: "postgresql" };
    let Ok(versions) = fs::read_dir("/usr/lib/postgresql") else { return Err(missing) };
    let with_server = |dir: fs::DirEntry| {
        let bin = dir.path().join("bin");
        let version = dir.file_name().to_string_lossy().parse::<u32>().ok()?;
        bin.join("postgres").is_file().then_some((version, bin))
    };
    versions.flatten().filter_map(with_server).max().map(|(_, bin)| bin).ok_or(missing)
}

/// The ids of the user that the package makes.
fn ids() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2).map(|field| field.parse().ok());
    Some((fields.next()??, fields.next()??))
}

impl Postgres {
    /// Makes a database and starts a server on it, with further settings (`name=value`), and waits until it answers.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or does not start.
    pub fn start(settings: &[&str]) -> Result<Self, StartError> {
        let bin = binaries()?;
        let dir = system("making a directory", tempfile::tempdir())?;
        let password = dir.path().join("password");
        system("writing a file", fs::write(&password, PG_PASSWORD))?;
        if is_root() {
            let (user, group) = ids().ok_or(StartError::Missing { program: "postgres", package: "postgresql" })?;
            for path in [dir.path(), &password] {
                system("giving a directory to postgres", chown(path, Some(user), Some(group)))?;
            }
        }
        let mut command = Command::new(if is_root() { "setpriv" } else { "env" });
        if is_root() {
            command.args(["--reuid", USER, "--regid", USER, "--init-groups"]);
        }
        command.arg(bin.join("initdb")).arg("-D").arg(dir.path().join("data"));
        command.args(["--no-sync", "-A", "scram-sha-256", "-U", USER, "-E", "UTF8", "--locale=C", "--pwfile"]);
        let made = system("running initdb", command.arg(&password).current_dir("/").output())?;
        if !made.status.success() {
            let log = String::from_utf8_lossy(&made.stderr).into_owned();
            return Err(StartError::Silent { what: "initdb failed".into(), log });
        }
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut postgres = Self { dir, bin, port: free_port()?, settings, server: None };
        postgres.run()?;
        Ok(postgres)
    }

    fn run(&mut self) -> Result<(), StartError> {
        let data = self.dir.path().join("data");
        let program = self.bin.join("postgres");
        let sockets = format!("unix_socket_directories={}", self.dir.path().display());
        let port = self.port.to_string();
        let mut words = vec![word(&program), "-D", word(&data), "-p", &port];
        let fixed = ["listen_addresses=127.0.0.1", &sockets, "max_connections=120", "shared_buffers=64MB"];
        for setting in fixed.into_iter().chain(self.settings.iter().map(String::as_str)) {
            words.extend(["-c", setting]);
        }
        let mut server = Server::start(&words, Some(USER), &self.dir.path().join("log"))?;
        let mut ready = Command::new(self.bin.join("pg_isready"));
        ready.args(["-q", "-h", "127.0.0.1", "-p", &port]);
        server.wait("PostgreSQL", || ready.status().is_ok_and(|status| status.success()))?;
        self.server = Some(server);
        Ok(())
    }

    /// `host:port` of the server.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A table of the server as the URL of an engine.
    pub fn url(&self, table: &str) -> String {
        self.url_at(&self.addr(), table)
    }

    /// As [`Postgres::url`], reached at another address.
    pub fn url_at(&self, addr: &str, table: &str) -> String {
        let password = PG_PASSWORD.replace(' ', "%20");
        format!("postgres://{USER}:{password}@{addr}/postgres?table={table}")
    }

    /// Ends the server as a crash would; its data stay.
    pub fn crash(&mut self) {
        if let Some(server) = self.server.take() {
            server.end(Signal::QUIT);
        }
    }

    /// Starts a server that crashed, and waits until it has recovered.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self) -> Result<(), StartError> {
        self.crash();
        self.run()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.crash();
    }
}

fn word(path: &Path) -> &str {
    path.to_str().expect("paths of ours are text")
}
