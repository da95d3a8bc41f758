//! Nodes that die, freeze, come back empty, alone, in pairs and by zones.

use super::scene::{OUT_AFTER, Scene, Shape, run};
use super::{Context, Running, id};
use crate::report::Outcome;
use crate::whole::lacks;
use anyhow::Result;
use cairn_client::ClusterStatus;
use tokio::time::sleep;

const ZONES: [&str; 3] = ["east", "north", "west"];

pub fn kill(context: Context) -> Running {
    let victim = context.victim(5);
    let hit = async move |scene: &Scene| scene.cluster.nodes()[victim].kill();
    let mend = async move |scene: &Scene, _: &mut Outcome| scene.nodes_are("out", &[id(victim)]).await.map(|_| ());
    Box::pin(run(context, Shape::of(5), hit, mend))
}

pub fn freeze(context: Context) -> Running {
    let victim = context.victim(5);
    let hit = async move |scene: &Scene| scene.cluster.nodes()[victim].stop();
    let mend = async move |scene: &Scene, outcome: &mut Outcome| {
        scene.nodes_are("out", &[id(victim)]).await?;
        let replaced = scene.whole().await?;
        outcome.set("replaced_after_out_s", replaced.as_secs_f64());
        scene.cluster.nodes()[victim].cont()?;
        // Holds copies of groups that it left meanwhile.
        scene.nodes_are("up", &[id(victim)]).await.map(|_| ())
    };
    Box::pin(run(context, Shape::of(5), hit, mend))
}

pub fn wipe(context: Context) -> Running {
    let victim = context.victim(5);
    let hit = async move |scene: &Scene| scene.cluster.nodes()[victim].wipe().await;
    let mend = async |_: &Scene, _: &mut Outcome| Ok(());
    Box::pin(run(context, Shape::of(5), hit, mend))
}

/// Two different nodes of five.
fn pair(context: &Context) -> (usize, usize) {
    let first = context.victim(5);
    (first, (first + 2) % 5)
}

pub fn two(context: Context) -> Running {
    let (first, second) = pair(&context);
    let hit = async move |scene: &Scene| scene.cluster.nodes()[first].kill();
    let mend = async move |scene: &Scene, outcome: &mut Outcome| {
        scene.nodes_are("out", &[id(first)]).await?;
        let replaced = scene.whole().await?;
        outcome.set("first_replaced_after_out_s", replaced.as_secs_f64());
        scene.cluster.nodes()[second].kill()?;
        scene.nodes_are("out", &[id(second)]).await.map(|_| ())
    };
    Box::pin(run(context, Shape::of(5), hit, mend))
}

pub fn two_overlap(context: Context) -> Running {
    let (first, second) = pair(&context);
    let hit = async move |scene: &Scene| scene.cluster.nodes()[first].kill();
    let mend = async move |scene: &Scene, outcome: &mut Outcome| {
        let nodes = scene.cluster.nodes();
        scene.nodes_are("out", &[id(first)]).await?;
        let left = lacks(&scene.status().await?);
        nodes[second].kill()?;
        outcome.set("lacked_at_second", left.len());
        // Whether the second may be taken for lost depends on how far the repair of the first was: it ends whole, or with
        // an alarm and nothing done.
        let ended = |status: &ClusterStatus| {
            let out = status.nodes.iter().any(|node| node.id == id(second) && node.state == "out");
            if held(status) || (out && lacks(status).is_empty()) { Vec::new() } else { lacks(status) }
        };
        scene.until("the repair of both, or an alarm", ended).await?;
        if held(&scene.status().await?) {
            nodes[second].restart().await?;
            scene.nodes_are("up", &[id(second)]).await?;
        }
        Ok(())
    };
    Box::pin(run(context, Shape::of(5), hit, mend))
}

/// Metadata has stopped taking silent nodes for lost, and says so.
fn held(status: &ClusterStatus) -> bool {
    status.alarms.iter().any(|alarm| alarm.contains("silent at once"))
}

fn not_held(status: &ClusterStatus) -> Vec<String> {
    if held(status) { Vec::new() } else { vec!["no alarm about silence".to_owned()] }
}

pub fn two_at_once(context: Context) -> Running {
    let (first, second) = pair(&context);
    let victims = [first, second];
    let hit = async move |scene: &Scene| victims.iter().try_for_each(|victim| scene.cluster.nodes()[*victim].kill());
    Box::pin(run(context, Shape::of(5), hit, async move |scene, outcome| come_back(scene, outcome, victims).await))
}

/// Silent for longer than it takes to be out, none of these nodes is taken for lost; then they are back.
async fn come_back(scene: &Scene, outcome: &mut Outcome, victims: [usize; 2]) -> Result<()> {
    let before = scene.members().await?;
    scene.until("an alarm", not_held).await?;
    sleep(2 * OUT_AFTER).await;
    let after = scene.members().await?;
    let changed = before.iter().filter(|(group, members)| after.get(*group) != Some(*members)).count();
    outcome.set("groups_changed", changed);
    for victim in victims {
        scene.cluster.nodes()[victim].restart().await?;
    }
    scene.nodes_are("up", &victims.map(id)).await.map(|_| ())
}

pub fn zone(context: Context) -> Running {
    // Nodes are dealt out to zones in turn.
    let zone = context.victim(ZONES.len());
    let victims = [zone, zone + ZONES.len()];
    let shape = Shape { zones: &ZONES, ..Shape::of(6) };
    let hit = async move |scene: &Scene| victims.iter().try_for_each(|victim| scene.cluster.nodes()[*victim].kill());
    Box::pin(run(context, shape, hit, async move |scene, outcome| come_back(scene, outcome, victims).await))
}
