//! `cairn snapshot`: directories as they were.

use super::{support::Cluster, tree::noise};

#[test]
fn a_directory_is_read_as_it_was() {
    let cluster = Cluster::start();
    cluster.run(["mkdir", "-p", "/d/sub"]).quiet();
    let (old, new) = (noise(1, 300_000), noise(2, 200_000));
    cluster.run_with(&old, ["put", "-q", "-", "/d/sub/file"]).quiet();
    assert_eq!(cluster.run(["snapshot", "create", "/d", "monday"]).quiet(), "/d/.snapshots/monday\n");
    cluster.run_with(&new, ["put", "-q", "-", "/d/sub/file"]).quiet();
    cluster.run(["rm", "-r", "/d/sub"]).quiet();
    assert_eq!(cluster.run(["ls", "/d"]).quiet(), "");
    assert_eq!(cluster.run(["ls", "/d/.snapshots"]).quiet(), "monday\n");
    assert_eq!(cluster.run(["ls", "-R", "/d/.snapshots/monday"]).quiet().matches("file").count(), 1);
    assert!(cluster.run(["cat", "/d/.snapshots/monday/sub/file"]).stdout == old);
    cluster.run(["fsck", "-q"]).quiet();

    let fails = |args: &[&str], says: &[&str]| cluster.run(args.to_vec()).fails(1, says);
    fails(&["rm", "/d/.snapshots/monday/sub/file"], &["a snapshot cannot be changed"]);
    fails(&["mkdir", "/d/.snapshots/monday/x"], &["a snapshot cannot be changed"]);
    fails(&["snapshot", "create", "/d", "monday"], &["exists already"]);
    fails(&["snapshot", "create", "/d/.snapshots/monday", "x"], &["a snapshot cannot be changed"]);
    fails(&["snapshot", "rm", "/d", "tuesday"], &["tuesday"]);
    fails(&["rm", "-r", "/d"], &["directory not empty"]);
    let put = cluster.run_with(&new, ["put", "-q", "-", "/d/.snapshots/monday/sub/file"]);
    put.fails(1, &["a snapshot cannot be changed"]);

    let named = cluster.run(["snapshot", "create", "/", "--json"]).json();
    let name = named["name"].as_str().expect("it was given one");
    assert!(name.len() == "2026-03-01T08.15.00Z".len() && name.ends_with('Z'), "{name}");
    let list = cluster.run(["snapshot", "ls"]).quiet();
    assert!(list.lines().count() == 2 && list.contains("/d/.snapshots/monday"), "{list}");
    let of_d = cluster.run(["snapshot", "ls", "/d", "--json"]).json();
    assert_eq!((of_d.as_array().map(Vec::len), of_d[0]["path"].as_str()), (Some(1), Some("/d")), "{of_d}");
    cluster.run(["snapshot", "rm", "/d", "monday"]).quiet();
    fails(&["cat", "/d/.snapshots/monday/sub/file"], &["no such file"]);
    cluster.run(["snapshot", "rm", "/", name]).quiet();
    assert_eq!(cluster.run(["snapshot", "ls", "--all"]).quiet(), "");
    cluster.run(["rm", "-r", "/d"]).quiet();
}
