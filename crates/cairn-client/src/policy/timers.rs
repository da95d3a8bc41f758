//! How long to wait before doing something more. No timer here ever cancels a leg.

use cairn_proto::limits::CONTROL_BODY_MAX;
use std::time::Duration;

/// The shortest soft timer.
const SOFT_MIN: Duration = Duration::from_millis(50);
/// The longest.
const SOFT_MAX: Duration = Duration::from_secs(5);
/// The soft timer while nothing was measured.
const SOFT_UNKNOWN: Duration = Duration::from_millis(250);
/// The soft timer is at least this multiple of the 99.9th percentile: one leg in a thousand is that slow by nature.
const SOFT_P999_FACTOR: u32 = 3;
/// Doublings of the soft timer that make a difference between its bounds.
const DOUBLINGS_MAX: u32 = 7;
/// The shortest connect timer. Nobody waits for a dial alone: other legs begin beside it long before. So it may be
/// generous, and must be: a limit below what a dial takes on a network that has just become slow would fail every dial,
/// and never learn.
const CONNECT_MIN: Duration = Duration::from_secs(1);
/// The longest; also that of a node never connected to.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A dial may take this multiple of the usual.
const CONNECT_FACTOR: u32 = 4;
/// The earliest hedge.
const HEDGE_MIN: Duration = Duration::from_millis(1);
/// The latest hedge of a small read: one slow node must not drag the percentile that protects from it.
const HEDGE_MAX_SMALL: Duration = Duration::from_millis(50);
/// The latest hedge of a bulk read, apart from the time its bytes take.
const HEDGE_MAX_BULK: Duration = Duration::from_millis(250);
/// Bytes per second assumed while none were measured.
const BANDWIDTH_UNKNOWN: f64 = 10e6;
/// The shortest pause between bytes that counts as a stall.
const STALL_MIN: Duration = Duration::from_millis(50);
/// ... and what it is while nothing was measured.
const STALL_UNKNOWN: Duration = Duration::from_millis(250);
/// A pause of this multiple of the 99th percentile is a stall.
const STALL_FACTOR: u32 = 4;
/// Time after which half (more exactly 1 - 1/e) of an old bandwidth is forgotten.
const BANDWIDTH_TAU: Duration = Duration::from_secs(2);

/// Sizes that travel, and are measured, apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) enum Class {
    /// Bodies that fit the control lane.
    Small,
    /// Longer ones.
    Bulk,
}

impl Class {
    /// The class of a body of `len` bytes.
    pub(crate) fn of(len: u64) -> Self {
        if len <= u64::from(CONTROL_BODY_MAX) { Self::Small } else { Self::Bulk }
    }
}

/// What one node's latencies of one class say about how long its next answer takes: RFC 6298 (smoothed round trip and
/// its variation), plus the bandwidth of bulk answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timer {
    srtt: Option<Duration>,
    rttvar: Duration,
    /// Bytes per second, and when last measured.
    bandwidth: Option<(f64, Duration)>,
    doublings: u32,
}

impl Timer {
    /// A leg of `len` bytes was answered after `latency`. Only answers that were waited for to the end belong here, not
    /// those of legs that were given up.
    pub(crate) fn on_sample(&mut self, latency: Duration, len: u64, now: Duration) {
        // RFC 6298, 2.2 and 2.3: alpha = 1/8, beta = 1/4, RTTVAR before SRTT.
        match self.srtt {
            None => {
                self.srtt = Some(latency);
                self.rttvar = latency / 2;
            }
            Some(srtt) => {
                self.rttvar = (self.rttvar * 3 + srtt.abs_diff(latency)) / 4;
                self.srtt = Some((srtt * 7 + latency) / 8);
            }
        }
        if Class::of(len) == Class::Bulk {
            let sample = len as f64 / latency.as_secs_f64().max(1e-6);
            let known = self.bandwidth.map(|(known, at)| {
                // The rarer the samples, the more each counts.
                let age = now.saturating_sub(at).as_secs_f64() / BANDWIDTH_TAU.as_secs_f64();
                let weight = (1.0 - (-age).exp()).max(0.125);
                known + weight * (sample - known)
            });
            self.bandwidth = Some((known.unwrap_or(sample), now));
        }
        self.doublings = 0;
    }

    /// The soft timer of a leg ran out: it doubles, until the next leg that is answered (Karn's algorithm, RFC 6298,
    /// 5.5).
    ///
    /// Several legs that run out in the same moment double it several times, on purpose. In the model, with all replicas
    /// 2 s slower from one moment to the next, this sends 1.07 legs per read in the first two seconds; with at most two
    /// doublings it is a flood of 2.6. What it costs is seen only when two of three replicas go dark together: then some
    /// reads wait for the silence rule, half a second, instead of 200 ms.
    pub(crate) fn on_expiry(&mut self) {
        self.doublings = (self.doublings + 1).min(DOUBLINGS_MAX);
    }

    /// How long a leg of `len` bytes is waited for alone: then another one may begin, this one goes on. `p999` is the
    /// 99.9th percentile of the node's recent latencies of this class.
    pub(crate) fn soft(&self, p999: Option<Duration>, len: u64) -> Duration {
        let usual = match (self.srtt, p999) {
            (None, None) => SOFT_UNKNOWN,
            (srtt, p999) => srtt
                .map_or(Duration::ZERO, |srtt| srtt.saturating_add(self.rttvar.saturating_mul(4)))
                .max(p999.map_or(Duration::ZERO, |p999| p999.saturating_mul(SOFT_P999_FACTOR))),
        };
        let travel = self.bandwidth().map_or(Duration::ZERO, |bandwidth| travel_time(len, bandwidth / 2.0));
        usual.saturating_add(travel).clamp(SOFT_MIN, SOFT_MAX).saturating_mul(1 << self.doublings).min(SOFT_MAX)
    }

    /// Smoothed latency.
    pub(crate) fn srtt(&self) -> Option<Duration> {
        self.srtt
    }

    /// Its smoothed variation.
    pub(crate) fn rttvar(&self) -> Duration {
        self.rttvar
    }

    /// Bytes per second of bulk answers.
    pub(crate) fn bandwidth(&self) -> Option<f64> {
        self.bandwidth.map(|(bandwidth, _)| bandwidth)
    }
}

fn travel_time(len: u64, bandwidth: f64) -> Duration {
    Duration::from_secs_f64((len as f64 / bandwidth.max(1.0)).min(SOFT_MAX.as_secs_f64()))
}

/// How long a dial may take: four times the usual, from 1 s to 5 s; 5 s when nothing is known.
pub(crate) fn connect_limit(srtt_connect: Option<Duration>) -> Duration {
    srtt_connect.map_or(CONNECT_MAX, |srtt| srtt.saturating_mul(CONNECT_FACTOR).clamp(CONNECT_MIN, CONNECT_MAX))
}

/// When to hedge a read of `len` bytes: after the 95th percentile of first legs of its class over all healthy nodes.
///
/// For bulk this is time to the first byte; afterwards [`stall_after`] decides. `bandwidth` is in bytes per second.
pub(crate) fn hedge_after(p95: Option<Duration>, class: Class, len: u64, bandwidth: Option<f64>) -> Duration {
    let ceiling = match class {
        Class::Small => HEDGE_MAX_SMALL,
        Class::Bulk => HEDGE_MAX_BULK + travel_time(len, bandwidth.unwrap_or(BANDWIDTH_UNKNOWN)),
    };
    p95.unwrap_or(ceiling).clamp(HEDGE_MIN, ceiling)
}

/// How long a transfer that has begun may pause before it counts as stalled. `p99_gap` is the 99th percentile of the
/// times between its chunks.
pub(crate) fn stall_after(p99_gap: Option<Duration>) -> Duration {
    p99_gap.map_or(STALL_UNKNOWN, |gap| gap.saturating_mul(STALL_FACTOR).max(STALL_MIN))
}

#[cfg(test)]
mod tests;
