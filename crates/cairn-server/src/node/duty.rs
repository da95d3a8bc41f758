//! How the duties of a node wait: for a call, for the next look when something is unfinished, for the stop.

use crate::backoff::Backoff;
use crate::entropy;
use crate::limits::RETRY_PAUSE;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// When a duty looks again although nobody called.
pub(crate) struct Pace {
    backoff: Backoff,
    next: Option<Duration>,
}

impl Pace {
    /// Looks at once.
    pub(crate) fn new() -> Self {
        Self::with_pauses(RETRY_PAUSE)
    }

    /// As [`Pace::new`], with other pauses after failures: first and longest.
    pub(crate) fn with_pauses(pauses: (Duration, Duration)) -> Self {
        Self { backoff: Backoff::new(pauses, entropy::rng()), next: Some(Duration::ZERO) }
    }

    /// The pause before the next look; `None` = until called.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.next
    }

    /// There is nothing left to do.
    pub(crate) fn idle(&mut self) {
        self.backoff.reset();
        self.next = None;
    }

    /// Something is left, look again in a while.
    pub(crate) fn unfinished(&mut self, period: Duration) {
        self.backoff.reset();
        self.next = Some(period);
    }

    /// It failed: look again soon, ever later.
    pub(crate) fn failed(&mut self) {
        self.next = Some(self.backoff.pause());
    }
}

/// Waits for a call, or for `pause` to pass; false when it is time to stop.
pub(crate) async fn wait(stop: &CancellationToken, call: &Notify, pause: Option<Duration>) -> bool {
    let called = async {
        match pause {
            // Over or called, both mean to look again.
            Some(pause) => drop(timeout(pause, call.notified()).await),
            None => call.notified().await,
        }
    };
    stop.run_until_cancelled(called).await.is_some()
}
