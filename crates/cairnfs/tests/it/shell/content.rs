//! truncate, punch, locks; chmod with changes and -R, mkfifo, mknod; mv across quotas.

use std::time::Duration;

use cairn_client::{DfsClient, LockKind, LockMode};

use super::{support::Cluster, tree::noise};

fn fact(cluster: &Cluster, path: &str, name: &str) -> serde_json::Value {
    cluster.run(["stat", "--json", path]).json()[0][name].clone()
}

#[test]
fn files_are_cut_grown_and_punched() {
    let cluster = Cluster::start();
    let content = noise(1, 300_000);
    cluster.run_with(&content, ["put", "-q", "-", "/f"]).quiet();
    cluster.run(["punch", "-o", "64K", "-l", "64K", "/f"]).quiet();
    let mut expected = content.clone();
    expected[64 << 10..128 << 10].fill(0);
    assert!(cluster.run(["cat", "/f"]).stdout == expected);
    cluster.run(["truncate", "-s", "100000", "/f"]).quiet();
    expected.truncate(100_000);
    assert!(cluster.run(["cat", "/f"]).stdout == expected);
    cluster.run(["truncate", "--size", "1M", "/f"]).quiet();
    expected.resize(1 << 20, 0);
    assert!(cluster.run(["cat", "/f"]).stdout == expected);
    for command in [&["truncate", "-s", "5", "/none"][..], &["punch", "-l", "5", "/none"]] {
        cluster.run(command).fails(1, &["/none: no such file or directory"]);
    }
    cluster.run(["truncate", "-s", "5", "/"]).fails(1, &["directory"]);
    cluster.run(["truncate", "/f"]).fails(2, &["--size"]);
}

#[test]
fn who_holds_locks_is_shown() {
    let cluster = Cluster::start();
    cluster.run(["touch", "/f"]).quiet();
    assert_eq!(cluster.run(["locks", "/f"]).quiet(), "");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let addr = format!("127.0.0.1:{}", cluster.base_port);
    let held = runtime.block_on(async {
        let client = DfsClient::new(addr.as_str()).await.unwrap();
        let file = client.open("/f").await.unwrap();
        let range = file.lock(LockKind::Posix { owner: 5, pid: 77 }, 10..20, LockMode::Shared, Duration::from_secs(60));
        let range = range.await.unwrap();
        (client, file, range)
    });
    let shown = cluster.run(["locks", "/f"]).quiet();
    assert!(shown.starts_with("/f: holds range shared 10..20, ") && shown.contains("process 77"), "{shown}");
    let json = cluster.run(["locks", "--json", "/f"]).json();
    assert_eq!((&json[0]["kind"], &json[0]["start"], &json[0]["end"]), (&"range".into(), &10.into(), &20.into()));
    cluster.run(["locks", "/none"]).fails(1, &["/none: no such file or directory"]);
    runtime.block_on(async {
        let (client, _file, range) = held;
        range.unlock().await.unwrap();
        client.close().await;
    });
    assert_eq!(cluster.run(["locks", "/f"]).quiet(), "");
}

#[test]
fn permissions_change_as_chmod_does_it() {
    let cluster = Cluster::start();
    cluster.run(["mkdir", "-p", "/d/e"]).quiet();
    cluster.run(["touch", "/d/f", "/d/e/g"]).quiet();
    cluster.run(["ln", "-s", "f", "/d/link"]).quiet();
    cluster.run(["chmod", "600", "/d/f", "/d/e/g"]).quiet();
    cluster.run(["chmod", "u+x,g=r", "/d/f"]).quiet();
    assert_eq!(fact(&cluster, "/d/f", "mode"), "0740");
    cluster.run(["chmod", "-R", "a=rX,u+w", "/d"]).quiet();
    assert_eq!(fact(&cluster, "/d", "mode"), "0755");
    assert_eq!(fact(&cluster, "/d/e", "mode"), "0755");
    assert_eq!(fact(&cluster, "/d/f", "mode"), "0755", "somebody could execute it");
    assert_eq!(fact(&cluster, "/d/e/g", "mode"), "0644");
    cluster.run(["chmod", "-w", "/d/f"]).quiet();
    assert_eq!(fact(&cluster, "/d/f", "mode"), "0555");
    cluster.run(["chmod", "u+q", "/d/f"]).fails(2, &["u+q", "no mode"]);
    cluster.run(["chmod", "-R", "u+x", "/none"]).fails(1, &["/none: no such file or directory"]);
    cluster.run(["mkfifo", "-m", "640", "/d/pipe"]).quiet();
    assert_eq!((fact(&cluster, "/d/pipe", "kind"), fact(&cluster, "/d/pipe", "mode")), ("fifo".into(), "0640".into()));
    cluster.run(["mknod", "/d/null", "c", "1", "3"]).quiet();
    assert!(cluster.run(["stat", "/d/null"]).quiet().contains("character device"));
    cluster.run(["mknod", "/d/null", "p"]).fails(1, &["/d/null: exists already"]);
    cluster.run(["mknod", "/d/x", "b", "1"]).fails(2, &["both numbers"]);
}

#[test]
fn hard_links_within_a_transfer_stay_links() {
    use std::os::unix::fs::MetadataExt;
    let cluster = Cluster::start();
    let local = cluster.path("local");
    std::fs::create_dir_all(local.join("sub")).unwrap();
    let content = noise(4, 150_000);
    std::fs::write(local.join("one"), &content).unwrap();
    for name in ["two", "sub/three"] {
        std::fs::hard_link(local.join("one"), local.join(name)).unwrap();
    }
    std::fs::write(local.join("alone"), b"alone").unwrap();
    let source = format!("{}/.", local.display());
    // The second time everything is there already.
    for _ in 0..2 {
        cluster.run(["put", "-q", "-r", &source, "/copy"]).quiet();
    }
    assert_eq!((fact(&cluster, "/copy/one", "nlink"), fact(&cluster, "/copy/alone", "nlink")), (3.into(), 1.into()));
    assert_eq!(fact(&cluster, "/copy/sub/three", "inode"), fact(&cluster, "/copy/one", "inode"));
    assert!(cluster.run(["cat", "/copy/two"]).stdout == content);
    assert_eq!(cluster.run(["ls", "/copy"]).quiet(), "alone\none\nsub\ntwo\n");
    let back = cluster.path("back");
    for _ in 0..2 {
        cluster.run(["get", "-q", "-r", "/copy/.", back.to_str().unwrap()]).quiet();
    }
    let found = |name: &str| std::fs::metadata(back.join(name)).unwrap();
    assert_eq!((found("one").nlink(), found("alone").nlink()), (3, 1));
    assert_eq!(found("one").ino(), found("sub/three").ino());
    assert!(std::fs::read(back.join("two")).unwrap() == content);
}

#[test]
fn what_is_moved_across_a_quota_comes_whole() {
    let cluster = Cluster::start();
    let content = noise(2, 200_000);
    cluster.run(["mkdir", "-p", "/a/tree/sub", "/b"]).quiet();
    cluster.run_with(&content, ["put", "-q", "-", "/a/tree/one"]).quiet();
    cluster.run(["ln", "/a/tree/one", "/a/tree/sub/two"]).quiet();
    cluster.run(["ln", "-s", "../one", "/a/tree/sub/link"]).quiet();
    cluster.run(["mkfifo", "/a/tree/pipe"]).quiet();
    cluster.run(["xattr", "set", "user.a", "value", "/a/tree/one"]).quiet();
    cluster.run(["chmod", "4751", "/a/tree/one"]).quiet();
    cluster.run(["chown", "7:8", "/a/tree/one"]).quiet();
    let before = cluster.run(["stat", "--json", "/a/tree/one"]).json();
    cluster.run(["quota", "set", "/b", "--bytes", "1M"]).quiet();
    cluster.run(["mv", "/a/tree", "/b"]).quiet();
    cluster.run(["stat", "/a/tree"]).fails(1, &["no such file"]);
    assert!(cluster.run(["cat", "/b/tree/sub/two"]).stdout == content);
    let after = cluster.run(["stat", "--json", "/b/tree/one"]).json();
    for name in ["mode", "uid", "gid", "mtime", "size", "nlink"] {
        assert_eq!(after[0][name], before[0][name], "{name}");
    }
    assert_eq!(cluster.run(["xattr", "get", "user.a", "/b/tree/sub/two"]).quiet(), "value");
    assert_eq!(fact(&cluster, "/b/tree/pipe", "kind"), "fifo");
    assert!(cluster.run(["cat", "/b/tree/sub/link"]).stdout == content);
    // Where it does not fit it stays where it was.
    cluster.run(["mkdir", "/a/big"]).quiet();
    cluster.run_with(&noise(3, 2_000_000), ["put", "-q", "-", "/a/big/file"]).quiet();
    cluster.run(["mv", "/a/big", "/b"]).fails(1, &["quota exceeded"]);
    assert_eq!(fact(&cluster, "/a/big/file", "size"), 2_000_000);
    assert!(cluster.run(["meta", "check", "-q"]).quiet().starts_with("healthy: "));
}
