//! An explanation for people.

use cairn_client::{LegRecord, NodeId, Record, ReplicaScore};

use super::{
    Explained,
    json::{network, origin},
};
use crate::{
    failure::Failure,
    output::{Align, Out, Table},
    text::{self, millis},
};

/// Writes the whole explanation.
pub fn write(explained: &Explained, out: &mut Out) -> Result<(), Failure> {
    let outcome = match &explained.result {
        Ok(bytes) => format!("{} in {}", text::count(*bytes, "byte"), millis(explained.took)),
        Err(why) => format!("failed after {}: {why}", millis(explained.took)),
    };
    out.line(format_args!(
        "{} {} from {} on, {} asked for: {outcome}",
        explained.operation,
        text::path(&explained.path),
        explained.offset,
        text::count(explained.len, "byte"),
    ))?;
    out.line(format_args!("checksums here: {}", millis(explained.checksum)))?;
    out.line("")?;
    let mut legs = Table::new(HEADS.map(|head| if head.1 { Align::Left } else { Align::Right }).as_slice());
    legs.row(HEADS.map(|head| head.0.to_owned()));
    let origin = origin(&explained.records);
    for record in &explained.records {
        match record {
            Record::Leg(leg) => legs.row(row(leg, &millis(leg.at.saturating_sub(origin)))),
            other => {
                let at = millis(other.at().saturating_sub(origin));
                if let Some(what) = event(other) {
                    out.line(format_args!("at {at}: {what}"))?;
                }
            }
        }
    }
    out.line("")?;
    legs.lines().iter().try_for_each(|line| out.line(line))?;
    let messages = explained.records.iter().filter_map(|record| match record {
        Record::Leg(leg) if !leg.message.is_empty() => Some(leg),
        _ => None,
    });
    for leg in messages {
        out.line(format_args!("{} at {}: {}", leg.op, leg.addr, leg.message))?;
    }
    Ok(())
}

/// Columns of the legs, and whether they are words.
const HEADS: [(&str, bool); 14] = [
    ("AT", false),
    ("OP", true),
    ("KIND", true),
    ("NODE", false),
    ("ADDRESS", true),
    ("TOOK", false),
    ("QUEUE", false),
    ("NETWORK", false),
    ("SERVER QUEUE", false),
    ("DISK", false),
    ("CHECKSUM", false),
    ("SENT", false),
    ("RECEIVED", false),
    ("OUTCOME", true),
];

fn row(leg: &LegRecord, at: &str) -> [String; 14] {
    [
        at.to_owned(),
        leg.op.to_owned(),
        leg.kind.to_owned(),
        name(leg.node),
        leg.addr.clone(),
        millis(leg.took),
        leg.queued.map_or_else(|| "-".to_owned(), millis),
        millis(network(leg)),
        millis(leg.server_queue),
        millis(leg.server_disk),
        millis(leg.server_checksum),
        text::human(leg.bytes_sent),
        text::human(leg.bytes_received),
        leg.outcome.to_owned(),
    ]
}

fn name(node: NodeId) -> String {
    if node.0 == 0 { "meta".to_owned() } else { node.0.to_string() }
}

fn names(nodes: &[NodeId]) -> String {
    if nodes.is_empty() {
        "nobody".to_owned()
    } else {
        nodes.iter().map(|node| name(*node)).collect::<Vec<_>>().join(", ")
    }
}

/// What happened beside the legs.
fn event(record: &Record) -> Option<String> {
    let what = match record {
        Record::Order { block, pg, replicas, .. } => {
            let replicas: Vec<String> = replicas.iter().map(replica).collect();
            format!("block {block} of {pg}: asked in the order {}", replicas.join(", "))
        }
        Record::HedgeSkipped { reason, .. } => format!("no hedge: {reason}"),
        Record::Breaker { node, to, reason, .. } => {
            format!("breaker of node {} is {}: {reason}", name(*node), to.name())
        }
        Record::Parked { waited, released: true, .. } => format!("waited {} until a replica was back", millis(*waited)),
        Record::Parked { waited, released: false, .. } => format!("waited {} in vain for a replica", millis(*waited)),
        Record::Pause { rounds, pause, .. } => {
            format!("{} failed everywhere, pause of {}", text::count(u64::from(*rounds), "round"), millis(*pause))
        }
        Record::Write { block, pg, acked, late, quorum, .. } => {
            let verdict = if *quorum { "good enough" } else { "given up" };
            let late = if late.is_empty() { String::new() } else { format!(", not by {}", names(late)) };
            format!("block {block} of {pg} is {verdict}: acked by {}{late}", names(acked))
        }
        // Legs have a table of their own; a later library may know more kinds.
        _ => return None,
    };
    Some(what)
}

fn replica(of: &ReplicaScore) -> String {
    let sure = if of.sure { "" } else { ", may lack it" };
    format!("node {} ({}, score {}{sure})", name(of.node), of.state.name(), millis(of.score))
}
