//! What a server does for change logs without being asked: positions of its own log decided, deltas summed up, old
//! entries removed; and, for all, the one that holds the duties: logs of processes that are gone closed and cleared away.
//! Each step is bounded and may be repeated.

use super::append::void_row;
use super::read::{entries, last_position, readable};
use crate::error::Op;
use crate::keys::{self, Key, counter};
use crate::kv::{Durability, KeyRange, Order};
use crate::limits::{
    FEED_BEAT_EVERY, FEED_KEEP, FEED_LOGS_MAX, FEED_ROWS_MAX, FEED_ROWS_PER_STEP, FEED_SILENT, SCAN_ROWS,
};
use crate::meta::{Meta, transact};
use crate::quota;
use crate::rows;
use crate::tx::Tx;
use cairn_proto::status::Status;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;

/// Usage rows of a closed log that one transaction takes over.
const USAGE_MERGED_PER_STEP: usize = 16;

/// What is to be written down of the own log.
struct Progress {
    log: u32,
    decided: u64,
    mark: rows::FeedMark,
}

impl Meta {
    /// Looks after change logs: the one of this process and, as the holder of the duties, those of processes that are
    /// gone. True while there is more to do. Call it every second.
    ///
    /// # Errors
    /// As [`Meta::execute`]; call again.
    pub fn tend_feed(&self) -> BoxFuture<'_, Result<bool, Status>> {
        Box::pin(async move {
            let mut more = self.decide_positions().await?;
            self.mark_own_log().await?;
            self.refresh_quotas().await?;
            let own = self.inner.feed.own_number();
            if let Some(own) = own {
                more |= self.trim(own, true, false).await?;
            }
            more |= self.as_holder(self.tend_other_logs(own)).await?.unwrap_or(false);
            Ok(more)
        })
    }

    /// Logs of other processes: closed when nothing is heard of them, summed up, emptied, forgotten.
    async fn tend_other_logs(&self, own: Option<u32>) -> Result<bool, Status> {
        let logs = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.table::<keys::FeedLog>(FEED_LOGS_MAX).await
        })?;
        let mut more = false;
        for (key, row) in logs.into_iter().filter(|(key, row)| row.sealed || own != Some(key.log)) {
            more |= match row.sealed {
                true => self.end_log(key.log).await?,
                false => self.close_silent(key.log).await?,
            };
            more |= self.trim(key.log, false, row.sealed).await?;
        }
        Ok(more)
    }

    /// Writes void rows, and finds out what became of positions whose outcome was not told. True while there are more.
    async fn decide_positions(&self) -> Result<bool, Status> {
        let feed = &self.inner.feed;
        let Some((log, voids, doubtful)) = feed
            .log
            .lock()
            .as_ref()
            .map(|log| (log.number, log.voids(FEED_ROWS_PER_STEP.min(self.feed_step())), log.doubtful()))
        else {
            return Ok(false);
        };
        if voids.is_empty() && doubtful.is_none() {
            return Ok(false);
        }
        // A doubtful one is read validated: either its transaction was committed and its row is there, or it conflicts
        // with this one and never will be.
        let found = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            for position in &voids {
                tx.put(&keys::Feed { log, position: *position }, &void_row());
            }
            let Some(position) = doubtful else { return Ok(None) };
            let key = keys::Feed { log, position };
            let found = tx.get(&key).await?;
            if found.is_none() {
                tx.put(&key, &void_row());
            }
            Ok(found)
        })?;
        feed.with_log(log, |own| {
            voids.iter().for_each(|position| own.voided(*position));
            if let Some(position) = doubtful {
                match found {
                    Some(row) => own.committed(position, row.deltas, &[]),
                    None => own.voided(position),
                }
            }
        });
        feed.moved.send_modify(|count| *count += 1);
        Ok(doubtful.is_some())
    }

    /// Rows that one transaction of this engine may write, with room for others.
    fn feed_step(&self) -> usize {
        (self.inner.engine.limits().writes / 2).max(1)
    }

    /// Writes down how far the own log is decided, with the usage that this means.
    async fn mark_own_log(&self) -> Result<(), Status> {
        let (now, feed) = (self.now(), &self.inner.feed);
        let due = now.saturating_sub(*feed.marked.lock()) >= FEED_BEAT_EVERY;
        let mut usage = BTreeMap::new();
        let progress = feed.log.lock().as_ref().map(|log| {
            let decided = log.decided();
            usage = log.unfolded(decided);
            let mark = rows::FeedMark { beat: log.beat + 1, folded: decided, trimmed: log.trimmed };
            Progress { log: log.number, decided, mark }
        });
        let Some(Progress { log, decided, mark }) = progress else { return Ok(()) };
        let moved = feed.with_log(log, |own| own.folded != decided).unwrap_or(false);
        if !moved && !due {
            return Ok(());
        }
        let written = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            if !is_open(tx, log).await? {
                return Ok(false);
            }
            for (root, (bytes, inodes)) in &usage {
                tx.put(&keys::QuotaUsage { root: *root, log }, &rows::QuotaUsage { bytes: *bytes, inodes: *inodes });
            }
            tx.put(&keys::FeedMark { log }, &mark);
            Ok(true)
        })?;
        if written {
            *feed.marked.lock() = now;
            feed.with_log(log, |own| {
                own.beat = mark.beat;
                own.fold(decided);
            });
        }
        Ok(())
    }

    /// Closes the log of another process of which nothing was heard for long.
    async fn close_silent(&self, log: u32) -> Result<bool, Status> {
        let mark = transact!(self, Durability::Relaxed, async |tx: &mut Tx| tx.get(&keys::FeedMark { log }).await)?;
        let beat = mark.map_or(0, |mark| mark.beat);
        let now = self.now();
        let silent_since = {
            let mut others = self.inner.feed.others.lock();
            let seen = others.entry(log).or_insert((beat, now));
            if seen.0 != beat {
                *seen = (beat, now);
            }
            seen.1
        };
        if now.saturating_sub(silent_since) < FEED_SILENT {
            return Ok(false);
        }
        self.inner.feed.others.lock().remove(&log);
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            if is_open(tx, log).await? {
                tx.put(&keys::FeedLog { log }, &rows::FeedLog { sealed: true });
            }
            Ok(())
        })?;
        tracing::info!(log, "change log closed: nothing was heard of its server");
        self.inner.feed.moved.send_modify(|count| *count += 1);
        Ok(true)
    }

    /// Sums up what is left in a closed log. True while there is more.
    async fn end_log(&self, log: u32) -> Result<bool, Status> {
        // An entry may add to several usage rows.
        let step = FEED_ROWS_PER_STEP.min((self.feed_step() / 4).max(1));
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let key = keys::FeedMark { log };
            let Some(mark) = tx.get(&key).await? else { return Ok(false) };
            let rows = entries(tx, log, mark.folded + 1, step).await?;
            let Some((last, _)) = rows.last() else { return Ok(false) };
            let folded = last.position;
            let mut sums = BTreeMap::new();
            for delta in rows.iter().flat_map(|(_, row)| &row.deltas) {
                quota::add(&mut sums, delta.root, (delta.bytes, delta.inodes));
            }
            for (root, more) in sums {
                add_usage(tx, &keys::QuotaUsage { root, log }, more).await?;
            }
            tx.put(&key, &rows::FeedMark { folded, ..mark });
            Ok(rows.len() == step)
        })
    }

    /// Removes entries that are too old or too many; a closed log without entries goes as a whole. True while there is
    /// more.
    async fn trim(&self, log: u32, own: bool, sealed: bool) -> Result<bool, Status> {
        if !own && !sealed {
            return Ok(false);
        }
        let step = FEED_ROWS_PER_STEP.min(self.feed_step());
        let keep_ns = i64::try_from(FEED_KEEP.as_nanos()).unwrap_or(i64::MAX);
        let trimmed = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let key = keys::FeedMark { log };
            if is_open(tx, log).await? != own {
                return Ok(None);
            }
            let Some(mark) = tx.get(&key).await? else { return Ok(None) };
            let last = last_position(tx, log).await?;
            let rows = entries(tx, log, mark.trimmed + 1, step).await?;
            // A void row has no time of its own; it goes with what stands behind it.
            let keep_from = tx.now_ns.saturating_sub(keep_ns);
            let old = |row: &rows::Feed| row.time_ns < keep_from;
            let too_many = last.saturating_sub(FEED_ROWS_MAX);
            let goes = |key: &keys::Feed, row: &rows::Feed| {
                key.position <= mark.folded && (key.position <= too_many || old(row))
            };
            let readable = readable(sealed, mark.trimmed + 1, &rows);
            let going = rows.iter().take(readable).take_while(|(key, row)| goes(key, row)).count();
            if going == 0 {
                let merged = sealed && rows.is_empty() && merge_usage(tx, log).await?;
                if merged {
                    retire(tx, log).await?;
                }
                return Ok(None);
            }
            for (key, _) in &rows[..going] {
                tx.delete(key);
            }
            let trimmed = rows[going - 1].0.position;
            tx.put(&key, &rows::FeedMark { trimmed, ..mark });
            Ok(Some((trimmed, going == step)))
        })?;
        let Some((trimmed, more)) = trimmed else { return Ok(false) };
        if own {
            self.inner.feed.with_log(log, |own| own.trimmed = trimmed);
        }
        Ok(more)
    }
}

/// Whether entries may still come to the log; read validated.
async fn is_open(tx: &mut Tx, log: u32) -> Op<bool> {
    Ok(tx.get(&keys::FeedLog { log }).await?.is_some_and(|row| !row.sealed))
}

async fn add_usage(tx: &mut Tx, key: &keys::QuotaUsage, more: quota::Sum) -> Op<()> {
    let old = tx.get(key).await?.unwrap_or(rows::QuotaUsage { bytes: 0, inodes: 0 });
    tx.put(key, &rows::QuotaUsage { bytes: old.bytes + more.0, inodes: old.inodes + more.1 });
    Ok(())
}

/// Adds some of the usage that a closed log says to that of logs that are gone. True when there was none left.
async fn merge_usage(tx: &mut Tx, log: u32) -> Op<bool> {
    let mut range = keys::QuotaUsage::all();
    let mut merged = 0;
    loop {
        let rows = tx.scan::<keys::QuotaUsage>(&range, SCAN_ROWS, Order::Forward).await?;
        let last = rows.last().filter(|_| rows.len() == SCAN_ROWS).map(|(key, _)| key.encode());
        for (key, row) in rows.into_iter().filter(|(key, _)| key.log == log) {
            if merged == USAGE_MERGED_PER_STEP {
                return Ok(false);
            }
            merged += 1;
            add_usage(tx, &keys::QuotaUsage { log: 0, ..key.clone() }, (row.bytes, row.inodes)).await?;
            tx.delete(&key);
        }
        match last {
            Some(last) => range.start = KeyRange::successor(&last),
            None => return Ok(merged == 0),
        }
    }
}

/// Removes the rows of a closed log that has no entries.
async fn retire(tx: &mut Tx, log: u32) -> Op<()> {
    tx.delete(&keys::FeedLog { log });
    tx.delete(&keys::FeedMark { log });
    let key = keys::Counter { counter: counter::FEED_RETIRED };
    let next = tx.get(&key).await?.map_or(0, |row| row.next) + 1;
    tx.put(&key, &rows::Counter { next });
    Ok(())
}
