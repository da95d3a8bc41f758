//! `cairn admin drain`, `add`, `replace`, `balance`, `tasks`: changes of memberships.

use std::collections::BTreeMap;

use cairn_client::{Admin, Change, EndangeredGroup, Move, Plan, Task, TaskKind, TaskState};
use serde::Serialize;
use tokio::time::sleep;

use super::{POLL, Places, is_passing, share, span};
use crate::{
    args,
    cmd::live::Live,
    failure::Failure,
    output::{Align, Out, Table},
    text,
};

/// A task in JSON.
#[derive(Debug, Serialize)]
pub(in crate::cmd) struct TaskJson {
    id: u64,
    kind: &'static str,
    state: &'static str,
    reason: String,
    /// As `node:3`, `store:7`.
    subject: Option<String>,
    to: Option<String>,
    moves_total: u64,
    moves_done: u64,
    bytes_total: u64,
    bytes_done: u64,
    eta_seconds: Option<u64>,
    started: Option<String>,
    ended: Option<String>,
}

impl From<&Task> for TaskJson {
    fn from(task: &Task) -> Self {
        let time = |time_ns: i64| (time_ns != 0).then(|| text::rfc3339(time_ns));
        Self {
            id: task.id,
            kind: task.kind.name(),
            state: task.state.name(),
            reason: task.reason.clone(),
            subject: task.subject.map(|subject| subject.to_string()),
            to: task.to.map(|to| to.to_string()),
            moves_total: task.moves_total,
            moves_done: task.moves_done,
            bytes_total: task.bytes_total,
            bytes_done: task.bytes_done,
            eta_seconds: task.eta.map(|eta| eta.as_secs()),
            started: time(task.started_ns),
            ended: time(task.ended_ns),
        }
    }
}

/// What a plan means for one store.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
struct StorePlan {
    store: u64,
    node: u64,
    moves_out: u64,
    bytes_out: u64,
    moves_in: u64,
    bytes_in: u64,
}

#[derive(Serialize)]
struct MoveJson {
    pg: u64,
    from: u64,
    to: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct PlanJson {
    dry_run: bool,
    task: TaskJson,
    stores: Vec<StorePlan>,
    moves: Vec<MoveJson>,
    /// Groups of which nobody else is known to hold everything: what a give-up may lose.
    endangered: Vec<EndangeredJson>,
}

#[derive(Serialize)]
struct EndangeredJson {
    pg: u64,
    bytes: u64,
    other_members: u64,
}

/// Moves summed up by store.
fn by_store(moves: &[Move], places: &Places) -> Vec<StorePlan> {
    let mut stores: BTreeMap<u32, StorePlan> = BTreeMap::new();
    for Move { from, to, bytes, .. } in moves {
        let giver = stores.entry(*from).or_default();
        giver.moves_out += 1;
        giver.bytes_out += bytes;
        let taker = stores.entry(*to).or_default();
        taker.moves_in += 1;
        taker.bytes_in += bytes;
    }
    let named =
        |(store, plan): (u32, StorePlan)| StorePlan { store: store.into(), node: places.node_of(store).into(), ..plan };
    stores.into_iter().map(named).collect()
}

/// What a task is, in a line: `drain node:2`.
fn title(task: &Task) -> String {
    let to = |to| format!(" to {to}");
    let subject = task.subject.map_or_else(String::new, |subject| format!(" {subject}"));
    format!("{}{subject}{}", task.kind.name(), task.to.map_or_else(String::new, to))
}

/// Plans a change and, unless it is a rehearsal, has it begun and perhaps waits for it.
pub(super) async fn change(
    change: Change,
    flags: &args::TaskFlags,
    admin: &Admin,
    places: &Places,
    out: &mut Out,
) -> Result<(), Failure> {
    let planned = if flags.dry_run { admin.plan(change).await } else { admin.start_task(change).await };
    let mut plan = planned.map_err(|error| Failure::admin(&error))?;
    let ended = if flags.json { None } else { Some(write_plan(&plan, flags, places, out)?) };
    if flags.wait && plan.task.id != 0 {
        out.flush()?;
        plan.task = wait(admin, &plan.task).await?;
        if ended.is_some() {
            write_end(&plan.task, out)?;
        }
    }
    if flags.json {
        let moved = |m: &Move| MoveJson { pg: m.pg.into(), from: m.from.into(), to: m.to.into(), bytes: m.bytes };
        out.json(&PlanJson {
            dry_run: flags.dry_run,
            task: TaskJson::from(&plan.task),
            stores: by_store(&plan.moves, places),
            moves: plan.moves.iter().map(moved).collect(),
            endangered: plan.endangered.iter().map(endangered).collect(),
        })?;
    }
    if flags.wait && plan.task.state == TaskState::Cancelled {
        out.flush()?;
        return Err(Failure::at(title(&plan.task), "was cancelled; what had moved stays where it is"));
    }
    Ok(())
}

fn endangered(group: &EndangeredGroup) -> EndangeredJson {
    EndangeredJson { pg: group.pg.into(), bytes: group.bytes, other_members: group.others.into() }
}

/// What giving a store up may lose, as far as metadata knows.
fn write_endangered(groups: &[EndangeredGroup], out: &mut Out) -> Result<(), Failure> {
    if groups.is_empty() {
        return out.line("nothing is lost: every group has another member that holds everything");
    }
    let bytes = groups.iter().map(|group| group.bytes).sum();
    out.line(format_args!(
        "{} have no other member that is known to hold everything; up to {} may be lost (`cairn fsck` names the files):",
        text::count(groups.len() as u64, "group"),
        text::human(bytes)
    ))?;
    for EndangeredGroup { pg, bytes, others } in groups {
        let others = match others {
            0 => "no other member answers".to_owned(),
            others => format!("{} a part", text::count(u64::from(*others), "other member") + " holding"),
        };
        out.line(format_args!("  group {pg}: {}, {others}", text::human(*bytes)))?;
    }
    Ok(())
}

fn write_plan(plan: &Plan, flags: &args::TaskFlags, places: &Places, out: &mut Out) -> Result<(), Failure> {
    let Plan { task, moves, endangered } = plan;
    let eta = match task.eta {
        _ if task.bytes_total == 0 => String::new(),
        Some(eta) => format!(", about {}", span(eta)),
        None => ", time not known yet".to_owned(),
    };
    out.line(format_args!(
        "{}: {}, {} to copy{eta}",
        title(task),
        text::count(task.moves_total, "move"),
        text::human(task.bytes_total)
    ))?;
    if task.moves_total > moves.len() as u64 && !moves.is_empty() {
        out.line(format_args!("the first {} of them:", moves.len()))?;
    }
    if !moves.is_empty() {
        use Align::{Left, Right};
        let mut table = Table::new(&[Right, Right, Left, Right, Right, Right, Right]);
        table.row(["STORE", "NODE", "ADDRESS", "GIVES", "BYTES", "TAKES", "BYTES"].map(str::to_owned));
        for store in by_store(moves, places) {
            let node = u32::try_from(store.node).unwrap_or_default();
            table.row([
                store.store.to_string(),
                store.node.to_string(),
                places.addr(node).to_owned(),
                store.moves_out.to_string(),
                text::human(store.bytes_out),
                store.moves_in.to_string(),
                text::human(store.bytes_in),
            ]);
        }
        table.lines().into_iter().try_for_each(|line| out.line(line))?;
    }
    if !task.reason.is_empty() {
        out.line(&task.reason)?;
    }
    let gives_up = task.kind == TaskKind::GiveUp;
    if gives_up {
        write_endangered(endangered, out)?;
    }
    match (flags.dry_run, flags.wait) {
        (true, _) if gives_up => out.line("nothing was done: say --yes to give it up"),
        (true, _) => out.line("nothing was done (--dry-run)"),
        (false, true) => Ok(()),
        (false, false) => out.line(format_args!("task {} has begun; `cairn admin tasks` shows it", task.id)),
    }
}

fn write_end(task: &Task, out: &mut Out) -> Result<(), Failure> {
    out.line(format_args!(
        "task {}: {}, {}, {} copied",
        task.id,
        task.state.name(),
        text::count(task.moves_done, "move"),
        text::human(task.bytes_done)
    ))
}

/// Asks until the task has ended. Servers may be restarted meanwhile: whoever does not answer is asked again.
async fn wait(admin: &Admin, begun: &Task) -> Result<Task, Failure> {
    let mut live = Live::new(true);
    let mut silent = false;
    let mut reason = String::new();
    let ended = loop {
        match admin.list_tasks().await {
            Ok(tasks) => {
                silent = false;
                let Some(task) = tasks.into_iter().find(|task| task.id == begun.id) else {
                    live.finish();
                    let what = "is not in the list any more: look with `cairn admin tasks` and `cairn status`";
                    return Err(Failure::at(format_args!("task {}", begun.id), what));
                };
                if task.state == TaskState::Waiting && task.reason != reason {
                    live.say(format_args!("task {} waits: {}", task.id, task.reason));
                    reason.clone_from(&task.reason);
                }
                live.set(progress(&task));
                if task.state.has_ended() {
                    break task;
                }
            }
            Err(error) if is_passing(error.kind()) => {
                if !silent {
                    live.say("metadata does not answer; the task goes on when it is back");
                }
                silent = true;
            }
            Err(error) => {
                live.finish();
                return Err(Failure::admin(&error));
            }
        }
        sleep(POLL).await; // tidy: sleep-ok(an operator waits for the cluster)
    };
    live.finish();
    Ok(ended)
}

pub(in crate::cmd) fn progress(task: &Task) -> String {
    let left = match (task.state, task.eta) {
        (TaskState::Waiting, _) => ", waiting".to_owned(),
        (_, Some(eta)) => format!(", {} left", span(eta)),
        (_, None) => String::new(),
    };
    format!(
        "task {}: {}: {} of {} moves, {}{left}",
        task.id,
        title(task),
        task.moves_done,
        task.moves_total,
        share(task.bytes_done, task.bytes_total)
    )
}

/// Runs `cairn admin tasks`.
pub(super) async fn list(args: &args::Tasks, admin: &Admin, out: &mut Out) -> Result<(), Failure> {
    let tasks = admin.list_tasks().await.map_err(|error| Failure::admin(&error))?;
    if args.json {
        return out.json(&tasks.iter().map(TaskJson::from).collect::<Vec<_>>());
    }
    if tasks.is_empty() {
        return out.line("no tasks");
    }
    use Align::{Left, Right};
    let mut table = Table::new(&[Right, Left, Left, Right, Right, Left, Left, Left]);
    table.row(["TASK", "WHAT", "STATE", "MOVES", "BYTES", "LEFT", "STARTED", "REASON"].map(str::to_owned));
    for task in &tasks {
        table.row([
            task.id.to_string(),
            title(task),
            task.state.name().to_owned(),
            format!("{} of {}", task.moves_done, task.moves_total),
            share(task.bytes_done, task.bytes_total),
            task.eta.filter(|_| !task.state.has_ended()).map_or_else(|| "-".to_owned(), span),
            text::minute(task.started_ns),
            task.reason.clone(),
        ]);
    }
    table.lines().into_iter().try_for_each(|line| out.line(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_are_summed_up_by_store() {
        let places = Places { nodes: BTreeMap::new(), stores: BTreeMap::from([(1, 10), (2, 20)]) };
        let moves = [
            Move { pg: 1, from: 1, to: 2, bytes: 5 },
            Move { pg: 2, from: 1, to: 3, bytes: 7 },
            Move { pg: 3, from: 2, to: 3, bytes: 1 },
        ];
        let plan = |store, node, moves_out, bytes_out, moves_in, bytes_in| StorePlan {
            store,
            node,
            moves_out,
            bytes_out,
            moves_in,
            bytes_in,
        };
        let expected = [plan(1, 10, 2, 12, 0, 0), plan(2, 20, 1, 1, 1, 5), plan(3, 0, 0, 0, 2, 8)];
        assert_eq!(by_store(&moves, &places), expected);
    }
}
