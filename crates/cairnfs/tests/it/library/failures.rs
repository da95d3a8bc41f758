//! A minority of nodes may go; a majority that is gone is named.

use super::cluster::{BLOCK_LEN, Cluster, eventually};
use cairn_client::{Cause, DfsClient, ErrorKind, RetryPolicy};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn one_node_less_goes_unnoticed_and_is_made_up_for() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    let content: Vec<u8> = (0..40 * BLOCK_LEN as usize).map(|i| (i / 1000) as u8).collect();
    let file = client.open("/f").await.unwrap();
    let mut writer = file.writer();
    let (before, after) = content.split_at(content.len() / 2 + 11);
    writer.write_all(before).await.unwrap();
    cluster.stop_node(1).await;
    writer.write_all(after).await.unwrap();
    writer.shutdown().await.unwrap();
    let receipt = client.open("/g").await.unwrap().write_block(0, vec![7; 9000]).await.unwrap();
    assert_eq!((receipt.acked.len(), receipt.late.len()), (2, 1), "{receipt:?}");
    let mut got = Vec::new();
    file.reader().read_to_end(&mut got).await.unwrap();
    assert!(got == content);
    assert!(client.cluster_status().await.unwrap().degraded_runs > 0);
    assert_eq!(client.get_connection_stats().await.failed_requests, 0);

    cluster.start_node(1).await;
    eventually("degraded runs fall to zero", || async {
        (client.cluster_status().await.unwrap().degraded_runs == 0).then_some(())
    })
    .await;
    // The node that was away now holds everything: it alone can serve it.
    cluster.stop_node(0).await;
    cluster.stop_node(2).await;
    let fresh = cluster.client().await;
    let mut got = Vec::new();
    fresh.open("/f").await.unwrap().reader().read_to_end(&mut got).await.unwrap();
    assert!(got == content);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_a_write_fails_and_names_every_node() {
    let mut cluster = Cluster::start().await;
    let pauses = vec![Duration::from_millis(20); 3];
    let builder = DfsClient::builder().meta(cluster.addr()).retry(RetryPolicy { pauses, jitter: 0.0 });
    let client = builder.write_timeout(Duration::from_secs(2)).connect().await.unwrap();
    let file = client.open("/f").await.unwrap();
    file.write_block(0, vec![1; 10_000]).await.unwrap();
    // All three must hold it before two of them go.
    eventually("no degraded runs", || async {
        (client.cluster_status().await.unwrap().degraded_runs == 0).then_some(())
    })
    .await;
    cluster.stop_node(0).await;
    cluster.stop_node(1).await;
    let error = file.write_block(0, vec![2; 10_000]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let Cause::Quorum(quorum) = error.cause() else { panic!("{error}") };
    assert_eq!(quorum.needed, 2);
    assert_eq!(quorum.failed.len() + quorum.acked.len() + quorum.pending.len(), 3, "{quorum}");
    assert!(quorum.failed.iter().all(|failure| failure.addr.starts_with("127.0.0.1:")));
    assert!(error.to_string().contains("/f"), "{error}");
    assert!(file.read_block(0).await.unwrap().iter().all(|b| *b == 1), "nothing of the failed write is visible");
    cluster.start_node(0).await;
    eventually("writes work again", || async { file.write_block(0, vec![3; 10_000]).await.ok() }).await;
    assert!(file.read_block(0).await.unwrap().iter().all(|b| *b == 3));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_metadata_is_a_typed_error() {
    let pauses = vec![Duration::from_millis(5); 3];
    // Nothing listens on port 1.
    let builder = DfsClient::builder().meta("127.0.0.1:1").retry(RetryPolicy { pauses, jitter: 0.0 });
    let error = builder.connect().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let Cause::Metadata(failures) = error.cause() else { panic!("{error}") };
    assert_eq!((failures.len(), failures[0].attempts), (1, 4));
    assert_eq!(DfsClient::new("nonsense").await.err().unwrap().kind(), ErrorKind::InvalidInput);
}

/// A flush that failed must not be followed by one that seems to succeed.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_stream_stays_failed() {
    let mut cluster = Cluster::start().await;
    let pauses = vec![Duration::from_millis(20); 3];
    let retry = RetryPolicy { pauses, jitter: 0.0 };
    let builder = DfsClient::builder().meta(cluster.addr()).retry(retry).write_timeout(Duration::from_secs(2));
    let client = builder.connect().await.unwrap();
    let mut writer = client.open("/f").await.unwrap().writer();
    writer.write_all(&vec![1; 3 * BLOCK_LEN as usize]).await.unwrap();
    writer.flush().await.unwrap();
    writer.flush().await.unwrap();
    cluster.stop_node(0).await;
    cluster.stop_node(1).await;
    writer.write_all(&[2; 100]).await.unwrap();
    assert!(writer.flush().await.is_err());
    assert!(writer.flush().await.is_err());
    assert!(writer.shutdown().await.is_err());
    assert_eq!(client.metadata("/f").await.unwrap().size, 3 * u64::from(BLOCK_LEN));
    cluster.stop().await;
}

/// A flush whose caller stopped waiting does not stand for what is written afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_flush_counts_only_for_what_it_covered() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let mut writer = client.open("/f").await.unwrap().writer();
    writer.write_all(&vec![1; 2 * BLOCK_LEN as usize + 5]).await.unwrap();
    // Polled once and dropped.
    let begun = futures_util::FutureExt::now_or_never(writer.flush());
    assert!(begun.is_none(), "a flush takes round trips");
    writer.write_all(&[2; 7]).await.unwrap();
    writer.flush().await.unwrap();
    assert_eq!(client.metadata("/f").await.unwrap().size, 2 * u64::from(BLOCK_LEN) + 12);
    cluster.stop().await;
}
