//! `cairn meta dump`, `load`, `migrate`, `check`: metadata as a whole, with a cluster around it.

use std::{fs, path::Path};

use rustix::process::Signal;

use super::{
    support::{Cluster, cairn, eventually, runs, send},
    tree::noise,
};

fn engine(dir: &Path) -> String {
    format!("file:{}", dir.display())
}

fn tool(args: &[&str]) -> super::support::Done {
    cairn().arg("meta").args(args).output().unwrap().into()
}

fn put_some(cluster: &Cluster) -> Vec<u8> {
    let big = noise(5, 3_000_000);
    cluster.run(["mkdir", "/d"]).quiet();
    cluster.run_with(&big, ["put", "-q", "-", "/d/big"]).quiet();
    cluster.run_with(b"small", ["put", "-q", "-", "/d/small"]).quiet();
    big
}

#[test]
fn a_dump_of_a_running_cluster_becomes_a_cluster() {
    let mut cluster = Cluster::start();
    let big = put_some(&cluster);
    let file = cluster.path("m.dump");
    let file = file.to_str().unwrap();
    let said = cluster.run(["meta", "dump", "-q", "--output", file]).quiet();
    assert!(said.starts_with("dumped ") && said.contains("rows"), "{said}");
    cluster.run(["meta", "dump", "-q", "--output", file]).fails(1, &["exists already"]);
    let whole = fs::read(file).unwrap();
    assert!(whole.starts_with(b"CAIRNDMP"));
    assert!(cluster.run(["meta", "check", "-q"]).quiet().starts_with("healthy: "));
    // Later than the dump.
    cluster.run_with(b"later", ["put", "-q", "-", "/later"]).quiet();
    let meta = cluster.data.join("meta-1");
    let in_use = tool(&["dump", "-q", "--engine", &engine(&meta), "--output", "-"]);
    in_use.fails(1, &["in use by another process"]);
    cluster.end_up(Signal::TERM);

    let restored = cluster.path("restored");
    tool(&["load", "-q", "--engine", &engine(&restored), file]).quiet();
    tool(&["load", "-q", "--engine", &engine(&restored), file]).fails(1, &["not empty"]);
    let checked = tool(&["check", "-q", "--json", "--engine", &engine(&restored)]).json();
    assert_eq!((&checked["healthy"], &checked["open"]), (&true.into(), &0.into()), "{checked}");
    fs::rename(&meta, cluster.path("lost")).unwrap();
    fs::rename(&restored, &meta).unwrap();
    cluster.up();
    assert_eq!(cluster.run(["cat", "/d/big"]).stdout, big);
    assert_eq!(cluster.run(["cat", "/d/small"]).stdout, b"small");
    assert_eq!(cluster.run(["ls", "/"]).quiet(), "d\n");
    cluster.run_with(b"after", ["put", "-q", "-", "/after"]).quiet();
    assert_eq!(cluster.run(["cat", "/after"]).stdout, b"after");
}

#[test]
fn what_is_damaged_is_not_loaded_and_not_opened() {
    let mut cluster = Cluster::start();
    put_some(&cluster);
    cluster.end_up(Signal::TERM);
    let meta = engine(&cluster.data.join("meta-1"));
    let dump = tool(&["dump", "-q", "--engine", &meta, "--output", "-"]);
    assert_eq!((dump.code, dump.stderr.as_str()), (0, ""));
    let mut bad = dump.stdout.clone();
    let last = bad.len() - 3;
    bad[last] ^= 1;
    let (good, bad_file) = (cluster.path("good"), cluster.path("bad"));
    fs::write(&good, &dump.stdout).unwrap();
    fs::write(&bad_file, &bad).unwrap();
    let target = cluster.path("target");
    let load = |file: &Path| tool(&["load", "-q", "--engine", &engine(&target), file.to_str().unwrap()]);
    load(&bad_file).fails(1, &["damaged at byte", "bad"]);
    tool(&["check", "-q", "--engine", &engine(&cluster.path("nothing"))]).fails(1, &["no engine"]);
    let refused = cairn().args(["meta", "--listen", "127.0.0.1:0", "--console", "off", "--data"]).arg(&target).output();
    super::support::Done::from(refused.unwrap()).fails(1, &["half loaded", "load that dump again"]);
    load(&good).quiet();
    tool(&["dump", "-q", "--engine", "http://x", "--output", "-"]).fails(1, &["file:DIR"]);
}

#[test]
fn metadata_moves_to_another_engine_and_the_old_one_is_fenced() {
    let mut cluster = Cluster::start();
    let big = put_some(&cluster);
    let (meta, new) = (cluster.data.join("meta-1"), cluster.path("new"));
    let (from, to) = (engine(&meta), engine(&new));
    tool(&["migrate", "-q", &from, &to]).fails(1, &["in use by another process"]);
    cluster.end_up(Signal::TERM);
    let said = tool(&["migrate", "-q", &from, &to]).quiet();
    assert!(said.contains("both sides read back the same"), "{said}");
    tool(&["dump", "-q", "--engine", &from, "--output", "-"]).fails(1, &["the namespace went to", &to]);
    assert!(cluster.try_up().unwrap_err().contains("the namespace went to"));
    fs::rename(&meta, cluster.path("old")).unwrap();
    fs::rename(&new, &meta).unwrap();
    cluster.up();
    assert_eq!(cluster.run(["cat", "/d/big"]).stdout, big);
}

#[test]
fn a_lost_metadata_disk_is_recovered_from_nodes() {
    let mut cluster = Cluster::start_processes();
    let big = put_some(&cluster);
    for number in 0..5 {
        cluster.run_with(format!("file {number}").as_bytes(), ["put", "-q", "-", &format!("/d/{number}")]).quiet();
    }
    eventually("two nodes have all", || {
        let status = cluster.status();
        let log = status["metadata_log"].as_array().unwrap();
        let has_all = |target: &&serde_json::Value| target["whole"] == true && target["commits_behind"] == 0;
        (log.iter().filter(has_all).count() == 2).then_some(())
    });
    let meta = cluster.data.join("meta-1");
    let pid = cluster.pid("meta-1");
    send(pid, Signal::KILL);
    eventually("it is gone", || (!runs(pid)).then_some(()));
    fs::remove_dir_all(&meta).unwrap();
    let port = cluster.base_port;
    let nodes: Vec<String> = (1..=3).map(|node| format!("127.0.0.1:{}", port + node)).collect();
    let (nodes, url) = (nodes.join(","), engine(&meta));
    let said: super::support::Done = tool(&["recover", "--from-nodes", &nodes, "--engine", &url]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(String::from_utf8_lossy(&said.stdout).starts_with("recovered cluster "), "{said:?}");
    tool(&["recover", "--from-nodes", &nodes, "--engine", &url]).fails(1, &["not empty"]);
    assert!(tool(&["check", "-q", "--engine", &url]).quiet().starts_with("healthy: "));
    cluster.start_by_hand("meta-1");
    assert_eq!(cluster.run(["cat", "/d/big"]).stdout, big);
    for number in 0..5 {
        assert_eq!(cluster.run(["cat", &format!("/d/{number}")]).stdout, format!("file {number}").as_bytes());
    }
    assert_eq!(cluster.run(["cat", "/d/small"]).stdout, b"small");
    cluster.run_with(b"after", ["put", "-q", "-", "/after"]).quiet();
    assert_eq!(cluster.run(["cat", "/after"]).stdout, b"after");
    // Nodes say what they run with every report.
    eventually("all nodes were heard", || {
        let versions = cluster.run(["admin", "upgrade", "status", "--json"]).json();
        assert_eq!((&versions["finalized"], &versions["cluster_version"]), (&true.into(), &2.into()), "{versions}");
        let software = versions["software"].as_array().unwrap();
        (software.len() == 4 && software.iter().all(|one| one["newest"] == 2)).then_some(())
    });
}
