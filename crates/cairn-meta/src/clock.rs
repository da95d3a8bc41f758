//! The one seam through which metadata learns what time it is.
#![allow(clippy::disallowed_methods, reason = "this is the clock seam")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time, as the process that runs metadata sees it.
///
/// Wall time only ever ends up in inode times. Every decision about silence, leases and flushing uses
/// [`Clock::monotonic`].
pub trait Clock: Send + Sync + 'static {
    /// Nanoseconds since 1970-01-01T00:00:00Z; may jump.
    fn now_ns(&self) -> i64;

    /// Time since some fixed moment of this process; never goes back.
    fn monotonic(&self) -> Duration;
}

/// The operating system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time begins now.
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now_ns(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
        }
    }

    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }
}
