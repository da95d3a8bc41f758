//! An engine in memory that can be held up, made small and broken off, and that counts.

use async_trait::async_trait;
use bytes::Bytes;
use cairn_meta::kv::{CommitOutcome, Durability, Engine, EngineError, KeyRange, Limits, MapEngine, Order, Txn};
use std::collections::BTreeMap;
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

/// [`MapEngine`] under a watch.
#[derive(Clone)]
pub struct WatchedEngine {
    pub inner: MapEngine,
    pub limits: Limits,
    pub watch: Arc<Watch>,
}

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
        Self { inner: MapEngine::new(), limits, watch: Arc::new(watch) }
    }

    /// The commits so far.
    pub fn commits(&self) -> usize {
        self.watch.commits.load(Ordering::SeqCst)
    }

    /// Lets `count` further commits through, then none.
    pub fn break_after(&self, count: u64) {
        self.watch.left.store(count, Ordering::SeqCst);
    }
}

#[async_trait]
impl Engine for WatchedEngine {
    async fn begin(&self) -> Result<Box<dyn Txn>, EngineError> {
        let inner = self.inner.begin().await?;
        Ok(Box::new(WatchedTxn { inner, writes: BTreeMap::new(), limits: self.limits, watch: self.watch.clone() }))
    }
    fn limits(&self) -> Limits {
        self.limits
    }
    fn name(&self) -> &'static str {
        "watched"
    }
}

struct WatchedTxn {
    inner: Box<dyn Txn>,
    writes: BTreeMap<Vec<u8>, usize>,
    limits: Limits,
    watch: Arc<Watch>,
}

#[async_trait]
impl Txn for WatchedTxn {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner.get(key).await
    }
    async fn get_many(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, EngineError> {
        self.inner.get_many(keys).await
    }
    async fn scan(&mut self, range: &KeyRange, limit: usize, order: Order) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        self.inner.scan(range, limit, order).await
    }
    async fn read_unvalidated(&mut self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner.read_unvalidated(key).await
    }
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.insert(key.clone(), key.len() + value.len());
        self.inner.put(key, value);
    }
    fn delete(&mut self, key: Vec<u8>) {
        self.writes.insert(key.clone(), key.len());
        self.inner.delete(key);
    }
    async fn commit(self: Box<Self>, durability: Durability) -> Result<CommitOutcome, EngineError> {
        if self.writes.is_empty() {
            return self.inner.commit(durability).await;
        }
        let (writes, bytes) = (self.writes.len(), self.writes.values().sum());
        if writes > self.limits.writes || bytes > self.limits.bytes {
            return Err(EngineError::TooLarge { writes, bytes });
        }
        let _permit = self.watch.gate.acquire().await.expect("never closed");
        let left = self.watch.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_err() {
            return Err(EngineError::Unavailable { cause: "it is gone".into() });
        }
        let outcome = self.inner.commit(durability).await;
        if outcome == Ok(CommitOutcome::Done) {
            self.watch.commits.fetch_add(1, Ordering::SeqCst);
            self.watch.writes_most.fetch_max(writes, Ordering::SeqCst);
        }
        outcome
    }
}
