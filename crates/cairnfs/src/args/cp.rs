//! `cairn cp`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Copy inside CairnFS: into DST if it is a directory, else to the name DST, replacing a file of that name
///
/// A copy shares its blocks with what it is copied from, until one of the two is written: it takes no time and no space.
/// Sources may lie in a snapshot. Each file appears whole or not at all.
#[derive(Debug, Args)]
pub struct Cp {
    /// Copy directories with all that is in them; symbolic links are copied as links
    #[arg(short, long, visible_short_alias = 'R')]
    pub recursive: bool,
    /// `always`: share blocks; `never`: read and write every byte, so that the copy is stored as its directory says
    #[arg(long, value_name = "WHEN", default_value = "always", num_args = 0..=1, require_equals = true,
        default_missing_value = "always")]
    pub reflink: Reflink,
    /// What to copy
    #[arg(value_name = "SRC", required = true)]
    pub sources: Vec<PathBuf>,
    /// Where to
    #[arg(value_name = "DST")]
    pub target: PathBuf,
}

/// Whether a copy shares blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Reflink {
    /// It does.
    Always,
    /// It gets blocks of its own.
    Never,
}
