//! Starting other programs.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// The cargo that started this program, else the one on the path.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Whether a program can be started and says it is well. Its output is dropped.
pub fn works(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The command as one would type it: the program without its directory.
fn text_of(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs a command with its output on this terminal; its failure is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let text = text_of(command);
    println!("$ {text}");
    let status = command.status().with_context(|| format!("cannot start `{text}`"))?;
    if !status.success() {
        bail!("`{text}` failed ({status})");
    }
    Ok(())
}

/// What a command printed and how it ended, for callers that need both.
pub struct Watched {
    /// Lines of both output streams, in the order in which they arrived.
    pub lines: Vec<String>,
    /// An error naming the command when it failed.
    pub result: Result<()>,
}

/// Runs a command, passing its output on line by line as it comes and keeping a copy.
///
/// # Errors
/// The command could not be started. A command that ran and failed is in [`Watched::result`].
pub fn watch(command: &mut Command) -> Result<Watched> {
    let text = text_of(command);
    println!("$ {text}");
    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("sharing a pipe")?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot start `{text}`"))?;
    // The command holds the writing ends; as long as they are open here, reading would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut lines = Vec::new();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).context("reading the output")? > 0 {
        std::io::stdout().write_all(&line).context("passing on the output")?;
        lines.push(String::from_utf8_lossy(&line).trim_end().to_string());
        line.clear();
    }
    let status = child.wait().with_context(|| format!("waiting for `{text}`"))?;
    let result = if status.success() { Ok(()) } else { Err(anyhow::anyhow!("`{text}` failed ({status})")) };
    Ok(Watched { lines, result })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watch_keeps_both_streams_and_the_failure() {
        let watched = watch(Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"])).unwrap();
        assert_eq!(watched.lines, ["one", "two"]);
        assert!(watched.result.unwrap_err().to_string().contains("exit status: 3"));
    }

    #[test]
    fn run_reports_failure_and_missing_programs() {
        assert!(run(&mut Command::new("true")).is_ok());
        assert!(run(&mut Command::new("/bin/false")).unwrap_err().to_string().contains("`false` failed"));
        assert!(run(&mut Command::new("no-such-program")).unwrap_err().to_string().contains("cannot start"));
        assert!(!works("no-such-program", &[]));
    }
}
