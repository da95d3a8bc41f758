//! `cairn policy`: what new files are given.

use super::{
    support::{Cluster, eventually},
    tree::noise,
};

#[test]
fn new_files_are_given_what_their_directory_says() {
    let cluster = Cluster::start();
    cluster.run(["mkdir", "/d"]).quiet();
    cluster.run_with(&noise(1, 300_000), ["put", "-q", "-", "/d/before"]).quiet();
    assert_eq!(cluster.run(["policy", "get", "/d"]).quiet(), "/d: 3 replicas, blocks of 4.0M, durable\n");
    let set = cluster.run(["policy", "set", "/d", "--replicas", "2", "--block-size", "64K", "--json"]).json();
    let expected = serde_json::json!({"path": "/d", "replicas": 2, "block_len": 65_536, "durability": "durable"});
    assert_eq!(set, expected);
    let text = cluster.run(["policy", "set", "/d", "--durability", "relaxed"]).quiet();
    assert_eq!(text, "/d: 2 replicas, blocks of 64K, relaxed\n", "what is not given stays");
    cluster.run(["mkdir", "/d/below"]).quiet();
    // The first file of a new kind waits for groups of its kind.
    eventually("there are groups with two replicas", || {
        let put = cluster.run_with(&noise(2, 300_000), ["put", "-q", "-", "/d/below/file"]);
        (put.code == 0).then_some(())
    });
    let stat = cluster.run(["stat", "--json", "/d/before", "/d/below/file"]).json();
    let shown = |index: usize| [&stat[index]["replicas"], &stat[index]["block_len"], &stat[index]["durability"]];
    assert_eq!(shown(0), [&3.into(), &(4 << 20).into(), &serde_json::json!("durable")], "what was there keeps its own");
    assert_eq!(shown(1), [&2.into(), &(64 << 10).into(), &serde_json::json!("relaxed")], "the new is given it");
    assert!(cluster.run(["stat", "/d/below"]).quiet().contains("2 replicas, blocks of 64K, relaxed"));
    assert!(cluster.run(["cat", "/d/below/file"]).stdout == noise(2, 300_000));
    let report = cluster.run(["fsck", "-q", "--json"]).json();
    assert_eq!(report["replicas"].as_u64(), Some(3 + 5 * 2), "{report}");

    let fails = |args: &[&str], code, says: &[&str]| cluster.run([&["policy"][..], args].concat()).fails(code, says);
    fails(&["set", "/d"], 2, &["--replicas", "--block-size", "--durability"]);
    fails(&["set", "/d", "--replicas", "6"], 2, &["1 to 5"]);
    fails(&["set", "/d", "--block-size", "65K"], 2, &["multiple of 64K"]);
    fails(&["set", "d", "--replicas", "2"], 2, &["begin with `/`"]);
    fails(&["set", "/d", "--replicas", "4"], 1, &["cairn policy: /d: ", "3"]);
    fails(&["set", "/d/before", "--replicas", "2"], 1, &["/d/before: not a directory"]);
    fails(&["get", "/absent", "/d"], 1, &["/absent: no such file"]);
}
