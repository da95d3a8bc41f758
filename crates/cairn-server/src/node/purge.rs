//! The purge: deletes the copies of groups that a store has left, once nobody needs them.
//!
//! The node asks, metadata answers (`judge_groups` of `cairn-meta`): only when every member of the group is complete may a
//! former one drop its copies, and only those that came in under an epoch below the one at which that was judged. The
//! fence refuses answers of a duty holder that is over, and of an epoch that is.
//!
//! A store may be put into the group again while its copies go. A join that took copies for granted that a purge then
//! deletes would count as complete without being it, so the two exclude each other: every page is deleted under the slot's
//! `membership` lock, after another look at the cluster map, and a join passes through that lock after it has seen the map
//! that names it. Whichever comes second sees what the first has done.

use super::duty::wait;
use super::fence::{AdmitError, Authority};
use super::slot::StoreSlot;
use super::state::Node;
use crate::entropy;
use crate::limits::{PURGE_PAGE, PURGE_PAGE_PAUSE};
use crate::links::CallError;
use crate::tasks::blocking;
use crate::view::ClusterView;
use cairn_proto::limits::BLOCKS_PER_REQUEST_MAX;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, response};
use cairn_proto::{PgEpoch, PgId, StoreId};
use cairn_store::{BlockKey, Closed, DeleteError, ReadError, Store};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Error)]
enum PurgeError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("metadata's answer contradicts itself: it does not judge every group")]
    Answer,
    #[error("metadata's answer is refused: {0}")]
    Fence(#[from] AdmitError),
    #[error("the store does not delete: {0}")]
    Store(#[from] DeleteError),
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// What a store looked like when nothing of it was left to purge: it is not looked through again before that changes.
type Settled = Option<u64>;

/// Runs until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let never = Notify::new();
    let mut rng = entropy::rng();
    let mut settled: Vec<Settled> = node.stores.iter().map(|_| None).collect();
    // Spread, so that the nodes of a cluster do not all ask at once.
    while wait(&stop, &never, Some(node.sweep_every.mul_f64(0.8 + 0.4 * rng.f64()))).await {
        for (slot, settled) in node.stores.iter().zip(&mut settled) {
            match stop.run_until_cancelled(pass(&node, slot, settled)).await {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::debug!(store = ?slot.id(), %error, "purge interrupted"),
            }
        }
    }
}

/// Groups of which the store has blocks and is no member.
fn strange(view: &ClusterView, store: StoreId, held: impl Iterator<Item = PgId>) -> Vec<PgId> {
    held.filter(|pg| !view.is_member(*pg, store)).collect()
}

/// Looks once at every group of which a store has blocks.
async fn pass(node: &Node, slot: &Arc<StoreSlot>, settled: &mut Settled) -> Result<(), PurgeError> {
    let Some(store) = slot.id().filter(|_| slot.is_open()) else { return Ok(()) };
    let view = node.view.load_full();
    if view.version == 0 || *settled == Some(view.version) {
        return Ok(());
    }
    let held = slot.ask(Store::groups).await?;
    let strange = strange(&view, store, held.into_keys());
    let mut left = 0;
    for some in strange.chunks(BLOCKS_PER_REQUEST_MAX) {
        let ask = pb::JudgeGroups { store: store.0, pgs: some.iter().map(|pg| pg.0).collect() };
        let reply = match node.meta.call(Kind::JudgeGroups(ask)).await? {
            response::Kind::JudgeGroups(reply) => reply,
            _ => return Err(PurgeError::Answer),
        };
        if reply.verdicts.len() != some.len() || reply.verdicts.iter().zip(some).any(|(verdict, pg)| verdict.pg != pg.0)
        {
            return Err(PurgeError::Answer);
        }
        for verdict in &reply.verdicts {
            let pg = PgId(verdict.pg);
            let command = Authority { duty_epoch: reply.duty_epoch, pg, pg_epoch: PgEpoch(verdict.pg_epoch) };
            if !verdict.purge || !purge(node, slot, store, command).await? {
                left += 1;
            }
        }
    }
    *settled = (left == 0).then_some(view.version);
    Ok(())
}

/// What may be deleted of a page: blocks that came in before `epoch`, and those that cannot be served anyway.
fn doomed(store: &Store, page: &[BlockKey], epoch: PgEpoch) -> Vec<BlockKey> {
    let may_go = |key: &&BlockKey| match store.read(**key) {
        Ok(block) => block.pg_epoch() < epoch,
        Err(ReadError::Quarantined { .. } | ReadError::Corrupt { .. }) => true,
        // Gone already, or not to be judged now.
        Err(_) => false,
    };
    page.iter().filter(may_go).copied().collect()
}

/// Deletes the copies of one group; false when the group has moved on meanwhile.
async fn purge(node: &Node, slot: &Arc<StoreSlot>, store: StoreId, command: Authority) -> Result<bool, PurgeError> {
    let Authority { pg, pg_epoch, .. } = command;
    let (home, known) = (node.home.clone(), node.view.load().epoch(pg));
    blocking(move || home.fence.admit(&home.disk, command, known)).await?;
    let (mut after, mut deleted) = (None, 0);
    loop {
        let page = slot
            .ask(move |store| {
                let page = store.list_all(pg, after, PURGE_PAGE);
                (doomed(store, &page, pg_epoch), page.last().copied(), page.len())
            })
            .await?;
        let (doomed, last, count) = page;
        {
            let _alone = slot.membership.lock().await;
            let view = node.view.load();
            if view.epoch(pg) > pg_epoch || view.is_member(pg, store) {
                return Ok(false);
            }
            if !doomed.is_empty() {
                deleted += slot.delete(doomed).await?.deleted as u64;
            }
        }
        after = last;
        if count < PURGE_PAGE {
            break;
        }
        sleep(PURGE_PAGE_PAUSE).await; // tidy: sleep-ok(bounds the rate of the purge)
    }
    if deleted > 0 {
        tracing::info!(%store, %pg, blocks = deleted, "copies of a group that was left are deleted");
        node.progress.purged_blocks.fetch_add(deleted, Ordering::Relaxed);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::slot::tests::{put, slot};
    use cairn_store::{Durability, Put, StoreOptions};

    #[tokio::test]
    async fn only_blocks_from_before_the_epoch_may_go() {
        let (_dir, slot) = slot(StoreOptions::default(), 0);
        let work = cairn_net::WorkTime::default();
        let mut keys = Vec::new();
        for (seq, epoch) in [(1, 3), (2, 4), (3, 5), (4, 9)] {
            let put = Put { pg_epoch: PgEpoch(epoch), durability: Durability::Durable, ..put(1, seq) };
            keys.push(put.key);
            slot.put(put, &work).await.unwrap();
        }
        let page = keys.clone();
        let found = slot.ask(move |store| doomed(store, &page, PgEpoch(5))).await.unwrap();
        assert_eq!(found, keys[..2]);
    }
}
