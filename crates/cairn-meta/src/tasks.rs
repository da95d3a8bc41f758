//! Tasks of an operator: planned, refused or begun; listed with their progress; cancelled. Carried out by `tend.rs`.

use crate::error::{Op, fail};
use crate::keys::{self, counter};
use crate::kv::Durability;
use crate::limits::{
    BALANCE_TOLERANCE_PERMILLE, GROUPS_MAX, MOVES_SHOWN_MAX, PLANNED_MOVES_MAX, REASON_LEN_MAX, TASKS_KEPT_MAX,
    TASKS_OPEN_MAX, TASKS_SHOWN_MAX,
};
use crate::members;
use crate::meta::{Meta, transact};
use crate::plan::{self, PlannedMove};
use crate::rows;
use crate::state::Cluster;
use crate::steps::{MoveRow, OpenTask, is_open};
use crate::tend::{Look, make_room, stores_of};
use crate::tx::Tx;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::pb::{self, TaskKind, TaskState};
use cairn_proto::status::{Code, Status};
use std::collections::BTreeSet;

/// What a task is about, found among the stores there are.
struct Subject {
    kind: TaskKind,
    from: BTreeSet<u32>,
    to: BTreeSet<u32>,
}

/// A plan, and what is to be said about it.
#[derive(Default)]
struct Plan {
    moves: Vec<PlannedMove>,
    remark: String,
    endangered: Vec<pb::EndangeredGroup>,
}

fn refuse<T>(why: impl Into<String>) -> Result<T, Status> {
    Err(Status::new(Code::Conflict, why.into()))
}

/// The stores of exactly one of a node and a store.
fn named(cluster: &Cluster, node: u32, store: u32) -> Result<BTreeSet<u32>, Status> {
    if (node == 0) == (store == 0) {
        return Err(Status::new(Code::Invalid, "name a node or a store, and not both"));
    }
    let found = stores_of(cluster, node, store);
    if found.is_empty() {
        let what = if node == 0 { format!("there is no store {store}") } else { format!("node {node} has no store") };
        return Err(Status::new(Code::NotFound, what));
    }
    Ok(found)
}

fn subject(cluster: &Cluster, ask: &pb::StartTask) -> Result<Subject, Status> {
    let invalid = |why: &str| Err(Status::new(Code::Invalid, why));
    let kind = ask.kind();
    let (names_from, names_to) = (ask.node != 0 || ask.store != 0, ask.to_node != 0 || ask.to_store != 0);
    match kind {
        TaskKind::Unknown | TaskKind::Repair => {
            return invalid("a task drains, adds, replaces, balances or gives up");
        }
        TaskKind::Balance if names_from || names_to => return invalid("a balance names no node and no store"),
        TaskKind::Drain | TaskKind::Add | TaskKind::GiveUp if names_to => {
            return invalid("only a replacement names where to");
        }
        _ => {}
    }
    let from = if kind == TaskKind::Balance { BTreeSet::new() } else { named(cluster, ask.node, ask.store)? };
    let to = match kind {
        TaskKind::Replace => named(cluster, ask.to_node, ask.to_store)?,
        _ => BTreeSet::new(),
    };
    if !from.is_disjoint(&to) {
        return invalid("a store cannot replace itself");
    }
    Ok(Subject { kind, from, to })
}

/// The open task that `subject` would get in the way of.
fn overlapping<'a>(subject: &Subject, tasks: &'a [OpenTask]) -> Option<&'a OpenTask> {
    tasks.iter().filter(|task| task.row.kind != TaskKind::Repair).find(|task| {
        let both_balance = |kind| matches!(kind, TaskKind::Balance | TaskKind::Add);
        let touches = |stores: &BTreeSet<u32>| !stores.is_disjoint(&task.from) || !stores.is_disjoint(&task.to);
        touches(&subject.from) || touches(&subject.to) || (both_balance(subject.kind) && both_balance(task.row.kind))
    })
}

/// Plans a task, or says why it cannot be done.
fn plan(subject: &Subject, look: &mut Look, most_replicas: u32) -> Result<Plan, Status> {
    if let Some(task) = overlapping(subject, &look.tasks) {
        let name = kind_name(task.row.kind);
        return refuse(format!("task {} ({name}) is about the same stores: wait for it, or cancel it", task.id));
    }
    if look.tasks.len() >= TASKS_OPEN_MAX {
        return refuse(format!("{TASKS_OPEN_MAX} tasks run or wait already"));
    }
    let stand = &mut look.stand;
    match subject.kind {
        TaskKind::Drain | TaskKind::Replace => {
            for store in &subject.from {
                if let Some(place) = stand.places.get_mut(store) {
                    place.takes = false;
                }
            }
            let stays = |(store, place): &(&u32, &plan::Place)| !subject.from.contains(*store) && place.takes;
            let nodes: BTreeSet<u32> = stand.places.iter().filter(stays).map(|(_, place)| place.node).collect();
            let holds = stand.groups.values().any(|g| g.row.members.iter().any(|m| subject.from.contains(&m.store)));
            if holds && nodes.len() < most_replicas as usize {
                return refuse(format!(
                    "{most_replicas} replicas need {most_replicas} nodes that take memberships, and {} would be left: add \
                     nodes first",
                    nodes.len()
                ));
            }
            let only = (subject.kind == TaskKind::Replace).then_some(&subject.to);
            match plan::drain(stand, &subject.from, only) {
                Ok(moves) => Ok(Plan { moves, ..Plan::default() }),
                Err((pg, why)) => refuse(format!("group {pg}: {why}")),
            }
        }
        TaskKind::Add | TaskKind::Balance => {
            let only = (subject.kind == TaskKind::Add).then_some(&subject.from);
            for store in &subject.from {
                if let Some(place) = stand.places.get_mut(store) {
                    place.takes = place.live;
                }
            }
            if subject.from.iter().any(|store| stand.places.get(store).is_none_or(|place| !place.live)) {
                return refuse("a store that is to take memberships does not answer");
            }
            let moves = plan::balance(stand, only, PLANNED_MOVES_MAX);
            let remark = match moves.len() {
                0 => format!(
                    "nothing to move: no move brings stores closer to the mean than {BALANCE_TOLERANCE_PERMILLE} \
                              thousandths of their capacity"
                ),
                PLANNED_MOVES_MAX => "as many moves as one task plans: begin another when it is done".to_owned(),
                _ => String::new(),
            };
            Ok(Plan { moves, remark, ..Plan::default() })
        }
        TaskKind::GiveUp => {
            if let Some(live) = subject.from.iter().find(|store| stand.places.get(store).is_some_and(|p| p.live)) {
                return refuse(format!("store {live} answers: drain it instead"));
            }
            subject.from.iter().for_each(|store| stand.give_up(*store));
            let endangered = endangered(stand, &subject.from);
            let (moves, remark) = match plan::drain(stand, &subject.from, None) {
                Ok(moves) => (moves, String::new()),
                Err((pg, why)) => (Vec::new(), format!("group {pg}: {why}: it stays incomplete until nodes are added")),
            };
            Ok(Plan { moves, remark, endangered })
        }
        TaskKind::Unknown | TaskKind::Repair => refuse("not a task of an operator"),
    }
}

/// Groups of which nobody but `gone` is full, and who else holds a part of them.
fn endangered(stand: &plan::Stand, gone: &BTreeSet<u32>) -> Vec<pb::EndangeredGroup> {
    let is_live = |store: &u32| stand.places.get(store).is_some_and(|place| place.live);
    let mut found = Vec::new();
    for (pg, group) in &stand.groups {
        let stores = || group.row.members.iter().map(|member| member.store);
        if !stores().any(|store| gone.contains(&store)) || members::full(&group.row).any(|store| !gone.contains(&store))
        {
            continue;
        }
        let others = stores().filter(|store| !gone.contains(store) && is_live(store)).count() as u32;
        found.push(pb::EndangeredGroup { pg: *pg, bytes: group.bytes, others });
    }
    found
}

fn kind_name(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::Unknown => "unknown",
        TaskKind::Drain => "drain",
        TaskKind::Add => "add",
        TaskKind::Replace => "replace",
        TaskKind::Balance => "balance",
        TaskKind::Repair => "repair",
        TaskKind::GiveUp => "give up",
    }
}

/// A task's row as it travels, with the progress of what is under way.
fn task_info(id: u64, row: &rows::Task, moves: &[MoveRow], cluster: &Cluster) -> pb::Task {
    let own = || moves.iter().filter(move |(_, _, planned)| planned.task == id);
    let rows_left = own().count() as u64;
    let (mut bytes_left, mut bytes_under_way) = (0u64, 0u64);
    for (pg, _, planned) in own() {
        bytes_left += planned.bytes;
        if planned.begun {
            let store = cluster.stores.get(&planned.to);
            let join = store.and_then(|store| store.joins.iter().find(|join| join.pg == *pg));
            bytes_under_way += join.map_or(0, |join| join.bytes_done.min(planned.bytes));
        }
    }
    let open = is_open(row);
    let begun = own().filter(|(_, _, planned)| planned.begun).count() as u64;
    let to_begin: u64 = match row.kind {
        TaskKind::Balance | TaskKind::Add => rows_left - begun,
        _ => stores_of(cluster, row.node, row.store).iter().map(|s| u64::from(cluster.survey.held(*s).kept)).sum(),
    };
    let bytes_done = row.bytes_done + bytes_under_way;
    let bytes_total = if open { row.bytes_total.max(row.bytes_done + bytes_left) } else { row.bytes_total };
    let rate: u64 = cluster.stores.values().map(|store| store.copying.rate).sum();
    let waits = cluster.waiting.get(&id).filter(|_| open);
    pb::Task {
        id,
        kind: row.kind as i32,
        state: if waits.is_some() { TaskState::Waiting as i32 } else { row.state as i32 },
        reason: waits.unwrap_or(&row.reason).clone(),
        node: row.node,
        store: row.store,
        to_node: row.to_node,
        to_store: row.to_store,
        moves_total: if open { row.moves_done + begun + to_begin } else { row.moves_total },
        moves_done: row.moves_done,
        bytes_total,
        bytes_done,
        eta_s: if open { eta_s(bytes_total.saturating_sub(bytes_done), rate) } else { 0 },
        started_ns: row.started_ns,
        ended_ns: row.ended_ns,
    }
}

/// Seconds that `bytes` take at `rate` bytes a second; 0 when that is not known.
fn eta_s(bytes: u64, rate: u64) -> u64 {
    if rate == 0 { 0 } else { bytes.div_ceil(rate) }
}

/// Sets or clears the mark of stores that an operator drains.
async fn mark_draining(tx: &mut Tx, stores: &BTreeSet<u32>, draining: bool) -> Op<()> {
    for store in stores {
        let key = keys::Store { store: *store };
        if let Some(row) = tx.get(&key).await?.filter(|row| row.draining != draining) {
            tx.put(&key, &rows::Store { draining, ..row });
        }
    }
    tx.effects.map_changed = true;
    Ok(())
}

impl Meta {
    fn note_draining(&self, stores: &BTreeSet<u32>, draining: bool) {
        let mut cluster = self.inner.cluster.lock();
        for store in stores {
            if let Some(live) = cluster.stores.get_mut(store) {
                live.row.draining = draining;
            }
        }
    }

    pub(crate) async fn start_task(&self, ask: &pb::StartTask) -> Result<Reply, Status> {
        let subject = subject(&self.inner.cluster.lock(), ask)?;
        let mut look = self.look().await?;
        let replicas = self.replica_counts().await?;
        let plan = plan(&subject, &mut look, replicas.last().copied().unwrap_or(1))?;
        let bytes_total = plan.moves.iter().map(|planned| planned.bytes).sum();
        let row = rows::Task {
            kind: subject.kind,
            state: TaskState::Running,
            reason: plan.remark.clone(),
            node: ask.node,
            store: ask.store,
            to_node: ask.to_node,
            to_store: ask.to_store,
            moves_total: plan.moves.len() as u64,
            moves_done: 0,
            bytes_total,
            bytes_done: 0,
            started_ns: self.inner.options.clock.now_ns(),
            ended_ns: 0,
        };
        let id = if ask.dry_run { 0 } else { self.begin_task(&subject, &look, &plan, &row).await? };
        let mut task = task_info(id, &row, &[], &self.inner.cluster.lock());
        let rate = self.inner.cluster.lock().stores.values().map(|store| store.copying.rate).sum();
        (task.moves_total, task.eta_s) = (row.moves_total, eta_s(bytes_total, rate));
        let shown = plan.moves.iter().take(MOVES_SHOWN_MAX);
        let shown = shown.map(|m| pb::Move { pg: m.pg, from: m.from, to: m.to, bytes: m.bytes });
        let endangered = plan.endangered.into_iter().take(MOVES_SHOWN_MAX).collect();
        Ok(Reply::StartTask(pb::StartTaskReply { task: Some(task), moves: shown.collect(), endangered }))
    }

    async fn begin_task(&self, subject: &Subject, look: &Look, plan: &Plan, row: &rows::Task) -> Result<u64, Status> {
        let known: Vec<u64> = look.tasks.iter().map(|task| task.id).collect();
        let planned_ahead = matches!(subject.kind, TaskKind::Balance | TaskKind::Add);
        let drains = matches!(subject.kind, TaskKind::Drain | TaskKind::Replace);
        let nobody = BTreeSet::new();
        let marked = if subject.kind == TaskKind::GiveUp { &nobody } else { &subject.from };
        let id = transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let tasks = tx.table::<keys::Task>(TASKS_OPEN_MAX + TASKS_KEPT_MAX + 1).await?;
            if tasks.iter().any(|(key, row)| is_open(row) && !known.contains(&key.task)) {
                return fail(Code::Conflict, "another task began meanwhile: look at it, and try again");
            }
            if !make_room(tx).await? {
                return fail(Code::Conflict, format!("{TASKS_OPEN_MAX} tasks run or wait already"));
            }
            let task = tx.next_number(counter::TASK).await?;
            tx.put(&keys::Task { task }, row);
            mark_draining(tx, marked, drains).await?;
            for PlannedMove { pg, from, to, bytes } in plan.moves.iter().filter(|_| planned_ahead) {
                let key = keys::Move { pg: *pg, from: *from };
                if tx.get(&key).await?.is_none() {
                    tx.put(&key, &rows::Move { task, to: *to, bytes: *bytes, begun: false });
                }
            }
            Ok(task)
        })?;
        self.note_draining(marked, drains);
        tracing::info!(task = id, kind = kind_name(subject.kind), moves = plan.moves.len(), "a task begins");
        Ok(id)
    }

    /// All tasks that are remembered: open ones first, then the newest of the others.
    pub(crate) async fn task_infos(&self, open_only: bool) -> Result<Vec<pb::Task>, Status> {
        let (tasks, moves) = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let tasks = tx.table::<keys::Task>(TASKS_OPEN_MAX + TASKS_KEPT_MAX + 1).await?;
            let open = tasks.iter().any(|(_, row)| is_open(row));
            let moves = if open { tx.table::<keys::Move>(GROUPS_MAX).await? } else { Vec::new() };
            Ok((tasks, moves))
        })?;
        let moves: Vec<MoveRow> = moves.into_iter().map(|(key, row)| (key.pg, key.from, row)).collect();
        let cluster = self.inner.cluster.lock();
        let mut tasks: Vec<(u64, rows::Task)> =
            tasks.into_iter().map(|(key, row)| (key.task, row)).filter(|(_, row)| !open_only || is_open(row)).collect();
        tasks.sort_by_key(|(id, row)| if is_open(row) { (0, *id) } else { (1, u64::MAX - *id) });
        tasks.truncate(TASKS_SHOWN_MAX);
        Ok(tasks.iter().map(|(id, row)| task_info(*id, row, &moves, &cluster)).collect())
    }

    pub(crate) async fn list_tasks(&self) -> Result<Reply, Status> {
        Ok(Reply::ListTasks(pb::ListTasksReply { tasks: self.task_infos(false).await? }))
    }

    pub(crate) async fn cancel_task(&self, ask: &pb::CancelTask) -> Result<Reply, Status> {
        let row = transact!(self, Durability::Relaxed, async |tx: &mut Tx| tx.get(&keys::Task { task: ask.id }).await)?;
        let Some(row) = row else {
            return Err(Status::new(Code::NotFound, format!("there is no task {}", ask.id)));
        };
        if row.kind == TaskKind::Repair {
            return refuse("a repair makes up for a lost store: bring the store back, and it ends");
        }
        if row.state != TaskState::Cancelled && !self.end_task(ask.id, TaskState::Cancelled, "cancelled").await? {
            return refuse(format!("task {} has ended", ask.id));
        }
        Ok(Reply::Empty(pb::Empty::default()))
    }

    /// Ends a task; false when it had ended before. A cancelled one leaves its stores free to take memberships again.
    pub(crate) async fn end_task(&self, task: u64, state: TaskState, reason: &str) -> Result<bool, Status> {
        let reason: String = reason.chars().take(REASON_LEN_MAX).collect();
        let ended = transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let key = keys::Task { task };
            let Some(mut row) = tx.get(&key).await?.filter(is_open) else { return Ok(None) };
            let drains = matches!(row.kind, TaskKind::Drain | TaskKind::Replace);
            let freed = match state {
                TaskState::Cancelled if drains => stores_of(&self.inner.cluster.lock(), row.node, row.store),
                _ => BTreeSet::new(),
            };
            mark_draining(tx, &freed, false).await?;
            for (planned, _) in
                tx.table::<keys::Move>(GROUPS_MAX).await?.iter().filter(|(_, m)| m.task == task && !m.begun)
            {
                tx.delete(planned);
            }
            row.state = state;
            if !reason.is_empty() {
                row.reason.clone_from(&reason);
            }
            row.moves_total = row.moves_done;
            row.bytes_total = row.bytes_done;
            row.ended_ns = tx.now_ns;
            tx.put(&key, &row);
            Ok(Some(freed))
        })?;
        let Some(freed) = ended else { return Ok(false) };
        self.note_draining(&freed, false);
        tracing::info!(task, state = state.as_str_name(), "a task ended");
        Ok(true)
    }
}
