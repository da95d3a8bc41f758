//! The metadata server: the namespace behind a socket, and the duties that go with it.

mod collector;
mod dumps;
mod duties;
mod engine;
mod handler;
mod lock_wait;
mod mass;
mod ripening;
mod ship;
mod subject;
mod troubles;
mod watch;

use crate::console::{Console, ConsolePlace};
use crate::entropy;
use crate::error::StartError;
use crate::limits::{
    GARBAGE_GRACE_DEFAULT, GARBAGE_MASS_HOLD, GARBAGE_MASS_MIN, GARBAGE_MASS_PERCENT, META_CACHE_BYTES, STOP_GRACE,
};
use crate::links::{Dialer, Peers};
use crate::listen::{Lent, service_addr};
use crate::observe::{Observed, RequestStats, ServerSource};
use crate::tasks::{Tasks, blocking};
use cairn_engines::EngineUrl;
use cairn_meta::clock::{Clock, SystemClock};
use cairn_meta::kv::Engine;
use cairn_meta::limits::{OUT_AFTER, SUSPECT_AFTER};
use cairn_meta::{Meta, MetaOptions};
use cairn_metrics::Exposition;
use cairn_net::{Identity, LinkConfig, Net, ServerConfig, serve};
use cairn_proto::limits::{BLOCK_LEN_DEFAULT, INLINE_LEN_DEFAULT, SESSION_LEASE_MS};
use cairn_proto::pb::Role;
use cairn_proto::{BootId, ClusterId, NodeId};
use collector::Collector;
use engine::Doors;
use futures_util::future::BoxFuture;
use handler::MetaHandler;
pub use mass::MassRule;
use ship::{Shipped, Shipper};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;
pub(crate) use subject::own_view;
use subject::{DutyCounts, MetaSource, MetaSubject};
use tokio::sync::Notify;
use troubles::Troubles;

/// Settings of a [`MetaServer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaServerConfig {
    /// Directory of the embedded engine, where no other is named. Made when missing.
    pub data: PathBuf,
    /// The engine; `None` = the embedded one in `data`.
    pub engine: Option<EngineUrl>,
    /// `ip:port` to listen on; port 0 picks a free one. Loopback only, unless `insecure`.
    pub listen: String,
    /// Listen off loopback, too.
    pub insecure: bool,
    /// The address that others are told, `host:port`, where it differs from the one listened on.
    pub advertise: Option<String>,
    /// Addresses of metadata servers, as clients are told, beside those of all that live.
    pub metas: Vec<String>,
    /// Replicas of a block where no policy says otherwise.
    pub replicas: u32,
    /// Bytes of a block where no policy says otherwise.
    pub block_len: u32,
    /// A file that as a whole is at most this long is kept in metadata, in bytes.
    pub inline_max: u32,
    /// Time between the first sight of a garbage row and the deletion of its blocks.
    pub gc_grace: Duration,
    /// When so much becomes garbage that collection stops and asks.
    pub gc_mass: MassRule,
    /// A client's session that was silent this long ends, and its writers with it.
    pub session_lease: Duration,
    /// A node silent this long is suspect: writes avoid it. At least two seconds.
    pub suspect_after: Duration,
    /// A node silent this long, or a store that failed so long ago, is out: others take over its memberships.
    pub out_after: Duration,
    /// Memory for cached rows, in bytes.
    pub cache_bytes: u64,
    /// Where metrics and health checks are served.
    pub console: ConsolePlace,
}

impl MetaServerConfig {
    /// Three replicas, and defaults for the rest.
    pub fn new(data: impl Into<PathBuf>, listen: impl Into<String>) -> Self {
        Self {
            data: data.into(),
            engine: None,
            listen: listen.into(),
            insecure: false,
            advertise: None,
            metas: Vec::new(),
            replicas: 3,
            block_len: BLOCK_LEN_DEFAULT,
            inline_max: INLINE_LEN_DEFAULT,
            gc_grace: GARBAGE_GRACE_DEFAULT,
            gc_mass: MassRule { percent: GARBAGE_MASS_PERCENT, copies_min: GARBAGE_MASS_MIN, hold: GARBAGE_MASS_HOLD },
            session_lease: Duration::from_millis(SESSION_LEASE_MS),
            suspect_after: SUSPECT_AFTER,
            out_after: OUT_AFTER,
            cache_bytes: META_CACHE_BYTES,
            console: ConsolePlace::default(),
        }
    }
}

/// A metadata server that runs in this process.
///
/// Dropping it ends its tasks without waiting for them, as a crash would; [`MetaServer::stop`] ends it in order.
pub struct MetaServer {
    meta: Meta,
    /// Only to notice that nothing holds the engine open any more.
    engine: Weak<dyn Engine>,
    handler: Arc<MetaHandler>,
    addr: SocketAddr,
    console: Option<SocketAddr>,
    tasks: Tasks,
}

impl MetaServer {
    /// Opens the namespace, or makes it in an empty engine, and begins to serve it. While an engine that is a server is
    /// away, this waits: the address answers UNAVAILABLE then, and the console says why.
    ///
    /// # Errors
    /// When the address is not on loopback or not free, an option is out of range, or the engine cannot be used, however
    /// long one waits. Nothing keeps running then.
    pub fn start(config: MetaServerConfig, net: Arc<dyn Net>) -> BoxFuture<'static, Result<Self, StartError>> {
        Box::pin(async move {
            let (listen, advertise) = service_addr(&config.listen, config.advertise.as_deref(), config.insecure)?;
            let bound = net.bind(&listen.to_string()).await;
            let listener = bound.map_err(|source| StartError::Bind { addr: listen, source })?;
            let listener = Lent::new(listener).map_err(|source| StartError::Bind { addr: listen, source })?;
            let addr = listener.addr();
            let console = Console::bind(&*net, &config.console, listen, addr).await?;

            let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
            let options = MetaOptions {
                replicas: config.replicas,
                block_len: config.block_len,
                inline_max: config.inline_max,
                lease: config.session_lease,
                suspect_after: config.suspect_after,
                out_after: config.out_after,
                addr: advertise.unwrap_or_else(|| addr.to_string()),
                // The lock on its directory keeps every other process out of an embedded engine, and of no other.
                alone: config.engine.as_ref().is_none_or(|url| url.dir().is_some()),
                metas: config.metas.clone(),
                clock,
                seed: entropy::rng().u64(..),
            };
            // Which cluster it is, the engine knows.
            let unknown = Identity { role: Role::Meta, ..Identity::client(BootId(entropy::unique())) }.shared();
            let dialer = Dialer { net, identity: unknown.clone(), config: Arc::new(LinkConfig::default()) };
            let doors = Doors { requests: &listener, console: console.as_ref(), dialer: &dialer };
            let (engine, meta) = engine::open(&config, options, doors).await?;
            let cluster_id = meta.cluster_id();
            let speaks_as = Identity { cluster_id, ..(**unknown.load()).clone() }.shared();
            let changed = Arc::new(Notify::new());
            let served_as = ServerConfig::new(speaks_as.clone());
            let connections = served_as.stats.clone();
            let shipped = Shipped::new();
            let handler = MetaHandler::new(
                meta.clone(),
                Arc::downgrade(&engine),
                changed.clone(),
                connections.clone(),
                shipped.clone(),
            );
            let handler = Arc::new(handler);
            let dialer = Dialer { identity: speaks_as, ..dialer };
            let requests = Arc::new(RequestStats::default());
            let observed = Arc::new(Observed::new(handler.clone(), requests.clone(), || NodeId(0)));
            let counts = Arc::new(DutyCounts::default());
            let troubles = Arc::new(Troubles::default());

            let tasks = Tasks::new();
            tasks.spawn_server(serve(listener.lend(), observed, served_as, tasks.server_stop()));
            let console_addr = console.as_ref().map(Console::addr);
            if let Some(console) = console {
                let source = MetaSource::new(
                    meta.clone(),
                    Arc::downgrade(&engine),
                    handler.clone(),
                    (counts.clone(), troubles.clone()),
                );
                let source = Arc::new(source);
                let mut exposition = Exposition::new();
                exposition.add(Arc::new(ServerSource { role: "meta", requests, connections }));
                exposition.add(source.clone());
                let subject = MetaSubject { source, exposition, own: dialer.link(&addr.to_string(), NodeId(0)) };
                tasks.spawn_server(console.serve(Arc::new(subject), tasks.server_stop()));
            }
            let stop = tasks.duty_stop();
            if engine.ship_to(shipped.clone()) {
                for shipper in Shipper::all(&meta, Peers::new(dialer.clone()), &shipped) {
                    tasks.spawn_duty(shipper.run(stop.clone()));
                }
            }
            let collector = Collector::new(meta.clone(), Peers::new(dialer), config.gc_grace, config.gc_mass);
            tasks.spawn_duty(handler.dumps().expire(stop.clone()));
            tasks.spawn_duty(duties::look_after_cluster(meta.clone(), changed.clone(), troubles.clone(), stop.clone()));
            tasks.spawn_duty(duties::pulse(meta.clone(), changed, troubles.clone(), stop.clone()));
            tasks.spawn_duty(duties::expire(meta.clone(), config.session_lease, troubles.clone(), stop.clone()));
            tasks.spawn_duty(duties::drop_maps(meta.clone(), troubles.clone(), stop.clone()));
            tasks.spawn_duty(duties::tend_feed(meta.clone(), troubles.clone(), stop.clone()));
            tasks.spawn_duty(duties::trim_snapshots(meta.clone(), troubles.clone(), stop.clone()));
            tasks.spawn_duty(duties::tend_trees(meta.clone(), troubles.clone(), stop.clone()));
            tasks.spawn_duty(duties::collect(collector, config.gc_grace, (counts, troubles), stop));
            tracing::info!(%addr, console = ?console_addr, cluster = %cluster_id, "metadata server listens");
            Ok(Self { meta, engine: Arc::downgrade(&engine), handler, addr, console: console_addr, tasks })
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

    /// The cluster it serves.
    pub fn cluster_id(&self) -> ClusterId {
        self.meta.cluster_id()
    }

    /// Stops in order: peers are told to go away, requests in hand are finished (for at most [`STOP_GRACE`]), everything
    /// committed is made durable, and the directory is released.
    pub fn stop(self) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let Self { meta, engine, handler, tasks, .. } = self;
            handler.drain();
            tasks.stop(STOP_GRACE).await;
            if let Err(status) = meta.leave().await {
                tracing::warn!(%status, "other metadata servers are not told that this one stops: they find out");
            }
            // The last owner of the engine flushes and closes it, which takes a thread's time.
            blocking(move || drop((meta, handler))).await;
            match engine.strong_count() {
                0 => tracing::info!("metadata server stopped"),
                owners => tracing::warn!(owners, "metadata server stopped, but something still holds its engine"),
            }
        })
    }

    /// The namespace, for servers in the same process.
    pub(crate) fn meta(&self) -> &Meta {
        &self.meta
    }
}
