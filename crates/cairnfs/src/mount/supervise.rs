//! Watches the process that serves a mount: starts it, starts it again when it dies, and leaves no dead mount behind.
//!
//! A server that is unmounted ends with status 0, and so does the supervisor. One that dies in any other way leaves a
//! mount whose every operation fails (ENOTCONN). It stays there until the next server has reached the cluster, so that
//! nobody writes into the directory below meanwhile; that one takes it away and mounts in its place.

use std::{
    ffi::OsString,
    io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    time::Instant,
};

use super::{dead, restarts::Restarts};
use crate::{failure::Failure, output::say, signals::Signals, text};

/// What a server prints when its mount answers.
pub const READY_LINE: &str = "ready";
/// How long a server has to write everything back and unmount when it is asked to end. A further signal ends it at once.
const STOP_MAX: Duration = Duration::from_secs(120);

/// How to run a server.
#[derive(Debug, Clone)]
pub struct Plan {
    /// This program.
    pub program: PathBuf,
    /// The command line of a server.
    pub args: Vec<OsString>,
    /// Where relative paths in it begin.
    pub from_dir: PathBuf,
    /// Absolute, free of links.
    pub point: PathBuf,
}

/// How a server ended.
enum End {
    /// It was unmounted, by whomever.
    Unmounted,
    /// It was asked to end, and did.
    Stopped,
    /// Anything else.
    Died(io::Result<ExitStatus>),
}

/// Runs servers one after the other until the mount is gone. `ready` is called when the first one answers.
///
/// # Errors
/// The first one does not come to serve (it has told why on standard error), or `ready` fails.
pub async fn run(
    plan: &Plan,
    signals: &mut Signals,
    ready: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut restarts = Restarts::default();
    let mut ready = Some(ready);
    loop {
        let (mut server, stdout) = start(plan)?;
        let mut served_since = None;
        let end = tokio::select! {
            end = ended(&mut server, signals) => end,
            () = says_ready(stdout) => {
                served_since = Some(Instant::now());
                if let Some(ready) = ready.take()
                    && let Err(failure) = ready()
                {
                    stop(&mut server, signals).await;
                    return Err(failure);
                }
                ended(&mut server, signals).await
            }
        };
        let status = match end {
            End::Unmounted => return Ok(()),
            End::Stopped => return clean_up(plan),
            // It never served: whoever asked for the mount is told so, and nothing is tried again.
            End::Died(_) if ready.is_some() => {
                clean_up(plan)?;
                return Err(Failure::Told);
            }
            End::Died(status) => status,
        };
        let pause = restarts.died(served_since.map(|since| since.elapsed()));
        let (point, how) = (plan.point.display(), text::ended(&status));
        say(format_args!("cairn mount: the server of {point} {how}; it is started again in {} ms", pause.as_millis()));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = signals.received() => return clean_up(plan),
        }
        match dead::is_mounted(&plan.point) {
            // Somebody took the dead mount away: that is how users say that they want none.
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(error) => say(format_args!("cairn mount: the mount table: {error}")),
        }
    }
}

fn start(plan: &Plan) -> Result<(Child, ChildStdout), Failure> {
    let dir = if plan.from_dir.is_dir() { plan.from_dir.clone() } else { PathBuf::from("/") };
    let spawned = Command::new(&plan.program)
        .args(&plan.args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Signals of the terminal are for us; we end it in order.
        .process_group(0)
        .spawn();
    let mut server = spawned.map_err(|error| Failure::at("the server", format_args!("does not start: {error}")))?;
    let stdout = server.stdout.take().expect("it is piped");
    Ok((server, stdout))
}

/// Returns when the server says that it serves; never, if it ends before.
async fn says_ready(stdout: ChildStdout) {
    let mut lines = BufReader::new(stdout).lines();
    loop {
        match lines.next_line().await {
            Ok(Some(line)) if line == READY_LINE => return,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

/// Waits for the end of a server, and ends it when a signal is received.
async fn ended(server: &mut Child, signals: &mut Signals) -> End {
    tokio::select! {
        status = server.wait() => match status {
            Ok(status) if status.success() => End::Unmounted,
            status => End::Died(status),
        },
        () = signals.received() => {
            stop(server, signals).await;
            End::Stopped
        }
    }
}

/// Asks a server to end and waits for it; one that does not in time, or at the second signal, is killed.
async fn stop(server: &mut Child, signals: &mut Signals) {
    send(server, Signal::TERM);
    tokio::select! {
        _ = server.wait() => return,
        () = tokio::time::sleep(STOP_MAX) => {
            say(format_args!("cairn mount: the server did not end within {} s and is killed", STOP_MAX.as_secs()));
        }
        () = signals.received() => {}
    }
    send(server, Signal::KILL);
    // It cannot refuse.
    let _ = server.wait().await;
}

fn send(server: &Child, signal: Signal) {
    let process = server.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    // It may have ended by itself this moment.
    let _ = process.map(|process| kill_process(process, signal));
}

/// A server that was killed, or died before it served, may leave a dead mount.
fn clean_up(plan: &Plan) -> Result<(), Failure> {
    dead::clear(&plan.point).map_err(|error| Failure::io(&plan.point, &error))
}
