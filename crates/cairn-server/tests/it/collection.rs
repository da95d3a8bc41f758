//! Dropped blocks are deleted everywhere, and by nobody who has no right to.

use crate::support::{Cluster, Stored, content, eventually, id};
use bytes::Bytes;
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::status::{Code, Status};
use std::time::Duration;

async fn start_without_grace() -> Cluster {
    Cluster::start_with(|config| config.gc_grace = Duration::ZERO).await
}

fn addr(cluster: &Cluster, number: usize) -> String {
    cluster.nodes[number - 1].as_ref().unwrap().addr().to_string()
}

async fn blocks_at(cluster: &Cluster, addr: &str) -> u64 {
    cluster.client.node_status(addr).await.stores.iter().map(|store| store.blocks).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_of_a_removed_file_are_deleted_everywhere() {
    let mut cluster = start_without_grace().await;
    let gone = cluster.client.write_file("gone", content(300_000, 1)).await;
    let kept = cluster.client.write_file("kept", content(300_000, 2)).await;
    cluster.client.unlink(&gone).await;
    for number in 1..=3 {
        let addr = addr(&cluster, number);
        eventually("one block is left", async || blocks_at(&cluster, &addr).await == 1).await;
        let store = cluster.client.store_at(&addr).await;
        assert!(cluster.client.holds(store, &kept).await);
        assert_eq!(cluster.client.get(store, &gone, 0, 0).await.unwrap_err().code, Code::BlockNotFound);
    }
    eventually("the row is gone", async || cluster.client.status().await.garbage_runs == 0).await;
    cluster.stop().await;
}

// Collection beside a reader: the grace begins when the collector sees that the block lost its last reference, however old
// the block is, so a reader with the former map still finds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grace_keeps_blocks() {
    let mut cluster = Cluster::start_with(|config| config.gc_grace = Duration::from_secs(3600)).await;
    let gone = cluster.client.write_file("gone", content(300_000, 1)).await;
    cluster.client.unlink(&gone).await;
    eventually("the run is garbage", async || cluster.client.status().await.garbage_runs == 1).await;
    let store = cluster.client.store_at(&addr(&cluster, 1)).await;
    assert!(cluster.client.holds(store, &gone).await);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_away_keeps_the_row() {
    let mut cluster = start_without_grace().await;
    let gone = cluster.client.write_file("gone", content(300_000, 1)).await;
    let away = cluster.stop_node(3).await;
    cluster.client.unlink(&gone).await;
    for number in 1..=2 {
        let addr = addr(&cluster, number);
        eventually("the others delete it", async || blocks_at(&cluster, &addr).await == 0).await;
    }
    assert_eq!(cluster.client.status().await.garbage_runs, 1);
    cluster.start_node(3, &away).await;
    eventually("it deletes its copy when it is back", async || blocks_at(&cluster, &away).await == 0).await;
    eventually("then the row is gone", async || cluster.client.status().await.garbage_runs == 0).await;
    cluster.stop().await;
}

async fn delete(cluster: &Cluster, addr: &str, store: u32, file: &Stored, epochs: (u64, u64)) -> Result<(), Status> {
    let runs = vec![pb::Run { first: Some(id(file.block)), count: 1 }];
    let delete = pb::DeleteBlocks { store, duty_epoch: epochs.0, pg: file.pg, pg_epoch: epochs.1, runs };
    cluster.client.node_at(addr, Kind::Delete(delete), Bytes::new()).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_of_an_older_duty_is_refused_after_a_restart_too() {
    let mut cluster = Cluster::start().await;
    let first = cluster.client.write_file("a", content(1000, 1)).await;
    let second = cluster.client.write_file("b", content(1000, 2)).await;
    let addr = addr(&cluster, 1);
    let store = cluster.client.store_at(&addr).await;
    delete(&cluster, &addr, store, &first, (1000, 5)).await.unwrap();
    for _ in 0..2 {
        for epochs in [(999, 5), (1000, 4), (1001, 0)] {
            let refused = delete(&cluster, &addr, store, &second, epochs).await.unwrap_err();
            assert_eq!(refused.code, Code::StaleEpoch, "{epochs:?}");
        }
        assert!(cluster.client.holds(store, &second).await);
        cluster.stop_node(1).await;
        cluster.start_node(1, &addr).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_of_too_many_blocks_is_refused() {
    let mut cluster = Cluster::start().await;
    let file = cluster.client.write_file("a", content(1000, 1)).await;
    let addr = addr(&cluster, 1);
    let store = cluster.client.store_at(&addr).await;
    let runs = vec![pb::Run { first: Some(id(file.block)), count: u32::MAX }];
    let delete = pb::DeleteBlocks { store, duty_epoch: 1000, pg: file.pg, pg_epoch: 1000, runs };
    let refused = cluster.client.node_at(&addr, Kind::Delete(delete), Bytes::new()).await.unwrap_err();
    assert_eq!(refused.code, Code::TooLarge);
    assert!(cluster.client.holds(store, &file).await);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_much_garbage_at_once_waits_for_consent() {
    let mut cluster = Cluster::start_with(|config| {
        config.gc_grace = Duration::ZERO;
        config.gc_mass.copies_min = 4;
    })
    .await;
    let mut files = Vec::new();
    for number in 0..6 {
        files.push(cluster.client.write_file(&format!("f{number}"), content(300_000, number)).await);
    }
    let addrs = [1, 2, 3].map(|number| addr(&cluster, number));
    let blocks = async |cluster: &Cluster| cluster.client.status().await.used_bytes;
    eventually("metadata has heard of them", async || blocks(&cluster).await >= 18 * 300_000).await;
    // One of six goes without ado: three copies are a handful.
    cluster.client.unlink(&files[0]).await;
    eventually("it is gone", async || blocks_at(&cluster, &addrs[0]).await == 5).await;
    for file in &files[1..] {
        cluster.client.unlink(file).await;
    }
    let stopped = async |cluster: &Cluster| {
        let alarms = cluster.client.status().await.alarms;
        alarms.into_iter().find(|alarm| alarm.contains("cairn admin collect --accept"))
    };
    eventually("an alarm tells of it", async || stopped(&cluster).await.is_some()).await;
    let held = blocks_at(&cluster, &addrs[0]).await;
    assert!(held >= 3, "at most one more may have gone before the rest was seen, {held} are there");
    // It is written down: a restart does not let it go on.
    assert_eq!(cluster.client.status().await.garbage_runs, held);
    cluster.client.meta(Kind::AcceptCollection(pb::AcceptCollection {})).await.unwrap();
    for addr in &addrs {
        eventually("all is collected", async || blocks_at(&cluster, addr).await == 0).await;
    }
    eventually("and as usual again", async || {
        let again = cluster.client.meta(Kind::AcceptCollection(pb::AcceptCollection {})).await;
        again.is_err_and(|refused| refused.code == Code::Conflict) && stopped(&cluster).await.is_none()
    })
    .await;
    cluster.stop().await;
}
