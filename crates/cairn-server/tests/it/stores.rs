//! Several stores on one node: each fails alone, is missed when it is gone, and comes back by itself.

use crate::support::{Cluster, content, eventually};
use cairn_proto::status::Code;
use cairn_server::NodeServer;
use std::path::PathBuf;

/// Two stores on node 3.
async fn two_stores() -> (Cluster, [PathBuf; 2], String) {
    let mut cluster = Cluster::start().await;
    let dirs = [cluster.node_dir(3).join("store-1"), cluster.dir.path().join("disk-2")];
    let listen = cluster.stop_node(3).await;
    start_with(&mut cluster, &dirs, &listen, false).await;
    let node = cluster.nodes[2].as_ref().unwrap();
    eventually("both stores have a number", async || {
        let stores = cluster.client.node_status(&node.addr().to_string()).await.stores;
        stores.len() == 2 && stores.iter().all(|store| store.id != 0)
    })
    .await;
    (cluster, dirs, listen)
}

async fn start_with(cluster: &mut Cluster, dirs: &[PathBuf; 2], listen: &str, accept_empty: bool) {
    let meta = cluster.meta.as_ref().unwrap().addr();
    let mut config = cluster.config.node(3, &[meta]).unwrap();
    config.listen = listen.to_owned();
    config.stores = dirs.to_vec();
    config.accept_empty_stores = accept_empty;
    cluster.nodes[2] = Some(NodeServer::start(config, cluster.net.clone()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_not_mounted_is_missed_and_the_others_serve() {
    let (mut cluster, dirs, listen) = two_stores().await;
    let file = cluster.client.write_file("a", content(100_000, 1)).await;
    let store = cluster.client.node_status(&listen).await.stores[0].id;
    assert!(cluster.client.holds(store, &file).await);
    let second = cluster.client.node_status(&listen).await.stores[1].clone();
    cluster.stop_node(3).await;
    // As an unmounted disk leaves it: an empty directory.
    let away = cluster.dir.path().join("away");
    std::fs::rename(&dirs[1], &away).unwrap();
    std::fs::create_dir(&dirs[1]).unwrap();
    start_with(&mut cluster, &dirs, &listen, false).await;
    eventually("the first store serves", async || cluster.client.holds(store, &file).await).await;
    let status = cluster.client.node_status(&listen).await.stores;
    assert_eq!((status[1].id, status[1].incarnation, &status[1].uuid), (second.id, 0, &second.uuid));
    assert!(status[1].trouble.contains("is its disk mounted?"), "{}", status[1].trouble);
    assert_eq!(std::fs::read_dir(&dirs[1]).unwrap().count(), 0, "nothing was made in its place");
    let refused = cluster.client.get(second.id, &file, 0, 0).await.unwrap_err();
    assert_eq!(refused.code, Code::Unavailable, "it does not say that the block is not there");
    // Mounted again.
    std::fs::remove_dir(&dirs[1]).unwrap();
    std::fs::rename(&away, &dirs[1]).unwrap();
    eventually("the second store is back", async || {
        let stores = cluster.client.node_status(&listen).await.stores;
        stores[1].id == second.id && stores[1].incarnation != 0 && stores[1].trouble.is_empty()
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_disk_is_a_new_store_when_an_operator_says_so() {
    let (mut cluster, dirs, listen) = two_stores().await;
    let second = cluster.client.node_status(&listen).await.stores[1].clone();
    cluster.stop_node(3).await;
    std::fs::remove_dir_all(&dirs[1]).unwrap();
    start_with(&mut cluster, &dirs, &listen, true).await;
    eventually("another store has a number", async || {
        let store = cluster.client.node_status(&listen).await.stores[1].clone();
        store.id != 0 && store.id != second.id && store.uuid != second.uuid && store.trouble.is_empty()
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_named_for_the_first_time_has_to_open() {
    let mut cluster = Cluster::start().await;
    let file = cluster.dir.path().join("no-directory");
    std::fs::write(&file, b"x").unwrap();
    cluster.stop_node(3).await;
    let mut config = cluster.config.node(3, &[cluster.meta.as_ref().unwrap().addr()]).unwrap();
    config.stores = vec![cluster.node_dir(3).join("store-1"), file];
    assert!(NodeServer::start(config, cluster.net.clone()).await.is_err());
    cluster.stop().await;
}
