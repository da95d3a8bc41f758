//! ln, chmod, chown, touch, xattr, acl, mv -n and --exchange.

use super::support::Cluster;

#[test]
fn names_attributes_and_lists_from_the_command_line() {
    let cluster = Cluster::start();
    let fails = |args: &[&str], code, says: &[&str]| cluster.run(args).fails(code, says);
    cluster.run(["touch", "/a", "/b"]).quiet();
    cluster.run(["touch", "-c", "/none"]).quiet();
    cluster.run(["ln", "/a", "/hard"]).quiet();
    cluster.run(["ln", "-s", "a", "/soft"]).quiet();
    fails(&["ln", "/a", "/hard"], 1, &["/hard"]);
    fails(&["ln", "/", "/dir"], 1, &["one name"]);
    cluster.run(["chmod", "640", "/hard"]).quiet();
    cluster.run(["chown", "7:8", "/soft"]).quiet();
    let stat = cluster.run(["stat", "--json", "/a"]).json();
    let fact = |name: &str| stat[0][name].clone();
    assert_eq!((fact("nlink"), fact("mode"), fact("uid"), fact("gid")), (2.into(), "0640".into(), 7.into(), 8.into()));
    assert!(fact("btime").is_string() && fact("has_xattrs") == false, "{stat}");

    fails(&["mv", "-n", "/a", "/b"], 1, &["/a: exists already"]);
    cluster.run(["mv", "--exchange", "/a", "/b"]).quiet();
    assert_eq!(cluster.run(["stat", "--json", "/b"]).json()[0]["nlink"], 2);

    cluster.run(["xattr", "set", "user.origin", "here", "/b"]).quiet();
    fails(&["xattr", "set", "--create", "user.origin", "x", "/b"], 1, &["/b: exists already"]);
    assert_eq!(cluster.run(["xattr", "get", "user.origin", "/hard"]).quiet(), "here");
    assert_eq!(cluster.run(["xattr", "ls", "/b"]).quiet(), "user.origin\n");
    cluster.run(["xattr", "rm", "user.origin", "/b"]).quiet();
    fails(&["xattr", "get", "user.origin", "/b"], 1, &["/b: no such attribute"]);

    cluster.run(["acl", "set", "-e", "u::rw-,u:1000:rwx,g::r--,o::---", "/b"]).quiet();
    let shown = cluster.run(["acl", "get", "/b"]).quiet();
    let expected =
        "# file: /b\n# owner: 7\n# group: 8\nuser::rw-\nuser:1000:rwx\ngroup::r--\nmask::rwx\nother::---\n\n";
    assert_eq!(shown, expected);
    assert!(cluster.run(["stat", "/b"]).quiet().contains("has an ACL"));
    cluster.run(["acl", "set", "--remove", "/b"]).quiet();
    assert!(!cluster.run(["acl", "get", "/b"]).quiet().contains("1000"));
    fails(&["acl", "set", "-e", "u::rw-", "/b"], 2, &["owner, owning group and others"]);
    assert!(cluster.run(["df"]).quiet().contains("room for: "));
}
