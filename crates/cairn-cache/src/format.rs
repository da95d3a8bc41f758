//! What the cache writes to disk. Pure.
//!
//! A segment file `NNNNNNNNNN.seg` begins with a head, little-endian:
//!
//! | offset | length | what |
//! |---|---|---|
//! | 0 | 8 | `CAIRNBC1` |
//! | 8 | 16 | id of the cluster |
//! | 24 | 4 | CRC32C of all before |
//!
//! Records follow without gaps, each a head and the bytes of a chunk:
//!
//! | offset | length | what |
//! |---|---|---|
//! | 0 | 4 | `CBLK` |
//! | 4 | 20 | block id: inode (8), writer (8), seq (4) |
//! | 24 | 4 | number of the chunk |
//! | 28 | 4 | bytes that follow, 1 to 65,536 |
//! | 32 | 4 | CRC32C of the chunk as its writer made it (over block id, shard, number, bytes) |
//! | 36 | 4 | CRC32C of the 36 bytes before |
//!
//! It is a cache: a file of any other version is deleted, never converted.

use cairn_client::{BlockId, ChunkKey};
use cairn_proto::checksum::crc32c;
use cairn_proto::limits::CHUNK_LEN;

const SEGMENT_MAGIC: &[u8; 8] = b"CAIRNBC1";
const RECORD_MAGIC: &[u8; 4] = b"CBLK";

/// Length of a segment's head.
pub const SEGMENT_HEAD_LEN: usize = 28;
/// Length of a record's head.
pub const RECORD_HEAD_LEN: usize = 40;

/// The head of every segment of a cluster's cache.
pub fn segment_head(cluster: [u8; 16]) -> [u8; SEGMENT_HEAD_LEN] {
    let mut head = [0; SEGMENT_HEAD_LEN];
    head[..8].copy_from_slice(SEGMENT_MAGIC);
    head[8..24].copy_from_slice(&cluster);
    let crc = crc32c(&head[..24]);
    head[24..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// A record's head, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Which chunk it is.
    pub key: ChunkKey,
    /// Its length in bytes.
    pub len: u32,
    /// Its checksum.
    pub crc: u32,
}

impl Record {
    /// Bytes on disk.
    pub fn total_len(&self) -> u64 {
        RECORD_HEAD_LEN as u64 + u64::from(self.len)
    }

    /// The head.
    pub fn encode(&self) -> [u8; RECORD_HEAD_LEN] {
        let mut head = [0; RECORD_HEAD_LEN];
        head[..4].copy_from_slice(RECORD_MAGIC);
        head[4..24].copy_from_slice(&self.key.block.to_le_bytes());
        head[24..28].copy_from_slice(&self.key.chunk.to_le_bytes());
        head[28..32].copy_from_slice(&self.len.to_le_bytes());
        head[32..36].copy_from_slice(&self.crc.to_le_bytes());
        let crc = crc32c(&head[..36]);
        head[36..].copy_from_slice(&crc.to_le_bytes());
        head
    }

    /// Takes a head apart; `None` when it is none.
    pub fn decode(head: &[u8; RECORD_HEAD_LEN]) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let (chunk, len, crc) = (u32_at(24), u32_at(28), u32_at(32));
        let sound = head[..4] == *RECORD_MAGIC && u32_at(36) == crc32c(&head[..36]) && (1..=CHUNK_LEN).contains(&len);
        let key = ChunkKey { block: BlockId::new(u64_at(4), u64_at(12), u32_at(20)), chunk };
        sound.then_some(Self { key, len, crc })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_are_these() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&segment_head([7; 16])[..24]), format!("434149524e424331{}", "07".repeat(16)));
        let key = ChunkKey { block: BlockId::new(0x0102, 0x0304, 0x0506), chunk: 7 };
        let head = Record { key, len: 0x0809, crc: 0x0a0b_0c0d }.encode();
        let before_crc = "43424c4b0201000000000000040300000000000006050000070000000908 00000d0c0b0a";
        assert_eq!(hex(&head[..36]), before_crc.replace(' ', ""));
        assert_eq!(head[36..], crc32c(&head[..36]).to_le_bytes());
    }

    proptest! {
        #[test]
        fn records_come_back(inode: u64, writer: u64, seq: u32, chunk: u32, len in 1..=CHUNK_LEN, crc: u32) {
            let record = Record { key: ChunkKey { block: BlockId::new(inode, writer, seq), chunk }, len, crc };
            prop_assert_eq!(Record::decode(&record.encode()), Some(record));
        }

        #[test]
        fn a_flipped_bit_is_found(bit in 0..RECORD_HEAD_LEN * 8) {
            let record = Record { key: ChunkKey { block: BlockId::new(1, 2, 3), chunk: 4 }, len: 5, crc: 6 };
            let mut head = record.encode();
            head[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Record::decode(&head), None);
        }
    }
}
