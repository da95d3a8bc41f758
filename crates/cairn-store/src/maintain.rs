//! Maintenance: what gives space back, a little at a time, beside the writer.
//!
//! Three jobs. Dead payloads are given back once there are more than may be kept for reuse. Mostly empty segments are
//! compacted (`compact.rs`). Empty segments are removed by a checkpoint, which is written early when that is worth it.
//! Between two steps it pauses for as long as the step's bytes are worth at the rate of the options, and longer while
//! clients wait.

use crate::append::Appender;
use crate::catalog::{Catalog, DeadPayload};
use crate::checkpoint;
use crate::compact::{Compaction, Progress};
use crate::counters::Counters;
use crate::format::record::{Record, pad, put_header_len};
use crate::limits::{MAINTENANCE_STEP_BYTES, MAINTENANCE_STEP_RECORDS, MAINTENANCE_YIELD, PAGE_LEN, PUNCH_COST};
use crate::scan::{Found, Pages, Scan};
use crate::store::Shared;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How often the state of the store is looked at when nothing is to do.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What is done now, and what was tried.
pub struct Maintainer {
    shared: Arc<Shared>,
    appender: Arc<Mutex<Appender>>,
    job: Option<Job>,
    /// Segments that compaction could not empty, as they were then: not tried again before they have changed.
    tried: BTreeMap<u32, Shape>,
    /// Of those, the ones for which there was no room, or which could not be read then.
    blocked: BTreeSet<u32>,
    /// Room when the last of them was blocked: with more they are tried again.
    blocked_free: u64,
}

/// What of a segment decides whether compaction can empty it: its blocks, and the segments it waits for.
type Shape = (u64, usize);

enum Job {
    Compact(Compaction),
    LookUp(LookUp),
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// Write a checkpoint, after which empty segments are removed.
    Checkpoint,
    Compact(u32),
    /// Find the dead payloads of a segment.
    LookUp(u32),
    Rest,
}

/// The maintenance thread.
pub fn run(shared: &Shared, maintainer: &Mutex<Maintainer>) {
    loop {
        let cost = maintainer.lock().step();
        let goes_on = match cost {
            None => shared.reclaim.wait(LOOK_INTERVAL),
            Some(cost) => {
                let clients_wait = shared.gate.waiting().0 > 0;
                shared.reclaim.pause(pause(cost, shared.options.maintenance_rate, clients_wait))
            }
        };
        if !goes_on {
            return;
        }
    }
}

/// How long to rest after a step worth `cost` bytes.
fn pause(cost: u64, rate: u64, clients_wait: bool) -> Duration {
    let micros = cost.saturating_mul(1_000_000) / rate.max(1);
    Duration::from_micros(micros) * if clients_wait { MAINTENANCE_YIELD } else { 1 }
}

impl Maintainer {
    pub fn new(shared: Arc<Shared>, appender: Arc<Mutex<Appender>>) -> Self {
        Self { shared, appender, job: None, tried: BTreeMap::new(), blocked: BTreeSet::new(), blocked_free: 0 }
    }

    /// Does a bounded piece of work. Returns what it cost in bytes; `None` when there is nothing to do now.
    pub fn step(&mut self) -> Option<u64> {
        if self.shared.check_poison().is_err() {
            self.job = None;
            return None;
        }
        let keep = self.shared.space().keep;
        self.shared.segments.give_back(keep);
        let dead = self.take_dead(keep);
        if !dead.is_empty() {
            let cost = self.punch(&dead);
            // On a tight disk somebody waits for the space.
            return Some(if keep == 0 && self.shared.options.recycle_bytes != Some(0) { 0 } else { cost });
        }
        match self.job.take() {
            Some(Job::Compact(compaction)) => self.compact(compaction),
            Some(Job::LookUp(look_up)) => Some(self.look_up(look_up)),
            None => self.begin(keep),
        }
    }

    /// Gives back all that may not be kept, at once.
    pub fn give_back(&mut self) {
        let keep = self.shared.space().keep;
        self.shared.segments.give_back(keep);
        loop {
            let dead = self.take_dead(keep);
            if dead.is_empty() {
                return;
            }
            self.punch(&dead);
        }
    }

    fn take_dead(&self, keep: u64) -> Vec<DeadPayload> {
        let catalog = self.shared.catalog.read();
        let life = |segment: u32| catalog.segments.get(&segment).map_or(0, |info| info.live);
        self.shared.reclaim.take(self.keep_dead(keep), MAINTENANCE_STEP_RECORDS, life)
    }

    /// Whole files come first: only they save a new segment its new space.
    fn keep_dead(&self, keep: u64) -> u64 {
        keep.saturating_sub(self.shared.segments.recycled.bytes())
    }

    fn punch(&self, dead: &[DeadPayload]) -> u64 {
        for payload in dead {
            if self.punch_one(payload) {
                self.shared.catalog.write().gave_back(payload.segment, payload.len);
            }
        }
        dead.len() as u64 * PUNCH_COST
    }

    fn punch_one(&self, payload: &DeadPayload) -> bool {
        let punched =
            self.shared.segments.get(payload.segment).and_then(|file| file.punch(payload.offset, payload.len));
        match punched {
            Ok(()) => Counters::add(&self.shared.counters.punched_bytes, payload.len as usize),
            // Gone with its segment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
            // It stays taken, which harms nothing.
            Err(error) => {
                tracing::debug!(store = %self.shared.uuid, segment = payload.segment, %error, "dead payload not given back");
                return false;
            }
        }
        true
    }

    fn begin(&mut self, keep: u64) -> Option<u64> {
        if !self.blocked.is_empty() && self.shared.space().free > self.blocked_free {
            for generation in std::mem::take(&mut self.blocked) {
                self.tried.remove(&generation);
            }
        }
        let active = self.appender.lock().generation();
        let plan = {
            let catalog = self.shared.catalog.read();
            self.tried.retain(|generation, shape| {
                catalog.segments.get(generation).is_some_and(|_| shape_of(&catalog, *generation) == *shape)
            });
            let worth = self.shared.options.segment_len().max(2 * checkpoint::len_of(catalog.index.len()));
            self.plan(&catalog, active, keep, worth)
        };
        match plan {
            Plan::Rest => None,
            Plan::Checkpoint => self.checkpoint(),
            Plan::Compact(generation) => {
                let begun = Compaction::begin(&self.shared, generation);
                self.job = Some(Job::Compact(begun));
                Some(0)
            }
            Plan::LookUp(generation) => {
                self.shared.reclaim.drop_segments(&[generation]);
                // A reader of a block that was moved must not see it turn to zeros.
                if self.shared.segments.is_held(generation) {
                    self.shared.reclaim.forget_places([generation]);
                    return None;
                }
                self.job = Some(Job::LookUp(LookUp::new(generation)));
                Some(0)
            }
        }
    }

    fn plan(&self, catalog: &Catalog, active: u32, keep: u64, worth: u64) -> Plan {
        let removable: u64 =
            catalog.removable(active).iter().map(|generation| catalog.segments[generation].occupied()).sum();
        if removable >= worth || (removable > 0 && keep == 0) {
            return Plan::Checkpoint;
        }
        if let Some(generation) = self.candidate(catalog, active) {
            return Plan::Compact(generation);
        }
        let forgotten = self.shared.reclaim.forgotten();
        let sealed = || forgotten.iter().filter(|generation| **generation < active);
        let dead: u64 =
            sealed().filter_map(|generation| catalog.segments.get(generation)).map(|info| info.dead()).sum();
        match sealed().next() {
            Some(generation) if dead > self.keep_dead(keep) => Plan::LookUp(*generation),
            _ => Plan::Rest,
        }
    }

    /// The sealed segment whose compaction frees most.
    fn candidate(&self, catalog: &Catalog, active: u32) -> Option<u32> {
        let percent = u64::from(self.shared.options.compact_below_percent);
        let sealed = catalog.segments.range(..active);
        sealed
            .filter(|(generation, info)| {
                let is_empty = info.blocks == 0 && !catalog.is_needed(info);
                !is_empty && info.live * 100 < info.occupied() * percent && !self.tried.contains_key(generation)
            })
            .max_by_key(|(_, info)| info.dead())
            .map(|(generation, _)| *generation)
    }

    fn compact(&mut self, mut compaction: Compaction) -> Option<u64> {
        match compaction.step(&self.shared, &self.appender) {
            Progress::More(cost) => {
                self.job = Some(Job::Compact(compaction));
                Some(cost)
            }
            Progress::Done(cost) => {
                let generation = compaction.generation();
                let catalog = self.shared.catalog.read();
                let shape = shape_of(&catalog, generation);
                if shape != (0, 0) {
                    self.tried.insert(generation, shape);
                    // It stays, but without its dead payloads.
                    self.shared.reclaim.forget_places([generation]);
                } else {
                    Counters::add(&self.shared.counters.compacted_segments, 1);
                }
                Some(cost)
            }
            Progress::Blocked => {
                let generation = compaction.generation();
                let shape = shape_of(&self.shared.catalog.read(), generation);
                self.tried.insert(generation, shape);
                self.blocked.insert(generation);
                self.blocked_free = self.shared.space().free;
                // Another one may be smaller.
                Some(MAINTENANCE_STEP_BYTES)
            }
        }
    }

    fn checkpoint(&self) -> Option<u64> {
        let job = self.appender.lock().checkpoint();
        let cost = checkpoint::len_of(job.catalog.index.len());
        match checkpoint::write(&self.shared, &job) {
            Ok(()) => Some(cost),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(store = %self.shared.uuid, error, "checkpoint not written");
                None
            }
        }
    }

    fn look_up(&mut self, mut look_up: LookUp) -> u64 {
        let generation = look_up.generation;
        match look_up.step(&self.shared) {
            Ok((dead, more)) => {
                // A record is dead from the moment its end is written; its payload only when that is durable.
                let (active, number) = self.appender.lock().end();
                if self.shared.sync_up_to(&active, number).is_err() {
                    return 0;
                }
                // Some of them may have been given back, and counted, before: the sum is set at the end.
                for payload in &dead {
                    self.punch_one(payload);
                }
                let cost = dead.len() as u64 * PUNCH_COST;
                if more {
                    self.job = Some(Job::LookUp(look_up));
                } else {
                    let mut catalog = self.shared.catalog.write();
                    catalog.segments.change(generation, |row| row.punched = look_up.dead.min(row.len));
                }
                cost + MAINTENANCE_STEP_RECORDS as u64 * PAGE_LEN
            }
            Err(error) => {
                tracing::debug!(store = %self.shared.uuid, generation, %error, "segment not looked through");
                0
            }
        }
    }
}

fn shape_of(catalog: &Catalog, generation: u32) -> Shape {
    catalog.segments.get(&generation).map_or((0, 0), |info| {
        let needed = info.needs.iter().filter(|needed| catalog.segments.contains_key(needed)).count();
        (info.blocks, needed)
    })
}

/// Finding the dead payloads of a sealed segment by reading its headers.
struct LookUp {
    generation: u32,
    offset: u64,
    last_number: u64,
    pages: Pages,
    /// Bytes of dead payloads so far.
    dead: u64,
}

impl LookUp {
    fn new(generation: u32) -> Self {
        Self { generation, offset: PAGE_LEN, last_number: 0, pages: Pages::default(), dead: 0 }
    }

    /// Dead payloads among the next records, and whether there are more records.
    fn step(&mut self, shared: &Shared) -> io::Result<(Vec<DeadPayload>, bool)> {
        let file = shared.segments.get(self.generation)?;
        let mut scan = Scan {
            file: &*file,
            len: file.len()?,
            store: shared.uuid,
            segment: self.generation,
            offset: self.offset,
            last_number: self.last_number,
            verify: false,
            pages: std::mem::take(&mut self.pages),
        };
        let found: Vec<Found> = scan.by_ref().take(MAINTENANCE_STEP_RECORDS).collect();
        (self.offset, self.last_number) = (scan.offset, scan.last_number);
        let more = self.offset < scan.len;
        self.pages = scan.pages;
        let catalog = shared.catalog.read();
        let dead = found.iter().filter_map(|found| {
            let Found::Record(Record::Put(stamp, put), _) = found else { return None };
            let lives = catalog.index.get(put.key).is_some_and(|entry| {
                (entry.segment, u64::from(entry.page) * PAGE_LEN) == (stamp.place.segment, stamp.place.offset)
            });
            let payload = DeadPayload {
                segment: self.generation,
                offset: stamp.place.offset + put_header_len(put.stored_len),
                len: pad(u64::from(put.stored_len)),
            };
            (!lives && payload.len > 0).then_some(payload)
        });
        let dead: Vec<DeadPayload> = dead.collect();
        self.dead += dead.iter().map(|payload| payload.len).sum::<u64>();
        Ok((dead, more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_what_the_bytes_are_worth_and_longer_while_clients_wait() {
        assert_eq!(pause(1 << 20, 64 << 20, false), Duration::from_micros(15_625));
        assert_eq!(pause(1 << 20, 64 << 20, true), Duration::from_micros(62_500));
        assert_eq!(pause(0, 64 << 20, true), Duration::ZERO);
        assert!(pause(u64::MAX, 0, true) > Duration::from_secs(3600));
    }
}
