//! A transaction under optimistic concurrency control: reads a published view, remembers what it read, and hands all
//! of it to the committer.

use super::group::{Job, Published, View};
use super::overlay::{Overlay, walked};
use super::window::ReadSet;
use super::{CommitOutcome, Durability, EngineError, KeyRange, Limits, Order, Txn};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;

/// Takes a finished transaction to the committer and waits for its outcome.
#[async_trait]
pub(super) trait Submit: Send + Sync + 'static {
    async fn submit(&self, job: Job, bytes: usize) -> Result<CommitOutcome, EngineError>;
}

/// A transaction at the view `base`.
pub(super) struct OccTxn<V: View> {
    base: Arc<Published<V>>,
    submit: Arc<dyn Submit>,
    limits: Limits,
    reads: ReadSet,
    own: Overlay,
}

impl<V: View> OccTxn<V> {
    pub(super) fn new(base: Arc<Published<V>>, submit: Arc<dyn Submit>, limits: Limits) -> Self {
        Self { base, submit, limits, reads: ReadSet::default(), own: Overlay::default() }
    }
}

#[async_trait]
impl<V: View> Txn for OccTxn<V> {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if let Some(own) = self.own.get(key) {
            return Ok(own);
        }
        self.reads.keys.push(key.to_vec());
        self.base.view.get(key)
    }

    async fn get_many(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, EngineError> {
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            values.push(self.get(key).await?);
        }
        Ok(values)
    }

    async fn scan(&mut self, range: &KeyRange, limit: usize, order: Order) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let wanted = self.own.wanted(range, limit);
        let base = self.base.view.scan(range, wanted, order)?;
        self.reads.ranges.push(walked(range, &base, wanted, order));
        Ok(self.own.merge(base, range, limit, order))
    }

    async fn read_unvalidated(&mut self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.own.get(key) {
            Some(own) => Ok(own),
            None => self.base.view.get(key),
        }
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.own.put(key, value);
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.own.delete(key);
    }

    async fn commit(self: Box<Self>, durability: Durability) -> Result<CommitOutcome, EngineError> {
        if self.own.is_empty() {
            return Ok(CommitOutcome::Done);
        }
        let (writes, bytes) = self.own.into_writes(self.limits)?;
        let job = Job { snapshot: self.base.seq, reads: self.reads, writes, durability };
        // The view is let go before the wait, so that it holds back no cleaning in the engine.
        drop(self.base);
        self.submit.submit(job, bytes).await
    }
}
