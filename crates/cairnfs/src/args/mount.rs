//! `cairn mount`.

use std::path::PathBuf;

use clap::Args;

use crate::settings::ByteSize;

/// Mount CairnFS as a file system of this machine
///
/// Serves the mount until it is unmounted (umount MOUNTPOINT), or SIGINT or SIGTERM unmounts it. Prints a line `ready` once
/// the mount answers.
///
/// Options of -o, separated by commas: ro; allow_other (users other than who mounts; needs user_allow_other in
/// /etc/fuse.conf unless root mounts); uid=N and gid=N (everything is shown to belong to N, and what is made does);
/// root_squash (root of this machine is nobody in CairnFS); strict (nothing is cached: every operation sees what any other
/// mount did before); hard (wait for the cluster for ever instead of failing); ttl=MS (how long names and attributes hold,
/// 1000 unless told); fsname=NAME; noexec, nosuid, nodev, noatime. What mount(8) and fstab(5) keep for themselves is
/// ignored.
#[derive(Debug, Args)]
pub struct Mount {
    /// Options, as `ro,allow_other`
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// Mount this directory of CairnFS instead of the root
    #[arg(long = "subdir", value_name = "PATH")] // tidy: word-ok(its name)
    pub root: Option<PathBuf>,
    /// Memory for blocks that were read [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    pub cache_memory: Option<ByteSize>,
    /// Keep more of them on this local disk
    #[arg(long, value_name = "DIR", requires = "cache_size")]
    pub cache_dir: Option<PathBuf>,
    /// How much of it
    #[arg(long, value_name = "SIZE", requires = "cache_dir")]
    pub cache_size: Option<ByteSize>,
    /// Stay in the foreground
    #[arg(short, long)]
    pub foreground: bool,
    /// Directory of this machine to mount at
    #[arg(value_name = "MOUNTPOINT")]
    pub path: PathBuf,
}
