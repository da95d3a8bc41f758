//! The checkpoint: the whole index as of one position in the log.
//!
//! It is written beside the old one and renamed over it. Loading it and applying every record behind its position gives
//! the same index as reading all segments.

use super::{BlockKey, Cause, Fault, STORE_VERSION, array_at, crc_without, put_at, seal, u32_at, u64_at};
use crate::index::{Entry, State};
use cairn_proto::{BlockId, PgId, Shard, StoreUuid};

/// Name of the file.
pub const NAME: &str = "checkpoint";
/// Name while it is being written.
pub const TEMPORARY_NAME: &str = "checkpoint.tmp";
/// Length of the header.
pub const HEADER_LEN: usize = 128;
/// Length of a segment's row, without the generations it needs.
pub const SEGMENT_LEN: usize = 32;
/// Length of one index entry.
pub const ENTRY_LEN: usize = 40;
const MAGIC: [u8; 8] = *b"CAIRNCKP";
const CRC_AT: usize = 124;

/// Header of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointHeader {
    /// The store it belongs to.
    pub store: StoreUuid,
    /// Segment that was active.
    pub segment: u32,
    /// Its length then: records before are in the index, records from here on are not.
    pub offset: u64,
    /// Number of the next record.
    pub next_number: u64,
    /// Highest writer of any block ever seen.
    pub highest_writer: u64,
    /// Number of index entries.
    pub entries: u64,
    /// Number of segment rows.
    pub segments: u32,
    /// Length of the body in bytes.
    pub body_len: u64,
    /// CRC32C of the body.
    pub body_crc: u32,
}

/// One segment as a checkpoint holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRow {
    /// Its generation.
    pub generation: u32,
    /// Its length in bytes.
    pub len: u64,
    /// Bytes of it that were given back to the file system.
    pub punched: u64,
    /// Other segments that must be gone before this one may go: its tombstones hide puts in them.
    pub needs: Vec<u32>,
}

impl CheckpointHeader {
    /// Encodes the header.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        put_at(&mut out, 0, &MAGIC);
        put_at(&mut out, 8, &STORE_VERSION.to_le_bytes());
        put_at(&mut out, 12, &self.segments.to_le_bytes());
        put_at(&mut out, 16, &self.store.0);
        put_at(&mut out, 32, &u64::from(self.segment).to_le_bytes());
        put_at(&mut out, 40, &self.offset.to_le_bytes());
        put_at(&mut out, 48, &self.next_number.to_le_bytes());
        put_at(&mut out, 56, &self.highest_writer.to_le_bytes());
        put_at(&mut out, 64, &self.entries.to_le_bytes());
        put_at(&mut out, 72, &self.body_len.to_le_bytes());
        put_at(&mut out, 80, &self.body_crc.to_le_bytes());
        seal(&mut out, CRC_AT);
        out
    }

    /// Reverses [`CheckpointHeader::encode`] for store `store`.
    pub fn decode(bytes: &[u8], store: StoreUuid) -> Result<Self, Fault> {
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(Fault::Short)?;
        if bytes[..8] != MAGIC {
            return Err(Fault::Magic);
        }
        if crc_without(bytes, CRC_AT) != u32_at(bytes, CRC_AT) {
            return Err(Fault::Checksum);
        }
        match u32_at(bytes, 8) {
            STORE_VERSION => {}
            version => return Err(Fault::Version(version)),
        }
        if array_at::<16>(bytes, 16) != store.0 {
            return Err(Fault::ForeignStore);
        }
        Ok(Self {
            store,
            segments: u32_at(bytes, 12),
            segment: u64_at(bytes, 32).try_into().map_err(|_| Fault::Range)?,
            offset: u64_at(bytes, 40),
            next_number: u64_at(bytes, 48),
            highest_writer: u64_at(bytes, 56),
            entries: u64_at(bytes, 64),
            body_len: u64_at(bytes, 72),
            body_crc: u32_at(bytes, 80),
        })
    }
}

/// Appends a segment's row to `out`.
pub fn encode_segment(row: &SegmentRow, out: &mut Vec<u8>) {
    out.extend_from_slice(&u64::from(row.generation).to_le_bytes());
    out.extend_from_slice(&row.len.to_le_bytes());
    out.extend_from_slice(&row.punched.to_le_bytes());
    out.extend_from_slice(&(row.needs.len() as u64).to_le_bytes());
    for needed in &row.needs {
        out.extend_from_slice(&u64::from(*needed).to_le_bytes());
    }
}

/// Takes one segment row off the front of `bytes`.
pub fn decode_segment(bytes: &mut &[u8]) -> Result<SegmentRow, Fault> {
    let (row, rest) = bytes.split_first_chunk::<SEGMENT_LEN>().ok_or(Fault::Short)?;
    let count = usize::try_from(u64_at(row, 24)).map_err(|_| Fault::Range)?;
    let needs_len = count.checked_mul(8).filter(|len| *len <= rest.len()).ok_or(Fault::Short)?;
    let (needs, rest) = rest.split_at(needs_len);
    *bytes = rest;
    Ok(SegmentRow {
        generation: generation(u64_at(row, 0))?,
        len: u64_at(row, 8),
        punched: u64_at(row, 16),
        needs: needs
            .as_chunks::<8>()
            .0
            .iter()
            .map(|word| generation(u64::from_le_bytes(*word)))
            .collect::<Result<_, _>>()?,
    })
}

fn generation(value: u64) -> Result<u32, Fault> {
    value.try_into().map_err(|_| Fault::Range)
}

/// Encodes an index entry; `cause` says why it is quarantined, if it is.
pub fn encode_entry(entry: &Entry, cause: Option<Cause>) -> [u8; ENTRY_LEN] {
    let mut out = [0; ENTRY_LEN];
    let key = entry.key();
    put_at(&mut out, 0, &key.block.to_le_bytes());
    out[20] = key.shard.0;
    out[21] = cause.map_or(0, |cause| cause as u8);
    put_at(&mut out, 24, &entry.segment.to_le_bytes());
    put_at(&mut out, 28, &entry.page.to_le_bytes());
    put_at(&mut out, 32, &entry.len.to_le_bytes());
    put_at(&mut out, 36, &entry.pg.to_le_bytes());
    out
}

/// Reverses [`encode_entry`].
pub fn decode_entry(bytes: &[u8; ENTRY_LEN]) -> Result<(Entry, Option<Cause>), Fault> {
    let key = BlockKey { block: BlockId::from_le_bytes(array_at(bytes, 0)), shard: Shard(bytes[20]) };
    let cause = match bytes[21] {
        0 => None,
        code => Some(Cause::from_u8(code).ok_or(Fault::Range)?),
    };
    let mut entry = Entry::new(key, PgId(u32_at(bytes, 36)), u32_at(bytes, 24), u32_at(bytes, 28), u32_at(bytes, 32));
    if cause.is_some() {
        entry.state = State::Quarantined;
    }
    if entry.len > cairn_proto::limits::BLOCK_LEN_MAX || entry.page == 0 {
        return Err(Fault::Range);
    }
    Ok((entry, cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STORE: StoreUuid = StoreUuid([2; 16]);
    const HEADER: CheckpointHeader = CheckpointHeader {
        store: STORE,
        segment: 3,
        offset: 0x5000,
        next_number: 6,
        highest_writer: 7,
        entries: 8,
        segments: 9,
        body_len: 10,
        body_crc: 11,
    };

    #[test]
    fn header_bytes_are_pinned() {
        let bytes = HEADER.encode();
        let mut expected = [0; HEADER_LEN];
        expected[..8].copy_from_slice(b"CAIRNCKP");
        (expected[8], expected[12]) = (1, 9);
        expected[16..32].fill(2);
        (expected[32], expected[41], expected[48], expected[56]) = (3, 0x50, 6, 7);
        (expected[64], expected[72], expected[80]) = (8, 10, 11);
        expected[124..].copy_from_slice(&PINNED_CRC);
        assert_eq!(bytes, expected);
        assert_eq!(CheckpointHeader::decode(&bytes, STORE), Ok(HEADER));
        assert_eq!(CheckpointHeader::decode(&bytes, StoreUuid([1; 16])), Err(Fault::ForeignStore));
    }
    const PINNED_CRC: [u8; 4] = [0x9c, 0xac, 0x79, 0xe9];

    #[test]
    fn segment_rows_are_pinned() {
        let row = SegmentRow { generation: 1, len: 2, punched: 3, needs: vec![5, 6] };
        let mut bytes = Vec::new();
        encode_segment(&row, &mut bytes);
        let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        assert_eq!(words, [1, 2, 3, 2, 5, 6]);
        let mut rest = &bytes[..];
        assert_eq!(decode_segment(&mut rest), Ok(row));
        assert!(rest.is_empty());
        assert_eq!(decode_segment(&mut &bytes[..bytes.len() - 1]), Err(Fault::Short));
    }

    #[test]
    fn entries_are_pinned() {
        let key = BlockKey { block: BlockId::new(1, 2, 3), shard: Shard(4) };
        let mut entry = Entry::new(key, PgId(5), 6, 7, 8);
        entry.state = State::Quarantined;
        let bytes = encode_entry(&entry, Some(Cause::Payload));
        let mut expected = [0; ENTRY_LEN];
        (expected[0], expected[8], expected[16], expected[20], expected[21]) = (1, 2, 3, 4, 2);
        (expected[24], expected[28], expected[32], expected[36]) = (6, 7, 8, 5);
        assert_eq!(bytes, expected);
        assert_eq!(decode_entry(&bytes), Ok((entry, Some(Cause::Payload))));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = CheckpointHeader::decode(&bytes, STORE);
            let _ = decode_segment(&mut &bytes[..]);
            if let Some(entry) = bytes.first_chunk() {
                let _ = decode_entry(entry);
            }
        }

        #[test]
        fn any_flipped_header_bit_is_found(bit in 0usize..HEADER_LEN * 8) {
            let mut bytes = HEADER.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(CheckpointHeader::decode(&bytes, STORE).is_err());
        }
    }
}
