//! One scrape: sources write their measurements on a page.

use crate::histogram::Reading;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// What an HTTP response with a page says it is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Something that can be measured.
pub trait Source: Send + Sync + 'static {
    /// Writes all measurements as they are now. Called on a thread that must not wait for a disk or a network.
    ///
    /// # Errors
    /// Only what writing to the page returns.
    fn measure(&self, page: &mut Page<'_>) -> fmt::Result;
}

/// The sources of one role.
#[derive(Default, Debug)]
pub struct Exposition {
    registry: Registry,
}

impl Exposition {
    /// Nothing is measured yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a source. Its names must not be those of another one.
    pub fn add(&mut self, source: Arc<dyn Source>) {
        self.registry.register_collector(Box::new(Collected(source)));
    }

    /// A page of all measurements, in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut page = String::new();
        // Writing to a string does not fail, and sources return nothing else.
        let written = text::encode(&mut page, &self.registry);
        debug_assert!(written.is_ok(), "a source failed by itself");
        page
    }
}

struct Collected(Arc<dyn Source>);

impl fmt::Debug for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collected")
    }
}

impl Collector for Collected {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.measure(&mut Page { encoder })
    }
}

/// What a source writes on. A name is written once, with all its label sets.
pub struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Page<'_> {
    /// A number that only grows. `name` ends in `_total`; help is one sentence with its full stop.
    ///
    /// # Errors
    /// Those of the page.
    pub fn counter(
        &mut self,
        name: &str,
        help: &str,
        write: impl FnOnce(&mut Family<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let stem = name.strip_suffix("_total").expect("the name of a counter ends in _total");
        self.family(stem, help, MetricType::Counter, write)
    }

    /// A number that goes up and down.
    ///
    /// # Errors
    /// Those of the page.
    pub fn gauge(&mut self, name: &str, help: &str, write: impl FnOnce(&mut Family<'_>) -> fmt::Result) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, write)
    }

    /// Values counted by size.
    ///
    /// # Errors
    /// Those of the page.
    pub fn histogram(
        &mut self,
        name: &str,
        help: &str,
        write: impl FnOnce(&mut Family<'_>) -> fmt::Result,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Histogram, write)
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        metric_type: MetricType,
        write: impl FnOnce(&mut Family<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let (stem, unit) = unit_of(name);
        let encoder = self.encoder.encode_descriptor(stem, help, unit.as_ref(), metric_type)?;
        write(&mut Family { encoder, metric_type })
    }
}

/// The unit that a name ends in is told apart, because the format has a line for it.
fn unit_of(name: &str) -> (&str, Option<Unit>) {
    for (suffix, unit) in [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)] {
        if let Some(stem) = name.strip_suffix(suffix) {
            return (stem, Some(unit));
        }
    }
    (name, None)
}

/// All label sets of one name.
pub struct Family<'a> {
    encoder: MetricEncoder<'a>,
    metric_type: MetricType,
}

impl Family<'_> {
    /// A whole number, under these labels.
    ///
    /// # Errors
    /// Those of the page.
    pub fn count(&mut self, labels: &[(&str, &str)], value: u64) -> fmt::Result {
        let is_counter = matches!(self.metric_type, MetricType::Counter);
        self.labelled(labels, |encoder| {
            if is_counter { encoder.encode_counter(&value, NO_EXEMPLAR_COUNT) } else { encoder.encode_gauge(&value) }
        })
    }

    /// A number with a fraction: seconds, ratios.
    ///
    /// # Errors
    /// Those of the page.
    pub fn real(&mut self, labels: &[(&str, &str)], value: f64) -> fmt::Result {
        let is_counter = matches!(self.metric_type, MetricType::Counter);
        self.labelled(labels, |encoder| {
            if is_counter { encoder.encode_counter(&value, NO_EXEMPLAR) } else { encoder.encode_gauge(&value) }
        })
    }

    /// What a histogram has counted, under these labels.
    ///
    /// # Errors
    /// Those of the page.
    pub fn reading(&mut self, labels: &[(&str, &str)], reading: &Reading) -> fmt::Result {
        let exemplars = None::<&HashMap<usize, Exemplar<NoLabels, f64>>>;
        self.labelled(labels, |encoder| {
            encoder.encode_histogram(reading.sum, reading.count(), &reading.buckets, exemplars)
        })
    }

    fn labelled(
        &mut self,
        labels: &[(&str, &str)],
        write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        if labels.is_empty() { write(&mut self.encoder) } else { write(&mut self.encoder.encode_family(&labels)?) }
    }
}

type NoLabels = [(&'static str, &'static str); 0];

const NO_EXEMPLAR: Option<&Exemplar<NoLabels, f64>> = None;
const NO_EXEMPLAR_COUNT: Option<&Exemplar<NoLabels, u64>> = None;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Histogram;

    struct Sample(Histogram);

    impl Source for Sample {
        fn measure(&self, page: &mut Page<'_>) -> fmt::Result {
            page.counter("x_sent_bytes_total", "Bytes sent.", |family| {
                family.count(&[("to", "a\"b")], 7)?;
                family.count(&[], 8)
            })?;
            page.gauge("x_age_seconds", "Age.", |family| family.real(&[], 0.5))?;
            page.gauge("x_nodes", "Nodes.", |_| Ok(()))?;
            page.histogram("x_batch", "Sizes.", |family| family.reading(&[("op", "put")], &self.0.read()))
        }
    }

    #[test]
    fn a_page_is_openmetrics_text() {
        let mut exposition = Exposition::new();
        let histogram = Histogram::counts();
        histogram.record(1);
        histogram.record(2000);
        exposition.add(Arc::new(Sample(histogram)));
        let text = exposition.text();
        for line in [
            "# TYPE x_sent_bytes counter",
            "# UNIT x_sent_bytes bytes",
            "x_sent_bytes_total{to=\"a\\\"b\"} 7",
            "x_sent_bytes_total 8",
            "# HELP x_age_seconds Age.",
            "x_age_seconds 0.5",
            "# TYPE x_nodes gauge",
            "x_batch_bucket{le=\"1.0\",op=\"put\"} 1",
            "x_batch_bucket{le=\"+Inf\",op=\"put\"} 2",
            "x_batch_sum{op=\"put\"} 2001.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
