//! Scrub and ledger, and what follows a restored backup.

use std::{fs, os::unix::fs::FileExt};

use super::{inspecting::segments, support::Cluster, tree::noise};

#[test]
fn a_bad_byte_is_found_repaired_and_remembered() {
    let cluster = Cluster::start_processes();
    let content = noise(3, 500_000);
    cluster.run_with(&content, ["put", "-q", "-", "/x"]).quiet();
    let clean = cluster.run(["admin", "scrub", "--wait", "--json"]).json();
    let stores = clean.as_array().unwrap();
    assert_eq!(stores.len(), 3, "{clean}");
    for store in stores {
        assert!(store["last_complete"].is_string() && store["found"] == 0, "{clean}");
    }
    assert_eq!(cluster.run(["admin", "ledger"]).quiet(), "nothing was found wrong\n");

    let segment =
        segments(&cluster.data.join("node-2")).into_iter().find(|path| fs::metadata(path).unwrap().len() > 500_000);
    let file = fs::File::options().write(true).open(segment.unwrap()).unwrap();
    file.write_all_at(b"not what was written", 200_000).unwrap();
    let scrubbed = cluster.run(["admin", "scrub", "--node", "2", "--wait", "--json"]).json();
    let scrubbed = scrubbed.as_array().unwrap();
    assert_eq!((scrubbed.len(), &scrubbed[0]["node"]), (1, &2.into()), "{scrubbed:?}");
    assert_eq!((&scrubbed[0]["found"], &scrubbed[0]["repaired"]), (&1.into(), &1.into()), "{scrubbed:?}");
    let ledger = cluster.run(["admin", "ledger", "node:2", "--json"]).json();
    let entry = &ledger[0]["entries"][0];
    assert_eq!((&ledger[0]["open"], &entry["finder"]), (&0.into(), &"scrub".into()), "{ledger}");
    assert!(!entry["result"].as_str().unwrap().is_empty() && entry["closed"].is_string(), "{ledger}");
    assert_eq!(cluster.run(["admin", "ledger", "2", "--open", "--json"]).json()[0]["entries"], serde_json::json!([]));
    let text = cluster.run(["admin", "ledger"]).quiet();
    assert!(text.contains("scrub") && text.ends_with("0 entries open\n"), "{text}");
    let status = cluster.status();
    let shown = status["ledgers"].as_array().unwrap().iter().find(|ledger| ledger["node"] == 2).unwrap();
    assert_eq!(shown["entries"][0]["number"], entry["number"], "{status}");
    assert!(cluster.run(["fsck", "-q"]).quiet().contains("healthy: 0 defects"));
}

#[test]
fn nothing_is_accepted_where_nothing_was_rolled_back() {
    let cluster = Cluster::start();
    let done = cluster.run(["admin", "accept-rollback", "--yes"]);
    assert!(!done.stderr.contains("older than this command"), "{done:?}");
    cluster.run_with(b"kept", ["put", "-q", "-", "/kept"]).quiet();
    assert_eq!(cluster.run(["cat", "/kept"]).quiet(), "kept");
}
