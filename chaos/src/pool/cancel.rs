//! AC5: ten thousand requests given up at random points, dropped, out of time, or as losers of a hedge; small and large,
//! in both directions. Afterwards nothing may be left of them.

use super::server::{Server, download, is_right, upload};
use anyhow::{Result, ensure};
use cairn_net::{Call, CloseReason, Identity, LegErrorClass, Link, LinkConfig, LinkStats, TcpNet};
use cairn_proto::{BootId, NodeId};
use fastrand::Rng;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const SERVERS: usize = 3;
/// Requests under way at once: more than there are cores, fewer than there are permits.
const WORKERS: u64 = 24;
const QUIET: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);
/// Together longer than the second after which a link's upkeep looks whether the link is still there.
const SETTLED_STEPS: u32 = 30;
const SETTLE_STEP: Duration = Duration::from_millis(50);
/// What a server may take for an answer, and after what time a request is given up, at most.
const PAUSE_MAX_US: u64 = 2_000;
const GIVE_UP_MAX_US: u64 = 4_000;
const KIB: usize = 1024;
/// Of the control lane.
const SMALL: [usize; 3] = [100, 4 * KIB, 60 * KIB];
/// Of the bulk lane.
const LARGE: [usize; 3] = [256 * KIB, 1024 * KIB, 4096 * KIB];

/// What was counted.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Requests given up while they waited or flew.
    pub cancelled: u64,
    /// By dropping them.
    pub dropped: u64,
    /// By their deadline.
    pub deadlines: u64,
    /// Because another server was faster.
    pub hedges_lost: u64,
    /// Requests that were answered before they could be given up.
    pub answered: u64,
    /// Answers that belong to another request.
    pub wrong_payloads: u64,
    /// Requests that failed for another reason.
    pub failed: u64,
    /// Connections that a server has and no pool knows, and those of pools that are not idle.
    pub leaked_conns: u64,
    /// Permits for requests and bytes that were not given back.
    pub leaked_permits: u64,
    /// Tasks of this process before the first request.
    pub tasks_baseline: u64,
    /// After the pools were closed.
    pub tasks: u64,
    /// Share of the requests given up on the control lane that their connection survived.
    pub ctl_survival: f64,
    /// The same of the bulk lane.
    pub bulk_survival: f64,
}

#[derive(Default)]
struct Counters {
    dropped: AtomicU64,
    deadlines: AtomicU64,
    hedges_lost: AtomicU64,
    answered: AtomicU64,
    wrong: AtomicU64,
    failed: AtomicU64,
}

/// The links to one server. Each lane is used through a link of its own as well as mixed, so that connections that end
/// can be ascribed to a lane.
struct Links {
    small: Link,
    large: Link,
    mixed: Link,
}

impl Links {
    fn new(server: &Server, config: &Arc<LinkConfig>) -> Self {
        let link = || {
            let identity = Identity::client(BootId([1; 16])).shared();
            Link::new(Arc::new(TcpNet), server.addr.to_string(), NodeId(1), identity, Arc::clone(config), 1)
        };
        Self { small: link(), large: link(), mixed: link() }
    }

    fn all(&self) -> [&Link; 3] {
        [&self.small, &self.large, &self.mixed]
    }
}

fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// One request as it is drawn; the same for each server it is sent to.
#[derive(Clone, Copy)]
struct Draw {
    tag: u32,
    len: usize,
    is_upload: bool,
    is_large: bool,
    is_mixed: bool,
    pause: Duration,
    give_up: Duration,
}

impl Draw {
    fn new(random: &mut Rng) -> Self {
        let is_large = random.u32(..4) == 0;
        let sizes = if is_large { LARGE } else { SMALL };
        Self {
            tag: random.u32(..),
            len: sizes[random.usize(..sizes.len())],
            is_upload: random.bool(),
            is_large,
            is_mixed: random.bool(),
            pause: Duration::from_micros(random.u64(..PAUSE_MAX_US)),
            give_up: Duration::from_micros(random.u64(..GIVE_UP_MAX_US)),
        }
    }

    fn link(self, links: &Links) -> &Link {
        match (self.is_mixed, self.is_large) {
            (true, _) => &links.mixed,
            (false, true) => &links.large,
            (false, false) => &links.small,
        }
    }

    fn call(self, deadline: Duration) -> Call {
        let make = if self.is_upload { upload } else { download };
        make(self.tag, self.len, self.pause, deadline)
    }
}

/// One request, given up in one of the three ways unless it is faster.
async fn one(links: &[Links], random: &mut Rng, counters: &Counters) {
    let draw = Draw::new(random);
    let first = random.usize(..links.len());
    let judge = |outcome: Result<cairn_net::Reply, cairn_net::LegError>| match outcome {
        Ok(reply) => {
            bump(&counters.answered);
            if !is_right(&reply, draw.tag, draw.len) {
                bump(&counters.wrong);
            }
        }
        Err(error) if error.class == LegErrorClass::Deadline => bump(&counters.deadlines),
        // The server saw the deadline pass first.
        Err(error) if matches!(&error.class, LegErrorClass::Status(status) if status.code == cairn_proto::status::Code::Deadline) =>
        {
            bump(&counters.deadlines);
        }
        Err(_) => bump(&counters.failed),
    };
    match random.u8(..3) {
        0 => {
            let leg = draw.link(&links[first]).start(draw.call(PATIENCE));
            match timeout(draw.give_up, leg).await {
                Ok(outcome) => judge(outcome),
                Err(_) => bump(&counters.dropped),
            }
        }
        1 => judge(draw.link(&links[first]).start(draw.call(draw.give_up)).await),
        _ => {
            let mut leg = draw.link(&links[first]).start(draw.call(PATIENCE));
            match timeout(draw.give_up / 2, &mut leg).await {
                Ok(outcome) => judge(outcome),
                Err(_) => {
                    let hedge = draw.link(&links[(first + 1) % links.len()]).start(draw.call(PATIENCE));
                    tokio::select! {
                        biased;
                        outcome = leg => judge(outcome),
                        outcome = hedge => judge(outcome),
                    }
                    bump(&counters.hedges_lost);
                }
            }
        }
    }
}

/// Gives up `cancellations` requests.
///
/// # Errors
/// A server did not come up, or the work does not end.
pub async fn run(seed: u64, cancellations: u64) -> Result<Outcome> {
    let config = Arc::new(LinkConfig::default());
    let mut servers = Vec::new();
    for _ in 0..SERVERS {
        servers.push(Server::start("127.0.0.1:0", |_| ()).await?);
    }
    let tasks_baseline = settled_tasks().await?;
    let links: Arc<Vec<Links>> = Arc::new(servers.iter().map(|server| Links::new(server, &config)).collect());
    let counters = Arc::new(Counters::default());
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let (links, counters) = (Arc::clone(&links), Arc::clone(&counters));
        let mut random = Rng::with_seed(seed.wrapping_mul(WORKERS).wrapping_add(worker));
        workers.spawn(async move {
            while cancelled(&links) < cancellations {
                one(&links, &mut random, &counters).await;
            }
        });
    }
    while let Some(joined) = workers.join_next().await {
        joined?;
    }
    sleep(QUIET).await;
    let mut outcome = judge(&links, &servers, &config);
    drop(links);
    outcome.tasks_baseline = tasks_baseline;
    outcome.tasks = settled_tasks().await?;
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    outcome.dropped = get(&counters.dropped);
    outcome.deadlines = get(&counters.deadlines);
    outcome.hedges_lost = get(&counters.hedges_lost);
    outcome.answered = get(&counters.answered);
    outcome.wrong_payloads = get(&counters.wrong);
    outcome.failed = get(&counters.failed);
    for server in servers {
        server.stop().await;
    }
    Ok(outcome)
}

fn cancelled(links: &[Links]) -> u64 {
    links.iter().flat_map(Links::all).map(|link| link.stats().cancels).sum()
}

/// Connections that ended although nothing but cancellations happened to them.
fn closed(stats: &LinkStats) -> u64 {
    let natural = [CloseReason::Idle, CloseReason::Age];
    stats.closes.iter().sum::<u64>() - natural.into_iter().map(|reason| stats.closed(reason)).sum::<u64>()
}

/// What is left once everything has been quiet for a while.
fn judge(links: &[Links], servers: &[Server], config: &LinkConfig) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut ctl, mut bulk) = ((0, 0), (0, 0));
    for (links, server) in links.iter().zip(servers) {
        let mut pooled = 0;
        for link in links.all() {
            let stats = link.stats();
            let lanes = [stats.control, stats.bulk];
            let open: usize = lanes.iter().map(|lane| lane.open).sum();
            let not_idle =
                lanes.iter().map(|lane| lane.busy + lane.draining + lane.retired + lane.dialing).sum::<usize>();
            pooled += open;
            outcome.leaked_conns += not_idle as u64;
            outcome.leaked_permits += (config.ops - stats.ops_available) as u64;
            outcome.leaked_permits += (config.bytes - stats.bytes_available) as u64;
            outcome.leaked_permits += (stats.waiting_permits + stats.waiting_connection) as u64;
            outcome.cancelled += stats.cancels;
        }
        outcome.leaked_conns += server.connections().abs_diff(pooled) as u64;
        let (small, large) = (links.small.stats(), links.large.stats());
        ctl = (ctl.0 + closed(&small), ctl.1 + small.cancels);
        bulk = (bulk.0 + closed(&large), bulk.1 + large.cancels);
    }
    let survival = |(closed, cancels): (u64, u64)| 1.0 - closed as f64 / cancels.max(1) as f64;
    outcome.ctl_survival = survival(ctl);
    outcome.bulk_survival = survival(bulk);
    outcome
}

/// Tasks of this runtime, once their number has not changed for a while.
async fn settled_tasks() -> Result<u64> {
    let (begun, mut last, mut same) = (Instant::now(), 0, 0);
    while same < SETTLED_STEPS {
        sleep(SETTLE_STEP).await;
        let now = Handle::current().metrics().num_alive_tasks() as u64;
        same = if now == last { same + 1 } else { 0 };
        last = now;
        ensure!(begun.elapsed() < PATIENCE, "the number of tasks does not settle");
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_left_of_requests_given_up() {
        let outcome = run(7, 300).await.unwrap();
        assert!(outcome.cancelled >= 300 && outcome.dropped > 0 && outcome.deadlines > 0, "{outcome:?}");
        assert_eq!((outcome.leaked_conns, outcome.leaked_permits, outcome.wrong_payloads), (0, 0, 0), "{outcome:?}");
        assert_eq!(outcome.tasks, outcome.tasks_baseline);
    }
}
