use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

#[test]
fn slow_answers_count_at_once_and_fade() {
    let mut load = Load::default();
    load.on_success(MS, Duration::ZERO);
    load.on_success(100 * MS, Duration::ZERO);
    assert_eq!(load.latency(Duration::ZERO), 100 * MS);
    // Answers of 1 ms every 100 ms: after the time constant of 2 s a third is left.
    for step in 1..=20 {
        load.on_success(MS, step * 100 * MS);
    }
    let left = load.latency(2 * S);
    assert!(left > 20 * MS && left < 40 * MS, "{left:?}");
}

#[test]
fn a_silent_replica_is_left_alone_and_later_tried_again() {
    let (mut frozen, mut well) = (Load::default(), Load::default());
    frozen.on_success(MS, Duration::ZERO);
    frozen.on_censored(50 * MS, Duration::ZERO);
    let worse = |well: &Load, now| frozen.score(Duration::ZERO, 0, now) > well.score(Duration::ZERO, 0, now);
    for second in 1..=10 {
        well.on_success(MS, second * S);
        assert!(worse(&well, second * S), "{second}");
    }
    well.on_success(MS, 15 * S);
    assert!(!worse(&well, 15 * S));
}

#[test]
fn what_was_given_up_can_only_raise() {
    let mut load = Load::default();
    load.on_success(20 * MS, S);
    load.on_censored(5 * MS, S);
    assert_eq!(load.latency(S), 20 * MS);
    load.on_censored(25 * MS, S);
    assert_eq!(load.latency(S), 25 * MS);
}

#[test]
fn a_fast_failure_does_not_look_fast() {
    let mut load = Load::default();
    load.on_success(MS, S);
    load.on_error(S);
    assert_eq!(load.latency(S), ERROR_MIN);
    load.on_error(S);
    assert_eq!(load.latency(S), 5 * S);
    for _ in 0..50 {
        load.on_error(S);
    }
    assert_eq!(load.latency(S), ERROR_MAX);
    assert!(load.latency(60 * S) < MS, "and it is forgotten");
}

#[test]
fn an_overloaded_node_is_as_slow_as_it_says() {
    let mut load = Load::default();
    load.on_success(MS, S);
    load.on_overloaded(Duration::ZERO, S);
    assert_eq!(load.latency(S), 2 * MS);
    load.on_overloaded(200 * MS, S);
    assert_eq!(load.latency(S), 200 * MS);
    load.on_overloaded(Duration::MAX, S);
    assert_eq!(load.latency(S), ERROR_MAX);
}

#[test]
fn a_silent_node_scores_by_its_oldest_request() {
    let mut load = Load::default();
    load.on_success(MS, Duration::ZERO);
    assert!(load.score(500 * MS, 1, Duration::ZERO) >= S);
    assert!(load.score(Duration::MAX, usize::MAX, Duration::ZERO) >= load.score(S, 1, Duration::ZERO));
}

#[test]
fn a_recovered_node_starts_slowly() {
    let mut load = Load::default();
    load.on_error(S);
    load.on_recovered(3 * MS, 2 * S);
    let score = |after: Duration| load.clone().score(3 * MS, 0, 2 * S + after).as_secs_f64() * 1e3;
    assert!((score(Duration::ZERO) - 30.0).abs() < 0.1);
    assert!((score(2500 * MS) - 3.0 / 0.55).abs() < 0.1);
    assert!((score(5 * S) - 3.0).abs() < 0.01 && (score(50 * S) - 3.0).abs() < 0.01);
}

fn choice(replica: u32, rank: u8, open: bool, score_ms: u32) -> Choice<u32> {
    Choice { replica, rank, open, score: score_ms * MS }
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
fn open_and_unsure_ones_come_last() {
    let choices = vec![choice(1, 0, true, 1), choice(2, 2, false, 1), choice(3, 0, false, 9), choice(4, 1, false, 1)];
    assert_eq!(order(choices, |_| 0), [3, 4, 2, 1]);
    assert_eq!(order(Vec::<Choice<u32>>::new(), |_| 0), [0; 0]);
}

proptest! {
    #[test]
    fn an_order_is_a_permutation(
        given in prop::collection::vec((0u8..3, any::<bool>(), 0u32..20), 0..8), seed: u64,
    ) {
        let choices: Vec<_> =
            given.iter().enumerate().map(|(n, (rank, open, ms))| choice(n as u32, *rank, *open, *ms)).collect();
        let mut rng = fastrand::Rng::with_seed(seed);
        let order = order(choices.clone(), |n| rng.usize(..n));
        let class = |n: &u32| (choices[*n as usize].open, choices[*n as usize].rank);
        prop_assert!(order.is_sorted_by_key(class));
        let best: Vec<_> = order.iter().filter(|n| class(n) == class(&order[0])).collect();
        prop_assert!(best.len() < 2 || best[1..].iter().any(|n| choices[**n as usize].score >= choices[*best[0] as usize].score));
        let mut sorted = order.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (0..given.len() as u32).collect::<Vec<_>>());
    }

    /// Whatever happens, what is known stays between nothing and the worst that was seen.
    #[test]
    fn latency_is_bounded_by_what_happened(events in prop::collection::vec((0u8..4, 0u64..40_000, 0u64..3000), 1..60)) {
        let mut load = Load::default();
        let (mut now, mut worst) = (Duration::ZERO, Duration::ZERO);
        for (kind, value, gap) in events {
            now += Duration::from_millis(gap);
            let value = Duration::from_millis(value);
            match kind {
                0 => load.on_success(value, now),
                1 => load.on_censored(value, now),
                2 => load.on_error(now),
                _ => load.on_overloaded(value, now),
            }
            worst = worst.max(if kind < 2 { value } else { ERROR_MAX });
            prop_assert!(load.latency(now) <= worst);
            prop_assert!(kind != 0 || load.latency(now) >= value.min(worst) - Duration::from_nanos(1).min(value));
            prop_assert!(load.latency(now + S) <= load.latency(now));
        }
    }
}
