//! What cargo knows about the workspace and its dependencies.

use crate::process::cargo;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The part of `cargo metadata` that is read here.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    /// Workspace members, and with [`Scope::Everything`] all dependencies.
    pub packages: Vec<Package>,
}

/// One package.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Package {
    /// Name in its manifest.
    pub name: String,
    /// Version in its manifest.
    pub version: String,
    /// SPDX expression, when the manifest gives one.
    pub license: Option<String>,
    /// Where it came from; none for a path, which is a member of the workspace.
    pub source: Option<String>,
    /// What its manifest asks for.
    pub dependencies: Vec<Dependency>,
    /// Its features, each with what it turns on.
    #[serde(default)]
    pub features: BTreeMap<String, Vec<String>>,
}

/// One dependency as a manifest states it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Dependency {
    /// Name of the package.
    pub name: String,
    /// None for a normal dependency, else `dev` or `build`.
    pub kind: Option<String>,
    /// Version requirement.
    pub req: String,
    /// The directory, for a dependency on a path.
    pub path: Option<String>,
}

/// How much to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Workspace members only; needs no registry.
    Members,
    /// All packages of the lock file, for every platform.
    Everything,
}

impl Metadata {
    /// Asks cargo.
    ///
    /// # Errors
    /// Cargo failed (a manifest is wrong, or the lock file is not current) or printed something unknown.
    pub fn load(root: &Path, scope: Scope) -> Result<Self> {
        let mut command = cargo();
        command.current_dir(root).args(["metadata", "--format-version", "1"]);
        match scope {
            Scope::Members => command.arg("--no-deps"),
            Scope::Everything => command.arg("--locked"),
        };
        let output = command.output().context("cannot start `cargo metadata`")?;
        if !output.status.success() {
            bail!("`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("reading the output of `cargo metadata`")
    }
}
