//! A transaction: reads in a read-only transaction of the server, writes when it commits.

use super::commit::{Job, Reads, Scan, Waiting};
use super::pool::{Conn, Pool, Taken, bounded, pipelined};
use crate::limits::TXN_LIMITS;
use async_trait::async_trait;
use bytes::Bytes;
use cairn_meta::kv::{CommitOutcome, Durability, EngineError, KeyRange, Order, Overlay, Txn};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Error;

const BEGIN_READING: &str = "BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY";

/// A transaction. Its snapshot is taken by its first read.
pub(super) struct PgTxn {
    pool: Arc<Pool>,
    queue: mpsc::Sender<Waiting>,
    /// Where the reads happen, once there are any.
    reading: Option<Taken>,
    reads: Reads,
    own: Overlay,
}

impl PgTxn {
    pub(super) fn new(pool: Arc<Pool>, queue: mpsc::Sender<Waiting>) -> Self {
        Self { pool, queue, reading: None, reads: Reads::default(), own: Overlay::default() }
    }

    async fn fetch(&mut self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let (taken, begin) = self.enter().await?;
        let value = in_snapshot(&taken.conn, begin, taken.conn.get(key)).await?;
        self.reading = Some(taken);
        Ok(value)
    }

    /// The connection that reads, and whether its transaction has still to begin. It is put back after the read: one
    /// that failed has ended the snapshot, and with it this transaction.
    async fn enter(&mut self) -> Result<(Taken, bool), EngineError> {
        match self.reading.take() {
            Some(taken) => Ok((taken, false)),
            None if self.reads.begun => Err(EngineError::Conflict),
            None => {
                let taken = self.pool.take().await?;
                self.reads.begun = true;
                Ok((taken, true))
            }
        }
    }
}

/// Runs a read in the snapshot; the first one is sent together with what begins it.
async fn in_snapshot<T>(
    conn: &Conn,
    begin: bool,
    read: impl Future<Output = Result<T, Error>>,
) -> Result<T, EngineError> {
    if !begin {
        return bounded(read).await;
    }
    let (begun, found) = tokio::join!(biased; bounded(conn.client.batch_execute(BEGIN_READING)), bounded(read));
    begun?;
    found
}

impl Drop for PgTxn {
    fn drop(&mut self) {
        if let Some(taken) = self.reading.take() {
            self.pool.roll_back(taken);
        }
    }
}

#[async_trait]
impl Txn for PgTxn {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if let Some(own) = self.own.get(key) {
            return Ok(own);
        }
        let value = match self.reads.keys.get(key) {
            Some(known) => known.clone(),
            None => self.fetch(key).await?,
        };
        self.reads.keys.insert(key.to_vec(), value.clone());
        Ok(value)
    }

    async fn get_many(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, EngineError> {
        let mut asked: Vec<&Vec<u8>> = keys.iter().filter(|key| self.own.get(key).is_none()).collect();
        asked.sort_unstable();
        asked.dedup();
        if !asked.is_empty() {
            let (taken, begin) = self.enter().await?;
            let gets = asked.iter().map(|key| taken.conn.get(key)).collect();
            let found = in_snapshot(&taken.conn, begin, pipelined(gets)).await?;
            self.reading = Some(taken);
            self.reads.keys.extend(asked.into_iter().cloned().zip(found));
        }
        let value = |key: &Vec<u8>| self.own.get(key).unwrap_or_else(|| self.reads.keys.get(key).cloned().flatten());
        Ok(keys.iter().map(value).collect())
    }

    async fn scan(&mut self, range: &KeyRange, limit: usize, order: Order) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let wanted = self.own.wanted(range, limit);
        let (taken, begin) = self.enter().await?;
        let base = in_snapshot(&taken.conn, begin, taken.conn.scan(range, wanted, order)).await?;
        self.reading = Some(taken);
        let scan = Scan { range: range.clone(), limit: wanted, order, rows: base.clone() };
        self.reads.scans.push(scan);
        Ok(self.own.merge(base, range, limit, order))
    }

    async fn read_unvalidated(&mut self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.own.get(key) {
            Some(own) => Ok(own),
            None => self.fetch(key).await,
        }
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.own.put(key, value);
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.own.delete(key);
    }

    async fn commit(mut self: Box<Self>, durability: Durability) -> Result<CommitOutcome, EngineError> {
        if let Some(taken) = self.reading.take() {
            self.pool.roll_back(taken);
        }
        let own = std::mem::take(&mut self.own);
        if own.is_empty() {
            return Ok(CommitOutcome::Done);
        }
        let (writes, bytes) = own.into_writes(TXN_LIMITS)?;
        let (done, outcome) = oneshot::channel();
        let job = Job { reads: std::mem::take(&mut self.reads), writes, bytes, durability };
        if self.queue.send(Waiting { job, done }).await.is_err() {
            return Err(EngineError::Failed { cause: "the engine was closed".into() });
        }
        // A committer that went away without an answer may have written before.
        outcome.await.unwrap_or(Ok(CommitOutcome::Unknown))
    }
}
