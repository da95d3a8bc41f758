//! The client itself: how it is made, what its parts share, how it ends.

use crate::block_cache::{BlockCache, BlockCacheStats, CacheFront};
use crate::caller::{Call, CallerRef};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::health::{self, HealthDriver};
use crate::hold::Holds;
use crate::late::{self, LateAcks};
use crate::locks::LockPlaces;
use crate::node::{Node, Traffic};
use crate::policy::budget::{Budget, HEDGE_CAP, HedgeBudget, RETRY_CAP, RETRY_PER_SUCCESS};
use crate::policy::histogram::Recent;
use crate::policy::rounds::RetryPolicy;
use crate::record::{Record, Recorder};
use crate::rpc::MetaServers;
use crate::session::Sessions;
use crate::stats::{BudgetStats, ConnectionStats, Counters};
use crate::storage_policy::DirPolicies;
use crate::trace;
use cairn_net::{Identity, Link, LinkConfig, Net, SharedIdentity, TcpNet};
use cairn_proto::pb;
use cairn_proto::{BootId, ClusterId, NodeId};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often the cluster map is read again while the client lives.
const MAP_INTERVAL: Duration = Duration::from_secs(5);
/// How long [`DfsClient::close`] waits for work that goes on behind returned operations.
const STRAGGLERS_MAX: Duration = Duration::from_millis(500);
/// Longer than anything waits.
const NEVER: Duration = Duration::from_secs(24 * 3600);
/// Requests to one node at once: a thousand small reads a second from three nodes that take 200 ms each.
const OPS_PER_NODE: usize = 192;
/// Connections for large bodies to one node: with 200 ms on the way, two would carry ten a second.
const BULK_PER_NODE: usize = 8;
/// How long it waits for metadata.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// A connection to a cluster. Cloning is cheap and gives another handle to the same; when the last handle is dropped,
/// background work ends.
#[derive(Clone)]
pub struct DfsClient {
    pub(crate) inner: Arc<Inner>,
    /// On whose behalf.
    pub(crate) caller: CallerRef,
    _last: Arc<StopOnDrop>,
}

struct StopOnDrop(CancellationToken);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) retry: RetryPolicy,
    pub(crate) read_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) meta_timeout: Duration,
    pub(crate) relaxed: Option<bool>,
    pub(crate) count_links: bool,
}

/// What all handles, files and background tasks share.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) metas: MetaServers,
    pub(crate) cluster: Cluster,
    pub(crate) sessions: Sessions,
    pub(crate) counters: Counters,
    pub(crate) health: HealthDriver,
    pub(crate) recorder: Recorder,
    pub(crate) late_acks: LateAcks,
    pub(crate) holds: Holds,
    pub(crate) dir_policies: DirPolicies,
    /// In front of the storage nodes, if there is one.
    pub(crate) block_cache: Option<CacheFront>,
    pub(crate) lock_places: LockPlaces,
    /// Tells open files apart.
    pub(crate) handles: AtomicU64,
    /// Second rounds, and second requests to the same node.
    pub(crate) retry_budget: Budget,
    /// Second copies of slow requests.
    pub(crate) hedge_budget: Arc<HedgeBudget>,
    /// Latencies of first legs to healthy servers, of storage nodes and of metadata.
    first_legs: [[Recent; Traffic::COUNT]; 2],
    /// Work that ends by itself.
    pub(crate) tasks: TaskTracker,
    /// Work that goes on until shutdown.
    pub(crate) upkeep: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    pub(crate) boot_id: BootId,
    net: Arc<dyn Net>,
    identity: SharedIdentity,
    link_config: Arc<LinkConfig>,
    random: Mutex<fastrand::Rng>,
    /// Draws trace ids: apart, so that who listens to spans changes no decision.
    pub(crate) trace_random: Mutex<fastrand::Rng>,
    origin: Instant,
}

impl Inner {
    /// Time since the client was made: what policies take as "now".
    pub(crate) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// The moment that policies call `at`; "never" is a day from now.
    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.origin + at.min(self.now() + NEVER)
    }

    /// What policies call that moment; 0 for one before the client was made.
    pub(crate) fn since_origin(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.origin)
    }

    /// Latencies of first legs to servers of this kind.
    pub(crate) fn first_legs(&self, node: &Node, traffic: Traffic) -> &Recent {
        &self.first_legs[usize::from(node.id.0 == 0)][traffic as usize]
    }

    /// Storage nodes and metadata servers.
    pub(crate) fn all_nodes(&self) -> Vec<Arc<Node>> {
        self.cluster.view().nodes.values().chain(self.metas.all().iter()).cloned().collect()
    }

    /// True when no other server could take the place of this one.
    pub(crate) fn is_last_closed(&self, node: &Node) -> bool {
        if node.id.0 == 0 {
            return !self.metas.all().iter().any(|other| other.addr != node.addr && other.is_closed());
        }
        self.cluster.view().is_last_closed(node.id)
    }

    pub(crate) fn deadline(&self, timeout: Duration) -> Instant {
        Instant::now() + timeout
    }

    /// A random number below `n`; 0 when `n` is 0.
    pub(crate) fn draw(&self, n: usize) -> usize {
        if n == 0 { 0 } else { self.random.lock().usize(..n) }
    }

    /// A random number from 0 to 1.
    pub(crate) fn unit(&self) -> f64 {
        self.random.lock().f64()
    }

    /// From now on servers of another cluster refuse this client, and it refuses them.
    pub(crate) fn learn_cluster(&self, cluster_id: ClusterId) {
        let known = self.identity.load();
        if known.cluster_id.is_nil() && !cluster_id.is_nil() {
            self.identity.store(Arc::new(Identity { cluster_id, ..Identity::clone(&known) }));
        }
    }

    pub(crate) fn link(&self, addr: &str, expect: NodeId) -> Link {
        let seed = self.random.lock().u64(..);
        Link::new(self.net.clone(), addr.to_owned(), expect, self.identity.clone(), self.link_config.clone(), seed)
    }
}

/// Settings of a client to be.
pub struct DfsClientBuilder {
    metas: String,
    name: String,
    retry: RetryPolicy,
    read_timeout: Duration,
    write_timeout: Duration,
    meta_timeout: Duration,
    relaxed: Option<bool>,
    count_links: bool,
    seed: Option<u64>,
    record: bool,
    block_cache: Option<Arc<dyn BlockCache>>,
    net: Arc<dyn Net>,
    link: LinkConfig,
}

impl Default for DfsClientBuilder {
    fn default() -> Self {
        Self {
            metas: "127.0.0.1:9000".to_owned(),
            name: format!("cairn-client/{}", env!("CARGO_PKG_VERSION")),
            retry: RetryPolicy::default(),
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            meta_timeout: Duration::from_secs(30),
            relaxed: None,
            count_links: false,
            seed: None,
            record: false,
            block_cache: None,
            net: Arc::new(TcpNet),
            link: LinkConfig { ops: OPS_PER_NODE, bulk_max: BULK_PER_NODE, ..LinkConfig::default() },
        }
    }
}

impl DfsClientBuilder {
    /// Addresses of metadata servers, separated by commas (default `127.0.0.1:9000`).
    pub fn meta(mut self, addresses: impl Into<String>) -> Self {
        self.metas = addresses.into();
        self
    }

    /// How the session is named to operators.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Rounds and pauses (default: the seed's, with 20 % jitter).
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Deadline of reads (default 30 s).
    pub fn read_timeout(mut self, timeout: Duration) -> Self {
        self.read_timeout = timeout;
        self
    }

    /// Deadline of writes (default 60 s).
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// Deadline of metadata operations (default 30 s).
    pub fn meta_timeout(mut self, timeout: Duration) -> Self {
        self.meta_timeout = timeout;
        self
    }

    /// Durability of everything that does not say otherwise; see [`OpenOptions::relaxed`](crate::OpenOptions::relaxed).
    pub fn relaxed(mut self, relaxed: bool) -> Self {
        self.relaxed = Some(relaxed);
        self
    }

    /// Whether attributes of directories with few entries (512) tell 2 and the number of subdirectories as link count
    /// (default: no, it costs a look at the entries).
    pub fn count_links(mut self, count_links: bool) -> Self {
        self.count_links = count_links;
        self
    }

    /// Makes random choices repeatable.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Keeps a record of every leg, for [`DfsClient::take_records`] (default: no).
    pub fn record_legs(mut self, record: bool) -> Self {
        self.record = record;
        self
    }

    /// A cache of blocks that all files of this client read through. It changes nothing about consistency: blocks are
    /// immutable, and which blocks a file has is asked as without it (default: none).
    pub fn block_cache(mut self, cache: Arc<dyn BlockCache>) -> Self {
        self.block_cache = Some(cache);
        self
    }

    /// Another network than TCP.
    pub fn net(mut self, net: Arc<dyn Net>) -> Self {
        self.net = net;
        self
    }

    /// Bounds and timers of connections.
    pub fn connections(mut self, link: LinkConfig) -> Self {
        self.link = link;
        self
    }

    /// Connects: asks metadata for the cluster map.
    ///
    /// # Errors
    /// `InvalidInput` for an address list that is none, `Unavailable` when no metadata server answers in all rounds.
    pub async fn connect(self) -> Result<DfsClient, Error> {
        let addresses: Vec<&str> = self.metas.split(',').map(str::trim).filter(|addr| !addr.is_empty()).collect();
        if addresses.is_empty() {
            return Err(Error::invalid("connect", "no metadata address given; expected host:port[,host:port...]"));
        }
        for address in &addresses {
            let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(_))) {
                let message = format!("metadata address {address:?} is not host:port");
                return Err(Error::invalid("connect", message));
            }
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "this is the randomness seam: one seed, from which all draws follow"
        )]
        let mut random = self.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        let boot_id = BootId(random.u128(..).to_le_bytes());
        let inner = Arc::new(Inner {
            config: Config {
                name: self.name,
                retry: self.retry,
                read_timeout: self.read_timeout,
                write_timeout: self.write_timeout,
                meta_timeout: self.meta_timeout,
                relaxed: self.relaxed,
                count_links: self.count_links,
            },
            metas: MetaServers::default(),
            cluster: Cluster::default(),
            sessions: Sessions::default(),
            counters: Counters::default(),
            health: HealthDriver::default(),
            recorder: Recorder::new(self.record),
            late_acks: LateAcks::default(),
            holds: Holds::default(),
            dir_policies: DirPolicies::default(),
            block_cache: self.block_cache.map(CacheFront::new),
            lock_places: LockPlaces::default(),
            handles: AtomicU64::new(1),
            retry_budget: Budget::new(RETRY_CAP, RETRY_PER_SUCCESS),
            hedge_budget: Arc::new(HedgeBudget::new()),
            first_legs: Default::default(),
            tasks: TaskTracker::new(),
            upkeep: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            boot_id,
            net: self.net,
            identity: Identity::client(boot_id).shared(),
            link_config: Arc::new(self.link),
            trace_random: Mutex::new(random.fork()),
            random: Mutex::new(random),
            origin: Instant::now(),
        });
        let addresses: Vec<String> = addresses.into_iter().map(str::to_owned).collect();
        inner.metas.set(&inner, &addresses);
        inner.upkeep.spawn(health::run(inner.clone()));
        let client = DfsClient { _last: Arc::new(StopOnDrop(inner.shutdown.clone())), inner, caller: None };
        let deadline = client.inner.deadline(client.inner.config.meta_timeout);
        client.inner.cluster.refresh(&client.inner, deadline).await?;
        if let Some(cache) = &client.inner.block_cache {
            cache.attach(client.inner.identity.load().cluster_id.0).await;
        }
        client.inner.upkeep.spawn(keep_map_current(client.inner.clone()));
        client.inner.upkeep.spawn(late::run(client.inner.clone()));
        Ok(client)
    }
}

async fn keep_map_current(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            biased;
            () = inner.shutdown.cancelled() => break,
            () = tokio::time::sleep(MAP_INTERVAL) => {}
        }
        if let Err(error) = inner.cluster.refresh(&inner, inner.deadline(MAP_INTERVAL)).await {
            tracing::warn!("could not read the cluster map: {error}");
        }
    }
    inner.cluster.close();
    inner.metas.close();
}

impl DfsClient {
    /// Connects to a cluster through its metadata servers: `"127.0.0.1:9000"` or `"a:9000,b:9000"`.
    ///
    /// # Errors
    /// As [`DfsClientBuilder::connect`].
    pub async fn new(metas: impl Into<String>) -> Result<Self, Error> {
        Self::builder().meta(metas).connect().await
    }

    /// All settings.
    pub fn builder() -> DfsClientBuilder {
        DfsClientBuilder::default()
    }

    /// Counters of operations, connections and nodes since the client was made.
    pub async fn get_connection_stats(&self) -> ConnectionStats {
        self.connection_stats()
    }

    pub(crate) fn connection_stats(&self) -> ConnectionStats {
        let inner = &self.inner;
        let now = inner.now();
        let mut stats = inner.counters.snapshot();
        let mut nodes = inner.all_nodes();
        nodes.sort_by_key(|node| node.id);
        for node in nodes {
            let (node, latencies, sent, received) = node.stats(now);
            stats.bytes_sent += sent;
            stats.bytes_received += received;
            stats.leg_latencies.extend(latencies);
            stats.add_node(node);
        }
        let (retry, hedge) = (&inner.retry_budget, &inner.hedge_budget);
        stats.budgets = vec![
            BudgetStats { name: "retry", tokens: retry.tokens(), cap: retry.cap(), refused: retry.refused() },
            BudgetStats { name: "hedge", tokens: hedge.tokens(), cap: HEDGE_CAP, refused: hedge.refused() },
        ];
        stats.parked = inner.health.parking_stats();
        stats.block_cache = inner.block_cache.as_ref().map_or_else(BlockCacheStats::default, CacheFront::stats);
        stats.tasks = (inner.tasks.len() + inner.upkeep.len()) as u64;
        stats
    }

    /// Takes what was recorded since the last call, oldest first (at most 4,096 records), and the time this client spent
    /// on checksums meanwhile. Empty unless [`DfsClientBuilder::record_legs`] asked for it.
    pub fn take_records(&self) -> (Vec<Record>, Duration) {
        self.inner.recorder.take()
    }

    /// Ends the session with metadata. Requests to replicas that had not answered when their write was committed get a
    /// moment more; what they still lack then is brought to them by repair. Other handles to this client must not be
    /// used afterwards.
    pub async fn close(&self) {
        let inner = &self.inner;
        inner.tasks.close();
        // Not in time is no loss.
        let _ = tokio::time::timeout(STRAGGLERS_MAX, inner.tasks.wait()).await;
        let _ = tokio::time::timeout(CLOSE_MAX, inner.sessions.close(inner)).await;
        inner.shutdown.cancel();
        inner.upkeep.close();
        let _ = tokio::time::timeout(CLOSE_MAX, inner.upkeep.wait()).await;
    }

    /// Runs an operation of the caller: counted, and its error told where and what.
    pub(crate) async fn operation<T>(
        &self,
        name: &'static str,
        path: &Path,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        let work = async { work.await.map_err(|error| error.at(name, path)) };
        let result = trace::operation(&self.inner, name, path, |error: &Error| error.kind().name(), work).await;
        self.inner.counters.operation(name, &result, begun.elapsed(), self.inner.now());
        result
    }

    /// A metadata mutation on behalf of the caller, exactly once.
    pub(crate) async fn mutate(
        &self,
        kind: pb::request::Kind,
        relaxed: Option<bool>,
    ) -> Result<pb::response::Kind, Error> {
        let inner = &self.inner;
        let relaxed = relaxed.or(inner.config.relaxed).unwrap_or(false);
        inner.sessions.mutate(inner, self.call(kind), relaxed, inner.deadline(inner.config.meta_timeout)).await
    }

    /// A request to metadata that changes nothing, on behalf of the caller.
    pub(crate) async fn look(&self, kind: pb::request::Kind) -> Result<pb::response::Kind, Error> {
        let inner = &self.inner;
        inner.meta_read(self.call(kind), inner.deadline(inner.config.meta_timeout)).await
    }

    pub(crate) fn call(&self, kind: pb::request::Kind) -> Call {
        Call { kind, caller: self.caller.clone() }
    }
}
