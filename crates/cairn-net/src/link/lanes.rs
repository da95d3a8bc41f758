//! Carries out what the pool decides.

use super::LinkInner;
use crate::conn::Conn;
use crate::error::LegError;
use crate::leg::Job;
use crate::pool::{Crowd, Given, LaneKind, Pooled, Shell};
use crate::seam::now;
use crate::stats::CloseReason;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Who waits for a connection.
pub(crate) enum Waiter {
    Job(Box<Job>),
    /// A ping, which needs the connection itself.
    Ping(oneshot::Sender<Result<Arc<Conn>, LegError>>),
}

impl Waiter {
    pub fn fail(self, error: LegError) {
        match self {
            Self::Job(job) => job.fail_with(error),
            // A ping that timed out has nobody to tell.
            Self::Ping(sender) => drop(sender.send(Err(error))),
        }
    }

    /// Nobody but this peer can answer it.
    pub fn is_alone(&self) -> bool {
        matches!(self, Self::Job(job) if job.route.alone)
    }
}

impl Pooled for Arc<Conn> {
    fn serial(&self) -> u64 {
        Conn::serial(self)
    }
}

impl Shell for Arc<LinkInner> {
    type Conn = Arc<Conn>;
    type Waiter = Waiter;

    fn give(&self, conn: &Arc<Conn>, waiter: Waiter) -> Given<Waiter> {
        match waiter {
            Waiter::Job(job) if job.is_expired(now()) => {
                job.fail_expired();
                Given::Unwanted
            }
            Waiter::Job(job) => match conn.submit(job) {
                Ok(true) => Given::Taken,
                Ok(false) => Given::Unwanted,
                Err(job) => Given::Dead(Waiter::Job(job)),
            },
            Waiter::Ping(sender) => {
                // One that timed out needs no connection any more. It occupies none either.
                let _ = sender.send(Ok(Arc::clone(conn)));
                Given::Taken
            }
        }
    }

    fn dial(&self, kind: LaneKind) {
        LinkInner::dial(self, kind);
    }

    fn evict(&self, conn: &Arc<Conn>) {
        conn.close_if_idle(CloseReason::Evicted);
    }

    fn refuse(&self, waiter: Waiter) {
        waiter.fail(self.closed_error());
    }

    fn has_ended(&self, conn: &Arc<Conn>) -> bool {
        conn.is_dead()
    }

    fn is_crowded(&self) -> bool {
        self.config.total_connections.waiting() > 0
    }
}

impl LinkInner {
    /// A connection has finished its requests.
    pub fn released(self: &Arc<Self>, conn: &Arc<Conn>) {
        self.pool.released(self, conn.kind(), conn);
    }

    /// A connection takes no further requests, but has some that may finish.
    pub fn retired(self: &Arc<Self>, conn: &Arc<Conn>) {
        self.pool.retired(self, conn.kind(), conn);
    }

    /// A connection has ended.
    pub fn ended(self: &Arc<Self>, conn: &Arc<Conn>) {
        self.pool.ended(self, conn.kind(), conn);
    }

    /// Somebody waits for a bulk connection.
    pub fn is_bulk_wanted(&self) -> bool {
        self.pool.lock().bulk.waiting() > 0
    }

    fn all_open(&self) -> Vec<Arc<Conn>> {
        let lanes = self.pool.lock();
        lanes.control.open().iter().chain(lanes.bulk.open()).cloned().collect()
    }

    fn longest_idle(&self) -> Option<(Instant, Arc<Conn>)> {
        let conns = self.all_open().into_iter();
        conns.filter_map(|conn| Some((conn.idle_since()?, conn))).min_by_key(|(since, _)| *since)
    }
}

impl Crowd for LinkInner {
    fn idle_since(&self) -> Option<Instant> {
        Some(self.longest_idle()?.0)
    }

    fn evict_idle(&self) -> bool {
        self.longest_idle().is_some_and(|(_, conn)| conn.close_if_idle(CloseReason::Evicted))
    }

    fn open(&self) -> usize {
        let lanes = self.pool.lock();
        lanes.control.open().len() + lanes.bulk.open().len()
    }

    fn retire_one(&self) -> bool {
        // A bulk connection has one request, so its end is nearest; the control lane serves many.
        let conn = self.all_open().pop();
        if let Some(conn) = &conn {
            conn.retire(CloseReason::Evicted);
        }
        conn.is_some()
    }
}
