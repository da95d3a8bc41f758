//! What a run was, in one line of JSON: the fields of its criterion, and whether it is met.

use crate::criterion::judge;
use anyhow::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What a scenario has measured.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Fields of the report, those of the criterion among them.
    pub fields: Map<String, Value>,
    /// How often each family of faults hit somebody.
    pub fired: BTreeMap<String, u64>,
    /// Why there was no run: this machine cannot do it.
    pub skipped: Option<String>,
}

impl Outcome {
    /// Sets a field.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.fields.insert(name.to_owned(), value.into());
    }

    /// Adds the fields of a structure.
    ///
    /// # Errors
    /// It is not one that JSON can show as an object.
    pub fn extend(&mut self, fields: &impl Serialize) -> Result<()> {
        match serde_json::to_value(fields)? {
            Value::Object(fields) => {
                self.fields.extend(fields);
                Ok(())
            }
            other => anyhow::bail!("{other} has no fields"),
        }
    }
}

/// A judged run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Name of the scenario.
    pub name: String,
    /// Whether its criterion is met and every fault it injects has hit somebody.
    pub pass: bool,
    /// Why there was no run; it passes then, and says so.
    pub skipped: Option<String>,
    /// What is not as it should be.
    pub why: Vec<String>,
    /// All of it, with the measured fields.
    pub json: Value,
}

/// Judges a run by a criterion and by the families of faults that must have hit somebody. A run that broke is judged
/// by its error.
pub fn report(name: &str, seed: u64, criterion: &str, families: &[&str], result: Result<Outcome, Error>) -> Report {
    let (outcome, broken) = match result {
        Ok(outcome) => (outcome, None),
        Err(error) => (Outcome::default(), Some(format!("{error:#}"))),
    };
    let mut fields = Map::new();
    fields.insert("id".to_owned(), name.split('-').next().unwrap_or(name).into());
    fields.insert("variant".to_owned(), name.into());
    fields.insert("seed".to_owned(), seed.into());
    fields.extend(outcome.fields);
    fields.insert("fired".to_owned(), serde_json::to_value(&outcome.fired).unwrap_or_default());
    let mut why = Vec::new();
    match broken {
        Some(error) => why.push(error),
        None if outcome.skipped.is_some() => {}
        None => {
            let missing = families.iter().filter(|family| outcome.fired.get(**family).is_none_or(|times| *times == 0));
            why.extend(missing.map(|family| format!("the fault {family} never hit anybody")));
            match judge(criterion, &Value::Object(fields.clone())) {
                Ok(verdict) => why.extend(verdict.failed),
                Err(error) => why.push(error.to_string()),
            }
        }
    }
    let pass = why.is_empty();
    fields.insert("criterion".to_owned(), criterion.into());
    fields.insert("pass".to_owned(), pass.into());
    fields.insert("why".to_owned(), why.clone().into());
    if let Some(skipped) = &outcome.skipped {
        fields.insert("skipped".to_owned(), skipped.clone().into());
    }
    Report { name: name.to_owned(), pass, skipped: outcome.skipped, why, json: Value::Object(fields) }
}

/// One row for each report.
pub fn table(reports: &[Report]) -> String {
    let width = reports.iter().map(|report| report.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for report in reports {
        let word = match (&report.skipped, report.pass) {
            (Some(_), _) => "SKIP",
            (None, true) => "pass",
            (None, false) => "FAIL",
        };
        let number = |path: &str| report.json.pointer(path).and_then(Value::as_f64);
        let mut notes: Vec<String> = Vec::new();
        for (label, path) in [("h.p99", "/h/p99_ms"), ("f0.p99", "/f0/p99_ms"), ("f2.p99", "/f2/p99_ms")] {
            notes.extend(number(path).map(|ms| format!("{label} {ms:.1} ms")));
        }
        notes.extend(number("/f2/legs_per_op").map(|legs| format!("f2.legs/op {legs:.3}")));
        notes.extend(number("/failed").map(|failed| format!("failed {failed}")));
        notes.extend(number("/p99_ratio/all").map(|ratio| format!("f2.p99/h.p99 {ratio:.2}")));
        notes.extend(number("/whole_after_s").map(|s| format!("whole after {s:.0} s")));
        notes.extend(report.skipped.iter().map(|why| format!("not run: {why}")));
        notes.extend(report.why.iter().map(|why| format!("! {why}")));
        text.push_str(&format!("{:<width$}  {word}  {}\n", report.name, notes.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(failed: u64, fired: u64) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.set("failed", failed);
        outcome.fired.insert("delay".to_owned(), fired);
        outcome
    }

    #[test]
    fn passes_only_with_criterion_and_faults() {
        let judged = |outcome| report("AC1-stop", 7, ".failed==0", &["delay"], outcome);
        let good = judged(Ok(outcome(0, 1)));
        assert!(good.pass, "{good:?}");
        assert_eq!(good.json["id"], "AC1");
        assert_eq!(good.json["variant"], "AC1-stop");
        assert_eq!(good.json["seed"], 7);
        assert_eq!(judged(Ok(outcome(1, 1))).why, [".failed==0 (left side is 1)"]);
        assert_eq!(judged(Ok(outcome(0, 0))).why, ["the fault delay never hit anybody"]);
        assert_eq!(judged(Err(anyhow::anyhow!("broken"))).why, ["broken"]);
        let skipped = Outcome { skipped: Some("no root".to_owned()), ..Outcome::default() };
        let skipped = judged(Ok(skipped));
        assert!(skipped.pass && table(&[skipped]).contains("AC1-stop  SKIP  not run: no root"));
        assert!(table(&[good]).contains("AC1-stop  pass"));
    }
}
