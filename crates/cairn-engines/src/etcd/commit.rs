//! The commit of a transaction that fits into one request, and what its refusal means.

use super::client::{CallError, Repeat};
use super::pending::Gate;
use super::{Inner, ask, frame, pb};
use crate::limits::{ETCD_OPS_MAX, ETCD_PENDING_WAIT, ETCD_REQUEST_BYTES_MAX, ETCD_ROW_BYTES_MAX};
use cairn_meta::kv::{CommitOutcome, EngineError, KeyRange, Writes};
use std::collections::BTreeMap;
use tokio::time::Instant;

/// What a transaction read.
#[derive(Default)]
pub(super) struct Reads {
    /// Point keys, and which revision had written them; 0 = none.
    pub(super) keys: BTreeMap<Vec<u8>, i64>,
    /// Ranges as far as they were walked.
    pub(super) ranges: Vec<KeyRange>,
}

/// Ranges with those that touch made one.
fn merged(mut ranges: Vec<KeyRange>) -> Vec<KeyRange> {
    ranges.sort_unstable_by(|a, b| a.start.cmp(&b.start));
    let mut merged: Vec<KeyRange> = Vec::with_capacity(ranges.len());
    for next in ranges {
        match merged.last_mut() {
            Some(last) if next.start <= last.end => last.end = next.end.max(std::mem::take(&mut last.end)),
            _ => merged.push(next),
        }
    }
    merged
}

/// Bytes that a write takes in a request, and operations.
pub(super) fn cost(key: &[u8], value: Option<&[u8]>) -> (usize, usize) {
    // Prefixes and framing are bounded by the slack between our limits and etcd's.
    match value {
        Some(value) => (key.len() + value.len() + 64, 1),
        None => (2 * key.len() + 128, 2),
    }
}

/// Why a commit did not go through.
pub(super) enum Refusal {
    /// What was read has changed, or cannot be checked any more.
    Conflict,
    /// A big transaction of somebody is being committed.
    Pending(super::pending::Found),
}

impl Inner {
    /// Checks what was read and writes.
    pub(super) async fn commit(
        &self,
        snapshot: i64,
        reads: Reads,
        writes: Writes,
    ) -> Result<CommitOutcome, EngineError> {
        let (mut bytes, mut ops) = (0, 0);
        for (key, value) in &writes {
            let (row_bytes, row_ops) = cost(key, value.as_deref());
            if row_bytes > ETCD_ROW_BYTES_MAX {
                return Err(EngineError::RowTooLarge { bytes: row_bytes, max: ETCD_ROW_BYTES_MAX });
            }
            bytes += row_bytes;
            ops += row_ops;
        }
        let checks = self.checks(snapshot, reads);
        bytes += checks.iter().map(|check| check.key.len() + check.range_end.len() + 64).sum::<usize>();
        // The floor and the pending row are compared, too.
        if checks.len() + 2 > ETCD_OPS_MAX || ops > ETCD_OPS_MAX || bytes > ETCD_REQUEST_BYTES_MAX {
            return self.commit_big(snapshot, checks, writes).await;
        }
        let mut success = Vec::with_capacity(ops);
        for (key, value) in &writes {
            self.write(&mut success, key, value.as_deref());
        }
        let mut compare = vec![ask::unchanged(self.keys.pending(), 0), self.floor_is_older(snapshot)];
        compare.extend(checks);
        let failure = vec![ask::read(ask::rows(self.keys.gate(), 0, 0))];
        let request = pb::TxnRequest { compare, success, failure };
        let deadline = Instant::now() + ETCD_PENDING_WAIT;
        loop {
            match self.client.txn(Repeat::Never, request.clone()).await {
                Ok(answer) if answer.succeeded => return Ok(CommitOutcome::Done),
                Ok(answer) => match self.refused(snapshot, answer)? {
                    Refusal::Conflict => return Ok(CommitOutcome::Conflict),
                    Refusal::Pending(found) => {
                        self.settle(&found).await?;
                        if Instant::now() > deadline {
                            return Ok(CommitOutcome::Conflict);
                        }
                    }
                },
                Err(CallError::Lost { cause }) => {
                    tracing::debug!(cause, "a commit was not answered");
                    return Ok(CommitOutcome::Unknown);
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// Comparisons that hold while nothing that was read has changed.
    fn checks(&self, snapshot: i64, reads: Reads) -> Vec<pb::Compare> {
        let ranges = merged(reads.ranges);
        let covered = |key: &Vec<u8>| {
            let behind = ranges.partition_point(|range| range.start <= *key);
            behind > 0 && *key < ranges[behind - 1].end
        };
        let points = reads.keys.into_iter().filter(|(key, _)| !covered(key));
        let points: Vec<_> = points.map(|(key, written)| ask::unchanged(self.keys.data(&key), written)).collect();
        let stored =
            |range: &KeyRange| KeyRange { start: self.keys.data(&range.start), end: self.keys.data(&range.end) };
        let ranges = ranges.iter().map(|range| ask::none_newer(stored(range), snapshot));
        points.into_iter().chain(ranges).collect()
    }

    /// No tombstone that the snapshot did not have as such may be gone.
    pub(super) fn floor_is_older(&self, snapshot: i64) -> pb::Compare {
        ask::value_below(self.keys.floor(), frame::floor_value(snapshot + 1))
    }

    /// What a failed comparison was about. `answer` read the gate.
    pub(super) fn refused(&self, snapshot: i64, answer: pb::TxnResponse) -> Result<Refusal, EngineError> {
        let revision = ask::revision(answer.header.as_ref());
        let rows = ask::found(answer).into_iter().next().unwrap_or_default();
        let Gate { floor, pending, .. } = self.parse_gate(revision, &rows)?;
        match (floor, pending) {
            (None, _) => {
                let cause =
                    "etcd: the keys below the prefix are gone: somebody removed them, or another cluster answers";
                Err(EngineError::Failed { cause: cause.into() })
            }
            (Some(floor), _) if floor > snapshot => Ok(Refusal::Conflict),
            (_, Some(found)) => Ok(Refusal::Pending(found)),
            (_, None) => Ok(Refusal::Conflict),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one() {
        let range = |start: &str, end: &str| KeyRange { start: start.into(), end: end.into() };
        let ranges = vec![range("m", "n"), range("a", "c"), range("c", "d"), range("b", "bb"), range("n0", "n1")];
        assert_eq!(merged(ranges), [range("a", "d"), range("m", "n"), range("n0", "n1")]);
    }
}
