//! Counters of the connection layer, as `get_connection_stats()` shows them.

use crate::error::{Error, FailureClass};
use cairn_proto::NodeId;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The most recent failure.
#[derive(Clone, Debug)]
pub struct ErrorRecord {
    /// The node, when one node failed; `None` for an operation as a whole and for metadata.
    pub node: Option<NodeId>,
    /// Its address; empty for an operation as a whole.
    pub addr: String,
    /// What was asked.
    pub op: String,
    /// How it failed; `None` for an operation as a whole.
    pub class: Option<FailureClass>,
    /// In words.
    pub message: String,
    /// Since the client was made.
    pub at: Duration,
}

/// One node's connections as this client sees them.
#[derive(Clone, Debug)]
pub struct NodeConnectionStats {
    /// The node; 0 for a metadata server.
    pub node: NodeId,
    /// Its address.
    pub addr: String,
    /// True while it is left alone after failures.
    pub down: bool,
    /// Smoothed latency of its answers.
    pub latency: Duration,
    /// Requests without an answer yet.
    pub in_flight: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests failed.
    pub failed: u64,
    /// Connections now open, of both lanes.
    pub open: u64,
    /// Of these, idle.
    pub idle: u64,
    /// Connections dialled so far.
    pub dials: u64,
}

/// What [`DfsClient::get_connection_stats`](crate::DfsClient::get_connection_stats) returns: totals since the client
/// was made.
///
/// `total_requests` counts operations of the caller (a write to three replicas is one); `legs` counts requests to
/// single servers.
#[derive(Clone, Debug, Default)]
pub struct ConnectionStats {
    /// Operations begun and ended.
    pub total_requests: u64,
    /// Of these, failed.
    pub failed_requests: u64,
    /// Bytes written to sockets.
    pub bytes_sent: u64,
    /// Bytes read from sockets.
    pub bytes_received: u64,
    /// The most recent failure, of an operation or of one of its legs.
    pub last_error: Option<ErrorRecord>,
    /// Requests sent to single servers.
    pub legs: u64,
    /// Of these, failed (most of them unseen by the caller).
    pub failed_legs: u64,
    /// Legs begun because an earlier one failed.
    pub failovers: u64,
    /// Legs begun because an earlier one was slow.
    pub hedges: u64,
    /// Rounds begun because a whole round failed.
    pub retries: u64,
    /// Replicas that had not answered when their write committed.
    pub stragglers: u64,
    /// Blocks whose bytes did not match their checksums.
    pub corrupt_blocks: u64,
    /// Per node.
    pub nodes: Vec<NodeConnectionStats>,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) total_requests: AtomicU64,
    pub(crate) failed_requests: AtomicU64,
    pub(crate) legs: AtomicU64,
    pub(crate) failed_legs: AtomicU64,
    pub(crate) failovers: AtomicU64,
    pub(crate) hedges: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) stragglers: AtomicU64,
    pub(crate) corrupt_blocks: AtomicU64,
    last_error: Mutex<Option<ErrorRecord>>,
}

/// Adds one.
pub(crate) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    /// Counts an operation of the caller by its result.
    pub(crate) fn operation<T>(&self, result: &Result<T, Error>, at: Duration) {
        bump(&self.total_requests);
        if let Err(error) = result {
            bump(&self.failed_requests);
            self.record(ErrorRecord {
                node: None,
                addr: String::new(),
                op: error.operation().to_owned(),
                class: None,
                message: error.to_string(),
                at,
            });
        }
    }

    pub(crate) fn record(&self, record: ErrorRecord) {
        *self.last_error.lock() = Some(record);
    }

    pub(crate) fn snapshot(&self) -> ConnectionStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ConnectionStats {
            total_requests: get(&self.total_requests),
            failed_requests: get(&self.failed_requests),
            legs: get(&self.legs),
            failed_legs: get(&self.failed_legs),
            failovers: get(&self.failovers),
            hedges: get(&self.hedges),
            retries: get(&self.retries),
            stragglers: get(&self.stragglers),
            corrupt_blocks: get(&self.corrupt_blocks),
            last_error: self.last_error.lock().clone(),
            ..ConnectionStats::default()
        }
    }
}
