use super::*;
use proptest::prelude::*;

fn key(n: u64) -> BlockKey {
    BlockKey::replica(BlockId::new(n / 64, n / 16 % 4, (n % 16) as u32))
}

fn entry(n: u64, page: u32) -> Entry {
    Entry::new(key(n), PgId(1), 1, page, 10)
}

/// Spreads numbers so that inserts come in no order.
fn scatter(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

#[test]
fn memory_stays_below_64_bytes_a_block() {
    let count = 200_000;
    for order in [|n| n, scatter] {
        let mut index = Index::default();
        for n in 0..count {
            index.insert(entry(order(n), 1));
        }
        assert_eq!(index.len(), count);
        let per_block = index.heap_bytes() as u64 / count;
        assert!(per_block <= 50, "{per_block} bytes");
        // Three of four gone: small chunks have merged.
        for n in (0..count).filter(|n| n % 4 != 0) {
            assert!(index.remove(key(order(n))).is_some());
        }
        let per_block = index.heap_bytes() as u64 / index.len();
        assert!(per_block <= 64, "{per_block} bytes after removal");
    }
}

#[test]
fn a_snapshot_does_not_change() {
    let mut index = Index::default();
    for n in 0..1000 {
        index.insert(entry(n, 1));
    }
    let snapshot = index.clone();
    for n in 0..1000 {
        index.insert(entry(n, 2));
        index.remove(key(n / 2));
    }
    assert_eq!(snapshot.len(), 1000);
    assert!(snapshot.iter().enumerate().all(|(n, found)| *found == entry(n as u64, 1)));
}

#[test]
fn building_in_order_gives_what_inserting_gives() {
    for count in [0, 1, 255, 256, 257, 1000, 10_000] {
        let (mut built, mut index) = (IndexBuilder::default(), Index::default());
        for n in 0..count {
            built.push(entry(n, 1)).unwrap();
            index.insert(entry(n, 1));
        }
        assert!(count == 0 || built.push(entry(count - 1, 1)).is_none(), "twice the same key");
        let mut built = built.finish();
        assert_eq!(built.len(), index.len());
        assert!(built.iter().eq(index.iter()));
        // It grows and shrinks as any other.
        for n in (0..count + 500).rev() {
            assert_eq!(built.insert(entry(n, 2)), index.insert(entry(n, 2)));
        }
        assert_eq!(built.remove(key(0)), index.remove(key(0)));
        assert!(built.iter().eq(index.iter()) && built.get(key(1)) == index.get(key(1)));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, u32),
    Remove(u64),
    RemoveRange(u64, u64),
    Quarantine(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let n = 0u64..1500;
    prop::collection::vec(
        prop_oneof![
            6 => (n.clone(), any::<u32>()).prop_map(|(n, page)| Step::Insert(n, page)),
            2 => n.clone().prop_map(Step::Remove),
            1 => (n.clone(), 0u64..200).prop_map(|(n, count)| Step::RemoveRange(n, count)),
            1 => n.prop_map(Step::Quarantine),
        ],
        0..2500,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn equals_a_btreemap(steps in steps(), after in 0u64..1500) {
        let mut index = Index::default();
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Insert(n, page) => prop_assert_eq!(index.insert(entry(n, page)), model.insert(key(n), entry(n, page))),
                Step::Remove(n) => prop_assert_eq!(index.remove(key(n)), model.remove(&key(n))),
                Step::RemoveRange(n, count) => for n in n..n + count {
                    prop_assert_eq!(index.remove(key(n)), model.remove(&key(n)));
                },
                Step::Quarantine(n) => {
                    let known = model.get_mut(&key(n)).map(|entry| entry.state = State::Quarantined).is_some();
                    prop_assert_eq!(index.set_state(key(n), State::Quarantined), known);
                }
            }
        }
        prop_assert_eq!(index.len(), model.len() as u64);
        prop_assert!(index.iter().eq(model.values()));
        let behind = model.range((Bound::Excluded(key(after)), Bound::Unbounded)).map(|(_, entry)| entry);
        prop_assert!(index.iter_after(Some(key(after))).eq(behind));
        for n in 0..1500 {
            prop_assert_eq!(index.get(key(n)), model.get(&key(n)));
        }
    }
}
