//! One function per target: takes any bytes, asserts what must hold whatever they are.
//!
//! A fuzzer does not find checksums, so they are set right where a flag in the input asks for it; what lies behind them is
//! decoded from hostile values then.

use crate::sim_disk::SimDisk;
use cairn_proto::checksum::{crc32c, crc32c_parts};
use cairn_proto::{Incarnation, StoreUuid};
use cairn_store::format::record::{self, Place, Record};
use cairn_store::format::segment::{self, SegmentHeader};
use cairn_store::format::{checkpoint, identity};
use cairn_store::inspect::{self, Inspected};
use cairn_store::{BlockKey, Execution, Store, StoreOptions};
use std::path::Path;
use std::sync::Arc;

const PAGE: usize = 4096;
const STORE: StoreUuid = StoreUuid([0x5a; 16]);
const SEGMENT: &str = "segments/00000001.seg";

fn seal(bytes: &mut [u8], at: usize) {
    if bytes.len() >= at + 4 {
        let crc = crc32c_parts(&[&bytes[..at], &bytes[at + 4..]]);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// A record's header region: what decodes is encoded to the same again.
pub fn record(bytes: &[u8]) {
    let _ = record::decode_any(bytes);
    let Ok(len) = record::region_len(bytes) else { return };
    if bytes.len() < len {
        return;
    }
    let mut region = bytes[..len].to_vec();
    seal(&mut region, 12);
    let Ok((store, decoded)) = record::decode_any(&region) else { return };
    assert!(decoded.total_len() >= PAGE as u64 && decoded.total_len().is_multiple_of(PAGE as u64));
    let again = match &decoded {
        Record::Put(stamp, put) => record::encode_put(store, *stamp, put),
        Record::Tombstone(stamp, entries) => record::encode_tombstone(store, *stamp, entries),
    };
    assert_eq!(record::decode(&again, store, decoded.stamp().place), Ok(decoded));
}

/// `store.id`: decodes, or a store that is opened with it says so.
pub fn identity(bytes: &[u8]) {
    let decoded = identity::decode(bytes);
    let mut sealed = bytes.to_vec();
    seal(&mut sealed, 60);
    for bytes in [bytes, &sealed] {
        let disk = SimDisk::new();
        disk.plant(identity::NAME, bytes.to_vec());
        if let Ok((store, _)) = Store::open(disk.mount(), options()) {
            assert_eq!(identity::decode(bytes), Ok(store.uuid()));
        }
    }
    if let Ok(uuid) = decoded {
        assert_eq!(identity::decode(&identity::encode(uuid)), Ok(uuid));
    }
}

/// A segment: whatever it holds, it is walked to its end, and a store opens with it and serves the same after closing and
/// opening again, with and without its checkpoint.
pub fn segment(bytes: &[u8]) {
    let mut content = header();
    content.extend_from_slice(bytes);
    repair_records(&mut content);
    let disk = disk_with(&[(SEGMENT, content)]);
    walk(&disk);
    let Ok((store, report)) = Store::open(disk.mount(), options()) else { return };
    assert_ne!(report.incarnation, Incarnation(0));
    let held = read_all(&store);
    store.maintain();
    assert_eq!(read_all(&store), held, "maintenance loses nothing");
    drop(store);
    for without_checkpoint in [false, true] {
        if without_checkpoint {
            disk.vanish(checkpoint::NAME);
        }
        let (store, _) = Store::open(disk.mount(), options()).expect("what was opened opens again");
        assert_eq!(read_all(&store), held);
    }
}

/// A checkpoint beside a segment that has nothing to do with it: used or not, no store is hurt by it.
pub fn checkpoint(bytes: &[u8]) {
    let mut content = bytes.to_vec();
    if content.len() > checkpoint::HEADER_LEN && content[84] != 0 {
        let (header, body) = content.split_at_mut(checkpoint::HEADER_LEN);
        header[..8].copy_from_slice(b"CAIRNCKP");
        header[8..12].copy_from_slice(&1u32.to_le_bytes());
        header[16..32].copy_from_slice(&STORE.0);
        header[72..80].copy_from_slice(&(body.len() as u64).to_le_bytes());
        header[80..84].copy_from_slice(&crc32c(body).to_le_bytes());
        seal(header, 124);
    }
    let _ = checkpoint::CheckpointHeader::decode(&content, STORE);
    let mut rest = content.get(checkpoint::HEADER_LEN..).unwrap_or_default();
    while let Ok(row) = checkpoint::decode_segment(&mut rest) {
        assert!(row.needs.len() <= content.len());
    }
    let disk = disk_with(&[(SEGMENT, header()), (checkpoint::NAME, content)]);
    let Ok((store, _)) = Store::open(disk.mount(), options()) else { return };
    let held = read_all(&store);
    store.maintain();
    store.checkpoint();
    drop(store);
    let (store, _) = Store::open(disk.mount(), options()).expect("what was opened opens again");
    assert_eq!(read_all(&store), held);
}

fn options() -> StoreOptions {
    StoreOptions {
        execution: Execution::Manual,
        segment_len: 64 << 10,
        reserve_bytes: Some(0),
        entropy: Arc::new(|| 7),
        ..StoreOptions::default()
    }
}

fn header() -> Vec<u8> {
    let header = SegmentHeader { store: STORE, generation: 1, first_number: 1, reused_len: 0 };
    let mut page = header.encode().to_vec();
    page.resize(PAGE, 0);
    page
}

fn disk_with(files: &[(&str, Vec<u8>)]) -> Arc<SimDisk> {
    let disk = SimDisk::new();
    disk.plant(identity::NAME, identity::encode(STORE).to_vec());
    for (name, content) in files {
        disk.plant(name, content.clone());
    }
    disk
}

/// Makes pages that begin as records do into records of this place.
fn repair_records(content: &mut [u8]) {
    for offset in (PAGE..content.len()).step_by(PAGE) {
        let Ok(len) = record::region_len(&content[offset..]) else { continue };
        let Some(region) = content.get_mut(offset..offset + len) else { continue };
        region[16..32].copy_from_slice(&STORE.0);
        region[32..40].copy_from_slice(&1u64.to_le_bytes());
        region[40..48].copy_from_slice(&(offset as u64).to_le_bytes());
        seal(region, 12);
        let place = Place { segment: 1, offset: offset as u64 };
        let _ = record::decode(region, STORE, place);
    }
}

fn walk(disk: &SimDisk) {
    let file = disk.mount().open(SEGMENT).expect("planted");
    let Ok(walk) = inspect::segment_in(Path::new(SEGMENT), file) else { return };
    let (len, mut behind) = (walk.len, PAGE as u64);
    for item in walk {
        let from = match item {
            Inspected::Put(put) => put.stamp.place.offset,
            Inspected::Tombstone { stamp, .. } => stamp.place.offset,
            Inspected::Skipped { from, to, .. } => {
                assert!(from < to && to <= len);
                from
            }
        };
        assert!(from >= behind, "the walk goes forward");
        behind = from;
    }
    assert_eq!(segment::parse_name("00000001.seg"), Some(1));
}

/// Every block that can be served, with its bytes; the others are quarantined by the attempt.
fn read_all(store: &Store) -> Vec<(BlockKey, Vec<u8>)> {
    let keys: Vec<BlockKey> = store.list_of(&|_| true, None, 1000).into_iter().map(|(key, _)| key).collect();
    let whole = keys.into_iter().filter(|key| store.verify(*key).is_ok());
    whole
        .map(|key| {
            let block = store.read(key).expect("verified");
            let bytes = block.read_at(0, block.len()).expect("verified");
            (key, bytes.to_vec())
        })
        .collect()
}
