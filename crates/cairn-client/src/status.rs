//! The cluster's state for operators.

use crate::admin::{StoreScrub, Task};
use crate::client::DfsClient;
use crate::error::Error;
use cairn_proto::pb::{self, request, response};
use cairn_proto::{BlockId, ClusterId};
use std::path::Path;
use std::time::Duration;

/// A store: one disk of a node.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    /// Its number.
    pub id: u32,
    /// Bytes it may use.
    pub capacity_bytes: u64,
    /// Bytes it uses.
    pub used_bytes: u64,
    /// Blocks it holds.
    pub blocks: u64,
    /// Blocks found bad and not yet repaired.
    pub quarantined: u32,
    /// Why it takes no writes; empty when it does.
    pub trouble: String,
    /// What an operator has to look at although it serves; empty when nothing.
    pub alarm: String,
    /// Takes no new memberships: an operator drains it.
    pub draining: bool,
    /// Groups it is a member of.
    pub groups: u32,
    /// How far it is with reading and checking what it holds; `None` when its node does not tell.
    pub scrub: Option<StoreScrub>,
}

/// A storage node.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Its number.
    pub id: u32,
    /// Where it listens.
    pub addr: String,
    /// `up`, `suspect`, `out`, `replaced` or `unknown`.
    pub state: String,
    /// Failure domain.
    pub zone: String,
    /// Failure domain.
    pub rack: String,
    /// Failure domain.
    pub host: String,
    /// Bytes its stores may use.
    pub capacity_bytes: u64,
    /// Bytes its stores use.
    pub used_bytes: u64,
    /// Blocks its stores hold.
    pub blocks: u64,
    /// Its stores.
    pub stores: Vec<StoreStatus>,
}

/// A member of a placement group.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// The store.
    pub store: u32,
    /// `full`, `joining`, `leaving`, `stale` or `unknown`.
    pub state: String,
}

/// A placement group.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// Its number.
    pub id: u32,
    /// Grows with every change of membership.
    pub epoch: u64,
    /// Copies meant.
    pub replicas: u32,
    /// Its members.
    pub members: Vec<MemberStatus>,
    /// Takes no new blocks.
    pub sealed: bool,
    /// Bytes committed to it.
    pub bytes: u64,
}

/// A block found bad.
#[derive(Clone, Debug)]
pub struct Defect {
    /// Where.
    pub node: u32,
    /// On which disk.
    pub store: u32,
    /// Which block: inode/writer/seq.
    pub block: String,
    /// What was found.
    pub cause: String,
    /// It has been written anew from another replica.
    pub repaired: bool,
}

/// A storage node that the log of an embedded metadata engine is shipped to.
#[derive(Clone, Debug)]
pub struct LogTarget {
    /// The node; 0 = none is supplied.
    pub node: u32,
    /// Where it listens.
    pub addr: String,
    /// It holds a whole snapshot, and metadata can be recovered from it.
    pub whole: bool,
    /// Commits that it does not have.
    pub commits_behind: u64,
    /// For how long it has not had all there was.
    pub lag: Duration,
    /// Why the last attempt failed; empty = it did not.
    pub trouble: String,
}

/// A metadata server.
#[derive(Clone, Debug)]
pub struct MetaServerStatus {
    /// Its number.
    pub id: u32,
    /// Where it listens.
    pub addr: String,
    /// It carries out the duties of all: repair, garbage, expiry.
    pub holds_duties: bool,
    /// Time since its last sign of life, as the server that answered saw it.
    pub silent_for: Duration,
    /// Its program; empty = it does not say.
    pub software: String,
    /// Newest cluster version that program can take part in; 0 = it does not say.
    pub newest_version: u32,
}

/// The state of the whole cluster.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// Its identity.
    pub cluster_id: String,
    /// What keeps the metadata.
    pub engine: String,
    /// Committed runs that a member of their group still lacks.
    pub degraded_runs: u64,
    /// Dropped runs that have not been deleted yet.
    pub garbage_runs: u64,
    /// Files, directories and symbolic links.
    pub inodes: u64,
    /// Bytes of all files, each counted once.
    pub file_bytes: u64,
    /// Bytes all stores may use.
    pub capacity_bytes: u64,
    /// Bytes all stores use.
    pub used_bytes: u64,
    /// Open sessions.
    pub sessions: u64,
    /// The metadata servers that live, or were not forgotten yet.
    pub servers: Vec<MetaServerStatus>,
    /// All nodes.
    pub nodes: Vec<NodeStatus>,
    /// All placement groups.
    pub groups: Vec<GroupStatus>,
    /// Blocks found bad, newest first, bounded.
    pub defects: Vec<Defect>,
    /// What an operator has to look at, each a sentence; empty when well.
    pub alarms: Vec<String>,
    /// Groups with a member that is not full, or with too few members.
    pub groups_incomplete: u64,
    /// Groups with less than a majority of full members.
    pub groups_at_risk: u64,
    /// Tasks that run or wait.
    pub tasks: Vec<Task>,
    /// Of an embedded engine: the storage nodes that its log is shipped to.
    pub log: Vec<LogTarget>,
}

/// `NODE_STATE_UP` -> `up`.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

fn node(info: &pb::NodeInfo) -> NodeStatus {
    let sum = |field: fn(&pb::StoreInfo) -> u64| info.stores.iter().map(field).sum();
    NodeStatus {
        id: info.id,
        addr: info.addr.clone(),
        state: word(info.state().as_str_name(), "NODE_STATE_"),
        zone: info.zone.clone(),
        rack: info.rack.clone(),
        host: info.host.clone(),
        capacity_bytes: sum(|store| store.capacity_bytes),
        used_bytes: sum(|store| store.used_bytes),
        blocks: sum(|store| store.blocks),
        stores: info
            .stores
            .iter()
            .map(|store| StoreStatus {
                id: store.id,
                capacity_bytes: store.capacity_bytes,
                used_bytes: store.used_bytes,
                blocks: store.blocks,
                quarantined: store.quarantined,
                trouble: store.trouble.clone(),
                alarm: store.alarm.clone(),
                draining: store.draining,
                groups: store.groups,
                scrub: store.scrub.as_ref().map(StoreScrub::from_pb),
            })
            .collect(),
    }
}

fn group(info: &pb::PgInfo) -> GroupStatus {
    let member = |member: &pb::Member| MemberStatus {
        store: member.store,
        state: word(member.state().as_str_name(), "MEMBER_STATE_"),
    };
    GroupStatus {
        id: info.id,
        epoch: info.epoch,
        replicas: info.replicas,
        members: info.members.iter().map(member).collect(),
        sealed: info.sealed,
        bytes: info.bytes,
    }
}

fn defect(defect: pb::Defect) -> Defect {
    let block = defect.block.unwrap_or_default();
    Defect {
        node: defect.node,
        store: defect.store,
        block: BlockId::new(block.inode, block.writer, block.seq).to_string(),
        cause: defect.cause,
        repaired: defect.repaired,
    }
}

fn server(info: pb::MetaServerInfo) -> MetaServerStatus {
    let pb::MetaServerInfo { id, addr, holds_duties, beat_age_ms, software, newest_version } = info;
    let silent_for = Duration::from_millis(beat_age_ms);
    MetaServerStatus { id, addr, holds_duties, silent_for, software, newest_version }
}

fn log_target(target: pb::MetalogTarget) -> LogTarget {
    let pb::MetalogTarget { node, addr, whole, commits_behind, lag_ms, trouble } = target;
    LogTarget { node, addr, whole, commits_behind, lag: Duration::from_millis(lag_ms.into()), trouble }
}

impl DfsClient {
    /// Asks metadata for the state of the cluster, now.
    ///
    /// # Errors
    /// `Unavailable` when no metadata server answers.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, Error> {
        let work = async {
            let inner = &self.inner;
            let deadline = inner.deadline(inner.config.meta_timeout);
            inner.cluster.reload(inner, deadline).await?;
            let kind = request::Kind::ClusterStatus(pb::ClusterStatus {});
            let response::Kind::ClusterStatus(reply) = inner.meta_read(kind, deadline).await? else {
                return Err(inner.unexpected("cluster_status"));
            };
            let view = inner.cluster.view();
            Ok(ClusterStatus {
                cluster_id: ClusterId::from_slice(&reply.cluster_id).unwrap_or_default().to_string(),
                engine: reply.engine,
                degraded_runs: reply.degraded_runs,
                garbage_runs: reply.garbage_runs,
                inodes: reply.inodes,
                file_bytes: reply.file_bytes,
                capacity_bytes: reply.capacity_bytes,
                used_bytes: reply.used_bytes,
                sessions: reply.sessions,
                servers: reply.servers.into_iter().map(server).collect(),
                nodes: view.infos.iter().map(node).collect(),
                groups: view.pgs.iter().map(group).collect(),
                defects: reply.defects.into_iter().map(defect).collect(),
                alarms: reply.alarms,
                groups_incomplete: reply.groups_incomplete,
                groups_at_risk: reply.groups_at_risk,
                tasks: reply.tasks.into_iter().map(Task::from_pb).collect(),
                log: reply.metalog.into_iter().map(log_target).collect(),
            })
        };
        self.operation("cluster_status", Path::new("/"), work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_as_words() {
        let info = pb::NodeInfo { state: pb::NodeState::Suspect as i32, ..Default::default() };
        assert_eq!(node(&info).state, "suspect");
        let member = pb::Member { store: 1, state: pb::MemberState::Joining as i32 };
        let info = pb::PgInfo { members: vec![member], ..Default::default() };
        assert_eq!(group(&info).members[0].state, "joining");
    }
}
