//! The wire frame: 40 fixed bytes, a protobuf header, a raw body (docs/formats/wire.md).
//!
//! Decoding is in two steps so that nothing is allocated from a length before it was checked: [`FixedHeader::decode`]
//! checks magic, version, type and bounds of the first 40 bytes; [`FixedHeader::check`] then holds the header checksum
//! against the protobuf bytes.

use crate::checksum::crc32c_parts;
use crate::limits::{FRAME_BODY_MAX, FRAME_HEADER_MAX};

/// Length of the fixed header.
pub const FIXED_LEN: usize = 40;
/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"CRN1";
/// Version of the frame layout.
pub const VERSION: u8 = 1;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum FrameType {
    /// First frame of the dialling side.
    Hello = 1,
    /// Its answer.
    HelloAck = 2,
    /// A request and the beginning of its body.
    Request = 3,
    /// A response and the beginning of its body.
    Response = 4,
    /// More of a body.
    Data = 5,
    /// Stop working on a request.
    Cancel = 6,
    /// Are you there?
    Ping = 7,
    /// Yes, and this is how busy I am.
    Pong = 8,
    /// Finish what you have here and go elsewhere.
    GoAway = 9,
}

impl FrameType {
    fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Hello,
            2 => Self::HelloAck,
            3 => Self::Request,
            4 => Self::Response,
            5 => Self::Data,
            6 => Self::Cancel,
            7 => Self::Ping,
            8 => Self::Pong,
            9 => Self::GoAway,
            _ => return None,
        })
    }
}

/// Bits of a frame's flags; unknown ones are ignored.
pub mod flags {
    /// The last frame of this request or response.
    pub const END: u16 = 1;
    /// The response's header holds an error.
    pub const ERROR: u16 = 1 << 1;
    /// The response ends early because the request was cancelled.
    pub const CANCELLED: u16 = 1 << 2;
    /// The sender gave up in the middle of a body: forget what came.
    pub const ABORT: u16 = 1 << 3;
    /// A second copy of a slow request, sent elsewhere first.
    pub const HEDGE: u16 = 1 << 4;
    /// Sent again after a failure.
    pub const RETRY: u16 = 1 << 5;
}

/// The first 40 bytes of a frame, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FixedHeader {
    /// What the frame is.
    pub frame_type: FrameType,
    /// See [`flags`].
    pub flags: u16,
    /// Counted per connection by the requester, never reused on it.
    pub request_id: u64,
    /// See [`crate::op`]; 0 where it has no meaning.
    pub op: u16,
    /// Which attempt at the operation this is, from 0.
    pub attempt: u8,
    /// 0 = foreground, higher = more patient.
    pub priority: u8,
    /// Time left for the request in milliseconds; 0 = none given.
    pub deadline_ms: u32,
    /// Length of the protobuf header.
    pub header_len: u32,
    /// Length of this frame's body.
    pub body_len: u32,
    /// CRC32C of this frame's body.
    pub body_crc: u32,
    /// CRC32C of bytes 0..36 and the protobuf header.
    pub header_crc: u32,
}

/// Why bytes are not a frame. The connection they came from cannot be used any further.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The first four bytes are not the magic: not a CairnFS peer.
    #[error("not a CairnFS frame: magic is {0:02x?}, expected {MAGIC:02x?}")]
    BadMagic([u8; 4]),
    /// A layout this side does not know.
    #[error("frame version {0} is not supported (this side speaks {VERSION})")]
    BadVersion(u8),
    /// A type this side does not know.
    #[error("unknown frame type {0}")]
    BadType(u8),
    /// The protobuf header would exceed [`FRAME_HEADER_MAX`].
    #[error("frame header of {0} bytes exceeds {FRAME_HEADER_MAX}")]
    HeaderTooLarge(u32),
    /// The body would exceed [`FRAME_BODY_MAX`].
    #[error("frame body of {0} bytes exceeds {FRAME_BODY_MAX}")]
    BodyTooLarge(u32),
    /// Bytes were changed on the way.
    #[error("frame header checksum is {found:08x}, expected {expected:08x}")]
    HeaderCrc {
        /// As computed here.
        expected: u32,
        /// As it came.
        found: u32,
    },
}

impl FixedHeader {
    /// A header without flags, deadline or body.
    pub fn new(frame_type: FrameType, request_id: u64, op: u16) -> Self {
        Self {
            frame_type,
            flags: 0,
            request_id,
            op,
            attempt: 0,
            priority: 0,
            deadline_ms: 0,
            header_len: 0,
            body_len: 0,
            body_crc: 0,
            header_crc: 0,
        }
    }

    /// True when `bit` of [`flags`] is set.
    pub fn has(&self, bit: u16) -> bool {
        self.flags & bit != 0
    }

    fn encode_unsealed(&self) -> [u8; FIXED_LEN] {
        let mut out = [0; FIXED_LEN];
        out[0..4].copy_from_slice(&MAGIC);
        out[4] = VERSION;
        out[5] = self.frame_type as u8;
        out[6..8].copy_from_slice(&self.flags.to_le_bytes());
        out[8..16].copy_from_slice(&self.request_id.to_le_bytes());
        out[16..18].copy_from_slice(&self.op.to_le_bytes());
        out[18] = self.attempt;
        out[19] = self.priority;
        out[20..24].copy_from_slice(&self.deadline_ms.to_le_bytes());
        out[24..28].copy_from_slice(&self.header_len.to_le_bytes());
        out[28..32].copy_from_slice(&self.body_len.to_le_bytes());
        out[32..36].copy_from_slice(&self.body_crc.to_le_bytes());
        out
    }

    /// The 40 bytes in front of `protobuf`; sets `header_len` and the header checksum.
    ///
    /// # Panics
    /// When `protobuf` or the body exceeds its bound: senders check theirs before.
    pub fn seal(mut self, protobuf: &[u8]) -> [u8; FIXED_LEN] {
        assert!(protobuf.len() <= FRAME_HEADER_MAX as usize, "frame header of {} bytes", protobuf.len());
        assert!(self.body_len <= FRAME_BODY_MAX, "frame body of {} bytes", self.body_len);
        self.header_len = protobuf.len() as u32;
        let mut out = self.encode_unsealed();
        let crc = crc32c_parts(&[&out[..36], protobuf]);
        out[36..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the fixed header; afterwards `header_len` and `body_len` are within bounds and may be allocated.
    pub fn decode(bytes: &[u8; FIXED_LEN]) -> Result<Self, FrameError> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let magic = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if magic != MAGIC {
            return Err(FrameError::BadMagic(magic));
        }
        if bytes[4] != VERSION {
            return Err(FrameError::BadVersion(bytes[4]));
        }
        let frame_type = FrameType::from_u8(bytes[5]).ok_or(FrameError::BadType(bytes[5]))?;
        let header = Self {
            frame_type,
            flags: half(6),
            request_id: u64::from(word(8)) | u64::from(word(12)) << 32,
            op: half(16),
            attempt: bytes[18],
            priority: bytes[19],
            deadline_ms: word(20),
            header_len: word(24),
            body_len: word(28),
            body_crc: word(32),
            header_crc: word(36),
        };
        if header.header_len > FRAME_HEADER_MAX {
            return Err(FrameError::HeaderTooLarge(header.header_len));
        }
        if header.body_len > FRAME_BODY_MAX {
            return Err(FrameError::BodyTooLarge(header.body_len));
        }
        Ok(header)
    }

    /// Holds the header checksum against the protobuf bytes that followed.
    pub fn check(&self, protobuf: &[u8]) -> Result<(), FrameError> {
        let unsealed = self.encode_unsealed();
        let expected = crc32c_parts(&[&unsealed[..36], protobuf]);
        if expected == self.header_crc {
            Ok(())
        } else {
            Err(FrameError::HeaderCrc { expected, found: self.header_crc })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> FixedHeader {
        FixedHeader {
            flags: flags::END | flags::RETRY,
            attempt: 2,
            priority: 1,
            deadline_ms: 30_000,
            body_len: 5,
            body_crc: 0xdead_beef,
            ..FixedHeader::new(FrameType::Request, 0x0102_0304_0506_0708, crate::op::PUT)
        }
    }

    #[test]
    fn bytes_are_pinned() {
        let bytes = sample().seal(b"abc");
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "43524e3101032100080706050403020101010201307500000300000005000000efbeadde8fae28c5");
    }

    #[test]
    fn bounds_come_before_anything_else() {
        let mut bytes = sample().seal(b"");
        bytes[24..28].copy_from_slice(&(FRAME_HEADER_MAX + 1).to_le_bytes());
        assert_eq!(FixedHeader::decode(&bytes), Err(FrameError::HeaderTooLarge(FRAME_HEADER_MAX + 1)));
        let mut bytes = sample().seal(b"");
        bytes[28..32].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(FixedHeader::decode(&bytes), Err(FrameError::BodyTooLarge(u32::MAX)));
        let mut bytes = sample().seal(b"");
        bytes[5] = 77;
        assert_eq!(FixedHeader::decode(&bytes), Err(FrameError::BadType(77)));
    }

    proptest! {
        #[test]
        fn round_trip(
            kind in 1u8..=9, flags in any::<u16>(), request_id in any::<u64>(), op in any::<u16>(),
            deadline_ms in any::<u32>(), body_len in 0..=FRAME_BODY_MAX, body_crc in any::<u32>(),
            protobuf in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let frame_type = FrameType::from_u8(kind).expect("1 to 9 are types");
            let header = FixedHeader {
                flags, deadline_ms, body_len, body_crc, ..FixedHeader::new(frame_type, request_id, op)
            };
            let decoded = FixedHeader::decode(&header.seal(&protobuf)).expect("just encoded");
            prop_assert_eq!(decoded.check(&protobuf), Ok(()));
            let expected = FixedHeader {
                header_len: protobuf.len() as u32, header_crc: decoded.header_crc, ..header
            };
            prop_assert_eq!(decoded, expected);
        }

        #[test]
        fn a_flipped_bit_never_passes(at in 0usize..43, bit in 0u8..8) {
            let mut bytes = sample().seal(b"abc").to_vec();
            bytes.extend_from_slice(b"abc");
            bytes[at] ^= 1 << bit;
            let fixed: [u8; FIXED_LEN] = bytes[..FIXED_LEN].try_into().expect("40 bytes");
            let passed = FixedHeader::decode(&fixed).is_ok_and(|header| header.check(&bytes[FIXED_LEN..]).is_ok());
            prop_assert!(!passed);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::array::uniform32(any::<u8>()), tail in any::<u64>()) {
            let mut all = [0; FIXED_LEN];
            all[..32].copy_from_slice(&bytes);
            all[32..].copy_from_slice(&tail.to_le_bytes());
            let _ = FixedHeader::decode(&all).map(|header| header.check(b""));
        }
    }
}
