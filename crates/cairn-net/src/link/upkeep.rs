//! Looking after connections that nobody uses, that are old, or on which nothing moves.

use super::{ConnLane, LinkInner};
use crate::config::UPKEEP_INTERVAL;
use crate::conn::{Conn, ConnView, Death, Upkeep, upkeep};
use crate::error::LegErrorClass;
use crate::seam::now;
use crate::stats::{CloseReason, Counters};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl LinkInner {
    /// Looks after the connections as long as there are any.
    pub(super) fn start_upkeep(self: &Arc<Self>) {
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
        let (control, bulk, retired) = {
            let mut lanes = self.lanes.lock();
            let is_empty = |lane: &ConnLane| lane.open().is_empty() && lane.dialing() == 0;
            if lanes.closed || (is_empty(&lanes.control) && is_empty(&lanes.bulk) && lanes.retired.is_empty()) {
                lanes.upkeep_runs = false;
                return false;
            }
            (lanes.control.open().to_vec(), lanes.bulk.open().to_vec(), lanes.retired.clone())
        };
        for conn in retired {
            let view = ConnView { max_age: Duration::MAX, ..conn.view(now()) };
            if upkeep(view, Duration::MAX, self.config.stall_timeout, false) == Upkeep::Suspect {
                self.examine(conn);
            }
        }
        for (conns, min) in [(control, 0), (bulk, self.config.bulk_min)] {
            let mut left = conns.len();
            for conn in conns {
                let verdict = upkeep(conn.view(now()), self.config.idle_timeout, self.config.stall_timeout, left > min);
                match verdict {
                    Upkeep::Keep => {}
                    Upkeep::CloseIdle => {
                        left -= 1;
                        conn.close_if_idle(CloseReason::Idle);
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
