//! A cluster whose processes show each other certificates.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::support::{Done, cairn};

/// Servers that are started one by one, and the directory with everything of theirs.
struct Scene {
    dir: TempDir,
    servers: Vec<Child>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn run(command: &mut Command) -> Done {
    command.stdin(Stdio::null()).output().unwrap().into()
}

impl Scene {
    fn new() -> Self {
        let scene = Self { dir: tempfile::tempdir().unwrap(), servers: Vec::new() };
        run(cairn().args(["cert", "init", "--ca"]).arg(scene.path("ca"))).quiet();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory with a certificate.
    fn issue(&self, role: &str, name: &str) -> PathBuf {
        let out = self.path(name);
        let said = run(cairn().args(["cert", "issue", role, name, "--ca"]).arg(self.path("ca")).arg("--out").arg(&out))
            .quiet();
        assert!(said.contains(&format!("{role} {name}, valid until ")), "{said}");
        out
    }

    /// Starts a server and waits for its `ready`; where it listens.
    fn start(&mut self, command: &mut Command) -> String {
        let mut server = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let lines = BufReader::new(server.stdout.take().unwrap()).lines();
        self.servers.push(server);
        let mut listens = String::new();
        for line in lines {
            let line = line.unwrap();
            if let Some((_, addr)) = line.split_once(" listens on ") {
                listens = addr.to_owned();
            }
            if line == "ready" {
                return listens;
            }
        }
        panic!("a server did not become ready");
    }

    fn meta(&mut self, certs: &Path) -> String {
        let data = self.path("data-meta");
        let mut command = cairn();
        command.args(["meta", "--listen", "127.0.0.1:0", "--console", "off", "--data"]).arg(data);
        self.start(command.arg("--certs").arg(certs))
    }

    fn node(&mut self, meta: &str, number: u32, certs: &Path) -> String {
        let data = self.path(&format!("data-{number}"));
        let mut command = cairn();
        command.args(["--meta", meta, "node", "--listen", "127.0.0.1:0", "--console", "off", "--data"]).arg(data);
        self.start(command.arg("--certs").arg(certs))
    }
}

#[test]
fn a_cluster_with_certificates_serves_who_has_one() {
    let mut scene = Scene::new();
    let m1 = scene.issue("meta", "m1");
    let meta = scene.meta(&m1);
    for number in 1..=3 {
        let certs = scene.issue("node", &format!("n{number}"));
        scene.node(&meta, number, &certs);
    }
    let alice = scene.issue("client", "alice");
    let at = |certs: &Path| {
        let mut command = cairn();
        command.args(["--meta", &meta]).arg("--certs").arg(certs);
        command
    };
    let content: Vec<u8> = (0..6_000_000u32).map(|index| (index % 251) as u8).collect();
    let (local, back) = (scene.path("local"), scene.path("back"));
    fs::write(&local, &content).unwrap();
    run(at(&alice).args(["put", "-q"]).arg(&local).arg("/file")).quiet();
    run(at(&alice).args(["get", "-q", "/file"]).arg(&back)).quiet();
    assert!(fs::read(&back).unwrap() == content);

    // Without a certificate, with one of another authority, and with one of another role.
    run(cairn().args(["--meta", &meta, "ls", "/"])).fails(1, &[&meta]);
    let other = Scene::new();
    let mallory = other.issue("client", "mallory");
    run(at(&mallory).args(["ls", "/"])).fails(1, &[&meta]);
    run(at(&scene.path("n1")).args(["ls", "/"])).fails(1, &[&meta, "its certificate is of a ROLE_NODE"]);
    // A storage node of another authority is not let in, however well it knows the address.
    let stranger = other.issue("node", "n4");
    let mut command = cairn();
    command.args(["--meta", &meta, "node", "--listen", "127.0.0.1:0", "--console", "off", "--data"]);
    let mut stranger =
        command.arg(scene.path("data-4")).arg("--certs").arg(stranger).stdout(Stdio::null()).spawn().unwrap();
    let nodes = run(at(&alice).args(["status", "--json"])).json()["nodes"].as_array().unwrap().len();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert_eq!(nodes, 3);

    // Renewed while they run.
    run(cairn().args(["cert", "renew", "--ca"]).arg(scene.path("ca")).args([&m1, &alice])).quiet();
    run(at(&alice).args(["ls", "/"])).quiet();
}

#[test]
fn nothing_listens_off_loopback_unless_told_so() {
    let scene = Scene::new();
    for role in ["meta", "node"] {
        let data = scene.path(role);
        let refused = run(cairn().args([role, "--listen", "0.0.0.0:0", "--data"]).arg(&data));
        refused.fails(1, &["refusing to listen on 0.0.0.0:0", "--certs", "--insecure"]);
        let nowhere = run(cairn().args([role, "--listen", "0.0.0.0:0", "--insecure", "--data"]).arg(&data));
        nowhere.fails(1, &["--advertise HOST:PORT"]);
    }
    let mut open = Scene::new();
    let data = open.path("data");
    let mut command = cairn();
    command.args(["meta", "--listen", "0.0.0.0:0", "--insecure", "--advertise", "127.0.0.1:9", "--console", "off"]);
    let listens = open.start(command.arg("--data").arg(data));
    assert!(listens.starts_with("0.0.0.0:"), "{listens}");
}

#[test]
fn certificates_are_shown_and_complained_about() {
    let scene = Scene::new();
    let certs = scene.issue("admin", "ops");
    let shown = run(cairn().args(["cert", "show", "--json"]).arg(&certs)).json();
    assert_eq!((shown["role"].as_str(), shown["name"].as_str()), (Some("admin"), Some("ops")));
    assert_eq!(shown["sha256"].as_str().map(str::len), Some(64));
    run(cairn().args(["cert", "init", "--ca"]).arg(scene.path("ca"))).fails(1, &["ca.key exists already"]);
    run(cairn().args(["cert", "issue", "boss", "x", "--ca", "a", "--out", "b"]))
        .fails(2, &["meta, node, client, admin"]);
    let issue = ["cert", "issue", "node", "a/b", "--out", "b", "--ca"];
    run(cairn().args(issue).arg(scene.path("ca"))).fails(2, &["no name of a certificate"]);
    run(cairn().args(["--certs", "/nowhere", "ls", "/"])).fails(1, &["/nowhere/tls.crt"]);
    run(cairn().args(["--certs", "/nowhere", "up"])).fails(2, &["--certs", "loopback"]);
}
