//! `cairn fsck`.

use clap::Args;

/// Check metadata, groups and what nodes hold against each other
///
/// Explains each defect: what, where, why, and what to do. Files may be written meanwhile. The exit status is 0 when
/// everything is as it should be and 1 when defects remain.
#[derive(Debug, Args)]
pub struct Fsck {
    /// Mend what can be mended: rows of metadata, and missing replicas of blocks that another store has
    #[arg(long)]
    pub repair: bool,
    /// Leave out what nodes hold: check rows, groups and known gaps only
    #[arg(long)]
    pub quick: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// No progress on standard error
    #[arg(short, long)]
    pub quiet: bool,
}
