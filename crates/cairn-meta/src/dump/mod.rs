//! All rows of an engine as one stream of bytes, and back: dumps, backups, moves between engines. The page for people is
//! docs/formats/dump.md.
//!
//! A dump is made from one [`Snapshot`](crate::kv::Snapshot), piece by piece, and read back piece by piece; neither side
//! holds more than a frame. This module owns the form of the bytes; it knows no file.

mod load;
mod log;
mod make;

pub(crate) use load::digest_of;
pub use load::{LoadError, Loader, Purpose};
pub use log::{LOG_MAGIC, LOG_VERSION, LogReader, LoggedGroup, log_frame, log_prelude};
pub use make::{Dump, DumpProgress};

use crate::keys;
use crate::kv::KeyRange;
use cairn_proto::checksum::crc32c_parts;
use cairn_proto::pb;
use prost::Message;

/// First bytes of every dump.
pub const MAGIC: [u8; 8] = *b"CAIRNDMP";
/// Version of the form of dumps that is written, and the newest that is read.
pub const DUMP_VERSION: u32 = 1;
/// Bytes in front of the first frame: magic, version, four bytes that are zero.
const PRELUDE_LEN: usize = 16;
/// A frame of rows is ended when its rows have so many bytes.
const FRAME_BYTES: usize = 256 * 1024;
/// Rows of one frame at most.
const FRAME_ROWS_MAX: usize = 4096;
/// Longest payload of a frame: a row of the largest size that an engine takes, beside one frame.
const PAYLOAD_MAX: usize = 64 * 1024 * 1024;
/// Type and length in front of a payload, checksum behind it.
const FRAME_HEAD: usize = 5;
const FRAME_TAIL: usize = 4;

const HEADER: u8 = 1;
const ROWS: u8 = 2;
const TRAILER: u8 = 3;

const _: () = assert!(FRAME_BYTES * 4 < PAYLOAD_MAX);

/// Every key of the namespace; what lies behind belongs to the engine.
pub(crate) fn namespace() -> KeyRange {
    KeyRange { start: vec![0], end: vec![keys::NAMESPACE_END] }
}

/// Sum and number of rows: equal for equal sets of rows, whatever their order.
///
/// The sum guards against accidents, not against malice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RowDigest {
    /// How many rows.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Sum modulo 2^64 of the hashes of all rows.
    pub sum: u64,
}

impl RowDigest {
    /// Adds a row.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.rows += 1;
        self.bytes += (key.len() + value.len()) as u64;
        let hash = fold(fold(0x9e37_79b9_7f4a_7c15, key), value);
        self.sum = self.sum.wrapping_add(hash);
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, section 3).
const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Goes on with a hash over the length of `bytes` and their words, the last one filled with zeros.
fn fold(hash: u64, bytes: &[u8]) -> u64 {
    let mut hash = mix(hash ^ bytes.len() as u64);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = mix(hash ^ u64::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        hash = mix(hash ^ u64::from_le_bytes(word));
    }
    hash
}

fn put_frame(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let mut head = [kind, 0, 0, 0, 0];
    head[1..].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
    out.extend_from_slice(&crc32c_parts(&[&head, payload]).to_le_bytes());
}

fn prelude() -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&DUMP_VERSION.to_le_bytes());
    out.resize(PRELUDE_LEN, 0);
    out
}

/// Rows of a frame: the number of the first, how many, and each with the lengths of key and value in front.
fn rows_payload(first: u64, rows: &[(bytes::Bytes, bytes::Bytes)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 + rows.iter().map(|(key, value)| 8 + key.len() + value.len()).sum::<usize>());
    out.extend_from_slice(&first.to_le_bytes());
    out.extend_from_slice(&(rows.len() as u32).to_le_bytes());
    for (key, value) in rows {
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }
    out
}

fn trailer_payload(digest: RowDigest) -> Vec<u8> {
    [digest.rows, digest.bytes, digest.sum].into_iter().flat_map(u64::to_le_bytes).collect()
}

/// What a frame says.
enum Frame<'a> {
    Header(Box<pb::DumpHeader>),
    Rows(u64, Vec<(&'a [u8], &'a [u8])>),
    Trailer(RowDigest),
}

fn take<'a>(input: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, tail) = input.split_at_checked(len)?;
    *input = tail;
    Some(head)
}

fn take_u32(input: &mut &[u8]) -> Option<u32> {
    take(input, 4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn take_u64(input: &mut &[u8]) -> Option<u64> {
    let bytes: [u8; 8] = take(input, 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(bytes))
}

/// Reads the payload of a frame whose checksum was right.
fn parse(kind: u8, mut payload: &[u8]) -> Option<Frame<'_>> {
    match kind {
        HEADER => pb::DumpHeader::decode(payload).ok().map(|header| Frame::Header(Box::new(header))),
        ROWS => {
            let first = take_u64(&mut payload)?;
            let count = take_u32(&mut payload)?;
            let mut rows = Vec::new();
            for _ in 0..count {
                let (key_len, value_len) = (take_u32(&mut payload)?, take_u32(&mut payload)?);
                rows.push((take(&mut payload, key_len as usize)?, take(&mut payload, value_len as usize)?));
            }
            payload.is_empty().then_some(Frame::Rows(first, rows))
        }
        TRAILER => {
            let digest = RowDigest {
                rows: take_u64(&mut payload)?,
                bytes: take_u64(&mut payload)?,
                sum: take_u64(&mut payload)?,
            };
            payload.is_empty().then_some(Frame::Trailer(digest))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
