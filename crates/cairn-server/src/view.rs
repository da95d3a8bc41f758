//! The cluster map as a server keeps it: groups, where each store lives, who may be asked for a block.

use cairn_proto::pb::{self, NodeState};
use cairn_proto::placement::{Group, GroupMember, MemberState};
use cairn_proto::quorum::needed;
use cairn_proto::{NodeId, PgEpoch, PgId, StoreId};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A node in the map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) addr: String,
    pub(crate) state: NodeState,
}

/// A store that may hold a copy, and where to ask for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Source {
    pub(crate) store: StoreId,
    pub(crate) peer: Peer,
    pub(crate) state: MemberState,
}

/// A membership of one of our stores that is not complete yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Join {
    pub(crate) pg: PgId,
    pub(crate) epoch: PgEpoch,
    pub(crate) store: StoreId,
}

/// One version of the cluster map. Empty (version 0) until the first page arrived.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ClusterView {
    pub(crate) version: u64,
    nodes: HashMap<NodeId, Peer>,
    homes: HashMap<StoreId, NodeId>,
    /// Stores that take no writes.
    troubled: HashSet<StoreId>,
    /// Stores that an operator drains.
    draining: HashSet<StoreId>,
    groups: BTreeMap<PgId, Group>,
    /// Addresses of the metadata servers.
    pub(crate) metas: Vec<String>,
}

impl ClusterView {
    /// Adds a page of the map to a view that is being built.
    pub(crate) fn absorb(&mut self, page: &pb::ClusterMapReply) {
        self.version = page.version;
        self.metas.clone_from(&page.metas);
        for info in &page.nodes {
            let node = NodeId(info.id);
            self.nodes.insert(node, Peer { node, addr: info.addr.clone(), state: info.state() });
            for store in &info.stores {
                self.homes.insert(StoreId(store.id), node);
                if store.draining {
                    self.draining.insert(StoreId(store.id));
                }
                if !store.trouble.is_empty() {
                    self.troubled.insert(StoreId(store.id));
                }
            }
        }
        for info in &page.pgs {
            let group = Group::from_pb(info);
            self.groups.insert(group.id, group);
        }
    }

    /// The group's row.
    pub(crate) fn group(&self, pg: PgId) -> Option<&Group> {
        self.groups.get(&pg)
    }

    /// The group's epoch as far as it is known; 0 otherwise.
    pub(crate) fn epoch(&self, pg: PgId) -> PgEpoch {
        self.group(pg).map_or(PgEpoch(0), |group| group.epoch)
    }

    /// True when the map names the node.
    pub(crate) fn has_node(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// The nodes that are up.
    pub(crate) fn peers_up(&self) -> Vec<Peer> {
        self.nodes.values().filter(|peer| peer.state == NodeState::Up).cloned().collect()
    }

    /// The node a store lives on.
    pub(crate) fn home(&self, store: StoreId) -> Option<&Peer> {
        self.nodes.get(self.homes.get(&store)?)
    }

    /// Who may be asked for blocks of a group, other than `own`: those that surely hold them and are up first.
    pub(crate) fn sources(&self, pg: PgId, own: StoreId) -> Vec<Source> {
        let rank = |source: &Source| {
            let member = match source.state {
                MemberState::Full => 0,
                MemberState::Leaving => 1,
                MemberState::Joining => 2,
                MemberState::Stale | MemberState::Unknown => 3,
            };
            (source.peer.state != NodeState::Up, member)
        };
        let Some(group) = self.group(pg) else { return Vec::new() };
        let mut sources: Vec<Source> = group
            .members
            .iter()
            .filter(|member| member.store != own)
            .filter_map(|member| {
                // Somebody else answers at the address of a replaced node.
                let peer = self.home(member.store).filter(|peer| peer.state != NodeState::Replaced)?.clone();
                Some(Source { store: member.store, peer, state: member.state })
            })
            .collect();
        sources.sort_by_key(rank);
        sources
    }

    /// Members whose inventory a joining store has to have seen before it counts as full.
    ///
    /// Every full member holds what was committed before the join but for degraded rows, which are caught up apart; the
    /// others (leaving, stale, joining) may hold more and are asked as far as they answer. When nobody is full, the
    /// union of all that are left is the best there is, and each of them is needed.
    pub(crate) fn required_inventories(&self, pg: PgId, own: StoreId) -> Vec<StoreId> {
        let Some(group) = self.group(pg) else { return Vec::new() };
        let full = |member: &&GroupMember| member.store != own && member.state == MemberState::Full;
        let full: Vec<StoreId> = group.members.iter().filter(full).map(|member| member.store).collect();
        if full.is_empty() { self.sources(pg, own).iter().map(|source| source.store).collect() } else { full }
    }

    /// Whom a joining store asks for inventories, in order: those it needs, then those that are worth asking. One that is
    /// away and not needed would only be waited for.
    pub(crate) fn join_sources(&self, pg: PgId, own: StoreId) -> Vec<Source> {
        let required = self.required_inventories(pg, own);
        let mut sources = self.sources(pg, own);
        sources.retain(|source| required.contains(&source.store) || source.peer.state == NodeState::Up);
        // When one that is needed is away, that is soon known.
        sources.sort_by_key(|source| !required.contains(&source.store));
        sources
    }

    /// Open groups in which at least `replicas` members that count are on nodes that are up.
    pub(crate) fn writable_groups(&self, replicas: usize) -> usize {
        let up = |store: &StoreId| self.home(*store).is_some_and(|peer| peer.state == NodeState::Up);
        let writable =
            |group: &&Group| !group.sealed && group.write_targets().iter().filter(|s| up(s)).count() >= replicas;
        self.groups.values().filter(writable).count()
    }

    /// Open groups to which a write can be committed: a majority of the replicas its policy asks for are on nodes that
    /// are up and in stores that take writes.
    pub(crate) fn placeable_groups(&self) -> usize {
        let takes = |store: &StoreId| {
            let up = self.home(*store).is_some_and(|peer| peer.state == NodeState::Up);
            up && !self.troubled.contains(store)
        };
        let placeable = |group: &&Group| {
            let targets = group.write_targets();
            !group.sealed && targets.iter().filter(|store| takes(store)).count() >= needed(group.replicas)
        };
        self.groups.values().filter(placeable).count()
    }

    /// True when the map names the store as a member of the group, in whatever state.
    pub(crate) fn is_member(&self, pg: PgId, own: StoreId) -> bool {
        self.group(pg).is_some_and(|group| group.members.iter().any(|member| member.store == own))
    }

    /// True when an operator drains the store.
    pub(crate) fn is_draining(&self, store: StoreId) -> bool {
        self.draining.contains(&store)
    }

    /// Nodes that are up.
    pub(crate) fn nodes_up(&self) -> HashSet<NodeId> {
        self.nodes.values().filter(|peer| peer.state == NodeState::Up).map(|peer| peer.node).collect()
    }

    /// Full members of a group whose node is up.
    pub(crate) fn full_and_up(&self, pg: PgId) -> usize {
        let up = |store: StoreId| self.home(store).is_some_and(|peer| peer.state == NodeState::Up);
        let counts = |member: &&GroupMember| member.state == MemberState::Full && up(member.store);
        self.group(pg).map_or(0, |group| group.members.iter().filter(counts).count())
    }

    /// Groups in which the store is a full member.
    pub(crate) fn complete_memberships(&self, own: StoreId) -> Vec<PgId> {
        let full = |member: &GroupMember| member.store == own && member.state == MemberState::Full;
        self.groups.values().filter(|group| group.members.iter().any(full)).map(|group| group.id).collect()
    }

    /// Memberships in which one of `own` is joining.
    pub(crate) fn joins(&self, own: &[StoreId]) -> Vec<Join> {
        let joining = |group: &Group| {
            let (pg, epoch) = (group.id, group.epoch);
            group
                .members
                .iter()
                .filter(|member| member.state == MemberState::Joining && own.contains(&member.store))
                .map(move |member| Join { pg, epoch, store: member.store })
                .collect::<Vec<_>>()
        };
        self.groups.values().flat_map(joining).collect()
    }
}

/// What a node does with a PUT, by what it knows of the group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// Take it.
    Accept,
    /// Take it, and fetch the map: the client knows more.
    AcceptAndRefresh,
    /// The store is no member that counts (any more): the client should look at this row.
    Stale(Box<Group>),
}

/// Group epochs are a hint here: the commit decides by the current row. Refusing early only spares a client that holds
/// an old row the work of writing to a store that will not count.
pub(crate) fn admit_put(row: Option<&Group>, store: StoreId, shown: PgEpoch) -> Admission {
    let Some(group) = row else { return Admission::AcceptAndRefresh };
    if shown > group.epoch {
        return Admission::AcceptAndRefresh;
    }
    if group.write_targets().contains(&store) { Admission::Accept } else { Admission::Stale(Box::new(group.clone())) }
}

/// A row as it travels.
pub(crate) fn group_to_pb(group: &Group) -> pb::PgInfo {
    pb::PgInfo {
        id: group.id.0,
        epoch: group.epoch.0,
        replicas: group.replicas as u32,
        members: group.members.iter().map(|m| pb::Member { store: m.store.0, state: m.state as i32 }).collect(),
        sealed: group.sealed,
        bytes: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MemberState::{Full, Joining, Leaving, Stale};

    fn view(members: &[(u32, MemberState)], suspect: &[u32]) -> ClusterView {
        let state = |id: u32| if suspect.contains(&id) { NodeState::Suspect } else { NodeState::Up };
        let node = |id: u32| pb::NodeInfo {
            id,
            addr: format!("127.0.0.1:{id}"),
            state: state(id) as i32,
            stores: vec![pb::StoreInfo { id: id * 10, ..Default::default() }],
            ..Default::default()
        };
        let page = pb::ClusterMapReply {
            version: 7,
            nodes: (1..=5).map(node).collect(),
            pgs: vec![pb::PgInfo {
                id: 1,
                epoch: 4,
                replicas: 3,
                members: members.iter().map(|(s, m)| pb::Member { store: *s, state: *m as i32 }).collect(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut view = ClusterView::default();
        view.absorb(&page);
        view
    }

    fn stores(sources: &[Source]) -> Vec<u32> {
        sources.iter().map(|source| source.store.0).collect()
    }

    #[test]
    fn a_write_needs_a_majority_that_is_up_and_has_room() {
        let members = [(10, Full), (20, Full), (30, Joining)];
        assert_eq!(view(&members, &[]).placeable_groups(), 1);
        assert_eq!(view(&members, &[3]).placeable_groups(), 1);
        assert_eq!(view(&members, &[2, 3]).placeable_groups(), 0);
        let mut full = view(&members, &[3]);
        full.troubled.insert(StoreId(10));
        assert_eq!(full.placeable_groups(), 0);
        assert_eq!(ClusterView::default().placeable_groups(), 0);
    }

    #[test]
    fn sources_are_those_that_surely_answer_first() {
        let view = view(&[(10, Stale), (20, Joining), (30, Full), (40, Full), (50, Leaving)], &[3]);
        assert_eq!(stores(&view.sources(PgId(1), StoreId(20))), [40, 50, 10, 30]);
        assert!(view.sources(PgId(2), StoreId(20)).is_empty());
        assert_eq!(view.home(StoreId(30)).map(|peer| peer.node), Some(NodeId(3)));
    }

    #[test]
    fn a_store_without_a_home_is_no_source() {
        let view = view(&[(10, Full), (99, Full)], &[]);
        assert_eq!(stores(&view.sources(PgId(1), StoreId(20))), [10]);
    }

    #[test]
    fn full_members_are_needed_and_all_of_them_when_none_is_full() {
        let some = view(&[(10, Joining), (20, Full), (30, Stale), (40, Full)], &[]);
        assert_eq!(some.required_inventories(PgId(1), StoreId(10)), [StoreId(20), StoreId(40)]);
        let none = view(&[(10, Joining), (20, Joining), (30, Stale)], &[]);
        assert_eq!(none.required_inventories(PgId(1), StoreId(10)), [StoreId(20), StoreId(30)]);
        // A full member that cannot be found is waited for, not passed over.
        let lost = view(&[(10, Joining), (99, Full)], &[]);
        assert_eq!(lost.required_inventories(PgId(1), StoreId(10)), [StoreId(99)]);
        let alone = view(&[(10, Joining)], &[]);
        assert!(alone.required_inventories(PgId(1), StoreId(10)).is_empty());
    }

    #[test]
    fn whoever_is_away_and_not_needed_is_not_asked() {
        let down = |members: &[(u32, MemberState)]| stores(&view(members, &[2, 5]).join_sources(PgId(1), StoreId(10)));
        assert_eq!(down(&[(10, Joining), (20, Leaving), (30, Full), (40, Stale), (50, Full)]), [30, 50, 40]);
        // Nobody is full: all that are left are needed.
        assert_eq!(down(&[(10, Joining), (20, Leaving), (30, Stale)]), [30, 20]);
    }

    #[test]
    fn joins_name_our_stores_only() {
        let view = view(&[(10, Joining), (20, Joining), (30, Full)], &[]);
        let join = Join { pg: PgId(1), epoch: PgEpoch(4), store: StoreId(20) };
        assert_eq!(view.joins(&[StoreId(20), StoreId(30)]), [join]);
    }

    #[test]
    fn an_old_row_is_refused_only_where_it_matters() {
        let view = view(&[(10, Full), (20, Leaving)], &[]);
        let row = view.group(PgId(1));
        assert_eq!(admit_put(row, StoreId(10), PgEpoch(3)), Admission::Accept);
        assert_eq!(admit_put(row, StoreId(10), PgEpoch(4)), Admission::Accept);
        assert_eq!(admit_put(row, StoreId(10), PgEpoch(5)), Admission::AcceptAndRefresh);
        assert!(matches!(admit_put(row, StoreId(20), PgEpoch(4)), Admission::Stale(_)));
        assert_eq!(admit_put(row, StoreId(20), PgEpoch(5)), Admission::AcceptAndRefresh);
        assert_eq!(admit_put(None, StoreId(20), PgEpoch(1)), Admission::AcceptAndRefresh);
    }
}
