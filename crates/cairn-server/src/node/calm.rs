//! How background work keeps out of the way of foreground requests: whether a store answers them more slowly than it does
//! when left alone, and how fast copies may go by that.
//!
//! Plain values: whoever measures says what time it is.

use crate::limits::{
    CALM_FACTOR, CALM_MEMORY, CALM_SLACK, CALM_STALL, REPAIR_RATE_FIRST, REPAIR_RATE_MIN, REPAIR_RATE_STEP, REPAIR_STEP,
};
use std::time::Duration;
use tokio::time::Instant;

/// What foreground requests wait for. Kinds are held apart, because a mixture that changes is no slowness.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// The header of a block that was not read lately.
    Read,
    /// A durable put, its queue included.
    Put,
    /// A sync, its queue included.
    Sync,
}

impl Wait {
    const COUNT: usize = 3;
}

/// Mean of the last few, in seconds.
#[derive(Clone, Copy, Debug)]
struct Latency {
    now: f64,
    /// What it is without background work.
    healthy: f64,
    sampled: Instant,
}

/// What foreground requests of one store experience.
#[derive(Debug, Default)]
pub(crate) struct Calm {
    waits: [Option<Latency>; Wait::COUNT],
    /// When background work was done last.
    disturbed: Option<Instant>,
}

impl Calm {
    /// A foreground request waited so long.
    pub(crate) fn sample(&mut self, wait: Wait, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        let disturbed = self.disturbed.is_some_and(|last| now.saturating_duration_since(last) < CALM_MEMORY);
        let latency = self.waits[wait as usize].get_or_insert(Latency { now: took, healthy: took, sampled: now });
        latency.now += (took - latency.now) / 8.0;
        latency.sampled = now;
        if latency.now < latency.healthy {
            latency.healthy += (latency.now - latency.healthy) / 8.0;
        } else if !disturbed {
            // A load that grew by itself is the new health, but not at once: the end of a disturbance looks the same.
            latency.healthy += (latency.now - latency.healthy) / 64.0;
        }
    }

    /// Background work was done now.
    pub(crate) fn disturb(&mut self, now: Instant) {
        self.disturbed = Some(now);
    }

    /// True while background work should wait. `stall` is the age of the disk's oldest unfinished operation.
    pub(crate) fn is_disturbed(&self, stall: Duration, now: Instant) -> bool {
        let slow = |latency: &Latency| {
            let fresh = now.saturating_duration_since(latency.sampled) < CALM_MEMORY;
            fresh && latency.now > latency.healthy * CALM_FACTOR + CALM_SLACK.as_secs_f64()
        };
        stall > CALM_STALL || self.waits.iter().flatten().any(slow)
    }
}

/// How fast copies may go: a little faster as long as nobody suffers, half as fast when somebody does (additive increase,
/// multiplicative decrease).
#[derive(Debug)]
pub(crate) struct Throttle {
    /// Bytes a second.
    rate: f64,
    ceiling: f64,
    /// When what was spent so far is paid for.
    paid: Option<Instant>,
    adjusted: Option<Instant>,
}

impl Throttle {
    /// At most `ceiling` bytes a second, if there is one.
    pub(crate) fn new(ceiling: Option<u64>) -> Self {
        let ceiling = ceiling.map_or(f64::INFINITY, |ceiling| ceiling.max(1) as f64);
        Self { rate: REPAIR_RATE_FIRST.min(ceiling), ceiling, paid: None, adjusted: None }
    }

    /// How long to wait before the next piece; to be asked again after that.
    pub(crate) fn wait(&mut self, disturbed: bool, now: Instant) -> Option<Duration> {
        let since = self.adjusted.map_or(REPAIR_STEP, |last| now.saturating_duration_since(last));
        if since >= REPAIR_STEP {
            let next = if disturbed { self.rate / 2.0 } else { self.rate + REPAIR_RATE_STEP };
            self.rate = next.max(REPAIR_RATE_MIN).min(self.ceiling);
            self.adjusted = Some(now);
        }
        self.paid.map(|paid| paid.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
    }

    /// A piece of so many bytes was begun.
    pub(crate) fn spend(&mut self, bytes: u64, now: Instant) {
        let cost = Duration::try_from_secs_f64(bytes as f64 / self.rate).unwrap_or(Duration::MAX);
        let from = self.paid.unwrap_or(now).max(now);
        self.paid = from.checked_add(cost).or(Some(from));
    }

    /// Bytes a second now.
    pub(crate) fn rate(&self) -> f64 {
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// So many samples, 10 ms apart; the time after them.
    fn feed(calm: &mut Calm, count: u32, took: Duration, mut now: Instant) -> Instant {
        for _ in 0..count {
            calm.sample(Wait::Read, took, now);
            now += ms(10);
        }
        now
    }

    #[test]
    fn slower_than_when_left_alone_is_disturbed() {
        let mut calm = Calm::default();
        let now = feed(&mut calm, 100, ms(5), cairn_net::now());
        assert!(!calm.is_disturbed(Duration::ZERO, now));
        calm.disturb(now);
        let now = feed(&mut calm, 30, ms(20), now);
        assert!(calm.is_disturbed(Duration::ZERO, now));
        // Nobody asks any more: nobody is disturbed.
        assert!(!calm.is_disturbed(Duration::ZERO, now + CALM_MEMORY));
        // It is over.
        let now = feed(&mut calm, 30, ms(5), now);
        assert!(!calm.is_disturbed(Duration::ZERO, now));
        assert!(calm.is_disturbed(CALM_STALL + ms(1), now), "a disk that does not answer is disturbed anyway");
    }

    #[test]
    fn what_background_work_does_is_not_taken_for_health() {
        let mut calm = Calm::default();
        let mut now = feed(&mut calm, 100, ms(5), cairn_net::now());
        for _ in 0..100 {
            calm.disturb(now);
            now = feed(&mut calm, 10, ms(20), now);
        }
        assert!(calm.is_disturbed(Duration::ZERO, now), "however long it lasts");
    }

    #[test]
    fn a_load_that_grew_by_itself_is_the_new_health() {
        let mut calm = Calm::default();
        let now = feed(&mut calm, 100, ms(5), cairn_net::now());
        let now = feed(&mut calm, 15, ms(20), now);
        assert!(calm.is_disturbed(Duration::ZERO, now));
        let now = feed(&mut calm, 300, ms(20), now);
        assert!(!calm.is_disturbed(Duration::ZERO, now));
    }

    #[test]
    fn kinds_are_apart() {
        let mut calm = Calm::default();
        let mut now = cairn_net::now();
        for _ in 0..100 {
            calm.sample(Wait::Read, Duration::from_micros(50), now);
            calm.sample(Wait::Put, ms(8), now);
            now += ms(5);
        }
        assert!(!calm.is_disturbed(Duration::ZERO, now));
    }

    #[test]
    fn the_rate_grows_by_steps_and_falls_by_halves() {
        let mut throttle = Throttle::new(None);
        let mut now = cairn_net::now();
        assert_eq!(throttle.wait(false, now), None);
        let first = throttle.rate();
        now += REPAIR_STEP;
        throttle.wait(false, now);
        assert_eq!(throttle.rate(), first + REPAIR_RATE_STEP);
        throttle.wait(false, now + ms(1));
        assert_eq!(throttle.rate(), first + REPAIR_RATE_STEP, "not at every question");
        for _ in 0..100 {
            now += REPAIR_STEP;
            throttle.wait(true, now);
        }
        assert_eq!(throttle.rate(), REPAIR_RATE_MIN, "it never stands still");
    }

    #[test]
    fn bytes_are_paid_for_before_the_next() {
        let ceiling = 10_000_000;
        let mut throttle = Throttle::new(Some(ceiling));
        let now = cairn_net::now();
        assert_eq!(throttle.wait(false, now), None);
        throttle.spend(5_000_000, now);
        assert_eq!(throttle.wait(false, now), Some(ms(500)));
        throttle.spend(5_000_000, now);
        assert_eq!(throttle.wait(false, now), Some(ms(1000)));
        assert_eq!(throttle.wait(false, now + ms(1000)), None);
        // Time in which nothing was copied is not saved up.
        throttle.spend(5_000_000, now + ms(60_000));
        assert_eq!(throttle.wait(false, now + ms(60_000)), Some(ms(500)));
        throttle.spend(u64::MAX, now);
        assert!(throttle.wait(false, now).is_some());
    }
}
