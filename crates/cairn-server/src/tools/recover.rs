//! An embedded engine made anew from what storage nodes keep of it.

use super::OpenEngine;
use crate::entropy;
use crate::limits::{METALOG_FETCH_MAX, RECOVER_TIMEOUT};
use crate::links::{CallError, Dialer};
use bytes::Bytes;
use cairn_meta::dump::{LoadError, LogReader, LoggedGroup};
use cairn_net::{Identity, Link, LinkConfig, Net};
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, MetalogFile, Role, response};
use cairn_proto::{BootId, ClusterId, NodeId};
use std::sync::Arc;

/// Why an engine was not recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// None of the nodes holds a whole snapshot.
    #[error("no node holds a whole snapshot of metadata{}", reasons(failures))]
    Nothing {
        /// Nodes that did not answer, and why.
        failures: Vec<String>,
    },
    /// They belong to several clusters.
    #[error("the nodes keep metadata of several clusters: {first} and {second}; name the nodes of one")]
    SeveralClusters {
        /// One of them.
        first: String,
        /// Another.
        second: String,
    },
    /// A node stopped to answer.
    #[error("{0}")]
    Fetch(String),
    /// The engine did not take it.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl From<CallError> for RecoverError {
    fn from(error: CallError) -> Self {
        Self::Fetch(error.to_string())
    }
}

fn reasons(failures: &[String]) -> String {
    if failures.is_empty() { String::new() } else { format!(" ({})", failures.join("; ")) }
}

/// What was recovered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The node it came from.
    pub addr: String,
    /// Its cluster.
    pub cluster: String,
    /// Opening of metadata that wrote it, the commit of the snapshot, and the last commit.
    pub epoch: u64,
    /// See [`Recovered::epoch`].
    pub snapshot: u64,
    /// See [`Recovered::epoch`].
    pub last: u64,
    /// Rows of the snapshot.
    pub rows: u64,
    /// Groups of commits applied on top of it.
    pub groups: u64,
    /// Wall time of the snapshot, nanoseconds since 1970.
    pub taken_ns: i64,
    /// Nodes that did not answer, and why.
    pub failures: Vec<String>,
}

/// A snapshot on a node and the logs that follow it.
struct Found {
    link: Link,
    addr: String,
    snapshot: pb::MetalogPart,
    logs: Vec<pb::MetalogPart>,
    /// The last commit that can be reached.
    last: u64,
}

async fn ask(link: &Link, kind: Kind, response_max: u64) -> Result<(response::Kind, Bytes), CallError> {
    let call = cairn_net::Call { response_max, ..cairn_net::Call::new(kind, cairn_net::now() + RECOVER_TIMEOUT) };
    crate::links::start(link, call).await
}

impl Found {
    fn cluster(&self) -> String {
        ClusterId::from_slice(&self.snapshot.cluster_id).unwrap_or_default().to_string()
    }

    /// The best that a node has; `None` when that is nothing.
    async fn on(link: Link, addr: &str) -> Result<Option<Self>, RecoverError> {
        let listed = ask(&link, Kind::ListMetalog(pb::ListMetalog::default()), 0).await?.0;
        let response::Kind::ListMetalog(listed) = listed else {
            return Err(RecoverError::Fetch(format!("{addr} answered another question than was asked")));
        };
        let whole = listed.parts.iter().filter(|part| part.file() == MetalogFile::Snapshot && part.complete);
        let Some(snapshot) = whole.max_by_key(|part| (part.epoch, part.first)).cloned() else { return Ok(None) };
        let follows = |part: &&pb::MetalogPart| {
            part.file() == MetalogFile::Log
                && (&part.cluster_id, part.epoch) == (&snapshot.cluster_id, snapshot.epoch)
                && part.first >= snapshot.first
        };
        let mut logs: Vec<pb::MetalogPart> = listed.parts.iter().filter(follows).cloned().collect();
        logs.sort_by_key(|part| part.first);
        let last = snapshot.first;
        let mut found = Self { link, addr: addr.to_owned(), snapshot, logs, last };
        found.last = found.read_logs(async |_| Ok(())).await?;
        Ok(Some(found))
    }

    async fn fetch(
        &self,
        part: &pb::MetalogPart,
        mut each: impl AsyncFnMut(Bytes) -> Result<bool, RecoverError>,
    ) -> Result<(), RecoverError> {
        let mut offset = 0;
        loop {
            let ask_for = pb::FetchMetalog {
                cluster_id: part.cluster_id.clone(),
                epoch: part.epoch,
                file: part.file,
                first: part.first,
                offset,
                len: METALOG_FETCH_MAX,
            };
            let fetched = ask(&self.link, Kind::FetchMetalog(ask_for), METALOG_FETCH_MAX.into()).await;
            let (_, bytes) = fetched?;
            if bytes.is_empty() {
                return Ok(());
            }
            offset += bytes.len() as u64;
            if !each(bytes).await? {
                return Ok(());
            }
        }
    }

    /// Goes through the groups behind the snapshot, as far as they follow each other; the last commit.
    async fn read_logs(
        &self,
        mut each: impl AsyncFnMut(&LoggedGroup) -> Result<(), RecoverError>,
    ) -> Result<u64, RecoverError> {
        let mut reader = LogReader::default();
        let mut last = self.snapshot.first;
        for log in &self.logs {
            // A later log begins where the one before it ended.
            if log.first != last || !reader.next_file() {
                break;
            }
            self.fetch(log, async |bytes| {
                reader.feed(&bytes);
                while let Some(group) = reader.next_group() {
                    each(&group).await?;
                    last = group.last;
                }
                Ok(!reader.has_ended())
            })
            .await?;
        }
        Ok(last)
    }
}

impl OpenEngine {
    /// Makes this empty engine anew from the storage nodes at `addrs`: from the one with the latest commits. Like a
    /// restored backup it leaves out numbers and epochs that may have been given out since.
    ///
    /// # Errors
    /// See [`RecoverError`]. The engine is empty, or marked as half loaded.
    pub async fn recover(&self, addrs: &[String], net: Arc<dyn Net>) -> Result<Recovered, RecoverError> {
        let speaks_as = Identity { role: Role::Client, ..Identity::client(BootId(entropy::unique())) }.shared();
        let dialer = Dialer { net, identity: speaks_as, config: Arc::new(LinkConfig::default()) };
        let mut failures = Vec::new();
        let mut best: Option<Found> = None;
        for addr in addrs {
            let found = match Found::on(dialer.link(addr, NodeId(0)), addr).await {
                Ok(Some(found)) => found,
                Ok(None) => {
                    failures.push(format!("{addr} has none"));
                    continue;
                }
                Err(error) => {
                    failures.push(error.to_string());
                    continue;
                }
            };
            if let Some(known) = best.as_ref().filter(|known| known.snapshot.cluster_id != found.snapshot.cluster_id) {
                let (first, second) = (known.cluster(), found.cluster());
                return Err(RecoverError::SeveralClusters { first, second });
            }
            let rank = |found: &Found| (found.snapshot.epoch, found.last);
            if best.as_ref().is_none_or(|best| rank(&found) > rank(best)) {
                best = Some(found);
            }
        }
        let Some(best) = best else { return Err(RecoverError::Nothing { failures }) };
        let mut loader = self.loader(&format!("storage node {}", best.addr)).await?;
        best.fetch(&best.snapshot, async |bytes| {
            loader.feed(&bytes).await?;
            Ok(true)
        })
        .await?;
        loader.verify().await?;
        let mut groups = 0;
        let last = best
            .read_logs(async |group| {
                groups += 1;
                Ok(loader.apply(group).await?)
            })
            .await?;
        let (header, digest) = loader.finish().await?;
        best.link.close();
        Ok(Recovered {
            cluster: best.cluster(),
            addr: best.addr,
            epoch: best.snapshot.epoch,
            snapshot: best.snapshot.first,
            last,
            rows: digest.rows,
            groups,
            taken_ns: header.taken_ns,
            failures,
        })
    }
}
