//! What a storage node answers: one method per op, each checks its arguments, asks one store, says how it ended.

use super::calm::Wait;
use super::fence::{AdmitError, Authority};
use super::ledger::Finder;
use super::scrub;
use super::slot::StoreSlot;
use super::state::Node;
use crate::limits::{DIGEST_PARTS_MAX, LEDGER_PAGE_MAX, PART_LEN};
use crate::node::status;
use crate::tasks::blocking;
use crate::view::{Admission, admit_put, group_to_pb};
use crate::wire::{block_id, block_to_pb, fold_runs, pack_digests, runs_blocks, shard};
use async_trait::async_trait;
use bytes::Bytes;
use cairn_net::{Body, BodyPart, Handler, RequestContext, WorkTime};
use cairn_proto::checksum::{body_crc, crc32c, pack, unpack};
use cairn_proto::layout::{ChunkRange, chunk_range};
use cairn_proto::limits::{BLOCKS_PER_REQUEST_MAX, CHUNK_LEN};
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, PutDurability, response};
use cairn_proto::status::{Code, Status};
use cairn_proto::{PgEpoch, PgId, WriterId};
use cairn_store::{BlockKey, ComparedWriters, Durability, OsFile, Put, ReadError, StoredBlock};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::{Instant, timeout_at};

/// Answers the requests of a node.
pub(crate) struct NodeHandler {
    pub(crate) node: Arc<Node>,
}

#[async_trait]
impl Handler for NodeHandler {
    async fn handle(
        &self,
        ctx: &RequestContext,
        request: pb::Request,
        body: Vec<Bytes>,
    ) -> Result<(response::Kind, Body), Status> {
        if ctx.deadline.is_some_and(|deadline| deadline <= cairn_net::now()) {
            return Err(too_late());
        }
        match request.kind {
            // Not wrapped: the header read may hand itself to another thread, and the wait for a permit is bounded below.
            Some(Kind::Get(get)) => self.get(ctx, get).await,
            Some(Kind::Put(put)) => {
                in_time(ctx.deadline, self.put(ctx, put, body)).await.map(bare(response::Kind::Put))
            }
            Some(Kind::Sync(sync)) => {
                let work = on_disk(&ctx.work, self.sync(sync));
                in_time(ctx.deadline, work).await.map(bare(response::Kind::Sync))
            }
            Some(Kind::Delete(delete)) => {
                let work = on_disk(&ctx.work, self.delete(delete));
                in_time(ctx.deadline, work).await.map(bare(response::Kind::Delete))
            }
            Some(Kind::List(list)) => {
                let work = on_disk(&ctx.work, self.list(list));
                in_time(ctx.deadline, work).await.map(bare(response::Kind::List))
            }
            Some(Kind::InventoryDigest(ask)) => {
                let work = on_disk(&ctx.work, self.inventory_digest(ask));
                in_time(ctx.deadline, work).await.map(bare(response::Kind::InventoryDigest))
            }
            Some(Kind::ListLedger(list)) => {
                let limit = match list.limit as usize {
                    0 => LEDGER_PAGE_MAX,
                    limit => limit.min(LEDGER_PAGE_MAX),
                };
                let (entries, open) = self.node.ledger.list(list.before, limit);
                Ok((response::Kind::ListLedger(pb::ListLedgerReply { entries, open }), Body::empty()))
            }
            Some(Kind::Scrub(ask)) => in_time(ctx.deadline, self.scrub(ask)).await.map(bare(response::Kind::Scrub)),
            Some(Kind::ReportCorrupt(report)) => {
                let work = on_disk(&ctx.work, self.report_corrupt(report));
                in_time(ctx.deadline, work).await.map(bare(response::Kind::Empty))
            }
            Some(Kind::AppendMetalog(ask)) => {
                let work = on_disk(&ctx.work, self.append_metalog(ask, body));
                in_time(ctx.deadline, work).await.map(bare(response::Kind::AppendMetalog))
            }
            Some(Kind::ListMetalog(ask)) => {
                let node = self.node.clone();
                let listed = blocking(move || node.metalog.list(&node.home.disk, &ask));
                in_time(ctx.deadline, listed).await.map(bare(response::Kind::ListMetalog))
            }
            Some(Kind::FetchMetalog(ask)) => {
                let node = self.node.clone();
                let fetched = blocking(move || node.metalog.fetch(&node.home.disk, &ask));
                let (len, bytes) = in_time(ctx.deadline, fetched).await?;
                Ok((response::Kind::FetchMetalog(pb::FetchMetalogReply { len }), Body::from_bytes(bytes.into())))
            }
            Some(Kind::NodeStatus(_)) => Ok((response::Kind::NodeStatus(self.node_status()), Body::empty())),
            Some(other) => {
                let name = cairn_proto::op::name(cairn_proto::op::of(&other));
                Err(Status::new(Code::Unsupported, format!("{name} is not for storage nodes: ask metadata")))
            }
            None => Err(Status::new(Code::Unsupported, format!("op {} is unknown here", ctx.op))),
        }
    }

    fn pong(&self) -> pb::Pong {
        let writes = self.node.gates.writes.inside();
        let reads = self.node.gates.reads.inside();
        pb::Pong {
            queue_depth: u32::try_from(writes + reads).unwrap_or(u32::MAX),
            disk_stall_ms: self.node.stores.iter().map(|slot| slot.stall_ms()).max().unwrap_or(0),
            draining: self.node.draining.load(Ordering::Relaxed),
        }
    }
}

impl NodeHandler {
    async fn append_metalog(&self, ask: pb::AppendMetalog, body: Vec<Bytes>) -> Result<pb::AppendMetalogReply, Status> {
        let cluster = self.node.speaks_as.load().cluster_id;
        if !cluster.is_nil() && ask.cluster_id != cluster.0[..] {
            return Err(Status::new(Code::WrongCluster, "this node is of another cluster"));
        }
        let _permit = self.node.gates.writes.admit()?;
        let node = self.node.clone();
        let len = blocking(move || node.metalog.append(&node.home.disk, &ask, &body.concat())).await?;
        Ok(pb::AppendMetalogReply { len })
    }

    async fn put(
        &self,
        ctx: &RequestContext,
        put: pb::PutBlock,
        parts: Vec<Bytes>,
    ) -> Result<pb::PutBlockReply, Status> {
        let slot = self.node.store(put.store)?;
        slot.ask_now();
        let _permit = self.node.gates.writes.admit()?;
        let key = BlockKey { block: block_id(put.block.as_ref())?, shard: shard(put.shard)? };
        let pg = PgId(put.pg);
        self.check_membership(slot, pg, PgEpoch(put.pg_epoch))?;
        let durability = match put.durability() {
            PutDurability::Durable => Durability::Durable,
            PutDurability::Unsynced => Durability::Unsynced,
            PutDurability::Relaxed => Durability::Relaxed,
        };
        let crcs = unpack(&put.crcs)
            .ok_or_else(|| Status::new(Code::Invalid, "the checksum vector is not made of 4-byte words"))?;
        let pg_epoch = PgEpoch(put.pg_epoch);
        slot.note_epoch(pg, pg_epoch);
        let put = Put { key, pg, pg_epoch, parts, crcs, file_offset_hint: put.file_offset_hint, durability };
        let begun = cairn_net::now();
        let ack = slot.put(put, &ctx.work).await.map_err(|error| status::of_put(&error, slot.retry_after()))?;
        if durability == Durability::Durable {
            slot.waited(Wait::Put, begun);
        }
        self.node.touch(key);
        Ok(pb::PutBlockReply { incarnation: ack.incarnation.0, existed: ack.existed })
    }

    fn check_membership(&self, slot: &StoreSlot, pg: PgId, shown: PgEpoch) -> Result<(), Status> {
        let Some(store) = slot.id() else { return Ok(()) };
        match admit_put(self.node.view.load().group(pg), store, shown) {
            Admission::Accept => Ok(()),
            Admission::AcceptAndRefresh => {
                self.node.wakes.map.notify_one();
                Ok(())
            }
            Admission::Stale(group) => {
                let message = format!("{store} takes no blocks of {pg} at epoch {}", group.epoch.0);
                Err(Status::new(Code::StaleEpoch, message).with_pg(group_to_pb(&group)))
            }
        }
    }

    async fn get(&self, ctx: &RequestContext, get: pb::GetBlock) -> Result<(response::Kind, Body), Status> {
        let slot = self.node.store(get.store)?;
        let _permit = self.node.gates.reads.admit()?;
        let key = BlockKey { block: block_id(get.block.as_ref())?, shard: shard(get.shard)? };
        let copies = ctx.peer.role == pb::Role::Node;
        if copies {
            self.node.trusted(slot)?;
            // Another member copies: it waits for its turn as copies to this store do.
            in_time(ctx.deadline, async {
                slot.repair_turn().await;
                Ok(())
            })
            .await?;
        } else {
            slot.ask_now();
        }
        let block = match on_disk(&ctx.work, self.read_header(slot, key, ctx.deadline)).await? {
            Ok(block) => block,
            Err(error) => return Err(self.failed_read(&error, PgId(get.pg))),
        };
        if block.is_empty() && get.offset == 0 && get.len == 0 {
            return Ok((response::Kind::Get(pb::GetBlockReply::default()), Body::empty()));
        }
        let range = chunk_range(get.offset, get.len, block.len()).ok_or_else(|| {
            let message = format!("block {key} has {} bytes, not {}+{}", block.len(), get.offset, get.len);
            Status::new(Code::Invalid, message)
        })?;
        let crcs =
            wanted_crcs(&block, range).ok_or_else(|| Status::new(Code::Internal, "checksum vector too short"))?;
        let reply = pb::GetBlockReply { block_len: block.len(), first_chunk: range.first, crcs: pack(crcs).into() };
        if copies {
            slot.spend(u64::from(range.len));
        }
        let body = match block.os_file() {
            Some(file) => Body::from_parts(file_parts(key, &file, block.payload_offset(), crcs, range)),
            None => on_disk(&ctx.work, read_parts(key, block, range)).await?,
        };
        Ok((response::Kind::Get(reply), body))
    }

    /// Reads the header of a block's record: on this thread when it was read lately, else where a disk may be waited
    /// for. The payload is left to the connection, which does not wait for a disk on this thread either.
    async fn read_header(
        &self,
        slot: &Arc<StoreSlot>,
        key: BlockKey,
        deadline: Option<Instant>,
    ) -> Result<Result<StoredBlock, ReadError>, Status> {
        let read = if self.node.is_warm(key) {
            slot.read(key)
        } else {
            let begun = cairn_net::now();
            let permit = in_time(deadline, async {
                let permit = self.node.gates.cold_reads.clone().acquire_owned().await;
                Ok(permit.expect("this semaphore is never closed"))
            });
            let read = slot.read_cold(key, permit.await?).await;
            slot.waited(Wait::Read, begun);
            read
        };
        // Only now: while its first reader waits for a disk, a second one has to wait where that harms nobody, too.
        self.node.touch(key);
        Ok(read)
    }

    /// Notes what a failed read tells about our own state.
    fn failed_read(&self, error: &ReadError, pg: PgId) -> Status {
        match error {
            ReadError::NotFound { key } => self.node.misses.lock().insert(*key, pg),
            ReadError::Quarantined { .. } | ReadError::Corrupt { .. } => self.node.wakes.heal.notify_one(),
            ReadError::Io { .. } => {}
        }
        status::of_read(error)
    }

    async fn sync(&self, sync: pb::SyncBlocks) -> Result<pb::SyncBlocksReply, Status> {
        let slot = self.node.store(sync.store)?;
        let _permit = self.node.gates.writes.admit()?;
        bounded(sync.blocks.len())?;
        let keys = sync.blocks.iter().map(|block| block_id(Some(block)).map(BlockKey::replica));
        let begun = cairn_net::now();
        let ack = slot
            .sync(keys.collect::<Result<_, _>>()?)
            .await
            .map_err(|error| status::of_sync(&error, slot.retry_after()))?;
        slot.waited(Wait::Sync, begun);
        let missing = ack.missing.iter().map(|key| block_to_pb(key.block)).collect();
        Ok(pb::SyncBlocksReply { incarnation: ack.incarnation.0, missing })
    }

    async fn delete(&self, delete: pb::DeleteBlocks) -> Result<pb::DeleteBlocksReply, Status> {
        let slot = self.node.store(delete.store)?;
        let _permit = self.node.gates.writes.admit()?;
        let keys: Vec<BlockKey> = runs_blocks(&delete.runs)?.into_iter().map(BlockKey::replica).collect();
        let pg = PgId(delete.pg);
        let command = Authority { duty_epoch: delete.duty_epoch, pg, pg_epoch: PgEpoch(delete.pg_epoch) };
        let known = self.node.view.load().epoch(pg);
        let home = self.node.home.clone();
        match blocking(move || home.fence.admit(&home.disk, command, known)).await {
            Ok(()) => {}
            Err(AdmitError::Stale(stale)) => {
                let status = Status::new(Code::StaleEpoch, format!("delete refused: {stale}"));
                return Err(match self.node.view.load().group(pg) {
                    Some(group) => status.with_pg(group_to_pb(group)),
                    None => status,
                });
            }
            Err(AdmitError::Io(error)) => {
                return Err(Status::new(Code::Io, format!("cannot keep the epochs of this command: {error}")));
            }
        }
        {
            let mut deleted = self.node.deleted.lock();
            keys.iter().for_each(|key| deleted.insert(*key, ()));
        }
        let ack = slot.delete(keys).await.map_err(|error| status::of_delete(&error, slot.retry_after()))?;
        self.node.progress.deleted_blocks.fetch_add(ack.deleted as u64, Ordering::Relaxed);
        Ok(pb::DeleteBlocksReply { deleted: u32::try_from(ack.deleted).unwrap_or(u32::MAX) })
    }

    async fn list(&self, list: pb::ListBlocks) -> Result<pb::ListBlocksReply, Status> {
        let slot = self.node.store(list.store)?;
        self.node.trusted(slot)?;
        let _permit = self.node.gates.reads.admit()?;
        let after = match &list.after {
            Some(after) => Some(BlockKey::replica(block_id(Some(after))?)),
            None => None,
        };
        let limit = match list.limit as usize {
            0 => BLOCKS_PER_REQUEST_MAX,
            limit => limit.min(BLOCKS_PER_REQUEST_MAX),
        };
        let page = slot.list(PgId(list.pg), after, limit).await.map_err(|closed| status::of_closed(&closed))?;
        let next_after = page.last().filter(|_| page.len() == limit).map(|info| block_to_pb(info.key.block));
        Ok(pb::ListBlocksReply { runs: fold_runs(page.iter().map(|info| info.key.block)), next_after })
    }

    async fn scrub(&self, ask: pb::ScrubStores) -> Result<pb::ScrubStoresReply, Status> {
        let slots: Vec<&Arc<StoreSlot>> = match ask.store {
            0 => self.node.stores.iter().filter(|slot| slot.id().is_some()).collect(),
            store => vec![self.node.store(store)?],
        };
        let mut stores = Vec::with_capacity(slots.len());
        for slot in slots {
            if ask.start && slot.is_open() {
                scrub::begin(slot, true).await.map_err(|closed| status::of_closed(&closed))?;
            }
            stores.push(slot.scrub.to_pb(slot.id().unwrap_or_default()));
        }
        Ok(pb::ScrubStoresReply { stores })
    }

    async fn inventory_digest(&self, ask: pb::InventoryDigest) -> Result<pb::InventoryDigestReply, Status> {
        let slot = self.node.store(ask.store)?;
        self.node.trusted(slot)?;
        let _permit = self.node.gates.reads.admit()?;
        let parts = ask.parts;
        if parts == 0 || parts > DIGEST_PARTS_MAX || ask.part.is_some_and(|part| part >= parts) {
            return Err(Status::new(Code::Invalid, format!("part {:?} of {parts} parts", ask.part)));
        }
        bounded(ask.open_writers.len())?;
        let open = ask.open_writers.iter().copied().map(WriterId).collect();
        let (pg, writers) = (PgId(ask.pg), ComparedWriters { below: WriterId(ask.below_writer), open });
        let Some(part) = ask.part else {
            let digests = slot.ask(move |store| store.digest(pg, &writers, parts)).await;
            let digests = digests.map_err(|closed| status::of_closed(&closed))?;
            return Ok(pb::InventoryDigestReply { digests: pack_digests(&digests), ..Default::default() });
        };
        let after = ask.after.as_ref().map(|after| block_id(Some(after)).map(BlockKey::replica)).transpose()?;
        let page = slot
            .ask(move |store| store.list_part(pg, &writers, (part, parts), after, BLOCKS_PER_REQUEST_MAX))
            .await
            .map_err(|closed| status::of_closed(&closed))?;
        let next_after = page.last().filter(|_| page.len() == BLOCKS_PER_REQUEST_MAX).copied().map(block_to_pb);
        Ok(pb::InventoryDigestReply { runs: fold_runs(page), next_after, ..Default::default() })
    }

    /// A reader saw bad bytes, or none where there should be some. The answer says only that it was looked into: what
    /// was confirmed repairs itself from here.
    async fn report_corrupt(&self, report: pb::ReportCorrupt) -> Result<pb::Empty, Status> {
        let slot = self.node.store(report.store)?;
        let key = BlockKey { block: block_id(report.block.as_ref())?, shard: shard(report.shard)? };
        let permit = self.node.gates.verifies.admit()?;
        match slot.verify(key, permit).await {
            Ok(()) => tracing::info!(block = %key, store = report.store, "reported block is whole here"),
            Err(ReadError::NotFound { .. }) => {
                let pg = self.node.misses.lock().get(&key);
                if let (Some(pg), Some(store)) = (pg, slot.id()) {
                    self.node.note_missing(store, key, pg, Finder::Read);
                }
            }
            Err(ReadError::Quarantined { .. } | ReadError::Corrupt { .. }) => self.node.wakes.heal.notify_one(),
            Err(error @ ReadError::Io { .. }) => return Err(status::of_read(&error)),
        }
        Ok(pb::Empty::default())
    }

    fn node_status(&self) -> pb::NodeStatusReply {
        let stores = self.node.stores.iter().map(|slot| self.node.beat(slot)).collect();
        pb::NodeStatusReply { node_id: self.node.id().0, stores }
    }
}

fn bare<T>(wrap: impl Fn(T) -> response::Kind) -> impl Fn(T) -> (response::Kind, Body) {
    move |reply| (wrap(reply), Body::empty())
}

/// Counts the time of `work`, nearly all of which is waiting for a disk.
async fn on_disk<T>(time: &WorkTime, work: impl Future<Output = T>) -> T {
    let begun = cairn_net::now();
    let done = work.await;
    time.add_disk(cairn_net::now().saturating_duration_since(begun));
    done
}

fn too_late() -> Status {
    Status::new(Code::Deadline, "the caller's deadline passed before this was done here")
}

/// Waits for `work` no longer than the caller does. What it has begun in a store goes on.
async fn in_time<T>(deadline: Option<Instant>, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.unwrap_or_else(|_| Err(too_late())),
        None => work.await,
    }
}

fn bounded(count: usize) -> Result<(), Status> {
    if count > BLOCKS_PER_REQUEST_MAX {
        let message = format!("{count} blocks in one request, at most {BLOCKS_PER_REQUEST_MAX} are allowed");
        return Err(Status::new(Code::TooLarge, message));
    }
    Ok(())
}

fn wanted_crcs(block: &StoredBlock, range: ChunkRange) -> Option<&[u32]> {
    block.crcs().get(range.first as usize..(range.first + range.count) as usize)
}

/// Cuts a chunk range into pieces of [`PART_LEN`], each with the checksum of its bare bytes.
fn pieces(key: BlockKey, crcs: &[u32], range: ChunkRange) -> Vec<(u32, u32, u32)> {
    let chunks_per_part = (PART_LEN / CHUNK_LEN) as usize;
    let mut rest = range.len;
    let mut offset = range.offset;
    let mut first = range.first;
    let mut pieces = Vec::with_capacity(crcs.len().div_ceil(chunks_per_part));
    for part in crcs.chunks(chunks_per_part) {
        let len = rest.min(PART_LEN);
        pieces.push((offset, len, body_crc(key.block, key.shard, first, part, u64::from(len))));
        (offset, rest, first) = (offset + len, rest - len, first + part.len() as u32);
    }
    pieces
}

fn file_parts(key: BlockKey, file: &OsFile, payload_offset: u64, crcs: &[u32], range: ChunkRange) -> Vec<BodyPart> {
    let part = |(offset, len, crc)| {
        let offset = payload_offset + u64::from(offset);
        BodyPart::File { file: file.clone(), offset, len, crc }
    };
    pieces(key, crcs, range).into_iter().map(part).collect()
}

/// The body in memory, for disks without an operating system's file behind them.
async fn read_parts(key: BlockKey, block: StoredBlock, range: ChunkRange) -> Result<Body, Status> {
    let read = move || {
        (0..range.len)
            .step_by(PART_LEN as usize)
            .map(|at| {
                let data = block.read_at(range.offset + at, (range.len - at).min(PART_LEN))?;
                Ok(BodyPart::Bytes { crc: crc32c(&data), data })
            })
            .collect::<std::io::Result<Vec<BodyPart>>>()
    };
    let parts = blocking(read).await.map_err(|error| Status::new(Code::Io, format!("cannot read {key}: {error}")))?;
    Ok(Body::from_parts(parts))
}
