//! Writing: blocks to all replicas in parallel, a majority, then one commit.

use crate::caller::{Call, CallerRef};
use crate::client::Inner;
use crate::cluster::FailureLog;
use crate::error::{Cause, Error, FailureClass, QuorumError, Sent};
use crate::health::{self, Verdict};
use crate::late::{self, LateBoard};
use crate::node::{Leg, LegFailure, LegKind, Node};
use crate::policy::classify::{self, Action, OpKind};
use crate::policy::write_plan::{Step, WritePlan};
use crate::read::to_pb;
use crate::record::Record;
use crate::session::Writer;
use crate::stats::bump;
use crate::trace;
use bytes::Bytes;
use cairn_net::{Body, BodyPart, Route};
use cairn_proto::checksum;
use cairn_proto::limits::{CHUNK_LEN, COMMIT_PIECES_MAX, FRAME_BODY_MAX};
use cairn_proto::pb::{self, PutDurability, request, response};
use cairn_proto::placement::Group;
use cairn_proto::status::Code;
use cairn_proto::{BlockId, BlockSeq, InodeId, NodeId, PgId, Shard, StoreId};
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Groups tried for one block before a round counts as failed.
const GROUPS_PER_ROUND: usize = 3;
/// A straggler goes on for this long after its write was good enough.
const STRAGGLER_TIME_MAX: Duration = Duration::from_secs(30);
/// Commits tried with fresh blocks when groups change between write and commit.
const REWRITES_MAX: usize = 3;

/// What a write did.
#[derive(Clone, Debug)]
pub struct WriteReceipt {
    /// The content lives in the file's metadata row; no node was involved.
    pub inline: bool,
    /// Placement group of the (last) block; `None` when inline.
    pub pg: Option<PgId>,
    /// Nodes that hold every block of this write.
    pub acked: Vec<NodeId>,
    /// Nodes that were meant to hold it and had not answered, or failed; repair brings it to them.
    pub late: Vec<NodeId>,
    /// The file's version with this write.
    pub version: u64,
    /// The file's length with this write.
    pub size: u64,
    /// Where the content begins in the file: what was asked for, or where an append landed.
    pub offset: u64,
    /// From call to commit.
    pub elapsed: Duration,
}

/// A block on its way or stored, uncommitted.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
    pub(crate) seq: u32,
    pub(crate) pg: PgId,
    /// Epoch of the group's row when the block was sent.
    pub(crate) pg_epoch: u64,
    /// The policy's N: a majority of it must hold the block.
    pub(crate) replicas: usize,
    /// Its acks mean that it is on disk (or that the caller does not ask for that).
    pub(crate) settled: bool,
    pub(crate) acked: Vec<StoreId>,
    /// Intended replicas without an ack.
    pub(crate) late: Vec<StoreId>,
    /// Of unsynced blocks: what each store said of itself when it took the block.
    pub(crate) incarnations: BTreeMap<StoreId, u64>,
    /// Where acks go that come later.
    pub(crate) board: Option<Arc<LateBoard>>,
}

/// Where blocks of one stream go.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) inode: InodeId,
    pub(crate) writer: Arc<Writer>,
    pub(crate) block_len: u32,
    /// Copies of each block: groups of that many members take them.
    pub(crate) replicas: u32,
    /// On whose behalf it is written.
    pub(crate) caller: CallerRef,
}

impl Target {
    pub(crate) fn block(&self, seq: u32) -> BlockId {
        BlockId { inode: self.inode, writer: self.writer.id, seq: BlockSeq(seq) }
    }

    /// A number for one more block.
    pub(crate) fn reserve(&self, count: u32) -> Result<u32, Error> {
        self.writer.reserve(count).ok_or_else(|| {
            Error::invalid("write", "this stream made more blocks than a writer may; open the file again")
        })
    }
}

/// A block to be stored.
#[derive(Clone)]
pub(crate) struct Draft {
    /// Where it belongs in the file.
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
    /// Number for the first try.
    pub(crate) seq: u32,
}

/// Stores one block with a majority, in the group `hint` if it can take it, else in another one.
///
/// A block that failed in one group gets a fresh number for the next. While no group has a majority of nodes that
/// answer, the write waits for one to come back.
///
/// Boxed, so that it is compiled once and not again inside every caller.
pub(crate) fn put_block<'a>(
    inner: &'a Arc<Inner>,
    target: &'a Target,
    draft: Draft,
    hint: Option<PgId>,
    durability: PutDurability,
    deadline: Instant,
) -> BoxFuture<'a, Result<Stored, Error>> {
    Box::pin(put_somewhere(inner, target, draft, hint, durability, deadline))
}

async fn put_somewhere(
    inner: &Arc<Inner>,
    target: &Target,
    draft: Draft,
    hint: Option<PgId>,
    durability: PutDurability,
    deadline: Instant,
) -> Result<Stored, Error> {
    let begun = Instant::now();
    let Draft { offset, data, mut seq } = draft;
    let mut hint = hint;
    let mut avoid: Vec<PgId> = Vec::new();
    let mut last: Option<Error> = None;
    let mut rounds = 0;
    loop {
        if Instant::now() >= deadline {
            return Err(last.unwrap_or_else(|| Error::new("write", Cause::Deadline(begun.elapsed()))));
        }
        let known = |pg: PgId| inner.cluster.view().group(pg).cloned();
        let hinted = hint.take().and_then(known).filter(|group| has_majority(inner, group));
        let group = hinted
            .or_else(|| inner.cluster.pick_group(inner, (target.replicas, &avoid), data.len() as u64).and_then(known));
        // With others tried before, the best of the rest being out of reach only ends the round.
        let usable = |group: &Group| avoid.is_empty() || has_majority(inner, group);
        if let Some(group) = group.filter(|group| avoid.len() < GROUPS_PER_ROUND && usable(group)) {
            if !has_majority(inner, &group) {
                // The best of all groups is out of reach, so all are.
                let in_vain = || !has_majority(inner, &group);
                let verdict = health::park(inner, deadline, in_vain).await;
                if verdict != Verdict::Released {
                    return Err(unreachable_group(inner, target.block(seq), &group, last, begun));
                }
                continue;
            }
            let ask = Ask { block: target.block(seq), group: &group, offset, data: &data, durability };
            match put_to_group(inner, ask, begun, deadline).await {
                Ok(Acks { acked, late, incarnations, board }) => {
                    let settled = durability != PutDurability::Unsynced;
                    let (pg, pg_epoch, replicas) = (group.id, group.epoch.0, group.replicas);
                    let board = Some(board);
                    inner.retry_budget.deposit();
                    return Ok(Stored {
                        offset,
                        data,
                        seq,
                        pg,
                        pg_epoch,
                        replicas,
                        settled,
                        acked,
                        late,
                        incarnations,
                        board,
                    });
                }
                Err(error) => last = Some(error),
            }
            target.writer.spoil();
            avoid.push(group.id);
            seq = target.reserve(1)?;
        } else {
            rounds += 1;
            avoid.clear();
            let pause = inner.config.retry.pause_after(rounds, inner.unit());
            let Some(pause) = pause.filter(|pause| Instant::now() + *pause < deadline) else {
                return Err(last.unwrap_or_else(|| no_group(inner, target.replicas, data.len())));
            };
            inner.recorder.add(|| Record::Pause { at: inner.now(), rounds, pause });
            tokio::time::sleep(pause).await;
            // The pause is free, sending again is not. A write that will wait for nodes sends nothing.
            let best = inner.cluster.pick_group(inner, (target.replicas, &[]), data.len() as u64);
            let sends = best.is_some_and(|pg| inner.cluster.view().group(pg).is_some_and(|g| has_majority(inner, g)));
            if sends && !inner.retry_budget.try_take() {
                return Err(last.unwrap_or_else(|| no_group(inner, target.replicas, data.len())));
            }
            if let Err(error) = inner.cluster.refresh(inner, deadline).await {
                tracing::debug!("could not read the cluster map: {error}");
            }
        }
    }
}

/// True while enough members of the group answer for a majority.
fn has_majority(inner: &Inner, group: &Group) -> bool {
    let view = inner.cluster.view();
    let targets = group.write_targets();
    let answers = |store: &&StoreId| view.node_of(**store).is_some_and(|node| node.is_closed());
    targets.iter().filter(answers).count() >= cairn_proto::quorum::needed(group.replicas)
}

/// The write waited in vain for a majority of the group: what is known of every member.
fn unreachable_group(inner: &Inner, block: BlockId, group: &Group, last: Option<Error>, begun: Instant) -> Error {
    let view = inner.cluster.view();
    let mut log = FailureLog::since(begun);
    if let Some(Cause::Quorum(error)) = last.as_ref().map(Error::cause) {
        for failure in &error.failed {
            log.keep(failure.clone());
        }
    }
    for store in group.write_targets() {
        if let Some(node) = view.node_of(store).filter(|node| !log.knows(node)) {
            log.add(node.skipped("put", begun.elapsed()));
        }
    }
    Error::new(
        "write",
        Cause::Quorum(QuorumError {
            block,
            pg: group.id,
            needed: cairn_proto::quorum::needed(group.replicas),
            acked: Vec::new(),
            pending: Vec::new(),
            elapsed: begun.elapsed(),
            failed: log.into_list(),
        }),
    )
}

fn no_group(inner: &Inner, replicas: u32, len: usize) -> Error {
    let view = inner.cluster.view();
    let count = view.pgs.iter().filter(|group| group.replicas == replicas).count();
    let message = if count == 0 {
        format!(
            "no placement group exists yet: {replicas} replicas need as many storage nodes, {} are registered",
            view.infos.len()
        )
    } else {
        format!(
            "none of {count} placement groups of {replicas} replicas can take {len} bytes: free space or add storage nodes"
        )
    };
    Error::new("write", Cause::NoGroup(message))
}

type Answer = (StoreId, Result<u64, LegFailure>);

/// A block for a group.
struct Ask<'a> {
    block: BlockId,
    group: &'a Group,
    offset: u64,
    data: &'a Bytes,
    durability: PutDurability,
}

/// Who holds a block.
struct Acks {
    acked: Vec<StoreId>,
    late: Vec<StoreId>,
    incarnations: BTreeMap<StoreId, u64>,
    board: Arc<LateBoard>,
}

/// Sends one block to all members of a group; returns when a majority (and whoever joins within the grace) has it.
/// Requests to the others go on by themselves, within bounds.
async fn put_to_group(inner: &Arc<Inner>, ask: Ask<'_>, op_begun: Instant, deadline: Instant) -> Result<Acks, Error> {
    let Ask { block, group, offset, data, durability } = ask;
    let begun = Instant::now();
    let crcs = checksum::chunk_crcs(block, Shard(0), data);
    inner.recorder.add_checksum(begun.elapsed());
    let body = body_of(block, data, &crcs);
    let crcs = Bytes::from(checksum::pack(&crcs));
    let view = inner.cluster.view();
    let targets = group.write_targets();
    let mut plan = WritePlan::new(group.replicas, &targets);
    let mut log = FailureLog::since(op_begun);
    let (sender, mut answers) = mpsc::channel::<Answer>(targets.len().max(1));
    let board = Arc::new(LateBoard::default());
    // Legs that nobody waits for live as long as they have a place among the stragglers.
    let decided = CancellationToken::new();
    let kept = Arc::new(AtomicBool::new(false));
    // Also when the caller goes away: without a decision no leg goes on.
    let _end = decided.clone().drop_guard();
    for store in &targets {
        let Some(node) = view.node_of(*store) else {
            plan.on_failure(*store);
            continue;
        };
        if !node.is_closed() {
            log.add(node.skipped("put", begun.elapsed()));
            plan.on_failure(*store);
            continue;
        }
        let put = pb::PutBlock {
            block: Some(to_pb(block)),
            shard: 0,
            pg: group.id.0,
            pg_epoch: group.epoch.0,
            crcs: crcs.clone(),
            durability: durability as i32,
            file_offset_hint: offset,
            store: store.0,
        };
        let straggler = Straggler {
            inner: inner.clone(),
            node: node.clone(),
            store: *store,
            board: (durability == PutDurability::Durable).then(|| board.clone()),
            decided: decided.clone(),
            kept: kept.clone(),
            bytes: data.len() as u64,
        };
        inner.tasks.spawn(trace::carry(straggler.run(put, body.clone(), sender.clone(), deadline)));
    }
    drop(sender);
    let mut incarnations = BTreeMap::new();
    let away = |store: StoreId| view.node_of(store).is_none_or(|node| !node.is_closed());
    let result = loop {
        let until = match plan.step(begun.elapsed(), away) {
            Step::Commit => break Ok(()),
            Step::GiveUp => break Err(()),
            Step::Wait(until) => until,
        };
        let wake = until.map_or(deadline, |until| begun + until).min(deadline);
        tokio::select! {
            biased;
            answer = answers.recv() => match answer {
                Some((store, Ok(incarnation))) => {
                    incarnations.insert(store, incarnation);
                    plan.on_ack(store, begun.elapsed());
                }
                Some((store, Err(failure))) => {
                    let stale = failure.status.as_ref().is_some_and(|status| status.code == Code::StaleEpoch);
                    if stale {
                        refresh_soon(inner);
                    }
                    log.add(failure.record);
                    plan.on_failure(store);
                }
                None => break Err(()),
            },
            () = tokio::time::sleep_until(wake) => {
                if Instant::now() >= deadline {
                    break Err(());
                }
            }
        }
    };
    // An ack may have come in the same moment.
    answers.close();
    while let Ok((store, Ok(incarnation))) = answers.try_recv() {
        incarnations.insert(store, incarnation);
        plan.on_ack(store, begun.elapsed());
    }
    kept.store(result.is_ok(), Ordering::Release);
    decided.cancel();
    let acked = plan.tally().acked().to_vec();
    let late: Vec<StoreId> = targets.into_iter().filter(|store| !acked.contains(store)).collect();
    note_write(inner, block, group.id, (&acked, &late), result.is_ok());
    if result.is_err() {
        return Err(quorum_error(inner, block, group, &plan, log));
    }
    inner.counters.stragglers.fetch_add(plan.tally().pending().len() as u64, Ordering::Relaxed);
    Ok(Acks { acked, late, incarnations, board })
}

fn note_write(inner: &Inner, block: BlockId, pg: PgId, (acked, late): (&[StoreId], &[StoreId]), quorum: bool) {
    bump(match (quorum, late.is_empty()) {
        (true, true) => &inner.counters.writes_all,
        (true, false) => &inner.counters.writes_quorum,
        (false, _) => &inner.counters.writes_failed,
    });
    inner.recorder.add(|| {
        let view = inner.cluster.view();
        let nodes = |stores: &[StoreId]| stores.iter().filter_map(|s| view.node_of(*s).map(|node| node.id)).collect();
        Record::Write { at: inner.now(), block, pg, acked: nodes(acked), late: nodes(late), quorum }
    });
}

/// One block on its way to one store.
struct Straggler {
    inner: Arc<Inner>,
    node: Arc<Node>,
    store: StoreId,
    /// Told of an ack that comes after the decision; `None` when an ack does not mean that the block is on disk.
    board: Option<Arc<LateBoard>>,
    decided: CancellationToken,
    /// The block will be committed, if it is decided.
    kept: Arc<AtomicBool>,
    bytes: u64,
}

impl Straggler {
    /// Until the decision the answer goes to whoever waits; then the leg goes on in a bounded place of its own, or ends.
    async fn run(self, put: pb::PutBlock, body: Body, sender: mpsc::Sender<Answer>, deadline: Instant) {
        let Self { inner, node, store, board, decided, kept, bytes } = self;
        let leg = put_leg(&inner, &node, put, body, deadline);
        tokio::pin!(leg);
        let result = tokio::select! {
            biased;
            result = &mut leg => result,
            () = decided.cancelled() => {
                if !kept.load(Ordering::Acquire) {
                    return;
                }
                let Some(_place) = node.straggle(&inner, bytes) else { return };
                match tokio::time::timeout(STRAGGLER_TIME_MAX, leg).await {
                    Ok(result) => result,
                    Err(_) => {
                        bump(&inner.counters.stragglers_dropped);
                        return;
                    }
                }
            }
        };
        let acked = result.is_ok();
        let unheard = sender.send((store, result)).await.is_err();
        if let Some(board) = board.filter(|_| unheard && acked) {
            board.ack(&inner, store);
        }
    }
}

fn quorum_error(inner: &Inner, block: BlockId, group: &Group, plan: &WritePlan, log: FailureLog) -> Error {
    let view = inner.cluster.view();
    let nodes = |stores: &[StoreId]| stores.iter().filter_map(|s| view.node_of(*s).map(|node| node.id)).collect();
    Error::new(
        "write",
        Cause::Quorum(QuorumError {
            block,
            pg: group.id,
            needed: plan.tally().needed(),
            acked: nodes(plan.tally().acked()),
            pending: nodes(plan.tally().pending()),
            elapsed: log.elapsed(),
            failed: log.into_list(),
        }),
    )
}

fn refresh_soon(inner: &Arc<Inner>) {
    let inner = inner.clone();
    inner.tasks.clone().spawn(async move {
        if let Err(error) = inner.cluster.refresh(&inner, inner.deadline(inner.config.meta_timeout)).await {
            tracing::debug!("could not read the cluster map: {error}");
        }
    });
}

/// The frames of a block; their checksums are combined from the chunks', so the bytes are hashed once.
pub(crate) fn body_of(block: BlockId, data: &Bytes, crcs: &[u32]) -> Body {
    let per_frame = (FRAME_BODY_MAX / CHUNK_LEN) as usize;
    let parts = crcs.chunks(per_frame).enumerate().map(|(frame, crcs)| {
        let at = frame * FRAME_BODY_MAX as usize;
        let data = data.slice(at..data.len().min(at + FRAME_BODY_MAX as usize));
        let first_chunk = (frame * per_frame) as u32;
        let crc = checksum::body_crc(block, Shard(0), first_chunk, crcs, data.len() as u64);
        BodyPart::Bytes { data, crc }
    });
    Body::from_parts(parts.collect())
}

/// One block to one store. What the table of failures lets be sent again is sent again, once: the block's id makes a
/// second arrival harmless.
pub(crate) async fn put_leg(
    inner: &Arc<Inner>,
    node: &Arc<Node>,
    mut put: pb::PutBlock,
    body: Body,
    deadline: Instant,
) -> Result<u64, LegFailure> {
    let mut attempt = 0;
    // What failed on one connection is not tried on the same again.
    let mut avoid = None;
    loop {
        let leg = Leg {
            request: pb::Request { kind: Some(request::Kind::Put(put.clone())), ..Default::default() },
            body: body.clone(),
            kind: if attempt == 0 { LegKind::First } else { LegKind::Retry },
            attempt,
            route: Route { avoid, ..Route::default() },
            ..Leg::plain(request::Kind::Put(pb::PutBlock::default()), deadline)
        };
        let failure = match node.call(inner, leg).await {
            Ok(reply) => {
                return match reply.response.kind {
                    Some(response::Kind::Put(reply)) => Ok(reply.incarnation),
                    _ => Err(LegFailure {
                        record: node.failure(
                            "put",
                            FailureClass::Protocol,
                            Sent::Responded,
                            Duration::ZERO,
                            "the answer to PUT is of another kind".into(),
                        ),
                        status: None,
                        connection: None,
                    }),
                };
            }
            Err(failure) => failure,
        };
        avoid = failure.connection;
        let event = classify::event_of(failure.record.class, failure.status.as_ref());
        match classify::rule(OpKind::Put, &event).action {
            // It is there and asks for patience, so this is no failure yet.
            Action::Pause(pause) => {
                let pause = pause.mul_f64(0.8 + 0.4 * inner.unit());
                if Instant::now() + pause >= deadline {
                    return Err(failure);
                }
                tokio::time::sleep(pause).await;
            }
            Action::Resend if attempt == 0 && node.is_closed() && inner.retry_budget.try_take() => attempt += 1,
            Action::Refresh if attempt == 0 => {
                if !follow_group(inner, &mut put, deadline).await {
                    return Err(failure);
                }
                attempt += 1;
            }
            Action::Done => return Ok(0),
            Action::Resend
            | Action::Refresh
            | Action::Next
            | Action::NextAndReport
            | Action::Join
            | Action::Straggle
            | Action::Leave
            | Action::Rewrite
            | Action::Resolve
            | Action::ResolveInBackground
            | Action::Final => return Err(failure),
        }
    }
}

/// Reads the map anew; true when the block's store is still a member of its group, at another epoch.
async fn follow_group(inner: &Arc<Inner>, put: &mut pb::PutBlock, deadline: Instant) -> bool {
    if let Err(error) = inner.cluster.refresh(inner, deadline).await {
        tracing::debug!("could not read the cluster map: {error}");
        return false;
    }
    let view = inner.cluster.view();
    let Some(group) = view.group(PgId(put.pg)) else { return false };
    let moved = group.epoch.0 != put.pg_epoch && group.write_targets().contains(&StoreId(put.store));
    put.pg_epoch = group.epoch.0;
    moved
}

/// Blocks in order of offset as runs: neighbours with consecutive numbers, one group and the same acks become one piece.
pub(crate) fn pieces(blocks: &[Stored], block_len: u32) -> Vec<pb::Piece> {
    let mut out: Vec<pb::Piece> = Vec::new();
    for block in blocks {
        let mut acked: Vec<u32> = block.acked.iter().map(|store| store.0).collect();
        acked.sort_unstable();
        if let Some(piece) = out.last_mut() {
            let count = piece.len / u64::from(block_len);
            let continues = piece.len.is_multiple_of(u64::from(block_len))
                && piece.offset + piece.len == block.offset
                && u64::from(piece.first_seq) + count == u64::from(block.seq)
                && piece.pg == block.pg.0
                && piece.pg_epoch == block.pg_epoch
                && piece.acked == acked;
            if continues {
                piece.len += block.data.len() as u64;
                continue;
            }
        }
        out.push(pb::Piece {
            offset: block.offset,
            len: block.data.len() as u64,
            first_seq: block.seq,
            block_len,
            pg: block.pg.0,
            acked,
            pg_epoch: block.pg_epoch,
        });
    }
    out
}

/// Gives neighbours the same acks where a majority holds both, so that they become one piece: a commit has at most
/// [`COMMIT_PIECES_MAX`] of them. A replica that loses an ack by that gets a degraded row it does not need.
fn even_out(blocks: &mut [Stored]) {
    let mut groups: BTreeMap<PgId, Vec<StoreId>> = BTreeMap::new();
    for block in blocks.iter() {
        let common = groups.entry(block.pg).or_insert_with(|| block.acked.clone());
        common.retain(|store| block.acked.contains(store));
    }
    for block in blocks {
        let common = &groups[&block.pg];
        if common.len() >= cairn_proto::quorum::needed(block.replicas) {
            block.acked.clone_from(common);
        }
    }
}

/// Runs the transaction that `make` builds from the blocks' pieces. When a group changed so much that metadata does not
/// see a majority any more, the blocks are written anew, elsewhere.
pub(crate) async fn commit_blocks(
    inner: &Arc<Inner>,
    target: &Target,
    mut blocks: Vec<Stored>,
    relaxed: bool,
    deadline: Instant,
    make: impl Fn(Vec<pb::Piece>) -> request::Kind,
) -> Result<(response::Kind, Vec<Stored>), Error> {
    let durability = if relaxed { PutDurability::Relaxed } else { PutDurability::Durable };
    let mut rewrites = 0;
    loop {
        late::join_commit(inner, &mut blocks);
        let mut runs = pieces(&blocks, target.block_len);
        if runs.len() > COMMIT_PIECES_MAX {
            even_out(&mut blocks);
            runs = pieces(&blocks, target.block_len);
        }
        let call = Call { kind: make(runs.clone()), caller: target.caller.clone() };
        let error = match inner.sessions.mutate(inner, call, relaxed, deadline).await {
            Ok(reply) => {
                late::commit_done(inner, &blocks, &runs, |seq| target.block(seq));
                return Ok((reply, blocks));
            }
            Err(error) => error,
        };
        if error.code() != Some(Code::NoQuorum) || rewrites == REWRITES_MAX {
            return Err(error);
        }
        rewrites += 1;
        inner.cluster.refresh(inner, deadline).await?;
        for block in &mut blocks {
            let seq = target.reserve(1)?;
            let draft = Draft { offset: block.offset, data: block.data.clone(), seq };
            *block = put_block(inner, target, draft, None, durability, deadline).await?;
        }
    }
}

/// What the caller is told about committed blocks.
pub(crate) fn receipt(inner: &Inner, blocks: &[Stored], reply: &pb::CommitReply, begun: Instant) -> WriteReceipt {
    let view = inner.cluster.view();
    let node = |store: &StoreId| view.node_of(*store).map(|node| node.id);
    let everywhere = |store: &&StoreId| blocks.iter().all(|block| block.acked.contains(store));
    let mut late: Vec<NodeId> = blocks.iter().flat_map(|block| &block.late).filter_map(node).collect();
    late.sort_unstable();
    late.dedup();
    WriteReceipt {
        inline: blocks.is_empty(),
        pg: blocks.last().map(|block| block.pg),
        acked: blocks.first().map_or_else(Vec::new, |b| b.acked.iter().filter(everywhere).filter_map(node).collect()),
        late,
        version: reply.version,
        size: reply.size,
        offset: reply.offset,
        elapsed: begun.elapsed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(offset: u64, len: usize, seq: u32, pg: u32, acked: &[u32]) -> Stored {
        Stored {
            offset,
            data: vec![1; len].into(),
            seq,
            pg: PgId(pg),
            pg_epoch: 1,
            replicas: 3,
            settled: true,
            acked: acked.iter().map(|s| StoreId(*s)).collect(),
            late: Vec::new(),
            incarnations: BTreeMap::new(),
            board: None,
        }
    }

    #[test]
    fn neighbours_become_one_piece() {
        let blocks = [block(0, 100, 5, 1, &[1, 2]), block(100, 100, 6, 1, &[2, 1]), block(200, 40, 7, 1, &[1, 2])];
        let pieces = pieces(&blocks, 100);
        assert_eq!(pieces.len(), 1);
        assert_eq!((pieces[0].len, pieces[0].first_seq), (240, 5));
    }

    #[test]
    fn whatever_differs_begins_a_new_piece() {
        let first = block(0, 100, 5, 1, &[1, 2]);
        for second in [
            block(100, 100, 7, 1, &[1, 2]),
            block(100, 100, 6, 2, &[1, 2]),
            block(100, 100, 6, 1, &[1, 2, 3]),
            block(200, 100, 6, 1, &[1, 2]),
        ] {
            assert_eq!(pieces(&[first.clone(), second], 100).len(), 2);
        }
        assert_eq!(
            pieces(&[block(0, 50, 5, 1, &[1]), block(50, 50, 6, 1, &[1])], 100).len(),
            2,
            "a short block ends a run"
        );
    }

    #[test]
    fn evened_out_neighbours_are_one_piece() {
        let mut blocks =
            vec![block(0, 100, 1, 1, &[1, 2, 3]), block(100, 100, 2, 1, &[2, 3]), block(200, 9, 3, 1, &[3, 2])];
        even_out(&mut blocks);
        assert_eq!(pieces(&blocks, 100).len(), 1);
        let mut blocks = vec![block(0, 100, 1, 1, &[1, 2]), block(100, 100, 2, 1, &[2, 3])];
        even_out(&mut blocks);
        assert_eq!(pieces(&blocks, 100).len(), 2, "no majority holds both");
    }

    #[test]
    fn frame_checksums_are_those_of_the_bytes() {
        let data = Bytes::from(vec![7; FRAME_BODY_MAX as usize * 2 + 77]);
        let id = BlockId::new(1, 2, 3);
        let body = body_of(id, &data, &checksum::chunk_crcs(id, Shard(0), &data));
        assert_eq!(body.len(), data.len() as u64);
        for part in body.parts() {
            let BodyPart::Bytes { data, crc } = part else { panic!("bytes only") };
            assert_eq!(*crc, checksum::crc32c(data));
        }
    }
}
