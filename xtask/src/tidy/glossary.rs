//! One word per thing: spellings that are not ours, each with ours.

use super::Finding;
use super::tree::{File, Tree};

/// Forbidden spelling and the word to use.
///
/// A spelling is a chain of words in lower case, found in prose and inside identifiers of any style. `+` between two
/// words stands for a space, a hyphen, an underscore or nothing (`ChunkServer`); `-` only for a hyphen, where the
/// words apart mean something else ("the calls that fail over"). A plural `s` at the end is found too.
const SPELLINGS: &[(&str, &str)] = &[
    // The namespace.
    ("i-node", "inode"),
    ("dirent", "dentry"),
    ("direntry", "dentry"),
    ("name+space", "namespace"),
    ("sub+directory", "subdirectory"),
    ("sub+dir", "subdirectory"),
    ("soft+link", "symlink"),
    ("softlink", "symlink"),
    ("sym-link", "symlink"),
    ("meta+data", "metadata"),
    ("snap+shot", "snapshot"),
    // Roles.
    ("chunkserver", "storage node"),
    ("chunk+server", "storage node"),
    ("datanode", "storage node"),
    ("data+node", "storage node"),
    ("storage+server", "storage node"),
    ("block+server", "storage node"),
    ("volume+server", "storage node"),
    ("namenode", "metadata server"),
    ("name+node", "metadata server"),
    ("metadata+node", "metadata server"),
    ("mds", "metadata server"),
    ("master+server", "metadata server"),
    // Placement and membership.
    ("placementgroup", "placement group"),
    ("replica+set", "placement group"),
    ("replica+group", "placement group"),
    ("replication+group", "placement group"),
    ("copy+set", "copyset"),
    ("fail+domain", "failure domain"),
    ("fault+domain", "failure domain"),
    // What an operation does.
    ("fail-over", "failover"),
    ("re-try", "retry"),
    ("back-off", "backoff"),
    ("time-out", "timeout"),
    ("hedged+request", "hedge"),
    ("backup+request", "hedge"),
    ("speculative+read", "hedge"),
    ("speculative+request", "hedge"),
    ("sub+request", "leg"),
    ("subrequest", "leg"),
    ("rereplicate", "repair"),
    ("re-replicate", "repair"),
    ("rereplication", "repair"),
    ("re-replication", "repair"),
    ("self+heal", "repair"),
    ("self+healing", "repair"),
    ("readahead", "read-ahead"),
    // Bytes on disk and on the wire.
    ("check+sum", "checksum"),
    ("check+point", "checkpoint"),
    ("tomb+stone", "tombstone"),
    ("time+stamp", "timestamp"),
    ("back+end", "engine, or the name of the part"),
];

const EXTENSIONS: &[&str] = &["rs", "md", "proto", "toml"];

/// All files of the product.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let patterns: Vec<Pattern> = SPELLINGS.iter().map(|(spelling, word)| Pattern::parse(spelling, word)).collect();
    let outside = |file: &&File| !file.path.starts_with("xtask/");
    let files =
        tree.files.iter().filter(outside).filter(|file| EXTENSIONS.iter().any(|known| file.has_extension(known)));
    let mut findings = Vec::new();
    for file in files {
        for line in file.lines().filter(|line| !line.waives("word")) {
            let words = words(line.text);
            for pattern in &patterns {
                if let Some(found) = pattern.find(line.text, &words) {
                    findings.push(Finding::new(&file.path, line.number, format!("`{found}`: say {}", pattern.right)));
                }
            }
        }
    }
    findings
}

/// A word inside a line: of prose, or a part of an identifier.
#[derive(Debug)]
struct Word {
    lower: String,
    start: usize,
    end: usize,
}

#[derive(Debug)]
struct Pattern {
    words: Vec<String>,
    /// What may stand between word i and word i + 1.
    joins: Vec<&'static [&'static str]>,
    right: &'static str,
}

impl Pattern {
    fn parse(spelling: &str, right: &'static str) -> Self {
        let joins = spelling.chars().filter_map(|letter| match letter {
            '+' => Some(&["", " ", "-", "_"][..]),
            '-' => Some(&["-"][..]),
            _ => None,
        });
        let words = spelling.split(['+', '-']).map(String::from);
        Self { joins: joins.collect(), words: words.collect(), right }
    }

    /// The first place in a line that is spelled like this.
    fn find<'a>(&self, text: &'a str, words: &[Word]) -> Option<&'a str> {
        words.windows(self.words.len()).find(|window| self.matches(text, window)).map(|window| {
            let last = window.last().expect("a pattern has words");
            &text[window[0].start..last.end]
        })
    }

    fn matches(&self, text: &str, window: &[Word]) -> bool {
        let last = window.len() - 1;
        let same = window.iter().zip(&self.words).enumerate().all(|(index, (word, expected))| {
            word.lower == *expected || (index == last && word.lower.strip_suffix('s') == Some(expected.as_str()))
        });
        same && self
            .joins
            .iter()
            .enumerate()
            .all(|(index, joins)| joins.contains(&&text[window[index].end..window[index + 1].start]))
    }
}

/// Cuts a line into words: at everything that is no letter or digit, and inside `camelCase` and `ABCWord`.
fn words(text: &str) -> Vec<Word> {
    let letters: Vec<(usize, char)> = text.char_indices().collect();
    let mut words = Vec::new();
    let mut start: Option<usize> = None;
    for (index, &(at, letter)) in letters.iter().enumerate() {
        let before = index.checked_sub(1).map(|index| letters[index].1);
        let after = letters.get(index + 1).map(|(_, letter)| *letter);
        let hump = letter.is_uppercase()
            && before.is_some_and(|before| {
                before.is_lowercase() || before.is_ascii_digit() || after.is_some_and(char::is_lowercase)
            });
        if (hump || !letter.is_alphanumeric())
            && let Some(start) = start.take()
        {
            words.push(Word { lower: text[start..at].to_lowercase(), start, end: at });
        }
        if letter.is_alphanumeric() && start.is_none() {
            start = Some(at);
        }
    }
    if let Some(start) = start {
        words.push(Word { lower: text[start..].to_lowercase(), start, end: text.len() });
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let tree = Tree { files: vec![File::new("crates/x/src/lib.rs", text)], ..Tree::default() };
        check(&tree).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn identifiers_are_cut_into_words() {
        let cut = |text| words(text).into_iter().map(|word| word.lower).collect::<Vec<_>>();
        assert_eq!(cut("HTTPServer readBlock2 i_node"), ["http", "server", "read", "block2", "i", "node"]);
        assert_eq!(cut("größe::Übel"), ["größe", "übel"]);
        assert!(cut(" -- ").is_empty());
    }

    #[test]
    fn forbidden_spellings_are_found_in_every_style() {
        for text in [
            "a chunk server",
            "ChunkServer::new()",
            "chunk_server",
            "chunk-servers",
            "the chunkservers",
            "CHUNK_SERVER",
        ] {
            assert_eq!(found(text).len(), 1, "{text}");
        }
        assert_eq!(found("the fail-over of the i-node"), ["`i-node`: say inode", "`fail-over`: say failover"]);
        assert_eq!(found("parse_dirent()"), ["`dirent`: say dentry"]);
    }

    #[test]
    fn right_words_and_neighbours_pass() {
        for text in [
            "inode dentry metadata namespace placement_group PlacementGroup failover",
            "calls fail over to the next replica",
            "for i in node",
            "let i = node;",
            "the node of the i th",
            "std::fs::DirEntry",
            "data, node",
            "subtle names paced",
        ] {
            assert!(found(text).is_empty(), "{text}: {:?}", found(text));
        }
    }

    #[test]
    fn a_waiver_with_a_reason_is_heard() {
        assert!(found("HDFS calls it datanode <!-- tidy: word-ok(their word) -->").is_empty());
        assert_eq!(found("HDFS calls it datanode <!-- tidy: word-ok() -->").len(), 1);
    }

    #[test]
    fn no_recommended_word_is_itself_forbidden() {
        for (_, right) in SPELLINGS {
            assert!(found(right).is_empty(), "{right}");
        }
    }
}
