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
    assert_eq!([0, 1, 1000, 3000].map(|clients| probe_ceiling(true, clients).as_secs()), [1, 1, 1, 3]);
    assert!(probe_ceiling(false, u64::MAX) >= probe_ceiling(true, u64::MAX));
}

#[test]
fn a_ping_gets_four_times_the_usual() {
    assert_eq!(ping_limit(None), Duration::from_millis(200));
    assert_eq!(ping_limit(Some(Duration::from_millis(1))), Duration::from_millis(200));
    assert_eq!(ping_limit(Some(S)), 4 * S);
}
