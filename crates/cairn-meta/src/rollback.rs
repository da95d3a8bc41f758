//! Metadata that was restored from an older backup: noticed, and nothing is collected until an operator has looked.
//!
//! A writer is written down before anybody may use it, as an open one and later as a closed one, and every store reports
//! the highest writer it ever held (and every opening of metadata leaves out some numbers at random, so that a restored
//! backup does not name the same again before it has heard of any store). A store that holds one of which nothing is written down says that this metadata knows
//! less than it once did: files referred to blocks in a future that was lost here. Nothing such is deleted (blocks of unknown writers are `future`, see
//! judge.rs), and beyond that nothing at all is collected: whoever restores the right backup after all finds
//! everything. An operator ends that state by accepting the loss; unknown writers are closed ones from then on.

use crate::error::{Op, fail};
use crate::keys::{self, Key, counter, setting};
use crate::kv::{Durability, KeyRange, Order};
use crate::limits::{SCAN_ROWS, WRITER_ROWS_MAX};
use crate::meta::{Meta, transact};
use crate::rows;
use crate::tx::Tx;
use crate::writers;
use bytes::Bytes;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::pb::{self, WriterState};
use cairn_proto::status::{Code, Status};
use std::ops::Range;
use std::sync::atomic::Ordering;

const KEY: keys::Setting = keys::Setting { name: Bytes::from_static(setting::ROLLBACK) };

/// The highest writer that a store held and this metadata had never given out; 0 = none, or accepted.
pub(crate) async fn load(tx: &mut Tx) -> Op<u64> {
    let value = tx.get(&KEY).await?.map(|row| row.value).unwrap_or_default();
    Ok(value[..].try_into().map_or(0, u64::from_le_bytes))
}

/// Parts of `whole` that none of `known`, which are in ascending order of their beginnings, covers.
fn gaps(whole: Range<u64>, known: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut gaps = Vec::new();
    let mut from = whole.start;
    for range in known {
        if range.start > from {
            gaps.push(from..range.start.min(whole.end));
        }
        from = from.max(range.end);
        if from >= whole.end {
            break;
        }
    }
    if from < whole.end {
        gaps.push(from..whole.end);
    }
    gaps.retain(|gap| !gap.is_empty());
    gaps
}

async fn rows_below<K: Key>(tx: &mut Tx, end: &K) -> Op<Vec<(K, K::Row)>> {
    let mut range = KeyRange { start: K::all().start, end: end.encode() };
    let mut rows = Vec::new();
    loop {
        let page = tx.scan::<K>(&range, SCAN_ROWS, Order::Forward).await?;
        let full = page.len() == SCAN_ROWS;
        rows.extend(page);
        if rows.len() > WRITER_ROWS_MAX {
            return fail(Code::TooLarge, format!("more than {WRITER_ROWS_MAX} rows of writers"));
        }
        match rows.last() {
            Some((last, _)) if full => range.start = KeyRange::successor(&last.encode()),
            _ => return Ok(rows),
        }
    }
}

impl Meta {
    /// Sees to it that this server gives out no writer up to `highest`.
    pub(crate) async fn raise_writers_above(&self, highest: u64) -> Result<(), Status> {
        let floor = highest.saturating_add(1);
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| self
            .inner
            .counters
            .raise(&*self.inner.engine, counter::WRITER, floor)
            .await)
    }

    /// Notes the highest writer a store reports, before the counter is raised above it.
    pub(crate) async fn note_highest_writer(&self, highest: u64) -> Result<(), Status> {
        let known = self.inner.writers_known.load(Ordering::Acquire).max(self.inner.rollback.load(Ordering::Acquire));
        if highest <= known {
            return Ok(());
        }
        let found = transact!(self, Durability::Durable, async |tx: &mut Tx| {
            if writers::state_of(tx, highest).await? != WriterState::Unknown {
                return Ok(false);
            }
            tx.put(&KEY, &rows::Setting { value: Bytes::copy_from_slice(&highest.to_le_bytes()) });
            Ok(true)
        })?;
        if found {
            self.inner.rollback.fetch_max(highest, Ordering::AcqRel);
            tracing::error!(
                highest,
                "a store holds blocks of a writer that this metadata never named: it was rolled back"
            );
            self.touch_map_soon().await;
        } else {
            self.inner.writers_known.fetch_max(highest, Ordering::AcqRel);
        }
        Ok(())
    }

    /// True while nothing may be collected, because this metadata seems to have been restored from an older backup.
    pub fn is_rolled_back(&self) -> bool {
        self.inner.rollback.load(Ordering::Acquire) != 0
    }

    /// What an operator is told about a rollback.
    pub(crate) fn rollback_alarm(&self) -> Option<String> {
        let highest = self.inner.rollback.load(Ordering::Acquire);
        (highest != 0).then(|| {
            format!(
                "metadata was rolled back: storage nodes hold blocks of writers up to {highest}, which it never named. \
                 Nothing is collected. Restore the newest backup, or give up what is newer: cairn admin accept-rollback"
            )
        })
    }

    pub(crate) async fn accept_rollback(&self) -> Result<Reply, Status> {
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            // Every number below was given to somebody, now or in the past that was lost, or will never be.
            let limit = self.inner.counters.take(&*self.inner.engine, counter::WRITER, 1).await?;
            let open = rows_below(tx, &keys::Writer { writer: limit }).await?;
            let closed = rows_below(tx, &keys::ClosedWriters { first: limit }).await?;
            let mut known: Vec<Range<u64>> = open.iter().map(|(key, _)| key.writer..key.writer + 1).collect();
            known.extend(closed.iter().map(|(key, row)| key.first..key.first.saturating_add(row.count.into())));
            known.sort_by_key(|range| range.start);
            for gap in gaps(1..limit, known.into_iter()) {
                let mut first = gap.start;
                while first < gap.end {
                    let count = u32::try_from(gap.end - first).unwrap_or(u32::MAX);
                    tx.put(&keys::ClosedWriters { first }, &rows::RunLen { count });
                    first += u64::from(count);
                }
            }
            tx.delete(&KEY);
            Ok(())
        })?;
        self.inner.rollback.store(0, Ordering::Release);
        tracing::warn!("an operator accepted that metadata was rolled back");
        self.touch_map_soon().await;
        Ok(Reply::Empty(pb::Empty::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]
    fn gaps_are_what_nobody_knows() {
        assert_eq!(gaps(1..10, [].into_iter()), [1..10]);
        assert_eq!(gaps(1..10, [1..3, 5..6].into_iter()), [3..5, 6..10]);
        assert_eq!(gaps(1..10, [1..7, 2..3, 7..12].into_iter()), []);
        assert_eq!(gaps(5..10, [1..2, 20..30].into_iter()), [5..10]);
        assert_eq!(gaps(5..5, [].into_iter()), []);
    }
}
