//! `cairn policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::{
    settings::{BlockSize, DurabilityName, PolicyReplicas},
    span::Span,
};

/// Show or change how files in a directory are stored
#[derive(Debug, Args)]
pub struct Policy {
    #[command(subcommand)]
    pub what: PolicyWhat,
}

/// What to do with policies.
#[derive(Debug, Subcommand)]
pub enum PolicyWhat {
    /// Show what new files in a directory are given
    Get(PolicyGet),
    Set(PolicySet),
}

/// See [`PolicyWhat::Get`].
#[derive(Debug, Args)]
pub struct PolicyGet {
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
    /// Directories, or files to see how they are stored
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// Change what new files and directories in a directory are given
///
/// They inherit it; what is there already keeps its own. What is not given stays as it is.
#[derive(Debug, Args)]
pub struct PolicySet {
    /// Copies of every block, from 1 to 5
    #[arg(long, value_name = "N")]
    pub replicas: Option<PolicyReplicas>,
    /// Bytes in a block: a multiple of 64K from 64K to 64M
    #[arg(long, value_name = "SIZE")]
    pub block_size: Option<BlockSize>,
    /// `durable`: writes are acknowledged once on disk; `relaxed`: before, and what was written within the last second may
    /// be lost when all machines lose power
    #[arg(long, value_name = "LEVEL")]
    pub durability: Option<DurabilityName>,
    /// Keep what is removed for this long, as 168h; `off` = not at all
    #[arg(long, value_name = "TIME")]
    pub trash: Option<TrashTime>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The directory
    #[arg(value_name = "DIR")]
    pub path: PathBuf,
}

/// How long a directory keeps what is removed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrashTime {
    /// 0 = not at all.
    pub seconds: u64,
}

impl std::str::FromStr for TrashTime {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self { seconds: 0 });
        }
        match text.parse::<Span>()?.get().as_secs() {
            0 => Err("at least a second is allowed, or off"),
            seconds => Ok(Self { seconds }),
        }
    }
}
