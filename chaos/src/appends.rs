//! Whether a history of appends and reads of one log is linearizable.
//!
//! The log itself says in which order the appends took effect, and a read that saw `count` records stands between record
//! `count - 1` and record `count`. With these places given, the history is linearizable exactly when nothing stands before
//! something that had ended before it began (Herlihy and Wing 1990, section 2: the order of places extends the order in
//! real time).

use std::collections::HashMap;
use std::time::Duration;

/// One append of a record that no other append writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Append {
    /// Its record.
    pub record: u64,
    /// When it was called.
    pub invoked: Duration,
    /// When it returned that the record is there; `None` = it did not, and the record may be there or not.
    pub returned: Option<Duration>,
}

/// One read of the whole log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// Records seen.
    pub count: usize,
    /// [`digest`] of them.
    pub digest: u64,
    /// When it was called.
    pub invoked: Duration,
    /// When it returned.
    pub returned: Duration,
}

/// What is wrong with a history; all zero = nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// Appends that returned and whose record is not in the log.
    pub lost: u64,
    /// Records that are in the log more than once.
    pub duplicated: u64,
    /// Records that nobody appended.
    pub foreign: u64,
    /// Reads that saw something else than a beginning of the log.
    pub torn: u64,
    /// Operations that stand before one which had ended before they began.
    pub misplaced: u64,
}

impl Verdict {
    /// Nothing is wrong.
    pub fn is_linearizable(&self) -> bool {
        *self == Self::default()
    }
}

/// Tells beginnings of a log apart (FNV-1a over the records).
pub fn digest(records: &[u64]) -> u64 {
    records.iter().fold(0xcbf2_9ce4_8422_2325, |hash, record| (hash ^ record).wrapping_mul(0x0100_0000_01b3))
}

/// A place in the order of effects, and the time that the operation there took.
struct Placed {
    place: usize,
    invoked: Duration,
    returned: Duration,
}

/// Holds a log, as it is at the end, against the history that made it.
pub fn check(log: &[u64], appends: &[Append], looks: &[Look]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut places: HashMap<u64, usize> = HashMap::new();
    for (place, record) in log.iter().enumerate() {
        if places.insert(*record, place).is_some() {
            verdict.duplicated += 1;
        }
    }
    let mut placed = Vec::with_capacity(appends.len() + looks.len());
    for append in appends {
        match (places.remove(&append.record), append.returned) {
            // Doubled, so that reads find room between two records.
            (Some(place), returned) => placed.push(Placed {
                place: 2 * place + 1,
                invoked: append.invoked,
                returned: returned.unwrap_or(Duration::MAX),
            }),
            (None, Some(_)) => verdict.lost += 1,
            (None, None) => {}
        }
    }
    verdict.foreign = places.len() as u64;
    for look in looks {
        if log.get(..look.count).is_none_or(|seen| digest(seen) != look.digest) {
            verdict.torn += 1;
            continue;
        }
        placed.push(Placed { place: 2 * look.count, invoked: look.invoked, returned: look.returned });
    }
    // Reads at one place have no order of their own but that of time.
    placed.sort_by_key(|operation| (operation.place, operation.invoked));
    let mut latest_call = Duration::ZERO;
    for operation in &placed {
        verdict.misplaced += u64::from(operation.returned < latest_call);
        latest_call = latest_call.max(operation.invoked);
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn append(record: u64, invoked: u64, returned: u64) -> Append {
        Append { record, invoked: at(invoked), returned: Some(at(returned)) }
    }

    fn look(seen: &[u64], invoked: u64, returned: u64) -> Look {
        Look { count: seen.len(), digest: digest(seen), invoked: at(invoked), returned: at(returned) }
    }

    #[test]
    fn what_overlaps_may_take_effect_in_either_order() {
        let appends = [append(1, 0, 10), append(2, 5, 15), append(3, 20, 30)];
        let looks = [look(&[], 0, 9), look(&[2], 6, 14), look(&[2, 1], 12, 20), look(&[2, 1, 3], 25, 40)];
        assert!(check(&[2, 1, 3], &appends, &looks).is_linearizable());
        let unknown = Append { returned: None, ..append(4, 1, 0) };
        assert!(check(&[1, 2, 3], &[&appends[..], &[unknown]].concat(), &[]).is_linearizable());
        assert!(check(&[1, 2, 3, 4], &[&appends[..], &[unknown]].concat(), &[]).is_linearizable());
    }

    #[test]
    fn a_lost_a_doubled_and_a_foreign_record_are_found() {
        let appends = [append(1, 0, 1), append(2, 2, 3)];
        assert_eq!(check(&[2], &appends, &[]), Verdict { lost: 1, ..Verdict::default() });
        assert_eq!(check(&[1, 2, 2], &appends, &[]).duplicated, 1);
        assert_eq!(check(&[1, 2, 9], &appends, &[]), Verdict { foreign: 1, ..Verdict::default() });
    }

    #[test]
    fn an_effect_before_the_call_or_after_the_return_is_found() {
        assert_eq!(check(&[2, 1], &[append(1, 0, 1), append(2, 2, 3)], &[]).misplaced, 1);
        let appends = [append(1, 0, 1), append(2, 10, 11)];
        // Stale: the first had returned. From the future: the second was not called yet.
        assert_eq!(check(&[1, 2], &appends, &[look(&[], 2, 3)]).misplaced, 1);
        assert_eq!(check(&[1, 2], &appends, &[look(&[1, 2], 2, 3)]).misplaced, 1);
        // Two reads that go back in time while an append is under way.
        let slow = [append(1, 0, 100)];
        assert_eq!(check(&[1], &slow, &[look(&[1], 10, 20), look(&[], 30, 40)]).misplaced, 1);
        assert!(check(&[1], &slow, &[look(&[], 10, 20), look(&[1], 30, 40)]).is_linearizable());
    }

    #[test]
    fn a_read_of_what_never_was_is_found() {
        let appends = [append(1, 0, 9), append(2, 0, 9)];
        assert_eq!(check(&[1, 2], &appends, &[look(&[2], 1, 8)]).torn, 1);
    }
}
