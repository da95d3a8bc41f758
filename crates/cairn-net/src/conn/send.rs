//! The writing task of a connection: takes entries off the queue and puts them on the wire in batches.

use super::{Conn, Death, Flight, Out, Sending};
use crate::error::LegErrorClass;
use crate::pool::LaneKind;
use crate::seam::now;
use crate::stats::CloseReason;
use crate::writer::{FrameWriter, SendOutcome};
use cairn_proto::frame::{FixedHeader, FrameType};
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Runs until the connection is killed.
pub(super) async fn run(conn: Arc<Conn>, mut writer: FrameWriter, mut entries: mpsc::UnboundedReceiver<Out>) {
    while let Some(entry) = entries.recv().await {
        if let Err(error) = write_batch(&conn, &mut writer, entry, &mut entries).await {
            let mut death = Death::new(CloseReason::Reset, LegErrorClass::Reset, format!("writing failed: {error}"));
            death.source = Some(error);
            conn.kill(death);
            return;
        }
    }
}

async fn write_batch(
    conn: &Arc<Conn>,
    writer: &mut FrameWriter,
    first: Out,
    entries: &mut mpsc::UnboundedReceiver<Out>,
) -> io::Result<()> {
    let mut next = Some(first);
    while let Some(entry) = next {
        match entry {
            Out::Request(flight) => write_request(conn, writer, &flight).await?,
            Out::Cancel { id, op, _permits } => {
                writer.push(FixedHeader::new(FrameType::Cancel, id, op), b"", None);
            }
            Out::Ping(id) => writer.push(FixedHeader::new(FrameType::Ping, id, 0), b"", None),
        }
        next = if writer.is_full() { None } else { entries.try_recv().ok() };
    }
    writer.flush().await
}

async fn write_request(conn: &Arc<Conn>, writer: &mut FrameWriter, flight: &Arc<Flight>) -> io::Result<()> {
    let fixed = FixedHeader { deadline_ms: deadline_ms(flight.deadline, now()), ..flight.fixed };
    let outcome = writer
        .send(fixed, &flight.protobuf, &flight.body, 0, |is_last| {
            let mut state = flight.state.lock();
            if state.cancelled || state.answered {
                return false;
            }
            if state.sending == Sending::Queued {
                flight.shared.mark_sent();
            }
            state.sending = if is_last { Sending::Over } else { Sending::Begun };
            true
        })
        .await?;
    debug_assert!(conn.kind == LaneKind::Bulk || flight.body.parts().len() <= 1, "control requests are one frame");
    if outcome == SendOutcome::Aborted {
        // The abort goes out before anybody else is given the connection.
        writer.flush().await?;
        conn.leave(flight, |state| state.sending = Sending::Over);
    }
    // One that was not begun was cancelled in the queue, and whoever cancelled it has freed the connection.
    Ok(())
}

/// What is left of a deadline as it travels: rounded up, so that the server does not give up before the caller, and at
/// least 1, because 0 means none.
pub(super) fn deadline_ms(deadline: Instant, now: Instant) -> u32 {
    let left = deadline.saturating_duration_since(now).as_micros().div_ceil(1000);
    u32::try_from(left).unwrap_or(u32::MAX).max(1)
}
