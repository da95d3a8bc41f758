//! How likely it is that stores which fail together hold every replica of something: `cairn-bench copysets`.
//!
//! Data is lost when all members of one group are lost before any of it was copied elsewhere. Which sets of stores make
//! up groups (the copysets: Cidon et al., USENIX ATC 2013) therefore decides how likely any loss is, while the bytes lost
//! in the long run are the same for every placement. Beside the placement of the product stand the two extremes: every
//! block on stores drawn for it alone, and stores cut into fixed sets that share nothing.

mod chance;

use crate::args::Copysets;
use anyhow::{Result, ensure};
use cairn_meta::limits::{GROUP_BYTES_MAX, GROUPS_PER_TX};
use cairn_meta::placement::{Candidate, plan};
use cairn_proto::limits::BLOCK_LEN_DEFAULT;
use chance::{Chance, combinations, copysets};
use fastrand::Rng;
use serde::Serialize;
use std::collections::BTreeSet;

/// Blocks of a group when it is sealed.
const BLOCKS_PER_GROUP: f64 = (GROUP_BYTES_MAX / BLOCK_LEN_DEFAULT as u64) as f64;

/// Everything computed.
#[derive(Serialize)]
pub struct Report {
    version: &'static str,
    seed: u64,
    replicas: usize,
    /// Draws of failing stores for a row that is not exact.
    trials: u64,
    rows: Vec<Row>,
}

/// A cluster of as many stores as nodes, of which some fail at the same moment.
#[derive(Serialize)]
struct Row {
    nodes: usize,
    /// Groups each store is a member of.
    groups_per_store: usize,
    losses: usize,
    groups: usize,
    /// The product's placement.
    ours: Placed,
    /// Stores cut into sets that share nothing.
    disjoint: Placed,
    /// Each block on stores of its own; as many full blocks as the groups hold. Exact.
    per_block: f64,
    /// The part of all bytes that such a failure costs in the mean over all failures, whatever the placement.
    lost_share_mean: f64,
}

#[derive(Serialize)]
struct Placed {
    /// Sets of stores that are a group.
    copysets: usize,
    /// Stores that share a group with a store, in the mean: so many help to rebuild a lost one.
    peers_mean: f64,
    #[serde(flatten)]
    chance: Chance,
}

/// Groups as the product makes them: some in each transaction, planned with what every store has by then.
fn ours(nodes: usize, replicas: usize, groups: usize, rng: &mut Rng) -> Vec<Vec<u32>> {
    let candidate = |store| Candidate { store, node: store, domains: Default::default(), load: 0, weight: 1 };
    let mut stores: Vec<Candidate> = (0..nodes as u32).map(candidate).collect();
    let mut made: Vec<Vec<u32>> = Vec::new();
    while made.len() < groups {
        let some = plan(&stores, replicas, &made, (groups - made.len()).min(GROUPS_PER_TX), rng);
        for store in some.iter().flatten() {
            stores[*store as usize].load += 1;
        }
        made.extend(some);
    }
    made
}

/// Sets of stores that share nothing; those that are left over stay empty.
fn disjoint(nodes: usize, replicas: usize) -> Vec<Vec<u32>> {
    let stores: Vec<u32> = (0..nodes as u32).collect();
    stores.chunks_exact(replicas).map(<[u32]>::to_vec).collect()
}

fn peers_mean(nodes: usize, sets: &[Vec<u32>]) -> f64 {
    let pairs = sets.iter().flat_map(|set| set.iter().flat_map(|a| set.iter().map(move |b| (*a, *b))));
    let peers: BTreeSet<(u32, u32)> = pairs.filter(|(a, b)| a != b).collect();
    peers.len() as f64 / nodes as f64
}

fn placed(nodes: usize, losses: usize, groups: &[Vec<u32>], trials: u64, rng: &mut Rng) -> Placed {
    let sets = copysets(groups);
    let chance = chance::of(nodes, losses, groups, trials, rng);
    Placed { copysets: sets.len(), peers_mean: peers_mean(nodes, &sets), chance }
}

/// Any of `blocks` blocks, each on stores of its own draw, lies wholly on the failed ones.
fn per_block(nodes: usize, replicas: usize, losses: usize, blocks: f64) -> f64 {
    let one = combinations(losses, replicas) / combinations(nodes, replicas);
    -(blocks * (-one).ln_1p()).exp_m1()
}

/// Computes a row for each combination of what was asked for.
///
/// # Errors
/// There are fewer nodes than replicas.
pub fn run(args: &Copysets) -> Result<Report> {
    let mut rng = Rng::with_seed(args.seed);
    let mut rows = Vec::new();
    eprintln!("| nodes | groups per store | stores lost | our groups | each block by itself | disjoint sets |");
    eprintln!("|---|---|---|---|---|---|");
    for nodes in args.nodes.iter().copied() {
        ensure!(nodes >= args.replicas, "{nodes} nodes cannot hold {} replicas", args.replicas);
        for groups_per_store in args.groups_per_store.iter().copied() {
            let groups = (groups_per_store * nodes).div_ceil(args.replicas);
            let (ours, disjoint) = (ours(nodes, args.replicas, groups, &mut rng), disjoint(nodes, args.replicas));
            for losses in args.losses.iter().copied().filter(|losses| *losses < nodes) {
                let row = Row {
                    nodes,
                    groups_per_store,
                    losses,
                    groups,
                    ours: placed(nodes, losses, &ours, args.trials, &mut rng),
                    disjoint: placed(nodes, losses, &disjoint, args.trials, &mut rng),
                    per_block: per_block(nodes, args.replicas, losses, groups as f64 * BLOCKS_PER_GROUP),
                    lost_share_mean: combinations(losses, args.replicas) / combinations(nodes, args.replicas),
                };
                eprintln!("{}", row.line());
                rows.push(row);
            }
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    Ok(Report { version, seed: args.seed, replicas: args.replicas, trials: args.trials, rows })
}

impl Row {
    fn line(&self) -> String {
        let (ours, disjoint) = (percent(self.ours.chance.probability), percent(self.disjoint.chance.probability));
        let head = format!("| {} | {} | {} |", self.nodes, self.groups_per_store, self.losses);
        format!("{head} {ours} | {} | {disjoint} |", percent(self.per_block))
    }
}

/// With the two digits that are known.
fn percent(probability: f64) -> String {
    match probability * 100.0 {
        0.0 => "0 %".to_owned(),
        some if some >= 10.0 => format!("{some:.0} %"),
        some if some >= 1.0 => format!("{some:.1} %"),
        some => {
            let digits = (1.0 - some.log10().floor()) as usize;
            format!("{some:.digits$} %")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_groups_are_even_and_have_the_number_asked_for() {
        let groups = ours(10, 3, 200, &mut Rng::with_seed(1));
        assert_eq!(groups.len(), 200);
        let load = |store: u32| groups.iter().flatten().filter(|member| **member == store).count();
        assert!((0..10).all(|store| load(store) == 60));
        assert!(copysets(&groups).len() <= 120);
    }

    #[test]
    fn more_losses_are_worse_and_blocks_by_themselves_worst() {
        let mut rng = Rng::with_seed(2);
        let groups = ours(30, 3, 60, &mut rng);
        let mut before = 0.0;
        for losses in [2, 3, 5, 8] {
            let ours = placed(30, losses, &groups, 20_000, &mut rng).chance.probability;
            let fixed = placed(30, losses, &disjoint(30, 3), 20_000, &mut rng).chance.probability;
            let single = per_block(30, 3, losses, 60.0 * BLOCKS_PER_GROUP);
            assert!(fixed <= ours && ours <= single && ours >= before, "{losses}: {fixed} {ours} {single}");
            assert_eq!(ours == 0.0, losses < 3);
            before = ours;
        }
    }

    #[test]
    fn blocks_by_themselves_are_as_a_simulation_finds() {
        let (nodes, blocks, mut rng) = (12, 40, Rng::with_seed(3));
        let runs = 4000;
        let lost = (0..runs).filter(|_| {
            let mut hit = (0..blocks).map(|_| chance::draw(nodes, 3, &mut rng));
            // Which stores fail does not matter: blocks are drawn over all.
            hit.any(|block| block.iter().all(|store| *store < 5))
        });
        let found = lost.count() as f64 / f64::from(runs);
        let known = per_block(nodes, 3, 5, f64::from(blocks));
        assert!((found - known).abs() < 0.03, "{found} {known}");
    }

    #[test]
    fn fixed_sets_share_nothing() {
        let sets = disjoint(11, 3);
        assert_eq!((sets.len(), peers_mean(9, &disjoint(9, 3))), (3, 2.0));
        assert_eq!(copysets(&[vec![2, 1], vec![1, 2], vec![3, 1]]), [[1, 2], [1, 3]]);
    }

    #[test]
    fn percentages_show_what_is_known() {
        for (probability, text) in [(0.0, "0 %"), (1.0, "100 %"), (0.0234, "2.3 %"), (0.000_012_34, "0.0012 %")] {
            assert_eq!(percent(probability), text);
        }
    }
}
