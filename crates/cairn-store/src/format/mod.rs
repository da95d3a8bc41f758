//! The structs on disk, encoded and decoded by pure functions. All numbers are little-endian.
//!
//! docs/formats/disk.md has the table of each. Every struct carries a CRC32C over all of its bytes but the checksum
//! itself; decoders take any bytes and answer with a value or the first fault found, never with a panic.

pub mod checkpoint;
pub mod identity;
pub mod reach;
pub mod record;
pub mod segment;

use cairn_proto::checksum::crc32c_parts;
use cairn_proto::{BlockId, Shard};
use std::fmt;

/// Version of the whole store directory, in the identity file.
pub const STORE_VERSION: u32 = 1;

/// What a store keeps one of: a block, or one coded piece of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockKey {
    /// The block.
    pub block: BlockId,
    /// Which coded piece; 0 for plain replicas.
    pub shard: Shard,
}

impl BlockKey {
    /// The key of a plain replica.
    pub const fn replica(block: BlockId) -> Self {
        Self { block, shard: Shard(0) }
    }
}

impl fmt::Display for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shard.0 == 0 { self.block.fmt(f) } else { write!(f, "{}.{}", self.block, self.shard.0) }
    }
}

/// Why a block is never served. The numbers stand in checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// The record's header fails its check.
    Header = 1,
    /// A chunk of the payload fails its checksum.
    Payload = 2,
    /// The segment file ends before the record does.
    Truncated = 3,
    /// The segment file is gone.
    SegmentMissing = 4,
    /// The header was found in the tail after a crash, the payload was not: most likely never acknowledged.
    Torn = 5,
    /// The operating system could not read it.
    Unreadable = 6,
}

impl Cause {
    /// Reverses `cause as u8`.
    pub fn from_u8(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Header,
            2 => Self::Payload,
            3 => Self::Truncated,
            4 => Self::SegmentMissing,
            5 => Self::Torn,
            6 => Self::Unreadable,
            _ => return None,
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "bad record header",
            Self::Payload => "bad payload",
            Self::Truncated => "segment truncated",
            Self::SegmentMissing => "segment missing",
            Self::Torn => "torn by a crash",
            Self::Unreadable => "unreadable",
        })
    }
}

/// What is wrong with bytes that should be one of our structs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Fewer bytes than the struct has.
    #[error("too short")]
    Short,
    /// Other bytes where the magic should stand.
    #[error("no magic")]
    Magic,
    /// A version this program does not know.
    #[error("format version {0}, this program knows {known}", known = STORE_VERSION)]
    Version(u32),
    /// The checksum does not match.
    #[error("checksum mismatch")]
    Checksum,
    /// Belongs to another store.
    #[error("belongs to another store")]
    ForeignStore,
    /// Belongs to another segment (a former life of the file), or another place of it.
    #[error("belongs to another segment or place")]
    ForeignPlace,
    /// A field has a value that no writer of this version writes.
    #[error("field out of range")]
    Range,
}

/// Fixed-size little-endian fields at known offsets; the callers have checked the length.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}
pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the range has N bytes")
}
pub(crate) fn put_at(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// CRC32C of `bytes` as if the four bytes at `at` were not there.
pub(crate) fn crc_without(bytes: &[u8], at: usize) -> u32 {
    crc32c_parts(&[&bytes[..at], &bytes[at + 4..]])
}

/// Stores [`crc_without`] at `at`.
pub(crate) fn seal(bytes: &mut [u8], at: usize) {
    let crc = crc_without(bytes, at);
    put_at(bytes, at, &crc.to_le_bytes());
}
