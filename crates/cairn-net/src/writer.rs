//! Puts frames onto a byte stream: small ones gathered into one system call, bodies without a copy, files through the
//! kernel.

use crate::body::{Body, BodyPart};
use crate::meter::Meter;
use crate::seam::WriteHalf;
use bytes::Bytes;
use cairn_proto::frame::{FIXED_LEN, FixedHeader, FrameType, flags};
use prost::Message;
use std::io;
use std::io::IoSlice;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

/// Bodies up to this length are copied behind their header instead of getting a slice of their own.
const COPY_LEN_MAX: usize = 2 * 1024;
/// A batch is written when it has this many bytes or slices.
const BATCH_LEN: usize = 256 * 1024;
const BATCH_SLICES: usize = 64;

enum Piece {
    /// Bytes of the shared head buffer: from the previous piece's end to here.
    Head {
        end: usize,
    },
    Bytes(Bytes),
}

/// How a message left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SendOutcome {
    /// Its last frame is in the batch or written.
    Whole,
    /// It was given up between two frames, and the peer told so.
    Aborted,
    /// It was given up before its first frame; nothing was written.
    NotBegun,
}

/// Writes frames in batches. Nothing is on the wire before [`FrameWriter::flush`]. A cancelled or failed call leaves
/// half a frame: the connection is finished then.
pub(crate) struct FrameWriter {
    sink: Box<dyn WriteHalf>,
    head: Vec<u8>,
    pieces: Vec<Piece>,
    batch_len: usize,
    meter: Arc<Meter>,
}

impl FrameWriter {
    pub fn new(sink: Box<dyn WriteHalf>, meter: Arc<Meter>) -> Self {
        Self { sink, head: Vec::new(), pieces: Vec::new(), batch_len: 0, meter }
    }

    /// True when the batch should be written before more is added.
    pub fn is_full(&self) -> bool {
        self.batch_len >= BATCH_LEN || self.pieces.len() >= BATCH_SLICES
    }

    /// Adds a frame without body whose header is `message`.
    pub fn push_message(&mut self, fixed: FixedHeader, message: &impl Message) {
        self.push(fixed, &message.encode_to_vec(), None);
    }

    /// Adds a frame to the batch; sets the body fields of the fixed header.
    pub fn push(&mut self, mut fixed: FixedHeader, protobuf: &[u8], body: Option<(&Bytes, u32)>) {
        if let Some((data, crc)) = body {
            fixed.body_len = data.len() as u32;
            fixed.body_crc = crc;
        }
        self.head.extend_from_slice(&fixed.seal(protobuf));
        self.head.extend_from_slice(protobuf);
        self.batch_len += FIXED_LEN + protobuf.len() + fixed.body_len as usize;
        let large = match body {
            Some((data, _)) if data.len() > COPY_LEN_MAX => Some(data.clone()),
            Some((data, _)) => {
                self.head.extend_from_slice(data);
                None
            }
            None => None,
        };
        let end = self.head.len();
        match self.pieces.last_mut() {
            Some(Piece::Head { end: last }) => *last = end,
            _ => self.pieces.push(Piece::Head { end }),
        }
        self.pieces.extend(large.map(Piece::Bytes));
    }

    /// Writes the batch.
    pub async fn flush(&mut self) -> io::Result<()> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        self.meter.write_begins();
        let mut begin = 0;
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            match piece {
                Piece::Head { end } => {
                    slices.push(IoSlice::new(&self.head[begin..*end]));
                    begin = *end;
                }
                Piece::Bytes(bytes) => slices.push(IoSlice::new(bytes)),
            }
        }
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            let sent = self.sink.write_vectored(rest).await?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.meter.sent(sent);
            IoSlice::advance_slices(&mut rest, sent);
        }
        // A stream that encrypts may hold back what it has taken.
        self.sink.flush().await?;
        self.meter.write_ends();
        self.pieces.clear();
        self.head.clear();
        self.batch_len = 0;
        Ok(())
    }

    async fn write_file_frame(&mut self, mut fixed: FixedHeader, protobuf: &[u8], part: &BodyPart) -> io::Result<()> {
        let BodyPart::File { file, offset, len, crc } = part else {
            return Ok(());
        };
        fixed.body_len = *len;
        fixed.body_crc = *crc;
        self.head.extend_from_slice(&fixed.seal(protobuf));
        self.head.extend_from_slice(protobuf);
        self.meter.write_begins();
        self.sink.send_file(&self.head, file, *offset, *len).await?;
        self.sink.flush().await?;
        self.meter.sent(self.head.len() + *len as usize);
        self.meter.write_ends();
        self.head.clear();
        Ok(())
    }

    /// Sends a message: `first` with `protobuf` and the first part of the body, the other parts in DATA frames. A
    /// message of one frame in memory only joins the batch; a longer one is written frame by frame. Before each frame
    /// `step(is_last)` is asked: false gives the message up, which the peer is told by a frame with ABORT and
    /// `abort_flags`.
    pub async fn send(
        &mut self,
        first: FixedHeader,
        protobuf: &[u8],
        body: &Body,
        abort_flags: u16,
        mut step: impl FnMut(bool) -> bool,
    ) -> io::Result<SendOutcome> {
        let parts = body.parts();
        let mut fixed = first;
        let mut header = protobuf;
        for index in 0..parts.len().max(1) {
            let is_last = index + 1 >= parts.len();
            let proceed = step(is_last);
            if !proceed {
                if index == 0 {
                    return Ok(SendOutcome::NotBegun);
                }
                fixed.flags = flags::ABORT | flags::END | abort_flags;
                self.push(fixed, b"", None);
                return Ok(SendOutcome::Aborted);
            }
            fixed.flags = if index == 0 { first.flags } else { 0 } | if is_last { flags::END } else { 0 };
            match parts.get(index) {
                None => self.push(fixed, header, None),
                Some(BodyPart::Bytes { data, crc }) => self.push(fixed, header, Some((data, *crc))),
                Some(part @ BodyPart::File { .. }) => {
                    self.flush().await?;
                    self.write_file_frame(fixed, header, part).await?;
                }
            }
            if parts.len() > 1 || self.is_full() {
                self.flush().await?;
            }
            fixed = FixedHeader {
                attempt: 0,
                deadline_ms: 0,
                ..FixedHeader::new(FrameType::Data, first.request_id, first.op)
            };
            header = b"";
        }
        Ok(SendOutcome::Whole)
    }
}

#[cfg(test)]
mod tests;
