//! Long readings of everything: dumps, checks, copies. A snapshot is read page by page and takes part in no conflict.

use super::{EngineError, KeyRange, Order, Txn};
use async_trait::async_trait;
use bytes::Bytes;

/// All rows as they stood at one moment, for as long as this lives.
///
/// It holds space in the engine (former versions of rows, a transaction): whoever takes one bounds its life.
#[async_trait]
pub trait Snapshot: Send {
    /// At most `limit` rows of `range`, smallest key first.
    async fn scan(&mut self, range: &KeyRange, limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError>;

    /// The engine's own number of that moment, shown to operators; 0 where it has none.
    fn position(&self) -> u64;
}

/// A transaction that only reads: it sees one moment, on every engine.
pub(super) struct TxnSnapshot(pub(super) Box<dyn Txn>);

#[async_trait]
impl Snapshot for TxnSnapshot {
    async fn scan(&mut self, range: &KeyRange, limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        self.0.scan(range, limit, Order::Forward).await
    }

    fn position(&self) -> u64 {
        0
    }
}
