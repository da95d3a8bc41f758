//! What a group's members hold against what files need of it: the decision, from values. Pure.

use std::collections::BTreeMap;

use cairn_client::MemberState;

use super::spans::{Spans, overlay};

/// What a member holds of a group; `held` is `None` when it could not be asked.
#[derive(Debug, Clone)]
pub struct Holding {
    pub store: u32,
    pub state: MemberState,
    pub held: Option<Spans>,
}

/// A member may be taken for complete.
fn must_hold(state: MemberState) -> bool {
    state == MemberState::Full
}

/// A member that is to hold everything in the end.
fn counts(state: MemberState) -> bool {
    matches!(state, MemberState::Full | MemberState::Joining)
}

/// What is wrong with the blocks of a group. The sets of one kind are about the same copies only once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wrong {
    /// Blocks that nobody has, though every member was asked.
    pub lost: Spans,
    /// Blocks that no member has that could be asked; others could not.
    pub unseen: Spans,
    /// By full member: what it lacks without metadata knowing it.
    pub unknown: BTreeMap<u32, Spans>,
    /// By full or joining member: what it is known to lack and that has fewer copies than meant.
    pub degraded: BTreeMap<u32, Spans>,
    /// By joining member: what it has still to copy and that has fewer copies than meant.
    pub joining: BTreeMap<u32, Spans>,
}

impl Wrong {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// All blocks that something is wrong with.
    pub fn blocks(&self) -> Spans {
        let by_store = [&self.unknown, &self.degraded, &self.joining].into_iter().flat_map(BTreeMap::values);
        by_store.chain([&self.lost, &self.unseen]).flat_map(Spans::iter).copied().collect()
    }

    /// Adds what is wrong with other blocks of the same group.
    pub fn join(&mut self, other: Self) {
        let into = |mine: &mut BTreeMap<u32, Spans>, theirs: BTreeMap<u32, Spans>| {
            for (store, spans) in theirs {
                let entry = mine.entry(store).or_default();
                *entry = entry.or(&spans);
            }
        };
        self.lost = self.lost.or(&other.lost);
        self.unseen = self.unseen.or(&other.unseen);
        into(&mut self.unknown, other.unknown);
        into(&mut self.degraded, other.degraded);
        into(&mut self.joining, other.joining);
    }

    /// Only what concerns these blocks.
    pub fn within(self, blocks: &Spans) -> Self {
        let cut = |by_store: BTreeMap<u32, Spans>| {
            by_store
                .into_iter()
                .map(|(store, spans)| (store, spans.and(blocks)))
                .filter(|(_, s)| !s.is_empty())
                .collect()
        };
        Self {
            lost: self.lost.and(blocks),
            unseen: self.unseen.and(blocks),
            unknown: cut(self.unknown),
            degraded: cut(self.degraded),
            joining: cut(self.joining),
        }
    }
}

/// What members lack of what files need. `degraded` is what metadata knows each store to lack.
pub fn compare(needed: &Spans, replicas: u32, members: &[Holding], degraded: &BTreeMap<u32, Spans>) -> Wrong {
    let mut wrong = Wrong::default();
    let nothing = Spans::default();
    let known = |store: u32| degraded.get(&store).unwrap_or(&nothing);
    if members.iter().all(|member| member.held.is_none()) {
        let none = if members.is_empty() { &mut wrong.lost } else { &mut wrong.unseen };
        none.clone_from(needed);
        return wrong;
    }
    // Of one that could not be asked, only what metadata knows is sure.
    let asked: Vec<(&Holding, Spans)> = members
        .iter()
        .map(|member| match &member.held {
            Some(held) => (member, needed.minus(held)),
            None => (member, needed.and(known(member.store))),
        })
        .collect();
    if asked.iter().all(|(_, lacks)| lacks.is_empty()) {
        return wrong;
    }
    let bit = |wanted: fn(&Holding) -> bool| -> u64 {
        let bits = members.iter().enumerate().filter(|(_, member)| wanted(member)).map(|(index, _)| 1 << index);
        bits.sum()
    };
    let away = bit(|member| member.held.is_none());
    let present = bit(|member| member.held.is_some());
    let pieces = overlay(&asked.iter().map(|(_, lacks)| lacks).collect::<Vec<_>>());
    let gone: Spans =
        pieces.iter().filter(|(_, lacking)| lacking & present == present).map(|(span, _)| *span).collect();
    let none = if away == 0 { &mut wrong.lost } else { &mut wrong.unseen };
    none.clone_from(&gone);
    let thin: Spans = pieces
        .iter()
        .filter(|(_, lacking)| ((present | away) & !lacking).count_ones() < replicas)
        .map(|(span, _)| *span)
        .collect();
    for (member, lacks) in &asked {
        let lacks = lacks.minus(&gone);
        let known = lacks.and(known(member.store));
        let mut note = |by_store: fn(&mut Wrong) -> &mut BTreeMap<u32, Spans>, spans: Spans| {
            if !spans.is_empty() {
                by_store(&mut wrong).insert(member.store, spans);
            }
        };
        if must_hold(member.state) {
            note(|wrong| &mut wrong.unknown, lacks.minus(&known));
        } else if counts(member.state) {
            note(|wrong| &mut wrong.joining, lacks.minus(&known).and(&thin));
        }
        if counts(member.state) {
            note(|wrong| &mut wrong.degraded, known.and(&thin));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{super::spans::Span, *};

    type Model = BTreeSet<u32>;

    fn set(model: &Model) -> Spans {
        model.iter().map(|seq| Span { inode: 1, writer: 1, seq: *seq, count: 1 }).collect()
    }

    fn model(set: &Spans) -> Model {
        set.iter().flat_map(|span| span.seq..span.seq + span.count).collect()
    }

    fn blocks() -> impl Strategy<Value = Model> {
        prop::collection::btree_set(0_u32..24, 0..24)
    }

    fn state() -> impl Strategy<Value = MemberState> {
        use MemberState::{Full, Joining, Leaving, Stale};
        prop::sample::select(vec![Full, Full, Full, Joining, Leaving, Stale])
    }

    proptest! {
        /// Each block by itself, as the words of [`Wrong`] say it.
        #[test]
        fn every_block_is_judged_as_if_it_were_alone(
            needed in blocks(),
            members in prop::collection::vec((state(), prop::option::weighted(0.9, blocks()), blocks()), 0..5),
            replicas in 1_u32..4,
        ) {
            let holdings: Vec<Holding> = members.iter().enumerate().map(|(store, (state, held, _))| {
                Holding { store: store as u32, state: *state, held: held.as_ref().map(set) }
            }).collect();
            let degraded = members.iter().enumerate().map(|(store, (.., rows))| (store as u32, set(rows))).collect();
            let wrong = compare(&set(&needed), replicas, &holdings, &degraded);
            let empty = Spans::default();
            for block in 0..24 {
                let needed = needed.contains(&block);
                let has = |held: &Option<Model>| held.as_ref().is_some_and(|held| held.contains(&block));
                let lacks = |(_, held, rows): &(MemberState, Option<Model>, Model)| match held {
                    Some(held) => !held.contains(&block),
                    None => rows.contains(&block),
                };
                let seen = members.iter().any(|(_, held, _)| has(held));
                let away = members.iter().any(|(_, held, _)| held.is_none());
                prop_assert_eq!(model(&wrong.lost).contains(&block), needed && !seen && !away);
                prop_assert_eq!(model(&wrong.unseen).contains(&block), needed && !seen && away);
                let thin = (members.iter().filter(|member| !lacks(member)).count() as u32) < replicas;
                for (store, member) in members.iter().enumerate() {
                    let (state, _, rows) = member;
                    let lacks = needed && seen && lacks(member);
                    let row = rows.contains(&block);
                    let (full, joining) = (*state == MemberState::Full, *state == MemberState::Joining);
                    let told = |map: &BTreeMap<u32, Spans>| model(map.get(&(store as u32)).unwrap_or(&empty)).contains(&block);
                    prop_assert_eq!(told(&wrong.unknown), lacks && full && !row);
                    prop_assert_eq!(told(&wrong.degraded), lacks && (full || joining) && row && thin);
                    prop_assert_eq!(told(&wrong.joining), lacks && joining && !row && thin);
                }
            }
            let all = wrong.blocks();
            prop_assert_eq!(wrong.clone().within(&all), wrong);
        }
    }

    #[test]
    fn a_whole_group_has_nothing_wrong() {
        let needed: Spans = [Span { inode: 7, writer: 2, seq: 0, count: 1000 }].into_iter().collect();
        let member = |store| Holding { store, state: MemberState::Full, held: Some(needed.clone()) };
        let members = [member(1), member(2), member(3)];
        assert!(compare(&needed, 3, &members, &BTreeMap::new()).is_empty());
    }

    /// Not a measurement that decides anything; run by hand for the figure in the guide.
    #[test]
    #[ignore = "prints how long a million blocks take"]
    fn a_million_blocks_in_short_runs() {
        // Ten blocks a run, three members, every hundredth run missing on one of them.
        let runs = |skip: u32| -> Spans {
            let all = (0..100_000_u64).filter(|run| skip == 0 || run % 100 != u64::from(skip));
            all.map(|run| Span { inode: run + 1, writer: 1 + run / 1000, seq: (run % 1000) as u32 * 10, count: 10 })
                .collect()
        };
        let needed = runs(0);
        let members: Vec<Holding> =
            (1..=3).map(|store| Holding { store, state: MemberState::Full, held: Some(runs(store)) }).collect();
        let begun = std::time::Instant::now();
        let wrong = compare(&needed, 3, &members, &BTreeMap::new());
        println!("{} blocks compared in {:?}", needed.blocks(), begun.elapsed());
        assert_eq!(wrong.unknown.values().map(Spans::blocks).sum::<u64>(), 30_000);
    }
}
