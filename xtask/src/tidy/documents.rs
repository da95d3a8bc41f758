//! Pages that must be there, and links between them.

use super::Finding;
use super::tree::{File, Tree};

const FORMATS: &[&str] = &["wire.md", "disk.md", "keys.md"];

/// The page of each format is there and has content.
pub fn formats(tree: &Tree) -> Vec<Finding> {
    let missing = |path: &String| tree.file(path).is_none_or(|file| file.text().trim().is_empty());
    let pages = FORMATS.iter().map(|name| format!("docs/formats/{name}"));
    pages.filter(missing).map(|path| Finding::new(&path, 0, "is missing or empty")).collect()
}

/// Relative links in Markdown name a file or a directory of the tree.
pub fn links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.has_extension("md")) {
        let mut in_code = false;
        for line in file.lines() {
            in_code ^= line.text.trim_start().starts_with("```");
            for target in targets(line.text).filter(|_| !in_code) {
                if !leads_somewhere(tree, file, target) {
                    findings.push(Finding::new(&file.path, line.number, format!("`{target}` leads nowhere")));
                }
            }
        }
    }
    findings
}

/// What stands in `](...)`, without fragments and without addresses on the network.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).filter_map(|(target, _)| {
        let path = target.split('#').next().unwrap_or_default();
        (!path.is_empty() && !path.contains(':')).then_some(path)
    })
}

fn leads_somewhere(tree: &Tree, from: &File, target: &str) -> bool {
    let mut parts: Vec<&str> = from.path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => return false,
            ".." => {}
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    let inside = format!("{path}/");
    path.is_empty() || tree.files.iter().any(|file| file.path == path || file.path.starts_with(&inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        Tree { files: files.iter().map(|(path, text)| File::new(path, *text)).collect(), ..Tree::default() }
    }

    #[test]
    fn every_format_page_is_wanted() {
        let full = [("docs/formats/wire.md", "x"), ("docs/formats/disk.md", "x"), ("docs/formats/keys.md", "x")];
        assert!(formats(&tree(&full)).is_empty());
        assert_eq!(formats(&tree(&full[1..])).len(), 1);
        assert_eq!(formats(&tree(&[full[0], full[1], ("docs/formats/keys.md", "\n")])).len(), 1);
    }

    #[test]
    fn links_are_followed_from_where_they_stand() {
        let found =
            |text: &str| links(&tree(&[("docs/README.md", text), ("docs/a/b.md", ""), ("LICENSE-MIT", "")])).len();
        assert_eq!(found("[a](a/b.md) [b](./a/b.md#x) [c](../LICENSE-MIT) [d](a/) [e](#here) [f](https://x.org)"), 0);
        assert_eq!(found("[a](b.md)"), 1);
        assert_eq!(found("[a](../../x.md) [b](a/c.md)"), 2);
        assert_eq!(found("```\nx[0](y)\n```\n[a](gone.md)"), 1);
    }
}
