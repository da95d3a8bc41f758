//! Making accepted blocks durable: one SYNC per store, a majority for each block.

use crate::client::Inner;
use crate::error::{Cause, Error};
use crate::node::{Leg, Node};
use crate::policy::write_plan::{Step, WritePlan};
use crate::read::to_pb;
use crate::trace;
use crate::write::{Draft, Stored, Target, body_of, put_block, put_leg};
use cairn_proto::checksum;
use cairn_proto::pb::{self, PutDurability, request, response};
use cairn_proto::status::{Code, Status};
use cairn_proto::{Shard, StoreId, quorum};
use futures_util::stream::{FuturesUnordered, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Blocks written anew at the same time when a sync failed them.
const REWRITES_PARALLEL: usize = 8;

/// Makes unsynced blocks durable. All replicas that were meant to hold a block are asked, also those that had not
/// answered when it was written: a frozen one among the first to answer must not be waited for. What a store lacks is
/// sent again; a block that finds no majority is written anew, elsewhere.
pub(crate) async fn sync_blocks(
    inner: &Arc<Inner>,
    target: &Target,
    blocks: Vec<Stored>,
    deadline: Instant,
) -> Result<Vec<Stored>, Error> {
    let (mut done, blocks): (Vec<Stored>, Vec<Stored>) = blocks.into_iter().partition(|block| block.settled);
    let plans = sync_everywhere(inner, target, &blocks, deadline).await;
    let mut lost = Vec::new();
    for (mut block, plan) in blocks.into_iter().zip(plans) {
        let acked = plan.tally().acked();
        if acked.len() < plan.tally().needed() {
            lost.push(Draft { offset: block.offset, data: block.data, seq: target.reserve(1)? });
            continue;
        }
        let meant = std::mem::take(&mut block.acked).into_iter().chain(std::mem::take(&mut block.late));
        (block.acked, block.late) = meant.partition(|store| acked.contains(store));
        block.settled = true;
        done.push(block);
    }
    // What is left of the deadline was spent on replicas that did not answer.
    let deadline = inner.deadline(inner.config.write_timeout);
    let mut rewrites = Vec::with_capacity(lost.len());
    for draft in lost {
        rewrites.push(put_block(inner, target, draft, None, PutDurability::Durable, deadline));
    }
    let rewritten: Vec<Stored> = futures_util::stream::iter(rewrites).buffered(REWRITES_PARALLEL).try_collect().await?;
    done.extend(rewritten);
    done.sort_by_key(|block| block.offset);
    Ok(done)
}

/// Asks every store that was meant to hold some of `blocks`; returns when each block has its majority (and a short grace
/// for the rest), or cannot get it.
async fn sync_everywhere(inner: &Arc<Inner>, target: &Target, blocks: &[Stored], deadline: Instant) -> Vec<WritePlan> {
    let meant = |block: &Stored| block.acked.iter().chain(&block.late).copied().collect::<Vec<StoreId>>();
    let mut plans: Vec<WritePlan> = blocks.iter().map(|b| WritePlan::new(b.replicas, &meant(b))).collect();
    let stores: BTreeSet<StoreId> = blocks.iter().flat_map(meant).collect();
    let view = inner.cluster.view();
    let begun = Instant::now();
    let (sender, mut answers) = mpsc::channel(stores.len().max(1));
    for store in stores {
        let mine: Vec<Stored> = blocks.iter().filter(|block| meant(block).contains(&store)).cloned().collect();
        let Some(node) = view.node_of(store).filter(|node| node.is_closed()).cloned() else {
            plans.iter_mut().for_each(|plan| plan.on_failure(store));
            continue;
        };
        let (inner, target, sender) = (inner.clone(), target.clone(), sender.clone());
        inner.tasks.clone().spawn(trace::carry(async move {
            let durable = sync_store(&inner, &target, store, &node, &mine, deadline).await;
            // Nobody listens to a store that answers after the majority.
            let _ = sender.send((store, durable)).await;
        }));
    }
    drop(sender);
    let silent = |store: StoreId| view.node_of(store).is_none_or(|node| !node.is_closed());
    loop {
        let steps = plans.iter_mut().map(|plan| plan.step(begun.elapsed(), silent));
        let waits: Vec<Option<_>> =
            steps.filter_map(|s| if let Step::Wait(until) = s { Some(until) } else { None }).collect();
        if waits.is_empty() || Instant::now() >= deadline {
            return plans;
        }
        let wake = waits.into_iter().flatten().map(|until| begun + until).min().unwrap_or(deadline).min(deadline);
        tokio::select! {
            biased;
            answer = answers.recv() => {
                let Some((store, durable)) = answer else { return plans };
                for (block, plan) in blocks.iter().zip(&mut plans) {
                    if durable.contains(&block.seq) {
                        plan.on_ack(store, begun.elapsed());
                    } else {
                        plan.on_failure(store);
                    }
                }
            }
            () = tokio::time::sleep_until(wake) => {}
        }
    }
}

/// Numbers of the blocks that `store` holds durably.
async fn sync_store(
    inner: &Arc<Inner>,
    target: &Target,
    store: StoreId,
    node: &Arc<Node>,
    blocks: &[Stored],
    deadline: Instant,
) -> BTreeSet<u32> {
    let ids = blocks.iter().map(|block| to_pb(target.block(block.seq))).collect();
    let leg = Leg::plain(request::Kind::Sync(pb::SyncBlocks { store: store.0, blocks: ids }), deadline);
    let Ok(reply) = node.call(inner, leg).await else { return BTreeSet::new() };
    let Some(response::Kind::Sync(reply)) = reply.response.kind else { return BTreeSet::new() };
    let mut durable = BTreeSet::new();
    for block in blocks {
        // A store that took the block in an earlier life has lost it, or names it missing; a store that never
        // acknowledged it may have it by now.
        let missing = reply.missing.iter().any(|id| id.seq == block.seq);
        let other_life = block.incarnations.get(&store).is_some_and(|life| *life != reply.incarnation);
        if !(missing || other_life) || resend(inner, target, store, node, block, deadline).await {
            durable.insert(block.seq);
        }
    }
    durable
}

/// Sends a block once more to a store that lost it, durably.
async fn resend(
    inner: &Arc<Inner>,
    target: &Target,
    store: StoreId,
    node: &Arc<Node>,
    block: &Stored,
    deadline: Instant,
) -> bool {
    let id = target.block(block.seq);
    let crcs = checksum::chunk_crcs(id, Shard(0), &block.data);
    let view = inner.cluster.view();
    let put = pb::PutBlock {
        block: Some(to_pb(id)),
        shard: 0,
        pg: block.pg.0,
        pg_epoch: view.group(block.pg).map_or(0, |group| group.epoch.0),
        crcs: checksum::pack(&crcs).into(),
        durability: PutDurability::Durable as i32,
        file_offset_hint: block.offset,
        store: store.0,
    };
    put_leg(inner, node, put, body_of(id, &block.data, &crcs), deadline).await.is_ok()
}

/// What relaxed writes rely on: for each, the policy's N and the lives of the stores that took it. Writes that rely on
/// the same are one entry, so this stays small however much is written.
#[derive(Default)]
pub(crate) struct Unsynced {
    blocks: Mutex<BTreeSet<Reliance>>,
    /// One sync at a time: a second one must not find the first one's entries gone before they are on disk.
    syncing: tokio::sync::Mutex<()>,
}

type Reliance = (usize, BTreeMap<StoreId, u64>);

/// Entries being synced; back where they were unless the sync succeeds.
struct Taken<'a> {
    from: &'a Unsynced,
    blocks: BTreeSet<Reliance>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.from.blocks.lock().append(&mut self.blocks);
    }
}

impl Unsynced {
    /// Notes committed relaxed blocks.
    pub(crate) fn add(&self, blocks: &[Stored]) {
        let mut known = self.blocks.lock();
        for block in blocks {
            let lives = block.acked.iter().filter_map(|store| Some((*store, *block.incarnations.get(store)?)));
            known.insert((block.replicas, lives.collect()));
        }
    }

    /// Returns once everything added before is on disk on a majority.
    pub(crate) async fn sync(&self, inner: &Arc<Inner>, deadline: Instant) -> Result<(), Error> {
        let _one = tokio::time::timeout_at(deadline, self.syncing.lock())
            .await
            .map_err(|_| Error::new("sync", Cause::Deadline(inner.config.write_timeout)))?;
        let mut taken = Taken { blocks: std::mem::take(&mut *self.blocks.lock()), from: self };
        let view = inner.cluster.view();
        let stores: BTreeSet<StoreId> = taken.blocks.iter().flat_map(|(_, lives)| lives.keys().copied()).collect();
        let mut flushes = FuturesUnordered::new();
        for store in stores {
            let Some(node) = view.node_of(store).filter(|node| node.is_closed()).cloned() else { continue };
            flushes.push(async move {
                let kind = request::Kind::Sync(pb::SyncBlocks { store: store.0, blocks: Vec::new() });
                let reply = node.call(inner, Leg::plain(kind, deadline)).await.ok()?;
                match reply.response.kind {
                    Some(response::Kind::Sync(reply)) => Some((store, reply.incarnation)),
                    _ => None,
                }
            });
        }
        let mut lives = BTreeMap::new();
        let durable = |(_, relied): &Reliance, lives: &BTreeMap<StoreId, u64>| {
            relied.iter().filter(|(store, life)| lives.get(store) == Some(life)).count()
        };
        let enough = |entry: &Reliance, lives: &_| durable(entry, lives) >= quorum::needed(entry.0);
        // A majority is enough: a frozen store is not waited for.
        while !taken.blocks.iter().all(|entry| enough(entry, &lives)) {
            match flushes.next().await {
                Some(answer) => lives.extend(answer),
                None => break,
            }
        }
        if let Some(entry) = taken.blocks.iter().find(|entry| !enough(entry, &lives)) {
            let (count, needed) = (durable(entry, &lives), quorum::needed(entry.0));
            let message = format!("a relaxed write is known to be on disk on {count} of {needed} needed replicas");
            return Err(Error::new("sync", Cause::Status(Status::new(Code::Unavailable, message))));
        }
        taken.blocks.clear();
        Ok(())
    }
}
