//! A snapshot of a link.

use super::{ConnLane, LinkInner};
use crate::conn::{LaneKind, Occupation};
use crate::stats::{Counters, LaneStats, LinkStats};
use std::sync::atomic::Ordering;

impl LinkInner {
    fn lane_stats(lane: &ConnLane, in_flight: &mut usize) -> LaneStats {
        let mut stats = LaneStats { dialing: lane.dialing(), open: lane.open().len(), ..LaneStats::default() };
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
        let lanes = self.lanes.lock();
        let mut in_flight = 0;
        let mut control = Self::lane_stats(&lanes.control, &mut in_flight);
        let mut bulk = Self::lane_stats(&lanes.bulk, &mut in_flight);
        let retired = lanes.retired.iter().map(|conn| (conn.kind(), conn.occupation())).collect::<Vec<_>>();
        let waiting_connection = lanes.control.waiting() + lanes.bulk.waiting();
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
            waiting_connection,
            waiting_permits: self.waiting_permits.load(Ordering::Relaxed),
            ops_available: self.ops.available_permits(),
            bytes_available: self.bytes.available_permits(),
            tasks: self.tasks.len(),
            dials: Counters::get(&counters.dials),
            dial_failures: Counters::get(&counters.dial_failures),
            probes: Counters::get(&counters.probes),
            probe_failures: Counters::get(&counters.probe_failures),
            closes: std::array::from_fn(|index| Counters::get(&counters.closes[index])),
            bytes_sent: Counters::get(&self.totals.sent),
            bytes_received: Counters::get(&self.totals.received),
            legs: Counters::get(&counters.legs),
            replies: Counters::get(&counters.replies),
            cancels: Counters::get(&counters.cancels),
            late_responses: Counters::get(&counters.late_responses),
            stale_retries: Counters::get(&counters.stale_retries),
            body_crc_failures: Counters::get(&counters.body_crc_failures),
            srtt_us: Counters::get(&counters.srtt_us),
            last_received: self.totals.last_received(),
            last_sent: self.totals.last_sent(),
        }
    }
}
