//! One frame there and back: the least a request can cost.

use super::link::Link;
use crate::args::PeerRole;
use crate::cpu::Group;
use crate::sample::{Latency, Sample, Unit, Watch};
use anyhow::{Context, Result, ensure};
use cairn_proto::checksum::crc32c;
use cairn_proto::frame::{FIXED_LEN, FixedHeader, FrameType, flags};
use cairn_proto::op;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const BODY_LEN: usize = 4096;
/// As long as the header of a real request for a block.
const HEADER_LEN: usize = 48;

/// One whole frame in one buffer.
struct Frame(Vec<u8>);

impl Frame {
    fn new(frame_type: FrameType, request_id: u64, body: &[u8]) -> Self {
        let header = [0; HEADER_LEN];
        let fixed = FixedHeader {
            flags: flags::END,
            body_len: body.len() as u32,
            body_crc: crc32c(body),
            ..FixedHeader::new(frame_type, request_id, op::PUT)
        };
        Self([fixed.seal(&header).as_slice(), &header, body].concat())
    }

    /// Reads one and checks it as a server does; `None` when the other side hung up between frames.
    fn read(stream: &mut TcpStream) -> Result<Option<(FixedHeader, Vec<u8>)>> {
        let mut fixed = [0; FIXED_LEN];
        match stream.read_exact(&mut fixed) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return Ok(None);
            }
            Err(error) => return Err(error).context("reading a frame"),
        }
        let fixed = FixedHeader::decode(&fixed)?;
        let mut rest = vec![0; (fixed.header_len + fixed.body_len) as usize];
        stream.read_exact(&mut rest).context("reading a frame")?;
        let body = rest.split_off(fixed.header_len as usize);
        fixed.check(&rest)?;
        ensure!(crc32c(&body) == fixed.body_crc, "the body of a frame does not match its checksum");
        Ok(Some((fixed, body)))
    }
}

/// Answers every request with its own body.
pub fn serve(stream: &mut TcpStream) -> Result<()> {
    while let Some((fixed, body)) = Frame::read(stream)? {
        stream.write_all(&Frame::new(FrameType::Response, fixed.request_id, &body).0).context("answering")?;
    }
    Ok(())
}

/// Round trips of 4 KiB to another process, one after the other, for that long.
pub fn round_trips(pool: &[u8], time: Duration) -> Result<Sample> {
    let mut link = Link::start(PeerRole::Echo, 0, None)?;
    let mut latency = Latency::new();
    let watch = Watch::start(&[Group::own("bench"), Link::group([&link])])?;
    let (begin, mut count) = (Instant::now(), 0);
    while begin.elapsed() < time {
        let one = Instant::now();
        let request = Frame::new(FrameType::Request, count, &pool[..BODY_LEN]);
        link.stream.write_all(&request.0).context("sending a frame")?;
        let (fixed, body) = Frame::read(&mut link.stream)?.context("the other process hung up")?;
        ensure!(fixed.request_id == count && body == pool[..BODY_LEN], "a frame came back changed");
        latency.record(one.elapsed());
        count += 1;
    }
    Ok(watch.stop(Unit::Operations, count)?.with_latency(latency))
}

/// Frames without a body there and back per second, over one connection, with so many of them under way.
pub fn pipelined(role: PeerRole, under_way: usize, time: Duration) -> Result<f64> {
    let mut link = Link::start(role, 0, None)?;
    let (begin, mut sent, mut back) = (Instant::now(), 0_u64, 0_u64);
    while begin.elapsed() < time {
        while sent - back < under_way as u64 {
            let request = Frame::new(FrameType::Request, sent, &[]);
            link.stream.write_all(&request.0).context("sending a frame")?;
            sent += 1;
        }
        let (fixed, _) = Frame::read(&mut link.stream)?.context("the other process hung up")?;
        ensure!(fixed.request_id == back, "frames came back in another order");
        back += 1;
    }
    Ok(back as f64 / begin.elapsed().as_secs_f64())
}
