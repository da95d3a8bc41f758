//! A long reading: a read-only transaction of the server that remembers nothing here.

use super::pool::{Pool, Taken, bounded};
use async_trait::async_trait;
use bytes::Bytes;
use cairn_meta::kv::{EngineError, KeyRange, Order, Snapshot};
use std::sync::Arc;

/// As every reading transaction.
const BEGIN: &str = "BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY";

/// The table as it was at one moment.
pub(super) struct PgSnapshot {
    pool: Arc<Pool>,
    reading: Option<Taken>,
}

impl PgSnapshot {
    pub(super) async fn begin(pool: Arc<Pool>) -> Result<Self, EngineError> {
        let taken = pool.take().await?;
        bounded(taken.conn.client.batch_execute(BEGIN)).await?;
        // The first read takes the snapshot.
        bounded(taken.conn.get(&[0])).await?;
        Ok(Self { pool, reading: Some(taken) })
    }
}

#[async_trait]
impl Snapshot for PgSnapshot {
    async fn scan(&mut self, range: &KeyRange, limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        // A failed statement ends the transaction, and with it the snapshot.
        let taken = self.reading.take().ok_or(EngineError::Conflict)?;
        let rows = bounded(taken.conn.scan(range, limit, Order::Forward)).await?;
        self.reading = Some(taken);
        Ok(rows)
    }

    fn position(&self) -> u64 {
        0
    }
}

impl Drop for PgSnapshot {
    fn drop(&mut self) {
        if let Some(taken) = self.reading.take() {
            self.pool.roll_back(taken);
        }
    }
}
