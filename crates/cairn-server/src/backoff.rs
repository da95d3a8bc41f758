//! Pauses between attempts that fail: doubling up to a ceiling, with jitter, so that many nodes that wait for one server
//! do not come back all at once.

use std::time::Duration;

/// The pauses of one loop.
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
    rng: fastrand::Rng,
}

impl Backoff {
    /// Pauses from the first to the longest of `range`.
    pub(crate) fn new(range: (Duration, Duration), rng: fastrand::Rng) -> Self {
        Self { first: range.0, longest: range.1, next: range.0, rng }
    }

    /// How long to wait after another failure: the current step plus or minus 20 %.
    pub(crate) fn pause(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.longest);
        step.mul_f64(0.8 + 0.4 * self.rng.f64())
    }

    /// Something worked: begin again with the first step.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_ceiling_and_begin_again() {
        let range = (Duration::from_millis(100), Duration::from_millis(800));
        let mut backoff = Backoff::new(range, fastrand::Rng::with_seed(1));
        for expected in [100, 200, 400, 800, 800] {
            let pause = backoff.pause().as_secs_f64() * 1000.0;
            assert!((f64::from(expected) * 0.8..=f64::from(expected) * 1.2).contains(&pause), "{pause} for {expected}");
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(120));
    }
}
