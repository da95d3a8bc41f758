//! Frames as no correct peer sends them, and what a decoder makes of them.

use bytes::BufMut;
use cairn_proto::checksum::crc32c;
use cairn_proto::frame::{FIXED_LEN, FixedHeader, FrameType, flags};
use cairn_proto::limits::{CONTROL_BODY_MAX, FRAME_BODY_MAX, RESPONSE_LEN_MAX};
use cairn_proto::op;
use cairn_proto::pb::{self, request, response};
use prost::Message;
use serde::Serialize;

/// Longest noise, protobuf header and body that is really sent; announced lengths go further.
const NOISE_MAX: usize = 256;
const HEADER_MAX: usize = 128;
const BODY_MAX: usize = 512;
/// Lengths around every bound.
const LENGTHS: [u64; 10] = [
    0,
    1,
    40,
    CONTROL_BODY_MAX as u64,
    CONTROL_BODY_MAX as u64 + 1,
    FRAME_BODY_MAX as u64,
    FRAME_BODY_MAX as u64 + 1,
    RESPONSE_LEN_MAX,
    RESPONSE_LEN_MAX + 1,
    u64::MAX,
];
const TYPES: [FrameType; 9] = [
    FrameType::Hello,
    FrameType::HelloAck,
    FrameType::Request,
    FrameType::Response,
    FrameType::Data,
    FrameType::Cancel,
    FrameType::Ping,
    FrameType::Pong,
    FrameType::GoAway,
];

/// Which side the frames pretend to come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// A client.
    Client,
    /// A server that was asked this.
    Server {
        /// The id of the request.
        id: u64,
        /// Its operation.
        op: u16,
    },
}

/// What a decoder found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// The first 40 bytes are no fixed header, or not all there.
    NoFixed,
    /// Ended early.
    Cut,
    /// The header's checksum is wrong.
    HeaderCrc,
    /// The header is no message of its type.
    Message,
    /// The body's checksum is wrong.
    BodyCrc,
    /// A whole, valid frame.
    Frame,
}

/// How often what was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Tally {
    no_fixed: u64,
    cut: u64,
    header_crc: u64,
    message: u64,
    body_crc: u64,
    frame: u64,
}

impl Tally {
    /// One more.
    pub fn count(&mut self, found: Found) {
        *match found {
            Found::NoFixed => &mut self.no_fixed,
            Found::Cut => &mut self.cut,
            Found::HeaderCrc => &mut self.header_crc,
            Found::Message => &mut self.message,
            Found::BodyCrc => &mut self.body_crc,
            Found::Frame => &mut self.frame,
        } += 1;
    }

    /// True when every branch of the decoder was reached.
    pub fn is_complete(&self) -> bool {
        [self.no_fixed, self.cut, self.header_crc, self.message, self.body_crc, self.frame].iter().all(|n| *n > 0)
    }
}

/// Decodes as a connection does: fixed header, protobuf header, checksum, message, body.
pub fn decode(bytes: &[u8]) -> Found {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_LEN>() else { return Found::NoFixed };
    let Ok(fixed) = FixedHeader::decode(fixed) else { return Found::NoFixed };
    let Some((header, rest)) = rest.split_at_checked(fixed.header_len as usize) else { return Found::Cut };
    if fixed.check(header).is_err() {
        return Found::HeaderCrc;
    }
    let is_message = match fixed.frame_type {
        FrameType::Hello => pb::Hello::decode(header).is_ok(),
        FrameType::HelloAck => pb::HelloAck::decode(header).is_ok(),
        FrameType::Request => pb::Request::decode(header).is_ok(),
        FrameType::Response => pb::Response::decode(header).is_ok(),
        FrameType::Pong => pb::Pong::decode(header).is_ok(),
        FrameType::GoAway => pb::GoAway::decode(header).is_ok(),
        FrameType::Data | FrameType::Cancel | FrameType::Ping => true,
    };
    if !is_message {
        return Found::Message;
    }
    let Some(body) = rest.get(..fixed.body_len as usize) else { return Found::Cut };
    if crc32c(body) == fixed.body_crc { Found::Frame } else { Found::BodyCrc }
}

/// Makes frames from a seed.
pub struct Fuzzer {
    random: fastrand::Rng,
    frame: Vec<u8>,
    header: Vec<u8>,
    last_id: u64,
}

impl Fuzzer {
    /// The same seed makes the same frames.
    pub fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), frame: Vec::new(), header: Vec::new(), last_id: 0 }
    }

    /// True once in `n` calls.
    pub fn one_in(&mut self, n: u32) -> bool {
        self.random.u32(..n) == 0
    }

    /// The next frame, or something that begins like one.
    pub fn next(&mut self, from: From) -> &[u8] {
        self.frame.clear();
        match self.random.u8(..8) {
            0 => self.noise(),
            1 | 2 => {
                self.sensible(from);
                for _ in 0..=self.random.usize(..8) {
                    let at = self.random.usize(..self.frame.len());
                    self.frame[at] ^= 1 << self.random.u8(..8);
                }
            }
            3 => {
                self.sensible(from);
                let len = self.random.usize(..self.frame.len());
                self.frame.truncate(len);
            }
            4 => self.sensible(from),
            _ => self.sealed_nonsense(from),
        }
        &self.frame
    }

    fn noise(&mut self) {
        let len = self.random.usize(..NOISE_MAX);
        self.frame.resize(len, 0);
        self.random.fill(&mut self.frame);
        if self.random.bool() && len >= 6 {
            self.frame[..6].copy_from_slice(b"CRN1\x01\x03");
        }
    }

    fn length(&mut self) -> u64 {
        LENGTHS[self.random.usize(..LENGTHS.len())]
    }

    /// A message that a peer could send.
    fn message(&mut self, from: From, total_len: u64) {
        self.header.clear();
        let block = Some(pb::BlockId { inode: self.random.u64(..9), writer: 1, seq: 2 });
        let written = match from {
            From::Client => {
                let kind = match self.random.u8(..4) {
                    0 => request::Kind::Put(pb::PutBlock { block, crcs: vec![1; 8].into(), ..Default::default() }),
                    1 => request::Kind::Sync(pb::SyncBlocks { store: 1, blocks: block.into_iter().collect() }),
                    _ => request::Kind::Get(pb::GetBlock { block, len: self.random.u32(..), ..Default::default() }),
                };
                pb::Request { kind: Some(kind), total_len, ..Default::default() }.encode(&mut self.header)
            }
            From::Server { .. } => {
                let kind =
                    response::Kind::Get(pb::GetBlockReply { block_len: self.random.u32(..), ..Default::default() });
                pb::Response { kind: Some(kind), total_len, ..Default::default() }.encode(&mut self.header)
            }
        };
        debug_assert!(written.is_ok(), "a Vec has room");
    }

    fn fixed(&mut self, from: From) -> FixedHeader {
        self.last_id += self.random.u64(..2);
        let (frame_type, id, op) = match from {
            From::Client => (FrameType::Request, self.last_id, op::GET),
            From::Server { id, op } => (FrameType::Response, id, op),
        };
        FixedHeader { flags: flags::END, ..FixedHeader::new(frame_type, id, op) }
    }

    /// A frame as it should be.
    fn sensible(&mut self, from: From) {
        let len = self.random.usize(..BODY_MAX);
        self.message(from, len as u64);
        let fixed = self.fixed(from);
        self.push(fixed, len, None);
    }

    /// A frame whose header checksum is right and whose content is not.
    fn sealed_nonsense(&mut self, from: From) {
        if self.random.bool() {
            let total_len = self.length();
            self.message(from, total_len);
        } else {
            let len = self.random.usize(..HEADER_MAX);
            self.header.resize(len, 0);
            self.random.fill(&mut self.header);
        }
        let mut fixed = self.fixed(from);
        if self.random.bool() {
            fixed.frame_type = TYPES[self.random.usize(..TYPES.len())];
        }
        if self.random.bool() {
            fixed.flags = self.random.u16(..);
        }
        if self.one_in(4) {
            fixed.op = self.random.u16(..);
            fixed.request_id = self.random.u64(..);
        }
        if self.one_in(4) {
            fixed.deadline_ms = self.random.u32(..);
            (fixed.attempt, fixed.priority) = (self.random.u8(..), self.random.u8(..));
        }
        let announced = self.length().min(FRAME_BODY_MAX.into()) as u32;
        let sent = (announced as usize).min(self.random.usize(..BODY_MAX));
        self.push(fixed, sent, Some(announced));
    }

    /// Seals the header in `self.header`; a body of `len` bytes follows, or is announced longer and does not.
    fn push(&mut self, mut fixed: FixedHeader, len: usize, announced: Option<u32>) {
        let mut body = [0; BODY_MAX];
        self.random.fill(&mut body[..len]);
        fixed.body_len = announced.unwrap_or(len as u32);
        fixed.body_crc =
            if announced.is_some() && self.random.bool() { self.random.u32(..) } else { crc32c(&body[..len]) };
        self.frame.put_slice(&fixed.seal(&self.header));
        self.frame.put_slice(&self.header);
        self.frame.put_slice(&body[..len]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_branch_of_the_decoder_is_reached_from_both_sides() {
        for from in [From::Client, From::Server { id: 7, op: op::GET }] {
            let mut fuzzer = Fuzzer::new(1);
            let mut tally = Tally::default();
            assert!(!tally.is_complete());
            for _ in 0..20_000 {
                tally.count(decode(fuzzer.next(from)));
            }
            assert!(tally.is_complete(), "{tally:?}");
        }
    }

    #[test]
    fn a_seed_decides_everything() {
        let (mut one, mut other) = (Fuzzer::new(3), Fuzzer::new(3));
        assert!((0..1000).all(|_| one.next(From::Client) == other.next(From::Client)));
    }
}
