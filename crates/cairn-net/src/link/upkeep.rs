//! Looking after connections that nobody uses, that are old, or on which nothing moves.

use super::LinkInner;
use crate::config::{REFILL_PAUSE, REFILL_PAUSE_MAX, UPKEEP_INTERVAL};
use crate::conn::{Conn, ConnView, Death, Upkeep, upkeep};
use crate::error::LegErrorClass;
use crate::pool::{Lane, LaneKind};
use crate::seam::now;
use crate::stats::{CloseReason, Counters};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// When connections that nobody asked for may be dialled again, to have the configured minimum.
#[derive(Debug, Default)]
pub(super) struct Refill {
    /// The peer was reached before.
    known: bool,
    /// Pause after the last failed dial; zero after a successful one.
    pause: Duration,
    not_before: Option<Instant>,
}

impl Refill {
    pub fn succeeded(&mut self) {
        *self = Self { known: true, ..Self::default() };
    }

    pub fn failed(&mut self, now: Instant) {
        self.pause = (self.pause * 2).clamp(REFILL_PAUSE, REFILL_PAUSE_MAX);
        self.not_before = Some(now + self.pause);
    }

    fn may_dial(&self, now: Instant) -> bool {
        self.known && self.not_before.is_none_or(|time| time <= now)
    }
}

impl LinkInner {
    /// Looks after the connections as long as there are any, or should be.
    pub(super) fn start_upkeep(self: &Arc<Self>) {
        if self.upkeep_runs.swap(true, Ordering::SeqCst) {
            return;
        }
        let weak = Arc::downgrade(self);
        self.spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP_INTERVAL).await;
                let Some(inner) = weak.upgrade() else { return };
                if !inner.keep_up() {
                    return;
                }
            }
        });
    }

    /// One round of upkeep; false when there is nothing left to look after.
    fn keep_up(self: &Arc<Self>) -> bool {
        let mins = [(LaneKind::Control, self.config.control_min), (LaneKind::Bulk, self.config.bulk_min)];
        let (control, bulk, retired) = {
            let lanes = self.pool.lock();
            let is_empty = |lane: &Lane<_, _>| lane.open().is_empty() && lane.dialing() == 0;
            let is_unused = is_empty(&lanes.control) && is_empty(&lanes.bulk) && lanes.retired.is_empty();
            if lanes.closed || (is_unused && mins.iter().all(|(_, min)| *min == 0)) {
                // Under the lock: a connection placed after it starts upkeep anew.
                self.upkeep_runs.store(false, Ordering::SeqCst);
                return false;
            }
            (lanes.control.open().to_vec(), lanes.bulk.open().to_vec(), lanes.retired.clone())
        };
        // A connection in stock is worth no other one's place.
        let has_room = self.config.total_connections.used() < self.config.total_connections.max();
        for (kind, min) in mins {
            if has_room && self.refill.lock().may_dial(now()) && self.pool.lock().of(kind).refill(min) {
                self.dial(kind);
            }
        }
        for conn in retired {
            let view = ConnView { max_age: Duration::MAX, ..conn.view(now()) };
            if upkeep(view, self.config.stall_timeout, false) == Upkeep::Suspect {
                self.examine(conn);
            }
        }
        for (conns, min) in [(control, self.config.control_min), (bulk, self.config.bulk_min)] {
            let mut left = conns.len();
            for conn in conns {
                let verdict = upkeep(conn.view(now()), self.config.stall_timeout, left > min);
                match verdict {
                    Upkeep::Keep => {}
                    Upkeep::CloseIdle => {
                        left -= usize::from(conn.close_if_idle(CloseReason::Idle));
                    }
                    Upkeep::Retire => {
                        left -= 1;
                        conn.retire(CloseReason::Age);
                    }
                    Upkeep::Suspect => self.examine(conn),
                }
            }
        }
        true
    }

    /// Pings the peer of a connection on which nothing moves: slow is not dead.
    fn examine(self: &Arc<Self>, conn: Arc<Conn>) {
        if conn.suspect.swap(true, Ordering::Relaxed) {
            return;
        }
        let srtt = Duration::from_micros(Counters::get(&self.counters.srtt_us));
        let limit = self.config.ping_timeout.max(srtt * 4);
        let inner = Arc::clone(self);
        self.spawn(async move {
            let answered = tokio::select! {
                biased;
                () = inner.closed.cancelled() => return,
                answered = inner.ping(limit) => answered,
            };
            match answered {
                Ok(_) => {
                    conn.meter.touch();
                    conn.suspect.store(false, Ordering::Relaxed);
                }
                Err(error) => {
                    let message = format!("no byte for the stall timeout, and no sign of life: {error}");
                    conn.kill(Death::new(CloseReason::Stalled, LegErrorClass::Stalled, message));
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refilling_begins_with_the_first_connection_and_backs_off() {
        let start = now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut refill = Refill::default();
        assert!(!refill.may_dial(start), "a peer nobody has asked yet");
        refill.succeeded();
        assert!(refill.may_dial(start));
        let mut failed_at = 0;
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            refill.failed(at(failed_at));
            assert!(!refill.may_dial(at(failed_at + pause) - Duration::from_millis(1)));
            assert!(refill.may_dial(at(failed_at + pause)));
            failed_at += pause;
        }
        refill.succeeded();
        assert!(refill.may_dial(start));
    }
}
