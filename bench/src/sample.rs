//! One measurement, and the measurements of all rounds.

use crate::cpu::{Cpu, Group, Meter};
use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const LATENCY_MAX_US: u64 = 120_000_000;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Unit {
    /// Bytes, shown in MiB per second.
    #[serde(rename = "MiB/s")]
    Bytes,
    /// Operations per second.
    #[serde(rename = "op/s")]
    Operations,
}

/// Latencies of single operations, microseconds.
pub struct Latency(Histogram<u64>);

impl Latency {
    /// Empty.
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("the bounds are constants that fit"))
    }

    /// One operation; what took longer than two minutes counts as two minutes.
    pub fn record(&mut self, elapsed: Duration) {
        self.0.saturating_record(elapsed.as_micros().max(1) as u64);
    }

    /// All of `other`, too.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// For a report.
    pub fn report(&self) -> LatencyReport {
        let (p50_us, p99_us) = (self.0.value_at_quantile(0.5), self.0.value_at_quantile(0.99));
        LatencyReport { count: self.0.len(), p50_us, p99_us, max_us: self.0.max() }
    }
}

/// One measurement.
pub struct Sample {
    unit: Unit,
    amount: u64,
    seconds: f64,
    cpu: Vec<(&'static str, Cpu)>,
    latency: Option<Latency>,
}

impl Sample {
    /// Per second, in the unit's measure.
    pub fn rate(&self) -> f64 {
        let scale = if self.unit == Unit::Bytes { 1024.0 * 1024.0 } else { 1.0 };
        self.amount as f64 / scale / self.seconds
    }

    /// How to show [`Sample::rate`].
    pub fn unit(&self) -> &'static str {
        match self.unit {
            Unit::Bytes => "MiB/s",
            Unit::Operations => "op/s",
        }
    }

    /// With latencies.
    pub fn with_latency(mut self, latency: Latency) -> Self {
        self.latency = Some(latency);
        self
    }
}

#[cfg(test)]
impl Sample {
    /// A measurement that took one second.
    pub fn of_one_second(unit: Unit, amount: u64) -> Self {
        Self { unit, amount, seconds: 1.0, cpu: Vec::new(), latency: None }
    }
}

/// A measurement that runs.
pub struct Watch {
    meter: Meter,
    begin: Instant,
}

impl Watch {
    /// Begins now, with the processor time of these processes.
    ///
    /// # Errors
    /// One of them does not live any more.
    pub fn start(groups: &[Group]) -> Result<Self> {
        let meter = Meter::start(groups)?;
        Ok(Self { meter, begin: Instant::now() })
    }

    /// Ends now.
    ///
    /// # Errors
    /// As at the start.
    pub fn stop(self, unit: Unit, amount: u64) -> Result<Sample> {
        let seconds = self.begin.elapsed().as_secs_f64();
        Ok(Sample { unit, amount, seconds, cpu: self.meter.read()?, latency: None })
    }
}

/// All measurements of one name.
#[derive(Default)]
pub struct Series(Vec<Sample>);

impl Series {
    /// One more round.
    pub fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// Per second, round by round.
    pub fn rates(&self) -> Vec<f64> {
        self.0.iter().map(Sample::rate).collect()
    }

    /// For the report.
    ///
    /// # Errors
    /// There is no measurement.
    pub fn report(&self) -> Result<SeriesReport> {
        let first = self.0.first().context("a series without measurements")?;
        let rates = self.rates();
        let (min, median, max) = spread(&rates).context("a series without measurements")?;
        let amount: u64 = self.0.iter().map(|sample| sample.amount).sum();
        let mut cpu: BTreeMap<&'static str, Cpu> = BTreeMap::new();
        for (name, used) in self.0.iter().flat_map(|sample| &sample.cpu) {
            let sum = cpu.entry(name).or_default();
            *sum = *sum + *used;
        }
        let per = |used: Cpu| match first.unit {
            Unit::Bytes => CpuReport { used, s_per_gib: Some(used.total_s() / (amount as f64 / GIB)), us_per_op: None },
            Unit::Operations => {
                CpuReport { used, s_per_gib: None, us_per_op: Some(used.total_s() * 1e6 / amount as f64) }
            }
        };
        let cpu = cpu.into_iter().map(|(name, used)| (name, per(used))).collect();
        let mut latency: Option<Latency> = None;
        for one in self.0.iter().filter_map(|sample| sample.latency.as_ref()) {
            latency.get_or_insert_with(Latency::new).add(one);
        }
        let latency = latency.map(|all| all.report());
        let seconds = self.0.iter().map(|sample| sample.seconds).sum();
        Ok(SeriesReport { unit: first.unit, min, median, max, rounds: rates, seconds, cpu, latency })
    }
}

/// Smallest, median (mean of the two in the middle) and greatest; `None` of nothing.
pub fn spread(values: &[f64]) -> Option<(f64, f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (first, last) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median =
        if sorted.len().is_multiple_of(2) { sorted[middle - 1].midpoint(sorted[middle]) } else { sorted[middle] };
    Some((first, median, last))
}

/// A series as it is reported.
#[derive(Serialize)]
pub struct SeriesReport {
    unit: Unit,
    min: f64,
    /// What to quote.
    pub median: f64,
    max: f64,
    rounds: Vec<f64>,
    /// Length of all rounds together.
    seconds: f64,
    cpu: BTreeMap<&'static str, CpuReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<LatencyReport>,
}

/// Processor time of all rounds together.
#[derive(Serialize)]
struct CpuReport {
    #[serde(flatten)]
    used: Cpu,
    #[serde(skip_serializing_if = "Option::is_none")]
    s_per_gib: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    us_per_op: Option<f64>,
}

/// Latencies of all rounds together.
#[derive(Serialize)]
pub struct LatencyReport {
    pub count: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(amount: u64, seconds: f64) -> Sample {
        let cpu = vec![("client", Cpu { user_s: 0.5, system_s: 0.25 })];
        Sample { unit: Unit::Bytes, amount, seconds, cpu, latency: None }
    }

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0]), Some((3.0, 3.0, 3.0)));
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some((1.0, 2.0, 3.0)));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 9.0]), Some((1.0, 3.0, 9.0)));
    }

    #[test]
    fn rates_and_processor_time_per_gibibyte() {
        let mut series = Series::default();
        assert!(series.report().is_err());
        series.push(sample(1 << 30, 1.0));
        series.push(sample(1 << 30, 2.0));
        assert_eq!(series.rates(), [1024.0, 512.0]);
        let report = series.report().unwrap();
        assert_eq!((report.min, report.median, report.max), (512.0, 768.0, 1024.0));
        assert_eq!(report.cpu["client"].s_per_gib, Some(0.75));
    }

    #[test]
    fn latencies_of_all_rounds_count() {
        let mut series = Series::default();
        for base in [0, 100] {
            let mut latency = Latency::new();
            (1..=50).for_each(|us| latency.record(Duration::from_micros(base + us)));
            series.push(sample(1, 1.0).with_latency(latency));
        }
        let latency = series.report().unwrap().latency.unwrap();
        assert_eq!((latency.count, latency.p50_us, latency.max_us), (100, 50, 150));
    }
}
