//! A sign of life over a fresh connection, which an existing one cannot give: it may be the only thing that is broken.

use super::LinkInner;
use super::dial::Origin;
use crate::conn::first_ping;
use crate::error::{LegError, LegErrorClass, Sent};
use crate::pool::LaneKind;
use crate::seam::now;
use crate::stats::Counters;
use cairn_proto::pb;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// One probe; ends when nobody waits for it any more.
pub(super) struct Flight {
    outcome: watch::Receiver<Option<Result<pb::Pong, LegError>>>,
    task: OnceLock<AbortHandle>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// What a probe does about one that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Company {
    /// Takes its outcome.
    Shared,
    /// Nothing.
    Alone,
}

impl LinkInner {
    pub(super) async fn probe(self: &Arc<Self>, limit: Duration, company: Company) -> Result<pb::Pong, LegError> {
        let flight = self.begin_probe(limit, company)?;
        let mut outcome = flight.outcome.clone();
        let outcome = outcome.wait_for(Option::is_some).await;
        // The task says an outcome unless the link was closed under it.
        outcome.ok().and_then(|outcome| outcome.clone()).unwrap_or_else(|| Err(self.closed_error()))
    }

    fn begin_probe(self: &Arc<Self>, limit: Duration, company: Company) -> Result<Arc<Flight>, LegError> {
        let mut probing = self.probing.lock();
        if self.closed.is_cancelled() {
            return Err(self.closed_error());
        }
        let under_way = probing.upgrade().filter(|flight| flight.outcome.borrow().is_none());
        if let Some(flight) = under_way.filter(|_| company == Company::Shared) {
            return Ok(flight);
        }
        let (sender, outcome) = watch::channel(None);
        let flight = Arc::new(Flight { outcome, task: OnceLock::new() });
        *probing = Arc::downgrade(&flight);
        drop(probing);
        let inner = Arc::clone(self);
        let task = self.spawn(async move {
            let outcome = tokio::select! {
                biased;
                () = inner.closed.cancelled() => return,
                outcome = inner.probe_once(limit) => outcome,
            };
            // Nobody may be left to hear it.
            let _ = sender.send(Some(outcome));
        });
        let _ = flight.task.set(task);
        Ok(flight)
    }

    async fn probe_once(self: &Arc<Self>, limit: Duration) -> Result<pb::Pong, LegError> {
        let serial = self.next_dial();
        let mut is_dialing = false;
        let ask = async {
            let slot = self.place(LaneKind::Control).await?;
            is_dialing = true;
            let (mut dialed, slot) = self.connect(LaneKind::Control, slot).await?;
            is_dialing = false;
            let asked = now();
            let pong = first_ping(&mut dialed).await?;
            self.counters.round_trip((now() - asked).as_micros() as u64);
            Ok((pong, dialed, slot))
        };
        let outcome = timeout(limit, ask).await.unwrap_or_else(|_| {
            let message = format!("{} did not answer a probe within {limit:?}", self.addr);
            Err(LegError::new(LegErrorClass::Deadline, Sent::Maybe, message))
        });
        Counters::add(&self.counters.probes, 1);
        match outcome {
            Ok((pong, dialed, slot)) => {
                self.established(LaneKind::Control, dialed, slot, Origin::Probe);
                Ok(pong)
            }
            Err(error) => {
                Counters::add(&self.counters.probe_failures, 1);
                tracing::debug!(addr = %self.addr, %error, "probe failed");
                Err(LegError { dial: is_dialing.then_some(serial), ..error })
            }
        }
    }
}
