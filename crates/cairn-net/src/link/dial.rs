//! Making a connection: one dial, one outcome for all who wait for it.

use super::LinkInner;
use crate::config::{PLACE_WAIT, SPARE_DIAL_AFTER};
use crate::conn::{Conn, Dialed, handshake};
use crate::error::{LegError, LegErrorClass, Sent};
use crate::pool::{Holding, LaneKind, Slot};
use crate::seam::now;
use crate::stats::{CloseReason, Counters};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Why a connection was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// The lane asked for it.
    Dial,
    /// It was a probe's; the lane takes it only if it is younger than what it has.
    Probe,
}

/// An established connection and its place among the client's.
pub(super) type Made = (Dialed, Slot);

fn failed(message: String) -> LegError {
    LegError::new(LegErrorClass::Connect, Sent::No, message)
}

impl LinkInner {
    /// Dials in a task of its own; the lane has counted the dial already.
    pub(super) fn dial(self: &Arc<Self>, kind: LaneKind) {
        let inner = Arc::clone(self);
        let serial = self.next_dial();
        self.spawn(async move {
            let outcome = tokio::select! {
                biased;
                () = inner.closed.cancelled() => return,
                outcome = inner.dial_once(kind) => outcome,
            };
            match outcome {
                Ok((dialed, slot)) => {
                    Counters::add(&inner.counters.lane(kind).dials, 1);
                    inner.established(kind, dialed, slot, Origin::Dial);
                }
                Err(error) => inner.dial_failed(kind, LegError { dial: Some(serial), ..error }),
            }
        });
    }

    /// Numbers dials and probes, for [`LegError::dial`].
    pub(super) fn next_dial(&self) -> u64 {
        self.dial_serial.fetch_add(1, Ordering::Relaxed) + 1
    }

    async fn dial_once(&self, kind: LaneKind) -> Result<Made, LegError> {
        let slot = self.place(kind).await?;
        let limit = Duration::from_micros(self.connect_timeout_us.load(Ordering::Relaxed));
        let dialing = self.connect(kind, slot);
        timeout(limit, self.with_spare(kind, dialing))
            .await
            .unwrap_or_else(|_| Err(failed(format!("connecting to {} took longer than {limit:?}", self.addr))))
    }

    /// A place among the client's connections. That there is none says nothing about the peer.
    pub(super) async fn place(&self, kind: LaneKind) -> Result<Slot, LegError> {
        let holding = || {
            let mut lanes = self.pool.lock();
            let lane = lanes.of(kind);
            match (lane.open().is_empty(), lane.dialing()) {
                (false, _) => Holding::Something,
                (true, 0 | 1) => Holding::Nothing,
                (true, _) => Holding::Dials,
            }
        };
        timeout(PLACE_WAIT, self.config.total_connections.acquire(holding)).await.map_err(|_| {
            let message = format!("all {} connections of this client are in use", self.config.total_connections.max());
            LegError::new(LegErrorClass::Overloaded, Sent::No, message)
        })
    }

    /// Lets a second dial run beside one that takes long, if somebody waits for it whom nobody else can serve. The
    /// first to succeed wins and the other is closed; when both fail, the first one's failure is told.
    async fn with_spare(
        &self,
        kind: LaneKind,
        dialing: impl Future<Output = Result<Made, LegError>>,
    ) -> Result<Made, LegError> {
        tokio::pin!(dialing);
        let slot = loop {
            tokio::select! {
                biased;
                outcome = &mut dialing => return outcome,
                () = sleep(SPARE_DIAL_AFTER) => {}
            }
            let is_wanted = self.pool.lock().of(kind).any_waiting(super::Waiter::is_alone);
            if let Some(slot) = is_wanted.then(|| self.config.total_connections.try_acquire()).flatten() {
                break slot;
            }
        };
        Counters::add(&self.counters.lane(kind).spare_dials, 1);
        let spare = self.connect(kind, slot);
        tokio::pin!(spare);
        tokio::select! {
            biased;
            outcome = &mut dialing => match outcome {
                Ok(made) => Ok(made),
                Err(error) => spare.await.map_err(|_| error),
            },
            outcome = &mut spare => match outcome {
                Ok(made) => Ok(made),
                Err(_) => dialing.await,
            },
        }
    }

    pub(super) async fn connect(&self, kind: LaneKind, slot: Slot) -> Result<Made, LegError> {
        let began = now();
        let stream = self
            .net
            .connect(&self.addr)
            .await
            .map_err(|error| failed(format!("cannot connect to {}: {error}", self.addr)).with_source(error))?;
        let identity = self.identity.load_full();
        let connected = now();
        let dialed =
            handshake(stream, kind, &identity, self.expect_node, self.config.idle_timeout, Arc::clone(&self.totals))
                .await
                .map_err(|error| LegError { message: format!("{}: {}", self.addr, error.message), ..error })?;
        let done = now();
        self.counters.round_trip((done - connected).as_micros() as u64);
        self.counters.connected((done - began).as_micros() as u64);
        Ok((dialed, slot))
    }

    /// A connection is there: gives it to its lane, and to those who wait.
    pub(super) fn established(self: &Arc<Self>, kind: LaneKind, dialed: Dialed, slot: Slot, origin: Origin) {
        self.peer.store(Some(Arc::new(dialed.peer.clone())));
        self.refill.lock().succeeded();
        let (conn, waiters, older) = {
            let mut lanes = self.pool.lock();
            if lanes.closed {
                return;
            }
            let lane = lanes.of(kind);
            let made = dialed.meter.made();
            if origin == Origin::Probe && lane.open().iter().any(|conn| conn.meter.made() >= made) {
                self.counters.closed(kind, CloseReason::Spare);
                return;
            }
            let conn = Conn::spawn(self, kind, dialed, slot);
            let placed = match origin {
                Origin::Dial => lane.dialed(Arc::clone(&conn)),
                Origin::Probe => lane.adopt(Arc::clone(&conn)),
            };
            // A probe was needed: what is older was there when the peer did not answer, and may be what is broken.
            let mut older = placed.displaced;
            if origin == Origin::Probe {
                older.extend(lanes.bulk.open().iter().filter(|conn| conn.meter.made() < made).cloned());
            }
            (conn, placed.waiters, older)
        };
        self.start_upkeep();
        for older in older {
            older.retire(CloseReason::Distrusted);
        }
        self.pool.placed(self, kind, &conn, waiters);
    }

    fn dial_failed(self: &Arc<Self>, kind: LaneKind, error: LegError) {
        // Having no place for a connection is not the peer's failure.
        let error = match error.class {
            LegErrorClass::Overloaded => LegError { dial: None, ..error },
            _ => {
                Counters::add(&self.counters.lane(kind).dial_failures, 1);
                self.refill.lock().failed(now());
                error
            }
        };
        tracing::debug!(addr = %self.addr, ?kind, %error, "dial failed");
        for waiter in self.pool.dial_failed(kind) {
            waiter.fail(error.clone());
        }
    }
}
