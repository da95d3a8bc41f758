use super::*;

const S: Duration = Duration::from_secs(1);

#[test]
fn idle_nodes_are_pinged_rarely() {
    assert_eq!(idle_ping_due(10 * S, 0.0), Duration::from_millis(12_500));
    assert_eq!(idle_ping_due(10 * S, 0.5), 15 * S);
    assert_eq!(idle_ping_due(10 * S, 1.0), Duration::from_millis(17_500));
}

#[test]
fn the_fleet_shares_the_probes() {
    assert_eq!([0, 1, 250, 1000, 3000].map(|clients| probe_ceiling(false, clients).as_secs()), [30, 5, 5, 20, 60]);
    assert_eq!([0, 1, 1000, 3000].map(|clients| probe_ceiling(true, clients).as_millis()), [500, 500, 1000, 3000]);
    assert!(probe_ceiling(false, u64::MAX) >= probe_ceiling(true, u64::MAX));
}

#[test]
fn a_ping_gets_four_times_the_usual_and_more_after_a_relapse() {
    let ms = Duration::from_millis;
    assert_eq!((ping_limit(None), ping_limit(Some(100 * S))), (ms(200), 5 * S));
    assert_eq!(silence_limit(None, 0, false), ms(200));
    assert_eq!(silence_limit(Some(ms(1)), 0, false), ms(200));
    assert_eq!(silence_limit(Some(ms(300)), 0, false), ms(1200));
    assert_eq!(
        [1, 2, 3, 5, u32::MAX].map(|relapses| silence_limit(None, relapses, false).as_millis()),
        [400, 800, 1600, 5000, 5000]
    );
}

#[test]
fn the_last_closed_one_gets_four_times_as_long() {
    assert_eq!(silence_limit(None, 0, true), Duration::from_millis(800));
    assert_eq!(silence_limit(None, 1, true), Duration::from_millis(1600));
    assert_eq!(silence_limit(Some(S), 9, true), 5 * S);
}

#[test]
fn a_probe_gets_four_times_the_usual_before_the_next() {
    let ms = Duration::from_millis;
    assert_eq!([1, 100, 900].map(|srtt| probe_patience(Some(ms(srtt))).as_millis()), [250, 400, 1000]);
    assert_eq!(probe_patience(None), S);
}
