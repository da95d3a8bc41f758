//! The file `reach`: how far the active segment may have been written, so that an opening after a crash need not read what
//! a former life of its file left behind.
//!
//! Two slots, a page apart, written in turn: one that is torn by a crash leaves the other. See `reach.rs` of the crate for
//! when a slot is believed.

use super::{Fault, STORE_VERSION, array_at, crc_without, put_at, seal, u32_at, u64_at};
use crate::limits::PAGE_LEN;
use cairn_proto::StoreUuid;

/// Name of the file.
pub const NAME: &str = "reach";
/// Length of a slot.
pub const LEN: usize = 64;
/// Where the slots are.
pub const SLOTS: [u64; 2] = [0, PAGE_LEN];
const MAGIC: [u8; 8] = *b"CAIRNRCH";
const CRC_AT: usize = 60;

/// No record of this segment ends behind `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reach {
    /// Generation of the segment.
    pub segment: u32,
    /// Offset in bytes.
    pub end: u64,
}

impl Reach {
    /// Encodes a slot.
    pub fn encode(self, store: StoreUuid) -> [u8; LEN] {
        let mut out = [0; LEN];
        put_at(&mut out, 0, &MAGIC);
        put_at(&mut out, 8, &STORE_VERSION.to_le_bytes());
        put_at(&mut out, 16, &store.0);
        put_at(&mut out, 32, &u64::from(self.segment).to_le_bytes());
        put_at(&mut out, 40, &self.end.to_le_bytes());
        seal(&mut out, CRC_AT);
        out
    }

    /// Reverses [`Reach::encode`] for store `store`; `None` for a slot that was never written.
    pub fn decode(bytes: &[u8], store: StoreUuid) -> Result<Option<Self>, Fault> {
        let bytes: &[u8; LEN] = bytes.first_chunk().ok_or(Fault::Short)?;
        if bytes == &[0; LEN] {
            return Ok(None);
        }
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
        let segment = u64_at(bytes, 32).try_into().map_err(|_| Fault::Range)?;
        Ok(Some(Self { segment, end: u64_at(bytes, 40) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STORE: StoreUuid = StoreUuid([2; 16]);
    const REACH: Reach = Reach { segment: 3, end: 0x5000 };

    #[test]
    fn bytes_are_pinned() {
        let bytes = REACH.encode(STORE);
        let mut expected = [0; LEN];
        expected[..8].copy_from_slice(b"CAIRNRCH");
        expected[8] = 1;
        expected[16..32].fill(2);
        (expected[32], expected[41]) = (3, 0x50);
        expected[60..].copy_from_slice(&bytes[60..]);
        assert_eq!(bytes, expected);
        assert_eq!(bytes[60..], PINNED_CRC);
        assert_eq!(Reach::decode(&bytes, STORE), Ok(Some(REACH)));
        assert_eq!(Reach::decode(&bytes, StoreUuid([1; 16])), Err(Fault::ForeignStore));
        assert_eq!(Reach::decode(&[0; LEN], STORE), Ok(None));
        assert_eq!(Reach::decode(&bytes[..63], STORE), Err(Fault::Short));
    }
    const PINNED_CRC: [u8; 4] = [0x7a, 0xe3, 0xa8, 0x13];

    proptest! {
        #[test]
        fn any_flipped_bit_is_found(bit in 0usize..LEN * 8) {
            let mut bytes = REACH.encode(STORE);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Reach::decode(&bytes, STORE).is_err());
        }
    }
}
