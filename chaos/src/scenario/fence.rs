//! AC13: a writer is frozen for longer than its lease, another one writes in its place, and the first goes on: nothing
//! that it had begun may land on what the second has written.

use super::{Context, Form, Scenario};
use crate::payload::Mark;
use crate::proxy::{Direction, Latency, Mode};
use crate::report::Outcome;
use crate::zombie::{self, BLOCKS, Ends, SECOND, ZOMBIE, Zombie};
use anyhow::{Result, ensure};
use cairn_client::DfsClient;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const ROUNDS: u32 = 100;
const ROUNDS_SHORT: u32 = 3;
/// A session ends after so much silence in these runs.
const LEASE: Duration = Duration::from_secs(2);
/// Storage nodes answer the frozen writer late, so that it is frozen in the middle of something.
const SLOW: Latency = Latency::Uniform(Duration::from_millis(50), Duration::from_millis(400));
/// The writer is frozen at a random moment of so long a time from its first write on.
const FREEZE_WITHIN: Duration = Duration::from_millis(400);
const POLL: Duration = Duration::from_millis(50);
/// How long the session of the frozen writer may last.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "AC13",
    about: "a writer frozen beyond its lease, a second one proceeds, the first goes on; 100 times",
    criterion: ".commits_after_fence==0 and .second_writer_intact==100 and .fenced>=100 and .torn==0",
    short: ".commits_after_fence==0 and .second_writer_intact==3 and .fenced>=3 and .torn==0",
    families: &["freeze"],
    ci: true,
    run: |context| Box::pin(zombie(context)),
}];

/// Waits until no more than `open` sessions are left.
async fn expired(operator: &DfsClient, open: u64) -> Result<()> {
    let begun = Instant::now();
    while operator.cluster_status().await?.sessions > open {
        ensure!(begun.elapsed() < PATIENCE, "the frozen writer's session has not ended");
        sleep(POLL).await;
    }
    Ok(())
}

async fn zombie(context: Context) -> Result<Outcome> {
    let rounds = if context.form == Form::Full { ROUNDS } else { ROUNDS_SHORT };
    let mut setup = context.setup(3);
    setup.meta_args = vec!["--session-lease".to_owned(), format!("{}ms", LEASE.as_millis())];
    let cluster = crate::cluster::Cluster::start(&setup).await?;
    let second = cluster.client().seed(context.seed).connect().await?;
    let file = zombie::open(&second).await?;
    ensure!(zombie::write_all(&file, Mark { file: SECOND, seq: 0 }).await.ok == BLOCKS, "the first content");
    // Whoever set the cluster up may have left a session that is running out.
    expired(&second, 1).await?;
    let mut zombie = Zombie::start(&cluster.meta().proxy.addr().to_string())?;
    let mut rng = fastrand::Rng::with_seed(context.seed);
    let set_nodes = |mode: Mode| cluster.nodes().iter().for_each(|node| node.proxy.set(Direction::ToClient, mode));

    let mut ends = Ends::default();
    let (mut intact, mut after_fence, mut torn) = (0, 0, 0);
    for seq in 1..=rounds {
        set_nodes(Mode::Delay(SLOW));
        zombie.write(seq).await?;
        sleep(FREEZE_WITHIN.mul_f64(rng.f64())).await;
        zombie.freeze(true)?;
        cluster.count("freeze", 1);
        set_nodes(Mode::Pass);
        expired(&second, 1).await?;
        let mark = Mark { file: SECOND, seq };
        ensure!(zombie::write_all(&file, mark).await.ok == BLOCKS, "the second writer failed in round {seq}");
        zombie.freeze(false)?;
        let ended = zombie.ended().await?;
        ends.ok += ended.ok;
        ends.fenced += ended.fenced;
        ends.other += ended.other;
        let marks = zombie::marks(&file).await?;
        intact += u64::from(marks.iter().all(|found| *found == Some(mark)));
        after_fence += marks.iter().flatten().filter(|found| found.file == ZOMBIE).count();
        torn += marks.iter().filter(|found| found.is_none()).count();
        expired(&second, 1).await?;
    }
    let mut outcome = Outcome { fired: cluster.fired(), ..Outcome::default() };
    outcome.set("rounds", rounds);
    outcome.set("second_writer_intact", intact);
    outcome.set("commits_after_fence", after_fence);
    outcome.set("torn", torn);
    outcome.set("before_freeze", ends.ok);
    outcome.set("fenced", ends.fenced);
    outcome.set("other_errors", ends.other);
    second.close().await;
    Ok(outcome)
}
