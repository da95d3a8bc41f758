//! The log beside a snapshot: frames of commits, with which a recovery goes on from where the snapshot stands.

use super::{FRAME_HEAD, FRAME_TAIL, PAYLOAD_MAX, PRELUDE_LEN, put_frame};
use crate::kv::{Write, decode_writes};
use bytes::{Bytes, BytesMut};
use cairn_proto::checksum::crc32c;

/// First bytes of a log file.
pub const LOG_MAGIC: [u8; 8] = *b"CAIRNLOG";
/// Version of the form of log files.
pub const LOG_VERSION: u32 = 1;

const COMMITS: u8 = 4;

/// What stands in front of the frames of a log file.
pub fn log_prelude() -> Vec<u8> {
    let mut out = LOG_MAGIC.to_vec();
    out.extend_from_slice(&LOG_VERSION.to_le_bytes());
    out.resize(PRELUDE_LEN, 0);
    out
}

/// A group of commits as a frame; `last` is the number of the last of them, `writes` as a
/// [`CommitSink`](crate::kv::CommitSink) heard them.
pub fn log_frame(last: u64, writes: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(8 + writes.len());
    payload.extend_from_slice(&last.to_le_bytes());
    payload.extend_from_slice(writes);
    let mut out = Vec::with_capacity(FRAME_HEAD + payload.len() + FRAME_TAIL);
    put_frame(&mut out, COMMITS, &payload);
    out
}

/// A group of commits out of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoggedGroup {
    /// Number of its last commit.
    pub last: u64,
    pub(crate) writes: Vec<Write>,
}

/// Reads log files that follow each other; whatever is cut off or damaged ends it, for behind it nothing is known.
#[derive(Default)]
pub struct LogReader {
    buffer: BytesMut,
    begun: bool,
    ended: bool,
}

impl LogReader {
    /// Takes the next bytes of the present file.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next group that is whole; `None` when more bytes are needed, or nothing further counts.
    pub fn next_group(&mut self) -> Option<LoggedGroup> {
        if self.ended {
            return None;
        }
        if !self.begun {
            if self.buffer.len() < PRELUDE_LEN {
                return None;
            }
            let prelude = self.buffer.split_to(PRELUDE_LEN);
            self.begun = true;
            self.ended = prelude[..] != log_prelude()[..];
        }
        let head = *self.buffer.first_chunk::<FRAME_HEAD>()?;
        let payload = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if self.ended || head[0] != COMMITS || payload > PAYLOAD_MAX {
            self.ended = true;
            return None;
        }
        let len = FRAME_HEAD + payload + FRAME_TAIL;
        if self.buffer.len() < len {
            return None;
        }
        let frame: Bytes = self.buffer.split_to(len).freeze();
        let (content, crc) = frame.split_at(len - FRAME_TAIL);
        let group = || {
            let (last, writes) = content[FRAME_HEAD..].split_first_chunk::<8>()?;
            Some(LoggedGroup { last: u64::from_le_bytes(*last), writes: decode_writes(writes)? })
        };
        match group().filter(|_| crc32c(content).to_le_bytes() == crc) {
            Some(group) => Some(group),
            None => {
                self.ended = true;
                None
            }
        }
    }

    /// True when something was wrong: no later file may be read on with.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The present file is over; what stands half in it does not count. False when that was so, or something was wrong:
    /// the next file does not follow then.
    pub fn next_file(&mut self) -> bool {
        self.ended |= !self.buffer.is_empty();
        self.begun = false;
        !self.ended
    }
}
