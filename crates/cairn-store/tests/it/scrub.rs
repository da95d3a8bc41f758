//! Reading back what is held: in the order of the disk, past the page cache, and what digests say of an inventory.

use crate::sim_disk::SimDisk;
use crate::support::*;
use cairn_proto::WriterId;
use cairn_store::{
    BlockKey, Cause, ComparedWriters, Durability, LogPosition, PartDigest, ReadError, RealDisk, ScrubItem, Scrubbed,
    Store, part_of,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// All blocks in the order of the disk, asked for in stretches of at most so many.
fn everything(store: &Store, limit: u64) -> Vec<ScrubItem> {
    let (mut all, mut from) = (Vec::new(), Some(LogPosition::default()));
    while let Some(position) = from {
        let stretch = store.stretch(position, store.newest_segment(), limit);
        all.extend(stretch.items);
        from = stretch.next;
    }
    all
}

fn filled(disk: &Arc<SimDisk>) -> Store {
    let (store, _) = open(disk, manual());
    for n in 0..20 {
        put_durable(&store, n, 200_000);
    }
    store
}

#[test]
fn blocks_come_in_the_order_of_the_disk_however_they_are_asked_for() {
    let disk = SimDisk::new();
    let store = filled(&disk);
    delete(&store, vec![key(3), key(7)]).unwrap();
    let written: Vec<BlockKey> = (0..20).filter(|n| ![3, 7].contains(n)).map(key).collect();
    for limit in [1, 7, 1000] {
        let all = everything(&store, limit);
        assert_eq!(all.iter().map(ScrubItem::key).collect::<Vec<_>>(), written, "stretches of {limit}");
        assert!(all.is_sorted_by_key(ScrubItem::position));
        assert_eq!(all.iter().map(ScrubItem::disk_len).sum::<u64>(), store.scrub_bytes());
    }
    // From the middle on, as after a restart.
    let middle = everything(&store, 1000)[9].position();
    assert_eq!(store.stretch(middle, store.newest_segment(), 1000).items[0].key(), written[9]);
    // What was appended later is left for the next time.
    let newest = store.newest_segment();
    for n in 20..40 {
        put_durable(&store, n, 200_000);
    }
    let bounded = store.stretch(LogPosition::default(), newest, 1000);
    assert!(bounded.items.iter().all(|item| item.position().segment <= newest) && bounded.next.is_none());
}

#[test]
fn damage_under_a_running_store_is_found_quarantined_and_nothing_else_is() {
    let disk = SimDisk::new();
    let store = filled(&disk);
    let segments = disk.segments();
    // A header, a payload, a cut-off end; each in a segment of its own.
    disk.tamper(&segments[0], |bytes| bytes[4096 + 20] ^= 1);
    disk.tamper(&segments[1], |bytes| bytes[4096 + 4096 + 70_000] ^= 1);
    disk.tamper(&segments[2], |bytes| bytes.truncate(4096 + 4096 + 100));
    let items = everything(&store, 1000);
    let bad: Vec<(BlockKey, Cause)> = store
        .scrub(&items)
        .iter()
        .zip(&items)
        .filter_map(|(answer, item)| match answer {
            Scrubbed::Whole => None,
            Scrubbed::Bad(cause) => Some((item.key(), *cause)),
            other => panic!("{other:?}"),
        })
        .collect();
    let mut expected = vec![(key(0), Cause::Header), (key(5), Cause::Payload)];
    expected.extend((10..15).map(|n| (key(n), Cause::Truncated)));
    assert_eq!(bad, expected);
    let quarantined: BTreeSet<BlockKey> = store.quarantined().iter().map(|block| block.key).collect();
    assert_eq!(quarantined, expected.iter().map(|(key, _)| *key).collect());
    assert!(matches!(store.read(key(5)), Err(ReadError::Quarantined { .. })));
    assert_eq!(everything(&store, 1000).len(), 13, "known ones are not read again");
    // The list is older than the verdict: nothing is said twice.
    assert!(matches!(store.scrub(&items[..1])[..], [Scrubbed::Gone]));
    // Written again, it is read from its new place.
    put_durable(&store, 5, 200_000);
    store.verify_on_disk(key(5)).unwrap();
    assert!(matches!(store.verify_on_disk(key(0)), Err(ReadError::Quarantined { .. })));
    assert!(matches!(store.verify_on_disk(key(99)), Err(ReadError::NotFound { .. })));
}

#[test]
fn a_segment_that_is_removed_while_it_is_in_use_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
    let (store, _) = open(&disk, manual());
    for n in 0..10 {
        put_durable(&store, n, 200_000);
    }
    let items = everything(&store, 1000);
    assert!(store.scrub(&items).iter().all(|answer| matches!(answer, Scrubbed::Whole)));
    std::fs::remove_file(dir.path().join("segments/00000001.seg")).unwrap();
    assert!(store.verify(key(1)).is_ok(), "the open file still has it");
    assert!(matches!(store.verify_on_disk(key(1)), Err(ReadError::Corrupt { cause: Cause::SegmentMissing, .. })));
    let missing = store.scrub(&items).iter().filter(|a| matches!(a, Scrubbed::Bad(Cause::SegmentMissing))).count();
    assert_eq!(missing, 4, "the rest of its five blocks");
}

#[test]
fn the_disk_is_read_and_not_the_page_cache() {
    let disk = SimDisk::new();
    let store = filled(&disk);
    // Durable, and so no longer to be written from the cache.
    sync(&store, Vec::new()).unwrap();
    disk.rot(&disk.segments()[0], |bytes| bytes[4096 + 4096 + 70_000] ^= 1);
    store.verify(key(0)).unwrap();
    assert!(matches!(store.verify_on_disk(key(0)), Err(ReadError::Corrupt { cause: Cause::Payload, .. })));
}

#[test]
fn digests_tell_in_which_part_two_inventories_differ() {
    let (one, other) = (SimDisk::new(), SimDisk::new());
    let (one, other) = (filled(&one), filled(&other));
    let all = ComparedWriters { below: WriterId(u64::MAX), open: BTreeSet::new() };
    let parts = 16;
    let digests = |store: &Store, writers: &ComparedWriters| store.digest(PG, writers, parts);
    assert_eq!(digests(&one, &all), digests(&other, &all));
    delete(&other, vec![key(4)]).unwrap();
    let (mine, theirs) = (digests(&one, &all), digests(&other, &all));
    let differing: Vec<u32> = (0..parts).filter(|part| mine[*part as usize] != theirs[*part as usize]).collect();
    assert_eq!(differing, [part_of(key(4).block.inode, parts)]);
    let part = (differing[0], parts);
    let mine: BTreeSet<_> = one.list_part(PG, &all, part, None, 1000).into_iter().collect();
    let theirs: BTreeSet<_> = other.list_part(PG, &all, part, None, 1000).into_iter().collect();
    assert_eq!(mine.difference(&theirs).collect::<Vec<_>>(), [&key(4).block]);
    let pages = one.list_part(PG, &all, part, Some(key(4)), 1);
    assert!(pages.len() == 1 && pages[0] > key(4).block);
    // Open writers, and those at or above the bound, are left out.
    let open = ComparedWriters { below: WriterId(u64::MAX), open: BTreeSet::from([WriterId(5)]) };
    let below = ComparedWriters { below: WriterId(5), open: BTreeSet::new() };
    for none in [open, below] {
        assert!(digests(&one, &none).iter().all(|digest| *digest == PartDigest::default()));
        assert!(one.list_part(PG, &none, part, None, 10).is_empty());
    }
    assert_eq!(one.groups().into_iter().map(|(pg, group)| (pg, group.blocks)).collect::<Vec<_>>(), [(PG, 20)]);
    assert_eq!(one.list_all(PG, None, 7).len(), 7);
}

#[test]
fn an_empty_directory_holds_no_store() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!RealDisk::holds_store(dir.path()));
    assert!(!RealDisk::holds_store(&dir.path().join("nowhere")));
    let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
    assert!(!RealDisk::holds_store(dir.path()), "the lock alone is no store");
    let (store, _) = open(&disk, manual());
    drop(put(&store, put_of(key(1), content(1, 10), Durability::Durable)));
    assert!(RealDisk::holds_store(dir.path()));
    // Wiped but for its identity, it is still that store.
    std::fs::remove_dir_all(dir.path().join("segments")).unwrap();
    assert!(RealDisk::holds_store(dir.path()));
}
