//! The garbage collector: has the blocks of dropped runs deleted by every member of their group, then removes the rows.
//!
//! A row stays until every current member has confirmed. A member that is away keeps it, and its blocks are deleted when
//! it is back; the other members' are deleted meanwhile.

use super::mass::{Gate, Known, MassGuard, MassRule};
use super::ripening::{GarbageRun, Ripening};
use crate::limits::{AWAY_PAUSE, DELETE_TIMEOUT, DELETES_IN_FLIGHT_MAX, GARBAGE_PAGE, GARBAGE_TRACKED_MAX};
use crate::links::{CallError, Peers};
use crate::view::ClusterView;
use crate::wire::{block_to_pb, cut_run};
use cairn_meta::{GarbageRow, GroupMembers, MassStop, Meta};
use cairn_proto::limits::BLOCKS_PER_REQUEST_MAX;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, response};
use cairn_proto::status::{Code, Status};
use cairn_proto::{NodeId, PgEpoch, PgId, StoreId};
use futures_util::StreamExt;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// Collects garbage, a round at a time.
pub(crate) struct Collector {
    meta: Meta,
    peers: Peers,
    ripening: Ripening,
    mass: MassGuard,
    grace: Duration,
    /// The duty epoch in which all that is remembered of rows was learned.
    epoch: u64,
    view: ClusterView,
    /// Nodes that did not answer, and until when they are left alone.
    away: HashMap<NodeId, Instant>,
}

/// Runs of one group that one store has to delete.
struct Order {
    store: StoreId,
    pg: PgId,
    epoch: PgEpoch,
    runs: Vec<GarbageRun>,
}

impl Collector {
    pub(crate) fn new(meta: Meta, peers: Peers, grace: Duration, mass: MassRule) -> Self {
        let ripening = Ripening::new(grace, GARBAGE_TRACKED_MAX);
        let mass = MassGuard::new(mass);
        Self { meta, peers, ripening, mass, grace, epoch: 0, view: ClusterView::default(), away: HashMap::new() }
    }

    /// Looks through all garbage rows once and deletes what is ripe, if this server holds the duties; how many rows were
    /// removed. Cancelled, some
    /// deletes are done and their rows are there still.
    pub(crate) async fn round(&mut self) -> Result<usize, Status> {
        let Some(epoch) = self.meta.duty_epoch() else { return Ok(0) };
        if epoch != self.epoch {
            // Another server may have collected meanwhile, and rows that come again are others.
            self.ripening = Ripening::new(self.grace, GARBAGE_TRACKED_MAX);
            self.epoch = epoch;
        }
        self.ripening.begin_round();
        self.refresh_view().await?;
        let mut stop = self.meta.mass_stop().await?;
        let mut removed = 0;
        let mut after: Option<GarbageRow> = None;
        loop {
            let rows = self.meta.garbage(after.as_ref(), GARBAGE_PAGE).await?;
            let now = cairn_net::now();
            let seen = rows.iter().map(GarbageRun::from);
            let ripe: Vec<GarbageRun> =
                seen.filter(|run| self.ripening.see(*run, copies(&self.view, run), now)).collect();
            if !ripe.is_empty() && self.may_begin(&ripe, &mut stop, now).await? {
                removed += self.collect(&ripe).await?;
            }
            if rows.len() < GARBAGE_PAGE {
                break;
            }
            after = rows.last().cloned();
        }
        self.ripening.end_round();
        if stop.is_some() {
            // Perhaps nothing is left, or so little that it needs nobody's consent.
            self.may_begin(&[], &mut stop, cairn_net::now()).await?;
        }
        Ok(removed)
    }

    /// Decides whether so much is deleted, and notes what it makes of it.
    async fn may_begin(
        &mut self,
        ripe: &[GarbageRun],
        stop: &mut Option<MassStop>,
        now: Instant,
    ) -> Result<bool, Status> {
        let known = match stop {
            None => Known::Nothing,
            Some(MassStop { accepted: true, .. }) => Known::Accepted,
            Some(_) => Known::Stopped,
        };
        let (waiting, held) = (self.ripening.waiting(), self.meta.held_copies());
        let gate = self.mass.gate(known, waiting, held, now);
        let noted = match gate {
            Gate::Open => None,
            Gate::Stop => Some(MassStop { accepted: false, copies: waiting, held }),
            Gate::Accepted => stop.map(|stop| MassStop { accepted: true, ..stop }),
            Gate::Closed => *stop,
        };
        if noted != *stop {
            match gate {
                Gate::Stop => {
                    tracing::error!(copies = waiting, held, "so much became garbage at once: collection stops")
                }
                _ => tracing::warn!(copies = waiting, held, "collection goes on"),
            }
            self.meta.set_mass_stop(noted).await?;
            *stop = noted;
        }
        if matches!(gate, Gate::Stop | Gate::Closed) {
            return Ok(false);
        }
        let begun = ripe.iter().map(|run| self.ripening.begin(run)).sum();
        if gate == Gate::Open {
            self.mass.spend(begun, now);
        }
        Ok(true)
    }

    async fn collect(&mut self, ripe: &[GarbageRun]) -> Result<usize, Status> {
        let groups = self.groups(ripe).await?;
        let orders = self.orders(ripe, &groups);
        let duty_epoch = self.epoch;
        let this = &*self;
        let sent = orders.into_iter().map(|order| async move {
            let outcome = this.send(duty_epoch, &order).await;
            (order, outcome)
        });
        let outcomes: Vec<_> = futures_util::stream::iter(sent).buffer_unordered(DELETES_IN_FLIGHT_MAX).collect().await;
        for (order, outcome) in outcomes {
            match outcome {
                Ok(()) => order.runs.iter().for_each(|run| self.ripening.confirm(run, order.epoch, order.store)),
                Err(error) => self.note_failure(&order, &error),
            }
        }
        let settled: Vec<GarbageRun> =
            ripe.iter().copied().filter(|run| self.ripening.settled(run, &groups[&run.pg])).collect();
        if !settled.is_empty() {
            let rows: Vec<GarbageRow> = settled.iter().copied().map(GarbageRow::from).collect();
            self.meta.garbage_done(&rows).await?;
            settled.iter().for_each(|run| self.ripening.forget(run));
        }
        Ok(settled.len())
    }

    /// The groups of these rows as they are now; one that does not exist has no members.
    async fn groups(&self, ripe: &[GarbageRun]) -> Result<BTreeMap<PgId, GroupMembers>, Status> {
        let mut groups = BTreeMap::new();
        for run in ripe {
            if let Entry::Vacant(group) = groups.entry(run.pg) {
                let members = self.meta.group_members(run.pg).await?;
                group.insert(members.unwrap_or(GroupMembers { epoch: PgEpoch(0), stores: Vec::new() }));
            }
        }
        Ok(groups)
    }

    /// What is to be sent to whom, nodes that are away left out.
    fn orders(&mut self, ripe: &[GarbageRun], groups: &BTreeMap<PgId, GroupMembers>) -> Vec<Order> {
        let now = cairn_net::now();
        self.away.retain(|_, until| *until > now);
        let mut orders: BTreeMap<(PgId, StoreId), Order> = BTreeMap::new();
        for run in ripe {
            let group = &groups[&run.pg];
            for store in self.ripening.unconfirmed(run, group) {
                let home = self.view.home(store);
                if home.is_none_or(|peer| self.away.contains_key(&peer.node)) {
                    continue;
                }
                let order = orders.entry((run.pg, store));
                let order = order.or_insert_with(|| Order { store, pg: run.pg, epoch: group.epoch, runs: Vec::new() });
                order.runs.push(*run);
            }
        }
        orders.into_values().collect()
    }

    /// Sends an order in requests of bounded size.
    async fn send(&self, duty_epoch: u64, order: &Order) -> Result<(), CallError> {
        let Some(peer) = self.view.home(order.store) else { return Err(CallError::Nobody) };
        for runs in batches(&order.runs) {
            let delete =
                pb::DeleteBlocks { store: order.store.0, duty_epoch, pg: order.pg.0, pg_epoch: order.epoch.0, runs };
            match self.peers.call(peer.node, &peer.addr, Kind::Delete(delete), DELETE_TIMEOUT, 0).await? {
                (response::Kind::Delete(_), _) => {}
                _ => return Err(CallError::Confused { addr: peer.addr.clone() }),
            }
        }
        Ok(())
    }

    fn note_failure(&mut self, order: &Order, error: &CallError) {
        let stale = error.status().is_some_and(|status| status.code == Code::StaleEpoch);
        if stale {
            // The node knows a later epoch of the group, or of the duty; the next round asks with what is current then.
            tracing::debug!(store = %order.store, pg = %order.pg, %error, "delete refused");
            return;
        }
        tracing::debug!(store = %order.store, pg = %order.pg, %error, "blocks not deleted yet");
        if let Some(peer) = self.view.home(order.store) {
            self.away.insert(peer.node, cairn_net::now() + AWAY_PAUSE);
        }
    }

    /// Takes over the cluster map of our own metadata if it has moved.
    async fn refresh_view(&mut self) -> Result<(), Status> {
        let mut next = ClusterView::default();
        let mut cursor = 0;
        loop {
            let ask = pb::ClusterMap { known_version: self.view.version, cursor };
            let request = pb::Request { kind: Some(Kind::ClusterMap(ask)), ..Default::default() };
            let response::Kind::ClusterMap(page) = self.meta.execute(&request).await? else {
                return Err(Status::new(Code::Internal, "the cluster map is not a cluster map"));
            };
            if page.unchanged {
                return Ok(());
            }
            if cursor != 0 && page.version != next.version {
                (next, cursor) = (ClusterView::default(), 0);
                continue;
            }
            next.absorb(&page);
            if page.next_cursor == 0 {
                break;
            }
            cursor = page.next_cursor;
        }
        self.peers.retain(|id| next.has_node(id));
        self.view = next;
        Ok(())
    }

    /// Closes the connections to nodes.
    pub(crate) fn close(&self) {
        self.peers.close();
    }
}

/// Copies there may be of a run's blocks.
fn copies(view: &ClusterView, run: &GarbageRun) -> u64 {
    let members = view.group(run.pg).map_or(1, |group| group.members.len() as u64);
    u64::from(run.count).saturating_mul(members)
}

/// Packs runs into requests of at most [`BLOCKS_PER_REQUEST_MAX`] blocks, cutting those that are longer.
fn batches(runs: &[GarbageRun]) -> Vec<Vec<pb::Run>> {
    let max = BLOCKS_PER_REQUEST_MAX as u32;
    let mut batches: Vec<Vec<pb::Run>> = Vec::new();
    let mut room = 0;
    for run in runs {
        let whole = pb::Run { first: Some(block_to_pb(run.first)), count: run.count };
        // A row whose ids overflow names blocks that cannot exist beyond the overflow.
        for part in cut_run(&whole, max).unwrap_or_default() {
            match batches.last_mut() {
                Some(batch) if part.count <= room => {
                    room -= part.count;
                    batch.push(part);
                }
                _ => {
                    room = max - part.count;
                    batches.push(vec![part]);
                }
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::BlockId;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn batches_hold_every_block_within_the_bound(counts in prop::collection::vec(1u32..3000, 0..20)) {
            let runs: Vec<GarbageRun> = (0u64..).zip(&counts)
                .map(|(n, count)| GarbageRun { pg: PgId(1), first: BlockId::new(n, 1, 0), count: *count }).collect();
            let batches = batches(&runs);
            let blocks = |batch: &Vec<pb::Run>| batch.iter().map(|run| run.count as usize).sum::<usize>();
            prop_assert!(batches.iter().all(|batch| (1..=BLOCKS_PER_REQUEST_MAX).contains(&blocks(batch))));
            prop_assert_eq!(batches.iter().map(blocks).sum::<usize>(), counts.iter().sum::<u32>() as usize);
        }
    }
}
