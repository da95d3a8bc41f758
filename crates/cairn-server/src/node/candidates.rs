//! Whose blocks may be orphans: the writers that stored a block since all of theirs were last judged. A plain state
//! machine; the sweep drives it.
//!
//! Nothing is remembered over a restart. Then, and when more writers store than there is room for, every writer that has a
//! block in the index is taken in, the lowest first, as room comes: the *backlog*.

use cairn_proto::WriterId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// A writer whose blocks are to be judged.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// When it stored last, counted in notes.
    noted: u64,
    /// Not looked at before this time.
    due: Instant,
    /// How long it is left alone after a look that settled nothing.
    pause: Duration,
}

/// Writers that a look is about, and what had been noted when it began.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Look {
    pub(crate) writers: Vec<WriterId>,
    noted: u64,
}

/// What a look found about a writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It may still commit: its time is not yet.
    Open,
    /// It is closed, and no block of it is left that has to be judged again.
    Settled,
    /// It is closed, but some of its blocks could not be decided or deleted.
    Left,
}

/// The candidates of one store; bounded.
pub(crate) struct Candidates {
    writers: BTreeMap<WriterId, Candidate>,
    /// Writers above this one, which the index names, are still to be taken in.
    backlog: Option<WriterId>,
    /// One that stored found no room: the backlog begins anew.
    missed: bool,
    noted: u64,
    max: usize,
    /// First and longest pause between looks at one writer.
    pauses: (Duration, Duration),
}

impl Candidates {
    /// Knows nobody; everybody in the index is to be taken in.
    pub(crate) fn new(max: usize, pauses: (Duration, Duration)) -> Self {
        Self { writers: BTreeMap::new(), backlog: Some(WriterId(0)), missed: false, noted: 0, max, pauses }
    }

    /// A block of `writer` has come into the index. To be called after it did, or a look that began in between would
    /// take the writer for settled.
    pub(crate) fn note(&mut self, writer: WriterId, now: Instant) {
        self.noted += 1;
        let (noted, pause) = (self.noted, self.pauses.0);
        if let Some(candidate) = self.writers.get_mut(&writer) {
            let due = candidate.due.min(now + pause);
            *candidate = Candidate { noted, due, pause };
        } else if self.writers.len() < self.max {
            self.writers.insert(writer, Candidate { noted, due: now, pause });
        } else {
            self.missed = true;
        }
    }

    /// From where on the index has to name writers, and how many: `None` when nothing is to be taken in, or there is
    /// little room. The index is to be asked after this call.
    pub(crate) fn wants(&mut self) -> Option<(WriterId, usize)> {
        if std::mem::take(&mut self.missed) {
            self.backlog = Some(WriterId(0));
        }
        let room = self.max - self.writers.len();
        self.backlog.filter(|_| room > self.max / 4).map(|from| (from, room))
    }

    /// Takes in what the index named when asked for `wanted`.
    pub(crate) fn absorb(&mut self, wanted: (WriterId, usize), found: &BTreeSet<WriterId>, now: Instant) {
        let (from, room) = wanted;
        let (noted, pause) = (self.noted, self.pauses.0);
        let mut last = from;
        for writer in found {
            if self.writers.len() >= self.max && !self.writers.contains_key(writer) {
                // Others came meanwhile: the next time goes on here.
                self.backlog = Some(last);
                return;
            }
            self.writers.entry(*writer).or_insert(Candidate { noted, due: now, pause });
            last = *writer;
        }
        self.backlog = Some(last).filter(|_| found.len() >= room);
    }

    /// Whoever is known, in order.
    pub(crate) fn writers(&self) -> Vec<WriterId> {
        self.writers.keys().copied().collect()
    }

    /// Who is due.
    pub(crate) fn look(&self, now: Instant) -> Look {
        let due = self.writers.iter().filter(|(_, candidate)| candidate.due <= now);
        Look { writers: due.map(|(writer, _)| *writer).collect(), noted: self.noted }
    }

    /// What became of one writer of `look`.
    pub(crate) fn settle(&mut self, look: &Look, writer: WriterId, outcome: Outcome, now: Instant) {
        let (first, longest) = self.pauses;
        let Some(candidate) = self.writers.get_mut(&writer) else { return };
        match outcome {
            Outcome::Settled if candidate.noted <= look.noted => drop(self.writers.remove(&writer)),
            // It stored again while it was looked at.
            Outcome::Settled => candidate.due = now,
            Outcome::Open => *candidate = Candidate { due: now, pause: first, ..*candidate },
            Outcome::Left => {
                candidate.due = now + candidate.pause;
                candidate.pause = (candidate.pause * 2).min(longest);
            }
        }
    }

    /// How many are known, those of the backlog left out.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.writers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAUSES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(100));

    fn writers(ids: &[u64]) -> BTreeSet<WriterId> {
        ids.iter().copied().map(WriterId).collect()
    }

    fn ids(look: &Look) -> Vec<u64> {
        look.writers.iter().map(|writer| writer.0).collect()
    }

    /// Knows nobody, with nothing in the index.
    fn empty(max: usize, now: Instant) -> Candidates {
        let mut candidates = Candidates::new(max, PAUSES);
        let wanted = candidates.wants().expect("a backlog at first");
        candidates.absorb(wanted, &BTreeSet::new(), now);
        assert_eq!(candidates.wants(), None);
        candidates
    }

    #[test]
    fn who_stored_during_a_look_is_looked_at_again() {
        let now = cairn_net::now();
        let mut candidates = empty(10, now);
        candidates.note(WriterId(1), now);
        candidates.note(WriterId(2), now);
        let look = candidates.look(now);
        assert_eq!(ids(&look), [1, 2]);
        candidates.note(WriterId(2), now);
        candidates.settle(&look, WriterId(1), Outcome::Settled, now);
        candidates.settle(&look, WriterId(2), Outcome::Settled, now);
        let look = candidates.look(now);
        assert_eq!(ids(&look), [2]);
        candidates.settle(&look, WriterId(2), Outcome::Settled, now);
        assert_eq!(candidates.len(), 0);
        candidates.note(WriterId(1), now);
        assert_eq!(ids(&candidates.look(now)), [1], "a closed writer that stores late is a candidate again");
    }

    #[test]
    fn pauses_grow_only_where_nothing_gets_settled() {
        let now = cairn_net::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut candidates = empty(10, now);
        candidates.note(WriterId(1), now);
        for (at_s, next) in [(0, 10), (10, 30), (30, 70), (70, 150), (150, 250), (250, 350)] {
            let look = candidates.look(at(at_s));
            assert_eq!(ids(&look), [1], "due at {at_s}");
            candidates.settle(&look, WriterId(1), Outcome::Left, at(at_s));
            assert!(candidates.look(at(next - 1)).writers.is_empty(), "not due before {next}");
        }
        candidates.note(WriterId(1), at(260));
        assert_eq!(ids(&candidates.look(at(270))), [1], "a new block of it is looked at soon");
        let look = candidates.look(at(270));
        candidates.settle(&look, WriterId(1), Outcome::Open, at(270));
        assert_eq!(ids(&candidates.look(at(271))), [1], "an open one is asked about every time");
    }

    proptest! {
        #[test]
        fn every_writer_of_the_index_gets_its_look(
            index in prop::collection::btree_set(1u64..200, 0..60),
            notes in prop::collection::vec(200u64..240, 0..30),
            max in 4usize..20,
        ) {
            let now = cairn_net::now();
            let mut candidates = Candidates::new(max, PAUSES);
            let index: BTreeSet<WriterId> = index.into_iter().map(WriterId).collect();
            let mut all = index.clone();
            let mut seen = BTreeSet::new();
            let mut notes = notes.into_iter();
            for round in 0..1000 {
                let mut stored = None;
                if let Some(wanted) = candidates.wants() {
                    let found: BTreeSet<WriterId> =
                        all.iter().copied().filter(|writer| *writer > wanted.0).take(wanted.1).collect();
                    // One stores between the walk over the index and what is taken from it.
                    if let Some(writer) = notes.next() {
                        stored = Some(WriterId(writer));
                        candidates.note(WriterId(writer), now);
                    }
                    candidates.absorb(wanted, &found, now);
                }
                all.extend(stored);
                prop_assert!(candidates.len() <= max);
                let look = candidates.look(now);
                seen.extend(look.writers.iter().copied());
                for writer in &look.writers {
                    candidates.settle(&look, *writer, Outcome::Settled, now);
                }
                if candidates.backlog.is_none() && !candidates.missed && candidates.len() == 0 && notes.len() == 0 {
                    prop_assert!(round < 200);
                    break;
                }
            }
            prop_assert_eq!(candidates.backlog, None);
            prop_assert_eq!(&seen, &all);
        }
    }

    #[test]
    fn who_finds_no_room_waits_in_the_index() {
        let now = cairn_net::now();
        let mut candidates = empty(4, now);
        for writer in 1..=6 {
            candidates.note(WriterId(writer), now);
        }
        assert_eq!((candidates.len(), candidates.wants()), (4, None), "no room");
        let look = candidates.look(now);
        look.writers.iter().for_each(|writer| candidates.settle(&look, *writer, Outcome::Settled, now));
        let wanted = candidates.wants().expect("begins anew");
        assert_eq!(wanted, (WriterId(0), 4));
        candidates.absorb(wanted, &writers(&[1, 2, 3, 4]), now);
        assert_eq!((candidates.len(), candidates.backlog), (4, Some(WriterId(4))));
        candidates.note(WriterId(7), now);
        let look = candidates.look(now);
        look.writers.iter().for_each(|writer| candidates.settle(&look, *writer, Outcome::Settled, now));
        assert_eq!(candidates.wants(), Some((WriterId(0), 4)), "one below may have been missed: from the beginning");
    }
}
