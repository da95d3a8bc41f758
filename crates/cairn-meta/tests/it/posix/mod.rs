//! Random sequences of operations on names, done by metadata whose engine conflicts, fails and leaves outcomes open, with
//! crashes and repetitions in between; by a file system in memory that is as simple as its rules; and by the file system of
//! this machine. After every step all three have given the same answer and hold the same tree.

mod flaky;
mod linear;
mod local;
mod ops;
mod reference;
mod subject;

use flaky::FlakyEngine;
use local::Local;
use ops::{Answer, Op, Tree};
use reference::Reference;
use std::sync::Arc;
use subject::Subject;

/// Operations of one seed.
const OPS: usize = 60;
/// Trees are held against each other after so many operations, and at the end.
const TREE_EVERY: usize = 12;
/// Seeds of each test; `CAIRN_POSIX_SEEDS` asks for others.
const SEEDS: u64 = 1000;
/// Seeds that are also done on this machine's file system, which is slower.
const SEEDS_LOCAL: u64 = 300;

fn seeds(usual: u64) -> u64 {
    std::env::var("CAIRN_POSIX_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// What one seed saw besides its answers.
#[derive(Default)]
struct Seen {
    done: usize,
    refused: usize,
    conflicts: u64,
    unknown: u64,
    failures: u64,
    crashes: u64,
}

async fn run(seed: u64, faults: bool, with_local: bool) -> Seen {
    let mut rng = fastrand::Rng::with_seed(seed);
    let engine = Arc::new(FlakyEngine::new(crate::engine::fresh().await, seed, faults));
    let mut subject = Subject::open(engine.clone(), seed).await;
    let mut reference = Reference::new();
    let local = with_local.then(Local::new);
    let mut seen = Seen::default();
    let mut history: Vec<String> = Vec::new();
    for step in 0..OPS {
        let op = Op::draw(&mut rng, &reference.tree());
        let expected = reference.apply(&op);
        let found = subject.apply(&op).await;
        history.push(format!("{op:?} -> {expected:?}"));
        let story = || format!("seed {seed}, step {step}:\n{}", history.join("\n"));
        assert_eq!(found, expected, "{}", story());
        if let Some(local) = &local {
            assert_eq!(
                local.apply(&op),
                expected,
                "this machine's file system says otherwise than the model; {}",
                story()
            );
        }
        match expected {
            Answer::Done | Answer::Seen(_) => seen.done += 1,
            _ => seen.refused += 1,
        }
        if (step + 1) % TREE_EVERY == 0 || step + 1 == OPS {
            let tree: Tree = reference.tree();
            assert_eq!(subject.tree().await, tree, "{}", story());
            if let Some(local) = &local {
                assert_eq!(local.tree(), tree, "this machine's file system; {}", story());
            }
        }
    }
    subject.check().await;
    seen.conflicts = engine.counts().conflicts;
    seen.unknown = engine.counts().unknown;
    seen.failures = engine.counts().failures;
    seen.crashes = subject.crashes;
    seen
}

async fn run_all(seeds: std::ops::Range<u64>, faults: bool, with_local: bool) -> Seen {
    let mut sum = Seen::default();
    for seed in seeds {
        let seen = run(seed, faults, with_local).await;
        sum.done += seen.done;
        sum.refused += seen.refused;
        sum.conflicts += seen.conflicts;
        sum.unknown += seen.unknown;
        sum.failures += seen.failures;
        sum.crashes += seen.crashes;
    }
    // Otherwise the sequences have become so one-sided that they show little.
    assert!(sum.done * 4 > sum.refused && sum.refused * 8 > sum.done, "{} done, {} refused", sum.done, sum.refused);
    sum
}

#[tokio::test]
async fn metadata_does_what_the_model_and_this_machine_do() {
    run_all(0..seeds(SEEDS_LOCAL), false, true).await;
}

#[tokio::test]
async fn conflicts_open_outcomes_and_crashes_change_nothing() {
    let seen = run_all(0..seeds(SEEDS), true, false).await;
    for (what, count) in [
        ("conflicts", seen.conflicts),
        ("unknown outcomes", seen.unknown),
        ("failures", seen.failures),
        ("crashes", seen.crashes),
    ] {
        assert!(count >= seeds(SEEDS) / 10, "only {count} {what}");
    }
}

#[tokio::test]
async fn so_it_is_with_other_seeds() {
    let seeds = seeds(SEEDS);
    run_all(1_000_000..1_000_000 + seeds, true, false).await;
}
