//! Which placement group takes the next block.

use cairn_proto::PgId;

/// A group as the choice sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Its number.
    pub(crate) id: PgId,
    /// Members that take writes and look well.
    pub(crate) healthy: usize,
    /// Members that take writes.
    pub(crate) targets: usize,
    /// Members needed for a commit.
    pub(crate) needed: usize,
    /// Free bytes that a majority of its members has at least.
    pub(crate) free_bytes: u64,
}

/// Picks a group with room for `len` bytes that can reach a majority.
///
/// Groups whose members are all well come first; among the best class the one with more free space of two drawn at
/// random. `None` when no group can take the block. `draw(n)` returns a number below `n`.
pub(crate) fn pick(
    candidates: &[Candidate],
    avoid: &[PgId],
    len: u64,
    mut draw: impl FnMut(usize) -> usize,
) -> Option<PgId> {
    let usable = |c: &&Candidate| !avoid.contains(&c.id) && c.targets >= c.needed && c.free_bytes > len;
    let missing = |c: &Candidate| if c.healthy >= c.needed { c.targets - c.healthy } else { usize::MAX };
    let best = candidates.iter().filter(usable).map(missing).min()?;
    let class: Vec<&Candidate> = candidates.iter().filter(usable).filter(|c| missing(c) == best).collect();
    let (a, b) = (class[draw(class.len())], class[draw(class.len())]);
    Some(if a.free_bytes >= b.free_bytes { a.id } else { b.id })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(id: u32, healthy: usize, free_bytes: u64) -> Candidate {
        Candidate { id: PgId(id), healthy, targets: 3, needed: 2, free_bytes }
    }

    #[test]
    fn healthy_groups_come_first_then_room() {
        let groups = [group(1, 2, 900), group(2, 3, 100), group(3, 3, 200)];
        let mut draws = [0, 1].into_iter();
        assert_eq!(pick(&groups, &[], 10, |_| draws.next().expect("two draws")), Some(PgId(3)));
        assert_eq!(pick(&groups, &[PgId(2), PgId(3)], 10, |_| 0), Some(PgId(1)));
        assert_eq!(pick(&groups, &[], 500, |_| 0), Some(PgId(1)));
        assert_eq!(pick(&groups, &[], 5000, |_| 0), None);
    }

    #[test]
    fn without_a_healthy_majority_something_is_still_tried() {
        assert_eq!(pick(&[group(1, 1, 100)], &[], 10, |_| 0), Some(PgId(1)));
        let short = Candidate { targets: 1, ..group(1, 1, 100) };
        assert_eq!(pick(&[short], &[], 10, |_| 0), None);
    }
}
