//! Processes are killed; users notice nothing, or get what they were promised.

use std::{
    fs,
    io::Write,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rustix::process::Signal;

use super::{
    support::{Cluster, eventually, runs, send},
    tree::{differences, noise},
};

/// Many small files and some big ones.
fn make_files(root: &std::path::Path) {
    for index in 0..1500_u64 {
        let dir = root.join(format!("{}/{}", index % 7, index % 11));
        fs::create_dir_all(&dir).unwrap();
        let len = if index % 100 == 0 { 3_000_000 } else { index * 61 % 30_000 };
        fs::write(dir.join(index.to_string()), noise(index, len as usize)).unwrap();
    }
}

#[test]
fn a_node_killed_while_files_are_put_is_not_noticed() {
    let mut cluster = Cluster::start_processes();
    let tree = cluster.path("tree");
    make_files(&tree);
    let put = cluster
        .command(["put", "-r", tree.to_str().unwrap(), "/tree"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("some files are there", || (cluster.status()["inodes"].as_u64()? > 100).then_some(()));
    let killed = cluster.pid("node-2");
    send(killed, Signal::KILL);
    let put = super::support::Done::from(put.wait_with_output().unwrap());
    assert_eq!(put.quiet(), "");
    eventually("up tells", || cluster.said().contains("node-2 (process").then_some(()));
    assert!(cluster.said().contains("was killed by signal 9; it is not started again"), "{}", cluster.said());
    cluster.run(["get", "-r", "/tree", cluster.path("out").to_str().unwrap()]).quiet();
    assert_eq!(differences(&tree, &cluster.path("out")), [""; 0]);
    assert!(cluster.status()["degraded_runs"].as_u64().unwrap() > 0, "the node lacks what was written without it");

    cluster.start_by_hand("node-2");
    eventually("nothing is degraded", || (cluster.status()["degraded_runs"] == 0).then_some(()));
    // With another node dead, what the first one has caught up with is needed.
    send(cluster.pid("node-1"), Signal::KILL);
    cluster.run(["get", "-r", "/tree", cluster.path("again").to_str().unwrap()]).quiet();
    assert_eq!(differences(&tree, &cluster.path("again")), [""; 0]);

    // The end: `up` stops its own children, and leaves alone what a user started.
    let pids = cluster.pids();
    let by_hand = cluster.pid("node-2");
    assert_eq!(cluster.end_up(Signal::TERM).code(), Some(0));
    assert!(pids.iter().all(|pid| *pid == by_hand || !runs(*pid)), "{pids:?}");
    assert!(runs(by_hand));
    assert_eq!(cluster.pids(), [by_hand], "pid files are removed");
}

#[test]
fn what_was_acknowledged_survives_when_everything_is_killed() {
    const WRITERS: u64 = 4;
    let mut cluster = Cluster::start_processes();
    cluster.run(["mkdir", "/w"]).quiet();
    let dead = AtomicBool::new(false);
    let content = |writer: u64, index: u64| noise(writer << 32 | index, [100, 20_000, 700_000][(index % 3) as usize]);
    // Each writer puts file after file until everything is dead; it knows how many were acknowledged.
    let writer = |cluster: &Cluster, writer: u64| {
        let mut acknowledged = 0;
        while !dead.load(Ordering::Relaxed) {
            let mut command = cluster.command(["put", "-", &format!("/w/{writer}-{acknowledged}")]);
            let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let mut child = child.unwrap();
            let mut pipe = child.stdin.take().unwrap();
            // When the put has failed, nobody reads.
            let _ = std::io::Write::write_all(&mut pipe, &content(writer, acknowledged));
            drop(pipe);
            let done = eventually("the put ends, or everything is dead", || {
                let ended = child.try_wait().unwrap();
                ended.map(|status| status.success()).or(dead.load(Ordering::Relaxed).then_some(false))
            });
            // It may still be trying.
            let _ = child.kill();
            let _ = child.wait();
            if !done {
                break;
            }
            acknowledged += 1;
        }
        acknowledged
    };
    let acknowledged: Vec<u64> = thread::scope(|scope| {
        let cluster = &cluster;
        let writers: Vec<_> = (0..WRITERS).map(|number| scope.spawn(move || writer(cluster, number))).collect();
        eventually("files are there", || (cluster.status()["inodes"].as_u64()? > 40).then_some(()));
        for pid in cluster.pids() {
            send(pid, Signal::KILL);
        }
        dead.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    assert_eq!(cluster.wait_for_up().code(), Some(1), "nothing is left to wait for");
    assert!(cluster.said().contains("all its processes are dead"), "{}", cluster.said());

    cluster.up();
    assert!(acknowledged.iter().sum::<u64>() > 20, "{acknowledged:?}");
    cluster.run(["get", "-r", "/w", cluster.path("out").to_str().unwrap()]).quiet();
    for (writer, acknowledged) in acknowledged.iter().enumerate() {
        // The one behind the last acknowledged is whole or absent.
        for index in 0..=*acknowledged {
            match fs::read(cluster.path(format!("out/{writer}-{index}"))) {
                Ok(read) => assert!(read == content(writer as u64, index), "{writer}-{index} is torn"),
                Err(error) => assert!(index == *acknowledged, "{writer}-{index} was acknowledged: {error}"),
            }
        }
    }
}

#[test]
fn servers_left_behind_are_named() {
    let mut cluster = Cluster::start_processes();
    cluster.run_with(b"kept", ["put", "-", "/kept"]).quiet();
    let pids = cluster.pids();
    cluster.end_up(Signal::KILL);
    assert!(pids.iter().all(|pid| runs(*pid)), "children outlive a killed `up`");
    assert_eq!(cluster.run(["cat", "/kept"]).quiet(), "kept");
    let complaint = cluster.try_up().unwrap_err();
    assert!(complaint.contains(&format!("meta-1 still runs as process {}", pids[0])), "{complaint}");
    for pid in &pids {
        send(*pid, Signal::KILL);
    }
    eventually("they are gone", || pids.iter().all(|pid| !runs(*pid)).then_some(()));
    cluster.up();
    assert_eq!(cluster.run(["cat", "/kept"]).quiet(), "kept");
    let second = cluster.command(["up", "--processes", "--data", cluster.data.to_str().unwrap()]).output().unwrap();
    super::support::Done::from(second).fails(1, &["is in use by another `cairn up`, process"]);
    assert_eq!(cluster.end_up(Signal::INT).code(), Some(0));
    assert_eq!(cluster.pids(), [0; 0]);
}

/// A frozen node keeps its connections and answers nothing. Frozen after it took blocks and before they were synced, it
/// must not be waited for.
#[test]
fn a_node_frozen_in_the_middle_of_a_stream_is_not_noticed() {
    let cluster = Cluster::start_processes();
    for (round, victim) in ["node-1", "node-2", "node-3"].into_iter().enumerate() {
        let content = noise(round as u64, 90_000_000);
        let target = format!("/stream-{round}");
        let mut put = cluster
            .command(["put", "-", &target])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = put.stdin.take().unwrap();
        let (before, after) = content.split_at(30_000_000);
        stdin.write_all(before).unwrap();
        send(cluster.pid(victim), Signal::STOP);
        stdin.write_all(after).unwrap();
        drop(stdin);
        let put = super::support::Done::from(put.wait_with_output().unwrap());
        assert_eq!(put.quiet(), "");
        let copy = cluster.path(format!("copy-{round}"));
        cluster.run(["get", &target, copy.to_str().unwrap()]).quiet();
        assert!(fs::read(&copy).unwrap() == content);
        send(cluster.pid(victim), Signal::CONT);
        eventually("nothing is degraded", || (cluster.status()["degraded_runs"] == 0).then_some(()));
    }
}
