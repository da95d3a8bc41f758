//! What waits to be written, and the permits that bound it.

use crate::error::{DeleteError, Overloaded, PutError, SyncError};
use crate::format::BlockKey;
use crate::limits::{BATCH_BYTES_MAX, BATCH_REQUESTS_MAX, QUEUE_REQUESTS_MAX};
use crate::store::{DeleteAck, Durability, PutAck, SyncAck};
use bytes::Bytes;
use cairn_proto::{PgEpoch, PgId};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Called once with the result.
pub type Done<T, E> = Box<dyn FnOnce(Result<T, E>) + Send>;

/// True while somebody waits for a request.
pub type Wanted = Box<dyn Fn() -> bool + Send>;

/// A put whose checksums hold.
pub struct PutRequest {
    pub key: BlockKey,
    pub pg: PgId,
    pub pg_epoch: PgEpoch,
    pub parts: Vec<Bytes>,
    pub len: u32,
    pub crcs: Vec<u32>,
    pub file_offset_hint: u64,
    pub durability: Durability,
    pub permit: Permit,
    pub wanted: Wanted,
    pub done: Done<PutAck, PutError>,
}

pub struct DeleteRequest {
    pub keys: Vec<BlockKey>,
    pub permit: Permit,
    pub done: Done<DeleteAck, DeleteError>,
}

pub struct SyncRequest {
    pub keys: Vec<BlockKey>,
    pub permit: Permit,
    pub wanted: Wanted,
    pub done: Done<SyncAck, SyncError>,
}

pub enum Request {
    Put(PutRequest),
    Delete(DeleteRequest),
    Sync(SyncRequest),
}

impl Request {
    fn bytes(&self) -> usize {
        match self {
            Self::Put(put) => put.len as usize,
            Self::Delete(_) | Self::Sync(_) => 0,
        }
    }
}

/// How much waits.
#[derive(Debug)]
pub struct Gate {
    requests: AtomicUsize,
    bytes: AtomicUsize,
    bytes_max: usize,
}

/// The right of one request to wait; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    bytes: usize,
}

impl Gate {
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { requests: AtomicUsize::new(0), bytes: AtomicUsize::new(0), bytes_max })
    }

    /// Admits a request with `bytes` of payload. A payload that waits alone is always admitted.
    pub fn admit(self: &Arc<Self>, bytes: usize) -> Result<Permit, Overloaded> {
        // Counted first and taken back by the permit's drop, so that two callers cannot both pass the last place.
        let permit = Permit { gate: Arc::clone(self), bytes };
        let requests = self.requests.fetch_add(1, Ordering::Relaxed);
        let waiting = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if requests >= QUEUE_REQUESTS_MAX || (bytes > 0 && waiting > 0 && waiting + bytes > self.bytes_max) {
            return Err(Overloaded { requests, bytes: waiting });
        }
        Ok(permit)
    }

    /// Requests that wait, and their payload bytes that are not written yet.
    pub fn waiting(&self) -> (usize, usize) {
        (self.requests.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

impl Permit {
    /// The payload is written: its bytes no longer wait, the request still does.
    pub fn release_bytes(&mut self) {
        self.gate.bytes.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release_bytes();
        self.gate.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The writer's queue.
#[derive(Default)]
pub struct Queue {
    state: Mutex<QueueState>,
    arrived: Condvar,
}

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<Request>,
    closed: bool,
}

impl Queue {
    /// Adds a request, or gives it back when the queue is closed.
    #[allow(clippy::result_large_err, reason = "the error is the request itself, given back once")]
    pub fn push(&self, request: Request) -> Result<(), Request> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(request);
        }
        state.waiting.push_back(request);
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// What waits, up to the bounds of a batch; empty when nothing does.
    pub fn take(&self) -> Vec<Request> {
        take_batch(&mut self.state.lock().waiting)
    }

    /// Waits for requests; `None` once the queue is closed and empty.
    pub fn wait(&self) -> Option<Vec<Request>> {
        let mut state = self.state.lock();
        while state.waiting.is_empty() {
            if state.closed {
                return None;
            }
            self.arrived.wait(&mut state);
        }
        Some(take_batch(&mut state.waiting))
    }

    /// Refuses requests from now on; those that wait are still taken.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_all();
    }
}

fn take_batch(waiting: &mut VecDeque<Request>) -> Vec<Request> {
    let mut bytes = 0;
    let count = waiting
        .iter()
        .take(BATCH_REQUESTS_MAX)
        .take_while(|request| {
            bytes += request.bytes();
            bytes <= BATCH_BYTES_MAX
        })
        .count();
    // A block longer than the bound is taken alone.
    let count = count.max(1).min(waiting.len());
    waiting.drain(..count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_bound_requests_and_bytes_and_come_back() {
        let gate = Gate::new(100);
        let alone = gate.admit(1000).unwrap();
        assert_eq!(gate.admit(1).unwrap_err(), Overloaded { requests: 1, bytes: 1000 });
        assert!(gate.admit(0).is_ok(), "without payload only the count matters");
        drop(alone);
        let mut first = gate.admit(60).unwrap();
        assert!(gate.admit(60).is_err());
        first.release_bytes();
        let second = gate.admit(60).unwrap();
        drop((first, second));
        assert_eq!(gate.waiting(), (0, 0));
        let all: Vec<_> = (0..QUEUE_REQUESTS_MAX).map(|_| gate.admit(0).unwrap()).collect();
        assert!(gate.admit(0).is_err());
        drop(all);
        assert!(gate.admit(100).is_ok());
    }
}
