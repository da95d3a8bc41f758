// Under the feature `shuttle` the atomics work inside its scheduler only; see `shuttle_tests`.
use super::*;
use proptest::prelude::*;

#[test]
fn one_retry_for_ten_successes() {
    let budget = Budget::new(RETRY_CAP, RETRY_PER_SUCCESS);
    assert_eq!((budget.tokens(), budget.cap()), (20.0, 20.0));
    assert_eq!((0..30).filter(|_| budget.try_take()).count(), 20);
    assert_eq!((budget.tokens(), budget.refused()), (0.0, 10));
    let mut taken = 0;
    for _ in 0..1000 {
        budget.deposit();
        taken += u32::from(budget.try_take());
    }
    assert_eq!(taken, 100);
    for _ in 0..10_000 {
        budget.deposit();
    }
    assert_eq!(budget.tokens(), 20.0);
}

proptest! {
    /// Against plain arithmetic: never above the cap, never below zero, nothing made or lost.
    #[test]
    fn tokens_are_counted_exactly(takes in prop::collection::vec(any::<bool>(), 0..300), cap in 0u32..50, per in 0u32..200) {
        let budget = Budget::new(f64::from(cap), f64::from(per) / 100.0);
        let mut hundredths = cap * 100;
        for take in takes {
            if take {
                prop_assert_eq!(budget.try_take(), hundredths >= 100);
                hundredths = if hundredths >= 100 { hundredths - 100 } else { hundredths };
            } else {
                budget.deposit();
                hundredths = (hundredths + per).min(cap * 100);
            }
            prop_assert!((budget.tokens() - f64::from(hundredths) / 100.0).abs() < 1e-6);
        }
    }
}

#[test]
fn hedges_are_bounded_in_number() {
    let budget = Arc::new(HedgeBudget::new());
    let mut permits: Vec<_> = (0..HEDGES_MAX).map(|_| budget.try_take(1)).collect();
    assert!(permits.iter().all(Result::is_ok));
    assert_eq!(budget.try_take(1).err(), Some(HedgeSkip::Concurrency));
    permits.pop();
    assert!(budget.try_take(1).is_ok());
    assert_eq!((budget.in_flight(), budget.refused()), (HEDGES_MAX - 1, 1));
}

#[test]
fn hedges_are_bounded_in_bytes() {
    let budget = Arc::new(HedgeBudget::new());
    assert_eq!(budget.try_take(HEDGE_BYTES_MAX + 1).err(), Some(HedgeSkip::Bytes));
    assert_eq!(budget.try_take(u64::MAX).err(), Some(HedgeSkip::Bytes));
    let all = budget.try_take(HEDGE_BYTES_MAX);
    assert!(all.is_ok());
    assert_eq!(budget.try_take(1).err(), Some(HedgeSkip::Bytes));
    drop(all);
    assert_eq!((budget.bytes_in_flight(), budget.tokens()), (0, HEDGE_CAP - 1.0));
}

#[test]
fn hedges_are_paid_by_first_legs() {
    let budget = Arc::new(HedgeBudget::new());
    while budget.try_take(1).is_ok() {}
    assert_eq!(budget.try_take(1).err(), Some(HedgeSkip::Tokens));
    assert_eq!(budget.in_flight(), 0, "a refusal keeps no place");
    let mut hedges = 0;
    for _ in 0..1000 {
        budget.on_first_leg_completed();
        hedges += u32::from(budget.try_take(1).is_ok());
    }
    assert_eq!(hedges, 50);
}
