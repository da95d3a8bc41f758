//! What has to differ when a namespace goes on from a former moment: every number that may have been given out since
//! then, and every epoch that a storage node may have seen since then.
//!
//! Numbers are moved on by a random part, so that a second restoration of the same backup repeats none of the first.

use crate::error::OpenError;
use crate::keys::{self, Key, counter};
use crate::kv::{Engine, KeyRange};
use crate::limits::{DUTY_EPOCHS_JUMPED, GROUP_EPOCHS_JUMPED, IDS_JUMPED, NUMBERS_JUMPED};
use crate::rows::{self, Row};

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// How far a counter moves, at least; up to twice as far.
const fn jump_of(number: u8) -> u64 {
    match number {
        counter::INODE | counter::WRITER | counter::SESSION => NUMBERS_JUMPED,
        counter::DUTY_EPOCH => DUTY_EPOCHS_JUMPED,
        // Every opening takes 2^32 of them.
        counter::MAP_VERSION => DUTY_EPOCHS_JUMPED << 32,
        // 32 bits each.
        counter::PG | counter::STORE | counter::NODE | counter::SERVER | counter::FEED_LOG => IDS_JUMPED,
        // What is known inside metadata only.
        _ => 0,
    }
}

fn damaged(error: &rows::RowError) -> OpenError {
    OpenError::Damaged { what: error.to_string() }
}

/// The counters as they have to be from now on.
pub(crate) async fn counters(engine: &dyn Engine, rng: &mut fastrand::Rng) -> Result<Rows, OpenError> {
    let mut snapshot = engine.snapshot().await?;
    let mut moved = Rows::new();
    for (key, value) in snapshot.scan(&keys::Counter::all(), usize::from(u8::MAX)).await? {
        let Some(counter) = keys::Counter::decode(&key) else { continue };
        let row = rows::Counter::decode(&value).map_err(|error| damaged(&error))?;
        let jump = jump_of(counter.counter);
        if jump > 0 {
            let next = row.next.saturating_add(jump).saturating_add(rng.u64(..jump));
            moved.push((key.to_vec(), rows::Counter { next }.encode()));
        }
    }
    Ok(moved)
}

/// The next groups behind the key `after`, with epochs above all that nodes have seen, and where to go on.
pub(crate) async fn groups(
    engine: &dyn Engine,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<(Rows, Option<Vec<u8>>), OpenError> {
    let mut range = keys::Pg::all();
    if let Some(after) = after {
        range.start = KeyRange::successor(after);
    }
    let found = engine.snapshot().await?.scan(&range, limit).await?;
    let next = found.last().filter(|_| found.len() == limit).map(|(key, _)| key.to_vec());
    let moved = found.into_iter().map(|(key, value)| {
        let mut row = rows::Pg::decode(&value).map_err(|error| damaged(&error))?;
        row.epoch = row.epoch.saturating_add(GROUP_EPOCHS_JUMPED);
        Ok((key.to_vec(), row.encode()))
    });
    Ok((moved.collect::<Result<Rows, OpenError>>()?, next))
}
