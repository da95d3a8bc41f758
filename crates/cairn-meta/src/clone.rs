//! Clones: files that share their blocks with another, until one of the two is changed.
//!
//! A clone is filled in steps while it has no name, and is named by PUBLISH or LINK, so nobody sees a part of one; what an
//! interrupted one leaves goes with its session. Each step takes some extents as they are, at the same offsets, and counts
//! the map of the clone at their blocks (shares.rs). The source may be a file in a snapshot: what nothing but snapshots
//! refers to is held garbage, and is taken back from there. The collector cannot have it: it is held as long as the
//! snapshot exists, which this transaction reads validated.

use crate::access::READ;
use crate::error::{Op, fail};
use crate::holds;
use crate::kv::Order;
use crate::limits::CLONE_ROWS_PER_STEP;
use crate::map::{self, Placed};
use crate::map_tx::Map;
use crate::meta::Meta;
use crate::permit;
use crate::rows::inode_flag;
use crate::shares;
use crate::tx::Tx;
use crate::write::{content_changed, grow_to};
use cairn_proto::limits::FILE_LEN_MAX;
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::Code;

impl Meta {
    pub(crate) async fn clone_range(&self, tx: &mut Tx, session: u64, ask: &pb::CloneRange) -> Op<Reply> {
        let from = tx.file(ask.from).await?;
        permit::check(tx, ask.from, &from, READ, b"the file to be cloned").await?;
        if ask.from_version != 0 && ask.from_version != from.version {
            let message = format!("inode {} is at version {}, expected {}", ask.from, from.version, ask.from_version);
            return fail(Code::Conflict, message);
        }
        let mut to = tx.file(ask.to).await?;
        if !holds::is_nameless(tx, session, ask.to, &to).await? {
            return fail(Code::Invalid, format!("inode {} is not a file of this session without a name", ask.to));
        }
        if (to.replicas, to.block_len) != (from.replicas, from.block_len) {
            return fail(Code::Invalid, "a clone has the replicas and the block length of what it is cloned from");
        }
        let clone = Map { inode: ask.to, generation: to.generation };
        if clone.row_before(tx, FILE_LEN_MAX).await?.is_some_and(|last| last.end() > ask.offset) {
            return fail(Code::Invalid, format!("the clone has content behind offset {}", ask.offset));
        }
        let source = Map { inode: ask.from, generation: from.generation };
        let rows = source.rows_in(tx, ask.offset..FILE_LEN_MAX, CLONE_ROWS_PER_STEP, Order::Forward).await?;
        let end = rows.len() < CLONE_ROWS_PER_STEP;
        let next_offset = match rows.last() {
            Some(last) if !end => last.end(),
            _ => from.size,
        };
        for row in rows {
            take(tx, clone, &row).await?;
        }
        to.flags |= from.flags & inode_flag::SPARSE;
        grow_to(tx, &mut to, next_offset);
        content_changed(tx, &mut to, None);
        tx.put(&crate::keys::Inode { inode: ask.to }, &to);
        Ok(Reply::CloneRange(pb::CloneRangeReply { next_offset, end }))
    }
}

/// Adds `row` of another map to `clone`, in which nothing lies behind its offset.
async fn take(tx: &mut Tx, clone: Map, row: &Placed) -> Op<()> {
    // A block that an earlier row refers to is counted already.
    let counted = match map::first_block(row) {
        Some(first) => clone.unreferenced(tx, vec![first]).await?.is_empty(),
        None => false,
    };
    clone.put(tx, row);
    for blocks in map::merge(map::blocks_behind(row, u32::from(counted))) {
        shares::add(tx, &blocks).await?;
    }
    Ok(())
}
