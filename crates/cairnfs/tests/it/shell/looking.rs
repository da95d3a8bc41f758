//! ls, stat, du, df, tree, status, mkdir, mv, rm: names and facts.

use std::process::Command;

use serde_json::json;

use super::support::{Cluster, cairn};

/// Makes a small tree in CairnFS.
fn cluster_with_files() -> Cluster {
    let cluster = Cluster::start();
    cluster.run(["mkdir", "-p", "/d/e"]).quiet();
    cluster.run(["mkdir", "-m", "750", "/d/z"]).quiet();
    cluster.run_with(b"hello", ["put", "-", "/d/a"]).quiet();
    cluster.run_with(&[7; 10_000], ["put", "-", "/d/e/b"]).quiet();
    cluster
}

#[test]
fn names_and_facts() {
    let cluster = cluster_with_files();
    assert_eq!(cluster.run(["ls"]).quiet(), "d\n");
    assert_eq!(cluster.run(["ls", "/d"]).quiet(), "a\ne\nz\n");
    let long = cluster.run(["ls", "-lh", "/d"]).quiet();
    let lines: Vec<&str> = long.lines().collect();
    assert!(lines[0].starts_with("-rw-r--r--  1") && lines[0].ends_with("  a"), "{long}");
    assert!(lines[2].starts_with("drwxr-x---") && lines[2].ends_with("  z"), "{long}");
    let listed = cluster.run(["ls", "-R", "--json", "/d"]).json();
    let shown: Vec<_> = listed.as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(shown, ["/d/a", "/d/e", "/d/z", "/d/e/b"]);
    let a = &listed[0];
    assert_eq!(
        [&a["kind"], &a["mode"], &a["size"], &a["nlink"]],
        [&json!("file"), &json!("0644"), &json!(5), &json!(1)]
    );

    let stat = cluster.run(["stat", "--json", "/d/a", "/d"]).json();
    assert_eq!(stat[0], *a);
    assert_eq!(stat[1]["kind"], "directory");
    assert!(cluster.run(["stat", "/d/a"]).quiet().contains("Mode: 0644 (-rw-r--r--)"));

    assert_eq!(cluster.run(["du", "/d"]).quiet(), "10000\t/d/e\n0\t/d/z\n10005\t/d\n");
    assert_eq!(cluster.run(["du", "-sh", "/d"]).quiet(), "9.8K\t/d\n");
    let du = cluster.run(["du", "-s", "--json", "/"]).json();
    assert_eq!(du, json!([{"path": "/", "bytes": 10_005, "files": 2, "directories": 4}]));

    assert_eq!(cluster.run(["tree", "/d"]).quiet(), "/d\n├── a\n├── e\n│   └── b\n└── z\n\n2 directories, 2 files\n");
    assert_eq!(cluster.run(["tree", "-d", "-L", "1", "/d"]).quiet(), "/d\n├── e\n└── z\n\n2 directories, 0 files\n");
    let tree = cluster.run(["tree", "--json", "/d"]).json();
    let b = json!({"name": "b", "kind": "file", "size": 10_000});
    assert_eq!(tree["children"][1], json!({"name": "e", "kind": "directory", "size": 0, "children": [b]}));

    let df = cluster.run(["df", "--json"]).json();
    assert_eq!((df["file_bytes"].as_u64(), df["nodes"].as_array().map(Vec::len)), (Some(10_005), Some(3)));
    assert!(df["capacity_bytes"].as_u64().unwrap() > df["used_bytes"].as_u64().unwrap());
    assert!(cluster.run(["df", "-h"]).quiet().contains("USE%"));

    cluster.run(["ls", "/d", "/absent"]).fails(1, &["cairn ls: /absent: no such file or directory"]);
}

#[test]
fn status_tells_the_state_of_the_cluster() {
    let cluster = cluster_with_files();
    let status = cluster.status();
    assert_eq!(status["degraded_runs"], 0);
    assert_eq!(status["engine"], "embedded");
    assert_eq!(status["inodes"], 6, "the root, three directories and two files");
    let nodes = status["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    let mut addrs: Vec<&str> = nodes.iter().map(|node| node["addr"].as_str().unwrap()).collect();
    addrs.sort_unstable();
    let ports = cluster.base_port + 1..cluster.base_port + 4;
    assert_eq!(addrs, ports.map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>());
    for node in nodes {
        assert_eq!(node["state"], "up");
        assert!(node["id"].is_u64() && node["capacity_bytes"].is_u64() && node["used_bytes"].is_u64());
        assert!(node["zone"].is_string() && node["rack"].is_string());
    }
    let groups = status["groups"].as_array().unwrap();
    assert!(!groups.is_empty() && groups.iter().all(|group| group["members"].as_array().unwrap().len() == 3));
    let text = cluster.run(["status"]).quiet();
    assert!(text.starts_with("Health:   healthy\n"), "{text}");
}

#[test]
fn names_change() {
    let cluster = cluster_with_files();
    cluster.run(["mkdir", "/d"]).fails(1, &["cairn mkdir: /d: exists already"]);
    cluster.run(["mkdir", "/x/y"]).fails(1, &["/x/y: no such file or directory"]);
    cluster.run(["mkdir", "-p", "/d", "/x/y"]).quiet();
    cluster.run(["mkdir", "-p", "/d/a"]).fails(1, &["/d/a: exists already"]);
    cluster.run(["mv", "/d/a", "/x/y"]).quiet();
    cluster.run(["mv", "/x/y/a", "/renamed"]).quiet();
    cluster.run(["mv", "/renamed", "/d/e", "/x"]).quiet();
    assert_eq!(cluster.run(["cat", "/x/renamed"]).quiet(), "hello");
    cluster.run(["mv", "-T", "/d/z", "/x/y"]).quiet();
    cluster.run(["mv", "/absent", "/x"]).fails(1, &["/absent: no such file or directory"]);

    cluster.run(["rm", "/x"]).fails(1, &["/x: is a directory", "-r"]);
    cluster.run(["rm", "/absent"]).fails(1, &["/absent: no such file or directory"]);
    cluster.run(["rm", "-f", "/absent"]).quiet();
    cluster.run(["rm", "-r", "/"]).fails(2, &["refusing"]);
    cluster.run(["rm", "/x/renamed"]).quiet();
    cluster.run(["rm", "-rf", "/x", "/d"]).quiet();
    assert_eq!(cluster.run(["ls", "/"]).quiet(), "");
}

#[test]
fn names_that_are_not_text() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let cluster = Cluster::start();
    let odd = OsStr::from_bytes(b"/odd\xff");
    let put = cluster.run([OsStr::new("put"), OsStr::new(env!("CARGO_MANIFEST_PATH")), odd]);
    put.quiet();
    assert_eq!(cluster.run(["ls", "/"]).stdout, b"odd\xff\n");
    let listed = cluster.run(["ls", "--json", "/"]).json();
    assert_eq!((&listed[0]["path"], &listed[0]["path_hex"]), (&json!("/odd\u{fffd}"), &json!("2f6f6464ff")));
    cluster.run([OsStr::new("cat"), OsStr::from_bytes(b"/\xfe\n")]).fails(1, &["/\\xfe\\n: no such file"]);
    cluster.run([OsStr::new("rm"), odd]).quiet();
}

#[test]
fn completions_are_scripts() {
    for shell in ["bash", "zsh", "fish"] {
        let script = super::support::Done::from(cairn().args(["completions", shell]).output().unwrap()).quiet();
        assert!(script.contains("cairn") && script.contains("status"), "{shell}");
    }
    let script = cairn().args(["completions", "bash"]).output().unwrap().stdout;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    assert!(Command::new("bash").arg("-n").arg(file.path()).status().unwrap().success());
}
