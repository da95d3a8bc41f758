//! The files under version control, as the rules see them.

use crate::workspace::{Metadata, Package, Scope};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// Everything the rules look at. Built by hand in tests of rules.
#[derive(Debug, Default)]
pub struct Tree {
    /// Text files that are tracked, or new and not ignored.
    pub files: Vec<File>,
    /// The members of the workspace.
    pub packages: Vec<Package>,
}

/// One text file.
#[derive(Debug)]
pub struct File {
    /// Relative to the root, with `/`.
    pub path: String,
    text: String,
}

/// One line of a file.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// From 1.
    pub number: usize,
    /// Without its end.
    pub text: &'a str,
    /// Whether it belongs to a test: a test file, or an item under `#[cfg(test)]`.
    pub in_test: bool,
}

impl Tree {
    /// Reads the working tree.
    ///
    /// # Errors
    /// Git or cargo failed, or a file could not be read.
    pub fn load(root: &Path) -> Result<Self> {
        // A checkout that belongs to somebody else is as good as ours: it is only listed.
        let output = Command::new("git")
            .current_dir(root)
            .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .output()
            .context("cannot start git")?;
        if !output.status.success() {
            bail!("`git ls-files` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let names = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
        let mut files = Vec::new();
        for path in names.split_terminator('\0') {
            match std::fs::read(root.join(path)) {
                // Fixtures in bytes are no text, and no rule reads them.
                Ok(bytes) => files.extend(String::from_utf8(bytes).ok().map(|text| File::new(path, text))),
                // Deleted, and the deletion is not committed yet.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("reading {path}")),
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { files, packages: Metadata::load(root, Scope::Members)?.packages })
    }

    /// The file with this path.
    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Files of Rust code, without generated ones.
    pub fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.has_extension("rs") && !file.path.ends_with("/pb.rs"))
    }
}

impl File {
    /// A file with this content.
    pub fn new(path: &str, text: impl Into<String>) -> Self {
        Self { path: path.to_string(), text: text.into() }
    }

    /// The whole content.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the name ends in a dot and this.
    pub fn has_extension(&self, extension: &str) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, found)| found == extension)
    }

    /// The directory name below `crates/`, for files of a crate of the product.
    pub fn product_crate(&self) -> Option<&str> {
        self.path.strip_prefix("crates/")?.split_once('/').map(|(name, _)| name)
    }

    /// Whether the whole file is test code, by its name.
    pub fn is_test(&self) -> bool {
        let mut parts = self.path.split('/').rev();
        let name = parts.next().unwrap_or_default();
        matches!(name, "tests.rs" | "testing.rs") || parts.any(|part| matches!(part, "tests" | "benches" | "testing"))
    }

    /// The lines, each with whether it is test code.
    ///
    /// The extent of an item under `#[cfg(test)]` is read off its indentation, which rustfmt makes reliable: it ends
    /// with the first line that is indented like the attribute and ends in `;`, or starts with `}`.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let whole = self.is_test();
        let mut item: Option<usize> = None;
        self.text.lines().enumerate().map(move |(index, text)| {
            let indent = text.len() - text.trim_start().len();
            let starts = text.trim_start().starts_with("#[cfg(test)]");
            if item.is_none() && starts {
                item = Some(indent);
            }
            let in_test = whole || item.is_some();
            let ends = !starts && (text.ends_with(';') || text.trim_start().starts_with('}'));
            if ends && item == Some(indent) {
                item = None;
            }
            Line { number: index + 1, text, in_test }
        })
    }
}

impl Line<'_> {
    /// Whether the line says why the named rule does not hold here: `tidy: name-ok(reason)`.
    pub fn waives(&self, rule: &str) -> bool {
        let mark = format!("tidy: {rule}-ok(");
        self.text.split_once(&mark).is_some_and(|(_, rest)| !rest.starts_with(')') && rest.contains(')'))
    }

    /// Whether nothing but a comment stands here.
    pub fn is_comment(&self) -> bool {
        self.text.trim_start().starts_with("//")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_lines(text: &str) -> Vec<usize> {
        File::new("src/x.rs", text).lines().filter(|line| line.in_test).map(|line| line.number).collect()
    }

    #[test]
    fn items_under_cfg_test_are_test_code_and_nothing_after_them() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\nfn c() {}\n";
        assert_eq!(test_lines(text), [2, 3, 4, 5, 6]);
        assert_eq!(test_lines("#[cfg(test)]\nmod tests;\nfn a() {}\n"), [1, 2]);
        assert_eq!(
            test_lines("impl A {\n    #[cfg(test)]\n    fn b() {\n        c();\n    }\n    fn d() {}\n}"),
            [2, 3, 4, 5]
        );
        assert_eq!(test_lines("#[cfg(test)]\n#[path = \"x\"]\nuse a;\nfn b() {}\n"), [1, 2, 3]);
    }

    #[test]
    fn test_files_are_known_by_name() {
        for path in ["crates/a/tests/it/main.rs", "crates/a/src/x/tests.rs", "crates/a/src/testing.rs"] {
            assert!(File::new(path, "").is_test(), "{path}");
        }
        assert!(!File::new("crates/a/src/latest.rs", "").is_test());
        assert_eq!(File::new("crates/a/src/lib.rs", "").product_crate(), Some("a"));
        assert_eq!(File::new("bench/src/main.rs", "").product_crate(), None);
    }

    #[test]
    fn a_waiver_needs_its_rule_and_a_reason() {
        let line = |text| Line { number: 1, text, in_test: false };
        assert!(line("x(); // tidy: sleep-ok(the timer is under test)").waives("sleep"));
        assert!(!line("x(); // tidy: sleep-ok()").waives("sleep"));
        assert!(!line("x(); // tidy: word-ok(y)").waives("sleep"));
        assert!(!line("x();").waives("sleep"));
    }
}
