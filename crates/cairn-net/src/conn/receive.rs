//! The reading task of a connection, and the handshake before it.

use super::{Conn, Death, Job};
use crate::error::{LegError, LegErrorClass, Sent};
use crate::handshake;
use crate::identity::{Identity, PeerInfo};
use crate::meter::{Meter, Totals};
use crate::pool::LaneKind;
use crate::reader::{BULK_READ_LEN, CONTROL_READ_LEN, FrameReader, ReadError};
use crate::seam::{ReadHalf, Stream};
use crate::stats::{CloseReason, Counters};
use crate::writer::FrameWriter;
use bytes::BytesMut;
use cairn_proto::NodeId;
use cairn_proto::checksum::crc32c;
use cairn_proto::frame::{FixedHeader, FrameType, flags};
use cairn_proto::limits::{CONTROL_BODY_MAX, FRAME_BODY_MAX, RESPONSE_LEN_MAX};
use cairn_proto::pb;
use cairn_proto::status::Status;
use prost::Message;
use std::sync::Arc;
use std::time::Duration;

/// An established connection that nobody owns yet.
pub(crate) struct Dialed {
    pub reader: FrameReader<Box<dyn ReadHalf>>,
    pub writer: FrameWriter,
    pub meter: Arc<Meter>,
    pub peer: PeerInfo,
    /// When the peer closes a connection that is not used, if it says so.
    pub peer_idle_timeout: Option<Duration>,
    /// First request id that was not used.
    pub next_id: u64,
}

/// Introduces both sides to each other.
pub(crate) async fn handshake(
    mut stream: Box<dyn Stream>,
    kind: LaneKind,
    identity: &Identity,
    expect_node: NodeId,
    idle_timeout: Duration,
    totals: Arc<Totals>,
) -> Result<Dialed, LegError> {
    let failed = |class, message: String| LegError::new(class, Sent::No, message);
    let addr = stream.peer_addr().ok();
    let certificate = stream
        .establish()
        .await
        .map_err(|error| failed(LegErrorClass::Refused, format!("no secure connection: {error}")).with_source(error))?;
    let (read, write) = stream.split();
    let meter = Arc::new(Meter::new(totals));
    let mut writer = FrameWriter::new(write, Arc::clone(&meter));
    let read_len = if kind == LaneKind::Bulk { BULK_READ_LEN } else { CONTROL_READ_LEN };
    let mut reader = FrameReader::new(read, read_len, Arc::clone(&meter));
    let hello = handshake::hello(identity, expect_node, kind == LaneKind::Bulk, idle_timeout);
    writer.push_message(FixedHeader::new(FrameType::Hello, 0, 0), &hello);
    writer.flush().await.map_err(|error| {
        failed(LegErrorClass::Connect, format!("the connection ended during the handshake: {error}")).with_source(error)
    })?;
    let fixed = reader.next().await.map_err(|error| match error {
        ReadError::Frame(error) => {
            failed(LegErrorClass::Protocol, format!("no CairnFS server, or one that wants certificates: {error}"))
        }
        error => failed(LegErrorClass::Connect, format!("the connection ended during the handshake: {error}")),
    })?;
    match fixed.frame_type {
        FrameType::HelloAck => {
            let ack = pb::HelloAck::decode(reader.header())
                .map_err(|error| failed(LegErrorClass::Protocol, format!("unreadable HELLO_ACK: {error}")))?;
            let origin = handshake::Origin { addr, certificate };
            let peer = handshake::judge_ack(identity, expect_node, &ack, origin).map_err(|refusal| {
                let wrong_peer = refusal.is_wrong_peer();
                let class = if wrong_peer { LegErrorClass::WrongPeer } else { LegErrorClass::Refused };
                failed(class, refusal.to_string())
            })?;
            let idle = Duration::from_millis(ack.idle_timeout_ms.into());
            Ok(Dialed { reader, writer, meter, peer, peer_idle_timeout: (!idle.is_zero()).then_some(idle), next_id: 1 })
        }
        FrameType::GoAway => {
            let reason = pb::GoAway::decode(reader.header()).map_or_else(|_| String::new(), |away| away.reason);
            Err(failed(LegErrorClass::Refused, format!("the server refused the handshake: {reason}")))
        }
        other => Err(failed(LegErrorClass::Protocol, format!("{other:?} came instead of HELLO_ACK"))),
    }
}

/// Asks for a sign of life on a connection that nobody uses yet. Cancelling ends the connection with its owner.
pub(crate) async fn first_ping(dialed: &mut Dialed) -> Result<pb::Pong, LegError> {
    let id = dialed.next_id;
    dialed.next_id += 1;
    let failed = |class, message: String| LegError::new(class, Sent::Maybe, message);
    dialed.writer.push(FixedHeader::new(FrameType::Ping, id, 0), b"", None);
    dialed.writer.flush().await.map_err(|error| {
        failed(LegErrorClass::Reset, format!("the connection ended during a ping: {error}")).with_source(error)
    })?;
    let fixed = dialed.reader.next().await.map_err(|error| {
        let death = Death::from(error);
        failed(death.class, format!("the connection ended during a ping: {}", death.message))
    })?;
    let header = dialed.reader.header();
    match fixed.frame_type {
        FrameType::Pong if fixed.request_id == id && fixed.body_len == 0 => pb::Pong::decode(header)
            .map_err(|error| failed(LegErrorClass::Protocol, format!("unreadable PONG: {error}"))),
        FrameType::GoAway => {
            let reason = pb::GoAway::decode(header).map_or_else(|_| String::new(), |away| away.reason);
            Err(failed(LegErrorClass::Refused, format!("the server goes away: {reason}")))
        }
        other => Err(failed(LegErrorClass::Protocol, format!("{other:?} came instead of PONG"))),
    }
}

/// Runs until the connection ends, and ends it.
pub(super) async fn run(conn: Arc<Conn>, mut reader: FrameReader<Box<dyn ReadHalf>>) {
    let mut is_proven = false;
    let mut death = loop {
        if let Err(death) = one_message(&conn, &mut reader, &mut is_proven).await {
            break death;
        }
    };
    if let (CloseReason::Reset, Some(why)) = (death.reason, conn.farewell.get()) {
        death.message = format!("the peer went away, as it had said: {why}");
    }
    conn.kill(death);
}

impl From<ReadError> for Death {
    fn from(error: ReadError) -> Self {
        let message = error.to_string();
        match error {
            ReadError::Closed | ReadError::Truncated => Death::new(CloseReason::Reset, LegErrorClass::Reset, message),
            ReadError::Overdue => Death::new(CloseReason::Protocol, LegErrorClass::Corrupt, message),
            ReadError::Io(source) => {
                Death { source: Some(source), ..Death::new(CloseReason::Reset, LegErrorClass::Reset, message) }
            }
            ReadError::Frame(_) | ReadError::BodyCrc { .. } => {
                Death::new(CloseReason::Protocol, LegErrorClass::Corrupt, message)
            }
        }
    }
}

fn broken(message: impl Into<String>) -> Death {
    Death::new(CloseReason::Protocol, LegErrorClass::Protocol, message)
}

type Reader = FrameReader<Box<dyn ReadHalf>>;

/// `is_proven`: a frame of this connection had a body that matched its checksum.
async fn one_message(conn: &Arc<Conn>, reader: &mut Reader, is_proven: &mut bool) -> Result<(), Death> {
    let fixed = reader.next().await?;
    match fixed.frame_type {
        FrameType::Response => {
            let response = pb::Response::decode(reader.header())
                .map_err(|error| broken(format!("unreadable response header: {error}")))?;
            receive_response(conn, reader, fixed, response, is_proven).await
        }
        _ => aside(conn, reader, fixed),
    }
}

/// Frames that may come at any time, also between the frames of a response.
fn aside(conn: &Arc<Conn>, reader: &Reader, fixed: FixedHeader) -> Result<(), Death> {
    if fixed.body_len != 0 {
        return Err(broken(format!("a {:?} frame with a body", fixed.frame_type)));
    }
    match fixed.frame_type {
        FrameType::Pong => {
            let pong =
                pb::Pong::decode(reader.header()).map_err(|error| broken(format!("unreadable PONG: {error}")))?;
            let waiter = conn.state.lock().pings.remove(&fixed.request_id);
            if let Some(waiter) = waiter {
                // Whoever asked may have gone in the meantime.
                let _ = waiter.send(pong);
            }
            Ok(())
        }
        FrameType::GoAway => {
            let reason = pb::GoAway::decode(reader.header()).map_or_else(|_| String::new(), |away| away.reason);
            tracing::debug!(addr = %conn.addr, reason, "peer is going away");
            let _ = conn.farewell.set(reason);
            conn.retire(CloseReason::GoAway);
            Ok(())
        }
        other => Err(broken(format!("unexpected {other:?} frame"))),
    }
}

/// What is known of a response's request when its first frame comes.
enum Expected {
    /// A leg waits for it: its bound, and whether to verify.
    Wanted { response_max: u64, verify: bool },
    /// Cancelled: to be read past.
    Unwanted,
}

fn expect(conn: &Conn, fixed: &FixedHeader) -> Result<Expected, Death> {
    let mut state = conn.state.lock();
    let next_id = state.next_id;
    let Some(pending) = state.pending.get_mut(&fixed.request_id) else {
        // On the control lane a cancelled request is forgotten at once, and its answer may still come.
        if conn.kind == LaneKind::Control && fixed.request_id < next_id {
            return Ok(Expected::Unwanted);
        }
        return Err(broken(format!("a response to request {}, which is not under way", fixed.request_id)));
    };
    if pending.flight.fixed.op != fixed.op {
        return Err(broken(format!("a response to op {}, asked was {}", fixed.op, pending.flight.fixed.op)));
    }
    if pending.flight.state.lock().sending == super::Sending::Queued {
        return Err(broken(format!("a response to request {}, which was not sent yet", fixed.request_id)));
    }
    match &pending.job {
        Some(job) => {
            job.shared.mark_first_byte();
            Ok(Expected::Wanted { response_max: job.call.response_max, verify: job.call.verify_body })
        }
        None => Ok(Expected::Unwanted),
    }
}

async fn receive_response(
    conn: &Arc<Conn>,
    reader: &mut Reader,
    fixed: FixedHeader,
    response: pb::Response,
    is_proven: &mut bool,
) -> Result<(), Death> {
    let total_len = response.total_len;
    let lane_max = match conn.kind {
        LaneKind::Control => u64::from(CONTROL_BODY_MAX),
        LaneKind::Bulk => RESPONSE_LEN_MAX,
    };
    let expected = expect(conn, &fixed)?;
    let (accepted, verify) = match expected {
        Expected::Wanted { response_max, verify } => (response_max.min(lane_max), verify),
        Expected::Unwanted => (lane_max, false),
    };
    let mut trust = Trust { verify, is_proven };
    if total_len > accepted {
        let message = format!("a response of {total_len} bytes was announced, accepted are {accepted}");
        if let Some(job) = take_job(conn, fixed.request_id) {
            job.fail(LegErrorClass::TooLarge, format!("{}: {message}", conn.addr));
        }
        return Err(broken(message));
    }
    let body = match expected {
        Expected::Unwanted => {
            if !fixed.has(flags::CANCELLED) {
                Counters::add(&conn.counters.late_responses, 1);
            }
            None
        }
        Expected::Wanted { .. } => Some(BytesMut::new()),
    };
    let (end, body) = receive_body(conn, reader, fixed, total_len, body, &mut trust).await?;
    conclude(conn, fixed, end, response, body);
    Ok(())
}

/// A response up to this length (a block of the default size) gets its room at once on a connection that is proven.
const PROVEN_ROOM: u64 = 4 * FRAME_BODY_MAX as u64;

/// Whether checksums are to be held against the bodies, and whether one was.
struct Trust<'a> {
    verify: bool,
    is_proven: &'a mut bool,
}

/// How much room a response's body is given before its next frame is received; at least what has come and the frame.
/// A whole body gets its room at once if it is no longer than a frame, or after a frame that matched its checksum (one of
/// an earlier response will do for up to [`PROVEN_ROOM`]);
/// otherwise room grows with what really comes, so that an announcement costs the peer what it costs us.
fn room(total_len: u64, taken: u64, frame_len: u64, is_trusted: bool) -> u64 {
    let first = total_len.min(u64::from(FRAME_BODY_MAX));
    let room = if is_trusted { total_len } else { first.max(2 * taken).min(total_len) };
    room.max(taken + frame_len)
}

/// Receives all frames of a response; returns its last one. The body is `None` if nobody wants it any more.
async fn receive_body(
    conn: &Arc<Conn>,
    reader: &mut Reader,
    first: FixedHeader,
    total_len: u64,
    mut body: Option<BytesMut>,
    trust: &mut Trust<'_>,
) -> Result<(FixedHeader, Option<BytesMut>), Death> {
    let mut rest = total_len;
    let mut fixed = first;
    let mut is_trusted = *trust.is_proven && total_len <= PROVEN_ROOM;
    loop {
        let frame_len = u64::from(fixed.body_len);
        if frame_len > rest {
            return Err(broken("a response is longer than it announced"));
        }
        rest -= frame_len;
        match &mut body {
            Some(body) => {
                let taken = body.len() as u64;
                let room = room(total_len, taken, frame_len, is_trusted);
                body.reserve((room - taken) as usize);
                if let Err(error) = reader.take_body(&fixed, body, trust.verify).await {
                    if let ReadError::BodyCrc { .. } = &error {
                        Counters::add(&conn.counters.body_crc_failures, 1);
                    }
                    return Err(error.into());
                }
                if !is_trusted && rest > 0 {
                    is_trusted = trust.verify || crc32c(&body[taken as usize..]) == fixed.body_crc;
                    *trust.is_proven |= is_trusted;
                }
            }
            None => reader.skip_body(&fixed).await?,
        }
        if frame_len > 0 {
            let is_wanted = report_progress(conn, fixed.request_id, frame_len);
            body = body.filter(|_| is_wanted);
        }
        let gave_up = fixed.flags & (flags::CANCELLED | flags::ABORT) != 0;
        if fixed.has(flags::END) {
            if rest > 0 && !gave_up {
                return Err(broken(format!("a response ended {rest} bytes short")));
            }
            return Ok((fixed, body));
        }
        if frame_len == 0 || gave_up {
            return Err(broken("a response frame that neither carries nor ends anything"));
        }
        fixed = next_data(conn, reader, first.request_id).await?;
    }
}

async fn next_data(conn: &Arc<Conn>, reader: &mut Reader, id: u64) -> Result<FixedHeader, Death> {
    loop {
        let fixed = reader.next().await?;
        if fixed.frame_type == FrameType::Data {
            if fixed.request_id != id {
                return Err(broken(format!("body of request {} inside that of {id}", fixed.request_id)));
            }
            return Ok(fixed);
        }
        aside(conn, reader, fixed)?;
    }
}

/// False when the leg is gone and the rest need not be kept.
fn report_progress(conn: &Conn, id: u64, len: u64) -> bool {
    let state = conn.state.lock();
    match state.pending.get(&id).and_then(|pending| pending.job.as_ref()) {
        Some(job) => {
            job.shared.mark_received(len);
            true
        }
        None => false,
    }
}

fn take_job(conn: &Conn, id: u64) -> Option<Box<Job>> {
    conn.state.lock().pending.get_mut(&id)?.job.take()
}

/// A response has ended: frees the connection, then tells the caller.
fn conclude(conn: &Arc<Conn>, first: FixedHeader, end: FixedHeader, response: pb::Response, body: Option<BytesMut>) {
    let (flight, job) = {
        let mut state = conn.state.lock();
        state.served += 1;
        match state.pending.get_mut(&first.request_id) {
            Some(pending) => (Arc::clone(&pending.flight), pending.job.take()),
            None => return,
        }
    };
    conn.leave(&flight, |state| state.answered = true);
    let Some(job) = job else {
        return;
    };
    if let Some(error) = response.error {
        let status = Status::from_pb(error);
        job.fail(LegErrorClass::Status(status), format!("answered by {}", conn.addr));
    } else if (first.flags | end.flags) & flags::CANCELLED != 0 {
        job.fail(LegErrorClass::Cancelled, format!("{} cancelled the request", conn.addr));
    } else if end.has(flags::ABORT) {
        job.fail(LegErrorClass::Aborted, format!("{} gave up in the middle of the response", conn.addr));
    } else {
        Counters::add(&conn.counters.replies, 1);
        job.reply(response, body.unwrap_or_default().freeze());
    }
}

#[cfg(test)]
mod tests {
    use super::room;

    const MIB: u64 = 1 << 20;

    #[test]
    fn room_is_given_for_what_came_and_not_for_what_was_announced() {
        for (total, taken, frame, trusted, expected) in [
            (10, 0, 10, false, 10),
            (MIB, 0, MIB, false, MIB),
            (MIB, 0, 100, false, MIB),
            (99 * MIB, 0, MIB, false, MIB),
            (99 * MIB, 0, 1, false, MIB),
            (99 * MIB, MIB, MIB, true, 99 * MIB),
            (99 * MIB, MIB, MIB, false, 2 * MIB),
            (99 * MIB, 8 * MIB, MIB, false, 16 * MIB),
            (9 * MIB, 8 * MIB, MIB, false, 9 * MIB),
            (4 * MIB, MIB, MIB, true, 4 * MIB),
            (99 * MIB, 100, 1, false, MIB),
        ] {
            let room = room(total, taken, frame, trusted);
            assert_eq!(room, expected, "{total} {taken} {frame} {trusted}");
            assert!(room >= taken + frame && room <= total);
        }
    }
}
