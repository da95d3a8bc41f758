//! The sweep: deletes blocks that no file will ever refer to, because their write failed or was given up before its
//! commit.
//!
//! In three steps, and in this order: metadata says which writers are closed, in a transaction that lies behind; the index
//! names the blocks of those; metadata says what is to become of each. Only then is anything deleted. Why `dead` stays
//! true until the delete is written down where it is decided (`judge.rs` of `cairn-meta`). A block that arrives later, from
//! a writer that was asleep or as a copy from a member that has not swept yet, makes its writer a candidate again
//! (`candidates.rs`), so it needs no memory of what was deleted.
//!
//! Two alarms go to the operator through heartbeats. Blocks of writers that metadata does not know were written after the
//! copy that metadata was restored from: they are kept. And when more of what a store held at its opening would go than
//! a share of it, nothing of that goes any more: rather an error of ours than so many orphans. Orphans of writers that came
//! later are outside that rule, because an outage may leave any number of them.

use super::candidates::{Candidates, Look, Outcome};
use super::duty::wait;
use super::fence::AdmitError;
use super::slot::StoreSlot;
use super::state::Node;
use crate::entropy;
use crate::limits::{
    JUDGE_TIMEOUT, SWEEP_CANDIDATES_MAX, SWEEP_HELD_MAX, SWEEP_MASS_MIN, SWEEP_PAGE_PAUSE, SWEEP_PAUSE_MAX,
};
use crate::links::CallError;
use crate::tasks::blocking;
use crate::wire::block_to_pb;
use cairn_proto::limits::{BLOCKS_JUDGED_MAX, BLOCKS_PER_REQUEST_MAX};
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, Verdict, WriterState, response};
use cairn_proto::{PgId, StoreId, WriterId};
use cairn_store::{BlockKey, Closed, DeleteError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// What the sweep of a store has done and what it left, for operators.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SweepTotals {
    /// Blocks that metadata was asked about.
    pub judged_blocks: u64,
    /// Blocks deleted.
    pub swept_blocks: u64,
    /// Blocks kept because metadata knows nothing of their writer.
    pub future_blocks: u64,
    /// Blocks kept because too much of the store would go.
    pub stopped_blocks: u64,
}

/// What a store held when it was opened.
#[derive(Clone, Copy)]
struct Old {
    /// Writers up to this one may have blocks from before this process.
    newest: WriterId,
    /// Blocks of such writers that may be deleted in this life of the process.
    allowed: u64,
}

/// What the sweep keeps about one store.
pub(crate) struct Sweep {
    candidates: Mutex<Candidates>,
    mass_percent: u8,
    /// What was there when the store was opened first in this life of the process.
    old: OnceLock<Old>,
    old_deleted: AtomicU64,
    judged: AtomicU64,
    swept: AtomicU64,
    future: AtomicU64,
    stopped: AtomicU64,
}

/// Blocks of old writers that may go, of so many that a store held when it was opened.
fn old_allowed(blocks: u64, percent: u8) -> u64 {
    if percent >= 100 { u64::MAX } else { (blocks / 100 * u64::from(percent)).max(SWEEP_MASS_MIN) }
}

impl Sweep {
    /// Of a store that is not open yet.
    pub(crate) fn new(every: Duration, mass_percent: u8) -> Self {
        Self {
            candidates: Mutex::new(Candidates::new(SWEEP_CANDIDATES_MAX, (every, SWEEP_PAUSE_MAX.max(every)))),
            mass_percent,
            old: OnceLock::new(),
            old_deleted: AtomicU64::new(0),
            judged: AtomicU64::new(0),
            swept: AtomicU64::new(0),
            future: AtomicU64::new(0),
            stopped: AtomicU64::new(0),
        }
    }

    /// The store was opened with so many blocks, of writers up to `newest`. False when it had been opened before in this
    /// life of the process: then what was true at first goes on to count.
    pub(crate) fn opened(&self, newest: WriterId, blocks: u64) -> bool {
        self.old.set(Old { newest, allowed: old_allowed(blocks, self.mass_percent) }).is_ok()
    }

    /// Until the store is open, everything is old and nothing may go.
    fn old(&self) -> Old {
        self.old.get().copied().unwrap_or(Old { newest: WriterId(u64::MAX), allowed: 0 })
    }

    /// A block of `writer` has come into the index.
    pub(crate) fn note(&self, writer: WriterId) {
        self.candidates.lock().note(writer, cairn_net::now());
    }

    /// Writers that stored something since all their blocks were last judged: only these may still write.
    pub(crate) fn unsettled(&self) -> Vec<WriterId> {
        self.candidates.lock().writers()
    }

    pub(crate) fn totals(&self) -> SweepTotals {
        SweepTotals {
            judged_blocks: self.judged.load(Ordering::Relaxed),
            swept_blocks: self.swept.load(Ordering::Relaxed),
            future_blocks: self.future.load(Ordering::Relaxed),
            stopped_blocks: self.stopped.load(Ordering::Relaxed),
        }
    }

    /// What an operator has to look at; empty when well.
    pub(crate) fn alarm(&self) -> String {
        let SweepTotals { future_blocks, stopped_blocks, .. } = self.totals();
        let mut alarm = String::new();
        if stopped_blocks > 0 {
            alarm = format!("sweep stopped: {stopped_blocks} blocks without a file, more than its limit");
        }
        if future_blocks > 0 {
            let comma = if alarm.is_empty() { "" } else { "; " };
            alarm += &format!("{comma}{future_blocks} blocks of writers unknown to metadata: was it rolled back?");
        }
        alarm
    }
}

#[derive(Debug, Error)]
enum SweepError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("metadata's answer contradicts itself: {0}")]
    Answer(&'static str),
    #[error("metadata's answer is refused: {0}")]
    Fence(#[from] AdmitError),
    #[error("the store does not delete: {0}")]
    Store(#[from] DeleteError),
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Runs until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let never = Notify::new();
    let mut rng = entropy::rng();
    let mut books: Vec<Book> = node.stores.iter().map(|_| Book::default()).collect();
    // Spread, so that the nodes of a cluster do not all ask at once.
    while wait(&stop, &never, Some(node.sweep_every.mul_f64(0.8 + 0.4 * rng.f64()))).await {
        for (slot, book) in node.stores.iter().zip(&mut books) {
            match stop.run_until_cancelled(pass(&node, slot, book)).await {
                None => return,
                Some(Ok(())) => {}
                // The candidates stay as they are: the next pass takes them up again.
                Some(Err(error)) => tracing::debug!(store = ?slot.id(), %error, "sweep interrupted"),
            }
        }
    }
}

/// What is remembered of writers between passes: how many of their blocks are of the future. No more writers than
/// candidates.
#[derive(Default)]
struct Book {
    future: BTreeMap<WriterId, u64>,
}

/// What one pass finds.
#[derive(Default)]
struct Found {
    /// Writers of whom some block could not be decided or deleted.
    left: BTreeSet<WriterId>,
    future: BTreeMap<WriterId, u64>,
    /// Dead blocks of writers from before this process, held back until all of them are known.
    held: Vec<BlockKey>,
    deleted: u64,
}

/// Looks once at every candidate of a store that is due.
async fn pass(node: &Node, slot: &Arc<StoreSlot>, book: &mut Book) -> Result<(), SweepError> {
    let Some(store) = slot.id().filter(|_| slot.is_open()) else { return Ok(()) };
    take_in_backlog(slot).await?;
    let look = slot.sweep.candidates.lock().look(cairn_net::now());
    let ended = ended_writers(node, slot, &look).await?;
    if ended.is_empty() {
        return Ok(());
    }
    let ended = Arc::new(ended);
    let mut found = Found::default();
    let mut after = None;
    loop {
        let page = slot.list_of(ended.clone(), after, BLOCKS_JUDGED_MAX).await?;
        let (runs, count) = runs_of(&page);
        if count > 0 {
            judge_page(node, slot, store, runs, &page[..count], &mut found).await?;
            after = Some(page[count - 1].0);
        }
        if found.held.len() + BLOCKS_JUDGED_MAX > SWEEP_HELD_MAX {
            delete_held(slot, &mut found).await?;
        }
        if count == page.len() && page.len() < BLOCKS_JUDGED_MAX {
            break;
        }
        sleep(SWEEP_PAGE_PAUSE).await; // tidy: sleep-ok(bounds the rate of the sweep)
    }
    delete_held(slot, &mut found).await?;
    settle(slot, &look, &ended, &found, book);
    Ok(())
}

/// Takes writers that the index names into the candidates, as far as there is room.
async fn take_in_backlog(slot: &Arc<StoreSlot>) -> Result<(), Closed> {
    let wanted = slot.sweep.candidates.lock().wants();
    if let Some(wanted) = wanted {
        let found = slot.writers_after(wanted.0, wanted.1).await?;
        slot.sweep.candidates.lock().absorb(wanted, &found, cairn_net::now());
    }
    Ok(())
}

/// Those of a look that will never commit again. The others are settled as open.
async fn ended_writers(node: &Node, slot: &StoreSlot, look: &Look) -> Result<BTreeSet<WriterId>, SweepError> {
    let mut ended = BTreeSet::new();
    for some in look.writers.chunks(BLOCKS_PER_REQUEST_MAX) {
        let ask = pb::JudgeWriters { writers: some.iter().map(|writer| writer.0).collect() };
        let reply = match node.meta.call(Kind::JudgeWriters(ask)).await? {
            response::Kind::JudgeWriters(reply) if reply.states.len() == some.len() => reply,
            _ => return Err(SweepError::Answer("it does not judge every writer")),
        };
        let mut candidates = slot.sweep.candidates.lock();
        for (writer, state) in some.iter().zip(reply.states()) {
            match state {
                WriterState::Open => candidates.settle(look, *writer, Outcome::Open, cairn_net::now()),
                // Of an unknown one, blocks may be live all the same.
                WriterState::Closed | WriterState::Unknown => drop(ended.insert(*writer)),
            }
        }
    }
    Ok(ended)
}

/// Folds blocks in ascending order into runs of one group, as many as a request takes; how many blocks these are.
pub(super) fn runs_of(page: &[(BlockKey, PgId)]) -> (Vec<pb::GroupRun>, usize) {
    let mut runs: Vec<pb::GroupRun> = Vec::new();
    let mut next = None;
    for (index, (key, pg)) in page.iter().enumerate() {
        let full = runs.len() == BLOCKS_PER_REQUEST_MAX;
        match runs.last_mut().and_then(|run| run.run.as_mut()) {
            Some(run) if next == Some((key.block, *pg)) => run.count += 1,
            _ if full => return (runs, index),
            _ => {
                let run = pb::Run { first: Some(block_to_pb(key.block)), count: 1 };
                runs.push(pb::GroupRun { pg: pg.0, run: Some(run) });
            }
        }
        next = key.block.offset(1).map(|next| (next, *pg));
    }
    (runs, page.len())
}

/// A verdict for each of `count` blocks.
pub(super) fn verdicts_of(spans: &[pb::VerdictSpan], count: usize) -> Option<Vec<Verdict>> {
    let sum = spans.iter().try_fold(0usize, |sum, span| sum.checked_add(span.count as usize))?;
    let each = || spans.iter().flat_map(|span| std::iter::repeat_n(span.verdict(), span.count as usize));
    (sum == count).then(|| each().collect())
}

async fn judge_page(
    node: &Node,
    slot: &Arc<StoreSlot>,
    store: StoreId,
    runs: Vec<pb::GroupRun>,
    page: &[(BlockKey, PgId)],
    found: &mut Found,
) -> Result<(), SweepError> {
    let ask = pb::JudgeBlocks { store: store.0, runs };
    let reply = match node.meta.call_within(Kind::JudgeBlocks(ask), JUDGE_TIMEOUT).await? {
        response::Kind::JudgeBlocks(reply) => reply,
        _ => return Err(SweepError::Answer("it is no judgement")),
    };
    let verdicts = verdicts_of(&reply.spans, page.len()).ok_or(SweepError::Answer("it does not judge every block"))?;
    slot.sweep.judged.fetch_add(page.len() as u64, Ordering::Relaxed);
    if verdicts.contains(&Verdict::Dead) {
        // An earlier holder of the duty may have been asleep since: what it says is not acted upon.
        let home = node.home.clone();
        blocking(move || home.fence.admit_duty(&home.disk, reply.duty_epoch)).await?;
    }
    let mut fresh = Vec::new();
    for ((key, _), verdict) in page.iter().zip(verdicts) {
        let writer = key.block.writer;
        match verdict {
            Verdict::Live => {}
            Verdict::Undecided => drop(found.left.insert(writer)),
            Verdict::Dead if writer > slot.sweep.old().newest => fresh.push(*key),
            Verdict::Dead => found.held.push(*key),
            Verdict::Future => {
                found.left.insert(writer);
                *found.future.entry(writer).or_default() += 1;
            }
        }
    }
    found.deleted += delete(slot, &fresh).await?;
    Ok(())
}

/// Deletes what was held back, if that is not too much.
async fn delete_held(slot: &StoreSlot, found: &mut Found) -> Result<(), SweepError> {
    let held = std::mem::take(&mut found.held);
    if held.is_empty() {
        return Ok(());
    }
    let sweep = &slot.sweep;
    let count = held.len() as u64;
    let before = sweep.old_deleted.load(Ordering::Relaxed);
    // Once stopped it stays stopped: taken in small parts, the same blocks would pass.
    if sweep.stopped.load(Ordering::Relaxed) > 0 || before.saturating_add(count) > sweep.old().allowed {
        let limit = sweep.old().allowed;
        tracing::error!(store = ?slot.id(), blocks = count, limit, "sweep stopped: too many blocks have no file");
        sweep.stopped.fetch_max(count, Ordering::Relaxed);
        found.left.extend(held.iter().map(|key| key.block.writer));
        return Ok(());
    }
    sweep.old_deleted.fetch_add(count, Ordering::Relaxed);
    found.deleted += delete(slot, &held).await?;
    Ok(())
}

async fn delete(slot: &StoreSlot, keys: &[BlockKey]) -> Result<u64, SweepError> {
    let mut deleted = 0;
    for some in keys.chunks(BLOCKS_PER_REQUEST_MAX) {
        deleted += slot.delete(some.to_vec()).await?.deleted as u64;
    }
    slot.sweep.swept.fetch_add(deleted, Ordering::Relaxed);
    Ok(deleted)
}

/// Writes down what became of the writers of a pass.
fn settle(slot: &StoreSlot, look: &Look, ended: &BTreeSet<WriterId>, found: &Found, book: &mut Book) {
    let now = cairn_net::now();
    let mut candidates = slot.sweep.candidates.lock();
    for writer in ended {
        let outcome = if found.left.contains(writer) { Outcome::Left } else { Outcome::Settled };
        candidates.settle(look, *writer, outcome, now);
        match found.future.get(writer) {
            Some(count) => book.future.insert(*writer, *count),
            None => book.future.remove(writer),
        };
    }
    drop(candidates);
    let future = book.future.values().sum();
    if slot.sweep.future.swap(future, Ordering::Relaxed) < future {
        tracing::error!(store = ?slot.id(), blocks = future, "blocks of writers that metadata does not know are kept");
    }
    if found.deleted > 0 {
        tracing::info!(store = ?slot.id(), blocks = found.deleted, writers = ended.len(), "orphans deleted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::BlockId;
    use cairn_store::StoreOptions;

    /// Makes a store hold so many blocks of a writer.
    async fn fill(slot: &StoreSlot, writer: u64, count: u32) -> Vec<BlockKey> {
        let work = cairn_net::WorkTime::default();
        let puts: Vec<_> = (0..count).map(|seq| crate::node::slot::tests::put(writer, seq)).collect();
        let keys = puts.iter().map(|put| put.key).collect();
        for stored in futures_util::future::join_all(puts.into_iter().map(|put| slot.put(put, &work))).await {
            stored.expect("stored");
        }
        keys
    }

    #[tokio::test]
    async fn too_much_at_once_stops_the_sweep_of_what_was_there_before() {
        let (_dir, slot) = crate::node::slot::tests::slot(StoreOptions::default(), 1);
        let most = u32::try_from(SWEEP_MASS_MIN).expect("it is small");
        let old = fill(&slot, 1, most + 1).await;
        let hold = |keys: &[BlockKey]| Found { held: keys.to_vec(), ..Found::default() };
        // Within the limit it goes, and counts.
        let mut found = hold(&old[..10]);
        delete_held(&slot, &mut found).await.expect("deleted");
        assert_eq!((found.deleted, found.left.len(), slot.sweep.alarm()), (10, 0, String::new()));
        let mut found = hold(&old[10..]);
        delete_held(&slot, &mut found).await.expect("decided");
        assert_eq!((found.deleted, found.left.len()), (0, 1));
        assert!(slot.sweep.alarm().contains("sweep stopped: 1015 blocks"), "{}", slot.sweep.alarm());
        // Nor does it go in small parts.
        let mut found = hold(&old[10..11]);
        delete_held(&slot, &mut found).await.expect("decided");
        assert_eq!(found.deleted, 0);
        assert_eq!(slot.usage().blocks, u64::from(most) - 9);
        // Later writers are not concerned.
        let late = fill(&slot, 2, 5).await;
        assert_eq!(delete(&slot, &late).await.expect("deleted"), 5);
        assert_eq!(slot.sweep.totals(), SweepTotals { swept_blocks: 15, stopped_blocks: 1015, ..Default::default() });
    }

    fn block(writer: u64, seq: u32, pg: u32) -> (BlockKey, PgId) {
        (BlockKey::replica(BlockId::new(1, writer, seq)), PgId(pg))
    }

    #[test]
    fn runs_end_with_the_group_and_the_bound() {
        let page = [block(1, 0, 1), block(1, 1, 1), block(1, 2, 2), block(1, 4, 2), block(2, 5, 2)];
        let (runs, count) = runs_of(&page);
        let shape: Vec<(u32, u32)> = runs.iter().map(|run| (run.pg, run.run.map_or(0, |run| run.count))).collect();
        assert_eq!((shape, count), (vec![(1, 2), (2, 1), (2, 1), (2, 1)], 5));
        let apart: Vec<_> = (0..BLOCKS_JUDGED_MAX as u32).map(|n| block(1, 2 * n, 1)).collect();
        let (runs, count) = runs_of(&apart);
        assert_eq!((runs.len(), count), (BLOCKS_PER_REQUEST_MAX, BLOCKS_PER_REQUEST_MAX));
        assert_eq!(runs_of(&[block(1, u32::MAX, 1), block(2, 0, 1)]).0.len(), 2);
    }

    #[test]
    fn a_judgement_is_of_every_block_or_of_none() {
        let span = |verdict: Verdict, count| pb::VerdictSpan { verdict: verdict as i32, count };
        let spans = [span(Verdict::Live, 2), span(Verdict::Dead, 1)];
        assert_eq!(verdicts_of(&spans, 3), Some(vec![Verdict::Live, Verdict::Live, Verdict::Dead]));
        assert_eq!(verdicts_of(&spans, 2), None);
        assert_eq!(verdicts_of(&spans, 4), None);
        assert_eq!(verdicts_of(&[span(Verdict::Dead, u32::MAX), span(Verdict::Dead, u32::MAX)], 3), None);
        // A verdict that a later version may know is none that deletes.
        assert_eq!(verdicts_of(&[pb::VerdictSpan { verdict: 99, count: 1 }], 1), Some(vec![Verdict::Undecided]));
    }

    #[test]
    fn the_limit_is_a_share_but_never_less_than_some() {
        assert_eq!(old_allowed(0, 10), SWEEP_MASS_MIN);
        assert_eq!(old_allowed(10_000_000, 10), 1_000_000);
        assert_eq!(old_allowed(10_000_000, 0), SWEEP_MASS_MIN);
        assert_eq!(old_allowed(10, 100), u64::MAX);
    }
}
