//! Attributes and listings.

use crate::access::{self, Caller, READ, WRITE};
use crate::error::{Op, fail};
use crate::extents;
use crate::keys;
use crate::kv::{Durability, Order};
use crate::limits::{COUNTED_ENTRIES_MAX, COUNTED_ENTRIES_PER_PAGE, MEASURED_ROWS_MAX};
use crate::map_tx::Map;
use crate::meta::{Meta, transact};
use crate::names::{MODE_BITS, attr_of};
use crate::path::{self, Last, show};
use crate::permit;
use crate::rows::{self, Kind, inode_flag};
use crate::slot::Step;
use crate::truncate;
use crate::tx::Tx;
use crate::xattrs;
use bytes::Bytes;
use cairn_proto::limits::{FILE_LEN_MAX, PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use prost::Message;

/// Entries whose rows are fetched together.
const ENTRIES_PER_STEP: usize = 128;

/// Attributes of an inode whose row is at hand.
pub(crate) async fn whole_attr(tx: &mut Tx, inode: u64, row: &rows::Inode) -> Op<pb::Attr> {
    match row.kind {
        Kind::File if row.flags & inode_flag::SPARSE != 0 => {
            let allocated = Some(allocated(tx, inode, row).await?);
            Ok(pb::Attr { allocated, ..attr_of(inode, row, None, Bytes::new()) })
        }
        Kind::File | Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
            Ok(attr_of(inode, row, None, Bytes::new()))
        }
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

/// Adds the map of a file's first bytes to its attributes, if it is asked for.
async fn add_map(tx: &mut Tx, attr: &mut pb::Attr, len: u64) -> Op<()> {
    if len > 0 && attr.kind() == pb::Kind::File {
        let ask = pb::GetExtents { inode: attr.inode, offset: 0, len, known_version: 0 };
        attr.map = Some(extents::page_of(tx, &ask).await?);
    }
    Ok(())
}

/// Bytes of a file that are no hole, as far as a look at its map may take; what lies behind is taken for content.
async fn allocated(tx: &mut Tx, inode: u64, row: &rows::Inode) -> Op<u64> {
    let map = Map { inode, generation: row.generation };
    let rows = map.rows_in(tx, 0..FILE_LEN_MAX, MEASURED_ROWS_MAX, Order::Forward).await?;
    let seen: u64 = rows.iter().map(|row| row.extent.len).sum();
    let unseen = match rows.last() {
        Some(last) if rows.len() == MEASURED_ROWS_MAX => row.size.saturating_sub(last.end()),
        _ => 0,
    };
    Ok(seen + unseen)
}

/// Sets the link count of a directory that has few entries, as many as `budget` allows to look at; see decision 24.
async fn count_links(tx: &mut Tx, attr: &mut pb::Attr, budget: &mut usize) -> Op<()> {
    let most = (*budget).min(COUNTED_ENTRIES_MAX);
    if attr.kind() != pb::Kind::Directory || most == 0 {
        return Ok(());
    }
    let range = keys::dentries_after(attr.inode, &[]);
    let entries = tx.scan::<keys::Dentry>(&range, most + 1, Order::Forward).await?;
    *budget = budget.saturating_sub(entries.len().max(1));
    if entries.len() <= most {
        let subdirectories = entries.iter().filter(|(_, dentry)| dentry.kind == Kind::Directory).count();
        attr.nlink = 2 + subdirectories as u32;
    }
    Ok(())
}

/// Writes the row of an inode whose attributes changed.
pub(crate) async fn changed(tx: &mut Tx, inode: u64, row: &mut rows::Inode) -> Op<()> {
    row.ctime_ns = tx.now_ns;
    row.birth = tx.birth;
    if row.kind == Kind::Directory {
        // Its times are in a row of their own, which creates in it write.
        let key = keys::DirTimes { inode };
        let mtime_ns = tx.get_unvalidated(&key).await?.map_or(row.mtime_ns, |times| times.mtime_ns);
        tx.put(&key, &rows::DirTimes { mtime_ns, ctime_ns: tx.now_ns, birth: tx.birth });
    }
    tx.put(&keys::Inode { inode }, row);
    Ok(())
}

/// What is to be changed of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Change {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    atime_ns: Option<i64>,
    mtime_ns: Option<i64>,
    size: Option<u64>,
}

impl Change {
    fn of(ask: &pb::SetAttr, now_ns: i64) -> Self {
        Self {
            mode: ask.mode.map(|mode| mode & MODE_BITS),
            uid: ask.uid,
            gid: ask.gid,
            atime_ns: if ask.atime_now { Some(now_ns) } else { ask.atime_ns },
            mtime_ns: if ask.mtime_now { Some(now_ns) } else { ask.mtime_ns },
            size: ask.size,
        }
    }
}

/// Whether the caller may change what is asked; see chmod(2), chown(2), utimensat(2), truncate(2).
async fn check_change(tx: &mut Tx, inode: u64, row: &rows::Inode, ask: &pb::SetAttr, shown: &[u8]) -> Op<()> {
    let Some(caller) = tx.caller.clone() else { return Ok(()) };
    if ask.mode.is_some() {
        permit::own(Some(&caller), row, "the mode")?;
    }
    if (ask.uid.is_some() || ask.gid.is_some()) && !access::may_chown(&caller, (row.uid, row.gid), ask.uid, ask.gid) {
        let message = format!("user {} may not change owner or group of {:?} so", caller.uid, show(shown));
        return fail(Code::NotPermitted, message);
    }
    let sets_time = (ask.atime_ns.is_some() && !ask.atime_now) || (ask.mtime_ns.is_some() && !ask.mtime_now);
    if sets_time {
        permit::own(Some(&caller), row, "times to other than now")?;
    } else if (ask.atime_now || ask.mtime_now) && !caller.owns(row.uid) {
        permit::check(tx, inode, row, WRITE, shown).await?;
    }
    if ask.size.is_some() {
        permit::check(tx, inode, row, WRITE, shown).await?;
    }
    Ok(())
}

/// Brings a change into `row`, which the caller writes; the length is not its business.
async fn apply(tx: &mut Tx, inode: u64, row: &mut rows::Inode, change: &Change) -> Op<()> {
    row.uid = change.uid.unwrap_or(row.uid);
    row.gid = change.gid.unwrap_or(row.gid);
    if let Some(mode) = change.mode {
        row.mode = access::chmod(tx.caller.as_ref(), row.kind, row.gid, mode);
        xattrs::chmod_acl(tx, inode, row).await?;
    } else if change.uid.is_some() || change.gid.is_some() {
        row.mode = access::without_privileges(row.kind, row.mode);
    }
    row.atime_ns = change.atime_ns.unwrap_or(row.atime_ns);
    row.mtime_ns = change.mtime_ns.unwrap_or(row.mtime_ns);
    row.ctime_ns = tx.now_ns;
    row.birth = tx.birth;
    Ok(())
}

/// The rights that a request names.
pub(crate) fn check_want(want: u32) -> Op<u32> {
    if want > 7 {
        return fail(Code::Invalid, format!("{want} is no sum of 4 read, 2 write, 1 execute"));
    }
    Ok(want)
}

impl Meta {
    pub(crate) async fn access(&self, ask: &pb::Access, caller: Option<&Caller>) -> Result<Reply, Status> {
        let at = path::at(ask.at.as_ref());
        let last = if ask.follow { Last::Follow } else { Last::Keep };
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.looks_only();
            tx.caller = caller.cloned();
            let inode = path::find(tx, &at, last).await?;
            let row = tx.inode(inode).await?;
            permit::check(tx, inode, &row, check_want(ask.want)?, &at.path).await?;
            let mut attr = whole_attr(tx, inode, &row).await?;
            add_map(tx, &mut attr, ask.map_len).await?;
            Ok(Reply::Attr(attr))
        })
    }

    pub(crate) async fn stat(&self, ask: &pb::Stat, caller: Option<&Caller>) -> Result<Reply, Status> {
        let at = path::at(ask.at.as_ref());
        let last = if ask.follow { Last::Follow } else { Last::Keep };
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.looks_only();
            tx.caller = caller.cloned();
            let inode = path::find(tx, &at, last).await?;
            let row = tx.inode(inode).await?;
            let mut attr = whole_attr(tx, inode, &row).await?;
            if ask.count_links {
                count_links(tx, &mut attr, &mut { COUNTED_ENTRIES_MAX }).await?;
            }
            add_map(tx, &mut attr, ask.map_len).await?;
            Ok(Reply::Attr(attr))
        })
    }

    pub(crate) async fn set_attr(&self, tx: &mut Tx, ask: &pb::SetAttr) -> Op<Step> {
        let at = path::at(ask.at.as_ref());
        let last = if ask.follow { Last::Follow } else { Last::Keep };
        let inode = path::find(tx, &at, last).await?;
        let mut row = tx.inode(inode).await?;
        let change = Change::of(ask, tx.now_ns);
        if change == Change::default() {
            return whole_attr(tx, inode, &row).await.map(|attr| Step::Done(Reply::Attr(attr)));
        }
        check_change(tx, inode, &row, ask, &at.path).await?;
        if let Some(size) = change.size {
            if row.kind == Kind::Directory {
                return fail(Code::IsADirectory, show(&at.path));
            }
            if row.kind != Kind::File {
                return fail(Code::Invalid, format!("a {} has no length to set", row.kind.word()));
            }
            if !truncate::resize(tx, inode, &mut row, size, change.mtime_ns).await? {
                tx.put(&keys::Inode { inode }, &row);
                return Ok(Step::Partial);
            }
        }
        apply(tx, inode, &mut row, &change).await?;
        let only_times = change == Change { mtime_ns: change.mtime_ns, ..Change::default() };
        if row.kind == Kind::Directory {
            let key = keys::DirTimes { inode };
            let old = tx.get_unvalidated(&key).await?.map_or(row.mtime_ns, |times| times.mtime_ns);
            let mtime_ns = change.mtime_ns.unwrap_or(old);
            tx.put(&key, &rows::DirTimes { mtime_ns, ctime_ns: tx.now_ns, birth: tx.birth });
        }
        // Creates in a directory read its row: one that only gets new times does not meet them.
        if row.kind != Kind::Directory || !only_times {
            tx.put(&keys::Inode { inode }, &row);
        } else {
            let (kind, parent, version) = (row.kind, row.parent, row.version);
            let what = pb::ChangeOf::Attributes as u32;
            tx.noted.push(rows::Change::Changed { inode, kind, parent, what, version });
        }
        whole_attr(tx, inode, &row).await.map(|attr| Step::Done(Reply::Attr(attr)))
    }

    pub(crate) async fn read_dir(&self, ask: &pb::ReadDir, caller: Option<&Caller>) -> Result<Reply, Status> {
        let at = path::at(ask.at.as_ref());
        let limit = if ask.limit == 0 { PAGE_ROWS_MAX } else { (ask.limit as usize).min(PAGE_ROWS_MAX) };
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.looks_only();
            tx.caller = caller.cloned();
            let dir = path::find(tx, &at, Last::Follow).await?;
            let row = tx.directory(dir).await?;
            permit::check(tx, dir, &row, READ, &at.path).await?;
            let mut reply = pb::ReadDirReply { entries: Vec::new(), end: false, dir };
            let mut after = ask.after.clone();
            let mut bytes = 0;
            let mut budget = if ask.count_links { COUNTED_ENTRIES_PER_PAGE } else { 0 };
            while reply.entries.len() < limit {
                let step = (limit - reply.entries.len()).min(ENTRIES_PER_STEP);
                let entries = entries_after(tx, dir, &after, step, ask.with_attr).await?;
                let found = entries.len();
                for mut entry in entries {
                    if let Some(attr) = &mut entry.attr {
                        count_links(tx, attr, &mut budget).await?;
                    }
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
