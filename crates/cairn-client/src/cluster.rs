//! The cluster as this client knows it: nodes with their connections and load, stores, placement groups.

use crate::client::Inner;
use crate::error::{Cause, Error, NodeFailure};
use crate::node::{Node, Traffic};
use crate::policy::breaker::BreakerState;
use crate::policy::groups::{self, Candidate};
use crate::policy::load::{self, Choice};
use crate::record::{Record, ReplicaScore};
use arc_swap::ArcSwap;
use cairn_proto::pb;
use cairn_proto::placement::Group;
use cairn_proto::{BlockId, ClusterId, NodeId, PgId, StoreId};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Pages of the cluster map read in one refresh; a map that needs more is refused.
const MAP_PAGES_MAX: usize = 10_000;
/// A refresh is skipped when another one ended this recently.
const REFRESH_MIN: Duration = Duration::from_millis(100);

/// Failures of an operation, one record per server.
pub(crate) struct FailureLog {
    started: Instant,
    list: Vec<NodeFailure>,
}

impl FailureLog {
    pub(crate) fn new() -> Self {
        Self::since(Instant::now())
    }

    /// Of an operation that began at `started`.
    pub(crate) fn since(started: Instant) -> Self {
        Self { started, list: Vec::new() }
    }

    /// True when something is known of this node.
    pub(crate) fn knows(&self, node: &Node) -> bool {
        self.list.iter().any(|failure| failure.node == node.id && failure.addr == node.addr)
    }

    /// Adds what is known of a node that is not asked, unless something of weight is known of it.
    pub(crate) fn note(&mut self, failure: NodeFailure) {
        if !self.list.iter().any(|known| known.node == failure.node && known.addr == failure.addr) {
            self.add(failure);
        }
    }

    /// Takes over a record of the same operation as it is.
    pub(crate) fn keep(&mut self, failure: NodeFailure) {
        self.list.push(failure);
    }

    /// From the operation's start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Adds a failure, merged with earlier ones of the same server.
    pub(crate) fn add(&mut self, mut failure: NodeFailure) {
        failure.last = self.elapsed();
        match self.list.iter_mut().find(|known| known.node == failure.node && known.addr == failure.addr) {
            Some(known) => {
                failure.attempts += known.attempts;
                failure.first = known.first;
                *known = failure;
            }
            None => {
                failure.first = failure.last;
                self.list.push(failure);
            }
        }
    }

    pub(crate) fn list(&self) -> &[NodeFailure] {
        &self.list
    }

    pub(crate) fn into_list(self) -> Vec<NodeFailure> {
        self.list
    }
}

/// One version of the cluster map.
#[derive(Default)]
pub(crate) struct View {
    pub(crate) version: u64,
    pub(crate) nodes: HashMap<NodeId, Arc<Node>>,
    pub(crate) infos: Vec<pb::NodeInfo>,
    pub(crate) pgs: Vec<pb::PgInfo>,
    stores: HashMap<StoreId, StoreView>,
    groups: HashMap<PgId, Group>,
}

struct StoreView {
    node: NodeId,
    free_bytes: u64,
    writable: bool,
}

impl View {
    pub(crate) fn group(&self, pg: PgId) -> Option<&Group> {
        self.groups.get(&pg)
    }

    /// The node a store is part of.
    pub(crate) fn node_of(&self, store: StoreId) -> Option<&Arc<Node>> {
        self.nodes.get(&self.stores.get(&store)?.node)
    }

    fn free_bytes(&self, store: StoreId) -> u64 {
        self.stores.get(&store).map_or(0, |view| view.free_bytes)
    }

    fn is_well(&self, store: StoreId) -> bool {
        self.stores.get(&store).is_some_and(|view| view.writable)
            && self.node_of(store).is_some_and(|node| node.is_closed())
    }

    /// True when some group would be left without any Closed member if this node's breaker opened, too.
    pub(crate) fn is_last_closed(&self, node: NodeId) -> bool {
        self.groups.values().any(|group| {
            let mut members = group.read_candidates(&[]).into_iter().filter_map(|store| self.node_of(store)).peekable();
            members.peek().is_some() && {
                let members: Vec<_> = members.collect();
                members.iter().any(|member| member.id == node)
                    && !members.iter().any(|member| member.id != node && member.is_closed())
            }
        })
    }
}

/// The replicas of a block in the order in which they are asked, those that are left alone apart.
#[derive(Default)]
pub(crate) struct Replicas {
    pub(crate) fresh: Vec<(StoreId, Arc<Node>)>,
    pub(crate) away: Vec<Arc<Node>>,
}

/// The map, kept current.
#[derive(Default)]
pub(crate) struct Cluster {
    view: ArcSwap<View>,
    refreshing: tokio::sync::Mutex<Option<Instant>>,
}

impl Cluster {
    /// What is known now.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// The group of `replicas` members that takes the next block of `len` bytes; `None` when none can.
    pub(crate) fn pick_group(&self, inner: &Inner, (replicas, avoid): (u32, &[PgId]), len: u64) -> Option<PgId> {
        let view = self.view();
        let candidates: Vec<Candidate> = view
            .groups
            .values()
            .filter(|group| !group.sealed && group.replicas == replicas as usize)
            .map(|group| {
                let targets = group.write_targets();
                let needed = cairn_proto::quorum::needed(group.replicas);
                // A minority of full disks does not stop a group.
                let mut free: Vec<u64> = targets.iter().map(|store| view.free_bytes(*store)).collect();
                free.sort_unstable_by(|a, b| b.cmp(a));
                Candidate {
                    id: group.id,
                    healthy: targets.iter().filter(|store| view.is_well(**store)).count(),
                    targets: targets.len(),
                    needed,
                    free_bytes: free.get(needed - 1).copied().unwrap_or(0),
                }
            })
            .collect();
        groups::pick(&candidates, avoid, len, |n| inner.draw(n))
    }

    /// True when every member of the group that takes writes looks well.
    pub(crate) fn is_all_well(&self, pg: PgId) -> bool {
        let view = self.view();
        view.group(pg).is_some_and(|group| group.write_targets().iter().all(|store| view.is_well(*store)))
    }

    /// Whom to ask for a block, and in which order.
    pub(crate) fn replicas(
        &self,
        inner: &Inner,
        (block, pg): (BlockId, PgId),
        lacking: &[u32],
        traffic: Traffic,
    ) -> Replicas {
        let view = self.view();
        let Some(group) = view.group(pg) else { return Replicas::default() };
        let now = inner.now();
        let stores = group.read_candidates(lacking);
        let mut scores = Vec::new();
        let choices = stores.iter().enumerate().filter_map(|(index, store)| {
            let node = view.node_of(*store)?;
            let sure = group.must_have(*store, lacking);
            let (state, score) = (node.state(), node.score(traffic, now));
            if inner.recorder.is_on() {
                scores.push(ReplicaScore { node: node.id, state, score, sure });
            }
            Some(Choice { replica: index, rank: u8::from(!sure), open: state != BreakerState::Closed, score })
        });
        let order = load::order(choices.collect(), |n| inner.draw(n));
        let mut replicas = Replicas::default();
        for index in order {
            let Some(node) = view.node_of(stores[index]) else { continue };
            if node.is_closed() {
                replicas.fresh.push((stores[index], node.clone()));
            } else {
                replicas.away.push(node.clone());
            }
        }
        let place = |score: &ReplicaScore| replicas.fresh.iter().position(|(_, node)| node.id == score.node);
        inner.recorder.add(|| {
            scores.sort_by_key(|score| place(score).unwrap_or(usize::MAX));
            Record::Order { at: now, block, pg, replicas: scores.clone() }
        });
        replicas
    }

    /// Asks metadata for the current map. Concurrent callers share one request; a map that was read a moment ago is
    /// good enough.
    pub(crate) async fn refresh(&self, inner: &Inner, deadline: Instant) -> Result<(), Error> {
        let asked = Instant::now();
        let lock = tokio::time::timeout_at(deadline, self.refreshing.lock()).await;
        let mut last = lock.map_err(|_| Error::new("cluster_map", Cause::Deadline(asked.elapsed())))?;
        if last.is_some_and(|ended| ended >= asked || ended.elapsed() < REFRESH_MIN) {
            return Ok(());
        }
        let known = self.view();
        if let Some(map) = fetch(inner, known.version, deadline).await? {
            inner.learn_cluster(ClusterId::from_slice(&map.cluster_id).unwrap_or_default());
            inner.metas.learn(inner, &map.metas);
            self.view.store(Arc::new(build(inner, &known, map)));
            // Another node may have taken the place of one that operations wait for.
            inner.health.ask_release();
        }
        *last = Some(Instant::now());
        Ok(())
    }

    /// Reads the whole map, current or not: sizes and states of nodes move without a new version.
    pub(crate) async fn reload(&self, inner: &Inner, deadline: Instant) -> Result<(), Error> {
        let asked = Instant::now();
        let lock = tokio::time::timeout_at(deadline, self.refreshing.lock()).await;
        let mut last = lock.map_err(|_| Error::new("cluster_map", Cause::Deadline(asked.elapsed())))?;
        if let Some(map) = fetch(inner, 0, deadline).await? {
            self.view.store(Arc::new(build(inner, &self.view(), map)));
            inner.health.ask_release();
        }
        *last = Some(Instant::now());
        Ok(())
    }

    pub(crate) fn close(&self) {
        for node in self.view().nodes.values() {
            node.link.close();
        }
    }
}

/// Reads all pages at one version; `None` when the known one is current.
async fn fetch(inner: &Inner, known_version: u64, deadline: Instant) -> Result<Option<pb::ClusterMapReply>, Error> {
    let mut whole: Option<pb::ClusterMapReply> = None;
    let mut request = pb::ClusterMap { known_version, cursor: 0 };
    for _ in 0..MAP_PAGES_MAX {
        let reply = inner.meta_read(pb::request::Kind::ClusterMap(request), deadline).await?;
        let pb::response::Kind::ClusterMap(page) = reply else { return Err(inner.unexpected("cluster_map")) };
        inner.health.set_clients(page.clients);
        if page.unchanged {
            return Ok(None);
        }
        let next = page.next_cursor;
        match &mut whole {
            // The map moved while it was read: begin again.
            Some(map) if map.version != page.version => {
                whole = None;
                request = pb::ClusterMap { known_version: 0, cursor: 0 };
                continue;
            }
            Some(map) => {
                map.nodes.extend(page.nodes);
                map.pgs.extend(page.pgs);
            }
            None => whole = Some(page),
        }
        if next == 0 {
            return Ok(whole);
        }
        request = pb::ClusterMap { known_version: 0, cursor: next };
    }
    Err(Error::invalid("cluster_map", format!("the cluster map did not end after {MAP_PAGES_MAX} pages")))
}

fn build(inner: &Inner, known: &View, map: pb::ClusterMapReply) -> View {
    let mut view = View {
        version: map.version,
        groups: map.pgs.iter().map(|pg| (PgId(pg.id), Group::from_pb(pg))).collect(),
        ..View::default()
    };
    for info in &map.nodes {
        let id = NodeId(info.id);
        if info.state() != pb::NodeState::Replaced {
            // Connections and load outlive a new version of the map, but not a new address.
            let node = known.nodes.get(&id).filter(|node| node.addr == info.addr).cloned();
            view.nodes.insert(id, node.unwrap_or_else(|| Arc::new(Node::storage(inner, id, info.addr.clone()))));
        }
        for store in &info.stores {
            let free_bytes = store.capacity_bytes.saturating_sub(store.used_bytes);
            let writable = store.trouble.is_empty() && info.state() == pb::NodeState::Up;
            view.stores.insert(StoreId(store.id), StoreView { node: id, free_bytes, writable });
        }
    }
    for (id, node) in &known.nodes {
        if !view.nodes.get(id).is_some_and(|kept| Arc::ptr_eq(kept, node)) {
            node.link.close();
        }
    }
    view.infos = map.nodes;
    view.pgs = map.pgs;
    view
}
