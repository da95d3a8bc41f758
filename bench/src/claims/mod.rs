//! The three claims about connections that the project began with, as ratios measured in one run: `cairn-bench claims`.

mod failures;
mod replicas;
mod reuse;
mod tls;

use crate::args::Args;
use crate::machine::{self, Machine};
use anyhow::{Context, Result};
use cairn_chaos::cluster::{Cluster, Setup};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

const OPERATIONS: usize = 2_000;
const OPERATIONS_QUICK: usize = 50;
const WRITES: u32 = 30;
const WRITES_QUICK: u32 = 3;
/// Reads with each number of replicas gone; a quarter as many writes.
const OPERATIONS_WHILE_GONE: u64 = 1_000;
const OPERATIONS_WHILE_GONE_QUICK: u64 = 60;
/// A user that waits for a write longer than this has lost patience.
const WRITE_MAX: Duration = Duration::from_secs(10);
const NODES: u16 = 3;

/// Everything measured.
#[derive(Serialize)]
pub struct Report {
    version: &'static str,
    rounds: u32,
    quick: bool,
    machine: Machine,
    /// Load averages before and after.
    load_average: [Vec<f64>; 2],
    reuse: reuse::Report,
    replica_writes: Vec<replicas::Report>,
    replicas_gone: Vec<failures::Report>,
    /// Whether users saw what is claimed with 0, 1 and 2 replicas gone.
    pub as_claimed: bool,
}

/// Measures the claims.
///
/// # Errors
/// One of them could not be measured; what it says, the claim included, is the error.
pub async fn run(args: &Args) -> Result<Report> {
    let parent = args.data.clone().unwrap_or_else(std::env::temp_dir);
    let machine = machine::describe(&parent)?;
    let before = machine::load_average()?;
    let operations = if args.quick { OPERATIONS_QUICK } else { OPERATIONS };
    let reuse = reuse::run(args.rounds(), operations).await?;
    for ratio in &reuse.ratios {
        eprintln!("{}: {:.1} ({:.1}..{:.1})", ratio.name, ratio.median, ratio.min, ratio.max);
    }
    let cairn = crate::cluster::find_cairn(args.cairn.as_deref())?;
    let (replica_writes, replicas_gone) = with_cluster(args, cairn, &parent).await?;
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        rounds: args.rounds(),
        quick: args.quick,
        machine,
        load_average: [before, machine::load_average()?],
        reuse,
        as_claimed: replicas_gone.iter().all(|report| report.as_claimed),
        replica_writes,
        replicas_gone,
    })
}

/// The claims that need a cluster of processes behind proxies.
async fn with_cluster(
    args: &Args,
    cairn: PathBuf,
    dir: &Path,
) -> Result<(Vec<replicas::Report>, Vec<failures::Report>)> {
    eprintln!("starting a cluster of {NODES} nodes");
    let setup = Setup::new(cairn, dir.to_owned(), NODES, 1);
    let cluster = Cluster::start(&setup).await?;
    let client = cluster.client().write_timeout(WRITE_MAX).connect().await.context("connecting to the cluster")?;
    let writes = if args.quick { WRITES_QUICK } else { WRITES };
    let replica_writes = replicas::run(&cluster, &client, args.rounds(), writes).await?;
    let operations = if args.quick { OPERATIONS_WHILE_GONE_QUICK } else { OPERATIONS_WHILE_GONE };
    let replicas_gone = failures::run(&cluster, &client, operations).await?;
    client.close().await;
    Ok((replica_writes, replicas_gone))
}
