//! The cluster as this client knows it: nodes with their connections and load, stores, placement groups.

use crate::client::Inner;
use crate::error::{Error, FailureClass, NodeFailure, Sent};
use crate::policy::groups::{self, Candidate};
use crate::policy::load::{self, Choice, Load};
use crate::policy::write_plan::SILENCE;
use crate::stats::{ErrorRecord, NodeConnectionStats, bump};
use arc_swap::ArcSwap;
use cairn_net::{Body, Call, LegError, LegErrorClass, Link, Reply};
use cairn_proto::op;
use cairn_proto::pb;
use cairn_proto::placement::Group;
use cairn_proto::status::{Code, Status};
use cairn_proto::{ClusterId, NodeId, PgId, StoreId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Pages of the cluster map read in one refresh; a map that needs more is refused.
const MAP_PAGES_MAX: usize = 10_000;
/// A refresh is skipped when another one ended this recently.
const REFRESH_MIN: Duration = Duration::from_millis(100);

/// Shortest time a node with a failed connection is left alone.
const COOLDOWN_MIN: Duration = Duration::from_millis(250);
/// The longest.
const COOLDOWN_MAX: Duration = Duration::from_secs(5);

/// A server with its connections, whether storage node or metadata server (id 0).
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) addr: String,
    pub(crate) link: Link,
    load: Mutex<Load>,
    cooldown: Mutex<Cooldown>,
    flights: Mutex<Flights>,
    answered: AtomicU64,
    failed: AtomicU64,
}

/// A node whose connection failed is not asked again for a while, twice as long after each further failure.
#[derive(Default)]
struct Cooldown {
    failures: u32,
    until: Duration,
}

impl Cooldown {
    fn on_failure(&mut self, now: Duration) {
        self.until = now + COOLDOWN_MIN.saturating_mul(1 << self.failures.min(8)).min(COOLDOWN_MAX);
        self.failures += 1;
    }
}

#[derive(Default)]
struct Flights {
    next: u64,
    begun: BTreeMap<u64, Instant>,
    bytes: u64,
}

/// A request under way; counted until dropped.
struct Flight<'a> {
    inner: &'a Inner,
    node: &'a Node,
    id: u64,
    bytes: u64,
    answered: bool,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut flights = self.node.flights.lock();
        let begun = flights.begun.remove(&self.id);
        flights.bytes -= self.bytes;
        if let Some(begun) = begun.filter(|_| !self.answered) {
            self.node.load.lock().on_censored(begun.elapsed(), self.inner.now());
        }
    }
}

/// Why a leg is begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LegKind {
    First,
    Failover,
    Hedge,
    Retry,
}

/// One request to one server.
pub(crate) struct Leg {
    pub(crate) request: pb::Request,
    pub(crate) body: Body,
    pub(crate) deadline: Instant,
    pub(crate) kind: LegKind,
    pub(crate) attempt: u8,
    /// Largest body of the answer.
    pub(crate) response_max: u64,
    /// False when the caller holds end-to-end checksums against the body.
    pub(crate) verify_body: bool,
}

impl Leg {
    /// A request without a body whose answer has none.
    pub(crate) fn plain(kind: pb::request::Kind, deadline: Instant) -> Self {
        Self {
            request: pb::Request { kind: Some(kind), ..Default::default() },
            body: Body::empty(),
            deadline,
            kind: LegKind::First,
            attempt: 0,
            response_max: 0,
            verify_body: true,
        }
    }
}

/// A failed leg: the record for the error report, and the server's answer if it gave one.
pub(crate) struct LegFailure {
    pub(crate) record: NodeFailure,
    pub(crate) status: Option<Status>,
}

impl Node {
    fn new(inner: &Inner, id: NodeId, addr: String) -> Self {
        Self {
            id,
            link: inner.link(&addr, id),
            addr,
            load: Mutex::default(),
            cooldown: Mutex::default(),
            flights: Mutex::default(),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// A metadata server.
    pub(crate) fn meta(inner: &Inner, addr: String) -> Self {
        Self::new(inner, NodeId(0), addr)
    }

    pub(crate) fn is_down(&self, now: Duration) -> bool {
        now < self.cooldown.lock().until
    }

    pub(crate) fn latency(&self, now: Duration) -> Duration {
        self.load.lock().latency(now)
    }

    fn oldest(&self) -> Duration {
        self.flights.lock().begun.values().next().map_or(Duration::ZERO, |begun| begun.elapsed())
    }

    /// True when a request has been unanswered for longer than [`SILENCE`].
    pub(crate) fn is_silent(&self) -> bool {
        self.oldest() >= SILENCE
    }

    /// Bytes of request bodies under way.
    pub(crate) fn bytes_in_flight(&self) -> u64 {
        self.flights.lock().bytes
    }

    fn score(&self, now: Duration) -> Duration {
        let oldest = self.oldest();
        let count = self.flights.lock().begun.len();
        self.load.lock().score(oldest, count, now)
    }

    fn begin<'a>(&'a self, inner: &'a Inner, bytes: u64) -> Flight<'a> {
        let mut flights = self.flights.lock();
        let id = flights.next;
        flights.next += 1;
        flights.begun.insert(id, Instant::now());
        flights.bytes += bytes;
        Flight { inner, node: self, id, bytes, answered: false }
    }

    /// Sends one request and waits for its answer. Dropping the future cancels the request.
    pub(crate) async fn call(&self, inner: &Inner, leg: Leg) -> Result<Reply, LegFailure> {
        let op = leg.request.kind.as_ref().map_or(0, op::of);
        let counters = &inner.counters;
        bump(&counters.legs);
        match leg.kind {
            LegKind::First => {}
            LegKind::Failover => bump(&counters.failovers),
            LegKind::Hedge => bump(&counters.hedges),
            LegKind::Retry => bump(&counters.retries),
        }
        let begun = Instant::now();
        let mut flight = self.begin(inner, leg.body.len());
        let result = self
            .link
            .start(Call {
                request: leg.request,
                body: leg.body,
                deadline: leg.deadline,
                attempt: leg.attempt,
                hedge: leg.kind == LegKind::Hedge,
                retry: leg.kind == LegKind::Retry,
                verify_body: leg.verify_body,
                response_max: leg.response_max,
            })
            .await;
        flight.answered = true;
        drop(flight);
        let elapsed = begun.elapsed();
        match result {
            Ok(reply) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                self.load.lock().on_success(elapsed, inner.now());
                *self.cooldown.lock() = Cooldown::default();
                Ok(reply)
            }
            Err(error) => {
                let (class, status) = classify(&error);
                self.failed.fetch_add(1, Ordering::Relaxed);
                bump(&counters.failed_legs);
                match class {
                    // The server is there and answers: nothing against it.
                    FailureClass::Refused | FailureClass::NotFound | FailureClass::NoSpace => {
                        self.load.lock().on_success(elapsed, inner.now());
                    }
                    FailureClass::Overloaded => {
                        let pause = status.as_ref().map_or(0, |status| u64::from(status.retry_after_ms));
                        self.load.lock().on_censored(elapsed.max(Duration::from_millis(pause)), inner.now());
                    }
                    // Our own deadline says little about the server; its silence already counts in the score.
                    FailureClass::TimedOut => {}
                    _ => {
                        self.load.lock().on_error(inner.now());
                        self.cooldown.lock().on_failure(inner.now());
                    }
                }
                let record = self.failure(op::name(op), class, sent_of(&error), elapsed, error.to_string());
                tracing::debug!(node = %self.id, addr = %self.addr, op = record.op, class = ?class, "{}", record.message);
                counters.record(ErrorRecord {
                    node: Some(self.id),
                    addr: self.addr.clone(),
                    op: record.op.to_owned(),
                    class: Some(class),
                    message: record.message.clone(),
                    at: inner.now(),
                });
                Err(LegFailure { record, status })
            }
        }
    }

    /// A record of one failed attempt at this node.
    pub(crate) fn failure(
        &self,
        op: &'static str,
        class: FailureClass,
        sent: Sent,
        elapsed: Duration,
        message: String,
    ) -> NodeFailure {
        NodeFailure {
            node: self.id,
            addr: self.addr.clone(),
            op,
            class,
            sent,
            attempts: u32::from(class != FailureClass::Skipped),
            first: elapsed,
            last: elapsed,
            message,
        }
    }

    pub(crate) fn stats(&self, now: Duration) -> (NodeConnectionStats, u64, u64) {
        let link = self.link.stats();
        let stats = NodeConnectionStats {
            node: self.id,
            addr: self.addr.clone(),
            down: self.is_down(now),
            latency: self.latency(now),
            in_flight: self.flights.lock().begun.len() as u64,
            answered: self.answered.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            open: (link.control.open + link.bulk.open) as u64,
            idle: (link.control.idle + link.bulk.idle) as u64,
            dials: link.dials,
        };
        (stats, link.bytes_sent, link.bytes_received)
    }
}

fn sent_of(error: &LegError) -> Sent {
    match error.sent {
        cairn_net::Sent::No => Sent::No,
        cairn_net::Sent::Maybe => Sent::Maybe,
        cairn_net::Sent::Responded => Sent::Responded,
    }
}

/// What a failed leg says about its server.
fn classify(error: &LegError) -> (FailureClass, Option<Status>) {
    match &error.class {
        LegErrorClass::Connect => (FailureClass::Connect, None),
        LegErrorClass::WrongPeer => (FailureClass::WrongPeer, None),
        LegErrorClass::Reset | LegErrorClass::Aborted => (FailureClass::Reset, None),
        LegErrorClass::Refused => (FailureClass::Refused, None),
        LegErrorClass::Overloaded => (FailureClass::Overloaded, None),
        LegErrorClass::Stalled | LegErrorClass::Deadline | LegErrorClass::Cancelled => (FailureClass::TimedOut, None),
        LegErrorClass::Protocol | LegErrorClass::TooLarge => (FailureClass::Protocol, None),
        LegErrorClass::Corrupt => (FailureClass::Corrupt, None),
        LegErrorClass::Status(status) => {
            let class = match status.code {
                Code::Overloaded => FailureClass::Overloaded,
                Code::NoSpace => FailureClass::NoSpace,
                Code::Corrupt => FailureClass::Corrupt,
                Code::BlockNotFound => FailureClass::NotFound,
                Code::WrongPeer | Code::WrongCluster => FailureClass::WrongPeer,
                Code::Deadline | Code::Cancelled => FailureClass::TimedOut,
                _ => FailureClass::Refused,
            };
            (class, Some(status.clone()))
        }
    }
}

/// Failures of an operation, one record per server.
pub(crate) struct FailureLog {
    started: Instant,
    list: Vec<NodeFailure>,
}

impl FailureLog {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), list: Vec::new() }
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
    pub(crate) policy: pb::Policy,
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

    fn is_well(&self, store: StoreId, now: Duration) -> bool {
        self.stores.get(&store).is_some_and(|view| view.writable)
            && self.node_of(store).is_some_and(|node| !node.is_down(now) && !node.is_silent())
    }
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

    /// The group that takes the next block of `len` bytes; `None` when none can.
    pub(crate) fn pick_group(&self, inner: &Inner, avoid: &[PgId], len: u64) -> Option<PgId> {
        let view = self.view();
        let now = inner.now();
        let candidates: Vec<Candidate> = view
            .groups
            .values()
            .filter(|group| !group.sealed)
            .map(|group| {
                let targets = group.write_targets();
                let needed = cairn_proto::quorum::needed(group.replicas);
                // A minority of full disks does not stop a group.
                let mut free: Vec<u64> = targets.iter().map(|store| view.free_bytes(*store)).collect();
                free.sort_unstable_by(|a, b| b.cmp(a));
                Candidate {
                    id: group.id,
                    healthy: targets.iter().filter(|store| view.is_well(**store, now)).count(),
                    targets: targets.len(),
                    needed,
                    free_bytes: free.get(needed - 1).copied().unwrap_or(0),
                }
            })
            .collect();
        groups::pick(&candidates, avoid, len, |n| inner.draw(n))
    }

    /// True when every member of the group that takes writes looks well.
    pub(crate) fn is_all_well(&self, inner: &Inner, pg: PgId) -> bool {
        let (view, now) = (self.view(), inner.now());
        view.group(pg).is_some_and(|group| group.write_targets().iter().all(|store| view.is_well(*store, now)))
    }

    /// Replicas of a block in the order in which they are asked.
    pub(crate) fn read_order(&self, inner: &Inner, pg: PgId, lacking: &[u32]) -> Vec<(StoreId, Arc<Node>)> {
        let view = self.view();
        let Some(group) = view.group(pg) else { return Vec::new() };
        let now = inner.now();
        let stores = group.read_candidates(lacking);
        let choices = stores
            .iter()
            .enumerate()
            .filter_map(|(index, store)| {
                let node = view.node_of(*store)?;
                let sure = group.must_have(*store, lacking);
                Some(Choice { replica: index, rank: u8::from(!sure), open: node.is_down(now), score: node.score(now) })
            })
            .collect();
        load::order(choices, |n| inner.draw(n))
            .into_iter()
            .filter_map(|index| Some((stores[index], view.node_of(stores[index])?.clone())))
            .collect()
    }

    /// Asks metadata for the current map. Concurrent callers share one request; a map that was read a moment ago is
    /// good enough.
    pub(crate) async fn refresh(&self, inner: &Inner, deadline: Instant) -> Result<(), Error> {
        let asked = Instant::now();
        let mut last = self.refreshing.lock().await;
        if last.is_some_and(|ended| ended >= asked || ended.elapsed() < REFRESH_MIN) {
            return Ok(());
        }
        let known = self.view();
        if let Some(map) = fetch(inner, known.version, deadline).await? {
            inner.learn_cluster(ClusterId::from_slice(&map.cluster_id).unwrap_or_default());
            self.view.store(Arc::new(build(inner, &known, map)));
        }
        *last = Some(Instant::now());
        Ok(())
    }

    /// Reads the whole map, current or not: sizes and states of nodes move without a new version.
    pub(crate) async fn reload(&self, inner: &Inner, deadline: Instant) -> Result<(), Error> {
        let mut last = self.refreshing.lock().await;
        if let Some(map) = fetch(inner, 0, deadline).await? {
            self.view.store(Arc::new(build(inner, &self.view(), map)));
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
        policy: map.policy.unwrap_or_default(),
        groups: map.pgs.iter().map(|pg| (PgId(pg.id), Group::from_pb(pg))).collect(),
        ..View::default()
    };
    for info in &map.nodes {
        let id = NodeId(info.id);
        if info.state() != pb::NodeState::Replaced {
            // Connections and load outlive a new version of the map, but not a new address.
            let node = known.nodes.get(&id).filter(|node| node.addr == info.addr).cloned();
            view.nodes.insert(id, node.unwrap_or_else(|| Arc::new(Node::new(inner, id, info.addr.clone()))));
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
