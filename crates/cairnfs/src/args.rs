//! The command line: every command and flag, with its help. Knows no default that a file or the environment may set
//! (settings.rs) and does nothing.

mod admin;
mod attributes;
mod cert;
mod content;
mod cp;
mod fsck;
mod meta;
mod mount;
mod policy;
mod quota;
mod roles;
mod snapshot;
mod trash;
mod umount;
mod watch;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

pub use admin::{Admin, AdminWhat, Ledger, Scrub, TaskFlags, Tasks, Upgrade, UpgradeWhat};
pub use attributes::{AclArgs, AclWhat, Chmod, Chown, Ln, Mkfifo, Mknod, SpecialKind, Touch, Xattr, XattrWhat};
pub use cert::{Cert, CertWhat};
pub use content::{Locks, Punch, Truncate};
pub use cp::{Cp, Reflink};
pub use fsck::Fsck;
pub use meta::{
    BackupCreate, BackupRm, BackupWhat, MetaBackup, MetaCheck, MetaDump, MetaInstead, MetaLoad, MetaMigrate,
    MetaRecover,
};
pub use mount::{Mount, Stage};
pub use policy::{Policy, PolicyGet, PolicySet, PolicyWhat};
pub use quota::{Quota, QuotaGet, QuotaLs, QuotaRm, QuotaSet, QuotaWhat};
pub use roles::{Inspect, MetaRole, NodeInstead, NodeRole, Up};
pub use snapshot::{Snapshot, SnapshotCreate, SnapshotLs, SnapshotRm, SnapshotWhat};
pub use trash::{Trash, TrashEmpty, TrashLs, TrashRestore, TrashWhat};
pub use umount::Umount;
pub use watch::Watch;

use crate::settings::{ByteSize, Jobs, LogFormat, WatchSeconds};

/// CairnFS: a distributed file system that keeps working when machines do not.
#[derive(Debug, Parser)]
#[command(
    name = "cairn",
    version,
    max_term_width = 100,
    after_long_help = "\
Paths in CairnFS begin with `/`. `-` is standard input or output. Exit status: 0 done, 1 failed, 2 wrong usage.

Settings come from flags, then the environment (CAIRN_...), then a TOML file: --config or CAIRN_CONFIG, else
~/.config/cairn/cairn.toml, else /etc/cairn/cairn.toml. Its keys: meta, certs, jobs, log, log_format; [up] data, nodes,
replicas, listen, base_port, console, processes, suspect_after, out_after; [meta_server] data, listen, advertise, console,
replicas, suspect_after, out_after, session_lease; [node] data, stores, listen, advertise, console, zone, rack, host,
capacity, scrub_period, compare_period, repair_rate.

Try it:  cairn up &   cairn put -r /usr/share/doc /doc   cairn ls -l /doc   cairn status"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Addresses of the metadata servers, comma separated [default: 127.0.0.1:9000]
    #[arg(long, global = true, value_name = "ADDRS", env = "CAIRN_META", hide_env_values = true)]
    pub meta: Option<String>,
    /// Directory with the certificates of this process (ca.crt, tls.crt, tls.key): every connection is mutual TLS
    #[arg(long, global = true, value_name = "DIR", env = "CAIRN_CERTS", hide_env_values = true)]
    pub certs: Option<PathBuf>,
    /// TOML file with settings
    #[arg(long, global = true, value_name = "FILE", env = "CAIRN_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Log more to standard error: -v what happens, -vv every step
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Log filter, as `warn` or `info,cairn_net=debug` [default: warn]
    #[arg(long, global = true, value_name = "FILTER", env = "CAIRN_LOG", hide_env_values = true)]
    pub log: Option<String>,
    /// Form of the log [default: text]
    #[arg(long, global = true, value_name = "FORMAT", env = "CAIRN_LOG_FORMAT", hide_env_values = true)]
    pub log_format: Option<LogFormat>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Up(Up),
    Meta(MetaRole),
    Node(NodeRole),
    Ls(Ls),
    Put(Put),
    Get(Get),
    Cat(Cat),
    Mkdir(Mkdir),
    Mkfifo(Mkfifo),
    Mknod(Mknod),
    Rm(Rm),
    Mv(Mv),
    Cp(Cp),
    Ln(Ln),
    Chmod(Chmod),
    Chown(Chown),
    Touch(Touch),
    Xattr(Xattr),
    Acl(AclArgs),
    Stat(Stat),
    Truncate(Truncate),
    Punch(Punch),
    Locks(Locks),
    Du(Du),
    Df(Df),
    Tree(Tree),
    Status(Status),
    Admin(Admin),
    Fsck(Fsck),
    Policy(Policy),
    Snapshot(Snapshot),
    Watch(Watch),
    Mount(Mount),
    Umount(Umount),
    Trash(Trash),
    Quota(Quota),
    Cert(Cert),
    Stats(Stats),
    Explain(Explain),
    Completions(Completions),
}

impl Command {
    /// The word that calls this command, as messages name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Up(_) => "up",
            Self::Meta(_) => "meta",
            Self::Node(_) => "node",
            Self::Ls(_) => "ls",
            Self::Put(_) => "put",
            Self::Get(_) => "get",
            Self::Cat(_) => "cat",
            Self::Mkdir(_) => "mkdir",
            Self::Mkfifo(_) => "mkfifo",
            Self::Mknod(_) => "mknod",
            Self::Rm(_) => "rm",
            Self::Mv(_) => "mv",
            Self::Cp(_) => "cp",
            Self::Ln(_) => "ln",
            Self::Chmod(_) => "chmod",
            Self::Chown(_) => "chown",
            Self::Touch(_) => "touch",
            Self::Xattr(_) => "xattr",
            Self::Acl(_) => "acl",
            Self::Stat(_) => "stat",
            Self::Truncate(_) => "truncate",
            Self::Punch(_) => "punch",
            Self::Locks(_) => "locks",
            Self::Du(_) => "du",
            Self::Df(_) => "df",
            Self::Tree(_) => "tree",
            Self::Status(_) => "status",
            Self::Admin(_) => "admin",
            Self::Fsck(_) => "fsck",
            Self::Policy(_) => "policy",
            Self::Snapshot(_) => "snapshot",
            Self::Watch(_) => "watch",
            Self::Mount(_) => "mount",
            Self::Umount(_) => "umount",
            Self::Trash(_) => "trash",
            Self::Quota(_) => "quota",
            Self::Cert(_) => "cert",
            Self::Stats(_) => "stats",
            Self::Explain(_) => "explain",
            Self::Completions(_) => "completions",
        }
    }

    /// Whether the command is a server that runs until it is stopped.
    pub fn is_server(&self) -> bool {
        matches!(
            self,
            Self::Up(_)
                | Self::Mount(_)
                | Self::Meta(MetaRole { instead: None, .. })
                | Self::Node(NodeRole { instead: None, .. })
        )
    }
}

/// List directories
///
/// Entries are sorted by name. Times are UTC, owners are numbers.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Ls {
    /// Show kind and mode, links, owner, size and time
    #[arg(short, long)]
    pub long: bool,
    /// List what is below, too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Show a directory itself, not what it holds
    #[arg(short, long)]
    pub directory: bool,
    /// Sizes as 1.5K, 20M
    #[arg(short = 'h', long)]
    pub human_readable: bool,
    /// Print one JSON array of entries
    #[arg(long)]
    pub json: bool,
    /// What to list
    #[arg(value_name = "PATH", default_value = "/")]
    pub paths: Vec<PathBuf>,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
}

/// Flags that `put` and `get` share.
#[derive(Debug, Args)]
pub struct CopyFlags {
    /// Copy directories with all that is in them; symbolic links are copied as links
    #[arg(short, long, visible_short_alias = 'R')]
    pub recursive: bool,
    /// Files in flight at once [default: 16]
    #[arg(short, long, value_name = "N", env = "CAIRN_JOBS", hide_env_values = true)]
    pub jobs: Option<Jobs>,
    /// No progress bar, no summary; failures are still listed
    #[arg(short, long)]
    pub quiet: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

impl CopyFlags {
    /// How the copy ends on the screen.
    pub fn ending(&self) -> Ending {
        match (self.json, self.quiet) {
            (true, _) => Ending::Json,
            (false, true) => Ending::Quiet,
            (false, false) => Ending::Text,
        }
    }
}

/// How a copy ends on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Quiet,
    Text,
    Json,
}

/// Copy local files into CairnFS
///
/// As `cp -r`: into DST if it is a directory, else as DST. Mode, modification time, symbolic links and hard links between
/// what is copied at once are kept; the owner is who copies. Each file appears whole or not at all, replacing one of that name. What cannot be copied is
/// listed on standard error and the exit status is 1. `-` as SRC is standard input.
#[derive(Debug, Args)]
pub struct Put {
    #[command(flatten)]
    pub copy: CopyFlags,
    /// Have writes acknowledged before they are on disk: faster, but what was copied in the last second may be lost
    /// when all machines lose power
    #[arg(long)]
    pub relaxed: bool,
    /// Local files; `-` is standard input
    #[arg(value_name = "SRC", required = true)]
    pub sources: Vec<PathBuf>,
    /// Where to in CairnFS
    #[arg(value_name = "DST")]
    pub target: PathBuf,
}

/// Copy files out of CairnFS
///
/// As `cp -r`: into DST if it is a directory, else as DST. Mode, modification time, symbolic links and hard links between
/// what is copied at once are kept; the owner is who copies. Each file appears whole or not at all, replacing one of that name. What cannot be copied is
/// listed on standard error and the exit status is 1. `-` as DST is standard output.
#[derive(Debug, Args)]
pub struct Get {
    #[command(flatten)]
    pub copy: CopyFlags,
    /// Files in CairnFS
    #[arg(value_name = "SRC", required = true)]
    pub sources: Vec<PathBuf>,
    /// Local place; `-` is standard output
    #[arg(value_name = "DST")]
    pub target: PathBuf,
}

/// Print files
#[derive(Debug, Args)]
pub struct Cat {
    /// Files to print, one after the other
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// Make directories
#[derive(Debug, Args)]
pub struct Mkdir {
    /// Make the directories above, too; no error if it exists
    #[arg(short, long)]
    pub parents: bool,
    /// Permissions in octal, as 750
    #[arg(short, long, value_name = "MODE", value_parser = crate::settings::parse_mode, default_value = "755")]
    pub mode: u32,
    /// Directories to make
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// Remove files and directories
#[derive(Debug, Args)]
pub struct Rm {
    /// Remove directories with all that is in them
    #[arg(short, long, visible_short_alias = 'R')]
    pub recursive: bool,
    /// No error for what does not exist
    #[arg(short, long)]
    pub force: bool,
    /// Remove it for good, where directories keep what is removed for a while
    #[arg(long, visible_alias = "no-trash")]
    pub purge: bool,
    /// What to remove
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// Move or rename: into DST if it is a directory, else to the name DST, replacing a file of that name
///
/// What is moved to where another quota counts is copied, without moving bytes, and then removed: with owners, modes, times,
/// extended attributes and hard links within it. What is written to it meanwhile may be lost.
#[derive(Debug, Args)]
pub struct Mv {
    /// Take DST as the new name even if it is a directory
    #[arg(short = 'T', long)]
    pub no_target_directory: bool,
    /// Fail where the name is taken
    #[arg(short = 'n', long, conflicts_with = "exchange")]
    pub no_clobber: bool,
    /// Let SRC and DST change places; both have to be there
    #[arg(long)]
    pub exchange: bool,
    /// What to move
    #[arg(value_name = "SRC", required = true)]
    pub sources: Vec<PathBuf>,
    /// Where to
    #[arg(value_name = "DST")]
    pub target: PathBuf,
}

/// Show all that is known of files
#[derive(Debug, Args)]
pub struct Stat {
    /// Follow symbolic links
    #[arg(short = 'L', long)]
    pub dereference: bool,
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
    /// What to show
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// Sum up the sizes of files, by directory
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Du {
    /// Only the total of each PATH
    #[arg(short, long, conflicts_with = "max_depth")]
    pub summarize: bool,
    /// Sizes as 1.5K, 20M; otherwise bytes
    #[arg(short = 'h', long)]
    pub human_readable: bool,
    /// Show directories down to this depth only
    #[arg(short = 'd', long, value_name = "N")]
    pub max_depth: Option<usize>,
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
    /// What to sum up
    #[arg(value_name = "PATH", default_value = "/")]
    pub paths: Vec<PathBuf>,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
}

/// Show the space of the cluster and of each node
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Df {
    /// Sizes as 1.5K, 20M; otherwise bytes
    #[arg(short = 'h', long)]
    pub human_readable: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
    /// Also show the quota that this counts against
    #[arg(value_name = "PATH")]
    pub path: Option<PathBuf>,
}

/// Show a directory as a tree
#[derive(Debug, Args)]
pub struct Tree {
    /// Descend this many levels only
    #[arg(short = 'L', long, value_name = "N")]
    pub level: Option<usize>,
    /// Show directories only
    #[arg(short = 'd', long)]
    pub directories: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Where to begin
    #[arg(value_name = "PATH", default_value = "/")]
    pub path: PathBuf,
}

/// Show the health of the cluster: nodes, groups, degraded runs, defects
#[derive(Debug, Args)]
pub struct Status {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Show the cluster as a client sees it: connections, latencies, breakers, budgets
///
/// Connects, pings every node once, and prints what a client measures: operations, legs by why they were begun, hedges,
/// budgets, circuit breakers, connections, and for each node the state of its breaker, its answer to the ping and the
/// latencies of small requests (moving average, smoothed round trip, quantiles of the last ten seconds, and the time
/// after which another replica is asked). These figures are of this process; a program that uses the library has its
/// own (get_connection_stats).
#[derive(Debug, Args)]
pub struct Stats {
    /// Print JSON: the keys are the fields of ConnectionStats, times are in seconds
    #[arg(long)]
    pub json: bool,
    /// Print what Prometheus would scrape
    #[arg(long, conflicts_with = "json")]
    pub prometheus: bool,
    /// Ping and print again every SECS seconds, until stopped
    #[arg(long, value_name = "SECS")]
    pub watch: Option<WatchSeconds>,
}

/// Do one read or write and show where its time goes, leg by leg
///
/// Prints each leg (one request to one server): why it was begun, how long it waited here, at the server's queue, disk
/// and checksums and, as what is left, on the network; the order in which replicas are asked, with the score and breaker
/// of each; hedges that were not sent, and why; and what became of it.
#[derive(Debug, Args)]
pub struct Explain {
    #[command(subcommand)]
    pub what: ExplainWhat,
}

/// The operations that can be explained.
#[derive(Debug, Subcommand)]
pub enum ExplainWhat {
    /// Read from a file
    Read(ExplainArgs),
    /// Write to a scratch file beside PATH (in it, if PATH is a directory), which is removed again: PATH itself is never
    /// touched and need not exist
    Write(ExplainArgs),
}

/// What is explained.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Begin at this byte [default: 0]
    #[arg(long, value_name = "BYTES")]
    pub offset: Option<ByteSize>,
    /// Read or write so many bytes [default: what is left of the file, at most 4M; 1M for a write]
    #[arg(long, value_name = "BYTES")]
    pub len: Option<ByteSize>,
    /// Print JSON; times are in microseconds
    #[arg(long)]
    pub json: bool,
    /// A file in CairnFS
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

/// Print shell completions
///
/// For example: cairn completions bash > ~/.local/share/bash-completion/completions/cairn
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn definitions_hold_together() {
        Cli::command().debug_assert();
    }
}
