//! End-to-end checksums: CRC32C (Castagnoli, RFC 3720 section 12.1) per 64 KiB chunk, over the chunk's identity first.
//!
//! The identity is 28 little-endian bytes: inode u64, writer u64, seq u32, shard u32, chunk index u32. A right chunk in
//! the wrong place therefore fails its check. The writer computes the vector once; it is stored with the block and
//! returned on every read.

use crate::ids::{BlockId, Shard};
use crate::limits::CHUNK_LEN;
use crc_fast::{CrcAlgorithm, Digest, checksum_combine};
use std::sync::LazyLock;

const ALGORITHM: CrcAlgorithm = CrcAlgorithm::Crc32Iscsi;

/// CRC32C of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(ALGORITHM, bytes) as u32
}

/// CRC32C of the concatenation of `parts`.
pub fn crc32c_parts(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(ALGORITHM);
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}

/// CRC32C of `a || b` from the two checksums and the length of `b`.
pub fn crc32c_combine(a: u32, b: u32, b_len: u64) -> u32 {
    checksum_combine(ALGORITHM, u64::from(a), u64::from(b), b_len) as u32
}

fn identity(block: BlockId, shard: Shard, chunk_index: u32) -> [u8; 28] {
    let mut out = [0; 28];
    out[..20].copy_from_slice(&block.to_le_bytes());
    out[20..24].copy_from_slice(&u32::from(shard.0).to_le_bytes());
    out[24..].copy_from_slice(&chunk_index.to_le_bytes());
    out
}

/// Number of chunks of `len` bytes of block content.
pub const fn chunk_count(len: u64) -> u64 {
    len.div_ceil(CHUNK_LEN as u64)
}

/// Checksum of one chunk of a block.
pub fn chunk_crc(block: BlockId, shard: Shard, chunk_index: u32, chunk: &[u8]) -> u32 {
    crc32c_parts(&[&identity(block, shard, chunk_index), chunk])
}

/// The checksum vector of a whole block: one per 64 KiB, the last chunk may be short.
pub fn chunk_crcs(block: BlockId, shard: Shard, content: &[u8]) -> Vec<u32> {
    content
        .chunks(CHUNK_LEN as usize)
        .enumerate()
        .map(|(index, chunk)| chunk_crc(block, shard, index as u32, chunk))
        .collect()
}

/// Index of the first chunk of `content` that does not match, counted within the block.
///
/// `content` begins at chunk `first_chunk` of the block; `crcs` holds one checksum for each of its chunks. A vector of
/// the wrong length counts as a mismatch of the first chunk without a partner.
pub fn first_mismatch(block: BlockId, shard: Shard, first_chunk: u32, content: &[u8], crcs: &[u32]) -> Option<u32> {
    let count = chunk_count(content.len() as u64) as usize;
    for (index, chunk) in content.chunks(CHUNK_LEN as usize).enumerate() {
        let chunk_index = first_chunk + index as u32;
        if crcs.get(index) != Some(&chunk_crc(block, shard, chunk_index, chunk)) {
            return Some(chunk_index);
        }
    }
    (crcs.len() != count).then_some(first_chunk + count as u32)
}

/// What a checksum becomes when 2^k zero bytes are appended, as four rows: byte i of the checksum selects from row i, and
/// the four are added (the operation is linear).
type Shift = [[u32; 256]; 4];

/// Shifts by 2^0, 2^1, ... 2^16 = [`CHUNK_LEN`] bytes.
///
/// The general routine squares a matrix for every bit of the length: at some 25 microseconds a chunk it costs more than
/// reading the chunk.
static SHIFTS: LazyLock<Vec<Shift>> = LazyLock::new(|| {
    let mut bits: [u32; 32] = std::array::from_fn(|bit| crc32c_combine(1 << bit, 0, 1));
    let mut shifts = Vec::new();
    for _ in 0..=CHUNK_LEN.trailing_zeros() {
        let shift: Shift = std::array::from_fn(|row| {
            std::array::from_fn(|byte| {
                let set = (0..8).filter(|bit| byte & (1 << bit) != 0);
                set.fold(0, |sum, bit| sum ^ bits[row * 8 + bit])
            })
        });
        // Twice as far is the same step twice.
        bits = std::array::from_fn(|bit| apply(&shift, apply(&shift, 1 << bit)));
        shifts.push(shift);
    }
    shifts
});

fn apply(shift: &Shift, crc: u32) -> u32 {
    shift.iter().zip(crc.to_le_bytes()).fold(0, |sum, (row, byte)| sum ^ row[usize::from(byte)])
}

/// `crc32c_combine(crc, 0, len)` for lengths up to a chunk.
fn shift_by(crc: u32, len: u32) -> u32 {
    let steps = SHIFTS.iter().enumerate().filter(|(power, _)| len & (1 << power) != 0);
    steps.fold(crc, |crc, (_, shift)| apply(shift, crc))
}

/// CRC32C of the bare bytes of consecutive chunks, derived from their stored checksums without reading them.
///
/// `crc(identity || chunk) = shift(crc(identity), len) ^ crc(chunk)`, so the identity can be taken out again, and
/// `crc(body || chunk) = shift(crc(body), len) ^ crc(chunk)`; shifting is linear, so both are one shift. `len` is the
/// length of all chunks together; all but the last are full.
pub fn body_crc(block: BlockId, shard: Shard, first_chunk: u32, crcs: &[u32], len: u64) -> u32 {
    let mut rest = len;
    let mut body = 0;
    for (index, crc) in crcs.iter().enumerate() {
        let chunk_len = rest.min(u64::from(CHUNK_LEN)) as u32;
        let prefix = crc32c(&identity(block, shard, first_chunk + index as u32));
        body = shift_by(body ^ prefix, chunk_len) ^ crc;
        rest -= u64::from(chunk_len);
    }
    body
}

/// Packs a checksum vector for the wire and the disk: little-endian, 4 bytes each.
pub fn pack(crcs: &[u32]) -> Vec<u8> {
    crcs.iter().flat_map(|crc| crc.to_le_bytes()).collect()
}

/// Reverses [`pack`]; `None` when the length is not a multiple of 4.
pub fn unpack(bytes: &[u8]) -> Option<Vec<u32>> {
    let (words, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| words.iter().map(|word| u32::from_le_bytes(*word)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: BlockId = BlockId::new(7, 9, 3);

    #[test]
    fn known_answer() {
        // RFC 3720, appendix B.4: 32 bytes of zeros.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn chunk_checksum_is_pinned() {
        let mut all = identity(BLOCK, Shard(0), 0).to_vec();
        all.extend_from_slice(b"cairn");
        assert_eq!(chunk_crc(BLOCK, Shard(0), 0, b"cairn"), crc32c::crc32c(&all));
        assert_eq!(chunk_crc(BLOCK, Shard(0), 0, b"cairn"), 0x89d1_ec23);
    }

    #[test]
    fn a_chunk_elsewhere_is_a_mismatch() {
        let content = vec![5; CHUNK_LEN as usize + 10];
        let crcs = chunk_crcs(BLOCK, Shard(0), &content);
        assert_eq!(first_mismatch(BLOCK, Shard(0), 0, &content, &crcs), None);
        assert_eq!(first_mismatch(BLOCK, Shard(0), 1, &content, &crcs), Some(1));
        assert_eq!(first_mismatch(BlockId::new(7, 9, 4), Shard(0), 0, &content, &crcs), Some(0));
        assert_eq!(first_mismatch(BLOCK, Shard(1), 0, &content, &crcs), Some(0));
        assert_eq!(first_mismatch(BLOCK, Shard(0), 0, &content, &crcs[..1]), Some(1));
        assert_eq!(first_mismatch(BLOCK, Shard(0), 0, &content[..10], &crcs), Some(0));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_found(len in 1usize..200_000, at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut content = vec![0xa5; len];
            let crcs = chunk_crcs(BLOCK, Shard(0), &content);
            let at = at.index(len);
            content[at] ^= 1 << bit;
            prop_assert_eq!(first_mismatch(BLOCK, Shard(0), 0, &content, &crcs), Some(at as u32 / CHUNK_LEN));
        }

        #[test]
        fn body_checksum_needs_no_pass_over_the_bytes(len in 0usize..300_000, first in 0u32..5) {
            let content: Vec<u8> = (0..len).map(|i| (i * 31) as u8).collect();
            let crcs: Vec<u32> = content.chunks(CHUNK_LEN as usize).enumerate()
                .map(|(i, chunk)| chunk_crc(BLOCK, Shard(0), first + i as u32, chunk)).collect();
            prop_assert_eq!(body_crc(BLOCK, Shard(0), first, &crcs, len as u64), crc32c::crc32c(&content));
        }

        #[test]
        fn shifting_is_combining_with_zeros(crc in any::<u32>(), len in 0..=CHUNK_LEN) {
            prop_assert_eq!(shift_by(crc, len), crc32c_combine(crc, 0, u64::from(len)));
        }

        #[test]
        fn packing_round_trips(crcs in prop::collection::vec(any::<u32>(), 0..100)) {
            prop_assert_eq!(unpack(&pack(&crcs)), Some(crcs));
        }
    }
}
