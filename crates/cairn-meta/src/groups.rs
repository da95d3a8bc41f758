//! Placement groups: made, sealed, their members replaced and completed; degraded rows listed and cleared.

use crate::error::fail;
use crate::keys::{self, counter};
use crate::kv::{Durability, KeyRange, Order};
use crate::limits::{GROUP_BYTES_MAX, GROUPS_MAX, GROUPS_PER_TX, OPEN_GROUPS_MIN, OPEN_GROUPS_PER_STORE, SCAN_ROWS};
use crate::meta::{Meta, transact};
use crate::placement::{self, Candidate};
use crate::rows;
use crate::state::NodeState;
use crate::write::pg_info;
use bytes::Bytes;
use cairn_proto::limits::{BLOCKS_PER_REQUEST_MAX, PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use cairn_proto::pb;
use cairn_proto::pb::MemberState;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::quorum;
use cairn_proto::status::{Code, Status};
use keys::Key;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

impl Meta {
    /// Keeps the table of placement groups in order: replaced stores hand over their memberships, full groups are
    /// sealed, and new ones are made while there are too few open ones and enough live nodes. A bounded step; true
    /// while there is more to do.
    ///
    /// # Errors
    /// As [`Meta::execute`]; call again.
    pub async fn ensure_groups(&self) -> Result<bool, Status> {
        if self.hand_over_memberships().await? {
            return Ok(true);
        }
        let sealed = self.seal_full_groups().await?;
        let made = self.make_groups().await?;
        Ok(sealed || made)
    }

    /// Stores that hand over, with their successors.
    fn replaced_stores(&self) -> BTreeMap<u32, u32> {
        let cluster = self.inner.cluster.lock();
        let replaced = cluster
            .stores
            .iter()
            .filter(|(id, store)| store.row.replaced_by != 0 && !cluster.handed_over.contains(*id));
        replaced.map(|(id, store)| (*id, store.row.replaced_by)).collect()
    }

    /// Puts successors into the groups of replaced stores; true while there are more groups to look at.
    async fn hand_over_memberships(&self) -> Result<bool, Status> {
        let replaced = self.replaced_stores();
        if replaced.is_empty() {
            return Ok(false);
        }
        let more = transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let mut changed = 0;
            let mut range = keys::Pg::all();
            loop {
                let groups = tx.scan::<keys::Pg>(&range, SCAN_ROWS, Order::Forward).await?;
                for (key, mut row) in groups.iter().cloned() {
                    if changed < GROUPS_PER_TX && replace_members(&mut row, &replaced) {
                        tx.put(&key, &row);
                        tx.effects.map_changed = true;
                        changed += 1;
                    }
                }
                match groups.last() {
                    _ if changed == GROUPS_PER_TX => return Ok(true),
                    Some((last, _)) if groups.len() == SCAN_ROWS => {
                        range.start = KeyRange::successor(&last.encode());
                    }
                    _ => break,
                }
            }
            if changed > 0 {
                return Ok(true);
            }
            // No group names them any more: what they lacked is nobody's debt.
            for store in replaced.keys() {
                let range = keys::with_fields::<keys::Degraded>(&[&store.to_be_bytes()]);
                let rows = tx.scan::<keys::Degraded>(&range, SCAN_ROWS, Order::Forward).await?;
                for (key, _) in &rows {
                    tx.delete(key);
                }
                if !rows.is_empty() {
                    return Ok(true);
                }
            }
            Ok(false)
        })?;
        if !more {
            self.inner.cluster.lock().handed_over.extend(replaced.keys());
        }
        Ok(more)
    }

    async fn seal_full_groups(&self) -> Result<bool, Status> {
        let full: Vec<u32> = {
            let cluster = self.inner.cluster.lock();
            let full = cluster.pg_bytes.iter().filter(|(_, usage)| usage.0 >= GROUP_BYTES_MAX);
            full.map(|(pg, _)| *pg).filter(|pg| !cluster.sealed.contains(pg)).collect()
        };
        let mut sealed = false;
        for some in full.chunks(GROUPS_PER_TX) {
            sealed |= transact!(self, Durability::Durable, async |tx: &mut Tx| {
                let mut changed = false;
                for pg in some {
                    let key = keys::Pg { pg: *pg };
                    if let Some(row) = tx.get(&key).await?.filter(|row| !row.sealed) {
                        tx.put(&key, &rows::Pg { sealed: true, ..row });
                        tx.effects.map_changed = true;
                        changed = true;
                    }
                }
                Ok(changed)
            })?;
            self.inner.cluster.lock().sealed.extend(some);
        }
        Ok(sealed)
    }

    /// Stores of live nodes, where they stand, and which stores are still worth counting on.
    fn candidates(&self) -> (Vec<Candidate>, BTreeSet<u32>) {
        let cluster = self.inner.cluster.lock();
        let mut live = Vec::new();
        let mut present = BTreeSet::new();
        for (id, store) in cluster.stores.iter().filter(|(_, store)| store.row.replaced_by == 0) {
            let Some(node) = cluster.nodes.get(&store.row.node) else { continue };
            if matches!(node.state, NodeState::Up | NodeState::Suspect) {
                present.insert(*id);
            }
            if node.state == NodeState::Up && node.heard && store.beat.trouble.is_empty() {
                let domains = [node.row.zone.clone(), node.row.rack.clone(), node.row.host.clone()];
                live.push(Candidate { store: *id, node: store.row.node, domains, load: 0 });
            }
        }
        (live, present)
    }

    async fn make_groups(&self) -> Result<bool, Status> {
        let version = self.inner.map_version.load(Ordering::Acquire);
        if self.inner.groups_enough_at.load(Ordering::Acquire) == version {
            return Ok(false);
        }
        let replicas = self.inner.options.replicas;
        let (mut live, present) = self.candidates();
        let nodes: BTreeSet<u32> = live.iter().map(|candidate| candidate.node).collect();
        if nodes.len() < replicas as usize {
            return Ok(false);
        }
        let target = OPEN_GROUPS_MIN.max(OPEN_GROUPS_PER_STORE * live.len());
        let mut rng = self.inner.rng.lock().fork();
        let planned = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let groups = tx.table::<keys::Pg>(GROUPS_MAX).await?;
            let open: Vec<_> =
                groups.iter().map(|(_, row)| row).filter(|row| is_usable(row, replicas, &present)).collect();
            Ok((target.saturating_sub(open.len()).min(GROUPS_PER_TX), loads(&open)))
        })?;
        let (wanted, loads) = planned;
        if wanted == 0 {
            // Whatever changes this answer changes the version of the map too.
            self.inner.groups_enough_at.store(version, Ordering::Release);
            return Ok(false);
        }
        for candidate in &mut live {
            candidate.load = loads.get(&candidate.store).copied().unwrap_or(0);
        }
        let plan = placement::plan(&live, replicas as usize, wanted, &mut rng);
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            for stores in &plan {
                let pg = tx.next_number(counter::PG).await? as u32;
                let member = |store: &u32| rows::Member { store: *store, state: MemberState::Full };
                let members = stores.iter().map(member).collect();
                tx.put(&keys::Pg { pg }, &rows::Pg { epoch: 1, replicas, members, sealed: false });
            }
            tx.effects.map_changed = true;
            Ok(())
        })?;
        Ok(!plan.is_empty())
    }

    pub(crate) async fn join_done(&self, ask: &pb::JoinDone) -> Result<Reply, Status> {
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let key = keys::Pg { pg: ask.pg };
            let Some(mut row) = tx.get(&key).await? else {
                return fail(Code::NotFound, format!("there is no placement group {}", ask.pg));
            };
            let Some(index) = row.members.iter().position(|member| member.store == ask.store) else {
                return fail(Code::Conflict, format!("store {} is no member of group {}", ask.store, ask.pg));
            };
            if row.members[index].state == MemberState::Full {
                // The answer to an earlier request was lost.
                return Ok(Reply::Empty(pb::Empty {}));
            }
            if row.epoch != ask.epoch {
                let info = pg_info(ask.pg, &row, 0);
                let message = format!("group {} is at epoch {}, not {}", ask.pg, row.epoch, ask.epoch);
                return Err(Status::new(Code::StaleEpoch, message).with_pg(info).into());
            }
            let fields = [&ask.store.to_be_bytes()[..], &ask.pg.to_be_bytes()];
            let debts = keys::with_fields::<keys::Degraded>(&fields);
            let lacks = !tx.scan::<keys::Degraded>(&debts, 1, Order::Forward).await?.is_empty();
            if lacks || row.members[index].state != MemberState::Joining {
                let message = format!("store {} lacks blocks of group {} or does not join it", ask.store, ask.pg);
                return fail(Code::Conflict, message);
            }
            row.members[index].state = MemberState::Full;
            row.epoch += 1;
            tx.put(&key, &row);
            tx.effects.map_changed = true;
            Ok(Reply::Empty(pb::Empty {}))
        })
    }

    pub(crate) async fn list_degraded(&self, ask: &pb::ListDegraded) -> Result<Reply, Status> {
        let limit = if ask.limit == 0 { PAGE_ROWS_MAX } else { (ask.limit as usize).min(PAGE_ROWS_MAX) };
        let mut range = match ask.store {
            0 => keys::Degraded::all(),
            store => keys::with_fields::<keys::Degraded>(&[&store.to_be_bytes()]),
        };
        if !ask.cursor.is_empty() {
            if keys::Degraded::decode(&ask.cursor).is_none() || ask.cursor[..] < range.start[..] {
                return Err(Status::new(Code::Invalid, "the cursor is not one of this list"));
            }
            range.start = KeyRange::successor(&ask.cursor);
        }
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let mut reply = pb::ListDegradedReply::default();
            let found = tx.scan::<keys::Degraded>(&range, limit, Order::Forward).await?;
            let mut bytes = 0;
            let full = found.len() == limit;
            let mut last = None;
            for (key, run) in found {
                let first = pb::BlockId { inode: key.inode, writer: key.writer, seq: key.seq };
                let run = Some(pb::Run { first: Some(first), count: run.count });
                let row = pb::DegradedRow { pg: key.pg, store: key.store, run };
                bytes += row.encoded_len() + 4;
                if bytes > PAGE_BYTES_MAX {
                    reply.next_cursor = cursor(last.as_ref());
                    return Ok(Reply::ListDegraded(reply));
                }
                reply.rows.push(row);
                last = Some(key);
            }
            if full {
                reply.next_cursor = cursor(last.as_ref());
            }
            Ok(Reply::ListDegraded(reply))
        })
    }

    /// Removes exactly the rows named; one that was cut or removed since is ignored.
    pub(crate) async fn clear_degraded(&self, ask: &pb::ClearDegraded) -> Result<Reply, Status> {
        if ask.rows.len() > BLOCKS_PER_REQUEST_MAX {
            return Err(Status::new(Code::Invalid, format!("at most {BLOCKS_PER_REQUEST_MAX} rows at a time")));
        }
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            for row in &ask.rows {
                let Some(run) = &row.run else { continue };
                let first = run.first.unwrap_or_default();
                let key = keys::Degraded {
                    store: row.store,
                    pg: row.pg,
                    inode: first.inode,
                    writer: first.writer,
                    seq: first.seq,
                };
                if tx.get(&key).await?.is_some_and(|found| found.count == run.count) {
                    tx.delete(&key);
                }
            }
            Ok(())
        })?;
        Ok(Reply::Empty(pb::Empty {}))
    }
}

fn cursor(last: Option<&keys::Degraded>) -> Bytes {
    last.map(|key| key.encode().into()).unwrap_or_default()
}

/// Puts successors in the place of replaced members. A successor that is a member already is not doubled.
fn replace_members(row: &mut rows::Pg, replaced: &BTreeMap<u32, u32>) -> bool {
    let mut changed = false;
    for index in 0..row.members.len() {
        let Some(successor) = replaced.get(&row.members[index].store) else { continue };
        if row.members.iter().any(|member| member.store == *successor) {
            continue;
        }
        row.members[index] = rows::Member { store: *successor, state: MemberState::Joining };
        changed = true;
    }
    if changed {
        row.epoch += 1;
    }
    changed
}

/// True for a group that takes new blocks with a majority of members that are not lost.
fn is_usable(row: &rows::Pg, replicas: u32, present: &BTreeSet<u32>) -> bool {
    let counts = |member: &&rows::Member| matches!(member.state, MemberState::Full | MemberState::Joining);
    let standing = row.members.iter().filter(counts).filter(|member| present.contains(&member.store)).count();
    !row.sealed && row.replicas == replicas && standing >= quorum::needed(row.replicas as usize)
}

fn loads(groups: &[&rows::Pg]) -> BTreeMap<u32, usize> {
    let mut loads = BTreeMap::new();
    for member in groups.iter().flat_map(|row| &row.members) {
        *loads.entry(member.store).or_default() += 1;
    }
    loads
}
