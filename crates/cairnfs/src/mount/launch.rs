//! `cairn mount` as a user calls it: starts a supervisor in the background and returns when the mount answers.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::{
    dead,
    run_dir::{Claim, Part, RunFiles},
    supervise::{self, Plan, READY_LINE},
    table,
};
use crate::{
    args::Stage,
    failure::Failure,
    output::{Out, say},
    signals::Signals,
    text,
    up::show,
};

/// How long the whole may take: longer than connecting and mounting, each of which has a deadline of its own.
const READY_MAX: Duration = Duration::from_secs(120);
/// Bytes of what the background processes said that are shown when they fail.
const SAID_MAX: u64 = 8192;
/// How long a process of an earlier mount is given to end.
const DYING_MAX: Duration = Duration::from_secs(5);
const DYING_POLL: Duration = Duration::from_millis(20);

/// What can be said about a mount point without asking a cluster. Returns it, absolute and free of links.
///
/// # Errors
/// It is not there, no directory, or has one of our mounts, which answers.
pub async fn check(dir: &Path) -> Result<PathBuf, Failure> {
    let point = table::mount_point(dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::at(text::path(dir), "no such directory to mount at; make it first"),
        _ => Failure::io(dir, &error),
    })?;
    let mounted = table::mounted_at(&point).map_err(|error| Failure::io(dir, &error))?;
    let is_dead = {
        let point = point.clone();
        tokio::task::spawn_blocking(move || dead::is_dead(&point)).await.unwrap_or(false)
    };
    match mounted {
        Some(mounted) if mounted.is_ours() && !is_dead => {
            let source = text::path(Path::new(&mounted.source));
            let what =
                format_args!("{source} is mounted there already (`cairn umount {}` takes it away)", text::path(dir));
            Err(Failure::at(text::path(dir), what))
        }
        Some(mounted) if mounted.is_ours() => Ok(point),
        _ if point.is_dir() => Ok(point),
        _ => Err(Failure::at(text::path(dir), "is not a directory: a mount point has to be one")),
    }
}

/// Declares this process to be a part of a mount; waits a while for a process that is just ending.
///
/// # Errors
/// Another process is it.
pub async fn claim(point: &Path, part: Part) -> Result<Claim, Failure> {
    let files = RunFiles::of(point);
    let mut waited = Duration::ZERO;
    loop {
        match files.claim(part) {
            Ok(Some(claim)) => return Ok(claim),
            Ok(None) if waited < DYING_MAX => {
                tokio::time::sleep(DYING_POLL).await;
                waited += DYING_POLL;
            }
            Ok(None) => {
                let process = files.process(part).map_or_else(String::new, |process| format!(", process {process}"));
                let what = format_args!("another `cairn mount` is at work there{process}");
                return Err(Failure::at(text::path(point), what));
            }
            Err(error) => return Err(Failure::at("the run directory", error)),
        }
    }
}

/// Runs the command. `words` is the whole command line.
///
/// # Errors
/// The mount does not come to answer; what its processes said has been shown then, and nothing is left of them.
pub async fn run(dir: &Path, words: &[OsString]) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let point = check(dir).await?;
    let (log_path, log) = RunFiles::of(&point).log().map_err(|(path, error)| Failure::io(&path, &error))?;
    let begun = log.metadata().map_or(0, |metadata| metadata.len());
    let program = std::env::current_exe().map_err(|error| Failure::at("the program's own path", error))?;
    let mut command = Command::new(program);
    command.args(in_stage(words, Stage::Supervise)).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut supervisor =
        command.spawn().map_err(|error| Failure::at("the supervisor", format_args!("does not start: {error}")))?;
    let mut lines = BufReader::new(supervisor.stdout.take().expect("it is piped")).lines();
    tokio::select! {
        line = timeout(READY_MAX, lines.next_line()) => match line {
            Ok(Ok(Some(line))) if line == READY_LINE => return Ok(()),
            _ => end(&mut supervisor).await,
        },
        () = signals.received() => {
            end(&mut supervisor).await;
            return Err(Failure::Interrupted);
        }
    }
    let told = tail(&log_path, begun).unwrap_or_default();
    if told.is_empty() {
        return Err(Failure::at(text::path(dir), "the mount did not come to answer"));
    }
    say(told.trim_end());
    Err(Failure::Told)
}

/// Runs the supervisor, which is to go on without a terminal.
///
/// # Errors
/// The first server does not come to serve.
pub async fn supervisor(dir: &Path, words: &[OsString], out: &mut Out) -> Result<(), Failure> {
    // Fails when we lead a process group, and then nobody else's signals reach us anyway.
    let _ = rustix::process::setsid();
    let mut signals = Signals::catch()?;
    let point = table::mount_point(dir).map_err(|error| Failure::io(dir, &error))?;
    let _claim = claim(&point, Part::Supervisor).await?;
    let from_dir = leave_directory()?;
    let program = std::env::current_exe().map_err(|error| Failure::at("the program's own path", error))?;
    let plan = Plan { program, args: in_stage(words, Stage::Serve), from_dir, point };
    supervise::run(&plan, &mut signals, || show(out, READY_LINE)).await
}

/// Goes to the root, so that no directory is held; returns where we were.
///
/// # Errors
/// The root cannot be entered.
pub fn leave_directory() -> Result<PathBuf, Failure> {
    // A directory that is gone already is none to come back to.
    let from = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    std::env::set_current_dir("/").map_err(|error| Failure::io(Path::new("/"), &error))?;
    Ok(from)
}

/// The arguments of a command line, for another stage of the same mount.
fn in_stage(words: &[OsString], stage: Stage) -> Vec<OsString> {
    let is_stage = |word: &OsString| word.as_encoded_bytes().starts_with(b"--stage=");
    let mut args: Vec<OsString> = words.iter().skip(1).filter(|word| !is_stage(word)).cloned().collect();
    let at = args.iter().position(|word| word == OsStr::new("--")).unwrap_or(args.len());
    args.insert(at, format!("--stage={}", stage.name()).into());
    args
}

/// Ends a supervisor and with it what it started.
async fn end(supervisor: &mut Child) {
    let process = supervisor.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    // It may have ended by itself.
    let _ = process.map(|process| kill_process(process, Signal::TERM));
    let _ = supervisor.wait().await;
}

/// What a log says from a place on.
fn tail(path: &Path, from: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(len.saturating_sub(SAID_MAX))))?;
    let mut said = Vec::new();
    file.take(SAID_MAX).read_to_end(&mut said)?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_added_where_flags_are_read() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let staged = |text: &str, stage| in_stage(&words(text), stage).join(OsStr::new(" ")).into_string().unwrap();
        assert_eq!(staged("cairn mount /m", Stage::Supervise), "mount /m --stage=supervise");
        assert_eq!(staged("cairn mount -- /m", Stage::Serve), "mount --stage=serve -- /m");
        assert_eq!(staged("cairn mount --stage=supervise -- /m", Stage::Serve), "mount --stage=serve -- /m");
    }

    #[test]
    fn only_what_was_said_now_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "old\nnew\n").unwrap();
        assert_eq!(tail(&path, 4).unwrap(), "new\n");
    }
}
