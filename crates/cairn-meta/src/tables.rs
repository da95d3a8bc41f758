//! Nodes and stores as rows, taken over into memory: at open, and whenever another server changed them.

use crate::cluster::has_failed;
use crate::error::Op;
use crate::keys::{self, counter};
use crate::kv::Durability;
use crate::limits::STORES_MAX;
use crate::meta::{Meta, transact};
use crate::rollback;
use crate::rows;
use crate::state::{Cluster, NodeLive, NodeState, StoreLive};
use crate::tx::Tx;
use cairn_proto::status::Status;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The tables in one snapshot.
struct Tables {
    version: u64,
    rollback: u64,
    nodes: Vec<(keys::Node, rows::Node)>,
    stores: Vec<(keys::Store, rows::Store)>,
    beats: Vec<(keys::StoreBeat, rows::StoreBeat)>,
}

impl Meta {
    /// Takes the rows of nodes and stores over, with the version of the map that they belong to. What this server heard
    /// itself stays, except of a node that registered with another one since.
    pub(crate) async fn reload_tables(&self) -> Result<(), Status> {
        let tables = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            Ok(Tables {
                version: tx.get(&keys::Counter { counter: counter::MAP_VERSION }).await?.map_or(0, |row| row.next),
                rollback: rollback::load(tx).await?,
                nodes: tx.table(STORES_MAX).await?,
                stores: tx.table(STORES_MAX).await?,
                beats: tx.table(STORES_MAX).await?,
            })
        })?;
        if tables.rollback > self.inner.rollback.swap(tables.rollback, Ordering::AcqRel) {
            // Another server met a store that knows writers which this one might still give out.
            self.raise_writers_above(tables.rollback).await?;
        }
        self.inner.cluster.lock().take_tables(&tables, self.now());
        self.inner.map_loaded.store(tables.version, Ordering::Release);
        self.inner.map_version.fetch_max(tables.version, Ordering::AcqRel);
        Ok(())
    }

    /// Makes the version of the map grow after a change that stands in memory alone: what this server heard.
    pub(crate) async fn touch_map(&self) -> Result<(), Status> {
        self.inner.map_touched.store(false, Ordering::Release);
        let touched = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.effects.map_changed = true;
            Ok(())
        });
        if touched.is_err() {
            // With the next look around.
            self.inner.map_touched.store(true, Ordering::Release);
        }
        touched
    }

    /// As [`Meta::touch_map`], later if it fails now.
    pub(crate) async fn touch_map_soon(&self) {
        if let Err(status) = self.touch_map().await {
            tracing::debug!(%status, "the version of the cluster map grows later");
        }
    }

    /// Whether metadata was rolled back, as of this transaction: other servers may know better than memory.
    pub(crate) async fn is_rolled_back_in(&self, tx: &mut Tx) -> Op<bool> {
        Ok(rollback::load(tx).await? != 0 || self.is_rolled_back())
    }
}

impl Cluster {
    fn take_tables(&mut self, tables: &Tables, now: Duration) {
        let mut registered: BTreeSet<u32> = BTreeSet::new();
        for (key, row) in &tables.nodes {
            let state = if row.replaced { NodeState::Replaced } else { NodeState::Up };
            let node = self.nodes.entry(key.node).or_insert_with(|| NodeLive {
                row: rows::Node { registered: 0, ..row.clone() },
                last_seen: now,
                heard: false,
                state,
            });
            if node.row.registered != row.registered {
                registered.insert(key.node);
            }
            if row.replaced != node.row.replaced {
                node.state = state;
            }
            node.row = row.clone();
        }
        let beats: BTreeMap<u32, &rows::StoreBeat> = tables.beats.iter().map(|(key, beat)| (key.store, beat)).collect();
        for (key, row) in &tables.stores {
            let fresh = !self.stores.contains_key(&key.store);
            let store = self.stores.entry(key.store).or_insert_with(|| StoreLive::new(row.clone()));
            if store.row != *row {
                self.handed_over.remove(&key.store);
                store.row = row.clone();
            }
            // A node that registered began anew: what it said before is void, its row says what it said then.
            if (fresh || registered.contains(&row.node))
                && let Some(beat) = beats.get(&key.store)
            {
                store.note_failed(has_failed(&beat.trouble), now);
                store.beat = (*beat).clone();
                store.dirty = false;
            }
        }
    }
}
