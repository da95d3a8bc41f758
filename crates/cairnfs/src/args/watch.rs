//! `cairn watch`.

use std::path::PathBuf;

use cairn_client::WatchCursor;
use clap::Args;

/// Print what changes at a path and below, as it happens
///
/// One line for each change, until it is interrupted: created, removed, renamed, changed, with the path. What is renamed
/// across the border of what is watched is created or removed, with the word `moved`. With --json each line is an object;
/// its `cursor` is where to go on with --since, whatever happened meanwhile. Changes are kept for a day.
#[derive(Debug, Args)]
pub struct Watch {
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Go on where an earlier watch was
    #[arg(long, value_name = "CURSOR", conflicts_with = "oldest")]
    pub since: Option<WatchCursor>,
    /// Begin with the oldest change that is kept
    #[arg(long)]
    pub oldest: bool,
    /// End after so many changes
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// What to watch
    #[arg(value_name = "PATH", default_value = "/")]
    pub path: PathBuf,
}
