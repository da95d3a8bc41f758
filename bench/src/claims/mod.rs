//! The three claims about connections that the project began with, as ratios measured in one run: `cairn-bench claims`.

pub mod reuse;
mod tls;

use crate::args::Args;
use crate::machine::{self, Machine};
use anyhow::Result;
use serde::Serialize;

const OPERATIONS: usize = 2_000;
const OPERATIONS_QUICK: usize = 50;

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
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        rounds: args.rounds(),
        quick: args.quick,
        machine,
        load_average: [before, machine::load_average()?],
        reuse,
    })
}
