//! The scenarios: what is broken, under which load, and by which criterion a run is judged.

mod bits;
mod fence;
mod heal;
mod layer;
mod mounts;
mod once;
mod reads;
mod writes;

use crate::cluster::{Cluster, Setup};
use crate::load::{Class, Kind};
use crate::report::{Outcome, Report, report};
use crate::run::Plan;
use anyhow::Result;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, Instant};

/// How much of a run is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// The whole of it; latencies are judged, so the machine must be quiet.
    Full,
    /// Seconds, at low rates; judged by counts and outcomes only, so that it may run anywhere and in any profile.
    Short,
}

/// What a run is given.
#[derive(Clone, Debug)]
pub struct Context {
    /// Decides every random choice of load and faults.
    pub seed: u64,
    /// How much of it.
    pub form: Form,
    /// The program `cairn`.
    pub cairn: PathBuf,
    /// Where data may be.
    pub dir: PathBuf,
}

/// A run under way.
pub type Running = Pin<Box<dyn Future<Output = Result<Outcome>>>>;

/// One row of the table of acceptance criteria, or a variant of it.
pub struct Scenario {
    /// As one calls it: `AC1`, `AC1-stop`.
    pub name: &'static str,
    /// What happens, in a line.
    pub about: &'static str,
    /// Decides a full run.
    pub criterion: &'static str,
    /// Decides a short run: the same without latencies and with the rates of small numbers.
    pub short: &'static str,
    /// Families of faults that must have hit somebody.
    pub families: &'static [&'static str],
    /// Whether its short form is one of those that every check runs.
    pub ci: bool,
    /// Runs it.
    pub run: fn(Context) -> Running,
}

/// All of them, in the order of the table.
pub fn all() -> Vec<&'static Scenario> {
    let tables = [
        reads::SCENARIOS,
        writes::SCENARIOS,
        bits::SCENARIOS,
        layer::SCENARIOS,
        once::SCENARIOS,
        fence::SCENARIOS,
        heal::SCENARIOS,
        mounts::SCENARIOS,
    ];
    tables.into_iter().flatten().collect()
}

/// Those that a name means: with a star at its end, all that begin as it does (`heal-*`); otherwise the scenario of that
/// name, else all whose name begins with it and goes on with a letter or a hyphen (`AC2`: `AC2a`, `AC2b`).
pub fn named(name: &str) -> Vec<&'static Scenario> {
    if let Some(begin) = name.strip_suffix('*') {
        return all().into_iter().filter(|scenario| scenario.name.starts_with(begin)).collect();
    }
    let exact: Vec<_> = all().into_iter().filter(|scenario| scenario.name == name).collect();
    if !exact.is_empty() {
        return exact;
    }
    let of_family = |scenario: &&Scenario| {
        let rest = scenario.name.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(|c: char| c == '-' || c.is_ascii_alphabetic()))
    };
    all().into_iter().filter(of_family).collect()
}

impl Scenario {
    /// Runs and judges it.
    pub async fn judge(&self, context: Context) -> Report {
        let (seed, form) = (context.seed, context.form);
        let criterion = if form == Form::Full { self.criterion } else { self.short };
        let begun = Instant::now();
        let result = (self.run)(context).await.map(|mut outcome| {
            outcome.set("took_s", begun.elapsed().as_secs());
            outcome.set("form", if form == Form::Full { "full" } else { "short" });
            outcome
        });
        report(self.name, seed, criterion, self.families, result)
    }
}

impl Context {
    /// Starts a cluster of `nodes` nodes.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn cluster(&self, nodes: u16) -> Result<Cluster> {
        Cluster::start(&self.setup(nodes)).await
    }

    /// The usual settings of a cluster of `nodes` nodes.
    pub fn setup(&self, nodes: u16) -> Setup {
        Setup::new(self.cairn.clone(), self.dir.clone(), nodes, self.seed)
    }

    /// Which of `count` nodes is hit.
    pub fn victim(&self, count: usize) -> usize {
        (self.seed % count as u64) as usize
    }

    /// The windows of a run; `fault` is the length of the fault in the full form.
    pub fn plan(&self, fault: Duration) -> Plan {
        let (s, ms) = (Duration::from_secs, Duration::from_millis);
        match self.form {
            Form::Full => Plan { warm: s(3), healthy: s(10), fault, healed: s(20) },
            Form::Short => Plan { warm: ms(500), healthy: ms(1500), fault: ms(4500), healed: s(2) },
        }
    }

    /// Range reads: 1,000/s of 4 KiB and 50/s of 1 MiB; a tenth of it in the short form.
    pub fn read_classes(&self) -> Vec<Class> {
        let scale = if self.form == Form::Full { 1.0 } else { 0.1 };
        vec![
            Class { name: "small", per_s: 1000.0 * scale, kind: Kind::Read(4096) },
            Class { name: "large", per_s: 50.0 * scale, kind: Kind::Read(1024 * 1024) },
        ]
    }

    /// Writes: 200/s of 256 KiB; a tenth of it in the short form.
    pub fn write_classes(&self) -> Vec<Class> {
        let per_s = if self.form == Form::Full { 200.0 } else { 20.0 };
        vec![Class { name: "write", per_s, kind: Kind::Write }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_a_scenario_or_a_family() {
        assert_eq!(named("AC1").iter().map(|scenario| scenario.name).collect::<Vec<_>>(), ["AC1"]);
        assert_eq!(named("AC2").iter().map(|scenario| scenario.name).collect::<Vec<_>>(), ["AC2a", "AC2b"]);
        let heal = named("heal-*");
        assert!(heal.len() > 5 && heal.iter().all(|scenario| scenario.name.starts_with("heal-")));
        assert_eq!(named("heal").len(), heal.len());
        assert!(named("AC").is_empty() && named("nothing").is_empty());
        let mut names: Vec<_> = all().iter().map(|scenario| scenario.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
    }
}
