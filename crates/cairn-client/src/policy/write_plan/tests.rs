use super::*;
use cairn_proto::quorum::needed;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);
const STORES: [StoreId; 7] = [StoreId(1), StoreId(2), StoreId(3), StoreId(4), StoreId(5), StoreId(6), StoreId(7)];

fn patient(_: StoreId) -> bool {
    false
}

#[test]
fn all_commit_at_once() {
    let mut plan = WritePlan::new(3, &STORES[..3]);
    for store in &STORES[..3] {
        let expected = if store.0 == 3 { Step::Wait(Some(2 * MS)) } else { Step::Wait(None) };
        assert_eq!(plan.step(MS, patient), expected);
        assert_eq!(plan.on_ack(*store, MS), Ack::Counted);
    }
    assert_eq!(plan.step(MS, patient), Step::Commit);
}

#[test]
fn grace_is_as_long_as_the_majority_took() {
    let mut plan = WritePlan::new(3, &STORES[..3]);
    plan.on_ack(STORES[0], 5 * MS);
    plan.on_ack(STORES[1], 10 * MS);
    assert_eq!(plan.step(10 * MS, patient), Step::Wait(Some(20 * MS)));
    assert_eq!(plan.clone().step(20 * MS, patient), Step::Commit);
    assert_eq!(plan.step(10 * MS, |store| store == STORES[2]), Step::Commit, "no grace for a silent one");
}

#[test]
fn grace_has_a_ceiling() {
    let mut plan = WritePlan::new(3, &STORES[..3]);
    plan.on_ack(STORES[0], 900 * MS);
    plan.on_ack(STORES[1], 1000 * MS);
    assert_eq!(plan.step(1000 * MS, patient), Step::Wait(Some(1100 * MS)));
}

#[test]
fn one_laggard_worth_waiting_for_is_waited_for() {
    let mut plan = WritePlan::new(5, &STORES[..5]);
    STORES[..3].iter().for_each(|store| assert_eq!(plan.on_ack(*store, 10 * MS), Ack::Counted));
    assert_eq!(plan.step(10 * MS, |store| store == STORES[4]), Step::Wait(Some(20 * MS)));
    assert_eq!(plan.step(11 * MS, |store| store.0 >= 4), Step::Commit);
}

#[test]
fn silence_alone_never_completes_a_write() {
    let mut plan = WritePlan::new(3, &STORES[..3]);
    plan.on_failure(STORES[0]);
    plan.on_ack(STORES[1], MS);
    assert_eq!(plan.step(MS, |_| true), Step::Wait(None));
    plan.on_failure(STORES[2]);
    assert_eq!(plan.step(MS, patient), Step::GiveUp);
}

#[test]
fn answers_of_strangers_and_second_answers_do_not_count() {
    let mut plan = WritePlan::new(3, &STORES[..3]);
    assert_eq!(plan.on_ack(StoreId(9), MS), Ack::Ignored);
    assert_eq!(plan.on_ack(STORES[0], MS), Ack::Counted);
    assert_eq!(plan.on_ack(STORES[0], MS), Ack::Ignored);
    plan.on_failure(STORES[0]);
    assert_eq!(plan.tally().acked(), &STORES[..1]);
    assert_eq!(plan.step(MS, patient), Step::Wait(None));
}

#[test]
fn majorities_from_one_to_seven() {
    for (replicas, majority) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)] {
        let mut plan = WritePlan::new(replicas, &STORES[..replicas]);
        for (count, store) in STORES[..replicas].iter().enumerate() {
            let expected = if count >= majority { Step::Commit } else { Step::Wait(None) };
            assert_eq!(plan.clone().step(MS, |_| true), expected, "{count} of {replicas}");
            plan.on_ack(*store, MS);
        }
        assert_eq!(plan.step(MS, patient), Step::Commit);
        // One failure more than the minority can bear ends it.
        let mut plan = WritePlan::new(replicas, &STORES[..replicas]);
        for store in &STORES[..replicas - majority] {
            plan.on_failure(*store);
            assert_eq!(plan.step(MS, patient), Step::Wait(None));
        }
        plan.on_failure(STORES[replicas - 1]);
        assert_eq!(plan.step(MS, patient), Step::GiveUp);
    }
}

/// What a write must do, told by counting.
struct Expected {
    acks: Vec<StoreId>,
    failures: usize,
    quorum_at: Option<Duration>,
    decided: Option<(Step, Vec<StoreId>)>,
}

impl Expected {
    fn decide(&mut self, replicas: usize, now: Duration) -> Option<Step> {
        if self.decided.is_none() {
            let all_answered = self.acks.len() + self.failures == replicas;
            let grace_over = self.quorum_at.is_some_and(|at| now >= at + at.min(100 * MS));
            let step = if self.acks.len() >= needed(replicas) && (all_answered || grace_over) {
                Some(Step::Commit)
            } else if self.failures > replicas - needed(replicas) {
                Some(Step::GiveUp)
            } else {
                None
            };
            self.decided = step.map(|step| (step, self.acks.clone()));
        }
        self.decided.as_ref().map(|(step, _)| *step)
    }
}

/// Every order of acks and failures of up to five replicas, each of them soon or after any grace: the decision is the
/// one that counting gives, and nothing that comes later changes it.
#[test]
fn every_order_of_acks_failures_and_late_acks() {
    fn walk(replicas: usize, events: &[(StoreId, bool, Duration)], left: &[StoreId]) -> usize {
        let mut seen = 1;
        check(replicas, events);
        for (index, store) in left.iter().enumerate() {
            let mut rest = left.to_vec();
            rest.remove(index);
            for ok in [true, false] {
                for gap in [MS, 300 * MS] {
                    let now = events.last().map_or(Duration::ZERO, |event| event.2) + gap;
                    let more: Vec<_> = events.iter().copied().chain([(*store, ok, now)]).collect();
                    seen += walk(replicas, &more, &rest);
                }
            }
        }
        seen
    }
    fn check(replicas: usize, events: &[(StoreId, bool, Duration)]) {
        let mut plan = WritePlan::new(replicas, &STORES[..replicas]);
        let mut expected = Expected { acks: Vec::new(), failures: 0, quorum_at: None, decided: None };
        for (store, ok, now) in events {
            // The shell wakes when the plan said so: before this event, if a grace ended until then.
            let wait = plan.step(*now, patient);
            assert_eq!(expected.decide(replicas, *now).is_none(), matches!(wait, Step::Wait(_)));
            let late = expected.decided.is_some();
            if *ok {
                expected.acks.push(*store);
                assert_eq!(plan.on_ack(*store, *now), if late { Ack::Late } else { Ack::Counted });
                if expected.acks.len() == needed(replicas) {
                    expected.quorum_at = Some(*now);
                }
            } else {
                expected.failures += 1;
                plan.on_failure(*store);
            }
            let step = plan.step(*now, patient);
            match expected.decide(replicas, *now) {
                Some(decided) => assert_eq!(step, decided, "{events:?}"),
                None => assert!(matches!(step, Step::Wait(until) if until.is_none_or(|at| at > *now)), "{events:?}"),
            }
            let frozen = expected.decided.as_ref().map(|(_, acks)| acks.as_slice());
            assert_eq!(plan.decided_acks(), frozen, "{events:?}");
        }
    }
    let mut seen = 0;
    for replicas in 1..=4 {
        seen += walk(replicas, &[], &STORES[..replicas]);
    }
    // Of five replicas, orders that differ only in names are left out: the first to answer is the first.
    for ok in [true, false] {
        for gap in [MS, 300 * MS] {
            seen += walk(5, &[(STORES[0], ok, gap)], &STORES[1..5]);
        }
    }
    assert!(seen > 30_000, "{seen}");
}

proptest! {
    /// Whoever is worth no grace: the decision comes no later, stands, and is one that counting allows.
    #[test]
    fn no_grace_only_makes_it_sooner(
        replicas in 1usize..=7,
        events in prop::collection::vec((0usize..7, any::<bool>(), 1u64..150), 0..7),
        hopeless in prop::collection::vec(any::<bool>(), 7),
    ) {
        let targets = &STORES[..replicas];
        let mut kind = WritePlan::new(replicas, targets);
        let mut strict = WritePlan::new(replicas, targets);
        let mut now = Duration::ZERO;
        for (store, ok, gap) in events {
            now += Duration::from_millis(gap);
            let store = STORES[store];
            for plan in [&mut kind, &mut strict] {
                if ok {
                    plan.on_ack(store, now);
                } else {
                    plan.on_failure(store);
                }
            }
            let kind_step = kind.step(now, patient);
            let strict_step = strict.step(now, |store| hopeless[store.0 as usize - 1]);
            if !matches!(kind_step, Step::Wait(_)) {
                prop_assert_eq!(strict_step, kind_step);
            }
            if strict_step == Step::Commit {
                prop_assert!(strict.decided_acks().is_some_and(|acks| acks.len() >= needed(replicas)));
            }
        }
    }
}
