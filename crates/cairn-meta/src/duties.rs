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
use crate::upgrade::NAMESPACE_VERSION;
use crate::{holder, servers, xattrs};
use cairn_proto::limits::{FILE_LEN_MAX, PAGE_ROWS_MAX};
use cairn_proto::pb;
use cairn_proto::status::Status;
use cairn_proto::{BlockId, PgEpoch, PgId, StoreId};
use futures_util::future::BoxFuture;
use keys::Key;
use std::sync::atomic::Ordering;

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
    pub fn drop_maps(&self) -> BoxFuture<'_, Result<bool, Status>> {
        Box::pin(async move { Ok(self.as_holder(self.drop_maps_step()).await?.unwrap_or(false)) })
    }

    async fn drop_maps_step(&self) -> Result<bool, Status> {
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
    /// [`Meta::is_rolled_back`]; and none where this server does not hold the duties.
    ///
    /// # Errors
    /// As [`Meta::execute`].
    pub fn garbage<'a>(
        &'a self,
        after: Option<&'a GarbageRow>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<GarbageRow>, Status>> {
        Box::pin(async move { Ok(self.as_holder(self.garbage_step(after, limit)).await?.unwrap_or_default()) })
    }

    async fn garbage_step(&self, after: Option<&GarbageRow>, limit: usize) -> Result<Vec<GarbageRow>, Status> {
        let mut range = keys::Garbage::all();
        if let Some(after) = after {
            range.start = KeyRange::successor(&after.key().encode());
        }
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            if self.is_rolled_back_in(tx).await? {
                return Ok(Vec::new());
            }
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
    /// stand any more are ignored, so that a part may be asked for again after an error. Nothing happens where this server
    /// does not hold the duties any more.
    ///
    /// # Errors
    /// As [`Meta::execute`].
    pub fn garbage_done<'a>(&'a self, rows: &'a [GarbageRow]) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move { self.as_holder(self.garbage_done_step(rows)).await.map(|_| ()) })
    }

    async fn garbage_done_step(&self, rows: &[GarbageRow]) -> Result<(), Status> {
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

    /// Writes down what reports and renewals said since the last time, at most once a second, and where others serve the
    /// same engine that this server lives and, while it does, that it holds the duties. True when it did.
    ///
    /// # Errors
    /// As [`Meta::execute`]; nothing is lost, call again.
    pub fn persist_beats(&self) -> BoxFuture<'_, Result<bool, Status>> {
        Box::pin(async move {
            let now = self.now();
            {
                let mut written = self.inner.beats_written.lock();
                if written.is_some_and(|at| now.saturating_sub(at) < BEATS_EVERY) {
                    return Ok(false);
                }
                *written = Some(now);
            }
            let (me, alone) = (self.server(), self.inner.options.alone);
            let unwritten = self.unwritten();
            // Where there are others, they want to see that this server lives.
            if unwritten.is_empty() && alone {
                return Ok(false);
            }
            let renewal = self.inner.lease.lock().renewal(now).filter(|_| !alone);
            let beats = self.inner.own_beats.fetch_add(1, Ordering::Relaxed) + 1;
            let result = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
                if !servers::stands(tx, me, self.inner.boot).await? {
                    return Ok(Written::Forgotten);
                }
                unwritten.put(tx, me).await?;
                if !alone {
                    tx.put(&keys::ServerBeat { server: me }, &rows::ServerBeat { beats });
                }
                match renewal {
                    Some(renewal) if !holder::renew(tx, me, renewal).await? => Ok(Written::Deposed),
                    _ => Ok(Written::All),
                }
            });
            match result {
                Ok(Written::Forgotten) => {
                    self.write_again(&unwritten);
                    self.register_again(me).await?;
                    self.note_contact(now);
                    return Ok(true);
                }
                Err(status) => {
                    self.write_again(&unwritten);
                    return Err(status);
                }
                Ok(Written::All) => {
                    if let Some(renewal) = renewal {
                        self.inner.lease.lock().confirm(renewal.epoch, renewal.beats, now);
                    }
                }
                Ok(Written::Deposed) => self.inner.lease.lock().lose(renewal.map_or(0, |renewal| renewal.epoch)),
            }
            self.note_written(&unwritten);
            if !alone {
                self.note_contact(now);
            }
            Ok(true)
        })
    }

    /// What was heard or counted since the last time. Reports of stores are the holder's to write: everybody hears them.
    fn unwritten(&self) -> Unwritten {
        let holds = self.duty_epoch().is_some();
        let mut unwritten = Unwritten::default();
        {
            let mut cluster = self.inner.cluster.lock();
            let dirty = cluster.stores.iter_mut().filter(|(_, store)| store.dirty && holds);
            for (id, store) in dirty.take(BEAT_ROWS_PER_TX) {
                store.dirty = false;
                unwritten.stores.push((*id, store.beat.clone()));
            }
            let groups = cluster.pg_bytes.iter().filter_map(|(pg, usage)| Some((*pg, usage.unwritten()?)));
            unwritten.groups = groups.take(BEAT_ROWS_PER_TX).collect();
        }
        let mut sessions = self.inner.sessions.lock();
        for (id, live) in sessions.live.iter_mut().filter(|(_, live)| live.dirty).take(BEAT_ROWS_PER_TX) {
            live.dirty = false;
            unwritten.sessions.push((*id, live.beats));
        }
        drop(sessions);
        unwritten.totals = self.inner.totals.lock().unwritten();
        unwritten
    }

    fn note_written(&self, written: &Unwritten) {
        let mut cluster = self.inner.cluster.lock();
        for (pg, bytes) in &written.groups {
            if let Some(usage) = cluster.pg_bytes.get_mut(pg) {
                usage.note_written(*bytes);
            }
        }
        drop(cluster);
        if let Some(totals) = &written.totals {
            self.inner.totals.lock().note_written(totals);
        }
    }

    fn write_again(&self, unwritten: &Unwritten) {
        let mut cluster = self.inner.cluster.lock();
        for (id, _) in &unwritten.stores {
            if let Some(store) = cluster.stores.get_mut(id) {
                store.dirty = true;
            }
        }
        drop(cluster);
        let mut open = self.inner.sessions.lock();
        for (id, _) in &unwritten.sessions {
            if let Some(session) = open.live.get_mut(id) {
                session.dirty = true;
            }
        }
    }
}

/// What became of an attempt to write beats down.
enum Written {
    All,
    /// All but the renewal of the lease, which another server has.
    Deposed,
    /// Nothing: this server was taken for dead.
    Forgotten,
}

/// Rows that are only in memory so far.
#[derive(Default)]
struct Unwritten {
    stores: Vec<(u32, rows::StoreBeat)>,
    sessions: Vec<(u64, u64)>,
    groups: Vec<(u32, u64)>,
    totals: Option<rows::Usage>,
}

impl Unwritten {
    fn is_empty(&self) -> bool {
        self.stores.is_empty() && self.sessions.is_empty() && self.groups.is_empty() && self.totals.is_none()
    }

    async fn put(&self, tx: &mut Tx, server: u32) -> Op<()> {
        for (store, beat) in &self.stores {
            tx.put(&keys::StoreBeat { store: *store }, beat);
        }
        for (session, beats) in &self.sessions {
            // One that ended meanwhile leaves no row behind.
            if tx.get(&keys::Session { session: *session }).await?.is_some() {
                // The first programs do not read a row that names the server; there was one.
                let server = if tx.version < NAMESPACE_VERSION { 0 } else { server };
                tx.put(&keys::SessionBeat { session: *session }, &rows::SessionBeat { beats: *beats, server });
            }
        }
        for (pg, bytes) in &self.groups {
            tx.put(&keys::ServerPgUsage { server, pg: *pg }, &rows::PgUsage { bytes: *bytes });
        }
        if let Some(usage) = &self.totals {
            tx.put(&keys::Usage { server }, usage);
        }
        Ok(())
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
