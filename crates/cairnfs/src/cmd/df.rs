//! `cairn df`.

use cairn_client::{ClusterStatus, FsRoom, NodeStatus};
use serde::Serialize;

use crate::{
    args,
    context::{Context, remote_path},
    failure::Failure,
    output::{Align, Out, Table},
    text,
};

#[derive(Serialize)]
struct Df<'a> {
    capacity_bytes: u64,
    used_bytes: u64,
    free_bytes: u64,
    file_bytes: u64,
    inodes: u64,
    /// Bytes of files that there is room for, at the root's number of copies.
    room_bytes: u64,
    replicas: u32,
    nodes: Vec<Node<'a>>,
}

#[derive(Serialize)]
struct Node<'a> {
    id: u64,
    addr: &'a str,
    state: &'a str,
    capacity_bytes: u64,
    used_bytes: u64,
    free_bytes: u64,
}

/// Runs the command.
pub async fn run(args: args::Df, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let client = context.connect().await?;
    let status = client.cluster_status().await.map_err(|error| Failure::cluster(&error))?;
    let room = client.statfs("/").await.map_err(|error| Failure::cluster(&error))?;
    let quota = match &args.path {
        Some(path) => {
            remote_path(path)?;
            client.quota(path).await.map_err(|error| Failure::client(path, &error))?
        }
        None => None,
    };
    client.close().await;
    if args.json {
        return out.json(&Df::of(&status, &room));
    }
    let size = |bytes| text::size(bytes, args.human_readable);
    let row = |name: String, addr: &str, state: &str, capacity: u64, used: u64| {
        let free = capacity.saturating_sub(used);
        [name, addr.to_owned(), state.to_owned(), size(capacity), size(used), size(free), percent(used, capacity)]
    };
    let mut table =
        Table::new(&[Align::Left, Align::Left, Align::Left, Align::Right, Align::Right, Align::Right, Align::Right]);
    table.row(["NODE", "ADDRESS", "STATE", "SIZE", "USED", "FREE", "USE%"].map(str::to_owned));
    for NodeStatus { id, addr, state, capacity_bytes, used_bytes, .. } in &status.nodes {
        table.row(row(id.to_string(), addr, state, *capacity_bytes, *used_bytes));
    }
    table.row(row("all".to_owned(), "", "", status.capacity_bytes, status.used_bytes));
    for line in table.lines() {
        out.line(line)?;
    }
    out.line(format_args!("in files: {} ({})", size(status.file_bytes), text::count(status.inodes, "inode")))?;
    let copies = if room.replicas == 1 { "1 copy".to_owned() } else { format!("{} copies", room.replicas) };
    out.line(format_args!("room for: {} at {copies}", size(room.free_bytes)))?;
    quota.map_or(Ok(()), |quota| super::quota::table(&[quota], out))
}

impl<'a> Df<'a> {
    fn of(status: &'a ClusterStatus, room: &FsRoom) -> Self {
        let node = |node: &'a NodeStatus| Node {
            id: u64::from(node.id),
            addr: &node.addr,
            state: &node.state,
            capacity_bytes: node.capacity_bytes,
            used_bytes: node.used_bytes,
            free_bytes: node.capacity_bytes.saturating_sub(node.used_bytes),
        };
        Self {
            capacity_bytes: status.capacity_bytes,
            used_bytes: status.used_bytes,
            free_bytes: status.capacity_bytes.saturating_sub(status.used_bytes),
            file_bytes: status.file_bytes,
            inodes: status.inodes,
            room_bytes: room.free_bytes,
            replicas: room.replicas,
            nodes: status.nodes.iter().map(node).collect(),
        }
    }
}

/// A share in percent, rounded up as `df` does.
fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => format!("{}%", (u128::from(part) * 100).div_ceil(u128::from(whole))),
    }
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn percentages_are_rounded_up() {
        assert_eq!(percent(0, 10), "0%");
        assert_eq!(percent(1, 1000), "1%");
        assert_eq!(percent(u64::MAX, u64::MAX), "100%");
        assert_eq!(percent(0, 0), "-");
    }
}
