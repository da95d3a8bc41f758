//! `cairn umount`.

use std::path::PathBuf;

use clap::Args;

use crate::span::Span;

/// Unmount, and wait until everything is written to the cluster
///
/// umount(8) unmounts as well; this command also waits for the processes of the mount, so that afterwards everything that
/// was written is in the cluster. It ends with an error when somebody uses the mount, and names who.
#[derive(Debug, Args)]
pub struct Umount {
    /// Take the mount away at once, even if somebody uses it: open files go on to work, nobody else finds it
    #[arg(short, long)]
    pub lazy: bool,
    /// Give up what waits for the cluster: calls in progress fail, and what was not synced may be lost
    #[arg(short, long)]
    pub force: bool,
    /// How long to wait for what is still to be written
    #[arg(long, value_name = "TIME", default_value = "90s")]
    pub timeout: Span,
    /// Mount points
    #[arg(value_name = "DIR", required = true)]
    pub dirs: Vec<PathBuf>,
}
