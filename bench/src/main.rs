//! `cairn-bench`: what a cluster does beside what the machine under it can do, measured in one run.
//!
//! Every round takes each limit of the machine right beside the figure of the cluster that is held against it, so that
//! a neighbour's load falls on both. What each figure means is in docs/benchmarks.md. Outside the product: works on
//! clocks, disks and sockets directly, and on the cluster only through `cairn-client` and the program `cairn`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark measures the machine itself and talks to a terminal"
)]

mod args;
mod claims;
mod cluster;
mod copysets;
mod cpu;
mod engine;
mod files;
mod limits;
mod machine;
mod metadata;
mod mount;
mod payload;
mod repair;
mod report;
mod run;
mod sample;
mod workload;

use anyhow::{Context, Result};
use args::{Args, Command};
use clap::Parser;
use serde::Serialize;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

// As `cairn` does: the client is measured as its users run it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Command::Peer(peer)) = &args.command {
        return exit(limits::peer::run(peer).map(|()| true));
    }
    if let Some(Command::OpenStore { dir }) = &args.command {
        return exit(engine::open_and_report(dir).and_then(|opened| write(&args, &opened)).map(|()| true));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit(Err(error.into())),
    };
    let result = runtime.block_on(until_signal(&args));
    // A limit that was interrupted still has its thread; its files and children end with this process.
    runtime.shutdown_background();
    exit(result)
}

fn exit(result: Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cairn-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything, or ends early (stopping the cluster and removing its data) on SIGINT or SIGTERM.
async fn until_signal(args: &Args) -> Result<bool> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    tokio::select! {
        result = measure(args) => result,
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("terminated"),
    }
}

/// True when every step ran.
async fn measure(args: &Args) -> Result<bool> {
    if let Some(Command::Claims) = args.command {
        let report = claims::run(args).await?;
        write(args, &report)?;
        return Ok(report.as_claimed);
    }
    if let Some(Command::Repair) = args.command {
        write(args, &repair::run(args).await?)?;
        return Ok(true);
    }
    if let Some(Command::Copysets(wanted)) = &args.command {
        write(args, &copysets::run(wanted)?)?;
        return Ok(true);
    }
    if let Some(Command::Metadata(wanted)) = &args.command {
        write(args, &metadata::run(args, wanted).await?)?;
        return Ok(true);
    }
    if let Some(Command::Files(wanted)) = &args.command {
        write(args, &files::run(args, wanted).await?)?;
        return Ok(true);
    }
    if let Some(Command::Mount(wanted)) = &args.command {
        let report = tokio::task::block_in_place(|| mount::measure(args, wanted))?;
        write(args, &report)?;
        return Ok(report.failures.is_empty());
    }
    if let Some(Command::Engine(engine)) = &args.command {
        let plan = engine::Plan::of(args, engine);
        // On a thread of its own, so that a signal ends it.
        write(args, &tokio::task::spawn_blocking(move || engine::run(&plan)).await.context("measuring the engine")??)?;
        return Ok(true);
    }
    let report = run::all(args).await?;
    write(args, &report)?;
    Ok(report.failures.is_empty())
}

fn write(args: &Args, report: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(report).context("writing the report as JSON")?;
    match &args.json {
        Some(path) => std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display())),
        None => {
            println!("{text}");
            Ok(())
        }
    }
}
