use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

#[test]
fn a_full_lot_sheds_its_oldest() {
    let mut parking = Parking::new();
    for number in 0..PARKED_MAX {
        assert_eq!(parking.park(number).1, None);
    }
    let (ticket, shed) = parking.park(PARKED_MAX);
    assert_eq!((shed, parking.len(), parking.shed()), (Some(0), PARKED_MAX, 1));
    assert_eq!(parking.leave(ticket), Some(PARKED_MAX));
    assert_eq!(parking.leave(ticket), None);
    assert_eq!(parking.park(7).1, None, "who left made room");
    assert_eq!(parking.total(), PARKED_MAX as u64 + 2);
}

#[test]
fn everyone_goes_on_in_batches_oldest_first() {
    let mut parking = Parking::new();
    for number in 0..PARKED_MAX {
        parking.park(number);
    }
    let (mut now, mut released, mut batches) = (10 * S, Vec::new(), 0);
    loop {
        let batch = parking.release(now, 0.5, parking.end());
        assert!(batch.waiters.len() <= RELEASE_MAX);
        released.extend(batch.waiters);
        batches += 1;
        let Some(next) = batch.next else { break };
        assert!(parking.release(next - MS, 0.5, parking.end()).waiters.is_empty(), "not before its time");
        assert_eq!(next - now, RELEASE_GAP);
        now = next;
    }
    assert_eq!(released, (0..PARKED_MAX).collect::<Vec<_>>());
    assert_eq!(batches, PARKED_MAX / RELEASE_MAX);
    assert!(now - 10 * S <= S / 3);
    assert!(parking.is_empty());
}

#[test]
fn batches_are_spread() {
    let gap = |unit| {
        let mut parking = Parking::new();
        for number in 0..=RELEASE_MAX {
            parking.park(number);
        }
        parking.release(S, unit, parking.end()).next.map(|next| next - S)
    };
    assert_eq!((gap(0.0), gap(1.0)), (Some(10 * MS), Some(30 * MS)));
    let mut empty = Parking::<u32>::new();
    assert_eq!(empty.release(S, 0.5, empty.end()).next, None);
}

proptest! {
    /// Everyone who parks leaves exactly once: released, shed or by itself; never more than the lot holds.
    #[test]
    fn nobody_is_lost(steps in prop::collection::vec((0u8..4, 1usize..700), 0..40)) {
        let mut parking = Parking::new();
        let (mut now, mut number, mut tickets) = (S, 0usize, Vec::new());
        let mut gone = BTreeSet::new();
        for (kind, count) in steps {
            now += MS;
            match kind {
                0 | 1 => for _ in 0..count {
                    let (ticket, shed) = parking.park(number);
                    tickets.push((ticket, number));
                    number += 1;
                    if let Some(shed) = shed {
                        prop_assert!(gone.insert(shed));
                    }
                },
                2 => {
                    let known = tickets.get(count % tickets.len().max(1));
                    if let Some((left, expected)) = known.and_then(|(ticket, n)| Some((parking.leave(*ticket)?, *n))) {
                        prop_assert_eq!(left, expected);
                        prop_assert!(gone.insert(left));
                    }
                }
                _ => for waiter in parking.release(now, 0.0, parking.end()).waiters {
                    prop_assert!(gone.insert(waiter));
                },
            }
            prop_assert!(parking.len() <= PARKED_MAX);
            prop_assert_eq!(gone.len() + parking.len(), number);
        }
    }
}

/// Whoever parks after a release was asked for is not part of it, or one whose own node is still away would be let go
/// again and again.
#[test]
fn a_release_ends_with_those_who_waited_when_it_began() {
    let mut parking = Parking::new();
    parking.park('a');
    let end = parking.end();
    parking.park('b');
    let released = parking.release(S, 0.5, end);
    assert_eq!((released.waiters, released.next), (vec!['a'], None));
    assert_eq!(parking.release(2 * S, 0.5, parking.end()).waiters, ['b']);
}
