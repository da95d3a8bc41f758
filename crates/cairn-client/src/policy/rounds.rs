//! Rounds: an operation tries every server it can; when all failed it waits and tries them all again.

use std::time::Duration;

/// How often and with what pauses an operation begins again after every server failed it.
#[derive(Clone, PartialEq, Debug)]
pub struct RetryPolicy {
    /// Pause before the second round, before the third, and so on. One round more than there are pauses.
    pub pauses: Vec<Duration>,
    /// Each pause is multiplied by a random factor from `1 - jitter` to `1 + jitter`, so that clients that failed
    /// together do not come back together.
    pub jitter: f64,
}

impl RetryPolicy {
    /// Pauses of 500 ms, 1 s and 1.5 s, without jitter.
    pub fn seed() -> Self {
        Self { pauses: [500, 1000, 1500].map(Duration::from_millis).to_vec(), jitter: 0.0 }
    }

    /// The pause after `rounds` rounds have failed (1 = the first); `None` = give up. `unit` is a random number from 0
    /// to 1.
    pub(crate) fn pause_after(&self, rounds: u32, unit: f64) -> Option<Duration> {
        let pause = self.pauses.get(rounds.checked_sub(1)? as usize)?;
        Some(pause.mul_f64((1.0 + self.jitter * (2.0 * unit - 1.0)).max(0.0)))
    }
}

impl Default for RetryPolicy {
    /// [`RetryPolicy::seed`] with 20 % jitter.
    fn default() -> Self {
        Self { jitter: 0.2, ..Self::seed() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_sequence_is_literal() {
        let policy = RetryPolicy::seed();
        let pauses: Vec<_> = (1..=4).map(|round| policy.pause_after(round, 0.9).map(|p| p.as_millis())).collect();
        assert_eq!(pauses, [Some(500), Some(1000), Some(1500), None]);
        assert_eq!(policy.pause_after(0, 0.5), None);
    }

    #[test]
    fn jitter_spreads_both_ways() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.pause_after(1, 0.0).map(|p| p.as_millis()), Some(400));
        assert_eq!(policy.pause_after(1, 1.0).map(|p| p.as_millis()), Some(600));
    }
}
