//! Counts of values by size, in buckets that are the same everywhere, so that roles can be added up.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the buckets for durations, in microseconds.
const DURATION_BOUNDS_US: &[u64] = &[
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
/// Upper bounds of the buckets for counts.
const COUNT_BOUNDS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// What a histogram counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scale {
    /// Microseconds, shown as seconds.
    Duration,
    /// Things, shown as they are.
    Count,
}

impl Scale {
    fn bounds(self) -> &'static [u64] {
        match self {
            Self::Duration => DURATION_BOUNDS_US,
            Self::Count => COUNT_BOUNDS,
        }
    }

    fn shown(self, value: u64) -> f64 {
        match self {
            Self::Duration => value as f64 / 1e6,
            Self::Count => value as f64,
        }
    }
}

/// Values counted by size. Recording is two relaxed additions; readers may see a value in a bucket before it is in the
/// sum.
#[derive(Debug)]
pub struct Histogram {
    scale: Scale,
    /// One for each bound, and the last for what is above them all.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// Counts durations between 50 µs and a minute.
    pub fn durations() -> Self {
        Self::new(Scale::Duration)
    }

    /// Counts sizes of batches, from 1 to 1024.
    pub fn counts() -> Self {
        Self::new(Scale::Count)
    }

    fn new(scale: Scale) -> Self {
        let buckets = (0..=scale.bounds().len()).map(|_| AtomicU64::new(0)).collect();
        Self { scale, buckets, sum: AtomicU64::new(0) }
    }

    /// Counts a value: microseconds for durations.
    pub fn record(&self, value: u64) {
        let bucket = self.scale.bounds().partition_point(|bound| *bound < value);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> Reading {
        let bounds = self.scale.bounds().iter().map(|bound| self.scale.shown(*bound)).chain([f64::INFINITY]);
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        Reading { buckets: bounds.zip(counts).collect(), sum: self.scale.shown(self.sum.load(Ordering::Relaxed)) }
    }
}

/// What a histogram has counted.
#[derive(Clone, PartialEq, Debug)]
pub struct Reading {
    /// Upper bound (inclusive) of each bucket, ascending, and how many values are in it alone; the last bound is
    /// infinite. Durations are in seconds.
    pub buckets: Vec<(f64, u64)>,
    /// Sum of the values; durations in seconds.
    pub sum: f64,
}

impl Reading {
    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_where_they_belong() {
        let histogram = Histogram::durations();
        for micros in [0, 50, 51, 1_000, 60_000_000, 60_000_001] {
            histogram.record(micros);
        }
        let reading = histogram.read();
        let filled: Vec<(f64, u64)> = reading.buckets.iter().copied().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(5e-5, 2), (1e-4, 1), (1e-3, 1), (60.0, 1), (f64::INFINITY, 1)]);
        assert_eq!(reading.count(), 6);
        assert!((reading.sum - 120.001_102).abs() < 1e-9, "{}", reading.sum);
    }

    #[test]
    fn counts_are_shown_as_they_are() {
        let histogram = Histogram::counts();
        histogram.record(3);
        histogram.record(4);
        let reading = histogram.read();
        assert_eq!(reading.buckets[2], (4.0, 2));
        assert_eq!(reading.sum, 7.0);
    }
}
