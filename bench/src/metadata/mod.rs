//! Names per second: `cairn-bench metadata`, after mdtest of the IOR suite: files are made, looked at, listed, renamed and
//! removed by 1, 16 and 64 clients, in one directory that all share and deep down in one of their own, durable and relaxed.
//! Beside them, in the same round: what the engine's committer alone reaches with the same rows, and a bare frame there and
//! back.

mod clients;
mod limits;

use crate::args::{Args, Metadata, PeerRole};
use crate::limits::echo;
use crate::machine::{self, Machine};
use crate::sample::{Latency, spread};
use anyhow::{Context, Result};
use cairn_chaos::cluster::{Cluster, Setup};
use clients::{Layout, Phase};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const NODES: u16 = 3;
const TIME: Duration = Duration::from_secs(2);
const TIME_QUICK: Duration = Duration::from_millis(100);

/// Everything measured.
#[derive(Serialize)]
pub struct Report {
    version: &'static str,
    quick: bool,
    rounds: u32,
    machine: Machine,
    /// Load averages before and after.
    load_average: [Vec<f64>; 2],
    /// Operations per second; medians of the rounds.
    rows: Vec<Row>,
    /// Durable transactions of the embedded engine per second, by tasks that wait for them.
    committer: BTreeMap<usize, f64>,
    /// Frames there and back per second, by how many are under way.
    echo: BTreeMap<usize, f64>,
    /// Formed within each round: smallest, median and greatest.
    ratios: Vec<Ratio>,
}

/// One kind of operation under one load.
#[derive(Serialize)]
struct Row {
    engine: &'static str,
    clients: usize,
    layout: Layout,
    durable: bool,
    phase: Phase,
    per_s: f64,
    p50_us: u64,
    p99_us: u64,
}

#[derive(Serialize)]
struct Ratio {
    name: &'static str,
    min: f64,
    median: f64,
    max: f64,
    aim: f64,
}

/// What one row is about; sorts as the report does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    engine: &'static str,
    clients: usize,
    layout: Layout,
    durable: bool,
    phase: Phase,
}

/// One phase of one round.
pub struct Measured {
    /// Operations.
    pub count: u64,
    /// Wall time of all of them.
    pub seconds: f64,
    /// Of each; empty where one request answers for many.
    pub latency: Latency,
}

impl Measured {
    fn per_s(&self) -> f64 {
        if self.seconds > 0.0 { self.count as f64 / self.seconds } else { 0.0 }
    }
}

#[derive(Default)]
struct Sheet {
    rows: BTreeMap<Key, Vec<Measured>>,
    committer: BTreeMap<usize, Vec<f64>>,
    echo: BTreeMap<usize, Vec<f64>>,
}

fn median(values: &[f64]) -> f64 {
    spread(values).map_or(0.0, |(_, median, _)| median)
}

/// Measures as many rounds as were asked for.
///
/// # Errors
/// The cluster did not come up, or an operation failed.
pub async fn run(args: &Args, wanted: &Metadata) -> Result<Report> {
    let parent = args.data.clone().unwrap_or_else(std::env::temp_dir);
    let machine = machine::describe(&parent)?;
    let before = machine::load_average()?;
    let time = if args.quick { TIME_QUICK } else { TIME };
    let mut sheet = Sheet::default();
    for number in 1..=args.rounds() {
        round(args, wanted, &parent, time, &mut sheet).await.with_context(|| format!("round {number}"))?;
    }
    let ratios = ratios(&sheet);
    for Ratio { name, min, median, max, aim } in &ratios {
        eprintln!("{name}: {median:.2} ({min:.2}..{max:.2}), aim {aim}");
    }
    let rows = sheet.rows.iter().map(|(key, rounds)| {
        let mut latency = Latency::new();
        rounds.iter().for_each(|one| latency.add(&one.latency));
        let latency = latency.report();
        let per_s = median(&rounds.iter().map(Measured::per_s).collect::<Vec<_>>());
        let Key { engine, clients, layout, durable, phase } = *key;
        Row { engine, clients, layout, durable, phase, per_s, p50_us: latency.p50_us, p99_us: latency.p99_us }
    });
    let medians = |values: &BTreeMap<usize, Vec<f64>>| values.iter().map(|(key, all)| (*key, median(all))).collect();
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        quick: args.quick,
        rounds: args.rounds(),
        machine,
        load_average: [before, machine::load_average()?],
        rows: rows.collect(),
        committer: medians(&sheet.committer),
        echo: medians(&sheet.echo),
        ratios,
    })
}

async fn round(args: &Args, wanted: &Metadata, dir: &Path, time: Duration, sheet: &mut Sheet) -> Result<()> {
    let cairn = crate::cluster::find_cairn(args.cairn.as_deref())?;
    let cluster = Cluster::start(&Setup::new(cairn, dir.to_owned(), NODES, 1)).await?;
    for count in &wanted.clients {
        for durable in [true, false] {
            for layout in [Layout::Flat, Layout::Deep] {
                let phases = clients::run(&cluster, *count, layout, durable, time).await?;
                for (phase, measured) in phases {
                    eprintln!(
                        "{count} clients, {layout:?}, {}: {phase:?} {:.0}/s",
                        if durable { "durable" } else { "relaxed" },
                        measured.per_s()
                    );
                    let key = Key { engine: "embedded", clients: *count, layout, durable, phase };
                    sheet.rows.entry(key).or_default().push(measured);
                }
            }
        }
        let (scratch, tasks) = (tempfile::tempdir_in(dir).context("making a directory")?, *count);
        let per_s = limits::committer(scratch.path(), tasks, time).await?;
        sheet.committer.entry(tasks).or_default().push(per_s);
        let per_s = tokio::task::spawn_blocking(move || echo::pipelined(PeerRole::Echo, tasks, time)).await??;
        sheet.echo.entry(tasks).or_default().push(per_s);
        eprintln!("{tasks} at once: committer and echo measured");
    }
    Ok(())
}

/// The aims: a create costs at most twice its commit, a look at most twice its frames.
fn ratios(sheet: &Sheet) -> Vec<Ratio> {
    let rates = |phase| {
        let most = sheet.committer.keys().next_back().copied().unwrap_or(0);
        let key = Key { engine: "embedded", clients: most, layout: Layout::Flat, durable: true, phase };
        (most, sheet.rows.get(&key).map(|rounds| rounds.iter().map(Measured::per_s).collect::<Vec<_>>()))
    };
    let mut ratios = Vec::new();
    let limits = [
        ("durable create / committer alone", Phase::Create, &sheet.committer),
        ("stat / bare frame echo", Phase::Stat, &sheet.echo),
    ];
    for (name, phase, limits) in limits {
        let (clients, Some(rates)) = rates(phase) else { continue };
        let Some(limits) = limits.get(&clients) else { continue };
        let each: Vec<f64> = rates.iter().zip(limits).map(|(rate, limit)| rate / limit).collect();
        let Some((min, median, max)) = spread(&each) else { continue };
        ratios.push(Ratio { name, min, median, max, aim: 0.5 });
    }
    ratios
}
