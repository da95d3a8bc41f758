//! What `cairn meta` does instead of running a server.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::span::Span;

/// The other commands of `cairn meta`.
#[derive(Debug, Subcommand)]
pub enum MetaInstead {
    Backup(MetaBackup),
    Dump(MetaDump),
    Load(MetaLoad),
    Migrate(MetaMigrate),
    Check(MetaCheck),
    Recover(MetaRecover),
}

/// Make the embedded engine anew from what storage nodes keep of it
///
/// For a metadata server whose disk is lost. Everything up to the last commit that a node acknowledged comes back; see
/// docs/operations/backup.md for what to do then.
#[derive(Debug, Args)]
pub struct MetaRecover {
    /// Addresses of storage nodes, comma separated; name all that are left
    #[arg(long, value_name = "ADDRS", value_delimiter = ',', required = true)]
    pub from_nodes: Vec<String>,
    /// Empty engine, as file:DIR
    #[arg(long, value_name = "URL")]
    pub engine: String,
}

/// Write all metadata to a file, as it is at one moment
///
/// Through a running server (--meta), or from an engine that no server uses (--engine). Files may be written meanwhile.
#[derive(Debug, Args)]
pub struct MetaDump {
    /// Engine that no server uses, as file:DIR [default: ask the metadata server]
    #[arg(long, value_name = "URL")]
    pub engine: Option<String>,
    /// File to write, which must not be there; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// No progress on standard error
    #[arg(short, long)]
    pub quiet: bool,
}

/// Make, list and remove backups: dumps whose blocks stay on the nodes
///
/// What is removed or overwritten after a backup keeps its space as long as the backup is kept, so that every file in it
/// can be read after its dump was loaded.
#[derive(Debug, Args)]
pub struct MetaBackup {
    #[command(subcommand)]
    pub what: BackupWhat,
}

/// What to do with backups.
#[derive(Debug, Subcommand)]
pub enum BackupWhat {
    Create(BackupCreate),
    /// List backups, those made first at the top
    Ls(BackupLs),
    /// Remove backups: what only they kept becomes free
    ///
    /// Their files are not touched, but files in them may be gone from the nodes soon.
    Rm(BackupRm),
}

/// Write all metadata to a file, and keep everything that it refers to
///
/// As it is at one moment, while work goes on. Load it with `cairn meta load`.
#[derive(Debug, Args)]
pub struct BackupCreate {
    /// File to write, which must not be there; `-` is standard output [default: NAME.cairn-dump]
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Remove it after so long, as 168h; counted while metadata servers run [default: keep it until it is removed]
    #[arg(long, value_name = "TIME")]
    pub ttl: Option<Span>,
    /// No progress on standard error
    #[arg(short, long)]
    pub quiet: bool,
    /// What to call it
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// See [`BackupWhat::Ls`].
#[derive(Debug, Args)]
pub struct BackupLs {
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
}

/// See [`BackupWhat::Rm`].
#[derive(Debug, Args)]
pub struct BackupRm {
    /// Names of backups
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// Load a dump into an empty engine
///
/// Whole or not at all: when this fails, no server opens the engine, and loading again begins anew.
#[derive(Debug, Args)]
pub struct MetaLoad {
    /// Empty engine, as file:DIR
    #[arg(long, value_name = "URL")]
    pub engine: String,
    /// Dump to read; `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// No progress on standard error
    #[arg(short, long)]
    pub quiet: bool,
}

/// Move all metadata from one engine to another
///
/// Stop the servers first. The old engine is fenced: no server opens it afterwards.
#[derive(Debug, Args)]
pub struct MetaMigrate {
    /// Engine with the metadata, as file:DIR
    #[arg(value_name = "FROM")]
    pub from: String,
    /// Empty engine
    #[arg(value_name = "TO")]
    pub to: String,
    /// No progress on standard error
    #[arg(short, long)]
    pub quiet: bool,
}

/// Check metadata's rows against each other
///
/// Through a running server (--meta), or on an engine that no server uses (--engine). `cairn fsck` also asks what storage
/// nodes hold. The exit status is 0 when nothing is wrong and 1 when defects remain.
#[derive(Debug, Args)]
pub struct MetaCheck {
    /// Engine that no server uses, as file:DIR [default: ask the metadata server]
    #[arg(long, value_name = "URL")]
    pub engine: Option<String>,
    /// Mend what can be mended without losing content
    #[arg(long)]
    pub repair: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// No progress on standard error
    #[arg(short, long)]
    pub quiet: bool,
}
