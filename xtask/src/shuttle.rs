//! `cargo xtask shuttle`: small concurrent parts under a scheduler that tries many interleavings.
//!
//! A crate takes part by a feature named `shuttle`, under which its atomics and locks are those of the scheduler, and by
//! unit tests with `shuttle` in their names. Its other tests do not run then: outside the scheduler those primitives
//! do not work.

use crate::process::{self, cargo};
use crate::workspace::{Metadata, Scope};
use anyhow::{Result, bail};
use std::path::Path;

/// Interleavings of each test by default: a minute or two.
pub const ITERATIONS: u32 = 20_000;
/// ... and as one of many checks: seconds.
pub const ITERATIONS_SHORT: u32 = 500;

/// Runs the tests of all crates that take part, each with `iterations` interleavings. Returns the crates' names.
///
/// # Errors
/// A test found an interleaving in which a promise is broken; the output says which one, and how to replay it.
pub fn run(root: &Path, iterations: u32) -> Result<Vec<String>> {
    let names = crates(&Metadata::load(root, Scope::Members)?);
    if names.is_empty() {
        bail!("no crate has a feature named `shuttle`");
    }
    let args = arguments(&names, process::works("cargo", &["nextest", "--version"]));
    process::run(cargo().current_dir(root).args(args).env("SHUTTLE_ITERATIONS", iterations.to_string()))?;
    Ok(names)
}

fn crates(metadata: &Metadata) -> Vec<String> {
    let parts = metadata.packages.iter().filter(|package| package.features.contains_key("shuttle"));
    parts.map(|package| package.name.clone()).collect()
}

fn arguments(names: &[String], nextest: bool) -> Vec<String> {
    let mut args: Vec<String> = match nextest {
        true => ["nextest", "run", "--lib", "--locked", "-E", "test(shuttle)"].map(String::from).to_vec(),
        false => ["test", "--lib", "--locked"].map(String::from).to_vec(),
    };
    for name in names {
        args.extend(["--package".to_string(), name.clone()]);
    }
    let features: Vec<String> = names.iter().map(|name| format!("{name}/shuttle")).collect();
    args.extend(["--features".to_string(), features.join(",")]);
    if !nextest {
        args.extend(["--".to_string(), "shuttle".to_string()]);
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Package;

    #[test]
    fn crates_with_the_feature_take_part() {
        let package = |name: &str, features: &[&str]| Package {
            name: name.to_string(),
            features: features.iter().map(|name| (name.to_string(), Vec::new())).collect(),
            ..Package::default()
        };
        let metadata = Metadata { packages: vec![package("a", &["shuttle"]), package("b", &["x"]), package("c", &[])] };
        assert_eq!(crates(&metadata), ["a"]);
    }

    #[test]
    fn both_runners_run_these_tests_only() {
        let names = ["a".to_string(), "b".to_string()];
        let nextest = arguments(&names, true).join(" ");
        assert_eq!(
            nextest,
            "nextest run --lib --locked -E test(shuttle) --package a --package b --features a/shuttle,b/shuttle"
        );
        let plain = arguments(&names, false).join(" ");
        assert_eq!(plain, "test --lib --locked --package a --package b --features a/shuttle,b/shuttle -- shuttle");
    }
}
