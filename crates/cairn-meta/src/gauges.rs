//! What a metadata server knows without asking its engine.

use crate::meta::Meta;
use crate::state::NodeState;
use std::sync::atomic::Ordering;

/// States of a node, as they are counted.
const NODE_STATES: [NodeState; 4] = [NodeState::Up, NodeState::Suspect, NodeState::Out, NodeState::Replaced];

/// Figures of the cluster as this process has them in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gauges {
    /// Open sessions that this server knows of: all, where it carries out the duties.
    pub sessions: u64,
    /// Inodes.
    pub inodes: u64,
    /// Bytes of all files, counted once.
    pub file_bytes: u64,
    /// Nodes by state; every state is named.
    pub nodes: [(NodeState, u64); NODE_STATES.len()],
    /// Too many nodes are silent at once: none is taken for lost.
    pub silence_alarm: bool,
    /// Bytes that the stores of all nodes that are not replaced may use.
    pub capacity_bytes: u64,
    /// Bytes that they use.
    pub used_bytes: u64,
    /// Stores that take no writes, by what they report.
    pub troubled_stores: u64,
    /// Blocks known to be bad and not repaired yet.
    pub quarantined_blocks: u64,
    /// Groups there are.
    pub groups: u64,
    /// Groups with a member that is not full.
    pub groups_incomplete: u64,
    /// Groups with less than a majority of full members that answer.
    pub groups_at_risk: u64,
    /// Memberships that are joining, leaving, and stale.
    pub members: [(&'static str, u64); 3],
    /// Moves of memberships under way, and planned.
    pub moves: [(&'static str, u64); 2],
    /// Tasks that run, and that wait for an operator.
    pub tasks: [(&'static str, u64); 2],
    /// Sentences that an operator has to look at.
    pub alarms: u64,
    /// Memberships that went from one store to another since this process began.
    pub moves_done: u64,
    /// Bytes of their groups.
    pub moved_bytes: u64,
    /// Metadata servers that live.
    pub servers: u64,
    /// The epoch in which this server carries out the duties of all; 0 = another one does.
    pub duty_epoch: u64,
    /// Version of the cluster map.
    pub map_version: u64,
}

impl Meta {
    /// The figures now. Waits for nothing.
    pub fn gauges(&self) -> Gauges {
        let inner = &self.inner;
        let sessions = inner.sessions.lock().live.len() as u64;
        let totals = *inner.totals.lock();
        let cluster = inner.cluster.lock();
        let count = |state| cluster.nodes.values().filter(|node| node.state == state).count() as u64;
        let mut gauges = Gauges {
            sessions,
            inodes: totals.inodes(),
            file_bytes: totals.file_bytes(),
            nodes: NODE_STATES.map(|state| (state, count(state))),
            silence_alarm: cluster.alarm,
            capacity_bytes: 0,
            used_bytes: 0,
            troubled_stores: 0,
            quarantined_blocks: 0,
            groups: cluster.survey.groups,
            groups_incomplete: cluster.survey.incomplete,
            groups_at_risk: cluster.survey.at_risk,
            members: [
                ("joining", cluster.survey.joining),
                ("leaving", cluster.survey.leaving),
                ("stale", cluster.survey.stale),
            ],
            moves: [("running", cluster.tending.moves_running), ("waiting", cluster.tending.moves_waiting)],
            tasks: [("running", cluster.tending.tasks_running), ("waiting", cluster.tending.tasks_waiting)],
            alarms: cluster.alarms().len() as u64 + u64::from(inner.collection_stopped.load(Ordering::Relaxed)),
            moves_done: inner.moves_done.load(Ordering::Relaxed),
            moved_bytes: inner.moved_bytes.load(Ordering::Relaxed),
            servers: inner.servers.lock().count(),
            duty_epoch: self.duty_epoch().unwrap_or(0),
            map_version: inner.map_version.load(Ordering::Relaxed),
        };
        let present = |node: u32| cluster.nodes.get(&node).is_some_and(|node| !node.row.replaced);
        for store in cluster.stores.values().filter(|store| present(store.row.node)) {
            gauges.capacity_bytes += store.beat.capacity_bytes;
            gauges.used_bytes += store.beat.used_bytes;
            gauges.troubled_stores += u64::from(!store.beat.trouble.is_empty());
            gauges.quarantined_blocks += u64::from(store.beat.quarantined);
        }
        gauges
    }
}
