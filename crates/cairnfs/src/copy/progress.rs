//! The progress bar: files, bytes, rate, time left. There is none unless standard error is a terminal.

use std::{
    fmt::Display,
    io::{self, IsTerminal},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{output::say, text};

const TICK: Duration = Duration::from_millis(120);

/// See the module.
pub struct Progress {
    bar: ProgressBar,
    files: AtomicU64,
    files_expected: AtomicU64,
    bytes_expected: AtomicU64,
}

impl Progress {
    /// A bar on standard error, or an invisible one.
    pub fn new(wanted: bool) -> Self {
        let visible = wanted && io::stderr().is_terminal();
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if visible {
            bar.set_style(style("{spinner} {msg}  {binary_bytes}  {binary_bytes_per_sec}"));
            bar.enable_steady_tick(TICK);
        }
        Self { bar, files: AtomicU64::new(0), files_expected: AtomicU64::new(0), bytes_expected: AtomicU64::new(0) }
    }

    /// Whether anybody sees it, so that it is worth measuring what lies ahead.
    pub fn is_visible(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// More was found that will be copied.
    pub fn expect(&self, files: u64, bytes: u64) {
        self.files_expected.fetch_add(files, Ordering::Relaxed);
        self.bytes_expected.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All has been found: from now on there is a time left.
    pub fn all_expected(&self) {
        if self.is_visible() {
            self.bar.set_length(self.bytes_expected.load(Ordering::Relaxed));
            let line = "{msg}  {wide_bar}  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta}";
            self.bar.set_style(style(line));
        }
    }

    /// Bytes were copied.
    pub fn bytes(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// A file was dealt with.
    pub fn file(&self) {
        let files = self.files.fetch_add(1, Ordering::Relaxed) + 1;
        if self.is_visible() {
            let expected = self.files_expected.load(Ordering::Relaxed);
            let of = if expected > files { format!(" of {expected}") } else { String::new() };
            self.bar.set_message(format!("{files}{of} {}", text::noun(expected.max(files), "file")));
        }
    }

    /// Says a line on standard error without tearing the bar.
    pub fn say(&self, line: impl Display) {
        self.bar.suspend(|| say(line));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates of this file are well formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_well_formed() {
        let progress = Progress::new(false);
        progress.expect(2, 10);
        progress.all_expected();
        progress.file();
        style("{spinner} {msg}  {binary_bytes}  {binary_bytes_per_sec}");
        style("{msg}  {wide_bar}  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta}");
    }
}
