//! What is told: findings with their words, counts, and how both are printed.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Serialize;

use super::spans::Spans;
use crate::{
    failure::Failure,
    output::{JsonPath, Out},
    text,
};

/// Findings that are kept; what is beyond is counted.
const FINDINGS_MAX: usize = 10_000;
/// Files of one finding that are named.
const FILES_NAMED_MAX: usize = 20;
/// Findings that the text shows; JSON has all that are kept.
const SHOWN_MAX: usize = 100;
/// Files of a finding that the text shows.
const FILES_SHOWN_MAX: usize = 5;

/// What kind of defect it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// No store has the blocks any more.
    Lost,
    /// No store that answered has the blocks.
    Unseen,
    /// A member lacks blocks without metadata knowing it.
    CopyMissing,
    /// A member is known to lack blocks, which have fewer copies than meant.
    Degraded,
    /// A member still copies blocks, which have fewer copies than meant.
    Joining,
    /// Metadata's own rows contradict each other.
    Row,
    /// A file's row names a group that does not exist.
    UnknownGroup,
    /// A file's row has blocks that do not fit its bytes.
    RunLength,
    /// A group has fewer members than copies are meant.
    GroupShort,
    /// A group names a store that does not exist.
    UnknownStore,
    /// A degraded row is about a store that is no member.
    DegradedStranger,
    /// A store could not be asked what it holds.
    StoreAway,
    /// A store holds blocks that were found bad.
    Quarantined,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::Lost => "lost data",
            Self::Unseen => "no copy seen",
            Self::CopyMissing => "copy missing",
            Self::Degraded => "too few copies",
            Self::Joining => "copying",
            Self::Row => "metadata row",
            Self::UnknownGroup => "unknown group",
            Self::RunLength => "blocks do not fit",
            Self::GroupShort => "too few members",
            Self::UnknownStore => "unknown store",
            Self::DegradedStranger => "stray row",
            Self::StoreAway => "not checked",
            Self::Quarantined => "bad blocks",
        }
    }
}

/// A defect.
#[derive(Debug, Clone)]
pub struct Finding {
    pub kind: Kind,
    pub group: Option<u32>,
    pub store: Option<u32>,
    /// Blocks it is about; 0 = none in particular.
    pub blocks: u64,
    /// Some of the files, by number.
    pub inodes: Vec<u64>,
    /// How many files there are, if that is known.
    pub files: u64,
    pub what: String,
    pub why: String,
    pub remedy: String,
    pub repaired: bool,
}

impl Finding {
    pub fn new(kind: Kind, what: String, why: String, remedy: String) -> Self {
        Self {
            kind,
            group: None,
            store: None,
            blocks: 0,
            inodes: Vec::new(),
            files: 0,
            what,
            why,
            remedy,
            repaired: false,
        }
    }

    /// It is about these blocks of this group.
    pub fn about(mut self, group: u32, blocks: &Spans) -> Self {
        let mut inodes: Vec<u64> = blocks.iter().map(|span| span.inode).collect();
        inodes.dedup();
        self.group = Some(group);
        self.blocks = blocks.blocks();
        self.files = inodes.len() as u64;
        inodes.truncate(FILES_NAMED_MAX);
        self.inodes = inodes;
        self
    }

    pub fn on(mut self, store: u32) -> Self {
        self.store = Some(store);
        self
    }

    pub fn repaired(mut self, repaired: bool) -> Self {
        self.repaired = repaired;
        self
    }
}

/// How much was looked at.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Counts {
    /// Rows of metadata.
    pub rows: u64,
    /// Files that have blocks.
    pub files: u64,
    pub runs: u64,
    pub blocks: u64,
    /// Copies of these that were found.
    pub replicas: u64,
    pub groups: u64,
    pub stores: u64,
    /// Blocks that metadata knows a member to lack.
    pub degraded_blocks: u64,
    /// Copies that no file refers to: of deleted files and writes that were given up. They are collected by themselves.
    pub unreferenced_replicas: u64,
    /// Blocks of deleted files that are not collected yet.
    pub garbage_blocks: u64,
    /// Blocks of deleted files that snapshots and backups keep.
    pub held_blocks: u64,
    /// Blocks that looked wrong and of which metadata could not say whether a file refers to them.
    pub undecided_blocks: u64,
}

/// What became of the check.
#[derive(Debug, Default)]
pub struct Report {
    pub counts: Counts,
    findings: Vec<Finding>,
    /// Findings that were not kept.
    dropped: u64,
    dropped_open: u64,
    pub took: Duration,
    /// Names of files, by number.
    pub names: BTreeMap<u64, PathBuf>,
}

#[derive(Serialize)]
struct ReportJson<'a> {
    healthy: bool,
    seconds: f64,
    open: u64,
    repaired: u64,
    #[serde(flatten)]
    counts: &'a Counts,
    defects: Vec<FindingJson<'a>>,
    /// Defects that are not in the list.
    defects_left_out: u64,
}

#[derive(Serialize)]
struct FindingJson<'a> {
    kind: Kind,
    repaired: bool,
    group: Option<u64>,
    store: Option<u64>,
    blocks: u64,
    files: u64,
    named: Vec<FileJson>,
    what: &'a str,
    why: &'a str,
    remedy: &'a str,
}

#[derive(Serialize)]
struct FileJson {
    inode: u64,
    #[serde(flatten)]
    path: Option<JsonPath>,
}

impl Report {
    pub fn add(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.dropped += 1;
            self.dropped_open += u64::from(!finding.repaired);
        }
    }

    /// Defects that remain.
    pub fn open(&self) -> u64 {
        self.findings.iter().filter(|finding| !finding.repaired).count() as u64 + self.dropped_open
    }

    fn repaired(&self) -> u64 {
        self.findings.len() as u64 + self.dropped - self.open()
    }

    /// Files that want a name.
    pub fn nameless(&self) -> Vec<u64> {
        self.findings.iter().flat_map(|finding| finding.inodes.iter().copied()).collect()
    }

    /// The worst first.
    pub fn sort(&mut self) {
        self.findings.sort_by_key(|finding| (finding.repaired, finding.kind, finding.group, finding.store));
    }

    pub fn write_json(&self, out: &mut Out) -> Result<(), Failure> {
        out.json(&ReportJson {
            healthy: self.open() == 0,
            seconds: self.took.as_secs_f64(),
            open: self.open(),
            repaired: self.repaired(),
            counts: &self.counts,
            defects: self.findings.iter().map(|finding| self.json(finding)).collect(),
            defects_left_out: self.dropped,
        })
    }

    fn json<'a>(&self, finding: &'a Finding) -> FindingJson<'a> {
        let path = |inode| self.names.get(inode).map(|path| JsonPath::from(path.as_path()));
        FindingJson {
            kind: finding.kind,
            repaired: finding.repaired,
            group: finding.group.map(u64::from),
            store: finding.store.map(u64::from),
            blocks: finding.blocks,
            files: finding.files,
            named: finding.inodes.iter().map(|inode| FileJson { inode: *inode, path: path(inode) }).collect(),
            what: &finding.what,
            why: &finding.why,
            remedy: &finding.remedy,
        }
    }

    pub fn write(&self, out: &mut Out) -> Result<(), Failure> {
        for finding in self.findings.iter().take(SHOWN_MAX) {
            let repaired = if finding.repaired { " (repaired)" } else { "" };
            out.line(format_args!("{}: {}{repaired}", finding.kind.words(), finding.what))?;
            for inode in finding.inodes.iter().take(FILES_SHOWN_MAX) {
                match self.names.get(inode) {
                    Some(path) => out.line(format_args!("  file:  {}", text::path(path)))?,
                    None => out.line(format_args!("  file:  inode {inode}, which has no name"))?,
                }
            }
            let shown = finding.inodes.len().min(FILES_SHOWN_MAX) as u64;
            if finding.files > shown && shown > 0 {
                out.line(format_args!("  and {}", text::count(finding.files - shown, "more file")))?;
            }
            if !finding.why.is_empty() {
                out.line(format_args!("  why:   {}", finding.why))?;
            }
            if !finding.repaired && !finding.remedy.is_empty() {
                out.line(format_args!("  to do: {}", finding.remedy))?;
            }
        }
        let left_out = self.findings.len().saturating_sub(SHOWN_MAX) as u64 + self.dropped;
        if left_out > 0 {
            out.line(format_args!("and {} (--json shows more)", text::count(left_out, "more defect")))?;
        }
        let Counts { rows, files, runs, blocks, replicas, groups, stores, .. } = &self.counts;
        out.line(format_args!(
            "checked: {}, {}, {}, {}, {} in {} on {}",
            text::count(*rows, "row"),
            text::count(*files, "file"),
            text::count(*runs, "run"),
            text::count(*blocks, "block"),
            text::count(*replicas, "replica"),
            text::count(*groups, "group"),
            text::count(*stores, "store"),
        ))?;
        out.line(format_args!(
            "besides: {} known to lack a copy, {} of deleted files to be collected and {} kept for snapshots, {} that no \
             file refers to",
            text::count(self.counts.degraded_blocks, "block"),
            text::count(self.counts.garbage_blocks, "block"),
            self.counts.held_blocks,
            text::count(self.counts.unreferenced_replicas, "replica"),
        ))?;
        if self.counts.undecided_blocks > 0 {
            let count = text::count(self.counts.undecided_blocks, "block");
            out.line(format_args!(
                "undecided: {count} missing somewhere, of files that were just changed or have very many extents"
            ))?;
        }
        let took = self.took.as_secs_f64();
        match (self.open(), self.repaired()) {
            (0, 0) => out.line(format_args!("healthy: 0 defects, in {took:.1} s")),
            (0, repaired) => out
                .line(format_args!("healthy: {} repaired, none left, in {took:.1} s", text::count(repaired, "defect"))),
            (open, 0) => out.line(format_args!("{}, in {took:.1} s", text::count(open, "defect"))),
            (open, repaired) => {
                out.line(format_args!("{}, {repaired} more repaired, in {took:.1} s", text::count(open, "defect")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::spans::Span, *};

    #[test]
    fn what_is_not_kept_is_counted() {
        let mut report = Report::default();
        let finding =
            |repaired| Finding::new(Kind::Row, String::new(), String::new(), String::new()).repaired(repaired);
        for index in 0..FINDINGS_MAX + 10 {
            report.add(finding(index % 2 == 0));
        }
        let half = (FINDINGS_MAX / 2 + 5) as u64;
        assert_eq!((report.open(), report.repaired(), report.dropped), (half, half, 10));
    }

    #[test]
    fn a_finding_counts_its_files_and_names_some() {
        let spans: Spans = (0..50).map(|i| Span { inode: i / 2, writer: i % 2, seq: 0, count: 3 }).collect();
        let finding = Finding::new(Kind::Lost, String::new(), String::new(), String::new()).about(4, &spans);
        assert_eq!((finding.files, finding.blocks, finding.inodes.len()), (25, 150, FILES_NAMED_MAX));
    }
}
