//! Storage policies of directories: what new files and directories below are given.
//!
//! A policy is in the row of every inode, taken from its directory when it is made, so that changing a directory's
//! touches nothing that is there already. Blocks of a file go to groups of exactly its replica count; the counts that
//! any directory was ever given are written down, so that there are groups for each.

use crate::attrs::whole_attr;
use crate::error::{Op, fail};
use crate::keys::{self, setting};
use crate::limits::POLICY_REPLICAS_MAX;
use crate::meta::{Meta, block_len_allowed};
use crate::path::{self, Last};
use crate::permit;
use crate::rows;
use crate::state::{Cluster, NodeState};
use crate::tx::Tx;
use crate::upgrade::NAMESPACE_VERSION;
use bytes::Bytes;
use cairn_proto::InodeId;
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::Code;
use std::collections::BTreeSet;

const KEY: keys::Setting = keys::Setting { name: Bytes::from_static(setting::REPLICA_COUNTS) };

/// The replica counts that some directory has or had: there are groups for each of them.
pub(crate) async fn replica_counts(tx: &mut Tx) -> Op<BTreeSet<u32>> {
    let written = tx.get(&KEY).await?.map(|row| row.value).unwrap_or_default();
    let mut counts: BTreeSet<u32> = written.iter().map(|count| u32::from(*count)).collect();
    // The count the namespace was made with; written down only when another joins it.
    if counts.is_empty()
        && let Some(root) = tx.get(&keys::Inode { inode: InodeId::ROOT.0 }).await?
    {
        counts.insert(root.replicas);
    }
    Ok(counts)
}

/// Checks the replica count that a new file asks for, where it asks for one.
pub(crate) async fn check_replicas(tx: &mut Tx, asked: u32, of_directory: u32) -> Op<()> {
    if asked == 0 || asked == of_directory || replica_counts(tx).await?.contains(&asked) {
        return Ok(());
    }
    let message = format!("{asked} replicas, which no directory has: there are no placement groups for that");
    fail(Code::Invalid, message)
}

/// Nodes that can hold a replica each.
fn nodes_with_stores(cluster: &Cluster) -> usize {
    let counts = |state| matches!(state, NodeState::Up | NodeState::Suspect);
    let homes: BTreeSet<u32> = cluster.stores.values().map(|store| store.row.node).collect();
    cluster.nodes.iter().filter(|(id, node)| counts(node.state) && homes.contains(id)).count()
}

/// Why a policy cannot be, if it cannot.
fn objection(ask: &pb::SetPolicy, nodes: usize) -> Option<(Code, String)> {
    if let Some(replicas) = ask.replicas {
        if !(1..=POLICY_REPLICAS_MAX).contains(&replicas) {
            let message = format!("{replicas} replicas; 1 to {POLICY_REPLICAS_MAX} are possible");
            return Some((Code::Invalid, message));
        }
        if nodes < replicas as usize {
            let message = format!("{replicas} replicas need as many storage nodes, and there are {nodes}");
            return Some((Code::Conflict, message));
        }
    }
    let bad = ask.block_len.filter(|len| !block_len_allowed(*len))?;
    Some((Code::Invalid, format!("a block length of {bad}; 64 KiB to 64 MiB in steps of 64 KiB")))
}

impl Meta {
    pub(crate) async fn set_policy(&self, tx: &mut Tx, ask: &pb::SetPolicy) -> Op<Reply> {
        let nodes = nodes_with_stores(&self.inner.cluster.lock());
        if let Some((code, message)) = objection(ask, nodes) {
            return fail(code, message);
        }
        let inode = path::find(tx, &path::at(ask.at.as_ref()), Last::Follow).await?;
        let mut row = tx.directory(inode).await?;
        permit::own(tx.caller.as_ref(), &row, "its policy")?;
        let mut counts = replica_counts(tx).await?;
        row.replicas = ask.replicas.unwrap_or(row.replicas);
        row.block_len = ask.block_len.unwrap_or(row.block_len);
        row.relaxed = ask.relaxed.unwrap_or(row.relaxed);
        if ask.trash_s.is_some_and(|seconds| seconds > 0) && tx.version < NAMESPACE_VERSION {
            let message =
                "a trash needs version 2 of the cluster: finalize the upgrade first (cairn admin upgrade finalize)";
            return fail(Code::Unsupported, message);
        }
        row.trash_s = ask.trash_s.unwrap_or(row.trash_s);
        row.ctime_ns = tx.now_ns;
        row.birth = tx.birth;
        if counts.insert(row.replicas) {
            let value = counts.iter().filter_map(|count| u8::try_from(*count).ok()).collect();
            tx.put(&KEY, &rows::Setting { value });
            tx.effects.map_changed = true;
        }
        tx.put(&keys::Inode { inode }, &row);
        let times = keys::DirTimes { inode };
        let mtime_ns = tx.get_unvalidated(&times).await?.map_or(row.mtime_ns, |times| times.mtime_ns);
        tx.put(&times, &rows::DirTimes { mtime_ns, ctime_ns: tx.now_ns, birth: tx.birth });
        whole_attr(tx, inode, &row).await.map(Reply::Attr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_said() {
        let ask = |replicas, block_len| pb::SetPolicy { replicas, block_len, ..Default::default() };
        assert_eq!(objection(&ask(Some(5), Some(1 << 20)), 5), None);
        assert_eq!(objection(&ask(None, None), 0), None);
        let code = |ask: pb::SetPolicy, nodes| objection(&ask, nodes).map(|(code, _)| code);
        assert_eq!(code(ask(Some(0), None), 5), Some(Code::Invalid));
        assert_eq!(code(ask(Some(6), None), 9), Some(Code::Invalid));
        assert_eq!(code(ask(Some(4), None), 3), Some(Code::Conflict));
        assert_eq!(code(ask(None, Some(100_000)), 3), Some(Code::Invalid));
    }
}
