//! Permits: how many requests, and how many bytes, a peer is given at once.

use super::{LinkInner, Waiter};
use crate::call::Call;
use crate::error::LegErrorClass;
use crate::leg::{Job, Permits};
use crate::pool::{LaneKind, Wants};
use crate::seam::now;
use crate::stats::Counters;
use cairn_proto::limits::RESPONSE_LEN_MAX;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::timeout_at;

impl LinkInner {
    /// Byte permits of a call: what it sends, and on the bulk lane what it lets come.
    fn cost(&self, call: &Call) -> u32 {
        let response = if call.is_bulk() { call.response_max.min(RESPONSE_LEN_MAX) } else { 0 };
        (call.body.len() + response).min(self.config.bytes as u64) as u32
    }

    /// Takes permits for a job and dispatches it, at once where they are free.
    pub(super) fn admit(self: &Arc<Self>, mut job: Box<Job>) {
        let cost = self.cost(&job.call);
        if let Ok(op) = Arc::clone(&self.ops).try_acquire_owned()
            && let Ok(bytes) = Arc::clone(&self.bytes).try_acquire_many_owned(cost)
        {
            job.permits = Permits { _op: Some(op), _bytes: Some(bytes) };
            self.dispatch(job);
            return;
        }
        if self.waiting_permits.fetch_add(1, Ordering::Relaxed) >= self.config.waiting_max {
            self.waiting_permits.fetch_sub(1, Ordering::Relaxed);
            job.fail(LegErrorClass::Overloaded, format!("too many requests wait for {}", self.addr));
            return;
        }
        let inner = Arc::clone(self);
        self.spawn(async move {
            let admitted = inner.wait_for_permits(&mut job, cost).await;
            inner.waiting_permits.fetch_sub(1, Ordering::Relaxed);
            match admitted {
                Some(permits) => {
                    job.permits = permits;
                    inner.dispatch(job);
                }
                None if job.is_expired(now()) => job.fail_expired(),
                None => job.fail_with(inner.closed_error()),
            }
        });
    }

    /// `None` when the caller is gone, its deadline passed, or the link closed.
    async fn wait_for_permits(&self, job: &mut Job, cost: u32) -> Option<Permits> {
        let acquire = async {
            let op = Arc::clone(&self.ops).acquire_owned().await.ok()?;
            let bytes = Arc::clone(&self.bytes).acquire_many_owned(cost).await.ok()?;
            Some(Permits { _op: Some(op), _bytes: Some(bytes) })
        };
        let deadline = job.call.deadline;
        tokio::select! {
            biased;
            () = job.abandoned() => None,
            () = self.closed.cancelled() => None,
            permits = timeout_at(deadline, acquire) => permits.ok().flatten(),
        }
    }

    /// Gives a job that has its permits to a connection, or lets it wait for one.
    fn dispatch(self: &Arc<Self>, job: Box<Job>) {
        let wants = job.route.avoid.map_or(Wants::Any, Wants::Other);
        self.seek(job, wants);
    }

    /// A job whose connection turned out to be stale.
    pub fn resend(self: &Arc<Self>, job: Box<Job>) {
        Counters::add(&self.counters.stale_retries, 1);
        self.seek(job, Wants::Fresh);
    }

    fn seek(self: &Arc<Self>, job: Box<Job>, wants: Wants) {
        let kind = if job.call.is_bulk() { LaneKind::Bulk } else { LaneKind::Control };
        self.pool.arrive(self, kind, Waiter::Job(job), wants);
    }
}
