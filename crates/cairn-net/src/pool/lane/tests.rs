use super::{Lane, Next, Placed, Pooled, Wants};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Numbers = Lane<u32, u32>;

impl Pooled for u32 {
    fn serial(&self) -> u64 {
        (*self).into()
    }
}

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
    assert_eq!(lane.released(&10), Next::Give(10, 2));
    assert_eq!(lane.released(&10), Next::Wait);
    assert_eq!(lane.released(&10), Next::Wait, "released twice is free once");
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
        assert_eq!(lane.released(&conn), Next::Wait);
    }
    assert_eq!(lane.arrive(1, Wants::Any), Next::Give(11, 1));
}

#[test]
fn who_wants_a_fresh_connection_gets_no_free_one() {
    let mut lane = Numbers::exclusive(1);
    assert_eq!(lane.arrive(1, Wants::Any), Next::Dial { evict: None });
    assert_eq!(lane.dialed(10).waiters, [1]);
    assert_eq!(lane.released(&10), Next::Wait);
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

#[test]
fn who_avoids_a_connection_gets_another_one() {
    let mut lane = Numbers::multiplexed();
    assert_eq!(lane.arrive(1, Wants::Any), Next::Dial { evict: None });
    assert_eq!(lane.dialed(10).waiters, [1]);
    assert_eq!(lane.arrive(2, Wants::Other(9)), Next::Give(10, 2));
    assert_eq!(lane.arrive(3, Wants::Other(10)), Next::Dial { evict: None });
    assert_eq!(lane.arrive(4, Wants::Other(10)), Next::Wait, "one dial for both");
    assert_eq!(lane.arrive(5, Wants::Any), Next::Give(10, 5));
    let placed = lane.dialed(11);
    assert_eq!((placed.waiters, placed.displaced), (vec![3, 4], vec![10]));
    assert_eq!(lane.open(), [11]);
    assert_eq!(lane.arrive(6, Wants::Other(11)), Next::Dial { evict: None });
    assert_eq!(lane.dial_failed(), [6], "the connection that is there is no help");

    let mut lane = Numbers::exclusive(1);
    assert_eq!(lane.arrive(1, Wants::Any), Next::Dial { evict: None });
    assert_eq!(lane.dialed(10).waiters, [1]);
    assert_eq!(lane.arrive(2, Wants::Other(10)), Next::Wait);
    assert_eq!(lane.released(&10), Next::Dial { evict: Some(10) }, "the place is needed for another connection");
    assert_eq!(lane.dialed(11).waiters, [2]);

    let mut lane = Numbers::exclusive(2);
    for conn in [10, 11] {
        assert_eq!(lane.arrive(conn, Wants::Any), Next::Dial { evict: None });
        assert_eq!(lane.dialed(conn).waiters, [conn]);
    }
    assert_eq!(lane.arrive(1, Wants::Other(10)), Next::Wait);
    assert_eq!(lane.arrive(2, Wants::Any), Next::Wait);
    assert_eq!(lane.released(&10), Next::Give(10, 2), "who is less choosy passes");
    assert_eq!(lane.released(&11), Next::Give(11, 1));
    for conn in [10, 11] {
        assert_eq!(lane.released(&conn), Next::Wait);
    }
    assert_eq!(lane.arrive(3, Wants::Other(11)), Next::Give(10, 3));
}

#[test]
fn a_peer_that_refused_is_dialled_once_at_a_time() {
    let mut lane = Numbers::exclusive(4);
    for waiter in 1..=3 {
        assert_eq!(lane.arrive(waiter, Wants::Any), Next::Dial { evict: None });
    }
    lane.set_cautious(true);
    assert_eq!(lane.dial_failed(), []);
    assert_eq!(lane.dial_failed(), []);
    assert_eq!(lane.arrive(4, Wants::Any), Next::Wait);
    assert_eq!(lane.dial_failed(), [1, 2, 3, 4], "one failure for all");
    assert_eq!(lane.arrive(5, Wants::Any), Next::Dial { evict: None });
    assert_eq!(lane.arrive(6, Wants::Any), Next::Wait);
    assert_eq!(lane.dialed(10).waiters, [5]);
    lane.set_cautious(false);
    assert_eq!(lane.dial_if_useful(), Next::Dial { evict: None }, "now that it is there, for the other one");
    assert_eq!(lane.dial_if_useful(), Next::Wait);
}

#[test]
fn a_minimum_is_refilled_and_a_probe_takes_the_place_of_the_connection() {
    let mut lane = Numbers::exclusive(2);
    assert!(lane.refill(1) && !lane.refill(1));
    assert_eq!(lane.arrive(1, Wants::Any), Next::Wait, "the dial under way serves");
    assert_eq!(lane.dialed(10).waiters, [1]);
    assert!(lane.refill(9) && !lane.refill(9), "never beyond the maximum");
    assert_eq!(lane.dialed(11).waiters, []);
    assert_eq!((lane.idle_count(), lane.peak()), (1, 2));

    let mut lane = Numbers::multiplexed();
    assert_eq!(lane.arrive(1, Wants::Any), Next::Dial { evict: None });
    assert_eq!(lane.adopt(10).waiters, [1]);
    assert_eq!(lane.dialed(11).displaced, [10]);
    assert_eq!((lane.open(), lane.dialing(), lane.peak()), ([11].as_slice(), 0, 1));
}

/// A lane under test, with what a link would know about it.
struct Model {
    multiplexed: bool,
    lane: Numbers,
    next: u32,
    busy: BTreeSet<u32>,
    waiting: BTreeSet<u32>,
    /// Connections that waiters want not to get.
    avoided: BTreeMap<u32, u32>,
}

impl Model {
    fn act(&mut self, next: Next<u32, u32>) {
        match next {
            Next::Give(conn, waiter) => {
                assert_ne!(self.avoided.get(&waiter), Some(&conn), "it asked for another one");
                assert!(self.multiplexed || !self.busy.contains(&conn), "given twice");
                self.waiting.remove(&waiter);
                self.busy.insert(conn);
            }
            Next::Dial { evict: Some(conn) } => assert!(!self.busy.contains(&conn), "closed under its request"),
            Next::Dial { evict: None } | Next::Wait => {}
        }
    }

    fn place(&mut self, placed: Placed<u32, u32>) {
        for waiter in placed.waiters {
            self.waiting.remove(&waiter);
            self.busy.insert(self.next);
        }
        for conn in placed.displaced {
            self.busy.remove(&conn);
        }
    }

    fn step(&mut self, action: u8, pick: prop::sample::Index) {
        self.next += 1;
        let open = self.lane.open().to_vec();
        match action {
            0..=2 => {
                self.waiting.insert(self.next);
                let wants = match action {
                    2 if open.is_empty() || pick.index(2) == 0 => Wants::Fresh,
                    2 => {
                        let conn = open[pick.index(open.len())];
                        self.avoided.insert(self.next, conn);
                        Wants::Other(conn.into())
                    }
                    _ => Wants::Any,
                };
                let next = self.lane.arrive(self.next, wants);
                self.act(next);
            }
            3 if self.lane.dialing() > 0 => {
                let placed = self.lane.dialed(self.next);
                self.place(placed);
            }
            8 if self.multiplexed => {
                let placed = self.lane.adopt(self.next);
                self.place(placed);
            }
            9 => {
                self.lane.refill(2);
            }
            10 => {
                self.lane.set_cautious(pick.index(2) == 0);
                let next = self.lane.dial_if_useful();
                self.act(next);
            }
            4 if self.lane.dialing() > 0 => {
                for waiter in self.lane.dial_failed() {
                    self.waiting.remove(&waiter);
                }
            }
            5 if !open.is_empty() => {
                let conn = open[pick.index(open.len())];
                if self.busy.remove(&conn) {
                    let next = self.lane.released(&conn);
                    self.act(next);
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
        actions in prop::collection::vec((0u8..11, any::<prop::sample::Index>()), 1..200),
    ) {
        let lane = if multiplexed { Numbers::multiplexed() } else { Numbers::exclusive(max) };
        let max = if multiplexed { 1 } else { max };
        let mut model = Model {
            multiplexed,
            lane,
            next: 0,
            busy: BTreeSet::new(),
            waiting: BTreeSet::new(),
            avoided: BTreeMap::new(),
        };
        for (action, pick) in actions {
            model.step(action, pick);
            let lane = &model.lane;
            prop_assert_eq!(lane.waiting(), model.waiting.len());
            if multiplexed {
                prop_assert!(lane.open().len() <= 1 && lane.dialing() <= 1);
            } else {
                prop_assert!(lane.open().len() + lane.dialing() <= max);
            }
            prop_assert!(lane.idle_count() <= lane.open().len());
            let has_hope = lane.dialing() > 0 || !multiplexed && lane.open().iter().any(|conn| model.busy.contains(conn));
            prop_assert!(lane.waiting() == 0 || has_hope, "somebody waits for nothing");
            if !multiplexed {
                let free = lane.open().iter().filter(|conn| !model.busy.contains(conn)).count();
                prop_assert_eq!(lane.idle_count(), free);
            }
        }
    }
}
