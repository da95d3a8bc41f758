//! What a metadata server keeps in memory about the living: nodes, stores, sessions. None of it is needed to be right
//! after a crash; the identities behind it are rows, which other servers may change.

use crate::lease::Contact;
use crate::limits::{ALARMS_MAX, DEFECTS_MAX, OUT_AFTER, PAUSE_MIN, SUSPECT_AFTER};
use crate::rows;
use crate::survey::Survey;
use crate::tend::Tending;
use crate::usage::GroupUsage;
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
    /// Since when its node has said that it failed or is not there.
    pub failed_since: Option<Duration>,
    /// It failed so long ago that others take its memberships over.
    pub lost: bool,
    /// How far its joins are, as its node said last.
    pub joins: Vec<pb::JoinProgress>,
    pub scrub: Option<pb::StoreScrub>,
    pub copying: Copying,
    /// It lost blocks that it had acknowledged, and is completing its groups anew; else empty.
    pub past_alarm: String,
}

/// What is known of a store that has not reported.
pub(crate) fn no_beat() -> rows::StoreBeat {
    rows::StoreBeat {
        capacity_bytes: 0,
        used_bytes: 0,
        blocks: 0,
        quarantined: 0,
        trouble: String::new(),
        durable_records: 0,
    }
}

impl StoreLive {
    pub(crate) fn new(row: rows::Store) -> Self {
        Self {
            row,
            beat: no_beat(),
            dirty: false,
            alarm: String::new(),
            failed_since: None,
            lost: false,
            joins: Vec::new(),
            scrub: None,
            copying: Copying::default(),
            past_alarm: String::new(),
        }
    }

    /// Notes whether the store is there and serves, as its node says.
    pub(crate) fn note_failed(&mut self, failed: bool, now: Duration) {
        match (failed, self.failed_since) {
            (true, None) => self.failed_since = Some(now),
            (false, _) => self.failed_since = None,
            (true, Some(_)) => {}
        }
    }
}

/// How fast a store copies from others, measured between its reports.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Copying {
    last: Option<(Duration, u64)>,
    /// Bytes a second, smoothed; 0 = it copies nothing, or that is not known.
    pub rate: u64,
}

impl Copying {
    /// The store has copied `bytes` since it was opened, as it says at `now`.
    pub(crate) fn note(&mut self, now: Duration, bytes: u64) {
        if let Some((at, before)) = self.last {
            let elapsed = u64::try_from(now.saturating_sub(at).as_millis()).unwrap_or(u64::MAX);
            if elapsed == 0 {
                return;
            }
            // A store that was opened again counts from nothing.
            let lately = bytes.saturating_sub(before).saturating_mul(1000) / elapsed;
            self.rate = if self.rate == 0 { lately } else { (self.rate * 7).saturating_add(lately) / 8 };
        }
        self.last = Some((now, bytes));
    }
}

/// How long a silence makes what of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Patience {
    pub suspect_after: Duration,
    pub out_after: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { suspect_after: SUSPECT_AFTER, out_after: OUT_AFTER }
    }
}

/// The storage side of the cluster.
#[derive(Default, Debug)]
pub(crate) struct Cluster {
    pub patience: Patience,
    pub nodes: BTreeMap<u32, NodeLive>,
    pub stores: BTreeMap<u32, StoreLive>,
    /// Bytes committed to each group.
    pub pg_bytes: BTreeMap<u32, GroupUsage>,
    /// Newest first.
    pub defects: VecDeque<pb::Defect>,
    /// Stores without membership left to hand over.
    pub handed_over: BTreeSet<u32>,
    /// Groups known to be sealed.
    pub sealed: BTreeSet<u32>,
    /// More silent nodes or failed stores than may be lost at once.
    pub alarm: bool,
    /// When that began last.
    pub alarm_since: Duration,
    /// When that ended last: whoever fell silent with it is given time anew, lest a zone that comes back node by node be
    /// taken for lost with the first of them.
    pub calm_since: Option<Duration>,
    /// Joins under way, by group and store: the bytes that had been copied when that changed last, and when that was.
    pub joining: BTreeMap<(u32, u32), (u64, Duration)>,
    /// When silence was judged last.
    pub judged: Option<Duration>,
    /// The memberships as they were looked through last.
    pub survey: Survey,
    /// What needs an operator's look, from the duty that goes through the groups.
    pub alarms: Vec<String>,
    /// Tasks that cannot go on by themselves, and why.
    pub waiting: BTreeMap<u64, String>,
    pub tending: Tending,
}

/// What a node's silence makes of it, `silent` long; `hold` keeps it from being out.
pub(crate) fn state_after(replaced: bool, silent: Duration, hold: bool, patience: Patience) -> NodeState {
    match silent {
        _ if replaced => NodeState::Replaced,
        silent if silent < patience.suspect_after => NodeState::Up,
        silent if silent < patience.out_after || hold => NodeState::Suspect,
        _ => NodeState::Out,
    }
}

/// True when nothing was judged for so long that this process must have stood still.
pub(crate) fn was_paused(judged: Option<Duration>, now: Duration) -> bool {
    judged.is_some_and(|judged| now.saturating_sub(judged) >= PAUSE_MIN)
}

impl Cluster {
    /// Silent nodes are more than a third of all, or a whole zone of several: rather our own trouble than theirs. The
    /// same for stores that failed. Who has no membership to lose is not counted, so that one may be lost after another.
    fn too_many_silent(&self, now: Duration) -> bool {
        let mut silent = 0;
        let mut zones: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        let mut count = 0;
        for (id, node) in self.nodes.iter().filter(|(_, node)| !node.row.replaced) {
            let mut stores = self.stores.iter().filter(|(_, store)| store.row.node == *id);
            let is_silent = now.saturating_sub(node.last_seen) >= self.patience.suspect_after;
            if is_silent && self.survey.is_known() && stores.all(|(store, _)| self.survey.holds_nothing(*store)) {
                continue;
            }
            let zone = zones.entry(&node.row.zone).or_default();
            zone.0 += 1;
            count += 1;
            if is_silent {
                silent += 1;
                zone.1 += 1;
            }
        }
        let zone_lost = zones.len() > 1 && zones.values().any(|(all, silent)| *all > 1 && all == silent);
        silent * 3 > count || zone_lost || self.too_many_failed()
    }

    fn too_many_failed(&self) -> bool {
        let (mut failed, mut count) = (0, 0);
        for (id, store) in self.stores.iter().filter(|(_, store)| store.row.replaced_by == 0) {
            let replaced = self.nodes.get(&store.row.node).is_none_or(|node| node.row.replaced);
            if replaced || (store.failed_since.is_some() && self.survey.holds_nothing(*id)) {
                continue;
            }
            count += 1;
            failed += usize::from(store.failed_since.is_some());
        }
        failed * 3 > count
    }

    /// Counts every silence from `now` on.
    pub(crate) fn restart(&mut self, now: Duration) {
        for node in self.nodes.values_mut() {
            // Its time begins anew, but nothing is put on it before it is heard.
            node.heard &= node.state == NodeState::Up;
            node.last_seen = now;
        }
        for store in self.stores.values_mut() {
            store.failed_since = store.failed_since.map(|_| now);
        }
    }

    /// Judges every node by its silence, and every store by how long it has failed. True when a state changed.
    pub(crate) fn judge(&mut self, now: Duration) -> bool {
        if was_paused(self.judged.replace(now), now) {
            self.restart(now);
        }
        let hold = self.too_many_silent(now);
        if hold != self.alarm {
            self.alarm = hold;
            if hold {
                self.alarm_since = now;
                tracing::warn!("too many nodes or stores are silent at once: none is taken for lost");
            } else {
                self.calm_since = Some(now);
            }
        }
        let mut changed = false;
        let patience = self.patience;
        // Who fell silent when the alarm began has time anew from its end on; who did so long before has not.
        let lately = self.calm_since.is_some_and(|since| now.saturating_sub(since) < patience.out_after);
        let begun = self.alarm_since.saturating_sub(patience.suspect_after * 2);
        let holds = |silent_since: Duration| hold || (lately && silent_since >= begun);
        for (id, node) in &mut self.nodes {
            let silent = now.saturating_sub(node.last_seen);
            let state = state_after(node.row.replaced, silent, holds(node.last_seen), patience);
            // Who is out stays out until heard of: an alarm that comes later brings nobody back.
            let state =
                if node.state == NodeState::Out && state == NodeState::Suspect { NodeState::Out } else { state };
            if state != node.state {
                tracing::info!(node = id, from = node.state.as_str_name(), to = state.as_str_name(), "node state");
                node.state = state;
                changed = true;
            }
        }
        for (id, store) in &mut self.stores {
            let lost = store
                .failed_since
                .is_some_and(|since| now.saturating_sub(since) >= patience.out_after && (store.lost || !holds(since)));
            if lost != store.lost {
                tracing::info!(store = id, lost, "store state");
                store.lost = lost;
                changed = true;
            }
        }
        changed
    }

    /// What needs an operator's look, most urgent first.
    pub(crate) fn alarms(&self) -> Vec<String> {
        let mut alarms = Vec::new();
        if self.alarm {
            alarms.push(
                "more than a third of the nodes or stores, or a whole zone, is silent at once: none is taken for lost, so \
                 nothing is copied until some are back"
                    .to_owned(),
            );
        }
        alarms.extend(self.alarms.iter().cloned());
        alarms.extend(self.stores.values().map(|store| &store.past_alarm).filter(|alarm| !alarm.is_empty()).cloned());
        alarms.truncate(ALARMS_MAX);
        alarms
    }

    /// True for a store whose memberships others take over: it is gone, or nobody has heard of it for so long.
    pub(crate) fn is_lost(&self, store: &StoreLive, now: Duration) -> bool {
        let Some(node) = self.nodes.get(&store.row.node) else { return true };
        match node.state {
            NodeState::Out => true,
            // Another node answers at its address, and none of its stores took over.
            NodeState::Replaced => !self.alarm && now.saturating_sub(node.last_seen) >= self.patience.out_after,
            _ => store.lost || store.row.replaced_by != 0,
        }
    }

    /// True for a store that was heard of lately and that serves.
    pub(crate) fn is_live(&self, store: &StoreLive) -> bool {
        let node = self.nodes.get(&store.row.node);
        node.is_some_and(|node| node.state == NodeState::Up && node.heard)
            && store.failed_since.is_none()
            && store.row.replaced_by == 0
    }

    /// Notes a defect; one that is known moves to the front.
    pub(crate) fn note_defect(&mut self, defect: pb::Defect) {
        self.defects.retain(|known| (known.store, &known.block) != (defect.store, &defect.block));
        self.defects.push_front(defect);
        self.defects.truncate(DEFECTS_MAX);
    }
}

/// A session as this process sees it.
#[derive(Clone, Debug)]
pub(crate) struct SessionLive {
    /// When it was last heard of, or when we began to listen.
    pub last_seen: Duration,
    /// Signs of life that this server heard.
    pub beats: u64,
    pub dirty: bool,
    /// The last sign of life that another server wrote down, as far as it was looked up.
    pub elsewhere: Option<rows::SessionBeat>,
    /// When that was looked up last.
    pub looked: Duration,
}

impl SessionLive {
    pub(crate) fn new(now: Duration) -> Self {
        Self { last_seen: now, beats: 0, dirty: false, elsewhere: None, looked: now }
    }
}

/// Open sessions: those that this server heard of, and while it holds the duties all others too.
#[derive(Default, Debug)]
pub(crate) struct Sessions {
    pub live: HashMap<u64, SessionLive>,
    /// When silence was judged last.
    pub judged: Option<Duration>,
    pub contact: Contact,
    /// How far the search for sessions that others opened has come.
    pub walked: u64,
    /// When the last step of that was.
    pub walked_at: Option<Duration>,
}

impl Sessions {
    /// Counts every silence from `now` on.
    pub(crate) fn restart(&mut self, now: Duration) {
        for live in self.live.values_mut() {
            live.last_seen = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_makes_suspect_then_out() {
        let patience = Patience::default();
        let at = |seconds, hold| state_after(false, Duration::from_secs(seconds), hold, patience);
        assert_eq!(at(9, false), NodeState::Up);
        assert_eq!(at(10, false), NodeState::Suspect);
        assert_eq!(at(599, false), NodeState::Suspect);
        assert_eq!(at(600, false), NodeState::Out);
        assert_eq!(at(600, true), NodeState::Suspect);
        assert_eq!(state_after(true, Duration::ZERO, false, patience), NodeState::Replaced);
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
                registered: 0,
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
    fn a_zone_that_comes_back_node_by_node_is_given_time_anew() {
        let nodes = [("a", 0), ("a", 0), ("b", 0), ("b", 0), ("b", 0), ("c", 0), ("c", 0)];
        let mut zones = cluster(&nodes);
        let hear = |cluster: &mut Cluster, now: u64, heard: &[u32]| {
            let now = Duration::from_secs(now);
            heard.iter().for_each(|node| cluster.nodes.get_mut(node).expect("a node").last_seen = now);
            cluster.judge(now);
        };
        for now in 1..1000 {
            hear(&mut zones, now, &[3, 4, 5, 6, 7]);
        }
        assert!(zones.alarm);
        for now in 1000..1600 {
            hear(&mut zones, now, &[1, 3, 4, 5, 6, 7]);
            assert!(!zones.alarm && zones.nodes[&2].state == NodeState::Suspect, "at {now}");
        }
        hear(&mut zones, 1600, &[1, 3, 4, 5, 6, 7]);
        assert_eq!(zones.nodes[&2].state, NodeState::Out);
    }

    #[test]
    fn a_silence_from_long_before_an_alarm_is_not_forgiven_by_it() {
        let mut cluster = cluster(&[("", 0), ("", 0), ("", 0), ("", 0)]);
        for now in 1..=600u64 {
            let at = Duration::from_secs(now);
            // Node 1 is dead from the start, node 2 is gone for a quarter of a minute.
            let heard: &[u32] = if (300..315).contains(&now) { &[3, 4] } else { &[2, 3, 4] };
            heard.iter().for_each(|node| cluster.nodes.get_mut(node).expect("a node").last_seen = at);
            cluster.judge(at);
            assert_eq!(cluster.alarm, (309..315).contains(&now), "at {now}");
        }
        assert_eq!(cluster.nodes[&1].state, NodeState::Out);
    }

    #[test]
    fn nothing_is_put_on_a_dead_node_after_a_pause() {
        let mut cluster = cluster(&[("", 0), ("", 999), ("", 999), ("", 999)]);
        cluster.judge(Duration::from_secs(1000));
        assert_eq!(cluster.nodes[&1].state, NodeState::Out);
        cluster.judge(Duration::from_secs(2000));
        assert!(!cluster.nodes[&1].heard && cluster.nodes[&2].heard);
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
