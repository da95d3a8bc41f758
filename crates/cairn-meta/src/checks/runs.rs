//! Runs of blocks as metadata knows them, page by page: what a check from outside holds against the nodes.

use super::invalid_cursor;
use crate::keys::{self, Key};
use crate::kv::{Durability, KeyRange, Order};
use crate::map::block_count;
use crate::meta::{Meta, transact};
use crate::rows::{self, Content};
use bytes::Bytes;
use cairn_proto::limits::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use cairn_proto::pb;
use cairn_proto::pb::RunKind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use prost::Message;

impl Meta {
    pub(crate) async fn scan_runs(&self, ask: &pb::ScanRuns) -> Result<Reply, Status> {
        let limit = if ask.limit == 0 { PAGE_ROWS_MAX } else { (ask.limit as usize).min(PAGE_ROWS_MAX) };
        match ask.kind() {
            RunKind::Extents => self.scan_extents(&ask.cursor, limit).await,
            RunKind::Garbage => self.scan_garbage(&ask.cursor, limit).await,
            RunKind::Held => self.scan_held(&ask.cursor, limit).await,
            RunKind::Unknown => Err(Status::new(Code::Invalid, "which runs? extents, garbage or held garbage")),
        }
    }

    async fn scan_extents(&self, cursor: &Bytes, limit: usize) -> Result<Reply, Status> {
        let range = range_behind::<keys::Extent>(cursor)?;
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.looks_only();
            let rows = tx.scan::<keys::Extent>(&range, limit, Order::Forward).await?;
            let mut page = RunPage::new(rows.len() == limit);
            let mut generation_of: Option<(u64, Option<u32>)> = None;
            for (key, row) in rows {
                let generation = match generation_of {
                    Some((inode, generation)) if inode == key.inode => generation,
                    _ => {
                        let row = tx.get(&keys::Inode { inode: key.inode }).await?;
                        let generation = row.map(|row| row.generation);
                        generation_of = Some((key.inode, generation));
                        generation
                    }
                };
                let run = match row.content {
                    Content::Blocks(run) => Some(pb::PlacedRun {
                        run: Some(pb::Run {
                            first: Some(pb::BlockId { inode: run.inode, writer: run.writer, seq: run.seq }),
                            count: block_count(&run, row.len),
                        }),
                        block_len: run.block_len,
                        pgs: run.pgs,
                        len: row.len,
                        file_offset: key.offset,
                        inode: key.inode,
                        current: generation == Some(key.generation),
                    }),
                    Content::Inline(_) => None,
                };
                if !page.add(run, key.encode().into()) {
                    break;
                }
            }
            Ok(page.into_reply())
        })
    }

    async fn scan_garbage(&self, cursor: &Bytes, limit: usize) -> Result<Reply, Status> {
        let blocks_of = |key: &keys::Garbage| (key.pg, [key.inode, key.writer], key.seq);
        self.scan_dropped::<keys::Garbage>(cursor, limit, blocks_of).await
    }

    async fn scan_held(&self, cursor: &Bytes, limit: usize) -> Result<Reply, Status> {
        let blocks_of = |key: &keys::HeldGarbage| (key.pg, [key.inode, key.writer], key.seq);
        self.scan_dropped::<keys::HeldGarbage>(cursor, limit, blocks_of).await
    }

    async fn scan_dropped<K: Key<Row = rows::Garbage>>(
        &self,
        cursor: &Bytes,
        limit: usize,
        blocks_of: impl Fn(&K) -> (u32, [u64; 2], u32),
    ) -> Result<Reply, Status> {
        let range = range_behind::<K>(cursor)?;
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let rows = tx.scan::<K>(&range, limit, Order::Forward).await?;
            let mut page = RunPage::new(rows.len() == limit);
            for (key, row) in rows {
                let (pg, [inode, writer], seq) = blocks_of(&key);
                let first = Some(pb::BlockId { inode, writer, seq });
                let run = Some(pb::Run { first, count: row.count });
                let placed = pb::PlacedRun { run, pgs: vec![pg], inode, ..Default::default() };
                if !page.add(Some(placed), key.encode().into()) {
                    break;
                }
            }
            Ok(page.into_reply())
        })
    }
}

fn range_behind<K: Key>(cursor: &Bytes) -> Result<KeyRange, Status> {
    let mut range = K::all();
    if !cursor.is_empty() {
        K::decode(cursor).ok_or_else(invalid_cursor)?;
        range.start = KeyRange::successor(cursor);
    }
    Ok(range)
}

/// A page of runs that is being filled.
struct RunPage {
    reply: pb::ScanRunsReply,
    bytes: usize,
    /// Rows were left in the table.
    more: bool,
    last: Bytes,
}

impl RunPage {
    fn new(more: bool) -> Self {
        Self { reply: pb::ScanRunsReply::default(), bytes: 0, more, last: Bytes::new() }
    }

    /// Adds what the row at `key` says, if anything; false when the page is full before it.
    fn add(&mut self, run: Option<pb::PlacedRun>, key: Bytes) -> bool {
        if let Some(run) = run {
            self.bytes += run.encoded_len() + 4;
            if self.bytes > PAGE_BYTES_MAX && !self.reply.runs.is_empty() {
                self.more = true;
                return false;
            }
            self.reply.runs.push(run);
        }
        self.last = key;
        true
    }

    fn into_reply(self) -> Reply {
        let next_cursor = if self.more { self.last } else { Bytes::new() };
        Reply::ScanRuns(pb::ScanRunsReply { next_cursor, ..self.reply })
    }
}
