//! Appends, holes and lengths, as callers see them.

use super::cluster::{BLOCK_LEN, Cluster};
use cairn_client::ErrorKind;

#[tokio::test(flavor = "multi_thread")]
async fn many_small_appends_read_back_whole() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let other = cluster.client().await;
    let file = client.open("/log").await.unwrap();
    let beside = other.open("/log").await.unwrap();
    let mut lines = Vec::new();
    for index in 0..400u64 {
        let line = format!("{index:>299}\n");
        let writer = if index % 5 == 0 { &beside } else { &file };
        let receipt = writer.append(line.clone()).await.unwrap();
        assert_eq!(receipt.offset, index * 300);
        lines.push(line);
    }
    let big = vec![b'x'; 3 * BLOCK_LEN as usize];
    assert_eq!(file.append(big.clone()).await.unwrap().offset, 120_000);
    let whole = file.read_at(0, 1 << 20).await.unwrap();
    assert!(whole[..120_000] == *lines.concat().as_bytes() && whole[120_000..] == big);
    client.close().await;
    other.close().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_are_made_and_found() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = client.open("/f").await.unwrap();
    let block = u64::from(BLOCK_LEN);
    assert_eq!((file.seek_data(0).await.unwrap(), file.seek_hole(0).await.unwrap()), (None, None));
    file.write_at(0, vec![1; 4 * block as usize]).await.unwrap();
    file.punch_hole(block..2 * block).await.unwrap();
    file.allocate(0..6 * block, false).await.unwrap();
    let seeks = async |offset| (file.seek_data(offset).await.unwrap(), file.seek_hole(offset).await.unwrap());
    assert_eq!(seeks(0).await, (Some(0), Some(block)));
    assert_eq!(seeks(block).await, (Some(2 * block), Some(block)));
    assert_eq!(seeks(3 * block).await, (Some(3 * block), Some(4 * block)));
    assert_eq!(seeks(5 * block).await, (None, Some(5 * block)));
    assert_eq!(seeks(6 * block).await, (None, None));
    let bytes = file.read_at(0, 8 * block as usize).await.unwrap();
    assert_eq!(bytes.len() as u64, 6 * block);
    for (index, part) in bytes.chunks(block as usize).enumerate() {
        assert!(part.iter().all(|byte| *byte == u8::from([0, 2, 3].contains(&index))), "block {index}");
    }
    file.zero_range(3 * block..7 * block, true).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 6 * block);
    file.zero_range(3 * block..7 * block, false).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 7 * block);
    file.allocate(0..100 * block, true).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 7 * block);
    assert_eq!(seeks(2 * block).await, (Some(2 * block), Some(3 * block)));
    #[allow(clippy::reversed_empty_ranges, reason = "this is what is refused")]
    let error = file.punch_hole(5..4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    client.close().await;
    cluster.stop().await;
}
