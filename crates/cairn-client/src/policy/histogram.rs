//! Durations counted in buckets: all of them (for metrics), or those of the last seconds (for decisions).

use parking_lot::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Each doubling of the value is cut into this many equal buckets (as a power of two): 1/32 = 3.1 % wide.
const SUB_BITS: u32 = 5;
/// Values below 2^10 ns = 1.02 us share the first bucket.
const LOW_BITS: u32 = 10;
/// Values from 2^36 ns = 68.7 s on share the last bucket.
const HIGH_BITS: u32 = 36;
/// Buckets of the range, one below it, one above.
const BUCKETS: usize = ((HIGH_BITS - LOW_BITS) as usize) * (1 << SUB_BITS) + 2;

/// A count of durations from 1 us to 68 s, in buckets at most 3.2 % wide (log-linear, as HdrHistogram).
///
/// Recording is one atomic addition and never waits. What is read while others record may miss the newest values.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: Box<[AtomicU64]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

fn bucket_of(value: Duration) -> usize {
    let ns = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
    if ns < 1 << LOW_BITS {
        return 0;
    }
    let exponent = 63 - ns.leading_zeros();
    if exponent >= HIGH_BITS {
        return BUCKETS - 1;
    }
    let within = (ns >> (exponent - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    1 + ((exponent - LOW_BITS) as usize) * (1 << SUB_BITS) + within as usize
}

/// The middle of a bucket, so that no value is misreported by more than half a bucket.
fn middle_of(bucket: usize) -> Duration {
    if bucket == 0 {
        return Duration::from_nanos(1 << (LOW_BITS - 1));
    }
    if bucket == BUCKETS - 1 {
        return Duration::from_nanos(1 << HIGH_BITS);
    }
    let exponent = LOW_BITS + ((bucket - 1) >> SUB_BITS) as u32;
    let within = ((bucket - 1) & ((1 << SUB_BITS) - 1)) as u64;
    let width = 1u64 << (exponent - SUB_BITS);
    Duration::from_nanos((1u64 << exponent) + within * width + width / 2)
}

/// The value below which the share `q` (0 to 1) of `total` values lies, given the count of each bucket.
fn quantile_of(counts: impl Iterator<Item = u64>, total: u64, q: f64) -> Option<Duration> {
    if total == 0 {
        return None;
    }
    let rank = ((q.clamp(0.0, 1.0) * total as f64).ceil() as u64).clamp(1, total);
    let mut below = 0;
    for (bucket, count) in counts.enumerate() {
        below += count;
        if below >= rank {
            return Some(middle_of(bucket));
        }
    }
    Some(middle_of(BUCKETS - 1))
}

impl Histogram {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Counts one value.
    pub(crate) fn record(&self, value: Duration) {
        self.buckets[bucket_of(value)].fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed))
    }

    /// How many values were counted.
    pub(crate) fn count(&self) -> u64 {
        self.counts().sum()
    }

    /// The value at share `q` (0.99 = 99 % are at most this), within 1.6 %; `None` while empty.
    pub(crate) fn quantile(&self, q: f64) -> Option<Duration> {
        let counts: Vec<u64> = self.counts().collect();
        let total = counts.iter().sum();
        quantile_of(counts.into_iter(), total, q)
    }

    /// The sum of all values, within 1.6 %: taken from the buckets, so that recording stays one addition.
    pub(crate) fn sum(&self) -> Duration {
        let ns: f64 = self.counts().enumerate().map(|(at, count)| count as f64 * middle_of(at).as_nanos() as f64).sum();
        Duration::from_secs_f64((ns / 1e9).min(u64::MAX as f64 / 2.0))
    }

    /// For each of the ascending `bounds`, how many values are at most that (Prometheus' `le`), to a bucket's width.
    pub(crate) fn cumulative(&self, bounds: &[Duration]) -> Vec<u64> {
        let mut out = vec![0; bounds.len()];
        for (bucket, count) in self.counts().enumerate().filter(|(_, count)| *count > 0) {
            let middle = middle_of(bucket);
            let first = bounds.partition_point(|bound| *bound < middle);
            for below in &mut out[first..] {
                *below += count;
            }
        }
        out
    }

    fn clear(&self) {
        for bucket in &self.buckets {
            bucket.store(0, Ordering::Relaxed);
        }
    }
}

/// Each half of a [`Recent`] covers this long, so it tells of the last 5 to 10 s.
const HALF: Duration = Duration::from_secs(5);
/// With fewer values than this, a quantile is no basis for a decision.
const SAMPLES_MIN: u64 = 20;
/// A quantile is computed anew after this long ...
const CACHE_MAX: Duration = Duration::from_millis(20);
/// ... or when, early on, this many values came since.
const CACHE_SAMPLES: u64 = 16;
/// From this many values on, a few more change little and time alone ends the cached result.
const CACHE_MANY: u64 = 256;
/// Different quantiles kept at the same time; further ones are computed each time.
const CACHED_MAX: usize = 4;

/// The durations of the last seconds. Times are durations since an origin that all callers share.
///
/// Takes 14 kB once something was recorded, next to nothing before: a client has several for each node.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    halves: [OnceLock<Histogram>; 2],
    counts: [AtomicU64; 2],
    /// Which half-window is being filled: time / [`HALF`].
    slot: AtomicU64,
    turning: Mutex<()>,
    cached: Mutex<Vec<Cached>>,
}

#[derive(Clone, Copy, Debug)]
struct Cached {
    q: f64,
    value: Option<Duration>,
    at: Duration,
    count: u64,
}

impl Recent {
    /// Empties halves whose time is over. A value recorded by another thread at the very moment may be lost.
    fn turn(&self, now: Duration) {
        let wanted = (now.as_nanos() / HALF.as_nanos()) as u64;
        if wanted <= self.slot.load(Ordering::Acquire) {
            return;
        }
        let _turning = self.turning.lock();
        let slot = self.slot.load(Ordering::Acquire);
        if wanted <= slot {
            return;
        }
        for stale in (slot + 1..=wanted).rev().take(2) {
            let half = (stale % 2) as usize;
            if let Some(histogram) = self.halves[half].get() {
                histogram.clear();
            }
            self.counts[half].store(0, Ordering::Relaxed);
        }
        self.slot.store(wanted, Ordering::Release);
    }

    /// Counts one value.
    pub(crate) fn record(&self, value: Duration, now: Duration) {
        self.turn(now);
        let half = (self.slot.load(Ordering::Acquire) % 2) as usize;
        self.halves[half].get_or_init(Histogram::new).record(value);
        self.counts[half].fetch_add(1, Ordering::Relaxed);
    }

    /// How many values the last 5 to 10 s brought.
    pub(crate) fn count(&self, now: Duration) -> u64 {
        self.turn(now);
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The value at share `q` of the last 5 to 10 s; `None` with fewer than [`SAMPLES_MIN`] values. Cheap to ask often:
    /// the result may be up to [`CACHE_MAX`] old.
    pub(crate) fn quantile(&self, q: f64, now: Duration) -> Option<Duration> {
        let count = self.count(now);
        let mut cached = self.cached.lock();
        let known = cached.iter().position(|entry| entry.q == q);
        if let Some(entry) = known.map(|index| cached[index])
            && now.saturating_sub(entry.at) < CACHE_MAX
            && count >= entry.count
            && (count >= CACHE_MANY || count - entry.count < CACHE_SAMPLES)
        {
            return entry.value;
        }
        let value = if count < SAMPLES_MIN { None } else { self.compute(q) };
        let entry = Cached { q, value, at: now, count };
        match known {
            Some(index) => cached[index] = entry,
            None if cached.len() < CACHED_MAX => cached.push(entry),
            None => {}
        }
        value
    }

    fn compute(&self, q: f64) -> Option<Duration> {
        let mut counts = vec![0; BUCKETS];
        for half in self.halves.iter().filter_map(OnceLock::get) {
            counts.iter_mut().zip(half.counts()).for_each(|(sum, count)| *sum += count);
        }
        let total = counts.iter().sum();
        quantile_of(counts.into_iter(), total, q)
    }
}

#[cfg(test)]
mod tests;
