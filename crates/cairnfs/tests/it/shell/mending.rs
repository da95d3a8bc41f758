//! What follows a restored backup.

use super::support::Cluster;

#[test]
fn nothing_is_accepted_where_nothing_was_rolled_back() {
    let cluster = Cluster::start();
    let done = cluster.run(["admin", "accept-rollback", "--yes"]);
    assert!(!done.stderr.contains("older than this command"), "{done:?}");
    cluster.run_with(b"kept", ["put", "-q", "-", "/kept"]).quiet();
    assert_eq!(cluster.run(["cat", "/kept"]).quiet(), "kept");
}
