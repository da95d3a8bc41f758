//! The course of a run: load in windows, with what client, proxies and processes had counted at each border.

use crate::cluster::{Cluster, Cpu};
use crate::load::{Class, Ending, Event, Load, Record, Window, Work};
use crate::observe::Observed;
use crate::proxy::Counts;
use anyhow::Result;
use cairn_client::DfsClient;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// The first part of a fault is judged apart.
pub const FAULT0: Duration = Duration::from_secs(2);
const LATENCY_MAX_US: u64 = 600_000_000;
/// Slowest operations that are listed for each window.
const SLOWEST_SHOWN: usize = 5;
/// Different errors that are listed.
const ERRORS_SHOWN: usize = 5;
/// How long operations may still take after the load has ended, beyond any deadline.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long each window takes.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Not measured.
    pub warm: Duration,
    /// [`Window::Healthy`].
    pub healthy: Duration,
    /// [`Window::Fault0`] and [`Window::Fault2`] together.
    pub fault: Duration,
    /// [`Window::Healed`].
    pub healed: Duration,
}

/// What had been counted when a window began.
struct Border {
    window: Window,
    at: Duration,
    client: Observed,
    nodes: Vec<Counts>,
    cpu: Cpu,
}

/// A load under way, and its borders.
pub struct Course<'a> {
    cluster: &'a Cluster,
    client: &'a DfsClient,
    classes: Vec<Class>,
    load: Load,
    borders: Vec<Border>,
}

/// A finished course.
pub struct Results {
    /// Every operation.
    pub record: Record,
    classes: Vec<Class>,
    borders: Vec<Border>,
    end: Border,
    nodes: usize,
}

impl<'a> Course<'a> {
    /// Begins the load in [`Window::Warm`].
    pub async fn start(cluster: &'a Cluster, client: &'a DfsClient, work: Work, classes: &[Class], seed: u64) -> Self {
        let load = Load::start(work, classes, seed);
        let mut course = Self { cluster, client, classes: classes.to_vec(), load, borders: Vec::new() };
        course.enter(Window::Warm).await;
        course
    }

    /// Time since the load began.
    pub fn now(&self) -> Duration {
        self.load.now()
    }

    /// Begins a window.
    pub async fn enter(&mut self, window: Window) {
        let border = self.border(window).await;
        self.borders.push(border);
    }

    async fn border(&self, window: Window) -> Border {
        self.load.enter(window);
        let at = self.load.now();
        let client = Observed::of(self.client).await;
        Border { window, at, client, nodes: self.cluster.node_counts(), cpu: self.cluster.cpu() }
    }

    /// Goes through all windows; `inject` runs at the beginning of the fault, `heal` at its end.
    ///
    /// # Errors
    /// Those of `inject` and `heal`.
    pub async fn windows(
        &mut self,
        plan: Plan,
        inject: impl AsyncFnOnce() -> Result<()>,
        heal: impl AsyncFnOnce() -> Result<()>,
    ) -> Result<()> {
        tokio::time::sleep(plan.warm).await;
        self.enter(Window::Healthy).await;
        tokio::time::sleep(plan.healthy).await;
        self.enter(Window::Fault0).await;
        inject().await?;
        tokio::time::sleep(FAULT0).await;
        self.enter(Window::Fault2).await;
        tokio::time::sleep(plan.fault.saturating_sub(FAULT0)).await;
        heal().await?;
        self.enter(Window::Healed).await;
        tokio::time::sleep(plan.healed).await;
        Ok(())
    }

    /// Ends the load and waits for what is under way.
    ///
    /// # Errors
    /// As [`Load::finish`].
    pub async fn finish(self) -> Result<Results> {
        let end = self.border(Window::Healed).await;
        let record = self.load.finish(PATIENCE).await?;
        let nodes = self.cluster.nodes().len();
        Ok(Results { record, classes: self.classes, borders: self.borders, end, nodes })
    }
}

impl Results {
    /// When a window began, from the beginning of the load.
    pub fn begin_of(&self, window: Window) -> Option<Duration> {
        self.borders.iter().find(|border| border.window == window).map(|border| border.at)
    }

    fn events(&self, window: Window) -> impl Iterator<Item = &Event> {
        self.record.events.iter().filter(move |event| event.window == window)
    }

    /// Fields of the whole run (all windows but the warm one), and an object for each window.
    pub fn fields(&self) -> Map<String, Value> {
        let measured = || self.record.events.iter().filter(|event| event.window != Window::Warm);
        let mut fields = Map::new();
        let mut set = |name: &str, value: Value| {
            fields.insert(name.to_owned(), value);
        };
        set("ops", json!(measured().count()));
        set("failed", json!(measured().filter(|event| event.ending == Ending::Failed).count()));
        let wrong = measured().map(|event| if let Ending::Wrong(bytes) = event.ending { bytes } else { 0 });
        set("wrong_bytes", json!(wrong.sum::<u64>()));
        if let Some(first) = self.borders.iter().find(|border| border.window != Window::Warm) {
            // Counts of a node that another one replaced are gone with it.
            let (before, after) = (first.client, self.end.client);
            set("hedges", json!(after.hedges.saturating_sub(before.hedges)));
            set("retries", json!(after.retries.saturating_sub(before.retries)));
            set("breaker_opens", json!(after.breaker_opens.saturating_sub(before.breaker_opens)));
            set("parked", json!(after.parked.saturating_sub(before.parked)));
            set("corrupt_blocks", json!(after.corrupt_blocks.saturating_sub(before.corrupt_blocks)));
        }
        set("errors", self.errors());
        for (index, border) in self.borders.iter().enumerate().filter(|(_, border)| border.window != Window::Warm) {
            let next = self.borders.get(index + 1).unwrap_or(&self.end);
            set(border.window.name(), Value::Object(self.window(border, next)));
        }
        fields
    }

    fn window(&self, begin: &Border, end: &Border) -> Map<String, Value> {
        let events: Vec<&Event> = self.events(begin.window).collect();
        let seconds = (end.at - begin.at).as_secs_f64();
        let ops = events.len() as f64;
        let nodes: Vec<Counts> = end.nodes.iter().zip(&begin.nodes).map(|(end, begin)| end - begin).collect();
        let sum = |field: fn(&Counts) -> u64| nodes.iter().map(field).sum::<u64>();
        let per_op = |count: u64| if ops > 0.0 { json!(round(count as f64 / ops, 4)) } else { Value::Null };
        let mut fields = Map::new();
        let mut set = |name: &str, value: Value| {
            fields.insert(name.to_owned(), value);
        };
        set("seconds", json!(round(seconds, 2)));
        set("ops", json!(events.len()));
        set("failed", json!(events.iter().filter(|event| event.ending == Ending::Failed).count()));
        for (name, value) in latencies(events.iter().copied()) {
            set(name, value);
        }
        set("legs_per_op", per_op(end.client.legs.saturating_sub(begin.client.legs)));
        set("server_requests_per_op", per_op(sum(|counts| counts.client_gets + counts.client_puts)));
        // Refused dials reach no proxy: the client knows of them.
        let dials = sum(|counts| counts.client_dials).max(end.client.dials.saturating_sub(begin.client.dials));
        let probes = dials + sum(|counts| counts.client_pings);
        let per_node = probes as f64 / seconds / self.nodes as f64;
        set("dials_and_probes_per_s_node", json!(round(per_node, 3)));
        set("hedges", json!(end.client.hedges.saturating_sub(begin.client.hedges)));
        set("breaker_opens", json!(end.client.breaker_opens.saturating_sub(begin.client.breaker_opens)));
        set("parked", json!(end.client.parked.saturating_sub(begin.client.parked)));
        set("cpu_own", json!(round((end.cpu.own_s - begin.cpu.own_s) / seconds, 2)));
        set("cpu_servers", json!(round((end.cpu.servers_s - begin.cpu.servers_s) / seconds, 2)));
        for (index, class) in self.classes.iter().enumerate().filter(|_| self.classes.len() > 1) {
            let of_class = events.iter().copied().filter(|event| event.class == index);
            let fields = latencies(of_class).into_iter().map(|(name, value)| (name.to_owned(), value));
            set(class.name, Value::Object(fields.collect()));
        }
        let mut slowest = events;
        slowest.sort_by_key(|event| std::cmp::Reverse(event.latency));
        let shown = slowest.iter().take(SLOWEST_SHOWN).map(|event| {
            let at = event.begun.saturating_sub(begin.at).as_secs_f64();
            json!([self.classes[event.class].name, round(at, 3), ms(event.latency)])
        });
        set("slowest", shown.collect());
        fields
    }

    /// The most frequent errors, by kind and first words.
    fn errors(&self) -> Value {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for failure in &self.record.failures {
            let text = match &failure.error {
                Some(error) => format!("{:?}: {error}", error.kind()),
                None => "nothing left to work on".to_owned(),
            };
            *counts.entry(text.chars().take(300).collect()).or_default() += 1;
        }
        let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts.into_iter().take(ERRORS_SHOWN).map(|(text, count)| json!([count, text])).collect()
    }

    /// From a moment of the run to the first success that ended after it, and the share of successes among the
    /// operations that began in the 3 s from there on.
    pub fn recovery(&self, from: Duration) -> (Option<f64>, Option<f64>) {
        let ok = |event: &&Event| event.ending == Ending::Ok;
        let ends = self.record.events.iter().filter(ok).map(|event| event.begun + event.latency);
        let Some(first) = ends.filter(|end| *end >= from).min() else { return (None, None) };
        let within = |event: &&Event| (first..first + Duration::from_secs(3)).contains(&event.begun);
        let begun = self.record.events.iter().filter(within);
        let (all, good) = begun.fold((0_u64, 0_u64), |(all, good), event| (all + 1, good + u64::from(ok(&event))));
        let share = (all > 0).then(|| good as f64 / all as f64);
        (Some(round((first - from).as_secs_f64(), 3)), share)
    }
}

fn latencies<'a>(events: impl Iterator<Item = &'a Event>) -> Vec<(&'static str, Value)> {
    let mut histogram =
        Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_US, 3).expect("the bounds are constants that fit");
    for event in events {
        histogram.saturating_record((event.latency.as_micros() as u64).max(1));
    }
    if histogram.is_empty() {
        return Vec::new();
    }
    let at = |quantile: f64| json!(histogram.value_at_quantile(quantile) as f64 / 1000.0);
    let max = json!(histogram.max() as f64 / 1000.0);
    vec![("p50_ms", at(0.5)), ("p95_ms", at(0.95)), ("p99_ms", at(0.99)), ("p999_ms", at(0.999)), ("max_ms", max)]
}

fn ms(latency: Duration) -> f64 {
    round(latency.as_secs_f64() * 1e3, 2)
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Kind;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn border(window: Window, at: u64, legs: u64) -> Border {
        let client = Observed { legs, ..Observed::default() };
        Border { window, at: s(at), client, nodes: Vec::new(), cpu: Cpu::default() }
    }

    fn results(events: Vec<Event>) -> Results {
        Results {
            record: Record { events, failures: Vec::new() },
            classes: vec![Class { name: "only", per_s: 1.0, kind: Kind::Write }],
            borders: vec![border(Window::Warm, 0, 0), border(Window::Healthy, 1, 5), border(Window::Healed, 11, 30)],
            end: border(Window::Healed, 20, 40),
            nodes: 3,
        }
    }

    fn event(window: Window, begun: u64, latency: u64, ending: Ending) -> Event {
        Event { window, class: 0, begun: s(begun), latency: s(latency), ending }
    }

    #[test]
    fn windows_are_told_apart_and_the_warm_one_does_not_count() {
        let results = results(vec![
            event(Window::Warm, 0, 9, Ending::Failed),
            event(Window::Healthy, 2, 1, Ending::Ok),
            event(Window::Healthy, 3, 3, Ending::Wrong(7)),
            event(Window::Healed, 12, 1, Ending::Failed),
        ]);
        let fields = Value::Object(results.fields());
        let number = |path: &str| fields.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
        assert_eq!([number("/ops"), number("/failed"), number("/wrong_bytes")], [3.0, 1.0, 7.0]);
        assert_eq!([number("/h/ops"), number("/h/failed"), number("/h/legs_per_op")], [2.0, 0.0, 12.5]);
        assert!((2990.0..3010.0).contains(&number("/h/max_ms")));
        assert_eq!([number("/healed/failed"), number("/healed/legs_per_op")], [1.0, 10.0]);
        assert!(fields.get("warm").is_none());
    }

    #[test]
    fn recovery_begins_with_the_first_success_that_ends_after_the_heal() {
        let results = results(vec![
            event(Window::Fault2, 1, 5, Ending::Ok),
            // Began during the fault, was released by the heal at 10 s.
            event(Window::Fault2, 4, 8, Ending::Ok),
            event(Window::Healed, 11, 1, Ending::Failed),
            event(Window::Healed, 12, 9, Ending::Ok),
            event(Window::Healed, 14, 1, Ending::Failed),
            event(Window::Healed, 15, 1, Ending::Failed),
        ]);
        assert_eq!(results.recovery(s(10)), (Some(2.0), Some(0.5)));
        assert_eq!(results.recovery(s(30)), (None, None));
    }
}
