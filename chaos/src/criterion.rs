//! Acceptance criteria as text: the part of jq's language that they are written in, evaluated on a report, so that the
//! text in the table is the one that decides.
//!
//! `.path.of.names`, numbers, `"text"`, `true`, `false`, `+ - * /`, `== != <= >= < >`, `and`, `or`, parentheses; as in
//! jq, products bind tighter than sums, these tighter than comparisons, and `and` tighter than `or`. Unlike in jq, a
//! path that leads nowhere is an error, and so is comparing a number with a text: a criterion that asks for what was not
//! measured has not been met.

use serde_json::Value;
use std::cmp::Ordering;
use thiserror::Error;

/// Why a criterion could not be decided.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CriterionError {
    /// The text is not of the language.
    #[error("cannot read the criterion at \"{0}\"")]
    Syntax(String),
    /// The report has no such field.
    #[error("the report has no {0}")]
    Missing(String),
    /// Two values cannot be compared or calculated with.
    #[error("{0} and {1} do not go together")]
    Mismatch(String, String),
}

/// A criterion, decided.
#[derive(Clone, PartialEq, Debug)]
pub struct Verdict {
    /// Whether it is met.
    pub pass: bool,
    /// The conditions that are not, each with the values of both sides.
    pub failed: Vec<String>,
}

/// Decides a criterion.
///
/// # Errors
/// See [`CriterionError`].
pub fn judge(criterion: &str, report: &Value) -> Result<Verdict, CriterionError> {
    let mut reader = Reader { rest: criterion.trim(), report, failed: Vec::new() };
    let value = reader.any()?;
    if !reader.rest.is_empty() {
        return Err(reader.syntax());
    }
    let pass = truth(&value);
    Ok(Verdict { pass, failed: if pass { Vec::new() } else { reader.failed } })
}

struct Reader<'a> {
    rest: &'a str,
    report: &'a Value,
    failed: Vec<String>,
}

/// As jq: everything but `false` and `null` is true.
fn truth(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false))
}

fn mismatch(left: &Value, right: &Value) -> CriterionError {
    CriterionError::Mismatch(left.to_string(), right.to_string())
}

impl Reader<'_> {
    fn syntax(&self) -> CriterionError {
        CriterionError::Syntax(self.rest.chars().take(20).collect())
    }

    fn skip(&mut self, word: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(word) else { return false };
        let is_name = word.chars().all(|c| c.is_ascii_alphabetic());
        if is_name && rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            return false;
        }
        self.rest = rest.trim_start();
        true
    }

    fn any(&mut self) -> Result<Value, CriterionError> {
        let mut value = self.all()?;
        while self.skip("or") {
            let right = self.all()?;
            value = Value::Bool(truth(&value) || truth(&right));
        }
        Ok(value)
    }

    fn all(&mut self) -> Result<Value, CriterionError> {
        let mut value = self.condition()?;
        while self.skip("and") {
            let right = self.condition()?;
            value = Value::Bool(truth(&value) && truth(&right));
        }
        Ok(value)
    }

    fn condition(&mut self) -> Result<Value, CriterionError> {
        let begin = self.rest;
        let left = self.sum()?;
        let operator = ["==", "!=", "<=", ">=", "<", ">"].into_iter().find(|operator| self.skip(operator));
        let value = match operator {
            None => left.clone(),
            Some(operator) => {
                let right = self.sum()?;
                Value::Bool(compare(operator, &left, &right)?)
            }
        };
        if !truth(&value) {
            let text = begin[..begin.len() - self.rest.len()].trim();
            self.failed.push(format!("{text} (left side is {left})"));
        }
        Ok(value)
    }

    fn sum(&mut self) -> Result<Value, CriterionError> {
        let mut value = self.product()?;
        loop {
            let minus = if self.skip("+") {
                false
            } else if self.skip("-") {
                true
            } else {
                return Ok(value);
            };
            let right = self.product()?;
            value = calculate(&value, &right, |a, b| if minus { a - b } else { a + b })?;
        }
    }

    fn product(&mut self) -> Result<Value, CriterionError> {
        let mut value = self.single()?;
        loop {
            let over = if self.skip("*") {
                false
            } else if self.skip("/") {
                true
            } else {
                return Ok(value);
            };
            let right = self.single()?;
            value = calculate(&value, &right, |a, b| if over { a / b } else { a * b })?;
        }
    }

    fn single(&mut self) -> Result<Value, CriterionError> {
        if self.skip("(") {
            let value = self.any()?;
            return if self.skip(")") { Ok(value) } else { Err(self.syntax()) };
        }
        for (word, value) in [("true", true), ("false", false)] {
            if self.skip(word) {
                return Ok(Value::Bool(value));
            }
        }
        if let Some(rest) = self.rest.strip_prefix('"') {
            let end = rest.find('"').ok_or_else(|| self.syntax())?;
            self.rest = rest[end + 1..].trim_start();
            return Ok(Value::String(rest[..end].to_owned()));
        }
        if self.rest.starts_with('.') {
            return self.path();
        }
        let end = self.rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(self.rest.len());
        let number: f64 = self.rest[..end].parse().map_err(|_| self.syntax())?;
        self.rest = self.rest[end..].trim_start();
        Ok(Value::from(number))
    }

    fn path(&mut self) -> Result<Value, CriterionError> {
        let is_path = |c: char| c == '.' || c == '_' || c.is_ascii_alphanumeric();
        let end = self.rest.find(|c: char| !is_path(c)).unwrap_or(self.rest.len());
        let path = &self.rest[..end];
        let found = self.report.pointer(&path.replace('.', "/"));
        let found = found.filter(|value| !value.is_null()).cloned();
        self.rest = self.rest[end..].trim_start();
        found.ok_or_else(|| CriterionError::Missing(path.to_owned()))
    }
}

fn calculate(left: &Value, right: &Value, f: impl Fn(f64, f64) -> f64) -> Result<Value, CriterionError> {
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => Ok(Value::from(f(left, right))),
        _ => Err(mismatch(left, right)),
    }
}

fn compare(operator: &str, left: &Value, right: &Value) -> Result<bool, CriterionError> {
    let order = match (left, right) {
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        _ => match (left.as_f64(), right.as_f64()) {
            (Some(a), Some(b)) => a.partial_cmp(&b).ok_or_else(|| mismatch(left, right))?,
            _ => return Err(mismatch(left, right)),
        },
    };
    Ok(match operator {
        "==" => order == Ordering::Equal,
        "!=" => order != Ordering::Equal,
        "<=" => order != Ordering::Greater,
        ">=" => order != Ordering::Less,
        "<" => order == Ordering::Less,
        _ => order == Ordering::Greater,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pass(criterion: &str, report: &Value) -> bool {
        judge(criterion, report).unwrap_or_else(|error| panic!("{criterion}: {error}")).pass
    }

    #[test]
    fn criteria_are_decided_as_jq_does() {
        let report = json!({ "failed": 0, "ok": true, "text": "TooLarge", "ops": 100, "hedges": 37,
            "h": { "p99_ms": 10.0 }, "f2": { "p99_ms": 16.0 } });
        for criterion in [
            ".failed==0",
            ".f2.p99_ms<=1.5*.h.p99_ms+1",
            ".failed == 0 and .f2.p99_ms <= 1.5 * .h.p99_ms + 1",
            ".hedges<=0.05*.ops+32",
            ".text==\"TooLarge\" and .ok",
            ".failed!=0 or .ok",
            "1+2*3==7 and (1+2)*3==9 and 7-2-1==4 and 8/2/2==2",
            ".ok==true and 1<2 and 2>1 and 2>=2",
        ] {
            assert!(pass(criterion, &report), "{criterion}");
        }
        for criterion in [".failed>0", ".f2.p99_ms<=1.5*.h.p99_ms", "false", ".ok and .hedges>37", "1>2 or 2>3"] {
            assert!(!pass(criterion, &report), "{criterion}");
        }
    }

    #[test]
    fn what_failed_is_told_with_its_value() {
        let report = json!({ "failed": 3, "ops": 10 });
        let verdict = judge(".ops==10 and .failed==0", &report).expect("readable");
        assert_eq!(verdict, Verdict { pass: false, failed: vec![".failed==0 (left side is 3)".to_owned()] });
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let report = json!({ "a": null, "text": "x" });
        assert_eq!(judge(".a==0", &report), Err(CriterionError::Missing(".a".to_owned())));
        assert_eq!(judge(".b.c==0", &report), Err(CriterionError::Missing(".b.c".to_owned())));
        assert!(matches!(judge(".text<1", &report), Err(CriterionError::Mismatch(..))));
        for broken in ["", "==", ".text==", "(1", "1 1", "\"x", ".text===1"] {
            assert!(matches!(judge(broken, &report), Err(CriterionError::Syntax(_))), "{broken}");
        }
    }
}
