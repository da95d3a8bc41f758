//! Making a connection: one dial, one outcome for all who wait for it.

use super::LinkInner;
use crate::conn::{Conn, Dialed, LaneKind, handshake};
use crate::error::{LegError, LegErrorClass, Sent};
use crate::seam::now;
use crate::stats::{CloseReason, Counters};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

/// Why a connection was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// The lane asked for it.
    Dial,
    /// It was a probe's; the lane takes it only if it is younger than what it has.
    Probe,
}

impl LinkInner {
    /// Dials in a task of its own; the lane has counted the dial already.
    pub(super) fn dial(self: &Arc<Self>, kind: LaneKind) {
        let inner = Arc::clone(self);
        let serial = self.next_dial();
        self.spawn(async move {
            let limit = Duration::from_micros(inner.connect_timeout_us.load(Ordering::Relaxed));
            let outcome = tokio::select! {
                biased;
                () = inner.closed.cancelled() => return,
                outcome = timeout(limit, inner.connect(kind)) => outcome,
            };
            let outcome = outcome.unwrap_or_else(|_| {
                let message = format!("connecting to {} took longer than {limit:?}", inner.addr);
                Err(LegError::new(LegErrorClass::Connect, Sent::No, message))
            });
            match outcome {
                Ok((dialed, slot)) => {
                    Counters::add(&inner.counters.dials, 1);
                    inner.established(kind, dialed, slot, Origin::Dial);
                }
                Err(error) => inner.dial_failed(kind, &LegError { dial: Some(serial), ..error }),
            }
        });
    }

    /// Numbers dials and probes, for [`LegError::dial`].
    pub(super) fn next_dial(&self) -> u64 {
        self.dial_serial.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) async fn connect(&self, kind: LaneKind) -> Result<(Dialed, OwnedSemaphorePermit), LegError> {
        let failed = |message: String| LegError::new(LegErrorClass::Connect, Sent::No, message);
        let slot = Arc::clone(&self.config.total_connections)
            .acquire_owned()
            .await
            .map_err(|_| failed("the client takes no more connections".to_owned()))?;
        let stream = self
            .net
            .connect(&self.addr)
            .await
            .map_err(|error| failed(format!("cannot connect to {}: {error}", self.addr)).with_source(error))?;
        let identity = self.identity.load_full();
        let began = now();
        let dialed =
            handshake(stream, kind, &identity, self.expect_node, self.config.idle_timeout, Arc::clone(&self.totals))
                .await
                .map_err(|error| LegError { message: format!("{}: {}", self.addr, error.message), ..error })?;
        self.counters.round_trip((now() - began).as_micros() as u64);
        Ok((dialed, slot))
    }

    /// A connection is there: gives it to its lane, and to those who wait.
    pub(super) fn established(
        self: &Arc<Self>,
        kind: LaneKind,
        dialed: Dialed,
        slot: OwnedSemaphorePermit,
        origin: Origin,
    ) {
        self.peer.store(Some(Arc::new(dialed.peer.clone())));
        let (conn, placed, starts_upkeep) = {
            let mut lanes = self.lanes.lock();
            if lanes.closed {
                return;
            }
            let lane = lanes.of(kind);
            let made = dialed.meter.made();
            if origin == Origin::Probe && lane.open().iter().any(|conn| conn.meter.made() >= made) {
                self.counters.closed(CloseReason::Spare);
                return;
            }
            let conn = Conn::spawn(self, kind, dialed, slot);
            let placed = match origin {
                Origin::Dial => lane.dialed(Arc::clone(&conn)),
                Origin::Probe => lane.adopt(Arc::clone(&conn)),
            };
            (conn, placed, !std::mem::replace(&mut lanes.upkeep_runs, true))
        };
        if starts_upkeep {
            self.start_upkeep();
        }
        for older in placed.displaced {
            older.retire(CloseReason::Spare);
        }
        self.give_all(&conn, placed.waiters);
    }

    fn dial_failed(self: &Arc<Self>, kind: LaneKind, error: &LegError) {
        Counters::add(&self.counters.dial_failures, 1);
        tracing::debug!(addr = %self.addr, ?kind, %error, "dial failed");
        let waiters = self.lanes.lock().of(kind).dial_failed();
        for waiter in waiters {
            waiter.fail(error.clone());
        }
    }
}
