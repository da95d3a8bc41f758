//! What a node does to be trusted with a disk: it reads everything back, keeps a ledger, and compares itself with others.

use crate::support::{Cluster, Stored, content, eventually, id};
use bytes::Bytes;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Answer;
use cairn_proto::pb::{self};
use cairn_server::NodeServer;
use std::time::Duration;

async fn scrub(cluster: &Cluster, addr: &str, start: bool) -> pb::StoreScrub {
    let ask = Kind::Scrub(pb::ScrubStores { store: 0, start });
    match cluster.client.node_at(addr, ask, Bytes::new()).await.unwrap() {
        (Answer::Scrub(reply), _) => reply.stores[0],
        other => panic!("{other:?}"),
    }
}

async fn ledger(cluster: &Cluster, addr: &str) -> pb::ListLedgerReply {
    match cluster.client.node_at(addr, Kind::ListLedger(pb::ListLedger::default()), Bytes::new()).await.unwrap() {
        (Answer::ListLedger(reply), _) => reply,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrub_finds_rot_that_nobody_reads_and_the_ledger_tells_of_its_repair() {
    let mut cluster = Cluster::start().await;
    let mut files = Vec::new();
    for n in 0..6 {
        files.push(cluster.client.write_file(&format!("f{n}"), content(300_000, n)).await);
    }
    let addr = cluster.nodes[1].as_ref().unwrap().addr().to_string();
    let store = cluster.client.store_at(&addr).await;
    cluster.flip(2, &files[1]);
    cluster.flip(2, &files[4]);
    let begun = scrub(&cluster, &addr, true).await;
    assert!(begun.pass >= 1 && (begun.asked || !begun.running));
    eventually("a whole pass was made and both are repaired", async || {
        let scrub = scrub(&cluster, &addr, false).await;
        !scrub.running && scrub.last_complete_ns > 0 && (scrub.found, scrub.repaired) == (2, 2)
    })
    .await;
    for file in &files {
        assert!(cluster.client.holds(store, file).await);
    }
    let told = ledger(&cluster, &addr).await;
    let mut found: Vec<_> = told.entries.iter().map(|entry| entry.block).collect();
    found.sort_by_key(|block| block.map(|block| (block.inode, block.seq)));
    assert_eq!(found, [Some(id(files[1].block)), Some(id(files[4].block))]);
    assert_eq!(told.open, 0);
    for entry in &told.entries {
        assert_eq!((entry.finder.as_str(), entry.result.as_str(), entry.store), ("scrub", "repaired", store));
        assert!(entry.closed_ns >= entry.found_ns && entry.found_ns > 0 && !entry.cause.is_empty());
    }
    // It is remembered, and numbers go on.
    let addr = cluster.stop_node(2).await;
    cluster.start_node(2, &addr).await;
    let again = ledger(&cluster, &addr).await;
    assert_eq!(again.entries, told.entries);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_vanishes_under_a_running_node_is_refilled() {
    let mut cluster = Cluster::start_with(|config| config.store.segment_len = Some(1 << 20)).await;
    let mut files = Vec::new();
    for n in 0..8 {
        files.push(cluster.client.write_file(&format!("f{n}"), content(300_000, n)).await);
    }
    let addr = cluster.nodes[2].as_ref().unwrap().addr().to_string();
    let store = cluster.client.store_at(&addr).await;
    let first = cluster.segments(3).into_iter().min().unwrap();
    std::fs::remove_file(first).unwrap();
    scrub(&cluster, &addr, true).await;
    eventually("what was in it is found and repaired", async || {
        let scrub = scrub(&cluster, &addr, false).await;
        !scrub.running && scrub.found > 0 && scrub.found == scrub.repaired
    })
    .await;
    for file in &files {
        assert!(cluster.client.holds(store, file).await);
    }
    cluster.stop().await;
}

/// Starts node `number` again with a short period of comparison.
async fn start_comparing(cluster: &mut Cluster, number: usize, listen: &str) {
    let mut config = cluster.config.node(number, &[cluster.meta.as_ref().unwrap().addr()]).unwrap();
    config.listen = listen.to_owned();
    config.compare_every = Duration::from_millis(200);
    cluster.nodes[number - 1] = Some(NodeServer::start(config, cluster.net.clone()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_one_member_lost_in_silence_is_found_by_comparison() {
    let mut cluster = Cluster::start().await;
    let lost = cluster.client.write_file("lost", content(100_000, 1)).await;
    let kept = cluster.client.write_file("kept", content(100_000, 2)).await;
    let addr = cluster.nodes[2].as_ref().unwrap().addr().to_string();
    let store = cluster.client.store_at(&addr).await;
    // A member that deletes what it should not, and does not remember it.
    lose(&cluster, store, &lost).await;
    cluster.stop_node(3).await;
    cluster.client.close().await;
    start_comparing(&mut cluster, 3, &addr).await;
    eventually("it is back", async || cluster.client.holds(store, &lost).await).await;
    assert!(cluster.client.holds(store, &kept).await);
    eventually("the ledger tells of it", async || {
        let told = ledger(&cluster, &addr).await;
        told.open == 0
            && told.entries.iter().any(|entry| {
                (entry.cause.as_str(), entry.finder.as_str(), entry.result.as_str())
                    == ("missing", "compare", "repaired")
                    && entry.block == Some(id(lost.block))
            })
    })
    .await;
    cluster.stop().await;
}

/// Makes a member delete what it should not, without a trace of it elsewhere.
async fn lose(cluster: &Cluster, store: u32, file: &Stored) {
    let (_, groups) = cluster.client.map().await;
    let epoch = groups.iter().find(|group| group.id.0 == file.pg).unwrap().epoch.0;
    let run = pb::Run { first: Some(id(file.block)), count: 1 };
    let delete = pb::DeleteBlocks { store, pg: file.pg, pg_epoch: epoch, duty_epoch: 1, runs: vec![run] };
    cluster.client.node(store, Kind::Delete(delete), Bytes::new()).await.unwrap();
    assert!(!cluster.client.holds(store, file).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_compares_tells_metadata_what_another_one_lacks() {
    let mut cluster = Cluster::start().await;
    let lost = cluster.client.write_file("lost", content(100_000, 1)).await;
    let addr = cluster.nodes[2].as_ref().unwrap().addr().to_string();
    let store = cluster.client.store_at(&addr).await;
    lose(&cluster, store, &lost).await;
    // It forgets what it deleted, and compares nothing by itself for an hour.
    cluster.stop_node(3).await;
    cluster.start_node(3, &addr).await;
    cluster.client.close().await;
    let other = cluster.stop_node(1).await;
    start_comparing(&mut cluster, 1, &other).await;
    eventually("it was told, and has it back", async || cluster.client.holds(store, &lost).await).await;
    eventually("nothing is lacking any more", async || cluster.client.status().await.degraded_runs == 0).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_store_that_returns_under_its_old_id_counts_only_when_it_is_whole_again() {
    let mut cluster = Cluster::start().await;
    let mut files = Vec::new();
    for n in 0..10 {
        files.push(cluster.client.write_file(&format!("f{n}"), content(100_000, n)).await);
    }
    let addr = cluster.nodes[2].as_ref().unwrap().addr().to_string();
    let store = cluster.client.store_at(&addr).await;
    let past = |beat: &pb::StoreBeat| beat.durable_records;
    let before = past(&cluster.client.node_status(&addr).await.stores[0]);
    // What it had is known to metadata by a heartbeat.
    eventually("metadata knows what the store holds", async || {
        let (nodes, _) = cluster.client.map().await;
        let info = nodes.iter().flat_map(|node| &node.stores).find(|info| info.id == store).unwrap();
        info.blocks >= 10
    })
    .await;
    cluster.stop_node(3).await;
    let dir = cluster.node_dir(3).join("store-1");
    std::fs::remove_dir_all(dir.join("segments")).unwrap();
    std::fs::remove_file(dir.join("checkpoint")).unwrap();
    let epochs: Vec<u64> = cluster.client.map().await.1.iter().map(|group| group.epoch.0).collect();
    cluster.start_node(3, &addr).await;
    eventually("it is registered", async || {
        cluster.client.node_status(&addr).await.stores.first().is_some_and(|beat| beat.id == store)
    })
    .await;
    // The rule: a store that says less than before has lost its past, and its memberships begin anew.
    assert!(before > 0);
    eventually("it joined its groups anew", async || {
        let (_, groups) = cluster.client.map().await;
        groups.iter().zip(&epochs).all(|(group, before)| group.epoch.0 > *before)
    })
    .await;
    eventually("it is full everywhere", async || {
        let (_, groups) = cluster.client.map().await;
        groups.iter().all(|group| group.members.iter().all(|member| member.state == pb::MemberState::Full))
    })
    .await;
    // Full means whole: nothing was taken for granted.
    for file in &files {
        assert!(cluster.client.holds(store, file).await, "{}", file.block);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_under_way_is_neither_deleted_nor_a_defect_while_members_are_compared() {
    let mut cluster = Cluster::start().await;
    for number in 1..=3 {
        let addr = cluster.stop_node(number).await;
        start_comparing(&mut cluster, number, &addr).await;
    }
    eventually("all nodes are up again", async || {
        let (nodes, _) = cluster.client.map().await;
        nodes.iter().all(|node| node.state() == pb::NodeState::Up)
    })
    .await;
    // On one member only, for longer than several comparisons take.
    let (stored, mut acked) = cluster.client.put_everywhere(content(100_000, 1)).await;
    let (_, groups) = cluster.client.map().await;
    let group = groups.iter().find(|group| group.id.0 == stored.pg).unwrap().clone();
    let mut lone = stored.clone();
    lone.block.seq.0 += 500;
    cluster.client.put(group.members[0].store.0, &lone, group.epoch.0).await.unwrap();
    let addrs: Vec<String> = cluster.nodes.iter().flatten().map(|node| node.addr().to_string()).collect();
    let compared = async |addr: &str| {
        let metrics = cluster.nodes.iter().flatten().find(|node| node.addr().to_string() == addr).unwrap();
        metrics.compared_groups()
    };
    for addr in &addrs {
        let before = compared(addr).await;
        eventually("it was compared several times", async || compared(addr).await >= before + 3).await;
    }
    assert!(cluster.client.holds(group.members[0].store.0, &lone).await, "nothing was deleted");
    for addr in &addrs {
        assert_eq!(ledger(&cluster, addr).await.entries, [], "nothing is a defect");
    }
    acked.sort_unstable();
    let file = cluster.client.commit("late", (stored, acked.clone())).await;
    for store in acked {
        assert!(cluster.client.holds(store, &file).await);
    }
    cluster.stop().await;
}
