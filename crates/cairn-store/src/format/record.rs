//! Records: a put (header and payload) or a tombstone (header only), each on a page boundary.
//!
//! The header region is a fixed part, then a vector: checksums of a put, entries of a tombstone. It is padded to whole
//! pages, so payloads lie on pages too and can be punched without touching a header.

use super::{BlockKey, Cause, Fault, array_at, crc_without, put_at, seal, u16_at, u32_at, u64_at};
use crate::limits::{PAGE_LEN, RECORD_FIXED_LEN, RECORD_HEADER_MAX, TOMBSTONE_ENTRIES_MAX, TOMBSTONE_ENTRY_LEN};
use cairn_proto::checksum::chunk_count;
use cairn_proto::limits::BLOCK_LEN_MAX;
use cairn_proto::{BlockId, PgEpoch, PgId, Shard, StoreUuid};

/// Version of the record header.
pub const VERSION: u16 = 1;
/// Highest record number that is read back: no store ever writes so many records, and the next number must exist.
pub const NUMBER_MAX: u64 = u64::MAX / 2;
const MAGIC: [u8; 4] = *b"CREC";
const CRC_AT: usize = 12;
const KIND_PUT: u8 = 1;
const KIND_TOMBSTONE: u8 = 2;
const DAMAGE_AT: usize = 87;
/// The only codec of this version: the payload is the content itself.
pub const CODEC_RAW: u8 = 0;

/// Where a record lies and what came before it: what keeps records of another store, of a former life of the file or
/// of another place out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Generation of the segment.
    pub segment: u32,
    /// Offset of the record in the segment.
    pub offset: u64,
}

/// What both kinds of record carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Where the record lies.
    pub place: Place,
    /// Grows by at least one with every record of the store.
    pub number: u64,
    /// Highest record number known durable when this record was written: what is damaged up to here was not torn by
    /// a crash.
    pub synced: u64,
}

/// Header of a stored block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutHeader {
    /// The block and which piece of it.
    pub key: BlockKey,
    /// The group it was written for.
    pub pg: PgId,
    /// The group's epoch when it came in; a purge touches only records from before its own epoch.
    pub pg_epoch: PgEpoch,
    /// How the payload is encoded; [`CODEC_RAW`].
    pub codec: u8,
    /// Data pieces of the code; 0 for plain replicas.
    pub k: u8,
    /// Parity pieces of the code; 0 for plain replicas.
    pub m: u8,
    /// Payload bytes, without padding.
    pub stored_len: u32,
    /// Bytes of content the payload stands for; equal to `stored_len` with [`CODEC_RAW`].
    pub logical_len: u64,
    /// Offset in the file the block was written at, for forensics only: clones and moves do not change it.
    pub file_offset_hint: u64,
    /// Segment of the older record of the same key that this one replaces, because that was damaged or is copied; 0 for
    /// none.
    pub replaces: u32,
    /// Written into the record later, by an opening of the store that found the payload damaged by a crash: without it
    /// only a checkpoint would know.
    pub damage: Option<Cause>,
    /// Checksum of each 64 KiB chunk of the payload, as [`cairn_proto::checksum`] defines it.
    pub crcs: Vec<u32>,
}

/// One deleted block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TombstoneEntry {
    /// What was deleted.
    pub key: BlockKey,
    /// The group it was written for.
    pub pg: PgId,
    /// Segment of the put: the tombstone stays until that file is gone.
    pub put_segment: u32,
}

/// A record's header, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A stored block.
    Put(Stamp, PutHeader),
    /// Deleted blocks, at most [`TOMBSTONE_ENTRIES_MAX`].
    Tombstone(Stamp, Vec<TombstoneEntry>),
}

impl Record {
    /// Number and place.
    pub fn stamp(&self) -> Stamp {
        match self {
            Self::Put(stamp, _) | Self::Tombstone(stamp, _) => *stamp,
        }
    }

    /// Length of header region and padded payload, in bytes.
    pub fn total_len(&self) -> u64 {
        match self {
            Self::Put(_, put) => put_len(put.stored_len),
            Self::Tombstone(_, entries) => tombstone_len(entries.len()),
        }
    }
}

/// `len` rounded up to whole pages.
pub const fn pad(len: u64) -> u64 {
    len.next_multiple_of(PAGE_LEN)
}

/// Length of the header region of a put with `stored_len` payload bytes.
pub const fn put_header_len(stored_len: u32) -> u64 {
    pad(RECORD_FIXED_LEN as u64 + 4 * chunk_count(stored_len as u64))
}

/// Length of a whole put record: header region and padded payload.
pub const fn put_len(stored_len: u32) -> u64 {
    put_header_len(stored_len) + pad(stored_len as u64)
}

/// Length of a tombstone record.
pub const fn tombstone_len(entries: usize) -> u64 {
    pad((RECORD_FIXED_LEN + entries * TOMBSTONE_ENTRY_LEN) as u64)
}

fn start(kind: u8, region: u64, store: StoreUuid, stamp: Stamp, count: usize) -> Vec<u8> {
    let mut out = vec![0; region as usize];
    put_at(&mut out, 0, &MAGIC);
    put_at(&mut out, 4, &VERSION.to_le_bytes());
    out[6] = kind;
    put_at(&mut out, 8, &(region as u32).to_le_bytes());
    put_at(&mut out, 16, &store.0);
    put_at(&mut out, 32, &u64::from(stamp.place.segment).to_le_bytes());
    put_at(&mut out, 40, &stamp.place.offset.to_le_bytes());
    put_at(&mut out, 48, &stamp.number.to_le_bytes());
    put_at(&mut out, 56, &stamp.synced.to_le_bytes());
    put_at(&mut out, 92, &(count as u32).to_le_bytes());
    out
}

/// Encodes the header region of a put. `put.crcs` must hold one checksum per chunk of `put.stored_len`.
pub fn encode_put(store: StoreUuid, stamp: Stamp, put: &PutHeader) -> Vec<u8> {
    assert_eq!(put.crcs.len() as u64, chunk_count(u64::from(put.stored_len)), "one checksum per chunk");
    let mut out = start(KIND_PUT, put_header_len(put.stored_len), store, stamp, put.crcs.len());
    out[7] = put.codec;
    put_at(&mut out, 64, &put.key.block.to_le_bytes());
    out[84] = put.key.shard.0;
    out[85] = put.k;
    out[86] = put.m;
    out[DAMAGE_AT] = put.damage.map_or(0, |cause| cause as u8);
    put_at(&mut out, 88, &put.pg.0.to_le_bytes());
    put_at(&mut out, 96, &put.pg_epoch.0.to_le_bytes());
    put_at(&mut out, 104, &u64::from(put.stored_len).to_le_bytes());
    put_at(&mut out, 112, &put.logical_len.to_le_bytes());
    put_at(&mut out, 120, &put.file_offset_hint.to_le_bytes());
    put_at(&mut out, 128, &u64::from(put.replaces).to_le_bytes());
    for (slot, crc) in out[RECORD_FIXED_LEN..].chunks_exact_mut(4).zip(&put.crcs) {
        slot.copy_from_slice(&crc.to_le_bytes());
    }
    seal(&mut out, CRC_AT);
    out
}

/// Encodes a tombstone of 1..=[`TOMBSTONE_ENTRIES_MAX`] entries.
pub fn encode_tombstone(store: StoreUuid, stamp: Stamp, entries: &[TombstoneEntry]) -> Vec<u8> {
    assert!((1..=TOMBSTONE_ENTRIES_MAX).contains(&entries.len()), "the caller splits");
    let mut out = start(KIND_TOMBSTONE, tombstone_len(entries.len()), store, stamp, entries.len());
    for (slot, entry) in out[RECORD_FIXED_LEN..].chunks_exact_mut(TOMBSTONE_ENTRY_LEN).zip(entries) {
        put_at(slot, 0, &entry.key.block.to_le_bytes());
        slot[20] = entry.key.shard.0;
        put_at(slot, 24, &entry.pg.0.to_le_bytes());
        put_at(slot, 32, &u64::from(entry.put_segment).to_le_bytes());
    }
    seal(&mut out, CRC_AT);
    out
}

/// Length of the header region that begins with these bytes (at least one page), before anything is trusted further.
pub fn region_len(first_page: &[u8]) -> Result<usize, Fault> {
    if first_page.len() < PAGE_LEN as usize {
        return Err(Fault::Short);
    }
    if first_page[..4] != MAGIC {
        return Err(Fault::Magic);
    }
    let len = u32_at(first_page, 8) as usize;
    if len == 0 || len > RECORD_HEADER_MAX || !(len as u64).is_multiple_of(PAGE_LEN) {
        return Err(Fault::Range);
    }
    Ok(len)
}

/// Decodes a whole header region (of the length [`region_len`] gave) that was read at `place` of store `store`.
pub fn decode(region: &[u8], store: StoreUuid, place: Place) -> Result<Record, Fault> {
    let (claimed, record) = decode_any(region)?;
    if claimed != store {
        return Err(Fault::ForeignStore);
    }
    if record.stamp().place != place {
        return Err(Fault::ForeignPlace);
    }
    Ok(record)
}

/// Decodes a whole header region wherever it was read: the store and the place are those that it claims.
pub fn decode_any(region: &[u8]) -> Result<(StoreUuid, Record), Fault> {
    let len = region_len(region)?;
    let region = region.get(..len).ok_or(Fault::Short)?;
    if crc_without(region, CRC_AT) != u32_at(region, CRC_AT) {
        return Err(Fault::Checksum);
    }
    match u16_at(region, 4) {
        VERSION => {}
        version => return Err(Fault::Version(u32::from(version))),
    }
    // A generation that none of ours can have is another place's.
    let segment = u64_at(region, 32).try_into().map_err(|_| Fault::ForeignPlace)?;
    let place = Place { segment, offset: u64_at(region, 40) };
    let stamp = Stamp { place, number: u64_at(region, 48), synced: u64_at(region, 56) };
    // Numbers count from 1, and what was durable was written before.
    if stamp.number == 0 || stamp.number > NUMBER_MAX || stamp.synced >= stamp.number {
        return Err(Fault::Range);
    }
    let count = u32_at(region, 92) as usize;
    let record = match region[6] {
        KIND_PUT => Record::Put(stamp, decode_put(region, count)?),
        KIND_TOMBSTONE => Record::Tombstone(stamp, decode_entries(region, count)?),
        _ => return Err(Fault::Range),
    };
    Ok((StoreUuid(array_at(region, 16)), record))
}

fn decode_put(region: &[u8], count: usize) -> Result<PutHeader, Fault> {
    let stored_len: u32 = u64_at(region, 104).try_into().map_err(|_| Fault::Range)?;
    if stored_len > BLOCK_LEN_MAX
        || chunk_count(u64::from(stored_len)) != count as u64
        || put_header_len(stored_len) != region.len() as u64
    {
        return Err(Fault::Range);
    }
    let vector = &region[RECORD_FIXED_LEN..RECORD_FIXED_LEN + 4 * count];
    Ok(PutHeader {
        key: BlockKey { block: BlockId::from_le_bytes(array_at(region, 64)), shard: Shard(region[84]) },
        pg: PgId(u32_at(region, 88)),
        pg_epoch: PgEpoch(u64_at(region, 96)),
        codec: region[7],
        k: region[85],
        m: region[86],
        stored_len,
        logical_len: u64_at(region, 112),
        file_offset_hint: u64_at(region, 120),
        replaces: u64_at(region, 128).try_into().map_err(|_| Fault::Range)?,
        damage: match region[DAMAGE_AT] {
            0 => None,
            code => Some(Cause::from_u8(code).ok_or(Fault::Range)?),
        },
        crcs: vector.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect(),
    })
}

fn decode_entries(region: &[u8], count: usize) -> Result<Vec<TombstoneEntry>, Fault> {
    if !(1..=TOMBSTONE_ENTRIES_MAX).contains(&count) || tombstone_len(count) != region.len() as u64 {
        return Err(Fault::Range);
    }
    let slots = region[RECORD_FIXED_LEN..].chunks_exact(TOMBSTONE_ENTRY_LEN).take(count);
    slots
        .map(|slot| {
            Ok(TombstoneEntry {
                key: BlockKey { block: BlockId::from_le_bytes(array_at(slot, 0)), shard: Shard(slot[20]) },
                pg: PgId(u32_at(slot, 24)),
                put_segment: u64_at(slot, 32).try_into().map_err(|_| Fault::Range)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
