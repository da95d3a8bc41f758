//! The commands that look at files and at the cluster, or change names; each is a module with one `run`.

mod admin;
pub mod cert;
mod chmod;
mod content;
mod cp;
mod df;
mod du;
mod explain;
mod facts;
mod fsck;
mod links;
pub mod live;
mod ls;
pub mod mount;
mod names;
mod policy;
mod quota;
mod relocate;
mod remove;
mod snapshot;
mod stat;
mod stats;
mod status;
mod trash;
mod tree;
mod watch;
mod xattr;

pub use self::{
    admin::run as admin,
    chmod::run as chmod,
    content::{locks, punch, truncate},
    cp::run as cp,
    df::run as df,
    du::run as du,
    explain::run as explain,
    fsck::run as fsck,
    links::{chown, ln, mkfifo, mknod, touch},
    ls::run as ls,
    names::{mkdir, mv, rm},
    policy::run as policy,
    quota::run as quota,
    snapshot::run as snapshot,
    stat::run as stat,
    stats::run as stats,
    status::run as status,
    trash::run as trash,
    tree::run as tree,
    watch::run as watch,
    xattr::{acl, xattr},
};
use crate::{
    args,
    context::{Context, remote_path},
    copy,
    failure::Failure,
    output::{Out, say},
};

/// Goes on after a failure, and remembers that there was one.
pub(crate) struct Complaints {
    command: &'static str,
    any: bool,
}

impl Complaints {
    pub(crate) fn new(command: &'static str) -> Self {
        Self { command, any: false }
    }

    /// Says what failed and yields `None`, or yields what was done.
    ///
    /// # Errors
    /// Nobody reads our output any more: there is no use in going on.
    pub(crate) fn hear<T>(&mut self, result: Result<T, Failure>) -> Result<Option<T>, Failure> {
        match result {
            Ok(done) => Ok(Some(done)),
            Err(failure) => match failure.message() {
                Some(message) => {
                    say(format_args!("cairn {}: {message}", self.command));
                    self.any = true;
                    Ok(None)
                }
                None if failure == Failure::Told => {
                    self.any = true;
                    Ok(None)
                }
                None => Err(failure),
            },
        }
    }

    pub(crate) fn end(self) -> Result<(), Failure> {
        if self.any { Err(Failure::Told) } else { Ok(()) }
    }
}

/// `cairn cat`: prints files one after the other.
pub async fn cat(args: args::Cat, context: &Context, out: &mut Out) -> Result<(), Failure> {
    args.paths.iter().try_for_each(|path| remote_path(path))?;
    let client = context.connect().await?;
    let mut complaints = Complaints::new("cat");
    for path in &args.paths {
        complaints.hear(copy::get::print(&client, path, out).await)?;
        // What was read before a failure comes before its message.
        out.flush()?;
    }
    client.close().await;
    complaints.end()
}

/// `cairn completions`: prints what a shell wants to know.
pub fn completions(args: &args::Completions, out: &mut Out) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut <args::Cli as clap::CommandFactory>::command(), "cairn", &mut script);
    out.bytes(&script)
}
