//! Changes of a group's members, a transaction each: the row, the degraded rows that go with it, and the books of the
//! task it belongs to. What a row may become is decided in `members.rs`.

use crate::error::Op;
use crate::keys;
use crate::kv::{Durability, KeyRange, Order};
use crate::limits::{COPIED_DEBTS_MAX, DEBTS_DROPPED_PER_TX, GROUPS_MAX};
use crate::members::{self, Debt};
use crate::meta::{Meta, transact};
use crate::plan::PlannedMove;
use crate::rows;
use crate::tx::Tx;
use cairn_proto::pb::TaskState;
use cairn_proto::status::Status;

/// What became of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Changed {
    /// It is done.
    Done,
    /// A part is done: call again.
    More,
    /// The group has moved on, and does not allow it (any more).
    Overtaken,
    /// Members that stay lack so much that it cannot be noted at once for a newcomer: when they have caught up.
    TooManyDebts,
    /// Somebody lacks blocks still.
    NotYet,
}

/// Degraded rows of a store in one group.
fn debts_of(store: u32, pg: u32) -> KeyRange {
    keys::with_fields::<keys::Degraded>(&[&store.to_be_bytes(), &pg.to_be_bytes()])
}

/// Copies what the members that count lack to `to`, beside what it lacks already; `Err` when that is too much.
async fn copy_debts(tx: &mut Tx, pg: u32, next: &rows::Pg, to: u32) -> Op<Result<(), Changed>> {
    let mut debts = Vec::new();
    let mut own = Vec::new();
    let others: Vec<u32> = members::counting(next).filter(|store| *store != to).collect();
    for store in others.into_iter().chain([to]) {
        let room = COPIED_DEBTS_MAX - debts.len();
        let rows = tx.scan::<keys::Degraded>(&debts_of(store, pg), room + 1, Order::Forward).await?;
        if rows.len() > room {
            return Ok(Err(Changed::TooManyDebts));
        }
        let debt = |(key, run): &(keys::Degraded, rows::RunLen)| Debt {
            inode: key.inode,
            writer: key.writer,
            seq: key.seq,
            count: run.count,
        };
        debts.extend(rows.iter().map(debt));
        if store == to {
            own = rows;
        }
    }
    for (key, _) in &own {
        tx.delete(key);
    }
    for Debt { inode, writer, seq, count } in members::union(debts) {
        tx.put(&keys::Degraded { store: to, pg, inode, writer, seq }, &rows::RunLen { count });
    }
    Ok(Ok(()))
}

/// Deletes degraded rows of a store in a group; true when none is left.
async fn drop_debts(tx: &mut Tx, store: u32, pg: u32) -> Op<bool> {
    let rows = tx.scan::<keys::Degraded>(&debts_of(store, pg), DEBTS_DROPPED_PER_TX, Order::Forward).await?;
    for (key, _) in &rows {
        tx.delete(key);
    }
    Ok(rows.len() < DEBTS_DROPPED_PER_TX)
}

fn put_group(tx: &mut Tx, pg: u32, row: &rows::Pg) {
    tx.put(&keys::Pg { pg }, row);
    tx.effects.map_changed = true;
}

/// A membership went from one store to another: the books of its task.
async fn account(tx: &mut Tx, pg: u32, from: u32) -> Op<()> {
    let key = keys::Move { pg, from };
    let Some(done) = tx.get(&key).await? else { return Ok(()) };
    tx.delete(&key);
    if !done.begun {
        return Ok(());
    }
    let task = keys::Task { task: done.task };
    if let Some(mut row) = tx.get(&task).await? {
        row.moves_done += 1;
        row.bytes_done += done.bytes;
        tx.put(&task, &row);
    }
    tx.effects.moved = Some(done.bytes);
    Ok(())
}

impl Meta {
    /// Lets `from` leave its group and `to` join it.
    pub(crate) async fn begin_move(&self, task: u64, planned: &PlannedMove) -> Result<Changed, Status> {
        let PlannedMove { pg, from, to, bytes } = *planned;
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            // A task that was cancelled meanwhile begins nothing more.
            let open = tx.get(&keys::Task { task }).await?;
            let open = open.is_some_and(|row| matches!(row.state, TaskState::Running | TaskState::Waiting));
            let row = tx.get(&keys::Pg { pg }).await?;
            let Some(next) = row.filter(|_| open).and_then(|row| members::moved(&row, from, to)) else {
                return Ok(Changed::Overtaken);
            };
            if let Err(why) = copy_debts(tx, pg, &next, to).await? {
                return Ok(why);
            }
            put_group(tx, pg, &next);
            tx.put(&keys::Move { pg, from }, &rows::Move { task, to, bytes, begun: true });
            Ok(Changed::Done)
        })
    }

    /// Puts `to` in the place of a store whose copies are gone.
    pub(crate) async fn replace_member(&self, pg: u32, from: u32, to: u32) -> Result<Changed, Status> {
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let Some(row) = tx.get(&keys::Pg { pg }).await? else { return Ok(Changed::Overtaken) };
            let Some(next) = members::replaced(&row, from, to) else { return Ok(Changed::Overtaken) };
            if members::state_of(&row, to).is_none()
                && members::state_of(&next, to).is_some()
                && let Err(why) = copy_debts(tx, pg, &next, to).await?
            {
                return Ok(why);
            }
            put_group(tx, pg, &next);
            account(tx, pg, from).await?;
            Ok(Changed::Done)
        })
    }

    /// Lets a member go that an operator gave up, from a group in which nobody else is full.
    pub(crate) async fn give_up_member(
        &self,
        task: u64,
        pg: u32,
        store: u32,
        to: Option<u32>,
    ) -> Result<Changed, Status> {
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            // An operator may take it back until the last moment.
            let key = keys::Task { task };
            let open = tx.get(&key).await?.filter(crate::steps::is_open);
            let row = tx.get(&keys::Pg { pg }).await?;
            let next = row.and_then(|row| members::given_up(&row, store, to));
            let (Some(mut open), Some(next)) = (open, next) else { return Ok(Changed::Overtaken) };
            for member in members::counting(&next).chain([store]) {
                if !drop_debts(tx, member, pg).await? {
                    return Ok(Changed::More);
                }
            }
            put_group(tx, pg, &next);
            account(tx, pg, store).await?;
            open.moves_done += 1;
            tx.put(&key, &open);
            Ok(Changed::Done)
        })
    }

    /// Lets those that leave go, once nobody needs their copies.
    pub(crate) async fn complete_group(&self, pg: u32) -> Result<Changed, Status> {
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let Some(row) = tx.get(&keys::Pg { pg }).await? else { return Ok(Changed::Overtaken) };
            let Some(next) = members::completed(&row) else { return Ok(Changed::Overtaken) };
            for store in members::counting(&row) {
                if !tx.scan::<keys::Degraded>(&debts_of(store, pg), 1, Order::Forward).await?.is_empty() {
                    return Ok(Changed::NotYet);
                }
            }
            // Rows of a store that is no member would not be kept true: they go first, and nobody writes new ones.
            for store in members::leaving(&row) {
                if !drop_debts(tx, store, pg).await? {
                    return Ok(Changed::More);
                }
            }
            for store in members::leaving(&row) {
                account(tx, pg, store).await?;
            }
            put_group(tx, pg, &next);
            Ok(Changed::Done)
        })
    }

    /// Gives a member up that is away and that nobody can replace, until it is back.
    pub(crate) async fn make_stale(&self, pg: u32, store: u32) -> Result<Changed, Status> {
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let row = tx.get(&keys::Pg { pg }).await?;
            let Some(next) = row.and_then(|row| members::staled(&row, store)) else { return Ok(Changed::Overtaken) };
            put_group(tx, pg, &next);
            drop_debts(tx, store, pg).await?;
            Ok(Changed::Done)
        })
    }

    /// Completes every membership of a store anew that lost blocks it had acknowledged, and then forgets that it did. Begun
    /// again from the start after an error.
    pub(crate) async fn settle_lost_past(&self, store: u32) -> Result<(), Status> {
        for pg in self.groups_of(store).await? {
            if self.rejoin(pg, store).await? == Changed::TooManyDebts {
                transact!(self, Durability::Durable, async |tx: &mut Tx| {
                    let row = tx.get(&keys::Pg { pg }).await?;
                    if let Some(next) = row.and_then(|row| members::disowned(&row, store)) {
                        put_group(tx, pg, &next);
                    }
                    Ok(())
                })?;
            }
        }
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let key = keys::Store { store };
            if let Some(row) = tx.get(&key).await? {
                tx.put(&key, &rows::Store { lost_past: false, ..row });
            }
            Ok(())
        })?;
        if let Some(live) = self.inner.cluster.lock().stores.get_mut(&store) {
            live.row.lost_past = false;
        }
        Ok(())
    }

    /// Groups in which the store counts.
    async fn groups_of(&self, store: u32) -> Result<Vec<u32>, Status> {
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let groups = tx.table::<keys::Pg>(GROUPS_MAX).await?;
            let counts =
                |(key, row): &(keys::Pg, rows::Pg)| members::counting(row).any(|s| s == store).then_some(key.pg);
            Ok(groups.iter().filter_map(counts).collect())
        })
    }

    /// Deletes a part of what a stale member was noted to lack.
    pub(crate) async fn forget_stale(&self, pg: u32, store: u32) -> Result<Changed, Status> {
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let row = tx.get(&keys::Pg { pg }).await?;
            let state = row.and_then(|row| members::state_of(&row, store));
            if state != Some(cairn_proto::pb::MemberState::Stale) {
                return Ok(Changed::Overtaken);
            }
            Ok(if drop_debts(tx, store, pg).await? { Changed::Done } else { Changed::More })
        })
    }

    /// Lets a member that was stale, or that lost blocks, complete itself anew.
    pub(crate) async fn rejoin(&self, pg: u32, store: u32) -> Result<Changed, Status> {
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let row = tx.get(&keys::Pg { pg }).await?;
            let Some(next) = row.and_then(|row| members::rejoined(&row, store)) else { return Ok(Changed::Overtaken) };
            if let Err(why) = copy_debts(tx, pg, &next, store).await? {
                return Ok(why);
            }
            put_group(tx, pg, &next);
            Ok(Changed::Done)
        })
    }
}
