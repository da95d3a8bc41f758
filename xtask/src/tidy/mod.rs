//! `cargo xtask tidy`: rules of the project that no compiler holds.
//!
//! A rule is a function from the [`Tree`] to what it found wrong; [`RULES`] is the whole list. Rules that look at
//! single lines can be waived on a line that says why: `tidy: sleep-ok(the peer's timer is what is tested)`.

mod arrows;
mod code;
mod documents;
mod glossary;
mod manifests;
mod paths;
mod seams;
mod tree;

use anyhow::{Result, bail};
use std::path::Path;
use tree::Tree;

struct Rule {
    name: &'static str,
    /// What the rule asks for, printed beside its findings.
    demand: &'static str,
    check: fn(&Tree) -> Vec<Finding>,
}

const RULES: &[Rule] = &[
    Rule {
        name: "arrows",
        demand: "crates depend on each other only along the arrows of ARCHITECTURE.md",
        check: arrows::check,
    },
    Rule { name: "faces", demand: "faces use the client's public API and nothing below it", check: arrows::faces },
    Rule { name: "word", demand: "one word per thing, the same everywhere", check: glossary::check },
    Rule {
        name: "manifest",
        demand: "crates inherit lints and dependencies from the workspace, which gives a reason for each",
        check: manifests::check,
    },
    Rule { name: "seam", demand: "time, randomness, network and disk have one seam each", check: seams::check },
    Rule { name: "unwrap", demand: "no unwrap outside tests; expect says why it holds", check: code::unwraps },
    Rule { name: "unfinished", demand: "no unfinished code and no notes to ourselves", check: code::unfinished },
    Rule { name: "ignored", demand: "an ignored test says why", check: code::ignored },
    Rule { name: "sleep", demand: "tests wait for events, not for time", check: code::sleeps },
    Rule { name: "length", demand: "a file of code holds at most 800 lines", check: code::lengths },
    Rule { name: "path", demand: "no path of one machine in the tree", check: paths::check },
    Rule { name: "formats", demand: "every format has its page in docs/formats", check: documents::formats },
    Rule { name: "links", demand: "links inside the documentation lead somewhere", check: documents::links },
];

/// One violation of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// Relative to the root.
    path: String,
    /// From 1; 0 for the file as a whole.
    line: usize,
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_string(), line, message: message.into() }
    }
}

/// Checks the working tree and returns one line on what was done.
///
/// # Errors
/// The tree could not be read, or a rule is broken; all findings have been printed.
pub fn run(root: &Path) -> Result<String> {
    let tree = Tree::load(root)?;
    let mut count = 0;
    for rule in RULES {
        let mut found = (rule.check)(&tree);
        found.sort();
        if !found.is_empty() {
            println!("{}: {}", rule.name, rule.demand);
        }
        for Finding { path, line, message } in &found {
            match line {
                0 => println!("  {path}: {message}"),
                line => println!("  {path}:{line}: {message}"),
            }
        }
        count += found.len();
    }
    if count > 0 {
        bail!("{count} findings");
    }
    Ok(format!("{} rules, {} files", RULES.len(), tree.files.len()))
}
