//! A transaction under optimistic concurrency control: reads a published view, remembers what it read, and hands all
//! of it to the committer.

use super::group::{Job, Published, View, Writes};
use super::window::ReadSet;
use super::{CommitOutcome, Durability, EngineError, KeyRange, Limits, Order, Txn};
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Bound;
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
    writes: Writes,
}

impl<V: View> OccTxn<V> {
    pub(super) fn new(base: Arc<Published<V>>, submit: Arc<dyn Submit>, limits: Limits) -> Self {
        Self { base, submit, limits, reads: ReadSet::default(), writes: Writes::new() }
    }

    /// Own writes inside `range`.
    fn overlay(&self, range: &KeyRange) -> impl DoubleEndedIterator<Item = (&Vec<u8>, &Option<Vec<u8>>)> {
        self.writes.range::<Vec<u8>, _>((Bound::Included(&range.start), Bound::Excluded(&range.end)))
    }

    /// The rows of the view with own writes laid over them. `base` holds at least `limit` rows that own writes do not
    /// remove, or all there are, so that the first `limit` of the merged rows are right.
    fn merge(&self, base: Vec<(Bytes, Bytes)>, range: &KeyRange, limit: usize, order: Order) -> Vec<(Bytes, Bytes)> {
        let mut merged: std::collections::BTreeMap<Bytes, Bytes> = base.into_iter().collect();
        for (key, value) in self.overlay(range) {
            match value {
                Some(value) => merged.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)),
                None => merged.remove(key.as_slice()),
            };
        }
        match order {
            Order::Forward => merged.into_iter().take(limit).collect(),
            Order::Reverse => merged.into_iter().rev().take(limit).collect(),
        }
    }
}

/// The part of `range` that a scan has walked when it returned `rows` of at most `limit`.
fn walked(range: &KeyRange, rows: &[(Bytes, Bytes)], limit: usize, order: Order) -> KeyRange {
    match (rows.last(), order) {
        (Some((last, _)), Order::Forward) if rows.len() >= limit => {
            KeyRange { start: range.start.clone(), end: KeyRange::successor(last) }
        }
        (Some((last, _)), Order::Reverse) if rows.len() >= limit => {
            KeyRange { start: last.to_vec(), end: range.end.clone() }
        }
        _ => range.clone(),
    }
}

#[async_trait]
impl<V: View> Txn for OccTxn<V> {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if let Some(own) = self.writes.get(key) {
            return Ok(own.as_deref().map(Bytes::copy_from_slice));
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
        let own = self.overlay(range).count();
        let removed = self.overlay(range).filter(|(_, value)| value.is_none()).count();
        let wanted = limit + removed;
        let base = self.base.view.scan(range, wanted, order)?;
        self.reads.ranges.push(walked(range, &base, wanted, order));
        if own == 0 { Ok(base) } else { Ok(self.merge(base, range, limit, order)) }
    }

    async fn read_unvalidated(&mut self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.writes.get(key) {
            Some(own) => Ok(own.as_deref().map(Bytes::copy_from_slice)),
            None => self.base.view.get(key),
        }
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.insert(key, Some(value));
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }

    async fn commit(self: Box<Self>, durability: Durability) -> Result<CommitOutcome, EngineError> {
        if self.writes.is_empty() {
            return Ok(CommitOutcome::Done);
        }
        let bytes = self.writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum();
        if self.writes.len() > self.limits.writes || bytes > self.limits.bytes {
            return Err(EngineError::TooLarge { writes: self.writes.len(), bytes });
        }
        let job = Job { snapshot: self.base.seq, reads: self.reads, writes: self.writes, durability };
        // The view is let go before the wait, so that it holds back no cleaning in the engine.
        drop(self.base);
        self.submit.submit(job, bytes).await
    }
}
