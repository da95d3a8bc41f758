//! What one client has written, every other one reads; concurrent appends do not overwrite each other.

use super::cluster::{BLOCK_LEN, Cluster};
use cairn_client::{Consistency, OpenOptions};
use std::collections::HashSet;

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_with_a_warm_map_never_sees_the_past() {
    let cluster = Cluster::start().await;
    let (writer, reader) = (cluster.client().await, cluster.client().await);
    let written = writer.open("/f").await.unwrap();
    let read = reader.open("/f").await.unwrap();
    let cached = reader.open_with("/f", OpenOptions::new().consistency(Consistency::Cached)).await.unwrap();
    let len = BLOCK_LEN as usize;
    for round in 1..=100u8 {
        written.write_block(0, vec![round; len]).await.unwrap();
        written.write_block(1, vec![round; len]).await.unwrap();
        let got = read.read_at(0, 2 * len).await.unwrap();
        assert_eq!(got.len(), 2 * len);
        assert!(got.iter().all(|b| *b == round), "round {round}: read {}", got[0]);
        let old = cached.read_at(0, len).await.unwrap();
        assert!(old.iter().all(|b| *b == old[0]) && old[0] <= round, "a cached read is old but whole");
    }
    cluster.stop().await;
}

/// Every block a reader sees comes from one write, although two writers change it all the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_seen_whole() {
    let cluster = Cluster::start().await;
    let len = 2 * BLOCK_LEN as usize;
    let mut writers = Vec::new();
    for id in [1u8, 2] {
        let file = cluster.client().await.open("/f").await.unwrap();
        file.write_at(0, vec![id; len]).await.unwrap();
        writers.push(tokio::spawn(async move {
            for turn in 0..40u8 {
                file.write_at(0, vec![id + 2 * turn; len]).await.unwrap();
            }
        }));
    }
    let file = cluster.client().await.open("/f").await.unwrap();
    let mut seen = HashSet::new();
    while writers.iter().any(|writer| !writer.is_finished()) {
        let got = file.read_at(0, len).await.unwrap();
        assert!(got.len() == len && got.iter().all(|b| *b == got[0]), "torn: {} and {}", got[0], got[len - 1]);
        seen.insert(got[0]);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(seen.len() > 1, "the reader saw the file change");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_appends_all_land() {
    let cluster = Cluster::start().await;
    let mut tasks = Vec::new();
    for id in 0..4u32 {
        let file = cluster.client().await.open("/log").await.unwrap();
        tasks.push(tokio::spawn(async move {
            for number in 0..40u32 {
                // Some inline, some as tails, some longer than a tail.
                let len = if number % 8 == 7 { 70_000 } else { 300 };
                let mut record = format!("[{id}:{number}:{len}]").into_bytes();
                record.resize(len, b'.');
                let receipt = file.append(record.clone()).await.unwrap();
                let got = file.read_at(receipt.offset, len).await.unwrap();
                assert_eq!(&got[..12], &record[..12], "the receipt tells where it landed");
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let file = cluster.client().await.open("/log").await.unwrap();
    let len = file.len().await.unwrap();
    assert_eq!(len, 4 * (35 * 300 + 5 * 70_000));
    let all = file.read_at(0, len as usize).await.unwrap();
    let text = String::from_utf8(all.to_vec()).unwrap();
    let records: HashSet<&str> = text.split('[').skip(1).filter_map(|r| r.split(']').next()).collect();
    assert_eq!(records.len(), 160);
    cluster.stop().await;
}
