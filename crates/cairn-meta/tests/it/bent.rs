//! An engine that does something otherwise: everything passes to the one inside, but for what a [`Bend`] decides.

use async_trait::async_trait;
use bytes::Bytes;
use cairn_meta::kv::{CommitOutcome, Durability, Engine, EngineError, KeyRange, Limits, MapEngine, Order, Txn};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is done otherwise. Nothing, unless one of these is given.
#[async_trait]
pub trait Bend: Clone + Send + Sync + 'static {
    fn limits(&self, inner: Limits) -> Limits {
        inner
    }

    /// Before a transaction begins.
    fn begin(&self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Before each read.
    async fn read(&self) {}

    /// What becomes of a write; a value of `None` removes the key.
    fn write(&self, key: Vec<u8>, value: Option<Vec<u8>>) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        Some((key, value))
    }

    /// What becomes of a transaction that is to be committed.
    async fn commit(&self, ready: Ready) -> Result<CommitOutcome, EngineError> {
        ready.commit().await
    }
}

/// A transaction at its end.
pub struct Ready {
    inner: Box<dyn Txn>,
    durability: Durability,
    /// The bytes of each row that it writes, the key with it.
    pub writes: BTreeMap<Vec<u8>, usize>,
}

impl Ready {
    pub async fn commit(self) -> Result<CommitOutcome, EngineError> {
        self.inner.commit(self.durability).await
    }
}

/// An engine with a bend.
#[derive(Clone)]
pub struct Bent<B> {
    pub inner: Arc<dyn Engine>,
    pub bend: B,
}

impl<B> Bent<B> {
    /// A [`MapEngine`], bent.
    pub fn of(bend: B) -> Self {
        Self::around(Arc::new(MapEngine::new()), bend)
    }

    pub fn around(inner: Arc<dyn Engine>, bend: B) -> Self {
        Self { inner, bend }
    }
}

#[async_trait]
impl<B: Bend> Engine for Bent<B> {
    async fn begin(&self) -> Result<Box<dyn Txn>, EngineError> {
        self.bend.begin()?;
        Ok(Box::new(BentTxn { inner: self.inner.begin().await?, bend: self.bend.clone(), writes: BTreeMap::new() }))
    }
    fn limits(&self) -> Limits {
        self.bend.limits(self.inner.limits())
    }
    fn name(&self) -> &'static str {
        "bent"
    }
}

struct BentTxn<B> {
    inner: Box<dyn Txn>,
    bend: B,
    writes: BTreeMap<Vec<u8>, usize>,
}

impl<B: Bend> BentTxn<B> {
    fn write(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let Some((key, value)) = self.bend.write(key, value) else { return };
        self.writes.insert(key.clone(), key.len() + value.as_ref().map_or(0, Vec::len));
        match value {
            Some(value) => self.inner.put(key, value),
            None => self.inner.delete(key),
        }
    }
}

#[async_trait]
impl<B: Bend> Txn for BentTxn<B> {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.bend.read().await;
        self.inner.get(key).await
    }
    async fn get_many(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, EngineError> {
        self.bend.read().await;
        self.inner.get_many(keys).await
    }
    async fn scan(&mut self, range: &KeyRange, limit: usize, order: Order) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        self.bend.read().await;
        self.inner.scan(range, limit, order).await
    }
    async fn read_unvalidated(&mut self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.bend.read().await;
        self.inner.read_unvalidated(key).await
    }
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.write(key, Some(value));
    }
    fn delete(&mut self, key: Vec<u8>) {
        self.write(key, None);
    }
    async fn commit(self: Box<Self>, durability: Durability) -> Result<CommitOutcome, EngineError> {
        let Self { inner, bend, writes } = *self;
        bend.commit(Ready { inner, durability, writes }).await
    }
}
