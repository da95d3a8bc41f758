//! The entry of a transaction, and what becomes of its position.

use super::changes::derive;
use super::log::Log;
use crate::error::{Fault, Op, engine_status};
use crate::keys::{self, Key, counter};
use crate::kv::{CommitOutcome, Durability, Engine, EngineError};
use crate::limits::{ATTEMPTS_MAX, FEED_VOIDS_PER_TX};
use crate::meta::{Inner, Meta};
use crate::rows::{self, Delta, Row};
use crate::tx::Tx;
use cairn_proto::status::{Code, Status};
use std::sync::Arc;

/// The row at a position whose transaction was not committed.
pub(super) fn void_row() -> rows::Feed {
    rows::Feed { time_ns: 0, session: 0, changes: Vec::new(), deltas: Vec::new() }
}

/// The position that a transaction took. Dropped before the commit began, the position is void; dropped while it goes on,
/// it is doubtful.
pub(crate) struct Appended {
    inner: Arc<Inner>,
    log: u32,
    position: u64,
    deltas: Vec<Delta>,
    voids: Vec<u64>,
    /// Handed to the engine.
    committing: bool,
    settled: bool,
}

impl Appended {
    /// From now on the transaction may be committed.
    pub(crate) fn committing(&mut self) {
        self.committing = true;
    }

    /// What the engine said.
    pub(crate) fn settle(mut self, outcome: &Result<CommitOutcome, EngineError>) {
        self.settled = true;
        let (inner, deltas) = (self.inner.clone(), std::mem::take(&mut self.deltas));
        let feed = &inner.feed;
        inner.quotas.release(&deltas, || {
            feed.with_log(self.log, |log| match outcome {
                Ok(CommitOutcome::Done) => log.committed(self.position, deltas.clone(), &self.voids),
                Ok(CommitOutcome::Unknown) | Err(EngineError::Failed { .. }) => log.unknown(self.position),
                Ok(CommitOutcome::Conflict) | Err(_) => log.not_committed(self.position),
            });
        });
        if matches!(outcome, Ok(CommitOutcome::Done)) {
            feed.moved.send_modify(|count| *count += 1);
        }
    }
}

impl Drop for Appended {
    fn drop(&mut self) {
        if !self.settled {
            self.inner.quotas.release(&self.deltas, || {
                self.inner.feed.with_log(self.log, |log| match self.committing {
                    true => log.unknown(self.position),
                    false => log.not_committed(self.position),
                });
            });
        }
    }
}

impl Meta {
    /// Adds the entry that tells what the transaction changes, if that is anything. Comes last: the position is held from
    /// here to the outcome.
    pub(crate) async fn append_feed(&self, tx: &mut Tx) -> Op<Option<Appended>> {
        let mut derived = derive(&tx.changed, &tx.noted)?;
        if tx.unseen {
            derived.changes.clear();
        }
        if derived.changes.is_empty() && derived.deltas.is_empty() {
            return Ok(None);
        }
        self.inner.feed.names.learn(&derived.changes);
        let log = self.own_log().await?;
        match tx.get(&keys::FeedLog { log }).await? {
            Some(row) if !row.sealed => {}
            Some(_) => {
                tracing::warn!(log, "the change log of this server was closed by another one; it begins a new one");
                self.inner.feed.log.lock().take_if(|own| own.number == log);
                return Err(Fault::Engine(EngineError::Conflict));
            }
            // The log is younger than this transaction.
            None => return Err(Fault::Engine(EngineError::Conflict)),
        }
        let (inner, deltas) = (self.inner.clone(), derived.deltas.clone());
        let own = |root| inner.feed.with_log(log, |own| own.sum(root)).unwrap_or_default();
        inner.quotas.reserve(&deltas, tx.exempt, own)?;
        let taken = inner.feed.with_log(log, |own| (own.take(), own.voids(FEED_VOIDS_PER_TX)));
        let Some((position, voids)) = taken else {
            inner.quotas.release(&deltas, || ());
            return Err(Fault::Engine(EngineError::Conflict));
        };
        let appended = Appended { inner, log, position, deltas, voids, committing: false, settled: false };
        let (time_ns, session) = (tx.now_ns, tx.session);
        let row = rows::Feed { time_ns, session, changes: derived.changes, deltas: derived.deltas };
        tx.put(&keys::Feed { log, position }, &row);
        for position in &appended.voids {
            tx.put(&keys::Feed { log, position: *position }, &void_row());
        }
        Ok(Some(appended))
    }

    /// The log of this process, begun when there is none.
    async fn own_log(&self) -> Op<u32> {
        let feed = &self.inner.feed;
        let known = || feed.log.lock().as_ref().map(|log| log.number);
        if let Some(number) = known() {
            return Ok(number);
        }
        let _opening = feed.opening.lock().await;
        if let Some(number) = known() {
            return Ok(number);
        }
        let number = begin_log(&*self.inner.engine).await?;
        *feed.marked.lock() = self.now();
        *feed.log.lock() = Some(Log::new(number));
        Ok(number)
    }

    /// Resolves once this process has added an entry that was not there when it was called; at once, if `seen` is not the
    /// count of entries any more.
    pub async fn feed_moved(&self, seen: u64) {
        let mut moved = self.inner.feed.moved.subscribe();
        // The sender lives as long as this does.
        let _ = moved.wait_for(|count| *count != seen).await;
    }

    /// Counts entries of this process; goes with [`Meta::feed_moved`].
    pub fn feed_count(&self) -> u64 {
        *self.inner.feed.moved.borrow()
    }
}

/// Takes a number for a log and writes its rows.
async fn begin_log(engine: &dyn Engine) -> Op<u32> {
    let key = keys::Counter { counter: counter::FEED_LOG }.encode();
    for _ in 0..ATTEMPTS_MAX {
        let mut txn = engine.begin().await?;
        let row = txn.get(&key).await?.map(|row| rows::Counter::decode(&row)).transpose()?;
        let next = row.map_or(1, |row| row.next);
        let Ok(log) = u32::try_from(next) else {
            return Err(Status::new(Code::TooLarge, "every number of a change log was given out").into());
        };
        txn.put(key.clone(), rows::Counter { next: next + 1 }.encode());
        txn.put(keys::FeedLog { log }.encode(), rows::FeedLog { sealed: false }.encode());
        txn.put(keys::FeedMark { log }.encode(), rows::FeedMark { beat: 0, folded: 0, trimmed: 0 }.encode());
        match txn.commit(Durability::Durable).await {
            Ok(CommitOutcome::Done) => return Ok(log),
            // After an unknown outcome there may be a log without a writer: it is closed like any other.
            Ok(CommitOutcome::Conflict | CommitOutcome::Unknown) | Err(EngineError::Conflict) => {}
            Err(error) => return Err(engine_status(&error).into()),
        }
    }
    Err(Status::new(Code::Overloaded, "the number of a change log is contended").retry_after_ms(10).into())
}
