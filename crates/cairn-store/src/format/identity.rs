//! The identity file `store.id`: written once, when the directory is first made.

use super::{Fault, STORE_VERSION, array_at, crc_without, put_at, seal, u32_at};
use cairn_proto::StoreUuid;

/// Name of the file.
pub const NAME: &str = "store.id";
/// Its length.
pub const LEN: usize = 64;
const MAGIC: [u8; 8] = *b"CAIRNSTO";
const CRC_AT: usize = 60;

/// Encodes the identity of a store.
pub fn encode(uuid: StoreUuid) -> [u8; LEN] {
    let mut out = [0; LEN];
    put_at(&mut out, 0, &MAGIC);
    put_at(&mut out, 8, &STORE_VERSION.to_le_bytes());
    put_at(&mut out, 16, &uuid.0);
    seal(&mut out, CRC_AT);
    out
}

/// Reverses [`encode`]. The version is believed only when the checksum holds.
pub fn decode(bytes: &[u8]) -> Result<StoreUuid, Fault> {
    let bytes: &[u8; LEN] = bytes.first_chunk().ok_or(Fault::Short)?;
    if bytes[..8] != MAGIC {
        return Err(Fault::Magic);
    }
    if crc_without(bytes, CRC_AT) != u32_at(bytes, CRC_AT) {
        return Err(Fault::Checksum);
    }
    match u32_at(bytes, 8) {
        STORE_VERSION => Ok(StoreUuid(array_at(bytes, 16))),
        version => Err(Fault::Version(version)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_pinned() {
        let bytes = encode(StoreUuid([0xab; 16]));
        let mut expected = [0; LEN];
        expected[..8].copy_from_slice(b"CAIRNSTO");
        expected[8] = 1;
        expected[16..32].fill(0xab);
        expected[60..].copy_from_slice(&PINNED_CRC);
        assert_eq!(bytes, expected);
        assert_eq!(decode(&bytes), Ok(StoreUuid([0xab; 16])));
    }
    const PINNED_CRC: [u8; 4] = [0x0d, 0x9f, 0xd7, 0x70];

    #[test]
    fn every_flipped_bit_is_found() {
        let good = encode(StoreUuid([7; 16]));
        for bit in 0..LEN * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode(&bad), Err(Fault::Magic | Fault::Checksum)), "bit {bit}");
        }
        assert_eq!(decode(&good[..63]), Err(Fault::Short));
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut newer = encode(StoreUuid([7; 16]));
        newer[8] = 9;
        seal(&mut newer, CRC_AT);
        assert_eq!(decode(&newer), Err(Fault::Version(9)));
    }
}
