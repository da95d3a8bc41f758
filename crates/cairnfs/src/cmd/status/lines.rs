//! The state of the cluster as text.

use std::time::Duration;

use cairn_client::{ClusterStatus, GroupStatus, LogTarget, NodeStatus, StoreScrub, StoreStatus};

use super::Ledgers;
use crate::{
    cmd::admin::progress,
    failure::Failure,
    output::{Align, Out, Table},
    text,
};

/// A metadata server that beats every second is late when nothing was seen of it for this long.
const BEAT_LATE: Duration = Duration::from_secs(5);
/// Defects and groups that are shown; JSON has all.
const SHOWN_MAX: usize = 20;

/// The state in one line: what an operator wants to know first.
fn health(status: &ClusterStatus, ledgers: &Ledgers) -> String {
    let mut troubles = Vec::new();
    let away = status.nodes.iter().filter(|node| !matches!(node.state.as_str(), "up" | "replaced")).count();
    if away > 0 {
        troubles.push(format!("{} not up", text::count(away as u64, "node")));
    }
    let silent = status.servers.iter().filter(|server| server.silent_for > BEAT_LATE).count();
    if silent > 0 {
        troubles.push(format!("{} silent", text::count(silent as u64, "metadata server")));
    }
    if status.degraded_runs > 0 {
        troubles.push(text::count(status.degraded_runs, "degraded run"));
    }
    let rebuilding = |group: &&GroupStatus| group.members.iter().any(|member| member.state != "full");
    let rebuilding = status.groups.iter().filter(rebuilding).count();
    if status.groups_at_risk > 0 {
        troubles.push(format!("{} at risk", text::count(status.groups_at_risk, "group")));
    }
    if rebuilding > 0 {
        troubles.push(format!("{} rebuilding", text::count(rebuilding as u64, "group")));
    }
    let unrepaired = status.defects.iter().filter(|defect| !defect.repaired).count();
    if unrepaired > 0 {
        troubles.push(text::count(unrepaired as u64, "unrepaired defect"));
    }
    let stores = || there(status).map(|(_, store)| store);
    let open: u64 = ledgers.iter().map(|(_, page)| page.open).sum();
    if open > 0 {
        troubles.push(format!("{} open in ledgers", text::count(open, "defect")));
    }
    let behind = stores().filter(|store| store.scrub.is_some_and(|scrub| scrub.behind)).count();
    if behind > 0 {
        troubles.push(format!("scrub behind on {}", text::count(behind as u64, "store")));
    }
    let ailing = stores().filter(|store| !store.trouble.is_empty()).count();
    if ailing > 0 {
        troubles.push(format!("{} in trouble", text::count(ailing as u64, "store")));
    }
    let alarmed = stores().filter(|store| !store.alarm.is_empty()).count();
    if alarmed > 0 {
        troubles.push(format!("{} with an alarm", text::count(alarmed as u64, "store")));
    }
    if !status.alarms.is_empty() {
        troubles.push(text::count(status.alarms.len() as u64, "alarm"));
    }
    if status.groups.is_empty() {
        troubles.push("no placement group yet: files cannot be written".to_owned());
    }
    if troubles.is_empty() { "healthy".to_owned() } else { troubles.join(", ") }
}

/// Stores of nodes that were not replaced, with their nodes.
fn there(status: &ClusterStatus) -> impl Iterator<Item = (&NodeStatus, &StoreStatus)> {
    let nodes = status.nodes.iter().filter(|node| node.state != "replaced");
    nodes.flat_map(|node| node.stores.iter().map(move |store| (node, store)))
}

/// How far a node has metadata's log.
fn log_words(target: &LogTarget) -> String {
    match (target.node, target.whole, target.commits_behind) {
        (0, ..) => "no second node".to_owned(),
        (node, false, _) => format!("node {node} gets a snapshot"),
        (node, true, 0) => format!("node {node} has all"),
        (node, true, behind) => {
            format!("node {node} is {} ({:.1} s) behind", text::count(behind, "commit"), target.lag.as_secs_f64())
        }
    }
}

/// Writes the state as text.
pub(super) fn write(status: &ClusterStatus, ledgers: &Ledgers, out: &mut Out) -> Result<(), Failure> {
    out.line(format_args!("Health:   {}", health(status, ledgers)))?;
    for alarm in &status.alarms {
        out.line(format_args!("Alarm:    {alarm}"))?;
    }
    out.line(format_args!("Cluster:  {} on the {} engine", status.cluster_id, status.engine))?;
    if !status.log.is_empty() {
        let shipped: Vec<String> = status.log.iter().map(log_words).collect();
        out.line(format_args!("Log:      {}", shipped.join("; ")))?;
    }
    out.line(format_args!(
        "Files:    {}, {}B in files, {}",
        text::count(status.inodes, "inode"),
        text::human(status.file_bytes),
        text::count(status.sessions, "session")
    ))?;
    out.line(format_args!(
        "Space:    {} used of {}",
        text::human(status.used_bytes),
        text::human(status.capacity_bytes)
    ))?;
    out.line(format_args!("Runs:     {} degraded, {} garbage", status.degraded_runs, status.garbage_runs))?;
    out.line(format_args!(
        "Groups:   {}, {} incomplete, {} at risk",
        status.groups.len(),
        status.groups_incomplete,
        status.groups_at_risk
    ))?;
    for task in &status.tasks {
        let mut line = progress(task);
        if !task.reason.is_empty() {
            line.extend([": ", &task.reason]);
        }
        out.line(format_args!("Running:  {line}"))?;
    }
    out.line("")?;
    write_servers(status, out)?;
    let mut nodes = Table::new(&[
        Align::Left,
        Align::Left,
        Align::Left,
        Align::Left,
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Right,
    ]);
    nodes.row(["NODE", "ADDRESS", "STATE", "ZONE", "RACK", "SIZE", "USED", "BLOCKS"].map(str::to_owned));
    for node in &status.nodes {
        let place = |name: &str| if name.is_empty() { "-".to_owned() } else { name.to_owned() };
        nodes.row([
            node.id.to_string(),
            node.addr.clone(),
            node.state.clone(),
            place(&node.zone),
            place(&node.rack),
            text::human(node.capacity_bytes),
            text::human(node.used_bytes),
            node.blocks.to_string(),
        ]);
    }
    nodes.lines().into_iter().try_for_each(|line| out.line(line))?;
    out.line("")?;
    write_stores(status, out)?;
    out.line("")?;
    let mut groups = Table::new(&[Align::Left, Align::Right, Align::Right, Align::Right, Align::Left, Align::Left]);
    groups.row(["GROUP", "EPOCH", "REPLICAS", "BYTES", "TAKES", "MEMBERS (STORE:STATE)"].map(str::to_owned));
    for group in status.groups.iter().take(SHOWN_MAX) {
        let members = group.members.iter().map(|member| format!("{}:{}", member.store, member.state));
        groups.row([
            group.id.to_string(),
            group.epoch.to_string(),
            group.replicas.to_string(),
            text::human(group.bytes),
            if group.sealed { "no (sealed)" } else { "yes" }.to_owned(),
            members.collect::<Vec<_>>().join(" "),
        ]);
    }
    groups.lines().into_iter().try_for_each(|line| out.line(line))?;
    more(status.groups.len(), "group", out)?;
    if !status.defects.is_empty() {
        out.line("")?;
    }
    for defect in status.defects.iter().take(SHOWN_MAX) {
        out.line(format_args!(
            "defect: node {}, store {}, block {}: {}{}",
            defect.node,
            defect.store,
            defect.block,
            defect.cause,
            if defect.repaired { " (repaired)" } else { "" }
        ))?;
    }
    more(status.defects.len(), "defect", out)?;
    write_ledgers(ledgers, out)
}

/// The metadata servers; programs before this one told nothing of them.
fn write_servers(status: &ClusterStatus, out: &mut Out) -> Result<(), Failure> {
    use Align::{Left, Right};
    if status.servers.is_empty() {
        return Ok(());
    }
    let mut servers = Table::new(&[Left, Left, Left, Right, Left]);
    servers.row(["SERVER", "ADDRESS", "DUTIES", "LAST BEAT", "PROGRAM"].map(str::to_owned));
    for server in &status.servers {
        servers.row([
            server.id.to_string(),
            server.addr.clone(),
            if server.holds_duties { "holds them" } else { "-" }.to_owned(),
            format!("{:.1} s ago", server.silent_for.as_secs_f64()),
            if server.software.is_empty() { "unknown".to_owned() } else { server.software.clone() },
        ]);
    }
    servers.lines().into_iter().try_for_each(|line| out.line(line))?;
    out.line("")
}

fn write_stores(status: &ClusterStatus, out: &mut Out) -> Result<(), Failure> {
    use Align::{Left, Right};
    let mut stores = Table::new(&[Right, Right, Right, Right, Right, Left, Left]);
    stores.row(["STORE", "NODE", "GROUPS", "BLOCKS", "USED", "STATE", "READ AND CHECKED"].map(str::to_owned));
    for (node, store) in there(status) {
        let state = match (store.trouble.is_empty(), store.draining) {
            (false, _) => "in trouble",
            (true, true) => "draining",
            (true, false) => "well",
        };
        stores.row([
            store.id.to_string(),
            node.id.to_string(),
            store.groups.to_string(),
            store.blocks.to_string(),
            text::human(store.used_bytes),
            state.to_owned(),
            store.scrub.as_ref().map_or_else(|| "-".to_owned(), scrubbed),
        ]);
    }
    stores.lines().into_iter().try_for_each(|line| out.line(line))?;
    for (node, store) in there(status) {
        for what in [&store.trouble, &store.alarm].into_iter().filter(|what| !what.is_empty()) {
            out.line(format_args!("node {}, store {}: {what}", node.id, store.id))?;
        }
    }
    Ok(())
}

/// How a store stands with its scrub: `31 %, last complete 2026-11-23 18:26`.
fn scrubbed(scrub: &StoreScrub) -> String {
    let last = match scrub.last_complete_ns {
        0 => "never complete".to_owned(),
        time_ns => format!("complete {}", text::minute(time_ns)),
    };
    let share = (u128::from(scrub.bytes_done) * 100).checked_div(u128::from(scrub.bytes_total)).unwrap_or(100);
    let now = if scrub.running { format!("{share} % now, ") } else { String::new() };
    let behind = if scrub.behind { ", behind" } else { "" };
    format!("{now}{last}{behind}")
}

fn write_ledgers(ledgers: &Ledgers, out: &mut Out) -> Result<(), Failure> {
    if ledgers.iter().all(|(_, page)| page.entries.is_empty()) {
        return Ok(());
    }
    out.line("")?;
    out.line("newest in the ledgers (`cairn admin ledger` shows all):")?;
    for (node, page) in ledgers {
        for entry in &page.entries {
            let result = match (entry.result.as_str(), entry.trouble.as_str()) {
                ("", "") => "open".to_owned(),
                ("", trouble) => format!("open: {trouble}"),
                (result, _) => result.to_owned(),
            };
            let found = text::minute(entry.found_ns);
            let (store, block) = (entry.store, entry.block);
            let (cause, finder) = (&entry.cause, &entry.finder);
            out.line(format_args!(
                "node {node}, store {store}, {found}: block {block}: {cause}, found by {finder}: {result}"
            ))?;
        }
    }
    Ok(())
}

fn more(count: usize, noun: &str, out: &mut Out) -> Result<(), Failure> {
    match count.checked_sub(SHOWN_MAX) {
        None | Some(0) => Ok(()),
        Some(rest) => {
            out.line(format_args!("and {} (--json shows all)", text::count(rest as u64, &format!("more {noun}"))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_scrub_stands() {
        let scrub = StoreScrub { bytes_done: 31, bytes_total: 100, running: true, ..Default::default() };
        assert_eq!(scrubbed(&scrub), "31 % now, never complete");
        let last_complete_ns = 1_795_458_412_000_000_000;
        let done = StoreScrub { running: false, behind: true, last_complete_ns, ..scrub };
        assert_eq!(scrubbed(&done), "complete 2026-11-23 18:26, behind");
        assert_eq!(scrubbed(&StoreScrub { running: true, ..Default::default() }), "100 % now, never complete");
    }
}
