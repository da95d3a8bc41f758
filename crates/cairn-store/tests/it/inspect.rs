//! What `inspect` tells about segment files, whole, damaged and foreign.

use crate::support::*;
use cairn_store::RealDisk;
use cairn_store::inspect::{self, InspectError, Inspected, PayloadCheck, SkipReason};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PAGE: usize = 4096;

/// Three blocks and a tombstone for the second, and the path of the segment.
fn segment(dir: &Path) -> PathBuf {
    let disk = Arc::new(RealDisk::open(dir).unwrap());
    let (store, _) = open(&disk, manual());
    for n in 0..3 {
        put_durable(&store, n, 100_000);
    }
    delete(&store, vec![key(1)]).unwrap();
    assert_eq!(store.durable_records(), 4);
    drop(store);
    let (store, _) = open(&disk, manual());
    assert_eq!(store.durable_records(), 4, "known again after reopening");
    dir.join("segments/00000001.seg")
}

/// One word per item.
fn words(path: &Path) -> Vec<String> {
    let walk = inspect::segment(path).unwrap();
    let word = |item| match item {
        Inspected::Put(put) => format!("put {} #{}: {}", put.key.block.seq.0, put.stamp.number, put.payload),
        Inspected::Tombstone { stamp, entries } => format!("tombstone of {} #{}", entries.len(), stamp.number),
        Inspected::Skipped { from, to, reason } => format!("skipped {from}..{to}: {reason}"),
    };
    walk.map(word).collect()
}

#[test]
fn a_segment_is_walked_while_its_store_is_open_and_after() {
    let dir = tempfile::tempdir().unwrap();
    let path = segment(dir.path());
    let held = RealDisk::open(dir.path()).unwrap();
    let walk = inspect::segment(&path).unwrap();
    assert_eq!((walk.generation, walk.len), (1, std::fs::metadata(&path).unwrap().len()));
    assert!(walk.header.is_ok());
    let Some(Inspected::Put(first)) = walk.into_iter().next() else { panic!("a put comes first") };
    assert_eq!((first.key, first.pg, first.pg_epoch.0, first.stored_len), (key(0), PG, 3, 100_000));
    assert_eq!((first.stamp.number, first.stamp.place.offset, first.payload), (1, 4096, PayloadCheck::Intact));
    let all = words(&path);
    assert_eq!(all.len(), 4, "{all:?}");
    assert_eq!((&*all[0], &*all[2], &*all[3]), ("put 0 #1: intact", "put 2 #3: intact", "tombstone of 1 #4"));
    assert!(["put 1 #2: given back", "put 1 #2: intact"].contains(&&*all[1]), "{all:?}");
    let quick: Vec<_> = inspect::segment(&path).unwrap().without_payloads().collect();
    let read = |item: &Inspected| matches!(item, Inspected::Put(put) if put.payload != PayloadCheck::NotRead);
    assert!(quick.len() == 4 && !quick.iter().any(read), "{quick:?}");
    drop(held);
}

#[test]
fn damage_is_named_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = segment(dir.path());
    let pristine = std::fs::read(&path).unwrap();
    let record = PAGE + 102_400;
    let change = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = pristine.clone();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        words(&path)
    };
    assert_eq!(change(&|bytes| bytes[2 * PAGE + 70_000] ^= 1)[0], "put 0 #1: bad from chunk 1");
    let header_hit = change(&|bytes| bytes[PAGE + 100] ^= 1);
    assert_eq!(header_hit[0], format!("skipped {PAGE}..{}: checksum mismatch", PAGE + record));
    let zeroed = change(&|bytes| bytes[PAGE..2 * PAGE].fill(0));
    assert_eq!(zeroed[0], format!("skipped {PAGE}..{}: zeros", PAGE + record));
    assert_eq!(change(&|bytes| bytes.truncate(2 * PAGE + 5)), ["put 0 #1: truncated"]);
    // The first record again behind the last: right bytes in a wrong place.
    let foreign = change(&|bytes| bytes.extend_from_within(PAGE..2 * PAGE));
    assert!(foreign[4].ends_with("belongs to another segment or place"), "{foreign:?}");
    // Without its own header a segment is known by its records.
    let headless = change(&|bytes| bytes[20] ^= 1);
    assert_eq!(headless.len(), 4);
    assert!(inspect::segment(&path).unwrap().header.is_err());
}

#[test]
fn what_is_no_segment_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path| inspect::segment(path).map(|_| ()).unwrap_err();
    assert!(matches!(refused(&dir.path().join("missing")), InspectError::Io { .. }));
    assert!(matches!(refused(dir.path()), InspectError::Io { .. }), "a directory");
    let other = dir.path().join("other");
    for content in [vec![], vec![0; 10], vec![0; 100_000], vec![b'x'; 5000]] {
        std::fs::write(&other, content).unwrap();
        let error = refused(&other);
        assert!(matches!(error, InspectError::NoSegment { .. }), "{error}");
        assert!(error.to_string().contains("is no segment of a store"), "{error}");
    }
    let path = segment(&dir.path().join("store"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 9;
    let crc = cairn_proto::checksum::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&other, bytes).unwrap();
    assert!(matches!(refused(&other), InspectError::Version { version: 9, .. }));
}

#[test]
fn any_bytes_end_the_walk() {
    let dir = tempfile::tempdir().unwrap();
    let path = segment(dir.path());
    let pristine = std::fs::read(&path).unwrap();
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bytes = pristine.clone();
        for _ in 0..rng.usize(1..5) {
            let at = (rng.usize(..bytes.len()) / PAGE * PAGE + rng.usize(..200)).min(bytes.len() - 1);
            let end = bytes.len().min(at + rng.usize(1..5000));
            rng.fill(&mut bytes[at..end]);
        }
        bytes.truncate(rng.usize(..bytes.len() + 1));
        std::fs::write(&path, bytes).unwrap();
        let Ok(walk) = inspect::segment(&path) else { continue };
        let len = walk.len;
        let mut behind = 4096;
        for item in walk {
            if let Inspected::Skipped { from, to, reason } = item {
                assert!(behind <= from && from < to && to <= len, "seed {seed}: {from}..{to} {reason}");
                assert!(!matches!(reason, SkipReason::Unreadable(_)));
                behind = to;
            }
        }
    }
}
