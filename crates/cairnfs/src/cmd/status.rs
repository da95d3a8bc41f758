//! `cairn status`: what is asked, and the state in JSON.

mod lines;

use std::time::Duration;

use cairn_client::{
    ClusterStatus, Defect, DfsClient, GroupStatus, LedgerPage, LogTarget, MemberStatus, MetaServerStatus, NodeStatus,
    StoreStatus,
};
use serde::Serialize;
use tokio::task::JoinSet;

use super::admin::{EntryJson, ScrubJson, TaskJson};
use crate::{args, context::Context, failure::Failure, output::Out};

/// Newest entries of a node's ledger that are shown.
const LEDGER_ENTRIES: u32 = 5;
/// How long a node may take to show its ledger; the others are shown without it.
const LEDGER_PATIENCE: Duration = Duration::from_secs(2);

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
    servers: Vec<Server<'a>>,
    nodes: Vec<Node<'a>>,
    groups: Vec<Group<'a>>,
    groups_incomplete: u64,
    groups_at_risk: u64,
    alarms: &'a [String],
    tasks: Vec<TaskJson>,
    defects: Vec<DefectJson<'a>>,
    metadata_log: Vec<LogJson<'a>>,
    ledgers: Vec<LedgerJson>,
}

/// A metadata server.
#[derive(Serialize)]
struct Server<'a> {
    id: u64,
    addr: &'a str,
    holds_duties: bool,
    silent_seconds: f64,
    software: &'a str,
    newest_version: u64,
}

impl<'a> Server<'a> {
    fn of(server: &'a MetaServerStatus) -> Self {
        Self {
            id: server.id.into(),
            addr: &server.addr,
            holds_duties: server.holds_duties,
            silent_seconds: server.silent_for.as_secs_f64(),
            software: &server.software,
            newest_version: server.newest_version.into(),
        }
    }
}

/// A node that metadata's log is shipped to.
#[derive(Serialize)]
struct LogJson<'a> {
    node: u64,
    addr: &'a str,
    whole: bool,
    commits_behind: u64,
    lag_seconds: f64,
    trouble: &'a str,
}

impl<'a> LogJson<'a> {
    fn of(target: &'a LogTarget) -> Self {
        Self {
            node: target.node.into(),
            addr: &target.addr,
            whole: target.whole,
            commits_behind: target.commits_behind,
            lag_seconds: target.lag.as_secs_f64(),
            trouble: &target.trouble,
        }
    }
}

/// The newest of a node's ledger. Nodes that are away have none here.
#[derive(Serialize)]
struct LedgerJson {
    node: u64,
    open: u64,
    entries: Vec<EntryJson>,
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
    draining: bool,
    groups: u64,
    scrub: Option<ScrubJson>,
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
    let ledgers = ledgers(&client, &status).await;
    client.close().await;
    if args.json { out.json(&Status::of(&status, &ledgers)) } else { lines::write(&status, &ledgers, out) }
}

/// Nodes with the newest of their ledgers.
type Ledgers = Vec<(u32, LedgerPage)>;

/// Asks all nodes that are up at once. One that does not answer in time, or is older than its ledger, is left out: the
/// rest of the status must not wait for it.
async fn ledgers(client: &DfsClient, status: &ClusterStatus) -> Ledgers {
    let mut asked = JoinSet::new();
    for node in status.nodes.iter().filter(|node| node.state == "up") {
        let (admin, node) = (client.admin(), node.id);
        asked.spawn(async move {
            let page = tokio::time::timeout(LEDGER_PATIENCE, admin.ledger(node, None, LEDGER_ENTRIES)).await;
            page.ok()?.ok().map(|page| (node, page))
        });
    }
    let mut ledgers: Ledgers = asked.join_all().await.into_iter().flatten().collect();
    ledgers.sort_unstable_by_key(|(node, _)| *node);
    ledgers
}

impl<'a> Status<'a> {
    fn of(status: &'a ClusterStatus, ledgers: &Ledgers) -> Self {
        let ledger = |(node, page): &(u32, LedgerPage)| LedgerJson {
            node: u64::from(*node),
            open: page.open,
            entries: page.entries.iter().map(EntryJson::from).collect(),
        };
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
            servers: status.servers.iter().map(Server::of).collect(),
            nodes: status.nodes.iter().map(Node::of).collect(),
            groups: status.groups.iter().map(Group::of).collect(),
            groups_incomplete: status.groups_incomplete,
            groups_at_risk: status.groups_at_risk,
            alarms: &status.alarms,
            tasks: status.tasks.iter().map(TaskJson::from).collect(),
            defects: status.defects.iter().map(DefectJson::of).collect(),
            metadata_log: status.log.iter().map(LogJson::of).collect(),
            ledgers: ledgers.iter().map(ledger).collect(),
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
            draining: store.draining,
            groups: u64::from(store.groups),
            scrub: store.scrub.as_ref().map(ScrubJson::from),
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
