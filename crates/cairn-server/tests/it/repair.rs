//! What was lost, damaged or missed comes back by itself.

use crate::support::{Cluster, Stored, content, eventually, id};
use cairn_proto::pb::MemberState;
use std::path::Path;

async fn degraded_runs_end(cluster: &Cluster) {
    eventually("no degraded runs are left", async || cluster.client.status().await.degraded_runs == 0).await;
}

async fn store_holds(cluster: &Cluster, store: u32, file: &Stored) {
    eventually("the store holds the block", async || cluster.client.holds(store, file).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_catches_up() {
    let mut cluster = Cluster::start().await;
    let addr = cluster.stop_node(3).await;
    let mut files = Vec::new();
    for n in 0..20 {
        files.push(cluster.client.write_file(&format!("f{n}"), content(70_000 + n, n as u64)).await);
    }
    assert_eq!(cluster.client.status().await.degraded_runs, 20);
    cluster.start_node(3, &addr).await;
    degraded_runs_end(&cluster).await;
    let store = cluster.client.store_at(&addr).await;
    for file in &files {
        assert!(cluster.client.holds(store, file).await);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_becomes_full_again() {
    let mut cluster = Cluster::start().await;
    let mut files = Vec::new();
    for n in 0..10 {
        files.push(cluster.client.write_file(&format!("f{n}"), content(200_000, n)).await);
    }
    let old = cluster.client.store_at(&cluster.nodes[2].as_ref().unwrap().addr().to_string()).await;
    let addr = cluster.stop_node(3).await;
    // Written while it is away, and so known to be lacking there.
    files.push(cluster.client.write_file("late", content(200_000, 99)).await);
    std::fs::remove_dir_all(cluster.node_dir(3)).unwrap();
    cluster.start_node(3, &addr).await;
    let node = cluster.nodes[2].as_ref().unwrap();
    eventually("the wiped node has a number again", async || node.node_id().is_some()).await;
    let store = cluster.client.store_at(&addr).await;
    assert_ne!(store, old, "an empty store is another store");
    eventually("it is full in every group", async || {
        let (_, groups) = cluster.client.map().await;
        groups.iter().all(|group| group.members.iter().all(|member| member.state == MemberState::Full))
            && groups.iter().any(|group| group.members.iter().any(|member| member.store.0 == store))
    })
    .await;
    for file in &files {
        assert_eq!(cluster.client.member_state(file.pg, store).await, Some(MemberState::Full));
        assert!(cluster.client.holds(store, file).await);
    }
    degraded_runs_end(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_is_reported_and_repaired() {
    let mut cluster = Cluster::start().await;
    let file = cluster.client.write_file("a", content(500_000, 1)).await;
    let addr = cluster.nodes[1].as_ref().unwrap().addr().to_string();
    let store = cluster.client.store_at(&addr).await;
    cluster.flip(2, &file);
    assert!(!cluster.client.holds(store, &file).await, "the flip is there");
    cluster.client.report_corrupt(store, &file).await;
    store_holds(&cluster, store, &file).await;
    let node = cluster.nodes[1].as_ref().unwrap().node_id().unwrap().0;
    eventually("the repaired defect is known with node and block", async || {
        let defects = cluster.client.status().await.defects;
        defects.iter().any(|d| d.repaired && d.node == node && d.store == store && d.block == Some(id(file.block)))
    })
    .await;
    assert_eq!(cluster.client.node_status(&addr).await.stores[0].quarantined, 0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_false_report_changes_nothing() {
    let mut cluster = Cluster::start().await;
    let file = cluster.client.write_file("a", content(500_000, 1)).await;
    let store = cluster.client.store_at(&cluster.nodes[0].as_ref().unwrap().addr().to_string()).await;
    cluster.client.report_corrupt(store, &file).await;
    assert!(cluster.client.holds(store, &file).await);
    assert!(cluster.client.status().await.defects.is_empty());
    cluster.stop().await;
}

fn cut(segment: &Path, len: u64) {
    std::fs::OpenOptions::new().write(true).open(segment).unwrap().set_len(len).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_segment_is_refilled() {
    let mut cluster = Cluster::start().await;
    let mut files = Vec::new();
    for n in 0..5 {
        files.push(cluster.client.write_file(&format!("f{n}"), content(300_000, n)).await);
    }
    let addr = cluster.stop_node(2).await;
    for segment in cluster.segments(2) {
        let len = std::fs::metadata(&segment).unwrap().len();
        cut(&segment, len.min(400_000));
    }
    cluster.start_node(2, &addr).await;
    let node = cluster.nodes[1].as_ref().unwrap();
    eventually("the node is up", async || node.node_id().is_some()).await;
    let store = cluster.client.store_at(&addr).await;
    for file in &files {
        store_holds(&cluster, store, file).await;
    }
    eventually("the defects are known", async || !cluster.client.status().await.defects.is_empty()).await;
    cluster.stop().await;
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() { copy_dir(&entry.path(), &target) } else { drop(std::fs::copy(entry.path(), target)) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_end_is_gone_is_completed_from_peers() {
    let mut cluster = Cluster::start().await;
    let first = cluster.client.write_file("first", content(300_000, 1)).await;
    // The node's directory as a crash at this moment would leave it: without what came later, and not closed.
    let image = cluster.dir.path().join("image");
    copy_dir(&cluster.node_dir(2), &image);
    let mut later = Vec::new();
    for n in 0..5 {
        later.push(cluster.client.write_file(&format!("f{n}"), content(300_000, 10 + n)).await);
    }
    let addr = cluster.stop_node(2).await;
    std::fs::remove_dir_all(cluster.node_dir(2)).unwrap();
    std::fs::rename(&image, cluster.node_dir(2)).unwrap();
    cluster.start_node(2, &addr).await;
    let store = cluster.client.store_at(&addr).await;
    for file in later.iter().chain([&first]) {
        store_holds(&cluster, store, file).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_torn_everywhere_is_dropped_and_no_defect() {
    let mut cluster = Cluster::start().await;
    let torn = cluster.client.write_file("torn", content(300_000, 1)).await;
    let image = cluster.dir.path().join("images");
    for number in 1..=3 {
        copy_dir(&cluster.node_dir(number), &image.join(number.to_string()));
    }
    let mut addrs = Vec::new();
    for number in 1..=3 {
        addrs.push(cluster.stop_node(number).await);
        std::fs::remove_dir_all(cluster.node_dir(number)).unwrap();
        std::fs::rename(image.join(number.to_string()), cluster.node_dir(number)).unwrap();
        // The last record of a log that was not closed, its content not as it was written: a write under way.
        cluster.flip(number, &torn);
    }
    for (index, addr) in addrs.iter().enumerate() {
        cluster.start_node(index + 1, addr).await;
    }
    for addr in &addrs {
        eventually("the torn block is dropped", async || {
            let stores = cluster.client.node_status(addr).await.stores;
            stores.iter().all(|store| store.blocks == 0 && store.quarantined == 0)
        })
        .await;
    }
    assert!(cluster.client.status().await.defects.is_empty());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_torn_on_one_member_is_fetched_again() {
    let mut cluster = Cluster::start().await;
    let torn = cluster.client.write_file("torn", content(300_000, 1)).await;
    let image = cluster.dir.path().join("image");
    copy_dir(&cluster.node_dir(2), &image);
    let addr = cluster.stop_node(2).await;
    std::fs::remove_dir_all(cluster.node_dir(2)).unwrap();
    std::fs::rename(&image, cluster.node_dir(2)).unwrap();
    cluster.flip(2, &torn);
    cluster.start_node(2, &addr).await;
    let store = cluster.client.store_at(&addr).await;
    store_holds(&cluster, store, &torn).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_block_that_a_reader_reports_is_fetched() {
    let mut cluster = Cluster::start().await;
    let file = cluster.client.write_file("a", content(100_000, 1)).await;
    let (_, groups) = cluster.client.map().await;
    // Any other group that all three are members of: its stores know nothing of this block under that name.
    let group = groups.iter().find(|group| group.id.0 == file.pg).unwrap().clone();
    let mut stray = file.clone();
    stray.block.seq.0 += 1000;
    let holder = group.members[0].store.0;
    let lacking = group.members[1].store.0;
    cluster.client.put(holder, &stray, group.epoch.0).await.unwrap();
    assert!(!cluster.client.holds(lacking, &stray).await);
    cluster.client.report_corrupt(lacking, &stray).await;
    store_holds(&cluster, lacking, &stray).await;
    cluster.stop().await;
}
