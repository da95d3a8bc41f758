//! The clock seam: certificates are valid in wall-clock time.
#![allow(clippy::disallowed_methods, reason = "this is the clock seam")]

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970; 0 before.
pub fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
