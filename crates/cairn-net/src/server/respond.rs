//! The writing task of a session: responses, refusals, PONGs and GOAWAY, in batches.

use super::Handler;
use super::session::{Active, Phase, Session};
use crate::body::Body;
use crate::writer::{FrameWriter, SendOutcome};
use cairn_proto::frame::{FixedHeader, FrameType, flags};
use cairn_proto::limits::{CONTROL_BODY_MAX, FRAME_HEADER_MAX, RESPONSE_LEN_MAX};
use cairn_proto::pb;
use cairn_proto::status::{Code, Status};
use prost::Message;
use std::io;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Longest status message that travels.
const MESSAGE_LEN_MAX: usize = 4 * 1024;

/// An entry of the writer's queue.
pub(super) enum Out {
    Response { active: Arc<Active>, response: Encoded },
    Refused { id: u64, op: u16, status: Status, _permit: OwnedSemaphorePermit },
    Cancelled { id: u64, op: u16, _permit: OwnedSemaphorePermit },
    Pong { id: u64, _permit: OwnedSemaphorePermit },
    GoAway(String),
}

/// Runs until the peer is gone, or GOAWAY was said and nothing is left to answer.
pub(super) async fn run(
    session: Arc<Session>,
    handler: Arc<dyn Handler>,
    mut writer: FrameWriter,
    mut entries: mpsc::UnboundedReceiver<Out>,
) {
    while let Some(entry) = entries.recv().await {
        let written = write_batch(&session, handler.as_ref(), &mut writer, entry, &mut entries).await;
        if let Err(error) = written {
            report(&session, &error);
            return;
        }
        if session.is_finished() {
            return;
        }
    }
}

/// A peer that went away is everyday; a file that could not be sent is not.
fn report(session: &Session, error: &io::Error) {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut};
    let peer = session.peer.addr;
    if matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut) {
        tracing::debug!(?peer, %error, "writing a response failed");
    } else {
        tracing::warn!(?peer, %error, "a response could not be finished; its connection is closed");
    }
}

async fn write_batch(
    session: &Session,
    handler: &dyn Handler,
    writer: &mut FrameWriter,
    first: Out,
    entries: &mut mpsc::UnboundedReceiver<Out>,
) -> io::Result<()> {
    let mut next = Some(first);
    while let Some(entry) = next {
        match entry {
            Out::Response { active, response } => write_response(session, writer, &active, response).await?,
            Out::Refused { id, op, status, _permit } => {
                let response = encode_error(status, None);
                let fixed =
                    FixedHeader { flags: flags::END | flags::ERROR, ..FixedHeader::new(FrameType::Response, id, op) };
                writer.push(fixed, &response.protobuf, None);
            }
            Out::Cancelled { id, op, _permit } => push_cancelled(writer, id, op),
            Out::Pong { id, _permit } => {
                let mut pong = handler.pong();
                pong.draining |= session.is_going_away();
                writer.push_message(FixedHeader::new(FrameType::Pong, id, 0), &pong);
            }
            Out::GoAway(reason) => {
                writer.push_message(FixedHeader::new(FrameType::GoAway, 0, 0), &pb::GoAway { reason });
            }
        }
        next = if writer.is_full() { None } else { entries.try_recv().ok() };
    }
    writer.flush().await
}

fn push_cancelled(writer: &mut FrameWriter, id: u64, op: u16) {
    let fixed = FixedHeader { flags: flags::END | flags::CANCELLED, ..FixedHeader::new(FrameType::Response, id, op) };
    writer.push(fixed, b"", None);
}

async fn write_response(
    session: &Session,
    writer: &mut FrameWriter,
    active: &Active,
    response: Encoded,
) -> io::Result<()> {
    let Encoded { flags, protobuf, body } = response;
    let fixed = FixedHeader { flags, ..FixedHeader::new(FrameType::Response, active.id, active.op) };
    let sent = writer
        .send(fixed, &protobuf, &body, flags::CANCELLED, |is_last| {
            let mut state = active.state.lock();
            if state.cancelled || state.phase == Phase::Ended {
                return false;
            }
            if is_last {
                // From here on the peer may send its next request: it must not find this one in the way.
                state.phase = Phase::Ended;
                session.active.lock().remove(&active.id);
            }
            true
        })
        .await?;
    if sent != SendOutcome::Whole {
        if sent == SendOutcome::NotBegun {
            push_cancelled(writer, active.id, active.op);
        }
        active.state.lock().phase = Phase::Ended;
        session.active.lock().remove(&active.id);
    }
    Ok(())
}

/// A response ready to be written.
pub(super) struct Encoded {
    flags: u16,
    protobuf: Vec<u8>,
    body: Body,
}

/// Encodes an outcome. What the lane cannot carry becomes an error that says so.
pub(super) fn encode(
    outcome: Result<(pb::response::Kind, Body), Status>,
    is_bulk: bool,
    timing: Option<pb::ServerTiming>,
) -> Encoded {
    let body_max = if is_bulk { RESPONSE_LEN_MAX } else { u64::from(CONTROL_BODY_MAX) };
    let (kind, body) = match outcome {
        Ok((_, body)) if body.len() > body_max => {
            let message = format!("the response has {} bytes, this connection carries {body_max}", body.len());
            return encode_error(Status::new(Code::TooLarge, message), timing);
        }
        Ok(outcome) => outcome,
        Err(status) => return encode_error(status, timing),
    };
    let response = pb::Response { total_len: body.len(), kind: Some(kind), error: None, timing };
    let protobuf = response.encode_to_vec();
    if protobuf.len() > FRAME_HEADER_MAX as usize {
        let message = format!("the response's header has {} bytes, a frame carries {FRAME_HEADER_MAX}", protobuf.len());
        return encode_error(Status::new(Code::TooLarge, message), timing);
    }
    Encoded { flags: 0, protobuf, body }
}

fn encode_error(mut status: Status, timing: Option<pb::ServerTiming>) -> Encoded {
    let cut = status.message.floor_char_boundary(MESSAGE_LEN_MAX);
    status.message.truncate(cut);
    let response = pb::Response { total_len: 0, kind: None, error: Some(status.to_pb()), timing };
    Encoded { flags: flags::ERROR, protobuf: response.encode_to_vec(), body: Body::empty() }
}
