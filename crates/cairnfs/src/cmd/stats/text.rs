//! Statistics for people.

use std::time::Duration;

use cairn_client::{ConnectionStats, NodeConnectionStats, NodePing};

use super::json::success_rate;
use crate::{
    failure::Failure,
    output::{Align, Out, Table},
    text::{self, millis},
};

/// Writes the whole picture.
pub fn write(stats: &ConnectionStats, pings: &[NodePing], out: &mut Out) -> Result<(), Failure> {
    let mut facts = vec![
        (
            "operations",
            format!(
                "{}, {} failed, {:.2} % succeeded",
                stats.total_requests,
                stats.failed_requests,
                100.0 * success_rate(stats)
            ),
        ),
        ("bytes", format!("{} sent, {} received", text::human(stats.bytes_sent), text::human(stats.bytes_received))),
        (
            "legs",
            format!(
                "{}, {} failed: {} first, {} failover, {} retry, {} hedge",
                stats.legs,
                stats.failed_legs,
                stats.attempts.first,
                stats.attempts.failover,
                stats.attempts.retry,
                stats.attempts.hedge
            ),
        ),
        ("hedges", hedges(stats)),
        ("budgets", budgets(stats)),
        (
            "breakers",
            format!(
                "{} not closed, opened {} times, {} probes, {} pings",
                stats.breakers.open_now, stats.breakers.opened, stats.breakers.probes, stats.breakers.pings
            ),
        ),
        ("pool", pool(stats)),
        (
            "writes",
            format!(
                "{} on all replicas, {} on a majority, {} failed",
                stats.writes.all, stats.writes.quorum, stats.writes.failed
            ),
        ),
    ];
    if let Some(error) = &stats.last_error {
        facts.push(("last error", format!("{} {}: {}", error.op, error.addr, error.message)));
    }
    for (name, value) in facts {
        out.line(format_args!("{:12}{value}", format!("{name}:")))?;
    }
    out.line("")?;
    nodes(stats, pings).lines().iter().try_for_each(|line| out.line(line))
}

fn hedges(stats: &ConnectionStats) -> String {
    let hedges = &stats.hedges;
    let skipped: u64 = hedges.skipped.values().sum();
    let reasons: Vec<String> = hedges.skipped.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    format!("{} fired, {} won, {} lost, {skipped} skipped{reasons}", hedges.fired, hedges.won, hedges.lost)
}

fn budgets(stats: &ConnectionStats) -> String {
    let one = |of: &cairn_client::BudgetStats| {
        format!("{} {:.1} of {:.0} ({} refused)", of.name, of.tokens, of.cap, of.refused)
    };
    stats.budgets.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn pool(stats: &ConnectionStats) -> String {
    let pool = &stats.pool;
    let closed: Vec<String> =
        pool.closes_by_reason.iter().filter(|(_, n)| **n > 0).map(|(reason, n)| format!("{reason} {n}")).collect();
    let closed = if closed.is_empty() { "none".to_owned() } else { closed.join(", ") };
    format!(
        "{} open ({} idle, {} busy, {} draining), {} dials, {} failed; closed: {closed}",
        pool.open, pool.idle, pool.busy, pool.draining, pool.dials, pool.dial_failures
    )
}

fn nodes(stats: &ConnectionStats, pings: &[NodePing]) -> Table {
    let heads = [
        "NODE",
        "ADDRESS",
        "STATE",
        "PING",
        "QUEUE",
        "IN FLIGHT",
        "EWMA",
        "SRTT",
        "P50",
        "P95",
        "P99",
        "TIMER",
        "LAST BYTE",
    ];
    let align = |head: &str| if matches!(head, "ADDRESS" | "STATE") { Align::Left } else { Align::Right };
    let mut table = Table::new(&heads.map(align));
    table.row(heads.map(str::to_owned));
    for node in &stats.nodes {
        table.row(row(node, pings));
    }
    table
}

fn row(node: &NodeConnectionStats, pings: &[NodePing]) -> [String; 13] {
    let time = |duration: Duration| if duration.is_zero() { "-".to_owned() } else { millis(duration) };
    let answer = pings.iter().find(|ping| ping.node == node.node && ping.addr == node.addr);
    let (ping, queue) = match answer.map(|ping| &ping.answer) {
        Some(Ok(answer)) => (millis(answer.took), answer.queue_depth.to_string()),
        Some(Err(_)) => ("silent".to_owned(), "-".to_owned()),
        None => ("-".to_owned(), "-".to_owned()),
    };
    // What a user waits for first: reads of a few KiB, or for metadata whatever it is asked.
    let of = &node.small;
    [
        if node.node.0 == 0 { "meta".to_owned() } else { node.node.0.to_string() },
        node.addr.clone(),
        node.state.name().to_owned(),
        ping,
        queue,
        node.in_flight.to_string(),
        time(of.ewma),
        time(of.srtt),
        time(of.recent.p50),
        time(of.recent.p95),
        time(of.recent.p99),
        time(of.timer),
        node.last_received.map_or_else(|| "never".to_owned(), |ago| format!("{} ago", millis(ago))),
    ]
}
