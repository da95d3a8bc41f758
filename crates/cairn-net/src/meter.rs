//! What moves on a connection and when, kept in atomics so that upkeep can look without disturbing the traffic.

use crate::seam::now;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A moment that may not have been yet: microseconds since an epoch, plus one.
#[derive(Debug, Default)]
pub(crate) struct Moment(AtomicU64);

impl Moment {
    pub fn set(&self, since_epoch: Duration) {
        self.0.store(since_epoch.as_micros() as u64 + 1, Ordering::Relaxed);
    }

    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    pub fn get(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros - 1)),
        }
    }
}

/// Meter of one connection.
pub(crate) struct Meter {
    epoch: Instant,
    /// Bytes moved in either direction, or the connection was given a request.
    moved: Moment,
    /// The peer owes bytes since: it has begun a frame or a body and not finished it.
    owed: Moment,
    /// A write is under way since.
    writing: Moment,
    /// Counters of the link or server that owns the connection.
    totals: Arc<Totals>,
}

/// Bytes of all connections of one owner.
#[derive(Debug)]
pub(crate) struct Totals {
    epoch: Instant,
    pub sent: AtomicU64,
    pub received: AtomicU64,
    last_sent: Moment,
    last_received: Moment,
}

impl Default for Totals {
    fn default() -> Self {
        Self::new()
    }
}

impl Totals {
    pub fn new() -> Self {
        Self {
            epoch: now(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            last_sent: Moment::default(),
            last_received: Moment::default(),
        }
    }

    fn sent(&self, len: usize, at: Instant) {
        self.sent.fetch_add(len as u64, Ordering::Relaxed);
        self.last_sent.set(at - self.epoch);
    }

    fn received(&self, len: usize, at: Instant) {
        self.received.fetch_add(len as u64, Ordering::Relaxed);
        self.last_received.set(at - self.epoch);
    }

    /// When the last byte came, on whatever connection.
    pub fn last_received(&self) -> Option<Instant> {
        Some(self.epoch + self.last_received.get()?)
    }

    /// When the kernel last took bytes, on whatever connection.
    pub fn last_sent(&self) -> Option<Instant> {
        Some(self.epoch + self.last_sent.get()?)
    }
}

impl Meter {
    pub fn new(totals: Arc<Totals>) -> Self {
        Self { epoch: now(), moved: Moment::default(), owed: Moment::default(), writing: Moment::default(), totals }
    }

    fn elapsed(&self) -> Duration {
        now() - self.epoch
    }

    /// When the connection was made.
    pub fn made(&self) -> Instant {
        self.epoch
    }

    /// Bytes came.
    pub fn received(&self, len: usize) {
        let at = now();
        self.totals.received(len, at);
        self.moved.set(at - self.epoch);
    }

    /// Bytes were taken by the kernel.
    pub fn sent(&self, len: usize) {
        let at = now();
        self.totals.sent(len, at);
        let at = at - self.epoch;
        self.moved.set(at);
        self.writing.set(at);
    }

    /// Starts the clocks of silence anew without bytes having moved.
    pub fn touch(&self) {
        self.moved.set(self.elapsed());
    }

    /// The peer has begun what it must finish.
    pub fn owe(&self) {
        self.owed.set(self.elapsed());
    }

    /// The peer has begun something, now or earlier: bytes that drip do not start the clock anew.
    pub fn owe_once(&self) {
        if self.owed.get().is_none() {
            self.owe();
        }
    }

    /// The peer owes nothing.
    pub fn settle(&self) {
        self.owed.clear();
    }

    /// A write begins.
    pub fn write_begins(&self) {
        self.writing.set(self.elapsed());
    }

    /// The write is done.
    pub fn write_ends(&self) {
        self.writing.clear();
    }

    /// Time since the connection was made.
    pub fn age(&self, now: Instant) -> Duration {
        now - self.epoch
    }

    /// Time since anything moved.
    pub fn silent_for(&self, now: Instant) -> Duration {
        self.age(now).saturating_sub(self.moved.get().unwrap_or_default())
    }

    /// Time the peer has owed bytes; zero when it owes none.
    pub fn owed_for(&self, now: Instant) -> Duration {
        self.owed.get().map_or(Duration::ZERO, |since| self.age(now).saturating_sub(since))
    }

    /// Time the present write has made no progress; zero when there is none.
    pub fn blocked_for(&self, now: Instant) -> Duration {
        self.writing.get().map_or(Duration::ZERO, |since| self.age(now).saturating_sub(since))
    }
}
