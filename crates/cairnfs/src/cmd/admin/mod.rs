//! `cairn admin`: what operators do.

mod ledger;
mod scrub;
mod tasks;
mod upgrade;

pub(super) use self::{
    ledger::EntryJson,
    scrub::ScrubJson,
    tasks::{TaskJson, progress},
};

use std::{collections::BTreeMap, time::Duration};

use cairn_client::{Admin, Change, ClusterMap, DfsClient, ErrorKind, Subject};

use crate::{
    args::{self, AdminWhat},
    context::Context,
    failure::Failure,
    output::Out,
    settings::Target,
    text,
};

/// How often something that is waited for is asked about.
const POLL: Duration = Duration::from_secs(1);

/// Runs the command.
pub async fn run(args: args::Admin, context: &Context, out: &mut Out) -> Result<(), Failure> {
    if let AdminWhat::AcceptRollback(args) = &args.what
        && !args.yes
    {
        let what = "this gives up for good what was written after the backup was made; say so with --yes";
        return Err(Failure::usage("accept-rollback", what));
    }
    if let AdminWhat::Collect(args) = &args.what
        && !args.accept
    {
        let what = "garbage is collected by itself; to let it go on after it stopped for its mass, say --accept";
        return Err(Failure::usage("collect", what));
    }
    let client = context.connect().await?;
    let result = dispatch(args.what, &client, out).await;
    client.close().await;
    result
}

async fn dispatch(what: AdminWhat, client: &DfsClient, out: &mut Out) -> Result<(), Failure> {
    let admin = client.admin();
    match what {
        AdminWhat::Scrub(args) => scrub::run(&args, &admin, out).await,
        AdminWhat::Drain(args) => {
            let places = Places::read(&admin).await?;
            let change = Change::Drain(places.resolve(&args.subject)?);
            tasks::change(change, &args.flags, &admin, &places, out).await
        }
        AdminWhat::Add(args) => {
            let places = Places::read(&admin).await?;
            let change = Change::Add(places.resolve(&args.subject)?);
            tasks::change(change, &args.flags, &admin, &places, out).await
        }
        AdminWhat::Replace(args) => {
            let places = Places::read(&admin).await?;
            let change = Change::Replace { from: places.resolve(&args.old)?, to: places.resolve(&args.new)? };
            tasks::change(change, &args.flags, &admin, &places, out).await
        }
        AdminWhat::Balance(args) => {
            let places = Places::read(&admin).await?;
            tasks::change(Change::Balance, &args.flags, &admin, &places, out).await
        }
        AdminWhat::Tasks(args) => tasks::list(&args, &admin, out).await,
        AdminWhat::Cancel(args) => {
            admin.cancel_task(args.id).await.map_err(|error| Failure::admin(&error))?;
            out.line(format_args!("task {}: no further move begins; those under way are finished", args.id))
        }
        AdminWhat::Upgrade(args) => upgrade::run(&args, &admin, out).await,
        AdminWhat::Ledger(args) => ledger::run(&args, &admin, out).await,
        AdminWhat::AcceptRollback(_) => {
            admin.accept_rollback().await.map_err(|error| Failure::admin(&error))?;
            out.line("accepted: blocks that metadata knows nothing of are garbage from now on")
        }
        AdminWhat::GiveUp(args) => {
            let places = Places::read(&admin).await?;
            let change = Change::GiveUp(places.resolve(&args.subject)?);
            let flags = args::TaskFlags { dry_run: !args.yes, wait: args.wait, json: args.json };
            tasks::change(change, &flags, &admin, &places, out).await
        }
        AdminWhat::Collect(_) => {
            admin.accept_collection().await.map_err(|error| Failure::admin(&error))?;
            out.line("accepted: what waits is collected")
        }
    }
}

/// Where nodes and stores are.
struct Places {
    /// Numbers and addresses.
    nodes: BTreeMap<u32, String>,
    /// The node of each store.
    stores: BTreeMap<u32, u32>,
}

impl Places {
    async fn read(admin: &Admin) -> Result<Self, Failure> {
        Ok(Self::of(&admin.map().await.map_err(|error| Failure::admin(&error))?))
    }

    fn of(map: &ClusterMap) -> Self {
        Self {
            nodes: map.nodes.iter().cloned().collect(),
            stores: map.stores.iter().map(|store| (store.id, store.node)).collect(),
        }
    }

    /// The node or store that an operator named.
    ///
    /// # Errors
    /// There is none; the message lists those there are.
    fn resolve(&self, target: &Target) -> Result<Subject, Failure> {
        let known = match target {
            Target::Node(id) => self.nodes.contains_key(id).then_some(Subject::Node(*id)),
            Target::Store(id) => self.stores.contains_key(id).then_some(Subject::Store(*id)),
            Target::Address(addr) => {
                self.nodes.iter().find(|(_, known)| *known == addr).map(|(id, _)| Subject::Node(*id))
            }
        };
        known.ok_or_else(|| {
            let nodes: Vec<String> = self.nodes.iter().map(|(id, addr)| format!("node:{id} ({addr})")).collect();
            let stores: Vec<String> = self.stores.keys().map(|id| format!("store:{id}")).collect();
            Failure::at(
                target,
                format_args!("not in this cluster, which has {}, {}", nodes.join(", "), stores.join(", ")),
            )
        })
    }

    /// The node of a store; 0 when nobody knows.
    fn node_of(&self, store: u32) -> u32 {
        self.stores.get(&store).copied().unwrap_or_default()
    }

    fn addr(&self, node: u32) -> &str {
        self.nodes.get(&node).map_or("-", String::as_str)
    }
}

/// Whether to ask again later, because the one who was asked is away or busy.
fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Deadline)
}

/// A time span for people: `45 s`, `12 min`, `3 h 20 min`.
fn span(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Bytes done of bytes there are.
fn share(done: u64, total: u64) -> String {
    format!("{} of {}", text::human(done), text::human(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let text = |seconds| span(Duration::from_secs(seconds));
        assert_eq!([text(0), text(119), text(120), text(7199)], ["0 s", "119 s", "2 min", "120 min"]);
        assert_eq!(text(12_000), "3 h 20 min");
    }

    #[test]
    fn targets_are_looked_up() {
        let places = Places {
            nodes: BTreeMap::from([(1, "127.0.0.1:9001".to_owned()), (2, "127.0.0.1:9002".to_owned())]),
            stores: BTreeMap::from([(4, 1), (5, 2)]),
        };
        let resolve = |text: &str| places.resolve(&text.parse().unwrap());
        assert_eq!(resolve("2"), Ok(Subject::Node(2)));
        assert_eq!(resolve("127.0.0.1:9002"), Ok(Subject::Node(2)));
        assert_eq!(resolve("store:5"), Ok(Subject::Store(5)));
        let failure = resolve("store:2").unwrap_err();
        let message = failure.message().unwrap();
        assert!(message.contains("store:2") && message.contains("node:1 (127.0.0.1:9001)"), "{message}");
        assert!(resolve("127.0.0.1:9003").is_err() && resolve("3").is_err());
    }
}
