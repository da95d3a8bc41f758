//! `cargo xtask setup`: what building and testing need, on a fresh Debian with Rust.

use crate::process::{self, cargo, works};
use anyhow::{Result, bail};
use std::process::Command;

// Fixed versions, so that the same tools check the same tree everywhere.
const NEXTEST_VERSION: &str = "0.9.143";
const DENY_VERSION: &str = "0.20.2";

/// Installs what is missing and leaves alone what is there.
///
/// # Errors
/// A C compiler, PostgreSQL, etcd, rustfmt or clippy is missing and could not be installed. A cargo tool that could not be installed is
/// only reported: `ci` has a way without each of them.
pub fn run(all: bool) -> Result<()> {
    c_compiler()?;
    engines()?;
    component("rustfmt", "fmt")?;
    component("clippy", "clippy")?;
    cargo_tool("cargo-nextest", "nextest", NEXTEST_VERSION, "tests run with `cargo test`");
    if all {
        cargo_tool("cargo-deny", "deny", DENY_VERSION, "`ci` checks the rules of deny.toml itself");
    }
    Ok(())
}

/// Dependencies compile a little C (the allocator), and the linker comes with the compiler.
fn c_compiler() -> Result<()> {
    if works("cc", &["--version"]) {
        println!("a C compiler is there");
        return Ok(());
    }
    if !works("apt-get", &["--version"]) {
        bail!("no C compiler (cc) and no apt-get: install gcc with the package manager of this system");
    }
    as_root(&["apt-get", "update", "--quiet"])?;
    as_root(&["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "gcc", "libc6-dev"])
}

/// PostgreSQL and etcd, which the tests of the engines start themselves: no service of either is made or left running.
fn engines() -> Result<()> {
    let postgres = std::path::Path::new("/usr/lib/postgresql").is_dir()
        && works("sh", &["-c", "ls /usr/lib/postgresql/*/bin/initdb"]);
    let missing: Vec<&str> = [("postgresql", postgres), ("etcd-server", works("etcd", &["--version"]))]
        .into_iter()
        .filter_map(|(package, there)| (!there).then_some(package))
        .collect();
    if missing.is_empty() {
        println!("PostgreSQL and etcd are there");
        return Ok(());
    }
    if !works("apt-get", &["--version"]) {
        bail!("no apt-get: install PostgreSQL and etcd 3.4 or newer with the package manager of this system");
    }
    // Debian's packages begin to serve as soon as they are installed, unless told so beforehand.
    let quiet = "mkdir -p /etc/postgresql-common && (grep -qs ^create_main_cluster /etc/postgresql-common/createcluster.conf || \
                 echo 'create_main_cluster = false' >> /etc/postgresql-common/createcluster.conf)";
    as_root(&["sh", "-c", quiet])?;
    as_root(&["apt-get", "update", "--quiet"])?;
    as_root(&[&["apt-get", "install", "--yes", "--quiet", "--no-install-recommends"], missing.as_slice()].concat())?;
    if missing.contains(&"etcd-server") {
        as_root(&["sh", "-c", "systemctl disable --now etcd >/dev/null 2>&1 || true"])?;
    }
    Ok(())
}

fn as_root(words: &[&str]) -> Result<()> {
    let is_root = works("sh", &["-c", "test \"$(id -u)\" = 0"]);
    let words = if is_root { words.to_vec() } else { [&["sudo"], words].concat() };
    process::run(Command::new(words[0]).args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive"))
}

fn component(name: &str, subcommand: &str) -> Result<()> {
    if works("cargo", &[subcommand, "--version"]) {
        println!("{name} is there");
        return Ok(());
    }
    process::run(Command::new("rustup").args(["component", "add", name]))
}

fn cargo_tool(name: &str, subcommand: &str, version: &str, otherwise: &str) {
    if works("cargo", &[subcommand, "--version"]) {
        println!("{name} is there");
        return;
    }
    println!("{name} is missing: compiling it takes some minutes");
    if let Err(error) = process::run(cargo().args(["install", "--locked", name, "--version", version])) {
        println!("warning: {error:#}; without {name}, {otherwise}");
    }
}
