//! A store that left its groups drops its copies once the others are complete, and not before.

use crate::support::{Cluster, Stored, content, eventually};
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Answer;
use cairn_proto::pb::{self, TaskKind, TaskState};
use std::time::Duration;

async fn blocks(cluster: &Cluster, addr: &str) -> u64 {
    cluster.client.node_status(addr).await.stores.iter().map(|store| store.blocks).sum()
}

async fn drain(cluster: &Cluster, store: u32) {
    let ask = pb::StartTask { kind: TaskKind::Drain as i32, store, ..Default::default() };
    let begun = cluster.client.meta(Kind::StartTask(ask)).await.unwrap();
    assert!(matches!(begun, Answer::StartTask(_)), "{begun:?}");
    eventually("the drain is done", async || {
        let Ok(Answer::ListTasks(list)) = cluster.client.meta(Kind::ListTasks(pb::ListTasks {})).await else {
            return false;
        };
        list.tasks.iter().all(|task| task.state() == TaskState::Done)
    })
    .await;
}

async fn every_member_holds(cluster: &Cluster, files: &[Stored]) {
    let (_, groups) = cluster.client.map().await;
    for file in files {
        let group = groups.iter().find(|group| group.id.0 == file.pg).unwrap();
        assert_eq!(group.members.len(), 3);
        for member in &group.members {
            assert!(cluster.client.holds(member.store.0, file).await, "{} on {}", file.block, member.store);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_store_is_empty_in_the_end_and_nobody_lacks_anything() {
    let mut cluster = Cluster::start_with(|config| {
        config.nodes = 4;
        config.sweep_every = Duration::from_millis(50);
    })
    .await;
    let mut files = Vec::new();
    for n in 0..30 {
        files.push(cluster.client.write_file(&format!("f{n}"), content(60_000, n)).await);
    }
    let addr = cluster.nodes[1].as_ref().unwrap().addr().to_string();
    let store = cluster.client.store_at(&addr).await;
    let member_of = |groups: &[cairn_proto::placement::Group]| {
        groups.iter().filter(|group| group.members.iter().any(|member| member.store.0 == store)).count()
    };
    assert!(member_of(&cluster.client.map().await.1) > 0);
    assert!(blocks(&cluster, &addr).await > 0);
    drain(&cluster, store).await;
    assert_eq!(member_of(&cluster.client.map().await.1), 0);
    eventually("the drained store is empty", async || blocks(&cluster, &addr).await == 0).await;
    every_member_holds(&cluster, &files).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_stay_while_a_member_lacks_something() {
    let mut cluster = Cluster::start_with(|config| {
        config.nodes = 4;
        config.sweep_every = Duration::from_millis(50);
    })
    .await;
    let mut files = Vec::new();
    for n in 0..12 {
        files.push(cluster.client.write_file(&format!("f{n}"), content(60_000, n)).await);
    }
    let addrs: Vec<String> = (0..4).map(|index| cluster.nodes[index].as_ref().unwrap().addr().to_string()).collect();
    let store = cluster.client.store_at(&addrs[1]).await;
    // Of every group that the drained store leaves, one that stays is away: the groups are not complete without it.
    let away = cluster.stop_node(3).await;
    let ask = pb::StartTask { kind: TaskKind::Drain as i32, store, ..Default::default() };
    cluster.client.meta(Kind::StartTask(ask)).await.unwrap();
    // Whatever the drain can do without it: what another member may still need is there.
    for file in &files {
        if cluster.client.member_state(file.pg, store).await.is_some() {
            assert!(cluster.client.holds(store, file).await, "{}", file.block);
        }
    }
    cluster.start_node(3, &away).await;
    eventually("the drained store is empty", async || blocks(&cluster, &addrs[1]).await == 0).await;
    every_member_holds(&cluster, &files).await;
    cluster.stop().await;
}
