//! The table of a report.

use super::{Durability, Subject};
use std::collections::BTreeMap;

/// Lines of Markdown: a row each, figures by subject, and how many times each peer ours are.
pub fn markdown(
    order: &[&'static str],
    rows: &BTreeMap<&'static str, BTreeMap<String, f64>>,
    subjects: &[Subject],
) -> Vec<String> {
    let mut lines = Vec::new();
    for durability in [Durability::Durable, Durability::Relaxed] {
        let part: Vec<&Subject> = subjects.iter().filter(|subject| subject.durability == durability).collect();
        let Some(ours) = part.iter().find(|subject| subject.ours) else { continue };
        let peers: Vec<&&Subject> = part.iter().filter(|subject| !subject.ours).collect();
        let names = part.iter().map(|subject| subject.name.as_str());
        let ratios = peers.iter().map(|peer| format!("ours / {}", peer.name));
        let head: Vec<String> = names.map(str::to_owned).chain(ratios).collect();
        lines.push(format!("| | {} |", head.join(" | ")));
        lines.push(format!("|---|{}", "---|".repeat(head.len())));
        for row in order.iter().filter(|row| rows.contains_key(*row)) {
            let figure = |subject: &Subject| rows[row].get(&subject.name).copied();
            let shown = |value: Option<f64>| value.map_or("failed".to_owned(), |value| format!("{value:.0}"));
            let ratio = |peer: &&&Subject| match (figure(ours), figure(peer)) {
                (Some(ours), Some(peer)) if peer > 0.0 => format!("{:.2}", ours / peer),
                _ => "-".to_owned(),
            };
            let cells: Vec<String> =
                part.iter().map(|subject| shown(figure(subject))).chain(peers.iter().map(ratio)).collect();
            lines.push(format!("| {row} | {} |", cells.join(" | ")));
        }
        lines.push(String::new());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn what_is_in_memory_is_not_held_against_what_is_on_disk() {
        let subject =
            |name: &str, durability, ours| Subject { name: name.into(), dir: PathBuf::new(), durability, ours };
        let subjects = [
            subject("ours d", Durability::Durable, true),
            subject("ours r", Durability::Relaxed, true),
            subject("peer", Durability::Relaxed, false),
        ];
        let figures = [("ours d", 5.0), ("ours r", 30.0), ("peer", 10.0)];
        let figures = figures.into_iter().map(|(name, figure)| (name.to_owned(), figure)).collect();
        let rows = BTreeMap::from([("row", figures)]);
        let lines = markdown(&["row", "not measured"], &rows, &subjects);
        assert_eq!(lines[2], "| row | 5 |");
        assert_eq!(lines[4], "| | ours r | peer | ours / peer |");
        assert_eq!(lines[6], "| row | 30 | 10 | 3.00 |");
    }
}
