//! A backup keeps the blocks that it refers to, however short the grace of garbage is and whatever becomes of the files.

use super::cluster::{BLOCK_LEN, Cluster, eventually};
use cairn_client::{Cursor, DfsClient, OpenOptions, RunKind};
use cairn_server::tools::OpenEngine;
use std::collections::BTreeMap;
use std::time::Duration;

fn pattern(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|i| (i / 7) as u8 ^ (i as u8).wrapping_mul(31) ^ salt).collect()
}

async fn write(client: &DfsClient, path: &str, content: &[u8]) {
    let file = client.open_with(path, OpenOptions::new().truncate(true)).await.expect("opened");
    file.write_at(0, content.to_vec()).await.expect("written");
}

async fn read(client: &DfsClient, path: &str) -> Vec<u8> {
    let file = client.open(path).await.expect("opened");
    file.read_at(0, 1 << 20).await.expect("read").to_vec()
}

async fn no_garbage(client: &DfsClient) {
    eventually("everything that may go is collected", || async {
        let status = client.cluster_status().await.ok()?;
        (status.garbage_runs == 0).then_some(())
    })
    .await;
}

async fn blocks(client: &DfsClient) -> u64 {
    let status = client.cluster_status().await.expect("a status");
    status.nodes.iter().flat_map(|node| &node.stores).map(|store| store.blocks).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_of_a_backup_is_read_from_it_after_all_was_removed_and_collected() {
    let cluster = Cluster::start_with(|config| {
        config.gc_grace = Duration::ZERO;
        // All of it is to go at once.
        config.gc_mass.percent = 100;
    })
    .await;
    let client = cluster.client().await;
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for number in 0..6u8 {
        let path = format!("/{number}");
        let content = pattern(BLOCK_LEN as usize * 2 + 5000 * usize::from(number), number);
        write(&client, &path, &content).await;
        files.insert(path, content);
    }
    // Pieces of several writes.
    let file = client.open("/3").await.expect("opened");
    file.write_at(70_000, pattern(9000, 77)).await.expect("overwritten");
    files.insert("/3".into(), read(&client, "/3").await);

    let mut backup = client.admin().backup("nightly").await.expect("begun");
    // It comes after the hold and before the moment of the dump.
    write(&client, "/between", &pattern(100_000, 88)).await;
    files.insert("/between".into(), pattern(100_000, 88));
    let mut dump = backup.next().await.expect("a piece").expect("not empty").data.to_vec();
    // These come while the dump is read.
    for path in ["/between", "/0", "/3"] {
        client.remove_file(path).await.expect("removed");
    }
    write(&client, "/1", &pattern(100_000, 99)).await;
    no_garbage(&client).await;
    while let Some(piece) = backup.next().await.expect("a piece") {
        dump.extend_from_slice(&piece.data);
    }
    let kept = backup.keep(None).await.expect("kept");
    assert_eq!((kept.backup.as_deref(), kept.unsettled, kept.ttl), (Some("nightly"), false, None));
    let listed = client.admin().backups().await.expect("listed");
    assert_eq!(listed.iter().map(|hold| hold.backup.as_deref()).collect::<Vec<_>>(), [Some("nightly")]);
    for path in ["/1", "/2", "/4", "/5"] {
        client.remove_file(path).await.expect("removed");
    }
    write(&client, "/later", &pattern(300_000, 111)).await;
    client.remove_file("/later").await.expect("removed");
    no_garbage(&client).await;
    client.close().await;

    let cluster = cluster
        .restart_after(async |data, config| {
            let engine = format!("file:{}", data.join("restored").display());
            let target = OpenEngine::open(&engine).await.expect("an engine");
            let mut loader = target.loader("the backup").await.expect("an empty engine");
            loader.feed(&dump).await.expect("a whole dump");
            loader.finish().await.expect("loaded");
            target.close().await;
            config.engine = Some(engine.parse().expect("an engine"));
        })
        .await;

    let client = cluster.client().await;
    for (path, content) in &files {
        assert!(read(&client, path).await == *content, "{path} is not what was backed up");
    }
    assert!(client.metadata("/later").await.is_err());
    // The other side: without a hold all of it goes.
    let before = blocks(&client).await;
    for path in files.keys() {
        client.remove_file(path.as_str()).await.expect("removed");
    }
    for hold in client.admin().backups().await.expect("listed") {
        client.release(&hold).await.expect("released");
    }
    eventually("nothing is held", || async {
        let held = client.admin().scan_runs(RunKind::Held, &Cursor::default()).await.ok()?;
        held.runs.is_empty().then_some(())
    })
    .await;
    no_garbage(&client).await;
    // What came after the dump is found by the nodes themselves, later.
    eventually("their blocks are gone", || async { (blocks(&client).await < before).then_some(()) }).await;
    client.close().await;
    cluster.stop().await;
}
