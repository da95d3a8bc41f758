//! What a client measured, as text for Prometheus. What each name means is in docs/operations/metrics.md.

use crate::client::DfsClient;
use crate::policy::breaker::BreakerState;
use crate::stats::{ConnectionStats, LaneCounts, NodeConnectionStats};
use cairn_metrics::{Exposition, Page, Reading, Source};
use cairn_net::{WAIT_BOUNDS_US, WaitStats};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// From this many nodes on, nodes are not told apart: their number times that of everything else is more than a
/// monitoring system should keep for each client.
const NODES_APART_MAX: usize = 200;
/// What stands for a node then.
const ALL_NODES: &str = "all";
/// What metadata servers are called among nodes; they are not told apart.
const META: &str = "meta";

impl DfsClient {
    /// All measurements of this client since it was made, in the OpenMetrics text format that Prometheus reads; the same
    /// figures as [`DfsClient::get_connection_stats`]. Waits for nothing.
    pub fn prometheus(&self) -> String {
        text(self.connection_stats())
    }
}

fn text(stats: ConnectionStats) -> String {
    let mut exposition = Exposition::new();
    exposition.add(Arc::new(Snapshot::new(stats)));
    exposition.text()
}

/// The figures of one moment.
struct Snapshot {
    stats: ConnectionStats,
    /// Nodes are told apart.
    apart: bool,
}

impl Snapshot {
    fn new(stats: ConnectionStats) -> Self {
        let apart = stats.nodes.len() < NODES_APART_MAX;
        Self { stats, apart }
    }

    fn label(&self, node: u32) -> String {
        match node {
            0 => META.to_owned(),
            _ if !self.apart => ALL_NODES.to_owned(),
            node => node.to_string(),
        }
    }

    /// A value of each node under its label; those that share a label are merged.
    fn by_node<V>(&self, value: impl Fn(&NodeConnectionStats) -> V, merge: impl Fn(&mut V, V)) -> BTreeMap<String, V> {
        let mut values = BTreeMap::new();
        for node in &self.stats.nodes {
            let next = value(node);
            match values.entry(self.label(node.node.0)) {
                std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(next)),
                std::collections::btree_map::Entry::Occupied(mut entry) => merge(entry.get_mut(), next),
            }
        }
        values
    }

    fn sum_by_node(&self, value: impl Fn(&NodeConnectionStats) -> u64) -> BTreeMap<String, u64> {
        self.by_node(value, |sum, next| *sum += next)
    }
}

impl Source for Snapshot {
    fn measure(&self, page: &mut Page<'_>) -> fmt::Result {
        self.measure_operations(page)?;
        self.measure_legs(page)?;
        self.measure_policies(page)?;
        self.measure_connections(page)?;
        self.measure_integrity(page)?;
        self.measure_writes(page)
    }
}

impl Snapshot {
    fn measure_operations(&self, page: &mut Page<'_>) -> fmt::Result {
        let operations = &self.stats.operations;
        page.counter("cairn_client_requests_total", "Operations of the caller, by outcome.", |family| {
            for of in operations {
                if of.ok > 0 {
                    family.count(&[("op", of.op), ("outcome", "ok")], of.ok)?;
                }
                for (kind, count) in &of.failed {
                    family.count(&[("op", of.op), ("outcome", kind)], *count)?;
                }
            }
            Ok(())
        })?;
        page.histogram("cairn_client_request_duration_seconds", "Time of operations of the caller.", |family| {
            operations
                .iter()
                .try_for_each(|of| family.reading(&[("op", of.op)], &reading(&of.latency_counts, of.latency_sum)))
        })
    }

    fn measure_legs(&self, page: &mut Page<'_>) -> fmt::Result {
        let help = "Requests to single servers, by why they were begun and how they ended.";
        page.counter("cairn_client_legs_total", help, |family| {
            self.stats.legs_by_kind.iter().try_for_each(|legs| {
                let labels = [("op", legs.op), ("kind", legs.kind), ("outcome", legs.outcome)];
                family.count(&labels, legs.count)
            })
        })?;
        let mut latencies: BTreeMap<(&str, String), (Vec<u64>, Duration)> = BTreeMap::new();
        for of in &self.stats.leg_latencies {
            let (counts, sum) = latencies.entry((of.op, self.label(of.node.0))).or_default();
            counts.resize(counts.len().max(of.counts.len()), 0);
            counts.iter_mut().zip(&of.counts).for_each(|(mine, theirs)| *mine += theirs);
            *sum += of.sum;
        }
        let help = "Time of requests to single servers that were answered.";
        page.histogram("cairn_client_leg_duration_seconds", help, |family| {
            latencies.iter().try_for_each(|((op, node), (counts, sum))| {
                family.reading(&[("op", op), ("node", node.as_str())], &reading(counts, *sum))
            })
        })?;
        let hedges = &self.stats.hedges;
        page.counter("cairn_client_hedges_total", "Second copies of slow requests, by what became of them.", |family| {
            family.count(&[("result", "won")], hedges.won)?;
            family.count(&[("result", "lost")], hedges.lost)?;
            hedges.skipped.iter().try_for_each(|(reason, count)| {
                family.count(&[("result", format!("skipped_{reason}").as_str())], *count)
            })
        })
    }

    fn measure_policies(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge("cairn_client_budget_tokens", "Tokens left of a budget.", |family| {
            self.stats.budgets.iter().try_for_each(|of| family.real(&[("budget", of.name)], of.tokens))
        })?;
        let help = "Circuit breaker of a node: 0 closed, 1 draining, 2 probing, 3 open; the highest of several.";
        let states = self.by_node(|node| rank(node.state), |highest, next| *highest = (*highest).max(next));
        page.gauge("cairn_client_breaker_state", help, |family| {
            states.iter().try_for_each(|(node, state)| family.count(&[("node", node)], *state))
        })?;
        let mut transitions: BTreeMap<(String, &str, &str), u64> = BTreeMap::new();
        for of in &self.stats.breaker_transitions {
            *transitions.entry((self.label(of.node.0), of.to, of.reason)).or_default() += of.count;
        }
        page.counter("cairn_client_breaker_transitions_total", "Changes of state of circuit breakers.", |family| {
            transitions.iter().try_for_each(|((node, to, reason), count)| {
                family.count(&[("node", node.as_str()), ("to", to), ("reason", reason)], *count)
            })
        })?;
        let help = "After this a further replica may be asked beside one that is silent; the longest of several.";
        let timers = self.by_node(
            |node| [("read_small", node.small.timer), ("read_bulk", node.bulk.timer), ("write", node.write.timer)],
            |longest, next| longest.iter_mut().zip(next).for_each(|(mine, theirs)| mine.1 = mine.1.max(theirs.1)),
        );
        page.gauge("cairn_client_soft_timeout_seconds", help, |family| {
            timers.iter().try_for_each(|(node, timers)| {
                timers.iter().try_for_each(|(op, timer)| {
                    family.real(&[("node", node.as_str()), ("op", op)], timer.as_secs_f64())
                })
            })
        })?;
        let help = "Operations that wait until one of their replicas is back.";
        page.gauge("cairn_client_parked_ops", help, |family| family.count(&[], self.stats.parked.now))
    }

    fn measure_connections(&self, page: &mut Page<'_>) -> fmt::Result {
        let lanes = self.by_node(
            |node| [("control", node.pool.control), ("bulk", node.pool.bulk)],
            |mine, theirs| mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| mine.1.add(&theirs.1)),
        );
        page.gauge("cairn_client_connections", "Connections by lane and state.", |family| {
            for (node, lanes) in &lanes {
                for (lane, counts) in lanes {
                    for (state, count) in states_of(counts) {
                        family.count(&[("node", node.as_str()), ("lane", lane), ("state", state)], count)?;
                    }
                }
            }
            Ok(())
        })?;
        let dials = self.by_node(
            |node| (node.pool.dials, node.pool.dial_failures),
            |sum, next| *sum = (sum.0 + next.0, sum.1 + next.1),
        );
        page.counter("cairn_client_dials_total", "Connections dialled, by outcome.", |family| {
            dials.iter().try_for_each(|(node, (ok, failed))| {
                family.count(&[("node", node.as_str()), ("outcome", "ok")], *ok)?;
                family.count(&[("node", node.as_str()), ("outcome", "failed")], *failed)
            })
        })?;
        page.counter("cairn_client_connection_closes_total", "Connections that ended, by reason.", |family| {
            let closes = &self.stats.pool.closes_by_reason;
            closes.iter().try_for_each(|(reason, count)| family.count(&[("reason", reason)], *count))
        })?;
        let help = "Time that requests waited until a connection took them.";
        page.histogram("cairn_client_pool_wait_seconds", help, |family| {
            family.reading(&[], &wait_reading(&self.stats.pool.wait))
        })?;
        page.counter("cairn_client_io_bytes_total", "Bytes on sockets, frames included.", |family| {
            family.count(&[("direction", "received")], self.stats.bytes_received)?;
            family.count(&[("direction", "sent")], self.stats.bytes_sent)
        })?;
        let help = "Answers that came after nobody waited for them any more.";
        page.counter("cairn_client_late_responses_total", help, |family| {
            family.count(&[], self.stats.pool.late_responses)
        })
    }

    fn measure_integrity(&self, page: &mut Page<'_>) -> fmt::Result {
        let blocks = self.sum_by_node(|node| node.corrupt_blocks);
        let frames = self.sum_by_node(|node| node.pool.frame_crc_failures);
        let help = "Bytes that did not match their checksums: of a block, end to end, or of a frame.";
        page.counter("cairn_client_crc_failures_total", help, |family| {
            for (place, counts) in [("block", &blocks), ("frame", &frames)] {
                counts
                    .iter()
                    .try_for_each(|(node, count)| family.count(&[("where", place), ("node", node)], *count))?;
            }
            Ok(())
        })?;
        let cache = &self.stats.block_cache;
        let help = "Chunks that were looked for in the block cache.";
        page.counter("cairn_client_block_cache_chunks_total", help, |family| {
            family.count(&[("result", "hit")], cache.hits)?;
            family.count(&[("result", "miss")], cache.misses)?;
            family.count(&[("result", "damaged")], cache.damaged)
        })?;
        let help = "Bytes of these chunks: from the cache, or from storage nodes into it.";
        page.counter("cairn_client_block_cache_bytes_total", help, |family| {
            family.count(&[("result", "hit")], cache.hit_bytes)?;
            family.count(&[("result", "miss")], cache.miss_bytes)
        })
    }

    fn measure_writes(&self, page: &mut Page<'_>) -> fmt::Result {
        let writes = &self.stats.writes;
        page.counter("cairn_client_quorum_writes_total", "Blocks written, by who held them then.", |family| {
            family.count(&[("acked", "all"), ("result", "ok")], writes.all)?;
            family.count(&[("acked", "majority"), ("result", "ok")], writes.quorum)?;
            family.count(&[("acked", "minority"), ("result", "failed")], writes.failed)
        })?;
        let stragglers = self.sum_by_node(|node| node.stragglers);
        let help = "Writes to a replica that go on behind their operation.";
        page.gauge("cairn_client_stragglers", help, |family| {
            stragglers.iter().try_for_each(|(node, count)| family.count(&[("node", node)], *count))
        })?;
        page.counter(
            "cairn_client_late_acks_total",
            "Replicas that answered late, by what that was good for.",
            |family| {
                family.count(&[("result", "in_commit")], writes.late_in_commit)?;
                family.count(&[("result", "cleared")], writes.late_cleared)?;
                family.count(&[("result", "dropped")], writes.late_dropped)
            },
        )?;
        page.counter("cairn_client_commit_outcomes_total", "Metadata mutations, by outcome.", |family| {
            family.count(&[("outcome", "done")], writes.commits_done)?;
            family.count(&[("outcome", "failed")], writes.commits_failed)?;
            family.count(&[("outcome", "unknown")], writes.commits_unknown)
        })
    }
}

/// Breaker states by how bad they are.
fn rank(state: BreakerState) -> u64 {
    match state {
        BreakerState::Closed => 0,
        BreakerState::Draining => 1,
        BreakerState::Probing => 2,
        BreakerState::Open => 3,
    }
}

fn states_of(counts: &LaneCounts) -> [(&'static str, u64); 5] {
    [
        ("dialing", counts.dialing),
        ("idle", counts.idle),
        ("busy", counts.busy),
        ("draining", counts.draining),
        ("retired", counts.retired),
    ]
}

/// Cumulative counts under [`ConnectionStats::LATENCY_BOUNDS`], the last one of all, as a histogram.
fn reading(counts: &[u64], sum: Duration) -> Reading {
    let bounds = ConnectionStats::LATENCY_BOUNDS.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
    let mut below = 0;
    let buckets = bounds.zip(counts).map(|(bound, count)| {
        let within = count.saturating_sub(below);
        below = below.max(*count);
        (bound, within)
    });
    Reading { buckets: buckets.collect(), sum: sum.as_secs_f64() }
}

fn wait_reading(wait: &WaitStats) -> Reading {
    let bounds = WAIT_BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
    Reading { buckets: bounds.zip(wait.buckets).collect(), sum: wait.sum_us as f64 / 1e6 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{BudgetStats, ClassStats, LegLatency, OpStats, PoolStats};
    use cairn_proto::NodeId;

    fn node(id: u32, state: BreakerState) -> NodeConnectionStats {
        NodeConnectionStats {
            node: NodeId(id),
            addr: format!("127.0.0.1:{id}"),
            state,
            breaker_opens: 0,
            open_reason: "",
            in_flight: 0,
            answered: 0,
            failed: 0,
            small: ClassStats { timer: Duration::from_millis(u64::from(id)), ..ClassStats::default() },
            bulk: ClassStats::default(),
            write: ClassStats::default(),
            last_received: None,
            ping_rtt: Duration::ZERO,
            pings: 0,
            probes: 0,
            failed_probes: 0,
            stragglers: 1,
            straggler_bytes: 0,
            corrupt_blocks: 2,
            pool: PoolStats { dials: 3, ..PoolStats::default() },
        }
    }

    fn lines(stats: ConnectionStats) -> Vec<String> {
        text(stats).lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn has(lines: &[String], line: &str) {
        assert!(lines.iter().any(|found| found == line), "{line} in\n{}", lines.join("\n"));
    }

    #[test]
    fn operations_and_nodes_are_told_apart() {
        let bounds = ConnectionStats::LATENCY_BOUNDS.len();
        let mut counts = vec![0; bounds];
        counts[bounds - 1] = 4;
        counts.push(5);
        let read = OpStats {
            op: "read",
            ok: 4,
            failed: BTreeMap::from([("deadline", 1)]),
            latency_sum: Duration::from_secs(60),
            latency_counts: counts.clone(),
            ..OpStats::default()
        };
        let leg = |node| LegLatency {
            node: NodeId(node),
            addr: String::new(),
            op: "get",
            sum: Duration::from_secs(1),
            counts: counts.clone(),
        };
        let stats = ConnectionStats {
            operations: vec![read],
            leg_latencies: vec![leg(1), leg(2)],
            budgets: vec![BudgetStats { name: "retry", tokens: 19.5, cap: 20.0, refused: 0 }],
            nodes: vec![node(0, BreakerState::Closed), node(0, BreakerState::Open), node(7, BreakerState::Probing)],
            ..ConnectionStats::default()
        };
        let lines = lines(stats);
        has(&lines, "cairn_client_requests_total{op=\"read\",outcome=\"ok\"} 4");
        has(&lines, "cairn_client_requests_total{op=\"read\",outcome=\"deadline\"} 1");
        has(&lines, "cairn_client_request_duration_seconds_count{op=\"read\"} 5");
        has(&lines, "cairn_client_request_duration_seconds_bucket{le=\"10.0\",op=\"read\"} 4");
        has(&lines, "cairn_client_request_duration_seconds_bucket{le=\"+Inf\",op=\"read\"} 5");
        has(&lines, "cairn_client_leg_duration_seconds_count{op=\"get\",node=\"2\"} 5");
        has(&lines, "cairn_client_budget_tokens{budget=\"retry\"} 19.5");
        has(&lines, "cairn_client_breaker_state{node=\"meta\"} 3");
        has(&lines, "cairn_client_breaker_state{node=\"7\"} 2");
        has(&lines, "cairn_client_dials_total{node=\"meta\",outcome=\"ok\"} 6");
        has(&lines, "cairn_client_soft_timeout_seconds{node=\"7\",op=\"read_small\"} 0.007");
        has(&lines, "cairn_client_crc_failures_total{where=\"block\",node=\"7\"} 2");
        has(&lines, "cairn_client_connections{node=\"7\",lane=\"bulk\",state=\"busy\"} 0");
    }

    #[test]
    fn many_nodes_are_added_up() {
        let nodes = (1..=200).map(|id| node(id, BreakerState::Closed)).chain([node(201, BreakerState::Open)]);
        let lines = lines(ConnectionStats { nodes: nodes.collect(), ..ConnectionStats::default() });
        has(&lines, "cairn_client_dials_total{node=\"all\",outcome=\"ok\"} 603");
        has(&lines, "cairn_client_breaker_state{node=\"all\"} 3");
        has(&lines, "cairn_client_soft_timeout_seconds{node=\"all\",op=\"read_small\"} 0.201");
        assert!(!lines.iter().any(|line| line.contains("node=\"1\"")));
    }
}
