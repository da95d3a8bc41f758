//! AC9: the metadata server, or the database under it, is killed while commits are under way. Every operation happens once
//! all the same, whoever looks at the same time sees one order, and nobody is told that the outcome cannot be known.

use super::{Context, Form, Scenario};
use crate::appends::{self, Append, Look, digest};
use crate::cluster::Cluster;
use crate::engine::{Engine, Kind};
use crate::payload::{self, LINE, Mark};
use crate::quantile::Samples;
use crate::report::Outcome;
use anyhow::{Context as _, Result, ensure};
use cairn_client::{CreateOptions, DfsClient, Error, ErrorKind, File, OpenOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Clients that have an operation under way when the server is killed.
const CLIENTS: u32 = 4;
/// Operations that a kill has met, in the full form and in the short one.
const MET: usize = 1000;
const MET_SHORT: usize = 24;
/// As [`MET_SHORT`], where it is a database that is killed, which takes longer to come back.
const MET_ENGINE_SHORT: usize = 8;
/// Rounds after which a run ends in any case: most kills meet somebody.
const ROUNDS_PER_MET: usize = 4;
/// Rounds without a kill from which it is learnt how long operations take.
const ROUNDS_QUIET: usize = 10;
/// The server is killed at most so many usual latencies after the operations were called.
const SPREAD: f64 = 1.5;
/// What an operation may take: far more than the criterion lets pass.
const DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of a block of the files that are written in place.
const BLOCK_LEN: u32 = 64 * 1024;
/// Blocks that are written again and again.
const BLOCKS: u64 = 8;
/// Bytes of the shared log that are read at once.
const READ_MAX: usize = 4 << 20;

const AC9: &str = ".lost==0 and .duplicated==0 and .indeterminate==0 and .gap_p99_s<=2 and .linearizable and .failed==0 \
                   and .met>=1000 and .looks>=500 and .wrong_bytes==0";
const AC9_SHORT: &str = ".lost==0 and .duplicated==0 and .indeterminate==0 and .linearizable and .failed==0 and .met>=24 \
                         and .looks>=20 and .wrong_bytes==0";

/// As [`AC9`]. A new leader is elected when the others have missed the old one for a second or two, and what was on its
/// way through another member is missed for longer; a server of PostgreSQL recovers first.
const AC9_ENGINE: &str = ".lost==0 and .duplicated==0 and .indeterminate==0 and .gap_p99_s<=10 and .linearizable and \
                          .failed==0 and .met>=1000 and .looks>=500 and .wrong_bytes==0";
const AC9_ENGINE_SHORT: &str = ".lost==0 and .duplicated==0 and .indeterminate==0 and .linearizable and .failed==0 and \
                                .met>=8 and .looks>=5 and .wrong_bytes==0";

/// See the module.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "AC9",
        about: "the metadata server killed at a random point of each of 1,000 commits of four clients",
        criterion: AC9,
        short: AC9_SHORT,
        families: &["kill"],
        ci: true,
        run: |context| Box::pin(server_killed(context)),
    },
    Scenario {
        name: "AC9-etcd",
        about: "AC9 with metadata on three members of etcd, of which the leader is killed instead",
        criterion: AC9_ENGINE,
        short: AC9_ENGINE_SHORT,
        families: &["kill"],
        ci: true,
        run: |context| Box::pin(engine_killed(context, Kind::Etcd)),
    },
    Scenario {
        name: "AC9-postgres",
        about: "AC9 with metadata on PostgreSQL, which is killed instead and recovers",
        criterion: AC9_ENGINE,
        short: AC9_ENGINE_SHORT,
        families: &["kill"],
        ci: true,
        run: |context| Box::pin(engine_killed(context, Kind::Postgres)),
    },
];

/// Whom the kills are meant for.
enum Prey {
    Server,
    Engine(Engine),
}

impl Prey {
    async fn aim(&self) -> Result<()> {
        match self {
            Self::Server => Ok(()),
            Self::Engine(engine) => engine.aim().await,
        }
    }

    /// Kills it, and starts it again; when that was.
    async fn strike(&self, cluster: &Cluster, begun: Instant) -> Result<Duration> {
        match self {
            Self::Server => {
                cluster.meta().kill()?;
                let killed = begun.elapsed();
                cluster.meta().restart().await?;
                Ok(killed)
            }
            Self::Engine(engine) => {
                engine.kill().await?;
                let killed = begun.elapsed();
                cluster.count("kill", 1);
                engine.restart().await?;
                Ok(killed)
            }
        }
    }
}

/// What one client does in a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Deed {
    /// Appends a record to the log that all share.
    Append,
    /// Makes a file that must not be there.
    Create(u32),
    /// Gives the file made before another name.
    Rename(u32),
    /// Removes it.
    Remove(u32),
    /// Overwrites a block.
    Write(u64),
}

/// An operation that has ended.
struct Event {
    deed: Deed,
    seq: u32,
    invoked: Duration,
    returned: Duration,
    result: Result<(), Error>,
}

/// One of the clients, with what it expects to find at the end.
struct Actor {
    number: u32,
    client: DfsClient,
    log: File,
    blocks: File,
    seq: u32,
    files: u32,
    appends: Vec<Append>,
    names: BTreeSet<String>,
    written: BTreeMap<u64, u32>,
}

fn name(actor: u32, file: u32, renamed: bool) -> String {
    format!("/c{actor}/{}-{file}", if renamed { "m" } else { "n" })
}

impl Actor {
    async fn start(cluster: &Cluster, number: u32, seed: u64) -> Result<Self> {
        let builder = cluster.client().seed(seed ^ u64::from(number)).meta_timeout(DEADLINE);
        let client = builder.write_timeout(DEADLINE).read_timeout(DEADLINE).connect().await?;
        client.create_dir(format!("/c{number}")).await?;
        let log = client.open("/log").await?;
        let options = OpenOptions::new().attributes(CreateOptions::new().block_len(BLOCK_LEN));
        let blocks = client.open_with(format!("/b{number}"), options).await?;
        let (appends, names, written) = Default::default();
        Ok(Self { number, client, log, blocks, seq: 0, files: 0, appends, names, written })
    }

    /// Half of what is done are appends, which tell most.
    fn next(&mut self, round: usize) -> Deed {
        self.seq += 1;
        match (round + self.number as usize) % 8 {
            1 => {
                self.files += 1;
                Deed::Create(self.files)
            }
            3 if self.files > 0 => Deed::Rename(self.files),
            5 => Deed::Write(u64::from(self.seq) % BLOCKS),
            // Every other file stays.
            7 if self.files > 0 && self.files.is_multiple_of(2) => Deed::Remove(self.files),
            _ => Deed::Append,
        }
    }

    async fn act(&self, deed: Deed) -> Result<(), Error> {
        let mark = Mark { file: self.number, seq: self.seq };
        match deed {
            Deed::Append => self.log.append(payload::content(mark, 0, LINE)).await.map(drop),
            Deed::Create(file) => {
                let options = OpenOptions::new().create_new(true);
                self.client.open_with(name(self.number, file, false), options).await.map(drop)
            }
            Deed::Rename(file) => {
                self.client.rename(name(self.number, file, false), name(self.number, file, true)).await
            }
            Deed::Remove(file) => self.client.remove_file(name(self.number, file, true)).await,
            Deed::Write(index) => {
                let bytes = payload::content(mark, index * u64::from(BLOCK_LEN), BLOCK_LEN as usize);
                self.blocks.write_block(index, bytes).await.map(drop)
            }
        }
    }

    fn note(&mut self, event: &Event) {
        let done = event.result.is_ok();
        match event.deed {
            Deed::Append => {
                let record = u64::from(self.number) << 32 | u64::from(event.seq);
                self.appends.push(Append { record, invoked: event.invoked, returned: done.then_some(event.returned) });
            }
            Deed::Create(file) if done => {
                self.names.insert(name(self.number, file, false));
            }
            Deed::Rename(file) if done => {
                self.names.remove(&name(self.number, file, false));
                self.names.insert(name(self.number, file, true));
            }
            Deed::Remove(file) if done => {
                self.names.remove(&name(self.number, file, true));
            }
            Deed::Write(index) if done => {
                self.written.insert(index, event.seq);
            }
            _ => {}
        }
    }
}

/// What the rounds left.
#[derive(Default)]
struct Tally {
    rounds: usize,
    ops: usize,
    met: usize,
    failed: u64,
    indeterminate: u64,
    /// Operations refused because an earlier attempt of the same had happened.
    repeated: u64,
    gaps: Samples,
    errors: BTreeSet<String>,
}

impl Tally {
    fn add(&mut self, event: &Event, killed: Option<Duration>) {
        self.ops += 1;
        if let Some(killed) = killed.filter(|killed| event.invoked < *killed && *killed < event.returned) {
            self.met += 1;
            self.gaps.push(event.returned - killed);
        }
        let Err(error) = &event.result else { return };
        self.failed += 1;
        self.indeterminate += u64::from(error.kind() == ErrorKind::Indeterminate);
        self.repeated += u64::from(matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound));
        if self.errors.len() < 5 {
            self.errors.insert(format!("{:?}: {error}", event.deed));
        }
    }
}

/// Reads the log again and again until told to stop.
async fn look(log: File, begun: Instant, stop: Arc<AtomicBool>) -> Result<Vec<Look>> {
    let mut looks = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let invoked = begun.elapsed();
        let records = records(&log).await.context("reading the log")?;
        looks.push(Look { count: records.len(), digest: digest(&records), invoked, returned: begun.elapsed() });
        sleep(Duration::from_millis(5)).await;
    }
    Ok(looks)
}

/// The records of the log; one that is not whole is told as one that nobody wrote.
async fn records(log: &File) -> Result<Vec<u64>, Error> {
    let bytes = log.read_at(0, READ_MAX).await?;
    let record = |line: &[u8]| match payload::claimed(line) {
        Some(mark) if line.len() == LINE && payload::wrong_bytes(mark, 0, line) == 0 => {
            u64::from(mark.file) << 32 | u64::from(mark.seq)
        }
        _ => u64::MAX,
    };
    Ok(bytes.chunks(LINE).map(record).collect())
}

async fn round(actors: Vec<Actor>, deeds: &[Deed], begun: Instant) -> Result<(Vec<Actor>, Vec<Event>)> {
    let running: Vec<_> = actors
        .into_iter()
        .zip(deeds.iter().copied())
        .map(|(mut actor, deed)| {
            tokio::spawn(async move {
                let invoked = begun.elapsed();
                let result = actor.act(deed).await;
                let event = Event { deed, seq: actor.seq, invoked, returned: begun.elapsed(), result };
                actor.note(&event);
                (actor, event)
            })
        })
        .collect();
    let mut ended = (Vec::new(), Vec::new());
    for task in running {
        let (actor, event) = task.await?;
        ended.0.push(actor);
        ended.1.push(event);
    }
    Ok(ended)
}

async fn server_killed(context: Context) -> Result<Outcome> {
    let wanted = if context.form == Form::Full { MET } else { MET_SHORT };
    let cluster = context.cluster(3).await?;
    hunted(context, &cluster, &Prey::Server, wanted).await
}

async fn engine_killed(context: Context, kind: Kind) -> Result<Outcome> {
    let wanted = if context.form == Form::Full { MET } else { MET_ENGINE_SHORT };
    let engine = Engine::start(kind).await?;
    let mut setup = context.setup(3);
    setup.meta_args.extend(["--engine".to_owned(), engine.url().to_owned()]);
    let cluster = Cluster::start(&setup).await?;
    hunted(context, &cluster, &Prey::Engine(engine), wanted).await
}

async fn hunted(context: Context, cluster: &Cluster, prey: &Prey, wanted: usize) -> Result<Outcome> {
    let mut rng = fastrand::Rng::with_seed(context.seed);
    let mut actors = Vec::new();
    for number in 1..=CLIENTS {
        actors.push(Actor::start(cluster, number, context.seed).await?);
    }
    let reader = cluster.client().read_timeout(DEADLINE).meta_timeout(DEADLINE).connect().await?;
    let log = reader.open("/log").await?;
    let begun = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let looking = tokio::spawn(look(log.clone(), begun, stop.clone()));

    let mut tally = Tally::default();
    let mut usual = Samples::default();
    while tally.met < wanted && tally.rounds < ROUNDS_QUIET + wanted * ROUNDS_PER_MET {
        let deeds: Vec<Deed> = actors.iter_mut().map(|actor| actor.next(tally.rounds)).collect();
        let kill_after = (tally.rounds >= ROUNDS_QUIET).then(|| usual.quantile(0.5).mul_f64(SPREAD * rng.f64()));
        prey.aim().await?;
        let strike = async {
            let Some(after) = kill_after else { return Ok(None) };
            sleep(after).await;
            anyhow::Ok(Some(prey.strike(cluster, begun).await?))
        };
        let (ended, killed) = tokio::join!(round(actors, &deeds, begun), strike);
        let (back, events) = ended?;
        let killed = killed?;
        actors = back;
        for event in &events {
            tally.add(event, killed);
            if killed.is_none() {
                usual.push(event.returned - event.invoked);
            }
        }
        tally.rounds += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let looks = looking.await??;
    let outcome = judge(cluster, &actors, &log, &looks, tally).await?;
    for actor in actors {
        actor.client.close().await;
    }
    reader.close().await;
    Ok(outcome)
}

async fn judge(cluster: &Cluster, actors: &[Actor], log: &File, looks: &[Look], tally: Tally) -> Result<Outcome> {
    let appends: Vec<Append> = actors.iter().flat_map(|actor| actor.appends.iter().copied()).collect();
    let verdict = appends::check(&records(log).await?, &appends, looks);
    let (mut lost, mut duplicated, mut wrong_bytes) = (verdict.lost, verdict.duplicated + tally.repeated, 0);
    for actor in actors {
        let mut entries = actor.client.read_dir(format!("/c{}", actor.number)).await?;
        let mut found = BTreeSet::new();
        while let Some(entry) = entries.next_entry().await? {
            found.insert(format!("/c{}/{}", actor.number, entry.name.to_string_lossy()));
        }
        lost += actor.names.difference(&found).count() as u64;
        duplicated += found.difference(&actor.names).count() as u64;
        for (index, seq) in &actor.written {
            let bytes = actor.blocks.read_block(*index).await?;
            let mark = Mark { file: actor.number, seq: *seq };
            wrong_bytes += payload::wrong_bytes(mark, index * u64::from(BLOCK_LEN), &bytes);
        }
    }
    ensure!(!looks.is_empty(), "nobody looked");
    let mut gaps = tally.gaps;
    let mut outcome = Outcome { fired: cluster.fired(), ..Outcome::default() };
    outcome.set("rounds", tally.rounds);
    outcome.set("ops", tally.ops);
    outcome.set("met", tally.met);
    outcome.set("failed", tally.failed);
    outcome.set("indeterminate", tally.indeterminate);
    outcome.set("lost", lost);
    outcome.set("duplicated", duplicated);
    outcome.set("wrong_bytes", wrong_bytes);
    outcome.set("looks", looks.len());
    outcome.set("appends", appends.len());
    outcome.set("linearizable", verdict.is_linearizable());
    outcome.set("verdict", format!("{verdict:?}"));
    outcome.set("gap_p50_s", gaps.quantile(0.5).as_secs_f64());
    outcome.set("gap_p99_s", gaps.quantile(0.99).as_secs_f64());
    outcome.set("errors", tally.errors.into_iter().collect::<Vec<_>>());
    Ok(outcome)
}
