//! Placement groups: made, sealed, their members replaced and completed; degraded rows listed and cleared.

use crate::error::fail;
use crate::keys::{self, counter};
use crate::kv::{Durability, KeyRange, Order};
use crate::limits::{GROUP_BYTES_MAX, GROUPS_MAX, GROUPS_PER_TX, OPEN_GROUPS_MIN, OPEN_GROUPS_PER_STORE, SCAN_ROWS};
use crate::members;
use crate::meta::{Meta, transact};
use crate::moves::Changed;
use crate::placement::{self, Candidate, weight};
use crate::policies;
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
use futures_util::future::BoxFuture;
use keys::Key;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

impl Meta {
    /// Keeps the table of placement groups in order: replaced stores hand over their memberships, full groups are
    /// sealed, new ones are made while there are too few open ones and enough live nodes, and memberships move from
    /// stores that are lost or that an operator wishes to be rid of. A bounded step; true while there is more to do at
    /// once: otherwise call it again after a second. Only the holder of the duties changes anything; the others look at how
    /// things stand, for whoever asks them.
    ///
    /// # Errors
    /// As [`Meta::execute`]; call again.
    pub fn ensure_groups(&self) -> BoxFuture<'_, Result<bool, Status>> {
        Box::pin(async move {
            match self.as_holder(self.order_groups()).await? {
                Some(changed) => Ok(changed),
                // Who only looks can tell how things stand.
                None => self.look_at_members().await.map(|()| false),
            }
        })
    }

    async fn order_groups(&self) -> Result<bool, Status> {
        if self.hand_over_memberships().await? {
            return Ok(true);
        }
        let sealed = self.seal_full_groups().await?;
        let made = self.make_groups().await?;
        let moved = self.tend_members().await?;
        Ok(sealed || made || moved)
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

    /// Puts successors into the groups of replaced stores; true while there are more groups to look at. A group whose
    /// successor has a part in it already, or cannot be told all it lacks yet, is left to repair.
    async fn hand_over_memberships(&self) -> Result<bool, Status> {
        let replaced = self.replaced_stores();
        if replaced.is_empty() {
            return Ok(false);
        }
        let groups = transact!(self, Durability::Relaxed, async |tx: &mut Tx| tx.table::<keys::Pg>(GROUPS_MAX).await)?;
        let (mut changed, mut left) = (0, false);
        for (key, row) in &groups {
            for member in &row.members {
                let Some(successor) = replaced.get(&member.store) else { continue };
                if changed == GROUPS_PER_TX {
                    return Ok(true);
                }
                match self.replace_member(key.pg, member.store, *successor).await? {
                    Changed::Done => changed += 1,
                    Changed::Overtaken | Changed::TooManyDebts | Changed::More | Changed::NotYet => left = true,
                }
            }
        }
        if changed > 0 || left {
            return Ok(changed > 0);
        }
        let more = transact!(self, Durability::Durable, async |tx: &mut Tx| {
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
            let full = cluster.pg_bytes.iter().filter(|(_, usage)| usage.total() >= GROUP_BYTES_MAX);
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

    /// Stores that take memberships, where they stand, and which stores are still worth counting on.
    fn candidates(&self) -> (Vec<Candidate>, BTreeSet<u32>) {
        let cluster = self.inner.cluster.lock();
        let mut live = Vec::new();
        let mut present = BTreeSet::new();
        for (id, store) in cluster.stores.iter().filter(|(_, store)| store.row.replaced_by == 0) {
            let Some(node) = cluster.nodes.get(&store.row.node) else { continue };
            if matches!(node.state, NodeState::Up | NodeState::Suspect) && !store.lost {
                present.insert(*id);
            }
            if cluster.is_live(store) && store.beat.trouble.is_empty() && !store.row.draining {
                let domains = [node.row.zone.clone(), node.row.rack.clone(), node.row.host.clone()];
                let free = store.beat.capacity_bytes.saturating_sub(store.beat.used_bytes);
                live.push((free, Candidate { store: *id, node: store.row.node, domains, load: 0, weight: 1 }));
            }
        }
        let most = live.iter().map(|(free, _)| *free).max().unwrap_or(0);
        let weighed = live.into_iter().map(|(free, candidate)| Candidate { weight: weight(free, most), ..candidate });
        (weighed.collect(), present)
    }

    /// Replica counts that directories ask for, ascending and never empty.
    pub(crate) async fn replica_counts(&self) -> Result<Vec<u32>, Status> {
        let written = transact!(self, Durability::Relaxed, async |tx: &mut Tx| policies::replica_counts(tx).await)?;
        let counts: Vec<u32> = written.into_iter().collect();
        Ok(if counts.is_empty() { vec![self.inner.options.replicas] } else { counts })
    }

    async fn make_groups(&self) -> Result<bool, Status> {
        let version = self.inner.map_version.load(Ordering::Acquire);
        if self.inner.groups_enough_at.load(Ordering::Acquire) == version {
            return Ok(false);
        }
        let mut enough = true;
        for replicas in self.replica_counts().await? {
            match self.make_groups_of(replicas).await? {
                Made::Some => return Ok(true),
                Made::Enough => {}
                Made::TooFewNodes => enough = false,
            }
        }
        if enough {
            // Whatever changes this answer changes the version of the map too.
            self.inner.groups_enough_at.store(version, Ordering::Release);
        }
        Ok(false)
    }

    async fn make_groups_of(&self, replicas: u32) -> Result<Made, Status> {
        let (mut live, present) = self.candidates();
        let nodes: BTreeSet<u32> = live.iter().map(|candidate| candidate.node).collect();
        if nodes.len() < replicas as usize {
            return Ok(Made::TooFewNodes);
        }
        let target = OPEN_GROUPS_MIN.max(OPEN_GROUPS_PER_STORE * live.len());
        let mut rng = self.inner.rng.lock().fork();
        let (wanted, loads, sets) = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let groups = tx.table::<keys::Pg>(GROUPS_MAX).await?;
            let open: Vec<_> =
                groups.iter().map(|(_, row)| row).filter(|row| is_usable(row, replicas, &present)).collect();
            let of_count = groups.iter().map(|(_, row)| row).filter(|row| row.replicas == replicas);
            let sets: BTreeSet<Vec<u32>> = of_count.map(|row| members::counting(row).collect()).collect();
            Ok((target.saturating_sub(open.len()).min(GROUPS_PER_TX), loads(&open), sets))
        })?;
        if wanted == 0 {
            return Ok(Made::Enough);
        }
        for candidate in &mut live {
            candidate.load = loads.get(&candidate.store).copied().unwrap_or(0);
        }
        let sets: Vec<Vec<u32>> = sets.into_iter().collect();
        let plan = placement::plan(&live, replicas as usize, &sets, wanted, &mut rng);
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            for stores in &plan {
                let pg = tx.next_number(counter::PG).await? as u32;
                let member = |store: &u32| rows::Member { store: *store, state: MemberState::Full };
                let members = stores.iter().map(member).collect();
                let since = vec![1; stores.len()];
                tx.put(&keys::Pg { pg }, &rows::Pg { epoch: 1, replicas, members, sealed: false, since });
            }
            tx.effects.map_changed = true;
            Ok(())
        })?;
        Ok(if plan.is_empty() { Made::TooFewNodes } else { Made::Some })
    }

    pub(crate) async fn join_done(&self, ask: &pb::JoinDone) -> Result<Reply, Status> {
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let key = keys::Pg { pg: ask.pg };
            let Some(row) = tx.get(&key).await? else {
                return fail(Code::NotFound, format!("there is no placement group {}", ask.pg));
            };
            match members::state_of(&row, ask.store) {
                // The answer to an earlier request was lost.
                Some(MemberState::Full) => return Ok(Reply::Empty(pb::Empty::default())),
                Some(_) => {}
                None => {
                    return fail(Code::Conflict, format!("store {} is no member of group {}", ask.store, ask.pg));
                }
            }
            if row.epoch != ask.epoch {
                let info = pg_info(ask.pg, &row, 0);
                let message = format!("group {} is at epoch {}, not {}", ask.pg, row.epoch, ask.epoch);
                return Err(Status::new(Code::StaleEpoch, message).with_pg(info).into());
            }
            let fields = [&ask.store.to_be_bytes()[..], &ask.pg.to_be_bytes()];
            let debts = keys::with_fields::<keys::Degraded>(&fields);
            let lacks = !tx.scan::<keys::Degraded>(&debts, 1, Order::Forward).await?.is_empty();
            let Some(next) = members::joined(&row, ask.store).filter(|_| !lacks) else {
                let message = format!("store {} lacks blocks of group {} or does not join it", ask.store, ask.pg);
                return fail(Code::Conflict, message);
            };
            tx.put(&key, &next);
            tx.effects.map_changed = true;
            Ok(Reply::Empty(pb::Empty::default()))
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
                let row = pb::DegradedRow { pg: key.pg, store: key.store, run, pg_epoch: 0 };
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

    /// Removes exactly the rows named; one that was cut or removed since is ignored, and so is what a store was given
    /// before it joined the group, or began anew to.
    pub(crate) async fn clear_degraded(&self, ask: &pb::ClearDegraded) -> Result<Reply, Status> {
        if ask.rows.len() > BLOCKS_PER_REQUEST_MAX {
            return Err(Status::new(Code::Invalid, format!("at most {BLOCKS_PER_REQUEST_MAX} rows at a time")));
        }
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            for row in &ask.rows {
                let Some(run) = &row.run else { continue };
                if row.pg_epoch != 0 {
                    let group = tx.get(&keys::Pg { pg: row.pg }).await?;
                    if !group.is_some_and(|group| members::ack_counts(&group, row.store, row.pg_epoch)) {
                        continue;
                    }
                }
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
        Ok(Reply::Empty(pb::Empty::default()))
    }
}

fn cursor(last: Option<&keys::Degraded>) -> Bytes {
    last.map(|key| key.encode().into()).unwrap_or_default()
}

/// What came of the wish for more groups.
enum Made {
    Some,
    Enough,
    TooFewNodes,
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
