//! The report: everything measured, and the ratios that are aimed for.

use crate::args::Args;
use crate::machine::Machine;
use crate::sample::{Sample, Series, SeriesReport, spread};
use crate::workload::Troubles;
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;

/// A ratio between two figures of the same run.
struct Goal {
    name: &'static str,
    /// A figure of the cluster.
    figure: &'static str,
    /// A limit of the machine.
    limit: &'static str,
    /// How many times the limit's resource must do the work.
    share_of: u32,
    aim: f64,
}

const GOALS: [Goal; 3] = [
    Goal {
        name: "sequential read / loopback TCP copy",
        figure: "durable_seq_read",
        limit: "tcp_copy",
        share_of: 1,
        aim: 0.60,
    },
    Goal {
        name: "durable sequential write / (raw disk / 3)",
        figure: "durable_seq_write",
        limit: "raw_write_sync_32m",
        share_of: 3,
        aim: 0.60,
    },
    Goal {
        name: "relaxed sequential write / three-way TCP fan-out into page-cache files",
        figure: "relaxed_seq_write",
        limit: "tcp_fan_out_files",
        share_of: 1,
        aim: 0.50,
    },
];

/// Measurements by name.
#[derive(Default)]
pub struct Results {
    limits: BTreeMap<String, Series>,
    cluster: BTreeMap<String, Series>,
}

impl Results {
    /// Adds a limit of the machine, and tells of it.
    pub fn limit(&mut self, name: &str, sample: Sample) {
        tell(name, &sample);
        self.limits.entry(name.to_owned()).or_default().push(sample);
    }

    /// Adds a figure of the cluster, and tells of it.
    pub fn cluster(&mut self, name: String, sample: Sample) {
        tell(&name, &sample);
        self.cluster.entry(name).or_default().push(sample);
    }
}

fn tell(name: &str, sample: &Sample) {
    eprintln!("{name:24} {:>12.1} {}", sample.rate(), sample.unit());
}

/// The whole report.
#[derive(Serialize)]
pub struct Report {
    version: &'static str,
    settings: Settings,
    machine: Machine,
    /// Load averages before and after: others on the machine make every figure smaller.
    load_average: [Vec<f64>; 2],
    limits: BTreeMap<String, SeriesReport>,
    cluster: BTreeMap<String, SeriesReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    troubles: Option<Troubles>,
    aims: Vec<Aim>,
    /// Steps that failed.
    pub failures: Vec<String>,
}

/// How it was measured.
#[derive(Serialize)]
struct Settings {
    size_bytes: u64,
    rounds: u32,
    quick: bool,
    replicas: u16,
    /// Where sequential reads find the bytes.
    reads_from: &'static str,
    processes: &'static str,
}

/// A ratio and whether it is high enough.
#[derive(Serialize)]
struct Aim {
    name: &'static str,
    figure: &'static str,
    limit: &'static str,
    share_of: u32,
    /// Median of the rounds' ratios.
    ratio: f64,
    ratio_min: f64,
    ratio_max: f64,
    aim: f64,
    met: bool,
}

impl Goal {
    /// `None` where one side was not measured in every round.
    fn hold(&self, results: &Results) -> Option<Aim> {
        let figures = results.cluster.get(self.figure)?.rates();
        let limits = results.limits.get(self.limit)?.rates();
        if figures.len() != limits.len() {
            return None;
        }
        let ratios = figures.iter().zip(&limits).map(|(figure, limit)| figure / (limit / f64::from(self.share_of)));
        let (ratio_min, ratio, ratio_max) = spread(&ratios.collect::<Vec<_>>())?;
        let Self { name, figure, limit, share_of, aim } = *self;
        Some(Aim { name, figure, limit, share_of, ratio, ratio_min, ratio_max, aim, met: ratio >= aim })
    }
}

impl Report {
    /// Puts it together.
    ///
    /// # Errors
    /// A name without measurements.
    pub fn new(
        args: &Args,
        machine: Machine,
        load_average: [Vec<f64>; 2],
        results: &Results,
        troubles: Option<Troubles>,
        failures: Vec<String>,
    ) -> Result<Self> {
        let report = |all: &BTreeMap<String, Series>| -> Result<BTreeMap<String, SeriesReport>> {
            all.iter().map(|(name, series)| Ok((name.clone(), series.report()?))).collect()
        };
        let aims: Vec<Aim> = GOALS.iter().filter_map(|goal| goal.hold(results)).collect();
        for aim in &aims {
            let met = if aim.met { "met" } else { "MISSED" };
            eprintln!("{}: {:.2} (aim {:.2}, {met})", aim.name, aim.ratio, aim.aim);
        }
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            settings: Settings {
                size_bytes: args.size(),
                rounds: args.rounds(),
                quick: args.quick,
                replicas: crate::cluster::NODES,
                reads_from: if args.cold { "disk" } else { "page cache" },
                processes: "client, metadata and each node are processes of one machine; so are the ends of a TCP copy",
            },
            machine,
            load_average,
            limits: report(&results.limits)?,
            cluster: report(&results.cluster)?,
            troubles,
            aims,
            failures,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Unit;

    fn results(figure: &[u64], limit: &[u64]) -> Results {
        let mut results = Results::default();
        for bytes in figure {
            results.cluster("durable_seq_write".to_owned(), Sample::of_one_second(Unit::Bytes, *bytes));
        }
        for bytes in limit {
            results.limit("raw_write_sync_32m", Sample::of_one_second(Unit::Bytes, *bytes));
        }
        results
    }

    fn held(results: &Results) -> Vec<Aim> {
        GOALS.iter().filter_map(|goal| goal.hold(results)).collect()
    }

    #[test]
    fn a_ratio_is_the_median_of_rounds_against_a_share() {
        let aims = held(&results(&[100, 60, 100], &[300, 300, 600]));
        assert_eq!(aims.len(), 1, "only what was measured");
        assert!((aims[0].ratio - 0.6).abs() < 1e-9 && aims[0].met);
        assert!((aims[0].ratio_min - 0.5).abs() < 1e-9);
        assert!((aims[0].ratio_max - 1.0).abs() < 1e-9);
        assert!(!held(&results(&[59], &[300]))[0].met);
    }

    #[test]
    fn rounds_that_failed_on_one_side_give_no_ratio() {
        assert!(held(&results(&[100], &[300, 300])).is_empty());
        assert!(held(&results(&[], &[300])).is_empty());
    }
}
