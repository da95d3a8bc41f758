//! `cairn up`, `cairn meta`, `cairn node`: the servers.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Subcommand, builder::BoolishValueParser};

use super::MetaInstead;
use crate::{
    settings::{BasePort, ByteSize, ConsolePorts, MetaCount, NodeCount, Replicas},
    span::Span,
};

/// Bring a whole cluster up on this machine
///
/// Metadata listens on the base port, storage node i on base port + i. Each role shows metrics and health checks over
/// HTTP (/metrics, /healthz, /readyz) 80 ports above. Prints the addresses, then a line `ready` once every node is
/// registered and files can be written. Stops cleanly on SIGINT and SIGTERM and starts again on the same data.
///
/// The data directory holds meta-1, node-1, node-2, ...: the data of each role. With --processes each role is a child
/// process; DIR/run has its process id (meta-1.pid, node-1.pid, ...) and its log (meta-1.log, ...). A child that dies
/// is reported and not started again; the command line that starts it again by hand is printed at the start, for
/// example:
///
///   cairn node --data DIR/node-1 --listen 127.0.0.1:9001 --meta 127.0.0.1:9000
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Up {
    /// Directory for the data [default: $XDG_DATA_HOME/cairn, that is ~/.local/share/cairn]
    #[arg(long, value_name = "DIR", env = "CAIRN_UP_DATA", hide_env_values = true)]
    pub data: Option<PathBuf>,
    /// Engine of metadata: file:DIR, postgres://USER:PASSWORD@HOST/DATABASE or etcd://HOST:2379,.../PREFIX
    /// [default: file:DIR/meta-1]
    #[arg(long, value_name = "URL", env = "CAIRN_ENGINE", hide_env_values = true)]
    pub engine: Option<String>,
    /// Number of metadata servers; more than one need an --engine that they can share [default: 1]
    #[arg(long, value_name = "N", env = "CAIRN_UP_METAS", hide_env_values = true)]
    pub metas: Option<MetaCount>,
    /// Mount the cluster at this directory, too; unmounted at the end
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,
    /// Number of storage nodes [default: 3, or as many as the data directory has]
    #[arg(long, value_name = "N", env = "CAIRN_UP_NODES", hide_env_values = true)]
    pub nodes: Option<NodeCount>,
    /// Copies of every block, at most the number of nodes [default: 3]
    #[arg(long, value_name = "N", env = "CAIRN_UP_REPLICAS", hide_env_values = true)]
    pub replicas: Option<Replicas>,
    /// Address to listen on; only loopback is served [default: 127.0.0.1]
    #[arg(long, value_name = "IP", env = "CAIRN_UP_LISTEN", hide_env_values = true)]
    pub listen: Option<IpAddr>,
    /// Port of metadata; node i gets this + i, metadata server i from the second on this + 63 + i [default: 9000]
    #[arg(long, value_name = "PORT", env = "CAIRN_UP_BASE_PORT", hide_env_values = true)]
    pub base_port: Option<BasePort>,
    /// Port of metadata's metrics and health checks; node i gets this + i; `off` = none [default: base port + 80]
    #[arg(long, value_name = "PORT", env = "CAIRN_UP_CONSOLE", hide_env_values = true)]
    pub console: Option<ConsolePorts>,
    /// Writes avoid a node that was silent this long [default: 10s]
    #[arg(long, value_name = "TIME", env = "CAIRN_UP_SUSPECT_AFTER", hide_env_values = true)]
    pub suspect_after: Option<Span>,
    /// Other nodes take over from one that was silent this long [default: 10m]
    #[arg(long, value_name = "TIME", env = "CAIRN_UP_OUT_AFTER", hide_env_values = true)]
    pub out_after: Option<Span>,
    /// Run each role as a process of its own
    #[arg(long, env = "CAIRN_UP_PROCESSES", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub processes: bool,
}

/// Run one metadata server, or work on metadata as a whole
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct MetaRole {
    /// Something else than running the server.
    #[command(subcommand)]
    pub instead: Option<MetaInstead>,
    /// Directory for the data; not needed with an --engine elsewhere
    #[arg(long, value_name = "DIR", env = "CAIRN_META_SERVER_DATA", hide_env_values = true)]
    pub data: Option<PathBuf>,
    /// Engine of metadata: file:DIR, postgres://USER:PASSWORD@HOST/DATABASE or etcd://HOST:2379,.../PREFIX
    /// [default: file: with the directory of --data]
    #[arg(long, value_name = "URL", env = "CAIRN_ENGINE", hide_env_values = true)]
    pub engine: Option<String>,
    /// Address and port to listen on [default: 127.0.0.1:9000]
    #[arg(long, value_name = "ADDR", env = "CAIRN_META_SERVER_LISTEN", hide_env_values = true)]
    pub listen: Option<String>,
    /// Address that clients and other servers are told, where it is not the one of --listen [default: --listen]
    #[arg(long, value_name = "ADDR", env = "CAIRN_META_SERVER_ADVERTISE", hide_env_values = true)]
    pub advertise: Option<String>,
    /// Listen off loopback, too: whoever reaches the port, or with --certs has a certificate, can do everything
    #[arg(long)]
    pub insecure: bool,
    /// Address and port of metrics and health checks, or `off` [default: the port of --listen + 80]
    #[arg(long, value_name = "ADDR", env = "CAIRN_META_SERVER_CONSOLE", hide_env_values = true)]
    pub console: Option<String>,
    /// Copies of every block, decided when the cluster is made [default: 3]
    #[arg(long, value_name = "N", env = "CAIRN_META_SERVER_REPLICAS", hide_env_values = true)]
    pub replicas: Option<Replicas>,
    /// Writes avoid a node that was silent this long [default: 10s]
    #[arg(long, value_name = "TIME", env = "CAIRN_META_SERVER_SUSPECT_AFTER", hide_env_values = true)]
    pub suspect_after: Option<Span>,
    /// Other nodes take over from one that was silent this long [default: 10m]
    #[arg(long, value_name = "TIME", env = "CAIRN_META_SERVER_OUT_AFTER", hide_env_values = true)]
    pub out_after: Option<Span>,
    /// The session of a client that was silent this long ends, and with it what it held [default: 90s]
    #[arg(long, value_name = "TIME", env = "CAIRN_META_SERVER_SESSION_LEASE", hide_env_values = true)]
    pub session_lease: Option<Span>,
    /// Stop collecting garbage, and ask, when more than so much of all blocks became garbage within an hour; 100 = never
    /// [default: 30]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub gc_mass_percent: Option<u8>,
    /// Go on without an answer after so long [default: 24h]
    #[arg(long, value_name = "TIME")]
    pub gc_mass_hold: Option<Span>,
    /// Write the process id to this file, remove it at the end
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
}

/// Run one storage node
///
/// Registers with the metadata servers of --meta and serves blocks until SIGINT or SIGTERM. A node that was started by
/// `cairn up --processes` and was killed is started again by hand with:
///
///   cairn node --data DIR/node-1 --listen 127.0.0.1:9001 --meta 127.0.0.1:9000
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, args_conflicts_with_subcommands = true)]
pub struct NodeRole {
    /// Something else than running the node.
    #[command(subcommand)]
    pub instead: Option<NodeInstead>,
    /// Directory for the data
    #[arg(long, value_name = "DIR", env = "CAIRN_NODE_DATA", hide_env_values = true)]
    pub data: Option<PathBuf>,
    /// Directory of one store; give it once for each disk [default: one store, in DIR/store-1 of --data]
    #[arg(long, value_name = "DIR", env = "CAIRN_NODE_STORES", value_delimiter = ',', hide_env_values = true)]
    pub store: Vec<PathBuf>,
    /// Make new stores in directories that held one before and are empty now: a disk was replaced
    #[arg(long)]
    pub accept_empty_stores: bool,
    /// Address and port to listen on [default: 127.0.0.1:9001]
    #[arg(long, value_name = "ADDR", env = "CAIRN_NODE_LISTEN", hide_env_values = true)]
    pub listen: Option<String>,
    /// Address that clients and other servers are told, where a forwarder stands before the node [default: --listen]
    #[arg(long, value_name = "ADDR", env = "CAIRN_NODE_ADVERTISE", hide_env_values = true)]
    pub advertise: Option<String>,
    /// Listen off loopback, too: whoever reaches the port, or with --certs has a certificate, can do everything
    #[arg(long)]
    pub insecure: bool,
    /// Address and port of metrics and health checks, or `off` [default: the port of --listen + 80]
    #[arg(long, value_name = "ADDR", env = "CAIRN_NODE_CONSOLE", hide_env_values = true)]
    pub console: Option<String>,
    /// Zone the node is in: copies are spread over zones, then racks, then hosts
    #[arg(long, value_name = "NAME", env = "CAIRN_NODE_ZONE", hide_env_values = true)]
    pub zone: Option<String>,
    /// Rack the node is in
    #[arg(long, value_name = "NAME", env = "CAIRN_NODE_RACK", hide_env_values = true)]
    pub rack: Option<String>,
    /// Host the node is on
    #[arg(long, value_name = "NAME", env = "CAIRN_NODE_HOST", hide_env_values = true)]
    pub host: Option<String>,
    /// Use at most this many bytes, as 500G [default: the disk]
    #[arg(long, value_name = "BYTES", env = "CAIRN_NODE_CAPACITY", hide_env_values = true)]
    pub capacity: Option<ByteSize>,
    /// Read everything back once in this time to find what has rotted, as 336h [default: 336h, two weeks]
    #[arg(long, value_name = "TIME", env = "CAIRN_NODE_SCRUB_PERIOD", hide_env_values = true)]
    pub scrub_period: Option<Span>,
    /// Compare each group with another member once in this time, as 1h [default: 1h]
    #[arg(long, value_name = "TIME", env = "CAIRN_NODE_COMPARE_PERIOD", hide_env_values = true)]
    pub compare_period: Option<Span>,
    /// Copy at most this many bytes a second to and from each store, as 100M [default: what users leave]
    #[arg(long, value_name = "BYTES", env = "CAIRN_NODE_REPAIR_RATE", hide_env_values = true)]
    pub repair_rate: Option<ByteSize>,
    /// Stop deleting old blocks without a file when more than this share of the store would go [default: 10]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub sweep_mass_percent: Option<u8>,
    /// Write the process id to this file, remove it at the end
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
}

/// What `cairn node` does instead of running a node.
#[derive(Debug, Subcommand)]
pub enum NodeInstead {
    Inspect(Inspect),
}

/// Print the records of a segment file and verify them
///
/// Nothing is locked or changed, so the file may belong to a node that runs. The exit status is 1 when something in it is
/// damaged. What a segment file is made of: docs/formats/disk.md.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Print one JSON array: what the file is, its records, a summary
    #[arg(long)]
    pub json: bool,
    /// Do not read payloads: headers only
    #[arg(long)]
    pub no_payload: bool,
    /// A segment file, as DIR/node-1/store-1/segments/00000001.seg
    #[arg(value_name = "SEGMENT")]
    pub segment: PathBuf,
}
