//! AC1 to AC4 for reads: replicas that fall silent, refuse, or are slow.

use super::{Context, Running, Scenario};
use crate::cluster::Cluster;
use crate::load::{Target, Window, Work};
use crate::payload::{self, Mark};
use crate::proxy::{Dialing, Direction, Latency, Mode};
use crate::report::Outcome;
use crate::run::{Course, Results};
use anyhow::{Context as _, Result};
use cairn_client::{CreateOptions, DfsClient, OpenOptions};
use std::time::Duration;

/// Files that are read: more than a processor's caches hold.
const FILES: u32 = 16;
const FILE_LEN: u64 = 8 * 1024 * 1024;
/// What a slow node adds to each answer.
const SLOW: Duration = Duration::from_millis(200);
const FAULT: Duration = Duration::from_secs(60);
const ALL_DEAD: Duration = Duration::from_secs(20);
const ALL_DEAD_DEADLINE: Duration = Duration::from_secs(10);

const AC1: &str = ".failed==0 and .f2.p99_ms<=1.5*.h.p99_ms+1 and .f0.p99_ms<=60 and .f2.legs_per_op<=1.10";
const AC2: &str = ".failed==0 and .f2.p99_ms<=1.5*.h.p99_ms+1 and .hedges<=0.05*.ops+32";

/// See the module.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "AC1",
        about: "reads, 1 of 3 replicas black-holed: no reset, live connections swallow bytes",
        criterion: AC1,
        short: ".failed==0 and .wrong_bytes==0 and .ops>=100 and .f2.legs_per_op<=1.5",
        families: &["black_hole"],
        ci: true,
        run: |context| silent(context, false),
    },
    Scenario {
        name: "AC1-stop",
        about: "reads, the process of 1 of 3 replicas frozen with SIGSTOP",
        criterion: AC1,
        short: ".failed==0 and .wrong_bytes==0 and .ops>=100 and .f2.legs_per_op<=1.5",
        families: &["stop"],
        ci: true,
        run: |context| silent(context, true),
    },
    Scenario {
        name: "AC2a",
        about: "reads, 1 of 3 replicas resets its connections and refuses new ones",
        criterion: AC2,
        short: ".failed==0 and .wrong_bytes==0 and .ops>=100 and .hedges<=0.05*.ops+32",
        families: &["refuse", "reset"],
        ci: true,
        run: |context| {
            let inject = async |cluster: &Cluster, victim: usize| {
                let proxy = &cluster.nodes()[victim].proxy;
                proxy.set_dialing(Dialing::Refuse).await?;
                proxy.reset_connections();
                Ok(())
            };
            Box::pin(one_of_three(context, inject))
        },
    },
    Scenario {
        name: "AC2b",
        about: "reads, 1 of 3 replicas answers 200 ms late",
        criterion: AC2,
        short: ".failed==0 and .wrong_bytes==0 and .ops>=100 and .hedges<=0.05*.ops+32",
        families: &["delay"],
        ci: true,
        run: |context| {
            let inject = async |cluster: &Cluster, victim: usize| {
                cluster.nodes()[victim].proxy.set(Direction::ToClient, Mode::Delay(Latency::Fixed(SLOW)));
                Ok(())
            };
            Box::pin(one_of_three(context, inject))
        },
    },
    Scenario {
        name: "AC3",
        about: "reads, brownout: every replica answers 200 ms late",
        criterion: ".failed==0 and .f2.p99_ms<=200+2*.h.p99_ms and .f2.legs_per_op<=1.06 and .breaker_opens==0",
        short: ".failed==0 and .wrong_bytes==0 and .ops>=100 and .f2.legs_per_op<=1.2 and .breaker_opens==0",
        families: &["delay"],
        ci: true,
        run: |context| {
            let inject = async |cluster: &Cluster, _| {
                for node in cluster.nodes() {
                    node.proxy.set(Direction::ToClient, Mode::Delay(Latency::Fixed(SLOW)));
                }
                Ok(())
            };
            Box::pin(one_of_three(context, inject))
        },
    },
    Scenario {
        name: "AC4",
        about: "reads, every replica dead for 20 s (dials and connections reset), operations may take 10 s",
        criterion: ".f2.server_requests_per_op<=1.10 and .f2.dials_and_probes_per_s_node<=4 and \
                    .first_ok_after_heal_s<=1.5 and .heal3s.success>=0.999",
        short: ".wrong_bytes==0 and .f2.server_requests_per_op<=1.10 and .heal3s.success>=0.99",
        families: &["reset"],
        ci: true,
        run: |context| {
            let inject = async |cluster: &Cluster| {
                for node in cluster.nodes() {
                    node.proxy.set_dialing(Dialing::Reset).await?;
                    node.proxy.reset_connections();
                }
                Ok(())
            };
            Box::pin(all_dead(context, inject))
        },
    },
    Scenario {
        name: "AC4-silent",
        about: "reads, every replica black-holed for 20 s, operations may take 10 s",
        criterion: ".f2.server_requests_per_op<=1.10 and .f2.dials_and_probes_per_s_node<=4 and \
                    .first_ok_after_heal_s<=1.5 and .heal3s.success>=0.999",
        short: ".wrong_bytes==0 and .heal3s.success>=0.99",
        families: &["black_hole"],
        ci: true,
        run: |context| {
            let inject = async |cluster: &Cluster| {
                cluster.nodes().iter().for_each(|node| node.proxy.set_both(Mode::BlackHole));
                Ok(())
            };
            Box::pin(all_dead(context, inject))
        },
    },
];

/// Makes the files, opens them.
pub async fn targets(client: &DfsClient, files: u32, len: u64) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for id in 0..files {
        let path = format!("/file-{id}");
        let bytes = payload::content(Mark { file: id, seq: 0 }, 0, len as usize);
        let made = client.write_atomic(&path, bytes, CreateOptions::new()).await;
        made.with_context(|| format!("making {path}"))?;
        let file = client.open_with(&path, OpenOptions::new().create(false)).await?;
        targets.push(Target { file, id, len });
    }
    Ok(targets)
}

fn silent(context: Context, stop: bool) -> Running {
    let inject = async move |cluster: &Cluster, victim: usize| {
        let node = &cluster.nodes()[victim];
        if stop {
            return node.stop();
        }
        node.proxy.set_both(Mode::BlackHole);
        Ok(())
    };
    Box::pin(one_of_three(context, inject))
}

/// Everything as it was.
pub async fn heal(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        node.proxy.heal().await?;
        node.cont()?;
    }
    Ok(())
}

async fn one_of_three(context: Context, inject: impl AsyncFnOnce(&Cluster, usize) -> Result<()>) -> Result<Outcome> {
    let cluster = context.cluster(3).await?;
    let client = cluster.client().seed(context.seed).connect().await?;
    let victim = context.victim(3);
    let results = course(&context, &cluster, &client, FAULT, async || inject(&cluster, victim).await).await?;
    outcome(&cluster, &results)
}

async fn all_dead(context: Context, inject: impl AsyncFnOnce(&Cluster) -> Result<()>) -> Result<Outcome> {
    let cluster = context.cluster(3).await?;
    let client = cluster.client().seed(context.seed).read_timeout(ALL_DEAD_DEADLINE).connect().await?;
    let results = course(&context, &cluster, &client, ALL_DEAD, async || inject(&cluster).await).await?;
    let mut outcome = outcome(&cluster, &results)?;
    let healed = results.begin_of(Window::Healed).context("it was healed")?;
    let (first, success) = results.recovery(healed);
    outcome.set("first_ok_after_heal_s", first);
    outcome.set("heal3s", serde_json::json!({ "success": success }));
    Ok(outcome)
}

async fn course(
    context: &Context,
    cluster: &Cluster,
    client: &DfsClient,
    fault: Duration,
    inject: impl AsyncFnOnce() -> Result<()>,
) -> Result<Results> {
    let work = Work { targets: targets(client, FILES, FILE_LEN).await?, slots: None };
    let mut course = Course::start(cluster, client, work, &context.read_classes(), context.seed).await;
    course.windows(context.plan(fault), inject, async || heal(cluster).await).await?;
    let results = course.finish().await?;
    client.close().await;
    Ok(results)
}

fn outcome(cluster: &Cluster, results: &Results) -> Result<Outcome> {
    let mut outcome = Outcome { fields: results.fields(), fired: cluster.fired(), skipped: None };
    outcome.set("nodes", cluster.nodes().len());
    Ok(outcome)
}
