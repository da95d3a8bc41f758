//! The duty that goes through all groups and brings their members in order, with what `steps.rs` decides.

use crate::error::Op;
use crate::keys::{self, counter};
use crate::kv::Durability;
use crate::limits::{ALARMS_MAX, GROUPS_MAX, JOIN_STALLED_AFTER, TASKS_KEPT_MAX, TASKS_OPEN_MAX};
use crate::members;
use crate::meta::{Meta, transact};
use crate::moves::Changed;
use crate::plan::{self, Place, PlannedMove, Sized, Stand};
use crate::rows;
use crate::state::Cluster;
use crate::steps::{self, Account, MoveRow, OpenTask, Steps};
use crate::survey::Survey;
use crate::tx::Tx;
use cairn_proto::pb::{MemberState, TaskKind, TaskState};
use cairn_proto::status::Status;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Groups, tasks and moves as they are in one snapshot, and the stores as they were heard of.
pub(crate) struct Look {
    pub stand: Stand,
    pub tasks: Vec<OpenTask>,
    pub moves: Vec<MoveRow>,
}

/// Counts that a look leaves behind for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Tending {
    pub tasks_running: u64,
    pub tasks_waiting: u64,
    pub moves_running: u64,
    pub moves_waiting: u64,
}

impl Meta {
    /// Brings the members of groups in order. A bounded step; true when something changed.
    pub(crate) async fn tend_members(&self) -> Result<bool, Status> {
        if self.is_rolled_back() {
            // Which members hold what is not known any more: nobody is let go until an operator has looked.
            return Ok(false);
        }
        let version = self.inner.map_version.load(Ordering::Acquire);
        if self.inner.members_settled_at.load(Ordering::Acquire) == version {
            return Ok(false);
        }
        let forgetful: Vec<u32> = {
            let cluster = self.inner.cluster.lock();
            cluster.stores.iter().filter(|(_, store)| store.row.lost_past).map(|(id, _)| *id).collect()
        };
        for store in &forgetful {
            self.settle_lost_past(*store).await?;
        }
        let look = self.look().await?;
        let steps = steps::decide(&look.stand, &look.tasks, &look.moves);
        self.note_look(&look, &steps);
        let changed = self.carry_out(&look, &steps).await?;
        if !changed && !steps.unsettled {
            self.inner.members_settled_at.store(version, Ordering::Release);
        }
        Ok(changed || !forgetful.is_empty())
    }

    /// Looks at the members of groups as who holds the duties does, and leaves in memory what status and metrics tell.
    pub(crate) async fn look_at_members(&self) -> Result<(), Status> {
        let version = self.inner.map_version.load(Ordering::Acquire);
        if self.inner.members_settled_at.load(Ordering::Acquire) == version {
            return Ok(());
        }
        let look = self.look().await?;
        let steps = steps::decide(&look.stand, &look.tasks, &look.moves);
        self.note_look(&look, &steps);
        self.inner.members_settled_at.store(version, Ordering::Release);
        Ok(())
    }

    /// Reads what plans are made from.
    pub(crate) async fn look(&self) -> Result<Look, Status> {
        let (groups, tasks, moves) = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let groups = tx.table::<keys::Pg>(GROUPS_MAX).await?;
            let tasks = tx.table::<keys::Task>(TASKS_OPEN_MAX + TASKS_KEPT_MAX + 1).await?;
            let moves = tx.table::<keys::Move>(GROUPS_MAX).await?;
            Ok((groups, tasks, moves))
        })?;
        let groups: Vec<(u32, rows::Pg)> = groups.into_iter().map(|(key, row)| (key.pg, row)).collect();
        let moves = moves.into_iter().map(|(key, row)| (key.pg, key.from, row)).collect();
        let now = self.now();
        let mut cluster = self.inner.cluster.lock();
        let mut stand = stand_of(&mut cluster, groups, now);
        let open = tasks.into_iter().filter(|(_, row)| steps::is_open(row));
        let tasks = open.map(|(key, row)| {
            let stores = |node, store| stores_of(&cluster, node, store);
            let from = stores(row.node, row.store);
            let to = stores(row.to_node, row.to_store);
            OpenTask { id: key.task, row, from, to }
        });
        let tasks: Vec<OpenTask> = tasks.collect();
        for task in tasks.iter().filter(|task| task.row.kind == TaskKind::GiveUp) {
            task.from.iter().for_each(|store| stand.give_up(*store));
        }
        Ok(Look { stand, tasks, moves })
    }

    /// Leaves in memory what status and metrics tell.
    fn note_look(&self, look: &Look, steps: &Steps) {
        let live = |store| look.stand.places.get(&store).is_some_and(|place| place.live);
        let survey = Survey::of(look.stand.groups.values().map(|group| &group.row), live);
        let joining: BTreeSet<u32> = look
            .stand
            .groups
            .values()
            .flat_map(|group| &group.row.members)
            .filter(|member| member.state == MemberState::Joining)
            .map(|member| member.store)
            .collect();
        let waiting = steps.waiting.len() as u64;
        let begun = look.moves.iter().filter(|(_, _, row)| row.begun).count() as u64;
        let tending = Tending {
            tasks_running: (look.tasks.len() as u64).saturating_sub(waiting),
            tasks_waiting: waiting,
            moves_running: begun,
            moves_waiting: look.moves.len() as u64 - begun,
        };
        let mut cluster = self.inner.cluster.lock();
        cluster.alarms = alarms(look, steps, &survey);
        cluster.survey = survey;
        cluster.tending = tending;
        cluster.waiting.clone_from(&steps.waiting);
        for (id, store) in &mut cluster.stores {
            if !store.past_alarm.is_empty() && !store.row.lost_past && !joining.contains(id) {
                store.past_alarm.clear();
            }
        }
    }

    async fn carry_out(&self, look: &Look, steps: &Steps) -> Result<bool, Status> {
        let mut changed = false;
        for pg in &steps.complete {
            changed |= matches!(self.complete_group(*pg).await?, Changed::Done | Changed::More);
        }
        for (pg, store) in &steps.rejoin {
            changed |= self.rejoin(*pg, *store).await? == Changed::Done;
        }
        let mut repairs: BTreeMap<u32, u64> = look
            .tasks
            .iter()
            .filter(|task| task.row.kind == TaskKind::Repair)
            .map(|task| (task.row.store, task.id))
            .collect();
        for (account, planned) in &steps.moves {
            let task = match account {
                Account::Task(task) => *task,
                Account::Repair(store) => match repairs.get(store) {
                    Some(task) => *task,
                    None => match self.open_repair(*store).await? {
                        Some(task) => {
                            repairs.insert(*store, task);
                            task
                        }
                        // When some of the others have ended.
                        None => continue,
                    },
                },
            };
            changed |= self.begin(look, task, planned).await?;
        }
        for (task, pg, store, to) in &steps.given_up {
            while self.give_up_member(*task, *pg, *store, *to).await? == Changed::More {}
            tracing::warn!(pg, store, ?to, "an operator gave up the last full member of a group");
            changed = true;
        }
        for (pg, store) in &steps.stale {
            if self.make_stale(*pg, *store).await? == Changed::Done {
                tracing::warn!(pg, store, "no store can take the place of a lost member: it is stale until it is back");
                changed = true;
                while self.forget_stale(*pg, *store).await? == Changed::More {}
            }
        }
        if !steps.dropped.is_empty() {
            self.drop_planned(&steps.dropped).await?;
            changed = true;
        }
        for task in &steps.done {
            // Its last move may have been begun above, by what another look had left.
            changed |= self.end_task(*task, TaskState::Done, "").await?;
        }
        Ok(changed)
    }

    async fn begin(&self, look: &Look, task: u64, planned: &PlannedMove) -> Result<bool, Status> {
        let PlannedMove { pg, from, to, .. } = *planned;
        match self.begin_move(task, planned).await? {
            Changed::Done => {
                tracing::info!(pg, from, to, task, "a membership moves");
                Ok(true)
            }
            Changed::TooManyDebts => {
                // What a live member lacks it will have soon. Of a lost one it is given up, so that the others get on.
                let row = look.stand.groups.get(&pg).map(|group| &group.row);
                let lost = row
                    .into_iter()
                    .flat_map(members::counting)
                    .filter(|store| *store != from && look.stand.places.get(store).is_none_or(|place| place.lost));
                let mut changed = false;
                for store in lost {
                    changed |= self.make_stale(pg, store).await? == Changed::Done;
                    while self.forget_stale(pg, store).await? == Changed::More {}
                }
                Ok(changed)
            }
            Changed::Overtaken | Changed::More | Changed::NotYet => Ok(false),
        }
    }

    /// The task on whose account the memberships of a lost store move; `None` while there are too many.
    async fn open_repair(&self, store: u32) -> Result<Option<u64>, Status> {
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            if !make_room(tx).await? {
                return Ok(None);
            }
            let task = tx.next_number(counter::TASK).await?;
            let row = rows::Task {
                kind: TaskKind::Repair,
                state: TaskState::Running,
                reason: String::new(),
                node: 0,
                store,
                to_node: 0,
                to_store: 0,
                moves_total: 0,
                moves_done: 0,
                bytes_total: 0,
                bytes_done: 0,
                started_ns: tx.now_ns,
                ended_ns: 0,
            };
            tx.put(&keys::Task { task }, &row);
            Ok(Some(task))
        })
    }

    async fn drop_planned(&self, planned: &[(u32, u32)]) -> Result<(), Status> {
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            for (pg, from) in planned {
                let key = keys::Move { pg: *pg, from: *from };
                if tx.get(&key).await?.is_some_and(|row| !row.begun) {
                    tx.delete(&key);
                }
            }
            Ok(())
        })
    }
}

/// Makes room for one more task, by forgetting some that ended; false when too many have not.
pub(crate) async fn make_room(tx: &mut Tx) -> Op<bool> {
    let tasks = tx.table::<keys::Task>(TASKS_OPEN_MAX + TASKS_KEPT_MAX + 1).await?;
    let ended: Vec<_> = tasks.iter().filter(|(_, row)| !steps::is_open(row)).collect();
    for (key, _) in ended.iter().take((ended.len() + 1).saturating_sub(TASKS_KEPT_MAX)) {
        tx.delete(key);
    }
    Ok(tasks.len() - ended.len() < TASKS_OPEN_MAX)
}

/// Stores that a task names: one, or all of a node.
pub(crate) fn stores_of(cluster: &Cluster, node: u32, store: u32) -> BTreeSet<u32> {
    let named = |(id, live): &(&u32, &crate::state::StoreLive)| {
        **id == store || (node != 0 && live.row.node == node && live.row.replaced_by == 0)
    };
    cluster.stores.iter().filter(named).map(|(id, _)| *id).collect()
}

/// Joins that have copied nothing for so long that others need not wait for them. One that has been waiting for its turn
/// on its node is among them, and is counted again when it goes on.
fn stalled_joins(cluster: &mut Cluster, groups: &[(u32, rows::Pg)], now: Duration) -> BTreeSet<(u32, u32)> {
    let before = std::mem::take(&mut cluster.joining);
    let mut stalled = BTreeSet::new();
    for (pg, row) in groups {
        for member in row.members.iter().filter(|member| member.state == MemberState::Joining) {
            let key = (*pg, member.store);
            let live = cluster.stores.get(&member.store);
            let join = live.and_then(|live| live.joins.iter().find(|join| join.pg == *pg));
            let done = join.map_or(0, |join| join.bytes_done);
            let (done, since) = before.get(&key).filter(|known| known.0 == done).copied().unwrap_or((done, now));
            if now.saturating_sub(since) >= JOIN_STALLED_AFTER {
                stalled.insert(key);
            }
            cluster.joining.insert(key, (done, since));
        }
    }
    stalled
}

fn stand_of(cluster: &mut Cluster, groups: Vec<(u32, rows::Pg)>, now: Duration) -> Stand {
    let stalled = stalled_joins(cluster, &groups, now);
    let cluster = &*cluster;
    let place = |store: &crate::state::StoreLive| {
        let domains = cluster.nodes.get(&store.row.node).map(|node| &node.row);
        let domains = domains.map(|row| [row.zone.clone(), row.rack.clone(), row.host.clone()]).unwrap_or_default();
        let live = cluster.is_live(store);
        Place {
            node: store.row.node,
            domains,
            capacity: store.beat.capacity_bytes,
            used: store.beat.used_bytes,
            live,
            lost: cluster.is_lost(store, now),
            takes: live && store.beat.trouble.is_empty() && !store.row.draining,
        }
    };
    let places: BTreeMap<u32, Place> = cluster.stores.iter().map(|(id, store)| (*id, place(store))).collect();
    let committed = cluster.pg_bytes.iter().map(|(pg, usage)| (*pg, usage.total())).collect();
    let used = places.iter().map(|(store, place)| (*store, place.used)).collect();
    let sizes = plan::sizes(&committed, &groups, &used);
    let sized = |(pg, row): (u32, rows::Pg)| {
        let bytes = sizes.get(&pg).copied().unwrap_or(0);
        (pg, Sized { row, bytes })
    };
    Stand { places, groups: groups.into_iter().map(sized).collect(), stalled }
}

/// What an operator has to look at, each a sentence.
fn alarms(look: &Look, steps: &Steps, survey: &Survey) -> Vec<String> {
    let mut alarms = Vec::new();
    if let Some(first) = steps.headless.first() {
        let count = steps.headless.len();
        alarms.push(format!(
            "{count} groups have no full member that answers (the first is {first}): bring nodes back, or give up what only \
             they hold: cairn admin give-up"
        ));
    }
    if survey.stale > 0 {
        let mut away: BTreeMap<u32, u32> = BTreeMap::new();
        for member in look.stand.groups.values().flat_map(|group| &group.row.members) {
            if member.state == MemberState::Stale {
                *away.entry(member.store).or_default() += 1;
            }
        }
        for (store, count) in away.iter().take(ALARMS_MAX) {
            alarms.push(format!(
                "store {store} is away, and no other can take its place in {count} groups: bring it back, or add nodes"
            ));
        }
    }
    alarms.truncate(ALARMS_MAX);
    alarms
}
