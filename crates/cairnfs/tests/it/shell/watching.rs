//! `cairn watch`: what changes.

use super::{support::Cluster, tree::noise};

#[test]
fn changes_are_told_and_gone_on_with() {
    let cluster = Cluster::start();
    cluster.run(["mkdir", "/d", "/other"]).quiet();
    cluster.run_with(&noise(1, 100), ["put", "-q", "-", "/d/file"]).quiet();
    cluster.run(["mv", "/d/file", "/d/named"]).quiet();
    cluster.run(["mkdir", "/other/unseen"]).quiet();
    cluster.run(["mv", "/d/named", "/other/away"]).quiet();
    // What lies behind is told at once; the command ends with the last of it.
    let told = cluster.run(["watch", "--oldest", "--count", "4", "/d"]);
    assert_eq!(
        (told.code, String::from_utf8_lossy(&told.stdout).as_ref()),
        (0, "created /d/\ncreated /d/file\nrenamed /d/file -> /d/named\nremoved /d/named (moved)\n")
    );
    let cursor = told.stderr.split_once("--since ").expect("a cursor").1.trim().to_owned();
    cluster.run(["rm", "-r", "/d"]).quiet();
    let line = cluster.run(["watch", "--json", "--count", "1", "--since", &cursor, "/"]).json();
    assert_eq!([&line["change"], &line["path"], &line["kind"]], ["removed", "/d", "directory"]);
    assert!(line["cursor"].is_string() && line["inode"].is_u64());
    cluster.run(["watch", "--since", "zz"]).fails(2, &["hexadecimal"]);
    cluster.run(["watch", "--count", "1", "--since", "00"]).fails(1, &["cursor"]);
    cluster.run(["watch", "/absent"]).fails(1, &["/absent: no such file"]);
}
