//! How busy and how well a node looks from here, and in which order replicas are asked.

use std::time::Duration;

/// Latency falls towards newer, smaller samples with this time constant; it jumps up at once (a peak EWMA).
const TAU: Duration = Duration::from_secs(2);
/// Without news, what is known of a latency halves in this time: a node that was slow gets its chance again.
const HALF_LIFE: Duration = Duration::from_secs(2);
/// A failure counts as an answer at least this slow, so that a fast failure does not look attractive.
const ERROR_MIN: Duration = Duration::from_secs(1);
/// ... and as this multiple of what is known.
const ERROR_FACTOR: u32 = 5;
/// ... and as no more than this, however many come in a row.
const ERROR_MAX: Duration = Duration::from_secs(30);
/// A node that says it is overloaded counts at least this multiple of its latency.
const OVERLOADED_FACTOR: u32 = 2;
/// No latency counts for less, so that the number of requests under way decides between the very fast.
const FLOOR: Duration = Duration::from_micros(50);
/// After it recovered, a node gets its full share of requests only after this time.
const SLOW_START: Duration = Duration::from_secs(5);
/// The share it begins with.
const SLOW_START_SHARE: f64 = 0.1;

/// What is known of one node's speed; nothing by default: it looks fast, so that it is tried. Times are durations since an origin that all nodes share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load {
    latency: Duration,
    /// When `latency` was last heard of.
    at: Duration,
    recovered_at: Option<Duration>,
}

impl Load {
    fn set(&mut self, latency: Duration, now: Duration) {
        self.latency = latency;
        self.at = self.at.max(now);
    }

    /// An answer came after `latency`.
    pub(crate) fn on_success(&mut self, latency: Duration, now: Duration) {
        if self.latency.is_zero() || latency >= self.latency {
            return self.set(latency, now);
        }
        // The rarer the answers, the more each counts.
        let kept = (-now.saturating_sub(self.at).as_secs_f64() / TAU.as_secs_f64()).exp();
        let moved = latency + (self.latency - latency).mul_f64(kept);
        self.set(moved.min(self.latency(now).max(latency)), now);
    }

    /// A leg was given up after `elapsed` because another one was faster: it would have taken longer still. This can
    /// only raise what is known.
    pub(crate) fn on_censored(&mut self, elapsed: Duration, now: Duration) {
        if elapsed > self.latency(now) {
            self.set(elapsed, now);
        }
    }

    /// A leg failed: counts as an answer after at least 1 s, and five times what is known.
    pub(crate) fn on_error(&mut self, now: Duration) {
        let known = self.latency(now);
        self.set(known.saturating_mul(ERROR_FACTOR).clamp(ERROR_MIN, ERROR_MAX), now);
    }

    /// The node is there but asks for patience; `retry_after` is zero when it does not say for how long.
    pub(crate) fn on_overloaded(&mut self, retry_after: Duration, now: Duration) {
        let known = self.latency(now);
        self.set(known.saturating_mul(OVERLOADED_FACTOR).max(retry_after).min(ERROR_MAX), now);
    }

    /// The node's breaker closed again: it begins as slow as the slowest of its peers, with a tenth of the requests.
    pub(crate) fn on_recovered(&mut self, peers_max: Duration, now: Duration) {
        self.set(peers_max, now);
        self.recovered_at = Some(now);
    }

    /// What its next answer would take, as far as is known.
    pub(crate) fn latency(&self, now: Duration) -> Duration {
        let age = now.saturating_sub(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.latency.mul_f64(0.5f64.powf(age))
    }

    /// Share of requests it should get, from 0.1 just after recovery to 1.
    fn weight(&self, now: Duration) -> f64 {
        let Some(begun) = self.recovered_at else { return 1.0 };
        let done = now.saturating_sub(begun).as_secs_f64() / SLOW_START.as_secs_f64();
        (SLOW_START_SHARE + (1.0 - SLOW_START_SHARE) * done).min(1.0)
    }

    /// The smaller, the sooner asked: expected wait for one more request. `oldest` is the age of the oldest unanswered
    /// request, `in_flight` their number.
    pub(crate) fn score(&self, oldest: Duration, in_flight: usize, now: Duration) -> Duration {
        let waiting = u32::try_from(in_flight).unwrap_or(u32::MAX).saturating_add(1);
        let whole = self.latency(now).max(oldest).max(FLOOR).saturating_mul(waiting);
        Duration::try_from_secs_f64(whole.as_secs_f64() / self.weight(now)).unwrap_or(Duration::MAX)
    }
}

/// A replica that may be asked, as the order sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<T> {
    /// Who.
    pub(crate) replica: T,
    /// 0 = surely has the block, higher = less sure.
    pub(crate) rank: u8,
    /// Its breaker is not closed.
    pub(crate) open: bool,
    /// See [`Load::score`].
    pub(crate) score: Duration,
}

/// Brings replicas into the order in which they are asked.
///
/// Closed ones before open ones, then by rank. Among the best the first is the better scored of two distinct ones drawn
/// at random (power of two choices: Mitzenmacher 2001), the rest follow by score. `draw(n)` returns a number below `n`.
pub(crate) fn order<T: Copy>(mut choices: Vec<Choice<T>>, mut draw: impl FnMut(usize) -> usize) -> Vec<T> {
    choices.sort_by_key(|choice| (choice.open, choice.rank, choice.score));
    let best = choices.first().map(|c| (c.open, c.rank));
    let class = choices.iter().take_while(|c| Some((c.open, c.rank)) == best).count();
    if class > 1 {
        // Of two distinct ones at random, the one that sorts first is the better.
        let (a, b) = (draw(class), draw(class - 1));
        let first = a.min(if b >= a { b + 1 } else { b });
        choices[..=first].rotate_right(1);
    }
    choices.into_iter().map(|choice| choice.replica).collect()
}

#[cfg(test)]
mod tests;
