#![allow(clippy::disallowed_methods, reason = "tests look at real files")]

use super::*;
use crate::files::Directory;
use crate::limits::DISK_SIZE_MIN;
use crate::testing::{chunk, key};
use std::path::Path;
use tempfile::TempDir;

const HERE: [u8; 16] = [1; 16];

fn open(dir: &Path, cluster: [u8; 16]) -> Log {
    Log::open(Arc::new(Directory::new(dir.to_owned())), cluster, DISK_SIZE_MIN).unwrap()
}

fn has(log: &Log, seq: u32) -> bool {
    let found = log.get(key(seq)).unwrap();
    assert!(found.as_ref().is_none_or(|found| *found == chunk(seq)), "{seq}: never another's bytes");
    found.is_some()
}

fn files(dir: &Path) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
        .filter(|(name, _)| name != "lock")
        .collect();
    files.sort();
    files
}

#[test]
fn what_was_kept_is_there_after_a_restart() {
    let dir = TempDir::new().unwrap();
    for round in 0..3 {
        let log = open(dir.path(), HERE);
        assert!((0..round * 10).all(|seq| has(&log, seq)));
        for seq in round * 10..round * 10 + 10 {
            assert!(!has(&log, seq));
            log.append(key(seq), &chunk(seq)).unwrap();
            log.append(key(seq), &chunk(seq)).unwrap();
            assert!(has(&log, seq));
        }
        assert_eq!(log.room().0, u64::from(round + 1) * 10);
        assert_eq!(log.room().1, files(dir.path()).iter().map(|(_, len)| len).sum::<u64>());
    }
}

#[test]
fn the_oldest_goes_when_there_is_no_room_and_never_too_late() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), HERE);
    let fit = u32::try_from(DISK_SIZE_MIN / u64::from(cairn_proto::limits::CHUNK_LEN)).unwrap();
    for seq in 0..3 * fit {
        log.append(key(seq), &chunk(seq)).unwrap();
        let on_disk: u64 = files(dir.path()).iter().map(|(_, len)| len).sum();
        assert!(on_disk <= DISK_SIZE_MIN, "{on_disk}");
        assert_eq!(on_disk, log.room().1);
    }
    assert!(!has(&log, 0) && !has(&log, fit) && has(&log, 3 * fit - 1));
    let kept = (0..3 * fit).filter(|seq| has(&log, *seq)).count() as u32;
    assert!(kept >= fit * 3 / 4, "{kept} of {fit}: at most one segment is empty");
    drop(log);
    let log = open(dir.path(), HERE);
    assert_eq!((0..3 * fit).filter(|seq| has(&log, *seq)).count() as u32, kept);
}

#[test]
fn another_cluster_finds_nothing_and_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    open(dir.path(), HERE).append(key(1), &chunk(1)).unwrap();
    assert!(!has(&open(dir.path(), [2; 16]), 1));
    assert!(!has(&open(dir.path(), HERE), 1), "the same ids mean other bytes there");
    assert_eq!(files(dir.path()), []);
}

#[test]
fn a_directory_belongs_to_one() {
    let dir = TempDir::new().unwrap();
    let first = open(dir.path(), HERE);
    let refused = Log::open(Arc::new(Directory::new(dir.path().to_owned())), HERE, DISK_SIZE_MIN);
    assert_eq!(refused.err().map(|error| error.kind()), Some(io::ErrorKind::ResourceBusy));
    drop(first);
    open(dir.path(), HERE);
}

#[test]
fn wherever_a_crash_cuts_the_whole_records_before_are_there() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), HERE);
    // The last chunk is short, so that every byte of a record can be the last one.
    for seq in [0, 1] {
        log.append(key(seq), &chunk(seq)).unwrap();
    }
    let short = CachedChunk { bytes: Bytes::from_static(b"abc"), crc: 5 };
    log.append(key(2), &short).unwrap();
    drop(log);
    let (name, len) = files(dir.path()).remove(0);
    let whole = std::fs::read(dir.path().join(&name)).unwrap();
    let record = RECORD_HEAD_LEN as u64 + 3;
    for cut in (len - record - 50..=len).chain(0..100) {
        std::fs::write(dir.path().join(&name), &whole[..cut as usize]).unwrap();
        let log = open(dir.path(), HERE);
        let first =
            SEGMENT_HEAD_LEN as u64 + Record { key: key(0), len: chunk(0).bytes.len() as u32, crc: 0 }.total_len();
        assert_eq!(has(&log, 0), cut >= first, "cut at {cut}");
        assert_eq!(has(&log, 1), cut >= len - record, "cut at {cut}");
        assert_eq!(log.get(key(2)).unwrap().is_some(), cut == len, "cut at {cut}");
        log.append(key(3), &chunk(3)).unwrap();
        assert!(has(&log, 3));
        drop(log);
        for (name, _) in files(dir.path()) {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
    }
}

#[test]
fn records_behind_a_damaged_head_are_given_up() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), HERE);
    for seq in 0..3 {
        log.append(key(seq), &chunk(seq)).unwrap();
    }
    drop(log);
    let path = dir.path().join(&files(dir.path())[0].0);
    let mut bytes = std::fs::read(&path).unwrap();
    let second = SEGMENT_HEAD_LEN + RECORD_HEAD_LEN + chunk(0).bytes.len();
    bytes[second + 30] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let log = open(dir.path(), HERE);
    assert_eq!([has(&log, 0), has(&log, 1), has(&log, 2)], [true, false, false]);
}

#[test]
fn the_index_is_bounded_whatever_the_length_of_chunks() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), HERE);
    let tiny = CachedChunk { bytes: Bytes::from_static(b"x"), crc: 0 };
    let max = u32::try_from(DISK_SIZE_MIN / crate::limits::DISK_BYTES_PER_CHUNK_MIN).unwrap();
    for seq in 0..3 * max {
        log.append(key(seq), &tiny).unwrap();
        assert!(log.room().0 <= u64::from(max));
    }
    assert_eq!(log.get(key(3 * max - 1)).unwrap(), Some(tiny));
}
