//! `cairn snapshot`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand};

/// Take, list and delete snapshots: directories as they were
///
/// What is in a snapshot is read like anything else: `cairn ls DIR/.snapshots`, `cairn get -r DIR/.snapshots/NAME`.
#[derive(Debug, Args)]
pub struct Snapshot {
    #[command(subcommand)]
    pub what: SnapshotWhat,
}

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotWhat {
    Create(SnapshotCreate),
    /// List snapshots, those taken first at the top
    Ls(SnapshotLs),
    Rm(SnapshotRm),
}

/// Take a snapshot of a directory and all that is below it
///
/// Takes no longer for a large directory than for a small one, and no space until something is changed or removed.
#[derive(Debug, Args)]
pub struct SnapshotCreate {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The directory
    #[arg(value_name = "DIR")]
    pub path: PathBuf,
    /// What to call it in DIR/.snapshots [default: the time, as 2026-03-01T08.15.00Z]
    #[arg(value_name = "NAME")]
    pub name: Option<OsString>,
}

/// See [`SnapshotWhat::Ls`].
#[derive(Debug, Args)]
pub struct SnapshotLs {
    /// Also those that only hold what is there, for a backup
    #[arg(long)]
    pub all: bool,
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
    /// Only those of this directory
    #[arg(value_name = "DIR")]
    pub path: Option<PathBuf>,
}

/// Delete snapshots of a directory
///
/// Space that only they kept becomes free in the background.
#[derive(Debug, Args)]
pub struct SnapshotRm {
    /// The directory
    #[arg(value_name = "DIR")]
    pub path: PathBuf,
    /// Names of snapshots
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<OsString>,
}
