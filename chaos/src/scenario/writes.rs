//! Writes with replicas that fall silent or die: AC7, AC8, and AC1 for writes.

use super::reads::heal;
use super::{Context, Form, Running, Scenario};
use crate::cluster::Cluster;
use crate::load::{Ending, Window, Work};
use crate::observe::Observed;
use crate::proxy::Mode;
use crate::report::Outcome;
use crate::run::{Course, FAULT0, Results};
use crate::slots::Slots;
use anyhow::{Context as _, Result};
use cairn_client::{Cause, ClusterStatus, DfsClient, Error};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Slots that are written again and again: at 200 writes a second each rests for 10 s.
const FILES: usize = 8;
const SLOTS_PER_FILE: u64 = 256;
/// Slots of AC8, of which each is written once: 200 a second for 40 s.
const FRESH_SLOTS_PER_FILE: u64 = 1000;
const FRESH_SLOTS_PER_FILE_SHORT: u64 = 40;
const FAULT: Duration = Duration::from_secs(60);
const QUORUM_LOST: Duration = Duration::from_secs(20);
const QUORUM_LOST_DEADLINE: Duration = Duration::from_secs(5);
const QUORUM_LOST_DEADLINE_SHORT: Duration = Duration::from_secs(2);
/// How long repair and sweep are waited for.
const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(200);

const SILENT: &str = ".failed==0 and .wrong_bytes==0 and .lost==0 and .f2.p99_ms<=1.3*.h.p99_ms+20 and \
                      .f2.legs_per_op<=3.10";
const SILENT_SHORT: &str = ".failed==0 and .wrong_bytes==0 and .lost==0 and .ops>=20 and .f2.legs_per_op<=3.5";
const AC8: &str = ".succeeded==0 and .max_ms<=.deadline_ms+100 and .reports_naming_all_3_nodes==.failed and \
                   .visible_extents==0 and .orphans_after_sweep==0";
const AC8_SHORT: &str = ".succeeded==0 and .ops>=20 and .reports_naming_all_3_nodes==.failed and .visible_extents==0 and \
                         .orphans_after_sweep==0";

/// See the module.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "AC1-write",
        about: "writes, 1 of 3 replicas black-holed",
        criterion: SILENT,
        short: SILENT_SHORT,
        families: &["black_hole"],
        ci: true,
        run: |context| silent(context, Fault::BlackHole),
    },
    Scenario {
        name: "AC1-stop-write",
        about: "writes, the process of 1 of 3 replicas frozen with SIGSTOP",
        criterion: SILENT,
        short: SILENT_SHORT,
        families: &["stop"],
        ci: true,
        run: |context| silent(context, Fault::Stop),
    },
    Scenario {
        name: "AC7",
        about: "writes, 1 of 3 replicas black-holed, then healed and repaired",
        criterion: ".failed==0 and .f2.p99_ms<=1.3*.h.p99_ms+20 and .straggler_bytes_max<=67108864 and \
                    .full_replication_after_heal_s<=60",
        short: ".failed==0 and .wrong_bytes==0 and .lost==0 and .straggler_bytes_max<=67108864 and \
                .full_replication_after_heal_s<=60",
        families: &["black_hole"],
        ci: true,
        run: |context| silent(context, Fault::BlackHole),
    },
    Scenario {
        name: "AC8",
        about: "writes, 2 of 3 replicas killed: clear errors, nothing visible, nothing left",
        criterion: AC8,
        short: AC8_SHORT,
        families: &["kill"],
        ci: true,
        run: |context| Box::pin(without_quorum(context, Fault::Kill)),
    },
    Scenario {
        name: "AC8-silent",
        about: "writes, 2 of 3 replicas black-holed: clear errors, nothing visible, nothing left",
        criterion: AC8,
        short: AC8_SHORT,
        families: &["black_hole"],
        ci: true,
        run: |context| Box::pin(without_quorum(context, Fault::BlackHole)),
    },
];

#[derive(Clone, Copy)]
enum Fault {
    BlackHole,
    Stop,
    Kill,
}

impl Fault {
    fn inject(self, cluster: &Cluster, victim: usize) -> Result<()> {
        let node = &cluster.nodes()[victim];
        match self {
            Self::BlackHole => node.proxy.set_both(Mode::BlackHole),
            Self::Stop => node.stop()?,
            Self::Kill => node.kill()?,
        }
        Ok(())
    }
}

fn silent(context: Context, fault: Fault) -> Running {
    Box::pin(one_of_three(context, fault))
}

async fn one_of_three(context: Context, fault: Fault) -> Result<Outcome> {
    let cluster = context.cluster(3).await?;
    let client = cluster.client().seed(context.seed).connect().await?;
    let slots = Arc::new(Slots::create(&client, FILES, SLOTS_PER_FILE).await?);
    let work = Work { slots: Some(slots.clone()), ..Work::default() };
    let victim = context.victim(3);
    let mut course = Course::start(&cluster, &client, work, &context.write_classes(), context.seed).await;
    let operator = cluster.client().connect().await?;
    let mut replication = None;
    let inject = async || fault.inject(&cluster, victim);
    let plan = context.plan(FAULT);
    course
        .windows(plan, inject, async || {
            heal(&cluster).await?;
            replication = Some(tokio::spawn(replicated(operator.clone(), Instant::now())));
            Ok(())
        })
        .await?;
    let results = course.finish().await?;
    let observed = Observed::of(&client).await;
    let mut outcome = outcome(&cluster, &results);
    let replicated_s = replication.context("it was healed")?.await?;
    outcome.set("full_replication_after_heal_s", replicated_s?);
    outcome.set("straggler_bytes_max", observed.straggler_bytes_max);
    verify(&slots, &mut outcome).await?;
    client.close().await;
    operator.close().await;
    Ok(outcome)
}

/// Reads everything back.
async fn verify(slots: &Slots, outcome: &mut Outcome) -> Result<u64> {
    let findings = slots.check().await.context("reading back what was written")?;
    outcome.set("wrong_bytes", findings.wrong_bytes);
    outcome.set("lost", findings.lost);
    outcome.set("visible_failures", findings.visible);
    outcome.set("visible_extents", findings.extents);
    outcome.set("live_slots", findings.live);
    Ok(findings.live)
}

/// Seconds from `since` until every node is up, every member of every group complete, and no run lacks a replica.
async fn replicated(operator: DfsClient, since: Instant) -> Result<f64> {
    let whole = |status: &ClusterStatus| {
        let up = status.nodes.iter().all(|node| node.state == "up");
        let full = status.groups.iter().flat_map(|group| &group.members).all(|member| member.state == "full");
        up && full && status.degraded_runs == 0
    };
    let status = until(&operator, whole).await.context("waiting for full replication")?;
    anyhow::ensure!(whole(&status), "not fully replicated after {} s: {status:?}", PATIENCE.as_secs());
    Ok(since.elapsed().as_secs_f64())
}

/// Asks for the status until it is as wanted or patience ends; the last one.
async fn until(operator: &DfsClient, wanted: impl Fn(&ClusterStatus) -> bool) -> Result<ClusterStatus> {
    let begun = Instant::now();
    loop {
        let status = operator.cluster_status().await?;
        if wanted(&status) || begun.elapsed() > PATIENCE {
            return Ok(status);
        }
        sleep(POLL).await;
    }
}

async fn without_quorum(context: Context, fault: Fault) -> Result<Outcome> {
    // Thousands of blocks without a file are what this run is about: the guard against a wrong copy of metadata is off.
    let mut setup = context.setup(3);
    setup.node_args = ["--sweep-mass-percent", "100"].map(str::to_owned).to_vec();
    let cluster = Cluster::start(&setup).await?;
    let full = context.form == Form::Full;
    let deadline = if full { QUORUM_LOST_DEADLINE } else { QUORUM_LOST_DEADLINE_SHORT };
    let client = cluster.client().seed(context.seed).write_timeout(deadline).connect().await?;
    let per_file = if full { FRESH_SLOTS_PER_FILE } else { FRESH_SLOTS_PER_FILE_SHORT };
    let slots = Arc::new(Slots::create(&client, FILES, per_file).await?);
    let work = Work { slots: Some(slots.clone()), ..Work::default() };
    let survivor = context.victim(3);
    let victims: Vec<usize> = (0..3).filter(|node| *node != survivor).collect();
    let mut course = Course::start(&cluster, &client, work, &context.write_classes(), context.seed).await;
    let plan = context.plan(QUORUM_LOST);
    sleep(plan.warm).await;
    course.enter(Window::Healthy).await;
    sleep(plan.healthy).await;
    // In this order: what begins during the fault finds no quorum from its first moment on.
    victims.iter().try_for_each(|victim| fault.inject(&cluster, *victim))?;
    course.enter(Window::Fault0).await;
    sleep(FAULT0).await;
    course.enter(Window::Fault2).await;
    sleep(plan.fault.saturating_sub(FAULT0)).await;
    // The last operation has ended before the fault does.
    let results = course.finish().await?;
    for victim in &victims {
        if let Fault::Kill = fault {
            cluster.nodes()[*victim].restart().await?;
        }
    }
    heal(&cluster).await?;
    let mut outcome = outcome(&cluster, &results);
    judge_failures(&results, deadline, &mut outcome);
    let live = verify(&slots, &mut outcome).await?;
    client.close().await;
    let operator = cluster.client().connect().await?;
    let orphans =
        |status: &ClusterStatus| status.nodes.iter().map(|node| node.blocks).sum::<u64>() as i64 - 3 * live as i64;
    let begun = Instant::now();
    let status = until(&operator, |status| status.degraded_runs == 0 && orphans(status) == 0).await?;
    outcome.set("orphans_after_sweep", orphans(&status));
    outcome.set("swept_after_s", begun.elapsed().as_secs());
    operator.close().await;
    Ok(outcome)
}

/// What the writes that began during the fault ended with.
fn judge_failures(results: &Results, deadline: Duration, outcome: &mut Outcome) {
    let fault = [Window::Fault0, Window::Fault2];
    let events: Vec<_> = results.record.events.iter().filter(|event| fault.contains(&event.window)).collect();
    let succeeded = events.iter().filter(|event| event.ending != Ending::Failed).count();
    let max = events.iter().map(|event| event.latency).max().unwrap_or_default();
    let failures = results.record.failures.iter().filter(|failure| fault.contains(&failure.window));
    let naming = failures.filter(|failure| failure.error.as_ref().is_some_and(|error| named_nodes(error).len() == 3));
    outcome.set("succeeded", succeeded);
    outcome.set("failed", events.len() - succeeded);
    outcome.set("max_ms", max.as_secs_f64() * 1e3);
    outcome.set("deadline_ms", deadline.as_millis() as u64);
    outcome.set("reports_naming_all_3_nodes", naming.count());
}

/// The storage nodes whose part in a failed write its error tells.
fn named_nodes(error: &Error) -> BTreeSet<u32> {
    let Cause::Quorum(quorum) = error.cause() else { return BTreeSet::new() };
    let failed = quorum.failed.iter().map(|failure| failure.node.0);
    quorum.acked.iter().chain(&quorum.pending).map(|node| node.0).chain(failed).filter(|id| *id != 0).collect()
}

fn outcome(cluster: &Cluster, results: &Results) -> Outcome {
    Outcome { fields: results.fields(), fired: cluster.fired(), skipped: None }
}
