//! Counters of a server.

use crate::meter::Totals;
use cairn_proto::BootId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Shortest and longest time after which an overloaded server suggests to come back.
const RETRY_AFTER_MS: (u32, u32) = (10, 1_000);

/// Counters of a server, readable while it runs: clone [`crate::ServerConfig::stats`] before [`crate::serve`].
#[derive(Debug, Default)]
pub struct ServerStats {
    /// Connections open now.
    pub connections: AtomicUsize,
    /// Requests being worked on now, cancelled ones that still run included.
    pub running: AtomicUsize,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections closed at once because there were too many.
    pub turned_away: AtomicU64,
    /// Connections closed because the peer broke the protocol, a bound or a checksum.
    pub broken: AtomicU64,
    /// Connections closed because the peer was idle, slow or not reading.
    pub timed_out: AtomicU64,
    /// Requests given to the handler.
    pub requests: AtomicU64,
    /// Requests refused before the handler saw them, for whatever reason.
    pub refused: AtomicU64,
    /// Of those: there was no room, or no memory for their body.
    pub overloaded: AtomicU64,
    /// Of those: their deadline had passed before work on them began.
    pub expired: AtomicU64,
    /// Requests whose caller went away before the response was complete.
    pub cancelled: AtomicU64,
    /// Pings answered.
    pub pings: AtomicU64,
    /// Connections sent away because they pinged too often.
    pub pinged_out: AtomicU64,
    /// Shutdown has begun: every peer was told to go elsewhere.
    pub going_away: AtomicBool,
    /// Smoothed time from a request's last byte to its answer, in microseconds; 0 = none seen.
    pub service_us: AtomicU64,
    pub(super) clients: Clients,
    pub(super) totals: Arc<Totals>,
}

impl ServerStats {
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// When a refused request may find room, in milliseconds: after about two requests' time, within
    /// [`RETRY_AFTER_MS`].
    pub(super) fn retry_after_ms(&self) -> u32 {
        let two_us = 2 * self.service_us.load(Ordering::Relaxed);
        let (min, max) = RETRY_AFTER_MS;
        u32::try_from(two_us.div_ceil(1_000)).unwrap_or(max).clamp(min, max)
    }

    /// Client processes (by boot id) that have a connection now.
    pub fn clients(&self) -> usize {
        self.clients.count.load(Ordering::Relaxed)
    }

    /// Bytes taken from sockets.
    pub fn bytes_received(&self) -> u64 {
        self.totals.received.load(Ordering::Relaxed)
    }

    /// Bytes handed to sockets.
    pub fn bytes_sent(&self) -> u64 {
        self.totals.sent.load(Ordering::Relaxed)
    }
}

/// Which clients are connected, and how often: bounded by the number of connections, because each keeps one entry at
/// most and gives it back.
#[derive(Debug, Default)]
pub(super) struct Clients {
    by_boot: Mutex<BTreeMap<BootId, usize>>,
    count: AtomicUsize,
}

/// One connection of a client, in the books until dropped.
pub(super) struct ClientEntry {
    stats: Arc<ServerStats>,
    boot: BootId,
}

impl ClientEntry {
    pub fn new(stats: &Arc<ServerStats>, boot: BootId) -> Self {
        let mut by_boot = stats.clients.by_boot.lock();
        *by_boot.entry(boot).or_default() += 1;
        stats.clients.count.store(by_boot.len(), Ordering::Relaxed);
        drop(by_boot);
        Self { stats: Arc::clone(stats), boot }
    }
}

impl Drop for ClientEntry {
    fn drop(&mut self) {
        let clients = &self.stats.clients;
        let mut by_boot = clients.by_boot.lock();
        if let Some(connections) = by_boot.get_mut(&self.boot) {
            *connections -= 1;
            if *connections == 0 {
                by_boot.remove(&self.boot);
            }
        }
        clients.count.store(by_boot.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_comes_back_when_requests_have_ended() {
        let stats = ServerStats::default();
        for (service_us, expected) in [(0, 10), (4_999, 10), (30_000, 60), (30_001, 61), (9_000_000, 1_000)] {
            stats.service_us.store(service_us, Ordering::Relaxed);
            assert_eq!(stats.retry_after_ms(), expected);
        }
    }

    #[test]
    fn a_client_counts_once_however_many_connections_it_has() {
        let stats = Arc::new(ServerStats::default());
        let one = ClientEntry::new(&stats, BootId([1; 16]));
        let again = ClientEntry::new(&stats, BootId([1; 16]));
        let other = ClientEntry::new(&stats, BootId([2; 16]));
        assert_eq!(stats.clients(), 2);
        drop(one);
        assert_eq!(stats.clients(), 2);
        drop(again);
        drop(other);
        assert_eq!((stats.clients(), stats.clients.by_boot.lock().len()), (0, 0));
    }
}
