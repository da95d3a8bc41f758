//! The storage engine alone, without a network and without a cluster: `cairn-bench engine`.
//!
//! Beside it, in the same round: raw file I/O with the same syncs (one file, what waits is one vectored write and one
//! fdatasync), and the layout that most systems begin with, a file per block, made durable by fsync, rename and fsync of
//! its directory. Then how long a store takes to open, and how much memory, against the number of its blocks.

mod contender;
mod start;

use crate::args::{Args, Engine};
use crate::machine::{self, Machine};
use crate::payload;
use crate::sample::LatencyReport;
use anyhow::Result;
use contender::{Contender, Kind, Load};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

pub use start::open_and_report;

const LENS: [usize; 3] = [4 << 10, 64 << 10, 4 << 20];
const CLIENTS: [usize; 3] = [1, 16, 128];
/// Without what takes long to make.
const LENS_QUICK: [usize; 2] = [4 << 10, 64 << 10];
const CLIENTS_QUICK: [usize; 2] = [1, 16];
const SHRINK_QUICK: u64 = 32;
const PHASE: Duration = Duration::from_millis(1_000);
const PHASE_QUICK: Duration = Duration::from_millis(30);

/// Everything measured.
#[derive(Serialize)]
pub struct Report {
    version: &'static str,
    rounds: u32,
    quick: bool,
    machine: Machine,
    /// Load averages before and after.
    load_average: [Vec<f64>; 2],
    rows: Vec<Row>,
    start: Vec<start::Row>,
}

/// One load on all contenders.
#[derive(Serialize)]
struct Row {
    op: Op,
    block_len: usize,
    clients: usize,
    figures: Vec<Figure>,
}

/// What is done with blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Stored, durably.
    Put,
    /// Read whole, from the page cache.
    Get,
}

/// One contender under one load: medians of all rounds.
#[derive(Serialize)]
struct Figure {
    contender: Kind,
    per_second: f64,
    mib_per_second: f64,
    p50_us: u64,
    p99_us: u64,
    /// The engine in new files divided by this one, in the median round.
    engine_ratio: f64,
}

/// What one run of one contender gave.
pub struct Run {
    per_second: f64,
    latency: LatencyReport,
}

/// What the command line asks for.
pub struct Plan {
    parent: PathBuf,
    rounds: u32,
    quick: bool,
    blocks: Vec<u64>,
}

impl Plan {
    pub fn of(args: &Args, engine: &Engine) -> Self {
        Self {
            parent: args.data.clone().unwrap_or_else(std::env::temp_dir),
            rounds: args.rounds(),
            quick: args.quick,
            blocks: engine.blocks.clone(),
        }
    }
}

/// Measures the engine.
///
/// # Errors
/// A file could not be written or read, or a block came back wrong.
pub fn run(plan: &Plan) -> Result<Report> {
    let Plan { parent, rounds, quick, blocks } = plan;
    let (rounds, quick) = (*rounds, *quick);
    let machine = machine::describe(parent)?;
    let before = machine::load_average()?;
    let pool = payload::pool();
    let phase = if quick { PHASE_QUICK } else { PHASE };
    let (lens, clients): (&[usize], &[usize]) = if quick { (&LENS_QUICK, &CLIENTS_QUICK) } else { (&LENS, &CLIENTS) };
    let shrink = if quick { SHRINK_QUICK } else { 1 };
    let mut rows = Vec::new();
    for op in [Op::Put, Op::Get] {
        for &block_len in lens {
            for &clients in clients {
                let load = Load { op, block_len, clients, phase, shrink, pool: pool.clone() };
                let row = measure(&load, parent, rounds)?;
                eprintln!("{}", row.line());
                rows.push(row);
            }
        }
    }
    let start = start::run(parent, blocks)?;
    let load_average = [before, machine::load_average()?];
    let version = env!("CARGO_PKG_VERSION");
    Ok(Report { version, rounds, quick, machine, load_average, rows, start })
}

fn measure(load: &Load, parent: &std::path::Path, rounds: u32) -> Result<Row> {
    let mut runs: Vec<(Kind, Vec<Run>)> = Kind::of(load.op).iter().map(|kind| (*kind, Vec::new())).collect();
    for _ in 0..rounds {
        for (kind, runs) in &mut runs {
            let dir = tempfile::Builder::new().prefix("cairn-bench-engine-").tempdir_in(parent)?;
            let contender = Contender::make(*kind, dir.path(), load)?;
            crate::limits::disk::settle(parent)?;
            runs.push(contender.run(load)?);
        }
    }
    let median = |runs: &[Run], value: &dyn Fn(&Run) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let engine = median(&runs[0].1, &|run| run.per_second);
    let figures = runs.iter().map(|(kind, runs)| {
        let per_second = median(runs, &|run| run.per_second);
        Figure {
            contender: *kind,
            per_second,
            mib_per_second: per_second * load.block_len as f64 / (1 << 20) as f64,
            p50_us: median(runs, &|run| run.latency.p50_us as f64) as u64,
            p99_us: median(runs, &|run| run.latency.p99_us as f64) as u64,
            engine_ratio: engine / per_second,
        }
    });
    Ok(Row { op: load.op, block_len: load.block_len, clients: load.clients, figures: figures.collect() })
}

impl Row {
    fn line(&self) -> String {
        let figures = self.figures.iter().map(|figure| {
            let Figure { contender, per_second, p50_us, p99_us, .. } = figure;
            format!("{contender:?} {per_second:.0}/s p50 {p50_us} p99 {p99_us} us")
        });
        let figures: Vec<String> = figures.collect();
        format!("{:?} {} KiB x {}: {}", self.op, self.block_len >> 10, self.clients, figures.join(" | "))
    }
}
