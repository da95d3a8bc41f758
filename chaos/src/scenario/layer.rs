//! AC11 and AC15: the connection layer by itself, without a cluster.

use super::{Form, Scenario};
use crate::report::Outcome;
use crate::{cost, hostile};
use anyhow::Result;
use serde::Serialize;

/// Beyond the table: that the fuzzed frames reached every branch, and both sides really refused some.
const AC11: &str = ".oversize_error==\"TooLarge\" and .rss_growth_bytes<2097152 and .valid99_ok and .panics==0 and \
                    .max_alloc_before_crc<=1048576 and .every_branch and .broken_by_server>0 and .refused_by_client>0";

/// Memory of a short run has not settled: only a real leak is seen.
const AC11_SHORT: &str = ".oversize_error==\"TooLarge\" and .rss_growth_bytes<33554432 and .valid99_ok and .panics==0 and \
                          .max_alloc_before_crc<=1048576 and .every_branch and .broken_by_server>0 and \
                          .refused_by_client>0";

/// See the module.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "AC11",
        about: "declared 100 MiB + 1, valid 99 MiB, fuzzed frames against decoder, server and client",
        criterion: AC11,
        short: AC11_SHORT,
        families: &[],
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
        run: |context| {
            let settings = match context.form {
                Form::Full => cost::Settings::FULL,
                Form::Short => cost::Settings::SHORT,
            };
            // On a worker thread, as an operation of a program that uses the client.
            Box::pin(async move { outcome(&tokio::spawn(cost::measure(settings)).await??) })
        },
    },
];

fn outcome(fields: &impl Serialize) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    outcome.extend(fields)?;
    Ok(outcome)
}
