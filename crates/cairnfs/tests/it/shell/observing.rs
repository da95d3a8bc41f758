//! Metrics, health and readiness of a real cluster, as a watching machine sees them.

use rustix::process::Signal;

use super::support::{CONSOLE_STEP, Cluster, eventually, http_get, send};

fn status(port: u16, path: &str) -> u16 {
    http_get(port, path).map_or(0, |(status, _)| status)
}

#[test]
fn every_role_of_up_has_a_console() {
    let cluster = Cluster::start();
    for number in 0..4 {
        let port = cluster.base_port + CONSOLE_STEP + number;
        assert!(cluster.greeting.contains(&format!("http://127.0.0.1:{port}\n")), "{}", cluster.greeting);
        assert_eq!(status(port, "/healthz"), 200);
        assert_eq!(status(port, "/readyz"), 200);
        let (status, page) = http_get(port, "/metrics").unwrap();
        let role = if number == 0 { "meta" } else { "node" };
        assert_eq!(status, 200);
        assert!(page.contains(&format!("cairn_server_info{{role=\"{role}\",version=\"")), "{page}");
        assert!(page.ends_with("# EOF\n"));
    }
}

#[test]
fn processes_that_are_gone_are_seen_by_the_others() {
    let mut cluster = Cluster::start_processes();
    let console = |number: u16| cluster.base_port + CONSOLE_STEP + number;
    let (meta, first) = (console(0), console(1));
    assert_eq!((status(meta, "/readyz"), status(first, "/readyz")), (200, 200));
    send(cluster.pid("meta-1"), Signal::KILL);
    eventually("the node is not ready without metadata", || (status(first, "/readyz") == 503).then_some(()));
    assert_eq!(status(first, "/healthz"), 200);
    assert_eq!(status(meta, "/healthz"), 0);
    cluster.start_by_hand("meta-1");
    eventually("all are ready again", || {
        (status(meta, "/readyz") == 200 && status(first, "/readyz") == 200).then_some(())
    });
}

#[test]
fn a_client_shows_what_it_sees() {
    let mut cluster = Cluster::start_processes();
    let stats = cluster.run(["stats", "--json"]).json();
    assert_eq!((stats["failed_requests"].as_u64(), stats["success_rate"].as_f64()), (Some(0), Some(1.0)));
    assert!(stats["total_requests"].as_u64() >= Some(1) && stats["legs"].as_u64() >= Some(1), "{stats}");
    let nodes = stats["nodes"].as_array().unwrap();
    let numbers: Vec<u64> = nodes.iter().map(|node| node["node"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    for node in nodes {
        assert_eq!(node["state"], "closed", "{node}");
        assert!(node["ping"]["took"].as_f64().unwrap() > 0.0, "{node}");
        assert!(node["pool"]["dials"].as_u64() >= Some(1) && !node["last_received"].is_null(), "{node}");
    }
    let text = cluster.run(["stats"]).quiet();
    assert!(text.contains("100.00 % succeeded") && text.contains("LAST BYTE"), "{text}");
    // A node that is frozen is seen as silent.
    send(cluster.pid("node-2"), Signal::STOP);
    let stats = cluster.run(["stats", "--json"]).json();
    send(cluster.pid("node-2"), Signal::CONT);
    assert!(stats["nodes"][2]["ping"]["error"].is_string(), "{stats}");
    assert!(stats["nodes"][1]["ping"]["took"].is_number(), "{stats}");
    cluster.end_up(Signal::TERM);
}

#[test]
fn operations_are_explained_leg_by_leg() {
    let cluster = Cluster::start();
    cluster.run(["mkdir", "/d"]).quiet();
    let done = cluster.run_with(&vec![7; 3 << 20], ["put", "-q", "-", "/d/x"]);
    assert_eq!(done.code, 0, "{done:?}");

    let read = cluster.run(["explain", "read", "/d/x", "--offset", "1M", "--len", "64K", "--json"]).json();
    assert_eq!((read["bytes"].as_u64(), read["offset"].as_u64()), (Some(65_536), Some(1 << 20)), "{read}");
    let legs = |explained: &serde_json::Value, op: &str| -> Vec<serde_json::Value> {
        explained["legs"].as_array().unwrap().iter().filter(|leg| leg["op"] == op).cloned().collect()
    };
    let gets = legs(&read, "get");
    let won = gets.iter().find(|leg| leg["outcome"] == "ok").unwrap();
    assert_eq!(won["bytes_received"], 65_536, "{won}");
    assert!((1..=3).contains(&won["node"].as_u64().unwrap()), "{won}");
    assert!(won["took_us"].as_u64() >= won["network_us"].as_u64(), "{won}");
    assert_eq!(read["orders"][0]["replicas"].as_array().unwrap().len(), 3, "{read}");
    assert_eq!(read["orders"][0]["replicas"][0]["state"], "closed");

    let before = cluster.run(["ls", "-R", "--json", "/d"]).json();
    for target in ["/d", "/d/x", "/d/nothing-there"] {
        let write = cluster.run(["explain", "write", target, "--json"]).json();
        assert_eq!(write["bytes"], 1 << 20, "{write}");
        assert!(write["path"].as_str().unwrap().starts_with("/d/.cairn-explain-"), "{write}");
        assert!(legs(&write, "put").len() >= 3, "{write}");
        assert!(legs(&write, "commit").len() == 1 && write["writes"][0]["quorum"] == true, "{write}");
        let disk: u64 = legs(&write, "put").iter().map(|leg| leg["server_disk_us"].as_u64().unwrap()).sum();
        assert!(disk > 0, "writes wait for a disk: {write}");
        assert!(legs(&write, "commit")[0]["server_disk_us"].as_u64() > Some(0), "so do commits: {write}");
    }
    assert_eq!(cluster.run(["ls", "-R", "--json", "/d"]).json(), before, "nothing is left, nothing is changed");

    let text = cluster.run(["explain", "read", "/d/x"]).quiet();
    assert!(text.contains("3145728 bytes in") && text.contains("OUTCOME"), "{text}");
    cluster.run(["explain", "read", "/d/nothing"]).fails(1, &["/d/nothing", "no such file"]);
    cluster.run(["explain", "write", "/no/dir/x"]).fails(1, &["/no/dir"]);
    cluster.run(["explain", "read", "/d/x", "--len", "2G"]).fails(2, &["--len", "1G"]);
    cluster.run(["explain", "read", "relative"]).fails(2, &["relative"]);
}
