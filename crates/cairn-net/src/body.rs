//! What follows a header: bytes in memory or a stretch of a file, cut into frames, with a checksum each.

use bytes::Bytes;
use cairn_proto::checksum::crc32c;
use cairn_proto::limits::FRAME_BODY_MAX;
use std::sync::Arc;

/// An open file whose content is sent; opened by whoever owns the disk.
#[allow(
    clippy::disallowed_types,
    reason = "only a handle: opening and reading stay with the disk's owner and the seam"
)]
pub type FileHandle = Arc<std::fs::File>;

/// The body of one frame: at most [`FRAME_BODY_MAX`] bytes and their CRC32C.
#[derive(Clone, Debug)]
pub enum BodyPart {
    /// Bytes in memory, shared.
    Bytes {
        /// The content.
        data: Bytes,
        /// CRC32C of `data`.
        crc: u32,
    },
    /// A stretch of a file, sent by the kernel without a copy where the connection is plain.
    File {
        /// Where from.
        file: FileHandle,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u32,
        /// CRC32C of the stretch, known to the caller (combined from chunk checksums).
        crc: u32,
    },
}

impl BodyPart {
    /// Length in bytes.
    pub fn len(&self) -> u32 {
        match self {
            Self::Bytes { data, .. } => data.len() as u32,
            Self::File { len, .. } => *len,
        }
    }

    /// True when there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// CRC32C of the content.
    pub fn crc(&self) -> u32 {
        match self {
            Self::Bytes { crc, .. } | Self::File { crc, .. } => *crc,
        }
    }
}

/// A whole body: parts in order, one frame each. Cloning shares the bytes.
#[derive(Clone, Debug, Default)]
pub struct Body {
    parts: Arc<[BodyPart]>,
    len: u64,
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Cuts `data` into frames and hashes each once.
    pub fn from_bytes(data: Bytes) -> Self {
        let frame_len = FRAME_BODY_MAX as usize;
        let parts = (0..data.len())
            .step_by(frame_len)
            .map(|at| {
                let data = data.slice(at..data.len().min(at + frame_len));
                BodyPart::Bytes { crc: crc32c(&data), data }
            })
            .collect();
        Self { parts, len: data.len() as u64 }
    }

    /// A body whose parts and checksums the caller has made; empty parts are dropped.
    ///
    /// # Panics
    /// When a part exceeds [`FRAME_BODY_MAX`].
    pub fn from_parts(parts: Vec<BodyPart>) -> Self {
        let parts: Arc<[BodyPart]> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let mut len = 0;
        for part in parts.iter() {
            let part_len = match part {
                BodyPart::Bytes { data, .. } => data.len() as u64,
                BodyPart::File { len, .. } => u64::from(*len),
            };
            assert!(part_len <= u64::from(FRAME_BODY_MAX), "a body part of {part_len} bytes does not fit a frame");
            len += part_len;
        }
        Self { parts, len }
    }

    /// Length in bytes, all parts together.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True when there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The parts in order.
    pub fn parts(&self) -> &[BodyPart] {
        &self.parts
    }
}

impl From<Bytes> for Body {
    fn from(data: Bytes) -> Self {
        Self::from_bytes(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_at_frame_length() {
        let data = Bytes::from(vec![7; FRAME_BODY_MAX as usize * 2 + 5]);
        let body = Body::from_bytes(data.clone());
        let lens: Vec<u32> = body.parts().iter().map(BodyPart::len).collect();
        assert_eq!(lens, [FRAME_BODY_MAX, FRAME_BODY_MAX, 5]);
        assert_eq!(body.len(), data.len() as u64);
        assert_eq!(body.parts()[2].crc(), crc32c(&[7; 5]));
        assert!(Body::from_bytes(Bytes::new()).parts().is_empty());
    }

    #[test]
    fn empty_parts_make_no_frame() {
        let body = Body::from_parts(vec![
            BodyPart::Bytes { data: Bytes::new(), crc: 0 },
            BodyPart::Bytes { data: Bytes::from_static(b"x"), crc: crc32c(b"x") },
        ]);
        assert_eq!((body.parts().len(), body.len()), (1, 1));
    }
}
