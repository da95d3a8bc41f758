//! Where the bans of clippy.toml may be lifted.
//!
//! Time, randomness, network and disk enter a crate through one file each, which says so in the reason of its `allow`.
//! Tests are free, and so is the binary, whose commands work on the user's own files and terminal. Naming a banned type
//! only hands a value on; what acts is a method, so the seams are where methods are allowed.

use super::Finding;
use super::tree::{File, Tree};
use std::collections::BTreeMap;

const SEAMS: &[&str] = &["clock seam", "randomness seam", "network seam", "disk seam"];

/// Crates of the product that may lift the bans anywhere.
const FREE: &[&str] = &["cairnfs"];

/// Every lifted ban in product code names a seam, and every seam of a crate is one file.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut homes: BTreeMap<(&str, &str), &File> = BTreeMap::new();
    for file in tree.rust() {
        let Some(crate_name) = file.product_crate().filter(|name| !FREE.contains(name)) else { continue };
        for (line, attribute) in lifted(file) {
            let named: Vec<&&str> = SEAMS.iter().filter(|seam| attribute.contains(**seam)).collect();
            if named.is_empty() {
                let message =
                    format!("lifts a ban without being a seam; the reason names one of: {}", SEAMS.join(", "));
                findings.push(Finding::new(&file.path, line, message));
            }
            for seam in named {
                let home = homes.entry((crate_name, seam)).or_insert(file);
                if home.path != file.path {
                    let message = format!("is a second {seam} of `{crate_name}`, beside {}", home.path);
                    findings.push(Finding::new(&file.path, line, message));
                }
            }
        }
    }
    findings
}

/// Attributes outside tests that allow or expect methods that clippy.toml disallows: line, and text up to its end.
fn lifted(file: &File) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for line in file.lines().filter(|line| !line.in_test && !line.is_comment()) {
        let text = line.text.trim();
        if open.is_none() && (text.starts_with("#[") || text.starts_with("#![")) {
            open = Some((line.number, String::new()));
        }
        let Some((_, attribute)) = &mut open else { continue };
        attribute.push_str(text);
        if text.ends_with(']') {
            found.extend(open.take());
        }
    }
    found.retain(|(_, attribute)| attribute.contains("clippy::disallowed_methods"));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: &str =
        "#![allow(\n    clippy::disallowed_methods,\n    reason = \"this is the disk seam\"\n)]\nfn a() {}\n";

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files = files.iter().map(|(path, text)| File::new(path, *text)).collect();
        check(&Tree { files, ..Tree::default() }).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn one_file_per_seam_and_crate() {
        assert!(found(&[("crates/a/src/disk.rs", DISK), ("crates/b/src/disk.rs", DISK)]).is_empty());
        let twice = found(&[("crates/a/src/disk.rs", DISK), ("crates/a/src/other.rs", DISK)]);
        assert_eq!(twice, ["is a second disk seam of `a`, beside crates/a/src/disk.rs"]);
    }

    #[test]
    fn a_lifted_ban_names_its_seam() {
        let text = "#[allow(clippy::disallowed_methods, reason = \"convenient\")]\nfn a() {}\n";
        assert_eq!(found(&[("crates/a/src/lib.rs", text)]).len(), 1);
        assert!(found(&[("crates/a/tests/it/main.rs", text)]).is_empty());
        assert!(found(&[("crates/cairnfs/src/put.rs", text)]).is_empty());
        assert!(found(&[("bench/src/main.rs", text)]).is_empty());
        let handle = "#[allow(clippy::disallowed_types, reason = \"only a handle\")]\nstruct A;\n";
        assert!(found(&[("crates/a/src/lib.rs", handle)]).is_empty());
        let in_tests = format!("#[cfg(test)]\n{text}");
        assert!(found(&[("crates/a/src/lib.rs", &in_tests)]).is_empty());
    }
}
