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

#[test]
fn a_copy_shares_its_blocks_until_it_is_written() {
    let cluster = Cluster::start();
    cluster.run(["mkdir", "-p", "/d/sub"]).quiet();
    let (one, two) = (noise(3, 300_000), noise(4, 400_000));
    cluster.run_with(&one, ["put", "-q", "-", "/d/sub/file"]).quiet();
    cluster.run_with(b"small", ["put", "-q", "-", "/d/small"]).quiet();
    cluster.run(["cp", "/d/sub/file", "/copy"]).quiet();
    assert!(cluster.run(["cat", "/copy"]).stdout == one);
    // It refers to blocks of three replicas wherever it is; with bytes of its own it would be as its directory says.
    cluster.run(["mkdir", "/two"]).quiet();
    cluster.run(["policy", "set", "/two", "--replicas", "2"]).quiet();
    cluster.run(["cp", "/d/sub/file", "/two"]).quiet();
    assert_eq!(cluster.run(["stat", "--json", "/two/file"]).json()[0]["replicas"].as_u64(), Some(3));
    cluster.run_with(&two, ["put", "-q", "-", "/d/sub/file"]).quiet();
    assert!(cluster.run(["cat", "/copy"]).stdout == one, "the copy keeps what it shared");
    cluster.run(["snapshot", "create", "/d", "s"]).quiet();
    cluster.run(["rm", "-r", "/d/sub"]).quiet();
    cluster.run(["cp", "-r", "/d/.snapshots/s", "/back"]).quiet();
    assert!(cluster.run(["cat", "/back/sub/file"]).stdout == two, "out of a snapshot");
    assert_eq!(cluster.run(["cat", "/back/small"]).quiet(), "small");
    cluster.run(["snapshot", "rm", "/d", "s"]).quiet();
    cluster.run(["cp", "--reflink=never", "/back/sub/file", "/plain"]).quiet();
    cluster.run(["rm", "-r", "/back"]).quiet();
    assert!(cluster.run(["cat", "/plain"]).stdout == two);
    cluster.run(["fsck", "-q"]).quiet();

    let fails = |args: &[&str], says: &[&str]| cluster.run(args.to_vec()).fails(1, says);
    fails(&["cp", "/d", "/e"], &["is a directory (-r copies directories)"]);
    fails(&["cp", "-r", "/d", "/d/below"], &["cannot be copied into itself"]);
    fails(&["cp", "/absent", "/e"], &["/absent: no such file"]);
}
