//! Making a connection: one dial, one outcome for all who wait for it.

use super::LinkInner;
use crate::conn::{Conn, Dialed, LaneKind, handshake};
use crate::error::{LegError, LegErrorClass, Sent};
use crate::seam::now;
use crate::stats::Counters;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

impl LinkInner {
    /// Dials in a task of its own; the lane has counted the dial already.
    pub(super) fn dial(self: &Arc<Self>, kind: LaneKind) {
        let inner = Arc::clone(self);
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
                Ok((dialed, slot)) => inner.dial_succeeded(kind, dialed, slot),
                Err(error) => inner.dial_failed(kind, &error),
            }
        });
    }

    async fn connect(&self, kind: LaneKind) -> Result<(Dialed, OwnedSemaphorePermit), LegError> {
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

    fn dial_succeeded(self: &Arc<Self>, kind: LaneKind, dialed: Dialed, slot: OwnedSemaphorePermit) {
        Counters::add(&self.counters.dials, 1);
        self.peer.store(Some(Arc::new(dialed.peer.clone())));
        let (conn, waiters, starts_upkeep) = {
            let mut lanes = self.lanes.lock();
            if lanes.closed {
                return;
            }
            let conn = Conn::spawn(self, kind, dialed, slot);
            let waiters = lanes.of(kind).dialed(Arc::clone(&conn));
            (conn, waiters, !std::mem::replace(&mut lanes.upkeep_runs, true))
        };
        if starts_upkeep {
            self.start_upkeep();
        }
        self.give_all(&conn, waiters);
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
