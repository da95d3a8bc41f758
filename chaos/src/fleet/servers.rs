//! Stubs of a metadata server that knows one file, and of nodes that hold its block.

use super::BLOCK_LEN;
use super::net::{Death, FleetNet, World};
use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use cairn_net::{Body, Handler, Identity, Net, RequestContext, ServerConfig, serve};
use cairn_proto::pb::{self, Role, request, response};
use cairn_proto::status::{Code, Status};
use cairn_proto::{BlockId, BootId, ClusterId, NodeId, Shard, checksum};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Where metadata is.
pub const META: &str = "meta:1";
/// Where the nodes are; the first is the one that dies.
pub const NODES: [&str; 3] = ["node:1", "node:2", "node:3"];
const CLUSTER: ClusterId = ClusterId([9; 16]);
const BLOCK: (u64, u64, u32) = (7, 1, 0);

/// Metadata and nodes; they end when this is dropped.
pub struct Servers {
    pings: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Servers {
    /// Starts all of them in the world, for about so many clients.
    ///
    /// # Errors
    /// An address is taken.
    pub async fn start(world: &Arc<World>, clients: u64) -> Result<Self> {
        let net = FleetNet { world: Arc::clone(world), death: Death::Refuse };
        let pings = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let handler: Arc<dyn Handler> = Arc::new(Meta { clients });
        start(&net, &mut tasks, META, identity(Role::Meta, 0), handler, clients).await?;
        for (index, addr) in NODES.into_iter().enumerate() {
            let node: Arc<dyn Handler> = Arc::new(Node::new(Arc::clone(&pings)));
            start(&net, &mut tasks, addr, identity(Role::Node, index as u32 + 1), node, clients).await?;
        }
        Ok(Self { pings, _tasks: tasks })
    }

    /// PINGs that nodes have answered.
    pub fn pings(&self) -> u64 {
        self.pings.load(Ordering::Relaxed)
    }
}

fn identity(role: Role, node: u32) -> Identity {
    Identity { role, cluster_id: CLUSTER, node_id: NodeId(node), ..Identity::client(BootId([node as u8 + 1; 16])) }
}

async fn start(
    net: &FleetNet,
    tasks: &mut JoinSet<()>,
    addr: &str,
    identity: Identity,
    handler: Arc<dyn Handler>,
    clients: u64,
) -> Result<()> {
    let listener = net.bind(addr).await?;
    let config = ServerConfig { max_connections: clients as usize * 8 + 8, ..ServerConfig::new(identity.shared()) };
    tasks.spawn(serve(listener, handler, config, CancellationToken::new()));
    Ok(())
}

fn block() -> BlockId {
    BlockId::new(BLOCK.0, BLOCK.1, BLOCK.2)
}

struct Meta {
    clients: u64,
}

impl Meta {
    fn map(&self, known: u64) -> pb::ClusterMapReply {
        if known == 1 {
            return pb::ClusterMapReply { version: 1, unchanged: true, clients: self.clients, ..Default::default() };
        }
        let node = |(index, addr): (usize, &str)| pb::NodeInfo {
            id: index as u32 + 1,
            addr: addr.to_owned(),
            state: pb::NodeState::Up as i32,
            stores: vec![pb::StoreInfo { id: index as u32 + 1, capacity_bytes: 1 << 40, ..Default::default() }],
            ..Default::default()
        };
        let member = |store| pb::Member { store, state: pb::MemberState::Full as i32 };
        let members = (1..=NODES.len() as u32).map(member).collect();
        pb::ClusterMapReply {
            version: 1,
            nodes: NODES.into_iter().enumerate().map(node).collect(),
            pgs: vec![pb::PgInfo { id: 1, epoch: 1, replicas: NODES.len() as u32, members, ..Default::default() }],
            cluster_id: CLUSTER.0.to_vec().into(),
            policy: Some(policy()),
            metas: vec![META.to_owned()],
            clients: self.clients,
            ..Default::default()
        }
    }
}

fn policy() -> pb::Policy {
    pb::Policy { replicas: NODES.len() as u32, block_len: 4 << 20, relaxed: false, trash_s: 0 }
}

#[async_trait]
impl Handler for Meta {
    async fn handle(
        &self,
        _ctx: &RequestContext,
        request: pb::Request,
        _body: Vec<Bytes>,
    ) -> Result<(response::Kind, Body), Status> {
        let kind = match request.kind {
            Some(request::Kind::ClusterMap(map)) => response::Kind::ClusterMap(self.map(map.known_version)),
            Some(request::Kind::Stat(_)) => response::Kind::Attr(pb::Attr {
                inode: BLOCK.0,
                kind: pb::Kind::File as i32,
                size: BLOCK_LEN as u64,
                version: 1,
                policy: Some(policy()),
                ..Default::default()
            }),
            Some(request::Kind::GetExtents(asked)) if asked.known_version == 1 => {
                let reply = pb::GetExtentsReply { version: 1, unchanged: true, ..Default::default() };
                response::Kind::GetExtents(reply)
            }
            Some(request::Kind::GetExtents(_)) => response::Kind::GetExtents(pb::GetExtentsReply {
                version: 1,
                size: BLOCK_LEN as u64,
                extents: vec![pb::Extent {
                    len: BLOCK_LEN as u64,
                    first: Some(pb::BlockId { inode: BLOCK.0, writer: BLOCK.1, seq: BLOCK.2 }),
                    block_len: 4 << 20,
                    pgs: vec![1],
                    ..Default::default()
                }],
                covered_to: BLOCK_LEN as u64,
                ..Default::default()
            }),
            other => return Err(Status::new(Code::Unsupported, format!("this stub does not know {other:?}"))),
        };
        Ok((kind, Body::empty()))
    }
}

struct Node {
    reply: pb::GetBlockReply,
    body: Body,
    pings: Arc<AtomicU64>,
}

impl Node {
    fn new(pings: Arc<AtomicU64>) -> Self {
        let content = vec![7; BLOCK_LEN];
        let crcs = checksum::chunk_crcs(block(), Shard(0), &content);
        let crcs = checksum::pack(&crcs).into();
        let reply = pb::GetBlockReply { block_len: BLOCK_LEN as u32, first_chunk: 0, crcs };
        Self { reply, body: Body::from_bytes(content.into()), pings }
    }
}

#[async_trait]
impl Handler for Node {
    async fn handle(
        &self,
        _ctx: &RequestContext,
        request: pb::Request,
        _body: Vec<Bytes>,
    ) -> Result<(response::Kind, Body), Status> {
        match request.kind {
            Some(request::Kind::Get(_)) => Ok((response::Kind::Get(self.reply.clone()), self.body.clone())),
            other => Err(Status::new(Code::Unsupported, format!("this stub does not know {other:?}"))),
        }
    }

    fn pong(&self) -> pb::Pong {
        self.pings.fetch_add(1, Ordering::Relaxed);
        pb::Pong::default()
    }
}
