//! `cairn status`.

use cairn_client::{ClusterStatus, Defect, GroupStatus, MemberStatus, NodeStatus, StoreStatus};
use serde::Serialize;

use crate::{
    args,
    context::Context,
    failure::Failure,
    output::{Align, Out, Table},
    text,
};

/// Defects and groups that the text shows; JSON has all.
const SHOWN_MAX: usize = 20;

#[derive(Serialize)]
struct Status<'a> {
    cluster_id: &'a str,
    engine: &'a str,
    degraded_runs: u64,
    garbage_runs: u64,
    inodes: u64,
    file_bytes: u64,
    capacity_bytes: u64,
    used_bytes: u64,
    sessions: u64,
    nodes: Vec<Node<'a>>,
    groups: Vec<Group<'a>>,
    defects: Vec<DefectJson<'a>>,
}

#[derive(Serialize)]
struct Node<'a> {
    id: u64,
    addr: &'a str,
    state: &'a str,
    zone: &'a str,
    rack: &'a str,
    host: &'a str,
    capacity_bytes: u64,
    used_bytes: u64,
    blocks: u64,
    stores: Vec<Store<'a>>,
}

#[derive(Serialize)]
struct Store<'a> {
    id: u64,
    capacity_bytes: u64,
    used_bytes: u64,
    blocks: u64,
    quarantined: u64,
    trouble: &'a str,
    alarm: &'a str,
}

#[derive(Serialize)]
struct Group<'a> {
    id: u64,
    epoch: u64,
    replicas: u64,
    sealed: bool,
    bytes: u64,
    members: Vec<Member<'a>>,
}

#[derive(Serialize)]
struct Member<'a> {
    store: u64,
    state: &'a str,
}

#[derive(Serialize)]
struct DefectJson<'a> {
    node: u64,
    store: u64,
    block: &'a str,
    cause: &'a str,
    repaired: bool,
}

/// Runs the command.
pub async fn run(args: args::Status, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let client = context.connect().await?;
    let status = client.cluster_status().await.map_err(|error| Failure::cluster(&error))?;
    client.close().await;
    if args.json { out.json(&Status::of(&status)) } else { write(&status, out) }
}

impl<'a> Status<'a> {
    fn of(status: &'a ClusterStatus) -> Self {
        Self {
            cluster_id: &status.cluster_id,
            engine: &status.engine,
            degraded_runs: status.degraded_runs,
            garbage_runs: status.garbage_runs,
            inodes: status.inodes,
            file_bytes: status.file_bytes,
            capacity_bytes: status.capacity_bytes,
            used_bytes: status.used_bytes,
            sessions: status.sessions,
            nodes: status.nodes.iter().map(Node::of).collect(),
            groups: status.groups.iter().map(Group::of).collect(),
            defects: status.defects.iter().map(DefectJson::of).collect(),
        }
    }
}

impl<'a> Node<'a> {
    fn of(node: &'a NodeStatus) -> Self {
        let store = |store: &'a StoreStatus| Store {
            id: u64::from(store.id),
            capacity_bytes: store.capacity_bytes,
            used_bytes: store.used_bytes,
            blocks: store.blocks,
            quarantined: u64::from(store.quarantined),
            trouble: &store.trouble,
            alarm: &store.alarm,
        };
        Self {
            id: u64::from(node.id),
            addr: &node.addr,
            state: &node.state,
            zone: &node.zone,
            rack: &node.rack,
            host: &node.host,
            capacity_bytes: node.capacity_bytes,
            used_bytes: node.used_bytes,
            blocks: node.blocks,
            stores: node.stores.iter().map(store).collect(),
        }
    }
}

impl<'a> Group<'a> {
    fn of(group: &'a GroupStatus) -> Self {
        let member = |member: &'a MemberStatus| Member { store: u64::from(member.store), state: &member.state };
        Self {
            id: u64::from(group.id),
            epoch: group.epoch,
            replicas: u64::from(group.replicas),
            sealed: group.sealed,
            bytes: group.bytes,
            members: group.members.iter().map(member).collect(),
        }
    }
}

impl<'a> DefectJson<'a> {
    fn of(defect: &'a Defect) -> Self {
        Self {
            node: u64::from(defect.node),
            store: u64::from(defect.store),
            block: &defect.block,
            cause: &defect.cause,
            repaired: defect.repaired,
        }
    }
}

/// The state in one line: what an operator wants to know first.
fn health(status: &ClusterStatus) -> String {
    let mut troubles = Vec::new();
    let away = status.nodes.iter().filter(|node| !matches!(node.state.as_str(), "up" | "replaced")).count();
    if away > 0 {
        troubles.push(format!("{} not up", text::count(away as u64, "node")));
    }
    if status.degraded_runs > 0 {
        troubles.push(text::count(status.degraded_runs, "degraded run"));
    }
    let rebuilding = |group: &&GroupStatus| group.members.iter().any(|member| member.state != "full");
    let rebuilding = status.groups.iter().filter(rebuilding).count();
    if rebuilding > 0 {
        troubles.push(format!("{} rebuilding", text::count(rebuilding as u64, "group")));
    }
    let unrepaired = status.defects.iter().filter(|defect| !defect.repaired).count();
    if unrepaired > 0 {
        troubles.push(text::count(unrepaired as u64, "unrepaired defect"));
    }
    let stores = || status.nodes.iter().flat_map(|node| &node.stores);
    let ailing = stores().filter(|store| !store.trouble.is_empty()).count();
    if ailing > 0 {
        troubles.push(format!("{} in trouble", text::count(ailing as u64, "store")));
    }
    let alarmed = stores().filter(|store| !store.alarm.is_empty()).count();
    if alarmed > 0 {
        troubles.push(format!("{} with an alarm", text::count(alarmed as u64, "store")));
    }
    if status.groups.is_empty() {
        troubles.push("no placement group yet: files cannot be written".to_owned());
    }
    if troubles.is_empty() { "healthy".to_owned() } else { troubles.join(", ") }
}

fn write(status: &ClusterStatus, out: &mut Out) -> Result<(), Failure> {
    out.line(format_args!("Health:   {}", health(status)))?;
    out.line(format_args!("Cluster:  {} on the {} engine", status.cluster_id, status.engine))?;
    out.line(format_args!(
        "Files:    {}, {}B in files, {}",
        text::count(status.inodes, "inode"),
        text::human(status.file_bytes),
        text::count(status.sessions, "session")
    ))?;
    out.line(format_args!(
        "Space:    {} used of {}",
        text::human(status.used_bytes),
        text::human(status.capacity_bytes)
    ))?;
    out.line(format_args!("Runs:     {} degraded, {} garbage", status.degraded_runs, status.garbage_runs))?;
    out.line("")?;
    let mut nodes = Table::new(&[
        Align::Left,
        Align::Left,
        Align::Left,
        Align::Left,
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Right,
    ]);
    nodes.row(["NODE", "ADDRESS", "STATE", "ZONE", "RACK", "SIZE", "USED", "BLOCKS"].map(str::to_owned));
    for node in &status.nodes {
        let place = |name: &str| if name.is_empty() { "-".to_owned() } else { name.to_owned() };
        nodes.row([
            node.id.to_string(),
            node.addr.clone(),
            node.state.clone(),
            place(&node.zone),
            place(&node.rack),
            text::human(node.capacity_bytes),
            text::human(node.used_bytes),
            node.blocks.to_string(),
        ]);
    }
    nodes.lines().into_iter().try_for_each(|line| out.line(line))?;
    for (node, store) in status.nodes.iter().flat_map(|node| node.stores.iter().map(move |store| (node, store))) {
        for what in [&store.trouble, &store.alarm].into_iter().filter(|what| !what.is_empty()) {
            out.line(format_args!("node {}, store {}: {what}", node.id, store.id))?;
        }
    }
    out.line("")?;
    let mut groups = Table::new(&[Align::Left, Align::Right, Align::Right, Align::Right, Align::Left, Align::Left]);
    groups.row(["GROUP", "EPOCH", "REPLICAS", "BYTES", "TAKES", "MEMBERS (STORE:STATE)"].map(str::to_owned));
    for group in status.groups.iter().take(SHOWN_MAX) {
        let members = group.members.iter().map(|member| format!("{}:{}", member.store, member.state));
        groups.row([
            group.id.to_string(),
            group.epoch.to_string(),
            group.replicas.to_string(),
            text::human(group.bytes),
            if group.sealed { "no (sealed)" } else { "yes" }.to_owned(),
            members.collect::<Vec<_>>().join(" "),
        ]);
    }
    groups.lines().into_iter().try_for_each(|line| out.line(line))?;
    more(status.groups.len(), "group", out)?;
    if !status.defects.is_empty() {
        out.line("")?;
    }
    for defect in status.defects.iter().take(SHOWN_MAX) {
        out.line(format_args!(
            "defect: node {}, store {}, block {}: {}{}",
            defect.node,
            defect.store,
            defect.block,
            defect.cause,
            if defect.repaired { " (repaired)" } else { "" }
        ))?;
    }
    more(status.defects.len(), "defect", out)
}

fn more(count: usize, noun: &str, out: &mut Out) -> Result<(), Failure> {
    match count.checked_sub(SHOWN_MAX) {
        None | Some(0) => Ok(()),
        Some(rest) => {
            out.line(format_args!("and {} (--json shows all)", text::count(rest as u64, &format!("more {noun}"))))
        }
    }
}
