//! Exact quantiles of times that are all kept.

use std::time::Duration;

/// Times of single operations.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// One more.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        self.0.iter().sum()
    }

    /// The smallest that is not less than `q` of all; zero without samples.
    pub fn quantile(&mut self, q: f64) -> Duration {
        self.0.sort_unstable();
        let rank = (self.0.len() as f64 * q).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_hundred() {
        let mut samples = Samples::default();
        assert_eq!((samples.quantile(0.5), samples.is_empty()), (Duration::ZERO, true));
        (1..=100).rev().for_each(|ms| samples.push(Duration::from_millis(ms)));
        let ms = |samples: &mut Samples, q| samples.quantile(q).as_millis();
        assert_eq!((ms(&mut samples, 0.5), ms(&mut samples, 0.99), ms(&mut samples, 1.0)), (50, 99, 100));
        assert_eq!((ms(&mut samples, 0.0), samples.len(), samples.sum().as_millis()), (1, 100, 5050));
    }
}
