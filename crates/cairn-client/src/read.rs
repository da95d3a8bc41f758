//! Reading: the map and the data at the same time, any replica, verified.

use crate::block_cache::Verified;
use crate::client::Inner;
use crate::cluster::{FailureLog, Replicas};
use crate::error::{Cause, Error, FailureClass, NodeFailure, Sent};
use crate::extents::{self, Checked, ExtentCache, MapSlice};
use crate::health::{self, Verdict};
use crate::node::{Leg, LegFailure, LegKind, Node, Running, Traffic};
use crate::options::Consistency;
use crate::policy::budget::{HedgePermit, HedgeSkip};
use crate::policy::read_plan::{Permits, ReadPlan, Step, Times, Why};
use crate::policy::timers::{self, Class};
use crate::record::Record;
use crate::stats::bump;
use crate::trace;
use bytes::{Bytes, BytesMut};
use cairn_net::{Body, LegWatch, Reply, Route};
use cairn_proto::checksum;
use cairn_proto::layout::{self, BlockRange};
use cairn_proto::limits::{CHUNK_LEN, RESPONSE_LEN_MAX};
use cairn_proto::pb::{self, request, response};
use cairn_proto::{BlockId, InodeId, Shard, StoreId};
use futures_util::future::BoxFuture;
use futures_util::future::OptionFuture;
use futures_util::stream::{FuturesUnordered, StreamExt, TryStreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Blocks of one read fetched at the same time.
const PARALLEL_MAX: usize = 8;
/// A read whose blocks vanish because the file is rewritten all the time takes the newest map this often.
const MOVES_MAX: usize = 8;

/// A block range with what the map says about its replicas.
#[derive(Clone, Debug)]
struct Wanted {
    range: BlockRange,
    lacking: Vec<u32>,
}

/// How to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) consistency: Consistency,
    pub(crate) hedge: bool,
    pub(crate) deadline: Instant,
}

/// Reads `[offset, offset + len)`, cut at the end of the file; holes are zeros.
///
/// Boxed, so that it is compiled once and not again inside every caller.
pub(crate) fn read<'a>(
    inner: &'a Arc<Inner>,
    inode: InodeId,
    cache: &'a parking_lot::Mutex<ExtentCache>,
    range: (u64, u64),
    how: How,
) -> BoxFuture<'a, Result<Bytes, Error>> {
    Box::pin(read_range(inner, inode, cache, range, how))
}

async fn read_range(
    inner: &Arc<Inner>,
    inode: InodeId,
    cache: &parking_lot::Mutex<ExtentCache>,
    (offset, len): (u64, u64),
    how: How,
) -> Result<Bytes, Error> {
    let How { consistency, deadline, .. } = how;
    if len > RESPONSE_LEN_MAX {
        return Err(Error::new("read", Cause::TooLarge { len, max: RESPONSE_LEN_MAX }));
    }
    let mut fetched = Vec::new();
    let mut slice = cache.lock().lookup(offset, len);
    let mut validated = false;
    for _ in 0..MOVES_MAX {
        let Some(map) = slice.take() else {
            match extents::ask(inner, inode, cache, (offset, len), 0, deadline).await? {
                Checked::Moved(map) => slice = Some(map),
                Checked::Unchanged => return Err(inner.unexpected("get_extents")),
            }
            validated = true;
            continue;
        };
        let check = (!validated && consistency == Consistency::Validated)
            .then(|| extents::ask(inner, inode, cache, (offset, len), map.version, deadline));
        let finished = parking_lot::Mutex::new(std::mem::take(&mut fetched));
        let check = async {
            match OptionFuture::from(check).await.transpose() {
                Ok(None | Some(Checked::Unchanged)) => Ok(()),
                Ok(Some(Checked::Moved(newer))) => Err(Overtaken::By(newer)),
                Err(error) => Err(Overtaken::Unknown(error)),
            }
        };
        let data = async { Ok(fetch(inner, &map, offset, len, &finished, how).await) };
        let data = match tokio::try_join!(check, data) {
            Ok(((), data)) => data,
            // The reply carries what is current, and that is final: the rest of the old map is not waited for. What was
            // fetched is kept where it still stands.
            Err(Overtaken::By(newer)) => {
                fetched = finished.into_inner();
                slice = Some(newer);
                validated = true;
                continue;
            }
            Err(Overtaken::Unknown(error)) => return Err(error),
        };
        match data {
            Ok((parts, inline)) => return Ok(assemble(&map, offset, len, parts, &inline)),
            // No replica that was asked has a block of the map: the map was overtaken, or those that are away have it,
            // or it is lost. The newest map decides.
            Err(error) if is_lost_where_asked(&error) => {
                fetched = finished.into_inner();
                validated = true;
                match extents::ask(inner, inode, cache, (offset, len), 0, deadline).await? {
                    Checked::Moved(newer) if newer.version != map.version => slice = Some(newer),
                    _ if wait_for_the_absent(inner, &error, deadline).await => slice = Some(map),
                    _ => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
    let message = format!("the file changed {MOVES_MAX} times while it was read; read again");
    Err(Error::invalid("read", message))
}

/// Why a fetch by a remembered map is not waited for.
enum Overtaken {
    /// This map is current.
    By(MapSlice),
    /// Metadata could not say.
    Unknown(Error),
}

/// True when every replica that could be asked lacks the block or has bad bytes of it.
fn is_lost_where_asked(error: &Error) -> bool {
    let Cause::AllReplicas { failures, .. } = error.cause() else { return false };
    let mut asked = failures.iter().filter(|failure| failure.class != FailureClass::Skipped).peekable();
    asked.peek().is_some() && asked.all(|f| matches!(f.class, FailureClass::NotFound | FailureClass::Corrupt))
}

/// Waits until a replica that was not asked, because it is away, is back; false when there is none, or in vain.
async fn wait_for_the_absent(inner: &Arc<Inner>, error: &Error, deadline: Instant) -> bool {
    let Cause::AllReplicas { failures, .. } = error.cause() else { return false };
    let skipped = failures.iter().filter(|failure| failure.class == FailureClass::Skipped);
    let absent: Vec<_> = skipped.map(|failure| failure.node).collect();
    let in_vain = || {
        let view = inner.cluster.view();
        absent.iter().all(|node| view.nodes.get(node).is_none_or(|node| !node.is_closed()))
    };
    !absent.is_empty() && health::park(inner, deadline, in_vain).await == Verdict::Released
}

type Parts = Vec<(BlockRange, Bytes)>;

/// Inline content of the range: target offset and bytes.
type Inline = Vec<(u64, Bytes)>;

async fn fetch(
    inner: &Arc<Inner>,
    map: &MapSlice,
    offset: u64,
    len: u64,
    finished: &parking_lot::Mutex<Parts>,
    how: How,
) -> Result<(Parts, Inline), Error> {
    let len = len.min(map.size.saturating_sub(offset));
    let mut wanted = Vec::new();
    let mut inline = Vec::new();
    for extent in &map.extents {
        if extent.inline.is_empty() {
            let ranges = layout::blocks_of(extent, offset, len)
                .ok_or_else(|| Error::invalid("read", format!("metadata sent a contradictory extent: {extent:?}")))?;
            wanted.extend(ranges.into_iter().map(|range| Wanted { range, lacking: extent.lacking.clone() }));
        } else {
            let begin = extent.offset.max(offset);
            let end = (extent.offset + extent.inline.len() as u64).min(offset + len);
            if begin < end {
                let from = (begin - extent.offset) as usize;
                inline.push((begin - offset, extent.inline.slice(from..from + (end - begin) as usize)));
            }
        }
    }
    let same = |a: &BlockRange, b: &BlockRange| a.block == b.block && a.offset == b.offset && a.len == b.len;
    let mut fetches = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        let known =
            finished.lock().iter().find(|(range, _)| same(range, &wanted.range)).map(|(_, bytes)| bytes.clone());
        fetches.push(async move {
            match known {
                Some(bytes) => Ok((wanted.range, bytes)),
                None => {
                    let part = (wanted.range, read_part(inner, &wanted, how).await?);
                    finished.lock().push(part.clone());
                    Ok(part)
                }
            }
        });
    }
    let parts = futures_util::stream::iter(fetches).buffered(PARALLEL_MAX).try_collect().await?;
    Ok((parts, inline))
}

fn assemble(map: &MapSlice, offset: u64, len: u64, mut parts: Parts, inline: &Inline) -> Bytes {
    let len = len.min(map.size.saturating_sub(offset)) as usize;
    if inline.is_empty() && parts.len() == 1 && parts[0].1.len() == len {
        return parts.remove(0).1;
    }
    if let [(0, bytes)] = inline.as_slice()
        && parts.is_empty()
        && bytes.len() == len
    {
        return bytes.clone();
    }
    let mut out = BytesMut::zeroed(len);
    for (target, bytes) in parts
        .iter()
        .map(|(range, bytes)| (range.target, bytes))
        .chain(inline.iter().map(|(target, bytes)| (*target, bytes)))
    {
        let at = target as usize;
        out[at..at + bytes.len()].copy_from_slice(bytes);
    }
    out.freeze()
}

/// Reads a range of one block: from the cache as far as there is one that has it, else from a replica.
async fn read_part(inner: &Arc<Inner>, wanted: &Wanted, how: How) -> Result<Bytes, Error> {
    let Some(cache) = &inner.block_cache else {
        return Ok(read_block(inner, wanted, how).await?.cut(&wanted.range));
    };
    let fetch = |range| async move { read_block(inner, &Wanted { range, lacking: wanted.lacking.clone() }, how).await };
    cache.read(&wanted.range, how.deadline, fetch).await
}

/// Reads a range of one block, in whole chunks, from whichever replica gives good bytes.
async fn read_block(inner: &Arc<Inner>, wanted: &Wanted, how: How) -> Result<Verified, Error> {
    let mut log = FailureLog::new();
    let mut rounds = 0;
    let failed = |log: FailureLog| {
        Error::new("read", Cause::AllReplicas { block: wanted.range.block, failures: log.into_list() })
    };
    loop {
        let replicas = replicas_of(inner, wanted, how.deadline).await;
        if !replicas.fresh.is_empty() || replicas.away.is_empty() {
            if let Some(chunks) = read_round(inner, wanted, how, (rounds, &replicas), &mut log).await {
                inner.retry_budget.deposit();
                return Ok(chunks);
            }
            rounds += 1;
        }
        let all = replicas.fresh.iter().map(|(_, node)| node).chain(&replicas.away);
        let away: Vec<&Arc<Node>> = all.filter(|node| !node.is_closed()).collect();
        for node in &away {
            log.note(node.skipped("get", log.elapsed()));
        }
        let lost =
            |f: &NodeFailure| matches!(f.class, FailureClass::NotFound | FailureClass::Corrupt | FailureClass::Skipped);
        if away.len() < replicas.fresh.len() + replicas.away.len() && log.list().iter().all(lost) {
            // Asking the same ones again would find the same: whoever knows the map decides.
            return Err(failed(log));
        }
        let all_away = !away.is_empty() && away.len() == replicas.fresh.len() + replicas.away.len();
        let pause = if all_away { None } else { inner.config.retry.pause_after(rounds, inner.unit()) };
        let Some(pause) = pause else {
            if away.is_empty() {
                return Err(failed(log));
            }
            // Nobody else is left to ask. Sooner or later one of those that are away answers a probe.
            let in_vain = || away.iter().all(|node| !node.is_closed());
            match health::park(inner, how.deadline, in_vain).await {
                Verdict::Released => continue,
                Verdict::Shed | Verdict::TimedOut => return Err(failed(log)),
            }
        };
        if Instant::now() + pause >= how.deadline {
            return Err(failed(log));
        }
        inner.recorder.add(|| Record::Pause { at: inner.now(), rounds, pause });
        tokio::time::sleep(pause).await;
        // The pause is free, asking again is not. Breakers that opened meanwhile make it needless.
        let any_closed = replicas.fresh.iter().any(|(_, node)| node.is_closed());
        if any_closed && !inner.retry_budget.try_take() {
            return Err(failed(log));
        }
        // Replicas may have moved. If metadata is away too, what is known is tried once more.
        if let Err(error) = inner.cluster.refresh(inner, how.deadline).await {
            tracing::debug!("could not read the cluster map: {error}");
        }
    }
}

fn traffic_of(range: &BlockRange) -> Traffic {
    match Class::of(response_max(range)) {
        Class::Small => Traffic::Small,
        Class::Bulk => Traffic::Bulk,
    }
}

/// Bytes of the answer: whole chunks.
fn response_max(range: &BlockRange) -> u64 {
    u64::from((range.offset + range.len).next_multiple_of(CHUNK_LEN) - range.offset / CHUNK_LEN * CHUNK_LEN)
}

async fn replicas_of(inner: &Arc<Inner>, wanted: &Wanted, deadline: Instant) -> Replicas {
    let (block, pg) = (wanted.range.block, wanted.range.pg);
    let ask = || inner.cluster.replicas(inner, (block, pg), &wanted.lacking, traffic_of(&wanted.range));
    let replicas = ask();
    if !replicas.fresh.is_empty() || !replicas.away.is_empty() {
        return replicas;
    }
    // A group this client has not heard of yet.
    match inner.cluster.refresh(inner, deadline).await {
        Ok(()) => ask(),
        Err(error) => {
            tracing::debug!("could not read the cluster map: {error}");
            replicas
        }
    }
}

/// What a read may spend on further legs.
struct ReadPermits<'a> {
    inner: &'a Arc<Inner>,
    len: u64,
    hedge: bool,
    taken: Vec<HedgePermit>,
}

impl ReadPermits<'_> {
    fn skip(&self, skip: HedgeSkip) {
        self.inner.counters.hedge_skipped(skip.name());
        self.inner.recorder.add(|| Record::HedgeSkipped { at: self.inner.now(), reason: skip.name() });
    }
}

impl Permits for ReadPermits<'_> {
    fn hedge(&mut self) -> bool {
        if !self.hedge {
            return false;
        }
        match self.inner.hedge_budget.try_take(self.len) {
            Ok(permit) => {
                self.taken.push(permit);
                true
            }
            Err(skip) => {
                self.skip(skip);
                false
            }
        }
    }

    fn retry(&mut self) -> bool {
        self.inner.retry_budget.try_take()
    }

    fn no_replica(&mut self) {
        self.skip(HedgeSkip::NoReplica);
    }
}

fn times(inner: &Inner, node: &Node, range: &BlockRange) -> Times {
    let (now, traffic, len) = (inner.now(), traffic_of(range), response_max(range));
    let p95 = inner.first_legs(node, traffic).quantile(0.95, now);
    Times {
        hedge_after: timers::hedge_after(p95, traffic.class(), len, node.bandwidth(traffic)),
        soft_after: node.soft_after(traffic, len, now),
        stall_after: (traffic == Traffic::Bulk).then(|| timers::stall_after(node.gap_p99(now))),
    }
}

/// A leg of a round: to which of its replicas, and since when.
struct Under {
    replica: usize,
    why: Why,
    begun: Duration,
    watch: LegWatch,
    seen: Option<Duration>,
}

async fn read_round(
    inner: &Arc<Inner>,
    wanted: &Wanted,
    how: How,
    (round, replicas): (u32, &Replicas),
    log: &mut FailureLog,
) -> Option<Verified> {
    let (_, primary) = replicas.fresh.first()?;
    let alone = replicas.fresh.len() == 1;
    let traffic = traffic_of(&wanted.range);
    let times = times(inner, primary, &wanted.range);
    let mut plan = ReadPlan::new((0..replicas.fresh.len()).collect(), Vec::new(), times, inner.now());
    let mut permits = ReadPermits { inner, len: response_max(&wanted.range), hedge: how.hedge, taken: Vec::new() };
    let mut legs = FuturesUnordered::new();
    let mut under: Vec<Under> = Vec::new();
    loop {
        if traffic == Traffic::Bulk {
            // A transfer that makes progress is waited for.
            for (leg, under) in under.iter_mut().enumerate() {
                let heard = under.watch.progress().last_byte;
                if let Some(at) = heard.filter(|_| heard != under.seen) {
                    under.seen = heard;
                    plan.on_bytes(leg, under.begun + at);
                }
            }
        }
        let until = match plan.step(inner.now(), &mut permits) {
            Step::Start { replica, leg: number, why } => {
                let (store, node) = &replicas.fresh[replica];
                let kind = match (why, round) {
                    (Why::First, 0) => LegKind::First,
                    (Why::Hedge, _) => LegKind::Hedge,
                    (Why::Retry, _) | (_, 1..) => LegKind::Retry,
                    (Why::Failover | Why::Timer, 0) => LegKind::Failover,
                };
                if why == Why::Timer {
                    for slow in &under {
                        replicas.fresh[slow.replica].1.on_soft_expiry(traffic);
                    }
                }
                let running = read_leg(inner, *store, node, wanted.range, (kind, number as u8, alone), how.deadline);
                under.push(Under { replica, why, begun: inner.now(), watch: running.watch(), seen: None });
                legs.push(async move { (number, checked(inner, *store, node, wanted.range, running).await) });
                continue;
            }
            Step::Wait(until) => until,
            Step::Exhausted => break,
        };
        let timer: OptionFuture<_> = until.map(|until| tokio::time::sleep_until(inner.instant(until))).into();
        tokio::select! {
            biased;
            Some((leg, result)) = legs.next() => match result {
                Ok(chunks) => {
                    note_race(inner, &under, leg);
                    inner.hedge_budget.on_first_leg_completed();
                    return Some(chunks);
                }
                Err(failure) => {
                    let (store, node) = &replicas.fresh[under[leg].replica];
                    let must_have = || {
                        let view = inner.cluster.view();
                        view.group(wanted.range.pg).is_some_and(|group| group.must_have(*store, &wanted.lacking))
                    };
                    if failure.record.class == FailureClass::NotFound && must_have() {
                        report(inner, *store, node, wanted.range.block, 0);
                    }
                    log.add(failure.record);
                    plan.on_failure(leg);
                }
            },
            Some(()) = timer => {}
        }
    }
    note_race(inner, &under, usize::MAX);
    None
}

/// Counts what became of hedges.
fn note_race(inner: &Inner, under: &[Under], winner: usize) {
    for (leg, under) in under.iter().enumerate().filter(|(_, under)| under.why == Why::Hedge) {
        tracing::trace!(replica = under.replica, won = leg == winner, "hedge");
        bump(if leg == winner { &inner.counters.hedges_won } else { &inner.counters.hedges_lost });
    }
}

/// Begins one request to one replica.
fn read_leg<'a>(
    inner: &'a Arc<Inner>,
    store: StoreId,
    node: &'a Arc<Node>,
    range: BlockRange,
    (kind, attempt, alone): (LegKind, u8, bool),
    deadline: Instant,
) -> Running<'a> {
    let get = pb::GetBlock {
        block: Some(to_pb(range.block)),
        shard: 0,
        pg: range.pg.0,
        offset: range.offset,
        len: range.len,
        store: store.0,
    };
    let leg = Leg {
        request: pb::Request { kind: Some(request::Kind::Get(get)), ..Default::default() },
        body: Body::empty(),
        deadline,
        kind,
        attempt,
        response_max: response_max(&range),
        verify_body: false,
        route: Route { avoid: None, alone },
    };
    node.start(inner, leg)
}

/// Waits for the answer of one replica; only verified bytes come back.
async fn checked(
    inner: &Arc<Inner>,
    store: StoreId,
    node: &Arc<Node>,
    range: BlockRange,
    running: Running<'_>,
) -> Result<Verified, LegFailure> {
    let begun = Instant::now();
    let reply: Reply = running.finish().await?;
    let bad = |class, message: String| LegFailure {
        record: node.failure("get", class, Sent::Responded, begun.elapsed(), message),
        status: None,
        connection: None,
    };
    let Some(response::Kind::Get(header)) = reply.response.kind else {
        return Err(bad(FailureClass::Protocol, "the answer to GET is of another kind".into()));
    };
    let hashing = inner.recorder.is_on().then(Instant::now);
    let verdict = verify(&range, &header, &reply.body);
    if let Some(hashing) = hashing {
        inner.recorder.add_checksum(hashing.elapsed());
    }
    match verdict {
        Ok(chunks) => Ok(chunks),
        Err(Mismatch { chunk, message }) => {
            bump(&inner.counters.corrupt_blocks);
            bump(&node.corrupt_blocks);
            tracing::warn!(node = %node.id, addr = %node.addr, block = %range.block, chunk, "{message}");
            report(inner, store, node, range.block, chunk);
            Err(bad(FailureClass::Corrupt, format!("{} {message}", range.block)))
        }
    }
}

struct Mismatch {
    chunk: u32,
    message: String,
}

/// Holds an answer against its checksums.
fn verify(range: &BlockRange, header: &pb::GetBlockReply, body: &Bytes) -> Result<Verified, Mismatch> {
    let whole = |message: String| Mismatch { chunk: header.first_chunk, message };
    let chunks = layout::chunk_range(range.offset, range.len, header.block_len).ok_or_else(|| {
        let end = u64::from(range.offset) + u64::from(range.len);
        whole(format!("is {} bytes long there, {end} are needed", header.block_len))
    })?;
    let crcs = checksum::unpack(&header.crcs).ok_or_else(|| whole("came with a broken checksum vector".into()))?;
    if chunks.first != header.first_chunk || body.len() != chunks.len as usize {
        return Err(whole(format!("came as {} bytes from chunk {}", body.len(), header.first_chunk)));
    }
    if let Some(chunk) = checksum::first_mismatch(range.block, Shard(0), chunks.first, body, &crcs) {
        return Err(Mismatch { chunk, message: format!("does not match its checksum in chunk {chunk}") });
    }
    Ok(Verified { first_chunk: chunks.first, body: body.clone(), crcs })
}

/// Tells a node that it served bad bytes, or none where it should have some, so that it looks at its copy and repairs
/// itself.
fn report(inner: &Arc<Inner>, store: StoreId, node: &Arc<Node>, block: BlockId, chunk: u32) {
    let (inner, node) = (inner.clone(), node.clone());
    let tasks = inner.tasks.clone();
    tasks.spawn(trace::carry(async move {
        let report = pb::ReportCorrupt { store: store.0, block: Some(to_pb(block)), shard: 0, chunk };
        let leg = Leg::plain(request::Kind::ReportCorrupt(report), inner.deadline(inner.config.read_timeout));
        if let Err(failure) = node.call(&inner, leg).await {
            tracing::warn!(node = %node.id, %block, "could not report a bad block: {}", failure.record.message);
        }
    }));
}

pub(crate) fn to_pb(block: BlockId) -> pb::BlockId {
    pb::BlockId { inode: block.inode.0, writer: block.writer.0, seq: block.seq.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::PgId;

    const BLOCK: BlockId = BlockId::new(1, 2, 3);

    fn answer(content: &[u8], first_chunk: u32) -> (pb::GetBlockReply, Bytes) {
        let crcs = checksum::chunk_crcs(BLOCK, Shard(0), content);
        let from = first_chunk as usize * CHUNK_LEN as usize;
        let header = pb::GetBlockReply {
            block_len: content.len() as u32,
            first_chunk,
            crcs: checksum::pack(&crcs[first_chunk as usize..]).into(),
        };
        (header, Bytes::copy_from_slice(&content[from..]))
    }
    fn range(offset: u32, len: u32) -> BlockRange {
        BlockRange { block: BLOCK, pg: PgId(1), offset, len, target: 0 }
    }

    #[test]
    fn only_what_was_asked_for_comes_out() {
        let content: Vec<u8> = (0..CHUNK_LEN + 100).map(|i| (i % 251) as u8).collect();
        let (header, body) = answer(&content, 1);
        let range = range(CHUNK_LEN + 10, 20);
        let got = verify(&range, &header, &body).ok().expect("good bytes").cut(&range);
        assert_eq!(&got[..], &content[CHUNK_LEN as usize + 10..][..20]);
    }

    #[test]
    fn wrong_bytes_wrong_place_and_wrong_length_are_found() {
        let content = vec![9; CHUNK_LEN as usize * 2];
        let (header, body) = answer(&content, 0);
        let mut flipped = body.to_vec();
        flipped[CHUNK_LEN as usize + 1] ^= 4;
        let chunk = |result: Result<Verified, Mismatch>| result.err().map(|mismatch| mismatch.chunk);
        let all = range(0, CHUNK_LEN * 2);
        assert_eq!(chunk(verify(&all, &header, &flipped.into())), Some(1));
        assert_eq!(chunk(verify(&all, &header, &body.slice(1..))), Some(0));
        assert_eq!(chunk(verify(&range(0, CHUNK_LEN * 3), &header, &body)), Some(0));
        let misplaced = BlockRange { block: BlockId::new(1, 2, 4), ..all };
        assert_eq!(chunk(verify(&misplaced, &header, &body)), Some(0));
        let short = pb::GetBlockReply { crcs: header.crcs.slice(..4), ..header.clone() };
        assert_eq!(chunk(verify(&all, &short, &body)), Some(1));
    }

    #[test]
    fn holes_are_zeros_and_inline_bytes_land_in_place() {
        let map = MapSlice { version: 1, size: 12, extents: Vec::new() };
        let parts = vec![(BlockRange { target: 4, ..range(0, 3) }, Bytes::from_static(b"abc"))];
        let inline = vec![(0, Bytes::from_static(b"xy"))];
        assert_eq!(&assemble(&map, 2, 100, parts, &inline)[..], b"xy\0\0abc\0\0\0");
    }
}
