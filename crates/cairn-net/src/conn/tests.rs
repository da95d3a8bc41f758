use super::send::deadline_ms;
use super::{ConnView, Upkeep, idle_timeout, upkeep};
use crate::seam::now;
use std::time::Duration;

const IDLE: Duration = Duration::from_secs(60);
const STALL: Duration = Duration::from_secs(30);

fn view(idle_secs: Option<u64>, age_secs: u64, silent_secs: u64, suspect: bool) -> ConnView {
    ConnView {
        idle_for: idle_secs.map(Duration::from_secs),
        age: Duration::from_secs(age_secs),
        max_age: Duration::from_secs(600),
        idle_timeout: IDLE,
        silent_for: Duration::from_secs(silent_secs),
        suspect,
    }
}

#[test]
fn upkeep_decides() {
    let cases = [
        (view(Some(59), 100, 59, false), true, Upkeep::Keep),
        (view(Some(60), 100, 60, false), true, Upkeep::CloseIdle),
        (view(Some(60), 100, 60, false), false, Upkeep::Keep),
        (view(Some(0), 600, 0, false), false, Upkeep::Retire),
        (view(None, 600, 0, false), true, Upkeep::Retire),
        (view(None, 100, 29, false), true, Upkeep::Keep),
        (view(None, 100, 30, false), true, Upkeep::Suspect),
        (view(None, 100, 30, true), true, Upkeep::Keep),
        (view(Some(59), 100, 500, false), true, Upkeep::Keep),
    ];
    for (view, spare, expected) in cases {
        assert_eq!(upkeep(view, STALL, spare), expected, "{view:?}, spare {spare}");
    }
}

#[test]
fn the_client_closes_first() {
    for (peers, expected) in [(None, 60), (Some(180), 60), (Some(90), 60), (Some(60), 40), (Some(3), 2)] {
        assert_eq!(idle_timeout(IDLE, peers.map(Duration::from_secs)), Duration::from_secs(expected));
    }
}

#[test]
fn a_deadline_travels_rounded_up_and_never_as_none() {
    let now = now();
    for (left_us, expected) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (30_000_000, 30_000)] {
        assert_eq!(deadline_ms(now + Duration::from_micros(left_us), now), expected);
    }
    assert_eq!(deadline_ms(now, now + Duration::from_secs(1)), 1);
    assert_eq!(deadline_ms(now + Duration::from_secs(10_000_000), now), u32::MAX);
}
