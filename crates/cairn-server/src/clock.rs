//! The wall clock seam of the servers: for what people read, and for periods of days that go on over restarts. Decisions
//! about silence and deadlines use [`cairn_net::now`].
#![allow(clippy::disallowed_methods, reason = "this is the clock seam")]

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970-01-01T00:00:00Z; may jump.
pub(crate) fn wall_ns() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    }
}
