//! The memberships of all groups at a glance: what each store holds, how many groups are whole.

use crate::rows;
use cairn_proto::pb::MemberState;
use std::collections::BTreeMap;

/// Memberships of a store.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Held {
    /// All of them.
    pub all: u32,
    /// Those that it does not leave.
    pub kept: u32,
}

/// What the groups looked like when they were looked through last.
#[derive(Clone, Default, Debug)]
pub(crate) struct Survey {
    /// By store; `None` until the groups were looked through.
    held: Option<BTreeMap<u32, Held>>,
    /// Groups there are.
    pub groups: u64,
    /// Groups with a member that is not full.
    pub incomplete: u64,
    /// Groups with less than a majority of full members that are live.
    pub at_risk: u64,
    /// Memberships that are being taken up.
    pub joining: u64,
    /// Memberships that are being given up.
    pub leaving: u64,
    /// Memberships of stores that were away too long.
    pub stale: u64,
}

impl Survey {
    /// Looks through the groups; `live` says of a store that it serves now.
    pub(crate) fn of<'a>(groups: impl Iterator<Item = &'a rows::Pg>, live: impl Fn(u32) -> bool) -> Self {
        let mut held: BTreeMap<u32, Held> = BTreeMap::new();
        let mut survey = Self::default();
        for row in groups {
            survey.groups += 1;
            let mut full = 0;
            for member in &row.members {
                let held = held.entry(member.store).or_default();
                held.all += 1;
                held.kept += u32::from(member.state != MemberState::Leaving);
                match member.state {
                    MemberState::Full => full += usize::from(live(member.store)),
                    MemberState::Joining => survey.joining += 1,
                    MemberState::Leaving => survey.leaving += 1,
                    MemberState::Stale => survey.stale += 1,
                    MemberState::Unknown => {}
                }
            }
            let whole = row.members.iter().all(|member| member.state == MemberState::Full);
            survey.incomplete += u64::from(!whole);
            survey.at_risk += u64::from(full < cairn_proto::quorum::needed(row.replicas as usize));
        }
        survey.held = Some(held);
        survey
    }

    /// True once the groups were looked through.
    pub(crate) fn is_known(&self) -> bool {
        self.held.is_some()
    }

    /// True when it is known that nobody relies on the store any more.
    pub(crate) fn holds_nothing(&self, store: u32) -> bool {
        self.held.as_ref().is_some_and(|held| held.get(&store).is_none_or(|held| held.kept == 0))
    }

    /// Memberships of a store.
    pub(crate) fn held(&self, store: u32) -> Held {
        self.held.as_ref().and_then(|held| held.get(&store)).copied().unwrap_or_default()
    }
}
