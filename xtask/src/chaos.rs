//! `cargo xtask chaos`: builds the cluster and the fault injector, and runs scenarios (docs/chaos.md).

use crate::process::cargo;
use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What to run.
#[derive(Subcommand)]
pub enum Chaos {
    /// Run a scenario (AC1), all of a family (AC2: AC2a and AC2b) or all that begin so (heal-*) in full, on a quiet machine
    Run {
        /// Its name
        name: String,
        /// Decides every random choice of load and faults
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Seconds instead of minutes, judged by counts and outcomes only
        #[arg(long)]
        short: bool,
        /// Further arguments for `cairn-chaos`, as `-- --data /mnt/disk`
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// Run all scenarios in full, on a quiet machine, and print a table
    All {
        /// Decides every random choice of load and faults
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Run the short form of all scenarios but the longest, in the profile of tests, and print a table
    Short {
        /// Decides every random choice of load and faults
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// List the scenarios
    List,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Profile {
    /// What tests are built in: nothing is compiled a second time.
    Test,
    Release,
}

/// Builds and runs. Standard output is that of the scenarios alone, so that it can be piped into `jq`.
///
/// # Errors
/// Building failed, or a criterion is not met.
pub fn run(root: &Path, chaos: &Chaos) -> Result<()> {
    let (profile, args) = match chaos {
        Chaos::Run { name, seed, short, more } => {
            let mut args = vec!["run".to_owned(), name.clone(), "--seed".to_owned(), seed.to_string()];
            args.extend(short.then(|| "--short".to_owned()));
            args.extend(more.iter().cloned());
            (Profile::Release, args)
        }
        Chaos::All { seed } => (Profile::Release, vec!["all".to_owned(), "--seed".to_owned(), seed.to_string()]),
        Chaos::Short { seed } => (Profile::Test, vec!["short".to_owned(), "--seed".to_owned(), seed.to_string()]),
        Chaos::List => (Profile::Test, vec!["list".to_owned()]),
    };
    let program = build(root, profile)?;
    let status = Command::new(&program).args(args).status();
    let status = status.with_context(|| format!("cannot start {}", program.display()))?;
    ensure!(status.success(), "not all criteria are met ({status})");
    Ok(())
}

/// The program `cairn-chaos`, with `cairn` beside it.
fn build(root: &Path, profile: Profile) -> Result<PathBuf> {
    let mut command = cargo();
    command.current_dir(root).args(["build", "--locked", "--package", "cairnfs", "--package", "cairn-chaos"]);
    if profile == Profile::Release {
        command.arg("--release");
    }
    let status = command.stdout(Stdio::null()).status().context("cannot start cargo")?;
    if !status.success() {
        bail!("building failed ({status})");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let dir = if profile == Profile::Release { "release" } else { "debug" };
    Ok(target.join(dir).join("cairn-chaos"))
}
