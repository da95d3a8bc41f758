//! The probability that failing stores cover a whole group: counted over every set of failing stores when these are few,
//! over drawn ones otherwise.

use fastrand::Rng;
use serde::Serialize;
use std::collections::BTreeSet;

/// How likely a loss is.
#[derive(Serialize)]
pub struct Chance {
    pub probability: f64,
    /// Half the width of the interval that holds the true value 19 times of 20 (normal approximation); 0 = exact.
    pub error: f64,
    /// The part of all groups that is lost when any is.
    pub lost_share: f64,
}

/// Ways to choose `k` of `n`.
pub fn combinations(n: usize, k: usize) -> f64 {
    if k > n {
        return 0.0;
    }
    (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product::<f64>().round()
}

/// `count` different stores of `nodes`, in no order.
pub fn draw(nodes: usize, count: usize, rng: &mut Rng) -> Vec<u32> {
    let mut drawn: Vec<u32> = Vec::with_capacity(count);
    // Floyd's way (Bentley and Floyd, CACM 30(9), 1987).
    for top in nodes - count..nodes {
        let store = rng.usize(..=top) as u32;
        drawn.push(if drawn.contains(&store) { top as u32 } else { store });
    }
    drawn
}

/// Distinct sets among groups, each in ascending order.
pub fn copysets(groups: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let sorted = groups.iter().map(|group| {
        let mut group = group.clone();
        group.sort_unstable();
        group
    });
    sorted.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Counts groups that are wholly among failed stores.
struct Cover {
    groups_of: Vec<Vec<u32>>,
    replicas: usize,
    failed_members: Vec<u8>,
}

impl Cover {
    fn new(nodes: usize, groups: &[Vec<u32>]) -> Self {
        let mut groups_of = vec![Vec::new(); nodes];
        for (index, group) in groups.iter().enumerate() {
            group.iter().for_each(|store| groups_of[*store as usize].push(index as u32));
        }
        let replicas = groups.first().map_or(usize::MAX, Vec::len);
        Self { groups_of, replicas, failed_members: vec![0; groups.len()] }
    }

    fn lost(&mut self, failed: &[u32]) -> u64 {
        let mut lost = 0;
        for group in failed.iter().flat_map(|store| &self.groups_of[*store as usize]) {
            let count = &mut self.failed_members[*group as usize];
            *count += 1;
            lost += u64::from(usize::from(*count) == self.replicas);
        }
        for group in failed.iter().flat_map(|store| &self.groups_of[*store as usize]) {
            self.failed_members[*group as usize] = 0;
        }
        lost
    }
}

/// Goes to the next set in lexicographic order; false after the last.
fn advance(set: &mut [u32], nodes: usize) -> bool {
    let len = set.len();
    let Some(at) = (0..len).rev().find(|at| (set[*at] as usize) < nodes - len + at) else { return false };
    set[at] += 1;
    for next in at + 1..len {
        set[next] = set[next - 1] + 1;
    }
    true
}

/// The probability that `losses` different stores, each set as likely as any other, hold a whole group. Exact when there
/// are at most `trials` such sets, or when they can hold no more than one group's stores.
pub fn of(nodes: usize, losses: usize, groups: &[Vec<u32>], trials: u64, rng: &mut Rng) -> Chance {
    let mut cover = Cover::new(nodes, groups);
    if losses == cover.replicas {
        let sets = copysets(groups).len() as f64;
        return Chance { probability: sets / combinations(nodes, losses), error: 0.0, lost_share: 1.0 / sets };
    }
    let exact = combinations(nodes, losses) <= trials as f64;
    let (mut all, mut hits, mut lost_groups) = (0_u64, 0_u64, 0_u64);
    let mut count = |failed: &[u32]| {
        let lost = cover.lost(failed);
        (all, hits, lost_groups) = (all + 1, hits + u64::from(lost > 0), lost_groups + lost);
    };
    if exact {
        let mut failed: Vec<u32> = (0..losses as u32).collect();
        count(&failed);
        while advance(&mut failed, nodes) {
            count(&failed);
        }
    } else {
        (0..trials).for_each(|_| count(&draw(nodes, losses, rng)));
    }
    let probability = hits as f64 / all as f64;
    let deviation = (probability * (1.0 - probability) / all as f64).sqrt();
    let lost_share = if hits == 0 { 0.0 } else { lost_groups as f64 / hits as f64 / groups.len() as f64 };
    Chance { probability, error: if exact { 0.0 } else { 1.96 * deviation }, lost_share }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_is_visited_once() {
        let mut set = vec![0, 1, 2];
        let mut seen = vec![set.clone()];
        while advance(&mut set, 6) {
            seen.push(set.clone());
        }
        assert_eq!(seen.len() as f64, combinations(6, 3));
        assert!(seen.is_sorted() && seen.windows(2).all(|two| two[0] != two[1]));
        assert_eq!(combinations(1000, 3), 166_167_000.0);
        assert_eq!(combinations(2, 3), 0.0);
    }

    #[test]
    fn draws_are_different_stores_each_as_likely() {
        let mut rng = Rng::with_seed(1);
        let mut times = [0_u32; 8];
        for _ in 0..8000 {
            let mut drawn = draw(8, 3, &mut rng);
            drawn.sort_unstable();
            assert!(drawn.windows(2).all(|two| two[0] < two[1]));
            drawn.iter().for_each(|store| times[*store as usize] += 1);
        }
        assert!(times.iter().all(|times| (2800..3200).contains(times)), "{times:?}");
    }

    #[test]
    fn as_many_losses_as_replicas_hit_each_set_alike() {
        let groups = vec![vec![0, 1, 2], vec![2, 3, 4], vec![2, 1, 0]];
        let exact = of(10, 3, &groups, 1, &mut Rng::with_seed(1));
        assert_eq!((exact.probability, exact.error), (2.0 / 120.0, 0.0));
        // One of two sets, one of them twice: half the time two groups of three, half the time one.
        assert!((exact.lost_share - 0.5).abs() < 1e-12);
        // Of the 210 sets of four, 7 hold the one and 7 others the other.
        let four = of(10, 4, &groups, 1000, &mut Rng::with_seed(1));
        assert_eq!((four.probability, four.error), (14.0 / 210.0, 0.0));
    }

    #[test]
    fn drawing_finds_what_counting_finds() {
        let groups: Vec<Vec<u32>> = (0..20).map(|i| vec![i, (i * 7 + 3) % 20, (i * 3 + 11) % 20]).collect();
        let groups: Vec<_> = groups.into_iter().filter(|g| g[0] != g[1] && g[1] != g[2] && g[0] != g[2]).collect();
        let exact = of(20, 5, &groups, 1_000_000, &mut Rng::with_seed(4));
        // C(20, 5) = 15,504 sets: fewer trials than that are drawn.
        let drawn = of(20, 5, &groups, 15_000, &mut Rng::with_seed(4));
        assert_eq!(exact.error, 0.0);
        assert!(drawn.error > 0.0 && (exact.probability - drawn.probability).abs() < 2.0 * drawn.error);
    }
}
