//! Absolute paths of somebody's machine.

use super::Finding;
use super::tree::Tree;

/// Directories in which people and programs keep checkouts. Paths of a system (`/usr`, `/etc`, `/proc`) are fine.
const PLACES: &[&str] = &["/work/", "/root/", "/home/", "/Users/", "/tmp/t-"];

/// All text files but this one.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| !file.path.starts_with("xtask/src/tidy/")) {
        for line in file.lines().filter(|line| !line.waives("path")) {
            for place in PLACES.iter().filter(|place| names(line.text, place)) {
                findings.push(Finding::new(&file.path, line.number, format!("names `{place}`")));
            }
        }
    }
    findings
}

/// Whether a path in the text starts with a place: nothing that continues a path stands before it.
fn names(text: &str, place: &str) -> bool {
    text.match_indices(place).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        !before.is_some_and(|letter| letter.is_alphanumeric() || ['.', '_', '-', '/', '}', '*'].contains(&letter))
    })
}

#[cfg(test)]
mod tests {
    use super::super::tree::File;
    use super::*;

    fn found(text: &str) -> usize {
        check(&Tree { files: vec![File::new("docs/x.md", text)], ..Tree::default() }).len()
    }

    #[test]
    fn machine_paths_are_found() {
        assert_eq!(found("cd /work/main"), 1);
        assert_eq!(found("\"/root/.cargo\" `/home/me/x`"), 2);
    }

    #[test]
    fn other_paths_pass() {
        assert_eq!(found("/usr/lib ../work/x a/root/b {dir}/home/x https://example.org/home/x"), 0);
        assert_eq!(found("ls /home/ann # tidy: path-ok(a path inside CairnFS)"), 0);
    }
}
