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
