//! Mounts: the command `cairn mount` in its stages, `cairn umount`, and how mount(8) calls us.
//!
//! `cairn mount` starts a supervisor (launch.rs) and waits until the mount answers. The supervisor (supervise.rs) starts a
//! server and watches it; the server (cmd/mount.rs) mounts and answers the kernel. A server that dies takes its connection
//! to the kernel along, and with it open files and locks: a mount that went on with them would tell programs that what they
//! wrote and did not sync is there. So the next one mounts anew.

mod dead;
pub mod helper;
mod launch;
mod notify;
mod restarts;
mod run_dir;
mod supervise;
mod table;
pub mod umount;

use std::path::{Path, PathBuf};

pub use dead::{How, clear, unmount};
pub use notify::ready as tell_systemd;
pub use run_dir::Claim;
pub use supervise::READY_LINE;

use crate::{
    args::{Mount, Stage},
    cmd,
    context::Context,
    failure::Failure,
    output::Out,
};

/// Runs the command in the stage that its arguments say.
///
/// # Errors
/// The mount does not come to answer; nothing is left of it then.
pub async fn run(args: Mount, context: &Context, out: &mut Out) -> Result<(), Failure> {
    match args.stage {
        Some(Stage::Supervise) => launch::supervisor(&args.path, &context.words, out).await,
        Some(Stage::Serve) => cmd::mount::run(args, context, out).await,
        None if args.foreground => cmd::mount::run(args, context, out).await,
        None => launch::run(&args.path, &context.words).await,
    }
}

/// Makes sure that something can be mounted at `dir`, and that it is this process that does: the mount point, absolute and
/// free of links, and what has to be kept as long as it is served. Leaves the current directory.
///
/// # Errors
/// It is not there, no directory, mounted already, or another process is at it.
pub async fn take(dir: &Path) -> Result<(PathBuf, Claim), Failure> {
    let point = launch::check(dir).await?;
    launch::leave_directory()?;
    let claim = launch::claim(&point, run_dir::Part::Server).await?;
    Ok((point, claim))
}
