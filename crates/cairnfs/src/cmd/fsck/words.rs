//! The words for what is wrong with blocks of a group.

use std::collections::BTreeMap;

use cairn_client::{MapGroup, MapStore};

use super::{
    compare::Wrong,
    findings::{Finding, Kind},
    spans::Spans,
};
use crate::text;

/// What to say of stores.
pub type Stores = BTreeMap<u32, MapStore>;

/// A store with its node and, if that is not well, the node's state.
pub fn store(stores: &Stores, id: u32) -> String {
    match stores.get(&id) {
        Some(store) if store.up => format!("store {id} (node {})", store.node),
        Some(store) => format!("store {id} (node {}, {})", store.node, store.node_state),
        None => format!("store {id}"),
    }
}

/// `stores 1, 2 and 3`.
fn list(stores: &[u32]) -> String {
    let numbers: Vec<String> = stores.iter().map(u32::to_string).collect();
    match numbers.split_last() {
        None => "no store".to_owned(),
        Some((only, [])) => format!("store {only}"),
        Some((last, rest)) => format!("stores {} and {last}", rest.join(", ")),
    }
}

fn blocks(spans: &Spans) -> String {
    text::count(spans.blocks(), "block")
}

fn has_up(stores: &Stores, id: u32) -> bool {
    stores.get(&id).is_some_and(|store| store.up)
}

/// Findings about a group whose blocks are wrong; `elsewhere` says which stores that are no members have how many of the
/// blocks that are lost.
pub fn findings(
    group: &MapGroup,
    wrong: &Wrong,
    elsewhere: &[(u32, u64)],
    stores: &Stores,
    repaired: bool,
) -> Vec<Finding> {
    let pg = group.id;
    let members: Vec<u32> = group.members.iter().map(|(store, _)| *store).collect();
    let mut findings = Vec::new();
    if !wrong.lost.is_empty() {
        let why = format!("{} of the group {} asked", list(&members), if members.len() == 1 { "was" } else { "were" });
        let remedy = match elsewhere {
            [] => "restore the file from a backup, or remove it".to_owned(),
            elsewhere => {
                let places: Vec<String> =
                    elsewhere.iter().map(|(id, count)| format!("{} has {count} of them", store(stores, *id))).collect();
                let places = places.join(", ");
                format!("{places}, though no member of the group: take nothing away and report this as a defect")
            }
        };
        let what = format!("group {pg}: {} on no member", blocks(&wrong.lost));
        findings.push(Finding::new(Kind::Lost, what, why, remedy).about(pg, &wrong.lost));
    }
    if !wrong.unseen.is_empty() {
        let what = format!("group {pg}: {} on no member that could be asked", blocks(&wrong.unseen));
        let why = "some of its stores did not answer".to_owned();
        let remedy = "bring the stores back that are not checked, and check again".to_owned();
        findings.push(Finding::new(Kind::Unseen, what, why, remedy).about(pg, &wrong.unseen));
    }
    for (id, spans) in &wrong.unknown {
        let what = format!("group {pg}: {} not on {}", blocks(spans), store(stores, *id));
        let why = "it is a full member, and metadata does not know of the gap".to_owned();
        let remedy = "`cairn fsck --repair` has them copied from the other members".to_owned();
        findings.push(Finding::new(Kind::CopyMissing, what, why, remedy).about(pg, spans).on(*id).repaired(repaired));
    }
    for (id, spans) in &wrong.degraded {
        let what = format!("group {pg}: {} not on {}", blocks(spans), store(stores, *id));
        let why = "metadata knows that it lacks them".to_owned();
        let remedy = match has_up(stores, *id) {
            true => "they are being copied; check again".to_owned(),
            false => "start the node: they are copied by themselves; if it is gone for good, drain it".to_owned(),
        };
        findings.push(Finding::new(Kind::Degraded, what, why, remedy).about(pg, spans).on(*id).repaired(repaired));
    }
    for (id, spans) in &wrong.joining {
        let what = format!("group {pg}: {} not on {} yet", blocks(spans), store(stores, *id));
        let why = "it joined the group and still copies".to_owned();
        let remedy = match has_up(stores, *id) {
            true => "wait; `cairn status` shows how far it is".to_owned(),
            false => "start the node, or drain it".to_owned(),
        };
        findings.push(Finding::new(Kind::Joining, what, why, remedy).about(pg, spans).on(*id).repaired(repaired));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_well() {
        assert_eq!(
            [list(&[]), list(&[1]), list(&[1, 2]), list(&[1, 2, 3])],
            ["no store", "store 1", "stores 1 and 2", "stores 1, 2 and 3"]
        );
    }
}
