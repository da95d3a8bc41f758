//! The pending row: what everybody does about a big transaction of anybody.

use super::client::{CallError, Repeat};
use super::frame::{Pending, State, parse_chunk, parse_floor};
use super::{Inner, ask, frame, pb};
use crate::limits::{ETCD_PARALLEL, ETCD_PENDING_POLL, ETCD_PREPARED_MAX};
use bytes::Bytes;
use cairn_meta::kv::EngineError;
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep};

/// The pending row as it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) pending: Pending,
    /// When it was written: says that it is still the same.
    pub(super) written: i64,
}

/// What every transaction looks at before it begins and when it fails.
pub(super) struct Gate {
    pub(super) revision: i64,
    pub(super) floor: Option<i64>,
    pub(super) pending: Option<Found>,
}

fn damaged(what: &str) -> EngineError {
    EngineError::Failed { cause: format!("etcd: {what} is damaged") }
}

impl Inner {
    /// Floor and pending row at the newest revision.
    pub(super) async fn gate(&self) -> Result<Gate, EngineError> {
        let answer = self.client.range(ask::rows(self.keys.gate(), 0, 0)).await;
        let answer = answer.map_err(|error| self.failed(error))?;
        let revision = ask::revision(answer.header.as_ref());
        self.parse_gate(revision, &answer.kvs)
    }

    pub(super) fn parse_gate(&self, revision: i64, rows: &[pb::KeyValue]) -> Result<Gate, EngineError> {
        let (mut floor, mut pending) = (None, None);
        for row in rows {
            if row.key == self.keys.floor() {
                floor = Some(parse_floor(&row.value).ok_or_else(|| damaged("the floor"))?);
            } else if row.key == self.keys.pending() {
                let parsed = Pending::parse(&row.value).ok_or_else(|| damaged("the pending row"))?;
                pending = Some(Found { pending: parsed, written: row.mod_revision });
            }
        }
        Ok(Gate { revision, floor, pending })
    }

    /// Waits until the pending row is another or gone: helps one that is committed, gives up one that is prepared and
    /// does not move.
    pub(super) async fn settle(&self, found: &Found) -> Result<(), EngineError> {
        if found.pending.state == State::Committed {
            return self.roll_forward(found, None).await;
        }
        let since = Instant::now();
        let mut pause = ETCD_PENDING_POLL.0;
        while Instant::now().saturating_duration_since(since) < ETCD_PREPARED_MAX {
            sleep(pause).await; // tidy: sleep-ok(polls a condition)
            pause = (pause * 2).min(ETCD_PENDING_POLL.1);
            if self.gate().await?.pending.as_ref() != Some(found) {
                return Ok(());
            }
        }
        tracing::warn!("a big transaction was prepared and did not go on: given up for its owner");
        self.remove_pending(found).await
    }

    /// Removes the pending row with its chunks, if it is still this one. At once: chunks without their row would be no
    /// harm, but a row that became committed meanwhile needs them.
    pub(super) async fn remove_pending(&self, found: &Found) -> Result<(), EngineError> {
        let remove = pb::TxnRequest {
            compare: vec![ask::unchanged(self.keys.pending(), found.written)],
            success: vec![ask::delete(self.keys.pending()), ask::delete_all(self.keys.chunks(&found.pending.txn))],
            failure: Vec::new(),
        };
        self.client.txn(Repeat::Allowed, remove).await.map(|_| ()).map_err(|error| self.failed(error))
    }

    /// Removes the chunks of a transaction of which it is certain that it will not be committed.
    pub(super) async fn remove_chunks(&self, pending: &Pending) -> Result<(), CallError> {
        let chunks = self.keys.chunks(&pending.txn);
        let remove = pb::TxnRequest { success: vec![ask::delete_all(chunks)], ..Default::default() };
        self.client.txn(Repeat::Allowed, remove).await.map(|_| ())
    }

    /// Applies a committed transaction and removes its pending row. Each step compares that the row is still this one, so
    /// any number of helpers may do it at once. Whoever has the chunks at hand gives them.
    pub(super) async fn roll_forward(&self, found: &Found, chunks: Option<&[Bytes]>) -> Result<(), EngineError> {
        let applied: Vec<Result<bool, EngineError>> = stream::iter(0..found.pending.chunks)
            .map(|index| self.apply(found, index, chunks.and_then(|chunks| chunks.get(index as usize))))
            .buffer_unordered(ETCD_PARALLEL)
            .collect()
            .await;
        for mine in applied {
            if !mine? {
                // Somebody else was faster.
                return Ok(());
            }
        }
        self.remove_pending(found).await
    }

    /// Applies one chunk; false when the pending row is another by now.
    async fn apply(&self, found: &Found, index: u32, chunk: Option<&Bytes>) -> Result<bool, EngineError> {
        let chunk = match chunk {
            Some(chunk) => chunk.clone(),
            None => match self.read_chunk(found, index).await? {
                Some(chunk) => chunk,
                None => return Ok(false),
            },
        };
        let writes = parse_chunk(&chunk).ok_or_else(|| damaged("a chunk of a big transaction"))?;
        let mut success = Vec::new();
        for (key, value) in &writes {
            self.write(&mut success, key, value.as_deref());
        }
        let apply = pb::TxnRequest {
            compare: vec![ask::unchanged(self.keys.pending(), found.written)],
            success,
            failure: Vec::new(),
        };
        let answer = self.client.txn(Repeat::Allowed, apply).await;
        answer.map(|answer| answer.succeeded).map_err(|error| self.failed(error))
    }

    async fn read_chunk(&self, found: &Found, index: u32) -> Result<Option<Bytes>, EngineError> {
        let ask = ask::get(self.keys.chunk(&found.pending.txn, index), 0);
        let answer = self.client.range(ask).await.map_err(|error| self.failed(error))?;
        if let Some(row) = answer.kvs.into_iter().next() {
            return Ok(Some(row.value));
        }
        // Chunks go with the pending row: missing, they say that it is done.
        match self.gate().await?.pending {
            Some(still) if still == *found => Err(damaged("a big transaction without all its chunks")),
            _ => Ok(None),
        }
    }

    /// The operations that write a row.
    pub(super) fn write(&self, ops: &mut Vec<pb::RequestOp>, key: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) => ops.push(ask::put(self.keys.data(key), frame::live(value))),
            None => {
                ops.push(ask::put(self.keys.data(key), frame::tombstone()));
                ops.push(ask::put(self.keys.removed(key), Vec::new()));
            }
        }
    }
}
