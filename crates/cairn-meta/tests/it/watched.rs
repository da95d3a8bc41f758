//! An engine in memory that can be held up, made small and broken off, and that counts.

use crate::bent::{Bend, Bent, Ready};
use async_trait::async_trait;
use cairn_meta::kv::{CommitOutcome, EngineError, Limits};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// What the tests see and decide.
pub struct Watch {
    /// Commits that wrote something.
    pub commits: AtomicUsize,
    /// The most keys that one of them wrote.
    pub writes_most: AtomicUsize,
    /// Commits that are let through before the engine is gone.
    pub left: AtomicU64,
    /// A commit takes a permit and gives it back.
    pub gate: Semaphore,
}

/// What is done under a watch.
#[derive(Clone)]
pub struct Watched {
    limits: Limits,
    watch: Arc<Watch>,
}

/// An engine under a watch.
pub type WatchedEngine = Bent<Watched>;

/// What etcd takes at once, as it comes.
pub const SMALL: Limits = Limits { writes: 128, bytes: 1024 * 1024 };

impl WatchedEngine {
    pub fn new(limits: Limits) -> Self {
        let watch = Watch {
            commits: AtomicUsize::new(0),
            writes_most: AtomicUsize::new(0),
            left: AtomicU64::new(u64::MAX),
            gate: Semaphore::new(1 << 20),
        };
        Self::of(Watched { limits, watch: Arc::new(watch) })
    }

    pub fn watch(&self) -> &Watch {
        &self.bend.watch
    }

    /// The commits so far.
    pub fn commits(&self) -> usize {
        self.watch().commits.load(Ordering::SeqCst)
    }

    /// Lets `count` further commits through, then none.
    pub fn break_after(&self, count: u64) {
        self.watch().left.store(count, Ordering::SeqCst);
    }
}

#[async_trait]
impl Bend for Watched {
    fn limits(&self, _inner: Limits) -> Limits {
        self.limits
    }

    async fn commit(&self, ready: Ready) -> Result<CommitOutcome, EngineError> {
        let (writes, bytes) = (ready.writes.len(), ready.writes.values().sum());
        if writes == 0 {
            return ready.commit().await;
        }
        if writes > self.limits.writes || bytes > self.limits.bytes {
            return Err(EngineError::TooLarge { writes, bytes });
        }
        let _permit = self.watch.gate.acquire().await.expect("never closed");
        let left = self.watch.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_err() {
            return Err(EngineError::Unavailable { cause: "it is gone".into() });
        }
        let outcome = ready.commit().await;
        if outcome == Ok(CommitOutcome::Done) {
            self.watch.commits.fetch_add(1, Ordering::SeqCst);
            self.watch.writes_most.fetch_max(writes, Ordering::SeqCst);
        }
        outcome
    }
}
