use super::super::probes::probe_ceiling;
use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const CEILING: Duration = Duration::from_secs(30);

fn open(hard: Hard) -> Breaker {
    let mut breaker = Breaker::new();
    for failure in 1..=5 {
        let transition = breaker.on_failure(S, hard, false, 0.5);
        assert_eq!(transition.is_some(), failure == 5);
    }
    breaker
}

#[test]
fn five_failures_in_a_row_open_it() {
    for (hard, reason) in [(Hard::Dial, OpenReason::Dial), (Hard::Broken, OpenReason::Consecutive)] {
        let mut breaker = Breaker::new();
        for _ in 0..20 {
            for _ in 0..4 {
                assert_eq!(breaker.on_failure(S, hard, true, 0.5), None);
            }
            breaker.on_success(S);
        }
        let mut breaker = Breaker::new();
        let transitions: Vec<_> = (0..5).map(|_| breaker.on_failure(S, hard, false, 0.5)).collect();
        let last = transitions[4];
        let expected = Transition { from: BreakerState::Closed, to: BreakerState::Open, reason: Some(reason) };
        assert_eq!(last, Some(expected));
        assert_eq!((breaker.state(), breaker.opened()), (BreakerState::Open, 1));
    }
}

#[test]
fn half_of_twenty_within_ten_seconds_open_it() {
    let run = |good: u32, bad: u32, last_closed: bool| {
        let mut breaker = Breaker::new();
        let mut opened = None;
        for _ in 0..good {
            breaker.on_success(5 * S);
        }
        for failure in 0..bad {
            // Spread over seconds, and never five in a row.
            opened = opened.or(breaker.on_failure(5 * S + failure * 500 * MS, Hard::Broken, last_closed, 0.5));
            breaker.consecutive = 0;
        }
        opened.and_then(|transition| transition.reason)
    };
    assert_eq!(run(10, 10, false), Some(OpenReason::Rate));
    assert_eq!(run(10, 9, false), None, "19 requests say nothing");
    assert_eq!(run(11, 10, false), None, "less than half");
    assert_eq!(run(10, 10, true), None, "the last closed one stays");
}

#[test]
fn what_is_older_than_ten_seconds_does_not_count() {
    let mut breaker = Breaker::new();
    for _ in 0..19 {
        breaker.window.count(S / 2, false);
    }
    assert!(!breaker.window.is_failing(5 * S));
    breaker.window.count(9 * S, false);
    assert!(breaker.window.is_failing(9 * S + 999 * MS));
    assert!(!breaker.window.is_failing(10 * S), "the first second has left the window");
    breaker.window.count(10 * S, true);
    assert_eq!(breaker.window.buckets[0].bad, 0);
}

#[test]
fn the_last_closed_one_opens_for_dials_and_silence_only() {
    let mut breaker = Breaker::new();
    for _ in 0..100 {
        assert_eq!(breaker.on_failure(S, Hard::Broken, true, 0.5), None);
    }
    assert!(breaker.on_failure(S, Hard::Dial, true, 0.5).is_some());
    let mut breaker = Breaker::new();
    let silence = breaker.on_silence(S, 0.5).and_then(|transition| transition.reason);
    assert_eq!(silence, Some(OpenReason::Silence));
}

#[test]
fn pauses_double_up_to_the_ceiling_and_are_spread() {
    let mut breaker = open(Hard::Dial);
    let mut pauses = Vec::new();
    let mut now = S;
    for _ in 0..10 {
        let at = breaker.probe_at(CEILING).expect("open");
        pauses.push((at - now).as_millis());
        assert!(!breaker.begin_probe(at - MS, CEILING));
        assert!(breaker.begin_probe(at, CEILING));
        assert!(!breaker.begin_probe(at, CEILING), "one at a time");
        assert_eq!(breaker.probe_at(CEILING), None);
        assert_eq!(breaker.on_probe(false, at, 0.5), None);
        now = at;
    }
    assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
    let spread = |unit| {
        let mut breaker = Breaker::new();
        breaker.on_silence(S, unit);
        (breaker.probe_at(CEILING).expect("open") - S).as_millis()
    };
    assert_eq!((spread(0.0), spread(1.0)), (200, 300));
    // A lower ceiling counts at once: somebody waits now.
    assert_eq!(breaker.probe_at(S), Some(now + S));
}

#[test]
fn a_low_ceiling_stops_the_doubling() {
    let mut breaker = open(Hard::Dial);
    let mut now = S;
    for _ in 0..30 {
        now = breaker.probe_at(S).expect("open");
        assert!(breaker.begin_probe(now, S));
        breaker.on_probe(false, now, 0.5);
    }
    assert_eq!(breaker.probe_at(CEILING), Some(now + S), "found soon after nobody waits any more");
}

#[test]
fn only_a_good_probe_closes_it() {
    let mut breaker = open(Hard::Dial);
    for _ in 0..100 {
        breaker.on_success(2 * S);
    }
    assert_eq!(breaker.on_probe(true, 2 * S, 0.5), None, "nobody probed");
    assert_eq!(breaker.state(), BreakerState::Open);
    assert!(breaker.begin_probe(2 * S, CEILING));
    breaker.abandon_probe();
    assert_eq!(breaker.on_probe(true, 2 * S, 0.5), None, "an abandoned probe has no result");
    assert!(breaker.begin_probe(2 * S, CEILING), "nothing is stuck after an abandoned probe");
    let closed = breaker.on_probe(true, 3 * S, 0.5).expect("closed");
    assert_eq!((closed.from, closed.to), (BreakerState::Probing, BreakerState::Closed));
    assert!(breaker.is_closed());
    assert_eq!((breaker.opened(), breaker.closed()), (1, 1));
    // What was before does not count any more.
    assert_eq!(breaker.on_failure(3 * S, Hard::Dial, false, 0.5), None);
}

#[test]
fn a_relapse_is_probed_as_rarely_as_before() {
    let mut breaker = open(Hard::Dial);
    let mut pause_after = |healthy: Duration| {
        let at = breaker.probe_at(CEILING).expect("open");
        assert!(breaker.begin_probe(at, CEILING));
        breaker.on_probe(true, at, 0.5).expect("closed");
        breaker.on_silence(at + healthy, 0.5).expect("open again");
        breaker.probe_at(CEILING).expect("open") - (at + healthy)
    };
    assert_eq!(pause_after(S), 500 * MS);
    assert_eq!(pause_after(S), S);
    assert_eq!(pause_after(11 * S), 250 * MS);
}

#[test]
fn a_late_answer_to_a_probe_closes_too() {
    for again in [false, true] {
        let mut breaker = open(Hard::Dial);
        assert!(breaker.begin_probe(2 * S, CEILING));
        assert_eq!(breaker.on_probe(false, 3 * S, 0.5), None);
        assert!(!again || breaker.begin_probe(4 * S, CEILING));
        let from = breaker.state();
        let closed = breaker.on_late_probe(5 * S).expect("closed");
        assert_eq!((closed.from, closed.to), (from, BreakerState::Closed));
        assert_eq!(breaker.on_late_probe(5 * S), None);
        assert_eq!(breaker.on_probe(false, 5 * S, 0.5), None, "the one under way does not matter any more");
        assert!(breaker.is_closed());
    }
}

#[test]
fn relapses_are_counted_while_they_follow_each_other() {
    let mut breaker = Breaker::new();
    let mut relapses = |at: Duration| {
        let before = breaker.relapses(at);
        breaker.on_silence(at, 0.5).expect("open");
        assert!(breaker.begin_probe(at + 9 * S, CEILING));
        breaker.on_probe(true, at + 9 * S, 0.5).expect("closed");
        (before, breaker.relapses(at + 9 * S))
    };
    assert_eq!(relapses(S), (0, 1));
    assert_eq!(relapses(11 * S), (1, 2));
    assert_eq!(relapses(21 * S), (2, 3));
    assert_eq!(relapses(100 * S), (0, 1), "long ago");
}

#[test]
fn a_draining_node_is_neither_closed_nor_lost() {
    let mut breaker = Breaker::new();
    assert!(breaker.on_draining(true).is_some());
    assert_eq!((breaker.state(), breaker.is_closed()), (BreakerState::Draining, false));
    assert!(breaker.on_draining(true).is_none());
    assert!(breaker.on_draining(false).is_some());
    assert!(breaker.is_closed());
    // It stops, comes back, and says nothing of draining.
    breaker.on_draining(true);
    assert!(breaker.on_silence(S, 0.5).is_some());
    assert!(breaker.begin_probe(2 * S, CEILING));
    assert_eq!(breaker.on_probe(true, 2 * S, 0.5).map(|transition| transition.to), Some(BreakerState::Closed));
    // One that drains while it is probed is not closed by that.
    breaker.on_silence(20 * S, 0.5);
    assert!(breaker.begin_probe(30 * S, CEILING));
    assert!(breaker.on_draining(true).is_none());
    assert_eq!(breaker.on_probe(true, 30 * S, 0.5).map(|transition| transition.to), Some(BreakerState::Draining));
}

/// A node is dead for five minutes; every client of a big fleet saw it die in the same half second.
#[test]
fn a_fleet_probes_a_dead_node_gently() {
    // Known to metadata, and not.
    for clients in [3000, 0] {
        let mut rng = fastrand::Rng::with_seed(11);
        let mut by_second = vec![0u32; 301];
        for _ in 0..3000 {
            let mut breaker = Breaker::new();
            let mut now = MS * rng.u32(0..500);
            breaker.on_silence(now, rng.f64());
            let ceiling = probe_ceiling(false, clients);
            while let Some(at) = breaker.probe_at(ceiling).filter(|at| *at < 300 * S) {
                by_second[at.as_secs() as usize] += 1;
                assert!(breaker.begin_probe(at, ceiling));
                now = at + 250 * MS;
                breaker.on_probe(false, now, rng.f64());
            }
        }
        let later = &by_second[60..300];
        let (worst, mean) = (later.iter().max().expect("some"), later.iter().sum::<u32>() / 240);
        println!("{clients} clients known: after 60 s at most {worst} probes in a second, {mean} on average");
        assert!(*worst <= 150 && mean <= 105, "{worst} {mean}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Input {
    Success,
    Failure(Hard, bool),
    Silence,
    Begin,
    Probe(bool),
    Late,
    Abandon,
    Draining(bool),
    Wait(u64),
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        3 => Just(Input::Success),
        6 => (prop_oneof![Just(Hard::Dial), Just(Hard::Broken)], any::<bool>()).prop_map(|(h, l)| Input::Failure(h, l)),
        1 => Just(Input::Silence),
        3 => Just(Input::Begin),
        3 => any::<bool>().prop_map(Input::Probe),
        1 => Just(Input::Late),
        1 => Just(Input::Abandon),
        1 => any::<bool>().prop_map(Input::Draining),
        3 => (0u64..40_000).prop_map(Input::Wait),
    ]
}

proptest! {
    /// It leaves `Open` and `Probing` towards `Closed` by a good probe only; reported transitions are the real ones.
    #[test]
    fn nothing_but_a_good_probe_closes(inputs in prop::collection::vec(input(), 0..200), unit in 0.0f64..=1.0) {
        let mut breaker = Breaker::new();
        let mut now = Duration::ZERO;
        for input in inputs {
            let before = breaker.state();
            let transition = match input {
                Input::Success => { breaker.on_success(now); None }
                Input::Failure(hard, last) => breaker.on_failure(now, hard, last, unit),
                Input::Silence => breaker.on_silence(now, unit),
                Input::Begin => { breaker.begin_probe(now, CEILING); None }
                Input::Probe(ok) => breaker.on_probe(ok, now, unit),
                Input::Late => breaker.on_late_probe(now),
                Input::Abandon => { breaker.abandon_probe(); None }
                Input::Draining(draining) => breaker.on_draining(draining),
                Input::Wait(ms) => { now += Duration::from_millis(ms); None }
            };
            let after = breaker.state();
            if let Some(transition) = transition {
                prop_assert_eq!((transition.from, transition.to), (before, after));
                prop_assert_eq!(transition.reason.is_some(), after == BreakerState::Open);
            }
            let was_open = matches!(before, BreakerState::Open | BreakerState::Probing);
            let is_open = matches!(after, BreakerState::Open | BreakerState::Probing);
            if was_open && !is_open {
                let probed = matches!(input, Input::Probe(true)) && before == BreakerState::Probing;
                prop_assert!(probed || matches!(input, Input::Late));
            }
            prop_assert_eq!(breaker.opened() - breaker.closed(), u64::from(is_open));
            prop_assert_eq!(breaker.probe_at(CEILING).is_some(), after == BreakerState::Open);
        }
    }
}

mod silence {
    use super::*;

    #[test]
    fn three_requests_and_a_while_without_a_byte() {
        let mut silence = Silence::default();
        silence.on_heard(S);
        silence.on_sent(5 * S);
        silence.on_sent(5 * S);
        assert!(!silence.is_suspicious(9 * S, None), "two are too few");
        silence.on_sent(5 * S + 100 * MS);
        assert!(!silence.is_suspicious(5 * S + 299 * MS, None));
        assert!(silence.is_suspicious(5 * S + 300 * MS, None));
        assert!(!silence.is_suspicious(5 * S + 300 * MS, Some(50 * MS)), "a node that takes 50 ms gets 400");
        assert!(silence.is_suspicious(5 * S + 400 * MS, Some(50 * MS)));
        silence.on_heard(5 * S + 401 * MS);
        assert!(!silence.is_suspicious(9 * S, None));
    }

    #[test]
    fn a_quiet_node_is_not_silent() {
        let mut silence = Silence::default();
        assert!(!silence.is_suspicious(100 * S, None));
        for _ in 0..3 {
            silence.on_sent(S);
        }
        silence.on_heard(S + MS);
        for _ in 0..3 {
            silence.on_sent(100 * S);
        }
        assert!(!silence.is_suspicious(100 * S, None), "long without a byte, but just asked");
    }

    #[test]
    fn news_told_late_excuses_only_what_was_sent_before() {
        let mut silence = Silence::default();
        for ms in 0..10 {
            silence.on_sent(ms * 100 * MS);
        }
        // Only now it is told that bytes came at 650 ms: the requests at 700, 800 and 900 ms are unanswered.
        silence.on_heard(650 * MS);
        assert!(!silence.is_suspicious(999 * MS, None));
        assert!(silence.is_suspicious(1000 * MS, None));
        silence.on_heard(600 * MS);
        assert!(silence.is_suspicious(1000 * MS, None), "older news change nothing");
        silence.on_heard(850 * MS);
        assert!(!silence.is_suspicious(5000 * MS, None), "one unanswered request is too few");
    }

    proptest! {
        /// A node that answers everything within the limit is never suspected.
        #[test]
        fn who_answers_is_not_silent(gaps in prop::collection::vec((0u64..500, 0u64..290), 1..100)) {
            let mut silence = Silence::default();
            let mut now = Duration::ZERO;
            for (gap, latency) in gaps {
                now += Duration::from_millis(gap);
                silence.on_sent(now);
                now += Duration::from_millis(latency);
                prop_assert!(!silence.is_suspicious(now, None));
                silence.on_heard(now);
                prop_assert!(!silence.is_suspicious(now + 100 * S, None));
            }
        }
    }
}
