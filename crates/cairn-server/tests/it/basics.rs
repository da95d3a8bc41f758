//! Starting, storing, reading, restarting.

use crate::support::{Cluster, content, eventually};
use bytes::Bytes;
use cairn_net::TcpNet;
use cairn_proto::limits::CHUNK_LEN;
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Answer;
use cairn_proto::status::Code;
use cairn_server::{
    ListenError, LocalCluster, LocalClusterConfig, Membership, MetaServer, MetaServerConfig, NodeServer,
    NodeServerConfig, StartError,
};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_serves_what_was_written() {
    let mut cluster = Cluster::start().await;
    // Several frames, several chunks, a short last chunk.
    let file = cluster.client.write_file("a", content((2 << 20) + 12_345, 1)).await;
    let (_, groups) = cluster.client.map().await;
    let group = groups.iter().find(|group| group.id.0 == file.pg).unwrap();
    assert_eq!(group.members.len(), 3);
    for member in &group.members {
        let store = member.store.0;
        assert!(cluster.client.holds(store, &file).await);
        // Twice: the first read of a block goes another way than later ones.
        for _ in 0..2 {
            let part = cluster.client.get(store, &file, CHUNK_LEN + 5, 10).await.unwrap();
            assert_eq!(part, file.content.slice(CHUNK_LEN as usize..2 * CHUNK_LEN as usize));
        }
        let beyond = cluster.client.get(store, &file, file.content.len() as u32, 1).await.unwrap_err();
        assert_eq!(beyond.code, Code::Invalid);
    }
    assert_eq!(cluster.client.status().await.degraded_runs, 0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_elsewhere_is_the_wrong_peer() {
    let mut cluster = Cluster::start().await;
    let file = cluster.client.write_file("a", content(100, 1)).await;
    let addr = cluster.nodes[0].as_ref().unwrap().addr().to_string();
    let other = cluster.client.store_at(&cluster.nodes[1].as_ref().unwrap().addr().to_string()).await;
    let get = pb::GetBlock { block: Some(crate::support::id(file.block)), store: other, ..Default::default() };
    let refused = cluster.client.node_at(&addr, Kind::Get(get), Bytes::new()).await.unwrap_err();
    assert_eq!(refused.code, Code::WrongPeer);
    let refused = cluster.client.node_at(&addr, Kind::Stat(pb::Stat::default()), Bytes::new()).await.unwrap_err();
    assert_eq!(refused.code, Code::Unsupported);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_with_a_wrong_checksum_is_not_stored() {
    let mut cluster = Cluster::start().await;
    let mut file = cluster.client.write_file("a", content(100_000, 1)).await;
    let store = cluster.client.store_at(&cluster.nodes[0].as_ref().unwrap().addr().to_string()).await;
    // The same id with other content, both with right checksums.
    let right = std::mem::replace(&mut file.content, content(100_000, 2));
    assert_eq!(cluster.client.put(store, &file, 1).await.unwrap_err().code, Code::BlockConflict);
    file.content = right;
    assert!(cluster.client.put(store, &file, 1).await.unwrap().existed);
    let bad = pb::PutBlock {
        block: Some(pb::BlockId { seq: 77, ..crate::support::id(file.block) }),
        pg: file.pg,
        store,
        crcs: vec![0; 8].into(),
        ..Default::default()
    };
    let refused = cluster.client.node(store, Kind::Put(bad), file.content.clone()).await.unwrap_err();
    assert_eq!(refused.code, Code::Corrupt);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_after_a_restart() {
    let mut cluster = Cluster::start().await;
    let file = cluster.client.write_file("a", content(300_000, 3)).await;
    let cluster_id = cluster.meta.as_ref().unwrap().cluster_id();
    let (dir, config) = (cluster.dir, cluster.config.clone());
    for node in cluster.nodes.iter_mut().filter_map(Option::take) {
        node.stop().await;
    }
    cluster.meta.take().unwrap().stop().await;

    let net = Arc::new(TcpNet);
    let again = LocalCluster::start(config, net.clone()).await.unwrap();
    assert_eq!(again.meta().cluster_id(), cluster_id);
    let client = crate::support::Client::connect(net, again.meta_addr().to_string()).await;
    let (_, groups) = client.map().await;
    let group = groups.iter().find(|group| group.id.0 == file.pg).unwrap();
    for member in &group.members {
        assert!(client.holds(member.store.0, &file).await);
    }
    again.stop().await;
    drop(dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_used_by_one_process() {
    let cluster = Cluster::start().await;
    let meta = cluster.meta.as_ref().unwrap().addr();
    let node = NodeServer::start(cluster.config.node(1, &[meta]).unwrap(), cluster.net.clone()).await;
    assert!(matches!(node.err(), Some(StartError::Directory { .. })));
    let meta = MetaServer::start(cluster.config.meta(1).unwrap(), cluster.net.clone()).await;
    assert!(matches!(meta.err(), Some(StartError::Engine { .. })));
    cluster.stop().await;
}

#[tokio::test]
async fn only_loopback_is_listened_on() {
    let dir = tempfile::tempdir().unwrap();
    let config = NodeServerConfig::new(dir.path(), "0.0.0.0:0", vec!["127.0.0.1:1".into()]);
    let node = NodeServer::start(config, Arc::new(TcpNet)).await;
    assert!(matches!(node.err(), Some(StartError::Listen(ListenError::NotLoopback(_)))));
    let meta = MetaServer::start(MetaServerConfig::new(dir.path(), "[::]:0"), Arc::new(TcpNet)).await;
    assert!(matches!(meta.err(), Some(StartError::Listen(ListenError::NotLoopback(_)))));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is made before the address is admitted");
}

#[tokio::test]
async fn more_replicas_than_nodes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = LocalClusterConfig { nodes: 2, replicas: 3, ..LocalClusterConfig::new(dir.path()) };
    let refused = LocalCluster::start(config, Arc::new(TcpNet)).await.err().unwrap();
    assert!(refused.to_string().contains("3 replicas"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_waits_for_its_metadata() {
    let dir = tempfile::tempdir().unwrap();
    let net = Arc::new(TcpNet);
    // Find a free port, and leave it free.
    let meta =
        MetaServer::start(MetaServerConfig::new(dir.path().join("m"), "127.0.0.1:0"), net.clone()).await.unwrap();
    let addr = meta.addr().to_string();
    meta.stop().await;
    let config = NodeServerConfig::new(dir.path().join("n"), "127.0.0.1:0", vec![addr.clone()]);
    let node = NodeServer::start(config, net.clone()).await.unwrap();
    let membership = node.membership();
    eventually("the node says why it waits", async || {
        matches!(&*membership.borrow(), Membership::Waiting { error: Some(_) })
    })
    .await;
    assert_eq!(node.node_id(), None);
    let meta = MetaServer::start(MetaServerConfig::new(dir.path().join("m"), addr), net).await.unwrap();
    eventually("the node is registered", async || matches!(&*membership.borrow(), Membership::Registered { .. })).await;
    assert_eq!(node.cluster_id(), Some(meta.cluster_id()));
    assert!(node.node_id().is_some());
    node.stop().await;
    meta.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_stays_with_its_cluster() {
    let mut cluster = Cluster::start().await;
    let id = cluster.nodes[0].as_ref().unwrap().node_id();
    cluster.stop_node(1).await;
    let other = tempfile::tempdir().unwrap();
    let stranger = MetaServerConfig::new(other.path(), "127.0.0.1:0");
    let stranger = MetaServer::start(stranger, cluster.net.clone()).await.unwrap();
    let config = cluster.config.node(1, &[stranger.addr()]).unwrap();
    let node = NodeServer::start(config, cluster.net.clone()).await.unwrap();
    let membership = node.membership();
    eventually("the other cluster is not joined", async || match &*membership.borrow() {
        Membership::Refused { .. } | Membership::Waiting { error: Some(_) } => true,
        Membership::Waiting { error: None } => false,
        Membership::Registered { .. } => panic!("a node of one cluster joined another"),
    })
    .await;
    assert_eq!(node.node_id(), id);
    node.stop().await;
    stranger.stop().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_map_says_how_many_clients_there_are() {
    let cluster = Cluster::start().await;
    let ask = async |known_version| {
        let ask = Kind::ClusterMap(pb::ClusterMap { known_version, cursor: 0 });
        match cluster.client.meta(ask).await.unwrap() {
            Answer::ClusterMap(map) => map,
            other => panic!("{other:?}"),
        }
    };
    let mut version = ask(0).await.version;
    assert_eq!(ask(0).await.clients, 1, "nodes are no clients");
    let another = cluster.another_client().await;
    eventually("it counts, in an answer without a map too", async || {
        let map = ask(version).await;
        version = map.version;
        map.unchanged && map.clients == 2
    })
    .await;
    drop(another);
    eventually("it is gone", async || ask(0).await.clients == 1).await;
    cluster.stop().await;
}
