//! The engine over a map in memory, for tests and for simulation: the same validation and group commit as the embedded
//! one, no thread, no disk. Commits happen inside the call, one at a time, so that a single-threaded run is repeatable.

use super::group::{Backend, Group, Job, Published, View, ViewSnapshot, Writes};
use super::occ::{OccTxn, Submit};
use super::ship::SinkPlace;
use super::{CommitOutcome, CommitSink, Durability, Engine, EngineError, KeyRange, Limits, Order, Snapshot, Txn};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

const LIMITS: Limits = Limits { writes: 256 * 1024, bytes: 32 * 1024 * 1024 };

/// Values of one key, oldest first, each with the commit that wrote it.
type Versions = Vec<(u64, Option<Bytes>)>;

#[derive(Default)]
struct State {
    rows: BTreeMap<Bytes, Versions>,
    last: u64,
    /// How many views look at each commit.
    views: BTreeMap<u64, usize>,
}

/// A map that keeps as many versions of a row as there are views that differ in it.
#[derive(Default)]
struct MapBackend {
    state: Arc<RwLock<State>>,
}

struct MapView {
    state: Arc<RwLock<State>>,
    at: u64,
}

fn seen_at(versions: &Versions, at: u64) -> Option<Bytes> {
    versions.iter().rev().find(|(seq, _)| *seq <= at).and_then(|(_, value)| value.clone())
}

impl View for MapView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.state.read().rows.get(key).and_then(|versions| seen_at(versions, self.at)))
    }

    fn scan(&self, range: &KeyRange, limit: usize, order: Order) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        let state = self.state.read();
        let bounds = (Bound::Included(range.start.as_slice()), Bound::Excluded(range.end.as_slice()));
        let rows = state.rows.range::<[u8], _>(bounds);
        let live = |(key, versions): (&Bytes, &Versions)| Some((key.clone(), seen_at(versions, self.at)?));
        Ok(match order {
            Order::Forward => rows.filter_map(live).take(limit).collect(),
            Order::Reverse => rows.rev().filter_map(live).take(limit).collect(),
        })
    }
}

impl Drop for MapView {
    fn drop(&mut self) {
        let mut state = self.state.write();
        if let Some(count) = state.views.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                state.views.remove(&self.at);
            }
        }
    }
}

impl Backend for MapBackend {
    type View = MapView;

    fn view(&self) -> MapView {
        let mut state = self.state.write();
        let at = state.last;
        *state.views.entry(at).or_default() += 1;
        MapView { state: self.state.clone(), at }
    }

    fn apply(&self, writes: Writes, _durability: Durability) -> Result<(), EngineError> {
        let mut state = self.state.write();
        state.last += 1;
        let last = state.last;
        let oldest = state.views.keys().next().copied().unwrap_or(last);
        for (key, value) in writes {
            let versions = state.rows.entry(key.clone().into()).or_default();
            versions.push((last, value.map(Bytes::from)));
            // The newest version that the oldest view may see hides all before it.
            let hidden = versions.iter().rposition(|(seq, _)| *seq <= oldest).unwrap_or(0);
            versions.drain(..hidden);
            if let [(seq, None)] = versions.as_slice()
                && *seq <= oldest
            {
                state.rows.remove(key.as_slice());
            }
        }
        Ok(())
    }
}

struct Inline {
    group: Mutex<Group<MapBackend>>,
}

#[async_trait]
impl Submit for Inline {
    async fn submit(&self, job: Job, _bytes: usize) -> Result<CommitOutcome, EngineError> {
        let (outcomes, applied) = self.group.lock().commit(vec![job]);
        applied?;
        Ok(outcomes.into_iter().next().expect("one outcome for one job"))
    }
}

/// An engine in memory. Clones share the data; it is gone with the last of them.
#[derive(Clone)]
pub struct MapEngine {
    inline: Arc<Inline>,
    published: Arc<RwLock<Arc<Published<MapView>>>>,
    sink: SinkPlace,
}

impl MapEngine {
    /// An empty engine.
    pub fn new() -> Self {
        let group = Group::new(Arc::new(MapBackend::default()));
        let (published, sink) = (group.published(), group.sink());
        Self { sink, inline: Arc::new(Inline { group: Mutex::new(group) }), published }
    }
}

impl Default for MapEngine {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Engine for MapEngine {
    async fn begin(&self) -> Result<Box<dyn Txn>, EngineError> {
        let base = self.published.read().clone();
        Ok(Box::new(OccTxn::new(base, self.inline.clone(), LIMITS)))
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, EngineError> {
        Ok(Box::new(ViewSnapshot(self.published.read().clone())))
    }

    fn ship_to(&self, sink: Arc<dyn CommitSink>) -> bool {
        self.sink.set(sink).is_ok()
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn name(&self) -> &'static str {
        "map"
    }
}
