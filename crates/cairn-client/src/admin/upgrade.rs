//! The version at which a cluster works.

use super::Admin;
use crate::error::Error;
use cairn_proto::pb::{self, request, response};

/// A server or storage node, and what it runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Software {
    /// `metadata server` or `storage node`.
    pub role: String,
    /// Number of a node; 0 for a metadata server.
    pub id: u32,
    /// Where it listens.
    pub addr: String,
    /// Name and version of its program; empty = it does not say.
    pub version: String,
    /// Newest cluster version it can take part in; 0 = it does not say, as the first programs.
    pub newest: u32,
    /// It was heard of lately.
    pub live: bool,
}

/// How an upgrade stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpgradeStatus {
    /// The version at which the cluster works.
    pub cluster_version: u32,
    /// The newest version that the metadata server knows.
    pub newest: u32,
    /// Servers and nodes.
    pub software: Vec<Software>,
    /// Why it cannot be finalized now; empty = it can, or there is nothing to finalize.
    pub obstacles: Vec<String>,
}

impl UpgradeStatus {
    fn from_pb(reply: pb::UpgradeStatusReply) -> Self {
        let software =
            |pb::Software { role, addr, id, version, newest, live }| Software { role, id, addr, version, newest, live };
        Self {
            cluster_version: reply.cluster_version,
            newest: reply.newest,
            software: reply.software.into_iter().map(software).collect(),
            obstacles: reply.obstacles,
        }
    }
}

impl Admin {
    async fn ask_upgrade(&self, name: &'static str, kind: request::Kind) -> Result<UpgradeStatus, Error> {
        let work = async {
            match self.meta(kind).await? {
                response::Kind::UpgradeStatus(reply) => Ok(UpgradeStatus::from_pb(reply)),
                _ => Err(self.client.inner.unexpected(name)),
            }
        };
        self.operation(name, work).await
    }

    /// At which version the cluster works, and what its programs know.
    pub async fn upgrade_status(&self) -> Result<UpgradeStatus, Error> {
        self.ask_upgrade("upgrade_status", request::Kind::UpgradeStatus(pb::UpgradeStatus {})).await
    }

    /// Raises the cluster to version `to`. Programs that do not know it cannot be run again afterwards.
    ///
    /// # Errors
    /// `Conflict` when a live server or node does not know it, or the server would finalize another one; the status says
    /// which.
    pub async fn finalize_upgrade(&self, to: u32) -> Result<UpgradeStatus, Error> {
        self.ask_upgrade("finalize_upgrade", request::Kind::FinalizeUpgrade(pb::FinalizeUpgrade { to })).await
    }
}
