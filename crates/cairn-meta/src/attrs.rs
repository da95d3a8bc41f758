//! Attributes and listings.

use crate::error::{Op, fail};
use crate::keys;
use crate::kv::{Durability, Order};
use crate::meta::{Meta, transact};
use crate::names::{MODE_BITS, attr_of};
use crate::path::{self, Last};
use crate::rows::{self, Kind};
use crate::tx::Tx;
use bytes::Bytes;
use cairn_proto::limits::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use prost::Message;

/// Entries whose rows are fetched together.
const ENTRIES_PER_STEP: usize = 128;

/// Attributes of an inode whose row is at hand.
pub(crate) async fn whole_attr(tx: &mut Tx, inode: u64, row: &rows::Inode) -> Op<pb::Attr> {
    match row.kind {
        Kind::File => Ok(attr_of(inode, row, None, Bytes::new())),
        Kind::Directory => {
            let times = tx.get_unvalidated(&keys::DirTimes { inode }).await?;
            Ok(attr_of(inode, row, times.as_ref(), Bytes::new()))
        }
        Kind::Symlink => {
            let link = tx.get(&keys::Symlink { inode }).await?;
            Ok(attr_of(inode, row, None, link.map(|link| link.target).unwrap_or_default()))
        }
    }
}

impl Meta {
    pub(crate) async fn stat(&self, ask: &pb::Stat) -> Result<Reply, Status> {
        let at = path::at(ask.at.as_ref());
        let last = if ask.follow { Last::Follow } else { Last::Keep };
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.looks_only();
            let inode = path::find(tx, &at, last).await?;
            let row = tx.inode(inode).await?;
            whole_attr(tx, inode, &row).await.map(Reply::Attr)
        })
    }

    pub(crate) async fn set_attr(&self, tx: &mut Tx, ask: &pb::SetAttr) -> Op<Reply> {
        let at = path::at(ask.at.as_ref());
        let last = if ask.follow { Last::Follow } else { Last::Keep };
        let inode = path::find(tx, &at, last).await?;
        let mut row = tx.inode(inode).await?;
        row.mode = ask.mode.map_or(row.mode, |mode| mode & MODE_BITS);
        row.uid = ask.uid.unwrap_or(row.uid);
        row.gid = ask.gid.unwrap_or(row.gid);
        row.atime_ns = ask.atime_ns.unwrap_or(row.atime_ns);
        row.mtime_ns = ask.mtime_ns.unwrap_or(row.mtime_ns);
        row.ctime_ns = tx.now_ns;
        row.birth = tx.birth;
        if row.kind == Kind::Directory {
            let key = keys::DirTimes { inode };
            let old = tx.get_unvalidated(&key).await?.map_or(row.mtime_ns, |times| times.mtime_ns);
            let mtime_ns = ask.mtime_ns.unwrap_or(old);
            tx.put(&key, &rows::DirTimes { mtime_ns, ctime_ns: tx.now_ns, birth: tx.birth });
        }
        // Creates in a directory read its row: one that only gets new times does not meet them.
        let only_times = ask.mode.is_none() && ask.uid.is_none() && ask.gid.is_none() && ask.atime_ns.is_none();
        if row.kind != Kind::Directory || !only_times {
            tx.put(&keys::Inode { inode }, &row);
        }
        whole_attr(tx, inode, &row).await.map(Reply::Attr)
    }

    pub(crate) async fn read_dir(&self, ask: &pb::ReadDir) -> Result<Reply, Status> {
        let at = path::at(ask.at.as_ref());
        let limit = if ask.limit == 0 { PAGE_ROWS_MAX } else { (ask.limit as usize).min(PAGE_ROWS_MAX) };
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.looks_only();
            let dir = path::find(tx, &at, Last::Follow).await?;
            tx.directory(dir).await?;
            let mut reply = pb::ReadDirReply { entries: Vec::new(), end: false, dir };
            let mut after = ask.after.clone();
            let mut bytes = 0;
            while reply.entries.len() < limit {
                let step = (limit - reply.entries.len()).min(ENTRIES_PER_STEP);
                let entries = entries_after(tx, dir, &after, step, ask.with_attr).await?;
                let found = entries.len();
                for entry in entries {
                    bytes += entry.encoded_len() + 4;
                    // One entry always fits: a name and a link target are bounded.
                    if bytes > PAGE_BYTES_MAX && !reply.entries.is_empty() {
                        return Ok(Reply::ReadDir(reply));
                    }
                    after = entry.name.clone();
                    reply.entries.push(entry);
                }
                if found < step {
                    reply.end = true;
                    break;
                }
            }
            Ok(Reply::ReadDir(reply))
        })
    }
}

async fn entries_after(tx: &mut Tx, dir: u64, after: &[u8], limit: usize, with_attr: bool) -> Op<Vec<pb::DirEntry>> {
    let range = keys::dentries_after(dir, after);
    let dentries = tx.scan::<keys::Dentry>(&range, limit, Order::Forward).await?;
    let mut entries = Vec::with_capacity(dentries.len());
    let inodes = if with_attr {
        let keys: Vec<_> = dentries.iter().map(|(_, dentry)| keys::Inode { inode: dentry.inode }).collect();
        tx.get_many(&keys).await?
    } else {
        vec![None; dentries.len()]
    };
    for ((key, dentry), row) in dentries.into_iter().zip(inodes) {
        let attr = match (&row, with_attr) {
            (Some(row), _) => Some(whole_attr(tx, dentry.inode, row).await?),
            (None, true) => return fail(Code::Corrupt, format!("metadata: inode {} is missing", dentry.inode)),
            (None, false) => None,
        };
        let kind = dentry.kind.to_pb() as i32;
        entries.push(pb::DirEntry { name: key.name, inode: dentry.inode, kind, attr });
    }
    Ok(entries)
}
