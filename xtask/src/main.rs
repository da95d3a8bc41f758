//! `cargo xtask`: automation of the workspace, in Rust, so that it runs wherever the project builds.
//!
//! This crate is outside the product: it may read files and clocks and start programs, and no crate depends on it.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "automation works on the checkout itself and talks to a terminal"
)]

mod chaos;
mod ci;
mod codegen;
mod deny;
mod mount_tests;
mod process;
mod quickstart;
mod setup;
mod shuttle;
mod spdx;
mod tidy;
mod workspace;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Automation of the CairnFS workspace")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build CairnFS, bring a cluster up on this machine, store and read something real.
    Quickstart {
        /// Port of metadata; the nodes get the three behind it.
        #[arg(long, default_value_t = 9000)]
        base_port: u16,
        /// Stop the cluster at the end.
        #[arg(long)]
        stop: bool,
    },
    /// Run every check: generated code, format, tidy, dependencies, clippy, docs, tests.
    Ci {
        /// Run the remaining steps after one has failed.
        #[arg(long)]
        keep_going: bool,
    },
    /// Inject faults into a cluster of real processes under load, and judge what users see
    Chaos {
        #[command(subcommand)]
        chaos: chaos::Chaos,
    },
    /// Check the rules that no compiler holds: crate arrows, one word per thing, manifests, unfinished code.
    Tidy,
    /// Check licenses, sources and banned crates of all dependencies against deny.toml.
    Deny,
    /// Install what building and testing need: a C compiler, rustfmt, clippy, cargo-nextest.
    Setup {
        /// Also install cargo-deny (compiles for several minutes; without it `ci` checks the same rules itself).
        #[arg(long)]
        all: bool,
    },
    /// Run the small concurrent parts under a scheduler that tries many interleavings.
    Shuttle {
        /// Interleavings of each test.
        #[arg(long, default_value_t = shuttle::ITERATIONS)]
        iterations: u32,
    },
    /// Random operations on mounted files, held against a model (fsx), on one mount and on two in turns. Needs root and
    /// /dev/fuse.
    MountTests {
        /// Operations of each run.
        #[arg(long, default_value_t = mount_tests::OPS)]
        ops: u32,
        /// Decides which operations.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Use the debug build.
        #[arg(long)]
        debug: bool,
    },
    /// Generate the protobuf messages.
    Codegen {
        /// Only check that the generated file is current.
        #[arg(long)]
        check: bool,
    },
}

/// The directory of the workspace: above the manifest with which cargo started this program. The directory it was
/// compiled in is only the second choice, because checkouts that share a target directory share the program.
fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).parent().expect("xtask lies one level below the root of the workspace").to_path_buf()
}

fn run(command: Command) -> Result<()> {
    let root = root();
    match command {
        Command::Quickstart { base_port, stop } => quickstart::run(&root, base_port, stop),
        Command::Ci { keep_going } => ci::run(&root, keep_going),
        Command::Chaos { chaos } => chaos::run(&root, &chaos),
        Command::Tidy => tidy::run(&root).map(|summary| println!("{summary}")),
        Command::Deny => deny::run(&root).map(|summary| println!("{summary}")),
        Command::Setup { all } => setup::run(all),
        Command::Shuttle { iterations } => shuttle::run(&root, iterations).map(drop),
        Command::MountTests { ops, seed, debug } => {
            mount_tests::run(&root, ops, seed, !debug).map(|summary| println!("{summary}"))
        }
        Command::Codegen { check } => codegen::run(&root, check),
    }
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
