//! What the duties of a node have done and have left, for whoever watches.

use crate::limits::JOINS_PER_BEAT;
use cairn_proto::{PgId, StoreId, pb};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A duty that works off a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Duty {
    /// Degraded rows of our stores.
    CatchUp,
    /// Bad and missing blocks.
    Heal,
    /// Groups in which a store is not complete yet.
    Join,
    /// Groups that are held against their other members after a crash.
    Audit,
}

impl Duty {
    pub(crate) const ALL: [Self; 4] = [Self::CatchUp, Self::Heal, Self::Join, Self::Audit];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CatchUp => "catch_up",
            Self::Heal => "heal",
            Self::Join => "join",
            Self::Audit => "audit",
        }
    }
}

/// Counters of the duties of one node.
#[derive(Default)]
pub(crate) struct Progress {
    left: [AtomicU64; Duty::ALL.len()],
    pub(crate) copied_blocks: AtomicU64,
    pub(crate) copied_bytes: AtomicU64,
    pub(crate) deleted_blocks: AtomicU64,
    /// Copies deleted because their group is complete without the store.
    pub(crate) purged_blocks: AtomicU64,
    pub(crate) compared_groups: AtomicU64,
    pub(crate) failed_beats: AtomicU64,
    /// Groups that a store is joining, with the bytes copied so far and, once known, those that are to be.
    joins: Mutex<BTreeMap<(StoreId, PgId), (u64, u64)>>,
    last_beat: Mutex<Option<Instant>>,
}

impl Progress {
    /// After a look at its list: so much is left.
    pub(crate) fn set_left(&self, duty: Duty, left: usize) {
        self.left[duty as usize].store(left as u64, Ordering::Relaxed);
    }

    pub(crate) fn left(&self, duty: Duty) -> u64 {
        self.left[duty as usize].load(Ordering::Relaxed)
    }

    /// A block came from a peer and was stored.
    pub(crate) fn copied(&self, bytes: usize) {
        self.copied_blocks.fetch_add(1, Ordering::Relaxed);
        self.copied_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A store has looked at so many bytes of a group it joins, of so many.
    pub(crate) fn joining(&self, store: StoreId, pg: PgId, done: u64, total: u64) {
        self.joins.lock().insert((store, pg), (done, total));
    }

    /// Only these are joined.
    pub(crate) fn keep_joins(&self, keep: impl Fn(StoreId, PgId) -> bool) {
        self.joins.lock().retain(|(store, pg), _| keep(*store, *pg));
    }

    /// How far a store is with the groups it joins, for a heartbeat.
    pub(crate) fn joins(&self, store: StoreId) -> Vec<pb::JoinProgress> {
        let joins = self.joins.lock();
        let of_store = joins.range((store, PgId(0))..=(store, PgId(u32::MAX)));
        let progress = of_store.map(|((_, pg), (done, total))| pb::JoinProgress {
            pg: pg.0,
            bytes_done: *done,
            bytes_total: *total,
        });
        progress.take(JOINS_PER_BEAT).collect()
    }

    /// Metadata answered a heartbeat or a registration.
    pub(crate) fn beat(&self, now: Instant) {
        *self.last_beat.lock() = Some(now);
    }

    /// Time since metadata answered last; `None` when it never did.
    pub(crate) fn silent_for(&self, now: Instant) -> Option<Duration> {
        self.last_beat.lock().map(|last| now.saturating_duration_since(last))
    }
}
