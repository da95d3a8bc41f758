//! `cargo xtask deny`: licenses, sources and banned crates of all dependencies.
//!
//! cargo-deny does this where it is installed. Elsewhere the rules of deny.toml that this file knows are checked here,
//! on the output of `cargo metadata`; keys it does not know are an error, so that no rule is dropped in silence.

use crate::process::{self, cargo, works};
use crate::spdx;
use crate::workspace::{Metadata, Package, Scope};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Checks, and returns one line on what was done.
///
/// # Errors
/// A rule is broken; everything found has been printed.
pub fn run(root: &Path) -> Result<String> {
    if works("cargo", &["deny", "--version"]) {
        let args = ["deny", "--locked", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
        process::run(cargo().current_dir(root).args(args))?;
        return Ok("by cargo-deny".to_string());
    }
    println!("cargo-deny is missing (`cargo xtask setup --all` installs it): checking deny.toml here");
    let text = std::fs::read_to_string(root.join("deny.toml")).context("reading deny.toml")?;
    let policy: Policy = toml::from_str(&text).context("reading deny.toml")?;
    policy.known()?;
    let metadata = Metadata::load(root, Scope::Everything)?;
    let verdict = policy.judge(&metadata.packages)?;
    for warning in &verdict.warnings {
        println!("warning: {warning}");
    }
    for error in &verdict.errors {
        println!("error: {error}");
    }
    if !verdict.errors.is_empty() {
        bail!("{} of the dependencies break deny.toml", verdict.errors.len());
    }
    Ok(format!("{} packages, by xtask without cargo-deny", metadata.packages.len()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Policy {
    /// How cargo-deny walks the tree; here it is always the whole lock file.
    #[serde(rename = "graph")]
    _graph: Option<toml::Table>,
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Licenses {
    allow: Vec<String>,
    /// Only for license texts, which are not read here.
    #[serde(rename = "confidence-threshold")]
    _confidence_threshold: f64,
    #[serde(rename = "unused-allowed-license")]
    _unused_allowed_license: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Bans {
    multiple_versions: String,
    wildcards: String,
    allow_wildcard_paths: bool,
    deny: Vec<Ban>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Sources {
    unknown_registry: String,
    unknown_git: String,
    allow_registry: Vec<String>,
    allow_git: Vec<String>,
}

#[derive(Debug, Default)]
struct Verdict {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Policy {
    /// Whether the levels in deny.toml are those that [`Policy::judge`] applies.
    fn known(&self) -> Result<()> {
        let levels = [
            ("bans.multiple-versions", &self.bans.multiple_versions, "warn"),
            ("bans.wildcards", &self.bans.wildcards, "deny"),
            ("sources.unknown-registry", &self.sources.unknown_registry, "deny"),
            ("sources.unknown-git", &self.sources.unknown_git, "deny"),
        ];
        for (key, found, expected) in levels {
            if found != expected {
                bail!("{key} in deny.toml is `{found}`; the check without cargo-deny knows only `{expected}`");
            }
        }
        if !self.bans.allow_wildcard_paths {
            bail!("bans.allow-wildcard-paths in deny.toml is off; the check without cargo-deny knows only `true`");
        }
        Ok(())
    }

    fn judge(&self, packages: &[Package]) -> Result<Verdict> {
        let mut verdict = Verdict::default();
        let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for package in packages {
            let title = format!("{} {}", package.name, package.version);
            verdict.errors.extend(self.license(package)?.map(|problem| format!("{title}: {problem}")));
            verdict.errors.extend(self.source(package).map(|problem| format!("{title}: {problem}")));
            if let Some(ban) = self.bans.deny.iter().find(|ban| ban.name == package.name) {
                verdict.errors.push(format!("{title} is banned: {}", ban.reason));
            }
            if package.source.is_none() {
                let wild = package.dependencies.iter().filter(|dependency| dependency.req == "*");
                let wild = wild.filter(|dependency| dependency.path.is_none());
                verdict.errors.extend(wild.map(|found| format!("{title}: any version of {} will do", found.name)));
            }
            versions.entry(&package.name).or_default().push(&package.version);
        }
        let twice = versions.iter().filter(|(_, versions)| versions.len() > 1);
        verdict.warnings.extend(twice.map(|(name, versions)| format!("{name} in versions {}", versions.join(", "))));
        Ok(verdict)
    }

    fn license(&self, package: &Package) -> Result<Option<String>> {
        let Some(expression) = &package.license else {
            return Ok(Some("its manifest names no license".to_string()));
        };
        let allowed = spdx::allowed(expression, &|name| self.licenses.allow.iter().any(|allowed| allowed == name))
            .with_context(|| format!("license of {}", package.name))?;
        Ok((!allowed).then(|| format!("license `{expression}` is not among those allowed")))
    }

    fn source(&self, package: &Package) -> Option<String> {
        let source = package.source.as_deref()?;
        let known = match source.split_once('+') {
            Some(("registry" | "sparse", url)) => self.sources.allow_registry.iter().any(|allowed| allowed == url),
            Some(("git", url)) => {
                let repository = url.split(['?', '#']).next().unwrap_or(url);
                self.sources.allow_git.iter().any(|allowed| allowed == repository)
            }
            _ => false,
        };
        (!known).then(|| format!("source `{source}` is not among those allowed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

    fn policy() -> Policy {
        toml::from_str(include_str!("../../deny.toml")).unwrap()
    }

    fn package(name: &str) -> Package {
        Package {
            name: name.to_string(),
            version: "1.0.0".to_string(),
            license: Some("MIT".to_string()),
            source: Some(CRATES_IO.to_string()),
            ..Package::default()
        }
    }

    fn errors(package: Package) -> Vec<String> {
        policy().judge(&[package]).unwrap().errors
    }

    #[test]
    fn the_policy_of_the_project_is_fully_understood() {
        policy().known().unwrap();
        let mut lenient = policy();
        lenient.sources.unknown_git = "allow".to_string();
        assert!(lenient.known().is_err());
        let added = format!("{}\n[licenses.private]\nignore = true\n", include_str!("../../deny.toml"));
        assert!(toml::from_str::<Policy>(&added).is_err());
    }

    #[test]
    fn licenses_are_checked() {
        assert!(errors(package("good")).is_empty());
        assert_eq!(errors(Package { license: Some("GPL-3.0-only".into()), ..package("bad") }).len(), 1);
        assert_eq!(errors(Package { license: None, ..package("bad") }).len(), 1);
        assert!(policy().judge(&[Package { license: Some("MIT OR".into()), ..package("bad") }]).is_err());
    }

    #[test]
    fn sources_are_checked() {
        let from = |source: &str| errors(Package { source: Some(source.to_string()), ..package("x") }).len();
        assert_eq!(from(CRATES_IO), 0);
        assert_eq!(from("registry+https://example.org/index"), 1);
        assert_eq!(from("git+https://example.org/x?rev=1#abc"), 1);
        assert_eq!(from("nonsense"), 1);
    }

    #[test]
    fn bans_and_wildcards_are_checked() {
        assert_eq!(errors(package("openssl")).len(), 1);
        let any = Dependency { name: "x".into(), req: "*".into(), ..Dependency::default() };
        let member = |dependency| Package { source: None, dependencies: vec![dependency], ..package("member") };
        assert_eq!(errors(member(any.clone())).len(), 1);
        assert!(errors(member(Dependency { path: Some("crates/x".into()), ..any })).is_empty());
    }

    #[test]
    fn two_versions_are_a_warning() {
        let newer = Package { version: "2.0.0".into(), ..package("x") };
        let verdict = policy().judge(&[package("x"), newer]).unwrap();
        assert!(verdict.errors.is_empty());
        assert_eq!(verdict.warnings, ["x in versions 1.0.0, 2.0.0"]);
    }
}
