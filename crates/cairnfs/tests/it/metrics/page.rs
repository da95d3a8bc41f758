//! docs/operations/metrics.md names every metric that is shown, and no other.

use super::openmetrics::{self, Family, own_labels};
use crate::shell::{CONSOLE_STEP, Cluster, http_get};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Name of a metric as it is documented, with its type and labels.
type Names = BTreeMap<String, (String, BTreeSet<String>)>;

/// The rows of the page: | `name` | type | `label`, `label` | meaning |
fn documented() -> Names {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations/metrics.md");
    let page = fs::read_to_string(path).unwrap();
    let mut names = Names::new();
    for row in page.lines().filter(|line| line.starts_with("| `cairn_")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("four columns: {row}") };
        assert!(!meaning.is_empty(), "{row}");
        let labels = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        let before = names.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), labels));
        assert!(before.is_none(), "twice: {row}");
    }
    assert!(names.len() > 50, "the page is not read: {}", names.len());
    names
}

/// Adds what a page shows: counters under the names of their samples, labels as far as there are samples.
fn shown(into: &mut Names, families: &BTreeMap<String, Family>) {
    for (name, family) in families {
        let name = if family.kind == "counter" { format!("{name}_total") } else { name.clone() };
        let entry = into.entry(name).or_insert_with(|| (family.kind.clone(), BTreeSet::new()));
        assert_eq!(entry.0, family.kind);
        entry.1.extend(family.samples.iter().flat_map(own_labels).cloned());
    }
}

fn check(documented: &Names, shown: &Names, prefixes: &[&str]) {
    let ours = |name: &&String| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let undocumented: Vec<&String> = shown.keys().filter(|name| !documented.contains_key(*name)).collect();
    assert_eq!(undocumented, Vec::<&String>::new(), "shown, but not in docs/operations/metrics.md");
    let missing: Vec<&String> = documented.keys().filter(ours).filter(|name| !shown.contains_key(*name)).collect();
    assert_eq!(missing, Vec::<&String>::new(), "in docs/operations/metrics.md, but not shown");
    for (name, (kind, labels)) in shown {
        let (kind_told, labels_told) = &documented[name];
        assert_eq!(kind, kind_told, "type of {name}");
        // A family without samples shows no labels.
        assert!(labels == labels_told || labels.is_empty(), "labels of {name}: {labels:?}, told {labels_told:?}");
    }
}

#[test]
fn servers_show_what_the_page_says() {
    let cluster = Cluster::start();
    let done = cluster.run_with(&vec![7; 2 << 20], ["put", "-q", "-", "/x"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(cluster.run(["cat", "/x"]).code, 0);
    let mut names = Names::new();
    for number in 0..2 {
        let (status, page) = http_get(cluster.base_port + CONSOLE_STEP + number, "/metrics").unwrap();
        assert_eq!(status, 200);
        let families = openmetrics::read(&page).unwrap_or_else(|why| panic!("{why}\n{page}"));
        shown(&mut names, &families);
    }
    check(&documented(), &names, &["cairn_server_", "cairn_node_", "cairn_meta_"]);
}

#[test]
fn clients_show_what_the_page_says() {
    let cluster = Cluster::start();
    let page = cluster.run(["stats", "--prometheus"]).quiet();
    let families = openmetrics::read(&page).unwrap_or_else(|why| panic!("{why}\n{page}"));
    let mut names = Names::new();
    shown(&mut names, &families);
    check(&documented(), &names, &["cairn_client_"]);
    let states = &families["cairn_client_breaker_state"].samples;
    assert_eq!(states.len(), 4, "metadata and three nodes: {states:?}");
    assert!(states.iter().all(|state| state.value == 0.0), "{states:?}");
}
