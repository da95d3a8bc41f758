//! Numbers that are never given out twice: taken in memory from ranges reserved ahead by a durable write.

use crate::error::{Op, engine_status};
use crate::keys::{self, counter};
use crate::kv::{CommitOutcome, Durability, Engine, EngineError};
use crate::limits::{ATTEMPTS_MAX, COUNTER_RESERVE};
use crate::rows::{self, Row};
use cairn_proto::status::{Code, Status};
use keys::Key;
use tokio::sync::Mutex;

/// Numbers from `next` up to `limit` (exclusive) are ours.
#[derive(Clone, Copy, Debug, Default)]
struct Range {
    next: u64,
    limit: u64,
}

/// The counters of one process. What it reserved and did not use when it ends is lost, never reused.
#[derive(Default)]
pub(crate) struct Counters {
    inode: Mutex<Range>,
    writer: Mutex<Range>,
    session: Mutex<Range>,
}

impl Counters {
    fn range(&self, counter: u8) -> &Mutex<Range> {
        match counter {
            counter::WRITER => &self.writer,
            counter::SESSION => &self.session,
            _ => &self.inode,
        }
    }

    /// The first of `count` consecutive numbers.
    pub(crate) async fn take(&self, engine: &dyn Engine, counter: u8, count: u64) -> Op<u64> {
        let mut range = self.range(counter).lock().await;
        if range.next + count > range.limit {
            let (first, limit) = reserve(engine, counter, count.max(COUNTER_RESERVE), 0).await?;
            if first != range.limit {
                range.next = first;
            }
            range.limit = limit;
        }
        let first = range.next;
        range.next += count;
        Ok(first)
    }

    /// Sees to it that no number below `floor` is given out from now on, also after a restart.
    pub(crate) async fn raise(&self, engine: &dyn Engine, counter: u8, floor: u64) -> Op<()> {
        let mut range = self.range(counter).lock().await;
        if floor > range.limit {
            let (first, limit) = reserve(engine, counter, 0, floor).await?;
            *range = Range { next: first, limit };
        } else {
            range.next = range.next.max(floor);
        }
        Ok(())
    }

    /// True when `number` may have been given out, by this process or an earlier one.
    pub(crate) async fn is_issued(&self, engine: &dyn Engine, counter: u8, number: u64) -> Op<bool> {
        let range = *self.range(counter).lock().await;
        if number < range.next {
            return Ok(number > 0);
        }
        if number < range.limit {
            return Ok(false);
        }
        // Another process may have given it out.
        let mut txn = engine.begin().await?;
        let row = txn.get(&keys::Counter { counter }.encode()).await?;
        let next = row.map(|row| rows::Counter::decode(&row)).transpose()?.map_or(1, |row| row.next);
        Ok(number > 0 && number < next)
    }
}

/// Moves the counter up by `count` and to `floor` at least; returns the range that is ours now.
async fn reserve(engine: &dyn Engine, counter: u8, count: u64, floor: u64) -> Op<(u64, u64)> {
    let key = keys::Counter { counter }.encode();
    for _ in 0..ATTEMPTS_MAX {
        let mut txn = engine.begin().await?;
        let row = txn.get(&key).await?.map(|row| rows::Counter::decode(&row)).transpose()?;
        let first = row.map_or(1, |row| row.next).max(floor);
        let limit = first + count;
        txn.put(key.clone(), rows::Counter { next: limit }.encode());
        // Durable even where everything else is relaxed. After an unknown outcome the next try begins behind.
        match txn.commit(Durability::Durable).await {
            Ok(CommitOutcome::Done) => return Ok((first, limit)),
            Ok(CommitOutcome::Conflict | CommitOutcome::Unknown) | Err(EngineError::Conflict) => {}
            Err(error) => return Err(engine_status(&error).into()),
        }
    }
    Err(Status::new(Code::Overloaded, "the counters are contended").retry_after_ms(10).into())
}
