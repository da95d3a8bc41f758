use super::*;
use proptest::prelude::*;

const STORE: StoreUuid = StoreUuid([0x5a; 16]);

fn stamp() -> Stamp {
    Stamp { place: Place { segment: 0x0102, offset: 0x3000 }, number: 0x0405, synced: 0x0304 }
}

fn put() -> PutHeader {
    PutHeader {
        key: BlockKey { block: BlockId::new(0x11, 0x22, 0x33), shard: Shard(4) },
        pg: PgId(0x55),
        pg_epoch: PgEpoch(0x66),
        codec: CODEC_RAW,
        k: 7,
        m: 8,
        stored_len: 65_537,
        logical_len: 65_537,
        file_offset_hint: 0x77,
        replaces: 9,
        damage: Some(Cause::Torn),
        crcs: vec![0xa1a2_a3a4, 0xb1b2_b3b4],
    }
}

fn entry() -> TombstoneEntry {
    TombstoneEntry { key: put().key, pg: PgId(0x55), put_segment: 9 }
}

/// Offsets at which two regions differ.
fn different(a: &[u8], b: &[u8]) -> Vec<usize> {
    assert_eq!(a.len(), b.len());
    (0..a.len()).filter(|at| a[*at] != b[*at]).collect()
}

fn expected_start(kind: u8, count: u8) -> Vec<u8> {
    let mut out = vec![0; 4096];
    out[..4].copy_from_slice(b"CREC");
    out[4] = 1;
    out[6] = kind;
    out[9] = 0x10;
    out[16..32].fill(0x5a);
    out[32..34].copy_from_slice(&[2, 1]);
    out[41] = 0x30;
    out[48..50].copy_from_slice(&[5, 4]);
    out[56..58].copy_from_slice(&[4, 3]);
    out[92] = count;
    out
}

#[test]
fn put_bytes_are_pinned() {
    let bytes = encode_put(STORE, stamp(), &put());
    let mut expected = expected_start(1, 2);
    (expected[64], expected[72], expected[80]) = (0x11, 0x22, 0x33);
    (expected[84], expected[85], expected[86], expected[87], expected[88]) = (4, 7, 8, 5, 0x55);
    expected[96] = 0x66;
    expected[104..107].copy_from_slice(&[1, 0, 1]);
    expected[112..115].copy_from_slice(&[1, 0, 1]);
    expected[120] = 0x77;
    expected[128] = 9;
    expected[160..168].copy_from_slice(&[0xa4, 0xa3, 0xa2, 0xa1, 0xb4, 0xb3, 0xb2, 0xb1]);
    expected[12..16].copy_from_slice(&PINNED_PUT_CRC);
    assert_eq!(different(&bytes, &expected), [0; 0]);
    assert_eq!(decode(&bytes, STORE, stamp().place), Ok(Record::Put(stamp(), put())));
}
const PINNED_PUT_CRC: [u8; 4] = [0xde, 0xee, 0xf5, 0x34];

#[test]
fn tombstone_bytes_are_pinned() {
    let bytes = encode_tombstone(STORE, stamp(), &[entry()]);
    let mut expected = expected_start(2, 1);
    (expected[160], expected[168], expected[176], expected[180]) = (0x11, 0x22, 0x33, 4);
    (expected[184], expected[192]) = (0x55, 9);
    expected[12..16].copy_from_slice(&PINNED_TOMBSTONE_CRC);
    assert_eq!(different(&bytes, &expected), [0; 0]);
    assert_eq!(decode(&bytes, STORE, stamp().place), Ok(Record::Tombstone(stamp(), vec![entry()])));
}
const PINNED_TOMBSTONE_CRC: [u8; 4] = [0x8f, 0x6b, 0x41, 0x4a];

#[test]
fn lengths() {
    assert_eq!(put_len(1), 8192);
    assert_eq!(put_len(0), 4096);
    assert_eq!(put_len(4 << 20), (4 << 20) + 4096);
    assert_eq!(put_len(BLOCK_LEN_MAX), u64::from(BLOCK_LEN_MAX) + 8192);
    assert_eq!(tombstone_len(1), 4096);
    assert_eq!(tombstone_len(98), 4096);
    assert_eq!(tombstone_len(99), 8192);
    assert_eq!(tombstone_len(TOMBSTONE_ENTRIES_MAX), 8192);
}

#[test]
fn records_of_another_store_segment_or_place_are_refused() {
    let bytes = encode_put(STORE, stamp(), &put());
    let place = stamp().place;
    assert_eq!(decode(&bytes, StoreUuid([1; 16]), place), Err(Fault::ForeignStore));
    assert_eq!(decode(&bytes, STORE, Place { segment: 1, ..place }), Err(Fault::ForeignPlace));
    assert_eq!(decode(&bytes, STORE, Place { offset: 0x4000, ..place }), Err(Fault::ForeignPlace));
}

#[test]
fn an_unknown_version_is_named() {
    let mut bytes = encode_put(STORE, stamp(), &put());
    bytes[4] = 2;
    seal(&mut bytes, CRC_AT);
    assert_eq!(decode(&bytes, STORE, stamp().place), Err(Fault::Version(2)));
}

#[test]
fn the_largest_tombstone_round_trips() {
    let entries = vec![entry(); TOMBSTONE_ENTRIES_MAX];
    let bytes = encode_tombstone(STORE, stamp(), &entries);
    assert_eq!(decode(&bytes, STORE, stamp().place), Ok(Record::Tombstone(stamp(), entries)));
}

proptest! {
    #[test]
    fn puts_round_trip(stored_len in 0..=BLOCK_LEN_MAX, inode: u64, writer: u64, seq: u32, number in 0x0305..=NUMBER_MAX, hint: u64) {
        let put = PutHeader {
            key: BlockKey { block: BlockId::new(inode, writer, seq), shard: Shard(0) },
            stored_len,
            logical_len: u64::from(stored_len),
            file_offset_hint: hint,
            crcs: (0..chunk_count(u64::from(stored_len)) as u32).collect(),
            ..put()
        };
        let stamp = Stamp { number, ..stamp() };
        let bytes = encode_put(STORE, stamp, &put);
        prop_assert_eq!(region_len(&bytes), Ok(bytes.len()));
        prop_assert_eq!(decode(&bytes, STORE, stamp.place), Ok(Record::Put(stamp, put)));
    }

    #[test]
    fn any_flipped_bit_is_found(bit in 0usize..4096 * 8, tombstone: bool) {
        let mut bytes = if tombstone { encode_tombstone(STORE, stamp(), &[entry()]) } else { encode_put(STORE, stamp(), &put()) };
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode(&bytes, STORE, stamp().place).is_err());
    }

    #[test]
    fn any_bytes_with_a_right_checksum_decode_or_fail(
        mut bytes in prop::collection::vec(any::<u8>(), RECORD_HEADER_MAX),
        pages in 1u32..=2,
        kind in 0u8..4,
        count in 0u32..3000,
        len in prop::sample::select(vec![0u64, 1, 70_000, 64 << 20, 1 << 40]),
    ) {
        bytes[..4].copy_from_slice(&MAGIC);
        put_at(&mut bytes, 4, &VERSION.to_le_bytes());
        bytes[6] = kind;
        put_at(&mut bytes, 8, &(pages * 4096).to_le_bytes());
        put_at(&mut bytes, 16, &STORE.0);
        put_at(&mut bytes, 32, &0x0102u64.to_le_bytes());
        put_at(&mut bytes, 40, &0x3000u64.to_le_bytes());
        put_at(&mut bytes, 92, &count.to_le_bytes());
        put_at(&mut bytes, 104, &len.to_le_bytes());
        bytes.truncate(pages as usize * 4096);
        seal(&mut bytes, CRC_AT);
        if let Ok(record) = decode(&bytes, STORE, stamp().place) {
            prop_assert!(record.total_len() >= 4096);
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        let _ = decode(&bytes, STORE, stamp().place);
    }
}
