//! `cairn fsck`: finds what is wrong and nothing else, and mends what can be mended.

use std::{
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use cairn_proto::pb;
use rustix::process::Signal;
use serde_json::Value;

use super::{
    support::{Cluster, Done, eventually, send},
    tree::noise,
    wire,
};

fn kinds(report: &Value) -> Vec<&str> {
    report["defects"].as_array().unwrap().iter().map(|defect| defect["kind"].as_str().unwrap()).collect()
}

/// The report, whatever the exit status.
fn fsck(cluster: &Cluster, args: &[&str]) -> (i32, Value) {
    let done: Done = cluster.run(["fsck", "--json"].iter().chain(args));
    assert!(!done.stderr.contains("panicked"), "{done:?}");
    (done.code, serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}")))
}

/// The only block of a file as it lies in a cluster: its run, its group with the epoch, and store and port of each copy.
struct Placed {
    run: pb::Run,
    pg: (u32, u64),
    copies: Vec<(u32, u16)>,
}

fn place(cluster: &Cluster, path: &str) -> Placed {
    let inode = cluster.run(["stat", "--json", path]).json()[0]["inode"].as_u64().unwrap();
    let ask = pb::GetExtents { inode, offset: 0, len: 1, known_version: 0 };
    let reply = wire::ask(cluster.base_port, pb::request::Kind::GetExtents(ask)).unwrap();
    let pb::response::Kind::GetExtents(reply) = reply else { panic!("{reply:?}") };
    let extent = &reply.extents[0];
    let status = cluster.status();
    let groups = status["groups"].as_array().unwrap();
    let group = groups.iter().find(|group| group["id"] == extent.pgs[0]).unwrap();
    let copies = group["members"].as_array().unwrap().iter().map(|member| {
        let holds =
            |node: &&Value| node["stores"].as_array().unwrap().iter().any(|store| store["id"] == member["store"]);
        let node = status["nodes"].as_array().unwrap().iter().find(holds).unwrap();
        let port = node["addr"].as_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
        (member["store"].as_u64().unwrap() as u32, port)
    });
    Placed {
        run: pb::Run { first: extent.first, count: 1 },
        pg: (extent.pgs[0], group["epoch"].as_u64().unwrap()),
        copies: copies.collect(),
    }
}

impl Placed {
    /// Takes one of the copies away.
    fn lose(&self, copy: usize) {
        let (store, port) = self.copies[copy];
        assert_eq!(wire::delete(port, (store, self.pg.0, self.pg.1), self.run), 1, "it was there");
    }
}

#[test]
fn a_healthy_cluster_has_no_defects_while_it_works() {
    let cluster = Cluster::start();
    let (code, empty) = fsck(&cluster, &[]);
    assert_eq!((code, &empty["open"], &empty["blocks"]), (0, &0.into(), &0.into()), "{empty}");
    cluster.run_with(&noise(1, 20_000_000), ["put", "-q", "-", "/big"]).quiet();
    cluster.run_with(b"small", ["put", "-q", "-", "/inline"]).quiet();
    let (code, report) = fsck(&cluster, &[]);
    assert_eq!((code, report["healthy"].as_bool()), (0, Some(true)), "{report}");
    assert_eq!([&report["files"], &report["blocks"], &report["replicas"]], [1, 5, 15], "{report}");
    assert!(report["rows"].as_u64() >= Some(3), "root and two files: {report}");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..12 {
                let path = format!("/f{}", round % 3);
                cluster.run_with(&noise(round, 700_000), ["put", "-q", "-", &path]).quiet();
                if round % 2 == 1 {
                    cluster.run(["rm", &path]).quiet();
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let (code, report) = fsck(&cluster, &[]);
            assert_eq!((code, kinds(&report)), (0, vec![]), "{report}");
        }
    });
    let text = cluster.run(["fsck", "-q"]).quiet();
    assert!(text.contains("healthy: 0 defects, in ") && text.contains("checked: "), "{text}");
    assert!(cluster.run(["fsck", "-q", "--quick"]).quiet().contains("healthy: 0 defects"));
}

#[test]
fn a_copy_that_nobody_misses_is_found_and_brought_back() {
    let mut cluster = Cluster::start_processes();
    let content = noise(5, 300_000);
    cluster.run_with(&content, ["put", "-q", "-", "/x"]).quiet();
    let placed = place(&cluster, "/x");
    placed.lose(1);
    let (store, port) = placed.copies[1];
    let (code, report) = fsck(&cluster, &[]);
    assert_eq!((code, kinds(&report)), (1, vec!["copy_missing"]), "{report}");
    let defect = &report["defects"][0];
    assert_eq!((&defect["store"], &defect["group"]), (&store.into(), &placed.pg.0.into()), "{report}");
    assert_eq!((&defect["blocks"], &defect["named"][0]["path"]), (&1.into(), &"/x".into()), "{report}");
    assert!(defect["remedy"].as_str().unwrap().contains("--repair"), "{report}");
    // A node copies nothing that it was told to delete, until it is started again.
    let role = format!("node-{}", port - cluster.base_port);
    send(cluster.pid(&role), Signal::TERM);
    eventually("the node is gone", || cluster.said().contains(&format!("{role} (process")).then_some(()));
    cluster.start_by_hand(&role);
    let (code, report) = fsck(&cluster, &["--repair"]);
    assert_eq!((code, report["open"].as_u64()), (0, Some(0)), "{report}");
    let (code, report) = fsck(&cluster, &[]);
    assert_eq!((code, kinds(&report), &report["replicas"]), (0, vec![], &3.into()), "{report}");
    // The copy that came back is good.
    for (_, other) in placed.copies.iter().filter(|copy| **copy != placed.copies[1]) {
        send(cluster.pid(&format!("node-{}", other - cluster.base_port)), Signal::KILL);
    }
    assert!(cluster.run(["cat", "/x"]).stdout == content);
}

#[test]
fn lost_data_is_named() {
    let cluster = Cluster::start();
    cluster.run(["mkdir", "/d"]).quiet();
    cluster.run_with(&noise(1, 100_000), ["put", "-q", "-", "/d/gone"]).quiet();
    cluster.run_with(&noise(2, 100_000), ["put", "-q", "-", "/d/kept"]).quiet();
    let placed = place(&cluster, "/d/gone");
    (0..3).for_each(|copy| placed.lose(copy));
    for args in [&[][..], &["--repair"]] {
        let (code, report) = fsck(&cluster, args);
        assert_eq!((code, kinds(&report)), (1, vec!["lost"]), "{report}");
        let defect = &report["defects"][0];
        assert_eq!((&defect["files"], &defect["named"][0]["path"]), (&1.into(), &"/d/gone".into()), "{report}");
    }
    let done = cluster.run(["fsck", "-q"]);
    let text = String::from_utf8(done.stdout).unwrap();
    assert_eq!((done.code, done.stderr.as_str()), (1, ""));
    assert!(text.contains("lost data: ") && text.contains("/d/gone") && text.contains("1 defect, in"), "{text}");
    cluster.run(["rm", "/d/gone"]).quiet();
    let (code, report) = fsck(&cluster, &[]);
    assert_eq!((code, kinds(&report)), (0, vec![]), "what nobody needs is not missed: {report}");
}

#[test]
fn a_node_that_is_away_is_told_with_what_it_lacks() {
    let mut cluster = Cluster::start_processes();
    cluster.run_with(&noise(1, 300_000), ["put", "-q", "-", "/before"]).quiet();
    send(cluster.pid("node-2"), Signal::KILL);
    eventually("up tells", || cluster.said().contains("node-2 (process").then_some(()));
    cluster.run_with(&noise(2, 300_000), ["put", "-q", "-", "/since"]).quiet();
    let (code, report) = fsck(&cluster, &[]);
    assert_eq!((code, kinds(&report)), (1, vec!["degraded", "store_away"]), "{report}");
    assert_eq!(report["defects"][0]["named"][0]["path"], "/since", "{report}");
    let (code, report) = fsck(&cluster, &["--quick"]);
    assert_eq!((code, kinds(&report)), (1, vec!["degraded"]), "{report}");
    cluster.start_by_hand("node-2");
    eventually("nothing is degraded", || (cluster.status()["degraded_runs"] == 0).then_some(()));
    let (code, report) = fsck(&cluster, &[]);
    assert_eq!((code, kinds(&report)), (0, vec![]), "{report}");
}

#[test]
fn a_frozen_node_does_not_hold_a_check_up() {
    let cluster = Cluster::start_processes();
    for file in 0..20 {
        cluster.run_with(&noise(file, 100_000), ["put", "-q", "-", &format!("/f{file}")]).quiet();
    }
    let frozen = cluster.pid("node-3");
    send(frozen, Signal::STOP);
    // The breaker answers for it after a few requests, so the check does not wait for each of them.
    let (code, report) = fsck(&cluster, &[]);
    assert_eq!((code, kinds(&report)), (1, vec!["store_away"]), "{report}");
    assert_eq!((&report["files"], &report["blocks"]), (&20.into(), &20.into()), "{report}");
    send(frozen, Signal::CONT);
    eventually("it answers again", || fsck(&cluster, &[]).1["healthy"].as_bool().filter(|healthy| *healthy));
}

#[test]
fn without_a_cluster_it_says_so() {
    let mut command = super::support::cairn();
    command.env("CAIRN_META", "127.0.0.1:1").arg("fsck").stdout(Stdio::piped());
    Done::from(command.output().unwrap()).fails(1, &["cairn fsck: ", "127.0.0.1:1"]);
}
