//! Storage nodes: registered, heard of, mapped; and the cluster's status.

use crate::error::{Op, fail};
use crate::keys::{self, counter};
use crate::kv::{Durability, Order};
use crate::limits::{
    BEAT_COUNT_MAX, HEARTBEAT_MS, JOINS_PER_BEAT_MAX, JUDGE_EVERY, LABEL_LEN_MAX, STATUS_COUNT_MAX, STORES_MAX,
    STORES_PER_NODE_MAX,
};
use crate::meta::{Meta, transact};
use crate::rows;
use crate::state::{NodeLive, NodeState, StoreLive, no_beat};
use crate::tx::Tx;
use crate::upgrade::NAMESPACE_VERSION;
use crate::usage::GroupUsage;
use crate::write::pg_info;
use bytes::Bytes;
use cairn_proto::limits::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::placement::TROUBLE_FULL;
use cairn_proto::status::{Code, Status};
use futures_util::future::BoxFuture;
use keys::Key;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn uuid_of(bytes: &Bytes, what: &str) -> Result<[u8; 16], Status> {
    bytes[..].try_into().map_err(|_| Status::new(Code::Invalid, format!("{what} has {} bytes, not 16", bytes.len())))
}

/// At most [`LABEL_LEN_MAX`] bytes of a text that a node says.
fn short(text: &str) -> String {
    let cut = (0..=LABEL_LEN_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..cut].to_owned()
}

/// What a report says of a store, over what was known of it: of a store that is not open it says only why.
fn beat_row(beat: &pb::StoreBeat, known: &rows::StoreBeat) -> rows::StoreBeat {
    let trouble = short(&beat.trouble);
    if !is_there(beat) {
        let trouble = if trouble.is_empty() { "it is not open".to_owned() } else { trouble };
        return rows::StoreBeat { trouble, ..known.clone() };
    }
    rows::StoreBeat {
        capacity_bytes: beat.capacity_bytes,
        used_bytes: beat.used_bytes,
        blocks: beat.blocks,
        quarantined: beat.quarantined,
        trouble,
        durable_records: beat.durable_records,
    }
}

/// False for a store that its node could not open.
fn is_there(beat: &pb::StoreBeat) -> bool {
    beat.incarnation != 0
}

/// True for a store that does not serve, and not only because it is full.
pub(crate) fn has_failed(trouble: &str) -> bool {
    !trouble.is_empty() && trouble != TROUBLE_FULL
}

/// Takes a report over; true when what others are told of the store has changed.
fn take_store_beat(store: &mut StoreLive, beat: &pb::StoreBeat, now: Duration) -> bool {
    let next = beat_row(beat, &store.beat);
    let alarm = short(&beat.alarm);
    let changed = next.trouble != store.beat.trouble || alarm != store.alarm;
    store.note_failed(has_failed(&next.trouble), now);
    store.alarm = alarm;
    store.dirty |= next != store.beat;
    store.beat = next;
    store.scrub = beat.scrub;
    store.joins = beat.joins.iter().take(JOINS_PER_BEAT_MAX).copied().collect();
    if is_there(beat) {
        store.copying.note(now, beat.copied_bytes);
    }
    changed
}

/// What became of a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Beat {
    /// Its node or one of its stores is not known so.
    Unknown,
    Taken,
    /// And what others are told of the cluster has changed with it.
    Changed,
}

/// What a registration made of the node and store tables.
struct Registered {
    node: u32,
    store_ids: Vec<u32>,
    /// Rows that are new or changed.
    nodes: Vec<(u32, rows::Node)>,
    stores: Vec<(u32, rows::Store)>,
}

/// The tables as a registration changes them.
struct Tables {
    nodes: Vec<(keys::Node, rows::Node)>,
    stores: Vec<(keys::Store, rows::Store)>,
}

impl Meta {
    pub(crate) async fn register_node(&self, ask: &pb::RegisterNode) -> Result<Reply, Status> {
        if !ask.cluster_id.is_empty() && ask.cluster_id[..] != self.inner.cluster_id.0 {
            let message = format!("this is cluster {}; the node belongs to another", self.inner.cluster_id);
            return Err(Status::new(Code::WrongCluster, message));
        }
        self.check_node(&format!("at {}", ask.addr), &ask.software, ask.newest_version)?;
        let labels = [&ask.addr, &ask.zone, &ask.rack, &ask.host];
        if labels.iter().any(|label| label.len() > LABEL_LEN_MAX) || ask.addr.is_empty() {
            let message = format!("address and labels have at most {LABEL_LEN_MAX} bytes, and there is an address");
            return Err(Status::new(Code::Invalid, message));
        }
        if ask.stores.len() > STORES_PER_NODE_MAX {
            return Err(Status::new(Code::Invalid, format!("at most {STORES_PER_NODE_MAX} stores a node")));
        }
        // Before anything else: whoever asks for a writer meanwhile gets none that a store has seen.
        self.raise_writers(&ask.stores).await?;
        if !self.inner.options.alone {
            // What this server remembers may be from before a registration with another one.
            self.reload_tables().await?;
        }
        let heard = self.records_heard();
        let done = transact!(self, Durability::Durable, async |tx: &mut Tx| register(tx, ask, &heard).await)?;
        self.take_registration(ask, &done);
        self.note_software(done.node, &ask.software, ask.newest_version);
        // Before the node goes on: what its store acknowledged and lost is not to be counted on.
        for (store, _) in done.stores.iter().filter(|(_, row)| row.lost_past) {
            tracing::warn!(store, "a store has lost blocks that it had acknowledged: it completes its groups anew");
            self.settle_lost_past(*store).await?;
        }
        Ok(Reply::RegisterNode(pb::RegisterNodeReply {
            node_id: done.node,
            cluster_id: Bytes::copy_from_slice(&self.inner.cluster_id.0),
            store_ids: done.store_ids,
            heartbeat_ms: HEARTBEAT_MS,
        }))
    }

    /// Durable records that this server heard of, by store: newer than the rows by up to a second.
    fn records_heard(&self) -> BTreeMap<u32, u64> {
        let cluster = self.inner.cluster.lock();
        cluster.stores.iter().map(|(id, store)| (*id, store.beat.durable_records)).collect()
    }

    async fn raise_writers(&self, stores: &[pb::StoreBeat]) -> Result<(), Status> {
        let highest = stores.iter().map(|store| store.highest_writer).max().unwrap_or(0);
        if highest == 0 {
            return Ok(());
        }
        self.note_highest_writer(highest).await?;
        self.raise_writers_above(highest).await
    }

    fn take_registration(&self, ask: &pb::RegisterNode, done: &Registered) {
        let now = self.now();
        let mut cluster = self.inner.cluster.lock();
        for (id, row) in &done.nodes {
            let (last_seen, heard) = match cluster.nodes.get(id) {
                Some(live) if *id != done.node => (live.last_seen, live.heard),
                _ => (now, true),
            };
            let state = if row.replaced { NodeState::Replaced } else { NodeState::Up };
            cluster.nodes.insert(*id, NodeLive { row: row.clone(), last_seen, heard, state });
        }
        for (id, row) in &done.stores {
            cluster.handed_over.remove(id);
            match cluster.stores.get_mut(id) {
                Some(live) => live.row = row.clone(),
                None => {
                    cluster.stores.insert(*id, StoreLive::new(row.clone()));
                }
            }
        }
        for (id, beat) in done.store_ids.iter().zip(&ask.stores) {
            if let Some(store) = cluster.stores.get_mut(id) {
                take_store_beat(store, beat, now);
                store.dirty = true;
                if store.row.lost_past {
                    store.past_alarm = format!(
                        "store {id} lost blocks that it had acknowledged, and copies them from other members: find out why"
                    );
                }
            }
        }
        let missing = cluster.stores.iter_mut().filter(|(id, store)| {
            store.row.node == done.node && store.row.replaced_by == 0 && !done.store_ids.contains(id)
        });
        for (_, store) in missing {
            store.beat.trouble = NOT_NAMED.to_owned();
            store.note_failed(true, now);
            store.dirty = true;
        }
        cluster.judge(now);
    }

    pub(crate) async fn heartbeat(&self, ask: &pb::Heartbeat) -> Result<Reply, Status> {
        // One that was away while an upgrade was finalized is to know why it is not taken for up.
        self.check_node(&format!("number {}", ask.node_id), &ask.software, ask.newest_version)?;
        let mut taken = self.take_beat(ask);
        if taken == Beat::Unknown {
            // It may have registered with another server.
            self.reload_tables().await?;
            taken = self.take_beat(ask);
        }
        if taken == Beat::Changed {
            self.touch_map_soon().await;
        }
        if taken == Beat::Unknown {
            let version = self.inner.map_version.load(Ordering::Acquire);
            let reply = pb::HeartbeatReply { map_version: version, register_again: true, ..Default::default() };
            return Ok(Reply::Heartbeat(reply));
        }
        self.note_software(ask.node_id, &ask.software, ask.newest_version);
        self.raise_writers(&ask.stores).await?;
        if ask.brief {
            let map_version = self.inner.map_version.load(Ordering::Acquire);
            let reply = pb::HeartbeatReply { map_version, ..Default::default() };
            return Ok(Reply::Heartbeat(reply));
        }
        let degraded_rows = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let mut rows = 0;
            for store in &ask.stores {
                let range = keys::with_fields::<keys::Degraded>(&[&store.id.to_be_bytes()]);
                rows += tx.count(&range, BEAT_COUNT_MAX).await?;
            }
            Ok(rows)
        })?;
        let map_version = self.inner.map_version.load(Ordering::Acquire);
        Ok(Reply::Heartbeat(pb::HeartbeatReply { map_version, degraded_rows, register_again: false }))
    }

    /// Notes a report.
    fn take_beat(&self, ask: &pb::Heartbeat) -> Beat {
        let now = self.now();
        let mut cluster = self.inner.cluster.lock();
        let known = cluster
            .nodes
            .get(&ask.node_id)
            .is_some_and(|node| !node.row.replaced && node.row.boot_id[..] == ask.boot_id[..]);
        // One that says less than before may have lost its past, which a registration settles.
        let ours = |beat: &pb::StoreBeat| {
            cluster.stores.get(&beat.id).is_some_and(|store| {
                let forgot = is_there(beat) && beat.durable_records < store.beat.durable_records;
                store.row.node == ask.node_id && !forgot
            })
        };
        if !known || !ask.stores.iter().all(ours) {
            return Beat::Unknown;
        }
        let mut changed = false;
        for beat in &ask.stores {
            if let Some(store) = cluster.stores.get_mut(&beat.id) {
                changed |= take_store_beat(store, beat, now);
            }
            for defect in &beat.defects {
                let defect = pb::Defect { node: ask.node_id, store: beat.id, ..defect.clone() };
                cluster.note_defect(defect);
            }
        }
        if let Some(node) = cluster.nodes.get_mut(&ask.node_id) {
            node.last_seen = now;
            changed |= !std::mem::replace(&mut node.heard, true);
        }
        // The duty judges too; here it is done at once where it may matter, and often enough that a duty that takes long
        // is not taken for a process that stood still.
        let away = cluster.nodes.get(&ask.node_id).is_some_and(|node| node.state != NodeState::Up);
        if changed || away || cluster.judged.is_none_or(|judged| now.saturating_sub(judged) >= JUDGE_EVERY) {
            changed |= cluster.judge(now);
        }
        if changed { Beat::Changed } else { Beat::Taken }
    }

    /// Judges nodes by their silence, and stores by how long they have failed: suspect after `suspect_after`, out after
    /// `out_after`, but never more than a third of them or a whole zone at once. Counted by this process's monotonic
    /// clock from when it took over the duties, and anew after it, or the engine, stood still
    /// ([`PAUSE_MIN`](crate::limits::PAUSE_MIN)): call it every second. Every server has its own view of nodes; only the
    /// holder of the duties acts on it. True when a state changed.
    pub fn note_silence(&self) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let changed = self.inner.cluster.lock().judge(self.now());
            if changed {
                self.touch_map_soon().await;
            }
            changed
        })
    }

    fn node_infos(&self) -> Vec<pb::NodeInfo> {
        let cluster = self.inner.cluster.lock();
        let stores_of = |node: u32| {
            let stores = cluster.stores.iter().filter(move |(_, store)| store.row.node == node);
            stores.map(|(id, store)| pb::StoreInfo {
                id: *id,
                uuid: Bytes::copy_from_slice(&store.row.uuid),
                capacity_bytes: store.beat.capacity_bytes,
                used_bytes: store.beat.used_bytes,
                blocks: store.beat.blocks,
                quarantined: store.beat.quarantined,
                trouble: store.beat.trouble.clone(),
                alarm: if store.alarm.is_empty() { store.past_alarm.clone() } else { store.alarm.clone() },
                draining: store.row.draining,
                scrub: store.scrub,
                groups: cluster.survey.held(*id).all,
            })
        };
        let info = |(id, node): (&u32, &NodeLive)| pb::NodeInfo {
            id: *id,
            addr: node.row.addr.clone(),
            zone: node.row.zone.clone(),
            rack: node.row.rack.clone(),
            host: node.row.host.clone(),
            state: node.state as i32,
            stores: stores_of(*id).collect(),
            uuid: Bytes::copy_from_slice(&node.row.uuid),
        };
        cluster.nodes.iter().map(info).collect()
    }

    /// Pages through nodes, then groups: the cursor is the last of them, nodes below 2^32 and groups above.
    pub(crate) async fn cluster_map(&self, ask: &pb::ClusterMap) -> Result<Reply, Status> {
        if ask.known_version > self.inner.map_version.load(Ordering::Acquire) {
            // Another server has told of changes that this one has not seen yet.
            self.reload_tables().await?;
        }
        // The version comes first: a change that comes between is in the rows, and in the next version too.
        let version = self.inner.map_version.load(Ordering::Acquire);
        let mut reply = pb::ClusterMapReply { version, ..Default::default() };
        if ask.known_version == version && ask.cursor == 0 {
            reply.unchanged = true;
            return Ok(Reply::ClusterMap(reply));
        }
        reply.cluster_id = Bytes::copy_from_slice(&self.inner.cluster_id.0);
        let options = &self.inner.options;
        reply.policy =
            Some(pb::Policy { replicas: options.replicas, block_len: options.block_len, relaxed: false, trash_s: 0 });
        reply.metas = self.meta_addrs();
        let mut bytes = reply.encoded_len();
        if ask.cursor < GROUPS_BEGIN {
            for node in self.node_infos() {
                if u64::from(node.id) <= ask.cursor {
                    continue;
                }
                bytes += node.encoded_len() + 4;
                if bytes > PAGE_BYTES_MAX && !reply.nodes.is_empty() {
                    reply.next_cursor = reply.nodes.last().map_or(0, |last| u64::from(last.id));
                    return Ok(Reply::ClusterMap(reply));
                }
                reply.nodes.push(node);
            }
        }
        let after = ask.cursor.max(GROUPS_BEGIN) - GROUPS_BEGIN;
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let mut reply = reply.clone();
            let mut bytes = bytes;
            let mut range = keys::Pg::all();
            range.start = keys::Pg { pg: (after as u32).saturating_add(1) }.encode();
            let groups = tx.scan::<keys::Pg>(&range, PAGE_ROWS_MAX, Order::Forward).await?;
            let found = groups.len();
            for (key, row) in groups {
                let used = self.inner.cluster.lock().pg_bytes.get(&key.pg).map_or(0, GroupUsage::total);
                let info = pg_info(key.pg, &row, used);
                bytes += info.encoded_len() + 4;
                if bytes > PAGE_BYTES_MAX && !(reply.pgs.is_empty() && reply.nodes.is_empty()) {
                    let last = reply.pgs.last().map_or(after, |last| u64::from(last.id));
                    reply.next_cursor = GROUPS_BEGIN + last;
                    return Ok(Reply::ClusterMap(reply));
                }
                reply.pgs.push(info);
            }
            if found == PAGE_ROWS_MAX {
                reply.next_cursor = GROUPS_BEGIN + reply.pgs.last().map_or(after, |last| u64::from(last.id));
            }
            Ok(Reply::ClusterMap(reply))
        })
    }

    pub(crate) async fn cluster_status(&self) -> Result<Reply, Status> {
        let (degraded_runs, garbage_runs, sessions, mass_alarm) =
            transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
                let degraded = tx.count(&keys::Degraded::all(), STATUS_COUNT_MAX).await?;
                let garbage = tx.count(&keys::Garbage::all(), STATUS_COUNT_MAX).await?;
                let sessions = tx.count(&keys::Session::all(), STATUS_COUNT_MAX).await?;
                Ok((degraded, garbage, sessions, crate::mass::alarm(tx).await?))
            })?;
        let tasks = self.task_infos(true).await?;
        let totals = *self.inner.totals.lock();
        let servers = self.inner.servers.lock().infos(self.server(), self.now());
        let cluster = self.inner.cluster.lock();
        let present = |store: &&StoreLive| cluster.nodes.get(&store.row.node).is_some_and(|node| !node.row.replaced);
        let stores = || cluster.stores.values().filter(present);
        let mut reply = pb::ClusterStatusReply {
            cluster_id: Bytes::copy_from_slice(&self.inner.cluster_id.0),
            engine: self.inner.engine.name().into(),
            degraded_runs,
            garbage_runs,
            inodes: totals.inodes(),
            defects: Vec::new(),
            capacity_bytes: stores().map(|store| store.beat.capacity_bytes).sum(),
            used_bytes: stores().map(|store| store.beat.used_bytes).sum(),
            sessions,
            file_bytes: totals.file_bytes(),
            alarms: cluster.alarms(),
            groups: cluster.survey.groups,
            groups_incomplete: cluster.survey.incomplete,
            groups_at_risk: cluster.survey.at_risk,
            tasks,
            servers,
            metalog: Vec::new(),
        };
        reply.alarms.extend(self.rollback_alarm());
        reply.alarms.extend(mass_alarm);
        let mut bytes = reply.encoded_len();
        for defect in &cluster.defects {
            bytes += defect.encoded_len() + 4;
            if bytes > PAGE_BYTES_MAX {
                break;
            }
            reply.defects.push(defect.clone());
        }
        Ok(Reply::ClusterStatus(reply))
    }
}

/// What is said of a store that its node does not name.
const NOT_NAMED: &str = "its node registered without it";

/// Where groups begin among cursors of the cluster map.
const GROUPS_BEGIN: u64 = 1 << 32;

/// Finds or makes the rows of a node and its stores, and settles who takes over from whom.
async fn register(tx: &mut Tx, ask: &pb::RegisterNode, heard: &BTreeMap<u32, u64>) -> Op<Registered> {
    let mut tables = Tables { nodes: tx.table(STORES_MAX).await?, stores: tx.table(STORES_MAX).await? };
    let uuid = uuid_of(&ask.uuid, "the node's uuid")?;
    let known = tables.nodes.iter().find(|(_, other)| other.uuid == uuid);
    let row = rows::Node {
        uuid,
        boot_id: uuid_of(&ask.boot_id, "the boot id")?,
        addr: ask.addr.clone(),
        zone: ask.zone.clone(),
        rack: ask.rack.clone(),
        host: ask.host.clone(),
        replaced: false,
        // The first programs do not read a row that says so; they have one server, which needs no number to know it by.
        registered: match tx.version {
            version if version < NAMESPACE_VERSION => 0,
            _ => known.map_or(0, |(_, row)| row.registered) + 1,
        },
    };
    let node = match known.map(|(key, _)| key.node) {
        Some(node) => node,
        None => tx.next_number(counter::NODE).await? as u32,
    };
    let mut done = Registered { node, store_ids: Vec::new(), nodes: vec![(node, row)], stores: Vec::new() };
    let fresh = name_stores(tx, ask, heard, &mut tables, &mut done).await?;
    hand_over(&tables, &fresh, &mut done);
    miss_stores(tx, &tables, &done).await?;
    for (node, row) in &done.nodes {
        tx.put(&keys::Node { node: *node }, row);
    }
    for (store, row) in &done.stores {
        tx.put(&keys::Store { store: *store }, row);
    }
    tx.effects.map_changed = true;
    Ok(done)
}

/// Stores of the node that it did not name are not there, for whoever reads their reports.
async fn miss_stores(tx: &mut Tx, tables: &Tables, done: &Registered) -> Op<()> {
    let missing = tables
        .stores
        .iter()
        .filter(|(key, row)| row.node == done.node && row.replaced_by == 0 && !done.store_ids.contains(&key.store));
    for (key, _) in missing {
        let key = keys::StoreBeat { store: key.store };
        if let Some(beat) = tx.get_unvalidated(&key).await? {
            tx.put(&key, &rows::StoreBeat { trouble: NOT_NAMED.to_owned(), ..beat });
        }
    }
    Ok(())
}

/// Gives every store its number and notes its report; returns those that were made empty by this node's process and are
/// new here.
async fn name_stores(
    tx: &mut Tx,
    ask: &pb::RegisterNode,
    heard: &BTreeMap<u32, u64>,
    tables: &mut Tables,
    done: &mut Registered,
) -> Op<Vec<u32>> {
    let mut fresh = Vec::new();
    for beat in &ask.stores {
        let uuid = uuid_of(&beat.uuid, "a store's uuid")?;
        let known = tables.stores.iter().find(|(_, row)| row.uuid == uuid);
        let (draining, mut lost_past) = known.map_or((false, false), |(_, row)| (row.draining, row.lost_past));
        let store = match known {
            Some((key, row)) => {
                let home = tables.nodes.iter().find(|(node, _)| node.node == row.node);
                // Made anew under its old name, by another process than the one that is known.
                let made_anew = beat.fresh && home.is_none_or(|(_, home)| home.boot_id[..] != ask.boot_id[..]);
                let written = tx.get_unvalidated(&keys::StoreBeat { store: key.store }).await?;
                let written = written.map_or(0, |row| row.durable_records);
                let records = written.max(heard.get(&key.store).copied().unwrap_or(0));
                lost_past |= is_there(beat) && (made_anew || beat.durable_records < records);
                key.store
            }
            None => {
                if tables.stores.len() >= STORES_MAX {
                    return fail(Code::TooLarge, format!("the cluster has {STORES_MAX} stores"));
                }
                let store = tx.next_number(counter::STORE).await? as u32;
                if beat.fresh {
                    fresh.push(store);
                }
                store
            }
        };
        if done.store_ids.contains(&store) {
            return fail(Code::Invalid, "a store is named twice");
        }
        done.store_ids.push(store);
        let key = keys::StoreBeat { store };
        let before = tx.get_unvalidated(&key).await?.unwrap_or_else(no_beat);
        tx.put(&key, &beat_row(beat, &before));
        let row = rows::Store { uuid, node: done.node, replaced_by: 0, draining, lost_past };
        done.stores.push((store, row));
    }
    Ok(fresh)
}

/// A node that another one registered at the address of is replaced. Its stores, and those this node used to have and
/// has no more, hand their memberships over to the fresh ones.
fn hand_over(tables: &Tables, fresh: &[u32], done: &mut Registered) {
    let this = done.nodes[0].clone();
    let mut leaving = vec![this.0];
    for (key, row) in &tables.nodes {
        if row.addr == this.1.addr && row.uuid != this.1.uuid && !row.replaced {
            done.nodes.push((key.node, rows::Node { replaced: true, ..row.clone() }));
        }
        // One that was replaced before, by a newcomer without an empty store, hands over now.
        if row.addr == this.1.addr && row.uuid != this.1.uuid {
            leaving.push(key.node);
        }
    }
    if fresh.is_empty() {
        return;
    }
    let missing = tables.stores.iter().filter(|(key, row)| {
        leaving.contains(&row.node) && row.replaced_by == 0 && !done.store_ids.contains(&key.store)
    });
    let handed: Vec<_> = missing
        .enumerate()
        .map(|(index, (key, row))| (key.store, rows::Store { replaced_by: fresh[index % fresh.len()], ..row.clone() }))
        .collect();
    done.stores.extend(handed);
}
