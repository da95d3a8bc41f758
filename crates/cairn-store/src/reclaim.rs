//! Dead payloads that wait to be given back to the file system, and what wakes maintenance.
//!
//! They wait because written space is worth something: a segment that dies as a whole is used again without a hole in it.

use crate::catalog::DeadPayload;
use crate::limits::DEAD_PAYLOADS_MAX;
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Payloads of records whose end is durable.
#[derive(Default)]
pub struct Reclaim {
    state: Mutex<State>,
    /// Something was added.
    added: Condvar,
    /// Nobody is to wait any longer.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// By segment, so that the holes of one are made before the next one gets any.
    dead: BTreeMap<u32, Vec<DeadPayload>>,
    count: usize,
    bytes: u64,
    /// Segments with dead payloads whose places are not known here.
    forgotten: BTreeSet<u32>,
    stopped: bool,
}

impl State {
    fn remove(&mut self, segment: u32) -> Vec<DeadPayload> {
        let removed = self.dead.remove(&segment).unwrap_or_default();
        self.count -= removed.len();
        self.bytes -= removed.iter().map(|payload| payload.len).sum::<u64>();
        removed
    }
}

impl Reclaim {
    /// Adds payloads, each of whose end is durable.
    pub fn add(&self, payloads: Vec<DeadPayload>) {
        if payloads.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        for payload in payloads {
            state.bytes += payload.len;
            state.count += 1;
            state.dead.entry(payload.segment).or_default().push(payload);
        }
        while state.count > DEAD_PAYLOADS_MAX
            && let Some(most) = state.dead.iter().max_by_key(|(_, dead)| dead.len()).map(|(segment, _)| *segment)
        {
            state.remove(most);
            state.forgotten.insert(most);
        }
        drop(state);
        self.added.notify_one();
    }

    /// Segments have dead payloads that nobody remembers the places of.
    pub fn forget_places(&self, segments: impl IntoIterator<Item = u32>) {
        self.state.lock().forgotten.extend(segments);
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    /// Takes up to `count` payloads while more than `keep` bytes wait, of the segment with most `life` first: it is the
    /// least likely to die as a whole soon.
    pub fn take(&self, keep: u64, count: usize, life: impl Fn(u32) -> u64) -> Vec<DeadPayload> {
        let mut state = self.state.lock();
        if state.bytes <= keep {
            return Vec::new();
        }
        let Some(segment) = state.dead.keys().copied().max_by_key(|segment| life(*segment)) else { return Vec::new() };
        let mut payloads = state.remove(segment);
        let rest = payloads.split_off(payloads.len().min(count));
        if !rest.is_empty() {
            state.count += rest.len();
            state.bytes += rest.iter().map(|payload| payload.len).sum::<u64>();
            state.dead.insert(segment, rest);
        }
        payloads
    }

    /// Segments whose dead payloads have to be looked up.
    pub fn forgotten(&self) -> BTreeSet<u32> {
        self.state.lock().forgotten.clone()
    }

    /// Nothing in these segments waits any more: they are gone, or somebody looks through them.
    pub fn drop_segments(&self, segments: &[u32]) {
        let mut state = self.state.lock();
        for segment in segments {
            state.remove(*segment);
            state.forgotten.remove(segment);
        }
    }

    /// Waits until something is added, at most so long; false once stopped.
    pub fn wait(&self, at_most: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.stopped {
            self.added.wait_for(&mut state, at_most);
        }
        !state.stopped
    }

    /// Waits so long; false once stopped.
    pub fn pause(&self, pause: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.stopped {
            self.ended.wait_for(&mut state, pause);
        }
        !state.stopped
    }

    /// Ends all waiting.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.added.notify_all();
        self.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn payload(segment: u32, page: u64) -> DeadPayload {
        DeadPayload { segment, offset: page * 4096, len: 4096 }
    }

    #[test]
    fn the_liveliest_segment_gets_its_holes_first_and_only_when_there_is_too_much() {
        let reclaim = Reclaim::default();
        reclaim.add(vec![payload(1, 1), payload(2, 1), payload(1, 3)]);
        assert_eq!(reclaim.bytes(), 3 * 4096);
        let life = |segment| if segment == 1 { 10 } else { 5 };
        assert_eq!(reclaim.take(3 * 4096, 9, life), []);
        assert_eq!(reclaim.take(4096, 1, life), [payload(1, 1)]);
        assert_eq!(reclaim.take(4096, 9, life), [payload(1, 3)]);
        assert_eq!(reclaim.take(4096, 9, life), []);
        reclaim.drop_segments(&[2]);
        assert_eq!((reclaim.bytes(), reclaim.take(0, 9, life)), (0, vec![]));
    }

    #[test]
    fn what_is_too_many_is_forgotten_but_not_its_segment() {
        let reclaim = Reclaim::default();
        reclaim.add((0..DEAD_PAYLOADS_MAX as u64 + 2).map(|n| payload(1 + (n > 1) as u32, n)).collect());
        assert_eq!(reclaim.bytes(), 2 * 4096);
        assert_eq!(reclaim.forgotten(), [2].into());
        reclaim.drop_segments(&[2]);
        assert_eq!(reclaim.forgotten(), [].into());
    }
}
