//! Mounts: programs write through a mount while nodes, metadata, the whole cluster or the mount's own server die. What
//! was synced is there at the end, read through a mount that remembers nothing.

use super::{Context, Form, Scenario};
use crate::cluster::Cluster;
use crate::mounted::{Mount, Writers, cannot_mount};
use crate::report::Outcome;
use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Threads that write.
const WRITERS: u32 = 4;
/// How long a mount may be away when its server was killed.
const REMOUNT_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

const WAITS: &str = ".lost==0 and .wrong_bytes==0 and .failed==0 and .ops>=100 and .max_ms<=60000";
const REMOUNTS: &str =
    ".lost==0 and .wrong_bytes==0 and .remounted==.kills and .dead==0 and .away_max_ms<=10000 and .ops>=100";

/// See the module.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "mount-nodes",
        about: "a mount under load, one node after the other killed, frozen and started again",
        criterion: WAITS,
        short: WAITS,
        families: &["kill", "stop"],
        ci: true,
        run: |context| Box::pin(nodes(context)),
    },
    Scenario {
        name: "mount-meta",
        about: "a mount under load, the metadata server killed and started again",
        criterion: WAITS,
        short: WAITS,
        families: &["kill"],
        ci: false,
        run: |context| Box::pin(meta(context)),
    },
    Scenario {
        name: "mount-cluster",
        about: "a mount under load, every server killed at once and started again",
        criterion: WAITS,
        short: WAITS,
        families: &["kill"],
        ci: false,
        run: |context| Box::pin(cluster(context)),
    },
    Scenario {
        name: "mount-server",
        about: "a mount under load, the process that serves it killed again and again",
        criterion: REMOUNTS,
        short: REMOUNTS,
        families: &["server"],
        // About every other run finds that writers reach the directory below while a dead mount is taken away and the next
        // one is not there yet: not fixed.
        ci: false,
        run: |context| Box::pin(server(context)),
    },
];

/// A mount with writers on it.
struct Load {
    mount: Mount,
    writers: Writers,
}

impl Load {
    fn start(context: &Context, cluster: &Cluster, options: &str) -> Result<Self> {
        let mount = mount(context, cluster, "mnt", options)?;
        let writers = Writers::start(&mount.dir, WRITERS)?;
        Ok(Self { mount, writers })
    }

    /// Waits until so many more operations have ended.
    async fn goes_on(&self, more: u64) -> Result<()> {
        let (begun, wanted) = (Instant::now(), self.writers.ops() + more);
        while self.writers.ops() < wanted {
            ensure!(begun.elapsed() < Duration::from_secs(120), "the writers are stuck");
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Ends the writers, mounts anew and verifies.
    async fn finish(mut self, outcome: &mut Outcome, context: &Context, cluster: &Cluster) -> Result<()> {
        self.goes_on(50).await?;
        self.writers.stop()?;
        self.mount.unmount()?;
        // Nothing is remembered by a mount at the same place that did not write.
        let fresh = mount(context, cluster, "mnt", "")?;
        outcome.extend(&self.writers.verify()?)?;
        fresh.unmount()?;
        outcome.fired = cluster.fired();
        Ok(())
    }
}

fn mount(context: &Context, cluster: &Cluster, name: &str, options: &str) -> Result<Mount> {
    let meta = cluster.meta().proxy.addr().to_string();
    // Not below the data of the cluster, which is removed with everything in it.
    let dir = cluster.data().with_extension(name);
    Mount::new(&context.cairn, &meta, &dir, options).context("mounting")
}

fn skipped() -> Option<Outcome> {
    cannot_mount().map(|why| Outcome { skipped: Some(why), ..Outcome::default() })
}

impl Context {
    /// How often something is done to the cluster.
    fn turns(&self, full: u32, short: u32) -> u32 {
        if self.form == Form::Full { full } else { short }
    }
}

async fn nodes(context: Context) -> Result<Outcome> {
    if let Some(outcome) = skipped() {
        return Ok(outcome);
    }
    let cluster = context.cluster(3).await?;
    let load = Load::start(&context, &cluster, "")?;
    for turn in 0..context.turns(12, 2) as usize {
        let node = &cluster.nodes()[(context.victim(3) + turn) % 3];
        load.goes_on(40).await?;
        node.kill()?;
        load.goes_on(40).await?;
        node.restart().await?;
        load.goes_on(40).await?;
        node.stop()?;
        load.goes_on(40).await?;
        node.cont()?;
    }
    let mut outcome = Outcome::default();
    load.finish(&mut outcome, &context, &cluster).await?;
    Ok(outcome)
}

async fn meta(context: Context) -> Result<Outcome> {
    if let Some(outcome) = skipped() {
        return Ok(outcome);
    }
    let cluster = context.cluster(3).await?;
    let load = Load::start(&context, &cluster, "")?;
    for turn in 0..context.turns(10, 2) {
        load.goes_on(40).await?;
        cluster.meta().kill()?;
        // Long enough that callers wait, and now and then longer than a usual timeout of a request.
        sleep(Duration::from_millis(if turn % 4 == 3 { 8000 } else { 700 })).await;
        cluster.meta().restart().await?;
    }
    let mut outcome = Outcome::default();
    load.finish(&mut outcome, &context, &cluster).await?;
    Ok(outcome)
}

async fn cluster(context: Context) -> Result<Outcome> {
    if let Some(outcome) = skipped() {
        return Ok(outcome);
    }
    let cluster = context.cluster(3).await?;
    // Restarted servers take a while; nobody is to be told.
    let load = Load::start(&context, &cluster, "hard")?;
    for _ in 0..context.turns(6, 1) {
        load.goes_on(40).await?;
        cluster.kill_all()?;
        sleep(Duration::from_secs(1)).await;
        cluster.restart_all().await?;
    }
    let mut outcome = Outcome::default();
    load.finish(&mut outcome, &context, &cluster).await?;
    Ok(outcome)
}

async fn server(context: Context) -> Result<Outcome> {
    if let Some(outcome) = skipped() {
        return Ok(outcome);
    }
    let cluster = context.cluster(3).await?;
    let load = Load::start(&context, &cluster, "")?;
    let (mut remounted, mut away_max) = (0_u32, Duration::ZERO);
    let kills = context.turns(8, 2);
    for _ in 0..kills {
        load.goes_on(40).await?;
        let process = load.mount.server().context("nobody serves the mount")?;
        let raw = i32::try_from(process).ok().and_then(Pid::from_raw).context("a process has a number above 0")?;
        kill_process(raw, Signal::KILL).context("killing the server of the mount")?;
        cluster.count("server", 1);
        let begun = Instant::now();
        while begun.elapsed() < REMOUNT_MAX {
            if load.mount.server().is_some_and(|another| another != process) && load.mount.answers() {
                remounted += 1;
                away_max = away_max.max(begun.elapsed());
                break;
            }
            sleep(POLL).await;
        }
    }
    let mut outcome = Outcome::default();
    outcome.set("kills", kills);
    outcome.set("remounted", remounted);
    outcome.set("away_max_ms", away_max.as_millis() as u64);
    outcome.set("dead", load.mount.lines().saturating_sub(1));
    load.finish(&mut outcome, &context, &cluster).await?;
    Ok(outcome)
}
