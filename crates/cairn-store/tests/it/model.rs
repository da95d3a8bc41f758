//! The store equals a map, whatever is done to it and however often it is reopened.

use crate::sim_disk::SimDisk;
use crate::support::*;
use cairn_proto::PgId;
use cairn_store::{BlockInfo, BlockKey, Cause, Durability, PutError, ReadError, StoreOptions};
use proptest::prelude::*;
use std::collections::BTreeMap;

const KEYS: u32 = 12;

#[derive(Clone, Debug)]
enum Step {
    Put { n: u32, variant: u32, durability: Durability },
    Delete(Vec<u32>),
    Quarantine(u32),
    Sync,
    Reopen { clean: bool, keep_checkpoint: bool },
    Checkpoint,
    Maintain,
}

#[derive(Clone, Debug, PartialEq)]
enum Held {
    Live(u32),
    Quarantined,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let durability = prop::sample::select(vec![Durability::Durable, Durability::Unsynced, Durability::Relaxed]);
    let step = prop_oneof![
        8 => (0..KEYS, 0u32..2, durability).prop_map(|(n, variant, durability)| Step::Put { n, variant, durability }),
        3 => prop::collection::vec(0..KEYS, 0..4).prop_map(Step::Delete),
        1 => (0..KEYS).prop_map(Step::Quarantine),
        1 => Just(Step::Sync),
        1 => Just(Step::Checkpoint),
        2 => Just(Step::Maintain),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(clean, keep_checkpoint)| Step::Reopen { clean, keep_checkpoint }),
    ];
    prop::collection::vec(step, 0..100)
}

/// Segments of a few blocks or endless ones; compaction never, seldom or at once; nothing kept for reuse or all.
fn variants() -> impl Strategy<Value = StoreOptions> {
    let compaction = prop::sample::select(vec![0, 25, 90]);
    (any::<bool>(), compaction, any::<bool>()).prop_map(|(small_segments, compact_below_percent, keep)| StoreOptions {
        segment_len: if small_segments { 150_000 } else { 1 << 30 },
        compact_below_percent,
        recycle_bytes: if keep { None } else { Some(0) },
        ..manual()
    })
}

/// Two contents of different lengths for each key.
fn variant_of(n: u32, variant: u32) -> Vec<u8> {
    content(n * 2 + variant, [1, 5000, 70_000, 140_000][(n + variant) as usize % 4] + variant as usize)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn equals_a_map(steps in steps(), variant in variants()) {
        let options = || variant.clone();
        let disk = SimDisk::new();
        let mut store = open(&disk, options()).0;
        let mut model: BTreeMap<BlockKey, Held> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put { n, variant, durability } => {
                    let result = put(&store, put_of(key(n), variant_of(n, variant), durability));
                    match model.get(&key(n)) {
                        Some(Held::Live(other)) if *other != variant => {
                            prop_assert!(matches!(result, Err(PutError::Conflict(_))));
                        }
                        held => {
                            prop_assert_eq!(result.unwrap().existed, matches!(held, Some(Held::Live(_))));
                            model.insert(key(n), Held::Live(variant));
                        }
                    }
                }
                Step::Delete(keys) => {
                    let keys: Vec<_> = keys.into_iter().map(key).collect();
                    let deleted = delete(&store, keys.clone()).unwrap().deleted;
                    prop_assert_eq!(deleted, keys.iter().filter_map(|key| model.remove(key)).count());
                }
                Step::Quarantine(n) => {
                    let held = model.get_mut(&key(n));
                    prop_assert_eq!(store.quarantine(key(n), Cause::Payload), matches!(held, Some(Held::Live(_))));
                    if let Some(held) = held {
                        *held = Held::Quarantined;
                    }
                }
                Step::Sync => {
                    let missing = sync(&store, (0..KEYS).map(key).collect()).unwrap().missing;
                    prop_assert!(missing.iter().all(|key| !matches!(model.get(key), Some(Held::Live(_)))));
                }
                Step::Checkpoint => store.checkpoint(),
                Step::Maintain => store.maintain(),
                Step::Reopen { clean, keep_checkpoint } => {
                    if clean {
                        drop(store);
                    } else {
                        // The process dies, the machine does not: nothing accepted is lost but a quarantine.
                        store.checkpoint();
                        disk.kill();
                        drop(store);
                    }
                    if !keep_checkpoint {
                        disk.vanish("checkpoint");
                    }
                    let (opened, report) = open(&disk, options());
                    prop_assert!(report.quarantined.is_empty() && report.skipped.is_empty(), "{report:?}");
                    store = opened;
                    if !keep_checkpoint {
                        // Only the checkpoint knew that records were quarantined whose bytes are good.
                        adopt(&store, &mut model);
                    }
                }
            }
            compare(&store, &model)?;
        }
    }
}

/// Takes over which variant a formerly quarantined block has.
fn adopt(store: &cairn_store::Store, model: &mut BTreeMap<BlockKey, Held>) {
    for (key, held) in model {
        let bytes = read(store, *key).unwrap();
        let n = key.block.seq.0;
        let variant = (0..2).find(|variant| variant_of(n, *variant) == bytes).expect("content of this block");
        *held = Held::Live(variant);
    }
}

fn compare(store: &cairn_store::Store, model: &BTreeMap<BlockKey, Held>) -> Result<(), TestCaseError> {
    let mut live = Vec::new();
    for n in 0..KEYS {
        match (read(store, key(n)), model.get(&key(n))) {
            (Ok(bytes), Some(Held::Live(variant))) if bytes == variant_of(n, *variant) => {
                live.push(BlockInfo { key: key(n), len: bytes.len() as u32 });
            }
            (Err(ReadError::NotFound { .. }), None) | (Err(ReadError::Quarantined { .. }), Some(Held::Quarantined)) => {
            }
            (found, held) => prop_assert!(false, "block {n}: {:?}, model {held:?}", found.map(|bytes| bytes.len())),
        }
    }
    live.sort_by_key(|block| block.key);
    prop_assert_eq!(store.list(PG, None, 100), live);
    prop_assert_eq!(store.list(PgId(1), None, 100), vec![]);
    let usage = store.usage();
    prop_assert_eq!(usage.blocks, model.len() as u64);
    prop_assert_eq!(usage.quarantined, model.values().filter(|held| **held == Held::Quarantined).count() as u64);
    prop_assert_eq!(store.quarantined().len() as u64, usage.quarantined);
    Ok(())
}
