//! What snapshots hold: blocks that nothing but a snapshot needs, rows of history, and how both are let go of.
//!
//! Blocks were first committed when the newest snapshot was `born`, and lost their last reference when it was `dropped`.
//! Snapshot s was taken after the first and before the second exactly if `born < s <= dropped`; any other sees nothing of
//! them. As long as such a snapshot exists, the blocks stand in HeldGarbage, where the collector does not look; a block is
//! never in both tables. A snapshot taken later has a number above `dropped`, so that what is garbage once is never held
//! again, and only deleting a snapshot changes anything: then a duty looks through both tables, in bounded steps.
//!
//! The hold of a backup reaches further. What is dumped is everything as of a moment *after* the hold was taken, and may
//! refer to blocks that came in between: its `reach` says below which `born` it holds what is dropped from its number on.
//! That is everything until the dump has begun, and then the numbers up to the newest at the moment of the dump (`settle`
//! in snapshots.rs). Of history it sees what any snapshot of its number does.

use crate::error::Op;
use crate::history::Head;
use crate::keys::{self, Key, setting};
use crate::kv::{Durability, KeyRange, Order};
use crate::limits::{SNAPSHOTS_MAX, TRIM_ROWS_PER_STEP};
use crate::map::Blocks;
use crate::meta::{Meta, transact};
use crate::rows;
use crate::snapshots;
use crate::tx::Tx;
use bytes::{BufMut, Bytes, BytesMut};
use cairn_proto::status::Status;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

/// The snapshots and holds that exist.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Live {
    /// Their numbers, ascending.
    numbers: Vec<u64>,
    /// Number and reach of those that hold what came after their number, too.
    wide: Vec<(u64, u64)>,
}

impl Live {
    pub(crate) async fn load(tx: &mut Tx) -> Op<Live> {
        let rows = tx.scan::<keys::Snapshot>(&keys::Snapshot::all(), SNAPSHOTS_MAX, Order::Forward).await?;
        let wide = rows.iter().map(|(key, row)| (key.number, row.reach)).filter(|(number, reach)| reach > number);
        Ok(Live { wide: wide.collect(), numbers: rows.iter().map(|(key, _)| key.number).collect() })
    }

    /// Whether one of them sees a row that was written at `birth` and changed or removed at `gone`: `birth < s <= gone`.
    pub(crate) fn see(&self, birth: u64, gone: u64) -> bool {
        let next = self.numbers.partition_point(|number| *number <= birth);
        self.numbers.get(next).is_some_and(|number| *number <= gone)
    }

    /// Whether one of them holds blocks that came at `born` and went at `gone`.
    pub(crate) fn hold(&self, born: u64, gone: u64) -> bool {
        self.see(born, gone) || self.wide.iter().any(|(number, reach)| born < *reach && *number <= gone)
    }

    /// The [`Head`] while these exist and `newest` was given out last.
    pub(crate) fn head(&self, newest: u64) -> Head {
        let live = self.numbers.last().copied().unwrap_or(0);
        let reach = self.wide.iter().map(|(_, reach)| *reach).max().unwrap_or(0).max(live);
        Head { newest, live, reach }
    }
}

/// Whether something holds blocks that came at `born` and go at `gone`, by as few reads as possible.
async fn is_held(tx: &mut Tx, born: u64, gone: u64) -> Op<bool> {
    // The head is read validated before the transaction commits: see `Tx::seal`.
    match tx.head {
        head if head.reach <= born => Ok(false),
        head if born < head.live && head.live <= gone => Ok(true),
        _ => Ok(Live::load(tx).await?.hold(born, gone)),
    }
}

/// Writes down that nothing refers to `blocks` any more, as of snapshot `dropped`.
pub(crate) async fn put_garbage(tx: &mut Tx, blocks: &Blocks, dropped: u64) -> Op<()> {
    let Blocks { pg, inode, writer, seq, end, born } = *blocks;
    let row = rows::Garbage { count: end - seq, born, dropped };
    if is_held(tx, born, dropped).await? {
        tx.put(&keys::HeldGarbage { pg, inode, writer, seq }, &row);
    } else {
        tx.put(&keys::Garbage { pg, inode, writer, seq }, &row);
    }
    Ok(())
}

/// Takes back what of `blocks` is held garbage: something refers to it again. The parts, in ascending order.
pub(crate) async fn take_back(tx: &mut Tx, blocks: &Blocks) -> Op<Vec<Range<u32>>> {
    let Blocks { pg, inode, writer, seq: from, end, .. } = *blocks;
    let at = |seq| keys::HeldGarbage { pg, inode, writer, seq };
    let before = KeyRange { start: at(0).encode(), end: at(from).encode() };
    let mut rows = tx.scan::<keys::HeldGarbage>(&before, 1, Order::Reverse).await?;
    let inside = KeyRange { start: at(from).encode(), end: at(end).encode() };
    // No two rows name one block, so there are no more of them than blocks.
    rows.extend(tx.scan::<keys::HeldGarbage>(&inside, (end - from) as usize, Order::Forward).await?);
    let mut taken = Vec::new();
    for (key, row) in rows {
        let row_end = key.seq.saturating_add(row.count);
        let part = key.seq.max(from)..row_end.min(end);
        if part.is_empty() {
            continue;
        }
        tx.delete(&key);
        if key.seq < part.start {
            tx.put(&key, &rows::Garbage { count: part.start - key.seq, ..row });
        }
        if part.end < row_end {
            tx.put(&at(part.end), &rows::Garbage { count: row_end - part.end, ..row });
        }
        taken.push(part);
    }
    Ok(taken)
}

// ------------------------------------------------------------ letting go

/// Where the look for what no snapshot needs any more is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Trim {
    /// A snapshot was deleted since this look began.
    again: bool,
    /// First held garbage, then history.
    in_history: bool,
    /// The last key that was looked at; empty = none.
    at: Bytes,
}

impl Trim {
    fn key() -> keys::Setting {
        keys::Setting { name: Bytes::from_static(setting::SNAPSHOT_TRIM) }
    }

    fn encode(&self) -> rows::Setting {
        let mut value = BytesMut::with_capacity(2 + self.at.len());
        value.put_u8(u8::from(self.again));
        value.put_u8(u8::from(self.in_history));
        value.put(&self.at[..]);
        rows::Setting { value: value.freeze() }
    }

    fn decode(row: &rows::Setting) -> Trim {
        let flag = |index: usize| row.value.get(index).is_some_and(|byte| *byte != 0);
        // One that is cut short begins at the beginning.
        Trim {
            again: flag(0),
            in_history: flag(1),
            at: row.value.get(2..).map(Bytes::copy_from_slice).unwrap_or_default(),
        }
    }

    /// What is left after a step that ended at `at`; `None` in place of it: at the end of the table.
    fn after(self, at: Option<Vec<u8>>) -> Option<Trim> {
        match at {
            Some(at) => Some(Trim { at: at.into(), ..self }),
            None if !self.in_history => Some(Trim { in_history: true, at: Bytes::new(), ..self }),
            None if self.again => Some(Trim::default()),
            None => None,
        }
    }
}

/// A snapshot is deleted: what it held is to be looked at.
pub(crate) async fn look_again(tx: &mut Tx) -> Op<()> {
    let trim = match tx.get(&Trim::key()).await? {
        Some(row) => Trim { again: true, ..Trim::decode(&row) },
        None => Trim::default(),
    };
    tx.put(&Trim::key(), &trim.encode());
    Ok(())
}

/// Whether it is being looked for what snapshots that were deleted held.
pub(crate) async fn is_looking(tx: &mut Tx) -> Op<bool> {
    Ok(tx.get(&Trim::key()).await?.is_some())
}

fn behind<K: Key>(at: &Bytes) -> KeyRange {
    let mut range = K::all();
    if !at.is_empty() {
        range.start = KeyRange::successor(at);
    }
    range
}

/// Lets the collector have what no snapshot sees any more; the last key looked at, unless it was the table's.
async fn free_garbage(tx: &mut Tx, live: &Live, at: &Bytes) -> Op<Option<Vec<u8>>> {
    let rows =
        tx.scan::<keys::HeldGarbage>(&behind::<keys::HeldGarbage>(at), TRIM_ROWS_PER_STEP, Order::Forward).await?;
    let last = rows.last().filter(|_| rows.len() == TRIM_ROWS_PER_STEP).map(|(key, _)| key.encode());
    for (key, row) in rows {
        if !live.hold(row.born, row.dropped) {
            tx.delete(&key);
            let keys::HeldGarbage { pg, inode, writer, seq } = key;
            tx.put(&keys::Garbage { pg, inode, writer, seq }, &row);
        }
    }
    Ok(last)
}

/// Removes history that no snapshot sees any more; the last key looked at, unless it was the table's.
async fn free_history(tx: &mut Tx, live: &Live, at: &Bytes) -> Op<Option<Vec<u8>>> {
    let rows = tx.scan::<keys::History>(&behind::<keys::History>(at), TRIM_ROWS_PER_STEP, Order::Forward).await?;
    let last = rows.last().filter(|_| rows.len() == TRIM_ROWS_PER_STEP).map(|(key, _)| key.encode());
    for (key, row) in rows {
        if !live.see(row.birth, key.snapshot) {
            tx.delete(&key);
        }
    }
    Ok(last)
}

/// Holds as this process knows them: how often each was renewed, and since when.
pub(crate) type Renewals = BTreeMap<u64, (u64, Duration)>;

impl Meta {
    /// Lets go of a part of what deleted snapshots held. True while there is more to do.
    ///
    /// # Errors
    /// As [`Meta::execute`]; call again.
    pub fn trim_snapshots(&self) -> BoxFuture<'_, Result<bool, Status>> {
        Box::pin(async move { Ok(self.as_holder(self.trim_step()).await?.unwrap_or(false)) })
    }

    async fn trim_step(&self) -> Result<bool, Status> {
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let Some(row) = tx.get(&Trim::key()).await? else { return Ok(false) };
            let trim = Trim::decode(&row);
            let live = Live::load(tx).await?;
            let at = match trim.in_history {
                false => free_garbage(tx, &live, &trim.at).await?,
                true => free_history(tx, &live, &trim.at).await?,
            };
            match trim.after(at) {
                Some(next) => tx.put(&Trim::key(), &next.encode()),
                None => tx.delete(&Trim::key()),
            }
            Ok(true)
        })
    }

    /// Deletes a snapshot or hold that was not renewed in its time. That is counted by this process only, from when it
    /// first saw the snapshot at this count of renewals. True when one was deleted.
    ///
    /// # Errors
    /// As [`Meta::execute`]; call again.
    pub fn expire_snapshots(&self) -> BoxFuture<'_, Result<bool, Status>> {
        Box::pin(async move { Ok(self.as_holder(self.expire_snapshots_step()).await?.unwrap_or(false)) })
    }

    async fn expire_snapshots_step(&self) -> Result<bool, Status> {
        let rows = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.scan::<keys::Snapshot>(&keys::Snapshot::all(), SNAPSHOTS_MAX, Order::Forward).await
        })?;
        let overdue = {
            let mut renewals = self.inner.renewals.lock();
            overdue(&mut renewals, &rows, self.now())
        };
        let Some((number, renewed)) = overdue else { return Ok(false) };
        let gone = transact!(self, Durability::Durable, async |tx: &mut Tx| {
            match tx.get(&keys::Snapshot { number }).await? {
                Some(row) if row.renewed == renewed => snapshots::remove(tx, number).await,
                _ => Ok(false),
            }
        })?;
        if gone {
            tracing::info!(snapshot = number, "not renewed in time: deleted");
        }
        Ok(gone)
    }
}

/// Notes which snapshots there are; the first that was not renewed in its time, with its count of renewals.
fn overdue(renewals: &mut Renewals, rows: &[(keys::Snapshot, rows::Snapshot)], now: Duration) -> Option<(u64, u64)> {
    let timed = rows.iter().filter(|(_, row)| row.ttl_ms > 0);
    let mut found = None;
    let mut next = Renewals::new();
    for (key, row) in timed {
        let since = match renewals.get(&key.number) {
            Some((renewed, since)) if *renewed == row.renewed => *since,
            _ => now,
        };
        next.insert(key.number, (row.renewed, since));
        if found.is_none() && now.saturating_sub(since) > Duration::from_millis(row.ttl_ms) {
            found = Some((key.number, row.renewed));
        }
    }
    *renewals = next;
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_sees_what_came_before_it_and_went_after() {
        let live = Live { numbers: vec![3, 7], wide: Vec::new() };
        assert_eq!(live.head(9), Head::new(9, 7));
        for (born, gone, seen) in [
            (0, 2, false),
            (2, 3, true),
            (3, 3, false),
            (3, 6, false),
            (3, 7, true),
            (6, 7, true),
            (7, 7, false),
            (7, 9, false),
            (0, 9, true),
        ] {
            assert_eq!(live.see(born, gone), seen, "born at {born}, gone at {gone}");
            assert_eq!(live.hold(born, gone), seen, "born at {born}, gone at {gone}");
        }
        assert!(!Live::default().see(0, u64::MAX));
        assert_eq!(Live::default().head(9), Head::new(9, 0));
    }

    #[test]
    fn a_backup_holds_what_came_until_it_was_dumped_and_went_since() {
        let live = Live { numbers: vec![3, 7], wide: vec![(3, 5)] };
        for (born, gone, held) in [
            (0, 2, false),
            (3, 3, true),
            (4, 4, true),
            (4, 6, true),
            (5, 5, false),
            (5, 6, false),
            (6, 7, true),
            (7, 7, false),
        ] {
            assert_eq!(live.hold(born, gone), held, "born at {born}, gone at {gone}");
        }
        assert!(!live.see(3, 3), "rows of that time are no part of what it shows");
        assert_eq!(live.head(9), Head::new(9, 7), "nothing is held that came after the newest");
        let dumping = Live { numbers: vec![3, 7], wide: vec![(3, u64::MAX)] };
        assert!(dumping.hold(9, 9) && !dumping.hold(0, 2));
        assert_eq!(dumping.head(9), Head { reach: u64::MAX, ..Head::new(9, 7) });
    }

    #[test]
    fn a_look_goes_through_both_tables_and_again_if_it_has_to() {
        let step = |trim: Trim, at: Option<&str>| trim.after(at.map(|at| at.as_bytes().to_vec()));
        let mut trim = Trim { again: true, ..Trim::default() };
        trim = step(trim, Some("k")).expect("more");
        assert_eq!(Trim::decode(&trim.encode()), trim);
        assert_eq!(&trim.at[..], b"k");
        trim = step(trim, None).expect("history");
        assert!(trim.in_history && trim.at.is_empty());
        trim = step(trim, None).expect("once more");
        assert_eq!(trim, Trim::default());
        let history = step(trim, None).expect("history");
        assert_eq!(step(history, None), None);
        assert_eq!(Trim::decode(&rows::Setting { value: Bytes::new() }), Trim::default());
    }

    #[test]
    fn silence_is_counted_from_when_a_count_was_first_seen() {
        let row = |ttl_ms, renewed| rows::Snapshot {
            root: 1,
            name: Bytes::new(),
            path: Bytes::new(),
            taken_ns: 0,
            owner: String::new(),
            ttl_ms,
            renewed,
            backup: String::new(),
            reach: 0,
        };
        let rows = |renewed| {
            vec![(keys::Snapshot { number: 1 }, row(0, 0)), (keys::Snapshot { number: 2 }, row(5000, renewed))]
        };
        let mut renewals = Renewals::new();
        let at = Duration::from_millis;
        assert_eq!(overdue(&mut renewals, &rows(0), at(900_000)), None);
        assert_eq!(overdue(&mut renewals, &rows(0), at(905_000)), None);
        assert_eq!(overdue(&mut renewals, &rows(1), at(905_001)), None);
        assert_eq!(overdue(&mut renewals, &rows(1), at(910_001)), None);
        assert_eq!(overdue(&mut renewals, &rows(1), at(910_002)), Some((2, 1)));
        assert_eq!(overdue(&mut renewals, &[], at(910_003)), None);
        assert!(renewals.is_empty());
    }
}
