//! `cairn-chaos`: runs scenarios, prints a line of JSON for each and, for several, a table (docs/chaos.md).
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a report goes to standard output, and runs take wall-clock time"
)]

use anyhow::{Context as _, Result, bail};
use cairn_chaos::cluster::find_cairn;
use cairn_chaos::hostile::Memory;
use cairn_chaos::report::{Report, table};
use cairn_chaos::scenario::{Context, Form, Scenario, all, named};
use cap::Cap;
use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

// As `cairn` does: the client is measured as its users run it. It also counts, for AC11.
#[global_allocator]
static ALLOCATOR: Cap<MiMalloc> = Cap::new(MiMalloc, usize::MAX);

/// Injects faults into a cluster of real processes under open-loop load, and judges what users see.
///
/// Prints one JSON object for each run; the exit status is 0 only if all criteria are met and every injected fault hit
/// somebody.
#[derive(Parser)]
#[command(name = "cairn-chaos", max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// The program `cairn` [default: beside this program]
    #[arg(long, global = true, value_name = "FILE")]
    cairn: Option<PathBuf>,
    /// Directory for the data of the clusters, on the disk that shall be used [default: the system's]
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Log of the client in this process, as `cairn_client=debug`
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a scenario (AC1), or all of a family (AC2: AC2a and AC2b; heal-*: all that begin so)
    Run {
        /// Its name
        name: String,
        /// Decides every random choice of load and faults
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Seconds instead of minutes, judged by counts and outcomes only
        #[arg(long)]
        short: bool,
    },
    /// Run all scenarios, in full, and print a table
    All {
        /// Decides every random choice of load and faults
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Run the short form of all scenarios but the longest and print a table
    Short {
        /// Decides every random choice of load and faults
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// List the scenarios
    List,
    /// The writer of AC13 that is frozen
    #[command(hide = true)]
    Zombie {
        /// The metadata server
        #[arg(long)]
        meta: String,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    Memory { allocated: || ALLOCATOR.allocated(), total: || ALLOCATOR.total_allocated() }.watch();
    if let Some(filter) = &args.log {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cairn-chaos: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(until_signal(&args));
    runtime.shutdown_background();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cairn-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything, or ends early (killing the cluster and removing its data) on SIGINT or SIGTERM.
async fn until_signal(args: &Args) -> Result<bool> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    tokio::select! {
        result = run(args) => result,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}

/// True when everything passed.
async fn run(args: &Args) -> Result<bool> {
    let (scenarios, seed, form) = match &args.command {
        Command::List => {
            all().iter().for_each(|scenario| println!("{:<16} {}", scenario.name, scenario.about));
            return Ok(true);
        }
        Command::Zombie { meta } => return cairn_chaos::zombie::serve(meta).await.map(|()| true),
        Command::Run { name, seed, short } => (named(name), *seed, if *short { Form::Short } else { Form::Full }),
        Command::All { seed } => (all(), *seed, Form::Full),
        Command::Short { seed } => {
            let (checked, left): (Vec<_>, Vec<_>) = all().into_iter().partition(|scenario| scenario.ci);
            left.iter().for_each(|scenario| eprintln!("{}: not one of every check", scenario.name));
            (checked, *seed, Form::Short)
        }
    };
    if scenarios.is_empty() {
        bail!("there is no such scenario; `cairn-chaos list` lists them");
    }
    let dir = args.data.clone().unwrap_or_else(std::env::temp_dir);
    let context = Context { seed, form, cairn: find_cairn(args.cairn.as_deref())?, dir };
    let reports = run_each(&scenarios, &context).await;
    if reports.len() > 1 {
        print!("\n{}", table(&reports));
    }
    Ok(reports.iter().all(|report| report.pass))
}

async fn run_each(scenarios: &[&Scenario], context: &Context) -> Vec<Report> {
    let mut reports = Vec::new();
    for scenario in scenarios {
        eprintln!("{}: {}", scenario.name, scenario.about);
        let report = scenario.judge(context.clone()).await;
        println!("{}", report.json);
        if let Some(why) = &report.skipped {
            eprintln!("{}: NOT RUN: {why}", scenario.name);
        }
        for why in &report.why {
            eprintln!("{}: {why}", scenario.name);
        }
        reports.push(report);
    }
    reports
}
