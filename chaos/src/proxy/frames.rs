//! Where frames begin and end in a stream that passes by.

use bytes::BytesMut;
use cairn_proto::frame::{FIXED_LEN, FixedHeader, FrameType, flags};
use cairn_proto::pb;
use prost::Message;

/// The role of the one who dialled, as its HELLO says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Peer {
    /// No HELLO yet.
    #[default]
    Unknown,
    /// A client.
    Client,
    /// A storage node or a metadata server.
    Server,
}

/// What was found at the end of a taken piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The frame goes on.
    Inside,
    /// The fixed header is complete; its rest follows.
    Header(FixedHeader),
    /// The frame is complete.
    End(FixedHeader),
    /// These bytes are no frames, and nothing behind them will be read as such.
    Lost,
}

/// Follows the frames of one direction of one connection. Takes any bytes; holds at most one HELLO.
#[derive(Debug, Default)]
pub struct Scanner {
    fixed: Vec<u8>,
    current: Option<FixedHeader>,
    left: usize,
    lost: bool,
    hello: BytesMut,
    peer: Peer,
}

impl Scanner {
    /// Takes bytes up to the next boundary; how many, and what the boundary is. Never takes 0 of a piece that is not
    /// empty.
    pub fn take(&mut self, bytes: &[u8]) -> (usize, Step) {
        if self.lost {
            return (bytes.len(), Step::Lost);
        }
        let Some(header) = self.current else { return self.take_fixed(bytes) };
        let taken = bytes.len().min(self.left);
        self.left -= taken;
        if header.frame_type == FrameType::Hello {
            self.hello.extend_from_slice(&bytes[..taken]);
        }
        if self.left > 0 { (taken, Step::Inside) } else { (taken, self.end(header)) }
    }

    fn take_fixed(&mut self, bytes: &[u8]) -> (usize, Step) {
        let taken = bytes.len().min(FIXED_LEN - self.fixed.len());
        self.fixed.extend_from_slice(&bytes[..taken]);
        let Ok(fixed) = <[u8; FIXED_LEN]>::try_from(self.fixed.as_slice()) else { return (taken, Step::Inside) };
        self.fixed.clear();
        match FixedHeader::decode(&fixed) {
            Ok(header) => {
                self.left = header.header_len as usize + header.body_len as usize;
                if self.left == 0 {
                    return (taken, self.end(header));
                }
                self.current = Some(header);
                (taken, Step::Header(header))
            }
            Err(_) => {
                self.lost = true;
                (taken, Step::Lost)
            }
        }
    }

    fn end(&mut self, header: FixedHeader) -> Step {
        self.current = None;
        if header.frame_type == FrameType::Hello {
            let hello = pb::Hello::decode(self.hello.split().freeze()).unwrap_or_default();
            self.peer = if hello.role() == pb::Role::Client { Peer::Client } else { Peer::Server };
        }
        Step::End(header)
    }

    /// True between two frames.
    pub fn at_boundary(&self) -> bool {
        self.current.is_none() && self.fixed.is_empty()
    }

    /// Who dialled.
    pub fn peer(&self) -> Peer {
        self.peer
    }
}

/// True for the last frame of a request or response, and for frames that are neither.
pub fn ends_message(header: &FixedHeader) -> bool {
    !matches!(header.frame_type, FrameType::Request | FrameType::Response | FrameType::Data) || header.has(flags::END)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(frame_type: FrameType, protobuf: &[u8], body: &[u8]) -> Vec<u8> {
        let header = FixedHeader { body_len: body.len() as u32, ..FixedHeader::new(frame_type, 1, 258) };
        [&header.seal(protobuf)[..], protobuf, body].concat()
    }

    /// Feeds pieces of `len` bytes; the types of the frames that ended.
    fn ends(scanner: &mut Scanner, bytes: &[u8], len: usize) -> Vec<FrameType> {
        let mut found = Vec::new();
        for piece in bytes.chunks(len) {
            let mut rest = piece;
            while !rest.is_empty() {
                let (taken, step) = scanner.take(rest);
                assert!(taken > 0);
                rest = &rest[taken..];
                if let Step::End(header) = step {
                    found.push(header.frame_type);
                }
            }
        }
        found
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let hello = pb::Hello { role: pb::Role::Client as i32, ..Default::default() }.encode_to_vec();
        let stream = [
            frame(FrameType::Hello, &hello, b""),
            frame(FrameType::Ping, b"", b""),
            frame(FrameType::Request, b"abc", &[7; 1000]),
            frame(FrameType::Data, b"", &[7; 10]),
        ]
        .concat();
        for len in [1, 2, 39, 40, 41, 57, stream.len()] {
            let mut scanner = Scanner::default();
            let expected = [FrameType::Hello, FrameType::Ping, FrameType::Request, FrameType::Data];
            assert_eq!(ends(&mut scanner, &stream, len), expected, "cut at {len}");
            assert_eq!(scanner.peer(), Peer::Client);
            assert!(scanner.at_boundary());
        }
    }

    #[test]
    fn other_bytes_are_no_frames() {
        let mut scanner = Scanner::default();
        assert!(ends(&mut scanner, &[b'x'; 200], 7).is_empty());
        assert_eq!(scanner.take(&frame(FrameType::Ping, b"", b"")).1, Step::Lost);
    }
}
