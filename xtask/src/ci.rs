//! `cargo xtask ci`: every check, in an order in which the cheap ones come first.

use crate::process::{self, cargo};
use crate::{chaos, codegen, deny, mount_tests, shuttle, tidy};
use anyhow::{Result, bail};
use std::path::Path;
use std::time::{Duration, Instant};

/// What a step that went well has to say.
#[derive(Default)]
struct Report {
    /// One remark for the table.
    note: String,
    /// The lines with which a test runner closed, printed once more at the very end.
    closing: Vec<String>,
}

impl Report {
    fn note(note: String) -> Self {
        Self { note, ..Self::default() }
    }
}

struct Step {
    name: &'static str,
    run: fn(&Path) -> Result<Report>,
}

/// Any other would do; this one makes runs repeatable.
const CHAOS_SEED: u64 = 1;

const STEPS: &[Step] = &[
    Step { name: "codegen", run: |root| codegen::run(root, true).map(|()| Report::default()) },
    Step { name: "fmt", run: fmt },
    Step { name: "tidy", run: |root| tidy::run(root).map(Report::note) },
    Step { name: "deny", run: |root| deny::run(root).map(Report::note) },
    Step { name: "clippy", run: clippy },
    Step { name: "docs", run: docs },
    Step { name: "doc tests", run: doc_tests },
    Step { name: "tests", run: tests },
    Step { name: "shuttle", run: interleavings },
    Step { name: "mounts", run: mounts_short },
    Step { name: "chaos", run: chaos_short },
];

enum Outcome {
    Passed(Report),
    Failed(anyhow::Error),
    Skipped,
}

/// Runs all steps; after a failure the remaining ones only with `keep_going`.
///
/// # Errors
/// At least one step failed; the steps are named.
pub fn run(root: &Path, keep_going: bool) -> Result<()> {
    let start = Instant::now();
    let mut rows: Vec<(&str, Duration, Outcome)> = Vec::new();
    for step in STEPS {
        let stop = !keep_going && rows.iter().any(|(_, _, outcome)| matches!(outcome, Outcome::Failed(_)));
        if stop {
            rows.push((step.name, Duration::ZERO, Outcome::Skipped));
            continue;
        }
        println!("\n=== {}", step.name);
        let begun = Instant::now();
        let outcome = match (step.run)(root) {
            Ok(report) => Outcome::Passed(report),
            Err(error) => {
                println!("error: {error:#}");
                Outcome::Failed(error)
            }
        };
        let elapsed = begun.elapsed();
        println!("=== {}: {:.1} s", step.name, elapsed.as_secs_f64());
        rows.push((step.name, elapsed, outcome));
    }
    print!("\n{}", table(&rows, start.elapsed()));
    let failed: Vec<&str> =
        rows.iter().filter(|(_, _, outcome)| matches!(outcome, Outcome::Failed(_))).map(|(name, _, _)| *name).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// The table of steps, then the closing lines of the test runners.
fn table(rows: &[(&str, Duration, Outcome)], total: Duration) -> String {
    let mut text = String::new();
    for (name, elapsed, outcome) in rows {
        let (word, note) = match outcome {
            Outcome::Passed(report) => ("ok", report.note.clone()),
            Outcome::Failed(error) => ("FAILED", error.to_string().lines().next().unwrap_or_default().to_string()),
            Outcome::Skipped => ("skipped", String::new()),
        };
        let row = format!("{name:<10} {word:<8} {:>7.1} s  {note}", elapsed.as_secs_f64());
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text.push_str(&format!("{:<10} {:<8} {:>7.1} s\n", "total", "", total.as_secs_f64()));
    for (name, _, outcome) in rows {
        if let Outcome::Passed(Report { closing, .. }) = outcome {
            for line in closing {
                text.push_str(&format!("{name}: {line}\n"));
            }
        }
    }
    text
}

fn fmt(root: &Path) -> Result<Report> {
    process::run(cargo().current_dir(root).args(["fmt", "--all", "--check"]))?;
    Ok(Report::default())
}

fn clippy(root: &Path) -> Result<Report> {
    let args = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    process::run(cargo().current_dir(root).args(args))?;
    Ok(Report::default())
}

fn docs(root: &Path) -> Result<Report> {
    let args = ["doc", "--workspace", "--no-deps", "--locked"];
    process::run(cargo().current_dir(root).args(args).env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(Report::default())
}

fn doc_tests(root: &Path) -> Result<Report> {
    run_tests(root, &["test", "--workspace", "--doc", "--locked"])
}

fn tests(root: &Path) -> Result<Report> {
    if process::works("cargo", &["nextest", "--version"]) {
        return run_tests(root, &["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]);
    }
    println!("cargo-nextest is missing (`cargo xtask setup` installs it): running `cargo test`");
    run_tests(root, &["test", "--workspace", "--all-targets", "--locked", "--no-fail-fast"])
}

fn interleavings(root: &Path) -> Result<Report> {
    let names = shuttle::run(root, shuttle::ITERATIONS_SHORT)?;
    Ok(Report::note(names.join(", ")))
}

/// Faults under load against real processes, judged by counts and outcomes: every machine can do it, quiet or not.
fn chaos_short(root: &Path) -> Result<Report> {
    chaos::run(root, &chaos::Chaos::Short { seed: CHAOS_SEED })?;
    Ok(Report::note("short form".to_string()))
}

/// Random operations on mounts, where there can be any.
fn mounts_short(root: &Path) -> Result<Report> {
    match mount_tests::cannot_mount() {
        Some(why) => Ok(Report::note(format!("NOT RUN: {why}"))),
        None => mount_tests::run(root, mount_tests::OPS_SHORT, 1, false).map(Report::note),
    }
}

fn run_tests(root: &Path, args: &[&str]) -> Result<Report> {
    let watched = process::watch(cargo().current_dir(root).args(args))?;
    let closing = closing_lines(&watched.lines);
    if let Err(error) = watched.result {
        bail!("{}", [vec![error.to_string()], closing].concat().join("; "));
    }
    let note = match closing.as_slice() {
        [] => "nothing to run".to_string(),
        [line] => line.clone(),
        lines => format!("{} test programs", lines.len()),
    };
    Ok(Report { note, closing })
}

/// The lines in which a test runner says what it ran: `Summary [...]` of nextest, `test result: ...` of `cargo test`,
/// which prints one for each program, also for those without tests; these are left out.
fn closing_lines(lines: &[String]) -> Vec<String> {
    let is_closing = |line: &&str| {
        let empty = line.contains(" 0 passed; 0 failed; 0 ignored");
        line.starts_with("Summary [") || (line.starts_with("test result: ") && !empty)
    };
    lines.iter().map(|line| line.trim()).filter(is_closing).map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(lines: &[&str]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn closing_lines_of_both_runners_are_found() {
        let nextest =
            owned(&["   PASS [ 0.1s] a b", "------", "     Summary [   1.2s] 3 tests run: 3 passed, 0 skipped"]);
        assert_eq!(closing_lines(&nextest), [nextest[2].trim()]);
        let cargo =
            owned(&["test a ... ok", "", "test result: ok. 3 passed; 0 failed", "test result: FAILED. 1 passed"]);
        assert_eq!(closing_lines(&cargo).len(), 2);
        assert!(closing_lines(&owned(&["test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured"])).is_empty());
        assert!(closing_lines(&owned(&["Finished"])).is_empty());
    }

    #[test]
    fn the_table_tells_outcomes_apart_and_ends_with_the_runner() {
        let closing = owned(&["Summary [   1.2s] 3 tests run: 3 passed"]);
        let rows = [
            ("fmt", Duration::from_millis(1500), Outcome::Passed(Report::default())),
            ("clippy", Duration::from_secs(2), Outcome::Failed(anyhow::anyhow!("first\nsecond"))),
            ("docs", Duration::ZERO, Outcome::Skipped),
            ("tests", Duration::from_secs(3), Outcome::Passed(Report { note: "n".into(), closing })),
        ];
        let text = table(&rows, Duration::from_secs(7));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "fmt        ok           1.5 s");
        assert_eq!(lines[1], "clippy     FAILED       2.0 s  first");
        assert_eq!(lines[2], "docs       skipped      0.0 s");
        assert_eq!(lines[4], "total                   7.0 s");
        assert_eq!(lines[5], "tests: Summary [   1.2s] 3 tests run: 3 passed");
    }
}
