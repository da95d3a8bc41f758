//! The first page of a segment file.
//!
//! Records name their store, generation and offset themselves, so a segment whose header is damaged is still read;
//! the header tells a file of another store or a former life at a glance, and lets `store.id` be rebuilt.

use super::{Fault, STORE_VERSION, array_at, crc_without, put_at, seal, u32_at, u64_at};
use cairn_proto::StoreUuid;

/// Directory of the segment files.
pub const DIR: &str = "segments";
/// Length of the header; the rest of the first page is zeros.
pub const LEN: usize = 64;
const MAGIC: [u8; 8] = *b"CAIRNSEG";
const CRC_AT: usize = 60;

/// Header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The store it belongs to.
    pub store: StoreUuid,
    /// Number of the segment in its store, from 1, never used again; also the file's name.
    pub generation: u32,
    /// Every record in it has at least this number.
    pub first_number: u64,
    /// Bytes of the file that a former life of it wrote: what stands there behind the records is no torn write. 0 for a
    /// new file.
    pub reused_len: u64,
}

impl SegmentHeader {
    /// Encodes the header.
    pub fn encode(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        put_at(&mut out, 0, &MAGIC);
        put_at(&mut out, 8, &STORE_VERSION.to_le_bytes());
        put_at(&mut out, 16, &self.store.0);
        put_at(&mut out, 32, &u64::from(self.generation).to_le_bytes());
        put_at(&mut out, 40, &self.first_number.to_le_bytes());
        put_at(&mut out, 48, &self.reused_len.to_le_bytes());
        seal(&mut out, CRC_AT);
        out
    }

    /// Reverses [`SegmentHeader::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let bytes: &[u8; LEN] = bytes.first_chunk().ok_or(Fault::Short)?;
        if bytes[..8] != MAGIC {
            return Err(Fault::Magic);
        }
        if crc_without(bytes, CRC_AT) != u32_at(bytes, CRC_AT) {
            return Err(Fault::Checksum);
        }
        match u32_at(bytes, 8) {
            STORE_VERSION => Ok(Self {
                store: StoreUuid(array_at(bytes, 16)),
                generation: u64_at(bytes, 32).try_into().map_err(|_| Fault::Range)?,
                first_number: u64_at(bytes, 40),
                reused_len: u64_at(bytes, 48),
            }),
            version => Err(Fault::Version(version)),
        }
    }
}

/// Path of a segment file in the store's directory.
pub fn path(generation: u32) -> String {
    format!("{DIR}/{}", name(generation))
}

/// Name of a segment file in [`DIR`].
pub fn name(generation: u32) -> String {
    format!("{generation:08}.seg")
}

/// Reverses [`name`]; `None` for a name that no segment has.
pub fn parse_name(file_name: &str) -> Option<u32> {
    let generation = file_name.strip_suffix(".seg")?.parse().ok()?;
    (generation > 0 && name(generation) == file_name).then_some(generation)
}

/// Path of the file of a removed segment that waits to be used again.
pub fn free_path(generation: u32) -> String {
    format!("{DIR}/{}", free_name(generation))
}

/// Name of such a file in [`DIR`].
pub fn free_name(generation: u32) -> String {
    format!("{generation:08}.free")
}

/// Reverses [`free_name`].
pub fn parse_free_name(file_name: &str) -> Option<u32> {
    let generation = file_name.strip_suffix(".free")?.parse().ok()?;
    (generation > 0 && free_name(generation) == file_name).then_some(generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader =
        SegmentHeader { store: StoreUuid([3; 16]), generation: 0x0102, first_number: 0x0304, reused_len: 0x0506 };

    #[test]
    fn bytes_are_pinned() {
        let bytes = HEADER.encode();
        let mut expected = [0; LEN];
        expected[..8].copy_from_slice(b"CAIRNSEG");
        expected[8] = 1;
        expected[16..32].fill(3);
        expected[32..34].copy_from_slice(&[2, 1]);
        expected[40..42].copy_from_slice(&[4, 3]);
        expected[48..50].copy_from_slice(&[6, 5]);
        expected[60..].copy_from_slice(&PINNED_CRC);
        assert_eq!(bytes, expected);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(HEADER));
    }
    const PINNED_CRC: [u8; 4] = [0x5a, 0x8c, 0xf4, 0x44];

    #[test]
    fn every_flipped_bit_is_found() {
        for bit in 0..LEN * 8 {
            let mut bad = HEADER.encode();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn names_round_trip_and_others_are_refused() {
        assert_eq!(name(7), "00000007.seg");
        for generation in [1, 99_999_999, u32::MAX] {
            assert_eq!(parse_name(&name(generation)), Some(generation));
            assert_eq!(parse_free_name(&free_name(generation)), Some(generation));
            assert_eq!((parse_name(&free_name(generation)), parse_free_name(&name(generation))), (None, None));
        }
        for other in ["7.seg", "00000000.seg", "00000007.tmp", "+0000007.seg", "x.seg", "4294967296.seg"] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
