//! A transaction: reads at its revision, remembers what it read, writes when it commits.

use super::client::{CallError, Repeat};
use super::commit::Reads;
use super::{Inner, ask, frame, pb};
use crate::limits::{ETCD_OPS_MAX, ETCD_PARALLEL, TXN_LIMITS};
use async_trait::async_trait;
use bytes::Bytes;
use cairn_meta::kv::{CommitOutcome, Durability, EngineError, KeyRange, Order, Overlay, Snapshot, Txn, walked};
use futures_util::{StreamExt, TryStreamExt, stream};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A row as it was at the snapshot.
#[derive(Clone, Default)]
pub(super) struct Seen {
    pub(super) value: Option<Bytes>,
    /// The revision that wrote it, also when that removed it; 0 = it never was there, as far as is known.
    pub(super) written: i64,
}

/// A transaction at one revision.
pub(super) struct EtcdTxn {
    inner: Arc<Inner>,
    snapshot: i64,
    reads: Reads,
    own: Overlay,
}

impl EtcdTxn {
    pub(super) fn new(inner: Arc<Inner>, snapshot: i64) -> Self {
        Self { inner, snapshot, reads: Reads::default(), own: Overlay::default() }
    }
}

/// Everything at one revision, read without remembering.
pub(super) struct EtcdSnapshot {
    inner: Arc<Inner>,
    revision: i64,
}

impl EtcdSnapshot {
    pub(super) fn new(inner: Arc<Inner>, revision: i64) -> Self {
        Self { inner, revision }
    }
}

#[async_trait]
impl Snapshot for EtcdSnapshot {
    async fn scan(&mut self, range: &KeyRange, limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        self.inner.forward(range, self.revision, limit).await
    }

    fn position(&self) -> u64 {
        u64::try_from(self.revision).unwrap_or(0)
    }
}

#[async_trait]
impl Txn for EtcdTxn {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if let Some(own) = self.own.get(key) {
            return Ok(own);
        }
        let seen = self.inner.seen(key, self.snapshot).await?;
        self.reads.keys.insert(key.to_vec(), seen.written);
        Ok(seen.value)
    }

    async fn get_many(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, EngineError> {
        let mut asked: Vec<&Vec<u8>> = keys.iter().filter(|key| self.own.get(key).is_none()).collect();
        asked.sort_unstable();
        asked.dedup();
        let mut batches = Vec::new();
        for batch in asked.chunks(ETCD_OPS_MAX) {
            let keys = batch.iter().map(|key| self.inner.keys.data(key)).collect();
            batches.push(self.inner.seen_all(keys, self.snapshot));
        }
        let batches: Vec<Vec<Seen>> = stream::iter(batches).buffered(ETCD_PARALLEL).try_collect().await?;
        let mut found = BTreeMap::new();
        for (key, seen) in asked.iter().zip(batches.into_iter().flatten()) {
            self.reads.keys.insert(key.to_vec(), seen.written);
            found.insert(*key, seen.value);
        }
        let value = |key: &Vec<u8>| self.own.get(key).unwrap_or_else(|| found.get(key).cloned().flatten());
        Ok(keys.iter().map(value).collect())
    }

    async fn scan(&mut self, range: &KeyRange, limit: usize, order: Order) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let wanted = self.own.wanted(range, limit);
        let base = match order {
            Order::Forward => self.inner.forward(range, self.snapshot, wanted).await?,
            Order::Reverse => self.inner.reverse(range, self.snapshot, wanted).await?,
        };
        self.reads.ranges.push(walked(range, &base, wanted, order));
        Ok(self.own.merge(base, range, limit, order))
    }

    async fn read_unvalidated(&mut self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.own.get(key) {
            Some(own) => Ok(own),
            None => Ok(self.inner.seen(key, self.snapshot).await?.value),
        }
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.own.put(key, value);
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.own.delete(key);
    }

    /// etcd knows no relaxed level: every commit is on the disks of a majority.
    async fn commit(self: Box<Self>, _durability: Durability) -> Result<CommitOutcome, EngineError> {
        if self.own.is_empty() {
            return Ok(CommitOutcome::Done);
        }
        let (writes, _) = self.own.into_writes(TXN_LIMITS)?;
        self.inner.commit(self.snapshot, self.reads, writes).await
    }
}

impl Inner {
    /// Rows at a revision: of the member at hand when it has the revision already, which it has unless another began the
    /// transaction.
    pub(super) async fn at_snapshot(&self, mut ask: pb::RangeRequest) -> Result<pb::RangeResponse, EngineError> {
        ask.serializable = true;
        let answer = match self.client.range(ask.clone()).await {
            Err(CallError::Future) => self.client.range(pb::RangeRequest { serializable: false, ..ask }).await,
            answer => answer,
        };
        answer.map_err(|error| self.failed(error))
    }

    async fn seen(&self, key: &[u8], snapshot: i64) -> Result<Seen, EngineError> {
        let answer = self.at_snapshot(ask::get(self.keys.data(key), snapshot)).await?;
        seen_in(answer.kvs)
    }

    /// At most [`ETCD_OPS_MAX`] rows, by their keys in etcd.
    async fn seen_all(&self, keys: Vec<Vec<u8>>, snapshot: i64) -> Result<Vec<Seen>, EngineError> {
        let ask = |serializable| {
            let read = |key: &Vec<u8>| {
                let range = ask::get(key.clone(), snapshot);
                ask::read(pb::RangeRequest { serializable, ..range })
            };
            pb::TxnRequest { success: keys.iter().map(read).collect(), ..Default::default() }
        };
        let answer = match self.client.txn(Repeat::Allowed, ask(true)).await {
            Err(CallError::Future) => self.client.txn(Repeat::Allowed, ask(false)).await,
            answer => answer,
        };
        let answer = answer.map_err(|error| self.failed(error))?;
        ask::found(answer).into_iter().map(seen_in).collect()
    }
}

fn seen_in(rows: Vec<pb::KeyValue>) -> Result<Seen, EngineError> {
    match rows.into_iter().next() {
        None => Ok(Seen::default()),
        Some(row) => Ok(Seen { value: parsed(&row)?, written: row.mod_revision }),
    }
}

/// The value of a row, `None` for a tombstone.
pub(super) fn parsed(row: &pb::KeyValue) -> Result<Option<Bytes>, EngineError> {
    frame::parse_value(&row.value).ok_or_else(|| EngineError::Failed { cause: "etcd: a row is damaged".into() })
}
