//! A cluster whose nodes can be stopped and started one by one.

use cairn_client::DfsClient;
use cairn_server::{LocalCluster, LocalClusterConfig, MetaServer, NodeServer, TcpNet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Small blocks, so that small files have many.
pub const BLOCK_LEN: u32 = 64 * 1024;

/// Three nodes, three replicas.
pub struct Cluster {
    data: TempDir,
    pub meta: MetaServer,
    pub nodes: Vec<Option<NodeServer>>,
    config: LocalClusterConfig,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(adjust: impl FnOnce(&mut LocalClusterConfig)) -> Self {
        let data = TempDir::new().expect("a scratch directory");
        let mut config = LocalClusterConfig { block_len: BLOCK_LEN, ..LocalClusterConfig::new(data.path()) };
        adjust(&mut config);
        Self::start_on(data, config).await
    }

    async fn start_on(data: TempDir, config: LocalClusterConfig) -> Self {
        let cluster = LocalCluster::start(config.clone(), Arc::new(TcpNet)).await.expect("a cluster");
        let (mut metas, nodes) = cluster.into_servers();
        let meta = metas.remove(0);
        Self { data, meta, nodes: nodes.into_iter().map(Some).collect(), config }
    }

    /// Stops all servers, does `work` on their data with the settings they had, and starts them again.
    pub async fn restart_after(self, work: impl AsyncFnOnce(&Path, &mut LocalClusterConfig)) -> Self {
        let Self { data, meta, nodes, mut config } = self;
        stop(meta, nodes).await;
        work(data.path(), &mut config).await;
        Self::start_on(data, config).await
    }

    pub fn addr(&self) -> String {
        self.meta.addr().to_string()
    }

    pub async fn client(&self) -> DfsClient {
        DfsClient::new(self.addr()).await.expect("a client")
    }

    pub async fn stop_node(&mut self, index: usize) {
        self.nodes[index].take().expect("it runs").stop().await;
    }

    pub async fn start_node(&mut self, index: usize) {
        let config = self.config.node(index + 1, &[self.meta.addr()]).expect("free ports");
        let node = NodeServer::start(config, Arc::new(TcpNet)).await.expect("the node starts again");
        self.nodes[index] = Some(node);
    }

    pub async fn stop(self) {
        stop(self.meta, self.nodes).await;
    }
}

async fn stop(meta: MetaServer, nodes: Vec<Option<NodeServer>>) {
    for node in nodes.into_iter().flatten() {
        node.stop().await;
    }
    meta.stop().await;
}

/// Polls until `probe` gives something, at most a minute.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    for _ in 0..600 {
        if let Some(found) = probe().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await; // tidy: sleep-ok(polls a condition)
    }
    panic!("waited in vain: {what}");
}
