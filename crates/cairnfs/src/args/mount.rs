//! `cairn mount`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::settings::ByteSize;

/// Mount CairnFS as a file system of this machine
///
/// Returns when the mount answers. From then on a server in the background answers for it, and a supervisor starts another
/// one should it die: open files are lost then, nothing that was synced is. It ends with `cairn umount MOUNTPOINT`, with
/// umount(8), or when either process gets SIGTERM. What they have to say is in /run/cairn.
///
/// With --foreground there is no supervisor, and a line `ready` is printed once the mount answers.
///
/// Options of -o, separated by commas: ro; allow_other (users other than who mounts; needs user_allow_other in
/// /etc/fuse.conf unless root mounts); uid=N and gid=N (everything is shown to belong to N, and what is made does);
/// root_squash (root of this machine is nobody in CairnFS); strict (nothing is cached: every operation sees what any other
/// mount did before); relaxed (changes return before they are on
/// disk, as on a local file system; fsync waits for the disk); hard (wait for the cluster for ever instead of failing); ttl=MS (how long names and attributes hold,
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
    /// First column of the mount table [default: the metadata servers and the directory]
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Memory for blocks that were read; 0 = none [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    pub cache_memory: Option<ByteSize>,
    /// Keep more of them in this directory of a local disk; it belongs to one mount at a time
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// How much of that disk, at least 16MiB [default: 10GiB]
    #[arg(long, value_name = "SIZE", requires = "cache_dir")]
    pub cache_size: Option<ByteSize>,
    /// Stay in the foreground, without a supervisor
    #[arg(short, long)]
    pub foreground: bool,
    /// Which of its processes this is.
    #[arg(long, value_name = "STAGE", hide = true)]
    pub stage: Option<Stage>,
    /// Directory of this machine to mount at
    #[arg(value_name = "MOUNTPOINT")]
    pub path: PathBuf,
}

/// The processes that `cairn mount` starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// Watches the server.
    Supervise,
    /// Serves.
    Serve,
}

impl Stage {
    /// Its word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Supervise => "supervise",
            Self::Serve => "serve",
        }
    }
}
