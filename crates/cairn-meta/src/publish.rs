//! Files whose content comes first and whose name comes last.

use crate::error::{Op, fail};
use crate::holds;
use crate::keys::{self, counter};
use crate::kv::Order;
use crate::map_tx::Map;
use crate::meta::Meta;
use crate::names::{attr_of, name_at, new_row, put_dentry, replace_file};
use crate::path::{self, Last};
use crate::permit;
use crate::rows::{self, Kind, inode_flag};
use crate::tx::Tx;
use crate::upgrade::NAMESPACE_VERSION;
use crate::write::{grow_to, sorted_pieces, write_inline, write_pieces};
use bytes::Bytes;
use cairn_proto::limits::FILE_LEN_MAX;
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::Code;

impl Meta {
    /// INVALID unless the number was given out by AllocInodes and nothing was made with it.
    async fn check_unused(&self, tx: &mut Tx, inode: u64) -> Op<()> {
        let issued = self.inner.counters.is_issued(&*self.inner.engine, counter::INODE, inode).await?;
        let drops = keys::with_fields::<keys::MapDrop>(&[&inode.to_be_bytes()]);
        let used = tx.get(&keys::Inode { inode }).await?.is_some()
            || !tx.scan::<keys::MapDrop>(&drops, 1, Order::Forward).await?.is_empty();
        if issued && !used {
            return Ok(());
        }
        fail(Code::Invalid, format!("inode number {inode} was not reserved for this, or is in use"))
    }

    pub(crate) async fn create_unnamed(&self, tx: &mut Tx, session: u64, ask: &pb::CreateUnnamed) -> Op<Reply> {
        let inode = ask.inode;
        self.check_unused(tx, inode).await?;
        let dir = path::find(tx, &path::at(ask.dir.as_ref()), Last::Follow).await?;
        let dir_row = tx.directory(dir).await?;
        permit::add_to(tx, dir, &dir_row, b"the directory").await?;
        let attr = ask.attr.unwrap_or_default();
        let mut row = new_row(tx, (inode, Kind::File), (dir, &dir_row), &attr).await?;
        row.nlink = 0;
        // A hold of the first version says as much.
        if tx.version >= NAMESPACE_VERSION {
            row.flags |= inode_flag::NAMELESS;
        }
        tx.put(&keys::Inode { inode }, &row);
        holds::add(tx, session, inode).await?;
        tx.effects.inodes += 1;
        Ok(Reply::Attr(attr_of(inode, &row, None, Bytes::new())))
    }

    pub(crate) async fn publish(&self, tx: &mut Tx, session: u64, ask: &pb::Publish) -> Op<Reply> {
        let at = path::at(ask.at.as_ref());
        if !ask.inline.is_empty() && !ask.pieces.is_empty() {
            return fail(Code::Invalid, "a file is published with pieces or inline content, not both");
        }
        let slot = name_at(tx, &at, Last::Keep).await?;
        replace_file(tx, &slot, ask.replace, &at).await?;
        permit::add_to(tx, slot.dir, &slot.dir_row, &at.path).await?;
        let inode = ask.inode;
        let mut row = if ask.unnamed {
            self.named_now(tx, session, ask, slot.dir, &slot.dir_row).await?
        } else {
            self.check_unused(tx, inode).await?;
            tx.effects.inodes += 1;
            new_row(tx, (inode, Kind::File), (slot.dir, &slot.dir_row), &ask.attr.unwrap_or_default()).await?
        };
        self.fill(tx, session, ask, &mut row).await?;
        tx.put(&keys::Inode { inode }, &row);
        put_dentry(tx, slot.dir, &slot.name, inode, Kind::File);
        Ok(Reply::Attr(attr_of(inode, &row, None, Bytes::new())))
    }

    /// The row of an unnamed file that gets its name.
    async fn named_now(
        &self,
        tx: &mut Tx,
        session: u64,
        ask: &pb::Publish,
        dir: u64,
        dir_row: &rows::Inode,
    ) -> Op<rows::Inode> {
        let mut row = tx.inode(ask.inode).await?;
        if !holds::is_nameless(tx, session, ask.inode, &row).await? {
            return fail(Code::NotFound, format!("inode {} is not an unnamed file of this session", ask.inode));
        }
        row.flags &= !inode_flag::NAMELESS;
        row.nlink = 1;
        // Before the hold goes: it has its name by then.
        tx.put(&keys::Inode { inode: ask.inode }, &row);
        holds::take(tx, session, ask.inode).await?;
        row.version += 1;
        row.quota_root = dir_row.quota_root;
        row.parent = dir;
        row.ctime_ns = tx.now_ns;
        row.birth = tx.birth;
        // Owner, mode and what a directory hands down were settled when it was made.
        if let Some(attr) = &ask.attr {
            row.mtime_ns = attr.mtime_ns.unwrap_or(row.mtime_ns);
        }
        Ok(row)
    }

    /// Adds the content that comes with the name.
    async fn fill(&self, tx: &mut Tx, session: u64, ask: &pb::Publish, row: &mut rows::Inode) -> Op<()> {
        if !ask.inline.is_empty() {
            let map = Map { inode: ask.inode, generation: row.generation };
            if map.row_before(tx, FILE_LEN_MAX).await?.is_some() {
                return fail(Code::Invalid, "the file has content already");
            }
            write_inline(tx, self.inner.options.inline_max, ask.inode, row, 0, &ask.inline).await?;
        }
        match sorted_pieces(&ask.pieces, 0) {
            Ok(pieces) => write_pieces(tx, session, ask.writer, ask.inode, row, &pieces).await?,
            Err(why) => return fail(Code::Invalid, why),
        }
        if ask.size > FILE_LEN_MAX {
            return fail(Code::TooLarge, format!("a file of {} bytes", ask.size));
        }
        if ask.size < row.size && !(ask.unnamed && ask.size == 0) {
            return fail(Code::Invalid, format!("content of {} bytes in a file of {}", row.size, ask.size));
        }
        row.flags |= if ask.size > row.size { inode_flag::SPARSE } else { 0 };
        grow_to(tx, row, ask.size);
        Ok(())
    }
}
