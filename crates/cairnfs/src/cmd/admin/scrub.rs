//! `cairn admin scrub`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cairn_client::{Admin, StoreScrub, Subject};
use serde::Serialize;
use tokio::time::sleep;

use super::{POLL, Places, is_passing, share};
use crate::{
    args,
    cmd::{Complaints, live::Live},
    failure::Failure,
    output::{Align, Out, Table},
    span::Span,
    text,
};

/// How long repairs may take behind a pass while none is finished, before their defects count as open.
const REPAIRS_MAX: Duration = Duration::from_secs(60);

/// How long a node that does not answer is waited for, unless the command says otherwise.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How far a store is, in JSON.
#[derive(Debug, Serialize)]
pub(in crate::cmd) struct ScrubJson {
    pass: u64,
    running: bool,
    asked: bool,
    bytes_done: u64,
    bytes_total: u64,
    found: u64,
    repaired: u64,
    last_complete: Option<String>,
    behind: bool,
}

impl From<&StoreScrub> for ScrubJson {
    fn from(scrub: &StoreScrub) -> Self {
        Self {
            pass: scrub.pass,
            running: scrub.running,
            asked: scrub.asked,
            bytes_done: scrub.bytes_done,
            bytes_total: scrub.bytes_total,
            found: scrub.found,
            repaired: scrub.repaired,
            last_complete: (scrub.last_complete_ns != 0).then(|| text::rfc3339(scrub.last_complete_ns)),
            behind: scrub.behind,
        }
    }
}

#[derive(Serialize)]
struct StoreJson {
    node: u64,
    store: u64,
    #[serde(flatten)]
    scrub: ScrubJson,
}

/// A store while it is waited for.
#[derive(Debug, Clone, Copy)]
struct Watched {
    node: u32,
    /// When the last complete pass before ours ended.
    before_ns: i64,
    /// The pass that is waited for.
    pass: u64,
    now: StoreScrub,
    /// When its node answered last.
    heard: Instant,
    /// It was said that its node does not answer.
    is_silent: bool,
    /// Its node was silent for too long.
    is_given_up: bool,
}

impl Watched {
    fn new(node: u32, before: Option<&StoreScrub>, begun: StoreScrub) -> Self {
        // What ended before the answer to the start was not our pass, if that runs.
        let earlier = before.map_or(0, |before| before.last_complete_ns);
        let before_ns = if begun.running { earlier.max(begun.last_complete_ns) } else { earlier };
        Self {
            node,
            before_ns,
            pass: begun.pass,
            now: begun,
            heard: Instant::now(),
            is_silent: false,
            is_given_up: false,
        }
    }

    /// Its node has answered.
    fn hear(&mut self, now: Option<StoreScrub>, at: Instant) {
        self.now = now.unwrap_or(self.now);
        (self.heard, self.is_silent) = (at, false);
    }

    /// Its node has not answered; true when that is news.
    fn miss(&mut self, at: Instant, silence_max: Duration) -> bool {
        self.is_given_up = at.saturating_duration_since(self.heard) >= silence_max;
        !std::mem::replace(&mut self.is_silent, true)
    }

    /// Nothing more is to be waited for, repairs apart.
    fn is_over(&self) -> bool {
        self.is_given_up || self.is_complete()
    }

    /// The pass that we asked for, or a later one, went through.
    fn is_complete(&self) -> bool {
        self.now.last_complete_ns > self.before_ns && (self.now.pass > self.pass || !self.now.running)
    }

    /// It ended without having gone through: its node was restarted.
    fn is_lost(&self) -> bool {
        !self.now.running && !self.is_complete()
    }

    fn open(&self) -> u64 {
        self.now.found.saturating_sub(self.now.repaired)
    }
}

/// Runs the command.
pub(super) async fn run(args: &args::Scrub, admin: &Admin, out: &mut Out) -> Result<(), Failure> {
    let places = Places::read(admin).await?;
    let mut subjects = Vec::new();
    for target in args.node.iter().chain(&args.store) {
        subjects.push(places.resolve(target)?);
    }
    if subjects.is_empty() {
        subjects.extend(places.nodes.keys().map(|id| Subject::Node(*id)));
    }
    let mut complaints = Complaints::new("admin scrub");
    let mut watched: BTreeMap<u32, Watched> = BTreeMap::new();
    for subject in subjects {
        if let Some(begun) = complaints.hear(begin(subject, admin, &places).await)? {
            watched.extend(begun.into_iter().map(|watched| (watched.now.store, watched)));
        }
    }
    let mut stores: Vec<Watched> = watched.into_values().collect();
    if args.wait {
        let silence_max = args.give_up_after.map_or(SILENCE_MAX, Span::get);
        wait(&mut stores, admin, silence_max).await?;
        for store in stores.iter().filter(|store| store.is_given_up) {
            let silent = store.heard.elapsed().as_secs();
            let what = format_args!(
                "node {} ({}) has not answered for {silent} s; its pass goes on by itself when it is back, and \
                 `cairn admin scrub --wait` waits for it again",
                store.node,
                places.addr(store.node),
            );
            complaints.hear::<()>(Err(Failure::at(format_args!("store {}", store.now.store), what)))?;
        }
    }
    write(&stores, args, &places, out)?;
    let open: u64 = stores.iter().map(Watched::open).sum();
    if args.wait && open > 0 {
        out.flush()?;
        let what = format_args!("{} not repaired; `cairn admin ledger --open` lists them", text::count(open, "defect"));
        complaints.hear::<()>(Err(Failure::at("scrub", what)))?;
    }
    complaints.end()
}

async fn begin(subject: Subject, admin: &Admin, places: &Places) -> Result<Vec<Watched>, Failure> {
    let failed = |error| Failure::named(subject, &error);
    let before = admin.scrub_progress(subject).await.map_err(failed)?;
    let begun = admin.start_scrub(subject).await.map_err(failed)?;
    let watch = |begun: StoreScrub| {
        let before = before.iter().find(|before| before.store == begun.store);
        Watched::new(places.node_of(begun.store), before, begun)
    };
    Ok(begun.into_iter().map(watch).collect())
}

/// Asks until every pass went through and what was found is repaired, or is not being repaired any more.
async fn wait(stores: &mut [Watched], admin: &Admin, silence_max: Duration) -> Result<(), Failure> {
    let mut live = Live::new(true);
    let mut repairs = (Instant::now(), u64::MAX);
    loop {
        live.set(progress(stores));
        let heard = stores.iter().filter(|store| !store.is_given_up);
        let open: u64 = heard.map(Watched::open).sum();
        if stores.iter().all(Watched::is_over) {
            if open < repairs.1 {
                repairs = (Instant::now(), open);
            }
            if open == 0 || repairs.0.elapsed() > REPAIRS_MAX {
                break;
            }
        }
        sleep(POLL).await; // tidy: sleep-ok(an operator waits for the cluster)
        let waited_for = |store: &&mut Watched| !store.is_given_up && (!store.is_complete() || store.open() > 0);
        for store in stores.iter_mut().filter(waited_for) {
            let subject = Subject::Store(store.now.store);
            let asked = match store.is_lost() {
                true => admin.start_scrub(subject).await,
                false => admin.scrub_progress(subject).await,
            };
            match asked {
                Ok(now) => {
                    let own = now.into_iter().find(|now| now.store == store.now.store);
                    store.hear(own, Instant::now());
                }
                Err(error) if is_passing(error.kind()) => {
                    if store.miss(Instant::now(), silence_max) {
                        live.say(format_args!("node {} does not answer; it is asked again", store.node));
                    }
                }
                Err(error) => {
                    live.finish();
                    return Err(Failure::named(subject, &error));
                }
            }
        }
    }
    live.finish();
    Ok(())
}

fn progress(stores: &[Watched]) -> String {
    let sum = |field: fn(&StoreScrub) -> u64| stores.iter().map(|store| field(&store.now)).sum::<u64>();
    let complete = stores.iter().filter(|store| store.is_complete()).count();
    let found = sum(|scrub| scrub.found);
    let repaired = sum(|scrub| scrub.repaired);
    format!(
        "scrub: {complete} of {} stores, {} read, {} ({repaired} repaired)",
        stores.len(),
        share(sum(|scrub| scrub.bytes_done), sum(|scrub| scrub.bytes_total)),
        text::count(found, "defect"),
    )
}

fn write(stores: &[Watched], args: &args::Scrub, places: &Places, out: &mut Out) -> Result<(), Failure> {
    if args.json {
        let json = |store: &Watched| StoreJson {
            node: store.node.into(),
            store: store.now.store.into(),
            scrub: ScrubJson::from(&store.now),
        };
        return out.json(&stores.iter().map(json).collect::<Vec<_>>());
    }
    if stores.is_empty() {
        return Ok(());
    }
    use Align::{Left, Right};
    let mut table = Table::new(&[Right, Right, Left, Right, Left, Left, Right, Right]);
    table.row(["STORE", "NODE", "ADDRESS", "PASS", "STATE", "READ", "FOUND", "REPAIRED"].map(str::to_owned));
    for store in stores {
        let scrub = &store.now;
        table.row([
            scrub.store.to_string(),
            store.node.to_string(),
            places.addr(store.node).to_owned(),
            scrub.pass.to_string(),
            if scrub.running { "running" } else { "complete" }.to_owned(),
            share(scrub.bytes_done, scrub.bytes_total),
            scrub.found.to_string(),
            scrub.repaired.to_string(),
        ]);
    }
    table.lines().into_iter().try_for_each(|line| out.line(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrub(pass: u64, running: bool, last_complete_ns: i64) -> StoreScrub {
        StoreScrub { pass, running, last_complete_ns, ..Default::default() }
    }

    #[test]
    fn only_the_pass_that_was_asked_for_counts() {
        let mut store = Watched::new(1, Some(&scrub(3, true, 10)), scrub(3, true, 10));
        assert!(!store.is_complete() && !store.is_lost());
        store.now = scrub(3, false, 20);
        assert!(store.is_complete());
        store.now = scrub(4, true, 20);
        assert!(store.is_complete(), "the next one began already");
        store.now = scrub(3, false, 10);
        assert!(store.is_lost(), "it ended and nothing was completed");
        store.now = scrub(4, true, 10);
        assert!(!store.is_complete() && !store.is_lost(), "it was begun again");
        store.now = scrub(4, false, 30);
        assert!(store.is_complete());
    }

    #[test]
    fn a_node_that_is_silent_for_too_long_is_given_up() {
        let mut store = Watched::new(1, Some(&scrub(3, true, 10)), scrub(4, true, 10));
        let at = |seconds| store.heard + Duration::from_secs(seconds);
        let (early, late, later) = (at(59), at(60), at(119));
        assert!(store.miss(early, SILENCE_MAX) && !store.is_over());
        assert!(!store.miss(early, SILENCE_MAX), "it is said once");
        store.hear(None, late);
        assert!(store.miss(later, SILENCE_MAX) && !store.is_over(), "it has answered meanwhile");
        store.miss(late + SILENCE_MAX, SILENCE_MAX);
        assert!(store.is_given_up && store.is_over() && !store.is_complete());
    }

    #[test]
    fn a_pass_that_ended_while_ours_was_asked_for_is_another() {
        let mut store = Watched::new(1, Some(&scrub(3, true, 10)), scrub(4, true, 15));
        store.now = scrub(4, true, 15);
        assert!(!store.is_complete());
        store.now = scrub(4, false, 16);
        assert!(store.is_complete());
    }

    #[test]
    fn an_empty_store_is_through_at_once() {
        assert!(Watched::new(1, Some(&scrub(0, false, 0)), scrub(1, false, 5)).is_complete());
        assert!(Watched::new(1, None, scrub(1, false, 5)).is_complete());
    }
}
