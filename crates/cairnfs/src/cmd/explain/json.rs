//! An explanation as JSON: one object, with a list for each kind of record. Times are microseconds, and `at` counts from
//! the first record.

use std::time::Duration;

use cairn_client::{LegRecord, NodeId, Record, ReplicaScore};
use serde_json::{Map, Value, json};

use super::Explained;
use crate::output::JsonPath;

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn maybe_micros(duration: Option<Duration>) -> Value {
    duration.map_or(Value::Null, |duration| micros(duration).into())
}

fn ids(nodes: &[NodeId]) -> Vec<u32> {
    nodes.iter().map(|node| node.0).collect()
}

/// When the first record was made.
pub fn origin(records: &[Record]) -> Duration {
    records.iter().map(Record::at).min().unwrap_or_default()
}

/// The whole explanation.
pub fn of(explained: &Explained) -> Value {
    let origin = origin(&explained.records);
    let mut lists: Map<String, Value> = ["orders", "legs", "hedges_skipped", "breakers", "parked", "pauses", "writes"]
        .map(|name| (name.to_owned(), json!([])))
        .into_iter()
        .collect();
    for record in &explained.records {
        let at_us = micros(record.at().saturating_sub(origin));
        let (list, mut value) = of_record(record);
        value["at_us"] = at_us.into();
        lists[list].as_array_mut().expect("made above").push(value);
    }
    let mut whole = json!({
        "operation": explained.operation,
        "offset": explained.offset,
        "len": explained.len,
        "bytes": explained.result.as_ref().ok(),
        "error": explained.result.as_ref().err(),
        "took_us": micros(explained.took),
        "checksum_us": micros(explained.checksum),
    });
    let path = serde_json::to_value(JsonPath::from(explained.path.as_path())).expect("a path is two strings");
    let whole_map = whole.as_object_mut().expect("made above");
    whole_map.extend(path.as_object().cloned().unwrap_or_default());
    whole_map.extend(lists);
    whole
}

fn of_record(record: &Record) -> (&'static str, Value) {
    match record {
        Record::Order { block, pg, replicas, .. } => {
            let replicas: Vec<Value> = replicas.iter().map(replica).collect();
            ("orders", json!({ "block": block.to_string(), "pg": pg.0, "replicas": replicas }))
        }
        Record::Leg(record) => ("legs", leg(record)),
        Record::HedgeSkipped { reason, .. } => ("hedges_skipped", json!({ "reason": reason })),
        Record::Breaker { node, to, reason, .. } => {
            ("breakers", json!({ "node": node.0, "to": to.name(), "reason": reason }))
        }
        Record::Parked { waited, released, .. } => {
            ("parked", json!({ "waited_us": micros(*waited), "released": released }))
        }
        Record::Pause { rounds, pause, .. } => ("pauses", json!({ "rounds": rounds, "pause_us": micros(*pause) })),
        Record::Write { block, pg, acked, late, quorum, .. } => {
            let (acked, late) = (ids(acked), ids(late));
            let value = json!({
                "block": block.to_string(), "pg": pg.0, "acked": acked, "late": late, "quorum": quorum,
            });
            ("writes", value)
        }
        // Kinds that a later library may add.
        _ => ("orders", json!({})),
    }
}

fn replica(of: &ReplicaScore) -> Value {
    json!({ "node": of.node.0, "state": of.state.name(), "score_us": micros(of.score), "sure": of.sure })
}

fn leg(of: &LegRecord) -> Value {
    json!({
        "op": of.op,
        "kind": of.kind,
        "node": of.node.0,
        "addr": of.addr,
        "outcome": of.outcome,
        "message": of.message,
        "bytes_sent": of.bytes_sent,
        "bytes_received": of.bytes_received,
        "queued_us": maybe_micros(of.queued),
        "sent_us": maybe_micros(of.sent),
        "first_byte_us": maybe_micros(of.first_byte),
        "took_us": micros(of.took),
        "network_us": micros(network(of)),
        "server_queue_us": micros(of.server_queue),
        "server_disk_us": micros(of.server_disk),
        "server_checksum_us": micros(of.server_checksum),
    })
}

/// What is left of a leg when its waiting here and the times its server told are taken away: the network, and what
/// nobody measures.
pub fn network(of: &LegRecord) -> Duration {
    let known = of.queued.unwrap_or_default() + of.server_queue + of.server_disk + of.server_checksum;
    of.took.saturating_sub(known)
}
