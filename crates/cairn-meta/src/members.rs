//! How a group's row may change: decisions from a row to the next one, without a transaction around them.
//!
//! What makes them safe together is one sentence, and every change below keeps it: *for each committed block of the
//! group, a full member holds it or has a degraded row for it, and a joining member holds it, or has a row for it, or
//! gets it from any full member that has no row.* So a joining member that copied the inventory of the full members and
//! has no rows left is full. `docs/decisions/0014` has the cases that shaped the rules.

use crate::rows::{Member, Pg};
use cairn_proto::pb::MemberState;
use cairn_proto::placement::counts_for_commit;

/// A change that the row allows.
pub(crate) type Next = Option<Pg>;

pub(crate) fn state_of(row: &Pg, store: u32) -> Option<MemberState> {
    row.members.iter().find(|member| member.store == store).map(|member| member.state)
}

/// Members whose acknowledgements count.
pub(crate) fn counting(row: &Pg) -> impl Iterator<Item = u32> {
    row.members.iter().filter(|member| counts_for_commit(member.state)).map(|member| member.store)
}

/// Members that hold everything but their degraded rows.
pub(crate) fn full(row: &Pg) -> impl Iterator<Item = u32> {
    row.members.iter().filter(|member| member.state == MemberState::Full).map(|member| member.store)
}

pub(crate) fn leaving(row: &Pg) -> impl Iterator<Item = u32> {
    row.members.iter().filter(|member| member.state == MemberState::Leaving).map(|member| member.store)
}

/// The epoch in which a member joined, or began anew to; 0 = before that was noted.
fn since(row: &Pg, store: u32) -> u64 {
    let at = row.members.iter().position(|member| member.store == store);
    at.and_then(|at| row.since.get(at)).copied().unwrap_or(0)
}

/// The row of the next epoch with these members. Who is joining and was not so before is in it since now.
fn with_members(row: &Pg, members: Vec<Member>, anew: Option<u32>) -> Pg {
    let epoch = row.epoch + 1;
    // Who left or was stale is told of nothing: when it counts again, it does so from now on.
    let counts_anew = |before, member: &Member| counts_for_commit(member.state) && !counts_for_commit(before);
    let since = |member: &Member| match state_of(row, member.store) {
        Some(before) if anew != Some(member.store) && !counts_anew(before, member) => since(row, member.store),
        _ => epoch,
    };
    Pg { epoch, since: members.iter().map(since).collect(), members, ..row.clone() }
}

fn with_state(row: &Pg, store: u32, state: MemberState) -> Pg {
    let mut members = row.members.clone();
    members.iter_mut().filter(|member| member.store == store).for_each(|member| member.state = state);
    with_members(row, members, (state == MemberState::Joining).then_some(store))
}

/// True when an acknowledgement counts that `store` gave to a block sent by the row of epoch `sent`. One from before the
/// store joined, or began anew to, does not: it may have dropped the block when it had left the group, or lost it. 0 =
/// the writer did not say.
pub(crate) fn ack_counts(row: &Pg, store: u32, sent: u64) -> bool {
    sent == 0 || since(row, store) <= sent
}

/// `from` hands its membership to `to`, and keeps its copy until the group is complete without it. The degraded rows of
/// the members that count in the next row, but `to`, have to be copied to `to` with it.
pub(crate) fn moved(row: &Pg, from: u32, to: u32) -> Next {
    let leaves = state_of(row, from).filter(|state| *state != MemberState::Leaving);
    if leaves.is_none() || state_of(row, to).is_some() {
        return None;
    }
    let mut members = row.members.clone();
    members.iter_mut().filter(|member| member.store == from).for_each(|member| member.state = MemberState::Leaving);
    members.push(Member { store: to, state: MemberState::Joining });
    Some(with_members(row, members, None))
}

/// As [`moved`], for a store whose copies are gone, as far as anybody knows: it goes at once, or makes no way for anybody
/// when it was leaving already. The only full member stays as one that leaves, until another is full: nobody may take what
/// the rest has for everything.
pub(crate) fn replaced(row: &Pg, from: u32, to: u32) -> Next {
    let state = state_of(row, from)?;
    match (state, full(row).count()) {
        (MemberState::Full, 1) => return moved(row, from, to),
        (MemberState::Leaving, 0) => return None,
        _ => {}
    }
    let mut members = row.members.clone();
    if state != MemberState::Leaving {
        if state_of(row, to).is_some() {
            return None;
        }
        members.push(Member { store: to, state: MemberState::Joining });
    }
    members.retain(|member| member.store != from);
    Some(with_members(row, members, None))
}

/// The row without `store`, whose copies are gone for good although no other member is known to hold everything. What is
/// left of the group is then everything: nobody is full, so each who joins copies the union of all others before it is.
/// `to` joins, if there is such a store. The caller deletes the degraded rows of those that count: a block that none of the
/// rest has is lost, and nobody could ever be full that waited for it.
pub(crate) fn given_up(row: &Pg, store: u32, to: Option<u32>) -> Next {
    state_of(row, store)?;
    if full(row).any(|other| other != store) {
        return None;
    }
    let mut members: Vec<Member> = row.members.iter().filter(|member| member.store != store).copied().collect();
    let to = to.filter(|to| state_of(row, *to).is_none());
    members.extend(to.map(|store| Member { store, state: MemberState::Joining }));
    if !members.iter().any(|member| counts_for_commit(member.state)) {
        // Nobody would be there to copy what they have.
        members.iter_mut().for_each(|member| member.state = MemberState::Joining);
    }
    (!members.is_empty()).then(|| with_members(row, members, None))
}

/// The row without those that leave, when nobody needs their copies any more as far as the row says: every member that
/// counts is full, and there are as many as the policy wants. That none of them has a degraded row is the caller's to see.
pub(crate) fn completed(row: &Pg) -> Next {
    let whole = counting(row).count() >= row.replicas as usize && counting(row).eq(full(row));
    if !whole || leaving(row).next().is_none() {
        return None;
    }
    let stay = row.members.iter().filter(|member| member.state != MemberState::Leaving).copied().collect();
    Some(with_members(row, stay, None))
}

/// `store` is away for long and nobody takes its place: what it misses from now on is not noted any more. Never the last
/// full member, without whom nobody could be completed.
pub(crate) fn staled(row: &Pg, store: u32) -> Next {
    let state = state_of(row, store).filter(|state| counts_for_commit(*state))?;
    if state == MemberState::Full && full(row).count() == 1 {
        return None;
    }
    Some(with_state(row, store, MemberState::Stale))
}

/// `store` turned out to have lost blocks, and what it lacks is too much to be noted at once: it does not count at all
/// until it is.
pub(crate) fn disowned(row: &Pg, store: u32) -> Next {
    state_of(row, store).filter(|state| counts_for_commit(*state))?;
    Some(with_state(row, store, MemberState::Stale))
}

/// `store` is back, or turned out to have lost blocks: it counts for new ones, and copies what it lacks. The degraded rows
/// of the other members that count have to be copied to it with it.
pub(crate) fn rejoined(row: &Pg, store: u32) -> Next {
    match state_of(row, store)? {
        MemberState::Leaving | MemberState::Unknown => None,
        MemberState::Full | MemberState::Joining | MemberState::Stale => {
            Some(with_state(row, store, MemberState::Joining))
        }
    }
}

/// `store` holds the union of the other members' inventories, as they were in this epoch, and has no degraded rows.
pub(crate) fn joined(row: &Pg, store: u32) -> Next {
    (state_of(row, store)? == MemberState::Joining).then(|| with_state(row, store, MemberState::Full))
}

/// A store that is no member may drop its copies: see `JudgeGroups` of the protocol. That no member has a degraded row is
/// the caller's to see.
pub(crate) fn purgeable(row: &Pg, store: u32) -> bool {
    state_of(row, store).is_none()
        && row.members.iter().all(|member| member.state == MemberState::Full)
        && row.members.len() >= row.replicas as usize
}

/// Consecutive blocks of one group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Debt {
    pub inode: u64,
    pub writer: u64,
    pub seq: u32,
    pub count: u32,
}

/// All blocks that any of `debts` names, each once: no two degraded rows of a store name one block.
pub(crate) fn union(mut debts: Vec<Debt>) -> Vec<Debt> {
    debts.sort_unstable();
    let mut all: Vec<Debt> = Vec::with_capacity(debts.len());
    for debt in debts {
        let end = debt.seq.saturating_add(debt.count);
        match all.last_mut() {
            Some(last)
                if (last.inode, last.writer) == (debt.inode, debt.writer)
                    && last.seq.saturating_add(last.count) >= debt.seq =>
            {
                last.count = last.count.max(end - last.seq);
            }
            _ => all.push(Debt { count: end - debt.seq, ..debt }),
        }
    }
    all
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
