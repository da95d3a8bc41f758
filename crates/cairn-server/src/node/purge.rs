//! Purge: deletes the blocks of groups that a store is no member of any more, when metadata says that the members hold
//! everything without it.
//!
//! A verdict is of one epoch of the group, and stale as soon as a later one is known: by the map, by a PUT that showed it,
//! or by the fence. Only records whose put carried a lower epoch go, so that what came in for a later membership stays.
//! Whoever brings copies in for a membership (joining, catching up) holds the same lock of (store, group), under which
//! all of this is looked at again: a copy that was found here, and therefore not fetched, is not purged afterwards.

use super::duty::wait;
use super::fence::{AdmitError, Authority};
use super::slot::StoreSlot;
use super::state::Node;
use crate::entropy;
use crate::limits::{PURGE_MASS_PERCENT, SWEEP_MASS_MIN, SWEEP_PAGE_PAUSE};
use crate::links::CallError;
use crate::tasks::blocking;
use cairn_proto::limits::BLOCKS_PER_REQUEST_MAX;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, response};
use cairn_proto::{Incarnation, PgEpoch, PgId, StoreId};
use cairn_store::{BlockKey, Closed, DeleteError, GroupUse, ReadError, Store};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thiserror::Error;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// A lock for each group of a store: shared by those that bring copies in, and exclusive for a purge.
#[derive(Default)]
pub(crate) struct GroupLocks(Mutex<BTreeMap<PgId, Arc<RwLock<()>>>>);

impl GroupLocks {
    fn of(&self, pg: PgId) -> Arc<RwLock<()>> {
        let mut locks = self.0.lock();
        // Those that nobody holds or waits for are made anew.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(pg).or_default().clone()
    }

    /// Copies are brought in as long as this is held; waits for a purge to make its step.
    pub(crate) async fn bring(&self, pg: PgId) -> OwnedRwLockReadGuard<()> {
        self.of(pg).read_owned().await
    }

    fn try_purge(&self, pg: PgId) -> Option<OwnedRwLockWriteGuard<()>> {
        self.of(pg).try_write_owned().ok()
    }
}

#[derive(Debug, Error)]
enum PurgeError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("metadata's answer contradicts itself")]
    Answer,
    #[error("metadata's verdict is refused: {0}")]
    Fence(#[from] AdmitError),
    #[error("metadata's verdict is stale")]
    Stale(#[from] Stale),
    #[error("the store does not delete: {0}")]
    Store(#[from] DeleteError),
    #[error(transparent)]
    Closed(#[from] Closed),
    #[error("copies are being brought in")]
    Busy,
}

/// What the node itself knows about a store and a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    /// The map names the store as a member, in whatever state.
    member: bool,
    map_epoch: PgEpoch,
    /// The highest that a PUT showed.
    put_epoch: PgEpoch,
}

/// Why a verdict is not acted upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
enum Stale {
    #[error("the store is a member")]
    Member,
    #[error("the group has moved on")]
    Epoch,
}

/// The decision about a group. Taken again before every step, under the group's lock.
fn may_purge(known: Known, verdict: PgEpoch) -> Result<(), Stale> {
    if known.member {
        return Err(Stale::Member);
    }
    if known.map_epoch.max(known.put_epoch) > verdict { Err(Stale::Epoch) } else { Ok(()) }
}

/// The decision about a block: `came_in` is the epoch of its put, `None` when its record is damaged and never served.
fn block_goes(came_in: Option<PgEpoch>, verdict: PgEpoch) -> bool {
    came_in.is_none_or(|came_in| came_in < verdict)
}

/// True when so many blocks of all may go at one look.
fn is_bearable(going: u64, blocks: u64, draining: bool) -> bool {
    draining || going <= (blocks / 100 * PURGE_MASS_PERCENT).max(SWEEP_MASS_MIN)
}

/// A look at a store that found nothing is not repeated before its map or its opening is another.
type Settled = Option<(u64, Incarnation)>;

/// Runs until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut rng = entropy::rng();
    // Map versions at which nothing was left to be purged, and the opening of the store.
    let mut settled: Vec<Settled> = node.stores.iter().map(|_| None).collect();
    // Spread, so that the nodes of a cluster do not all ask at once.
    while wait(&stop, &node.wakes.purge, Some(node.sweep_every.mul_f64(0.8 + 0.4 * rng.f64()))).await {
        for (slot, settled) in node.stores.iter().zip(&mut settled) {
            match stop.run_until_cancelled(pass(&node, slot, settled)).await {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::debug!(store = ?slot.id(), %error, "purge put off"),
            }
        }
    }
}

/// Looks once at all groups of a store.
async fn pass(node: &Node, slot: &Arc<StoreSlot>, settled: &mut Settled) -> Result<(), PurgeError> {
    let view = node.view.load_full();
    let Some(store) = slot.id().filter(|_| slot.is_open() && view.version > 0) else { return Ok(()) };
    let now = slot.incarnation().map(|opening| (view.version, opening));
    if now.is_some() && *settled == now {
        return Ok(());
    }
    let held = slot.ask(Store::groups).await?;
    let foreign: Vec<(PgId, GroupUse)> =
        held.iter().filter(|(pg, _)| !view.is_member(**pg, store)).map(|(pg, held)| (*pg, *held)).collect();
    if foreign.is_empty() {
        slot.purge_alarm.lock().clear();
        *settled = now;
        return Ok(());
    }
    let mut going = Vec::new();
    for some in foreign.chunks(BLOCKS_PER_REQUEST_MAX) {
        let ask = pb::JudgeGroups { store: store.0, pgs: some.iter().map(|(pg, _)| pg.0).collect() };
        let reply = match node.meta.call(Kind::JudgeGroups(ask)).await? {
            response::Kind::JudgeGroups(reply) if reply.verdicts.len() == some.len() => reply,
            _ => return Err(PurgeError::Answer),
        };
        for ((pg, held), verdict) in some.iter().zip(&reply.verdicts) {
            if verdict.pg != pg.0 {
                return Err(PurgeError::Answer);
            }
            if verdict.purge {
                let pg_epoch = PgEpoch(verdict.pg_epoch);
                going.push((Authority { duty_epoch: reply.duty_epoch, pg: *pg, pg_epoch }, held.blocks));
            }
        }
    }
    let blocks = going.iter().map(|(_, blocks)| blocks).sum();
    let all = held.values().map(|held| held.blocks).sum();
    if !is_bearable(blocks, all, view.is_draining(store)) {
        let alarm = format!("purge stopped: {blocks} of {all} blocks are of groups that it is no member of");
        if std::mem::replace(&mut *slot.purge_alarm.lock(), alarm.clone()) != alarm {
            tracing::error!(%store, "{alarm}");
        }
        return Ok(());
    }
    slot.purge_alarm.lock().clear();
    for (authority, _) in going {
        let purged = purge_group(node, slot, store, authority).await;
        match purged {
            Ok(0) => {}
            Ok(blocks) => tracing::info!(%store, pg = %authority.pg, blocks, "copies of a former membership deleted"),
            Err(error) => tracing::debug!(%store, pg = %authority.pg, %error, "group not purged"),
        }
    }
    Ok(())
}

/// Deletes what a verdict is about, step by step; how many blocks.
async fn purge_group(
    node: &Node,
    slot: &Arc<StoreSlot>,
    store: StoreId,
    authority: Authority,
) -> Result<u64, PurgeError> {
    let (pg, verdict) = (authority.pg, authority.pg_epoch);
    let (mut after, mut purged) = (None, 0);
    loop {
        let page = slot.ask(move |held| held.list_all(pg, after, BLOCKS_PER_REQUEST_MAX)).await?;
        let Some(last) = page.last().copied() else { return Ok(purged) };
        {
            let _group = slot.groups.try_purge(pg).ok_or(PurgeError::Busy)?;
            let view = node.view.load_full();
            let known =
                Known { member: view.is_member(pg, store), map_epoch: view.epoch(pg), put_epoch: slot.put_epoch(pg) };
            may_purge(known, verdict)?;
            let home = node.home.clone();
            blocking(move || home.fence.admit(&home.disk, authority, known.map_epoch.max(known.put_epoch))).await?;
            let going = slot.ask(move |held| going_of(held, &page, verdict)).await?;
            if !going.is_empty() {
                let deleted = slot.delete(going).await?.deleted as u64;
                node.progress.purged_blocks.fetch_add(deleted, Ordering::Relaxed);
                purged += deleted;
            }
        }
        after = Some(last);
        sleep(SWEEP_PAGE_PAUSE).await; // tidy: sleep-ok(bounds the rate of a purge)
    }
}

/// Those of a page that go.
fn going_of(store: &Store, page: &[BlockKey], verdict: PgEpoch) -> Vec<BlockKey> {
    let goes = |key: &&BlockKey| match store.read(**key) {
        Ok(block) => block_goes(Some(block.pg_epoch()), verdict),
        Err(ReadError::Quarantined { .. } | ReadError::Corrupt { .. }) => block_goes(None, verdict),
        Err(ReadError::NotFound { .. } | ReadError::Io { .. }) => false,
    };
    page.iter().filter(goes).copied().collect()
}

impl StoreSlot {
    /// A PUT showed this epoch of a group.
    pub(crate) fn note_epoch(&self, pg: PgId, epoch: PgEpoch) {
        let mut epochs = self.put_epochs.lock();
        let known = epochs.entry(pg).or_default();
        *known = epoch.max(*known);
    }

    /// The highest epoch of a group that a PUT showed.
    fn put_epoch(&self, pg: PgId) -> PgEpoch {
        self.put_epochs.lock().get(&pg).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(member: bool, map: u64, put: u64) -> Known {
        Known { member, map_epoch: PgEpoch(map), put_epoch: PgEpoch(put) }
    }

    #[test]
    fn a_verdict_is_stale_once_a_later_epoch_is_known() {
        let verdict = PgEpoch(6);
        assert_eq!(may_purge(known(false, 6, 5), verdict), Ok(()));
        assert_eq!(may_purge(known(false, 5, 0), verdict), Ok(()), "the map is late, the verdict is not");
        assert_eq!(may_purge(known(true, 5, 0), verdict), Err(Stale::Member));
        assert_eq!(may_purge(known(true, 7, 0), verdict), Err(Stale::Member));
        assert_eq!(may_purge(known(false, 7, 0), verdict), Err(Stale::Epoch));
        assert_eq!(may_purge(known(false, 6, 7), verdict), Err(Stale::Epoch), "a PUT knew more than the map");
    }

    #[test]
    fn what_came_in_for_a_later_membership_stays() {
        assert!(block_goes(Some(PgEpoch(5)), PgEpoch(6)));
        assert!(!block_goes(Some(PgEpoch(6)), PgEpoch(6)));
        assert!(!block_goes(Some(PgEpoch(7)), PgEpoch(6)));
        assert!(block_goes(None, PgEpoch(6)), "a damaged record is no copy");
    }

    #[test]
    fn a_purge_of_most_of_a_store_is_stopped_unless_it_is_drained() {
        assert!(is_bearable(SWEEP_MASS_MIN, SWEEP_MASS_MIN, false));
        assert!(is_bearable(500_000, 1_000_000, false));
        assert!(!is_bearable(500_001, 1_000_000, false));
        assert!(is_bearable(1_000_000, 1_000_000, true));
    }

    #[tokio::test]
    async fn only_blocks_from_before_the_epoch_go() {
        use crate::node::slot::tests::{put, slot};
        let (_dir, slot) = slot(cairn_store::StoreOptions::default(), 0);
        let mut keys = Vec::new();
        for (seq, epoch) in [(1, 3), (2, 4), (3, 5), (4, 9)] {
            let put = cairn_store::Put { pg_epoch: PgEpoch(epoch), ..put(1, seq) };
            keys.push(put.key);
            slot.put(put, &cairn_net::WorkTime::default()).await.expect("stored");
        }
        let page = keys.clone();
        let going = slot.ask(move |store| going_of(store, &page, PgEpoch(5))).await.expect("open");
        assert_eq!(going, keys[..2]);
    }

    /// What can happen to a copy of one block, in any order.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Step {
        /// The verdict of epoch 6, asked for when the store was no member, arrives and is acted upon.
        Purge,
        /// The store is made a member again, in epoch 7, and learns of it.
        Map,
        /// It brings copies in: what is here is not fetched again, and it then counts as full.
        Join,
    }

    /// True when the store counts as full and has no copy: the loss that the rules prevent.
    fn loses(order: [Step; 3], rule: impl Fn(Known, PgEpoch) -> bool) -> bool {
        let (mut here, mut full, mut now) = (true, false, known(false, 6, 0));
        for step in order {
            match step {
                Step::Map => now = known(true, 7, 0),
                // Nobody joins a group before the map says so.
                Step::Join if !now.member => {}
                Step::Join => (here, full) = (true, true),
                Step::Purge => here = here && !(rule(now, PgEpoch(6)) && block_goes(Some(PgEpoch(5)), PgEpoch(6))),
            }
        }
        full && !here
    }

    #[test]
    fn a_paused_verdict_that_wakes_after_the_group_moved_on_deletes_nothing_that_counts() {
        use Step::{Join, Map, Purge};
        let orders = [
            [Purge, Map, Join],
            [Map, Purge, Join],
            [Map, Join, Purge],
            [Purge, Join, Map],
            [Join, Purge, Map],
            [Join, Map, Purge],
        ];
        assert!(orders.iter().all(|order| !loses(*order, |known, verdict| may_purge(known, verdict).is_ok())));
        // Without looking again, the late verdict takes what the join counted on.
        assert!(orders.iter().any(|order| loses(*order, |_, _| true)));
    }

    #[tokio::test]
    async fn a_purge_and_a_join_of_one_group_exclude_each_other() {
        let locks = GroupLocks::default();
        let joining = locks.bring(PgId(1)).await;
        let catching_up = locks.bring(PgId(1)).await;
        drop(joining);
        assert!(locks.try_purge(PgId(1)).is_none());
        assert!(locks.try_purge(PgId(2)).is_some(), "other groups are not concerned");
        drop(catching_up);
        assert!(locks.try_purge(PgId(1)).is_some());
        assert!(locks.0.lock().len() <= 1, "locks that nobody holds are forgotten");
    }
}
