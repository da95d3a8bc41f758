//! What single operations did, leg by leg, for whoever asks why: kept only when asked for.

use crate::policy::breaker::BreakerState;
use cairn_proto::{BlockId, NodeId, PgId};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Records kept; beyond that the oldest are dropped.
const RECORDS_MAX: usize = 4096;

/// One thing that happened. Times are since the client was made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Record {
    /// Replicas were put into the order in which they are asked.
    Order {
        /// When.
        at: Duration,
        /// The block they hold.
        block: BlockId,
        /// Its group.
        pg: PgId,
        /// First to last.
        replicas: Vec<ReplicaScore>,
    },
    /// A leg ended.
    Leg(LegRecord),
    /// A second copy was wanted and not sent.
    HedgeSkipped {
        /// When.
        at: Duration,
        /// Why.
        reason: &'static str,
    },
    /// A circuit breaker changed its state.
    Breaker {
        /// When.
        at: Duration,
        /// Whose.
        node: NodeId,
        /// What it is now.
        to: BreakerState,
        /// Why.
        reason: &'static str,
    },
    /// All replicas are Open: the operation waits for the first good probe.
    Parked {
        /// When.
        at: Duration,
        /// How long it waited.
        waited: Duration,
        /// Whether a replica came back.
        released: bool,
    },
    /// A round failed everywhere; the next begins after a pause.
    Pause {
        /// When.
        at: Duration,
        /// Rounds that failed.
        rounds: u32,
        /// How long.
        pause: Duration,
    },
    /// A replicated write was good enough, or given up.
    Write {
        /// When.
        at: Duration,
        /// The block.
        block: BlockId,
        /// Its group.
        pg: PgId,
        /// Nodes that hold it.
        acked: Vec<NodeId>,
        /// Nodes that had not answered, or failed.
        late: Vec<NodeId>,
        /// False when no majority was found.
        quorum: bool,
    },
}

impl Record {
    /// When it happened, or for a leg began: time since the client was made.
    pub fn at(&self) -> Duration {
        match self {
            Self::Leg(leg) => leg.at,
            Self::Order { at, .. }
            | Self::HedgeSkipped { at, .. }
            | Self::Breaker { at, .. }
            | Self::Parked { at, .. }
            | Self::Pause { at, .. }
            | Self::Write { at, .. } => *at,
        }
    }
}

/// A replica in the order of a read.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaScore {
    /// Its node.
    pub node: NodeId,
    /// State of the node's breaker.
    pub state: BreakerState,
    /// Expected wait for one more request: the smaller, the sooner asked.
    pub score: Duration,
    /// True when it must have the block; others are asked later.
    pub sure: bool,
}

/// One request to one server.
#[derive(Clone, Debug)]
pub struct LegRecord {
    /// When it began.
    pub at: Duration,
    /// What was asked, as in the wire protocol.
    pub op: &'static str,
    /// `first`, `failover`, `retry` or `hedge`.
    pub kind: &'static str,
    /// Who was asked; 0 is a metadata server.
    pub node: NodeId,
    /// Where.
    pub addr: String,
    /// `ok`, `cancelled`, or how it failed.
    pub outcome: &'static str,
    /// In words, when it failed.
    pub message: String,
    /// Body bytes sent.
    pub bytes_sent: u64,
    /// Body bytes received.
    pub bytes_received: u64,
    /// From the beginning until a connection had it: permits, dialling, waiting.
    pub queued: Option<Duration>,
    /// Until its first frame was handed to the socket.
    pub sent: Option<Duration>,
    /// Until the first frame of the answer came.
    pub first_byte: Option<Duration>,
    /// Until the outcome was known.
    pub took: Duration,
    /// At the server, between the request's last byte and the beginning of the work.
    pub server_queue: Duration,
    /// At the server, waiting for its disk.
    pub server_disk: Duration,
    /// At the server, checksums.
    pub server_checksum: Duration,
}

/// Keeps the newest records, if it is on.
#[derive(Default)]
pub(crate) struct Recorder {
    ring: Option<Mutex<VecDeque<Record>>>,
    /// Time spent on checksums by this client, in nanoseconds.
    checksum_ns: AtomicU64,
}

impl Recorder {
    pub(crate) fn new(on: bool) -> Self {
        Self { ring: on.then(Mutex::default), checksum_ns: AtomicU64::new(0) }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.ring.is_some()
    }

    /// Adds a record, which is only made when somebody wants it.
    pub(crate) fn add(&self, make: impl FnOnce() -> Record) {
        if let Some(ring) = &self.ring {
            let record = make();
            let mut ring = ring.lock();
            if ring.len() == RECORDS_MAX {
                ring.pop_front();
            }
            ring.push_back(record);
        }
    }

    pub(crate) fn add_checksum(&self, took: Duration) {
        self.checksum_ns.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    pub(crate) fn take(&self) -> (Vec<Record>, Duration) {
        let records = self.ring.as_ref().map_or_else(Vec::new, |ring| ring.lock().drain(..).collect());
        (records, Duration::from_nanos(self.checksum_ns.swap(0, Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_are_kept_and_only_when_asked_for() {
        let skipped = |at| Record::HedgeSkipped { at: Duration::from_secs(at), reason: "tokens" };
        let off = Recorder::new(false);
        off.add(|| unreachable!("nobody wants it"));
        assert!(off.take().0.is_empty());
        let on = Recorder::new(true);
        for at in 0..RECORDS_MAX as u64 + 2 {
            on.add(|| skipped(at));
        }
        let (records, _) = on.take();
        assert_eq!(records.len(), RECORDS_MAX);
        assert!(matches!(records[0], Record::HedgeSkipped { at, .. } if at == Duration::from_secs(2)));
    }
}
