//! AC14: three thousand clients and a node that is dead for five minutes. What comes at the dead node must not grow with
//! its being dead, and what comes at the others to see whether they live must stay a trickle.
//!
//! Every client is the product's own, on a network inside this process and on tokio's paused clock, which jumps to the
//! next timer whenever nothing else is to be done. Only the servers are stubs: metadata that knows one file and keeps
//! calling all nodes healthy, so that the clients are left to find out by themselves, and nodes that hold its block.

mod net;
mod servers;

use anyhow::{Context, Result};
use cairn_client::{Consistency, DfsClient, OpenOptions};
use fastrand::Rng;
use net::{Death, FleetNet, World};
use serde::Serialize;
use servers::{META, NODES, Servers};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// Clients come one after the other.
const ARRIVAL: Duration = Duration::from_secs(10);
/// Everything is well for this long, arrival included.
const HEALTHY: Duration = Duration::from_secs(30);
/// What comes at the dead node is looked at from then on.
const AFTER: Duration = Duration::from_secs(60);
/// Time between two reads of a client, in the mean (exponential).
const BETWEEN_READS_S: f64 = 5.0;
/// Length of the busiest stretch, in seconds.
const STRETCH_S: usize = 10;
const BLOCK_LEN: usize = 4096;

/// How much is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Decides every random choice.
    pub seed: u64,
    /// How many clients there are.
    pub clients: u64,
    /// How long the node is dead; more than `AFTER` and a stretch.
    pub dead: Duration,
}

/// What was counted.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Clients.
    pub clients: u64,
    /// Dials, and writes to connections that stand, at the dead node a second, in the mean from the sixtieth second of
    /// its death on.
    pub probes_per_s_at_dead_after60: f64,
    /// The same in the first sixty seconds.
    pub probes_per_s_at_dead_before60: f64,
    /// The same in the busiest ten seconds after the sixtieth: all clients met the death at once and double their pauses
    /// in step, until their jitter has spread them.
    pub busiest_per_s_after60: f64,
    /// PINGs to a live node by one client in five seconds, in the mean.
    pub idle_pings_per_client_node_per_5s: f64,
    /// Reads that began.
    pub reads: u64,
    /// Reads that failed.
    pub failed: u64,
    /// Slowest read, in milliseconds of simulated time.
    pub max_ms: u64,
}

#[derive(Default)]
struct Counters {
    reads: AtomicU64,
    failed: AtomicU64,
    max_ms: AtomicU64,
}

/// Simulates the fleet, on a runtime of its own with a clock of its own: takes processor time, not time.
///
/// # Errors
/// A client cannot even connect.
pub fn run(settings: Settings) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(simulate(settings))
}

async fn simulate(settings: Settings) -> Result<Outcome> {
    let world = World::new(NODES[0]);
    let servers = Servers::start(&world, settings.clients).await?;
    let counters = Arc::new(Counters::default());
    let begin = Instant::now();
    let end = begin + HEALTHY + settings.dead;
    let mut random = Rng::with_seed(settings.seed);
    let mut clients = JoinSet::new();
    for index in 0..settings.clients {
        let (world, counters) = (Arc::clone(&world), Arc::clone(&counters));
        let seed = random.u64(..);
        let death = if index % 2 == 0 { Death::Refuse } else { Death::Silence };
        let from = begin + ARRIVAL.mul_f64(index as f64 / settings.clients as f64);
        clients.spawn(async move {
            sleep_until(from).await;
            client(FleetNet { world, death }, seed, end, &counters).await
        });
    }
    sleep_until(begin + HEALTHY).await;
    world.kill();
    let pings_before = servers.pings();
    while let Some(joined) = clients.join_next().await {
        joined??;
    }
    let pings = servers.pings() - pings_before;
    let contacts = world.contacts();
    let dead_from = HEALTHY.as_secs() as usize;
    let after = dead_from + AFTER.as_secs() as usize;
    let client_node_stretches = settings.clients as f64 * (NODES.len() - 1) as f64 * settings.dead.as_secs_f64() / 5.0;
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Ok(Outcome {
        clients: settings.clients,
        probes_per_s_at_dead_after60: mean(contacts.get(after..).unwrap_or_default()),
        probes_per_s_at_dead_before60: mean(contacts.get(dead_from..after.min(contacts.len())).unwrap_or_default()),
        busiest_per_s_after60: busiest(contacts.get(after..).unwrap_or_default()),
        idle_pings_per_client_node_per_5s: pings as f64 / client_node_stretches,
        reads: get(&counters.reads),
        failed: get(&counters.failed),
        max_ms: get(&counters.max_ms),
    })
}

fn mean(seconds: &[u64]) -> f64 {
    seconds.iter().sum::<u64>() as f64 / seconds.len().max(1) as f64
}

/// Mean of the busiest stretch.
fn busiest(seconds: &[u64]) -> f64 {
    let sums = seconds.windows(STRETCH_S.min(seconds.len()).max(1)).map(|stretch| stretch.iter().sum::<u64>());
    sums.max().unwrap_or(0) as f64 / STRETCH_S as f64
}

/// One client's life.
async fn client(net: FleetNet, seed: u64, end: Instant, counters: &Counters) -> Result<()> {
    let mut random = Rng::with_seed(seed);
    let client = DfsClient::builder().meta(META).seed(seed).net(Arc::new(net)).connect();
    let client = client.await.context("connecting")?;
    let options = OpenOptions::new().create(false).consistency(Consistency::Cached);
    let file = client.open_with("/file", options).await.context("opening the file")?;
    loop {
        // Exponential: -ln of an even draw.
        let pause = Duration::from_secs_f64(-(1.0 - random.f64()).ln() * BETWEEN_READS_S);
        if Instant::now() + pause >= end {
            sleep_until(end).await;
            break;
        }
        sleep(pause).await;
        let began = Instant::now();
        let read = file.read_at(0, BLOCK_LEN).await;
        counters.reads.fetch_add(1, Ordering::Relaxed);
        counters.max_ms.fetch_max(began.elapsed().as_millis() as u64, Ordering::Relaxed);
        if !read.is_ok_and(|bytes| bytes.len() == BLOCK_LEN) {
            counters.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
    client.close().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_stretch_counts() {
        assert_eq!((busiest(&[]), mean(&[])), (0.0, 0.0));
        assert!((mean(&[1, 2, 6]) - 3.0).abs() < 1e-9);
        let mut seconds = vec![1; 30];
        seconds[12] = 101;
        assert!((busiest(&seconds) - 11.0).abs() < 1e-9);
    }

    #[test]
    fn a_small_fleet_reads_on() {
        let outcome = run(Settings { seed: 1, clients: 12, dead: Duration::from_secs(90) }).unwrap();
        assert!(outcome.reads > 100, "{outcome:?}");
        assert_eq!(outcome.failed, 0, "{outcome:?}");
        assert!(outcome.probes_per_s_at_dead_before60 > 0.0, "nobody met the dead node: {outcome:?}");
    }
}
