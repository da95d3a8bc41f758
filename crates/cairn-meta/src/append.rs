//! Appends: metadata says where the data lands, in the transaction that makes it visible.
//!
//! Small ones become part of the file's last row, so that a log of many short lines has few rows. When that row gets too
//! long, the client writes it as a block together with what it appends.

use crate::error::{Op, fail};
use crate::keys;
use crate::map_tx::{Map, placed_inline};
use crate::meta::Meta;
use crate::rows::{self, Content};
use crate::tx::Tx;
use crate::write::{commit_reply, content_changed, grow_to, sorted_pieces, write_pieces};
use bytes::{Bytes, BytesMut};
use cairn_proto::limits::{FILE_LEN_MAX, PAGE_BYTES_MAX, TAIL_INLINE_PER_INLINE};
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::Code;

impl Meta {
    pub(crate) async fn append(&self, tx: &mut Tx, session: u64, ask: &pb::Append) -> Op<Reply> {
        let mut row = tx.file(ask.inode).await?;
        let landed = row.size;
        match (ask.data.is_empty(), ask.pieces.is_empty()) {
            (true, true) => return Ok(commit_reply(&row, landed)),
            (false, false) => return fail(Code::Invalid, "an append has pieces or bytes, not both"),
            (false, true) => {
                let tail_max = self.inner.options.inline_max as usize * TAIL_INLINE_PER_INLINE as usize;
                // A page of extents has to hold it.
                lengthen_tail(tx, tail_max.min(PAGE_BYTES_MAX / 2), ask.inode, &mut row, &ask.data).await?;
            }
            (true, false) => append_pieces(tx, session, ask, &mut row).await?,
        }
        content_changed(tx, &mut row, ask.mtime_ns);
        tx.put(&keys::Inode { inode: ask.inode }, &row);
        Ok(commit_reply(&row, landed))
    }
}

/// Makes `data` a part of the file's last row, or a row of its own behind a run of blocks or a hole.
async fn lengthen_tail(tx: &mut Tx, tail_max: usize, inode: u64, row: &mut rows::Inode, data: &Bytes) -> Op<()> {
    let Some(end) = row.size.checked_add(data.len() as u64).filter(|end| *end <= FILE_LEN_MAX) else {
        return fail(Code::TooLarge, format!("{} bytes behind the {} of inode {inode}", data.len(), row.size));
    };
    let map = Map { inode, generation: row.generation };
    let last = map.row_before(tx, row.size).await?.filter(|last| last.end() == row.size);
    let (offset, content) = match last.as_ref().map(|last| (last.offset, &last.extent.content)) {
        Some((offset, Content::Inline(tail))) => {
            let mut joined = BytesMut::with_capacity(tail.len() + data.len());
            joined.extend_from_slice(tail);
            joined.extend_from_slice(data);
            (offset, joined.freeze())
        }
        Some((_, Content::Blocks(_))) | None => (row.size, data.clone()),
    };
    if content.len() > tail_max {
        return fail(Code::NotInline, format!("a last row of {} bytes; at most {tail_max} are kept", content.len()));
    }
    map.put(tx, &placed_inline(offset, content, tx.birth));
    grow_to(tx, row, end);
    Ok(())
}

async fn append_pieces(tx: &mut Tx, session: u64, ask: &pb::Append, row: &mut rows::Inode) -> Op<()> {
    if ask.tail_len > 0 && (ask.tail_version != row.version || ask.tail_len > row.size) {
        let message =
            format!("inode {} is at version {}, its end was read at {}", ask.inode, row.version, ask.tail_version);
        return fail(Code::Conflict, message);
    }
    let start = row.size - ask.tail_len;
    let pieces = match sorted_pieces(&ask.pieces, start) {
        Ok(pieces) => pieces,
        Err(why) => return fail(Code::Invalid, why),
    };
    let mut end = start;
    for piece in &pieces {
        if piece.offset != end {
            return fail(Code::Invalid, format!("the pieces of an append leave a gap at {end}"));
        }
        end += piece.len;
    }
    if end <= row.size {
        return fail(Code::Invalid, "an append that adds nothing to the tail that it writes anew");
    }
    write_pieces(tx, session, ask.writer, ask.inode, row, &pieces).await
}
