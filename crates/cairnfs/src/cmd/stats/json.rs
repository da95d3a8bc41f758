//! Statistics as JSON: the keys are the fields of `ConnectionStats`, durations are seconds.

use std::time::Duration;

use cairn_client::{
    ClassStats, ConnectionStats, ErrorRecord, LaneCounts, NodeConnectionStats, NodePing, OpStats, PoolStats, Quantiles,
};
use serde_json::{Value, json};

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// The whole picture; `pings` has the answer of each node.
pub fn of(stats: &ConnectionStats, pings: &[NodePing]) -> Value {
    let budget = |of: &cairn_client::BudgetStats| json!({ "name": of.name, "tokens": of.tokens, "cap": of.cap, "refused": of.refused });
    json!({
        "total_requests": stats.total_requests,
        "failed_requests": stats.failed_requests,
        "success_rate": success_rate(stats),
        "bytes_sent": stats.bytes_sent,
        "bytes_received": stats.bytes_received,
        "last_error": stats.last_error.as_ref().map(error),
        "operations": stats.operations.iter().map(operation).collect::<Vec<_>>(),
        "legs": stats.legs,
        "node_legs": stats.node_legs,
        "failed_legs": stats.failed_legs,
        "attempts": {
            "first": stats.attempts.first,
            "failover": stats.attempts.failover,
            "retry": stats.attempts.retry,
            "hedge": stats.attempts.hedge,
        },
        "hedges": {
            "fired": stats.hedges.fired,
            "won": stats.hedges.won,
            "lost": stats.hedges.lost,
            "skipped": stats.hedges.skipped,
        },
        "budgets": stats.budgets.iter().map(budget).collect::<Vec<_>>(),
        "breakers": {
            "opened": stats.breakers.opened,
            "closed": stats.breakers.closed,
            "open_now": stats.breakers.open_now,
            "probes": stats.breakers.probes,
            "pings": stats.breakers.pings,
        },
        "parked": { "now": stats.parked.now, "total": stats.parked.total, "shed": stats.parked.shed },
        "writes": {
            "all": stats.writes.all,
            "quorum": stats.writes.quorum,
            "failed": stats.writes.failed,
            "stragglers": stats.writes.stragglers,
            "straggler_bytes_max": stats.writes.straggler_bytes_max,
            "dropped": stats.writes.dropped,
            "late_in_commit": stats.writes.late_in_commit,
            "late_cleared": stats.writes.late_cleared,
            "late_dropped": stats.writes.late_dropped,
            "commits_done": stats.writes.commits_done,
            "commits_failed": stats.writes.commits_failed,
            "commits_unknown": stats.writes.commits_unknown,
        },
        "corrupt_blocks": stats.corrupt_blocks,
        "pool": pool(&stats.pool),
        "tasks": stats.tasks,
        "nodes": stats.nodes.iter().map(|of| node(of, pings)).collect::<Vec<_>>(),
    })
}

/// Share of the operations that succeeded, from 0 to 1; 1 before the first.
pub fn success_rate(stats: &ConnectionStats) -> f64 {
    match stats.total_requests {
        0 => 1.0,
        total => 1.0 - stats.failed_requests as f64 / total as f64,
    }
}

fn error(of: &ErrorRecord) -> Value {
    json!({
        "node": of.node.map(|node| node.0),
        "addr": of.addr,
        "op": of.op,
        "class": of.class.map(cairn_client::FailureClass::name),
        "message": of.message,
        "at": seconds(of.at),
    })
}

fn operation(of: &OpStats) -> Value {
    json!({ "op": of.op, "ok": of.ok, "failed": of.failed, "latency": quantiles(&of.latency) })
}

fn quantiles(of: &Quantiles) -> Value {
    json!({ "p50": seconds(of.p50), "p95": seconds(of.p95), "p99": seconds(of.p99), "p999": seconds(of.p999) })
}

fn class(of: &ClassStats) -> Value {
    json!({
        "ewma": seconds(of.ewma),
        "srtt": seconds(of.srtt),
        "rttvar": seconds(of.rttvar),
        "timer": seconds(of.timer),
        "recent": quantiles(&of.recent),
    })
}

fn lane(of: &LaneCounts) -> Value {
    json!({
        "dialing": of.dialing,
        "idle": of.idle,
        "busy": of.busy,
        "draining": of.draining,
        "retired": of.retired,
    })
}

fn pool(of: &PoolStats) -> Value {
    json!({
        "dialing": of.dialing,
        "open": of.open,
        "idle": of.idle,
        "busy": of.busy,
        "draining": of.draining,
        "retired": of.retired,
        "bulk_open": of.bulk_open,
        "control": lane(&of.control),
        "bulk": lane(&of.bulk),
        "waiting": of.waiting,
        "dials": of.dials,
        "dial_failures": of.dial_failures,
        "closes_by_reason": of.closes_by_reason,
        "stale_retries": of.stale_retries,
        "cancels": of.cancels,
        "late_responses": of.late_responses,
        "ops_taken": of.ops_taken,
        "bytes_taken": of.bytes_taken,
        "tasks": of.tasks,
    })
}

fn node(of: &NodeConnectionStats, pings: &[NodePing]) -> Value {
    let answer =
        pings.iter().find(|ping| ping.node == of.node && ping.addr == of.addr).map(|ping| match &ping.answer {
            Ok(answer) => json!({
                "took": seconds(answer.took),
                "queue_depth": answer.queue_depth,
                "disk_stall": seconds(answer.disk_stall),
                "draining": answer.draining,
            }),
            Err(why) => json!({ "error": why }),
        });
    json!({
        "node": of.node.0,
        "addr": of.addr,
        "state": of.state.name(),
        "breaker_opens": of.breaker_opens,
        "open_reason": of.open_reason,
        "in_flight": of.in_flight,
        "answered": of.answered,
        "failed": of.failed,
        "small": class(&of.small),
        "bulk": class(&of.bulk),
        "write": class(&of.write),
        "last_received": of.last_received.map(seconds),
        "ping_rtt": seconds(of.ping_rtt),
        "pings": of.pings,
        "probes": of.probes,
        "failed_probes": of.failed_probes,
        "stragglers": of.stragglers,
        "straggler_bytes": of.straggler_bytes,
        "corrupt_blocks": of.corrupt_blocks,
        "pool": pool(&of.pool),
        "ping": answer,
    })
}
