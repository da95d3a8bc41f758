//! Every replica of every block, read from the node that should have it and held against its checksums: what a client
//! never sees, because it takes the first right one.

use anyhow::{Context, Result, bail, ensure};
use cairn_client::File;
use cairn_net::{Call, Identity, Link, LinkConfig, TcpNet};
use cairn_proto::limits::{BLOCK_LEN_MAX, CONTROL_BODY_MAX};
use cairn_proto::pb::{self, request, response};
use cairn_proto::status::Code;
use cairn_proto::{BlockId, BootId, NodeId, Shard, checksum};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

const OPERATION_MAX: Duration = Duration::from_secs(30);
/// Blocks whose replicas are read at once.
const AT_ONCE: usize = 8;
/// Faulty replicas that are named.
const SHOWN_MAX: usize = 5;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Blocks that files refer to.
    pub blocks: u64,
    /// Replicas that are there and right.
    pub replicas_good: u64,
    /// Replicas that a member of the group should have and has not.
    pub replicas_missing: u64,
    /// Replicas whose bytes do not match their checksums, or that the node itself calls bad.
    pub replicas_bad: u64,
    /// Replicas whose node did not answer, or answered with another error.
    pub replicas_unread: u64,
    /// Blocks with fewer good replicas than the policy of their group says.
    pub blocks_short: u64,
    /// The first faulty replicas.
    pub faulty: Vec<String>,
}

enum Replica {
    Good,
    Missing,
    Bad,
    Unread,
}

/// The cluster as metadata tells of it.
struct Map {
    meta: Link,
    links: BTreeMap<u32, Link>,
    groups: BTreeMap<u32, pb::PgInfo>,
    node_of: BTreeMap<u32, u32>,
}

fn deadline() -> Instant {
    Instant::now() + OPERATION_MAX
}

impl Map {
    async fn ask(meta: SocketAddr) -> Result<Self> {
        let identity = Identity::client(BootId([4; 16])).shared();
        let config = Arc::new(LinkConfig::default());
        let link = |addr: String, node: u32| {
            Link::new(Arc::new(TcpNet), addr, NodeId(node), Arc::clone(&identity), Arc::clone(&config), 1)
        };
        let meta = link(meta.to_string(), 0);
        let (mut links, mut groups, mut node_of) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut cursor = 0;
        loop {
            let kind = request::Kind::ClusterMap(pb::ClusterMap { known_version: 0, cursor });
            let Some(response::Kind::ClusterMap(page)) = meta.start(Call::new(kind, deadline())).await?.response.kind
            else {
                bail!("metadata does not tell about the cluster");
            };
            for node in page.nodes {
                node_of.extend(node.stores.iter().map(|store| (store.id, node.id)));
                links.insert(node.id, link(node.addr, node.id));
            }
            groups.extend(page.pgs.into_iter().map(|group| (group.id, group)));
            cursor = page.next_cursor;
            if cursor == 0 {
                return Ok(Self { meta, links, groups, node_of });
            }
        }
    }

    /// The map of a file, whole.
    async fn extents(&self, file: &File) -> Result<Vec<pb::Extent>> {
        let (mut extents, mut offset) = (Vec::new(), 0);
        loop {
            let ask = pb::GetExtents { inode: file.inode().0, offset, len: u64::MAX - offset, known_version: 0 };
            let call = Call::new(request::Kind::GetExtents(ask), deadline());
            let Some(response::Kind::GetExtents(page)) = self.meta.start(call).await?.response.kind else {
                bail!("metadata does not tell the map of a file");
            };
            extents.extend(page.extents.into_iter().filter(|extent| extent.offset >= offset));
            if page.covered_to >= page.size || page.covered_to <= offset {
                return Ok(extents);
            }
            offset = page.covered_to;
        }
    }

    /// The stores that should have a block of this group, each with its link.
    fn members(&self, pg: u32) -> Result<(usize, Vec<(u32, Link)>)> {
        let group = self.groups.get(&pg).with_context(|| format!("there is no group {pg}"))?;
        let link = |store: u32| self.node_of.get(&store).and_then(|node| self.links.get(node)).cloned();
        let members = group.members.iter().map(|member| {
            link(member.store).map(|link| (member.store, link)).with_context(|| format!("no store {}", member.store))
        });
        Ok((group.replicas as usize, members.collect::<Result<_>>()?))
    }
}

/// The blocks of an extent with their groups.
fn blocks(extent: &pb::Extent) -> Result<Vec<(BlockId, u32)>> {
    let Some(first) = extent.first.filter(|_| extent.inline.is_empty()) else { return Ok(Vec::new()) };
    ensure!(extent.block_len > 0 && !extent.pgs.is_empty(), "an extent without groups: {extent:?}");
    let count = (u64::from(extent.skip) + extent.len).div_ceil(u64::from(extent.block_len)) as u32;
    // Block i of a *run* is in pgs[i mod n]; extents that were cut at their beginning come with the groups turned.
    let place = |i: u32| extent.pgs[i as usize % extent.pgs.len()];
    Ok((0..count).map(|i| (BlockId::new(first.inode, first.writer, first.seq + i), place(i))).collect())
}

async fn read(link: Link, store: u32, pg: u32, block: BlockId) -> Replica {
    let id = pb::BlockId { inode: block.inode.0, writer: block.writer.0, seq: block.seq.0 };
    let get = pb::GetBlock { block: Some(id), pg, store, ..Default::default() };
    let call = Call {
        // The checksums of the block itself are held against it here.
        verify_body: false,
        response_max: u64::from(BLOCK_LEN_MAX.max(CONTROL_BODY_MAX + 1)),
        ..Call::new(request::Kind::Get(get), deadline())
    };
    match link.start(call).await {
        Ok(reply) => {
            let Some(response::Kind::Get(head)) = reply.response.kind else { return Replica::Unread };
            let crcs = checksum::unpack(&head.crcs).unwrap_or_default();
            let whole = head.first_chunk == 0 && reply.body.len() == head.block_len as usize;
            let right = checksum::first_mismatch(block, Shard(0), 0, &reply.body, &crcs).is_none();
            if whole && right { Replica::Good } else { Replica::Bad }
        }
        Err(error) => match error.status().map(|status| status.code) {
            Some(Code::BlockNotFound | Code::NotFound) => Replica::Missing,
            Some(Code::Corrupt) => Replica::Bad,
            _ => Replica::Unread,
        },
    }
}

/// One block on all members of its group.
async fn look(block: BlockId, pg: u32, wanted: usize, members: Vec<(u32, Link)>) -> Findings {
    let mut findings = Findings { blocks: 1, ..Findings::default() };
    for (store, link) in members {
        let (count, word) = match read(link, store, pg, block).await {
            Replica::Good => {
                findings.replicas_good += 1;
                continue;
            }
            Replica::Missing => (&mut findings.replicas_missing, "missing"),
            Replica::Bad => (&mut findings.replicas_bad, "bad"),
            Replica::Unread => (&mut findings.replicas_unread, "unread"),
        };
        *count += 1;
        findings.faulty.push(format!("{word}: block {block} of group {pg} on store {store}"));
    }
    findings.blocks_short = u64::from(findings.replicas_good < wanted as u64);
    findings
}

impl Findings {
    fn add(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.replicas_good += other.replicas_good;
        self.replicas_missing += other.replicas_missing;
        self.replicas_bad += other.replicas_bad;
        self.replicas_unread += other.replicas_unread;
        self.blocks_short += other.blocks_short;
        self.faulty.extend(other.faulty);
        self.faulty.truncate(SHOWN_MAX);
    }
}

/// Reads all replicas of all blocks of these files. Nothing may be written meanwhile, and no group may change.
///
/// # Errors
/// Metadata does not answer, or refers to groups or stores that it does not know.
pub async fn read_all(meta: SocketAddr, files: &[File]) -> Result<Findings> {
    let map = Map::ask(meta).await?;
    let mut findings = Findings::default();
    let mut legs = JoinSet::new();
    for file in files {
        for extent in map.extents(file).await? {
            for (block, pg) in blocks(&extent)? {
                let (wanted, members) = map.members(pg)?;
                if legs.len() >= AT_ONCE
                    && let Some(found) = legs.join_next().await
                {
                    findings.add(found?);
                }
                legs.spawn(look(block, pg, wanted, members));
            }
        }
    }
    while let Some(found) = legs.join_next().await {
        findings.add(found?);
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_an_extent_are_dealt_out_in_turn() {
        let first = Some(pb::BlockId { inode: 7, writer: 2, seq: 10 });
        let extent = pb::Extent { first, len: 250, skip: 60, block_len: 100, pgs: vec![4, 5], ..Default::default() };
        let found: Vec<_> = blocks(&extent).expect("has blocks");
        let id = |seq| BlockId::new(7, 2, seq);
        assert_eq!(found, [(id(10), 4), (id(11), 5), (id(12), 4), (id(13), 5)]);
        let inline = pb::Extent { inline: vec![1].into(), ..Default::default() };
        assert_eq!(blocks(&inline).expect("has none"), []);
        assert!(blocks(&pb::Extent { first, ..Default::default() }).is_err());
    }

    #[test]
    fn findings_add_up() {
        let mut sum = Findings::default();
        for _ in 0..SHOWN_MAX + 2 {
            sum.add(Findings { blocks: 1, replicas_bad: 1, faulty: vec!["x".to_owned()], ..Findings::default() });
        }
        assert_eq!((sum.blocks, sum.replicas_bad, sum.faulty.len()), (7, 7, SHOWN_MAX));
    }
}
