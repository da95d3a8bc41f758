//! `cargo xtask quickstart`: builds CairnFS, brings a cluster up on embedded defaults, stores and reads something real.

use crate::process::{self, cargo};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The cluster's process; stopped cleanly when this ends.
struct Cluster(Child);

impl Drop for Cluster {
    fn drop(&mut self) {
        // SIGTERM lets it flush; a process that is gone already needs nothing.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

impl Cluster {
    fn start(cairn: &Path, data: &Path, base_port: u16) -> Result<Self> {
        let mut child = Command::new(cairn)
            .args(["up", "--base-port", &base_port.to_string(), "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", cairn.display()))?;
        let output = child.stdout.take().context("standard output is piped")?;
        let cluster = Self(child);
        for line in BufReader::new(output).lines() {
            let line = line?;
            println!("{line}");
            if line == "ready" {
                return Ok(cluster);
            }
        }
        bail!("the cluster did not become ready; its error is above")
    }
}

/// Runs the whole tour. With `stop` the cluster ends with it, otherwise it runs until it is interrupted.
///
/// # Errors
/// The first step that fails.
pub fn run(root: &Path, base_port: u16, stop: bool) -> Result<()> {
    process::run(cargo().current_dir(root).args(["build", "--release", "--locked", "--package", "cairnfs"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let cairn = target.join("release/cairn");
    let scratch = target.join("quickstart");
    let copy = scratch.join("copy");
    if copy.exists() {
        fs::remove_dir_all(&copy).with_context(|| format!("removing {}", copy.display()))?;
    }
    fs::create_dir_all(&scratch)?;
    let mut cluster = Cluster::start(&cairn, &scratch.join("data"), base_port)?;
    let meta = format!("127.0.0.1:{base_port}");
    let step = |args: &[&str]| process::run(Command::new(&cairn).args(args).current_dir(root).env("CAIRN_META", &meta));
    step(&["mkdir", "-p", "/quickstart"])?;
    step(&["put", "-r", "crates", "/quickstart"])?;
    step(&["ls", "-l", "/quickstart/crates"])?;
    step(&["get", "-r", "/quickstart/crates", &copy.to_string_lossy()])?;
    process::run(Command::new("diff").args(["-r", "crates"]).arg(&copy).current_dir(root))?;
    println!("\nwhat came back is what was stored");
    step(&["status"])?;
    if stop {
        return Ok(());
    }
    println!("\nThe cluster runs until Ctrl-C. In another terminal:");
    println!("    export PATH=\"{}:$PATH\" CAIRN_META={meta}", target.join("release").display());
    println!("    cairn tree -L 2 /");
    cluster.0.wait()?;
    Ok(())
}
