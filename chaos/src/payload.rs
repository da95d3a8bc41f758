//! Bytes that say what they are: every line of 64 bytes names its file, the write it belongs to and its own offset, so
//! that a reader can tell right bytes from bytes of another place, another file or another write.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of a line: file and write (8), offset (8), and six words derived from them.
pub const LINE: usize = 64;

/// Which write of which file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Number of the file.
    pub file: u32,
    /// Number of the write; 0 is the first content.
    pub seq: u32,
}

/// splitmix64 (Steele, Lea, Flood 2014).
const fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn line(mark: Mark, offset: u64) -> [u8; LINE] {
    let mut out = [0; LINE];
    let name = u64::from(mark.file) << 32 | u64::from(mark.seq);
    let mut word = mix(name ^ offset.rotate_left(20));
    out[..8].copy_from_slice(&name.to_le_bytes());
    out[8..16].copy_from_slice(&offset.to_le_bytes());
    for at in (16..LINE).step_by(8) {
        out[at..at + 8].copy_from_slice(&word.to_le_bytes());
        word = word.rotate_left(9).wrapping_mul(0x2545_f491_4f6c_dd1d);
    }
    out
}

/// `len` bytes at `offset`; both must be multiples of [`LINE`].
pub fn content(mark: Mark, offset: u64, len: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(len);
    for at in (0..len).step_by(LINE) {
        bytes.put_slice(&line(mark, offset + at as u64));
    }
    bytes.freeze()
}

/// Bytes of `found` that are not what `mark` has at `offset`.
pub fn wrong_bytes(mark: Mark, offset: u64, found: &[u8]) -> u64 {
    let lines = found.chunks(LINE).enumerate();
    let wrong = lines.map(|(index, found)| {
        let right = line(mark, offset + (index * LINE) as u64);
        if right[..found.len()] == *found {
            return 0;
        }
        right.iter().zip(found).filter(|(right, found)| right != found).count() as u64
    });
    wrong.sum()
}

/// Which write the first line claims to belong to.
pub fn claimed(found: &[u8]) -> Option<Mark> {
    let name = u64::from_le_bytes(found.get(..8)?.try_into().ok()?);
    Some(Mark { file: (name >> 32) as u32, seq: name as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_place_file_and_write_is_told_apart() {
        let mark = Mark { file: 3, seq: 7 };
        let bytes = content(mark, 4096, 8192);
        assert_eq!(wrong_bytes(mark, 4096, &bytes), 0);
        assert_eq!(wrong_bytes(mark, 4096 + 64, &bytes[64..200]), 0);
        assert_eq!(claimed(&bytes), Some(mark));
        assert!(wrong_bytes(mark, 4160, &bytes) > 4096);
        assert!(wrong_bytes(Mark { file: 4, ..mark }, 4096, &bytes) > 4096);
        assert!(wrong_bytes(Mark { seq: 8, ..mark }, 4096, &bytes) > 4096);
        let mut flipped = bytes.to_vec();
        flipped[5000] ^= 1;
        assert_eq!(wrong_bytes(mark, 4096, &flipped), 1);
    }
}
