//! Copying blocks from other members of their group into one of our stores: what catch-up, self-repair and joining
//! have in common. A copy is verified chunk by chunk before it is stored, so a bad replica never spreads.

use super::slot::StoreSlot;
use super::state::Node;
use crate::limits::{COPIES_IN_FLIGHT_MAX, COPY_BATCH, COPY_TIMEOUT, DIGEST_TIMEOUT};
use crate::view::Source;
use crate::wire::{block_id, block_to_pb, unpack_digests};
use bytes::Bytes;
use cairn_net::WorkTime;
use cairn_proto::checksum::{first_mismatch, unpack};
use cairn_proto::limits::{BLOCK_LEN_MAX, CHUNK_LEN};
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, response};
use cairn_proto::status::Code;
use cairn_proto::{BlockId, PgId, StoreId};
use cairn_store::{BlockKey, ComparedWriters, Durability, PartDigest, Put, PutError};
use futures_util::StreamExt;
use std::collections::HashSet;
use std::sync::Arc;
use thiserror::Error;

/// Why a block could not be copied.
#[derive(Debug, Error)]
pub(crate) enum CopyError {
    /// Every other member that is known answered that it does not have the block: it was deleted meanwhile, or was
    /// never committed. Or it was deleted here on command.
    #[error("no member of {pg} has {key}")]
    Nowhere { pg: PgId, key: BlockKey },
    /// Nobody who may have it could be asked, or nobody had a good copy.
    #[error("no good copy of {key} could be had from {pg}: {last}")]
    Unreachable { pg: PgId, key: BlockKey, last: String },
    /// Our store did not take it.
    #[error("cannot store {key}")]
    Store {
        key: BlockKey,
        #[source]
        source: PutError,
    },
}

/// How making a store hold several blocks ended.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Blocks that had to be copied, and are durable here now.
    pub(crate) copied: usize,
    /// Their bytes.
    pub(crate) copied_bytes: u64,
    /// Blocks that are not here, or not known to be durable. All others are durable.
    pub(crate) lacking: HashSet<BlockId>,
    /// Those of `lacking` that no member has.
    pub(crate) nowhere: usize,
    /// The first failure of another kind.
    pub(crate) error: Option<String>,
}

impl Held {
    fn nothing(blocks: &[BlockId], error: String) -> Self {
        Self { lacking: blocks.iter().copied().collect(), error: Some(error), ..Self::default() }
    }

    fn add(&mut self, other: Held) {
        self.copied += other.copied;
        self.copied_bytes += other.copied_bytes;
        self.lacking.extend(other.lacking);
        self.nowhere += other.nowhere;
        self.error = self.error.take().or(other.error);
    }
}

/// A block as a peer sent it, whole and verified.
struct Fetched {
    content: Bytes,
    crcs: Vec<u32>,
}

/// What a peer's answer to GET was worth.
enum Answer {
    Whole(Fetched),
    NotFound,
    /// It has the block, but not as it was written; told so that it repairs itself.
    Bad {
        chunk: u32,
    },
    Failed(String),
}

impl Node {
    /// Makes `slot` hold every one of `blocks` durably, copying what it lacks. Cancelled, any part of that is done.
    pub(crate) async fn hold(&self, slot: &Arc<StoreSlot>, pg: PgId, blocks: &[BlockId]) -> Held {
        let mut held = Held::default();
        for batch in blocks.chunks(COPY_BATCH) {
            held.add(self.hold_batch(slot, pg, batch).await);
        }
        held
    }

    async fn hold_batch(&self, slot: &Arc<StoreSlot>, pg: PgId, blocks: &[BlockId]) -> Held {
        let keys: Vec<BlockKey> = blocks.iter().copied().map(BlockKey::replica).collect();
        // The sync makes durable what an unsynced put left here, and names what is not here intact.
        let missing = match slot.sync(keys).await {
            Ok(ack) => ack.missing,
            Err(error) => return Held::nothing(blocks, error.to_string()),
        };
        let mut held = Held::default();
        let mut fresh = Vec::new();
        let copies = missing.into_iter().map(|key| async move {
            let outcome = self.copy(slot, pg, key, Durability::Unsynced).await;
            (key, outcome)
        });
        let mut copies = futures_util::stream::iter(copies).buffer_unordered(COPIES_IN_FLIGHT_MAX);
        while let Some((key, outcome)) = copies.next().await {
            match outcome {
                Ok(bytes) => {
                    held.copied_bytes += bytes;
                    fresh.push(key);
                }
                Err(error) => {
                    held.lacking.insert(key.block);
                    match error {
                        CopyError::Nowhere { .. } => held.nowhere += 1,
                        error => drop(held.error.get_or_insert_with(|| error.to_string())),
                    }
                }
            }
        }
        held.add(Self::make_durable(slot, fresh).await);
        held
    }

    /// One sync for all copies of a batch.
    async fn make_durable(slot: &StoreSlot, fresh: Vec<BlockKey>) -> Held {
        if fresh.is_empty() {
            return Held::default();
        }
        let blocks: Vec<BlockId> = fresh.iter().map(|key| key.block).collect();
        match slot.sync(fresh).await {
            Ok(ack) => {
                let lacking: HashSet<BlockId> = ack.missing.iter().map(|key| key.block).collect();
                Held { copied: blocks.len() - lacking.len(), lacking, ..Held::default() }
            }
            Err(error) => Held::nothing(&blocks, error.to_string()),
        }
    }

    /// Copies one block, whether or not it is here; its length. It is as durable as asked when this returns.
    pub(crate) async fn copy(
        &self,
        slot: &Arc<StoreSlot>,
        pg: PgId,
        key: BlockKey,
        durability: Durability,
    ) -> Result<u64, CopyError> {
        // The turn comes first: a store that has to wait holds up no copy to another.
        slot.repair_turn().await;
        let _permit = self.copies.acquire().await.expect("this semaphore is never closed");
        if self.is_deleted(key) {
            return Err(CopyError::Nowhere { pg, key });
        }
        let own = slot.id().unwrap_or_default();
        let view = self.view.load_full();
        let sources = view.sources(pg, own);
        let mut last = None;
        let mut denied = 0;
        for source in &sources {
            match self.fetch(source, pg, key).await {
                Answer::Whole(fetched) => return self.store_copy(slot, pg, key, fetched, durability).await,
                Answer::NotFound => denied += 1,
                Answer::Bad { chunk } => {
                    self.tell_bad(source, key, chunk).await;
                    last = Some(format!("{} sent bad bytes in chunk {chunk}", source.peer.addr));
                }
                Answer::Failed(error) => last = Some(error),
            }
        }
        // Nowhere only when all who could have it have said no; a group that is not in our map yet says nothing.
        if denied > 0 && denied == sources.len() {
            return Err(CopyError::Nowhere { pg, key });
        }
        let last = last.unwrap_or_else(|| "no other member is known".to_owned());
        Err(CopyError::Unreachable { pg, key, last })
    }

    async fn fetch(&self, source: &Source, pg: PgId, key: BlockKey) -> Answer {
        let get = pb::GetBlock {
            block: Some(block_to_pb(key.block)),
            shard: u32::from(key.shard.0),
            pg: pg.0,
            offset: 0,
            len: 0,
            store: source.store.0,
        };
        let peer = &source.peer;
        let max = u64::from(BLOCK_LEN_MAX);
        match self.peers.call(peer.node, &peer.addr, Kind::Get(get), COPY_TIMEOUT, max).await {
            Ok((response::Kind::Get(reply), body)) => judge(key, &reply, body),
            Ok(_) => Answer::Failed(format!("{} answered another question than was asked", peer.addr)),
            Err(error) => match error.status().map(|status| status.code) {
                Some(Code::BlockNotFound) => Answer::NotFound,
                _ => Answer::Failed(error.to_string()),
            },
        }
    }

    async fn store_copy(
        &self,
        slot: &Arc<StoreSlot>,
        pg: PgId,
        key: BlockKey,
        fetched: Fetched,
        durability: Durability,
    ) -> Result<u64, CopyError> {
        let len = fetched.content.len();
        slot.spend(len as u64);
        let put = Put {
            key,
            pg,
            pg_epoch: self.view.load().epoch(pg),
            parts: vec![fetched.content],
            crcs: fetched.crcs,
            file_offset_hint: 0,
            durability,
        };
        slot.put(put, &WorkTime::default()).await.map_err(|source| CopyError::Store { key, source })?;
        self.progress.copied(len);
        slot.copied(len as u64);
        if self.is_deleted(key) {
            // The command to delete it came while it was on its way here.
            if let Err(error) = slot.delete(vec![key]).await {
                tracing::warn!(block = %key, %error, "a copy outlived its delete");
            }
            return Err(CopyError::Nowhere { pg, key });
        }
        Ok(len as u64)
    }

    fn is_deleted(&self, key: BlockKey) -> bool {
        self.deleted.lock().get(&key).is_some()
    }

    /// Tells a peer that its copy is bad. Best effort: its own scrub and the next reader find it too.
    pub(crate) async fn tell_bad(&self, source: &Source, key: BlockKey, chunk: u32) {
        let report = pb::ReportCorrupt {
            store: source.store.0,
            block: Some(block_to_pb(key.block)),
            shard: u32::from(key.shard.0),
            chunk,
        };
        let peer = &source.peer;
        tracing::warn!(store = %source.store, addr = peer.addr, block = %key, chunk, "a peer sent bad bytes");
        let told = self.peers.call(peer.node, &peer.addr, Kind::ReportCorrupt(report), COPY_TIMEOUT, 0).await;
        if let Err(error) = told {
            tracing::debug!(%error, "the peer could not be told");
        }
    }

    /// Digests of a member's inventory of a group, in so many parts.
    pub(crate) async fn digests(
        &self,
        source: &Source,
        pg: PgId,
        writers: &ComparedWriters,
        parts: u32,
    ) -> Result<Vec<PartDigest>, String> {
        let ask = digest_of(source, pg, writers, parts);
        let reply = self.ask_digest(source, ask).await?;
        unpack_digests(&reply.digests, parts).ok_or_else(|| format!("{} sent no digests", source.peer.addr))
    }

    /// Asks a member about its inventory.
    pub(crate) async fn ask_digest(
        &self,
        source: &Source,
        ask: pb::InventoryDigest,
    ) -> Result<pb::InventoryDigestReply, String> {
        let peer = &source.peer;
        let max = u64::from(CHUNK_LEN);
        match self.peers.call(peer.node, &peer.addr, Kind::InventoryDigest(ask), DIGEST_TIMEOUT, max).await {
            Ok((response::Kind::InventoryDigest(reply), _)) => Ok(reply),
            Ok(_) => Err(format!("{} answered another question than was asked", peer.addr)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// One page of a member's inventory, and where the next begins.
    pub(crate) async fn inventory_page(
        &self,
        source: &Source,
        pg: PgId,
        after: Option<BlockId>,
        limit: u32,
    ) -> Result<(Vec<BlockId>, Option<BlockId>), String> {
        let list = pb::ListBlocks { store: source.store.0, pg: pg.0, after: after.map(block_to_pb), limit };
        let peer = &source.peer;
        let max = u64::from(CHUNK_LEN);
        match self.peers.call(peer.node, &peer.addr, Kind::List(list), COPY_TIMEOUT, max).await {
            Ok((response::Kind::List(reply), _)) => {
                let blocks = crate::wire::runs_blocks(&reply.runs).map_err(|status| status.to_string())?;
                let next = reply.next_after.as_ref().map(|next| block_id(Some(next)));
                Ok((blocks, next.transpose().map_err(|status| status.to_string())?))
            }
            Ok(_) => Err(format!("{} answered another question than was asked", peer.addr)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The store of ours with this number.
    pub(crate) fn own(&self, store: StoreId) -> Option<&Arc<StoreSlot>> {
        self.stores.iter().find(|slot| slot.id() == Some(store))
    }
}

/// The question about all parts of an inventory.
pub(crate) fn digest_of(source: &Source, pg: PgId, writers: &ComparedWriters, parts: u32) -> pb::InventoryDigest {
    pb::InventoryDigest {
        store: source.store.0,
        pg: pg.0,
        below_writer: writers.below.0,
        open_writers: writers.open.iter().map(|writer| writer.0).collect(),
        parts,
        part: None,
        after: None,
    }
}

/// Holds a peer's answer against the checksums it came with, which themselves name block and chunk.
fn judge(key: BlockKey, reply: &pb::GetBlockReply, content: Bytes) -> Answer {
    let Some(crcs) = unpack(&reply.crcs) else { return Answer::Bad { chunk: 0 } };
    if reply.first_chunk != 0 || content.len() != reply.block_len as usize {
        return Answer::Bad { chunk: 0 };
    }
    match first_mismatch(key.block, key.shard, 0, &content, &crcs) {
        None => Answer::Whole(Fetched { content, crcs }),
        Some(chunk) => Answer::Bad { chunk },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::Shard;
    use cairn_proto::checksum::{chunk_crcs, pack};

    const KEY: BlockKey = BlockKey::replica(BlockId::new(1, 2, 3));

    fn answer(key: BlockKey, content: &[u8], cut: usize, first_chunk: u32) -> Answer {
        let crcs = chunk_crcs(KEY.block, Shard(0), content);
        let reply = pb::GetBlockReply { block_len: content.len() as u32, first_chunk, crcs: pack(&crcs).into() };
        judge(key, &reply, Bytes::copy_from_slice(&content[..content.len() - cut]))
    }

    #[test]
    fn only_the_whole_right_block_is_taken() {
        let content = vec![5; CHUNK_LEN as usize + 1000];
        assert!(matches!(answer(KEY, &content, 0, 0), Answer::Whole(_)));
        assert!(matches!(answer(KEY, &content, 1, 0), Answer::Bad { chunk: 0 }));
        assert!(matches!(answer(KEY, &content, 0, 1), Answer::Bad { chunk: 0 }));
        let other = BlockKey::replica(BlockId::new(1, 2, 4));
        assert!(matches!(answer(other, &content, 0, 0), Answer::Bad { chunk: 0 }));

        let crcs = chunk_crcs(KEY.block, Shard(0), &content);
        let reply = |crcs| pb::GetBlockReply { block_len: content.len() as u32, first_chunk: 0, crcs };
        let mut flipped = content.clone();
        flipped[CHUNK_LEN as usize + 5] ^= 1;
        assert!(matches!(judge(KEY, &reply(pack(&crcs).into()), flipped.into()), Answer::Bad { chunk: 1 }));
        let whole = Bytes::copy_from_slice(&content);
        assert!(matches!(judge(KEY, &reply(pack(&crcs[..1]).into()), whole.clone()), Answer::Bad { chunk: 1 }));
        assert!(matches!(judge(KEY, &reply(Bytes::from_static(&[1, 2, 3])), whole), Answer::Bad { chunk: 0 }));
    }

    #[test]
    fn what_one_batch_lacks_is_not_lost_in_the_sum() {
        let block = |seq| BlockId::new(1, 1, seq);
        let mut held = Held { copied: 3, ..Held::default() };
        held.add(Held { lacking: HashSet::from([block(1)]), nowhere: 1, ..Held::default() });
        held.add(Held::nothing(&[block(2)], "first".to_owned()));
        held.add(Held::nothing(&[block(3)], "second".to_owned()));
        assert_eq!(held.lacking, HashSet::from([block(1), block(2), block(3)]));
        assert_eq!((held.copied, held.nowhere, held.error.as_deref()), (3, 1, Some("first")));
    }
}
