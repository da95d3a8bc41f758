//! How often one connection may ask for a sign of life.

use std::time::Duration;
use tokio::time::Instant;

/// Pings a connection may send in the long run: one in this time.
pub(super) const PING_INTERVAL: Duration = Duration::from_millis(100);
/// How far it may be ahead of that: 50 pings at once.
pub(super) const PING_CREDIT: Duration = Duration::from_secs(5);
/// What a peer that asks more often hears.
pub(super) const TOO_MANY_PROBES: &str = "too-many-probes";

/// The generic cell rate algorithm (ITU-T I.371, annex A): the time at which the pings so far would have been due.
#[derive(Debug)]
pub(super) struct PingAllowance(Instant);

impl PingAllowance {
    pub fn new(now: Instant) -> Self {
        Self(now)
    }

    /// A ping comes; false when it is one too many.
    pub fn admit(&mut self, now: Instant) -> bool {
        self.0 = self.0.max(now) + PING_INTERVAL;
        self.0 - now <= PING_CREDIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(pings: u32, every: Duration) -> u32 {
        let start = crate::seam::now();
        let mut allowance = PingAllowance::new(start);
        (0..pings).take_while(|number| allowance.admit(start + every * *number)).count() as u32
    }

    #[test]
    fn ten_a_second_are_fine_for_ever_and_more_for_a_while() {
        assert_eq!(admitted(10_000, Duration::from_millis(100)), 10_000);
        assert_eq!(admitted(1_000, Duration::ZERO), 50);
        // Twenty a second gain half of each on the allowance.
        assert_eq!(admitted(1_000, Duration::from_millis(50)), 99);
    }
}
