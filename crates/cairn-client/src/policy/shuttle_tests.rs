//! What tasks share, under a scheduler that tries many interleavings (`cargo xtask shuttle`).
//!
//! Budgets are lock-free and run on the scheduler's atomics. Breaker, silence and parking are plain values behind a
//! lock of their owner; here that is the scheduler's lock.

use super::breaker::{Breaker, BreakerState, Hard};
use super::budget::{Budget, HEDGE_BYTES_MAX, HEDGE_CAP, HEDGES_MAX, HedgeBudget};
use super::parking::{PARKED_MAX, Parking, RELEASE_MAX};
use shuttle::sync::Mutex;
use shuttle::thread;
use std::sync::Arc;
use std::time::Duration;

const S: Duration = Duration::from_secs(1);

/// Half of the interleavings at random, half by priorities with few changes (PCT), which finds rarer ones.
fn check(test: fn()) {
    let iterations = std::env::var("SHUTTLE_ITERATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(500);
    shuttle::check_random(test, iterations / 2);
    shuttle::check_pct(test, iterations / 2, 3);
}

fn join<T>(threads: Vec<thread::JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
}

#[test]
fn tokens_are_neither_made_nor_lost() {
    check(|| {
        let budget = Arc::new(Budget::new(2.0, 0.5));
        let threads = (0..3).map(|_| {
            let budget = budget.clone();
            thread::spawn(move || {
                let taken = (0..2).filter(|_| budget.try_take()).count();
                assert!(budget.tokens() <= budget.cap());
                taken
            })
        });
        let taken: usize = join(threads.collect()).into_iter().sum();
        assert_eq!(taken, 2);
        assert_eq!((budget.tokens(), budget.refused()), (0.0, 4));
        let threads = (0..3).map(|_| {
            let budget = budget.clone();
            thread::spawn(move || {
                budget.deposit();
                assert!(budget.tokens() <= budget.cap());
                budget.try_take()
            })
        });
        let taken = join(threads.collect()).into_iter().filter(|taken| *taken).count();
        // Three halves came in: one token, and a half that stays.
        assert_eq!((taken, budget.tokens()), (1, 0.5));
    });
}

#[test]
fn hedges_never_exceed_their_bounds_and_come_back() {
    check(|| {
        let budget = Arc::new(HedgeBudget::new());
        let bytes = HEDGE_BYTES_MAX / 3;
        let threads = (0..4).map(|_| {
            let budget = budget.clone();
            thread::spawn(move || {
                let mut taken = 0;
                for _ in 0..2 {
                    let permit = budget.try_take(bytes);
                    taken += u64::from(permit.is_ok());
                    assert!(budget.in_flight() <= HEDGES_MAX && budget.bytes_in_flight() <= HEDGE_BYTES_MAX);
                    thread::yield_now();
                }
                taken
            })
        });
        let taken: u64 = join(threads.collect()).into_iter().sum();
        assert_eq!(taken + budget.refused(), 8);
        assert_eq!((budget.in_flight(), budget.bytes_in_flight()), (0, 0));
        assert_eq!(budget.tokens(), HEDGE_CAP - taken as f64);
    });
}

#[test]
fn one_prober_at_a_time_and_no_traffic_closes() {
    check(|| {
        let mut breaker = Breaker::new();
        for _ in 0..5 {
            breaker.on_failure(Duration::ZERO, Hard::Dial, false, 0.5);
        }
        let shared = Arc::new(Mutex::new((breaker, 0usize)));
        let mut threads: Vec<thread::JoinHandle<()>> = Vec::new();
        for prober in 0..3 {
            let shared = shared.clone();
            threads.push(thread::spawn(move || {
                let begun = {
                    let mut guard = shared.lock().expect("no thread panics");
                    let begun = guard.0.begin_probe(S, 30 * S);
                    guard.1 += usize::from(begun);
                    assert!(guard.1 <= 1, "two probes at a time");
                    begun
                };
                if begun {
                    thread::yield_now();
                    let mut guard = shared.lock().expect("no thread panics");
                    guard.1 -= 1;
                    // The first is cancelled, the others fail.
                    if prober == 0 {
                        guard.0.abandon_probe();
                    } else {
                        assert_eq!(guard.0.on_probe(false, S, 0.5), None);
                    }
                }
            }));
        }
        for good in [true, false] {
            let shared = shared.clone();
            threads.push(thread::spawn(move || {
                let mut guard = shared.lock().expect("no thread panics");
                match good {
                    true => guard.0.on_success(S),
                    false => assert_eq!(guard.0.on_failure(S, Hard::Broken, false, 0.5), None),
                }
                assert_ne!(guard.0.state(), BreakerState::Closed);
            }));
        }
        join(threads);
        let mut guard = shared.lock().expect("no thread panics");
        assert_eq!(guard.0.state(), BreakerState::Open, "no probe leaves it stuck");
        assert!(guard.0.begin_probe(100 * S, 30 * S));
        assert!(guard.0.on_probe(true, 100 * S, 0.5).is_some());
        assert_eq!((guard.0.opened(), guard.0.closed()), (1, 1));
    });
}

#[test]
fn everyone_who_parks_leaves_once() {
    check(|| {
        let mut parking = Parking::new();
        // Nearly full, so that the threads shed the first of these.
        for early in 0..PARKED_MAX - 1 {
            assert!(parking.park(early).1.is_none());
        }
        let parking = Arc::new(Mutex::new(parking));
        let mut threads: Vec<thread::JoinHandle<Vec<usize>>> = Vec::new();
        for number in 0..3 {
            let parking = parking.clone();
            threads.push(thread::spawn(move || {
                let waiter = PARKED_MAX + number;
                let (ticket, shed) = parking.lock().expect("no thread panics").park(waiter);
                thread::yield_now();
                let left = parking.lock().expect("no thread panics").leave(ticket);
                assert!(left.is_none_or(|left| left == waiter), "a ticket gives back its own waiter");
                shed.into_iter().chain(left).collect()
            }));
        }
        for number in 0..2 {
            let parking = parking.clone();
            threads.push(thread::spawn(move || {
                let released = {
                    let mut parking = parking.lock().expect("no thread panics");
                    let end = parking.end();
                    parking.release((number + 2) * S, 0.5, end)
                };
                assert!(released.waiters.len() <= RELEASE_MAX);
                released.waiters
            }));
        }
        let mut gone: Vec<usize> = join(threads).into_iter().flatten().collect();
        let mut parking = parking.lock().expect("no thread panics");
        assert!(parking.len() <= PARKED_MAX);
        for second in 100.. {
            if parking.is_empty() {
                break;
            }
            let end = parking.end();
            gone.extend(parking.release(second * S, 0.5, end).waiters);
        }
        gone.sort_unstable();
        let all: Vec<usize> = (0..PARKED_MAX - 1).chain(PARKED_MAX..PARKED_MAX + 3).collect();
        assert_eq!(gone, all);
    });
}
