//! Power failures and failing disks at any point of any sequence of operations, by seed: with checkpoints, compaction and
//! reuse of segment files between them.
//!
//! After each one: every block acknowledged as durable is there and intact, no deleted one is, and what was never
//! acknowledged is whole, gone or quarantined. More seeds: `CAIRN_CRASH_SEEDS=3000`, from `CAIRN_CRASH_FIRST=0`.

use crate::sim_disk::{Faults, SimDisk};
use crate::support::*;
use cairn_store::{Durability, ReadError, Store, StoreOptions};
use std::collections::BTreeMap;
use std::sync::Arc;

const KEYS: u32 = 24;

/// What the acknowledgements so far promise about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    Present,
    Absent,
    /// Whole, gone or quarantined.
    Open,
}

struct Life {
    disk: Arc<SimDisk>,
    rng: fastrand::Rng,
    promises: BTreeMap<u32, Promise>,
    options: StoreOptions,
}

fn len_of(n: u32) -> usize {
    [1, 700, 4096, 9000, 70_000, 150_000][n as usize % 6]
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let options = StoreOptions {
            segment_len: [200_000, 600_000, 1 << 30][rng.usize(..3)],
            checkpoint_bytes: [50_000, 500_000, 1 << 40][rng.usize(..3)],
            recycle_bytes: [None, Some(0), Some(300_000)][rng.usize(..3)],
            reach_step: [20_000, 100_000, 1 << 40][rng.usize(..3)],
            compact_below_percent: [0, 25, 90, 90][rng.usize(..4)],
            entropy: entropy(seed),
            ..manual()
        };
        let promises = (0..KEYS).map(|n| (n, Promise::Absent)).collect();
        Self { disk: SimDisk::new(), rng, promises, options }
    }

    /// Sends a batch of random requests and notes what their answers promise.
    fn batch(&mut self, store: &Store) {
        let mut puts = Vec::new();
        let mut deletes = Vec::new();
        let mut syncs = Vec::new();
        // Each key once in a batch, so that the order of answers does not matter.
        let mut keys: Vec<u32> = (0..KEYS).collect();
        self.rng.shuffle(&mut keys);
        for n in keys.into_iter().take(self.rng.usize(1..8)) {
            match self.rng.u32(..10) {
                0..7 => {
                    let durability =
                        [Durability::Durable, Durability::Unsynced, Durability::Relaxed][self.rng.usize(..3)];
                    puts.push((n, begin_put(store, put_of(key(n), content(n, len_of(n)), durability))));
                }
                7..9 => deletes.push((n, begin_delete(store, vec![key(n)]))),
                _ => syncs.push(begin_sync(store, (0..KEYS).map(key).collect())),
            }
        }
        store.run_pending();
        for (n, answer) in puts {
            let promise = self.promises.get_mut(&n).unwrap();
            match answer.recv().unwrap() {
                Ok(ack) if ack.durable => *promise = Promise::Present,
                Ok(_) | Err(_) if *promise == Promise::Present => {}
                Ok(_) | Err(_) => *promise = Promise::Open,
            }
        }
        for (n, answer) in deletes {
            let promise = self.promises.get_mut(&n).unwrap();
            match answer.recv().unwrap() {
                Ok(_) => *promise = Promise::Absent,
                Err(_) if *promise == Promise::Absent => {}
                Err(_) => *promise = Promise::Open,
            }
        }
        // Whatever was accepted before is durable if it is not missing; blocks put in this very batch may come later.
        let asked = begin_sync(store, (0..KEYS).map(key).collect());
        syncs.into_iter().for_each(|answer| drop(answer.recv().unwrap()));
        if self.rng.bool() {
            store.run_pending();
            if let Ok(ack) = asked.recv().unwrap() {
                for (n, promise) in &mut self.promises {
                    if !ack.missing.contains(&key(*n)) {
                        *promise = Promise::Present;
                    }
                }
            }
        }
    }

    /// What goes wrong in this life, besides that it ends.
    fn misfortune(&mut self) {
        let rng = &mut self.rng;
        let (few, some) = (rng.u64(..6), rng.u64(..60));
        let segments = self.disk.segments();
        let segment = rng.choice(&segments).cloned();
        let kind = rng.u32(..10);
        let bytes = rng.usize(..400_000);
        self.disk.faults(|faults| match kind {
            0..4 => faults.power_for = Some(some),
            4 => faults.fail_sync_after = Some(few),
            5 => faults.fail_write_after = Some(few),
            6 => faults.fail_reads_of = segment,
            7 => faults.fail_name_after = Some(few),
            8 => faults.full_after = Some(bytes),
            _ => {}
        });
    }

    /// The end of a life: mostly the power fails; after an I/O error often only the process dies, and the page cache goes
    /// on showing what the disk does not have.
    fn end(&mut self, failed: bool) {
        if failed && self.rng.bool() {
            self.disk.faults(|faults| *faults = Faults::default());
            self.disk.kill();
        } else {
            self.disk.crash(&mut self.rng);
        }
    }

    fn check(&mut self, store: &Store, seed: u64, lost_checkpoint: bool) {
        for (n, promise) in &mut self.promises {
            let found = read(store, key(*n));
            match (&found, *promise) {
                (Ok(bytes), Promise::Present | Promise::Open) if *bytes == content(*n, len_of(*n)) => {
                    // What was served after opening is durable.
                    *promise = Promise::Present;
                }
                (Err(ReadError::NotFound { .. }), Promise::Absent | Promise::Open) => *promise = Promise::Absent,
                (Err(ReadError::Quarantined { .. }), Promise::Open) => {}
                // With a checkpoint the quarantine is lost; the reader's checksums find the damage again.
                (Err(ReadError::Corrupt { .. }), Promise::Open) if lost_checkpoint => {}
                _ => panic!("seed {seed}: block {n} promised {promise:?}: {:?}", found.map(|bytes| bytes.len())),
            }
        }
        let live = self.promises.iter().filter(|(_, promise)| **promise == Promise::Present);
        let mut expected: Vec<_> = live.map(|(n, _)| key(*n)).collect();
        expected.sort();
        let listed: Vec<_> = store.list(PG, None, usize::MAX).into_iter().map(|block| block.key).collect();
        assert_eq!(listed, expected, "seed {seed}");
    }
}

/// What happened in all lives, so that a test that exercises nothing is noticed.
#[derive(Default)]
struct Seen {
    poisoned: u64,
    moved: u64,
    removed: u64,
    recycled: u64,
    punched: u64,
}

impl Seen {
    fn add(&mut self, store: &Store) {
        let counts = store.counts();
        self.poisoned += u64::from(store.usage().poisoned.is_some());
        self.moved += counts.moved_blocks;
        self.removed += counts.removed_segments;
        self.recycled += counts.recycled_segments;
        self.punched += counts.punched_bytes;
    }
}

fn run(seed: u64, seen: &mut Seen) {
    let mut life = Life::new(seed);
    let lives = life.rng.usize(2..6);
    let mut lost_checkpoint = false;
    for turn in 0..lives {
        // Power, or the disk, may fail while the store is opened, too.
        if life.rng.bool() {
            let changes = life.rng.u64(..30);
            if life.rng.bool() {
                life.disk.faults(|faults| faults.power_for = Some(changes));
            } else {
                life.misfortune();
            }
            let mut failed = true;
            if let Ok((store, _)) = Store::open(life.disk.mount(), life.options.clone()) {
                life.batch(&store);
                failed = store.usage().poisoned.is_some();
            }
            life.end(failed);
        }
        // The checkpoint is an optimization: without it the same blocks are found.
        let without_checkpoint = turn > 0 && life.rng.u32(..4) == 0;
        lost_checkpoint |= without_checkpoint;
        if without_checkpoint && life.disk.names().contains(&"checkpoint".to_owned()) {
            life.disk.vanish("checkpoint");
        }
        let (store, report) = open(&life.disk, life.options.clone());
        assert!(without_checkpoint || !report.is_damaged(), "seed {seed}: {report:?}");
        life.check(&store, seed, lost_checkpoint);
        life.misfortune();
        for _ in 0..life.rng.usize(1..14) {
            life.batch(&store);
            match life.rng.u32(..10) {
                0 => store.checkpoint(),
                1 | 2 => store.maintain(),
                _ => {}
            }
        }
        if life.rng.u32(..6) == 0 {
            store.close();
        }
        seen.add(&store);
        life.end(store.usage().poisoned.is_some());
        drop(store);
    }
    let (store, report) = open(&life.disk, life.options.clone());
    assert!(!report.is_damaged(), "seed {seed}: {report:?}");
    life.check(&store, seed, lost_checkpoint);
}

#[test]
fn acknowledged_blocks_survive_every_crash() {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    let (first, seeds) = (number("CAIRN_CRASH_FIRST").unwrap_or(0), number("CAIRN_CRASH_SEEDS").unwrap_or(200));
    let mut seen = Seen::default();
    for seed in first..first + seeds {
        run(seed, &mut seen);
    }
    let Seen { poisoned, moved, removed, recycled, punched } = seen;
    println!("{poisoned} stores poisoned, {moved} blocks moved, {removed} segments removed, {recycled} recycled");
    assert!(seeds < 100 || (poisoned > 20 && moved > 100 && removed > 50 && recycled > 20 && punched > 1_000_000));
}
