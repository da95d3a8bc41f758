//! `cargo xtask`: automation of the workspace, in Rust.

mod codegen;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Automation of the CairnFS workspace")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate the protobuf messages.
    Codegen {
        /// Only check that the generated file is current.
        #[arg(long)]
        check: bool,
    },
}

fn root() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?.to_path_buf())
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Codegen { check } => codegen::run(&root()?, check),
    }
}
