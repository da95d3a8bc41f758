//! The ledger of a node: what was found wrong with its blocks, by whom, and what became of it. The one account of defects:
//! heartbeats, requests and metrics tell from it, and a journal keeps it over restarts.
//!
//! An entry is closed only by who has read the block again from the disk, or knows that it was deleted.

mod journal;

use crate::limits::{DEFECTS_PER_BEAT, LEDGER_ENTRIES_MAX, REPAIRED_WAITING_MAX};
use crate::wire::block_to_pb;
use cairn_proto::{BlockId, NodeId, PgId, StoreId, pb};
use cairn_store::Disk;
use journal::{Event, Journal};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use tokio::sync::Notify;

/// Who found a defect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Finder {
    Scrub,
    Read,
    Open,
    Compare,
}

impl Finder {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Scrub => "scrub",
            Self::Read => "read",
            Self::Open => "open",
            Self::Compare => "compare",
        }
    }
}

/// How an entry ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Closing {
    /// Copied from another member or stored again by its writer, and read again from the disk.
    Repaired,
    /// It is not wanted any more.
    Deleted,
}

impl Closing {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Repaired => "repaired",
            Self::Deleted => "deleted",
        }
    }
}

/// A defect that is not repaired yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct OpenDefect {
    pub(crate) block: BlockId,
    pub(crate) pg: PgId,
    pub(crate) cause: String,
    pub(crate) finder: String,
}

#[derive(Default)]
struct State {
    node: NodeId,
    next: u64,
    /// The latest, open ones in any case.
    entries: BTreeMap<u64, pb::LedgerEntry>,
    open: HashMap<(StoreId, BlockId), u64>,
    /// What metadata has not been told yet.
    waiting: VecDeque<pb::Defect>,
    /// What is not in the journal yet.
    unwritten: VecDeque<Event>,
    found: BTreeMap<String, u64>,
    closed: BTreeMap<&'static str, u64>,
}

/// The ledger of one node.
#[derive(Default)]
pub(crate) struct Ledger {
    state: Mutex<State>,
    journal: Mutex<Journal>,
    /// There is something to be written.
    pub(crate) changed: Notify,
}

fn block_of(entry: &pb::LedgerEntry) -> BlockId {
    let block = entry.block.unwrap_or_default();
    BlockId::new(block.inode, block.writer, block.seq)
}

impl State {
    fn is_open(entry: &pb::LedgerEntry) -> bool {
        entry.result.is_empty()
    }

    fn tell(&mut self, entry: &pb::LedgerEntry, repaired: bool) {
        if self.waiting.len() >= 2 * REPAIRED_WAITING_MAX {
            self.waiting.pop_front();
        }
        let (node, store, cause) = (self.node.0, entry.store, entry.cause.clone());
        self.waiting.push_back(pb::Defect { node, store, block: entry.block, cause, repaired });
    }

    fn write(&mut self, event: Event) {
        // A journal that takes nothing for long loses the oldest of what it should have taken.
        if self.unwritten.len() >= 2 * LEDGER_ENTRIES_MAX {
            self.unwritten.pop_front();
        }
        self.unwritten.push_back(event);
    }

    fn take_in(&mut self, entry: pb::LedgerEntry) {
        self.next = self.next.max(entry.number + 1);
        if Self::is_open(&entry) {
            self.open.insert((StoreId(entry.store), block_of(&entry)), entry.number);
        }
        self.entries.insert(entry.number, entry);
        if self.entries.len() > LEDGER_ENTRIES_MAX {
            let oldest = self.entries.iter().find(|(_, entry)| !Self::is_open(entry)).map(|(number, _)| *number);
            oldest.and_then(|oldest| self.entries.remove(&oldest));
        }
    }

    fn found_event(entry: &pb::LedgerEntry) -> Event {
        let block = entry.block.unwrap_or_default();
        Event::Found {
            number: entry.number,
            at_ns: entry.found_ns,
            store: entry.store,
            block: (block.inode, block.writer, block.seq),
            pg: entry.pg,
            cause: entry.cause.clone(),
            finder: entry.finder.clone(),
        }
    }

    fn replay(&mut self, event: Event) {
        match event {
            Event::Ledger { next, .. } => self.next = self.next.max(next),
            Event::Found { number, at_ns, store, block: (inode, writer, seq), pg, cause, finder } => {
                let block = Some(pb::BlockId { inode, writer, seq });
                if self.entries.get(&number).is_none_or(Self::is_open) {
                    let entry = pb::LedgerEntry {
                        number,
                        found_ns: at_ns,
                        store,
                        block,
                        pg,
                        cause,
                        finder,
                        ..Default::default()
                    };
                    self.take_in(entry);
                }
            }
            Event::Closed { number, at_ns, result } => {
                if let Some(entry) = self.entries.get_mut(&number) {
                    (entry.closed_ns, entry.result) = (at_ns, result);
                    let key = (StoreId(entry.store), block_of(entry));
                    self.open.remove(&key);
                }
            }
        }
    }
}

impl Ledger {
    /// Reads what earlier lives of the process found.
    ///
    /// # Errors
    /// The file cannot be read, or is of another version.
    pub(crate) fn load(disk: &dyn Disk) -> io::Result<Self> {
        let ledger = Self::default();
        let events = ledger.journal.lock().load(disk)?;
        let mut state = ledger.state.lock();
        state.next = 1;
        events.into_iter().for_each(|event| state.replay(event));
        drop(state);
        Ok(ledger)
    }

    /// Writes down what happened since; on disk when it returns. Blocks the calling thread.
    pub(crate) fn flush(&self, disk: &dyn Disk) -> io::Result<()> {
        let mut journal = self.journal.lock();
        let (events, open, next) = {
            let mut state = self.state.lock();
            let events: Vec<Event> = state.unwritten.drain(..).collect();
            let open: Vec<Event> =
                state.entries.values().filter(|entry| State::is_open(entry)).map(State::found_event).collect();
            (events, open, state.next)
        };
        if events.is_empty() {
            return Ok(());
        }
        journal.append(disk, &events, &open, next).inspect_err(|_| {
            let mut state = self.state.lock();
            events.into_iter().rev().for_each(|event| state.unwritten.push_front(event));
        })
    }

    /// Notes a defect; false when it is known. Beyond [`REPAIRED_WAITING_MAX`] open ones, further defects are left out: the
    /// count of quarantined blocks still tells of them.
    pub(crate) fn found(&self, store: StoreId, block: BlockId, pg: PgId, cause: &str, finder: Finder) -> bool {
        let mut state = self.state.lock();
        if let Some(number) = state.open.get(&(store, block)).copied() {
            // Whoever closes it tells scrub then, which has counted it.
            if let Some(entry) = state.entries.get_mut(&number).filter(|_| finder == Finder::Scrub) {
                entry.finder = finder.name().to_owned();
            }
            return false;
        }
        if state.open.len() >= REPAIRED_WAITING_MAX {
            return false;
        }
        tracing::warn!(node = %state.node, %store, %block, cause, finder = finder.name(), "defect found");
        let entry = pb::LedgerEntry {
            number: state.next,
            found_ns: crate::clock::wall_ns(),
            store: store.0,
            block: Some(block_to_pb(block)),
            pg: pg.0,
            cause: cause.to_owned(),
            finder: finder.name().to_owned(),
            ..Default::default()
        };
        *state.found.entry(cause.to_owned()).or_default() += 1;
        state.tell(&entry, false);
        state.write(State::found_event(&entry));
        state.take_in(entry);
        drop(state);
        self.changed.notify_one();
        true
    }

    /// Ends a defect: the block was read again from the disk, or is not wanted any more.
    ///
    /// Who had found it; `None` when there was no open entry.
    pub(crate) fn close(&self, store: StoreId, block: BlockId, closing: Closing) -> Option<String> {
        let mut state = self.state.lock();
        let number = state.open.remove(&(store, block))?;
        let mut entry = state.entries.remove(&number)?;
        let finder = entry.finder.clone();
        tracing::info!(node = %state.node, %store, %block, cause = entry.cause, result = closing.name(), "defect ended");
        entry.closed_ns = crate::clock::wall_ns();
        entry.result = closing.name().to_owned();
        entry.trouble.clear();
        *state.closed.entry(closing.name()).or_default() += 1;
        state.tell(&entry, true);
        let event = Event::Closed { number, at_ns: entry.closed_ns, result: entry.result.clone() };
        state.write(event);
        state.take_in(entry);
        drop(state);
        self.changed.notify_one();
        Some(finder)
    }

    /// Why a defect is still open.
    pub(crate) fn trouble(&self, store: StoreId, block: BlockId, trouble: String) {
        let mut state = self.state.lock();
        let number = state.open.get(&(store, block)).copied();
        if let Some(entry) = number.and_then(|number| state.entries.get_mut(&number)) {
            entry.trouble = trouble;
        }
    }

    /// Open defects of a store.
    pub(crate) fn open_of(&self, store: StoreId) -> Vec<OpenDefect> {
        let state = self.state.lock();
        let open = state.open.iter().filter(|((of, _), _)| *of == store);
        let entries = open.filter_map(|((_, block), number)| Some((*block, state.entries.get(number)?)));
        entries
            .map(|(block, entry)| OpenDefect {
                block,
                pg: PgId(entry.pg),
                cause: entry.cause.clone(),
                finder: entry.finder.clone(),
            })
            .collect()
    }

    /// A page of entries below `before` (0 = the newest), newest first, and how many are open of all.
    pub(crate) fn list(&self, before: u64, limit: usize) -> (Vec<pb::LedgerEntry>, u64) {
        let state = self.state.lock();
        let below = if before == 0 { u64::MAX } else { before };
        let page = state.entries.range(..below).rev().take(limit).map(|(_, entry)| entry.clone()).collect();
        (page, state.open.len() as u64)
    }

    /// Defects that are open, those found by cause, and those ended by result, in this life of the process.
    pub(crate) fn counts(&self) -> (u64, BTreeMap<String, u64>, BTreeMap<&'static str, u64>) {
        let state = self.state.lock();
        (state.open.len() as u64, state.found.clone(), state.closed.clone())
    }

    /// Tells every open defect again: metadata that was started anew does not remember them.
    pub(crate) fn retell(&self, node: NodeId) {
        let mut state = self.state.lock();
        state.node = node;
        for defect in &mut state.waiting {
            defect.node = node.0;
        }
        let known = |state: &State, entry: &pb::LedgerEntry| {
            state.waiting.iter().any(|defect| defect.store == entry.store && defect.block == entry.block)
        };
        let open: Vec<pb::LedgerEntry> =
            state.entries.values().filter(|entry| State::is_open(entry)).cloned().collect();
        for entry in open {
            if !known(&state, &entry) {
                state.tell(&entry, false);
            }
        }
    }

    /// Defects to tell of `store` in the next heartbeat. They are gone from here: [`Ledger::put_back`] when the
    /// heartbeat was not answered.
    pub(crate) fn take(&self, store: StoreId) -> Vec<pb::Defect> {
        let mut state = self.state.lock();
        let mut taken = Vec::new();
        let mut rest = VecDeque::with_capacity(state.waiting.len());
        for defect in state.waiting.drain(..) {
            if defect.store == store.0 && taken.len() < DEFECTS_PER_BEAT {
                taken.push(defect);
            } else {
                rest.push_back(defect);
            }
        }
        state.waiting = rest;
        taken
    }

    /// Returns what a heartbeat could not deliver, ahead of what came since.
    pub(crate) fn put_back(&self, defects: Vec<pb::Defect>) {
        let mut state = self.state.lock();
        for defect in defects.into_iter().rev() {
            state.waiting.push_front(defect);
        }
    }
}

/// Writes the journal whenever something happened, until `stop`.
pub(crate) async fn run(node: std::sync::Arc<super::state::Node>, stop: tokio_util::sync::CancellationToken) {
    let mut pace = super::duty::Pace::new(crate::limits::RETRY_PAUSE);
    while super::duty::wait(&stop, &node.ledger.changed, pace.next()).await {
        let (home, ledger) = (node.home.clone(), node.ledger.clone());
        match crate::tasks::blocking(move || ledger.flush(&home.disk)).await {
            Ok(()) => pace.idle(),
            Err(error) => {
                tracing::warn!(%error, "the ledger is not written down");
                pace.failed();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_store::RealDisk;

    const STORE: StoreId = StoreId(2);
    const PG: PgId = PgId(7);

    fn block(seq: u32) -> BlockId {
        BlockId::new(1, 1, seq)
    }

    fn found(ledger: &Ledger, seq: u32) -> bool {
        ledger.found(STORE, block(seq), PG, "bad payload", Finder::Scrub)
    }

    fn told(ledger: &Ledger) -> Vec<(u32, bool)> {
        ledger.take(STORE).iter().map(|d| (d.block.expect("always named").seq, d.repaired)).collect()
    }

    #[test]
    fn what_scrub_finds_too_is_told_to_scrub_when_it_ends() {
        let ledger = Ledger::default();
        let found = |finder| ledger.found(STORE, block(1), PG, "bad payload", finder);
        assert!(found(Finder::Read));
        assert!(!found(Finder::Scrub));
        assert!(!found(Finder::Read), "it stays scrub's");
        assert_eq!(ledger.close(STORE, block(1), Closing::Repaired).as_deref(), Some("scrub"));
        assert_eq!(ledger.close(STORE, block(1), Closing::Repaired), None);
    }

    #[test]
    fn each_defect_is_told_when_found_and_when_ended() {
        let ledger = Ledger::default();
        assert!(found(&ledger, 1));
        assert!(!found(&ledger, 1));
        assert_eq!(told(&ledger), [(1, false)]);
        ledger.close(STORE, block(1), Closing::Repaired);
        ledger.close(STORE, block(1), Closing::Repaired);
        assert_eq!(told(&ledger), [(1, true)]);
        ledger.close(STORE, block(2), Closing::Deleted);
        assert!(told(&ledger).is_empty());
        assert!(found(&ledger, 1), "again");
        let (open, by_cause, by_result) = ledger.counts();
        assert_eq!((open, by_cause["bad payload"], by_result["repaired"]), (1, 2, 1));
    }

    #[test]
    fn it_survives_a_restart() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let disk = RealDisk::open(dir.path()).expect("it is free");
        let ledger = Ledger::load(&disk).expect("none yet");
        (0..3).for_each(|seq| assert!(found(&ledger, seq)));
        ledger.flush(&disk).expect("written");
        ledger.close(STORE, block(1), Closing::Repaired);
        ledger.flush(&disk).expect("written");
        let again = Ledger::load(&disk).expect("read");
        assert_eq!(again.list(0, 10), ledger.list(0, 10));
        let (page, open) = again.list(0, 10);
        let shape: Vec<_> = page.iter().map(|entry| (entry.number, entry.result.as_str())).collect();
        assert_eq!((shape, open), (vec![(3, ""), (2, "repaired"), (1, "")], 2));
        assert_eq!(again.list(3, 1).0[0].number, 2);
        let mut seqs: Vec<u32> = again.open_of(STORE).iter().map(|open| open.block.seq.0).collect();
        seqs.sort_unstable();
        assert_eq!(seqs, [0, 2]);
        assert!(!found(&again, 2), "it is open already");
        assert!(found(&again, 9));
        assert_eq!(again.list(0, 1).0[0].number, 4, "numbers go on");
        again.retell(NodeId(5));
        assert_eq!(told(&again).len(), 3);
    }

    #[test]
    fn what_was_not_delivered_is_told_again_in_order() {
        let ledger = Ledger::default();
        (0..3).for_each(|seq| assert!(found(&ledger, seq)));
        ledger.found(StoreId(9), block(9), PG, "bad payload", Finder::Read);
        let taken = ledger.take(STORE);
        found(&ledger, 3);
        ledger.put_back(taken);
        assert_eq!(told(&ledger), [(0, false), (1, false), (2, false), (3, false)]);
        assert_eq!(ledger.take(StoreId(9)).len(), 1);
    }

    #[test]
    fn everything_is_bounded_and_open_entries_are_kept() {
        let ledger = Ledger::default();
        for seq in 0..100_000 {
            found(&ledger, seq);
            if seq >= 10 {
                ledger.close(STORE, block(seq), Closing::Repaired);
            }
        }
        let state = ledger.state.lock();
        assert_eq!((state.open.len(), state.entries.len()), (10, LEDGER_ENTRIES_MAX));
        assert!(state.waiting.len() <= 2 * REPAIRED_WAITING_MAX && state.unwritten.len() <= 2 * LEDGER_ENTRIES_MAX);
        drop(state);
        assert_eq!(ledger.take(STORE).len(), DEFECTS_PER_BEAT);
        for seq in 0..10_000 {
            found(&ledger, seq);
        }
        assert_eq!(ledger.state.lock().open.len(), REPAIRED_WAITING_MAX);
    }
}
