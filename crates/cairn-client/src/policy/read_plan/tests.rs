use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);
const SMALL: Times =
    Times { hedge_after: Duration::from_millis(5), soft_after: Duration::from_millis(50), stall_after: None };
const BULK: Times = Times { stall_after: Some(Duration::from_millis(60)), ..SMALL };

/// Grants so many, and counts what it was asked.
#[derive(Default)]
struct Purse {
    hedges: usize,
    retries: usize,
    hedges_asked: usize,
    retries_asked: usize,
    no_replica: usize,
}

impl Permits for Purse {
    fn hedge(&mut self) -> bool {
        self.hedges_asked += 1;
        let granted = self.hedges > 0;
        self.hedges -= usize::from(granted);
        granted
    }
    fn retry(&mut self) -> bool {
        self.retries_asked += 1;
        let granted = self.retries > 0;
        self.retries -= usize::from(granted);
        granted
    }
    fn no_replica(&mut self) {
        self.no_replica += 1;
    }
}

fn rich() -> Purse {
    Purse { hedges: 9, retries: 9, ..Purse::default() }
}

fn start<T>(replica: T, leg: usize, why: Why) -> Step<T> {
    Step::Start { replica, leg, why }
}

#[test]
fn a_failure_moves_on_at_once_and_free() {
    let mut plan = ReadPlan::new(vec!['a', 'b'], vec![], SMALL, MS);
    let mut none = Purse::default();
    assert_eq!(plan.step(MS, &mut none), start('a', 0, Why::First));
    plan.on_failure(0);
    plan.on_failure(0);
    assert_eq!(plan.step(2 * MS, &mut none), start('b', 1, Why::Failover));
    assert_eq!(plan.step(2 * MS, &mut none), Step::Wait(Some(6 * MS)));
    plan.on_failure(1);
    assert_eq!(plan.step(3 * MS, &mut none), Step::Exhausted);
    assert_eq!((none.hedges_asked, none.retries_asked), (0, 0));
}

#[test]
fn a_slow_leg_is_joined_by_one_hedge_then_by_the_soft_timer() {
    let mut plan = ReadPlan::new(vec!['a', 'b', 'c'], vec![], SMALL, Duration::ZERO);
    let mut purse = rich();
    assert_eq!(plan.step(Duration::ZERO, &mut purse), start('a', 0, Why::First));
    assert_eq!(plan.step(4 * MS, &mut purse), Step::Wait(Some(5 * MS)));
    assert_eq!(plan.step(5 * MS, &mut purse), start('b', 1, Why::Hedge));
    assert_eq!(plan.step(5 * MS, &mut purse), Step::Wait(Some(50 * MS)), "the soft timer is that of the first leg");
    assert_eq!(plan.step(50 * MS, &mut purse), start('c', 2, Why::Timer));
    assert_eq!(plan.step(50 * MS, &mut purse), Step::Wait(None), "nobody is left to ask");
    assert_eq!((purse.hedges_asked, purse.retries_asked), (1, 0));
    // However long it takes, and whoever fails: the last leg in flight is waited for.
    plan.on_failure(0);
    plan.on_failure(2);
    assert_eq!(plan.step(60_000 * MS, &mut purse), Step::Wait(None));
    plan.on_failure(1);
    assert_eq!(plan.step(60_001 * MS, &mut purse), Step::Exhausted);
}

#[test]
fn a_failed_hedge_does_not_end_the_race() {
    let mut plan = ReadPlan::new(vec!['a', 'b'], vec![], SMALL, Duration::ZERO);
    let mut purse = rich();
    plan.step(Duration::ZERO, &mut purse);
    assert_eq!(plan.step(5 * MS, &mut purse), start('b', 1, Why::Hedge));
    plan.on_failure(1);
    assert_eq!(plan.step(6 * MS, &mut purse), Step::Wait(None));
    assert_eq!(plan.live(), 1);
}

#[test]
fn a_refused_hedge_is_asked_for_once_until_something_happens() {
    let mut plan = ReadPlan::new(vec!['a', 'b', 'c'], vec![], SMALL, Duration::ZERO);
    let mut purse = Purse::default();
    plan.step(Duration::ZERO, &mut purse);
    for ms in 5..50 {
        assert_eq!(plan.step(ms * MS, &mut purse), Step::Wait(Some(50 * MS)));
    }
    assert_eq!(purse.hedges_asked, 1);
    assert_eq!(plan.step(50 * MS, &mut purse), start('b', 1, Why::Timer), "the soft timer is free");
    plan.on_failure(1);
    purse.hedges = 1;
    assert_eq!(plan.step(51 * MS, &mut purse), start('c', 2, Why::Failover));
    assert_eq!(plan.step(51 * MS, &mut purse), Step::Wait(None), "no other replica to hedge at");
    assert_eq!((purse.hedges_asked, purse.no_replica), (1, 1));
}

#[test]
fn open_replicas_are_asked_last_and_cost_a_token() {
    let mut plan = ReadPlan::new(vec!['a'], vec!['x', 'y'], SMALL, Duration::ZERO);
    let mut purse = Purse { retries: 2, ..Purse::default() };
    assert_eq!(plan.step(Duration::ZERO, &mut purse), start('a', 0, Why::First));
    assert_eq!(plan.step(5 * MS, &mut purse), Step::Wait(Some(50 * MS)), "an open replica is no place for a hedge");
    assert_eq!((purse.hedges_asked, purse.no_replica), (0, 1));
    assert_eq!(plan.step(50 * MS, &mut purse), start('x', 1, Why::Retry));
    assert_eq!(plan.step(51 * MS, &mut purse), Step::Wait(Some(150 * MS)), "patience doubles");
    plan.on_failure(1);
    assert_eq!(plan.step(60 * MS, &mut purse), Step::Wait(Some(150 * MS)), "the first leg still lives");
    plan.on_failure(0);
    assert_eq!(plan.step(70 * MS, &mut purse), start('y', 2, Why::Retry));
    plan.on_failure(2);
    assert_eq!(plan.step(71 * MS, &mut purse), Step::Exhausted);
}

#[test]
fn without_tokens_the_round_ends_with_its_last_leg() {
    let mut plan = ReadPlan::new(vec!['a'], vec!['x'], SMALL, Duration::ZERO);
    let mut none = Purse::default();
    plan.step(Duration::ZERO, &mut none);
    for ms in 50..500 {
        assert!(matches!(plan.step(ms * MS, &mut none), Step::Wait(_)));
    }
    assert_eq!(none.retries_asked, 1, "refused permits are not asked for in a loop");
    plan.on_failure(0);
    assert_eq!(plan.step(500 * MS, &mut none), Step::Exhausted);
    assert_eq!(plan.step(501 * MS, &mut none), Step::Exhausted);
    assert_eq!(none.retries_asked, 2);
    let mut plan = ReadPlan::new(vec![], vec!['x'], SMALL, Duration::ZERO);
    assert_eq!(plan.step(Duration::ZERO, &mut rich()), start('x', 0, Why::Retry));
    assert_eq!(ReadPlan::<char>::new(vec![], vec![], SMALL, MS).step(MS, &mut none), Step::Exhausted);
}

#[test]
fn a_transfer_is_hedged_when_it_stalls_not_while_it_flows() {
    let mut plan = ReadPlan::new(vec!['a', 'b', 'c'], vec![], BULK, Duration::ZERO);
    let mut purse = rich();
    plan.step(Duration::ZERO, &mut purse);
    for ms in (4..400).step_by(20) {
        plan.on_bytes(0, ms * MS);
        assert_eq!(plan.step(ms * MS, &mut purse), Step::Wait(Some((ms + 60) * MS)), "progress moves both timers");
    }
    assert_eq!(plan.step(443 * MS, &mut purse), Step::Wait(Some(444 * MS)));
    assert_eq!(plan.step(444 * MS, &mut purse), start('b', 1, Why::Hedge));
    // Bytes of a leg that failed are no progress.
    plan.on_failure(0);
    plan.on_bytes(0, 500 * MS);
    assert_eq!(plan.step(445 * MS, &mut purse), start('c', 2, Why::Failover));
}

#[test]
fn a_transfer_without_a_first_byte_is_hedged_in_time() {
    let mut plan = ReadPlan::new(vec!['a', 'b'], vec![], BULK, Duration::ZERO);
    let mut purse = rich();
    plan.step(Duration::ZERO, &mut purse);
    assert_eq!(plan.step(4 * MS, &mut purse), Step::Wait(Some(5 * MS)));
    assert_eq!(plan.step(5 * MS, &mut purse), start('b', 1, Why::Hedge));
}

/// What may happen next in a random run.
#[derive(Clone, Copy, Debug)]
enum Happens {
    Wait(u64),
    Fail(usize),
    Bytes(usize),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        (0u64..200).prop_map(Happens::Wait),
        (0usize..6).prop_map(Happens::Fail),
        (0usize..6).prop_map(Happens::Bytes),
    ]
}

proptest! {
    /// Whatever happens: nobody is asked twice, open replicas last and for a token, hedges only where they may be, no
    /// busy loop, no end while a leg lives, and an end when none does.
    #[test]
    fn the_rules_hold_in_every_run(
        fresh in 0usize..5, rest in 0usize..3, bulk: bool, hedges in 0usize..3, retries in 0usize..3,
        hedge_after in 1u32..60, soft_after in 1u32..300,
        events in prop::collection::vec(happens(), 0..40),
    ) {
        let times = Times {
            hedge_after: hedge_after * MS,
            soft_after: soft_after * MS,
            stall_after: bulk.then_some(60 * MS),
        };
        let mut plan = ReadPlan::new((0..fresh).collect(), (fresh..fresh + rest).collect(), times, Duration::ZERO);
        let mut purse = Purse { hedges, retries, ..Purse::default() };
        let (mut now, mut asked, mut live) = (Duration::ZERO, Vec::new(), Vec::new());
        let (mut used_hedges, mut used_retries) = (0, 0);
        for event in events.into_iter().map(Some).chain([None]) {
            let mut owed = false;
            match event {
                Some(Happens::Wait(ms)) => now += Duration::from_millis(ms),
                Some(Happens::Fail(leg)) => {
                    owed = live.contains(&leg) && asked.len() < fresh;
                    live.retain(|other| *other != leg);
                    plan.on_failure(leg);
                }
                Some(Happens::Bytes(leg)) => plan.on_bytes(leg, now),
                None => {}
            }
            for turn in 0.. {
                prop_assert!(turn < 10, "a busy loop");
                match plan.step(now, &mut purse) {
                    Step::Start { replica, leg, why } => {
                        prop_assert_eq!(leg, asked.len());
                        prop_assert!(!asked.contains(&replica), "asked twice");
                        prop_assert!(!owed || turn > 0 || why == Why::Failover);
                        prop_assert_eq!(why == Why::Retry, replica >= fresh, "open replicas are charged, others free");
                        prop_assert!(replica < fresh || asked.len() >= fresh, "open ones come last");
                        prop_assert!(why != Why::Hedge || !live.is_empty());
                        used_hedges += usize::from(why == Why::Hedge);
                        used_retries += usize::from(why == Why::Retry);
                        asked.push(replica);
                        live.push(leg);
                    }
                    Step::Wait(until) => {
                        prop_assert!(!live.is_empty());
                        prop_assert!(!owed || turn > 0, "a failure is followed at once");
                        prop_assert!(until.is_none_or(|until| until > now));
                        break;
                    }
                    Step::Exhausted => {
                        prop_assert!(live.is_empty());
                        prop_assert!(asked.len() >= fresh);
                        break;
                    }
                }
            }
            prop_assert!(used_hedges <= hedges.min(1) && used_retries <= retries);
            prop_assert_eq!(plan.live(), live.len());
        }
    }
}
