//! What a copy did: counts, what failed, what was left out; and when to give up.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::progress::Progress;
use crate::{
    args::Ending,
    failure::Failure,
    output::{JsonPath, Out},
    text,
};

/// Failures and left-out files that the summary names; further ones are only counted (and were said as they happened).
const LISTED_MAX: usize = 1000;
/// So many failures in a row that concern more than one file (cluster away, no space) end the copy.
const GENERAL_FAILURES_MAX: u64 = 32;

/// What became of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// A file of this many bytes.
    File(u64),
    Symlink,
    /// It is neither file, directory nor symbolic link.
    Skipped(&'static str),
}

/// See the module. Shared by all tasks of one copy.
pub struct Report {
    command: &'static str,
    began: Instant,
    files: AtomicU64,
    directories: AtomicU64,
    symlinks: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    skipped: AtomicU64,
    general_in_a_row: AtomicU64,
    listed: Mutex<Listed>,
    stop: CancellationToken,
    pub progress: Progress,
}

#[derive(Default)]
struct Listed {
    failed: Vec<String>,
    skipped: Vec<(PathBuf, &'static str)>,
}

#[derive(Serialize)]
struct Summary<'a> {
    files: u64,
    directories: u64,
    symlinks: u64,
    bytes: u64,
    seconds: f64,
    gave_up: bool,
    failed_count: u64,
    failed: &'a [String],
    skipped_count: u64,
    skipped: Vec<Skipped>,
}

#[derive(Serialize)]
struct Skipped {
    #[serde(flatten)]
    path: JsonPath,
    reason: &'static str,
}

impl Report {
    /// A report that has seen nothing.
    pub fn new(command: &'static str, progress: Progress) -> Self {
        Self {
            command,
            began: Instant::now(),
            files: AtomicU64::new(0),
            directories: AtomicU64::new(0),
            symlinks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            general_in_a_row: AtomicU64::new(0),
            listed: Mutex::default(),
            stop: CancellationToken::new(),
            progress,
        }
    }

    /// A file or symbolic link was dealt with.
    pub fn outcome(&self, source: &Path, outcome: Result<Copied, Failure>) {
        match outcome {
            Ok(Copied::File(len)) => {
                self.files.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(len, Ordering::Relaxed);
                self.general_in_a_row.store(0, Ordering::Relaxed);
            }
            Ok(Copied::Symlink) => {
                self.symlinks.fetch_add(1, Ordering::Relaxed);
                self.general_in_a_row.store(0, Ordering::Relaxed);
            }
            Ok(Copied::Skipped(reason)) => self.skip(source, reason),
            Err(failure) => self.fail(&failure),
        }
        self.progress.file();
    }

    /// A directory was made or found.
    pub fn directory(&self) {
        self.directories.fetch_add(1, Ordering::Relaxed);
        self.general_in_a_row.store(0, Ordering::Relaxed);
    }

    /// Something could not be copied.
    pub fn fail(&self, failure: &Failure) {
        let Some(message) = failure.message() else { return };
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.progress.say(format_args!("cairn {}: {message}", self.command));
        let mut listed = self.listed.lock();
        if listed.failed.len() < LISTED_MAX {
            listed.failed.push(message.to_owned());
        }
        drop(listed);
        let in_a_row = if failure.is_general() { self.general_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 } else { 0 };
        if in_a_row == GENERAL_FAILURES_MAX {
            self.progress.say(format_args!(
                "cairn {}: giving up after {GENERAL_FAILURES_MAX} such failures in a row; the rest was left as it was",
                self.command
            ));
            self.stop.cancel();
        }
    }

    fn skip(&self, source: &Path, reason: &'static str) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        self.progress.say(format_args!("cairn {}: {}: not copied: {reason}", self.command, text::path(source)));
        let mut listed = self.listed.lock();
        if listed.skipped.len() < LISTED_MAX {
            listed.skipped.push((source.to_path_buf(), reason));
        }
    }

    /// Whether anything failed.
    pub fn has_failures(&self) -> bool {
        self.failed.load(Ordering::Relaxed) > 0
    }

    /// Whether the copy gave up.
    pub fn stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Says the summary; the result is the result of the command.
    pub fn end(&self, ending: Ending, out: &mut Out) -> Result<(), Failure> {
        let visible = self.progress.is_visible();
        self.progress.finish();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (failed, skipped) = (get(&self.failed), get(&self.skipped));
        let elapsed = self.began.elapsed();
        if ending == Ending::Json {
            let listed = self.listed.lock();
            let skip =
                |(path, reason): &(PathBuf, &'static str)| Skipped { path: JsonPath::from(path.as_path()), reason };
            out.json(&Summary {
                files: get(&self.files),
                directories: get(&self.directories),
                symlinks: get(&self.symlinks),
                bytes: get(&self.bytes),
                seconds: elapsed.as_secs_f64(),
                gave_up: self.stopped(),
                failed_count: failed,
                failed: &listed.failed,
                skipped_count: skipped,
                skipped: listed.skipped.iter().map(skip).collect(),
            })?;
        } else if ending == Ending::Text && visible {
            self.progress.say(self.words(elapsed));
        }
        if failed == 0 {
            return Ok(());
        }
        self.progress.say(format_args!(
            "cairn {}: {} could not be copied (listed above); {} copied",
            self.command,
            text::count(failed, "entry"),
            text::count(get(&self.files) + get(&self.symlinks), "file"),
        ));
        Err(Failure::Told)
    }

    fn words(&self, elapsed: Duration) -> String {
        let bytes = self.bytes.load(Ordering::Relaxed);
        let seconds = elapsed.as_secs_f64();
        format!(
            "{}, {}, {}, {}B in {seconds:.1} s, {}B/s",
            text::count(self.files.load(Ordering::Relaxed), "file"),
            text::count(self.directories.load(Ordering::Relaxed), "directory"),
            text::count(self.symlinks.load(Ordering::Relaxed), "symlink"),
            text::human(bytes),
            text::human((bytes as f64 / seconds.max(0.001)) as u64),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_up_only_when_everything_fails_for_one_reason() {
        let report = Report::new("put", Progress::new(false));
        let general = Failure::Failed { message: "/x: cluster away".to_owned(), general: true };
        for _ in 0..GENERAL_FAILURES_MAX - 1 {
            report.fail(&general);
        }
        report.outcome(Path::new("/y"), Ok(Copied::File(1)));
        for _ in 0..GENERAL_FAILURES_MAX - 1 {
            report.fail(&general);
        }
        for _ in 0..2 * GENERAL_FAILURES_MAX {
            report.fail(&Failure::at("/z", "permission denied"));
        }
        assert!(!report.stopped());
        report.fail(&general);
        assert!(report.stopped());
    }
}
