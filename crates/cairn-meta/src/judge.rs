//! What is to become of blocks that lie on a store: metadata alone knows whether anything refers to them.
//!
//! A write that failed, or was given up before its commit, leaves blocks that no extent names. A store asks here before
//! it deletes any. The answer `dead` has to be *stable*, because the store acts on it later, when everything else may
//! have moved on. It is, for a block of a closed writer that nothing refers to:
//!
//! - Only a commit makes a first reference, and every commit reads the row of its writer. The row went in the transaction
//!   that closed the writer; a commit that ran beside it conflicts with it, and none begins later.
//! - Every other change of a map only cuts references or moves a file as a whole. A clone adds references, but only to
//!   blocks that have one or that a snapshot shows.
//! - A writer's number and a block's id are never used twice: a copy that arrives after the judgement, from a writer that
//!   was asleep or from a member that still has it, is the same dead block.
//!
//! What *was* referred to is the collector's business, which waits for a grace and for every member: such a block has a
//! garbage row from the transaction that dropped its last reference to the one that saw it gone everywhere, and is
//! `undecided` here meanwhile. While a snapshot or a backup's hold shows it, its row stands among the held garbage, and it
//! is `live`. All of it is read in one transaction: in
//! one snapshot a block that a file lost either still stands in the former map or has its garbage row already. The
//! transaction writes nothing, so it never conflicts and holds nobody up.

use crate::error::Op;
use crate::holder;
use crate::keys::{self, Key};
use crate::kv::{Durability, KeyRange, Order};
use crate::limits::{GROUPS_JUDGED_MAX, JUDGED_MAP_ROWS_MAX, SCAN_ROWS};
use crate::map::{Blocks, block_count};
use crate::members;
use crate::meta::{Meta, transact};
use crate::rows::{Content, Run};
use crate::shares;
use crate::tx::Tx;
use crate::writers;
use cairn_proto::limits::{BLOCKS_JUDGED_MAX, BLOCKS_PER_REQUEST_MAX};
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::pb::{self, Verdict, WriterState};
use cairn_proto::status::{Code, Status};
use std::collections::BTreeMap;
use std::ops::Range;

/// What metadata finds about a block, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Found {
    /// Nothing.
    #[default]
    Nothing,
    /// The collector has it, or will have: a garbage row, a map that is being dropped, or what could not be looked
    /// through.
    Leaving,
    /// An extent of the file as it is now, or of a clone, or one that a snapshot shows.
    Extent,
}

/// The decision.
fn verdict(found: Found, writer: WriterState) -> Verdict {
    match (found, writer) {
        (Found::Extent, _) => Verdict::Live,
        (Found::Leaving, _) | (Found::Nothing, WriterState::Open) => Verdict::Undecided,
        (Found::Nothing, WriterState::Closed) => Verdict::Dead,
        (Found::Nothing, WriterState::Unknown) => Verdict::Future,
    }
}

/// A run that was asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asked {
    pub(crate) pg: u32,
    pub(crate) inode: u64,
    pub(crate) writer: u64,
    pub(crate) seq: u32,
    /// First number behind the run.
    end: u32,
    /// Index of its first block among all that were asked about.
    at: usize,
}

impl Asked {
    /// Indexes of its blocks among all that were asked about.
    pub(crate) fn blocks(&self) -> Range<usize> {
        self.at..self.at + (self.end - self.seq) as usize
    }
}

/// The runs of a request, checked: in ascending order, without overlap, within bounds.
pub(crate) fn asked(runs: &[pb::GroupRun]) -> Result<(Vec<Asked>, usize), String> {
    if runs.len() > BLOCKS_PER_REQUEST_MAX {
        return Err(format!("{} runs; at most {BLOCKS_PER_REQUEST_MAX}", runs.len()));
    }
    let mut all: Vec<Asked> = Vec::with_capacity(runs.len());
    let mut blocks = 0;
    for run in runs {
        let (count, first) = run.run.as_ref().map_or((0, None), |run| (run.count, run.first));
        let first = first.filter(|_| count > 0).ok_or("a run without blocks")?;
        let end = first.seq.checked_add(count).ok_or("block numbers of a run overflow")?;
        let next = Asked { pg: run.pg, inode: first.inode, writer: first.writer, seq: first.seq, end, at: blocks };
        if let Some(last) = all.last()
            && (last.inode, last.writer, last.end) > (next.inode, next.writer, next.seq)
        {
            return Err("runs overlap or are not in ascending order".into());
        }
        blocks += count as usize;
        if blocks > BLOCKS_JUDGED_MAX {
            return Err(format!("more than {BLOCKS_JUDGED_MAX} blocks"));
        }
        all.push(next);
    }
    Ok((all, blocks))
}

/// Blocks of `asked`, which are of one inode, that `run` of `len` bytes refers to, as indexes.
fn referred(asked: &[Asked], run: &Run, len: u64) -> impl Iterator<Item = Range<usize>> {
    let (seq, end) = (run.seq, run.seq.saturating_add(block_count(run, len)));
    let (inode, writer) = (run.inode, run.writer);
    let first = asked.partition_point(|asked| (asked.inode, asked.writer, asked.end) <= (inode, writer, seq));
    asked[first..]
        .iter()
        .take_while(move |asked| (asked.inode, asked.writer) == (inode, writer) && asked.seq < end)
        .map(move |asked| {
            let (from, to) = (asked.seq.max(seq), asked.end.min(end));
            asked.at + (from - asked.seq) as usize..asked.at + (to - asked.seq) as usize
        })
}

/// Looks through the maps of one inode, former generations included.
async fn look_at_maps(tx: &mut Tx, asked: &[Asked], found: &mut [Found], budget: &mut usize) -> Op<()> {
    let Some(inode) = asked.first().map(|asked| asked.inode) else { return Ok(()) };
    let current = tx.get(&keys::Inode { inode }).await?.map(|row| row.generation);
    let mut range = keys::with_fields::<keys::Extent>(&[&inode.to_be_bytes()]);
    loop {
        let rows = tx.scan::<keys::Extent>(&range, SCAN_ROWS, Order::Forward).await?;
        for (key, row) in &rows {
            let Content::Blocks(run) = &row.content else { continue };
            let here = if Some(key.generation) == current { Found::Extent } else { Found::Leaving };
            for blocks in referred(asked, run, row.len) {
                // A block of the current map stays live, whatever else refers to it.
                found[blocks].iter_mut().filter(|found| **found != Found::Extent).for_each(|found| *found = here);
            }
        }
        *budget = budget.saturating_sub(rows.len());
        match rows.last() {
            Some((last, _)) if rows.len() == SCAN_ROWS && *budget > 0 => {
                range.start = KeyRange::successor(&last.encode());
                // A long map is walked in turns with what others ask.
                tokio::task::yield_now().await;
            }
            Some(_) if rows.len() == SCAN_ROWS => {
                set_aside(asked, found);
                return Ok(());
            }
            _ => return Ok(()),
        }
    }
}

/// The map is too long to be looked through here: what was not found in its first part may be in the rest.
fn set_aside(asked: &[Asked], found: &mut [Found]) {
    for asked in asked {
        let blocks = &mut found[asked.blocks()];
        blocks.iter_mut().filter(|found| **found == Found::Nothing).for_each(|found| *found = Found::Leaving);
    }
}

/// Notes blocks that clones refer to, that a snapshot shows, or that a garbage row names.
async fn look_at_garbage(tx: &mut Tx, asked: &Asked, found: &mut [Found]) -> Op<()> {
    let Asked { pg, inode, writer, seq, end, .. } = *asked;
    if !found.contains(&Found::Nothing) {
        return Ok(());
    }
    for shared in shares::named(tx, &Blocks { pg, inode, writer, seq, end, born: 0 }).await? {
        note(&mut found[(shared.start - seq) as usize..(shared.end - seq) as usize], Found::Extent);
    }
    let within = |key_seq: u32, count: u32| {
        let (from, to) = (key_seq.max(seq), key_seq.saturating_add(count).min(end));
        (from < to).then(|| (from - seq) as usize..(to - seq) as usize)
    };
    // No two rows of a table name one block, so there are no more of them inside than blocks.
    let blocks = (end - seq) as usize;
    let at = |seq| keys::HeldGarbage { pg, inode, writer, seq }.encode();
    let held = around::<keys::HeldGarbage>(tx, [at(0), at(seq), at(end)], blocks).await?;
    for blocks in held.iter().filter_map(|(key, row)| within(key.seq, row.count)) {
        // A snapshot shows them: they are to be copied like any other.
        note(&mut found[blocks], Found::Extent);
    }
    let at = |seq| keys::Garbage { pg, inode, writer, seq }.encode();
    let garbage = around::<keys::Garbage>(tx, [at(0), at(seq), at(end)], blocks).await?;
    for blocks in garbage.iter().filter_map(|(key, row)| within(key.seq, row.count)) {
        note(&mut found[blocks], Found::Leaving);
    }
    Ok(())
}

/// The last row in front of the middle key of three, and all from there to the last.
async fn around<K: Key>(tx: &mut Tx, [first, from, end]: [Vec<u8>; 3], max: usize) -> Op<Vec<(K, K::Row)>> {
    let mut rows = tx.scan::<K>(&KeyRange { start: first, end: from.clone() }, 1, Order::Reverse).await?;
    rows.extend(tx.scan::<K>(&KeyRange { start: from, end }, max, Order::Forward).await?);
    Ok(rows)
}

/// Notes `what` of blocks of which nothing is known yet.
fn note(found: &mut [Found], what: Found) {
    found.iter_mut().filter(|found| **found == Found::Nothing).for_each(|found| *found = what);
}

/// Runs of equal verdicts.
fn spans(verdicts: impl Iterator<Item = Verdict>) -> Vec<pb::VerdictSpan> {
    let mut spans: Vec<pb::VerdictSpan> = Vec::new();
    for verdict in verdicts {
        match spans.last_mut() {
            Some(last) if last.verdict() == verdict => last.count += 1,
            _ => spans.push(pb::VerdictSpan { verdict: verdict as i32, count: 1 }),
        }
    }
    spans
}

/// The verdict on each block, in the order of the request.
pub(crate) async fn judge(tx: &mut Tx, asked: &[Asked], blocks: usize) -> Op<Vec<Verdict>> {
    let mut found = vec![Found::Nothing; blocks];
    let mut budget = JUDGED_MAP_ROWS_MAX;
    for of_inode in asked.chunk_by(|one, next| one.inode == next.inode) {
        look_at_maps(tx, of_inode, &mut found, &mut budget).await?;
    }
    let mut states: BTreeMap<u64, WriterState> = BTreeMap::new();
    let mut verdicts = Vec::with_capacity(blocks);
    for run in asked {
        let found = &mut found[run.blocks()];
        look_at_garbage(tx, run, found).await?;
        let state = match states.get(&run.writer) {
            Some(state) => *state,
            None => *states.entry(run.writer).or_insert(writers::state_of(tx, run.writer).await?),
        };
        verdicts.extend(found.iter().map(|found| verdict(*found, state)));
    }
    Ok(verdicts)
}

/// Ranges that [`used`] takes at most.
pub(crate) const USED_MAX: usize = 4096;

/// Which parts of `all`, by index, a file as it is now or a clone refers to. What is in a map too long to be looked through
/// counts as not used.
pub(crate) async fn used(tx: &mut Tx, all: &[Blocks]) -> Op<Vec<(usize, Vec<Range<u32>>)>> {
    let mut order: Vec<usize> = (0..all.len().min(USED_MAX)).collect();
    order.sort_by_key(|index| (all[*index].inode, all[*index].writer, all[*index].seq));
    let mut budget = JUDGED_MAP_ROWS_MAX;
    let mut parts = Vec::new();
    for of_inode in order.chunk_by(|one, next| all[*one].inode == all[*next].inode) {
        let mut asked: Vec<Asked> = Vec::with_capacity(of_inode.len());
        let mut at = 0;
        for index in of_inode {
            let Blocks { pg, inode, writer, seq, end, .. } = all[*index];
            asked.push(Asked { pg, inode, writer, seq, end, at });
            at += (end - seq) as usize;
        }
        let mut found = vec![Found::Nothing; at];
        look_at_maps(tx, &asked, &mut found, &mut budget).await?;
        for (index, asked) in of_inode.iter().zip(&asked) {
            let found = &mut found[asked.blocks()];
            for shared in shares::named(tx, &all[*index]).await? {
                found[(shared.start - asked.seq) as usize..(shared.end - asked.seq) as usize].fill(Found::Extent);
            }
            let mut used: Vec<Range<u32>> = Vec::new();
            for seq in
                (asked.seq..asked.end).zip(&*found).filter(|(_, found)| **found == Found::Extent).map(|(seq, _)| seq)
            {
                match used.last_mut() {
                    Some(last) if last.end == seq => last.end += 1,
                    _ => used.push(seq..seq + 1),
                }
            }
            if !used.is_empty() {
                parts.push((*index, used));
            }
        }
    }
    Ok(parts)
}

impl Meta {
    pub(crate) async fn judge_writers(&self, ask: &pb::JudgeWriters) -> Result<Reply, Status> {
        if ask.writers.len() > BLOCKS_PER_REQUEST_MAX {
            return Err(Status::new(Code::Invalid, format!("at most {BLOCKS_PER_REQUEST_MAX} writers at a time")));
        }
        let (duty_epoch, states) = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let mut states = Vec::with_capacity(ask.writers.len());
            for writer in &ask.writers {
                states.push(writers::state_of(tx, *writer).await? as i32);
            }
            Ok((holder::duty_epoch(tx).await?, states))
        })?;
        Ok(Reply::JudgeWriters(pb::JudgeWritersReply { duty_epoch, states }))
    }

    pub(crate) async fn judge_blocks(&self, ask: &pb::JudgeBlocks) -> Result<Reply, Status> {
        let (asked, blocks) = asked(&ask.runs).map_err(|why| Status::new(Code::Invalid, why))?;
        self.know_store(ask.store).await?;
        // As long as what is here may be too old, nothing is dead for good.
        let (duty_epoch, stopped, verdicts) = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.looks_only();
            let verdicts = judge(tx, &asked, blocks).await?;
            Ok((holder::duty_epoch(tx).await?, self.is_rolled_back_in(tx).await?, verdicts))
        })?;
        let held = |verdict| if stopped && verdict == Verdict::Dead { Verdict::Undecided } else { verdict };
        let spans = spans(verdicts.into_iter().map(held));
        Ok(Reply::JudgeBlocks(pb::JudgeBlocksReply { duty_epoch, spans }))
    }
}

impl Meta {
    /// Whether copies of groups that a store has left are needed still. All of a group is read in one transaction, and a
    /// later change of its members raises its epoch, which the store's fence compares.
    pub(crate) async fn judge_groups(&self, ask: &pb::JudgeGroups) -> Result<Reply, Status> {
        if ask.pgs.len() > GROUPS_JUDGED_MAX {
            return Err(Status::new(Code::Invalid, format!("at most {GROUPS_JUDGED_MAX} groups at a time")));
        }
        self.know_store(ask.store).await?;
        let mut verdicts = Vec::with_capacity(ask.pgs.len());
        // The epoch goes with all of them: the first, and lowest, that any was given in.
        let mut duty_epoch = None;
        for pg in &ask.pgs {
            let (epoch, verdict) = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
                let epoch = holder::duty_epoch(tx).await?;
                // A group that this metadata does not know may be one that it has forgotten.
                let Some(row) = tx.get(&keys::Pg { pg: *pg }).await? else {
                    return Ok((epoch, pb::GroupVerdict { pg: *pg, pg_epoch: 0, purge: false }));
                };
                // Memberships of the past that was lost may have been others.
                let mut purge = members::purgeable(&row, ask.store) && !self.is_rolled_back_in(tx).await?;
                for member in &row.members {
                    let debts = [&member.store.to_be_bytes()[..], &pg.to_be_bytes()];
                    let debts = keys::with_fields::<keys::Degraded>(&debts);
                    purge = purge && tx.scan::<keys::Degraded>(&debts, 1, Order::Forward).await?.is_empty();
                }
                Ok((epoch, pb::GroupVerdict { pg: *pg, pg_epoch: row.epoch, purge }))
            })?;
            duty_epoch.get_or_insert(epoch);
            verdicts.push(verdict);
        }
        Ok(Reply::JudgeGroups(pb::JudgeGroupsReply { duty_epoch: duty_epoch.unwrap_or(0), verdicts }))
    }

    /// NOT_FOUND for a store that is not registered.
    async fn know_store(&self, store: u32) -> Result<(), Status> {
        if self.inner.cluster.lock().stores.contains_key(&store) {
            return Ok(());
        }
        let row = transact!(self, Durability::Relaxed, async |tx: &mut Tx| tx.get(&keys::Store { store }).await)?;
        match row {
            Some(_) => Ok(()),
            None => Err(Status::new(Code::NotFound, format!("store {store} is not known here"))),
        }
    }
}

#[cfg(test)]
mod tests;
