//! `cairn up`: a whole cluster on this machine, in this process or in one process for each role.

mod claim;
mod layout;
mod mount;
mod ready;
mod supervise;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cairn_server::{LocalCluster, LocalClusterConfig, LocalConsoles, TcpNet};

pub use self::claim::{DYING_MAX, DYING_POLL, PidFile};
use self::{
    claim::Claim,
    layout::{Layout, Role},
    mount::UpMount,
    supervise::Supervisor,
};
use crate::{
    args, background::Background, context::Context, failure::Failure, output::Out, output::say, roles::start_failure,
    signals::Signals, span::Span, text,
};

/// How long a cluster may take to become ready: stores rebuild their index at start.
const READY_MAX: Duration = Duration::from_secs(120);

/// Runs the command until a signal ends it.
///
/// # Errors
/// Something does not start, or with --processes nothing is left to wait for. Nothing of ours keeps running then.
pub async fn run(args: args::Up, global: &args::Global, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let from_env = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data_default = layout::data_default(from_env("XDG_DATA_HOME"), from_env("HOME"));
    let mut layout = Layout::new(&args, &context.file.up, data_default, claim::existing_nodes)?;
    layout.data = std::path::absolute(&layout.data).map_err(|error| Failure::io(&layout.data, &error))?;
    let mount = args.mount.as_deref();
    let mut signals = Signals::catch()?;
    let _claim = Claim::take(&layout).await?;
    let existing = claim::existing_nodes(&layout.data);
    if existing > u64::from(layout.nodes) {
        let first = Role::Node(layout.nodes + 1);
        say(format_args!("cairn up: the data directory has {first}, too, which is not started (--nodes {existing})"));
    }
    if layout.processes {
        run_processes(&layout, mount, global, &mut signals, out).await
    } else {
        run_here(&layout, mount, &mut signals, out).await
    }
}

async fn run_here(layout: &Layout, mount: Option<&Path>, signals: &mut Signals, out: &mut Out) -> Result<(), Failure> {
    let defaults = LocalClusterConfig::new(&layout.data);
    let config = LocalClusterConfig {
        engine: layout.engine.clone(),
        suspect_after: layout.suspect_after.map_or(defaults.suspect_after, Span::get),
        out_after: layout.out_after.map_or(defaults.out_after, Span::get),
        metas: usize::from(layout.metas),
        nodes: usize::from(layout.nodes),
        replicas: layout.replicas,
        ip: layout.ip.to_string(),
        base_port: layout.base_port,
        consoles: layout.console_port.map_or(LocalConsoles::Off, LocalConsoles::From),
        ready_timeout: READY_MAX,
        ..defaults
    };
    show_addresses(layout, out)?;
    let background = Background::start()?;
    let cluster = tokio::select! {
        started = LocalCluster::start_with(config, Arc::new(TcpNet), background.handle()) => started.map_err(|error| start_failure(&error))?,
        () = signals.received() => return Err(Failure::Interrupted),
    };
    let mounted = match tokio::task::block_in_place(|| start_mount(layout, mount)) {
        Ok(mounted) => mounted,
        Err(failure) => {
            cluster.stop().await;
            return Err(failure);
        }
    };
    show(out, "ready")?;
    signals.received().await;
    // What was written through it goes to servers that still run.
    tokio::task::block_in_place(|| drop(mounted));
    tokio::select! {
        () = cluster.stop() => Ok(()),
        () = signals.received() => Err(Failure::Interrupted),
    }
}

/// Mounts, if that was asked for.
fn start_mount(layout: &Layout, dir: Option<&Path>) -> Result<Option<UpMount>, Failure> {
    let metas: Vec<String> = (1..=layout.metas).map(|index| layout.addr(Role::Meta(index)).to_string()).collect();
    dir.map(|dir| UpMount::start(&metas.join(","), dir)).transpose()
}

async fn run_processes(
    layout: &Layout,
    mount: Option<&Path>,
    global: &args::Global,
    signals: &mut Signals,
    out: &mut Out,
) -> Result<(), Failure> {
    show_addresses(layout, out)?;
    let program = std::env::current_exe().map_err(|error| Failure::at("the program's own path", error))?;
    show(out, "Each role is a process; one that dies is started again with its line:")?;
    for role in layout.roles() {
        show(out, format_args!("  {}", layout.command_line(&program, role)))?;
    }
    let mut supervisor = Supervisor::new(layout.clone(), program, global);
    let mut mounted = None;
    let ready = || {
        mounted = tokio::task::block_in_place(|| start_mount(layout, mount))?;
        show(out, "ready")
    };
    let ended = supervisor.run(signals, READY_MAX, ready).await;
    tokio::task::block_in_place(|| drop(mounted));
    let stopped = tokio::select! {
        () = supervisor.stop() => Ok(()),
        () = signals.received() => {
            supervisor.kill();
            Err(Failure::Interrupted)
        }
    };
    ended.and(stopped)
}

fn show_addresses(layout: &Layout, out: &mut Out) -> Result<(), Failure> {
    for role in layout.roles() {
        let console = layout.console(role).map_or_else(String::new, |addr| format!("  http://{addr}"));
        show(out, format_args!("{role}  {}  {}{console}", layout.addr(role), text::path(&layout.dir(role))))?;
    }
    Ok(())
}

/// Shows a line at once. A server goes on when nobody reads what it says.
pub fn show(out: &mut Out, line: impl std::fmt::Display) -> Result<(), Failure> {
    match out.line(line).and_then(|()| out.flush()) {
        Err(Failure::PipeClosed) => Ok(()),
        other => other,
    }
}
