//! A snapshot of a link.

use super::{LinkInner, Waiter};
use crate::conn::{Conn, Occupation};
use crate::pool::{Lane, LaneKind};
use crate::stats::{Counters, LaneStats, LinkStats};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl LinkInner {
    fn lane_stats(&self, kind: LaneKind, lane: &Lane<Arc<Conn>, Waiter>, in_flight: &mut usize) -> LaneStats {
        let counters = self.counters.lane(kind);
        let mut stats = LaneStats {
            dialing: lane.dialing(),
            open: lane.open().len(),
            peak: lane.peak(),
            waiting: lane.waiting(),
            dials: Counters::get(&counters.dials),
            dial_failures: Counters::get(&counters.dial_failures),
            spare_dials: Counters::get(&counters.spare_dials),
            closes: std::array::from_fn(|index| Counters::get(&counters.closes[index])),
            drains: Counters::get(&counters.drains),
            drains_survived: Counters::get(&counters.drains_survived),
            ..LaneStats::default()
        };
        for conn in lane.open() {
            match conn.occupation() {
                Occupation::Idle => stats.idle += 1,
                Occupation::Busy(jobs) => {
                    stats.busy += 1;
                    *in_flight += jobs;
                }
                Occupation::Draining => stats.draining += 1,
            }
        }
        stats
    }

    pub(super) fn stats(&self) -> LinkStats {
        let lanes = self.pool.lock();
        let mut in_flight = 0;
        let mut control = self.lane_stats(LaneKind::Control, &lanes.control, &mut in_flight);
        let mut bulk = self.lane_stats(LaneKind::Bulk, &lanes.bulk, &mut in_flight);
        let retired = lanes.retired.iter().map(|conn| (conn.kind(), conn.occupation())).collect::<Vec<_>>();
        drop(lanes);
        for (kind, occupation) in retired {
            let lane = if kind == LaneKind::Bulk { &mut bulk } else { &mut control };
            lane.retired += 1;
            if let Occupation::Busy(jobs) = occupation {
                in_flight += jobs;
            }
        }
        let counters = &self.counters;
        LinkStats {
            control,
            bulk,
            in_flight,
            waiting_connection: control.waiting + bulk.waiting,
            waiting_permits: self.waiting_permits.load(Ordering::Relaxed),
            ops_available: self.ops.available_permits(),
            bytes_available: self.bytes.available_permits(),
            wait: counters.wait.snapshot(),
            ops_taken: self.config.ops.saturating_sub(self.ops.available_permits()),
            bytes_taken: self.config.bytes.saturating_sub(self.bytes.available_permits()),
            tasks: self.tasks.len(),
            dials: control.dials + bulk.dials,
            dial_failures: control.dial_failures + bulk.dial_failures,
            probes: Counters::get(&counters.probes),
            probe_failures: Counters::get(&counters.probe_failures),
            closes: std::array::from_fn(|index| control.closes[index] + bulk.closes[index]),
            bytes_sent: Counters::get(&self.totals.sent),
            bytes_received: Counters::get(&self.totals.received),
            legs: Counters::get(&counters.legs),
            replies: Counters::get(&counters.replies),
            cancels: Counters::get(&counters.cancels),
            late_responses: Counters::get(&counters.late_responses),
            stale_retries: Counters::get(&counters.stale_retries),
            body_crc_failures: Counters::get(&counters.body_crc_failures),
            connect_us: Counters::get(&counters.connect_us),
            srtt_us: Counters::get(&counters.srtt_us),
            last_received: self.totals.last_received(),
            last_sent: self.totals.last_sent(),
        }
    }
}
