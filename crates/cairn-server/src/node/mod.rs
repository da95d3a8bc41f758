//! The storage node: stores behind a socket, and the duties that keep them complete.
//!
//! A request comes in at `handler.rs`, which asks one store (`slot.rs`). Beside it run the duties, one file each:
//! `heartbeat.rs` (registration, usage, defects), `map.rs` (the cluster map), `catch_up.rs` (degraded runs), `heal.rs`
//! (bad blocks), `join.rs` (new memberships) and `audit.rs` (after a crash), which copy blocks through `copy.rs`;
//! `scrub.rs`, which reads everything back, and `compare.rs`, which holds groups against other members, both of which find
//! what `ledger/` keeps account of; `sweep.rs` and `purge.rs`, which delete blocks without a file and those of groups that
//! were left; `revive.rs`, which opens stores again that failed. `calm.rs` says when all of them should
//! wait, by what requests wait for and by how late tasks get their turn (`lag.rs`); those that copy and read much run on
//! the runtime for background work, where the process has one.

mod audit;
mod calm;
mod candidates;
mod catch_up;
mod compare;
mod config;
mod copy;
mod disk;
mod duty;
mod fence;
mod handler;
mod heal;
mod heartbeat;
mod identity;
mod inventory;
mod join;
mod lag;
mod ledger;
mod map;
mod metalog;
mod place;
mod progress;
mod purge;
mod recent;
mod revive;
mod scrub;
mod slot;
mod state;
mod status;
mod subject;
mod sweep;

pub use config::{NodeServerConfig, StoreConfig};
pub use fence::FenceError;
pub use identity::IdentityError;
pub use place::PlaceError;
pub use state::Membership;
pub use sweep::SweepTotals;

use crate::console::Console;
use crate::entropy;
use crate::error::StartError;
use crate::limits::{META_TIMEOUT, STOP_GRACE};
use crate::links::{Dialer, MetaClient, Peers};
use crate::listen::service_addr;
use crate::observe::{Observed, RequestStats, ServerSource};
use crate::tasks::{Tasks, blocking};
use crate::wanted::Wanted;
use arc_swap::ArcSwap;
use cairn_metrics::Exposition;
use cairn_net::{Identity, LinkConfig, Net, ServerConfig, serve};
use cairn_proto::pb::Role;
use cairn_proto::{BootId, ClusterId, NodeId, StoreId};
use cairn_store::RealDisk;
use calm::Throttle;
use fence::Fence;
use futures_util::future::BoxFuture;
use handler::NodeHandler;
use identity::NodeIdentity;
use ledger::Ledger;
use parking_lot::Mutex;
use place::StorePlace;
use progress::Progress;
use scrub::{Positions, Scrub};
use slot::StoreSlot;
use state::{Home, Node, Wakes};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use subject::{NodeSource, NodeSubject};
use sweep::Sweep;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// A storage node that runs in this process.
///
/// Dropping it ends its tasks without waiting for them, as a crash would; [`NodeServer::stop`] ends it in order.
pub struct NodeServer {
    node: Arc<Node>,
    addr: SocketAddr,
    console: Option<SocketAddr>,
    tasks: Tasks,
}

impl NodeServer {
    /// Opens the stores, begins to listen and to look for metadata; returns without waiting for either peer. A node that
    /// was registered before serves reads and writes at once, a new one as soon as it has its number.
    ///
    /// # Errors
    /// When the address is not on loopback or not free, the advertised one cannot be dialled, or a directory cannot be used. Nothing keeps running then.
    pub fn start(config: NodeServerConfig, net: Arc<dyn Net>) -> BoxFuture<'static, Result<Self, StartError>> {
        Self::start_with(config, net, None)
    }

    /// As [`NodeServer::start`], with a runtime of lower priority for what no user waits for: copies, scrubs, comparisons
    /// and sweeps. It has to live until the server has stopped.
    ///
    /// # Errors
    /// As [`NodeServer::start`].
    pub fn start_with(
        config: NodeServerConfig,
        net: Arc<dyn Net>,
        background: Option<Handle>,
    ) -> BoxFuture<'static, Result<Self, StartError>> {
        Box::pin(async move {
            let (listen, advertise) = service_addr(&config.listen, config.advertise.as_deref(), config.insecure)?;
            let opened = blocking({
                let config = config.clone();
                move || open(&config)
            });
            let opened = opened.await?;
            let bound = net.bind(&listen.to_string()).await;
            let listener = bound.map_err(|source| StartError::Bind { addr: listen, source })?;
            let addr = listener.local_addr().map_err(|source| StartError::Bind { addr: listen, source })?;

            let console = Console::bind(&*net, &config.console, listen, addr).await?;
            let speaks_as = Identity { role: Role::Node, ..Identity::client(BootId(entropy::unique())) }.shared();
            let dialer = Dialer { net, identity: speaks_as, config: Arc::new(LinkConfig::default()) };

            let advertise = advertise.unwrap_or_else(|| addr.to_string());
            let node = Arc::new(build(&config, dialer.clone(), advertise, opened));
            let known = node.home.identity.lock().registration.clone();
            if let Some(granted) = known {
                // Read from our own file, in which every store has one number.
                node.take_identity(&granted).map_err(|_| StartError::Confused)?;
            }
            let tasks = Tasks::new();
            let handler = Arc::new(Wanted(NodeHandler { node: node.clone() }));
            let served_as = ServerConfig::new(node.speaks_as.clone());
            let requests = Arc::new(RequestStats::default());
            let connections = served_as.stats.clone();
            let known_as = node.clone();
            let observed = Arc::new(Observed::new(handler, requests.clone(), move || known_as.id()));
            tasks.spawn_server(serve(listener, observed, served_as, tasks.server_stop()));
            let console_addr = console.as_ref().map(Console::addr);
            if let Some(console) = console {
                let mut exposition = Exposition::new();
                exposition.add(Arc::new(ServerSource { role: "node", requests, connections }));
                exposition.add(Arc::new(NodeSource { node: node.clone() }));
                let own = dialer.link(&addr.to_string(), NodeId(0));
                let subject = NodeSubject { node: node.clone(), exposition, own };
                tasks.spawn_server(console.serve(Arc::new(subject), tasks.server_stop()));
            }
            let stop = tasks.duty_stop();
            tasks.spawn_duty(heartbeat::run(node.clone(), stop.clone()));
            tasks.spawn_duty(map::run(node.clone(), stop.clone()));
            tasks.spawn_duty(ledger::run(node.clone(), stop.clone()));
            tasks.spawn_duty(lag::run(node.clone(), stop.clone()));
            let calm = background.as_ref();
            tasks.spawn_calm_duty(calm, catch_up::run(node.clone(), stop.clone()));
            tasks.spawn_calm_duty(calm, heal::run(node.clone(), stop.clone()));
            tasks.spawn_calm_duty(calm, compare::run(node.clone(), stop.clone()));
            tasks.spawn_calm_duty(calm, join::run(node.clone(), stop.clone()));
            tasks.spawn_calm_duty(calm, sweep::run(node.clone(), stop.clone()));
            tasks.spawn_calm_duty(calm, audit::run(node.clone(), stop.clone()));
            tasks.spawn_calm_duty(calm, purge::run(node.clone(), stop.clone()));
            for index in 0..node.stores.len() {
                tasks.spawn_duty(revive::run(node.clone(), index, stop.clone()));
                tasks.spawn_calm_duty(calm, scrub::run(node.clone(), index, stop.clone()));
            }
            tracing::info!(%addr, console = ?console_addr, stores = node.stores.len(), "storage node listens");
            Ok(Self { node, addr, console: console_addr, tasks })
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where its console listens, if it has one.
    pub fn console_addr(&self) -> Option<SocketAddr> {
        self.console
    }

    /// Its number; `None` until it is registered for the first time in its life.
    pub fn node_id(&self) -> Option<NodeId> {
        Some(self.node.id()).filter(|id| *id != NodeId(0))
    }

    /// The cluster it belongs to; `None` until it is registered for the first time in its life.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        Some(self.node.speaks_as.load().cluster_id).filter(|cluster| !cluster.is_nil())
    }

    /// How it stands with metadata, now and at every change.
    pub fn membership(&self) -> watch::Receiver<Membership> {
        self.node.membership.subscribe()
    }

    /// What the sweep of each store has done in this life of the process, with the store's number (0 until it has one).
    pub fn sweep_totals(&self) -> Vec<(StoreId, SweepTotals)> {
        self.node.stores.iter().map(|slot| (slot.id().unwrap_or_default(), slot.sweep.totals())).collect()
    }

    /// How often a group was compared with another member in this life of the process.
    pub fn compared_groups(&self) -> u64 {
        self.node.progress.compared_groups.load(Ordering::Relaxed)
    }

    /// Stops in order: peers are told to go away, requests in hand are finished (for at most [`STOP_GRACE`]), everything
    /// accepted is made durable, the stores are closed and the directories released.
    pub fn stop(self) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let Self { node, tasks, .. } = self;
            node.draining.store(true, Ordering::Relaxed);
            tasks.stop(STOP_GRACE).await;
            node.meta.close();
            node.peers.close();
            let closing = node.clone();
            blocking(move || {
                if let Err(error) = closing.ledger.flush(&closing.home.disk) {
                    tracing::warn!(%error, "the ledger is not written down");
                }
                closing.stores.iter().for_each(|slot| slot.close());
            })
            .await;
            tracing::info!(node = %node.id(), "storage node stopped");
        })
    }
}

struct Opened {
    home: Home,
    ledger: Arc<Ledger>,
    stores: Vec<Arc<StoreSlot>>,
}

/// Takes the directories. Blocks the calling thread.
fn open(config: &NodeServerConfig) -> Result<Opened, StartError> {
    let lock =
        |path: &Path| RealDisk::open(path).map_err(|source| StartError::Directory { path: path.to_owned(), source });
    let disk = lock(&config.data)?;
    let path = || config.data.clone();
    let mut identity = NodeIdentity::load_or_create(&disk, entropy::unique())
        .map_err(|source| StartError::Identity { path: path(), source })?;
    let fence = Fence::load(&disk).map_err(|source| StartError::Fence { path: path(), source })?;
    let ledger = Ledger::load(&disk).map_err(|source| StartError::Ledger { path: path(), source })?;
    let scrubs = Positions::load(&disk).map_err(|source| StartError::Ledger { path: path(), source })?;
    let stores = open_stores(config, &identity)?;
    let found =
        stores.iter().filter(|slot| slot.is_open()).filter_map(|slot| Some((slot.place().name(), slot.uuid()?)));
    identity.found(&disk, found).map_err(|source| StartError::Identity { path: path(), source })?;
    Ok(Opened { home: Home { disk, identity: Mutex::new(identity), fence, scrubs }, ledger: Arc::new(ledger), stores })
}

/// Opens every store. One that was here before and cannot be opened is left to be tried again, and the others serve; one
/// that is named for the first time has to be there.
fn open_stores(config: &NodeServerConfig, identity: &NodeIdentity) -> Result<Vec<Arc<StoreSlot>>, StartError> {
    let mut stores: Vec<Arc<StoreSlot>> = Vec::new();
    for path in config.store_dirs() {
        let expected = identity.places.get(&place::name_of(&path)).copied();
        let options = place::store_options(&config.store);
        let place = StorePlace::new(path, options, place::real_disk(), expected, config.accept_empty_stores);
        let sweep = Sweep::new(config.sweep_every, config.sweep_mass_percent);
        let (scrub, repair) = (Scrub::new(config.scrub_period), Throttle::new(config.repair_rate));
        let slot = StoreSlot::new(place, sweep, scrub, repair);
        match slot.open() {
            Ok(()) => {}
            Err(error) if expected.is_none() => return Err(StartError::Store(error)),
            Err(error) => tracing::error!(error = %slot::explain(&error), "store not open, the others serve"),
        }
        stores.push(Arc::new(slot));
    }
    let mut here = BTreeSet::new();
    if !stores.iter().filter_map(|slot| slot.uuid()).all(|uuid| here.insert(uuid)) {
        return Err(StartError::Confused);
    }
    for slot in stores.iter().filter(|slot| !slot.is_open()) {
        // Unless its directory was only changed for another one.
        if let Some(uuid) = slot.place().expected().filter(|uuid| here.insert(*uuid)) {
            slot.miss(uuid);
        }
    }
    Ok(stores)
}

fn build(config: &NodeServerConfig, dialer: Dialer, addr: String, opened: Opened) -> Node {
    let Opened { home, ledger, stores } = opened;
    let speaks_as = dialer.identity.clone();
    Node {
        boot: speaks_as.load().boot_id,
        addr,
        zone: config.zone.clone(),
        rack: config.rack.clone(),
        host: config.host.clone(),
        home: Arc::new(home),
        stores,
        speaks_as,
        sweep_every: config.sweep_every,
        compare_every: config.compare_every,
        meta: MetaClient::new(&dialer, &config.metas, META_TIMEOUT),
        peers: Peers::new(dialer),
        view: ArcSwap::default(),
        membership: watch::Sender::new(Membership::Waiting { error: None }),
        gates: Node::gates(),
        wakes: Wakes::default(),
        copies: Node::copy_permits(),
        warm: Node::warm_blocks(),
        deleted: Node::none_deleted(),
        misses: Node::no_misses(),
        missing: Mutex::default(),
        ledger,
        registered: Mutex::default(),
        caught_up_once: false.into(),
        catch_up_stuck: false.into(),
        draining: false.into(),
        progress: Progress::default(),
        metalog: Arc::default(),
    }
}
