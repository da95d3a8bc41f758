//! A bound on what is done at once, which tells those that it turns away when to come back.
//!
//! When that is, is measured: how fast work has been leaving while there was some. A constant would send a thousand callers
//! to a slow disk again and again, or leave a fast one idle.

use cairn_proto::status::{Code, Status};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Time over which a rate is measured, at least.
const WINDOW: Duration = Duration::from_millis(100);
/// Shortest and longest pause that a caller is asked for.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(5));

/// How fast work leaves, in units of the caller's choice (requests, bytes). Only times in which some was waiting count, so
/// that an idle hour does not look like a slow one.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    /// Pieces of work inside, and their units.
    pieces: usize,
    units: u64,
    /// What has left since `begun`.
    left: u64,
    /// When the present measurement began; `None` while nothing waits.
    begun: Option<Instant>,
    /// When something left last, or came to an empty place.
    moved: Option<Instant>,
    /// Units a second.
    rate: Option<f64>,
}

impl Drain {
    /// A piece of work came in.
    pub(crate) fn enter(&mut self, units: u64, now: Instant) {
        if self.pieces == 0 {
            (self.begun, self.moved, self.left) = (Some(now), Some(now), 0);
        }
        self.pieces += 1;
        self.units += units;
    }

    /// A piece of work that came in has left.
    pub(crate) fn leave(&mut self, units: u64, now: Instant) {
        self.pieces = self.pieces.saturating_sub(1);
        self.units = self.units.saturating_sub(units);
        self.left += units;
        self.moved = Some(now);
        let Some(begun) = self.begun else { return };
        let took = now.saturating_duration_since(begun);
        if took >= WINDOW || (self.pieces == 0 && self.rate.is_none() && !took.is_zero()) {
            let sample = self.left as f64 / took.as_secs_f64();
            // Half of it is new: what held a second ago says little about a disk.
            self.rate = Some(self.rate.map_or(sample, |rate| (rate + sample) / 2.0));
            (self.begun, self.left) = (Some(now), 0);
        }
        if self.pieces == 0 {
            self.begun = None;
        }
    }

    /// A piece of work that came in was turned away further on.
    pub(crate) fn withdraw(&mut self, units: u64) {
        self.pieces = self.pieces.saturating_sub(1);
        self.units = self.units.saturating_sub(units);
    }

    /// Pieces of work inside, and their units.
    #[cfg(test)]
    pub(crate) fn inside(&self) -> (usize, u64) {
        (self.pieces, self.units)
    }

    /// When half of what is inside has left, most likely; at least as long as nothing has moved so far.
    pub(crate) fn retry_after(&self, now: Instant) -> Duration {
        let stalled = match self.moved {
            Some(moved) if self.pieces > 0 => now.saturating_duration_since(moved),
            _ => Duration::ZERO,
        };
        let half = self.rate.filter(|rate| *rate > 0.0).map(|rate| self.units as f64 / 2.0 / rate);
        let half = half.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(RETRY_AFTER.0);
        half.max(stalled).clamp(RETRY_AFTER.0, RETRY_AFTER.1)
    }
}

/// Milliseconds for the wire.
pub(crate) fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// So many at once.
pub(crate) struct Gate {
    permits: Arc<Semaphore>,
    max: usize,
    drain: Arc<Mutex<Drain>>,
    /// What is too much, for people.
    what: &'static str,
}

/// The right to go on; given back when dropped. It goes along to a thread that works on when its caller has given up.
pub(crate) struct Admitted {
    drain: Arc<Mutex<Drain>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.drain.lock().leave(1, cairn_net::now());
    }
}

impl Gate {
    /// Lets `max` in; `what` are too many for it beyond that, as in "too many requests".
    pub(crate) fn new(max: usize, what: &'static str) -> Self {
        Self { permits: Arc::new(Semaphore::new(max)), max, drain: Arc::default(), what }
    }

    /// Comes in, or is OVERLOADED and told when half of those inside will have left.
    pub(crate) fn admit(&self) -> Result<Admitted, Status> {
        let now = cairn_net::now();
        match self.permits.clone().try_acquire_owned() {
            Ok(permit) => {
                self.drain.lock().enter(1, now);
                Ok(Admitted { drain: self.drain.clone(), _permit: permit })
            }
            Err(_) => {
                let retry_after = self.drain.lock().retry_after(now);
                let message = format!("too many {} in hand: {}", self.what, self.max);
                Err(Status::new(Code::Overloaded, message).retry_after_ms(millis(retry_after)))
            }
        }
    }

    /// How many are inside.
    pub(crate) fn inside(&self) -> usize {
        self.max - self.permits.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Work of `units` each, `count` waiting, one leaving every `every_ms`.
    fn busy(count: u64, units: u64, every_ms: u64, start: Instant) -> (Drain, Instant) {
        let mut drain = Drain::default();
        (0..count).for_each(|_| drain.enter(units, start));
        let mut now = start;
        for _ in 0..1000 / every_ms.min(1000) {
            now += ms(every_ms);
            drain.leave(units, now);
            drain.enter(units, now);
        }
        (drain, now)
    }

    #[test]
    fn who_is_turned_away_comes_back_when_half_is_gone() {
        let start = cairn_net::now();
        for (count, every_ms, expected) in [(100, 10, 500), (512, 1, 256), (10, 200, 1000)] {
            let (drain, now) = busy(count, 4096, every_ms, start);
            let after = drain.retry_after(now).as_millis() as u64;
            assert!((expected * 9 / 10..=expected * 11 / 10).contains(&after), "{after} for {expected}");
        }
    }

    #[test]
    fn the_pause_follows_the_disk_and_is_bounded() {
        let start = cairn_net::now();
        let (mut drain, now) = busy(100, 1, 10, start);
        // It gets ten times slower.
        let mut now = now;
        for _ in 0..20 {
            now += ms(100);
            drain.leave(1, now);
            drain.enter(1, now);
        }
        assert!(drain.retry_after(now) > ms(4500), "{:?}", drain.retry_after(now));
        // It stands still: at least as long again.
        let (drain, now) = busy(4, 1, 1, start);
        assert!(drain.retry_after(now) <= ms(6));
        assert!(drain.retry_after(now + ms(2000)) >= ms(2000));
        assert_eq!(drain.retry_after(now + ms(60_000)), RETRY_AFTER.1);
    }

    #[test]
    fn idle_time_does_not_count() {
        let start = cairn_net::now();
        let (mut drain, now) = busy(10, 1, 10, start);
        (0..10).for_each(|_| drain.leave(1, now));
        assert_eq!(drain.retry_after(now + ms(10_000)), RETRY_AFTER.0, "nothing waits");
        let later = now + ms(3_600_000);
        (0..100).for_each(|_| drain.enter(1, later));
        let after = drain.retry_after(later).as_millis();
        assert!((100..=550).contains(&after), "{after}: as fast as when it was busy");
    }

    #[test]
    fn a_gate_is_bounded_and_lets_go() {
        let gate = Gate::new(2, "requests");
        let first = gate.admit().ok();
        let second = gate.admit().ok();
        assert!(first.is_some() && second.is_some() && gate.inside() == 2);
        let refused = gate.admit().err().map(|status| (status.code, status.retry_after_ms));
        assert!(matches!(refused, Some((Code::Overloaded, 5..=5000))), "{refused:?}");
        drop(first);
        assert!(gate.admit().is_ok());
        drop(second);
        assert_eq!(gate.inside(), 0);
    }
}
