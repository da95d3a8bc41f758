//! `cairn`, the command line of CairnFS: parsed text (args.rs) and settings (settings.rs) become a call of a command; a
//! command works through the client library (or runs servers: up/, roles.rs), writes through output.rs and ends in a
//! [`failure::Failure`] or not. This file knows the order of these steps and nothing else.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "works on the user's own files, in real time")]

mod args;
mod background;
mod cmd;
mod context;
mod copy;
mod failure;
mod logs;
mod mode;
mod mount;
mod output;
mod roles;
mod settings;
mod signals;
mod span;
mod text;
mod up;

use std::{ffi::OsString, process::ExitCode, time::Duration};

use clap::{CommandFactory, FromArgMatches, parser::ValueSource};

use crate::{
    args::{Cli, Command, Global, MetaRole, NodeInstead, NodeRole},
    context::Context,
    failure::Failure,
    output::{Out, say},
    settings::FileSettings,
    signals::Signals,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long the end of the process waits for threads that are inside a system call.
const EXIT_MAX: Duration = Duration::from_secs(2);

/// Threads of a client command. Each keeps memory of its own for every size of buffer, so more are dear and gain little.
const WORKERS_MAX: usize = 8;
/// Threads of a client command that wait for the local disk. Two streams (copy/memory.rs) and the measuring of a tree
/// may hold one each for long; the others are for whoever comes.
const BLOCKING_MAX: usize = 8;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let words = match words.first() {
        Some(program) if mount::helper::is_called(program) => {
            match mount::helper::translate(words.into_iter(), rustix::process::geteuid().is_root()) {
                Ok(mount::helper::Call::Run(words)) => words,
                Ok(mount::helper::Call::Nothing) => return ExitCode::SUCCESS,
                Err(failure) => {
                    say(format_args!("mount.fuse.cairn: {}", failure.message().unwrap_or_default()));
                    return failure.exit_code();
                }
            }
        }
        _ => words,
    };
    let matches = Cli::command().get_matches_from(&words);
    let meta_flag = matches.value_source("meta") == Some(ValueSource::CommandLine)
        || matches.subcommand().is_some_and(|(_, own)| own.value_source("meta") == Some(ValueSource::CommandLine));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let name = cli.command.name();
    match run(cli, meta_flag, words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                say(format_args!("cairn {name}: {message}"));
            }
            failure.exit_code()
        }
    }
}

fn run(cli: Cli, meta_flag: bool, words: Vec<OsString>) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    if meta_flag && matches!(command, Command::Up(_) | Command::Meta(MetaRole { instead: None, .. })) {
        return Err(Failure::usage("--meta", "this command is what --meta would point to; it takes --listen"));
    }
    let file = FileSettings::load(global.config.as_deref())?;
    if matches!(command, Command::Up(_)) && (global.certs.is_some() || file.certs.is_some()) {
        let why = "`cairn up` keeps to loopback, without certificates; start `cairn meta` and `cairn node` with them";
        return Err(Failure::usage("--certs", why));
    }
    logs::start(&logs::LogSettings {
        filter: global.log.clone().filter(|filter| !filter.is_empty()).or_else(|| file.log.clone()),
        verbose: global.verbose,
        server: command.is_server(),
        format: global.log_format.or(file.log_format).unwrap_or_default(),
    })?;
    let context = Context::new(command.name(), &global, file, words);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().thread_name("cairn");
    if !command.is_server() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        builder.worker_threads(cores.clamp(2, WORKERS_MAX)).max_blocking_threads(BLOCKING_MAX);
    }
    let runtime = builder.build().map_err(|error| Failure::at("the runtime", error))?;
    let result = runtime.block_on(dispatch(command, &global, &context));
    // A thread may be stuck in a read of standard input.
    runtime.shutdown_timeout(EXIT_MAX);
    result
}

async fn dispatch(command: Command, global: &Global, context: &Context) -> Result<(), Failure> {
    let mut out = Out::new()?;
    let result = match command {
        Command::Up(args) => up::run(args, global, context, &mut out).await,
        Command::Mount(args) => mount::run(args, context, &mut out).await,
        Command::Meta(MetaRole { instead: Some(what), .. }) => {
            let mut signals = Signals::catch()?;
            tokio::select! {
                result = roles::meta_tools::run(what, context, &mut out) => result,
                () = signals.received() => return Err(Failure::Interrupted),
            }
        }
        Command::Meta(args) => roles::meta(args, context, &mut out).await,
        Command::Node(NodeRole { instead: Some(NodeInstead::Inspect(args)), .. }) => {
            roles::inspect::run(&args, &mut out)
        }
        Command::Node(args) => roles::node(args, context, &mut out).await,
        other => {
            let mut signals = Signals::catch()?;
            tokio::select! {
                result = client_command(other, context, &mut out) => result,
                () = signals.received() => return Err(Failure::Interrupted),
            }
        }
    };
    let flushed = out.flush();
    result.and(flushed)
}

async fn client_command(command: Command, context: &Context, out: &mut Out) -> Result<(), Failure> {
    match command {
        Command::Ls(args) => cmd::ls(args, context, out).await,
        Command::Put(args) => copy::put::run(args, context, out).await,
        Command::Get(args) => copy::get::run(args, context, out).await,
        Command::Cat(args) => cmd::cat(args, context, out).await,
        Command::Mkdir(args) => cmd::mkdir(args, context, out).await,
        Command::Mkfifo(args) => cmd::mkfifo(args, context, out).await,
        Command::Mknod(args) => cmd::mknod(args, context, out).await,
        Command::Rm(args) => cmd::rm(args, context, out).await,
        Command::Mv(args) => cmd::mv(args, context, out).await,
        Command::Cp(args) => cmd::cp(args, context, out).await,
        Command::Ln(args) => cmd::ln(args, context, out).await,
        Command::Chmod(args) => cmd::chmod(args, context, out).await,
        Command::Chown(args) => cmd::chown(args, context, out).await,
        Command::Touch(args) => cmd::touch(args, context, out).await,
        Command::Xattr(args) => cmd::xattr(args, context, out).await,
        Command::Acl(args) => cmd::acl(args, context, out).await,
        Command::Truncate(args) => cmd::truncate(args, context, out).await,
        Command::Punch(args) => cmd::punch(args, context, out).await,
        Command::Locks(args) => cmd::locks(args, context, out).await,
        Command::Stat(args) => cmd::stat(args, context, out).await,
        Command::Du(args) => cmd::du(args, context, out).await,
        Command::Df(args) => cmd::df(args, context, out).await,
        Command::Tree(args) => cmd::tree(args, context, out).await,
        Command::Status(args) => cmd::status(args, context, out).await,
        Command::Admin(args) => cmd::admin(args, context, out).await,
        Command::Fsck(args) => cmd::fsck(args, context, out).await,
        Command::Policy(args) => cmd::policy(args, context, out).await,
        Command::Snapshot(args) => cmd::snapshot(args, context, out).await,
        Command::Watch(args) => cmd::watch(args, context, out).await,
        Command::Trash(args) => cmd::trash(args, context, out).await,
        Command::Quota(args) => cmd::quota(args, context, out).await,
        Command::Cert(args) => cmd::cert::run(&args, out),
        Command::Stats(args) => cmd::stats(args, context, out).await,
        Command::Explain(args) => cmd::explain(args, context, out).await,
        Command::Umount(args) => mount::umount::run(args).await,
        Command::Completions(args) => cmd::completions(&args, out),
        Command::Up(_) | Command::Mount(_) | Command::Meta(_) | Command::Node(_) => {
            unreachable!("servers are dispatched apart")
        }
    }
}
