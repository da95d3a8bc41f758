//! `cairn trash`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// List, restore or drop what was removed
///
/// A directory keeps what is removed from it for as long as its policy says: `cairn policy set DIR --trash 168h`. What is in
/// the trash counts against quotas until it is dropped.
#[derive(Debug, Args)]
pub struct Trash {
    #[command(subcommand)]
    pub what: TrashWhat,
}

/// What to do with the trash.
#[derive(Debug, Subcommand)]
pub enum TrashWhat {
    /// List what is in the trash, oldest first
    Ls(TrashLs),
    /// Put something back where it was, or at another place; never over something that is there
    Restore(TrashRestore),
    /// Drop what is in the trash, for good
    Empty(TrashEmpty),
}

/// See [`TrashWhat::Ls`].
#[derive(Debug, Args)]
pub struct TrashLs {
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
    /// Only what was removed at or below this path
    #[arg(value_name = "PATH", default_value = "/")]
    pub path: PathBuf,
}

/// See [`TrashWhat::Restore`].
#[derive(Debug, Args)]
pub struct TrashRestore {
    /// Put it there
    #[arg(long, value_name = "PATH")]
    pub to: Option<PathBuf>,
    /// Make directories above that are missing
    #[arg(short, long)]
    pub parents: bool,
    /// The path it had (the one removed last, if there are several), or its id as `trash ls` shows it
    #[arg(value_name = "PATH|ID")]
    pub what: String,
}

/// See [`TrashWhat::Empty`].
#[derive(Debug, Args)]
pub struct TrashEmpty {
    /// Everything
    #[arg(long, conflicts_with = "what")]
    pub all: bool,
    /// Paths (all that was removed there or below) or ids
    #[arg(value_name = "PATH|ID", required_unless_present = "all")]
    pub what: Vec<String>,
}
