//! A cluster whose servers can be stopped, damaged and started one by one, and a client without policies.

use bytes::Bytes;
use cairn_net::{Body, Call, Identity, Link, LinkConfig, Net, Reply, SharedIdentity, TcpNet, now};
use cairn_proto::checksum::{chunk_crcs, first_mismatch, pack, unpack};
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Answer;
use cairn_proto::pb::{self, MemberState, NodeState};
use cairn_proto::placement::Group;
use cairn_proto::status::{Code, Status};
use cairn_proto::{BlockId, BootId, NodeId, Shard};
use cairn_server::{LocalCluster, LocalClusterConfig, MetaServer, NodeServer};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// Long enough for a loaded machine; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds; panics with `what` after a long while.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let polled = async {
        while !condition().await {
            sleep(Duration::from_millis(10)).await; // tidy: sleep-ok(polls a condition)
        }
    };
    assert!(timeout(PATIENCE, polled).await.is_ok(), "never happened: {what}");
}

/// A running cluster in a scratch directory.
pub struct Cluster {
    pub dir: TempDir,
    pub config: LocalClusterConfig,
    pub net: Arc<dyn Net>,
    pub meta: Option<MetaServer>,
    pub nodes: Vec<Option<NodeServer>>,
    pub client: Client,
}

impl Cluster {
    /// Three nodes, three replicas.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(adjust: impl FnOnce(&mut LocalClusterConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = LocalClusterConfig::new(dir.path());
        config.store.segment_len = Some(64 << 20);
        config.ready_timeout = PATIENCE;
        adjust(&mut config);
        let net: Arc<dyn Net> = Arc::new(TcpNet);
        let cluster = LocalCluster::start(config.clone(), net.clone()).await.unwrap();
        let (mut metas, nodes) = cluster.into_servers();
        let meta = metas.remove(0);
        let client = Client::connect(net.clone(), meta.addr().to_string()).await;
        Self { dir, config, net, meta: Some(meta), nodes: nodes.into_iter().map(Some).collect(), client }
    }

    pub fn node_dir(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("node-{number}"))
    }

    /// Flips one byte of the file's content in a node's segments.
    pub fn flip(&self, number: usize, file: &Stored) {
        let needle = &file.content[1000..1064];
        for segment in self.segments(number) {
            let bytes = std::fs::read(&segment).unwrap();
            if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
                let disk = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
                disk.write_all_at(&[bytes[at] ^ 0x10], at as u64).unwrap();
                return;
            }
        }
        panic!("the content is in no segment of node {number}");
    }

    /// Segment files of a node's store.
    pub fn segments(&self, number: usize) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.node_dir(number).join("store-1")];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else if path.metadata().unwrap().len() > 0 && path.to_string_lossy().contains("seg") {
                    found.push(path);
                }
            }
        }
        found
    }

    /// Stops node `number` in order; returns where it listened.
    pub async fn stop_node(&mut self, number: usize) -> String {
        let node = self.nodes[number - 1].take().unwrap();
        let addr = node.addr().to_string();
        node.stop().await;
        addr
    }

    /// Starts node `number` again where it listened before.
    pub async fn start_node(&mut self, number: usize, listen: &str) {
        let meta = self.meta.as_ref().unwrap().addr();
        let mut config = self.config.node(number, &[meta]).unwrap();
        config.listen = listen.to_owned();
        self.nodes[number - 1] = Some(NodeServer::start(config, self.net.clone()).await.unwrap());
    }

    /// A client with a session and a writer of its own.
    pub async fn another_client(&self) -> Client {
        let addr = self.meta.as_ref().unwrap().addr().to_string();
        Client::connect_as(BootId([8; 16]), self.net.clone(), addr).await
    }

    pub async fn stop(self) {
        for node in self.nodes.into_iter().flatten() {
            node.stop().await;
        }
        if let Some(meta) = self.meta {
            meta.stop().await;
        }
    }
}

/// A file that was committed: one block on one group.
#[derive(Clone, Debug)]
pub struct Stored {
    pub path: Vec<u8>,
    pub block: BlockId,
    pub pg: u32,
    pub content: Bytes,
}

/// Speaks bare requests.
pub struct Client {
    net: Arc<dyn Net>,
    identity: SharedIdentity,
    meta: Link,
    session: pb::OpenSessionReply,
    writer: u64,
    next_op: u64,
    next_block: u32,
}

impl Client {
    pub async fn connect(net: Arc<dyn Net>, addr: String) -> Self {
        Self::connect_as(BootId([7; 16]), net, addr).await
    }

    pub async fn connect_as(boot: BootId, net: Arc<dyn Net>, addr: String) -> Self {
        let identity = Identity::client(boot).shared();
        let meta = link(&net, &identity, &addr);
        let session = match ask(&meta, Kind::OpenSession(pb::OpenSession::default())).await.unwrap() {
            Answer::OpenSession(session) => session,
            other => panic!("{other:?}"),
        };
        let open = pb::OpenWriter { session: session.session, epoch: session.epoch };
        let writer = match ask(&meta, Kind::OpenWriter(open)).await.unwrap() {
            Answer::OpenWriter(reply) => reply.writer,
            other => panic!("{other:?}"),
        };
        Self { net, identity, meta, session, writer, next_op: 1, next_block: 0 }
    }

    pub async fn meta(&self, kind: Kind) -> Result<Answer, Status> {
        ask(&self.meta, kind).await
    }

    async fn mutate(&mut self, kind: Kind) -> Result<Answer, Status> {
        let (session, epoch) = (self.session.session, self.session.epoch);
        let op_id = pb::OpId { session, epoch, slot: 0, seq: self.next_op };
        self.next_op += 1;
        let mut call = Call::new(kind, now() + PATIENCE);
        call.request.op_id = Some(op_id);
        reply_of(self.meta.start(call).await).map(|(kind, _)| kind)
    }

    pub async fn map(&self) -> (Vec<pb::NodeInfo>, Vec<Group>) {
        match self.meta(Kind::ClusterMap(pb::ClusterMap::default())).await.unwrap() {
            Answer::ClusterMap(page) if page.next_cursor == 0 => {
                (page.nodes, page.pgs.iter().map(Group::from_pb).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    pub async fn status(&self) -> pb::ClusterStatusReply {
        match self.meta(Kind::ClusterStatus(pb::ClusterStatus {})).await.unwrap() {
            Answer::ClusterStatus(status) => status,
            other => panic!("{other:?}"),
        }
    }

    /// Address and store id of node `addr`.
    pub async fn store_at(&self, addr: &str) -> u32 {
        let (nodes, _) = self.map().await;
        let node = nodes.iter().find(|node| node.addr == addr && node.state() == NodeState::Up).unwrap();
        node.stores[0].id
    }

    async fn home(&self, store: u32) -> Option<String> {
        let (nodes, _) = self.map().await;
        let home = nodes.into_iter().find(|node| node.stores.iter().any(|info| info.id == store));
        home.map(|node| node.addr)
    }

    /// Asks the node of a store.
    pub async fn node(&self, store: u32, kind: Kind, body: Bytes) -> Result<(Answer, Bytes), Status> {
        let addr = self.home(store).await.expect("the store is in the map");
        self.node_at(&addr, kind, body).await
    }

    pub async fn node_at(&self, addr: &str, kind: Kind, body: Bytes) -> Result<(Answer, Bytes), Status> {
        let link = link(&self.net, &self.identity, addr);
        let mut call = Call::new(kind, now() + PATIENCE);
        call.body = Body::from_bytes(body);
        call.response_max = 64 << 20;
        reply_of(link.start(call).await)
    }

    /// Writes a file of one block; members whose node does not answer get no copy.
    pub async fn write_file(&mut self, name: &str, content: Bytes) -> Stored {
        let put = self.put_everywhere(content).await;
        self.commit(name, put).await
    }

    /// Sends a block for a file that is not there yet to all members of a group; whoever took it.
    pub async fn put_everywhere(&mut self, content: Bytes) -> (Stored, Vec<u32>) {
        let inode = match self.meta(Kind::AllocInodes(pb::AllocInodes { count: 1 })).await.unwrap() {
            Answer::AllocInodes(range) => range.first,
            other => panic!("{other:?}"),
        };
        let (_, groups) = self.map().await;
        let block = BlockId::new(inode, self.writer, self.next_block);
        self.next_block += 1;
        let stored = Stored { path: Vec::new(), block, pg: groups.first().unwrap().id.0, content };
        let acked = self.put_block_everywhere(&stored).await;
        (stored, acked)
    }

    /// Sends a block to all members of its group; whoever took it.
    pub async fn put_block_everywhere(&self, stored: &Stored) -> Vec<u32> {
        let (_, groups) = self.map().await;
        let group = groups.iter().find(|group| group.id.0 == stored.pg).unwrap();
        let mut acked = Vec::new();
        for store in group.write_targets() {
            if self.put(store.0, stored, group.epoch.0).await.is_ok() {
                acked.push(store.0);
            }
        }
        acked
    }

    /// Makes a file of a block that was sent.
    pub async fn commit(&mut self, name: &str, (stored, acked): (Stored, Vec<u32>)) -> Stored {
        let path = name.as_bytes().to_vec();
        let piece = pb::Piece {
            offset: 0,
            len: stored.content.len() as u64,
            first_seq: stored.block.seq.0,
            block_len: 4 << 20,
            pg: stored.pg,
            acked,
            pg_epoch: 0,
        };
        let publish = pb::Publish {
            at: Some(pb::At { dir: 1, path: path.clone().into() }),
            inode: stored.block.inode.0,
            writer: self.writer,
            size: stored.content.len() as u64,
            pieces: vec![piece],
            ..Default::default()
        };
        self.mutate(Kind::Publish(publish)).await.unwrap();
        Stored { path, ..stored }
    }

    /// Ends the session, in order.
    pub async fn close(&self) {
        let close = pb::CloseSession { session: self.session.session, epoch: self.session.epoch };
        self.meta(Kind::CloseSession(close)).await.unwrap();
    }

    /// Renews the session until `other` is done.
    pub async fn keep_alive_while<T>(&self, other: impl Future<Output = T>) -> T {
        let renewals = async {
            loop {
                let renew = pb::RenewSession { session: self.session.session, epoch: self.session.epoch };
                self.meta(Kind::RenewSession(renew)).await.unwrap();
                sleep(Duration::from_millis(self.session.lease_ms / 10)).await; // tidy: sleep-ok(the period of renewals)
            }
        };
        tokio::select! {
            done = other => done,
            () = renewals => unreachable!("renewals go on"),
        }
    }

    pub async fn put(&self, store: u32, stored: &Stored, pg_epoch: u64) -> Result<pb::PutBlockReply, Status> {
        let crcs = chunk_crcs(stored.block, Shard(0), &stored.content);
        let put = pb::PutBlock {
            block: Some(id(stored.block)),
            pg: stored.pg,
            pg_epoch,
            crcs: pack(&crcs).into(),
            store,
            ..Default::default()
        };
        match self.node(store, Kind::Put(put), stored.content.clone()).await? {
            (Answer::Put(reply), _) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    /// A range of a block from one store, the chunks it touches; verified.
    pub async fn get(&self, store: u32, stored: &Stored, offset: u32, len: u32) -> Result<Bytes, Status> {
        let get = pb::GetBlock { block: Some(id(stored.block)), pg: stored.pg, store, offset, len, shard: 0 };
        match self.node(store, Kind::Get(get), Bytes::new()).await? {
            (Answer::Get(reply), body) => {
                let crcs = unpack(&reply.crcs).expect("whole words");
                match first_mismatch(stored.block, Shard(0), reply.first_chunk, &body, &crcs) {
                    None => Ok(body),
                    Some(chunk) => Err(Status::new(Code::Corrupt, format!("chunk {chunk}"))),
                }
            }
            other => panic!("{other:?}"),
        }
    }

    /// True when the store sends exactly what was written.
    pub async fn holds(&self, store: u32, stored: &Stored) -> bool {
        self.get(store, stored, 0, 0).await.is_ok_and(|content| content == stored.content)
    }

    pub async fn report_corrupt(&self, store: u32, stored: &Stored) {
        let report = pb::ReportCorrupt { store, block: Some(id(stored.block)), shard: 0, chunk: 0 };
        self.node(store, Kind::ReportCorrupt(report), Bytes::new()).await.unwrap();
    }

    pub async fn unlink(&mut self, stored: &Stored) {
        let at = pb::At { dir: 1, path: stored.path.clone().into() };
        self.mutate(Kind::Unlink(pb::Unlink { at: Some(at), ..Default::default() })).await.unwrap();
    }

    /// Usage of the stores of the node at `addr`.
    pub async fn node_status(&self, addr: &str) -> pb::NodeStatusReply {
        match self.node_at(addr, Kind::NodeStatus(pb::NodeStatus {}), Bytes::new()).await.unwrap() {
            (Answer::NodeStatus(reply), _) => reply,
            other => panic!("{other:?}"),
        }
    }

    /// State of a store in a group.
    pub async fn member_state(&self, pg: u32, store: u32) -> Option<MemberState> {
        let (_, groups) = self.map().await;
        let group = groups.into_iter().find(|group| group.id.0 == pg)?;
        group.members.iter().find(|member| member.store.0 == store).map(|member| member.state)
    }
}

pub fn id(block: BlockId) -> pb::BlockId {
    pb::BlockId { inode: block.inode.0, writer: block.writer.0, seq: block.seq.0 }
}

/// Bytes without a period that a chunk or page could hide.
pub fn content(len: usize, salt: u64) -> Bytes {
    let mut rng = fastrand::Rng::with_seed(salt);
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes.into()
}

fn link(net: &Arc<dyn Net>, identity: &SharedIdentity, addr: &str) -> Link {
    let config = Arc::new(LinkConfig::default());
    Link::new(net.clone(), addr.to_owned(), NodeId(0), identity.clone(), config, 1)
}

async fn ask(link: &Link, kind: Kind) -> Result<Answer, Status> {
    reply_of(link.start(Call::new(kind, now() + PATIENCE)).await).map(|(kind, _)| kind)
}

fn reply_of(outcome: Result<Reply, cairn_net::LegError>) -> Result<(Answer, Bytes), Status> {
    match outcome {
        Ok(reply) => Ok((reply.response.kind.expect("an answer says something"), reply.body)),
        Err(error) => Err(error.status().cloned().unwrap_or_else(|| Status::new(Code::Unavailable, error.to_string()))),
    }
}
