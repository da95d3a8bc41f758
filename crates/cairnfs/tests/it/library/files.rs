//! The seed's API word for word, and the comfortable one around it.

use super::cluster::{BLOCK_LEN, Cluster};
use bytes::Bytes;
use cairn_client::{Cause, CreateOptions, DfsClient, ErrorKind, OpenOptions};
use std::io::SeekFrom;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

fn pattern(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|i| (i / 7) as u8 ^ (i as u8).wrapping_mul(31) ^ salt).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seed_api_works_as_written() {
    let cluster = Cluster::start().await;
    let client = DfsClient::new(cluster.addr().as_str()).await.unwrap();
    let file = client.open("/file.txt").await.unwrap();
    let data = pattern(5000, 1);
    let receipt = file.write_block(0, data.clone()).await.unwrap();
    assert!(!receipt.inline && receipt.pg.is_some());
    assert!(receipt.acked.len() >= 2, "{receipt:?}");
    assert_eq!(file.read_block(0).await.unwrap(), data);

    let receipt = file.write_block(2, b"an array").await.unwrap();
    assert_eq!(receipt.size, u64::from(BLOCK_LEN) * 2 + 8);
    assert_eq!(&file.read_block(2).await.unwrap()[..], b"an array");
    let first = file.read_block(0).await.unwrap();
    assert_eq!(first.len(), BLOCK_LEN as usize, "a block before the end reads whole");
    assert!(first[..5000] == data && first[5000..].iter().all(|b| *b == 0));
    assert!(file.read_block(1).await.unwrap().iter().all(|b| *b == 0), "a hole reads as zeros");
    assert!(file.read_block(3).await.unwrap().is_empty());

    let error = file.write_block(0, vec![0; BLOCK_LEN as usize + 1]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(matches!(error.cause(), Cause::TooLarge { len: 65537, max: 65536 }));

    let stats = client.get_connection_stats().await;
    let rate = (stats.total_requests - stats.failed_requests) as f64 / stats.total_requests as f64 * 100.0;
    assert!(rate > 50.0 && rate < 100.0, "one of {} requests failed", stats.total_requests);
    assert_eq!(stats.failed_requests, 1);
    assert!(stats.bytes_sent > 15_000 && stats.bytes_received > 5_000, "{stats:?}");
    assert!(stats.last_error.unwrap().message.contains("/file.txt"));
    client.close().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_lives_inline_until_it_grows() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = client.open("/small").await.unwrap();
    let receipt = file.write_block(0, b"hello").await.unwrap();
    assert!(receipt.inline && receipt.pg.is_none() && receipt.size == 5);
    file.write_at(10, "world").await.unwrap();
    assert_eq!(&file.read_at(0, 100).await.unwrap()[..], b"hello\0\0\0\0\0world");
    let big = pattern(200_000, 3);
    file.write_at(12, big.clone()).await.unwrap();
    let all = file.read_at(0, 1 << 20).await.unwrap();
    assert_eq!(&all[..12], b"hello\0\0\0\0\0wo");
    assert_eq!(&all[12..], &big[..]);
    file.truncate(11).await.unwrap();
    file.truncate(20).await.unwrap();
    assert_eq!(&file.read_at(0, 100).await.unwrap()[..], b"hello\0\0\0\0\0w\0\0\0\0\0\0\0\0\0");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_carry_many_blocks() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let content = pattern(9 * BLOCK_LEN as usize + 777, 5);
    for relaxed in [false, true] {
        let path = format!("/stream-{relaxed}");
        let file = client.open_with(&path, OpenOptions::new().relaxed(relaxed)).await.unwrap();
        let mut writer = file.writer();
        for chunk in content.chunks(10_007) {
            writer.write_all(chunk).await.unwrap();
        }
        writer.flush().await.unwrap();
        assert_eq!(file.len().await.unwrap(), content.len() as u64);
        writer.seek(SeekFrom::Start(3)).await.unwrap();
        writer.write_all(b"XYZ").await.unwrap();
        writer.seek(SeekFrom::End(-2)).await.unwrap();
        writer.write_all(b"end").await.unwrap();
        writer.shutdown().await.unwrap();
        file.sync().await.unwrap();

        let mut expected = content.clone();
        expected[3..6].copy_from_slice(b"XYZ");
        expected.truncate(content.len() - 2);
        expected.extend_from_slice(b"end");
        let mut reader = file.reader();
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        assert!(got == expected, "{} bytes read of {}", got.len(), expected.len());
        reader.seek(SeekFrom::Start(BLOCK_LEN as u64 - 5)).await.unwrap();
        let mut some = [0; 10];
        reader.read_exact(&mut some).await.unwrap();
        assert_eq!(some[..], expected[BLOCK_LEN as usize - 5..][..10]);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_atomic_file_appears_whole_or_not_at_all() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let missing = |error: cairn_client::Error| assert_eq!(error.kind(), ErrorKind::NotFound);
    for (name, len) in [("inline", 100), ("one", 50_000), ("many", 20 * BLOCK_LEN as usize + 5)] {
        let path = format!("/{name}");
        let content = pattern(len, 9);
        let mut file = client.create_atomic(&path, CreateOptions::new().mode(0o640).mtime_ns(77)).await.unwrap();
        file.write_all(&content).await.unwrap();
        missing(client.metadata(&path).await.unwrap_err());
        let metadata = file.finish().await.unwrap();
        assert_eq!((metadata.size, metadata.mode, metadata.mtime_ns), (len as u64, 0o640, 77));
        let file = client.open(&path).await.unwrap();
        assert!(file.read_at(0, len + 1).await.unwrap() == content);

        let mut dropped = client.create_atomic(format!("/{name}-dropped"), CreateOptions::new()).await.unwrap();
        dropped.write_all(&content).await.unwrap();
        drop(dropped);
        missing(client.metadata(format!("/{name}-dropped")).await.unwrap_err());
    }
    let error = client.write_atomic("/one", "x", CreateOptions::new().replace(false)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    client.write_atomic("/one", "new", CreateOptions::new()).await.unwrap();
    assert_eq!(&client.open("/one").await.unwrap().read_block(0).await.unwrap()[..], b"new");
    client.create_dir("/dir").await.unwrap();
    let error = client.write_atomic("/dir", "x", CreateOptions::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IsADirectory);
    cluster.stop().await;
}

/// Longer than one commit's window: the inode is made, nameless, before the end is known.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_atomic_file_has_no_name_until_it_is_finished() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let content = Bytes::from(pattern(70 * BLOCK_LEN as usize + 1, 2));
    let mut file = client.create_atomic("/long", CreateOptions::new().relaxed(true)).await.unwrap();
    file.write_all(&content).await.unwrap();
    assert_eq!(client.metadata("/long").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(file.finish().await.unwrap().size, content.len() as u64);
    let mut got = Vec::new();
    client.open("/long").await.unwrap().reader().read_to_end(&mut got).await.unwrap();
    assert!(got == content);
    cluster.stop().await;
}
