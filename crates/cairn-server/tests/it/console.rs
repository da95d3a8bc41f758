//! The console port: pages, readiness in trouble, bounds, and what the servers say of their work.

use crate::support::{Cluster, content, eventually};
use cairn_proto::pb::{self, request::Kind};
use cairn_server::{ConsolePlace, LocalConsoles, MetaServer, MetaServerConfig, NodeServer, StartError, TcpNet};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends bytes, reads until the server closes.
async fn raw(addr: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Status and body of a GET.
async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let answer = raw(addr, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    let status = answer.split(' ').nth(1).unwrap_or_default().parse().unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}

/// A measurement, by its line without the value.
fn value(page: &str, line: &str) -> Option<f64> {
    page.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' ')?.parse().ok())
}

fn whats(body: &str) -> Vec<String> {
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    body["reasons"].as_array().unwrap().iter().map(|reason| reason["what"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_shows_what_it_did() {
    let mut cluster = Cluster::start().await;
    let stored = cluster.client.write_file("a", content(100_000, 1)).await;
    let meta = cluster.meta.as_ref().unwrap().console_addr().unwrap();
    let node = cluster.nodes[0].as_ref().unwrap();
    let store = cluster.client.store_at(&node.addr().to_string()).await;
    assert!(cluster.client.holds(store, &stored).await);
    let missing = pb::BlockId { inode: 99, writer: 99, seq: 99 };
    let ask = pb::GetBlock { block: Some(missing), store, pg: stored.pg, ..Default::default() };
    cluster.client.node(store, Kind::Get(ask), Default::default()).await.unwrap_err();

    let (status, page) = get(node.console_addr().unwrap(), "/metrics").await;
    assert_eq!(status, 200);
    let of = |line: &str| value(&page, line);
    assert_eq!(of("cairn_server_requests_total{op=\"put\",outcome=\"ok\"}"), Some(1.0), "{page}");
    assert_eq!(of("cairn_server_requests_total{op=\"get\",outcome=\"ok\"}"), Some(1.0));
    assert_eq!(of("cairn_server_requests_total{op=\"get\",outcome=\"block_not_found\"}"), Some(1.0));
    assert_eq!(of("cairn_server_request_bytes_total{op=\"put\"}"), Some(100_000.0));
    assert_eq!(of("cairn_server_response_bytes_total{op=\"get\"}"), Some(100_000.0));
    assert_eq!(of(&format!("cairn_node_store_blocks{{store=\"{store}\"}}")), Some(1.0));
    assert_eq!(of(&format!("cairn_node_store_writable{{store=\"{store}\"}}")), Some(1.0));
    assert!(of(&format!("cairn_node_disk_duration_seconds_count{{store=\"{store}\",op=\"sync\"}}")) > Some(0.0));
    assert!(of(&format!("cairn_node_disk_bytes_total{{store=\"{store}\",op=\"write\"}}")) > Some(100_000.0));
    assert!(of(&format!("cairn_node_store_sync_waiters_total{{store=\"{store}\"}}")) >= Some(1.0));
    assert_eq!(of("cairn_node_registered"), Some(1.0));
    assert!(of("cairn_node_heartbeat_age_seconds").is_some());
    assert!(of("cairn_server_io_bytes_total{direction=\"received\"}") > Some(100_000.0));

    let (status, page) = get(meta, "/metrics").await;
    assert_eq!(status, 200);
    let of = |line: &str| value(&page, line);
    assert_eq!(of("cairn_server_requests_total{op=\"publish\",outcome=\"ok\"}"), Some(1.0), "{page}");
    assert!(of("cairn_meta_commits_total") >= of("cairn_meta_commit_groups_total"));
    assert!(of("cairn_meta_commit_groups_total") > Some(0.0));
    assert_eq!(of("cairn_meta_nodes{state=\"up\"}"), Some(3.0));
    assert_eq!(of("cairn_meta_inodes"), Some(2.0));
    assert_eq!(of("cairn_meta_file_bytes"), Some(100_000.0));
    assert_eq!(of("cairn_meta_sessions"), Some(1.0));
    assert_eq!(of("cairn_server_clients"), Some(1.0));
    assert_eq!(of("cairn_meta_degraded_runs"), Some(0.0));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness_are_told() {
    let mut cluster = Cluster::start().await;
    let meta = cluster.meta.as_ref().unwrap().console_addr().unwrap();
    let consoles: Vec<SocketAddr> =
        cluster.nodes.iter().map(|node| node.as_ref().unwrap().console_addr().unwrap()).chain([meta]).collect();
    for console in &consoles {
        assert_eq!(get(*console, "/healthz").await, (200, "{\"healthy\":true,\"reasons\":[]}\n".to_owned()));
        assert_eq!(get(*console, "/readyz").await.0, 200);
    }
    // Metadata that is away makes nodes unready, and leaves them healthy.
    cluster.meta.take().unwrap().stop().await;
    eventually("the node misses its metadata", async || get(consoles[0], "/readyz").await.0 == 503).await;
    let (_, body) = get(consoles[0], "/readyz").await;
    assert_eq!(whats(&body), ["not_registered"]);
    assert_eq!(get(consoles[0], "/healthz").await.0, 200);
    let (_, page) = get(consoles[0], "/metrics").await;
    assert_eq!(value(&page, "cairn_node_registered"), Some(0.0));
    assert!(value(&page, "cairn_node_heartbeat_failures_total") > Some(0.0));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_without_nodes_takes_no_writes() {
    let dir = tempfile::tempdir().unwrap();
    let config = MetaServerConfig::new(dir.path(), "127.0.0.1:0");
    let meta = MetaServer::start(config, Arc::new(TcpNet)).await.unwrap();
    let console = meta.console_addr().unwrap();
    let (status, body) = get(console, "/readyz").await;
    assert_eq!((status, whats(&body)), (503, vec!["no_placement".to_owned()]));
    assert_eq!(get(console, "/healthz").await.0, 200);
    meta.stop().await;
    assert!(TcpStream::connect(console).await.is_err(), "the console ends with its server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_is_not_ready() {
    let small = |config: &mut cairn_server::LocalClusterConfig| {
        config.store.capacity_bytes = Some(32 << 20);
        config.store.reserve_bytes = Some(1 << 20);
    };
    let mut cluster = Cluster::start_with(small).await;
    let node = cluster.nodes[0].as_ref().unwrap();
    let (console, addr) = (node.console_addr().unwrap(), node.addr().to_string());
    assert_eq!(get(console, "/readyz").await.0, 200);
    let store = cluster.client.store_at(&addr).await;
    for n in 0.. {
        let stored = cluster.client.write_file(&format!("f{n}"), content(4 << 20, n)).await;
        let beat = cluster.client.node_status(&addr).await.stores.remove(0);
        if beat.trouble == "full" {
            break;
        }
        assert!(cluster.client.holds(store, &stored).await, "it is full before it says so");
    }
    let (status, body) = get(console, "/readyz").await;
    assert_eq!((status, whats(&body)), (503, vec!["store_full".to_owned()]));
    let (_, page) = get(console, "/metrics").await;
    assert_eq!(value(&page, &format!("cairn_node_store_writable{{store=\"{store}\"}}")), Some(0.0));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_three_pages_and_two_methods() {
    let cluster = Cluster::start_with(|config| (config.nodes, config.replicas) = (1, 1)).await;
    let console = cluster.meta.as_ref().unwrap().console_addr().unwrap();
    for path in ["/", "/metrics/", "/nothing", "//metrics"] {
        assert_eq!(get(console, path).await.0, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = raw(console, format!("{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        assert!(answer.contains("allow: GET, HEAD"), "{answer}");
    }
    let head = raw(console, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
    let garbage = raw(console, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").await;
    assert!(garbage.is_empty() || garbage.starts_with("HTTP/1.1 400 "), "{garbage}");
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let answer = raw(console, long.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(100));
    let answer = raw(console, many.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // A body is never waited for.
    let body = raw(console, b"GET /healthz HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n").await;
    assert!(body.starts_with("HTTP/1.1 200 "), "{body}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_keep_others_out() {
    let cluster = Cluster::start_with(|config| (config.nodes, config.replicas) = (1, 1)).await;
    let console = cluster.meta.as_ref().unwrap().console_addr().unwrap();
    let mut silent = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(console).await.unwrap();
        stream.write_all(b"GET /metr").await.unwrap();
        silent.push(stream);
    }
    // More than the console takes at once: they are ended before this is answered.
    assert_eq!(get(console, "/healthz").await.0, 200);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_port_that_is_taken_stops_the_start() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = MetaServerConfig {
        console: ConsolePlace::At(addr),
        ..MetaServerConfig::new(dir.path().join("meta"), "127.0.0.1:0")
    };
    let error = MetaServer::start(config.clone(), Arc::new(TcpNet)).await.err().unwrap();
    assert!(matches!(error, StartError::Console { addr: refused, .. } if refused == addr), "{error}");
    let off = MetaServerConfig { console: ConsolePlace::Off, ..config };
    let meta = MetaServer::start(off, Arc::new(TcpNet)).await.unwrap();
    assert_eq!(meta.console_addr(), None);
    meta.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_consoles() {
    let cluster = Cluster::start_with(|config| config.consoles = LocalConsoles::Off).await;
    assert_eq!(cluster.meta.as_ref().unwrap().console_addr(), None);
    assert!(cluster.nodes.iter().flatten().map(NodeServer::console_addr).all(|addr| addr.is_none()));
    cluster.stop().await;
}
