//! The map of a file, read.

use crate::error::{Op, fail};
use crate::keys;
use crate::kv::{Durability, Order};
use crate::limits::{LACKING_ROWS_MAX, SCAN_ROWS};
use crate::map::{Placed, block_count};
use crate::map_tx::Map;
use crate::meta::{Meta, transact};
use crate::rows::{Content, Run};
use crate::tx::Tx;
use bytes::Bytes;
use cairn_proto::limits::{FILE_LEN_MAX, PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::Status;
use prost::Message;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Runs that members of one group lack, of one inode: store, writer, first and behind the last block.
type Lacks = Vec<(u32, u64, u32, u32)>;

/// Which members lack what, looked up once for each group and inode.
#[derive(Default)]
struct Lacking {
    known: BTreeMap<(u32, u64), Lacks>,
}

impl Lacking {
    async fn load(&mut self, tx: &mut Tx, pg: u32, inode: u64) -> Op<&Lacks> {
        match self.known.entry((pg, inode)) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => Ok(unknown.insert(lacks_of(tx, pg, inode).await?)),
        }
    }

    /// Stores known to lack a block of the run.
    async fn of(&mut self, tx: &mut Tx, run: &Run, len: u64) -> Op<Vec<u32>> {
        let (first, last) = (run.seq, run.seq + block_count(run, len));
        let mut stores = Vec::new();
        for pg in &run.pgs {
            for (store, writer, from, to) in self.load(tx, *pg, run.inode).await? {
                if *writer == run.writer && *from < last && *to > first && !stores.contains(store) {
                    stores.push(*store);
                }
            }
        }
        Ok(stores)
    }
}

async fn lacks_of(tx: &mut Tx, pg: u32, inode: u64) -> Op<Lacks> {
    let mut found = Vec::new();
    let members = tx.get(&keys::Pg { pg }).await?.map(|row| row.members).unwrap_or_default();
    for member in members {
        let fields = [&member.store.to_be_bytes()[..], &pg.to_be_bytes(), &inode.to_be_bytes()];
        let range = keys::with_fields::<keys::Degraded>(&fields);
        for (key, run) in tx.scan::<keys::Degraded>(&range, LACKING_ROWS_MAX, Order::Forward).await? {
            found.push((member.store, key.writer, key.seq, key.seq.saturating_add(run.count)));
        }
    }
    Ok(found)
}

async fn extent_of(tx: &mut Tx, lacking: &mut Lacking, row: Placed) -> Op<pb::Extent> {
    let (offset, len) = (row.offset, row.extent.len);
    Ok(match row.extent.content {
        Content::Inline(inline) => pb::Extent { offset, len, inline, ..Default::default() },
        Content::Blocks(run) => pb::Extent {
            offset,
            len,
            first: Some(pb::BlockId { inode: run.inode, writer: run.writer, seq: run.seq }),
            skip: run.skip,
            block_len: run.block_len,
            lacking: lacking.of(tx, &run, len).await?,
            pgs: run.pgs,
            codec: run.codec,
            flags: run.flags,
            inline: Bytes::new(),
        },
    })
}

impl Meta {
    pub(crate) async fn get_extents(&self, ask: &pb::GetExtents) -> Result<Reply, Status> {
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.looks_only();
            page_of(tx, ask).await.map(Reply::GetExtents)
        })
    }
}

/// What [`pb::GetExtents`] asks for.
pub(crate) async fn page_of(tx: &mut Tx, ask: &pb::GetExtents) -> Op<pb::GetExtentsReply> {
    let row = tx.file(ask.inode).await?;
    let end = ask.offset.saturating_add(ask.len).min(FILE_LEN_MAX).max(ask.offset);
    let mut reply = pb::GetExtentsReply {
        version: row.version,
        size: row.size,
        generation: row.generation,
        covered_to: ask.offset.saturating_add(ask.len),
        ..Default::default()
    };
    if ask.known_version == row.version {
        reply.unchanged = true;
        return Ok(reply);
    }
    if ask.offset > FILE_LEN_MAX {
        return fail(cairn_proto::status::Code::TooLarge, format!("offset {}", ask.offset));
    }
    let map = Map { inode: ask.inode, generation: row.generation };
    fill_page(tx, map, ask.offset..end, &mut reply).await?;
    Ok(reply)
}

/// Adds rows that touch `range` until the page is full.
async fn fill_page(tx: &mut Tx, map: Map, range: std::ops::Range<u64>, reply: &mut pb::GetExtentsReply) -> Op<()> {
    if range.is_empty() || reply.size == 0 {
        return Ok(());
    }
    let mut lacking = Lacking::default();
    let mut bytes = 0;
    let mut rows = Vec::new();
    if let Some(before) = map.row_before(tx, range.start).await?.filter(|row| row.overlaps(&range)) {
        rows.push(before);
    }
    let mut from = range.start;
    loop {
        let more = map.rows_in(tx, from..range.end, SCAN_ROWS, Order::Forward).await?;
        let is_last = more.len() < SCAN_ROWS;
        from = more.last().map_or(from, |row| row.offset + 1);
        rows.extend(more);
        for row in rows.drain(..) {
            let offset = row.offset;
            let extent = extent_of(tx, &mut lacking, row).await?;
            bytes += extent.encoded_len() + 4;
            let full = bytes > PAGE_BYTES_MAX || reply.extents.len() == PAGE_ROWS_MAX;
            if full && !reply.extents.is_empty() {
                reply.covered_to = offset.max(range.start);
                return Ok(());
            }
            reply.extents.push(extent);
        }
        if is_last {
            return Ok(());
        }
    }
}
