//! Takes frames off a byte stream: small ones through a buffer (one system call may bring several), bodies straight
//! into their final place.

use crate::meter::Meter;
use bytes::{Buf, BufMut, BytesMut};
use cairn_proto::checksum::crc32c;
use cairn_proto::frame::{FIXED_LEN, FixedHeader, FrameError};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// Read buffer of a connection that carries small frames.
pub(crate) const CONTROL_READ_LEN: usize = 16 * 1024;
/// Read buffer of a connection that carries large bodies: what lies in it has to be copied once more.
pub(crate) const BULK_READ_LEN: usize = 4 * 1024;
/// Body bytes that nobody wants are read in steps of this length.
const SKIP_LEN: usize = 64 * 1024;

/// Both parts of a header leave in one piece: what has not followed its first bytes after this will not come.
const HEADER_WAIT: Duration = Duration::from_secs(5);

/// Why no further frame can be read from a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The peer closed between two frames.
    #[error("closed by the peer")]
    Closed,
    /// The peer closed inside a frame.
    #[error("closed by the peer in the middle of a frame")]
    Truncated,
    /// The peer began a header and does not go on.
    #[error("a frame's header did not follow its first {FIXED_LEN} bytes within {HEADER_WAIT:?}")]
    Overdue,
    /// The operating system's error.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Not a frame.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// The frame's body was changed on the way.
    #[error("frame body checksum is {found:08x}, expected {expected:08x}")]
    BodyCrc { expected: u32, found: u32 },
}

/// Reads frames. After [`FrameReader::next`] the protobuf header is at hand until the next call; the body must be taken
/// or skipped before it.
pub(crate) struct FrameReader<R> {
    source: R,
    buffer: BytesMut,
    /// Protobuf header bytes at the front of the buffer, still to be dropped.
    header_len: usize,
    read_len: usize,
    meter: Arc<Meter>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(source: R, read_len: usize, meter: Arc<Meter>) -> Self {
        Self { source, buffer: BytesMut::with_capacity(read_len), header_len: 0, read_len, meter }
    }

    /// Chooses the size of the buffer once it is known what the connection carries.
    pub fn set_read_len(&mut self, read_len: usize) {
        self.read_len = read_len;
    }

    /// The next frame's fixed header, checked; its protobuf header is at [`FrameReader::header`]. Cancelling loses
    /// nothing.
    pub async fn next(&mut self) -> Result<FixedHeader, ReadError> {
        self.buffer.advance(self.header_len);
        self.header_len = 0;
        if !self.buffer.is_empty() {
            self.meter.owe_once();
        }
        self.fill(FIXED_LEN).await?;
        let fixed_bytes: &[u8; FIXED_LEN] = self.buffer.first_chunk().expect("just filled");
        let fixed = FixedHeader::decode(fixed_bytes)?;
        let header_len = fixed.header_len as usize;
        if self.buffer.len() < FIXED_LEN + header_len {
            // A length that was spoilt on the way would wait for what belongs to later frames, and swallow them.
            timeout(HEADER_WAIT, self.fill(FIXED_LEN + header_len)).await.map_err(|_| ReadError::Overdue)??;
        }
        fixed.check(&self.buffer[FIXED_LEN..FIXED_LEN + header_len])?;
        self.buffer.advance(FIXED_LEN);
        self.header_len = header_len;
        if fixed.body_len == 0 {
            self.meter.settle();
        } else {
            self.meter.owe();
        }
        Ok(fixed)
    }

    /// The protobuf header of the frame that [`FrameReader::next`] returned.
    pub fn header(&self) -> &[u8] {
        &self.buffer[..self.header_len]
    }

    /// Appends the frame's body to `out`, which has the capacity, and holds it against its checksum if `verify`.
    pub async fn take_body(&mut self, fixed: &FixedHeader, out: &mut BytesMut, verify: bool) -> Result<(), ReadError> {
        let begin = out.len();
        let mut rest = self.begin_body(fixed, |bytes| out.put_slice(bytes));
        while rest > 0 {
            let got = self.source.read_buf(&mut (&mut *out).limit(rest)).await?;
            if got == 0 {
                return Err(ReadError::Truncated);
            }
            self.meter.received(got);
            rest -= got;
        }
        self.meter.settle();
        if verify {
            let expected = crc32c(&out[begin..]);
            if expected != fixed.body_crc {
                return Err(ReadError::BodyCrc { expected, found: fixed.body_crc });
            }
        }
        Ok(())
    }

    /// Reads past the frame's body.
    pub async fn skip_body(&mut self, fixed: &FixedHeader) -> Result<(), ReadError> {
        let mut rest = self.begin_body(fixed, |_| ());
        let mut scratch = BytesMut::with_capacity(rest.min(SKIP_LEN));
        while rest > 0 {
            scratch.clear();
            let got = self.source.read_buf(&mut (&mut scratch).limit(rest.min(SKIP_LEN))).await?;
            if got == 0 {
                return Err(ReadError::Truncated);
            }
            self.meter.received(got);
            rest -= got;
        }
        self.meter.settle();
        Ok(())
    }

    /// Hands over the part of the body that is in the buffer; returns how much is still to come.
    fn begin_body(&mut self, fixed: &FixedHeader, put: impl FnOnce(&[u8])) -> usize {
        self.buffer.advance(self.header_len);
        self.header_len = 0;
        let body_len = fixed.body_len as usize;
        let here = self.buffer.len().min(body_len);
        put(&self.buffer[..here]);
        self.buffer.advance(here);
        body_len - here
    }

    /// Reads until the buffer holds `len` bytes.
    async fn fill(&mut self, len: usize) -> Result<(), ReadError> {
        while self.buffer.len() < len {
            let missing = len - self.buffer.len();
            let spare = self.buffer.capacity() - self.buffer.len();
            if spare < missing || spare < self.read_len / 2 {
                // Nobody else holds the buffer: this moves the few unread bytes to its front, it rarely allocates.
                self.buffer.reserve(missing.max(self.read_len.saturating_sub(self.buffer.len())));
            }
            let got = self.source.read_buf(&mut self.buffer).await?;
            if got == 0 {
                return Err(if self.buffer.is_empty() { ReadError::Closed } else { ReadError::Truncated });
            }
            self.meter.received(got);
            self.meter.owe_once();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
