//! `cairn admin`: what operators do.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use super::{
    support::{Cluster, Done, cairn, eventually, send},
    tree::noise,
};

#[test]
fn what_is_named_wrongly_is_told() {
    let usage = |args: &[&str], says: &[&str]| {
        Done::from(cairn().arg("admin").args(args).output().unwrap()).fails(2, says);
    };
    usage(&["drain", "nod:x"], &["node:3", "store:7"]);
    usage(&["drain"], &["NODE|STORE"]);
    usage(&["drain", "1", "--dry-run", "--wait"], &["--dry-run", "--wait"]);
    usage(&["scrub", "--store", "node:1"], &["store:7"]);
    usage(&["ledger", "--limit", "0"], &["1 to 1000000"]);
    usage(&["accept-rollback"], &["--yes"]);
    usage(&["collect"], &["--accept"]);
    usage(&["give-up", "node:1", "--wait"], &["--yes"]);
    let help = Done::from(cairn().args(["admin", "--help"]).output().unwrap()).quiet();
    assert!(help.contains("`node:3`") && help.contains("bare number"), "{help}");
}

#[test]
fn what_is_not_in_the_cluster_is_told_with_what_is() {
    let cluster = Cluster::start();
    let known = format!("node:1 (127.0.0.1:{})", cluster.base_port + 1);
    cluster.run(["admin", "drain", "9"]).fails(1, &["cairn admin: node:9: not in this cluster", &known, "store:"]);
    cluster.run(["admin", "scrub", "--store", "99"]).fails(1, &["store:99: not in this cluster"]);
    cluster.run(["admin", "ledger", "127.0.0.1:1"]).fails(1, &["127.0.0.1:1: not in this cluster"]);
}

/// The store of a node, as `status` shows it.
fn store_of(status: &Value, node: u64) -> &Value {
    let nodes = status["nodes"].as_array().unwrap();
    &nodes.iter().find(|found| found["id"] == node).unwrap()["stores"][0]
}

#[test]
fn a_node_is_drained_and_added_again() {
    let mut cluster = Cluster::start_nodes(4);
    let content = noise(1, 20_000_000);
    cluster.run_with(&content, ["put", "-q", "-", "/x"]).quiet();
    let groups = |cluster: &Cluster, node| store_of(&cluster.status(), node)["groups"].as_u64().unwrap();
    eventually("the fourth node is in use", || (groups(&cluster, 4) > 0).then_some(()));

    let before = groups(&cluster, 4);
    let plan = cluster.run(["admin", "drain", "node:4", "--dry-run", "--json"]).json();
    assert_eq!((&plan["dry_run"], &plan["task"]["kind"]), (&true.into(), &"drain".into()), "{plan}");
    assert_eq!((&plan["task"]["id"], plan["task"]["moves_total"].as_u64()), (&0.into(), Some(before)), "{plan}");
    assert_eq!(plan["moves"].as_array().unwrap().len() as u64, before, "{plan}");
    let stores = plan["stores"].as_array().unwrap();
    let giver = stores.iter().find(|store| store["node"] == 4).unwrap();
    assert_eq!((giver["moves_out"].as_u64(), giver["moves_in"].as_u64()), (Some(before), Some(0)), "{plan}");
    assert_eq!(cluster.run(["admin", "tasks"]).quiet(), "no tasks\n", "nothing was begun");
    let text = cluster.run(["admin", "drain", "4", "--dry-run"]).quiet();
    assert!(text.starts_with("drain node:4: ") && text.ends_with("nothing was done (--dry-run)\n"), "{text}");

    // Metadata is killed while the drain goes on, and those who wait for it do not notice.
    let mut command = cluster.command(["admin", "drain", "node:4", "--wait", "--json"]);
    let drain = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the drain has begun", || {
        let tasks = cluster.run(["admin", "tasks", "--json"]).json();
        tasks.as_array().unwrap().first().cloned()
    });
    send(cluster.pid("meta-1"), Signal::KILL);
    eventually("up tells", || cluster.said().contains("meta-1 (process").then_some(()));
    cluster.start_by_hand("meta-1");
    let drained = Done::from(drain.wait_with_output().unwrap());
    let drained: Value = serde_json::from_slice(&drained.stdout).unwrap_or_else(|_| panic!("{drained:?}"));
    let task = &drained["task"];
    assert_eq!((task["state"].as_str(), &task["moves_done"]), (Some("done"), &task["moves_total"]), "{drained}");
    let status = cluster.status();
    let store = store_of(&status, 4);
    assert_eq!((&store["draining"], store["groups"].as_u64()), (&true.into(), Some(0)), "{status}");
    assert!(cluster.run(["fsck", "-q"]).quiet().contains("healthy: 0 defects"));
    // With three nodes and three replicas, no other can go.
    cluster.run(["admin", "drain", "node:3"]).fails(1, &["cairn admin: ", "3"]);
    send(cluster.pid("node-4"), Signal::KILL);
    assert!(cluster.run(["cat", "/x"]).stdout == content);
    cluster.start_by_hand("node-4");

    eventually("the node is known to be back", || (cluster.status()["nodes"][3]["state"] == "up").then_some(()));
    let added = cluster.run(["admin", "add", "node:4", "--wait"]);
    assert_eq!(added.code, 0, "{added:?}");
    let status = cluster.status();
    assert_eq!(store_of(&status, 4)["draining"], false, "{status}");
    assert!(cluster.run(["cat", "/x"]).stdout == content);
    let tasks = cluster.run(["admin", "tasks"]).quiet();
    assert!(tasks.contains("drain node:4") && tasks.contains("add node:4") && tasks.contains("done"), "{tasks}");
    cluster.run(["admin", "cancel", "987654"]).fails(1, &["987654"]);
}

#[test]
fn a_dead_node_is_given_up() {
    let cluster = Cluster::start_nodes(4);
    let content = noise(2, 20_000_000);
    cluster.run_with(&content, ["put", "-q", "-", "/x"]).quiet();
    eventually("the fourth node is in use", || {
        (store_of(&cluster.status(), 4)["groups"].as_u64() > Some(0)).then_some(())
    });
    send(cluster.pid("node-4"), Signal::KILL);
    let up = |cluster: &Cluster| cluster.status()["nodes"][3]["state"] == "up";
    eventually("metadata misses it", || (!up(&cluster)).then_some(()));
    // Without a yes it is only told what would be done.
    let plan = cluster.run(["admin", "give-up", "node:4", "--json"]).json();
    assert_eq!((&plan["dry_run"], &plan["task"]["kind"]), (&true.into(), &"give-up".into()), "{plan}");
    assert_eq!(cluster.run(["admin", "tasks"]).quiet(), "no tasks\n", "nothing was begun");
    let given_up = cluster.run(["admin", "give-up", "node:4", "--yes", "--wait"]);
    assert_eq!(given_up.code, 0, "{given_up:?}");
    let status = cluster.status();
    assert_eq!(store_of(&status, 4)["groups"], 0, "{status}");
    assert_eq!(status["degraded_runs"], 0, "nothing waits for it: {status}");
    assert!(cluster.run(["fsck", "-q"]).quiet().contains("healthy: 0 defects"));
    assert!(cluster.run(["cat", "/x"]).stdout == content);
}

#[test]
fn a_scrub_that_is_waited_for_ends_beside_a_frozen_node() {
    let cluster = Cluster::start_processes();
    cluster.run_with(&noise(3, 1_000_000), ["put", "-q", "-", "/x"]).quiet();
    let frozen = cluster.pid("node-2");
    send(frozen, Signal::STOP);
    let named = format!("cairn admin scrub: node:2: node 2 at 127.0.0.1:{} does not answer", cluster.base_port + 2);
    let done = cluster.run(["admin", "scrub", "--wait", "--json"]);
    let stores: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let through: Vec<bool> = stores.as_array().unwrap().iter().map(|store| store["running"] == false).collect();
    assert_eq!(through, [true, true], "those of the others: {stores}");
    done.fails(1, &[&named]);
    send(frozen, Signal::CONT);
    assert_eq!(cluster.run(["admin", "scrub", "--wait"]).code, 0);
}

#[test]
fn what_would_break_the_replica_count_is_refused() {
    let cluster = Cluster::start();
    for args in [&["drain", "node:1"][..], &["drain", "node:1", "--dry-run"], &["drain", "node:1", "--wait"]] {
        cluster.run([&["admin"], args].concat()).fails(1, &["cairn admin: "]);
    }
    assert_eq!(cluster.run(["admin", "tasks", "--json"]).json(), serde_json::json!([]));
    // One that answers is not given up, and nothing goes on that was not stopped.
    cluster.run(["admin", "give-up", "node:1"]).fails(1, &["answers: drain it instead"]);
    cluster.run(["admin", "collect", "--accept"]).fails(1, &["collection is not stopped"]);
    let balance = cluster.run(["admin", "balance", "--dry-run", "--json"]).json();
    assert_eq!(balance["task"]["moves_total"], 0, "nothing is uneven: {balance}");
}
