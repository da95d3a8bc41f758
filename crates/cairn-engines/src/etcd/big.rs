//! The commit of a transaction that does not fit into one request of etcd.
//!
//! 1. Its writes are stored as chunks, which mean nothing yet.
//! 2. The pending row is made, *prepared*: from now on nobody else commits.
//! 3. What was read is checked, in as many requests as it takes.
//! 4. The pending row becomes *committed*: this is the commit.
//! 5. The chunks are applied, the pending row and the chunks are removed.
//!
//! If the process ends, others give up a prepared row after a while and roll a committed one forward (`pending.rs`).

use super::client::{CallError, Repeat};
use super::commit::{Refusal, cost};
use super::frame::{Pending, State, TxnId, encode_chunk};
use super::pending::Found;
use super::{Inner, ask, pb};
use crate::limits::{ETCD_OPS_MAX, ETCD_PARALLEL, ETCD_PENDING_WAIT, ETCD_ROW_BYTES_MAX};
use bytes::Bytes;
use cairn_meta::kv::{CommitOutcome, EngineError, Writes};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

/// Cuts writes into chunks, each of which is applied by one request.
fn chunks_of(writes: Writes) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let mut chunk = Vec::new();
    let (mut bytes, mut ops) = (0, 0);
    for (key, value) in writes {
        let (row_bytes, row_ops) = cost(&key, value.as_deref());
        if !chunk.is_empty() && (bytes + row_bytes > ETCD_ROW_BYTES_MAX || ops + row_ops > ETCD_OPS_MAX) {
            chunks.push(Bytes::from(encode_chunk(&chunk)));
            chunk.clear();
            (bytes, ops) = (0, 0);
        }
        bytes += row_bytes;
        ops += row_ops;
        chunk.push((key, value));
    }
    if !chunk.is_empty() {
        chunks.push(Bytes::from(encode_chunk(&chunk)));
    }
    chunks
}

impl Inner {
    /// Commits in steps; `checks` hold while nothing that was read has changed.
    pub(super) async fn commit_big(
        &self,
        snapshot: i64,
        checks: Vec<pb::Compare>,
        writes: Writes,
    ) -> Result<CommitOutcome, EngineError> {
        let chunks = chunks_of(writes);
        let txn: TxnId = self.rng.lock().u128(..).to_be_bytes();
        let count = u32::try_from(chunks.len()).expect("writes are bounded");
        let pending = Pending { state: State::Prepared, txn, chunks: count };
        let outcome = match self.store_chunks(&txn, &chunks).await {
            Ok(()) => self.decide(snapshot, checks, pending).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(Decision::Committed(found)) => {
                // It has happened. Whatever is left to do, the next begin of anybody does.
                if let Err(error) = self.roll_forward(&found, Some(&chunks)).await {
                    tracing::debug!(%error, "a big transaction is left for others to apply");
                }
                Ok(CommitOutcome::Done)
            }
            Ok(Decision::Conflict) => {
                self.forget_chunks(&pending).await;
                Ok(CommitOutcome::Conflict)
            }
            // Others decide: the chunks have to stay.
            Ok(Decision::Unknown) => Ok(CommitOutcome::Unknown),
            Err(error) => {
                self.forget_chunks(&pending).await;
                Err(error)
            }
        }
    }

    async fn store_chunks(&self, txn: &TxnId, chunks: &[Bytes]) -> Result<(), EngineError> {
        let mut stores = Vec::new();
        for (chunk, index) in chunks.iter().zip(0..) {
            let put = ask::put(self.keys.chunk(txn, index), chunk.to_vec());
            let store = pb::TxnRequest { success: vec![put], ..Default::default() };
            stores.push(self.client.txn(Repeat::Allowed, store));
        }
        let stored = stream::iter(stores).buffer_unordered(ETCD_PARALLEL).try_collect::<Vec<_>>().await;
        stored.map(|_| ()).map_err(|error| self.failed(error))
    }

    /// Removes chunks that mean nothing. Left behind, they are swept later.
    async fn forget_chunks(&self, pending: &Pending) {
        if let Err(error) = self.remove_chunks(pending).await {
            tracing::debug!(%error, "chunks of a big transaction are left for the sweep");
        }
    }

    /// Makes the pending row, checks, and commits. After an error no pending row of this transaction will ever commit.
    async fn decide(&self, snapshot: i64, checks: Vec<pb::Compare>, pending: Pending) -> Result<Decision, EngineError> {
        let Some(prepared) = self.prepare(snapshot, pending).await? else { return Ok(Decision::Conflict) };
        for batch in checks.chunks(ETCD_OPS_MAX - 1) {
            let mut compare = vec![ask::unchanged(self.keys.pending(), prepared.written)];
            compare.extend_from_slice(batch);
            let check = pb::TxnRequest { compare, ..Default::default() };
            match self.client.txn(Repeat::Allowed, check).await {
                Ok(answer) if answer.succeeded => {}
                Ok(_) => {
                    self.remove_pending(&prepared).await?;
                    return Ok(Decision::Conflict);
                }
                Err(error) => {
                    // Without us it is given up after a while.
                    let _ = self.remove_pending(&prepared).await;
                    return Err(self.failed(error));
                }
            }
        }
        self.flip(snapshot, &prepared).await
    }

    /// The prepared row of `pending`, once there is no other; `None` when the transaction cannot be checked any more.
    async fn prepare(&self, snapshot: i64, pending: Pending) -> Result<Option<Found>, EngineError> {
        let request = pb::TxnRequest {
            compare: vec![
                ask::unchanged(self.keys.pending(), 0),
                self.floor_is_older(snapshot),
                // Chunks that were swept are not to be committed.
                ask::exists(self.keys.chunk(&pending.txn, 0)),
            ],
            success: vec![ask::put(self.keys.pending(), pending.encode())],
            failure: vec![ask::read(ask::rows(self.keys.gate(), 0, 0))],
        };
        let deadline = Instant::now() + ETCD_PENDING_WAIT;
        while Instant::now() < deadline {
            let answer = match self.client.txn(Repeat::Allowed, request.clone()).await {
                Ok(answer) => answer,
                Err(error) => return Err(self.failed(error)),
            };
            if answer.succeeded {
                return Ok(Some(Found { pending, written: ask::revision(answer.header.as_ref()) }));
            }
            match self.refused(snapshot, answer)? {
                Refusal::Conflict => return Ok(None),
                // An earlier try was not answered, but it was heard.
                Refusal::Pending(found) if found.pending == pending => return Ok(Some(found)),
                Refusal::Pending(found) => self.settle(&found).await?,
            }
        }
        Ok(None)
    }

    /// Commits. A try that is not answered is looked into: only what nobody can tell stays unknown.
    async fn flip(&self, snapshot: i64, prepared: &Found) -> Result<Decision, EngineError> {
        let committed = Pending { state: State::Committed, ..prepared.pending };
        let request = pb::TxnRequest {
            compare: vec![ask::unchanged(self.keys.pending(), prepared.written), self.floor_is_older(snapshot)],
            success: vec![ask::put(self.keys.pending(), committed.encode())],
            failure: vec![ask::read(ask::rows(self.keys.gate(), 0, 0))],
        };
        let mut in_doubt = false;
        let deadline = Instant::now() + ETCD_PENDING_WAIT;
        while Instant::now() < deadline {
            match self.client.txn(Repeat::Never, request.clone()).await {
                Ok(answer) if answer.succeeded => {
                    let written = ask::revision(answer.header.as_ref());
                    return Ok(Decision::Committed(Found { pending: committed, written }));
                }
                Ok(answer) => return self.judge_flip(snapshot, prepared, answer, in_doubt).await,
                Err(CallError::Lost { .. }) => in_doubt = true,
                Err(CallError::Away { .. }) if in_doubt => {}
                Err(error) if !in_doubt => {
                    let _ = self.remove_pending(prepared).await;
                    return Err(self.failed(error));
                }
                Err(_) => break,
            }
        }
        Ok(Decision::Unknown)
    }

    async fn judge_flip(
        &self,
        snapshot: i64,
        prepared: &Found,
        answer: pb::TxnResponse,
        in_doubt: bool,
    ) -> Result<Decision, EngineError> {
        match self.refused(snapshot, answer)? {
            Refusal::Pending(found) if found.pending.txn == prepared.pending.txn => match found.pending.state {
                State::Committed => Ok(Decision::Committed(found)),
                State::Prepared => Ok(Decision::Conflict),
            },
            // The row is gone. If a try may have been heard, others may have rolled it forward since.
            _ if in_doubt => Ok(Decision::Unknown),
            _ => {
                self.remove_pending(prepared).await?;
                Ok(Decision::Conflict)
            }
        }
    }
}

/// What became of a big transaction.
enum Decision {
    /// It is committed, and has to be applied.
    Committed(Found),
    /// Nothing of it will ever be visible.
    Conflict,
    /// Nobody can tell.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::super::frame::parse_chunk;
    use super::*;

    #[test]
    fn chunks_hold_all_writes_within_the_bounds() {
        let mut writes = Writes::new();
        for index in 0..1000u32 {
            let key = index.to_be_bytes().to_vec();
            let value = match index % 3 {
                0 => None,
                1 => Some(vec![1; 10]),
                _ => Some(vec![2; 40_000]),
            };
            writes.insert(key, value);
        }
        writes.insert(b"big".to_vec(), Some(vec![3; 1 << 20]));
        let mut all = Writes::new();
        for chunk in chunks_of(writes.clone()) {
            let part = parse_chunk(&chunk).expect("it parses");
            let ops: usize = part.iter().map(|(key, value)| cost(key, value.as_deref()).1).sum();
            let bytes: usize = part.iter().map(|(key, value)| cost(key, value.as_deref()).0).sum();
            assert!(!part.is_empty() && ops <= ETCD_OPS_MAX && bytes <= ETCD_ROW_BYTES_MAX, "{ops} {bytes}");
            all.extend(part);
        }
        assert_eq!(all, writes);
    }
}
