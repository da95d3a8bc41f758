//! Reading: the map and the data at the same time, any replica, verified.

use crate::client::Inner;
use crate::cluster::{FailureLog, Leg, LegFailure, LegKind, Node};
use crate::error::{Cause, Error, FailureClass, Sent};
use crate::extents::{self, Checked, ExtentCache, MapSlice};
use crate::options::Consistency;
use crate::policy::read_plan::{Permits, ReadPlan, Step, Times};
use crate::stats::bump;
use bytes::{Bytes, BytesMut};
use cairn_net::Body;
use cairn_proto::checksum;
use cairn_proto::layout::{self, BlockRange};
use cairn_proto::limits::{CHUNK_LEN, RESPONSE_LEN_MAX};
use cairn_proto::pb::{self, request, response};
use cairn_proto::{BlockId, InodeId, Shard, StoreId};
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

/// Reads `[offset, offset + len)`, cut at the end of the file; holes are zeros.
pub(crate) async fn read(
    inner: &Arc<Inner>,
    inode: InodeId,
    cache: &parking_lot::Mutex<ExtentCache>,
    consistency: Consistency,
    offset: u64,
    len: u64,
    deadline: Instant,
) -> Result<Bytes, Error> {
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
        let (data, check) =
            tokio::join!(fetch(inner, &map, offset, len, &fetched, deadline), OptionFuture::from(check));
        if let Some(Checked::Moved(newer)) = check.transpose()? {
            // The reply carries what is current, and that is final. What was fetched is kept where it still stands.
            if let Ok((parts, _)) = data {
                fetched = parts;
            }
            slice = Some(newer);
            validated = true;
            continue;
        }
        match data {
            Ok((parts, inline)) => return Ok(assemble(&map, offset, len, parts, &inline)),
            // No replica has a block of the map: the map was overtaken, or data is lost. The newest map decides.
            Err(error)
                if matches!(error.cause(), Cause::AllReplicas { .. }) && error.kind() == crate::ErrorKind::Corrupt =>
            {
                match extents::ask(inner, inode, cache, (offset, len), 0, deadline).await? {
                    Checked::Moved(newer) if newer.version != map.version => slice = Some(newer),
                    _ => return Err(error),
                }
                validated = true;
            }
            Err(error) => return Err(error),
        }
    }
    let message = format!("the file changed {MOVES_MAX} times while it was read; read again");
    Err(Error::invalid("read", message))
}

type Parts = Vec<(BlockRange, Bytes)>;

/// Inline content of the range: target offset and bytes.
type Inline = Vec<(u64, Bytes)>;

async fn fetch(
    inner: &Arc<Inner>,
    map: &MapSlice,
    offset: u64,
    len: u64,
    have: &Parts,
    deadline: Instant,
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
        let known = have.iter().find(|(range, _)| same(range, &wanted.range)).map(|(_, bytes)| bytes.clone());
        fetches.push(async move {
            match known {
                Some(bytes) => Ok((wanted.range, bytes)),
                None => read_block(inner, &wanted, deadline).await.map(|bytes| (wanted.range, bytes)),
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

/// Reads a range of one block from whichever replica gives good bytes.
async fn read_block(inner: &Arc<Inner>, wanted: &Wanted, deadline: Instant) -> Result<Bytes, Error> {
    let mut log = FailureLog::new();
    let mut rounds = 0;
    loop {
        if let Some(bytes) = read_round(inner, wanted, deadline, rounds, &mut log).await {
            return Ok(bytes);
        }
        rounds += 1;
        let lost = !log.list().is_empty()
            && log.list().iter().all(|f| matches!(f.class, FailureClass::NotFound | FailureClass::Corrupt));
        let pause = if lost { None } else { inner.config.retry.pause_after(rounds, inner.unit()) };
        let Some(pause) = pause.filter(|pause| Instant::now() + *pause < deadline) else {
            let cause = Cause::AllReplicas { block: wanted.range.block, failures: log.into_list() };
            return Err(Error::new("read", cause));
        };
        tokio::time::sleep(pause).await;
        // Replicas may have moved. If metadata is away too, what is known is tried once more.
        if let Err(error) = inner.cluster.refresh(inner, deadline).await {
            tracing::debug!("could not read the cluster map: {error}");
        }
    }
}

/// The earliest that a second replica is asked beside a silent first one.
const NEXT_LEG_MIN: Duration = Duration::from_millis(50);
/// The latest.
const NEXT_LEG_MAX: Duration = Duration::from_secs(2);
/// Another replica is asked after this multiple of the latency that is usual at the first.
const NEXT_LEG_FACTOR: u32 = 4;

/// Every leg that the plan wants may begin.
struct Freely;

impl Permits for Freely {
    fn hedge(&mut self) -> bool {
        true
    }
    fn retry(&mut self) -> bool {
        true
    }
}

async fn read_round(
    inner: &Arc<Inner>,
    wanted: &Wanted,
    deadline: Instant,
    round: u32,
    log: &mut FailureLog,
) -> Option<Bytes> {
    let mut order = inner.cluster.read_order(inner, wanted.range.pg, &wanted.lacking);
    if order.is_empty() {
        // A group this client has not heard of yet.
        inner.cluster.refresh(inner, deadline).await.ok()?;
        order = inner.cluster.read_order(inner, wanted.range.pg, &wanted.lacking);
    }
    let usual = order.first().map_or_else(Default::default, |(_, node)| node.latency(inner.now()));
    let patience = usual.saturating_mul(NEXT_LEG_FACTOR).clamp(NEXT_LEG_MIN, NEXT_LEG_MAX);
    let times = Times { hedge_after: patience, soft_after: patience * 2, stall_after: None };
    let mut plan = ReadPlan::new((0..order.len()).collect(), Vec::new(), times, Duration::ZERO);
    let begun = Instant::now();
    let mut legs = FuturesUnordered::new();
    let mut started = 0u8;
    let mut failed = false;
    loop {
        let until = match plan.step(begun.elapsed(), &mut Freely) {
            Step::Start { replica, leg: number, .. } => {
                let (store, node) = &order[replica];
                let kind = match (started, failed, round) {
                    (0, _, 0) => LegKind::First,
                    (_, _, 1..) => LegKind::Retry,
                    (_, true, _) => LegKind::Failover,
                    _ => LegKind::Hedge,
                };
                let leg = read_leg(inner, *store, node, wanted.range, kind, started, deadline);
                legs.push(async move { leg.await.map_err(|failure| (number, *store, node, failure)) });
                started = started.saturating_add(1);
                continue;
            }
            Step::Wait(until) => until,
            Step::Exhausted => return None,
        };
        let timer: OptionFuture<_> = until.map(|until| tokio::time::sleep_until(begun + until)).into();
        tokio::select! {
            biased;
            Some(result) = legs.next() => match result {
                Ok(bytes) => return Some(bytes),
                Err((number, store, node, failure)) => {
                    failed = true;
                    let must_have = || {
                        let view = inner.cluster.view();
                        view.group(wanted.range.pg).is_some_and(|group| group.must_have(store, &wanted.lacking))
                    };
                    if failure.record.class == FailureClass::NotFound && must_have() {
                        report(inner, store, node, wanted.range.block, 0);
                    }
                    log.add(failure.record);
                    plan.on_failure(number, begun.elapsed());
                }
            },
            Some(()) = timer => {}
        }
    }
}

/// One request to one replica; only verified bytes come back.
async fn read_leg(
    inner: &Arc<Inner>,
    store: StoreId,
    node: &Arc<Node>,
    range: BlockRange,
    kind: LegKind,
    attempt: u8,
    deadline: Instant,
) -> Result<Bytes, LegFailure> {
    let begun = Instant::now();
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
        response_max: u64::from(
            (range.offset + range.len).next_multiple_of(CHUNK_LEN) - range.offset / CHUNK_LEN * CHUNK_LEN,
        ),
        verify_body: false,
    };
    let reply = node.call(inner, leg).await?;
    let bad = |class, message: String| LegFailure {
        record: node.failure("get", class, Sent::Responded, begun.elapsed(), message),
        status: None,
    };
    let Some(response::Kind::Get(header)) = reply.response.kind else {
        return Err(bad(FailureClass::Protocol, "the answer to GET is of another kind".into()));
    };
    match verify(&range, &header, &reply.body) {
        Ok(bytes) => Ok(bytes),
        Err(Mismatch { chunk, message }) => {
            bump(&inner.counters.corrupt_blocks);
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

/// Holds an answer against its checksums and cuts out the wanted bytes.
fn verify(range: &BlockRange, header: &pb::GetBlockReply, body: &Bytes) -> Result<Bytes, Mismatch> {
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
    let from = (range.offset - chunks.offset) as usize;
    Ok(body.slice(from..from + range.len as usize))
}

/// Tells a node that it served bad bytes, or none where it should have some, so that it looks at its copy and repairs
/// itself.
fn report(inner: &Arc<Inner>, store: StoreId, node: &Arc<Node>, block: BlockId, chunk: u32) {
    let (inner, node) = (inner.clone(), node.clone());
    let tasks = inner.tasks.clone();
    tasks.spawn(async move {
        let report = pb::ReportCorrupt { store: store.0, block: Some(to_pb(block)), shard: 0, chunk };
        let leg = Leg::plain(request::Kind::ReportCorrupt(report), inner.deadline(inner.config.read_timeout));
        if let Err(failure) = node.call(&inner, leg).await {
            tracing::warn!(node = %node.id, %block, "could not report a bad block: {}", failure.record.message);
        }
    });
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
        let got = verify(&range(CHUNK_LEN + 10, 20), &header, &body).ok().expect("good bytes");
        assert_eq!(&got[..], &content[CHUNK_LEN as usize + 10..][..20]);
    }

    #[test]
    fn wrong_bytes_wrong_place_and_wrong_length_are_found() {
        let content = vec![9; CHUNK_LEN as usize * 2];
        let (header, body) = answer(&content, 0);
        let mut flipped = body.to_vec();
        flipped[CHUNK_LEN as usize + 1] ^= 4;
        let chunk = |result: Result<Bytes, Mismatch>| result.err().map(|mismatch| mismatch.chunk);
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
