//! Disks that fill up, fail, or rot.

use super::scene::{Scene, Shape, run};
use super::{Context, Running, id, skipped};
use crate::disk::{LoopDisk, missing};
use crate::report::Outcome;
use crate::rot::{Rotten, spoil};
use crate::scenario::Form;
use anyhow::{Context as _, Result};
use cairn_client::{BlockId, LedgerEntry};
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::sleep;

/// Sparse: only what is written takes place.
const DISK_LEN: u64 = 4 << 30;
const DISK_LEN_SHORT: u64 = 1 << 30;
/// What is left for the node when somebody else fills its disk.
const LEFT: u64 = 8 << 20;
/// How long a full disk stays full.
const FULL_FOR: Duration = Duration::from_secs(15);
const FULL_FOR_SHORT: Duration = Duration::from_secs(4);
/// How often power is lost.
const CUTS: u32 = 20;
const CUTS_SHORT: u32 = 3;
const BETWEEN_CUTS_MAX: Duration = Duration::from_secs(3);
const PLACES: u64 = 1000;
const PLACES_SHORT: u64 = 100;
/// Entries asked for at once.
const LEDGER_PAGE: u32 = 1000;

fn with_disk(context: &Context, victim: usize) -> Shape {
    Shape { disks: BTreeMap::from([(name(victim), disk_len(context))]), ..Shape::of(5) }
}

fn disk_len(context: &Context) -> u64 {
    if context.form == Form::Full { DISK_LEN } else { DISK_LEN_SHORT }
}

/// Of the member at an index of the nodes.
fn name(index: usize) -> String {
    format!("node-{}", id(index))
}

fn disk(scene: &Scene, victim: usize) -> Result<&LoopDisk> {
    scene.cluster.disk(&name(victim)).context("the node has no disk of its own")
}

pub fn full(context: Context) -> Running {
    if let Some(why) = missing() {
        return Box::pin(async move { Ok(skipped(why)) });
    }
    let victim = context.victim(5);
    let (shape, long) = (with_disk(&context, victim), context.form == Form::Full);
    let hit = async move |scene: &Scene| {
        let taken = disk(scene, victim)?.fill(LEFT)?;
        scene.cluster.count("full", u64::from(taken > 0));
        Ok(())
    };
    let mend = async move |scene: &Scene, outcome: &mut Outcome| {
        sleep(if long { FULL_FOR } else { FULL_FOR_SHORT }).await;
        // It was noticed: by writes that went without this replica, or by the node itself.
        outcome.set("full_seen", scene.seen.degraded_runs_max() > 0 || scene.seen.troubles() > 0);
        disk(scene, victim)?.relieve()
    };
    Box::pin(run(context, shape, hit, mend))
}

pub fn eio(context: Context) -> Running {
    if let Some(why) = missing() {
        return Box::pin(async move { Ok(skipped(why)) });
    }
    let victim = context.victim(5);
    let shape = with_disk(&context, victim);
    let hit = async move |scene: &Scene| {
        disk(scene, victim)?.fail()?;
        scene.cluster.count("eio", 1);
        Ok(())
    };
    let mend = async move |scene: &Scene, outcome: &mut Outcome| {
        // Nobody takes the disk away: its store is out, whatever its node says.
        let left = |status: &cairn_client::ClusterStatus| {
            let left = super::tasks::memberships(status, id(victim));
            if left == 0 { Vec::new() } else { vec![format!("{left} memberships on the failed disk")] }
        };
        let moved = scene.until("the failed disk to be replaced", left).await?;
        outcome.set("replaced_after_s", moved.as_secs_f64());
        Ok(())
    };
    Box::pin(run(context, shape, hit, mend))
}

pub fn power(context: Context) -> Running {
    if let Some(why) = missing() {
        return Box::pin(async move { Ok(skipped(why)) });
    }
    let members = (0..5).map(name).chain(["meta".to_owned()]);
    let disks = members.map(|name| (name, disk_len(&context))).collect();
    let cuts = if context.form == Form::Full { CUTS } else { CUTS_SHORT };
    let mut random = Rng::with_seed(context.seed);
    let hit = async |scene: &Scene| scene.cluster.lose_power().await;
    let mend = async move |scene: &Scene, outcome: &mut Outcome| {
        outcome.set("cuts", cuts);
        for _ in 1..cuts {
            // Sometimes in the middle of coming back, sometimes long after.
            sleep(BETWEEN_CUTS_MAX.mul_f64(random.f64())).await;
            scene.cluster.lose_power().await?;
        }
        Ok(())
    };
    Box::pin(run(context, Shape { disks, ..Shape::of(5) }, hit, mend))
}

/// The ledger of a node, whole.
async fn ledger(scene: &Scene, node: u32) -> Result<(Vec<LedgerEntry>, u64)> {
    let admin = scene.watcher.admin();
    let (mut entries, mut before) = (Vec::new(), None);
    loop {
        let page = admin.ledger(node, before, LEDGER_PAGE).await.context("reading a ledger")?;
        before = page.entries.iter().map(|entry| entry.number).min();
        let end = page.entries.is_empty() || before == Some(1);
        entries.extend(page.entries);
        if end {
            return Ok((entries, page.open));
        }
    }
}

/// All blocks that a node holds.
async fn inventory(scene: &Scene, node: u32) -> Result<BTreeSet<BlockId>> {
    let admin = scene.watcher.admin();
    let status = scene.status().await?;
    let stores = status.nodes.iter().filter(|found| found.id == node).flat_map(|node| &node.stores);
    let mut blocks = BTreeSet::new();
    for store in stores {
        for group in &status.groups {
            let mut after = None;
            loop {
                let page = admin.list_blocks(store.id, group.id, after).await.context("listing blocks")?;
                for run in page.runs {
                    let id = |i| BlockId::new(run.first.inode.0, run.first.writer.0, run.first.seq.0 + i);
                    blocks.extend((0..run.count).map(id));
                }
                after = page.next_after;
                if after.is_none() {
                    break;
                }
            }
        }
    }
    Ok(blocks)
}

pub fn rot(context: Context) -> Running {
    // Two of five: each block has a replica elsewhere, so that all can be repaired.
    let first = context.victim(5);
    let victims = [first, (first + 1) % 5];
    let places = if context.form == Form::Full { PLACES } else { PLACES_SHORT };
    let mut random = Rng::with_seed(context.seed);
    let hit = async |_: &Scene| Ok(());
    let mend = async move |scene: &Scene, outcome: &mut Outcome| {
        let dirs = victims.map(|victim| scene.cluster.nodes()[victim].dir.clone());
        let spoilt = tokio::task::spawn_blocking(move || {
            dirs.iter().map(|dir| spoil(dir, places / dirs.len() as u64, &mut random)).collect::<Result<Vec<Rotten>>>()
        });
        let spoilt = spoilt.await??;
        let sum = |field: fn(&Rotten) -> u64| spoilt.iter().map(field).sum::<u64>();
        scene.cluster.count("rot", sum(|rotten| rotten.places));
        outcome.set("places", sum(|rotten| rotten.places));
        outcome.set("places_in_blocks", sum(|rotten| rotten.in_blocks));
        outcome.set("damaged", sum(|rotten| rotten.blocks.len() as u64));
        scene.operate(&["admin", "scrub", "--wait"]).await?;
        let (mut open, mut undetected, mut detected) = (0, 0, 0);
        for (victim, rotten) in victims.iter().zip(&spoilt) {
            let (entries, left) = ledger(scene, id(*victim)).await?;
            let known: BTreeSet<BlockId> = entries.iter().map(|entry| entry.block).collect();
            // What was overwritten meanwhile and collected is nobody's loss.
            let held = inventory(scene, id(*victim)).await?;
            open += left;
            detected += rotten.blocks.intersection(&known).count();
            undetected += rotten.blocks.iter().filter(|block| held.contains(block) && !known.contains(block)).count();
        }
        outcome.set("ledger_open", open);
        outcome.set("detected", detected);
        outcome.set("undetected", undetected);
        // Headers that were spoilt without a sign would be missed now.
        for victim in victims {
            scene.cluster.nodes()[victim].kill()?;
            scene.cluster.nodes()[victim].restart().await?;
        }
        scene.nodes_are("up", &victims.map(id)).await?;
        scene.whole().await?;
        let before = found(scene).await?;
        scene.operate(&["admin", "scrub", "--wait"]).await?;
        outcome.set("found_again", found(scene).await?.saturating_sub(before));
        Ok(())
    };
    Box::pin(run(context, Shape::of(5), hit, mend))
}

/// Entries of all ledgers.
async fn found(scene: &Scene) -> Result<usize> {
    let mut entries = 0;
    for index in 0..scene.cluster.nodes().len() {
        entries += ledger(scene, id(index)).await?.0.len();
    }
    Ok(entries)
}
