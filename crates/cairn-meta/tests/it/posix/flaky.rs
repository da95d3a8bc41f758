//! An engine that conflicts without need, is away now and then, and leaves open whether a transaction was applied: sometimes
//! it was, sometimes not.

use crate::bent::{Bend, Bent, Ready};
use async_trait::async_trait;
use cairn_meta::kv::{CommitOutcome, Engine, EngineError};
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    pub conflicts: u64,
    pub unknown: u64,
    pub failures: u64,
}

struct State {
    rng: fastrand::Rng,
    counts: Counts,
    on: bool,
}

/// See the module.
#[derive(Clone)]
pub struct Flaky(Arc<Mutex<State>>);

pub type FlakyEngine = Bent<Flaky>;

/// What becomes of a commit.
enum Fate {
    Commit,
    Conflict,
    /// Applied or not, the caller is not told.
    Unknown {
        applied: bool,
    },
    Unavailable,
}

impl FlakyEngine {
    pub fn new(inner: Arc<dyn Engine>, seed: u64, faults: bool) -> Self {
        let state = State { rng: fastrand::Rng::with_seed(!seed), counts: Counts::default(), on: faults };
        Self::around(inner, Flaky(Arc::new(Mutex::new(state))))
    }

    pub fn counts(&self) -> Counts {
        self.bend.state().counts
    }

    /// From here on it is well.
    pub fn heal(&self) {
        self.bend.state().on = false;
    }
}

impl Flaky {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("not poisoned")
    }

    /// Now and then it is another's turn.
    async fn pause(&self) {
        let pause = {
            let mut state = self.state();
            state.on && state.rng.u32(..4) == 0
        };
        if pause {
            tokio::task::yield_now().await;
        }
    }

    fn fate(&self, writes: bool) -> Fate {
        let mut state = self.state();
        // What only reads has no outcome that could be unknown.
        if !state.on || !writes {
            return Fate::Commit;
        }
        match state.rng.u32(..100) {
            0..6 => {
                state.counts.conflicts += 1;
                Fate::Conflict
            }
            6..12 => {
                state.counts.unknown += 1;
                Fate::Unknown { applied: state.rng.bool() }
            }
            12..15 => {
                state.counts.failures += 1;
                Fate::Unavailable
            }
            _ => Fate::Commit,
        }
    }
}

#[async_trait]
impl Bend for Flaky {
    async fn read(&self) {
        self.pause().await;
    }

    async fn commit(&self, ready: Ready) -> Result<CommitOutcome, EngineError> {
        self.pause().await;
        match self.fate(!ready.writes.is_empty()) {
            Fate::Commit => ready.commit().await,
            Fate::Conflict => Ok(CommitOutcome::Conflict),
            Fate::Unavailable => Err(EngineError::Unavailable { cause: "a fault was injected".into() }),
            Fate::Unknown { applied: false } => Ok(CommitOutcome::Unknown),
            // A conflict is not an unknown outcome.
            Fate::Unknown { applied: true } => match ready.commit().await? {
                CommitOutcome::Conflict => Ok(CommitOutcome::Conflict),
                CommitOutcome::Done | CommitOutcome::Unknown => Ok(CommitOutcome::Unknown),
            },
        }
    }
}
