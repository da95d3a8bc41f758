//! heal-*: nodes, disks and bytes are lost under load, and the cluster gets its N replicas back without anybody asking,
//! or moves them as an operator says.
//!
//! Every run ends with the same proof: all groups complete, no run degraded, no task left; every byte of every file read
//! back and held against what was acknowledged; every replica of every block read from its node; `cairn fsck` without a
//! defect.

mod disks;
mod nodes;
mod scene;
mod seen;
mod tasks;

use super::{Context, Running, Scenario};
use crate::report::Outcome;

/// The proof. `failed` is apart: it is 0 wherever a majority of replicas stays.
macro_rules! healed {
    ($more:literal) => {
        concat!(
            ".trouble==\"\" and .ops>=50 and .live_slots>0 and .wrong_bytes==0 and .lost==0 and .visible_failures==0 and ",
            ".whole and .blocks>0 and .replicas_good>=3*.blocks and .replicas_missing==0 and .replicas_bad==0 and ",
            ".replicas_unread==0 and .blocks_short==0 and .status_degraded_runs==0 and .status_groups_incomplete==0 and ",
            ".status_tasks==0 and .fsck_status==0 and .fsck_defects==0",
            $more
        )
    };
}

/// A scenario whose full and short runs are judged alike: no latency decides.
macro_rules! scenario {
    ($name:literal, $about:literal, $more:literal, $families:expr, $ci:literal, $run:expr) => {
        Scenario {
            name: $name,
            about: $about,
            criterion: healed!($more),
            short: healed!($more),
            families: $families,
            ci: $ci,
            run: $run,
        }
    };
}

/// See the module.
pub const SCENARIOS: &[Scenario] = &[
    scenario!(
        "heal-kill",
        "1 of 5 nodes killed and never back: out, its replicas are made anew on the others",
        " and .failed==0 and .incomplete_groups_max>0",
        &["kill"],
        true,
        nodes::kill
    ),
    scenario!(
        "heal-freeze",
        "1 of 5 nodes frozen until it was replaced everywhere, then it goes on",
        " and .failed==0 and .incomplete_groups_max>0",
        &["stop"],
        true,
        nodes::freeze
    ),
    scenario!(
        "heal-wipe",
        "1 of 5 nodes killed, its directory removed, started again under its address",
        " and .failed==0 and .incomplete_groups_max>0",
        &["wipe"],
        true,
        nodes::wipe
    ),
    scenario!(
        "heal-two",
        "2 of 5 nodes killed one after the other, the second when the first was healed",
        " and .failed==0 and .fired.kill==2",
        &["kill"],
        true,
        nodes::two
    ),
    scenario!(
        "heal-two-overlap",
        "2 of 5 nodes killed, the second while the first is repaired: both are repaired, or an alarm and it comes back",
        " and .fired.kill==2 and .lacked_at_second>0",
        &["kill"],
        false,
        nodes::two_overlap
    ),
    scenario!(
        "heal-two-at-once",
        "2 of 5 nodes killed at once for long: an alarm, no group changes, both come back",
        " and .fired.kill==2 and .alarms_seen>0 and .groups_changed==0",
        &["kill"],
        false,
        nodes::two_at_once
    ),
    scenario!(
        "heal-zone",
        "1 of 3 zones with 2 nodes each killed for long: an alarm, no group changes, the zone comes back",
        " and .failed==0 and .fired.kill==2 and .alarms_seen>0 and .groups_changed==0",
        &["kill"],
        true,
        nodes::zone
    ),
    scenario!(
        "heal-full",
        "the disk of 1 of 5 nodes filled up by somebody else (loop device), later there is room again",
        " and .failed==0 and .full_seen",
        &["full"],
        true,
        disks::full
    ),
    scenario!(
        "heal-eio",
        "the disk of 1 of 5 nodes fails every read and write with EIO (loop device)",
        " and .failed==0 and .store_troubles_seen>0",
        &["eio"],
        true,
        disks::eio
    ),
    scenario!(
        "heal-power",
        "all machines lose power, again and again: killed, and what their disks (loop devices) had not synced is gone",
        " and .cuts>0 and .fired.power==6*.cuts",
        &["power"],
        true,
        disks::power
    ),
    scenario!(
        "heal-rot",
        "bits flipped in 1,000 random places of the segments of 2 of 5 running nodes, then a scrub; restarted, then another",
        " and .failed==0 and .places>0 and .damaged>0 and .undetected==0 and .ledger_open==0 and .found_again==0",
        &["rot"],
        true,
        disks::rot
    ),
    scenario!(
        "heal-drain",
        "1 of 5 nodes drained, until it holds nothing",
        " and .failed==0 and .left_on_drained==0 and .empty_after_s>=0",
        &["drain"],
        true,
        tasks::drain
    ),
    scenario!(
        "heal-add",
        "a sixth node started and filled up with its share",
        " and .failed==0 and .new_node_groups>0 and .new_node_share>=0.5",
        &["add"],
        true,
        tasks::add
    ),
    scenario!(
        "heal-restart",
        "1 of 5 nodes drained, every process killed in between and started again: the drain goes on to its end",
        " and .moves_left_at_kill>0 and .left_on_drained==0 and .drain_state==\"done\"",
        &["drain", "kill"],
        true,
        tasks::restart
    ),
];

/// Number of the node at an index of the cluster, as metadata gave it.
fn id(index: usize) -> u32 {
    index as u32 + 1
}

/// A run that this machine cannot do.
fn skipped(why: String) -> Outcome {
    Outcome { skipped: Some(why), ..Outcome::default() }
}
