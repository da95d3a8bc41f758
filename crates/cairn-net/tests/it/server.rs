//! What a server tells of itself: timings of requests, clients, counters.

use crate::hostile::Raw;
use crate::support::{
    call, error_of, get, get_ok, link, link_with, pattern, poll_once, put, server_identity, start, start_with, until,
};
use async_trait::async_trait;
use bytes::Bytes;
use cairn_net::testing::PipeNet;
use cairn_net::{
    Body, BodyPart, Handler, Identity, Link, LinkConfig, Net, RequestContext, ServerConfig, TcpNet, serve,
};
use cairn_proto::checksum::crc32c;
use cairn_proto::frame::{FixedHeader, FrameType, flags};
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response;
use cairn_proto::status::{Code, Status};
use cairn_proto::{BootId, NodeId, op, pb};
use prost::Message;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

#[tokio::test(start_paused = true)]
async fn what_a_request_cost_travels_with_its_answer() {
    let net = PipeNet::new();
    let budget = Arc::new(Semaphore::new(1_000_000));
    let server = start_with(&net, "127.0.0.1:0", |config| config.body_bytes = Arc::clone(&budget)).await;
    let link = link(net, &server.addr);
    assert_eq!(get_ok(&link, 1, 10).await.response.timing, None, "nothing was measured");
    let mut upload = put(pattern(1, 200_000));
    upload.request.kind = Some(Kind::Put(pb::PutBlock { pg_epoch: 1234, ..Default::default() }));
    let taken = Arc::clone(&budget).acquire_many_owned(900_000).await.unwrap();
    let mut leg = link.start(upload);
    poll_once(&mut leg).await;
    tokio::time::sleep(Duration::from_millis(30)).await; // tidy: sleep-ok(virtual time)
    drop(taken);
    let timing = leg.await.unwrap().response.timing.unwrap();
    assert_eq!((timing.disk_us, timing.checksum_us), (1234, 0));
    assert!((29_000..=31_000).contains(&timing.queue_us), "it waited for memory: {timing:?}");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_memory_beyond_the_deadline_is_no_overload() {
    let net = PipeNet::new();
    let budget = Arc::new(Semaphore::new(0));
    let server = start_with(&net, "127.0.0.1:0", |config| config.body_bytes = Arc::clone(&budget)).await;
    let link = link(net, &server.addr);
    let mut upload = put(pattern(1, 200_000));
    upload.deadline = cairn_net::now() + Duration::from_millis(500);
    let mut leg = link.start(upload);
    poll_once(&mut leg).await;
    let stats = &server.config.stats;
    until("it is dropped", || stats.expired.load(Ordering::Relaxed) == 1).await;
    assert_eq!((stats.refused.load(Ordering::Relaxed), stats.overloaded.load(Ordering::Relaxed)), (1, 0));
    assert_eq!(server.echo.seen.load(Ordering::SeqCst), 0);
    drop(leg);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_control_lane_never_waits_for_memory() {
    let net = PipeNet::new();
    let server = start_with(&net, "127.0.0.1:0", |config| {
        config.body_bytes = Arc::new(Semaphore::new(0));
        config.control_body_bytes = Arc::new(Semaphore::new(100));
    })
    .await;
    let link = link(net, &server.addr);
    assert_eq!(link.start(put(pattern(1, 100))).await.unwrap().body, pattern(1, 100));
    let error = error_of(link.start(put(pattern(1, 101))).await);
    let status = error.status().unwrap();
    assert_eq!(status.code, Code::Overloaded);
    assert!(status.retry_after_ms > 0);
    assert_eq!(server.config.stats.overloaded.load(Ordering::Relaxed), 1);
    link.ping(Duration::from_millis(10)).await.unwrap();
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn clients_are_counted_as_processes_and_bytes_as_they_pass() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let stats = &server.config.stats;
    let one = link(net.clone(), &server.addr);
    let same = link(net.clone(), &server.addr);
    let identity = Identity::client(BootId([9; 16])).shared();
    let other =
        Link::new(Arc::new(net.clone()), server.addr.clone(), NodeId(5), identity, Arc::new(LinkConfig::default()), 1);
    let node = Identity { role: pb::Role::Node, ..Identity::client(BootId([8; 16])) }.shared();
    let peer = Link::new(Arc::new(net), server.addr.clone(), NodeId(5), node, Arc::new(LinkConfig::default()), 1);
    for link in [&one, &same, &other, &peer] {
        get_ok(link, 1, 10).await;
        get_ok(link, 1, 100_000).await;
    }
    assert_eq!((stats.connections.load(Ordering::Relaxed), stats.clients()), (8, 2));
    drop((one, same));
    until("it is gone", || stats.clients() == 1).await;
    assert!(stats.bytes_sent() > 400_000 && stats.bytes_received() > 8 * 40);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_says_so_to_pings() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let stats = Arc::clone(&server.config.stats);
    let mut raw = Raw::greet(&net, &server.addr, false).await;
    let request = pb::Request { kind: Some(Kind::List(pb::ListBlocks::default())), ..Default::default() };
    let fixed = FixedHeader { flags: flags::END, ..FixedHeader::new(FrameType::Request, 1, op::LIST) };
    raw.send(fixed, &request.encode_to_vec(), b"").await;
    let mut draining = Vec::new();
    let mut stopping = Some(server);
    for id in [2, 3] {
        raw.send(FixedHeader::new(FrameType::Ping, id, 0), b"", b"").await;
        let (_, header, _) = raw.receive().await.unwrap();
        draining.push(pb::Pong::decode(header.as_slice()).unwrap().draining);
        assert_eq!(stats.going_away.load(Ordering::Relaxed), id == 3);
        if let Some(server) = stopping.take() {
            tokio::spawn(server.stop());
            assert_eq!(raw.receive().await.unwrap().0.frame_type, FrameType::GoAway);
        }
    }
    assert_eq!(draining, [false, true]);
}

#[tokio::test(start_paused = true)]
async fn who_pings_too_often_is_sent_away_and_loses_no_request() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let mut raw = Raw::greet(&net, &server.addr, false).await;
    let mut pongs = 0;
    let reason = loop {
        raw.send(FixedHeader::new(FrameType::Ping, pongs + 1, 0), b"", b"").await;
        let (fixed, header, _) = raw.receive().await.unwrap();
        if fixed.frame_type == FrameType::GoAway {
            break pb::GoAway::decode(header.as_slice()).unwrap().reason;
        }
        pongs += 1;
    };
    assert_eq!((pongs, reason.as_str()), (51, "too-many-probes"));
    assert_eq!(server.config.stats.pinged_out.load(Ordering::Relaxed), 1);
    assert!(raw.receive().await.is_none());

    let link = link(net, &server.addr);
    for _ in 0..200 {
        link.ping(Duration::from_secs(1)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await; // tidy: sleep-ok(virtual time)
    }
    assert_eq!(link.stats().dials, 1, "ten a second are fine");
    let mut held = link.start(crate::support::gated());
    poll_once(&mut held).await;
    for _ in 0..60 {
        link.ping(Duration::from_secs(1)).await.unwrap();
    }
    assert_eq!((link.stats().dials, link.stats().control.retired), (2, 1));
    server.echo.gate.add_permits(1);
    held.await.unwrap();
    server.stop().await;
}

/// Answers everything with a long file.
struct Files(Body);

#[async_trait]
impl Handler for Files {
    async fn handle(
        &self,
        _: &RequestContext,
        _: pb::Request,
        _: Vec<Bytes>,
    ) -> Result<(response::Kind, Body), Status> {
        Ok((response::Kind::Get(pb::GetBlockReply::default()), self.0.clone()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_stops_being_sent_when_nobody_wants_it() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&pattern(1, 1 << 20)).unwrap();
    let (file, crc) = (Arc::new(file), crc32c(&pattern(1, 1 << 20)));
    let part = || BodyPart::File { file: Arc::clone(&file), offset: 0, len: 1 << 20, crc };
    let body = Body::from_parts((0..90).map(|_| part()).collect());
    let listener = TcpNet.bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let config = ServerConfig::new(server_identity(5).shared());
    let stats = Arc::clone(&config.stats);
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(listener, Arc::new(Files(body)), config, stop.clone()));
    let link = link_with(TcpNet, &addr, |config| config.drain_timeout = Duration::from_secs(5));
    for round in 1..=10 {
        let mut leg = link.start(get(1, 90 << 20));
        poll_once(&mut leg).await;
        until("it comes", || leg.progress().bytes_received > 0).await;
        drop(leg);
        // It is counted before it is back among the idle ones.
        until("its connection is free", || {
            let bulk = link.stats().bulk;
            (bulk.drains_survived, bulk.idle) == (round, 1)
        })
        .await;
    }
    let stats_now = link.stats();
    assert_eq!((stats_now.dials, stats_now.bulk.idle), (1, 1));
    assert!(stats.bytes_sent() < 450 << 20, "{} of {} MiB were sent", stats.bytes_sent() >> 20, 900);
    stop.cancel();
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pings_are_counted() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net, &server.addr);
    link.ping(Duration::from_secs(1)).await.unwrap();
    let _ = error_of(link.start(call(Kind::Sync(pb::SyncBlocks::default()))).await);
    assert_eq!(link.start(get(3, 3)).await.unwrap().body, pattern(3, 3));
    assert_eq!(server.config.stats.pings.load(Ordering::Relaxed), 1);
    server.stop().await;
}
