//! AC5, AC6, AC11, AC14 and AC15: the connection layer by itself, without a cluster.

use super::{Form, Scenario};
use crate::fleet;
use crate::pool::{cancel, idle};
use crate::report::Outcome;
use crate::{cost, hostile};
use anyhow::Result;
use serde::Serialize;
use std::time::Duration;

/// Beyond the table: that there were enough of each kind.
const AC5: &str = ".leaked_conns==0 and .leaked_permits==0 and .tasks==.tasks_baseline and .wrong_payloads==0 and \
                   .ctl_survival>=0.9 and .bulk_survival>=0.7 and .failed==0 and .cancelled>=10000 and \
                   .dropped>=1000 and .deadlines>=1000 and .hedges_lost>=1000 and .answered>=1000";
const AC5_SHORT: &str = ".leaked_conns==0 and .leaked_permits==0 and .tasks==.tasks_baseline and .wrong_payloads==0 \
                         and .failed==0 and .cancelled>=500 and .dropped>0 and .deadlines>0 and .hedges_lost>0 and \
                         .answered>0";
/// Beyond the table: that the server closed idle connections, and requests met such a close.
const AC6: &str = ".failed==0 and .idle_reaped_by_s<=65 and .open_after>=.pool_min and .fin_noticed_ms_max<=100 and \
                   .max_conns_seen<=.pool_max and .closed_by_server>=20 and .stale_retries>0";
const AC6_SHORT: &str = ".failed==0 and .idle_reaped_by_s<=65 and .open_after>=.pool_min and \
                         .max_conns_seen<=.pool_max and .closed_by_server>=1";
/// Beyond the table: that the fuzzed frames reached every branch, and both sides really refused some.
const AC11: &str = ".oversize_error==\"TooLarge\" and .rss_growth_bytes<2097152 and .valid99_ok and .panics==0 and \
                    .max_alloc_before_crc<=1048576 and .every_branch and .broken_by_server>0 and .refused_by_client>0";

/// Memory of a short run has not settled: only a real leak is seen.
const AC11_SHORT: &str = ".oversize_error==\"TooLarge\" and .rss_growth_bytes<33554432 and .valid99_ok and .panics==0 and \
                          .max_alloc_before_crc<=1048576 and .every_branch and .broken_by_server>0 and \
                          .refused_by_client>0";

/// Beyond the table: that reads went on, clients did meet the dead node, and even the busiest seconds stay far below the
/// naive 3,000.
const AC14: &str = ".probes_per_s_at_dead_after60<=150 and .idle_pings_per_client_node_per_5s<=1 and .failed==0 and \
                    .probes_per_s_at_dead_before60>0 and .reads>=150000 and .busiest_per_s_after60<=1000";
/// A small fleet may look more often for each client: it is the fleet's sum that counts.
const AC14_SHORT: &str = ".probes_per_s_at_dead_after60<=30 and .idle_pings_per_client_node_per_5s<=1 and .failed==0 \
                          and .probes_per_s_at_dead_before60>0 and .reads>=1000";

/// See the module.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "AC5",
        about: "10,000 requests given up at random points: dropped, out of time, losers of a hedge; mixed sizes",
        criterion: AC5,
        short: AC5_SHORT,
        families: &[],
        ci: true,
        run: |context| {
            let cancellations = if context.form == Form::Full { 10_000 } else { 500 };
            Box::pin(async move { outcome(&tokio::spawn(cancel::run(context.seed, cancellations)).await??) })
        },
    },
    Scenario {
        name: "AC6",
        about: "a pool that idles, whose server closes idle connections, restarts, and closes as the next request comes",
        criterion: AC6,
        short: AC6_SHORT,
        families: &[],
        ci: true,
        run: |context| {
            let settings = match context.form {
                Form::Full => idle::Settings::full(context.seed),
                Form::Short => idle::Settings::short(context.seed),
            };
            Box::pin(async move { outcome(&tokio::spawn(idle::run(settings)).await??) })
        },
    },
    Scenario {
        name: "AC11",
        about: "declared 100 MiB + 1, valid 99 MiB, fuzzed frames against decoder, server and client",
        criterion: AC11,
        short: AC11_SHORT,
        families: &[],
        ci: true,
        run: |context| {
            let settings = match context.form {
                Form::Full => hostile::Settings::full(context.seed),
                Form::Short => hostile::Settings::short(context.seed),
            };
            Box::pin(async move { outcome(&tokio::spawn(hostile::run(settings)).await??) })
        },
    },
    Scenario {
        name: "AC15",
        about: "healthy cost of the connection layer beside a bare frame echo on loopback",
        criterion: ".p50_overhead_us_4k<=20 and .bulk_throughput_ratio>=0.90 and .p99_ratio_1m<=1.1 and \
                    .crc_cpu_share<=0.05",
        short: ".detail.bare_4k_p50_us>0 and .detail.link_4k_p50_us>0 and .detail.bare_1m_p50_us>0 and \
                .detail.link_1m_p50_us>0",
        families: &[],
        ci: true,
        run: |context| {
            let settings = match context.form {
                Form::Full => cost::Settings::FULL,
                Form::Short => cost::Settings::SHORT,
            };
            // On a worker thread, as an operation of a program that uses the client.
            Box::pin(async move { outcome(&tokio::spawn(cost::measure(settings)).await??) })
        },
    },
    // Last: a process that has once paused a clock reads all of its clocks more slowly.
    Scenario {
        name: "AC14",
        about: "3,000 simulated clients, one node dead for 5 minutes (naive: 3,000 probes/s)",
        criterion: AC14,
        short: AC14_SHORT,
        families: &[],
        ci: true,
        run: |context| {
            let seed = context.seed;
            let settings = match context.form {
                Form::Full => fleet::Settings { seed, clients: 3_000, dead: Duration::from_secs(300) },
                Form::Short => fleet::Settings { seed, clients: 100, dead: Duration::from_secs(120) },
            };
            Box::pin(async move { outcome(&tokio::task::spawn_blocking(move || fleet::run(settings)).await??) })
        },
    },
];

fn outcome(fields: &impl Serialize) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    outcome.extend(fields)?;
    Ok(outcome)
}
