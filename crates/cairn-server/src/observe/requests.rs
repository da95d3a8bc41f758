//! Requests by operation: how many ended how, how long they took, what they moved.

use cairn_metrics::{Histogram, Page, Source};
use cairn_net::ServerStats;
use cairn_proto::op;
use cairn_proto::status::{Code, code_name};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::time::Instant;

/// Operations are numbered in groups of 256, of which the first [`GROUP_LEN`] are told apart.
const GROUPS: u16 = 4;
const GROUP_LEN: u16 = 128;
/// One place for each operation, and the last for numbers without meaning.
const SLOTS: usize = (GROUPS * GROUP_LEN) as usize + 1;
/// Places for codes; higher ones are counted as [`Code::Internal`].
const CODES: usize = 64;

/// Of one operation.
struct OpStats {
    outcomes: [AtomicU64; CODES],
    duration: Histogram,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
}

impl Default for OpStats {
    fn default() -> Self {
        Self {
            outcomes: [const { AtomicU64::new(0) }; CODES],
            duration: Histogram::durations(),
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
        }
    }
}

/// All requests that reached the handler of one server.
pub(crate) struct RequestStats {
    /// Made when the operation is seen first.
    ops: [OnceLock<Box<OpStats>>; SLOTS],
    in_flight: AtomicUsize,
}

impl Default for RequestStats {
    fn default() -> Self {
        Self { ops: [const { OnceLock::new() }; SLOTS], in_flight: AtomicUsize::new(0) }
    }
}

/// The place of an operation.
fn slot(number: u16) -> usize {
    let (group, index) = (number >> 8, number & 0xff);
    let known = group < GROUPS && index < GROUP_LEN && op::name(number) != "unknown";
    if known { usize::from(group * GROUP_LEN + index) } else { SLOTS - 1 }
}

/// The operation of a place.
fn number(slot: usize) -> u16 {
    let slot = u16::try_from(slot).unwrap_or(0);
    ((slot / GROUP_LEN) << 8) | (slot % GROUP_LEN)
}

impl RequestStats {
    /// A request begins; it ends with the guard.
    pub(crate) fn begin(self: &Arc<Self>, number: u16, request_bytes: u64, now: Instant) -> Watch {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let slot = slot(number);
        self.of(slot).request_bytes.fetch_add(request_bytes, Ordering::Relaxed);
        Watch { stats: self.clone(), slot, begun: now, open: true }
    }

    fn of(&self, slot: usize) -> &OpStats {
        self.ops[slot].get_or_init(Box::default)
    }

    fn end(&self, slot: usize, code: Code) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let code = Some(code as usize).filter(|code| *code < CODES).unwrap_or(Code::Internal as usize);
        self.of(slot).outcomes[code].fetch_add(1, Ordering::Relaxed);
    }

    fn seen(&self) -> impl Iterator<Item = (&'static str, &OpStats)> {
        let name = |slot| if slot == SLOTS - 1 { "unknown" } else { op::name(number(slot)) };
        self.ops.iter().enumerate().filter_map(move |(slot, stats)| Some((name(slot), &**stats.get()?)))
    }
}

/// A request under way. Dropped without an end, its handler panicked or was stopped.
pub(crate) struct Watch {
    stats: Arc<RequestStats>,
    slot: usize,
    begun: Instant,
    open: bool,
}

impl Watch {
    /// The request was answered; returns how long that took, in microseconds.
    pub(crate) fn end(mut self, code: Code, response_bytes: u64, now: Instant) -> u64 {
        self.open = false;
        let micros = u64::try_from(now.saturating_duration_since(self.begun).as_micros()).unwrap_or(u64::MAX);
        let stats = self.stats.of(self.slot);
        stats.duration.record(micros);
        stats.response_bytes.fetch_add(response_bytes, Ordering::Relaxed);
        self.stats.end(self.slot, code);
        micros
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.open {
            self.stats.end(self.slot, Code::Internal);
        }
    }
}

/// The measurements that all servers share.
pub(crate) struct ServerSource {
    pub(crate) role: &'static str,
    pub(crate) requests: Arc<RequestStats>,
    pub(crate) connections: Arc<ServerStats>,
}

impl Source for ServerSource {
    fn measure(&self, page: &mut Page<'_>) -> fmt::Result {
        let version = [("role", self.role), ("version", env!("CARGO_PKG_VERSION"))];
        page.gauge("cairn_server_info", "Always 1; the labels say what runs here.", |family| {
            family.count(&version, 1)
        })?;
        self.measure_requests(page)?;
        self.measure_connections(page)
    }
}

impl ServerSource {
    fn measure_requests(&self, page: &mut Page<'_>) -> fmt::Result {
        let stats = &self.requests;
        page.counter("cairn_server_requests_total", "Requests that the handler answered, by outcome.", |family| {
            for (name, of) in stats.seen() {
                for (code, count) in of.outcomes.iter().enumerate() {
                    let count = count.load(Ordering::Relaxed);
                    let code = i32::try_from(code).ok().and_then(|code| Code::try_from(code).ok());
                    if let (Some(code), 1..) = (code, count) {
                        family.count(&[("op", name), ("outcome", &code_name(code))], count)?;
                    }
                }
            }
            Ok(())
        })?;
        let help = "Time from the last byte of a request to its answer, the sending left out.";
        page.histogram("cairn_server_request_duration_seconds", help, |family| {
            stats.seen().try_for_each(|(name, of)| family.reading(&[("op", name)], &of.duration.read()))
        })?;
        page.gauge("cairn_server_requests_in_flight", "Requests in the handler now.", |family| {
            family.count(&[], stats.in_flight.load(Ordering::Relaxed) as u64)
        })?;
        page.counter("cairn_server_request_bytes_total", "Bytes of request bodies.", |family| {
            let bytes = |of: &OpStats| of.request_bytes.load(Ordering::Relaxed);
            stats.seen().try_for_each(|(name, of)| family.count(&[("op", name)], bytes(of)))
        })?;
        page.counter("cairn_server_response_bytes_total", "Bytes of response bodies.", |family| {
            let bytes = |of: &OpStats| of.response_bytes.load(Ordering::Relaxed);
            stats.seen().try_for_each(|(name, of)| family.count(&[("op", name)], bytes(of)))
        })
    }

    fn measure_connections(&self, page: &mut Page<'_>) -> fmt::Result {
        let stats = &self.connections;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let help = "Requests refused before the handler saw them, by reason.";
        page.counter("cairn_server_requests_refused_total", help, |family| {
            let (overloaded, expired) = (get(&stats.overloaded), get(&stats.expired));
            let other = get(&stats.refused).saturating_sub(overloaded + expired);
            let reasons = [("overloaded", overloaded), ("expired", expired), ("other", other)];
            reasons.iter().try_for_each(|(reason, count)| family.count(&[("reason", reason)], *count))
        })?;
        let help = "Requests whose caller went away before the response was complete.";
        page.counter("cairn_server_requests_cancelled_total", help, |family| family.count(&[], get(&stats.cancelled)))?;
        page.counter("cairn_server_pings_total", "Pings answered.", |family| family.count(&[], get(&stats.pings)))?;
        page.gauge("cairn_server_clients", "Client processes that have a connection now.", |family| {
            family.count(&[], stats.clients() as u64)
        })?;
        let help = "Bytes on sockets, requests and responses with their frames.";
        page.counter("cairn_server_io_bytes_total", help, |family| {
            family.count(&[("direction", "received")], stats.bytes_received())?;
            family.count(&[("direction", "sent")], stats.bytes_sent())
        })?;
        page.gauge("cairn_server_connections", "Connections open now.", |family| {
            family.count(&[], stats.connections.load(Ordering::Relaxed) as u64)
        })?;
        page.counter("cairn_server_connections_accepted_total", "Connections accepted.", |family| {
            family.count(&[], get(&stats.accepted))
        })?;
        let help = "Connections that this server ended, by reason.";
        page.counter("cairn_server_connections_dropped_total", help, |family| {
            let reasons =
                [("too_many", &stats.turned_away), ("broken", &stats.broken), ("timed_out", &stats.timed_out)];
            reasons.iter().try_for_each(|(reason, count)| family.count(&[("reason", reason)], get(count)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_metrics::Exposition;
    use std::time::Duration;

    #[test]
    fn every_operation_has_a_place_of_its_own() {
        let known: Vec<u16> = (0..=u16::MAX).filter(|number| op::name(*number) != "unknown").collect();
        assert!(known.len() > 20);
        for known in known {
            assert_eq!(number(slot(known)), known, "{}: widen GROUPS or GROUP_LEN", op::name(known));
        }
        assert_eq!(slot(0), SLOTS - 1);
        assert_eq!(slot(9999), SLOTS - 1);
    }

    #[test]
    fn codes_have_a_place() {
        assert!((0..10_000).filter_map(|code| Code::try_from(code).ok()).all(|code| (code as usize) < CODES));
    }

    #[test]
    fn requests_are_counted_by_their_end() {
        let requests = Arc::new(RequestStats::default());
        let now = cairn_net::now();
        requests.begin(op::PUT, 100, now).end(Code::Ok, 0, now + Duration::from_millis(3));
        requests.begin(op::GET, 0, now).end(Code::BlockNotFound, 7, now);
        drop(requests.begin(op::GET, 0, now));
        let open = requests.begin(9999, 0, now);
        let mut exposition = Exposition::new();
        let source = ServerSource { role: "node", requests: requests.clone(), connections: Arc::default() };
        exposition.add(Arc::new(source));
        let text = exposition.text();
        for line in [
            "cairn_server_requests_total{op=\"put\",outcome=\"ok\"} 1",
            "cairn_server_requests_total{op=\"get\",outcome=\"block_not_found\"} 1",
            "cairn_server_requests_total{op=\"get\",outcome=\"internal\"} 1",
            "cairn_server_request_bytes_total{op=\"put\"} 100",
            "cairn_server_response_bytes_total{op=\"get\"} 7",
            "cairn_server_request_duration_seconds_count{op=\"put\"} 1",
            "cairn_server_requests_in_flight 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        drop(open);
        assert!(exposition.text().contains("cairn_server_requests_in_flight 0\n"));
        assert!(exposition.text().contains("cairn_server_requests_total{op=\"unknown\",outcome=\"internal\"} 1\n"));
    }
}
