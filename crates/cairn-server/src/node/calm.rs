//! How background work keeps out of the way of foreground requests: whether a store answers them more slowly than it does
//! when left alone, and how fast copies may go by that.
//!
//! Plain values: whoever measures says what time it is.

use crate::limits::{
    CALM_FACTOR, CALM_LAG, CALM_LATE_FACTOR, CALM_LATE_SAMPLES, CALM_LATE_SHARE, CALM_MEMORY, CALM_SLACK, CALM_STALL,
    REPAIR_RATE_FIRST, REPAIR_RATE_MIN, REPAIR_RATE_STEP, REPAIR_RATE_STEP_ASKED, REPAIR_STEP,
};
use cairn_proto::limits::BLOCK_LEN_DEFAULT;
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
    /// Not for the disk: a turn on a processor, as a task has to wait for it that is due.
    Turn,
}

impl Wait {
    const ALL: [Self; 4] = [Self::Read, Self::Put, Self::Sync, Self::Turn];

    /// What nobody notices, whatever it is in comparison.
    const fn slack(self) -> Duration {
        match self {
            Self::Read | Self::Put | Self::Sync => CALM_SLACK,
            Self::Turn => CALM_LAG,
        }
    }
}

/// Mean of the last few, in seconds.
#[derive(Clone, Copy, Debug)]
struct Latency {
    now: f64,
    /// What it is without background work.
    healthy: f64,
    /// Share of the last some hundred that were late, each compared with the mean alone: a mean hides that one of twenty
    /// takes ten times as long, and the one is what a user feels.
    late: f64,
    /// That share without background work.
    late_healthy: f64,
    sampled: Instant,
}

impl Latency {
    fn new(took: f64, now: Instant) -> Self {
        Self { now: took, healthy: took, late: 0.0, late_healthy: 0.0, sampled: now }
    }

    fn is_late(&self, took: f64, slack: f64) -> bool {
        took > self.healthy * CALM_LATE_FACTOR + slack
    }
}

/// What foreground requests of one store experience.
#[derive(Debug, Default)]
pub(crate) struct Calm {
    waits: [Option<Latency>; Wait::ALL.len()],
    /// When a foreground request came last.
    asked: Option<Instant>,
    /// When background work was done last.
    disturbed: Option<Instant>,
}

impl Calm {
    /// A foreground request waited so long.
    pub(crate) fn sample(&mut self, wait: Wait, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        let disturbed = self.disturbed.is_some_and(|last| now.saturating_duration_since(last) < CALM_MEMORY);
        let latency = self.waits[wait as usize].get_or_insert_with(|| Latency::new(took, now));
        let late = f64::from(u8::from(latency.is_late(took, wait.slack().as_secs_f64())));
        latency.late += (late - latency.late) / CALM_LATE_SAMPLES;
        if !disturbed || latency.late < latency.late_healthy {
            latency.late_healthy += (latency.late - latency.late_healthy) / CALM_LATE_SAMPLES;
        }
        latency.now += (took - latency.now) / 8.0;
        latency.sampled = now;
        if latency.now < latency.healthy {
            latency.healthy += (latency.now - latency.healthy) / 8.0;
        } else if !disturbed {
            // A load that grew by itself is the new health, but not at once: the end of a disturbance looks the same.
            latency.healthy += (latency.now - latency.healthy) / 64.0;
        }
    }

    /// A foreground request comes.
    pub(crate) fn ask(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// True while there are foreground requests.
    pub(crate) fn is_asked(&self, now: Instant) -> bool {
        self.asked.is_some_and(|last| now.saturating_duration_since(last) < CALM_MEMORY)
    }

    /// Background work was done now.
    pub(crate) fn disturb(&mut self, now: Instant) {
        self.disturbed = Some(now);
    }

    /// How foreground requests are. `stall` as for [`Calm::is_disturbed`].
    pub(crate) fn mood(&self, stall: Duration, now: Instant) -> Mood {
        if self.is_disturbed(stall, now) {
            Mood::Disturbed
        } else if self.is_asked(now) {
            Mood::Calm
        } else {
            Mood::Alone
        }
    }

    /// True while background work should wait. `stall` is the age of the disk's oldest unfinished operation.
    pub(crate) fn is_disturbed(&self, stall: Duration, now: Instant) -> bool {
        let slow = |wait: &Wait| {
            self.waits[*wait as usize].is_some_and(|latency| {
                let fresh = now.saturating_duration_since(latency.sampled) < CALM_MEMORY;
                let slower = latency.now > latency.healthy * CALM_FACTOR + wait.slack().as_secs_f64();
                // Of turns alone there are enough samples for a share to say something within a second.
                let often_late = *wait == Wait::Turn && latency.late > latency.late_healthy + CALM_LATE_SHARE;
                fresh && (slower || often_late)
            })
        };
        stall > CALM_STALL || Wait::ALL.iter().any(slow)
    }
}

/// What foreground requests make of copies now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mood {
    /// There are none.
    Alone,
    /// They take as long as without copies.
    Calm,
    /// They take longer.
    Disturbed,
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
    /// Bytes that a piece has, by those before: paid when it begins, so that pieces begin one after the other and not many at
    /// once.
    expected: f64,
    adjusted: Option<Instant>,
}

impl Throttle {
    /// At most `ceiling` bytes a second, if there is one.
    pub(crate) fn new(ceiling: Option<u64>) -> Self {
        let ceiling = ceiling.map_or(f64::INFINITY, |ceiling| ceiling.max(1) as f64);
        let expected = f64::from(BLOCK_LEN_DEFAULT);
        Self { rate: REPAIR_RATE_FIRST.min(ceiling), ceiling, paid: None, expected, adjusted: None }
    }

    /// How long to wait before the next piece, to be asked again after that; `None` when it begins now.
    pub(crate) fn wait(&mut self, mood: Mood, now: Instant) -> Option<Duration> {
        let since = self.adjusted.map_or(REPAIR_STEP, |last| now.saturating_duration_since(last));
        if since >= REPAIR_STEP {
            let next = match mood {
                Mood::Alone => self.rate + REPAIR_RATE_STEP,
                Mood::Calm => self.rate + REPAIR_RATE_STEP_ASKED,
                Mood::Disturbed => self.rate / 2.0,
            };
            self.rate = next.max(REPAIR_RATE_MIN).min(self.ceiling);
            self.adjusted = Some(now);
        }
        let wait = self.paid.map(|paid| paid.saturating_duration_since(now)).filter(|wait| !wait.is_zero());
        if wait.is_none() {
            self.paid = Some(later(now, self.cost(self.expected)));
        }
        wait
    }

    fn cost(&self, bytes: f64) -> Duration {
        Duration::try_from_secs_f64(bytes / self.rate).unwrap_or(Duration::MAX)
    }

    /// A piece that was begun has so many bytes: what it costs more or less than was expected.
    pub(crate) fn spend(&mut self, bytes: u64, now: Instant) {
        let more = bytes as f64 - self.expected;
        self.expected += more / 8.0;
        let paid = self.paid.unwrap_or(now);
        self.paid = Some(if more < 0.0 {
            paid.checked_sub(self.cost(-more)).unwrap_or(now)
        } else {
            later(paid, self.cost(more))
        });
    }

    /// Bytes a second now.
    pub(crate) fn rate(&self) -> f64 {
        self.rate
    }
}

fn later(at: Instant, by: Duration) -> Instant {
    at.checked_add(by).unwrap_or(at)
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
        assert_eq!(throttle.wait(Mood::Alone, now), None);
        let first = throttle.rate();
        now += REPAIR_STEP;
        throttle.wait(Mood::Alone, now);
        assert_eq!(throttle.rate(), first + REPAIR_RATE_STEP);
        throttle.wait(Mood::Alone, now + ms(1));
        assert_eq!(throttle.rate(), first + REPAIR_RATE_STEP, "not at every question");
        now += REPAIR_STEP;
        throttle.wait(Mood::Calm, now);
        assert_eq!(throttle.rate(), first + REPAIR_RATE_STEP + REPAIR_RATE_STEP_ASKED, "more carefully beside others");
        for _ in 0..100 {
            now += REPAIR_STEP;
            throttle.wait(Mood::Disturbed, now);
        }
        assert_eq!(throttle.rate(), REPAIR_RATE_MIN, "it never stands still");
    }

    #[test]
    fn a_turn_that_comes_late_disturbs_sooner_than_a_disk() {
        let mut calm = Calm::default();
        let mut now = cairn_net::now();
        let mut lag = |calm: &mut Calm, took: Duration, wait| {
            for _ in 0..100 {
                calm.sample(wait, took, now);
                calm.disturb(now);
                now += ms(5);
            }
            calm.is_disturbed(Duration::ZERO, now)
        };
        assert!(!lag(&mut calm, ms(1), Wait::Turn) && !lag(&mut calm, ms(1), Wait::Read));
        assert!(!lag(&mut calm, ms(3), Wait::Read));
        assert!(lag(&mut calm, ms(3), Wait::Turn));
    }

    #[test]
    fn a_few_late_ones_disturb_although_the_mean_does_not_move() {
        let mut calm = Calm::default();
        let mut now = cairn_net::now();
        let mut feed = |calm: &mut Calm, late_every: u32, disturb: bool| {
            for turn in 1..=1000 {
                let took = if turn % late_every == 0 { ms(8) } else { Duration::from_micros(100) };
                if disturb {
                    calm.disturb(now);
                }
                calm.sample(Wait::Turn, took, now);
                now += ms(5);
            }
            calm.is_disturbed(Duration::ZERO, now)
        };
        assert!(!feed(&mut calm, 100, false), "one of a hundred is as usual here");
        assert!(!feed(&mut calm, 100, true), "and no more than that beside copies");
        assert!(feed(&mut calm, 10, true), "one of ten is not");
        assert!(!feed(&mut calm, 100, true), "it is over");
    }

    #[test]
    fn pieces_begin_one_after_the_other() {
        let piece = u64::from(BLOCK_LEN_DEFAULT);
        let mut throttle = Throttle::new(Some(10 * piece));
        let now = cairn_net::now();
        assert_eq!(throttle.wait(Mood::Alone, now), None);
        assert_eq!(
            throttle.wait(Mood::Alone, now),
            Some(ms(100)),
            "the second one, although the first has not come yet"
        );
        throttle.spend(piece, now);
        assert_eq!(throttle.wait(Mood::Alone, now), Some(ms(100)), "as expected");
        assert_eq!(throttle.wait(Mood::Alone, now + ms(100)), None);
        throttle.spend(3 * piece, now + ms(100));
        assert_eq!(throttle.wait(Mood::Alone, now + ms(100)), Some(ms(300)), "more than expected");
        // Time in which nothing was copied is not saved up.
        assert_eq!(throttle.wait(Mood::Alone, now + ms(60_000)), None);
        assert!(throttle.wait(Mood::Alone, now + ms(60_000)).is_some());
        throttle.spend(u64::MAX, now);
        assert!(throttle.wait(Mood::Alone, now + ms(60_000)).is_some());
    }

    #[test]
    fn small_pieces_do_not_pay_for_large_ones_for_long() {
        let mut throttle = Throttle::new(Some(u64::from(BLOCK_LEN_DEFAULT)));
        let begun = cairn_net::now();
        let mut now = begun;
        for _ in 0..1000 {
            while let Some(wait) = throttle.wait(Mood::Alone, now) {
                now += wait;
            }
            throttle.spend(4096, now);
        }
        assert!(now - begun < ms(3000), "{:?} for a second's worth", now - begun);
    }
}
