//! `cairn admin`.

use clap::{Args, Subcommand};

use crate::{
    settings::{LedgerLimit, Target},
    span::Span,
};

/// Operate the cluster: scrub, drain, add, replace, balance, give-up, tasks, ledger
///
/// NODE and STORE are written as `node:3` and `store:7`; a bare number is a node, as is an address (127.0.0.1:9003).
/// `cairn status` shows both. What changes memberships prints a plan and is then carried out by the metadata servers:
/// it goes on whatever is restarted meanwhile. `cairn admin tasks` shows how far it is.
#[derive(Debug, Args)]
pub struct Admin {
    #[command(subcommand)]
    pub what: AdminWhat,
}

/// What operators do.
#[derive(Debug, Subcommand)]
pub enum AdminWhat {
    Scrub(Scrub),
    Drain(Drain),
    Add(Add),
    Replace(Replace),
    Balance(Balance),
    Tasks(Tasks),
    Cancel(Cancel),
    Ledger(Ledger),
    AcceptRollback(AcceptRollback),
    GiveUp(GiveUp),
    Collect(Collect),
    Upgrade(Upgrade),
}

/// Show at which version the cluster works, and raise it once all programs know the next one
#[derive(Debug, Args)]
pub struct Upgrade {
    #[command(subcommand)]
    pub what: UpgradeWhat,
}

/// What is done about it.
#[derive(Debug, Subcommand)]
pub enum UpgradeWhat {
    /// Show versions, and what stands in the way
    Status(UpgradeStatus),
    /// Raise the cluster to the newest version that its metadata server knows
    ///
    /// Until then the former programs can be run again, and what is new is refused. Refused while a server or node that
    /// is up runs an older program.
    Finalize(UpgradeFinalize),
}

/// Flags of `cairn admin upgrade status`.
#[derive(Debug, Args)]
pub struct UpgradeStatus {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `cairn admin upgrade finalize`.
#[derive(Debug, Args)]
pub struct UpgradeFinalize {
    /// Yes, the former program will not be run again
    #[arg(long)]
    pub yes: bool,
}

/// Read and check everything that stores hold, now
///
/// Without --node and --store: all nodes. A pass that is under way is not begun again. What is bad is repaired from
/// other replicas and written into the node's ledger.
#[derive(Debug, Args)]
pub struct Scrub {
    /// Only this node; may be given several times
    #[arg(long, value_name = "NODE")]
    pub node: Vec<Target>,
    /// Only this store; may be given several times
    #[arg(long, value_name = "STORE", value_parser = crate::settings::parse_store)]
    pub store: Vec<Target>,
    /// Wait until everything was read; the exit status is 1 if defects stay open
    #[arg(long)]
    pub wait: bool,
    /// Wait no longer for a node that has not answered for so long; the exit status is 1 then [default: 1m]
    #[arg(long, value_name = "TIME", requires = "wait")]
    pub give_up_after: Option<Span>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of what changes memberships.
#[derive(Debug, Args)]
pub struct TaskFlags {
    /// Print the plan and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Wait until it is done; stopping the wait does not stop the task
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Move everything off a node or store, which then takes nothing new
///
/// Refused when too few stores would be left for the replica count, or when there is no room. When it is done, the node
/// or disk can be taken away; `cairn admin add` brings it back into use.
#[derive(Debug, Args)]
pub struct Drain {
    #[command(flatten)]
    pub flags: TaskFlags,
    /// What to empty
    #[arg(value_name = "NODE|STORE")]
    pub subject: Target,
}

/// Give a node or store its share of what there is
///
/// A new node is used for new files at once; this moves old ones to it, too. Also takes back a drain.
#[derive(Debug, Args)]
pub struct Add {
    #[command(flatten)]
    pub flags: TaskFlags,
    /// What to fill
    #[arg(value_name = "NODE|STORE")]
    pub subject: Target,
}

/// Move everything from one node or store to another
#[derive(Debug, Args)]
pub struct Replace {
    #[command(flatten)]
    pub flags: TaskFlags,
    /// What to empty
    #[arg(value_name = "OLD")]
    pub old: Target,
    /// What takes its place
    #[arg(value_name = "NEW")]
    pub new: Target,
}

/// Move from stores that are fuller than the mean to emptier ones
#[derive(Debug, Args)]
pub struct Balance {
    #[command(flatten)]
    pub flags: TaskFlags,
}

/// List tasks: those that run or wait, then those that ended
#[derive(Debug, Args)]
pub struct Tasks {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Begin no further moves of a task; those under way are finished
#[derive(Debug, Args)]
pub struct Cancel {
    /// Its number, as `cairn admin tasks` shows it
    #[arg(value_name = "ID")]
    pub id: u64,
}

/// Show what was found wrong on nodes and what became of it, newest first
#[derive(Debug, Args)]
pub struct Ledger {
    /// At most so many entries of each node
    #[arg(long, value_name = "N", default_value = "50")]
    pub limit: LedgerLimit,
    /// Only what is not repaired
    #[arg(long)]
    pub open: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Only this node
    #[arg(value_name = "NODE")]
    pub node: Option<Target>,
}

/// Accept that metadata was restored from an older backup
///
/// What was written after that backup is then given up: blocks that the restored metadata knows nothing of become
/// garbage and are deleted. Until it is accepted they are kept, and nothing is collected. If a newer copy of the
/// metadata exists, stop everything and restore that instead.
#[derive(Debug, Args)]
pub struct AcceptRollback {
    /// Yes, give up what was written after the backup
    #[arg(long)]
    pub yes: bool,
}

/// Say that a node or store which does not answer will never be back
///
/// Without --yes it says what that would mean, and does nothing. With it, others take over its memberships at once, also
/// while so many are silent that nothing is taken for lost by itself. Groups of which nobody else holds everything go on
/// with what is left: blocks that only the lost store held are gone, and `cairn fsck` names the files. If it answers
/// before everything has moved, what has not moved stays with it.
#[derive(Debug, Args)]
pub struct GiveUp {
    /// Yes, what it alone holds may be lost
    #[arg(long)]
    pub yes: bool,
    /// Wait until everything has moved; stopping the wait does not stop the task
    #[arg(long, requires = "yes")]
    pub wait: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// What is lost
    #[arg(value_name = "NODE|STORE")]
    pub subject: Target,
}

/// Let the collection of garbage go on that stopped because so much became garbage at once
///
/// When files were removed by mistake, or metadata lost them, do not: as long as nothing is collected, every block is
/// there, and metadata restored from a backup finds it.
#[derive(Debug, Args)]
pub struct Collect {
    /// Yes, so many files were removed on purpose
    #[arg(long)]
    pub accept: bool,
}
