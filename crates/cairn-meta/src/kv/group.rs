//! Group commit: validates waiting transactions in order and applies all valid ones as one write.

use super::ship::{SinkPlace, encode_writes};
use super::window::{ReadSet, WINDOW_KEYS_MAX, Window};
use super::{CommitOutcome, Durability, EngineError, KeyRange, Order, Snapshot};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use std::sync::Arc;

pub(super) use super::overlay::Writes;

/// A consistent view that later writes do not change.
pub(super) trait View: Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;
    fn scan(&self, range: &KeyRange, limit: usize, order: Order) -> Result<Vec<(Bytes, Bytes)>, EngineError>;
}

/// What lies below group commit: something that applies one write atomically and offers views.
pub(super) trait Backend: Send + Sync + 'static {
    type View: View;

    /// The state after everything applied so far.
    fn view(&self) -> Self::View;

    /// Applies all of `writes` or, on error, leaves it open which: the caller gives up the engine.
    fn apply(&self, writes: Writes, durability: Durability) -> Result<(), EngineError>;
}

/// A view together with the number of the last commit in it.
pub(super) struct Published<V> {
    pub seq: u64,
    pub view: V,
}

/// A published view as a snapshot: it remembers nothing of what was read.
pub(super) struct ViewSnapshot<V: View>(pub(super) Arc<Published<V>>);

#[async_trait]
impl<V: View> Snapshot for ViewSnapshot<V> {
    async fn scan(&mut self, range: &KeyRange, limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        self.0.view.scan(range, limit, Order::Forward)
    }

    fn position(&self) -> u64 {
        self.0.seq
    }
}

/// A transaction that waits for its commit.
pub(super) struct Job {
    pub snapshot: u64,
    pub reads: ReadSet,
    pub writes: Writes,
    pub durability: Durability,
}

/// The committer: whoever holds it is the only writer.
pub(super) struct Group<B: Backend> {
    backend: Arc<B>,
    window: Window,
    published: Arc<RwLock<Arc<Published<B::View>>>>,
    sink: SinkPlace,
}

impl<B: Backend> Group<B> {
    pub(super) fn new(backend: Arc<B>) -> Self {
        let first = Arc::new(Published { seq: 0, view: backend.view() });
        Self {
            backend,
            window: Window::new(WINDOW_KEYS_MAX),
            published: Arc::new(RwLock::new(first)),
            sink: SinkPlace::default(),
        }
    }

    /// Where whoever wants to hear of commits is put.
    pub(super) fn sink(&self) -> SinkPlace {
        self.sink.clone()
    }

    /// Where transactions find the newest view.
    pub(super) fn published(&self) -> Arc<RwLock<Arc<Published<B::View>>>> {
        self.published.clone()
    }

    /// Commits what is valid of `jobs`, in order and as one write that is as durable as the strictest of them.
    /// Outcomes are in the order of the jobs. An error means that the engine has to be given up: of the jobs that were
    /// valid it is unknown whether they were applied. Otherwise says how durable the write was, `None` for no write.
    pub(super) fn commit(&mut self, jobs: Vec<Job>) -> (Vec<CommitOutcome>, Result<Option<Durability>, EngineError>) {
        let mut merged = Writes::new();
        let mut durability = Durability::Relaxed;
        let mut outcomes = Vec::with_capacity(jobs.len());
        for job in jobs {
            // Earlier jobs of this very group are in the window already: order within it is the order of commits.
            if self.window.conflicts(job.snapshot, &job.reads) {
                outcomes.push(CommitOutcome::Conflict);
                continue;
            }
            self.window.record(job.writes.keys());
            if job.durability == Durability::Durable {
                durability = Durability::Durable;
            }
            merged.extend(job.writes);
            outcomes.push(CommitOutcome::Done);
        }
        if merged.is_empty() {
            return (outcomes, Ok(None));
        }
        let heard = self.sink.get().map(|sink| (sink, encode_writes(&merged)));
        let applied = self.backend.apply(merged, durability);
        if applied.is_ok() {
            let next = Arc::new(Published { seq: self.window.last(), view: self.backend.view() });
            *self.published.write() = next;
            if let Some((sink, writes)) = heard {
                sink.committed(self.window.last(), writes);
            }
        } else {
            for outcome in outcomes.iter_mut().filter(|outcome| **outcome == CommitOutcome::Done) {
                *outcome = CommitOutcome::Unknown;
            }
        }
        (outcomes, applied.map(|()| Some(durability)))
    }
}

#[cfg(test)]
mod tests;
