//! Quotas: how many bytes and inodes may lie below a directory.
//!
//! Every inode names the root that it counts against: the nearest directory with a quota above it, when it was made. What a
//! transaction adds or removes stands in its entry of the change log (feed/), so usage is as exact as the namespace, and no
//! two creates meet in a usage row: each server sums up its own log into its own rows, and usage is the rows together with
//! the entries that are not in them yet.
//!
//! A server admits growth by what it knows: its own to the last byte, that of other servers as of its last look, at most a
//! second or two ago. So one server alone never exceeds a limit, and several exceed it at most by what the others admitted
//! since.

use crate::attrs::whole_attr;
use crate::error::{Op, fail};
use crate::feed::Paths;
use crate::keys::{self, Key, walk_purpose};
use crate::kv::{Durability, KeyRange, Order};
use crate::limits::{QUOTA_NAMES_PER_STEP, QUOTAS_MAX, TREE_DEPTH_MAX};
use crate::meta::{Meta, transact};
use crate::path::{self, Last};
use crate::permit;
use crate::rows::{self, Delta, Kind, quota_state};
use crate::tx::Tx;
use bytes::Bytes;
use cairn_proto::InodeId;
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};

/// Bytes and inodes.
pub(crate) type Sum = (i64, i64);

pub(crate) fn add(sums: &mut BTreeMap<u64, Sum>, root: u64, more: Sum) {
    let sum = sums.entry(root).or_default();
    *sum = (sum.0.saturating_add(more.0), sum.1.saturating_add(more.1));
}

/// CROSS_DEVICE unless `inode` may get a name in a directory that counts against `dir_root`.
pub(crate) fn check_same(inode: u64, row: &rows::Inode, dir_root: u64) -> Op<()> {
    // A directory with a quota of its own counts against that wherever it lies.
    if row.quota_root == dir_root || row.quota_root == inode {
        return Ok(());
    }
    fail(Code::CrossDevice, "the places count against different quotas: copy it there, then remove it here")
}

/// Limits in force and what is known of usage, in memory.
#[derive(Default)]
pub(crate) struct Quotas(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Limits that are enforced.
    limits: HashMap<u64, rows::Quota>,
    /// What other logs say, at the last look.
    others: BTreeMap<u64, Sum>,
    /// Growth of transactions under way.
    reserved: BTreeMap<u64, Sum>,
}

impl Quotas {
    /// Takes over what a look found.
    fn learn(&self, limits: HashMap<u64, rows::Quota>, others: BTreeMap<u64, Sum>) {
        let mut known = self.0.lock();
        known.limits = limits;
        known.others = others;
    }

    /// Reserves growth, or says which limit it would exceed. `own` tells what the own log adds for a root. An
    /// `exempt` transaction is counted and never refused.
    pub(crate) fn reserve(&self, deltas: &[Delta], exempt: bool, own: impl Fn(u64) -> Sum) -> Result<(), Status> {
        let mut known = self.0.lock();
        for delta in deltas {
            let Some(limit) = known.limits.get(&delta.root).filter(|_| !exempt) else { continue };
            let sum = |sums: &BTreeMap<u64, Sum>| sums.get(&delta.root).copied().unwrap_or_default();
            let (others, reserved, own) = (sum(&known.others), sum(&known.reserved), own(delta.root));
            let used = (others.0 + reserved.0 + own.0, others.1 + reserved.1 + own.1);
            let over = |limit: u64, used: i64, more: i64| {
                limit > 0 && more > 0 && used.saturating_add(more) > i64::try_from(limit).unwrap_or(i64::MAX)
            };
            if over(limit.bytes, used.0, delta.bytes) {
                let message = format!(
                    "the quota of directory {} allows {} bytes; {} are used and {} more do not fit",
                    delta.root, limit.bytes, used.0, delta.bytes
                );
                return Err(Status::new(Code::QuotaExceeded, message));
            }
            if over(limit.inodes, used.1, delta.inodes) {
                let message = format!(
                    "the quota of directory {} allows {} inodes, and {} are used",
                    delta.root, limit.inodes, used.1
                );
                return Err(Status::new(Code::QuotaExceeded, message));
            }
        }
        // What a transaction under way may give back is not counted upon.
        for delta in deltas {
            add(&mut known.reserved, delta.root, (delta.bytes.max(0), delta.inodes.max(0)));
        }
        Ok(())
    }

    /// Gives back what [`Quotas::reserve`] took; `settle` takes it over in the same moment, as the own log knows it.
    pub(crate) fn release(&self, deltas: &[Delta], settle: impl FnOnce()) {
        let mut known = self.0.lock();
        settle();
        for delta in deltas {
            add(&mut known.reserved, delta.root, (-delta.bytes.max(0), -delta.inodes.max(0)));
            if known.reserved.get(&delta.root) == Some(&(0, 0)) {
                known.reserved.remove(&delta.root);
            }
        }
    }
}

/// Usage of `roots` as the usage rows and the entries behind them say, the log `except` left out.
pub(crate) async fn usage_of(tx: &mut Tx, roots: &[u64], except: Option<u32>) -> Op<BTreeMap<u64, Sum>> {
    let mut sums: BTreeMap<u64, Sum> = roots.iter().map(|root| (*root, (0, 0))).collect();
    for root in roots {
        let range = keys::with_fields::<keys::QuotaUsage>(&[&root.to_be_bytes()]);
        for (key, row) in tx.scan::<keys::QuotaUsage>(&range, crate::limits::FEED_LOGS_MAX, Order::Forward).await? {
            if Some(key.log) != except {
                add(&mut sums, *root, (row.bytes, row.inodes));
            }
        }
    }
    for delta in crate::feed::unfolded_deltas(tx, except).await? {
        if sums.contains_key(&delta.root) {
            add(&mut sums, delta.root, (delta.bytes, delta.inodes));
        }
    }
    Ok(sums)
}

fn quota_info(root: u64, row: &rows::Quota, used: Sum, path: Option<Bytes>) -> pb::QuotaInfo {
    pb::QuotaInfo {
        root,
        bytes: row.bytes,
        inodes: row.inodes,
        used_bytes: u64::try_from(used.0).unwrap_or(0),
        used_inodes: u64::try_from(used.1).unwrap_or(0),
        counting: row.state != quota_state::ACTIVE,
        path: path.unwrap_or_default(),
    }
}

/// CONFLICT while a count is under way that this one would meet.
async fn check_no_count(tx: &mut Tx, dir: u64, any: bool) -> Op<()> {
    let busy = |root: u64| {
        let message = format!("what lies below directory {root} is being counted; try again when that is done");
        fail(Code::Conflict, message)
    };
    for (key, row) in tx.table::<keys::Quota>(QUOTAS_MAX).await? {
        if row.state == quota_state::ENDING || (any && row.state != quota_state::ACTIVE) {
            return busy(key.root);
        }
    }
    let mut at = dir;
    for _ in 0..TREE_DEPTH_MAX {
        if at == InodeId::ROOT.0 || at == crate::trash::NOWHERE {
            return Ok(());
        }
        at = path::parent_of(tx, at).await?;
        if tx.get(&keys::Quota { root: at }).await?.is_some_and(|row| row.state != quota_state::ACTIVE) {
            return busy(at);
        }
    }
    Ok(())
}

/// Has everything below `dir` counted anew; true when there is nothing.
async fn begin_count(tx: &mut Tx, dir: u64) -> Op<bool> {
    if tx.scan::<keys::Dentry>(&keys::dentries_of(dir), 1, Order::Forward).await?.is_empty() {
        return Ok(true);
    }
    let walk = keys::TreeWalk { purpose: walk_purpose::QUOTA, root: dir, dir };
    tx.put(&walk, &rows::TreeWalk { after: Bytes::new() });
    Ok(false)
}

impl Meta {
    pub(crate) async fn set_quota(&self, tx: &mut Tx, ask: &pb::SetQuota) -> Op<Reply> {
        let dir = path::find(tx, &path::at(ask.at.as_ref()), Last::Follow).await?;
        let mut row = tx.directory(dir).await?;
        if tx.caller.as_ref().is_some_and(|caller| !caller.is_root()) {
            return fail(Code::NotPermitted, "only user 0 may change quotas");
        }
        let key = keys::Quota { root: dir };
        let known = tx.get(&key).await?;
        tx.exempt = true;
        match known {
            None if ask.remove => return fail(Code::NotFound, format!("directory {dir} has no quota")),
            Some(quota) if ask.remove => {
                if quota.state != quota_state::ENDING {
                    check_no_count(tx, dir, true).await?;
                    row.quota_root = match dir == InodeId::ROOT.0 || row.parent == crate::trash::NOWHERE {
                        true => 0,
                        false => tx.directory(row.parent).await?.quota_root,
                    };
                    tx.put(&keys::Inode { inode: dir }, &row);
                    match begin_count(tx, dir).await? {
                        true => tx.delete(&key),
                        false => tx.put(&key, &rows::Quota { state: quota_state::ENDING, ..quota }),
                    }
                }
            }
            Some(quota) => {
                if quota.state == quota_state::ENDING {
                    check_no_count(tx, dir, true).await?;
                }
                let (bytes, inodes) = (ask.bytes.unwrap_or(quota.bytes), ask.inodes.unwrap_or(quota.inodes));
                tx.put(&key, &rows::Quota { bytes, inodes, ..quota });
            }
            None => {
                check_no_count(tx, dir, false).await?;
                if tx.table::<keys::Quota>(QUOTAS_MAX).await?.len() >= QUOTAS_MAX {
                    return fail(Code::TooLarge, format!("{QUOTAS_MAX} directories have quotas"));
                }
                row.quota_root = dir;
                tx.put(&keys::Inode { inode: dir }, &row);
                let state = if begin_count(tx, dir).await? { quota_state::ACTIVE } else { quota_state::COUNTING };
                let (bytes, inodes) = (ask.bytes.unwrap_or(0), ask.inodes.unwrap_or(0));
                tx.put(&key, &rows::Quota { bytes, inodes, state });
            }
        }
        whole_attr(tx, dir, &row).await.map(Reply::Attr)
    }

    pub(crate) async fn get_quota(&self, ask: &pb::GetQuota) -> Result<Reply, Status> {
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.looks_only();
            let at = path::at(ask.at.as_ref());
            let inode = path::find(tx, &at, Last::Follow).await?;
            let row = tx.inode(inode).await?;
            permit::search(tx, InodeId::ROOT.0, &at.path).await?;
            let root = row.quota_root;
            let mut reply = pb::GetQuotaReply::default();
            if let Some(quota) = tx.get(&keys::Quota { root }).await? {
                reply.quota = Some(self.describe(tx, root, &quota).await?);
            }
            Ok(Reply::GetQuota(reply))
        })
    }

    async fn describe(&self, tx: &mut Tx, root: u64, quota: &rows::Quota) -> Op<pb::QuotaInfo> {
        let used = usage_of(tx, &[root], None).await?.remove(&root).unwrap_or_default();
        let mut paths = Paths::new(&self.inner.feed.names, InodeId::ROOT.0);
        let path = paths.dir(tx, root).await?.absolute();
        Ok(quota_info(root, quota, used, Some(path)))
    }

    pub(crate) async fn list_quotas(&self, ask: &pb::ListQuotas) -> Result<Reply, Status> {
        let range = KeyRange { start: keys::Quota { root: ask.after + 1 }.encode(), end: keys::Quota::all().end };
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.looks_only();
            let rows = tx.scan::<keys::Quota>(&range, QUOTAS_PER_PAGE, Order::Forward).await?;
            let end = rows.len() < QUOTAS_PER_PAGE;
            let roots: Vec<u64> = rows.iter().map(|(key, _)| key.root).collect();
            let used = usage_of(tx, &roots, None).await?;
            let mut paths = Paths::new(&self.inner.feed.names, InodeId::ROOT.0);
            let mut quotas = Vec::with_capacity(rows.len());
            for (key, row) in &rows {
                let path = paths.dir(tx, key.root).await?.absolute();
                let used = used.get(&key.root).copied().unwrap_or_default();
                // A path may be long; the reply is not: whoever wants it asks for the one.
                let path = (path.len() <= PATH_SHOWN_MAX).then_some(path);
                quotas.push(quota_info(key.root, row, used, path));
            }
            Ok(Reply::ListQuotas(pb::ListQuotasReply { quotas, end }))
        })
    }

    /// Looks at limits, and at usage as other servers wrote it down.
    ///
    /// # Errors
    /// As [`Meta::execute`]; what was known stays.
    pub fn refresh_quotas(&self) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async move {
            let own = self.inner.feed.own_number();
            let (limits, others) = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
                let rows = tx.table::<keys::Quota>(QUOTAS_MAX).await?;
                let roots: Vec<u64> = rows.iter().map(|(key, _)| key.root).collect();
                let others = if roots.is_empty() { BTreeMap::new() } else { usage_of(tx, &roots, own).await? };
                let active = rows.into_iter().filter(|(_, row)| row.state == quota_state::ACTIVE);
                Ok((active.map(|(key, row)| (key.root, row)).collect::<HashMap<_, _>>(), others))
            })?;
            self.inner.quotas.learn(limits, others);
            Ok(())
        })
    }

    /// Counts a part of a tree against another root, after a quota was set or removed. True while there is more to do.
    ///
    /// # Errors
    /// As [`Meta::execute`]; call again.
    pub fn count_quotas(&self) -> BoxFuture<'_, Result<bool, Status>> {
        Box::pin(async move { Ok(self.as_holder(self.count_quotas_step()).await?.unwrap_or(false)) })
    }

    async fn count_quotas_step(&self) -> Result<bool, Status> {
        let step = (self.inner.engine.limits().writes / 4).clamp(1, QUOTA_NAMES_PER_STEP);
        let (more, changed) = transact!(self, Durability::Durable, async |tx: &mut Tx| {
            tx.exempt = true;
            let queue = keys::with_fields::<keys::TreeWalk>(&[&[walk_purpose::QUOTA]]);
            let next = tx.scan::<keys::TreeWalk>(&queue, 1, Order::Reverse).await?;
            let Some((walk, at)) = next.into_iter().next() else { return Ok((false, false)) };
            let key = keys::Quota { root: walk.root };
            let Some(quota) = tx.get(&key).await? else {
                tx.delete(&walk);
                return Ok((true, false));
            };
            let range = keys::dentries_after(walk.dir, &at.after);
            let names = tx.scan::<keys::Dentry>(&range, step, Order::Forward).await?;
            stamp(tx, &walk, &quota, &names).await?;
            if names.len() == step
                && let Some((last, _)) = names.last()
            {
                tx.put(&walk, &rows::TreeWalk { after: last.name.clone() });
                return Ok((true, false));
            }
            tx.delete(&walk);
            let rest = keys::with_fields::<keys::TreeWalk>(&[&[walk_purpose::QUOTA], &walk.root.to_be_bytes()]);
            let done = tx.scan::<keys::TreeWalk>(&rest, 1, Order::Forward).await?.is_empty();
            if done {
                match quota.state {
                    quota_state::ENDING => tx.delete(&key),
                    _ => tx.put(&key, &rows::Quota { state: quota_state::ACTIVE, ..quota }),
                }
            }
            Ok((true, done))
        })?;
        if changed {
            self.refresh_quotas().await?;
        }
        Ok(more)
    }
}

/// Lets what `names` lead to count against the right root, and has directories among them walked.
async fn stamp(
    tx: &mut Tx,
    walk: &keys::TreeWalk,
    quota: &rows::Quota,
    names: &[(keys::Dentry, rows::Dentry)],
) -> Op<()> {
    let ending = quota.state == quota_state::ENDING;
    let root = if ending { tx.directory(walk.root).await?.quota_root } else { walk.root };
    let inodes: Vec<_> = names.iter().map(|(_, dentry)| keys::Inode { inode: dentry.inode }).collect();
    let found = tx.get_many(&inodes).await?;
    for (key, row) in inodes.into_iter().zip(found) {
        let Some(mut row) = row else { continue };
        let own = row.quota_root == key.inode && row.kind == Kind::Directory;
        let counts = if ending { row.quota_root == walk.root } else { row.quota_root != root };
        if own || !counts {
            continue;
        }
        row.quota_root = root;
        if row.kind == Kind::Directory {
            let below = keys::TreeWalk { dir: key.inode, ..walk.clone() };
            tx.put(&below, &rows::TreeWalk { after: Bytes::new() });
        }
        tx.put(&key, &row);
    }
    Ok(())
}

/// Quotas in one reply.
const QUOTAS_PER_PAGE: usize = 64;
/// Bytes of a path in a list of quotas.
const PATH_SHOWN_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(bytes: u64, inodes: u64, others: Sum) -> Quotas {
        let quotas = Quotas::default();
        let limit = rows::Quota { bytes, inodes, state: quota_state::ACTIVE };
        quotas.learn(HashMap::from([(7, limit)]), BTreeMap::from([(7, others)]));
        quotas
    }

    fn delta(bytes: i64, inodes: i64) -> [Delta; 1] {
        [Delta { root: 7, bytes, inodes }]
    }

    #[test]
    fn growth_under_way_counts_until_it_is_settled() {
        let quotas = quotas(100, 0, (50, 0));
        let code = |result: Result<(), Status>| result.map_err(|status| status.code);
        assert_eq!(quotas.reserve(&delta(30, 1), false, |_| (10, 0)), Ok(()));
        assert_eq!(code(quotas.reserve(&delta(11, 0), false, |_| (10, 0))), Err(Code::QuotaExceeded));
        assert_eq!(quotas.reserve(&delta(10, 0), false, |_| (10, 0)), Ok(()), "to the last byte");
        quotas.release(&delta(30, 1), || ());
        assert_eq!(quotas.reserve(&delta(30, 0), false, |_| (10, 0)), Ok(()));
    }

    #[test]
    fn what_shrinks_is_never_refused() {
        let quotas = quotas(10, 1, (50, 5));
        assert_eq!(quotas.reserve(&delta(-5, -1), false, |_| (0, 0)), Ok(()));
        assert_eq!(quotas.reserve(&delta(0, 0), false, |_| (0, 0)), Ok(()));
        assert!(quotas.reserve(&delta(1, -1), false, |_| (0, 0)).is_err());
        assert!(quotas.reserve(&delta(-1, 1), false, |_| (0, 0)).is_err());
        // What may be given back is not there yet.
        assert!(quotas.0.lock().reserved.get(&7).is_none_or(|sum| *sum == (0, 0)));
    }
}
