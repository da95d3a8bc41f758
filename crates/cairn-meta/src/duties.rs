//! Background work on rows, in bounded steps: maps dropped, garbage handed to the collector, beats written down.

use crate::error::Op;
use crate::keys;
use crate::kv::{Durability, KeyRange, Order};
use crate::limits::{BEAT_ROWS_PER_TX, BEATS_EVERY, SCAN_ROWS, XATTRS_PER_STEP};
use crate::map::Cut;
use crate::map_tx::{Loss, Map};
use crate::meta::{Meta, transact};
use crate::rows;
use crate::tx::Tx;
use crate::xattrs;
use cairn_proto::limits::{FILE_LEN_MAX, PAGE_ROWS_MAX};
use cairn_proto::pb;
use cairn_proto::status::Status;
use cairn_proto::{BlockId, PgEpoch, PgId, StoreId};
use keys::Key;

/// Garbage rows forgotten by one transaction.
const GARBAGE_ROWS_PER_TX: usize = 64;

/// Blocks that nothing refers to: consecutive ids of one group.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GarbageRow {
    /// Their group.
    pub pg: PgId,
    /// The first of them.
    pub first: BlockId,
    /// How many.
    pub count: u32,
}

impl GarbageRow {
    fn key(&self) -> keys::Garbage {
        let BlockId { inode, writer, seq } = self.first;
        keys::Garbage { pg: self.pg.0, inode: inode.0, writer: writer.0, seq: seq.0 }
    }
}

/// Who has to delete a group's garbage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupMembers {
    /// Epoch of the membership; travels with the command to delete.
    pub epoch: PgEpoch,
    /// The members that are there, or will be soon: who is stale or out is not waited for. What such a store holds of
    /// blocks that are gone is found dead when it is back, by its sweep or by comparison with the others.
    pub stores: Vec<StoreId>,
}

impl Meta {
    /// Drops a part of a map that nobody reaches any more, whose blocks become garbage, or of a removed inode's attributes. True while there is more to do.
    ///
    /// # Errors
    /// As [`Meta::execute`]; call again.
    pub async fn drop_maps(&self) -> Result<bool, Status> {
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let queue = tx.scan::<keys::MapDrop>(&keys::MapDrop::all(), 1, Order::Forward).await?;
            let Some((key, row)) = queue.first() else { return Ok(false) };
            let dropped = row.birth;
            let map = Map { inode: key.inode, generation: key.generation };
            // From the end: which blocks are garbage is then told by the row in front, whatever lies behind.
            let most = tx.map_rows_per_step();
            let rows = map.rows_in(tx, 0..FILE_LEN_MAX, most, Order::Reverse).await?;
            let mut loss = Loss::default();
            for row in &rows {
                map.replace(tx, row, &Cut { left: None, right: None }, &mut loss);
            }
            // A block that an earlier row still refers to becomes garbage with that one.
            map.settle_as_of(tx, loss, dropped).await?;
            let mut done = rows.len() < most;
            // Of an inode that is gone the row also stands for its attributes.
            if done && tx.get(&keys::Inode { inode: key.inode }).await?.is_none() {
                done = !xattrs::drop_some(tx, key.inode, XATTRS_PER_STEP).await?;
            }
            if done {
                tx.delete(key);
            }
            Ok(true)
        })
    }

    /// At most `limit` garbage rows behind `after` (from the beginning, if `None`), in the order of their keys. The
    /// caller counts the grace of each from when it first saw it. None while metadata seems to be rolled back: see
    /// [`Meta::is_rolled_back`].
    ///
    /// # Errors
    /// As [`Meta::execute`].
    pub async fn garbage(&self, after: Option<&GarbageRow>, limit: usize) -> Result<Vec<GarbageRow>, Status> {
        if self.is_rolled_back() {
            return Ok(Vec::new());
        }
        let mut range = keys::Garbage::all();
        if let Some(after) = after {
            range.start = KeyRange::successor(&after.key().encode());
        }
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let rows = tx.scan::<keys::Garbage>(&range, limit.min(PAGE_ROWS_MAX), Order::Forward).await?;
            let row = |(key, run): (keys::Garbage, rows::Garbage)| GarbageRow {
                pg: PgId(key.pg),
                first: BlockId::new(key.inode, key.writer, key.seq),
                count: run.count,
            };
            Ok(rows.into_iter().map(row).collect())
        })
    }

    /// The stores that have to delete a group's garbage; `None` for a group that does not exist.
    ///
    /// # Errors
    /// As [`Meta::execute`].
    pub async fn group_members(&self, pg: PgId) -> Result<Option<GroupMembers>, Status> {
        let now = self.now();
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let Some(row) = tx.get(&keys::Pg { pg: pg.0 }).await? else { return Ok(None) };
            let cluster = self.inner.cluster.lock();
            let lost = |store| cluster.stores.get(&store).is_none_or(|live| cluster.is_lost(live, now));
            let waited_for = |member: &&rows::Member| member.state != pb::MemberState::Stale && !lost(member.store);
            let stores = row.members.iter().filter(waited_for).map(|member| StoreId(member.store)).collect();
            Ok(Some(GroupMembers { epoch: PgEpoch(row.epoch), stores }))
        })
    }

    /// Forgets garbage whose blocks are gone from every member, and that members lacked any of it. Rows that do not
    /// stand any more are ignored, so that a part may be asked for again after an error.
    ///
    /// # Errors
    /// As [`Meta::execute`].
    pub async fn garbage_done(&self, rows: &[GarbageRow]) -> Result<(), Status> {
        for some in rows.chunks(GARBAGE_ROWS_PER_TX) {
            transact!(self, Durability::Durable, async |tx: &mut Tx| {
                for row in some {
                    let key = row.key();
                    if tx.get(&key).await?.is_some_and(|found| found.count == row.count) {
                        tx.delete(&key);
                        forget_debts(tx, &key, row.count).await?;
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Writes down what reports and renewals said since the last time, at most once a second. True when it did.
    ///
    /// # Errors
    /// As [`Meta::execute`]; nothing is lost, call again.
    pub async fn persist_beats(&self) -> Result<bool, Status> {
        let now = self.now();
        {
            let mut written = self.inner.beats_written.lock();
            if written.is_some_and(|at| now.saturating_sub(at) < BEATS_EVERY) {
                return Ok(false);
            }
            *written = Some(now);
        }
        let (beats, sessions, groups, totals) = self.dirty_rows();
        let count = beats.len() + sessions.len() + groups.len() + usize::from(totals.is_some());
        if count == 0 {
            return Ok(false);
        }
        let result = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            for (store, beat) in &beats {
                tx.put(&keys::StoreBeat { store: *store }, beat);
            }
            for (session, beats) in &sessions {
                // One that ended meanwhile leaves no row behind.
                if tx.get(&keys::Session { session: *session }).await?.is_some() {
                    tx.put(&keys::SessionBeat { session: *session }, &rows::SessionBeat { beats: *beats });
                }
            }
            for (pg, bytes) in &groups {
                tx.put(&keys::PgUsage { pg: *pg }, &rows::PgUsage { bytes: *bytes });
            }
            if let Some(usage) = &totals {
                tx.put(&keys::Usage { server: 0 }, usage);
            }
            Ok(())
        });
        if result.is_err() {
            self.mark_dirty(&beats, &sessions, &groups, totals.is_some());
        }
        result.map(|()| true)
    }

    #[allow(clippy::type_complexity, reason = "four lists of rows, named where they are taken")]
    fn dirty_rows(&self) -> (Vec<(u32, rows::StoreBeat)>, Vec<(u64, u64)>, Vec<(u32, u64)>, Option<rows::Usage>) {
        let mut beats = Vec::new();
        let mut groups = Vec::new();
        {
            let mut cluster = self.inner.cluster.lock();
            for (id, store) in cluster.stores.iter_mut().filter(|(_, store)| store.dirty).take(BEAT_ROWS_PER_TX) {
                store.dirty = false;
                beats.push((*id, store.beat.clone()));
            }
            for (pg, usage) in cluster.pg_bytes.iter_mut().filter(|(_, usage)| usage.1).take(BEAT_ROWS_PER_TX) {
                usage.1 = false;
                groups.push((*pg, usage.0));
            }
        }
        let mut sessions = Vec::new();
        for (id, live) in
            self.inner.sessions.lock().live.iter_mut().filter(|(_, live)| live.dirty).take(BEAT_ROWS_PER_TX)
        {
            live.dirty = false;
            sessions.push((*id, live.beats));
        }
        let mut totals = self.inner.totals.lock();
        let dirty = std::mem::replace(&mut totals.dirty, false);
        let usage = dirty.then_some(rows::Usage { inodes: totals.inodes, file_bytes: totals.file_bytes });
        (beats, sessions, groups, usage)
    }

    fn mark_dirty(
        &self,
        beats: &[(u32, rows::StoreBeat)],
        sessions: &[(u64, u64)],
        groups: &[(u32, u64)],
        totals: bool,
    ) {
        let mut cluster = self.inner.cluster.lock();
        for (id, _) in beats {
            if let Some(store) = cluster.stores.get_mut(id) {
                store.dirty = true;
            }
        }
        for (pg, _) in groups {
            if let Some(usage) = cluster.pg_bytes.get_mut(pg) {
                usage.1 = true;
            }
        }
        drop(cluster);
        let mut open = self.inner.sessions.lock();
        for (id, _) in sessions {
            if let Some(session) = open.live.get_mut(id) {
                session.dirty = true;
            }
        }
        drop(open);
        self.inner.totals.lock().dirty |= totals;
    }
}

/// Cuts deleted blocks out of the degraded rows of the group's members: nobody has to catch up on them.
async fn forget_debts(tx: &mut Tx, gone: &keys::Garbage, count: u32) -> Op<()> {
    let members = tx.get(&keys::Pg { pg: gone.pg }).await?.map(|row| row.members).unwrap_or_default();
    let end = gone.seq.saturating_add(count);
    for member in members {
        let at = |seq| keys::Degraded { store: member.store, pg: gone.pg, inode: gone.inode, writer: gone.writer, seq };
        let before = KeyRange { start: at(0).encode(), end: at(gone.seq).encode() };
        let mut rows = tx.scan::<keys::Degraded>(&before, 1, Order::Reverse).await?;
        let inside = KeyRange { start: at(gone.seq).encode(), end: at(end).encode() };
        rows.extend(tx.scan::<keys::Degraded>(&inside, SCAN_ROWS, Order::Forward).await?);
        for (key, run) in rows {
            let key_end = key.seq.saturating_add(run.count);
            if key_end <= gone.seq {
                continue;
            }
            tx.delete(&key);
            if key.seq < gone.seq {
                tx.put(&key, &rows::RunLen { count: gone.seq - key.seq });
            }
            if key_end > end {
                tx.put(&at(end), &rows::RunLen { count: key_end - end });
            }
        }
    }
    Ok(())
}
