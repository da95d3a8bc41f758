//! A cluster whose nodes can be stopped and started one by one.

use cairn_client::DfsClient;
use cairn_server::{LocalCluster, LocalClusterConfig, MetaServer, NodeServer, TcpNet};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Small blocks, so that small files have many.
pub const BLOCK_LEN: u32 = 64 * 1024;

/// Three nodes, three replicas.
pub struct Cluster {
    _data: TempDir,
    pub meta: MetaServer,
    pub nodes: Vec<Option<NodeServer>>,
    config: LocalClusterConfig,
}

impl Cluster {
    pub async fn start() -> Self {
        let data = TempDir::new().expect("a scratch directory");
        let config = LocalClusterConfig { block_len: BLOCK_LEN, ..LocalClusterConfig::new(data.path()) };
        let cluster = LocalCluster::start(config.clone(), Arc::new(TcpNet)).await.expect("a cluster");
        let (meta, nodes) = cluster.into_servers();
        Self { _data: data, meta, nodes: nodes.into_iter().map(Some).collect(), config }
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
        let config = self.config.node(index + 1, self.meta.addr()).expect("free ports");
        let node = NodeServer::start(config, Arc::new(TcpNet)).await.expect("the node starts again");
        self.nodes[index] = Some(node);
    }

    pub async fn stop(self) {
        for node in self.nodes.into_iter().flatten() {
            node.stop().await;
        }
        self.meta.stop().await;
    }
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
