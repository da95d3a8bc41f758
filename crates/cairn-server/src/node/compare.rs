//! Comparison of members: each store holds its groups against those of another full member, in turn, and metadata says what
//! every difference means.
//!
//! Only blocks of closed writers are compared, so that a write under way is no difference: the digests leave out writers
//! that may still write, and whoever turns up in a difference is asked about again before anything is made of it. The
//! verdict decides: `live` and not here = fetched, and noted in the ledger; `live` and not there = metadata is told, which
//! calls the other member; `dead` or `future` here = the sweep looks at its writer, by its own rules and limits;
//! `undecided` = another time.

use super::copy::digest_of;
use super::duty::wait;
use super::heal::MISSING;
use super::ledger::Finder;
use super::progress::Duty;
use super::slot::StoreSlot;
use super::state::Node;
use super::sweep::{runs_of, verdicts_of};
use crate::entropy;
use crate::limits::{COMPARE_BLOCKS_MAX, COMPARE_LOOK, DIGEST_PARTS_MAX, JUDGE_TIMEOUT};
use crate::links::CallError;
use crate::view::{ClusterView, Source};
use crate::wire::{block_id, block_to_pb, runs_blocks};
use bytes::Bytes;
use cairn_proto::limits::{BLOCKS_JUDGED_MAX, BLOCKS_PER_REQUEST_MAX};
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, NodeState, Verdict, WriterState, response};
use cairn_proto::placement::MemberState;
use cairn_proto::{BlockId, Incarnation, NodeId, PgId, StoreId, WriterId};
use cairn_store::{BlockKey, ComparedWriters};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Where a block is that the other side lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Here,
    There,
}

/// What is made of a difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    /// Nothing: it may resolve itself, and is looked at again the next time.
    Wait,
    /// We lack it: it is fetched.
    Fetch,
    /// The other member lacks it: metadata is told.
    Report,
    /// It may have to go: the sweep judges it by its own rules.
    Sweep,
}

/// The decision. Nothing that an open writer wrote is a difference, whatever a judgement of the moment says.
fn action(side: Side, writer: WriterState, verdict: Verdict) -> Action {
    match (side, writer, verdict) {
        (Side::Here, WriterState::Unknown, _) => Action::Sweep,
        (_, WriterState::Open | WriterState::Unknown, _) | (_, _, Verdict::Undecided) => Action::Wait,
        (Side::There, WriterState::Closed, Verdict::Live) => Action::Fetch,
        (Side::Here, WriterState::Closed, Verdict::Live) => Action::Report,
        (Side::Here, WriterState::Closed, Verdict::Dead | Verdict::Future) => Action::Sweep,
        // The other member's own sweep sees to it.
        (Side::There, WriterState::Closed, Verdict::Dead | Verdict::Future) => Action::Wait,
    }
}

/// The next comparison of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Next {
    due: Instant,
    /// Counts comparisons of this group, so that its other members take turns.
    turn: usize,
}

/// When which group is compared next.
#[derive(Default)]
struct Schedule {
    next: BTreeMap<(StoreId, PgId), Next>,
    up: HashSet<NodeId>,
    openings: BTreeMap<StoreId, Incarnation>,
    begun: bool,
}

impl Schedule {
    /// Takes a map in. At first the groups are spread over the period; later a group that one of our stores is newly full in
    /// is due at once, and so are those with a member that has come back, or of a store that was opened again.
    fn see(
        &mut self,
        view: &ClusterView,
        stores: &[(StoreId, Incarnation)],
        now: Instant,
        mut spread: impl FnMut() -> Duration,
    ) {
        let up = view.nodes_up();
        let back: HashSet<NodeId> =
            if self.begun { up.difference(&self.up).copied().collect() } else { HashSet::new() };
        let mut all = BTreeMap::new();
        for (store, opening) in stores {
            let reopened = self.openings.insert(*store, *opening).is_some_and(|known| known != *opening);
            for pg in view.complete_memberships(*store) {
                let returned = view.sources(pg, *store).iter().any(|source| back.contains(&source.peer.node));
                let next = match self.next.get(&(*store, pg)) {
                    Some(next) if !returned && !reopened => *next,
                    Some(next) => Next { due: now, ..*next },
                    None if !self.begun => Next { due: now + spread(), turn: 0 },
                    None => Next { due: now, turn: 0 },
                };
                all.insert((*store, pg), next);
            }
        }
        (self.next, self.up, self.begun) = (all, up, true);
    }

    /// A group that is due, and whose turn it is.
    fn due(&self, now: Instant) -> Option<(StoreId, PgId, usize)> {
        let (key, next) = self.next.iter().find(|(_, next)| next.due <= now)?;
        Some((key.0, key.1, next.turn))
    }

    /// It was compared, and is again at that time.
    fn done(&mut self, store: StoreId, pg: PgId, due: Instant) {
        if let Some(next) = self.next.get_mut(&(store, pg)) {
            *next = Next { due, turn: next.turn + 1 };
        }
    }
}

/// Runs until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut rng = entropy::rng();
    let mut schedule = Schedule::default();
    while wait(&stop, &node.wakes.compare, Some(COMPARE_LOOK)).await {
        let view = node.view.load_full();
        // What degraded rows name is known to be missing, and copied already.
        if view.version == 0 || !node.caught_up_once.load(Ordering::Relaxed) || node.progress.left(Duty::CatchUp) > 0 {
            continue;
        }
        let open = node.stores.iter().filter_map(|slot| Some((slot.id()?, slot.incarnation()?)));
        let period = node.compare_every;
        schedule.see(&view, &open.collect::<Vec<_>>(), cairn_net::now(), || period.mul_f64(rng.f64()));
        while let Some((store, pg, turn)) = schedule.due(cairn_net::now()) {
            let compared = stop.run_until_cancelled(compare(&node, store, pg, turn));
            let pause = match compared.await {
                None => return,
                Some(Ok(())) => period,
                Some(Err(reason)) => {
                    tracing::debug!(%store, %pg, reason, "group not compared");
                    period.min(JUDGE_TIMEOUT)
                }
            };
            schedule.done(store, pg, cairn_net::now() + pause.mul_f64(0.8 + 0.4 * rng.f64()));
        }
    }
}

async fn compare(node: &Node, store: StoreId, pg: PgId, turn: usize) -> Result<(), String> {
    let Some(slot) = node.own(store) else { return Ok(()) };
    let view = node.view.load_full();
    let others: Vec<Source> = view
        .sources(pg, store)
        .into_iter()
        .filter(|source| source.state == MemberState::Full && source.peer.state == NodeState::Up)
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    let other = &others[turn % others.len()];
    let writers = compared_writers(node, slot).await?;
    let (theirs, ours) = differences(node, slot, pg, other, &writers).await?;
    node.progress.compared_groups.fetch_add(1, Ordering::Relaxed);
    if theirs.is_empty() && ours.is_empty() {
        return Ok(());
    }
    if !theirs.is_empty() && has_rows(node, store).await? {
        node.wakes.catch_up.notify_one();
        return Err("what degraded rows name is copied first".to_owned());
    }
    let fetch = act(node, slot, pg, Side::There, theirs).await?;
    let report = act(node, slot, pg, Side::Here, ours).await?;
    report_lacking(node, other.store, pg, &report).await;
    report_lacking(node, store, pg, &fetch).await;
    if !fetch.is_empty() || !report.is_empty() {
        let (lacking, lacking_there) = (fetch.len(), report.len());
        tracing::warn!(%store, %pg, other = %other.store, lacking, lacking_there, "members differ");
    }
    for block in fetch {
        node.note_missing(store, BlockKey::replica(block), pg, Finder::Compare);
        node.ledger.found(store, block, pg, MISSING, Finder::Compare);
    }
    Ok(())
}

/// Writers whose blocks are compared: all but those that may still write. Only writers that stored something since they
/// were last judged may be open.
async fn compared_writers(node: &Node, slot: &StoreSlot) -> Result<ComparedWriters, String> {
    let states = judge_writers(node, slot.sweep.unsettled()).await.map_err(|error| error.to_string())?;
    let mut open: Vec<WriterId> =
        states.into_iter().filter(|(_, state)| *state != WriterState::Closed).map(|(writer, _)| writer).collect();
    open.sort();
    let below = open.get(BLOCKS_PER_REQUEST_MAX).copied().unwrap_or(WriterId(u64::MAX));
    open.truncate(BLOCKS_PER_REQUEST_MAX);
    Ok(ComparedWriters { below, open: open.into_iter().collect() })
}

async fn judge_writers(node: &Node, writers: Vec<WriterId>) -> Result<BTreeMap<WriterId, WriterState>, CallError> {
    let mut states = BTreeMap::new();
    for some in writers.chunks(BLOCKS_PER_REQUEST_MAX) {
        let ask = pb::JudgeWriters { writers: some.iter().map(|writer| writer.0).collect() };
        match node.meta.call(Kind::JudgeWriters(ask)).await? {
            response::Kind::JudgeWriters(reply) if reply.states.len() == some.len() => {
                states.extend(some.iter().copied().zip(reply.states()));
            }
            _ => return Err(CallError::Confused { addr: "metadata".to_owned() }),
        }
    }
    Ok(states)
}

/// Blocks that only the other member lists, and those that only we do.
async fn differences(
    node: &Node,
    slot: &StoreSlot,
    pg: PgId,
    other: &Source,
    writers: &ComparedWriters,
) -> Result<(Vec<BlockId>, Vec<BlockId>), String> {
    let asked = writers.clone();
    let ours = slot.ask(move |store| store.digest(pg, &asked, DIGEST_PARTS_MAX)).await;
    let ours = ours.map_err(|closed| closed.to_string())?;
    let theirs = node.digests(other, pg, writers, DIGEST_PARTS_MAX).await?;
    let (mut only_theirs, mut only_ours) = (Vec::new(), Vec::new());
    for part in (0..DIGEST_PARTS_MAX).filter(|part| ours[*part as usize] != theirs[*part as usize]) {
        if only_theirs.len() + only_ours.len() > COMPARE_BLOCKS_MAX {
            break;
        }
        let theirs = part_there(node, pg, other, writers, part).await?;
        let ours = part_here(slot, pg, writers, part).await?;
        only_theirs.extend(theirs.difference(&ours));
        only_ours.extend(ours.difference(&theirs));
    }
    only_theirs.sort();
    only_ours.sort();
    Ok((only_theirs, only_ours))
}

async fn part_there(
    node: &Node,
    pg: PgId,
    other: &Source,
    writers: &ComparedWriters,
    part: u32,
) -> Result<BTreeSet<BlockId>, String> {
    let (mut found, mut after) = (BTreeSet::new(), None);
    while found.len() <= COMPARE_BLOCKS_MAX {
        let ask = pb::InventoryDigest {
            part: Some(part),
            after: after.map(block_to_pb),
            ..digest_of(other, pg, writers, DIGEST_PARTS_MAX)
        };
        let reply = node.ask_digest(other, ask).await?;
        found.extend(runs_blocks(&reply.runs).map_err(|status| status.to_string())?);
        let Some(next) = &reply.next_after else { return Ok(found) };
        let next = block_id(Some(next)).map_err(|status| status.to_string())?;
        if after.is_some_and(|after| next <= after) {
            return Err(format!("{} lists {next} out of order", other.peer.addr));
        }
        after = Some(next);
    }
    Err("too many blocks in one part".to_owned())
}

async fn part_here(
    slot: &StoreSlot,
    pg: PgId,
    writers: &ComparedWriters,
    part: u32,
) -> Result<BTreeSet<BlockId>, String> {
    let (mut found, mut after) = (BTreeSet::new(), None);
    loop {
        let asked = writers.clone();
        let page = slot
            .ask(move |store| store.list_part(pg, &asked, (part, DIGEST_PARTS_MAX), after, BLOCKS_PER_REQUEST_MAX))
            .await
            .map_err(|closed| closed.to_string())?;
        let full = page.len() == BLOCKS_PER_REQUEST_MAX;
        after = page.last().copied().map(BlockKey::replica);
        found.extend(page);
        if !full {
            return Ok(found);
        }
    }
}

/// True when metadata knows of runs that the store lacks.
async fn has_rows(node: &Node, store: StoreId) -> Result<bool, String> {
    let ask = pb::ListDegraded { store: store.0, cursor: Bytes::new(), limit: 1 };
    match node.meta.call(Kind::ListDegraded(ask)).await {
        Ok(response::Kind::ListDegraded(page)) => Ok(page.rows.iter().any(|row| row.store == store.0)),
        Ok(_) => Err("metadata answered another question than was asked".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Has differing blocks judged, gives the sweep what is its business, and returns those to be fetched or reported.
async fn act(
    node: &Node,
    slot: &StoreSlot,
    pg: PgId,
    side: Side,
    blocks: Vec<BlockId>,
) -> Result<Vec<BlockId>, String> {
    let writers: BTreeSet<WriterId> = blocks.iter().map(|block| block.writer).collect();
    let states = judge_writers(node, writers.into_iter().collect()).await.map_err(|error| error.to_string())?;
    let state = |block: BlockId| states.get(&block.writer).copied().unwrap_or(WriterState::Open);
    let mut wanted = Vec::new();
    let closed: Vec<(BlockKey, PgId)> = blocks
        .iter()
        .filter(|block| action(side, state(**block), Verdict::Live) != Action::Wait)
        .map(|block| (BlockKey::replica(*block), pg))
        .collect();
    let mut rest = &closed[..];
    while !rest.is_empty() {
        let (runs, count) = runs_of(&rest[..rest.len().min(BLOCKS_JUDGED_MAX)]);
        let ask = pb::JudgeBlocks { store: slot.id().unwrap_or_default().0, runs };
        let reply = match node.meta.call_within(Kind::JudgeBlocks(ask), JUDGE_TIMEOUT).await {
            Ok(response::Kind::JudgeBlocks(reply)) => reply,
            Ok(_) => return Err("metadata's answer is no judgement".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        let verdicts = verdicts_of(&reply.spans, count).ok_or("metadata does not judge every block")?;
        for ((key, _), verdict) in rest.iter().zip(verdicts) {
            match action(side, state(key.block), verdict) {
                Action::Wait => {}
                Action::Fetch | Action::Report => wanted.push(key.block),
                Action::Sweep => slot.sweep.note(key.block.writer),
            }
        }
        rest = &rest[count..];
    }
    Ok(wanted)
}

/// Tells metadata what a member lacks, so that it is known and that member copies it. Best effort: the next comparison
/// finds it again.
async fn report_lacking(node: &Node, store: StoreId, pg: PgId, blocks: &[BlockId]) {
    let mut rest: Vec<(BlockKey, PgId)> = blocks.iter().map(|block| (BlockKey::replica(*block), pg)).collect();
    while !rest.is_empty() {
        let (runs, count) = runs_of(&rest[..rest.len().min(BLOCKS_JUDGED_MAX)]);
        let ask = pb::ReportLacking { store: store.0, runs };
        if let Err(error) = node.meta.call(Kind::ReportLacking(ask)).await {
            tracing::debug!(%store, %pg, %error, "metadata could not be told what a member lacks");
            return;
        }
        rest.drain(..count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three groups in which our store 1 is full beside stores 2 and 3, each on a node of its own number.
    fn view(up: &[u32]) -> ClusterView {
        let node = |id: u32| pb::NodeInfo {
            id,
            addr: format!("127.0.0.1:{id}"),
            state: if up.contains(&id) { NodeState::Up } else { NodeState::Suspect } as i32,
            stores: vec![pb::StoreInfo { id, ..Default::default() }],
            ..Default::default()
        };
        let member = |store| pb::Member { store, state: MemberState::Full as i32 };
        let group =
            |id| pb::PgInfo { id, epoch: 1, replicas: 3, members: (1..=3).map(member).collect(), ..Default::default() };
        let page = pb::ClusterMapReply {
            version: 1,
            nodes: (1..=3).map(node).collect(),
            pgs: (1..=2).map(group).collect(),
            ..Default::default()
        };
        let mut view = ClusterView::default();
        view.absorb(&page);
        view
    }

    #[test]
    fn every_group_is_compared_with_every_other_member_in_turn() {
        let mut schedule = Schedule::default();
        let now = cairn_net::now();
        schedule.see(&view(&[1, 2, 3]), &[(StoreId(1), Incarnation(1))], now, || Duration::ZERO);
        let mut turns: BTreeMap<PgId, Vec<usize>> = BTreeMap::new();
        for round in 0..4 {
            let now = now + Duration::from_secs(round);
            while let Some((store, pg, turn)) = schedule.due(now) {
                turns.entry(pg).or_default().push(turn % 2);
                schedule.done(store, pg, now + Duration::from_secs(1));
            }
        }
        assert_eq!(turns.into_values().collect::<Vec<_>>(), [[0, 1, 0, 1], [0, 1, 0, 1]]);
    }

    #[test]
    fn a_member_that_returns_and_a_store_opened_again_are_compared_at_once() {
        let mut schedule = Schedule::default();
        let now = cairn_net::now();
        let later = || Duration::from_secs(100);
        let mut opening = Incarnation(1);
        schedule.see(&view(&[1, 2]), &[(StoreId(1), opening)], now, later);
        assert_eq!(schedule.due(now), None, "spread over the period at first");
        schedule.see(&view(&[1, 2]), &[(StoreId(1), opening)], now, later);
        assert_eq!(schedule.due(now), None);
        schedule.see(&view(&[1, 2, 3]), &[(StoreId(1), opening)], now, later);
        for pg in [PgId(1), PgId(2)] {
            assert_eq!(schedule.due(now), Some((StoreId(1), pg, 0)));
            schedule.done(StoreId(1), pg, now + later());
        }
        assert_eq!(schedule.due(now), None);
        opening = Incarnation(2);
        schedule.see(&view(&[1, 2, 3]), &[(StoreId(1), opening)], now, later);
        assert_eq!(schedule.due(now), Some((StoreId(1), PgId(1), 1)));
        schedule.see(&view(&[1, 2, 3]), &[], now, later);
        assert_eq!(schedule.due(now), None, "a store that is not open is not compared");
    }

    const SIDES: [Side; 2] = [Side::Here, Side::There];
    const STATES: [WriterState; 3] = [WriterState::Open, WriterState::Closed, WriterState::Unknown];
    const VERDICTS: [Verdict; 4] = [Verdict::Undecided, Verdict::Live, Verdict::Dead, Verdict::Future];

    #[test]
    fn only_what_is_dead_and_here_may_go_and_only_what_is_live_is_a_defect() {
        for side in SIDES {
            for writer in STATES {
                for verdict in VERDICTS {
                    let what = (side, writer, verdict);
                    match action(side, writer, verdict) {
                        Action::Fetch => assert_eq!(what, (Side::There, WriterState::Closed, Verdict::Live)),
                        Action::Report => assert_eq!(what, (Side::Here, WriterState::Closed, Verdict::Live)),
                        Action::Sweep => assert!(side == Side::Here && writer != WriterState::Open, "{what:?}"),
                        Action::Wait => {}
                    }
                }
            }
        }
    }

    /// A block of a write under way reaches member A first, then B, and is then committed; its writer closes later. A
    /// comparison of A with B may look between any two of these.
    fn false_alarms(decide: impl Fn(Side, WriterState, Verdict) -> Action) -> usize {
        let mut alarms = 0;
        for lacking_at_commit in [false, true] {
            for moment in 0..4 {
                let committed = moment >= 2;
                let on_b = moment >= 1 && !lacking_at_commit;
                let closed = moment >= 3;
                // A commit without B leaves a degraded row: B lacks it, and metadata knows.
                let known = committed && lacking_at_commit;
                let writer = if closed { WriterState::Closed } else { WriterState::Open };
                let verdict = if committed { Verdict::Live } else { Verdict::Undecided };
                // The judgement may be asked for a moment later than the listing was made.
                for verdict in [verdict, Verdict::Live] {
                    if !on_b && !known && decide(Side::Here, writer, verdict) != Action::Wait {
                        alarms += 1;
                    }
                }
            }
        }
        alarms
    }

    #[test]
    fn a_write_under_way_is_no_difference() {
        assert_eq!(false_alarms(action), 0);
        // A comparison that goes by the verdict of the moment takes the last replica's delay for a defect.
        assert!(false_alarms(|side, _, verdict| action(side, WriterState::Closed, verdict)) > 0);
    }
}
