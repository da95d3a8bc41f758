//! An etcd cluster on loopback.

use crate::http::ask;
use crate::process::{Server, StartError, free_port, system};
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const PROGRAM: &str = "etcd";

struct Member {
    client: u16,
    peer: u16,
    server: Option<Server>,
}

/// Members of etcd that form a cluster.
pub struct Etcd {
    dir: TempDir,
    members: Vec<Member>,
    flags: Vec<String>,
}

impl Etcd {
    /// Starts so many members, with further flags for each, and waits until they have a leader.
    ///
    /// # Errors
    /// etcd is not installed, or does not start.
    pub fn start(count: usize, flags: &[&str]) -> Result<Self, StartError> {
        let installed = Command::new(PROGRAM).arg("--version").output().is_ok();
        if !installed {
            return Err(StartError::Missing { program: PROGRAM, package: "etcd-server" });
        }
        let dir = system("making a directory", tempfile::tempdir())?;
        let member = |_| Ok(Member { client: free_port()?, peer: free_port()?, server: None });
        let members = (0..count).map(member).collect::<Result<Vec<_>, StartError>>()?;
        let mut etcd = Self { dir, members, flags: flags.iter().map(|flag| (*flag).to_owned()).collect() };
        for index in 0..count {
            etcd.run(index)?;
        }
        for index in 0..count {
            etcd.wait(index)?;
        }
        Ok(etcd)
    }

    fn run(&mut self, index: usize) -> Result<(), StartError> {
        let home = self.dir.path().join(format!("m{index}"));
        system("making a directory", fs::create_dir_all(&home))?;
        let at = |port: u16| format!("http://127.0.0.1:{port}");
        let named = self.members.iter().enumerate().map(|(index, member)| format!("m{index}={}", at(member.peer)));
        let cluster = named.collect::<Vec<_>>().join(",");
        let member = &self.members[index];
        let (client, peer) = (at(member.client), at(member.peer));
        let name = format!("m{index}");
        let data = home.join("data");
        let data = data.to_string_lossy();
        let state = if Path::new(&*data).join("member").is_dir() { "existing" } else { "new" };
        let mut words = vec![
            PROGRAM,
            "--name",
            &name,
            "--data-dir",
            &data,
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &cluster,
            "--initial-cluster-state",
            state,
            "--logger",
            "zap",
            "--log-level",
            "warn",
        ];
        words.extend(self.flags.iter().map(String::as_str));
        self.members[index].server = Some(Server::start(&words, None, &home.join("log"))?);
        Ok(())
    }

    fn wait(&mut self, index: usize) -> Result<(), StartError> {
        let member = &mut self.members[index];
        let port = member.client;
        let server = member.server.as_mut().expect("it was started");
        server.wait("etcd", || {
            ask(port, "GET", "/health", "").is_some_and(|answer| answer.contains("\"health\":\"true\""))
        })
    }

    /// `host:port` of each member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("127.0.0.1:{}", member.client)).collect()
    }

    /// The cluster as the URL of an engine.
    pub fn url(&self, prefix: &str) -> String {
        format!("etcd://{}/{prefix}", self.endpoints().join(","))
    }

    /// Index of the leader, if one is known.
    pub fn leader(&self) -> Option<usize> {
        let status = |member: &Member| ask(member.client, "POST", "/v3/maintenance/status", "{}");
        let field = |answer: &str, name: &str| {
            let (_, behind) = answer.split_once(&format!("\"{name}\":\""))?;
            behind.split('"').next().map(str::to_owned)
        };
        let running = self.members.iter().enumerate().filter(|(_, member)| member.server.is_some());
        running.into_iter().find_map(|(index, member)| {
            let answer = status(member)?;
            (field(&answer, "leader")? == field(&answer, "member_id")?).then_some(index)
        })
    }

    /// Kills a member at once.
    pub fn kill(&mut self, index: usize) {
        if let Some(server) = self.members[index].server.take() {
            server.end(Signal::KILL);
        }
    }

    /// Stops a member in its tracks, or lets it go on: as a machine that hangs.
    pub fn freeze(&self, index: usize, frozen: bool) {
        if let Some(server) = &self.members[index].server {
            server.signal(if frozen { Signal::STOP } else { Signal::CONT });
        }
    }

    /// Starts a member that was killed, with its data, and waits until it serves.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self, index: usize) -> Result<(), StartError> {
        self.run(index)?;
        self.wait(index)
    }

    /// Kills all members and starts them again.
    ///
    /// # Errors
    /// One does not start.
    pub fn restart_all(&mut self) -> Result<(), StartError> {
        (0..self.members.len()).for_each(|index| self.kill(index));
        for index in 0..self.members.len() {
            self.run(index)?;
        }
        (0..self.members.len()).try_for_each(|index| self.wait(index))
    }

    /// Posts to the JSON side of etcd's own interface; the answer.
    pub fn post(&self, path: &str, body: &str) -> Option<String> {
        ask(self.members.first()?.client, "POST", path, body)
    }
}
