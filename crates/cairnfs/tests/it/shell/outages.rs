//! Metadata on an engine that others run: it goes away and comes back, and several servers share it.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use cairn_proto::pb::{self, request::Kind, response::Kind as Reply};
use cairn_testbed::{Etcd, Postgres};
use rustix::process::Signal;

use super::{
    CONSOLE_STEP,
    support::{Cluster, Done, eventually, http_get, send},
    tree::{differences, noise},
    wire,
};

fn postgres() -> Postgres {
    Postgres::start(&[]).unwrap_or_else(|error| panic!("{error}"))
}

fn etcd(members: usize) -> Etcd {
    Etcd::start(members, &[]).unwrap_or_else(|error| panic!("{error}"))
}

/// Small files, and some that are long enough to have blocks.
fn make_files(root: &Path, count: u64) {
    for index in 0..count {
        let dir = root.join((index % 5).to_string());
        fs::create_dir_all(&dir).unwrap();
        let len = if index.is_multiple_of(40) { 300_000 } else { index * 61 % 9_000 };
        fs::write(dir.join(index.to_string()), noise(index, len as usize)).unwrap();
    }
}

fn put_tree(cluster: &Cluster, from: &Path, to: &str) -> Child {
    let mut command = cluster.command(["put", "-r", from.to_str().unwrap(), to]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Files below the root, as far as one can ask.
fn count_files(cluster: &Cluster) -> Option<u64> {
    let status = cluster.run(["status", "--json"]);
    (status.code == 0).then(|| status.json()["inodes"].as_u64().unwrap())
}

/// What `/readyz` of a metadata server says.
fn readiness(cluster: &Cluster, number: u16) -> Option<(u16, String)> {
    http_get(cluster.meta_port(number) + CONSOLE_STEP, "/readyz")
}

fn servers(cluster: &Cluster) -> Vec<serde_json::Value> {
    cluster.status()["servers"].as_array().unwrap().clone()
}

/// Number of the process, counted from 1, that holds the duties now.
fn holder(cluster: &Cluster, metas: u16) -> Option<u16> {
    let servers = servers(cluster);
    let held = servers.iter().find(|server| server["holds_duties"] == true)?;
    (1..=metas).find(|number| held["addr"] == format!("127.0.0.1:{}", cluster.meta_port(*number)))
}

/// Requests that a metadata server has answered.
fn answered(cluster: &Cluster, number: u16, op: &str) -> u64 {
    let (_, page) = http_get(cluster.meta_port(number) + CONSOLE_STEP, "/metrics").unwrap();
    let wanted = format!("cairn_server_requests_total{{op=\"{op}\",outcome=\"ok\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&wanted)).map_or(0, |count| count.parse().unwrap())
}

#[test]
fn a_restarted_postgres_is_waited_for() {
    let mut postgres = postgres();
    let cluster = Cluster::start_on(&postgres.url("outage"), 1);
    let tree = cluster.path("tree");
    make_files(&tree, 400);
    for (round, restarts) in [1, 2].into_iter().enumerate() {
        let target = format!("/tree{round}");
        let before = count_files(&cluster).unwrap();
        let put = put_tree(&cluster, &tree, &target);
        for number in 1..=restarts {
            eventually("some files are there", || (count_files(&cluster)? > before + 40 * number).then_some(()));
            postgres.crash();
            let (_, why) = eventually("it is noticed", || readiness(&cluster, 1).filter(|(code, _)| *code == 503));
            assert!(why.contains("\"engine\""), "{why}");
            postgres.restart().unwrap_or_else(|error| panic!("{error}"));
        }
        assert_eq!(Done::from(put.wait_with_output().unwrap()).quiet(), "");
        let copy = cluster.path(format!("copy{round}"));
        cluster.run(["get", "-r", &target, copy.to_str().unwrap()]).quiet();
        assert_eq!(differences(&tree, &copy), [""; 0]);
    }
    assert_eq!(eventually("it is ready", || readiness(&cluster, 1).filter(|(code, _)| *code == 200)).0, 200);
    assert!(cluster.run(["meta", "check", "-q"]).quiet().starts_with("healthy: "));
    // The outages were told at most when they began and when they ended, and not with every failed duty.
    let log = fs::read_to_string(cluster.data.join("run/meta-1.log")).unwrap();
    let told = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert!(told("the metadata engine does not serve") <= 3, "{log}");
    assert!(told("failed to") <= 3, "{log}");
}

#[test]
fn a_server_waits_for_an_engine_that_comes_late() {
    let mut postgres = postgres();
    let url = postgres.url("late");
    postgres.crash();
    let mut cluster = Cluster::prepared_on(&url, 1);
    let console = cluster.meta_port(1) + CONSOLE_STEP;
    thread::scope(|scope| {
        let up = scope.spawn(|| cluster.try_up());
        let away = || http_get(console, "/readyz").filter(|(code, _)| *code == 503);
        let (_, why) = eventually("the reason is told", away);
        assert!(why.contains("is away") && !why.contains("sesame"), "{why}");
        assert_eq!(http_get(console, "/healthz").unwrap().0, 200, "the process itself is well");
        postgres.restart().unwrap_or_else(|error| panic!("{error}"));
        up.join().unwrap().unwrap();
    });
    eventually("it is ready", || readiness(&cluster, 1).filter(|(code, _)| *code == 200));
    cluster.run_with(b"late", ["put", "-q", "-", "/late"]).quiet();
    assert_eq!(cluster.run(["cat", "/late"]).quiet(), "late");
}

/// Clients work through all servers; the one that carries out the duties dies, and nobody notices. What it did for all,
/// another one does then.
fn a_server_dies(cluster: &mut Cluster, metas: u16, meanwhile: impl FnOnce()) {
    let servers_known = |cluster: &Cluster, count: usize| {
        eventually("the servers know each other", || (servers(cluster).len() == count).then_some(()));
    };
    servers_known(cluster, metas.into());
    for server in servers(cluster) {
        let beat = server["silent_seconds"].as_f64().unwrap();
        assert!(server["software"].as_str().unwrap().starts_with("cairn/") && beat < 60.0, "{server}");
    }
    let tree = cluster.path("tree");
    make_files(&tree, 150);
    let (over, files) = (AtomicBool::new(false), AtomicU64::new(0));
    let victim = eventually("somebody holds the duties", || holder(cluster, metas));
    let shared = &*cluster;
    thread::scope(|scope| {
        // Clients that come and go, each with an order of servers of its own.
        for writer in 0..2 {
            let (over, files) = (&over, &files);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let name = format!("/{writer}-{}", files.fetch_add(1, Ordering::Relaxed));
                    shared.run_with(name.as_bytes(), ["put", "-q", "-", &name]).quiet();
                    assert_eq!(shared.run(["cat", &name]).quiet(), name);
                }
            });
        }
        let put = put_tree(shared, &tree, "/tree");
        eventually("clients write through more than one server", || {
            let used = (1..=metas).filter(|number| answered(shared, *number, "open_session") > 0).count();
            (used >= 2 && count_files(shared)? > 60).then_some(())
        });
        send(shared.pid(&format!("meta-{victim}")), Signal::KILL);
        meanwhile();
        assert_eq!(Done::from(put.wait_with_output().unwrap()).quiet(), "");
        eventually("another one takes the duties over", || holder(shared, metas).filter(|number| *number != victim));
        over.store(true, Ordering::Relaxed);
    });
    servers_known(cluster, usize::from(metas) - 1);
    let copy = cluster.path("copy");
    cluster.run(["get", "-r", "/tree", copy.to_str().unwrap()]).quiet();
    assert_eq!(differences(&tree, &copy), [""; 0]);
    cluster.start_by_hand(&format!("meta-{victim}"));
    servers_known(cluster, metas.into());
    // What only the holder of the duties does: it counts what lies below a quota.
    cluster.run(["quota", "set", "/tree", "--inodes", "100000"]).quiet();
    let quota = || cluster.run(["quota", "get", "--json", "/tree"]).json();
    eventually("the duties are carried out", || (quota()["counting"] == false).then_some(()));
    assert_eq!(quota()["used_inodes"], 156, "files, directories, and the one that has the quota");
    assert!(cluster.run(["meta", "check", "-q"]).quiet().starts_with("healthy: "));
    let text = cluster.run(["status"]).quiet();
    assert_eq!(text.lines().filter(|line| line.contains("cairn/")).count(), usize::from(metas), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("holds them")).count(), 1, "{text}");
}

#[test]
fn two_servers_on_postgres() {
    let postgres = postgres();
    let mut cluster = Cluster::start_on(&postgres.url("two"), 2);
    a_server_dies(&mut cluster, 2, || {});
}

#[test]
fn three_servers_on_etcd_whose_leader_dies_too() {
    let mut etcd = etcd(3);
    let mut cluster = Cluster::start_on(&etcd.url("three"), 3);
    a_server_dies(&mut cluster, 3, || {
        let leader = eventually("there is a leader", || etcd.leader());
        etcd.kill(leader);
        etcd.restart(leader).unwrap_or_else(|error| panic!("{error}"));
    });
}

/// A lock that is given back at one server is told to whoever waits at another.
#[test]
fn a_waiter_hears_of_a_lock_that_goes_at_another_server() {
    let etcd = etcd(1);
    let cluster = Cluster::start_on(&etcd.url("locks"), 2);
    cluster.run_with(b"x", ["put", "-q", "-", "/f"]).quiet();
    let inode: u64 = cluster.run(["stat", "--json", "/f"]).json()[0]["inode"].as_u64().unwrap();
    let (here, there) = (cluster.meta_port(1), cluster.meta_port(2));
    let session = |port| match wire::ask(port, Kind::OpenSession(pb::OpenSession::default())).unwrap() {
        Reply::OpenSession(reply) => reply,
        other => panic!("{other:?}"),
    };
    let (holder, waiter) = (session(here), session(there));
    let lock = |mode: pb::LockMode| pb::LockAsk {
        inode,
        kind: pb::LockKind::Flock.into(),
        mode: mode.into(),
        owner: 1,
        ..Default::default()
    };
    let set = |port, mode, of: &pb::OpenSessionReply, seq| {
        let op = pb::OpId { session: of.session, epoch: of.epoch, slot: 0, seq };
        wire::ask_as(port, Some(op), Kind::SetLock(pb::SetLock { lock: Some(lock(mode)) }))
    };
    set(here, pb::LockMode::Exclusive, &holder, 1).unwrap();
    set(there, pb::LockMode::Exclusive, &waiter, 1).unwrap_err();
    let wait = || {
        let ask = pb::WaitLock {
            session: waiter.session,
            epoch: waiter.epoch,
            lock: Some(lock(pb::LockMode::Exclusive)),
            wait_ms: 60_000,
            ..Default::default()
        };
        match wire::ask(there, Kind::WaitLock(ask)).unwrap() {
            Reply::WaitLock(told) => told.free,
            other => panic!("{other:?}"),
        }
    };
    assert!(!wait(), "held at the other server, and answered after a moment");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| eventually("the waiter is told", || wait().then_some(())));
        set(here, pb::LockMode::Unlock, &holder, 2).unwrap();
        waiting.join().unwrap();
    });
    set(there, pb::LockMode::Exclusive, &waiter, 2).unwrap();
    set(here, pb::LockMode::Exclusive, &holder, 3).unwrap_err();
}

#[test]
fn several_servers_need_an_engine_to_share() {
    let refused = |args: &[&str]| {
        let mut command = super::support::cairn();
        Done::from(command.args(["up", "--metas", "2", "--data", "/nowhere"]).args(args).output().unwrap())
    };
    refused(&[]).fails(2, &["--metas", "postgres://", "single process"]);
    refused(&["--engine", "file:/nowhere/meta"]).fails(2, &["--metas", "etcd://"]);
}
