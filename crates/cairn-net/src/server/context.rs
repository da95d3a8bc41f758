//! What is known about a request beside its content, and what its work cost.

use crate::identity::PeerInfo;
use crate::seam::now;
use cairn_proto::pb;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What is known about a request beside its content.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// When the caller stops waiting; `None` when it gave no deadline.
    pub deadline: Option<Instant>,
    /// Who asks.
    pub peer: Arc<PeerInfo>,
    /// See [`cairn_proto::op`].
    pub op: u16,
    /// Which attempt at the operation this is, from 0.
    pub attempt: u8,
    /// A second copy of a slow request.
    pub hedge: bool,
    /// Sent again after a failure.
    pub retry: bool,
    /// When its last byte was here.
    pub received: Instant,
    /// Cancelled when nobody waits for the answer any more: the caller cancelled, or its connection ended.
    pub cancelled: CancellationToken,
    /// Where the time goes; travels back with the response.
    pub work: Arc<WorkTime>,
}

impl RequestContext {
    /// Time since the whole request was here.
    pub fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.received)
    }
}

/// Time a server spends on one request, by kind, in whole microseconds that saturate after an hour. The server fills in
/// the queue, the handler the rest; parts of a request that work in parallel add up.
#[derive(Debug, Default)]
pub struct WorkTime {
    queue_us: AtomicU32,
    disk_us: AtomicU32,
    checksum_us: AtomicU32,
}

impl WorkTime {
    fn add(cell: &AtomicU32, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        // Both closures always return a value, so the update cannot fail.
        let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(old.saturating_add(micros)));
    }

    /// It waited for memory or for its turn.
    pub(crate) fn add_queue(&self, time: Duration) {
        Self::add(&self.queue_us, time);
    }

    /// It waited for a disk.
    pub fn add_disk(&self, time: Duration) {
        Self::add(&self.disk_us, time);
    }

    /// It computed checksums.
    pub fn add_checksum(&self, time: Duration) {
        Self::add(&self.checksum_us, time);
    }

    /// What travels with the response; `None` while everything is zero.
    pub fn timing(&self) -> Option<pb::ServerTiming> {
        let timing = pb::ServerTiming {
            queue_us: self.queue_us.load(Ordering::Relaxed),
            disk_us: self.disk_us.load(Ordering::Relaxed),
            checksum_us: self.checksum_us.load(Ordering::Relaxed),
        };
        (timing != pb::ServerTiming::default()).then_some(timing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up_and_saturate() {
        let work = WorkTime::default();
        assert_eq!(work.timing(), None);
        work.add_disk(Duration::from_micros(7));
        work.add_disk(Duration::from_micros(5));
        work.add_checksum(Duration::from_nanos(999));
        assert_eq!(work.timing(), Some(pb::ServerTiming { disk_us: 12, ..Default::default() }));
        work.add_queue(Duration::from_secs(100_000));
        work.add_queue(Duration::from_secs(1));
        assert_eq!(work.timing().unwrap().queue_us, u32::MAX);
    }
}
