//! `cairn truncate`, `cairn punch`, `cairn locks`.

use std::path::PathBuf;

use clap::Args;

use crate::settings::ByteSize;

/// Set the length of files
///
/// What lies behind is dropped; what is added is a hole, which reads as zeros and takes no room.
#[derive(Debug, Args)]
pub struct Truncate {
    /// New length, as 4096 or 1G
    #[arg(short, long, value_name = "BYTES")]
    pub size: ByteSize,
    /// Files; none is made
    #[arg(value_name = "FILE", required = true)]
    pub paths: Vec<PathBuf>,
}

/// Make a hole in files: its bytes read as zeros and take no room
///
/// The length stays as it is.
#[derive(Debug, Args)]
pub struct Punch {
    /// First byte of the hole
    #[arg(short, long, value_name = "BYTES", default_value = "0")]
    pub offset: ByteSize,
    /// Bytes in it
    #[arg(short, long, value_name = "BYTES")]
    pub length: ByteSize,
    /// Files
    #[arg(value_name = "FILE", required = true)]
    pub paths: Vec<PathBuf>,
}

/// Show who has locked files, and who waits for a lock
#[derive(Debug, Args)]
pub struct Locks {
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
    /// Files
    #[arg(value_name = "FILE", required = true)]
    pub paths: Vec<PathBuf>,
}
