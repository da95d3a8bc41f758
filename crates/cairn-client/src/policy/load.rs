//! How busy and how well a node looks from here, and in which order replicas are asked.

use std::time::Duration;

/// Latency falls towards new samples with this weight per sample, and jumps up to them at once (a peak EWMA).
const DECAY: f64 = 0.2;
/// A failure counts as an answer at least this slow, so that a fast failure does not look attractive.
const FAILURE_PENALTY: Duration = Duration::from_secs(1);
/// What is known of a latency fades this fast.
const HALF_LIFE: Duration = Duration::from_secs(5);
/// A node whose connection failed is not asked again for this long, doubled with each further failure.
const COOLDOWN_MIN: Duration = Duration::from_millis(250);
/// The longest such time.
const COOLDOWN_MAX: Duration = Duration::from_secs(5);

/// What is known of one node. Times are durations since an origin that all nodes share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load {
    latency: Duration,
    /// When `latency` was last heard of.
    at: Duration,
    failures: u32,
    retry_at: Duration,
}

impl Load {
    /// An answer came after `latency`.
    pub(crate) fn on_success(&mut self, latency: Duration, now: Duration) {
        self.failures = 0;
        self.retry_at = Duration::ZERO;
        let known = self.latency(now);
        self.latency = if latency > known { latency } else { known.mul_f64(1.0 - DECAY) + latency.mul_f64(DECAY) };
        self.at = now;
    }

    /// A request was given up after `elapsed` because another replica was faster: it would have taken longer still.
    pub(crate) fn on_given_up(&mut self, elapsed: Duration, now: Duration) {
        self.latency = self.latency(now).max(elapsed);
        self.at = now;
    }

    /// No connection, or it broke.
    pub(crate) fn on_failure(&mut self, now: Duration) {
        let cooldown = COOLDOWN_MIN.saturating_mul(1 << self.failures.min(8)).min(COOLDOWN_MAX);
        self.failures += 1;
        self.retry_at = now + cooldown;
        self.latency = self.latency(now).max(FAILURE_PENALTY);
        self.at = now;
    }

    /// True while asking the node again would most likely be in vain.
    pub(crate) fn is_down(&self, now: Duration) -> bool {
        now < self.retry_at
    }

    /// Smoothed latency, halved for every [`HALF_LIFE`] without news: a node that was slow gets its chance again.
    pub(crate) fn latency(&self, now: Duration) -> Duration {
        let age = now.saturating_sub(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.latency.mul_f64(0.5f64.powf(age))
    }

    /// The smaller, the sooner asked: expected wait for one more request. `oldest` is the age of the oldest unanswered
    /// request, `in_flight` their number.
    pub(crate) fn score(&self, oldest: Duration, in_flight: usize, now: Duration) -> Duration {
        self.latency(now).max(oldest).max(Duration::from_micros(50)).saturating_mul(in_flight as u32 + 1)
    }
}

/// A replica that may be asked, as the order sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<T> {
    /// Who.
    pub(crate) replica: T,
    /// 0 = surely has the block, higher = less sure.
    pub(crate) rank: u8,
    /// See [`Load::is_down`].
    pub(crate) down: bool,
    /// See [`Load::score`].
    pub(crate) score: Duration,
}

/// Brings replicas into the order in which they are asked.
///
/// Well ones before those that are down, then by rank. Among the best the first is the better scored of two drawn at
/// random (power of two choices: Mitzenmacher 2001), the rest follow by score. `draw(n)` returns a number below `n`.
pub(crate) fn order<T: Copy>(mut choices: Vec<Choice<T>>, mut draw: impl FnMut(usize) -> usize) -> Vec<T> {
    choices.sort_by_key(|choice| (choice.down, choice.rank, choice.score));
    let best = choices.first().map(|c| (c.down, c.rank));
    let class = choices.iter().take_while(|c| Some((c.down, c.rank)) == best).count();
    if class > 1 {
        // Of two distinct ones at random, the one that sorts first is the better.
        let (a, b) = (draw(class), draw(class - 1));
        let first = a.min(if b >= a { b + 1 } else { b });
        choices[..=first].rotate_right(1);
    }
    choices.into_iter().map(|choice| choice.replica).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn slow_answers_count_at_once_and_fade() {
        let mut load = Load::default();
        load.on_success(MS, Duration::ZERO);
        load.on_success(100 * MS, Duration::ZERO);
        assert_eq!(load.latency(Duration::ZERO), 100 * MS);
        load.on_success(MS, Duration::ZERO);
        assert!(load.latency(Duration::ZERO) < 85 * MS && load.latency(Duration::ZERO) > 75 * MS);
    }

    #[test]
    fn a_silent_replica_is_left_alone_and_later_tried_again() {
        let (mut frozen, mut well) = (Load::default(), Load::default());
        frozen.on_success(MS, Duration::ZERO);
        frozen.on_given_up(50 * MS, Duration::ZERO);
        let worse = |well: &Load, now| frozen.score(Duration::ZERO, 0, now) > well.score(Duration::ZERO, 0, now);
        for second in 1..=20 {
            well.on_success(MS, second * 1000 * MS);
            assert!(worse(&well, second * 1000 * MS));
        }
        well.on_success(MS, 40_000 * MS);
        assert!(!worse(&well, 40_000 * MS));
    }

    #[test]
    fn a_fast_failure_does_not_look_fast() {
        let mut load = Load::default();
        load.on_failure(Duration::ZERO);
        assert!(load.score(Duration::ZERO, 0, Duration::ZERO) >= FAILURE_PENALTY);
        assert!(load.is_down(249 * MS) && !load.is_down(250 * MS));
        for _ in 0..20 {
            load.on_failure(Duration::ZERO);
        }
        assert!(load.is_down(COOLDOWN_MAX - MS) && !load.is_down(COOLDOWN_MAX));
        load.on_success(MS, Duration::ZERO);
        assert!(!load.is_down(Duration::ZERO));
    }

    #[test]
    fn a_silent_node_scores_by_its_oldest_request() {
        let mut load = Load::default();
        load.on_success(MS, Duration::ZERO);
        assert!(load.score(500 * MS, 1, Duration::ZERO) >= 1000 * MS);
    }

    fn choice(replica: u32, rank: u8, down: bool, score_ms: u32) -> Choice<u32> {
        Choice { replica, rank, down, score: score_ms * MS }
    }

    #[test]
    fn the_worst_of_three_is_never_first() {
        let choices = vec![choice(1, 0, false, 5), choice(2, 0, false, 1), choice(3, 0, false, 9)];
        for a in 0..3 {
            for b in 0..2 {
                let mut draws = [a, b].into_iter();
                let order = order(choices.clone(), |_| draws.next().expect("two draws"));
                assert_ne!(order[0], 3);
                assert_eq!(order.len(), 3);
            }
        }
    }

    #[test]
    fn down_and_unsure_ones_come_last() {
        let choices =
            vec![choice(1, 0, true, 1), choice(2, 2, false, 1), choice(3, 0, false, 9), choice(4, 1, false, 1)];
        assert_eq!(order(choices, |_| 0), [3, 4, 2, 1]);
    }
}
