//! Blocks whose write came to nothing are deleted, and no others.

use crate::support::{Cluster, Stored, content, eventually, id};
use bytes::Bytes;
use cairn_proto::BlockId;
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use std::time::Duration;

/// Sweeps often, and forgets silent clients after some seconds.
async fn start() -> Cluster {
    Cluster::start_with(|config| {
        config.sweep_every = Duration::from_millis(50);
        config.session_lease = Duration::from_secs(4);
        config.gc_grace = Duration::from_secs(3600);
    })
    .await
}

fn addr(cluster: &Cluster, number: usize) -> String {
    cluster.nodes[number - 1].as_ref().unwrap().addr().to_string()
}

async fn blocks(cluster: &Cluster, number: usize) -> u64 {
    cluster.client.node_status(&addr(cluster, number)).await.stores.iter().map(|store| store.blocks).sum()
}

async fn all_have(cluster: &Cluster, count: u64) {
    for number in 1..=3 {
        eventually("the store has so many blocks", async || blocks(cluster, number).await == count).await;
    }
}

/// Every member sends exactly what was written.
async fn is_whole(cluster: &Cluster, file: &Stored) {
    for number in 1..=3 {
        let store = cluster.client.store_at(&addr(cluster, number)).await;
        assert!(cluster.client.holds(store, file).await, "node {number}");
    }
}

/// How many blocks each node has asked metadata about.
async fn looks(cluster: &Cluster) -> Vec<u64> {
    let totals = cluster.nodes.iter().flatten().flat_map(|node| node.sweep_totals());
    totals.map(|(_, totals)| totals.judged_blocks).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_dies_before_its_commit_leaves_nothing() {
    let mut cluster = start().await;
    let kept = cluster.client.write_file("kept", content(300_000, 1)).await;
    let mut dying = cluster.another_client().await;
    let live = dying.write_file("live", content(300_000, 2)).await;
    for seed in 3..8 {
        dying.put_everywhere(content(100_000, seed)).await;
    }
    all_have(&cluster, 7).await;
    // Nothing is said any more: the client is gone, its session runs out, and its writer with it.
    drop(dying);
    cluster.client.keep_alive_while(all_have(&cluster, 2)).await;
    is_whole(&cluster, &kept).await;
    is_whole(&cluster, &live).await;
    eventually("each node says that it deleted five blocks", async || {
        let totals = cluster.nodes.iter().flatten().flat_map(|node| node.sweep_totals());
        totals.map(|(_, totals)| totals.swept_blocks).collect::<Vec<_>>() == [5, 5, 5]
    })
    .await;
    cluster.stop().await;
}

// Collection beside a slow commit: the sweep begins with a closed writer, so a writer that is merely slow between its last
// acknowledgement and its commit loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_pauses_before_its_commit_loses_nothing() {
    let mut cluster = start().await;
    let paused = cluster.client.put_everywhere(content(200_000, 1)).await;
    // Others come and go meanwhile, and are swept.
    for seed in 2..4 {
        let mut other = cluster.another_client().await;
        other.put_everywhere(content(100_000, seed)).await;
        cluster.client.keep_alive_while(other.close()).await;
        cluster.client.keep_alive_while(all_have(&cluster, 1)).await;
    }
    let file = cluster.client.commit("paused", paused).await;
    is_whole(&cluster, &file).await;
    // And it keeps them when its writer is closed in the end, having been judged.
    let before = looks(&cluster).await;
    cluster.client.close().await;
    eventually("every node has judged it", async || {
        looks(&cluster).await.iter().zip(&before).all(|(now, before)| now > before)
    })
    .await;
    is_whole(&cluster, &file).await;
    assert_eq!(blocks(&cluster, 1).await, 1);
    cluster.stop().await;
}

// A zombie: whatever a client stores that lost its session without noticing, its blocks are orphans like any others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_closed_writer_stores_late_is_swept_again() {
    let cluster = start().await;
    let mut zombie = cluster.another_client().await;
    let live = zombie.write_file("live", content(100_000, 1)).await;
    zombie.close().await;
    eventually("its block is judged", async || looks(&cluster).await.iter().all(|judged| *judged > 0)).await;
    for seed in 2..5 {
        zombie.put_everywhere(content(100_000, seed)).await;
        cluster.client.keep_alive_while(all_have(&cluster, 1)).await;
    }
    is_whole(&cluster, &live).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_restarted_finds_its_orphans_in_the_index() {
    let mut cluster = start().await;
    let live = cluster.client.write_file("live", content(100_000, 1)).await;
    cluster.client.put_everywhere(content(100_000, 2)).await;
    let away = cluster.stop_node(3).await;
    cluster.client.close().await;
    for number in 1..=2 {
        eventually("the others sweep it", async || blocks(&cluster, number).await == 1).await;
    }
    cluster.start_node(3, &away).await;
    eventually("it sweeps its copy too", async || blocks(&cluster, 3).await == 1).await;
    is_whole(&cluster, &live).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_of_an_unknown_writer_are_kept_and_reported() {
    let mut cluster = start().await;
    let live = cluster.client.write_file("live", content(100_000, 1)).await;
    let future = BlockId::new(live.block.inode.0, live.block.writer.0 + 1_000_000, 0);
    let stranger = Stored { block: future, content: content(100_000, 2), ..live.clone() };
    cluster.client.put_block_everywhere(&stranger).await;
    cluster.client.close().await;
    eventually("an operator sees it at metadata", async || {
        let (nodes, _) = cluster.client.map().await;
        nodes.iter().flat_map(|node| &node.stores).all(|store| store.alarm.contains("unknown to metadata"))
    })
    .await;
    is_whole(&cluster, &live).await;
    is_whole(&cluster, &stranger).await;
    for status in cluster.nodes.iter().flatten().flat_map(|node| node.sweep_totals()) {
        assert_eq!((status.1.future_blocks, status.1.swept_blocks), (1, 0));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_duty_judges_is_not_acted_upon() {
    let mut cluster = start().await;
    let (orphan, _) = cluster.client.put_everywhere(content(100_000, 1)).await;
    // Node 1 has seen a duty that is later than that of the metadata server which will answer it.
    let first = addr(&cluster, 1);
    let store = cluster.client.store_at(&first).await;
    let nothing = pb::Run { first: Some(id(BlockId::new(9999, 9999, 0))), count: 1 };
    let delete = pb::DeleteBlocks { store, duty_epoch: 1000, pg: orphan.pg, pg_epoch: 1000, runs: vec![nothing] };
    cluster.client.node_at(&first, Kind::Delete(delete), Bytes::new()).await.unwrap();
    cluster.client.close().await;
    for number in 2..=3 {
        eventually("the others sweep it", async || blocks(&cluster, number).await == 0).await;
    }
    let judged = async || cluster.nodes[0].as_ref().unwrap().sweep_totals()[0].1.judged_blocks;
    eventually("it was told more than once", async || judged().await > 2).await;
    assert!(cluster.client.holds(store, &orphan).await);
    cluster.stop().await;
}
