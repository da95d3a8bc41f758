//! Whether a cluster has everything it should have.

use cairn_client::{ClusterStatus, NodeStatus, Task};

/// What a cluster lacks to be whole: every run at its full replica count, and nothing under way.
pub fn lacks(status: &ClusterStatus) -> Vec<String> {
    let mut lacks = Vec::new();
    let up = |store: &u32| {
        let of = |node: &&NodeStatus| node.stores.iter().any(|found| found.id == *store);
        status.nodes.iter().find(of).is_some_and(|node| node.state == "up")
    };
    for group in &status.groups {
        let full = group.members.iter().filter(|member| member.state == "full" && up(&member.store)).count();
        if full != group.members.len() || full < group.replicas as usize {
            let members = group.members.iter().map(|member| {
                format!("{}:{}{}", member.store, member.state, if up(&member.store) { "" } else { " not up" })
            });
            lacks.push(format!("group {} has {}", group.id, members.collect::<Vec<_>>().join(" ")));
        }
    }
    if status.degraded_runs > 0 {
        lacks.push(format!("{} degraded runs", status.degraded_runs));
    }
    if status.groups_incomplete > 0 {
        lacks.push(format!("{} incomplete groups", status.groups_incomplete));
    }
    lacks.extend(status.tasks.iter().map(|task| {
        let Task { id, state, reason, moves_done, moves_total, .. } = task;
        format!("task {id} is {state:?} with {moves_done} of {moves_total} moves {reason}")
    }));
    if status.groups.is_empty() {
        lacks.push("no group".to_owned());
    }
    lacks
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_client::{GroupStatus, MemberStatus, StoreStatus};

    fn status(states: [&str; 3], nodes: [&str; 3]) -> ClusterStatus {
        let node = |(index, state): (usize, &&str)| NodeStatus {
            id: index as u32 + 1,
            addr: String::new(),
            state: (*state).to_owned(),
            zone: String::new(),
            rack: String::new(),
            host: String::new(),
            capacity_bytes: 0,
            used_bytes: 0,
            blocks: 0,
            stores: vec![store(index as u32 + 1)],
        };
        let member =
            |(index, state): (usize, &&str)| MemberStatus { store: index as u32 + 1, state: (*state).to_owned() };
        let members = states.iter().enumerate().map(member).collect();
        let group = GroupStatus { id: 7, epoch: 1, replicas: 3, members, sealed: false, bytes: 0 };
        ClusterStatus {
            cluster_id: String::new(),
            engine: String::new(),
            degraded_runs: 0,
            garbage_runs: 0,
            inodes: 0,
            file_bytes: 0,
            capacity_bytes: 0,
            used_bytes: 0,
            sessions: 0,
            servers: Vec::new(),
            nodes: nodes.iter().enumerate().map(node).collect(),
            groups: vec![group],
            defects: Vec::new(),
            alarms: Vec::new(),
            groups_incomplete: 0,
            groups_at_risk: 0,
            tasks: Vec::new(),
            log: Vec::new(),
        }
    }

    fn store(id: u32) -> StoreStatus {
        StoreStatus {
            id,
            capacity_bytes: 0,
            used_bytes: 0,
            blocks: 0,
            quarantined: 0,
            trouble: String::new(),
            alarm: String::new(),
            draining: false,
            groups: 0,
            scrub: None,
        }
    }

    #[test]
    fn every_gap_is_told() {
        let (full, up) = (["full"; 3], ["up"; 3]);
        assert_eq!(lacks(&status(full, up)), Vec::<String>::new());
        let joining = lacks(&status(["full", "joining", "full"], up));
        assert_eq!(joining, ["group 7 has 1:full 2:joining 3:full"]);
        let dead = lacks(&status(full, ["up", "up", "out"]));
        assert_eq!(dead, ["group 7 has 1:full 2:full 3:full not up"]);
        let mut few = status(full, up);
        few.groups[0].members.pop();
        assert_eq!(lacks(&few).len(), 1);
        let none = ClusterStatus { groups: Vec::new(), degraded_runs: 2, groups_incomplete: 1, ..status(full, up) };
        assert_eq!(lacks(&none), ["2 degraded runs", "1 incomplete groups", "no group"]);
    }
}
