//! Placement groups as clients and servers see them: who is a member, whose acknowledgement counts, who may be read.

use crate::ids::{PgEpoch, PgId, StoreId};
use crate::pb;
use crate::quorum;

pub use crate::pb::MemberState;

/// A store's part in a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupMember {
    /// The store.
    pub store: StoreId,
    /// What it may be counted on for.
    pub state: MemberState,
}

/// A placement group's row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Its number.
    pub id: PgId,
    /// Grows with every change of membership.
    pub epoch: PgEpoch,
    /// The policy's N.
    pub replicas: usize,
    /// Stores that hold, get or held its blocks.
    pub members: Vec<GroupMember>,
    /// Takes no new blocks.
    pub sealed: bool,
}

/// What a store without room says as its trouble; any other trouble is a failure.
pub const TROUBLE_FULL: &str = "full";

/// True for members whose acknowledgement counts towards a commit: they hold what is written from now on.
pub const fn counts_for_commit(state: MemberState) -> bool {
    matches!(state, MemberState::Full | MemberState::Joining)
}

impl Group {
    /// From the wire; an unknown member state is kept as [`MemberState::Unknown`] and counts for nothing.
    pub fn from_pb(info: &pb::PgInfo) -> Self {
        Self {
            id: PgId(info.id),
            epoch: PgEpoch(info.epoch),
            replicas: info.replicas as usize,
            members: info
                .members
                .iter()
                .map(|member| GroupMember { store: StoreId(member.store), state: member.state() })
                .collect(),
            sealed: info.sealed,
        }
    }

    /// Stores that a new block is sent to, in row order.
    pub fn write_targets(&self) -> Vec<StoreId> {
        self.members.iter().filter(|m| counts_for_commit(m.state)).map(|m| m.store).collect()
    }

    /// Stores that may hold a committed block, those that surely do (full, not known to lack it) first; then those that
    /// leave, which lack what was written since, and those that join, which may lack what was written before.
    pub fn read_candidates(&self, lacking: &[u32]) -> Vec<StoreId> {
        let rank = |member: &GroupMember| match member.state {
            _ if lacking.contains(&member.store.0) => 3,
            MemberState::Full => 0,
            MemberState::Leaving => 1,
            MemberState::Joining => 2,
            MemberState::Stale | MemberState::Unknown => 3,
        };
        let mut order: Vec<&GroupMember> = self.members.iter().collect();
        order.sort_by_key(|member| rank(member));
        order.into_iter().map(|member| member.store).collect()
    }

    /// True when a NOT_FOUND from `store` for a committed block means that something is wrong there.
    pub fn must_have(&self, store: StoreId, lacking: &[u32]) -> bool {
        !lacking.contains(&store.0) && self.members.iter().any(|m| m.store == store && m.state == MemberState::Full)
    }

    /// True when `acked` holds a majority of the policy's N among members that count now. Strangers and repeated
    /// names do not help.
    pub fn has_quorum(&self, acked: &[StoreId]) -> bool {
        let count = self.members.iter().filter(|m| counts_for_commit(m.state) && acked.contains(&m.store)).count();
        count >= quorum::needed(self.replicas)
    }

    /// Members that count and have not acknowledged: they get a degraded row.
    pub fn missing(&self, acked: &[StoreId]) -> Vec<StoreId> {
        self.members
            .iter()
            .filter(|m| counts_for_commit(m.state) && !acked.contains(&m.store))
            .map(|m| m.store)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MemberState::{Full, Joining, Leaving, Stale};

    fn group(members: &[(u32, MemberState)]) -> Group {
        Group {
            id: PgId(1),
            epoch: PgEpoch(1),
            replicas: 3,
            members: members.iter().map(|(s, state)| GroupMember { store: StoreId(*s), state: *state }).collect(),
            sealed: false,
        }
    }
    const fn s(id: u32) -> StoreId {
        StoreId(id)
    }

    #[test]
    fn only_full_and_joining_count() {
        let group = group(&[(1, Full), (2, Joining), (3, Leaving), (4, Stale)]);
        assert!(group.has_quorum(&[s(1), s(2)]));
        assert!(!group.has_quorum(&[s(1), s(3), s(4)]));
        assert!(!group.has_quorum(&[s(1), s(1), s(9)]));
        assert_eq!(group.missing(&[s(1)]), [s(2)]);
        assert_eq!(group.write_targets(), [s(1), s(2)]);
    }

    #[test]
    fn readers_ask_those_who_surely_have_it_first() {
        let group = group(&[(1, Stale), (2, Joining), (3, Full), (4, Full)]);
        assert_eq!(group.read_candidates(&[4]), [s(3), s(2), s(1), s(4)]);
        let moving = self::group(&[(1, Leaving), (2, Joining), (3, Full), (4, Leaving)]);
        assert_eq!(moving.read_candidates(&[4]), [s(3), s(1), s(2), s(4)]);
        assert!(group.must_have(s(3), &[4]));
        assert!(!group.must_have(s(4), &[4]) && !group.must_have(s(2), &[]));
    }
}
