//! put, get, cat: what goes in comes out.

use std::{fs, os::unix::fs::symlink, process::Command};

use rustix::process::Signal;

use super::{
    support::Cluster,
    tree::{differences, make_everything, noise},
};

#[test]
fn a_tree_comes_back_as_it_was_and_survives_a_restart() {
    let mut cluster = Cluster::start();
    let tree = cluster.path("tree");
    make_everything(&tree);
    let tree = tree.to_str().unwrap();

    let put = cluster.run(["put", "-r", "--json", tree, "/copy"]).json();
    assert_eq!(put["failed_count"], 0);
    assert_eq!(put["files"], 327);
    assert_eq!(put["symlinks"], 5);
    assert_eq!(cluster.run(["get", "-r", "/copy", cluster.path("out").to_str().unwrap()]).quiet(), "");
    assert_eq!(differences(tree.as_ref(), &cluster.path("out")), [""; 0]);
    let diff = Command::new("diff").args(["-r", "--no-dereference", tree]).arg(cluster.path("out")).output().unwrap();
    assert!(diff.status.success(), "{diff:?}");

    // Over what is there, it is the same again; and nothing unfinished stays.
    cluster.run(["put", "-r", &format!("{tree}/."), "/copy"]).quiet();
    cluster.run(["get", "-r", "/copy/.", cluster.path("out").to_str().unwrap()]).quiet();
    assert_eq!(differences(tree.as_ref(), &cluster.path("out")), [""; 0]);

    assert_eq!(cluster.end_up(Signal::TERM).code(), Some(0));
    assert_eq!(cluster.said(), "");
    cluster.up();
    cluster.run(["get", "-r", "--jobs", "3", "/copy", cluster.path("later").to_str().unwrap()]).quiet();
    assert_eq!(differences(tree.as_ref(), &cluster.path("later")), [""; 0]);
}

#[test]
fn what_lands_where_is_as_in_cp() {
    let cluster = Cluster::start();
    let path = |name: &str| cluster.path(name).to_str().unwrap().to_owned();
    fs::create_dir_all(cluster.path("dir/sub")).unwrap();
    fs::write(cluster.path("dir/sub/file"), "inner").unwrap();
    fs::write(cluster.path("one"), "1").unwrap();
    fs::write(cluster.path("two"), "2").unwrap();
    symlink("one", cluster.path("link")).unwrap();

    cluster.run(["put", &path("one"), "/name"]).quiet();
    cluster.run(["mkdir", "/d"]).quiet();
    cluster.run(["put", &path("one"), &path("two"), "/d"]).quiet();
    cluster.run(["put", "-r", &path("dir"), "/new"]).quiet();
    cluster.run(["put", "-r", &path("dir"), "/d"]).quiet();
    cluster.run(["put", &path("link"), "/followed"]).quiet();
    cluster.run(["put", "-r", &path("link"), "/kept"]).quiet();
    let listing = cluster.run(["ls", "-R", "/"]).quiet();
    let expected = "/:\nd\nfollowed\nkept\nname\nnew\n\n/d:\ndir\none\ntwo\n\n/d/dir:\nsub\n\n/d/dir/sub:\nfile\n\n\
                    /new:\nsub\n\n/new/sub:\nfile\n";
    assert_eq!(listing, expected);
    assert_eq!(cluster.run(["cat", "/name", "/followed", "/d/two"]).quiet(), "112");
    assert_eq!(cluster.run(["stat", "--json", "/kept"]).json()[0]["target"], "one");

    cluster.run(["put", &path("dir"), "/x"]).fails(1, &["is a directory", "-r"]);
    cluster.run(["put", &path("one"), &path("two"), "/name"]).fails(1, &["/name", "several sources"]);
    cluster.run(["put", &path("one"), "/no/such/x"]).fails(1, &["/no/such/x: no such file or directory"]);
    cluster.run(["put", "-r", &path("dir"), "/name"]).fails(1, &["/name: exists and is not a directory"]);
    cluster.run(["put", &path("one"), "/nothing/"]).fails(1, &["not a directory"]);
    cluster.run(["put", &path("no such"), "/x"]).fails(1, &["no such: no such file or directory"]);
    cluster.run(["get", "/no such", &path("x")]).fails(1, &["/no such: no such file or directory"]);
    cluster.run(["get", "/d", &path("x")]).fails(1, &["is a directory", "-r"]);
    assert!(!cluster.path("x").exists());
}

#[test]
fn a_partial_failure_lists_what_failed_and_copies_the_rest() {
    let cluster = Cluster::start();
    let tree = cluster.path("tree");
    fs::create_dir_all(tree.join("below")).unwrap();
    fs::write(tree.join("below/a"), "a").unwrap();
    fs::write(tree.join("clash"), "c").unwrap();
    let fifo = Command::new("mkfifo").arg(tree.join("fifo")).status().unwrap();
    assert!(fifo.success());
    cluster.run(["mkdir", "-p", "/t/clash"]).quiet();

    let put = cluster.run(["put", "-r", &format!("{}/.", tree.display()), "/t"]);
    put.fails(1, &["fifo: not copied: it is a FIFO", "/t/clash: is a directory", "1 entry could not be copied"]);
    assert_eq!(cluster.run(["cat", "/t/below/a"]).quiet(), "a");

    // The other way, and in JSON.
    fs::create_dir_all(cluster.path("out/below/a")).unwrap();
    let got = cluster.run(["get", "-r", "--json", "/t/.", cluster.path("out").to_str().unwrap()]);
    assert_eq!(got.code, 1);
    let summary: serde_json::Value = serde_json::from_slice(&got.stdout).unwrap();
    assert_eq!(summary["failed_count"], 1);
    assert!(summary["failed"][0].as_str().unwrap().contains("below/a"), "{summary}");
    assert!(cluster.path("out/clash").is_dir());
    let left: Vec<_> =
        fs::read_dir(cluster.path("out/below")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["a"], "nothing unfinished stays");

    // What is only skipped is no failure.
    fs::remove_file(tree.join("clash")).unwrap();
    let put = cluster.run(["put", "-r", "--json", &format!("{}/.", tree.display()), "/t"]);
    let summary: serde_json::Value = serde_json::from_slice(&put.stdout).unwrap();
    assert_eq!((put.code, &summary["skipped_count"]), (0, &1.into()), "{put:?}");
}

#[test]
fn standard_input_and_output() {
    let cluster = Cluster::start();
    for len in [0, 5, 4096, 4097, 4 << 20, (4 << 20) + 1, (9 << 20) + 5] {
        let content = noise(len as u64, len);
        cluster.run_with(&content, ["put", "-", "/in"]).quiet();
        let out = cluster.run(["get", "/in", "-"]);
        assert!(out.code == 0 && out.stderr.is_empty() && out.stdout == content, "{len} bytes: {}", out.stderr);
        let out = cluster.run(["cat", "/in", "/in"]);
        assert!(out.code == 0 && out.stdout == [&content[..], &content[..]].concat(), "{len} bytes twice");
    }
    cluster.run_with(b"x", ["put", "-", "/"]).fails(1, &["is a directory"]);
    cluster.run(["put", "-", "x", "/y"]).fails(2, &["standard input"]);
    cluster.run(["cat", "/in", "/absent"]).fails(1, &["cairn cat: /absent: no such file or directory"]);
    cluster.run_with(b"loose", ["put", "--relaxed", "-", "/loose"]).quiet();
    assert_eq!(cluster.run(["cat", "/loose"]).quiet(), "loose");
}

#[test]
fn what_is_no_file_is_written_into_not_replaced() {
    use std::os::unix::fs::FileTypeExt;
    let cluster = Cluster::start();
    cluster.run_with(b"through", ["put", "-", "/x"]).quiet();
    let fifo = cluster.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let reader = Command::new("cat").arg(&fifo).stdout(std::process::Stdio::piped()).spawn().unwrap();
    cluster.run(["get", "/x", fifo.to_str().unwrap()]).quiet();
    assert_eq!(reader.wait_with_output().unwrap().stdout, b"through");
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());

    fs::create_dir(cluster.path("dir")).unwrap();
    fs::rename(&fifo, cluster.path("dir/x")).unwrap();
    cluster
        .run(["get", "/x", cluster.path("dir").to_str().unwrap()])
        .fails(1, &["dir/x: exists and is not a regular file"]);
    cluster.run(["cat", "/"]).fails(1, &["cairn cat: /: is a directory"]);
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let cluster = Cluster::start();
    cluster.run_with(&noise(1, 9 << 20), ["put", "-", "/big"]).quiet();
    for args in [["cat", "/big"], ["ls", "/big"]] {
        let mut child = cluster
            .command(args)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
    }
}
