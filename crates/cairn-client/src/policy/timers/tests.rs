use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

#[test]
fn smoothing_is_that_of_rfc_6298() {
    let mut timer = Timer::default();
    assert_eq!((timer.srtt(), timer.soft(None, 0)), (None, SOFT_UNKNOWN));
    timer.on_sample(100 * MS, 1, S);
    assert_eq!((timer.srtt(), timer.rttvar()), (Some(100 * MS), 50 * MS));
    assert_eq!(timer.soft(None, 0), 300 * MS);
    timer.on_sample(200 * MS, 1, S);
    // RTTVAR = 3/4 * 50 + 1/4 * 100, SRTT = 7/8 * 100 + 1/8 * 200.
    assert_eq!((timer.srtt(), timer.rttvar()), (Some(Duration::from_micros(112_500)), Duration::from_micros(62_500)));
}

#[test]
fn the_soft_timer_doubles_until_an_answer() {
    let mut timer = Timer::default();
    timer.on_sample(20 * MS, 1, S);
    let usual = timer.soft(None, 1);
    assert_eq!(usual, 60 * MS);
    timer.on_expiry();
    assert_eq!(timer.soft(None, 1), 2 * usual);
    for _ in 0..100 {
        timer.on_expiry();
    }
    assert_eq!(timer.soft(None, 1), SOFT_MAX);
    timer.on_sample(20 * MS, 1, S);
    assert!(timer.soft(None, 1) <= usual);
}

#[test]
fn the_slowest_of_a_thousand_is_no_reason_to_worry() {
    let mut timer = Timer::default();
    timer.on_sample(MS, 1, S);
    assert_eq!(timer.soft(Some(100 * MS), 1), 300 * MS);
    assert_eq!(timer.soft(Some(MS), 1), SOFT_MIN);
    assert_eq!(timer.soft(Some(10 * S), 1), SOFT_MAX);
}

#[test]
fn bulk_gets_the_time_its_bytes_take() {
    let mut timer = Timer::default();
    assert_eq!(timer.bandwidth(), None);
    timer.on_sample(100 * MS, 64 * 1024, S);
    assert_eq!(timer.bandwidth(), None, "small answers measure no bandwidth");
    let before = timer.soft(None, 10_000_000);
    timer.on_sample(100 * MS, 1_000_000, S);
    assert_eq!(timer.bandwidth(), Some(10e6));
    // 1 MB at half of 10 MB/s.
    let after = timer.soft(None, 1_000_000);
    assert!(after >= 300 * MS && after <= before + 200 * MS, "{after:?}");
    // A sample after a long pause counts for nearly all, one right behind for an eighth.
    timer.on_sample(100 * MS, 2_000_000, 20 * S);
    assert!((timer.bandwidth().expect("known") - 20e6).abs() < 0.1e6);
    timer.on_sample(100 * MS, 1_000_000, 20 * S);
    assert!((timer.bandwidth().expect("known") - 18.75e6).abs() < 0.1e6);
}

#[test]
fn dials_get_four_times_the_usual_within_bounds() {
    assert_eq!(connect_limit(None), 5 * S);
    assert_eq!(connect_limit(Some(MS)), S);
    assert_eq!(connect_limit(Some(400 * MS)), 1600 * MS);
    assert_eq!(connect_limit(Some(20 * S)), 5 * S);
}

#[test]
fn hedges_wait_for_the_percentile_within_bounds() {
    let small = |p95| hedge_after(p95, Class::Small, 4096, None);
    assert_eq!(
        (small(Some(MS / 10)), small(Some(7 * MS)), small(Some(S)), small(None)),
        (MS, 7 * MS, 50 * MS, 50 * MS)
    );
    let bulk = |p95, bandwidth| hedge_after(p95, Class::Bulk, 1_000_000, bandwidth);
    assert_eq!(bulk(Some(7 * MS), None), 7 * MS);
    assert_eq!(bulk(Some(9 * S), Some(10e6)), 350 * MS);
    assert_eq!(bulk(None, None), 350 * MS);
    assert_eq!(bulk(None, Some(0.0)), 250 * MS + 5 * S, "no bandwidth is no eternity");
}

#[test]
fn stalls_are_long_against_the_usual_gap() {
    assert_eq!((stall_after(None), stall_after(Some(MS)), stall_after(Some(30 * MS))), (250 * MS, 50 * MS, 120 * MS));
}

#[test]
fn classes_meet_at_the_control_lane() {
    assert_eq!([0, 65_536, 65_537].map(Class::of), [Class::Small, Class::Small, Class::Bulk]);
}

proptest! {
    #[test]
    fn the_soft_timer_is_bounded_and_monotone(
        samples in prop::collection::vec((0u64..10_000_000, 0u64..8_000_000), 0..50),
        expiries in 0usize..10,
        p999 in prop::option::of(0u64..10_000_000),
        more in 0u64..5_000_000,
        len in 0u64..100_000_000,
    ) {
        let mut timer = Timer::default();
        for (index, (latency, len)) in samples.into_iter().enumerate() {
            timer.on_sample(Duration::from_micros(latency), len, index as u32 * MS);
        }
        (0..expiries).for_each(|_| timer.on_expiry());
        let p999 = p999.map(Duration::from_micros);
        let soft = timer.soft(p999, len);
        prop_assert!((SOFT_MIN..=SOFT_MAX).contains(&soft));
        prop_assert!(timer.soft(p999.map(|p999| p999 + Duration::from_micros(more)), len) >= soft);
        prop_assert!(timer.soft(p999, len + more) >= soft);
        timer.on_expiry();
        prop_assert!(timer.soft(p999, len) >= soft);
    }
}
