//! `cairn trash` and `cairn quota`.

use super::{
    support::{Cluster, eventually},
    tree::noise,
};

#[test]
fn what_is_removed_comes_back() {
    let cluster = Cluster::start();
    cluster.run(["mkdir", "/d"]).quiet();
    let policy = cluster.run(["policy", "set", "/d", "--trash", "48h"]).quiet();
    assert!(policy.ends_with("durable, trash kept for 48h\n"), "{policy}");
    cluster.run(["mkdir", "/d/t"]).quiet();
    cluster.run_with(&noise(1, 300_000), ["put", "-q", "-", "/d/t/file"]).quiet();
    cluster.run(["rm", "-r", "/d/t"]).quiet();
    cluster.run(["ls", "/d/t"]).fails(1, &["no such file"]);
    let listed = cluster.run(["trash", "ls", "--json", "/d"]).json();
    assert_eq!([&listed[0]["path"], &listed[0]["kind"]], ["/d/t", "directory"]);
    assert_eq!(cluster.run(["trash", "restore", "/d/t"]).quiet(), "/d/t\n");
    assert!(cluster.run(["cat", "/d/t/file"]).stdout == noise(1, 300_000));
    cluster.run(["trash", "restore", "/d/t"]).fails(1, &["not in the trash"]);
    cluster.run(["rm", "/d/t/file"]).quiet();
    cluster.run(["rm", "-r", "--purge", "/d/t"]).quiet();
    cluster.run(["trash", "restore", "/d/t/file"]).fails(1, &["does not exist"]);
    cluster.run(["trash", "restore", "--parents", "/d/t/file"]).quiet();
    cluster.run(["rm", "/d/t/file"]).quiet();
    assert!(cluster.run(["trash", "ls"]).quiet().contains("/d/t/file"));
    cluster.run(["trash", "empty", "--all"]).quiet();
    assert_eq!(cluster.run(["trash", "ls", "--json"]).json(), serde_json::json!([]));
    cluster.run(["fsck", "-q"]).quiet();
}

#[test]
fn limits_are_set_shown_and_held() {
    let cluster = Cluster::start();
    cluster.run(["mkdir", "/d", "/e"]).quiet();
    cluster.run_with(&noise(1, 1000), ["put", "-q", "-", "/d/before"]).quiet();
    cluster.run(["quota", "set", "/d", "--bytes", "500K", "--inodes", "4"]).quiet();
    eventually("it is counted", || {
        let quota = cluster.run(["quota", "get", "--json", "/d"]).json();
        (quota["counting"] == false).then_some(())
    });
    let quota = cluster.run(["quota", "get", "--json", "/d/before"]).json();
    assert_eq!([&quota["path"], &quota["bytes"]], [&serde_json::json!("/d"), &512_000.into()]);
    assert_eq!([&quota["used_bytes"], &quota["used_inodes"]], [1000, 2]);
    cluster.run_with(&noise(2, 600_000), ["put", "-q", "-", "/d/big"]).fails(1, &["quota"]);
    cluster.run_with(&noise(2, 200_000), ["put", "-q", "-", "/d/small"]).quiet();
    cluster.run(["mkdir", "/d/one"]).quiet();
    cluster.run(["mkdir", "/d/two"]).fails(1, &["quota"]);
    // What may not be renamed from one quota to another is copied and removed.
    cluster.run(["mv", "/d/small", "/e"]).quiet();
    assert!(cluster.run(["cat", "/e/small"]).stdout == noise(2, 200_000));
    cluster.run(["stat", "/d/small"]).fails(1, &["/d/small"]);
    assert!(cluster.run(["df", "/d"]).quiet().contains("QUOTA OF"));
    assert!(cluster.run(["quota", "ls"]).quiet().contains("/d"));
    cluster.run(["quota", "rm", "/d"]).quiet();
    eventually("it is gone", || cluster.run(["quota", "get", "/d"]).quiet().contains("no quota").then_some(()));
    cluster.run(["mkdir", "/d/two"]).quiet();
    cluster.run(["quota", "set", "/d"]).fails(2, &["--bytes"]);
    cluster.run(["quota", "rm", "/e"]).fails(1, &["no quota"]);
}
