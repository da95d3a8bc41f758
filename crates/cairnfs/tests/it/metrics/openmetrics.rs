//! A strict reader of the OpenMetrics text format, version 1.0.0: what it takes, Prometheus takes.

use std::collections::{BTreeMap, BTreeSet};

/// A family of metrics.
#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    pub help: String,
    pub unit: String,
    pub samples: Vec<Sample>,
}

/// One line with a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// Reads a whole page.
///
/// # Errors
/// The first line that breaks the format, and how.
pub fn read(text: &str) -> Result<BTreeMap<String, Family>, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("the page does not end in # EOF")?;
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in body.lines() {
        let wrong = |why: &str| format!("{why}: {line}");
        if let Some(rest) = line.strip_prefix("# ") {
            let (keyword, rest) = rest.split_once(' ').ok_or_else(|| wrong("no keyword"))?;
            let (name, value) = rest.split_once(' ').ok_or_else(|| wrong("no value"))?;
            if name != current {
                if !is_name(name) || families.contains_key(name) {
                    return Err(wrong("a bad name, or one that was there before"));
                }
                current = name.to_owned();
            }
            let family = families.entry(current.clone()).or_default();
            if !family.samples.is_empty() {
                return Err(wrong("a description behind its samples"));
            }
            let slot = match keyword {
                "HELP" => &mut family.help,
                "TYPE" => &mut family.kind,
                "UNIT" => &mut family.unit,
                _ => return Err(wrong("unknown keyword")),
            };
            if !slot.is_empty() {
                return Err(wrong("said twice"));
            }
            value.clone_into(slot);
            continue;
        }
        let sample = read_sample(line).ok_or_else(|| wrong("no sample"))?;
        let family = families.get_mut(&current).ok_or_else(|| wrong("no description before it"))?;
        check_sample(&current, family, &sample).map_err(wrong)?;
        family.samples.push(sample);
    }
    families.iter().try_for_each(|(name, family)| check_family(name, family))?;
    Ok(families)
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && chars.all(|other| other.is_ascii_alphanumeric() || other == '_')
}

/// `name{label="value",...} number`
fn read_sample(line: &str) -> Option<Sample> {
    let name_len = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_len);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, behind) = rest.split_once("=\"")?;
            let (value, behind) = read_quoted(behind)?;
            if !is_name(label) || labels.insert(label.to_owned(), value).is_some() {
                return None;
            }
            rest = match behind.strip_prefix(',') {
                Some(next) if !next.starts_with('}') => next,
                Some(_) => return None,
                None => behind,
            };
        }
        rest = &rest[1..];
    }
    let value = match rest.strip_prefix(' ')? {
        "+Inf" => f64::INFINITY,
        "NaN" => return None,
        number => number.parse().ok()?,
    };
    is_name(name).then(|| Sample { name: name.to_owned(), labels, value })
}

/// A value up to its closing quote, and what is behind it.
fn read_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                same @ ('\\' | '"') => same,
                _ => return None,
            }),
            '\n' => return None,
            other => value.push(other),
        }
    }
    None
}

fn check_sample(family_name: &str, family: &Family, sample: &Sample) -> Result<(), &'static str> {
    let suffix = sample.name.strip_prefix(family_name).ok_or("a sample of another family")?;
    let fits = match family.kind.as_str() {
        "counter" => suffix == "_total" && sample.value >= 0.0,
        "gauge" => suffix.is_empty(),
        "histogram" => match suffix {
            "_bucket" => sample.labels.contains_key("le"),
            "_sum" | "_count" => true,
            _ => false,
        },
        _ => false,
    };
    if !fits {
        return Err("not what its type allows");
    }
    if family.samples.iter().any(|other| (&other.name, &other.labels) == (&sample.name, &sample.labels)) {
        return Err("a series that was there before");
    }
    Ok(())
}

fn check_family(name: &str, family: &Family) -> Result<(), String> {
    if family.help.is_empty() || !family.help.ends_with('.') || family.kind.is_empty() {
        return Err(format!("{name}: help and type are missing, or help is no sentence"));
    }
    if !family.unit.is_empty() && !name.ends_with(&format!("_{}", family.unit)) {
        return Err(format!("{name} does not end in its unit {}", family.unit));
    }
    let label_sets: BTreeSet<Vec<&String>> = family.samples.iter().map(|s| own_labels(s).collect()).collect();
    if label_sets.len() > 1 {
        return Err(format!("{name}: its series have different labels: {label_sets:?}"));
    }
    if family.kind == "histogram" { check_histogram(name, family) } else { Ok(()) }
}

/// Labels of a series; the bounds of buckets are none.
pub fn own_labels(sample: &Sample) -> impl Iterator<Item = &String> {
    sample.labels.keys().filter(|label| *label != "le")
}

/// One histogram of a family.
#[derive(Default)]
struct Series {
    /// Bound and count, in the order of the lines.
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: Option<f64>,
}

/// Buckets ascend and add up to the count.
fn check_histogram(name: &str, family: &Family) -> Result<(), String> {
    let mut all: BTreeMap<Vec<(String, String)>, Series> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        let bound = labels.remove("le");
        let series = all.entry(labels.into_iter().collect()).or_default();
        if let Some(bound) = bound {
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().map_err(|_| name.to_owned())? };
            series.buckets.push((bound, sample.value));
        } else if sample.name.ends_with("_count") {
            series.count = Some(sample.value);
        } else {
            series.sum = Some(sample.value);
        }
    }
    for (labels, Series { buckets, count, sum }) in all {
        let ascending = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let last = buckets.last().copied();
        if !ascending || last.map(|last| last.0) != Some(f64::INFINITY) || last.map(|last| last.1) != count {
            return Err(format!("{name}{labels:?}: the buckets are wrong"));
        }
        if sum.is_none() {
            return Err(format!("{name}{labels:?}: no sum"));
        }
    }
    Ok(())
}

#[test]
fn what_breaks_the_format_is_found() {
    let head = "# HELP a_total_x Help.\n# TYPE a_total_x gauge\n";
    let good = format!("{head}a_total_x{{b=\"c\\\"\\n,}}\"}} 1.5\n# EOF\n");
    assert_eq!(read(&good).unwrap()["a_total_x"].samples[0].labels["b"], "c\"\n,}");
    let bad = |line: &str| assert!(read(&format!("{head}{line}\n# EOF\n")).is_err(), "{line}");
    for line in [
        "b 1",
        "a_total_x",
        "a_total_x one",
        "a_total_x NaN",
        "a_total_x_total 1",
        "a_total_x{b=\"c} 1",
        "a_total_x{b=\"c\",} 1",
        "a_total_x{b=\"c\",b=\"d\"} 1",
        "a_total_x{1b=\"c\"} 1",
        "a_total_x 1\na_total_x 1",
        "a_total_x 1\na_total_x{b=\"c\"} 1",
        "# TYPE a_total_x gauge",
        "# MORE a_total_x gauge",
    ] {
        bad(line);
    }
    assert!(read(head).is_err(), "no end");
    assert!(read("# HELP a No sentence\n# TYPE a gauge\n# EOF\n").is_err());
    assert!(read("# HELP a A.\n# TYPE a counter\na 1\n# EOF\n").is_err());
    assert!(read("# HELP a A.\n# TYPE a gauge\n# UNIT a bytes\n# EOF\n").is_err());
    let histogram = |counts: [u32; 3]| {
        let [small, all, count] = counts;
        format!(
            "# HELP a A.\n# TYPE a histogram\na_sum 1.0\na_count {count}\na_bucket{{le=\"1.0\"}} {small}\n\
             a_bucket{{le=\"+Inf\"}} {all}\n# EOF\n"
        )
    };
    assert!(read(&histogram([1, 2, 2])).is_ok());
    assert!(read(&histogram([3, 2, 2])).is_err());
    assert!(read(&histogram([1, 2, 3])).is_err());
}
