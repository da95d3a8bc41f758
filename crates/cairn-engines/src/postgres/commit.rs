//! The committer of a process: takes all transactions that wait, and commits them as one transaction of the server.
//!
//! That transaction reads again what each of them read. Who would read something else now has a conflict; the others are
//! written. What two of them would have to see of each other, the later one of them waits for the next turn. The server
//! refuses the whole when a transaction of another process got in between; then nothing happened, and all of it is done
//! again: so only what has really changed is a conflict.

use super::error::{failed, is_conflict, is_lost};
use super::pool::{Conn, Pool, bounded, pipelined};
use crate::limits::{
    PG_GROUP_ATTEMPTS_MAX, PG_GROUP_BYTES_MAX, PG_GROUP_JOBS_MAX, PG_GROUP_PAUSE, PG_STATEMENT_TIMEOUT,
};
use bytes::Bytes;
use cairn_meta::kv::{CommitCounts, CommitOutcome, Durability, EngineError, KeyRange, Order, Writes};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Error;

/// A scan, and what it found.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Scan {
    pub(super) range: KeyRange,
    pub(super) limit: usize,
    pub(super) order: Order,
    pub(super) rows: Vec<(Bytes, Bytes)>,
}

/// What a transaction read.
#[derive(Default, Debug)]
pub(super) struct Reads {
    /// Whether anything was read at all.
    pub(super) begun: bool,
    pub(super) keys: BTreeMap<Vec<u8>, Option<Bytes>>,
    pub(super) scans: Vec<Scan>,
}

impl Reads {
    /// True when one of these writes changes something that was read.
    fn meets(&self, writes: &Writes) -> bool {
        self.keys.keys().any(|key| writes.contains_key(key))
            || self.scans.iter().any(|scan| {
                let KeyRange { start, end } = &scan.range;
                writes.range::<Vec<u8>, _>((Bound::Included(start), Bound::Excluded(end))).next().is_some()
            })
    }
}

/// A transaction that is to be committed.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) reads: Reads,
    pub(super) writes: Writes,
    pub(super) bytes: usize,
    pub(super) durability: Durability,
}

type Outcome = Result<CommitOutcome, EngineError>;

/// A transaction that waits for its commit.
pub(super) struct Waiting {
    pub(super) job: Job,
    pub(super) done: oneshot::Sender<Outcome>,
}

/// What the committer has done.
#[derive(Default)]
pub(super) struct Counts {
    groups: AtomicU64,
    transactions: AtomicU64,
    conflicts: AtomicU64,
    busy_us: AtomicU64,
}

impl Counts {
    pub(super) fn read(&self) -> CommitCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CommitCounts {
            groups: get(&self.groups),
            transactions: get(&self.transactions),
            conflicts: get(&self.conflicts),
            busy: Duration::from_micros(get(&self.busy_us)),
            stalled_for: Duration::ZERO,
        }
    }
}

/// What became of one try to commit a group.
enum Try {
    /// Decided: an outcome for each of its transactions.
    Decided(Vec<Outcome>),
    /// Another process got in the way; nothing happened.
    Again,
}

/// The one task that writes.
pub(super) struct Committer {
    pool: Arc<Pool>,
    counts: Arc<Counts>,
    rng: fastrand::Rng,
}

impl Committer {
    pub(super) fn new(pool: Arc<Pool>, counts: Arc<Counts>, rng: fastrand::Rng) -> Self {
        Self { pool, counts, rng }
    }

    /// Goes on until nobody can hand in a transaction any more.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Waiting>) {
        let mut waiting: VecDeque<Waiting> = VecDeque::new();
        loop {
            if waiting.is_empty() {
                match queue.recv().await {
                    Some(first) => waiting.push_back(first),
                    None => return,
                }
            }
            while waiting.len() < PG_GROUP_JOBS_MAX
                && let Ok(next) = queue.try_recv()
            {
                waiting.push_back(next);
            }
            let group = next_group(&mut waiting);
            let begun = Instant::now();
            let (jobs, answers): (Vec<_>, Vec<_>) = group.into_iter().map(|next| (next.job, next.done)).unzip();
            let outcomes = self.commit(&jobs).await;
            self.count(&outcomes, Instant::now().saturating_duration_since(begun));
            for (done, outcome) in answers.into_iter().zip(outcomes) {
                // A caller that went away does not need the answer.
                let _ = done.send(outcome);
            }
        }
    }

    fn count(&self, outcomes: &[Outcome], took: Duration) {
        let count = |wanted| outcomes.iter().filter(|outcome| **outcome == Ok(wanted)).count() as u64;
        let (done, conflicts) = (count(CommitOutcome::Done), count(CommitOutcome::Conflict));
        self.counts.groups.fetch_add(u64::from(done > 0), Ordering::Relaxed);
        self.counts.transactions.fetch_add(done, Ordering::Relaxed);
        self.counts.conflicts.fetch_add(conflicts, Ordering::Relaxed);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counts.busy_us.fetch_add(took, Ordering::Relaxed);
    }

    async fn commit(&mut self, jobs: &[Job]) -> Vec<Outcome> {
        let mut pause = PG_GROUP_PAUSE.0;
        for _ in 0..PG_GROUP_ATTEMPTS_MAX {
            match self.attempt(jobs).await {
                Ok(Try::Decided(outcomes)) => return outcomes,
                Ok(Try::Again) | Err(EngineError::Conflict) => {}
                Err(error) => return vec![Err(error); jobs.len()],
            }
            sleep(pause.mul_f64(0.5 + self.rng.f64())).await; // tidy: sleep-ok(backoff between tries)
            pause = (pause * 2).min(PG_GROUP_PAUSE.1);
        }
        vec![Ok(CommitOutcome::Conflict); jobs.len()]
    }

    /// One transaction of the server. An error says that nothing happened.
    async fn attempt(&self, jobs: &[Job]) -> Result<Try, EngineError> {
        let taken = self.pool.take().await?;
        let conn = &taken.conn;
        let relaxed = self.pool.relaxes() && jobs.iter().all(|job| job.durability == Durability::Relaxed);
        let begin = match relaxed {
            true => "BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE; SET LOCAL synchronous_commit = off",
            false => "BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        };
        let (begun, valid) =
            tokio::join!(biased; bounded(conn.client.batch_execute(begin)), bounded(validate(conn, jobs)));
        begun?;
        let valid = valid?;
        let mut writes: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
        for (job, _) in jobs.iter().zip(&valid).filter(|(_, valid)| **valid) {
            writes.extend(job.writes.iter().map(|(key, value)| (key.as_slice(), value.as_deref())));
        }
        let outcome = |done: &Outcome| {
            let outcome = |valid: &bool| if *valid { done.clone() } else { Ok(CommitOutcome::Conflict) };
            valid.iter().map(outcome).collect()
        };
        if writes.is_empty() {
            self.pool.roll_back(taken);
            return Ok(Try::Decided(outcome(&Ok(CommitOutcome::Done))));
        }
        let mut statements = Vec::with_capacity(writes.len());
        for (key, value) in writes {
            statements.push(conn.write(key, value));
        }
        bounded(pipelined(statements)).await?;
        let committed = timeout(PG_STATEMENT_TIMEOUT, conn.client.batch_execute("COMMIT")).await;
        let done = match committed {
            Ok(Ok(())) => {
                self.pool.give_back(taken);
                Ok(CommitOutcome::Done)
            }
            Ok(Err(error)) if is_conflict(&error) => {
                self.pool.give_back(taken);
                return Ok(Try::Again);
            }
            // The answer to a commit is lost: it is never sent again.
            Ok(Err(error)) if is_lost(&error) => Ok(CommitOutcome::Unknown),
            Err(_) => Ok(CommitOutcome::Unknown),
            Ok(Err(error)) => Err(failed(&error)),
        };
        Ok(Try::Decided(outcome(&done)))
    }
}

/// Transactions from the front that need not see each other, within the bounds of a group. The first always is one; a
/// later one that has to see an earlier one stays, and so does whoever would overtake it.
fn next_group(waiting: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let (mut group, mut rest) = (Vec::new(), VecDeque::new());
    let (mut writes, mut bytes) = (Writes::new(), 0);
    for next in waiting.drain(..) {
        let fits = group.is_empty() || bytes + next.job.bytes <= PG_GROUP_BYTES_MAX;
        if !fits || group.len() == PG_GROUP_JOBS_MAX || next.job.reads.meets(&writes) {
            rest.push_back(next);
            continue;
        }
        bytes += next.job.bytes;
        writes.extend(next.job.writes.keys().map(|key| (key.clone(), None)));
        group.push(next);
    }
    *waiting = rest;
    group
}

/// Which of the transactions would read the same now.
async fn validate(conn: &Conn, jobs: &[Job]) -> Result<Vec<bool>, Error> {
    let mut keys: BTreeMap<&Vec<u8>, Option<Bytes>> = BTreeMap::new();
    let (mut scans, mut scanned) = (Vec::new(), Vec::new());
    for (index, job) in jobs.iter().enumerate() {
        for key in job.reads.keys.keys() {
            keys.insert(key, None);
        }
        for scan in &job.reads.scans {
            scans.push(conn.scan(&scan.range, scan.limit, scan.order));
            scanned.push((index, scan));
        }
    }
    let mut gets = Vec::new();
    for key in keys.keys() {
        gets.push(conn.get(key));
    }
    let (values, rows) = tokio::try_join!(pipelined(gets), pipelined(scans))?;
    for (found, value) in keys.values_mut().zip(values) {
        *found = value;
    }
    let mut valid: Vec<bool> =
        jobs.iter().map(|job| job.reads.keys.iter().all(|(key, value)| keys.get(key) == Some(value))).collect();
    for ((index, scan), rows) in scanned.into_iter().zip(rows) {
        valid[index] &= rows == scan.rows;
    }
    Ok(valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(reads: &[&str], scanned: Option<(&str, &str)>, writes: &[&str]) -> Waiting {
        let scan = |(start, end): (&str, &str)| Scan {
            range: KeyRange { start: start.into(), end: end.into() },
            limit: 1,
            order: Order::Forward,
            rows: Vec::new(),
        };
        let reads = Reads {
            begun: true,
            keys: reads.iter().map(|key| (key.as_bytes().to_vec(), None)).collect(),
            scans: scanned.into_iter().map(scan).collect(),
        };
        let writes: Writes = writes.iter().map(|key| (key.as_bytes().to_vec(), None)).collect();
        let job = Job { reads, bytes: PG_GROUP_BYTES_MAX / 4, writes, durability: Durability::Durable };
        Waiting { job, done: oneshot::channel().0 }
    }

    #[test]
    fn who_has_to_see_another_waits_for_the_next_group() {
        let jobs = [
            waiting(&["a"], None, &["b"]),
            waiting(&["b"], None, &["c"]),
            waiting(&["c"], None, &["x"]),
            waiting(&[], Some(("a", "c")), &["y"]),
            waiting(&[], None, &["b"]),
        ];
        let mut queue = VecDeque::from(jobs);
        let first = next_group(&mut queue);
        let written = |group: &[Waiting]| -> Vec<u8> {
            group.iter().map(|next| next.job.writes.keys().next().unwrap()[0]).collect()
        };
        assert_eq!(written(&first), b"bxb");
        assert_eq!(written(&next_group(&mut queue)), b"cy");
        assert!(queue.is_empty());
    }

    #[test]
    fn a_group_is_bounded_but_never_empty() {
        let mut queue: VecDeque<_> = (0..6).map(|_| waiting(&[], None, &["k"])).collect();
        queue[0].job.bytes = PG_GROUP_BYTES_MAX * 2;
        assert_eq!(next_group(&mut queue).len(), 1);
        assert_eq!(next_group(&mut queue).len(), 4);
        assert_eq!(next_group(&mut queue).len(), 1);
    }
}
