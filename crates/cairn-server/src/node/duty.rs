//! How the duties of a node wait: for a call, for the next look when something is unfinished, for the stop.

use crate::backoff::Backoff;
use crate::entropy;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// When a duty looks again although nobody called.
pub(crate) struct Pace {
    backoff: Backoff,
    next: Option<Duration>,
    /// What was left after the last look.
    left: usize,
}

impl Pace {
    /// Looks at once; pauses between the first and the longest of `pauses` after looks that changed nothing.
    pub(crate) fn new(pauses: (Duration, Duration)) -> Self {
        Self { backoff: Backoff::new(pauses, entropy::rng()), next: Some(Duration::ZERO), left: 0 }
    }

    /// The pause before the next look; `None` = until called.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.next
    }

    /// There is nothing left to do.
    pub(crate) fn idle(&mut self) {
        self.backoff.reset();
        self.next = None;
        self.left = 0;
    }

    /// It failed: look again soon, ever later.
    pub(crate) fn failed(&mut self) {
        self.next = Some(self.backoff.pause());
    }

    /// So much is left: look again soon, but ever later while it does not get less.
    pub(crate) fn left(&mut self, left: usize) {
        if left == 0 {
            return self.idle();
        }
        if left < self.left {
            self.backoff.reset();
        }
        self.left = left;
        self.failed();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_only_while_nothing_changes() {
        let mut pace = Pace::new((Duration::from_millis(100), Duration::from_secs(10)));
        assert_eq!(pace.next(), Some(Duration::ZERO));
        let within = |pace: &Pace, ms: u64| {
            let pause = pace.next().map_or(0, |pause| pause.as_millis() as u64);
            (ms * 8 / 10..=ms * 12 / 10).contains(&pause)
        };
        pace.left(5);
        assert!(within(&pace, 100));
        pace.left(5);
        assert!(within(&pace, 200));
        pace.left(6);
        assert!(within(&pace, 400));
        pace.left(3);
        assert!(within(&pace, 100));
        pace.left(0);
        assert_eq!(pace.next(), None);
        pace.failed();
        assert!(within(&pace, 100));
    }
}
