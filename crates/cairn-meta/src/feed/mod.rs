//! The change feed: what others are told of every change that can be seen.
//!
//! A transaction that changes such a row writes one entry, in itself, to the *change log* of its server process. What the
//! entry says is derived from the rows (`changes.rs`), so no operation can forget one. Positions in a log are taken just
//! before the commit (`log.rs`), so they become visible in any order, and some never do. A reader (`read.rs`) keeps a
//! position for each log and **never goes past a gap in a log that is in use**: whatever is missing there may still come.
//! The log's own process knows what became of each position, and writes a row without changes where nothing came of it.
//!
//! Every entry's transaction reads its log's row. Who closes the log of a process that is gone changes that row, so none of
//! its transactions can commit from then on: in a closed log a gap stays one, and readers go past it. A process that was
//! only slow notices that its log was closed and begins another one. Nothing depends on who is believed to be alive.
//!
//! Two dependent changes by different servers may be read in any order, as they stand in different logs. So a reader is
//! also told what each name leads to *when it reads*: whoever goes by that ends at what is there, in whatever order it
//! learns of changes, because every change is told at or after the moment when it happened.
//!
//! Entries also carry what the transaction means for quotas; `tend.rs` sums that up into usage rows.

mod append;
mod changes;
mod log;
mod names;
mod paths;
mod read;
mod tend;

use crate::feed::log::Log;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;

pub(crate) use append::Appended;
pub(crate) use changes::counted;
pub(crate) use names::NameHints;
pub(crate) use paths::Paths;
pub(crate) use read::unfolded_deltas;

/// What this process knows of change logs.
pub(crate) struct Feed {
    /// The one it writes to; `None` before its first entry, and after somebody closed it.
    log: Mutex<Option<Log>>,
    /// Held by who begins a log.
    opening: tokio::sync::Mutex<()>,
    /// Counts entries of this process, so that readers wake up.
    moved: tokio::sync::watch::Sender<u64>,
    pub(crate) names: NameHints,
    /// Other logs: their last mark, and when it was seen to move.
    others: Mutex<HashMap<u32, (u64, Duration)>>,
    /// When the own log's mark was written.
    marked: Mutex<Duration>,
}

impl Feed {
    pub(crate) fn new() -> Self {
        Self {
            log: Mutex::new(None),
            opening: tokio::sync::Mutex::new(()),
            moved: tokio::sync::watch::Sender::new(0),
            names: NameHints::default(),
            others: Mutex::new(HashMap::new()),
            marked: Mutex::new(Duration::ZERO),
        }
    }

    /// Number of the own log, if there is one.
    pub(crate) fn own_number(&self) -> Option<u32> {
        self.log.lock().as_ref().map(|log| log.number)
    }

    /// Gives the servers of all logs time anew.
    pub(crate) fn restart_silence(&self) {
        self.others.lock().clear();
    }

    /// The own log with this number, unless it was given up meanwhile.
    fn with_log<T>(&self, number: u32, act: impl FnOnce(&mut Log) -> T) -> Option<T> {
        self.log.lock().as_mut().filter(|log| log.number == number).map(act)
    }
}
