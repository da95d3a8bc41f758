//! Wrong usage, wrong settings, and in which order settings count.

use std::{fs, net::TcpListener, process::Command};

use tempfile::TempDir;

use super::support::{Done, cairn};

fn run(args: &[&str]) -> Done {
    cairn().args(args).output().unwrap().into()
}

#[test]
fn wrong_usage_is_status_2() {
    run(&[]).fails(2, &["Usage"]);
    run(&["fly"]).fails(2, &["fly"]);
    run(&["ls", "--fly"]).fails(2, &["--fly"]);
    run(&["put", "x"]).fails(2, &["<DST>"]);
    run(&["ls", "relative"]).fails(2, &["cairn ls: relative: paths in CairnFS begin with `/`"]);
    run(&["mkdir", "-m", "9", "/x"]).fails(2, &["octal"]);
    run(&["up", "--nodes", "0"]).fails(2, &["1 to 64"]);
    run(&["up", "--nodes", "2", "--replicas", "3"]).fails(2, &["--replicas", "2 nodes"]);
    run(&["up", "--listen", "0.0.0.0"]).fails(2, &["loopback"]);
    run(&["up", "--meta", "127.0.0.1:1"]).fails(2, &["--meta"]);
    run(&["node"]).fails(2, &["--data"]);
    run(&["node", "--data", "/no/such", "--advertise", "host:0"]).fails(1, &["host:0", "advertise"]);
    run(&["completions", "dos"]).fails(2, &["bash", "zsh", "fish"]);
    run(&["--meta", "nonsense", "ls"]).fails(2, &["nonsense"]);
    run(&["--log", "cairn=loud", "ls"]).fails(2, &["cairn=loud", "allowed"]);
    assert_eq!(run(&["--help"]).code, 0);
    assert_eq!(run(&["--version"]).code, 0);
}

/// Runs `ls` with a settings file.
fn with_file(content: &str, change: impl FnOnce(&mut Command)) -> Done {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("cairn.toml");
    fs::write(&path, content).unwrap();
    let mut command = cairn();
    command.env("CAIRN_CONFIG", &path).arg("ls");
    change(&mut command);
    command.output().unwrap().into()
}

#[test]
fn a_wrong_key_or_value_names_itself_and_what_is_allowed() {
    with_file("jbos = 4", |_| {}).fails(2, &["cairn.toml", "line 1", "`jbos`", "`jobs`", "`meta`"]);
    with_file("\n[up]\nnodes = 100", |_| {}).fails(2, &["cairn.toml", "line 3", "wrong value 100", "1 to 64"]);
    with_file("log_format = 'xml'", |_| {}).fails(2, &["`xml`", "`text`", "`json`"]);
    with_file("meta = 5", |_| {}).fails(2, &["line 1", "string"]);
    with_file("nonsense", |_| {}).fails(2, &["cairn.toml", "line 1"]);
    with_file("", |command| {
        command.env("CAIRN_CONFIG", "/no/such.toml");
    })
    .fails(2, &["/no/such.toml", "no such settings file"]);
    with_file("", |command| {
        command.env("CAIRN_LOG_FORMAT", "xml");
    })
    .fails(2, &["xml", "text", "json"]);
}

#[test]
fn flags_come_before_the_environment_before_the_file() {
    // Nobody listens at these addresses; the message says which was tried.
    let file = "meta = '127.0.0.1:1'";
    with_file(file, |_| {}).fails(1, &["127.0.0.1:1:", "CAIRN_META"]);
    with_file(file, |command| {
        command.env("CAIRN_META", "127.0.0.1:2");
    })
    .fails(1, &["127.0.0.1:2:"]);
    with_file(file, |command| {
        command.env("CAIRN_META", "127.0.0.1:2").args(["--meta", "127.0.0.1:3"]);
    })
    .fails(1, &["127.0.0.1:3:"]);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let dir = TempDir::new().unwrap();
    let data = dir.path().to_str().unwrap();
    run(&["up", "--data", data, "--base-port", &port.to_string()])
        .fails(1, &[&format!("port {port} (for meta-1) is taken"), "--base-port"]);
    run(&["meta", "--data", data, "--listen", &format!("127.0.0.1:{port}")]).fails(1, &[&port.to_string()]);
    run(&["meta", "--data", data, "--listen", "0.0.0.0:0"]).fails(1, &["TLS"]);
    let console = port.to_string();
    run(&["up", "--data", data, "--base-port", "9990", "--console", &console])
        .fails(1, &[&format!("port {port} (for the console of meta-1) is taken"), "--console"]);
    let console = format!("127.0.0.1:{port}");
    run(&["meta", "--data", data, "--listen", "127.0.0.1:0", "--console", &console])
        .fails(1, &[&console, "--console off"]);
    run(&["node", "--data", data, "--listen", "127.0.0.1:0", "--console", &console])
        .fails(1, &[&console, "--console off"]);
    run(&["node", "--data", data, "--console", "0.0.0.0:1"]).fails(2, &["--console", "loopback"]);
    run(&["node", "--data", data, "--console", "on"]).fails(2, &["--console on", "`off`"]);
    run(&["node", "--data", data, "--listen", "127.0.0.1:65500"]).fails(1, &["65500", "--console"]);
    run(&["up", "--console", "70000"]).fails(2, &["`off`", "1 to 65471"]);
}
