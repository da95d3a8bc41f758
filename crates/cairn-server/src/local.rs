//! A whole cluster in one process, on loopback and under one directory: for `cairn up`, tests and benchmarks.

use crate::console::ConsolePlace;
use crate::error::StartError;
use crate::limits::{LOCAL_METAS_STEP, READY_POLL, SWEEP_PERIOD};
use crate::meta::{MassRule, MetaServer, MetaServerConfig, own_view};
use crate::node::{Membership, NodeServer, NodeServerConfig, StoreConfig};
use cairn_engines::EngineUrl;
use cairn_net::Net;
use futures_util::future::BoxFuture;
use futures_util::future::join_all;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

/// Where the consoles of a [`LocalCluster`] listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LocalConsoles {
    /// Each beside its server: see [`ConsolePlace::Beside`].
    #[default]
    Beside,
    /// That of metadata on this port, that of node i (from 1) on this plus i, that of metadata server i (from 2) on this
    /// plus [`LOCAL_METAS_STEP`] plus i - 1.
    From(u16),
    /// Nowhere.
    Off,
}

/// Settings of a [`LocalCluster`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalClusterConfig {
    /// Directory of everything: `meta-1`, `node-1`, `node-2`, ... are made in it.
    pub data: PathBuf,
    /// Engine of metadata; `None` = the embedded one, in `meta-1`.
    pub engine: Option<EngineUrl>,
    /// Metadata servers; more than one need an engine that they can share.
    pub metas: usize,
    /// Storage nodes.
    pub nodes: usize,
    /// Replicas of a block; at most `nodes`.
    pub replicas: u32,
    /// Loopback address to listen on, without port.
    pub ip: String,
    /// Metadata listens here, node i (from 1) on this plus i, metadata server i (from 2) on this plus
    /// [`LOCAL_METAS_STEP`] plus i - 1; 0 = free ports for all.
    pub base_port: u16,
    /// Bytes of a block where no policy says otherwise.
    pub block_len: u32,
    /// Time between the first sight of a garbage row and the deletion of its blocks.
    pub gc_grace: Duration,
    /// When so much becomes garbage that collection stops and asks.
    pub gc_mass: MassRule,
    /// A client's session that was silent this long ends, and its writers with it.
    pub session_lease: Duration,
    /// A node silent this long is suspect.
    pub suspect_after: Duration,
    /// A node silent this long is out: others take over its memberships.
    pub out_after: Duration,
    /// How often a node looks for blocks without a file.
    pub sweep_every: Duration,
    /// How the stores use their disks.
    pub store: StoreConfig,
    /// Where the consoles of all roles listen.
    pub consoles: LocalConsoles,
    /// How long [`LocalCluster::start`] waits for the cluster to become ready.
    pub ready_timeout: Duration,
}

impl LocalClusterConfig {
    /// Three nodes with three replicas on free ports, and defaults for the rest.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        let meta = MetaServerConfig::new("", "");
        Self {
            data: data.into(),
            engine: None,
            metas: 1,
            nodes: 3,
            replicas: meta.replicas,
            ip: "127.0.0.1".to_owned(),
            base_port: 0,
            block_len: meta.block_len,
            gc_grace: meta.gc_grace,
            gc_mass: meta.gc_mass,
            session_lease: meta.session_lease,
            suspect_after: meta.suspect_after,
            out_after: meta.out_after,
            sweep_every: SWEEP_PERIOD,
            store: StoreConfig::default(),
            consoles: LocalConsoles::default(),
            ready_timeout: Duration::from_secs(30),
        }
    }

    /// Settings of metadata server `number`, counted from 1.
    ///
    /// # Errors
    /// [`LocalClusterError::Port`] when the base port leaves no room for it.
    pub fn meta(&self, number: usize) -> Result<MetaServerConfig, LocalClusterError> {
        let step = if number > 1 { usize::from(LOCAL_METAS_STEP) + number - 1 } else { 0 };
        Ok(MetaServerConfig {
            engine: self.engine.clone(),
            replicas: self.replicas,
            block_len: self.block_len,
            gc_grace: self.gc_grace,
            gc_mass: self.gc_mass,
            session_lease: self.session_lease,
            suspect_after: self.suspect_after,
            out_after: self.out_after,
            console: self.console(step)?,
            ..MetaServerConfig::new(self.data.join(format!("meta-{number}")), self.listen(step)?)
        })
    }

    /// Settings of node `number`, counted from 1, that reports to `metas`.
    ///
    /// # Errors
    /// [`LocalClusterError::Port`] when the base port leaves no room for the nodes.
    pub fn node(&self, number: usize, metas: &[SocketAddr]) -> Result<NodeServerConfig, LocalClusterError> {
        let data = self.data.join(format!("node-{number}"));
        let metas = metas.iter().map(SocketAddr::to_string).collect();
        let config = NodeServerConfig::new(data, self.listen(number)?, metas);
        Ok(NodeServerConfig {
            store: self.store.clone(),
            sweep_every: self.sweep_every,
            console: self.console(number)?,
            ..config
        })
    }

    fn listen(&self, number: usize) -> Result<String, LocalClusterError> {
        let port = match self.base_port {
            0 => 0,
            base => self.port_above(base, number)?,
        };
        Ok(self.at_port(port))
    }

    fn console(&self, number: usize) -> Result<ConsolePlace, LocalClusterError> {
        match self.consoles {
            LocalConsoles::Beside => Ok(ConsolePlace::Beside),
            LocalConsoles::Off => Ok(ConsolePlace::Off),
            LocalConsoles::From(base) => {
                let addr = self.at_port(self.port_above(base, number)?);
                addr.parse().map_err(|_| LocalClusterError::Ip { ip: self.ip.clone() })
            }
        }
    }

    fn port_above(&self, base_port: u16, number: usize) -> Result<u16, LocalClusterError> {
        let number = u16::try_from(number).ok();
        let port = number.and_then(|number| base_port.checked_add(number));
        port.ok_or(LocalClusterError::Port { base_port, nodes: self.nodes })
    }

    fn at_port(&self, port: u16) -> String {
        if self.ip.contains(':') { format!("[{}]:{port}", self.ip) } else { format!("{}:{port}", self.ip) }
    }
}

/// Why a local cluster did not come up; nothing of it keeps running.
#[derive(Debug, Error)]
pub enum LocalClusterError {
    /// More replicas than nodes, or no node at all.
    #[error("{replicas} replicas need at least as many nodes, but there are {nodes}")]
    TooFewNodes {
        /// Nodes asked for.
        nodes: usize,
        /// Replicas asked for.
        replicas: u32,
    },
    /// The embedded engine serves one process alone.
    #[error("{metas} metadata servers need an engine that they can share (postgres:// or etcd://)")]
    Alone {
        /// Metadata servers asked for.
        metas: usize,
    },
    /// Not enough ports above the base.
    #[error("no room for {nodes} nodes above port {base_port}")]
    Port {
        /// The base port.
        base_port: u16,
        /// Nodes asked for.
        nodes: usize,
    },
    /// The address is none, or not on loopback.
    #[error("\"{ip}\" is no loopback address")]
    Ip {
        /// The address.
        ip: String,
    },
    /// The metadata server did not start.
    #[error("the metadata server did not start")]
    Meta(#[source] StartError),
    /// A node did not start.
    #[error("node {number} did not start")]
    Node {
        /// Which, counted from 1.
        number: usize,
        /// Why.
        source: StartError,
    },
    /// The servers run, but do not find together.
    #[error("not ready after {waited:?}: {state}")]
    NotReady {
        /// How long it was waited for.
        waited: Duration,
        /// What is missing.
        state: String,
    },
}

/// A metadata server, or several on one engine, and some storage nodes in this process.
pub struct LocalCluster {
    /// At least one.
    metas: Vec<MetaServer>,
    nodes: Vec<NodeServer>,
    replicas: u32,
}

impl LocalCluster {
    /// Starts everything and waits until every node is registered and there are groups to write to.
    ///
    /// # Errors
    /// See [`LocalClusterError`]. Cancelled, what was started ends as in a crash.
    pub fn start(config: LocalClusterConfig, net: Arc<dyn Net>) -> BoxFuture<'static, Result<Self, LocalClusterError>> {
        Self::start_with(config, net, None)
    }

    /// As [`LocalCluster::start`], with a runtime for the background work of nodes: see [`NodeServer::start_with`].
    ///
    /// # Errors
    /// As [`LocalCluster::start`].
    pub fn start_with(
        config: LocalClusterConfig,
        net: Arc<dyn Net>,
        background: Option<Handle>,
    ) -> BoxFuture<'static, Result<Self, LocalClusterError>> {
        Box::pin(async move {
            if config.nodes == 0 || (config.replicas as usize) > config.nodes {
                return Err(LocalClusterError::TooFewNodes { nodes: config.nodes, replicas: config.replicas });
            }
            let shared = config.engine.as_ref().is_some_and(|url| url.dir().is_none());
            if config.metas > 1 && !shared {
                return Err(LocalClusterError::Alone { metas: config.metas });
            }
            let first = MetaServer::start(config.meta(1)?, net.clone()).await.map_err(LocalClusterError::Meta)?;
            let mut cluster = Self { metas: vec![first], nodes: Vec::new(), replicas: config.replicas };
            match cluster.start_others(&config, &net, background).await {
                Ok(()) => Ok(cluster),
                Err(error) => {
                    cluster.stop().await;
                    Err(error)
                }
            }
        })
    }

    async fn start_others(
        &mut self,
        config: &LocalClusterConfig,
        net: &Arc<dyn Net>,
        background: Option<Handle>,
    ) -> Result<(), LocalClusterError> {
        for number in 2..=config.metas {
            let meta = MetaServer::start(config.meta(number)?, net.clone()).await;
            self.metas.push(meta.map_err(LocalClusterError::Meta)?);
        }
        let metas: Vec<SocketAddr> = self.metas.iter().map(MetaServer::addr).collect();
        for number in 1..=config.nodes {
            let node = NodeServer::start_with(config.node(number, &metas)?, net.clone(), background.clone()).await;
            self.nodes.push(node.map_err(|source| LocalClusterError::Node { number, source })?);
        }
        self.wait_ready(config.ready_timeout).await
    }

    /// Waits until every node is registered and up, and there is a group to write to.
    ///
    /// # Errors
    /// [`LocalClusterError::NotReady`] after `patience`.
    pub async fn wait_ready(&self, patience: Duration) -> Result<(), LocalClusterError> {
        let ready = async {
            while self.missing().await.is_some() {
                sleep(READY_POLL).await; // tidy: sleep-ok(polls a condition)
            }
        };
        match timeout(patience, ready).await {
            Ok(()) => Ok(()),
            Err(_) => match self.missing().await {
                None => Ok(()),
                Some(state) => Err(LocalClusterError::NotReady { waited: patience, state }),
            },
        }
    }

    /// What keeps the cluster from being ready.
    async fn missing(&self) -> Option<String> {
        for (index, node) in self.nodes.iter().enumerate() {
            let membership = node.membership();
            match &*membership.borrow() {
                Membership::Registered { .. } => {}
                Membership::Waiting { error: None } => {
                    return Some(format!("node {} is not registered yet", index + 1));
                }
                Membership::Waiting { error: Some(error) } | Membership::Refused { reason: error } => {
                    return Some(format!("node {} is not registered: {error}", index + 1));
                }
            }
        }
        let view = match own_view(self.meta().meta()).await {
            Ok(view) => view,
            Err(status) => return Some(status.to_string()),
        };
        let writable = view.writable_groups(self.replicas as usize);
        (writable == 0).then(|| "no placement group has enough stores that are up".to_owned())
    }

    /// Where metadata listens: what a client connects to.
    pub fn meta_addr(&self) -> SocketAddr {
        self.meta().addr()
    }

    /// The metadata server; of several the first.
    pub fn meta(&self) -> &MetaServer {
        &self.metas[0]
    }

    /// The nodes, in order.
    pub fn nodes(&self) -> &[NodeServer] {
        &self.nodes
    }

    /// The servers one by one, to stop and start them alone.
    pub fn into_servers(self) -> (Vec<MetaServer>, Vec<NodeServer>) {
        (self.metas, self.nodes)
    }

    /// Stops everything in order: the nodes, then metadata.
    pub async fn stop(self) {
        join_all(self.nodes.into_iter().map(NodeServer::stop)).await;
        join_all(self.metas.into_iter().map(MetaServer::stop)).await;
    }
}
