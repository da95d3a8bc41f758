//! An engine that conflicts without need, is away now and then, and leaves open whether a transaction was applied: sometimes
//! it was, sometimes not.

use async_trait::async_trait;
use bytes::Bytes;
use cairn_meta::kv::{CommitOutcome, Durability, Engine, EngineError, KeyRange, Limits, MapEngine, Order, Txn};
use std::sync::{Arc, Mutex};

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

pub struct FlakyEngine {
    inner: MapEngine,
    state: Arc<Mutex<State>>,
}

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
    pub fn new(seed: u64, faults: bool) -> Self {
        let state = State { rng: fastrand::Rng::with_seed(!seed), counts: Counts::default(), on: faults };
        Self { inner: MapEngine::new(), state: Arc::new(Mutex::new(state)) }
    }

    pub fn counts(&self) -> Counts {
        self.state.lock().expect("not poisoned").counts
    }

    /// From here on it is well.
    pub fn heal(&self) {
        self.state.lock().expect("not poisoned").on = false;
    }
}

#[async_trait]
impl Engine for FlakyEngine {
    async fn begin(&self) -> Result<Box<dyn Txn>, EngineError> {
        Ok(Box::new(FlakyTxn { inner: self.inner.begin().await?, state: self.state.clone(), writes: false }))
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn name(&self) -> &'static str {
        "flaky"
    }
}

struct FlakyTxn {
    inner: Box<dyn Txn>,
    state: Arc<Mutex<State>>,
    writes: bool,
}

impl FlakyTxn {
    /// Now and then it is another's turn.
    async fn pause(&mut self) {
        let pause = {
            let mut state = self.state.lock().expect("not poisoned");
            state.on && state.rng.u32(..4) == 0
        };
        if pause {
            tokio::task::yield_now().await;
        }
    }

    fn fate(&self) -> Fate {
        let mut state = self.state.lock().expect("not poisoned");
        // What only reads has no outcome that could be unknown.
        if !state.on || !self.writes {
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
impl Txn for FlakyTxn {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.pause().await;
        self.inner.get(key).await
    }

    async fn get_many(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, EngineError> {
        self.inner.get_many(keys).await
    }

    async fn scan(&mut self, range: &KeyRange, limit: usize, order: Order) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        self.pause().await;
        self.inner.scan(range, limit, order).await
    }

    async fn read_unvalidated(&mut self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner.read_unvalidated(key).await
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes = true;
        self.inner.put(key, value);
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.writes = true;
        self.inner.delete(key);
    }

    async fn commit(mut self: Box<Self>, durability: Durability) -> Result<CommitOutcome, EngineError> {
        self.pause().await;
        match self.fate() {
            Fate::Commit => self.inner.commit(durability).await,
            Fate::Conflict => Ok(CommitOutcome::Conflict),
            Fate::Unavailable => Err(EngineError::Unavailable { cause: "a fault was injected".into() }),
            Fate::Unknown { applied } => {
                if applied {
                    // A conflict is not an unknown outcome.
                    match self.inner.commit(durability).await? {
                        CommitOutcome::Conflict => return Ok(CommitOutcome::Conflict),
                        CommitOutcome::Done | CommitOutcome::Unknown => {}
                    }
                }
                Ok(CommitOutcome::Unknown)
            }
        }
    }
}
