//! Bytes that rot in segment files under a running node, and what each of them should do.
//!
//! Segment files are walked from outside, by what docs/formats/disk.md says of their records, so that it is known which
//! block a place belongs to. A place that belongs to no block, or to a record that a later one hides, may rot unnoticed.

use anyhow::{Context, Result, ensure};
use cairn_proto::BlockId;
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const PAGE_LEN: u64 = 4096;
const MAGIC: &[u8] = b"CREC";
const PUT: u8 = 1;
/// Fixed part of a record header.
const FIXED_LEN: usize = 160;
/// Segment files lie below the directory of a node.
const DEPTH_MAX: usize = 4;

/// A record that holds a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Record {
    at: u64,
    /// Header and payload.
    len: u64,
    number: u64,
    block: BlockId,
}

/// What became of a node's files.
#[derive(Debug, Default)]
pub struct Rotten {
    /// Places.
    pub places: u64,
    /// Of these, in the record of a block that counted then.
    pub in_blocks: u64,
    /// These blocks.
    pub blocks: BTreeSet<BlockId>,
}

fn number<const LEN: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + LEN].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The record of a block whose header this is; `None` for anything else.
fn record(head: &[u8], at: u64) -> Option<Record> {
    let is_put = &head[..4] == MAGIC && head[6] == PUT && number::<8>(head, 40) == at;
    let block = BlockId::new(number::<8>(head, 64), number::<8>(head, 72), number::<4>(head, 80) as u32);
    let len = number::<4>(head, 8) + number::<8>(head, 104).next_multiple_of(PAGE_LEN);
    is_put.then(|| Record { at, len, number: number::<8>(head, 48), block })
}

/// The records of blocks in a segment file, and where the last of them ends.
fn walk(file: &File) -> Result<(Vec<Record>, u64)> {
    let len = file.metadata()?.len();
    let (mut records, mut at, mut end) = (Vec::new(), PAGE_LEN, 0);
    let mut head = [0; FIXED_LEN];
    while at + PAGE_LEN <= len {
        file.read_exact_at(&mut head, at)?;
        match record(&head, at).filter(|record| record.at + record.len <= len) {
            Some(record) => {
                records.push(record);
                at += record.len;
                end = at;
            }
            None => at += PAGE_LEN,
        }
    }
    Ok((records, end))
}

fn segments(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![(dir.to_owned(), 0)];
    while let Some((path, depth)) = left.pop() {
        for entry in fs::read_dir(&path).with_context(|| format!("looking into {}", path.display()))? {
            let path = entry?.path();
            if path.is_dir() && depth < DEPTH_MAX {
                left.push((path, depth + 1));
            } else if path.extension().is_some_and(|extension| extension == "seg") {
                found.push(path);
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Flips a bit at each of `count` random places of the segment files below a node's directory, from their beginning to
/// their last record, while the node may run.
///
/// # Errors
/// There is no record below the directory, or a file cannot be changed.
pub fn spoil(dir: &Path, count: u64, random: &mut Rng) -> Result<Rotten> {
    let mut files = Vec::new();
    for path in segments(dir)? {
        let file = File::options().read(true).write(true).open(&path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        let (records, end) = walk(&file)?;
        files.push((file, records, end));
    }
    let mut newest: BTreeMap<BlockId, u64> = BTreeMap::new();
    for record in files.iter().flat_map(|(_, records, _)| records) {
        let number = newest.entry(record.block).or_default();
        *number = (*number).max(record.number);
    }
    let total: u64 = files.iter().map(|(_, _, end)| end).sum();
    ensure!(total > 0, "no block lies below {}", dir.display());
    let mut rotten = Rotten { places: count, ..Rotten::default() };
    for _ in 0..count {
        let mut place = random.u64(..total);
        for (file, records, end) in &files {
            if place >= *end {
                place -= end;
                continue;
            }
            let mut byte = [0];
            file.read_exact_at(&mut byte, place)?;
            byte[0] ^= 1 << random.u8(..8);
            file.write_all_at(&byte, place).context("damaging a segment")?;
            let before = records.partition_point(|record| record.at <= place);
            let hit = records[..before].last().filter(|record| place < record.at + record.len);
            if let Some(record) = hit.filter(|record| newest.get(&record.block) == Some(&record.number)) {
                rotten.in_blocks += 1;
                rotten.blocks.insert(record.block);
            }
            break;
        }
    }
    for (file, ..) in &files {
        file.sync_all()?;
    }
    Ok(rotten)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record at `at` with a payload of `payload` bytes.
    fn put(bytes: &mut Vec<u8>, number: u64, seq: u32, payload: u64) -> Record {
        let at = bytes.len() as u64;
        let mut head = vec![0; PAGE_LEN as usize];
        head[..4].copy_from_slice(MAGIC);
        head[6] = PUT;
        head[8..12].copy_from_slice(&4096_u32.to_le_bytes());
        head[40..48].copy_from_slice(&at.to_le_bytes());
        head[48..56].copy_from_slice(&number.to_le_bytes());
        head[64..72].copy_from_slice(&5_u64.to_le_bytes());
        head[72..80].copy_from_slice(&6_u64.to_le_bytes());
        head[80..84].copy_from_slice(&seq.to_le_bytes());
        head[104..112].copy_from_slice(&payload.to_le_bytes());
        bytes.extend(head);
        bytes.resize(bytes.len() + payload.next_multiple_of(PAGE_LEN) as usize, 0xee);
        Record { at, len: bytes.len() as u64 - at, number, block: BlockId::new(5, 6, seq) }
    }

    fn segment(dir: &Path) -> (PathBuf, Vec<Record>) {
        fs::create_dir_all(dir.join("store/segments")).expect("a directory");
        let mut bytes = vec![1; PAGE_LEN as usize];
        let mut records = vec![put(&mut bytes, 1, 1, 10_000)];
        // Anything that is no record, and a copy of a record that belongs elsewhere.
        bytes.extend(vec![9; PAGE_LEN as usize]);
        let copy = bytes[PAGE_LEN as usize..2 * PAGE_LEN as usize].to_vec();
        bytes.extend(copy);
        records.push(put(&mut bytes, 2, 2, 4096));
        records.push(put(&mut bytes, 3, 1, 10_000));
        bytes.extend(vec![0; 8 * PAGE_LEN as usize]);
        let path = dir.join("store/segments/00000001.seg");
        fs::write(&path, bytes).expect("is written");
        (path, records)
    }

    #[test]
    fn records_are_found_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, records) = segment(dir.path());
        let (found, end) = walk(&File::open(path).expect("opens")).expect("walks");
        assert_eq!(found, records);
        assert_eq!(end, records[2].at + records[2].len);
    }

    #[test]
    fn places_rot_and_those_of_hidden_records_do_not_count() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, records) = segment(dir.path());
        let before = fs::read(&path).expect("is read");
        let rotten = spoil(dir.path(), 200, &mut Rng::with_seed(1)).expect("rots");
        let after = fs::read(&path).expect("is read");
        let changed: Vec<u64> =
            (0..before.len() as u64).filter(|at| before[*at as usize] != after[*at as usize]).collect();
        let inside = |at: &u64| (records[1].at..records[2].at + records[2].len).contains(at);
        // Two flips may meet in one place.
        let hit = changed.iter().filter(|at| inside(at)).count() as u64;
        assert!(hit <= rotten.in_blocks && rotten.in_blocks < 200, "{rotten:?}");
        assert!(changed.iter().all(|at| *at < records[2].at + records[2].len));
        assert_eq!(rotten.blocks.len(), 2);
        assert!(spoil(&dir.path().join("store/segments"), 1, &mut Rng::with_seed(1)).is_ok());
        let empty = tempfile::tempdir().expect("a directory");
        assert!(spoil(empty.path(), 1, &mut Rng::with_seed(1)).is_err());
    }
}
