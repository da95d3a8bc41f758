use super::{Lane, Next, Wants};
use proptest::prelude::*;
use std::collections::BTreeSet;

type Numbers = Lane<u32, u32>;

#[test]
fn one_dial_serves_all_waiters_of_the_control_lane() {
    let mut lane = Numbers::multiplexed();
    assert_eq!(lane.arrive(1, Wants::Any), Next::Dial { evict: None });
    assert_eq!(lane.arrive(2, Wants::Any), Next::Wait);
    assert_eq!(lane.dialed(10).waiters, [1, 2]);
    assert_eq!(lane.arrive(3, Wants::Fresh), Next::Give(10, 3));
    assert_eq!(lane.removed(&10), Next::Wait);
    assert_eq!(lane.arrive(4, Wants::Fresh), Next::Dial { evict: None });
    assert_eq!(lane.dial_failed(), [4]);
    assert_eq!((lane.dialing(), lane.waiting()), (0, 0));
}

#[test]
fn a_released_connection_takes_the_next_waiter() {
    let mut lane = Numbers::exclusive(1);
    assert_eq!(lane.arrive(1, Wants::Any), Next::Dial { evict: None });
    assert_eq!(lane.dialed(10).waiters, [1]);
    assert_eq!(lane.arrive(2, Wants::Any), Next::Wait);
    assert_eq!(lane.released(&10), Some(2));
    assert_eq!(lane.released(&10), None);
    assert_eq!(lane.released(&10), None, "released twice is free once");
    assert_eq!(lane.idle_count(), 1);
    assert_eq!(lane.arrive(3, Wants::Any), Next::Give(10, 3));
}

#[test]
fn the_most_recently_used_connection_is_taken() {
    let mut lane = Numbers::exclusive(2);
    for conn in [10, 11] {
        assert_eq!(lane.arrive(conn, Wants::Any), Next::Dial { evict: None });
        assert_eq!(lane.dialed(conn).waiters, [conn]);
    }
    for conn in [10, 11] {
        assert_eq!(lane.released(&conn), None);
    }
    assert_eq!(lane.arrive(1, Wants::Any), Next::Give(11, 1));
}

#[test]
fn who_wants_a_fresh_connection_gets_no_free_one() {
    let mut lane = Numbers::exclusive(1);
    assert_eq!(lane.arrive(1, Wants::Any), Next::Dial { evict: None });
    assert_eq!(lane.dialed(10).waiters, [1]);
    assert_eq!(lane.released(&10), None);
    assert_eq!(lane.arrive(2, Wants::Fresh), Next::Dial { evict: Some(10) });
    assert_eq!(lane.open(), []);
    assert_eq!(lane.dialed(11).waiters, [2]);
}

#[test]
fn a_failed_dial_fails_nobody_whom_another_connection_may_serve() {
    let mut lane = Numbers::exclusive(2);
    assert_eq!(lane.arrive(1, Wants::Any), Next::Dial { evict: None });
    assert_eq!(lane.dialed(10).waiters, [1]);
    assert_eq!(lane.arrive(2, Wants::Any), Next::Dial { evict: None });
    assert_eq!(lane.dial_failed(), []);
    assert_eq!(lane.waiting(), 1);
    assert_eq!(lane.removed(&10), Next::Dial { evict: None }, "the last hope is gone: dial again");
    assert_eq!(lane.dial_failed(), [2]);
}

/// A lane under test, with what a link would know about it.
struct Model {
    lane: Numbers,
    next: u32,
    busy: BTreeSet<u32>,
    waiting: BTreeSet<u32>,
}

impl Model {
    fn act(&mut self, next: Next<u32, u32>) {
        if let Next::Give(conn, waiter) = next {
            self.waiting.remove(&waiter);
            self.busy.insert(conn);
        }
    }

    fn step(&mut self, action: u8, pick: prop::sample::Index) {
        self.next += 1;
        let open = self.lane.open().to_vec();
        match action {
            0..=2 => {
                self.waiting.insert(self.next);
                let wants = if action == 2 { Wants::Fresh } else { Wants::Any };
                let next = self.lane.arrive(self.next, wants);
                self.act(next);
            }
            3 if self.lane.dialing() > 0 => {
                for waiter in self.lane.dialed(self.next).waiters {
                    self.waiting.remove(&waiter);
                    self.busy.insert(self.next);
                }
            }
            4 if self.lane.dialing() > 0 => {
                for waiter in self.lane.dial_failed() {
                    self.waiting.remove(&waiter);
                }
            }
            5 if !open.is_empty() => {
                let conn = open[pick.index(open.len())];
                if self.busy.remove(&conn)
                    && let Some(waiter) = self.lane.released(&conn)
                {
                    self.waiting.remove(&waiter);
                    self.busy.insert(conn);
                }
            }
            6 if !open.is_empty() => {
                let conn = open[pick.index(open.len())];
                self.busy.remove(&conn);
                let next = self.lane.removed(&conn);
                self.act(next);
            }
            7 => {
                for waiter in self.lane.forget(|waiter| waiter % 3 == 0) {
                    self.waiting.remove(&waiter);
                }
            }
            _ => {}
        }
    }
}

proptest! {
    #[test]
    fn no_waiter_is_lost_and_no_bound_exceeded(
        max in 1usize..4, multiplexed in any::<bool>(),
        actions in prop::collection::vec((0u8..8, any::<prop::sample::Index>()), 1..200),
    ) {
        let lane = if multiplexed { Numbers::multiplexed() } else { Numbers::exclusive(max) };
        let max = if multiplexed { 1 } else { max };
        let mut model = Model { lane, next: 0, busy: BTreeSet::new(), waiting: BTreeSet::new() };
        for (action, pick) in actions {
            model.step(action, pick);
            let lane = &model.lane;
            prop_assert_eq!(lane.waiting(), model.waiting.len());
            prop_assert!(lane.open().len() + lane.dialing() <= max);
            prop_assert!(lane.idle_count() <= lane.open().len());
            let has_hope = lane.dialing() > 0 || lane.open().iter().any(|conn| model.busy.contains(conn));
            prop_assert!(lane.waiting() == 0 || has_hope, "somebody waits for nothing");
            if !multiplexed {
                let free = lane.open().iter().filter(|conn| !model.busy.contains(conn)).count();
                prop_assert_eq!(lane.idle_count(), free);
            }
        }
    }
}
