//! Reads through a cache of blocks: no bytes twice from the nodes, and never an old one.

use std::path::Path;
use std::sync::Arc;

use cairn_cache::limits::DISK_SIZE_MIN;
use cairn_cache::{CacheOptions, LocalCache};
use cairn_client::{DfsClient, ReadOptions};
use std::time::Duration;
use tempfile::TempDir;

use super::cluster::{BLOCK_LEN, Cluster};

async fn client(cluster: &Cluster, memory: u64, dir: Option<&Path>) -> (DfsClient, Arc<LocalCache>) {
    let disk = dir.map(|dir| (dir.to_owned(), DISK_SIZE_MIN));
    let cache = Arc::new(LocalCache::new(CacheOptions { memory, disk }));
    let builder = DfsClient::builder().meta(cluster.addr()).block_cache(cache.clone());
    (builder.connect().await.expect("a client"), cache)
}

fn content(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u32 * 7 / 3) as u8 ^ seed).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_once_needs_no_node_again_not_even_after_a_restart() {
    let mut cluster = Cluster::start().await;
    let dir = TempDir::new().unwrap();
    let len = BLOCK_LEN as usize * 9 / 2;
    let writer = cluster.client().await;
    writer.open("/f").await.unwrap().write_at(0, content(len, 1)).await.unwrap();

    let (first, cache) = client(&cluster, 64 << 20, Some(dir.path())).await;
    let file = first.open("/f").await.unwrap();
    assert_eq!(file.read_at(0, len).await.unwrap(), content(len, 1));
    let cold = first.get_connection_stats().await.block_cache;
    assert_eq!((cold.hits, cold.misses, cold.miss_bytes), (0, 5, len as u64));
    cache.settle().await;
    for index in 0..cluster.nodes.len() {
        cluster.stop_node(index).await;
    }
    assert_eq!(file.read_at(0, len).await.unwrap(), content(len, 1), "from memory");
    assert_eq!(file.read_at(100_000, 70_000).await.unwrap(), content(len, 1)[100_000..170_000]);
    let warm = first.get_connection_stats().await.block_cache;
    assert_eq!((warm.hits, warm.misses), (5 + 2, 5));
    drop((file, first, cache));

    let (second, cache) = client(&cluster, 0, Some(dir.path())).await;
    cache.settle().await;
    let file = second.open("/f").await.unwrap();
    assert_eq!(file.read_at(0, len).await.unwrap(), content(len, 1), "from the disk");
    assert_eq!(second.get_connection_stats().await.block_cache.misses, 0);
    drop((file, second, cache));

    let (third, _cache) = client(&cluster, 64 << 20, None).await;
    let file = third.open("/f").await.unwrap();
    let briefly = ReadOptions::new().deadline(Duration::from_secs(2));
    assert!(file.read_at_with(0, len, briefly).await.is_err(), "without a cache the nodes are missed");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_by_another_client_is_seen_at_once() {
    let cluster = Cluster::start().await;
    let dir = TempDir::new().unwrap();
    let len = BLOCK_LEN as usize * 3;
    let writer = cluster.client().await.open("/f").await.unwrap();
    let (reader, _cache) = client(&cluster, 8 << 20, Some(dir.path())).await;
    writer.write_at(0, content(len, 0)).await.unwrap();
    let mut expected = content(len, 0);
    let reader = reader.open("/f").await.unwrap();
    for round in 1..40u8 {
        assert_eq!(reader.read_at(0, len).await.unwrap(), expected, "before round {round}");
        let (at, size) = (usize::from(round) * 3571 % (len - 30_000), 100 + usize::from(round) * 701);
        writer.write_at(at as u64, content(size, round)).await.unwrap();
        expected[at..at + size].copy_from_slice(&content(size, round));
        let from = at.saturating_sub(10);
        assert_eq!(reader.read_at(from as u64, size + 20).await.unwrap(), expected[from..from + size + 20]);
    }
    cluster.stop().await;
}
