use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn close(ours: Duration, theirs: Duration) -> bool {
    ours.abs_diff(theirs).as_secs_f64() <= theirs.as_secs_f64() * 0.032 + 1e-9
}

#[test]
fn buckets_are_in_order_and_narrow() {
    for bucket in 1..BUCKETS - 1 {
        let middle = middle_of(bucket);
        assert_eq!(bucket_of(middle), bucket);
        assert!(middle > middle_of(bucket - 1));
        let width = middle_of(bucket + 1).abs_diff(middle).as_secs_f64();
        assert!(bucket == BUCKETS - 2 || width <= middle.as_secs_f64() * 0.032, "{bucket}: {width} of {middle:?}");
    }
    assert_eq!(bucket_of(Duration::ZERO), 0);
    assert_eq!(bucket_of(Duration::from_nanos(1023)), 0);
    assert_eq!(bucket_of(Duration::from_nanos(1024)), 1);
    assert_eq!(bucket_of(68 * S), BUCKETS - 2);
    assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1);
}

#[test]
fn an_empty_one_has_no_quantile() {
    let histogram = Histogram::new();
    assert_eq!((histogram.count(), histogram.quantile(0.5), histogram.sum()), (0, None, Duration::ZERO));
    assert_eq!(histogram.cumulative(&[MS, S]), [0, 0]);
}

#[test]
fn cumulative_counts_are_those_of_prometheus() {
    let histogram = Histogram::new();
    for ms in 1..=100 {
        histogram.record(ms * MS);
    }
    let counts = histogram.cumulative(&[MS / 2, 10 * MS + MS / 2, 50 * MS + MS / 2, S]);
    assert_eq!((counts[0], counts[3]), (0, 100));
    assert!((9..=11).contains(&counts[1]) && (48..=52).contains(&counts[2]), "{counts:?}");
    let sum = histogram.sum().as_secs_f64();
    assert!((sum - 5.05).abs() < 5.05 * 0.016, "{sum}");
}

proptest! {
    /// Against HdrHistogram with three significant digits.
    #[test]
    fn quantiles_agree_with_another_implementation(
        // From 1 us to 60 s, as many of each magnitude.
        values in prop::collection::vec((10u32..36, 0u64..1 << 36), 1..400),
        q in 0.0f64..=1.0,
    ) {
        let ours = Histogram::new();
        let mut theirs = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 1 << 37, 3).expect("valid bounds");
        for (bits, noise) in &values {
            let ns = ((1u64 << bits) + noise % (1 << bits)).min(60_000_000_000);
            ours.record(Duration::from_nanos(ns));
            theirs.record(ns).expect("within bounds");
        }
        prop_assert_eq!(ours.count(), values.len() as u64);
        let expected = Duration::from_nanos(theirs.value_at_quantile(q));
        let got = ours.quantile(q).expect("not empty");
        prop_assert!(close(got, expected), "{got:?} {expected:?}");
        let mean = ours.sum().as_secs_f64() / values.len() as f64;
        prop_assert!((mean - theirs.mean() / 1e9).abs() <= theirs.mean() / 1e9 * 0.02);
    }
}

#[test]
fn recent_forgets_within_ten_seconds() {
    let recent = Recent::default();
    for _ in 0..100 {
        recent.record(100 * MS, S);
    }
    assert!(close(recent.quantile(0.95, S).expect("enough"), 100 * MS));
    for _ in 0..100 {
        recent.record(MS, 6 * S);
    }
    assert_eq!(recent.count(6 * S), 200);
    assert!(close(recent.quantile(0.95, 6 * S).expect("enough"), 100 * MS));
    assert_eq!(recent.count(10 * S), 100, "the first five seconds are gone");
    assert!(close(recent.quantile(0.95, 10 * S).expect("enough"), MS));
    assert_eq!(recent.quantile(0.95, 15 * S), None);
    // A long time later nothing of before comes back, whichever half it is.
    for later in [100, 105] {
        assert_eq!(recent.count(later * S), 0);
    }
}

#[test]
fn few_values_are_no_basis() {
    let recent = Recent::default();
    for count in 0..SAMPLES_MIN {
        assert_eq!(recent.quantile(0.5, Duration::from_millis(count * 50)), None);
        recent.record(MS, Duration::from_millis(count * 50));
    }
    assert!(recent.quantile(0.5, 2 * S).is_some());
}

#[test]
fn a_result_is_kept_for_a_moment_only() {
    let recent = Recent::default();
    for _ in 0..CACHE_MANY {
        recent.record(MS, S);
    }
    assert!(close(recent.quantile(0.5, S).expect("enough"), MS));
    for _ in 0..10 * CACHE_MANY {
        recent.record(100 * MS, S);
    }
    assert!(close(recent.quantile(0.5, S + 19 * MS).expect("enough"), MS));
    assert!(close(recent.quantile(0.5, S + 20 * MS).expect("enough"), 100 * MS));
    assert!(close(recent.quantile(0.01, S + 20 * MS).expect("enough"), MS), "each quantile has its own");
}

#[test]
fn early_on_a_few_values_renew_it() {
    let recent = Recent::default();
    for _ in 0..SAMPLES_MIN {
        recent.record(MS, S);
    }
    assert!(close(recent.quantile(0.99, S).expect("enough"), MS));
    for _ in 0..CACHE_SAMPLES {
        recent.record(100 * MS, S);
    }
    assert!(close(recent.quantile(0.99, S).expect("enough"), 100 * MS));
}

#[test]
fn values_of_many_threads_are_all_counted() {
    let recent = Recent::default();
    let histogram = Histogram::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    recent.record(MS, S);
                    histogram.record(MS);
                }
            });
        }
    });
    assert_eq!((recent.count(S), histogram.count()), (4000, 4000));
}
