//! The version at which a cluster works, and how it is raised once all of its programs know the next one.
//!
//! Rows are written in the lowest version that can hold what they say, and until an upgrade is finalized nothing is made
//! that needs a later one: requests for it are refused, and what would only be nice to have (the birth time of an inode)
//! is left out. So the former program can be run again until then, and servers of both versions can serve side by side.

use crate::error::{Op, fail};
use crate::keys::{self, setting};
use crate::kv::Durability;
use crate::limits::{CLUSTER_VERSION, FORMAT_VERSION, LABEL_LEN_MAX};
use crate::meta::{Meta, transact};
use crate::rows;
use crate::state::NodeState;
use crate::tx::Tx;
use bytes::Bytes;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use cairn_proto::{op, pb};
use std::sync::atomic::Ordering;

/// The version that brought links, special files, attributes, locks, snapshots, quotas and the change feed.
pub(crate) const NAMESPACE_VERSION: u32 = 2;

/// Name and version of this program.
pub(crate) const SOFTWARE: &str = concat!("cairn/", env!("CARGO_PKG_VERSION"));

/// What a program says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Software {
    /// Its name and version; empty = it does not say.
    pub version: String,
    /// Newest cluster version it can take part in; 0 = it does not say, as the first programs do.
    pub newest: u32,
}

/// The version that a request needs. Requests that only ask about what may be there need none: there is nothing yet.
const fn needs(asked: u16) -> u32 {
    match asked {
        op::GET_XATTR | op::LIST_XATTRS | op::ACCESS | op::STAT_FS | op::RELEASE | op::LIST_LOCKS => 1,
        // It writes the rows of a commit.
        op::APPEND => 1,
        // By stream of work: names, content, snapshots, feed and quotas.
        op::LINK..=847 => NAMESPACE_VERSION,
        _ => 1,
    }
}

fn outdated(version: u32) -> String {
    format!(
        "the cluster works at version {version}, and this metadata server's program knows versions up to \
         {CLUSTER_VERSION}: run the newer program"
    )
}

fn row_of(number: u32) -> rows::Setting {
    rows::Setting { value: Bytes::copy_from_slice(&number.to_le_bytes()) }
}

const fn key_of(name: &'static [u8]) -> keys::Setting {
    keys::Setting { name: Bytes::from_static(name) }
}

async fn version_in(tx: &mut Tx) -> Op<u32> {
    let value = tx.get(&key_of(setting::CLUSTER_VERSION)).await?.map(|row| row.value);
    match value.as_deref().and_then(|value| <[u8; 4]>::try_from(value).ok()) {
        Some(bytes) => Ok(u32::from_le_bytes(bytes)),
        None => fail(Code::Corrupt, "metadata: the cluster version is missing or damaged"),
    }
}

impl Meta {
    /// The version at which the cluster works, as this server knows.
    pub fn cluster_version(&self) -> u32 {
        self.inner.version.load(Ordering::Acquire)
    }

    /// Refuses what needs a version that is not finalized.
    pub(crate) fn check_version(&self, kind: &Kind) -> Result<(), Status> {
        let (needed, version) = (needs(op::of(kind)), self.cluster_version());
        if needed <= version {
            return Ok(());
        }
        let name = op::name(op::of(kind));
        let message = format!(
            "{name} needs version {needed} of the cluster, which is at {version}: finalize the upgrade first (cairn admin \
             upgrade finalize)"
        );
        Err(Status::new(Code::Unsupported, message))
    }

    /// Reads the version again: another server may have finalized an upgrade. Call it every second.
    ///
    /// # Errors
    /// The engine does not serve; call again.
    pub async fn refresh_version(&self) -> Result<(), Status> {
        let found = transact!(self, Durability::Relaxed, async |tx: &mut Tx| version_in(tx).await)?;
        let before = self.inner.version.fetch_max(found, Ordering::AcqRel);
        if found > CLUSTER_VERSION && before <= CLUSTER_VERSION {
            tracing::error!("{}", outdated(found));
        }
        Ok(())
    }

    /// Refuses everything once the cluster works at a version that this program does not know: rows may be such that it
    /// would read them wrong.
    pub(crate) fn check_outdated(&self) -> Result<(), Status> {
        let version = self.cluster_version();
        if version <= CLUSTER_VERSION { Ok(()) } else { Err(Status::new(Code::Unavailable, outdated(version))) }
    }

    /// Refuses a node whose program does not know the version at which the cluster works.
    pub(crate) fn check_node(&self, addr: &str, software: &str, newest: u32) -> Result<(), Status> {
        // The first programs do not say.
        let (version, newest) = (self.cluster_version(), newest.max(1));
        if newest >= version {
            return Ok(());
        }
        let runs = if software.is_empty() { "an older program" } else { software };
        let message = format!(
            "the storage node {addr} runs {runs}, which knows versions up to {newest}; the cluster is at version \
             {version}: run the newer program"
        );
        Err(Status::new(Code::Unsupported, message))
    }

    /// Notes what a node says of its program.
    pub(crate) fn note_software(&self, node: u32, version: &str, newest: u32) {
        if version.is_empty() && newest == 0 {
            return;
        }
        let mut version = version.to_owned();
        version.truncate(version.floor_char_boundary(LABEL_LEN_MAX));
        self.inner.software.lock().insert(node, Software { version, newest });
    }

    fn upgrade_reply(&self) -> pb::UpgradeStatusReply {
        let known = self.inner.software.lock().clone();
        let role = "metadata server".to_owned();
        let mut software = vec![pb::Software {
            role: role.clone(),
            addr: self.inner.options.addr.clone(),
            id: self.server(),
            version: SOFTWARE.into(),
            newest: CLUSTER_VERSION,
            live: true,
        }];
        let others = self.inner.servers.lock().software(self.server(), self.now());
        software.extend(others.into_iter().map(|(id, row, live)| pb::Software {
            role: role.clone(),
            addr: row.addr,
            id,
            version: row.software,
            newest: row.newest,
            live,
        }));
        let cluster = self.inner.cluster.lock();
        for (id, node) in &cluster.nodes {
            let said = known.get(id).cloned().unwrap_or_default();
            software.push(pb::Software {
                role: "storage node".into(),
                addr: node.row.addr.clone(),
                id: *id,
                version: said.version,
                newest: said.newest,
                live: matches!(node.state, NodeState::Up | NodeState::Suspect),
            });
        }
        let cluster_version = self.cluster_version();
        let late = |software: &&pb::Software| software.live && software.newest < CLUSTER_VERSION;
        let obstacle = |software: &pb::Software| {
            let runs = if software.version.is_empty() { "an older program" } else { software.version.as_str() };
            format!(
                "{} {} at {} runs {runs}, which knows versions up to {}: upgrade it first",
                software.role,
                software.id,
                software.addr,
                software.newest.max(1)
            )
        };
        let obstacles = if cluster_version < CLUSTER_VERSION {
            software.iter().filter(late).map(obstacle).collect()
        } else {
            Vec::new()
        };
        pb::UpgradeStatusReply { cluster_version, newest: CLUSTER_VERSION, software, obstacles }
    }

    pub(crate) fn upgrade_status(&self) -> Reply {
        Reply::UpgradeStatus(self.upgrade_reply())
    }

    pub(crate) async fn finalize_upgrade(&self, ask: &pb::FinalizeUpgrade) -> Result<Reply, Status> {
        if ask.to != CLUSTER_VERSION {
            let message = format!("this server would finalize version {CLUSTER_VERSION}, not {}", ask.to);
            return Err(Status::new(Code::Conflict, message));
        }
        self.refresh_version().await?;
        // Servers that came since the last look count, too.
        self.look_around().await?;
        let reply = self.upgrade_reply();
        if let Some(obstacle) = reply.obstacles.first() {
            return Err(Status::new(Code::Conflict, obstacle.clone()));
        }
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let found = version_in(tx).await?;
            if found > CLUSTER_VERSION {
                return fail(Code::Conflict, format!("the cluster is at version {found} already"));
            }
            tx.put(&key_of(setting::CLUSTER_VERSION), &row_of(CLUSTER_VERSION));
            tx.put(&key_of(setting::FORMAT_VERSION), &row_of(FORMAT_VERSION));
            Ok(())
        })?;
        self.inner.version.fetch_max(CLUSTER_VERSION, Ordering::AcqRel);
        tracing::info!(version = CLUSTER_VERSION, "an operator finalized the upgrade");
        Ok(self.upgrade_status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cluster_could_do_before_needs_nothing() {
        for asked in [op::STAT, op::COMMIT, op::SET_POLICY, op::OPEN_SESSION, op::DUMP_ROWS, op::FINALIZE_UPGRADE] {
            assert_eq!(needs(asked), 1, "{}", op::name(asked));
        }
        for asked in [op::LINK, op::MKNOD, op::SET_XATTR, op::SUSTAIN] {
            assert_eq!(needs(asked), 2, "{}", op::name(asked));
        }
        assert_eq!(needs(op::LIST_XATTRS), 1, "there are none: that is an answer");
    }
}
