//! What a metadata server keeps in memory about the living: nodes, stores, sessions, totals. None of it is needed to
//! be right after a crash; the identities behind it are rows.

use crate::limits::{DEFECTS_MAX, OUT_AFTER, PAUSE_MIN, SUSPECT_AFTER};
use crate::rows;
use cairn_proto::pb;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

pub(crate) use cairn_proto::pb::NodeState;

/// A node as this process sees it.
#[derive(Clone, Debug)]
pub(crate) struct NodeLive {
    pub row: rows::Node,
    /// When it was last heard of, or when we began to listen.
    pub last_seen: Duration,
    /// It registered or reported to this process.
    pub heard: bool,
    pub state: NodeState,
}

/// A store as this process sees it.
#[derive(Clone, Debug)]
pub(crate) struct StoreLive {
    pub row: rows::Store,
    pub beat: rows::StoreBeat,
    /// The report is newer than its row.
    pub dirty: bool,
    /// What its node wants an operator to look at; empty when well. Kept in memory only: every report says it again.
    pub alarm: String,
}

/// The storage side of the cluster.
#[derive(Default, Debug)]
pub(crate) struct Cluster {
    pub nodes: BTreeMap<u32, NodeLive>,
    pub stores: BTreeMap<u32, StoreLive>,
    /// Bytes committed to each group, and whether that is newer than the row.
    pub pg_bytes: BTreeMap<u32, (u64, bool)>,
    /// Newest first.
    pub defects: VecDeque<pb::Defect>,
    /// Stores without membership left to hand over.
    pub handed_over: BTreeSet<u32>,
    /// Groups known to be sealed.
    pub sealed: BTreeSet<u32>,
    /// More silent nodes than may be out at once.
    pub alarm: bool,
    /// When silence was judged last.
    pub judged: Option<Duration>,
}

/// What a node's silence makes of it, `silent` long; `hold` keeps it from being out.
pub(crate) fn state_after(replaced: bool, silent: Duration, hold: bool) -> NodeState {
    match silent {
        _ if replaced => NodeState::Replaced,
        silent if silent < SUSPECT_AFTER => NodeState::Up,
        silent if silent < OUT_AFTER || hold => NodeState::Suspect,
        _ => NodeState::Out,
    }
}

/// True when nothing was judged for so long that this process must have stood still.
pub(crate) fn was_paused(judged: Option<Duration>, now: Duration) -> bool {
    judged.is_some_and(|judged| now.saturating_sub(judged) >= PAUSE_MIN)
}

impl Cluster {
    /// Silent nodes are more than a third of all, or a whole zone of several: rather our own trouble than theirs.
    fn too_many_silent(&self, now: Duration) -> bool {
        let mut silent = 0;
        let mut zones: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        let mut count = 0;
        for node in self.nodes.values().filter(|node| !node.row.replaced) {
            let zone = zones.entry(&node.row.zone).or_default();
            zone.0 += 1;
            count += 1;
            if now.saturating_sub(node.last_seen) >= SUSPECT_AFTER {
                silent += 1;
                zone.1 += 1;
            }
        }
        silent * 3 > count || (zones.len() > 1 && zones.values().any(|(all, silent)| *all > 1 && all == silent))
    }

    /// Judges every node by its silence. True when a state changed.
    pub(crate) fn judge(&mut self, now: Duration) -> bool {
        if was_paused(self.judged.replace(now), now) {
            for node in self.nodes.values_mut() {
                node.last_seen = now;
            }
        }
        let hold = self.too_many_silent(now);
        if hold != self.alarm {
            self.alarm = hold;
            if hold {
                tracing::warn!("too many nodes are silent at once: none is taken for lost");
            }
        }
        let mut changed = false;
        for (id, node) in &mut self.nodes {
            let state = state_after(node.row.replaced, now.saturating_sub(node.last_seen), hold);
            // Who is out stays out until heard of: an alarm that comes later brings nobody back.
            let state =
                if node.state == NodeState::Out && state == NodeState::Suspect { NodeState::Out } else { state };
            if state != node.state {
                tracing::info!(node = id, from = node.state.as_str_name(), to = state.as_str_name(), "node state");
                node.state = state;
                changed = true;
            }
        }
        changed
    }

    /// Notes a defect; one that is known moves to the front.
    pub(crate) fn note_defect(&mut self, defect: pb::Defect) {
        self.defects.retain(|known| (known.store, &known.block) != (defect.store, &defect.block));
        self.defects.push_front(defect);
        self.defects.truncate(DEFECTS_MAX);
    }
}

/// A session as this process sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionLive {
    /// When it was last heard of, or when we began to listen.
    pub last_seen: Duration,
    pub beats: u64,
    pub dirty: bool,
}

/// Open sessions.
#[derive(Default, Debug)]
pub(crate) struct Sessions {
    pub live: HashMap<u64, SessionLive>,
    /// When silence was judged last.
    judged: Option<Duration>,
}

impl Sessions {
    /// A session that was silent for longer than `lease`.
    pub(crate) fn silent(&mut self, now: Duration, lease: Duration) -> Option<u64> {
        if was_paused(self.judged.replace(now), now) {
            for live in self.live.values_mut() {
                live.last_seen = now;
            }
        }
        let mut silent = self.live.iter().filter(|(_, live)| now.saturating_sub(live.last_seen) > lease);
        silent.next().map(|(session, _)| *session)
    }
}

/// Totals of the namespace. After a crash, what was not written down in the last second is missing.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Totals {
    pub inodes: i64,
    pub file_bytes: i64,
    pub dirty: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_makes_suspect_then_out() {
        let at = |seconds, hold| state_after(false, Duration::from_secs(seconds), hold);
        assert_eq!(at(9, false), NodeState::Up);
        assert_eq!(at(10, false), NodeState::Suspect);
        assert_eq!(at(599, false), NodeState::Suspect);
        assert_eq!(at(600, false), NodeState::Out);
        assert_eq!(at(600, true), NodeState::Suspect);
        assert_eq!(state_after(true, Duration::ZERO, false), NodeState::Replaced);
    }

    fn cluster(nodes: &[(&str, u64)]) -> Cluster {
        let mut cluster = Cluster::default();
        for (index, (zone, last_seen)) in nodes.iter().enumerate() {
            let row = rows::Node {
                uuid: [index as u8; 16],
                boot_id: [0; 16],
                addr: String::new(),
                zone: (*zone).into(),
                rack: String::new(),
                host: String::new(),
                replaced: false,
            };
            let last_seen = Duration::from_secs(*last_seen);
            let live = NodeLive { row, last_seen, heard: true, state: NodeState::Up };
            cluster.nodes.insert(index as u32 + 1, live);
        }
        cluster
    }

    #[test]
    fn one_of_three_may_be_lost_two_may_not() {
        let now = Duration::from_secs(1000);
        let mut one = cluster(&[("", 0), ("", 999), ("", 999)]);
        assert!(one.judge(now));
        assert_eq!(one.nodes[&1].state, NodeState::Out);
        let mut two = cluster(&[("", 0), ("", 0), ("", 999)]);
        assert!(two.judge(now) && two.alarm);
        assert_eq!(two.nodes[&1].state, NodeState::Suspect);
    }

    #[test]
    fn a_pause_of_our_own_is_nobody_s_silence() {
        let mut cluster = cluster(&[("", 0), ("", 0), ("", 0)]);
        assert!(!cluster.judge(Duration::from_secs(1)));
        assert!(!cluster.judge(Duration::from_secs(5000)));
        assert!(!cluster.judge(Duration::from_secs(5009)));
        assert!(cluster.judge(Duration::from_secs(5010)));
    }

    #[test]
    fn a_whole_zone_is_not_lost_by_itself() {
        let nodes = [("a", 0), ("a", 0), ("b", 999), ("b", 999), ("b", 999), ("c", 999), ("c", 999)];
        let mut zones = cluster(&nodes);
        zones.judge(Duration::from_secs(1000));
        assert_eq!(zones.nodes[&1].state, NodeState::Suspect);
    }

    #[test]
    fn defects_are_bounded_and_said_once() {
        let mut cluster = Cluster::default();
        for seq in 0..2 * DEFECTS_MAX as u32 {
            let block = Some(pb::BlockId { inode: 1, writer: 1, seq });
            cluster.note_defect(pb::Defect { store: 1, block, ..Default::default() });
        }
        let last = 2 * DEFECTS_MAX as u32 - 5;
        let block = Some(pb::BlockId { inode: 1, writer: 1, seq: last });
        cluster.note_defect(pb::Defect { store: 1, block, repaired: true, ..Default::default() });
        assert_eq!(cluster.defects.len(), DEFECTS_MAX);
        assert!(cluster.defects[0].repaired);
        assert_eq!(cluster.defects.iter().filter(|d| d.block == block).count(), 1);
    }
}
