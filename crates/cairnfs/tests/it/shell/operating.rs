//! `cairn admin`: what operators do.

use super::support::{Cluster, cairn};

#[test]
fn what_is_named_wrongly_is_told() {
    let usage = |args: &[&str], says: &[&str]| {
        super::support::Done::from(cairn().arg("admin").args(args).output().unwrap()).fails(2, says);
    };
    usage(&["drain", "nod:x"], &["node:3", "store:7"]);
    usage(&["drain"], &["NODE|STORE"]);
    usage(&["drain", "1", "--dry-run", "--wait"], &["--dry-run", "--wait"]);
    usage(&["scrub", "--store", "node:1"], &["store:7"]);
    usage(&["ledger", "--limit", "0"], &["1 to 1000000"]);
    usage(&["accept-rollback"], &["--yes"]);
    let help = super::support::Done::from(cairn().args(["admin", "--help"]).output().unwrap()).quiet();
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
