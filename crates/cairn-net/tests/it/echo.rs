//! Requests and their answers, over real sockets.

use crate::support::{call, error_of, get, get_ok, link, pattern, put, start};
use cairn_net::{Body, BodyPart, LegErrorClass, Sent, TcpNet};
use cairn_proto::checksum::crc32c;
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::status::Code;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_all_sizes_come_back() {
    let server = start(&TcpNet).await;
    let link = link(TcpNet, &server.addr);
    for len in [0, 1, 4096, 65_536, 65_537, 1 << 20, (1 << 20) + 1, (4 << 20) + 123] {
        let content = pattern(len as u32, len);
        let reply = link.start(put(content.clone())).await.unwrap();
        assert_eq!(reply.body, content, "{len} bytes");
        get_ok(&link, 9, len).await;
    }
    let stats = link.stats();
    assert_eq!((stats.control.open, stats.bulk.open), (1, 1), "one connection per lane is reused");
    assert_eq!(stats.replies, 16);
    assert_eq!(link.peer().unwrap().node_id.0, 5);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timing_tells_the_steps_in_order() {
    let server = start(&TcpNet).await;
    let link = link(TcpNet, &server.addr);
    let timing = get_ok(&link, 1, 100_000).await.timing;
    let steps = [timing.queued.unwrap(), timing.sent.unwrap(), timing.first_byte.unwrap(), timing.done.unwrap()];
    assert!(steps.is_sorted(), "{steps:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_travels() {
    let server = start(&TcpNet).await;
    let link = link(TcpNet, &server.addr);
    let error = error_of(link.start(call(Kind::Sync(pb::SyncBlocks::default()))).await);
    let status = error.status().unwrap();
    assert_eq!((status.code, status.message.as_str(), status.retry_after_ms), (Code::Io, "the disk said no", 17));
    assert_eq!(error.sent, Sent::Responded);
    let error = error_of(link.start(call(Kind::Delete(pb::DeleteBlocks::default()))).await);
    assert_eq!(error.status().unwrap().code, Code::Internal, "a panic is an answer");
    get_ok(&link, 1, 10).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_is_answered() {
    let server = start(&TcpNet).await;
    let link = link(TcpNet, &server.addr);
    let pong = link.ping(Duration::from_secs(5)).await.unwrap();
    assert_eq!(pong.queue_depth, 3);
    assert!(link.stats().srtt_us > 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_sent_as_a_body() {
    let server = start(&TcpNet).await;
    let link = link(TcpNet, &server.addr);
    let content = pattern(3, 3_000_000);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    let file = Arc::new(file);
    let part = |begin: usize, end: usize| BodyPart::File {
        file: Arc::clone(&file),
        offset: begin as u64,
        len: (end - begin) as u32,
        crc: crc32c(&content[begin..end]),
    };
    let mut put = put(content.slice(100..2_500_000));
    put.body = Body::from_parts(vec![
        part(100, 1_000_000),
        BodyPart::Bytes { data: content.slice(1_000_000..1_500_000), crc: crc32c(&content[1_000_000..1_500_000]) },
        part(1_500_000, 2_500_000),
    ]);
    let reply = link.start(put).await.unwrap();
    assert_eq!(reply.body, content.slice(100..2_500_000));

    // Several frames need an exclusive connection, however short they are.
    let mut short = crate::support::put(content.slice(0..30));
    short.body = Body::from_parts(vec![part(0, 10), part(10, 30)]);
    assert!(short.is_bulk());
    assert_eq!(link.start(short).await.unwrap().body, content.slice(0..30));

    // A file that is shorter than promised cannot be mended: the frame was begun.
    let mut beyond = crate::support::put(content.slice(0..30));
    let beyond_end = BodyPart::File { file: Arc::clone(&file), offset: 2_999_990, len: 30, crc: 0 };
    beyond.body = Body::from_parts(vec![beyond_end]);
    assert_eq!(error_of(link.start(beyond).await).class, LegErrorClass::Reset);
    get_ok(&link, 1, 10).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exceeds_a_bound_is_refused_here() {
    let server = start(&TcpNet).await;
    let link = link(TcpNet, &server.addr);
    let mut long = call(Kind::Put(pb::PutBlock::default()));
    long.request.trace_parent = "x".repeat(70_000);
    let error = error_of(link.start(long).await);
    assert_eq!((error.class, error.sent), (LegErrorClass::TooLarge, Sent::No));
    let error = error_of(link.start(put(pattern(1, 104_857_601))).await);
    assert_eq!((error.class, error.sent), (LegErrorClass::TooLarge, Sent::No));
    assert_eq!(link.stats().dials, 0, "nothing was asked of the peer");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_larger_than_asked_closes_its_connection() {
    let server = start(&TcpNet).await;
    let link = link(TcpNet, &server.addr);
    let mut greedy = get(1, 300_000);
    greedy.response_max = 299_999;
    let error = error_of(link.start(greedy).await);
    assert_eq!((error.class, error.sent), (LegErrorClass::TooLarge, Sent::Responded));
    let mut small = get(1, 300_000);
    small.response_max = 10;
    let error = error_of(link.start(small).await);
    assert_eq!(error.status().unwrap().code, Code::TooLarge, "the server does not send it on the control lane");
    get_ok(&link, 2, 300_000).await;
    server.stop().await;
}
