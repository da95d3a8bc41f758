//! Second claim: replicas written at once cost as much as the slowest, one after another as much as all together.
//!
//! A cluster of real processes, each behind a proxy that can hold back what a node answers. Three ways to bring the same
//! bytes to three replicas take turns: PUTs one after another and PUTs at once, both by this program over `Link`s and
//! waiting for all three, and the client's own write, which is at once, waits for a majority and a short grace, and
//! commits to metadata on top.

use super::reuse::Ratio;
use crate::sample::spread;
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use cairn_chaos::cluster::Cluster;
use cairn_chaos::proxy::{Direction, Latency, Mode};
use cairn_client::{CreateOptions, DfsClient, OpenOptions};
use cairn_net::{Body, BodyPart, Call, Identity, Link, LinkConfig, TcpNet};
use cairn_proto::pb::{self, PutDurability, request, response};
use cairn_proto::{BlockId, BootId, NodeId, Shard, checksum};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// One frame, well above what travels on the control lane.
const BLOCK_LEN: usize = 1024 * 1024;
const OPERATION_MAX: Duration = Duration::from_secs(30);
/// Added to each answer of a node.
const ADDED_MS: [u64; 3] = [0, 1, 10];
/// Blocks of this program's own: no client ever gets this writer.
const WRITER: u64 = u64::MAX;

/// One delay's figures: milliseconds per write, the mean of each round.
#[derive(Serialize)]
pub struct Report {
    /// Added to each answer of a node, in milliseconds.
    added_ms: u64,
    serial_ms: Vec<f64>,
    parallel_ms: Vec<f64>,
    client_ms: Vec<f64>,
    /// How many times faster than one after another.
    pub ratios: Vec<Ratio>,
}

/// A replica and how to reach it.
#[derive(Clone)]
struct Replica {
    link: Link,
    store: u32,
}

/// Writes without a client, to all members of one group.
struct Writer {
    replicas: Vec<Replica>,
    pg: u32,
    pg_epoch: u64,
    next: u32,
}

impl Writer {
    /// Learns a group and its nodes from metadata.
    async fn new(cluster: &Cluster) -> Result<Self> {
        let identity = Identity::client(BootId([3; 16])).shared();
        let config = Arc::new(LinkConfig::default());
        let link = |addr: String, node: u32| {
            Link::new(Arc::new(TcpNet), addr, NodeId(node), Arc::clone(&identity), Arc::clone(&config), 1)
        };
        let meta = link(cluster.meta().proxy.addr().to_string(), 0);
        let call = Call::new(request::Kind::ClusterMap(pb::ClusterMap::default()), deadline());
        let Some(response::Kind::ClusterMap(map)) = meta.start(call).await?.response.kind else {
            bail!("metadata does not tell about the cluster");
        };
        let group = map.pgs.first().context("the cluster has no group")?;
        let replica = |member: &pb::Member| {
            let node = map.nodes.iter().find(|node| node.stores.iter().any(|store| store.id == member.store))?;
            Some(Replica { link: link(node.addr.clone(), node.id), store: member.store })
        };
        let replicas: Vec<Replica> = group.members.iter().filter_map(replica).collect();
        ensure!(replicas.len() == 3, "the group has {} replicas", replicas.len());
        Ok(Self { replicas, pg: group.id, pg_epoch: group.epoch, next: 0 })
    }

    /// A fresh block's request for each replica.
    fn calls(&mut self, data: &Bytes) -> Vec<(Link, Call)> {
        let block = BlockId::new(u64::MAX, WRITER, self.next);
        self.next += 1;
        let crcs = checksum::chunk_crcs(block, Shard(0), data);
        let crc = checksum::body_crc(block, Shard(0), 0, &crcs, data.len() as u64);
        let body = Body::from_parts(vec![BodyPart::Bytes { data: data.clone(), crc }]);
        let put = pb::PutBlock {
            block: Some(pb::BlockId { inode: block.inode.0, writer: block.writer.0, seq: block.seq.0 }),
            pg: self.pg,
            pg_epoch: self.pg_epoch,
            crcs: checksum::pack(&crcs).into(),
            durability: PutDurability::Durable as i32,
            ..Default::default()
        };
        let call = |replica: &Replica| {
            let put = pb::PutBlock { store: replica.store, ..put.clone() };
            let call = Call { body: body.clone(), ..Call::new(request::Kind::Put(put), deadline()) };
            (replica.link.clone(), call)
        };
        self.replicas.iter().map(call).collect()
    }

    async fn serial(&mut self, data: &Bytes) -> Result<()> {
        for (link, call) in self.calls(data) {
            link.start(call).await?;
        }
        Ok(())
    }

    async fn parallel(&mut self, data: &Bytes) -> Result<()> {
        let mut legs = JoinSet::new();
        for (link, call) in self.calls(data) {
            legs.spawn(async move { link.start(call).await.map(|_| ()) });
        }
        while let Some(joined) = legs.join_next().await {
            joined??;
        }
        Ok(())
    }
}

fn deadline() -> tokio::time::Instant {
    tokio::time::Instant::now() + OPERATION_MAX
}

/// Writes of one way, one after the other; the mean in milliseconds.
async fn mean_ms(count: u32, mut one: impl AsyncFnMut(u32) -> Result<()>) -> Result<f64> {
    // The first may dial.
    one(count).await?;
    let begin = Instant::now();
    for index in 0..count {
        one(index).await?;
    }
    Ok(begin.elapsed().as_secs_f64() * 1e3 / f64::from(count))
}

/// Measures all delays.
///
/// # Errors
/// A write failed.
pub async fn run(cluster: &Cluster, client: &DfsClient, rounds: u32, writes: u32) -> Result<Vec<Report>> {
    let mut writer = Writer::new(cluster).await?;
    let data = crate::payload::pool().slice(..BLOCK_LEN);
    let attributes = CreateOptions::new().block_len(BLOCK_LEN as u32);
    let file = client.open_with("/replicas", OpenOptions::new().create(true).attributes(attributes)).await?;
    let mut reports = Vec::new();
    for added_ms in ADDED_MS {
        for node in cluster.nodes() {
            let delay = Mode::Delay(Latency::Fixed(Duration::from_millis(added_ms)));
            node.proxy.set(Direction::ToClient, if added_ms == 0 { Mode::Pass } else { delay });
        }
        let (mut serial_ms, mut parallel_ms, mut client_ms) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            serial_ms.push(mean_ms(writes, async |_| writer.serial(&data).await).await?);
            parallel_ms.push(mean_ms(writes, async |_| writer.parallel(&data).await).await?);
            let write = async |index: u32| {
                file.write_block(u64::from(index), data.clone()).await?;
                Ok(())
            };
            client_ms.push(mean_ms(writes, write).await?);
        }
        let ratio = |name, faster: &[f64]| {
            let by_round: Vec<f64> = serial_ms.iter().zip(faster).map(|(serial, faster)| serial / faster).collect();
            let (min, median, max) = spread(&by_round)?;
            Some(Ratio { name, min, median, max })
        };
        let ratios = [
            ratio("three PUTs: one after another / at once", &parallel_ms),
            ratio("three PUTs one after another / the client's write with commit", &client_ms),
        ];
        let ratios = ratios.into_iter().collect::<Option<Vec<_>>>().context("no rounds")?;
        for ratio in &ratios {
            eprintln!("{added_ms} ms added: {}: {:.2} ({:.2}..{:.2})", ratio.name, ratio.median, ratio.min, ratio.max);
        }
        reports.push(Report { added_ms, serial_ms, parallel_ms, client_ms, ratios });
    }
    for node in cluster.nodes() {
        node.proxy.set(Direction::ToClient, Mode::Pass);
    }
    Ok(reports)
}
