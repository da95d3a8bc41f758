//! Nodes that die, freeze, come back empty, alone, in pairs and by zones.

use super::scene::{OUT_AFTER, Scene, Shape, run};
use super::{Context, Running, id};
use crate::report::Outcome;
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

pub fn two_at_once(context: Context) -> Running {
    let (first, second) = pair(&context);
    let hit = async move |scene: &Scene| scene.cluster.nodes()[first].kill();
    let mend = async move |scene: &Scene, outcome: &mut Outcome| {
        let nodes = scene.cluster.nodes();
        scene.nodes_are("out", &[id(first)]).await?;
        nodes[second].kill()?;
        let left = crate::whole::lacks(&scene.status().await?);
        outcome.set("lacked_at_second", left.len());
        // Two of five are more than a third: nothing is taken from the second, whatever is missing.
        scene
            .until("an alarm", |status| if status.alarms.is_empty() { vec!["no alarm".to_owned()] } else { vec![] })
            .await?;
        sleep(2 * OUT_AFTER).await;
        nodes[second].restart().await?;
        nodes[first].restart().await?;
        scene.nodes_are("up", &[id(first), id(second)]).await.map(|_| ())
    };
    Box::pin(run(context, Shape::of(5), hit, mend))
}

pub fn zone(context: Context) -> Running {
    // Nodes are dealt out to zones in turn.
    let zone = context.victim(ZONES.len());
    let victims = [zone, zone + ZONES.len()];
    let shape = Shape { zones: &ZONES, ..Shape::of(6) };
    let hit = async move |scene: &Scene| victims.iter().try_for_each(|victim| scene.cluster.nodes()[*victim].kill());
    let mend = async move |scene: &Scene, outcome: &mut Outcome| {
        let before = scene.members().await?;
        let ids = victims.map(id);
        scene
            .until("an alarm", |status| if status.alarms.is_empty() { vec!["no alarm".to_owned()] } else { vec![] })
            .await?;
        sleep(2 * OUT_AFTER).await;
        let after = scene.members().await?;
        let changed = before.iter().filter(|(group, members)| after.get(*group) != Some(*members)).count();
        outcome.set("groups_changed", changed);
        for victim in victims {
            scene.cluster.nodes()[victim].restart().await?;
        }
        scene.nodes_are("up", &ids).await.map(|_| ())
    };
    Box::pin(run(context, shape, hit, mend))
}
