//! What the members of groups need next, decided from one look at all of them: whose copies may go, who rejoins, which
//! moves begin. A few at a time, the most endangered groups first, what is lost before what an operator wishes.

use crate::limits::CHANGES_PER_LOOK;
use crate::members;
use crate::plan::{self, Loads, Nowhere, PlannedMove, Stand};
use crate::rows;
use cairn_proto::pb::{MemberState, TaskKind, TaskState};
use cairn_proto::placement::counts_for_commit;
use std::collections::{BTreeMap, BTreeSet};

/// A task that has not ended, and the stores it is about.
#[derive(Clone, Debug)]
pub(crate) struct OpenTask {
    pub id: u64,
    pub row: rows::Task,
    pub from: BTreeSet<u32>,
    pub to: BTreeSet<u32>,
}

/// A row of moves: the group, who leaves, and the rest.
pub(crate) type MoveRow = (u32, u32, rows::Move);

/// On whose account a move begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Account {
    Task(u64),
    /// Of the lost store; its task may have to be made.
    Repair(u32),
}

/// What is to be done, each at most a bounded number of times.
#[derive(Default, Debug)]
pub(crate) struct Steps {
    /// Groups whose leaving members may go, if nobody lacks anything.
    pub complete: Vec<u32>,
    /// Members that were stale, and are back.
    pub rejoin: Vec<(u32, u32)>,
    pub moves: Vec<(Account, PlannedMove)>,
    /// Members that an operator gave up, in groups without another full one, by their task; and who joins in their place.
    pub given_up: Vec<(u64, u32, u32, Option<u32>)>,
    /// Lost members that nobody can replace.
    pub stale: Vec<(u32, u32)>,
    /// Planned moves that have become impossible or pointless.
    pub dropped: Vec<(u32, u32)>,
    /// Tasks that have nothing left to do.
    pub done: Vec<u64>,
    /// Tasks that cannot go on by themselves, and why.
    pub waiting: BTreeMap<u64, String>,
    /// Groups of which no full member is live.
    pub headless: Vec<u32>,
    /// There will be something to do without a change of the map.
    pub unsettled: bool,
}

impl Steps {
    pub(crate) fn is_empty(&self) -> bool {
        self.complete.is_empty()
            && self.rejoin.is_empty()
            && self.moves.is_empty()
            && self.given_up.is_empty()
            && self.stale.is_empty()
            && self.dropped.is_empty()
            && self.done.is_empty()
    }

    fn has_room(&self) -> bool {
        self.moves.len() + self.given_up.len() + self.stale.len() < CHANGES_PER_LOOK
    }
}

fn is_live(stand: &Stand, store: u32) -> bool {
    stand.places.get(&store).is_some_and(|place| place.live)
}

/// A store that is not known at all is lost too.
fn is_lost(stand: &Stand, store: u32) -> bool {
    stand.places.get(&store).is_none_or(|place| place.lost)
}

/// Decides on one look. `tasks` are in order of their numbers.
pub(crate) fn decide(stand: &Stand, tasks: &[OpenTask], moves: &[MoveRow]) -> Steps {
    let mut steps = Steps::default();
    let mut loads = Loads::new(stand);
    for (pg, group) in &stand.groups {
        let row = &group.row;
        // What is away may be back or be lost without a change of the map.
        steps.unsettled |= members::leaving(row).next().is_some();
        steps.unsettled |= row.members.iter().any(|member| !is_live(stand, member.store));
        if steps.complete.len() < CHANGES_PER_LOOK && may_complete(stand, row) {
            steps.complete.push(*pg);
        }
        let stale = row.members.iter().filter(|member| member.state == MemberState::Stale);
        for member in stale.filter(|member| is_live(stand, member.store)) {
            if steps.rejoin.len() < CHANGES_PER_LOOK {
                steps.rejoin.push((*pg, member.store));
            }
            steps.unsettled = true;
        }
        if !members::full(row).any(|store| is_live(stand, store)) {
            steps.headless.push(*pg);
        }
    }
    let mut taken: BTreeSet<u32> = steps.rejoin.iter().map(|(pg, _)| *pg).collect();
    for task in tasks.iter().filter(|task| task.row.kind == TaskKind::GiveUp) {
        give_up(stand, task, moves, &mut loads, &mut taken, &mut steps);
    }
    repair(stand, tasks, moves, &mut loads, &mut taken, &mut steps);
    for task in tasks {
        match task.row.kind {
            TaskKind::Drain | TaskKind::Replace => drain(stand, task, moves, &mut loads, &mut taken, &mut steps),
            TaskKind::Balance | TaskKind::Add => follow(stand, task, moves, &mut loads, &mut taken, &mut steps),
            TaskKind::Repair | TaskKind::GiveUp | TaskKind::Unknown => {}
        }
    }
    steps.unsettled |= !tasks.is_empty() || !steps.is_empty();
    steps
}

/// The row allows that those who leave go, and no live copy goes while another member is silent.
fn may_complete(stand: &Stand, row: &rows::Pg) -> bool {
    let all_there = members::counting(row).all(|store| is_live(stand, store));
    members::completed(row).is_some() && (all_there || !members::leaving(row).any(|store| is_live(stand, store)))
}

/// Members that an operator gave up go at once from groups in which nobody else is full; from the others they go as any
/// that is lost. One that answers after all is left alone.
fn give_up(
    stand: &Stand,
    task: &OpenTask,
    moves: &[MoveRow],
    loads: &mut Loads<'_>,
    taken: &mut BTreeSet<u32>,
    steps: &mut Steps,
) {
    let (mut left, mut going, mut why) = (0, 0, None);
    for (pg, group) in &stand.groups {
        let given = |member: &&rows::Member| task.from.contains(&member.store) && !is_live(stand, member.store);
        for from in group.row.members.iter().filter(given).map(|member| member.store) {
            left += 1;
            let others_are_full = members::full(&group.row).any(|other| other != from);
            if others_are_full || taken.contains(pg) || !steps.has_room() {
                going += 1;
                continue;
            }
            let to = match loads.target(group, from, None, true) {
                Ok(to) => Some(to),
                Err(Nowhere::Busy) => {
                    going += 1;
                    continue;
                }
                Err(_) if group.row.members.len() > 1 => None,
                Err(nowhere) => {
                    why.get_or_insert_with(|| format!("group {pg}: {nowhere}; add nodes"));
                    continue;
                }
            };
            if let Some(to) = to {
                loads.take(&PlannedMove { pg: *pg, from, to, bytes: group.bytes }, true);
            }
            taken.insert(*pg);
            steps.given_up.push((task.id, *pg, from, to));
            going += 1;
        }
    }
    let under_way = moves.iter().any(|(_, _, row)| row.task == task.id && row.begun);
    match why {
        _ if left == 0 && !under_way => steps.done.push(task.id),
        Some(why) if going == 0 && !under_way => {
            steps.waiting.insert(task.id, why);
        }
        _ => {}
    }
}

/// Memberships of lost stores go to others, or turn stale.
fn repair(
    stand: &Stand,
    tasks: &[OpenTask],
    moves: &[MoveRow],
    loads: &mut Loads<'_>,
    taken: &mut BTreeSet<u32>,
    steps: &mut Steps,
) {
    // An operator said where these go, as long as they can go there.
    let takes = |store: &u32| stand.places.get(store).is_some_and(|place| place.takes);
    let replaced = |store: u32| {
        let named = |task: &&OpenTask| task.row.kind == TaskKind::Replace && task.from.contains(&store);
        tasks.iter().filter(named).any(|task| task.to.iter().any(takes))
    };
    // Nor does one that was given up need a task of its own.
    let given_up = |store: u32| {
        let named = |task: &&OpenTask| task.row.kind == TaskKind::GiveUp && task.from.contains(&store);
        tasks.iter().find(named).map(|task| task.id)
    };
    let mut endangered: Vec<(usize, u32, u32)> = Vec::new();
    let mut left: BTreeMap<u32, String> = BTreeMap::new();
    for (pg, group) in &stand.groups {
        let live = members::full(&group.row).filter(|store| is_live(stand, *store)).count();
        for member in group.row.members.iter().filter(|member| member.state != MemberState::Leaving) {
            if is_lost(stand, member.store) && !replaced(member.store) {
                endangered.push((live, *pg, member.store));
            }
        }
    }
    endangered.sort_unstable();
    steps.unsettled |= !endangered.is_empty();
    for (_, pg, from) in endangered {
        let group = &stand.groups[&pg];
        let is_full = members::full(&group.row).any(|store| store == from);
        if is_full && members::full(&group.row).count() == 1 {
            if given_up(from).is_none() {
                let why = || {
                    format!(
                        "group {pg} has no other full member: bring the store back, or give up what it alone holds: \
                         cairn admin give-up store:{from}"
                    )
                };
                left.entry(from).or_insert_with(why);
            }
            continue;
        }
        if taken.contains(&pg) || !steps.has_room() {
            left.entry(from).or_default();
            continue;
        }
        match loads.target(group, from, None, true) {
            Ok(to) => {
                let planned = PlannedMove { pg, from, to, bytes: group.bytes };
                loads.take(&planned, true);
                taken.insert(pg);
                let account = given_up(from).map_or(Account::Repair(from), Account::Task);
                steps.moves.push((account, planned));
                left.entry(from).or_default();
            }
            Err(Nowhere::Busy) => {
                left.entry(from).or_default();
            }
            Err(why @ (Nowhere::NoNode | Nowhere::NoRoom)) => {
                let counts = members::state_of(&group.row, from).is_some_and(counts_for_commit);
                if counts {
                    taken.insert(pg);
                    steps.stale.push((pg, from));
                }
                left.entry(from).or_insert_with(|| format!("group {pg}: {why}; add nodes"));
            }
        }
    }
    for task in tasks.iter().filter(|task| task.row.kind == TaskKind::Repair) {
        let under_way = moves.iter().any(|(_, _, row)| row.task == task.id);
        match left.get(&task.row.store) {
            None if !under_way => steps.done.push(task.id),
            Some(why) if !why.is_empty() && !under_way => {
                steps.waiting.insert(task.id, why.clone());
            }
            _ => {}
        }
    }
}

/// Memberships leave the stores of a task, each to the best place there is when its turn comes.
fn drain(
    stand: &Stand,
    task: &OpenTask,
    moves: &[MoveRow],
    loads: &mut Loads<'_>,
    taken: &mut BTreeSet<u32>,
    steps: &mut Steps,
) {
    let only = (task.row.kind == TaskKind::Replace).then_some(&task.to);
    let (mut left, mut begun, mut why) = (0, 0, None);
    for (pg, group) in &stand.groups {
        for member in group.row.members.iter().filter(|member| task.from.contains(&member.store)) {
            left += 1;
            if member.state == MemberState::Leaving {
                continue;
            }
            let from = member.store;
            // A live copy that is whole is given up only where nothing else is missing.
            let lost = is_lost(stand, from);
            let is_last = member.state == MemberState::Full && members::full(&group.row).count() == 1;
            let alone = lost && is_last && group.row.members.len() > 1;
            let whole = member.state == MemberState::Full;
            if alone || (whole && !lost && !plan::is_settled(stand, &group.row)) {
                why.get_or_insert_with(|| format!("group {pg} is not complete"));
                continue;
            }
            if taken.contains(pg) || !steps.has_room() {
                begun += 1;
                continue;
            }
            match loads.target(group, from, only, true) {
                Ok(to) => {
                    let planned = PlannedMove { pg: *pg, from, to, bytes: group.bytes };
                    loads.take(&planned, true);
                    taken.insert(*pg);
                    steps.moves.push((Account::Task(task.id), planned));
                    begun += 1;
                }
                Err(Nowhere::Busy) => begun += 1,
                Err(nowhere) => {
                    why.get_or_insert_with(|| format!("group {pg}: {nowhere}"));
                }
            }
        }
    }
    let under_way = moves.iter().any(|(_, _, row)| row.task == task.id && row.begun);
    match why {
        _ if left == 0 && !under_way => steps.done.push(task.id),
        Some(why) if begun == 0 && !under_way => {
            steps.waiting.insert(task.id, why);
        }
        _ => {}
    }
}

/// The moves that a task planned when it began.
fn follow(
    stand: &Stand,
    task: &OpenTask,
    moves: &[MoveRow],
    loads: &mut Loads<'_>,
    taken: &mut BTreeSet<u32>,
    steps: &mut Steps,
) {
    let (mut left, mut going, mut why) = (0, 0, None);
    for (pg, from, row) in moves.iter().filter(|(_, _, row)| row.task == task.id) {
        left += 1;
        if row.begun {
            going += 1;
            continue;
        }
        let group = stand.groups.get(pg);
        let holds = group.filter(|group| members::full(&group.row).any(|store| store == *from));
        let Some(group) = holds.filter(|_| !is_lost(stand, row.to)) else {
            if steps.dropped.len() < CHANGES_PER_LOOK {
                steps.dropped.push((*pg, *from));
            }
            continue;
        };
        if !plan::is_settled(stand, &group.row) {
            why.get_or_insert_with(|| format!("group {pg} is not complete"));
            continue;
        }
        if taken.contains(pg) || !steps.has_room() {
            going += 1;
            continue;
        }
        match loads.target(group, *from, Some(&BTreeSet::from([row.to])), true) {
            Ok(to) => {
                let planned = PlannedMove { pg: *pg, from: *from, to, bytes: group.bytes };
                loads.take(&planned, true);
                taken.insert(*pg);
                steps.moves.push((Account::Task(task.id), planned));
                going += 1;
            }
            Err(Nowhere::Busy) => going += 1,
            // A plan that the groups have overtaken.
            Err(_) if steps.dropped.len() < CHANGES_PER_LOOK => steps.dropped.push((*pg, *from)),
            Err(_) => {}
        }
    }
    match why {
        _ if left == 0 => steps.done.push(task.id),
        Some(why) if going == 0 => {
            steps.waiting.insert(task.id, why);
        }
        _ => {}
    }
}

/// True for a task that has not ended.
pub(crate) fn is_open(row: &rows::Task) -> bool {
    matches!(row.state, TaskState::Running | TaskState::Waiting)
}

#[cfg(test)]
mod tests;
