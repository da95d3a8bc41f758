//! `cairn meta` and `cairn node`: one server in this process, until a signal stops it.

pub mod inspect;
pub mod meta_tools;

use std::{error::Error, fmt::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use cairn_server::{
    ConsolePlace, EngineUrl, Membership, MetaServer, MetaServerConfig, NodeServer, NodeServerConfig, StartError,
};

use crate::{
    args,
    background::Background,
    context::Context,
    failure::Failure,
    output::Out,
    settings::{META_DEFAULT, Replicas},
    signals::Signals,
    span::Span,
    up::{DYING_MAX, DYING_POLL, PidFile, show},
};

const NODE_LISTEN_DEFAULT: &str = "127.0.0.1:9001";
const REPLICAS_DEFAULT: u64 = 3;

/// Why a server did not start, down to the first cause.
pub fn start_failure(error: &(dyn Error + 'static)) -> Failure {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(message, ": {error}");
        cause = error.source();
    }
    message.push_str(hint(error));
    Failure::Failed { message, general: true }
}

/// What to do about it, where a flag helps.
fn hint(error: &(dyn Error + 'static)) -> &'static str {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<StartError>() {
            Some(StartError::Console { .. } | StartError::ConsolePlace(_)) => {
                return " (choose another port with --console, or none with --console off)";
            }
            _ => cause = error.source(),
        }
    }
    ""
}

/// Where the console is: the flag, else the file, else beside the server.
fn console(flag: Option<String>, file: Option<&String>) -> Result<ConsolePlace, Failure> {
    match flag.or_else(|| file.cloned()) {
        None => Ok(ConsolePlace::Beside),
        Some(text) => text
            .parse()
            .map_err(|error| Failure::usage(format_args!("--console {text}"), format_args!("`off`, or: {error}"))),
    }
}

fn data(flag: Option<PathBuf>, file: Option<&PathBuf>) -> Result<PathBuf, Failure> {
    let data = flag.or_else(|| file.cloned()).filter(|data| !data.as_os_str().is_empty());
    data.ok_or_else(|| Failure::usage("--data", "say in which directory the data is"))
}

/// The engine that is named: the flag or the environment, else the file. An empty one is none.
///
/// # Errors
/// A usage failure that says what is allowed, and no password.
pub fn engine(flag: Option<&String>, file: Option<&String>) -> Result<Option<EngineUrl>, Failure> {
    let named = flag.or(file).filter(|url| !url.is_empty());
    named.map(|url| url.parse().map_err(|error| Failure::usage("--engine", error))).transpose()
}

/// Starts a server. A former process on the same address and data that was killed this moment is given time to be gone.
async fn patiently<T, F: Future<Output = Result<T, StartError>>>(mut start: impl FnMut() -> F) -> Result<T, Failure> {
    let mut waited = Duration::ZERO;
    loop {
        match start().await {
            Err(
                StartError::Bind { .. }
                | StartError::Console { .. }
                | StartError::Directory { .. }
                | StartError::Engine { .. },
            ) if waited < DYING_MAX => {
                tokio::time::sleep(DYING_POLL).await;
                waited += DYING_POLL;
            }
            other => return other.map_err(|error| start_failure(&error)),
        }
    }
}

fn show_console(addr: Option<SocketAddr>, out: &mut Out) -> Result<(), Failure> {
    addr.map_or(Ok(()), |addr| show(out, format_args!("metrics and health checks on http://{addr}")))
}

/// Runs a metadata server.
pub async fn meta(args: args::MetaRole, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let file = &context.file.meta_server;
    let engine = engine(args.engine.as_ref(), file.engine.as_ref())?;
    let data = match data(args.data, file.data.as_ref()) {
        Err(_) if engine.is_some() => PathBuf::new(),
        data => data?,
    };
    let listen = args.listen.or_else(|| file.listen.clone()).unwrap_or_else(|| META_DEFAULT.to_owned());
    let replicas = args.replicas.or(file.replicas).map_or(REPLICAS_DEFAULT, Replicas::get);
    let replicas = u32::try_from(replicas).expect("bounded by Replicas");
    let console = console(args.console, file.console.as_ref())?;
    let mut signals = Signals::catch()?;
    let _pid_file = args.pid_file.map(PidFile::write).transpose()?;
    let mut config = MetaServerConfig { engine, replicas, console, ..MetaServerConfig::new(data, listen) };
    config.suspect_after = args.suspect_after.or(file.suspect_after).map_or(config.suspect_after, Span::get);
    config.out_after = args.out_after.or(file.out_after).map_or(config.out_after, Span::get);
    config.session_lease = args.session_lease.or(file.session_lease).map_or(config.session_lease, Span::get);
    config.insecure = args.insecure;
    config.advertise = args.advertise.or_else(|| file.advertise.clone());
    let net = context.net()?;
    config.gc_mass.percent = args.gc_mass_percent.unwrap_or(config.gc_mass.percent);
    config.gc_mass.hold = args.gc_mass_hold.map_or(config.gc_mass.hold, Span::get);
    let server = tokio::select! {
        started = patiently(|| MetaServer::start(config.clone(), net.clone())) => started?,
        () = signals.received() => return Err(Failure::Interrupted),
    };
    show(out, format_args!("metadata server listens on {}", server.addr()))?;
    show_console(server.console_addr(), out)?;
    show(out, "ready")?;
    signals.received().await;
    tokio::select! {
        () = server.stop() => Ok(()),
        () = signals.received() => Err(Failure::Interrupted),
    }
}

/// Runs a storage node.
pub async fn node(args: args::NodeRole, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let file = &context.file.node;
    let data = data(args.data, file.data.as_ref())?;
    let listen = args.listen.or_else(|| file.listen.clone()).unwrap_or_else(|| NODE_LISTEN_DEFAULT.to_owned());
    let metas = context.meta().split(',').map(str::trim).filter(|addr| !addr.is_empty()).map(str::to_owned).collect();
    let mut config = NodeServerConfig::new(data, listen, metas);
    config.stores = match args.store {
        none if none.is_empty() => file.stores.clone().unwrap_or_default(),
        some => some,
    };
    config.accept_empty_stores = args.accept_empty_stores;
    config.advertise = args.advertise.or_else(|| file.advertise.clone());
    let place = |flag: Option<String>, file: &Option<String>| flag.or_else(|| file.clone()).unwrap_or_default();
    config.insecure = args.insecure;
    let net = context.net()?;
    config.zone = place(args.zone, &file.zone);
    config.rack = place(args.rack, &file.rack);
    config.host = place(args.host, &file.host);
    config.console = console(args.console, file.console.as_ref())?;
    config.store.capacity_bytes = args.capacity.or(file.capacity).map(|size| size.0);
    if let Some(period) = args.scrub_period.or(file.scrub_period) {
        config.scrub_period = period.get();
    }
    if let Some(period) = args.compare_period.or(file.compare_period) {
        config.compare_every = period.get();
    }
    config.repair_rate = args.repair_rate.or(file.repair_rate).map(|rate| rate.0);
    config.sweep_mass_percent = args.sweep_mass_percent.unwrap_or(config.sweep_mass_percent);
    let mut signals = Signals::catch()?;
    let _pid_file = args.pid_file.map(PidFile::write).transpose()?;
    let background = Background::start()?;
    let server = tokio::select! {
        started = patiently(|| NodeServer::start_with(config.clone(), net.clone(), background.handle())) => started?,
        () = signals.received() => return Err(Failure::Interrupted),
    };
    show(out, format_args!("storage node listens on {}", server.addr()))?;
    show_console(server.console_addr(), out)?;
    let mut membership = server.membership();
    let registered = membership.wait_for(|membership| matches!(membership, Membership::Registered { .. }));
    let registered = tokio::select! {
        registered = registered => registered.is_ok(),
        () = signals.received() => false,
    };
    if registered {
        show(out, "ready")?;
        signals.received().await;
    }
    tokio::select! {
        () = server.stop() => Ok(()),
        () = signals.received() => Err(Failure::Interrupted),
    }
}
