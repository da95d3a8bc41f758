//! What an operator asks for under load: drain, add, balance, and everything restarted in the middle of it.

use super::scene::{Scene, Shape, run};
use super::{Context, Running, id};
use crate::report::Outcome;
use crate::scenario::Form;
use anyhow::Context as _;
use cairn_client::{ClusterStatus, NodeStatus, TaskKind};

/// Of each node in a run that fills a new one up.
const CAPACITY: u64 = 4 << 30;
const CAPACITY_SHORT: u64 = 256 << 20;

/// Memberships that the stores of a node have.
pub fn memberships(status: &ClusterStatus, node: u32) -> usize {
    let stores = status.nodes.iter().filter(|found| found.id == node).flat_map(|node: &NodeStatus| &node.stores);
    let stores: Vec<u32> = stores.map(|store| store.id).collect();
    let members = status.groups.iter().flat_map(|group| &group.members);
    members.filter(|member| stores.contains(&member.store)).count()
}

/// What a node uses over the mean of all.
fn used_share(status: &ClusterStatus, node: u32) -> f64 {
    let used = status.nodes.iter().filter(|found| found.id == node).map(|node| node.used_bytes).sum::<u64>() as f64;
    let mean = status.nodes.iter().map(|node| node.used_bytes).sum::<u64>() as f64 / status.nodes.len().max(1) as f64;
    if mean > 0.0 { used / mean } else { 0.0 }
}

pub fn drain(context: Context) -> Running {
    let node = id(context.victim(5));
    let hit = async |_: &Scene| Ok(());
    let mend = async move |scene: &Scene, outcome: &mut Outcome| {
        scene.operate(&["admin", "drain", &format!("node:{node}"), "--wait"]).await?;
        scene.cluster.count("drain", 1);
        outcome.set("left_on_drained", memberships(&scene.status().await?, node));
        // What it held goes once the others are complete.
        let held = |status: &ClusterStatus| {
            let blocks: u64 = status.nodes.iter().filter(|found| found.id == node).map(|node| node.blocks).sum();
            if blocks == 0 { Vec::new() } else { vec![format!("{blocks} blocks on the drained node")] }
        };
        outcome.set("empty_after_s", scene.until("the drained node to be empty", held).await?.as_secs_f64());
        Ok(())
    };
    Box::pin(run(context, Shape::of(5), hit, mend))
}

pub fn add(context: Context) -> Running {
    // Stores are even within a few thousandths of their size: data has to be a part of it that counts.
    let capacity = Some(if context.form == Form::Full { CAPACITY } else { CAPACITY_SHORT });
    let shape = Shape { spares: 1, capacity, ..Shape::of(5) };
    let hit = async |scene: &Scene| scene.cluster.nodes()[5].restart().await;
    let mend = async |scene: &Scene, outcome: &mut Outcome| {
        scene.nodes_are("up", &[6]).await?;
        scene.operate(&["admin", "add", "node:6", "--wait"]).await?;
        scene.cluster.count("add", 1);
        scene.operate(&["admin", "balance", "--wait"]).await?;
        scene.whole().await?;
        outcome.set("new_node_groups", memberships(&scene.status().await?, 6));
        // Nodes tell every second what they hold.
        let holds = |status: &ClusterStatus| {
            if used_share(status, 6) > 0.0 { Vec::new() } else { vec!["it tells of nothing".to_owned()] }
        };
        scene.until("the new node to hold something", holds).await?;
        outcome.set("new_node_share", used_share(&scene.status().await?, 6));
        Ok(())
    };
    Box::pin(run(context, shape, hit, mend))
}

pub fn restart(context: Context) -> Running {
    let node = id(context.victim(5));
    let hit = async |_: &Scene| Ok(());
    let mend = async move |scene: &Scene, outcome: &mut Outcome| {
        scene.operate(&["admin", "drain", &format!("node:{node}")]).await?;
        scene.cluster.count("drain", 1);
        let tasks = scene.status().await?.tasks;
        let left: u64 = tasks.iter().map(|task| task.moves_total.saturating_sub(task.moves_done)).sum();
        outcome.set("moves_left_at_kill", left);
        scene.cluster.kill_all()?;
        scene.cluster.restart_all().await?;
        // Which also waits for the task: it is one of what a whole cluster has none of.
        scene.whole().await?;
        let tasks = scene.watcher.admin().list_tasks().await?;
        let drain = tasks.iter().filter(|task| task.kind == TaskKind::Drain).max_by_key(|task| task.id);
        let drain = drain.context("the drain is forgotten")?;
        outcome.set("drain_state", format!("{:?}", drain.state).to_lowercase());
        outcome.set("left_on_drained", memberships(&scene.status().await?, node));
        Ok(())
    };
    Box::pin(run(context, Shape::of(5), hit, mend))
}
