//! Many clients of several servers at a few names: whatever they were told has to fit one order of their operations that no
//! clock contradicts (linearizability: Herlihy and Wing 1990; the search is that of Wing and Gong 1993 with the memory of
//! Lowe 2017).

use super::flaky::FlakyEngine;
use super::ops::{Answer, Op, Tree};
use super::reference::Reference;
use super::subject::Subject;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const CLIENTS: u64 = 4;
const OPS_PER_CLIENT: usize = 7;
/// Histories of every run.
const HISTORIES: u64 = 600;

/// An operation, between two moments.
#[derive(Clone, Debug)]
struct Entry {
    op: Op,
    answer: Answer,
    invoked: u64,
    returned: u64,
}

/// Whether there is an order of what is not in `done` that explains every answer and ends in `last`.
fn fits(history: &[Entry], state: &Reference, done: u64, last: &Tree, seen: &mut HashSet<(u64, Tree)>) -> bool {
    let tree = state.tree();
    if done.count_ones() as usize == history.len() {
        return tree == *last;
    }
    if !seen.insert((done, tree)) {
        return false;
    }
    let left = || history.iter().enumerate().filter(|(index, _)| done & (1 << index) == 0);
    let first_return = left().map(|(_, entry)| entry.returned).min().expect("not all are done");
    left().filter(|(_, entry)| entry.invoked < first_return).any(|(index, entry)| {
        let mut next = state.clone();
        next.apply(&entry.op) == entry.answer && fits(history, &next, done | 1 << index, last, seen)
    })
}

async fn client(engine: Arc<FlakyEngine>, clock: Arc<AtomicU64>, seed: u64) -> Vec<Entry> {
    let mut subject = Subject::open(engine, seed).await;
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut entries = Vec::new();
    for _ in 0..OPS_PER_CLIENT {
        let op = Op::draw_contended(&mut rng);
        let invoked = clock.fetch_add(1, Ordering::SeqCst);
        let answer = subject.apply(&op).await;
        entries.push(Entry { op, answer, invoked, returned: clock.fetch_add(1, Ordering::SeqCst) });
    }
    entries
}

#[tokio::test]
async fn what_many_clients_of_several_servers_are_told_fits_one_order() {
    let (mut overlaps, mut done) = (0, 0);
    let histories = super::seeds(HISTORIES);
    for seed in 0..histories {
        let engine = Arc::new(FlakyEngine::new(crate::engine::fresh().await, seed, true));
        let clock = Arc::new(AtomicU64::new(0));
        // One runtime thread: which client goes on when is the engine's choice, and so the seed's.
        let clients: Vec<_> = (1..=CLIENTS)
            .map(|number| tokio::spawn(client(engine.clone(), clock.clone(), seed * CLIENTS + number)))
            .collect();
        let mut history = Vec::new();
        for entries in clients {
            history.extend(entries.await.expect("a client"));
        }
        engine.heal();
        let mut subject = Subject::open(engine, seed).await;
        let last = subject.tree().await;
        subject.check().await;
        history.sort_by_key(|entry| entry.invoked);
        overlaps += history.windows(2).filter(|pair| pair[1].invoked < pair[0].returned).count();
        done += history.iter().filter(|entry| entry.answer == Answer::Done).count();
        let fit = fits(&history, &Reference::new(), 0, &last, &mut HashSet::new());
        let story = || history.iter().map(|entry| format!("{entry:?}\n")).collect::<String>();
        assert!(fit, "no order explains seed {seed}, which ends in {last:?}:\n{}", story());
    }
    let ops = histories as usize * CLIENTS as usize * OPS_PER_CLIENT;
    assert!(overlaps * 5 > ops, "only {overlaps} of {ops} operations overlap the next");
    assert!(done * 10 > ops, "only {done} of {ops} operations changed something");
}

#[test]
fn an_answer_that_fits_no_order_is_found() {
    let made = |path: &str, answer, invoked, returned| Entry {
        op: Op::Mkdir { path: path.into(), mode: 0o755 },
        answer,
        invoked,
        returned,
    };
    let ends_with = |history: &[Entry]| {
        let mut state = Reference::new();
        state.apply(&history[0].op);
        fits(history, &Reference::new(), 0, &state.tree(), &mut HashSet::new())
    };
    assert!(ends_with(&[made("/a", Answer::Done, 0, 3), made("/a", Answer::Exists, 1, 2)]));
    assert!(!ends_with(&[made("/a", Answer::Done, 2, 3), made("/a", Answer::Exists, 0, 1)]), "before it was made");
    assert!(!ends_with(&[made("/a", Answer::Done, 0, 3), made("/a", Answer::Done, 1, 2)]), "made twice");
    assert!(!ends_with(&[made("/a", Answer::Exists, 0, 1)]), "there and never made");
}
