//! Waits until a cluster can be written to.

use std::{net::SocketAddr, time::Duration};

use cairn_client::{ClusterStatus, DfsClient};

use super::layout::Layout;
use crate::{failure::Failure, text};

const POLL: Duration = Duration::from_millis(50);

/// What is still missing before files can be written, in words; `None` when nothing is.
fn missing(status: &ClusterStatus, nodes: &[SocketAddr]) -> Option<String> {
    let is_up = |addr: &SocketAddr| {
        let addr = addr.to_string();
        status.nodes.iter().any(|node| node.addr == addr && node.state == "up")
    };
    let away: Vec<String> = nodes.iter().filter(|addr| !is_up(addr)).map(ToString::to_string).collect();
    if !away.is_empty() {
        return Some(format!("{} not registered: {}", text::noun(away.len() as u64, "node"), away.join(", ")));
    }
    if status.groups.iter().all(|group| group.sealed) {
        return Some("no placement group takes blocks".to_owned());
    }
    None
}

/// Returns when every node is registered and a placement group takes blocks.
///
/// # Errors
/// It did not come to that in the given time; the message says what was missing.
pub async fn wait(layout: &Layout, limit: Duration) -> Result<(), Failure> {
    let nodes: Vec<SocketAddr> = layout.roles().filter(|role| !role.is_meta()).map(|role| layout.addr(role)).collect();
    let meta = layout.meta_addrs();
    let mut lacks = format!("metadata at {meta} does not answer");
    let poll = async {
        let client = loop {
            match DfsClient::new(&meta).await {
                Ok(client) => break client,
                Err(error) => lacks = format!("metadata at {meta} does not answer: {error}"),
            }
            tokio::time::sleep(POLL).await;
        };
        loop {
            match client.cluster_status().await {
                Ok(status) => match missing(&status, &nodes) {
                    None => break,
                    Some(what) => lacks = what,
                },
                Err(error) => lacks = format!("metadata at {meta} does not answer: {error}"),
            }
            tokio::time::sleep(POLL).await;
        }
        client.close().await;
    };
    let waited = tokio::time::timeout(limit, poll).await;
    waited.map_err(|_| Failure::at("the cluster", format_args!("not ready after {} s: {lacks}", limit.as_secs())))
}
