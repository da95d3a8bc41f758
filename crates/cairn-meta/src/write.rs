//! Writes become visible: blocks that a majority of their group holds, or small content kept inline.

use crate::access;
use crate::error::{Op, fail};
use crate::keys;
use crate::kv::Order;
use crate::map::Placed;
use crate::map_tx::{Loss, Map, placed_inline, placed_run};
use crate::members;
use crate::meta::{Meta, block_len_allowed};
use crate::rows::{self, Content, inode_flag};
use crate::slot::check_writer;
use crate::tx::Tx;
use cairn_proto::limits::{COMMIT_PIECES_MAX, FILE_LEN_MAX};
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::placement::Group;
use cairn_proto::status::{Code, Status};
use cairn_proto::{StoreId, layout, pb};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Pieces in order of offset, checked against limits and each other; `base` is added to their offsets.
pub(crate) fn sorted_pieces(pieces: &[pb::Piece], base: u64) -> Result<Vec<pb::Piece>, String> {
    if pieces.len() > COMMIT_PIECES_MAX {
        return Err(format!("{} pieces; at most {COMMIT_PIECES_MAX}", pieces.len()));
    }
    let mut sorted = pieces.to_vec();
    sorted.sort_by_key(|piece| piece.offset);
    let mut end = 0;
    let mut runs = Vec::with_capacity(sorted.len());
    for piece in &mut sorted {
        let shifted = piece.offset.checked_add(base).filter(|offset| *offset <= FILE_LEN_MAX);
        piece.offset = shifted.ok_or("a piece begins behind the largest file")?;
        if piece.len == 0 || !block_len_allowed(piece.block_len) {
            return Err(format!("a piece of {} bytes in blocks of {}", piece.len, piece.block_len));
        }
        let piece_end = piece.offset.checked_add(piece.len).filter(|end| *end <= FILE_LEN_MAX);
        let piece_end = piece_end.ok_or("a piece ends behind the largest file")?;
        if piece.offset < end {
            return Err(format!("two pieces cover offset {}", piece.offset));
        }
        end = piece_end;
        let blocks = layout::run_blocks(0, piece.len, piece.block_len);
        let last = u32::try_from(blocks).ok().and_then(|blocks| piece.first_seq.checked_add(blocks));
        runs.push((piece.first_seq, last.ok_or("block numbers of a piece overflow")?));
    }
    runs.sort_unstable();
    if runs.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return Err("two pieces name one block".into());
    }
    Ok(sorted)
}

/// A group's row as it travels; `bytes` is filled in by who knows.
pub(crate) fn pg_info(pg: u32, row: &rows::Pg, bytes: u64) -> pb::PgInfo {
    let member = |member: &rows::Member| pb::Member { store: member.store, state: member.state as i32 };
    pb::PgInfo {
        id: pg,
        epoch: row.epoch,
        replicas: row.replicas,
        members: row.members.iter().map(member).collect(),
        sealed: row.sealed,
        bytes,
    }
}

/// Checks each piece against its group as it is *now* and notes who lacks it.
async fn check_quorum(tx: &mut Tx, (inode, replicas): (u64, u32), writer: u64, pieces: &[pb::Piece]) -> Op<()> {
    let mut groups: BTreeMap<u32, (rows::Pg, pb::PgInfo)> = BTreeMap::new();
    for piece in pieces {
        let (row, info) = match groups.entry(piece.pg) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => match tx.get(&keys::Pg { pg: piece.pg }).await? {
                Some(row) => {
                    let info = pg_info(piece.pg, &row, 0);
                    unknown.insert((row, info))
                }
                None => return fail(Code::Invalid, format!("there is no placement group {}", piece.pg)),
            },
        };
        let group = Group::from_pb(info);
        if info.replicas != replicas {
            let message = format!(
                "placement group {} of {} replicas for a file of {replicas}: its policy asks for others",
                piece.pg, info.replicas
            );
            return fail(Code::Invalid, message);
        }
        let counts = |store: &u32| members::ack_counts(row, *store, piece.pg_epoch);
        let acked: Vec<StoreId> = piece.acked.iter().copied().filter(counts).map(StoreId).collect();
        if !group.has_quorum(&acked) {
            let message = format!(
                "placement group {} of {} replicas: {} of {:?} count now, which is no majority",
                piece.pg,
                group.replicas,
                group.write_targets().iter().filter(|store| acked.contains(store)).count(),
                piece.acked,
            );
            return Err(Status::new(Code::NoQuorum, message).with_pg(info.clone()).into());
        }
        let count = layout::run_blocks(0, piece.len, piece.block_len) as u32;
        for store in group.missing(&acked) {
            let key = keys::Degraded { store: store.0, pg: piece.pg, inode, writer, seq: piece.first_seq };
            tx.put(&key, &rows::RunLen { count });
        }
        tx.effects.pg_bytes.push((piece.pg, piece.len));
    }
    Ok(())
}

/// Lays checked pieces into the map. The caller writes the inode row.
pub(crate) async fn write_pieces(
    tx: &mut Tx,
    session: u64,
    writer: u64,
    inode: u64,
    row: &mut rows::Inode,
    pieces: &[pb::Piece],
) -> Op<()> {
    if pieces.is_empty() {
        return Ok(());
    }
    check_writer(tx, session, writer).await?;
    check_quorum(tx, (inode, row.replicas), writer, pieces).await?;
    let map = Map { inode, generation: row.generation };
    let mut loss = Loss::default();
    for piece in pieces {
        let end = piece.offset + piece.len;
        let before = map.punch(tx, piece.offset..end, &mut loss).await?;
        let run = rows::Run {
            inode,
            writer,
            seq: piece.first_seq,
            skip: 0,
            block_len: piece.block_len,
            pgs: vec![piece.pg],
            codec: 0,
            flags: 0,
        };
        let new = placed_run(piece.offset, piece.len, run, tx.birth);
        let new = before.and_then(|before| crate::map::continued(&before, &new)).unwrap_or(new);
        map.put(tx, &new);
        if piece.offset > row.size {
            row.flags |= inode_flag::SPARSE;
        }
        grow_to(tx, row, end);
    }
    map.settle(tx, loss).await
}

/// The file is at least `end` long.
pub(crate) fn grow_to(tx: &mut Tx, row: &mut rows::Inode, end: u64) {
    if end > row.size {
        tx.effects.file_bytes += (end - row.size) as i64;
        row.size = end;
    }
}

/// Inline content with `data` laid over it at `offset`, holes as zeros.
fn overlay(rows: &[Placed], offset: usize, data: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    let mut lay = |at: usize, bytes: &[u8]| {
        let end = at + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[at..end].copy_from_slice(bytes);
    };
    for row in rows {
        if let Content::Inline(bytes) = &row.extent.content {
            lay(row.offset as usize, bytes);
        }
    }
    lay(offset, data);
    content
}

/// Writes `data` into a file that stays small as a whole. The caller writes the inode row.
pub(crate) async fn write_inline(
    tx: &mut Tx,
    inline_max: u32,
    inode: u64,
    row: &mut rows::Inode,
    offset: u64,
    data: &[u8],
) -> Op<()> {
    let too_big = || fail(Code::NotInline, format!("files over {inline_max} bytes are kept in blocks"));
    let Some(end) = offset.checked_add(data.len() as u64).filter(|end| *end <= u64::from(inline_max)) else {
        return too_big();
    };
    if row.size > u64::from(inline_max) {
        return too_big();
    }
    let map = Map { inode, generation: row.generation };
    // Rows do not overlap and none is empty: there are at most as many as bytes.
    let rows = map.rows_in(tx, 0..FILE_LEN_MAX, inline_max as usize + 1, Order::Forward).await?;
    if rows.iter().any(|row| matches!(row.extent.content, Content::Blocks(_))) {
        return too_big();
    }
    let content = overlay(&rows, offset as usize, data);
    let mut loss = Loss::default();
    for old in &rows {
        map.replace(tx, old, &crate::map::Cut { left: None, right: None }, &mut loss);
    }
    map.put(tx, &placed_inline(0, content.into(), tx.birth));
    grow_to(tx, row, end);
    Ok(())
}

impl Meta {
    pub(crate) async fn commit_write(&self, tx: &mut Tx, session: u64, ask: &pb::Commit) -> Op<Reply> {
        let mut row = tx.file(ask.inode).await?;
        if let Some(expected) = ask.expected_version
            && expected != row.version
        {
            let message = format!("inode {} is at version {}, expected {expected}", ask.inode, row.version);
            return fail(Code::Conflict, message);
        }
        let base = if ask.append { row.size } else { 0 };
        let mut landed = base;
        match &ask.inline {
            Some(_) if !ask.pieces.is_empty() => {
                return fail(Code::Invalid, "a commit has pieces or inline content, not both");
            }
            // Nothing is written and nothing changes.
            Some(inline) if inline.data.is_empty() => return Ok(commit_reply(&row, base)),
            None if ask.pieces.is_empty() => return Ok(commit_reply(&row, base)),
            Some(inline) => {
                let offset = base.saturating_add(inline.offset);
                landed = offset;
                let inline_max = self.inner.options.inline_max;
                write_inline(tx, inline_max, ask.inode, &mut row, offset, &inline.data).await?;
            }
            None => {
                let pieces = match sorted_pieces(&ask.pieces, base) {
                    Ok(pieces) => pieces,
                    Err(why) => return fail(Code::Invalid, why),
                };
                if let Some(first) = pieces.first().filter(|_| ask.append) {
                    landed = first.offset;
                }
                write_pieces(tx, session, ask.writer, ask.inode, &mut row, &pieces).await?;
            }
        }
        content_changed(tx, &mut row, ask.mtime_ns);
        tx.put(&keys::Inode { inode: ask.inode }, &row);
        Ok(commit_reply(&row, landed))
    }
}

/// Version and times after a change of content.
pub(crate) fn content_changed(tx: &Tx, row: &mut rows::Inode, mtime_ns: Option<i64>) {
    row.version += 1;
    row.mtime_ns = mtime_ns.unwrap_or(tx.now_ns);
    row.ctime_ns = tx.now_ns;
    row.birth = tx.birth;
    if tx.caller.as_ref().is_some_and(|caller| !caller.is_root()) {
        row.mode = access::without_privileges(row.kind, row.mode);
    }
}

pub(crate) fn commit_reply(row: &rows::Inode, offset: u64) -> Reply {
    Reply::Commit(pb::CommitReply {
        version: row.version,
        size: row.size,
        generation: row.generation,
        offset,
        mtime_ns: row.mtime_ns,
    })
}

#[cfg(test)]
mod tests;
