//! Third claim: what users see while none, one or two of three replicas are gone.
//!
//! Nodes are killed one after the other, and each time the same client goes on at once. Expected: nothing with one
//! replica gone; with two gone writes fail with an error that names the nodes, within their deadline, and reads go on.

use anyhow::{Context, Result};
use bytes::Bytes;
use cairn_chaos::cluster::Cluster;
use cairn_client::{Cause, CreateOptions, DfsClient, Error, File, OpenOptions};
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const BLOCK_LEN: usize = 256 * 1024;
/// Blocks that are read.
const BLOCKS: u64 = 16;
/// Operations at once.
const AT_ONCE: u64 = 4;

/// What became of operations of one kind.
#[derive(Serialize, Default)]
pub struct Tally {
    /// How many.
    pub operations: u64,
    /// How many failed.
    pub failed: u64,
    /// Of a hundred.
    pub failed_percent: f64,
    /// Slowest, whether it failed or not.
    max_ms: f64,
    /// Of the last that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Failed for want of a quorum, with both missing nodes named.
    no_quorum: u64,
}

/// What users saw with this many replicas gone.
#[derive(Serialize)]
pub struct Report {
    /// Replicas gone, of three.
    pub gone: usize,
    /// Blocks written.
    pub writes: Tally,
    /// Blocks read.
    pub reads: Tally,
    /// Whether it was as claimed.
    pub as_claimed: bool,
}

/// True for the error that a write without a majority should end in.
fn names_both(error: &Error) -> bool {
    matches!(error.cause(), Cause::Quorum(quorum) if quorum.failed.len() + quorum.pending.len() >= 2)
}

impl Tally {
    fn count(&mut self, outcome: Result<(), Error>, elapsed: Duration) {
        self.operations += 1;
        self.max_ms = self.max_ms.max(elapsed.as_secs_f64() * 1e3);
        if let Err(error) = outcome {
            self.failed += 1;
            self.no_quorum += u64::from(names_both(&error));
            self.error = Some(error.to_string());
        }
        self.failed_percent = self.failed as f64 * 100.0 / self.operations as f64;
    }
}

/// Reads, or overwrites, the blocks of the file again and again, some at once.
async fn repeat(file: &File, operations: u64, data: Option<&Bytes>) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut tasks = JoinSet::new();
    for index in 0..operations {
        if index >= AT_ONCE
            && let Some(joined) = tasks.join_next().await
        {
            let (outcome, elapsed) = joined?;
            tally.count(outcome, elapsed);
        }
        let (file, data) = (file.clone(), data.cloned());
        tasks.spawn(async move {
            let begun = Instant::now();
            let outcome = match data {
                Some(data) => file.write_block(BLOCKS + index % BLOCKS, data).await.map(|_| ()),
                None => file.read_block(index % BLOCKS).await.map(|_| ()),
            };
            (outcome, begun.elapsed())
        });
    }
    while let Some(joined) = tasks.join_next().await {
        let (outcome, elapsed) = joined?;
        tally.count(outcome, elapsed);
    }
    Ok(tally)
}

/// What is claimed: see the module.
fn is_as_claimed(gone: usize, writes: &Tally, reads: &Tally) -> bool {
    let writes_fail_as_they_should = writes.failed == writes.operations && writes.no_quorum == writes.failed;
    reads.failed == 0 && if gone <= 1 { writes.failed == 0 } else { writes_fail_as_they_should }
}

/// Kills two of the three nodes on the way.
///
/// # Errors
/// The cluster fails while nothing is gone.
pub async fn run(cluster: &Cluster, client: &DfsClient, operations: u64) -> Result<Vec<Report>> {
    let attributes = CreateOptions::new().block_len(BLOCK_LEN as u32);
    let file = client.open_with("/failures", OpenOptions::new().create(true).attributes(attributes)).await?;
    let data = crate::payload::pool().slice(..BLOCK_LEN);
    for block in 0..BLOCKS {
        file.write_block(block, data.clone()).await.context("writing while nothing is gone")?;
    }
    let mut reports = Vec::new();
    for gone in 0..=2 {
        if gone > 0 {
            cluster.nodes()[gone - 1].kill()?;
        }
        let reads = repeat(&file, operations, None).await?;
        // A write without a majority takes until its deadline.
        let writes = repeat(&file, if gone == 2 { AT_ONCE } else { operations / 4 }, Some(&data)).await?;
        let as_claimed = is_as_claimed(gone, &writes, &reads);
        eprintln!(
            "{gone} of 3 replicas gone: {:.1} % of writes and {:.1} % of reads failed ({})",
            writes.failed_percent,
            reads.failed_percent,
            if as_claimed { "as claimed" } else { "NOT as claimed" }
        );
        reports.push(Report { gone, writes, reads, as_claimed });
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(operations: u64, failed: u64, no_quorum: u64) -> Tally {
        Tally { operations, failed, no_quorum, ..Tally::default() }
    }

    #[test]
    fn only_writes_without_a_majority_may_fail_and_only_in_one_way() {
        let good = || tally(9, 0, 0);
        assert!(is_as_claimed(0, &good(), &good()) && is_as_claimed(1, &good(), &good()));
        assert!(!is_as_claimed(1, &tally(9, 1, 1), &good()));
        assert!(is_as_claimed(2, &tally(9, 9, 9), &good()));
        assert!(!is_as_claimed(2, &tally(9, 8, 8), &good()), "a write that none can have");
        assert!(!is_as_claimed(2, &tally(9, 9, 8), &good()), "an error that names nobody");
        assert!(!is_as_claimed(2, &tally(9, 9, 9), &tally(9, 1, 0)));
    }
}
