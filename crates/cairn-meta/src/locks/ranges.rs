//! What holding, taking and giving back ranges does to an owner's locks, and what contradicts what. Pure.

use std::ops::Range;

/// Who holds or wants a lock: a session, and one of the owners in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(crate) struct Owner {
    pub session: u64,
    pub owner: u64,
}

/// A range and how it is locked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Claim {
    pub range: Range<u64>,
    pub exclusive: bool,
}

impl Claim {
    /// True when two owners cannot have both.
    pub(crate) fn contradicts(&self, other: &Claim) -> bool {
        (self.exclusive || other.exclusive) && self.range.start < other.range.end && other.range.start < self.range.end
    }
}

/// What an owner's locks, in order and without overlap, become when `range` is locked as `mode` says: `Some(exclusive)`
/// or, `None`, not at all. Neighbours of one mode become one.
pub(crate) fn after(held: &[Claim], range: &Range<u64>, mode: Option<bool>) -> Vec<Claim> {
    let mut parts: Vec<Claim> = Vec::with_capacity(held.len() + 2);
    for claim in held {
        let Range { start, end } = claim.range;
        let pieces = [start..end.min(range.start), start.max(range.end)..end];
        let kept = pieces.into_iter().filter(|piece| piece.start < piece.end);
        parts.extend(kept.map(|range| Claim { range, exclusive: claim.exclusive }));
    }
    parts.extend(mode.map(|exclusive| Claim { range: range.clone(), exclusive }));
    parts.sort_by_key(|claim| claim.range.start);
    let mut merged: Vec<Claim> = Vec::with_capacity(parts.len());
    for part in parts {
        match merged.last_mut() {
            Some(last) if last.exclusive == part.exclusive && last.range.end == part.range.start => {
                last.range.end = part.range.end;
            }
            _ => merged.push(part),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(start: u64, end: u64, exclusive: bool) -> Claim {
        Claim { range: start..end, exclusive }
    }

    #[test]
    fn a_range_in_the_middle_splits() {
        let held = [claim(0, 10, true)];
        assert_eq!(after(&held, &(4..6), None), [claim(0, 4, true), claim(6, 10, true)]);
        let downgraded = after(&held, &(4..6), Some(false));
        assert_eq!(downgraded, [claim(0, 4, true), claim(4, 6, false), claim(6, 10, true)]);
        assert_eq!(after(&downgraded, &(2..7), Some(true)), held);
    }

    #[test]
    fn two_who_share_do_not_contradict() {
        assert!(!claim(0, 10, false).contradicts(&claim(5, 6, false)));
        assert!(claim(0, 10, false).contradicts(&claim(9, 20, true)));
        assert!(!claim(0, 10, true).contradicts(&claim(10, 20, true)));
    }

    proptest! {
        /// Against a table of bytes.
        #[test]
        fn locks_are_what_each_byte_was_last_told(
            ops in prop::collection::vec((0u64..40, 1u64..15, prop::option::of(any::<bool>())), 1..40),
        ) {
            let mut bytes = [None; 64];
            let mut held = Vec::new();
            for (start, len, mode) in ops {
                held = after(&held, &(start..start + len), mode);
                bytes[start as usize..(start + len) as usize].fill(mode);
                let mut found = [None; 64];
                let mut end = None;
                for claim in &held {
                    prop_assert!(claim.range.start < claim.range.end);
                    prop_assert!(end.is_none_or(|(end, exclusive)| {
                        end < claim.range.start || (end == claim.range.start && exclusive != claim.exclusive)
                    }), "{held:?}");
                    end = Some((claim.range.end, claim.exclusive));
                    found[claim.range.start as usize..claim.range.end as usize].fill(Some(claim.exclusive));
                }
                prop_assert_eq!(found, bytes);
            }
        }
    }
}
