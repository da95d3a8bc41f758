//! A cluster of real `cairn` processes for the length of a run, each behind a [`FaultProxy`].
//!
//! Storage nodes advertise the address of their proxy, so that clients, metadata and the other nodes all reach them
//! through it. Metadata has a proxy for clients; nodes reach it directly.

use crate::disk::LoopDisk;
use crate::process::{Process, cpu_s};
use crate::proxy::{Counts, FaultProxy};
use anyhow::{Context, Result, ensure};
use cairn_client::{DfsClient, DfsClientBuilder};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

/// Copies of every block.
const REPLICAS: u16 = 3;
const READY_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// Below the range from which Linux takes ports for outgoing connections (ip_local_port_range, ip(7)).
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const PORT_STRIDE: u16 = 16;
/// Nodes of a cluster at most: each needs two ports of a stride, and so does metadata.
pub const NODES_MAX: u16 = PORT_STRIDE / 2 - 1;

/// What cluster to start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The program `cairn`.
    pub cairn: PathBuf,
    /// Directory in which the data gets a directory of its own, removed at the end.
    pub dir: PathBuf,
    /// Storage nodes, 3 to [`NODES_MAX`].
    pub nodes: u16,
    /// Nodes beyond these that have a place and are not started: [`Member::restart`] does. At most [`NODES_MAX`] with
    /// the others.
    pub spares: u16,
    /// Decides the random choices of the proxies.
    pub seed: u64,
    /// Further arguments for `cairn meta`.
    pub meta_args: Vec<String>,
    /// Further arguments for each `cairn node`.
    pub node_args: Vec<String>,
    /// Zones that the nodes are dealt out to, in turn; empty = none has a zone.
    pub zones: Vec<String>,
    /// Members (`meta`, `node-1`, ...) whose directory lies on a disk of its own of this many bytes.
    pub disks: BTreeMap<String, u64>,
}

impl Setup {
    /// Three or more nodes without anything special.
    pub fn new(cairn: PathBuf, dir: PathBuf, nodes: u16, seed: u64) -> Self {
        let (meta_args, node_args) = (Vec::new(), Vec::new());
        Self { cairn, dir, nodes, spares: 0, seed, meta_args, node_args, zones: Vec::new(), disks: BTreeMap::new() }
    }
}

/// A server process and the proxy before it.
pub struct Member {
    /// The process.
    pub process: Process,
    /// Where others reach it.
    pub proxy: FaultProxy,
    /// Where it listens itself.
    pub addr: SocketAddr,
    /// Its data.
    pub dir: PathBuf,
    fired: Mutex<BTreeMap<&'static str, u64>>,
}

/// A running cluster; dropping it kills its processes and removes its data.
pub struct Cluster {
    meta: Member,
    nodes: Vec<Member>,
    spares: usize,
    /// Runs the proxies, apart from the load; `None` only while it is dropped.
    runtime: Option<Runtime>,
    /// Go after the processes that use them and before the directory they are mounted in.
    disks: BTreeMap<String, LoopDisk>,
    fired: Mutex<BTreeMap<&'static str, u64>>,
    data: TempDir,
}

impl Member {
    fn count(&self, fault: &'static str) {
        *self.fired.lock().entry(fault).or_default() += 1;
    }

    /// Freezes the process (SIGSTOP).
    ///
    /// # Errors
    /// It does not run.
    pub fn stop(&self) -> Result<()> {
        self.process.stop()?;
        self.count("stop");
        Ok(())
    }

    /// Lets the process go on (SIGCONT).
    ///
    /// # Errors
    /// It does not run.
    pub fn cont(&self) -> Result<()> {
        self.process.cont()
    }

    /// Kills the process (SIGKILL); its data stays.
    ///
    /// # Errors
    /// It did not run.
    pub fn kill(&self) -> Result<()> {
        self.process.kill()?;
        self.count("kill");
        Ok(())
    }

    /// Starts the process again on its data and waits until it serves.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn restart(&self) -> Result<()> {
        self.process.spawn()?;
        self.process.ready().await
    }

    /// Kills the process, removes all its data and starts it anew.
    ///
    /// # Errors
    /// It did not run, its data cannot be removed, or it does not come up.
    pub async fn wipe(&self) -> Result<()> {
        self.process.kill()?;
        fs::remove_dir_all(&self.dir).with_context(|| format!("removing {}", self.dir.display()))?;
        self.count("wipe");
        self.restart().await
    }

    /// How often each fault hit somebody here: those of the proxy, `stop`, `kill` and `wipe`.
    pub fn fired(&self) -> BTreeMap<&'static str, u64> {
        let mut fired = self.proxy.counts().fired;
        for (fault, times) in self.fired.lock().iter() {
            *fired.entry(fault).or_default() += times;
        }
        fired
    }
}

impl Cluster {
    /// Starts everything and waits until the cluster takes files.
    ///
    /// # Errors
    /// A process did not come up; the message ends with what it logged.
    pub async fn start(setup: &Setup) -> Result<Self> {
        let all = setup.nodes + setup.spares;
        ensure!(setup.nodes >= REPLICAS && all <= NODES_MAX, "{REPLICAS} to {NODES_MAX} nodes are supported");
        let data = tempfile::Builder::new().prefix("cairn-chaos-").tempdir_in(&setup.dir);
        let data = data.with_context(|| format!("making a directory in {}", setup.dir.display()))?;
        let base = free_ports(all, setup.seed)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let address = |index: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, base + index));
        let mut disks = BTreeMap::new();
        for (name, bytes) in &setup.disks {
            let image = data.path().join(format!("{name}.img"));
            disks.insert(name.clone(), LoopDisk::mount(&image, *bytes, &data.path().join(name))?);
        }
        let meta = {
            let (addr, replicas) = (address(0), REPLICAS.to_string());
            let args = words(&["meta", "--console", "off", "--replicas", &replicas]);
            let more = setup.meta_args.iter().map(OsString::from).collect();
            member(setup, &runtime, &data, "meta", [args, more].concat(), addr, address(1)).await?
        };
        meta.restart().await?;
        let mut nodes = Vec::new();
        for index in 0..all {
            let (addr, proxy) = (address(2 * index + 2), address(2 * index + 3));
            let name = format!("node-{}", index + 1);
            let (advertise, metas) = (proxy.to_string(), meta.addr.to_string());
            let mut args = words(&["node", "--console", "off", "--advertise", &advertise, "--meta", &metas]);
            if !setup.zones.is_empty() {
                args.extend(words(&["--zone", &setup.zones[usize::from(index) % setup.zones.len()]]));
            }
            args.extend(setup.node_args.iter().map(OsString::from));
            let node = member(setup, &runtime, &data, &name, args, addr, proxy).await?;
            if index < setup.nodes {
                // One after the other: node i gets number i.
                node.restart().await?;
            }
            nodes.push(node);
        }
        let (spares, fired) = (usize::from(setup.spares), Mutex::default());
        let cluster = Self { meta, nodes, spares, runtime: Some(runtime), disks, fired, data };
        cluster.wait_for_groups().await?;
        Ok(cluster)
    }

    async fn wait_for_groups(&self) -> Result<()> {
        let client = self.client().connect().await.context("connecting to the new cluster")?;
        let begun = Instant::now();
        loop {
            let status = client.cluster_status().await?;
            let up = status.nodes.iter().filter(|node| node.state == "up").count();
            let full = |group: &cairn_client::GroupStatus| {
                group.members.len() == usize::from(REPLICAS)
                    && group.members.iter().all(|member| member.state == "full")
            };
            if up == self.nodes.len() - self.spares && !status.groups.is_empty() && status.groups.iter().all(full) {
                break;
            }
            ensure!(begun.elapsed() < READY_MAX, "no placement groups within {} s", READY_MAX.as_secs());
            sleep(POLL).await;
        }
        client.close().await;
        Ok(())
    }

    /// Settings of a client that reaches everything through the proxies.
    pub fn client(&self) -> DfsClientBuilder {
        DfsClient::builder().meta(self.meta.proxy.addr().to_string()).name("cairn-chaos")
    }

    /// The metadata server.
    pub fn meta(&self) -> &Member {
        &self.meta
    }

    /// The storage nodes, spares behind; `nodes()[i]` has node id `i + 1`.
    pub fn nodes(&self) -> &[Member] {
        &self.nodes
    }

    /// Where the data of the servers is: `meta`, `node-1`, ...
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// The disk of its own that a member was given.
    pub fn disk(&self, name: &str) -> Option<&LoopDisk> {
        self.disks.get(name)
    }

    /// Kills every process and takes the power from every disk of its own, then starts all again.
    ///
    /// # Errors
    /// As [`Cluster::kill_all`], [`LoopDisk::lose_power`] and [`Cluster::restart_all`].
    pub async fn lose_power(&self) -> Result<()> {
        self.kill_all()?;
        for disk in self.disks.values() {
            disk.lose_power()?;
            self.count("power", 1);
        }
        self.restart_all().await
    }

    /// Counts a fault that is neither one of a proxy nor one of a process.
    pub fn count(&self, fault: &'static str, times: u64) {
        *self.fired.lock().entry(fault).or_default() += times;
    }

    /// How often each fault hit somebody, of all members.
    pub fn fired(&self) -> BTreeMap<String, u64> {
        let mut sum = BTreeMap::new();
        let own = self.fired.lock().clone();
        for (fault, times) in self.members().flat_map(Member::fired).chain(own) {
            *sum.entry(fault.to_owned()).or_default() += times;
        }
        sum
    }

    /// Kills every process, metadata last: what nodes still say to it counts.
    ///
    /// # Errors
    /// One of them did not run.
    pub fn kill_all(&self) -> Result<()> {
        self.nodes[..self.nodes.len() - self.spares].iter().chain([&self.meta]).try_for_each(Member::kill)
    }

    /// Starts every process but spares, and waits until all serve.
    ///
    /// # Errors
    /// One of them does not come up.
    pub async fn restart_all(&self) -> Result<()> {
        self.meta.restart().await?;
        for node in &self.nodes[..self.nodes.len() - self.spares] {
            node.restart().await?;
        }
        Ok(())
    }

    /// What the proxy of each node has counted.
    pub fn node_counts(&self) -> Vec<Counts> {
        self.nodes.iter().map(|node| node.proxy.counts()).collect()
    }

    /// Processor time of this process (load, client and proxies) and of the servers that run, in seconds since the
    /// start of each.
    pub fn cpu(&self) -> Cpu {
        let servers = self.members().filter_map(|member| cpu_s(member.process.pid().ok()?).ok()).sum();
        Cpu { own_s: cpu_s(std::process::id()).unwrap_or_default(), servers_s: servers }
    }

    /// All processes with their last words, for the message of a failed run.
    pub fn logs(&self) -> String {
        let logs = self.members().map(|member| format!("{}: {}", member.process.name(), member.process.log_tail()));
        logs.collect::<Vec<_>>().join("\n")
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.meta).chain(&self.nodes)
    }
}

/// See [`Cluster::cpu`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// Load, client and proxies.
    pub own_s: f64,
    /// Metadata and nodes.
    pub servers_s: f64,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn member(
    setup: &Setup,
    runtime: &Runtime,
    data: &TempDir,
    name: &str,
    args: Vec<OsString>,
    addr: SocketAddr,
    proxy: SocketAddr,
) -> Result<Member> {
    let dir = data.path().join(name);
    let mut args = args;
    args.extend(words(&["--listen", &addr.to_string(), "--data"]));
    args.push(dir.clone().into());
    let process = Process::new(name, &setup.cairn, args, data.path().join(format!("{name}.log")));
    let seed = setup.seed ^ u64::from(addr.port());
    let proxy = runtime.spawn(FaultProxy::start(proxy, addr, seed)).await?.context("listening for a proxy")?;
    Ok(Member { process, proxy, addr, dir, fired: Mutex::default() })
}

fn words(args: &[&str]) -> Vec<OsString> {
    args.iter().map(OsString::from).collect()
}

/// The first of a row of ports, two for metadata and for each node, of which none is in use.
fn free_ports(nodes: u16, seed: u64) -> Result<u16> {
    let count = (PORTS.end - PORTS.start) / PORT_STRIDE;
    // Runs side by side begin their search at different places.
    let first = (u64::from(std::process::id()).wrapping_add(seed) % u64::from(count)) as u16;
    let candidates = (0..count).map(|i| PORTS.start + (first + i) % count * PORT_STRIDE);
    let is_free = |port: &u16| (0..2 * (nodes + 1)).all(|i| TcpListener::bind((Ipv4Addr::LOCALHOST, port + i)).is_ok());
    candidates.into_iter().find(is_free).context("no free ports on loopback")
}

/// The program `cairn`: as given, else beside this program (or one directory up, for tests).
///
/// # Errors
/// There is none.
pub fn find_cairn(given: Option<&Path>) -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    let beside = || own.ancestors().skip(1).take(2).map(|dir| dir.join("cairn")).find(|path| path.is_file());
    let path = given.map(Path::to_owned).or_else(beside).unwrap_or_else(|| own.with_file_name("cairn"));
    let program = fs::metadata(&path).is_ok_and(|meta| meta.is_file());
    ensure!(
        program,
        "there is no program {}; build it with `cargo build --release -p cairnfs` or say where it is with --cairn",
        path.display()
    );
    Ok(path)
}
